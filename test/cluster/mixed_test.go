package cluster

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"holdfast/test/proc"
)

// Clusters of our nodes, and of ours and genuine ones.

const quickTimeout = "1500" // cluster-node-timeout, milliseconds

// launch starts a cluster node of either kind in dir.
func launch(t *testing.T, ours bool, dir string, port int, args ...string) *node {
	t.Helper()
	argv := []string{genuine}
	if ours {
		argv = []string{binary, "redis-server"}
	}
	args = append([]string{"--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0", "--enable-debug-command", "yes",
		"--cluster-enabled", "yes", "--cluster-node-timeout", quickTimeout}, args...)
	p, err := proc.Start(proc.Spec{Argv: argv, Dir: dir, Port: port, Args: args})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	n := &node{t: t, port: port, p: p}
	if err := p.Ready(deadline); err != nil {
		t.Fatal(err)
	}
	return n
}

// mixed starts six nodes: three that are to be masters, then their replicas.
func mixed(t *testing.T, masters, replicas bool, args ...string) []*node {
	t.Helper()
	var nodes []*node
	for i := range 6 {
		nodes = append(nodes, launch(t, i < 3 && masters || i >= 3 && replicas, t.TempDir(), freePort(t), args...))
	}
	join(t, nodes, 3)
	return nodes
}

// join makes a cluster of empty nodes: the masters, then a replica of each.
func join(t *testing.T, nodes []*node, masters int) {
	t.Helper()
	patiently(t, nodes, func() { joinNow(t, nodes, masters) })
}

