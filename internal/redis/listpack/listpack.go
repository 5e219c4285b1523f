// Package listpack encodes: a sequence of strings and integers packed into one
// byte slice, in exactly the format of Redis 7.0. The slice is the value: it is
// kept in memory and written verbatim into RDB files.
//
//	lp := listpack.New(64)
//	lp = listpack.Append(lp, []byte("field"))
//	lp = listpack.Append(lp, []byte("1024")) // stored as an integer, in 2 bytes
//	for off := listpack.First(lp); off >= 0; off = listpack.Next(lp, off) {
//		str, num, isInt := listpack.Get(lp, off)
//		...
//	}
//
// Elements are named by their byte offset. A mutation keeps the offsets before
// the place it changes and makes those after it invalid. -1 stands for "none".
//
// Format (little endian):
//
//	+-------------+-----------+---------+-- ... --+---------+------+
//	| total bytes | elements  | element |         | element | 0xFF |
//	|   4 bytes   |  2 bytes  |         |         |         |      |
//	+-------------+-----------+---------+-- ... --+---------+------+
//
// The element count 65535 means "unknown: count them". An element is
//
//	0xxxxxxx                        integer 0..127
//	10llllll <l bytes>              string of up to 63 bytes
//	110xxxxx xxxxxxxx               13-bit signed integer
//	1110llll llllllll <l bytes>     string of up to 4095 bytes
//	0xF0 <4-byte length> <bytes>    longer string
//	0xF1 / F2 / F3 / F4 <bytes>     16-, 24-, 32-, 64-bit signed integer
//
// followed by the length of what stands above in 1 to 5 bytes that are read
// backwards (7 bits each, high bit set on all but the first byte).
//
// Downsides of the format: every operation but those at the ends walks, an
// insertion moves all bytes behind it, and one listpack holds less than 4 GiB.
// It is meant for small collections; SafeToAdd tells when one grew too far.
//
// No function keeps a slice that it was given. A value must not alias the
// listpack that it is put into. Functions that take a listpack expect one that
// this package built or that Validate(lp, true) accepted; only Validate may see
// anything else. Functions that only read may run concurrently.
package listpack

import (
	"encoding/binary"
	"slices"
	"strconv"

	"holdfast/internal/invariant"
)

const (
	headerSize = 6
	end        = 0xFF
	// lenUnknown in the header's count field says that elements must be counted.
	lenUnknown = 0xFFFF

	maxBytes = 1<<32 - 1
	// safeBytes is the size past which Redis refuses to let a listpack grow.
	safeBytes = 1 << 30
)

// First bytes of an element.
const (
	enc6BitStr  = 0x80
	enc13BitInt = 0xC0
	enc12BitStr = 0xE0
	enc32BitStr = 0xF0
	enc16BitInt = 0xF1
	enc24BitInt = 0xF2
	enc32BitInt = 0xF3
	enc64BitInt = 0xF4
)

// MaxIntLen is the length of the longest integer as text.
const MaxIntLen = 20

// entrySize holds the size of a whole element, backward length included, where
// the first byte alone tells it; 0 where more must be read or no element begins so.
var entrySize = func() (t [256]uint8) {
	for b := range t {
		switch {
		case b < enc6BitStr:
			t[b] = 2
		case b < enc13BitInt:
			t[b] = uint8(b&0x3F) + 2
		case b < enc12BitStr:
			t[b] = 3
		case b == enc16BitInt:
			t[b] = 4
		case b == enc24BitInt:
			t[b] = 5
		case b == enc32BitInt:
			t[b] = 6
		case b == enc64BitInt:
			t[b] = 10
		}
	}
	return t
}()

// New returns an empty listpack whose slice has at least the given capacity in
// bytes; 0 is a fine capacity.
func New(capacity int) []byte {
	lp := make([]byte, headerSize+1, max(capacity, headerSize+1))
	lp[0] = headerSize + 1
	lp[headerSize] = end
	return lp
}

