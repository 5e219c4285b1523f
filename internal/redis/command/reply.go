package command

import (
	"holdfast/internal/redis/resp"
)

// Reply is a reply buffer of one protocol version. Its methods append one
// element each, in the form that the version has for it.
type Reply struct {
	Buf   []byte
	Proto int // 2 or 3
}

// Texts of replies that many commands share.
const (
	ErrWrongType   = "WRONGTYPE Operation against a key holding the wrong kind of value"
	ErrSyntax      = "ERR syntax error"
	ErrNotInt      = "ERR value is not an integer or out of range"
	ErrNotFloat    = "ERR value is not a valid float"
	ErrNoKey       = "ERR no such key"
	ErrSameObject  = "ERR source and destination objects are the same"
	ErrOutOfRange  = "ERR index out of range"
	ErrNotPositive = "ERR value is out of range, must be positive"
	ErrInvalidExp  = "ERR invalid expire time in '%s' command"
)

// OK appends +OK.
func (r *Reply) OK() { r.Buf = append(r.Buf, "+OK\r\n"...) }

// Simple appends a status.
func (r *Reply) Simple(s string) { r.Buf = resp.AppendSimple(r.Buf, s) }

// Int appends an integer.
func (r *Reply) Int(n int64) { r.Buf = resp.AppendInt(r.Buf, n) }

// Bulk appends a bulk string.
func (r *Reply) Bulk(b []byte) { r.Buf = resp.AppendBulk(r.Buf, b) }

// BulkStr appends a bulk string.
func (r *Reply) BulkStr(s string) { r.Buf = resp.AppendBulkString(r.Buf, s) }

// BulkInt appends an integer as a bulk string.
func (r *Reply) BulkInt(n int64) { r.Buf = resp.AppendBulkInt(r.Buf, n) }

// Null appends the null of a string.
func (r *Reply) Null() {
	if r.Proto == 3 {
		r.Buf = append(r.Buf, resp.Null3...)
	} else {
		r.Buf = append(r.Buf, resp.NullBulk2...)
	}
}

// NullArray appends the null of an array.
func (r *Reply) NullArray() {
	if r.Proto == 3 {
		r.Buf = append(r.Buf, resp.Null3...)
	} else {
		r.Buf = append(r.Buf, resp.NullArray2...)
	}
}

// Array begins an array of n elements.
func (r *Reply) Array(n int) { r.Buf = resp.AppendHead(r.Buf, '*', n) }

// Map begins a map of n pairs; in RESP2 an array of twice as many.
func (r *Reply) Map(n int) {
	if r.Proto == 3 {
		r.Buf = resp.AppendHead(r.Buf, '%', n)
	} else {
		r.Buf = resp.AppendHead(r.Buf, '*', 2*n)
	}
}

// Set begins a set of n elements; in RESP2 an array.
func (r *Reply) Set(n int) {
	if r.Proto == 3 {
		r.Buf = resp.AppendHead(r.Buf, '~', n)
	} else {
		r.Buf = resp.AppendHead(r.Buf, '*', n)
	}
}

// Push begins a push of n elements; in RESP2 an array.
func (r *Reply) Push(n int) {
	if r.Proto == 3 {
		r.Buf = resp.AppendHead(r.Buf, '>', n)
	} else {
		r.Buf = resp.AppendHead(r.Buf, '*', n)
	}
}

// Double appends a floating point number; in RESP2 its text as a bulk string.
func (r *Reply) Double(f float64) {
	if r.Proto == 3 {
		r.Buf = resp.AppendDouble(r.Buf, f)
		return
	}
	var t [40]byte
	r.Buf = resp.AppendBulk(r.Buf, resp.AppendFloat(t[:0], f))
}

// Bool appends a boolean; in RESP2 1 or 0.
func (r *Reply) Bool(v bool) {
	if r.Proto == 3 {
		r.Buf = resp.AppendBool(r.Buf, v)
	} else if v {
		r.Int(1)
	} else {
		r.Int(0)
	}
}

// Verbatim appends text of a format ("txt"); in RESP2 a bulk string.
func (r *Reply) Verbatim(format, s string) {
	if r.Proto == 3 {
		r.Buf = resp.AppendVerbatim(r.Buf, format, s)
	} else {
		r.BulkStr(s)
	}
}

// Mark is the place of an aggregate whose length is not known yet.
type Mark int

const markRoom = 24 // bytes of the longest length line, with room

// Defer leaves room for the length line of an aggregate; Close fills it.
func (r *Reply) Defer() Mark {
	m := Mark(len(r.Buf))
	var room [markRoom]byte
	r.Buf = append(r.Buf, room[:]...)
	return m
}

// closeAs writes the length line of the aggregate at m and closes the gap.
func (r *Reply) closeAs(m Mark, kind byte, n int) {
	var t [markRoom]byte
	head := resp.AppendHead(t[:0], kind, n)
	at := int(m)
	copy(r.Buf[at:], head)
	if gap := markRoom - len(head); gap > 0 {
		copy(r.Buf[at+len(head):], r.Buf[at+markRoom:])
		r.Buf = r.Buf[:len(r.Buf)-gap]
	}
}

// CloseArray says that the aggregate begun at m is an array of n elements.
func (r *Reply) CloseArray(m Mark, n int) { r.closeAs(m, '*', n) }

// CloseSet says that the aggregate begun at m is a set of n elements.
func (r *Reply) CloseSet(m Mark, n int) {
	if r.Proto == 3 {
		r.closeAs(m, '~', n)
	} else {
		r.closeAs(m, '*', n)
	}
}

// CloseMap says that the aggregate begun at m is a map of n pairs.
func (r *Reply) CloseMap(m Mark, n int) {
	if r.Proto == 3 {
		r.closeAs(m, '%', n)
	} else {
		r.closeAs(m, '*', 2*n)
	}
}

func parseInt(b []byte) (int64, bool) { return resp.ParseInt(b) }
