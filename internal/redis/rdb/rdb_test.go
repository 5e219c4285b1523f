package rdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast/internal/redis/listpack"
)

func TestCRC64IsTheOneOfRedis(t *testing.T) {
	if got := CRC64(0, []byte("123456789")); got != 0xe9c6d914c4b8d9ca {
		t.Errorf("check value %x", got)
	}
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SliceOf(rapid.Byte()).Draw(t, "p")
		var want uint64
		for _, b := range p {
			want ^= uint64(b)
			for range 8 {
				want = want>>1 ^ -(want&1)&crcPoly
			}
		}
		cut := rapid.IntRange(0, len(p)).Draw(t, "cut")
		if got := CRC64(CRC64(0, p[:cut]), p[cut:]); got != want {
			t.Fatalf("got %x, want %x", got, want)
		}
	})
}

// repetitive draws inputs that LZF can do something with.
var repetitive = rapid.Custom(func(t *rapid.T) []byte {
	var b []byte
	for range rapid.IntRange(0, 30).Draw(t, "parts") {
		if len(b) > 0 && rapid.Bool().Draw(t, "copy") {
			from := rapid.IntRange(0, len(b)-1).Draw(t, "from")
			for i := range rapid.IntRange(1, 700).Draw(t, "n") {
				b = append(b, b[from+i])
			}
		} else {
			b = append(b, rapid.SliceOfN(rapid.Byte(), 0, 80).Draw(t, "bytes")...)
		}
	}
	return b
})

func TestLZFGivesBackWhatItCompressed(t *testing.T) {
	var z lzf
	rapid.Check(t, func(t *rapid.T) {
		src := repetitive.Draw(t, "src")
		limit := rapid.IntRange(0, len(src)+10).Draw(t, "limit")
		if rapid.Bool().Draw(t, "old table") {
			z.base = math.MaxUint32 - uint32(rapid.IntRange(0, 2*len(src)).Draw(t, "room"))
		}
		prefix := []byte("prefix")
		out, ok := z.appendTo(prefix, src, limit)
		if !bytes.HasPrefix(out, prefix) {
			t.Fatalf("what stood in dst changed")
		}
		packed := out[len(prefix):]
		if !ok {
			if len(packed) != 0 {
				t.Fatalf("%d bytes left behind", len(packed))
			}
			return
		}
		if len(packed) > limit {
			t.Fatalf("%d bytes, limit %d", len(packed), limit)
		}
		got := make([]byte, len(src))
		if !lzfDecompress(got, packed) || !bytes.Equal(got, src) {
			t.Fatalf("decompressed differs")
		}
		if len(src) > 0 && lzfDecompress(got[:len(src)-1], packed) {
			t.Fatalf("a shorter result is accepted")
		}
		if lzfDecompress(append(got, 0), packed) {
			t.Fatalf("a longer result is accepted")
		}
	})
}

func TestLZFMakesRepetitionSmall(t *testing.T) {
	var z lzf
	src := bytes.Repeat([]byte("a"), 100_000)
	out, ok := z.appendTo(nil, src, len(src)-4)
	if !ok || len(out) > len(src)/lzfMaxRatio+16 {
		t.Errorf("100000 equal bytes become %d", len(out))
	}
	text := []byte(strings.Repeat("the quick brown fox jumps over the lazy dog. ", 20))
	if out, ok := z.appendTo(nil, text, len(text)-4); !ok || len(out) > 80 {
		t.Errorf("text of %d bytes becomes %d", len(text), len(out))
	}
}

func FuzzLZF(f *testing.F) {
	var z lzf
	f.Add([]byte(strings.Repeat("abc", 50)), 150)
	f.Add([]byte{0xE0, 0xFF, 0}, 270)
	f.Fuzz(func(t *testing.T, src []byte, n int) {
		if n >= 0 && n <= len(src)*lzfMaxRatio {
			lzfDecompress(make([]byte, n), src)
		}
		if out, ok := z.appendTo(nil, src, len(src)); ok {
			got := make([]byte, len(src))
			if !lzfDecompress(got, out) || !bytes.Equal(got, src) {
				t.Fatal("decompressed differs")
			}
		}
	})
}

// texts draws strings around the boundaries of the string encodings.
var texts = rapid.OneOf(
	rapid.StringN(0, 30, 40),
	rapid.Map(rapid.Int64(), func(v int64) string { return strconv.FormatInt(v, 10) }),
	rapid.Map(rapid.Int64Range(-200, 200), func(v int64) string { return strconv.FormatInt(v, 10) }),
	rapid.SampledFrom([]string{"", "-0", "007", "127", "128", "-128", "-129", "32767", "32768", "-32769", "2147483647",
		"2147483648", "-2147483648", "-2147483649", strings.Repeat("z", 63), strings.Repeat("z", 64),
		strings.Repeat("ab", 9000), strings.Repeat("0123456789", 20000)}),
)

