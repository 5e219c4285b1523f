package peers

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"
)

// directions are the two ways round.
var directions = []kind{genuine, ours}

// A replica gets the master's data and then its stream, whichever program
// either is and however the snapshot travels and is taken in.
func TestFullResync(t *testing.T) {
	needGenuine(t, "redis-server")
	variants := []struct {
		sync, load string
		ours       []string // further arguments of our side
	}{
		{"no", "disabled", nil},
		{"yes", "disabled", []string{"--appendonly", "no"}},
		{"yes", "swapdb", nil},
		{"no", "swapdb", []string{"--appendonly", "no"}},
		{"yes", "on-empty-db", []string{"--appendfsync", "always", "--io-loops", "3"}},
		{"no", "on-empty-db", []string{"--rdbcompression", "no"}},
	}
	for _, master := range directions {
		for i, v := range variants {
			t.Run(fmt.Sprintf("%s master/diskless-sync %s, diskless-load %s", master, v.sync, v.load), func(t *testing.T) {
				t.Parallel()
				margs, rargs := []string{"--repl-diskless-sync", v.sync}, []string{"--repl-diskless-load", v.load}
				switch {
				case control:
				case master == ours:
					margs = append(margs, v.ours...)
				default:
					rargs = append(rargs, v.ours...)
				}
				fullResync(t, server(t, master, margs...), server(t, master.other(), rargs...), uint64(i), v.load != "on-empty-db")
			})
		}
	}
}

func fullResync(t *testing.T, m, r *node, stream uint64, dirty bool) {
	n := commands(12_000)
	w := newLoad(t, m, stream)
	w.write(t, n/2)
	if dirty {
		newLoad(t, r, stream+1000).write(t, 500) // has to vanish
	}
	w.noFlush = true
	done := w.begin(n / 2)
	r.replicate(m.spec.Port)
	linked(t, m, r)
	ended(t, done)
	same(t, m, r)
	if got := m.number("sync_full"); got != 1 {
		t.Errorf("sync_full is %d, want 1", got)
	}
	// And the other way round: the roles change, what was master follows.
	handOver(t, m, r)
	newLoad(t, r, stream+2000).write(t, n/20)
	linked(t, r, m)
	same(t, r, m)
	if got := r.number("sync_full"); got != 0 {
		t.Errorf("the old master needed %d full copies", got)
	}
}

// handOver promotes next, which has all that old has, and makes old its
// replica. Meanwhile nothing expires on old: that would be a write of its own.
func handOver(t *testing.T, old, next *node) {
	t.Helper()
	old.do("CLIENT", "PAUSE", "600000", "WRITE")
	eventually(t, "equal offsets", func() string {
		if got, want := next.number("slave_repl_offset"), old.number("master_repl_offset"); got != want {
			return fmt.Sprintf("%s is at %d, the master at %d", next, got, want)
		}
		return ""
	})
	next.do("REPLICAOF", "NO", "ONE")
	old.replicate(next.spec.Port)
	old.do("CLIENT", "UNPAUSE")
}

// breaks are the ways in which a link is broken. Each returns when the link is
// broken, while the load goes on.
var breaks = []struct {
	name string
	do   func(t *testing.T, x *proxy, m, r *node, g *rand.Rand)
}{
	{"cut", func(t *testing.T, x *proxy, m, _ *node, g *rand.Rand) {
		const most = 60_000
		fired := x.cutAfter(g.Int64N(most))
		for end := time.Now().Add(patience); ; grow(m, most) { // should the load be at its end already
			select {
			case <-fired:
				return
			case <-time.After(time.Second):
			}
			if time.Now().After(end) {
				t.Fatal("the bytes until the cut never came")
			}
		}
	}},
	{"CLIENT KILL TYPE replica", func(_ *testing.T, _ *proxy, m, _ *node, _ *rand.Rand) {
		m.do("CLIENT", "KILL", "TYPE", "replica")
	}},
	{"CLIENT KILL TYPE master", func(_ *testing.T, _ *proxy, _, r *node, _ *rand.Rand) {
		r.do("CLIENT", "KILL", "TYPE", "master")
	}},
	{"replica stopped, its link killed", func(_ *testing.T, _ *proxy, m, r *node, _ *rand.Rand) {
		r.p.Signal(syscall.SIGSTOP)
		defer r.p.Signal(syscall.SIGCONT)
		grow(m, 100_000)
		m.do("CLIENT", "KILL", "TYPE", "replica")
		grow(m, 100_000)
	}},
	{"master stopped, its link killed", func(_ *testing.T, _ *proxy, m, r *node, _ *rand.Rand) {
		m.p.Signal(syscall.SIGSTOP)
		defer m.p.Signal(syscall.SIGCONT)
		r.do("CLIENT", "KILL", "TYPE", "master")
		r.do("PING")
	}},
}

