package format

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	arrayID  = ID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	memberID = ID{0xff, 1}
)

func sampleSuperblock() *Superblock {
	return &Superblock{
		Array: arrayID, Member: memberID, Slot: 1, Level: 5, Chunk: 65536, Count: 7, Nonce: 0xdeadbeef,
		Created: 1700000000000000000,
		Members: []Member{
			{ID: ID{1}, State: StateLive, Path: "/mnt/d1"}, {ID: memberID, State: StateRebuilding, Path: "/mnt/d2"},
			{ID: ID{3}, State: StateOut, Path: ""},
		},
		Spares: []Member{{ID: ID{9}, State: StateSpare, Path: "/mnt/spare"}},
		Past:   []Claim{{Count: 6, Nonce: 1}, {Count: 5, Nonce: 2}},
	}
}

func sampleRecords() []Record {
	return []Record{
		Create{Path: "a/b", File: 7, Time: 5}, Mkdir{Path: "a"}, Rename{From: "x", To: "y"}, Remove{Path: "z"},
		RemoveAll{Path: ""}, Link{From: "l", To: "m"},
		Seal{File: 7, From: 3, Stripes: []Stripe{
			{Gen: Gen(2, 9), Length: 1536, Present: 0b101, Chunks: []Chunk{{Slot: 1, Sum: 2}, {}, {Slot: 3, Sum: 4}}},
			{Gen: Gen(2, 10), Length: 1, Present: 0, Chunks: make([]Chunk, 3)},
		}},
		Seal{File: 8, From: 0},
		Repair{File: 7, Stripe: 3, Member: 31, Slot: 9, Gen: 77, Sum: 0xffffffff}, Lost{File: 7, Stripe: 4, Member: 2},
		Tail{Segment: 5, Members: 0b11}, Incarnation{Number: 4}, Reset{Member: 1},
		Scrub{Running: true, File: 1, Stripe: 2, Started: 3, LastFull: 4, Bytes: 5, Chunks: 6, Repaired: 7, Lost: 8},
		Counters{Member: 3, ReadErrors: 1, WriteErrors: 2, ChecksumErrors: 3, Healed: 4, LastScrub: 5},
		Rebuild{Member: 2, File: 9, Stripe: 10}, Next{File: 12}, Closed{Time: 13},
	}
}

// TestSuperblockRoundTrip: what was encoded is decoded, bytes behind it do not
// matter, and the size is a multiple of 4096 within the limit.
func TestSuperblockRoundTrip(t *testing.T) {
	big := sampleSuperblock()
	big.Slot = -1
	for range MaxWidth - len(big.Members) {
		big.Members = append(big.Members, Member{ID: ID{8}, State: StateLive, Path: strings.Repeat("p", MaxPath)})
	}
	for range MaxSpares - len(big.Spares) {
		big.Spares = append(big.Spares, Member{ID: ID{8}, State: StateSpare, Path: strings.Repeat("q", MaxPath)})
	}
	for _, s := range []*Superblock{sampleSuperblock(), big} {
		b := AppendSuperblock([]byte("before"), s)[6:]
		if len(b)%4096 != 0 || len(b) > MaxSuperblock {
			t.Fatalf("%d bytes", len(b))
		}
		got, err := DecodeSuperblock(append(b, "behind"...))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(s, got); d != "" {
			t.Fatal(d)
		}
	}
}

// TestEveryBitOfASuperblockCounts: no flip goes unnoticed before the padding.
func TestEveryBitOfASuperblockCounts(t *testing.T) {
	b := AppendSuperblock(nil, sampleSuperblock())
	n := int(le.Uint32(b[12:]))
	for i := range n * 8 {
		b[i/8] ^= 1 << (i % 8)
		if _, err := DecodeSuperblock(b); err == nil {
			t.Fatalf("flipped bit %d of byte %d is not noticed", i%8, i/8)
		}
		b[i/8] ^= 1 << (i % 8)
	}
	for i := range n {
		if _, err := DecodeSuperblock(b[:i]); err == nil {
			t.Fatalf("cut to %d of %d bytes, and not noticed", i, n)
		}
	}
}

