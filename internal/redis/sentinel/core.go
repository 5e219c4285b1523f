package sentinel

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Params are the times that SENTINEL DEBUG shows and changes.
type Params struct {
	InfoPeriod             time.Duration
	PingPeriod             time.Duration
	AskPeriod              time.Duration
	PublishPeriod          time.Duration
	DefaultDownAfter       time.Duration
	DefaultFailoverTimeout time.Duration
	TiltTrigger            time.Duration
	TiltPeriod             time.Duration
	SlaveReconfTimeout     time.Duration
	MinLinkReconnectPeriod time.Duration
	ElectionTimeout        time.Duration
	ScriptMaxRuntime       time.Duration
	ScriptRetryDelay       time.Duration
}

// DefaultParams are the times of Redis 7.0.
func DefaultParams() Params {
	return Params{
		InfoPeriod: 10 * time.Second, PingPeriod: time.Second, AskPeriod: time.Second,
		PublishPeriod: 2 * time.Second, DefaultDownAfter: DefaultDownAfter,
		DefaultFailoverTimeout: DefaultFailoverTimeout, TiltTrigger: 2 * time.Second,
		TiltPeriod: 30 * time.Second, SlaveReconfTimeout: 10 * time.Second,
		MinLinkReconnectPeriod: 15 * time.Second, ElectionTimeout: 10 * time.Second,
		ScriptMaxRuntime: 60 * time.Second, ScriptRetryDelay: 30 * time.Second,
	}
}

// Times that Redis does not have.
const (
	promotionPoll   = 50 * time.Millisecond  // between two INFO while a promotion is awaited
	reconfPoll      = 100 * time.Millisecond // the same while a replica is being repointed
	reconfPollFor   = 3 * time.Second        // after that, once a second: it is copying data
	failoverInfo    = time.Second            // INFO of replicas while the master is down
	freshInfoWait   = 500 * time.Millisecond // for fresh INFO before a replica is chosen
	pauseThreshold  = 500 * time.Millisecond // a timer this late means that we stood still
	connectTimeout  = 3 * time.Second        // for a connection that is neither up nor refused
	maxDesync       = time.Second            // spread of the next attempt after a failed one
	startStep       = 150 * time.Millisecond // between the first attempts of two voters
	startDesync     = 20 * time.Millisecond  // spread of the first attempt
	startDesyncUnit = 20 * time.Millisecond  // spread of an attempt in a new epoch, per voter
	idleStep        = time.Second            // Deadline is never further away
	maxPending      = 100                    // unanswered commands per user of a link
	maxEventText    = 1023                   // bytes, as in Redis: names may be of any length
)

// Options are what a Core needs beside its configuration.
type Options struct {
	// Rand is the only source of randomness; the Core owns it from now on.
	Rand *rand.Rand
	// Port is announced to peers where announce-port is not set.
	Port int
	// RequirePass is our own password, used towards peers where no
	// sentinel-pass is set, as Redis does.
	RequirePass string
	// Hosts are the numeric addresses of host names of the configuration, ""
	// for one that has none now.
	Hosts map[string]string
	// Params replaces the times of Redis; the zero value means DefaultParams.
	Params Params
	// Mutants makes the Core break a rule on purpose, so that the simulator
	// can show that its checkers notice. Zero in production.
	Mutants Mutant
}

// Mutant is a set of deliberate mistakes.
type Mutant uint32

// The mistakes, each one that a Sentinel has been or could be written with.
const (
	MutVoteTwice      Mutant = 1 << iota // vote for everybody who asks in an epoch
	MutSkipEpochCheck                    // take a configuration of an older epoch from hello
	MutForgetVote                        // do not persist a vote
	MutNoMajority                        // lead without a majority
	MutEarlyEpoch                        // announce the new epoch before the promotion
	MutOvertaken                         // go on with a failover that a newer one has overtaken
	MutIgnorePriority                    // promote a replica of priority 0
	MutIgnoreOffset                      // choose a replica without looking at its offset
	MutIgnoreLinkAge                     // promote a replica that lost its master long ago
	MutKeepOldMaster                     // leave a returning master a master
	MutIgnoreHello                       // do not take newer configurations from hello
)

