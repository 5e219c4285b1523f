package server

import "holdfast/internal/redis/command"

// What a connection takes is counted in two ways. memory is what it really
// takes; that counts for maxmemory and maxmemory-clients. The sizes of buffers
// in CLIENT LIST (qbuf-free, rbs, rbp) are those that Redis gives a client in
// the same state: here a connection reads into a buffer that all of a loop
// share and has a reply buffer only while there is something to send, so there
// is nothing of its own to tell, but tools look at how these sizes move.

// Sizes in bytes.
const (
	roomOfReader    = 20474     // a query buffer for one read, as the allocator of Redis rounds it
	roomShrinks     = 32 << 10  // a query buffer beyond this follows its latest peak
	roomWorthwhile  = 4 << 10   // less room than this is not given back
	replyBufferMax  = 16 << 10  // a new client's reply buffer
	replyBufferMin  = 1 << 10   // an idle client's reply buffer
	replyPieceExtra = 40        // what a further piece of output takes besides its bytes
	watchedCost     = 72        // a watched key, about
	subscribedCost  = 96        // a channel or pattern, about
	clientBase      = 1024      // a client without its buffers, about
	replyPeakReset  = 5000      // milliseconds after which the peak of a reply buffer begins anew
	replyPeakNever  = int64(-1) // it never does
)

// buffers are the sizes of a client's buffers as CLIENT LIST tells them. They
// are under the engine's lock.
type buffers struct {
	room, peak   int   // of the query buffer: all of it, the most in use lately
	reply, used  int   // of the reply buffer: the same
	usedResetsMs int64 // when used began
}

func newBuffers() buffers { return buffers{reply: replyBufferMax, used: replyBufferMax} }

// received notes that a client had n bytes of input, in a buffer of size bytes.
func (b *buffers) received(n, size int) {
	b.room = max(b.room, roomOfReader, size)
	b.peak = max(b.peak, n)
}

// replied notes n bytes of replies.
func (b *buffers) replied(n int) {
	b.used = max(b.used, min(n, b.reply))
}

// shrinkRoom is what is done about a query buffer once a second: idle ones go,
// large ones follow what was in use lately. Input is what is in it, pending the
// length of the argument that is being read.
func (b *buffers) shrinkRoom(input int, pending int64, idleMs int64) {
	if b.room-input > roomWorthwhile {
		if idleMs > 2000 {
			b.room = input
		} else if b.room > roomShrinks && b.peak < b.room/2 {
			b.room = max(input, b.peak, int(min(pending, maxModelRoom)))
		}
	}
	b.peak = max(input, int(min(pending, maxModelRoom)))
}

// maxModelRoom bounds what a client's claim about an argument's length counts.
const maxModelRoom = 1 << 30

// claimedRoom is what Redis makes room for once it knows that pending bytes of
// an argument are to come: all of it when the argument is a large one.
func claimedRoom(pending int64) int {
	if pending < roomShrinks {
		return 0
	}
	return int(min(pending, maxModelRoom))
}

// resizeReply is the same for a reply buffer: half of it when less was in use,
// twice as much when all was. It returns which.
func (b *buffers) resizeReply(held int, nowMs, resetMs int64) (shrunk, grown bool) {
	size := 0
	switch {
	case b.reply/2 >= replyBufferMin && b.used < b.reply/2:
		size, shrunk = max(replyBufferMin, b.used+1), true
	case b.reply*2 < replyBufferMax*2 && b.used == b.reply:
		size, grown = min(replyBufferMax, b.reply*2), true
	}
	if resetMs >= 0 && nowMs-b.usedResetsMs > resetMs {
		b.used, b.usedResetsMs = min(held, b.reply), nowMs
	}
	if size > 0 {
		b.reply = size
	}
	return shrunk, grown
}

// bufferCron looks after the sizes of a client's buffers. The engine's lock is
// held.
func (s *Server) bufferCron(c *conn, idleMs int64) {
	c.sizes.shrinkRoom(int(c.inPending), c.argPending, idleMs)
	if !s.cron.replyResizing {
		return
	}
	shrunk, grown := c.sizes.resizeReply(len(c.cl.Buf), s.e.NowMs, s.cron.replyPeakResetMs)
	if shrunk {
		s.stat.replyShrinks++
	}
	if grown {
		s.stat.replyGrows++
	}
}

