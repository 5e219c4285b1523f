package command

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"holdfast/internal/redis/cluster"
	"holdfast/internal/redis/cluster/slot"
	"holdfast/internal/redis/config"
	"holdfast/internal/redis/keyspace"
)

// slotsOf is the set of the slots of some keys.
func slotsOf(keys ...string) *slot.Set {
	s := new(slot.Set)
	for _, k := range keys {
		s.Add(slot.OfString(k))
	}
	return s
}

// waits executes a command of a new client that has to wait.
func (te *testEngine) waits(args ...string) *Client {
	te.t.Helper()
	cl := te.NewClient(2)
	te.waitsAs(cl, args...)
	return cl
}

func (te *testEngine) waitsAs(cl *Client, args ...string) {
	te.t.Helper()
	if got := te.as(cl, args...); got != "" || cl.Blocked() == nil {
		te.t.Fatalf("%q does not wait: %q", args, got)
	}
}

// replied fails unless the client got this reply since it waited, and waits no more.
func (te *testEngine) replied(cl *Client, want string) {
	te.t.Helper()
	if got := string(cl.Buf); got != strings.ReplaceAll(want, "\n", "\r\n")+"\r\n" || cl.Blocked() != nil || cl.Has(FlagBlocked) {
		te.t.Errorf("got %q (waits: %v), want %q", got, cl.Blocked() != nil, want)
	}
}

func TestHeldSlotsMakeWritesWait(t *testing.T) {
	te, v := clusterEngine(t)
	te.do("SET", keyA, "1")
	te.HoldSlots(slotsOf(keyA), false)
	te.stream()
	te.want("$1\n1", "GET", keyA)
	te.want("+OK", "SET", "{bar1}", "other slot")
	first := te.waits("APPEND", keyA, "2")
	te.waitsAs(te.NewClient(3), "FLUSHALL")
	te.waitsAs(te.NewClient(3), "FLUSHDB", "ASYNC")
	second := te.waits("APPEND", keyA, "3")
	many := te.waits("DEL", keyA2, "{bar}3")
	pop := te.waits("BLPOP", keyA2, "5")
	exec := te.NewClient(4)
	te.as(exec, "MULTI")
	te.as(exec, "GET", keyA)
	te.as(exec, "APPEND", keyA, "4")
	te.waitsAs(exec, "EXEC")
	reader := te.NewClient(5)
	te.as(reader, "MULTI")
	te.as(reader, "GET", keyA)
	if got := te.as(reader, "EXEC"); got != "*1\r\n$1\r\n1\r\n" {
		t.Errorf("an EXEC that reads: %q", got)
	}
	if n := te.Unblock(first, false); n {
		t.Error("CLIENT UNBLOCK ended the wait for a slot")
	}
	if got := te.stream(); len(got) != 1 {
		t.Errorf("propagated while held: %q", got)
	}
	// Reads too: also those that nobody can tell from writes any more.
	te.HoldSlots(slotsOf(keyA), true)
	get := te.waits("GET", keyA)
	te.waitsAs(reader, "WATCH", keyA)
	te.want("$10\nother slot", "GET", "{bar1}")
	te.want("+OK", "UNWATCH")

	// Another slot is released: nobody of these goes on.
	te.HoldSlots(slotsOf("{bar1}"), false)
	te.ReleaseSlots(slotsOf("{bar1}"))
	if te.Stat.Blocked != 9 {
		t.Errorf("%d wait, want 9", te.Stat.Blocked)
	}
	te.ReleaseSlots(slotsOf(keyA))
	// In order: FLUSHALL came between the two APPENDs.
	te.replied(first, ":2")
	te.replied(second, ":1")
	te.replied(many, ":0")
	te.replied(exec, "*2\n$1\n3\n:2")
	te.replied(get, "$2\n34")
	te.replied(reader, "+OK")
	if pop.Blocked() == nil || te.NextDeadlineMs() != te.NowMs+5000 {
		t.Error("BLPOP does not wait for its key")
	}
	te.want(":1", "RPUSH", keyA2, "x")
	te.replied(pop, "*2\n$6\n{bar}2\n$1\nx")
	if te.hold != nil || te.Stat.Blocked != 0 {
		t.Errorf("%d wait still", te.Stat.Blocked)
	}

	// Routed anew.
	te.HoldSlots(slotsOf(keyA), true)
	set := te.waits("SET", keyA, "x")
	te.as(exec, "MULTI")
	te.as(exec, "SET", keyA, "x")
	te.waitsAs(exec, "EXEC")
	flush := te.waits("FLUSHALL")
	te.changed(v, func(w *cluster.View) { w.SetOwner(5061, 5061, v.Nodes[1]) })
	te.ReleaseSlots(slotsOf(keyA))
	te.replied(set, "-MOVED 5061 127.0.0.2:7001")
	te.replied(exec, "-MOVED 5061 127.0.0.2:7001")
	te.replied(flush, "+OK")
	if exec.Has(FlagMulti) {
		t.Error("the transaction that was sent away is still open")
	}
}

