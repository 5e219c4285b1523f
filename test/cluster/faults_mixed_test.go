package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"holdfast/internal/redis/cluster/slot"
)

// Clusters of ours and genuine nodes under load, one node after the other killed,
// paused or cut off.

// benchmark runs redis-benchmark --cluster again and again: it ends with an
// error whenever a connection of its own does.
type benchmark struct {
	stop      context.CancelFunc
	wg        sync.WaitGroup
	ran, died atomic.Int64
}

func benchmarkOnce(ctx context.Context, port int, limit time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit) // it waits for ever for a node that is silent
	defer cancel()
	out, err := exec.CommandContext(ctx, "redis-benchmark", "--cluster", "-p", strconv.Itoa(port), "-c", "6", "-n", "2000", "-r", "1000", "-t", "set,get", "--csv").CombinedOutput()
	return string(out), err
}

func startBenchmark(x *network) *benchmark {
	ctx, stop := context.WithCancel(context.Background())
	b := &benchmark{stop: stop}
	b.wg.Add(1)
	go func() {
		defer b.wg.Done()
		for i := 0; ctx.Err() == nil; i++ {
			if _, err := benchmarkOnce(ctx, x.data[i%len(x.data)].port, 20*time.Second); err == nil {
				b.ran.Add(1)
			} else if ctx.Err() == nil {
				b.died.Add(1)
			}
			select { // so that the other tests get something of the processors
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	return b
}

// end stops it; a last run, over whichever node, must meet no error.
func (b *benchmark) end(t *testing.T, x *network) {
	t.Helper()
	b.stop()
	b.wg.Wait()
	t.Logf("redis-benchmark --cluster: %d runs ended well, %d were interrupted by a fault", b.ran.Load(), b.died.Load())
	for _, i := range []int{1, 4} { // one of each make
		out, err := benchmarkOnce(context.Background(), x.data[i].port, deadline)
		if err != nil || strings.Contains(out, "Error") || !strings.Contains(out, `"SET","`) || !strings.Contains(out, `"GET","`) {
			t.Errorf("redis-benchmark --cluster over node %d: %v\n%s", i, err, out)
		}
	}
}

// trial is a network under load.
type trial struct {
	*network
	t *testing.T
	w *writer
}

// isMaster asks the node itself.
func (x *trial) isMaster(i int) bool {
	v := x.nodes[i].try("ROLE")
	return v.Err() == nil && v.List[0].Text() == "master"
}

// partner is the other node of a pair.
func partner(i int) int { return (i + 3) % 6 }

// served waits until the cluster's client can write to the slots of a pair.
func (x *trial) served(i int) {
	x.t.Helper()
	k := ""
	for j := 0; k == ""; j++ {
		if s := int(slot.OfString(key("s", j))); s/5500 == i%3 {
			k = key("s", j)
		}
	}
	x.nodes[partner(i)].eventually(fmt.Sprintf("a client writes to the slots of node %d", i), func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		return x.w.rdb.Set(ctx, k, "v", 0).Err() == nil
	})
}

// strike does one fault to a node, waits until the cluster has dealt with it,
// undoes it, and waits until all nodes agree again.
func (x *trial) strike(what string, i int) {
	x.t.Helper()
	master, other := x.isMaster(i), partner(i)
	began := time.Now()
	switch what {
	case "kill":
		x.nodes[i].p.Kill()
	case "pause":
		x.nodes[i].p.Signal(syscall.SIGSTOP)
	case "partition":
		x.part([]int{i}, false)
	case "cut":
		x.part([]int{i}, true)
	}
	witness := x.nodes[(i+1)%3+3*(other/3)]
	if master {
		x.nodes[other].eventually("it takes over", func() bool { return x.isMaster(other) })
	} else {
		id := x.nodes[other].id() // who is struck names its master
		witness.eventually("the replica has failed", func() bool { return failedReplica(witness, id) })
	}
	x.served(i)
	dealt := time.Since(began)
	switch what {
	case "kill":
		x.again(i)
	case "pause":
		x.nodes[i].p.Signal(syscall.SIGCONT)
	default:
		x.heal()
	}
	began = time.Now()
	agree(x.t, x.nodes)
	if x.isMaster(i) {
		x.t.Errorf("node %d is master after it was away (%s)", i, what)
	}
	x.t.Logf("%s of node %d (master %v): %d ms until its slots were written to, %d ms more until all agreed", what, i, master, dealt.Milliseconds(), time.Since(began).Milliseconds())
}

// failedReplica says whether a node holds a replica of a master as failed.
func failedReplica(n *node, master string) bool {
	for line := range strings.Lines(n.do("CLUSTER", "NODES").Text()) {
		f := strings.Fields(line)
		if f[3] == master && slices.Contains(strings.Split(f[2], ","), "fail") {
			return true
		}
	}
	return false
}

// separate cuts off more than one node, so that slots are not served or nobody
// has a majority, until the others have noticed.
func (x *trial) separate(away []int, cut bool) {
	x.t.Helper()
	x.part(away, cut)
	for i, n := range x.nodes {
		if !slices.Contains(away, i) {
			n.eventually("it misses somebody", func() bool { return strings.Contains(n.do("CLUSTER", "NODES").Text(), "fail") })
		}
	}
	x.heal()
	agree(x.t, x.nodes)
	x.t.Logf("nodes %v were apart, all agree", away)
}

func onMixed(t *testing.T, test func(t *testing.T, x *trial, which int)) {
	redis.SetLogger(silent{})
	t.Parallel()
	for which, c := range []struct {
		name              string
		masters, replicas bool
	}{{"genuine masters", false, true}, {"genuine replicas", true, false}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			x := &trial{network: wired(t, c.masters, c.replicas), t: t}
			agree(t, x.nodes)
			x.w = writeTo(x.clientAddrs())
			b := startBenchmark(x.network)
			defer b.stop()
			x.nodes[0].eventually("clients write", func() bool { return x.w.wrote() > 200 && b.ran.Load() > 0 })
			test(t, x, which)
			before := x.w.count()
			x.nodes[0].eventually("clients go on", func() bool { return x.w.count() > before+200 })
			setTimeout(x.nodes, patientTimeout) // nobody is to fail any more
			agree(t, x.nodes)
			x.w.end(t)
			b.end(t, x.network)
			agree(t, x.nodes)
			cliCheck(t, x.nodes[0])
		})
	}
}

