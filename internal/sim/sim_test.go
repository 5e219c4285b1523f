package sim

import (
	"flag"
	"fmt"
	"sort"
	"strings"
	"testing"
	"time"

	"holdfast/internal/redis/sentinel"
)

var (
	seeds = flag.Int("sim.seeds", 1000, "number of simulated runs")
	one   = flag.Uint64("sim.seed", 0, "replay this seed alone, with its trace")
)

// DESIGN 6.1: global truths hold through loss, delay, one-way partitions,
// pauses, crashes and restarts.
func TestSentinelPromisesHoldInEverySeed(t *testing.T) {
	if *one != 0 {
		res := Run(Options{Seed: *one, Flap: *one%10 == 0, Trace: func(s string) { t.Log(s) }})
		for _, v := range res.Violations {
			t.Error(v)
		}
		t.Logf("%+v", res)
		return
	}
	n := *seeds
	if testing.Short() {
		n = min(n, 100)
	}
	start := time.Now()
	var virtual time.Duration
	failovers, events := 0, 0
	var agreed []time.Duration
	for seed := uint64(1); seed <= uint64(n); seed++ {
		res := Run(Options{Seed: seed, Flap: seed%10 == 0})
		for _, v := range res.Violations {
			t.Errorf("seed %d: %s (replay: go test ./internal/sim -run EverySeed -sim.seed=%d -v)", seed, v, seed)
		}
		virtual += res.Virtual
		failovers += res.Failovers
		events += res.Events
		agreed = append(agreed, res.Agreed)
	}
	sort.Slice(agreed, func(i, j int) bool { return agreed[i] < agreed[j] })
	t.Logf("%d seeds: %v of virtual time, %d events, %d failovers, agreement after median %v, most %v, in %v",
		n, virtual.Round(time.Second), events, failovers, agreed[len(agreed)/2], agreed[len(agreed)-1],
		time.Since(start).Round(time.Millisecond))
	if failovers < n/2 {
		t.Errorf("only %d failovers in %d seeds: the faults are too tame", failovers, n)
	}
}

// A run is a function of its seed: a failure can be replayed.
func TestSameSeedGivesTheSameRun(t *testing.T) {
	trace := func() string {
		var b strings.Builder
		Run(Options{Seed: 7, Trace: func(s string) { b.WriteString(s + "\n") }})
		return b.String()
	}
	if a, b := trace(), trace(); a != b {
		t.Fatal("two runs of seed 7 differ")
	}
}

// DESIGN 6.5: each mistake that a Sentinel could be written with is noticed.
func TestEveryMutantIsCaught(t *testing.T) {
	mutants := []struct {
		name string
		bit  sentinel.Mutant
		flap bool
	}{
		{"vote twice in an epoch", sentinel.MutVoteTwice, false},
		{"skip the epoch check of hello", sentinel.MutSkipEpochCheck, false},
		{"do not persist a vote", sentinel.MutForgetVote, false},
		{"lead without a majority", sentinel.MutNoMajority, false},
		{"announce the epoch before the promotion", sentinel.MutEarlyEpoch, false},
		{"go on with an overtaken failover", sentinel.MutOvertaken, true},
		{"promote priority 0", sentinel.MutIgnorePriority, false},
		{"choose without the offset", sentinel.MutIgnoreOffset, false},
		{"promote whatever lost its master long ago", sentinel.MutIgnoreLinkAge, false},
		{"leave a returning master a master", sentinel.MutKeepOldMaster, false},
		{"do not learn from hello", sentinel.MutIgnoreHello, false},
	}
	const limit = 400
	var table strings.Builder
	for _, m := range mutants {
		caught := ""
		start := time.Now()
		for seed := uint64(1); seed <= limit; seed++ {
			if res := Run(Options{Seed: seed, Mutants: m.bit, Flap: m.flap}); len(res.Violations) > 0 {
				caught = fmt.Sprintf("seed %d: %s", seed, res.Violations[0])
				break
			}
		}
		if caught == "" {
			t.Errorf("mutant %q survived %d seeds", m.name, limit)
			caught = "SURVIVED"
		}
		fmt.Fprintf(&table, "%-44s %6dms  %s\n", m.name, time.Since(start).Milliseconds(), caught)
	}
	t.Log("\n" + table.String())
}
