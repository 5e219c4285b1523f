package sentineld

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"

	"holdfast/internal/redis/resp"
	"holdfast/internal/redis/sentinel"
)

// Limits of one link.
const (
	dialTimeout  = 3 * time.Second
	maxLinkQueue = 4 << 20  // bytes that the other side has not taken
	maxReplySize = 16 << 20 // bytes of one reply; INFO is a few KiB
)

// link is one connection to a master, replica or peer.
type link struct {
	id     sentinel.ConnID
	pubsub bool
	cancel context.CancelFunc
	out    *outbox // nil until connected
}

// connect dials in the background.
func (s *shell) connect(e sentinel.Connect) {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	l := &link{id: e.Conn, pubsub: e.Pubsub, cancel: cancel}
	s.links[e.Conn] = l
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		conn, err := s.dial(ctx, e)
		if err != nil {
			cancel()
			s.hand(sentinel.ConnDown{Conn: e.Conn, Refused: errors.Is(err, syscall.ECONNREFUSED), Err: err.Error()})
			return
		}
		s.runLink(l, conn)
	}()
}

func (s *shell) dial(ctx context.Context, e sentinel.Connect) (net.Conn, error) {
	d := net.Dialer{}
	if a := net.ParseIP(s.base.BindSourceAddr); a != nil {
		d.LocalAddr = &net.TCPAddr{IP: a}
	}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(e.Host, strconv.Itoa(e.Port)))
	if err != nil {
		return nil, err
	}
	if !s.base.TLSReplication {
		return conn, nil
	}
	t := tls.Client(conn, s.dialTLS)
	if err := t.HandshakeContext(ctx); err != nil {
		_ = conn.Close() // the handshake's error is the one to report
		return nil, err
	}
	return t, nil
}

// runLink announces the connection, then reads from it until it ends.
func (s *shell) runLink(l *link, conn net.Conn) {
	out := newOutbox(conn, maxLinkQueue)
	go out.run()
	defer out.close()
	alive := false
	if !s.ask(func() {
		// Given up in the meantime? Then the core does not know it any more.
		if s.links[l.id] == l {
			l.out, alive = out, true
		}
	}) || !alive {
		return
	}
	s.hand(sentinel.ConnUp{Conn: l.id, LocalIP: hostOf(conn.LocalAddr()), RemoteIP: hostOf(conn.RemoteAddr())})
	r := resp.NewReader(conn)
	r.MaxBulk = maxReplySize
	for {
		v, err := r.Read()
		if err != nil {
			msg := err.Error()
			if errors.Is(err, io.EOF) {
				msg = "Server closed the connection"
			}
			s.hand(sentinel.ConnDown{Conn: l.id, Err: msg})
			return
		}
		if l.pubsub && (v.Kind == '*' || v.Kind == '>') {
			s.hand(sentinel.PubsubActivity{Conn: l.id, Payload: helloPayload(v)})
			continue
		}
		s.hand(sentinel.ReplyIn{Conn: l.id, Reply: fromWire(v)})
	}
}

func helloPayload(v resp.Value) string {
	if len(v.Elems) == 3 && v.Elems[0].String() == "message" {
		return string(v.Elems[2].Str)
	}
	return ""
}

func hostOf(a net.Addr) string {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.IP.String()
	}
	return ""
}

// fromWire is a reply in the core's terms.
func fromWire(v resp.Value) sentinel.Value {
	switch {
	case v.IsNull():
		return sentinel.Value{Kind: sentinel.Null}
	case v.IsError():
		return sentinel.Value{Kind: sentinel.Error, Str: string(v.Str)}
	}
	switch v.Kind {
	case '+':
		return sentinel.Value{Kind: sentinel.Status, Str: string(v.Str)}
	case ':', '#':
		return sentinel.Value{Kind: sentinel.Int, Int: v.Int}
	case '*', '%', '~', '>':
		out := sentinel.Value{Kind: sentinel.Array}
		for _, e := range v.Elems {
			out.Elems = append(out.Elems, fromWire(e))
		}
		return out
	}
	return sentinel.Value{Kind: sentinel.Bulk, Str: string(v.Str)}
}

func (s *shell) send(e sentinel.Send) {
	if l := s.links[e.Conn]; l != nil && l.out != nil {
		l.out.write(resp.AppendCommand(nil, e.Args...))
	}
}

func (s *shell) closeLink(id sentinel.ConnID) {
	l := s.links[id]
	if l == nil {
		return
	}
	delete(s.links, id)
	l.cancel()
	if l.out != nil {
		l.out.close()
	}
}

// outbox writes to a connection without ever making the caller wait: bytes
// queue up to a limit, beyond which the connection is closed.
type outbox struct {
	conn  net.Conn
	limit int

	mu     sync.Mutex
	queue  []byte
	closed bool
	last   bool // close when the queue is empty
	wake   chan struct{}
}

func newOutbox(conn net.Conn, limit int) *outbox {
	return &outbox{conn: conn, limit: limit, wake: make(chan struct{}, 1)}
}

func (o *outbox) write(b []byte) {
	o.mu.Lock()
	if o.closed || o.last {
		o.mu.Unlock()
		return
	}
	if len(o.queue)+len(b) > o.limit {
		o.mu.Unlock()
		o.close()
		return
	}
	o.queue = append(o.queue, b...)
	o.mu.Unlock()
	o.signal()
}

func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// pending is the number of queued bytes.
func (o *outbox) pending() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.queue)
}

// close closes the connection at once; closeSoon when all is written.
func (o *outbox) close() {
	o.mu.Lock()
	was := o.closed
	o.closed = true
	o.mu.Unlock()
	if !was {
		_ = o.conn.Close() // what could not be written is lost anyway
		o.signal()
	}
}

func (o *outbox) closeSoon() {
	o.mu.Lock()
	o.last = true
	o.mu.Unlock()
	o.signal()
}

func (o *outbox) run() {
	var spare []byte
	for range o.wake {
		for {
			o.mu.Lock()
			b := o.queue
			o.queue = spare[:0]
			closed, last := o.closed, o.last
			o.mu.Unlock()
			if closed {
				return
			}
			if len(b) == 0 {
				if last {
					o.close()
					return
				}
				spare = b
				break
			}
			if _, err := o.conn.Write(b); err != nil {
				o.close()
				return
			}
			if spare = b; cap(spare) > 64<<10 {
				spare = nil
			}
		}
	}
}
