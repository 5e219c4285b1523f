package server

import (
	"runtime"
	"time"

	"holdfast/internal/redis/config"
)

// The watchdog of watchdog-period: when the timer has not come to run for that
// long, because something holds the engine's lock, the log says what all
// goroutines do.

// applyWatchdog raises a period that the timer's own is too long for, as Redis
// does. The engine's lock is held.
func (s *Server) applyWatchdog() {
	if p := s.cfg.WatchdogPeriod; p > 0 {
		s.cfg.WatchdogPeriod = max(p, 2*(1000/max(1, s.cfg.HZ)))
	}
	s.feedWatchdog()
}

// feedWatchdog puts the watchdog off by its period. The engine's lock is held.
func (s *Server) feedWatchdog() {
	t := s.cron.watchdog
	if s.cfg.WatchdogPeriod <= 0 {
		if t != nil {
			t.Stop()
		}
		return
	}
	period := time.Duration(s.cfg.WatchdogPeriod) * time.Millisecond
	if t == nil {
		s.cron.watchdog = time.AfterFunc(period, s.watchdogExpired)
		return
	}
	t.Reset(period)
}

// watchdogExpired runs without the engine's lock, which somebody holds.
func (s *Server) watchdogExpired() {
	select {
	case <-s.done:
		return
	default:
	}
	b := make([]byte, stackMost)
	b = b[:runtime.Stack(b, true)]
	s.log.FromSignal("\n--- WATCHDOG TIMER EXPIRED ---")
	s.log.Raw(config.LogWarning, "\n------ STACK TRACE ------\n"+string(b))
	s.log.FromSignal("--------\n")
}
