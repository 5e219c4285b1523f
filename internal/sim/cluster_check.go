package sim

import (
	"bytes"
	"cmp"
	"fmt"
	"time"

	"holdfast/internal/redis/cluster"
)

// cChecker watches the whole cluster for what no single node may break:
//
//	one owner      in an epoch at most one node owns a shard's slots
//	one vote       a node votes once in an epoch, also over restarts: no vote leaves
//	               before it is on disk
//	majority       nobody wins without the votes of a majority of the masters
//	FAIL           nobody is marked FAIL without a majority that cannot reach it,
//	               and nobody votes, or stands, before its master is FAIL
//	fit replica    nobody wins whose data is too old, or who is known to be behind
//	epochs rise    the config epoch of a node never falls
//	minority       a master in a minority stops serving
//	handover       slots that were handed over do not go back to who gave them
//	forgotten      a node that was forgotten everywhere stays away
//	agreement      once faults stop, all see the same owners, with unique epochs
type cChecker struct {
	w         *cWorld
	claims    map[cClaim]int         // (shard, epoch) -> node
	votes     map[cVote]string       // (voter, epoch) -> candidate
	cast      map[cCast]map[int]bool // (candidate, epoch) -> voters
	silent    map[[2]int]int64       // (observer, target) -> last time the one had the other as PFAIL or FAIL
	epochs    map[int]uint64         // node -> its config epoch
	owned     map[int]cOwned         // node -> what it owned when looked at last
	lonely    map[int]int64          // node -> last time it could reach a majority
	manual    map[int]int64          // node -> last CLUSTER FAILOVER
	slow      *cNode                 // a replica that must not win
	forgotten *cNode
	forgetBy  int64
	moved     map[int]bool    // slots that an administrator has moved
	bumped    map[uint64]bool // config epochs that somebody gave itself
	firstFail map[int]int64   // target -> when somebody marked it FAIL first; nil: not kept
}

type cClaim struct {
	shard int
	epoch uint64
}

type cVote struct {
	voter int
	epoch uint64
}

type cCast struct {
	candidate string
	epoch     uint64
}

type cOwned struct {
	epoch uint64
	slots int
}

func (c *cChecker) init(w *cWorld) {
	*c = cChecker{w: w, claims: map[cClaim]int{}, votes: map[cVote]string{}, cast: map[cCast]map[int]bool{},
		silent: map[[2]int]int64{}, epochs: map[int]uint64{}, owned: map[int]cOwned{},
		lonely: map[int]int64{}, manual: map[int]int64{}, moved: map[int]bool{}, bumped: map[uint64]bool{}}
}

// majority of the masters of the world. Slots do not move between shards here.
func (c *cChecker) majority() int { return c.w.masters/2 + 1 }

func (c *cChecker) manualNow(n *cNode) bool {
	t, ok := c.manual[n.idx]
	return ok && c.w.now-t < int64(6*time.Second)
}

func (c *cChecker) event(n *cNode, e cluster.Event) {
	w := c.w
	if w.unchecked {
		return
	}
	other := func(id string) int {
		if o := w.byID[id]; o != nil {
			return o.idx
		}
		return -1
	}
	switch e.Kind {
	case cluster.EventPFail:
		c.silent[[2]int{n.idx, other(e.Node)}] = w.now
	case cluster.EventFail:
		c.noteFail(other(e.Node))
		c.checkFail(n, other(e.Node))
		c.silent[[2]int{n.idx, other(e.Node)}] = w.now
	case cluster.EventEpochBumped:
		if len(c.cast[cCast{n.id, e.Epoch}]) == 0 {
			c.bumped[e.Epoch] = true // without asking: unique only after a while
		}
	case cluster.EventVote:
		c.vote(n, e, other(e.Other))
	case cluster.EventElection:
		if !c.manualNow(n) && !hasFail(n, e.Node) && !w.opts.Mutants.VoteWithoutFail {
			w.violate("FAIL: n%d stands for election, and its master n%d is not FAIL", n.idx, other(e.Node))
		}
	case cluster.EventWon:
		w.res.Elections++
		c.won(n, e)
	}
}

