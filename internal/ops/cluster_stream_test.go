package ops

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/redis/cluster/slot"
	"holdfast/internal/redis/resp"
)

// fakeCluster is a cluster of nodes that only know what an administrator asks
// and says. A job gets one phase further each time its target is asked.
type fakeCluster struct {
	mu    sync.Mutex
	t     *testing.T
	nodes []*fakeNode
	log   []string // of what changes something
	seq   int
}

const fakeKeys = 10 // in each slot

type fakeNode struct {
	c       *fakeCluster
	id      string
	addr    string
	ln      net.Listener
	conns   []net.Conn
	master  *fakeNode // of a replica
	slots   slotSet
	genuine bool
	dead    bool
	jobs    []*slotJob
	// What goes wrong, as a target:
	fail         int       // so many jobs fail
	whenFails    func()    // what happens then
	busy         int       // so many IMPORTs are refused
	holdAt       string    // a job gets no further than this phase
	dieAt        string    // the node dies at this phase, and its replica takes over,
	heir         *fakeNode // or this one, which has just become its replica
	forget       bool      // a job is forgotten when it is done
	refuseCancel bool
}

var fakePhases = []string{"waiting", "snapshot", "following", "handover", "taking", "done"}

func newFakeCluster(t *testing.T, masters, replicas int) *fakeCluster {
	c := &fakeCluster{t: t}
	for i := range masters {
		n := c.start()
		for s := i * slot.Count / masters; s < (i+1)*slot.Count/masters; s++ {
			n.slots.Add(s)
		}
	}
	for _, m := range c.nodes[:masters] {
		for range replicas {
			c.start().master = m
		}
	}
	return c
}

func (c *fakeCluster) start() *fakeNode {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	n := &fakeNode{c: c, id: fmt.Sprintf("%040x", len(c.nodes)+1), addr: ln.Addr().String(), ln: ln}
	c.nodes = append(c.nodes, n)
	c.t.Cleanup(n.stop)
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			c.mu.Lock()
			n.conns = append(n.conns, nc)
			c.mu.Unlock()
			go n.serve(nc)
		}
	}()
	return n
}

func (n *fakeNode) stop() {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	n.end()
}

// end is stop with c.mu held.
func (n *fakeNode) end() {
	n.dead = true
	_ = n.ln.Close()
	for _, c := range n.conns {
		_ = c.Close()
	}
}

func (n *fakeNode) serve(nc net.Conn) {
	defer nc.Close()
	r := resp.NewReader(nc)
	for {
		v, err := r.Read()
		if err != nil {
			return
		}
		args := make([]string, len(v.Elems))
		for i, e := range v.Elems {
			args[i] = e.String()
		}
		n.c.mu.Lock()
		reply := n.answer(args)
		dead := n.dead
		n.c.mu.Unlock()
		if dead {
			return
		}
		if _, err := nc.Write(reply); err != nil {
			return
		}
	}
}

func (n *fakeNode) answer(args []string) []byte {
	text := func(s string) []byte { return resp.AppendBulkString(nil, s) }
	switch strings.ToUpper(strings.Join(args[:min(2, len(args))], " ")) {
	case "CLUSTER NODES":
		return text(n.view())
	case "CLUSTER INFO":
		return text("cluster_state:ok\r\n")
	case "INFO REPLICATION":
		return text("master_link_status:up\r\nmaster_repl_offset:1\r\n")
	case "INFO MEMORY":
		return text("used_memory_human:1M\r\n")
	case "DBSIZE":
		return resp.AppendInt(nil, int64(n.slots.Len())*fakeKeys)
	case "CLUSTER COUNTKEYSINSLOT":
		k, _ := strconv.Atoi(args[2])
		if n.slots.Has(k) {
			return resp.AppendInt(nil, fakeKeys)
		}
		return resp.AppendInt(nil, 0)
	case "HOLDFAST.SLOTS STATUS", "HOLDFAST.SLOTS IMPORT", "HOLDFAST.SLOTS CANCEL":
		if n.genuine {
			return resp.AppendError(nil, "ERR unknown command 'HOLDFAST.SLOTS', with args beginning with: ")
		}
		switch args[1] {
		case "STATUS":
			return n.status()
		case "IMPORT":
			return n.startJob(args[2], args[3:])
		}
		return n.cancel(args[2])
	case "CLUSTER SETSLOT", "CLUSTER GETKEYSINSLOT":
		return n.byKey(args)
	}
	return resp.AppendError(nil, "ERR unknown command '"+args[0]+"'")
}

