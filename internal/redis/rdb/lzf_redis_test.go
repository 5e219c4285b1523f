package rdb

import (
	"bytes"
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"
)

// What redis-server 7.0.15 gives for DUMP, without footer.
func TestRedisLZFFindsWhatRedisFinds(t *testing.T) {
	intset := "\x08\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\x7f"
	for src, want := range map[string]string{
		string(bytes.Repeat([]byte("abc"), 8)):   "\xc3\n\x18\x03abca\xe0\n\x02\x00c",
		string(bytes.Repeat([]byte("abc"), 96)):  "\xc3\rA \x03abca\xe0\xff\x02\xe1\n\x07\x00c",
		string(bytes.Repeat([]byte("abc"), 184)): "\xc3\x10B(\x03abca\xe0\xff\x02\xe1\xff\x07\xe1\n\x07\x00c",
		string(bytes.Repeat([]byte("x"), 21)):    "\xc3\x06\x15\x01xx\xe0\n\x00",
		string(bytes.Repeat([]byte("x"), 20)):    "\x14xxxxxxxxxxxxxxxxxxxx",
		intset:                                   "\x18" + intset,
	} {
		e := Encoder{Compress: true, LikeRedis: true}
		if got := e.AppendString(nil, []byte(src)); string(got) != want {
			t.Errorf("%.20q of %d bytes: %q, want %q", src, len(src), got, want)
		}
	}
}

func TestRedisLZFGivesBackWhatItCompressed(t *testing.T) {
	z := new(redisLZF)
	rapid.Check(t, func(t *rapid.T) {
		src := repetitive.Draw(t, "src")
		limit := rapid.IntRange(0, len(src)+10).Draw(t, "limit")
		if rapid.Bool().Draw(t, "old table") {
			z.base = math.MaxUint32 - uint32(rapid.IntRange(0, 2*len(src)).Draw(t, "room"))
		}
		out, ok := z.appendTo(nil, src, limit)
		fresh, fine := new(redisLZF).appendTo(nil, src, limit)
		if ok != fine || !bytes.Equal(out, fresh) {
			t.Fatalf("an earlier input shows: %v %x, with a new table %v %x", ok, out, fine, fresh)
		}
		got := make([]byte, len(src))
		if ok && (len(out) > limit || !lzfDecompress(got, out) || !bytes.Equal(got, src)) {
			t.Fatalf("decompressed differs")
		}
	})
}

func FuzzRedisLZF(f *testing.F) {
	z := new(redisLZF)
	f.Add([]byte("abcabcabcabcabcabcabcabcabcabcab"), 28)
	f.Fuzz(func(t *testing.T, src []byte, limit int) {
		if limit > len(src)+8 {
			return
		}
		if out, ok := z.appendTo(nil, src, limit); ok {
			got := make([]byte, len(src))
			if len(out) > limit || !lzfDecompress(got, out) || !bytes.Equal(got, src) {
				t.Fatal(fmt.Sprintf("%x", src), "decompressed differs")
			}
		}
	})
}
