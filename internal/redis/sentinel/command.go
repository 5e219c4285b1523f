package sentinel

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/redis/glob"
	"holdfast/internal/redis/resp"
)

// subcommand is one row of the SENTINEL command: arity counts the words
// including SENTINEL itself; negative means at least.
type subcommand struct {
	name  string
	arity int
	run   func(c *Core, in Command) Value
}

var subcommands []subcommand

func init() { // a variable with these entries would refer to itself through HELP
	subcommands = []subcommand{
		{"ckquorum", 3, (*Core).cmdCkquorum},
		{"config", -3, (*Core).cmdConfig},
		{"debug", -2, (*Core).cmdDebug},
		{"failover", 3, (*Core).cmdFailover},
		{"flushconfig", 2, (*Core).cmdFlushConfig},
		{"get-master-addr-by-name", 3, (*Core).cmdGetMasterAddr},
		{"help", 2, (*Core).cmdHelp},
		{"info-cache", -3, (*Core).cmdInfoCache},
		{"is-master-down-by-addr", 6, (*Core).cmdIsMasterDown},
		{"master", 3, (*Core).cmdMaster},
		{"masters", 2, (*Core).cmdMasters},
		{"monitor", 6, (*Core).cmdMonitor},
		{"myid", 2, func(c *Core, _ Command) Value { return bulk(c.glob.MyID) }},
		{"pending-scripts", 2, func(c *Core, _ Command) Value { return c.pendingScripts() }},
		{"remove", 3, (*Core).cmdRemove},
		{"replicas", 3, (*Core).cmdReplicas},
		{"reset", 3, (*Core).cmdReset},
		{"sentinels", 3, (*Core).cmdSentinels},
		{"set", -5, (*Core).cmdSet},
		{"simulate-failure", -3, (*Core).cmdSimulateFailure},
		{"slaves", 3, (*Core).cmdReplicas},
	}
}

// Subcommands lists the names and arities of the SENTINEL subcommands, for COMMAND.
func Subcommands() (names []string, arity []int) {
	for _, s := range subcommands {
		names, arity = append(names, s.name), append(arity, s.arity)
	}
	return names, arity
}

var (
	ok           = status("OK")
	noSuchMaster = errValue("ERR No such master with that name")
)

func (c *Core) onCommand(in Command) {
	v := c.run(in)
	c.act(Reply{in.Client, v})
}

func (c *Core) run(in Command) Value {
	if len(in.Args) == 0 {
		return errValue("ERR unknown command ''")
	}
	switch strings.ToLower(in.Args[0]) {
	case "publish":
		return c.cmdPublish(in)
	case "role":
		return c.cmdRole(in)
	case "sentinel":
	default:
		return errValue("ERR unknown command '" + in.Args[0] + "'")
	}
	if len(in.Args) < 2 {
		return wrongArity("sentinel")
	}
	name := strings.ToLower(in.Args[1])
	for i := range subcommands {
		s := &subcommands[i]
		if s.name != name {
			continue
		}
		if n := len(in.Args); n != s.arity && (s.arity > 0 || n < -s.arity) {
			return wrongArity("sentinel|" + name)
		}
		return s.run(c, in)
	}
	return errValue(fmt.Sprintf("ERR unknown subcommand '%.128s'. Try SENTINEL HELP.", in.Args[1]))
}

// integerOf reads a canonical decimal number, as commands take them.
func integerOf(s string) (int64, bool) { return resp.ParseInt([]byte(s)) }

func wrongArity(name string) Value {
	return errValue("ERR wrong number of arguments for '" + name + "' command")
}

func (c *Core) cmdPublish(in Command) Value {
	if len(in.Args) != 3 {
		return wrongArity("publish")
	}
	if in.Args[1] != helloChannel {
		return errValue("ERR Only HELLO messages are accepted by Sentinel instances.")
	}
	c.onHello(in.Args[2])
	return integer(1)
}

func (c *Core) cmdRole(in Command) Value {
	if len(in.Args) != 1 {
		return wrongArity("role")
	}
	names := array()
	for _, m := range c.masters {
		names.Elems = append(names.Elems, bulk(m.name))
	}
	return array(bulk("sentinel"), names)
}

func (c *Core) cmdCkquorum(in Command) Value {
	m := c.byName[in.Args[2]]
	if m == nil {
		return noSuchMaster
	}
	usable := 1
	for _, s := range m.sentinels {
		if !s.is(sDown | oDown) {
			usable++
		}
	}
	noQuorum, noAuth := usable < m.cfg.Quorum, usable < (len(m.sentinels)+1)/2+1
	if !noQuorum && !noAuth {
		return status(fmt.Sprintf("OK %d usable Sentinels. Quorum and failover authorization can be reached", usable))
	}
	s := fmt.Sprintf("NOQUORUM %d usable Sentinels. ", usable)
	if noQuorum {
		s += "Not enough available Sentinels to reach the specified quorum for this master"
	}
	if noQuorum && noAuth {
		s += ". "
	}
	if noAuth {
		s += "Not enough available Sentinels to reach the majority and authorize a failover"
	}
	return errValue(s)
}

