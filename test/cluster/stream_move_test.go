package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/redis/cluster/slot"
	"holdfast/test/proc"
)

// loader is a set of clients that write new keys without a pause, each key once,
// and remember every reply that is not what it should be.
type loader struct {
	run   int64 // so that keys of several runs differ
	nodes []*node
	tags  []string // hash tags of the slots to write to
	stop  chan struct{}
	wg    sync.WaitGroup

	mu      sync.Mutex
	acked   []string
	moved   int
	ask     int
	errs    map[string]int
	longest time.Duration // of one write, redirects included
}

var loads atomic.Int64

func load(nodes []*node, tags []string, clients int) *loader {
	l := &loader{run: loads.Add(1), nodes: nodes, tags: tags, stop: make(chan struct{}), errs: map[string]int{}}
	for c := range clients {
		l.wg.Add(1)
		go func() {
			defer l.wg.Done()
			l.client(c)
		}()
	}
	return l
}

func (l *loader) client(c int) {
	conns := map[int]*proc.Conn{}
	defer func() {
		for _, x := range conns {
			x.Close()
		}
	}()
	at := map[string]int{} // port, by tag
	for i := 0; ; i++ {
		select {
		case <-l.stop:
			return
		default:
		}
		tag := l.tags[(i*7+c*13)%len(l.tags)]
		if at[tag] == 0 {
			at[tag] = l.nodes[0].port
		}
		began := time.Now()
		key := fmt.Sprintf("{%s}load:%d:%d:%d", tag, l.run, c, i)
		err := l.write(conns, at, tag, key)
		l.mu.Lock()
		if err != nil {
			l.errs[err.Error()]++
		} else {
			l.acked = append(l.acked, key)
			l.longest = max(l.longest, time.Since(began))
		}
		l.mu.Unlock()
	}
}

// write writes a key, and follows MOVED and ASK.
func (l *loader) write(conns map[int]*proc.Conn, at map[string]int, tag, key string) error {
	port, asking := at[tag], false
	for range 100 {
		c := conns[port]
		if c == nil {
			var err error
			if c, err = proc.Dial(port, deadline); err != nil {
				return err
			}
			conns[port] = c
		}
		if asking {
			if v, err := c.Do("ASKING"); err != nil || v.Err() != nil {
				return fmt.Errorf("ASKING: %v %s", err, v.Str)
			}
		}
		v, err := c.Do("INCR", key)
		if err != nil {
			c.Close()
			delete(conns, port)
			return err
		}
		if v.Err() == nil {
			return nil
		}
		f := strings.Fields(v.Str)
		if (f[0] != "MOVED" && f[0] != "ASK") || len(f) != 3 {
			return fmt.Errorf("%s", v.Str)
		}
		_, p, _ := net.SplitHostPort(f[2])
		if port, err = strconv.Atoi(p); err != nil {
			return err
		}
		l.mu.Lock()
		if asking = f[0] == "ASK"; asking {
			l.ask++
		} else {
			l.moved++
			at[tag] = port
		}
		l.mu.Unlock()
	}
	return fmt.Errorf("redirected without end")
}

func (l *loader) wrote() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

// end stops the clients, and makes sure that each acknowledged write is there
// once, and that no client was told anything but OK and MOVED, or ASK if that
// may be.
func (l *loader) end(t *testing.T, askAllowed bool) {
	t.Helper()
	close(l.stop)
	l.wg.Wait()
	for text, n := range l.errs {
		t.Errorf("%d × %s", n, text)
	}
	if l.ask > 0 && !askAllowed {
		t.Errorf("%d ASK", l.ask)
	}
	want := make(map[string]bool, len(l.acked))
	for _, k := range l.acked {
		want[k] = true
	}
	for _, n := range l.nodes {
		if n.do("ROLE").List[0].Text() != "master" {
			continue
		}
		c := n.dial()
		cursor := "0"
		for {
			v, err := c.Must("SCAN", cursor, "MATCH", fmt.Sprintf("*load:%d:*", l.run), "COUNT", "1000")
			if err != nil {
				t.Fatal(err)
			}
			l.check(t, n, c, v.List[1].List, want)
			if cursor = v.List[0].Text(); cursor == "0" {
				break
			}
		}
		c.Close()
	}
	missing := 0
	for _, there := range want {
		if there {
			missing++
		}
	}
	if missing > 0 {
		t.Errorf("%d of %d acknowledged writes are lost", missing, len(l.acked))
	}
	t.Logf("%d writes, %d MOVED, %d ASK, the longest took %d ms", len(l.acked), l.moved, l.ask, l.longest.Milliseconds())
}

