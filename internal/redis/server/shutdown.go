package server

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"

	"holdfast/internal/journal"
	"holdfast/internal/redis/cluster"
	"holdfast/internal/redis/command"
	"holdfast/internal/redis/config"
	"holdfast/internal/redis/process"
	"holdfast/internal/redis/replication"
)

// shutdownFlags are the options of SHUTDOWN.
type shutdownFlags = config.ShutdownFlags

// shutdownState is a shutdown that waits for replicas, and the one that was
// carried out. Under the engine's lock.
type shutdownState struct {
	pending  bool
	over     bool // everything is saved: nothing is executed any more
	deadline time.Time
	flags    shutdownFlags
	waiters  []*conn // blocked in SHUTDOWN
}

// HandleSignals lets SIGINT and SIGTERM shut the server down as their
// directives say. The function that it returns ends that.
func (s *Server) HandleSignals(ctx context.Context) func() {
	// A terminal or a pipe that goes away does not take the server with it.
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	ch := make(chan os.Signal, 4)
	signal.Notify(ch, syscall.SIGINT, syscall.SIGTERM, syscall.SIGABRT)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case <-ctx.Done():
				return
			case sig := <-ch:
				if sig == syscall.SIGABRT {
					s.dieBy(syscall.SIGABRT)
				}
				if s.signalled.Swap(true) {
					// The lock may be held for long, by a save for example, and
					// who insists does not want to wait for it.
					if sig == os.Interrupt {
						s.log.Warning("You insist... exiting now.")
						_ = os.Remove(tempDump()) // of a save that is cut short; there may be none
						os.Exit(1)
					}
					continue
				}
				go func() {
					s.onSignal(sig)
					s.signalled.Store(s.shuttingDown())
				}()
			}
		}
	}()
	return func() {
		signal.Stop(ch)
		close(done)
	}
}

func (s *Server) onSignal(sig os.Signal) {
	s.e.Lock()
	defer s.e.Unlock()
	flags, name := s.cfg.ShutdownOnSigterm, "SIGTERM"
	if sig == os.Interrupt {
		flags, name = s.cfg.ShutdownOnSigint, "SIGINT"
	}
	if s.e.State.Loading {
		s.log.Warning("Received shutdown signal during loading, exiting now.")
		s.shutdown.over = true
		s.exit(0)
		return
	}
	s.log.FromSignal("Received " + name + " scheduling shutdown...")
	s.e.BeginBatch(time.Now().UnixMicro())
	if s.cron.paused { // DEBUG PAUSE-CRON: it is the timer's work
		s.shutdown = shutdownState{pending: true, deadline: time.Now(), flags: flags}
		return
	}
	s.beginShutdown(flags)
}

// shuttingDown reports whether a shutdown waits or was carried out.
func (s *Server) shuttingDown() bool {
	s.e.Lock()
	defer s.e.Unlock()
	return s.shutdown.pending || s.shutdown.over
}

// beginShutdown starts a shutdown: at once, or after the replicas have caught
// up. It returns false when it was refused. The engine's lock is held.
func (s *Server) beginShutdown(flags shutdownFlags) bool {
	if s.shutdown.pending {
		return true
	}
	s.log.Warning("User requested shutdown...")
	process.Notify(s.cfg, s.log, "STOPPING=1")
	if flags&config.ShutdownNow == 0 && s.cfg.ShutdownTimeout > 0 && s.replicasBehind() {
		s.shutdown = shutdownState{pending: true, deadline: time.Now().Add(time.Duration(s.cfg.ShutdownTimeout) * time.Second), flags: flags}
		s.log.Notice("Waiting for replicas before shutting down.")
		s.askForAcks() // or they acknowledge only once a second
		s.pauseForShutdown()
		return true
	}
	return s.finishShutdown(flags)
}

// tellWaiters answers the clients that wait for a shutdown that does not come.
func (s *Server) tellWaiters() {
	waiters := s.shutdown.waiters
	s.shutdown = shutdownState{}
	s.signalled.Store(false)
	for _, w := range waiters {
		if !w.closed {
			s.e.EndHeld(w.cl, errShutdown)
		}
	}
}

const errShutdown = "ERR Errors trying to SHUTDOWN. Check logs."

// pauseForShutdown keeps writes back while replicas catch up.
func (s *Server) pauseForShutdown() {
	s.e.State.PauseUntilMs, s.e.State.PauseWrites = 1<<62, true
}

// shutdownCron goes on with a pending shutdown. The engine's lock is held.
func (s *Server) shutdownCron(now time.Time) {
	if !s.shutdown.pending || (s.replicasBehind() && now.Before(s.shutdown.deadline)) {
		return
	}
	if !s.finishShutdown(s.shutdown.flags) {
		s.tellWaiters()
		s.unpause()
	}
}