func TestStringsComeBackInEveryForm(t *testing.T) {
	encs := []*Encoder{{}, {Compress: true}}
	rapid.Check(t, func(t *rapid.T) {
		e := encs[rapid.IntRange(0, 1).Draw(t, "compress")]
		want := texts.Draw(t, "s")
		b := e.AppendString(nil, []byte(want))
		if v, ok := listpack.ParseInt([]byte(want)); ok {
			if got := e.AppendInt(nil, v); !bytes.Equal(got, b) {
				t.Fatalf("AppendInt % x, AppendString % x", got, b)
			}
		}
		for name, r := range map[string]io.Reader{"whole": bytes.NewReader(b), "byte by byte": iotest.OneByteReader(bytes.NewReader(b))} {
			in := input{src: r, buf: make([]byte, readSize)}
			var s scratch
			got, err := in.str(&s, true)
			if err != nil || string(got) != want || in.pos() != int64(len(b)) {
				t.Fatalf("%s: got %q, %v at %d of %d", name, got, err, in.pos(), len(b))
			}
		}
	})
}

func TestStringFormsAreThoseOfRedis(t *testing.T) {
	e := Encoder{Compress: true}
	for s, want := range map[string]string{
		"":           "\x00",
		"7":          "\xC0\x07",
		"-129":       "\xC1\x7F\xFF",
		"2147483647": "\xC2\xFF\xFF\xFF\x7F",
		"2147483648": "\x0A2147483648",
		"01":         "\x0201",
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa": "\xC3\x04\x28\x00a\xE0\x1E\x00",
	} {
		got := string(e.AppendString(nil, []byte(s)))
		if len(s) == 40 { // where a match may end is free
			if got[0] != 0xC3 || len(got) > 12 {
				t.Errorf("%q: % x", s, got)
			}
			continue
		}
		if got != want {
			t.Errorf("%q: got % x, want % x", s, got, want)
		}
	}
	for n, want := range map[uint64]string{63: "\x3F", 64: "\x40\x40", 16383: "\x7F\xFF", 16384: "\x80\x00\x00\x40\x00",
		math.MaxUint32: "\x80\xFF\xFF\xFF\xFF", math.MaxUint32 + 1: "\x81\x00\x00\x00\x01\x00\x00\x00\x00"} {
		if got := string(AppendLen(nil, n)); got != want {
			t.Errorf("length %d: got % x, want % x", n, got, want)
		}
	}
}

// sample writes a file with every form that a Writer has.
func sample(opts WriterOptions) []byte {
	var buf bytes.Buffer
	w := NewWriter(&buf, opts)
	w.Header()
	w.Aux("redis-ver", "7.0.15")
	w.Aux("redis-bits", "64")
	w.Function([]byte("#!lua name=lib\nredis.register_function('f', function() return 1 end)"))
	w.SelectDB(0)
	w.ResizeDB(9, 2)
	w.Key([]byte("str"), Meta{ExpireMs: 4102444800000, IdleSec: -1, Freq: -1})
	w.String([]byte("hello"))
	w.Key([]byte("int"), Meta{ExpireMs: -1, IdleSec: 77, Freq: -1})
	w.StringInt(-123456)
	w.Key([]byte("big"), Meta{ExpireMs: -1, IdleSec: -1, Freq: 200})
	w.String(bytes.Repeat([]byte("0123456789abcdef"), 20_000))
	w.Key([]byte("list"), NoMeta)
	w.ListQuicklist2(3)
	w.ListNode(listpackOf("a", "1", strings.Repeat("b", 100)))
	w.ListPlainNode(bytes.Repeat([]byte("plain"), 30_000))
	w.ListNode(listpackOf("z"))
	w.Key([]byte("intset"), NoMeta)
	w.SetIntset(intsetOf(-5, 70000, 9))
	w.Key([]byte("set"), NoMeta)
	w.SetMembers(2)
	w.Element([]byte("x"))
	w.Element([]byte("12"))
	w.Key([]byte("hash"), NoMeta)
	w.HashListpack(listpackOf("f", "v", "g", "10"))
	w.Key([]byte("bighash"), NoMeta)
	w.Hash(2)
	w.Pair([]byte("f"), bytes.Repeat([]byte("v"), 70_000))
	w.Pair([]byte("1"), []byte("2"))
	w.SelectDB(9)
	w.ResizeDB(2, 0)
	w.Key([]byte("zset"), NoMeta)
	w.ZsetListpack(listpackOf("m", "1", "n", "2.5", "o", "inf"))
	w.Key([]byte("bigzset"), NoMeta)
	w.Zset2(3)
	w.ScorePair([]byte("m"), math.Inf(1))
	w.ScorePair([]byte("n"), 0.1)
	w.ScorePair([]byte("o"), math.Inf(-1))
	if err := w.EOF(); err != nil {
		panic(err)
	}
	if w.Offset() != int64(buf.Len()) {
		panic(fmt.Sprint("offset ", w.Offset(), " of ", buf.Len()))
	}
	return buf.Bytes()
}

