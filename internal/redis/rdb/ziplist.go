package rdb

import (
	"encoding/binary"

	"holdfast/internal/redis/listpack"
)

// Ziplist, the predecessor of the listpack (little endian unless noted):
//
//	<total, 4 bytes> <offset of the last entry, 4 bytes> <count, 2 bytes> <entry> ... 0xFF
//
// where an entry is the size of the one before it (1 byte, or 0xFE and 4
// bytes), then
//
//	00llllll <bytes>                     string
//	01llllll llllllll <bytes>            string, length big endian
//	10...... <4-byte length BE> <bytes>  string
//	0xC0 / D0 / E0 / F0 / FE             integer of 2, 4, 8, 3, 1 bytes
//	0xF1 .. 0xFD                         integer 0 .. 12
//
// The count 65535 means "unknown".
const (
	ziplistHeader = 4 + 4 + 2
	ziplistEnd    = 0xFF
)

// convertZiplist appends the entries of the ziplist zl to the listpack lp. ok
// is false if zl is not well-formed in every detail.
func convertZiplist(lp, zl []byte) (_ []byte, ok bool) {
	if len(zl) < ziplistHeader+1 || uint64(binary.LittleEndian.Uint32(zl)) != uint64(len(zl)) || zl[len(zl)-1] != ziplistEnd {
		return lp, false
	}
	body := zl[: len(zl)-1 : len(zl)-1]
	tail := uint64(binary.LittleEndian.Uint32(zl[4:]))
	at, last, prevSize, count := ziplistHeader, ziplistHeader, 0, 0
	for at < len(body) {
		e, ok := parseZiplistEntry(body[at:])
		if !ok || e.prev != uint64(prevSize) || !listpack.SafeToAdd(lp, len(e.str)+16) {
			return lp, false
		}
		if e.isInt {
			lp = listpack.AppendInt(lp, e.num)
		} else {
			lp = listpack.Append(lp, e.str)
		}
		last, prevSize = at, e.size
		at += e.size
		count++
	}
	n := int(binary.LittleEndian.Uint16(zl[8:]))
	return lp, tail == uint64(last) && (n == 0xFFFF || n == count)
}

type ziplistEntry struct {
	prev  uint64 // size of the entry before, as this one says
	size  int    // of the whole entry
	str   []byte
	num   int64
	isInt bool
}

// parseZiplistEntry reads the entry at the beginning of b, which ends where
// the last entry may end at most.
func parseZiplistEntry(b []byte) (e ziplistEntry, ok bool) {
	at := 1
	if e.prev = uint64(b[0]); b[0] == ziplistEnd {
		return e, false
	} else if b[0] == 0xFE {
		if at = 5; len(b) < at {
			return e, false
		}
		e.prev = uint64(binary.LittleEndian.Uint32(b[1:]))
	}
	if len(b) <= at {
		return e, false
	}
	enc := b[at]
	b = b[at+1:]
	at++
	if enc >= 0xC0 {
		n, ok := e.setInt(enc, b)
		e.size = at + n
		return e, ok
	}
	var n uint64
	head := 0
	switch enc >> 6 {
	case 0:
		n = uint64(enc)
	case 1:
		if head = 1; len(b) >= head {
			n = uint64(enc&0x3F)<<8 | uint64(b[0])
		}
	default:
		if head = 4; len(b) >= head {
			n = uint64(binary.BigEndian.Uint32(b))
		}
	}
	if len(b) < head || uint64(len(b)-head) < n {
		return e, false
	}
	e.str = b[head : head+int(n)]
	e.size = at + head + int(n)
	return e, true
}

// setInt reads the integer that enc announces and returns its size in bytes.
func (e *ziplistEntry) setInt(enc byte, b []byte) (int, bool) {
	size := 0
	switch enc {
	case 0xC0:
		size = 2
	case 0xD0:
		size = 4
	case 0xE0:
		size = 8
	case 0xF0:
		size = 3
	case 0xFE:
		size = 1
	default:
		e.num, e.isInt = int64(enc&0x0F)-1, true
		return 0, enc >= 0xF1 && enc <= 0xFD
	}
	if len(b) < size {
		return 0, false
	}
	// Shifting up and down again extends the sign.
	var u uint64
	for i := range size {
		u |= uint64(b[i]) << (8 * i)
	}
	shift := 64 - 8*size
	e.num, e.isInt = int64(u<<shift)>>shift, true
	return size, true
}

// convertZipmap appends the pairs of the zipmap zm, the oldest form of a small
// hash, to the listpack lp. ok is false if zm is not well-formed:
//
//	<count, 1 byte, 254 or more means "unknown"> then for each pair
//	<length> <field> <length> <unused, 1 byte> <value> <unused bytes>   then 0xFF
//
// where a length is 1 byte, or 0xFE and 4 bytes.
func convertZipmap(lp, zm []byte) (_ []byte, ok bool) {
	if len(zm) < 2 || zm[len(zm)-1] != ziplistEnd {
		return lp, false
	}
	body := zm[1 : len(zm)-1]
	count := 0
	for len(body) > 0 {
		field, rest, ok := zipmapPart(body, 0)
		if !ok {
			return lp, false
		}
		val, rest, ok := zipmapPart(rest, 1)
		if !ok || !listpack.SafeToAdd(lp, len(field)+len(val)+32) {
			return lp, false
		}
		lp = listpack.Append(listpack.Append(lp, field), val)
		body = rest
		count++
	}
	return lp, zm[0] >= 254 || int(zm[0]) == count
}

// zipmapPart reads one length and its bytes; free is 1 if between them stands
// the number of unused bytes that follow.
func zipmapPart(b []byte, free int) (part, rest []byte, ok bool) {
	if len(b) == 0 || b[0] == ziplistEnd {
		return nil, nil, false
	}
	n, head := uint64(b[0]), 1
	if b[0] == 0xFE {
		if head = 5; len(b) < head {
			return nil, nil, false
		}
		n = uint64(binary.LittleEndian.Uint32(b[1:]))
	}
	if len(b) < head+free {
		return nil, nil, false
	}
	unused := uint64(0)
	if free == 1 {
		unused = uint64(b[head])
	}
	b = b[head+free:]
	if uint64(len(b)) < n+unused {
		return nil, nil, false
	}
	return b[:n], b[n+unused:], true
}
