package server

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"holdfast/internal/redis/command"
	"holdfast/internal/redis/config"
)

// shutdownFlags are the options of SHUTDOWN.
type shutdownFlags = config.ShutdownFlags

// shutdownState is a SHUTDOWN that waits for replicas. Under the engine's lock.
type shutdownState struct {
	pending  bool
	deadline time.Time
	flags    shutdownFlags
	waiter   *conn
}

// HandleSignals lets SIGINT and SIGTERM shut the server down as their
// directives say. The function that it returns ends that.
func (s *Server) HandleSignals(ctx context.Context) func() {
	ch := make(chan os.Signal, 4)
	signal.Notify(ch, syscall.SIGINT, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case <-ctx.Done():
				return
			case sig := <-ch:
				s.onSignal(sig)
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
		if s.shutdown.pending {
			s.log.Warning("You insist... exiting now.")
			s.exit(1)
			return
		}
	}
	s.log.Warning("Received %s scheduling shutdown...", name)
	s.e.BeginBatch(time.Now().UnixMicro())
	s.beginShutdown(flags, nil)
}

// beginShutdown starts a shutdown: at once, or after the replicas have caught
// up. It returns false when it was refused. The engine's lock is held.
func (s *Server) beginShutdown(flags shutdownFlags, waiter *conn) bool {
	if s.shutdown.pending {
		return true
	}
	if flags&config.ShutdownNow == 0 && s.cfg.ShutdownTimeout > 0 && s.replicasBehind() {
		s.shutdown = shutdownState{pending: true, deadline: time.Now().Add(time.Duration(s.cfg.ShutdownTimeout) * time.Second), flags: flags, waiter: waiter}
		s.log.Notice("Waiting for replicas before shutting down.")
		s.pauseForShutdown()
		return true
	}
	return s.finishShutdown(flags)
}

// pauseForShutdown keeps writes back while replicas catch up.
func (s *Server) pauseForShutdown() {
	s.e.State.PauseUntilMs, s.e.State.PauseWrites = 1<<62, true
}

// shutdownCron goes on with a pending shutdown. The engine's lock is held.
func (s *Server) shutdownCron(now time.Time) {
	if !s.shutdown.pending || (s.replicasBehind() && now.Before(s.shutdown.deadline)) {
		return
	}
	s.shutdown.pending = false
	if !s.finishShutdown(s.shutdown.flags) {
		s.unpause()
		if w := s.shutdown.waiter; w != nil && !w.closed {
			w.cl.Buf = append(w.cl.Buf, "-ERR Errors trying to SHUTDOWN. Check logs.\r\n"...)
			w.wake()
		}
	}
}

// abortShutdown is SHUTDOWN ABORT. The engine's lock is held.
func (s *Server) abortShutdown() bool {
	if !s.shutdown.pending {
		return false
	}
	if w := s.shutdown.waiter; w != nil && !w.closed {
		w.cl.Buf = append(w.cl.Buf, "-ERR Errors trying to SHUTDOWN. Check logs.\r\n"...)
		w.wake()
	}
	s.shutdown = shutdownState{}
	s.unpause()
	s.log.Notice("Shutdown manually aborted.")
	return true
}

// finishShutdown saves what is to be saved and ends the server.
func (s *Server) finishShutdown(flags shutdownFlags) bool {
	s.log.Warning("User requested shutdown...")
	save := flags&config.ShutdownSave != 0 || (len(s.cfg.SavePoints) > 0 && flags&config.ShutdownNoSave == 0)
	if s.e.State.Loading {
		save = false
	}
	force := flags&config.ShutdownForce != 0
	if st := s.persist.stream; st != nil {
		if err := st.Flush(); err == nil {
			err = st.Sync(st.End())
			if err != nil && !force {
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
	if s.cfg.PidFile != "" {
		s.log.Notice("Removing the pid file.")
		_ = os.Remove(s.cfg.PidFile) // somebody else may have
	}
	s.exit(0)
	return true
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
	k, _ := c.Client.Conn.(*conn)
	if !s.beginShutdown(flags, k) {
		c.Err("ERR Errors trying to SHUTDOWN. Check logs.")
	}
}
