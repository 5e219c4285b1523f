package cluster

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// relay passes connections on to a port of a node, until it is cut for those
// that come from some address.
type relay struct {
	port int // where it listens
	ln   net.Listener

	mu    sync.Mutex
	cut   func(from string) bool
	conns map[net.Conn]string // both ends of each, with where it comes from
	wg    sync.WaitGroup
}

func newRelay(t *testing.T, to int) *relay {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(freePort(t)))
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{port: ln.Addr().(*net.TCPAddr).Port, ln: ln, conns: map[net.Conn]string{}}
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			r.wg.Add(1)
			go func() {
				defer r.wg.Done()
				r.carry(c, to)
			}()
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		r.set(func(string) bool { return true })
		r.wg.Wait()
	})
	return r
}

// carry serves one connection.
func (r *relay) carry(c net.Conn, to int) {
	from, _, _ := net.SplitHostPort(c.RemoteAddr().String())
	up, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(to))
	if err != nil {
		_ = c.Close()
		return
	}
	r.mu.Lock()
	cut := r.cut != nil && r.cut(from)
	if !cut {
		r.conns[c], r.conns[up] = from, from
	}
	r.mu.Unlock()
	var both sync.WaitGroup
	if !cut {
		for _, p := range [][2]net.Conn{{c, up}, {up, c}} {
			both.Add(1)
			go func() {
				defer both.Done()
				_, _ = io.Copy(p[0], p[1])
				_, _ = p[0].Close(), p[1].Close()
			}()
		}
	}
	both.Wait()
	_, _ = c.Close(), up.Close()
	r.mu.Lock()
	delete(r.conns, c)
	delete(r.conns, up)
	r.mu.Unlock()
}

// set cuts connections from where cut says, and ends those that exist.
func (r *relay) set(cut func(from string) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = cut
	for c, from := range r.conns {
		if cut != nil && cut(from) {
			_ = c.Close()
		}
	}
}

// TestMinorityStopsAndLosesOnlyItsOwn: a master that the others cannot reach
// accepts writes for no longer than about the node timeout. When it is back it
// is a replica; what it had accepted alone, and nothing else, is gone from the
// cluster, and stands in its divergence file.
func TestMinorityStopsAndLosesOnlyItsOwn(t *testing.T) {
	t.Parallel()
	const alone = "127.0.0.2" // where the connections of the first node come from
	everything := func(string) bool { return true }
	fromIt := func(from string) bool { return from == alone }
	var nodes []*node
	var relays []*relay
	var cuts []func(string) bool
	dir := t.TempDir()
	for i := range 6 {
		port, args, where := freePort(t), []string{"--repl-timeout", "5"}, t.TempDir()
		bus := newRelay(t, port+busAbove)
		relays, cuts = append(relays, bus), append(cuts, fromIt)
		if i == 0 {
			// Its clients' port is relayed, too: its replica comes from there.
			data := newRelay(t, port)
			relays, cuts = append(relays, data), append(cuts, everything)
			cuts[0], where = everything, dir
			args = append(args, "--bind-source-addr", alone, "--cluster-announce-ip", "127.0.0.1", "--cluster-announce-port", strconv.Itoa(data.port))
		}
		args = append(args, "--cluster-announce-bus-port", strconv.Itoa(bus.port))
		nodes = append(nodes, launch(t, true, where, port, args...))
	}
	busOf := func(i int) int {
		if i > 0 {
			i++ // behind the two of the first
		}
		return relays[i].port
	}
	setTimeout(nodes, patientTimeout) // until one is cut off
	formOver(t, nodes, busOf)
	withRelays(t, nodes, relays, cuts, dir)
}

// formOver makes a cluster of three masters and their replicas, whose buses are
// reached at other ports.
func formOver(t *testing.T, nodes []*node, busOf func(i int) int) {
	t.Helper()
	for i, n := range nodes[:3] {
		n.do("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(i*5500), strconv.Itoa(min(i*5500+5499, 16383)))
		n.do("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
	}
	for i, n := range nodes[1:] {
		nodes[0].do("CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(n.port), strconv.Itoa(busOf(i+1)))
	}
	for i, n := range nodes[3:] {
		n.eventually("it knows its master", func() bool { return strings.Contains(n.do("CLUSTER", "NODES").Text(), nodes[i].id()) })
		n.do("CLUSTER", "REPLICATE", nodes[i].id())
	}
	acquainted(t, nodes)
	settled(t, nodes)
}

// withRelays cuts the first node off, and brings it back.
func withRelays(t *testing.T, nodes []*node, relays []*relay, cuts []func(string) bool, dir string) {
	t.Helper()
	master, heir := nodes[0], nodes[3]
	tag := ""
	for i := 0; tag == ""; i++ {
		if k := key("t", i); master.do("CLUSTER", "KEYSLOT", k).Int < 5500 {
			tag = "{" + k + "}"
		}
	}
	c := master.dial()
	defer c.Close()
	set := func(k string) string {
		v, err := c.Do("SET", tag+k, k)
		if err != nil {
			t.Fatal(err)
		}
		return v.Str
	}
	if got := set("before"); got != "OK" {
		t.Fatal(got)
	}
	if n, err := c.Must("WAIT", "1", "30000"); err != nil || n.Int != 1 {
		t.Fatalf("no replica has it: %v, %v", n, err)
	}

	setTimeout(nodes, quickTimeout)
	for i, r := range relays {
		r.set(cuts[i])
	}
	cut := time.Now()
	accepted := 0
	for end := cut.Add(deadline); ; accepted++ {
		got := set(key("alone", accepted))
		if strings.HasPrefix(got, "CLUSTERDOWN") {
			break
		}
		if got != "OK" || time.Now().After(end) {
			t.Fatalf("it answers %q, %s behind the cut", got, time.Since(cut))
		}
		time.Sleep(2 * time.Millisecond)
	}
	t.Logf("it took %d writes in %d ms, the node timeout being %s ms", accepted, time.Since(cut).Milliseconds(), quickTimeout)
	heir.eventually("it is master", func() bool {
		return heir.do("ROLE").List[0].Text() == "master" && heir.try("SET", tag+"after", "after").Err() == nil
	})
	if got := set("too-late"); !strings.HasPrefix(got, "CLUSTERDOWN") {
		t.Errorf("it answers %q when another one is master", got)
	}

	for _, r := range relays {
		r.set(nil)
	}
	setTimeout(nodes, patientTimeout) // nobody is to fail any more
	master.eventually("it follows", func() bool { return master.do("ROLE").List[0].Text() == "slave" })
	settled(t, nodes)
	for _, k := range []string{"before", "after"} {
		if got := heir.do("GET", tag+k); got.Text() != k {
			t.Errorf("%s is %q", k, got.Text())
		}
	}
	if n := heir.do("DBSIZE").Int; n != 2 {
		t.Errorf("%d keys, not 2", n)
	}
	files, err := filepath.Glob(filepath.Join(dir, "divergence-*.resp"))
	if err != nil || len(files) != 1 {
		t.Fatalf("divergence files: %q, %v\n%s", files, err, master.p.Output())
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for i := range accepted {
		if !strings.Contains(string(text), "\r\n"+tag+key("alone", i)+"\r\n") {
			t.Fatalf("%s, which it had accepted, is not in the divergence file:\n%s", key("alone", i), text)
		}
	}
	if strings.Contains(string(text), tag+"before") {
		t.Error("what the others have is in the divergence file")
	}
}
