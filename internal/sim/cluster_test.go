package sim

import (
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/redis/cluster"
)

var (
	clusterSeeds = flag.Int("sim.cluster.seeds", 1000, "number of simulated clusters")
	clusterLarge = flag.Bool("sim.cluster.large", false, "measure clusters of up to 300 nodes, too")
	clusterHuge  = flag.Bool("sim.cluster.huge", false, "and one of 1,000: minutes of CPU, and less than 3 GB of memory")
	clusterSize  = flag.Int("sim.cluster.masters", 0, "masters of each simulated cluster; 0: by the seed")
	clusterOne   = flag.Uint64("sim.cluster.seed", 0, "replay this cluster seed alone, with its trace")
)

// kindOf spreads the plots over the seeds: half of them mix faults.
func kindOf(seed uint64) ClusterKind {
	if seed%2 == 0 {
		return KindMixed
	}
	return ClusterKind(seed / 2 % uint64(kinds))
}

// DESIGN 6.1: what the checkers of a cluster hold, in every seed.
func TestClusterPromisesHoldInEverySeed(t *testing.T) {
	if *clusterOne != 0 {
		res := RunCluster(ClusterOptions{Seed: *clusterOne, Kind: kindOf(*clusterOne), Masters: *clusterSize, Trace: func(s string) { t.Log(s) }})
		for _, v := range res.Violations {
			t.Error(v)
		}
		t.Logf("%+v", res)
		return
	}
	n := *clusterSeeds
	if testing.Short() {
		n = min(n, 100)
	}
	start := time.Now()
	var mu sync.Mutex
	var virtual time.Duration
	elections, events := 0, 0
	var agreed []time.Duration
	each(n, func(i int) {
		seed := uint64(i + 1)
		res := RunCluster(ClusterOptions{Seed: seed, Kind: kindOf(seed), Masters: *clusterSize})
		mu.Lock()
		defer mu.Unlock()
		for _, v := range res.Violations {
			t.Errorf("seed %d: %s (replay: go test ./internal/sim -run ClusterPromises -sim.cluster.seed=%d -v)", seed, v, seed)
		}
		virtual += res.Virtual
		elections += res.Elections
		events += res.Events
		agreed = append(agreed, res.Agreed)
	})
	sort.Slice(agreed, func(i, j int) bool { return agreed[i] < agreed[j] })
	t.Logf("%d seeds: %v of virtual time, %d events, %d elections won, agreement after median %v, most %v, in %v",
		n, virtual.Round(time.Second), events, elections, agreed[len(agreed)/2], agreed[len(agreed)-1],
		time.Since(start).Round(time.Millisecond))
	if elections < n/2 {
		t.Errorf("only %d elections in %d seeds: the faults are too tame", elections, n)
	}
}