func TestRefusedSlotsLetNobodyWait(t *testing.T) {
	te, _ := clusterEngine(t)
	const down = "-CLUSTERDOWN Hash slot not served"
	te.HoldSlots(slotsOf(keyA, "{bar1}"), true)
	set := te.waits("SET", keyA, "1")
	get := te.waits("GET", keyA)
	other := te.waits("SET", "{bar1}", "1")
	flush := te.waits("FLUSHALL")
	exec := te.NewClient(4)
	te.as(exec, "MULTI")
	te.as(exec, "SET", keyA, "x")
	te.waitsAs(exec, "EXEC")
	te.RefuseSlots(slotsOf(keyA), true)
	te.replied(set, down)
	te.replied(get, down)
	te.replied(flush, down)
	te.replied(exec, down)
	if exec.Has(FlagMulti) || other.Blocked() == nil {
		t.Error("a refused transaction is open still, or who waits for another slot went on")
	}
	te.want(down, "SET", keyA, "1")
	te.want(down, "FLUSHALL")
	te.want(down, "MGET", keyA, keyA2)
	te.want("+OK", "MULTI")
	te.want(down, "GET", keyA)
	te.want("-EXECABORT Transaction discarded because of previous errors.", "EXEC")
	te.RefuseSlots(slotsOf(keyA), false)
	set = te.waits("SET", keyA, "1")
	te.RefuseSlots(slotsOf(keyA), true)
	te.replied(set, down)
	te.ReleaseSlots(slotsOf(keyA))
	te.want("+OK", "SET", keyA, "1")
	if other.Blocked() == nil {
		t.Error("a slot was released with another one")
	}
	te.ReleaseSlots(slotsOf("{bar1}"))
	te.replied(other, "+OK")
	if te.hold != nil || !te.mine.Has(5061) {
		t.Error("something is held still")
	}
}

// A command that releases slots is not interrupted by those who waited.
func TestSlotsReleasedByACommandGoOnAfterIt(t *testing.T) {
	te, _ := clusterEngine(t)
	te.HoldSlots(slotsOf(keyA), false)
	a, gone := te.waits("APPEND", keyA, "a"), te.waits("APPEND", keyA, "b")
	te.callDepth++ // as if in a command
	te.ReleaseSlots(slotsOf(keyA))
	te.callDepth--
	if a.Blocked() == nil || te.NextDeadlineMs() != te.NowMs {
		t.Fatal("not woken for at once")
	}
	te.Release(gone)
	te.CheckTimeouts()
	te.replied(a, ":1")
	if te.Stat.Blocked != 0 {
		t.Errorf("%d wait still", te.Stat.Blocked)
	}
}

// Clients that come, wait and go leave nothing behind.
func TestWaitingForSlotsForgetsThoseWhoWent(t *testing.T) {
	te, _ := clusterEngine(t)
	te.HoldSlots(slotsOf(keyA), false)
	stays := te.waits("APPEND", keyA, "a")
	for range 5000 {
		te.Release(te.waits("APPEND", keyA, "b"))
	}
	if n := len(te.hold.waiting); n > 200 {
		t.Errorf("%d in the queue, of whom one is there", n)
	}
	te.ReleaseSlots(slotsOf(keyA))
	te.replied(stays, ":1")
}

