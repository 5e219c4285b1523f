package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/test/proc"
)

var (
	binary  string
	genuine string
)

func TestMain(m *testing.M) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		fmt.Fprintln(os.Stderr, "skipped: no redis-server")
		os.Exit(0)
	}
	genuine = path
	dir, err := os.MkdirTemp("", "holdfast-cluster")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "holdfast")
	if out, err := exec.Command("go", "build", "-o", binary, "holdfast/cmd/holdfast").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %s\n%s", err, out)
		os.Exit(1)
	}
	// The tests mostly wait for gossip: more of them at a time than processors.
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
		_ = flag.Set("test.parallel", "5") // it was looked up in the line above
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

const (
	deadline = 60 * time.Second
	busAbove = proc.BusAbove
)

// node is one server.
type node struct {
	t    *testing.T
	port int
	p    *proc.Process
	pass string
	tls  int // its TLS port, if it has one
}

func (n *node) addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(n.port)) }

// freePort returns a port that is free together with its bus port, and stays so
// while a node is down.
func freePort(t *testing.T) int {
	t.Helper()
	p, err := proc.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// kind is whose nodes a test runs on.
type kind string

const (
	genuineNodes kind = "genuine"
	ourNodes     kind = "ours"
)

// onBoth runs a test on nodes of either kind.
func onBoth(t *testing.T, test func(t *testing.T, k kind)) { onKinds(t, test, genuineNodes, ourNodes) }

// onGenuine runs a long test on genuine nodes, on ours only in a soak: the
// administrator, which it is about, is the same.
func onGenuine(t *testing.T, test func(t *testing.T, k kind)) {
	if os.Getenv("HOLDFAST_SOAK") != "" {
		onBoth(t, test)
		return
	}
	onKinds(t, test, genuineNodes)
}

func onKinds(t *testing.T, test func(t *testing.T, k kind), kinds ...kind) {
	t.Parallel()
	for _, k := range kinds {
		t.Run(string(k), func(t *testing.T) {
			t.Parallel()
			test(t, k)
		})
	}
}

// patientTimeout is the cluster-node-timeout where nobody is to fail: a busy
// machine keeps a node from answering for seconds, and a handshake that takes
// longer than the timeout is given up.
const patientTimeout = "15000"

// patiently does something under patientTimeout.
func patiently(t *testing.T, nodes []*node, do func()) {
	t.Helper()
	was := make([]string, len(nodes))
	for i, n := range nodes {
		was[i] = n.do("CONFIG", "GET", "cluster-node-timeout").List[1].Str
	}
	setTimeout(nodes, patientTimeout)
	do()
	for i, n := range nodes {
		n.do("CONFIG", "SET", "cluster-node-timeout", was[i])
	}
}

func setTimeout(nodes []*node, ms string) {
	for _, n := range nodes {
		n.t.Helper()
		n.do("CONFIG", "SET", "cluster-node-timeout", ms)
	}
}

// startNodes starts empty cluster nodes, which the test's end kills.
func startNodes(t *testing.T, k kind, n int, args ...string) []*node {
	t.Helper()
	out := make([]*node, n)
	for i := range out {
		out[i] = start(t, k, append([]string{"--cluster-enabled", "yes", "--cluster-node-timeout", patientTimeout}, args...)...)
	}
	for _, x := range out {
		if err := x.p.Ready(deadline); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func start(t *testing.T, k kind, args ...string) *node {
	t.Helper()
	n := &node{t: t, port: freePort(t)}
	argv := []string{genuine}
	if k == ourNodes {
		argv = []string{binary, "redis-server"}
	}
	args = append([]string{"--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"}, args...)
	p, err := proc.Start(proc.Spec{Argv: argv, Dir: t.TempDir(), Port: n.port, Args: args})
	if err != nil {
		t.Fatal(err)
	}
	n.p = p
	t.Cleanup(p.Kill)
	return n
}

// do runs a command; an error reply fails the test.
func (n *node) do(args ...string) proc.Value {
	n.t.Helper()
	v := n.try(args...)
	if v.Err() != nil {
		n.t.Fatalf("%s: %q: %s", n.addr(), args, v.Str)
	}
	return v
}

func (n *node) try(args ...string) proc.Value {
	n.t.Helper()
	c := n.dial()
	defer c.Close()
	v, err := c.Do(args...)
	if err != nil {
		n.t.Fatalf("%s: %q: %s", n.addr(), args, err)
	}
	return v
}

func (n *node) id() string { n.t.Helper(); return n.do("CLUSTER", "MYID").Text() }

func addrs(nodes []*node) (out []string) {
	for _, n := range nodes {
		out = append(out, n.addr())
	}
	return out
}

func (n *node) dial() *proc.Conn {
	n.t.Helper()
	c, err := proc.Dial(n.port, deadline)
	if err == nil && n.pass != "" {
		_, err = c.Must("AUTH", n.pass)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	return c
}

// protect sets a password.
func (n *node) protect(pass string) {
	n.t.Helper()
	n.do("CONFIG", "SET", "masterauth", pass)
	n.do("CONFIG", "SET", "requirepass", pass)
	n.pass = pass
}

// result is what --json prints.
type result struct {
	Verdict string
	Reason  string
	Slots   int `json:"slots_moved"`
	Keys    int `json:"keys_moved"`
	Way     string
	Plan    []map[string]string
	Replies []struct {
		Addr, Error string
		Reply       any
	}
	Cluster struct {
		Verdict  string
		Covered  int `json:"slots_covered"`
		Keys     int
		Problems []struct{ Kind, Node, Text string }
		Nodes    []struct {
			Addr, ID, Role, State, Ranges, Master string
			Slots, Keys, Replicas                 int
		}
	}
	code int
	text string
}

// command is a run of `holdfast cluster`.
func command(t *testing.T, args ...string) *exec.Cmd {
	cmd := exec.Command(binary, append([]string{"cluster"}, args...)...)
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+stateDir(t))
	return cmd
}

var stateDirs sync.Map

// stateDir is where plans of interrupted runs are kept: one for a test.
func stateDir(t *testing.T) string {
	if d, ok := stateDirs.Load(t.Name()); ok {
		return d.(string)
	}
	d := t.TempDir()
	stateDirs.Store(t.Name(), d)
	return d
}

// admin runs `holdfast cluster` and reads its JSON.
func admin(t *testing.T, args ...string) *result {
	t.Helper()
	cmd := command(t, append([]string{args[0], "--json", "--yes"}, args[1:]...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	r := &result{code: exitCode(t, cmd.Run())}
	r.text = fmt.Sprintf("holdfast cluster %s\n%s%s", strings.Join(args, " "), stdout.String(), stderr.String())
	if stdout.Len() > 0 {
		if err := json.Unmarshal(stdout.Bytes(), r); err != nil {
			t.Fatalf("%s: %s", err, r.text)
		}
	}
	return r
}

func exitCode(t *testing.T, err error) int {
	t.Helper()
	var e *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return e.ExitCode()
	}
	t.Fatal(err)
	return -1
}

// must is admin that has to end with a code.
func must(t *testing.T, code int, args ...string) *result {
	t.Helper()
	r := admin(t, args...)
	if r.code != code {
		t.Fatalf("exit code %d, not %d: %s", r.code, code, r.text)
	}
	return r
}

// create makes a cluster.
func create(t *testing.T, nodes []*node, replicas int) {
	t.Helper()
	must(t, 0, append([]string{"create", "--replicas", strconv.Itoa(replicas)}, addrs(nodes)...)...)
}

// fill writes keys through whichever node owns them.
func fill(t *testing.T, nodes []*node, prefix string, n int) {
	t.Helper()
	conns := map[int]*proc.Conn{}
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	to, end := nodes[0].port, time.Now().Add(deadline)
	for i := range n {
		for {
			if conns[to] == nil {
				c, err := proc.Dial(to, deadline)
				if err != nil {
					t.Fatal(err)
				}
				conns[to] = c
			}
			v, err := conns[to].Do("SET", key(prefix, i), strconv.Itoa(i))
			if err != nil {
				t.Fatal(err)
			}
			if v.Err() == nil {
				break
			}
			f := strings.Fields(v.Str)
			switch {
			case f[0] == "MOVED":
				_, p, _ := net.SplitHostPort(f[2])
				to, _ = strconv.Atoi(p)
			case f[0] == "CLUSTERDOWN" && time.Now().Before(end):
				// On a busy machine nodes miss each other for a moment.
				time.Sleep(20 * time.Millisecond)
			default:
				t.Fatal(v.Str)
			}
		}
	}
}

func key(prefix string, i int) string { return prefix + strconv.Itoa(i) }

// whole makes sure that every key is exactly where it belongs, with its value. A
// node may still execute what an administrator sent that was killed, so that a
// key is missed where it came to, or seen at both ends: what is wrong has to stay
// wrong.
func whole(t *testing.T, nodes []*node, prefix string, n int) {
	t.Helper()
	for end := time.Now().Add(deadline); ; time.Sleep(50 * time.Millisecond) {
		err := wholeNow(t, nodes, prefix, n)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func wholeNow(t *testing.T, nodes []*node, prefix string, n int) error {
	t.Helper()
	seen := map[string]string{}
	for _, x := range nodes {
		if role := x.try("ROLE"); role.Err() != nil || role.List[0].Str != "master" {
			continue
		}
		if err := x.keysOf(prefix, seen); err != nil {
			return err
		}
	}
	if len(seen) != n {
		return fmt.Errorf("%d keys instead of %d", len(seen), n)
	}
	for i := range n {
		if v := seen[key(prefix, i)]; v != strconv.Itoa(i) {
			return fmt.Errorf("key %s is %q", key(prefix, i), v)
		}
	}
	return nil
}

// keysOf adds the keys of a node, with their values, to seen.
func (n *node) keysOf(prefix string, seen map[string]string) error {
	n.t.Helper()
	c := n.dial()
	defer c.Close()
	keys, err := c.Must("KEYS", prefix+"*")
	if err != nil {
		return err
	}
	for _, k := range keys.List {
		c.Send("ASKING") // a slot on its way here answers only so
		c.Send("GET", k.Str)
	}
	if err := c.Flush(); err != nil {
		return err
	}
	for _, k := range keys.List {
		v, err := c.Recv()
		if err == nil {
			v, err = c.Recv()
		}
		if err != nil {
			return err
		}
		if v.Err() != nil {
			return fmt.Errorf("%s: GET %s: %s\n%s\n%s", n.addr(), k.Str, v.Str, n.do("CLUSTER", "NODES").Str, n.do("CLUSTER", "INFO").Str)
		}
		if old, twice := seen[k.Str]; twice {
			return fmt.Errorf("key %s twice: %q, and %q on %s", k.Str, old, v.Str, n.addr())
		}
		seen[k.Str] = v.Str
	}
	return nil
}

// healthy has both administrators check the cluster.
func healthy(t *testing.T, via *node) *result {
	t.Helper()
	r := must(t, 0, "check", via.addr(), "--wait", "20s")
	if _, err := exec.LookPath("redis-cli"); err == nil {
		cliCheck(t, via, "--cluster-search-multiple-owners")
	}
	return r
}

// cliCheck has redis-cli find that all is well. It asks the nodes one after the
// other, and leaves out whom the first has no link to at that moment: what is
// wrong has to stay wrong.
func cliCheck(t *testing.T, via *node, args ...string) {
	t.Helper()
	for end := time.Now().Add(deadline); ; time.Sleep(50 * time.Millisecond) {
		out, err := exec.Command("redis-cli", append([]string{"--cluster", "check", via.addr()}, args...)...).CombinedOutput()
		switch {
		case err == nil && strings.Contains(string(out), "All 16384 slots covered") && !strings.Contains(string(out), "[ERR]") && !strings.Contains(string(out), "[WARNING]"):
			return
		case time.Now().After(end):
			t.Fatalf("redis-cli --cluster check: %v\n%s", err, out)
		}
	}
}

// slotsOf is how many slots each address owns.
func (r *result) slotsOf() map[string]int {
	m := map[string]int{}
	for _, n := range r.Cluster.Nodes {
		m[n.Addr] = n.Slots
	}
	return m
}
