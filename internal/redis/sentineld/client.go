package sentineld

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	crand "crypto/rand"
	"encoding/hex"

	"holdfast/internal/redis/process"
	"holdfast/internal/redis/resp"
	"holdfast/internal/redis/sentinel"
)

const (
	maxClientQueue = 32 << 20 // bytes of replies and messages not yet taken
	maxRequest     = 1 << 20  // bytes of one request; no command here is long
)

func randomHex(n int) string {
	b := make([]byte, n/2)
	_, _ = crand.Read(b) // never fails, by its contract
	return hex.EncodeToString(b)
}

// client is one connection of a client. Its own goroutine alone touches what
// is not marked otherwise.
type client struct {
	s       *shell
	id      uint64
	conn    net.Conn
	out     *outbox
	created time.Time
	replies replies

	mu       sync.Mutex // guards what CLIENT LIST shows
	user     *user
	authed   bool
	name     string
	resp     int
	lastCmd  string
	lastUsed time.Time
	queryLen int

	channels map[string]bool // guarded by hub.mu
	patterns map[string]bool // guarded by hub.mu
}

type clientTable struct {
	mu     sync.Mutex
	all    map[uint64]*client
	lastID uint64
	closed bool
}

func (t *clientTable) closeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, c := range t.all {
		c.out.close()
	}
}

// list returns the clients ordered by id.
func (t *clientTable) list() []*client {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]*client, 0, len(t.all))
	for id := uint64(1); id <= t.lastID && len(out) < len(t.all); id++ {
		if c := t.all[id]; c != nil {
			out = append(out, c)
		}
	}
	return out
}

type stats struct {
	connections, commands, rejected, errors atomic.Int64
	in, out, reads, writes                  atomic.Int64
}

// listen opens the configured addresses, plain and encrypted, and the unix
// socket.
func (s *shell) listen() error {
	for _, port := range []int{s.base.Port, s.base.TLSPort} {
		if port == 0 {
			continue
		}
		secure := port == s.base.TLSPort
		err := process.EachBind(s.base, port, s.log, func(network, where string) error {
			l, err := process.ListenTCP(s.base, network, where)
			if err != nil {
				return err
			}
			if secure {
				s.listeners = append(s.listeners, tls.NewListener(l, s.serveTLS))
			} else {
				s.listeners = append(s.listeners, l)
			}
			return nil
		})
		if err != nil {
			s.closeListeners()
			return err
		}
	}
	if s.base.UnixSocket == "" {
		return nil
	}
	l, err := process.ListenUnix(s.base)
	if err != nil {
		s.closeListeners()
		return err
	}
	s.listeners = append(s.listeners, l)
	return nil
}

func (s *shell) closeListeners() {
	for _, l := range s.listeners {
		_ = l.Close() // nothing is lost by a listener that fails to close
	}
}

// configureTLS builds both sides from the tls-* directives, as far as either is
// in use.
func (s *shell) configureTLS() (err error) {
	if s.base.TLSPort == 0 && !s.base.TLSReplication {
		return nil
	}
	if s.serveTLS, err = process.ServerTLS(s.base); err != nil {
		return err
	}
	s.dialTLS, err = process.ClientTLS(s.base)
	return err
}

func (s *shell) accept(l net.Listener) {
	defer s.wg.Done()
	for {
		conn, err := l.Accept()
		if err != nil {
			select {
			case <-s.stop:
				return
			default:
			}
			if errors.Is(err, net.ErrClosed) {
				return
			}
			s.log.Warning("Accepting client connection: %v", err)
			time.Sleep(50 * time.Millisecond) // out of descriptors: do not spin
			continue
		}
		s.stats.connections.Add(1)
		if isUnix(conn) {
			s.log.Verbose("Accepted connection to %s", s.base.UnixSocket)
		} else if host, port, err := net.SplitHostPort(conn.RemoteAddr().String()); err == nil {
			s.log.Verbose("Accepted %s:%s", host, port)
		}
		s.welcome(conn)
	}
}

// isUnix reports whether a connection came by the unix socket.
func isUnix(conn net.Conn) bool { return conn.LocalAddr().Network() == "unix" }

// address is addr as CLIENT LIST shows it: the path of a unix socket stands for
// the address, with port 0.
func (c *client) address(addr net.Addr) string {
	if isUnix(c.conn) {
		return c.s.base.UnixSocket + ":0"
	}
	return addr.String()
}

func (c *client) remote() string { return c.address(c.conn.RemoteAddr()) }
func (c *client) local() string  { return c.address(c.conn.LocalAddr()) }

// keepAlive is tcp-keepalive.
func (s *shell) keepAlive(conn net.Conn) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	if t, ok := conn.(*net.TCPConn); ok && s.base.TCPKeepalive > 0 {
		idle := time.Duration(s.base.TCPKeepalive) * time.Second
		_ = t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: idle, Interval: max(time.Second, idle/3), Count: 3}) // it only helps
	}
}

// waitForMore sets how long the next read may take: timeout, which does not
// hold for subscribers.
func (c *client) waitForMore() {
	if t := c.s.base.Timeout; t > 0 {
		var end time.Time
		if channels, patterns := c.s.pubsub.of(c); channels+patterns == 0 {
			end = time.Now().Add(time.Duration(t) * time.Second)
		}
		_ = c.conn.SetReadDeadline(end) // a connection that is closed says so when it is read
	}
}

