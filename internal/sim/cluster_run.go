package sim

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"time"

	"holdfast/internal/redis/cluster"
	"holdfast/internal/redis/cluster/slot"
)

// RunCluster plays one world: a calm start, a time of faults, then calm until
// all agree. The same options give the same result.
func RunCluster(o ClusterOptions) ClusterResult {
	w := newCWorld(o)
	w.chooseSize()
	w.tune()
	w.build()
	w.after(cDataTick, w.replicate)
	if w.opts.Kind == KindStream {
		w.buildGroups()
	}
	w.runFor(4 * time.Second)
	if w.opts.Kind == KindJoin {
		w.join()
	}
	if w.opts.Kind == KindCollision || w.opts.Kind == KindJoin {
		w.awaitAgreement("at the start")
	}
	w.faulty = true
	faults := w.opts.Faults
	if faults == 0 {
		faults = 12 * time.Second
	}
	w.plot(faults)
	w.runFor(faults)
	w.faulty = false
	w.calmDown()
	calm := w.now
	w.awaitAgreement("after the faults")
	w.res.Agreed = time.Duration(w.now - calm)
	w.res.Virtual = time.Duration(w.now)
	return w.res
}

func (w *cWorld) chooseSize() {
	o := &w.opts
	if o.Masters == 0 {
		o.Masters = 3 + w.rng.IntN(3)
		switch w.rng.IntN(100) {
		case 0:
			o.Masters = 12
		case 1:
			o.Masters = 8
		}
	}
	if o.Replicas == 0 {
		o.Replicas = 1
		if o.Masters <= 4 && w.rng.IntN(2) == 0 {
			o.Replicas = 2
		}
	}
	switch o.Kind {
	case KindSlow, KindManual, KindHeal:
		o.Replicas = 2
	case KindStale, KindReturn:
		o.Replicas = 1
	case KindMany:
		o.Masters = max(o.Masters, 5)
	}
	w.masters = o.Masters
}

// tune sets directives that matter for a plot.
func (w *cWorld) tune() {
	switch w.opts.Kind {
	case KindStale:
		w.cfg.ReplicaValidityFactor = 2
	case KindReturn:
		w.cfg.ReplicaValidityFactor = 0
	case KindStream: // a replica that never saw its master has no marks either
		w.cfg.ReplicaValidityFactor = []int{10, 2}[w.rng.IntN(2)]
	default:
		w.cfg.ReplicaValidityFactor = []int{10, 10, 2, 0}[w.rng.IntN(4)]
	}
	if w.rng.IntN(4) == 0 {
		w.slow = int64(30 * time.Millisecond)
	}
	w.cfg.RequireFullCoverage = w.rng.IntN(4) != 0
}

// shardRange is the range of slots of shard i of n.
func shardRange(i, n int) (from, to int) {
	return i * cluster.Slots / n, (i+1)*cluster.Slots/n - 1
}

func (w *cWorld) build() {
	total := w.opts.Masters * (1 + w.opts.Replicas)
	for i := range total {
		id := id(w.rng)
		n := &cNode{w: w, idx: i, id: id, ip: fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)}
		w.nodes = append(w.nodes, n)
		w.byIP[n.ip], w.byID[id] = n, n
	}
	w.cut = make([][]bool, total)
	for i := range w.cut {
		w.cut[i] = make([]bool, total)
	}
	mixed := w.rng.IntN(4) == 0 && w.opts.Kind != KindOpen && !w.uniform // some live with nodes that behave as genuine ones
	for _, n := range w.nodes {
		n.plain = mixed && w.rng.IntN(2) == 0
		if !w.noPersist {
			n.disk = w.initialConf(n)
			n.synced = n.disk
		}
		n.data.offset = 1000
		if m := w.initialMaster(n); m != n {
			n.data.ever, n.data.seen = true, 0
		}
		if w.unchecked && w.uniform { // nor do processes look around in step: bursts of a million pings are none of theirs
			w.after(time.Duration(w.rng.Int64N(int64(100*time.Millisecond))), func() { w.start(n) })
			continue
		}
		w.start(n)
	}
}

// initialMaster: nodes 0..Masters-1 are masters, the others replicate them in turn.
func (w *cWorld) initialMaster(n *cNode) *cNode { return w.nodes[n.idx%w.opts.Masters] }

