package cluster

import (
	"math/rand/v2"
	"time"

	"holdfast/internal/redis/cluster/slot"
)

// Slots is the number of hash slots.
const Slots = slot.Count

// NameLen is the length of a node id: 40 hexadecimal digits.
const NameLen = 40

// BusPortIncr is added to the client port to form the bus port where
// cluster-port is 0.
const BusPortIncr = 10000

// LinkID names one bus connection. The core allocates those of Connect,
// counting from 1; the shell allocates those of InboundUp, with the bit Inbound
// set. Ids are never reused in a process, so that a late event of an abandoned
// link is recognised and dropped.
type LinkID uint64

// Inbound is set in the id of every link that the other side opened.
const Inbound LinkID = 1 << 63

// Level is the severity of a log line, as in the loglevel directive.
type Level uint8

// Levels in rising severity.
const (
	Debug Level = iota
	Verbose
	Notice
	Warning
)

// EndpointType is cluster-preferred-endpoint-type.
type EndpointType uint8

// What clients are told as address of a node.
const (
	EndpointIP EndpointType = iota
	EndpointHostname
	EndpointUnknown
)

// Config holds the directives that the core obeys. It is copied.
type Config struct {
	Port       int  // port
	TLSPort    int  // tls-port
	TLSCluster bool // tls-cluster: the announced main port is the TLS port
	BusPort    int  // cluster-port; 0 means the main port + BusPortIncr

	AnnounceIP       string // cluster-announce-ip
	AnnounceHostname string // cluster-announce-hostname
	AnnouncePort     int    // cluster-announce-port
	AnnounceTLSPort  int    // cluster-announce-tls-port
	AnnounceBusPort  int    // cluster-announce-bus-port
	Preferred        EndpointType

	NodeTimeout             time.Duration // cluster-node-timeout
	ReplicaValidityFactor   int           // cluster-replica-validity-factor; 0: any age
	MigrationBarrier        int           // cluster-migration-barrier
	AllowReplicaMigration   bool          // cluster-allow-replica-migration
	RequireFullCoverage     bool          // cluster-require-full-coverage
	ReplicaNoFailover       bool          // cluster-replica-no-failover
	AllowReadsWhenDown      bool          // cluster-allow-reads-when-down
	AllowPubsubShardWhenDwn bool          // cluster-allow-pubsubshard-when-down
	PingReplicaPeriod       time.Duration // repl-ping-replica-period
	Debug                   bool          // loglevel debug: lines of level Debug are wanted
	MinLevel                Level         // lines below it are not even made
}

// DefaultConfig are the defaults of Redis 7.0 for a node on port.
func DefaultConfig(port int) Config {
	return Config{
		Port: port, NodeTimeout: 15 * time.Second, ReplicaValidityFactor: 10, MigrationBarrier: 1,
		AllowReplicaMigration: true, RequireFullCoverage: true, AllowPubsubShardWhenDwn: true,
		PingReplicaPeriod: 10 * time.Second,
	}
}

// Data is the state of the data and of replication at this moment.
type Data struct {
	// Offset is master_repl_offset of a master, and of a replica the offset
	// up to which it has applied its master's stream (also while the link is down).
	Offset int64
	// MasterLinkUp: the replication link is connected (repl_state CONNECTED).
	MasterLinkUp bool
	// MasterSeen is when the master was last heard on the replication link
	// (while it is up), or when the link went down (else; zero: never up).
	MasterSeen time.Time
	// Empty: no database holds a key.
	Empty bool
}

// Host answers questions about the data of this node. Its methods are called
// from within New, Step and NodesConf only, and must not call back.
type Host interface {
	Data() Data
	// CountKeysInSlot is the number of keys of database 0 in a slot.
	CountKeysInSlot(slot int) int
	// KeysInSlot gives up to max keys of a slot. The core keeps none of them.
	KeysInSlot(slot, max int) []string
	// LinkBuffer is the allocated and the used size of what waits to be sent
	// on a link, in bytes, for CLUSTER LINKS.
	LinkBuffer(id LinkID) (alloc, used int64)
}

// Options are what a Core needs beside its configuration.
type Options struct {
	// Rand is the only source of randomness; the Core owns it from now on.
	Rand *rand.Rand
	// Host is asked about the data. Required.
	Host Host
	// State is the text of nodes.conf, nil or empty for a new node.
	State []byte
	// Faults makes the Core break a rule on purpose, so that the simulator can
	// show that its checkers notice. Zero in production.
	Faults Mutants
	// Buffer gives n zeroed bytes for a packet; nil: they are allocated. A world
	// of a thousand nodes in one process uses its packets again.
	Buffer func(n int) []byte
	// Plain switches the improvements over Redis off (for measurements).
	Plain bool
}

