// Package intset encodes: a sorted set of integers in one byte slice, in
// exactly the format of Redis 7.0. The slice is the value: it is kept in memory
// and written verbatim into RDB files.
//
//	is := intset.New()
//	is, added := intset.Add(is, 42)
//	pos, ok := intset.Find(is, 42)
//
// Format (little endian):
//
//	+----------+---------+-----------+-- ... --+
//	| encoding |  count  |  integer  |         |
//	| 4 bytes  | 4 bytes |           |         |
//	+----------+---------+-----------+-- ... --+
//
// The encoding is the size of one integer: 2, 4 or 8 bytes, signed. Integers
// ascend, without duplicates. An integer that does not fit widens all others,
// once: removing it does not narrow them again.
//
// Downside of the format: adding and removing move all bytes behind the place,
// so that it is meant for some hundreds of integers.
//
// Functions expect a set that this package built or that Validate(is, true)
// accepted. Functions that only read may run concurrently.
package intset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"

	"holdfast/internal/invariant"
)

const headerSize = 8

// ErrCorrupt is what every error of Validate wraps.
var ErrCorrupt = errors.New("corrupt intset")

// New returns an empty set.
func New() []byte { return AppendEmpty(nil) }

// AppendEmpty appends an empty set to dst, for callers that place sets in
// memory of their own.
func AppendEmpty(dst []byte) []byte { return append(dst, 2, 0, 0, 0, 0, 0, 0, 0) }

// Len returns the number of integers.
func Len(is []byte) int { return int(binary.LittleEndian.Uint32(is[4:])) }

// Encoding returns the size of one integer in bytes: 2, 4 or 8.
func Encoding(is []byte) int { return int(is[0]) }

// Get returns the integer at position i, 0 <= i < Len(is), in ascending order.
func Get(is []byte, i int) int64 { return get(is, i, Encoding(is)) }

func get(is []byte, i, enc int) int64 {
	b := is[headerSize+i*enc:]
	switch enc {
	case 2:
		return int64(int16(binary.LittleEndian.Uint16(b)))
	case 4:
		return int64(int32(binary.LittleEndian.Uint32(b)))
	}
	return int64(binary.LittleEndian.Uint64(b))
}

func set(is []byte, i, enc int, v int64) {
	b := is[headerSize+i*enc:]
	switch enc {
	case 2:
		binary.LittleEndian.PutUint16(b, uint16(v))
	case 4:
		binary.LittleEndian.PutUint32(b, uint32(v))
	default:
		binary.LittleEndian.PutUint64(b, uint64(v))
	}
}

// encodingOf returns the size in bytes that v needs.
func encodingOf(v int64) int {
	switch {
	case v < math.MinInt32 || v > math.MaxInt32:
		return 8
	case v < math.MinInt16 || v > math.MaxInt16:
		return 4
	}
	return 2
}

// Find returns the position of v, or, with ok false, the position at which v
// would be inserted.
func Find(is []byte, v int64) (pos int, ok bool) {
	n, enc := Len(is), Encoding(is)
	if n == 0 {
		return 0, false
	}
	if v > get(is, n-1, enc) {
		return n, false
	}
	if v < get(is, 0, enc) {
		return 0, false
	}
	lo, hi := 0, n
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if get(is, mid, enc) < v {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < n && get(is, lo, enc) == v
}

// Contains reports whether v is in the set.
func Contains(is []byte, v int64) bool {
	_, ok := Find(is, v)
	return ok
}

// Add puts v into the set; added is false if it was there.
func Add(is []byte, v int64) (_ []byte, added bool) {
	if enc := encodingOf(v); enc > Encoding(is) {
		return upgrade(is, enc, v), true
	}
	pos, ok := Find(is, v)
	if ok {
		return is, false
	}
	n, enc := Len(is), Encoding(is)
	if n >= math.MaxUint32 {
		invariant.Violated("intset: %d integers do not fit the format", n)
	}
	is = grow(is, enc)
	at := headerSize + pos*enc
	copy(is[at+enc:], is[at:len(is)-enc])
	set(is, pos, enc, v)
	setLen(is, n+1)
	return is, true
}

// upgrade widens all integers to enc bytes and adds v, which needed that and is
// therefore smaller or larger than all others.
func upgrade(is []byte, enc int, v int64) []byte {
	n, old := Len(is), Encoding(is)
	is = grow(is, (n+1)*enc-n*old)
	shift := 0
	if v < 0 {
		shift = 1
	}
	for i := n - 1; i >= 0; i-- {
		set(is, i+shift, enc, get(is, i, old))
	}
	if v < 0 {
		set(is, 0, enc, v)
	} else {
		set(is, n, enc, v)
	}
	is[0] = byte(enc)
	setLen(is, n+1)
	return is
}

// Remove takes v out of the set; removed is false if it was not there. The
// capacity of the slice stays.
func Remove(is []byte, v int64) (_ []byte, removed bool) {
	pos, ok := Find(is, v)
	if !ok {
		return is, false
	}
	return RemoveAt(is, pos), true
}

// RemoveAt takes out the integer at position i, 0 <= i < Len(is).
func RemoveAt(is []byte, i int) []byte {
	enc := Encoding(is)
	at := headerSize + i*enc
	copy(is[at:], is[at+enc:])
	is = is[:len(is)-enc]
	setLen(is, Len(is)-1)
	return is
}

// All yields the integers in ascending order with their positions. The set
// must not change meanwhile.
func All(is []byte) iter.Seq2[int, int64] {
	return func(yield func(int, int64) bool) {
		enc := Encoding(is)
		for i := range Len(is) {
			if !yield(i, get(is, i, enc)) {
				return
			}
		}
	}
}

func setLen(is []byte, n int) { binary.LittleEndian.PutUint32(is[4:], uint32(n)) }

// grow lengthens the slice by n bytes, with less slack than append: most sets
// are small and stay as they are.
func grow(is []byte, n int) []byte {
	need := len(is) + n
	if need <= cap(is) {
		return is[:need]
	}
	grown := slices.Grow([]byte(nil), need+need/16)[:need]
	copy(grown, is)
	return grown
}

// Validate says whether is, which may come from anywhere, is a set of at least
// one integer (Redis never stores an empty one). It is O(1) unless deep is set:
// then it also asks that the integers ascend without duplicates. Once it has
// returned nil, no function of this package fails on is; without deep, Find
// may miss integers.
func Validate(is []byte, deep bool) error {
	if len(is) < headerSize {
		return fmt.Errorf("%w: %d bytes are too few", ErrCorrupt, len(is))
	}
	enc := binary.LittleEndian.Uint32(is)
	if enc != 2 && enc != 4 && enc != 8 {
		return fmt.Errorf("%w: encoding %d", ErrCorrupt, enc)
	}
	n := binary.LittleEndian.Uint32(is[4:])
	if n == 0 {
		return fmt.Errorf("%w: it is empty", ErrCorrupt)
	}
	if headerSize+uint64(n)*uint64(enc) != uint64(len(is)) {
		return fmt.Errorf("%w: %d integers of %d bytes do not make %d bytes", ErrCorrupt, n, enc, len(is))
	}
	if !deep {
		return nil
	}
	prev := Get(is, 0)
	for i := 1; i < int(n); i++ {
		v := Get(is, i)
		if v <= prev {
			return fmt.Errorf("%w: integer %d at position %d follows %d", ErrCorrupt, v, i, prev)
		}
		prev = v
	}
	return nil
}