// What was told to the new owner stays as it is: an expired key is gone for
// readers, and is not deleted.
func TestHeldSlotsNeitherExpireNorAreEvicted(t *testing.T) {
	te, _ := clusterEngine(t)
	te.do("SET", keyA, "v", "PX", "5")
	te.do("SET", "{bar1}", "v", "PX", "5")
	te.HoldSlots(slotsOf(keyA), false)
	te.stream()
	te.BeginBatch(te.NowUs + 10_000)
	te.want("$-1", "GET", keyA)
	te.ActiveExpire(1 << 40)
	if got := te.stream(); len(got) != 1 || got[0] != "DEL {bar1}" {
		t.Errorf("propagated %q", got)
	}
	te.Cfg.MaxMemory, te.Cfg.MaxMemoryPolicy = 1, config.AllKeysRandom
	te.want("-OOM command not allowed when used memory > 'maxmemory'.", "SET", "{bar1}", "v")
	te.Cfg.MaxMemory = 0
	te.ReleaseSlots(slotsOf(keyA))
	te.want("$-1", "GET", keyA)
	if got := te.stream(); len(got) != 1 || got[0] != "DEL "+keyA {
		t.Errorf("propagated %q", got)
	}
}

// MIGRATE that has sent a key off does not delete it while its slot is held.
func TestMigrationWaitsForHeldSlots(t *testing.T) {
	te, _ := clusterEngine(t)
	x := &testTransfers{target: newTestEngine(t, 2)}
	te.Transfer = x
	te.do("SET", keyA, "v")
	cl := te.waits("MIGRATE", "h", "1", keyA, "0", "100")
	te.HoldSlots(slotsOf(keyA), false)
	te.stream()
	x.arrive()
	te.CheckTimeouts()
	if len(te.stream()) != 0 || cl.Blocked() == nil {
		t.Error("the key was deleted while its slot was held")
	}
	te.ReleaseSlots(slotsOf(keyA))
	te.replied(cl, "+OK")
	if got := te.stream(); len(got) != 1 {
		t.Errorf("propagated %q", got)
	}
}

// importer is a client that brings keys of slots which are not ours yet.
func (te *testEngine) importer() *Client {
	cl := te.NewClient(99)
	cl.Flags |= FlagImport
	return cl
}

func TestImportIsNotRoutedAndExpiresNothing(t *testing.T) {
	te, _ := clusterEngine(t)
	im := te.importer()
	te.StageSlots(slotsOf(keyB))
	if got := te.as(im, "SET", keyB, "v"); got != "+OK\r\n" {
		t.Fatal(got)
	}
	_, payload, _ := strings.Cut(te.as(im, "DUMP", keyB), "\r\n")
	payload = strings.TrimSuffix(payload, "\r\n")
	te.stream()
	// A time that is over here may not be at the owner, and is his to tell.
	if got := te.as(im, "RESTORE", keyB, "1000", payload, "REPLACE", "ABSTTL"); got != "+OK\r\n" {
		t.Fatal(got)
	}
	te.as(im, "SET", "{foo}2", "v")
	te.as(im, "PEXPIREAT", "{foo}2", "2000")
	if got := te.as(im, "APPEND", keyB, "w"); got != ":2\r\n" {
		t.Error(got)
	}
	if got := te.as(im, "PEXPIRETIME", "{foo}2"); got != ":2000\r\n" {
		t.Error(got)
	}
	te.ActiveExpire(1 << 40)
	got := te.stream()
	if len(got) != 4 || !strings.HasPrefix(got[0], "RESTORE foo 1000 ") || got[2] != "PEXPIREAT {foo}2 2000" || got[3] != "APPEND foo w" {
		t.Errorf("propagated %q", got)
	}
	te.Cfg.MaxMemory = 1
	if got := te.as(im, "SET", keyB, "v"); !strings.HasPrefix(got, "-OOM") {
		t.Errorf("without memory: %q", got)
	}
	te.Cfg.MaxMemory = 0
	te.want("-MOVED 12182 127.0.0.2:7001", "GET", keyB)
	// They are ours, and are dead.
	te.UnstageSlots(slotsOf(keyB))
	te.ActiveExpire(1 << 40)
	if te.KS.DB(0).Len() != 0 {
		t.Errorf("%d keys left", te.KS.DB(0).Len())
	}
}