// grow writes bytes into the master's stream.
func grow(m *node, bytes int) {
	m.do("SET", "grown", strings.Repeat("g", bytes))
}

// A link that breaks anywhere goes on where it broke, without another full
// copy, under a load of 100,000 commands.
func TestPartialResync(t *testing.T) {
	needGenuine(t, "redis-server")
	for _, master := range directions {
		t.Run(fmt.Sprintf("%s master", master), func(t *testing.T) {
			t.Parallel()
			m, r := server(t, master), server(t, master.other())
			x := newProxy(t, m)
			g := rand.New(rand.NewPCG(seed, 77))
			w := newLoad(t, m, 50)
			w.write(t, 10_000)
			r.replicate(x.port)
			linked(t, m, r)
			rounds := 2
			if soak() {
				rounds = 40
			}
			n := 0
			for i := range rounds * len(breaks) {
				b := breaks[i%len(breaks)]
				before := m.number("sync_partial_ok")
				done := w.begin(8_000)
				b.do(t, x, m, r, g)
				n++
				eventually(t, "a partial resynchronisation after: "+b.name, func() string {
					if got := m.number("sync_partial_ok"); got <= before {
						return fmt.Sprintf("sync_partial_ok is still %d, sync_full %d", got, m.number("sync_full"))
					}
					return ""
				})
				ended(t, done)
				linked(t, m, r)
			}
			if left := 100_000 - w.sent; left > 0 {
				w.write(t, left)
			}
			same(t, m, r)
			if got := m.number("sync_full"); got != 1 {
				t.Errorf("sync_full is %d, want 1", got)
			}
			t.Logf("%d commands, %d breaks, sync_partial_ok %d, sync_partial_err %d", w.sent, n, m.number("sync_partial_ok"), m.number("sync_partial_err"))
		})
	}
}

// A process that is stopped for a while and continued misses nothing, and its
// link does not break.
func TestPause(t *testing.T) {
	needGenuine(t, "redis-server")
	for _, master := range directions {
		t.Run(fmt.Sprintf("%s master", master), func(t *testing.T) {
			t.Parallel()
			m, r := server(t, master), server(t, master.other())
			w := newLoad(t, m, 60)
			r.replicate(m.spec.Port)
			linked(t, m, r)
			r.p.Signal(syscall.SIGSTOP)
			w.write(t, commands(5_000)) // what the sockets do not take has to wait at the master
			r.p.Signal(syscall.SIGCONT)
			done := w.begin(commands(5_000))
			for range 5 {
				m.p.Signal(syscall.SIGSTOP)
				r.do("PING")
				m.p.Signal(syscall.SIGCONT)
				m.do("PING")
			}
			ended(t, done)
			same(t, m, r)
			if i := m.info(); i["sync_full"] != "1" || i["sync_partial_ok"] != "0" {
				t.Errorf("sync_full %s, sync_partial_ok %s: the link broke", i["sync_full"], i["sync_partial_ok"])
			}
		})
	}
}

