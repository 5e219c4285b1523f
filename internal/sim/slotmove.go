package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"holdfast/internal/redis/cluster/slot"
	"holdfast/internal/redis/slotmove"
)

// The simulated world of slots that move as a stream (package slotmove). Each
// node has the core, a journal, replication, the part of the shell that carries
// out effects, and a model of what the cluster bus does for ownership: claims
// with epochs, elections, masters in a minority. The bus is a model of its own,
// not the Cluster core: that one has its world in cluster*.go, and here the
// order of its packets is to be as bad as the rules allow.
//
//	slotmove.go         the run, time, connections, faults
//	slotmove_bus.go     who owns which slots
//	slotmove_node.go    the server around the core
//	slotmove_data.go    journal, replication, feeds
//	slotmove_check.go   clients, and what must hold (mChecker)

// MoveOptions choose one run.
type MoveOptions struct {
	Seed    uint64
	Kind    MoveKind
	Mutants slotmove.Mutants
	Faults  time.Duration // how long faults happen; 0: 6 s

	// Mistakes of the shell.
	NoReplicaWait bool // a Sync does not wait for the replicas
	NoSync        bool // a Sync does not sync

	// And of the bus.
	DefyHeir        bool // a replaced master that has its successor's epoch takes the next one
	BelieveReplaced bool // a replaced master gets back what its successor has given away
	InheritAll      bool // an heir takes slots that its master did not claim any more
	KeepCopies      bool // an heir keeps the keys of slots that went to others before it was elected
	TakeClaimedOnly bool // no slot is taken whose owner, as far as is known, has let it go long ago

	Trace func(string)
}

// MoveKind is the plot of a run.
type MoveKind uint8

// Plots.
const (
	MoveCalm      MoveKind = iota // nothing breaks
	MoveBreaks                    // connections break, answers are late or lost
	MoveKills                     // processes are killed, and started again before anybody takes over
	MovePower                     // and lose what was not synced
	MovePauses                    // processes stand still
	MoveCuts                      // the network is partitioned
	MoveFailovers                 // masters die for long enough to be replaced
	MoveManual                    // CLUSTER FAILOVER
	MoveFlush                     // FLUSHALL
	MoveClaims                    // nobody hears who claims slots, and often it dies then
	MoveMixed                     // everything
	MoveReturns                   // who was replaced comes back when slots have been given away, and the target dies
	moveKinds
)

var moveKindNames = [moveKinds]string{"calm", "breaks", "kills", "power", "pauses", "cuts", "failovers", "manual", "flush", "claims", "mixed", "returns"}

func (k MoveKind) String() string { return moveKindNames[k] }

// MoveResult is what became of a run.
type MoveResult struct {
	Violations           []string
	Kind                 MoveKind
	Virtual              time.Duration
	Settled              time.Duration // from the end of faults until no job was left
	Events               int
	Jobs, Done           int // imports that began; of these, that took over
	Failovers            int
	Writes, Lost         int // acknowledged; of these, lost as a failover or a power cut may
	Crashes              int
	InDoubt, TakenBack   int // marks of the interesting ways
	Elections, BusPacket int
}

// mFaults is what may happen in a run.
type mFaults struct {
	breaks, late, kills, power, pauses, cuts, deaths, manual, flush bool
}

func faultsOf(k MoveKind) mFaults {
	switch k {
	case MoveBreaks:
		return mFaults{breaks: true, late: true}
	case MoveKills:
		return mFaults{kills: true}
	case MovePower:
		return mFaults{power: true, kills: true}
	case MovePauses:
		return mFaults{pauses: true, late: true}
	case MoveCuts:
		return mFaults{cuts: true, late: true}
	case MoveFailovers:
		return mFaults{deaths: true, kills: true}
	case MoveManual:
		return mFaults{manual: true, breaks: true}
	case MoveFlush:
		return mFaults{flush: true, breaks: true}
	case MoveClaims:
		return mFaults{kills: true, breaks: true}
	case MoveReturns:
		return mFaults{deaths: true}
	case MoveMixed:
		return mFaults{true, true, true, true, true, true, true, true, true}
	}
	return mFaults{}
}

