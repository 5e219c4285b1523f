package ops

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast/internal/redis/cluster/slot"
)

func nodesOn(hosts ...string) (out []string) {
	for i, h := range hosts {
		out = append(out, fmt.Sprintf("%s:%d", h, 7000+i))
	}
	return out
}

// TestPlanShardsKeepsReplicasOffTheirMastersHost, as far as the hosts allow it,
// and never one host with a majority of the masters that need not.
func TestPlanShardsKeepsReplicasOffTheirMastersHost(t *testing.T) {
	for _, c := range []struct {
		name     string
		hosts    string
		replicas int
		shared   int // replicas on their master's host that cannot be avoided
		most     int // masters on one host
	}{
		{"three hosts, two each", "a a b b c c", 1, 0, 1},
		{"three hosts, given in turn", "a b c a b c", 1, 0, 1},
		{"two hosts", "a a a b b b", 1, 0, 2},
		{"two hosts, uneven", "a a a a b b", 1, 1, 2},
		{"one host", "a a a a a a", 1, 3, 3},
		{"three hosts, two replicas", "a a a b b b c c c", 2, 0, 1},
		{"one big host", "a a a b c d", 1, 0, 2},
		{"six hosts", "a b c d e f", 1, 0, 1},
		{"no replicas", "a a b", 0, 0, 2},
		{"one too many", "a b c a b c a", 1, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			addrs := nodesOn(strings.Fields(c.hosts)...)
			shards, err := planShards(addrs, c.replicas)
			if err != nil {
				t.Fatal(err)
			}
			if got := sharedHosts(addrs, shards); got > c.shared {
				t.Errorf("%d replicas on their master's host, %d would do: %v", got, c.shared, shards)
			}
			host, per := hosts(addrs), map[int]int{}
			for _, s := range shards {
				per[host[s.master]]++
				if per[host[s.master]] > c.most {
					t.Errorf("more than %d masters on one host: %v", c.most, shards)
				}
			}
		})
	}
}

// TestPlanShardsCoversEverySlotOnce and seats every node once, for any number.
func TestPlanShardsCoversEverySlotOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(3, 40).Draw(t, "nodes")
		replicas := rapid.IntRange(0, 3).Draw(t, "replicas")
		var addrs []string
		for i := range n {
			addrs = append(addrs, fmt.Sprintf("%d:%d", rapid.IntRange(0, 5).Draw(t, "host"), 1000+i))
		}
		shards, err := planShards(addrs, replicas)
		if n/(replicas+1) < minMasters {
			if err == nil {
				t.Fatal("too few nodes are accepted")
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		next, seen := 0, map[int]bool{}
		for _, s := range shards {
			if s.from != next || s.to < s.from || len(s.replicas) < replicas {
				t.Fatalf("shard %+v, with slot %d next", s, next)
			}
			next = s.to + 1
			for _, i := range append([]int{s.master}, s.replicas...) {
				if seen[i] {
					t.Fatalf("node %d has two seats", i)
				}
				seen[i] = true
			}
		}
		if next != slot.Count || len(seen) != n {
			t.Fatalf("slots up to %d, %d of %d nodes", next, len(seen), n)
		}
		again, _ := planShards(addrs, replicas)
		if diff := cmp.Diff(fmt.Sprint(shards), fmt.Sprint(again)); diff != "" {
			t.Fatalf("the same nodes, another plan: %s", diff)
		}
	})
}

func TestPlanShardsDividesLikeRedis(t *testing.T) {
	shards, err := planShards(nodesOn("a", "a", "a"), 0)
	if err != nil {
		t.Fatal(err)
	}
	want := "[{0 [] 0 5460} {1 [] 5461 10922} {2 [] 10923 16383}]"
	if got := fmt.Sprint(shards); got != want {
		t.Fatalf("%s, want %s", got, want)
	}
}

func owning(id string, from, n int) holding {
	h := holding{id: id}
	for i := range n {
		h.slots = append(h.slots, from+i)
	}
	return h
}

