package server

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"holdfast/internal/journal"
	"holdfast/internal/redis/command"
	"holdfast/internal/redis/config"
	"holdfast/internal/redis/replication"
)

// Replication, both ends. The stream is the journal: a position of it is a
// replication offset (the byte at position p is the one that Redis numbers
// p+1, so the end of the stream is master_repl_offset), and a replica's link is
// a cursor into it. A replica stores its master's bytes as they are and serves
// replicas of its own from there.
//
//	repl.go          the state, and how the role changes
//	repl_master.go   a master's links: what they are sent, acknowledgements
//	repl_sync.go     snapshots for replicas: one for all that wait
//	repl_replica.go  a replica's link to its master
//	repl_load.go     taking over a master's snapshot
//	repl_diverge.go  what a deposed master has and nobody else
//	cmd_replication.go

// replState is what this server is in replication: its history, its master,
// its replicas. Under the engine's lock but for the atomics.
type replState struct {
	isReplica atomic.Bool

	hist     replication.History
	start    uint64 // where a stream that is begun now begins
	restored bool   // hist was found on disk, it is not new
	deposed  bool   // this server was a master when it was told to follow one
	lost     bool   // the data in memory is not what hist and the stream's end say

	// As a master.
	links      []*replicaLink
	book       []*replication.Replica // of links, in their order
	sync       *syncJob               // the snapshot that replicas wait for
	lastPing   time.Time
	asked      uint64 // end of the last GETACK in the stream
	shared     uint64 // highest position that any replica has acknowledged
	gateways   atomic.Pointer[[]*gateway]
	fullSyncs  int64
	partialOK  int64
	partialErr int64
	failover   replication.Failover

	// As a replica.
	link          *masterLink
	linkState     linkState
	downSince     time.Time
	everConnected bool
	forced        bool  // somebody named this master since the last synchronisation
	unstoredMs    int64 // when it was last logged that the disk does not follow

	alone        time.Time // since when there are no replicas; zero: there are, or this is none's master
	backlogFreed bool      // repl-backlog-ttl has taken the backlog
}

// id is the replication id; it is made when it is first asked for.
func (r *replState) id() string {
	if r.hist.ID == "" {
		r.hist.ID = randomID()
	}
	return r.hist.ID
}

func (r *replState) ids() [2]string      { return [2]string{r.id(), r.hist.ID2} }
func (r *replState) secondEnd() uint64   { return r.hist.Second }
func (r *replState) startOffset() uint64 { return r.start }

// restore takes over the history of a recovered journal that ends at end.
func (r *replState) restore(ids [2]string, second, end uint64) {
	r.hist = replication.History{ID: ids[0], ID2: ids[1], Second: second}
	r.start, r.restored = end, ids[0] != ""
}

// restoreFromRDB takes over the history that a snapshot names.
func (r *replState) restoreFromRDB(f rdbFacts) {
	if f.replID != "" && f.hasOffset {
		r.hist, r.start, r.restored = replication.History{ID: f.replID}, f.replOffset, true
	}
}

// startReplication begins to be what the configuration says. The engine's lock
// is held, the data is loaded and the journal can be written.
func (s *Server) startReplication() error {
	s.repl.id()
	on := func(name string, fn func()) {
		s.cfg.OnApply(name, func(string, string) error { fn(); return nil })
	}
	for _, name := range []string{"replica-read-only", "replica-serve-stale-data", "min-replicas-to-write", "min-replicas-max-lag"} {
		on(name, s.updateRoleState)
	}
	s.streamSwitched()
	if s.startCluster() {
		return nil
	}
	if s.cfg.ReplicaOf.IsZero() {
		if s.repl.restored {
			// What a replica may hold beyond the recovered end was never
			// durable here, so this server goes on under a new id.
			s.e.Reselect()
			return s.newHistoryAt(s.repl.startOffset())
		}
		return nil
	}
	s.becomeReplica(s.cfg.ReplicaOf, false)
	return nil
}

// newHistory begins a history of this server's own at the end of the stream.
func (s *Server) newHistory() error { return s.newHistoryAt(s.streamEnd()) }

