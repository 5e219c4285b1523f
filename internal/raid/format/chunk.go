package format

import "fmt"

// BlockSize is the number of data bytes that one entry of a chunk's checksum
// table covers.
const BlockSize = 4096

// ChunkHeader says what the chunk behind it is. It names itself: a chunk that was
// written to the wrong place, or not written at all over an older one, shows.
// It does not name its column slot, so that a chunk that was rewritten elsewhere
// has the same checksum.
type ChunkHeader struct {
	Array        ID
	Member       int    // member slot
	Index        int    // 0…D-1: data; D…D+P-1: parity, or copy at level 1
	File         uint64 // id of the array file
	Stripe       uint64 // number within the file
	Offset       uint64 // of the stripe's first byte within the file
	Gen          uint64 // incarnation << 32 | counter
	Length       int    // data bytes in this chunk, 1…chunk
	StripeLength int    // data bytes in the whole stripe
}

const (
	chunkMagic = 0x4b4e4843 // "CHNK", little endian
	chunkFixed = 80         // header without the table; its last 4 bytes are the checksum
)

// Gen composes a generation.
func Gen(incarnation, counter uint32) uint64 { return uint64(incarnation)<<32 | uint64(counter) }

// GenIncarnation returns the incarnation in which gen was made.
func GenIncarnation(gen uint64) uint32 { return uint32(gen >> 32) }

func blocksOf(length int) int { return (length + BlockSize - 1) / BlockSize }

// HeaderArea returns the bytes in front of a chunk's data for arrays with the
// given chunk size: fixed header and table, rounded up to 512.
func HeaderArea(chunk int) int { return (chunkFixed + 4*blocksOf(chunk) + 511) &^ 511 }

// SlotSize returns the bytes of one slot of a column: header area and chunk.
func SlotSize(chunk int) int { return HeaderArea(chunk) + chunk }

// SlotOffset returns where a slot of a column begins.
func SlotOffset(slot uint32, chunk int) int64 { return int64(slot) * int64(SlotSize(chunk)) }

// PutChunkHeader fills area, which must be HeaderArea(chunk) bytes long, for the
// chunk with this data, and returns the chunk's checksum, which the stripe
// record keeps. It sets h.Length to len(data). It does not allocate.
func PutChunkHeader(area []byte, h *ChunkHeader, data []byte) uint32 {
	h.Length = len(data)
	clear(area)
	le.PutUint32(area, chunkMagic)
	area[4], area[5], area[6] = Version, byte(h.Member), byte(h.Index)
	copy(area[8:], h.Array[:])
	le.PutUint64(area[24:], h.File)
	le.PutUint64(area[32:], h.Stripe)
	le.PutUint64(area[40:], h.Offset)
	le.PutUint64(area[48:], h.Gen)
	le.PutUint32(area[56:], uint32(h.Length))
	le.PutUint32(area[60:], uint32(h.StripeLength))
	t := area[chunkFixed:]
	for len(data) > 0 {
		n := min(len(data), BlockSize)
		le.PutUint32(t, Checksum(data[:n]))
		t, data = t[4:], data[n:]
	}
	sum := headerSum(area, h.Length)
	le.PutUint32(area[chunkFixed-4:], sum)
	return sum
}

// headerSum is the checksum of identity and table.
func headerSum(area []byte, length int) uint32 {
	sum := Checksum(area[:chunkFixed-4])
	return updateSum(sum, area[chunkFixed:chunkFixed+4*blocksOf(length)])
}

// ParseChunkHeader decodes the header area of a slot in an array with the given
// chunk size and verifies header and table.
func ParseChunkHeader(area []byte, chunk int) (h ChunkHeader, sum uint32, err error) {
	const what = "chunk header"
	if len(area) < HeaderArea(chunk) {
		return h, 0, bad(what, ErrShort)
	}
	if le.Uint32(area) != chunkMagic {
		return h, 0, bad(what, ErrMagic)
	}
	length := le.Uint32(area[56:])
	if length == 0 || int64(length) > int64(chunk) {
		return h, 0, bad(what, ErrInvalid)
	}
	sum = le.Uint32(area[chunkFixed-4:])
	if headerSum(area, int(length)) != sum {
		return h, 0, bad(what, ErrChecksum)
	}
	if area[4] != Version {
		return h, 0, bad(what, ErrVersion)
	}
	h = ChunkHeader{
		Member: int(area[5]), Index: int(area[6]), Array: ID(area[8:24]),
		File: le.Uint64(area[24:]), Stripe: le.Uint64(area[32:]), Offset: le.Uint64(area[40:]),
		Gen: le.Uint64(area[48:]), Length: int(length), StripeLength: int(le.Uint32(area[60:])),
	}
	if h.Member >= MaxWidth || h.Index >= MaxWidth || h.StripeLength < 1 || h.StripeLength > chunk*MaxWidth {
		return h, 0, bad(what, ErrInvalid)
	}
	return h, sum, nil
}

// VerifyBlocks compares data, which begins at block number first of the chunk and
// ends at a block's end or the chunk's, with the table in area. The area must have
// been parsed. The error names the first bad block.
func VerifyBlocks(area []byte, h *ChunkHeader, first int, data []byte) error {
	if first < 0 || first*BlockSize+len(data) > h.Length {
		return bad("chunk data", ErrInvalid)
	}
	for i := first; len(data) > 0; i++ {
		n := min(len(data), BlockSize)
		if n < BlockSize && i*BlockSize+n != h.Length {
			return bad("chunk data", ErrShort)
		}
		if Checksum(data[:n]) != le.Uint32(area[chunkFixed+4*i:]) {
			return fmt.Errorf("chunk block %d: %w", i, ErrChecksum)
		}
		data = data[n:]
	}
	return nil
}

// ChunkSum returns the checksum that the chunk h with this data has, without
// writing a header anywhere: what a reconstructed chunk is compared with. The
// scratch area must be HeaderArea(chunk) bytes long; it is overwritten.
func ChunkSum(scratch []byte, h ChunkHeader, data []byte) uint32 {
	return PutChunkHeader(scratch, &h, data)
}
