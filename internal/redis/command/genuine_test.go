package command

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/internal/redis/config"
	"holdfast/internal/redis/resp"
)

// The families against genuine Redis: seeded random commands go to both, and
// replies, keyspace events, the count of changes and, now and then, all data
// must be equal. What was propagated is applied to a second engine, which must
// end with the same data.

// genuine is a redis-server of the test's own.
type genuine struct {
	t         testing.TB
	conn, sub *wire
}

// wire is a connection to it.
type wire struct {
	t    testing.TB
	conn net.Conn
	r    *resp.Reader
}

func (w *wire) send(args ...string) {
	w.t.Helper()
	if _, err := w.conn.Write(resp.AppendCommand(nil, args...)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *wire) read() resp.Value {
	w.t.Helper()
	if err := w.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		w.t.Fatal(err)
	}
	v, err := w.r.Read()
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

func (w *wire) do(args ...string) resp.Value {
	w.t.Helper()
	w.send(args...)
	return w.read()
}

// startGenuine starts redis-server 7.0, or skips the test.
func startGenuine(t testing.TB) *genuine {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("redis-server is not installed")
	}
	if out, err := exec.Command(path, "--version").Output(); err != nil || !bytes.Contains(out, []byte("v=7.0.")) {
		t.Skip("redis-server is not of version 7.0")
	}
	socket := t.TempDir() + "/s"
	cmd := exec.Command(path, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", t.TempDir(),
		"--enable-debug-command", "yes", "--notify-keyspace-events", "KEAnm")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
		_ = cmd.Wait() // killed: the state says nothing
	})
	g := &genuine{t: t}
	deadline := time.Now().Add(20 * time.Second)
	g.conn = dial(t, socket, deadline)
	g.sub = dial(t, socket, deadline)
	g.conn.do("DEBUG", "SET-ACTIVE-EXPIRE", "0")
	g.sub.do("HELLO", "3")
	g.sub.do("PSUBSCRIBE", "__keyevent@*")
	return g
}

