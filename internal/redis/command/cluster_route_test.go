package command

import (
	"fmt"
	"strings"
	"testing"

	"holdfast/internal/redis/cluster"
	"holdfast/internal/redis/cluster/slot"
)

// clusterEngine is a test engine that is node a of three: a and b are masters
// with half of the slots each, r is a's replica. Slot 16383 has no owner.
func clusterEngine(t testing.TB) (*testEngine, *cluster.View) {
	t.Helper()
	testBySlot = true
	te := newTestEngine(t, 1)
	testBySlot = false
	te.Cfg.ClusterEnabled = true
	a := &cluster.NodeView{ID: strings.Repeat("a", 40), Flags: cluster.FlagMaster, IP: "127.0.0.1", Port: 7000}
	b := &cluster.NodeView{ID: strings.Repeat("b", 40), Flags: cluster.FlagMaster, IP: "127.0.0.2", Port: 7001, PlainPrt: 7011, Hostname: "host.b"}
	r := &cluster.NodeView{ID: strings.Repeat("c", 40), Flags: cluster.FlagReplica, IP: "127.0.0.3", Port: 7002, MasterID: a.ID}
	v := &cluster.View{OK: true, Myself: a, Nodes: []*cluster.NodeView{a, b, r}, AllowPubsubShardWhenDown: true}
	v.SetOwner(0, 8191, a)
	v.SetOwner(8192, 16382, b)
	te.SetView(v)
	return te, v
}

// Keys whose slots are those of clusterEngine's nodes.
const (
	keyA, keyA2 = "bar", "{bar}2" // slot 5061, of a
	keyB        = "foo"           // slot 12182, of b
)

var unownedKey = func() string {
	for i := 0; ; i++ {
		if k := fmt.Sprint("k", i); slot.OfString(k) == 16383 {
			return k
		}
	}
}()

// changed gives the engine a changed copy of its view.
func (te *testEngine) changed(v *cluster.View, change func(v *cluster.View)) *cluster.View {
	w := *v
	change(&w)
	te.SetView(&w)
	return &w
}

// Redis Cluster specification: redirection. The texts are those of 7.0.15.
func TestKeysOfOtherNodesAreRedirected(t *testing.T) {
	te, v := clusterEngine(t)
	te.want("+OK", "SET", keyA, "1")
	te.want("-MOVED 12182 127.0.0.2:7001", "GET", keyB)
	te.want("-MOVED 12182 127.0.0.2:7001", "SET", keyB, "1", "EX", "10")
	te.want("-CROSSSLOT Keys in request don't hash to the same slot", "MGET", keyA, keyB)
	te.want("-CROSSSLOT Keys in request don't hash to the same slot", "ZUNION", "2", keyA, keyB)
	te.want("-CROSSSLOT Keys in request don't hash to the same slot", "SORT", keyA, "STORE", keyB)
	te.want("-CLUSTERDOWN Hash slot not served", "GET", unownedKey)
	te.want("-CLUSTERDOWN Hash slot not served", "MGET", unownedKey, keyA)
	te.want("-MOVED 12182 127.0.0.2:7001", "WATCH", keyB)
	te.want("-MOVED 12182 127.0.0.2:7001", "OBJECT", "ENCODING", keyB)
	te.want("*2\n$1\n1\n$-1", "MGET", keyA, keyA2)
	// No keys, or arguments that the command itself refuses.
	te.want(":1", "DBSIZE")
	te.want("-ERR numkeys should be greater than 0", "LMPOP", "0", keyB, "LEFT")
	te.want("-ERR wrong number of arguments for 'get' command", "GET")

	te.changed(v, func(v *cluster.View) { v.TLSCluster = true })
	te.want("-MOVED 12182 127.0.0.2:7011", "GET", keyB)
	te.cl.Flags |= FlagTLS
	te.want("-MOVED 12182 127.0.0.2:7001", "GET", keyB)
	te.changed(v, func(v *cluster.View) { v.Preferred = cluster.EndpointHostname })
	te.want("-MOVED 12182 host.b:7001", "GET", keyB)
	te.changed(v, func(v *cluster.View) { v.Preferred = cluster.EndpointUnknown })
	te.want("-MOVED 12182 :7001", "GET", keyB)
	// Our master's stream and our own replay are obeyed.
	te.cl.Flags |= FlagMaster
	te.do("SET", keyB, "x")
	te.cl.Flags &^= FlagMaster
	if _, ok := te.KS.DB(0).Find([]byte(keyB)); !ok {
		t.Error("what the master sent was not applied")
	}
}

