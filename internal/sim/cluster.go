package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"holdfast/internal/redis/cluster"
	"holdfast/internal/redis/cluster/slot"
)

// The simulated cluster. Nodes are cluster cores with a model of their data;
// the links of the bus are like TCP connections: in order, nothing lost while
// they last; what a partition holds back arrives when it heals, unless the
// connection was reset meanwhile. Everything is a function of the seed.

// ClusterOptions choose one run.
type ClusterOptions struct {
	Seed     uint64
	Masters  int // 0: 3 to 5 mostly, seldom more, by the seed
	Replicas int // per master; 0: 1 or 2, by the seed
	Mutants  cluster.Mutants
	Plain    bool          // without the improvements over Redis
	Timeout  time.Duration // cluster-node-timeout; 0: 1 s
	Faults   time.Duration // how long faults happen; 0: 12 s
	Kind     ClusterKind
	Trace    func(string)
}

// ClusterKind is the plot of a run.
type ClusterKind uint8

// Plots: most runs mix faults; the others are for mistakes that mixed faults
// seldom show.
const (
	KindMixed     ClusterKind = iota
	KindCollision             // all masters begin with one config epoch
	KindForget                // a node is removed with FORGET while others still gossip about it
	KindReturn                // a master is replaced, then its successor dies and it returns
	KindStale                 // the only replica lost touch with its master long before that dies
	KindSlow                  // one of two replicas is behind
	KindMany                  // several masters die in the same moment
	KindMinority              // some nodes are cut off for long
	KindManual                // CLUSTER FAILOVER while things break
	KindJoin                  // nodes meet; nothing is configured beforehand
	KindMove                  // slots move between shards while things break
	KindHeal                  // a replica that was cut off together with its dead master returns
	KindStream                // slots are handed over in one step while things break
	KindOpen                  // masters with half moved slots are replaced; nobody closes the slots
	kinds
)

var kindNames = [kinds]string{"mixed", "collision", "forget", "return", "stale", "slow", "many", "minority", "manual", "join", "move", "heal", "stream", "open"}

func (k ClusterKind) String() string { return kindNames[k] }

// ClusterResult is what became of a run.
type ClusterResult struct {
	Violations []string
	Kind       ClusterKind
	Virtual    time.Duration
	Agreed     time.Duration // from the end of faults to agreement
	Elections  int           // won
	Events     int
	Packets    int64
	Bytes      int64
}

const (
	cAgreeWithin = 60 * time.Second
	cDataTick    = 50 * time.Millisecond
)

type cEventKind uint8

const (
	evTimer cEventKind = iota
	evPacket
	evLinkUp
	evRefused
	evReset
	evInbound
	evDialed // an attempt to connect comes to an end
	evCall
)

type cEvent struct {
	kind cEventKind
	dir  uint8
	own  bool // nobody else has data
	life uint32
	node *cNode
	link *cLink
	data []byte
	call func()
}

// cNode is one process.
type cNode struct {
	w      *cWorld
	idx    int
	id     string // as first known; RESET HARD is not simulated
	ip     string
	core   *cluster.Core
	life   uint32
	alive  bool
	silent bool // dead without a word
	paused bool
	gone   bool // removed for good
	plain  bool // without the improvements over Redis: as a genuine node
	inbox  []cEvent

	disk, synced []byte   // nodes.conf as written, and as it survives a power cut
	unsynced     []cWrite // not older than cSyncWithin, mostly
	timerAt      int64
	out, in      map[cluster.LinkID]*cLink
	nextInbound  cluster.LinkID
	refused      []*cLink // what the step that is carried out asked dead processes for

	given   slot.Set // what its core was told that it has given away
	ownData bool     // what it sends now is nobody else's
	taken   bool     // the last answer to TakeSlots

	data      cData
	lastFault int64
	startedAt int64
}

// cData models what is replicated: an offset and a link to a master.
type cData struct {
	offset  int64
	follow  *cNode // nil: master
	up      bool
	seen    int64 // last word of the master, or when the link was lost
	ever    bool
	stuck   bool // its replication link is broken, its bus is fine
	lag     int64
	pausedW bool // writes are paused by a manual failover
}

