package server

import (
	"bytes"
	"net"
	"time"

	"holdfast/internal/redis/command"
	"holdfast/internal/redis/config"
	"holdfast/internal/redis/resp"
)

// Buffer sizes in bytes.
const (
	readChunk   = 16 * 1024  // one read of a connection in one tick
	bigRead     = 512 * 1024 // the same while a large argument arrives
	keepBuffer  = 64 * 1024  // a reply buffer that is larger is given back when empty
	maxPerBatch = 4096       // commands of one connection in one tick, so that nobody starves
)

// driver is what carries a connection's bytes: an epoll loop or a pair of
// goroutines.
type driver interface {
	// wake says that there is a reply to send. The engine's lock is held.
	wake(c *conn)
	// resume says that the connection's unparsed input is to be parsed again.
	resume(c *conn)
	// drop closes the socket; to be called once, without the engine's lock.
	drop(c *conn)
}

// conn is one connection. Its socket side (in, out, parser) belongs to its
// driver; cl and what is said to be so belong to the engine's lock.
type conn struct {
	s      *Server
	cl     *command.Client
	driver driver
	fd     int
	net    net.Conn // of a gateway connection

	parser resp.Parser
	in     []byte // input not yet parsed
	out    []byte // reply bytes being written
	outPos int

	// Under the engine's lock.
	queued           bool // in the driver's list of connections with replies
	closeWhen        closeWhen
	closed           bool
	waiting          bool // postponed by CLIENT PAUSE
	softSince        time.Time
	outPending       int64 // bytes that the driver could not write at once
	inPending        int64 // bytes of input that wait, without the arguments that were read
	inArgs           int64 // bytes of those
	inSize           int64 // what the input takes, with what has become free
	argPending       int64 // bytes still missing of the argument that is being read
	sizes            buffers
	counted          int64 // bytes of it that count for maxmemory
	countedEvictable int64 // the same for maxmemory-clients
	executing        int   // bytes of input that are being executed
	received         int64 // bytes of input in all
	trim             bool  // idle: takeReply gives the buffers back
	trimmedMs        int64 // cl.LastMs when that was done last

	handshake *replicaLink // what REPLCONF has said
	replica   *replicaLink // set on a replica's connection
	master    bool

	// The driver's own.
	want   bool      // EPOLLOUT is on
	gone   bool      // dropped
	again  bool      // in its loop's list of connections with input left
	held   int64     // what outPending is
	ending closeWhen // what closeWhen was at the last takeReply
}

type closeWhen uint8

const (
	closeNot closeWhen = iota
	closeAfterReply
	closeNow
)

// internalClients is how many client ids Redis has given away to itself, for
// scripts, before the first connection comes.
const internalClients = 2

// newConn registers a connection. The engine's lock is held.
func (s *Server) newConn(d driver, addr, laddr string) *conn {
	id := s.nextConn.Add(1) + internalClients
	c := &conn{s: s, driver: d, fd: -1}
	c.cl = s.e.NewClient(id)
	c.cl.Addr, c.cl.Laddr, c.cl.Conn = addr, laddr, c
	c.cl.Authenticated = s.cfg.RequirePass == ""
	c.parser.MaxBulk = s.cfg.ProtoMaxBulkLen
	c.parser.Unauthenticated = !c.cl.Authenticated
	c.sizes = newBuffers()
	s.conns[id] = c
	s.byClient[c.cl] = c
	return c
}

// forget takes the connection out of all tables. The engine's lock is held.
func (s *Server) forget(c *conn) {
	if c.closed {
		return
	}
	c.closed = true
	c.countMemory()
	if c.replica != nil {
		s.replicaGone(c)
	}
	if c.cl.Has(command.FlagImport) {
		s.slotStreamGone(c.cl)
	}
	s.e.Release(c.cl)
	delete(s.conns, c.cl.ID)
	delete(s.byClient, c.cl)
	delete(s.monitors, c)
}

