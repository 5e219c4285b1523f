package cluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"holdfast/internal/invariant"
	"holdfast/internal/redis/cluster/slot"
)

// Times of Redis 7.0 that no directive changes, and a few of ours.
const (
	tickPeriod         = 100 // ms between two looks at all nodes where nothing is urgent
	randomPingPeriod   = 1000
	minHandshake       = 1000
	failReportValidity = 2 // node timeouts
	failUndoTime       = 2 // node timeouts
	manualTimeout      = 5000
	manualPauseFactor  = 2
	migrationDelay     = 5000
	banTime            = 60000
	maxRejoinDelay     = 5000
	minRejoinDelay     = 500
	writableDelay      = 2000
	cantFailoverRelog  = 300000

	// Gossip names the time of a pong in whole seconds, so that in a large
	// cluster all nodes find the same pings due in the same millisecond. A look
	// sends at least minPings, and all within a pingSpread-th of the timeout.
	minPings   = 16
	pingSpread = 8

	pauseThreshold = 500   // a Timer this late means that we stood still
	fullSizeMemory = 10    // node timeouts that a shard without slots still counts
	maxNodes       = 16384 // known nodes; gossip about more is ignored
	maxHeirs       = 4     // failovers of one shard in a row that are followed back
	maxEpochTold   = 1 << 62
)

// instant is a moment in milliseconds: the wall clock when the Core was made,
// going on with the monotonic clock. 0 is never.
type instant int64

// todo is what is owed at the end of a Step.
type todo uint8

const (
	todoSave todo = 1 << iota
	todoSync
	todoState
	todoFailover
	todoManual
)

// Core is one cluster node. It is not safe for concurrent use.
type Core struct {
	cfg    Config
	host   Host
	rand   *rand.Rand
	faults Mutants
	plain  bool
	buffer func(n int) []byte // nil: make

	base    time.Time
	baseMs  instant
	now     instant
	wallOff int64 // what turns an instant into the wall clock, ms

	myself       *node
	nodes        []*node   // in the order in which they became known
	pongs        []instant // pongReceived of each of nodes: gossip compares many
	byID         map[string]*node
	seats        seats
	slots        slotTable // owners
	migrateTo    slotTable // migrating and importing once more, for the View
	importFrom   slotTable
	nums         []*node // by number; nil: free
	given        *bitmap // slots of ours that somebody else may claim; nil: none
	unclaimed    bitmap  // slots whose owner does not claim them any more
	anyUnclaimed bool    // unclaimed may have a bit set
	since        sinceTable
	split        splitShard
	copies       *bitmap // slots of which we have copies; nil: none
	migrating    map[int]*node
	importing    map[int]*node
	taken        map[int]*node      // slots that were given to us, by whom, until it does not claim them any more
	banned       map[string]instant // forgotten nodes, until when

	links    map[LinkID]*link
	nextLink LinkID
	nextOrd  uint32

	currentEpoch  uint64
	lastVoteEpoch uint64

	ok              bool
	size            int     // masters with slots
	fullSize        int     // size when every slot had an owner for the last time
	lostAt          instant // since when not every slot has one; 0: all have
	firstState      instant // first look at the state
	amongMinority   instant // last time we were in a minority
	inMinority      bool
	suspended       bool // we stood still: serve nothing before a majority answered
	heardSincePause map[*node]bool

	election election
	manual   manualFailover
	toTell   []*node // nodes in PFAIL that the masters have not heard of yet

	following followed

	lastTick   instant
	nextTick   instant
	nextRandom instant
	suspects   []*node // in PFAIL at the last look or since; some may have answered meanwhile
	pingBudget int     // pings that this look may still send because of their time
	pingFrom   int     // where the next look begins
	gossipSeq  uint64
	picked     []*node // memory of whoever walks over a gossip section
	touched    int     // means nothing: what was read ahead has to be used
	anyFailed  bool    // a node was FAIL at the last look or since
	announce   bool    // our new epoch is owed to everybody within a second

	sent, received [msgTypes]int64
	limitExceeded  int64

	view       *View
	viewDirty  bool // nodes, flags or directives
	slotsDirty bool // slots or their marks alone
	viewEpoch  uint64

	lostSlots    []int // slots whose keys must go
	lostChannels []int // slots whose sharded channels must go
	todo         todo
	out          []Effect // out[0] is kept for Persist
}

