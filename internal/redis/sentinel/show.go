package sentinel

import (
	"fmt"
	"strings"
	"time"
)

// Replies that describe instances: SENTINEL MASTERS, REPLICAS, SENTINELS and
// the Sentinel section of INFO. Names and order of the fields are Redis's.

func (c *Core) cmdMasters(Command) Value {
	out := array()
	for _, m := range c.masters {
		out.Elems = append(out.Elems, c.show(&m.instance))
	}
	return out
}

func (c *Core) cmdMaster(in Command) Value {
	m := c.byName[in.Args[2]]
	if m == nil {
		return noSuchMaster
	}
	return c.show(&m.instance)
}

func (c *Core) cmdReplicas(in Command) Value {
	m := c.byName[in.Args[2]]
	if m == nil {
		return noSuchMaster
	}
	out := array()
	for _, r := range m.replicas {
		if r.announced {
			out.Elems = append(out.Elems, c.show(r))
		}
	}
	return out
}

func (c *Core) cmdSentinels(in Command) Value {
	m := c.byName[in.Args[2]]
	if m == nil {
		return noSuchMaster
	}
	out := array()
	for _, s := range m.sentinels {
		out.Elems = append(out.Elems, c.show(s))
	}
	return out
}

// since is the time from t to now in milliseconds, 0 for never.
func (c *Core) since(t time.Time) string {
	if t.IsZero() {
		return "0"
	}
	return utoa(uint64(max(0, ms(c.now.Sub(t)))))
}

func (ri *instance) flagNames() string {
	var names []string
	add := func(on bool, name string) {
		if on {
			names = append(names, name)
		}
	}
	add(ri.is(sDown), "s_down")
	add(ri.is(oDown), "o_down")
	add(true, ri.kind.String())
	add(ri.disconnected(), "disconnected")
	add(ri.is(masterDown), "master_down")
	add(ri.is(failoverInProgress), "failover_in_progress")
	add(ri.is(promoted), "promoted")
	add(ri.is(reconfSent), "reconf_sent")
	add(ri.is(reconfInProgress), "reconf_inprog")
	add(ri.is(reconfDone), "reconf_done")
	add(ri.is(forceFailover), "force_failover")
	add(ri.is(scriptKillSent), "script_kill_sent")
	return strings.Join(names, ",")
}

func (c *Core) show(ri *instance) Value {
	out := mapValue()
	add := func(name, value string) { out.Elems = append(out.Elems, bulk(name), bulk(value)) }
	l := ri.link
	add("name", ri.name)
	add("ip", c.announce(ri.addr))
	add("port", itoa(ri.addr.Port))
	add("runid", ri.runID)
	add("flags", ri.flagNames())
	add("link-pending-commands", itoa(l.pendingCommands()))
	add("link-refcount", itoa(len(l.users)))
	if ri.is(failoverInProgress) {
		add("failover-state", ri.owner.state.String())
	}
	add("last-ping-sent", c.since(l.actPing))
	add("last-ok-ping-reply", c.since(l.lastAvail))
	add("last-ping-reply", c.since(l.lastPong))
	if ri.is(sDown) {
		add("s-down-time", c.since(ri.sDownSince))
	}
	if ri.is(oDown) {
		add("o-down-time", c.since(ri.oDownSince))
	}
	add("down-after-milliseconds", utoa(uint64(ms(ri.downAfter))))
	if ri.kind != kindSentinel {
		add("info-refresh", c.since(ri.infoRefresh))
		add("role-reported", ri.roleReported.String())
		add("role-reported-time", c.since(ri.roleReportedTime))
	}
	switch ri.kind {
	case kindMaster:
		c.showMaster(ri.owner, add)
	case kindReplica:
		c.showReplica(ri, add)
	case kindSentinel:
		add("last-hello-message", c.since(ri.lastHello))
		voted := ri.leader
		if voted == "" {
			voted = "?"
		}
		add("voted-leader", voted)
		add("voted-leader-epoch", utoa(ri.leaderEpoch))
	}
	return out
}

func (c *Core) showMaster(m *master, add func(name, value string)) {
	add("config-epoch", utoa(m.configEpoch))
	add("num-slaves", itoa(len(m.replicas)))
	add("num-other-sentinels", itoa(len(m.sentinels)))
	add("quorum", itoa(m.cfg.Quorum))
	add("failover-timeout", utoa(uint64(ms(m.cfg.FailoverTimeout))))
	add("parallel-syncs", itoa(m.cfg.ParallelSyncs))
	if m.cfg.NotificationPath != "" {
		add("notification-script", m.cfg.NotificationPath)
	}
	if m.cfg.ReconfigPath != "" {
		add("client-reconfig-script", m.cfg.ReconfigPath)
	}
}

