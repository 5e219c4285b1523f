// Package server acts: it is the data server's shell. It owns the sockets, the
// timers and the files, and drives the command engine, the journal and the
// replication core with them.
//
// Reading order: server.go (what there is), start.go (how it begins),
// loop_linux.go (the tick), conn.go (a connection), gateway.go (TLS and other
// connections with a goroutine each), commit.go (journal before reply),
// cron.go (the timer), persist.go (journal, checkpoints, dump.rdb), array.go
// (the disk array under them), the replication files, then the families of commands that are about the server
// itself (cmd_*.go).
//
// Locks. Engine.Mutex guards the keyspace and every client's state and reply
// buffer. The journal has its own lock below it. A connection's socket belongs
// to its loop (or its goroutines), which take the reply out of the client
// under the engine's lock and write it without.
package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	mrand "math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/redis/command"
	"holdfast/internal/redis/config"
	"holdfast/internal/redis/keyspace"
	"holdfast/internal/redis/logline"
	"holdfast/internal/redis/process"
)

// Version is the version of Redis that this server is compatible with, and
// reports where Redis reports its own.
const Version = "7.0.15"

// Options are what the composition root chooses.
type Options struct {
	Config *config.Config
	FS     vfs.FS
	Log    *process.Logger
	// Ready, if set, is called once connections are accepted.
	Ready func(addrs []net.Addr)
}

// Server is one data server.
type Server struct {
	cfg *config.Config
	fs  vfs.FS
	log *process.Logger
	e   *command.Engine
	ks  *keyspace.Keyspace

	begun   atomic.Bool // the process has said what it is
	runID   string
	started time.Time
	exe     string
	args    []string

	loops     []*loop
	gateways  sync.WaitGroup
	listeners []*listener
	nextConn  atomic.Uint64

	// Below: guarded by the engine's lock.
	conns    map[uint64]*conn
	byClient map[*command.Client]*conn
	monitors map[*conn]struct{}
	paused   []*conn // postponed by CLIENT PAUSE
	// handshakes are the sockets that are at the handshake of TLS.
	handshakes map[net.Conn]struct{}
	stat       netStats
	cron       cronState
	oom        oomScore

	persist persistence
	array   arrayState
	repl    replState
	migrate *transfers
	cluster *clusterState
	moves   *slotMoves

	shutdown  shutdownState
	signalled atomic.Bool   // a shutdown by signal is under way
	alarm     *alarm        // of cronLoop
	done      chan struct{} // closed when Run is to return
	doneOnce  sync.Once
	exitCode  int
	ready     func([]net.Addr)
}

// netStats are the figures of INFO that connections move.
type netStats struct {
	accepted, rejected                   int64
	inBytes, outBytes                    atomic.Int64
	replInBytes, replOutBytes            atomic.Int64
	reads, writes                        atomic.Int64
	queryBufferClosed, outputClosed      int64
	replyShrinks, replyGrows             int64 // sizes of reply buffers
	instOps, instIn, instOut, instReplIn sampler
	instReplOut                          sampler
}

// New makes a server; Run starts it.
func New(opts Options) (*Server, error) {
	s := &Server{
		cfg: opts.Config, fs: opts.FS, log: opts.Log,
		runID: randomID(), started: time.Now(), args: os.Args,
		conns: make(map[uint64]*conn), byClient: make(map[*command.Client]*conn),
		monitors: make(map[*conn]struct{}), handshakes: make(map[net.Conn]struct{}), done: make(chan struct{}), ready: opts.Ready,
	}
	if exe, err := os.Executable(); err == nil {
		s.exe = exe
	}
	var err error
	if s.alarm, err = newAlarm(); err != nil {
		return nil, err
	}
	ks, err := keyspace.New(keyspace.Options{Databases: s.cfg.Databases, Limits: keyspace.DefaultLimits(), BySlot: s.cfg.ClusterEnabled})
	if err != nil {
		return nil, err
	}
	s.ks = ks
	rng, err := newRand()
	if err != nil {
		return nil, err
	}
	s.e = command.NewEngine(ks, s.cfg, newTable(s), s, rng, monotonic)
	s.e.BeginBatch(time.Now().UnixMicro())
	s.migrate = newTransfers(s)
	s.e.Transfer = s.migrate
	s.e.OnFlushAll, s.e.OnPanic = s.flushedAll, s.panicked
	s.e.OnUnsent = func() { s.repl.lost = true }
	s.persist.lastBgsaveSec, s.persist.lastCkptSec = -1, -1
	s.cron.replyResizing, s.cron.replyPeakResetMs = true, replyPeakReset
	s.applyLimits()
	s.measureBase()
	s.cron.startMemory = s.usedMemory()
	return s, nil
}

// newTable is the command table of a data server: the families of the command
// layer and those about the server itself.
func newTable(s *Server) *command.Table {
	families := command.DataFamilies()
	families = append(families, s.families()...)
	t := command.NewTable(families...)
	for _, r := range s.cfg.RenamedCommands {
		t.Rename(r.Old, r.New)
	}
	return t
}

// HasCommand reports whether a data server has a command of that lower-case
// name before any is renamed.
func HasCommand(name string) bool {
	cfg := config.Default()
	cfg.ArrayLevel = 1 // with the commands of a server that has an array
	return newTable(&Server{cfg: cfg}).LookupFull(name) != nil
}

// newRand is a source of randomness with a seed that nobody can guess.
func newRand() (*mrand.Rand, error) {
	var seed [32]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, err
	}
	return mrand.New(mrand.NewChaCha8(seed)), nil
}

// randomID returns 40 random hexadecimal digits: a run id or a replication id.
func randomID() string {
	var b [20]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic("no randomness: " + err.Error())
	}
	return hex.EncodeToString(b[:])
}

var epoch = time.Now()

// monotonic is a time in nanoseconds that never goes back.
func monotonic() int64 { return int64(time.Since(epoch)) }

// Role is the letter of the log lines: M, or S for a replica; C before either.
func (s *Server) Role() byte {
	if !s.begun.Load() {
		return logline.Child
	}
	if s.e != nil && s.repl.isReplica.Load() {
		return 'S'
	}
	return 'M'
}

// --- command.Host ---

// Wake implements command.Host.
func (s *Server) Wake(cl *command.Client) {
	if c := s.byClient[cl]; c != nil {
		c.wake()
	}
}

// Resume implements command.Host.
func (s *Server) Resume(cl *command.Client) {
	if c := s.byClient[cl]; c != nil {
		c.resume()
	}
}

// Close implements command.Host.
func (s *Server) Close(cl *command.Client, afterReply bool) {
	if c := s.byClient[cl]; c != nil {
		c.closeLater(afterReply)
	}
}

// Logf implements command.Host.
func (s *Server) Logf(format string, args ...any) { s.log.Warning(format, args...) }

// Run serves until ctx ends or SHUTDOWN is called, and returns the exit code.
func (s *Server) Run(ctx context.Context) int {
	if err := s.open(); err != nil {
		s.log.Warning("%s", err)
		s.stop()
		return 1
	}
	stopLoops := s.startLoops()
	if err := s.load(); err != nil {
		if !errors.Is(err, errStopped) {
			s.log.Warning("%s", err)
		}
		s.exit(1)
	}
	go s.cronLoop()
	if s.cluster != nil {
		s.openInbox()
		go s.slotLoop()
	}
	select {
	case <-ctx.Done():
	case <-s.done:
	}
	stopLoops()
	s.stop()
	return s.exitCode
}

// exit makes Run return code.
func (s *Server) exit(code int) {
	s.doneOnce.Do(func() {
		s.exitCode = code
		close(s.done)
	})
}
