package format

import "slices"

// MetaKind tells the log from a checkpoint.
type MetaKind uint8

// The two kinds of files of the metadata journal.
const (
	KindLog        MetaKind = 1 // batches, as they were made
	KindCheckpoint MetaKind = 2 // batches that make the whole state, the last one flagged End
)

// MetaHeader begins a file of the metadata journal.
type MetaHeader struct {
	Array      ID
	Kind       MetaKind
	Generation uint64
	Base       uint64 // Seq of the last batch before this file
}

const (
	metaMagic  = 0x314154454d464c48 // "HLFMETA1"
	batchMagic = 0x4843544d         // "MTCH"
	batchFixed = 40
	batchEnd   = 4

	// MetaHeaderSize is the size of an encoded MetaHeader, in bytes.
	MetaHeaderSize = 512
	// BatchHeader is the size of a batch's header, in bytes.
	BatchHeader = batchFixed
)

// AppendMetaHeader appends the header of a file and returns the chain value that
// the first batch continues from.
func AppendMetaHeader(b []byte, h *MetaHeader) ([]byte, uint32) {
	at := len(b)
	b = append(b, make([]byte, MetaHeaderSize)...)
	p := b[at:]
	le.PutUint64(p, metaMagic)
	le.PutUint32(p[8:], Version)
	p[12] = byte(h.Kind)
	copy(p[16:], h.Array[:])
	le.PutUint64(p[32:], h.Generation)
	le.PutUint64(p[40:], h.Base)
	sum := Checksum(p[:48])
	le.PutUint32(p[48:], sum)
	return b, sum
}

// ParseMetaHeader decodes the first bytes of a file; the chain value is what the
// first batch continues from.
func ParseMetaHeader(b []byte) (h MetaHeader, chain uint32, err error) {
	const what = "metadata file header"
	if len(b) < MetaHeaderSize {
		return h, 0, bad(what, ErrShort)
	}
	if le.Uint64(b) != metaMagic {
		return h, 0, bad(what, ErrMagic)
	}
	if chain = le.Uint32(b[48:]); Checksum(b[:48]) != chain {
		return h, 0, bad(what, ErrChecksum)
	}
	if le.Uint32(b[8:]) != Version {
		return h, 0, bad(what, ErrVersion)
	}
	h = MetaHeader{Array: ID(b[16:32]), Kind: MetaKind(b[12]), Generation: le.Uint64(b[32:]), Base: le.Uint64(b[40:])}
	if h.Kind != KindLog && h.Kind != KindCheckpoint {
		return h, 0, bad(what, ErrInvalid)
	}
	return h, chain, nil
}

// Batch is one atomic step of the metadata: all of its records or none.
type Batch struct {
	Seq     uint64 // counts batches over the whole life of the array, from 1
	Synced  uint64 // all batches up to this Seq were on the live members' disks when it was written
	End     bool   // the last batch of a checkpoint
	Records []Record
}

// AppendBatch appends the batch; chain is the previous batch's, or that of the
// file's header, and the new one is returned. The records must take at most
// MaxPayload bytes.
func AppendBatch(b []byte, batch *Batch, chain uint32) ([]byte, uint32) {
	at := len(b)
	b = append(b, make([]byte, batchFixed)...)
	for _, r := range batch.Records {
		b = AppendRecord(b, r)
	}
	n := len(b) - at - batchFixed
	size := batchSize(int64(n))
	b = slices.Grow(b, int(size)-batchFixed-n)[:at+int(size)]
	p := b[at:]
	le.PutUint32(p, batchMagic)
	le.PutUint32(p[4:], uint32(n))
	le.PutUint64(p[8:], batch.Seq)
	le.PutUint64(p[16:], batch.Synced)
	le.PutUint32(p[24:], chain)
	if batch.End {
		p[28] = 1
	}
	le.PutUint32(p[32:], uint32(len(batch.Records)))
	sum := Checksum(p[:batchFixed-4])
	le.PutUint32(p[batchFixed-4:], sum)
	clear(p[batchFixed+n : size-batchEnd])
	chain = updateSum(sum, p[batchFixed:size-batchEnd])
	le.PutUint32(p[size-batchEnd:], chain)
	return b, chain
}

func batchSize(n int64) int64 { return (batchFixed + n + batchEnd + 7) &^ 7 }

// ParseBatchHeader decodes the first BatchHeader bytes of a batch, without its
// records, and returns its size on disk and the chain value it continues from.
// The length can be trusted: the header has a checksum of its own. Synced counts
// even when the records are damaged.
func ParseBatchHeader(b []byte) (batch Batch, size int64, prev uint32, err error) {
	const what = "metadata batch"
	if len(b) < batchFixed {
		return batch, 0, 0, bad(what, ErrShort)
	}
	if le.Uint32(b) != batchMagic {
		return batch, 0, 0, bad(what, ErrMagic)
	}
	if Checksum(b[:batchFixed-4]) != le.Uint32(b[batchFixed-4:]) {
		return batch, 0, 0, bad(what, ErrChecksum)
	}
	n := int64(le.Uint32(b[4:]))
	if n > MaxPayload || b[28] > 1 {
		return batch, 0, 0, bad(what, ErrInvalid)
	}
	batch = Batch{Seq: le.Uint64(b[8:]), Synced: le.Uint64(b[16:]), End: b[28] == 1}
	return batch, batchSize(n), le.Uint32(b[24:]), nil
}

// ParseBatch decodes the batch at the beginning of b and returns its size and
// chain value. A batch that does not continue from chain is ErrInvalid.
func ParseBatch(b []byte, chain uint32) (batch Batch, size int, next uint32, err error) {
	const what = "metadata batch"
	batch, n, prev, err := ParseBatchHeader(b)
	if err != nil {
		return batch, 0, 0, err
	}
	if n > int64(len(b)) {
		return batch, 0, 0, bad(what, ErrShort)
	}
	size = int(n)
	next = updateSum(le.Uint32(b[batchFixed-4:]), b[batchFixed:size-batchEnd])
	if next != le.Uint32(b[size-batchEnd:]) {
		return batch, 0, 0, bad(what, ErrChecksum)
	}
	if prev != chain {
		return batch, 0, 0, bad(what, ErrInvalid)
	}
	length := int(le.Uint32(b[4:]))
	if batch.Records, err = DecodeRecords(b[batchFixed : batchFixed+length]); err != nil {
		return batch, 0, 0, err
	}
	if len(batch.Records) != int(le.Uint32(b[32:])) {
		return batch, 0, 0, bad(what, ErrInvalid)
	}
	return batch, size, next, nil
}
