package cluster

import (
	"net"
	"strconv"
	"sync"
	"testing"
)

// wire carries connections to a port of a node. Those from some addresses can
// be held: silently, as when a cable is pulled (connections stand, nothing that
// was sent arrives until it is plugged in again), or cut.
type wire struct {
	port, to int
	ln       net.Listener

	mu      sync.Mutex
	changed *sync.Cond
	held    func(from string) bool
	closed  bool
	conns   map[net.Conn]string // both ends of each, with where it comes from
	wg      sync.WaitGroup
}

func newWire(t *testing.T, to int) *wire {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(freePort(t))))
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{port: ln.Addr().(*net.TCPAddr).Port, to: to, ln: ln, conns: map[net.Conn]string{}}
	w.changed = sync.NewCond(&w.mu)
	w.wg.Add(1)
	go w.accept()
	t.Cleanup(w.close)
	return w
}

func (w *wire) accept() {
	defer w.wg.Done()
	for {
		c, err := w.ln.Accept()
		if err != nil {
			return
		}
		w.wg.Add(1)
		go func() {
			defer w.wg.Done()
			w.carry(c)
		}()
	}
}

func (w *wire) close() {
	_ = w.ln.Close()
	w.mu.Lock()
	w.closed = true
	for c := range w.conns {
		_ = c.Close()
	}
	w.mu.Unlock()
	w.changed.Broadcast()
	w.wg.Wait()
}

// hold holds what comes from where held says, nil for nothing. If cut is set,
// it also ends those connections.
func (w *wire) hold(held func(from string) bool, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held = held
	for c, from := range w.conns {
		if cut && held != nil && held(from) {
			_ = c.Close()
		}
	}
	w.changed.Broadcast()
}

// pass waits while connections from an address are held; false: the wire ends.
func (w *wire) pass(from string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for !w.closed && w.held != nil && w.held(from) {
		w.changed.Wait()
	}
	return !w.closed
}

// add notes an end of a connection; false: the wire ends.
func (w *wire) add(c net.Conn, from string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.conns[c] = from
	}
	return !w.closed
}

func (w *wire) carry(c net.Conn) {
	from, _, _ := net.SplitHostPort(c.RemoteAddr().String())
	ends := []net.Conn{c}
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, e := range ends {
			_ = e.Close()
			delete(w.conns, e)
		}
	}()
	if !w.add(c, from) || !w.pass(from) {
		return
	}
	up, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(w.to)))
	if err != nil {
		return
	}
	ends = append(ends, up)
	if !w.add(up, from) {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.pump(up, c, from)
	}()
	w.pump(c, up, from)
	<-done
}

// pump copies one direction until either end closes or the wire ends.
func (w *wire) pump(dst, src net.Conn, from string) {
	defer func() { _, _ = dst.Close(), src.Close() }()
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if !w.pass(from) {
			return
		}
		if _, e := dst.Write(buf[:n]); e != nil || err != nil {
			return
		}
	}
}

// network is a cluster every node of which is reached, by the others and by
// clients, only over wires of the test.
type network struct {
	t         *testing.T
	nodes     []*node
	data, bus []*wire
	args      [][]string
	ours      []bool
}

// source is where the connections of a node come from; those of clients come
// from 127.0.0.1.
func source(i int) string { return "127.0.0." + strconv.Itoa(10+i) }

// wired starts three masters and then a replica of each, behind wires.
func wired(t *testing.T, masters, replicas bool) *network {
	t.Helper()
	x := &network{t: t}
	for i := range 6 {
		port := freePort(t)
		data, bus := newWire(t, port), newWire(t, port+busAbove)
		args := []string{"--bind-source-addr", source(i), "--cluster-announce-ip", "127.0.0.1", "--repl-timeout", "5",
			"--cluster-announce-port", strconv.Itoa(data.port), "--cluster-announce-bus-port", strconv.Itoa(bus.port)}
		ours := i < 3 && masters || i >= 3 && replicas
		x.data, x.bus, x.args, x.ours = append(x.data, data), append(x.bus, bus), append(x.args, args), append(x.ours, ours)
		x.nodes = append(x.nodes, launch(t, ours, t.TempDir(), port, args...))
	}
	patiently(t, x.nodes, x.form)
	return x
}

// form makes the nodes a cluster.
func (x *network) form() {
	x.t.Helper()
	for i, n := range x.nodes[:3] {
		n.do("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(i*5500), strconv.Itoa(min(i*5500+5499, 16383)))
		n.do("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
	}
	for i := range x.nodes[1:] {
		x.nodes[0].do("CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(x.data[i+1].port), strconv.Itoa(x.bus[i+1].port))
	}
	acquainted(x.t, x.nodes) // else nobody would vote for a replica that only its master knew
	for i, n := range x.nodes[3:] {
		n.do("CLUSTER", "REPLICATE", x.nodes[i].id())
	}
	settled(x.t, x.nodes)
}

// again starts a node that was killed.
func (x *network) again(i int) {
	x.t.Helper()
	x.nodes[i] = launch(x.t, x.ours[i], x.nodes[i].p.Spec.Dir, x.nodes[i].port, x.args[i]...)
}

// clientAddrs is where clients reach the nodes.
func (x *network) clientAddrs() (out []string) {
	for _, w := range x.data {
		out = append(out, net.JoinHostPort("127.0.0.1", strconv.Itoa(w.port)))
	}
	return out
}

// part separates some nodes from the others and from the clients.
func (x *network) part(away []int, cut bool) {
	gone := map[string]bool{}
	for _, i := range away {
		gone[source(i)] = true
	}
	for i := range x.nodes {
		held := func(from string) bool { return gone[from] != gone[source(i)] }
		x.data[i].hold(held, cut)
		x.bus[i].hold(held, cut)
	}
}

func (x *network) heal() {
	for i := range x.nodes {
		x.data[i].hold(nil, false)
		x.bus[i].hold(nil, false)
	}
}
