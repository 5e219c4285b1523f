package keyspace

import (
	"encoding/binary"
	"math"
	"math/bits"
)

// This file writes and reads the blocks of the elements of large hashes, sets
// and sorted sets, which an Index finds by their keys (blockKind tells the layouts).

// lenSize returns the bytes of n as uvarint.
func lenSize(n int) int { return (bits.Len64(uint64(n)|1) + 6) / 7 }

// putLen writes n as uvarint at off and returns the offset behind it.
func (a *Arena) putLen(off Off, n int) Off {
	if n < 0x80 {
		a.mem[off] = byte(n)
		return off + 1
	}
	return off + Off(binary.PutUvarint(a.mem[off:], uint64(n)))
}

// put copies s to off and returns the offset behind it.
func (a *Arena) put(off Off, s []byte) Off {
	return off + Off(copy(a.mem[off:off+Off(len(s))], s))
}

// newMember allocates the block of a member of a set.
func newMember(a *Arena, m []byte) Off {
	off := a.Alloc(lenSize(len(m)) + len(m))
	a.put(a.putLen(off, len(m)), m)
	return off
}

// fieldSize returns the bytes of the block of a hash field.
func fieldSize(flen, vlen int) int { return lenSize(flen) + lenSize(vlen) + flen + vlen }

// newField allocates the block of a hash field.
func newField(a *Arena, field, val []byte) Off {
	off := a.Alloc(fieldSize(len(field), len(val)))
	putField(a, off, field, val)
	return off
}

func putField(a *Arena, off Off, field, val []byte) {
	at := a.putLen(a.putLen(off, len(field)), len(val))
	a.put(a.put(at, field), val)
}

// fieldOf returns field and value in the block of a hash field; they alias the arena.
func fieldOf(a *Arena, off Off) (field, val []byte) {
	flen, at := a.uvarint(off)
	vlen, at := a.uvarint(at)
	return a.Mem(at, int(flen)), a.Mem(at+Off(flen), int(vlen))
}

// newScored allocates the block of a member of a sorted set.
func newScored(a *Arena, m []byte, score float64) Off {
	off := a.Alloc(8 + lenSize(len(m)) + len(m))
	setScore(a, off, score)
	a.put(a.putLen(off+8, len(m)), m)
	return off
}

func scoreOf(a *Arena, off Off) float64 { return math.Float64frombits(a.load64(off)) }

func setScore(a *Arena, off Off, score float64) { a.store64(off, math.Float64bits(score)) }

// scoredKey returns the member in the block of a sorted set; it aliases the arena.
func scoredKey(a *Arena, off Off) []byte {
	off += 8
	if n := Off(a.mem[off]); n < 0x80 {
		return a.mem[off+1 : off+1+n : off+1+n]
	}
	n, at := a.uvarint(off)
	return a.Mem(at, int(n))
}

// elemSize returns the bytes of the block at off, as given to Alloc.
func elemSize(a *Arena, kind blockKind, off Off) int {
	at := off
	if kind == blockZSet {
		at += 8
	}
	n, at := a.uvarint(at)
	if kind == blockHash {
		var vlen uint64
		vlen, at = a.uvarint(at)
		n += vlen
	}
	return int(at-off) + int(n)
}

func freeElem(a *Arena, kind blockKind, off Off) { a.Free(off, elemSize(a, kind, off)) }

// copyElem returns a copy of the block at off.
func copyElem(a *Arena, kind blockKind, off Off) Off {
	n := elemSize(a, kind, off)
	to := a.Alloc(n)
	copy(a.Mem(to, n), a.Mem(off, n))
	return to
}