const (
	mNodeTimeout   = time.Second
	mRejoin        = time.Second // a node that was in a minority waits so long
	mSettleWithin  = 60 * time.Second
	mCallTimeout   = 2 * time.Second
	mSlotsPerShard = 3
)

// mEvent is something that happens: to a node in one of its lives, or to the
// world.
type mEvent struct {
	node *mNode
	life int
	fn   func()
}

// mWorld is one run.
type mWorld struct {
	opts   MoveOptions
	rng    *rand.Rand
	epoch  time.Time
	now    int64
	queue  agenda[mEvent]
	faults mFaults
	faulty bool // faults happen now
	midway int  // something happens in the middle of a node's effects, one time in so many; 0: never
	slow   time.Duration
	busBad int64 // packets of the bus are late and get lost until then

	nodes   []*mNode
	byID    map[string]*mNode
	masters int
	slots   []int // the numbers of the slots that there are
	numOf   map[int]int
	whole   bool // cluster-require-full-coverage
	cut     [][]bool
	conns   []*mConn
	jobs    int
	check   mChecker
	res     MoveResult
	done    bool
}

// RunMoves plays one world: masters with replicas, clients, and administrators
// who have slots moved while things break; then calm, until no move is left.
// The same options give the same result.
func RunMoves(o MoveOptions) MoveResult {
	w := newMWorld(o)
	w.build()
	w.runFor(1500 * time.Millisecond)
	w.faulty = true
	faults := o.Faults
	if faults == 0 {
		faults = 6 * time.Second
	}
	w.after(0, w.administer)
	w.after(w.ms(20, 300), w.fault)
	w.runFor(faults)
	w.calmDown()
	w.settle()
	w.res.Virtual = time.Duration(w.now)
	return w.res
}

func newMWorld(o MoveOptions) *mWorld {
	w := &mWorld{opts: o, rng: rand.New(rand.NewPCG(o.Seed, 0x510735)), epoch: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		byID: map[string]*mNode{}, numOf: map[int]int{}, faults: faultsOf(o.Kind)}
	w.res.Kind = o.Kind
	w.masters = 3
	if w.rng.IntN(4) == 0 {
		w.masters += 1 + w.rng.IntN(2)
	}
	w.whole = w.rng.IntN(2) == 0
	w.slow = w.ms(1, 12)
	if w.faults != (mFaults{}) {
		w.midway = 8 + w.rng.IntN(50)
	}
	for i := range w.masters * mSlotsPerShard {
		n := i*997 + 5
		w.slots = append(w.slots, n)
		w.numOf[n] = i
	}
	w.check.init(w)
	return w
}

// build makes the nodes and lets them know each other.
func (w *mWorld) build() {
	for i := range w.masters {
		w.addNode(i, -1)
	}
	for m := range w.masters {
		replicas := 1
		switch w.rng.IntN(6) {
		case 0:
			replicas = 2
		case 1:
			replicas = 0
		}
		if m >= 2 {
			replicas = w.rng.IntN(2)
		}
		for range replicas {
			w.addNode(len(w.nodes), m)
		}
	}
	w.cut = make([][]bool, len(w.nodes))
	for i := range w.cut {
		w.cut[i] = make([]bool, len(w.nodes))
	}
	for _, n := range w.nodes {
		n.firstView()
	}
	for _, n := range w.nodes {
		n.start()
	}
	for c := range 3 {
		w.after(w.ms(0, 50), func() { w.check.client(c) })
	}
	w.after(w.ms(0, 20), w.check.periodic)
}

func (w *mWorld) addNode(i, master int) {
	n := &mNode{w: w, idx: i, id: fmt.Sprintf("%040x", 0xa0+i), bootMaster: master}
	w.nodes = append(w.nodes, n)
	w.byID[n.id] = n
}

