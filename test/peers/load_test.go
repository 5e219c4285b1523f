package peers

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/test/proc"
)

const (
	databases = 16
	keysOf    = 60 // of one type and database
	batch     = 120
)

// load is a client that sends random writes of all types to a master. The same
// seed sends the same requests.
type load struct {
	*rand.Rand
	port    int
	c, b    *proc.Conn // b is the one that blocks
	db      int
	durable bool // no short times to live: what is written stays
	noFlush bool // no FLUSHALL, which makes a snapshot begin again
	payload string
	payType string
	now     int64 // Unix time in ms, of the last batch

	sent, refused int
	samples       map[string]int // of error replies
}

func newLoad(t *testing.T, n *node, stream uint64) *load {
	t.Helper()
	l := &load{Rand: rand.New(rand.NewPCG(seed, stream)), port: n.spec.Port, samples: map[string]int{}}
	l.c, l.b = n.dial(), n.dial()
	t.Cleanup(func() { l.c.Close(); l.b.Close() })
	return l
}

// write sends n commands and fails the test when the master does not take them.
func (l *load) write(t *testing.T, n int) {
	t.Helper()
	if err := l.run(n, nil); err != nil {
		t.Fatal(err)
	}
}

// begin sends in the background; the channel gives the result.
func (l *load) begin(n int) <-chan error {
	done := make(chan error, 1)
	go func() { done <- l.run(n, nil) }()
	return done
}

// until sends until stop is closed.
func (l *load) until(stop <-chan struct{}) <-chan error {
	done := make(chan error, 1)
	go func() { done <- l.run(1<<30, stop) }()
	return done
}

func ended(t *testing.T, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(4 * patience):
		t.Fatal("the load does not end")
	}
}

func (l *load) run(n int, stop <-chan struct{}) error {
	for end := l.sent + n; l.sent < end; {
		select {
		case <-stop:
			return nil
		default:
		}
		l.now = time.Now().UnixMilli()
		pending := 0
		for want := 1 + l.IntN(batch); pending < want; {
			pending += l.unit()
		}
		if err := l.exchange(pending); err != nil {
			return err
		}
		if err := l.extra(); err != nil {
			return err
		}
	}
	if l.refused > l.sent/3 {
		return fmt.Errorf("%d of %d commands were refused: %v", l.refused, l.sent, l.samples)
	}
	return nil
}

// exchange sends what is buffered and reads that many replies.
func (l *load) exchange(n int) error {
	if err := l.c.Flush(); err != nil {
		return err
	}
	for range n {
		v, err := l.c.Recv()
		if err != nil {
			return fmt.Errorf("after %d commands: %w", l.sent, err)
		}
		if err := l.note(v); err != nil {
			return err
		}
	}
	return nil
}

// note counts errors. Those that the load is made to cause are as welcome as
// results; those that say that a command is not known are not.
func (l *load) note(v proc.Value) error {
	for _, e := range v.List {
		if e.Kind == '-' {
			l.refused++
		}
	}
	if v.Kind != '-' {
		return nil
	}
	l.refused++
	if len(l.samples) < 50 {
		l.samples[v.Str]++
	}
	for _, bad := range []string{"ERR unknown", "ERR wrong number", "ERR syntax", "EXECABORT", "LOADING", "MISCONF", "READONLY"} {
		if strings.HasPrefix(v.Str, bad) {
			return fmt.Errorf("after %d commands: %s", l.sent, v.Str)
		}
	}
	return nil
}

func (l *load) send(args ...string) int {
	l.c.Send(args...)
	l.sent++
	return 1
}

// unit buffers a command or a transaction and returns the number of replies.
func (l *load) unit() int {
	if l.IntN(25) != 0 {
		return l.send(l.command()...)
	}
	n := l.send("MULTI")
	for range 1 + l.IntN(8) {
		n += l.send(l.command()...)
	}
	if l.IntN(8) == 0 {
		l.db = -1
		n += l.send("DISCARD")
	} else {
		n += l.send("EXEC")
	}
	if l.db < 0 { // a SELECT may have been discarded
		l.db = l.IntN(4)
		n += l.send("SELECT", strconv.Itoa(l.db))
	}
	return n
}

// extra does now and then what needs replies in between.
func (l *load) extra() error {
	switch l.IntN(12) {
	case 0, 1:
		return l.blocking()
	case 2:
		return l.restore()
	case 3:
		return l.watch()
	}
	return nil
}

