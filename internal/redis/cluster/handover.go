package cluster

import (
	"fmt"
)

// A handover: slots change owner in one step, because their owner has let them
// go for good and nobody serves them until this node claims them. The shell has
// moved the data; the core sees to it that the claim holds.
//
// What makes it hold: a new config epoch, greater than any that the former
// owner had when it let go, durable before anybody hears of it. The former
// owner may still get a greater one that we have not heard of (a collision, an
// election of its heir), claim in it what it has given away, and others would
// believe it. So until it is heard not to claim a slot any more, its claim is
// answered with another epoch instead of being believed.

// onTakeSlots claims slots that were let go for this node.
func (c *Core) onTakeSlots(in TakeSlots) {
	why := c.whyNotTake(in)
	if why == "" {
		c.takeSlots(in)
	}
	c.emit(Taken{OK: why == "", Why: why})
}

// whyNotTake is "" when slots may be taken.
func (c *Core) whyNotTake(in TakeSlots) string {
	switch {
	case in.Slots == nil || in.Slots.Empty():
		return "no slots"
	case !c.myself.isMaster():
		return "this node is a replica"
	case !c.ok || c.suspended:
		return "the cluster is down"
	case in.Epoch > maxEpochTold:
		return fmt.Sprintf("epoch %d is out of range", in.Epoch)
	}
	why := ""
	in.Slots.Each(func(s int) {
		o := c.owner(s)
		switch {
		case why != "":
		case c.importing[s] != nil || c.migrating[s] != nil:
			why = fmt.Sprintf("slot %d is open", s)
		case o == nil:
			why = fmt.Sprintf("slot %d has no owner", s)
		case bitSet(c.unclaimed[:], s) && c.byID[in.From] != nil && !c.faults.TakeClaimedOnly:
			// From had it of this owner and gave it away, before we heard of that.
		case o != c.myself && o.id != in.From:
			why = fmt.Sprintf("slot %d belongs to node %s", s, o.id)
		}
	})
	return why
}

// takeSlots makes the claim. All of the slots may be ours already, after a
// claim whose answer was lost: then it is only told again.
func (c *Core) takeSlots(in TakeSlots) {
	me, from := c.myself, c.byID[in.From]
	var got []int
	in.Slots.Each(func(s int) {
		if c.owner(s) == me {
			return
		}
		c.delSlot(s)
		c.addSlot(me, s)
		c.taken[s] = from
		got = append(got, s)
	})
	c.currentEpoch = max(c.currentEpoch, in.Epoch)
	if len(got) > 0 || me.configEpoch <= in.Epoch {
		// As with SETSLOT NODE nobody is asked for it: two nodes that choose the
		// same one part again by the rule for collisions. Ours being the
		// greatest that we know of is no reason to keep it: From may have a
		// greater one.
		c.newEpoch()
		c.logf(Notice, "Took over %d slots from node %s, configEpoch is %d now", len(got), in.From, me.configEpoch)
	}
	for _, s := range got {
		c.since.set(s, me.configEpoch)
	}
	c.todo |= todoSave | todoState | todoSync
	c.pongAll()
}

// onGivenSlots notes what was given away and is not claimed yet.
func (c *Core) onGivenSlots(in GivenSlots) {
	before := c.given
	c.given = nil
	if in.Slots != nil && !in.Slots.Empty() && !c.faults.BelieveGiver {
		c.given = new(bitmap)
		in.Slots.Each(func(s int) {
			c.given[s>>3] |= 1 << (s & 7)
			delete(c.taken, s) // what was given on is not ours to defend
		})
	}
	if before != nil { // what is kept after all is claimed again
		eachSlot(before[:], func(s int) {
			if c.owner(s) == c.myself {
				c.unclaimed[s>>3] &^= 1 << (s & 7)
			}
		})
	}
	c.letGo()
}

// letGo sees to it that we believe whoever claims what we have given away.
func (c *Core) letGo() {
	if c.given == nil {
		return
	}
	for i, v := range c.myself.slots.b {
		i += c.myself.slots.lo
		c.unclaimed[i] |= v & c.given[i]
	}
}