func TestRedirectionsAreCountedAsRejected(t *testing.T) {
	te, _ := clusterEngine(t)
	te.do("GET", keyB)
	st := te.Table.Lookup([]byte("get")).Stats()
	if st.Rejected != 1 || st.Calls != 0 || st.Failed != 0 {
		t.Errorf("stats of GET: %+v", st)
	}
	found := false
	te.Errors(func(code string, n int64) { found = found || code == "MOVED" && n == 1 })
	if !found {
		t.Error("errorstats do not count MOVED")
	}
}

// A slot that leaves: what is still here is served, the rest the target has.
func TestMigratingSlotAsksForMissingKeys(t *testing.T) {
	te, v := clusterEngine(t)
	te.do("SET", keyA, "1")
	te.changed(v, func(w *cluster.View) { w.SetMigrating(5061, v.Nodes[1]) })
	te.want("$1\n1", "GET", keyA)
	te.want("-ASK 5061 127.0.0.2:7001", "GET", keyA2)
	te.want("-ASK 5061 127.0.0.2:7001", "SET", keyA2, "1")
	te.want("-ASK 5061 127.0.0.2:7001", "MGET", keyA2, "{bar}3")
	te.want("-TRYAGAIN Multiple keys request during rehashing of slot", "MGET", keyA, keyA2)
	te.want(":0", "SPUBLISH", keyA2, "m")
	te.want("+OK", "SET", "{bar1}", "1") // another slot of ours
	// An expired key is missing, and is left alone.
	te.do("PEXPIRE", keyA, "1")
	te.stream()
	te.BeginBatch(te.NowUs + 10_000)
	te.want("-ASK 5061 127.0.0.2:7001", "GET", keyA)
	if got := te.stream(); len(got) != 0 {
		t.Errorf("a look for the key was propagated: %q", got)
	}
}

// A slot that comes: served to who was sent by ASK.
func TestImportingSlotServesWhoAsks(t *testing.T) {
	te, v := clusterEngine(t)
	b := v.Nodes[1]
	te.changed(v, func(w *cluster.View) { w.SetImporting(12182, b) })
	te.want("-MOVED 12182 127.0.0.2:7001", "GET", keyB)
	te.want("+OK", "ASKING")
	te.want("$-1", "GET", keyB)
	te.want("-MOVED 12182 127.0.0.2:7001", "GET", keyB) // one command only
	te.do("ASKING")
	te.want("+OK", "SET", keyB, "1")
	te.do("ASKING")
	te.want("-TRYAGAIN Multiple keys request during rehashing of slot", "MGET", keyB, "{foo}2")
	te.do("ASKING")
	te.want("*2\n$1\n1\n$1\n1", "MGET", keyB, keyB)
	te.do("ASKING")
	te.want("*2\n$-1\n$-1", "MGET", "{foo}2", "{foo}2") // the same key twice
	// ASKING lasts through a transaction.
	te.do("ASKING")
	te.want("+OK", "MULTI")
	te.want("+QUEUED", "GET", keyB)
	te.want("+QUEUED", "SET", keyB, "2")
	te.want("*2\n$1\n1\n+OK", "EXEC")
	te.want("-MOVED 12182 127.0.0.2:7001", "GET", keyB)
	// RESTORE-ASKING asks by itself.
	te.do("ASKING")
	payload := te.do("DUMP", keyB)
	payload = payload[strings.Index(payload, "\r\n")+2 : len(payload)-2]
	te.want("+OK", "RESTORE-ASKING", "{foo}3", "0", payload)
	te.want("-MOVED 12182 127.0.0.2:7001", "RESTORE", "{foo}4", "0", payload)
	// An unknown command ends ASKING as well.
	te.do("ASKING")
	te.do("NOSUCH")
	te.want("-MOVED 12182 127.0.0.2:7001", "GET", keyB)
}

func TestDownClusterServesWhatIsAllowed(t *testing.T) {
	te, v := clusterEngine(t)
	te.do("SET", keyA, "1")
	down := te.changed(v, func(v *cluster.View) { v.OK = false })
	te.want("-CLUSTERDOWN The cluster is down", "GET", keyA)
	te.want("-CLUSTERDOWN The cluster is down", "GET", keyB)
	te.want(":0", "SPUBLISH", keyA, "m")
	te.want(":1", "DBSIZE")
	te.changed(down, func(v *cluster.View) { v.AllowPubsubShardWhenDown = false })
	te.want("-CLUSTERDOWN The cluster is down", "SPUBLISH", keyA, "m")
	te.changed(down, func(v *cluster.View) { v.AllowReadsWhenDown = true })
	te.want("$1\n1", "GET", keyA)
	te.want("-MOVED 12182 127.0.0.2:7001", "GET", keyB)
	te.want("-CLUSTERDOWN The cluster is down and only accepts read commands", "SET", keyA, "2")
}