func (l *load) roundTrip(args ...string) (proc.Value, error) {
	l.sent++
	v, err := l.c.Do(args...)
	if err == nil {
		err = l.note(v)
	}
	return v, err
}

// blocking lets the second client wait for an element that the first pushes.
func (l *load) blocking() error {
	k, k2 := "q"+l.num(5), "q"+l.num(5)
	push := []string{"RPUSH", k, l.val(), l.val(), l.val()}
	var wait []string
	switch l.IntN(7) {
	case 0:
		wait = []string{"BLPOP", k, k2, "2"}
	case 1:
		wait = []string{"BRPOP", k2, k, "2"}
	case 2:
		wait = []string{"BLMOVE", k, k2, l.pick("LEFT RIGHT"), l.pick("LEFT RIGHT"), "2"}
	case 3:
		wait = []string{"BRPOPLPUSH", k, k2, "2"}
	case 4:
		wait = []string{"BLMPOP", "2", "2", k, k2, "LEFT", "COUNT", "2"}
	case 5:
		k = "y" + l.num(5)
		push = []string{"ZADD", k, l.score(), "a", l.score(), "b", l.score(), "c"}
		wait = []string{l.pick("BZPOPMIN BZPOPMAX"), k, "2"}
	case 6:
		k = "y" + l.num(5)
		push = []string{"ZADD", k, l.score(), "a", l.score(), "b"}
		wait = []string{"BZMPOP", "2", "1", k, l.pick("MIN MAX"), "COUNT", "2"}
	}
	l.b.Send("SELECT", strconv.Itoa(l.db))
	l.b.Send(wait...)
	l.sent += 2
	if err := l.b.Flush(); err != nil {
		return err
	}
	if v, err := l.b.Recv(); err != nil || v.Err() != nil {
		return fmt.Errorf("SELECT %d: %v %w", l.db, v, err)
	}
	switch l.IntN(3) {
	case 0:
		l.send("MULTI")
		l.send(push...)
		l.send(l.command()...)
		l.send("EXEC")
		if err := l.exchange(4); err != nil {
			return err
		}
		if err := l.home(); err != nil {
			return err
		}
	default:
		if _, err := l.roundTrip(push...); err != nil {
			return err
		}
	}
	v, err := l.b.Recv()
	if err != nil {
		return fmt.Errorf("%v: %w", wait, err)
	}
	return l.note(v)
}

// home selects the database that the client believes to be in.
func (l *load) home() error {
	_, err := l.roundTrip("SELECT", strconv.Itoa(l.db))
	return err
}

// restore sends a payload of DUMP back under another name.
func (l *load) restore() error {
	k := l.anyKey()
	v, err := l.roundTrip("DUMP", k)
	if err != nil {
		return err
	}
	if v.Kind == '$' && !v.Null {
		l.payload, l.payType = v.Str, k[:1]
	}
	if l.payload == "" {
		return nil
	}
	args := []string{"RESTORE", l.payType + l.num(keysOf), l.ttl(), l.payload, "REPLACE"}
	if l.IntN(3) == 0 {
		args[2] = strconv.FormatInt(l.now+int64(3_600_000+l.IntN(1000)), 10)
		args = append(args, "ABSTTL")
	}
	_, err = l.roundTrip(args...)
	return err
}

// watch is a transaction under WATCH, that fails now and then.
func (l *load) watch() error {
	k := l.key("s")
	if _, err := l.roundTrip("WATCH", k); err != nil {
		return err
	}
	if l.IntN(2) == 0 {
		l.b.Send("SELECT", strconv.Itoa(l.db))
		l.b.Send("SET", k, l.val())
		l.sent += 2
		if err := l.b.Flush(); err != nil {
			return err
		}
		for range 2 {
			if _, err := l.b.Recv(); err != nil {
				return err
			}
		}
	}
	l.send("MULTI")
	l.send("APPEND", k, l.val())
	l.send("LPUSH", l.key("l"), l.val())
	l.send("EXEC")
	return l.exchange(4)
}

func (l *load) num(n int) string { return strconv.Itoa(l.IntN(n)) }

func (l *load) pick(words string) string {
	w := strings.Fields(words)
	return w[l.IntN(len(w))]
}

// key is a key of the type that the letter stands for, now and then of another.
func (l *load) key(letter string) string {
	if l.IntN(40) == 0 {
		return l.anyKey()
	}
	return letter + l.num(keysOf)
}

func (l *load) anyKey() string { return l.pick("s n b l t i h z") + l.num(keysOf) }

