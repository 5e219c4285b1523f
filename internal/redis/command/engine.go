package command

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"

	"holdfast/internal/redis/cluster"
	"holdfast/internal/redis/cluster/slot"
	"holdfast/internal/redis/config"
	"holdfast/internal/redis/keyspace"
)

// Host is what the command layer needs of the shell that drives it. All
// methods are called with the engine's lock held.
type Host interface {
	// Wake says that bytes were appended to the reply of a client other than
	// the one whose command runs: the shell is to send them.
	Wake(*Client)
	// Resume says that a blocked client goes on: its input is to be parsed again.
	Resume(*Client)
	// Close closes a client: at once, or once its reply is written.
	Close(c *Client, afterReply bool)
	// Logf writes to the server's log.
	Logf(format string, args ...any)
	// Monitor hands a command to the MONITOR clients.
	Monitor(c *Client, db int, args [][]byte)
}

// Sink takes what is to be journaled and replicated: one call per atomic unit.
// It returns the stream position behind the unit.
type Sink interface {
	AppendUnit(payload []byte) (end uint64)
}

// Engine executes commands. One lock guards it and the keyspace below it; the
// shell holds it for a batch.
type Engine struct {
	sync.Mutex

	KS    *keyspace.Keyspace
	Cfg   *config.Config
	Table *Table
	Host  Host
	Rand  *rand.Rand

	// Stream is where changes go; nil while loading or on a replica, which
	// stores its master's bytes instead.
	Stream Sink

	// Time of the running batch, moved on after each command.
	NowUs int64 // microseconds since 1970
	NowMs int64 // the same in milliseconds
	// Clock returns a monotonic time in nanoseconds, for durations only.
	Clock func() int64

	// Dirty counts changes since the last save.
	Dirty int64

	State   State // what the dispatch checklist asks, set by the shell
	Stat    Counters
	Slow    Slowlog
	Latency LatencyMonitor

	// OnFlushAll, if set, is called when FLUSHALL has emptied the keyspace.
	OnFlushAll func()
	// OnUnsent, if set, is called when there is no stream any more to take what a
	// transaction has changed.
	OnUnsent func()
	// OnPanic, if set, is called when a directive wants the server to end rather
	// than to go on with data that differ from the master's or the journal's.
	OnPanic func(why string)
	// SkipChecksum lets RESTORE and loading accept a wrong checksum (DEBUG
	// SET-SKIP-CHECKSUM-VALIDATION).
	SkipChecksum bool

	// Transfer carries the network part of MIGRATE out. Without it every MIGRATE
	// fails to connect.
	Transfer Transferrer

	// OnChange, if set, is told of each command that goes into the stream. It is
	// called in the middle of what executes: it must change nothing. The slices
	// are valid during the call only.
	OnChange func(args [][]byte)

	// OnPublish, if set, is told of each PUBLISH and SPUBLISH of a client in
	// cluster mode, to hand it to the other nodes. The slices are valid during
	// the call only.
	OnPublish func(channel, message []byte, sharded bool)

	ctx  Ctx
	view *cluster.View // nil without cluster mode
	// mine are the slots that this node serves to everybody, without a look at
	// anything else: none while the cluster is down, and no slot that moves.
	mine      slot.Set
	refs      []KeyRef              // scratch of the routing
	held      map[watchKey]*heldKey // keys that MIGRATE has on their way
	arrived   []*migration          // that wait for the end of a pause
	hold      *slotHold             // slots whose requests wait; nil without
	staged    *slot.Set             // slots that arrive; nil without
	drop      *slot.Set             // slots whose keys are being deleted; nil without
	hidden    *slot.Set             // both; nil without
	inExec    bool                  // inside EXEC or a script: units end with it
	callDepth int

	unit     []byte // commands of the running atomic unit, encoded
	unitOps  int
	unitHead int // bytes of the SELECT that the unit begins with
	unitDB   int // database that the stream is at after the unit so far
	streamDB int // database that the stream is at
	reselect bool

	watchers map[watchKey][]*Client
	blocking blockTable
	pubsub   pubsubTable
	evict    evictState
	errors   map[string]*int64
	expire   expireState

	httpLogMs int64 // when an attack was last logged

	lastEnd int64 // monotonic end of the last command
	keyBuf  []byte
}

// State is what the dispatch checklist asks about the server.
type State struct {
	Loading       bool
	AsyncLoading  bool
	IsReplica     bool   // of a master: expired keys are its business
	ReadOnly      bool   // replica-read-only of a replica
	MasterDown    bool   // a replica whose link is down and that may not serve stale data
	DiskError     string // "" or the MISCONF text that write commands get
	ReadsRefused  bool   // DiskError is for commands that read, too
	GoodReplicas  int    // replicas that count for min-replicas-to-write
	PauseUntilMs  int64  // CLIENT PAUSE
	PauseWrites   bool   // only writes are paused
	RequirePass   bool   // AUTH is needed
	Busy          bool
	FailoverPause bool
}

