package command

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/redis/rdb"
)

// --- propagation: what goes to the journal and the replicas is deterministic ---

func TestPropagationIsDeterministic(t *testing.T) {
	const now = 1893456000000 // the time of a test engine, in ms
	for _, c := range []struct {
		setup [][]string
		cmd   []string
		want  []string
	}{
		{nil, []string{"SET", "k", "v", "EX", "10"}, []string{fmt.Sprint("SET k v PXAT ", now+10000)}},
		{nil, []string{"SET", "k", "v", "GET"}, []string{"SET k v"}},
		{nil, []string{"SETEX", "k", "10", "v"}, []string{fmt.Sprint("SET k v PXAT ", now+10000)}},
		{nil, []string{"SETNX", "k", "v"}, []string{"SETNX k v"}},
		{[][]string{{"SET", "k", "v"}}, []string{"SETNX", "k", "v"}, nil},
		{[][]string{{"SET", "k", "v"}}, []string{"GETEX", "k", "EX", "10"}, []string{fmt.Sprint("PEXPIREAT k ", now+10000)}},
		{[][]string{{"SET", "k", "v"}}, []string{"GETEX", "k", "EXAT", "1"}, []string{"DEL k"}},
		{[][]string{{"SET", "k", "v", "EX", "10"}}, []string{"GETEX", "k", "PERSIST"}, []string{"PERSIST k"}},
		{[][]string{{"SET", "k", "v"}}, []string{"GETEX", "k", "PERSIST"}, nil},
		{[][]string{{"SET", "k", "v"}}, []string{"GETEX", "k"}, nil},
		{[][]string{{"SET", "k", "v"}}, []string{"GETDEL", "k"}, []string{"DEL k"}},
		{[][]string{{"SET", "k", "v"}}, []string{"GETSET", "k", "w"}, []string{"SET k w"}},
		{[][]string{{"SET", "k", "1.5"}}, []string{"INCRBYFLOAT", "k", "2"}, []string{"SET k 3.5 KEEPTTL"}},
		{[][]string{{"HSET", "k", "f", "1.5"}}, []string{"HINCRBYFLOAT", "k", "f", "2"}, []string{"HSET k f 3.5"}},
		{[][]string{{"SET", "k", "v"}}, []string{"EXPIRE", "k", "10", "NX"}, []string{fmt.Sprint("PEXPIREAT k ", now+10000, " NX")}},
		{[][]string{{"SET", "k", "v"}}, []string{"EXPIRE", "k", "-1"}, []string{"DEL k"}},
		{[][]string{{"SADD", "k", "m"}}, []string{"SPOP", "k"}, []string{"SREM k m"}},
		{[][]string{{"SADD", "k", "m", "n"}}, []string{"SPOP", "k", "5"}, []string{"DEL k"}},
		{nil, []string{"FLUSHALL"}, []string{"FLUSHALL"}},
		{nil, []string{"FLUSHDB", "ASYNC"}, []string{"FLUSHDB ASYNC"}},
		{[][]string{{"HSET", "k", "f", "v"}}, []string{"HDEL", "k", "nosuch"}, nil},
		{nil, []string{"BITFIELD", "k", "OVERFLOW", "FAIL", "SET", "u8", "8", "256"}, []string{"BITFIELD k OVERFLOW FAIL SET u8 8 256"}},
	} {
		te := newTestEngine(t, 1)
		for _, s := range c.setup {
			te.do(s...)
		}
		te.stream()
		te.do(c.cmd...)
		got := te.stream()
		for i := range got {
			got[i] = strings.TrimPrefix(got[i], "SELECT 0 ")
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%q after %q: propagated %q, want %q", c.cmd, c.setup, got, c.want)
		}
	}
}

func TestSpopPropagatesWhatItTook(t *testing.T) {
	te := newTestEngine(t, 5)
	for i := range 300 {
		te.do("SADD", "k", fmt.Sprint("member", i))
	}
	te.stream()
	took := te.value(te.do("SPOP", "k", "100"))
	if len(took.Elems) != 100 {
		t.Fatalf("took %d members", len(took.Elems))
	}
	want := []string{"MULTI"}
	for _, m := range took.Elems {
		want = append(want, "SREM", "k", string(m.Str))
		te.want(":0", "SISMEMBER", "k", string(m.Str))
	}
	want = append(want, "EXEC")
	te.want(":200", "SCARD", "k")
	if got := te.stream(); len(got) != 1 || got[0] != strings.Join(want, " ") {
		t.Errorf("propagated %q, want %q", got, want)
	}
}

