package command

import (
	"slices"
	"strconv"
	"testing"
)

// waiter is a client that waits, and what it is answered.
type waiter struct {
	te *testEngine
	*Client
}

// block makes a new client wait in a command, or fails the test.
func (te *testEngine) block(args ...string) waiter {
	te.t.Helper()
	cl := te.NewClient(uint64(len(args)))
	if got := te.as(cl, args...); got != "" || cl.Blocked() == nil {
		te.t.Fatalf("%q does not block but replies %q", args, got)
	}
	return waiter{te, cl}
}

// got tells what the client was answered; "" while it waits.
func (w waiter) got(want string) {
	w.te.t.Helper()
	if string(w.Buf) != want {
		w.te.t.Errorf("the client got %q, want %q", w.Buf, want)
	}
	if (w.Blocked() == nil) != (want != "") {
		w.te.t.Errorf("blocked: %v", w.Blocked() != nil)
	}
}

// propagated compares the stream since the last call.
func (te *testEngine) propagated(want ...string) {
	te.t.Helper()
	got := te.stream()
	if len(got) > 0 {
		got[0] = trimSelect(got[0])
	}
	if !slices.Equal(got, want) {
		te.t.Errorf("propagated %q, want %q", got, want)
	}
}

func trimSelect(s string) string {
	const first = "SELECT 0 MULTI "
	if len(s) > len(first) && s[:len(first)] == first {
		return s[len(first) : len(s)-len(" EXEC")]
	}
	if len(s) > len("SELECT 0 ") && s[:len("SELECT 0 ")] == "SELECT 0 " {
		return s[len("SELECT 0 "):]
	}
	return s
}

func TestBlockedClientsAreServedInTheOrderInWhichTheyCame(t *testing.T) {
	te := newTestEngine(t, 1)
	first := te.block("BLPOP", "other", "l", "0")
	second := te.block("BRPOP", "l", "0")
	third := te.block("BLPOP", "l", "0")
	te.want(":2", "RPUSH", "l", "a", "b")
	first.got("*2\r\n$1\r\nl\r\n$1\r\na\r\n")
	second.got("*2\r\n$1\r\nl\r\n$1\r\nb\r\n")
	third.got("")
	te.want(":0", "EXISTS", "l")
	te.propagated("RPUSH l a b", "LPOP l", "RPOP l")
	if te.Dirty != 2 {
		t.Errorf("%d changes, want the 2 of RPUSH", te.Dirty)
	}
	if !slices.Equal(te.host.resumed, []*Client{first.Client, second.Client}) {
		t.Errorf("resumed %d clients, want the two in order", len(te.host.resumed))
	}
}

func TestServedClientsArePropagatedAsCommandsThatDoNotBlock(t *testing.T) {
	for _, c := range []struct {
		blocked, push []string
		reply, as     string
	}{
		{[]string{"BLMPOP", "0", "2", "x", "k", "RIGHT", "COUNT", "5"}, []string{"RPUSH", "k", "1", "2", "3"},
			"*2\r\n$1\r\nk\r\n*3\r\n$1\r\n3\r\n$1\r\n2\r\n$1\r\n1\r\n", "RPOP k 3"},
		{[]string{"BLMOVE", "k", "d", "RIGHT", "LEFT", "0"}, []string{"RPUSH", "k", "1", "2"}, "$1\r\n2\r\n", "LMOVE k d right left"},
		{[]string{"BRPOPLPUSH", "k", "k", "0"}, []string{"RPUSH", "k", "1", "2"}, "$1\r\n2\r\n", "RPOPLPUSH k k"},
		{[]string{"BZPOPMIN", "k", "0"}, []string{"ZADD", "k", "1.5", "a", "2", "b"}, "*3\r\n$1\r\nk\r\n$1\r\na\r\n$3\r\n1.5\r\n", "ZPOPMIN k"},
		{[]string{"BZPOPMAX", "k", "0"}, []string{"ZADD", "k", "1.5", "a", "2", "b"}, "*3\r\n$1\r\nk\r\n$1\r\nb\r\n$1\r\n2\r\n", "ZPOPMAX k"},
		{[]string{"BZMPOP", "0", "1", "k", "MAX", "COUNT", "2"}, []string{"ZADD", "k", "1.5", "a", "2", "b"},
			"*2\r\n$1\r\nk\r\n*2\r\n*2\r\n$1\r\nb\r\n$1\r\n2\r\n*2\r\n$1\r\na\r\n$3\r\n1.5\r\n", "ZPOPMAX k 2"},
	} {
		te := newTestEngine(t, 1)
		w := te.block(c.blocked...)
		te.do(c.push...)
		w.got(c.reply)
		push := c.push[0]
		for _, a := range c.push[1:] {
			push += " " + a
		}
		te.propagated(push, c.as)
	}
}

