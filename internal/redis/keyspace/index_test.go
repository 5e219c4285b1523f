package keyspace

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// addMember puts a member block into the index.
func addMember(x *Index, m []byte) {
	off := x.a.Alloc(binary.MaxVarintLen64 + len(m))
	b := binary.AppendUvarint(x.a.Mem(off, binary.MaxVarintLen64+len(m))[:0], uint64(len(m)))
	_ = append(b, m...)
	x.Insert(x.Hash(m), off)
}

func delMember(x *Index, m []byte) {
	h := x.Hash(m)
	off, ok := x.Find(h, m)
	if !ok {
		panic(fmt.Sprintf("member %q is missing", m))
	}
	x.Delete(h, off)
	x.a.Free(off, binary.MaxVarintLen64+len(m))
}

// checkIndex fails unless x holds exactly the keys of want and its counters and
// slot order are right.
func checkIndex(t interface{ Fatalf(string, ...any) }, x *Index, want map[string]bool) {
	if x.Len() != len(want) {
		t.Fatalf("Len() = %d, want %d", x.Len(), len(want))
	}
	n, live, deepest := 0, 0, 0
	for i := 0; i < len(x.dir); {
		s := &x.segs[x.dir[i]]
		live++
		if s.depth == x.depth {
			deepest++
		}
		count := 0
		slots := x.slots(s)
		for j, v := range slots {
			if v == 0 {
				continue
			}
			count++
			key := x.keyAt(slotOff(v))
			h := x.Hash(key)
			if !want[string(key)] {
				t.Fatalf("key %q should not be there", key)
			}
			if x.at(h) != x.dir[i] || mark(h) != v>>slotShift {
				t.Fatalf("key %q is in the wrong segment or has a wrong mark", key)
			}
			// Robin Hood: a slot is not farther from its home than the one
			// before it by more than one.
			prev := slots[(j-1)&(len(slots)-1)]
			dist := (j - int(v>>(64-s.log))) & (len(slots) - 1)
			if dist > 0 && (prev == 0 || dist > (j-1-int(prev>>(64-s.log)))&(len(slots)-1)+1) {
				t.Fatalf("slot %d of %d is out of order", j, len(slots))
			}
		}
		if count != int(s.count) || s.count > segLimit(s.log) {
			t.Fatalf("segment counts %d of %d slots, has %d", s.count, len(slots), count)
		}
		n += count
		for j := range 1 << (x.depth - s.depth) {
			if x.dir[i+j] != x.dir[i] {
				t.Fatalf("directory place %d is %d, want %d", i+j, x.dir[i+j], x.dir[i])
			}
		}
		i += 1 << (x.depth - s.depth)
	}
	if n != x.n || live != int(x.live) || deepest != int(x.deepest) {
		t.Fatalf("counters: %d entries, %d live, %d deepest; found %d, %d, %d", x.n, x.live, x.deepest, n, live, deepest)
	}
	for k := range want {
		if _, ok := x.Find(x.Hash([]byte(k)), []byte(k)); !ok {
			t.Fatalf("key %q is missing", k)
		}
	}
}

func newTestIndex(t testing.TB) *Index {
	x := new(Index)
	x.init(testArena(t), maphash.MakeSeed(), blockSet)
	return x
}

func TestIndexAgreesWithMap(t *testing.T) {
	for _, size := range []int{5, 100, 3000, 40_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			x := newTestIndex(t)
			rng := rand.New(rand.NewPCG(3, uint64(size)))
			model := map[string]bool{}
			for i := range 4 * size {
				grow := i/size%2 == 0
				k := fmt.Sprintf("key:%d", rng.IntN(size))
				if grow && !model[k] {
					addMember(x, []byte(k))
					model[k] = true
				} else if !grow && model[k] {
					delMember(x, []byte(k))
					delete(model, k)
				}
				if i%(size/2+1) == 0 {
					checkIndex(t, x, model)
				}
			}
			checkIndex(t, x, model)
			for k := range model {
				delMember(x, []byte(k))
			}
			if x.Len() != 0 || x.memory() != 0 || x.a.Used() != 0 || x.a.Accounted() != 0 {
				t.Errorf("emptied: len %d, memory %d, used %d, accounted %d", x.Len(), x.memory(), x.a.Used(), x.a.Accounted())
			}
		})
	}
}

func TestIndexShrinksWhenEmptied(t *testing.T) {
	x := newTestIndex(t)
	for i := range 100_000 {
		addMember(x, fmt.Append(nil, i))
	}
	full := x.memory()
	for i := range 99_000 {
		delMember(x, fmt.Append(nil, i))
	}
	want := map[string]bool{}
	for i := 99_000; i < 100_000; i++ {
		want[fmt.Sprint(i)] = true
	}
	checkIndex(t, x, want)
	if m := x.memory(); m > full/20 {
		t.Errorf("index of 1000 takes %d bytes, of 100000 it took %d", m, full)
	}
}