// sends checks a packet at the moment it leaves.
func (c *cChecker) sends(n *cNode, p []byte) {
	if cluster.PacketType(p) != cluster.MsgAuthAck {
		return
	}
	want := fmt.Sprintf(" lastVoteEpoch %d\n", n.core.Status().LastVoteEpoch)
	if !bytes.HasSuffix(n.synced, []byte(want)) {
		c.w.violate("one vote: n%d sends a vote of epoch %d that is not on its disk", n.idx, n.core.Status().LastVoteEpoch)
	}
}

// hasFail: n knows the node of that id as FAIL.
func hasFail(n *cNode, id string) bool {
	p, ok := n.core.Peer(id)
	return ok && p.Flags.Has(cluster.FlagFail)
}

func (c *cChecker) noteFail(target int) {
	if _, ok := c.firstFail[target]; !ok && c.firstFail != nil {
		c.firstFail[target] = c.w.now
	}
}

// checkFail: whenever a node is marked FAIL for the first time, a majority of
// the masters must have found it silent not long before.
func (c *cChecker) checkFail(n *cNode, target int) {
	w := c.w
	if target < 0 || w.unchecked {
		return
	}
	window := 4*w.cfg.NodeTimeout + time.Second // reports live for two, and travel
	count := 0
	for _, o := range w.nodes {
		if t, ok := c.silent[[2]int{o.idx, target}]; ok && w.now-t < int64(window) {
			count++
		}
	}
	if count < c.majority() {
		w.violate("FAIL: n%d marks n%d with %d nodes that cannot reach it, majority is %d", n.idx, target, count, c.majority())
	}
}

func (c *cChecker) vote(n *cNode, e cluster.Event, master int) {
	w := c.w
	k := cVote{n.idx, e.Epoch}
	if old, ok := c.votes[k]; ok && old != e.Node {
		w.violate("one vote: n%d voted in epoch %d for %.6s and for %.6s", n.idx, e.Epoch, old, e.Node)
		return
	}
	if c.votes[k] != "" {
		w.violate("one vote: n%d voted in epoch %d twice for %.6s", n.idx, e.Epoch, e.Node)
		return
	}
	c.votes[k] = e.Node
	cast := cCast{e.Node, e.Epoch}
	if c.cast[cast] == nil {
		c.cast[cast] = map[int]bool{}
	}
	c.cast[cast][n.idx] = true
	candidate := w.byID[e.Node]
	if candidate == nil {
		return
	}
	if !c.manualNow(candidate) && !hasFail(n, e.Other) {
		w.violate("FAIL: n%d votes for n%d, whose master n%d is not FAIL", n.idx, candidate.idx, master)
	}
	if candidate.alive {
		st := candidate.core.Status()
		if st.MasterID == e.Other {
			c.checkClaim(n, candidate, e.Other, st.ConfigEpoch)
		}
	}
}

// checkClaim: nobody votes for a candidate whose slots have, as the voter
// knows, a newer owner.
func (c *cChecker) checkClaim(voter, candidate *cNode, master string, epoch uint64) {
	for shard := range c.w.masters {
		from, _ := shardRange(shard, c.w.masters)
		if owner, _ := candidate.core.SlotOwner(from); owner != master {
			continue
		}
		if owner, newest := voter.core.SlotOwner(from); owner != master && newest > epoch {
			c.w.violate("one owner: n%d votes for n%d, which claims the slots of %.6s with epoch %d, and knows of epoch %d",
				voter.idx, candidate.idx, master, epoch, newest)
		}
	}
}

