package peers

import (
	"net"
	"strconv"
	"sync"
	"testing"
)

// proxy stands between a replica and its master and cuts the link where it is
// told to: inside a command, a length, a snapshot.
type proxy struct {
	port   int
	target string

	mu    sync.Mutex
	ln    net.Listener
	pairs map[*pair]struct{}
	cuts  []int64       // bytes to the replica until each cut, counted from the one before
	fired chan struct{} // closed by the last cut
	wg    sync.WaitGroup
}

type pair struct{ replica, master net.Conn }

func (p *pair) close() {
	_ = p.replica.Close()
	_ = p.master.Close()
}

func newProxy(t *testing.T, master *node) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x := &proxy{port: ln.Addr().(*net.TCPAddr).Port, target: net.JoinHostPort("127.0.0.1", strconv.Itoa(master.spec.Port)),
		ln: ln, pairs: map[*pair]struct{}{}}
	x.wg.Add(1)
	go x.accept()
	t.Cleanup(func() {
		_ = ln.Close()
		x.mu.Lock()
		for p := range x.pairs {
			p.close()
		}
		x.mu.Unlock()
		x.wg.Wait()
	})
	return x
}

func (x *proxy) accept() {
	defer x.wg.Done()
	for {
		c, err := x.ln.Accept()
		if err != nil {
			return
		}
		m, err := net.Dial("tcp", x.target)
		if err != nil {
			_ = c.Close()
			continue
		}
		p := &pair{c, m}
		x.mu.Lock()
		x.pairs[p] = struct{}{}
		x.mu.Unlock()
		x.wg.Add(2)
		go x.copy(p, c, m, false)
		go x.copy(p, m, c, true)
	}
}

// copy moves bytes until either end closes; toReplica counts down to the cut.
func (x *proxy) copy(p *pair, from, to net.Conn, toReplica bool) {
	defer x.wg.Done()
	defer func() {
		p.close()
		x.mu.Lock()
		delete(x.pairs, p)
		x.mu.Unlock()
	}()
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		cut := false
		if toReplica && n > 0 {
			n, cut = x.count(n)
		}
		if _, werr := to.Write(buf[:n]); werr != nil || err != nil || cut {
			return
		}
	}
}

// count is how many of n bytes may pass, and whether the link is cut then.
func (x *proxy) count(n int) (int, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.cuts) == 0 {
		return n, false
	}
	if int64(n) < x.cuts[0] {
		x.cuts[0] -= int64(n)
		return n, false
	}
	n = int(x.cuts[0])
	if x.cuts = x.cuts[1:]; len(x.cuts) == 0 {
		close(x.fired)
	}
	return n, true
}

// cutAfter arms cuts and returns what is closed when the last has happened.
func (x *proxy) cutAfter(bytes ...int64) <-chan struct{} {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.cuts, x.fired = bytes, make(chan struct{})
	return x.fired
}