func (l *load) val() string {
	switch l.IntN(24) {
	case 0:
		return strings.Repeat(l.pick("a bc \x00 \xff"), l.IntN(3000))
	case 1:
		return ""
	case 2, 3, 4, 5:
		return strconv.FormatInt(int64(l.Uint64()>>l.IntN(64)), 10)
	case 6:
		return strings.Repeat("x", 40+l.IntN(30)) // around the limits of small encodings
	case 7:
		b := make([]byte, l.IntN(300))
		for i := range b {
			b[i] = byte(l.Uint32())
		}
		return string(b)
	}
	return "v" + l.num(2000)
}

func (l *load) vals(most int, f func() string) []string {
	out := make([]string, 1+l.IntN(most))
	for i := range out {
		out[i] = f()
	}
	return out
}

func (l *load) member() string {
	if l.IntN(30) == 0 {
		return l.val()
	}
	return "m" + l.num(200)
}

func (l *load) integer() string {
	if l.IntN(20) == 0 {
		return strconv.FormatInt(int64(l.Uint64()), 10)
	}
	return strconv.Itoa(l.IntN(700) - 20)
}

// score never makes a -0: Redis keeps it in large sorted sets, and its replica
// loses it where the set has become small meanwhile.
func (l *load) score() string {
	if l.IntN(30) == 0 {
		return l.pick("inf -inf 1e300 0.1 3.0000000000000004 17179869184")
	}
	return strconv.FormatFloat(float64(l.IntN(4000)-1000)/4, 'g', -1, 64)
}

// ttl is a time to live in ms.
func (l *load) ttl() string {
	if l.durable || l.IntN(3) == 0 {
		return strconv.Itoa(3_600_000 + l.IntN(1_000_000))
	}
	return strconv.Itoa(1 + l.IntN(400))
}

func (l *load) at(unit int64) string {
	ms := l.now + 3_600_000 + int64(l.IntN(100_000))
	if !l.durable && l.IntN(2) == 0 {
		ms = l.now + int64(l.IntN(600)) - 100
	}
	return strconv.FormatInt(ms/unit, 10)
}

func join(parts ...any) []string {
	var out []string
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			out = append(out, p)
		case []string:
			out = append(out, p...)
		}
	}
	return out
}

// maybe is words in one case of n.
func (l *load) maybe(n int, words ...string) []string {
	if l.IntN(n) != 0 {
		return nil
	}
	return words
}

var families = []func(*load) []string{
	(*load).strings, (*load).strings, (*load).bits, (*load).lists, (*load).lists, (*load).sets, (*load).sets,
	(*load).hashes, (*load).hashes, (*load).zsets, (*load).zsets, (*load).expiries, (*load).expiries, (*load).keys, (*load).keys,
}

func (l *load) command() []string { return families[l.IntN(len(families))](l) }

func (l *load) strings() []string {
	k := l.key("s")
	switch l.IntN(18) {
	case 0, 1, 2, 3:
		return join("SET", k, l.val(), l.maybe(8, l.pick("NX XX")), l.maybe(8, "GET"), l.maybe(8, "KEEPTTL"))
	case 4:
		return join("SET", k, l.val(), "PX", l.ttl())
	case 5:
		return join("SET", k, l.val(), "PXAT", l.at(1))
	case 6:
		return join("APPEND", k, l.val())
	case 7:
		return join("SETRANGE", k, l.num(3000), l.val())
	case 8:
		return join("MSET", k, l.val(), l.key("s"), l.val(), l.key("n"), l.integer())
	case 9:
		return join("MSETNX", k, l.val(), l.key("s"), l.val())
	case 10:
		return join("GETSET", k, l.val())
	case 11:
		return join("GETDEL", k)
	case 12:
		return join("GETEX", k, l.maybe(2, "PX", l.ttl()))
	case 13:
		return join("GETEX", k, l.pick("PERSIST PERSIST"))
	case 14:
		return join(l.pick("INCR DECR"), l.key("n"))
	case 15:
		return join(l.pick("INCRBY DECRBY"), l.key("n"), l.integer())
	case 16:
		return join("INCRBYFLOAT", l.key("n"), l.pick("0.1 1.5 -0.25 3 1e2 2.675 1e-7 3.0e10"))
	}
	return join("PSETEX", k, l.ttl(), l.val())
}