// cWrite is a nodes.conf that was written without a sync.
type cWrite struct {
	at   int64
	conf []byte
}

// cSyncWithin is how much of what was written a power cut takes at most, without
// a sync (cluster.Persist).
const cSyncWithin = 2 * time.Second

// write is a new nodes.conf.
func (n *cNode) write(conf []byte, sync bool) {
	n.settle()
	n.disk = conf
	if sync {
		n.synced, n.unsynced = conf, nil
		return
	}
	n.unsynced = append(n.unsynced, cWrite{n.w.now, conf})
}

// settle notes what has reached the disk by itself.
func (n *cNode) settle() {
	for len(n.unsynced) > 0 && n.w.now-n.unsynced[0].at >= int64(cSyncWithin) {
		n.synced, n.unsynced = n.unsynced[0].conf, n.unsynced[1:]
	}
}

const (
	toAcceptor = 0
	toDialer   = 1
)

// cLink is one connection of the bus.
type cLink struct {
	from, to         *cNode
	fromLife, toLife uint32
	fromID, toID     cluster.LinkID
	open             bool
	last             [2]int64
	held             [2][][]byte
}

// cWorld is one run.
type cWorld struct {
	opts  ClusterOptions
	rng   *rand.Rand
	epoch time.Time
	now   int64
	queue agenda[cEvent]
	nodes []*cNode
	byIP  map[string]*cNode
	byID  map[string]*cNode
	cut   [][]bool
	cuts  int
	links []*cLink
	slow  int64 // extra delay of the network, at most, ns
	res   ClusterResult
	check cChecker

	groups    []*cGroup // of slots that are handed over; none in other plots
	masters   int
	cfg       cluster.Config
	faulty    bool
	done      bool
	free      map[int][][]byte // packets that have arrived, by length
	noPersist bool             // large worlds keep no nodes.conf
	unchecked bool             // and look at every step of nobody
	uniform   bool             // all nodes are of one kind: none behaves as a genuine one among ours
	tooLarge  bool
	progress  func(string)
	confLines [][2]string // see initialConf
	spread    int64       // connections take up to so long, ns: a million at once would not fit into memory
}

func newCWorld(o ClusterOptions) *cWorld {
	w := &cWorld{
		opts: o, rng: rand.New(rand.NewPCG(o.Seed, 0xc1057e4)),
		epoch: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		byIP:  map[string]*cNode{}, byID: map[string]*cNode{}, free: map[int][][]byte{},
	}
	w.res.Kind = o.Kind
	w.check.init(w)
	w.cfg = cluster.DefaultConfig(6379)
	w.cfg.NodeTimeout = o.Timeout
	if o.Timeout == 0 {
		w.cfg.NodeTimeout = time.Second
	}
	w.cfg.PingReplicaPeriod = time.Second
	return w
}

func (w *cWorld) time() time.Time { return w.epoch.Add(time.Duration(w.now)) }

func (w *cWorld) timeOf(t int64) time.Time { return w.epoch.Add(time.Duration(t)) }

func (w *cWorld) after(d time.Duration, f func()) {
	w.queue.push(w.now+int64(d), cEvent{kind: evCall, call: f})
}

func (w *cWorld) runFor(d time.Duration) {
	end := w.now + int64(d)
	for !w.done && w.queue.due(end) {
		var e cEvent
		w.now, e = w.queue.pop()
		w.res.Events++
		switch e.kind {
		case evCall:
			e.call()
		case evDialed:
			w.dialed(e)
		default:
			w.handle(e)
		}
	}
	if !w.done {
		w.now = end
	}
}

func (w *cWorld) tracef(format string, args ...any) {
	if w.opts.Trace != nil {
		w.opts.Trace(fmt.Sprintf("%9.3f ", float64(w.now)/1e9) + fmt.Sprintf(format, args...))
	}
}

func (w *cWorld) violate(format string, args ...any) {
	v := fmt.Sprintf("at %.3fs (%v): ", float64(w.now)/1e9, w.opts.Kind) + fmt.Sprintf(format, args...)
	w.tracef("VIOLATION %s", v)
	w.res.Violations = append(w.res.Violations, v)
	w.done = true
}

