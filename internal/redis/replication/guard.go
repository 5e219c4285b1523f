package replication

import (
	"strconv"
	"strings"
)

// Offer is what a replica knows when its master wants to replace the replica's
// data by its own.
type Offer struct {
	Own    History
	OwnEnd uint64
	// HasData: the replica holds something that could be lost.
	HasData bool
	ID      string // of the master's history
	Offset  uint64 // where the master's history is
	Master  Facts  // what the master has said about itself
	// Forced: somebody told the replica to follow this master, it does not
	// come back by itself.
	Forced bool
}

// Refused is the lineage guard: a replica that reconnects by itself does not
// give its data up for a history that it has never heard of, that does not
// continue its own, and that is behind it. This is what a master looks like
// that lost its disk and came back empty.
func (o *Offer) Refused() bool {
	related := o.Own.Knows(o.ID) || o.Master.Known && o.Own.Knows(o.Master.ID2)
	return !o.Forced && o.HasData && !related && o.Offset < o.OwnEnd
}

// Branch is the position up to which the replica's stream and the master's are
// the same. known is false when they have nothing in common, or the master has
// not said enough. sharedUpTo is the highest position that a replica of ours
// has acknowledged, 0 if none has: whoever was promoted from among them had at
// most that.
func (o *Offer) Branch(sharedUpTo uint64) (pos uint64, known bool) {
	m := &o.Master
	switch {
	case m.Known && m.ID2 != "" && strings.EqualFold(m.ID2, o.Own.ID):
		// It was promoted from among our replicas, or our master's.
		return min(m.Second, o.OwnEnd), true
	case strings.EqualFold(o.ID, o.Own.ID):
		return min(o.Offset, o.OwnEnd), true
	case o.Own.ID2 != "" && (strings.EqualFold(o.ID, o.Own.ID2) || m.Known && strings.EqualFold(m.ID2, o.Own.ID2)):
		// We left the common history first.
		pos = min(o.Own.Second, o.OwnEnd)
		if m.Known && strings.EqualFold(m.ID2, o.Own.ID2) {
			pos = min(pos, m.Second)
		}
		return pos, true
	case sharedUpTo > 0:
		return min(sharedUpTo, o.OwnEnd), true
	}
	return 0, false
}

// Facts are what INFO replication of a master says about its history.
type Facts struct {
	Known  bool
	ID     string
	ID2    string // "" if there is none
	Second uint64 // ID2 names the stream up to this position
	End    uint64
}

// ParseFacts reads the section "Replication" of INFO.
func ParseFacts(info string) (f Facts) {
	seen := 0
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
		switch name {
		case "master_replid":
			f.ID = value
			seen++
		case "master_replid2":
			if value != NoID {
				f.ID2 = value
			}
			seen++
		case "master_repl_offset":
			if n, err := strconv.ParseUint(value, 10, 63); err == nil {
				f.End = n
				seen++
			}
		case "second_repl_offset":
			if n, err := strconv.ParseInt(value, 10, 64); err == nil && n > 0 {
				f.Second = uint64(n - 1)
			}
		}
	}
	f.Known = seen == 3 && ValidID(f.ID) && (f.ID2 == "" || ValidID(f.ID2))
	if !f.Known {
		return Facts{}
	}
	return f
}