func TestLoadGivesBackWhatAWriterWrote(t *testing.T) {
	pair := func(kv ...string) []string {
		var out []string
		for i := 0; i < len(kv); i += 2 {
			out = append(out, kv[i]+"\x00"+kv[i+1])
		}
		return out
	}
	want := map[int]map[string]*entry{
		0: {
			"str":     {"string", []string{"hello"}, Meta{4102444800000, -1, -1}},
			"int":     {"string", []string{"-123456"}, Meta{-1, 77, -1}},
			"big":     {"string", []string{strings.Repeat("0123456789abcdef", 20_000)}, Meta{-1, -1, 200}},
			"list":    {"list", []string{"a", "1", strings.Repeat("b", 100), strings.Repeat("plain", 30_000), "z"}, NoMeta},
			"intset":  {"set", []string{"-5", "70000", "9"}, NoMeta},
			"set":     {"set", []string{"12", "x"}, NoMeta},
			"hash":    {"hash", pair("f", "v", "g", "10"), NoMeta},
			"bighash": {"hash", pair("1", "2", "f", strings.Repeat("v", 70_000)), NoMeta},
		},
		9: {
			"zset":    {"zset", pair("m", "1", "n", "2.5", "o", "+Inf"), NoMeta},
			"bigzset": {"zset", pair("m", "+Inf", "n", "0.10000000000000001", "o", "-Inf"), NoMeta},
		},
	}
	for _, compress := range []bool{false, true} {
		for _, checksum := range []bool{false, true} {
			b := sample(WriterOptions{Compress: compress, Checksum: checksum})
			for name, r := range map[string]io.Reader{"whole": bytes.NewReader(b),
				"halves": iotest.HalfReader(bytes.NewReader(b)), "with EOF": iotest.DataErrReader(bytes.NewReader(b))} {
				rec := newRecorder()
				var seen int64
				res, err := Load(r, rec, Options{Sanitize: true, Progress: func(n int64) { seen = n }})
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if res.Version != 10 || res.Bytes != int64(len(b)) || res.Keys != 10 || res.NoChecksum == checksum || seen != res.Bytes {
					t.Errorf("%s: %+v, progress %d of %d", name, res, seen, len(b))
				}
				if diff := cmp.Diff(want, rec.dbs); diff != "" {
					t.Errorf("%s (-want +got):\n%s", name, diff)
				}
				if rec.aux["redis-ver"] != "7.0.15" || rec.aux["redis-bits"] != "64" || len(rec.funcs) != 1 {
					t.Errorf("%s: aux %v, %d functions", name, rec.aux, len(rec.funcs))
				}
			}
		}
	}
}