// Input is something that happened. Exactly the types of this file implement it.
type Input interface{ isInput() }

// Timer says only that time has passed.
type Timer struct{}

// LinkUp reports that a link asked for by Connect is established.
type LinkUp struct {
	Link     LinkID
	RemoteIP string // numeric address of the peer, as in getpeername
	LocalIP  string // numeric address of our end, as in getsockname
}

// InboundUp reports a link that a peer opened.
type InboundUp struct {
	Link     LinkID
	RemoteIP string
	LocalIP  string
}

// LinkDown reports that a link failed, was refused, or was closed by the peer.
// It is not sent for links that a CloseLink ended.
type LinkDown struct {
	Link LinkID
	Err  string
	// BufferLimit: closed by the shell because of cluster-link-sendbuf-limit,
	// which Buffer exceeded, in bytes.
	BufferLimit bool
	Buffer      int64
}

// Packet is one whole bus packet that arrived on a link (see PacketLen). Data
// is not kept, except by a Deliver of the same Step.
type Packet struct {
	Link LinkID
	Data []byte
}

// DataChanged says that something of Host.Data changed that may wake an
// election: the replication link went up or down, or, while AwaitsOffset, the
// offset moved.
type DataChanged struct{}

// Command is CLUSTER with its arguments: Args[0] is the subcommand. The answer
// is the one Reply effect among the effects of the same Step.
type Command struct {
	Client uint64 // returned in Reply
	Args   []string
	TLS    bool // the client's connection is TLS: it is shown TLS ports
}

// ConfigChanged carries the directives after CONFIG SET.
type ConfigChanged struct{ Config Config }

// Publish sends a message to the other nodes: to all, or, sharded, to those
// that serve the slots of this node's shard. The caller has delivered it to
// local subscribers and does not change the slices afterwards.
type Publish struct {
	Channel, Message []byte
	Sharded          bool
}

// DataLoaded says that the data of this node was loaded at start: slots that
// hold keys and are not ours are claimed or marked as importing, as Redis does.
type DataLoaded struct {
	// Except are slots whose keys do not count, nil for none: keys of a
	// handover that is not over, and keys that are being dropped.
	Except *slot.Set
}

// TakeSlots claims slots for this node in one step, without marks: their owner,
// From, has let them go for good and serves them no more, and the data is here.
// The answer is the one Taken effect. It may be repeated, for slots of which
// some or all are ours already; with another From after a failover of it.
type TakeSlots struct {
	Slots *slot.Set // not kept
	From  string
	// Epoch is the greatest epoch that From knew when it let go (or knows when
	// it is asked again); 0: not told. Ours will be greater.
	Epoch uint64
}

// Shutdown says that the process is about to end in order: what is unsaved is
// persisted.
type Shutdown struct{}

// GivenSlots says which slots this node, or its master, has let go for somebody
// who has not claimed them yet: all of them, in place of those that were named
// before. It stays their owner in its own eyes, so that clients are still sent
// here and the cluster stays whole, but it does not claim them any more, and
// believes whoever does, whatever the epochs. Repeat it after a start; a replica
// is told as well, so that it does not claim them when it is promoted.
type GivenSlots struct {
	Slots *slot.Set // not kept; nil: none
}

func (Timer) isInput()         {}
func (LinkUp) isInput()        {}
func (InboundUp) isInput()     {}
func (LinkDown) isInput()      {}
func (Packet) isInput()        {}
func (DataChanged) isInput()   {}
func (Command) isInput()       {}
func (ConfigChanged) isInput() {}
func (Publish) isInput()       {}
func (DataLoaded) isInput()    {}
func (TakeSlots) isInput()     {}
func (GivenSlots) isInput()    {}
func (Shutdown) isInput()      {}

// Effect is something the caller must do. Effects are carried out in order; a
// Persist must be durable before anything after it is carried out.
type Effect interface{ isEffect() }

// Persist asks for Core.NodesConf() to be written to cluster-config-file. With
// Sync it must be durable before the next effect; without, a kill must not take
// it, and a power cut only that of the last second or two.
type Persist struct{ Sync bool }

// Connect asks for a link to a node's bus. Nothing is sent before LinkUp.
type Connect struct {
	Link LinkID
	IP   string
	Port int // bus port
}

// CloseLink closes a link at once; what is unsent may be lost.
type CloseLink struct{ Link LinkID }

// Send writes one packet. Data may be shared with other Sends: do not change it.
type Send struct {
	Link LinkID
	Data []byte
}