// TestSuperblockOfALaterVersion is refused as that, not as damage.
func TestSuperblockOfALaterVersion(t *testing.T) {
	b := AppendSuperblock(nil, sampleSuperblock())
	le.PutUint32(b[8:], Version+1)
	n := le.Uint32(b[12:])
	le.PutUint32(b[n-4:], Checksum(b[:n-4]))
	if _, err := DecodeSuperblock(b); !errors.Is(err, ErrVersion) {
		t.Errorf("%v", err)
	}
}

func sampleChunk(chunk, length int) (ChunkHeader, []byte) {
	data := make([]byte, length)
	r := rand.New(rand.NewPCG(1, uint64(length)))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	return ChunkHeader{Array: arrayID, Member: 3, Index: 1, File: 9, Stripe: 1 << 40, Offset: 1 << 50, Gen: Gen(3, 4), StripeLength: chunk + length}, data
}

// TestChunkRoundTrip for chunk sizes from the least to the greatest, whole and
// short chunks: header, table, and every block.
func TestChunkRoundTrip(t *testing.T) {
	for _, chunk := range []int{MinChunk, 4096, 65536, MaxChunk} {
		area := make([]byte, HeaderArea(chunk))
		for _, length := range []int{1, chunk/2 + 1, chunk} {
			h, data := sampleChunk(chunk, length)
			sum := PutChunkHeader(area, &h, data)
			got, gotSum, err := ParseChunkHeader(area, chunk)
			if err != nil || gotSum != sum {
				t.Fatalf("chunk %d length %d: %v", chunk, length, err)
			}
			if d := cmp.Diff(h, got); d != "" {
				t.Fatal(d)
			}
			if err := VerifyBlocks(area, &got, 0, data); err != nil {
				t.Fatal(err)
			}
			last := (length - 1) / BlockSize
			if err := VerifyBlocks(area, &got, last, data[last*BlockSize:]); err != nil {
				t.Fatal(err)
			}
			data[length-1] ^= 0x10
			if err := VerifyBlocks(area, &got, last, data[last*BlockSize:]); !errors.Is(err, ErrChecksum) {
				t.Fatalf("flipped bit in the last block: %v", err)
			}
			if s := ChunkSum(make([]byte, len(area)), got, data); s == sum {
				t.Fatal("other data, same checksum of the chunk")
			}
			if HeaderArea(chunk)%512 != 0 || SlotOffset(3, chunk) != 3*int64(SlotSize(chunk)) {
				t.Fatal("slots are not aligned")
			}
		}
	}
}

// TestEveryBitOfAChunkHeaderCounts: identity and table; and two chunks that differ
// in one field of their identity differ in their checksum.
func TestEveryBitOfAChunkHeaderCounts(t *testing.T) {
	const chunk = 16384
	h, data := sampleChunk(chunk, 9000)
	area := make([]byte, HeaderArea(chunk))
	sum := PutChunkHeader(area, &h, data)
	for i := range (chunkFixed + 4*3) * 8 {
		area[i/8] ^= 1 << (i % 8)
		if _, _, err := ParseChunkHeader(area, chunk); err == nil {
			t.Fatalf("flipped bit %d of byte %d is not noticed", i%8, i/8)
		}
		area[i/8] ^= 1 << (i % 8)
	}
	for name, change := range map[string]func(*ChunkHeader){
		"array": func(h *ChunkHeader) { h.Array[5]++ }, "member": func(h *ChunkHeader) { h.Member++ },
		"index": func(h *ChunkHeader) { h.Index++ }, "file": func(h *ChunkHeader) { h.File++ },
		"stripe": func(h *ChunkHeader) { h.Stripe++ }, "offset": func(h *ChunkHeader) { h.Offset++ },
		"gen": func(h *ChunkHeader) { h.Gen++ }, "stripe length": func(h *ChunkHeader) { h.StripeLength++ },
	} {
		other := h
		change(&other)
		if ChunkSum(area, other, data) == sum {
			t.Errorf("another %s, the same checksum", name)
		}
	}
}

