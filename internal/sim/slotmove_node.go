package sim

import (
	"fmt"
	"strings"
	"time"

	"holdfast/internal/redis/cluster/slot"
	"holdfast/internal/redis/slotmove"
)

// mNode is one server: the core and what is around it. The zero life has not
// begun.
type mNode struct {
	w          *mWorld
	idx        int
	id         string
	bootMaster int
	life       int
	alive      bool
	paused     bool
	inbox      []func()
	startedAt  int64

	view             mView
	conf, confSynced mView
	seen             []int64 // last word of a node, or since when we could have heard it
	heard            []int64 // last word of a node
	busLast          []int64 // by node: arrival of what was sent last
	mute             []int64 // by node: until when it does not hear us
	minority         int64   // when it last was in one
	pausedAt         int64
	standAt          int64
	election         uint64
	votes            int

	core      *slotmove.Core
	queue     []slotmove.Input
	stepping  bool
	timerAt   int64
	failPause bool
	asked     bool
	refused   *slotmove.Refused

	gives    map[string]*mFeed
	takes    map[string]*mTake
	snapping bool
	held     []uint8 // by slot: 1 writes wait, 2 reads as well
	refusing []bool
	staged   []bool
	waiting  []*mRequest
	dropping []bool
	drops    []slotmove.Drop
	dropRuns bool

	split  []bool // by slot: an heir of the own master took it while that one was gone
	copies []bool // by slot: who claims it has all keys that are here, too

	mData
	deposed bool // another one was elected in its place, and it may not know
}

// --- life and death ---

// start begins a life with what the journal has.
func (n *mNode) start() {
	if n.alive {
		return
	}
	w := n.w
	first := n.life == 0
	n.life++
	n.alive, n.paused, n.inbox = true, false, nil
	n.startedAt = w.now
	n.view = n.conf.clone()
	n.mute = make([]int64, len(w.nodes))
	n.seen, n.heard, n.busLast = make([]int64, len(w.nodes)), make([]int64, len(w.nodes)), make([]int64, len(w.nodes))
	for i := range n.seen {
		n.seen[i] = w.now
	}
	for i := range n.view.taken {
		n.view.taken[i] = none
	}
	n.standAt, n.election, n.minority = 0, 0, w.now
	n.queue, n.stepping, n.timerAt, n.failPause = nil, false, 0, false
	n.gives, n.takes = map[string]*mFeed{}, map[string]*mTake{}
	n.snapping, n.dropRuns = false, false
	n.held, n.refusing = make([]uint8, len(w.slots)), make([]bool, len(w.slots))
	n.staged, n.dropping = make([]bool, len(w.slots)), make([]bool, len(w.slots))
	n.waiting, n.drops = nil, nil
	n.split, n.copies = make([]bool, len(w.slots)), make([]bool, len(w.slots))
	n.core = slotmove.New(n)
	n.core.Faults = w.opts.Mutants
	n.links, n.upstream = nil, nil
	n.fit = first // afterwards not before it has caught up
	if first {
		n.data = make([][]uint32, len(w.slots))
		n.ckpt = mCheckpoint{data: cloneData(n.data)}
		n.newHistory()
	} else {
		n.reload()
		w.tracef("n%d starts, with the table %s", n.idx, oneLine(n.core.Table().String()))
	}
	w.at(n, w.ms(0, 250), n.busTick)
	w.at(n, w.ms(100, 300), n.syncTick)
	w.at(n, w.ms(1, 40), n.replTick)
	n.post(slotmove.Role{Master: n.isMaster()})
}

func oneLine(text string) string {
	return strings.ReplaceAll(strings.ReplaceAll(strings.TrimSpace(text), "\n", "; "), strings.Repeat("0", 34), "")
}

// crash ends the process. What was not written is gone, and with power all that
// was not synced may be.
func (n *mNode) crash(power bool) {
	w := n.w
	w.res.Crashes++
	w.tracef("n%d dies (power: %v)", n.idx, power)
	n.alive, n.inbox = false, nil
	keep := n.flushed
	if power {
		keep = n.synced + w.rng.IntN(n.flushed-n.synced+1)
		if w.chance(2) {
			n.conf = n.confSynced
		}
	}
	n.cutJournal(keep)
	for _, c := range w.conns {
		for end := range 2 {
			if c.open && c.end[end] == n {
				c.open = false
				c.tellDown(1-end, "connection reset")
			}
		}
	}
}