func joinNow(t *testing.T, nodes []*node, masters int) {
	t.Helper()
	cli(t, append([]string{"--cluster", "create", "--cluster-yes"}, addrs(nodes[:masters])...)...)
	for i, r := range nodes[masters:] {
		r.do("CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(nodes[0].port))
		r.eventually("it knows its master", func() bool { return strings.Contains(r.do("CLUSTER", "NODES").Text(), nodes[i].id()) })
		r.do("CLUSTER", "REPLICATE", nodes[i].id())
	}
	acquainted(t, nodes) // else nobody would vote for a replica that only its master knew
	settled(t, nodes)
}

// acquainted waits until each node knows all others.
func acquainted(t *testing.T, nodes []*node) {
	t.Helper()
	for _, n := range nodes {
		n.eventually("it knows all", func() bool {
			return strings.Contains(n.try("CLUSTER", "INFO").Str, "cluster_known_nodes:"+strconv.Itoa(len(nodes))+"\r\n")
		})
	}
}

// cli runs the genuine redis-cli, which has to succeed.
func cli(t *testing.T, args ...string) string {
	t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 2*deadline)
	defer stop()
	out, err := exec.CommandContext(ctx, "redis-cli", args...).CombinedOutput()
	if err != nil || strings.Contains(string(out), "[ERR]") {
		t.Fatalf("redis-cli %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (n *node) eventually(what string, ok func() bool) {
	n.t.Helper()
	end := time.Now().Add(deadline)
	for !ok() {
		if time.Now().After(end) {
			n.t.Fatalf("%s: not so that %s\n%s\n%s", n.addr(), what, n.try("CLUSTER", "NODES").Str, n.p.Output())
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// slots is what CLUSTER SLOTS says, in an order of its own.
func (n *node) slots() string {
	n.t.Helper()
	var rows []string
	for _, r := range n.try("CLUSTER", "SLOTS").List {
		var names []string
		for _, x := range r.List[2:] {
			names = append(names, x.List[2].Text())
		}
		slices.Sort(names[1:]) // behind the master
		rows = append(rows, fmt.Sprint(r.List[0].Int, r.List[1].Int, names))
	}
	slices.Sort(rows)
	return strings.Join(rows, "\n")
}

// settled waits until all nodes agree, serve, and every replica has its master.
func settled(t *testing.T, nodes []*node) {
	t.Helper()
	nodes[0].eventually("all agree and serve", func() bool {
		// All in one pass: what they agree on changes while a cluster forms.
		first := nodes[0].slots()
		for _, n := range nodes {
			// A replica that loads answers neither.
			if !strings.Contains(n.try("CLUSTER", "INFO").Str, "cluster_state:ok") || n.slots() != first {
				return false
			}
			info := n.do("INFO", "replication").Text()
			if !strings.Contains(info, "role:master") && !strings.Contains(info, "master_link_status:up") {
				return false
			}
		}
		return nodes[0].slots() == first
	})
}

// writer is a client that writes keys of its own and remembers what a replica has.
type writer struct {
	rdb   *redis.ClusterClient
	stop  chan struct{}
	wg    sync.WaitGroup
	mu    sync.Mutex
	known map[string]string
	acked int
}

// write begins to write; each value is acknowledged by a replica before it counts.
func write(nodes []*node) *writer { return writeTo(addrs(nodes)) }

func writeTo(addrs []string) *writer {
	w := &writer{
		rdb:  redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs, MaxRedirects: 16, DialTimeout: time.Second, ReadTimeout: 2 * time.Second}),
		stop: make(chan struct{}), known: map[string]string{},
	}
	for worker := range 4 {
		w.wg.Add(1)
		go func() {
			defer w.wg.Done()
			for i := 0; ; i++ {
				select {
				case <-w.stop:
					return
				default:
				}
				w.one(fmt.Sprintf("w%d-%d", worker, i%500), strconv.Itoa(i))
			}
		}()
	}
	return w
}

// one writes a key on the master that has it and waits for its replica, on one
// connection: WAIT counts what that connection has written.
func (w *writer) one(key, value string) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	master, err := w.rdb.MasterForKey(ctx, key)
	if err != nil {
		return
	}
	w.mu.Lock()
	delete(w.known, key) // until we know better, either value may be there
	w.mu.Unlock()
	conn := master.Conn()
	defer func() { _ = conn.Close() }()
	if conn.Set(ctx, key, value, 0).Err() != nil {
		w.rdb.ReloadState(ctx)
		return
	}
	if n, err := conn.Wait(ctx, 1, time.Second).Result(); err == nil && n >= 1 {
		w.mu.Lock()
		w.known[key] = value
		w.acked++
		w.mu.Unlock()
	}
}

// end stops and checks that all is there that a replica had.
func (w *writer) end(t *testing.T) {
	t.Helper()
	close(w.stop)
	w.wg.Wait()
	defer func() { _ = w.rdb.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	w.rdb.ReloadState(ctx)
	for key, want := range w.known {
		got, err := w.rdb.Get(ctx, key).Result()
		if err != nil || got != want {
			t.Fatalf("%s is %q (%v), a replica had %q", key, got, err, want)
		}
	}
	if len(w.known) < 50 {
		t.Fatalf("only %d keys were written", len(w.known))
	}
}

func (w *writer) wrote() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.known)
}

// count is how many writes a replica had, of whichever keys.
func (w *writer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.acked
}

// silent is a log that keeps quiet about the connections that a test cuts.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

func TestMixedClusterOutlivesItsMasters(t *testing.T) {
	redis.SetLogger(silent{})
	for _, c := range []struct {
		name              string
		masters, replicas bool
	}{{"ours", true, true}, {"genuine masters", false, true}, {"genuine replicas", true, false}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			nodes := mixed(t, c.masters, c.replicas)
			w := write(nodes)
			nodes[1].eventually("clients write", func() bool { return w.wrote() > 200 })

			// A master dies, its replica takes over, it comes back as a replica.
			dead := nodes[0]
			dead.p.Kill()
			nodes[3].eventually("the replica is master", func() bool { return nodes[3].do("ROLE").List[0].Text() == "master" })
			nodes[0] = launch(t, c.masters, dead.p.Spec.Dir, dead.port)
			settled(t, nodes)
			if role := nodes[0].do("ROLE").List[0].Text(); role != "slave" {
				t.Errorf("who was dead is %s", role)
			}

			// A replica takes over by hand, losing nothing.
			byHand(t, nodes[0])
			settled(t, nodes)

			// A master stands still for longer than the node timeout.
			nodes[1].p.Signal(syscall.SIGSTOP)
			nodes[4].eventually("the replica is master", func() bool { return nodes[4].do("ROLE").List[0].Text() == "master" })
			nodes[1].p.Signal(syscall.SIGCONT)
			settled(t, nodes)
			setTimeout(nodes, patientTimeout) // nobody is to fail any more
			settled(t, nodes)
			w.end(t)
			cliCheck(t, nodes[2])
		})
	}
}