// newHistoryAt begins it at a position before the end.
func (s *Server) newHistoryAt(pos uint64) error {
	s.repl.id()
	s.repl.hist.Shift(randomID(), pos)
	s.log.Warning("Setting secondary replication ID to %s, valid up to offset: %d. New replication ID is %s",
		s.repl.hist.ID2, s.repl.hist.SecondOffset(), s.repl.hist.ID)
	return s.storeHistory()
}

// ownHistory is newHistory for a replica that is promoted. If a synchronisation
// had come half way, the data is not what the journal says: then the journal
// begins anew with it, and nobody can continue.
func (s *Server) ownHistory() error {
	if !s.repl.lost {
		return s.newHistory()
	}
	s.repl.hist.Replace(randomID())
	s.repl.lost = false
	return s.newGeneration(s.streamEnd(), -1)
}

// storeHistory makes the ids durable.
func (s *Server) storeHistory() error {
	if s.persist.journal == nil {
		return nil
	}
	if err := s.persist.journal.SetHistory(s.repl.ids(), s.repl.secondEnd()); err != nil {
		return fmt.Errorf("storing the replication ids: %w", err)
	}
	return nil
}

// stopReplication ends the link to the master. The engine's lock is held.
func (s *Server) stopReplication() { s.stopLink() }

func (s *Server) stopLink() {
	if l := s.repl.link; l != nil {
		s.repl.link = nil
		l.stop()
	}
}

// updateRoleState tells the command layer what the role and the link allow.
// The engine's lock is held.
func (s *Server) updateRoleState() {
	replica := s.repl.isReplica.Load()
	st := &s.e.State
	st.IsReplica = replica
	st.ReadOnly = replica && s.cfg.ReplicaReadOnly
	st.MasterDown = replica && !s.cfg.ReplicaServeStaleData && s.repl.linkState != linkConnected
	if replica {
		s.e.Stream = nil
	} else {
		s.e.Stream = s
	}
	s.countGoodReplicas(time.Now())
}

// becomeReplica makes this server a replica of the given master. forced: an
// administrator or Sentinel said so. The engine's lock is held.
func (s *Server) becomeReplica(master config.ReplicaOf, forced bool) {
	deposed := !s.repl.isReplica.Load() && forced
	if s.repl.isReplica.Load() {
		s.stopLink()
	}
	s.e.UnblockAllForRoleChange()
	s.cfg.ReplicaOf = master
	s.repl.isReplica.Store(true)
	if deposed {
		s.repl.deposed = true
		s.log.Notice("Before turning into a replica, using my own master parameters to synthesize a cached master: I may be able to synchronize with the new master with just a partial transfer.")
	}
	_ = s.applyOOMScore() // cron tries again
	s.slotRole()
	s.repl.forced = forced
	s.repl.downSince = time.Now()
	s.setLinkState(linkConnect)
	s.log.Notice("Connecting to MASTER %s:%d", master.Host, master.Port)
	l := newMasterLink(s, master)
	s.repl.link = l
	go l.run()
}

// becomeMaster makes this replica a master. The engine's lock is held.
func (s *Server) becomeMaster() {
	if !s.repl.isReplica.Load() {
		return
	}
	if s.repl.linkState == linkConnected {
		s.log.Warning("Connection with master lost.")
		s.log.Notice("Caching the disconnected master state.")
		s.log.Notice("Discarding previously cached master state.")
	}
	s.stopLink()
	s.cfg.ReplicaOf = config.ReplicaOf{}
	s.repl.isReplica.Store(false)
	_ = s.applyOOMScore() // cron tries again
	s.repl.forced = false
	s.repl.linkState = linkNone
	// The replicas must learn the new id; they continue at once.
	s.dropReplicas()
	s.updateRoleState()
	if err := s.ownHistory(); err != nil {
		s.journalFailed(err)
	}
	s.e.SetStreamDB(-1) // the new history's first command is a SELECT
	s.slotRole()
}

// setLinkState is the one place where the state of the link to the master
// changes. The engine's lock is held.
func (s *Server) setLinkState(st linkState) {
	if s.repl.linkState == linkConnected && st != linkConnected {
		s.repl.downSince = time.Now()
	}
	s.repl.linkState = st
	s.repl.everConnected = s.repl.everConnected || st == linkConnected
	s.updateRoleState()
	s.dataMoved()
}