func (w *mWorld) time() time.Time { return w.epoch.Add(time.Duration(w.now)) }

func (w *mWorld) ms(from, to int) time.Duration {
	return time.Duration(from)*time.Millisecond + time.Duration(w.rng.Int64N(int64(to-from)*int64(time.Millisecond)+1))
}

func (w *mWorld) chance(oneIn int) bool { return w.rng.IntN(oneIn) == 0 }

func (w *mWorld) after(d time.Duration, fn func()) { w.queue.push(w.now+int64(d), mEvent{fn: fn}) }

// at plans something that a node does or meets with in this life of it. While
// it stands still, such things wait.
func (w *mWorld) at(n *mNode, d time.Duration, fn func()) {
	w.queue.push(w.now+int64(d), mEvent{node: n, life: n.life, fn: fn})
}

func (w *mWorld) runFor(d time.Duration) {
	end := w.now + int64(d)
	for !w.done && w.queue.due(end) {
		var e mEvent
		w.now, e = w.queue.pop()
		w.res.Events++
		if e.node != nil {
			w.meet(e.node, e.life, e.fn)
			continue
		}
		e.fn()
	}
	if !w.done {
		w.now = end
	}
}

func (w *mWorld) meet(n *mNode, life int, fn func()) {
	switch {
	case !n.alive || n.life != life:
	case n.paused:
		n.inbox = append(n.inbox, fn)
	default:
		fn()
	}
}

func (w *mWorld) tracef(format string, args ...any) {
	if w.opts.Trace != nil {
		w.opts.Trace(fmt.Sprintf("%9.4f ", float64(w.now)/1e9) + fmt.Sprintf(format, args...))
	}
}

func (w *mWorld) violate(format string, args ...any) {
	if w.done {
		return
	}
	v := fmt.Sprintf("at %.4fs (%v): ", float64(w.now)/1e9, w.opts.Kind) + fmt.Sprintf(format, args...)
	w.tracef("VIOLATION %s", v)
	w.res.Violations = append(w.res.Violations, v)
	w.done = true
}

// delay is what a message takes.
func (w *mWorld) delay() time.Duration {
	d := 100*time.Microsecond + time.Duration(w.rng.Int64N(int64(time.Millisecond)))
	if w.faulty && w.faults.late && w.chance(12) {
		d += w.ms(0, 400)
	}
	return d
}

func (w *mWorld) isCut(a, b *mNode) bool { return w.cut[a.idx][b.idx] || w.cut[b.idx][a.idx] }

func (w *mWorld) set(nums ...int) *slot.Set {
	s := &slot.Set{}
	for _, i := range nums {
		s.Add(w.slots[i])
	}
	return s
}

// each calls fn for the slots of a set, by their index in the world.
func (w *mWorld) each(s *slot.Set, fn func(i int)) {
	for i, n := range w.slots {
		if s.Has(n) {
			fn(i)
		}
	}
}

// --- connections ---

// mConn is a connection like TCP: in order, nothing lost while it lasts; what a
// partition holds back arrives when it heals.
type mConn struct {
	w    *mWorld
	end  [2]*mNode
	life [2]int
	open bool
	last [2]int64
	fifo [2][]func()         // on the way to an end
	down [2]func(why string) // what an end does when the connection is gone
}

func (w *mWorld) connect(a, b *mNode) *mConn {
	c := &mConn{w: w, end: [2]*mNode{a, b}, life: [2]int{a.life, b.life}, open: true}
	live := w.conns[:0]
	for _, o := range w.conns {
		if o.open {
			live = append(live, o)
		}
	}
	clear(w.conns[len(live):])
	w.conns = append(live, c)
	return c
}

// send has fn executed at an end of the connection.
func (c *mConn) send(to int, fn func()) {
	if !c.open {
		return
	}
	c.fifo[to] = append(c.fifo[to], fn)
	c.last[to] = max(c.last[to], c.w.now+int64(c.w.delay()))
	c.token(to, c.last[to])
}