func TestStagedKeysAreHidden(t *testing.T) {
	te, _ := clusterEngine(t)
	im := te.importer()
	for i := range 300 {
		te.as(im, "SET", fmt.Sprint("{foo}", i), "v")
	}
	te.do("SET", keyA, "v")
	hidden := func() {
		t.Helper()
		te.want("*1\n$3\nbar", "KEYS", "*")
		te.want(":1", "DBSIZE")
		for range 20 {
			te.want("$3\nbar", "RANDOMKEY")
		}
		te.want("*2\n$1\n0\n*1\n$3\nbar", "SCAN", "0", "COUNT", "10000")
		if got := te.as(im, "DBSIZE"); got != ":301\r\n" {
			t.Errorf("the importer counts %q", got)
		}
		if got := te.as(im, "KEYS", "*"); !strings.HasPrefix(got, "*301\r\n") {
			t.Errorf("the importer finds %.10q", got)
		}
	}
	te.StageSlots(slotsOf(keyB))
	hidden()
	te.UnstageSlots(slotsOf(keyB))
	te.want(":301", "DBSIZE")
	te.QueueDrop(slotsOf(keyB))
	hidden()
	if te.VisibleLen(te.KS.DB(0)) != 1 || te.VisibleLen(te.KS.DB(1)) != 0 {
		t.Errorf("%d keys visible", te.VisibleLen(te.KS.DB(0)))
	}
	te.StageSlots(slotsOf(keyA)) // nothing is left to be seen
	te.want("$-1", "RANDOMKEY")
	te.want(":0", "DBSIZE")
}

func TestStagedKeysAreNotEvicted(t *testing.T) {
	for _, policy := range []config.MaxMemoryPolicy{config.AllKeysRandom, config.AllKeysLRU, config.VolatileTTL, config.VolatileRandom, config.AllKeysLFU} {
		te, _ := clusterEngine(t)
		im := te.importer()
		for i := range 200 {
			te.as(im, "SET", fmt.Sprint("{foo}", i), "v", "PX", "5000")
			te.do("SET", fmt.Sprint("{bar}", i), "v", "PX", "50000")
		}
		te.StageSlots(slotsOf(keyB))
		te.Cfg.MaxMemory, te.Cfg.MaxMemoryPolicy = 1, policy
		for range 20 {
			te.do("SET", keyA, "v", "PX", "1")
		}
		if ours, staged := te.KS.CountKeysInSlot(5061), te.KS.CountKeysInSlot(12182); ours > 5 || staged != 200 {
			t.Errorf("%v: %d of our keys and %d staged ones are left", policy, ours, staged)
		}
	}
}

