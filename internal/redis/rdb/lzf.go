package rdb

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
)

// The LZF format is a sequence of
//
//	000lllll <l+1 bytes>            so many bytes as they are
//	lllooooo oooooooo               l+2 bytes from o+1 bytes back, l = 1..6
//	111ooooo llllllll oooooooo      l+9 bytes from o+1 bytes back
//
// where a copy may overlap what it produces.
const (
	lzfMaxLiteral = 32
	lzfMaxOffset  = 1 << 13
	lzfMaxMatch   = 2 + 7 + 255
	lzfHashBits   = 13
	// lzfMaxRatio is the most that one compressed byte can stand for.
	lzfMaxRatio = lzfMaxMatch / 3
)

// lzf compresses. It is 32 KiB, to be kept and used again: positions in the
// table are counted on from call to call, so that those of earlier inputs are
// recognised as such and the table need not be cleared.
type lzf struct {
	// table maps the hash of three bytes to base plus the last position at
	// which they stood. Values below base are of earlier inputs.
	table [1 << lzfHashBits]uint32
	base  uint32
}

// lzfHash maps the low three bytes of v to the upper bits that shift leaves.
func lzfHash(v uint32, shift uint) uint32 {
	return v << 8 * 2654435761 >> (shift & 31) & (1<<lzfHashBits - 1)
}

// appendTo appends the compressed form of src to dst, or returns ok false, and
// the bytes of dst as they were, if that needs more than limit bytes.
func (z *lzf) appendTo(dst, src []byte, limit int) (_ []byte, ok bool) {
	if len(src) < 4 || len(src) >= math.MaxUint32/2 || limit <= 0 {
		return dst, false
	}
	if z.base == 0 || uint64(z.base)+uint64(len(src)) > math.MaxUint32 {
		clear(z.table[:])
		z.base = 1
	}
	dst = slices.Grow(dst, limit)
	n := z.compress(dst[len(dst):len(dst)+limit], src)
	z.base += uint32(len(src))
	return dst[:len(dst)+n], n > 0
}

// compress writes the compressed form of src, at least 4 bytes, to out and
// returns its size, 0 if out is too short.
func (z *lzf) compress(out, src []byte) int {
	base := z.base
	// A short input uses a small part of the table, which stays in the
	// processor's nearest cache.
	shift := uint(32 - min(bits.Len(uint(len(src)))+3, lzfHashBits))
	o, lit, misses := 0, 0, 0 // src[lit:i] is not yet written
	for i := 0; i < len(src)-3; {
		v := binary.LittleEndian.Uint32(src[i:])
		slot := &z.table[lzfHash(v, shift)]
		// Of an earlier input, ref is behind i, when seen as unsigned.
		ref := *slot - base
		*slot = base + uint32(i)
		if dist := uint32(i) - ref; ref >= uint32(i) || dist > lzfMaxOffset ||
			(binary.LittleEndian.Uint32(src[ref:])^v)<<8 != 0 {
			// Where nothing repeats, look at fewer and fewer places.
			i += 1 + misses>>4
			misses++
			continue
		}
		misses = 0
		n := matchLen(src, int(ref), i)
		if len(out)-o < literalSize(i-lit)+3 {
			return 0
		}
		o = putLiterals(out, o, src[lit:i])
		off := i - int(ref) - 1
		if n < 9 {
			out[o] = byte((n-2)<<5 | off>>8)
		} else {
			out[o] = byte(7<<5 | off>>8)
			o++
			out[o] = byte(n - 9)
		}
		out[o+1] = byte(off)
		o += 2
		i += n
		lit = i
		// One position inside the match is enough to find the next repetition.
		if i < len(src)-2 {
			w := binary.LittleEndian.Uint32(src[i-1:])
			z.table[lzfHash(w, shift)] = base + uint32(i-1)
		}
	}
	if len(out)-o < literalSize(len(src)-lit) {
		return 0
	}
	return putLiterals(out, o, src[lit:])
}

// matchLen returns how many bytes from i on repeat those from ref on, where the
// first three do.
func matchLen(src []byte, ref, i int) int {
	longest := min(len(src)-i, lzfMaxMatch)
	n := 3
	for ; n <= longest-8; n += 8 {
		x := binary.LittleEndian.Uint64(src[ref+n:]) ^ binary.LittleEndian.Uint64(src[i+n:])
		if x != 0 {
			return n + bits.TrailingZeros64(x)/8
		}
	}
	for n < longest && src[ref+n] == src[i+n] {
		n++
	}
	return n
}

// literalSize returns how many bytes n bytes take that are kept as they are.
func literalSize(n int) int { return n + (n+lzfMaxLiteral-1)/lzfMaxLiteral }

// putLiterals writes lits at out[o:] and returns where they end.
func putLiterals(out []byte, o int, lits []byte) int {
	for len(lits) > 0 {
		n := min(len(lits), lzfMaxLiteral)
		out[o] = byte(n - 1)
		o += 1 + copy(out[o+1:], lits[:n])
		lits = lits[n:]
	}
	return o
}

// lzfDecompress fills dst with what src stands for, and reports whether that is
// well-formed and of exactly that length.
func lzfDecompress(dst, src []byte) bool {
	d, s := 0, 0
	for s < len(src) {
		ctrl := int(src[s])
		s++
		if ctrl < 1<<5 {
			n := ctrl + 1
			if len(src)-s < n || len(dst)-d < n {
				return false
			}
			copy(dst[d:], src[s:s+n])
			s, d = s+n, d+n
			continue
		}
		n := ctrl >> 5
		if n == 7 {
			if s >= len(src) {
				return false
			}
			n += int(src[s])
			s++
		}
		n += 2
		if s >= len(src) {
			return false
		}
		ref := d - (ctrl&0x1F<<8 | int(src[s])) - 1
		s++
		if ref < 0 || len(dst)-d < n {
			return false
		}
		// What a copy has produced doubles what the next one may take.
		for stop := d + n; d < stop; {
			d += copy(dst[d:stop], dst[ref:d])
		}
	}
	return d == len(dst)
}