// Counters are the figures of INFO stats that the command layer counts.
type Counters struct {
	Commands           int64
	KeyspaceHits       int64
	KeyspaceMisses     int64
	ExpiredKeys        int64
	ExpiredStale       float64
	ExpireCapReached   int64
	ExpireCPUUs        int64
	EvictedKeys        int64
	EvictedClients     int64
	EvictionExceededUs int64
	ErrorReplies       int64
	UnexpectedErrors   int64
	Blocked            int64
}

// NewEngine makes an engine over a keyspace and a table.
func NewEngine(ks *keyspace.Keyspace, cfg *config.Config, table *Table, host Host, rng *rand.Rand, clock func() int64) *Engine {
	e := &Engine{KS: ks, Cfg: cfg, Table: table, Host: host, Rand: rng, Clock: clock,
		watchers: make(map[watchKey][]*Client), errors: make(map[string]*int64), streamDB: -1}
	e.blocking.init()
	e.pubsub.init()
	return e
}

// NewClient makes a client of this engine, in database 0, speaking RESP2.
func (e *Engine) NewClient(id uint64) *Client {
	return &Client{ID: id, DB: e.KS.DB(0), Reply: Reply{Proto: 2}, CreatedMs: e.NowMs, LastMs: e.NowMs}
}

// BeginBatch sets the time for the commands that follow. The lock is held.
func (e *Engine) BeginBatch(nowUs int64) {
	e.NowUs, e.NowMs = nowUs, nowUs/1000
	e.lastEnd = e.Clock()
	e.KS.SetClock(e.NowMs)
}

// Release forgets a client that goes: its watches, subscriptions, blocked
// state. The lock is held.
func (e *Engine) Release(c *Client) {
	e.unwatchAll(c)
	e.unsubscribeAll(c)
	if c.block != nil {
		e.unblock(c)
	}
	c.dropQueue()
}

// CountError counts an error reply that the shell makes itself.
func (e *Engine) CountError(text string) { e.countError(text) }

// countError counts an error reply by its code.
func (e *Engine) countError(s string) {
	e.Stat.ErrorReplies++
	code, _, _ := strings.Cut(s, " ")
	if n := e.errors[code]; n != nil {
		*n++
		return
	}
	if len(e.errors) < 128 { // as many codes as Redis keeps apart
		n := int64(1)
		e.errors[strings.Clone(code)] = &n
	}
}

// unexpectedError tells of an error that goes where nobody reads it: to the
// master, to a replica, to the journal. It may mean that the data differ, so
// propagation-error-behavior decides whether that is the end.
func (e *Engine) unexpectedError(c *Ctx, text string) {
	cl := c.Client
	from, to := "server", "AOF-loading-client"
	switch {
	case cl.Has(FlagMaster):
		from, to = "replica", "master"
	case cl.Has(FlagReplay):
	case cl.Has(FlagMonitor):
		return // an ordinary client that is shown what others do
	default:
		from, to = "master", "replica"
	}
	name := "<unknown>"
	if c.Spec != nil {
		name = c.Spec.Full
	}
	e.Stat.UnexpectedErrors++
	e.Host.Logf("== CRITICAL == This %s is sending an error to its %s: '%s' after processing the command '%s'", from, to, text[:min(len(text), 4096)], name)
	how := e.Cfg.PropagationErrorBehavior
	diverged := cl.Has(FlagMaster) && e.Cfg.ReplicaReadOnly && how != config.PropagationIgnore
	if (diverged || cl.Has(FlagReplay) && how == config.PropagationPanic) && e.OnPanic != nil {
		e.OnPanic(fmt.Sprintf("This %s panicked sending an error to its %s after processing the command '%s'", from, to, name))
	}
}

// Errors calls fn for each error code and its count.
func (e *Engine) Errors(fn func(code string, count int64)) {
	for code, n := range e.errors {
		fn(code, *n)
	}
}

// ResetStats is CONFIG RESETSTAT for what the command layer counts.
func (e *Engine) ResetStats() {
	e.Stat = Counters{Blocked: e.Stat.Blocked}
	clear(e.errors)
	for _, s := range e.Table.All {
		*s.stats = Stats{}
		for _, sub := range s.Sub {
			*sub.stats = Stats{}
		}
	}
}

// ResetClient is RESET: the client is as it was when it was new, but for its
// authentication and its name, which are the shell's.
func (e *Engine) ResetClient(cl *Client) {
	if cl.Has(FlagMulti) {
		e.discard(cl)
	}
	e.unwatchAll(cl)
	e.unsubscribeAll(cl)
	cl.Flags &^= FlagMonitor | FlagReplyOff | FlagReplySkip | FlagReplySkipNext | FlagReadonly | FlagAsking | FlagNoEvict | FlagDirtyCAS | FlagDirtyExec
	cl.DB = e.KS.DB(0)
	cl.Proto = 2
}
