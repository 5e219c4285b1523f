package journal

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"holdfast/internal/vfstest"
)

// crashScripts are the histories of the crash explorer, each with the reason it
// is here.
var crashScripts = []struct {
	name, script string
	level        Level
}{
	{"every record synced", "asvasvasvasvasvpasvasvasv", LevelAlways},
	{"checkpoints and trimming", "asasasasascasasasaspasascafafafafafc", LevelAlways},
	{"several records per sync", "afafafsvaafafsvafafafafs", LevelAlways},
	{"segments roll without a sync", "afafafafafafafafafafs", LevelEverySec},
	{"segments prepared in advance", "psafpafpafpafpafpafafpafpafs", LevelEverySec},
	{"followers wait for the sync", "afvafvsafvafvafvs", LevelAlways},
	{"marks", "afsmafmmafsmkafmaf", LevelEverySec},
	{"restarts", "afafkafafxafsafkafafkafs", LevelEverySec},
	{"generations", "asafgafsafgvaschafgafs", LevelAlways},
	{"histories and epochs", "ashasheafhafefsxh", LevelAlways},
	{"never synced", "afafafmafafmafafp", LevelNo},
}

func TestPowerCutLeavesAPrefixWithAllThatWasAcknowledged(t *testing.T) {
	total := 0
	for _, s := range crashScripts {
		for _, zero := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/zeros=%v", s.name, zero), func(t *testing.T) {
				states, err := exploreScript(s.script, Options{Level: s.level, PreZero: zero}, vfstest.Config{Exhaustive: 600, Subsets: 8, Samples: 100, Seed: 1}, 40)
				if err != nil {
					t.Fatal(err)
				}
				total += states
			})
		}
	}
	t.Logf("%d states", total)
}

// randomScript makes a history by seed.
func randomScript(seed uint64, n int) string {
	rng := rand.New(rand.NewPCG(seed, 5))
	const steps = "aaaaaaaaaaaaffffffffsssvvmppckxghe"
	b := make([]byte, n)
	for i := range b {
		b[i] = steps[rng.IntN(len(steps))]
	}
	return string(b)
}

func TestPowerCutInRandomHistories(t *testing.T) {
	seeds := uint64(40)
	if testing.Short() {
		seeds = 8
	}
	total := 0
	for seed := uint64(1); seed <= seeds; seed++ {
		script := randomScript(seed, 60)
		opts := Options{Level: Level(seed % 3), PreZero: seed%2 == 0, SegmentSize: 1300 + int64(seed%5)*200, MemoryWindow: 300}
		states, err := exploreScript(script, opts, vfstest.Config{Exhaustive: 64, Subsets: 5, Samples: 24, Seed: seed}, 50)
		if err != nil {
			t.Fatalf("seed %d, script %s: %v", seed, script, err)
		}
		total += states
	}
	t.Logf("%d states", total)
}