func (l *load) bits() []string {
	k := l.key("b")
	switch l.IntN(6) {
	case 0, 1, 2:
		return join("SETBIT", k, l.num(6000), l.num(2))
	case 3:
		// The first SET makes every growth a change: Redis does not propagate a growth alone.
		return join("BITFIELD", k, "SET", "u1", "1023", "1", "OVERFLOW", l.pick("WRAP SAT FAIL"), l.pick("INCRBY SET"), l.pick("u4 i5 u8 i16 u33 i64"), l.num(900), l.num(300))
	case 4:
		return join("BITOP", "NOT", l.key("b"), k)
	}
	return join("BITOP", l.pick("AND OR XOR"), l.key("b"), k, l.key("b"))
}

func (l *load) lists() []string {
	k := l.key("l")
	switch l.IntN(17) {
	case 0, 1, 2, 3:
		return join(l.pick("LPUSH RPUSH"), k, l.vals(6, l.val))
	case 4:
		return join(l.pick("LPUSH RPUSH"), k, l.vals(300, l.member))
	case 5:
		return join(l.pick("LPUSHX RPUSHX"), k, l.val())
	case 6, 7:
		return join(l.pick("LPOP RPOP"), k, l.maybe(2, l.num(30)))
	case 8:
		return join("LSET", k, l.integer(), l.val())
	case 9:
		return join("LINSERT", k, l.pick("BEFORE AFTER"), l.member(), l.val())
	case 10:
		return join("LREM", k, l.pick("0 1 -1 3"), l.member())
	case 11:
		return join("LTRIM", k, l.pick("0 1 2 -500"), l.pick("-1 -2 50 700"))
	case 12:
		return join("LMOVE", k, l.key("l"), l.pick("LEFT RIGHT"), l.pick("LEFT RIGHT"))
	case 13:
		return join("RPOPLPUSH", k, l.key("l"))
	case 14:
		return join("LMPOP", "2", k, l.key("l"), l.pick("LEFT RIGHT"), "COUNT", l.pick("1 2 50"))
	case 15:
		return join("SORT", l.key(l.pick("l t")), "ALPHA", l.maybe(2, "LIMIT", "0", "50"), l.maybe(2, "DESC"), "STORE", l.key("l"))
	}
	// Not ALPHA by a pattern: Redis leaves elements of equal weight in the order of its hash table.
	return join("SORT", l.key("i"), l.maybe(2, "BY", l.pick("n* nosort")), l.maybe(2, "GET", "s*", "GET", "#"), "STORE", l.key("l"))
}

func (l *load) sets() []string {
	letter := l.pick("t i")
	k, member := l.key(letter), l.member
	if letter == "i" {
		member = l.integer
	}
	switch l.IntN(14) {
	case 0, 1, 2, 3:
		return join("SADD", k, l.vals(8, member))
	case 4:
		return join("SADD", k, l.vals(600, member))
	case 5, 6:
		return join("SREM", k, l.vals(5, member))
	case 7, 8:
		return join("SPOP", k)
	case 9:
		return join("SPOP", k, l.num(60))
	case 10:
		return join("SMOVE", k, l.key(letter), member())
	}
	return join(l.pick("SINTERSTORE SUNIONSTORE SDIFFSTORE"), l.key(letter), k, l.key(l.pick("t i")))
}

func (l *load) hashes() []string {
	k := l.key("h")
	switch l.IntN(12) {
	case 0, 1, 2, 3:
		return join("HSET", k, l.member(), l.val(), l.maybe(2, l.member(), l.val()))
	case 4:
		var pairs []string
		for range 1 + l.IntN(600) {
			pairs = append(pairs, l.member(), l.val())
		}
		if l.IntN(10) != 0 {
			pairs = pairs[:2]
		}
		return join("HMSET", k, pairs)
	case 5:
		return join("HSETNX", k, l.member(), l.val())
	case 6, 7:
		return join("HDEL", k, l.vals(20, l.member))
	case 8, 9:
		return join("HINCRBY", k, "n"+l.num(5), l.integer())
	}
	return join("HINCRBYFLOAT", k, "f"+l.num(5), l.pick("0.1 1.5 -0.25 3 1e2 2.675"))
}

