package cluster

import (
	"strconv"
	"strings"
)

// sinceTable says of every slot in which config epoch its owner has got it, as
// far as it told us itself; 0: unknown. It has memory only where it knows
// something.
type sinceTable struct {
	pages *[sincePages]*sincePage // nil: nothing is known
}

const (
	sincePages   = 256
	sincePerPage = Slots / sincePages
)

type sincePage [sincePerPage]uint64

func (t *sinceTable) get(s int) uint64 {
	if t.pages == nil || t.pages[s/sincePerPage] == nil {
		return 0
	}
	return t.pages[s/sincePerPage][s%sincePerPage]
}

func (t *sinceTable) set(s int, epoch uint64) {
	if t.get(s) == epoch {
		return
	}
	if t.pages == nil {
		t.pages = new([sincePages]*sincePage)
	}
	i := s / sincePerPage
	if t.pages[i] == nil {
		t.pages[i] = new(sincePage)
	}
	t.pages[i][s%sincePerPage] = epoch
}

// sinceVar is its name in nodes.conf.
const sinceVar = "slots-since"

// appendSince writes the line of nodes.conf, if anything is known.
func (c *Core) appendSince(b []byte) []byte {
	if c.since.pages == nil {
		return b
	}
	at := func(s int) uint64 {
		if s >= Slots || c.slots.get(s) == 0 {
			return 0
		}
		return c.since.get(s)
	}
	sep := "vars " + sinceVar + " "
	for s := 0; s < Slots; s++ {
		epoch, first := at(s), s
		if epoch == 0 {
			continue
		}
		for at(s+1) == epoch {
			s++
		}
		b = strconv.AppendInt(append(b, sep...), int64(first), 10)
		if s > first {
			b = strconv.AppendInt(append(b, '-'), int64(s), 10)
		}
		b = strconv.AppendUint(append(b, ':'), epoch, 10)
		sep = ","
	}
	if sep != "," {
		return b
	}
	return append(b, '\n')
}

// parseSince reads it. What cannot be read is unknown.
func (cf *conf) parseSince(text string) {
	for part := range strings.SplitSeq(text, ",") {
		slots, epoch, _ := strings.Cut(part, ":")
		from, to, isRange := strings.Cut(slots, "-")
		if !isRange {
			to = from
		}
		r := confSince{from: atoi(from), to: atoi(to)}
		var err error
		r.epoch, err = strconv.ParseUint(epoch, 10, 64)
		if err == nil && from != "" && to != "" && r.from >= 0 && r.from <= r.to && r.to < Slots && len(cf.since) < Slots {
			cf.since = append(cf.since, r)
		}
	}
}

// vacant reports whether slot s, whose owner may have the greater config epoch,
// goes to whoever claims it in that epoch: its owner does not claim it any more.
// Who had it before that owner, and comes back at this very time, is not meant.
func (c *Core) vacant(s int, epoch uint64) bool {
	return bitSet(c.unclaimed[:], s) && (epoch >= c.since.get(s) || c.faults.BelieveReplaced)
}

// remind tells a master, which claims slots that we have given away and nobody
// has claimed, that we had them after it: it was replaced, and does not know it
// from what we claim. It is told in the epoch in which we got them, which is as
// true as it was then, and beats nobody who has claimed them since.
func (c *Core) remind(n *node, epoch uint64, claim []byte) {
	if c.given == nil || n.link == nil || !n.link.up || !c.myself.isMaster() || c.faults.BelieveReplaced {
		return
	}
	var had bitmap
	first := uint64(0)
	eachSlot(claim, func(s int) {
		if at := c.since.get(s); c.owner(s) == c.myself && bitSet(c.given[:], s) && at > epoch {
			had[s>>3] |= 1 << (s & 7)
			if first == 0 || at < first {
				first = at
			}
		}
	})
	if first == 0 {
		return
	}
	p := c.pingPacket(MsgPong)
	p.put64(offCfgEpoch, first)
	for i, v := range had {
		p[offSlots+i] |= v
	}
	c.send(n.link, p)
}