// followed is the master that the shell was told to replicate.
type followed struct {
	id, ip      string
	port, pport int
}

// New builds a node. It fails when Options.State is not the text of a
// nodes.conf (ErrCorruptConf), or an option is missing.
func New(now time.Time, cfg Config, opts Options) (*Core, error) {
	if opts.Rand == nil || opts.Host == nil {
		return nil, errors.New("cluster: Options.Rand and Options.Host are required")
	}
	c := &Core{
		cfg: cfg, host: opts.Host, rand: opts.Rand, faults: opts.Faults, plain: opts.Plain, buffer: opts.Buffer,
		base: now, baseMs: instant(now.UnixMilli()), now: instant(now.UnixMilli()),
		byID: map[string]*node{}, migrating: map[int]*node{}, importing: map[int]*node{}, taken: map[int]*node{},
		banned: map[string]instant{}, links: map[LinkID]*link{}, size: 1, viewDirty: true,
	}
	c.out = append(c.out, nil)
	c.manual.masterOffset = -1
	if len(opts.State) > 0 {
		cf, err := parseConf(opts.State)
		if err != nil {
			return nil, err
		}
		c.load(cf)
	} else {
		c.myself = c.newNode(c.randomID(), FlagMyself|FlagMaster)
		c.addNode(c.myself)
		c.logf(Notice, "No cluster configuration found, I'm %s", c.myself.id)
		c.todo |= todoSave | todoSync
	}
	c.nextTick = c.now
	c.nextRandom = c.now + randomPingPeriod
	c.pingFrom = c.rand.IntN(maxNodes)
	c.applyConfig()
	return c, nil
}

// load takes over the content of nodes.conf.
func (c *Core) load(cf *conf) {
	c.currentEpoch, c.lastVoteEpoch = cf.currentEpoch, cf.lastVoteEpoch
	for _, v := range cf.unknownVars {
		c.logf(Warning, "Skipping unknown cluster config variable '%s'", v)
	}
	get := func(id string) *node {
		n := c.byID[id]
		if n == nil {
			n = c.newNode(id, 0)
			c.addNode(n)
		}
		return n
	}
	for i := range cf.nodes {
		cn := &cf.nodes[i]
		n := get(cn.id)
		n.ip, n.hostname, n.port, n.cport = intern(cn.ip), intern(cn.hostname), cn.port, cn.busPort
		n.flags |= cn.flags &^ FlagPFail // what we could not reach in an earlier life says nothing
		n.configEpoch = cn.configEpoch
		if cn.flags.Has(FlagFail) {
			n.failTime = c.now
		}
		if cn.flags.Has(FlagMyself) {
			c.myself = n
		}
		if cn.pinged {
			n.pingSent = c.now
		}
		if cn.ponged {
			c.setPong(n, c.now)
		}
		if cn.master != "" && n.master == nil {
			m := get(cn.master)
			n.master = m
			c.addReplica(m, n)
		}
		for _, r := range cn.slots {
			for s := r[0]; s <= r[1]; s++ {
				c.addSlot(n, s)
			}
		}
		for _, m := range cn.moving {
			if m.importing {
				c.markImporting(m.slot, get(m.other))
			} else {
				c.markMigrating(m.slot, get(m.other))
			}
		}
	}
	c.logf(Notice, "Node configuration loaded, I'm %s", c.myself.id)
	// Never so in a file that Redis or we wrote; one that was edited must not
	// make us vote again in an epoch.
	c.currentEpoch = max(c.currentEpoch, c.maxEpoch(), c.lastVoteEpoch)
	for _, r := range cf.since {
		for s := r.from; s <= r.to; s++ {
			c.since.set(s, min(r.epoch, c.currentEpoch))
		}
	}
	c.lostChannels = c.lostChannels[:0]
}

