package server

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/redis/command"
	"holdfast/internal/redis/config"
	"holdfast/internal/redis/replication"
	"holdfast/internal/redis/resp"
)

func (s *Server) replicationCommands() []command.Spec {
	const link = command.Admin | command.NoScript | command.NoAsyncLoading | command.NoMulti
	const role = command.Admin | command.NoScript | command.NoAsyncLoading | command.Stale
	return []command.Spec{
		{Name: "failover", Arity: -1, Flags: command.Admin | command.NoScript | command.Stale, Cat: command.CatDangerous, Run: s.cmdFailover},
		{Name: "psync", Arity: -3, Flags: link, Cat: command.CatDangerous, Run: s.cmdSync},
		{Name: "replconf", Arity: -1, Flags: command.Admin | command.NoScript | command.Loading | command.Stale | command.AllowBusy, Cat: command.CatDangerous, Run: s.cmdReplconf},
		{Name: "replicaof", Arity: 3, Flags: role, Cat: command.CatDangerous, Run: s.cmdReplicaof},
		{Name: "role", Arity: 1, Flags: atOnce | command.NoScript, Cat: command.CatAdmin | command.CatDangerous, Run: s.cmdRole},
		{Name: "slaveof", Arity: 3, Flags: role, Cat: command.CatDangerous, Run: s.cmdReplicaof},
		{Name: "sync", Arity: 1, Flags: link, Cat: command.CatDangerous, Run: s.cmdSync},
		{Name: "wait", Arity: 3, Flags: command.NoScript, Cat: command.CatConnection, Run: s.cmdWait, Tips: []string{"request_policy:all_shards", "response_policy:agg_min"}},
	}
}

// --- PSYNC, SYNC ---

func (s *Server) cmdSync(c *command.Ctx) {
	cl := c.Client
	k, ok := cl.Conn.(*conn)
	if !ok || cl.Has(command.FlagReplica) {
		return // it is one already
	}
	psync := strings.EqualFold(string(c.Args[0]), "psync")
	if psync && len(c.Args) > 3 && c.Is(3, "failover") && !s.takeOver(c) {
		return
	}
	switch {
	case s.repl.failover.Phase != replication.NoFailover:
		c.Err("NOMASTERLINK Can't SYNC while failing over")
		return
	case s.repl.isReplica.Load() && s.repl.linkState != linkConnected:
		c.Err("NOMASTERLINK Can't SYNC while not connected with my master")
		return
	case s.repl.lost:
		c.Err("NOMASTERLINK Can't SYNC while the data set is incomplete")
		return
	}
	l := s.linkOf(k)
	s.log.Notice("Replica %s asks for synchronization", l.name())
	if psync {
		wanted, ok := resp.ParseInt(c.Args[2])
		if !ok {
			c.Err(command.ErrNotInt)
			s.log.Warning("Replica %s asks for synchronization but with a wrong offset", l.name())
			return
		}
		id := string(c.Args[1])
		if s.tryContinue(l, id, wanted) {
			s.repl.partialOK++
			return
		}
		if !strings.HasPrefix(id, "?") {
			s.repl.partialErr++
		}
	} else {
		l.rep.PrePSYNC = true
	}
	s.repl.fullSyncs++
	s.e.Reselect()
	s.attach(l, replication.WaitStart)
	s.beginFullSync(l)
}

// takeOver is a master's request to this replica to become the master: the end
// of a FAILOVER.
func (s *Server) takeOver(c *command.Ctx) bool {
	s.log.Warning("Failover request received for replid %s.", c.Args[1])
	if !s.repl.isReplica.Load() {
		c.Err("ERR PSYNC FAILOVER can't be sent to a master.")
		return false
	}
	if !strings.EqualFold(string(c.Args[1]), s.repl.id()) {
		c.Err("ERR PSYNC FAILOVER replid must match my replid.")
		return false
	}
	s.becomeMaster()
	s.log.Notice("MASTER MODE enabled (failover request from '%s')", describeClient(c.Client))
	return true
}

