package cluster

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// DESIGN 1, P4: every reply of CLUSTER is that of Redis 7.0.15, to the letter.
func TestRepliesAreThoseOfRedis(t *testing.T) {
	g := startGenuine(t, 15*time.Second, nil)
	h := &fakeHost{data: Data{Empty: true}}
	c := newTestCore(t, h, nil)
	unknown := strings.Repeat("a", 40)
	ids := strings.NewReplacer(g.do(t, "CLUSTER", "MYID").Str, "<me>", c.MyID(), "<me>", strconv.Itoa(g.port), "<port>", "6379", "<port>",
		strconv.Itoa(g.port+BusPortIncr), "<bus>", "16379", "<bus>")
	for _, line := range []string{
		"HELP", "INFO", "NODES", "SLOTS", "SHARDS", "LINKS", "KEYSLOT foo{bar}x", "BUMPEPOCH", "BUMPEPOCH",
		"SET-CONFIG-EPOCH 7", "SET-CONFIG-EPOCH x", "SET-CONFIG-EPOCH -1",
		"ADDSLOTS x", "ADDSLOTS 1 2 3", "ADDSLOTS 3", "ADDSLOTS 4 4", "ADDSLOTS 16384", "ADDSLOTS -1", "ADDSLOTS 01", "DELSLOTS 9", "DELSLOTS 2 2", "DELSLOTS 2",
		"ADDSLOTSRANGE 10 20 30 40", "ADDSLOTSRANGE 10 20", "ADDSLOTSRANGE 100 90", "ADDSLOTSRANGE 100 200 150 160", "ADDSLOTSRANGE 1",
		"ADDSLOTSRANGE 1 2 3", "DELSLOTSRANGE 10 12", "DELSLOTSRANGE 10 12", "DELSLOTSRANGE 1 70000", "NODES", "SLOTS", "SHARDS",
		"SETSLOT 1 MIGRATING " + unknown, "SETSLOT 1 IMPORTING " + unknown, "SETSLOT 2 IMPORTING " + unknown, "SETSLOT 2 MIGRATING " + unknown,
		"SETSLOT 1 NODE " + unknown, "SETSLOT 1 STABLE", "SETSLOT 1 FOO", "SETSLOT 1 MIGRATING", "SETSLOT x STABLE", "SETSLOT 99999 STABLE",
		"SETSLOT 1 NODE", "SETSLOT 1", "COUNTKEYSINSLOT 5", "COUNTKEYSINSLOT 99999", "COUNTKEYSINSLOT x", "GETKEYSINSLOT 5 10", "GETKEYSINSLOT 5 -1",
		"GETKEYSINSLOT 5 x", "GETKEYSINSLOT -5 1", "FORGET " + unknown, "REPLICATE " + unknown, "REPLICAS " + unknown, "SLAVES " + unknown,
		"COUNT-FAILURE-REPORTS " + unknown, "FAILOVER", "FAILOVER FORCE", "FAILOVER TAKEOVER", "FAILOVER FOO", "FAILOVER FORCE X",
		"RESET FOO", "RESET HARD X", "MEET 127.0.0.1 x", "MEET 127.0.0.1 1 x", "MEET nohost 1", "MEET 127.0.0.1 0", "MEET 127.0.0.1 70000", "MEET 127.0.0.1 60000",
		"MEET 300.1.1.1 60", "MEET 1.1.1.1 1 2 3", "MEET ::1%lo 60", "SAVECONFIG", "BUMPEPOCH", "FLUSHSLOTS", "SLOTS", "NODES", "RESET", "RESET SOFT", "NOSUCH", "KEYSLOT", "INFO x",
		"MEET 127.0.0.1", "MYID x", "COUNTKEYSINSLOT",
	} {
		args := strings.Fields(line)
		want := ids.Replace(resp2(g.do(t, append([]string{"CLUSTER"}, args...)...)))
		got := ids.Replace(resp2(reply(t, c, args...)))
		switch line {
		case "NODES":
			want, got = timesAway(want), timesAway(got)
		case "INFO": // it takes Redis two seconds to count its masters
			want = strings.Replace(want, "cluster_size:1", "cluster_size:0", 1)
		}
		if got != want {
			t.Errorf("CLUSTER %s:\n got %s\nwant %s", line, got, want)
		}
	}
	for _, id := range []string{"FORGET", "REPLICATE", "REPLICAS", "COUNT-FAILURE-REPORTS"} {
		want := resp2(g.do(t, "CLUSTER", id, g.do(t, "CLUSTER", "MYID").Str))
		if got := resp2(reply(t, c, id, c.MyID())); got != want {
			t.Errorf("CLUSTER %s <me>: got %s, want %s", id, got, want)
		}
	}
}