func (c *conn) wake() {
	// Who does not read what others publish is closed before it fills the memory,
	// not when the tick is over.
	if held := len(c.cl.Buf); held > uncountedOutput && c.executing == 0 {
		c.checkOutputLimit(c.outPending + int64(held))
		if c.closeWhen == closeNow {
			c.cl.Buf = c.cl.Buf[:0]
		}
	}
	if !c.queued && !c.closed {
		c.queued = true
		c.driver.wake(c)
	}
}

func (c *conn) resume() {
	if !c.closed {
		c.driver.resume(c)
	}
}

// closeLater closes the connection at the end of the tick. The engine's lock
// is held.
func (c *conn) closeLater(afterReply bool) {
	if c.closed {
		return
	}
	if !afterReply {
		c.closeWhen = closeNow
		c.queued = false // a driver that is at sending has to hear of it
	} else if c.closeWhen == closeNot {
		c.closeWhen = closeAfterReply
	}
	c.wake()
}

// execute parses and executes the requests in buf and returns how many bytes
// it took. It stops where the client blocks, is paused, closes, or has used up
// its share of the tick (more is then true). The engine's lock is held.
func (c *conn) execute(buf []byte) (taken int, more bool) {
	s, cl := c.s, c.cl
	cl.LastMs = s.e.NowMs
	c.sizes.received(len(buf), 0)
	c.executing = len(buf)
	defer func() {
		c.executing = 0
		c.received += int64(taken)
	}()
	for n := 0; ; n++ {
		if c.closeWhen != closeNot || c.closed || s.shutdown.over {
			return len(buf), false // nobody is going to execute the rest
		}
		if cl.Has(command.FlagBlocked) || c.waiting {
			s.pokeCron()
			return taken, false
		}
		if n == maxPerBatch {
			return taken, true
		}
		used, err := c.parser.Next(buf[taken:])
		if err != nil {
			c.protocolError(err, buf[taken:])
			return len(buf), false
		}
		if used == 0 {
			return taken, false
		}
		if len(c.parser.Args) > 0 {
			if s.e.Dispatch(cl, c.parser.Args) == command.Postponed {
				c.waiting = true
				s.paused = append(s.paused, c)
				return taken, false
			}
			if held := len(cl.Buf); held > uncountedOutput {
				c.checkOutputLimit(c.outPending + int64(held))
				c.countMemory()
			}
		}
		taken += used
	}
}

func (c *conn) protocolError(err error, _ []byte) {
	c.s.log.Verbose("Protocol error (%s) from client: addr=%s", err, c.cl.Addr)
	text := "ERR " + err.Error()
	c.s.e.CountError(text)
	c.cl.Buf = resp.AppendError(c.cl.Buf, text)
	c.closeLater(true)
}

// takeReply moves what is to be sent from the client to the driver's side and
// judges the output buffer limits. The engine's lock is held, by the driver.
func (c *conn) takeReply() {
	cl := c.cl
	c.queued = false
	if c.trim {
		c.giveBack()
	}
	if len(cl.Buf) > 0 {
		if !cl.Has(command.FlagMaster) {
			cl.LastMs = c.s.e.NowMs
		}
		c.sizes.replied(len(cl.Buf))
		if c.outPos == len(c.out) {
			// Nothing unsent: the two buffers change places, no byte moves.
			c.out, cl.Buf = cl.Buf, c.out[:0]
			c.outPos = 0
			if cap(cl.Buf) > keepBuffer {
				cl.Buf = nil
			}
		} else {
			if c.outPos > len(c.out)/2 { // a slow reader never lets it run empty
				c.out = c.out[:copy(c.out, c.out[c.outPos:])]
				c.outPos = 0
			}
			c.out = append(c.out, cl.Buf...)
			if cl.Buf = cl.Buf[:0]; cap(cl.Buf) > keepBuffer {
				cl.Buf = nil
			}
		}
	}
	if n := int64(len(c.out) - c.outPos); n > 0 {
		if n > uncountedOutput { // it counts for maxmemory until it is gone
			c.outPending, c.held = n, n
			c.countMemory()
		}
		c.checkOutputLimit(n)
	}
	c.ending = c.closeWhen
}