// token brings the next message to an end.
func (c *mConn) token(to int, at int64) {
	w := c.w
	w.queue.push(at, mEvent{fn: func() {
		if !c.open {
			return
		}
		if w.isCut(c.end[0], c.end[1]) {
			c.last[to] = max(c.last[to], w.now+int64(50*time.Millisecond))
			c.token(to, c.last[to])
			return
		}
		if len(c.fifo[to]) == 0 {
			return // that end has closed, and takes nothing more
		}
		fn := c.fifo[to][0]
		c.fifo[to] = c.fifo[to][1:]
		w.meet(c.end[to], c.life[to], func() {
			if c.open {
				fn()
			}
		})
	}})
}

// close is one end's doing. Most of the time what it sent before still arrives.
func (c *mConn) close(by int) {
	if !c.open {
		return
	}
	c.down[by] = nil
	if len(c.fifo[1-by]) > 0 && !c.w.chance(4) {
		c.fifo[by] = nil
		c.send(1-by, func() { c.hangUp(1 - by) })
		return
	}
	c.open = false
	c.tellDown(1-by, "connection closed")
}

func (c *mConn) hangUp(end int) {
	c.open = false
	if f := c.down[end]; f != nil {
		f("connection closed")
	}
}

// reset breaks the connection for both ends.
func (c *mConn) reset() {
	if c.open {
		c.open = false
		c.tellDown(0, "connection reset")
		c.tellDown(1, "connection reset")
	}
}

// tellDown lets an end know, once word gets through.
func (c *mConn) tellDown(end int, why string) {
	f := c.down[end]
	if f == nil {
		return
	}
	c.w.after(c.w.delay(), func() {
		if c.w.isCut(c.end[0], c.end[1]) && c.end[1-end].alive {
			c.w.after(100*time.Millisecond, func() { c.tellDown(end, why) })
			return
		}
		c.w.meet(c.end[end], c.life[end], func() { f(why) })
	})
}

// mReply is the answer to a call.
type mReply struct {
	ok      bool
	unknown bool // -UNKNOWN
	retry   bool // an error that passes
	err     string
	epoch   uint64
}

// call has fn executed at another node over a connection of its own; cb gets
// the answer. Both may be late, and the answer may be lost.
func (w *mWorld) call(from, to *mNode, fn func() mReply, cb func(mReply)) {
	over := false
	end := func(r mReply) {
		if !over {
			over = true
			cb(r)
		}
	}
	w.at(from, mCallTimeout, func() { end(mReply{err: "i/o timeout"}) })
	deadline := w.now + int64(mCallTimeout+time.Second)
	var arrive func()
	arrive = func() {
		switch {
		case w.now > deadline:
		case w.isCut(from, to):
			w.after(80*time.Millisecond, arrive)
		case !to.alive:
			w.at(from, w.delay(), func() { end(mReply{err: "connection refused"}) })
		default:
			w.meet(to, to.life, func() {
				r := fn()
				if !to.alive || w.faulty && w.faults.late && w.chance(15) {
					return // nobody hears it
				}
				w.answer(from, to, deadline, func() { end(r) })
			})
		}
	}
	w.after(w.delay(), arrive)
}

// answer brings an answer back.
func (w *mWorld) answer(from, to *mNode, deadline int64, fn func()) {
	life := from.life
	var arrive func()
	arrive = func() {
		if w.isCut(from, to) && w.now < deadline {
			w.after(80*time.Millisecond, arrive)
			return
		}
		w.meet(from, life, fn)
	}
	w.after(w.delay(), arrive)
}

// --- faults ---