func (l *load) zsets() []string {
	k := l.key("z")
	switch l.IntN(22) {
	case 0, 1, 2, 3:
		return join("ZADD", k, l.maybe(8, l.pick("NX XX GT LT")), l.maybe(6, "CH"), l.score(), l.member(), l.maybe(2, l.score(), l.member()))
	case 4:
		var pairs []string
		for range 1 + l.IntN(200) {
			pairs = append(pairs, l.score(), l.member())
		}
		return join("ZADD", k, pairs)
	case 5:
		return join("ZADD", k, "INCR", l.score(), l.member())
	case 6, 7:
		return join("ZINCRBY", k, l.score(), l.member())
	case 8, 9:
		return join("ZREM", k, l.vals(10, l.member))
	case 10, 11:
		return join(l.pick("ZPOPMIN ZPOPMAX"), k, l.maybe(2, l.num(10)))
	case 12:
		return join("ZMPOP", "2", k, l.key("z"), l.pick("MIN MAX"), "COUNT", l.pick("1 2 30"))
	case 13:
		return join("ZREMRANGEBYRANK", k, l.pick("0 5 -20"), l.pick("1 6 -15"))
	case 14:
		return join("ZREMRANGEBYSCORE", k, "("+l.pick("2 8 100"), l.pick("300 (90 200"))
	case 15:
		// On keys of its own: ranges by name mean something only where all scores are equal.
		x := "x" + l.num(5)
		if l.IntN(3) != 0 {
			return join("ZADD", x, "0", l.member(), "0", l.member(), "0", l.member())
		}
		return join("ZREMRANGEBYLEX", x, l.pick("[m1 - (m3"), l.pick("(m12 + [m5"))
	case 16:
		return join("ZRANGESTORE", l.key("z"), k, l.pick("0 1 -100"), l.pick("-1 50"), l.maybe(2, "REV"))
	case 17:
		return join("ZRANGESTORE", l.key("z"), k, l.pick("-inf 0 (10"), l.pick("+inf 500"), "BYSCORE", l.maybe(2, "LIMIT", "1", "30"))
	case 18:
		return join("ZDIFFSTORE", l.key("z"), "2", k, l.key(l.pick("z t")))
	}
	return join(l.pick("ZUNIONSTORE ZINTERSTORE"), l.key("z"), "2", k, l.key(l.pick("z t i")),
		l.maybe(2, "WEIGHTS", l.pick("1 2 0.5 3"), l.pick("1 2 0.5 3")), l.maybe(2, "AGGREGATE", l.pick("SUM MIN MAX")))
}

func (l *load) expiries() []string {
	k := l.anyKey()
	switch l.IntN(9) {
	case 0, 1:
		return join("PEXPIRE", k, l.ttl(), l.maybe(3, l.pick("NX XX GT LT")))
	case 2:
		if l.durable {
			return join("EXPIRE", k, "50000")
		}
		// Soon, or not while the test runs: what goes in between moves a master's
		// offset on for minutes.
		return join("EXPIRE", k, l.pick("-1 1 2 10000 20000"))
	case 3:
		return join("PEXPIREAT", k, l.at(1), l.maybe(3, l.pick("NX XX GT LT")))
	case 4:
		return join("EXPIREAT", k, l.at(1000))
	case 5:
		return join("GETEX", l.key("s"), "PXAT", l.at(1))
	}
	return join("PERSIST", k)
}

func (l *load) keys() []string {
	k := l.anyKey()
	switch l.IntN(24) {
	case 0, 1, 2:
		return join(l.pick("DEL UNLINK"), l.vals(3, l.anyKey))
	case 3, 4, 5:
		return join(l.pick("RENAME RENAMENX"), k, k[:1]+l.num(keysOf))
	case 6, 7, 8:
		return join("COPY", k, k[:1]+l.num(keysOf), l.maybe(3, "DB", l.num(5)), l.maybe(2, "REPLACE"))
	case 9, 10, 11:
		return join("MOVE", k, l.num(5))
	case 12, 13, 14, 15:
		l.db = l.IntN(4)
		if l.IntN(20) == 0 {
			l.db = l.IntN(databases)
		}
		return join("SELECT", strconv.Itoa(l.db))
	case 16:
		if l.IntN(4) == 0 {
			return join("SWAPDB", l.num(4), l.num(6))
		}
	case 17:
		if l.IntN(25) == 0 {
			return join("FLUSHDB", l.maybe(2, l.pick("ASYNC SYNC")))
		}
		if l.IntN(40) == 0 && !l.noFlush {
			return join("FLUSHALL")
		}
	case 18:
		return join("TOUCH", k)
	case 19:
		return join("RANDOMKEY")
	case 20:
		return join("OBJECT", "ENCODING", k)
	}
	return join("EXISTS", k, l.anyKey())
}
