package listpack

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrCorrupt is what every error of Validate wraps.
var ErrCorrupt = errors.New("corrupt listpack")

// Validate says whether lp, which may come from anywhere, is a listpack. It
// reads the header and the end only, in O(1), unless deep is set: then it
// walks all elements, and if it returns nil no function of this package can
// fail on lp. It does not ask that values are stored in their smallest form,
// and an empty listpack is valid.
func Validate(lp []byte, deep bool) error {
	if len(lp) < headerSize+1 {
		return fmt.Errorf("%w: %d bytes are too few", ErrCorrupt, len(lp))
	}
	if n := binary.LittleEndian.Uint32(lp); uint64(n) != uint64(len(lp)) {
		return fmt.Errorf("%w: the header says %d bytes, there are %d", ErrCorrupt, n, len(lp))
	}
	if lp[len(lp)-1] != end {
		return fmt.Errorf("%w: no end mark", ErrCorrupt)
	}
	if !deep {
		return nil
	}
	count, off := 0, headerSize
	for lp[off] != end {
		next := validEntry(lp, off)
		if next < 0 {
			return fmt.Errorf("%w: bad element %d at offset %d", ErrCorrupt, count, off)
		}
		off = next
		count++
	}
	if off != len(lp)-1 {
		return fmt.Errorf("%w: end mark at offset %d of %d", ErrCorrupt, off, len(lp))
	}
	if n := headerCount(lp); n != lenUnknown && n != count {
		return fmt.Errorf("%w: the header says %d elements, there are %d", ErrCorrupt, n, count)
	}
	return nil
}

// validEntry returns the offset behind the element at off, at most that of the
// last byte; -1 if no whole element stands there.
func validEntry(lp []byte, off int) int {
	b := lp[off]
	if entrySize[b] == 0 {
		need := 2
		if b == enc32BitStr {
			need = 5
		} else if b > enc32BitStr {
			return -1
		}
		if len(lp)-off < need {
			return -1
		}
	}
	n := encodedSize(lp, off)
	next := off + n + backlenSize(n)
	if next > len(lp)-1 || decodeBacklen(lp, next-1) != n {
		return -1
	}
	return next
}