func (n *mNode) resume() {
	if !n.paused {
		return
	}
	w := n.w
	w.tracef("n%d goes on", n.idx)
	n.paused = false
	if w.now-n.pausedAt > int64(mNodeTimeout) {
		n.minority = w.now // as the Cluster core: it may have been replaced
	}
	for i := range n.seen {
		n.seen[i] = w.now
	}
	inbox := n.inbox
	n.inbox = nil
	life := n.life
	for _, fn := range inbox {
		w.at(n, 0, func() {
			if n.life == life {
				fn()
			}
		})
	}
}

func (n *mNode) becomeMaster() {
	n.deposed, n.failPause = false, false
	if n.upstream != nil {
		n.upstream.close(1)
		n.upstream = nil
	}
	n.newHistory()
	n.post(slotmove.Role{Master: true})
}

func (n *mNode) becomeReplica(int) {
	for _, l := range n.links {
		l.conn.close(0)
	}
	n.links = nil
	if n.upstream != nil {
		n.upstream.close(1)
		n.upstream = nil
	}
	n.fit = false
	clear(n.dropping)
	n.drops = nil
	n.queue = append([]slotmove.Input{slotmove.Role{Master: false}}, n.queue...) // before what it was as a master
	n.settle()
	n.endFailPause()
	n.retryWaiting()
}

func (n *mNode) endFailPause() {
	if n.failPause {
		n.failPause = false
		n.settle()
		n.retryWaiting()
	}
}

// --- the core ---

// Owner implements slotmove.World.
func (n *mNode) Owner(s int) string { return n.nameOf(n.view.owner[n.w.numOf[s]]) }

func (n *mNode) nameOf(i int) string {
	if i == none {
		return ""
	}
	return n.w.nodes[i].id
}

// MyID implements slotmove.World.
func (n *mNode) MyID() string { return n.id }

// Known implements slotmove.World.
func (n *mNode) Known(id string) bool { return n.w.byID[id] != nil }

// MasterOf implements slotmove.World.
func (n *mNode) MasterOf(id string) string {
	i := n.w.byID[id].idx
	for range 3 {
		m := n.view.master[i]
		if m == none {
			break
		}
		i = m
	}
	return n.nameOf(i)
}

// Keys implements slotmove.World.
func (n *mNode) Keys(s int) int { return len(n.data[n.w.numOf[s]]) }

// Open implements slotmove.World.
func (n *mNode) Open(int) bool { return false }

// ClusterOK implements slotmove.World.
func (n *mNode) ClusterOK() bool { return n.ok() }

// Linger implements slotmove.World.
func (n *mNode) Linger() time.Duration { return 2 * mNodeTimeout }

// post hands an input to the core as soon as nothing is half done.
func (n *mNode) post(in slotmove.Input) {
	n.queue = append(n.queue, in)
	n.settle()
}

func (n *mNode) settle() {
	if n.stepping || n.failPause || !n.alive {
		return
	}
	life := n.life
	n.stepping = true
	for len(n.queue) > 0 {
		in := n.queue[0]
		n.queue = n.queue[1:]
		if n.step(in); n.life != life || !n.alive || n.w.done {
			return
		}
	}
	n.stepping = false
	n.flush()
	n.arm()
}

// step hands one input to the core and carries out what it decides.
func (n *mNode) step(in slotmove.Input) {
	w := n.w
	life := n.life
	if w.opts.Trace != nil {
		if _, ok := in.(slotmove.Heard); !ok {
			w.tracef("n%d <- %s", n.idx, moveText(in))
		}
	}
	effects := n.core.Step(w.time(), in)
	for _, e := range effects {
		if w.midway > 0 && w.faulty && worthDying(e) && w.chance(w.midway) && w.down() < 2 {
			if w.tracef("the worst moment: n%d before %s", n.idx, moveText(e)); w.mishap(n) {
				return
			}
		}
		if w.opts.Trace != nil {
			w.tracef("n%d    %s", n.idx, moveText(e))
		}
		w.check.effect(n, e)
		n.carryOut(e)
		if n.life != life || !n.alive || w.done {
			return
		}
	}
}

