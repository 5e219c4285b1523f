package sim

import (
	"flag"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/redis/slotmove"
)

var (
	moveSeeds = flag.Int("sim.move.seeds", 1000, "number of simulated worlds with moves of slots")
	moveFirst = flag.Uint64("sim.move.first", 1, "the first of their seeds")
	moveOne   = flag.Uint64("sim.move.seed", 0, "replay this seed alone, with its trace")
	movePlot  = flag.String("sim.move.plot", "", "the plot of all of them, e.g. returns; empty: by the seed")
)

// moveKindOf spreads the plots over the seeds; a third mixes all faults. The last
// plot has a test of its own.
func moveKindOf(seed uint64) MoveKind {
	for k := range moveKinds {
		if k.String() == *movePlot {
			return k
		}
	}
	if seed%3 == 0 {
		return MoveMixed
	}
	return MoveKind(seed % uint64(MoveReturns))
}

// moveOptions is the world of a seed.
func moveOptions(seed uint64) MoveOptions { return MoveOptions{Seed: seed, Kind: moveKindOf(seed)} }

func traced(o MoveOptions, trace func(string)) MoveOptions {
	o.Trace = trace
	return o
}

// DESIGN 6.1: what mChecker holds, in every seed.
func TestSlotMovesKeepTheirPromisesInEverySeed(t *testing.T) {
	if *moveOne != 0 {
		res := RunMoves(traced(moveOptions(*moveOne), func(s string) { t.Log(s) }))
		for _, v := range res.Violations {
			t.Error(v)
		}
		t.Logf("%+v", res)
		return
	}
	n := *moveSeeds
	if testing.Short() {
		n = min(n, 200)
	}
	start := time.Now()
	var mu sync.Mutex
	var sum MoveResult
	var worst time.Duration
	each(n, func(i int) {
		seed := *moveFirst + uint64(i)
		res := RunMoves(moveOptions(seed))
		mu.Lock()
		defer mu.Unlock()
		for _, v := range res.Violations {
			t.Errorf("seed %d: %s (replay: go test ./internal/sim -run SlotMovesKeep -sim.move.seed=%d -v)", seed, v, seed)
		}
		if res.Events > 1_000_000 {
			t.Errorf("seed %d: %d events: somebody turns in circles", seed, res.Events)
		}
		sum.Virtual += res.Virtual
		sum.Events += res.Events
		sum.Jobs += res.Jobs
		sum.Done += res.Done
		sum.InDoubt += res.InDoubt
		sum.Failovers += res.Failovers
		sum.Crashes += res.Crashes
		sum.Writes += res.Writes
		sum.Lost += res.Lost
		worst = max(worst, res.Settled)
	})
	t.Logf("%d seeds: %v of virtual time, %d events, %d moves, %d of them ready, %d done where the target lived on; %d failovers, %d crashes; %d writes, %d lost as they may; settled after %v at most; in %v",
		n, sum.Virtual.Round(time.Second), sum.Events, sum.Jobs, sum.InDoubt, sum.Done, sum.Failovers, sum.Crashes, sum.Writes, sum.Lost, worst, time.Since(start).Round(time.Millisecond))
}

// A master that was replaced, and comes back at the very time when its successor
// has given slots away and nobody has claimed them, does not get them.
func TestReplacedMastersReturnInVain(t *testing.T) {
	n := 100
	if testing.Short() {
		n = 20
	}
	each(n, func(i int) {
		seed := uint64(i + 1)
		for _, v := range RunMoves(MoveOptions{Seed: seed, Kind: MoveReturns}).Violations {
			t.Errorf("seed %d: %s (replay: -sim.move.plot=returns -sim.move.seed=%d)", seed, v, seed)
		}
	})
}

// DESIGN 6.5: each mistake that a move could be written with is noticed.
func TestEverySlotMoveMutantIsCaught(t *testing.T) {
	type m = slotmove.Mutants
	mutants := []struct {
		name string
		opts MoveOptions // Seed: the search begins behind it, since what is needed is rare
	}{
		{"COMMIT before GIVEN is durable", MoveOptions{Mutants: m{CommitEarly: true}, Kind: MoveKills}},
		{"drop the keys before the claim", MoveOptions{Mutants: m{DropEarly: true}, Kind: MoveBreaks}},
		{"no hold of writes while draining", MoveOptions{Mutants: m{NoHold: true}, Kind: MoveCalm}},
		{"no hold of reads once given", MoveOptions{Mutants: m{NoReadHold: true}, Kind: MoveCuts}},
		{"take given slots back after a while", MoveOptions{Mutants: m{TakeBackLate: true}, Kind: MoveClaims}},
		{"presume COMMIT", MoveOptions{Mutants: m{PresumeCommit: true}, Kind: MoveMixed}},
		{"claim without COMMIT", MoveOptions{Mutants: m{ClaimEarly: true}, Kind: MoveKills}},
		{"ask who was the source", MoveOptions{Mutants: m{AskPeer: true}, Kind: MoveFailovers}},
		{"no mark READY", MoveOptions{Mutants: m{ForgetReady: true}, Kind: MoveKills}},
		{"no mark once claimed", MoveOptions{Mutants: m{ForgetClaim: true}, Kind: MoveClaims}},
		{"no mark once claimed, heard or not", MoveOptions{Mutants: m{ForgetUnheard: true}, Kind: MoveClaims}},
		{"leave connections behind", MoveOptions{Mutants: m{LeakFeed: true}, Kind: MovePauses}},
		{"shell: do not wait for replicas", MoveOptions{NoReplicaWait: true, Kind: MoveFailovers}},
		{"shell: do not sync", MoveOptions{NoSync: true, Kind: MovePower}},
		{"bus: a replaced master defies its successor", MoveOptions{DefyHeir: true, Kind: MoveClaims}},
		{"bus: a replaced master is believed", MoveOptions{BelieveReplaced: true, Kind: MoveReturns}},
		{"bus: an heir keeps what others have", MoveOptions{KeepCopies: true, Kind: MoveReturns, Seed: 1100}},
		{"bus: an heir takes what was let go", MoveOptions{InheritAll: true, Kind: MoveMixed, Seed: 900}},
		{"bus: take nothing that was let go unseen", MoveOptions{TakeClaimedOnly: true, Kind: MoveMixed, Seed: 4300}},
	}
	const limit = 400
	var table strings.Builder
	for _, mu := range mutants {
		caught := ""
		start := time.Now()
		for seed := mu.opts.Seed + 1; seed <= mu.opts.Seed+limit && caught == ""; seed++ {
			o := mu.opts
			o.Seed = seed
			res := RunMoves(o)
			if len(res.Violations) > 0 && len(RunMoves(MoveOptions{Seed: seed, Kind: o.Kind}).Violations) == 0 { // not without it
				caught = fmt.Sprintf("seed %d: %s", seed, res.Violations[0])
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

// A run is a function of its seed: a failure can be replayed.
func TestSameSeedGivesTheSameMoves(t *testing.T) {
	trace := func(seed uint64) string {
		var b strings.Builder
		res := RunMoves(traced(moveOptions(seed), func(s string) { b.WriteString(s + "\n") }))
		fmt.Fprintf(&b, "%+v", res)
		return b.String()
	}
	for _, seed := range []uint64{3, 16, 21} {
		if a, b := trace(seed), trace(seed); a != b {
			t.Fatalf("two runs of seed %d differ", seed)
		}
	}
}