func TestSlotsAreDroppedInSteps(t *testing.T) {
	te, v := clusterEngine(t)
	im := te.importer()
	fill := func() {
		for i := range 500 {
			te.as(im, "SET", fmt.Sprint("{foo}", i), "v")
			te.as(im, "SET", fmt.Sprint("{foo5}", i), "v")
		}
	}
	fill()
	te.do("SET", keyA, "v")
	te.as(im, "WATCH", "{foo}7")
	te.stream()
	te.QueueDrop(slotsOf("foo", "foo5"))
	steps, deleted := 0, 0
	for more := true; more; steps++ {
		more = te.DropStep(100)
		n := 0
		for _, u := range te.stream() {
			keys := strings.Fields(u)
			if keys[0] != "UNLINK" || len(keys) > 65 {
				t.Fatalf("propagated %q", u)
			}
			n += len(keys) - 1
		}
		if n > 100 || te.KS.DB(0).Len() != 1001-deleted-n {
			t.Fatalf("%d deleted in a step, %d keys are left", n, te.KS.DB(0).Len())
		}
		deleted += n
	}
	if steps != 10 || deleted != 1000 || !im.Has(FlagDirtyCAS) || te.hidden != nil || te.DropStep(1) {
		t.Errorf("%d deleted in %d steps; watch noticed: %v", deleted, steps, im.Has(FlagDirtyCAS))
	}
	im.Flags &^= FlagDirtyCAS

	// A slot comes back, or keys of it are to arrive: first it is emptied.
	for name, again := range map[string]func(){
		"ours":      func() { te.changed(v, func(w *cluster.View) { w.SetOwner(12182, 12182, v.Nodes[0]) }) },
		"importing": func() { te.changed(v, func(w *cluster.View) { w.SetImporting(12182, v.Nodes[1]) }) },
		"staged":    func() { te.StageSlots(slotsOf(keyB)) },
	} {
		te.SetView(v)
		te.UnstageSlots(slotsOf(keyB))
		fill()
		te.QueueDrop(slotsOf("foo", "foo5"))
		te.DropStep(100)
		again()
		if te.KS.CountKeysInSlot(12182) != 0 || te.Dropping().String() != slotsOf("foo5").String() {
			t.Errorf("%s: %d keys left; dropping %s", name, te.KS.CountKeysInSlot(12182), te.Dropping())
		}
		te.as(im, "SET", "{foo}new", "v")
		for te.DropStep(1000) {
		}
		if te.KS.CountKeysInSlot(12182) != 1 || te.KS.DB(0).Len() != 2 {
			t.Errorf("%s: %d keys in the slot, %d in all", name, te.KS.CountKeysInSlot(12182), te.KS.DB(0).Len())
		}
		te.DropNow(slotsOf(keyB))
	}

	// What a replica has is its master's to delete.
	te.SetView(v)
	te.UnstageSlots(slotsOf(keyB))
	for te.DropStep(1000) {
	}
	fill()
	te.QueueDrop(slotsOf("foo"))
	te.State.IsReplica = true
	te.stream()
	if te.DropStep(1000) || !te.Dropping().Empty() || te.KS.CountKeysInSlot(12182) != 500 || te.hidden != nil {
		t.Error("a replica dropped keys")
	}
}

// --- a snapshot of slots makes the same keys at another engine ---

// importInto executes the commands of a snapshot at another engine.
type importInto struct {
	te *testEngine
	cl *Client
}

func (x *importInto) Command(args ...[]byte) {
	x.cl.Buf = x.cl.Buf[:0]
	x.te.Dispatch(x.cl, args)
	if len(x.cl.Buf) == 0 || x.cl.Buf[0] == '-' {
		x.te.t.Fatalf("%.100q: %q", bytes.Join(args, []byte(" ")), x.cl.Buf)
	}
}

// contentOf describes the keys of slots, with value and expiry, whatever the
// encodings.
func (te *testEngine) contentOf(slots *slot.Set) map[string]string {
	all := map[string]string{}
	im := te.importer()
	ask := func(args ...string) []string { return words(te.as(im, args...)) }
	te.KS.DB(0).Each(func(r keyspace.Ref) bool {
		if slots.Has(slot.Of(r.Key())) {
			all[string(r.Key())] = ""
		}
		return true
	})
	for key := range all {
		typ := strings.TrimSpace(te.as(im, "TYPE", key))
		var v []string
		switch typ {
		case "+string":
			v = ask("GET", key)
		case "+list":
			v = ask("LRANGE", key, "0", "-1")
		case "+set":
			v = ask("SMEMBERS", key)
			slices.Sort(v)
		case "+zset":
			v = ask("ZRANGE", key, "0", "-1", "WITHSCORES")
		case "+hash":
			h := ask("HGETALL", key)
			for i := 0; i < len(h); i += 2 {
				v = append(v, h[i]+"="+h[i+1])
			}
			slices.Sort(v)
		}
		all[key] = fmt.Sprintf("%s %s %q", typ, strings.TrimSpace(te.as(im, "PEXPIRETIME", key)), v)
	}
	return all
}