// initialConf is the nodes.conf that a node begins with.
func (w *cWorld) initialConf(me *cNode) []byte {
	var b bytes.Buffer
	if w.confLines == nil {
		for _, n := range w.nodes {
			before, after := w.initialLine(n)
			w.confLines = append(w.confLines, [2]string{before, after})
		}
	}
	for _, n := range w.nodes {
		if w.opts.Kind == KindJoin && n != me {
			continue
		}
		line := w.confLines[n.idx]
		b.WriteString(line[0])
		if n == me {
			b.WriteString("myself,")
		}
		b.WriteString(line[1])
	}
	epoch := w.opts.Masters
	if w.opts.Kind == KindCollision || w.opts.Kind == KindJoin {
		epoch = 0
	}
	fmt.Fprintf(&b, "vars currentEpoch %d lastVoteEpoch 0\n", epoch)
	return b.Bytes()
}

// initialLine is the line of a node in the others' nodes.conf, cut where
// "myself," belongs in its own.
func (w *cWorld) initialLine(n *cNode) (before, after string) {
	m := w.initialMaster(n)
	flags, master := "master", "-"
	if n != m && w.opts.Kind != KindJoin {
		flags, master = "slave", m.id
	}
	epoch := m.idx + 1
	if w.opts.Kind == KindCollision || w.opts.Kind == KindJoin {
		epoch = 0
	}
	slots := ""
	if n == m {
		from, to := shardRange(n.idx, w.opts.Masters)
		slots = fmt.Sprintf(" %d-%d", from, to)
	}
	return fmt.Sprintf("%s %s:6379@16379 ", n.id, n.ip), fmt.Sprintf("%s %s 0 0 %d connected%s\n", flags, master, epoch, slots)
}

// start begins a life of a process from what is on its disk.
func (w *cWorld) start(n *cNode) {
	n.life++
	n.alive, n.paused, n.silent, n.inbox = true, false, false, nil
	n.timerAt, n.startedAt, n.lastFault = 0, w.now, w.now
	n.out, n.in = map[cluster.LinkID]*cLink{}, map[cluster.LinkID]*cLink{}
	n.data.up, n.data.follow, n.data.pausedW = false, nil, false
	var buffer func(int) []byte
	if w.unchecked {
		buffer = w.buffer
	}
	state := n.disk
	if w.noPersist {
		state = w.initialConf(n) // the text of 1,000 nodes, not kept by each of 1,000
	}
	core, err := cluster.New(w.time(), w.cfg, cluster.Options{
		Buffer: buffer, Rand: rand.New(rand.NewPCG(w.opts.Seed, uint64(n.idx)<<32|uint64(n.life))),
		Host: n, State: state, Faults: w.opts.Mutants, Plain: w.opts.Plain || n.plain,
	})
	if err != nil {
		w.violate("n%d cannot start: %v", n.idx, err)
		return
	}
	n.core, n.given = core, slot.Set{}
	n.apply(core.Start(w.time()))
	w.check.lookAround() // it may have FAIL in its nodes.conf
}

// crash ends a process. silent: nobody is told, as if its machine lost power.
// lossy: what was not synced is lost.
func (w *cWorld) crash(n *cNode, silent, lossy bool) {
	if !n.alive {
		return
	}
	w.tracef("crash n%d silent=%v lossy=%v", n.idx, silent, lossy)
	n.alive, n.silent, n.paused, n.inbox, n.lastFault = false, silent, false, nil, w.now
	n.core = nil
	n.settle()
	if lossy {
		n.disk, n.unsynced = n.synced, nil
	}
	if n.data.follow != nil && n.data.up {
		n.data.seen, n.data.up = w.now, false
	}
	w.sweep()
	for _, l := range w.links {
		switch {
		case l.from != n && l.to != n:
		case silent:
			l.open = false
		default:
			w.reset(l)
		}
	}
}

func (w *cWorld) restart(n *cNode) {
	if n.alive || n.gone {
		return
	}
	w.tracef("restart n%d", n.idx)
	for _, o := range w.nodes { // who still believes in an old connection learns better
		if o.alive && n.silent {
			for id, l := range o.out {
				if l.to == n && !l.open && l.toLife != 0 {
					w.queue.push(w.now+w.delay(), cEvent{kind: evReset, dir: toDialer, link: o.out[id], node: o, life: o.life})
				}
			}
		}
	}
	w.start(n)
}

func (w *cWorld) pause(n *cNode, d time.Duration) {
	if !n.alive || n.paused {
		return
	}
	w.tracef("pause n%d for %v", n.idx, d)
	n.paused, n.lastFault = true, w.now
	w.mayBeReplaced(n)
	life := n.life
	w.after(d, func() {
		if n.life == life {
			w.resume(n)
		}
	})
}