// abortShutdown is SHUTDOWN ABORT. The engine's lock is held.
func (s *Server) abortShutdown() bool {
	if !s.shutdown.pending {
		return false
	}
	s.tellWaiters()
	s.unpause()
	s.log.Notice("Shutdown manually aborted.")
	return true
}

// finishShutdown saves what is to be saved and ends the server.
func (s *Server) finishShutdown(flags shutdownFlags) bool {
	s.logLag()
	if !s.saveAndExit(flags) {
		s.log.Warning("Errors trying to shut down the server. Check the logs for more information.")
		return false
	}
	return true
}

// logLag says which replicas are going to miss something.
func (s *Server) logLag() {
	behind, end := 0, s.streamEnd()
	for _, l := range s.repl.links {
		if l.rep.HasAcked(end) {
			continue
		}
		behind++
		lag := int64(0)
		if l.rep.State == replication.Online {
			lag = l.rep.LagSeconds(time.Now())
		}
		s.log.Warning("Lagging replica %s reported offset %d behind master, lag=%d, state=%s.", l.name(), int64(end-l.rep.Acked), lag, l.rep.State)
	}
	if n := len(s.repl.links); n > 0 {
		s.log.Notice("%d of %d replicas are in sync when shutting down.", n-behind, n)
	}
}

func (s *Server) saveAndExit(flags shutdownFlags) bool {
	save := flags&config.ShutdownSave != 0 || (len(s.cfg.SavePoints) > 0 && flags&config.ShutdownNoSave == 0)
	if s.e.State.Loading {
		save = false
	}
	force := flags&config.ShutdownForce != 0
	if s.jobIs("dump") {
		s.log.Warning("There is a child saving an .rdb. Killing it!")
	}
	if st := s.persist.stream; st != nil {
		if s.persist.journal != nil {
			s.log.Notice("Calling fsync() on the AOF file.")
		}
		if err := st.Flush(); err == nil {
			err = st.Sync(st.End())
			// Closed: it was not begun yet, the data is still being loaded.
			if err != nil && !force && !errors.Is(err, journal.ErrClosed) {
				s.log.Warning("Syncing the journal failed: %s. Can't exit.", err)
				return false
			}
		} else if !force {
			s.log.Warning("Writing the journal failed: %s. Can't exit.", err)
			return false
		}
	}
	if save {
		s.log.Notice("Saving the final RDB snapshot before exiting.")
		if err := s.saveNow(); err != nil {
			s.log.Warning("Error trying to save the DB, can't exit.")
			if !force {
				return false
			}
		}
	}
	process.RemovePidFile(s.cfg, s.log)
	if s.cluster != nil {
		s.stepCluster(cluster.Shutdown{})
	}
	s.shutdown.over = true
	s.exit(0)
	return true
}

// panicked ends the server because a directive says that it must not go on: its
// data would differ from its master's, or would not be stored. The engine's
// lock is held.
func (s *Server) panicked(why string) {
	s.log.Warning("------------------------------------------------")
	s.log.Warning("!!! Software Failure. Press left mouse button to continue")
	s.log.Warning("Guru Meditation: %s", why)
	s.log.Warning("------------------------------------------------")
	process.RemovePidFile(s.cfg, s.log)
	s.shutdown.over = true
	s.exit(1)
}

func (s *Server) serverCommandsShutdown() []command.Spec {
	return []command.Spec{
		{Name: "shutdown", Arity: -1, Flags: command.Admin | anyTime | command.NoMulti | command.AllowBusy, Run: s.cmdShutdown},
	}
}

func (s *Server) cmdShutdown(c *command.Ctx) {
	var flags shutdownFlags
	abort := false
	for i := 1; i < len(c.Args); i++ {
		switch {
		case c.Is(i, "nosave"):
			flags |= config.ShutdownNoSave
		case c.Is(i, "save"):
			flags |= config.ShutdownSave
		case c.Is(i, "now"):
			flags |= config.ShutdownNow
		case c.Is(i, "force"):
			flags |= config.ShutdownForce
		case c.Is(i, "abort"):
			abort = true
		default:
			c.Err(command.ErrSyntax)
			return
		}
	}
	both := config.ShutdownSave | config.ShutdownNoSave
	if (abort && flags != 0) || flags&both == both {
		c.Err(command.ErrSyntax)
		return
	}
	if abort {
		if s.abortShutdown() {
			c.OK()
		} else {
			c.Err("ERR No shutdown in progress.")
		}
		return
	}
	if c.Client.Has(command.FlagDenyBlocking) && flags&config.ShutdownNow == 0 {
		c.Err("ERR SHUTDOWN without NOW or ABORT isn't allowed for DENY BLOCKING client")
		return
	}
	if !s.beginShutdown(flags) {
		c.Err(errShutdown)
		return
	}
	if k, ok := c.Client.Conn.(*conn); ok && s.shutdown.pending {
		c.BlockHeld()
		s.shutdown.waiters = append(s.shutdown.waiters, k)
	}
}
