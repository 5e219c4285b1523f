package ops

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"holdfast/internal/redis/cluster/slot"
)

// slotSet is a set of hash slots. The zero value is empty; it compares with ==.
type slotSet struct{ slot.Set }

// list is all members, ascending.
func (s *slotSet) list() []int {
	out := make([]int, 0, s.Len())
	s.Each(func(n int) { out = append(out, n) })
	return out
}

func slotsOf(list []int) *slotSet {
	s := new(slotSet)
	for _, n := range list {
		s.Add(n)
	}
	return s
}

// nodeLine is one line of CLUSTER NODES: what one node says of another, or of
// itself.
type nodeLine struct {
	id       string
	host     string // "" when the node does not know its own address yet
	port     int
	hostname string
	flags    []string
	master   string // of a replica; "" for a master
	epoch    uint64
	slots    slotSet
	// Open slots, on the line of a node about itself only, with the id of the
	// node at the other end.
	migrating, importing map[int]string
}

func (l *nodeLine) has(flag string) bool { return slices.Contains(l.flags, flag) }
func (l *nodeLine) isMaster() bool       { return !l.has("slave") }
func (l *nodeLine) addr() string         { return net.JoinHostPort(l.host, strconv.Itoa(l.port)) }

// maxNodes bounds how many lines of CLUSTER NODES are believed.
const maxNodes = 16384

// parseNodes reads the reply of CLUSTER NODES.
func parseNodes(text string) ([]*nodeLine, error) {
	var out []*nodeLine
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			continue
		}
		l, err := parseNodeLine(line)
		if err != nil {
			return nil, fmt.Errorf("CLUSTER NODES: %w in line %q", err, line)
		}
		if len(out) == maxNodes {
			return nil, fmt.Errorf("CLUSTER NODES: more than %d nodes", maxNodes)
		}
		out = append(out, l)
	}
	return out, nil
}