func (w *cWorld) resume(n *cNode) {
	if !n.paused || !n.alive {
		return
	}
	w.tracef("resume n%d", n.idx)
	n.paused, n.lastFault = false, w.now
	list := n.inbox
	n.inbox = nil
	life := n.life
	for _, e := range list {
		if n.alive && n.life == life {
			w.handle(e)
		}
	}
	if n.alive && n.life == life {
		n.step(cluster.Timer{})
	}
}

func (w *cWorld) sweep() {
	live := w.links[:0]
	for _, l := range w.links {
		if l.open {
			live = append(live, l)
		}
	}
	clear(w.links[len(live):])
	w.links = live
}

func (w *cWorld) cutOne(a, b *cNode) {
	if a == b || w.cut[a.idx][b.idx] {
		return
	}
	w.cut[a.idx][b.idx] = true
	w.cuts++
	a.lastFault, b.lastFault = w.now, w.now
}

// isolate cuts a group off, both ways.
func (w *cWorld) isolate(in func(*cNode) bool) {
	for _, a := range w.nodes {
		for _, b := range w.nodes {
			if in(a) != in(b) {
				w.cutOne(a, b)
			}
		}
	}
}

// heal ends all partitions: what was held back arrives, or the connection
// turns out to be broken.
func (w *cWorld) heal() {
	if w.cuts == 0 {
		return
	}
	w.tracef("heal")
	for i := range w.cut {
		for j := range w.cut[i] {
			if w.cut[i][j] {
				w.cut[i][j] = false
				w.nodes[i].lastFault, w.nodes[j].lastFault = w.now, w.now
			}
		}
	}
	w.cuts = 0
	w.sweep()
	for _, l := range append([]*cLink(nil), w.links...) {
		if len(l.held[0])+len(l.held[1]) == 0 {
			continue
		}
		if w.rng.IntN(3) == 0 {
			w.reset(l)
			continue
		}
		for dir := range l.held {
			list := l.held[dir]
			l.held[dir] = nil
			for _, p := range list {
				w.transmit(l, uint8(dir), p, false)
			}
		}
	}
}

// plot spreads the faults of a run over the time until then.
func (w *cWorld) plot(d time.Duration) {
	switch w.opts.Kind {
	case KindForget:
		w.plotForget()
		return
	case KindReturn:
		w.plotReturn()
		return
	case KindStale:
		w.plotStale()
		return
	case KindSlow:
		w.plotSlow()
		return
	case KindMany:
		w.plotMany()
		return
	case KindMinority:
		w.plotMinority()
		return
	case KindHeal:
		w.plotHeal()
		return
	case KindOpen:
		w.plotOpen()
		return
	}
	for t := time.Duration(0); t < d; t += time.Duration(200+w.rng.IntN(2500)) * time.Millisecond {
		w.after(t, w.fault)
	}
	if w.opts.Kind == KindMove {
		for t := time.Duration(0); t < d; t += w.ms(50, 400) {
			w.after(t, w.moveSlot)
		}
	}
	if w.opts.Kind == KindStream {
		for t := time.Duration(0); t < d; t += w.ms(20, 200) {
			w.after(t, w.handOver)
		}
	}
	if w.opts.Kind == KindManual {
		for t := time.Duration(0); t < d; t += time.Duration(300+w.rng.IntN(1500)) * time.Millisecond {
			w.after(t, w.manualFailover)
		}
	}
}

func (w *cWorld) pick() *cNode { return w.nodes[w.rng.IntN(len(w.nodes))] }

// pickMaster is a node that serves slots.
func (w *cWorld) pickMaster() *cNode {
	for range 20 {
		if n := w.pick(); n.alive && n.core.Status().Slots > 0 {
			return n
		}
	}
	return w.nodes[0]
}

func (w *cWorld) ms(from, to int) time.Duration {
	return time.Duration(from+w.rng.IntN(to-from)) * time.Millisecond
}

