package journal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Layout of a segment, in bytes. The two copies of the header stand in sectors
// of their own, so that one bad sector does not cost the salt.
const (
	segMagic       = "HFJOURN1"
	segHeaderSize  = 64
	segHeaderArea  = 1024
	segSecondCopy  = 512
	minSegmentSize = segHeaderArea + 128
	indexStep      = 128 << 10 // one index entry per so many bytes of segment
	zeroChunk      = 256 << 10
)

func segmentName(gen, seq uint64) string {
	return fmt.Sprintf("journal-%010d-%010d.seg", gen, seq)
}

// parseSegmentName is the inverse of segmentName.
func parseSegmentName(name string) (gen, seq uint64, ok bool) {
	if _, err := fmt.Sscanf(name, "journal-%d-%d.seg", &gen, &seq); err != nil {
		return 0, 0, false
	}
	return gen, seq, name == segmentName(gen, seq) && seq > 0 && seq < 1<<32
}

// segHeader is the decoded header of a segment.
//
//	0 magic 8 | 8 header size u32 | 12 zero u32 | 16 generation u64 | 24 seq u64 |
//	32 salt u64 | 40 created, Unix ms u64 | 48 zero 12 | 60 checksum u32
type segHeader struct {
	gen, seq, salt uint64
	created        time.Time
	sum            uint32 // checksum of the header; the chain begins with it
}

// encode returns the header area, both copies and the zeros between.
func (h segHeader) encode() []byte {
	b := make([]byte, segHeaderArea)
	le := binary.LittleEndian
	copy(b, segMagic)
	le.PutUint32(b[8:], segHeaderArea)
	le.PutUint64(b[16:], h.gen)
	le.PutUint64(b[24:], h.seq)
	le.PutUint64(b[32:], h.salt)
	le.PutUint64(b[40:], uint64(h.created.UnixMilli()))
	le.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
	copy(b[segSecondCopy:], b[:segHeaderSize])
	return b
}

func parseSegHeader(b []byte) (segHeader, bool) {
	le := binary.LittleEndian
	if len(b) < segHeaderSize || string(b[:8]) != segMagic || le.Uint32(b[8:]) != segHeaderArea {
		return segHeader{}, false
	}
	h := segHeader{
		gen: le.Uint64(b[16:]), seq: le.Uint64(b[24:]), salt: le.Uint64(b[32:]),
		created: time.UnixMilli(int64(le.Uint64(b[40:]))), sum: le.Uint32(b[60:]),
	}
	return h, h.sum == crc32.Checksum(b[:60], castagnoli)
}

// seed is what header checksums of records in this segment begin with.
func (h *segHeader) seed() uint32 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], h.salt)
	return crc32.Checksum(b[:], castagnoli)
}

func randomSalt() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails, by its documentation
	return binary.LittleEndian.Uint64(b[:])
}

// indexEntry says that a record which stands at pos begins at off.
type indexEntry struct {
	pos uint64
	off int64
}

// segment is one file of the current generation.
type segment struct {
	hdr  segHeader
	name string
	seed uint32
	base uint64 // position of its first stream byte; set when the writer enters it

	// Guarded by Journal.mu.
	end      uint64 // position after the last flushed record
	endOff   int64  // offset after it
	index    []indexEntry
	dirty    bool // in Journal.dirty
	sealed   bool // the writer has gone on to the next
	sealedAt time.Time

	// Owned by the writer, and before that by whoever prepares the file.
	f       vfs.File
	entered bool          // the writer has it
	at      bool          // write by WriteAt, the file has zeros already
	ready   chan struct{} // closed when the background has prepared the file; nil: nobody does
	prepErr error         // read after ready
}

// planSegment decides number and salt of the next segment; the file is created
// later. mu is held, so numbers rise in the order in which segments are entered.
func (j *Journal) planSegment(gen uint64) *segment {
	h := segHeader{gen: gen, seq: j.nextSeq, salt: j.opts.salt(), created: j.opts.Now()}
	j.nextSeq++
	h, _ = parseSegHeader(h.encode()) // with its checksum
	return &segment{hdr: h, name: segmentName(gen, h.seq), seed: h.seed()}
}

// createSegment creates the file. On return its header and its name are
// durable, so that content behind a damaged header always means corruption.
// final says that the error came from a sync, after which nothing may be tried again.
func (j *Journal) createSegment(s *segment, zero bool) (final bool, err error) {
	path := j.fs.PathJoin(j.dir, s.name)
	f, err := j.createFile(path)
	if err != nil {
		return false, fmt.Errorf("journal: create segment %s: %w", s.name, err)
	}
	final, err = j.fillSegment(s, f, zero)
	if err != nil {
		err = errors.Join(err, f.Close())
		return final, fmt.Errorf("journal: prepare segment %s: %w", s.name, err)
	}
	if zero {
		if err := f.Close(); err != nil {
			return true, fmt.Errorf("journal: close segment %s: %w", s.name, err)
		}
		if f, err = j.fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified); err != nil {
			return false, fmt.Errorf("journal: open segment %s: %w", s.name, err)
		}
	}
	s.f, s.at = f, zero
	return false, nil
}