// Start gives the effects of starting. Call it once, before Step.
func (c *Core) Start(now time.Time) []Effect {
	c.setNow(now)
	c.nextTick = c.now
	return c.end()
}

// Step consumes one input at time now and returns what must be done, in order.
// The slice is valid until the next call. A now before that of the previous
// call counts as the same instant.
func (c *Core) Step(now time.Time, in Input) []Effect {
	clear(c.out) // it may hold the packets of a whole broadcast
	c.out = append(c.out[:0], nil)
	c.setNow(now)
	c.checkPause()
	switch in := in.(type) {
	case Timer: // end looks at the time after every input
	case Packet:
		c.onPacket(in)
	case LinkUp:
		c.onLinkUp(in)
	case InboundUp:
		c.onInboundUp(in)
	case LinkDown:
		c.onLinkDown(in)
	case DataChanged:
		c.todo |= todoManual
	case Command:
		c.onCommand(in)
	case ConfigChanged:
		c.onConfigChanged(in.Config)
	case Publish:
		c.onPublish(in)
	case DataLoaded:
		c.onDataLoaded(in.Except)
	case TakeSlots:
		c.onTakeSlots(in)
	case GivenSlots:
		c.onGivenSlots(in)
	case Shutdown:
		c.todo |= todoSave | todoSync
	default:
		panic(fmt.Sprintf("cluster: unknown input %T", in))
	}
	return c.end()
}

// Deadline is when Step wants the next Timer, at most a second after the last Step.
func (c *Core) Deadline() time.Time {
	return c.base.Add(time.Duration(c.nextTick-c.baseMs) * time.Millisecond)
}

// MyID is the id of this node.
func (c *Core) MyID() string { return c.myself.id }

// AwaitsOffset reports whether a manual failover waits for the replication
// offset of this replica: while it does, every move of it is a DataChanged.
func (c *Core) AwaitsOffset() bool {
	return c.manual.end != 0 && !c.manual.canStart && c.manual.masterOffset >= 0 && c.myself.isReplica()
}

func (c *Core) setNow(now time.Time) {
	if t := c.baseMs + instant(now.Sub(c.base)/time.Millisecond); t > c.now {
		c.now = t
	}
	// Both are rounded: what they differ by is no move of the clock.
	if off := now.UnixMilli() - int64(c.now); off < c.wallOff-1 || off > c.wallOff+1 {
		c.wallOff = off
	}
}

// instantOf converts a time of the shell.
func (c *Core) instantOf(t time.Time) instant {
	if t.IsZero() {
		return 0
	}
	return c.baseMs + instant(t.Sub(c.base)/time.Millisecond)
}

// wall is t as the clock on the wall shows it, in ms; 0 for never.
func (c *Core) wall(t instant) int64 {
	if t == 0 {
		return 0
	}
	return int64(t) + c.wallOff
}

func (c *Core) timeOf(t instant) time.Time {
	return c.base.Add(time.Duration(t-c.baseMs) * time.Millisecond)
}

// wake makes the next tick happen no later than t.
func (c *Core) wake(t instant) { c.nextTick = min(c.nextTick, max(t, c.now)) }

