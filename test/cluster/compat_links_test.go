package cluster

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/test/proc"
)

// busLink is an entry of CLUSTER LINKS.
type busLink struct {
	direction, node, events string
	created, alloc, used    int64
}

func busLinks(t *testing.T, v proc.Value) (out []busLink) {
	t.Helper()
	for _, e := range v.List {
		if len(e.List) != 12 {
			t.Fatalf("an entry of %d elements: %+v", len(e.List), e)
		}
		at := func(i int) proc.Value { return e.List[2*i+1] }
		out = append(out, busLink{at(0).Str, at(1).Str, at(3).Str, at(2).Int, at(4).Int, at(5).Int})
	}
	slices.SortFunc(out, func(a, b busLink) int { return strings.Compare(a.direction+a.node, b.direction+b.node) })
	return out
}

func (n *node) links() []busLink { return busLinks(n.t, n.do("CLUSTER", "LINKS")) }

// link is the link to or from a node; the zero value, if there is none.
func (n *node) link(direction, id string) busLink {
	for _, l := range n.links() {
		if l.direction == direction && l.node == id {
			return l
		}
	}
	return busLink{}
}

func (n *node) exceeded() string {
	_, rest, _ := strings.Cut(n.do("CLUSTER", "INFO").Str, "total_cluster_links_buffer_limit_exceeded:")
	count, _, _ := strings.Cut(rest, "\r\n")
	return count
}

// TestLinksShowTheSameBuffers publishes within a transaction, where nothing can
// be sent yet, so that the buffers of links are seen to grow.
func TestLinksShowTheSameBuffers(t *testing.T) {
	t.Parallel()
	bothSides(t, func(t *testing.T, s *side) {
		n := s.nodes[0]
		for _, size := range []int{10, 10000, 131072, 1100000} {
			const messages = 5
			var views [][]busLink
			n.eventually("nothing else waits on the links", func() bool {
				c := n.dial()
				defer c.Close()
				c.Send("MULTI")
				c.Send("CLUSTER", "LINKS")
				for range messages {
					c.Send("PUBLISH", "channel", strings.Repeat("x", size))
					c.Send("CLUSTER", "LINKS")
				}
				c.Send("EXEC")
				if err := c.Flush(); err != nil {
					t.Fatal(err)
				}
				var v proc.Value
				for range 2*messages + 3 {
					var err error
					if v, err = c.Recv(); err != nil {
						t.Fatal(err)
					}
				}
				views = nil
				for _, e := range v.List {
					if e.Kind == '*' {
						views = append(views, busLinks(t, e))
					}
				}
				return len(views) == messages+1 && len(views[0]) == 6 && !slices.ContainsFunc(views[0], func(l busLink) bool { return l.alloc > 0 })
			})
			for i, view := range views {
				var b strings.Builder
				for _, l := range view {
					fmt.Fprintf(&b, " %s %s %d/%d", l.direction, l.events, l.used, l.alloc)
				}
				s.note(fmt.Sprintf("%d messages of %d bytes", i, size), b.String())
			}
		}
	})
}

// TestLinkThatExceedsItsLimitIsReplaced fills the link to a node that stands
// still.
func TestLinkThatExceedsItsLimitIsReplaced(t *testing.T) {
	sizes := regexp.MustCompile(`Freeing cluster link\(to node ([0-9a-f]{40}), used memory: (\d+)\) due to exceeding send buffer memory limit\.`)
	onBoth(t, func(t *testing.T, k kind) {
		nodes := startNodes(t, k, 3)
		join(t, nodes, 3)
		n, stuck := nodes[0], nodes[1]
		n.eventually("there is a link to and from each", func() bool { return len(n.links()) == 4 })
		n.do("CONFIG", "SET", "cluster-node-timeout", "3600000")
		id := stuck.id()
		to, from := n.link("to", id), n.link("from", id)
		n.do("CONFIG", "SET", "cluster-link-sendbuf-limit", "262144")
		if got := n.exceeded(); got != "0" {
			t.Fatalf("%s links exceeded the limit already", got)
		}
		stuck.p.Signal(syscall.SIGSTOP)
		defer stuck.p.Signal(syscall.SIGCONT)
		message := strings.Repeat("x", 128<<10)
		n.eventually("the limit is exceeded", func() bool {
			n.do("PUBLISH", "channel", message)
			time.Sleep(20 * time.Millisecond) // so that the timer comes in between
			return n.exceeded() != "0"
		})
		n.eventually("there is another link", func() bool { return n.link("to", id).created > to.created })
		if now := n.link("from", id); now.created != from.created {
			t.Errorf("the link from the node is another one: %+v, was %+v", now, from)
		}
		told := func(line []string) bool { return line[1] == id }
		if lines := sizes.FindAllStringSubmatch(n.p.Output(), -1); !slices.ContainsFunc(lines, told) { // others may have exceeded it too
			t.Errorf("the log does not tell which link was freed: %q", lines)
		}
	})
}