func (c *cChecker) won(n *cNode, e cluster.Event) {
	w := c.w
	if votes := len(c.cast[cCast{n.id, e.Epoch}]); votes < c.majority() {
		w.violate("majority: n%d wins epoch %d with %d votes of %d masters", n.idx, e.Epoch, votes, w.masters)
		return
	}
	if c.manualNow(n) {
		return
	}
	if f := w.cfg.ReplicaValidityFactor; f != 0 {
		age := time.Duration(w.now - n.data.seen)
		limit := w.cfg.PingReplicaPeriod + w.cfg.NodeTimeout*time.Duration(f+1) + 2*w.cfg.NodeTimeout + 2*time.Second
		if !n.data.ever || (!n.data.up && age > limit) {
			w.violate("fit replica: n%d wins with data that is %v old (ever: %v), limit %v", n.idx, age, n.data.ever, limit)
		}
	}
	if c.slow == n {
		w.violate("fit replica: n%d wins with offset %d, which is known to be behind", n.idx, n.data.offset)
	}
}

// observe looks at a node after each of its steps.
func (c *cChecker) observe(n *cNode) {
	if n.core == nil || !n.alive {
		return
	}
	st := n.core.Status()
	if !st.Master {
		delete(c.epochs, n.idx)
		return
	}
	if st.ConfigEpoch < c.epochs[n.idx] {
		c.w.violate("epochs rise: n%d went from config epoch %d to %d", n.idx, c.epochs[n.idx], st.ConfigEpoch)
		return
	}
	c.epochs[n.idx] = st.ConfigEpoch
	c.handovers(n)
	now := cOwned{st.ConfigEpoch, st.Slots}
	if c.owned[n.idx] == now || st.ConfigEpoch == 0 {
		return
	}
	c.owned[n.idx] = now
	for shard := range c.w.masters {
		from, _ := shardRange(shard, c.w.masters)
		if owner, epoch := n.core.SlotOwner(from); owner == st.ID {
			k := cClaim{shard, epoch}
			if c.bumped[epoch] {
				continue
			}
			if old, ok := c.claims[k]; ok && old != n.idx && c.w.nodes[old].id != n.id {
				c.w.violate("one owner: shard %d belongs to n%d and to n%d in epoch %d", shard, old, n.idx, epoch)
				return
			}
			c.claims[k] = n.idx
		}
	}
	for i, g := range c.w.groups {
		if owner, epoch := n.core.SlotOwner(g.first); owner == st.ID && !c.bumped[epoch] {
			k := cClaim{c.w.masters + i, epoch}
			if old, ok := c.claims[k]; ok && old != n.idx {
				c.w.violate("one owner: slot %d belongs to n%d and to n%d in epoch %d", g.first, old, n.idx, epoch)
				return
			}
			c.claims[k] = n.idx
		}
	}
}

// lookAround notes who takes whom for PFAIL or FAIL, however that came about.
func (c *cChecker) lookAround() {
	if c.w.unchecked {
		return
	}
	for _, n := range c.w.nodes {
		if !n.alive || n.core == nil {
			continue
		}
		if pfail, fail := n.core.Failing(); pfail+fail == 0 {
			continue
		}
		for _, o := range c.w.nodes {
			if p, ok := n.core.Peer(o.id); ok && p.Flags&(cluster.FlagPFail|cluster.FlagFail) != 0 {
				c.silent[[2]int{n.idx, o.idx}] = c.w.now
			}
		}
	}
}

