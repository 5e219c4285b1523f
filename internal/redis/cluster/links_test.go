package cluster

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// buffered is a host on whose links bytes wait.
type buffered struct {
	*fakeHost
	alloc, used map[LinkID]int64
}

func (h buffered) LinkBuffer(id LinkID) (alloc, used int64) { return h.alloc[id], h.used[id] }

// linkMap is the entry of CLUSTER LINKS about a link.
func (r *rig) linkMap(direction, node string) map[string]Value {
	r.t.Helper()
	for _, e := range r.command("LINKS").Elems {
		m := map[string]Value{}
		for i := 0; i < len(e.Elems); i += 2 {
			m[e.Elems[i].Str] = e.Elems[i+1]
		}
		if m["direction"].Str == direction && m["node"].Str == node {
			return m
		}
	}
	return nil
}

func (r *rig) command(args ...string) Value {
	r.t.Helper()
	for _, e := range r.step(Command{Args: args}) {
		if reply, ok := e.(Reply); ok {
			return reply.Value
		}
	}
	r.t.Fatal("no reply")
	panic("unreachable")
}

func TestLinksShowWhatIsWatchedFor(t *testing.T) {
	r := newRig(t, rulesConf)
	b := r.link[idB]
	h := buffered{r.host, map[LinkID]int64{}, map[LinkID]int64{}}
	r.c.host = h
	if m := r.linkMap("to", idB); m["events"].Str != "r" || m["send-buffer-allocated"].Int != 0 {
		t.Errorf("idle: %v", m)
	}
	h.alloc[b] = 5114
	if m := r.linkMap("to", idB); m["events"].Str != "r" || m["send-buffer-allocated"].Int != 5114 || m["send-buffer-used"].Int != 0 {
		t.Errorf("a packet was sent: %v", m)
	}
	h.used[b] = 2360
	if m := r.linkMap("to", idB); m["events"].Str != "rw" || m["send-buffer-used"].Int != 2360 {
		t.Errorf("a packet waits: %v", m)
	}
	// It breaks, and the next one is not there yet.
	r.now = r.now.Add(200 * time.Millisecond)
	r.step(LinkDown{Link: b, Err: "connection closed by peer"})
	r.now = r.now.Add(200 * time.Millisecond)
	r.step(Timer{})
	if m := r.linkMap("to", idB); m == nil || m["events"].Str != "" {
		t.Errorf("being connected: %v", m)
	}
	for line := range strings.Lines(r.command("NODES").Str) {
		if strings.HasPrefix(line, idB) && !strings.Contains(line, " connected ") {
			t.Errorf("a node that we have a link to, of whatever state, is shown as %s", line)
		}
	}
}

// Whenever one looks: what happened once happened at one time.
func TestTimesShownDoNotChange(t *testing.T) {
	start := testStart.Add(700 * time.Microsecond)
	c, err := New(start, DefaultConfig(7000), Options{Rand: rand.New(rand.NewPCG(1, 1)), Host: &fakeHost{}, State: []byte(rulesConf)})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, c: c, now: start, link: map[string]LinkID{}}
	r.connect(c.Start(start))
	r.hear(r.packet(idB, MsgPong))
	r.now = r.now.Add(100 * time.Microsecond)
	created := r.linkMap("to", idB)["create-time"].Int
	view := r.command("NODES").Str
	for range 20 {
		r.now = r.now.Add(170 * time.Microsecond)
		if m := r.linkMap("to", idB); m["create-time"].Int != created {
			t.Fatalf("created at %d, which was %d", m["create-time"].Int, created)
		}
		if now := r.command("NODES").Str; now != view {
			t.Fatalf("with nothing said or heard it became\n%s\nwhat was\n%s", now, view)
		}
	}
}

func TestLinkThatExceededItsLimitIsTold(t *testing.T) {
	r := newRig(t, rulesConf)
	in := Inbound | 1
	r.step(InboundUp{in, "127.0.0.1", "127.0.0.1"})
	r.step(Packet{in, r.packet(idB, MsgPing)})
	stranger := Inbound | 2
	r.step(InboundUp{stranger, "127.0.0.1", "127.0.0.1"})
	for i, c := range []struct {
		link LinkID
		size int64
		want string
	}{
		{r.link[idB], 327670, "Freeing cluster link(to node " + idB + ", used memory: 327670) due to exceeding send buffer memory limit."},
		{in, 5114, "Freeing cluster link(from node " + idB + ", used memory: 5114) due to exceeding send buffer memory limit."},
		{stranger, 5114, "Freeing cluster link(from node , used memory: 5114) due to exceeding send buffer memory limit."},
	} {
		told := false
		for _, e := range r.step(LinkDown{Link: c.link, BufferLimit: true, Buffer: c.size}) {
			if l, ok := e.(Log); ok && l.Level == Warning && l.Text == c.want {
				told = true
			}
		}
		if !told {
			t.Errorf("not logged: %s", c.want)
		}
		if info := r.command("INFO").Str; !strings.Contains(info, "total_cluster_links_buffer_limit_exceeded:"+string(rune('1'+i))+"\r\n") {
			t.Errorf("%d links exceeded their limit:\n%s", i+1, info)
		}
	}
	for _, e := range r.step(LinkDown{Link: r.link[idD], Err: "connection closed by peer"}) {
		if l, ok := e.(Log); ok && strings.HasPrefix(l.Text, "Freeing") {
			t.Error(l.Text)
		}
	}
}
