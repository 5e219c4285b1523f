package cluster

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/test/proc"
)

// fakeHost is a Host whose answers a test sets.
type fakeHost struct {
	mu   sync.Mutex
	data Data
	keys map[int][]string
}

func (h *fakeHost) Data() Data {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.data
	if d.MasterLinkUp {
		d.MasterSeen = time.Now()
	}
	return d
}
func (h *fakeHost) CountKeysInSlot(s int) int { return len(h.keys[s]) }
func (h *fakeHost) KeysInSlot(s, n int) []string {
	return h.keys[s][:n]
}
func (h *fakeHost) LinkBuffer(LinkID) (int64, int64) { return 0, 0 }

func (h *fakeHost) set(f func(*Data)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(&h.data)
}

// busNode runs a core over real sockets, without data: enough to live in one
// cluster with genuine nodes.
type busNode struct {
	t     *testing.T
	core  *Core
	host  *fakeHost
	in    chan func()
	done  chan struct{}
	ln    net.Listener
	conns map[LinkID]net.Conn
	next  LinkID
	log   []string
	reply Value
	wg    sync.WaitGroup
}

func startBusNode(t *testing.T, port int, timeout time.Duration, state []byte) *busNode {
	t.Helper()
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+BusPortIncr))
	if err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig(port)
	cfg.NodeTimeout = timeout
	b := &busNode{t: t, host: &fakeHost{data: Data{Empty: true}}, in: make(chan func(), 1000), done: make(chan struct{}), ln: ln, conns: map[LinkID]net.Conn{}}
	b.core, err = New(time.Now(), cfg, Options{Rand: rand.New(rand.NewPCG(uint64(port), 1)), Host: b.host, State: state})
	if err != nil {
		t.Fatal(err)
	}
	b.wg.Go(b.loop)
	b.wg.Go(b.accept)
	t.Cleanup(b.stop)
	return b
}

func (b *busNode) stop() {
	select {
	case <-b.done:
		return
	default:
	}
	close(b.done)
	b.ln.Close()
	b.wg.Wait()
}

func (b *busNode) post(f func()) {
	select {
	case b.in <- f:
	case <-b.done:
	}
}

func (b *busNode) accept() {
	for {
		conn, err := b.ln.Accept()
		if err != nil {
			return
		}
		b.post(func() {
			b.next++
			id := b.next | Inbound
			b.conns[id] = conn
			b.run(b.core.Step(time.Now(), InboundUp{id, hostOf(conn.RemoteAddr()), hostOf(conn.LocalAddr())}))
			go b.read(id, conn)
		})
	}
}

func hostOf(a net.Addr) string {
	h, _, _ := net.SplitHostPort(a.String())
	return h
}

func (b *busNode) read(id LinkID, conn net.Conn) {
	r := bufio.NewReader(conn)
	for {
		head := make([]byte, HeadLen)
		_, err := io.ReadFull(r, head)
		n := 0
		if err == nil {
			n, err = PacketLen(head)
		}
		p := head
		if err == nil {
			p = append(head, make([]byte, n-HeadLen)...)
			_, err = io.ReadFull(r, p[HeadLen:])
		}
		if err != nil {
			b.post(func() {
				if b.conns[id] == conn {
					conn.Close()
					delete(b.conns, id)
					b.run(b.core.Step(time.Now(), LinkDown{Link: id, Err: err.Error()}))
				}
			})
			return
		}
		b.post(func() { b.run(b.core.Step(time.Now(), Packet{id, p})) })
	}
}

func (b *busNode) loop() {
	b.run(b.core.Start(time.Now()))
	timer := time.NewTimer(0)
	for {
		timer.Reset(time.Until(b.core.Deadline()))
		select {
		case f := <-b.in:
			f()
		case <-timer.C:
			b.run(b.core.Step(time.Now(), Timer{}))
		case <-b.done:
			for _, c := range b.conns {
				c.Close()
			}
			return
		}
	}
}

func (b *busNode) run(effects []Effect) {
	for _, e := range effects {
		switch e := e.(type) {
		case Connect:
			go func() {
				conn, err := net.DialTimeout("tcp", net.JoinHostPort(e.IP, strconv.Itoa(e.Port)), time.Second)
				b.post(func() {
					if err != nil {
						b.run(b.core.Step(time.Now(), LinkDown{Link: e.Link, Err: err.Error()}))
						return
					}
					b.conns[e.Link] = conn
					go b.read(e.Link, conn)
					b.run(b.core.Step(time.Now(), LinkUp{e.Link, hostOf(conn.RemoteAddr()), hostOf(conn.LocalAddr())}))
				})
			}()
		case CloseLink:
			if c := b.conns[e.Link]; c != nil {
				delete(b.conns, e.Link)
				c.Close()
			}
		case Send:
			if c := b.conns[e.Link]; c != nil {
				_, _ = c.Write(e.Data)
			}
		case Log:
			b.log = append(b.log, e.Text)
		case Reply:
			b.reply = e.Value
		}
	}
}