// disturb executes a random command on one of keys.
func (te *testEngine) disturb(cl *Client, rng *rand.Rand, keys int) {
	name := func() string {
		n := rng.IntN(keys)
		if n%2 == 0 {
			return fmt.Sprint("{bar}", n)
		}
		return fmt.Sprint("{foo}", n)
	}
	key, n := name(), func() string { return fmt.Sprint(rng.IntN(500)) }
	list := func(cmd string, each int) []string {
		args := []string{cmd, key}
		for range 1 + rng.IntN(60) {
			for range each {
				args = append(args, n())
			}
		}
		return args
	}
	commands := [][]string{
		{"SET", key, n()}, {"SET", key, strings.Repeat(n(), 40_000)}, {"APPEND", key, n()}, {"INCR", key}, {"SETRANGE", key, "70000", n()},
		{"DEL", key}, {"UNLINK", key}, {"PEXPIREAT", key, "4000000000000"}, {"PERSIST", key}, {"RENAME", key, name()}, {"COPY", key, name()},
		list("RPUSH", 1), list("LPUSH", 1), {"LPOP", key, n()}, {"LTRIM", key, "3", "-3"},
		list("SADD", 1), list("SREM", 1), {"SPOP", key}, list("HSET", 2), list("HDEL", 1),
		list("ZADD", 2), list("ZREM", 1), {"ZPOPMIN", key}, {"ZINCRBY", key, "0.1", n()},
	}
	args := commands[rng.IntN(len(commands))]
	if rng.IntN(1000) == 0 {
		args = []string{"FLUSHALL"}
	}
	te.as(cl, args...)
}

func TestSlotSnapshotMakesTheSameKeysElsewhere(t *testing.T) {
	seeds := uint64(8)
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		rng := rand.New(rand.NewPCG(seed, 5))
		te, _ := clusterEngine(t)
		te.KS.Limits().HashMaxListpackEntries, te.KS.Limits().ZsetMaxListpackEntries = 16, 16
		cl := te.importer() // of any slot
		for range 3000 {
			te.disturb(cl, rng, 100)
		}
		slots := slotsOf("foo")
		for _, abort := range []bool{true, false} {
			to, _ := clusterEngine(t)
			to.StageSlots(slots)
			want := te.contentOf(slots)
			s := te.KS.BeginSlotSnapshot(slots, &importInto{to, to.importer()})
			for i := 0; !s.Step(1 + rng.IntN(20)); i++ {
				for range rng.IntN(10) {
					te.disturb(cl, rng, 100)
				}
				if abort && i == 5 {
					s.Abort()
					break
				}
			}
			if abort {
				continue
			}
			to.UnstageSlots(slots)
			got := to.contentOf(slots)
			if to.KS.DB(0).Len() != len(want) || len(want) == 0 {
				t.Errorf("%d keys arrived, %d were there", to.KS.DB(0).Len(), len(want))
			}
			for k, v := range want {
				if got[k] != v {
					t.Errorf("key %q: got %.100s, want %.100s", k, got[k], v)
				}
			}
		}
	}
}

// One-key requests cost nothing more while nothing is held, staged or dropped,
// and allocate nothing while another slot is.
func TestHeldSlotsCostOthersNoAllocation(t *testing.T) {
	te, _ := clusterEngine(t)
	get, set := [][]byte{B("GET"), B("{bar1}")}, [][]byte{B("SET"), B("{bar1}"), B("w")}
	te.do("SET", "{bar1}", "v")
	sink := &testSink{units: make([]string, 0, 1)}
	te.Stream = countSink{sink}
	for _, c := range []struct {
		name  string
		begin func()
	}{
		{"nothing", func() {}},
		{"held", func() { te.HoldSlots(slotsOf(keyA), true) }},
		{"staged", func() { te.StageSlots(slotsOf(keyB)) }},
		{"dropped", func() { te.QueueDrop(slotsOf("foo5")) }},
	} {
		c.begin()
		if n := testing.AllocsPerRun(100, func() {
			for range 20 {
				te.cl.Buf = te.cl.Buf[:0]
				te.Dispatch(te.cl, get)
				te.Dispatch(te.cl, set)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
	}
}

// countSink forgets what it gets.
type countSink struct{ *testSink }

func (s countSink) AppendUnit(p []byte) uint64 {
	s.end += uint64(len(p))
	return s.end
}