// --- random choices ---

func TestRandomMembersAreDistinctAndFairlyChosen(t *testing.T) {
	for _, size := range []int{5, 100, 1000} {
		te := newTestEngine(t, 7)
		for i := range size {
			te.do("SADD", "s", fmt.Sprint(i, "x"))
			te.do("HSET", "h", fmt.Sprint(i, "x"), fmt.Sprint(i))
		}
		for _, count := range []int{1, 3, size / 2, size - 1, size, size + 10} {
			for _, cmd := range []string{"SRANDMEMBER s", "HRANDFIELD h"} {
				v := te.value(te.do(append(strings.Fields(cmd), fmt.Sprint(count))...))
				seen := map[string]bool{}
				for _, m := range v.Elems {
					seen[string(m.Str)] = true
				}
				if len(v.Elems) != min(count, size) || len(seen) != len(v.Elems) {
					t.Errorf("%s %d of %d: %d replies, %d distinct", cmd, count, size, len(v.Elems), len(seen))
				}
			}
			if v := te.value(te.do("SRANDMEMBER", "s", fmt.Sprint(-count))); len(v.Elems) != count {
				t.Errorf("SRANDMEMBER s %d: %d replies", -count, len(v.Elems))
			}
		}
	}
	// Each of 100 members is drawn about 400 times in 1000 draws of 40.
	te := newTestEngine(t, 8)
	for i := range 100 {
		te.do("SADD", "s", fmt.Sprint(i, "x"))
	}
	drawn := map[string]int{}
	for range 1000 {
		for _, m := range te.value(te.do("SRANDMEMBER", "s", "40")).Elems {
			drawn[string(m.Str)]++
		}
	}
	for m, n := range drawn {
		if n < 300 || n > 500 {
			t.Errorf("%s was drawn %d times of 1000", m, n)
		}
	}
}

func TestRandomkeySkipsExpiredKeys(t *testing.T) {
	te := newTestEngine(t, 3)
	te.want("$-1", "RANDOMKEY")
	te.do("SET", "alive", "v")
	for i := range 20 {
		te.do("SET", fmt.Sprint("dead", i), "v", "PX", "1")
	}
	te.BeginBatch(te.NowUs + int64(time.Second/time.Microsecond))
	te.want("$5\nalive", "RANDOMKEY")
}

func TestRandomFieldsWithValuesPairUp(t *testing.T) {
	te := newTestEngine(t, 4)
	te.do("HSET", "h", "a", "1", "b", "2", "10", "20")
	for _, count := range []string{"1", "2", "3", "-5"} {
		v := te.value(te.do("HRANDFIELD", "h", count, "WITHVALUES"))
		for i := 0; i < len(v.Elems); i += 2 {
			pair := string(v.Elems[i].Str) + "=" + string(v.Elems[i+1].Str)
			if pair != "a=1" && pair != "b=2" && pair != "10=20" {
				t.Errorf("HRANDFIELD h %s WITHVALUES gave %s", count, pair)
			}
		}
	}
}

// --- SCAN ---

func TestScanSeesEveryKeyOnce(t *testing.T) {
	te := newTestEngine(t, 2)
	const n = 3000
	for i := range n {
		te.do("SET", fmt.Sprint("key", i), "v")
	}
	seen := map[string]bool{}
	cursor := "0"
	for {
		v := te.value(te.do("SCAN", cursor, "COUNT", "17"))
		for _, k := range v.Elems[1].Elems {
			seen[string(k.Str)] = true
		}
		if cursor = string(v.Elems[0].Str); cursor == "0" {
			break
		}
	}
	if len(seen) != n {
		t.Errorf("saw %d of %d keys", len(seen), n)
	}
}

