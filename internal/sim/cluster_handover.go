package sim

import (
	"fmt"
	"time"

	"holdfast/internal/redis/cluster"
	"holdfast/internal/redis/cluster/slot"
)

// Handovers of slots in the simulated cluster: the part that the core plays,
// and as much of the data as decides who may claim. Each shard's range holds
// one group of slots that is handed over as a whole:
//
//   - the taker has the data, and its replicas have it too (mark READY);
//   - the giver lets go (mark GIVEN): from here on nobody serves the group
//     before the taker, or an heir of it, has claimed it;
//   - the taker is told, or finds out by asking the owner that it believes in.
//
// Marks are data: they survive crashes, and whoever replicates a node has them.

// cGroup is one group of slots and the last handover of it.
type cGroup struct {
	slots slot.Set
	first int
	gave  map[*cNode]bool // who holds GIVEN; nil: never handed over
	got   map[*cNode]bool // who holds READY
	taker *cNode          // who claimed it last, nil: nobody yet
	life  uint32          // of the taker
	count int
}

const resolveEvery = 300 * time.Millisecond

func (w *cWorld) buildGroups() {
	for shard := range w.masters {
		from, to := shardRange(shard, w.masters)
		g := &cGroup{first: from + (to-from)/3}
		g.slots.AddRange(g.first, g.first+2)
		w.groups = append(w.groups, g)
	}
	w.after(resolveEvery, w.resolveHandovers)
}

// healthy: in order, as far as it knows, and so are its replicas.
func (w *cWorld) healthy(n *cNode) bool {
	if !n.alive || n.paused || !n.core.Status().OK {
		return false
	}
	for _, r := range w.nodes {
		if r.data.follow == n && (!r.alive || r.paused || !r.data.up) {
			return false
		}
	}
	return true
}

func (w *cWorld) reach(a, b *cNode) bool {
	return b.alive && !b.paused && !w.cut[a.idx][b.idx] && !w.cut[b.idx][a.idx]
}

// family is a node and those that replicate it.
func (w *cWorld) family(n *cNode) map[*cNode]bool {
	m := map[*cNode]bool{n: true}
	for _, r := range w.nodes {
		if r.alive && r.data.follow == n && r.data.up {
			m[r] = true
		}
	}
	return m
}

// handOver has one master give a group of slots to another one.
func (w *cWorld) handOver() {
	g := w.groups[w.rng.IntN(len(w.groups))]
	from, to := w.pickMaster(), w.pickMaster()
	if o, _ := from.ownerOf(g.first); from == to || o != from.id || !w.healthy(from) || !w.healthy(to) || !w.reach(from, to) {
		return
	}
	if o, _ := to.ownerOf(g.first); o != from.id || (g.gave != nil && !g.got[from]) {
		return
	}
	got, gave := w.family(to), w.family(from)
	for _, n := range w.nodes {
		if n.plain && (got[n] || gave[n]) {
			return // with genuine nodes, slots move key by key
		}
	}
	g.got, g.gave, g.taker = got, gave, nil
	g.count++
	w.tellGiven(from)
	w.tracef("n%d gives %s to n%d", from.idx, g.slots.String(), to.idx)
	in := cluster.TakeSlots{Slots: &g.slots, From: from.id, Epoch: from.core.Status().CurrentEpoch}
	if w.rng.IntN(2) == 0 {
		in.Epoch = 0
	}
	count := g.count
	w.after(w.ms(1, 400), func() {
		if g.count == count && to.alive && !to.paused {
			w.take(to, g, in)
		}
	})
}

func (w *cWorld) take(n *cNode, g *cGroup, in cluster.TakeSlots) {
	life := n.life
	n.taken = false
	n.step(in)
	if n.alive && n.life == life && n.taken {
		w.tracef("n%d took %s", n.idx, g.slots.String())
		g.taker, g.life = n, life
	}
}

// tellGiven tells the core of n what it has given away and nobody has claimed.
func (w *cWorld) tellGiven(n *cNode) {
	var given slot.Set
	for _, g := range w.groups {
		if o, _ := n.ownerOf(g.first); g.gave[n] && !g.got[n] && (o == n.id || o == n.core.Status().MasterID) {
			given.AddAll(&g.slots)
		}
	}
	if given != n.given {
		n.given = given
		n.step(cluster.GivenSlots{Slots: &given})
	}
}

// resolveHandovers: a master with READY asks the owner it believes in.
func (w *cWorld) resolveHandovers() {
	for _, n := range w.nodes {
		if n.alive && !n.paused {
			w.tellGiven(n)
		}
	}
	for _, g := range w.groups {
		for _, n := range w.nodes {
			if !g.got[n] || !n.alive || n.paused || !n.core.Status().Master {
				continue
			}
			id, _ := n.ownerOf(g.first)
			o := w.byID[id]
			if o == nil || o == n || !g.gave[o] || g.got[o] || !w.reach(n, o) {
				continue
			}
			w.take(n, g, cluster.TakeSlots{Slots: &g.slots, From: id, Epoch: o.core.Status().CurrentEpoch})
		}
	}
	w.after(resolveEvery, w.resolveHandovers)
}

// mayBeReplaced: n stands still, and holds on to nothing from now on.
func (w *cWorld) mayBeReplaced(n *cNode) {
	for _, g := range w.groups {
		if g.taker == n {
			g.taker = nil
		}
	}
}

// copyMarks: n has the data of its master m.
func (w *cWorld) copyMarks(n, m *cNode) {
	for _, g := range w.groups {
		if g.gave != nil {
			g.gave[n], g.got[n] = g.gave[m], g.got[m]
		}
	}
}

// handovers holds what a handover promises of the node that took the slots: as
// long as it is there and a master, the giver and its heirs do not have them
// back.
func (c *cChecker) handovers(n *cNode) {
	for _, g := range c.w.groups {
		if g.taker != n {
			continue
		}
		if st := n.core.Status(); g.life != n.life || !st.Master || !st.OK {
			g.taker = nil // it may have been replaced
			continue
		}
		if o := c.w.byID[c.slotOwner(n, g.first)]; o != nil && o != n && g.gave[o] && !g.got[o] {
			c.w.violate("handover: n%d took slot %d, and now believes that n%d, which gave it away, owns it", n.idx, g.first, o.idx)
			return
		}
	}
}

func (c *cChecker) slotOwner(n *cNode, s int) string {
	id, _ := n.core.SlotOwner(s)
	return id
}

// handedOver says what is wrong with the groups when everything is calm.
func (c *cChecker) handedOver(n *cNode, owners map[int]string) string {
	for _, g := range c.w.groups {
		why := ""
		g.slots.Each(func(s int) {
			id := c.slotOwner(n, s)
			if want, ok := owners[s]; ok && want != id {
				why = fmt.Sprintf("slot %d of a handover belongs to %.6s, others say %.6s", s, id, want)
			}
			owners[s] = id
			if o := c.w.byID[id]; o != nil && g.gave[o] && !g.got[o] {
				why = fmt.Sprintf("slot %d, which n%d gave away, is its own again", s, o.idx)
			}
		})
		if why != "" {
			return why
		}
	}
	return ""
}
