package journal

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"holdfast/internal/vfstest"
)

// proofs are the tests that a mutant has to get past.
var proofs = []struct {
	name string
	run  func(Options) error
}{
	{"damage", damageProof},
	{"failed sync at every place", func(opts Options) error {
		opts.Level = LevelAlways
		_, err := everyFault(vfstest.SyncLost, false, opts, runFault)
		return err
	}},
	{"power cuts", func(opts Options) error {
		for _, s := range crashScripts {
			for _, zero := range []bool{false, true} {
				opts.Level, opts.PreZero = s.level, zero
				if _, err := exploreScript(s.script, opts, vfstest.Config{Exhaustive: 600, Subsets: 8, Samples: 100, Seed: 1}, 40); err != nil {
					return fmt.Errorf("%s: %w", s.name, err)
				}
			}
		}
		return nil
	}},
}

func TestEveryMutantIsCaught(t *testing.T) {
	mutants := []struct {
		name   string
		faults Mutants
	}{
		{"acknowledge before the sync", Mutants{AckBeforeSync: true}},
		{"stop the synced position at zero", Mutants{SyncedStaysZero: true}},
		{"replay past a bad record below S", Mutants{ReplayPastBad: true}},
		{"append to a recovered segment", Mutants{AppendToRecovered: true}},
		{"reuse a segment", Mutants{ReuseSegment: true}},
		{"skip the directory sync", Mutants{SkipDirSync: true}},
		{"retry a failed sync", Mutants{RetrySync: true}},
		{"let a follower read ahead of the disk", Mutants{FollowerAhead: true}},
		{"trim before the manifest names the checkpoint", Mutants{TrimEarly: true}},
		{"trust the header's checksum alone", Mutants{TrustHeaderOnly: true}},
	}
	var table strings.Builder
	fmt.Fprintf(&table, "\n%-47s %-27s %s\n", "mutant", "caught by", "after")
	for _, m := range mutants {
		by := ""
		start := time.Now()
		for _, p := range proofs {
			if err := p.run(Options{Faults: &m.faults}); err != nil {
				by = p.name
				break
			}
		}
		if by == "" {
			t.Errorf("mutant %q is not caught", m.name)
			by = "NOTHING"
		}
		fmt.Fprintf(&table, "%-47s %-27s %v\n", m.name, by, time.Since(start).Round(time.Millisecond))
	}
	t.Log(table.String())
}