func TestIndexRandomIsFair(t *testing.T) {
	x := newTestIndex(t)
	for i := range 2000 {
		addMember(x, fmt.Append(nil, i))
	}
	rng := rand.New(rand.NewPCG(5, 6))
	hits := map[Off]int{}
	const draws = 400_000
	for range draws {
		off, _ := x.Random(rng)
		hits[off]++
	}
	// 200 expected each, with a standard deviation of 14.
	for off, n := range hits {
		if n < 110 || n > 300 {
			t.Errorf("block %#x was drawn %d times", off, n)
		}
	}
	if len(hits) != 2000 {
		t.Errorf("%d of 2000 were drawn", len(hits))
	}
}

// SCAN of Redis: whatever is there from the start of a full iteration to its
// end is returned, whatever is not there at any time is not.
func TestScanReturnsWhatIsThereThroughout(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a, err := NewArena(1 << 26)
		if err != nil {
			rt.Fatal(err)
		}
		defer a.Close()
		x := new(Index)
		x.init(a, maphash.MakeSeed(), blockSet)
		stay := rapid.IntRange(0, 900).Draw(rt, "stay")
		come := rapid.IntRange(0, 6000).Draw(rt, "come")
		count := rapid.IntRange(1, 700).Draw(rt, "count")
		growing := rapid.Bool().Draw(rt, "growing")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		present := map[string]bool{}
		for i := range stay {
			addMember(x, fmt.Append(nil, "stay", i))
		}
		others := rng.Perm(come)
		if !growing {
			for _, i := range others {
				addMember(x, fmt.Append(nil, i))
				present[fmt.Sprint(i)] = true
			}
		}
		seen := map[string]int{}
		cur, at := uint64(0), 0
		for round := 0; ; round++ {
			cur = x.Scan(cur, count, func(off Off) { seen[string(x.keyAt(off))]++ })
			if cur == 0 {
				break
			}
			if round > 30_000 {
				rt.Fatalf("scan does not end")
			}
			for k := rng.IntN(1 + come/4); k > 0 && at < come; k, at = k-1, at+1 {
				if growing {
					addMember(x, fmt.Append(nil, others[at]))
				} else {
					delMember(x, fmt.Append(nil, others[at]))
				}
			}
		}
		for i := range stay {
			if n := seen[fmt.Sprint("stay", i)]; n != 1 {
				rt.Fatalf("key stay%d was returned %d times", i, n)
			}
		}
		for k, n := range seen {
			if n > 1 {
				rt.Fatalf("key %s was returned %d times", k, n)
			}
		}
	})
}

func TestScanEndsFromAnyCursor(t *testing.T) {
	x := newTestIndex(t)
	for i := range 3000 {
		addMember(x, fmt.Append(nil, i))
	}
	rng := rand.New(rand.NewPCG(7, 8))
	for range 300 {
		cur := rng.Uint64() >> rng.IntN(64)
		for rounds := 0; ; rounds++ {
			if cur = x.Scan(cur, 100, func(Off) {}); cur == 0 {
				break
			}
			if rounds > 10_000 {
				t.Fatal("scan does not end")
			}
		}
	}
}

func TestScanCountIsAFewBuckets(t *testing.T) {
	x := newTestIndex(t)
	for i := range 50_000 {
		addMember(x, fmt.Append(nil, i))
	}
	calls, total := 0, 0
	for cur := uint64(0); ; calls++ {
		n := 0
		cur = x.Scan(cur, 10, func(Off) { n++ })
		if total += n; n > 30 {
			t.Fatalf("COUNT 10 returned %d", n)
		}
		if cur == 0 {
			break
		}
	}
	if total != 50_000 || calls > 6000 {
		t.Errorf("%d keys in %d calls", total, calls)
	}
}

func TestIndexDrainHandsOutAll(t *testing.T) {
	x := newTestIndex(t)
	for i := range 5000 {
		addMember(x, fmt.Append(nil, i))
	}
	seen := map[Off]bool{}
	for done := false; !done; {
		var spent int
		spent, done = x.drain(100, func(off Off) { seen[off] = true })
		if spent > 100 {
			t.Fatalf("drain(100) took %d", spent)
		}
	}
	if len(seen) != 5000 || x.memory() != 0 {
		t.Errorf("%d of 5000 handed out, %d bytes left", len(seen), x.memory())
	}
}