// TestZerosAreNothing: a hole in a file is no structure of any kind.
func TestZerosAreNothing(t *testing.T) {
	z := make([]byte, 8192)
	_, sup := DecodeSuperblock(z)
	_, _, ch := ParseChunkHeader(z, 4096)
	_, _, th := ParseTailHeader(z)
	_, _, _, tr := ParseTailRecord(z, 0)
	_, _, mh := ParseMetaHeader(z)
	_, _, _, mb := ParseBatch(z, 0)
	for i, err := range []error{sup, ch, th, tr, mh, mb} {
		if !errors.Is(err, ErrMagic) {
			t.Errorf("%d: %v", i, err)
		}
	}
}

func sampleTail() ([]byte, uint32) {
	b, chain := AppendTailHeader(nil, &TailHeader{Array: arrayID, Segment: 4, Incarnation: 2, Members: 5, Begin: 3})
	start := chain
	for i, p := range []string{"hello", "", strings.Repeat("x", 1000)} {
		r := TailRecord{Segment: 4, Seq: uint64(i + 1), Synced: uint64(i), File: 9, Offset: 100, Payload: []byte(p)}
		b, chain = AppendTailRecord(b, &r, chain)
	}
	return b, start
}

// TestTailRoundTrip: header and records, in a chain.
func TestTailRoundTrip(t *testing.T) {
	b, _ := sampleTail()
	h, chain, err := ParseTailHeader(b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(TailHeader{Array: arrayID, Segment: 4, Incarnation: 2, Members: 5, Begin: 3}, h); d != "" {
		t.Fatal(d)
	}
	b = b[TailSegmentHeader:]
	for i, p := range []string{"hello", "", strings.Repeat("x", 1000)} {
		r, n, next, err := ParseTailRecord(b, chain)
		if err != nil {
			t.Fatal(err)
		}
		want := TailRecord{Segment: 4, Seq: uint64(i + 1), Synced: uint64(i), File: 9, Offset: 100, Payload: []byte(p)}
		if d := cmp.Diff(want, r); d != "" || n != TailRecordSize(len(p)) || n%8 != 0 {
			t.Fatalf("%d bytes: %s", n, d)
		}
		b, chain = b[n:], next
	}
	if len(b) != 0 {
		t.Fatalf("%d bytes are left", len(b))
	}
}

// TestTailRecordIsBoundToItsPlace: a record that does not continue from the one
// before, every flipped bit, every cut.
func TestTailRecordIsBoundToItsPlace(t *testing.T) {
	b, chain := sampleTail()
	b = b[TailSegmentHeader:]
	_, n, next, err := ParseTailRecord(b, chain)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := ParseTailRecord(b, chain+1); !errors.Is(err, ErrInvalid) {
		t.Errorf("foreign chain: %v", err)
	}
	if _, _, _, err := ParseTailRecord(b[n:], chain); !errors.Is(err, ErrInvalid) {
		t.Errorf("second record in the place of the first: %v", err)
	}
	if _, _, _, err := ParseTailRecord(b[n:], next); err != nil {
		t.Errorf("second record: %v", err)
	}
	for i := range n * 8 {
		b[i/8] ^= 1 << (i % 8)
		if _, _, _, err := ParseTailRecord(b, chain); err == nil {
			t.Fatalf("flipped bit %d of byte %d is not noticed", i%8, i/8)
		}
		b[i/8] ^= 1 << (i % 8)
	}
	for i := range n {
		if _, _, _, err := ParseTailRecord(b[:i], chain); !errors.Is(err, ErrShort) {
			t.Fatalf("cut to %d of %d bytes: %v", i, n, err)
		}
	}
}

func sampleMeta() ([]byte, uint32) {
	b, chain := AppendMetaHeader(nil, &MetaHeader{Array: arrayID, Kind: KindCheckpoint, Generation: 3, Base: 10})
	start := chain
	b, chain = AppendBatch(b, &Batch{Seq: 11, Synced: 10, Records: sampleRecords()}, chain)
	b, _ = AppendBatch(b, &Batch{Seq: 12, Synced: 10, End: true}, chain)
	return b, start
}

// TestMetaRoundTrip: every kind of record, in batches in a chain.
func TestMetaRoundTrip(t *testing.T) {
	b, _ := sampleMeta()
	h, chain, err := ParseMetaHeader(b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(MetaHeader{Array: arrayID, Kind: KindCheckpoint, Generation: 3, Base: 10}, h); d != "" {
		t.Fatal(d)
	}
	b = b[MetaHeaderSize:]
	for _, want := range []Batch{{Seq: 11, Synced: 10, Records: sampleRecords()}, {Seq: 12, Synced: 10, End: true}} {
		got, n, next, err := ParseBatch(b, chain)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
		b, chain = b[n:], next
	}
	if len(b) != 0 {
		t.Fatalf("%d bytes are left", len(b))
	}
}

// TestBatchIsAllOrNothing: every flipped bit, every cut.
func TestBatchIsAllOrNothing(t *testing.T) {
	b, chain := sampleMeta()
	b = b[MetaHeaderSize:]
	_, n, _, err := ParseBatch(b, chain)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n * 8 {
		b[i/8] ^= 1 << (i % 8)
		if _, _, _, err := ParseBatch(b, chain); err == nil {
			t.Fatalf("flipped bit %d of byte %d is not noticed", i%8, i/8)
		}
		b[i/8] ^= 1 << (i % 8)
	}
	for i := range n {
		if _, _, _, err := ParseBatch(b[:i], chain); !errors.Is(err, ErrShort) {
			t.Fatalf("cut to %d of %d bytes: %v", i, n, err)
		}
	}
	if _, _, _, err := ParseBatch(b, chain^1); !errors.Is(err, ErrInvalid) {
		t.Errorf("foreign chain: %v", err)
	}
}

// TestRecordsRefuse what no encoder writes.
func TestRecordsRefuse(t *testing.T) {
	huge := AppendRecord(nil, Seal{File: 1})
	le.PutUint32(huge[len(huge)-4:], 1<<31)
	huge[17] = 4 // width
	long := append([]byte{byte(kindMkdir)}, le.AppendUint16(nil, MaxPath+1)...)
	beyond := AppendRecord(nil, Seal{File: 1, Stripes: []Stripe{{Present: 0b11, Chunks: make([]Chunk, 2)}}})
	beyond[17] = 1 // width less than the bits
	for name, b := range map[string][]byte{
		"kind 0": {0}, "unknown kind": {200}, "member 32": {byte(kindReset), 32}, "no payload": {byte(kindCreate)},
		"count beyond the bytes": huge, "path too long": append(long, make([]byte, MaxPath+1)...), "bit beyond the width": beyond,
		"flag 2": append([]byte{byte(kindScrub), 2}, make([]byte, 64)...),
	} {
		if recs, err := DecodeRecords(b); err == nil {
			t.Errorf("%s: decoded to %v", name, recs)
		}
	}
}

func FuzzSuperblock(f *testing.F) {
	f.Add(AppendSuperblock(nil, sampleSuperblock()))
	f.Fuzz(func(t *testing.T, b []byte) {
		// A decoder that only ever sees wrong checksums is not fuzzed.
		if len(b) >= superHeader+4 && len(b) <= MaxSuperblock {
			b = bytes.Clone(b)
			n := int(le.Uint32(b[12:]))
			if n >= superHeader+4 && n <= len(b) {
				le.PutUint32(b[n-4:], Checksum(b[:n-4]))
			}
		}
		s, err := DecodeSuperblock(b)
		if err != nil {
			return
		}
		again, err := DecodeSuperblock(AppendSuperblock(nil, s))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(s, again); d != "" {
			t.Fatal(d)
		}
	})
}

func FuzzChunkHeader(f *testing.F) {
	const chunk = 16384
	h, data := sampleChunk(chunk, 9000)
	area := make([]byte, HeaderArea(chunk))
	PutChunkHeader(area, &h, data)
	f.Add(area, data)
	f.Fuzz(func(t *testing.T, area, data []byte) {
		area = bytes.Clone(area)
		if len(area) >= HeaderArea(chunk) {
			if n := le.Uint32(area[56:]); n <= chunk {
				le.PutUint32(area[chunkFixed-4:], headerSum(area, int(n)))
			}
		}
		h, sum, err := ParseChunkHeader(area, chunk)
		if err != nil {
			return
		}
		if VerifyBlocks(area, &h, 0, data) == nil && len(data) == h.Length {
			if got := ChunkSum(make([]byte, HeaderArea(chunk)), h, data); got != sum && isPlain(area) {
				t.Fatalf("checksum %08x, the header says %08x", got, sum)
			}
		}
		_ = VerifyBlocks(area, &h, int(sum%8), data)
	})
}

// isPlain reports whether the unused bytes of a header are zero, as an encoder
// leaves them.
func isPlain(area []byte) bool {
	return area[7] == 0 && bytes.Equal(area[64:76], make([]byte, 12))
}

func FuzzTail(f *testing.F) {
	b, _ := sampleTail()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		b = bytes.Clone(b)
		if len(b) >= TailSegmentHeader {
			le.PutUint32(b[48:], Checksum(b[:48]))
		}
		_, chain, err := ParseTailHeader(b)
		if err != nil {
			return
		}
		for b = b[TailSegmentHeader:]; len(b) >= tailFixed; {
			le.PutUint32(b[48:], chain)
			le.PutUint32(b[tailFixed-4:], Checksum(b[:tailFixed-4]))
			if _, n, _, err := ParseTailRecordHeader(b); err == nil && n <= int64(len(b)) {
				le.PutUint32(b[n-tailEnd:], updateSum(le.Uint32(b[tailFixed-4:]), b[tailFixed:n-tailEnd]))
			}
			r, n, next, err := ParseTailRecord(b, chain)
			if err != nil {
				return
			}
			if n < tailFixed || n != TailRecordSize(len(r.Payload)) {
				t.Fatalf("size %d of a record with %d bytes", n, len(r.Payload))
			}
			b, chain = b[n:], next
		}
	})
}

