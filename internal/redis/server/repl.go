package server

import (
	"sync/atomic"
	"time"
)

// replState is what this server is in replication: its history, its master,
// its replicas. Under the engine's lock but for the atomic.
//
// A position of the journal is a replication offset: the stream's byte at
// position p is the one that Redis numbers p+1, so the end of the stream is
// master_repl_offset.
type replState struct {
	isReplica atomic.Bool

	replid  string // of the history that the stream continues
	replid2 string // of the history before; "" if there is none
	second  uint64 // replid2 is valid up to this offset, itself included
	start   uint64 // where a stream that is begun now begins
}

const noReplID = "0000000000000000000000000000000000000000"

func (r *replState) id() string {
	if r.replid == "" {
		r.replid = randomID()
	}
	return r.replid
}

func (r *replState) ids() [2]string      { return [2]string{r.id(), r.replid2} }
func (r *replState) secondEnd() uint64   { return r.second }
func (r *replState) startOffset() uint64 { return r.start }

// restore takes over the history of a recovered journal that ends at end.
func (r *replState) restore(ids [2]string, second, end uint64) {
	r.replid, r.replid2, r.second, r.start = ids[0], ids[1], second, end
}

// restoreFromRDB takes over the history that a snapshot names.
func (r *replState) restoreFromRDB(f rdbFacts) {
	if f.replID != "" && f.hasOffset {
		r.replid, r.start = f.replID, f.replOffset
	}
}

// replicaLink is the master's side of one replica.
type replicaLink struct{}

func (s *Server) startReplication() error                    { return nil }
func (s *Server) stopReplication()                           {}
func (s *Server) replicationCron(time.Time)                  {}
func (s *Server) replicaGone(*conn)                          {}
func (s *Server) streamSwitched()                            {}
func (s *Server) pump(*conn, func([]byte) (int, error)) bool { return true }

// replicasBehind reports whether a replica has yet to get what was written.
func (s *Server) replicasBehind() bool { return false }
