package replication

import "time"

// State is how far a master is with a replica.
type State uint8

// States of a replica, in order.
const (
	WaitStart   State = iota // for a snapshot to begin
	WaitEnd                  // for the snapshot to end, or receiving it as it is made
	SendBulk                 // receiving the file
	Online                   // receiving the stream
	Transmitted              // it wanted a snapshot only, and has it
)

// String is the state in INFO.
func (s State) String() string {
	switch s {
	case WaitStart, WaitEnd:
		return "wait_bgsave"
	case SendBulk:
		return "send_bulk"
	case Online:
		return "online"
	}
	return ""
}

// Capa is what a replica has said that it understands.
type Capa uint8

// Capabilities of REPLCONF capa.
const (
	CapaEOF    Capa = 1 << iota // snapshots that end with a mark
	CapaPSYNC2                  // +CONTINUE with an id
)

// Replica is a master's book of one replica. The zero value is a client that
// has not asked for synchronisation.
type Replica struct {
	State State
	Capa  Capa
	Port  int    // REPLCONF listening-port
	Addr  string // REPLCONF ip-address
	// RDBOnly: it wants a snapshot and no stream.
	RDBOnly bool
	// PrePSYNC: it used SYNC, so it acknowledges nothing.
	PrePSYNC bool
	Since    time.Time // when it asked

	Acked     uint64    // Invariant: never goes back.
	AckedTime time.Time // of the last REPLCONF ACK
}

// Ack notes an acknowledgement.
func (r *Replica) Ack(pos uint64, now time.Time) {
	r.Acked = max(r.Acked, pos)
	r.AckedTime = now
}

// Lag is the time since the last acknowledgement.
func (r *Replica) Lag(now time.Time) time.Duration { return now.Sub(r.AckedTime) }

// LagSeconds is the lag as INFO shows it: the difference of two clocks of whole
// seconds.
func (r *Replica) LagSeconds(now time.Time) int64 { return now.Unix() - r.AckedTime.Unix() }

// Good reports whether the replica counts for min-replicas-to-write.
func (r *Replica) Good(now time.Time, maxLagSec int) bool {
	return r.State == Online && r.LagSeconds(now) <= int64(maxLagSec)
}

// HasAcked reports whether the replica counts for a WAIT for pos.
func (r *Replica) HasAcked(pos uint64) bool { return r.State == Online && r.Acked >= pos }

// TimedOut reports whether nothing was heard of the replica for too long.
func (r *Replica) TimedOut(now time.Time, timeout time.Duration) bool {
	return r.State == Online && !r.PrePSYNC && r.Lag(now) > timeout
}

// SnapshotPolicy are the directives about when a snapshot for replicas begins.
type SnapshotPolicy struct {
	Diskless    bool
	Delay       time.Duration // repl-diskless-sync-delay
	MaxReplicas int           // repl-diskless-sync-max-replicas; 0: no such limit
}

// Target is where a snapshot for replicas goes.
type Target uint8

// Targets.
const (
	TargetNone    Target = iota // it does not begin yet
	TargetDisk                  // a file, which is sent afterwards
	TargetSockets               // all waiting replicas at once
)

// NextSnapshot decides whether a snapshot is to begin for those of the replicas
// that wait for one, and of which kind: without a file only if all of them
// understand the mark at its end, and only after a delay in which more replicas
// may come.
func NextSnapshot(replicas []*Replica, now time.Time, p SnapshotPolicy) Target {
	waiting, longest := 0, time.Duration(0)
	capa := CapaEOF | CapaPSYNC2
	for _, r := range replicas {
		if r.State != WaitStart {
			continue
		}
		waiting++
		capa &= r.Capa
		longest = max(longest, now.Sub(r.Since))
	}
	switch {
	case waiting == 0:
		return TargetNone
	case !p.Diskless || capa&CapaEOF == 0:
		return TargetDisk
	case longest >= p.Delay, p.MaxReplicas > 0 && waiting >= p.MaxReplicas:
		return TargetSockets
	}
	return TargetNone
}