func (c *Core) cmdFailover(in Command) Value {
	m := c.byName[in.Args[2]]
	switch {
	case m == nil:
		return noSuchMaster
	case m.is(failoverInProgress):
		return errValue("INPROG Failover already in progress")
	case c.selectReplica(m) == nil:
		return errValue("NOGOODSLAVE No suitable replica to promote")
	}
	c.log(Warning, "Executing user requested FAILOVER of '%s'", m.name)
	c.startFailover(m)
	m.flags |= forceFailover
	return ok
}

func (c *Core) cmdFlushConfig(Command) Value {
	c.dirty = true
	return ok
}

func (c *Core) cmdGetMasterAddr(in Command) Value {
	m := c.byName[in.Args[2]]
	if m == nil {
		return Value{Kind: NullArray}
	}
	a := m.currentAddr()
	return array(bulk(c.announce(a)), bulk(itoa(a.Port)))
}

func (c *Core) cmdInfoCache(in Command) Value {
	entry := func(ri *instance) Value {
		age, text := int64(0), Value{Kind: Null}
		if !ri.infoRefresh.IsZero() {
			age = ms(c.now.Sub(ri.infoRefresh))
		}
		if ri.info != "" {
			text = bulk(ri.info)
		}
		return array(integer(age), text)
	}
	out := array()
	seen := map[string]bool{}
	for _, name := range in.Args[2:] {
		m := c.byName[name]
		if m == nil || seen[name] {
			continue
		}
		seen[name] = true
		list := array(entry(&m.instance))
		for _, r := range m.replicas {
			list.Elems = append(list.Elems, entry(r))
		}
		out.Elems = append(out.Elems, bulk(name), list)
	}
	return out
}

func (c *Core) cmdIsMasterDown(in Command) Value {
	port, ok1 := integerOf(in.Args[3])
	epoch, ok2 := integerOf(in.Args[4])
	if !ok1 || !ok2 {
		return errValue("ERR value is not an integer or out of range")
	}
	return c.isMasterDown(in.Args[2], int(port), uint64(max(epoch, 0)), in.Args[5])
}

func (c *Core) cmdMonitor(in Command) Value {
	name, host := in.Args[2], in.Args[3]
	quorum, ok1 := integerOf(in.Args[5])
	if !ok1 {
		return errValue("ERR Invalid quorum")
	}
	port, ok2 := integerOf(in.Args[4])
	if !ok2 {
		return errValue("ERR Invalid port")
	}
	quorum, port = min(quorum, math.MaxInt32), min(port, math.MaxInt32)
	if !IsIP(host) && (!c.glob.ResolveHostnames || c.hosts[strings.ToLower(host)] == "") {
		return errValue("ERR Invalid IP address or hostname specified")
	}
	cfg := newMasterConfig(name, host, int(port), int(quorum))
	cfg.DownAfter = c.params.DefaultDownAfter
	cfg.FailoverTimeout = c.params.DefaultFailoverTimeout
	if len(name) > maxMasterName {
		return errValue("ERR Invalid master name")
	}
	if err := c.addMaster(&cfg); err != nil {
		return errValue("ERR " + err.Error())
	}
	c.dirty = true
	c.flush()
	m := c.byName[name]
	c.aboutf(Warning, "+monitor", &m.instance, " quorum %d", m.cfg.Quorum)
	return ok
}

func (c *Core) cmdRemove(in Command) Value {
	m := c.byName[in.Args[2]]
	if m == nil {
		return noSuchMaster
	}
	c.about(Warning, "-monitor", &m.instance)
	c.removeMaster(m)
	c.dirty = true
	return ok
}

func (c *Core) cmdReset(in Command) Value {
	n := int64(0)
	for _, m := range c.masters {
		if glob.Match([]byte(in.Args[2]), []byte(m.name), false) {
			c.resetMaster(m, false)
			c.about(Warning, "+reset-master", &m.instance)
			c.dirty = true
			n++
		}
	}
	return integer(n)
}

func (c *Core) cmdSimulateFailure(in Command) Value {
	c.simFail = 0
	for _, a := range in.Args[2:] {
		switch strings.ToLower(a) {
		case "crash-after-election":
			c.simFail |= simCrashAfterElection
			c.log(Warning, "Failure simulation: this Sentinel will crash after being successfully elected as failover leader")
		case "crash-after-promotion":
			c.simFail |= simCrashAfterPromotion
			c.log(Warning, "Failure simulation: this Sentinel will crash after promoting the selected replica to master")
		case "help":
			return array(bulk("crash-after-election"), bulk("crash-after-promotion"))
		default:
			return errValue("ERR Unknown failure simulation specified")
		}
	}
	return ok
}