var timeFields = regexp.MustCompile(` \d+ \d+ (\d+ (dis)?connected)`)

func timesAway(s string) string { return timeFields.ReplaceAllString(s, " T T $1") }

// Issue 4: nodes.conf is readable and writable by genuine Redis.
func TestNodesConfIsRedis(t *testing.T) {
	c := newTestCore(t, &fakeHost{data: Data{Empty: true}}, nil)
	reply(t, c, "ADDSLOTSRANGE", "0", "100", "200", "200", "16383", "16383")
	reply(t, c, "SET-CONFIG-EPOCH", "3")
	text := c.NodesConf()
	g := startGenuine(t, 15*time.Second, text)
	if id := g.do(t, "CLUSTER", "MYID").Str; id != c.MyID() {
		t.Fatalf("the genuine node read id %s, we wrote %s", id, c.MyID())
	}
	g.do(t, "CLUSTER", "SAVECONFIG")
	theirs, err := os.ReadFile(filepath.Join(g.dir, "nodes.conf"))
	if err != nil {
		t.Fatal(err)
	}
	ports := strings.NewReplacer(strconv.Itoa(g.port+BusPortIncr), "16379", strconv.Itoa(g.port), "6379")
	if got := ports.Replace(string(theirs)); got != string(text) {
		t.Errorf("ours:\n%s\ntheirs:\n%s", text, got)
	}
	back := newTestCore(t, &fakeHost{}, theirs)
	if again := back.NodesConf(); !bytes.Equal([]byte(ports.Replace(string(theirs))), again) {
		t.Errorf("theirs, read by us and written again:\n%s\ntheirs:\n%s", again, theirs)
	}
}

