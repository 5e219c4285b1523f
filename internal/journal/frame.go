package journal

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"slices"
)

// Sizes of a record on disk, in bytes.
const (
	frameHeader = 40
	frameTail   = 4
	frameMagic  = 0x4a48 // "HJ", little endian
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frameSize returns the length on disk of a record with a payload of n bytes:
// header, payload, padding and checksum, a multiple of 8.
func frameSize(n int64) int64 { return (frameHeader + n + frameTail + 7) &^ 7 }

// address is a place in the log of one generation: segment number << 32 |
// offset. Unlike a position it also moves with records that have no length in
// the stream, so that "below what is synced" has one meaning for all records.
type address uint64

func addressOf(seq uint64, off int64) address { return address(seq<<32 | uint64(off)) }

func (a address) seq() uint64 { return uint64(a) >> 32 }
func (a address) off() int64  { return int64(uint32(a)) }

// point is the state of the log after a record: where the next one goes, what
// its previous checksum is, and at which position it stands.
type point struct {
	seq   uint64
	off   int64
	chain uint32
	pos   uint64
}

func (p point) addr() address { return addressOf(p.seq, p.off) }

// header is the decoded form of a record's first 40 bytes.
type header struct {
	length uint32
	typ    RecordType
	flags  uint8
	epoch  uint64
	pos    uint64
	synced address // everything before it was on the disk when this was framed
	prev   uint32  // checksum of the record before
	sum    uint32  // checksum of this header, seeded by the segment's salt
}

func (h *header) size() int64 { return frameSize(int64(h.length)) }

// end returns the position after the record.
func (h *header) end() uint64 {
	if h.typ == TypeStream {
		return h.pos + uint64(h.length)
	}
	return h.pos
}

// appendFrame appends the record to buf and returns the grown buffer and the
// record's checksum, which the next record carries. seed is the segment's seed.
func appendFrame(buf []byte, h header, seed uint32, payload []byte) ([]byte, uint32) {
	size := int(frameSize(int64(len(payload))))
	at := len(buf)
	buf = slices.Grow(buf, size)[:at+size]
	b := buf[at:]
	le := binary.LittleEndian
	le.PutUint32(b[0:], uint32(len(payload)))
	b[4], b[5] = byte(h.typ), h.flags
	le.PutUint16(b[6:], frameMagic)
	le.PutUint64(b[8:], h.epoch)
	le.PutUint64(b[16:], h.pos)
	le.PutUint64(b[24:], uint64(h.synced))
	le.PutUint32(b[32:], h.prev)
	sum := crc32.Update(seed, castagnoli, b[:36])
	le.PutUint32(b[36:], sum)
	n := copy(b[frameHeader:], payload)
	clear(b[frameHeader+n : size-frameTail])
	chain := crc32.Update(sum, castagnoli, b[frameHeader:size-frameTail])
	le.PutUint32(b[size-frameTail:], chain)
	return buf, chain
}

// parseHeader decodes the first 40 bytes of b, or returns false if they are not
// a header of the segment with this seed.
func parseHeader(b []byte, seed uint32) (header, bool) {
	le := binary.LittleEndian
	if le.Uint16(b[6:]) != frameMagic {
		return header{}, false
	}
	h := rawHeader(b)
	return h, h.sum == crc32.Update(seed, castagnoli, b[:36])
}

// rawHeader decodes a header that is known to be whole.
func rawHeader(b []byte) header {
	le := binary.LittleEndian
	return header{
		length: le.Uint32(b[0:]),
		typ:    RecordType(b[4]),
		flags:  b[5],
		epoch:  le.Uint64(b[8:]),
		pos:    le.Uint64(b[16:]),
		synced: address(le.Uint64(b[24:])),
		prev:   le.Uint32(b[32:]),
		sum:    le.Uint32(b[36:]),
	}
}

var zeroHeader [frameHeader]byte

func isZero(b []byte) bool {
	for len(b) > frameHeader {
		if !bytes.Equal(b[:frameHeader], zeroHeader[:]) {
			return false
		}
		b = b[frameHeader:]
	}
	return bytes.Equal(b, zeroHeader[:len(b)])
}

// link is the payload of a LINK record.
type link struct {
	prevSeq   uint64 // 0: the first segment of its generation
	prevEnd   int64  // offset at which that segment ends for good
	prevChain uint32 // checksum of its last record
}

const (
	linkSize  = 24
	linkFrame = frameHeader + linkSize + 8 // with padding and checksum
)

func (l link) appendTo(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, l.prevSeq)
	b = le.AppendUint64(b, uint64(l.prevEnd))
	b = le.AppendUint32(b, l.prevChain)
	return le.AppendUint32(b, 0)
}

func parseLink(b []byte) (link, bool) {
	if len(b) != linkSize {
		return link{}, false
	}
	le := binary.LittleEndian
	l := link{prevSeq: le.Uint64(b), prevEnd: int64(le.Uint64(b[8:])), prevChain: le.Uint32(b[16:])}
	return l, l.prevEnd >= 0 && l.prevEnd < 1<<32 && l.prevSeq < 1<<32
}

// History is the payload of a HISTORY record: the replication ids from its position on.
type History struct {
	IDs       [2]string // replid, replid2; at most 255 bytes each
	SecondEnd uint64    // replid2 is valid below this position
	seq       uint64    // number of the manifest that says the same
}

func (h History) appendTo(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, h.seq)
	b = le.AppendUint64(b, h.SecondEnd)
	for _, id := range h.IDs {
		b = append(b, byte(len(id)))
		b = append(b, id...)
	}
	return b
}

// ParseHistory decodes the payload of a HISTORY record.
func ParseHistory(b []byte) (History, bool) {
	if len(b) < 18 {
		return History{}, false
	}
	le := binary.LittleEndian
	h := History{seq: le.Uint64(b), SecondEnd: le.Uint64(b[8:])}
	b = b[16:]
	for i := range h.IDs {
		if len(b) < 1 || len(b) < 1+int(b[0]) {
			return History{}, false
		}
		h.IDs[i] = string(b[1 : 1+int(b[0])])
		b = b[1+int(b[0]):]
	}
	return h, len(b) == 0
}

// payloadSum is the checksum of a record: over payload and padding, seeded by
// the checksum of the header.
func payloadSum(headerSum uint32, body []byte) uint32 {
	return crc32.Update(headerSum, castagnoli, body)
}

// tailSum returns the checksum that stands at the end of a framed record.
func tailSum(frame []byte) uint32 {
	return binary.LittleEndian.Uint32(frame[len(frame)-frameTail:])
}
