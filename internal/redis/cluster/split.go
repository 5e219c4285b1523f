package cluster

import "time"

// Copies are keys of slots that a node has from its time as a replica, and that
// their owner has as well. There are two ways to such slots:
//
//   - A shard is split by the failover of its master: a replica that did not know
//     of all its slots is elected and takes those that it knew of; another one is
//     elected for the rest. Both have all keys from the stream of their master.
//     That is certain only as long as nothing has come from it since: after that
//     they may be keys that it imported one by one.
//   - A master dies when it has let a slot go and its replica has not heard to
//     whom: the keys have gone there before.
//
// They are dropped as soon as another is heard to claim the slot, and kept when
// it becomes ours, or is opened.

// splitShard is what an heir of our master has taken while we still follow it.
type splitShard struct {
	slots *bitmap   // nil: none
	seen  time.Time // when the master had been heard last
}

// noteSplit notes that n has claimed slots of our master, which claimed them
// until then, if it took the place of that one.
func (c *Core) noteSplit(n *node, slots []int) {
	d := c.host.Data()
	m := c.myself.master
	if m == nil || c.plain || d.MasterLinkUp || d.MasterSeen.IsZero() || !isHeir(n, m) {
		return
	}
	if c.split.slots == nil || !d.MasterSeen.Equal(c.split.seen) {
		c.split = splitShard{slots: new(bitmap), seen: d.MasterSeen}
	}
	for _, s := range slots {
		c.split.slots[s>>3] |= 1 << (s & 7)
	}
}

// endSplit is for who takes the place of its master.
func (c *Core) endSplit() {
	d := c.host.Data()
	c.copies = nil
	if !d.MasterLinkUp && d.MasterSeen.Equal(c.split.seen) {
		c.copies = c.split.slots
	}
	c.split = splitShard{}
}

// noteCopy notes that slot s, which our master had let go, is not ours.
func (c *Core) noteCopy(s int) {
	if c.copies == nil {
		c.copies = new(bitmap)
	}
	c.copies[s>>3] |= 1 << (s & 7)
}

// dropCopies drops the copies of slots that another claims.
func (c *Core) dropCopies() {
	if c.copies == nil {
		return
	}
	left := false
	eachSlot(c.copies[:], func(s int) {
		o := c.owner(s)
		switch mine := o == c.myself || c.importing[s] != nil; {
		case !mine && (o == nil || bitSet(c.unclaimed[:], s)):
			left = true
			return
		case !mine && !c.faults.KeepCopies:
			c.lostSlots = append(c.lostSlots, s)
		}
		c.copies[s>>3] &^= 1 << (s & 7)
	})
	if !left {
		c.copies = nil
	}
}