// TestMixedClusterOutlivesFaultsUnderLoad: a master or a replica, genuine or
// ours, is killed, paused and cut off from all others, while go-redis's cluster
// client and redis-benchmark --cluster write. Each time the cluster serves all
// slots again, every node says the same of it, and nothing is lost that a
// replica had.
func TestMixedClusterOutlivesFaultsUnderLoad(t *testing.T) {
	onMixed(t, func(t *testing.T, x *trial, which int) {
		kinds := [][]string{{"kill", "partition", "pause"}, {"pause", "kill", "partition"}}[which]
		// A master, a replica, and the replica that has become master.
		x.strike(kinds[0], 0)
		x.strike(kinds[1], 4)
		x.strike(kinds[2], 3)
	})
}

// TestMixedClusterOutlivesRandomFaults is the long form: HOLDFAST_SOAK faults,
// their kind and whom they strike by a seed that is printed.
func TestMixedClusterOutlivesRandomFaults(t *testing.T) {
	if os.Getenv("HOLDFAST_SOAK") == "" {
		t.Skip("a soak")
	}
	onMixed(t, func(t *testing.T, x *trial, which int) {
		seed := uint64(time.Now().UnixNano())
		if v, err := strconv.ParseUint(os.Getenv("HOLDFAST_SEED"), 10, 64); err == nil {
			seed = v
		}
		t.Logf("HOLDFAST_SEED=%d", seed)
		r := rand.New(rand.NewPCG(seed, uint64(which)))
		kinds := []string{"kill", "pause", "partition", "cut"}
		for round := range rounds(t, 1) {
			if round%5 == 4 {
				away := r.Perm(6)[:2+r.IntN(2)]
				x.separate(away, r.IntN(2) == 0)
				continue
			}
			x.strike(kinds[round%len(kinds)], r.IntN(6))
		}
	})
}