// byHand has a replica take over from its master. Redis gives that up after five
// seconds, and the operator asks again: on a busy machine the time may not do.
func byHand(t *testing.T, n *node) {
	t.Helper()
	var asked time.Time
	n.eventually("it is master again", func() bool {
		if n.do("ROLE").List[0].Text() == "master" {
			return true
		}
		if time.Since(asked) > 8*time.Second {
			v := n.try("CLUSTER", "FAILOVER")
			if !asked.IsZero() || v.Err() != nil {
				t.Logf("CLUSTER FAILOVER, asked again %v: %s", !asked.IsZero(), v.Str)
			}
			if asked = time.Now(); v.Err() != nil {
				asked = time.Time{} // its link may just have been down
			}
		}
		return false
	})
}

func TestCliAdministersOurNodes(t *testing.T) {
	t.Parallel()
	var nodes []*node
	for range 6 {
		nodes = append(nodes, launch(t, true, t.TempDir(), freePort(t), "--cluster-node-timeout", patientTimeout))
	}
	// It looks at the nodes while the replicas load: what it says of that does not count.
	if out, err := exec.Command("redis-cli", append([]string{"--cluster", "create", "--cluster-replicas", "1", "--cluster-yes"}, addrs(nodes)...)...).CombinedOutput(); err != nil &&
		!strings.Contains(string(out), "Unable to load info for node") {
		t.Fatalf("%v\n%s", err, out)
	}
	acquainted(t, nodes)
	settled(t, nodes)
	fill(t, nodes, "k", 500)
	first := nodes[0]
	cliCheck(t, first)
	cli(t, "--cluster", "info", first.addr())
	if out := cli(t, "--cluster", "call", first.addr(), "PING"); strings.Count(out, "PONG") != 6 {
		t.Errorf("call: %s", out)
	}
	cli(t, "--cluster", "reshard", first.addr(), "--cluster-from", first.id(), "--cluster-to", nodes[1].id(), "--cluster-slots", "200", "--cluster-yes")
	settled(t, nodes) // who did not take part hears of the last slot a moment later, and rebalance wants agreement
	cli(t, "--cluster", "rebalance", first.addr(), "--cluster-threshold", "1")
	settled(t, nodes)
	added := launch(t, true, t.TempDir(), freePort(t), "--cluster-node-timeout", patientTimeout)
	cli(t, "--cluster", "add-node", added.addr(), first.addr())
	acquainted(t, append(nodes, added)) // who does not know it yet refuses to hear that it owns a slot
	settled(t, append(nodes, added))
	cli(t, "--cluster", "reshard", first.addr(), "--cluster-from", "all", "--cluster-to", added.id(), "--cluster-slots", "100", "--cluster-yes")
	settled(t, append(nodes, added))
	whole(t, append(nodes, added), "k", 500)
	// An open slot is closed by fix.
	nodes[1].do("CLUSTER", "SETSLOT", strings.Split(fields(nodes[1], 8), "-")[0], "MIGRATING", nodes[2].id())
	cli(t, "--cluster", "fix", first.addr())
	cliCheck(t, first)
}

// fields is a field of the node's own line of CLUSTER NODES.
func fields(n *node, i int) string {
	for line := range strings.Lines(n.do("CLUSTER", "NODES").Text()) {
		if strings.Contains(line, "myself") {
			return strings.Fields(line)[i]
		}
	}
	return ""
}

