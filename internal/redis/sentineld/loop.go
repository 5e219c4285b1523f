package sentineld

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/redis/config"
	"holdfast/internal/redis/process"
	"holdfast/internal/redis/sentinel"
)

// shell is the running process. What the loop alone touches is marked so.
type shell struct {
	base     *config.Config
	log      *process.Logger
	core     *sentinel.Core // loop
	store    *store         // loop
	dialTLS  *tls.Config
	serveTLS *tls.Config

	inputs chan sentinel.Input
	calls  chan func() // run by the loop, for questions to the core
	stop   chan struct{}
	ended  sync.Once
	exit   error // why the loop ends; set before stop is closed

	links   map[sentinel.ConnID]*link // loop
	scripts map[uint64]*os.Process    // loop

	listeners []net.Listener
	clients   clientTable
	users     *users
	names     map[string]*spec // commands by the names that clients use
	pubsub    hub
	waiting   sync.Map // token of a command -> chan sentinel.Value
	lastToken atomic.Uint64
	wg        sync.WaitGroup

	runID   string
	started time.Time
	stats   stats

	pausedUntil atomic.Int64 // unix nanoseconds, by CLIENT PAUSE
}

func newShell(base *config.Config, log *process.Logger) *shell {
	s := &shell{
		base: base, log: log,
		inputs: make(chan sentinel.Input, 256), calls: make(chan func(), 16), stop: make(chan struct{}),
		links: map[sentinel.ConnID]*link{}, scripts: map[uint64]*os.Process{},
		runID: randomHex(40), started: time.Now(), users: newUsers(base.RequirePass, false),
		names: renamed(base.RenamedCommands),
	}
	s.store = newStore(base, log)
	s.clients.all = map[uint64]*client{}
	s.pubsub.init()
	return s
}

// end makes the loop return err; only the first call counts.
func (s *shell) end(err error) {
	s.ended.Do(func() {
		s.exit = err
		close(s.stop)
	})
}

// hand gives an input to the loop, unless it has ended.
func (s *shell) hand(in sentinel.Input) {
	select {
	case s.inputs <- in:
	case <-s.stop:
	}
}

// ask runs f inside the loop and waits for it; false when the loop has ended.
func (s *shell) ask(f func()) bool {
	done := make(chan struct{})
	select {
	case s.calls <- func() { f(); close(done) }:
	case <-s.stop:
		return false
	}
	select {
	case <-done:
		return true
	case <-s.stop:
		return false
	}
}

// serve runs the core until the end. The time given to Step is read when the
// input is handled, not when it arrived: an hour of sleep in between must be
// seen by the core as such.
func (s *shell) serve(ctx context.Context) error {
	s.apply(s.core.Start(time.Now()))
	for _, l := range s.listeners {
		s.wg.Add(1)
		go s.accept(l)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for running := true; running; {
		select {
		case <-s.stop: // before all else: a Sentinel that crashes on purpose does nothing more
			running = false
			continue
		default:
		}
		timer.Reset(time.Until(s.core.Deadline()))
		select {
		case in := <-s.inputs:
			s.apply(s.core.Step(time.Now(), in))
		case f := <-s.calls:
			f()
		case <-timer.C:
			s.apply(s.core.Step(time.Now(), sentinel.Timer{}))
		case <-ctx.Done():
			s.log.FromSignal("Received " + signalName(ctx) + " scheduling shutdown...")
			s.log.Warning("User requested shutdown...")
			s.end(nil)
			running = false
		case <-s.stop:
			running = false
		}
	}
	s.shutdown()
	return s.exit
}

// signalName is the signal that has ended ctx, if that of os/signal says so.
func signalName(ctx context.Context) string {
	if cause := context.Cause(ctx); strings.Contains(cause.Error(), os.Interrupt.String()) {
		return "SIGINT"
	}
	return "SIGTERM"
}

func (s *shell) shutdown() {
	s.closeListeners()
	for id := range s.links {
		s.closeLink(id)
	}
	// A script that runs goes on, as in Redis: half a reconfiguration of clients
	// is worse than a late one.
	s.clients.closeAll()
	s.wg.Wait()
	process.RemovePidFile(s.base, s.log)
	process.RemoveUnixSocket(s.base, s.log)
	if s.exit == nil {
		s.log.Warning("Sentinel is now ready to exit, bye bye...")
	}
}

// apply carries out effects in order. A Persist returns when the state is
// durable. When it could not be made so, nothing that rests on it leaves this
// process: replies become an error, and votes are not asked for.
func (s *shell) apply(effects []sentinel.Effect) {
	saved := true
	for _, e := range effects {
		switch e := e.(type) {
		case sentinel.Persist:
			saved = s.store.save(e.Config) == nil
		case sentinel.Send:
			if !saved && len(e.Args) == 6 && e.Args[5] != "*" {
				s.closeLink(e.Conn)
				go s.hand(sentinel.ConnDown{Conn: e.Conn, Err: "state cannot be saved"})
				continue
			}
			s.send(e)
		case sentinel.Connect:
			s.connect(e)
		case sentinel.Disconnect:
			s.closeLink(e.Conn)
		case sentinel.Event:
			line := e.Type + " " + e.Text
			s.log.Log(config.LogLevel(e.Level), "%s", line[:min(len(line), maxLogText)])
			if e.Level > sentinel.Debug {
				s.pubsub.publish(e.Type, e.Text)
			}
		case sentinel.Log:
			s.log.Log(config.LogLevel(e.Level), "%s", e.Text)
		case sentinel.Reply:
			v := e.Value
			if !saved {
				v = sentinel.Value{Kind: sentinel.Error, Str: "ERR Failed to save config file. Check server logs."}
			}
			if ch, ok := s.waiting.LoadAndDelete(e.Client); ok {
				ch.(chan sentinel.Value) <- v
			}
		case sentinel.Resolve:
			s.resolveLater(e.Host)
		case sentinel.RunScript:
			s.runScript(e)
		case sentinel.KillScript:
			if p := s.scripts[e.ID]; p != nil {
				_ = p.Kill() // it may have ended in this moment
			}
		case sentinel.Exit:
			s.end(ExitError{e.Code})
			return
		}
	}
}

// maxLogText is how long a line of the log is in Redis, in bytes.
const maxLogText = 1023

func (s *shell) resolveLater(host string) {
	go func() { s.hand(sentinel.Resolved{Host: host, IP: resolve(host)}) }()
}
