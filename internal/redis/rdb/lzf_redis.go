package rdb

import (
	"encoding/binary"
	"slices"
	"sync"
)

// A DUMP payload is compared, hashed and cached by what is around a server, so
// the same value should give the same bytes here as in Redis. LZF leaves open
// which repetitions are found; redisLZF finds those that the compressor in
// Redis finds. It is slower than lzf, which files and full syncs use: nobody
// compares those.

const redisHashBits = 16

// redisLZF is 256 KiB, so it is shared. The table is never cleared, in the way
// of lzf.
type redisLZF struct {
	table [1 << redisHashBits]uint32
	base  uint32
}

var redisLZFs = sync.Pool{New: func() any { return new(redisLZF) }}

// appendTo appends the compressed form of src to dst, or returns ok false if
// Redis would not compress it into limit bytes.
func (z *redisLZF) appendTo(dst, src []byte, limit int) (_ []byte, ok bool) {
	if len(src) < 4 || uint64(len(src)) >= 1<<31 || limit <= 0 {
		return dst, false
	}
	if z.base == 0 || uint64(z.base)+uint64(len(src)) >= 1<<32 {
		clear(z.table[:])
		z.base = 1
	}
	dst = slices.Grow(dst, limit)
	n := z.compress(dst[len(dst):len(dst)+limit], src)
	z.base += uint32(len(src))
	return dst[:len(dst)+n], n > 0
}

func (z *redisLZF) slot(src []byte, i int) *uint32 {
	h := uint32(src[i])<<16 | uint32(src[i+1])<<8 | uint32(src[i+2])
	return &z.table[(h>>(24-redisHashBits)-h*5)&(1<<redisHashBits-1)]
}

// find notes where the three bytes at i stand and returns where they stood
// last, or ok false if they did not, or too far back. What stands at 0 is
// never found.
func (z *redisLZF) find(src []byte, i int) (ref int, ok bool) {
	slot := z.slot(src, i)
	at := *slot
	*slot = z.base + uint32(i)
	if at <= z.base { // of an earlier input, or 0
		return 0, false
	}
	ref = int(at - z.base)
	return ref, i-ref-1 < lzfMaxOffset && src[ref] == src[i] && src[ref+1] == src[i+1] && src[ref+2] == src[i+2]
}

// compress writes the compressed form of src to out and returns its size, 0
// where Redis gives up: it wants a few bytes to spare.
func (z *redisLZF) compress(out, src []byte) int {
	o, lit, i := 0, 0, 0 // src[lit:i] is not yet written
	for i < len(src)-2 {
		ref, ok := z.find(src, i)
		if !ok {
			i++
			continue
		}
		// Matches end two bytes before the end, but a length is only looked at
		// once it is 3, and from 19 on where that many bytes were there.
		longest := max(3, min(len(src)-i-2, lzfMaxMatch))
		if longest > 16 {
			longest = max(19, longest)
		}
		n := 3
		for n < longest && src[ref+n] == src[i+n] {
			n++
		}
		if o+literalSize(i-lit)+4 >= len(out) {
			return 0
		}
		o = putLiterals(out, o, src[lit:i])
		o = putMatch(out, o, i-ref-1, n)
		i += n
		lit = i
		if i >= len(src)-2 {
			break
		}
		*z.slot(src, i-2) = z.base + uint32(i-2)
		*z.slot(src, i-1) = z.base + uint32(i-1)
	}
	if n := i - lit; o+n+n/lzfMaxLiteral+4 > len(out) {
		return 0
	}
	return putLiterals(out, o, src[lit:])
}

// putMatch writes a copy of n bytes from off+1 bytes back at out[o:] and
// returns where it ends.
func putMatch(out []byte, o, off, n int) int {
	if n < 9 {
		binary.BigEndian.PutUint16(out[o:], uint16((n-2)<<13|off))
		return o + 2
	}
	out[o], out[o+1], out[o+2] = byte(7<<5|off>>8), byte(n-9), byte(off)
	return o + 3
}