func TestLoadLeavesWhatFollowsTheFile(t *testing.T) {
	b := sample(WriterOptions{Checksum: true})
	r := bytes.NewReader(append(bytes.Clone(b), "*1\r\n$4\r\nPING\r\n"...))
	res, err := Load(r, newRecorder(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(io.MultiReader(bytes.NewReader(res.Rest), r))
	if string(rest) != "*1\r\n$4\r\nPING\r\n" || res.Bytes != int64(len(b)) {
		t.Errorf("%d bytes, rest %q", res.Bytes, rest)
	}
}

// oldFile holds every type that Redis 7.0 reads and no longer writes.
func oldFile() []byte {
	long := strings.Repeat("L", 300)
	huge := strings.Repeat("H", 20_000)
	ints := []string{"0", "12", "13", "-1", "127", "-128", "300", "-32768", "70000", "-8388608", "8388608", "-2147483648",
		"2147483648", "-9223372036854775808"}
	f := newFile(9)
	f.raw(opSelectDB, 3)
	f.value(TypeList, "list", 3, "a", []byte{encInt8, 0xFF}, long)
	f.value(TypeListZiplist, "list-zl", string(ziplistOf(append(ints, "x", long, huge, "end")...)))
	f.value(TypeListQuicklist, "list-ql", 3, string(ziplistOf("a", "5")), string(ziplistOf()), string(ziplistOf(long, "b")))
	f.value(TypeZset, "zset", 4, "m", []byte("\x031.5"), "inf", []byte{254}, "ninf", []byte{255}, "n", []byte("\x05-1e10"))
	f.value(TypeZsetZiplist, "zset-zl", string(ziplistOf("n", "-3", "m", "1.5", "o", "1e+100")))
	f.value(TypeHashZiplist, "hash-zl", string(ziplistOf("f", "v", "12", long, "g", "-700000")))
	f.value(TypeHashZipmap, "hash-zm", string(zipmapOf(0, "f", "v", "12", long, "", "")))
	f.value(TypeHashZipmap, "hash-zm-free", string(zipmapOf(3, "f", "v", "12", "34")))
	f.raw(opExpire, 0x00, 0x57, 0x86, 0x7F) // 2037
	f.value(TypeString, "expires", "v")
	return f.end()
}

func TestLoadReadsOldForms(t *testing.T) {
	rec := loadAll(t, oldFile(), Options{Sanitize: true})
	db := rec.dbs[3]
	if len(db) != 9 || rec.keys != 9 {
		t.Fatalf("keys %v", sortedKeys(db))
	}
	check := func(key, kind string, n int, some ...string) {
		t.Helper()
		e := db[key]
		if e == nil || e.Kind != kind || len(e.Vals) != n {
			t.Errorf("%s: %+v", key, e)
			return
		}
		for i := 0; i < len(some); i += 2 {
			if at, _ := strconv.Atoi(some[i]); e.Vals[at] != some[i+1] {
				t.Errorf("%s[%d] = %q, want %q", key, at, e.Vals[at], some[i+1])
			}
		}
	}
	check("list", "list", 3, "0", "a", "1", "-1")
	check("list-zl", "list", 18, "0", "0", "7", "-32768", "13", "-9223372036854775808", "17", "end")
	check("list-ql", "list", 4, "1", "5", "3", "b")
	check("zset", "zset", 4, "0", "inf\x00+Inf", "2", "n\x00-10000000000")
	check("zset-zl", "zset", 3, "0", "m\x001.5")
	check("hash-zl", "hash", 3, "1", "f\x00v", "2", "g\x00-700000")
	check("hash-zm", "hash", 3, "0", "\x00", "2", "f\x00v")
	check("hash-zm-free", "hash", 2, "0", "12\x0034")
	check("expires", "string", 1)
	if got := db["expires"].Meta.ExpireMs; got != int64(0x7F865700)*1000 {
		t.Errorf("expiry %d", got)
	}
}

func TestVersionsBefore5HaveNoChecksum(t *testing.T) {
	b := newFile(4).raw(opSelectDB, 0).value(TypeString, "k", "v").end()
	if b[len(b)-1] != opEOF {
		t.Fatal("the file has a checksum")
	}
	if rec := loadAll(t, b, Options{}); rec.keys != 1 {
		t.Errorf("%d keys", rec.keys)
	}
}

func TestEmptyCollectionsAreSkipped(t *testing.T) {
	f := newFile(10).raw(opSelectDB, 0)
	f.value(TypeList, "a", 0).value(TypeSet, "b", 0).value(TypeZset, "c", 0).value(TypeZset2, "d", 0).value(TypeHash, "e", 0)
	f.value(TypeListQuicklist, "f", 0).value(TypeListQuick2, "g", 2, nodePacked, string(listpackOf()), nodePacked, string(listpackOf()))
	f.value(TypeListQuicklist, "h", 1, string(ziplistOf())).value(TypeListZiplist, "i", string(ziplistOf()))
	f.value(TypeHashZiplist, "j", string(ziplistOf())).value(TypeZsetZiplist, "k", string(ziplistOf()))
	f.value(TypeHashListpack, "l", string(listpackOf())).value(TypeZsetListpack, "m", string(listpackOf()))
	f.value(TypeString, "kept", "")
	rec := newRecorder()
	skipped := ""
	res, err := Load(bytes.NewReader(f.end()), rec, Options{OnEmpty: func(key []byte) { skipped += string(key) }})
	if err != nil || res.EmptyKeys != 13 || res.Keys != 1 || len(rec.dbs[0]) != 1 {
		t.Errorf("%+v, %v, keys %v", res, err, sortedKeys(rec.dbs[0]))
	}
	if skipped != "abcdefghijklm" {
		t.Errorf("told of the empty keys %q", skipped)
	}
}

// A zipmap is told pair by pair: its Visitor looks at the length of each.
func TestZipmapComesInPairs(t *testing.T) {
	long := strings.Repeat("x", 300)
	f := newFile(3).raw(opSelectDB, 0).value(TypeHashZipmap, "z", string(zipmapOf(2, "f", "12", "-7", long)))
	v := &pairsOnly{recorder: newRecorder()}
	if _, err := Load(bytes.NewReader(f.end()), v, Options{}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"f", "12", "-7", long}; !slices.Equal(v.told, want) {
		t.Errorf("told %q, want %q", v.told, want)
	}
}

// pairsOnly is a Visitor that is to be told no blob.
type pairsOnly struct {
	*recorder
	told []string
}

func (v *pairsOnly) Pair(field, val []byte) error {
	v.told = append(v.told, string(field), string(val))
	return v.recorder.Pair(field, val)
}

func TestLoadNamesWhatIsWrong(t *testing.T) {
	start := func() *file { return newFile(10).raw(opSelectDB, 0) }
	blob := func(t Type, b []byte) []byte { return start().value(t, "k", string(b)).end() }
	module := uint64(0)
	for _, c := range "ReJSON-RL" {
		module = module<<6 | uint64(strings.IndexRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", c))
	}
	module = module<<10 | 3
	cases := []struct {
		name   string
		b      []byte
		err    error
		reason string
	}{
		{"signature", []byte("REDUS0010\xff"), ErrVersion, "Wrong signature trying to load DB from file"},
		{"newer", []byte("REDIS0011\xff"), ErrVersion, "Can't handle RDB format version 11"},
		{"no version", []byte("REDISabcd\xff"), ErrVersion, "Can't handle RDB format version 0"},
		{"empty file", nil, ErrShortRead, "Short read or OOM loading DB"},
		{"type", start().raw(8).end(), ErrCorrupt, "Unknown RDB encoding type 8"},
		{"type 20", start().raw(20).end(), ErrCorrupt, "Unknown RDB encoding type 20"},
		{"opcode", start().raw(244).end(), ErrCorrupt, "Unknown RDB encoding type 244"},
		{"pre-release function", start().raw(246).end(), ErrCorrupt, "Pre-release function format not supported."},
		{"length", start().raw(0, 0x82).end(), ErrCorrupt, "Unknown length encoding 130 in rdbLoadLen()"},
		{"string encoding", start().raw(0, 0xC4).end(), ErrCorrupt, "Unknown RDB string encoding type 4"},
		{"encoded count", start().raw(byte(TypeSet), 1, 'k', 0xC0, 1).end(), ErrCorrupt, "in the place of a length"},
		{"LZF", start().value(TypeString, "k", []byte("\xC3\x02\x05\x20\x05")).end(), ErrCorrupt, "Invalid LZF compressed string"},
		{"LZF too long", start().value(TypeString, "k", []byte("\xC3\x02\x81\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x20\x05")).end(), ErrCorrupt, "Invalid LZF compressed string"},
		{"list container", start().value(TypeListQuick2, "k", 1, 3, "x").end(), ErrCorrupt, "Quicklist integrity check failed."},
		{"empty node", start().value(TypeListQuick2, "k", 1, 1, "").end(), ErrCorrupt, "Quicklist integrity check failed."},
		{"list listpack", start().value(TypeListQuick2, "k", 1, 2, "junk").end(), ErrCorrupt, "Listpack integrity check failed."},
		{"list ziplists", start().value(TypeListQuicklist, "k", 1, "junk").end(), ErrCorrupt, "Ziplist integrity check failed."},
		{"list ziplist", blob(TypeListZiplist, []byte("junk")), ErrCorrupt, "List ziplist integrity check failed."},
		{"hash ziplist", blob(TypeHashZiplist, ziplistOf("f")), ErrCorrupt, "Hash ziplist integrity check failed."},
		{"hash ziplist twice", blob(TypeHashZiplist, ziplistOf("7", "v", "7", "w")), ErrCorrupt, "Hash ziplist integrity check failed."},
		{"zset ziplist", blob(TypeZsetZiplist, ziplistOf("m", "x")), ErrCorrupt, "Zset ziplist integrity check failed."},
		{"zipmap", blob(TypeHashZipmap, []byte{1, 1, 'f', 0xFF}), ErrCorrupt, "Zipmap integrity check failed."},
		{"zipmap twice", blob(TypeHashZipmap, zipmapOf(0, "f", "v", "f", "w")), ErrCorrupt, "Zipmap integrity check failed."},
		{"hash listpack odd", blob(TypeHashListpack, listpackOf("f")), ErrCorrupt, "Hash listpack integrity check failed."},
		{"zset listpack", blob(TypeZsetListpack, listpackOf("m", "nan")), ErrCorrupt, "Zset listpack integrity check failed."},
		{"intset", blob(TypeSetIntset, []byte("12345678")), ErrCorrupt, "Intset integrity check failed."},
		{"NaN", start().value(TypeZset2, "k", 1, "m", math.NaN()).end(), ErrCorrupt, "Zset with NAN score detected"},
		{"NaN text", start().value(TypeZset, "k", 1, "m", []byte{253}).end(), ErrCorrupt, "Zset with NAN score detected"},
		{"score", start().value(TypeZset, "k", 1, "m", []byte("\x02xx")).end(), ErrCorrupt, "is not a number"},
		{"module", start().value(TypeModule2, "k", AppendLen(nil, module)).end(), ErrModule, "no matching module type 'ReJSON-RL'"},
		{"module aux", start().raw(AppendLen([]byte{opModuleAux}, module)...).end(), ErrModule, "no matching module 'ReJSON-RL'"},
		{"stream id", start().value(TypeStream, "k", 1, "short", "x").end(), ErrCorrupt, "Stream node key entry is not the size of a stream ID"},
		{"stream node", start().value(TypeStream, "k", 1, "0123456789abcdef", "x").end(), ErrCorrupt, "Stream listpack integrity check failed."},
		{"stream empty node", start().value(TypeStream, "k", 1, "0123456789abcdef", string(listpackOf())).end(), ErrCorrupt, "Empty listpack inside stream"},
	}
	for _, c := range cases {
		_, err := Load(bytes.NewReader(c.b), newRecorder(), Options{})
		var e *Error
		if !errors.Is(err, c.err) || !errors.As(err, &e) || !strings.Contains(e.Reason, c.reason) {
			t.Errorf("%s: %v; want %v: %s", c.name, err, c.err, c.reason)
		}
	}
}

func TestMembersTwiceAreCorruption(t *testing.T) {
	start := func() *file { return newFile(10).raw(opSelectDB, 0) }
	cases := map[string]struct {
		b      []byte
		reason string
		blob   bool
	}{
		"set":    {start().value(TypeSet, "k", 3, "a", "b", "a").end(), "Duplicate set members detected", false},
		"hash":   {start().value(TypeHash, "k", 2, "a", "b", "a", "c").end(), "Duplicate hash fields detected", false},
		"zset":   {start().value(TypeZset2, "k", 2, "a", 1.0, "a", 2.0).end(), "Duplicate zset fields detected", false},
		"hashlp": {start().value(TypeHashListpack, "k", string(listpackOf("5", "b", "5", "c"))).end(), "Hash listpack integrity check failed.", true},
		"zsetlp": {start().value(TypeZsetListpack, "k", string(listpackOf("a", "1", "a", "2"))).end(), "Zset listpack integrity check failed.", true},
		"intset": {start().value(TypeSetIntset, "k", "\x02\x00\x00\x00\x02\x00\x00\x00\x05\x00\x05\x00").end(), "Intset integrity check failed.", true},
	}
	for name, c := range cases {
		_, err := Load(bytes.NewReader(c.b), newRecorder(), Options{Sanitize: true})
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%s, sanitized: %v", name, err)
		}
		rec := newRecorder()
		rec.refuseDu = true
		_, err = Load(bytes.NewReader(c.b), rec, Options{})
		if (err == nil) != c.blob || err != nil && (!errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), c.reason)) {
			t.Errorf("%s, noticed by the visitor: %v", name, err)
		}
	}
	many := start()
	parts := []any{5001}
	for i := range 5000 {
		parts = append(parts, fmt.Sprint("m", i))
	}
	b := many.value(TypeSet, "k", append(parts, "m17")...).end()
	if _, err := Load(bytes.NewReader(b), newRecorder(), Options{Sanitize: true}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("5001 members, one twice: %v", err)
	}
}

