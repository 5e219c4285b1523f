package command

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"holdfast/internal/redis/resp"
)

// testTransfers is a shell whose targets are engines of the same test; async
// transfers end when the test says so.
type testTransfers struct {
	target  *testEngine
	pending []func()
	seen    []*Transfer
	fail    TransferFailure
	failAt  int // keys that are acknowledged before fail
}

func (x *testTransfers) Now(t *Transfer) TransferResult {
	x.seen = append(x.seen, t)
	r := TransferResult{}
	if x.fail == TransferNotConnected || x.fail == TransferNotWritten {
		r.Failure = x.fail
		return r
	}
	var p resp.Parser
	p.MaxBulk = 1 << 30
	for buf := t.Commands; len(buf) > 0; {
		n, err := p.Next(buf)
		if err != nil || n == 0 {
			panic(fmt.Sprint("bad command: ", err))
		}
		if x.fail != TransferNoFailure && len(r.Acked) == x.failAt {
			r.Failure = x.fail
			return r
		}
		cl := x.target.NewClient(9)
		x.target.Dispatch(cl, p.Args)
		text, bad := strings.CutPrefix(strings.TrimSpace(string(cl.Buf)), "-")
		r.Acked = append(r.Acked, !bad)
		if bad && r.TargetError == "" {
			r.TargetError = text
		}
		buf = buf[n:]
	}
	return r
}

func (x *testTransfers) Begin(t *Transfer, done func(TransferResult)) {
	x.pending = append(x.pending, func() { done(x.Now(t)) })
}

// arrive ends the pending transfers.
func (x *testTransfers) arrive() {
	todo := x.pending
	x.pending = nil
	for _, fn := range todo {
		fn()
	}
}

func migrateEngine(t *testing.T) (*testEngine, *testTransfers) {
	t.Helper()
	te := newTestEngine(t, 1)
	x := &testTransfers{target: newTestEngine(t, 2)}
	te.Transfer = x
	return te, x
}

// migrate executes MIGRATE to its end, and returns the reply.
func (te *testEngine) migrate(x *testTransfers, args ...string) string {
	te.t.Helper()
	cl := te.NewClient(7)
	got := te.as(cl, append([]string{"MIGRATE", "h", "1"}, args...)...)
	if cl.Blocked() != nil && got != "" {
		te.t.Errorf("%q replies %q and blocks", args, got)
	}
	x.arrive()
	return strings.TrimSpace(string(cl.Buf))
}

func TestMigrateMovesKeys(t *testing.T) {
	te, x := migrateEngine(t)
	te.do("SET", "s", "v", "PX", "5000")
	te.do("RPUSH", "l", "a", "b")
	te.do("WATCH", "s")
	te.stream()
	if got := te.migrate(x, "", "3", "100", "KEYS", "s", "none", "l"); got != "+OK" {
		t.Fatalf("got %q", got)
	}
	if got := te.stream(); fmt.Sprint(got) != "[DEL s l]" || !te.cl.Has(FlagDirtyCAS) {
		t.Errorf("propagated %q; watch noticed: %v", got, te.cl.Has(FlagDirtyCAS))
	}
	if n := te.KS.DB(0).Len(); n != 0 || te.Migrating() != 0 || te.Stat.Blocked != 0 {
		t.Errorf("%d keys left, %d held, %d blocked", n, te.Migrating(), te.Stat.Blocked)
	}
	x.target.want(":5000", "PTTL", "s")
	x.target.want("*2\n$1\na\n$1\nb", "LRANGE", "l", "0", "-1")
	tr := x.seen[0]
	if tr.Host != "h" || tr.Port != "1" || tr.DB != 3 || tr.Timeout != 100*time.Millisecond || tr.Keys != 2 {
		t.Errorf("transfer %+v", tr)
	}
	if !strings.Contains(string(tr.Commands), "\r\n$7\r\nRESTORE\r\n") {
		t.Errorf("commands %q", tr.Commands)
	}
	te.Cfg.ClusterEnabled = true
	te.do("SET", "k", "v")
	te.migrate(x, "k", "0", "0")
	if tr = x.seen[1]; !strings.Contains(string(tr.Commands), "RESTORE-ASKING") || tr.Timeout != time.Second {
		t.Errorf("in cluster mode: %q, timeout %v", tr.Commands, tr.Timeout)
	}
}

