// Package bus acts: it is the sockets of the cluster bus. It opens and accepts
// links, cuts what arrives into packets, and writes what it is given, and knows
// nothing of what the packets say: that is for package cluster, whose inputs it
// hands to the owner and whose effects about links it carries out.
//
//	b := bus.New(bus.Options{Handle: func(in cluster.Input) { inputs <- in }})
//	b.Serve(listener)
//	b.Connect(link, "127.0.0.1", 16379)
//	b.Send(link, packet)
//
// A link has a goroutine that reads, and one that writes only while its socket
// does not take what is queued. Nothing here blocks its caller: a packet that
// cannot be written yet waits in the link's queue, which SetLimit bounds.
//
// A node that has nothing to do still talks to all others all the time, so a
// packet should wake no more than the one thread that handles it: its reader
// reads and hands it over, and whoever hands over answers, if it calls Hold
// before and Flush after.
//
//	bus.go            links are opened, accepted, given packets and closed
//	link.go           what runs on a link: reading, queue, writing
//	sock_linux.go     reading and writing without a word to the scheduler
package bus

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/redis/cluster"
)

// Times of a link.
const (
	handshakeTime = 10 * time.Second // of TLS
	acceptPause   = 50 * time.Millisecond
)

// Options are what a Bus needs.
type Options struct {
	// Handle is given LinkUp, InboundUp, LinkDown and Packet, in order for each
	// link, from several goroutines. While it blocks, its link reads nothing.
	Handle func(cluster.Input)
	// Bad, if set, is told of a peer that does not speak the protocol.
	Bad func(err error)
	// ServerTLS and ClientTLS, if set, are used for links of either kind.
	ServerTLS, ClientTLS func() *tls.Config
	// Source, if not empty, is the numeric address that links come from.
	Source string
	// DialTimeout bounds how long a connection may take.
	DialTimeout func() time.Duration
}

// Bus is the links of one node. It is safe for concurrent use.
type Bus struct {
	opts  Options
	limit atomic.Int64

	mu        sync.Mutex
	links     map[cluster.LinkID]*link
	listeners []net.Listener
	inbound   cluster.LinkID
	closed    bool
	wg        sync.WaitGroup
	memory    atomic.Int64 // bytes in all queues
	began     time.Time
	looking   atomic.Bool // links are going to be checked against limit

	out     sync.Mutex
	ready   []*link // links with packets that nobody has begun to write
	holds   int     // how many have called Hold
	flusher chan struct{}

	stopped  chan struct{} // closed by Close
	stopOnce sync.Once
}

// New makes a bus without links.
func New(opts Options) *Bus {
	b := &Bus{opts: opts, links: map[cluster.LinkID]*link{}, inbound: cluster.Inbound, flusher: make(chan struct{}, 1), stopped: make(chan struct{}), began: time.Now()}
	b.wg.Add(1)
	go func() {
		defer b.wg.Done()
		for {
			select {
			case <-b.flusher:
				b.flush()
			case <-b.stopped:
				return
			}
		}
	}()
	return b
}

// SetLimit sets how large the buffer of a link may be, in bytes, when somebody
// looks (see buffer.go); 0 is no limit.
func (b *Bus) SetLimit(n int64) {
	b.limit.Store(n)
	if n > 0 {
		b.look()
	}
}

// Serve accepts links at ln until Close, and owns ln. It returns at once.
func (b *Bus) Serve(ln net.Listener) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		_ = ln.Close()
		return
	}
	b.listeners = append(b.listeners, ln)
	b.wg.Add(1)
	go func() {
		defer b.wg.Done()
		for {
			conn, err := ln.Accept()
			if err != nil {
				if errors.Is(err, net.ErrClosed) {
					return
				}
				time.Sleep(acceptPause) // out of descriptors, most likely: they may come back
				continue
			}
			b.accept(conn)
		}
	}()
}

func (b *Bus) accept(conn net.Conn) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		_ = conn.Close()
		return
	}
	b.inbound++
	ctx, stop := context.WithCancel(context.Background())
	l := &link{b: b, id: b.inbound, stop: stop}
	b.links[l.id] = l
	b.wg.Add(1)
	b.mu.Unlock()
	go func() {
		defer b.wg.Done()
		defer stop()
		if b.opts.ServerTLS != nil {
			if conf := b.opts.ServerTLS(); conf != nil {
				sure, err := shake(ctx, tls.Server(conn, conf))
				if err != nil {
					_ = conn.Close()
					b.drop(l)
					return // the core has not heard of it
				}
				conn = sure
			}
		}
		remote, local := hostOf(conn.RemoteAddr()), hostOf(conn.LocalAddr())
		l.run(conn, cluster.InboundUp{Link: l.id, RemoteIP: remote, LocalIP: local})
	}()
}

