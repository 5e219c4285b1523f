package command

import (
	"holdfast/internal/redis/cluster/slot"
	"holdfast/internal/redis/keyspace"
)

// Slots that change their owner as a whole. The old owner holds requests back
// while it hands a slot over, so that no write is lost between the last one that
// it told the new owner and the moment that one serves the slot. At the new
// owner the keys arrive before the slot is its own, and nobody sees them until
// then. See slotdrop.go for what the old owner does afterwards.

// slotHold says whose requests wait. There is none while nobody's do, so that a
// request costs one comparison.
type slotHold struct {
	writes  slot.Set // requests that write wait
	reads   slot.Set // those that read, too; part of writes
	refused slot.Set // nobody waits, all are refused
	waiting []*Block // in order; some may have gone
	pruneAt int      // length at which those who have gone are taken out
}

// HoldSlots makes clients wait whose request, or EXEC, writes to a key of these
// slots, or with reads has one at all; FLUSHALL, FLUSHDB and SWAPDB as well. What
// is held neither expires here nor is evicted, though an expired key is gone for
// readers. It adds to what is held already. The lock is held.
func (e *Engine) HoldSlots(s *slot.Set, reads bool) {
	if s.Empty() {
		return
	}
	if e.hold == nil {
		e.hold = &slotHold{}
	}
	e.hold.writes.AddAll(s)
	if reads {
		e.hold.reads.AddAll(s)
	}
}

// ReleaseSlots ends what HoldSlots and RefuseSlots did to these slots. Those who
// wait are dispatched again, in order, and routed by the view of now: when a
// command calls this, soon after it. The lock is held.
func (e *Engine) ReleaseSlots(s *slot.Set) {
	h := e.hold
	if h == nil {
		return
	}
	h.writes.DelAll(s)
	h.reads.DelAll(s)
	h.refused.DelAll(s)
	e.holdChanged()
	e.endArrived()
}

// RefuseSlots makes requests for these slots fail at once, those who wait
// included, rather than wait: who is to serve them is not known and may not be
// for long. With on false they wait again, if the slots are held still. The lock
// is held.
func (e *Engine) RefuseSlots(s *slot.Set, on bool) {
	if e.hold == nil {
		if !on || s.Empty() {
			return
		}
		e.hold = &slotHold{}
	}
	if on {
		e.hold.refused.AddAll(s)
	} else {
		e.hold.refused.DelAll(s)
	}
	e.holdChanged()
}

// holdChanged dispatches those who wait again: some of them wait on.
func (e *Engine) holdChanged() {
	h := e.hold
	waiting := h.waiting
	h.waiting, h.pruneAt = nil, 0
	if h.writes.Empty() && h.refused.Empty() {
		e.hold = nil
	}
	e.findMine()
	for _, b := range waiting {
		switch {
		case b.client.block != b:
		case e.callDepth > 0:
			// Not in the middle of somebody else's command.
			e.setDeadline(b, e.NowMs)
		default:
			e.retry(b)
		}
	}
	if e.callDepth == 0 && len(e.blocking.ready) > 0 {
		e.serveBlocked()
	}
}

// awaitSlots makes a client wait whose request is for a held slot. It executes
// its command again when that is over.
func (e *Engine) awaitSlots(c *Ctx) bool {
	if c.Client.Has(FlagMaster | FlagReplay | FlagImport) {
		return false
	}
	h := e.hold
	held, all := e.isHeld(c)
	switch {
	case !held:
		return false
	case all && !h.refused.Empty():
		// What is for a slot was refused before: this is for all of them.
		e.reject(c, errUnbound)
		return true
	case c.Client.Has(FlagDenyBlocking):
		e.reject(c, errTryAgain)
		return true
	}
	b := &Block{held: true, retry: true}
	e.block(c, b, 0)
	if len(h.waiting) >= max(h.pruneAt, 64) {
		live := h.waiting[:0]
		for _, w := range h.waiting {
			if w.client.block == w {
				live = append(live, w)
			}
		}
		clear(h.waiting[len(live):])
		h.waiting, h.pruneAt = live, 2*len(live)
	}
	h.waiting = append(h.waiting, b)
	return true
}

