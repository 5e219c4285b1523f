package format

import (
	"fmt"
	"math/bits"
)

// Record is one change of the metadata: one of the types below, by value.
type Record interface {
	kind() kind
	appendTo(b []byte) []byte
}

type kind uint8

const (
	kindCreate      kind = 1
	kindMkdir       kind = 2
	kindRename      kind = 3
	kindRemove      kind = 4
	kindRemoveAll   kind = 5
	kindLink        kind = 6
	kindSeal        kind = 7
	kindRepair      kind = 8
	kindLost        kind = 9
	kindTail        kind = 10
	kindIncarnation kind = 11
	kindReset       kind = 12
	kindScrub       kind = 13
	kindCounters    kind = 14
	kindRebuild     kind = 15
	kindNext        kind = 16
	kindClosed      kind = 17
)

// Name operations. Paths are cleaned and slash separated; "" is the root.
type (
	// Create makes an empty file; one of that name is unlinked first.
	Create struct {
		Path string
		File uint64
		Time int64 // Unix time in ns
	}
	// Mkdir makes a directory and the ones above it.
	Mkdir struct{ Path string }
	// Rename moves a file or directory; what stood at To is unlinked.
	Rename struct{ From, To string }
	// Remove unlinks a file or an empty directory.
	Remove struct{ Path string }
	// RemoveAll unlinks a whole tree.
	RemoveAll struct{ Path string }
	// Link gives a file a second name.
	Link struct{ From, To string }
)

// Chunk is where a chunk of a stripe stands in its member's column, and what its
// header's checksum is.
type Chunk struct {
	Slot uint32
	Sum  uint32
}

// Stripe is what the metadata says of a sealed stripe.
type Stripe struct {
	Gen     uint64
	Length  uint32  // data bytes
	Present uint32  // bitmap by member slot: which chunks were written
	Chunks  []Chunk // by member slot; zero where not present
}

// Has reports whether the member's chunk was written.
func (s *Stripe) Has(member int) bool { return s.Present>>member&1 != 0 }

// Changes of data and of the array.
type (
	// Seal appends stripes to a file, the first being number From.
	Seal struct {
		File    uint64
		From    uint64
		Stripes []Stripe // Invariant: all have the same len(Chunks), at most MaxWidth
	}
	// Repair says that the chunk of a member stands at another slot now (healed), or
	// stands there at last (rebuilt).
	Repair struct {
		File, Stripe uint64
		Member       int
		Slot         uint32
		Gen          uint64
		Sum          uint32
	}
	// Lost says that a chunk is bad and not yet healed: it is present no more.
	Lost struct {
		File, Stripe uint64
		Member       int
	}
	// Tail names the current segment of the tail log and who carries it.
	Tail struct {
		Segment uint64
		Members uint32
	}
	// Incarnation begins an opening of the array: no generation of chunks below it
	// is made any more.
	Incarnation struct{ Number uint32 }
	// Reset says that a member's directory is blank: no chunk is present on it.
	Reset struct{ Member int }
	// Scrub is the state of the scrub, so that it goes on after a restart.
	Scrub struct {
		Running      bool
		File, Stripe uint64 // next to be looked at
		Started      int64  // Unix time in ns
		LastFull     int64  // Unix time in ns at which the last whole pass ended; 0: none
		Bytes        uint64 // verified in this pass
		Chunks       uint64
		Repaired     uint64
		Lost         uint64 // chunks that could not be repaired
	}
	// Counters are the counts of a member since its directory joined.
	Counters struct {
		Member         int
		ReadErrors     uint64
		WriteErrors    uint64
		ChecksumErrors uint64
		Healed         uint64
		LastScrub      int64 // Unix time in ns
	}
	// Rebuild says that a member's chunks are present and verified in all stripes
	// before this one, in order of file id and stripe number.
	Rebuild struct {
		Member       int
		File, Stripe uint64
	}
	// Next says that file ids below File were given out; a checkpoint carries it.
	Next struct{ File uint64 }
	// Closed says that the array was closed in order: it is the last thing that a
	// checkpoint says, and no log follows.
	Closed struct{ Time int64 } // Unix time in ns
)