// A snapshot whose transfer is cut is begun again, and the data is right.
func TestFullResyncIsCut(t *testing.T) {
	needGenuine(t, "redis-server")
	for _, master := range directions {
		for _, how := range []struct{ sync, load string }{{"no", "disabled"}, {"yes", "swapdb"}} {
			t.Run(fmt.Sprintf("%s master/diskless-sync %s", master, how.sync), func(t *testing.T) {
				t.Parallel()
				m := server(t, master, "--repl-diskless-sync", how.sync)
				r := server(t, master.other(), "--repl-diskless-load", how.load)
				g := rand.New(rand.NewPCG(seed, 78))
				w := newLoad(t, m, 70)
				w.write(t, commands(10_000))
				newLoad(t, r, 71).write(t, 300)
				m.do("SET", "large", strings.Repeat("0123456789abcdef", 200_000))
				m.do("CONFIG", "SET", "rdbcompression", "no")
				x := newProxy(t, m)
				fired := x.cutAfter(200+g.Int64N(2<<20), 200+g.Int64N(2<<20))
				w.noFlush = true
				done := w.begin(commands(1_000))
				r.replicate(x.port)
				select {
				case <-fired:
				case <-time.After(patience):
					t.Fatal("the transfer was not cut")
				}
				ended(t, done)
				linked(t, m, r)
				same(t, m, r)
			})
		}
	}
}

// A replica of a replica has the stream of the first master, whoever stands
// where, and goes on when a link in the chain breaks.
func TestChain(t *testing.T) {
	needGenuine(t, "redis-server")
	for _, master := range directions {
		t.Run(fmt.Sprintf("%s-%s-%s", master, master.other(), master), func(t *testing.T) {
			t.Parallel()
			a, b, c := server(t, master), server(t, master.other()), server(t, master)
			n := commands(20_000)
			w := newLoad(t, a, 80)
			w.write(t, n/4)
			c.replicate(b.spec.Port) // before b has a master: it has to follow into b's new history
			linked(t, b, c)
			b.replicate(a.spec.Port)
			done := w.begin(n / 2)
			linked(t, a, b)
			linked(t, b, c)
			ended(t, done)
			same(t, a, b)
			same(t, b, c)

			fulls := [2]int64{a.number("sync_full"), b.number("sync_full")}
			done = w.begin(n / 4)
			a.do("CLIENT", "KILL", "TYPE", "replica")
			linked(t, a, b)
			b.do("CLIENT", "KILL", "TYPE", "replica")
			linked(t, b, c)
			ended(t, done)
			same(t, a, b)
			same(t, b, c)
			if got := [2]int64{a.number("sync_full"), b.number("sync_full")}; got != fulls {
				t.Errorf("full copies after broken links: %v, were %v", got, fulls)
			}

			// The middle takes over.
			handOver(t, a, b)
			newLoad(t, b, 81).write(t, n/10)
			linked(t, b, c)
			linked(t, b, a)
			same(t, b, a, c)
			if got := b.number("sync_full"); got != fulls[1] {
				t.Errorf("full copies after the promotion: %d, were %d", got, fulls[1])
			}
		})
	}
}

// Our replica is killed and restarted: it continues from its own journal.
func TestReplicaRestartContinues(t *testing.T) {
	needGenuine(t, "redis-server")
	for _, master := range directions {
		t.Run(fmt.Sprintf("%s master", master), func(t *testing.T) {
			t.Parallel()
			m, r := server(t, master), server(t, ours)
			w := newLoad(t, m, 90)
			r.replicate(m.spec.Port)
			linked(t, m, r)
			n := commands(10_000)
			for i := range 3 {
				done := w.begin(n / 2)
				eventually(t, "the replica is under load", func() string {
					if r.number("slave_repl_offset") < int64(i+1)*10_000 {
						return "little has arrived"
					}
					return ""
				})
				if i == 2 { // orderly, for a change
					if err := r.p.Terminate(patience); err != nil {
						t.Fatal(err)
					}
				} else {
					r.p.Kill()
				}
				ended(t, done)
				w.write(t, n/4)
				r.start("--replicaof", "127.0.0.1 "+m.portText())
				linked(t, m, r)
				same(t, m, r)
				if got := m.number("sync_full"); got != 1 {
					t.Fatalf("sync_full is %d after restart %d, want 1", got, i+1)
				}
			}
			if got := m.number("sync_partial_ok"); got < 3 {
				t.Errorf("sync_partial_ok is %d, want 3", got)
			}
			if !r.logged("Successful partial resynchronization with master.") && !r.logged("MASTER <-> REPLICA sync: Master accepted a Partial Resynchronization.") {
				t.Error("the replica does not say that it continued")
			}
		})
	}
}

