package cluster

import (
	"strconv"
	"strings"
	"testing"
)

// TestCreateBuildsWhatChecksAsHealthy: coverage, agreement and one replica each,
// seen by both administrators; a second run of create changes nothing.
func TestCreateBuildsWhatChecksAsHealthy(t *testing.T) { onBoth(t, createBuildsWhatChecksAsHealthy) }

func createBuildsWhatChecksAsHealthy(t *testing.T, k kind) {
	nodes := startNodes(t, k, 6)
	create(t, nodes, 1)
	r := healthy(t, nodes[5])
	if r.Cluster.Covered != 16384 || len(r.Cluster.Nodes) != 6 {
		t.Fatal(r.text)
	}
	for _, n := range r.Cluster.Nodes {
		if n.Role == "master" && n.Replicas != 1 {
			t.Errorf("%s has %d replicas", n.Addr, n.Replicas)
		}
	}
	must(t, 0, append([]string{"create", "--replicas", "1"}, addrs(nodes)...)...)
	info := must(t, 0, "info", "127.0.0.1", strconv.Itoa(nodes[0].port))
	if len(info.Cluster.Nodes) != 6 {
		t.Fatal(info.text)
	}

	// A replica that ends is a degraded cluster; masters that end are one that
	// is down.
	byAddr := map[string]*node{}
	for _, n := range nodes {
		byAddr[n.addr()] = n
	}
	var masters []*node
	for _, n := range r.Cluster.Nodes {
		if n.Role == "master" {
			masters = append(masters, byAddr[n.Addr])
		}
	}
	for _, n := range r.Cluster.Nodes {
		if n.Role == "replica" && n.Master == masters[1].addr() {
			byAddr[n.Addr].p.Kill()
		}
	}
	if r := must(t, 1, "check", masters[0].addr(), "--wait", "0s"); !strings.Contains(r.Reason, "nobody listens") {
		t.Fatal(r.text)
	}
	masters[1].p.Kill()
	must(t, 2, "check", masters[0].addr(), "--wait", "0s")
}

// TestEveryVerbHasHelpWithAnExample, by both ways to ask for it.
func TestEveryVerbHasHelpWithAnExample(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"create", "check", "info", "fix", "reshard", "rebalance", "add-node", "del-node", "call", "import", "set-timeout", "help"} {
		for _, args := range [][]string{{verb, "--help"}, {"help", verb}} {
			out, err := command(t, args...).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "Examples:\n  holdfast cluster "+verb) {
				t.Errorf("%q: %v\n%s", args, err, out)
			}
		}
	}
	if out, err := command(t, "help").CombinedOutput(); err != nil || !strings.Contains(string(out), "set-timeout") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := command(t, "frobnicate").CombinedOutput(); exitCode(t, err) != 2 {
		t.Errorf("exit code %d for an unknown verb\n%s", exitCode(t, err), out)
	}
}

// TestCreateRefuses says why, changes nothing, and exits with 2.
func TestCreateRefuses(t *testing.T) { onBoth(t, createRefuses) }

func createRefuses(t *testing.T, k kind) {
	nodes := startNodes(t, k, 3)
	plain := start(t, k)
	if err := plain.p.Ready(deadline); err != nil {
		t.Fatal(err)
	}
	nodes[2].do("CLUSTER", "ADDSLOTS", "5")
	for _, c := range []struct {
		want string
		args []string
	}{
		{"needs 3 masters", []string{nodes[0].addr(), nodes[1].addr()}},
		{"needs 3 masters", []string{nodes[0].addr(), nodes[1].addr(), nodes[2].addr(), "--replicas", "1"}},
		{"the same node", []string{nodes[0].addr(), nodes[1].addr(), nodes[0].addr()}},
		{"has no cluster mode", []string{nodes[0].addr(), nodes[1].addr(), plain.addr()}},
		{"part of another cluster", []string{nodes[0].addr(), nodes[1].addr(), nodes[2].addr()}},
		{"nobody listens", []string{nodes[0].addr(), nodes[1].addr(), "127.0.0.1:1"}},
		{"is no address", []string{"127.0.0.1:x", nodes[1].addr(), nodes[2].addr()}},
	} {
		if r := must(t, 2, append([]string{"create"}, c.args...)...); !strings.Contains(r.text, c.want) {
			t.Errorf("%q: no %q in %s", c.args, c.want, r.text)
		}
	}
	if got := nodes[0].do("CLUSTER", "NODES").Text(); strings.Count(got, "\n") != 1 || strings.Contains(got, "0-5460") {
		t.Fatalf("changed: %s", got)
	}
}