// memory is what the connection takes, in bytes. The engine's lock is held.
func (c *conn) memory() int64 {
	cl := c.cl
	channels, patterns, shard := cl.Subs()
	n := clientBase + c.inSize + c.outPending + int64(cap(cl.Buf)+cl.MultiMem()+cl.MultiArgs()*24+len(cl.Name))
	return n + int64(cl.WatchLen())*watchedCost + int64(channels+patterns+shard)*subscribedCost
}

// output divides what waits to be sent as Redis does: what is in the reply
// buffer, and further pieces with what they take.
func (c *conn) output() (inBuffer, pieces, size int64) {
	held := c.outPending + int64(len(c.cl.Buf))
	inBuffer = min(held, int64(c.sizes.reply))
	if rest := held - inBuffer; rest > 0 {
		pieces = (rest + replyBufferMax - 1) / replyBufferMax
		size = rest + pieces*replyPieceExtra
	}
	return inBuffer, pieces, size
}

// noteInput takes over, from the driver, what is left of the input.
func (c *conn) noteInput() {
	pending, args := c.parser.Unread(len(c.in))
	size := int64(cap(c.in) + c.parser.Memory())
	if len(c.in) == 0 {
		size = int64(cap(c.in))
	}
	c.inPending, c.inArgs, c.argPending = int64(pending), int64(args), c.parser.Pending(len(c.in))
	if size != c.inSize {
		c.inSize = size
		c.countMemory()
	}
}

// countMemory makes what the connection takes now count for maxmemory, but not
// that of replicas, or they would drive out keys, which makes more for them;
// and for maxmemory-clients. The engine's lock is held.
func (c *conn) countMemory() {
	n, evictable := int64(0), int64(0)
	if !c.closed && (!c.cl.Has(command.FlagReplica) || c.cl.Has(command.FlagMonitor)) {
		n = c.memory()
		if c.evictable() {
			evictable = n
		}
	}
	s := c.s
	s.cron.evictable += evictable - c.countedEvictable
	c.countedEvictable = evictable
	if n != c.counted {
		s.cron.counted += n - c.counted
		c.counted = n
		s.e.SetExtraMemory(s.cron.baseMemory + s.cron.counted + s.cron.backlog)
	}
}

// countExtra makes everything that is not data count for maxmemory. The engine's
// lock is held.
func (s *Server) countExtra() {
	s.cron.backlog, _ = s.backlogMemory()
	s.e.SetExtraMemory(s.cron.baseMemory + s.cron.counted + s.cron.backlog)
}

// backlogMemory is what the stream holds in memory, in bytes, while there are
// replicas: as much as repl-backlog-size, and what it holds beyond that because
// a replica is slow, which does not count for maxmemory. Without replicas it is
// a part of the process like any other. The engine's lock is held.
func (s *Server) backlogMemory() (backlog, forReplicas int64) {
	st := s.persist.stream
	if st == nil || len(s.repl.links) == 0 {
		return 0, 0
	}
	window := int64(st.Stats().WindowBytes)
	backlog = min(window, int64(s.cfg.ReplBacklogSize))
	return backlog, window - backlog
}

// clientMemoryLimit is maxmemory-clients in bytes, 0 for none.
func (s *Server) clientMemoryLimit() int64 {
	n := s.cfg.MaxMemoryClients
	if n < 0 {
		return int64(float64(s.cfg.MaxMemory) * float64(-n) / 100)
	}
	return n
}

// evictable: replicas, masters, monitors and clients that asked for it are spared.
func (c *conn) evictable() bool {
	return !c.closed && c.closeWhen != closeNow &&
		!c.cl.Has(command.FlagReplica|command.FlagMaster|command.FlagMonitor|command.FlagNoEvict)
}

// evictClients closes the largest clients while all together exceed
// maxmemory-clients. Like in Redis that is looked at before commands are
// executed, so that who has lowered the limit gets a reply. The engine's lock is
// held.
func (s *Server) evictClients() {
	limit := s.clientMemoryLimit()
	for limit > 0 && s.cron.evictable > limit {
		var largest *conn
		for _, c := range s.conns {
			if c.countedEvictable > 0 && (largest == nil || c.countedEvictable > largest.countedEvictable) {
				largest = c
			}
		}
		if largest == nil {
			s.log.Warning("Over client maxmemory after evicting all evictable clients")
			return
		}
		s.log.Notice("Evicting client: %s", largest.describe())
		s.e.Stat.EvictedClients++
		s.kill(largest)
		largest.cl.Buf = nil // nobody is going to read it
		largest.countMemory()
	}
}
