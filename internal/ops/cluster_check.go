package ops

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"holdfast/internal/redis/cluster/slot"
)

// ClusterProblem is one thing that is wrong with a cluster.
type ClusterProblem struct {
	// Kind is uncovered, open, owners, unreachable, failed, loading, state,
	// disagree, unknown, epoch, replicas or link.
	Kind string `json:"kind"`
	Node string `json:"node,omitempty"`
	Text string `json:"text"`
}

// transient problems go away by gossip.
func (p ClusterProblem) transient() bool {
	switch p.Kind {
	case "disagree", "unknown", "epoch", "state", "link", "loading":
		return true
	}
	return false
}

// ClusterRow is one node, for tables.
type ClusterRow struct {
	Addr     string `json:"addr"`
	ID       string `json:"id"`
	Role     string `json:"role"`
	State    string `json:"state"`
	Slots    int    `json:"slots"`
	Ranges   string `json:"ranges,omitempty"`
	Keys     int64  `json:"keys"`
	Replicas int    `json:"replicas"`
	Master   string `json:"master,omitempty"` // of a replica, its address
	Epoch    uint64 `json:"epoch"`
	Memory   string `json:"memory,omitempty"`
}

// ClusterReport is what all nodes together say.
type ClusterReport struct {
	Verdict  Verdict          `json:"verdict"`
	Reason   string           `json:"reason"`
	Covered  int              `json:"slots_covered"`
	Keys     int64            `json:"keys"`
	Problems []ClusterProblem `json:"problems"`
	Nodes    []ClusterRow     `json:"nodes"`
	Jobs     []ClusterJob     `json:"jobs,omitempty"` // moves of slots that run
}

// judgeCluster compares the views of all nodes. wantReplicas is how many
// replicas each master must have at least; -1 asks only that a master has one
// if another has.
func judgeCluster(m *clusterMap, wantReplicas int) *ClusterReport {
	r := &ClusterReport{Problems: []ClusterProblem{}}
	r.coverage(m)
	r.openSlots(m)
	r.reach(m)
	r.agreement(m)
	r.epochs(m)
	r.replicas(m, wantReplicas)
	for _, n := range m.nodes {
		r.Nodes = append(r.Nodes, clusterRow(m, n))
		if n.isMaster() {
			r.Keys += n.keys
		}
	}
	r.decide(m)
	return r
}

func (r *ClusterReport) add(kind, node, format string, args ...any) {
	r.Problems = append(r.Problems, ClusterProblem{kind, node, fmt.Sprintf(format, args...)})
}

func (r *ClusterReport) coverage(m *clusterMap) {
	var none, many slotSet
	owners := map[string]bool{}
	for n := range slot.Count {
		switch c := m.claimants(n); len(c) {
		case 0:
			none.Add(n)
		case 1:
			r.Covered++
		default:
			r.Covered++
			many.Add(n)
			for _, o := range c {
				owners[o.name()] = true
			}
		}
	}
	if k := none.Len(); k > 0 {
		r.add("uncovered", "", "%s without an owner (%s)", plural(k, "slot"), brief(&none))
	}
	if k := many.Len(); k > 0 {
		r.add("owners", "", "%s with several owners (%s): %s", plural(k, "slot"), brief(&many), strings.Join(sortedKeys(owners), ", "))
	}
}

func (r *ClusterReport) openSlots(m *clusterMap) {
	for _, n := range m.nodes {
		var mig, imp slotSet
		for k := range n.migrating {
			mig.Add(k)
		}
		for k := range n.importing {
			imp.Add(k)
		}
		if k := mig.Len(); k > 0 {
			r.add("open", n.name(), "%s migrating (%s)", plural(k, "slot"), brief(&mig))
		}
		if k := imp.Len(); k > 0 {
			r.add("open", n.name(), "%s importing (%s)", plural(k, "slot"), brief(&imp))
		}
	}
}