// fault makes one thing go wrong, and plans the next.
func (w *mWorld) fault() {
	if !w.faulty {
		return
	}
	w.after(w.ms(20, 500), w.fault)
	f := w.faults
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	if w.chance(2) { // those with something to do are the interesting ones
		for range 8 {
			if o := w.nodes[w.rng.IntN(len(w.nodes))]; o.alive && !o.core.Idle() {
				n = o
				break
			}
		}
	}
	var can []func()
	add := func(yes bool, fn func()) {
		if yes {
			can = append(can, fn)
		}
	}
	add(f.breaks, w.breakSome)
	add(f.late || f.cuts, func() { w.busBad = w.now + int64(w.ms(50, 1200)) })
	add(f.kills, func() { w.crash(n, false, w.ms(20, 500)) })
	add(f.power, func() { w.crash(n, true, w.ms(20, 500)) })
	add(f.deaths, func() { w.crash(n, f.power && w.chance(3), w.ms(1500, 4500)) })
	add(f.pauses, func() { w.pause(n) })
	add(f.cuts, w.partition)
	add(f.manual, func() { w.manualFailover(n) })
	add(f.flush, func() { w.check.flushAll(n) })
	if len(can) > 0 {
		can[w.rng.IntN(len(can))]()
	}
}

// mishap is what happens to a node at the worst moment. It reports whether the
// node is dead.
func (w *mWorld) mishap(n *mNode) bool {
	f := w.faults
	switch {
	case f.breaks && w.chance(3):
		for _, c := range w.conns {
			if c.end[0] == n || c.end[1] == n {
				c.reset()
			}
		}
	case f.pauses && w.chance(2):
		w.pause(n)
	case f.cuts && w.chance(2):
		side := make([]bool, len(w.nodes))
		side[n.idx] = true
		pair := -1
		if w.chance(2) {
			pair = w.rng.IntN(len(w.nodes))
		}
		w.cutApart(side, pair)
	case f.deaths && w.chance(2):
		w.crash(n, f.power && w.chance(2), w.ms(1500, 4000))
	case f.kills:
		w.crash(n, f.power && w.chance(2), w.ms(20, 500))
	}
	return !n.alive
}

// silence keeps the bus packets of a node that has claimed slots from most
// others for a while; it may die before they hear of it.
func (w *mWorld) silence(n *mNode) {
	if w.opts.Kind != MoveClaims || !w.faulty || w.chance(3) {
		return
	}
	until := w.now + int64(w.ms(100, 3500))
	for i := range n.mute {
		if !w.chance(5) {
			n.mute[i] = until
		}
	}
	w.tracef("n%d is not heard", n.idx)
	if w.chance(2) {
		life := n.life
		w.after(w.ms(10, 300), func() {
			if n.life == life {
				w.crash(n, false, w.ms(1500, 5000))
			}
		})
	}
}

// comeBack lets the dead return when slots have been given away; whom they were
// given to may die.
func (w *mWorld) comeBack(target string) {
	if w.opts.Kind != MoveReturns || !w.faulty || w.chance(3) {
		return
	}
	for _, n := range w.nodes {
		if !n.alive {
			w.after(w.ms(0, 60), n.start)
		}
	}
	n, life := w.byID[target], w.byID[target].life
	w.after(w.ms(0, 40), func() {
		if n.life == life {
			w.crash(n, false, w.ms(1000, 5000))
		}
	})
}

func (w *mWorld) breakSome() {
	for _, c := range w.conns {
		if c.open && w.chance(2) {
			w.tracef("the connection of n%d to n%d breaks", c.end[0].idx, c.end[1].idx)
			c.reset()
		}
	}
}

// downMasters counts shards that may have nobody: with too many the cluster
// would stand still for most of the run.
func (w *mWorld) down() (count int) {
	for _, n := range w.nodes {
		if !n.alive || n.paused {
			count++
		}
	}
	return count
}

func (w *mWorld) crash(n *mNode, power bool, back time.Duration) {
	if !n.alive || w.down() > 1 {
		return
	}
	n.crash(power)
	w.after(back, func() { n.start() })
}

