package crash

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"holdfast/test/proc"
)

var (
	flagSeed   = flag.Uint64("crash.seed", 1, "seed of what the rounds do; when processes run is up to the machine")
	flagRounds = flag.Int("crash.rounds", 0, "rounds of kill -9; 0: 30, or 200 with HOLDFAST_SOAK=1")
)

// A start waits for the disk a dozen times, one after the other, and a reply at
// appendfsync always does once or twice: with a second and more for each, on a
// disk that others use, 20 s are not far away.
const (
	startLimit = 60 * time.Second
	replyLimit = 60 * time.Second
	txWrites   = 10_000
)

var binary string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	flag.Parse()
	if binary = os.Getenv("HOLDFAST_CRASH_BINARY"); binary != "" {
		return m.Run()
	}
	tmp, err := os.MkdirTemp("", "holdfast-crash-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "crash:", err)
		return 1
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	binary = filepath.Join(tmp, "holdfast")
	if out, err := exec.Command("go", "build", "-o", binary, "holdfast/cmd/holdfast").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "crash: go build ./cmd/holdfast: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// workDir makes a directory that stays when the test fails.
func workDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "holdfast-crash-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the data is kept in %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// start starts a server on dir; it is killed at the end of the test at the latest.
func start(t *testing.T, dir string, args ...string) *proc.Process {
	t.Helper()
	port, err := proc.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	p, err := proc.Start(proc.Spec{Argv: []string{binary, "redis-server"}, Dir: dir, Port: port, Args: args})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

func startReady(t *testing.T, dir string, args ...string) *proc.Process {
	t.Helper()
	p := start(t, dir, args...)
	if err := p.Ready(startLimit); err != nil {
		t.Fatalf("%v", err)
	}
	return p
}

func dial(t *testing.T, p *proc.Process) *proc.Conn {
	t.Helper()
	c, err := proc.Dial(p.Spec.Port, replyLimit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// writer is one connection's writes: sent and acknowledged are their numbers.
type writer struct {
	model *model // what the server was found to hold
	db    int
	depth int  // requests in flight, 1: not pipelined
	multi bool // each batch is a MULTI/EXEC

	sent  atomic.Int64 // the highest number that may have been executed
	acked atomic.Int64 // the highest number acknowledged, or seen by a reader
}

// run writes until the connection breaks, which is how a round ends. Any other
// end is an error.
func (w *writer) run(port int, rng *rand.Rand) error {
	c, err := proc.Dial(port, replyLimit)
	if err != nil {
		return nil // killed before it began
	}
	defer c.Close()
	if v, err := c.Do("SELECT", strconv.Itoa(w.db)); err != nil {
		return nil
	} else if v.Err() != nil {
		return v.Err()
	}
	for n := w.model.n; ; {
		batch := int64(1)
		if w.depth > 1 {
			batch = 1 + rng.Int64N(int64(w.depth))
		}
		if w.multi {
			c.Send("MULTI")
		}
		for i := range batch {
			c.Send(request(w.model.prefix, n+1+i)...)
		}
		if w.multi {
			c.Send("EXEC")
		}
		w.sent.Store(n + batch)
		if c.Flush() != nil {
			return nil
		}
		if done, err := w.replies(c, n, batch); done || err != nil {
			return err
		}
		n += batch
	}
}

// replies reads the replies of a batch. done: the connection broke.
func (w *writer) replies(c *proc.Conn, n, batch int64) (done bool, err error) {
	count := batch
	if w.multi {
		count += 2
	}
	for i := range count {
		v, err := c.Recv()
		if err != nil {
			var timeout interface{ Timeout() bool }
			if errors.As(err, &timeout) && timeout.Timeout() {
				return true, fmt.Errorf("writer %s: no reply to write %d within %s", w.model.prefix, n+1+i, replyLimit)
			}
			return true, nil
		}
		if v.Err() != nil {
			return true, fmt.Errorf("writer %s: write %d: %w", w.model.prefix, n+1+i, v.Err())
		}
		switch {
		case !w.multi:
			w.raise(n + 1 + i)
		case i == count-1:
			if int64(len(v.List)) != batch {
				return true, fmt.Errorf("writer %s: EXEC of %d gave %d replies", w.model.prefix, batch, len(v.List))
			}
			w.raise(n + batch)
		}
	}
	return false, nil
}

// txWriter writes the same number to txWrites places in one MULTI/EXEC.
type txWriter struct {
	found, sent, acked int64
}

func (w *txWriter) run(port int) error {
	c, err := proc.Dial(port, replyLimit)
	if err != nil {
		return nil
	}
	defer c.Close()
	for n := w.found + 1; ; n++ {
		num := strconv.FormatInt(n, 10)
		c.Send("MULTI")
		for i := range txWrites {
			if i%2 == 0 {
				c.Send("SET", "tx:"+strconv.Itoa(i), num)
			} else {
				c.Send("HSET", "txhash", strconv.Itoa(i), num)
			}
		}
		c.Send("EXEC")
		w.sent = n
		if c.Flush() != nil {
			return nil
		}
		for i := range txWrites + 2 {
			v, err := c.Recv()
			if err != nil {
				return nil
			}
			if v.Err() != nil {
				return fmt.Errorf("transaction %d: %w", n, v.Err())
			}
			if i == txWrites+1 && len(v.List) != txWrites {
				return fmt.Errorf("transaction %d: EXEC gave %d replies", n, len(v.List))
			}
		}
		w.acked = n
	}
}

// verify holds that the transaction is there whole or not at all.
func (w *txWriter) verify(c *proc.Conn) error {
	args := []string{"MGET"}
	for i := 0; i < txWrites; i += 2 {
		args = append(args, "tx:"+strconv.Itoa(i))
	}
	v, err := c.Must(args...)
	if err != nil {
		return err
	}
	h, err := c.Must("HGETALL", "txhash")
	if err != nil {
		return err
	}
	seen := map[string]int{}
	for _, e := range v.List {
		seen[e.Str]++
	}
	for i := 1; i < len(h.List); i += 2 {
		seen[h.List[i].Str]++
	}
	if missing := txWrites/2 - len(h.List)/2; missing > 0 {
		seen[""] += missing
	}
	if len(seen) != 1 {
		return fmt.Errorf("a MULTI/EXEC of %d writes is there in part: value -> places %v", txWrites, seen)
	}
	for s := range seen {
		n := int64(0)
		if s != "" {
			if n, err = strconv.ParseInt(s, 10, 64); err != nil {
				return err
			}
		}
		if n < w.acked || n > w.sent {
			return fmt.Errorf("transaction %d was acknowledged, %d sent; found %d", w.acked, w.sent, n)
		}
		w.found, w.sent, w.acked = n, n, n
	}
	return nil
}

// plan is what a round does.
type plan struct {
	args        []string
	checkpoints string // a command that is repeated, or ""
	tx          bool
	toggle      bool            // appendfsync changes all the time
	early       []time.Duration // kills of starts that are not waited for
	load        time.Duration
	term        time.Duration // SIGTERM so long before the kill; 0: none
}

func newPlan(rng *rand.Rand) plan {
	pick := func(s ...string) string { return s[rng.IntN(len(s))] }
	p := plan{load: 20*time.Millisecond + time.Duration(rng.IntN(400))*time.Millisecond, tx: rng.IntN(3) == 0}
	p.args = []string{"--save", "", "--appendfsync", pick("always", "always", "always", "everysec"),
		"--journal-segment-size", pick("4096", "65536", "262144", "1mb"), "--io-loops", pick("1", "1", "3")}
	switch rng.IntN(4) {
	case 0:
		p.checkpoints = "BGREWRITEAOF"
	case 1:
		p.checkpoints = "BGSAVE"
	case 2:
		p.args = append(p.args, "--auto-aof-rewrite-min-size", "64kb", "--auto-aof-rewrite-percentage", "5")
	}
	if p.tx { // one takes a while on a busy machine
		p.load += 300 * time.Millisecond
	}
	p.toggle = rng.IntN(5) == 0
	if rng.IntN(6) == 0 {
		p.term = time.Duration(1 + rng.IntN(int(20*time.Millisecond)))
	}
	for range max(0, rng.IntN(5)-2) {
		p.early = append(p.early, time.Duration(rng.IntN(60))*time.Millisecond)
	}
	return p
}

func (p plan) String() string {
	s := strings.Join(p.args[2:], " ")
	if p.checkpoints != "" {
		s += ", " + p.checkpoints
	}
	if p.tx {
		s += ", transactions"
	}
	if p.toggle {
		s += ", appendfsync changes"
	}
	if p.term > 0 {
		s += fmt.Sprintf(", SIGTERM %s before the kill", p.term)
	}
	return fmt.Sprintf("%s, %d kills of the start, %s of load", s, len(p.early), p.load)
}

// TestKill is the promise P1 of the design for a crash of the process: kill -9
// at random moments under load, restarts on the same directory.
func TestKill(t *testing.T) {
	rounds := 30
	if os.Getenv("HOLDFAST_SOAK") != "" {
		rounds = 200
	}
	if testing.Short() {
		rounds = 6
	}
	if *flagRounds > 0 {
		rounds = *flagRounds
	}
	const perDir = 10
	for done := 0; done < rounds; done += perDir {
		t.Run(fmt.Sprintf("rounds%d", done), func(t *testing.T) {
			t.Parallel()
			killRounds(t, rand.New(rand.NewPCG(*flagSeed, uint64(done))), done, min(perDir, rounds-done))
		})
	}
}

// killRounds are rounds on one directory.
func killRounds(t *testing.T, rng *rand.Rand, first, n int) {
	base := workDir(t)
	d := &drill{t: t, dir: filepath.Join(base, "data"), before: filepath.Join(base, "before")}
	if err := os.Mkdir(d.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i, depth := range []int{1, 1, 8, 100, 100, 12} {
		d.writers = append(d.writers, &writer{model: newModel(fmt.Sprintf("w%d:", i)), db: i % 3, depth: depth, multi: i == 5})
	}
	for i := range n {
		p := newPlan(rng)
		if err := d.round(p, rng); err != nil {
			t.Fatalf("round %d (%s): %v", first+i, p, err)
		}
	}
	var writes int64
	for _, w := range d.writers {
		writes += w.model.n
	}
	p := startReady(t, d.dir, "--save", "")
	if err := d.verify(p); err != nil {
		t.Fatalf("after the last round: %v", err)
	}
	if err := p.Terminate(startLimit); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d rounds, %d writes, %d transactions of %d, %d checkpoints asked for", n, writes, d.tx.found, txWrites, d.checkpoints.Load())
}

// drill is a directory and what is known about its data.
type drill struct {
	t           *testing.T
	dir, before string
	writers     []*writer
	tx          txWriter
	checkpoints atomic.Int64
}

func (d *drill) round(plan plan, rng *rand.Rand) error {
	for _, after := range plan.early {
		p := start(d.t, d.dir, plan.args...)
		select { // the moment of the kill is the test's input, nothing is waited for
		case <-p.Exited():
			return fmt.Errorf("a start ended by itself with code %d:\n%s", p.ExitCode(), p.Output())
		case <-time.After(after):
		}
		p.Kill()
	}
	p := start(d.t, d.dir, plan.args...)
	defer p.Kill()
	if err := p.Ready(startLimit); err != nil {
		return err
	}
	if err := d.verify(p); err != nil {
		return fmt.Errorf("%w\nthe start said:\n%s", err, p.Output())
	}
	if err := d.load(p, plan, rng); err != nil {
		return err
	}
	return d.remember()
}

// load runs all writers until the process is killed.
func (d *drill) load(p *proc.Process, plan plan, rng *rand.Rand) error {
	var wg sync.WaitGroup
	errs := make(chan error, len(d.writers)+4)
	run := func(f func() error) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs <- f()
		}()
	}
	port := p.Spec.Port
	for _, w := range d.writers {
		own := rand.New(rand.NewPCG(rng.Uint64(), 1))
		run(func() error { return w.run(port, own) })
	}
	own := rand.New(rand.NewPCG(rng.Uint64(), 2))
	run(func() error { return d.read(port, own) })
	if plan.tx {
		run(func() error { return d.tx.run(port) })
	}
	if plan.checkpoints != "" {
		run(func() error { return d.checkpoint(port, plan.checkpoints) })
	}
	if plan.toggle {
		run(func() error { return d.toggle(port) })
	}
	var early error
	select {
	case <-time.After(plan.load): // the moment of the kill is the test's input
	case <-p.Exited():
		early = fmt.Errorf("the server ended by itself with code %d:\n%s", p.ExitCode(), p.Output())
	}
	if plan.term > 0 && early == nil {
		p.Signal(syscall.SIGTERM)
		if p.WaitExit(plan.term) == nil && p.ExitCode() != 0 {
			early = fmt.Errorf("after SIGTERM the server ended with code %d:\n%s", p.ExitCode(), p.Output())
		}
	}
	p.Kill()
	wg.Wait()
	close(errs)
	all := []error{early}
	for err := range errs {
		all = append(all, err)
	}
	return errors.Join(all...)
}

// read reads counters: what somebody has read must survive as well.
func (d *drill) read(port int, rng *rand.Rand) error {
	c, err := proc.Dial(port, replyLimit)
	if err != nil {
		return nil
	}
	defer c.Close()
	for {
		w := d.writers[rng.IntN(len(d.writers))]
		c.Send("SELECT", strconv.Itoa(w.db))
		c.Send("GET", w.model.prefix+"count")
		if c.Flush() != nil {
			return nil
		}
		if _, err := c.Recv(); err != nil {
			return nil
		}
		v, err := c.Recv()
		if err != nil {
			return nil
		}
		if n, err := strconv.ParseInt(v.Str, 10, 64); err == nil {
			w.raise((n-1)*kinds + 1) // the write that makes the counter n
		}
	}
}

func (w *writer) raise(n int64) {
	for old := w.acked.Load(); old < n; old = w.acked.Load() {
		if w.acked.CompareAndSwap(old, n) {
			return
		}
	}
}

// toggle changes appendfsync all the time: at no level does the end of the
// process alone cost anything.
func (d *drill) toggle(port int) error {
	c, err := proc.Dial(port, replyLimit)
	if err != nil {
		return nil
	}
	defer c.Close()
	for i := 0; ; i++ {
		v, err := c.Do("CONFIG", "SET", "appendfsync", []string{"no", "always", "everysec"}[i%3])
		if err != nil {
			return nil
		}
		if v.Err() != nil {
			return fmt.Errorf("CONFIG SET appendfsync: %w", v.Err())
		}
	}
}

// checkpoint asks for checkpoints all the time; one that runs refuses the next.
func (d *drill) checkpoint(port int, command string) error {
	c, err := proc.Dial(port, replyLimit)
	if err != nil {
		return nil
	}
	defer c.Close()
	for {
		v, err := c.Do(command)
		if err != nil {
			return nil
		}
		switch {
		case v.Err() == nil:
			d.checkpoints.Add(1)
		case !strings.Contains(v.Str, "in progress"):
			return fmt.Errorf("%s: %w", command, v.Err())
		}
	}
}

// verify holds the data against what was sent and acknowledged; the models are
// then those of what was found.
func (d *drill) verify(p *proc.Process) error {
	c, err := proc.Dial(p.Spec.Port, replyLimit)
	if err != nil {
		return err
	}
	defer c.Close()
	keys := map[int]int64{}
	for _, w := range d.writers {
		if _, err := c.Must("SELECT", strconv.Itoa(w.db)); err != nil {
			return err
		}
		m, err := findPrefix(c, w.model, w.acked.Load())
		if err != nil {
			return fmt.Errorf("%w\n  (acknowledged %d, sent %d)", err, w.acked.Load(), w.sent.Load())
		}
		if m.n < w.acked.Load() || m.n > max(w.sent.Load(), w.model.n) {
			return fmt.Errorf("writer %s: %d writes acknowledged, %d sent; %d are there", w.model.prefix, w.acked.Load(), w.sent.Load(), m.n)
		}
		w.model = m
		w.acked.Store(m.n)
		w.sent.Store(m.n)
		keys[w.db] += m.keys()
	}
	if _, err := c.Must("SELECT", "0"); err != nil {
		return err
	}
	if err := d.tx.verify(c); err != nil {
		return err
	}
	if d.tx.found > 0 {
		keys[0] += txWrites/2 + 1
	}
	for db := range 16 {
		if _, err := c.Must("SELECT", strconv.Itoa(db)); err != nil {
			return err
		}
		if v, err := c.Must("DBSIZE"); err != nil || v.Int != keys[db] {
			return fmt.Errorf("database %d holds %d keys instead of %d, %v", db, v.Int, keys[db], err)
		}
	}
	return nil
}

// remember links the files as the killed process left them into before; a start
// replaces files and does not change them.
func (d *drill) remember() error {
	if err := os.RemoveAll(d.before); err != nil {
		return err
	}
	return filepath.WalkDir(d.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(d.dir, path)
		if err != nil {
			return err
		}
		to := filepath.Join(d.before, rel)
		if e.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		if !e.Type().IsRegular() {
			return nil
		}
		return os.Link(path, to)
	})
}