// Issue 4, "It must show" 2: genuine nodes and ours form one cluster: they
// meet, agree on a failure, vote for each other, and take over from each other.
func TestOneClusterWithGenuineNodes(t *testing.T) {
	const timeout = time.Second
	g1, g2, g3 := startGenuine(t, timeout, nil), startGenuine(t, timeout, nil), startGenuine(t, timeout, nil)
	ours := startBusNode(t, freePort(t), timeout, nil)
	g1.do(t, "CLUSTER", "ADDSLOTSRANGE", "0", "5460")
	g2.do(t, "CLUSTER", "ADDSLOTSRANGE", "5461", "10922")
	ours.cluster("ADDSLOTSRANGE", "10923", "16383")
	for _, g := range []*genuine{g2, g3} {
		g.do(t, "CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(g1.port))
	}
	if v := ours.cluster("MEET", "127.0.0.1", strconv.Itoa(g1.port)); v.Kind == Error {
		t.Fatal(v)
	}
	okAll := func(nodes int) func() bool {
		want := "cluster_known_nodes:" + strconv.Itoa(nodes) + "\r\n"
		return func() bool {
			info := ours.cluster("INFO").Str
			if !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, want) || !strings.Contains(info, "cluster_size:3") {
				return false
			}
			for _, g := range []*genuine{g1, g2, g3} {
				v, err := g.try("CLUSTER", "INFO")
				if err == nil && (!strings.Contains(v.Str, "cluster_state:ok") || !strings.Contains(v.Str, want)) {
					return false
				}
			}
			return true
		}
	}
	waitFor(t, "one cluster of four", okAll(4))
	id1, id2, id3 := g1.do(t, "CLUSTER", "MYID").Str, g2.do(t, "CLUSTER", "MYID").Str, g3.do(t, "CLUSTER", "MYID").Str
	g3.do(t, "CLUSTER", "REPLICATE", id1)
	waitFor(t, "the replica's link", func() bool { return strings.Contains(g3.do(t, "INFO", "replication").Str, "master_link_status:up") })
	waitFor(t, "us to see the replica", func() bool { return len(ours.cluster("REPLICAS", id1).Elems) == 1 })

	// A second one of ours replicates a genuine master.
	rep := startBusNode(t, freePort(t), timeout, nil)
	rep.cluster("MEET", "127.0.0.1", strconv.Itoa(g2.port))
	waitFor(t, "one cluster of five", okAll(5))
	waitFor(t, "our replica to know its master", func() bool {
		v := rep.cluster("REPLICATE", id2)
		return v.Kind != Error
	})
	rep.host.set(func(d *Data) { d.Offset, d.MasterLinkUp, d.Empty = 1000, true, false })
	repID := rep.cluster("MYID").Str
	waitFor(t, "the genuine node to see our replica", func() bool {
		return strings.Contains(g1.do(t, "CLUSTER", "NODES").Str, "slave "+id2)
	})

	waitFor(t, "NODES, SLOTS and SHARDS of both kinds to agree", func() bool {
		for _, what := range []string{"NODES", "SLOTS", "SHARDS"} {
			theirs, ok := canonical(what, g2.do(t, "CLUSTER", what)), canonical(what, ours.cluster(what))
			if theirs != ok {
				return false
			}
		}
		return true
	})
	g1.kill()
	waitFor(t, "the genuine replica to win with our vote", func() bool {
		return strings.Contains(nodeLine(ours.cluster("NODES").Str, id3), "master") && strings.HasSuffix(nodeLine(ours.cluster("NODES").Str, id3), " 0-5460")
	})
	if !ours.logged("Failover auth granted to " + id3) {
		t.Error("we did not vote for the genuine replica")
	}
	waitFor(t, "state ok again", func() bool {
		return strings.Contains(ours.cluster("INFO").Str, "cluster_state:ok") && strings.Contains(g3.do(t, "CLUSTER", "INFO").Str, "cluster_state:ok")
	})
	g2.kill()
	rep.host.set(func(d *Data) { d.MasterLinkUp, d.MasterSeen = false, time.Now() })
	waitFor(t, "our replica to win with a genuine vote", func() bool {
		return strings.HasSuffix(nodeLine(g3.do(t, "CLUSTER", "NODES").Str, repID), " 5461-10922")
	})
	if log, _ := os.ReadFile(filepath.Join(g3.dir, "log")); !bytes.Contains(log, []byte("Failover auth granted to "+repID)) {
		t.Error("the genuine master did not vote for our replica")
	}
	for _, g := range []*genuine{g3} {
		if log, _ := os.ReadFile(filepath.Join(g.dir, "log")); bytes.Contains(log, []byte("invalid")) || bytes.Contains(log, []byte("unknown extension")) || bytes.Contains(log, []byte("Bad message")) {
			t.Errorf("the genuine node complains:\n%s", log)
		}
	}
}

// canonical is a reply without what differs from node to node: order, times,
// the mark of oneself, offsets that move.
func canonical(what string, v Value) string {
	if what == "NODES" {
		lines := strings.Split(strings.ReplaceAll(timesAway(v.Str), "myself,", ""), "\n")
		slices.Sort(lines)
		return strings.Join(lines, "\n")
	}
	var parts []string
	for _, e := range v.Elems {
		if what == "SHARDS" {
			slices.SortFunc(e.Elems[3].Elems, func(a, b Value) int { return strings.Compare(resp2(a), resp2(b)) })
		}
		parts = append(parts, offsets.ReplaceAllString(resp2(e), `"replication-offset" N`))
	}
	slices.Sort(parts)
	return strings.Join(parts, "\n")
}

var offsets = regexp.MustCompile(`"replication-offset" \d+`)

func nodeLine(nodes, id string) string {
	for _, l := range strings.Split(nodes, "\n") {
		if strings.HasPrefix(l, id) {
			return strings.TrimRight(l, "\n")
		}
	}
	return ""
}
