package cluster

import (
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/internal/redis/cluster/slot"
	"holdfast/test/proc"
)

// rounds is how often something random is repeated: HOLDFAST_SOAK, or few.
func rounds(t *testing.T, few int) int {
	t.Helper()
	v := os.Getenv("HOLDFAST_SOAK")
	if v == "" {
		return few
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		t.Fatalf("HOLDFAST_SOAK is %q, not a number of rounds", v)
	}
	return n
}

// prober writes to one slot, wherever it is served, without a pause.
type prober struct {
	nodes []*node
	conns map[int]*proc.Conn
	key   string
	at    int // port
	next  int
}

const probeTime = 300 * time.Millisecond // for one attempt

func (p *prober) close() {
	for _, c := range p.conns {
		c.Close()
	}
}

// write tries once and learns where to go next.
func (p *prober) write() bool {
	elsewhere := func() bool {
		p.next++
		p.at = p.nodes[p.next%len(p.nodes)].port
		return false
	}
	c := p.conns[p.at]
	if c == nil {
		var err error
		if c, err = proc.Dial(p.at, probeTime); err != nil {
			return elsewhere()
		}
		p.conns[p.at] = c
	}
	v, err := c.Do("SET", p.key, "v")
	if err != nil {
		c.Close()
		delete(p.conns, p.at)
		return elsewhere()
	}
	if v.Err() == nil {
		return true
	}
	if f := strings.Fields(v.Str); f[0] == "MOVED" && len(f) == 3 {
		_, port, _ := net.SplitHostPort(f[2])
		if to, _ := strconv.Atoi(port); to != p.at && to != 0 {
			p.at = to
			return false
		}
	}
	return elsewhere()
}

// outage kills the master of the slots and measures until they are served again.
func outage(t *testing.T, nodes []*node, victim *node) time.Duration {
	t.Helper()
	first := strings.Split(fields(victim, 8), "-")[0]
	want, err := strconv.Atoi(first)
	if err != nil {
		t.Fatalf("%s has no slots: %q", victim.addr(), first)
	}
	p := &prober{nodes: nodes, conns: map[int]*proc.Conn{}, at: victim.port}
	defer p.close()
	for i := 0; p.key == ""; i++ {
		if k := key("probe", i); slot.OfString(k) == want {
			p.key = k
		}
	}
	for end, served := time.Now().Add(deadline), 0; served < 20; {
		if p.write() {
			served++
		} else if time.Now().After(end) {
			t.Fatalf("%s does not serve slot %d", victim.addr(), want)
		}
	}
	last := time.Now()
	victim.p.Kill()
	for end := last.Add(deadline); !p.write(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			for _, n := range nodes {
				t.Logf("%s\n%s", n.addr(), n.p.Output())
			}
			t.Fatalf("slot %d of %s is not served again", want, victim.addr())
		}
	}
	return time.Since(last)
}

func middle(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

// TestUnavailabilityAfterAKill: the slots of a master that is killed are served
// again; how long that takes is measured beside genuine Redis in the same run.
func TestUnavailabilityAfterAKill(t *testing.T) {
	t.Parallel()
	n := rounds(t, 2)
	var clusters [2][]*node
	kinds := [2]bool{true, false} // ours
	for i, ours := range kinds {
		clusters[i] = startCluster(t, ours, 3, "--cluster-node-timeout", "1000")
	}
	var took [2][]time.Duration
	for round := range n {
		for i, ours := range kinds {
			nodes := clusters[i]
			// Whoever is master of the pair now.
			pair := [2]int{round % 3, round%3 + 3}
			at := pair[0]
			if nodes[at].do("ROLE").List[0].Text() != "master" {
				at = pair[1]
			}
			d := outage(t, nodes, nodes[at])
			took[i] = append(took[i], d)
			t.Logf("round %d, ours %v: %d ms", round+1, ours, d.Milliseconds())
			if os.Getenv("HOLDFAST_LOGS") != "" && ours {
				for _, x := range nodes {
					t.Logf("%s\n%s", x.addr(), x.p.Output())
				}
			}
			nodes[at] = launch(t, ours, nodes[at].p.Spec.Dir, nodes[at].port, "--cluster-node-timeout", "1000")
			settled(t, nodes)
		}
	}
	a, b := middle(took[0]), middle(took[1])
	t.Logf("unavailable, median of %d: ours %d ms, genuine %d ms, ratio %.2f", n, a.Milliseconds(), b.Milliseconds(), float64(a)/float64(b))
}

// startCluster makes a cluster of one kind: masters, then a replica of each.
func startCluster(t *testing.T, ours bool, masters int, args ...string) []*node {
	t.Helper()
	var nodes []*node
	for range 2 * masters {
		nodes = append(nodes, launch(t, ours, t.TempDir(), freePort(t), args...))
	}
	join(t, nodes, masters)
	return nodes
}
