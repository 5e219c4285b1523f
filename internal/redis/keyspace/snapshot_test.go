package keyspace

import (
	"bytes"
	"crypto/sha1"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"holdfast/internal/redis/rdb"
)

// fileSnapshot collects what a snapshot writes in an RDB file.
type fileSnapshot struct {
	buf bytes.Buffer
	w   *rdb.Writer
	// keys is what SelectDB told for each database.
	keys, expires map[int]int
	calls         int
}

func newFileSnapshot() *fileSnapshot {
	f := &fileSnapshot{keys: map[int]int{}, expires: map[int]int{}}
	f.w = rdb.NewWriter(&f.buf, rdb.WriterOptions{Checksum: true})
	f.w.Header()
	return f
}

func (f *fileSnapshot) SelectDB(db, keys, expires int) {
	f.calls++
	f.w.SelectDB(db)
	if keys >= 0 {
		f.w.ResizeDB(uint64(keys), uint64(expires))
		f.keys[db], f.expires[db] = keys, expires
	}
}

func (f *fileSnapshot) Append(b []byte) { f.w.Raw(b) }

// load reads the file into a new keyspace.
func (f *fileSnapshot) load(t tester, dbs int) *Keyspace {
	t.Helper()
	if err := f.w.EOF(); err != nil {
		t.Fatalf("EOF: %v", err)
	}
	ks := testKeyspace(t, dbs)
	if _, err := rdb.Load(&f.buf, &Loader{KS: ks, DB: ks.DB(0)}, rdb.Options{Sanitize: true}); err != nil {
		t.Fatalf("load: %v", err)
	}
	return ks
}

// content describes all keys with value and expiry.
func content(ks *Keyspace) map[string]string {
	all := map[string]string{}
	for i := range ks.NumDB() {
		db := ks.DB(i)
		db.Each(func(r Ref) bool {
			val := ""
			if b := r.Bytes(); r.Type() == TypeString && len(b) > 1000 {
				val = fmt.Sprintf("%d bytes, %x", len(b), sha1.Sum(b))
			} else if r.Type() == TypeString {
				val = fmt.Sprintf("%q", r.Bytes())
			} else {
				val = valueOf(db, r)
			}
			all[fmt.Sprintf("%d %q", i, r.Key())] = fmt.Sprintf("%v %d %s", r.Type(), r.ExpireAt(), val)
			return true
		})
	}
	return all
}

func compareContent(t tester, got, want map[string]string) {
	t.Helper()
	if maps.Equal(got, want) {
		return
	}
	for k, v := range want {
		if got[k] != v {
			t.Fatalf("key %s: %.200s, want %.200s (%d keys, want %d)", k, got[k], v, len(got), len(want))
		}
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			t.Fatalf("key %s should not be there", k)
		}
	}
}

// disturb does one random change of any kind.
func disturb(ks *Keyspace, rng *rand.Rand, keys int) {
	disturbNamed(ks, rng, func() []byte { return fmt.Appendf(nil, "key%d", rng.IntN(keys)) })
}

// disturbNamed is disturb with keys that name makes.
func disturbNamed(ks *Keyspace, rng *rand.Rand, name func() []byte) {
	db, other := ks.DB(rng.IntN(ks.NumDB())), ks.DB(rng.IntN(ks.NumDB()))
	key, key2 := name(), name()
	r, found := db.Find(key)
	switch op := rng.IntN(100); {
	case op < 20:
		db.SetString(key, bytes.Repeat([]byte("v"), rng.IntN(100)), []int64{NoExpiry, KeepTTL, 1 << 42}[rng.IntN(3)])
	case op < 40:
		db.Delete(key, rng.IntN(2) == 0)
	case op < 45:
		db.SetExpire(key, 1<<43+rng.Int64N(1000))
	case op < 48:
		db.Persist(key)
	case op < 52:
		db.Rename(key, key2)
	case op < 55:
		db.Move(key, other)
	case op < 58:
		db.Copy(key, other, key2)
	case op < 60 && rng.IntN(4) == 0:
		if ks.BySlot() && db.Index()*other.Index() == 0 {
			return
		}
		ks.SwapDB(db.Index(), other.Index())
	case op < 62 && rng.IntN(20) == 0:
		ks.Flush(rng.IntN(ks.NumDB()+1)-1, rng.IntN(2) == 0)
	case op < 65:
		ks.FreeStep(50)
	case found && r.Type() != TypeString:
		mutate(db, r, rng, 1+rng.IntN(30))
		if r, _ := db.Find(key); smallLength(db, r) == 0 {
			db.Delete(key, false)
		}
	case found && op < 68:
		db.SetRange(key, rng.IntN(100), bytes.Repeat([]byte("part"), rng.IntN(30)))
	case found && op < 80:
		db.AppendString(key, []byte("suffix"))
	case found:
		if b := db.MutString(key, rng.IntN(100)); len(b) > 0 {
			b[0]++
		}
	case !found:
		n := 1 + rng.IntN(20)
		if rng.IntN(8) == 0 {
			n = 200 + rng.IntN(800)
		}
		fillColl(db, collTypes[rng.IntN(4)], key, n)
	}
}

