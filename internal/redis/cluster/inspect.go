package cluster

// NodeStatus is what a node says of itself, for status pages, metrics and checks.
type NodeStatus struct {
	ID            string
	Master        bool
	MasterID      string // of a replica
	OK            bool   // cluster_state
	ConfigEpoch   uint64 // of its master, if it is a replica
	CurrentEpoch  uint64
	LastVoteEpoch uint64
	Slots         int // owned
	Nodes         int // known, itself included
	Size          int // masters with slots
}

// Status is cheap: it makes no View.
func (c *Core) Status() NodeStatus {
	me := c.myself
	s := NodeStatus{
		ID: me.id, Master: me.isMaster(), OK: c.ok, ConfigEpoch: me.configEpoch, CurrentEpoch: c.currentEpoch,
		LastVoteEpoch: c.lastVoteEpoch, Slots: me.numSlots, Nodes: len(c.nodes), Size: c.size,
	}
	if me.master != nil {
		s.MasterID, s.ConfigEpoch = me.master.id, me.master.configEpoch
	}
	return s
}

// Failing counts the nodes that this one knows as PFAIL and as FAIL.
func (c *Core) Failing() (pfail, fail int) {
	for _, n := range c.nodes {
		if n.timedOut() {
			pfail++
		}
		if n.failed() {
			fail++
		}
	}
	return pfail, fail
}

// Peer is what a node knows of another one.
type Peer struct {
	Flags       Flags
	MasterID    string
	ConfigEpoch uint64
	Slots       int
	Connected   bool
}

// Peer tells what is known of a node; ok is false when it is unknown.
func (c *Core) Peer(id string) (p Peer, ok bool) {
	n := c.byID[id]
	if n == nil {
		return Peer{}, false
	}
	p = Peer{Flags: n.flags, ConfigEpoch: n.configEpoch, Slots: n.numSlots, Connected: n.connected()}
	if n.master != nil {
		p.MasterID = n.master.id
	}
	return p, true
}

// SlotOwner is the owner of slot s and its config epoch, "" if it has none.
func (c *Core) SlotOwner(s int) (id string, epoch uint64) {
	if n := c.owner(s); n != nil {
		return n.id, n.configEpoch
	}
	return "", 0
}

// Messages are the packets sent and received, by type, as CLUSTER INFO counts them.
func (c *Core) Messages() (sent, received map[MsgType]int64) {
	sent, received = map[MsgType]int64{}, map[MsgType]int64{}
	for t := range msgTypes {
		if c.sent[t] != 0 {
			sent[t] = c.sent[t]
		}
		if c.received[t] != 0 {
			received[t] = c.received[t]
		}
	}
	return sent, received
}

// LinksOf are the links to and from a node, 0 where there is none; ok is false
// when the node is unknown.
func (c *Core) LinksOf(id string) (to, from LinkID, ok bool) {
	n := c.byID[id]
	if n == nil {
		return 0, 0, false
	}
	if n.link != nil {
		to = n.link.id
	}
	if n.inbound != nil {
		from = n.inbound.id
	}
	return to, from, true
}
