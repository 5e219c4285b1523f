package server

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"holdfast/internal/redis/command"
)

// gateway drives a connection by two goroutines: what TLS, and systems without
// epoll, need. It ends in the same execute as the loops.
type gateway struct {
	s       *Server
	c       *conn
	nc      net.Conn
	mu      sync.Mutex
	cond    *sync.Cond
	more    bool // there may be a reply to send
	resumed bool // the input is to be parsed again
	end     bool
	once    sync.Once
}

func (g *gateway) wake(c *conn) {
	if c != nil && c.closeWhen == closeNow {
		// The writer may wait for a peer that does not read.
		go g.drop(c)
		return
	}
	g.poke(func() { g.more = true })
}

func (g *gateway) resume(*conn) { g.poke(func() { g.resumed, g.more = true, true }) }

func (g *gateway) drop(*conn) {
	g.poke(func() { g.end = true })
	g.once.Do(func() { _ = g.nc.Close() })
}

func (g *gateway) poke(set func()) {
	g.mu.Lock()
	set()
	g.mu.Unlock()
	g.cond.Broadcast()
}

// startTLS serves an accepted socket by TLS.
func (s *Server) startTLS(fd int, ln *listener, addr, laddr string) {
	f := os.NewFile(uintptr(fd), addr)
	raw, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		s.log.Warning("Error accepting a client connection: %s", err)
		return
	}
	if !s.handshakeBegins(raw) {
		_ = raw.Close()
		return
	}
	s.gateways.Add(1)
	go func() {
		defer s.gateways.Done()
		nc := tls.Server(raw, ln.tls)
		_ = nc.SetDeadline(time.Now().Add(handshakeTime))
		err := nc.Handshake()
		s.handshakeOver(raw)
		if err != nil {
			s.log.Warning("Error accepting a client connection: %s (conn: addr=%s)", err, addr)
			_ = nc.Close()
			return
		}
		_ = nc.SetDeadline(time.Time{})
		if text := s.refuseProtected(addr, ln); text != "" {
			_, _ = nc.Write([]byte(text)) // courtesy; it is closed anyway
			_ = nc.Close()
			return
		}
		s.serveGateway(nc, addr, laddr)
	}()
}

// handshakeTime is how long a peer may take for the handshake of TLS.
const handshakeTime = 10 * time.Second

// handshakeBegins notes a socket that is not a client yet; false when the
// server stops.
func (s *Server) handshakeBegins(nc net.Conn) bool {
	s.e.Lock()
	defer s.e.Unlock()
	if s.shutdown.over {
		return false
	}
	s.handshakes[nc] = struct{}{}
	return true
}

func (s *Server) handshakeOver(nc net.Conn) {
	s.e.Lock()
	delete(s.handshakes, nc)
	s.e.Unlock()
}

// serveGateway serves a connection until it ends.
func (s *Server) serveGateway(nc net.Conn, addr, laddr string) {
	g := &gateway{s: s, nc: nc}
	g.cond = sync.NewCond(&g.mu)
	s.e.Lock()
	if s.shutdown.over {
		s.e.Unlock()
		_ = nc.Close()
		return
	}
	s.e.BeginBatch(time.Now().UnixMicro())
	c := s.newConn(g, addr, laddr)
	c.cl.Flags |= command.FlagTLS
	c.net = nc
	g.c = c
	s.e.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.writeLoop()
	}()
	g.readLoop()
	s.e.Lock()
	s.forget(c)
	s.e.Unlock()
	g.drop(c)
	<-done
}

// readLoop reads into a buffer of its own and hands the input to the write
// loop's goroutine by executing it here.
func (g *gateway) readLoop() {
	buf := make([]byte, readChunk)
	for {
		n, err := g.nc.Read(buf)
		if n > 0 {
			g.s.stat.reads.Add(1)
			g.s.stat.inBytes.Add(int64(n))
			if !g.take(buf[:n]) {
				return
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				g.s.log.Verbose("Reading from client: %s", err)
			}
			return
		}
	}
}

// take appends input and executes it.
func (g *gateway) take(b []byte) bool {
	e, c := g.s.e, g.c
	e.Lock()
	defer e.Unlock()
	if c.closed || c.closeWhen == closeNow {
		return false
	}
	if c.closeWhen == closeNot {
		c.in = append(c.in, b...)
	}
	g.process()
	if !c.checkInputLimit() {
		return false
	}
	// The writer may be at a peer that does not read: it judges too late.
	if held := c.outPending + int64(len(c.cl.Buf)); held > 0 {
		if c.checkOutputLimit(held); c.closeWhen == closeNow {
			return false
		}
	}
	return true
}

// process executes the buffered input. The engine's lock is held.
func (g *gateway) process() {
	c := g.c
	g.s.e.BeginBatch(time.Now().UnixMicro())
	if c.cl.Authenticated {
		g.s.evictClients()
	}
	for more := true; more; {
		var taken int
		taken, more = c.execute(c.in)
		c.keepRest(c.in, taken, true)
		if more { // nobody starves
			g.s.e.Unlock()
			g.s.e.Lock()
		}
	}
	if len(c.cl.Buf) > 0 || c.closeWhen != closeNot {
		c.wake()
	}
}

// writeLoop commits and sends replies until the connection ends.
func (g *gateway) writeLoop() {
	for {
		g.mu.Lock()
		for !g.more && !g.end {
			g.cond.Wait()
		}
		end, again := g.end, g.resumed
		g.more, g.resumed = false, false
		g.mu.Unlock()
		if end {
			return
		}
		if !g.sendOnce(again) {
			g.once.Do(func() { _ = g.nc.Close() })
			return
		}
	}
}

func (g *gateway) sendOnce(again bool) bool {
	s, c := g.s, g.c
	s.e.Lock()
	if c.closed {
		s.e.Unlock()
		return false
	}
	if again {
		g.process()
	}
	c.takeReply()
	c.outPending = int64(len(c.out) - c.outPos)
	c.countMemory()
	when, pos := c.closeWhen, s.commitPoint()
	s.e.Unlock()
	if when == closeNow {
		return false
	}
	if err := s.commitStream(pos); err != nil {
		s.refuseReplies([]*conn{c}, err)
	}
	for c.outPos < len(c.out) {
		n, err := g.nc.Write(c.out[c.outPos:])
		c.outPos += n
		s.stat.writes.Add(1)
		s.stat.outBytes.Add(int64(n))
		if err != nil {
			return false
		}
	}
	if c.out, c.outPos = c.out[:0], 0; cap(c.out) > keepBuffer {
		c.out = nil
	}
	s.e.Lock()
	c.outPending = 0
	c.countMemory()
	when = c.closeWhen
	replica := c.replica != nil
	s.e.Unlock()
	if replica && when == closeNot {
		for !s.pump(c, g.nc.Write) {
		}
		s.e.Lock()
		when = c.closeWhen
		s.e.Unlock()
	}
	return when == closeNot
}
