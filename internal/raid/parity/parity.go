// Package parity computes what a stripe keeps beside its data: copies at level 1,
// P at levels 4 and 5, P and Q at level 6. It is pure: bytes in, bytes out.
//
//	c, err := parity.New(6, 6)
//	err = c.Encode(shards)                    // data in shards[:4], P and Q are filled
//	err = c.Reconstruct(shards, have, want)   // any two of the six
//	ok, err := c.Verify(shards)
//
// P is the exclusive or of the data, Q the sum of 2^i times data i over GF(2^8)
// with the polynomial 0x11d: the code of Linux md. The arithmetic is that of
// github.com/klauspost/reedsolomon.
//
// Shards are in order of the index of package layout. A data shard may be shorter
// than the parity, or nil: it counts as if zeros followed. Every call may be made
// with the same byte range of all shards instead of whole chunks: the codes work
// byte by byte.
//
// A Code is safe for concurrent use. Encode and Verify allocate nothing of their
// own; the library makes one small allocation (24 to 800 bytes, by processor) for
// every piece of at most 32 KiB per shard, or for a whole full stripe.
package parity

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"sync"

	"github.com/klauspost/reedsolomon"

	"holdfast/internal/raid/layout"
)

// ErrTooFew says that more shards are missing than the level can bring back.
var ErrTooFew = errors.New("too few shards to reconstruct from")

// Code encodes the stripes of one geometry.
type Code struct {
	level, data, parity int
	rs                  reedsolomon.Encoder // nil at levels 0 and 1
	pool                sync.Pool           // of *scratch
}

// pieceSize bounds how many bytes are worked on at once when shards differ in
// length or when a stripe is verified, so that zeros and scratch parity stay in
// the cache.
const pieceSize = 32 << 10

var zeros [pieceSize]byte

// scratch is what a call needs beside its arguments.
type scratch struct {
	shards [layout.MaxWidth][]byte
	need   [layout.MaxWidth]bool
	out    [2][]byte // parity to compare with
}

// New returns the code of a geometry that layout.New accepts.
func New(level, width int) (*Code, error) {
	g, err := layout.New(level, width)
	if err != nil {
		return nil, err
	}
	c := &Code{level: level, data: g.Data(), parity: g.Parity()}
	if level >= 4 {
		// One goroutine: a chunk is small, and many stripes are worked on at once.
		opts := []reedsolomon.Option{reedsolomon.WithCustomMatrix(matrix(c.data)), reedsolomon.WithMaxGoroutines(1)}
		if c.rs, err = reedsolomon.New(c.data, c.parity, opts...); err != nil {
			return nil, fmt.Errorf("parity for %d data chunks: %w", c.data, err)
		}
	}
	c.pool.New = func() any { return new(scratch) }
	return c, nil
}

// matrix returns the rows of P and Q. Any two columns of them are independent,
// because the powers of 2 below 2^255 differ, so any two shards can be lost.
func matrix(data int) [][]byte {
	p, q := make([]byte, data), make([]byte, data)
	x := 1
	for i := range p {
		p[i], q[i] = 1, byte(x)
		if x <<= 1; x > 0xff {
			x ^= 0x11d
		}
	}
	return [][]byte{p, q}
}

// Data returns the number of data shards.
func (c *Code) Data() int { return c.data }

// Parity returns the number of parity shards, or copies beside the first.
func (c *Code) Parity() int { return c.parity }

func (c *Code) get() *scratch { return c.pool.Get().(*scratch) }

// put gives the scratch back without what belongs to the caller.
func (c *Code) put(s *scratch) {
	clear(s.shards[:])
	c.pool.Put(s)
}

// check returns the length of the parity, or an error: wrong number of shards, or
// data longer than the parity.
func (c *Code) check(shards [][]byte) (int, error) {
	if len(shards) != c.data+c.parity {
		return 0, fmt.Errorf("%d shards instead of %d", len(shards), c.data+c.parity)
	}
	if c.parity == 0 {
		return 0, nil
	}
	n := len(shards[c.data])
	for i, s := range shards {
		if len(s) > n || i >= c.data && len(s) != n {
			return 0, fmt.Errorf("shard %d has %d bytes, the parity %d", i, len(s), n)
		}
	}
	return n, nil
}

func (c *Code) equal(shards [][]byte, n int) bool {
	for _, s := range shards {
		if len(s) != n {
			return false
		}
	}
	return true
}