// welcome starts a client, unless it may not come in.
func (s *shell) welcome(conn net.Conn) {
	refuse := ""
	s.clients.mu.Lock()
	switch {
	case s.clients.closed:
		s.clients.mu.Unlock()
		_ = conn.Close()
		return
	case len(s.clients.all) >= s.base.MaxClients:
		refuse = process.CrowdedText
		s.stats.rejected.Add(1)
	case s.base.ProtectedMode && s.users.noPass() && !isUnix(conn) && !process.IsLoopback(conn.RemoteAddr().String()):
		refuse = process.DeniedText
		s.stats.rejected.Add(1)
	}
	if refuse != "" {
		s.clients.mu.Unlock()
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = conn.Write([]byte(refuse)) // best effort: it is turned away anyway
		_ = conn.Close()
		return
	}
	s.keepAlive(conn)
	s.clients.lastID++
	c := &client{
		s: s, id: s.clients.lastID, conn: conn, out: newOutbox(conn, maxClientQueue), created: time.Now(),
		lastUsed: time.Now(), resp: 2, user: s.users.get(defaultUser), authed: s.users.open(),
		channels: map[string]bool{}, patterns: map[string]bool{},
	}
	s.clients.all[c.id] = c
	s.clients.mu.Unlock()
	s.wg.Add(2)
	go func() { defer s.wg.Done(); c.out.run() }()
	go func() { defer s.wg.Done(); c.run() }()
}

// run reads requests until the connection ends.
func (c *client) run() {
	defer c.leave()
	p := resp.Parser{MaxBulk: maxRequest, Unauthenticated: !c.authed}
	buf := make([]byte, 0, 4096)
	for {
		for {
			n, err := p.Next(buf)
			if err != nil {
				c.out.write(resp.AppendError(nil, "ERR "+err.Error()))
				c.out.closeSoon()
				return
			}
			if n == 0 {
				break
			}
			if len(p.Args) > 0 {
				args := make([]string, len(p.Args))
				for i, a := range p.Args {
					args[i] = string(a)
				}
				if !c.waitPause() {
					return
				}
				c.handle(args)
			}
			buf = buf[:copy(buf, buf[n:])]
			p.Unauthenticated = !c.authed
		}
		if len(buf) > 2*maxRequest {
			return
		}
		if cap(buf)-len(buf) < 1024 {
			buf = append(make([]byte, 0, 2*cap(buf)), buf...)
		}
		c.waitForMore()
		n, err := c.conn.Read(buf[len(buf):cap(buf)])
		c.s.stats.in.Add(int64(n))
		c.s.stats.reads.Add(1)
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				c.s.log.Verbose("Closing idle client")
			} else if errors.Is(err, io.EOF) {
				c.s.log.Verbose("Client closed connection %s", c.line())
			}
			return
		}
		buf = buf[:len(buf)+n]
	}
}

func (c *client) leave() {
	c.s.pubsub.leave(c)
	c.s.clients.mu.Lock()
	delete(c.s.clients.all, c.id)
	c.s.clients.mu.Unlock()
	c.out.mu.Lock()
	last := c.out.last
	c.out.mu.Unlock()
	if !last { // else the outbox closes when all is written
		c.out.close()
	}
}

// write queues a reply, unless the client wants none.
func (c *client) write(b []byte) {
	if c.replies == replyOff || c.replies == replySkip {
		return
	}
	c.push(b)
}

// push queues what the client gets in any case.
func (c *client) push(b []byte) {
	c.s.stats.out.Add(int64(len(b)))
	c.s.stats.writes.Add(1)
	c.out.write(b)
}

func (c *client) status(s string) { c.write(resp.AppendSimple(nil, s)) }
func (c *client) int(n int64)     { c.write(resp.AppendInt(nil, n)) }

func (c *client) error(s string) {
	c.s.stats.errors.Add(1)
	c.write(resp.AppendError(nil, s))
}

func (c *client) bulk(s string) { c.write(resp.AppendBulkString(nil, s)) }

func (c *client) verbatim(s string) {
	if c.resp == 3 {
		c.write(resp.AppendVerbatim(nil, "txt", s))
		return
	}
	c.bulk(s)
}

func (c *client) value(v sentinel.Value) {
	if v.Kind == sentinel.Error {
		c.s.stats.errors.Add(1)
	}
	c.write(appendValue(nil, v, c.resp))
}

// appendValue renders a reply of the core.
func appendValue(b []byte, v sentinel.Value, proto int) []byte {
	switch v.Kind {
	case sentinel.Status:
		return resp.AppendSimple(b, v.Str)
	case sentinel.Error:
		return resp.AppendError(b, v.Str)
	case sentinel.Int:
		return resp.AppendInt(b, v.Int)
	case sentinel.Bulk:
		return resp.AppendBulkString(b, v.Str)
	case sentinel.Array, sentinel.Map:
		if v.Kind == sentinel.Map && proto == 3 {
			b = resp.AppendHead(b, '%', len(v.Elems)/2)
		} else {
			b = resp.AppendHead(b, '*', len(v.Elems))
		}
		for _, e := range v.Elems {
			b = appendValue(b, e, proto)
		}
		return b
	}
	switch {
	case proto == 3:
		return append(b, resp.Null3...)
	case v.Kind == sentinel.NullArray:
		return append(b, resp.NullArray2...)
	}
	return append(b, resp.NullBulk2...)
}
