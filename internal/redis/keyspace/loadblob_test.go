package keyspace

import (
	"fmt"
	"strings"
	"testing"

	"holdfast/internal/redis/intset"
	"holdfast/internal/redis/listpack"
)

func listpackOf(elems ...string) []byte {
	lp := listpack.New(0)
	for _, e := range elems {
		lp = listpack.Append(lp, []byte(e))
	}
	return lp
}

func pairs(n int, format string) []string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(format, i), fmt.Sprint(i))
	}
	return all
}

func TestLoadBlobAdoptsWhatIsSound(t *testing.T) {
	ints := intset.New()
	for i := range 10 {
		ints, _ = intset.Add(ints, int64(i*i))
	}
	for _, c := range []struct {
		name     string
		typ      Type
		blob     []byte
		ok       bool
		encoding string
	}{
		{"hash", TypeHash, listpackOf("a", "1", "b", "2"), true, "listpack"},
		{"hash of integers", TypeHash, listpackOf("1", "1", "2", "2"), true, "listpack"},
		{"hash of 100", TypeHash, listpackOf(pairs(100, "f%d")...), true, "listpack"},
		{"hash at the limit", TypeHash, listpackOf(pairs(512, "f%d")...), true, "listpack"},
		{"hash beyond what is looked into", TypeHash, listpackOf(pairs(513, "f%d")...), false, ""},
		{"field twice", TypeHash, listpackOf("a", "1", "b", "2", "a", "3"), false, ""},
		{"integer field twice", TypeHash, listpackOf("7", "1", "8", "2", "7", "3"), false, ""},
		{"field twice among many", TypeHash, listpackOf(append(pairs(100, "f%d"), "f50", "x")...), false, ""},
		{"hash with half a pair", TypeHash, listpackOf("a", "1", "b"), false, ""},
		{"zset", TypeZSet, listpackOf("a", "1", "b", "1", "c", "1.5", "1", "7"), true, "listpack"},
		{"zset above the limit", TypeZSet, listpackOf(pairs(129, "m%d")...), true, "skiplist"},
		{"zset out of order", TypeZSet, listpackOf("a", "2", "b", "1"), false, ""},
		{"zset with members out of order", TypeZSet, listpackOf("b", "1", "a", "1"), false, ""},
		{"zset with a member twice", TypeZSet, listpackOf("a", "1", "b", "1", "a", "2"), false, ""},
		{"zset with an entry twice", TypeZSet, listpackOf("a", "1", "a", "1"), false, ""},
		{"zset without a number", TypeZSet, listpackOf("a", "x"), false, ""},
		{"zset with nan", TypeZSet, listpackOf("a", "nan"), false, ""},
		{"intset", TypeSet, ints, true, "intset"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ks := testKeyspace(t, 1)
			defer closeKeyspace(t, ks)
			db := ks.DB(0)
			r, ok := db.LoadBlob([]byte("k"), c.typ, c.blob, 5000)
			if ok != c.ok {
				t.Fatalf("LoadBlob = %v", ok)
			}
			if !ok {
				if db.Len() != 0 || ks.UsedMemory() != 0 {
					t.Errorf("%d keys, %d bytes after a refusal", db.Len(), ks.UsedMemory())
				}
				return
			}
			if r.Encoding() != c.encoding || r.ExpireAt() != 5000 || db.Volatile() != 1 {
				t.Errorf("encoding %s, expires %d", r.Encoding(), r.ExpireAt())
			}
			db.check()
			got := valueOf(db, r)
			want := c.blob
			if c.typ == TypeHash {
				h := db.Hash(r)
				for off := listpack.First(want); off >= 0; off = listpack.Next(want, off) {
					f := listpack.AppendValue(nil, want, off)
					off = listpack.Next(want, off)
					if v, ok := h.Get(f); !ok || !listpack.Equal(want, off, v) {
						t.Errorf("field %s = %q, %v", f, v, ok)
					}
				}
			}
			if n := strings.Count(got, `"`); n == 0 {
				t.Errorf("empty value %s", got)
			}
		})
	}
}

// SCAN takes any number that a client sends.
func FuzzScanCursor(f *testing.F) {
	ks := testKeyspace(f, 1)
	db := ks.DB(0)
	for i := range 3000 {
		db.SetString(fmt.Append(nil, i), nil, NoExpiry)
	}
	f.Add(uint64(0), 10)
	f.Add(uint64(1<<63), -1)
	f.Add(^uint64(0), 1<<40)
	f.Fuzz(func(t *testing.T, cursor uint64, count int) {
		count = min(count, 1<<40)
		seen := 0
		for calls := 0; ; calls++ {
			cursor = db.Scan(cursor, max(count, 50), func(Ref) { seen++ })
			if cursor == 0 {
				break
			}
			if calls > 10_000 {
				t.Fatal("the scan does not end")
			}
		}
		if seen > 3000 {
			t.Fatalf("%d of 3000 keys were returned", seen)
		}
	})
}