func (w *cWorld) delay() int64 {
	d := int64(100*time.Microsecond) + w.rng.Int64N(int64(900*time.Microsecond))
	if w.slow > 0 && w.rng.IntN(20) == 0 {
		d += w.rng.Int64N(w.slow)
	}
	return d
}

// handle brings an event to the node that it is for, or keeps it for later.
func (w *cWorld) handle(e cEvent) {
	n := e.node
	if !n.alive || n.life != e.life {
		return
	}
	if n.paused {
		if e.kind == evTimer {
			n.timerAt = 0
		} else {
			n.inbox = append(n.inbox, e)
		}
		return
	}
	switch e.kind {
	case evTimer:
		if n.timerAt == w.now {
			n.timerAt = 0
			n.step(cluster.Timer{})
		}
	case evPacket:
		w.arrive(e)
	case evLinkUp:
		if e.link.open {
			n.step(cluster.LinkUp{Link: e.link.fromID, RemoteIP: e.link.to.ip, LocalIP: n.ip})
		}
	case evInbound:
		n.step(cluster.InboundUp{Link: e.link.toID, RemoteIP: e.link.from.ip, LocalIP: n.ip})
	case evRefused, evReset:
		id := e.link.fromID
		if e.dir == toAcceptor {
			id = e.link.toID
		}
		n.forget(id)
		n.step(cluster.LinkDown{Link: id, Err: "Connection reset by peer"})
	}
}

func (n *cNode) forget(id cluster.LinkID) {
	delete(n.out, id)
	delete(n.in, id)
}

// arrive delivers a packet, unless its link is gone or held back.
func (w *cWorld) arrive(e cEvent) {
	l := e.link
	if !l.open {
		return
	}
	from, id := l.from, l.toID
	if e.dir == toDialer {
		from, id = l.to, l.fromID
	}
	if w.cut[from.idx][e.node.idx] || len(l.held[e.dir]) > 0 {
		l.held[e.dir] = append(l.held[e.dir], e.data)
		return
	}
	e.node.step(cluster.Packet{Link: id, Data: e.data})
	if e.own && w.unchecked { // the core does not keep it
		w.free[len(e.data)] = append(w.free[len(e.data)], e.data)
	}
}

// buffer gives the memory of a packet that has arrived to a new one.
func (w *cWorld) buffer(n int) []byte {
	list := w.free[n]
	if len(list) == 0 {
		return make([]byte, n)
	}
	b := list[len(list)-1]
	w.free[n] = list[:len(list)-1]
	clear(b)
	return b
}

// transmit puts a packet on its way.
func (w *cWorld) transmit(l *cLink, dir uint8, data []byte, own bool) {
	if !l.open {
		return
	}
	w.res.Packets++
	w.res.Bytes += int64(len(data))
	from, to, life := l.from, l.to, l.toLife
	if dir == toDialer {
		from, to, life = to, from, l.fromLife
	}
	if len(l.held[dir]) > 0 || w.cut[from.idx][to.idx] {
		if len(l.held[dir]) < 1000 {
			l.held[dir] = append(l.held[dir], data)
		}
		return
	}
	at := max(w.now+w.delay(), l.last[dir])
	l.last[dir] = at
	w.queue.push(at, cEvent{kind: evPacket, dir: dir, link: l, node: to, life: life, data: data, own: own})
}

// dial opens a connection: up, refused, or no answer at all.
func (w *cWorld) dial(n *cNode, e cluster.Connect) {
	to := w.byIP[e.IP]
	l := &cLink{from: n, to: to, fromLife: n.life, fromID: e.Link}
	n.out[e.Link] = l
	if to == nil {
		return
	}
	if w.unchecked && !to.alive && !to.silent {
		n.refused = append(n.refused, l)
		return
	}
	wait := w.delay() + w.delay()
	if w.spread > 0 { // one node after the other: what it knows stays in the processor's cache
		each := w.spread / int64(len(w.nodes))
		wait += int64(n.idx)*each + w.rng.Int64N(each)
	}
	w.queue.push(w.now+wait, cEvent{kind: evDialed, link: l, node: n, life: n.life})
}