// cmdSet changes options of one master, one after the other; those before a
// bad one stay changed, as in Redis.
func (c *Core) cmdSet(in Command) Value {
	m := c.byName[in.Args[2]]
	if m == nil {
		return noSuchMaster
	}
	for args := in.Args[3:]; len(args) > 0; {
		n, shown, v := c.setOne(m, args, in.NotExecutable)
		if v.Kind == Error {
			return v
		}
		c.dirty = true
		c.aboutf(Warning, "+set", &m.instance, " %s", strings.Join(shown, " "))
		args = args[n:]
	}
	return ok
}

// setOne sets the option that args begin with, and returns how many words
// that took and what may be logged of them.
func (c *Core) setOne(m *master, args, notExecutable []string) (n int, shown []string, v Value) {
	opt := strings.ToLower(args[0])
	need := 2
	if opt == "rename-command" {
		need = 3
	}
	unknown := errValue(fmt.Sprintf("ERR Unknown option or number of arguments for SENTINEL SET '%s'", args[0]))
	if len(args) < need {
		return 0, nil, unknown
	}
	shown = append(shown, args[:need]...)
	arg := args[1]
	err := error(nil)
	switch opt {
	case "down-after-milliseconds":
		if err = setMillis(&m.downAfter, arg, 1, ErrTime); err == nil {
			m.instances(func(ri *instance) { ri.downAfter = m.downAfter })
		}
	case "failover-timeout":
		err = setMillis(&m.cfg.FailoverTimeout, arg, 1, ErrTime)
	case "master-reboot-down-after-period":
		err = setMillis(&m.cfg.RebootDownAfter, arg, 0, ErrNegativeTime)
	case "parallel-syncs":
		err = setPositive(&m.cfg.ParallelSyncs, arg)
	case "quorum":
		err = setPositive(&m.cfg.Quorum, arg)
	case "notification-script", "client-reconfig-script":
		if v := c.setScript(m, opt, arg, notExecutable); v.Kind == Error {
			return 0, nil, v
		}
	case "auth-pass":
		m.cfg.AuthPass = arg
		shown[1] = "******"
		c.dropConnections(append([]*instance{&m.instance}, m.replicas...)...)
	case "auth-user":
		m.cfg.AuthUser = arg
		c.dropConnections(append([]*instance{&m.instance}, m.replicas...)...)
	case "rename-command":
		if arg == "" || args[2] == "" {
			bad := args[1]
			if arg != "" {
				bad = args[2]
			}
			return 0, nil, errValue(fmt.Sprintf("ERR Invalid argument '%s' for SENTINEL SET '%s'", bad, args[0]))
		}
		m.rename(arg, args[2])
	default:
		return 0, nil, unknown
	}
	if err != nil {
		return 0, nil, errValue(fmt.Sprintf("ERR Invalid argument '%s' for SENTINEL SET '%s'", arg, args[0]))
	}
	m.wantsEvaluation = true
	return need, shown, ok
}

func (c *Core) setScript(m *master, opt, path string, notExecutable []string) Value {
	if c.glob.DenyScriptsReconfig {
		return errValue("ERR Reconfiguration of scripts path is denied for security reasons. " +
			"Check the deny-scripts-reconfig configuration directive in your Sentinel configuration")
	}
	bad := false
	for _, p := range notExecutable {
		bad = bad || p == path
	}
	if opt == "notification-script" {
		if path != "" && bad {
			return errValue("ERR Notification script seems non existing or non executable")
		}
		m.cfg.NotificationPath = path
		return ok
	}
	if path != "" && bad {
		return errValue("ERR Client reconfiguration script seems non existing or non executable")
	}
	m.cfg.ReconfigPath = path
	return ok
}

// rename notes a renamed command; renaming to itself removes the entry.
func (m *master) rename(from, to string) {
	list := m.cfg.RenamedCommands[:0:0]
	for _, r := range m.cfg.RenamedCommands {
		if !strings.EqualFold(r.From, from) {
			list = append(list, r)
		}
	}
	if !strings.EqualFold(from, to) {
		list = append(list, Rename{from, to})
	}
	m.cfg.RenamedCommands = list
}

// setPositive sets a number of Sentinels or replicas. What is larger than an
// int of Redis, which wraps it, means as much as the largest one.
func setPositive(p *int, s string) error {
	n, ok := integerOf(s)
	if !ok || n <= 0 {
		return ErrQuorum
	}
	*p = int(min(n, math.MaxInt32))
	return nil
}