func (Create) kind() kind      { return kindCreate }
func (Mkdir) kind() kind       { return kindMkdir }
func (Rename) kind() kind      { return kindRename }
func (Remove) kind() kind      { return kindRemove }
func (RemoveAll) kind() kind   { return kindRemoveAll }
func (Link) kind() kind        { return kindLink }
func (Seal) kind() kind        { return kindSeal }
func (Repair) kind() kind      { return kindRepair }
func (Lost) kind() kind        { return kindLost }
func (Tail) kind() kind        { return kindTail }
func (Incarnation) kind() kind { return kindIncarnation }
func (Reset) kind() kind       { return kindReset }
func (Scrub) kind() kind       { return kindScrub }
func (Counters) kind() kind    { return kindCounters }
func (Rebuild) kind() kind     { return kindRebuild }
func (Next) kind() kind        { return kindNext }
func (Closed) kind() kind      { return kindClosed }

func (r Create) appendTo(b []byte) []byte {
	b = appendStr(b, r.Path)
	b = le.AppendUint64(b, r.File)
	return le.AppendUint64(b, uint64(r.Time))
}

func (r Mkdir) appendTo(b []byte) []byte     { return appendStr(b, r.Path) }
func (r Rename) appendTo(b []byte) []byte    { return appendStr(appendStr(b, r.From), r.To) }
func (r Remove) appendTo(b []byte) []byte    { return appendStr(b, r.Path) }
func (r RemoveAll) appendTo(b []byte) []byte { return appendStr(b, r.Path) }
func (r Link) appendTo(b []byte) []byte      { return appendStr(appendStr(b, r.From), r.To) }

func (r Seal) appendTo(b []byte) []byte {
	b = le.AppendUint64(b, r.File)
	b = le.AppendUint64(b, r.From)
	width := 0
	if len(r.Stripes) > 0 {
		width = len(r.Stripes[0].Chunks)
	}
	b = append(b, byte(width))
	b = le.AppendUint32(b, uint32(len(r.Stripes)))
	for i := range r.Stripes {
		s := &r.Stripes[i]
		b = le.AppendUint64(b, s.Gen)
		b = le.AppendUint32(b, s.Length)
		b = le.AppendUint32(b, s.Present)
		for m := s.Present; m != 0; m &= m - 1 {
			c := s.Chunks[bits.TrailingZeros32(m)]
			b = le.AppendUint32(b, c.Slot)
			b = le.AppendUint32(b, c.Sum)
		}
	}
	return b
}

func (r Repair) appendTo(b []byte) []byte {
	b = le.AppendUint64(b, r.File)
	b = le.AppendUint64(b, r.Stripe)
	b = append(b, byte(r.Member))
	b = le.AppendUint32(b, r.Slot)
	b = le.AppendUint64(b, r.Gen)
	return le.AppendUint32(b, r.Sum)
}

func (r Lost) appendTo(b []byte) []byte {
	b = le.AppendUint64(b, r.File)
	b = le.AppendUint64(b, r.Stripe)
	return append(b, byte(r.Member))
}

func (r Tail) appendTo(b []byte) []byte {
	return le.AppendUint32(le.AppendUint64(b, r.Segment), r.Members)
}

func (r Incarnation) appendTo(b []byte) []byte { return le.AppendUint32(b, r.Number) }
func (r Reset) appendTo(b []byte) []byte       { return append(b, byte(r.Member)) }

func (r Scrub) appendTo(b []byte) []byte {
	running := byte(0)
	if r.Running {
		running = 1
	}
	b = append(b, running)
	for _, v := range [...]uint64{r.File, r.Stripe, uint64(r.Started), uint64(r.LastFull), r.Bytes, r.Chunks, r.Repaired, r.Lost} {
		b = le.AppendUint64(b, v)
	}
	return b
}

func (r Counters) appendTo(b []byte) []byte {
	b = append(b, byte(r.Member))
	for _, v := range [...]uint64{r.ReadErrors, r.WriteErrors, r.ChecksumErrors, r.Healed, uint64(r.LastScrub)} {
		b = le.AppendUint64(b, v)
	}
	return b
}

func (r Rebuild) appendTo(b []byte) []byte {
	b = append(b, byte(r.Member))
	return le.AppendUint64(le.AppendUint64(b, r.File), r.Stripe)
}