// TestReshardRebalanceDelNode moves slots with their keys, by count, by weight,
// and out of a master that leaves.
func TestReshardRebalanceDelNode(t *testing.T) { onBoth(t, reshardRebalanceDelNode) }

func reshardRebalanceDelNode(t *testing.T, k kind) {
	const keys = 3000
	nodes := startNodes(t, k, 4)
	create(t, nodes[:3], 0)
	fill(t, nodes, "k", keys)
	seed := nodes[0].addr()

	// A plan alone changes nothing, nor does one that nobody agrees to.
	r := must(t, 0, "reshard", seed, "--to", nodes[2].addr(), "--slots", "100", "--dry-run")
	if len(r.Plan) != 2 || r.Slots != 0 {
		t.Fatal(r.text)
	}
	no := command(t, "reshard", seed, "--to", nodes[2].addr(), "--slots", "100")
	no.Stdin = strings.NewReader("no\n")
	out, err := no.CombinedOutput()
	if exitCode(t, err) != 2 || !strings.Contains(string(out), "not agreed to") {
		t.Fatalf("%v %s", err, out)
	}
	before := healthy(t, nodes[0]).slotsOf()

	r = must(t, 0, "reshard", seed, "--cluster-to", nodes[2].id(), "--cluster-from", nodes[1].id()[:12], "--cluster-slots", "700", "--cluster-pipeline", "3")
	if r.Slots != 700 || r.Keys == 0 {
		t.Fatal(r.text)
	}
	after := healthy(t, nodes[1]).slotsOf()
	if after[nodes[1].addr()] != before[nodes[1].addr()]-700 || after[nodes[2].addr()] != before[nodes[2].addr()]+700 {
		t.Fatalf("%v, then %v", before, after)
	}
	whole(t, nodes[:3], "k", keys)

	must(t, 0, "add-node", nodes[3].addr(), seed)
	must(t, 0, "rebalance", seed, "--use-empty-masters", "--weight", nodes[3].addr()+"=0.2", nodes[0].addr()+"=0.8")
	after = healthy(t, nodes[1]).slotsOf()
	for i, want := range []int{4369, 5461, 5461, 1092} {
		if got := after[nodes[i].addr()]; got < want-1 || got > want+1 {
			t.Errorf("%s has %d slots, not %d", nodes[i].addr(), got, want)
		}
	}
	whole(t, nodes, "k", keys)

	must(t, 0, "rebalance", seed)
	if r := must(t, 0, "rebalance", seed); r.Slots != 0 {
		t.Fatalf("a second rebalance moves: %s", r.text)
	}
	must(t, 0, "del-node", seed, nodes[3].id())
	after = healthy(t, nodes[1]).slotsOf()
	for i, want := range []int{5461, 5461, 5461, 0} {
		if got := after[nodes[i].addr()]; got < want || got > want+1 {
			t.Errorf("%s has %d slots, not %d", nodes[i].addr(), got, want)
		}
	}
	if len(after) != 3 {
		t.Errorf("still a member: %v", after)
	}
	whole(t, nodes[:3], "k", keys)
	if got := nodes[3].do("CLUSTER", "NODES").Text(); strings.Count(got, "\n") != 1 {
		t.Errorf("the node that left still knows others:\n%s", got)
	}
}

// TestAddNodeAndDelNodeOfReplicas: a replica goes to the master with fewest, or
// to the one named; the replica of a master that leaves follows another; a node
// that left may come back at once.
func TestAddNodeAndDelNodeOfReplicas(t *testing.T) { onGenuine(t, addNodeAndDelNodeOfReplicas) }

func addNodeAndDelNodeOfReplicas(t *testing.T, k kind) {
	nodes := startNodes(t, k, 5)
	create(t, nodes[:3], 0)
	seed := nodes[0].addr()
	must(t, 0, "add-node", nodes[3].addr(), seed, "--replica", "--master-id", nodes[1].addr())
	must(t, 0, "add-node", nodes[4].addr(), seed, "--cluster-slave")
	r := must(t, 1, "check", seed, "--wait", "20s") // one master is without a replica
	for _, n := range r.Cluster.Nodes {
		if n.Addr == nodes[3].addr() && n.Master != nodes[1].addr() {
			t.Errorf("the replica follows %s", n.Master)
		}
		if n.Addr == nodes[4].addr() && n.Master == nodes[1].addr() {
			t.Errorf("the second replica follows a master that had one")
		}
	}
	if r := must(t, 2, "add-node", nodes[2].addr(), seed); !strings.Contains(r.text, "is a member already") {
		t.Fatal(r.text)
	}
	must(t, 0, "del-node", seed, nodes[1].addr())
	r = must(t, 0, "check", seed, "--wait", "20s", "--replicas", "0")
	if len(r.Cluster.Nodes) != 4 || r.Cluster.Covered != 16384 {
		t.Fatal(r.text)
	}
	must(t, 0, "del-node", seed, nodes[3].addr())
	must(t, 0, "add-node", nodes[3].addr(), seed, "--replica")
	must(t, 2, "del-node", seed, "no-such-node")
}

