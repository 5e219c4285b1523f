package sim

import (
	"time"

	"holdfast/internal/redis/cluster/slot"
	"holdfast/internal/redis/slotmove"
)

// Who owns which slots: the rules of Redis Cluster, and the ones that a
// handover needs, as simple as they can be said.

const none = -1

// mView is what a node knows of the cluster, as nodes.conf keeps it.
type mView struct {
	epoch     uint64
	voted     uint64
	master    []int    // by node: none for a master
	config    []uint64 // by node: its config epoch
	heirOf    []int    // by node: whose place it took
	owner     []int    // by slot
	unclaimed []bool   // by slot: its owner does not claim it any more
	taken     []int    // by slot: who gave it to us, while that one may not know
	since     []uint64 // by slot: the epoch in which its owner got it; 0: unknown
}

func (v *mView) clone() mView {
	c := *v
	c.master = append([]int(nil), v.master...)
	c.config = append([]uint64(nil), v.config...)
	c.heirOf = append([]int(nil), v.heirOf...)
	c.owner = append([]int(nil), v.owner...)
	c.unclaimed = append([]bool(nil), v.unclaimed...)
	c.taken = append([]int(nil), v.taken...)
	c.since = append([]uint64(nil), v.since...)
	return c
}

// mClaim is a master's word on what it owns; or somebody else's, about it.
type mClaim struct {
	epoch  uint64
	origin int
	master int
	config uint64
	claims []bool
}

// firstView is the configured cluster.
func (n *mNode) firstView() {
	w := n.w
	v := mView{epoch: uint64(w.masters), owner: make([]int, len(w.slots)), unclaimed: make([]bool, len(w.slots)), taken: make([]int, len(w.slots)), since: make([]uint64, len(w.slots))}
	for i, o := range w.nodes {
		v.master = append(v.master, o.bootMaster)
		v.heirOf = append(v.heirOf, none)
		e := uint64(0)
		if o.bootMaster == none {
			e = uint64(i + 1)
		}
		v.config = append(v.config, e)
	}
	for i := range v.owner {
		v.owner[i], v.taken[i] = i/mSlotsPerShard, none
	}
	n.view = v
	n.saveView(true)
}

// saveView is nodes.conf: written, or also synced.
func (n *mNode) saveView(sync bool) {
	n.conf = n.view.clone()
	if sync {
		n.confSynced = n.conf
	}
}

func (n *mNode) isMaster() bool { return n.view.master[n.idx] == none }

func (n *mNode) slotsOf(i int) (count int) {
	for _, o := range n.view.owner {
		if o == i {
			count++
		}
	}
	return count
}

// votes counts the masters with slots, as n knows them, and those heard lately.
func (n *mNode) majority() (size, heard int) {
	for i, m := range n.view.master {
		if m != none || n.slotsOf(i) == 0 {
			continue
		}
		size++
		if i == n.idx || n.heard[i] > n.startedAt && n.w.now-n.heard[i] < int64(mNodeTimeout) {
			heard++
		}
	}
	return size, heard
}

// ok: the cluster serves, as far as n can tell.
func (n *mNode) ok() bool {
	size, heard := n.majority()
	if heard < size/2+1 {
		n.minority = n.w.now
		return false
	}
	if n.w.now-n.minority < int64(mRejoin) {
		return false // it may have been replaced
	}
	if n.w.whole {
		for _, o := range n.view.owner {
			if o == none || n.failing(o) {
				return false
			}
		}
	}
	return true
}

// failing: not heard from for too long.
func (n *mNode) failing(i int) bool {
	return i != n.idx && n.w.now-n.seen[i] > int64(mNodeTimeout)
}

// busTick is a heartbeat.
func (n *mNode) busTick() {
	n.w.at(n, n.w.ms(150, 350), n.busTick)
	n.ok() // notices a minority
	n.broadcast()
	n.stand()
}

func (n *mNode) broadcast() {
	for _, o := range n.w.nodes {
		if o != n {
			n.tellNode(o, n.idx)
		}
	}
}

