package peers

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/test/proc"
)

// patience bounds every wait; it says nothing about speed.
const patience = 45 * time.Second

const pollInterval = 10 * time.Millisecond

// binary is our program, built once for all tests.
var binary string

// seed is the seed of all random choices; HOLDFAST_PEERS_SEED sets it.
var seed uint64 = 1

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	if err := tests(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if s := os.Getenv("HOLDFAST_PEERS_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			fmt.Fprintln(os.Stderr, "HOLDFAST_PEERS_SEED:", err)
			return 1
		}
		seed = n
	}
	if binary = os.Getenv("HOLDFAST_PEERS_BINARY"); binary != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "holdfast-peers")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "holdfast")
	if out, err := exec.Command("go", "build", "-o", binary, "holdfast/cmd/holdfast").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the program: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// parallel is how many cases run at once: most of them wait most of the time.
const parallel = 6

// tests lets more cases run at once than there are processors, unless the
// command line says how many.
func tests() error {
	set := false
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == "test.parallel" })
	if set {
		return nil
	}
	return flag.Set("test.parallel", strconv.Itoa(parallel))
}

func soak() bool { return os.Getenv("HOLDFAST_SOAK") != "" }

// commands is how many commands a case sends: n by default.
func commands(n int) int {
	if soak() {
		return max(n, 100_000)
	}
	return n
}

// needGenuine skips the test unless the programs of Redis 7.0 are installed.
func needGenuine(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Skipf("%s is not installed", name)
		}
		if name == "redis-check-rdb" {
			continue // it has no --version
		}
		out, err := exec.Command(path, "--version").Output()
		if err != nil || !strings.Contains(string(out), "v=7.0.") {
			t.Skipf("%s is not of Redis 7.0: %s", name, out)
		}
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	port, err := proc.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// kind is whose program a process runs.
type kind string

const (
	ours    kind = "ours"
	genuine kind = "genuine"
)

func (k kind) other() kind {
	if k == ours {
		return genuine
	}
	return ours
}

// control runs genuine programs on both sides: what differs then is Redis's own
// doing, and does not belong into the load.
var control = os.Getenv("HOLDFAST_PEERS_GENUINE_ONLY") != ""

func (k kind) argv(program string) []string {
	if k == ours && !control {
		return []string{binary, program}
	}
	return []string{program}
}

// node is a server or a Sentinel of a test.
type node struct {
	t    *testing.T
	kind kind
	spec proc.Spec
	p    *proc.Process
	c    *proc.Conn // of the test's own goroutine
	past string     // what earlier processes of this node said
}

// baseArgs make waits short and DEBUG possible. No PINGs in the stream: the
// offsets of an idle master stand still.
var baseArgs = []string{"--enable-debug-command", "yes", "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "3600",
	"--repl-backlog-size", "128mb"}

// server starts a data server in a directory of its own.
func server(t *testing.T, k kind, args ...string) *node {
	t.Helper()
	return serverIn(t, k, t.TempDir(), args...)
}

func serverIn(t *testing.T, k kind, dir string, args ...string) *node {
	t.Helper()
	all := append([]string{}, baseArgs...)
	if k == genuine {
		all = append(all, "--save", "")
	}
	return launch(t, k, proc.Spec{Argv: k.argv("redis-server"), Dir: dir, Args: append(all, args...)})
}

func launch(t *testing.T, k kind, spec proc.Spec) *node {
	t.Helper()
	spec.Port = freePort(t)
	n := &node{t: t, kind: k, spec: spec}
	t.Cleanup(func() {
		n.stop()
		if t.Failed() {
			t.Logf("log of %s:\n%s", n, tail(n.log(), 6000))
		}
	})
	n.start()
	return n
}

func tail(s string, n int) string {
	if len(s) > n {
		return "..." + s[len(s)-n:]
	}
	return s
}

// String names the node in messages.
func (n *node) String() string { return fmt.Sprintf("%s:%d", n.kind, n.spec.Port) }

// start starts the process, once more after a kill, on the same directory.
func (n *node) start(extra ...string) {
	n.t.Helper()
	if n.p != nil {
		n.past += n.p.Output()
	}
	spec := n.spec
	spec.Args = append(append([]string{}, spec.Args...), extra...)
	p, err := proc.Start(spec)
	if err != nil {
		n.t.Fatal(err)
	}
	n.p = p
	if err := p.Ready(patience); err != nil {
		n.t.Fatalf("%s: %v", n, err)
	}
	if n.c != nil {
		n.c.Close()
	}
	n.c = n.dial()
}

// stop ends the process at once, whatever its state.
func (n *node) stop() {
	if n.c != nil {
		n.c.Close()
	}
	if n.p != nil {
		n.p.Kill()
	}
}

func (n *node) log() string {
	if n.p == nil {
		return n.past
	}
	return n.past + n.p.Output()
}

func (n *node) logged(text string) bool { return strings.Contains(n.log(), text) }

func (n *node) dial() *proc.Conn {
	n.t.Helper()
	c, err := proc.Dial(n.spec.Port, patience)
	if err != nil {
		n.t.Fatal(err)
	}
	return c
}

func (n *node) portText() string { return strconv.Itoa(n.spec.Port) }

// do sends a command; an error reply fails the test. A connection that was
// closed is made again: Sentinel does that to the clients of a server whose role
// changes.
func (n *node) do(args ...string) proc.Value {
	n.t.Helper()
	v, err := n.c.Must(args...)
	if err != nil && v.Kind == 0 {
		n.c.Close()
		n.c = n.dial()
		v, err = n.c.Must(args...)
	}
	if err != nil {
		n.t.Fatalf("%s: %v: %v", n, args, err)
	}
	return v
}