// end does what is owed and closes the Step.
func (c *Core) end() []Effect {
	for range 4 { // each round may cause the next, but not for ever
		if c.now >= c.nextTick {
			c.tick()
		}
		if c.todo&(todoFailover|todoManual|todoState) == 0 {
			break
		}
		t := c.todo
		c.todo &^= todoFailover | todoManual | todoState
		if t&todoManual != 0 {
			c.handleManual()
		}
		if t&(todoManual|todoFailover) != 0 {
			c.handleFailover()
		}
		if t&todoState != 0 {
			c.updateState()
		}
	}
	c.follow()
	c.flushLost()
	c.tellPFail()
	invariant.Check(c.currentEpoch >= c.lastVoteEpoch, "currentEpoch %d < lastVoteEpoch %d", c.currentEpoch, c.lastVoteEpoch)
	if c.todo&todoSave == 0 {
		return c.out[1:]
	}
	p := Persist{Sync: c.todo&todoSync != 0}
	c.todo &^= todoSave | todoSync
	if c.faults.PersistAfterSend {
		c.out = append(c.out, p)
		return c.out[1:]
	}
	c.out[0] = p
	return c.out
}

// flushLost hands out the slots that were lost in this Step.
func (c *Core) flushLost() {
	if len(c.lostSlots) > 0 {
		c.emit(DropSlotKeys{append([]int(nil), c.lostSlots...)})
		c.lostSlots = c.lostSlots[:0]
	}
	if len(c.lostChannels) > 0 {
		c.emit(DropShardChannels{append([]int(nil), c.lostChannels...)})
		c.lostChannels = c.lostChannels[:0]
	}
}

func (c *Core) emit(e Effect) { c.out = append(c.out, e) }

func (c *Core) logf(l Level, format string, args ...any) {
	if !c.logs(l) {
		return
	}
	c.emit(Log{l, fmt.Sprintf(format, args...)})
}

// logs reports whether lines of a level are wanted.
func (c *Core) logs(l Level) bool { return l >= c.cfg.MinLevel }

// debugf is logf for what happens with every packet.
func (c *Core) debugf(format string, args ...any) {
	if c.cfg.Debug {
		c.logf(Debug, format, args...)
	}
}

func (c *Core) event(k EventKind, n *node, other *node, epoch uint64) {
	e := Event{Kind: k, Epoch: epoch}
	if n != nil {
		e.Node = n.id
	}
	if other != nil {
		e.Other = other.id
	}
	c.emit(e)
}

func (c *Core) timeout() instant { return instant(c.cfg.NodeTimeout / time.Millisecond) }

// quorum is the majority of the masters with slots. While a shard changes
// hands, its slots may have no owner in our eyes for a moment: it still counts.
func (c *Core) quorum() int {
	size := c.size
	if !c.plain && c.fullSize > size && c.lostAt != 0 && c.now-c.lostAt < fullSizeMemory*c.timeout() {
		size = c.fullSize
	}
	if c.faults.QuorumByHalf {
		return max(size/2, 1)
	}
	return size/2 + 1
}

// checkPause compares the time at which we wanted to run with the time it is.
// Whoever stood still must not take its own absence for the silence of others:
// what was asked before counts as asked now. And a master that stood still for
// longer than the node timeout may have been replaced: it serves nothing until
// a majority of the masters has answered it.
func (c *Core) checkPause() {
	late := c.now - c.nextTick
	if late <= pauseThreshold || c.plain {
		return
	}
	c.logf(Notice, "This node stood still for %d milliseconds: it does not hold that against others", late)
	for _, n := range c.nodes {
		if n.pingSent != 0 {
			n.pingSent = min(c.now, n.pingSent+late)
		}
	}
	if late > c.timeout() && c.myself.isMaster() && c.size > 1 {
		c.suspended = true
		c.heardSincePause = map[*node]bool{}
		c.todo |= todoState
	}
}

// heard notes an answer of n after a pause of ours.
func (c *Core) heard(n *node) {
	if !c.suspended || !n.isVoter() || c.heardSincePause[n] {
		return
	}
	c.heardSincePause[n] = true
	c.todo |= todoState
}

// mayResume ends the suspension once a majority has answered.
func (c *Core) mayResume() {
	if c.suspended && len(c.heardSincePause)+1 >= c.quorum() {
		c.suspended, c.heardSincePause = false, nil
		c.amongMinority = c.now // others' claims are on their way
	}
}