// Connect opens a link; its end is a LinkUp or a LinkDown.
func (b *Bus) Connect(id cluster.LinkID, ip string, port int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	l := &link{b: b, id: id, stop: stop}
	b.links[id] = l
	b.wg.Add(1)
	go func() {
		defer b.wg.Done()
		defer stop()
		conn, err := b.dial(ctx, net.JoinHostPort(ip, strconv.Itoa(port)))
		if err != nil {
			if b.drop(l) {
				b.opts.Handle(cluster.LinkDown{Link: id, Err: reason(err)})
			}
			return
		}
		l.run(conn, cluster.LinkUp{Link: id, RemoteIP: hostOf(conn.RemoteAddr()), LocalIP: hostOf(conn.LocalAddr())})
	}()
}

func (b *Bus) dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{}
	if b.opts.DialTimeout != nil {
		d.Timeout = b.opts.DialTimeout()
	}
	if b.opts.Source != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(b.opts.Source)}
	}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if b.opts.ClientTLS != nil {
		if conf := b.opts.ClientTLS(); conf != nil {
			sure, err := shake(ctx, tls.Client(conn, conf))
			if err != nil {
				return nil, errors.Join(err, conn.Close())
			}
			return sure, nil
		}
	}
	return conn, nil
}

func shake(ctx context.Context, conn *tls.Conn) (net.Conn, error) {
	ctx, stop := context.WithTimeout(ctx, handshakeTime)
	defer stop()
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return conn, nil
}

// reason is the innermost error, which says what the log needs: the address
// stands beside it.
func reason(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err.Error()
	}
	return err.Error()
}

func hostOf(a net.Addr) string {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.IP.String()
	}
	return ""
}

// Send queues one packet, which is shared: nobody may change it. To a link that
// is gone it does nothing.
func (b *Bus) Send(id cluster.LinkID, packet []byte) {
	b.mu.Lock()
	l := b.links[id]
	b.mu.Unlock()
	if l == nil || !l.enqueue(packet) {
		return
	}
	b.out.Lock()
	b.ready = append(b.ready, l)
	held := b.holds > 0
	b.out.Unlock()
	if !held {
		select {
		case b.flusher <- struct{}{}:
		default: // it has been told
		}
	}
}

// Hold keeps packets from being written until Flush, which must follow. It lets
// whoever causes packets under a lock write them himself once he has released it.
func (b *Bus) Hold() {
	b.out.Lock()
	b.holds++
	b.out.Unlock()
}

// Release ends a Hold without writing: another goroutine does, soon.
func (b *Bus) Release() {
	b.out.Lock()
	b.holds--
	b.out.Unlock()
	select {
	case b.flusher <- struct{}{}:
	default: // it has been told
	}
}

// Flush ends a Hold and writes what is queued, as far as the sockets take it.
func (b *Bus) Flush() {
	b.out.Lock()
	b.holds--
	b.out.Unlock()
	b.flush()
}

// flush begins to write on all links that have something new.
func (b *Bus) flush() {
	b.out.Lock()
	list := b.ready
	b.ready = nil
	b.out.Unlock()
	for _, l := range list {
		l.flush()
	}
}

// CloseLink ends a link; nothing more is heard of it.
func (b *Bus) CloseLink(id cluster.LinkID) {
	b.mu.Lock()
	l := b.links[id]
	delete(b.links, id)
	b.mu.Unlock()
	if l != nil {
		l.stop()
		l.mu.Lock()
		l.shut()
		l.mu.Unlock()
	}
}

// Buffered is how many bytes wait to be written on a link (used), and how large
// a buffer that is (alloc, see buffer.go).
func (b *Bus) Buffered(id cluster.LinkID) (alloc, used int64) {
	b.mu.Lock()
	l := b.links[id]
	b.mu.Unlock()
	if l == nil {
		return 0, 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trim()
	return l.alloc, l.size
}

// Links is how many links there are, and the bytes that wait on them.
func (b *Bus) Links() (n int, bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.links), b.memory.Load()
}

// Close ends all links and listeners and waits for their goroutines. Handle
// must not block for ever meanwhile.
func (b *Bus) Close() {
	b.mu.Lock()
	b.closed = true
	links := b.links
	b.links = map[cluster.LinkID]*link{}
	for _, ln := range b.listeners {
		_ = ln.Close()
	}
	b.mu.Unlock()
	for _, l := range links {
		l.stop()
		l.mu.Lock()
		l.shut()
		l.mu.Unlock()
	}
	b.stopOnce.Do(func() { close(b.stopped) })
	b.wg.Wait()
}

// drop forgets a link and reports whether it was still wanted.
func (b *Bus) drop(l *link) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.links[l.id] != l {
		return false
	}
	delete(b.links, l.id)
	return true
}