// refuse brings the attempts of one step to connect to dead processes to an end,
// all of them at once: in a large world there are a million per second.
func (w *cWorld) refuse(n *cNode) {
	if len(n.refused) == 0 {
		return
	}
	list, life := n.refused, n.life
	n.refused = nil
	w.after(time.Duration(w.delay()+w.delay()), func() {
		for _, l := range list {
			w.dialed(cEvent{node: n, link: l, life: life})
		}
	})
}

// dialed is the end of an attempt to connect, unless nobody waits for it any more.
func (w *cWorld) dialed(e cEvent) {
	n, l := e.node, e.link
	to := l.to
	if !n.alive || n.life != e.life || n.out[l.fromID] != l {
		return
	}
	switch {
	case w.cut[n.idx][to.idx] || w.cut[to.idx][n.idx] || (!to.alive && to.silent):
	case !to.alive:
		w.handle(cEvent{kind: evRefused, dir: toDialer, link: l, node: n, life: e.life})
	default:
		l.open, l.toLife = true, to.life
		to.nextInbound++
		l.toID = cluster.Inbound | to.nextInbound
		to.in[l.toID] = l
		w.links = append(w.links, l)
		w.handle(cEvent{kind: evInbound, link: l, node: to, life: to.life})
		w.handle(cEvent{kind: evLinkUp, link: l, node: n, life: e.life})
	}
}

// reset breaks a connection for both ends, as far as word gets through.
func (w *cWorld) reset(l *cLink) {
	if !l.open {
		return
	}
	l.open = false
	w.tellDown(l, toDialer, l.from, l.fromLife, l.to)
	w.tellDown(l, toAcceptor, l.to, l.toLife, l.from)
}

func (w *cWorld) tellDown(l *cLink, dir uint8, n *cNode, life uint32, other *cNode) {
	if !n.alive || n.life != life || w.cut[other.idx][n.idx] {
		return
	}
	w.queue.push(max(w.now+w.delay(), l.last[dir]), cEvent{kind: evReset, dir: dir, link: l, node: n, life: life})
}

// close is what happens when one end closes a link: the other hears of it.
func (n *cNode) close(id cluster.LinkID) {
	w := n.w
	l, dir := n.out[id], uint8(toAcceptor)
	if l == nil {
		l, dir = n.in[id], toDialer
	}
	n.forget(id)
	if l == nil || !l.open {
		return
	}
	l.open = false
	if dir == toAcceptor {
		w.tellDown(l, dir, l.to, l.toLife, n)
	} else {
		w.tellDown(l, dir, l.from, l.fromLife, n)
	}
}

// step hands an input to the core and carries out what comes back.
func (n *cNode) step(in cluster.Input) {
	if n.core == nil || n.w.done {
		return
	}
	n.apply(n.core.Step(n.w.time(), in))
}

func (n *cNode) apply(effects []cluster.Effect) {
	w := n.w
	life := n.life
	die := -1 // crash after that many effects
	if w.faulty && w.opts.Kind != KindForget && w.opts.Kind != KindSlow && len(effects) > 1 && w.rng.IntN(400) == 0 {
		die = w.rng.IntN(len(effects))
	}
	for i, e := range effects {
		if i == die {
			w.tracef("n%d dies in the middle of its effects", n.idx)
			w.crash(n, false, true)
			w.after(w.ms(200, 4000), func() { w.restart(n) })
			return
		}
		n.ownData = w.unchecked && !sameData(effects, i, i-1) && !sameData(effects, i, i+1)
		n.act(e)
		if !n.alive || n.life != life || w.done {
			return
		}
	}
	if !w.unchecked {
		w.check.observe(n)
	}
	w.refuse(n)
	n.setTimer()
}

// sameData reports whether two effects send the same packet: those of a
// broadcast stand beside each other.
func sameData(effects []cluster.Effect, i, j int) bool {
	if j < 0 || j >= len(effects) {
		return false
	}
	a, ok1 := effects[i].(cluster.Send)
	b, ok2 := effects[j].(cluster.Send)
	return ok1 && ok2 && &a.Data[0] == &b.Data[0]
}