// each runs f for 0..n-1 on all processors.
func each(n int, f func(i int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// A run is a function of its seed: a failure can be replayed.
func TestSameSeedGivesTheSameCluster(t *testing.T) {
	trace := func(seed uint64) string {
		var b strings.Builder
		res := RunCluster(ClusterOptions{Seed: seed, Kind: kindOf(seed), Trace: func(s string) { b.WriteString(s + "\n") }})
		fmt.Fprintf(&b, "%+v", res)
		return b.String()
	}
	for _, seed := range []uint64{8, 17} {
		if a, b := trace(seed), trace(seed); a != b {
			t.Fatalf("two runs of seed %d differ", seed)
		}
	}
}

// DESIGN 6.5: each mistake that a cluster node could be written with is noticed.
func TestEveryClusterMutantIsCaught(t *testing.T) {
	type m = cluster.Mutants
	mutants := []struct {
		name string
		m    m
		kind ClusterKind
		opts ClusterOptions
	}{
		{"vote twice in an epoch", m{VoteTwice: true}, KindMany, ClusterOptions{}},
		{"vote without FAIL of the master", m{VoteWithoutFail: true, FailoverAnyMaster: true}, KindMinority, ClusterOptions{}},
		{"vote in an old epoch", m{SkipVoteEpochCheck: true, IgnoreRank: true}, KindMany, ClusterOptions{Masters: 7}},
		{"vote for outdated slots", m{SkipVoteSlotCheck: true, NoUpdate: true}, KindHeal, ClusterOptions{}},
		{"do not persist a vote", m{ForgetVote: true}, KindMixed, ClusterOptions{}},
		{"persist after sending", m{PersistAfterSend: true}, KindMixed, ClusterOptions{}},
		{"accept a stale slot claim", m{StaleSlotClaim: true}, KindReturn, ClusterOptions{}},
		{"no rule for config epoch collisions", m{NoCollisionRule: true}, KindCollision, ClusterOptions{}},
		{"count failure reports twice", m{DoubleReports: true}, KindMixed, ClusterOptions{}},
		{"failure reports never expire", m{ReportsNeverExpire: true}, KindMixed, ClusterOptions{}},
		{"FAIL on the word of one", m{FailWithoutQuorum: true}, KindMixed, ClusterOptions{}},
		{"win with half of the masters", m{QuorumByHalf: true}, KindMixed, ClusterOptions{Masters: 4}},
		{"count votes of earlier epochs", m{CountStaleVotes: true, IgnoreRank: true}, KindMany, ClusterOptions{Masters: 7}},
		{"stand with data that is too old", m{StaleDataElection: true}, KindStale, ClusterOptions{}},
		{"stand whatever the rank", m{IgnoreRank: true}, KindSlow, ClusterOptions{}},
		{"forget without a ban", m{ForgetWithoutBan: true}, KindForget, ClusterOptions{}},
		{"a deposed master stays master", m{KeepOldMaster: true}, KindMixed, ClusterOptions{}},
		{"no UPDATE for who is behind", m{NoUpdate: true}, KindReturn, ClusterOptions{}},
		{"never clear FAIL", m{NeverClearFail: true}, KindMixed, ClusterOptions{}},
		{"serve in a minority", m{MinorityStaysOK: true}, KindMinority, ClusterOptions{}},
		{"take over without a new epoch", m{NoEpochBump: true}, KindMixed, ClusterOptions{}},
		{"believe who gave slots away", m{BelieveGiver: true}, KindStream, ClusterOptions{}},
		{"do not learn who took an importing slot", m{StaleImport: true}, KindOpen, ClusterOptions{}},
		{"stand while the master is up", m{FailoverAnyMaster: true}, KindMixed, ClusterOptions{}},
	}
	const limit = 300
	var table strings.Builder
	for _, mu := range mutants {
		caught := ""
		start := time.Now()
		for seed := uint64(1); seed <= limit; seed++ {
			o := mu.opts
			o.Seed, o.Mutants, o.Kind = seed, mu.m, mu.kind
			if res := RunCluster(o); len(res.Violations) > 0 {
				caught = fmt.Sprintf("seed %d: %s", seed, res.Violations[0])
				break
			}
		}
		if caught == "" {
			t.Errorf("mutant %q survived %d seeds", mu.name, limit)
			caught = "SURVIVED"
		}
		fmt.Fprintf(&table, "%-38s %6dms  %s\n", mu.name, time.Since(start).Milliseconds(), caught)
	}
	t.Log("\n" + table.String())
}

// Issue 4, "It must show" 3: 24 of 50 masters killed at once; all shards are
// back within 5 s of the last FAIL at a node timeout of 1 s.
func TestTwentyFourOfFiftyMastersAtOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	for seed := uint64(1); seed <= 2; seed++ {
		r := KillMany(seed, 50, 24, false)
		t.Logf("seed %d: FAIL of the last after %v, all shards back %v later, %d elections won", seed, r.LastFail, r.AllBack, r.Elections)
		for _, v := range r.Violations {
			t.Errorf("seed %d: %s", seed, v)
		}
		if r.AllBack > 5*time.Second {
			t.Errorf("seed %d: all shards back only after %v", seed, r.AllBack)
		}
	}
	r := KillMany(1, 50, 24, true)
	t.Logf("without the improvements: FAIL of the last after %v, all shards back %v later, %d elections won, %v", r.LastFail, r.AllBack, r.Elections, r.Violations)
}

// Issue 4, "It must show" 6 and 7: what the bus costs against the size of the
// cluster, beside the same without our improvements, and that the death of a
// tenth of the nodes ends in agreement.
func TestTrafficAgainstClusterSize(t *testing.T) {
	sizes := []int{10, 30}
	if *clusterLarge {
		sizes = append(sizes, 100, 300)
	}
	if *clusterHuge {
		defer debug.SetMemoryLimit(debug.SetMemoryLimit(worldLimit / 10 * 9))
		sizes = append(sizes, 1000)
	}
	const timeout = 15 * time.Second
	var table strings.Builder
	fmt.Fprintf(&table, "%6s  %-26s %-26s %-26s %-12s %s\n", "nodes", "idle", "idle, as Redis", "a tenth dies", "agreed after", "the run of ours")
	for _, n := range sizes {
		start := time.Now()
		ours := MeasureTraffic(1, n, timeout, false, func(s string) {
			if *clusterHuge {
				fmt.Printf("%d nodes: %s\n", n, s)
			}
		})
		var mem runtime.MemStats
		runtime.ReadMemStats(&mem)
		run := fmt.Sprintf("%v, %d packets, %d MB", time.Since(start).Round(time.Second/10), ours.Packets, mem.Sys>>20)
		plain := Traffic{}
		if n <= 300 {
			plain = MeasureTraffic(1, n, timeout, true, nil)
			if ours.Idle.Bytes > 1.05*plain.Idle.Bytes || ours.Idle.Messages > 1.05*plain.Idle.Messages {
				t.Errorf("%d nodes: idle %v, without improvements %v", n, ours.Idle, plain.Idle)
			}
		}
		if ours.NotConverged != "" {
			t.Errorf("%d nodes: no agreement after %v: %s", n, ours.Converged, ours.NotConverged)
		}
		row := fmt.Sprintf("%6d  %-26v %-26v %-26v %-12v %s\n", n, ours.Idle, plain.Idle, ours.Dying, ours.Converged, run)
		if *clusterLarge {
			fmt.Print(row) // a long run shows what it has
		}
		table.WriteString(row)
	}
	t.Log("\n" + table.String())
}

// A cluster of more than a few nodes, with the faults of the small ones.
func TestLargerClusterKeepsItsPromises(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	res := RunCluster(ClusterOptions{Seed: 5, Masters: 20, Replicas: 1})
	for _, v := range res.Violations {
		t.Error(v)
	}
	t.Logf("40 nodes: %v virtual, %d packets, %d elections, agreement after %v", res.Virtual, res.Packets, res.Elections, res.Agreed)
}
