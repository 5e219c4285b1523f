package server

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

// A process that is ended by a fault says so in its log before, in the lines by
// which tools that watch Redis recognise it.

// stackMost bounds, in bytes, what a report says about goroutines.
const stackMost = 256 << 10

// reportCrash logs why the process ends and what its goroutines do. The engine's
// lock may be held.
func (s *Server) reportCrash(why ...string) {
	s.log.Warning("\n\n=== REDIS BUG REPORT START: Cut & paste starting from here ===")
	for _, line := range why {
		s.log.Warning("%s", line)
	}
	b := make([]byte, stackMost)
	s.log.Warning("\n------ STACK TRACE ------\n%s", b[:runtime.Stack(b, true)])
	s.log.Warning("\n=== REDIS BUG REPORT END. ===")
}

// dieBy ends the process by a signal, after a report. It does not return.
func (s *Server) dieBy(sig syscall.Signal) {
	s.reportCrash(fmt.Sprintf("Redis %s crashed by signal: %d, si_code: 0", Version, int(sig)))
	signal.Reset(sig)
	_ = syscall.Kill(os.Getpid(), sig)
	select {} // until the signal comes
}

// failAssertion and softwareFailure are a panic whose text is in the log, too.
func (s *Server) failAssertion(what, hint string) {
	s.reportCrash("=== ASSERTION FAILED ===", fmt.Sprintf("==> '%s' is not true", what))
	panic(hint)
}

func (s *Server) softwareFailure(what string) {
	s.reportCrash("------------------------------------------------",
		"!!! Software Failure. Press left mouse button to continue",
		"Guru Meditation: "+what,
		"------------------------------------------------")
	panic(what)
}