// AppendEmpty appends an empty listpack to dst, for callers that place
// listpacks in memory of their own.
func AppendEmpty(dst []byte) []byte {
	return append(dst, headerSize+1, 0, 0, 0, 0, 0, end)
}

// Bytes returns the size of the listpack in bytes, header and end included.
func Bytes(lp []byte) int { return int(binary.LittleEndian.Uint32(lp)) }

// SafeToAdd reports whether add bytes more keep lp below the size (1 GiB) that
// Redis allows. lp may be nil.
func SafeToAdd(lp []byte, add int) bool {
	return add >= 0 && len(lp)+add <= safeBytes
}

// Len returns the number of elements. It is O(1) unless the listpack has more
// than 65534 elements, or had once.
func Len(lp []byte) int {
	if n := headerCount(lp); n != lenUnknown {
		return n
	}
	n := 0
	for off := headerSize; lp[off] != end; off = skip(lp, off) {
		n++
	}
	return n
}

func headerCount(lp []byte) int { return int(binary.LittleEndian.Uint16(lp[4:])) }

// First returns the offset of the first element, -1 if there is none.
func First(lp []byte) int {
	if lp[headerSize] == end {
		return -1
	}
	return headerSize
}

// Last returns the offset of the last element, -1 if there is none.
func Last(lp []byte) int { return Prev(lp, len(lp)-1) }

// Next returns the offset of the element after off, -1 if there is none.
func Next(lp []byte, off int) int {
	off = skip(lp, off)
	if lp[off] == end {
		return -1
	}
	return off
}

// Prev returns the offset of the element before off, -1 if there is none. off
// may also be the end of the listpack.
func Prev(lp []byte, off int) int {
	if off <= headerSize {
		return -1
	}
	n := decodeBacklen(lp, off-1)
	return off - n - backlenSize(n)
}

// IsEnd reports whether off is the place behind the last element, where Delete
// leaves the offset that it was given when it removed the last elements.
func IsEnd(lp []byte, off int) bool { return lp[off] == end }

// Seek returns the offset of the element with the given index, counted from 0,
// or from -1 backwards; -1 if the index is out of range.
func Seek(lp []byte, index int) int {
	n := headerCount(lp)
	forward := index >= 0
	if n != lenUnknown {
		if index < 0 {
			index += n
		}
		if index < 0 || index >= n {
			return -1
		}
		forward = index <= n/2
		if !forward {
			index -= n
		}
	}
	if forward {
		off := First(lp)
		for ; index > 0 && off >= 0; index-- {
			off = Next(lp, off)
		}
		return off
	}
	off := Last(lp)
	for ; index < -1 && off >= 0; index++ {
		off = Prev(lp, off)
	}
	return off
}

// skip returns the offset behind the element at off.
func skip(lp []byte, off int) int {
	if n := entrySize[lp[off]]; n != 0 {
		return off + int(n)
	}
	n := encodedSize(lp, off)
	return off + n + backlenSize(n)
}

// encodedSize returns the size of the element at off without its backward length.
func encodedSize(lp []byte, off int) int {
	b := lp[off]
	if n := entrySize[b]; n != 0 {
		return int(n) - 1
	}
	switch {
	case b < enc32BitStr:
		return 2 + (int(b&0x0F)<<8 | int(lp[off+1]))
	case b == enc32BitStr:
		return 5 + int(binary.LittleEndian.Uint32(lp[off+1:]))
	}
	invariant.Violated("listpack: byte %#x at offset %d of %d begins no element", b, off, len(lp))
	return 0
}

// Get returns the element at off: either a string, which aliases lp, or an
// integer. An empty string is not nil.
func Get(lp []byte, off int) (str []byte, num int64, isInt bool) {
	b := lp[off]
	switch {
	case b < enc6BitStr:
		return nil, int64(b), true
	case b < enc13BitInt:
		n := int(b & 0x3F)
		return lp[off+1 : off+1+n : off+1+n], 0, false
	}
	return getLong(lp, off, b)
}

