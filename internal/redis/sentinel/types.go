package sentinel

import "time"

// ConnID names one connection attempt. Ids are never reused in a process, so
// that a late event of an abandoned connection is recognised and dropped.
type ConnID uint64

// Level is the severity of an event, as in the loglevel directive.
type Level uint8

// Levels in rising severity. Debug events are logged, but not published.
const (
	Debug Level = iota
	Verbose
	Notice
	Warning
)

// Addr is the address of an instance. Host is the name as it was given, IP
// the numeric address once it is known ("" before).
type Addr struct {
	Host string
	IP   string
	Port int
}

// Input is something that happened. Exactly the types of this file implement it.
type Input interface{ isInput() }

// Timer says only that time has passed.
type Timer struct{}

// ConnUp reports that a connection asked for by Connect is established.
type ConnUp struct {
	Conn     ConnID
	LocalIP  string // our own address on this connection, announced to peers
	RemoteIP string // what the host name resolved to
}

// ConnDown reports that a connection failed, was refused, or was closed by
// the peer. Pending requests on it get no reply.
type ConnDown struct {
	Conn    ConnID
	Refused bool
	Err     string
}

// ReplyIn is the reply to the oldest unanswered Send on Conn.
type ReplyIn struct {
	Conn  ConnID
	Reply Value
}

// PubsubActivity reports any message on a pub/sub connection. Payload is set
// for a message on the hello channel and empty otherwise (for example for the
// confirmation of SUBSCRIBE).
type PubsubActivity struct {
	Conn    ConnID
	Payload string
}

// Command is a command of a client: SENTINEL ..., PUBLISH ..., ROLE or INFO.
type Command struct {
	Client uint64 // returned in Reply
	Args   []string
	// NotExecutable lists those script paths among Args that are not
	// executable files; the caller can look, the core cannot.
	NotExecutable []string
}

// Resolved tells the numeric address of a host name; IP is "" on failure.
type Resolved struct {
	Host string
	IP   string
}

// ScriptStarted reports the process id of a script asked for by RunScript.
// Err is not empty when it could not be started at all.
type ScriptStarted struct {
	ID  uint64
	PID int
	Err string
}

// ScriptFinished reports the end of a script. Signal is 0 for a normal exit.
type ScriptFinished struct {
	ID       uint64
	PID      int
	ExitCode int
	Signal   int
}

func (Timer) isInput()          {}
func (ConnUp) isInput()         {}
func (ConnDown) isInput()       {}
func (ReplyIn) isInput()        {}
func (PubsubActivity) isInput() {}
func (Command) isInput()        {}
func (Resolved) isInput()       {}
func (ScriptStarted) isInput()  {}
func (ScriptFinished) isInput() {}

// Effect is something the caller must do. Effects are carried out in order;
// a Persist must be durable before anything after it is carried out.
type Effect interface{ isEffect() }

// Connect asks for a connection. Nothing is sent before ConnUp.
type Connect struct {
	Conn   ConnID
	Host   string // name or numeric address
	Port   int
	Pubsub bool
	Peer   bool // the other side is a Sentinel
}

// Disconnect closes a connection; no further event of it is expected.
type Disconnect struct{ Conn ConnID }

// Send writes one command. Its reply comes back as ReplyIn, in order, except
// on pub/sub connections after SUBSCRIBE.
type Send struct {
	Conn ConnID
	Args []string
}

// Persist asks for the state to be made durable.
type Persist struct{ Config *Config }

// Event is logged as "Type Text" and, above Debug, published to the clients
// that subscribed to the channel Type.
type Event struct {
	Level Level
	Type  string
	Text  string
}

// Log is a line for the log alone.
type Log struct {
	Level Level
	Text  string
}

// RunScript starts Args[0] with the other Args as arguments.
type RunScript struct {
	ID   uint64
	Args []string
}

// KillScript ends a script that ran too long.
type KillScript struct{ ID uint64 }

// Reply answers the Command of that client.
type Reply struct {
	Client uint64
	Value  Value
}

// Resolve asks for the numeric address of a host name, answered by Resolved.
type Resolve struct{ Host string }

// Exit ends the process at once with this code, as SENTINEL SIMULATE-FAILURE
// promises.
type Exit struct{ Code int }

func (Connect) isEffect()    {}
func (Disconnect) isEffect() {}
func (Send) isEffect()       {}
func (Persist) isEffect()    {}
func (Event) isEffect()      {}
func (Log) isEffect()        {}
func (RunScript) isEffect()  {}
func (KillScript) isEffect() {}
func (Reply) isEffect()      {}
func (Resolve) isEffect()    {}
func (Exit) isEffect()       {}

// ValueKind is the RESP type of a Value.
type ValueKind uint8

// Kinds of a Value. A Map holds keys and values in turn; it is an array to
// RESP2 clients.
const (
	Null ValueKind = iota
	Status
	Error
	Int
	Bulk
	Array
	Map
	NullArray
)

// Value is a RESP value: what instances reply to us and what we reply to
// clients. The text of an Error begins with its code and has no leading dash.
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

// ms is d in whole milliseconds, as Redis shows times.
func ms(d time.Duration) int64 { return int64(d / time.Millisecond) }