// fault does one random bad thing, or ends one.
func (w *cWorld) fault() {
	n := w.pick()
	if w.rng.IntN(2) == 0 {
		n = w.pickMaster()
	}
	switch w.rng.IntN(13) {
	case 0, 1, 2, 3:
		w.crash(n, w.rng.IntN(3) == 0, w.rng.IntN(2) == 0)
		w.after(w.ms(200, 8000), func() { w.restart(n) })
	case 4, 5:
		w.pause(n, w.ms(200, 4000))
	case 6: // one way, from or to many
		for _, o := range w.nodes {
			if w.rng.IntN(2) == 0 {
				w.cutOne(n, o)
			} else if w.rng.IntN(4) == 0 {
				w.cutOne(o, n)
			}
		}
		w.tracef("cut n%d from some", n.idx)
	case 7:
		w.cutOne(n, w.pick())
	case 8:
		w.tracef("isolate n%d", n.idx)
		w.isolate(func(o *cNode) bool { return o == n })
	case 9:
		side := w.rng.Uint64()
		w.tracef("split")
		w.isolate(func(o *cNode) bool { return side>>(o.idx%64)&1 == 0 })
		w.after(w.ms(500, 4000), w.heal)
	case 10, 11:
		w.heal()
	case 12:
		w.sweep()
		if len(w.links) > 0 {
			w.reset(w.links[w.rng.IntN(len(w.links))])
		}
	}
}

func (w *cWorld) manualFailover() {
	n := w.pick()
	if n.alive && !n.paused && !n.core.Status().Master {
		args := []string{"FAILOVER"}
		if w.rng.IntN(3) == 0 {
			args = append(args, "FORCE")
		}
		w.tracef("n%d: CLUSTER %v", n.idx, args)
		w.check.manual[n.idx] = w.now
		n.step(cluster.Command{Args: args})
	}
}

// moveSlot begins or goes on with the move of a slot, as an administrator does
// it: importing, migrating, then the new owner, then the old one.
func (w *cWorld) moveSlot() {
	from, to := w.pickMaster(), w.pickMaster()
	first, last := shardRange(w.rng.IntN(w.masters), w.masters)
	slot := first + (last-first)/2
	if t := w.importer(slot); t != nil { // what was begun goes on
		to = t
		if o, _ := t.ownerOf(slot); w.byID[o] != nil {
			from = w.byID[o]
		}
	}
	if from == to || !from.alive || !to.alive {
		return
	}
	w.check.moved[slot] = true
	s := fmt.Sprint(slot)
	pause := w.ms(1, 20)
	if w.rng.IntN(3) == 0 { // many keys, or an administrator who is slow
		pause = w.ms(100, 2000)
	}
	for i, c := range []struct {
		n    *cNode
		args []string
	}{
		{to, []string{"SETSLOT", s, "IMPORTING", from.id}},
		{from, []string{"SETSLOT", s, "MIGRATING", to.id}},
		{to, []string{"SETSLOT", s, "NODE", to.id}},
		{from, []string{"SETSLOT", s, "NODE", to.id}},
	} {
		w.after(time.Duration(i)*pause, func() {
			// Each step only after the one before it was acknowledged, and on a node
			// that is in order: a new epoch of one that was replaced would not be.
			giver, _ := from.ownerOf(slot)
			taker, _ := to.ownerOf(slot)
			if c.n.alive && !c.n.paused && c.n.core.Status().OK && giver == from.id && (i < 3 || taker == to.id) {
				w.tracef("n%d: CLUSTER %v", c.n.idx, c.args)
				c.n.step(cluster.Command{Args: c.args})
			}
		})
	}
}

// importer is a node with an importing mark for a slot, nil if nobody has one.
func (w *cWorld) importer(slot int) *cNode {
	for _, n := range w.nodes {
		if n.alive && n.core.View().Importing(slot) != nil {
			return n
		}
	}
	return nil
}

func (n *cNode) ownerOf(slot int) (string, uint64) {
	if !n.alive {
		return "", 0
	}
	return n.core.SlotOwner(slot)
}

// closeSlots ends moves that the faults interrupted, and gives slots that
// nobody owns any more to somebody.
func (w *cWorld) closeSlots() {
	for slot := range cluster.Slots {
		if !w.check.moved[slot] {
			continue
		}
		for _, n := range w.nodes {
			if n.alive && n.core.Status().Master {
				n.step(cluster.Command{Args: []string{"SETSLOT", fmt.Sprint(slot), "STABLE"}})
			}
		}
	}
}

