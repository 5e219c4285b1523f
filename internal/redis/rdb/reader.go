package rdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
)

const (
	// readSize is the read buffer; strings up to this size are handed on as
	// parts of it.
	readSize = 64 << 10
	// growSize is by how much memory for a long string is extended at least:
	// only when that much of it has really arrived.
	growSize = 1 << 20
)

// input is the byte stream of a decoder: it counts, sums, and keeps a copy of
// a stretch when asked to. What it returns aliases its buffer and is valid
// until the next call.
type input struct {
	src io.Reader // nil if buf is all there is
	buf []byte    // buf[r:w] is read and not yet consumed
	r   int
	w   int
	off int64 // offset of buf[0] in the input

	// Summing and copying are done for long stretches at a time, at the latest
	// before the buffer is used again: buf[sumFrom:r] is not yet in crc.
	summing bool
	sumFrom int
	crc     uint64
	taping  bool
	tape    []byte

	progress func(read int64)
}

// pos returns how many bytes were consumed.
func (in *input) pos() int64 { return in.off + int64(in.r) }

// settle takes what was consumed into the sum and the copy.
func (in *input) settle() {
	if in.summing {
		in.crc = CRC64(in.crc, in.buf[in.sumFrom:in.r])
	}
	if in.taping {
		in.tape = append(in.tape, in.buf[in.sumFrom:in.r]...)
	}
	in.sumFrom = in.r
}

// fail returns an *Error at the present place.
func (in *input) fail(err error, format string, args ...any) error {
	return &Error{Offset: in.pos(), Reason: fmt.Sprintf(format, args...), Err: err}
}

func (in *input) shortRead() error {
	return in.fail(ErrShortRead, "Short read or OOM loading DB. Unrecoverable error, aborting now.")
}

// read calls the reader once for at least one byte.
func (in *input) read(p []byte) (int, error) {
	if in.src == nil {
		return 0, in.shortRead()
	}
	for range 100 {
		n, err := in.src.Read(p)
		if n > 0 {
			return n, nil // an error comes again
		}
		if errors.Is(err, io.EOF) {
			return 0, in.shortRead()
		}
		if err != nil {
			return 0, fmt.Errorf("read RDB at offset %d: %w", in.off+int64(in.w), err)
		}
	}
	return 0, fmt.Errorf("read RDB at offset %d: %w", in.off+int64(in.w), io.ErrNoProgress)
}

// need makes sure that n bytes, at most the size of the buffer, can be taken.
func (in *input) need(n int) error {
	if in.w-in.r >= n {
		return nil
	}
	return in.fill(n)
}

func (in *input) fill(n int) error {
	if in.src == nil {
		in.r = in.w
		return in.shortRead()
	}
	in.settle()
	copy(in.buf, in.buf[in.r:in.w])
	in.off += int64(in.r)
	in.w -= in.r
	in.r, in.sumFrom = 0, 0
	for in.w < n {
		m, err := in.read(in.buf[in.w:])
		if err != nil {
			return err
		}
		in.w += m
	}
	if in.progress != nil {
		in.progress(in.off + int64(in.w))
	}
	return nil
}

func (in *input) byte() (byte, error) {
	if in.r == in.w {
		if err := in.fill(1); err != nil {
			return 0, err
		}
	}
	b := in.buf[in.r]
	in.r++
	return b, nil
}

// take returns the next n bytes, at most the size of the buffer.
func (in *input) take(n int) ([]byte, error) {
	if err := in.need(n); err != nil {
		return nil, err
	}
	b := in.buf[in.r : in.r+n : in.r+n]
	in.r += n
	return b, nil
}

// takeInto returns the next n bytes, which are in the buffer if they fit, or
// else in *long, whose memory grows only as bytes arrive.
func (in *input) takeInto(long *[]byte, n uint64) ([]byte, error) {
	if n <= uint64(len(in.buf)) {
		return in.take(int(n))
	}
	if in.src == nil || n > maxInt-growSize {
		return nil, in.shortRead()
	}
	in.settle()
	s := append((*long)[:0], in.buf[in.r:in.w]...)
	in.r = in.w
	in.settle()
	for uint64(len(s)) < n {
		from := len(s)
		if cap(s) == from {
			s = slices.Grow(s, min(max(growSize, from), int(n)-from))
		}
		m, err := in.read(s[from:min(cap(s), from+growSize, int(n))])
		if err != nil {
			return nil, err
		}
		s = s[:from+m]
		in.off += int64(m)
		if in.summing {
			in.crc = CRC64(in.crc, s[from:])
		}
		if in.taping {
			in.tape = append(in.tape, s[from:]...)
		}
		if in.progress != nil {
			in.progress(in.pos())
		}
	}
	*long = s
	return s, nil
}

