package glob

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"

	"holdfast/test/proc"
)

func TestMatchFollowsRedisPatternLanguage(t *testing.T) {
	for _, tc := range []struct {
		pattern, s string
		nocase     bool
		want       bool
	}{
		{"", "", false, true},
		{"", "a", false, false},
		{"*", "", false, false}, // Redis tries no star against an empty string.
		{"*", "a", false, true},
		{"**", "abc", false, true},
		{"a*", "a", false, true},
		{"a**", "a", false, true},
		{"a?", "a", false, false},
		{"h?llo", "hello", false, true},
		{"h*llo", "hllo", false, true},
		{"h*llo", "heeeello", false, true},
		{"h[ae]llo", "hillo", false, false},
		{"h[^e]llo", "hallo", false, true},
		{"h[^e]llo", "hello", false, false},
		{"h[a-b]llo", "hbllo", false, true},
		{"h[b-a]llo", "hallo", false, true},
		{`\*`, "*", false, true},
		{`\*`, "a", false, false},
		{`a\`, `a\`, false, true},
		{"[", "[", false, false},
		{"[^", "x", false, true},
		{"[a", "a", false, true},
		{`[\`, `\`, false, true},
		{`[\]]`, "]", false, true},
		{"[]", "]", false, false},
		{"[a-]", "-", false, false},
		{"[a-", "-", false, true},
		{"HELLO", "hello", true, true},
		{"[A-C]", "b", true, true},
		{`[\B]`, "b", true, false}, // Escaped class bytes keep their case.
		{"*ab*cd*", "xxabyyabzzcd", false, true},
		{"*ab*cd", "xxabyyabzzc", false, false},
		{"a*b?c*d", "a__bxc_bycd", false, true},
		{"[a-\xff]", "\x10", false, true}, // -1..97: the range is signed.
	} {
		if got := Match([]byte(tc.pattern), []byte(tc.s), tc.nocase); got != tc.want {
			t.Errorf("Match(%q, %q, nocase=%v) = %v, want %v", tc.pattern, tc.s, tc.nocase, got, tc.want)
		}
	}
}

// A pattern of many stars against a long string that nearly matches made
// early versions of Redis run for hours; here the step count is a product.
func TestMatchOfManyStarsIsNotExponential(t *testing.T) {
	pattern := bytes.Repeat([]byte("a*"), 2000)
	pattern = append(pattern, 'b')
	s := bytes.Repeat([]byte("a"), 20000)
	if Match(pattern, s, false) {
		t.Fatal("matched a string without b")
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	pattern, s := []byte("user:*:[a-z]?\\*x*"), []byte("user:1000:bc*xyz")
	if n := testing.AllocsPerRun(100, func() { Match(pattern, s, true) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

// reference is the definition said recursively: slow, and obviously right.
func reference(p, s []byte, nocase bool) bool {
	if len(s) == 0 {
		return len(p) == 0
	}
	if len(p) == 0 {
		return false
	}
	if p[0] == '*' {
		rest := bytes.TrimLeft(p, "*")
		if len(rest) == 0 {
			return true
		}
		for k := range s {
			if reference(rest, s[k:], nocase) {
				return true
			}
		}
		return false
	}
	next, ok := matchOne(p, 0, s[0], nocase)
	if !ok {
		return false
	}
	p, s = p[next:], s[1:]
	if len(s) == 0 {
		p = bytes.TrimLeft(p, "*")
	}
	return reference(p, s, nocase)
}

func FuzzGlob(f *testing.F) {
	for _, seed := range [][2]string{
		{"*a*b[c-e]?", "xxabdz"}, {"[^a-\xff]", "q"}, {`\`, `\`}, {"[a", "a"}, {"a*", "a"}, {"**?", ""},
	} {
		f.Add([]byte(seed[0]), []byte(seed[1]), false)
		f.Add([]byte(seed[0]), []byte(seed[1]), true)
	}
	f.Fuzz(func(t *testing.T, pattern, s []byte, nocase bool) {
		got := Match(pattern, s, nocase)
		if bytes.Count(pattern, []byte("*")) > 5 || len(s) > 24 {
			return // the reference is exponential
		}
		if want := reference(pattern, s, nocase); got != want {
			t.Fatalf("Match(%q, %q, %v) = %v, want %v", pattern, s, nocase, got, want)
		}
	})
}

// TestMatchAgainstGenuineRedis asks KEYS of a genuine server about each
// pattern and string of a generated set.
func TestMatchAgainstGenuineRedis(t *testing.T) {
	conn := startRedis(t)
	r := bufio.NewReader(conn)
	call := func(args ...string) []string {
		t.Helper()
		var b strings.Builder
		fmt.Fprintf(&b, "*%d\r\n", len(args))
		for _, a := range args {
			fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
		}
		if _, err := io.WriteString(conn, b.String()); err != nil {
			t.Fatal(err)
		}
		return readReply(t, r)
	}
	alphabet := []string{"a", "b", "B", "*", "?", "[", "]", "^", "-", "\\", "\xe9"}
	seed := uint64(12345)
	random := func(n int) int {
		seed = seed*6364136223846793005 + 1442695040888963407
		return int(seed>>33) % n
	}
	word := func(maxLen int) string {
		var b strings.Builder
		for n := random(maxLen + 1); n > 0; n-- {
			b.WriteString(alphabet[random(len(alphabet))])
		}
		return b.String()
	}
	keys := map[string]bool{"": true}
	for len(keys) < 200 {
		keys[word(4)] = true
	}
	for k := range keys {
		call("SET", k, "v")
	}
	for range 1500 {
		pattern := word(7)
		if pattern == "*" {
			continue // KEYS answers it without the matcher
		}
		found := map[string]bool{}
		for _, k := range call("KEYS", pattern) {
			found[k] = true
		}
		for k := range keys {
			if got := Match([]byte(pattern), []byte(k), false); got != found[k] {
				t.Errorf("Match(%q, %q) = %v, genuine %v", pattern, k, got, found[k])
			}
		}
	}
}

func startRedis(t *testing.T) net.Conn {
	t.Helper()
	p, err := proc.StartGenuine(t.TempDir())
	if errors.Is(err, proc.ErrNotInstalled) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p.Spec.Port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func readReply(t *testing.T, r *bufio.Reader) []string {
	t.Helper()
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	line = strings.TrimRight(line, "\r\n")
	switch line[0] {
	case '+', ':':
		return []string{line[1:]}
	case '$':
		n, err := strconv.Atoi(line[1:])
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, n+2)
		if _, err := io.ReadFull(r, buf); err != nil {
			t.Fatal(err)
		}
		return []string{string(buf[:n])}
	case '*':
		n, err := strconv.Atoi(line[1:])
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for range n {
			all = append(all, readReply(t, r)...)
		}
		return all
	}
	t.Fatalf("unexpected reply %q", line)
	return nil
}