// info is the whole of INFO, by field.
func (n *node) info() map[string]string {
	n.t.Helper()
	m := map[string]string{}
	for line := range strings.Lines(n.do("INFO", "everything").Text()) {
		if k, v, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":"); ok {
			m[k] = v
		}
	}
	return m
}

func (n *node) number(field string) int64 {
	n.t.Helper()
	v, err := strconv.ParseInt(n.info()[field], 10, 64)
	if err != nil {
		n.t.Fatalf("%s: INFO %s: %v", n, field, err)
	}
	return v
}

// eventually waits until why is empty.
func eventually(t *testing.T, what string, why func() string) {
	t.Helper()
	last := ""
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(pollInterval) {
		if last = why(); last == "" {
			return
		}
	}
	t.Fatalf("not within %s: %s: %s", patience, what, last)
}

// replicate makes n a replica of what listens on port.
func (n *node) replicate(port int) {
	n.t.Helper()
	n.do("REPLICAOF", "127.0.0.1", strconv.Itoa(port))
}

// linked waits until the link from replica to master is up at both ends.
func linked(t *testing.T, master *node, replicas ...*node) {
	t.Helper()
	for _, r := range replicas {
		eventually(t, fmt.Sprintf("%s is linked to %s", r, master), func() string { return unlinked(master, r) })
	}
}

func unlinked(master, r *node) string {
	if got := r.info()["master_link_status"]; got != "up" {
		return "master_link_status is " + got
	}
	m := master.info()
	for i := 0; ; i++ {
		line, ok := m["slave"+strconv.Itoa(i)]
		if !ok {
			return "the master does not list it as online"
		}
		if strings.Contains(line, "port="+r.portText()+",") && strings.Contains(line, "state=online") {
			return ""
		}
	}
}

// same waits until master and replicas are at one offset, and then compares
// what they hold. The data may differ only while offsets do: a key that expires
// on the master moves its offset.
func same(t *testing.T, master *node, replicas ...*node) {
	t.Helper()
	if master.info()["role"] == "master" { // else it is in the middle of a chain
		if v := master.do("WAIT", strconv.Itoa(len(replicas)), "20000"); int(v.Int) < len(replicas) {
			t.Errorf("WAIT %d on %s: %d", len(replicas), master, v.Int)
		}
	}
	eventually(t, "equal offsets", func() string {
		before := master.info()
		for _, r := range replicas {
			i := r.info()
			switch {
			case i["master_link_status"] != "up":
				return fmt.Sprintf("link of %s is down", r)
			case i["master_replid"] != before["master_replid"]:
				return fmt.Sprintf("%s has id %s, the master %s", r, i["master_replid"], before["master_replid"])
			case i["slave_repl_offset"] != before["master_repl_offset"]:
				return fmt.Sprintf("%s is at %s, the master at %s", r, i["slave_repl_offset"], before["master_repl_offset"])
			}
		}
		want := master.do("DEBUG", "DIGEST").Text()
		wrong := ""
		for _, r := range replicas {
			if got := r.do("DEBUG", "DIGEST").Text(); got != want {
				wrong += fmt.Sprintf("digest of %s is %s, of the master %s: %s\n", r, got, want, difference(master, r))
			}
		}
		if after := master.info(); after["master_repl_offset"] != before["master_repl_offset"] {
			return "the master moved on from " + before["master_repl_offset"]
		}
		if wrong != "" {
			t.Fatal(wrong)
		}
		return ""
	})
}

// difference names some keys that differ.
func difference(a, b *node) string {
	var out []string
	for db := range databases {
		a.do("SELECT", strconv.Itoa(db))
		b.do("SELECT", strconv.Itoa(db))
		keys := map[string]bool{}
		for _, n := range []*node{a, b} {
			for _, k := range n.do("KEYS", "*").List {
				keys[k.Str] = true
			}
		}
		for k := range keys {
			x, y := a.do("DEBUG", "DIGEST-VALUE", k).List[0].Str, b.do("DEBUG", "DIGEST-VALUE", k).List[0].Str
			if x != y && len(out) < 6 {
				out = append(out, fmt.Sprintf("db %d %q\n  %s\n  %s", db, k, describe(a, k), describe(b, k)))
			}
		}
		if x, y := a.do("DBSIZE").Int, b.do("DBSIZE").Int; x != y {
			out = append(out, fmt.Sprintf("db %d: %d and %d keys", db, x, y))
		}
	}
	return strings.Join(out, "\n")
}

func describe(n *node, key string) string {
	kind := n.do("TYPE", key).Text()
	ttl := n.do("PTTL", key).Int
	read := map[string][]string{"string": {"GET", key}, "list": {"LRANGE", key, "0", "-1"}, "set": {"SMEMBERS", key},
		"zset": {"ZRANGE", key, "0", "-1", "WITHSCORES"}, "hash": {"HGETALL", key}}[kind]
	if read == nil {
		return fmt.Sprintf("%s: %s", n, kind)
	}
	v := n.do(read...)
	text := v.Text()
	for _, e := range v.List {
		text += " " + e.Text()
	}
	if len(text) > 400 {
		text = text[:400]
	}
	return fmt.Sprintf("%s: %s, %d elements, ttl %d: %q", n, kind, len(v.List), ttl, text)
}
