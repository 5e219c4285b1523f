package server

import (
	"errors"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/journal"
	"holdfast/internal/redis/command"
	"holdfast/internal/redis/replication"
)

const (
	pumpChunk  = 64 << 10 // what a replica's link holds in memory at most, in bytes
	pumpBudget = 1 << 20  // bytes that one replica is sent in one tick

	pingUnit   = "*1\r\n$4\r\nPING\r\n"
	getackUnit = "*3\r\n$8\r\nREPLCONF\r\n$6\r\nGETACK\r\n$1\r\n*\r\n"
)

// replicaLink is the master's side of one replica. What it is sent comes from
// three sources, one after the other: control lines, the snapshot, the stream.
// The connection's driver asks for it by pump; nothing is queued in memory but
// the chunk under way.
type replicaLink struct {
	c   *conn
	rep replication.Replica // under the engine's lock
	job *syncJob            // the snapshot it gets, under the engine's lock

	// The pump's own.
	buf    []byte
	bufPos int
	sent   atomic.Int64 // monotonic time of the last byte that the socket took

	mu       sync.Mutex // below the engine's lock
	ctl      []byte     // lines of the handshake
	bulk     bulkSource // the snapshot, nil before and after
	follower *journal.Follower
	stream   bool // the follower's bytes may be sent
	closed   bool
}

// bulkSource is a snapshot that is sent to one replica.
type bulkSource interface {
	// read fills b. done means that everything was read; 0 and not done that
	// there is nothing yet.
	read(b []byte) (n int, done bool, err error)
	close()
}

// link returns the link of a client, making it: REPLCONF comes before PSYNC.
func (s *Server) linkOf(c *conn) *replicaLink {
	if c.handshake == nil {
		c.handshake = &replicaLink{c: c}
	}
	return c.handshake
}

// attach makes the client a replica. The engine's lock is held, by the
// goroutine that drives the connection.
func (s *Server) attach(l *replicaLink, state replication.State) {
	now := time.Now()
	l.rep.State, l.rep.Since, l.rep.AckedTime = state, now, now
	l.sent.Store(monotonic())
	c := l.c
	c.replica = l
	c.cl.Flags |= command.FlagReplica | command.FlagReplyOff
	s.repl.links = append(s.repl.links, l)
	s.repl.book = append(s.repl.book, &l.rep)
	switch d := c.driver.(type) {
	case *loop:
		if s.cfg.ReplDisableTCPNodelay {
			// It fails on a unix socket, which has no such delay.
			_ = unix.SetsockoptInt(c.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 0)
		}
		d.replicas = append(d.replicas, c)
		d.pumps.Add(1)
	case *gateway:
		s.listGateway(d, true)
	}
	s.growBacklog()
	s.countGoodReplicas(now)
}

// listGateway adds or removes a gateway from those that rousePumps pokes.
func (s *Server) listGateway(g *gateway, add bool) {
	var list []*gateway
	if old := s.repl.gateways.Load(); old != nil {
		for _, x := range *old {
			if x != g {
				list = append(list, x)
			}
		}
	}
	if add {
		list = append(list, g)
	}
	s.repl.gateways.Store(&list)
}

// replicaGone forgets a replica whose connection ends. The engine's lock is held.
func (s *Server) replicaGone(c *conn) {
	s.detach(c.replica)
	s.countGoodReplicas(time.Now())
}

// detach ends what a replica is sent: not a byte more is taken from the stream.
func (s *Server) detach(l *replicaLink) {
	at := slices.Index(s.repl.links, l)
	if at < 0 {
		return
	}
	s.repl.links = slices.Delete(s.repl.links, at, at+1)
	s.repl.book = slices.Delete(s.repl.book, at, at+1)
	if g, ok := l.c.driver.(*gateway); ok {
		s.listGateway(g, false)
	}
	l.close()
	s.trimBacklog()
	s.log.Warning("Connection with replica %s lost.", l.name())
}

