package interop

import (
	"bufio"
	"bytes"
	"slices"
	"strings"
	"testing"
)

// A harness that finds no difference proves nothing unless it finds one that is there: each line is answered differently by
// the two servers, because ${port} differs, and must be reported exactly when its rules do not forgive it.
func TestCanary(t *testing.T) {
	p := borrow(t, false, nil)
	for _, c := range []struct {
		lines string
		want  int // differences
	}{
		{"ECHO ${port}", 1},
		{"ECHO same", 0},
		{"!mask \"[0-9]+\" ECHO ${port}", 0},
		{"!shape ECHO ${port}", 0},
		{"!ignore ECHO ${port}", 0},
		{"!quiet RPUSH p name ${port}\n!hide name LRANGE p 0 -1\n!hide nam LRANGE p 0 -1\n!hide name LRANGE p 1 1", 2},
		{"!near 100000 ECHO ${port}", 0},
		{"!near 0.5 ECHO ${port}", 1},
		{"!unordered ECHO ${port}", 1},
		{"!err-prefix NOSUCH ${port}", 0},
		{"NOSUCH ${port}", 1},
		{"!err-prefix GET ${port} x", 0},
		{"!x ECHO {a|b} ${port}", 0},
		{"!x PING {a|b|c}${port}", 3},
		{"!quiet ECHO ${port}", 0},
		{"!quiet SET n ${port}\nGET n\n!until 5 STRLEN n", 1},
		{"!quiet RPUSH l ${port} 1\n!unordered LRANGE l 0 -1\n!shape LRANGE l 0 -1\n!pairs LRANGE l 0 -1", 2},
		{"!quiet RPUSH m a b\n!unordered LRANGE m 0 -1\nDEBUG DIGEST", 1},
		{"!raw \"PING ${port}\\r\\n\"\n!alive", 1},
		{"!rawsend \"PING ${port}\\r\\nPING a\\r\\n\"\n!drain", 1},
		{"!config maxmemory ${port}x\n!config hz 10", 0},
	} {
		r := newRun(p, 2)
		if err := r.runScript(&script{name: "canary", lines: strings.Split(c.lines, "\n")}); err != nil {
			t.Errorf("%q: %v", c.lines, err)
		}
		r.closeAll()
		if len(r.diffs) != c.want {
			t.Errorf("%q: %d differences reported, want %d:\n%s", c.lines, len(r.diffs), c.want, strings.Join(r.diffs, "\n"))
		}
	}
}

// The quoting of redis-cli.
func TestSplitArgs(t *testing.T) {
	for line, want := range map[string][]string{
		`SET k v`:                    {"SET", "k", "v"},
		`  a   b  `:                  {"a", "b"},
		`"a b" 'c d'`:                {"a b", "c d"},
		`"\x00\xffA\n\r\t\b\a\"\\q"`: {"\x00\xffA\n\r\t\b\a\"\\q"},
		`'\'' '\n' ""`:               {"'", `\n`, ""},
		`"\xzz"`:                     {"xzz"},
		``:                           nil,
	} {
		if got, err := splitArgs(line); err != nil || !slices.Equal(got, want) {
			t.Errorf("splitArgs(%s) = %q, %v, want %q", line, got, err, want)
		}
	}
	for _, line := range []string{`"a`, `'a`, `"a\`, `a "`} {
		if got, err := splitArgs(line); err == nil {
			t.Errorf("splitArgs(%s) = %q, want an error", line, got)
		}
	}
}

func TestExpand(t *testing.T) {
	got := expand("a {b|c|} ${d} {e|f}")
	want := []string{"a b ${d} e", "a b ${d} f", "a c ${d} e", "a c ${d} f", "a  ${d} e", "a  ${d} f"}
	if !slices.Equal(got, want) {
		t.Errorf("expand = %q, want %q", got, want)
	}
	if got := expand("a {${b*3}|c}"); !slices.Equal(got, []string{"a ${b*3}", "a c"}) {
		t.Errorf("with a variable in it: %q", got)
	}
}

// The reply reader keeps every byte, whatever the server says, and never reads beyond one reply.
func FuzzReply(f *testing.F) {
	for _, s := range []string{
		"+OK\r\n", "-ERR x\r\n", ":1\r\n", "$3\r\na\r\n\r\n", "$-1\r\n", "*-1\r\n", "*2\r\n:1\r\n$0\r\n\r\n", "%1\r\n+a\r\n,1.5\r\n",
		"~1\r\n#t\r\n", ">1\r\n_\r\n", "=5\r\ntxt:a\r\n", "(123\r\n", "!3\r\nerr\r\n", "|1\r\n+a\r\n:1\r\n:2\r\n", "*1048577\r\n", "$99999999999\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		rr := replyReader{r: bufio.NewReader(bytes.NewReader(in))}
		n, raw, err := rr.read()
		if err != nil {
			return
		}
		if !bytes.HasPrefix(in, raw) {
			t.Fatalf("raw %q is not what came: %q", raw, in)
		}
		again := replyReader{r: bufio.NewReader(bytes.NewReader(raw))}
		if m, _, err := again.read(); err != nil || (&rules{unordered: true}).canonical(m) != (&rules{unordered: true}).canonical(n) {
			t.Fatalf("%q does not read the same twice: %v", raw, err)
		}
	})
}