// cluster carries out a CLUSTER subcommand.
func (b *busNode) cluster(args ...string) Value {
	var v Value
	b.do(func() {
		b.run(b.core.Step(time.Now(), Command{Args: args}))
		v = b.reply
	})
	return v
}

// do runs f on the node's own goroutine.
func (b *busNode) do(f func()) {
	ch := make(chan struct{})
	b.post(func() { f(); close(ch) })
	select {
	case <-ch:
	case <-b.done:
	}
}

func (b *busNode) logged(s string) (found bool) {
	b.do(func() {
		for _, l := range b.log {
			found = found || strings.Contains(l, s)
		}
	})
	return found
}

// genuine is a redis-server 7.0 in cluster mode.
type genuine struct {
	port int
	dir  string
	cmd  *exec.Cmd
}

// freePort finds a port that is free together with its bus port.
func freePort(t *testing.T) int {
	t.Helper()
	port, err := proc.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func startGenuine(t *testing.T, timeout time.Duration, nodesConf []byte, more ...string) *genuine {
	t.Helper()
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("redis-server is not installed")
	}
	if testing.Short() {
		t.Skip("short")
	}
	g := &genuine{port: freePort(t), dir: t.TempDir()}
	if nodesConf != nil {
		if err := os.WriteFile(filepath.Join(g.dir, "nodes.conf"), nodesConf, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	args := append([]string{"--port", strconv.Itoa(g.port), "--bind", "127.0.0.1", "--cluster-enabled", "yes", "--save", "",
		"--dir", g.dir, "--cluster-node-timeout", strconv.Itoa(int(timeout.Milliseconds())), "--repl-diskless-sync-delay", "0"}, more...)
	g.cmd = exec.Command(bin, args...)
	out, err := os.Create(filepath.Join(g.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	g.cmd.Stdout, g.cmd.Stderr = out, out
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out.Close()
	t.Cleanup(func() {
		g.kill()
		if t.Failed() {
			b, _ := os.ReadFile(filepath.Join(g.dir, "log"))
			t.Logf("log of the genuine node at %d:\n%s", g.port, b)
		}
	})
	waitFor(t, "a genuine node to answer", func() bool { _, err := g.try("PING"); return err == nil })
	return g
}

func (g *genuine) kill() {
	if g.cmd.ProcessState == nil {
		_ = g.cmd.Process.Kill()
		_ = g.cmd.Wait()
	}
}

func (g *genuine) do(t *testing.T, args ...string) Value {
	t.Helper()
	v, err := g.try(args...)
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return v
}

func (g *genuine) try(args ...string) (Value, error) {
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", g.port), time.Second)
	if err != nil {
		return Value{}, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := io.WriteString(conn, b.String()); err != nil {
		return Value{}, err
	}
	return readValue(bufio.NewReader(conn))
}

func readValue(r *bufio.Reader) (Value, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return Value{}, err
	}
	line = strings.TrimRight(line, "\r\n")
	n, _ := strconv.Atoi(line[1:])
	switch line[0] {
	case '+':
		return status(line[1:]), nil
	case '-':
		return errValue(line[1:]), nil
	case ':':
		return integer(int64(n)), nil
	case '$':
		if n < 0 {
			return Value{}, nil
		}
		p := make([]byte, n+2)
		if _, err := io.ReadFull(r, p); err != nil {
			return Value{}, err
		}
		return bulk(string(p[:n])), nil
	case '*':
		v := array()
		for range n {
			e, err := readValue(r)
			if err != nil {
				return v, err
			}
			v.Elems = append(v.Elems, e)
		}
		return v, nil
	}
	return Value{}, errors.New("strange reply " + line)
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited in vain for %s", what)
}

// resp2 is v as a RESP2 client sees it.
func resp2(v Value) string {
	switch v.Kind {
	case Null:
		return "nil"
	case Status:
		return "+" + v.Str
	case Error:
		return "-" + v.Str
	case Int:
		return fmt.Sprint(v.Int)
	case Bulk, Verbatim:
		return strconv.Quote(v.Str)
	}
	var parts []string
	for _, e := range v.Elems {
		parts = append(parts, resp2(e))
	}
	return "[" + strings.Join(parts, " ") + "]"
}
