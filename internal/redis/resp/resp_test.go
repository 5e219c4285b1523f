package resp

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// parseAll feeds input in pieces of the given size and returns the requests.
func parseAll(p *Parser, input []byte, piece int) (reqs [][]string, err error) {
	var buf []byte
	for len(input) > 0 || len(buf) > 0 {
		n := min(piece, len(input))
		buf, input = append(buf, input[:n]...), input[n:]
		for {
			used, err := p.Next(buf)
			if err != nil {
				return reqs, err
			}
			if used == 0 {
				break
			}
			if len(p.Args) > 0 {
				var req []string
				for _, a := range p.Args {
					req = append(req, string(a))
				}
				reqs = append(reqs, req)
			}
			buf = bytes.Clone(buf[used:])
		}
		if n == 0 {
			break
		}
	}
	return reqs, nil
}

func TestRequestsAreTheSameInWhateverPiecesTheyCome(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var want [][]string
		var wire []byte
		for range rapid.IntRange(1, 5).Draw(t, "requests") {
			args := rapid.SliceOfN(rapid.StringN(0, 200, 300), 1, 12).Draw(t, "args")
			want = append(want, args)
			wire = AppendCommand(wire, args...)
		}
		got, err := parseAll(new(Parser), wire, rapid.IntRange(1, 700).Draw(t, "piece"))
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want) {
			t.Fatalf("%d requests, want %d", len(got), len(want))
		}
		for i := range want {
			if strings.Join(got[i], "\x00") != strings.Join(want[i], "\x00") {
				t.Fatalf("request %d: %q, want %q", i, got[i], want[i])
			}
		}
	})
}

// Texts and limits observed on Redis 7.0.15.
func TestProtocolErrorsAreThoseOfRedis(t *testing.T) {
	for _, c := range []struct {
		in, want string
		unauth   bool
	}{
		{"*a\r\n", "Protocol error: invalid multibulk length", false},
		{"*2147483648\r\n", "Protocol error: invalid multibulk length", false},
		{"*11\r\n", "Protocol error: unauthenticated multibulk length", true},
		{"*1\r\n:1\r\n", "Protocol error: expected '$', got ':'", false},
		{"*1\r\n$-1\r\n", "Protocol error: invalid bulk length", false},
		{"*1\r\n$01\r\n", "Protocol error: invalid bulk length", false},
		{"*1\r\n$536870913\r\n", "Protocol error: invalid bulk length", false},
		{"*1\r\n$16385\r\n", "Protocol error: unauthenticated bulk length", true},
		{"a \"b\r\n", "Protocol error: unbalanced quotes in request", false},
		{strings.Repeat("a", maxInline+1), "Protocol error: too big inline request", false},
		{"*" + strings.Repeat("1", maxInline+1), "Protocol error: too big mbulk count string", false},
		{"*1\r\n$" + strings.Repeat("1", maxInline+1), "Protocol error: too big bulk count string", false},
	} {
		p := &Parser{Unauthenticated: c.unauth}
		_, err := parseAll(p, []byte(c.in), len(c.in))
		if err == nil || err.Error() != c.want || !IsProtocol(err) {
			t.Errorf("%.40q: %v, want %s", c.in, err, c.want)
		}
	}
}

func TestInlineCommandsAndEmptyLines(t *testing.T) {
	got, err := parseAll(new(Parser), []byte("\r\nSET a \"x\\x41\\n\" 'b\\'c'\n*0\r\nPING\r\n"), 5)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || strings.Join(got[0], "|") != "SET|a|xA\n|b'c" || got[1][0] != "PING" {
		t.Errorf("got %q", got)
	}
}

func TestALargeArgumentIsAnnounced(t *testing.T) {
	p := new(Parser)
	head := []byte("*2\r\n$3\r\nSET\r\n$100000\r\n")
	if n, err := p.Next(head); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	if got := p.Pending(len(head)); got != 100002 {
		t.Errorf("Pending = %d, want 100002", got)
	}
}