func (l *replicaLink) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.ctl = nil
	if l.bulk != nil {
		l.bulk.close()
		l.bulk = nil
	}
	l.unfollow()
}

func (l *replicaLink) unfollow() {
	if l.follower != nil {
		_ = l.follower.Close() // it only reads
		l.follower = nil
	}
}

// dropReplicas closes the links of all replicas: they come back. What is
// appended from now on is of another history, of which they do not know, so
// they must not get it. The engine's lock is held.
func (s *Server) dropReplicas() {
	for len(s.repl.links) > 0 {
		l := s.repl.links[len(s.repl.links)-1]
		s.detach(l)
		l.c.closeLater(false)
	}
	s.countGoodReplicas(time.Now())
}

// ip is the replica's address as it is known to others.
func (l *replicaLink) ip() string {
	if l.rep.Addr != "" {
		return l.rep.Addr
	}
	host, _, err := net.SplitHostPort(l.c.cl.Addr)
	if err != nil {
		return "?"
	}
	return host
}

// name is the replica in log lines: its address and the port it listens on.
func (l *replicaLink) name() string {
	if l.rep.Port > 0 {
		return net.JoinHostPort(l.ip(), strconv.Itoa(l.rep.Port))
	}
	return l.ip() + ":<unknown-replica-port>"
}

// tell sends control lines. Nothing may be sent so once the snapshot or the
// stream has begun.
func (l *replicaLink) tell(text string) {
	l.mu.Lock()
	l.ctl = append(l.ctl, text...)
	l.mu.Unlock()
	l.c.wake()
}

// follow makes the link hold the stream from pos on.
func (l *replicaLink) follow(st journal.Stream, pos uint64) error {
	f, err := st.Follow(pos)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unfollow()
	if l.closed {
		return f.Close()
	}
	l.follower = f
	return nil
}

// startStream lets the stream go out, behind everything else.
func (l *replicaLink) startStream() {
	l.mu.Lock()
	l.stream = true
	l.mu.Unlock()
	l.c.wake()
}

// holds is the position of the stream that the replica needs next.
func (l *replicaLink) holds() (pos uint64, held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.follower == nil {
		return 0, false
	}
	return l.follower.Pos(), true
}

// refollow goes on in another stream, which has the same positions. A replica
// that is behind what the new one holds is dropped, and comes back.
func (l *replicaLink) refollow(st journal.Stream) {
	pos, held := l.holds()
	if !held {
		return
	}
	if err := l.follow(st, pos); err != nil {
		l.c.closeLater(false)
	}
}

// pump sends the replica what there is to send, by write, which may take less
// and then says unix.EAGAIN. It returns whether everything was sent. It is
// called by the connection's driver, without the engine's lock.
func (s *Server) pump(c *conn, write func([]byte) (int, error)) bool {
	l := c.replica
	for budget := pumpBudget; budget > 0; {
		if l.bufPos == len(l.buf) {
			over, err := l.fill()
			if over {
				s.bulkSent(l)
			}
			if err != nil {
				s.dropBroken(l, err)
				return true
			}
			if len(l.buf) == 0 {
				if over {
					continue
				}
				return true
			}
		}
		n, err := write(l.buf[l.bufPos:])
		if n > 0 {
			l.bufPos += n
			budget -= n
			l.sent.Store(monotonic())
			s.stat.replOutBytes.Add(int64(n))
			s.stat.outBytes.Add(int64(n))
		}
		switch {
		case err == nil || errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return false
		default:
			s.dropBroken(l, err)
			return true
		}
	}
	return false
}