func TestCursorsAreReadAsByStrtoul(t *testing.T) {
	for text, want := range map[string]uint64{"": 0, "0": 0, "17": 17, "+3": 3, "-1": 1<<64 - 1, "18446744073709551615": 1<<64 - 1} {
		if got, ok := parseCursor([]byte(text)); !ok || got != want {
			t.Errorf("parseCursor(%q) = %d, %v", text, got, ok)
		}
	}
	for _, text := range []string{" 1", "1 ", "x", "-", "+", "--1", "18446744073709551616", "1x"} {
		if got, ok := parseCursor([]byte(text)); ok {
			t.Errorf("parseCursor(%q) = %d", text, got)
		}
	}
}

// --- LCS against the textbook ---

func TestLCSIsTheOneOfTheWholeTable(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		a, b := randomText(rng), randomText(rng)
		te := newTestEngine(t, 1)
		te.do("SET", "a", a)
		te.do("SET", "b", b)
		want := wholeTableLCS(a, b)
		if got := string(te.value(te.do("LCS", "a", "b")).Str); got != want {
			t.Errorf("LCS %q %q = %q, want %q", a, b, got, want)
		}
		if got := te.value(te.do("LCS", "a", "b", "LEN")).Int; got != int64(len(want)) {
			t.Errorf("LCS %q %q LEN = %d, want %d", a, b, got, len(want))
		}
		v := te.value(te.do("LCS", "a", "b", "IDX", "WITHMATCHLEN"))
		var fromRanges string
		for _, r := range v.Elems[1].Elems {
			fromRanges = a[r.Elems[0].Elems[0].Int:r.Elems[0].Elems[1].Int+1] + fromRanges
			if n := r.Elems[1].Elems[1].Int - r.Elems[1].Elems[0].Int + 1; n != r.Elems[2].Int {
				t.Errorf("LCS %q %q: range of %d has length %d", a, b, n, r.Elems[2].Int)
			}
		}
		if fromRanges != want {
			t.Errorf("LCS %q %q IDX covers %q, want %q", a, b, fromRanges, want)
		}
	}
}

func randomText(rng *rand.Rand) string {
	b := make([]byte, rng.IntN(12))
	for i := range b {
		b[i] = "abc"[rng.IntN(3)]
	}
	return string(b)
}

func wholeTableLCS(a, b string) string {
	l := make([][]int, len(a)+1)
	for i := range l {
		l[i] = make([]int, len(b)+1)
		for j := range l[i] {
			if i > 0 && j > 0 {
				if a[i-1] == b[j-1] {
					l[i][j] = l[i-1][j-1] + 1
				} else {
					l[i][j] = max(l[i-1][j], l[i][j-1])
				}
			}
		}
	}
	var out []byte
	for i, j := len(a), len(b); i > 0 && j > 0; {
		switch {
		case a[i-1] == b[j-1]:
			out = append([]byte{a[i-1]}, out...)
			i, j = i-1, j-1
		case l[i-1][j] > l[i][j-1]:
			i--
		default:
			j--
		}
	}
	return string(out)
}

// --- bits against one bit at a time ---

func TestBitsByWordsAreBitsOneByOne(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	for range 3000 {
		p := make([]byte, 1+rng.IntN(80))
		for i := range p {
			p[i] = byte([]uint32{0, 0xFF, rng.Uint32()}[rng.IntN(3)])
		}
		n := int64(len(p)) * 8
		from := rng.Int64N(n)
		to := from + 1 + rng.Int64N(n-from)
		var count int64
		first := [2]int64{-1, -1}
		for i := from; i < to; i++ {
			bit := p[i>>3] >> (7 - i&7) & 1
			count += int64(bit)
			if first[bit] < 0 {
				first[bit] = i
			}
		}
		if got := popcountRange(p, from, to); got != count {
			t.Fatalf("popcountRange(%x, %d, %d) = %d, want %d", p, from, to, got, count)
		}
		for bit, want := range first {
			if got := findBit(p, from, to, bit == 1); got != want {
				t.Fatalf("findBit(%x, %d, %d, %d) = %d, want %d", p, from, to, bit, got, want)
			}
		}
		width := uint(1 + rng.IntN(64))
		offset := uint64(rng.Int64N(n))
		if offset+uint64(width) > uint64(n) {
			continue
		}
		before := slices.Clone(p)
		v := rng.Uint64() >> (64 - width)
		storeBits(p, offset, width, v)
		if got := loadBits(p, offset, width); got != v {
			t.Fatalf("loadBits after storeBits(%d, %d, %#x) = %#x", offset, width, v, got)
		}
		for i := range uint64(n) {
			if (i < offset || i >= offset+uint64(width)) && (before[i>>3]^p[i>>3])>>(7-i&7)&1 != 0 {
				t.Fatalf("storeBits(%d, %d) changed bit %d", offset, width, i)
			}
		}
	}
}

