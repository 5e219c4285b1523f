package keyspace

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// testReserve is enough for what tests hold, and cheap to map a thousand times.
const testReserve = 1 << 30

func testArena(t testing.TB) *Arena {
	t.Helper()
	a, err := NewArena(testReserve)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

func TestArenaClassesAreMonotonicAndDense(t *testing.T) {
	sizes := make(map[int]int)
	last := -1
	for n := 1; n <= slabMax; n++ {
		size, class := classSize(n), classOf(n)
		if size < n || size%16 != 0 || classSize(size) != size || classOf(size) != class {
			t.Fatalf("n=%d: size %d (of which size %d, class %d), class %d", n, size, classSize(size), classOf(size), class)
		}
		if class != last && class != last+1 {
			t.Fatalf("n=%d: class %d follows %d", n, class, last)
		}
		if s, ok := sizes[class]; ok && s != size {
			t.Fatalf("n=%d: class %d has sizes %d and %d", n, class, s, size)
		}
		if float64(size-n) > max(15, float64(n)*0.126) {
			t.Fatalf("n=%d wastes %d bytes", n, size-n)
		}
		sizes[class], last = size, class
	}
	if last != slabClasses-1 {
		t.Errorf("last class %d, want %d", last, slabClasses-1)
	}
	for _, n := range []int{slabMax + 1, 100_000, 1 << 20, 512 << 20, 1<<32 - 1} {
		if size := classSize(n); size < n || size%pageSize != 0 || classSize(size) != size {
			t.Errorf("n=%d: class size %d", n, size)
		}
	}
}

type testBlock struct {
	off Off
	n   int
	b   byte
}

func (k testBlock) whole(a *Arena) bool {
	return bytes.Count(a.Mem(k.off, k.n), []byte{k.b}) == k.n
}

func TestArenaBlocksNeverOverlap(t *testing.T) {
	a := testArena(t)
	rng := rand.New(rand.NewPCG(1, 2))
	var live []testBlock
	used := int64(0)
	for i := range 60_000 {
		// Phases of growth and of shrinking, so that slabs come and go.
		if len(live) == 0 || rng.IntN(100) < 35+30*(i/5000%2) {
			n := 1 + rng.IntN(200)
			switch rng.IntN(100) {
			case 0:
				n = 1 + rng.IntN(300_000)
			case 1, 2, 3:
				n = 1 + rng.IntN(40_000)
			}
			k := testBlock{a.Alloc(n), n, byte(rng.IntN(256))}
			if k.off == 0 || k.off%16 != 0 {
				t.Fatalf("Alloc(%d) = %#x", n, k.off)
			}
			m := a.Mem(k.off, n)
			for j := range m {
				m[j] = k.b
			}
			live = append(live, k)
			used += int64(a.ClassSize(n))
			continue
		}
		j := rng.IntN(len(live))
		k := live[j]
		if !k.whole(a) {
			t.Fatalf("step %d: block %+v was overwritten", i, k)
		}
		a.Free(k.off, k.n)
		used -= int64(a.ClassSize(k.n))
		live[j] = live[len(live)-1]
		live = live[:len(live)-1]
		if a.Used() != used {
			t.Fatalf("Used() = %d, want %d", a.Used(), used)
		}
	}
	for _, k := range live {
		if !k.whole(a) {
			t.Fatalf("block %+v was overwritten", k)
		}
		a.Free(k.off, k.n)
	}
	if a.Used() != 0 {
		t.Errorf("Used() = %d after all was freed", a.Used())
	}
	// One empty slab may stay for each class.
	if a.spans > slabClasses*16 {
		t.Errorf("%d units still in spans after all was freed", a.spans)
	}
}

func TestArenaReusesWhatWasFreed(t *testing.T) {
	a := testArena(t)
	var offs []Off
	for round := range 20 {
		for range 2000 {
			offs = append(offs, a.Alloc(100), a.Alloc(50_000))
		}
		for i, off := range offs {
			a.Free(off, []int{100, 50_000}[i&1])
		}
		offs = offs[:0]
		if len(a.units) > 4200 {
			t.Fatalf("round %d: %d units in use at the high-water mark", round, len(a.units))
		}
	}
}

func TestArenaResetEmptiesIt(t *testing.T) {
	a := testArena(t)
	for range 1000 {
		off := a.Alloc(40_000)
		a.Mem(off, 40_000)[39_999] = 1
		a.Alloc(64)
	}
	a.Reset()
	if a.Used() != 0 || a.Mapped() != 0 {
		t.Errorf("after Reset: used %d, mapped %d", a.Used(), a.Mapped())
	}
	if off := a.Alloc(40_000); a.Mem(off, 40_000)[39_999] != 0 {
		t.Error("pages were not given back")
	}
}

func TestArenaPoisonFindsUseAfterFree(t *testing.T) {
	if !poison {
		t.Skip("needs the build tag poison")
	}
	a := testArena(t)
	off := a.Alloc(64)
	a.Alloc(64)
	a.Free(off, 64)
	a.Mem(off, 64)[20] = 1
	defer func() {
		if recover() == nil {
			t.Error("a write to a freed block went unnoticed")
		}
	}()
	a.Alloc(64)
}

func TestArenaHalvesAReservationThatIsRefused(t *testing.T) {
	a, err := NewArena(1 << 60)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	off := a.Alloc(10)
	copy(a.Mem(off, 10), "0123456789")
}
