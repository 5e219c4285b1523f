package cluster

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/test/proc"
)

// What a node says of the cluster, in a form that is the same for all nodes
// once they agree: without the times of pings, replication offsets and the mark
// of who is asked, everything in an order of its own.

// view is CLUSTER NODES, SLOTS and SHARDS of a node.
func (n *node) view() string {
	n.t.Helper()
	return "NODES\n" + nodesView(n.try("CLUSTER", "NODES")) + "SLOTS\n" + slotsView(n.try("CLUSTER", "SLOTS")) + "SHARDS\n" + shardsView(n.try("CLUSTER", "SHARDS"))
}

func nodesView(v proc.Value) string {
	var rows []string
	for line := range strings.Lines(v.Text()) {
		f := strings.Fields(line)
		if len(f) < 8 {
			return line // an error reply
		}
		flags := strings.TrimPrefix(f[2], "myself,")
		rows = append(rows, strings.Join(append([]string{f[0], f[1], flags, f[3], f[6], f[7]}, f[8:]...), " "))
	}
	return block(rows)
}

func slotsView(v proc.Value) string {
	if v.Err() != nil {
		return v.Str
	}
	var rows []string
	for _, r := range v.List {
		var who []string
		for _, x := range r.List[2:] {
			who = append(who, plain(x))
		}
		slices.Sort(who[1:]) // behind the master
		rows = append(rows, fmt.Sprint(r.List[0].Int, "-", r.List[1].Int, " ", strings.Join(who, " ")))
	}
	return block(rows)
}

func shardsView(v proc.Value) string {
	if v.Err() != nil {
		return v.Str
	}
	var rows []string
	for _, shard := range v.List {
		s := pairs(shard)
		var who []string
		for _, x := range s["nodes"].List {
			var fields []string
			for k, v := range pairs(x) {
				if k != "replication-offset" {
					fields = append(fields, k+"="+plain(v))
				}
			}
			slices.Sort(fields)
			who = append(who, strings.Join(fields, " "))
		}
		slices.Sort(who)
		rows = append(rows, plain(s["slots"])+"\n  "+strings.Join(who, "\n  "))
	}
	return block(rows)
}

func block(rows []string) string {
	slices.Sort(rows)
	return strings.Join(rows, "\n") + "\n"
}

// pairs is a map that came as a flat list.
func pairs(v proc.Value) map[string]proc.Value {
	m := map[string]proc.Value{}
	for i := 0; i+1 < len(v.List); i += 2 {
		m[v.List[i].Text()] = v.List[i+1]
	}
	return m
}

// plain writes any reply on one line.
func plain(v proc.Value) string {
	switch v.Kind {
	case '*':
		var parts []string
		for _, x := range v.List {
			parts = append(parts, plain(x))
		}
		return "[" + strings.Join(parts, " ") + "]"
	case ':':
		return strconv.FormatInt(v.Int, 10)
	}
	return v.Text()
}

// flawless says whether a view shows every node connected, in one role, and well.
func flawless(view string, nodes int) bool {
	return strings.Count(view, " connected") == nodes && strings.Count(view, "health=online") == nodes && !strings.Contains(view, "fail") &&
		!strings.Contains(view, "handshake") && !strings.Contains(view, "noaddr") && !strings.Contains(view, "[->-") && !strings.Contains(view, "-<-")
}

// agree waits until all nodes serve and say the same of the cluster: that
// nothing is amiss.
func agree(t *testing.T, nodes []*node) {
	t.Helper()
	settled(t, nodes)
	views := make([]string, len(nodes))
	once := func() bool {
		for i, n := range nodes {
			views[i] = n.view()
			if views[i] != views[0] || !flawless(views[i], len(nodes)) {
				return false
			}
		}
		return true
	}
	for end := time.Now().Add(deadline); !once(); time.Sleep(50 * time.Millisecond) {
		if !time.Now().After(end) {
			continue
		}
		for i, n := range nodes {
			if views[i] = n.view(); i == 0 || views[i] != views[0] {
				t.Logf("%s (genuine: %v)\n%s", n.addr(), n.p.Spec.Argv[0] == genuine, views[i])
			}
		}
		t.Fatal("the nodes do not agree")
	}
}
