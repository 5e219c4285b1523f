// Package replication decides: it is the core of Redis replication (PSYNC2),
// for both ends, without sockets, files and clocks. It says whether a replica
// may continue or must copy everything, what a reply to PSYNC means, when
// replicas that wait get their snapshot, who counts as a good replica, and
// whether a replica may give up its own history for the one it is offered.
//
// Offsets are positions of the stream: the first byte ever is at position 0,
// and the end of the stream is the position behind its last byte, which is what
// Redis calls master_repl_offset. PSYNC names the first byte that a replica
// wants, and counts from 1: the byte at position p is asked for as p+1.
//
// Reading order: history.go (ids and the answer to PSYNC), reply.go (what a
// master answers), replica.go (a master's book of its replicas), guard.go,
// failover.go.
package replication

import "strings"

// NoID is shown where there is no replication id.
const NoID = "0000000000000000000000000000000000000000"

// IDLen is the length of a replication id.
const IDLen = 40

// ValidID reports whether s can be a replication id: 40 printable characters
// without spaces. Redis makes hexadecimal ones, and checks nothing.
func ValidID(s string) bool {
	if len(s) != IDLen {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// History names the stream that a server holds: ID from Second on, and ID2
// below. A server that is promoted starts a history of its own and keeps the
// old one as ID2, so that its fellow replicas can continue.
type History struct {
	ID     string
	ID2    string // "" if there is none
	Second uint64 // ID2 names the stream up to this position. 0 if ID2 is ""
}

// Shift begins the history id at end: a promotion, or the restart of a master.
func (h *History) Shift(id string, end uint64) {
	h.ID2, h.Second = h.ID, end
	h.ID = id
}

// Replace takes over another history as a whole: a full resynchronisation.
func (h *History) Replace(id string) { *h = History{ID: id} }

// Knows reports whether id is one of the history's names.
func (h *History) Knows(id string) bool {
	return strings.EqualFold(id, h.ID) || h.ID2 != "" && strings.EqualFold(id, h.ID2)
}

// SecondOffset is INFO's second_repl_offset: the first byte, counted from 1,
// that ID2 no longer names; -1 if there is no ID2.
func (h *History) SecondOffset() int64 {
	if h.ID2 == "" {
		return -1
	}
	return int64(h.Second) + 1
}

// Verdict is a master's judgement of a PSYNC.
type Verdict uint8

// Verdicts. All but Continue mean a full resynchronisation.
const (
	Continue      Verdict = iota
	FullRequested         // the replica has no history
	OtherHistory          // neither of our ids
	BeyondSecond          // our second id, but beyond what it names
	NoBacklog             // older than what is kept
	Ahead                 // beyond our end
)

// Answer judges a replica's "PSYNC id wanted" where the stream can be read from
// position first up to end. For Continue, pos is where to read from.
func (h *History) Answer(id string, wanted int64, first, end uint64) (v Verdict, pos uint64) {
	is2 := h.ID2 != "" && strings.EqualFold(id, h.ID2)
	if !strings.EqualFold(id, h.ID) && (!is2 || wanted > h.SecondOffset()) {
		switch {
		case strings.HasPrefix(id, "?"):
			return FullRequested, 0
		case is2:
			return BeyondSecond, 0
		}
		return OtherHistory, 0
	}
	if wanted < 1 || uint64(wanted-1) < first {
		return NoBacklog, 0
	}
	if uint64(wanted-1) > end {
		return Ahead, 0
	}
	return Continue, uint64(wanted - 1)
}
