//go:build linux

package server

import (
	"encoding/binary"
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/redis/command"
)

const (
	maxEvents     = 512
	acceptPerTick = 1000
	directTicks   = 16
	flushShare    = 1 << 20 // bytes that one connection is sent in one tick, about
)

// loop serves connections by epoll. One tick: wait; read, parse and execute
// each readable connection; then, once for all of them, hand the journal to
// the disk; then send the replies. Everything but dirty, resumed and awake
// belongs to the loop's goroutine.
type loop struct {
	s      *Server
	id     int
	ep     int
	wakeFD int
	events []unix.EpollEvent
	byFD   map[int]*conn
	accept map[int]*listener
	shared []byte  // input of a connection that has nothing left over
	ready  []*conn // connections of this tick that have replies to send
	again  []*conn // connections whose input was not used up in the last tick
	direct int     // ticks that are to wait without polling first
	spare  int     // a descriptor to be closed when there is no other

	refusedAt time.Time // when the last failure of accept was logged

	replicas   []*conn      // replicas that this loop sends to
	pumps      atomic.Int32 // their number
	committing atomic.Bool  // the loop is going to pump after what it does now

	// Under the engine's lock.
	dirty   []*conn
	resumed []*conn
	arrived []arrival
	posted  []func(*loop) // to be run in the next tick
	awake   bool          // the loop will look at dirty before it sleeps
	quit    bool
}

// arrival is a socket that another loop has accepted for this one.
type arrival struct {
	fd          int
	ln          *listener
	addr, laddr string
}

func newLoop(s *Server, id int) (*loop, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	efd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, errors.Join(err, unix.Close(ep))
	}
	l := &loop{s: s, id: id, ep: ep, wakeFD: efd, events: make([]unix.EpollEvent, maxEvents),
		spare: -1, byFD: make(map[int]*conn), accept: make(map[int]*listener), shared: make([]byte, readChunk)}
	if err := l.add(efd, unix.EPOLLIN); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *loop) add(fd int, events uint32) error {
	return unix.EpollCtl(l.ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

// --- driver ---

func (l *loop) wake(c *conn) {
	l.dirty = append(l.dirty, c)
	l.rouse()
}

func (l *loop) resume(c *conn) {
	l.resumed = append(l.resumed, c)
	l.rouse()
}

// rouse makes the loop look at its lists. The engine's lock is held.
func (l *loop) rouse() {
	if !l.awake {
		l.awake = true
		l.signal()
	}
}

func (l *loop) signal() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	// EAGAIN: the counter is full, so the loop is going to wake anyway.
	_, _ = unix.Write(l.wakeFD, one[:])
}

func (l *loop) drop(c *conn) {
	if c.gone {
		return
	}
	c.gone = true
	delete(l.byFD, c.fd)
	// The descriptor goes out of the epoll set by itself; there is nothing to
	// be done about an error of close.
	_ = unix.Close(c.fd)
}

// run ticks until the server stops.
func (l *loop) run() {
	for {
		n, err := l.wait()
		if err != nil && err != unix.EINTR {
			l.s.log.Warning("epoll_wait: %s", err)
			time.Sleep(10 * time.Millisecond)
		}
		l.roused()
		now := time.Now()
		for i := range max(n, 0) {
			l.event(&l.events[i], now)
		}
		l.runAgain(now)
		l.gather(now)
		if l.commit() {
			l.closeAll()
			return
		}
		if l.id == 0 {
			l.s.snapshotTick()
		}
	}
}

// gatherRounds is how often a tick looks for more requests before it syncs.
const gatherRounds = 4

// gather makes a tick that is going to wait for the disk serve as many clients
// as it can: what has come meanwhile rides on the same sync.
func (l *loop) gather(now time.Time) {
	if !l.s.persist.always.Load() {
		return
	}
	for range gatherRounds {
		if !l.s.unsynced() {
			return
		}
		n, err := epollPoll(l.ep, l.events)
		if n <= 0 || err != nil {
			return
		}
		for i := range n {
			l.event(&l.events[i], now)
		}
	}
}

// wait sleeps until something is to be done. Replies of other goroutines and
// resumed connections rouse it through the eventfd.
func (l *loop) wait() (int, error) {
	timeout := -1
	if len(l.again) > 0 {
		timeout = 0
	} else if l.id == 0 {
		timeout = l.s.snapshotPatience()
	}
	// Under load something is ready already: ask without the scheduler's
	// preparation for a blocking call first. When that found nothing the clients
	// are the slower side, so do not ask twice for a while.
	if timeout == 0 || l.direct == 0 {
		n, err := epollPoll(l.ep, l.events)
		if n != 0 || timeout == 0 || err != nil {
			return n, err
		}
		l.direct = directTicks
	}
	l.direct--
	return unix.EpollWait(l.ep, l.events, timeout)
}

// roused marks the loop as awake, so that nobody signals it, and takes over
// the connections that are to go on.
func (l *loop) roused() {
	l.s.e.Lock()
	l.awake = true
	for i, c := range l.resumed {
		if l.resumed[i] = nil; !c.again {
			c.again = true
			l.again = append(l.again, c)
		}
	}
	l.resumed = l.resumed[:0]
	arrived := l.arrived
	l.arrived = nil
	posted := l.posted
	l.posted = nil
	l.s.e.Unlock()
	for _, fn := range posted {
		fn(l)
	}
	for _, a := range arrived {
		l.adopt(a.fd, a.ln, a.addr, a.laddr)
	}
}

// handOver gives an accepted socket to this loop, from another one.
func (l *loop) handOver(fd int, ln *listener, addr, laddr string) {
	l.s.e.Lock()
	l.arrived = append(l.arrived, arrival{fd, ln, addr, laddr})
	l.rouse()
	l.s.e.Unlock()
}

func (l *loop) event(ev *unix.EpollEvent, now time.Time) {
	fd := int(ev.Fd)
	if fd == l.wakeFD {
		var buf [8]byte
		_, _ = unix.Read(fd, buf[:]) // only resets the counter
		return
	}
	if ln := l.accept[fd]; ln != nil {
		if !ln.gone.Load() {
			l.acceptFrom(ln)
		}
		return
	}
	c := l.byFD[fd]
	if c == nil {
		return
	}
	if ev.Events&unix.EPOLLOUT != 0 {
		l.ready = append(l.ready, c)
	}
	// What is read already comes first: that bounds what is held unexecuted.
	if ev.Events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR|unix.EPOLLRDHUP) != 0 && !c.again {
		l.readable(c, now)
	}
}