func TestBitopOfUnequalLengths(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	for range 200 {
		te := newTestEngine(t, 1)
		var src [3][]byte
		longest := 0
		for i := range src {
			src[i] = make([]byte, rng.IntN(40))
			for j := range src[i] {
				src[i][j] = byte(rng.Uint32())
			}
			longest = max(longest, len(src[i]))
			te.do("SET", fmt.Sprint(i), string(src[i]))
		}
		for _, op := range []string{"AND", "OR", "XOR"} {
			want := make([]byte, longest)
			for j := range want {
				for i := range src {
					var b byte
					if j < len(src[i]) {
						b = src[i][j]
					}
					switch {
					case i == 0:
						want[j] = b
					case op == "AND":
						want[j] &= b
					case op == "OR":
						want[j] |= b
					default:
						want[j] ^= b
					}
				}
			}
			te.do("BITOP", op, "d", "0", "1", "2")
			if got := te.value(te.do("GET", "d")).Str; !bytes.Equal(got, want) {
				t.Errorf("BITOP %s of %x = %x, want %x", op, src, got, want)
			}
		}
	}
}

// --- long double ---

func TestLongDoubleSumsAreThoseOfX86(t *testing.T) {
	for _, c := range []struct{ a, b, want string }{
		{"0.1", "0.2", "0.3"},
		{"3.0e-5", "0", "0.00003"},
		{"0x10", "0.00003", "16.00003"},
		{"1e17", "0.1", "100000000000000000.1015625"},
		{"-0.1", "0.1", "0"},
		{"-1e-30", "0", "0"},
		{"10.50", "0.1", "10.6"},
		{"5.0e3", "200", "5200"},
		{"1e19", "1", "10000000000000000001"},
		{"1e20", "1", "100000000000000000000"},
		{"0.12345678901234567890", "0", "0.12345678901234568"},
	} {
		a, ok := parseLongDouble([]byte(c.a))
		b, ok2 := parseLongDouble([]byte(c.b))
		if !ok || !ok2 || !a.add(&b) {
			t.Errorf("%s + %s: refused", c.a, c.b)
			continue
		}
		if got := a.text(); got != c.want {
			t.Errorf("%s + %s = %s, want %s", c.a, c.b, got, c.want)
		}
	}
	for _, bad := range []string{"", " 1", "1 ", "nan", "1e5000", "-1e4933", "1e-5000", "0x", "e5", ".", "1e", "1_0", "0b1", "1e99999999999999", "++1"} {
		if _, ok := parseLongDouble([]byte(bad)); ok {
			t.Errorf("parseLongDouble(%q) was accepted", bad)
		}
	}
	for _, good := range []string{"inf", "-Infinity", "1.", ".5", "0e99999", "0x1p3", "0X.8", "1E4932", "1e-4900"} {
		if _, ok := parseLongDouble([]byte(good)); !ok {
			t.Errorf("parseLongDouble(%q) was refused", good)
		}
	}
}

func FuzzLongDouble(f *testing.F) {
	for _, s := range []string{"1.5", "0x1p-3", "1e4932", "-0", "1e99999999", "inf", strings.Repeat("9", 100)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, ok := parseLongDouble(b)
		if !ok || d.inf {
			return
		}
		text := d.text()
		again, ok := parseLongDouble([]byte(text))
		if len(text) >= maxLongDouble {
			return
		}
		if !ok {
			t.Fatalf("%q prints as %q, which is not read back", b, text)
		}
		if again.text() != text {
			t.Fatalf("%q prints as %q, then as %q", b, text, again.text())
		}
	})
}

