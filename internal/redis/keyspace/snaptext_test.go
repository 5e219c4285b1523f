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