// worthDying: the moments at which a crash is worst.
func worthDying(e slotmove.Effect) bool {
	switch e.(type) {
	case slotmove.Write, slotmove.Sync, slotmove.SendPrepared, slotmove.SendCommit, slotmove.Claim, slotmove.Drop, slotmove.Release, slotmove.Accepted, slotmove.Drain:
		return true
	}
	return false
}

func moveText(v any) string {
	s := strings.TrimPrefix(fmt.Sprintf("%T", v), "slotmove.")
	switch v := v.(type) {
	case slotmove.Write:
		return fmt.Sprintf("%s %s", s, oneLine(strings.Join(v.Args(), " ")))
	case slotmove.Log:
		return s + " " + oneLine(v.Text)
	case slotmove.Stage, slotmove.Unstage, slotmove.Release, slotmove.Refuse, slotmove.Timer, slotmove.Moved, slotmove.Accepted:
		return s
	case slotmove.Hold:
		return fmt.Sprintf("%s reads=%v", s, v.Reads)
	case slotmove.Answer:
		return fmt.Sprintf("%s %s node=%s yes=%v err=%q", s, short(v.Job), short(v.Node), v.Yes, v.Err)
	case slotmove.Asked:
		return fmt.Sprintf("%s %s by=%s", s, short(v.Job), short(v.By))
	case slotmove.Commit:
		return fmt.Sprintf("%s %s from=%s", s, short(v.Job), short(v.From))
	case slotmove.Claim:
		return fmt.Sprintf("%s %s from=%s", s, short(v.Job), short(v.From))
	}
	t := fmt.Sprintf("%+v", v)
	if i := strings.Index(t, "Slots:"); i >= 0 {
		t = t[:i]
	}
	return s + " " + oneLine(t)
}

// arm plans the next Timer.
func (n *mNode) arm() {
	d := n.core.Deadline()
	if d.IsZero() {
		return
	}
	at := max(int64(d.Sub(n.w.epoch)), n.w.now+1)
	if n.timerAt != 0 && n.timerAt <= at && n.timerAt > n.w.now {
		return
	}
	n.timerAt = at
	n.w.at(n, time.Duration(at-n.w.now), func() {
		if n.failPause {
			n.w.at(n, 50*time.Millisecond, n.arm)
			return
		}
		if d := n.core.Deadline(); !d.IsZero() && !n.w.time().Before(d) {
			n.post(slotmove.Timer{})
		} else {
			n.arm()
		}
	})
}

// command hands an input to the core that it answers at once.
func (n *mNode) command(in slotmove.Input) mReply {
	if n.failPause {
		return mReply{retry: true, err: "TRYAGAIN writes are paused for a failover"}
	}
	life := n.life
	n.settle()
	if n.life != life || !n.alive {
		return mReply{err: "died"}
	}
	n.asked, n.refused = false, nil
	n.stepping = true
	n.step(in)
	if n.life != life || !n.alive {
		return mReply{err: "died"}
	}
	n.stepping = false
	asked, refused := n.asked, n.refused
	n.settle()
	switch {
	case n.life != life || !n.alive:
		return mReply{err: "died"}
	case !asked || refused == nil:
		return mReply{ok: true, epoch: n.view.epoch}
	}
	return mReply{err: refused.Why, retry: refused.Retry, unknown: strings.HasPrefix(refused.Why, "UNKNOWN ")}
}