// Core is one Sentinel. It is not safe for concurrent use.
type Core struct {
	glob    Config // global options; Masters is unused
	opts    Options
	params  Params
	rand    *rand.Rand
	masters []*master // in the order in which they were added
	byName  map[string]*master
	conns   map[ConnID]*conn
	links   map[string]*link // of peers, by run id
	hosts   map[string]string
	asked   map[string]bool // host names whose Resolve is outstanding
	failed  map[string]bool // host names whose last Resolve brought nothing

	currentEpoch uint64

	now            time.Time
	nextConn       ConnID
	nextWake       time.Time // Deadline, as of the last Step
	tilt           bool
	tiltStart      time.Time
	suspendedUntil time.Time

	scripts scriptQueue
	simFail simFailure

	out   []Effect
	dirty bool // a Persist is owed
}

type simFailure uint8

const (
	simCrashAfterElection simFailure = 1 << iota
	simCrashAfterPromotion
)

// New builds a Sentinel from its configuration, which is copied. It fails
// when two masters have one name or a host name may not be resolved.
func New(now time.Time, cfg *Config, opts Options) (*Core, error) {
	if opts.Rand == nil {
		return nil, errors.New("sentinel: Options.Rand is required")
	}
	if opts.Params == (Params{}) {
		opts.Params = DefaultParams()
	}
	cfg = cfg.Clone()
	c := &Core{
		glob: *cfg, opts: opts, params: opts.Params, rand: opts.Rand, now: now,
		byName: map[string]*master{}, conns: map[ConnID]*conn{}, links: map[string]*link{},
		hosts: map[string]string{}, asked: map[string]bool{}, failed: map[string]bool{},
		currentEpoch: cfg.CurrentEpoch,
	}
	c.glob.Masters = nil
	for name, ip := range opts.Hosts {
		if ip != "" {
			c.hosts[strings.ToLower(name)] = ip
		} else {
			c.failed[strings.ToLower(name)] = true
		}
	}
	if c.glob.MyID == "" {
		c.glob.MyID = randomID(c.rand)
		c.dirty = true
	}
	for i := range cfg.Masters {
		if err := c.addMaster(&cfg.Masters[i]); err != nil {
			return nil, fmt.Errorf("master %q: %w", cfg.Masters[i].Name, err)
		}
	}
	c.nextWake = now
	return c, nil
}

func randomID(r *rand.Rand) string {
	const hex = "0123456789abcdef"
	var b [runIDLen]byte
	for i := range b {
		b[i] = hex[r.IntN(16)]
	}
	return string(b[:])
}

// MyID is the run id under which peers know this Sentinel.
func (c *Core) MyID() string { return c.glob.MyID }

// Start gives the effects of starting: the id, one +monitor per master, and
// the first connections. Call it once, before Step.
func (c *Core) Start(now time.Time) []Effect {
	asked := c.out // host names that New did not know
	c.begin(now)
	c.out = asked
	c.flush()
	c.log(Warning, "Sentinel ID is %s", c.glob.MyID)
	for _, m := range c.masters {
		c.aboutf(Warning, "+monitor", &m.instance, " quorum %d", m.cfg.Quorum)
	}
	return c.end()
}

// Step consumes one input at time now and returns what must be done, in
// order. The slice is valid until the next call. A now before that of the
// previous call counts as the same instant.
func (c *Core) Step(now time.Time, in Input) []Effect {
	c.begin(now)
	c.checkPause()
	c.dispatch(in)
	return c.end()
}

// Deadline is when Step wants the next Timer, at most a second after the last Step.
func (c *Core) Deadline() time.Time { return c.nextWake }

func (c *Core) begin(now time.Time) {
	if now.After(c.now) {
		c.now = now
	}
	c.out = nil
}

func (c *Core) end() []Effect {
	c.evaluateDue()
	c.stepScripts()
	c.flush()
	c.nextWake = c.now.Add(idleStep)
	for _, m := range c.masters {
		if m.deadline.Before(c.nextWake) {
			c.nextWake = m.deadline
		}
	}
	if d := c.scripts.deadline(c.now, c.params.ScriptMaxRuntime); !d.IsZero() && d.Before(c.nextWake) {
		c.nextWake = d
	}
	return c.out
}