// tryContinue lets the replica go on where it stopped, if it can.
func (s *Server) tryContinue(l *replicaLink, id string, wanted int64) bool {
	st, h := s.persist.stream, &s.repl.hist
	s.repl.id()
	end := st.End()
	verdict, pos := h.Answer(id, wanted, st.FirstPos(), end)
	if verdict == replication.Continue && l.follow(st, pos) != nil {
		verdict = replication.NoBacklog
	}
	name := l.name()
	switch verdict {
	case replication.FullRequested:
		s.log.Notice("Full resync requested by replica %s", name)
	case replication.OtherHistory:
		id2 := h.ID2
		if id2 == "" {
			id2 = replication.NoID
		}
		s.log.Notice("Partial resynchronization not accepted: Replication ID mismatch (Replica asked for '%s', my replication IDs are '%s' and '%s')", id, h.ID, id2)
	case replication.BeyondSecond:
		s.log.Notice("Partial resynchronization not accepted: Requested offset for second ID was %d, but I can reply up to %d", wanted, h.SecondOffset())
	case replication.NoBacklog, replication.Ahead:
		s.log.Notice("Unable to partial resync with replica %s for lack of backlog (Replica request was: %d).", name, wanted)
		if verdict == replication.Ahead {
			s.log.Warning("Warning: replica %s tried to PSYNC with an offset that is greater than the master replication offset.", name)
		}
	}
	if verdict != replication.Continue {
		return false
	}
	s.attach(l, replication.Online)
	l.rep.Acked = pos
	text := "+CONTINUE\r\n"
	if l.rep.Capa&replication.CapaPSYNC2 != 0 {
		text = "+CONTINUE " + h.ID + "\r\n"
	}
	l.tell(text)
	l.startStream()
	s.log.Notice("Partial resynchronization request from %s accepted. Sending %d bytes of backlog starting from offset %d.", name, end-pos, wanted)
	return true
}

// beginFullSync finds the replica a snapshot: the one that runs, or a new one.
func (s *Server) beginFullSync(l *replicaLink) {
	switch y := s.repl.sync; {
	case y != nil && s.canJoin(l):
		s.joinSync(l, y)
		s.log.Notice("Waiting for end of BGSAVE for SYNC")
	case y != nil && y.sockets:
		s.log.Notice("Current BGSAVE has socket target. Waiting for next BGSAVE for SYNC")
	case y != nil:
		s.log.Notice("Can't attach the replica to the current BGSAVE. Waiting for next BGSAVE for SYNC")
	case s.persist.job != nil:
		s.log.Notice("No BGSAVE in progress, but another BG operation is active. BGSAVE for replication delayed")
	case s.cfg.ReplDisklessSync && l.rep.Capa&replication.CapaEOF != 0 && s.cfg.ReplDisklessSyncDelay > 0:
		s.log.Notice("Delay next BGSAVE for diskless SYNC")
	default:
		s.syncCron(time.Now())
	}
}

// --- REPLCONF ---

func (s *Server) cmdReplconf(c *command.Ctx) {
	if len(c.Args)%2 == 0 {
		c.Err(command.ErrSyntax)
		return
	}
	if c.Client.Has(command.FlagMaster) {
		s.replconfOfMaster(c)
		return
	}
	k, ok := c.Client.Conn.(*conn)
	if !ok {
		c.OK()
		return
	}
	l := s.linkOf(k)
	for i := 1; i+1 < len(c.Args); i += 2 {
		if done := s.replconf(c, l, i); done {
			return
		}
	}
	c.OK()
}

// replconf is one option of a replica's REPLCONF. done means that the reply, if
// there is any, was given.
func (s *Server) replconf(c *command.Ctx, l *replicaLink, i int) (done bool) {
	value := c.Args[i+1]
	switch {
	case c.Is(i, "listening-port"):
		n, ok := c.IntArg(i + 1)
		if !ok {
			return true
		}
		l.rep.Port = int(n)
	case c.Is(i, "ip-address"):
		if len(value) > 255 {
			c.Errf("ERR REPLCONF ip-address provided by replica instance is too long: %d bytes", len(value))
			return true
		}
		l.rep.Addr = string(value)
	case c.Is(i, "capa"):
		switch {
		case bytes.EqualFold(value, []byte("eof")):
			l.rep.Capa |= replication.CapaEOF
		case bytes.EqualFold(value, []byte("psync2")):
			l.rep.Capa |= replication.CapaPSYNC2
		}
	case c.Is(i, "ack"):
		if n, ok := resp.ParseInt(value); ok && n >= 0 && c.Client.Has(command.FlagReplica) {
			s.onAck(l, uint64(n))
		}
		return true
	case c.Is(i, "getack"):
		return true // for replicas only
	case c.Is(i, "rdb-only"):
		n, ok := c.IntArgRange(i+1, 0, 1, "")
		if !ok {
			return true
		}
		l.rep.RDBOnly = n == 1
	case c.Is(i, "rdb-filter-only"):
		// There is nothing here that could be left out but everything.
		for _, w := range strings.Fields(string(value)) {
			c.Errf("ERR Unsupported rdb-filter-only option: %s", w)
			return true
		}
	default:
		c.Errf("ERR Unrecognized REPLCONF option: %s", c.Args[i])
		return true
	}
	return false
}

