package listpack

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// texts draws values around every boundary of the encodings.
var texts = rapid.OneOf(
	rapid.StringN(0, 70, 70),
	rapid.Map(rapid.Int64(), func(v int64) string { return strconv.FormatInt(v, 10) }),
	rapid.Map(rapid.Int64Range(-5000, 5000), func(v int64) string { return strconv.FormatInt(v, 10) }),
	rapid.Map(rapid.SampledFrom([]int{61, 62, 63, 64, 125, 126, 127, 4094, 4095, 4096, 16380, 16381, 16382, 16383}),
		func(n int) string { return strings.Repeat("x", n) }),
	rapid.SampledFrom([]string{
		"", "0", "-0", "00", "01", "-", "-1", "127", "128", "4095", "4096", "-4096", "-4097", "32767", "32768",
		"-32768", "-32769", "8388607", "8388608", "-8388608", "-8388609", "2147483647", "2147483648", "-2147483648",
		"-2147483649", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809",
		"18446744073709551616", "99999999999999999999", " 1", "1 ", "+1", "1.0",
	}),
)

func fromTexts(vals []string) []byte {
	lp := New(0)
	for _, v := range vals {
		lp = Append(lp, []byte(v))
	}
	return lp
}

// contents reads lp forwards, and checks that backwards gives the same.
func contents(t fatal, lp []byte) []string {
	t.Helper()
	var fwd, back []string
	for off := First(lp); off >= 0; off = Next(lp, off) {
		fwd = append(fwd, string(AppendValue(nil, lp, off)))
	}
	for off := Last(lp); off >= 0; off = Prev(lp, off) {
		back = append(back, string(AppendValue(nil, lp, off)))
	}
	if len(fwd) != len(back) {
		t.Fatalf("forwards %d elements, backwards %d", len(fwd), len(back))
	}
	for i := range fwd {
		if fwd[i] != back[len(back)-1-i] {
			t.Fatalf("element %d: forwards %q, backwards %q", i, fwd[i], back[len(back)-1-i])
		}
	}
	return fwd
}

type fatal interface {
	Helper()
	Fatalf(format string, args ...any)
}

func TestOperationsAgreeWithASliceOfStrings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lp, model := New(0), []string{}
		pick := func() (int, int) {
			i := rapid.IntRange(0, len(model)-1).Draw(t, "index")
			return i, Seek(lp, i)
		}
		insert := func(i int, v string) {
			model = append(model[:i:i], append([]string{v}, model[i:]...)...)
		}
		needElement := func() {
			if len(model) == 0 {
				t.Skip()
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				v := texts.Draw(t, "v")
				lp, model = Append(lp, []byte(v)), append(model, v)
			},
			"appendInt": func(t *rapid.T) {
				v := rapid.Int64().Draw(t, "v")
				lp, model = AppendInt(lp, v), append(model, strconv.FormatInt(v, 10))
			},
			"prepend": func(t *rapid.T) {
				v := texts.Draw(t, "v")
				lp = Prepend(lp, []byte(v))
				insert(0, v)
			},
			"insertBefore": func(t *rapid.T) {
				needElement()
				v := texts.Draw(t, "v")
				i, off := pick()
				lp = InsertBefore(lp, off, []byte(v))
				insert(i, v)
				if !Equal(lp, off, []byte(v)) {
					t.Fatalf("off does not name the inserted element")
				}
			},
			"insertAfter": func(t *rapid.T) {
				needElement()
				v := texts.Draw(t, "v")
				i, off := pick()
				lp = InsertAfter(lp, off, []byte(v))
				insert(i+1, v)
			},
			"replace": func(t *rapid.T) {
				needElement()
				v := texts.Draw(t, "v")
				i, off := pick()
				lp = Replace(lp, off, []byte(v))
				model[i] = v
			},
			"replaceInt": func(t *rapid.T) {
				needElement()
				v := rapid.Int64().Draw(t, "v")
				i, off := pick()
				lp = ReplaceInt(lp, off, v)
				model[i] = strconv.FormatInt(v, 10)
			},
			"delete": func(t *rapid.T) {
				needElement()
				i, off := pick()
				n := rapid.IntRange(0, 3).Draw(t, "n")
				lp = Delete(lp, off, n)
				model = append(model[:i:i], model[min(i+n, len(model)):]...)
				if IsEnd(lp, off) != (i == len(model)) {
					t.Fatalf("IsEnd after a deletion: %v", IsEnd(lp, off))
				}
			},
			"merge": func(t *rapid.T) {
				vals := rapid.SliceOfN(texts, 0, 4).Draw(t, "vals")
				lp, model = Merge(lp, fromTexts(vals)), append(model, vals...)
			},
			"find": func(t *rapid.T) {
				v := texts.Draw(t, "v")
				if len(model) > 0 && rapid.Bool().Draw(t, "known") {
					v = rapid.SampledFrom(model).Draw(t, "v")
				}
				between := rapid.IntRange(0, 2).Draw(t, "between")
				want := -1
				for i := 0; i < len(model); i += between + 1 {
					if model[i] == v {
						want = Seek(lp, i)
						break
					}
				}
				if got := Find(lp, First(lp), []byte(v), between); got != want {
					t.Fatalf("Find(%q, %d) = %d, want %d", v, between, got, want)
				}
			},
			"": func(t *rapid.T) {
				if err := Validate(lp, true); err != nil {
					t.Fatalf("%v", err)
				}
				if Len(lp) != len(model) || Bytes(lp) != len(lp) {
					t.Fatalf("Len %d Bytes %d, want %d and %d", Len(lp), Bytes(lp), len(model), len(lp))
				}
				got := contents(t, lp)
				for i, want := range model {
					off := Seek(lp, i)
					if got[i] != want || off != Seek(lp, i-len(model)) || ValueLen(lp, off) != len(want) {
						t.Fatalf("element %d is %q, want %q (or Seek, ValueLen disagree)", i, got[i], want)
					}
				}
				if Seek(lp, len(model)) != -1 || Seek(lp, -len(model)-1) != -1 {
					t.Fatalf("Seek out of range is not -1")
				}
			},
		})
	})
}