func TestBlockingCommandsThatFindSomethingArePropagatedWithoutBlocking(t *testing.T) {
	te := newTestEngine(t, 1)
	te.do("RPUSH", "l", "a", "b", "c", "d", "e")
	te.do("ZADD", "z", "1", "a", "2", "b", "3", "c")
	te.stream()
	te.do("BLPOP", "l", "0")
	te.do("BLMOVE", "l", "l", "LEFT", "RIGHT", "0")
	te.do("BRPOPLPUSH", "l", "d", "0")
	te.do("BLMPOP", "0", "1", "l", "LEFT", "COUNT", "9")
	te.do("BZPOPMAX", "z", "0")
	te.do("BZMPOP", "0", "1", "z", "MIN", "COUNT", "9")
	te.do("BLPOP", "l", "0.001")
	te.propagated("LPOP l", "LMOVE l l left right", "RPOPLPUSH l d", "LPOP l 3", "ZPOPMAX z", "ZPOPMIN z 2")
}

func TestServedClientMayServeAnother(t *testing.T) {
	te := newTestEngine(t, 1)
	last := te.block("BLPOP", "y", "0")
	mover := te.block("BLMOVE", "x", "y", "LEFT", "LEFT", "0")
	te.do("LPUSH", "x", "v")
	mover.got("$1\r\nv\r\n")
	last.got("*2\r\n$1\r\ny\r\n$1\r\nv\r\n")
	te.propagated("LPUSH x v", "LMOVE x y left left", "LPOP y")
}

func TestBlockedClientWaitsForAKeyOfItsType(t *testing.T) {
	te := newTestEngine(t, 1)
	list := te.block("BLPOP", "k", "0")
	zset := te.block("BZPOPMIN", "k", "0")
	te.do("SADD", "k", "m")
	te.do("DEL", "k")
	te.do("ZADD", "k", "1", "m", "2", "n")
	list.got("")
	zset.got("*3\r\n$1\r\nk\r\n$1\r\nm\r\n$1\r\n1\r\n")
	te.do("RENAME", "k", "other")
	te.do("RPUSH", "tmp", "v")
	te.do("RENAME", "tmp", "k")
	list.got("*2\r\n$1\r\nk\r\n$1\r\nv\r\n")
}

func TestMoveToAKeyOfAnotherTypeFailsTheServedClientOnly(t *testing.T) {
	te := newTestEngine(t, 1)
	te.do("SET", "s", "x")
	bad := te.block("BLMOVE", "l", "s", "LEFT", "LEFT", "0")
	good := te.block("BLPOP", "l", "0")
	te.stream()
	te.do("RPUSH", "l", "1")
	bad.got("-" + ErrWrongType + "\r\n")
	good.got("*2\r\n$1\r\nl\r\n$1\r\n1\r\n")
	te.propagated("RPUSH l 1", "LPOP l")
}

func TestTransactionServesBlockedClientsWhenItEnds(t *testing.T) {
	te := newTestEngine(t, 1)
	w := te.block("BLPOP", "l", "0")
	te.do("MULTI")
	te.do("RPUSH", "l", "a")
	te.do("DEL", "l")
	te.do("EXEC")
	w.got("")
	te.do("MULTI")
	te.do("LPUSH", "l", "a")
	te.do("LPUSH", "l", "b")
	te.do("EXEC")
	w.got("*2\r\n$1\r\nl\r\n$1\r\nb\r\n")
}

func TestBlockedClientTimesOut(t *testing.T) {
	te := newTestEngine(t, 1)
	long := te.block("BLPOP", "l", "10")
	short := te.block("BLMOVE", "l", "d", "LEFT", "LEFT", "0.0001")
	forever := te.block("BZPOPMIN", "z", "0")
	beyond := te.block("BLPOP", "l", "9223372036854775")
	if got, want := te.NextDeadlineMs(), te.NowMs+1; got != want {
		t.Fatalf("next deadline %d, want %d: a timeout is rounded up", got, want)
	}
	te.BeginBatch((te.NowMs + 1) * 1000)
	te.CheckTimeouts()
	short.got("*-1\r\n")
	long.got("")
	te.BeginBatch((te.NowMs + 10000) * 1000)
	te.CheckTimeouts()
	long.got("*-1\r\n")
	forever.got("")
	beyond.got("")
	if te.NextDeadlineMs() != 0 {
		t.Errorf("a deadline is left")
	}
}

