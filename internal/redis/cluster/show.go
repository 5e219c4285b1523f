package cluster

import (
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strconv"
	"strings"
)

// NodesConf is the text of nodes.conf as of the last Step.
func (c *Core) NodesConf() []byte {
	b := c.appendNodes(nil, FlagHandshake, false)
	b = c.appendSince(b)
	b = append(b, "vars currentEpoch "...)
	b = strconv.AppendUint(b, c.currentEpoch, 10)
	b = append(b, " lastVoteEpoch "...)
	b = strconv.AppendUint(b, c.lastVoteEpoch, 10)
	return append(b, '\n')
}

// appendNodes writes one line per node, without those that have a flag of skip.
func (c *Core) appendNodes(b []byte, skip Flags, plainPort bool) []byte {
	for _, n := range c.nodes {
		if n.flags&skip == 0 {
			b = append(c.appendNode(b, n, plainPort), '\n')
		}
	}
	return b
}

func (c *Core) appendNode(b []byte, n *node, plainPort bool) []byte {
	port := n.port
	if plainPort && n.pport != 0 {
		port = n.pport
	}
	b = append(append(b, n.id...), ' ')
	b = append(append(b, n.ip...), ':')
	b = strconv.AppendInt(b, int64(port), 10)
	b = strconv.AppendInt(append(b, '@'), int64(n.cport), 10)
	if n.hostname != "" {
		b = append(append(b, ','), n.hostname...)
	}
	b = appendFlags(append(b, ' '), n.flags)
	b = append(b, ' ')
	epoch := n.configEpoch
	if n.master != nil {
		b = append(b, n.master.id...)
		if n.isReplica() {
			epoch = n.master.configEpoch
		}
	} else {
		b = append(b, '-')
	}
	b = strconv.AppendInt(append(b, ' '), c.wall(n.pingSent), 10)
	b = strconv.AppendInt(append(b, ' '), c.wall(n.pongReceived), 10)
	b = strconv.AppendUint(append(b, ' '), epoch, 10)
	if n == c.myself || n.link != nil { // as in Redis: also while it is being connected
		b = append(b, " connected"...)
	} else {
		b = append(b, " disconnected"...)
	}
	b = append(b, slotText(n)...)
	if n == c.myself {
		b = c.appendOpen(b)
	}
	return b
}

// appendOpen appends the open slots, in order. They are few, and this is written
// with each change of one.
func (c *Core) appendOpen(b []byte) []byte {
	if len(c.migrating)+len(c.importing) == 0 {
		return b
	}
	open := slices.AppendSeq(slices.Collect(maps.Keys(c.migrating)), maps.Keys(c.importing))
	slices.Sort(open)
	for _, s := range slices.Compact(open) {
		if m := c.migrating[s]; m != nil {
			b = fmt.Appendf(b, " [%d->-%s]", s, m.id)
		} else if m := c.importing[s]; m != nil {
			b = fmt.Appendf(b, " [%d-<-%s]", s, m.id)
		}
	}
	return b
}

// slotText is what stands for the slots of n at the end of its line.
func slotText(n *node) []byte {
	if n.slotText == nil && n.numSlots > 0 {
		for _, r := range ranges(n) {
			n.slotText = strconv.AppendInt(append(n.slotText, ' '), int64(r[0]), 10)
			if r[1] != r[0] {
				n.slotText = strconv.AppendInt(append(n.slotText, '-'), int64(r[1]), 10)
			}
		}
	}
	return n.slotText
}

// ranges gives the slots of a node as inclusive ranges.
func ranges(n *node) [][2]int {
	var out [][2]int
	add := func(from, to int) {
		if last := len(out) - 1; last >= 0 && out[last][1] == from-1 {
			out[last][1] = to
		} else {
			out = append(out, [2]int{from, to})
		}
	}
	for i, v := range n.slots.b {
		i += n.slots.lo
		if v == 0xff { // as most of those that are not 0
			add(i<<3, i<<3+7)
			continue
		}
		for ; v != 0; v &= v - 1 {
			s := i<<3 + bits.TrailingZeros8(v)
			add(s, s)
		}
	}
	return out
}

// plainPorts: the client does not use TLS in a cluster that does.
func (c *Core) plainPorts(in Command) bool { return c.cfg.TLSCluster && !in.TLS }

func (c *Core) cmdNodes(in Command, _ []string) Value {
	return Value{Kind: Verbatim, Str: string(c.appendNodes(nil, 0, c.plainPorts(in)))}
}