// FollowMaster makes this server a replica of that one. Port is the port that
// replication uses (TLS where tls-cluster... tls-replication say so: the shell
// picks between Port and PlainPort).
type FollowMaster struct {
	ID   string
	IP   string
	Port int // main client port: TLS when tls-cluster is on
	// PlainPort is the non-TLS port where Port is a TLS port, else 0.
	PlainPort int
}

// Promote makes this server a master (REPLICAOF NO ONE, keeping its history).
type Promote struct{}

// EmptyData drops all keys (CLUSTER RESET of a replica).
type EmptyData struct{}

// DropSlotKeys drops the keys of slots that another node took.
type DropSlotKeys struct{ Slots []int }

// DropShardChannels unsubscribes the sharded channels of slots that this
// node's shard does not serve any more.
type DropShardChannels struct{ Slots []int }

// PauseWrites stops all writes of clients, expiry and eviction until the given
// time or a ResumeWrites (manual failover of a master).
type PauseWrites struct{ Until time.Time }

// ResumeWrites ends the pause.
type ResumeWrites struct{}

// Deliver hands a message of the bus to local subscribers.
type Deliver struct {
	Channel, Message []byte
	Sharded          bool
}

// Reply answers the Command of that client.
type Reply struct {
	Client uint64
	Value  Value
}

// Taken answers TakeSlots. OK: the slots are ours, a Persist with Sync stands
// before this effect, and every node that can be reached is being told. Else
// nothing was changed, and Why says what stands against it: we are a replica,
// the cluster is down, a slot is open or belongs to somebody else. It may be
// tried again later.
type Taken struct {
	OK  bool
	Why string
}

// Log is a line for the log, in the words of Redis.
type Log struct {
	Level Level
	Text  string
}

// StateChanged reports the state of the cluster as this node sees it.
type StateChanged struct{ OK bool }

// EventKind is what an Event reports.
type EventKind uint8

// Kinds of Event. Node is the node that it is about, Other the second one if
// there is one, Epoch the epoch if one is involved.
const (
	EventPFail        EventKind = iota + 1 // Node does not answer
	EventFail                              // a majority says so
	EventFailCleared                       // Node is back
	EventElection                          // we ask for votes, in Epoch
	EventVote                              // we voted for Node in Epoch
	EventWon                               // we were elected in Epoch
	EventTakeover                          // we took our master's slots without an election
	EventNewMaster                         // we follow Node, instead of Other
	EventEpochBumped                       // our config epoch is Epoch now
	EventSlotsLost                         // slots of ours went to Node
	EventManualStart                       // manual failover: Node is the replica
	EventForgotten                         // Node was removed
	EventNodeJoined                        // Node finished its handshake
	EventElectionLost                      // the election of Epoch ended without a majority
)

// Event is a typed event for the record of what happened; it has no other use.
type Event struct {
	Kind  EventKind
	Node  string
	Other string
	Epoch uint64
}

func (Persist) isEffect()           {}
func (Connect) isEffect()           {}
func (CloseLink) isEffect()         {}
func (Send) isEffect()              {}
func (FollowMaster) isEffect()      {}
func (Promote) isEffect()           {}
func (EmptyData) isEffect()         {}
func (DropSlotKeys) isEffect()      {}
func (DropShardChannels) isEffect() {}
func (PauseWrites) isEffect()       {}
func (ResumeWrites) isEffect()      {}
func (Deliver) isEffect()           {}
func (Reply) isEffect()             {}
func (Taken) isEffect()             {}
func (Log) isEffect()               {}
func (StateChanged) isEffect()      {}
func (Event) isEffect()             {}

// ValueKind is the RESP type of a Value.
type ValueKind uint8

// Kinds of a Value. A Map holds keys and values in turn; it is an array to
// RESP2 clients. Verbatim is a verbatim string of format txt to RESP3 clients
// and a bulk string to others.
const (
	Null ValueKind = iota
	Status
	Error
	Int
	Bulk
	Array
	Map
	Verbatim
)

// Value is a RESP value. The text of an Error begins with its code and has no
// leading dash.
type Value struct {
	Kind  ValueKind
	Str   string
	Int   int64
	Elems []Value
}

func status(s string) Value         { return Value{Kind: Status, Str: s} }
func errValue(s string) Value       { return Value{Kind: Error, Str: s} }
func integer(n int64) Value         { return Value{Kind: Int, Int: n} }
func bulk(s string) Value           { return Value{Kind: Bulk, Str: s} }
func array(elems ...Value) Value    { return Value{Kind: Array, Elems: elems} }
func mapValue(elems ...Value) Value { return Value{Kind: Map, Elems: elems} }

// Flags are the flags of a node, with the bits of the wire.
type Flags uint16