// TestImportAndCall moves the keys of a standalone server, with passwords on
// both sides: a key that the cluster has too stays, unless it is the same or
// --replace is given.
func TestImportAndCall(t *testing.T) { onBoth(t, importAndCall) }

func importAndCall(t *testing.T, k kind) {
	const keys = 1000
	nodes := startNodes(t, k, 3)
	for _, n := range nodes {
		n.protect("pw")
	}
	source := start(t, k)
	if err := source.p.Ready(deadline); err != nil {
		t.Fatal(err)
	}
	for i := range keys {
		source.do("SET", key("i", i), strconv.Itoa(i))
	}
	source.do("SET", "{tag}same", "v")
	source.do("SET", "{tag}other", "theirs")
	source.protect("src")
	from := []string{"--from", source.addr(), "--from-pass", "src", "--pass", "pw"}
	seed := nodes[0].addr()

	if r := must(t, 2, append([]string{"create"}, addrs(nodes)...)...); !strings.Contains(r.text, "asks for a password") {
		t.Fatal(r.text)
	}
	must(t, 0, append(append([]string{"create"}, addrs(nodes)...), "-a", "pw")...)
	for _, n := range nodes {
		if n.try("SET", "{tag}same", "v").Err() == nil {
			n.do("SET", "{tag}other", "mine")
		}
	}
	must(t, 2, "import", seed, "--from", nodes[1].addr(), "--pass", "pw", "--from-pass", "pw")

	r := must(t, 1, append([]string{"import", seed, "--copy"}, from...)...)
	if r.Keys != keys || !strings.Contains(r.Reason, "{tag}other") {
		t.Fatal(r.text)
	}
	if n := source.do("DBSIZE").Int; n != keys+2 {
		t.Fatalf("%d keys left by a copy", n)
	}
	r = must(t, 1, append([]string{"import", seed}, from...)...)
	if n := source.do("DBSIZE").Int; n != 1 {
		t.Fatalf("%d keys left by a move: %s", n, r.text)
	}
	must(t, 0, append([]string{"import", seed, "--cluster-replace"}, from...)...)
	if n := source.do("DBSIZE").Int; n != 0 {
		t.Fatalf("%d keys left", n)
	}
	whole(t, nodes, "i", keys)

	r = must(t, 0, "call", "-a", "pw", "--only-masters", seed, "DBSIZE")
	sum := 0
	for _, x := range r.Replies {
		sum += int(x.Reply.(float64))
	}
	if len(r.Replies) != 3 || sum != keys+2 {
		t.Fatal(r.text)
	}
	if r := must(t, 2, "call", "-a", "pw", seed, "NO-SUCH-COMMAND", "--only-masters"); len(r.Replies) != 3 || !strings.HasPrefix(r.Replies[0].Error, "ERR unknown command") {
		t.Fatal(r.text)
	}
	// Set, though not kept: these nodes have no configuration file.
	must(t, 1, "set-timeout", seed, "3000", "-a", "pw")
	if got := nodes[2].do("CONFIG", "GET", "cluster-node-timeout").List[1].Str; got != "3000" {
		t.Fatalf("cluster-node-timeout is %s", got)
	}
}

// TestFixMendsWhatHandsHaveBroken: damaged states, each made by commands on
// nodes; afterwards both administrators find all well and no key is lost.
func TestFixMendsWhatHandsHaveBroken(t *testing.T) { onGenuine(t, fixMendsWhatHandsHaveBroken) }