// length reads a length; enc is true if it is instead the kind of an encoded
// string (the low 6 bits of its first byte).
func (in *input) length() (n uint64, enc bool, err error) {
	b, err := in.byte()
	if err != nil {
		return 0, false, err
	}
	switch b & 0xC0 {
	case 0:
		return uint64(b), false, nil
	case len14Bit:
		c, err := in.byte()
		return uint64(b&0x3F)<<8 | uint64(c), false, err
	case 0xC0:
		return uint64(b & 0x3F), true, nil
	}
	switch b {
	case len32Bit:
		p, err := in.take(4)
		if err != nil {
			return 0, false, err
		}
		return uint64(binary.BigEndian.Uint32(p)), false, nil
	case len64Bit:
		p, err := in.take(8)
		if err != nil {
			return 0, false, err
		}
		return binary.BigEndian.Uint64(p), false, nil
	}
	return 0, false, in.fail(ErrCorrupt, "Unknown length encoding %d in rdbLoadLen()", b)
}

// count reads a length that is not an encoded string.
func (in *input) count() (uint64, error) {
	n, enc, err := in.length()
	if err == nil && enc {
		err = in.fail(ErrCorrupt, "an encoded string stands in the place of a length")
	}
	return n, err
}

// scratch is memory for one string that is not, or may not stay, in the buffer.
type scratch struct {
	own    []byte
	packed []byte
}

// release gives back what a very long string took.
func (s *scratch) release() {
	if cap(s.own) > keepSize {
		s.own = nil
	}
	if cap(s.packed) > keepSize {
		s.packed = nil
	}
}

// str reads a string. It is valid until the next reading, or, if keep is set,
// until s is used again. (A payload's buffer stays, and so do parts of it.)
func (in *input) str(s *scratch, keep bool) ([]byte, error) {
	n, enc, err := in.length()
	if err != nil {
		return nil, err
	}
	if enc {
		return in.encodedStr(s, n)
	}
	b, err := in.takeInto(&s.own, n)
	if err == nil && keep && in.src != nil && n <= uint64(len(in.buf)) {
		s.own = append(s.own[:0], b...)
		b = s.own
	}
	return b, err
}

// encodedStr reads what follows the first byte of an encoded string, into s.own.
func (in *input) encodedStr(s *scratch, enc uint64) ([]byte, error) {
	var v int64
	switch enc {
	case encInt8 & 0x3F:
		p, err := in.take(1)
		if err != nil {
			return nil, err
		}
		v = int64(int8(p[0]))
	case encInt16 & 0x3F:
		p, err := in.take(2)
		if err != nil {
			return nil, err
		}
		v = int64(int16(binary.LittleEndian.Uint16(p)))
	case encInt32 & 0x3F:
		p, err := in.take(4)
		if err != nil {
			return nil, err
		}
		v = int64(int32(binary.LittleEndian.Uint32(p)))
	case encLZF & 0x3F:
		return in.lzfStr(s)
	default:
		return nil, in.fail(ErrCorrupt, "Unknown RDB string encoding type %d", enc)
	}
	s.own = strconv.AppendInt(s.own[:0], v, 10)
	return s.own, nil
}

func (in *input) lzfStr(s *scratch) ([]byte, error) {
	packed, err := in.count()
	if err != nil {
		return nil, err
	}
	n, err := in.count()
	if err != nil {
		return nil, err
	}
	p, err := in.takeInto(&s.packed, packed)
	if err != nil {
		return nil, err
	}
	// The compressed bytes are here, so that their number bounds the result.
	if n > uint64(len(p))*lzfMaxRatio {
		return nil, in.fail(ErrCorrupt, "Invalid LZF compressed string")
	}
	s.own = slices.Grow(s.own[:0], int(n))[:n]
	if !lzfDecompress(s.own, p) {
		return nil, in.fail(ErrCorrupt, "Invalid LZF compressed string")
	}
	return s.own, nil
}
