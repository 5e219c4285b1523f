package raid

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"holdfast/internal/vfstest"
)

// shapes are those that the proofs go through.
var shapes = []shape{{0, 2}, {0, 3}, {1, 2}, {1, 3}, {4, 3}, {4, 4}, {5, 3}, {5, 4}, {5, 5}, {6, 4}, {6, 5}, {6, 6}}

// crashScripts are the histories of the crash explorer; needs is how many
// members the level must survive for it.
var crashScripts = []struct {
	name, script string
	needs        int
}{
	{"small synced appends", "c d wt s wt s wc s wK s wt y wC s wt x d", 0},
	{"whole stripes", "c d wz s wm s wY s wZ s wz s x", 0},
	{"bulk files", "b d wm wt s wm x d b wz x d b wt s wY wm s", 0},
	{"never synced", "c wm wt d wt c wt s f0 s wz", 0},
	{"names", "c wt s d r d c wt s o d l d u d g wt s d wm s d G d", 0},
	{"names without a sync", "c wt s r l c wt o u g wt G c wt s d", 0},
	{"tails of several files", "c d wt s c wt s c d wt s f0 wt s f1 wc s f2 wt s f0 wc s f1 wt s f2 wC s f0 wt s f1 wc s f2 wt s", 0},
	{"a tail that left for a stripe that is not sealed", "c d wt s c d wt s f0 wz f1 wt s wt s wt s wt s wt s wt s wt s wt s wt s wt s wt s wt s wt s wt s f0 s", 0},
	{"metadata checkpoints", "c wt s x d f0 wt x d f0 wt x d c wt x d u d c wt x d f0 u d c wt x d c wt x d c wt x d", 0},
	{"restarts", "c d wt s k f0 wm k f0 wt s q f0 wZ s q f0 wt s", 0},
	{"a member fails", "c d wm s wt s F1 wt s wm s d c wt d", 1},
	{"a member fails and returns", "c d wm s wt s F1 wt s wm s J1 wt s R wt s U", 1},
	{"a member is away and returns", "c d wm s wt s A1 f0 wm s wt s B1 f0 wt s R wm s", 1},
	{"a member is replaced", "c d wm s wt s P1 wt s wm s R wm s q", 1},
	{"a failed member is replaced", "c d wm s wt s F0 wt s P0 wm s R wm s", 1},
	{"two members fail", "c d wm s F1 wt s wm s F2 wt s wm s J1 R J2 R wz s", 2},
}

// crashConfig bounds one history in one shape.
func crashConfig(seed uint64) *explorer {
	return &explorer{
		cfg:  vfstest.Config{Exhaustive: 16 * scale(), Subsets: min(3+scale()/4, 12), Samples: 4 * scale(), Seed: seed},
		seed: seed, losses: 1, deep: 250, fsck: 100, most: scale(),
	}
}

func TestPowerCutLeavesAllThatWasAcknowledged(t *testing.T) {
	var total figures
	for k, s := range shapes {
		t.Run(s.String(), func(t *testing.T) {
			for i, c := range crashScripts {
				// Every history goes through a third of the shapes, every shape through a third of the histories.
				if s.parity() < c.needs || scale() == 1 && (i+k)%3 != 0 {
					continue
				}
				x := crashConfig(uint64(i))
				err := exploreScript(s, c.script, x, Mutants{})
				total.add(x.figure)
				if err != nil {
					t.Errorf("%s: %v", c.name, err)
				}
			}
		})
	}
	t.Log(total)
}

// TestPowerCutExhaustively tries every subset of up to 12 operations that are
// not durable, every tear, and every set of lost members.
func TestPowerCutExhaustively(t *testing.T) {
	var total figures
	for _, s := range []shape{{0, 2}, {1, 2}, {4, 3}, {5, 3}, {6, 4}} {
		x := &explorer{cfg: vfstest.Config{Exhaustive: 128 * scale(), Subsets: min(6+scale(), 12), Samples: 32 * scale(), Seed: 1}, losses: -1}
		err := exploreScript(s, "c d wt s wz s", x, Mutants{})
		total.add(x.figure)
		if err != nil {
			t.Fatalf("%v: %v", s, err)
		}
	}
	t.Log(total)
}