// The flags of a node.
const (
	FlagMaster     Flags = 1 << iota // it is a master
	FlagReplica                      // it is a replica
	FlagPFail                        // we cannot reach it
	FlagFail                         // a majority could not reach it
	FlagMyself                       // it is this node
	FlagHandshake                    // its name is not known yet
	FlagNoAddr                       // its address is not known
	FlagMeet                         // a MEET is owed to it
	FlagMigrateTo                    // a master that orphans may be given replicas
	FlagNoFailover                   // a replica that will not fail over
)

// Has reports whether all of f are set.
func (g Flags) Has(f Flags) bool { return g&f == f }

// NodeView is what the data path may know of a node. Immutable.
type NodeView struct {
	ID       string
	Flags    Flags
	IP       string
	Port     int // main client port: TLS when tls-cluster is on
	PlainPrt int // the plain port where Port is a TLS port, else 0
	BusPort  int
	Hostname string
	MasterID string // of a replica, "" if unknown
	// Replicas of a master, in the order in which CLUSTER SLOTS shows them.
	Replicas []*NodeView
}

// ClientPort is the port that a client on a connection of that kind is told.
// plainWithTLS: tls-cluster is on and the client's connection is not TLS.
func (n *NodeView) ClientPort(v *View, tls bool) int {
	if v.TLSCluster && !tls && n.PlainPrt != 0 {
		return n.PlainPrt
	}
	return n.Port
}

// Endpoint is the host part of MOVED and ASK: the address, the hostname ("?"
// if none is known), or "" with cluster-preferred-endpoint-type unknown-endpoint.
func (n *NodeView) Endpoint(v *View) string {
	switch v.Preferred {
	case EndpointHostname:
		if n.Hostname == "" {
			return "?"
		}
		return n.Hostname
	case EndpointUnknown:
		return ""
	}
	return n.IP
}

// View is what the data path routes by. Immutable; Core.View gives a new one
// after a change.
type View struct {
	Epoch    uint64 // rises with every new View
	Myself   *NodeView
	MyMaster *NodeView // of a replica; nil if it has none
	OK       bool      // cluster_state:ok
	Nodes    []*NodeView

	Preferred                EndpointType
	TLSCluster               bool
	AllowReadsWhenDown       bool
	AllowPubsubShardWhenDown bool
	RequireFullCoverage      bool
	// CoversAll: every slot has an owner.
	CoversAll bool
	Assigned  int // slots that have an owner

	CurrentEpoch uint64
	Size         int // masters with slots

	nums      []*NodeView // what the numbers in the tables mean
	owner     slotPageTable
	migrating slotPageTable
	importing slotPageTable
	moving    int // marks in the latter two
	mine      slot.Set
	hasMine   bool // mine is known
}

// Owner is the node that serves slot n in [0, Slots), nil if there is none.
func (v *View) Owner(n int) *NodeView {
	return v.node(&v.owner, n)
}

func (v *View) node(t *slotPageTable, n int) *NodeView {
	if i := pageGet(t, n); i != 0 {
		return v.nums[i]
	}
	return nil
}

// MySlots are the slots that this node owns.
func (v *View) MySlots() slot.Set {
	if v.hasMine {
		return v.mine
	}
	var s slot.Set
	for n := range Slots {
		if v.Mine(n) {
			s.Add(n)
		}
	}
	return s
}

// Migrating is the node that slot n of ours moves to, nil if it does not move.
func (v *View) Migrating(n int) *NodeView { return v.node(&v.migrating, n) }

// Importing is the node that slot n is being taken from, nil if it is not.
func (v *View) Importing(n int) *NodeView { return v.node(&v.importing, n) }

// AnyMoving reports whether any slot is migrating or importing: with it false
// the two need not be asked.
func (v *View) AnyMoving() bool { return v.moving > 0 }

// EachMoving calls f for every slot that is migrating or importing, twice if it
// is both.
func (v *View) EachMoving(f func(n int)) {
	if v.moving == 0 {
		return
	}
	for i := range slotPages {
		for _, p := range []*slotPage{v.migrating[i], v.importing[i]} {
			if p == nil {
				continue
			}
			for j, num := range p {
				if num != 0 {
					f(i*perPage + j)
				}
			}
		}
	}
}

// Mine reports whether this node is the owner of slot n.
func (v *View) Mine(n int) bool { return v.Myself != nil && v.Owner(n) == v.Myself }

// Node finds a node by its id, nil if it is unknown.
func (v *View) Node(id string) *NodeView {
	for _, n := range v.Nodes {
		if n.ID == id {
			return n
		}
	}
	return nil
}

// ServesMine reports whether slot n is served by this node or by its master.
func (v *View) ServesMine(n int) bool {
	o := v.Owner(n)
	return o != nil && (o == v.Myself || o == v.MyMaster)
}