func TestReplicaRedirectsAllButReadonlyReads(t *testing.T) {
	te, v := clusterEngine(t)
	te.do("SET", keyA, "1")
	a, r := v.Nodes[0], v.Nodes[2]
	te.changed(v, func(v *cluster.View) { v.Myself, v.MyMaster = r, a })
	te.want("-MOVED 5061 127.0.0.1:7000", "GET", keyA)
	te.want("+OK", "READONLY")
	te.want("$1\n1", "GET", keyA)
	te.want("-MOVED 5061 127.0.0.1:7000", "SET", keyA, "2")
	te.want("-MOVED 12182 127.0.0.2:7001", "GET", keyB)
	te.want("+OK", "MULTI")
	te.want("+QUEUED", "GET", keyA)
	te.want("*1\n$1\n1", "EXEC")
	te.want("+OK", "READWRITE")
	te.want("-MOVED 5061 127.0.0.1:7000", "GET", keyA)
	// Sharded channels of its shard are served in any case.
	te.want("*3\n$10\nssubscribe\n$3\nbar\n:1", "SSUBSCRIBE", keyA)
	te.want("-MOVED 12182 127.0.0.2:7001", "SSUBSCRIBE", keyB)
}

// A refused command makes EXEC fail; an EXEC that is redirected itself, because
// the slot left meanwhile, says where to.
func TestTransactionsAreRoutedAsOne(t *testing.T) {
	te, v := clusterEngine(t)
	te.want("+OK", "MULTI")
	te.want("+QUEUED", "SET", keyA, "1")
	te.want("-MOVED 12182 127.0.0.2:7001", "SET", keyB, "1")
	te.want("-EXECABORT Transaction discarded because of previous errors.", "EXEC")

	te.do("MULTI")
	te.do("SET", keyA, "1")
	te.do("SET", "{bar1}", "1")
	te.want("-CROSSSLOT Keys in request don't hash to the same slot", "EXEC")
	te.want("-ERR EXEC without MULTI", "EXEC")

	te.do("MULTI")
	te.do("SET", keyA, "1")
	te.changed(v, func(w *cluster.View) { w.SetOwner(5061, 5061, v.Nodes[1]) })
	te.want("-MOVED 5061 127.0.0.2:7001", "EXEC")
	te.want("-ERR EXEC without MULTI", "EXEC")
	if te.KS.DB(0).Len() != 0 {
		t.Error("a redirected transaction changed something")
	}
	te.do("MULTI")
	te.want("+QUEUED", "DBSIZE")
	te.want("*1\n:0", "EXEC")
}