func parseNodeLine(line string) (*nodeLine, error) {
	f := strings.Fields(line)
	if len(f) < 8 {
		return nil, fmt.Errorf("%d fields instead of 8 or more", len(f))
	}
	l := &nodeLine{id: f[0], flags: strings.Split(f[2], ",")}
	var err error
	if l.host, l.port, l.hostname, err = parseNodeAddr(f[1]); err != nil {
		return nil, err
	}
	if f[3] != "-" {
		l.master = f[3]
	}
	if l.epoch, err = strconv.ParseUint(f[6], 10, 64); err != nil {
		return nil, fmt.Errorf("config epoch: %w", err)
	}
	for _, s := range f[8:] {
		if err := l.addSlots(s); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// parseNodeAddr reads ip:port@busport[,hostname[,aux...]].
func parseNodeAddr(s string) (host string, port int, hostname string, err error) {
	addr, rest, _ := strings.Cut(s, ",")
	hostname, _, _ = strings.Cut(rest, ",")
	addr, _, _ = strings.Cut(addr, "@")
	i := strings.LastIndexByte(addr, ':')
	if i < 0 {
		return "", 0, "", fmt.Errorf("address %q without a port", s)
	}
	if port, err = strconv.Atoi(addr[i+1:]); err != nil || port < 0 || port > 65535 {
		return "", 0, "", fmt.Errorf("port of address %q", s)
	}
	return addr[:i], port, hostname, nil
}

// addSlots reads "5", "5-9", "[5->-ID]" and "[5-<-ID]".
func (l *nodeLine) addSlots(s string) error {
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		return l.addOpenSlot(s[1 : len(s)-1])
	}
	a, b, isRange := strings.Cut(s, "-")
	from, err := parseSlot(a)
	if err != nil {
		return err
	}
	to := from
	if isRange {
		if to, err = parseSlot(b); err != nil {
			return err
		}
	}
	for n := from; n <= to; n++ {
		l.slots.Add(n)
	}
	return nil
}

func (l *nodeLine) addOpenSlot(s string) error {
	if a, id, ok := strings.Cut(s, "->-"); ok {
		n, err := parseSlot(a)
		if err != nil {
			return err
		}
		if l.migrating == nil {
			l.migrating = map[int]string{}
		}
		l.migrating[n] = id
		return nil
	}
	a, id, ok := strings.Cut(s, "-<-")
	if !ok {
		return fmt.Errorf("open slot %q", s)
	}
	n, err := parseSlot(a)
	if err != nil {
		return err
	}
	if l.importing == nil {
		l.importing = map[int]string{}
	}
	l.importing[n] = id
	return nil
}

func parseSlot(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n >= slot.Count {
		return 0, fmt.Errorf("slot %q is not in 0-%d", s, slot.Count-1)
	}
	return n, nil
}

// clusterNode is one node of a cluster: what it says of itself or, when it does
// not answer, what the others say of it.
type clusterNode struct {
	nodeLine
	err    error                // why it does not answer; nil when it does
	view   map[string]*nodeLine // what it says of all, by id; nil when it does not answer
	state  string               // cluster_state of CLUSTER INFO
	keys   int64
	memory string
	linkUp bool // of a replica
	offset int64
}

func (n *clusterNode) up() bool { return n.err == nil }

// name is how tables call the node.
func (n *clusterNode) name() string { return n.addr() }

// clusterMap is everything that all nodes said, at about one time.
type clusterMap struct {
	nodes []*clusterNode // by address
	byID  map[string]*clusterNode
}

func newClusterMap(nodes []*clusterNode) *clusterMap {
	m := &clusterMap{nodes: nodes, byID: make(map[string]*clusterNode, len(nodes))}
	slices.SortFunc(m.nodes, func(a, b *clusterNode) int {
		if c := strings.Compare(a.host, b.host); c != 0 {
			return c
		}
		if a.port != b.port {
			return a.port - b.port
		}
		return strings.Compare(a.id, b.id)
	})
	for _, n := range nodes {
		m.byID[n.id] = n
	}
	return m
}

// masters are the masters, those that do not answer included.
func (m *clusterMap) masters() (out []*clusterNode) {
	for _, n := range m.nodes {
		if n.isMaster() {
			out = append(out, n)
		}
	}
	return out
}

// live are the masters that answer.
func (m *clusterMap) live() (out []*clusterNode) {
	for _, n := range m.masters() {
		if n.up() {
			out = append(out, n)
		}
	}
	return out
}

func (m *clusterMap) replicasOf(id string) (out []*clusterNode) {
	for _, n := range m.nodes {
		if !n.isMaster() && n.master == id {
			out = append(out, n)
		}
	}
	return out
}

// claimants are the masters that say that they own a slot.
func (m *clusterMap) claimants(n int) (out []*clusterNode) {
	for _, c := range m.nodes {
		if c.isMaster() && c.slots.Has(n) {
			out = append(out, c)
		}
	}
	return out
}

// owner is the only claimant of a slot, or nil.
func (m *clusterMap) owner(n int) *clusterNode {
	if c := m.claimants(n); len(c) == 1 {
		return c[0]
	}
	return nil
}

// openSlots are all slots that some node says are migrating or importing.
func (m *clusterMap) openSlots() []int {
	var s slotSet
	for _, n := range m.nodes {
		for k := range n.migrating {
			s.Add(k)
		}
		for k := range n.importing {
			s.Add(k)
		}
	}
	return s.list()
}

// find looks a node up by id, by the beginning of an id, or by address.
func (m *clusterMap) find(what string) (*clusterNode, error) {
	if n := m.byID[what]; n != nil {
		return n, nil
	}
	var found []*clusterNode
	for _, n := range m.nodes {
		switch {
		case strings.Contains(what, ":"):
			if n.addr() == what || (n.hostname != "" && net.JoinHostPort(n.hostname, strconv.Itoa(n.port)) == what) {
				found = append(found, n)
			}
		case what != "" && strings.HasPrefix(n.id, strings.ToLower(what)):
			found = append(found, n)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, fmt.Errorf("no node %s in the cluster; `holdfast cluster info` lists addresses and ids", what)
	}
	return nil, fmt.Errorf("%s may be any of %d nodes; give more of its id", what, len(found))
}

// ClusterAddr completes an address as users write it: host:port, :port, port,
// ::1:port or [::1]:port.
func ClusterAddr(s string) (string, error) {
	host, port := "", s
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		host, port = strings.Trim(s[:i], "[]"), s[i+1:]
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return "", fmt.Errorf("%q is no address; write HOST:PORT", s)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}
