package cluster

import (
	"math/rand/v2"
	"testing"
	"time"
)

var testStart = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newTestCore(t *testing.T, h Host, state []byte) *Core {
	t.Helper()
	cfg := DefaultConfig(6379)
	c, err := New(testStart, cfg, Options{Rand: rand.New(rand.NewPCG(1, 2)), Host: h, State: state})
	if err != nil {
		t.Fatal(err)
	}
	c.Start(testStart)
	return c
}

func reply(t *testing.T, c *Core, args ...string) Value {
	t.Helper()
	var out []Value
	for _, e := range c.Step(testStart, Command{Args: args}) {
		if r, ok := e.(Reply); ok {
			out = append(out, r.Value)
		}
	}
	if len(out) != 1 {
		t.Fatalf("CLUSTER %v: %d replies", args, len(out))
	}
	return out[0]
}