// byKey moves slots that are empty, as it says.
func (n *fakeNode) byKey(args []string) []byte {
	if args[1] == "GETKEYSINSLOT" {
		return resp.AppendHead(nil, '*', 0)
	}
	k, _ := strconv.Atoi(args[2])
	if args[3] == "NODE" {
		n.slots.Del(k)
		if args[4] == n.id {
			n.slots.Add(k)
		}
	}
	n.c.log = append(n.c.log, "SETSLOT "+args[3])
	return resp.AppendSimple(nil, "OK")
}

func (n *fakeNode) view() string {
	var b strings.Builder
	for i, o := range n.c.nodes {
		flags, master := "master", "-"
		if o.master != nil {
			flags, master = "slave", o.master.id
		}
		if o == n {
			flags = "myself," + flags
		}
		if o.dead {
			flags += ",fail"
		}
		fmt.Fprintf(&b, "%s %s@1 %s %s 0 0 %d connected %s\n", o.id, o.addr, flags, master, i+1, strings.ReplaceAll(o.slots.String(), ",", " "))
	}
	return b.String()
}

func (n *fakeNode) status() []byte {
	for _, j := range n.jobs {
		n.advance(j)
	}
	b, _ := json.Marshal(map[string]any{"jobs": n.jobs, "more": 1})
	return resp.AppendBulkString(nil, string(b))
}

func (n *fakeNode) advance(j *slotJob) {
	if j.over() || j.Phase == n.holdAt {
		return
	}
	for i, p := range fakePhases[:len(fakePhases)-1] {
		if p == j.Phase {
			j.Phase = fakePhases[i+1]
			break
		}
	}
	if n.dieAt != "" && j.Phase == n.dieAt {
		n.takenOver()
		return
	}
	if j.Phase == "following" && n.fail > 0 {
		n.fail--
		j.Phase, j.Error = "failed", "the source went away"
		if n.whenFails != nil {
			n.whenFails()
		}
	}
	if j.Phase != "done" {
		return
	}
	set := parseFakeSlots(j.Slots)
	j.Keys, j.Bytes, j.PausedMs = int64(set.Len())*fakeKeys, int64(set.Len())*1000, 7
	for _, s := range set.list() {
		for _, o := range n.c.nodes {
			o.slots.Del(s)
		}
		n.slots.Add(s)
	}
	if n.forget {
		n.jobs = nil
	}
}

// takenOver is the node's end: its replica is master.
func (n *fakeNode) takenOver() {
	n.end()
	for _, o := range n.c.nodes {
		if o == n.heir || (n.heir == nil && o.master == n) {
			o.master, o.slots = nil, n.slots
			n.slots = slotSet{}
			return
		}
	}
}

func parseFakeSlots(ranges string) *slotSet {
	s := new(slotSet)
	for _, r := range strings.Split(ranges, ",") {
		a, b, ok := strings.Cut(r, "-")
		if !ok {
			b = a
		}
		from, _ := strconv.Atoi(a)
		to, _ := strconv.Atoi(b)
		for k := from; k <= to; k++ {
			s.Add(k)
		}
	}
	return s
}

func (n *fakeNode) startJob(source string, ranges []string) []byte {
	if n.busy > 0 {
		n.busy--
		return resp.AppendError(nil, "TRYAGAIN another import runs")
	}
	set := new(slotSet)
	for i := 0; i+1 < len(ranges); i += 2 {
		from, _ := strconv.Atoi(ranges[i])
		to, _ := strconv.Atoi(ranges[i+1])
		for k := from; k <= to; k++ {
			set.Add(k)
		}
	}
	n.c.seq++
	j := &slotJob{ID: fmt.Sprintf("%040x", n.c.seq), Role: "import", Peer: source, Slots: set.String(), Phase: "waiting"}
	n.jobs = append(n.jobs, j)
	n.c.log = append(n.c.log, "IMPORT "+set.String())
	return resp.AppendBulkString(nil, j.ID)
}

func (n *fakeNode) cancel(id string) []byte {
	n.c.log = append(n.c.log, "CANCEL")
	if n.refuseCancel {
		n.holdAt = ""
		return resp.AppendError(nil, "ERR too late")
	}
	for _, j := range n.jobs {
		if j.ID == id && !j.over() {
			j.Phase, j.Error = "failed", "cancelled"
		}
	}
	return resp.AppendSimple(nil, "OK")
}

func (c *fakeCluster) options() ClusterOptions {
	o := ClusterOptions{Timeout: 30 * time.Second, MigrateTimeout: 30 * time.Second, Settle: 30 * time.Second, Yes: true, Out: new(bytes.Buffer)}
	for _, n := range c.nodes {
		o.Seeds = append(o.Seeds, n.addr)
	}
	return o
}