// check looks at keys that a node listed.
func (l *loader) check(t *testing.T, n *node, c *proc.Conn, keys []proc.Value, want map[string]bool) {
	t.Helper()
	for _, k := range keys {
		c.Send("GET", k.Str)
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		v, err := c.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if v.Str != "1" {
			t.Errorf("%s on %s is %q", k.Str, n.addr(), v.Str)
		}
		want[k.Str] = false // a cursor may bring it again
	}
}

// tagsIn are hash tags, one of each of the first slots that a node owns.
func tagsIn(t *testing.T, n *node, slots int) (tags []string) {
	t.Helper()
	first, err := strconv.Atoi(strings.Split(fields(n, 8), "-")[0])
	if err != nil {
		t.Fatal(err)
	}
	found := make([]string, slots)
	for i, k := 0, 0; k < slots; i++ {
		tag := strconv.Itoa(i)
		if s := slot.OfString(tag) - first; s >= 0 && s < slots && found[s] == "" {
			found[s] = tag
			k++
		}
	}
	return found
}

// calmTimeout is the cluster-node-timeout where nobody is to fail.
const calmTimeout = "8000"

// moveJob is a move of slots as a node tells it.
type moveJob struct {
	ID, Role, Peer, Slots, Phase, Error string
	Keys, Bytes                         int64
	PausedMs                            int64 `json:"paused_ms"`
	TookMs                              int64 `json:"took_ms"`
}

func (n *node) jobs() []moveJob {
	n.t.Helper()
	var reply struct{ Jobs []moveJob }
	if err := json.Unmarshal([]byte(n.do("HOLDFAST.SLOTS", "STATUS").Text()), &reply); err != nil {
		n.t.Fatal(err)
	}
	return reply.Jobs
}

// logJobs tells how moves went.
func logJobs(t *testing.T, nodes []*node) {
	t.Helper()
	for _, n := range nodes {
		for _, j := range n.jobs() {
			t.Logf("%s: %s of slots %s: %s %s, %d keys, %d bytes, %d ms, paused %d ms", n.addr(), j.Role, j.Slots, j.Phase, j.Error, j.Keys, j.Bytes, j.TookMs, j.PausedMs)
		}
	}
}

// reshard moves slots between two nodes.
func reshard(t *testing.T, from, to *node, slots int, args ...string) *result {
	t.Helper()
	return must(t, 0, append([]string{"reshard", from.addr(), "--from", from.id(), "--to", to.id(), "--slots", strconv.Itoa(slots)}, args...)...)
}

// replicasAgree waits until every replica has the data of its master.
func replicasAgree(t *testing.T, nodes []*node) {
	t.Helper()
	byID := map[string]*node{}
	for _, n := range nodes {
		byID[n.id()] = n
	}
	for _, n := range nodes {
		master := byID[fields(n, 3)]
		if master == nil {
			continue
		}
		n.eventually("it has its master's data", func() bool {
			return n.do("DEBUG", "DIGEST").Text() == master.do("DEBUG", "DIGEST").Text()
		})
	}
}

// TestSlotsMoveAsAStream: slots go from one master of ours to another while
// clients write to them, there and back. Clients see nothing but OK and MOVED,
// no write is lost or doubled, and replicas have the same data.
func TestSlotsMoveAsAStream(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t, true, 3, "--cluster-node-timeout", calmTimeout)
	fill(t, nodes, "k", 3000)
	a, b := nodes[0], nodes[1]
	l := load(nodes, tagsIn(t, a, 600), 4)
	a.eventually("clients write", func() bool { return l.wrote() > 500 })
	if r := reshard(t, a, b, 600); r.Slots != 600 || r.Way != "stream" || r.Keys == 0 {
		t.Errorf("%s", r.text)
	}
	seen := l.wrote()
	a.eventually("clients write", func() bool { return l.wrote() > seen+500 })
	if r := reshard(t, b, a, 600); r.Slots != 600 || r.Way != "stream" {
		t.Errorf("%s", r.text)
	}
	seen = l.wrote()
	a.eventually("clients write", func() bool { return l.wrote() > seen+500 })
	l.end(t, false)
	logJobs(t, nodes)
	healthy(t, nodes[2])
	whole(t, nodes, "k", 3000)
	replicasAgree(t, nodes)
}