// readable reads what has come, once, and executes it.
func (l *loop) readable(c *conn, now time.Time) {
	own := len(c.in) > 0
	var buf []byte
	if own {
		c.in = growInput(c.in, c.parser.Pending(len(c.in)))
		buf = c.in[len(c.in):cap(c.in)]
	} else {
		buf = l.shared
	}
	n, err := readFD(c.fd, buf)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return
	case err != nil:
		l.lost(c, "Reading from client: "+err.Error())
		return
	case n == 0:
		l.lost(c, "Client closed connection")
		return
	}
	l.s.stat.reads.Add(1)
	l.s.stat.inBytes.Add(int64(n))
	if own {
		c.in = c.in[:len(c.in)+n]
		buf = c.in
	} else {
		buf = buf[:n]
	}
	l.process(c, buf, own, now)
}

// growInput makes room for the next read: the rest of a large argument, within
// bounds, since its length is the client's claim.
func growInput(in []byte, pending int64) []byte {
	room := int64(readChunk)
	if pending > room {
		room = min(pending, bigRead)
	}
	if int64(cap(in)-len(in)) >= room {
		return in
	}
	grown := make([]byte, len(in), max(int64(len(in))+room, int64(min(2*cap(in), cap(in)+64<<20))))
	copy(grown, in)
	return grown
}

// process executes the input buf of c, which is c.in when own is set.
func (l *loop) process(c *conn, buf []byte, own bool, now time.Time) {
	e := l.s.e
	e.Lock()
	if c.closed {
		e.Unlock()
		return
	}
	e.BeginBatch(now.UnixMicro())
	if own {
		c.noteInput()
	}
	if c.cl.Authenticated {
		l.s.evictClients()
	}
	taken, more := c.execute(buf)
	c.keepRest(buf, taken, own)
	if more && !c.again {
		c.again = true
		l.again = append(l.again, c)
	}
	if !c.checkInputLimit() {
		c.closeWhen = closeNow
	}
	if len(c.cl.Buf) > 0 || c.closeWhen != closeNot {
		if !c.queued {
			c.queued = true
			l.dirty = append(l.dirty, c)
		}
	}
	e.Unlock()
}

// runAgain goes on with connections that have input left.
func (l *loop) runAgain(now time.Time) {
	if len(l.again) == 0 {
		return
	}
	todo := l.again
	l.again = nil
	for _, c := range todo {
		c.again = false
		if !c.gone && len(c.in) > 0 {
			l.process(c, c.in, true, now)
		}
	}
}