func (c *Core) cmdReplicas(in Command, args []string) Value {
	n := c.byID[args[0]]
	switch {
	case n == nil:
		return errf("Unknown node %s", args[0])
	case n.isReplica():
		return errf("The specified node is not a master")
	}
	v := array()
	for _, r := range n.replicas {
		v.Elems = append(v.Elems, bulk(string(c.appendNode(nil, r, c.plainPorts(in)))))
	}
	return v
}

func (c *Core) cmdInfo(Command, []string) Value {
	var assigned, fine, pfail, fail int
	for _, n := range c.nodes {
		assigned += n.numSlots
		switch {
		case n.failed():
			fail += n.numSlots
		case n.timedOut():
			pfail += n.numSlots
		default:
			fine += n.numSlots
		}
	}
	myEpoch := c.myself.configEpoch
	if m := c.myself.master; m != nil {
		myEpoch = m.configEpoch
	}
	var b strings.Builder
	fmt.Fprintf(&b, "cluster_state:%s\r\ncluster_slots_assigned:%d\r\ncluster_slots_ok:%d\r\ncluster_slots_pfail:%d\r\n"+
		"cluster_slots_fail:%d\r\ncluster_known_nodes:%d\r\ncluster_size:%d\r\ncluster_current_epoch:%d\r\ncluster_my_epoch:%d\r\n",
		okText(c.ok), assigned, fine, pfail, fail, len(c.nodes), c.size, c.currentEpoch, myEpoch)
	count := func(what string, counts *[msgTypes]int64) {
		total := int64(0)
		for t, n := range counts {
			if n != 0 {
				total += n
				fmt.Fprintf(&b, "cluster_stats_messages_%s_%s:%d\r\n", MsgType(t), what, n)
			}
		}
		fmt.Fprintf(&b, "cluster_stats_messages_%s:%d\r\n", what, total)
	}
	count("sent", &c.sent)
	count("received", &c.received)
	fmt.Fprintf(&b, "total_cluster_links_buffer_limit_exceeded:%d\r\n", c.limitExceeded)
	return Value{Kind: Verbatim, Str: b.String()}
}

// endpoint is the address that clients are told: EndpointUnknown gives "".
func (c *Core) endpoint(n *node) string {
	switch c.cfg.Preferred {
	case EndpointHostname:
		if n.hostname == "" {
			return "?"
		}
		return n.hostname
	case EndpointUnknown:
		return ""
	}
	return n.ip
}

// offsetOf is the replication offset of a node as far as we know.
func (c *Core) offsetOf(n *node) int64 {
	if n == c.myself {
		return c.host.Data().Offset
	}
	return n.replOffset
}

func (c *Core) cmdSlotsShow(in Command, _ []string) Value {
	v := array()
	for s := 0; s < Slots; {
		n := c.owner(s)
		end := s
		for end+1 < Slots && c.slots.get(end+1) == c.slots.get(s) {
			end++
		}
		if n != nil {
			e := array(integer(int64(s)), integer(int64(end)), c.slotsNode(n, in))
			for _, r := range n.replicas {
				if !r.failed() && c.offsetOf(r) != 0 {
					e.Elems = append(e.Elems, c.slotsNode(r, in))
				}
			}
			v.Elems = append(v.Elems, e)
		}
		s = end + 1
	}
	return v
}

func (c *Core) slotsNode(n *node, in Command) Value {
	host := bulk(c.endpoint(n))
	if c.cfg.Preferred == EndpointUnknown {
		host = Value{Kind: Null}
	}
	port := n.port
	if c.plainPorts(in) && n.pport != 0 {
		port = n.pport
	}
	meta := mapValue()
	if c.cfg.Preferred != EndpointIP {
		meta.Elems = append(meta.Elems, bulk("ip"), bulk(n.ip))
	}
	if c.cfg.Preferred != EndpointHostname && n.hostname != "" {
		meta.Elems = append(meta.Elems, bulk("hostname"), bulk(n.hostname))
	}
	return array(host, integer(int64(port)), bulk(n.id), meta)
}

func (c *Core) cmdShards(Command, []string) Value {
	v := array()
	for _, n := range c.nodes {
		if !n.isMaster() { // nor one whose handshake is not over
			continue
		}
		slots := array()
		for _, r := range ranges(n) {
			slots.Elems = append(slots.Elems, integer(int64(r[0])), integer(int64(r[1])))
		}
		nodes := array(c.shardNode(n))
		for _, r := range n.replicas {
			nodes.Elems = append(nodes.Elems, c.shardNode(r))
		}
		v.Elems = append(v.Elems, mapValue(bulk("slots"), slots, bulk("nodes"), nodes))
	}
	return v
}