func TestTruncatedFilesAreShortReads(t *testing.T) {
	for _, b := range [][]byte{sample(WriterOptions{Compress: true, Checksum: true}), oldFile()} {
		for n := 0; n < len(b); n += 1 + n/1500*37 {
			_, err := Load(bytes.NewReader(b[:n]), newRecorder(), Options{})
			var e *Error
			if !errors.Is(err, ErrShortRead) || !errors.As(err, &e) || e.Offset > int64(n) {
				t.Fatalf("cut to %d of %d bytes: %v", n, len(b), err)
			}
		}
	}
}

func TestFlippedBitsAreNoticed(t *testing.T) {
	for _, b := range [][]byte{sample(WriterOptions{Compress: true, Checksum: true}), oldFile()} {
		for bit := 0; bit < 8*len(b); bit += 1 + bit/2000*41 {
			flipped := bytes.Clone(b)
			flipped[bit/8] ^= 1 << (bit % 8)
			_, err := Load(bytes.NewReader(flipped), newRecorder(), Options{})
			// A flip in the version may make it one without a checksum.
			if err == nil && bit/8 >= 9 {
				t.Fatalf("bit %d of byte %d: loaded", bit%8, bit/8)
			}
		}
	}
}

func TestAWrongChecksumIsNamed(t *testing.T) {
	b := sample(WriterOptions{Checksum: true})
	b[len(b)-1] ^= 1
	_, err := Load(bytes.NewReader(b), newRecorder(), Options{})
	if !errors.Is(err, ErrChecksum) || !strings.Contains(err.Error(), "Wrong RDB checksum expected: (") {
		t.Errorf("%v", err)
	}
	loadAll(t, b, Options{SkipChecksum: true})
}