// --- DUMP and RESTORE ---

func TestDumpComesBackByRestore(t *testing.T) {
	te := newTestEngine(t, 9)
	te.do("SET", "string", strings.Repeat("text ", 50))
	te.do("SET", "int", "12345")
	te.do("SADD", "intset", "1", "2", "70000")
	te.do("SADD", "set", "a", "b", strings.Repeat("c", 100))
	te.do("HSET", "small", "a", "1", "b", "2")
	for i := range 1000 {
		te.do("HSET", "large", fmt.Sprint("field", i), strings.Repeat("v", i))
	}
	for _, key := range []string{"string", "int", "intset", "set", "small", "large"} {
		payload := string(te.value(te.do("DUMP", key)).Str)
		te.want("+OK", "RESTORE", "copy", "0", payload, "REPLACE")
		for _, cmd := range [][]string{{"TYPE"}, {"OBJECT", "ENCODING"}} {
			if got, want := te.do(append(cmd, "copy")...), te.do(append(cmd, key)...); got != want {
				t.Errorf("%s of %s: %q, want %q", cmd, key, got, want)
			}
		}
		if got := string(te.value(te.do("DUMP", "copy")).Str); len(got) != len(payload) {
			t.Errorf("%s: the copy's payload has %d bytes, want %d", key, len(got), len(payload))
		}
	}
	te.want("-BUSYKEY Target key name already exists.", "RESTORE", "copy", "0", "")
	te.want("-ERR DUMP payload version or checksum are wrong", "RESTORE", "copy", "0", "", "REPLACE")
}

func TestABadPayloadLeavesEverythingAsItWas(t *testing.T) {
	te := newTestEngine(t, 9)
	te.do("SADD", "k", "old")
	// A set that names a member twice: sound up to its last byte.
	body := append([]byte{byte(rdb.TypeSet), 3}, "\x01a\x01b\x01a"...)
	payload := string(rdb.AppendDumpFooter(body, 0))
	te.stream()
	te.want("-ERR Bad data format", "RESTORE", "k", "0", payload, "REPLACE")
	te.want("-ERR Bad data format", "RESTORE", "new", "0", payload)
	te.want(":1", "DBSIZE")
	te.want("*1\n$3\nold", "SMEMBERS", "k")
	if got := te.stream(); got != nil {
		t.Errorf("propagated %q", got)
	}
}

func TestRestoreOfAnExpiredValueRemovesTheOldOne(t *testing.T) {
	te := newTestEngine(t, 9)
	te.do("SET", "k", "v")
	payload := string(te.value(te.do("DUMP", "k")).Str)
	te.stream()
	te.want("+OK", "RESTORE", "k", "1", payload, "ABSTTL", "REPLACE")
	te.want(":0", "EXISTS", "k")
	te.want(":0", "DBSIZE")
	if got := te.stream(); !slices.Equal(got, []string{"DEL k"}) {
		t.Errorf("propagated %q", got)
	}
	te.Cfg.LazyfreeLazyServerDel = true
	te.do("SET", "k", "v")
	te.stream()
	te.want("+OK", "RESTORE", "k", "1", payload, "ABSTTL", "REPLACE")
	if got := te.stream(); !slices.Equal(got, []string{"DEL k"}) {
		t.Errorf("with lazyfree-lazy-server-del, propagated %q", got)
	}
}

func FuzzRestore(f *testing.F) {
	te := newTestEngine(f, 1)
	for _, cmd := range [][]string{{"SET", "k", "text"}, {"SADD", "k", "1", "2"}, {"SADD", "k", "a", "b"}, {"HSET", "k", "a", "1"}} {
		te.do("DEL", "k")
		te.do(cmd...)
		payload := te.value(te.do("DUMP", "k")).Str
		f.Add(payload[:len(payload)-10])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		te.t = t
		te.do("FLUSHALL")
		te.sink.units = nil
		payload := string(rdb.AppendDumpFooter(slices.Clone(body), 0))
		v := te.value(te.do("RESTORE", "k", "0", payload))
		if v.IsError() {
			te.want(":0", "DBSIZE")
			return
		}
		te.want(":1", "DBSIZE")
		again := string(te.value(te.do("DUMP", "k")).Str)
		te.want("+OK", "RESTORE", "again", "0", again)
		for _, cmd := range [][]string{{"GET", "k"}, {"HGETALL", "k"}, {"SMEMBERS", "k"}, {"SORT", "k", "ALPHA"}, {"OBJECT", "ENCODING", "k"}, {"COPY", "k", "c"}} {
			te.do(cmd...)
		}
	})
}