// tellNode sends what n knows of a node, itself mostly.
func (n *mNode) tellNode(to *mNode, about int) {
	w := n.w
	c := mClaim{epoch: n.view.epoch, origin: about, master: n.view.master[about], config: n.view.config[about], claims: make([]bool, len(w.slots))}
	for i, o := range n.view.owner {
		c.claims[i] = o == about && !n.free(i)
	}
	n.busSend(to, func() { to.hear(n, c) })
}

// free: the owner of a slot does not claim it any more; ours when we have given
// it away.
func (n *mNode) free(i int) bool {
	if n.view.owner[i] != n.idx {
		return n.view.unclaimed[i]
	}
	if !n.isMaster() {
		return false
	}
	return n.gave(i)
}

// gave: there is a mark that n, or its master, has given a slot away.
func (n *mNode) gave(i int) bool { return n.core.Given().Has(n.w.slots[i]) }

// dropCopies deletes keys that others own, and that n has from the time when it
// followed its master: they went with the slots, or the owner followed it as well.
func (n *mNode) dropCopies() {
	for i, o := range n.view.owner {
		switch {
		case !n.copies[i], o == none, o != n.idx && n.view.unclaimed[i]:
			continue
		case o != n.idx && !n.w.opts.KeepCopies:
			n.dropKeys(i)
		}
		n.copies[i] = false
	}
}

// letGo: n's master did not claim a slot any more when it was heard last.
func (n *mNode) letGo(i int) bool { return n.view.unclaimed[i] && !n.w.opts.InheritAll }

func (n *mNode) busSend(to *mNode, fn func()) {
	w := n.w
	w.res.BusPacket++
	if w.now < n.mute[to.idx] {
		return
	}
	d := w.delay()
	if w.now < w.busBad {
		if w.chance(3) {
			return
		}
		d += w.ms(0, 700)
	}
	d = max(d, time.Duration(n.busLast[to.idx]-w.now)) // links keep the order
	n.busLast[to.idx] = w.now + int64(d)
	w.after(d, func() {
		if to.alive && !w.isCut(n, to) {
			w.meet(to, to.life, fn)
		}
	})
}

// hear takes a word from the bus.
func (n *mNode) hear(from *mNode, c mClaim) {
	v := &n.view
	v.epoch = max(v.epoch, c.epoch)
	if c.origin == from.idx {
		n.seen[from.idx], n.heard[from.idx] = n.w.now, n.w.now
	}
	if c.origin == n.idx {
		return // what others say of us
	}
	if c.origin != from.idx && c.config <= v.config[c.origin] {
		return // an UPDATE that says nothing new
	}
	if n.knows(c) {
		return
	}
	before := v.clone()
	if v.master[c.origin] != c.master {
		v.master[c.origin] = c.master
		if c.master == none {
			v.inherit(c.origin, before.master[c.origin])
		}
	}
	if c.master != none {
		for i, t := range v.taken {
			if t == c.origin && c.master == n.idx {
				v.taken[i] = none // it has followed its slots
			}
		}
		for i, o := range v.owner {
			if o == c.origin {
				v.owner[i], v.unclaimed[i] = none, false
			}
		}
	} else {
		n.hearClaims(from, c)
		if n.isMaster() {
			n.dropCopies()
		}
	}
	n.afterHearing(before)
}

// knows: there is nothing new in a claim, as most of the time.
func (n *mNode) knows(c mClaim) bool {
	v := &n.view
	if v.master[c.origin] != c.master || v.config[c.origin] != c.config || c.master == none && c.config == v.config[n.idx] {
		return false
	}
	if m := v.master[n.idx]; m != none && v.master[m] != none {
		return false
	}
	for i, o := range v.owner {
		if c.claims[i] != (o == c.origin) || v.unclaimed[i] && o == c.origin || v.taken[i] != none {
			return false
		}
	}
	return true
}

