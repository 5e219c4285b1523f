package sim

import (
	"fmt"
	"time"

	"holdfast/internal/redis/slotmove"
)

// mChecker has the clients, and watches for what no single node may break:
//
//	one owner    two nodes never serve a slot at once, but for one that was
//	             replaced by a failover and does not know yet
//	no loss      no acknowledged write is lost, but those that a failover of
//	             their master, or a power cut, may lose by the rules of Redis
//	no copies    no write is there twice
//	promises     a mark is durable, here and at the replicas, before anybody
//	             hears of it; only masters write marks
//	an end       once faults stop, every job ends by itself, nothing is held or
//	             hidden any more, no key is where it does not belong, and every
//	             slot has an owner that serves
type mChecker struct {
	w       *mWorld
	writes  []mWrite // by id
	bySlot  [][]uint32
	seen    []uint32 // by id: stamp of the last look
	stamp   uint32
	believe [][]int // by client and slot: who owns it
}

type mWrite struct {
	slot   int
	node   *mNode // who acknowledged it
	lostAt string // why it may be lost; "": it may not
}

type mRequest struct {
	slot  int
	write bool
	flush bool
	reply func(owner int, ok bool)
}

func (c *mChecker) init(w *mWorld) {
	*c = mChecker{w: w, believe: make([][]int, 3), bySlot: make([][]uint32, len(w.slots))}
	for k := range c.believe {
		for s := range w.slots {
			c.believe[k] = append(c.believe[k], s/mSlotsPerShard)
		}
	}
}

// client sends one request after the other.
func (c *mChecker) client(i int) {
	w := c.w
	s := w.rng.IntN(len(w.slots))
	again := func() { w.after(w.ms(2, 50), func() { c.client(i) }) }
	c.request(s, !w.chance(4), c.believe[i][s], func(owner int, ok bool) {
		if !ok {
			if owner == none {
				owner = w.rng.IntN(len(w.nodes))
			}
			c.believe[i][s] = owner
		}
		again()
	})
}

// request brings a request to a node. No answer in time counts as a failure.
func (c *mChecker) request(s int, write bool, to int, reply func(owner int, ok bool)) {
	w := c.w
	over := false
	end := func(owner int, ok bool) {
		if !over {
			over = true
			reply(owner, ok)
		}
	}
	w.after(time.Second, func() { end(none, false) })
	n := w.nodes[to]
	q := &mRequest{slot: s, write: write, reply: func(owner int, ok bool) {
		w.after(w.delay(), func() { end(owner, ok) })
	}}
	w.after(w.delay(), func() {
		if !n.alive {
			end(none, false)
			return
		}
		w.meet(n, n.life, func() { n.request(q) })
	})
}

// request executes a request of a client, or lets it wait, or sends it away.
func (n *mNode) request(q *mRequest) {
	w := n.w
	if q.flush {
		n.requestFlush(q)
		return
	}
	owner := n.view.owner[q.slot]
	switch {
	case !n.isMaster():
		q.reply(n.view.master[n.idx], false)
	case !n.ok():
		q.reply(none, false)
	case owner != n.idx:
		q.reply(owner, false)
	case n.refusing[q.slot]:
		q.reply(none, false)
	case n.failPause && q.write, n.held[q.slot] == 2, n.held[q.slot] == 1 && q.write:
		n.waiting = append(n.waiting, q)
	default:
		w.check.serve(n, q.slot)
		if q.write {
			id := w.check.newWrite(n, q.slot)
			n.append(mOp{kind: opPush, slot: q.slot, id: id})
			n.flush()
			n.settle()
		}
		q.reply(n.idx, true)
	}
}

func (n *mNode) requestFlush(q *mRequest) {
	wait := n.failPause
	for _, h := range n.held {
		wait = wait || h > 0
	}
	switch {
	case !n.isMaster() || !n.ok():
	case wait:
		n.waiting = append(n.waiting, q)
	default:
		n.w.tracef("n%d: FLUSHALL", n.idx)
		n.w.check.flushed(n)
		n.append(mOp{kind: opFlush})
		n.flush()
		n.settle()
	}
}

func (n *mNode) retryWaiting() {
	waiting := n.waiting
	n.waiting = nil
	for _, q := range waiting {
		n.request(q)
	}
}