func TestBytesAreThoseOfRedis(t *testing.T) {
	// Recorded from Redis 7.0.15 (DUMP of a hash), its listpack alone.
	cases := []struct {
		vals []string
		hex  string
	}{
		{nil, "07000000" + "0000" + "ff"},
		{[]string{"a", "1"}, "0c000000" + "0200" + "816102" + "0101" + "ff"},
		{[]string{"-1", "128", "4095", "-4096"}, "13000000" + "0400" + "dfff02" + "c08002" + "cfff02" + "d00002" + "ff"},
		{[]string{"4096", "-32769"}, "10000000" + "0200" + "f1001003" + "f2ff7fff04" + "ff"},
		{[]string{"2147483647", "2147483648"}, "17000000" + "0200" + "f3ffffff7f05" + "f4000000800000000009" + "ff"},
	}
	for _, c := range cases {
		if got := hex.EncodeToString(fromTexts(c.vals)); got != c.hex {
			t.Errorf("%q:\n got %s\nwant %s", c.vals, got, c.hex)
		}
	}
	long := fromTexts([]string{strings.Repeat("x", 64), strings.Repeat("x", 4096), strings.Repeat("x", 16381)})
	off := First(long)
	if long[off] != 0xE0 || long[off+1] != 64 || long[off+66] != 66 {
		t.Errorf("12-bit string head % x, backward length %x", long[off:off+2], long[off+66])
	}
	off = Next(long, off)
	if long[off] != 0xF0 || !bytes.Equal(long[off+5+4096:off+5+4096+2], []byte{4101 >> 7, 4101&127 | 128}) {
		t.Errorf("32-bit string head % x", long[off:off+5])
	}
	off = Next(long, off)
	if n := len(long) - 1 - off; n != 5+16381+3 {
		t.Errorf("a length of 16386 takes %d bytes", n-5-16381)
	}
}

func TestEncodedLenIsWhatAppendAdds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := []byte(texts.Draw(t, "v"))
		if got, want := EncodedLen(v), len(Append(New(0), v))-len(New(0)); got != want {
			t.Fatalf("EncodedLen(%q) = %d, want %d", v, got, want)
		}
	})
}

func TestParseIntAcceptsCanonicalIntegersOnly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(texts, rapid.StringMatching(`-?[0-9]{1,21}`)).Draw(t, "s")
		want, err := strconv.ParseInt(s, 10, 64)
		canonical := err == nil && strconv.FormatInt(want, 10) == s
		got, ok := ParseInt([]byte(s))
		if ok != canonical || ok && got != want {
			t.Fatalf("ParseInt(%q) = %d, %v; want %d, %v", s, got, ok, want, canonical)
		}
	})
	for _, v := range []int64{math.MinInt64, math.MaxInt64} {
		if got, ok := ParseInt(strconv.AppendInt(nil, v, 10)); !ok || got != v {
			t.Errorf("ParseInt(%d) = %d, %v", v, got, ok)
		}
	}
}

func TestCountBecomesUnknownAt65535(t *testing.T) {
	lp := New(0)
	for i := range 65534 {
		lp = AppendInt(lp, int64(i&63))
	}
	if headerCount(lp) != 65534 || Len(lp) != 65534 {
		t.Fatalf("count %d, Len %d", headerCount(lp), Len(lp))
	}
	lp = AppendInt(lp, 7)
	if headerCount(lp) != lenUnknown || Len(lp) != 65535 {
		t.Fatalf("count %d, Len %d", headerCount(lp), Len(lp))
	}
	lp = Merge(AppendInt(lp, 9), fromTexts([]string{"tail"}))
	if Len(lp) != 65537 || Validate(lp, true) != nil {
		t.Fatalf("Len %d, %v", Len(lp), Validate(lp, true))
	}
	if off := Seek(lp, -1); !Equal(lp, off, []byte("tail")) || Seek(lp, 65536) != off || Seek(lp, 65537) != -1 {
		t.Fatalf("Seek on an uncounted listpack")
	}
	lp = Delete(lp, Seek(lp, 1), 65536)
	if Len(lp) != 1 || Validate(lp, true) != nil {
		t.Fatalf("Len %d", Len(lp))
	}
}

