package keyspace

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"holdfast/internal/redis/cluster/slot"

	"pgregory.net/rapid"
)

// testBySlot makes testKeyspace return keyspaces of cluster mode.
var testBySlot bool

func slotKeyspace(t tester) *Keyspace {
	t.Helper()
	ks, err := New(Options{Databases: 2, Reserve: testReserve, BySlot: true})
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	ks.SetClock(1_700_000_000_000)
	return ks
}

// What holds without cluster mode holds with it.
func TestBySlot(t *testing.T) {
	testBySlot = true
	defer func() { testBySlot = false }()
	for name, fn := range map[string]func(*testing.T){
		"TestStringsBehaveLikeAMap":                   TestStringsBehaveLikeAMap,
		"TestOverwritingACollectionFreesIt":           TestOverwritingACollectionFreesIt,
		"TestAsyncFlushGivesMemoryBackInSteps":        TestAsyncFlushGivesMemoryBackInSteps,
		"TestExpiryWalkFindsAll":                      TestExpiryWalkFindsAll,
		"TestSamplesAreDistinctAndOfTheKindWanted":    TestSamplesAreDistinctAndOfTheKindWanted,
		"TestDefragUnderChanges":                      TestDefragUnderChanges,
		"TestSnapshotIsTheMomentOfItsBeginning":       TestSnapshotIsTheMomentOfItsBeginning,
		"TestAbortedSnapshotLeavesAllAsItWas":         TestAbortedSnapshotLeavesAllAsItWas,
		"TestSnapshotTellsAccessInformationWhenAsked": TestSnapshotTellsAccessInformationWhenAsked,
	} {
		t.Run(name, fn)
	}
}

// slotKey gives keys of which most fall into few slots, some into many.
func slotKey(rng *rand.Rand, of int) []byte {
	n := rng.IntN(of)
	switch {
	case n%2 == 0:
		return fmt.Appendf(nil, "{fat}%d", n)
	case n%3 == 0:
		return fmt.Appendf(nil, "{t%d}%d", n%8, n)
	}
	return fmt.Appendf(nil, "k%d", n)
}

// checkSlots fails unless db holds the keys of want, each where its slot says.
func checkSlots(t tester, db *DB, want map[string]bool) {
	t.Helper()
	db.check()
	p := db.keys.parts
	bySlot := map[int]int{}
	for k := range want {
		if _, ok := db.Find([]byte(k)); !ok {
			t.Fatalf("key %q is missing", k)
		}
		bySlot[slot.Of([]byte(k))]++
	}
	if db.Len() != len(want) {
		t.Fatalf("Len() = %d, want %d", db.Len(), len(want))
	}
	top, groups := db.Len(), map[int]uint64{}
	for s := range slot.Count {
		if int(p.count[s]) != bySlot[s] {
			t.Fatalf("slot %d counts %d keys, want %d", s, p.count[s], bySlot[s])
		}
		groups[s/groupSlots] += uint64(p.count[s])
		if x := p.apart[s]; x != nil {
			top -= x.n
			if x.n < joinBelow || x.n != bySlot[s] {
				t.Fatalf("slot %d is apart with %d of %d keys", s, x.n, bySlot[s])
			}
		}
	}
	for g, n := range p.groups {
		if n != groups[g] {
			t.Fatalf("group %d counts %d keys, want %d", g, n, groups[g])
		}
	}
	if db.keys.top.n != top || int(db.keys.top.depth) > slotBits {
		t.Fatalf("%d keys are not apart, want %d; depth %d", db.keys.top.n, top, db.keys.top.depth)
	}
}

func TestSlotsAgreeWithMap(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ks := slotKeyspace(rt)
		defer closeKeyspace(rt, ks)
		db := ks.DB(0)
		empty := ks.UsedMemory()
		size := rapid.SampledFrom([]int{10, 700, 3000, 6000}).Draw(rt, "size")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		model := map[string]bool{}
		for i := range 4 * size {
			k := slotKey(rng, size)
			if grow := i/size%2 == 0; grow {
				db.SetString(k, []byte("v"), int64(rng.IntN(2)*1000)-1)
				model[string(k)] = true
			} else if db.Delete(k, false) != model[string(k)] {
				rt.Fatalf("Delete(%q) of what is there: %v", k, model[string(k)])
			} else {
				delete(model, string(k))
			}
			if i%(size+1) == 0 {
				checkSlots(rt, db, model)
			}
		}
		checkSlots(rt, db, model)
		keysOfSlots(rt, ks, model)
		for k := range model {
			db.Delete([]byte(k), false)
		}
		checkSlots(rt, db, nil)
		if ks.UsedMemory() != empty {
			rt.Fatalf("emptied: %d bytes used, %d at first", ks.UsedMemory(), empty)
		}
	})
}

