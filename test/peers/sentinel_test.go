package peers

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"holdfast/test/proc"
)

// deployment is a master with replicas, and Sentinels over them.
type deployment struct {
	t         *testing.T
	servers   []*node
	sentinels []*node
}

const masterName = "mymaster"

// sentinel starts a Sentinel that watches the master on port.
func sentinel(t *testing.T, k kind, master int) *node {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "sentinel.conf")
	text := fmt.Sprintf("sentinel monitor %[1]s 127.0.0.1 %[2]d 2\nsentinel down-after-milliseconds %[1]s %[3]s\n"+
		"sentinel failover-timeout %[1]s 8000\nsentinel parallel-syncs %[1]s 2\n", masterName, master, notDown)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	n := launch(t, k, proc.Spec{Argv: append(k.argv("redis-sentinel"), conf), Dir: dir})
	n.do("SENTINEL", "DEBUG", "INFO-PERIOD", "1000", "PUBLISH-PERIOD", "300", "TILT-PERIOD", "3000")
	return n
}

// What a server may be silent for, in ms, until it counts as down.
const (
	notDown = "30000" // where nobody is to fail: a busy machine takes its time
	// Below a second and a half a genuine Sentinel, which connects once a second,
	// takes the CLIENT KILL of a failover for the death of the new master.
	soonDown = "3000"
)

func (d *deployment) downAfter(ms string) {
	d.t.Helper()
	for _, s := range d.sentinels {
		s.do("SENTINEL", "SET", masterName, "down-after-milliseconds", ms)
	}
}

// deploy starts everything; the first of servers is the master.
func deploy(t *testing.T, servers, sentinels []kind) *deployment {
	t.Helper()
	d := &deployment{t: t}
	for i, k := range servers {
		n := server(t, k)
		d.servers = append(d.servers, n)
		if i > 0 {
			n.replicate(d.servers[0].spec.Port)
		}
	}
	master := d.servers[0]
	linked(t, master, d.servers[1:]...)
	for _, k := range sentinels {
		d.sentinels = append(d.sentinels, sentinel(t, k, master.spec.Port))
	}
	d.complete()
	return d
}

// complete waits until every Sentinel knows every replica and every other Sentinel.
func (d *deployment) complete() {
	d.t.Helper()
	for _, s := range d.sentinels {
		eventually(d.t, s.String()+" knows all", func() string {
			f := fields(s.do("SENTINEL", "MASTER", masterName))
			if f["num-slaves"] != strconv.Itoa(len(d.servers)-1) || f["num-other-sentinels"] != strconv.Itoa(len(d.sentinels)-1) || f["flags"] != "master" {
				return fmt.Sprint(f)
			}
			for _, r := range s.do("SENTINEL", "REPLICAS", masterName).List {
				if f := fields(r); f["flags"] != "slave" || f["master-link-status"] != "ok" {
					return fmt.Sprint(f)
				}
			}
			return ""
		})
	}
}

func fields(v proc.Value) map[string]string {
	m := map[string]string{}
	for i := 0; i+1 < len(v.List); i += 2 {
		m[v.List[i].Text()] = v.List[i+1].Text()
	}
	return m
}

// master waits until all Sentinels name one and the same master, other than not,
// and it is one.
func (d *deployment) master(not *node) *node {
	d.t.Helper()
	var found *node
	eventually(d.t, "the Sentinels agree on a new master", func() string {
		seen := map[string]bool{}
		for _, s := range d.sentinels {
			v := s.do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", masterName)
			if len(v.List) == 2 {
				seen[v.List[1].Text()] = true
			}
		}
		if len(seen) != 1 || not != nil && seen[not.portText()] {
			return fmt.Sprint("they say ", seen)
		}
		for _, n := range d.servers {
			if seen[n.portText()] {
				if role := n.info()["role"]; role != "master" {
					return fmt.Sprintf("%s is a %s", n, role)
				}
				found = n
				return ""
			}
		}
		return fmt.Sprint("nobody knows ", seen)
	})
	return found
}

// probe is a client that writes through Sentinel all the time, and is not
// restarted.
type probe struct {
	client *redis.Client
	acked  atomic.Int64 // how many keys were acknowledged
	failed atomic.Int64
	stop   context.CancelFunc
	done   chan struct{}
	log    []int64 // numbers of acknowledged keys; read after done
}

func startProbe(d *deployment) *probe {
	var addrs []string
	for _, s := range d.sentinels {
		addrs = append(addrs, "127.0.0.1:"+s.portText())
	}
	ctx, stop := context.WithCancel(context.Background())
	p := &probe{stop: stop, done: make(chan struct{}), client: redis.NewFailoverClient(&redis.FailoverOptions{
		MasterName: masterName, SentinelAddrs: addrs, DialTimeout: time.Second, ReadTimeout: time.Second, WriteTimeout: time.Second, MaxRetries: -1,
	})}
	go p.run(ctx)
	d.t.Cleanup(p.end)
	return p
}

func (p *probe) run(ctx context.Context) {
	defer close(p.done)
	pace := time.NewTicker(time.Millisecond) // the machine has other things to do
	defer pace.Stop()
	for i := int64(0); ctx.Err() == nil; i++ {
		<-pace.C
		err := p.client.Set(ctx, "probe:"+strconv.FormatInt(i, 10), i, 0).Err()
		if err != nil {
			p.failed.Add(1)
			continue
		}
		p.log = append(p.log, i)
		p.acked.Store(int64(len(p.log)))
	}
}