func (n *cNode) setTimer() {
	at := max(int64(n.core.Deadline().Sub(n.w.epoch)), n.w.now+1)
	if n.timerAt == 0 || at < n.timerAt {
		n.timerAt = at
		n.w.queue.push(at, cEvent{kind: evTimer, node: n, life: n.life})
	}
}

func (n *cNode) act(e cluster.Effect) {
	w := n.w
	switch e := e.(type) {
	case cluster.Persist:
		if !w.noPersist {
			n.write(n.core.NodesConf(), e.Sync)
		}
	case cluster.Connect:
		w.dial(n, e)
	case cluster.CloseLink:
		n.close(e.Link)
	case cluster.Send:
		if !w.unchecked {
			w.check.sends(n, e.Data)
		}
		if l := n.out[e.Link]; l != nil {
			w.transmit(l, toAcceptor, e.Data, n.ownData)
		} else if l := n.in[e.Link]; l != nil {
			w.transmit(l, toDialer, e.Data, n.ownData)
		}
	case cluster.FollowMaster:
		n.follow(w.byIP[e.IP])
	case cluster.Promote:
		n.data.follow, n.data.pausedW = nil, false
	case cluster.PauseWrites:
		n.data.pausedW = true
	case cluster.ResumeWrites:
		n.data.pausedW = false
	case cluster.Event:
		w.check.event(n, e)
	case cluster.Log:
		if w.opts.Trace != nil {
			w.tracef("n%d: %s", n.idx, e.Text)
		}
	case cluster.Taken:
		n.taken = e.OK
		if !e.OK {
			w.tracef("n%d does not take: %s", n.idx, e.Why)
		}
	case cluster.Reply:
		if e.Value.Kind == cluster.Error {
			w.tracef("n%d: -%s", n.idx, e.Value.Str)
		}
	}
}

// Data implements cluster.Host.
func (n *cNode) Data() cluster.Data {
	d := &n.data
	out := cluster.Data{Offset: d.offset, MasterLinkUp: d.follow != nil && d.up, Empty: d.offset == 0}
	if d.follow != nil && d.ever {
		out.MasterSeen = n.w.timeOf(d.seen)
	}
	return out
}

// CountKeysInSlot implements cluster.Host.
func (n *cNode) CountKeysInSlot(int) int { return 0 }

// KeysInSlot implements cluster.Host.
func (n *cNode) KeysInSlot(int, int) []string { return nil }

// LinkBuffer implements cluster.Host.
func (n *cNode) LinkBuffer(cluster.LinkID) (int64, int64) { return 0, 0 }

func (n *cNode) follow(m *cNode) {
	d := &n.data
	if d.follow == m {
		return
	}
	if d.follow != nil && d.up {
		d.seen, d.ever = n.w.now, true
	}
	if d.follow == nil && n.w.now > n.startedAt {
		d.ever = false // a master that was deposed has never seen its new master
	}
	d.follow, d.up = m, false
}

// replicate moves the data of all nodes on by one tick.
func (w *cWorld) replicate() {
	for _, n := range w.nodes {
		if n.alive && !n.paused && n.data.follow == nil && !n.data.pausedW {
			if st := n.core.Status(); st.OK && st.Slots > 0 {
				n.data.offset += w.rng.Int64N(100)
			}
		}
	}
	for _, n := range w.nodes {
		d := &n.data
		m := d.follow
		if !n.alive || n.paused || m == nil {
			continue
		}
		up := !d.stuck && m.alive && !m.paused && !w.cut[n.idx][m.idx] && !w.cut[m.idx][n.idx] && m.data.follow == nil
		changed := up != d.up
		if up {
			want := max(m.data.offset-d.lag, 0)
			if m.data.pausedW {
				want = m.data.offset
			}
			changed = changed || (n.core.AwaitsOffset() && d.offset != want)
			d.offset, d.seen, d.ever = want, w.now, true
			w.copyMarks(n, m)
		}
		d.up = up
		if changed {
			n.step(cluster.DataChanged{})
		}
	}
	w.check.periodic()
	w.after(cDataTick, w.replicate)
}
