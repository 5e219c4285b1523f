// Package format encodes what an array keeps on its members: superblocks, chunk
// headers, tail log records, and the batches of records of the metadata journal
// and its checkpoints. It is pure: bytes in, values out, no file and no clock.
//
//	b = format.AppendSuperblock(nil, &sb)
//	sb, err := format.DecodeSuperblock(b)
//
//	sum := format.PutChunkHeader(area, &h, data)     // then the data
//	h, sum, err := format.ParseChunkHeader(area, chunk)
//	err = format.VerifyBlocks(area, &h, firstBlock, data)
//
//	b, chain := format.AppendMetaHeader(nil, &mh)
//	b, chain = format.AppendBatch(b, &batch, chain)
//	batch, size, chain, err := format.ParseBatch(b, chain)
//
// All numbers are little endian, all checksums CRC32C (Castagnoli). The byte
// diagrams stand in docs/formats/raid.md.
//
// Every decoder takes bytes from a disk that may hold anything: it returns an
// error that wraps ErrShort, ErrMagic, ErrVersion, ErrChecksum or ErrInvalid,
// never panics, and allocates no more than a small multiple of the bytes that
// it was given.
//
// Downsides. A chunk slot of a short stripe takes a whole slot of the column
// (sparse, where the file system has holes). A record cannot be skipped by a
// reader that does not know its kind: a new kind is a new version. A checksum
// of 4 bytes per block misses one damaged block in four thousand million.
package format

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
)

// Version is the version of all structures of this package.
const Version = 1

// Limits. A decoder refuses what exceeds them.
const (
	MaxWidth   = 32       // members of an array
	MaxSpares  = 32       // spares that a superblock names
	MaxPath    = 4096     // bytes of a path, of a file of the array or of a member
	MaxPayload = 64 << 20 // bytes of records in one batch
	MinChunk   = 512      // bytes; a power of two
	MaxChunk   = 4 << 20
)

// What a decoder's error wraps.
var (
	ErrShort    = errors.New("cut short")
	ErrMagic    = errors.New("not of this kind")
	ErrVersion  = errors.New("of another version")
	ErrChecksum = errors.New("checksum does not match")
	ErrInvalid  = errors.New("value out of range")
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	le         = binary.LittleEndian
)

// ID names an array or a member: 16 random bytes. The zero ID names nothing.
type ID [16]byte

// String returns the ID as 32 hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether id names nothing.
func (id ID) IsZero() bool { return id == ID{} }

// ValidChunk reports whether n bytes may be the chunk size of an array.
func ValidChunk(n int) bool { return n >= MinChunk && n <= MaxChunk && n&(n-1) == 0 }

// Checksum returns the CRC32C of b.
func Checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

func bad(what string, err error) error { return fmt.Errorf("%s: %w", what, err) }

// reader takes fields off a slice. After the first failure all further reads
// return zero values, so that a decoder checks err once.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.b = nil
}

// need reports whether n more bytes are there.
func (r *reader) need(n int) bool {
	if r.err != nil {
		return false
	}
	if len(r.b) < n {
		r.fail(ErrShort)
		return false
	}
	return true
}

func (r *reader) u8() uint8 {
	if !r.need(1) {
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) u32() uint32 {
	if !r.need(4) {
		return 0
	}
	v := le.Uint32(r.b)
	r.b = r.b[4:]
	return v
}

func (r *reader) u64() uint64 {
	if !r.need(8) {
		return 0
	}
	v := le.Uint64(r.b)
	r.b = r.b[8:]
	return v
}

func (r *reader) i64() int64 { return int64(r.u64()) }

func (r *reader) id() (id ID) {
	if r.need(len(id)) {
		copy(id[:], r.b)
		r.b = r.b[len(id):]
	}
	return id
}

// str reads a string with a length of two bytes, of at most MaxPath bytes.
func (r *reader) str() string {
	if !r.need(2) {
		return ""
	}
	n := int(le.Uint16(r.b))
	r.b = r.b[2:]
	if n > MaxPath {
		r.fail(ErrInvalid)
		return ""
	}
	if !r.need(n) {
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

// member reads a member slot of one byte.
func (r *reader) member() int {
	m := int(r.u8())
	if m >= MaxWidth {
		r.fail(ErrInvalid)
		return 0
	}
	return m
}

// appendStr appends what str reads. A string that is too long is cut: callers
// refuse such paths before (ValidPath).
func appendStr(b []byte, s string) []byte {
	s = s[:min(len(s), MaxPath)]
	b = le.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// ValidPath reports whether a path fits into a record.
func ValidPath(p string) bool { return len(p) <= MaxPath }

// updateSum adds b to a running checksum.
func updateSum(sum uint32, b []byte) uint32 { return crc32.Update(sum, castagnoli, b) }