// largeMiB is how large a large value is.
func largeMiB() int {
	switch {
	case os.Getenv("HOLDFAST_SOAK") != "":
		return 100
	case testing.Short():
		return 8
	}
	return 16
}

// TestLargeValuesMoveAsAStream: a list, hash, sorted set and string of 16 MiB
// each (100 in a soak), one after the other, with clients writing to slots beside them.
func TestLargeValuesMoveAsAStream(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t, true, 3, "--cluster-node-timeout", calmTimeout)
	from, to := nodes[0], nodes[1]
	tags := tagsIn(t, from, 20)
	chunk := strings.Repeat("0123456789abcdef", 64) // 1 KiB
	element := map[string]func(i int) []string{
		"RPUSH":  func(i int) []string { return []string{strconv.Itoa(i) + chunk} },
		"HSET":   func(i int) []string { return []string{"f" + strconv.Itoa(i), chunk} },
		"ZADD":   func(i int) []string { return []string{strconv.Itoa(i), strconv.Itoa(i) + chunk} },
		"APPEND": func(i int) []string { return []string{strconv.Itoa(i) + chunk} },
	}
	for _, verb := range []string{"RPUSH", "HSET", "ZADD", "APPEND"} {
		key := "{" + tags[10] + "}" + verb
		grow(t, from, verb, key, largeMiB(), element[verb])
		digest := from.do("DEBUG", "DIGEST-VALUE", key).List[0].Text()
		l := load(nodes, tags, 4)
		from.eventually("clients write", func() bool { return l.wrote() > 500 })
		r := reshard(t, from, to, 20)
		if r.Way != "stream" {
			t.Error(r.text)
		}
		l.end(t, false)
		if got := to.do("DEBUG", "DIGEST-VALUE", key).List[0].Text(); got != digest {
			t.Errorf("%s: the value is another one behind the move", verb)
		}
		replicasAgree(t, nodes)
		to.do("UNLINK", key)
		from, to = to, from
	}
	logJobs(t, nodes)
	healthy(t, nodes[2])
}

// grow makes a value of so many MiB out of elements of 1 KiB.
func grow(t *testing.T, n *node, verb, key string, mib int, element func(i int) []string) {
	t.Helper()
	c := n.dial()
	defer c.Close()
	const batch = 64
	for i := 0; i < mib<<10; i += batch {
		cmds := 1
		if verb == "APPEND" {
			for k := range batch {
				c.Send(verb, key, element(i + k)[0])
			}
			cmds = batch
		} else {
			cmd := []string{verb, key}
			for k := range batch {
				cmd = append(cmd, element(i+k)...)
			}
			c.Send(cmd...)
		}
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
		for range cmds {
			if v, err := c.Recv(); err != nil || v.Err() != nil {
				t.Fatal(v.Str, err)
			}
		}
	}
	if v, err := c.Must("WAIT", "1", "60000"); err != nil || v.Int != 1 {
		t.Fatal(v, err)
	}
}

// TestGenuinePeersMoveByKey: with a genuine node in either shard, or when that is
// asked for, slots move as genuine Redis wants it.
func TestGenuinePeersMoveByKey(t *testing.T) {
	for _, c := range []struct {
		name              string
		masters, replicas bool
		args              []string
	}{{"genuine replicas", true, false, nil}, {"genuine masters", false, true, nil}, {"asked for", true, true, []string{"--by-key"}}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			nodes := mixed(t, c.masters, c.replicas, "--cluster-node-timeout", calmTimeout)
			fill(t, nodes, "k", 1000)
			l := load(nodes, tagsIn(t, nodes[0], 100), 2)
			nodes[0].eventually("clients write", func() bool { return l.wrote() > 100 })
			if r := reshard(t, nodes[0], nodes[1], 100, c.args...); r.Way != "by key" || r.Slots != 100 {
				t.Error(r.text)
			}
			l.end(t, true)
			healthy(t, nodes[2])
			whole(t, nodes, "k", 1000)
		})
	}
}

