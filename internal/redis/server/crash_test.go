package server_test

import (
	"syscall"
	"testing"
)

// Whatever ends the process is named in its log, with what it was doing.
func TestCrashIsReported(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, word string
		crash      func(n *node)
	}{
		{"segfault", "Redis 7.0.15 crashed by signal: 11", func(n *node) { n.c.Send("DEBUG", "SEGFAULT") }},
		{"assert", "=== ASSERTION FAILED ===", func(n *node) { n.c.Send("DEBUG", "ASSERT") }},
		{"panic", "Guru Meditation: called by Unittest or DEBUG PANIC", func(n *node) { n.c.Send("DEBUG", "PANIC") }},
		{"abort", "Redis 7.0.15 crashed by signal: 6", func(n *node) {
			n.c.Send("DEBUG", "SLEEP", "5")
			if err := n.c.Flush(); err != nil {
				n.t.Fatal(err)
			}
			n.p.Signal(syscall.SIGABRT)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := ours(t)
			c.crash(n)
			_ = n.c.Flush() // the other side may be gone
			eventually(t, "the report", func() bool { return n.logged(c.word) && n.logged("REDIS BUG REPORT END") })
			if c.name != "abort" && !n.logged("debugCommand") {
				t.Error("the report does not say that it was DEBUG")
			}
		})
	}
}