// isHeld reports whether a request is one that waits; all, because it is for
// every key there is.
func (e *Engine) isHeld(c *Ctx) (held, all bool) {
	if c.Spec.Full != "exec" || !c.Client.Has(FlagMulti) {
		return e.holdsRequest(c.Spec, c.Args)
	}
	for _, q := range c.Client.multi {
		h, a := e.holdsRequest(q.spec, q.args)
		held, all = held || h, all || a
	}
	return held, all
}

func (e *Engine) holdsRequest(s *Spec, args [][]byte) (held, all bool) {
	h := e.hold
	set := &h.reads
	if s.Is(Write) {
		set = &h.writes
		switch s.Full {
		case "flushall", "flushdb", "swapdb":
			return true, true
		}
	}
	if !s.routed || set.Empty() {
		return false, false
	}
	if p := s.oneKey; p > 0 {
		return p < len(args) && set.Has(slot.Of(args[p])), false
	}
	refs, ok := s.AppendKeys(e.refs[:0], args)
	e.refs = refs[:0]
	if !ok {
		return false, false
	}
	for _, r := range refs {
		if set.Has(slot.Of(args[r.Pos])) {
			return true, false
		}
	}
	return false, false
}

// holdsKeys reports whether one of these keys of database 0 is held.
func (e *Engine) holdsKeys(keys [][]byte) bool {
	for _, key := range keys {
		if e.hold != nil && e.hold.writes.Has(slot.Of(key)) {
			return true
		}
	}
	return false
}

// --- keys that arrive ---

// StageSlots hides the keys of these slots, which arrive here and are not ours
// yet: they are neither expired nor evicted, and KEYS, SCAN, RANDOMKEY and DBSIZE
// do not know them, but for clients with FlagImport, our master and the replay.
// Slots that are being dropped are emptied at once first. The lock is held.
func (e *Engine) StageSlots(s *slot.Set) {
	if s.Empty() {
		return
	}
	if e.drop != nil && e.drop.Overlaps(s) {
		both := *s
		both.Meet(e.drop)
		e.DropNow(&both)
	}
	if e.staged == nil {
		e.staged = new(slot.Set)
	}
	e.staged.AddAll(s)
	e.findHidden()
}

// UnstageSlots ends what StageSlots did to these slots: the keys are like any
// others. The lock is held.
func (e *Engine) UnstageSlots(s *slot.Set) {
	if e.staged == nil {
		return
	}
	e.staged.DelAll(s)
	if e.staged.Empty() {
		e.staged = nil
	}
	e.findHidden()
}

// Staged returns the slots that StageSlots hides now; the caller's to keep.
func (e *Engine) Staged() *slot.Set { return copySet(e.staged) }

func copySet(s *slot.Set) *slot.Set {
	c := new(slot.Set)
	if s != nil {
		*c = *s
	}
	return c
}

// findHidden finds out whose keys nobody sees.
func (e *Engine) findHidden() {
	if e.staged == nil && e.drop == nil {
		e.hidden = nil
		return
	}
	all := copySet(e.staged)
	if e.drop != nil {
		all.AddAll(e.drop)
	}
	e.hidden = all
}

// hidden returns the slots whose keys the client of c does not see in its
// database, nil if it sees all.
func (c *Ctx) hidden() *slot.Set {
	if c.E.hidden == nil || c.DB.Index() != 0 || c.Client.Has(FlagImport|FlagMaster|FlagReplay) {
		return nil
	}
	return c.E.hidden
}

// VisibleLen is db.Len without the keys that clients do not see.
func (e *Engine) VisibleLen(db *keyspace.DB) int {
	n := db.Len()
	if e.hidden != nil && db.Index() == 0 {
		e.hidden.Each(func(s int) { n -= e.KS.CountKeysInSlot(s) })
	}
	return n
}

// keeps reports whether a key is to stay whatever its expiry and the memory say:
// it arrives, or it is handed over.
func (e *Engine) keeps(db *keyspace.DB, key []byte) bool {
	if e.hidden == nil && e.hold == nil || db.Index() != 0 {
		return false
	}
	n := slot.Of(key)
	return e.hidden != nil && e.hidden.Has(n) || e.hold != nil && e.hold.writes.Has(n)
}

// HidesSlot reports whether the keys of a slot are hidden: it arrives, or it is
// being dropped. The lock is held.
func (e *Engine) HidesSlot(n int) bool { return e.hidden != nil && e.hidden.Has(n) }