func (n *mNode) hearClaims(from *mNode, c mClaim) {
	v := &n.view
	v.config[c.origin] = max(v.config[c.origin], c.config)
	mine := n.idx // whose slots concern us
	if m := v.master[n.idx]; m != none {
		mine = m
	}
	newMaster, again, stale := false, false, none
	own := from.idx == c.origin
	for i, o := range v.owner {
		switch {
		case !c.claims[i]:
			if o == c.origin {
				v.unclaimed[i] = true
			}
			n.noteGiven(i, c.origin, false)
		case o == c.origin:
			v.unclaimed[i] = false
		case o == none || v.config[o] < c.config || n.vacant(i, c.config) || o == n.idx && n.succeeds(c):
			if n.holdsTaken(i, c.origin) {
				again = true
				continue
			}
			newMaster = newMaster || o == mine
			if !n.isMaster() && o == mine && !n.online() && n.isHeir(c.origin, mine) && !v.unclaimed[i] {
				n.split[i] = true
			}
			v.owner[i], v.unclaimed[i], v.taken[i] = c.origin, false, none
			if own || c.config < v.since[i] {
				v.since[i] = c.config
			}
		default:
			n.noteGiven(i, c.origin, true)
			if v.config[o] > c.config && !n.free(i) {
				stale = o
			}
		}
	}
	if stale != none && own {
		n.tellNode(from, stale)
	}
	if own {
		n.remind(from, c)
	}
	if newMaster && n.slotsOf(mine) == 0 && c.origin != n.idx {
		n.followNode(c.origin)
	}
	collides := n.isMaster() && c.config == v.config[n.idx] && n.idx < c.origin // what its successor claims is gone by now
	for i, t := range v.taken {                                                 // once
		if again && t != none && (t == c.origin || n.isHeir(c.origin, t)) {
			v.taken[i] = none
		}
	}
	if again || collides {
		n.newEpoch()
		n.saveView(true)
		n.broadcast()
	}
}

// vacant: a slot goes to who claims it in that epoch, because its owner has
// given it away; but not to who had it before.
func (n *mNode) vacant(i int, config uint64) bool {
	return n.free(i) && (config >= n.view.since[i] || n.w.opts.BelieveReplaced)
}

// remind tells who claims slots that n has given away that n had them after it:
// in the epoch in which n got them, so that it beats nobody who has them now.
func (n *mNode) remind(to *mNode, c mClaim) {
	r := mClaim{epoch: n.view.epoch, origin: n.idx, master: none, claims: make([]bool, len(c.claims))}
	for i, o := range n.view.owner {
		r.claims[i] = o == n.idx && !n.free(i)
		if at := n.view.since[i]; o == n.idx && n.free(i) && c.claims[i] && at > c.config && !n.w.opts.BelieveReplaced {
			r.claims[i] = true
			if r.config == 0 || at < r.config {
				r.config = at
			}
		}
	}
	if r.config != 0 {
		n.busSend(to, func() { to.hear(n, r) })
	}
}

func (n *mNode) newEpoch() {
	for _, e := range n.view.config {
		n.view.epoch = max(n.view.epoch, e)
	}
	n.view.epoch++
	n.view.config[n.idx] = n.view.epoch
}

// holdsTaken: i was given to us by that node, or by the one whose heir it is,
// which does not know.
func (n *mNode) holdsTaken(i, claimant int) bool {
	v := &n.view
	t := v.taken[i]
	return t != none && v.owner[i] == n.idx && n.ok() && (t == claimant || n.isHeir(claimant, t))
}

// inherit notes that a took the place of old, which is a's heir no longer.
func (v *mView) inherit(a, old int) {
	v.heirOf[a] = old
	if v.heirOf[old] == a {
		v.heirOf[old] = none
	}
}

// succeeds: who claims was elected in n's place, in the very epoch that n has
// chosen for itself meanwhile.
func (n *mNode) succeeds(c mClaim) bool {
	return c.config == n.view.config[n.idx] && n.isHeir(c.origin, n.idx) && !n.w.opts.DefyHeir
}

