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
// A link has a goroutine that reads and one that writes. Nothing here blocks
// its caller: a packet that cannot be written yet waits in the link's queue,
// which Options.Limit bounds.
package bus

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
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

// readStep bounds how much memory the announced length of a packet takes before
// its bytes have come.
const readStep = 64 << 10

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
}

// link is one connection, or one that is being made (conn is nil).
type link struct {
	b    *Bus
	id   cluster.LinkID
	stop context.CancelFunc

	mu     sync.Mutex
	conn   net.Conn
	queue  [][]byte // what waits to be written
	size   int64    // of queue and of what is being written
	wake   chan struct{}
	closed bool
	// overflow: the queue exceeded the limit.
	overflow bool
}

// New makes a bus without links.
func New(opts Options) *Bus {
	return &Bus{opts: opts, links: map[cluster.LinkID]*link{}, inbound: cluster.Inbound}
}

// SetLimit sets the bytes that may wait on one link; 0 is no limit.
func (b *Bus) SetLimit(n int64) { b.limit.Store(n) }

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
	l := &link{b: b, id: b.inbound, stop: stop, wake: make(chan struct{}, 1)}
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
	l := &link{b: b, id: id, stop: stop, wake: make(chan struct{}, 1)}
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
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.queue = append(l.queue, packet)
	l.size += int64(len(packet))
	b.memory.Add(int64(len(packet)))
	if limit := b.limit.Load(); limit > 0 && l.size > limit {
		l.overflow = true
		l.shut()
		return
	}
	select {
	case l.wake <- struct{}{}:
	default: // it has been told
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

// Buffered is how many bytes wait to be written on a link: allocated and used.
func (b *Bus) Buffered(id cluster.LinkID) (alloc, used int64) {
	b.mu.Lock()
	l := b.links[id]
	b.mu.Unlock()
	if l == nil {
		return 0, 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size + int64(cap(l.queue))*24, l.size
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

// shut closes the socket, which ends the goroutines. l.mu is held.
func (l *link) shut() {
	if l.closed {
		return
	}
	l.closed = true
	l.b.memory.Add(-l.size)
	l.queue, l.size = nil, 0
	if l.conn != nil {
		_ = l.conn.Close()
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run reads packets until the link ends. up is what the core is told first.
func (l *link) run(conn net.Conn, up cluster.Input) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		_ = conn.Close()
		return
	}
	l.conn = conn
	l.mu.Unlock()
	l.b.wg.Add(1)
	go func() {
		defer l.b.wg.Done()
		l.write(conn)
	}()
	l.b.opts.Handle(up)
	err := l.read(conn)
	l.mu.Lock()
	over := l.overflow
	l.shut()
	l.mu.Unlock()
	if !l.b.drop(l) {
		return
	}
	if errors.Is(err, cluster.ErrBadPacket) && l.b.opts.Bad != nil {
		l.b.opts.Bad(err)
	}
	down := cluster.LinkDown{Link: l.id, Err: "connection closed by peer", BufferLimit: over}
	if !errors.Is(err, io.EOF) {
		down.Err = reason(err)
	}
	l.b.opts.Handle(down)
}

// read ends with the reason why there is no next packet.
func (l *link) read(conn net.Conn) error {
	in := bufio.NewReaderSize(conn, 4096)
	for {
		head, err := in.Peek(cluster.HeadLen)
		if err != nil {
			return err
		}
		n, err := cluster.PacketLen(head)
		if err != nil {
			return err
		}
		data, err := readPacket(in, n)
		if err != nil {
			return err
		}
		l.b.opts.Handle(cluster.Packet{Link: l.id, Data: data})
	}
}

// readPacket reads n bytes; memory grows with what has come, not with what was
// announced.
func readPacket(in io.Reader, n int) ([]byte, error) {
	data := make([]byte, min(n, readStep))
	at := 0
	for {
		m, err := io.ReadFull(in, data[at:])
		at += m
		if err != nil {
			return nil, err
		}
		if at == n {
			return data, nil
		}
		data = append(data, make([]byte, min(n-at, len(data)))...)
	}
}

// write sends what is queued until the link is closed.
func (l *link) write(conn net.Conn) {
	var batch net.Buffers
	for range l.wake {
		for {
			l.mu.Lock()
			if l.closed {
				l.mu.Unlock()
				return
			}
			queue := l.queue
			l.queue = nil
			l.mu.Unlock()
			if len(queue) == 0 {
				break
			}
			var sent int64
			for _, p := range queue {
				sent += int64(len(p))
			}
			batch = queue
			_, err := batch.WriteTo(conn)
			l.mu.Lock()
			if !l.closed {
				l.size -= sent
				l.b.memory.Add(-sent)
			}
			if err != nil {
				l.shut() // the reader tells
			}
			l.mu.Unlock()
		}
	}
}