// carryOut does one thing that the core decided.
func (n *mNode) carryOut(e slotmove.Effect) {
	w := n.w
	switch e := e.(type) {
	case slotmove.Write:
		n.append(mOp{kind: opMark, mark: e.Mark})
		if e.Kind == slotmove.MarkGiven {
			w.each(e.Slots, func(i int) { n.view.taken[i] = none })
			w.comeBack(e.Peer)
		}
	case slotmove.Accepted:
		n.asked, n.refused = true, nil
	case slotmove.Refused:
		n.asked, n.refused = true, &e
	case slotmove.Dial:
		n.askForFeed(e)
	case slotmove.Snapshot:
		n.beginFeed(e)
	case slotmove.CloseFeed:
		n.closeFeed(e.Job)
	case slotmove.Presync:
		n.presync(e.Job)
	case slotmove.Drain:
		if f := n.gives[e.Job]; f != nil {
			f.draining, f.drainTo = true, len(f.changes)
		}
	case slotmove.Sync:
		n.syncMark(e.Job)
	case slotmove.SendPrepared:
		n.sendPrepared(e.Job)
	case slotmove.SendCommit:
		if f := n.gives[e.Job]; f != nil {
			f.word = true
			f.run()
		}
	case slotmove.Claim:
		w.silence(n)
		why := n.take(e.Slots, e.From, e.Epoch)
		n.queue = append(n.queue, slotmove.Claimed{Job: e.Job, Err: why})
	case slotmove.Ask:
		n.askAbout(e.Job, e.Node, func(o *mNode) slotmove.Input { return slotmove.Asked{Job: e.Job, By: n.id, Slots: e.Slots} })
	case slotmove.Tell:
		epoch := n.view.epoch
		n.askAbout(e.Job, e.Node, func(o *mNode) slotmove.Input {
			return slotmove.Commit{Job: e.Job, From: n.id, Slots: e.Slots, Epoch: epoch}
		})
	case slotmove.Stage:
		w.each(e.Slots, func(i int) {
			if n.dropping[i] {
				n.dropNow(i)
			}
			n.staged[i] = true
		})
	case slotmove.Unstage:
		w.each(e.Slots, func(i int) { n.staged[i] = false })
	case slotmove.Hold:
		w.each(e.Slots, func(i int) {
			n.held[i] = max(n.held[i], 1)
			if e.Reads {
				n.held[i] = 2
			}
		})
	case slotmove.Refuse:
		w.each(e.Slots, func(i int) { n.refusing[i] = true })
		n.laterRetry()
	case slotmove.Release:
		w.each(e.Slots, func(i int) { n.held[i], n.refusing[i] = 0, false })
		n.laterRetry()
	case slotmove.Drop:
		n.drops = append(n.drops, e)
		w.each(e.Slots, func(i int) {
			n.dropping[i] = true
			if n.view.owner[i] == n.idx {
				n.dropNow(i)
			}
		})
		n.dropSoon()
	}
}

// laterRetry dispatches those who wait again, once nothing is half done.
func (n *mNode) laterRetry() { n.w.at(n, 0, n.retryWaiting) }

func (n *mNode) askAbout(job, node string, ask func(*mNode) slotmove.Input) {
	to := n.w.byID[node]
	in := ask(to)
	n.w.call(n, to, func() mReply { return to.command(in) }, func(r mReply) {
		a := slotmove.Answer{Job: job, Node: node}
		switch {
		case r.ok:
			a.Yes, a.Epoch = true, r.epoch
		case !r.unknown:
			a.Err = r.err
		}
		n.post(a)
	})
}

// --- keys that are deleted by and by ---

func (n *mNode) dropSoon() {
	if n.dropRuns {
		return
	}
	n.dropRuns = true
	n.w.at(n, n.w.ms(1, 30), n.dropStep)
}

func (n *mNode) dropStep() {
	n.dropRuns = false
	for i, d := range n.dropping {
		if d {
			n.dropNow(i)
			break
		}
	}
	n.flush()
	rest := n.drops[:0]
	for _, d := range n.drops {
		left := false
		n.w.each(d.Slots, func(i int) { left = left || n.dropping[i] })
		if left {
			rest = append(rest, d)
		} else {
			n.queue = append(n.queue, slotmove.Dropped{Job: d.Job})
		}
	}
	n.drops = rest
	n.settle()
	if n.alive && len(n.drops) > 0 {
		n.dropSoon()
	}
}

// dropNow deletes the keys of a slot.
func (n *mNode) dropNow(i int) {
	n.dropping[i] = false
	if len(n.data[i]) > 0 {
		n.append(mOp{kind: opDel, slot: i})
	}
}

// --- feeds ---