// periodic checks what needs no event.
func (c *cChecker) periodic() {
	w := c.w
	if w.done || w.unchecked {
		return
	}
	c.lookAround()
	for _, n := range w.nodes {
		if !n.alive || n.paused {
			c.lonely[n.idx] = w.now // it starts or wakes up with a delay of grace
			continue
		}
		heard := 0
		for _, o := range w.nodes {
			if o == n || (o.alive && !o.paused && !w.cut[o.idx][n.idx] && !w.cut[n.idx][o.idx]) || (o.alive && !w.cut[o.idx][n.idx]) {
				if o.alive && o.core.Status().Slots > 0 {
					heard++
				}
			}
		}
		if heard >= c.majority() {
			c.lonely[n.idx] = w.now
			continue
		}
		if st := n.core.Status(); st.Master && st.OK && w.now-c.lonely[n.idx] > int64(3*w.cfg.NodeTimeout+time.Second) {
			w.violate("minority: n%d is ok, %v after it heard from a majority", n.idx, time.Duration(w.now-c.lonely[n.idx]))
			return
		}
	}
	if c.forgotten != nil && w.now > c.forgetBy && w.now < c.forgetBy+int64(40*time.Second) {
		for _, n := range w.nodes {
			if n.alive {
				if _, ok := n.core.Peer(c.forgotten.id); ok {
					w.violate("forgotten: n%d knows n%d again", n.idx, c.forgotten.idx)
					return
				}
			}
		}
	}
}

// agreed reports whether all living nodes agree, and why not otherwise.
func (c *cChecker) agreed() (bool, string) {
	w := c.w
	var owners []string
	handed := map[int]string{}
	epochs := map[uint64]int{}
	for _, n := range w.nodes {
		if n.gone {
			continue
		}
		if !n.alive {
			return false, fmt.Sprintf("n%d is down", n.idx)
		}
		st := n.core.Status()
		if !st.OK {
			return false, fmt.Sprintf("n%d is in state fail", n.idx)
		}
		if st.Master {
			if st.Slots == 0 {
				return false, fmt.Sprintf("n%d is a master without slots", n.idx)
			}
			if o, ok := epochs[st.ConfigEpoch]; ok {
				return false, fmt.Sprintf("n%d and n%d have config epoch %d", o, n.idx, st.ConfigEpoch)
			}
			epochs[st.ConfigEpoch] = n.idx
		} else if n.data.follow == nil || n.data.follow.id != st.MasterID || !n.data.up {
			return false, fmt.Sprintf("n%d does not replicate %.6s", n.idx, st.MasterID)
		}
		for _, o := range w.nodes {
			p, ok := n.core.Peer(o.id)
			switch {
			case o.gone:
			case !ok:
				return false, fmt.Sprintf("n%d does not know n%d", n.idx, o.idx)
			case p.Flags&(cluster.FlagFail|cluster.FlagPFail|cluster.FlagHandshake|cluster.FlagNoAddr) != 0:
				return false, fmt.Sprintf("n%d sees flags %x at n%d", n.idx, p.Flags, o.idx)
			case o != n && !p.Connected:
				return false, fmt.Sprintf("n%d has no link to n%d", n.idx, o.idx)
			case o.core != nil && p.MasterID != o.core.Status().MasterID && o.core.Status().MasterID != "":
				return false, fmt.Sprintf("n%d takes n%d for a replica of %.6s", n.idx, o.idx, p.MasterID)
			}
		}
		for shard := range w.masters {
			from, to := shardRange(shard, w.masters)
			a, _ := n.core.SlotOwner(from)
			b, _ := n.core.SlotOwner(to)
			if a == "" || a != b {
				return false, fmt.Sprintf("n%d: shard %d is owned by %.6s and %.6s", n.idx, shard, a, b)
			}
			if len(owners) <= shard {
				owners = append(owners, a)
			} else if owners[shard] != a {
				return false, fmt.Sprintf("n%d: shard %d is owned by %.6s, others say %.6s", n.idx, shard, a, owners[shard])
			}
		}
		if why := cmp.Or(c.handedOver(n, handed), c.openMarks(n)); why != "" {
			return false, fmt.Sprintf("n%d: %s", n.idx, why)
		}
	}
	for slot := range c.moved {
		want, _ := w.nodes[0].core.SlotOwner(slot)
		for _, n := range w.nodes {
			if got, _ := n.core.SlotOwner(slot); got != want || got == "" {
				return false, fmt.Sprintf("n%d: slot %d belongs to %.6s, n0 says %.6s", n.idx, slot, got, want)
			}
		}
	}
	return true, ""
}