func (c *fakeCluster) reshard(ctx context.Context, from, to, slots int) (*ClusterResult, error) {
	return ClusterReshard(ctx, ReshardOptions{ClusterOptions: c.options(), From: []string{c.nodes[from].id}, To: c.nodes[to].id, Slots: slots})
}

func (c *fakeCluster) did(what string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.log {
		if strings.HasPrefix(l, what) {
			n++
		}
	}
	return n
}

// set changes what nodes do.
func (c *fakeCluster) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

// TestStreamMoves: jobs of bounded size, one after the other; figures are summed
// up, nothing goes by key.
func TestStreamMoves(t *testing.T) {
	t.Parallel()
	c := newFakeCluster(t, 3, 1)
	c.nodes[1].busy = 2
	r, err := c.reshard(context.Background(), 0, 1, 600)
	if err != nil || r.Verdict != Healthy {
		t.Fatalf("%v %+v", err, r)
	}
	if r.Slots != 600 || r.Keys != 600*fakeKeys || r.Bytes != 600*1000 || r.PausedMs != 7 || r.Way != "stream" {
		t.Fatalf("%+v", r)
	}
	if n := c.did("IMPORT"); n != 3 || c.did("SETSLOT") != 0 {
		t.Fatalf("%d jobs: %q", n, c.log)
	}
}

// TestStreamsOnlyBetweenOurs: one genuine node in either shard, or --by-key, and
// slots move key by key.
func TestStreamsOnlyBetweenOurs(t *testing.T) {
	t.Parallel()
	for i := range 6 {
		c := newFakeCluster(t, 3, 1)
		c.nodes[i].genuine = true
		a := newClusterAdmin("test", c.options())
		defer a.close()
		if err := a.load(); err != nil {
			t.Fatal(err)
		}
		why, err := a.byKeyReason(a.m.byID[c.nodes[0].id], a.m.byID[c.nodes[1].id])
		if want := i == 0 || i == 1 || i == 3 || i == 4; err != nil || (why != "") != want {
			t.Errorf("node %d genuine: %q, %v", i, why, err)
		}
		a.o.ByKey = true
		if why, err := a.byKeyReason(a.m.byID[c.nodes[0].id], a.m.byID[c.nodes[1].id]); err != nil || why == "" {
			t.Errorf("asked for: %q, %v", why, err)
		}
		if c.did("") != 0 {
			t.Error(c.log)
		}
	}
}

// TestStreamThatFails is tried once more; then the text says what failed and
// what to do.
func TestStreamThatFails(t *testing.T) {
	t.Parallel()
	c := newFakeCluster(t, 3, 1)
	c.nodes[1].fail = 1
	if r, err := c.reshard(context.Background(), 0, 1, 10); err != nil || r.Verdict != Healthy || r.Slots != 10 {
		t.Fatalf("%v %+v", err, r)
	}
	c.set(func() { c.nodes[1].fail = 2 })
	r, err := c.reshard(context.Background(), 0, 1, 10)
	if err != nil || r.Verdict != Degraded || !strings.Contains(r.Reason, "the source went away") || !strings.Contains(r.Reason, "--by-key") {
		t.Fatalf("%v %+v", err, r)
	}
	if n := c.did("IMPORT"); n != 4 {
		t.Fatal(c.log)
	}
}

// TestStreamForgotten: a target that restarted knows nothing of a job that it
// ended; the slots tell.
func TestStreamForgotten(t *testing.T) {
	t.Parallel()
	c := newFakeCluster(t, 3, 1)
	c.nodes[1].forget = true
	r, err := c.reshard(context.Background(), 0, 1, 10)
	if err != nil || r.Verdict != Healthy || r.Slots != 10 || r.Keys != 10*fakeKeys || c.did("IMPORT") != 1 {
		t.Fatalf("%v %+v %q", err, r, c.log)
	}
}

// TestStreamGoesToTheHeir: the target dies, its replica takes over; the rest of
// the move goes to that one.
func TestStreamGoesToTheHeir(t *testing.T) {
	t.Parallel()
	for _, heir := range []int{4, 5} {
		c := newFakeCluster(t, 3, 1)
		c.nodes[1].dieAt, c.nodes[1].heir = "following", c.nodes[heir]
		r, err := c.reshard(context.Background(), 0, 1, 300)
		if err != nil || r.Slots != 300 {
			t.Fatalf("%v %+v %q", err, r, c.log)
		}
		c.set(func() {
			if n := c.nodes[heir].slots.Len(); n != 5461+300 {
				t.Errorf("the heir %d has %d slots", heir, n)
			}
		})
	}
}

