package keyspace

import (
	"bytes"
	"testing"
)

// What SETRANGE leaves out is zero, also where pages of other values were.
func TestSetRangeFillsUpWithZeros(t *testing.T) {
	for _, begin := range []int{0, 1, 5000, 100_000} {
		for _, at := range []int{zeroByPages - 100, zeroByPages + 1, 1<<20 + 77, 3 << 20} {
			ks := testKeyspace(t, 1)
			db := ks.DB(0)
			for _, k := range []string{"a", "b", "c"} {
				db.SetString([]byte(k), bytes.Repeat([]byte{0xEE}, 3<<20), NoExpiry)
			}
			db.Delete([]byte("b"), false) // its pages stay for a while
			want := make([]byte, at+4)
			if begin > 0 {
				db.SetString(testKey, bytes.Repeat([]byte("x"), begin), 1<<42)
				copy(want, bytes.Repeat([]byte("x"), begin))
			}
			copy(want[at:], "part")
			if n := db.SetRange(testKey, at, []byte("part")); n != at+4 {
				t.Fatalf("length %d, want %d", n, at+4)
			}
			r, _ := db.Find(testKey)
			if !bytes.Equal(r.Bytes(), want) {
				t.Errorf("%d bytes, then from %d on: another value", begin, at)
			}
			for _, k := range []string{"a", "c"} {
				if r, _ := db.Find([]byte(k)); bytes.Count(r.Bytes(), []byte{0xEE}) != 3<<20 {
					t.Errorf("%s has changed", k)
				}
			}
			db.check()
			closeKeyspace(t, ks)
		}
	}
}

// A long string stays where it is when it begins to expire, and when it ends to.
func TestLongStringsStayWhenTheirExpiryChanges(t *testing.T) {
	ks := testKeyspace(t, 1)
	defer closeKeyspace(t, ks)
	db := ks.DB(0)
	value := bytes.Repeat([]byte("0123456789abcdef"), 1<<12)
	db.SetString(testKey, value, NoExpiry)
	where := handle(t, db).off
	for i, at := range []int64{1 << 42, 1 << 43, NoExpiry, NoExpiry, 0, 1 << 44, NoExpiry} {
		if at == NoExpiry {
			db.Persist(testKey)
		} else {
			db.SetExpire(testKey, at)
		}
		r := handle(t, db)
		if r.off != where {
			t.Errorf("change %d moved the string", i)
		}
		if r.ExpireAt() != at || !bytes.Equal(r.Bytes(), value) {
			t.Errorf("change %d: expires at %d, want %d, %d bytes", i, r.ExpireAt(), at, len(r.Bytes()))
		}
		if volatile := db.Volatile(); (volatile == 1) != (at != NoExpiry) {
			t.Errorf("change %d: %d keys expire", i, volatile)
		}
		db.check()
	}
	emptyAll(t, ks)
}