func TestBlockedClientsAreSentAwayWithTheirSlot(t *testing.T) {
	te, v := clusterEngine(t)
	block := func(args ...string) *Client {
		t.Helper()
		cl := te.NewClient(2)
		if got := te.as(cl, args...); got != "" || cl.Blocked() == nil {
			t.Fatalf("%q does not block: %q", args, got)
		}
		return cl
	}
	gone := func(cl *Client, want string) {
		t.Helper()
		if got := strings.TrimSuffix(string(cl.Buf), "\r\n"); got != want || (cl.Blocked() == nil) != (want != "") {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	one := block("BLPOP", keyA, keyA2, "0")
	other := block("BZPOPMIN", "{bar1}", "0")
	te.changed(v, func(w *cluster.View) { w.SetOwner(5061, 5061, v.Nodes[1]) })
	gone(one, "-MOVED 5061 127.0.0.2:7001")
	gone(other, "")
	te.changed(v, func(w *cluster.View) { w.SetOwner(0, 8191, nil) })
	gone(other, "-CLUSTERDOWN Hash slot not served")

	te.SetView(v)
	one = block("BLMOVE", keyA, keyA2, "LEFT", "LEFT", "5")
	te.changed(v, func(w *cluster.View) { w.SetMigrating(5061, v.Nodes[1]) })
	gone(one, "") // the source serves until the slot is gone
	te.changed(v, func(w *cluster.View) { w.OK = false })
	gone(one, "-CLUSTERDOWN The cluster is down")
	if te.Stat.Blocked != 0 || te.NextDeadlineMs() != 0 {
		t.Errorf("%d still blocked", te.Stat.Blocked)
	}
}

// 7.0.15 sends the module notification alone: clients see no event.
func TestDroppedSlotIsDeletedOnReplicasToo(t *testing.T) {
	te, _ := clusterEngine(t)
	want := map[string]bool{}
	for i := range 300 {
		k := fmt.Sprintf("{bar}%d", i)
		te.do("SET", k, "v")
		want[k] = true
	}
	te.do("SET", "{bar1}", "stays")
	te.do("WATCH", "{bar}7")
	te.stream()
	before := te.Dirty
	if n := te.DropSlot(5061); n != 300 || te.KS.DB(0).Len() != 1 || te.Dirty-before != 300 {
		t.Errorf("%d dropped, %d keys left, dirty by %d", n, te.KS.DB(0).Len(), te.Dirty-before)
	}
	for _, u := range te.stream() {
		keys := strings.Fields(u)
		if keys[0] != "DEL" || len(keys) > 65 {
			t.Errorf("propagated %q", u)
		}
		for _, k := range keys[1:] {
			if !want[k] {
				t.Errorf("%q was propagated twice or for nothing", k)
			}
			delete(want, k)
		}
	}
	if len(want) != 0 || !te.cl.Has(FlagDirtyCAS) {
		t.Errorf("%d deletions not propagated; watch noticed: %v", len(want), te.cl.Has(FlagDirtyCAS))
	}
}

// As 7.0.15 answers.
func TestTransactionsCannotSubscribeToShardChannels(t *testing.T) {
	te, _ := clusterEngine(t)
	te.do("MULTI")
	te.do("SSUBSCRIBE", keyA)
	te.do("SUNSUBSCRIBE", keyA)
	te.want("*2\n-ERR SSUBSCRIBE isn't allowed for a DENY BLOCKING client\n*3\n$12\nsunsubscribe\n$3\nbar\n:0", "EXEC")
}

func TestShardChannelsGoWithTheirSlot(t *testing.T) {
	te, _ := clusterEngine(t)
	te.do("SSUBSCRIBE", keyA, keyA2)
	te.do("SSUBSCRIBE", "{bar1}")
	te.cl.Buf = nil
	te.DropShardChannels([]int{5061, 12182})
	got := string(te.cl.Buf)
	if strings.Count(got, "sunsubscribe") != 2 || !strings.Contains(got, ":1\r\n") || !strings.Contains(got, ":2\r\n") || strings.Contains(got, "bar1") {
		t.Errorf("got %q", got)
	}
	if n := te.Deliver([]byte("{bar1}"), []byte("m"), true); n != 1 {
		t.Errorf("message for a channel that stays went to %d", n)
	}
}

func TestPublishGoesToTheBusInsteadOfTheReplicas(t *testing.T) {
	te, _ := clusterEngine(t)
	var got []string
	te.OnPublish = func(ch, msg []byte, sharded bool) { got = append(got, fmt.Sprintf("%s %s %v", ch, msg, sharded)) }
	te.do("PUBLISH", keyB, "m1")
	te.do("SPUBLISH", keyA, "m2")
	if fmt.Sprint(got) != "[foo m1 false bar m2 true]" || len(te.stream()) != 0 {
		t.Errorf("bus got %q", got)
	}
}

func TestRoutingDoesNotAllocate(t *testing.T) {
	te, v := clusterEngine(t)
	te.do("SET", keyA, "1")
	get := [][]byte{[]byte("GET"), []byte(keyA)}
	mget := [][]byte{[]byte("MGET"), []byte(keyA), []byte(keyA2)}
	moving := *v
	moving.SetMigrating(1, v.Nodes[1])
	for _, view := range []*cluster.View{v, &moving} {
		te.SetView(view)
		for _, args := range [][][]byte{get, mget} {
			if n := testing.AllocsPerRun(100, func() {
				te.cl.Buf = te.cl.Buf[:0]
				te.Dispatch(te.cl, args)
			}); n != 0 {
				t.Errorf("%s allocates %v times", args[0], n)
			}
		}
	}
}

func BenchmarkDispatchGet(b *testing.B) {
	for _, on := range []bool{false, true} {
		b.Run(fmt.Sprintf("cluster-enabled=%v", on), func(b *testing.B) {
			te, _ := clusterEngine(b)
			if !on {
				te = newTestEngine(b, 1)
			}
			args := [][]byte{[]byte("GET"), []byte("{bar}key:00000001")}
			te.do("SET", string(args[1]), "value")
			b.ReportAllocs()
			for b.Loop() {
				te.cl.Buf = te.cl.Buf[:0]
				te.Dispatch(te.cl, args)
			}
		})
	}
}