// fill gets the next bytes into buf; none if there are none at the moment. over
// says that the snapshot's last byte was taken.
func (l *replicaLink) fill() (over bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf, l.bufPos = l.buf[:0], 0
	if l.closed {
		return false, nil
	}
	if len(l.ctl) > 0 {
		l.buf = append(l.buf, l.ctl...)
		l.ctl = l.ctl[:0]
		return false, nil
	}
	if l.bulk != nil {
		b := l.room()
		n, done, err := l.bulk.read(b)
		l.buf = b[:n]
		if done && n == 0 {
			l.bulk.close()
			l.bulk = nil
			return true, nil
		}
		return false, err
	}
	if l.follower != nil && l.stream {
		b := l.room()
		n, err := l.follower.Read(b)
		l.buf = b[:n]
		if n > 0 {
			err = nil // it comes again
		}
		return false, err
	}
	return false, nil
}

func (l *replicaLink) room() []byte {
	if cap(l.buf) < pumpChunk {
		l.buf = make([]byte, 0, pumpChunk)
	}
	return l.buf[:pumpChunk]
}

// dropBroken ends a link that cannot go on. The engine's lock is not held; the
// driver looks at closeWhen next.
func (s *Server) dropBroken(l *replicaLink, err error) {
	s.e.Lock()
	defer s.e.Unlock()
	if l.c.closed || l.c.closeWhen == closeNow {
		return
	}
	switch {
	case errors.Is(err, journal.ErrTrimmed):
		s.log.Warning("Replica %s is too far behind: what it needs next is no longer kept. It has to resynchronize.", l.name())
	case errors.Is(err, journal.ErrGeneration), errors.Is(err, journal.ErrClosed):
	default:
		s.log.Warning("Sending to replica %s: %s", l.name(), err)
	}
	l.c.closeLater(false)
}

// rousePumps lets all replicas be sent what has become visible. It is called
// without or with the engine's lock and takes none.
func (s *Server) rousePumps() {
	for _, d := range s.loops {
		if d.pumps.Load() > 0 && !d.committing.Load() {
			d.signal()
		}
	}
	if list := s.repl.gateways.Load(); list != nil {
		for _, g := range *list {
			g.wake(nil)
		}
	}
}

// pumpReplicas sends to the replicas of a loop what the journal has; or, with
// snapshots set, what those get that are not at the stream yet: no reply waits
// for a snapshot.
func (l *loop) pumpReplicas(snapshots bool) {
	for i := 0; i < len(l.replicas); {
		c := l.replicas[i]
		if c.gone {
			last := len(l.replicas) - 1
			l.replicas[i], l.replicas[last] = l.replicas[last], nil
			l.replicas = l.replicas[:last]
			l.pumps.Add(-1)
			continue
		}
		if !c.want && c.replica.sending() == snapshots {
			l.flush(c)
		}
		i++
	}
}

// linksCron looks after the replicas once a second: pings, keep-alives, those
// that are silent. The engine's lock is held.
func (s *Server) linksCron(now time.Time) {
	if len(s.repl.links) == 0 {
		return
	}
	if !s.repl.isReplica.Load() && !s.e.State.FailoverPause && s.persist.stream != nil &&
		now.Sub(s.repl.lastPing) >= time.Duration(s.cfg.ReplPingReplicaPeriod)*time.Second-50*time.Millisecond {
		s.repl.lastPing = now
		s.appendShell(pingUnit)
	}
	timeout := time.Duration(s.cfg.ReplTimeout) * time.Second
	for _, l := range s.repl.links {
		silent := time.Duration(monotonic() - l.sent.Load())
		switch {
		case l.overtaken(s.persist.stream):
			s.log.Warning("Client %s scheduled to be closed ASAP for overcoming of output buffer limits.", l.c.describeLocked())
			l.c.closeLater(false)
		case l.rep.State == replication.WaitStart, l.rep.State == replication.WaitEnd && l.job != nil && !l.job.sockets:
			// The replica would give up while the snapshot is prepared.
			l.tell("\n")
		case l.rep.TimedOut(now, timeout):
			s.log.Warning("Disconnecting timedout replica (streaming sync): %s", l.name())
			l.c.closeLater(false)
		case l.rep.State < replication.Online && l.sending() && silent > timeout:
			s.log.Warning("Disconnecting timedout replica (full sync): %s", l.name())
			l.c.closeLater(false)
		case l.rep.State == replication.Transmitted && silent > timeout:
			l.c.closeLater(false)
		}
	}
}