func TestValidateRefuses(t *testing.T) {
	good := fromTexts([]string{"field", "value", strings.Repeat("x", 200), "-70000"})
	for n := range len(good) {
		if Validate(good[:n], true) == nil {
			t.Errorf("a listpack cut to %d bytes passes", n)
		}
	}
	for name, change := range map[string]func(lp []byte){
		"total":       func(lp []byte) { lp[0]++ },
		"count":       func(lp []byte) { lp[4]++ },
		"end mark":    func(lp []byte) { lp[len(lp)-1] = 0 },
		"early end":   func(lp []byte) { lp[headerSize] = end },
		"length":      func(lp []byte) { lp[headerSize] = enc6BitStr | 63 },
		"backlen":     func(lp []byte) { lp[headerSize+6]++ },
		"no encoding": func(lp []byte) { lp[headerSize] = 0xF5 },
		"huge": func(lp []byte) {
			lp[headerSize] = enc32BitStr
			binary.LittleEndian.PutUint32(lp[headerSize+1:], math.MaxUint32)
		},
	} {
		lp := bytes.Clone(good)
		change(lp)
		if Validate(lp, true) == nil {
			t.Errorf("%s: a damaged listpack passes", name)
		}
	}
}

func FuzzListpackValidate(f *testing.F) {
	f.Add(New(0))
	f.Add(fromTexts([]string{"a", "1", "-5000", strings.Repeat("y", 70), strings.Repeat("z", 5000), "9999999999"}))
	f.Fuzz(func(t *testing.T, lp []byte) {
		if Validate(lp, true) != nil {
			_ = Validate(lp, false)
			return
		}
		vals := contents(t, lp)
		if n := headerCount(lp); Len(lp) != len(vals) && n != lenUnknown {
			t.Fatalf("Len %d, %d elements", Len(lp), len(vals))
		}
		for i, v := range vals {
			off := Seek(lp, i)
			if !Equal(lp, off, []byte(v)) || ValueLen(lp, off) != len(v) {
				t.Fatalf("element %d is not itself", i)
			}
			if got := Find(lp, First(lp), []byte(v), 0); got < 0 || got > off {
				t.Fatalf("Find(%q) = %d, want at most %d", v, got, off)
			}
		}
		lp = bytes.Clone(lp)
		for i := range vals {
			lp = Replace(lp, Seek(lp, i), []byte(fmt.Sprint("r", i)))
		}
		lp = Prepend(Append(lp, []byte("tail")), []byte("12"))
		lp = Delete(lp, First(lp), len(vals)/2+1)
		if err := Validate(lp, true); err != nil {
			t.Fatal(err)
		}
	})
}

func TestReadingAndChangingInPlaceDoNotAllocate(t *testing.T) {
	lp := New(4096)
	for i := range 64 {
		lp = Append(lp, fmt.Appendf(nil, "field:%d", i))
		lp = AppendInt(lp, int64(i*1000))
	}
	needle, val := []byte("field:63"), []byte("777777")
	buf := make([]byte, 0, 64)
	if n := testing.AllocsPerRun(100, func() {
		off := Find(lp, First(lp), needle, 1)
		lp = Replace(lp, Next(lp, off), val)
		lp = Append(lp, needle)
		lp = Delete(lp, Last(lp), 1)
		buf = AppendValue(buf[:0], lp, Seek(lp, -1))
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkFind(b *testing.B) {
	for _, n := range []int{8, 32, 128} {
		lp := New(0)
		for i := range n {
			lp = Append(lp, fmt.Appendf(nil, "field:%04d", i))
			lp = Append(lp, fmt.Appendf(nil, "%d", i*100))
		}
		needle := fmt.Appendf(nil, "field:%04d", n-1)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				if Find(lp, First(lp), needle, 1) < 0 {
					b.Fatal("not found")
				}
			}
		})
	}
}

func BenchmarkNext(b *testing.B) {
	lp := New(0)
	for i := range 128 {
		lp = Append(lp, fmt.Appendf(nil, "member:%d", i))
	}
	for b.Loop() {
		for off := First(lp); off >= 0; off = Next(lp, off) {
		}
	}
}

func BenchmarkPrepend(b *testing.B) {
	val := bytes.Repeat([]byte("v"), 64)
	lp := New(0)
	for b.Loop() {
		if lp = Prepend(lp, val); len(lp) > 8192 {
			lp = New(0)
		}
	}
}