func TestMigrateOptions(t *testing.T) {
	te, x := migrateEngine(t)
	te.do("SET", "k", "new")
	x.target.do("SET", "k", "old")
	te.stream()
	if got := te.migrate(x, "k", "0", "10"); got != "-ERR Target instance replied with error: BUSYKEY Target key name already exists." {
		t.Errorf("without REPLACE: %q", got)
	}
	if got := te.migrate(x, "k", "0", "10", "COPY", "REPLACE"); got != "+OK" || len(te.stream()) != 0 {
		t.Errorf("COPY REPLACE: %q", got)
	}
	x.target.want("$3\nnew", "GET", "k")
	te.want("$3\nnew", "GET", "k")
	te.migrate(x, "k", "0", "10", "replace", "auth", "secret")
	te.want("$-1", "GET", "k")
	if got := x.seen[len(x.seen)-1].Auth; len(got) != 1 || got[0] != "secret" {
		t.Errorf("AUTH: %q", got)
	}
	te.do("SET", "k", "v")
	te.Cfg.SlowlogLogSlowerThan = 0
	te.migrate(x, "", "0", "10", "REPLACE", "AUTH2", "user", "secret", "KEYS", "k")
	if got := x.seen[len(x.seen)-1].Auth; fmt.Sprint(got) != "[user secret]" {
		t.Errorf("AUTH2: %q", got)
	}
	for _, s := range te.Slow.Entries {
		if strings.Contains(string(fmt.Sprintf("%q", s.Args)), "secret") {
			t.Errorf("the slow log has %q", s.Args)
		}
	}
}

func TestMigrateRefusesBadArguments(t *testing.T) {
	te, x := migrateEngine(t)
	te.do("SET", "k", "v")
	for _, row := range [][2]string{
		{"k 0 10 NOSUCH", "-ERR syntax error"},
		{"k 0 10 AUTH", "-ERR syntax error"},
		{"k 0 10 AUTH2 u", "-ERR syntax error"},
		{"k 0 10 KEYS k", "-ERR When using MIGRATE KEYS option, the key argument must be set to the empty string"},
		{"k x 10", "-ERR value is not an integer or out of range"},
		{"k 0 x", "-ERR value is not an integer or out of range"},
		{"none 0 10", "+NOKEY"},
	} {
		if got := te.migrate(x, strings.Fields(row[0])...); got != row[1] {
			t.Errorf("%s: %q, want %q", row[0], got, row[1])
		}
	}
	if got := te.migrate(x, "", "0", "10", "KEYS"); got != "+NOKEY" {
		t.Errorf("no keys: %q", got)
	}
	if len(x.seen) != 0 || te.KS.DB(0).Len() != 1 {
		t.Error("something was sent")
	}
}

func TestMigrateKeepsWhatTheTargetHasNotAcknowledged(t *testing.T) {
	for fail, text := range map[TransferFailure]string{
		TransferNotConnected: "-IOERR error or timeout connecting to the client",
		TransferNotWritten:   "-IOERR error or timeout writing to target instance",
		TransferNotRead:      "-IOERR error or timeout reading to target instance",
	} {
		te, x := migrateEngine(t)
		te.do("MSET", "a", "1", "b", "2")
		te.stream()
		x.fail, x.failAt = fail, 1
		if got := te.migrate(x, "", "0", "10", "KEYS", "a", "b"); got != text {
			t.Errorf("got %q, want %q", got, text)
		}
		want, left := "[]", 2
		if fail == TransferNotRead {
			want, left = "[DEL a]", 1
		}
		if got := fmt.Sprint(te.stream()); got != want || te.KS.DB(0).Len() != left {
			t.Errorf("%q: propagated %s, %d keys left", text, got, te.KS.DB(0).Len())
		}
	}
}