func TestALengthAloneTakesNoMemory(t *testing.T) {
	huge := []byte("\x81\x00\x00\x7F\xFF\xFF\xFF\xFF\xFF")
	for name, b := range map[string][]byte{
		"string": newFile(10).value(TypeString, "k", huge).b,
		"key":    newFile(10).raw(0).raw(huge...).b,
		"LZF":    newFile(10).value(TypeString, "k", append(append([]byte{encLZF}, huge...), huge...)).b,
		"set":    newFile(10).value(TypeSet, "k", huge).b,
		"list":   newFile(10).value(TypeListQuick2, "k", huge).b,
		"stream": newFile(10).value(TypeStream, "k", huge).b,
	} {
		n := testing.AllocsPerRun(1, func() {
			if _, err := Load(bytes.NewReader(b), discard{}, Options{Sanitize: true}); !errors.Is(err, ErrShortRead) {
				t.Errorf("%s: %v", name, err)
			}
			payload := AppendDumpFooter(append([]byte{byte(TypeSet)}, huge...), 0)
			if err := LoadValue(payload, nil, NoMeta, discard{}, Options{}); !errors.Is(err, ErrShortRead) {
				t.Errorf("%s: %v", name, err)
			}
		})
		if n > 50 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func TestErrorsOfTheWriterAreKept(t *testing.T) {
	w := NewWriter(iotest.TruncateWriter(failAfter{100}, 1<<40), WriterOptions{})
	w.Header()
	for range 100_000 {
		w.Key([]byte("k"), NoMeta)
		w.String([]byte("value"))
	}
	if err := w.EOF(); !errors.Is(err, errDisk) || !errors.Is(w.Err(), errDisk) {
		t.Errorf("%v", err)
	}
}

var errDisk = errors.New("disk full")

type failAfter struct{ n int }

func (f failAfter) Write(p []byte) (int, error) { return min(f.n, len(p)), errDisk }

func TestErrorsOfReaderAndVisitorComeThrough(t *testing.T) {
	b := sample(WriterOptions{})
	r := io.MultiReader(bytes.NewReader(b[:40]), iotest.ErrReader(errDisk))
	if _, err := Load(r, newRecorder(), Options{}); !errors.Is(err, errDisk) || errors.Is(err, ErrShortRead) {
		t.Errorf("%v", err)
	}
	if _, err := Load(bytes.NewReader(b), refuser{}, Options{}); err != errDisk {
		t.Errorf("%v", err)
	}
}

// blobRefuser finds fault with every blob.
type blobRefuser struct {
	discard
	err error
}

func (b blobRefuser) Blob(Kind, []byte) error { return b.err }

func TestFaultsThatAVisitorFindsInABlobAreNamed(t *testing.T) {
	b := newFile(10).raw(opSelectDB, 0).value(TypeHashListpack, "k", string(listpackOf("f", "v"))).end()
	for _, err := range []error{ErrDuplicate, fmt.Errorf("field f: %w", ErrDuplicate), ErrCorrupt} {
		_, got := Load(bytes.NewReader(b), blobRefuser{err: err}, Options{})
		var e *Error
		if !errors.As(got, &e) || e.Err != ErrCorrupt || e.Reason != "Hash listpack integrity check failed." {
			t.Errorf("%v becomes %v", err, got)
		}
	}
}

// discard is a Visitor that ignores everything.
type discard struct{}

func (discard) Aux([]byte, []byte) error           { return nil }
func (discard) SelectDB(int) error                 { return nil }
func (discard) ResizeDB(uint64, uint64) error      { return nil }
func (discard) Function([]byte) error              { return nil }
func (discard) BeginKey([]byte, Meta) error        { return nil }
func (discard) String([]byte) error                { return nil }
func (discard) Blob(Kind, []byte) error            { return nil }
func (discard) BeginCollection(Kind, uint64) error { return nil }
func (discard) ListNode([]byte) error              { return nil }
func (discard) Element([]byte) error               { return nil }
func (discard) Pair([]byte, []byte) error          { return nil }
func (discard) ScorePair([]byte, float64) error    { return nil }
func (discard) Opaque(Type, []byte) error          { return nil }
func (discard) EndKey() error                      { return nil }

type refuser struct{ discard }

func (refuser) BeginKey([]byte, Meta) error { return errDisk }

func TestDumpPayloads(t *testing.T) {
	var e Encoder
	payload := e.AppendString([]byte("before\x00"), []byte("hello"))
	payload = AppendDumpFooter(payload, len("before"))[len("before"):]
	if err := VerifyDump(payload, false); err != nil {
		t.Fatal(err)
	}
	rec := newRecorder()
	m := Meta{ExpireMs: 5, IdleSec: -1, Freq: -1}
	if err := LoadValue(payload, []byte("k"), m, rec, Options{Sanitize: true}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&entry{"string", []string{"hello"}, m}, rec.dbs[0]["k"]); diff != "" {
		t.Error(diff)
	}
	for i := range payload {
		bad := bytes.Clone(payload)
		bad[i] ^= 0x10
		if VerifyDump(bad, false) == nil || VerifyDump(payload[:i], false) == nil {
			t.Errorf("damaged at %d: verified", i)
		}
	}
	newer := binary.LittleEndian.AppendUint16([]byte("\x00\x01x"), Version+1)
	newer = binary.LittleEndian.AppendUint64(newer, CRC64(0, newer))
	if err := VerifyDump(newer, true); !errors.Is(err, ErrVersion) {
		t.Errorf("newer version: %v", err)
	}
	empty := AppendDumpFooter([]byte{byte(TypeSet), 0}, 0)
	if err := LoadValue(empty, nil, NoMeta, rec, Options{}); !errors.Is(err, ErrEmptyKey) {
		t.Errorf("empty set: %v", err)
	}
	for n := range 12 {
		if err := LoadValue(payload[:n], nil, NoMeta, rec, Options{}); err == nil {
			t.Errorf("payload cut to %d bytes: loaded", n)
		}
	}
}

// prober is a Visitor that uses what it is told in ways that may panic.
type prober struct{ discard }

func (prober) Blob(kind Kind, b []byte) error {
	if kind == KindSet {
		return nil
	}
	return prober{}.ListNode(b)
}

func (prober) ListNode(lp []byte) error {
	if listpack.First(lp) < 0 {
		return errors.New("an empty node was told")
	}
	n := 0
	for off := listpack.Last(lp); off >= 0; off = listpack.Prev(lp, off) {
		n += listpack.ValueLen(lp, off)
	}
	listpack.Find(lp, listpack.First(lp), []byte("x"), 1)
	return nil
}

func FuzzLoad(f *testing.F) {
	f.Add(sample(WriterOptions{Compress: true}))
	f.Add(oldFile())
	f.Add(newFile(10).raw(opSelectDB, 0).value(TypeStream2, "s", 1, "0123456789abcdef", string(listpackOf("1", "2")), 1, 5, 6, 0, 0, 0, 0, 1, 0).end())
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, opts := range []Options{{}, {Sanitize: true, SkipChecksum: true}} {
			res, err := Load(bytes.NewReader(b), prober{}, opts)
			var e *Error
			if err != nil && !errors.As(err, &e) {
				t.Fatalf("%v is no *Error", err)
			}
			if res.Bytes > int64(len(b)) {
				t.Fatalf("%d bytes of %d", res.Bytes, len(b))
			}
		}
	})
}

