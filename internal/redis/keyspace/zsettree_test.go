package keyspace

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// treeModel is the obvious version of zTree: a sorted slice.
type treeModel struct {
	score float64
	m     string
	off   Off
}

func modelCmp(a, b treeModel) int {
	if c := cmp.Compare(a.score, b.score); c != 0 {
		return c
	}
	return cmp.Compare(a.m, b.m)
}

func TestTreeBehavesLikeASortedSlice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, err := NewArena(1 << 32)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = a.Close() }()
		tr := &zTree{a: a}
		var model []treeModel
		seq := 0
		scores := rapid.IntRange(1, 1000).Draw(t, "scores")
		add := func(score float64) {
			seq++
			e := treeModel{score: score, m: fmt.Sprintf("m%d", (seq*7919)%100003)}
			e.off = newScored(a, []byte(e.m), e.score)
			tr.insert(e.score, e.off)
			i, _ := slices.BinarySearchFunc(model, e, modelCmp)
			model = slices.Insert(model, i, e)
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				n := rapid.IntRange(1, 300).Draw(t, "n")
				step := rapid.IntRange(-1, 1).Draw(t, "step")
				base := rapid.IntRange(0, scores).Draw(t, "score")
				for i := range n {
					s := base + i*step
					if step == 0 {
						s = (base + i*31) % scores
					}
					add(float64(s))
				}
			},
			"remove": func(t *rapid.T) {
				n := min(len(model), rapid.IntRange(1, 200).Draw(t, "n"))
				for range n {
					i := rapid.IntRange(0, len(model)-1).Draw(t, "i")
					e := model[i]
					tr.remove(e.score, []byte(e.m))
					freeElem(a, blockZSet, e.off)
					model = slices.Delete(model, i, i+1)
				}
			},
			"removeRange": func(t *rapid.T) {
				if len(model) == 0 {
					return
				}
				from := rapid.IntRange(0, len(model)-1).Draw(t, "from")
				k := rapid.IntRange(1, len(model)-from).Draw(t, "k")
				for left := k; left > 0; {
					left -= tr.removeRange(from, left, func(e Off) { freeElem(a, blockZSet, e) })
				}
				model = slices.Delete(model, from, from+k)
			},
			"update": func(t *rapid.T) {
				if len(model) == 0 {
					return
				}
				i := rapid.IntRange(0, len(model)-1).Draw(t, "i")
				e := model[i]
				old := e.score
				e.score += float64(rapid.IntRange(-3, 3).Draw(t, "d"))
				tr.update(old, e.score, e.off)
				setScore(a, e.off, e.score)
				model = slices.Delete(model, i, i+1)
				i, _ = slices.BinarySearchFunc(model, e, modelCmp)
				model = slices.Insert(model, i, e)
			},
			"": func(t *rapid.T) {
				tr.check()
				if tr.n != len(model) {
					t.Fatalf("%d entries, want %d", tr.n, len(model))
				}
				i := 0
				tr.each(0, tr.n, false, func(s float64, off Off) bool {
					if s != model[i].score || off != model[i].off {
						t.Fatalf("entry %d is %v %q, want %v", i, s, scoredKey(a, off), model[i])
					}
					i++
					return true
				})
				if i != len(model) {
					t.Fatalf("visited %d of %d", i, len(model))
				}
				if len(model) == 0 {
					return
				}
				r := rapid.IntRange(0, len(model)-1).Draw(t, "rank")
				if _, off := tr.at(r); off != model[r].off {
					t.Fatalf("at(%d) is %q, want %v", r, scoredKey(a, off), model[r])
				}
				if got := tr.rank(model[r].score, []byte(model[r].m)); got != r {
					t.Fatalf("rank(%v) = %d, want %d", model[r], got, r)
				}
				s := model[r].score
				lt, _ := slices.BinarySearchFunc(model, treeModel{score: s}, modelCmp)
				if got := tr.count(func(x float64, _ Off) bool { return x < s }); got != lt {
					t.Fatalf("count below %v = %d, want %d", s, got, lt)
				}
				down := 0
				tr.each(r, 100, true, func(_ float64, off Off) bool {
					if off != model[r-down].off {
						t.Fatalf("downwards from %d, entry %d is %q", r, down, scoredKey(a, off))
					}
					down++
					return true
				})
				if down != min(100, r+1) {
					t.Fatalf("downwards from %d: %d entries", r, down)
				}
			},
		})
		for !tr.freeStep(7) {
			continue
		}
		if tr.nodes != 0 {
			t.Fatalf("%d nodes remain after freeStep", tr.nodes)
		}
		for _, e := range model {
			freeElem(a, blockZSet, e.off)
		}
		if a.Used() != 0 {
			t.Fatalf("%d bytes remain in the arena", a.Used())
		}
	})
}

// Trees of several levels, in the orders that split and merge at the edges.
func TestTreeOfManyLevels(t *testing.T) {
	a, err := NewArena(1 << 32)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	const n = 60_000
	for _, order := range []string{"ascending", "descending", "random"} {
		tr := &zTree{a: a}
		perm := rand.New(rand.NewPCG(1, 2)).Perm(n)
		offs := make([]Off, n)
		for i, p := range perm {
			switch order {
			case "ascending":
				p = i
			case "descending":
				p = n - 1 - i
			}
			offs[p] = newScored(a, fmt.Appendf(nil, "%d", p), float64(p))
			tr.insert(float64(p), offs[p])
		}
		tr.check()
		if fillRate := float64(n) / float64(tr.nodes*zLeafCap); fillRate < 0.5 {
			t.Errorf("%s: %d nodes for %d entries", order, tr.nodes, n)
		}
		for _, p := range perm[:1000] {
			if r := tr.rank(float64(p), scoredKey(a, offs[p])); r != p {
				t.Fatalf("%s: rank of %d is %d", order, p, r)
			}
		}
		for i, p := range perm {
			if i%4 != 0 { // three of four go
				tr.remove(float64(p), scoredKey(a, offs[p]))
				freeElem(a, blockZSet, offs[p])
				offs[p] = 0
			}
		}
		tr.check()
		if tr.nodes > n/4/8 {
			t.Errorf("%s: %d nodes remain for %d entries", order, tr.nodes, tr.n)
		}
		for p, off := range offs {
			if off != 0 {
				tr.remove(float64(p), scoredKey(a, off))
				freeElem(a, blockZSet, off)
			}
		}
		tr.check()
		if a.Used() != 0 {
			t.Fatalf("%s: %d bytes remain", order, a.Used())
		}
	}
}