func dial(t testing.TB, socket string, deadline time.Time) *wire {
	t.Helper()
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			t.Cleanup(func() { _ = conn.Close() }) // the server may have gone first
			w := &wire{t, conn, resp.NewReader(conn)}
			return w
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// events returns the keyspace events that have come since the last call.
func (g *genuine) events() []string {
	g.sub.send("PING")
	var out []string
	for {
		v := g.sub.read()
		if v.Kind != '>' {
			return out
		}
		out = append(out, string(v.Elems[2].Str)+" "+string(v.Elems[3].Str))
	}
}

// --- random commands ---

// templates are the commands of the random test: <k> a key, <v> a value, <m> a
// member or field, <i> an integer, <n> a small one, <b> a bit offset, <e> a
// relative time of expiry that no test lives to see, <f> a float, <p> a pattern, <d> a payload of DUMP, <t> a time of expiry in the
// distant future (or past) in ms, <s> the same in seconds, <db> a database.
// "..." repeats the word before up to three times, "?" before a word makes it
// optional.
var templates = strings.Split(strings.TrimSpace(`
APPEND <k> <v>
DECR <k>
DECRBY <k> <i>
GET <k>
GETDEL <k>
GETEX <k> ?PERSIST
GETEX <k> PXAT <t>
GETEX <k> EXAT <s>
GETEX <k> EX <e>
GETRANGE <k> <n> <n>
GETSET <k> <v>
INCR <k>
INCRBY <k> <i>
INCRBYFLOAT <k> <f>
LCS <k> <k> ?LEN
LCS <k> <k> IDX ?WITHMATCHLEN ?MINMATCHLEN ?<n>
MGET <k> <k>...
MSET <k> <v> <k> <v>
MSETNX <k> <v> <k> <v>
PSETEX <k> <e> <v>
SET <k> <v>
SET <k> <v> ?NX ?XX ?GET ?KEEPTTL
SET <k> <v> PXAT <t> ?GET ?NX
SET <k> <v> EXAT <s> ?XX
SET <k> <v> EX <e>
SET <k> <v> PX <e>
SETEX <k> <e> <v>
SETNX <k> <v>
SETRANGE <k> <n> <v>
STRLEN <k>
SUBSTR <k> <n> <n>
BITCOUNT <k>
BITCOUNT <k> <n> <n> ?BIT ?BYTE
BITFIELD <k> GET <ty> <b> SET <ty> <b> <i> INCRBY <ty> <b> <i>
BITFIELD <k> OVERFLOW <o> SET <ty> <b> <i> OVERFLOW <o> INCRBY <ty> <b> <i> GET <ty> <b>
BITFIELD_RO <k> GET <ty> <b> GET <ty> #<n>
BITFIELD <k> INCRBY <ty> #<n> <i>
BITOP AND <k> <k> <k>...
BITOP OR <k> <k> <k>...
BITOP XOR <k> <k> <k>...
BITOP NOT <k> <k>
BITPOS <k> <n>
BITPOS <k> 0 <n> ?<n> ?BIT
BITPOS <k> 1 <n> <n> ?BYTE ?BIT
GETBIT <k> <b>
SETBIT <k> <b> <n>
SETBIT <k> <b> 1
HDEL <k> <m>...
HEXISTS <k> <m>
HGET <k> <m>
HGETALL <k>
HINCRBY <k> <m> <i>
HINCRBYFLOAT <k> <m> <f>
HKEYS <k>
HLEN <k>
HMGET <k> <m>...
HMSET <k> <m> <v> <m> <v>
HRANDFIELD <k>
HRANDFIELD <k> <n> ?WITHVALUES
HSCAN <k> 0 COUNT 10000 ?MATCH ?<p>
HSET <k> <m> <v> <m> <v>
HSET <k> <m> <v>
HSETNX <k> <m> <v>
HSTRLEN <k> <m>
HVALS <k>
SADD <k> <m>...
SADD <k> <i>...
SCARD <k>
SDIFF <k> <k>...
SDIFFSTORE <k> <k> <k>...
SINTER <k> <k>...
SINTERCARD <n> <k> <k> ?LIMIT ?<n>
SINTERCARD 2 <k> <k> ?LIMIT ?<n>
SINTERSTORE <k> <k> <k>...
SISMEMBER <k> <m>
SMEMBERS <k>
SMISMEMBER <k> <m>...
SMOVE <k> <k> <m>
SPOP <k> 1000
SRANDMEMBER <k>
SRANDMEMBER <k> <n>
SREM <k> <m>...
SSCAN <k> 0 COUNT 10000 ?MATCH ?<p>
SUNION <k> <k>...
SUNIONSTORE <k> <k> <k>...
COPY <k> <k> ?REPLACE ?DB ?<db>
DBSIZE
DEL <k>...
EXISTS <k>...
EXPIRE <k> <e> ?NX ?XX
EXPIREAT <k> <s> ?NX ?XX ?GT ?LT
EXPIRETIME <k>
KEYS <p>
MOVE <k> <db>
PERSIST <k>
PEXPIRE <k> <e>
PEXPIREAT <k> <t> ?NX ?XX ?GT ?LT
PEXPIRETIME <k>
PTTL <k>
RENAME <k> <k>
RENAMENX <k> <k>
SWAPDB <db> <db>
TOUCH <k>...
TTL <k>
TYPE <k>
UNLINK <k>...
SCAN 0 COUNT 10000 ?MATCH ?<p> ?TYPE ?<type>
SORT <k> ?ALPHA ?DESC
SORT <k> ?ALPHA LIMIT <n> <n> ?STORE ?<k>
SORT <k> BY k* ?DESC GET # GET k* GET k*->a
SORT <k> BY nosort GET # ?DESC
SORT_RO <k> ALPHA ?GET ?#
SORT <k> ALPHA STORE <k>
DUMP <k>
RESTORE <k> 0 <d> ?REPLACE
RESTORE <k> 0 <d> REPLACE
RESTORE <k> 0 <d> REPLACE
RESTORE <k> <e> <d> REPLACE
RESTORE <k> <t> <d> ABSTTL ?REPLACE
OBJECT ENCODING <k>
OBJECT REFCOUNT <k>
OBJECT FREQ <k>
`), "\n")

var vocabulary = map[string][]string{
	"<k>":    {"k0", "k1", "k2", "k3", "k4", "k5", "a", "b", "1"},
	"<v>":    {"", "0", "1", "-7", "3.5", "hello", "hello world", "ohmytext", "mynewtext", strings.Repeat("x", 45), "9223372036854775807", "\x00\xff\x0f", strings.Repeat("y", 70)},
	"<m>":    {"a", "b", "c", "1", "2", "-3", "100000", "", "field", strings.Repeat("m", 65), "2.5"},
	"<i>":    {"1", "-1", "0", "5", "100", "100000", "9223372036854775807", "-9223372036854775808", "40000", "abc"},
	"<e>":    {"100000", "300000", "0", "-1", "9223372036854775807", "abc"},
	"<n>":    {"0", "1", "2", "3", "-1", "-2", "-100", "7", "20", "x"},
	"<b>":    {"0", "1", "7", "8", "13", "64", "100", "-1", "1000"},
	"<f>":    {"0.1", "-1.5", "3.0e5", "1e-10", "10", "0.30000000000000004", "inf", "x", "1e17", "5.0e-17"},
	"<p>":    {"*", "k*", "k[0-3]", "?", "[^a]*", "*e*", "nothing"},
	"<ty>":   {"u1", "u8", "i8", "i16", "u63", "i64", "i5", "u64", "i0", "i33"},
	"<o>":    {"WRAP", "SAT", "FAIL", "sat"},
	"<t>":    {"2524608000000", "2556144000000", "1000", "0", "-1"},
	"<s>":    {"2524608000", "2556144000", "1", "0", "-5"},
	"<db>":   {"0", "1", "1", "2", "99"},
	"<type>": {"string", "hash", "SET", "zset", "list", "foo"},
}

// generate makes a command of a template. Now and then a word is lost, doubled
// or exchanged.
func generate(rng *rand.Rand, payloads []string) []string {
	var out []string
	words := strings.Fields(templates[rng.IntN(len(templates))])
	pick := func(w string) string {
		for name, list := range vocabulary {
			if strings.Contains(w, name) {
				return strings.Replace(w, name, list[rng.IntN(len(list))], 1)
			}
		}
		if w == "<d>" {
			return payloads[rng.IntN(len(payloads))]
		}
		return w
	}
	for _, w := range words {
		if w[0] == '?' && len(w) > 1 {
			if rng.IntN(2) == 0 {
				continue
			}
			w = w[1:]
		}
		times := 1
		if cut, ok := strings.CutSuffix(w, "..."); ok {
			w, times = cut, 1+rng.IntN(3)
		}
		for range times {
			out = append(out, pick(w))
		}
	}
	// What SPOP takes is only predictable when it takes all.
	if rng.IntN(20) == 0 && len(out) > 1 && out[0] != "SPOP" {
		i := 1 + rng.IntN(len(out)-1)
		switch rng.IntN(3) {
		case 0:
			out = slices.Delete(out, i, i+1)
		case 1:
			out = slices.Insert(out, i, out[i])
		case 2:
			out[i] = "junk"
		}
	}
	return out
}

// payloads are values of all types, some of which no command of the families
// here can make.
func (g *genuine) payloads() []string {
	var out []string
	for _, script := range [][]string{
		{"SET", "p", "text"}, {"SET", "p", "12345"}, {"SET", "p", strings.Repeat("ab", 200)},
		{"RPUSH", "p", "3", "1", "2", "a", "10"}, {"RPUSH", "p", "5", "1", "4"}, {"RPUSH", "p", "b", "a", strings.Repeat("L", 300)},
		{"ZADD", "p", "1", "a", "2", "b", "1.5", "7"}, {"ZADD", "p", "3", "1", "2", "2", "1", strings.Repeat("z", 100)},
		{"SADD", "p", "1", "2", "3"}, {"SADD", "p", "a", "b", "1"},
		{"HSET", "p", "a", "1", "b", "2"}, {"HSET", "p", "a", strings.Repeat("h", 100), "2", "x"},
	} {
		g.conn.do(script...)
		d := string(g.conn.do("DUMP", "p").Str)
		out = append(out, d)
		g.conn.do("DEL", "p")
	}
	bad := []byte(out[3])
	bad[4] ^= 1
	return append(out, "", "short", string(bad))
}

// how says how replies of a command are compared.
func how(args []string) string {
	name := strings.ToUpper(args[0])
	joined := strings.ToUpper(strings.Join(args, " "))
	switch name {
	case "SMEMBERS", "SINTER", "SUNION", "SDIFF", "HKEYS", "HVALS", "KEYS", "SPOP", "HSCAN", "SSCAN", "ZSCAN", "SCAN":
		return "unordered"
	case "HGETALL":
		return "unordered"
	case "SRANDMEMBER", "HRANDFIELD", "ZRANDMEMBER", "RANDOMKEY", "DUMP":
		return "shape"
	case "PTTL", "PEXPIRETIME":
		return "near"
	case "TTL", "EXPIRETIME":
		return "near seconds"
	case "SORT", "SORT_RO":
		if strings.Contains(joined, "NOSORT") {
			return "unordered"
		}
	case "OBJECT":
		if strings.Contains(joined, "REFCOUNT") {
			return "shape" // follows the encoding, see canonical
		}
		return "encoding"
	}
	return ""
}

// canonical is a reply as text, so that equal texts mean equal replies.
func canonical(v resp.Value, how string) string {
	switch v.Kind {
	case '*', '%', '~', '>':
		parts := make([]string, len(v.Elems))
		for i, e := range v.Elems {
			parts[i] = canonical(e, how)
		}
		if how == "unordered" {
			slices.Sort(parts)
		}
		return string(v.Kind) + "[" + strings.Join(parts, " ") + "]"
	case '_':
		return "null"
	case ':':
		if how == "near" && v.Int > 0 {
			return fmt.Sprintf(":~%dms", v.Int)
		}
		if how == "near seconds" && v.Int > 0 {
			return fmt.Sprintf(":~%ds", v.Int)
		}
	}
	if how == "shape" && !v.IsError() {
		return string(v.Kind)
	}
	if how == "encoding" {
		switch string(v.Str) {
		case "int", "embstr":
			return "int or embstr" // INCRBYFLOAT leaves whole numbers as text in Redis
		case "listpack", "skiplist":
			return "listpack or skiplist" // SORT converts what it reads in Redis
		}
	}
	if v.Kind == ':' {
		return fmt.Sprintf(":%d", v.Int)
	}
	if string(v.Str) == "-0" {
		return fmt.Sprintf("%c%q", v.Kind, "0") // Redis loses the sign later, with the compact form
	}
	return fmt.Sprintf("%c%q", v.Kind, v.Str)
}

var nearTime = regexp.MustCompile(`:~([0-9]+)(m?s)`)

// settle puts the times of want into got where they differ by no more than the
// two servers' ideas of now may have, in ms.
func settle(got, want string, slack int64) string {
	times := nearTime.FindAllStringSubmatch(want, -1)
	return nearTime.ReplaceAllStringFunc(got, func(s string) string {
		if len(times) == 0 {
			return s
		}
		w, g := times[0], nearTime.FindStringSubmatch(s)
		times = times[1:]
		most := slack
		if g[2] == "s" {
			most = slack/1000 + 1 // they are rounded
		}
		a, errA := strconv.ParseInt(g[1], 10, 64)
		b, errB := strconv.ParseInt(w[1], 10, 64)
		if errA != nil || errB != nil || g[2] != w[2] || max(a-b, b-a) > most {
			return s
		}
		return w[0]
	})
}

func (te *testEngine) value(reply string) resp.Value {
	te.t.Helper()
	v, err := resp.NewReader(strings.NewReader(reply)).Read()
	if err != nil {
		te.t.Fatalf("reply %q: %v", reply, err)
	}
	return v
}

// events returns the keyspace events that the second client has got.
func eventsOf(t testing.TB, cl *Client) []string {
	var out []string
	r := resp.NewReader(bytes.NewReader(cl.Buf))
	for {
		v, err := r.Read()
		if err != nil {
			break
		}
		out = append(out, string(v.Elems[2].Str)+" "+string(v.Elems[3].Str))
	}
	cl.Buf = cl.Buf[:0]
	return out
}

func (g *genuine) dirty() int64 {
	for _, line := range strings.Split(string(g.conn.do("INFO", "persistence").Str), "\r\n") {
		if n, ok := strings.CutPrefix(line, "rdb_changes_since_last_save:"); ok {
			v, err := strconv.ParseInt(n, 10, 64)
			if err != nil {
				g.t.Fatal(err)
			}
			return v
		}
	}
	g.t.Fatal("no rdb_changes_since_last_save")
	return 0
}

// content describes everything that is stored, by way of exec.
func content(exec func(args ...string) resp.Value) string {
	var b strings.Builder
	for db := range 3 {
		exec("SELECT", strconv.Itoa(db))
		var keys []string
		for _, k := range exec("KEYS", "*").Elems {
			keys = append(keys, string(k.Str))
		}
		slices.Sort(keys)
		for _, k := range keys {
			typ := string(exec("TYPE", k).Str)
			var val string
			switch typ {
			case "string":
				val = canonical(exec("GET", k), "")
			case "hash":
				val = canonical(exec("HSCAN", k, "0", "COUNT", "10000"), "unordered")
			case "set":
				val = canonical(exec("SMEMBERS", k), "unordered")
			case "list":
				val = canonical(exec("LRANGE", k, "0", "-1"), "")
			case "zset":
				val = canonical(exec("ZRANGE", k, "0", "-1", "WITHSCORES"), "")
			}
			fmt.Fprintf(&b, "%d %q %s %s expires %s\n", db, k, canonical(exec("OBJECT", "ENCODING", k), "encoding"), val,
				canonical(exec("PEXPIRETIME", k), "near"))
		}
	}
	exec("SELECT", "0")
	return b.String()
}

func TestRandomCommandsAnswerAsGenuineRedis(t *testing.T) {
	g := startGenuine(t)
	seeds, each := 3, 1500
	if s := os.Getenv("HOLDFAST_RANDOM_SEEDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		seeds = n
	}
	payloads := g.payloads()
	for seed := range seeds {
		g.conn.do("FLUSHALL")
		randomAgainst(t, g, payloads, uint64(seed), each)
	}
}

func randomAgainst(t *testing.T, g *genuine, payloads []string, seed uint64, n int) {
	te := newTestEngine(t, seed)
	te.BeginBatch(time.Now().UnixMicro())
	if _, err := te.Cfg.Set([]config.KV{{Name: "notify-keyspace-events", Value: "KEAnm"}}); err != nil {
		t.Fatal(err)
	}
	sub := te.NewClient(2)
	sub.Proto = 3
	te.as(sub, "PSUBSCRIBE", "__keyevent@*")
	sub.Buf = sub.Buf[:0]
	g.events()
	rng := rand.New(rand.NewPCG(seed, 99))
	dirty := g.dirty()
	slack := int64(0) // the time of a command there is at most this much, in ms, before that of it here
	for i := range n {
		if i%100 == 0 {
			proto := strconv.Itoa(2 + i/100%2)
			g.conn.do("HELLO", proto)
			te.cl.Proto = 2 + i/100%2
		}
		args := generate(rng, payloads)
		rule := how(args)
		sent := time.Now().UnixMilli()
		want := canonical(unblocked(args, g.conn.do), rule)
		te.BeginBatch(time.Now().UnixMicro())
		slack = max(slack, te.NowMs-sent)
		before := te.Dirty
		got := settle(canonical(unblocked(args, func(args ...string) resp.Value { return te.value(te.do(args...)) }), rule), want, slack)
		if got != want {
			t.Errorf("seed %d, command %d: %q\n got %s\nwant %s", seed, i, args, got, want)
		}
		wantEvents, gotEvents := g.events(), eventsOf(t, sub)
		if strings.HasPrefix(strings.ToUpper(args[0]), "SORT") {
			// Misses come in the order in which the elements were loaded.
			slices.Sort(wantEvents)
			slices.Sort(gotEvents)
		}
		if !slices.Equal(wantEvents, gotEvents) {
			t.Errorf("seed %d, command %d: %q\nevents %q\nwant %q", seed, i, args, gotEvents, wantEvents)
		}
		now := g.dirty()
		if te.Dirty-before != now-dirty {
			t.Errorf("seed %d, command %d: %q\nchanges %d, want %d", seed, i, args, te.Dirty-before, now-dirty)
		}
		dirty = now
		if i%25 == 0 || i == n-1 || t.Failed() {
			wantAll := content(g.conn.do)
			gotAll := settle(content(func(args ...string) resp.Value { return te.value(te.do(args...)) }), wantAll, slack)
			g.events()
			sub.Buf = sub.Buf[:0]
			if wantAll != gotAll {
				t.Errorf("seed %d, command %d: %q\nholds\n%swant\n%s", seed, i, args, gotAll, wantAll)
			}
		}
		if t.Failed() {
			return
		}
	}
	replayed(t, te)
}

// replayed applies what te has propagated to an engine of its own and compares
// the data.
func replayed(t *testing.T, te *testEngine) {
	t.Helper()
	other := newTestEngine(t, 77)
	other.BeginBatch(te.NowUs)
	other.Stream = nil
	other.cl.Flags |= FlagMaster
	for _, u := range te.sink.units {
		p := resp.Parser{}
		buf := []byte(u)
		for len(buf) > 0 {
			p.Reset()
			n, err := p.Next(buf)
			if err != nil || n == 0 {
				t.Fatalf("unit %q: %d, %v", u, n, err)
			}
			other.Dispatch(other.cl, p.Args)
			buf = buf[n:]
		}
	}
	other.cl.Flags &^= FlagMaster
	exec := func(te *testEngine) func(args ...string) resp.Value {
		return func(args ...string) resp.Value { return te.value(te.do(args...)) }
	}
	// An operation that changes nothing may still leave a string raw.
	same := strings.NewReplacer(`$"raw"`, "int or embstr")
	if got, want := same.Replace(content(exec(other))), same.Replace(content(exec(te))); got != want {
		t.Errorf("replayed, the stream gives\n%swant\n%s", got, want)
	}
}