// replconfOfMaster is what a master says in its stream.
func (s *Server) replconfOfMaster(c *command.Ctx) {
	for i := 1; i+1 < len(c.Args); i += 2 {
		if c.Is(i, "getack") && s.repl.link != nil {
			s.repl.link.asked.Store(true)
		}
	}
}

// --- REPLICAOF, ROLE ---

func (s *Server) cmdReplicaof(c *command.Ctx) {
	if s.cfg.ClusterEnabled {
		c.Err("ERR REPLICAOF not allowed in cluster mode.")
		return
	}
	if s.repl.failover.Phase != replication.NoFailover {
		c.Err("ERR REPLICAOF not allowed while failing over.")
		return
	}
	if c.Is(1, "no") && c.Is(2, "one") {
		if s.repl.isReplica.Load() {
			s.becomeMaster()
			s.log.Notice("MASTER MODE enabled (user request from '%s')", describeClient(c.Client))
		}
		c.OK()
		return
	}
	if c.Client.Has(command.FlagReplica) {
		c.Err("ERR Command is not valid when client is a replica.")
		return
	}
	port, ok := c.IntArgRange(2, 0, 65535, "ERR Invalid master port")
	if !ok {
		return
	}
	master := config.ReplicaOf{Host: string(c.Args[1]), Port: int(port)}
	if now := s.cfg.ReplicaOf; s.repl.isReplica.Load() && strings.EqualFold(now.Host, master.Host) && now.Port == master.Port {
		s.log.Notice("REPLICAOF would result into synchronization with the master we are already connected with. No operation performed.")
		if s.repl.linkState != linkConnected && s.repl.link != nil {
			// Said in so many words, it overrules the lineage guard.
			s.repl.forced = true
			s.repl.link.kick()
		}
		c.Simple("OK Already connected to specified master")
		return
	}
	s.becomeReplica(master, true)
	s.log.Notice("REPLICAOF %s:%d enabled (user request from '%s')", master.Host, master.Port, describeClient(c.Client))
	c.OK()
}

func (s *Server) cmdRole(c *command.Ctx) {
	if s.repl.isReplica.Load() {
		c.Array(5)
		c.BulkStr("slave")
		c.BulkStr(s.cfg.ReplicaOf.Host)
		c.Int(int64(s.cfg.ReplicaOf.Port))
		c.BulkStr(s.repl.linkState.String())
		if s.repl.linkState == linkConnected {
			c.Int(int64(s.streamEnd()))
		} else {
			c.Int(-1)
		}
		return
	}
	c.Array(3)
	c.BulkStr("master")
	c.Int(int64(s.streamEnd()))
	n := 0
	for _, l := range s.repl.links {
		if l.rep.State == replication.Online {
			n++
		}
	}
	c.Array(n)
	for _, l := range s.repl.links {
		if l.rep.State == replication.Online {
			c.Array(3)
			c.BulkStr(l.ip())
			c.BulkInt(int64(l.rep.Port))
			c.BulkStr(strconv.FormatUint(l.rep.Acked, 10))
		}
	}
}

// --- WAIT ---

func (s *Server) cmdWait(c *command.Ctx) {
	if s.repl.isReplica.Load() {
		c.Err("ERR WAIT cannot be used with replica instances. Please also note that since Redis 4.0 if a replica is configured to be writable (which is not the default) writes to replicas are just local and are not propagated.")
		return
	}
	n, ok := c.IntArg(1)
	if !ok {
		return
	}
	timeout, ok := resp.ParseInt(c.Args[2])
	switch {
	case !ok:
		c.Err("ERR timeout is not an integer or out of range")
		return
	case timeout < 0:
		c.Err("ERR timeout is negative")
		return
	case timeout > math.MaxInt64-c.Now():
		timeout = 0 // as good as for ever
	}
	off := c.Client.Woff
	if have := s.ackedBy(off); int64(have) >= n || !c.CanBlock() {
		c.Int(int64(have))
		return
	}
	c.BlockWait(off, int(min(n, math.MaxInt32)), timeout, func(c *command.Ctx) { c.Int(int64(s.ackedBy(off))) })
	s.askForAcks()
}