// newEpoch gives this node the next config epoch without asking anybody.
func (c *Core) newEpoch() {
	c.currentEpoch = c.maxEpoch() + 1
	c.setMyEpoch(c.currentEpoch)
}

// holdsTaken reports whether n claims a slot that it, or the node whose heir
// it is, gave to us. A node that may have been replaced meanwhile holds on to
// nothing: a new epoch would take all of its slots back from its heir.
func (c *Core) holdsTaken(s int, n *node) bool {
	if len(c.taken) == 0 || !c.ok || c.suspended || c.faults.BelieveGiver {
		return false
	}
	from := c.taken[s]
	return from != nil && c.owner(s) == c.myself && (from == n || isHeir(n, from))
}

// claimAgain answers a claim of slots that were given to us, in an epoch that
// is greater than ours: with a greater one, once. Who claims them after that
// was given them by somebody whom we have not heard of.
func (c *Core) claimAgain(n *node, epoch uint64) {
	for s, from := range c.taken {
		if from == n || isHeir(n, from) {
			delete(c.taken, s)
		}
	}
	c.currentEpoch = max(c.currentEpoch, epoch)
	c.newEpoch()
	c.logf(Notice, "Node %s claims slots that were given to this node: configEpoch is %d now", n.id, c.myself.configEpoch)
	c.pongAll()
}

// noteGiven ends the wait for n, or its heir, to stop claiming what it gave us.
func (c *Core) noteGiven(n *node, claim []byte) {
	for s, from := range c.taken {
		switch {
		case c.owner(s) != c.myself, from.master == c.myself:
			// Gone on, or our own replica by now, whose claim as our heir is right.
			delete(c.taken, s)
		case from == n && !bitSet(claim, s):
			delete(c.taken, s)
		case from != n && isHeir(n, from):
			if bitSet(claim, s) {
				c.taken[s] = n
			} else {
				delete(c.taken, s)
			}
		}
	}
}

// noteDoubt notices that somebody who tells us of n, of which we know as much,
// takes slots of ours for its: n had them once, gave them away, and its epoch
// is greater than ours. Redis stays in that state until an administrator acts.
func (c *Core) noteDoubt(n *node, epoch uint64, slots []byte) {
	me := c.myself
	if c.plain || !me.isVoter() || n == me || !n.isMaster() || epoch <= me.configEpoch {
		return
	}
	n.doubted = me.slots.overlaps(slots)
}

// answerDoubt ends the doubt if n itself claims none of our slots: with a
// config epoch that is greater than its own.
func (c *Core) answerDoubt(n *node, claim []byte) {
	n.doubted = false
	if !c.ok || c.suspended || !c.myself.isMaster() || n.configEpoch <= c.myself.configEpoch || c.myself.slots.overlaps(claim) {
		return
	}
	c.newEpoch()
	c.logf(Notice, "Others take slots of this node for those of node %s: configEpoch is %d now", n.id, c.myself.configEpoch)
	c.pongAll()
}

// moveToHeir lets the slots that move to a node whose place n took move to n.
// Whom n replaced has nothing left, or is a replica.
func (c *Core) moveToHeir(n *node) {
	if c.plain {
		return
	}
	for s, to := range c.migrating {
		if to.numSlots == 0 && isHeir(n, to) {
			c.markMigrating(s, n)
			c.logf(Notice, "Slot %d migrates to node %s now, which took the place of node %s", s, n.id, to.id)
			c.todo |= todoSave
		}
	}
}

// isHeir reports whether n took the place of old: it was its replica when it
// became a master, or that of another heir, or old is its replica now.
func isHeir(n, old *node) bool {
	if n == old || !n.isMaster() {
		return false
	}
	if old.master == n {
		return true
	}
	h := n.heirOf
	for range maxHeirs {
		if h == nil || h == old {
			break
		}
		h = h.heirOf
	}
	return h == old
}