// mFeed is the source's end of a job.
type mFeed struct {
	n         *mNode
	job       string
	slots     *slot.Set
	conn      *mConn
	target    *mNode
	snap      []mOp
	changes   []mOp
	sent      int
	streaming bool
	following bool
	draining  bool
	drained   bool
	drainTo   int
	word      bool
	stopped   bool
	beat      int64
	planned   bool
}

// mTake is the target's end.
type mTake struct {
	ctl    bool // the connection on which PREPARED may go
	stream *mConn
	seen   bool
}

// askForFeed is Dial.
func (n *mNode) askForFeed(e slotmove.Dial) {
	w := n.w
	t := n.takes[e.Job]
	if t == nil {
		t = &mTake{}
		n.takes[e.Job] = t
	}
	t.ctl = false
	to := w.byID[e.Node]
	w.call(n, to, func() mReply {
		if to.snapping {
			return mReply{retry: true, err: "TRYAGAIN another snapshot is being taken"}
		}
		return to.command(slotmove.Feed{Job: e.Job, Target: n.id, Slots: e.Slots})
	}, func(r mReply) {
		if n.takes[e.Job] != t {
			return
		}
		t.ctl = r.ok || r.retry
		switch {
		case r.ok:
		case r.retry:
			n.post(slotmove.Busy{Job: e.Job, Why: r.err})
		default:
			n.post(slotmove.Broken{Job: e.Job, Why: "the source refuses: " + r.err})
		}
	})
}

// beginFeed is Snapshot.
func (n *mNode) beginFeed(e slotmove.Snapshot) {
	w := n.w
	target := w.byID[e.Target]
	f := &mFeed{n: n, job: e.Job, slots: e.Slots, target: target}
	w.each(e.Slots, func(i int) {
		if len(n.data[i]) > 0 {
			f.snap = append(f.snap, mOp{kind: opSet, slot: i, list: append([]uint32(nil), n.data[i]...)})
		}
	})
	n.gives[e.Job] = f
	n.snapping = true
	if !target.alive {
		w.at(n, w.delay(), func() { f.fail("connecting to the target: refused") })
		return
	}
	f.conn = w.connect(n, target)
	f.conn.down[0] = f.fail
	w.at(n, mCallTimeout, func() {
		if !f.streaming {
			f.fail("the target does not answer")
		}
	})
	f.conn.send(1, func() {
		r := target.stream(f.job, f.conn)
		if !target.alive {
			return
		}
		f.conn.send(0, func() {
			if !r.ok {
				f.fail("the target refuses: " + r.err)
				return
			}
			f.streaming = true
			f.plan()
		})
	})
}

func (f *mFeed) fail(why string) {
	if f.stopped {
		return
	}
	f.stop()
	f.n.post(slotmove.Broken{Job: f.job, Why: why})
}

func (f *mFeed) stop() {
	f.stopped = true
	if !f.following {
		f.n.snapping = false
	}
	if f.conn != nil {
		f.conn.close(0)
	}
}

func (f *mFeed) plan() {
	if f.planned || f.stopped {
		return
	}
	f.planned = true
	f.n.w.at(f.n, time.Duration(f.n.w.rng.Int64N(int64(f.n.w.slow)+1)), func() {
		f.planned = false
		f.run()
	})
}

// run sends what there is to send.
func (f *mFeed) run() {
	n, w := f.n, f.n.w
	if f.stopped || !f.streaming || !n.alive {
		return
	}
	switch {
	case len(f.snap) > 0:
		f.item(f.snap[0])
		f.snap = f.snap[1:]
	case !f.following:
		f.following, n.snapping = true, false
		f.say(func() slotmove.Input { return slotmove.Heard{Job: f.job, Following: true} })
		n.post(slotmove.SnapshotSent{Job: f.job})
	case f.drained:
		if f.word {
			f.word = false
			epoch := n.view.epoch
			f.say(func() slotmove.Input {
				return slotmove.Commit{Job: f.job, From: n.id, Slots: f.slots, Epoch: epoch}
			})
		}
		return
	default:
		end := len(f.changes)
		if f.draining {
			end = f.drainTo
		}
		for ; f.sent < end; f.sent++ {
			f.item(f.changes[f.sent])
		}
		if f.draining {
			f.drained = true
			f.say(func() slotmove.Input { return slotmove.Drained{Job: f.job} })
			f.run()
			return
		}
		if w.chance(2) {
			n.post(slotmove.Near{Job: f.job})
		}
		if w.now-f.beat > int64(slotmove.Heartbeat) {
			f.beat = w.now
			f.conn.send(1, func() { f.arrived(func(t *mTake) mReply { t.seen = true; return mReply{ok: true} }) })
		}
	}
	f.plan()
}