func getLong(lp []byte, off int, b byte) (str []byte, num int64, isInt bool) {
	switch {
	case b < enc12BitStr:
		return nil, int64(b&0x1F)<<59>>51 | int64(lp[off+1]), true
	case b < enc32BitStr:
		n := int(b&0x0F)<<8 | int(lp[off+1])
		return lp[off+2 : off+2+n : off+2+n], 0, false
	}
	switch b {
	case enc32BitStr:
		n := int(binary.LittleEndian.Uint32(lp[off+1:]))
		return lp[off+5 : off+5+n : off+5+n], 0, false
	case enc16BitInt:
		return nil, int64(int16(binary.LittleEndian.Uint16(lp[off+1:]))), true
	case enc24BitInt:
		v := uint32(lp[off+1])<<8 | uint32(lp[off+2])<<16 | uint32(lp[off+3])<<24
		return nil, int64(int32(v) >> 8), true
	case enc32BitInt:
		return nil, int64(int32(binary.LittleEndian.Uint32(lp[off+1:]))), true
	case enc64BitInt:
		return nil, int64(binary.LittleEndian.Uint64(lp[off+1:])), true
	}
	invariant.Violated("listpack: byte %#x at offset %d of %d begins no element", b, off, len(lp))
	return nil, 0, false
}

// AppendValue appends the element at off as text to dst.
func AppendValue(dst, lp []byte, off int) []byte {
	str, num, isInt := Get(lp, off)
	if isInt {
		return strconv.AppendInt(dst, num, 10)
	}
	return append(dst, str...)
}

// ValueLen returns the length of the element at off as text, in bytes.
func ValueLen(lp []byte, off int) int {
	str, num, isInt := Get(lp, off)
	if !isInt {
		return len(str)
	}
	n, u := 1, uint64(num)
	if num < 0 {
		n, u = 2, -u
	}
	for ; u >= 10; u /= 10 {
		n++
	}
	return n
}

// Equal reports whether the element at off is val, compared as text.
func Equal(lp []byte, off int, val []byte) bool {
	str, num, isInt := Get(lp, off)
	if !isInt {
		return string(str) == string(val)
	}
	v, ok := ParseInt(val)
	return ok && v == num
}

// Find returns the offset of the first element that equals val, from off on,
// looking at one element and then passing over so many between it and the next:
// 0 for lists and sets, 1 for the fields of a hash. -1 if there is none; off may be -1.
func Find(lp []byte, off int, val []byte, between int) int {
	if off < 0 {
		return -1
	}
	num, isNum := ParseInt(val)
	for {
		b := lp[off]
		switch {
		case b < enc6BitStr:
			if isNum && num == int64(b) {
				return off
			}
			off += 2
		case b < enc13BitInt:
			n := int(b & 0x3F)
			// Names often share a prefix: the last byte tells most apart.
			if n == len(val) && (n == 0 || lp[off+n] == val[n-1] && string(lp[off+1:off+1+n]) == string(val)) {
				return off
			}
			off += n + 2
		case b == end:
			return -1
		default:
			str, v, isInt := getLong(lp, off, b)
			if isInt {
				if isNum && v == num {
					return off
				}
			} else if string(str) == string(val) {
				return off
			}
			off = skip(lp, off)
		}
		for range between {
			n := entrySize[lp[off]]
			if n != 0 {
				off += int(n)
				continue
			}
			if lp[off] == end {
				return -1
			}
			off = skip(lp, off)
		}
	}
}

// Append puts val behind the last element.
func Append(lp, val []byte) []byte {
	if v, ok := ParseInt(val); ok {
		return AppendInt(lp, v)
	}
	return splice(lp, len(lp)-1, 0, val, 1)
}

// AppendInt puts v behind the last element.
func AppendInt(lp []byte, v int64) []byte {
	var buf [9]byte
	return spliceInt(lp, len(lp)-1, 0, &buf, v, 1)
}

// Prepend puts val before the first element.
func Prepend(lp, val []byte) []byte { return insertAt(lp, headerSize, 0, val, 1) }

// InsertBefore puts val before the element at off, which from then on is the
// offset of val. off may be the end of the listpack (IsEnd).
func InsertBefore(lp []byte, off int, val []byte) []byte { return insertAt(lp, off, 0, val, 1) }