// TestCtrlCLeavesSlotsWhereTheyWere: the administrator is interrupted while a
// stream runs; nothing is open, and the same command moves the slots.
func TestCtrlCLeavesSlotsWhereTheyWere(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t, true, 3, "--cluster-node-timeout", calmTimeout)
	a, b := nodes[0], nodes[1]
	tag := tagsIn(t, a, 300)[5]
	grow(t, a, "RPUSH", "{"+tag+"}list", 64, func(i int) []string { return []string{strconv.Itoa(i) + strings.Repeat("x", 1024)} })
	before := must(t, 0, "check", a.addr(), "--wait", "20s").slotsOf()
	args := []string{"reshard", a.addr(), "--from", a.id(), "--to", b.id(), "--slots", "300"}
	cmd := command(t, append(args, "--yes")...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var err error
	over := false
	b.eventually("a move runs", func() bool {
		select {
		case err = <-ended:
			over = true
			return true
		default:
		}
		return strings.Contains(b.do("HOLDFAST.SLOTS", "STATUS").Text(), `"snapshot"`)
	})
	if !over {
		_ = cmd.Process.Signal(syscall.SIGINT)
		err = <-ended
	}
	if code := exitCode(t, err); code != 1 && !over {
		t.Errorf("exit code %d: %s", code, out.String())
	}
	r := healthy(t, nodes[2])
	n := before[a.addr()] - r.slotsOf()[a.addr()]
	if n != 0 && n != 256 && n != 300 {
		t.Errorf("%d slots have moved", n)
	}
	if n != 300 { // else the interrupt was too late, and the command would be a new one
		must(t, 0, args...)
	}
	if n := before[a.addr()] - healthy(t, nodes[2]).slotsOf()[a.addr()]; n != 300 {
		t.Errorf("%d slots have moved in the end", n)
	}
	if v := b.do("LLEN", "{"+tag+"}list"); v.Int != 64<<10 {
		t.Errorf("%d elements", v.Int)
	}
}

// TestThroughputOfAMove measures what a move takes: ours as a stream, ours key by
// key, and genuine Redis by the same administrator and by its own.
func TestThroughputOfAMove(t *testing.T) {
	if os.Getenv("HOLDFAST_SOAK") == "" {
		t.Skip("a measurement: HOLDFAST_SOAK=1 shows it")
	}
	t.Parallel()
	const value = 16 << 10
	mib, slots := 16*rounds(t, 1), 500
	for _, c := range []struct {
		name string
		ours bool
		move func(a, b *node)
	}{
		{"ours, as a stream", true, func(a, b *node) { reshard(t, a, b, slots) }},
		{"ours, by key", true, func(a, b *node) { reshard(t, a, b, slots, "--by-key") }},
		{"genuine", false, func(a, b *node) { reshard(t, a, b, slots) }},
		{"genuine, by redis-cli", false, func(a, b *node) {
			out, err := exec.Command("redis-cli", "--cluster", "reshard", a.addr(), "--cluster-from", a.id(), "--cluster-to", b.id(),
				"--cluster-slots", strconv.Itoa(slots), "--cluster-yes").CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		}},
	} {
		var nodes []*node
		for range 3 {
			nodes = append(nodes, launch(t, c.ours, t.TempDir(), freePort(t)))
		}
		join(t, nodes, 3)
		tags := tagsIn(t, nodes[0], slots)
		x := nodes[0].dial()
		blob := strings.Repeat("\x01\x9c\x33\xf1\x70\x0a\xee\x5d", value/8)
		for i := range mib << 20 / value {
			if _, err := x.Must("SET", fmt.Sprintf("{%s}%d", tags[i%slots], i), blob[:value-len(strconv.Itoa(i))]+strconv.Itoa(i)); err != nil {
				t.Fatal(err)
			}
		}
		x.Close()
		began := time.Now()
		c.move(nodes[0], nodes[1])
		took := time.Since(began).Seconds()
		t.Logf("%-22s %d MiB in %d slots: %.2f s, %.1f MiB/s, %.0f keys/s", c.name, mib, slots, took, float64(mib)/took, float64(mib<<20/value)/took)
		for _, n := range nodes {
			n.p.Kill()
		}
	}
}
