package cluster

import (
	"fmt"
	"strconv"
	"strings"

	"holdfast/internal/redis/cluster/slot"
)

// onCommand carries out one CLUSTER subcommand and answers it.
func (c *Core) onCommand(in Command) {
	c.emit(Reply{in.Client, c.command(in)})
}

const errSyntax = "ERR syntax error"

// subcommands: name, number of arguments after it (min, max; -1: any), and
// what it does. CLUSTER SLAVES is REPLICAS by its old name.
var subcommands map[string]subcommand

type subcommand struct {
	min, max int
	run      func(c *Core, in Command, args []string) Value
}

func init() {
	subcommands = map[string]subcommand{
		"addslots":              {1, -1, (*Core).cmdSlots},
		"addslotsrange":         {2, -1, (*Core).cmdSlotRanges},
		"bumpepoch":             {0, 0, (*Core).cmdBumpEpoch},
		"count-failure-reports": {1, 1, (*Core).cmdCountReports},
		"countkeysinslot":       {1, 1, (*Core).cmdCountKeys},
		"delslots":              {1, -1, (*Core).cmdSlots},
		"delslotsrange":         {2, -1, (*Core).cmdSlotRanges},
		"failover":              {0, 1, (*Core).cmdFailover},
		"flushslots":            {0, 0, (*Core).cmdFlushSlots},
		"forget":                {1, 1, (*Core).cmdForget},
		"getkeysinslot":         {2, 2, (*Core).cmdGetKeys},
		"help":                  {0, 0, (*Core).cmdHelp},
		"info":                  {0, 0, (*Core).cmdInfo},
		"keyslot":               {1, 1, (*Core).cmdKeySlot},
		"links":                 {0, 0, (*Core).cmdLinks},
		"meet":                  {2, 3, (*Core).cmdMeet},
		"myid":                  {0, 0, (*Core).cmdMyID},
		"nodes":                 {0, 0, (*Core).cmdNodes},
		"replicas":              {1, 1, (*Core).cmdReplicas},
		"replicate":             {1, 1, (*Core).cmdReplicate},
		"reset":                 {0, 1, (*Core).cmdReset},
		"saveconfig":            {0, 0, (*Core).cmdSaveConfig},
		"set-config-epoch":      {1, 1, (*Core).cmdSetConfigEpoch},
		"setslot":               {2, -1, (*Core).cmdSetSlot},
		"shards":                {0, 0, (*Core).cmdShards},
		"slaves":                {1, 1, (*Core).cmdReplicas},
		"slots":                 {0, 0, (*Core).cmdSlotsShow},
	}
}

func (c *Core) command(in Command) Value {
	if len(in.Args) == 0 {
		return errValue("ERR wrong number of arguments for 'cluster' command")
	}
	name := strings.ToLower(in.Args[0])
	sub, ok := subcommands[name]
	if !ok {
		return errValue(fmt.Sprintf("ERR unknown subcommand '%.128s'. Try CLUSTER HELP.", in.Args[0]))
	}
	args := in.Args[1:]
	switch many := sub.max >= 0 && len(args) > sub.max; {
	case many && sub.max != sub.min:
		return errf("unknown subcommand or wrong number of arguments for '%.128s'. Try CLUSTER HELP.", in.Args[0])
	case many, len(args) < sub.min:
		return wrongArity(name)
	}
	return sub.run(c, in, args)
}

func wrongArity(name string) Value {
	return errValue("ERR wrong number of arguments for 'cluster|" + name + "' command")
}

func errf(format string, args ...any) Value { return errValue("ERR " + fmt.Sprintf(format, args...)) }

var replyOK = status("OK")