// moved applies moves to what masters own; each slot must come from its owner.
func moved(t interface{ Fatalf(string, ...any) }, masters []holding, moves []clusterMove) map[string]int {
	owner := map[int]string{}
	count := map[string]int{}
	for _, h := range masters {
		count[h.id] += 0
		for _, s := range h.slots {
			owner[s] = h.id
			count[h.id]++
		}
	}
	for _, m := range moves {
		if owner[m.Slot] != m.From || m.From == m.To {
			t.Fatalf("move %+v of a slot of %s", m, owner[m.Slot])
		}
		owner[m.Slot] = m.To
		count[m.From]--
		count[m.To]++
	}
	return count
}

func TestPlanReshardTakesInProportion(t *testing.T) {
	for _, c := range []struct {
		name   string
		have   []int
		n      int
		expect []int // left
		err    string
	}{
		{"equal", []int{100, 100}, 50, []int{75, 75}, ""},
		{"one to three", []int{100, 300}, 40, []int{90, 270}, ""},
		{"rest to the first", []int{5, 5, 5}, 4, []int{3, 4, 4}, ""},
		{"all of it", []int{3, 4}, 7, []int{0, 0}, ""},
		{"an empty source gives none", []int{0, 10}, 1, []int{0, 9}, ""},
		{"more than there is", []int{3, 4}, 8, nil, "fewer than"},
		{"nothing there", []int{0}, 1, nil, "own no slots"},
		{"none asked for", []int{9}, 0, nil, "1 or more"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var sources []holding
			at := 0
			for i, k := range c.have {
				sources = append(sources, owning(fmt.Sprint("s", i), at, k))
				at += k
			}
			moves, err := planReshard(slices.Clone(sources), "to", c.n)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			left := moved(t, sources, moves)
			for i, want := range c.expect {
				if left[sources[i].id] != want {
					t.Errorf("%s keeps %d, want %d", sources[i].id, left[sources[i].id], want)
				}
			}
		})
	}
}

func TestPlanRebalance(t *testing.T) {
	for _, c := range []struct {
		name    string
		have    []int
		weights []float64
		expect  []int
	}{
		{"level already", []int{5461, 5462, 5461}, []float64{1, 1, 1}, []int{5461, 5462, 5461}},
		{"within the threshold", []int{5400, 5500, 5484}, []float64{1, 1, 1}, []int{5400, 5500, 5484}},
		{"a new one", []int{8192, 8192, 0}, []float64{1, 1, 1}, []int{5462, 5461, 5461}},
		{"by weight", []int{8192, 8192}, []float64{3, 1}, []int{12288, 4096}},
		{"weight 0 empties", []int{100, 16284}, []float64{0, 1}, []int{0, 16384}},
		{"one slot", []int{16384, 0}, []float64{16383, 1}, []int{16383, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var masters []holding
			at := 0
			for i, k := range c.have {
				masters = append(masters, owning(fmt.Sprint("m", i), at, k))
				at += k
			}
			moves, err := planRebalance(slices.Clone(masters), c.weights, 0.02)
			if err != nil {
				t.Fatal(err)
			}
			got := moved(t, masters, moves)
			for i, want := range c.expect {
				if got[masters[i].id] != want {
					t.Errorf("%s has %d, want %d", masters[i].id, got[masters[i].id], want)
				}
			}
		})
	}
	for _, bad := range [][]float64{{0, 0}, {-1, 2}} {
		if _, err := planRebalance([]holding{owning("a", 0, 5), owning("b", 5, 5)}, bad, 0.02); err == nil {
			t.Errorf("weights %v are accepted", bad)
		}
	}
}

// TestPlansMoveEachSlotOnceAndAsFewAsPossible for any holdings and weights.
func TestPlansMoveEachSlotOnceAndAsFewAsPossible(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "masters")
		var masters []holding
		var weights []float64
		at, sum := 0, 0.0
		for i := range n {
			k := rapid.IntRange(0, 300).Draw(t, "slots")
			masters = append(masters, owning(fmt.Sprint("m", i), at, k))
			at += k
			w := float64(rapid.IntRange(0, 5).Draw(t, "weight"))
			weights = append(weights, w)
			sum += w
		}
		if sum == 0 || at == 0 {
			t.Skip("nothing to share")
		}
		moves, err := planRebalance(slices.Clone(masters), slices.Clone(weights), 0)
		if err != nil {
			t.Fatal(err)
		}
		got := moved(t, masters, moves)
		surplus := 0
		for i, m := range masters {
			exact := float64(at) * weights[i] / sum
			if d := float64(got[m.id]) - exact; len(moves) > 0 && (d >= 1 || d <= -1) {
				t.Fatalf("%s has %d, its share is %.2f", m.id, got[m.id], exact)
			}
			if d := len(m.slots) - got[m.id]; d > 0 {
				surplus += d
			}
		}
		if surplus != len(moves) {
			t.Fatalf("%d moves where %d do", len(moves), surplus)
		}
		empty, err := planEmpty(masters[0], slices.Clone(masters[1:]))
		if n == 1 {
			if err == nil && len(masters[0].slots) > 0 {
				t.Fatal("the last master is emptied")
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if left := moved(t, masters, empty)[masters[0].id]; left != 0 {
			t.Fatalf("%d slots stay", left)
		}
	})
}