func (w *mWorld) pause(n *mNode) {
	if !n.alive || n.paused || w.down() > 1 {
		return
	}
	w.tracef("n%d stands still", n.idx)
	n.paused, n.pausedAt = true, w.now
	life := n.life
	most := 600
	if w.chance(2) {
		most = 4000
	}
	w.after(w.ms(20, most), func() {
		if n.life == life {
			n.resume()
		}
	})
}

// partition cuts a node off, a pair apart, or the world into two.
func (w *mWorld) partition() {
	side := make([]bool, len(w.nodes))
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	pair := -1
	switch w.rng.IntN(3) {
	case 0:
		side[n.idx] = true
	case 1:
		pair = w.rng.IntN(len(w.nodes))
		side[n.idx] = true
	default:
		for i := range side {
			side[i] = w.chance(2)
		}
	}
	w.cutApart(side, pair)
}

// cutApart cuts one side off from the other one, or from one node of it, for a
// while.
func (w *mWorld) cutApart(side []bool, pair int) {
	var cuts [][2]int
	for i := range w.nodes {
		for j := range w.nodes {
			if side[i] && !side[j] && (pair < 0 || j == pair) && !w.cut[i][j] {
				w.cut[i][j] = true
				cuts = append(cuts, [2]int{i, j})
			}
		}
	}
	w.tracef("the network is cut: %v", cuts)
	w.after(w.ms(50, 3500), func() {
		for _, c := range cuts {
			w.cut[c[0]][c[1]] = false
		}
		w.tracef("the network is whole again between %v", cuts)
	})
}

// administer begins moves at random, and cancels some.
func (w *mWorld) administer() {
	if !w.faulty {
		return
	}
	w.after(w.ms(20, 500), w.administer)
	to := w.nodes[w.rng.IntN(len(w.nodes))]
	if w.chance(8) {
		w.cancelSome(to)
		return
	}
	first := w.rng.IntN(len(w.slots))
	from := int(to.view.owner[first])
	if !to.alive || from < 0 || from == to.idx {
		return
	}
	nums := []int{first}
	all := w.chance(10)
	for i := range w.slots {
		if i != first && int(to.view.owner[i]) == from && (all || w.chance(3)) {
			nums = append(nums, i)
		}
	}
	w.jobs++
	job := fmt.Sprintf("%040x", 0xb0000+w.jobs)
	in := slotmove.Import{Job: job, Source: w.nodes[from].id, Slots: w.set(nums...)}
	w.at(to, 0, func() {
		r := to.command(in)
		w.tracef("administrator: n%d import %s of %v from n%d: %+v", to.idx, short(job), nums, from, r)
		if r.ok {
			w.res.Jobs++
		}
	})
}

func (w *mWorld) cancelSome(n *mNode) {
	w.at(n, 0, func() {
		for _, j := range n.core.Jobs() {
			if j.Ended.IsZero() {
				r := n.command(slotmove.Cancel{Job: j.ID})
				w.tracef("administrator: n%d cancel %s: %+v", n.idx, short(j.ID), r)
				return
			}
		}
	})
}

// calmDown ends all faults.
func (w *mWorld) calmDown() {
	w.faulty, w.busBad, w.midway = false, 0, 0
	w.tracef("--- faults end ---")
	for i := range w.cut {
		clear(w.cut[i])
	}
	for _, n := range w.nodes {
		if n.paused && n.alive {
			n.resume()
		}
		if !n.alive {
			n.start()
		}
	}
}

// settle waits until nothing of any move is left.
func (w *mWorld) settle() {
	from := w.now
	for !w.done {
		w.runFor(250 * time.Millisecond)
		why := w.check.unsettled()
		if why == "" {
			w.res.Settled = time.Duration(w.now - from)
			w.check.final()
			return
		}
		if time.Duration(w.now-from) > mSettleWithin {
			w.violate("not settled %v after the faults ended: %s", mSettleWithin, why)
		}
	}
}

func short(job string) string {
	if len(job) > 5 {
		return job[len(job)-5:]
	}
	return job
}