func FuzzRestoreValue(f *testing.F) {
	var e Encoder
	f.Add(e.AppendString([]byte{byte(TypeHashListpack)}, listpackOf("f", "v")))
	f.Add(e.AppendString([]byte{byte(TypeSetIntset)}, intsetOf(1, 2, 300000)))
	f.Add(e.AppendString([]byte{byte(TypeZsetZiplist)}, ziplistOf("m", "1.5")))
	f.Add(e.AppendString([]byte{byte(TypeHashZipmap)}, zipmapOf(1, "m", "1.5")))
	f.Add(e.AppendListNode([]byte{byte(TypeListQuick2), 1}, listpackOf("a", "b")))
	f.Fuzz(func(t *testing.T, body []byte) {
		payload := AppendDumpFooter(bytes.Clone(body), 0)
		if err := VerifyDump(payload, false); err != nil {
			t.Fatal(err)
		}
		before := bytes.Clone(payload)
		for _, opts := range []Options{{}, {Sanitize: true}} {
			err := LoadValue(payload, []byte("k"), NoMeta, prober{}, opts)
			var e *Error
			if err != nil && !errors.As(err, &e) {
				t.Fatalf("%v is no *Error", err)
			}
		}
		if !bytes.Equal(before, payload) {
			t.Fatal("the payload changed")
		}
		_ = VerifyDump(body, false)
	})
}