func (c *mChecker) flushAll(n *mNode) {
	c.w.at(n, 0, func() { n.request(&mRequest{flush: true}) })
}

func (c *mChecker) newWrite(n *mNode, s int) uint32 {
	id := uint32(len(c.writes))
	wr := mWrite{slot: s, node: n}
	if n.deposed {
		wr.lostAt = "a replaced master took it"
	}
	c.writes = append(c.writes, wr)
	c.seen = append(c.seen, 0)
	c.bySlot[s] = append(c.bySlot[s], id)
	c.w.res.Writes++
	return id
}

func (c *mChecker) lose(id uint32, why string) {
	if c.writes[id].lostAt == "" {
		c.writes[id].lostAt = why
	}
}

func (c *mChecker) flushed(n *mNode) {
	if n.deposed {
		return
	}
	for s, list := range n.data {
		if n.view.owner[s] == n.idx {
			for _, id := range list {
				c.lose(id, "FLUSHALL")
			}
		}
	}
}

// promoted: what r lacks of what old has acknowledged is lost, by the rules of
// asynchronous replication.
func (c *mChecker) promoted(r, old *mNode) {
	for s, ids := range c.bySlot {
		c.look(r.data[s])
		for _, id := range ids {
			if c.writes[id].node == old && c.seen[id] != c.stamp {
				c.lose(id, "failover")
			}
		}
	}
	old.deposed = true
}

// look stamps the writes of a list; it returns one that is there twice.
func (c *mChecker) look(list []uint32) (twice uint32, ok bool) {
	c.stamp++
	ok = true
	for _, id := range list {
		if c.seen[id] == c.stamp {
			twice, ok = id, false
		}
		c.seen[id] = c.stamp
	}
	return twice, ok
}

// serves: a client's write would be executed.
func (n *mNode) serves(s int) bool {
	return n.alive && !n.paused && n.isMaster() && n.view.owner[s] == n.idx && n.held[s] == 0 && !n.refusing[s] && !n.failPause && n.ok()
}

// serve is the moment at which n executes a request for a slot.
func (c *mChecker) serve(n *mNode, s int) {
	if n.deposed {
		return
	}
	c.whole(n, s)
	for _, o := range c.w.nodes {
		if o != n && !o.deposed && o.serves(s) {
			c.w.violate("one owner: n%d and n%d both serve slot %d", n.idx, o.idx, s)
		}
	}
}

// whole: n has all of a slot.
func (c *mChecker) whole(n *mNode, s int) {
	if id, ok := c.look(n.data[s]); !ok {
		c.w.violate("no copies: n%d has write %d of slot %d twice", n.idx, id, s)
	}
	for _, id := range c.bySlot[s] {
		if c.seen[id] != c.stamp && c.writes[id].lostAt == "" {
			c.w.violate("no loss: n%d serves slot %d without write %d, which n%d has acknowledged", n.idx, s, id, c.writes[id].node.idx)
			return
		}
	}
}

// periodic looks at what no request has happened to meet.
func (c *mChecker) periodic() {
	w := c.w
	w.after(20*time.Millisecond, c.periodic)
	for s := range w.slots {
		for _, n := range w.nodes {
			if n.serves(s) {
				c.serve(n, s)
			}
		}
	}
}

// effect looks at what a core decided, before it is done.
func (c *mChecker) effect(n *mNode, e slotmove.Effect) {
	w := c.w
	switch e := e.(type) {
	case slotmove.Write:
		if !n.isMaster() {
			w.violate("promises: n%d is a replica and writes %v", n.idx, e.Args())
		}
		if e.Kind == slotmove.MarkReady {
			w.res.InDoubt++
		}
	case slotmove.SendPrepared:
		c.durable(n, e.Job, slotmove.MarkReady)
	case slotmove.SendCommit:
		c.durable(n, e.Job, slotmove.MarkGiven)
	case slotmove.Tell:
		c.durable(n, e.Job, slotmove.MarkGiven)
	}
}