// giveBack drops the buffers of an idle connection. The engine's lock is held,
// by the driver.
func (c *conn) giveBack() {
	c.trim = false
	if len(c.cl.Buf) == 0 {
		c.cl.Buf = nil
	}
	if c.outPos == len(c.out) {
		c.out, c.outPos = nil, 0
	}
	if len(c.in) == 0 {
		c.in = nil
		c.freshParser()
	} else if cap(c.in)-len(c.in) > roomWorthwhile {
		c.in = bytes.Clone(c.in) // half a request, and a claim of how long it is
	}
	c.noteInput()
}

// freshParser forgets a parser's memory, which may keep a large input alive.
// No request may be half read.
func (c *conn) freshParser() {
	c.parser = resp.Parser{MaxBulk: c.parser.MaxBulk, Unauthenticated: c.parser.Unauthenticated, Trusted: c.parser.Trusted}
}

// class is the client's class for output buffer limits.
func (c *conn) class() int {
	switch ch, pat, sh := c.cl.Subs(); {
	case c.cl.Has(command.FlagReplica) && !c.cl.Has(command.FlagMonitor):
		return config.ClientReplica
	case ch+pat+sh > 0:
		return config.ClientPubsub
	}
	return config.ClientNormal
}

// uncountedOutput is how many bytes of replies may wait before the limits begin
// to count: those for which Redis has a buffer in each client.
const uncountedOutput = 16 << 10

// strangerOutput is how many bytes beyond those may wait for a client that has
// not authenticated itself, although it has to.
const strangerOutput = 1 << 10

// checkOutputLimit closes a client that has used bytes of replies waiting, if
// that is beyond what its class may have.
func (c *conn) checkOutputLimit(bytes int64) {
	if c.cl.Has(command.FlagMaster) {
		return
	}
	class := c.class()
	limit := c.s.cfg.ClientOutputBufferLimits[class]
	used := uint64(bytes)
	if class != config.ClientReplica {
		used -= min(used, uncountedOutput)
	}
	over := limit.Hard > 0 && used >= limit.Hard || used > strangerOutput && c.s.e.State.RequirePass && !c.cl.Authenticated
	if limit.Soft > 0 && used >= limit.Soft {
		now := time.Now()
		if c.softSince.IsZero() {
			c.softSince = now
		} else if now.Sub(c.softSince) > time.Duration(limit.SoftSeconds)*time.Second {
			over = true
		}
	} else {
		c.softSince = time.Time{}
	}
	if over && c.closeWhen != closeNow {
		c.s.log.Warning("Client %s scheduled to be closed ASAP for overcoming of output buffer limits.", c.describe())
		c.s.stat.outputClosed++
		c.closeWhen = closeNow
	}
}

// checkInputLimit closes a client whose unparsed input is too large.
func (c *conn) checkInputLimit() bool {
	if uint64(len(c.in)) <= c.s.cfg.ClientQueryBufferLimit || c.cl.Has(command.FlagMaster) {
		return true
	}
	c.s.log.Warning("Closing client that reached max query buffer length: %s (qbuf initial bytes: %q)", c.describe(), c.in[:min(64, len(c.in))])
	c.s.stat.queryBufferClosed++
	return false
}

// keepRest stores what execute has not taken of buf, which may be c.in itself.
func (c *conn) keepRest(buf []byte, taken int, own bool) {
	rest := buf[taken:]
	switch {
	case len(rest) == 0:
		if cap(c.in) > keepBuffer {
			c.in = nil
			c.freshParser()
		} else {
			c.in = c.in[:0]
		}
	case own:
		if taken > 0 {
			c.in = c.in[:copy(c.in, rest)]
		}
	default:
		c.in = append(c.in[:0], rest...)
	}
	c.sizes.room = max(c.sizes.room, cap(c.in), len(c.in)+claimedRoom(c.parser.Pending(len(c.in))))
	if len(rest) > 0 || c.inSize != int64(cap(c.in)) || c.inPending != 0 {
		c.noteInput()
	}
	if c.s.cfg.MaxMemoryClients != 0 {
		c.countMemory()
	}
}