func (r *ClusterReport) reach(m *clusterMap) {
	for _, n := range m.nodes {
		if n.up() {
			if n.state != "ok" && n.state != "" {
				r.add("state", n.name(), "says that cluster_state is %s", n.state)
			}
			continue
		}
		if n.err == errLoading {
			r.add("loading", n.name(), "%s", n.err)
			continue
		}
		kind := "unreachable"
		for _, o := range m.nodes {
			if l := o.view[n.id]; l != nil && l.has("fail") {
				kind = "failed"
			}
		}
		text := n.err.Error()
		if k := n.slots.Len(); n.isMaster() && k > 0 {
			text += fmt.Sprintf(", with %s (%s)", plural(k, "slot"), brief(&n.slots))
		}
		r.add(kind, n.name(), "%s", text)
	}
	for _, n := range m.nodes {
		if !n.up() {
			continue
		}
		var bad []string
		for id, l := range n.view {
			if o := m.byID[id]; o != nil && o.up() && (l.has("fail") || l.has("fail?")) {
				bad = append(bad, o.name())
			}
		}
		if len(bad) > 0 {
			slices.Sort(bad)
			r.add("state", n.name(), "takes for failed: %s", strings.Join(bad, ", "))
		}
	}
}

// agreement compares who owns what, and who is there, in every view.
func (r *ClusterReport) agreement(m *clusterMap) {
	truth := ownersBy(m)
	for _, n := range m.nodes {
		if !n.up() {
			continue
		}
		var differs slotSet
		mine := ownersIn(n.view)
		for s := range truth {
			if truth[s] != mine[s] && truth[s] != "" {
				differs.Add(s)
			}
		}
		if k := differs.Len(); k > 0 {
			r.add("disagree", n.name(), "sees another owner of %s (%s) than the owners themselves", plural(k, "slot"), brief(&differs))
		}
		for _, o := range m.nodes {
			l := n.view[o.id]
			switch {
			case l == nil || l.has("handshake"):
				r.add("unknown", n.name(), "does not know %s (%s)", o.name(), short(o.id))
			case o.up() && l.isMaster() != o.isMaster():
				r.add("disagree", n.name(), "takes %s for a %s", o.name(), roleOf(l))
			case o.up() && !o.isMaster() && l.master != o.master:
				r.add("disagree", n.name(), "takes %s for a replica of %s", o.name(), short(l.master))
			}
		}
	}
}

// ownersBy is the owner of each slot by what the owners say of themselves; ""
// without one, or with several.
func ownersBy(m *clusterMap) (out [slot.Count]string) {
	var twice slotSet
	for _, n := range m.masters() {
		for _, s := range n.slots.list() {
			if out[s] != "" {
				twice.Add(s)
			}
			out[s] = n.id
		}
	}
	for _, s := range twice.list() {
		out[s] = ""
	}
	return out
}

func ownersIn(view map[string]*nodeLine) (out [slot.Count]string) {
	for id, l := range view {
		for _, s := range l.slots.list() {
			out[s] = id
		}
	}
	return out
}

func (r *ClusterReport) epochs(m *clusterMap) {
	by := map[uint64][]string{}
	for _, n := range m.live() {
		if n.epoch > 0 || n.slots.Len() > 0 {
			by[n.epoch] = append(by[n.epoch], n.name())
		}
		for _, o := range m.nodes {
			if l := o.view[n.id]; o.up() && l != nil && !l.has("handshake") && l.epoch != n.epoch {
				r.add("epoch", o.name(), "knows config epoch %d of %s, which says %d", l.epoch, n.name(), n.epoch)
			}
		}
	}
	for e, names := range by {
		if len(names) > 1 {
			r.add("epoch", "", "config epoch %d is of several masters: %s", e, strings.Join(names, ", "))
		}
	}
}