func (j *Journal) createFile(path string) (vfs.File, error) {
	if j.opts.Faults.ReuseSegment {
		j.mu.Lock()
		old := j.recycled
		j.recycled = ""
		j.mu.Unlock()
		if old != "" {
			return j.fs.ReuseForWrite(j.fs.PathJoin(j.dir, old), path, vfs.WriteCategoryUnspecified)
		}
	}
	return j.fs.Create(path, vfs.WriteCategoryUnspecified)
}

func (j *Journal) fillSegment(s *segment, f vfs.File, zero bool) (final bool, err error) {
	if err := writeFull(f, s.hdr.encode()); err != nil {
		return false, err
	}
	if zero {
		zeros := make([]byte, zeroChunk)
		for left := j.opts.SegmentSize - segHeaderArea; left > 0; left -= zeroChunk {
			// The file may modify what it is given.
			clear(zeros)
			if err := writeFull(f, zeros[:min(left, zeroChunk)]); err != nil {
				return false, err
			}
		}
	}
	if err := f.Sync(); err != nil {
		return true, err
	}
	return true, j.syncDir()
}

func writeFull(f vfs.File, b []byte) error {
	n, err := f.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return err
}

// writeSegment writes b at off, which is where the segment's content ends. The
// file may modify b.
func writeSegment(s *segment, b []byte, off int64) error {
	var n int
	var err error
	if s.at {
		n, err = s.f.WriteAt(b, off)
	} else {
		n, err = s.f.Write(b)
	}
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return err
}

// syncSegment makes the content of s durable, once: a failed sync may have lost
// pages that a second one would call written.
func (j *Journal) syncSegment(s *segment) error {
	if j.opts.Faults.AckBeforeSync {
		return nil
	}
	err := s.f.SyncData()
	if err != nil && j.opts.Faults.RetrySync {
		err = s.f.SyncData()
	}
	if err != nil {
		return fmt.Errorf("journal: sync segment %s: %w", s.name, err)
	}
	return nil
}

// freshSegment creates a segment behind from and returns it with the point after
// its LINK. Everything before from is on the disk. The LINK is written, not
// synced, and tentative: the segment counts from the moment that a manifest names
// it, so that what the caller copies into it first appears as one step. No sync
// may be running, and the caller keeps others from planning a spare.
func (j *Journal) freshSegment(gen uint64, from point) (*segment, point, error) {
	j.mu.Lock()
	s := j.planSegment(gen)
	j.mu.Unlock()
	final, err := j.createSegment(s, j.opts.PreZero)
	if err != nil && j.opts.PreZero && !final {
		// No room for a whole segment of zeros; what is needed may still fit.
		_, err = j.createSegment(s, false)
	}
	if err != nil {
		return nil, point{}, err
	}
	s.base, s.end, s.entered = from.pos, from.pos, true
	l := link{prevSeq: from.seq, prevEnd: from.off, prevChain: from.chain}
	h := header{typ: TypeLink, flags: FlagTentative, epoch: j.w.epoch, pos: from.pos, synced: from.addr(), prev: s.hdr.sum}
	b, chain := appendFrame(nil, h, s.seed, l.appendTo(nil))
	p := point{seq: s.hdr.seq, off: segHeaderArea + int64(len(b)), chain: chain, pos: from.pos}
	if err := writeSegment(s, b, segHeaderArea); err != nil {
		return nil, point{}, errors.Join(fmt.Errorf("journal: link segment %s: %w", s.name, err), s.f.Close())
	}
	s.endOff = p.off
	s.addIndex(from.pos, segHeaderArea)
	return s, p, nil
}

// addIndex notes that a record at pos begins at off, if the last entry is far
// enough behind. mu is held, or nobody else sees s yet.
func (s *segment) addIndex(pos uint64, off int64) {
	if n := len(s.index); n == 0 || off-s.index[n-1].off >= indexStep {
		s.index = append(s.index, indexEntry{pos, off})
	}
}

// seek returns the offset of a record at or before pos, from which to search on.
// mu is held, or nobody writes to s any more.
func (s *segment) seek(pos uint64) int64 {
	lo, hi := 0, len(s.index)
	for lo < hi {
		if mid := (lo + hi) / 2; s.index[mid].pos <= pos {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == 0 {
		return segHeaderArea
	}
	return s.index[lo-1].off
}