func TestBlockingTimeoutIsChecked(t *testing.T) {
	te := newTestEngine(t, 1)
	for timeout, want := range map[string]string{
		"x":                  "ERR timeout is not a float or out of range",
		" 1":                 "ERR timeout is not a float or out of range",
		"":                   "ERR timeout is not a float or out of range",
		"nan":                "ERR timeout is not a float or out of range",
		"1e5000":             "ERR timeout is not a float or out of range",
		"-1":                 "ERR timeout is negative",
		"-0.002":             "ERR timeout is negative",
		"inf":                "ERR timeout is negative",
		"1e300":              "ERR timeout is negative",
		"9223372036854775.9": "ERR timeout is negative",
		"9223372036854776":   "ERR timeout is negative",
	} {
		te.want("-"+want, "BLPOP", "l", timeout)
		te.want("-"+want, "BZMPOP", timeout, "1", "z", "MIN")
		te.want("-"+want, "BRPOPLPUSH", "l", "l", timeout)
	}
	te.want("-ERR syntax error", "BLMOVE", "l", "l", "LEFT", "UP", "x")
	te.want("-ERR numkeys should be greater than 0", "BLMPOP", "x", "0", "l", "LEFT")
}

func TestClientUnblockEndsABlockingCommand(t *testing.T) {
	te := newTestEngine(t, 1)
	a, b := te.block("BLPOP", "l", "0"), te.block("BZPOPMIN", "l", "0")
	te.Unblock(a.Client, false)
	te.Unblock(b.Client, true)
	a.got("*-1\r\n")
	b.got("-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n")
	te.want(":1", "RPUSH", "l", "v")
	te.want(":1", "LLEN", "l")
}

func TestTransactionBeginsBehindItsSelect(t *testing.T) {
	te := newTestEngine(t, 1)
	te.do("SET", "a", "1")
	te.do("SELECT", "3")
	te.do("MULTI")
	te.do("SET", "a", "1")
	te.do("SELECT", "5")
	te.do("SET", "b", "2")
	te.do("EXEC")
	te.do("SET", "b", "3")
	te.Reselect() // a replica begins anew
	te.do("SET", "b", "4")
	te.do("SET", "b", "5")
	te.propagated("SET a 1", "SELECT 3 MULTI SET a 1 SELECT 5 SET b 2 EXEC", "SET b 3", "SELECT 5 SET b 4", "SET b 5")
}

// What expires before a waiting client is served is deleted there and then, and
// the client goes on waiting.
func TestExpiredKeyServesNobody(t *testing.T) {
	te := newTestEngine(t, 1)
	w := te.block("BLPOP", "l", "0")

	te.do("MULTI")
	te.do("RPUSH", "l", "a")
	te.do("PEXPIREAT", "l", strconv.FormatInt(te.NowMs+100, 10))
	for range 20 {
		te.do("GET", "other")
	}
	te.SetActiveExpire(false)
	te.Clock = func() func() int64 {
		now := int64(0)
		return func() int64 { now += 10e6; return now } // each command takes 10 ms
	}()
	reply := te.do("EXEC")
	w.got("")
	got := te.stream()
	if len(got) != 2 || got[1] != "DEL l" || te.Stat.ExpiredKeys != 1 {
		t.Errorf("EXEC replied %q, propagated %q, %d expired", reply, got, te.Stat.ExpiredKeys)
	}
}

// The counters of Redis: a call fails when it ends with an error, and whenever
// CLIENT UNBLOCK ends it, but not when its time is over.
func TestEndOfWaitingIsCounted(t *testing.T) {
	te := newTestEngine(t, 1)
	stats := func(name string) (calls, failed int64) {
		st := te.Table.Lookup([]byte(name)).Stats()
		return st.Calls, st.Failed
	}
	te.Unblock(te.block("BLPOP", "l", "0").Client, true)
	te.Unblock(te.block("BLPOP", "l", "0").Client, false)
	te.block("BLPOP", "l", "0.001")
	te.BeginBatch((te.NowMs + 2) * 1000)
	te.CheckTimeouts()
	if calls, failed := stats("blpop"); calls != 3 || failed != 2 {
		t.Errorf("BLPOP: %d calls, %d failed", calls, failed)
	}
	te.do("SET", "s", "x")
	w := te.block("BRPOPLPUSH", "l", "s", "0")
	te.do("RPUSH", "l", "a")
	w.got("-" + ErrWrongType + "\r\n")
	if calls, failed := stats("brpoplpush"); calls != 1 || failed != 1 {
		t.Errorf("BRPOPLPUSH: %d calls, %d failed", calls, failed)
	}
}