// onConfigChanged takes over directives.
func (c *Core) onConfigChanged(cfg Config) {
	coverage := c.cfg.RequireFullCoverage != cfg.RequireFullCoverage
	c.cfg = cfg
	c.applyConfig()
	c.viewDirty = true
	if coverage {
		c.todo |= todoState
	}
	c.wake(c.now)
}

// applyConfig brings what this node says of itself in line with the directives.
func (c *Core) applyConfig() {
	me := c.myself
	port, pport, cport := c.announcedPorts()
	old := *me
	me.port, me.pport, me.cport = port, pport, cport
	if c.cfg.AnnounceIP != "" {
		me.ip = c.cfg.AnnounceIP
		if len(me.ip) > ipLen-1 {
			me.ip = me.ip[:ipLen-1]
		}
	} else if me.announced {
		me.ip = "" // to be found out again
	}
	me.announced = c.cfg.AnnounceIP != ""
	me.hostname = c.cfg.AnnounceHostname
	me.flags &^= FlagNoFailover
	if c.cfg.ReplicaNoFailover {
		me.flags |= FlagNoFailover
	}
	if me.flags != old.flags {
		c.todo |= todoSave | todoState
	}
	if me.ip != old.ip || me.port != old.port || me.cport != old.cport || me.hostname != old.hostname {
		c.todo |= todoSave
	}
	c.viewDirty = true
}

// announcedPorts are the ports that others are told.
func (c *Core) announcedPorts() (port, plain, bus int) {
	port = c.cfg.Port
	if c.cfg.TLSCluster {
		port, plain = c.cfg.TLSPort, c.cfg.Port
	}
	bus = c.cfg.BusPort
	if bus == 0 {
		bus = port + BusPortIncr
	}
	switch {
	case c.cfg.TLSCluster && c.cfg.AnnounceTLSPort != 0:
		port, plain = c.cfg.AnnounceTLSPort, c.cfg.AnnouncePort
	case c.cfg.AnnouncePort != 0:
		port = c.cfg.AnnouncePort
	}
	if c.cfg.AnnounceBusPort != 0 {
		bus = c.cfg.AnnounceBusPort
	}
	return port, plain, bus
}

// onDataLoaded compares the keys that were loaded with the slots we own.
func (c *Core) onDataLoaded(except *slot.Set) {
	if c.myself.isReplica() {
		return // the data is the master's
	}
	for s := range Slots {
		if c.owner(s) == c.myself || c.importing[s] != nil || (except != nil && except.Has(s)) || c.host.CountKeysInSlot(s) == 0 {
			continue
		}
		c.todo |= todoSave | todoSync | todoState
		c.viewDirty = true
		if c.owner(s) == nil {
			c.logf(Warning, "I have keys for unassigned slot %d. Taking responsibility for it.", s)
			c.addSlot(c.myself, s)
			continue
		}
		c.logf(Warning, "I have keys for slot %d, but the slot is assigned to another node. Setting it to importing state.", s)
		c.markImporting(s, c.owner(s))
	}
}

// follow tells the shell whom to replicate, when that changed.
func (c *Core) follow() {
	m := c.myself.master
	if !c.myself.isReplica() || m == nil || m.flags.Has(FlagNoAddr) || m.ip == "" {
		if !c.myself.isReplica() {
			c.following = followed{}
		}
		return
	}
	f := followed{m.id, m.ip, m.port, m.pport}
	if f == c.following {
		return
	}
	c.following = f
	c.emit(FollowMaster{ID: m.id, IP: m.ip, Port: m.port, PlainPort: m.pport})
}

func (c *Core) randomID() string {
	const hex = "0123456789abcdef"
	var b [NameLen]byte
	for i := range b {
		b[i] = hex[c.rand.IntN(16)]
	}
	return string(b[:])
}
