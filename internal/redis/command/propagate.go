package command

import (
	"strconv"

	"holdfast/internal/redis/resp"
)

// The stream: what the journal stores and the replicas apply. A unit is what
// one top-level command, one EXEC or one served client changed; it is written
// as one record, wrapped into MULTI and EXEC when it has several commands, so
// that it is there whole or not at all.

const multiPrefix = "*1\r\n$5\r\nMULTI\r\n"

// alsoPropagate adds a command to the running unit.
func (e *Engine) alsoPropagate(db int, args [][]byte) {
	if e.Stream == nil {
		return
	}
	if e.OnChange != nil {
		e.OnChange(args)
	}
	if e.unitOps == 0 {
		e.unit = e.unit[:0]
		e.unitDB = e.streamDB
		if e.reselect {
			e.unitDB = -1
		}
	}
	if e.unitOps == 1 {
		// The second command makes a transaction of it, behind the SELECT of
		// the first.
		n := len(e.unit)
		e.unit = append(e.unit, multiPrefix...)
		copy(e.unit[e.unitHead+len(multiPrefix):], e.unit[e.unitHead:n])
		copy(e.unit[e.unitHead:], multiPrefix)
	}
	if db != e.unitDB {
		e.unit = appendSelect(e.unit, db)
		e.unitDB = db
	}
	if e.unitOps == 0 {
		e.unitHead = len(e.unit)
	}
	e.unit = resp.AppendCommandBytes(e.unit, args)
	e.unitOps++
}

func appendSelect(b []byte, db int) []byte {
	var t [8]byte
	b = append(b, "*2\r\n$6\r\nSELECT\r\n"...)
	return resp.AppendBulk(b, strconv.AppendInt(t[:0], int64(db), 10))
}

// endUnit hands the running unit to the stream. cl may be nil.
func (e *Engine) endUnit(cl *Client) {
	if e.unitOps == 0 || e.inExec {
		return
	}
	if e.Stream == nil { // a transaction that wrote has made a replica of us
		e.unitOps = 0
		if e.OnUnsent != nil {
			e.OnUnsent()
		}
		return
	}
	if e.unitOps > 1 {
		e.unit = append(e.unit, "*1\r\n$4\r\nEXEC\r\n"...)
	}
	end := e.Stream.AppendUnit(e.unit)
	e.streamDB = e.unitDB
	e.reselect = false
	e.unitOps = 0
	if cl != nil {
		cl.Woff = end
	}
	if cap(e.unit) > 1<<20 {
		e.unit = nil
	}
}

// Propagate writes a command to the stream as a unit of its own: what the
// shell changes outside of a command (PING of replicas excepted, which the
// shell appends itself).
func (e *Engine) Propagate(db int, args ...[]byte) {
	e.alsoPropagate(db, args)
	e.endUnit(nil)
}

// StreamDB is the database that the stream is at, -1 when a SELECT must come
// first; a snapshot stores it, and loading one sets it.
func (e *Engine) StreamDB() int { return e.streamDB }

// Reselect makes the next unit begin with a SELECT, as Redis does for a replica
// that begins anew.
func (e *Engine) Reselect() { e.reselect = true }

// SetStreamDB sets the database that the stream is at; -1 forces a SELECT.
func (e *Engine) SetStreamDB(db int) { e.streamDB = db }
