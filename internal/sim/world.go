package sim

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"time"

	"holdfast/internal/redis/sentinel"
)

// Options choose one run.
type Options struct {
	Seed      uint64
	Sentinels int             // 0: 3 or 5, by the seed
	Replicas  int             // 0: 2 or 3, by the seed
	Mutants   sentinel.Mutant // rules that the Sentinels break
	Faults    time.Duration   // how long faults happen; 0: 30 s
	Flap      bool            // in place of mixed faults the masters die and return in turn
	Trace     func(string)    // called for each event, if set
}

// Result is what became of a run.
type Result struct {
	Violations []string
	Virtual    time.Duration // virtual time that passed
	Agreed     time.Duration // from the end of faults to agreement
	Failovers  int           // promotions that a Sentinel confirmed
	Events     int
}

// agreeWithin bounds the time to agreement: a failed attempt is repeated after
// twice the failover timeout, TILT takes 30 s, a misplaced replica the failover
// timeout.
const agreeWithin = 3 * time.Minute

const (
	downAfter       = time.Second
	failoverTimeout = 4 * time.Second
	masterName      = "mymaster"
)

// event is one thing that happens at a moment; events of one moment happen in
// the order in which they were planned.
type event struct {
	at  time.Time
	seq uint64
	run func()
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	if !h[i].at.Equal(h[j].at) {
		return h[i].at.Before(h[j].at)
	}
	return h[i].seq < h[j].seq
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	*h = old[:len(old)-1]
	return e
}

// node is a process on the network: a Sentinel or a data server.
type node struct {
	id        int
	host      string
	port      int
	alive     bool
	silent    bool // dead without a word: no reset, no refusal
	paused    bool
	inbox     []func() // what arrived during a pause
	lastFault time.Time
	sentinel  *simSentinel
	server    *simServer
}

// world is one run.
type world struct {
	opts  Options
	rng   *rand.Rand
	start time.Time
	now   time.Time
	seq   uint64
	queue eventHeap
	nodes []*node
	cut   [][]bool // cut[from][to]: nothing gets through
	conns []*conn
	res   Result
	check checker
	done  bool
}

// conn is one connection from a Sentinel to any node.
type conn struct {
	id         sentinel.ConnID
	from, to   *node
	life       uint64 // incarnation of the Sentinel that opened it
	pubsub     bool
	open       bool
	subscribed bool
	last       [2]time.Time // arrival of the newest message, per direction
	held       [2][]func()  // held back by a partition
	inMulti    bool
	multi      [][]string
}

const (
	toServer = 0
	toClient = 1
)