// Our master is killed and restarted: replicas of both programs continue with
// its new id, because the old one stays valid.
func TestMasterRestartIsContinued(t *testing.T) {
	needGenuine(t, "redis-server")
	for _, orderly := range []bool{false, true} {
		t.Run(fmt.Sprintf("orderly %v", orderly), func(t *testing.T) {
			t.Parallel()
			m, g, o := server(t, ours), server(t, genuine), server(t, ours)
			w := newLoad(t, m, 100)
			w.write(t, commands(5_000))
			g.replicate(m.spec.Port)
			o.replicate(m.spec.Port)
			linked(t, m, g, o)
			stop := make(chan struct{})
			done := w.until(stop)
			eventually(t, "the master is under load", func() string {
				if g.number("slave_repl_offset") < 200_000 {
					return "little has arrived"
				}
				return ""
			})
			old := m.info()["master_replid"]
			if orderly {
				close(stop)
				ended(t, done)
				same(t, m, g, o)
				if err := m.p.Terminate(patience); err != nil {
					t.Fatal(err)
				}
			} else {
				m.p.Kill()
				if err := <-done; err == nil {
					t.Fatal("the load did not notice that the master died")
				}
			}
			m.start()
			i := m.info()
			if i["master_replid"] == old || i["master_replid2"] != old {
				t.Errorf("ids %s and %s after the restart, was %s", i["master_replid"], i["master_replid2"], old)
			}
			newLoad(t, m, 101).write(t, commands(5_000))
			linked(t, m, g, o)
			same(t, m, g, o)
			if i = m.info(); i["sync_full"] != "0" || i["sync_partial_ok"] != "2" {
				t.Errorf("sync_full %s, sync_partial_ok %s, want 0 and 2", i["sync_full"], i["sync_partial_ok"])
			}
		})
	}
}

// A genuine master that was shut down with a dump is continued by our replica.
func TestGenuineMasterRestartIsContinued(t *testing.T) {
	needGenuine(t, "redis-server")
	t.Parallel()
	m, r := server(t, genuine), server(t, ours)
	w := newLoad(t, m, 110)
	w.durable = true // what expires at the start is not in the stream
	r.replicate(m.spec.Port)
	w.write(t, commands(5_000))
	linked(t, m, r)
	same(t, m, r)
	m.c.Send("SHUTDOWN", "SAVE")
	if err := m.c.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := m.p.WaitExit(patience); err != nil {
		t.Fatal(err)
	}
	m.start()
	linked(t, m, r)
	newLoad(t, m, 111).write(t, 1000)
	same(t, m, r)
	if i := m.info(); i["sync_full"] != "0" || i["sync_partial_ok"] != "1" {
		t.Errorf("sync_full %s, sync_partial_ok %s, want 0 and 1", i["sync_full"], i["sync_partial_ok"])
	}
}

// Failover by hand: one replica is promoted, the other and the old master are
// pointed at it, and nobody needs a full copy.
func TestPromotionByHand(t *testing.T) {
	needGenuine(t, "redis-server")
	for _, kinds := range [][3]kind{{genuine, ours, genuine}, {ours, genuine, ours}, {ours, ours, genuine}, {genuine, genuine, ours}} {
		t.Run(fmt.Sprintf("%s, promoted %s, other %s", kinds[0], kinds[1], kinds[2]), func(t *testing.T) {
			t.Parallel()
			a, b, c := server(t, kinds[0]), server(t, kinds[1]), server(t, kinds[2])
			n := commands(10_000)
			w := newLoad(t, a, 120)
			w.write(t, n/2)
			b.replicate(a.spec.Port)
			c.replicate(a.spec.Port)
			linked(t, a, b, c)
			w.write(t, n/2)
			same(t, a, b, c)
			id := a.info()["master_replid"]
			handOver(t, a, b)
			if got := b.info(); got["master_replid2"] != id || got["master_replid"] == id {
				t.Errorf("ids %s and %s of the promoted replica, the old id is %s", got["master_replid"], got["master_replid2"], id)
			}
			done := newLoad(t, b, 121).begin(n / 2)
			c.replicate(b.spec.Port)
			linked(t, b, a, c)
			ended(t, done)
			same(t, b, a, c)
			if i := b.info(); i["sync_full"] != "0" {
				t.Errorf("sync_full %s, sync_partial_ok %s, want 0 and 2", i["sync_full"], i["sync_partial_ok"])
			}
		})
	}
}
