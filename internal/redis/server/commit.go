package server

import (
	"holdfast/internal/journal"
	"holdfast/internal/redis/command"
	"holdfast/internal/redis/config"
	"holdfast/internal/redis/resp"
)

// The order that every promise rests on: a change is executed, then written to
// the journal (and synced, under appendfsync always), and only then answered
// and sent to replicas. The engine appends under its lock; whoever is about to
// send replies commits first, without it.

// AppendUnit implements command.Sink: one atomic unit becomes one record.
func (s *Server) AppendUnit(payload []byte) uint64 {
	return s.persist.stream.Append(journal.TypeStream, 0, payload)
}

// streamEnd is the position behind everything executed so far. The engine's
// lock is held.
func (s *Server) streamEnd() uint64 {
	if s.persist.stream == nil {
		return 0
	}
	return s.persist.stream.End()
}

// commitPoint is a position of a stream: what a tick's replies rest on.
type commitPoint struct {
	stream journal.Stream
	pos    uint64
	failed bool // the journal had failed already: the replies hold no data, see journalFailed
}

// commitPoint is the point behind everything executed so far; what the cluster
// has owed to nodes.conf is written. The engine's lock is held.
func (s *Server) commitPoint() commitPoint {
	s.settleMoves()
	s.settleCluster()
	return commitPoint{s.persist.stream, s.streamEnd(), s.e.State.ReadsRefused}
}

// unsynced reports whether something was executed that is not on the disk yet.
func (s *Server) unsynced() bool {
	s.e.Lock()
	at := s.commitPoint()
	s.e.Unlock()
	return at.stream != nil && at.stream.Synced() < at.pos
}

// commitStream makes everything below the point as durable as appendfsync
// promises.
func (s *Server) commitStream(at commitPoint) error {
	st, pos := at.stream, at.pos
	if st == nil || at.failed { // no stream: the data is still being loaded
		return nil
	}
	if st.Flushed() < pos {
		if err := st.Flush(); err != nil {
			return err
		}
	}
	if s.persist.always.Load() && st.Synced() < pos {
		return st.Sync(pos)
	}
	if err := st.Err(); err != nil && s.persist.always.Load() {
		return err
	}
	return nil
}

// refuseReplies is what becomes of replies that must not go out because the
// journal could not be written: every client that may have seen or made an
// unwritten change gets the error instead, and is closed, since it cannot know
// which of its pipelined commands it belongs to.
func (s *Server) refuseReplies(conns []*conn, err error) {
	s.e.Lock()
	defer s.e.Unlock()
	s.journalFailed(err)
	safe := s.persist.stream.Flushed()
	strict := s.cfg.AppendFsync == config.FsyncAlways
	if strict {
		safe = s.persist.stream.Synced()
	}
	for _, c := range conns {
		if c.closed || c.outPos == len(c.out) {
			continue
		}
		if strict || c.cl.Woff > safe {
			c.out = resp.AppendError(c.out[:c.outPos], s.e.State.DiskError)
			c.closeWhen, c.ending = closeAfterReply, closeAfterReply
		}
	}
}

// journalFailed notes that the journal cannot be written: from now on writes
// are refused. Under appendfsync always so are reads, since what is in memory may
// not be on the disk; replies that were made before and wait to be taken are
// replaced, and whatever is replied afterwards holds no data. The engine's lock
// is held.
func (s *Server) journalFailed(err error) {
	if s.persist.journalErr == nil {
		s.log.Warning("Error writing to the journal: %s. Write commands are refused until it can be written again.", err)
	}
	s.persist.journalErr = err
	refused := s.e.State.ReadsRefused
	s.updateDiskError()
	if !refused && s.e.State.ReadsRefused {
		for _, c := range s.conns {
			if len(c.cl.Buf) > 0 && !c.cl.Has(command.FlagReplica|command.FlagMaster) {
				c.cl.Buf = resp.AppendError(c.cl.Buf[:0], s.e.State.DiskError)
				c.closeLater(true)
			}
		}
	}
}

// updateDiskError derives what write commands are told. The engine's lock is
// held.
func (s *Server) updateDiskError() {
	s.e.State.ReadsRefused = s.persist.journalErr != nil && s.cfg.AppendFsync == config.FsyncAlways
	switch {
	case s.persist.lastSaveFailed && s.cfg.StopWritesOnBgsaveError && len(s.cfg.SavePoints) > 0:
		s.e.State.DiskError = "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. " +
			"Commands that may modify the data set are disabled, because this instance is configured to report errors during writes " +
			"if RDB snapshotting fails (stop-writes-on-bgsave-error option). Please check the Redis logs for details about the RDB error."
	case s.persist.journalErr != nil:
		s.e.State.DiskError = "MISCONF Errors writing to the AOF file: " + errnoText(s.persist.journalErr)
	default:
		s.e.State.DiskError = ""
	}
}