func (r Next) appendTo(b []byte) []byte   { return le.AppendUint64(b, r.File) }
func (r Closed) appendTo(b []byte) []byte { return le.AppendUint64(b, uint64(r.Time)) }

// AppendRecord appends one record: its kind in one byte, then its fields.
func AppendRecord(b []byte, r Record) []byte { return r.appendTo(append(b, byte(r.kind()))) }

// DecodeRecords decodes the payload of a batch.
func DecodeRecords(b []byte) ([]Record, error) {
	var list []Record
	r := reader{b: b}
	for len(r.b) > 0 {
		rec := r.record()
		if r.err != nil {
			return nil, fmt.Errorf("metadata record %d: %w", len(list), r.err)
		}
		list = append(list, rec)
	}
	return list, nil
}

func (r *reader) record() Record {
	switch k := kind(r.u8()); k {
	case kindCreate:
		return Create{Path: r.str(), File: r.u64(), Time: r.i64()}
	case kindMkdir:
		return Mkdir{Path: r.str()}
	case kindRename:
		return Rename{From: r.str(), To: r.str()}
	case kindRemove:
		return Remove{Path: r.str()}
	case kindRemoveAll:
		return RemoveAll{Path: r.str()}
	case kindLink:
		return Link{From: r.str(), To: r.str()}
	case kindSeal:
		return r.seal()
	case kindRepair:
		return Repair{File: r.u64(), Stripe: r.u64(), Member: r.member(), Slot: r.u32(), Gen: r.u64(), Sum: r.u32()}
	case kindLost:
		return Lost{File: r.u64(), Stripe: r.u64(), Member: r.member()}
	case kindTail:
		return Tail{Segment: r.u64(), Members: r.u32()}
	case kindIncarnation:
		return Incarnation{Number: r.u32()}
	case kindReset:
		return Reset{Member: r.member()}
	case kindScrub:
		return r.scrub()
	case kindCounters:
		return Counters{Member: r.member(), ReadErrors: r.u64(), WriteErrors: r.u64(), ChecksumErrors: r.u64(), Healed: r.u64(), LastScrub: r.i64()}
	case kindRebuild:
		return Rebuild{Member: r.member(), File: r.u64(), Stripe: r.u64()}
	case kindNext:
		return Next{File: r.u64()}
	case kindClosed:
		return Closed{Time: r.i64()}
	default:
		r.fail(ErrInvalid)
		return nil
	}
}

func (r *reader) scrub() Scrub {
	running := r.u8()
	if running > 1 {
		r.fail(ErrInvalid)
	}
	return Scrub{
		Running: running == 1, File: r.u64(), Stripe: r.u64(), Started: r.i64(), LastFull: r.i64(),
		Bytes: r.u64(), Chunks: r.u64(), Repaired: r.u64(), Lost: r.u64(),
	}
}

// seal decodes a Seal. All its chunks share one allocation, made after the bytes
// were found to be there.
func (r *reader) seal() Seal {
	const stripeFixed, chunkSize = 16, 8
	s := Seal{File: r.u64(), From: r.u64()}
	width, n := int(r.u8()), int64(r.u32())
	if r.err == nil && (width > MaxWidth || n*stripeFixed > int64(len(r.b)) || (n > 0) != (width > 0)) {
		r.fail(ErrInvalid)
	}
	if r.err != nil || n == 0 {
		return s
	}
	s.Stripes = make([]Stripe, n)
	chunks := make([]Chunk, int(n)*width)
	for i := range s.Stripes {
		st := &s.Stripes[i]
		st.Gen, st.Length, st.Present = r.u64(), r.u32(), r.u32()
		if st.Present>>width != 0 {
			r.fail(ErrInvalid)
		}
		if !r.need(bits.OnesCount32(st.Present) * chunkSize) {
			return s
		}
		st.Chunks, chunks = chunks[:width:width], chunks[width:]
		for m := st.Present; m != 0; m &= m - 1 {
			st.Chunks[bits.TrailingZeros32(m)] = Chunk{Slot: r.u32(), Sum: r.u32()}
		}
	}
	return s
}