func FuzzMeta(f *testing.F) {
	b, _ := sampleMeta()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		b = bytes.Clone(b)
		if len(b) >= MetaHeaderSize {
			le.PutUint32(b[48:], Checksum(b[:48]))
		}
		_, chain, err := ParseMetaHeader(b)
		if err != nil {
			return
		}
		for b = b[MetaHeaderSize:]; len(b) >= batchFixed; {
			le.PutUint32(b[24:], chain)
			le.PutUint32(b[batchFixed-4:], Checksum(b[:batchFixed-4]))
			if _, n, _, err := ParseBatchHeader(b); err == nil && n <= int64(len(b)) {
				le.PutUint32(b[n-batchEnd:], updateSum(le.Uint32(b[batchFixed-4:]), b[batchFixed:n-batchEnd]))
			}
			batch, n, next, err := ParseBatch(b, chain)
			if err != nil {
				return
			}
			again, _ := AppendBatch(nil, &batch, chain)
			other, _, _, err := ParseBatch(again, chain)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(batch, other); d != "" {
				t.Fatal(d)
			}
			b, chain = b[n:], next
		}
	})
}

func FuzzRecords(f *testing.F) {
	var b []byte
	for _, r := range sampleRecords() {
		b = AppendRecord(b, r)
		f.Add(AppendRecord(nil, r))
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := DecodeRecords(b)
		if err != nil {
			return
		}
		var again []byte
		for _, r := range list {
			again = AppendRecord(again, r)
		}
		if !bytes.Equal(b, again) {
			t.Fatalf("%x is encoded as %x", b, again)
		}
	})
}