func (r *ClusterReport) replicas(m *clusterMap, want int) {
	least := want
	if want < 0 {
		least = 0
		for _, n := range m.masters() {
			if n.slots.Len() > 0 && len(m.replicasOf(n.id)) > 0 {
				least = 1
			}
		}
	}
	for _, n := range m.masters() {
		up := 0
		for _, s := range m.replicasOf(n.id) {
			if s.up() {
				up++
			}
		}
		if n.slots.Len() > 0 && up < least {
			r.add("replicas", n.name(), "has %s that answer, %d wanted", plural(up, "replica"), least)
		}
	}
	for _, n := range m.nodes {
		if n.up() && !n.isMaster() && !n.linkUp {
			r.add("link", n.name(), "its link to the master is down")
		}
	}
}

func (r *ClusterReport) decide(m *clusterMap) {
	slices.SortStableFunc(r.Problems, func(a, b ClusterProblem) int {
		if c := kindRank(a.Kind) - kindRank(b.Kind); c != 0 {
			return c
		}
		return strings.Compare(a.Node, b.Node)
	})
	withSlots, down, failing := 0, 0, 0
	for _, n := range m.masters() {
		if n.slots.Len() == 0 {
			continue
		}
		withSlots++
		switch {
		case !n.up():
			down++
		case n.state == "fail":
			failing++
		}
	}
	switch {
	case r.Covered < slot.Count, down > 0, failing > withSlots/2:
		r.Verdict = Down
	case len(r.Problems) > 0:
		r.Verdict = Degraded
	}
	if len(r.Problems) == 0 {
		r.Reason = fmt.Sprintf("%s, %s, all %d slots covered, all nodes agree",
			plural(len(m.masters()), "master"), plural(len(m.nodes)-len(m.masters()), "replica"), slot.Count)
		return
	}
	r.Reason = summary(r.Problems)
}

const reasonsShown = 3

func summary(p []ClusterProblem) string {
	var parts []string
	for _, x := range p[:min(len(p), reasonsShown)] {
		parts = append(parts, x.String())
	}
	if k := len(p) - reasonsShown; k > 0 {
		parts = append(parts, fmt.Sprintf("%d more", k))
	}
	return strings.Join(parts, "; ")
}

func (p ClusterProblem) String() string {
	if p.Node == "" {
		return p.Text
	}
	return p.Node + " " + p.Text
}

var kinds = []string{"uncovered", "failed", "unreachable", "owners", "open", "loading", "state", "disagree", "unknown", "epoch", "replicas", "link"}

func kindRank(k string) int { return slices.Index(kinds, k) }

func clusterRow(m *clusterMap, n *clusterNode) ClusterRow {
	r := ClusterRow{Addr: n.name(), ID: n.id, Role: roleOf(&n.nodeLine), State: "ok", Slots: n.slots.Len(), Ranges: n.slots.String(),
		Keys: n.keys, Replicas: len(m.replicasOf(n.id)), Epoch: n.epoch, Memory: n.memory}
	if o := m.byID[n.master]; o != nil {
		r.Master = o.name()
	} else if n.master != "" {
		r.Master = short(n.master)
	}
	switch {
	case !n.up():
		r.State = n.err.Error()
	case len(n.migrating)+len(n.importing) > 0:
		r.State = "open slots"
	case !n.isMaster() && !n.linkUp:
		r.State = "link down"
	case n.state != "ok":
		r.State = "cluster_state " + n.state
	}
	return r
}

func roleOf(l *nodeLine) string {
	if l.isMaster() {
		return "master"
	}
	return "replica"
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

const briefLen = 48

// brief is the ranges of a set, cut to what a line of a table holds.
func brief(s *slotSet) string { return cutRanges(s.String()) }

func cutRanges(t string) string {
	if len(t) <= briefLen {
		return t
	}
	cut := strings.LastIndexByte(t[:briefLen], ',')
	if cut < 0 {
		return t
	}
	return fmt.Sprintf("%s,… %d more", t[:cut], strings.Count(t[cut+1:], ",")+1)
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}