func TestPlanEmptySpreadsOverAllOthers(t *testing.T) {
	from := owning("x", 0, 90)
	others := []holding{owning("a", 1000, 100), owning("b", 2000, 100), owning("c", 3000, 70)}
	moves, err := planEmpty(from, others)
	if err != nil {
		t.Fatal(err)
	}
	got := moved(t, append([]holding{from}, others...), moves)
	if diff := cmp.Diff(map[string]int{"x": 0, "a": 120, "b": 120, "c": 120}, got); diff != "" {
		t.Fatal(diff)
	}
}

// TestPlanCloseByState: every state that an interrupted or a careless
// administrator may leave, and what closes it. Nodes are a, b and c; z is in no
// cluster.
func TestPlanCloseByState(t *testing.T) {
	type marks = map[string]string
	type keys = map[string]int
	for _, c := range []struct {
		name     string
		o        openSlot
		down     string
		force    bool
		want     string
		wantFail string
	}{
		{name: "target imports, nothing else: roll back",
			o: openSlot{owners: []string{"a"}, importing: marks{"b": "a"}, keys: keys{"a": 3, "b": 0, "c": 0}}, want: "stable b"},
		{name: "both open: finish",
			o: openSlot{owners: []string{"a"}, migrating: marks{"a": "b"}, importing: marks{"b": "a"}, keys: keys{"a": 3, "b": 0, "c": 0}}, want: "finish a>b"},
		{name: "both open, all moved: finish",
			o: openSlot{owners: []string{"a"}, migrating: marks{"a": "b"}, importing: marks{"b": "a"}, keys: keys{"a": 0, "b": 3, "c": 0}}, want: "finish a>b"},
		{name: "the target owns it, the source keeps its mark",
			o: openSlot{owners: []string{"b"}, migrating: marks{"a": "b"}, keys: keys{"a": 0, "b": 3, "c": 0}}, want: "stable a"},
		{name: "source migrates alone, nothing moved: roll back",
			o: openSlot{owners: []string{"a"}, migrating: marks{"a": "b"}, keys: keys{"a": 3, "b": 0, "c": 0}}, want: "stable a"},
		{name: "source migrates alone, keys moved: finish",
			o: openSlot{owners: []string{"a"}, migrating: marks{"a": "b"}, keys: keys{"a": 3, "b": 1, "c": 0}}, want: "finish a>b"},
		{name: "the source failed over and lost its mark: keys go home",
			o: openSlot{owners: []string{"a"}, importing: marks{"b": "x"}, keys: keys{"a": 3, "b": 2, "c": 0}}, want: "gather b>a, stable b"},
		{name: "two import, one has keys, another is the target",
			o:    openSlot{owners: []string{"a"}, migrating: marks{"a": "c"}, importing: marks{"b": "a", "c": "a"}, keys: keys{"a": 3, "b": 2, "c": 1}},
			want: "finish a>c, gather b>c, stable b"},
		{name: "migrates to a node that is gone",
			o: openSlot{owners: []string{"a"}, migrating: marks{"a": "z"}, keys: keys{"a": 3, "b": 0, "c": 0}}, want: "stable a"},
		{name: "migrates to a node that does not answer",
			o:    openSlot{owners: []string{"a"}, migrating: marks{"a": "b"}, keys: keys{"a": 3, "c": 0}},
			down: "b", wantFail: "does not answer and may hold keys"},
		{name: "the same, given up",
			o:    openSlot{owners: []string{"a"}, migrating: marks{"a": "b"}, keys: keys{"a": 3, "c": 0}},
			down: "b", force: true, want: "stable a"},
		{name: "the owner does not answer",
			o:    openSlot{owners: []string{"a"}, importing: marks{"b": "a"}, keys: keys{"b": 1, "c": 0}},
			down: "a", wantFail: "its owner a does not answer"},
		{name: "nobody owns it: who has most keys",
			o: openSlot{keys: keys{"a": 1, "b": 5, "c": 0}, believed: "a"}, want: "assign b, gather a>b, stable a"},
		{name: "nobody owns it, no keys: who is believed to",
			o: openSlot{keys: keys{"a": 0, "b": 0, "c": 0}, believed: "c"}, want: "assign c"},
		{name: "nobody owns it, no keys: who imports it",
			o: openSlot{importing: marks{"b": "a"}, keys: keys{"a": 0, "b": 0, "c": 0}, believed: "c"}, want: "assign b"},
		{name: "two own it: the one with most keys",
			o:    openSlot{owners: []string{"a", "b"}, keys: keys{"a": 1, "b": 5, "c": 0}, epoch: map[string]uint64{"a": 9}},
			want: "disown a>b, assign b, gather a>b, stable a"},
		{name: "two own it, no keys: the higher epoch, as gossip would",
			o:    openSlot{owners: []string{"a", "b"}, keys: keys{"a": 0, "b": 0, "c": 0}, epoch: map[string]uint64{"a": 9, "b": 3}},
			want: "disown b>a, assign a, gather b>a, stable b"},
		{name: "the owner imports what it owns",
			o: openSlot{owners: []string{"a"}, importing: marks{"a": "b"}, keys: keys{"a": 1, "b": 0, "c": 0}}, want: "stable a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			usable := func(id string) bool { return strings.Contains("abc", id) && id != c.down }
			known := func(id string) bool { return strings.Contains("abc", id) }
			steps, err := planClose(c.o, usable, known, c.force)
			if c.wantFail != "" {
				if err == nil || !strings.Contains(err.Error(), c.wantFail) {
					t.Fatalf("error %v, want %q", err, c.wantFail)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range steps {
				switch {
				case s.From == "":
					got = append(got, s.Do+" "+s.To)
				case s.To == "":
					got = append(got, s.Do+" "+s.From)
				default:
					got = append(got, s.Do+" "+s.From+">"+s.To)
				}
			}
			if text := strings.Join(got, ", "); text != c.want {
				t.Fatalf("%s, want %s", text, c.want)
			}
		})
	}
}

func TestParseNodes(t *testing.T) {
	text := "f2be85546445cad68d4ff56cd721a0c802910756 127.0.0.1:27102@37102,host master - 0 1795247828265 4 connected 0 5461-10922\n" +
		"8f0561e4c8eb84962c22e0c7f956e971c7b72942 :7001@17001 myself,master - 0 0 1 connected 1-5460 [7->-f2be85546445cad68d4ff56cd721a0c802910756] [8-<-x]\n" +
		"560593e133324f30a31109e081425388dc288eec ::1:27103@37103,,shard-id=ab slave,fail 8f0561e4c8eb84962c22e0c7f956e971c7b72942 1 2 3 disconnected\n"
	lines, err := parseNodes(text)
	if err != nil {
		t.Fatal(err)
	}
	a, b, c := lines[0], lines[1], lines[2]
	if a.addr() != "127.0.0.1:27102" || a.hostname != "host" || a.epoch != 4 || a.slots.String() != "0,5461-10922" || !a.isMaster() {
		t.Errorf("%+v", a)
	}
	if !b.has("myself") || b.host != "" || b.migrating[7] != a.id || b.importing[8] != "x" {
		t.Errorf("%+v", b)
	}
	if c.addr() != "[::1]:27103" || c.hostname != "" || c.isMaster() || c.master != b.id || !c.has("fail") {
		t.Errorf("%+v", c)
	}
	for _, bad := range []string{"x", "a b c", "id 1.2.3.4 master - 0 0 0 connected", "id h:1@2 master - 0 0 x connected",
		"id h:1@2 master - 0 0 1 connected 16384", "id h:1@2 master - 0 0 1 connected 5-99999", "id h:1@2 master - 0 0 1 connected [5-x]"} {
		if _, err := parseNodes(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func FuzzParseNodes(f *testing.F) {
	f.Add("f2be85546445cad68d4ff56cd721a0c802910756 127.0.0.1:27102@37102,host master - 0 1795247828265 4 connected 0 5461-10922\n")
	f.Add("id :1@2 myself,slave x 0 0 1 connected [7->-y] [8-<-z]\r\n\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		lines, err := parseNodes(text)
		if err != nil {
			return
		}
		for _, l := range lines {
			list := l.slots.list()
			if len(list) != l.slots.Len() || *slotsOf(list) != l.slots {
				t.Fatalf("slots %q", l.slots.String())
			}
			if l.port < 0 || l.port > 65535 {
				t.Fatalf("port %d", l.port)
			}
		}
	})
}

func TestClusterAddr(t *testing.T) {
	for in, want := range map[string]string{
		"127.0.0.1:7000": "127.0.0.1:7000", "7000": "127.0.0.1:7000", ":7000": "127.0.0.1:7000", "[::1]:7000": "[::1]:7000", "::1:7000": "[::1]:7000",
		"host": "", "host:": "", "host:0": "", "host:65536": "", "": "",
	} {
		got, err := ClusterAddr(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
}

// healthyMap is three masters that agree, with a replica of the first.
func healthyMap() *clusterMap {
	ids := []string{"aaaaaaaaaa", "bbbbbbbbbb", "cccccccccc", "dddddddddd"}
	var nodes []*clusterNode
	for i, id := range ids {
		n := &clusterNode{state: "ok", linkUp: true}
		n.id, n.host, n.port, n.epoch, n.flags = id, fmt.Sprintf("10.0.0.%d", i), 7000, uint64(i+1), []string{"master"}
		if i == 3 {
			n.flags, n.master, n.epoch = []string{"slave"}, ids[0], 1
		} else {
			for s := i; s < slot.Count; s += 3 {
				n.slots.Add(s)
			}
		}
		nodes = append(nodes, n)
	}
	for _, n := range nodes {
		n.view = map[string]*nodeLine{}
		for _, o := range nodes {
			l := o.nodeLine
			n.view[o.id] = &l
		}
	}
	return newClusterMap(nodes)
}

// TestJudgeClusterFindsEachProblem, its kind and the verdict.
func TestJudgeClusterFindsEachProblem(t *testing.T) {
	for _, c := range []struct {
		name    string
		damage  func(m *clusterMap, n []*clusterNode)
		kinds   string
		verdict Verdict
		want    int
	}{
		{"healthy", func(*clusterMap, []*clusterNode) {}, "", Healthy, 0},
		{"one replica is not one each", func(*clusterMap, []*clusterNode) {}, "replicas replicas", Degraded, 1},
		{"no owner", func(_ *clusterMap, n []*clusterNode) {
			n[0].slots.Del(0)
			for _, x := range n {
				x.view[n[0].id].slots.Del(0)
			}
		}, "uncovered", Down, 0},
		{"two owners", func(_ *clusterMap, n []*clusterNode) { n[1].slots.Add(0) }, "owners", Degraded, 0},
		{"open", func(_ *clusterMap, n []*clusterNode) { n[0].migrating = map[int]string{0: "x"} }, "open", Degraded, 0},
		{"a view differs", func(_ *clusterMap, n []*clusterNode) {
			n[2].view[n[0].id].slots.Del(3)
			n[2].view[n[1].id].slots.Add(3)
		}, "disagree", Degraded, 0},
		{"a replica sees another role", func(_ *clusterMap, n []*clusterNode) { n[3].view[n[1].id].flags = []string{"slave"} }, "disagree", Degraded, 0},
		{"a member is not known", func(_ *clusterMap, n []*clusterNode) { delete(n[1].view, n[3].id) }, "unknown", Degraded, 0},
		{"an old epoch", func(_ *clusterMap, n []*clusterNode) { n[1].view[n[0].id].epoch = 0 }, "epoch", Degraded, 0},
		{"equal epochs", func(_ *clusterMap, n []*clusterNode) {
			n[1].epoch = 1
			for _, x := range n {
				x.view[n[1].id].epoch = 1
			}
		}, "epoch", Degraded, 0},
		{"a replica does not answer", func(_ *clusterMap, n []*clusterNode) { n[3].err, n[3].view = errNotCluster, nil }, "unreachable", Degraded, 0},
		{"a master does not answer", func(_ *clusterMap, n []*clusterNode) { n[1].err, n[1].view = errNotCluster, nil }, "unreachable", Down, 0},
		{"a master has failed", func(_ *clusterMap, n []*clusterNode) {
			n[1].err, n[1].view = errNotCluster, nil
			n[0].view[n[1].id].flags = []string{"master", "fail"}
		}, "failed", Down, 0},
		{"most masters say fail", func(_ *clusterMap, n []*clusterNode) { n[0].state, n[1].state = "fail", "fail" }, "state state", Down, 0},
		{"a link is down", func(_ *clusterMap, n []*clusterNode) { n[3].linkUp = false }, "link", Degraded, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := healthyMap()
			c.damage(m, m.nodes)
			r := judgeCluster(m, c.want)
			var got []string
			for _, p := range r.Problems {
				got = append(got, p.Kind)
			}
			if text := strings.Join(got, " "); text != c.kinds || r.Verdict != c.verdict {
				t.Fatalf("%q, %s; want %q, %s: %s", text, r.Verdict, c.kinds, c.verdict, r.Reason)
			}
		})
	}
}

// TestReshardRecordIsUsedOnlyWhereItHolds: an interrupted plan counts as long as
// each of its slots is at one of its two ends.
func TestReshardRecordIsUsedOnlyWhereItHolds(t *testing.T) {
	m := healthyMap()
	a, b := m.nodes[0].id, m.nodes[1].id
	dir := t.TempDir()
	r := newReshardRecord(dir, b, []string{a}, 2)
	r.Moves = []clusterMove{{0, a, b}, {3, a, b}}
	if err := r.save(); err != nil {
		t.Fatal(err)
	}
	state := func() string {
		moves, resumed, complete := newReshardRecord(dir, b, []string{a}, 2).pending(m)
		return fmt.Sprint(len(moves), resumed, complete)
	}
	give := func(s int, from, to string) { m.byID[from].slots.Del(s); m.byID[to].slots.Add(s) }
	if got := state(); got != "2 true false" {
		t.Fatal(got)
	}
	give(0, a, b)
	if got := state(); got != "1 true false" {
		t.Fatal(got)
	}
	give(3, a, b)
	if got := state(); got != "0 false true" {
		t.Fatal(got)
	}
	give(3, b, m.nodes[2].id)
	if got := state(); got != "0 false false" {
		t.Fatal(got)
	}
	if moves, resumed, _ := newReshardRecord(dir, b, []string{a}, 3).pending(m); resumed || len(moves) > 0 {
		t.Fatal("another command resumes it")
	}
	r.forget()
	if got := state(); got != "0 false false" {
		t.Fatal(got)
	}
}

// TestSharesAreExact for any weights.
func TestSharesAreExact(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		n := rnd.IntN(20000)
		w := make([]float64, 1+rnd.IntN(9))
		for i := range w {
			w[i] = float64(rnd.IntN(4))
		}
		w[0] = 1
		sum := 0
		for i, k := range shares(n, w) {
			if w[i] == 0 && k > 0 {
				t.Fatalf("weight 0 gets %d", k)
			}
			sum += k
		}
		if sum != n {
			t.Fatalf("%v: %d of %d", w, sum, n)
		}
	}
}

// TestBatchSizeFollowsTheTimeThatMigrateTakes, and never the other way, nor
// beyond its bounds.
func TestBatchSizeFollowsTheTimeThatMigrateTakes(t *testing.T) {
	var b batchSize
	if b.keys(7) != 7 || b.keys(0) != batchFirst {
		t.Fatal(b)
	}
	for range 20 {
		b.took(b.keys(0), 0)
	}
	if b.keys(0) != batchMost {
		t.Fatal(b)
	}
	b.took(3, 0) // the rest of a slot says nothing
	if b.keys(0) != batchMost {
		t.Fatal(b)
	}
	for range 20 {
		b.took(b.keys(0), batchSlow+1)
	}
	if b.keys(0) != 1 {
		t.Fatal(b)
	}
	b.took(1, 0)
	if b.keys(0) != 2 {
		t.Fatal(b)
	}
}