// checkPause compares the time that we wanted to run with the time it is. An
// observer that stood still must not take its own absence for the silence of
// others: it moves the clocks of all outstanding questions forward, and for a
// while neither accuses nor votes. Above TiltTrigger this is Redis's TILT.
func (c *Core) checkPause() {
	late := c.now.Sub(c.nextWake)
	if late > c.params.TiltTrigger {
		c.tilt, c.tiltStart = true, c.now
		c.event(Warning, "+tilt", nil, "#tilt mode entered")
	}
	if late <= pauseThreshold {
		return
	}
	c.suspendedUntil = c.now.Add(c.params.PingPeriod)
	c.log(Notice, "This Sentinel stood still for %d milliseconds: it does not judge others for the next %d milliseconds",
		ms(late), ms(c.params.PingPeriod))
	seen := map[*link]bool{}
	for _, m := range c.masters {
		m.wantsEvaluation = true
		m.instances(func(ri *instance) {
			if l := ri.link; !seen[l] {
				seen[l] = true
				l.lastAvail = earlier(c.now, l.lastAvail.Add(late))
				if !l.actPing.IsZero() {
					l.actPing = earlier(c.now, l.actPing.Add(late))
				}
			}
		})
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// suspended reports whether our own judgement counts for nothing right now.
func (c *Core) suspended() bool { return c.tilt || c.now.Before(c.suspendedUntil) }

// evaluateDue runs evaluate for every master that an input touched or whose
// deadline has come, again while that moves something.
func (c *Core) evaluateDue() {
	for round := 0; round < 8; round++ {
		again := false
		for _, m := range c.masters {
			if m.wantsEvaluation || !m.deadline.After(c.now) {
				m.wantsEvaluation = false
				c.evaluate(m)
				again = again || m.wantsEvaluation
			}
		}
		if !again {
			return
		}
	}
}

// evaluate does everything about one master that time or a new fact makes
// due, and sets when it wants to run again. Every condition on time goes
// through m.passed, which notes the moment at which it would become true.
func (c *Core) evaluate(m *master) {
	m.deadline = c.now.Add(time.Hour)
	m.instances(func(ri *instance) {
		c.reconnect(ri)
		c.sendPeriodic(ri)
	})
	if c.tilt {
		if !c.passed(m, c.tiltStart, c.params.TiltPeriod) {
			return
		}
		c.tilt = false
		c.event(Warning, "-tilt", nil, "#tilt mode exited")
	}
	if c.now.Before(c.suspendedUntil) {
		m.wakeAt(c.suspendedUntil)
		return
	}
	m.instances(c.checkSubjectivelyDown)
	c.checkObjectivelyDown(m)
	c.startFailoverIfNeeded(m)
	c.failoverSteps(m)
	c.askMasterState(m)
	if m.state == stateUpdateConfig {
		c.switchToPromoted(m)
		m.wantsEvaluation = true
	}
}

// passed reports whether more than d went by since t; if not, it makes sure
// that m is evaluated when it has.
func (c *Core) passed(m *master, t time.Time, d time.Duration) bool {
	if c.now.Sub(t) > d {
		return true
	}
	m.wakeAt(t.Add(d + time.Millisecond))
	return false
}

// reached is passed with "at least" in place of "more than".
func (c *Core) reached(m *master, t time.Time) bool {
	if !c.now.Before(t) {
		return true
	}
	m.wakeAt(t)
	return false
}

func (m *master) wakeAt(t time.Time) {
	if t.Before(m.deadline) {
		m.deadline = t
	}
}

// Effects.

func (c *Core) emit(e Effect) { c.out = append(c.out, e) }

// flush emits the Persist that is owed. Everything that another process may
// act upon (Send, Reply, RunScript) goes through act and so comes after it.
func (c *Core) flush() {
	if c.dirty {
		c.dirty = false
		c.emit(Persist{c.Snapshot()})
	}
}

func (c *Core) act(e Effect) {
	c.flush()
	c.emit(e)
}

func (c *Core) log(l Level, format string, args ...any) {
	c.emit(Log{l, fmt.Sprintf(format, args...)})
}

// event emits an Event about ri, which may be nil, in Redis's words. Warnings
// about an instance start the notification script of its master.
func (c *Core) event(l Level, typ string, ri *instance, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if len(text) > maxEventText {
		text = text[:maxEventText]
	}
	c.emit(Event{l, typ, text})
	if l == Warning && ri != nil && ri.owner.cfg.NotificationPath != "" {
		c.schedule(ri.owner.cfg.NotificationPath, typ, text)
	}
}

// about is event with the usual description of ri as the text.
func (c *Core) about(l Level, typ string, ri *instance) {
	c.event(l, typ, ri, "%s", c.describe(ri))
}

// aboutf is about with more text after the description.
func (c *Core) aboutf(l Level, typ string, ri *instance, format string, args ...any) {
	c.event(l, typ, ri, "%s%s", c.describe(ri), fmt.Sprintf(format, args...))
}

func (c *Core) describe(ri *instance) string {
	s := fmt.Sprintf("%s %s %s %d", ri.kind, ri.name, c.announce(ri.addr), ri.addr.Port)
	if ri.kind != kindMaster {
		m := ri.owner
		s += fmt.Sprintf(" @ %s %s %d", m.name, c.announce(m.addr), m.addr.Port)
	}
	return s
}

// announce is how an address is told to others.
func (c *Core) announce(a Addr) string {
	if c.glob.AnnounceHostnames || a.IP == "" {
		return a.Host
	}
	return a.IP
}

// Addresses.

// makeAddr builds an address. A host name whose number is not known yet is
// accepted where names are resolved at all: the number comes with the first
// connection or with Resolved.
func (c *Core) makeAddr(host string, port int) (Addr, error) {
	if port < 0 || port > 65535 {
		return Addr{}, ErrPort
	}
	if ip, ok := numericIP(host); ok {
		return Addr{Host: host, IP: ip, Port: port}, nil
	}
	if !c.glob.ResolveHostnames || !plainHostName(host) {
		return Addr{}, ErrCannotResolve
	}
	return Addr{Host: host, IP: c.lookup(host), Port: port}, nil
}

// plainHostName refuses what could not stand in a configuration line or in a
// hello message.
func plainHostName(s string) bool {
	if s == "" || len(s) > 255 {
		return false
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '.', c == '_':
		default:
			return false
		}
	}
	return true
}

// lookup returns the number of a host name if it is known, and asks for it otherwise.
func (c *Core) lookup(host string) string {
	key := strings.ToLower(host)
	if ip, ok := c.hosts[key]; ok {
		return ip
	}
	if !c.asked[key] && len(c.asked) < 10000 {
		c.asked[key] = true
		c.emit(Resolve{Host: host})
	}
	return ""
}

// isAt reports whether a is known to be the address of host.
func (c *Core) isAt(a Addr, host string) bool {
	if sameHost(a.Host, host) {
		return true
	}
	if ip, ok := numericIP(host); ok {
		return a.IP == ip
	}
	return c.glob.ResolveHostnames && plainHostName(host) && a.IP != "" && c.lookup(host) == a.IP
}

// addrIs is isAt, but a name that nobody could resolve yet is given the benefit
// of the doubt: nothing is reconfigured on ignorance.
func (c *Core) addrIs(a Addr, host string) bool {
	if c.isAt(a, host) {
		return true
	}
	if IsIP(host) {
		return a.IP == "" && !IsIP(a.Host)
	}
	return c.glob.ResolveHostnames && (c.lookup(host) == "" || a.IP == "")
}

// awaitsNumber reports whether host is a name that is being resolved for the
// first time. Who has it is not taken in before that: he may be known by his
// number, and would be there twice.
func (c *Core) awaitsNumber(host string) bool {
	return c.glob.ResolveHostnames && !IsIP(host) && plainHostName(host) &&
		c.lookup(host) == "" && !c.failed[strings.ToLower(host)]
}

func (c *Core) sameAddr(a, b Addr) bool {
	return a.Port == b.Port && (sameHost(a.Host, b.Host) || (a.IP != "" && a.IP == b.IP))
}

// Masters and their members.

func (c *Core) addMaster(cfg *MasterConfig) error {
	if cfg.Quorum <= 0 {
		return ErrQuorum
	}
	addr, err := c.makeAddr(cfg.Host, cfg.Port)
	if err != nil {
		return err
	}
	if c.byName[cfg.Name] != nil {
		return ErrDuplicateMaster
	}
	m := &master{instance: *newInstance(c.now, kindMaster, cfg.Name, addr, nil)}
	m.owner = m
	m.link.users[0] = &m.instance
	m.cfg = *cfg
	m.cfg.Replicas, m.cfg.Sentinels = nil, nil
	m.downAfter = cfg.DownAfter
	m.configEpoch, m.leaderEpoch = cfg.ConfigEpoch, cfg.LeaderEpoch
	c.currentEpoch = max(c.currentEpoch, cfg.ConfigEpoch, cfg.LeaderEpoch)
	m.wantsEvaluation = true
	m.deadline = c.now
	c.masters = append(c.masters, m)
	c.byName[cfg.Name] = m
	for _, r := range cfg.Replicas {
		_, _ = c.addReplica(m, r.Host, r.Port) // a bad line of an old file is relearned from INFO
	}
	for _, s := range cfg.Sentinels {
		if s.RunID == c.glob.MyID {
			continue
		}
		_, _ = c.addSentinel(m, s.RunID, s.Host, s.Port) // a bad line of an old file is relearned by hello
	}
	return nil
}

func (c *Core) addReplica(m *master, host string, port int) (*instance, error) {
	addr, err := c.makeAddr(host, port)
	if err != nil {
		return nil, err
	}
	if len(m.replicas) >= maxReplicasPerMaster || m.replicaByAddr(addr.Host, port) != nil ||
		(addr.IP != "" && m.replicaByAddr(addr.IP, port) != nil) {
		return nil, ErrDuplicateReplica
	}
	ri := newInstance(c.now, kindReplica, hostPort(c.announce(addr), port), addr, m)
	ri.masterLinkUp = false
	m.replicas = append(m.replicas, ri)
	return ri, nil
}

// dropTwins removes replicas that are there twice or are the master, now that
// their names have numbers. The promoted one stays.
func (c *Core) dropTwins(m *master) {
	var keep []*instance
	twin := func(r *instance) bool {
		if r == m.promotedReplica {
			return false
		}
		if c.sameAddr(r.addr, m.addr) {
			return true
		}
		if p := m.promotedReplica; p != nil && c.sameAddr(r.addr, p.addr) {
			return true
		}
		return slices.ContainsFunc(keep, func(k *instance) bool { return c.sameAddr(k.addr, r.addr) })
	}
	for _, r := range m.replicas {
		if twin(r) {
			c.release(r)
			c.dirty = true
		} else {
			keep = append(keep, r)
		}
	}
	m.replicas = keep
}

// addSentinel adds a peer; peers that watch several masters share one link.
func (c *Core) addSentinel(m *master, runID, host string, port int) (*instance, error) {
	addr, err := c.makeAddr(host, port)
	if err != nil {
		return nil, err
	}
	if len(m.sentinels) >= maxSentinelsPerMaster || m.sentinelByRunID(runID) != nil {
		return nil, ErrDuplicateSentinel
	}
	ri := newInstance(c.now, kindSentinel, runID, addr, m)
	ri.runID = runID
	if l := c.links[runID]; l != nil {
		l.users = append(l.users, ri)
		ri.link = l
	} else {
		c.links[runID] = ri.link
	}
	m.sentinels = append(m.sentinels, ri)
	return ri, nil
}

// release ends an instance; the link goes with its last user.
func (c *Core) release(ri *instance) {
	ri.gone = true
	l := ri.link
	for i, u := range l.users {
		if u == ri {
			l.users = append(l.users[:i:i], l.users[i+1:]...)
			break
		}
	}
	if len(l.users) > 0 {
		return
	}
	c.closeConn(&l.cmd)
	c.closeConn(&l.pub)
	if ri.kind == kindSentinel && c.links[ri.runID] == l {
		delete(c.links, ri.runID)
	}
}

func (c *Core) removeMaster(m *master) {
	m.instances(c.release)
	delete(c.byName, m.name)
	for i, o := range c.masters {
		if o == m {
			c.masters = append(c.masters[:i:i], c.masters[i+1:]...)
			break
		}
	}
}

// removeSentinel removes the peer with that run id from one master.
func (c *Core) removeSentinel(m *master, runID string) bool {
	for i, s := range m.sentinels {
		if s.runID == runID {
			m.sentinels = append(m.sentinels[:i:i], m.sentinels[i+1:]...)
			c.release(s)
			return true
		}
	}
	return false
}

// resetMaster forgets replicas, any failover and, unless kept, the peers.
func (c *Core) resetMaster(m *master, keepSentinels bool) {
	for _, r := range m.replicas {
		c.release(r)
	}
	m.replicas = nil
	if !keepSentinels {
		for _, s := range m.sentinels {
			c.release(s)
		}
		m.sentinels = nil
	}
	c.closeConn(&m.link.cmd)
	c.closeConn(&m.link.pub)
	m.flags = 0
	m.leader = ""
	m.state, m.stateChange, m.failoverStart = stateNone, time.Time{}, time.Time{}
	m.startNotBefore, m.retryEpochAt = time.Time{}, time.Time{}
	m.promotedReplica = nil
	m.runID, m.masterHost = "", ""
	m.infoSent, m.infoRefresh, m.info = time.Time{}, time.Time{}, ""
	l := m.link
	l.actPing, l.lastAvail, l.lastPong, l.lastPing = c.now, c.now, c.now, time.Time{}
	l.cmdTried, l.pubTried = time.Time{}, time.Time{}
	m.roleReported, m.roleReportedTime = kindMaster, c.now
	m.wantsEvaluation = true
}

// resetAndChangeAddress makes addr the master. The other replicas stay, and
// the old master becomes one of them, so that it is found and repointed when
// it returns.
func (c *Core) resetAndChangeAddress(m *master, host string, port int) error {
	addr, err := c.makeAddr(host, port)
	if err != nil {
		return err
	}
	var keep []Addr
	for _, r := range m.replicas {
		if !c.sameAddr(r.addr, addr) {
			keep = append(keep, r.addr)
		}
	}
	if !c.sameAddr(m.addr, addr) {
		keep = append(keep, m.addr)
	}
	c.resetMaster(m, true)
	m.addr = addr
	m.oDownSince, m.sDownSince = time.Time{}, time.Time{}
	for _, a := range keep {
		if ri, err := c.addReplica(m, a.Host, a.Port); err == nil {
			c.about(Notice, "+slave", ri)
		}
	}
	c.dirty = true
	return nil
}

// Snapshot is the state to persist.
func (c *Core) Snapshot() *Config {
	cfg := c.glob
	cfg.CurrentEpoch = c.currentEpoch
	cfg.Masters = make([]MasterConfig, 0, len(c.masters))
	for _, m := range c.masters {
		mc := m.cfg
		cur := m.currentAddr()
		mc.Host, mc.IP, mc.Port = c.announce(cur), cur.IP, cur.Port
		mc.DownAfter = m.downAfter
		mc.ConfigEpoch, mc.LeaderEpoch = m.configEpoch, m.leaderEpoch
		if c.opts.Mutants&MutForgetVote != 0 {
			mc.LeaderEpoch = 0
		}
		mc.RenamedCommands = append([]Rename(nil), m.cfg.RenamedCommands...)
		mc.Replicas = make([]Addr, 0, len(m.replicas))
		for _, r := range m.replicas {
			a := r.addr
			if c.sameAddr(a, cur) { // promoted: its place is taken by the old master
				a = m.addr
			}
			mc.Replicas = append(mc.Replicas, Addr{Host: c.announce(a), Port: a.Port})
		}
		mc.Sentinels = make([]Peer, 0, len(m.sentinels))
		for _, s := range m.sentinels {
			mc.Sentinels = append(mc.Sentinels, Peer{Host: c.announce(s.addr), Port: s.addr.Port, RunID: s.runID})
		}
		cfg.Masters = append(cfg.Masters, mc)
	}
	return &cfg
}