// item sends a command of the data.
func (f *mFeed) item(op mOp) {
	f.conn.send(1, func() {
		f.arrived(func(t *mTake) mReply {
			t.seen = true
			op.fed = true
			f.target.append(op)
			f.target.flush()
			return mReply{ok: true}
		})
	})
}

func (f *mFeed) say(in func() slotmove.Input) {
	f.conn.send(1, func() {
		f.arrived(func(t *mTake) mReply { t.seen = true; return f.target.command(in()) })
	})
}

// arrived executes something at the target; an error ends the feed.
func (f *mFeed) arrived(fn func(*mTake) mReply) {
	t := f.target.takes[f.job]
	if t == nil || t.stream != f.conn {
		return
	}
	if r := fn(t); f.target.alive && !r.ok {
		f.conn.send(0, func() { f.fail("the target could not take a command: " + r.err) })
	}
}

// stream is the connection of a source, at the target.
func (n *mNode) stream(job string, conn *mConn) mReply {
	t := n.takes[job]
	if t == nil || t.stream != nil {
		return mReply{err: "no such job waits for a feed"}
	}
	t.stream = conn
	conn.down[1] = func(why string) {
		if n.takes[job] == t && t.stream == conn {
			t.stream = nil
			n.post(slotmove.Broken{Job: job, Why: "the source has closed the connection"})
		}
	}
	n.peek(job, t)
	return n.command(slotmove.Fed{Job: job})
}

// peek tells the core now and then that something has come.
func (n *mNode) peek(job string, t *mTake) {
	n.w.at(n, 500*time.Millisecond, func() {
		if n.takes[job] != t || t.stream == nil {
			return
		}
		if t.seen {
			t.seen = false
			n.post(slotmove.Heard{Job: job})
		}
		n.peek(job, t)
	})
}

// closeFeed ends a job's connections, at either side.
func (n *mNode) closeFeed(job string) {
	if f := n.gives[job]; f != nil {
		delete(n.gives, job)
		f.stop()
	}
	if t := n.takes[job]; t != nil {
		delete(n.takes, job)
		if t.stream != nil {
			t.stream.close(1)
			t.stream = nil
		}
	}
}

// presync syncs, and tells the source when a target has.
func (n *mNode) presync(job string) {
	w := n.w
	t := n.takes[job]
	if t != nil && (!t.ctl || t.stream == nil) {
		n.queue = append(n.queue, slotmove.Broken{Job: job, Why: "the connection to the source is gone"})
		return
	}
	pos := n.end()
	w.at(n, w.ms(1, 30), func() {
		n.flush()
		if !w.opts.NoSync {
			n.synced = max(n.synced, pos)
		}
		if t == nil || t.stream == nil || n.takes[job] != t {
			return
		}
		source := t.stream.end[0]
		w.call(n, source, func() mReply {
			if source.gives[job] == nil {
				return mReply{unknown: true, err: "UNKNOWN no such job"}
			}
			return source.command(slotmove.Synced{Job: job})
		}, func(r mReply) {
			if !r.ok {
				n.post(slotmove.Broken{Job: job, Why: "the source does not answer: " + r.err})
			}
		})
	})
}

func (n *mNode) sendPrepared(job string) {
	t := n.takes[job]
	if t == nil || !t.ctl || t.stream == nil {
		n.queue = append(n.queue, slotmove.Broken{Job: job, Why: "the connection to the source is gone"})
		return
	}
	source := t.stream.end[0]
	n.w.call(n, source, func() mReply {
		if source.gives[job] == nil {
			return mReply{unknown: true, err: "UNKNOWN no such job"}
		}
		return source.command(slotmove.Prepared{Job: job})
	}, func(r mReply) {
		if !r.ok {
			n.post(slotmove.Broken{Job: job, Why: "the source does not answer: " + r.err})
		}
	})
}