func newWorld(opts Options) *world {
	w := &world{
		opts: opts, rng: rand.New(rand.NewPCG(opts.Seed, 0x5eed)),
		start: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	w.now = w.start
	w.check.init(w)
	return w
}

// after plans run for d from now.
func (w *world) after(d time.Duration, run func()) { w.at(w.now.Add(d), run) }

func (w *world) at(t time.Time, run func()) {
	w.seq++
	heap.Push(&w.queue, event{t, w.seq, run})
}

// runUntil lets the world go on until t, or until stop says so.
func (w *world) runUntil(t time.Time, stop func() bool) {
	for len(w.queue) > 0 && !w.queue[0].at.After(t) {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		w.res.Events++
		e.run()
		if stop != nil && stop() {
			return
		}
	}
	w.now = t
}

func (w *world) tracef(format string, args ...any) {
	if w.opts.Trace != nil {
		w.opts.Trace(fmt.Sprintf("%9.3f  ", w.now.Sub(w.start).Seconds()) + fmt.Sprintf(format, args...))
	}
}

func (w *world) violate(format string, args ...any) {
	s := fmt.Sprintf("%.3fs: ", w.now.Sub(w.start).Seconds()) + fmt.Sprintf(format, args...)
	w.tracef("VIOLATION %s", s)
	if len(w.res.Violations) < 10 {
		w.res.Violations = append(w.res.Violations, s)
	}
	w.done = true
}

func (w *world) addNode(port int) *node {
	n := &node{id: len(w.nodes), port: port, alive: true}
	n.host = fmt.Sprintf("10.0.0.%d", n.id+1)
	w.nodes = append(w.nodes, n)
	return n
}

func (w *world) nodeAt(host string, port int) *node {
	for _, n := range w.nodes {
		if n.host == host && n.port == port {
			return n
		}
	}
	return nil
}

// delay is the time that a message takes.
func (w *world) delay() time.Duration {
	d := time.Duration(200+w.rng.IntN(2000)) * time.Microsecond
	if w.rng.IntN(50) == 0 {
		d += time.Duration(w.rng.IntN(200)) * time.Millisecond
	}
	return d
}

// deliver runs f at node n, or later if it is paused, or never if it is dead.
func (w *world) deliver(n *node, f func()) {
	switch {
	case !n.alive:
	case n.paused:
		n.inbox = append(n.inbox, f)
	default:
		f()
	}
}

// dial opens a connection: up, refused, or no answer at all.
func (w *world) dial(k *conn) {
	w.after(w.delay()+w.delay(), func() {
		from, to := k.from, k.to
		if to == nil || w.cut[from.id][to.id] || w.cut[to.id][from.id] || (!to.alive && to.silent) {
			return
		}
		if !to.alive {
			w.tell(k, sentinel.ConnDown{Conn: k.id, Refused: true, Err: "Connection refused"})
			return
		}
		k.open = true
		w.conns = append(w.conns, k)
		w.tell(k, sentinel.ConnUp{Conn: k.id, LocalIP: from.host, RemoteIP: to.host})
	})
}

// tell hands an input to the Sentinel that owns k, if it is still the same
// incarnation.
func (w *world) tell(k *conn, in sentinel.Input) {
	w.deliver(k.from, func() {
		if s := k.from.sentinel; s.life == k.life {
			s.step(in)
		}
	})
}

// transmit sends a message along k; f runs at the other end.
func (w *world) transmit(k *conn, dir int, f func()) {
	from, to := k.from, k.to
	if dir == toClient {
		from, to = to, from
	}
	if !k.open {
		return
	}
	if len(k.held[dir]) > 0 || w.cut[from.id][to.id] {
		k.held[dir] = append(k.held[dir], f)
		return
	}
	t := w.now.Add(w.delay())
	if t.Before(k.last[dir]) {
		t = k.last[dir]
	}
	k.last[dir] = t
	w.at(t, func() {
		switch {
		case !k.open:
		case w.cut[from.id][to.id] || len(k.held[dir]) > 0:
			k.held[dir] = append(k.held[dir], f)
		default:
			w.deliver(to, func() {
				if k.open {
					f()
				}
			})
		}
	})
}

// reset breaks k for both ends; the Sentinel hears of it if anything can get
// through to it.
func (w *world) reset(k *conn) {
	if !k.open {
		return
	}
	k.open = false
	if w.cut[k.to.id][k.from.id] {
		return
	}
	w.after(w.delay(), func() { w.tell(k, sentinel.ConnDown{Conn: k.id, Err: "Connection reset by peer"}) })
}

// sweep forgets closed connections.
func (w *world) sweep() {
	live := w.conns[:0]
	for _, k := range w.conns {
		if k.open {
			live = append(live, k)
		}
	}
	w.conns = live
}

// heal ends all partitions: what was held back arrives, or the connection
// turns out to be broken.
func (w *world) heal() {
	for i := range w.cut {
		for j := range w.cut[i] {
			if w.cut[i][j] {
				w.cut[i][j] = false
				w.nodes[i].lastFault, w.nodes[j].lastFault = w.now, w.now
			}
		}
	}
	w.sweep()
	for _, k := range w.conns {
		for dir := range k.held {
			list := k.held[dir]
			if len(list) == 0 {
				continue
			}
			k.held[dir] = nil
			if w.rng.IntN(3) == 0 {
				w.reset(k)
				break
			}
			for _, f := range list {
				w.transmit(k, dir, f)
			}
		}
	}
}

// crash ends a process. With silent, as if its machine lost power: nobody is told.
func (w *world) crash(n *node, silent bool) {
	if !n.alive {
		return
	}
	w.tracef("crash %s silent=%v", n.host, silent)
	n.alive, n.silent, n.paused, n.inbox, n.lastFault = false, silent, false, nil, w.now
	w.sweep()
	for _, k := range w.conns {
		switch {
		case k.from == n:
			k.open = false
		case k.to == n && silent:
			k.open = false
		case k.to == n:
			w.reset(k)
		}
	}
	if n.sentinel != nil {
		n.sentinel.stop()
	}
}

func (w *world) restart(n *node) {
	if n.alive {
		return
	}
	w.tracef("restart %s", n.host)
	n.alive, n.lastFault = true, w.now
	// Whoever still believed in an old connection learns better now.
	if n.silent {
		n.silent = false
		for _, o := range w.nodes {
			if o.sentinel != nil && o.alive {
				o.sentinel.peerRebooted(n)
			}
		}
	}
	if n.sentinel != nil {
		n.sentinel.start()
	} else {
		n.server.restart()
	}
}

func (w *world) pause(n *node, d time.Duration) {
	if !n.alive || n.paused {
		return
	}
	w.tracef("pause %s for %v", n.host, d)
	n.paused, n.lastFault = true, w.now
	w.after(d, func() { w.resume(n) })
}

func (w *world) resume(n *node) {
	if !n.paused || !n.alive {
		return
	}
	w.tracef("resume %s", n.host)
	n.paused, n.lastFault = false, w.now
	list := n.inbox
	n.inbox = nil
	for _, f := range list {
		if n.alive && !n.paused {
			f()
		}
	}
	if n.sentinel != nil && n.alive {
		n.sentinel.step(sentinel.Timer{})
	}
}