func (c *Core) showReplica(ri *instance, add func(name, value string)) {
	add("master-link-down-time", itoa(int(ms(ri.masterLinkDown))))
	linkStatus, host := "err", ri.masterHost
	if ri.masterLinkUp {
		linkStatus = "ok"
	}
	if host == "" {
		host = "?"
	}
	add("master-link-status", linkStatus)
	add("master-host", host)
	add("master-port", itoa(ri.masterPort))
	add("slave-priority", itoa(ri.priority))
	add("slave-repl-offset", utoa(ri.replOffset))
	announced := "0"
	if ri.announced {
		announced = "1"
	}
	add("replica-announced", announced)
}

// InfoSection is the Sentinel section of INFO at time now, with its heading.
func (c *Core) InfoSection(now time.Time) string {
	var b strings.Builder
	tilt, tiltSince := 0, int64(-1)
	if c.tilt {
		tilt, tiltSince = 1, int64(now.Sub(c.tiltStart)/time.Second)
	}
	fmt.Fprintf(&b, "# Sentinel\r\nsentinel_masters:%d\r\nsentinel_tilt:%d\r\nsentinel_tilt_since_seconds:%d\r\n"+
		"sentinel_running_scripts:%d\r\nsentinel_scripts_queue_length:%d\r\nsentinel_simulate_failure_flags:%d\r\n",
		len(c.masters), tilt, tiltSince, c.scripts.running, len(c.scripts.jobs), c.simFail)
	for i, m := range c.masters {
		state := "ok"
		switch {
		case m.is(oDown):
			state = "odown"
		case m.is(sDown):
			state = "sdown"
		}
		fmt.Fprintf(&b, "master%d:name=%s,status=%s,address=%s:%d,slaves=%d,sentinels=%d\r\n",
			i, m.name, state, c.announce(m.addr), m.addr.Port, len(m.replicas), len(m.sentinels)+1)
	}
	return b.String()
}

// View is a summary of one master, for status pages and the simulator.
type View struct {
	Name          string
	Addr          Addr // what clients are told
	ConfigEpoch   uint64
	FailoverEpoch uint64 // of the last failover that this Sentinel tried
	CurrentEpoch  uint64
	SDown, ODown  bool
	FailoverState string
	Forced        bool
	Replicas      int
	Sentinels     int // without this one
}

// Master returns the summary of the master of that name.
func (c *Core) Master(name string) (View, bool) {
	m := c.byName[name]
	if m == nil {
		return View{}, false
	}
	return View{
		Name: name, Addr: m.currentAddr(), ConfigEpoch: m.configEpoch, FailoverEpoch: m.failoverEpoch,
		CurrentEpoch: c.currentEpoch, SDown: m.is(sDown), ODown: m.is(oDown), FailoverState: m.state.String(),
		Forced: m.is(forceFailover), Replicas: len(m.replicas), Sentinels: len(m.sentinels),
	}, true
}

const helpText = `SENTINEL <subcommand> [<arg> [value] [opt] ...]. Subcommands are:
CKQUORUM <master-name>
    Check if the current Sentinel configuration is able to reach the quorum
    needed to failover a master and the majority needed to authorize the
    failover.
CONFIG SET <param> <value>
    Set a global Sentinel configuration parameter.
CONFIG GET <param>
    Get global Sentinel configuration parameter.
DEBUG [<param> <value> ...]
    Show a list of configurable time parameters and their values (milliseconds).
    Or update current configurable parameters values (one or more).
GET-MASTER-ADDR-BY-NAME <master-name>
    Return the ip and port number of the master with that name.
FAILOVER <master-name>
    Manually failover a master node without asking for agreement from other
    Sentinels
FLUSHCONFIG
    Force Sentinel to rewrite its configuration on disk, including the current
    Sentinel state.
INFO-CACHE <master-name>
    Return last cached INFO output from masters and all its replicas.
IS-MASTER-DOWN-BY-ADDR <ip> <port> <current-epoch> <runid>
    Check if the master specified by ip:port is down from current Sentinel's
    point of view.
MASTER <master-name>
    Show the state and info of the specified master.
MASTERS
    Show a list of monitored masters and their state.
MONITOR <name> <ip> <port> <quorum>
    Start monitoring a new master with the specified name, ip, port and quorum.
MYID
    Return the ID of the Sentinel instance.
PENDING-SCRIPTS
    Get pending scripts information.
REMOVE <master-name>
    Remove master from Sentinel's monitor list.
REPLICAS <master-name>
    Show a list of replicas for this master and their state.
RESET <pattern>
    Reset masters for specific master name matching this pattern.
SENTINELS <master-name>
    Show a list of Sentinel instances for this master and their state.
SET <master-name> <option> <value> [<option> <value> ...]
    Set configuration parameters for certain masters.
SIMULATE-FAILURE [CRASH-AFTER-ELECTION] [CRASH-AFTER-PROMOTION] [HELP]
    Simulate a Sentinel crash.
HELP
    Prints this help.`