// Encode fills the parity shards from the data shards. The parity shards must
// have the length of the longest data shard or more.
func (c *Code) Encode(shards [][]byte) error {
	n, err := c.check(shards)
	if err != nil || n == 0 {
		return err
	}
	if c.rs == nil {
		for _, dst := range shards[1:] {
			clear(dst[copy(dst, shards[0]):])
		}
		return nil
	}
	if c.equal(shards, n) {
		return c.rs.Encode(shards)
	}
	s := c.get()
	defer c.put(s)
	for at := 0; at < n; {
		end := pieceEnd(shards, at, n)
		for i := range shards {
			s.shards[i] = piece(shards[i], at, end)
		}
		if err := c.rs.Encode(s.shards[:len(shards)]); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// pieceEnd returns where the piece that begins at at ends: no shard ends within
// it, and it is at most pieceSize long.
func pieceEnd(shards [][]byte, at, n int) int {
	end := min(n, at+pieceSize)
	for _, s := range shards {
		if len(s) > at && len(s) < end {
			end = len(s)
		}
	}
	return end
}

// piece returns the range of a shard, or zeros if it ends before.
func piece(s []byte, at, end int) []byte {
	if len(s) <= at {
		return zeros[:end-at]
	}
	return s[at:end]
}

// Verify reports whether the parity shards, or copies, belong to the data shards.
// All must be there; data may be shorter.
func (c *Code) Verify(shards [][]byte) (bool, error) {
	n, err := c.check(shards)
	if err != nil || n == 0 {
		return err == nil, err
	}
	if c.rs == nil {
		for _, dst := range shards[1:] {
			if m := len(shards[0]); !bytes.Equal(dst[:m], shards[0]) || !isZero(dst[m:]) {
				return false, nil
			}
		}
		return true, nil
	}
	s := c.get()
	defer c.put(s)
	for at := 0; at < n; {
		end := pieceEnd(shards, at, n)
		for i := range c.data {
			s.shards[i] = piece(shards[i], at, end)
		}
		for i := range c.parity {
			if s.out[i] == nil {
				s.out[i] = make([]byte, pieceSize)
			}
			s.shards[c.data+i] = s.out[i][:end-at]
		}
		if err := c.rs.Encode(s.shards[:len(shards)]); err != nil {
			return false, err
		}
		for i := range c.parity {
			if !bytes.Equal(s.shards[c.data+i], shards[c.data+i][at:end]) {
				return false, nil
			}
		}
		at = end
	}
	return true, nil
}

func isZero(b []byte) bool {
	for len(b) > len(zeros) {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
		b = b[len(zeros):]
	}
	return bytes.Equal(b, zeros[:len(b)])
}

// Reconstruct fills the shards whose bits are set in want from those whose bits
// are set in have; the others are not looked at. A shard in have that is shorter
// than the longest counts as followed by zeros; one in want is filled as far as
// it is long. ErrTooFew: have does not suffice.
func (c *Code) Reconstruct(shards [][]byte, have, want uint32) error {
	if len(shards) != c.data+c.parity {
		return fmt.Errorf("%d shards instead of %d", len(shards), c.data+c.parity)
	}
	all := uint32(uint64(1)<<len(shards) - 1)
	have &= all
	want &= all &^ have
	if want == 0 {
		return nil
	}
	if c.parity == 0 || bits.OnesCount32(have) < c.data {
		return ErrTooFew
	}
	if c.level == 1 {
		return c.copyFrom(shards, have, want)
	}
	s := c.get()
	defer c.put(s)
	n := 0
	for i, sh := range shards {
		if want>>i&1 != 0 {
			n = max(n, len(sh))
		}
	}
	for at := 0; at < n; {
		end := min(n, at+pieceSize)
		for i, sh := range shards {
			if (have|want)>>i&1 != 0 && len(sh) > at && len(sh) < end {
				end = len(sh)
			}
		}
		if err := c.reconstructPiece(s, shards, have, want, at, end); err != nil {
			return err
		}
		at = end
	}
	return nil
}

func (c *Code) copyFrom(shards [][]byte, have, want uint32) error {
	src := shards[bits.TrailingZeros32(have)]
	for i, dst := range shards {
		if want>>i&1 != 0 {
			clear(dst[copy(dst, src):])
		}
	}
	return nil
}

// reconstructPiece works on the range [at, end) of all shards, within which none
// ends.
func (c *Code) reconstructPiece(s *scratch, shards [][]byte, have, want uint32, at, end int) error {
	for i, sh := range shards {
		s.need[i] = false
		switch {
		case have>>i&1 != 0:
			s.shards[i] = piece(sh, at, end)
		case want>>i&1 != 0 && len(sh) > at:
			s.shards[i] = sh[at:at:end] // empty, with room: missing to the library, and filled in place
			s.need[i] = true
		default:
			s.shards[i] = nil
		}
	}
	if c.parity == 1 {
		return c.xorMissing(s, shards, have, at, end)
	}
	return c.rs.ReconstructSome(s.shards[:len(shards)], s.need[:len(shards)])
}

// xorMissing fills the one missing shard at levels 4 and 5: it is the exclusive or
// of the others, so that they are encoded as if it was the parity.
func (c *Code) xorMissing(s *scratch, shards [][]byte, have uint32, at, end int) error {
	n := len(shards)
	missing := bits.TrailingZeros32(^have)
	if missing >= n || !s.need[missing] {
		return nil
	}
	s.shards[missing], s.shards[n-1] = s.shards[n-1], shards[missing][at:end]
	return c.rs.Encode(s.shards[:n])
}
