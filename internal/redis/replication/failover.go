package replication

import "time"

// FailoverPhase is how far a FAILOVER is.
type FailoverPhase uint8

// Phases.
const (
	NoFailover         FailoverPhase = iota
	FailoverWaiting                  // writes are paused until a replica has everything
	FailoverInProgress               // the replica was asked to take over
)

// String is INFO's master_failover_state.
func (p FailoverPhase) String() string {
	switch p {
	case FailoverWaiting:
		return "waiting-for-sync"
	case FailoverInProgress:
		return "failover-in-progress"
	}
	return "no-failover"
}

// Failover is the state of a FAILOVER command.
type Failover struct {
	Phase    FailoverPhase
	Host     string // of the replica that is to take over; "" for whoever is first
	Port     int
	Force    bool
	Deadline time.Time // zero: none
}

// FailoverStep is what is to be done next.
type FailoverStep uint8

// Steps.
const (
	FailoverKeepWaiting FailoverStep = iota
	FailoverHandOver                 // the target has everything
	FailoverForce                    // it has not, but it takes over nevertheless
	FailoverGiveUp                   // it never caught up
)

// Step decides; caughtUp says whether the target (or any replica, if there is
// no target) has acknowledged everything.
func (f *Failover) Step(now time.Time, caughtUp bool) FailoverStep {
	switch {
	case f.Phase != FailoverWaiting:
		return FailoverKeepWaiting
	case caughtUp:
		return FailoverHandOver
	case f.Deadline.IsZero() || now.Before(f.Deadline):
		return FailoverKeepWaiting
	case f.Force:
		return FailoverForce
	}
	return FailoverGiveUp
}