func (p *probe) end() {
	p.stop()
	<-p.done
	_ = p.client.Close() // a second close is an error of no meaning
}

// writes waits until the probe has written n more keys.
func (p *probe) writes(t *testing.T, n int64) {
	t.Helper()
	want := p.acked.Load() + n
	eventually(t, "the client writes", func() string {
		if got := p.acked.Load(); got < want {
			return fmt.Sprintf("%d of %d acknowledged, %d failed", got, want, p.failed.Load())
		}
		return ""
	})
}

// failover kills the master under load, waits for the next one, brings the old
// one back and looks for the data.
func (d *deployment) failover() {
	t := d.t
	t.Helper()
	old := d.master(nil)
	newLoad(t, old, 200).write(t, commands(2_000))
	p := startProbe(d)
	p.writes(t, 200)
	safe := p.acked.Load()
	old.do("SET", "barrier", "x")
	if v := old.do("WAIT", "2", "20000"); v.Int != 2 {
		t.Fatalf("WAIT 2: %d", v.Int)
	}
	d.downAfter(soonDown)
	old.p.Kill()
	next := d.master(old)
	d.downAfter(notDown)
	p.writes(t, 200)
	old.start()
	d.complete()
	linked(t, next, d.others(next)...)
	p.writes(t, 200)
	if got := d.master(nil); got != next {
		t.Errorf("the master moved on from %s to %s", next, got)
	}
	p.end()
	lost := 0
	for i, k := range p.log {
		if next.do("GET", "probe:"+strconv.FormatInt(k, 10)).Null {
			if lost++; int64(i) < safe {
				t.Errorf("probe:%d is lost: it was on all replicas", k)
			}
		}
	}
	t.Logf("master %s, then %s: %d acknowledged, %d refused meanwhile, %d of what was not yet replicated lost", old, next, len(p.log), p.failed.Load(), lost)
	d.quiet()
	same(t, next, d.others(next)...)
	if got := old.info()["role"]; got != "slave" {
		t.Errorf("the old master is a %s", got)
	}
}

// quiet ends the Sentinels: what they publish is part of the stream.
func (d *deployment) quiet() {
	for _, s := range d.sentinels {
		s.p.Kill()
	}
}

func (d *deployment) others(not *node) []*node {
	var out []*node
	for _, n := range d.servers {
		if n != not {
			out = append(out, n)
		}
	}
	return out
}

// Sentinels of either program, alone and in mixed quorums, fail over servers of
// either program.
func TestFailover(t *testing.T) {
	needGenuine(t, "redis-server", "redis-sentinel")
	for _, tc := range []struct {
		name               string
		servers, sentinels []kind
	}{
		{"genuine over ours", []kind{ours, ours, ours}, []kind{genuine, genuine, genuine}},
		{"ours over genuine", []kind{genuine, genuine, genuine}, []kind{ours, ours, ours}},
		{"two genuine and one of ours over mixed", []kind{ours, genuine, ours}, []kind{genuine, genuine, ours}},
		{"one genuine and two of ours over mixed", []kind{genuine, ours, ours}, []kind{genuine, ours, ours}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d := deploy(t, tc.servers, tc.sentinels)
			d.failover()
		})
	}
}

// One of three Sentinels is dead too: ours and a genuine one need each other's
// vote.
func TestVotesOfEachOther(t *testing.T) {
	if !soak() {
		t.Skip("waits for a genuine Sentinel's election; HOLDFAST_SOAK=1 runs it")
	}
	needGenuine(t, "redis-server", "redis-sentinel")
	t.Parallel()
	d := deploy(t, []kind{ours, ours, genuine}, []kind{genuine, ours, ours})
	d.sentinels[1].p.Kill()
	dead := d.sentinels[1]
	d.sentinels = []*node{d.sentinels[0], d.sentinels[2]}
	old := d.master(nil)
	p := startProbe(d)
	p.writes(t, 50)
	d.downAfter(soonDown)
	old.p.Kill()
	next := d.master(old)
	d.downAfter(notDown)
	p.writes(t, 50)
	old.start()
	dead.start()
	d.sentinels = append(d.sentinels, dead)
	d.complete()
	linked(t, next, d.others(next)...)
	p.end()
	d.quiet()
	same(t, next, d.others(next)...)
}

// SENTINEL FAILOVER by hand moves the master back and forth between programs.
func TestFailoverByCommand(t *testing.T) {
	needGenuine(t, "redis-server", "redis-sentinel")
	for _, k := range directions {
		t.Run(fmt.Sprintf("%s sentinel", k), func(t *testing.T) {
			t.Parallel()
			d := deploy(t, []kind{ours, genuine}, []kind{k})
			p := startProbe(d)
			for range 2 {
				old := d.master(nil)
				p.writes(t, 50)
				eventually(t, "SENTINEL FAILOVER is accepted", func() string {
					v, err := d.sentinels[0].c.Do("SENTINEL", "FAILOVER", masterName)
					if err != nil {
						return err.Error()
					}
					if strings.HasPrefix(v.Str, "INPROG") || strings.HasPrefix(v.Str, "NOGOODSLAVE") {
						return v.Str
					}
					if v.Err() != nil {
						t.Fatal(v.Str)
					}
					return ""
				})
				next := d.master(old)
				p.writes(t, 50)
				d.complete()
				linked(t, next, old)
			}
			p.end()
			m := d.master(nil)
			d.quiet()
			same(t, m, d.others(m)...)
		})
	}
}