// keysOfSlots compares KeysInSlot and CountKeysInSlot with the keys themselves.
func keysOfSlots(t tester, ks *Keyspace, model map[string]bool) {
	want := map[int]map[string]bool{}
	for k := range model {
		s := slot.OfString(k)
		if want[s] == nil {
			want[s] = map[string]bool{}
		}
		want[s][k] = true
	}
	for s := 0; s < slot.Count; s++ {
		if len(want[s]) == 0 && s%64 != 0 {
			continue
		}
		if ks.CountKeysInSlot(s) != len(want[s]) {
			t.Fatalf("slot %d counts %d keys, want %d", s, ks.CountKeysInSlot(s), len(want[s]))
		}
		for _, most := range []int{0, 3, 1 << 30} {
			seen := map[string]bool{}
			for _, k := range ks.KeysInSlot(s, most) {
				if !want[s][string(k)] || seen[string(k)] {
					t.Fatalf("slot %d: key %q should not be there", s, k)
				}
				seen[string(k)] = true
			}
			if len(seen) != min(most, len(want[s])) {
				t.Fatalf("slot %d: %d of up to %d keys", s, len(seen), most)
			}
		}
	}
}

func TestScanBySlotReturnsWhatIsThereThroughout(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ks := slotKeyspace(rt)
		defer closeKeyspace(rt, ks)
		db := ks.DB(0)
		size := rapid.SampledFrom([]int{1, 300, 2500, 9000}).Draw(rt, "size")
		count := rapid.IntRange(1, 500).Draw(rt, "count")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		stay := map[string]bool{}
		for range size / 3 {
			k := append(slotKey(rng, size), "stay"...)
			stay[string(k)] = true
			db.SetString(k, nil, NoExpiry)
		}
		others := make([][]byte, size)
		growing := rapid.Bool().Draw(rt, "growing")
		for i := range others {
			others[i] = slotKey(rng, size)
			if !growing {
				db.SetString(others[i], nil, NoExpiry)
			}
		}
		seen := map[string]int{}
		cur, at := uint64(0), 0
		for round := 0; ; round++ {
			cur = db.Scan(cur, count, func(r Ref) { seen[string(r.Key())]++ })
			if cur == 0 {
				break
			}
			if round > 200_000 {
				rt.Fatalf("scan does not end")
			}
			if cur>>53 != 0 {
				rt.Fatalf("cursor %d is no exact float", cur)
			}
			for k := rng.IntN(1 + size/8); k > 0 && at < size; k, at = k-1, at+1 {
				if growing {
					db.SetString(others[at], nil, NoExpiry)
				} else {
					db.Delete(others[at], false)
				}
			}
		}
		for k := range stay {
			if seen[k] != 1 {
				rt.Fatalf("key %s was returned %d times", k, seen[k])
			}
		}
		for k, n := range seen {
			if n > 1 {
				rt.Fatalf("key %s was returned %d times", k, n)
			}
		}
	})
}

func TestScanBySlotEndsFromAnyCursor(t *testing.T) {
	ks := slotKeyspace(t)
	defer closeKeyspace(t, ks)
	rng := rand.New(rand.NewPCG(7, 8))
	for range 3000 {
		ks.DB(0).SetString(slotKey(rng, 9000), nil, NoExpiry)
	}
	for range 40 {
		cur := rng.Uint64() >> rng.IntN(64)
		for rounds := 0; ; rounds++ {
			if cur = ks.DB(0).Scan(cur, 100, func(Ref) {}); cur == 0 {
				break
			}
			if rounds > 10_000 {
				t.Fatal("scan does not end")
			}
		}
	}
}

// A slot with most of the keys neither makes SCAN return thousands at once nor
// the directory deep.
func TestScanCountHoldsWhereOneSlotHasAlmostAll(t *testing.T) {
	ks := slotKeyspace(t)
	defer closeKeyspace(t, ks)
	db := ks.DB(0)
	var k []byte
	for i := range 60_000 {
		k = fmt.Appendf(k[:0], "{fat}%d", i)
		if i%50 == 0 {
			k = fmt.Appendf(k[:0], "k%d", i)
		}
		db.SetString(k, nil, NoExpiry)
	}
	total := 0
	for cur := uint64(0); ; {
		n := 0
		cur = db.Scan(cur, 10, func(Ref) { n++ })
		if total += n; n > 30 {
			t.Fatalf("COUNT 10 returned %d", n)
		}
		if cur == 0 {
			break
		}
	}
	if total != 60_000 {
		t.Errorf("%d keys returned", total)
	}
	if len(db.keys.top.dir) > 64 {
		t.Errorf("1,200 keys have a directory of %d places", len(db.keys.top.dir))
	}
}