func fixMendsWhatHandsHaveBroken(t *testing.T, k kind) {
	const keys = 400
	nodes := startNodes(t, k, 3)
	create(t, nodes, 0)
	fill(t, nodes, "k", keys)
	a, b, c := nodes[0], nodes[1], nodes[2]
	// All of these belong to a after create.
	slot := func(n int) string { return strconv.Itoa(n) }
	full := -1 // a slot of a with keys
	for i := 0; full < 0; i++ {
		if n := int(a.do("CLUSTER", "KEYSLOT", key("k", i)).Int); n <= 5460 {
			full = n
		}
	}
	setslot := func(n *node, s int, args ...string) {
		t.Helper()
		n.do(append([]string{"CLUSTER", "SETSLOT", slot(s)}, args...)...)
	}
	for _, damage := range []struct {
		name string
		do   func()
	}{
		{"importing only, nothing moved", func() { setslot(b, 7, "IMPORTING", a.id()) }},
		{"migrating only, nothing moved", func() { setslot(a, full, "MIGRATING", b.id()) }},
		{"both open, some keys moved", func() {
			setslot(b, full, "IMPORTING", a.id())
			setslot(a, full, "MIGRATING", b.id())
			k := a.do("CLUSTER", "GETKEYSINSLOT", slot(full), "1").List[0].Str
			a.do("MIGRATE", "127.0.0.1", strconv.Itoa(b.port), k, "0", "60000")
		}},
		{"keys moved, then the owner's mark is gone", func() {
			from, to := a, c
			if a.do("CLUSTER", "COUNTKEYSINSLOT", slot(full)).Int == 0 {
				from = b
			}
			setslot(to, full, "IMPORTING", from.id())
			setslot(from, full, "MIGRATING", to.id())
			k := from.do("CLUSTER", "GETKEYSINSLOT", slot(full), "1").List[0].Str
			from.do("MIGRATE", "127.0.0.1", strconv.Itoa(to.port), k, "0", "60000")
			setslot(from, full, "STABLE")
		}},
		{"two import", func() {
			setslot(b, 9, "IMPORTING", a.id())
			setslot(c, 9, "IMPORTING", a.id())
			setslot(a, 9, "MIGRATING", c.id())
		}},
		{"the owner gave slots up", func() { a.do("CLUSTER", "DELSLOTS", "20", "21", "22") }},
		{"nobody owns slots", func() {
			for _, n := range nodes {
				n.try("CLUSTER", "DELSLOTS", "30", "31")
			}
		}},
		{"another sees nobody", func() { b.do("CLUSTER", "DELSLOTS", "40") }},
		{"two own a slot", func() {
			// Together, or gossip gives it back in between.
			c := b.dial()
			defer c.Close()
			for _, cmd := range []string{"MULTI", "CLUSTER DELSLOTS 50", "CLUSTER ADDSLOTS 50", "EXEC"} {
				c.Send(strings.Fields(cmd)...)
			}
			if err := c.Flush(); err != nil {
				t.Fatal(err)
			}
			for range 4 {
				if v, err := c.Recv(); err != nil || v.Err() != nil {
					t.Fatal(v.Str, err)
				}
			}
		}},
	} {
		damage.do()
		r := admin(t, "fix", nodes[0].addr())
		if r.code != 0 {
			t.Errorf("%s: %s", damage.name, r.text)
		}
		healthy(t, nodes[2])
		whole(t, nodes, "k", keys)
		if t.Failed() {
			t.Fatalf("after %q", damage.name)
		}
	}
	if r := must(t, 0, "fix", nodes[1].addr()); len(r.Plan) != 0 {
		t.Errorf("something is left: %s", r.text)
	}
}

// TestFixGivesUpAMasterOnlyWhenTold: its slots go to others, without its keys.
func TestFixGivesUpAMasterOnlyWhenTold(t *testing.T) { onGenuine(t, fixGivesUpAMasterOnlyWhenTold) }

func fixGivesUpAMasterOnlyWhenTold(t *testing.T, k kind) {
	nodes := startNodes(t, k, 4)
	create(t, nodes, 0)
	nodes[3].p.Kill()
	seed := nodes[0].addr()
	if r := must(t, 1, "fix", seed, "--settle", "1s"); !strings.Contains(r.Reason, "with-unreachable-masters") {
		t.Fatal(r.text)
	}
	must(t, 2, "del-node", seed, nodes[3].addr())
	r := must(t, 1, "fix", seed, "--cluster-fix-with-unreachable-masters", "--settle", "5s")
	if r.Cluster.Covered != 16384 {
		t.Fatal(r.text)
	}
	must(t, 0, "del-node", seed, nodes[3].addr())
	for addr, n := range healthy(t, nodes[1]).slotsOf() {
		if n < 5461 || n > 5462 {
			t.Errorf("%s has %d slots", addr, n)
		}
	}
}