func (n *mNode) isHeir(a, old int) bool {
	v := &n.view
	if v.master[old] == a {
		return true
	}
	h := v.heirOf[a]
	for range 4 {
		if h == none || h == old {
			break
		}
		h = v.heirOf[h]
	}
	return h == old
}

func (n *mNode) noteGiven(i, origin int, claims bool) {
	v := &n.view
	t := v.taken[i]
	switch {
	case t == none:
	case v.owner[i] != n.idx:
		v.taken[i] = none
	case t == origin && !claims:
		v.taken[i] = none
	case t != origin && n.isHeir(origin, t):
		v.taken[i] = none
		if claims {
			v.taken[i] = origin
		}
	}
}

// afterHearing tells the rest of the node what has changed.
func (n *mNode) afterHearing(before mView) {
	v := &n.view
	changed, forgotten := false, false
	for i, o := range v.owner {
		if o == before.owner[i] {
			continue
		}
		changed = true
		if before.owner[i] == n.idx && o != none && v.config[o] <= v.config[n.idx] {
			forgotten = true // nobody would believe it again
		}
		if n.dropping[i] && o == n.idx {
			n.dropNow(i)
		}
		if before.owner[i] == n.idx && n.isMaster() {
			n.dropKeys(i)
		}
	}
	for i, m := range v.master {
		changed = changed || m != before.master[i]
	}
	if m := v.master[n.idx]; m != none && v.master[m] != none && v.master[m] != n.idx {
		n.followNode(v.master[m]) // its master is a replica now
	}
	if changed {
		n.saveView(forgotten) // as the Cluster core: nobody waits for what others claim
		n.viewChanged()
	}
}

// dropKeys deletes the keys of a slot that another owns.
func (n *mNode) dropKeys(i int) {
	if !n.core.Holds(n.w.slots[i]) && len(n.data[i]) > 0 {
		n.w.tracef("n%d drops the keys of slot %d, which is of n%d", n.idx, i, n.view.owner[i])
		n.append(mOp{kind: opDel, slot: i})
		n.flush()
	}
}

func (n *mNode) viewChanged() {
	if n.w.opts.Trace != nil {
		n.w.tracef("n%d sees owners %v masters %v", n.idx, n.view.owner, n.view.master)
	}
	if !n.core.Idle() {
		n.post(slotmove.Moved{})
	}
	n.retryWaiting()
}

// followNode makes n a replica.
func (n *mNode) followNode(m int) {
	v := &n.view
	if v.master[n.idx] == m {
		return
	}
	n.w.tracef("n%d becomes a replica of n%d", n.idx, m)
	for i, o := range v.owner {
		if o == n.idx {
			v.owner[i] = none
		}
	}
	v.master[n.idx] = m
	clear(n.split)
	clear(n.copies)
	n.saveView(true)
	n.becomeReplica(m)
}

// stand is an election, when the master is gone.
func (n *mNode) stand() {
	w, v := n.w, &n.view
	m := v.master[n.idx]
	if m == none || !n.failing(m) || !n.fit || n.slotsOf(m) == 0 || w.now < n.standAt {
		return
	}
	n.standAt = w.now + int64(w.ms(600, 1500))
	n.askVotes(m, false)
}

func (n *mNode) askVotes(m int, manual bool) {
	w, v := n.w, &n.view
	v.epoch++
	n.election = v.epoch
	n.votes = 0
	epoch, config := v.epoch, v.config[m]
	claims := make([]bool, len(w.slots))
	for i, o := range v.owner {
		claims[i] = o == m && !n.letGo(i)
	}
	w.tracef("n%d stands for election in epoch %d to replace n%d", n.idx, epoch, m)
	for _, o := range w.nodes {
		if o != n {
			n.busSend(o, func() { o.askedVote(n, m, epoch, config, claims, manual) })
		}
	}
}