// cmdConfig reads and writes the global options.
func (c *Core) cmdConfig(in Command) Value {
	only := errValue("ERR Only SENTINEL CONFIG GET <option> / SET <option> <value> are supported.")
	switch strings.ToLower(in.Args[2]) {
	case "get":
		if len(in.Args) != 4 {
			return only
		}
		out := mapValue()
		for _, o := range c.options() {
			if glob.Match([]byte(in.Args[3]), []byte(o[0]), true) {
				out.Elems = append(out.Elems, bulk(o[0]), bulk(o[1]))
			}
		}
		return out
	case "set":
		if len(in.Args) != 5 {
			return only
		}
		return c.configSet(in.Args[3], in.Args[4])
	}
	return only
}

func (c *Core) options() [][2]string {
	g := &c.glob
	return [][2]string{
		{"resolve-hostnames", yesNo(g.ResolveHostnames)}, {"announce-hostnames", yesNo(g.AnnounceHostnames)},
		{"announce-ip", g.AnnounceIP}, {"announce-port", itoa(g.AnnouncePort)},
		{"sentinel-user", g.SentinelUser}, {"sentinel-pass", g.SentinelPass},
	}
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func (c *Core) configSet(name, value string) Value {
	g := &c.glob
	var err error
	drop := false
	switch strings.ToLower(name) {
	case "resolve-hostnames":
		err = setYesNo(&g.ResolveHostnames, value, ErrResolveHostnames)
	case "announce-hostnames":
		err = setYesNo(&g.AnnounceHostnames, value, ErrAnnounceHostnames)
	case "announce-ip":
		g.AnnounceIP = value // whatever it is: peers ignore what is no address
	case "announce-port":
		n, ok := integerOf(value)
		if !ok || n < 0 || n > 65535 {
			err = ErrPort
		} else {
			g.AnnouncePort = int(n)
		}
	case "sentinel-user":
		g.SentinelUser, drop = value, true
	case "sentinel-pass":
		g.SentinelPass, drop = value, true
	default:
		return errValue(fmt.Sprintf("ERR Invalid argument '%s' to SENTINEL CONFIG SET", name))
	}
	if err != nil {
		return errValue(fmt.Sprintf("ERR Invalid value '%s' to SENTINEL CONFIG SET '%s'", value, name))
	}
	if drop {
		for _, m := range c.masters {
			c.dropConnections(m.sentinels...)
		}
	}
	c.dirty = true
	return ok
}

// debugParams is the table behind SENTINEL DEBUG.
func (c *Core) debugParams() []struct {
	name string
	d    *time.Duration
} {
	p := &c.params
	return []struct {
		name string
		d    *time.Duration
	}{
		{"INFO-PERIOD", &p.InfoPeriod}, {"PING-PERIOD", &p.PingPeriod}, {"ASK-PERIOD", &p.AskPeriod},
		{"PUBLISH-PERIOD", &p.PublishPeriod}, {"DEFAULT-DOWN-AFTER", &p.DefaultDownAfter},
		{"DEFAULT-FAILOVER-TIMEOUT", &p.DefaultFailoverTimeout}, {"TILT-TRIGGER", &p.TiltTrigger},
		{"TILT-PERIOD", &p.TiltPeriod}, {"SLAVE-RECONF-TIMEOUT", &p.SlaveReconfTimeout},
		{"MIN-LINK-RECONNECT-PERIOD", &p.MinLinkReconnectPeriod}, {"ELECTION-TIMEOUT", &p.ElectionTimeout},
		{"SCRIPT-MAX-RUNTIME", &p.ScriptMaxRuntime}, {"SCRIPT-RETRY-DELAY", &p.ScriptRetryDelay},
	}
}

func (c *Core) cmdDebug(in Command) Value {
	table := c.debugParams()
	if len(in.Args) == 2 {
		out := mapValue()
		for _, p := range table {
			out.Elems = append(out.Elems, bulk(p.name), bulk(utoa(uint64(ms(*p.d)))))
		}
		return out
	}
next:
	for args := in.Args[2:]; len(args) > 0; args = args[2:] {
		for _, p := range table {
			if len(args) < 2 || !strings.EqualFold(p.name, args[0]) {
				continue
			}
			if setMillis(p.d, args[1], 1, ErrTime) != nil {
				return errValue(fmt.Sprintf("ERR Invalid argument '%s' for SENTINEL DEBUG '%s'", args[1], args[0]))
			}
			continue next
		}
		return errValue(fmt.Sprintf("ERR Unknown option or number of arguments for SENTINEL DEBUG '%s'", args[0]))
	}
	for _, m := range c.masters {
		m.wantsEvaluation = true
	}
	return ok
}

func (c *Core) cmdHelp(Command) Value {
	out := array()
	for _, l := range strings.Split(helpText, "\n") {
		out.Elems = append(out.Elems, status(l))
	}
	return out
}

func itoa(n int) string    { return strconv.Itoa(n) }
func utoa(n uint64) string { return strconv.FormatUint(n, 10) }