// InsertAfter puts val behind the element at off.
func InsertAfter(lp []byte, off int, val []byte) []byte {
	return insertAt(lp, skip(lp, off), 0, val, 1)
}

// Replace puts val in the place of the element at off. off stays valid.
func Replace(lp []byte, off int, val []byte) []byte {
	return insertAt(lp, off, skip(lp, off)-off, val, 0)
}

// ReplaceInt puts v in the place of the element at off. off stays valid.
func ReplaceInt(lp []byte, off int, v int64) []byte {
	var buf [9]byte
	return spliceInt(lp, off, skip(lp, off)-off, &buf, v, 0)
}

// Delete removes n elements from off on, or as many as there are. off is then
// the offset of the element that followed them, or the end (IsEnd). The
// capacity of the slice stays.
func Delete(lp []byte, off, n int) []byte {
	stop, removed := off, 0
	for ; removed < n && lp[stop] != end; removed++ {
		stop = skip(lp, stop)
	}
	if removed == 0 {
		return lp
	}
	copy(lp[off:], lp[stop:])
	lp = lp[:len(lp)-(stop-off)]
	binary.LittleEndian.PutUint32(lp, uint32(len(lp)))
	addCount(lp, -removed)
	return lp
}

// Merge appends all elements of src to dst and returns it; src is not changed.
func Merge(dst, src []byte) []byte {
	body := src[headerSize : len(src)-1]
	n, m := headerCount(dst), headerCount(src)
	if n == lenUnknown || m == lenUnknown || n+m > lenUnknown {
		n, m = lenUnknown, 0
	}
	at := len(dst) - 1
	dst = open(dst, at, 0, len(body))
	copy(dst[at:], body)
	binary.LittleEndian.PutUint16(dst[4:], uint16(n+m))
	return dst
}

func insertAt(lp []byte, off, old int, val []byte, count int) []byte {
	if v, ok := ParseInt(val); ok {
		var buf [9]byte
		return spliceInt(lp, off, old, &buf, v, count)
	}
	return splice(lp, off, old, val, count)
}

// spliceInt puts v where old bytes stand at off; buf is scratch space.
func spliceInt(lp []byte, off, old int, buf *[9]byte, v int64, count int) []byte {
	n := encodeInt(buf, v)
	lp = open(lp, off, old, n+1)
	copy(lp[off:], buf[:n])
	lp[off+n] = byte(n)
	addCount(lp, count)
	return lp
}

// splice puts the string val where old bytes stand at off.
func splice(lp []byte, off, old int, val []byte, count int) []byte {
	head := 1
	switch {
	case len(val) >= 4096:
		head = 5
	case len(val) >= 64:
		head = 2
	}
	n := head + len(val)
	lp = open(lp, off, old, n+backlenSize(n))
	switch head {
	case 1:
		lp[off] = enc6BitStr | byte(len(val))
	case 2:
		lp[off] = enc12BitStr | byte(len(val)>>8)
		lp[off+1] = byte(len(val))
	default:
		lp[off] = enc32BitStr
		binary.LittleEndian.PutUint32(lp[off+1:], uint32(len(val)))
	}
	copy(lp[off+head:], val)
	putBacklen(lp[off+n:], n)
	addCount(lp, count)
	return lp
}

// open makes room for size bytes at off in the place of old bytes, and sets the
// header's total. What stands in the room is undefined.
func open(lp []byte, off, old, size int) []byte {
	need := len(lp) + size - old
	if need > maxBytes {
		invariant.Violated("listpack: %d bytes do not fit the format; ask SafeToAdd first", need)
	}
	if need <= cap(lp) {
		tail := lp[off+old:]
		lp = lp[:need]
		if size != old {
			copy(lp[off+size:], tail)
		}
	} else {
		// The slack is smaller than append's: most listpacks are small and
		// stay as they are, and their unused bytes would be most of the cost.
		grown := slices.Grow([]byte(nil), need+need/16)[:need]
		copy(grown, lp[:off])
		copy(grown[off+size:], lp[off+old:])
		lp = grown
	}
	binary.LittleEndian.PutUint32(lp, uint32(need))
	return lp
}

