package rdb

import (
	"encoding/binary"
	"math"
	"slices"
	"strconv"

	"holdfast/internal/redis/listpack"
)

// An Encoder appends pieces of the format to buffers. It holds no more than the
// compressor's table (32 KiB) and allocates nothing, unless a buffer has to
// grow. The zero value does not compress. Not for concurrent use.
//
// A key in a file is AppendKey and the pieces of its value; a DUMP payload is
// the type byte, the pieces, and AppendDumpFooter. The pieces are:
//
//	TypeString                      AppendString or AppendInt
//	TypeSetIntset                   AppendString(intset)
//	TypeHashListpack, ZsetListpack  AppendString(listpack)
//	TypeListQuick2                  AppendLen(nodes), then AppendListNode or AppendPlainNode each
//	TypeSet                         AppendLen(n), then AppendString each
//	TypeHash                        AppendLen(n), then AppendString twice each
//	TypeZset2                       AppendLen(n), then AppendString and AppendScore each
type Encoder struct {
	// Compress makes strings of more than 20 bytes be written in LZF where that
	// saves at least four bytes.
	Compress bool
	// LikeRedis makes compression find what Redis finds, byte for byte, at a
	// lower speed.
	LikeRedis bool
	lzf       lzf
}

// AppendKey appends what stands before a value in a file: the meta data, the
// type and the key.
func (e *Encoder) AppendKey(dst []byte, t Type, key []byte, m Meta) []byte {
	if m.ExpireMs != -1 {
		dst = append(dst, opExpireMs)
		dst = binary.LittleEndian.AppendUint64(dst, uint64(m.ExpireMs))
	}
	if m.IdleSec >= 0 {
		dst = AppendLen(append(dst, opIdle), uint64(m.IdleSec))
	}
	if m.Freq >= 0 {
		dst = append(dst, opFreq, byte(m.Freq))
	}
	return e.AppendString(append(dst, byte(t)), key)
}

// AppendLen appends a length.
func AppendLen(dst []byte, n uint64) []byte {
	switch {
	case n < 1<<6:
		return append(dst, byte(n))
	case n < 1<<14:
		return append(dst, len14Bit|byte(n>>8), byte(n))
	case n <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(dst, len32Bit), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, len64Bit), n)
}

// AppendString appends a string in the shortest form that Redis would choose:
// as an integer of up to 32 bits if it writes one, compressed, or as it is.
func (e *Encoder) AppendString(dst, s []byte) []byte {
	if len(s) <= 11 {
		if v, ok := listpack.ParseInt(s); ok && v >= math.MinInt32 && v <= math.MaxInt32 {
			return appendSmallInt(dst, v)
		}
	} else if e.Compress && len(s) > 20 {
		if out, ok := e.appendLZF(dst, s); ok {
			return out
		}
	}
	return append(AppendLen(dst, uint64(len(s))), s...)
}

// AppendInt appends the string that writes v.
func (e *Encoder) AppendInt(dst []byte, v int64) []byte {
	if v >= math.MinInt32 && v <= math.MaxInt32 {
		return appendSmallInt(dst, v)
	}
	var text [listpack.MaxIntLen]byte
	s := strconv.AppendInt(text[:0], v, 10)
	return append(AppendLen(dst, uint64(len(s))), s...)
}

// appendSmallInt appends the string that writes v, which fits 32 bits.
func appendSmallInt(dst []byte, v int64) []byte {
	switch {
	case v >= math.MinInt8 && v <= math.MaxInt8:
		return append(dst, encInt8, byte(v))
	case v >= math.MinInt16 && v <= math.MaxInt16:
		return binary.LittleEndian.AppendUint16(append(dst, encInt16), uint16(v))
	}
	return binary.LittleEndian.AppendUint32(append(dst, encInt32), uint32(v))
}

// appendLZF appends s compressed, if that saves four bytes or more.
func (e *Encoder) appendLZF(dst, s []byte) ([]byte, bool) {
	// The compressed length stands first but is known last: compress behind
	// the longest header and move the result to where it belongs.
	const maxHeader = 1 + 9 + 9
	start := len(dst)
	dst = slices.Grow(dst, maxHeader+len(s))
	var packed []byte
	var ok bool
	if e.LikeRedis {
		z := redisLZFs.Get().(*redisLZF)
		packed, ok = z.appendTo(dst[:start+maxHeader], s, len(s)-4)
		redisLZFs.Put(z)
	} else {
		packed, ok = e.lzf.appendTo(dst[:start+maxHeader], s, len(s)-4)
	}
	if !ok {
		return dst, false
	}
	n := len(packed) - start - maxHeader
	dst = AppendLen(append(dst, encLZF), uint64(n))
	dst = AppendLen(dst, uint64(len(s)))
	return append(dst, packed[start+maxHeader:]...), true
}

// AppendScore appends the score of a member of a TypeZset2.
func AppendScore(dst []byte, score float64) []byte {
	return binary.LittleEndian.AppendUint64(dst, math.Float64bits(score))
}

// AppendListNode appends a node of a TypeListQuick2: a listpack.
func (e *Encoder) AppendListNode(dst, lp []byte) []byte {
	return e.AppendString(append(dst, nodePacked), lp)
}

// AppendPlainNode appends a node of a TypeListQuick2 that is one large element.
func (e *Encoder) AppendPlainNode(dst, val []byte) []byte {
	return e.AppendString(append(dst, nodePlain), val)
}

// dumpFooterSize is the size of what follows the value in a DUMP payload:
//
//	<type> <value> <RDB version, 2 bytes LE> <CRC64 of all before, 8 bytes LE>
const dumpFooterSize = 2 + 8

// AppendDumpFooter makes a DUMP payload of dst[start:], which is a type byte
// and a value.
func AppendDumpFooter(dst []byte, start int) []byte {
	dst = binary.LittleEndian.AppendUint16(dst, Version)
	return binary.LittleEndian.AppendUint64(dst, CRC64(0, dst[start:]))
}