func smallLength(db *DB, r Ref) int {
	switch r.Type() {
	case TypeHash:
		h := db.Hash(r)
		return h.Len()
	case TypeSet:
		s := db.Set(r)
		return s.Len()
	case TypeZSet:
		z := db.ZSet(r)
		return z.Len()
	}
	l := db.List(r)
	return l.Len()
}

// The snapshot holds the moment of its beginning, whatever happens meanwhile.
func TestSnapshotIsTheMomentOfItsBeginning(t *testing.T) {
	seed := uint64(0)
	for _, keys := range []int{3, 40, 1000} {
		for _, step := range []int{1, 20, 300} {
			for _, writes := range []int{0, 1, 30} {
				t.Run(fmt.Sprintf("%d keys, steps of %d, %d writes between", keys, step, writes), func(t *testing.T) {
					rounds := 3
					if keys == 1000 {
						rounds = 1
					}
					for range rounds {
						seed++
						testSnapshotMoment(t, rand.New(rand.NewPCG(seed, 1)), keys, step, writes)
					}
				})
			}
		}
	}
}

func testSnapshotMoment(t *testing.T, rng *rand.Rand, keys, step, writes int) {
	ks := testKeyspace(t, 3)
	defer closeKeyspace(t, ks)
	// Low limits make large objects of a few elements.
	ks.Limits().HashMaxListpackEntries, ks.Limits().ZsetMaxListpackEntries = 16, 16
	for range keys * 2 {
		disturb(ks, rng, keys)
	}
	for range 2 {
		want := content(ks)
		counts := map[int]int{}
		for i := range ks.NumDB() {
			if n := ks.DB(i).Len(); n > 0 {
				counts[i] = n
			}
		}
		f := newFileSnapshot()
		s := ks.BeginSnapshot(f)
		s.textMin = 40 + rng.IntN(100) // or nothing here would be a long string
		for changes := 0; !s.Step(step); {
			for i := 0; i < writes && changes < 3*keys; i, changes = i+1, changes+1 {
				disturb(ks, rng, keys)
			}
		}
		if done, total := s.Progress(); done != total || total != len(want) {
			t.Fatalf("progress %d of %d, want %d", done, total, len(want))
		}
		if s.Backlog() != 0 || ks.Snapshotting() {
			t.Fatalf("backlog %d after the end", s.Backlog())
		}
		if !maps.Equal(f.keys, counts) {
			t.Fatalf("databases told as %v, want %v", f.keys, counts)
		}
		back := f.load(t, 3)
		compareContent(t, content(back), want)
		closeKeyspace(t, back)
		for i := range ks.NumDB() {
			ks.DB(i).check()
		}
	}
	emptyAll(t, ks)
}

// emptyAll fails if anything stays in use after all was removed.
func emptyAll(t tester, ks *Keyspace) {
	t.Helper()
	for i := range ks.NumDB() {
		ks.Flush(i, false)
	}
	for ks.FreeStep(1000) > 0 {
	}
	if n := ks.UsedMemory() - emptyBytes(ks); n != 0 {
		t.Fatalf("%d bytes in use after all was removed", n)
	}
}

func TestAbortedSnapshotLeavesAllAsItWas(t *testing.T) {
	for seed := range uint64(12) {
		ks := testKeyspace(t, 3)
		rng := rand.New(rand.NewPCG(seed, 2))
		for range 500 {
			disturb(ks, rng, 200)
		}
		s := ks.BeginSnapshot(newFileSnapshot())
		s.textMin = 50
		for range 10 {
			s.Step(10)
			disturb(ks, rng, 200)
		}
		s.Abort()
		if ks.Snapshotting() {
			t.Fatal("still running after Abort")
		}
		// Either the sweep ends by itself, or the next snapshot ends it.
		for range 30 * (seed % 2) {
			ks.FreeStep(100)
			disturb(ks, rng, 200)
		}
		want := content(ks)
		f := newFileSnapshot()
		s = ks.BeginSnapshot(f)
		s.textMin = 50
		for !s.Step(10) {
			disturb(ks, rng, 200)
		}
		back := f.load(t, 3)
		compareContent(t, content(back), want)
		closeKeyspace(t, back)
		emptyAll(t, ks)
		closeKeyspace(t, ks)
	}
}