// fixSlots does what redis-cli --cluster fix does: a moved slot that nobody
// serves is given to a master, and an owner that some do not believe takes a
// new epoch. As in Redis, a move that meets a failover can leave either behind.
func (w *cWorld) fixSlots() {
	for slot := range cluster.Slots {
		if !w.check.moved[slot] {
			continue
		}
		var owner, candidate *cNode
		newest := uint64(0)
		for _, n := range w.nodes {
			id, epoch := n.core.SlotOwner(slot)
			if id == n.id && epoch >= newest {
				owner, newest = n, epoch
			}
			if o := w.byID[id]; o != nil && o.core.Status().Master {
				candidate = o
			}
		}
		s := fmt.Sprint(slot)
		switch {
		case owner != nil && !w.believed(owner, slot):
			owner.step(cluster.Command{Args: []string{"BUMPEPOCH"}})
		case owner == nil:
			if candidate == nil { // nobody knows an owner: any master will do
				candidate = w.pickMaster()
			}
			candidate.step(cluster.Command{Args: []string{"DELSLOTS", s}})
			candidate.step(cluster.Command{Args: []string{"ADDSLOTS", s}})
			candidate.step(cluster.Command{Args: []string{"BUMPEPOCH"}})
		}
	}
}

func (w *cWorld) believed(owner *cNode, slot int) bool {
	for _, n := range w.nodes {
		if id, _ := n.core.SlotOwner(slot); id != owner.id {
			return false
		}
	}
	return true
}

// plotForget removes the last replica, node by node, while others gossip.
func (w *cWorld) plotForget() {
	dead := w.nodes[len(w.nodes)-1]
	dead.gone = true
	w.crash(dead, false, false)
	w.after(w.ms(2500, 3000), func() { w.check.forgotten, w.check.forgetBy = dead, w.now+int64(5700*time.Millisecond) })
	for _, n := range w.nodes {
		if n == dead {
			continue
		}
		w.after(w.ms(3000, 8000), func() { n.step(cluster.Command{Args: []string{"FORGET", dead.id}}) })
	}
}

// plotReturn: the master dies, its replica takes over and dies for good, the
// old master returns and must not serve its old claim.
func (w *cWorld) plotReturn() {
	m := w.nodes[w.rng.IntN(w.masters)]
	r := w.nodes[m.idx+w.masters]
	w.crash(m, w.rng.IntN(2) == 0, false)
	w.after(w.ms(4000, 5000), func() { w.crash(r, false, false); r.gone = true })
	w.after(w.ms(5000, 7000), func() { w.restart(m) })
}

// plotStale: the replica lost its master's data link long ago.
func (w *cWorld) plotStale() {
	m := w.nodes[w.rng.IntN(w.masters)]
	r := w.nodes[m.idx+w.masters]
	r.data.stuck = true
	w.after(w.ms(5500, 6000), func() { w.crash(m, false, false) })
	w.after(w.ms(10500, 11500), func() { w.restart(m); r.data.stuck = false })
}

// plotSlow: of two replicas one is behind; it must not win.
func (w *cWorld) plotSlow() {
	m := w.nodes[w.rng.IntN(w.masters)]
	r := w.nodes[m.idx+w.masters*(1+w.rng.IntN(2))]
	r.data.lag = 500
	w.check.slow = r
	w.after(w.ms(3000, 4000), func() { w.crash(m, w.rng.IntN(2) == 0, false) })
	w.after(w.ms(8000, 9000), func() { w.restart(m); r.data.lag = 0; w.check.slow = nil })
}

// plotMany: as many masters as still leave a majority die at once.
func (w *cWorld) plotMany() {
	kill := (w.masters - 1) / 2
	w.after(w.ms(100, 900), func() {
		for i := range kill {
			w.crash(w.nodes[i], false, false)
		}
	})
	for i := range kill {
		w.after(w.ms(9000, 11000), func() { w.restart(w.nodes[i]) })
	}
}

// plotMinority cuts some masters, with or without replicas, off for long.
func (w *cWorld) plotMinority() {
	away := map[*cNode]bool{}
	for i := range (w.masters - 1) / 2 {
		away[w.nodes[i]] = true
		if w.rng.IntN(2) == 0 {
			away[w.nodes[i+w.masters]] = true
		}
	}
	w.isolate(func(n *cNode) bool { return away[n] })
	w.after(w.ms(7000, 9000), w.heal)
}

// plotHeal: a master and one of its replicas are cut off, the other replica
// takes over; the old master dies, and a moment after its replica has noticed,
// the partition heals but for the link to the new master.
func (w *cWorld) plotHeal() {
	m := w.nodes[w.rng.IntN(w.masters)]
	r := w.nodes[m.idx+w.masters*(1+w.rng.IntN(2))]
	w.isolate(func(n *cNode) bool { return n == m || n == r })
	at := w.ms(3500, 4500)
	w.after(at, func() { w.crash(m, false, false) })
	w.after(at+w.ms(1000, 1300), func() {
		w.heal()
		w.isolatePair(r, w.owner(m.idx)) // who took over cannot tell it yet
	})
	w.after(w.ms(8000, 8500), w.heal)
	w.after(w.ms(8500, 9000), func() { w.restart(m) })
}