func TestSavingAndLoadingDoNotAllocatePerKey(t *testing.T) {
	const keys = 20_000
	var buf bytes.Buffer
	lp, val := listpackOf("f", "v", "g", "12"), []byte(strings.Repeat("value-", 12))
	key := []byte("key:0000000000")
	save := func() {
		buf.Reset()
		w := NewWriter(&buf, WriterOptions{Compress: true, Checksum: true})
		w.Header()
		for i := range keys {
			key = strconv.AppendInt(key[:4], int64(i), 10)
			w.Key(key, Meta{ExpireMs: 1 << 42, IdleSec: -1, Freq: -1})
			if i%2 == 0 {
				w.String(val)
			} else {
				w.HashListpack(lp)
			}
		}
		if err := w.EOF(); err != nil {
			t.Fatal(err)
		}
	}
	save()
	if n := testing.AllocsPerRun(2, save); n > keys/100 {
		t.Errorf("saving %d keys: %v allocations", keys, n)
	}
	if n := testing.AllocsPerRun(2, func() {
		if _, err := Load(bytes.NewReader(buf.Bytes()), discard{}, Options{Sanitize: true}); err != nil {
			t.Fatal(err)
		}
	}); n > keys/100 {
		t.Errorf("loading %d keys: %v allocations", keys, n)
	}
	e := Encoder{Compress: true}
	out := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() {
		out = e.AppendKey(out[:0], TypeString, key, NoMeta)
		out = e.AppendString(out, val)
		out = e.AppendString(append(out, byte(TypeHashListpack)), lp)
		out = AppendDumpFooter(out, 0)
	}); n != 0 {
		t.Errorf("into a buffer: %v allocations", n)
	}
}

// values are random, half of them compressible, of n bytes.
func values(n, count int, compressible bool) [][]byte {
	rnd := rand.NewChaCha8([32]byte{1})
	out := make([][]byte, count)
	for i := range out {
		b := make([]byte, n)
		_, _ = rnd.Read(b)
		if compressible {
			for j := range b {
				b[j] = "abcdefgh"[b[j]&7]
			}
			copy(b[n/2:], b[:n/2])
		}
		out[i] = b
	}
	return out
}

func BenchmarkSave(b *testing.B) {
	for _, c := range []struct {
		name     string
		size     int
		compress bool
		text     bool
	}{{"64", 64, false, false}, {"64-lzf", 64, true, false}, {"64-lzf-text", 64, true, true}, {"1024", 1024, false, false},
		{"1024-lzf", 1024, true, false}, {"1024-lzf-text", 1024, true, true}} {
		b.Run(c.name, func(b *testing.B) {
			vals := values(c.size, 1024, c.text)
			w := NewWriter(io.Discard, WriterOptions{Compress: c.compress, Checksum: true})
			w.Header()
			key := []byte("key:0000000000")
			b.SetBytes(int64(len(key) + c.size))
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				binary.LittleEndian.PutUint64(key[6:], uint64(i))
				w.Key(key, NoMeta)
				w.String(vals[i&1023])
				i++
			}
		})
	}
}

func BenchmarkLoad(b *testing.B) {
	for _, c := range []struct {
		name string
		size int
		text bool
	}{{"64", 64, false}, {"64-lzf", 64, true}, {"1024", 1024, false}, {"1024-lzf", 1024, true}} {
		b.Run(c.name, func(b *testing.B) {
			vals := values(c.size, 1024, c.text)
			var buf bytes.Buffer
			w := NewWriter(&buf, WriterOptions{Compress: c.text, Checksum: true})
			w.Header()
			const keys = 50_000
			key := []byte("key:0000000000")
			for i := range keys {
				binary.LittleEndian.PutUint64(key[6:], uint64(i))
				w.Key(key, NoMeta)
				w.String(vals[i&1023])
			}
			if err := w.EOF(); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(keys * (len(key) + c.size)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Load(bytes.NewReader(buf.Bytes()), discard{}, Options{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCRC64(b *testing.B) {
	p := make([]byte, 64<<10)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		CRC64(0, p)
	}
}
