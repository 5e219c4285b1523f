package bus

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"

	"holdfast/internal/redis/cluster"
)

// readSize is how much is read at once, in bytes: a packet of a cluster of a
// hundred nodes is a fifth of it.
const readSize = 16 << 10

// readBuffers are for links that have something to read at this moment: there
// are two links for every node, and most of them wait.
var readBuffers = sync.Pool{New: func() any { return new([readSize]byte) }}

// link is one connection, or one that is being made (conn is nil).
type link struct {
	b    *Bus
	id   cluster.LinkID
	stop context.CancelFunc

	mu      sync.Mutex
	conn    net.Conn
	raw     *socket  // nil: conn must be used as it is, as with TLS
	queue   [][]byte // what waits to be written
	size    int64    // of queue and of what is being written
	writing bool     // somebody writes, or is on his way to do it
	closed  bool
	// alloc is what a buffer for size would take in Redis, as of the turn looked
	// of its timer, in bytes.
	alloc, looked int64
	overflow      int64 // alloc when it exceeded the limit; 0: it did not
}

// enqueue keeps a packet, and reports whether somebody must flush.
func (l *link) enqueue(packet []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.trim()
	l.alloc = grown(l.alloc, l.size, int64(len(packet)))
	l.queue = append(l.queue, packet)
	l.size += int64(len(packet))
	l.b.memory.Add(int64(len(packet)))
	if l.overLimit() {
		l.b.look()
	}
	if l.writing || l.conn == nil {
		return false
	}
	l.writing = true
	return true
}

// shut closes the socket, which ends the goroutines. l.mu is held.
func (l *link) shut() {
	if l.closed {
		return
	}
	l.closed = true
	l.b.memory.Add(-l.size)
	l.queue, l.size, l.alloc = nil, 0, 0
	if l.conn != nil {
		_ = l.conn.Close()
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
	l.conn, l.raw = conn, rawSocket(conn)
	waits := len(l.queue) > 0
	l.writing = waits
	l.mu.Unlock()
	if waits {
		l.flush()
	}
	l.b.opts.Handle(up)
	err := l.read()
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
	down := cluster.LinkDown{Link: l.id, Err: "connection closed by peer", BufferLimit: over > 0, Buffer: over}
	if !errors.Is(err, io.EOF) {
		down.Err = reason(err)
	}
	l.b.opts.Handle(down)
}

// read hands over packets and ends with the reason why there is no next one.
func (l *link) read() error {
	var in input
	for {
		var buf *[readSize]byte
		var n int
		var err error
		if l.raw != nil {
			buf, n, err = l.raw.read()
		} else {
			buf = readBuffers.Get().(*[readSize]byte)
			n, err = l.conn.Read(buf[:])
		}
		if err == nil {
			err = in.add(buf[:n], func(packet []byte) { l.b.opts.Handle(cluster.Packet{Link: l.id, Data: packet}) })
		}
		if buf != nil {
			readBuffers.Put(buf)
		}
		if err != nil {
			return err
		}
	}
}

// input cuts what comes into packets. It holds what is no whole packet yet.
type input struct {
	rest []byte
	want int // length of the packet that rest begins; 0: not known yet
}

// add takes bytes and gives each packet that is whole now, which the receiver
// owns. Memory grows with what has come, not with what was announced.
func (in *input) add(b []byte, packet func([]byte)) error {
	for len(b) > 0 {
		if in.want == 0 {
			if n := cluster.HeadLen - len(in.rest); n > len(b) || len(in.rest) > 0 {
				n = min(n, len(b))
				in.rest, b = append(in.rest, b[:n]...), b[n:]
				if len(in.rest) < cluster.HeadLen {
					return nil
				}
			}
			head := in.rest
			if len(head) == 0 {
				head = b
			}
			want, err := cluster.PacketLen(head)
			if err != nil {
				return err
			}
			in.want = want
			in.rest = append(make([]byte, 0, min(want, len(in.rest)+len(b))), in.rest...)
		}
		n := min(in.want-len(in.rest), len(b))
		in.rest, b = append(in.rest, b[:n]...), b[n:]
		if len(in.rest) == in.want {
			whole := in.rest
			in.rest, in.want = nil, 0
			packet(whole)
		}
	}
	return nil
}

// flush writes what is queued. What the socket does not take at once, and all
// of a link that may block, is left to a goroutine. The caller has set writing.
func (l *link) flush() {
	for {
		l.mu.Lock()
		queue := l.take()
		if queue == nil {
			l.mu.Unlock()
			return
		}
		if l.raw == nil {
			l.queue = queue
			l.spawn()
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		rest, sent, err := l.raw.write(queue)
		l.mu.Lock()
		l.wrote(sent, err)
		if len(rest) > 0 && !l.closed {
			l.queue = append(rest, l.queue...)
			l.spawn()
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
	}
}

// take returns what is queued, or nil when there is nothing left to write, which
// ends writing. l.mu is held.
func (l *link) take() [][]byte {
	if l.closed || len(l.queue) == 0 {
		l.writing = false
		return nil
	}
	queue := l.queue
	l.queue = nil
	return queue
}

// wrote accounts for bytes that were written. l.mu is held.
func (l *link) wrote(n int64, err error) {
	if !l.closed {
		l.trim() // by what was there until now
		l.size -= n
		l.b.memory.Add(-n)
	}
	if err != nil {
		l.shut() // the reader tells
	}
}

// spawn starts the goroutine that writes until nothing is left. l.mu is held,
// and l is not closed.
func (l *link) spawn() {
	conn, raw := l.conn, l.raw
	l.b.wg.Add(1) // the reader, which is one of them, lives as long as l is open
	go func() {
		defer l.b.wg.Done()
		for {
			l.mu.Lock()
			queue := l.take()
			l.mu.Unlock()
			if queue == nil {
				return
			}
			for len(queue) > 0 {
				var sent int64
				var err error
				if raw != nil {
					queue, sent, err = raw.writeSome(queue)
				} else {
					var n int
					n, err = conn.Write(queue[0])
					queue, sent = queue[1:], int64(n)
				}
				l.mu.Lock()
				l.wrote(sent, err)
				l.mu.Unlock()
				if err != nil {
					break
				}
			}
		}
	}()
}
