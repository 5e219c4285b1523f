package sentinel

import (
	"fmt"
	"strings"
	"time"
)

type kind uint8

const (
	kindMaster kind = iota
	kindReplica
	kindSentinel
)

func (k kind) String() string { return [...]string{"master", "slave", "sentinel"}[k] }

type flags uint32

const (
	sDown flags = 1 << iota
	oDown
	masterDown // on a Sentinel: it says that the master is down
	failoverInProgress
	promoted
	reconfSent
	reconfInProgress
	reconfDone
	forceFailover
	scriptKillSent
	masterReboot
)

// failoverState is the step of a failover in progress.
type failoverState uint8

const (
	stateNone failoverState = iota
	stateWaitStart
	stateSelectSlave
	stateSendSlaveofNoOne
	stateWaitPromotion
	stateReconfSlaves
	stateUpdateConfig
)

func (s failoverState) String() string {
	return [...]string{"none", "wait_start", "select_slave", "send_slaveof_noone",
		"wait_promotion", "reconf_slaves", "update_config"}[s]
}

// instance is one master, replica or Sentinel that we talk to. A peer that
// watches several masters with us is one instance per master, all of them
// sharing one link.
type instance struct {
	kind  kind
	name  string // master: its name; replica: host:port; Sentinel: run id
	runID string
	addr  Addr
	link  *link
	owner *master // the master it belongs to; of a master: itself
	flags flags
	gone  bool // removed: late replies are dropped

	downAfter  time.Duration
	lastPub    time.Time // our last hello that was accepted
	pubPending bool
	sDownSince time.Time // zero: never
	oDownSince time.Time

	// Masters and replicas, from INFO.
	infoRefresh      time.Time // zero: never
	infoSent         time.Time // zero: none outstanding
	infoWanted       bool      // ask as soon as none is outstanding
	infoNotBefore    time.Time // set after INFO was refused
	info             string
	roleReported     kind // kindMaster or kindReplica
	roleReportedTime time.Time
	confChangeTime   time.Time // the master that it follows changed
	masterLinkDown   time.Duration
	masterLinkUp     bool
	masterHost       string // "" unknown
	masterPort       int
	priority         int
	announced        bool
	replOffset       uint64
	reconfSentTime   time.Time
	repointed        time.Time // last correction outside a failover

	// Sentinels.
	lastHello       time.Time
	lastMasterReply time.Time // reply to is-master-down-by-addr
	askSent         time.Time // zero: none outstanding
	askedVote       uint64    // newest epoch in which we asked it for its vote
	leader          string    // whom it voted for; of a master: whom we voted for
	leaderEpoch     uint64
}

// master is a monitored master with all that belongs to it.
type master struct {
	instance
	cfg       MasterConfig // scripts, credentials, limits; addresses are in instance
	replicas  []*instance
	sentinels []*instance

	configEpoch     uint64 // Invariant: <= Core.currentEpoch
	failoverEpoch   uint64
	state           failoverState
	stateChange     time.Time
	failoverStart   time.Time // of the last attempt, ours or one we voted for
	startNotBefore  time.Time // random delay between ODOWN and our attempt
	retryEpochAt    time.Time // zero: no new epoch is being tried
	delayLogged     time.Time
	promotedReplica *instance
	rebootSince     time.Time
	deadline        time.Time // when evaluate wants to run again
	wantsEvaluation bool
	askNow          bool // ask the peers now, not when the period is over
}

// link is the connections to one process: commands, and for masters and
// replicas also pub/sub.
type link struct {
	users []*instance // Invariant: not empty while the link exists
	cmd   *conn
	pub   *conn

	cmdTried    time.Time // last attempt to connect
	pubTried    time.Time
	actPing     time.Time // oldest PING without an acceptable reply; zero: none
	lastPing    time.Time
	lastAvail   time.Time // last acceptable reply to PING
	lastPong    time.Time // last reply to PING at all
	lost        time.Time // when the command connection last went down
	pubActivity time.Time
	localIP     string
}

type conn struct {
	id      ConnID
	link    *link
	pubsub  bool
	up      bool
	started time.Time
	pending []request
}

type requestKind uint8

const (
	reqDiscard requestKind = iota
	reqPing
	reqInfo
	reqHello
	reqAsk
	reqExec
)

type request struct {
	kind requestKind
	inst *instance
}

func newLink(now time.Time) *link {
	// actPing starts now although nothing was sent: an instance that we never
	// reach must become SDOWN too.
	return &link{actPing: now, lastAvail: now, lastPong: now}
}

func (l *link) cmdUp() bool { return l.cmd != nil && l.cmd.up }

func (l *link) pendingCommands() int {
	if l.cmd == nil {
		return 0
	}
	return len(l.cmd.pending)
}

// disconnected is the flag that Redis shows: not all connections of this
// kind of instance are there.
func (ri *instance) disconnected() bool {
	return !ri.link.cmdUp() || (ri.kind != kindSentinel && (ri.link.pub == nil || !ri.link.pub.up))
}

func (ri *instance) is(f flags) bool { return ri.flags&f != 0 }

func newInstance(now time.Time, k kind, name string, addr Addr, owner *master) *instance {
	ri := &instance{
		kind: k, name: name, addr: addr, owner: owner, link: newLink(now),
		lastPub: now, lastHello: now, lastMasterReply: now,
		roleReported: k, roleReportedTime: now, confChangeTime: now,
		priority: 100, announced: true,
	}
	if owner != nil {
		ri.downAfter = owner.downAfter
	}
	ri.link.users = append(ri.link.users, ri)
	return ri
}

// noDownFor reports whether the instance was neither SDOWN nor ODOWN during
// the last d.
func (ri *instance) noDownFor(now time.Time, d time.Duration) bool {
	recent := ri.sDownSince
	if ri.oDownSince.After(recent) {
		recent = ri.oDownSince
	}
	return recent.IsZero() || now.Sub(recent) > d
}

// hostPort is the name of a replica: its announced host and port.
func hostPort(host string, port int) string { return fmt.Sprintf("%s:%d", host, port) }

func sameHost(a, b string) bool { return strings.EqualFold(a, b) }

// replicaByAddr finds a replica by host name or address.
func (m *master) replicaByAddr(host string, port int) *instance {
	for _, r := range m.replicas {
		if r.addr.Port == port && (sameHost(r.addr.Host, host) || r.addr.IP == host) {
			return r
		}
	}
	return nil
}

func (m *master) sentinelByRunID(runID string) *instance {
	for _, s := range m.sentinels {
		if s.runID == runID {
			return s
		}
	}
	return nil
}

// currentAddr is the address to tell others: that of the promoted replica as
// soon as the promotion is a fact.
func (m *master) currentAddr() Addr {
	if m.is(failoverInProgress) && m.promotedReplica != nil && m.state >= stateReconfSlaves {
		return m.promotedReplica.addr
	}
	return m.addr
}

// instances calls f for the master, its replicas and its Sentinels.
func (m *master) instances(f func(*instance)) {
	f(&m.instance)
	for _, r := range m.replicas {
		f(r)
	}
	for _, s := range m.sentinels {
		f(s)
	}
}