// addCount changes the header's element count unless it is unknown; reaching
// 65535 makes it so.
func addCount(lp []byte, n int) {
	if have := headerCount(lp); n != 0 && have != lenUnknown {
		binary.LittleEndian.PutUint16(lp[4:], uint16(have+n))
	}
}

// encodeInt writes v in the smallest form and returns its size.
func encodeInt(buf *[9]byte, v int64) int {
	switch {
	case v >= 0 && v <= 127:
		buf[0] = byte(v)
		return 1
	case v >= -1<<12 && v < 1<<12:
		buf[0] = enc13BitInt | byte(v>>8)&0x1F
		buf[1] = byte(v)
		return 2
	case v >= -1<<15 && v < 1<<15:
		buf[0] = enc16BitInt
		binary.LittleEndian.PutUint16(buf[1:], uint16(v))
		return 3
	case v >= -1<<23 && v < 1<<23:
		buf[0], buf[1], buf[2], buf[3] = enc24BitInt, byte(v), byte(v>>8), byte(v>>16)
		return 4
	case v >= -1<<31 && v < 1<<31:
		buf[0] = enc32BitInt
		binary.LittleEndian.PutUint32(buf[1:], uint32(v))
		return 5
	}
	buf[0] = enc64BitInt
	binary.LittleEndian.PutUint64(buf[1:], uint64(v))
	return 9
}

// EncodedLen returns how many bytes val takes as an element.
func EncodedLen(val []byte) int {
	n := len(val)
	if v, ok := ParseInt(val); ok {
		var buf [9]byte
		n = encodeInt(&buf, v)
	} else if n < 64 {
		n++
	} else if n < 4096 {
		n += 2
	} else {
		n += 5
	}
	return n + backlenSize(n)
}

// backlenSize returns how many bytes the backward length n takes. The steps
// are Redis's own: 16383 already takes three bytes.
func backlenSize(n int) int {
	switch {
	case n <= 127:
		return 1
	case n < 1<<14-1:
		return 2
	case n < 1<<21-1:
		return 3
	case n < 1<<28-1:
		return 4
	}
	return 5
}

func putBacklen(dst []byte, n int) {
	size := backlenSize(n)
	for i := size - 1; i > 0; i-- {
		dst[i] = byte(n)&0x7F | 0x80
		n >>= 7
	}
	dst[0] = byte(n)
}

// decodeBacklen reads the backward length whose last byte stands at off; -1 if
// it is longer than five bytes.
func decodeBacklen(lp []byte, off int) int {
	n := int(lp[off] & 0x7F)
	for shift := 7; lp[off]&0x80 != 0; shift += 7 {
		off--
		if shift > 28 || off < 0 {
			return -1
		}
		n |= int(lp[off]&0x7F) << shift
	}
	return n
}

// ParseInt returns the integer that s writes canonically: an optional minus
// sign, no leading zero, no "-0", within 64 bits. Only such texts are stored as
// integers, so that every element comes back as it was put.
func ParseInt(s []byte) (int64, bool) {
	if len(s) == 0 || len(s) > MaxIntLen {
		return 0, false
	}
	neg := s[0] == '-'
	i := 0
	if neg {
		i = 1
		if len(s) == 1 {
			return 0, false
		}
	}
	d := s[i] - '0'
	if d > 9 {
		return 0, false
	}
	if d == 0 {
		return 0, len(s) == 1
	}
	u := uint64(d)
	for _, c := range s[i+1:] {
		d := c - '0'
		if d > 9 {
			return 0, false
		}
		// At most 20 digits: only the last one can overflow.
		if u > (1<<64-1)/10 || u*10 > 1<<64-1-uint64(d) {
			return 0, false
		}
		u = u*10 + uint64(d)
	}
	if neg {
		return -int64(u), u <= 1<<63
	}
	return int64(u), u < 1<<63
}
