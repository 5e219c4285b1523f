package command

import (
	"holdfast/internal/redis/cluster/slot"
)

// Deletion of whole slots that went to another node, in small steps: their
// number of keys may be large, and nobody waits for the memory. Until a key's
// turn comes it is hidden, as the keys of slots that arrive are.

// dropAtOnce is how many keys one command deletes at most.
const dropAtOnce = 64

// QueueDrop has the keys of these slots deleted by DropStep. The lock is held.
func (e *Engine) QueueDrop(s *slot.Set) {
	if s.Empty() {
		return
	}
	if e.drop == nil {
		e.drop = new(slot.Set)
	}
	e.drop.AddAll(s)
	e.findHidden()
}

// Dropping returns the slots that DropStep has still to empty; the caller's to
// keep.
func (e *Engine) Dropping() *slot.Set { return copySet(e.drop) }

// DropStep deletes up to maxKeys keys of the slots in the queue and tells the
// replicas and the watchers; there is no event, since the keys live on
// elsewhere. left says that the queue is not empty yet. A replica forgets the
// queue: its keys are its master's. The lock is held.
func (e *Engine) DropStep(maxKeys int) (left bool) {
	if e.drop == nil {
		return false
	}
	if e.State.IsReplica {
		e.drop = nil
		e.findHidden()
		return false
	}
	before := *e.drop
	for n := e.drop.Next(0); n < slot.Count && maxKeys > 0; n = e.drop.Next(n) {
		maxKeys -= e.dropSome(n, maxKeys, true)
		if e.KS.CountKeysInSlot(n) == 0 {
			e.drop.Del(n)
		}
	}
	if e.drop.Empty() {
		e.drop = nil
	}
	if e.drop == nil || *e.drop != before {
		e.findHidden()
	}
	return e.drop != nil
}

// DropNow deletes all keys of these slots at once, whether they were in the queue
// or not, and takes them out of it. The lock is held.
func (e *Engine) DropNow(s *slot.Set) {
	s.Each(func(n int) {
		for e.dropSome(n, dropAtOnce, true) > 0 {
		}
	})
	if e.drop == nil {
		return
	}
	e.drop.DelAll(s)
	if e.drop.Empty() {
		e.drop = nil
	}
	e.findHidden()
}

// dropReturned empties slots at once that are ours again, or that we import,
// before anybody asks for their keys.
func (e *Engine) dropReturned() {
	var back slot.Set
	e.drop.Each(func(n int) {
		if e.view.Mine(n) || e.view.Importing(n) != nil {
			back.Add(n)
		}
	})
	if !back.Empty() {
		e.DropNow(&back)
	}
}

// DropSlot deletes the keys of one slot at once. It returns how many there were.
// The lock is held.
func (e *Engine) DropSlot(n int) (dropped int) {
	for {
		k := e.dropSome(n, dropAtOnce, e.Cfg.LazyfreeLazyServerDel)
		if k == 0 {
			return dropped
		}
		dropped += k
	}
}

// dropSome deletes up to maxKeys keys of slot n and returns how many.
func (e *Engine) dropSome(n, maxKeys int, lazy bool) (dropped int) {
	db := e.KS.DB(0)
	for dropped < maxKeys {
		keys := e.KS.KeysInSlot(n, min(maxKeys-dropped, dropAtOnce))
		if len(keys) == 0 {
			break
		}
		for _, key := range keys {
			db.Delete(key, lazy)
			e.Touched(db, key)
		}
		dropped += len(keys)
		e.Dirty += int64(len(keys))
		if !e.State.IsReplica {
			e.alsoPropagate(0, append([][]byte{delName(lazy)}, keys...))
			e.endUnit(nil)
		}
	}
	return dropped
}