// TestPowerCutWithMembersAtWorkTogether has syncs of several members under way
// at the same time, in no fixed order.
func TestPowerCutWithMembersAtWorkTogether(t *testing.T) {
	var total figures
	for k, s := range []shape{{1, 3}, {5, 4}, {6, 5}} {
		for i, c := range crashScripts {
			if s.parity() < c.needs || scale() == 1 && (i+k)%3 != 0 {
				continue
			}
			x := crashConfig(uint64(i))
			x.parallel = true
			err := exploreScript(s, c.script, x, Mutants{})
			total.add(x.figure)
			if err != nil {
				t.Errorf("%v, %s: %v", s, c.name, err)
			}
		}
	}
	t.Log(total)
}

// randomScript makes a history by seed.
func randomScript(rng *rand.Rand, s shape, n int) string {
	steps := strings.Fields("c c b g f0 f1 f2 e w1 wt wt wt wc wC wK wz wZ wY wm wm s s s s s s y x d d d r o l u G v k q U")
	if s.parity() > 0 {
		steps = append(steps, "F1", "J1", "R", "A2", "B2", "P0", "R")
	}
	words := []string{"c", "d"}
	out := -1 // the member that fails or is away
	for len(words) < n {
		w := steps[rng.IntN(len(steps))]
		switch w[0] {
		case 'F', 'A', 'P':
			if out >= 0 || int(w[1]-'0') >= s.width {
				continue
			}
			if out = int(w[1] - '0'); w[0] == 'P' {
				words = append(words, w, "wt", "s", "R")
				out = -1
				continue
			}
		case 'J', 'B':
			if out != int(w[1]-'0') || w[0] == 'J' && out == 2 || w[0] == 'B' && out == 1 {
				continue
			}
			words = append(words, w, "e", "wt", "s", "R")
			out = -1
			continue
		case 'k', 'q':
			words = append(words, w, "e")
			continue
		}
		words = append(words, w)
	}
	return strings.Join(words, " ")
}

func TestPowerCutInRandomHistories(t *testing.T) {
	var total figures
	for seed := uint64(1); seed <= uint64(10*scale()); seed++ {
		rng := rand.New(rand.NewPCG(seed, 5))
		s := shapes[rng.IntN(len(shapes))]
		script := randomScript(rng, s, 40)
		x := randomConfig(seed)
		err := exploreScript(s, script, x, Mutants{})
		total.add(x.figure)
		if err != nil {
			t.Fatalf("seed %d, %v, script %s: %v", seed, s, script, err)
		}
	}
	t.Log(total)
}

func randomConfig(seed uint64) *explorer {
	return &explorer{cfg: vfstest.Config{Exhaustive: 8, Subsets: 2, Samples: 2, Seed: seed}, seed: seed, losses: 1, deep: 150, fsck: 50, most: 2}
}

// TestFoundByRandomHistories keeps what random histories have found.
func TestFoundByRandomHistories(t *testing.T) {
	for _, c := range []struct {
		s      shape
		seed   uint64
		script string
	}{
		// A rebuilding member held more batches of the generation before than those
		// that the newer incarnation had begun with.
		{shape{1, 3}, 17, "c d f0 x w1 R s wY f0 y c c e wt f0 f1 G c P0 wt s R f2 e s d wt s R b wm w1 P0 wt s R R G b q e"},
	} {
		if err := exploreScript(c.s, c.script, randomConfig(c.seed), Mutants{}); err != nil {
			t.Error(fmt.Errorf("%v %s: %w", c.s, c.script, err))
		}
	}
}