// Readers and writers of other keys go on; writers of the keys on their way
// wait, and find them gone.
func TestWritersWaitForMigratingKeys(t *testing.T) {
	te, x := migrateEngine(t)
	te.do("MSET", "a", "1", "b", "2", "other", "3")
	te.stream()
	mover := te.NewClient(2)
	te.as(mover, "MIGRATE", "h", "1", "", "0", "10", "KEYS", "a", "b")
	if mover.Blocked() == nil || te.Migrating() != 2 {
		t.Fatal("MIGRATE does not wait")
	}
	te.want("$1\n1", "GET", "a")
	te.want(":4", "INCR", "other")
	te.stream()
	wait := func(args ...string) *Client {
		t.Helper()
		cl := te.NewClient(3)
		if got := te.as(cl, args...); got != "" || cl.Blocked() == nil {
			t.Fatalf("%q does not wait: %q", args, got)
		}
		return cl
	}
	incr := wait("INCR", "a")
	pop := wait("BLPOP", "x", "b", "0")
	second := wait("MIGRATE", "h", "1", "a", "0", "10")
	closed := wait("SET", "b", "x")
	te.Release(closed)
	tx := te.NewClient(4)
	te.as(tx, "MULTI")
	te.as(tx, "GET", "a")
	te.as(tx, "APPEND", "b", "z")
	if got := te.as(tx, "EXEC"); got != "" {
		t.Fatalf("EXEC does not wait: %q", got)
	}
	if te.Unblock(incr, true) || te.Unblock(mover, false) {
		t.Error("CLIENT UNBLOCK breaks off what must end")
	}
	x.arrive()
	for cl, want := range map[*Client]string{mover: "+OK\r\n", incr: ":1\r\n", pop: "", closed: "", tx: "*2\r\n$1\r\n1\r\n:1\r\n"} {
		if string(cl.Buf) != want {
			t.Errorf("got %q, want %q", cl.Buf, want)
		}
	}
	// The order was kept: the second MIGRATE found what INCR had made.
	if got := fmt.Sprint(te.stream()); got != "[DEL a b INCR a APPEND b z]" {
		t.Errorf("propagated %s", got)
	}
	if second.Blocked() == nil {
		t.Error("the second MIGRATE is over before it was sent")
	}
	te.want(":1", "DEL", "other")
	x.arrive()
	if got := string(second.Buf); !strings.Contains(got, "BUSYKEY") {
		t.Errorf("second MIGRATE: %q", got)
	}
	te.as(te.NewClient(5), "RPUSH", "b", "no list")
	if pop.Blocked() == nil || te.Stat.Blocked != 1 || te.Migrating() != 0 {
		t.Errorf("%d blocked, %d held", te.Stat.Blocked, te.Migrating())
	}
}

// What cannot wait is noticed: the new value goes after the old one.
func TestKeyChangedOnItsWayIsSentAgain(t *testing.T) {
	te, x := migrateEngine(t)
	te.do("RPUSH", "{q}dst", "one")
	waiter := te.NewClient(2)
	te.as(waiter, "BLMOVE", "{q}src", "{q}dst", "LEFT", "RIGHT", "0")
	mover := te.NewClient(3)
	te.as(mover, "MIGRATE", "h", "1", "{q}dst", "0", "10")
	te.want(":1", "RPUSH", "{q}src", "two") // serves the waiter, who writes to dst
	te.stream()
	x.arrive()
	if got := string(mover.Buf); got != "+OK\r\n" {
		t.Errorf("got %q", got)
	}
	x.target.want("*2\n$3\none\n$3\ntwo", "LRANGE", "{q}dst", "0", "-1")
	if got := fmt.Sprint(te.stream()); got != "[DEL {q}dst]" || te.KS.DB(0).Len() != 0 {
		t.Errorf("propagated %s, %d keys left", got, te.KS.DB(0).Len())
	}

	for name, vanish := range map[string]func(){
		"FLUSHALL": func() { te.do("FLUSHALL") },
		"expiry": func() {
			te.BeginBatch(te.NowUs + 2000)
			te.do("GET", "k")
		},
	} {
		te.do("SET", "k", "v", "PX", "1")
		te.as(mover, "MIGRATE", "h", "1", "k", "0", "10", "REPLACE")
		vanish()
		te.stream()
		x.arrive()
		if got := te.stream(); string(mover.Buf) != "+OK\r\n" || len(got) != 0 {
			t.Errorf("%s: %q, propagated %q", name, mover.Buf, got)
		}
	}
}