// A score is printed as printf's %.17g prints it, and whole numbers without
// exponent within 52 bits (observed by ZSCORE).
func TestFloatsArePrintedAsByRedis(t *testing.T) {
	for want, f := range map[string]float64{
		"3": 3, "-0": math.Copysign(0, -1), "0": 0, "inf": math.Inf(1), "-inf": math.Inf(-1), "0.10000000000000001": 0.1,
		"1.5": 1.5, "1e+20": 1e20, "4503599627370495": 4503599627370495, "9007199254740992": 9007199254740992, "1.0000000000000001e-05": 0.00001,
		"0.0001": 0.0001, "1.7976931348623157e+308": math.MaxFloat64, "4.9406564584124654e-324": math.SmallestNonzeroFloat64, "12345678901234568": 12345678901234568,
		"1e+17": 1e17, "-1.25": -1.25, "nan": math.NaN(),
	} {
		if got := string(AppendFloat(nil, f)); got != want {
			t.Errorf("%v: %s, want %s", f, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.Float64().Draw(t, "f")
		back, err := strconv.ParseFloat(string(AppendFloat(nil, f)), 64)
		if err != nil || back != f {
			t.Fatalf("%v came back as %v, %v", f, back, err)
		}
	})
}

func TestOnlyCanonicalIntegersAreIntegers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64().Draw(t, "n")
		if got, ok := ParseInt([]byte(strconv.FormatInt(n, 10))); !ok || got != n {
			t.Fatalf("%d: %d %v", n, got, ok)
		}
		s := rapid.StringMatching(`-?[0-9]{1,21}`).Draw(t, "s")
		want, err := strconv.ParseInt(s, 10, 64)
		canonical := err == nil && strconv.FormatInt(want, 10) == s
		if got, ok := ParseInt([]byte(s)); ok != canonical || (ok && got != want) {
			t.Fatalf("%s: %d %v", s, got, ok)
		}
	})
}

func TestRepliesOfBothProtocolsAreRead(t *testing.T) {
	in := "+OK\r\n-ERR x\r\n:7\r\n$3\r\nabc\r\n$-1\r\n*-1\r\n_\r\n#t\r\n,1.5\r\n=7\r\ntxt:abc\r\n%1\r\n+k\r\n:1\r\n~1\r\n:1\r\n>2\r\n+a\r\n+b\r\n|1\r\n+x\r\n+y\r\n:9\r\n"
	r := NewReader(strings.NewReader(in))
	var kinds []byte
	for {
		v, err := r.Read()
		if err != nil {
			break
		}
		kinds = append(kinds, v.Kind)
		if v.Kind == '=' && string(v.Str) != "abc" {
			t.Errorf("verbatim: %q", v.Str)
		}
	}
	if want := "+-:$___#,=%~>:"; string(kinds) != want {
		t.Errorf("kinds %s, want %s", kinds, want)
	}
}

func FuzzParser(f *testing.F) {
	f.Add([]byte("*2\r\n$3\r\nGET\r\n$1\r\na\r\n"), 3)
	f.Add([]byte("SET a \"b\"\r\n*0\r\n*-1\r\n"), 1)
	f.Add([]byte("*1000000\r\n$1\r\n"), 7)
	f.Fuzz(func(t *testing.T, in []byte, piece int) {
		if piece < 1 || piece > 1<<16 {
			piece = 1
		}
		whole, werr := parseAll(&Parser{MaxBulk: 1 << 20}, in, max(len(in), 1))
		parts, perr := parseAll(&Parser{MaxBulk: 1 << 20}, in, piece)
		if (werr == nil) != (perr == nil) || len(whole) != len(parts) {
			t.Fatalf("whole: %d requests, %v; in pieces of %d: %d, %v", len(whole), werr, piece, len(parts), perr)
		}
	})
}

func FuzzReader(f *testing.F) {
	f.Add([]byte("*1\r\n*1\r\n$1\r\na\r\n"))
	f.Add([]byte("%9999999\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := NewReader(bytes.NewReader(in))
		for range 100 {
			if _, err := r.Read(); err != nil {
				return
			}
		}
	})
}

func BenchmarkParser(b *testing.B) {
	wire := bytes.Repeat(AppendCommand(nil, "SET", "key:000000012345", strings.Repeat("x", 64)), 16)
	p := new(Parser)
	b.ReportAllocs()
	for b.Loop() {
		for at := 0; at < len(wire); {
			n, err := p.Next(wire[at:])
			if err != nil || n == 0 {
				b.Fatal(n, err)
			}
			at += n
		}
	}
}