// A step and a write stay small, however large a collection is.
func TestSnapshotTakesLargeCollectionsInParts(t *testing.T) {
	for _, typ := range collTypes {
		ks := testKeyspace(t, 1)
		db := ks.DB(0)
		const n = 50_000
		fillColl(db, typ, testKey, n)
		f := newFileSnapshot()
		s := ks.BeginSnapshot(f)
		mutate(db, handle(t, db), rand.New(rand.NewPCG(1, 1)), 1)
		if b := s.Backlog(); b == 0 || b > 64<<10 {
			t.Errorf("%v: a write copied %d bytes", typ, b)
		}
		last, largest, steps := 0, 0, 0
		for !s.Step(100) {
			size := int(f.w.Offset())
			largest = max(largest, size-last)
			last = size
			steps++
		}
		if steps < 50 || largest > 64<<10 {
			t.Errorf("%v: %d steps, the largest wrote %d bytes", typ, steps, largest)
		}
		closeKeyspace(t, ks)
	}
}

// Nor does a long string cost a copy, unless it changes other than by growing.
func TestSnapshotTakesLongStringsInParts(t *testing.T) {
	const n = 4 << 20
	for _, then := range []string{"stays", "grows", "expires later", "persists", "a part changes", "changes", "goes"} {
		ks := testKeyspace(t, 1)
		db := ks.DB(0)
		db.SetString(testKey, bytes.Repeat([]byte("0123456789abcdef"), n/16), 1<<42)
		want := content(ks)
		f := newFileSnapshot()
		s := ks.BeginSnapshot(f)
		last, largest, steps, copied := 0, 0, 0, 0
		for !s.Step(100) {
			if steps++; steps == 20 {
				switch then {
				case "grows":
					db.AppendString(testKey, make([]byte, n))
				case "expires later":
					db.SetExpire(testKey, 1<<43)
				case "persists":
					db.Persist(testKey)
				case "a part changes":
					db.SetRange(testKey, 3_000_000, []byte("other"))
				case "changes":
					db.MutString(testKey, 0)[n-1]++
				case "goes":
					db.Delete(testKey, true)
				}
			}
			copied = max(copied, s.Backlog())
			size := int(f.w.Offset())
			largest = max(largest, size-last)
			last = size
		}
		most := map[string]int{"stays": 1000, "grows": 1000, "expires later": 1000, "persists": 1000, "a part changes": 65 << 10}[then]
		if steps < 50 || largest > 65<<10 || (most > 0) != (copied <= most) {
			t.Errorf("%s: %d steps, the largest wrote %d bytes; %d bytes were copied", then, steps, largest, copied)
		}
		back := f.load(t, 1)
		compareContent(t, content(back), want)
		closeKeyspace(t, back)
		db.check()
		emptyAll(t, ks)
		closeKeyspace(t, ks)
	}
}

func TestSnapshotOfChangesDoesNotPileUp(t *testing.T) {
	ks := testKeyspace(t, 2)
	defer closeKeyspace(t, ks)
	for i := range 20_000 {
		ks.DB(i&1).SetString(fmt.Append(nil, i), make([]byte, 100), NoExpiry)
	}
	f := newFileSnapshot()
	s := ks.BeginSnapshot(f)
	for i := range 20_000 {
		ks.DB(i&1).SetString(fmt.Append(nil, i), make([]byte, 101), NoExpiry)
		if i%100 == 0 {
			s.Step(1)
		}
		if b := s.Backlog(); b > 1<<20 {
			t.Fatalf("backlog of %d bytes after %d writes", b, i)
		}
	}
	for !s.Step(1000) {
	}
	if f.calls > 30 {
		t.Errorf("SelectDB was called %d times", f.calls)
	}
	back := f.load(t, 2)
	defer closeKeyspace(t, back)
	if back.DB(0).Len() != 10_000 || back.DB(1).Len() != 10_000 {
		t.Errorf("%d and %d keys", back.DB(0).Len(), back.DB(1).Len())
	}
}

func TestSnapshotTellsAccessInformationWhenAsked(t *testing.T) {
	ks := testKeyspace(t, 1)
	defer closeKeyspace(t, ks)
	ks.DB(0).SetString([]byte("k"), []byte("v"), NoExpiry)
	r, _ := ks.DB(0).Find([]byte("k"))
	for _, c := range []struct {
		lfu, idle bool
		want      string
	}{{false, false, "\x00\x01k\x01v"}, {false, true, "\xf8\x1e\x00\x01k\x01v"}, {true, true, "\xf9\x07\x00\x01k\x01v"}} {
		ks.Limits().LFU, ks.Limits().SaveIdle = c.lfu, c.idle
		if c.lfu {
			r.SetFreq(7)
		} else {
			r.SetIdle(30)
		}
		w := new(rawSnapshot)
		s := ks.BeginSnapshot(w)
		for !s.Step(10) {
		}
		if string(w.b) != c.want {
			t.Errorf("LFU %v, idle %v: %q, want %q", c.lfu, c.idle, w.b, c.want)
		}
	}
}

type rawSnapshot struct{ b []byte }

func (w *rawSnapshot) SelectDB(int, int, int) {}
func (w *rawSnapshot) Append(b []byte)        { w.b = append(w.b, b...) }