func TestRandomBySlotIsFair(t *testing.T) {
	ks := slotKeyspace(t)
	defer closeKeyspace(t, ks)
	db := ks.DB(0)
	for i := range 2000 {
		k := fmt.Appendf(nil, "{fat}%d", i)
		if i >= 1500 {
			k = fmt.Appendf(nil, "k%d", i)
		}
		db.SetString(k, nil, NoExpiry)
	}
	if db.keys.parts.apart[slot.OfString("fat")] == nil {
		t.Fatal("the slot with most keys is not apart")
	}
	rng := rand.New(rand.NewPCG(5, 6))
	hits := map[string]int{}
	for range 400_000 {
		r, _ := db.Random(rng)
		hits[string(r.Key())]++
	}
	// 200 expected each, with a standard deviation of 14.
	for k, n := range hits {
		if n < 110 || n > 300 {
			t.Errorf("key %s was drawn %d times", k, n)
		}
	}
	if len(hits) != 2000 {
		t.Errorf("%d of 2000 were drawn", len(hits))
	}
}

func TestSlotAloneBehavesLikeADatabase(t *testing.T) {
	ks := slotKeyspace(t)
	defer closeKeyspace(t, ks)
	db := ks.DB(0)
	for i := range 200_000 {
		db.SetString(fmt.Appendf(nil, "{a}%d", i), []byte("v"), NoExpiry)
	}
	if len(db.keys.top.dir) != 0 || db.Len() != 200_000 {
		t.Fatalf("%d keys, directory of %d places", db.Len(), len(db.keys.top.dir))
	}
	for i := range 200_000 {
		if !db.Delete(fmt.Appendf(nil, "{a}%d", i), false) {
			t.Fatalf("key %d is missing", i)
		}
	}
	checkSlots(t, db, nil)
}

func TestNotedSlotIsOfThatSliceAlone(t *testing.T) {
	ks := slotKeyspace(t)
	defer closeKeyspace(t, ks)
	db := ks.DB(0)
	for _, k := range []string{"", "foo", "bar", "{foo}x"} {
		db.SetString([]byte(k), []byte(k), NoExpiry)
	}
	foo := []byte("foo")
	for range 2 {
		ks.NoteSlot(foo, slot.Of(foo))
		for _, k := range []string{"", "foo", "bar", "{foo}x"} {
			if _, ok := db.Find([]byte(k)); !ok {
				t.Errorf("key %q is missing", k)
			}
		}
		if _, ok := db.Find(foo); !ok {
			t.Error("the noted key is missing")
		}
		ks.NoteSlot(nil, 0)
		copy(foo, "bar")
		if r, ok := db.Find(foo); !ok || string(r.Bytes()) != "bar" {
			t.Error("a slot is noted that was taken back")
		}
		ks.NoteSlot([]byte{}, 0)
	}
}

// The other databases of a node know nothing of slots, and do without.
func TestOnlyDatabaseZeroIsBySlot(t *testing.T) {
	ks := slotKeyspace(t)
	defer closeKeyspace(t, ks)
	ks.DB(1).SetString([]byte("foo"), []byte("bar"), 5)
	if n := ks.CountKeysInSlot(slot.OfString("foo")); n != 0 {
		t.Errorf("a key of database 1 is counted %d times", n)
	}
	ks.DB(1).check()
}

// BenchmarkFindInSlotsApart is BenchmarkFind where each slot has as many keys as
// in a node of 5,000 slots with 5 million keys, or all are in one.
func BenchmarkFindInSlotsApart(b *testing.B) {
	for _, slots := range []int{1000, 1} {
		b.Run(fmt.Sprint(slots), func(b *testing.B) {
			ks, err := New(Options{BySlot: true})
			if err != nil {
				b.Fatal(err)
			}
			defer ks.Close()
			keys := benchKeys(1_000_000)
			for i, k := range keys {
				keys[i] = fmt.Appendf(nil, "{%d}%s", i%slots, k[4:])
				ks.DB(0).SetString(keys[i], make([]byte, 64), NoExpiry)
			}
			b.ReportMetric(float64(ks.UsedMemory())/1e6, "used/key")
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if _, ok := ks.DB(0).Find(keys[i]); !ok {
					b.Fatal("missing")
				}
				if i++; i == len(keys) {
					i = 0
				}
			}
		})
	}
}