// parseInt reads an integer as getLongLongFromObject does.
func parseInt(s string) (int64, bool) {
	if s == "" || s[0] == '+' || (len(s) > 1 && s[0] == '0') || strings.HasPrefix(s, "-0") {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

const errNotInt = "ERR value is not an integer or out of range"

func parseSlot(s string) (int, bool) {
	n, ok := parseInt(s)
	if !ok || n < 0 || n >= Slots {
		return 0, false
	}
	return int(n), true
}

var errSlot = errValue("ERR Invalid or out of range slot")

func (c *Core) cmdMyID(Command, []string) Value { return bulk(c.myself.id) }

func (c *Core) cmdKeySlot(_ Command, args []string) Value {
	return integer(int64(slot.OfString(args[0])))
}

func (c *Core) cmdMeet(_ Command, args []string) Value {
	port, ok := parseInt(args[1])
	if !ok {
		return errf("Invalid TCP base port specified: %s", args[1])
	}
	bus := port + BusPortIncr
	if len(args) == 3 {
		if bus, ok = parseInt(args[2]); !ok {
			return errf("Invalid TCP bus port specified: %s", args[2])
		}
	}
	if !c.startHandshake(args[0], port, bus) {
		return errf("Invalid node address specified: %s:%s", args[0], args[1])
	}
	return replyOK
}

// slotSet collects the slots of one ADDSLOTS or DELSLOTS.
type slotSet struct {
	del  bool
	seen [Slots]bool
	list []int
}

func (c *Core) collect(set *slotSet, from, to int) (Value, bool) {
	for s := from; s <= to; s++ {
		if set.del && c.owner(s) == nil {
			return errf("Slot %d is already unassigned", s), false
		}
		if !set.del && c.owner(s) != nil {
			return errf("Slot %d is already busy", s), false
		}
		if set.seen[s] {
			return errf("Slot %d specified multiple times", s), false
		}
		set.seen[s] = true
		set.list = append(set.list, s)
	}
	return Value{}, true
}

func (c *Core) applySlots(set *slotSet) Value {
	for _, s := range set.list {
		c.markImporting(s, nil)
		if set.del {
			c.delSlot(s)
		} else {
			c.addSlot(c.myself, s)
			c.since.set(s, 0)
		}
	}
	c.todo |= todoState | todoSave
	return replyOK
}

// cmdSlots is ADDSLOTS and DELSLOTS.
func (c *Core) cmdSlots(in Command, args []string) Value {
	set := &slotSet{del: strings.EqualFold(in.Args[0], "delslots")}
	for _, a := range args {
		if _, ok := parseSlot(a); !ok {
			return errSlot
		}
	}
	for _, a := range args {
		s, _ := parseSlot(a)
		if v, ok := c.collect(set, s, s); !ok {
			return v
		}
	}
	return c.applySlots(set)
}

// cmdSlotRanges is ADDSLOTSRANGE and DELSLOTSRANGE.
func (c *Core) cmdSlotRanges(in Command, args []string) Value {
	if len(args)%2 != 0 {
		return wrongArity(strings.ToLower(in.Args[0]))
	}
	set := &slotSet{del: strings.EqualFold(in.Args[0], "delslotsrange")}
	for i := 0; i < len(args); i += 2 {
		from, ok := parseSlot(args[i])
		if !ok {
			return errSlot
		}
		to, ok := parseSlot(args[i+1])
		if !ok {
			return errSlot
		}
		if from > to {
			return errf("start slot number %d is greater than end slot number %d", from, to)
		}
		if v, ok := c.collect(set, from, to); !ok {
			return v
		}
	}
	return c.applySlots(set)
}

func (c *Core) cmdFlushSlots(Command, []string) Value {
	if !c.host.Data().Empty {
		return errf("DB must be empty to perform CLUSTER FLUSHSLOTS.")
	}
	c.delNodeSlots(c.myself)
	c.todo |= todoState | todoSave
	return replyOK
}

func (c *Core) cmdSetSlot(_ Command, args []string) Value {
	if c.myself.isReplica() {
		return errf("Please use SETSLOT only with masters.")
	}
	s, ok := parseSlot(args[0])
	if !ok {
		return errSlot
	}
	action := strings.ToLower(args[1])
	var v Value
	switch {
	case action == "migrating" && len(args) == 3:
		v = c.setMigrating(s, args[2])
	case action == "importing" && len(args) == 3:
		v = c.setImporting(s, args[2])
	case action == "stable" && len(args) == 2:
		c.markImporting(s, nil)
		c.markMigrating(s, nil)
		v = replyOK
	case action == "node" && len(args) == 3:
		v = c.setSlotNode(s, args[2])
	default:
		return errf("Invalid CLUSTER SETSLOT action or number of arguments. Try CLUSTER HELP")
	}
	if v.Kind != Error {
		c.todo |= todoSave | todoState
	}
	return v
}

func (c *Core) setMigrating(s int, id string) Value {
	if c.owner(s) != c.myself {
		return errf("I'm not the owner of hash slot %d", s)
	}
	n, v := c.targetMaster(id, "I don't know about node %s")
	if n != nil {
		c.markMigrating(s, n)
	}
	return v
}

func (c *Core) setImporting(s int, id string) Value {
	if c.owner(s) == c.myself {
		return errf("I'm already the owner of hash slot %d", s)
	}
	n, v := c.targetMaster(id, "I don't know about node %s")
	if n != nil {
		c.markImporting(s, n)
	}
	return v
}

func (c *Core) targetMaster(id, unknown string) (*node, Value) {
	n := c.byID[id]
	switch {
	case n == nil:
		return nil, errf(unknown, id)
	case n.isReplica():
		return nil, errf("Target node is not a master")
	}
	return n, replyOK
}

// setSlotNode closes the move of a slot, on either side.
func (c *Core) setSlotNode(s int, id string) Value {
	n, v := c.targetMaster(id, "Unknown node %s")
	if n == nil {
		return v
	}
	me := c.myself
	before := c.owner(s)
	wasMine := before == me
	keys := 0
	if wasMine || c.migrating[s] != nil {
		keys = c.host.CountKeysInSlot(s)
	}
	if wasMine && n != me && keys != 0 {
		return errf("Can't assign hashslot %d to a different node while I still hold keys for this hash slot.", s)
	}
	if keys == 0 {
		c.markMigrating(s, nil)
	}
	c.delSlot(s)
	c.addSlot(n, s)
	if wasMine && n != me && me.numSlots == 0 && c.cfg.AllowReplicaMigration {
		c.logf(Warning, "Configuration change detected. Reconfiguring myself as a replica of %s", n.id)
		c.replicate(n)
	}
	if n == me && before != nil && before != me && !c.plain {
		c.taken[s] = before // claims of it that are on their way are not believed
	}
	if n == me && c.importing[s] != nil {
		// The others believe it only with a config epoch that is newer.
		if c.bumpEpoch() {
			c.logf(Warning, "configEpoch updated after importing slot %d", s)
			c.todo |= todoSync // nobody may have this epoch again
		}
		c.markImporting(s, nil)
		c.pongAll()
	}
	c.since.set(s, 0)
	if n == me {
		c.since.set(s, me.configEpoch)
	}
	return replyOK
}

func (c *Core) cmdBumpEpoch(Command, []string) Value {
	word := "STILL"
	if c.bumpEpoch() {
		word = "BUMPED"
	}
	return status(fmt.Sprintf("%s %d", word, c.myself.configEpoch))
}

func (c *Core) cmdSaveConfig(Command, []string) Value {
	c.todo |= todoSave | todoSync
	return replyOK
}

func (c *Core) cmdCountKeys(_ Command, args []string) Value {
	s, ok := parseInt(args[0])
	if !ok {
		return errValue(errNotInt)
	}
	if s < 0 || s >= Slots {
		return errf("Invalid slot")
	}
	return integer(int64(c.host.CountKeysInSlot(int(s))))
}

func (c *Core) cmdGetKeys(_ Command, args []string) Value {
	s, ok1 := parseInt(args[0])
	n, ok2 := parseInt(args[1])
	if !ok1 || !ok2 {
		return errValue(errNotInt)
	}
	if s < 0 || s >= Slots || n < 0 {
		return errf("Invalid slot or number of keys")
	}
	v := array()
	if have := int64(c.host.CountKeysInSlot(int(s))); n > have {
		n = have
	}
	for _, k := range c.host.KeysInSlot(int(s), int(n)) {
		v.Elems = append(v.Elems, bulk(k))
	}
	return v
}

func (c *Core) cmdForget(_ Command, args []string) Value {
	n := c.byID[args[0]]
	switch {
	case n == nil:
		return errf("Unknown node %s", args[0])
	case n == c.myself:
		return errf("I tried hard but I can't forget myself...")
	case c.myself.isReplica() && c.myself.master == n:
		return errf("Can't forget my master!")
	}
	for id, until := range c.banned {
		if until < c.now {
			delete(c.banned, id)
		}
	}
	if !c.faults.ForgetWithoutBan {
		c.banned[n.id] = c.now + banTime
	}
	c.event(EventForgotten, n, nil, 0)
	c.delNode(n)
	c.todo |= todoState | todoSave
	return replyOK
}

func (c *Core) cmdReplicate(_ Command, args []string) Value {
	n := c.byID[args[0]]
	switch {
	case n == nil:
		return errf("Unknown node %s", args[0])
	case n == c.myself:
		return errf("Can't replicate myself")
	case n.isReplica():
		return errf("I can only replicate a master, not a replica.")
	case c.myself.isMaster() && (c.myself.numSlots != 0 || !c.host.Data().Empty):
		return errf("To set a master the node must be empty and without assigned slots.")
	}
	c.replicate(n)
	return replyOK
}

func (c *Core) cmdCountReports(_ Command, args []string) Value {
	n := c.byID[args[0]]
	if n == nil {
		return errf("Unknown node %s", args[0])
	}
	return integer(int64(c.countReports(n)))
}

func (c *Core) cmdFailover(_ Command, args []string) Value {
	force, takeover := false, false
	if len(args) == 1 {
		force = strings.EqualFold(args[0], "force")
		takeover = strings.EqualFold(args[0], "takeover")
		if !force && !takeover {
			return errValue(errSyntax)
		}
	}
	m := c.myself.master
	switch {
	case c.myself.isMaster():
		return errf("You should send CLUSTER FAILOVER to a replica")
	case m == nil:
		return errf("I'm a replica but my master is unknown to me")
	case !force && !takeover && (m.failed() || !m.connected()):
		return errf("Master is down or failed, please use CLUSTER FAILOVER FORCE")
	}
	c.resetManual()
	c.election = election{}
	c.manual.end = c.now + manualTimeout
	c.wake(c.manual.end + 1)
	switch {
	case takeover:
		c.takeover()
	case force:
		c.logf(Warning, "Forced failover user request accepted.")
		c.manual.canStart = true
		c.todo |= todoFailover
	default:
		c.logf(Warning, "Manual failover user request accepted.")
		c.send(m.link, c.newPacket(MsgMFStart, headerLen))
	}
	return replyOK
}

func (c *Core) cmdSetConfigEpoch(_ Command, args []string) Value {
	epoch, ok := parseInt(args[0])
	switch {
	case !ok:
		return errValue(errNotInt)
	case epoch < 0:
		return errf("Invalid config epoch specified: %d", epoch)
	case len(c.nodes) > 1:
		return errf("The user can assign a config epoch only when the node does not know any other node.")
	case c.myself.configEpoch != 0:
		return errf("Node config epoch is already non-zero")
	}
	c.currentEpoch = max(c.currentEpoch, uint64(epoch))
	c.setMyEpoch(uint64(epoch))
	c.logf(Warning, "configEpoch set to %d via CLUSTER SET-CONFIG-EPOCH", epoch)
	c.todo |= todoState
	return replyOK
}

func (c *Core) cmdReset(_ Command, args []string) Value {
	hard := false
	if len(args) == 1 {
		hard = strings.EqualFold(args[0], "hard")
		if !hard && !strings.EqualFold(args[0], "soft") {
			return errValue(errSyntax)
		}
	}
	if c.myself.isMaster() && !c.host.Data().Empty {
		return errf("CLUSTER RESET can't be called with master nodes containing keys")
	}
	c.reset(hard)
	return replyOK
}

// reset forgets the cluster: all other nodes, all slots, and with hard also
// who we are.
func (c *Core) reset(hard bool) {
	me := c.myself
	if me.isReplica() {
		c.setMasterRole(me)
		me.heirOf = nil
		c.following = followed{}
		c.emit(Promote{})
		c.emit(EmptyData{})
	}
	c.closeAllSlots()
	c.resetManual()
	c.election = election{}
	for s := range Slots {
		c.delSlot(s)
	}
	c.since = sinceTable{}
	for _, n := range append([]*node(nil), c.nodes...) {
		if n != me {
			c.delNode(n)
		}
	}
	if hard {
		c.currentEpoch, c.lastVoteEpoch, me.configEpoch = 0, 0, 0
		c.logf(Warning, "configEpoch set to 0 via CLUSTER RESET HARD")
		delete(c.byID, me.id)
		me.id = c.randomID()
		c.byID[me.id] = me
		c.logf(Notice, "Node hard reset, now I'm %s", me.id)
	}
	c.viewDirty = true
	c.todo |= todoSave | todoState | todoSync
}
