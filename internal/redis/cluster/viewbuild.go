package cluster

import (
	"encoding/binary"
	"slices"

	"holdfast/internal/redis/cluster/slot"
)

// View is what the data path routes by. It is made anew after a change, and
// never changed itself. While slots move one by one, only what is about slots
// is new, and of the tables only the pages that changed.
func (c *Core) View() *View {
	if c.view != nil && !c.viewDirty && !c.slotsDirty {
		return c.view
	}
	c.viewEpoch++
	v := &View{
		Epoch: c.viewEpoch, OK: c.ok, Preferred: c.cfg.Preferred, TLSCluster: c.cfg.TLSCluster,
		AllowReadsWhenDown: c.cfg.AllowReadsWhenDown, AllowPubsubShardWhenDown: c.cfg.AllowPubsubShardWhenDwn,
		RequireFullCoverage: c.cfg.RequireFullCoverage, CurrentEpoch: c.currentEpoch, Size: c.size,
		Assigned: c.slots.used, CoversAll: c.slots.used == Slots,
		owner: c.slots.publish(), migrating: c.migrateTo.publish(), importing: c.importFrom.publish(),
		moving: c.migrateTo.used + c.importFrom.used,
		mine:   c.myself.slots.set64(), hasMine: true,
	}
	if c.view == nil || c.viewDirty {
		c.viewNodes(v)
	} else {
		v.Nodes, v.nums, v.Myself, v.MyMaster = c.view.Nodes, c.view.nums, c.view.Myself, c.view.MyMaster
	}
	c.viewDirty, c.slotsDirty = false, false
	c.view = v
	return v
}

// viewNodes fills in all that is about nodes.
func (c *Core) viewNodes(v *View) {
	all := make([]NodeView, len(c.nodes))
	v.Nodes = make([]*NodeView, len(c.nodes))
	v.nums = make([]*NodeView, len(c.nums))
	for i, n := range c.nodes {
		n.viewIdx = uint16(i)
		nv := &all[i]
		*nv = NodeView{ID: n.id, Flags: n.flags, IP: n.ip, Port: n.port, PlainPrt: n.pport, BusPort: n.cport, Hostname: n.hostname}
		if n.master != nil {
			nv.MasterID = n.master.id
		}
		v.Nodes[i] = nv
		if n.num != 0 {
			v.nums[n.num] = nv
		}
	}
	for i, n := range c.nodes {
		for _, r := range n.replicas {
			v.Nodes[i].Replicas = append(v.Nodes[i].Replicas, v.Nodes[r.viewIdx])
		}
	}
	v.Myself = v.Nodes[c.myself.viewIdx]
	if m := c.myself.master; m != nil {
		v.MyMaster = v.Nodes[m.viewIdx]
	}
}

// set64 is the slots as a set.
func (m *slotMap) set64() (out slot.Set) {
	var full bitmap
	m.fill(full[:])
	for i := range out {
		out[i] = binary.LittleEndian.Uint64(full[8*i:])
	}
	return out
}

// markImporting says from whom slot s is being taken; nil: it is not.
func (c *Core) markImporting(s int, n *node) {
	if n != nil && c.copies != nil {
		c.copies[s>>3] &^= 1 << (s & 7) // what comes now are not copies
	}
	c.mark(c.importing, &c.importFrom, s, n)
}

// markMigrating says to whom slot s of ours moves; nil: it does not.
func (c *Core) markMigrating(s int, n *node) { c.mark(c.migrating, &c.migrateTo, s, n) }

func (c *Core) mark(m map[int]*node, t *slotTable, s int, n *node) {
	c.slotsDirty = true
	if n == nil {
		delete(m, s)
		t.set(s, 0)
		return
	}
	m[s] = n
	t.set(s, c.number(n))
}

// The rest is for whoever makes a View by hand, as tests of the data path do.
// A View that is in use is never changed.

// SetOwner makes node, one of v.Nodes, the owner of the slots from first to
// last; nil leaves them without one.
func (v *View) SetOwner(first, last int, node *NodeView) {
	num := v.number(node)
	for n := first; n <= last; n++ {
		setSlot(&v.owner, n, num)
	}
	v.hasMine = false
}

// SetMigrating says that slot n of ours moves to node; nil: that it does not.
func (v *View) SetMigrating(n int, node *NodeView) { v.setMark(&v.migrating, n, node) }

// SetImporting says that slot n is being taken from node; nil: that it is not.
func (v *View) SetImporting(n int, node *NodeView) { v.setMark(&v.importing, n, node) }

func (v *View) setMark(t *slotPageTable, n int, node *NodeView) {
	if pageGet(t, n) != 0 {
		v.moving--
	}
	num := v.number(node)
	if num != 0 {
		v.moving++
	}
	setSlot(t, n, num)
}

// number finds or makes a number for a node.
func (v *View) number(node *NodeView) uint16 {
	if node == nil {
		return 0
	}
	if i := slices.Index(v.nums, node); i > 0 {
		return uint16(i)
	}
	v.nums = slices.Clone(v.nums) // a copy of a View may share it
	if len(v.nums) == 0 {
		v.nums = append(v.nums, nil)
	}
	v.nums = append(v.nums, node)
	return uint16(len(v.nums) - 1)
}

// setSlot changes a copy of the page: a copy of a View may share it.
func setSlot(t *slotPageTable, n int, num uint16) {
	var p slotPage
	if old := t[n/perPage]; old != nil {
		p = *old
	}
	p[n%perPage] = num
	t[n/perPage] = &p
}