// plotOpen: slots are on their way from one master to another, key by key, when
// source or target is replaced by its replica. The marks stay open, and still
// all agree on who owns the slots.
func (w *cWorld) plotOpen() {
	perm := w.rng.Perm(w.masters)
	source, target := w.nodes[perm[0]], w.nodes[perm[1]]
	for shard := range w.masters {
		if shard == target.idx {
			continue
		}
		first, last := shardRange(shard, w.masters)
		slot := first + (last-first)/2
		w.check.moved[slot] = true
		s := fmt.Sprint(slot)
		target.step(cluster.Command{Args: []string{"SETSLOT", s, "IMPORTING", w.nodes[shard].id}})
		w.nodes[shard].step(cluster.Command{Args: []string{"SETSLOT", s, "MIGRATING", target.id}})
	}
	for i, n := range []*cNode{source, target} {
		if i == 1 && w.rng.IntN(2) == 0 {
			break
		}
		at := w.ms(100+i*3500, 1000+i*4000)
		w.after(at, func() { w.crash(n, w.rng.IntN(2) == 0, false) })
		w.after(at+w.ms(1500, 7000), func() { w.restart(n) })
	}
}

// openMarks: a mark that is still there names a master that is alive.
func (c *cChecker) openMarks(n *cNode) string {
	if c.w.opts.Kind != KindOpen {
		return ""
	}
	v, why := n.core.View(), ""
	v.EachMoving(func(s int) {
		for _, o := range []*cluster.NodeView{v.Importing(s), v.Migrating(s)} {
			if o != nil && c.w.byID[o.ID].core.Status().Slots == 0 {
				why = fmt.Sprintf("slot %d moves from or to %.6s, which has no slots", s, o.ID)
			}
		}
	})
	return why
}

// owner is the node that owns a shard in its own eyes, with the newest epoch.
func (w *cWorld) owner(shard int) (owner *cNode) {
	from, _ := shardRange(shard, w.masters)
	newest := uint64(0)
	for _, n := range w.nodes {
		if n.alive {
			if id, epoch := n.core.SlotOwner(from); id == n.id && epoch >= newest {
				owner, newest = n, epoch
			}
		}
	}
	return owner
}

func (w *cWorld) isolatePair(a, b *cNode) {
	if a != nil && b != nil {
		w.cutOne(a, b)
		w.cutOne(b, a)
	}
}

// join makes one cluster of nodes that know nobody.
func (w *cWorld) join() {
	first := w.nodes[0]
	for i, n := range w.nodes[1:] {
		w.after(time.Duration(i*20)*time.Millisecond, func() {
			n.step(cluster.Command{Args: []string{"MEET", first.ip, "6379"}})
		})
	}
	w.runFor(8 * time.Second)
	for _, n := range w.nodes {
		m := w.initialMaster(n)
		if n == m || w.done {
			continue
		}
		if _, ok := n.core.Peer(m.id); !ok {
			w.violate("join: n%d does not know n%d after 8 s", n.idx, m.idx)
			return
		}
		n.data.offset = 0
		n.step(cluster.Command{Args: []string{"REPLICATE", m.id}})
	}
}

// calmDown ends all faults.
func (w *cWorld) calmDown() {
	w.heal()
	w.slow = 0
	for _, n := range w.nodes {
		w.resume(n)
		w.restart(n)
		n.data.stuck, n.data.lag = false, 0
	}
	if w.opts.Kind != KindOpen {
		w.closeSlots()
	}
	w.tracef("calm")
}

func (w *cWorld) awaitAgreement(when string) {
	end := w.now + int64(cAgreeWithin)
	why := ""
	for round := 1; !w.done && w.now < end; round++ {
		if w.opts.Kind == KindMove && round%50 == 0 { // an administrator looks every 5 s
			w.fixSlots()
		}
		var ok bool
		if ok, why = w.check.agreed(); ok {
			return
		}
		w.runFor(100 * time.Millisecond)
	}
	if !w.done {
		w.violate("agreement %s: none within %v: %s", when, cAgreeWithin, why)
	}
}