func TestIdentityOutlivesATornFile(t *testing.T) {
	t.Parallel()
	dir, port := t.TempDir(), freePort(t)
	n := launch(t, true, dir, port)
	id := n.id()
	n.do("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
	for _, damage := range []func(path string) error{
		func(path string) error { return os.Truncate(path, 30) },
		os.Remove,
		func(path string) error { return os.WriteFile(path, []byte("nonsense\n"), 0o644) },
	} {
		n.p.Kill()
		if err := damage(filepath.Join(dir, "nodes.conf")); err != nil {
			t.Fatal(err)
		}
		n = launch(t, true, dir, port)
		if got := n.id(); got != id {
			t.Fatalf("the node is %s, it was %s", got, id)
		}
		n.eventually("it serves its slots", func() bool { return strings.Contains(n.do("CLUSTER", "INFO").Text(), "cluster_slots_ok:16384") })
	}
	// Nobody takes a file that is in use, nor one of which nothing is whole.
	other, err := proc.Start(proc.Spec{Argv: []string{binary, "redis-server"}, Dir: dir, Port: freePort(t), Args: []string{"--cluster-enabled", "yes"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Kill)
	if err := other.WaitExit(deadline); err != nil || other.ExitCode() != 1 || !strings.Contains(other.Output(), "already used by a different Redis Cluster node") {
		t.Errorf("%v, code %d: %s", err, other.ExitCode(), other.Output())
	}
}

func TestMessagesCrossTheBus(t *testing.T) {
	t.Parallel()
	var nodes []*node
	for i := range 3 {
		nodes = append(nodes, launch(t, i != 1, t.TempDir(), freePort(t), "--cluster-node-timeout", patientTimeout))
	}
	cli(t, append([]string{"--cluster", "create", "--cluster-yes"}, addrs(nodes)...)...)
	settled(t, nodes)
	for i, n := range nodes {
		c := n.dial()
		defer c.Close()
		if _, err := c.Must("SUBSCRIBE", "news"); err != nil {
			t.Fatal(err)
		}
		// No link need stand yet, so the message is repeated until it arrives.
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Add(1)
		go func() {
			defer wg.Done()
			from := nodes[(i+1)%len(nodes)].dial()
			defer from.Close()
			for {
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond):
					_, _ = from.Do("PUBLISH", "news", "hello")
				}
			}
		}()
		v, err := c.Recv()
		close(stop)
		wg.Wait()
		if err != nil || len(v.List) != 3 || v.List[2].Text() != "hello" {
			t.Fatalf("%s: %+v, %v", n.addr(), v, err)
		}
	}
}

func TestBusSpeaksTLS(t *testing.T) {
	t.Parallel()
	certs, err := proc.NewCerts(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var nodes []*node
	for i := range 3 {
		tlsPort := freePort(t)
		args := []string{"--tls-ca-cert-file", certs.CA, "--tls-cert-file", certs.Cert, "--tls-key-file", certs.Key, "--tls-cluster", "yes", "--tls-replication", "yes", "--tls-port", strconv.Itoa(tlsPort), "--cluster-node-timeout", patientTimeout}
		nodes = append(nodes, launch(t, i != 1, t.TempDir(), freePort(t), args...))
		nodes[i].tls = tlsPort
	}
	for i, n := range nodes {
		n.do("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(i*5500), strconv.Itoa(min(i*5500+5499, 16383)))
		n.do("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
	}
	for _, n := range nodes[1:] {
		n.do("CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(nodes[0].tls))
	}
	settled(t, nodes)
	// A change that is refused leaves the bus as it is: plain links are not let in.
	if v := nodes[0].try("CONFIG", "SET", "tls-cert-file", "/nowhere"); v.Err() == nil {
		t.Fatal("a certificate that is not there was accepted")
	}
	conn, err := tls.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(nodes[0].tls+busAbove)), certs.Client)
	if err != nil {
		t.Fatal("the bus does not speak TLS any more:", err)
	}
	_ = conn.Close()
}
