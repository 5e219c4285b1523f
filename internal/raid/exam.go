package raid

import (
	"errors"
	"fmt"
	"io"
	"math/bits"

	"holdfast/internal/raid/format"
	"holdfast/internal/raid/layout"
	"holdfast/internal/raid/parity"
)

// What is wrong with a chunk that the stripe record says is there.
var (
	errChunkGone   = errors.New("is not there")            // no column, or it is too short
	errChunkStale  = errors.New("is not the one sealed")   // another chunk, an older one, or none
	errChunkDamage = errors.New("is damaged")              // header, table or a block
	errChunkRead   = errors.New("cannot be read")          // the disk says so
	errParity      = errors.New("does not fit the others") // whole by its checksum, and yet wrong
)

// readColumn reads len(b) bytes at off of the column that a member keeps of a
// file. Less is an error.
type readColumn func(member int, file uint64, off int64, b []byte) error

// examiner reads whole stripes, compares every byte with the seal, and computes
// what is missing. It keeps buffers for one stripe, so it is not for concurrent
// use. Scrub, rebuild and check look at stripes through it.
type examiner struct {
	array format.ID
	geo   layout.Geometry
	code  *parity.Code
	chunk int
	read  readColumn
	each  func(members uint32, fn func(member int)) // calls fn for each of them, maybe at the same time

	slots [][]byte // by index: header area and chunk
	data  [][]byte // by index, as package parity takes them
	want  []byte   // chunk-sized, for parity that is compared
}

// chunkFault is a chunk that is not as its stripe record says.
type chunkFault struct {
	member int
	index  int
	err    error // wraps one of the errors above
}

// exam is what examine found in one stripe. It is valid until the next one.
type exam struct {
	file, stripe uint64
	offset       int64 // of the stripe in its file
	rec          format.Stripe
	good         uint32 // by index: whole and as sealed, or not written because the stripe is short
	faults       []chunkFault
	absent       uint32 // by member: the record has no chunk, and it should
	bytes        int64  // read from members, headers included
}

func newExaminer(array format.ID, geo layout.Geometry, code *parity.Code, chunk int, read readColumn) *examiner {
	x := &examiner{array: array, geo: geo, code: code, chunk: chunk, read: read, each: inOrder}
	x.slots, x.data = make([][]byte, geo.Width()), make([][]byte, geo.Width())
	for i := range x.slots {
		x.slots[i] = make([]byte, format.SlotSize(chunk))
	}
	return x
}

func inOrder(members uint32, fn func(int)) {
	for m := range slots(members) {
		fn(m)
	}
}

func (x *examiner) length(e *exam, index int) int {
	return x.geo.ChunkLength(index, int(e.rec.Length), x.chunk)
}

func (x *examiner) member(e *exam, index int) int {
	return x.geo.Member(e.stripe, index)
}

// identity is what the header of a chunk of the stripe must say.
func (x *examiner) identity(e *exam, index int) format.ChunkHeader {
	return format.ChunkHeader{
		Array: x.array, Member: x.member(e, index), Index: index, File: e.file, Stripe: e.stripe,
		Offset: uint64(e.offset), Gen: e.rec.Gen, Length: x.length(e, index), StripeLength: int(e.rec.Length),
	}
}

// examine reads the chunks that the record lists on the members in ask, those of
// several members at the same time, and compares them with it. Chunks on other
// members count as neither good nor bad.
func (x *examiner) examine(file, stripe uint64, offset int64, rec *format.Stripe, ask uint32) *exam {
	e := &exam{file: file, stripe: stripe, offset: offset, rec: *rec}
	area := format.HeaderArea(x.chunk)
	var reading uint32
	for index := range x.geo.Width() {
		n := x.length(e, index)
		m := x.member(e, index)
		x.data[index] = nil
		switch {
		case n == 0:
			e.good |= 1 << index
		case !rec.Has(m):
			e.absent |= 1 << m
		case ask>>m&1 != 0:
			reading |= 1 << m
			e.bytes += int64(area + n)
		}
	}
	var errs [format.MaxWidth]error // by member
	x.each(reading, func(m int) {
		index := x.geo.Index(stripe, m)
		errs[m] = x.readChunk(e, index, m, x.slots[index][:area+x.length(e, index)])
	})
	for index := range x.geo.Width() {
		m := x.member(e, index)
		switch {
		case reading>>m&1 == 0:
		case errs[m] != nil:
			e.faults = append(e.faults, chunkFault{m, index, errs[m]})
		default:
			x.data[index] = x.slots[index][area : area+x.length(e, index)]
			e.good |= 1 << index
		}
	}
	return e
}