// replicationCron is called by the timer. The engine's lock is held.
func (s *Server) replicationCron(now time.Time) {
	s.failoverCron(now)
	s.syncCron(now)
	if s.every(time.Second) {
		s.linksCron(now)
		s.trimBacklog()
		s.expireBacklog(now)
	}
	s.countGoodReplicas(now)
}

// streamSwitched ties the present stream to the replicas: after start and
// whenever the stream is another one. The engine's lock is held.
func (s *Server) streamSwitched() {
	st := s.persist.stream
	if st == nil {
		return
	}
	st.OnVisible(s.rousePumps)
	for _, l := range s.repl.links {
		l.refollow(st)
	}
}

// growBacklog lets the memory ring of a server without a journal grow while
// there are replicas, so that a snapshot under way or a slow replica finds what
// it needs: as far as the hard output limit of replicas. The engine's lock is
// held.
func (s *Server) growBacklog() {
	if m, ok := s.persist.stream.(*journal.Memory); ok && len(s.repl.links) > 0 {
		s.repl.backlogFreed, s.repl.alone = false, time.Time{}
		limit := s.cfg.ClientOutputBufferLimits[config.ClientReplica].Hard
		if limit == 0 {
			limit = 256 << 20
		}
		m.Resize(int(max(uint64(s.cfg.ReplBacklogSize), limit)))
	}
}

// trimBacklog gives the memory back that no replica needs. The engine's lock
// is held.
func (s *Server) trimBacklog() {
	m, ok := s.persist.stream.(*journal.Memory)
	if !ok {
		return
	}
	need, end := uint64(s.cfg.ReplBacklogSize), m.End()
	for _, l := range s.repl.links {
		if at, held := l.holds(); held {
			need = max(need, end-min(at, end))
		}
	}
	if len(s.repl.links) == 0 && s.repl.backlogFreed {
		return
	}
	if len(s.repl.links) == 0 || uint64(m.Stats().WindowBytes) > 2*need {
		m.Resize(int(need))
	}
	s.growBacklog()
}

// expireBacklog is repl-backlog-ttl: a master that nobody has followed for so long
// keeps no stream in memory for a replica that may return. The engine's lock is held.
func (s *Server) expireBacklog(now time.Time) {
	r := &s.repl
	m, ok := s.persist.stream.(*journal.Memory)
	if !ok || len(r.links) > 0 || r.isReplica.Load() || s.cfg.ReplBacklogTTL == 0 {
		r.alone = time.Time{}
		if r.backlogFreed && ok {
			r.backlogFreed = false
			m.Resize(int(s.cfg.ReplBacklogSize))
		}
		return
	}
	switch {
	case r.backlogFreed:
	case r.alone.IsZero():
		r.alone = now
	case now.Sub(r.alone) > time.Duration(s.cfg.ReplBacklogTTL)*time.Second:
		r.backlogFreed = true
		m.Resize(1) // who returns begins with a full resynchronisation
		s.log.Notice("Replication backlog freed after %d seconds without connected replicas.", s.cfg.ReplBacklogTTL)
	}
}

// infoReplication is the section "Replication" of INFO, without its title.
// The engine's lock is held.
func (s *Server) infoReplication() string {
	var b strings.Builder
	line := func(name string, format string, args ...any) {
		b.WriteString(name + ":" + fmt.Sprintf(format, args...) + "\r\n")
	}
	now := time.Now()
	if s.repl.isReplica.Load() {
		line("role", "slave")
		s.infoReplica(line, now)
	} else {
		line("role", "master")
	}
	line("connected_slaves", "%d", len(s.repl.links))
	if s.cfg.MinReplicasToWrite > 0 && s.cfg.MinReplicasMaxLag > 0 {
		line("min_slaves_good_slaves", "%d", s.e.State.GoodReplicas)
	}
	for i, l := range s.repl.links {
		lag := int64(0)
		if l.rep.State == replication.Online {
			lag = l.rep.LagSeconds(now)
		}
		line("slave"+strconv.Itoa(i), "ip=%s,port=%d,state=%s,offset=%d,lag=%d", l.ip(), l.rep.Port, l.rep.State, l.rep.Acked, lag)
	}
	end, first := s.streamEnd(), uint64(0)
	if s.persist.stream != nil {
		first = s.persist.stream.FirstPos()
	}
	id2 := s.repl.hist.ID2
	if id2 == "" {
		id2 = replication.NoID
	}
	line("master_failover_state", "%s", s.repl.failover.Phase)
	line("master_replid", "%s", s.repl.id())
	line("master_replid2", "%s", id2)
	line("master_repl_offset", "%d", end)
	line("second_repl_offset", "%d", s.repl.hist.SecondOffset())
	if s.repl.backlogFreed {
		b.WriteString("repl_backlog_active:0\r\n")
		line("repl_backlog_size", "%d", s.cfg.ReplBacklogSize)
		b.WriteString("repl_backlog_first_byte_offset:0\r\nrepl_backlog_histlen:0\r\n")
		return b.String()
	}
	line("repl_backlog_active", "1")
	line("repl_backlog_size", "%d", s.cfg.ReplBacklogSize)
	line("repl_backlog_first_byte_offset", "%d", first+1)
	line("repl_backlog_histlen", "%d", end-first)
	return b.String()
}