func (n *mNode) askedVote(from *mNode, m int, epoch, config uint64, claims []bool, manual bool) {
	v := &n.view
	if !n.isMaster() || n.slotsOf(n.idx) == 0 || epoch <= v.voted || epoch < v.epoch || !manual && !n.failing(m) {
		v.epoch = max(v.epoch, epoch)
		return
	}
	v.epoch = epoch
	for i, c := range claims {
		if o := v.owner[i]; c && o != none && o != m && v.config[o] > config && !n.vacant(i, config) {
			return
		}
	}
	v.voted = epoch
	n.saveView(true)
	n.busSend(from, func() { from.gotVote(m, epoch) })
}

func (n *mNode) gotVote(m int, epoch uint64) {
	v := &n.view
	if n.election != epoch || v.master[n.idx] != m {
		return
	}
	n.votes++
	if size, _ := n.majority(); n.votes < size/2+1 {
		return
	}
	n.election = 0
	for i := range n.copies {
		n.copies[i] = n.split[i] && !n.online()
	}
	before := v.clone()
	v.master[n.idx] = none
	v.inherit(n.idx, m)
	v.config[n.idx] = epoch
	for i, o := range v.owner {
		if o == m && n.letGo(i) && !n.gave(i) {
			n.copies[i] = true
		} else if o == m {
			v.owner[i], v.unclaimed[i] = n.idx, false
			if !n.free(i) { // what m had given is older
				v.since[i] = epoch
			}
		}
	}
	n.saveView(true)
	n.w.res.Failovers++
	n.w.tracef("n%d is elected in epoch %d in place of n%d", n.idx, epoch, m)
	n.w.check.promoted(n, n.w.nodes[m])
	n.becomeMaster()
	n.afterHearing(before)
	n.dropCopies()
	n.broadcast()
}

// take claims slots, as cluster.TakeSlots does.
func (n *mNode) take(set *slot.Set, from string, epoch uint64) string {
	v := &n.view
	why := ""
	f := n.w.byID[from]
	switch {
	case !n.isMaster():
		return "this node is a replica"
	case !n.ok():
		return "the cluster is down"
	}
	n.w.each(set, func(i int) {
		if o := v.owner[i]; o != n.idx && (o == none || o != f.idx) && (!v.unclaimed[i] || n.w.opts.TakeClaimedOnly) {
			why = "a slot belongs to somebody else"
		}
	})
	if why != "" {
		return why
	}
	var got []int
	before := v.clone()
	n.w.each(set, func(i int) {
		if v.owner[i] != n.idx {
			v.owner[i], v.unclaimed[i], v.taken[i] = n.idx, false, f.idx
			got = append(got, i)
		}
	})
	v.epoch = max(v.epoch, epoch)
	if len(got) > 0 || v.config[n.idx] <= epoch {
		n.newEpoch()
	}
	for _, i := range got {
		v.since[i] = v.config[n.idx]
	}
	n.saveView(true)
	n.deposed = false // it owns these, whatever became of others
	n.broadcast()
	n.afterHearing(before)
	return ""
}

// manualFailover is CLUSTER FAILOVER at a replica.
func (w *mWorld) manualFailover(n *mNode) {
	if !n.alive || n.paused || n.isMaster() || !n.online() {
		return
	}
	m := w.nodes[n.view.master[n.idx]]
	w.tracef("CLUSTER FAILOVER at n%d", n.idx)
	n.busSend(m, func() {
		if !m.isMaster() || m.failPause || m.view.master[n.idx] != m.idx {
			return
		}
		if !m.core.Idle() {
			m.post(slotmove.Disturbed{Why: "writes are paused for a failover"})
			if !m.alive {
				return
			}
		}
		m.failPause = true
		w.tracef("n%d pauses writes at %d", m.idx, m.end())
		end := m.end()
		w.at(m, 2*time.Second, func() { m.endFailPause() })
		life := n.life
		var poll func()
		tries := 0
		poll = func() {
			if n.life != life || !n.alive || n.isMaster() || tries > 150 {
				return
			}
			if tries++; n.pos() >= end && n.hist == m.hist {
				n.askVotes(m.idx, true)
				return
			}
			w.after(10*time.Millisecond, poll)
		}
		w.after(w.delay(), poll)
	})
}
