package sim

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"
)

// An agenda gives what a stable sort by time gives.
func TestAgendaIsAStableSortByTime(t *testing.T) {
	type event struct {
		at  int64
		num int
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var a agenda[int]
		var want, got []event
		for i := range rng.IntN(100) {
			e := event{rng.Int64N(20), i}
			a.push(e.at, e.num)
			want = append(want, e)
		}
		slices.SortStableFunc(want, func(x, y event) int { return cmp.Compare(x.at, y.at) })
		for a.due(20) {
			if len(got) > 0 && a.due(got[len(got)-1].at-1) {
				t.Fatalf("something is due before %v, which came out", got[len(got)-1])
			}
			at, num := a.pop()
			got = append(got, event{at, num})
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
}
