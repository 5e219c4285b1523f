package keyspace

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

func TestDefragEmptiesSparseSlabs(t *testing.T) {
	ks := testKeyspace(t, 2)
	defer closeKeyspace(t, ks)
	const n = 30_000
	val := func(i, size int) []byte { return bytes.Repeat([]byte{byte(i)}, size) }
	key := func(i int) []byte { return fmt.Append(nil, i) }
	rng := rand.New(rand.NewPCG(1, 1))
	sizes := make([]int, n)
	for i := range n {
		sizes[i] = rng.IntN(2000)
		ks.DB(i&1).SetString(key(i), val(i, sizes[i]), int64(i%3-1))
	}
	for i := range n {
		if rng.IntN(10) > 0 {
			sizes[i] = 20
			ks.DB(i&1).SetString(key(i), val(i, 20), KeepTTL)
		}
	}
	fillColl(ks.DB(0), TypeZSet, []byte("z"), 500)
	want := content(ks)
	// A snapshot meanwhile sees nothing of it.
	f := newFileSnapshot()
	s := ks.BeginSnapshot(f)
	before := ks.MappedMemory()
	moved, steps := 0, 0
	for done := false; !done; steps++ {
		var m int
		m, _, done = ks.Defrag(500)
		moved += m
		s.Step(100)
		if m > 1000 {
			t.Fatalf("Defrag(500) moved %d", m)
		}
	}
	after := ks.MappedMemory()
	if moved == 0 || steps < 10 || after > before/2 && !poison {
		t.Errorf("%d moved in %d steps, mapped %d, before %d, used %d", moved, steps, after, before, ks.UsedMemory())
	}
	for !s.Step(1000) {
	}
	compareContent(t, content(ks), want)
	ks.DB(0).check()
	ks.DB(1).check()
	back := f.load(t, 2)
	compareContent(t, content(back), want)
	closeKeyspace(t, back)
	emptyAll(t, ks)
}

func TestDefragUnderChanges(t *testing.T) {
	for seed := range uint64(4) {
		ks := testKeyspace(t, 2)
		rng := rand.New(rand.NewPCG(seed, 3))
		for i := range 1500 {
			disturb(ks, rng, 1000)
			if i%5 == 0 {
				ks.Defrag(rng.IntN(300))
			}
		}
		for i := range ks.NumDB() {
			ks.DB(i).check()
		}
		for {
			if _, _, done := ks.Defrag(1000); done {
				break
			}
		}
		emptyAll(t, ks)
		closeKeyspace(t, ks)
	}
}
