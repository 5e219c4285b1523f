package format

import "slices"

// TailHeader begins a segment of the tail log.
type TailHeader struct {
	Array       ID
	Segment     uint64
	Incarnation uint32
	Members     uint32 // bitmap of the member slots that carry the segment
	Begin       uint32 // records it began with: durable on all copies before anything counted on them
}

// TailSegmentHeader is the size of an encoded TailHeader, in bytes: a sector, so
// that the first record shares none with it.
const TailSegmentHeader = 512

const (
	tailSegMagic = 0x3147455354464c48 // "HLFTSEG1"
	tailMagic    = 0x4c494154         // "TAIL"
	tailFixed    = 56
	tailEnd      = 4

	// TailRecordHeader is the size of a tail record's header, in bytes.
	TailRecordHeader = tailFixed
)

// AppendTailHeader appends the header of a segment and returns the chain value
// that the first record continues from.
func AppendTailHeader(b []byte, h *TailHeader) ([]byte, uint32) {
	at := len(b)
	b = append(b, make([]byte, TailSegmentHeader)...)
	p := b[at:]
	le.PutUint64(p, tailSegMagic)
	le.PutUint32(p[8:], Version)
	le.PutUint32(p[12:], h.Incarnation)
	copy(p[16:], h.Array[:])
	le.PutUint64(p[32:], h.Segment)
	le.PutUint32(p[40:], h.Members)
	le.PutUint32(p[44:], h.Begin)
	sum := Checksum(p[:48])
	le.PutUint32(p[48:], sum)
	return b, sum
}

// ParseTailHeader decodes the first bytes of a segment; the chain value is what
// the first record continues from.
func ParseTailHeader(b []byte) (h TailHeader, chain uint32, err error) {
	const what = "tail segment header"
	if len(b) < TailSegmentHeader {
		return h, 0, bad(what, ErrShort)
	}
	if le.Uint64(b) != tailSegMagic {
		return h, 0, bad(what, ErrMagic)
	}
	if chain = le.Uint32(b[48:]); Checksum(b[:48]) != chain {
		return h, 0, bad(what, ErrChecksum)
	}
	if le.Uint32(b[8:]) != Version {
		return h, 0, bad(what, ErrVersion)
	}
	return TailHeader{Array: ID(b[16:32]), Incarnation: le.Uint32(b[12:]), Segment: le.Uint64(b[32:]), Members: le.Uint32(b[40:]), Begin: le.Uint32(b[44:])}, chain, nil
}

// TailRecord is a piece of the open tail of a file.
type TailRecord struct {
	Segment uint64 // of the segment it stands in
	Seq     uint64 // counts the records of a segment, from 1
	Synced  uint64 // all records up to this Seq were on all copies' disks when it was written
	File    uint64 // id of the array file
	Offset  uint64 // within the file
	Payload []byte // after ParseTailRecord: a part of the input
}

// TailRecordSize returns the size on disk of a record with a payload of n bytes,
// a multiple of 8.
func TailRecordSize(n int) int { return (tailFixed + n + tailEnd + 7) &^ 7 }

// AppendTailRecord appends the record; chain is the previous record's, or that of
// the segment's header, and the new one is returned.
func AppendTailRecord(b []byte, r *TailRecord, chain uint32) ([]byte, uint32) {
	at, size := len(b), TailRecordSize(len(r.Payload))
	b = slices.Grow(b, size)[:at+size]
	p := b[at:]
	le.PutUint32(p, tailMagic)
	le.PutUint32(p[4:], uint32(len(r.Payload)))
	le.PutUint64(p[8:], r.Segment)
	le.PutUint64(p[16:], r.Seq)
	le.PutUint64(p[24:], r.Synced)
	le.PutUint64(p[32:], r.File)
	le.PutUint64(p[40:], r.Offset)
	le.PutUint32(p[48:], chain)
	sum := Checksum(p[:tailFixed-4])
	le.PutUint32(p[tailFixed-4:], sum)
	n := copy(p[tailFixed:], r.Payload)
	clear(p[tailFixed+n : size-tailEnd])
	chain = updateSum(sum, p[tailFixed:size-tailEnd])
	le.PutUint32(p[size-tailEnd:], chain)
	return b, chain
}

// ParseTailRecordHeader decodes the first TailRecordHeader bytes of a record, without
// payload, and returns its size on disk. The length can be trusted: the header
// has a checksum of its own. Synced counts even when the payload is damaged.
func ParseTailRecordHeader(b []byte) (r TailRecord, size int64, prev uint32, err error) {
	const what = "tail record"
	if len(b) < tailFixed {
		return r, 0, 0, bad(what, ErrShort)
	}
	if le.Uint32(b) != tailMagic {
		return r, 0, 0, bad(what, ErrMagic)
	}
	if Checksum(b[:tailFixed-4]) != le.Uint32(b[tailFixed-4:]) {
		return r, 0, 0, bad(what, ErrChecksum)
	}
	n := int64(le.Uint32(b[4:]))
	if n > MaxChunk*MaxWidth {
		return r, 0, 0, bad(what, ErrInvalid)
	}
	r = TailRecord{Segment: le.Uint64(b[8:]), Seq: le.Uint64(b[16:]), Synced: le.Uint64(b[24:]), File: le.Uint64(b[32:]), Offset: le.Uint64(b[40:])}
	return r, int64(TailRecordSize(int(n))), le.Uint32(b[48:]), nil
}

// ParseTailRecord decodes the record at the beginning of b and returns its size
// and chain value. A record that does not continue from chain is ErrInvalid.
func ParseTailRecord(b []byte, chain uint32) (r TailRecord, size int, next uint32, err error) {
	const what = "tail record"
	r, n, prev, err := ParseTailRecordHeader(b)
	if err != nil {
		return r, 0, 0, err
	}
	if n > int64(len(b)) {
		return r, 0, 0, bad(what, ErrShort)
	}
	size = int(n)
	next = updateSum(le.Uint32(b[tailFixed-4:]), b[tailFixed:size-tailEnd])
	if next != le.Uint32(b[size-tailEnd:]) {
		return r, 0, 0, bad(what, ErrChecksum)
	}
	if prev != chain {
		return r, 0, 0, bad(what, ErrInvalid)
	}
	length := int(le.Uint32(b[4:]))
	r.Payload = b[tailFixed : tailFixed+length : tailFixed+length]
	return r, size, next, nil
}