// overtaken reports whether what the replica needs next is not kept any more: it
// would get its snapshot in vain.
func (l *replicaLink) overtaken(st journal.Stream) bool {
	at, held := l.holds()
	return held && st != nil && at < st.FirstPos()
}

func (l *replicaLink) sending() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bulk != nil
}

// countGoodReplicas brings min-replicas-to-write up to date. The engine's lock
// is held.
func (s *Server) countGoodReplicas(now time.Time) {
	n := 0
	for _, r := range s.repl.book {
		if r.Good(now, s.cfg.MinReplicasMaxLag) {
			n++
		}
	}
	s.e.State.GoodReplicas = n
}

// ackedBy counts the replicas that have acknowledged pos.
func (s *Server) ackedBy(pos uint64) int {
	n := 0
	for _, r := range s.repl.book {
		if r.HasAcked(pos) {
			n++
		}
	}
	return n
}

// onAck is REPLCONF ACK. The engine's lock is held.
func (s *Server) onAck(l *replicaLink, pos uint64) {
	now := time.Now()
	l.rep.Ack(min(pos, s.streamEnd()), now)
	s.repl.shared = max(s.repl.shared, l.rep.Acked)
	if l.rep.State == replication.Transmitted {
		l.c.closeLater(false)
		return
	}
	if l.rep.State == replication.Online && !l.streaming() {
		// It has loaded a snapshot that had no length: now it can tell the
		// stream from the snapshot.
		s.log.Notice("Synchronization with replica %s succeeded", l.name())
		l.startStream()
	}
	s.countGoodReplicas(now)
	s.e.Waits(func(cl *command.Client, off uint64, replicas int) {
		if n := s.ackedBy(off); n >= replicas {
			s.e.ServeWait(cl, n)
		}
	})
}

func (l *replicaLink) streaming() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stream
}

// askForAcks puts a GETACK into the stream, unless the stream already ends
// with one. The engine's lock is held.
func (s *Server) askForAcks() {
	if end := s.streamEnd(); len(s.repl.links) > 0 && (s.repl.asked != end || end == 0) {
		s.repl.asked = s.appendShell(getackUnit)
		if len(s.loops) > 0 {
			s.loops[0].rouse() // somebody has to flush it
		}
	}
}

// replicasBehind reports whether a replica has yet to get what was written.
func (s *Server) replicasBehind() bool {
	end := s.streamEnd()
	for _, r := range s.repl.book {
		if r.State == replication.Online && r.Acked < end {
			return true
		}
	}
	return false
}

// failoverCron goes on with a FAILOVER. The engine's lock is held.
func (s *Server) failoverCron(now time.Time) {
	f := &s.repl.failover
	if f.Phase != replication.FailoverWaiting {
		return
	}
	end := s.streamEnd()
	var target *replicaLink
	for _, l := range s.repl.links {
		named := f.Host == "" || l.ip() == f.Host && l.rep.Port == f.Port
		if named && l.rep.HasAcked(end) {
			target = l
			break
		}
	}
	switch f.Step(now, target != nil) {
	case replication.FailoverHandOver:
		f.Host, f.Port = target.ip(), target.rep.Port
		s.log.Notice("Failover target %s:%d is synced, failing over.", f.Host, f.Port)
		s.handOver()
	case replication.FailoverForce:
		s.log.Notice("FAILOVER to %s:%d time out exceeded, failing over.", f.Host, f.Port)
		s.handOver()
	case replication.FailoverGiveUp:
		s.abortFailover("Replica never caught up before timeout")
	}
}