// --- FAILOVER ---

func (s *Server) cmdFailover(c *command.Ctx) {
	if s.cfg.ClusterEnabled {
		c.Err("ERR FAILOVER not allowed in cluster mode. Use CLUSTER FAILOVER command instead.")
		return
	}
	if len(c.Args) == 2 && c.Is(1, "abort") {
		if s.repl.failover.Phase == replication.NoFailover {
			c.Err("ERR No failover in progress.")
			return
		}
		s.abortFailover("Failover manually aborted")
		c.OK()
		return
	}
	f, ok := parseFailover(c)
	if !ok {
		return
	}
	switch {
	case s.repl.failover.Phase != replication.NoFailover:
		c.Err("ERR FAILOVER already in progress.")
		return
	case s.repl.isReplica.Load():
		c.Err("ERR FAILOVER is not valid when server is a replica.")
		return
	case len(s.repl.links) == 0:
		c.Err("ERR FAILOVER requires connected replicas.")
		return
	case f.Force && (f.Deadline.IsZero() || f.Host == ""):
		c.Err("ERR FAILOVER with force option requires both a timeout and target HOST and IP.")
		return
	}
	if f.Host != "" {
		l := s.findReplica(f.Host, f.Port)
		if l == nil {
			c.Err("ERR FAILOVER target HOST and PORT is not a replica.")
			return
		}
		if l.rep.State != replication.Online {
			c.Err("ERR FAILOVER target replica is not online.")
			return
		}
		s.log.Notice("FAILOVER requested to %s:%d.", f.Host, f.Port)
	} else {
		s.log.Notice("FAILOVER requested to any replica.")
	}
	f.Phase = replication.FailoverWaiting
	s.repl.failover = f
	s.askForAcks() // the last bytes of this history: then writes are held back
	st := &s.e.State
	st.PauseUntilMs, st.PauseWrites, st.FailoverPause = 1<<62, true, true
	c.OK()
}

func parseFailover(c *command.Ctx) (f replication.Failover, ok bool) {
	for i := 1; i < len(c.Args); i++ {
		switch {
		case c.Is(i, "timeout") && i+1 < len(c.Args) && f.Deadline.IsZero():
			ms, ok := c.IntArg(i + 1)
			if !ok {
				return f, false
			}
			if ms <= 0 {
				c.Err("ERR FAILOVER timeout must be greater than 0")
				return f, false
			}
			f.Deadline = time.Now().Add(time.Duration(min(ms, math.MaxInt64/int64(time.Millisecond)-1)) * time.Millisecond)
			i++
		case c.Is(i, "to") && i+2 < len(c.Args) && f.Host == "":
			port, ok := c.IntArg(i + 2)
			if !ok {
				return f, false
			}
			f.Host, f.Port = string(c.Args[i+1]), int(port)
			i += 2
		case c.Is(i, "force") && !f.Force:
			f.Force = true
		default:
			c.Err(command.ErrSyntax)
			return f, false
		}
	}
	return f, true
}

func (s *Server) findReplica(host string, port int) *replicaLink {
	for _, l := range s.repl.links {
		if l.ip() == host && l.rep.Port == port {
			return l
		}
	}
	return nil
}

// handOver makes this master a replica of the one that is to take over. The
// engine's lock is held.
func (s *Server) handOver() {
	f := &s.repl.failover
	f.Phase = replication.FailoverInProgress
	s.becomeReplica(config.ReplicaOf{Host: f.Host, Port: f.Port}, true)
}

// abortFailover ends a FAILOVER without effect: this server is a master again.
func (s *Server) abortFailover(why string) {
	f := &s.repl.failover
	if f.Phase == replication.NoFailover {
		return
	}
	if f.Host != "" {
		s.log.Notice("FAILOVER to %s:%d aborted: %s", f.Host, f.Port, why)
	} else {
		s.log.Notice("FAILOVER to any replica aborted: %s", why)
	}
	if f.Phase == replication.FailoverInProgress {
		s.becomeMaster()
	}
	s.clearFailover()
}

// clearFailover ends a FAILOVER, and the pause of the writers.
func (s *Server) clearFailover() {
	s.repl.failover = replication.Failover{}
	s.e.State.FailoverPause = false
	s.unpause()
}