// infoReplica are the fields that only a replica has.
func (s *Server) infoReplica(line func(string, string, ...any), now time.Time) {
	l := s.repl.link
	up := "down"
	if s.repl.linkState == linkConnected {
		up = "up"
	}
	line("master_host", "%s", s.cfg.ReplicaOf.Host)
	line("master_port", "%d", s.cfg.ReplicaOf.Port)
	line("master_link_status", "%s", up)
	idle := int64(-1)
	if l != nil && s.repl.linkState == linkConnected {
		idle = l.idleSeconds(now)
	}
	line("master_last_io_seconds_ago", "%d", idle)
	syncing := 0
	if s.repl.linkState == linkTransfer {
		syncing = 1
	}
	line("master_sync_in_progress", "%d", syncing)
	read := s.streamEnd()
	if l != nil {
		read = max(read, l.readPos.Load())
	}
	line("slave_read_repl_offset", "%d", read)
	line("slave_repl_offset", "%d", s.streamEnd())
	if syncing == 1 && l != nil {
		total, got := l.syncTotal.Load(), l.syncRead.Load()
		perc := float64(0)
		if total > 0 {
			perc = 100 * float64(got) / float64(total)
		}
		line("master_sync_total_bytes", "%d", max(total, 0))
		line("master_sync_read_bytes", "%d", got)
		line("master_sync_left_bytes", "%d", total-got)
		line("master_sync_perc", "%.2f", perc)
		line("master_sync_last_io_seconds_ago", "%d", l.idleSeconds(now))
	}
	if s.repl.linkState != linkConnected {
		line("master_link_down_since_seconds", "%d", int64(now.Sub(s.repl.downSince)/time.Second))
	}
	line("slave_priority", "%d", s.cfg.ReplicaPriority)
	line("slave_read_only", "%d", oneIf(s.cfg.ReplicaReadOnly))
	line("replica_announced", "%d", oneIf(s.cfg.ReplicaAnnounced))
}

func oneIf(b bool) int {
	if b {
		return 1
	}
	return 0
}

// appendShell appends to the stream what is not the effect of a command: PING
// and GETACK. It has to stand between two units, where the shell always is. The
// engine's lock is held.
func (s *Server) appendShell(payload string) uint64 {
	return s.persist.stream.Append(journal.TypeStream, 0, []byte(payload))
}

// flushStream hands the journal on what the timer has appended. The engine's
// lock is not held.
func (s *Server) flushStream() {
	s.e.Lock()
	at := s.commitPoint()
	s.e.Unlock()
	if at.stream == nil || at.stream.Flushed() >= at.pos {
		return
	}
	if err := s.commitStream(at); err != nil {
		s.e.Lock()
		s.journalFailed(err)
		s.e.Unlock()
	}
}

// describeClient is the client as log lines name it.
func describeClient(cl *command.Client) string {
	if c, ok := cl.Conn.(*conn); ok {
		return c.describe()
	}
	return cl.Addr
}

// changeReplID begins a history that nobody can continue (DEBUG CHANGE-REPL-ID).
func (s *Server) changeReplID() error {
	s.repl.hist.Replace(randomID())
	return s.storeHistory()
}

// isReplicaNode reports whether nodes.conf makes this server a replica, which is
// known before its data is loaded.
func (s *Server) isReplicaNode() bool {
	return s.cluster != nil && !s.cluster.core.Status().Master
}