// durable: the last mark of a job is of that kind, and on the disk.
func (c *mChecker) durable(n *mNode, job string, kind slotmove.MarkKind) {
	for i := len(n.ops) - 1; i >= 0; i-- {
		op := n.ops[i]
		if op.kind != opMark || op.mark.Job != job {
			continue
		}
		if op.mark.Kind != kind {
			c.w.violate("promises: n%d speaks of %s of %s, its last mark is %v", n.idx, kind, short(job), op.mark.Kind)
		}
		if at := n.base + i; at >= n.synced {
			c.w.violate("promises: n%d speaks of %s of %s, which is not synced", n.idx, kind, short(job))
		}
		for _, r := range c.w.nodes {
			if r.fit && r.view.master[r.idx] == n.idx && r.hist == n.hist && r.end() <= n.base+i {
				c.w.violate("promises: n%d speaks of %s of %s, which n%d, that may be promoted, does not have", n.idx, kind, short(job), r.idx)
			}
		}
		return
	}
	if r := n.core.Table().Get(job); r == nil || r.Kind != kind {
		c.w.violate("promises: n%d speaks of %s of %s, which is not marked", n.idx, kind, short(job))
	}
}

// unsettled says what is left of any job; "" when all is as it should be.
func (c *mChecker) unsettled() string {
	w := c.w
	for _, n := range w.nodes {
		why := ""
		switch {
		case !n.alive:
			why = "is down"
		case !n.core.Idle():
			why = fmt.Sprintf("has jobs: %s", jobsText(n.core))
		case n.core.Table().Len() > 0:
			why = "has marks: " + oneLine(n.core.Table().String())
		case len(n.gives)+len(n.takes) > 0:
			why = fmt.Sprintf("has %d feeds that it gives and %d that it takes", len(n.gives), len(n.takes))
		case n.failPause || len(n.drops) > 0 || n.snapping || len(n.queue) > 0:
			why = "is busy"
		case !n.ok():
			why = "is not ok"
		case !n.isMaster() && !n.online():
			why = "is not connected to its master"
		}
		if why != "" {
			return fmt.Sprintf("n%d %s", n.idx, why)
		}
		for s := range w.slots {
			o := n.view.owner[s]
			switch {
			case o == none || o != w.nodes[0].view.owner[s]:
				return fmt.Sprintf("n%d sees slot %d at n%d, n0 sees it at n%d", n.idx, s, o, w.nodes[0].view.owner[s])
			case !w.nodes[o].isMaster():
				return fmt.Sprintf("slot %d is of n%d, which is a replica", s, o)
			case n.held[s] > 0 || n.staged[s] || n.refusing[s] || n.dropping[s]:
				return fmt.Sprintf("n%d: slot %d held %d, staged %v, refused %v, dropping %v", n.idx, s, n.held[s], n.staged[s], n.refusing[s], n.dropping[s])
			}
			m := o
			if !n.isMaster() {
				m = n.view.master[n.idx]
			}
			if len(n.data[s]) > 0 && (n.isMaster() && o != n.idx || !n.isMaster() && o != m) {
				return fmt.Sprintf("n%d has %d keys of slot %d, which is of n%d", n.idx, len(n.data[s]), s, o)
			}
		}
	}
	return ""
}

func jobsText(c *slotmove.Core) (text string) {
	for _, j := range c.Jobs() {
		if j.Ended.IsZero() {
			text += fmt.Sprintf("%s(%s) ", short(j.ID), j.Phase)
		}
	}
	return text
}

// final has clients write everywhere, and looks at everything.
func (c *mChecker) final() {
	w := c.w
	done, missing := make([]bool, len(w.slots)), len(w.slots)
	for try := 0; try < 3 && missing > 0; try++ { // a packet of the bus may be late once more
		for s := range w.slots {
			if done[s] {
				continue
			}
			c.request(s, true, w.nodes[0].view.owner[s], func(_ int, ok bool) {
				if ok && !done[s] {
					done[s] = true
					missing--
				}
			})
		}
		w.runFor(1500 * time.Millisecond)
	}
	if missing > 0 {
		w.violate("an end: %d slots cannot be written to", missing)
	}
	for s := range w.slots {
		c.whole(w.nodes[w.nodes[0].view.owner[s]], s)
	}
	for _, wr := range c.writes {
		if wr.lostAt != "" {
			w.res.Lost++
		}
	}
	for _, n := range w.nodes {
		for _, j := range n.core.Jobs() {
			if j.Import && j.Phase == slotmove.Done && j.Error == "" {
				w.res.Done++
			}
		}
	}
}