func (c *Core) shardNode(n *node) Value {
	m := mapValue(bulk("id"), bulk(n.id))
	add := func(key string, v Value) { m.Elems = append(m.Elems, bulk(key), v) }
	plain, tls := n.port, 0
	if c.cfg.TLSCluster {
		plain, tls = n.pport, n.port
	}
	if plain != 0 {
		add("port", integer(int64(plain)))
	}
	if tls != 0 {
		add("tls-port", integer(int64(tls)))
	}
	add("ip", bulk(n.ip))
	add("endpoint", bulk(c.endpoint(n)))
	if n.hostname != "" {
		add("hostname", bulk(n.hostname))
	}
	role, health := "master", "online"
	offset := c.offsetOf(n)
	if n.isReplica() {
		role = "replica"
		if offset == 0 {
			health = "loading"
		}
	}
	if n.failed() {
		health = "fail"
	}
	add("role", bulk(role))
	add("replication-offset", integer(offset))
	add("health", bulk(health))
	return m
}

func (c *Core) cmdLinks(Command, []string) Value {
	v := array()
	for _, n := range c.nodes {
		if n.link != nil {
			v.Elems = append(v.Elems, c.showLink(n.link, "to"))
		}
		if n.inbound != nil {
			v.Elems = append(v.Elems, c.showLink(n.inbound, "from"))
		}
	}
	return v
}

func (c *Core) showLink(l *link, direction string) Value {
	alloc, used := c.host.LinkBuffer(l.id)
	events := "" // while it is being connected
	if l.up {
		events = "r"
	}
	if used > 0 {
		events += "w"
	}
	return mapValue(bulk("direction"), bulk(direction), bulk("node"), bulk(l.node.id),
		bulk("create-time"), integer(l.since), bulk("events"), bulk(events),
		bulk("send-buffer-allocated"), integer(alloc), bulk("send-buffer-used"), integer(used))
}

var helpLines = []string{
	"CLUSTER <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
	"ADDSLOTS <slot> [<slot> ...]",
	"    Assign slots to current node.",
	"ADDSLOTSRANGE <start slot> <end slot> [<start slot> <end slot> ...]",
	"    Assign slots which are between <start-slot> and <end-slot> to current node.",
	"BUMPEPOCH",
	"    Advance the cluster config epoch.",
	"COUNT-FAILURE-REPORTS <node-id>",
	"    Return number of failure reports for <node-id>.",
	"COUNTKEYSINSLOT <slot>",
	"    Return the number of keys in <slot>.",
	"DELSLOTS <slot> [<slot> ...]",
	"    Delete slots information from current node.",
	"DELSLOTSRANGE <start slot> <end slot> [<start slot> <end slot> ...]",
	"    Delete slots information which are between <start-slot> and <end-slot> from current node.",
	"FAILOVER [FORCE|TAKEOVER]",
	"    Promote current replica node to being a master.",
	"FORGET <node-id>",
	"    Remove a node from the cluster.",
	"GETKEYSINSLOT <slot> <count>",
	"    Return key names stored by current node in a slot.",
	"FLUSHSLOTS",
	"    Delete current node own slots information.",
	"INFO",
	"    Return information about the cluster.",
	"KEYSLOT <key>",
	"    Return the hash slot for <key>.",
	"MEET <ip> <port> [<bus-port>]",
	"    Connect nodes into a working cluster.",
	"MYID",
	"    Return the node id.",
	"NODES",
	"    Return cluster configuration seen by node. Output format:",
	"    <id> <ip:port> <flags> <master> <pings> <pongs> <epoch> <link> <slot> ...",
	"REPLICATE <node-id>",
	"    Configure current node as replica to <node-id>.",
	"RESET [HARD|SOFT]",
	"    Reset current node (default: soft).",
	"SET-CONFIG-EPOCH <epoch>",
	"    Set config epoch of current node.",
	"SETSLOT <slot> (IMPORTING <node-id>|MIGRATING <node-id>|STABLE|NODE <node-id>)",
	"    Set slot state.",
	"REPLICAS <node-id>",
	"    Return <node-id> replicas.",
	"SAVECONFIG",
	"    Force saving cluster configuration on disk.",
	"SLOTS",
	"    Return information about slots range mappings. Each range is made of:",
	"    start, end, master and replicas IP addresses, ports and ids",
	"SHARDS",
	"    Return information about slot range mappings and the nodes associated with them.",
	"LINKS",
	"    Return information about all network links between this node and its peers.",
	"    Output format is an array where each array element is a map containing attributes of a link",
	"HELP",
	"    Prints this help.",
}

func (c *Core) cmdHelp(Command, []string) Value {
	v := array()
	for _, l := range helpLines {
		v.Elems = append(v.Elems, status(l))
	}
	return v
}
