package server_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/test/proc"
)

// The tests of replication run real processes: ours, and genuine redis-server
// where it is installed.

// patience bounds every wait. It is long because a server that starts on what
// another has written syncs it first, behind all that waits for the same disk.
const patience = 60 * time.Second

var buildOnce struct {
	sync.Once
	path string
	err  error
}

// binary builds the program once.
func binary(t *testing.T) string {
	t.Helper()
	buildOnce.Do(func() {
		dir, err := os.MkdirTemp("", "holdfast-repl")
		if err != nil {
			buildOnce.err = err
			return
		}
		buildOnce.path = filepath.Join(dir, "holdfast")
		args := append([]string{"build"}, strings.Fields(os.Getenv("HOLDFAST_TEST_BUILD_FLAGS"))...)
		out, err := exec.Command("go", append(args, "-o", buildOnce.path, "holdfast/cmd/holdfast")...).CombinedOutput()
		if err != nil {
			buildOnce.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if buildOnce.err != nil {
		t.Fatal(buildOnce.err)
	}
	return buildOnce.path
}

func TestMain(m *testing.M) {
	code := m.Run()
	if buildOnce.path != "" {
		_ = os.RemoveAll(filepath.Dir(buildOnce.path))
	}
	os.Exit(code)
}

// node is a server of a test.
type node struct {
	t       *testing.T
	p       *proc.Process
	c       *proc.Conn
	spec    proc.Spec
	genuine bool
}

func needGenuine(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("redis-server is not installed")
	}
}

// ours starts our server, genuine the other one.
func ours(t *testing.T, args ...string) *node {
	t.Helper()
	return startNode(t, false, args)
}

func genuine(t *testing.T, args ...string) *node {
	t.Helper()
	needGenuine(t)
	return startNode(t, true, append([]string{"--save", ""}, args...))
}

func startNode(t *testing.T, isGenuine bool, args []string) *node {
	t.Helper()
	port, err := proc.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	argv := []string{"redis-server"}
	if !isGenuine {
		argv = []string{binary(t), "redis-server"}
	}
	args = append([]string{"--enable-debug-command", "yes", "--repl-diskless-sync-delay", "0"}, args...)
	n := &node{t: t, genuine: isGenuine, spec: proc.Spec{Argv: argv, Dir: t.TempDir(), Port: port, Args: args}}
	n.start()
	t.Cleanup(func() {
		n.p.Kill()
		if i := strings.Index(n.p.Output(), "DATA RACE"); i >= 0 {
			out := n.p.Output()[i:]
			t.Errorf("%s", out[:min(len(out), 5000)])
		}
		if t.Failed() {
			t.Logf("log of %d (genuine %v):\n%s", port, isGenuine, n.p.Output())
		}
	})
	return n
}

func (n *node) start(extra ...string) {
	n.t.Helper()
	spec := n.spec
	spec.Args = append(append([]string{}, spec.Args...), extra...)
	p, err := proc.Start(spec)
	if err != nil {
		n.t.Fatal(err)
	}
	n.p = p
	if err := p.Ready(patience); err != nil {
		n.t.Fatal(err)
	}
	n.dial()
}

func (n *node) dial() {
	n.t.Helper()
	c, err := proc.Dial(n.spec.Port, patience)
	if err != nil {
		n.t.Fatal(err)
	}
	n.c = c
}

func (n *node) addr() (host, port string) { return "127.0.0.1", strconv.Itoa(n.spec.Port) }

// do sends a command; an error reply fails the test.
func (n *node) do(args ...string) proc.Value {
	n.t.Helper()
	v, err := n.c.Must(args...)
	if err != nil {
		n.t.Fatalf("%v on %d: %v", args, n.spec.Port, err)
	}
	return v
}

// fails sends a command that is to be refused with a text.
func (n *node) fails(text string, args ...string) {
	n.t.Helper()
	v, err := n.c.Do(args...)
	if err != nil {
		n.t.Fatal(err)
	}
	if v.Err() == nil || !strings.Contains(v.Str, text) {
		n.t.Errorf("%v: got %+v, want an error with %q", args, v, text)
	}
}

func (n *node) info(field string) string {
	n.t.Helper()
	for line := range strings.Lines(n.do("INFO", "everything").Text()) {
		if v, ok := strings.CutPrefix(strings.TrimRight(line, "\r\n"), field+":"); ok {
			return v
		}
	}
	return ""
}

func (n *node) replicate(master *node) {
	n.t.Helper()
	host, port := master.addr()
	n.do("REPLICAOF", host, port)
}

func eventually(t *testing.T, what string, fn func() bool) {
	t.Helper()
	end := time.Now().Add(patience)
	for !fn() {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// freeze stops the process and waits until it stands still.
func (n *node) freeze() {
	n.t.Helper()
	n.p.Signal(syscall.SIGSTOP)
	eventually(n.t, "the process stands still", func() bool {
		stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", n.p.PID()))
		if err != nil || len(stats) == 0 {
			return false
		}
		for _, path := range stats {
			b, err := os.ReadFile(path)
			_, state, _ := strings.Cut(string(b), ") ")
			if err == nil && !strings.HasPrefix(state, "T") {
				return false
			}
		}
		return true
	})
}

func (n *node) logged(text string) bool { return strings.Contains(n.p.Output(), text) }

// linked waits until n is connected to its master.
func (n *node) linked() {
	n.t.Helper()
	eventually(n.t, "link up", func() bool { return n.info("master_link_status") == "up" })
}

// same waits until both have the same stream, and then compares their data.
func same(t *testing.T, master *node, replicas ...*node) {
	t.Helper()
	for _, r := range replicas {
		eventually(t, "equal offsets", func() bool {
			return r.info("master_link_status") == "up" && r.info("master_repl_offset") == master.info("master_repl_offset")
		})
		if got, want := r.info("master_replid"), master.info("master_replid"); got != want {
			t.Errorf("replication id %s, the master's is %s", got, want)
		}
		// A key may expire between the two looks: look again.
		end := time.Now().Add(patience)
		for {
			got, want := r.do("DEBUG", "DIGEST").Text(), master.do("DEBUG", "DIGEST").Text()
			if got == want {
				break
			}
			if time.Now().After(end) {
				t.Errorf("digest %s, the master's is %s: %s", got, want, difference(master, r))
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// difference names some keys that differ.
func difference(a, b *node) string {
	var out []string
	for db := range 4 {
		a.do("SELECT", strconv.Itoa(db))
		b.do("SELECT", strconv.Itoa(db))
		for _, k := range a.do("KEYS", "*").List {
			x, y := a.do("DEBUG", "DIGEST-VALUE", k.Str).List[0].Str, b.do("DEBUG", "DIGEST-VALUE", k.Str).List[0].Str
			if x != y && len(out) < 5 {
				out = append(out, fmt.Sprintf("db %d %q (%s, %s)", db, k.Str, a.do("OBJECT", "ENCODING", k.Str).Text(), b.do("TYPE", k.Str).Text()))
			}
		}
		out = append(out, fmt.Sprintf("db %d: %d and %d keys", db, a.do("DBSIZE").Int, b.do("DBSIZE").Int))
	}
	a.do("SELECT", "0")
	b.do("SELECT", "0")
	return strings.Join(out, "; ")
}

// writer sends random commands of all types to a master.
type writer struct {
	rng *rand.Rand
	c   *proc.Conn
}

func newWriter(t *testing.T, n *node, seed uint64) *writer {
	t.Helper()
	c, err := proc.Dial(n.spec.Port, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return &writer{rng: rand.New(rand.NewPCG(seed, 1)), c: c}
}

func (w *writer) key() string { return "k" + strconv.Itoa(w.rng.IntN(400)) }
func (w *writer) val() string {
	n := w.rng.IntN(20)
	if w.rng.IntN(50) == 0 {
		n = 2000
	}
	return strconv.Itoa(w.rng.IntN(1000)) + strings.Repeat("x", n)
}

func (w *writer) command() []string {
	i := func(n int) string { return strconv.Itoa(w.rng.IntN(n)) }
	k := w.key()
	switch w.rng.IntN(30) {
	case 0, 1, 2:
		return []string{"SET", "s" + k, w.val()}
	case 3:
		return []string{"INCRBYFLOAT", "f" + k, "0." + i(99)}
	case 4:
		return []string{"APPEND", "s" + k, w.val()}
	case 5:
		return []string{"SETBIT", "b" + k, i(500), i(2)}
	case 6:
		return []string{"SET", "e" + k, w.val(), "PX", strconv.Itoa(1 + w.rng.IntN(300))}
	case 7:
		return []string{"EXPIRE", "s" + k, strconv.Itoa(1 + w.rng.IntN(100))}
	case 8, 9:
		return []string{"RPUSH", "l" + k, w.val(), w.val()}
	case 10:
		return []string{"LPOP", "l" + k}
	case 11:
		return []string{"LINSERT", "l" + k, "BEFORE", i(1000), w.val()}
	case 12, 13:
		return []string{"SADD", "t" + k, i(300), i(300), w.val()}
	case 14:
		return []string{"SPOP", "t" + k}
	case 15, 16:
		return []string{"ZADD", "z" + k, i(100) + "." + i(10), w.val(), i(100), i(50)}
	case 17:
		return []string{"ZPOPMIN", "z" + k}
	case 18, 19:
		return []string{"HSET", "h" + k, i(200), w.val()}
	case 20:
		return []string{"HINCRBY", "h" + k, "n" + i(5), i(50)}
	case 21:
		return []string{"DEL", "l" + k, "h" + k}
	case 22:
		return []string{"RENAME", "s" + k, "s" + w.key()}
	case 23:
		return []string{"SELECT", i(4)}
	case 24:
		return []string{"COPY", "h" + k, "h" + w.key(), "REPLACE"}
	case 25:
		return []string{"GETEX", "s" + k, "PX", strconv.Itoa(1 + w.rng.IntN(500))}
	case 26:
		if w.rng.IntN(20) == 0 {
			return []string{"BRPOPLPUSH", "l" + k, "l" + w.key(), "0.001"}
		}
		return []string{"RPOPLPUSH", "l" + k, "l" + w.key()}
	case 27:
		return []string{"MOVE", "s" + k, i(4)}
	case 28:
		return []string{"SORT", "l" + k, "ALPHA", "STORE", "l" + w.key()}
	}
	return []string{"GET", "s" + k}
}

// write sends n random requests, some of them as transactions.
func (w *writer) write(t *testing.T, n int) {
	t.Helper()
	pending := 0
	for range n {
		if w.rng.IntN(20) == 0 {
			w.c.Send("MULTI")
			for range 1 + w.rng.IntN(5) {
				w.c.Send(w.command()...)
				pending++
			}
			w.c.Send("EXEC")
			pending += 2
		} else {
			w.c.Send(w.command()...)
			pending++
		}
		if pending > 100 {
			w.drain(t, pending)
			pending = 0
		}
	}
	w.drain(t, pending)
}

func (w *writer) drain(t *testing.T, n int) {
	t.Helper()
	if err := w.c.Flush(); err != nil {
		t.Fatal(err)
	}
	for range n {
		if _, err := w.c.Recv(); err != nil {
			t.Fatal(err)
		}
	}
}

// start returns a constructor by name.
var makers = map[string]func(*testing.T, ...string) *node{"ours": ours, "genuine": genuine}

func TestFullAndPartialResync(t *testing.T) {
	cases := []struct {
		master, replica string
		sync            string // repl-diskless-sync of the master
		load            string // repl-diskless-load of the replica
		more            []string
	}{
		{"ours", "ours", "no", "disabled", nil},
		{"ours", "ours", "yes", "disabled", nil},
		{"ours", "ours", "yes", "swapdb", nil},
		{"ours", "ours", "yes", "on-empty-db", []string{"--appendonly", "no"}},
		{"ours", "ours", "yes", "disabled", []string{"--appendfsync", "always", "--io-loops", "3"}},
		{"genuine", "ours", "no", "disabled", nil},
		{"genuine", "ours", "yes", "disabled", nil},
		{"genuine", "ours", "yes", "swapdb", nil},
		{"genuine", "ours", "no", "on-empty-db", nil},
		{"ours", "genuine", "no", "disabled", nil},
		{"ours", "genuine", "yes", "disabled", nil},
		{"ours", "genuine", "yes", "swapdb", nil},
		{"ours", "genuine", "no", "disabled", []string{"--appendonly", "no"}},
	}
	for i, tc := range cases {
		name := fmt.Sprintf("%s-%s/%s-%s%s", tc.master, tc.replica, tc.sync, tc.load, strings.Join(tc.more, ""))
		t.Run(name, func(t *testing.T) {
			if testing.Short() && i%3 != 0 {
				t.Skip("long")
			}
			t.Parallel()
			margs, rargs := []string{"--repl-diskless-sync", tc.sync}, []string{"--repl-diskless-load", tc.load}
			if tc.master == "ours" {
				margs = append(margs, tc.more...)
			}
			if tc.replica == "ours" {
				rargs = append(rargs, tc.more...)
			}
			m := makers[tc.master](t, margs...)
			r := makers[tc.replica](t, rargs...)
			w := newWriter(t, m, uint64(i))
			w.write(t, 1000)
			if tc.load != "on-empty-db" {
				newWriter(t, r, 99).write(t, 200) // data that is replaced
			}
			r.replicate(m)
			w.write(t, 1500)
			r.linked()
			same(t, m, r)
			fulls := m.info("sync_full")

			for range 3 {
				m.do("CLIENT", "KILL", "TYPE", "replica")
				w.write(t, 500)
			}
			same(t, m, r)
			if got := m.info("sync_full"); got != fulls {
				t.Errorf("sync_full %s, was %s: a broken link must not cost a full copy", got, fulls)
			}
			if m.info("sync_partial_ok") == "0" {
				t.Error("no partial resynchronization")
			}
			if r.info("slave_repl_offset") == "" || !strings.Contains(m.info("slave0"), "state=online") {
				t.Errorf("slave0: %s", m.info("slave0"))
			}
		})
	}
}

// A chain: a replica of a replica has the same stream, with the same ids.
func TestChainedReplicas(t *testing.T) {
	t.Parallel()
	for _, names := range [][3]string{{"ours", "ours", "genuine"}, {"genuine", "ours", "ours"}} {
		t.Run(strings.Join(names[:], "-"), func(t *testing.T) {
			t.Parallel()
			a, b, c := makers[names[0]](t), makers[names[1]](t), makers[names[2]](t)
			w := newWriter(t, a, 7)
			w.write(t, 500)
			b.replicate(a)
			b.linked()
			c.replicate(b)
			w.write(t, 500)
			c.linked()
			same(t, a, b, c)
			a.do("CLIENT", "KILL", "TYPE", "replica")
			w.write(t, 500)
			b.do("CLIENT", "KILL", "TYPE", "replica")
			same(t, a, b, c)

			// The middle is promoted: its replica goes on with the new id.
			b.do("REPLICAOF", "NO", "ONE")
			newWriter(t, b, 8).write(t, 300)
			same(t, b, c)
			if c.info("master_replid2") != a.info("master_replid") {
				t.Errorf("second id %s, want the old master's %s", c.info("master_replid2"), a.info("master_replid"))
			}
			if got := b.info("sync_full"); got != "1" {
				t.Errorf("sync_full of the promoted replica: %s", got)
			}
			// And the old master comes back under it.
			a.replicate(b)
			same(t, b, a, c)
		})
	}
}

// A master dies, a replica takes over, the other one and the old master follow
// without a full copy.
func TestPromotionKeepsTheHistory(t *testing.T) {
	t.Parallel()
	m, r1, r2 := ours(t, "--repl-ping-replica-period", "3600"), ours(t), ours(t)
	// What the master says of itself, between the last look at it and its end, might reach one of the two alone.
	m.do("DEBUG", "SET-ACTIVE-EXPIRE", "0")
	w := newWriter(t, m, 3)
	w.write(t, 500)
	r1.replicate(m)
	r2.replicate(m)
	r1.linked()
	r2.linked()
	w.write(t, 500)
	same(t, m, r1, r2)
	m.p.Kill()
	r1.do("REPLICAOF", "NO", "ONE")
	r2.replicate(r1)
	w = newWriter(t, r1, 4)
	w.write(t, 300)
	same(t, r1, r2)
	host, port := r1.addr()
	m.start("--replicaof", host+" "+port)
	same(t, r1, m, r2)
	if got := r1.info("sync_full"); got != "0" {
		t.Errorf("%s full copies were made of the promoted replica", got)
	}
	if got := r1.info("sync_partial_ok"); got != "2" {
		t.Errorf("sync_partial_ok %s, want 2", got)
	}
}

// A replica that restarts goes on from its own journal, in order or killed.
func TestReplicaRestartContinues(t *testing.T) {
	t.Parallel()
	m := genuineOrOurs(t, "--repl-backlog-size", "32mb")
	r := ours(t)
	w := newWriter(t, m, 5)
	r.replicate(m)
	r.linked()
	host, port := m.addr()
	for i := range 3 {
		w.write(t, 500)
		if i == 1 {
			r.p.Kill()
		} else if err := r.p.Terminate(patience); err != nil {
			t.Fatal(err)
		}
		w.write(t, 300)
		r.start("--replicaof", host+" "+port)
		same(t, m, r)
	}
	if got := m.info("sync_full"); got != "1" {
		t.Errorf("sync_full %s, want 1", got)
	}
}

func genuineOrOurs(t *testing.T, args ...string) *node {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		return ours(t, args...)
	}
	return genuine(t, args...)
}

// A master that restarts takes a new id; the old one stays valid up to what was
// recovered, so that replicas continue.
func TestMasterRestartTakesANewID(t *testing.T) {
	t.Parallel()
	m, r := ours(t), ours(t)
	w := newWriter(t, m, 6)
	r.replicate(m)
	r.linked()
	w.write(t, 500)
	same(t, m, r)
	old, end := m.info("master_replid"), m.info("master_repl_offset")
	m.p.Kill()
	m.start()
	if m.info("master_replid") == old || m.info("master_replid2") != old {
		t.Errorf("ids %s and %s after the restart, was %s", m.info("master_replid"), m.info("master_replid2"), old)
	}
	off, err := strconv.Atoi(end)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := strconv.Atoi(m.info("second_repl_offset")); err != nil || second < off+1 {
		t.Errorf("second_repl_offset %d, the end was %d (%v)", second, off, err)
	}
	newWriter(t, m, 7).write(t, 300)
	same(t, m, r)
	if got := m.info("sync_full"); got != "0" {
		t.Errorf("sync_full %s: the replica could have continued", got)
	}
}

func TestWaitAndMinReplicas(t *testing.T) {
	t.Parallel()
	m, r1, r2 := ours(t), ours(t), genuineOrOurs(t)
	if v := m.do("WAIT", "1", "10"); v.Int != 0 {
		t.Errorf("WAIT without replicas: %d", v.Int)
	}
	m.do("CONFIG", "SET", "min-replicas-to-write", "2", "min-replicas-max-lag", "60")
	m.fails("NOREPLICAS Not enough good replicas to write.", "SET", "k", "v")
	r1.replicate(m)
	r2.replicate(m)
	r1.linked()
	r2.linked()
	eventually(t, "writes are accepted", func() bool {
		v, err := m.c.Do("SET", "k", "v")
		return err == nil && v.Err() == nil
	})
	if v := m.do("WAIT", "2", "0"); v.Int != 2 {
		t.Errorf("WAIT 2: %d", v.Int)
	}
	m.do("SET", "k", "w")
	if v := m.do("WAIT", "1", "0"); v.Int < 1 {
		t.Errorf("WAIT 1: %d", v.Int)
	}
	r1.fails("ERR WAIT cannot be used with replica instances.", "WAIT", "1", "0")
	r1.fails("READONLY You can't write against a read only replica.", "SET", "k", "v")
	m.fails("ERR timeout is negative", "WAIT", "1", "-1")
	r1.do("REPLICAOF", "NO", "ONE")
	eventually(t, "one replica is not enough", func() bool { return m.info("connected_slaves") == "1" })
	m.fails("NOREPLICAS", "SET", "k", "v")
	if v := m.do("WAIT", "2", "50"); v.Int > 1 {
		t.Errorf("WAIT 2 with one replica: %d", v.Int)
	}
}

func TestFailover(t *testing.T) {
	t.Parallel()
	for _, other := range []string{"ours", "genuine"} {
		t.Run(other, func(t *testing.T) {
			t.Parallel()
			m, r := ours(t), makers[other](t)
			m.fails("ERR FAILOVER requires connected replicas.", "FAILOVER")
			m.fails("ERR No failover in progress.", "FAILOVER", "ABORT")
			r.replicate(m)
			r.linked()
			eventually(t, "online", func() bool { return strings.Contains(m.info("slave0"), "state=online") })
			m.fails("ERR FAILOVER target HOST and PORT is not a replica.", "FAILOVER", "TO", "127.0.0.1", "1")
			m.fails("ERR FAILOVER with force option requires both a timeout and target HOST and IP.", "FAILOVER", "FORCE")
			m.fails("ERR FAILOVER timeout must be greater than 0", "FAILOVER", "TIMEOUT", "0")
			w := newWriter(t, m, 11)
			w.write(t, 300)
			host, port := r.addr()
			m.do("FAILOVER", "TO", host, port, "TIMEOUT", "60000")
			// A write that waits for the end finds a replica.
			m.fails("READONLY", "SET", "k", "v")
			eventually(t, "roles exchanged", func() bool { return r.info("role") == "master" && m.info("role") == "slave" })
			m.linked()
			same(t, r, m)
			if got := m.info("master_failover_state"); got != "no-failover" {
				t.Errorf("master_failover_state %s", got)
			}
			// And back.
			eventually(t, "online", func() bool { return strings.Contains(r.info("slave0"), "state=online") })
			r.do("FAILOVER")
			eventually(t, "roles exchanged back", func() bool { return m.info("role") == "master" && r.info("role") == "slave" })
			newWriter(t, m, 12).write(t, 200)
			same(t, m, r)
		})
	}
}

// A FAILOVER to a replica that does not answer ends by its timeout, and writes
// go on; FAILOVER ABORT does the same.
func TestFailoverGivesUp(t *testing.T) {
	t.Parallel()
	m, r := ours(t), ours(t)
	r.replicate(m)
	r.linked()
	eventually(t, "online", func() bool { return strings.Contains(m.info("slave0"), "state=online") })
	r.freeze()
	defer r.p.Signal(syscall.SIGCONT)
	m.do("SET", "k", "v")
	m.do("FAILOVER", "TIMEOUT", "300")
	m.do("SET", "k", "w") // waits until the failover is given up
	eventually(t, "the log says why", func() bool { return m.logged("Replica never caught up before timeout") })
	m.do("FAILOVER")
	if got := m.info("master_failover_state"); got != "waiting-for-sync" {
		t.Errorf("master_failover_state %s", got)
	}
	m.fails("ERR FAILOVER already in progress.", "FAILOVER")
	m.fails("ERR REPLICAOF not allowed while failing over.", "REPLICAOF", "NO", "ONE")
	m.do("FAILOVER", "ABORT")
	m.do("SET", "k", "x")
	if m.info("role") != "master" {
		t.Error("not a master any more")
	}
}

// All replicas that wait share one snapshot.
func TestReplicasShareASnapshot(t *testing.T) {
	t.Parallel()
	for _, sync := range []string{"yes", "no"} {
		t.Run(sync, func(t *testing.T) {
			t.Parallel()
			m := ours(t, "--repl-diskless-sync", sync, "--repl-diskless-sync-delay", "600", "--repl-diskless-sync-max-replicas", "3")
			m.do("DEBUG", "POPULATE", "20000", "key", "100")
			replicas := []*node{ours(t), ours(t), ours(t)}
			for _, r := range replicas {
				r.replicate(m)
			}
			for _, r := range replicas {
				r.linked()
			}
			same(t, m, replicas...)
			const began = "Starting BGSAVE for SYNC with target"
			eventually(t, "the snapshot is in the log", func() bool { return m.logged(began) })
			if n := strings.Count(m.p.Output(), began); sync == "yes" && n != 1 {
				t.Errorf("%d snapshots for three replicas that came together", n)
			}
		})
	}
}

// A replica that does not read costs the master no memory, and goes on where it
// stopped.
func TestSlowReplicaIsACursor(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 150 MB")
	}
	t.Parallel()
	m, r := ours(t), ours(t)
	r.replicate(m)
	r.linked()
	m.do("SET", "k", "v")
	same(t, m, r)
	before, err := m.p.RSS()
	if err != nil {
		t.Fatal(err)
	}
	r.freeze()
	value := strings.Repeat("v", 100_000)
	for range 75 {
		for range 20 {
			m.c.Send("SET", "k", value)
		}
		if err := m.c.Flush(); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if _, err := m.c.Recv(); err != nil {
				t.Fatal(err)
			}
		}
	}
	after, err := m.p.RSS()
	if err != nil {
		t.Fatal(err)
	}
	r.p.Signal(syscall.SIGCONT)
	for at := r.info("master_repl_offset"); at != m.info("master_repl_offset"); { // it takes as long as its disk takes
		eventually(t, "the replica moves on", func() bool {
			before := at
			at = r.info("master_repl_offset")
			return at != before
		})
	}
	same(t, m, r)
	// The heap of a master that has just begun grows by some 50 MB whatever is written.
	if grown := after - before; grown > 100<<20 {
		t.Errorf("150 MB for a replica that stood still made the master grow by %d MB", grown>>20)
	}
	if got := m.info("sync_full"); got != "1" {
		t.Errorf("sync_full %s", got)
	}
}

// The lineage guard: a replica that comes back by itself does not give its data
// up for an empty master; told to, it does.
func TestLineageGuard(t *testing.T) {
	t.Parallel()
	m, r := ours(t), ours(t)
	m.do("DEBUG", "SET-ACTIVE-EXPIRE", "0") // nothing changes between the digest and the master's end
	newWriter(t, m, 21).write(t, 300)
	r.replicate(m)
	r.linked()
	same(t, m, r)
	digest := r.do("DEBUG", "DIGEST").Text()
	m.p.Kill()
	m.spec.Dir = t.TempDir() // the master lost its disk
	m.start()
	eventually(t, "the refusal is logged", func() bool { return r.logged("Refusing the full resynchronization") })
	if got := r.do("DEBUG", "DIGEST").Text(); got != digest {
		t.Error("the replica's data has changed")
	}
	if got := r.info("master_link_status"); got != "down" {
		t.Errorf("master_link_status %s", got)
	}
	r.replicate(m)
	same(t, m, r)
	if n := r.do("DBSIZE").Int; n != 0 {
		t.Errorf("%d keys after following the empty master", n)
	}
}

// What a deposed master has and its successor has not is saved, as commands.
func TestDivergenceFile(t *testing.T) {
	t.Parallel()
	m, r := ours(t), ours(t)
	r.replicate(m)
	r.linked()
	newWriter(t, m, 31).write(t, 200)
	same(t, m, r)
	r.freeze()
	m.do("SELECT", "2")
	for i := range 400 { // more than the sockets hold
		m.do("SET", "lonely"+strconv.Itoa(i), strings.Repeat("v", 40000))
	}
	m.p.Kill() // with it goes what the replica's socket had not taken
	r.p.Signal(syscall.SIGCONT)
	eventually(t, "link down", func() bool { return r.info("master_link_status") == "down" })
	r.do("REPLICAOF", "NO", "ONE")
	r.do("SET", "successor", "1")
	host, port := r.addr()
	m.start("--replicaof", host+" "+port)
	same(t, r, m)
	found, err := filepath.Glob(filepath.Join(m.spec.Dir, "divergence-*.resp"))
	if err != nil || len(found) != 1 {
		t.Fatalf("divergence files %v, %v", found, err)
	}
	b, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	// It can be replayed: into a fresh server, it gives the lost keys.
	fresh := ours(t)
	c, err := proc.Dial(fresh.spec.Port, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Raw(b); err != nil {
		t.Fatal(err)
	}
	fresh.do("SELECT", "2")
	eventually(t, "the lost key is there", func() bool { return !fresh.do("GET", "lonely399").Null })
	eventually(t, "the log says how much was saved", func() bool { return m.logged("bytes of the replication stream") })
}

// A snapshot that is damaged on its way does not cost the replica its data.
func TestDamagedSnapshotIsRefused(t *testing.T) {
	t.Parallel()
	for _, load := range []string{"disabled", "swapdb"} {
		t.Run(load, func(t *testing.T) {
			t.Parallel()
			r := ours(t, "--repl-diskless-load", load)
			r.do("DEBUG", "SET-ACTIVE-EXPIRE", "0") // nothing changes between the digest and REPLICAOF
			newWriter(t, r, 41).write(t, 300)
			digest := r.do("DEBUG", "DIGEST").Text()
			bad := newFakeMaster(t, "REDIS0010\xfe\x00\x00\x01k\x03abc\xff\x01\x02\x03\x04\x05\x06\x07\x08")
			r.do("REPLICAOF", "127.0.0.1", strconv.Itoa(bad.port))
			eventually(t, "the damage is logged", func() bool { return r.logged("Failed trying to load the MASTER synchronization DB") })
			if got := r.do("DEBUG", "DIGEST").Text(); got != digest {
				t.Error("the replica's data has changed")
			}
		})
	}
}

// The texts of REPLCONF, PSYNC and REPLICAOF where they refuse.
func TestReplicationErrors(t *testing.T) {
	t.Parallel()
	for _, maker := range []string{"ours", "genuine"} {
		t.Run(maker, func(t *testing.T) {
			t.Parallel()
			n := makers[maker](t)
			n.fails("ERR syntax error", "REPLCONF", "capa")
			n.fails("ERR Unrecognized REPLCONF option: what", "REPLCONF", "what", "1")
			n.fails("ERR value is not an integer or out of range", "REPLCONF", "listening-port", "x")
			n.fails("ERR value is not an integer or out of range", "PSYNC", "?", "x")
			n.fails("ERR Invalid master port", "REPLICAOF", "127.0.0.1", "x")
			n.fails("ERR value is not an integer or out of range", "WAIT", "x", "0")
			n.fails("ERR timeout is not an integer or out of range", "WAIT", "0", "x")
			n.fails("PSYNC FAILOVER can't be sent to a master.", "PSYNC", "?", "-1", "FAILOVER")
			if v := n.do("ROLE"); v.List[0].Str != "master" || len(v.List) != 3 {
				t.Errorf("ROLE %+v", v)
			}
			free, err := proc.FreePort()
			if err != nil {
				t.Fatal(err)
			}
			n.do("REPLICAOF", "127.0.0.1", strconv.Itoa(free))
			if got := n.do("REPLICAOF", "127.0.0.1", strconv.Itoa(free)).Str; got != "OK Already connected to specified master" {
				t.Errorf("REPLICAOF again: %q", got)
			}
			n.fails("NOMASTERLINK Can't SYNC while not connected with my master", "PSYNC", "?", "-1")
			n.do("CONFIG", "SET", "replica-serve-stale-data", "no")
			n.fails("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", "GET", "k")
			if got := n.do("CONFIG", "GET", "replicaof").List[1].Str; got != "127.0.0.1 "+strconv.Itoa(free) {
				t.Errorf("CONFIG GET replicaof: %q", got)
			}
		})
	}
}

// Clients that ask for a shutdown wait, blocked, until the replicas have caught
// up; SHUTDOWN ABORT answers them all. The log says who misses what.
func TestShutdownWaitsForReplicas(t *testing.T) {
	t.Parallel()
	m, r := ours(t, "--shutdown-timeout", "60"), ours(t)
	r.replicate(m)
	r.linked()
	eventually(t, "online", func() bool { return strings.Contains(m.info("slave0"), "state=online") })
	r.freeze()
	defer r.p.Signal(syscall.SIGCONT)
	m.do("SET", "k", "v")
	var waiting []*proc.Conn
	for range 2 {
		c, err := proc.Dial(m.spec.Port, patience)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Send("SHUTDOWN")
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
		waiting = append(waiting, c)
	}
	eventually(t, "both blocked", func() bool { return m.info("blocked_clients") == "2" })
	m.do("SHUTDOWN", "ABORT")
	for _, c := range waiting {
		v, err := c.Recv()
		if err != nil || v.Text() != "ERR Errors trying to SHUTDOWN. Check logs." {
			t.Errorf("aborted: %v, %v", v, err)
		}
	}
	eventually(t, "none blocked", func() bool { return m.info("blocked_clients") == "0" })
	m.do("CONFIG", "SET", "shutdown-timeout", "1")
	waiting[0].Send("SHUTDOWN")
	if err := waiting[0].Flush(); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"User requested shutdown...", "Waiting for replicas before shutting down.", "Lagging replica ", "0 of 1 replicas are in sync when shutting down.", "Redis is now ready to exit, bye bye..."} {
		eventually(t, "log line "+line, func() bool { return m.logged(line) })
	}
}

// What clients hold counts for maxmemory at once, and as soon as they are gone
// it does not.
func TestClientsCountForMaxmemory(t *testing.T) {
	t.Parallel()
	m := ours(t, "--maxmemory", "11mb", "--maxmemory-policy", "allkeys-random")
	fill := func() {
		m.do("FLUSHALL", "SYNC")
		for i := range 50 {
			m.do("SETRANGE", strconv.Itoa(i), "100000", "x")
		}
		if n := m.do("DBSIZE").Int; n != 50 {
			t.Fatalf("%d keys", n)
		}
	}
	for range 3 {
		fill()
		var readers []*proc.Conn
		for range 20 {
			c, err := proc.Dial(m.spec.Port, patience)
			if err != nil {
				t.Fatal(err)
			}
			readers = append(readers, c)
		}
		eventually(t, "eviction", func() bool {
			for _, c := range readers {
				c.Send("MGET", "1")
				if err := c.Flush(); err != nil {
					t.Fatal(err)
				}
			}
			return m.do("DBSIZE").Int < 50
		})
		for _, c := range readers {
			c.Close()
		}
		eventually(t, "clients gone", func() bool { return m.info("connected_clients") == "1" })
	}
}
