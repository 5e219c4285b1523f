package sentinel

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func testCore(t *testing.T, directives ...string) (*Core, time.Time) {
	t.Helper()
	cfg := NewConfig()
	for _, d := range directives {
		if err := cfg.Apply(strings.Fields(d), nil); err != nil {
			t.Fatalf("%s: %v", d, err)
		}
	}
	now := time.Unix(1e9, 0)
	c, err := New(now, cfg, Options{Rand: rand.New(rand.NewPCG(1, 1)), Port: 26379})
	if err != nil {
		t.Fatal(err)
	}
	c.Start(now)
	return c, now
}

// The texts are those that Redis 7.0.15 prints for the same lines.
func TestDirectiveErrorsAreThoseOfRedis(t *testing.T) {
	for line, want := range map[string]error{
		"monitor a 127.0.0.1 1 0":                  ErrQuorum,
		"monitor a nohost.invalid 1 1":             ErrCannotResolve,
		"monitor a 127.0.0.1 70000 1":              ErrPort,
		"monitor a 127.0.0.1 1":                    ErrUnknownDirective,
		"foo":                                      ErrUnknownDirective,
		"down-after-milliseconds x 1":              ErrNoSuchMaster,
		"announce-ip":                              ErrUnknownDirective,
		"myid abc":                                 ErrMyID,
		"resolve-hostnames maybe":                  ErrResolveHostnames,
		"monitor m 127.0.0.1 6379 1":               ErrDuplicateMaster,
		"down-after-milliseconds m 0":              ErrTime,
		"master-reboot-down-after-period m -1":     ErrNegativeTime,
		"known-replica m 127.0.0.1 6380":           ErrDuplicateReplica,
		"rename-command m config x":                ErrDuplicateRename,
		"notification-script m /nowhere/at/all.sh": ErrNotificationScript,
	} {
		cfg := NewConfig()
		for _, l := range []string{"monitor m 127.0.0.1 6379 1", "known-replica m 127.0.0.1 6380", "rename-command m CONFIG y"} {
			if err := cfg.Apply(strings.Fields(l), nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := cfg.Apply(strings.Fields(line), func(string) bool { return false }); err != want {
			t.Errorf("%q: %v, want %v", line, err, want)
		}
	}
}

// DESIGN 3: a Persist effect stands before every Send and Reply that rests on it.
func TestVoteIsPersistedBeforeTheReply(t *testing.T) {
	c, now := testCore(t, "monitor m 10.0.0.1 6379 2")
	out := c.Step(now, Command{Client: 7, Args: []string{"SENTINEL", "is-master-down-by-addr", "10.0.0.1", "6379", "5", strings.Repeat("b", 40)}})
	persisted := false
	for _, e := range out {
		switch e := e.(type) {
		case Persist:
			persisted = e.Config.CurrentEpoch == 5 && e.Config.Masters[0].LeaderEpoch == 5
		case Reply:
			if !persisted {
				t.Fatal("the reply with the vote stands before its Persist")
			}
			if got := e.Value.Elems[1].Str; got != strings.Repeat("b", 40) {
				t.Fatalf("voted for %q", got)
			}
			return
		}
	}
	t.Fatal("no reply")
}

// A vote stands over a restart from what was persisted.
func TestVoteIsNotGivenAgainAfterRestart(t *testing.T) {
	c, now := testCore(t, "myid "+strings.Repeat("a", 40), "monitor m 10.0.0.1 6379 2")
	vote := func(c *Core, who string) Value {
		for _, e := range c.Step(now, Command{Client: 1, Args: []string{"SENTINEL", "is-master-down-by-addr", "10.0.0.1", "6379", "5", who}}) {
			if r, ok := e.(Reply); ok {
				return r.Value
			}
		}
		t.Fatal("no reply")
		return Value{}
	}
	vote(c, "candidate-one")
	again, err := New(now, c.Snapshot(), Options{Rand: rand.New(rand.NewPCG(2, 2))})
	if err != nil {
		t.Fatal(err)
	}
	if v := vote(again, "candidate-two"); v.Elems[1].Str == "candidate-two" {
		t.Fatal("voted twice in epoch 5")
	}
}

// Redis: replicas are compared by priority, then offset, then run id.
func TestReplicaSelectionOrder(t *testing.T) {
	c, now := testCore(t, "monitor m 10.0.0.1 6379 1")
	m := c.byName["m"]
	add := func(host string, prio int, offset uint64, runID string, change func(*instance)) {
		ri, err := c.addReplica(m, host, 6379)
		if err != nil {
			t.Fatal(err)
		}
		ri.priority, ri.replOffset, ri.runID, ri.infoRefresh = prio, offset, runID, now
		ri.link.cmd, ri.link.pub = &conn{up: true, link: ri.link}, &conn{up: true, link: ri.link, pubsub: true}
		if change != nil {
			change(ri)
		}
	}
	want := func(host string) {
		t.Helper()
		r := c.selectReplica(m)
		switch {
		case r == nil && host != "":
			t.Fatalf("none selected, want %s", host)
		case r != nil && r.addr.Host != host:
			t.Fatalf("selected %s, want %q", r.addr.Host, host)
		}
	}
	want("")
	add("10.0.0.2", 0, 900, "a", nil)
	add("10.0.0.3", 100, 900, "a", func(r *instance) { r.flags |= sDown })
	add("10.0.0.4", 100, 900, "a", func(r *instance) { r.masterLinkDown = time.Hour })
	add("10.0.0.5", 100, 900, "a", func(r *instance) { r.infoRefresh = now.Add(-time.Minute) })
	add("10.0.0.6", 100, 900, "a", func(r *instance) { r.link.lastAvail = now.Add(-time.Minute) })
	add("10.0.0.7", 100, 900, "a", func(r *instance) { r.link.cmd = nil })
	want("")
	add("10.0.1.1", 100, 100, "", nil)
	want("10.0.1.1")
	add("10.0.1.2", 100, 100, "c", nil)
	want("10.0.1.2")
	add("10.0.1.3", 100, 100, "B", nil)
	want("10.0.1.3")
	add("10.0.1.4", 100, 200, "z", nil)
	want("10.0.1.4")
	add("10.0.1.5", 50, 1, "z", nil)
	want("10.0.1.5")
}

// A link is shared by all masters that a peer watches with us.
func TestPeerOfTwoMastersHasOneLink(t *testing.T) {
	id := strings.Repeat("b", 40)
	c, now := testCore(t, "monitor m 10.0.0.1 6379 1", "monitor n 10.0.0.2 6379 1",
		"known-sentinel m 10.0.0.8 26379 "+id, "known-sentinel n 10.0.0.8 26379 "+id)
	a, b := c.byName["m"].sentinels[0], c.byName["n"].sentinels[0]
	if a.link != b.link || len(a.link.users) != 2 {
		t.Fatalf("links %p and %p, %d users", a.link, b.link, len(a.link.users))
	}
	c.Step(now, Command{Client: 1, Args: []string{"SENTINEL", "REMOVE", "m"}})
	if len(b.link.users) != 1 || c.links[id] != b.link {
		t.Fatal("the link did not outlive the removed master")
	}
	c.Step(now, Command{Client: 1, Args: []string{"SENTINEL", "REMOVE", "n"}})
	if len(c.links) != 0 || len(c.conns) != 0 {
		t.Fatalf("%d links and %d connections are left", len(c.links), len(c.conns))
	}
}

// Scripts: exit code 1 and signals are retried with growing delay, ten times;
// other failures are final.
func TestScriptRetry(t *testing.T) {
	c, now := testCore(t, "monitor m 10.0.0.1 6379 1")
	c.schedule("/bin/x", "a")
	runs := 0
	var last time.Time
	for i := 0; i < 2000 && len(c.scripts.jobs) > 0; i++ {
		for _, e := range c.Step(now, Timer{}) {
			if r, ok := e.(RunScript); ok {
				runs++
				last = now
				c.Step(now, ScriptStarted{ID: r.ID, PID: 1})
				c.Step(now, ScriptFinished{ID: r.ID, PID: 1, ExitCode: 1})
			}
		}
		now = now.Add(30 * time.Second)
		c.nextWake = now // the leap is this test's, not a pause
	}
	if runs != scriptMaxRetry || last.Sub(time.Unix(1e9, 0)) < 30*time.Second*(1<<8) {
		t.Fatalf("%d runs, the last after %v", runs, last.Sub(time.Unix(1e9, 0)))
	}
}