// lost is the end of a connection as seen on its socket.
func (l *loop) lost(c *conn, why string) {
	e := l.s.e
	e.Lock()
	l.s.log.Verbose("%s %s", why, c.describeLocked())
	l.s.forget(c)
	e.Unlock()
	l.drop(c)
}

// commit takes the replies that the tick, and others, have made; hands the
// journal on; and only then lets the replies out. It returns whether the
// server stops.
func (l *loop) commit() (quit bool) {
	s, e := l.s, l.s.e
	e.Lock()
	for _, c := range l.dirty {
		if c.closed {
			continue
		}
		c.takeReply()
		l.ready = append(l.ready, c)
	}
	l.dirty = l.dirty[:0]
	pos := s.commitPoint()
	quit = l.quit
	l.awake = false
	if len(l.resumed)+len(l.arrived) > 0 {
		l.rouse()
	}
	e.Unlock()

	l.committing.Store(true)
	err := s.commitStream(pos)
	l.committing.Store(false)
	if err != nil {
		s.refuseReplies(l.ready, err)
	}
	// Replicas come before clients: when the process is killed right behind a
	// reply, the write is in a replica's socket.
	if len(l.replicas) > 0 {
		l.pumpReplicas(false)
	}
	for i, c := range l.ready {
		l.ready[i] = nil
		if !c.gone {
			l.flush(c)
		}
	}
	l.ready = l.ready[:0]
	if len(l.replicas) > 0 {
		l.pumpReplicas(true)
	}
	return quit
}

// flush writes what the socket takes; nothing to who is to be closed at once.
func (l *loop) flush(c *conn) {
	for share := flushShare; c.outPos < len(c.out) && share > 0 && c.ending != closeNow; {
		n, err := writeFD(c.fd, c.out[c.outPos:])
		if n > 0 {
			c.outPos += n
			share -= n
			l.s.stat.writes.Add(1)
			l.s.stat.outBytes.Add(int64(n))
		}
		if err == unix.EINTR {
			continue
		}
		if err == unix.EAGAIN {
			break
		}
		if err != nil {
			l.lost(c, "Error writing to client: "+err.Error())
			return
		}
	}
	done := c.outPos == len(c.out)
	if done {
		if cap(c.out) > keepBuffer {
			c.out = nil
		} else {
			c.out = c.out[:0]
		}
		c.outPos = 0
	}
	c.noteHeld()
	if c.replica != nil && done {
		done = l.s.pump(c, func(b []byte) (int, error) { return writeFD(c.fd, b) })
	}
	l.arm(c, !done)
	if c.ending == closeNow || (c.ending == closeAfterReply && done) {
		l.s.e.Lock()
		l.s.forget(c)
		l.s.e.Unlock()
		l.drop(c)
	}
}

// noteHeld tells others how much the socket did not take.
func (c *conn) noteHeld() {
	if n := int64(len(c.out) - c.outPos); n != c.held {
		c.held = n
		c.s.e.Lock()
		c.outPending = n
		c.countMemory()
		c.s.e.Unlock()
	}
}

// arm asks for EPOLLOUT while there is something left to write.
func (l *loop) arm(c *conn, want bool) {
	if c.want == want || c.gone {
		return
	}
	events := uint32(unix.EPOLLIN)
	if want {
		events |= unix.EPOLLOUT
	}
	if err := unix.EpollCtl(l.ep, unix.EPOLL_CTL_MOD, c.fd, &unix.EpollEvent{Events: events, Fd: int32(c.fd)}); err != nil {
		l.lost(c, "epoll_ctl: "+err.Error())
		return
	}
	c.want = want
}

// adopt registers an accepted socket with this loop. The engine's lock is held
// by nobody.
func (l *loop) adopt(fd int, ln *listener, addr, laddr string) {
	e := l.s.e
	e.Lock()
	e.BeginBatch(time.Now().UnixMicro())
	c := l.s.newConn(l, addr, laddr)
	c.fd = fd
	if ln.unix {
		c.cl.Flags |= command.FlagUnixSocket
	}
	e.Unlock()
	l.byFD[fd] = c
	if err := l.add(fd, unix.EPOLLIN); err != nil {
		l.lost(c, "Error registering fd event for the new client: "+err.Error())
	}
}

func (l *loop) closeAll() {
	e := l.s.e
	for _, c := range l.byFD {
		e.Lock()
		l.s.forget(c)
		e.Unlock()
		l.drop(c)
	}
	if l.spare >= 0 {
		_ = unix.Close(l.spare)
	}
	_ = unix.Close(l.wakeFD)
	_ = unix.Close(l.ep)
}