func TestMigrateInsideExecWaitsForNobody(t *testing.T) {
	te, x := migrateEngine(t)
	te.do("SET", "k", "v")
	te.do("MULTI")
	te.do("MIGRATE", "h", "1", "k", "0", "10")
	te.do("SET", "other", "v")
	te.stream()
	te.want("*2\n+OK\n+OK", "EXEC")
	if got := fmt.Sprint(te.stream()); !strings.Contains(got, "DEL k SET other v") || len(x.pending) != 0 {
		t.Errorf("propagated %s", got)
	}
}

// The end of the stream must not move while writes are paused, and a replica
// deletes nothing.
func TestMigrateEndsAfterAPauseAndNotOnAReplica(t *testing.T) {
	te, x := migrateEngine(t)
	te.do("SET", "k", "v")
	te.stream()
	cl := te.NewClient(2)
	te.as(cl, "MIGRATE", "h", "1", "k", "0", "10")
	writer := te.NewClient(3)
	te.as(writer, "SET", "k", "w")
	te.State.PauseUntilMs, te.State.PauseWrites = te.NowMs+1000, true
	x.arrive()
	if len(te.stream()) != 0 || cl.Blocked() == nil {
		t.Fatal("a paused server has deleted a key")
	}
	te.BeginBatch(te.NowUs + 1_000_001)
	te.State.PauseUntilMs = 0
	te.CheckTimeouts()
	if got := fmt.Sprint(te.stream()); got != "[DEL k SET k w]" || string(cl.Buf) != "+OK\r\n" || string(writer.Buf) != "+OK\r\n" {
		t.Errorf("propagated %s, replies %q %q", got, cl.Buf, writer.Buf)
	}

	te.as(cl, "MIGRATE", "h", "1", "k", "0", "10", "REPLACE")
	te.State.IsReplica, te.State.ReadOnly = true, true
	te.as(writer, "SET", "other", "w")
	x.arrive()
	if got := string(cl.Buf); !strings.HasPrefix(got, "-UNBLOCKED") {
		t.Errorf("on a replica: %q", got)
	}
	if _, ok := te.KS.DB(0).Find([]byte("k")); !ok || len(te.stream()) != 0 {
		t.Error("a replica has deleted a key")
	}
}

func TestKeysOfMigrate(t *testing.T) {
	te, _ := migrateEngine(t)
	te.want("*1\n$1\nk", "COMMAND", "GETKEYS", "MIGRATE", "h", "1", "k", "0", "10")
	te.want("*2\n$1\na\n$1\nb", "COMMAND", "GETKEYS", "MIGRATE", "h", "1", "", "0", "10", "COPY", "KEYS", "a", "b")
}

// The slot of a MIGRATE is open, or its own node's.
func TestMigrateIsRoutedByItsKeys(t *testing.T) {
	te, v := clusterEngine(t)
	te.want("-MOVED 12182 127.0.0.2:7001", "MIGRATE", "h", "1", keyB, "0", "10")
	te.want("-CROSSSLOT Keys in request don't hash to the same slot", "MIGRATE", "h", "1", "", "0", "10", "KEYS", keyA, keyB)
	open := *v
	open.SetMigrating(5061, v.Nodes[1])
	open.SetImporting(12182, v.Nodes[1])
	te.SetView(&open)
	te.want("+NOKEY", "MIGRATE", "h", "1", keyA, "0", "10")
	te.want("+NOKEY", "MIGRATE", "h", "1", keyB, "0", "10")
}