// TestStreamFromTheHeir: the same with the source.
func TestStreamFromTheHeir(t *testing.T) {
	t.Parallel()
	for _, heir := range []int{3, 5} {
		c := newFakeCluster(t, 3, 1)
		c.nodes[0].heir, c.nodes[1].fail = c.nodes[heir], 1
		c.nodes[1].whenFails = c.nodes[0].takenOver
		r, err := c.reshard(context.Background(), 0, 1, 300)
		if err != nil || r.Slots != 300 {
			t.Fatalf("%v %+v %q", err, r, c.log)
		}
		c.set(func() {
			if n := c.nodes[heir].slots.Len(); n != 5461-300 {
				t.Errorf("the heir %d has %d slots", heir, n)
			}
		})
	}
}

// TestCtrlCCancelsAStream, or waits for its end when it is too late for that.
func TestCtrlCCancelsAStream(t *testing.T) {
	t.Parallel()
	for _, late := range []bool{false, true} {
		c := newFakeCluster(t, 3, 1)
		c.nodes[1].holdAt, c.nodes[1].refuseCancel = "handover", late
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			for c.did("IMPORT") == 0 {
				time.Sleep(time.Millisecond)
			}
			cancel()
		}()
		r, err := c.reshard(ctx, 0, 1, 300)
		cancel()
		if err != nil || r.Verdict != Degraded || !strings.Contains(r.Reason, "run the same command again") || c.did("CANCEL") != 1 {
			t.Fatalf("%v %+v %q", err, r, c.log)
		}
		if want := map[bool]int{false: 0, true: streamSlots}[late]; r.Slots != want {
			t.Fatalf("%d slots moved, too late to cancel: %v", r.Slots, late)
		}
	}
}

// TestVerbsAdoptRunningMoves: the administrator is killed while a job runs; any
// verb waits for it first, and check shows it.
func TestVerbsAdoptRunningMoves(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, verb := range []string{"fix", "rebalance"} {
		c := newFakeCluster(t, 3, 1)
		c.nodes[1].holdAt = "snapshot"
		dying := dyingAt(c.options(), 2)
		if err := dying.load(); err != nil {
			t.Fatal(err)
		}
		killed := errors.New("killed")
		moves := []clusterMove{{0, c.nodes[0].id, c.nodes[1].id}, {1, c.nodes[0].id, c.nodes[1].id}}
		kill, cancel := context.WithCancel(ctx)
		dying.before = func(_ string, args []string) error {
			if args[1] == "CANCEL" {
				return killed // kill -9 has no time for it
			}
			cancel()
			return nil
		}
		done := make(chan error, 1)
		go func() { done <- dying.moveSlots(kill, moves) }()
		for c.did("IMPORT") == 0 {
			time.Sleep(time.Millisecond)
		}
		r, err := ClusterCheck(ctx, "check", ClusterCheckOptions{ClusterOptions: c.options(), Replicas: -1})
		if err != nil || len(r.Cluster.Jobs) != 1 || r.Cluster.Jobs[0].Slots != "0-1" || r.Cluster.Jobs[0].From != c.nodes[0].addr || r.Cluster.Jobs[0].To != c.nodes[1].addr {
			t.Fatalf("%v %+v", err, r.Cluster)
		}
		c.set(func() { c.nodes[1].holdAt = "" })
		switch verb {
		case "fix":
			r, err = ClusterFix(ctx, FixOptions{ClusterOptions: c.options()})
		default:
			r, err = ClusterRebalance(ctx, RebalanceOptions{ClusterOptions: c.options(), Threshold: 2})
		}
		if err != nil || r.Verdict != Healthy {
			t.Fatalf("%s: %v %+v", verb, err, r)
		}
		c.set(func() {
			if !c.nodes[1].slots.Has(0) || !c.nodes[1].slots.Has(1) {
				t.Errorf("%s did not wait", verb)
			}
		})
		<-done
		dying.close()
	}
}

// FuzzSlotJobs: whatever a node answers to STATUS, it is read or refused.
func FuzzSlotJobs(f *testing.F) {
	f.Add([]byte(`{"jobs":[{"id":"a","role":"import","peer":"b","slots":"0-99,105","phase":"snapshot","keys":1,"bytes":2}]}`))
	f.Add([]byte(`{"jobs":null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		jobs, err := parseSlotJobs(text)
		if err != nil && jobs != nil {
			t.Error("jobs with an error")
		}
		for _, j := range jobs {
			_ = ClusterJob{Slots: j.Slots, Phase: j.Phase}.String()
		}
	})
}