// readChunk fills b with header area and data of a chunk and verifies all of it.
func (x *examiner) readChunk(e *exam, index, member int, b []byte) error {
	c := e.rec.Chunks[member]
	if err := x.read(member, e.file, format.SlotOffset(c.Slot, x.chunk), b); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || notExist(err) {
			return fmt.Errorf("%w (%w)", errChunkGone, err)
		}
		return fmt.Errorf("%w: %w", errChunkRead, err)
	}
	area, data := b[:format.HeaderArea(x.chunk)], b[format.HeaderArea(x.chunk):]
	h, sum, err := format.ParseChunkHeader(area, x.chunk)
	switch {
	case errors.Is(err, format.ErrMagic):
		return fmt.Errorf("%w: no chunk stands in slot %d", errChunkStale, c.Slot)
	case err != nil:
		return fmt.Errorf("%w: %w", errChunkDamage, err)
	case h != x.identity(e, index):
		return fmt.Errorf("%w: slot %d holds chunk %d of stripe %d of file %d, generation %x, instead of generation %x",
			errChunkStale, c.Slot, h.Index, h.Stripe, h.File, h.Gen, e.rec.Gen)
	case sum != c.Sum:
		return fmt.Errorf("%w: checksum %08x, sealed as %08x", errChunkStale, sum, c.Sum)
	}
	if err := format.VerifyBlocks(area, &h, 0, data); err != nil {
		return fmt.Errorf("%w: %w", errChunkDamage, err)
	}
	return nil
}

// whole reports whether all chunks of the stripe were read and are good.
func (x *examiner) whole(e *exam) bool { return e.good == x.geo.All() }

// enough reports whether the good chunks give all data.
func (x *examiner) enough(e *exam) bool { return bits.OnesCount32(e.good) >= x.geo.Data() }

// verifyParity compares parity and copies with the data. It must be called only
// for a stripe that is whole. Each chunk that does not fit becomes a fault: data is
// believed, because a wrong parity can be computed anew and wrong data cannot.
func (x *examiner) verifyParity(e *exam) error {
	if x.geo.Parity() == 0 {
		return nil
	}
	ok, err := x.code.Verify(x.data)
	if err != nil || ok {
		return err
	}
	for index := x.geo.Data(); index < x.geo.Width(); index++ {
		stored := x.data[index]
		x.want = append(x.want[:0], stored...)
		x.data[index] = x.want
		err := x.code.Reconstruct(x.data, uint32(1)<<x.geo.Data()-1, 1<<index)
		x.data[index] = stored
		if err != nil {
			return err
		}
		if string(x.want) != string(stored) {
			e.faults = append(e.faults, chunkFault{x.member(e, index), index, fmt.Errorf("parity chunk %w", errParity)})
			e.good &^= 1 << index
			x.data[index] = nil
		}
	}
	return nil
}

// restore computes the chunk with this index from the good ones and returns header
// area and data, in one slice that is valid until the next examine, and its
// checksum. Where the record has a checksum for it that it must have, another one
// is an error: sources that verified and a result that does not are a bug or a
// broken seal, and nothing is written from them.
func (x *examiner) restore(e *exam, index int) ([]byte, uint32, error) {
	area := format.HeaderArea(x.chunk)
	n := x.length(e, index)
	b := x.slots[index][:area+n]
	data := b[area:]
	x.data[index] = data
	err := x.code.Reconstruct(x.data, e.good, 1<<index)
	x.data[index] = nil
	if err != nil {
		return nil, 0, err
	}
	h := x.identity(e, index)
	sum := format.PutChunkHeader(b[:area], &h, data)
	m := h.Member
	if e.rec.Has(m) && !x.misfit(e, index) && sum != e.rec.Chunks[m].Sum {
		return nil, 0, fmt.Errorf("chunk %d of stripe %d was reconstructed with checksum %08x and sealed as %08x", index, e.stripe, sum, e.rec.Chunks[m].Sum)
	}
	x.data[index] = data
	e.good |= 1 << index
	return b, sum, nil
}

// misfit reports whether the chunk was found to be a parity that does not fit.
func (x *examiner) misfit(e *exam, index int) bool {
	for _, f := range e.faults {
		if f.index == index {
			return errors.Is(f.err, errParity)
		}
	}
	return false
}

// drop takes back a chunk from those that are good.
func (x *examiner) drop(e *exam, index int) {
	x.data[index] = nil
	e.good &^= 1 << index
}

// goodMembers returns the members whose chunk of the stripe is good, or not written
// because the stripe is short.
func (x *examiner) goodMembers(e *exam) (set uint32) {
	for index := range slots(e.good) {
		set |= 1 << x.member(e, index)
	}
	return set
}