// --- keys ---

func TestSortFindsItsKeys(t *testing.T) {
	table := NewTable(testFamilies()...)
	for request, want := range map[string]string{
		"sort k":                            "[{1 17}]",
		"sort k limit 0 store by store d":   "[{1 17}]",
		"sort k get store store a store b":  "[{1 17} {7 36}]",
		"sort_ro k by w_*":                  "[{1 17}]",
		"sort k by x get # desc store dest": "[{1 17} {8 36}]",
	} {
		var args [][]byte
		for _, w := range strings.Fields(request) {
			args = append(args, []byte(w))
		}
		refs, ok := table.Lookup(args[0]).AppendKeys(nil, args)
		if got := fmt.Sprint(refs); !ok || got != want {
			t.Errorf("%s: keys %s, %v, want %s", request, got, ok, want)
		}
	}
}

func TestExpiredKeysAreGoneForEveryReader(t *testing.T) {
	te := newTestEngine(t, 1)
	te.do("SET", "k", "v", "PX", "10")
	te.do("SADD", "s", "m")
	te.do("PEXPIRE", "s", "10")
	te.BeginBatch(te.NowUs + 11000)
	te.want("*0", "KEYS", "*")
	te.want("$-1", "GET", "k")
	te.want(":0", "EXISTS", "k", "s")
	te.want(":-2", "TTL", "s")
	te.want("*2\n$1\n0\n*0", "SCAN", "0")
	te.want(":1", "SADD", "s", "n")
	te.want(":-1", "TTL", "s")
}

func TestSwapdbFailsTransactionsThatWatchIt(t *testing.T) {
	te := newTestEngine(t, 1)
	te.do("SET", "k", "v")
	te.do("WATCH", "k")
	te.want("+OK", "SWAPDB", "0", "1")
	te.do("MULTI")
	te.want("+QUEUED", "SET", "k", "w")
	te.want("*-1", "EXEC")
	te.want("$-1", "GET", "k")
}

// --- the hot path ---

func TestHotCommandsDoNotAllocate(t *testing.T) {
	te := newTestEngine(t, 1)
	for _, cmd := range []string{"SET k value", "GET k", "INCR n", "HSET h f v", "HGET h f", "SADD s m", "SISMEMBER s m", "APPEND a x",
		"EXISTS k", "TTL k", "MSET k v k2 v2", "MGET k k2", "GETRANGE k 0 2", "SETRANGE k 0 x", "SETBIT b 7 1", "GETBIT b 7", "BITCOUNT b", "HINCRBY i f 1", "STRLEN k", "HDEL h none", "SREM s none"} {
		var args [][]byte
		for _, w := range strings.Fields(cmd) {
			args = append(args, []byte(w))
		}
		te.Stream = nil
		n := testing.AllocsPerRun(200, func() {
			te.cl.Buf = te.cl.Buf[:0]
			te.Dispatch(te.cl, args)
		})
		if n > 0 {
			t.Errorf("%s allocates %.0f times", cmd, n)
		}
	}
}

func BenchmarkCommands(b *testing.B) {
	for _, cmd := range []string{"SET k 0123456789012345678901234567890123456789012345678901234567890123", "GET k", "INCR n", "HSET h f v", "SADD s m", "EXPIRE k 100"} {
		b.Run(strings.Fields(cmd)[0], func(b *testing.B) {
			te := newTestEngine(b, 1)
			te.Stream = nil
			te.do("SET", "k", "v")
			var args [][]byte
			for _, w := range strings.Fields(cmd) {
				args = append(args, []byte(w))
			}
			b.ReportAllocs()
			for b.Loop() {
				te.cl.Buf = te.cl.Buf[:0]
				te.Dispatch(te.cl, args)
			}
		})
	}
}
