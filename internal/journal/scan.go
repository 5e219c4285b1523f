package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// ReadError is a read that failed. It says nothing about the data: neither a
// torn tail nor corruption, so a start stops and changes nothing.
type ReadError struct {
	File string
	Off  int64
	Err  error
}

func (e *ReadError) Error() string {
	return fmt.Sprintf("journal: cannot read %s at offset %d: %v (nothing was changed)", e.File, e.Off, e.Err)
}

func (e *ReadError) Unwrap() error { return e.Err }

// CorruptError is damage to what was on the disk for certain. It is never cut
// away: repair the file from the array or from a replica.
type CorruptError struct {
	File      string
	Offset    int64  // of the first byte that cannot be trusted
	Pos       uint64 // everything below this position is whole
	SyncedPos uint64 // at least everything below was on the disk; 0 if only an address is known
	Reason    string
}

func (e *CorruptError) Error() string {
	s := fmt.Sprintf("journal is corrupt: %s at offset %d: %s; whole up to position %d", e.File, e.Offset, e.Reason, e.Pos)
	if e.SyncedPos > e.Pos {
		s += fmt.Sprintf(", at stake are positions %d to %d", e.Pos, e.SyncedPos)
	}
	return s + " (nothing was changed; mend the file from the array or a copy, or resync this node from a replica)"
}

// Is makes errors.Is(err, ErrCorrupt) hold.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// fileReader gives windows of a file of known size.
type fileReader struct {
	f    vfs.File
	name string
	size int64
	buf  []byte
	at   int64 // offset of buf[0]
}

const readChunk = 256 << 10

func openReader(fsys vfs.FS, dir, name string) (*fileReader, error) {
	f, err := fsys.Open(fsys.PathJoin(dir, name))
	if err != nil {
		return nil, &ReadError{File: name, Err: err}
	}
	st, err := f.Stat()
	if err != nil {
		return nil, &ReadError{File: name, Err: errors.Join(err, f.Close())}
	}
	return &fileReader{f: f, name: name, size: st.Size()}, nil
}

// bytes returns n bytes at off, valid until the next call, or nil if the file
// ends before. The error is a *ReadError.
func (r *fileReader) bytes(off, n int64) ([]byte, error) {
	if off < 0 || n < 0 || n > r.size || off > r.size-n {
		return nil, nil
	}
	if off < r.at || off+n > r.at+int64(len(r.buf)) {
		want := min(max(n, readChunk), r.size-off)
		if int64(cap(r.buf)) < want || int64(cap(r.buf)) > 4*max(want, readChunk) {
			r.buf = make([]byte, want)
		}
		r.buf, r.at = r.buf[:want], off
		if k, err := r.f.ReadAt(r.buf, off); int64(k) < want {
			r.buf = r.buf[:0]
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, &ReadError{File: r.name, Off: off, Err: err}
		}
	}
	return r.buf[off-r.at : off-r.at+n], nil
}

// zeroFrom reports the offset after the last byte that is not zero, at or behind off.
func (r *fileReader) zeroFrom(off int64) (end int64, err error) {
	end = off
	for off < r.size {
		b, err := r.bytes(off, min(readChunk, r.size-off))
		if err != nil {
			return 0, err
		}
		if !isZero(b) {
			i := len(b)
			for b[i-1] == 0 {
				i--
			}
			end = off + int64(i)
		}
		off += int64(len(b))
	}
	return end, nil
}

// next decodes the record at p.off. bad is "" if it is the record that belongs
// there, else why not; what does not fit is read a second time, so that a slip on
// the way from the disk is not taken for damage. payload is valid until the next call.
func (r *fileReader) next(p point, seed uint32, trustHeader bool) (h header, payload []byte, after point, bad string, err error) {
	h, payload, after, bad, err = r.decode(p, seed, trustHeader)
	if bad == "" || err != nil || bad == badZeros || bad == badEnds {
		return h, payload, after, bad, err
	}
	r.buf = r.buf[:0]
	return r.decode(p, seed, trustHeader)
}

// Reasons for which reading a second time is of no use.
const (
	badEnds  = "the file ends"
	badZeros = "zeros in place of a record"
)

func (r *fileReader) decode(p point, seed uint32, trustHeader bool) (h header, payload []byte, after point, bad string, err error) {
	b, err := r.bytes(p.off, frameHeader)
	if err != nil || b == nil {
		return h, nil, p, badEnds, err
	}
	h, ok := parseHeader(b, seed)
	switch {
	case !ok && isZero(b):
		return h, nil, p, badZeros, nil
	case !ok:
		return h, nil, p, "header checksum does not match", nil
	case h.prev != p.chain:
		return h, nil, p, "does not continue the record before it", nil
	case h.pos != p.pos || !h.typ.known() || h.end() < h.pos || p.off+h.size() > math.MaxUint32:
		return h, nil, p, fmt.Sprintf("header is not possible here (%v at position %d)", h.typ, h.pos), nil
	}
	size := h.size()
	if b, err = r.bytes(p.off, size); err != nil || b == nil {
		return h, nil, p, "the file ends inside the record", err
	}
	chain := payloadSum(h.sum, b[frameHeader:size-frameTail])
	if stored := tailSum(b); stored != chain {
		if !trustHeader {
			return h, nil, p, "payload checksum does not match", nil
		}
		chain = stored
	}
	return h, b[frameHeader : frameHeader+int64(h.length)], point{p.seq, p.off + size, chain, h.end()}, "", nil
}

// segScan is one segment file as it was found.
type segScan struct {
	name   string
	seq    uint64
	size   int64
	hdr    segHeader
	ok     bool // the header is known, from either copy
	copies int  // whole copies of the header, of 2
	blank  bool // nothing but zeros behind the header area
	lnk    link
	linked bool // begins with a whole LINK
	seg    *segment

	start, end point // end: after the last whole record that counts
	endsSealed bool  // the next segment says where it ends
	records    int
	clean      bool // the last record is the MARK of an orderly close
	lastEpoch  uint64
	history    *History
	skips      []skip // mutant ReplayPastBad
	tornBytes  int64
	synced     address // highest synced address that any record in it names
}

// skip is a stretch that a mutant stepped over.
type skip struct {
	off int64
	to  point
}

// inspection is everything that reading a directory tells. Nothing is changed by it.
type inspection struct {
	fsys    vfs.FS
	dir     string
	faults  *Mutants
	copies  [2]manifestCopy
	man     *Manifest // nil: none
	names   []string
	segs    []*segScan // of the current generation, by number
	strays  []string   // files of other generations and leftovers
	live    []*segScan // the chain that counts
	dead    []*segScan
	end     point
	synced  address // S: the highest synced address that anything names
	syncPos uint64  // the position at S
	bad     *badSpot
	damage  []*CorruptError // first one stops a start
	notes   []*CorruptError // damage that the checkpoint covers
}

// badSpot is where the chain of whole records ends.
type badSpot struct {
	scan   *segScan
	at     point
	reason string
	torn   int64 // bytes behind it that are not zero
}

// inspect reads the directory. The error is a read error; damage is in the result.
func inspect(fsys vfs.FS, dir string, faults *Mutants) (*inspection, error) {
	in := &inspection{fsys: fsys, dir: dir, faults: faults}
	var err error
	if in.names, err = fsys.List(dir); err != nil {
		return nil, &ReadError{File: dir, Err: err}
	}
	slices.Sort(in.names)
	if in.copies, err = readManifests(fsys, dir); err != nil {
		return nil, err
	}
	in.man = newestManifest(&in.copies)
	if err := in.openSegments(); err != nil {
		return nil, err
	}
	if in.man == nil {
		in.judgeNoManifest()
		return in, nil
	}
	in.chain()
	if len(in.damage) > 0 {
		return in, nil
	}
	if err := in.walk(); err != nil {
		return nil, err
	}
	return in, in.judge()
}

func (in *inspection) corrupt(file string, off int64, format string, args ...any) *CorruptError {
	e := &CorruptError{File: file, Offset: off, Reason: fmt.Sprintf(format, args...)}
	in.damage = append(in.damage, e)
	return e
}

// openSegments reads the header of each segment of the generation in force, or
// of all generations if there is no manifest.
func (in *inspection) openSegments() error {
	for _, name := range in.names {
		gen, seq, ok := parseSegmentName(name)
		if !ok {
			if strings.HasPrefix(name, "journal.") && strings.HasSuffix(name, tempSuffix) {
				in.strays = append(in.strays, name)
			}
			continue
		}
		if in.man != nil && gen != in.man.Generation {
			in.strays = append(in.strays, name)
			continue
		}
		s := &segScan{name: name, seq: seq}
		if err := in.readHeader(s, gen); err != nil {
			return err
		}
		in.segs = append(in.segs, s)
	}
	slices.SortFunc(in.segs, func(a, b *segScan) int { return int(int64(a.seq) - int64(b.seq)) })
	return nil
}

func (in *inspection) readHeader(s *segScan, gen uint64) (err error) {
	r, err := openReader(in.fsys, in.dir, s.name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.f.Close()) }()
	s.size = r.size
	for _, off := range []int64{0, segSecondCopy} {
		b, err := r.bytes(off, segHeaderSize)
		if err != nil {
			return err
		}
		if h, ok := parseSegHeader(b); ok && h.gen == gen && h.seq == s.seq {
			s.hdr, s.ok = h, true
			s.copies++
		}
	}
	if !s.ok {
		last, err := r.zeroFrom(min(segHeaderArea, r.size))
		s.blank = last <= segHeaderArea
		return err
	}
	s.seg = &segment{hdr: s.hdr, name: s.name, seed: s.hdr.seed(), sealed: true}
	p := point{seq: s.seq, off: segHeaderArea, chain: s.hdr.sum}
	b, err := r.bytes(p.off, frameHeader)
	if err != nil || b == nil {
		return err
	}
	p.pos = rawHeader(b).pos
	h, payload, after, bad, err := r.next(p, s.seg.seed, false)
	if err != nil || bad != "" || h.typ != TypeLink {
		return err
	}
	s.lnk, s.linked = parseLink(payload)
	if h.flags&FlagTentative != 0 && in.man != nil && s.seq > in.man.Segment {
		s.linked = false // it was being written when the process ended
	}
	s.start, s.end = p, after
	return nil
}

// judgeNoManifest tells a directory that never held a journal, and one in which
// the first start was interrupted, from one whose manifests are gone.
func (in *inspection) judgeNoManifest() {
	for i := range in.copies {
		if c := &in.copies[i]; c.bad != nil {
			in.corrupt(c.name, 0, "no copy of the manifest is whole (%v)", c.bad)
			return
		}
	}
	for _, s := range in.segs {
		if !s.ok && !s.blank || s.linked && s.size > segHeaderArea+linkFrame && in.beyondLink(s) {
			in.corrupt(s.name, 0, "the segment has records, but both copies of the manifest are missing")
			return
		}
		in.strays = append(in.strays, s.name)
	}
	in.segs = nil
}

func (in *inspection) beyondLink(s *segScan) bool {
	r, err := openReader(in.fsys, in.dir, s.name)
	if err != nil {
		return true
	}
	last, err := r.zeroFrom(segHeaderArea + linkFrame)
	return errors.Join(err, r.f.Close()) != nil || last > segHeaderArea+linkFrame
}

// chain finds the segments that count: from the newest with a whole LINK back.
func (in *inspection) chain() {
	bySeq := map[uint64]*segScan{}
	var last *segScan
	for _, s := range in.segs {
		bySeq[s.seq] = s
		if s.linked {
			last = s
		}
		if !s.ok && !s.blank {
			in.badHeader(s)
		}
	}
	if len(in.damage) > 0 {
		return
	}
	if last == nil {
		in.corrupt(segmentName(in.man.Generation, 1), 0, "generation %d has no segment with a whole beginning", in.man.Generation)
		return
	}
	if last.seq < in.man.Segment {
		e := in.corrupt(segmentName(in.man.Generation, in.man.Segment), 0, "the segment is missing or has no whole beginning, and the manifest names it")
		e.Pos = last.start.pos
		return
	}
	for s := last; ; {
		in.live = append(in.live, s)
		s.endsSealed = len(in.live) > 1
		prev := bySeq[s.lnk.prevSeq]
		if s.lnk.prevSeq == 0 || prev == nil && s.start.pos <= in.man.CheckpointPos {
			break
		}
		if prev != nil && prev.ok && !prev.linked && prev.seq < s.seq && s.start.pos > in.man.CheckpointPos {
			// Two segments were entered since the last sync, and the older one's
			// beginning did not make it. What counts ends before both; walk
			// looks for evidence that it must not.
			if s = in.newestLinked(prev.seq); s == nil {
				in.corrupt(prev.name, segHeaderArea, "generation %d has no segment with a whole beginning", in.man.Generation)
				return
			}
			in.live = nil
			continue
		}
		if prev == nil || !prev.linked || prev.seq >= s.seq {
			if s.start.pos <= in.man.CheckpointPos {
				in.notes = append(in.notes, &CorruptError{File: segmentName(in.man.Generation, s.lnk.prevSeq), Offset: 0,
					Reason: "segment has no whole beginning; the checkpoint covers it"})
				break
			}
			e := in.corrupt(segmentName(in.man.Generation, s.lnk.prevSeq), 0, "the segment before %s is missing or has no whole beginning", s.name)
			e.Pos, e.SyncedPos = in.man.CheckpointPos, s.start.pos
			return
		}
		prev.seg.end, prev.seg.endOff, prev.end.chain = s.start.pos, s.lnk.prevEnd, s.lnk.prevChain
		s = prev
	}
	slices.Reverse(in.live)
	for _, s := range in.segs {
		if !slices.Contains(in.live, s) {
			in.dead = append(in.dead, s)
		}
	}
}

// newestLinked returns the newest segment before number seq that begins with a whole LINK.
func (in *inspection) newestLinked(seq uint64) *segScan {
	var found *segScan
	for _, s := range in.segs {
		if s.linked && s.seq < seq {
			found = s
		}
	}
	return found
}

// badHeader judges a segment with content behind a header that is not whole: the
// header was durable before any content came, so it was damaged later.
func (in *inspection) badHeader(s *segScan) {
	for _, later := range in.segs {
		if later.seq > s.seq && later.linked && later.start.pos <= in.man.CheckpointPos {
			in.notes = append(in.notes, &CorruptError{File: s.name, Reason: "segment header is damaged; the checkpoint covers it"})
			return
		}
	}
	e := in.corrupt(s.name, 0, "both copies of the segment header are damaged, and records follow")
	e.Pos = in.man.CheckpointPos
}

// walk reads the chain record by record up to the first that is not whole, and
// the rest for the synced addresses that it names.
func (in *inspection) walk() error {
	first := in.live[0]
	if first.start.pos > in.man.CheckpointPos {
		in.corrupt(first.name, segHeaderArea, "begins at position %d, the checkpoint ends at %d", first.start.pos, in.man.CheckpointPos).Pos = in.man.CheckpointPos
		return nil
	}
	for i := 0; i < len(in.live); i++ {
		s := in.live[i]
		if i > 0 && s.start.pos != in.end.pos {
			in.bad = &badSpot{scan: in.live[i-1], at: in.end, reason: fmt.Sprintf("the next segment begins at position %d, this one ends at %d", s.start.pos, in.end.pos)}
			in.dead = append(in.dead, in.live[i:]...)
			in.live = in.live[:i]
			break
		}
		if err := in.walkSegment(s); err != nil {
			return err
		}
		if in.bad == nil || i+1 == len(in.live) {
			continue
		}
		if next := in.live[i+1]; next.start.pos <= in.man.CheckpointPos {
			// What is damaged here is in the checkpoint: go on behind it.
			in.notes = append(in.notes, &CorruptError{File: s.name, Offset: in.bad.at.off, Pos: in.bad.at.pos, Reason: in.bad.reason + "; the checkpoint covers it"})
			in.dead = append(in.dead, in.live[:i+1]...)
			in.live, in.bad, i = in.live[i+1:], nil, -1
			in.end = in.live[0].start
			continue
		}
		in.dead = append(in.dead, in.live[i+1:]...)
		in.live = in.live[:i+1]
		break
	}
	for _, s := range in.dead {
		if s.ok {
			if err := in.evidence(s, segHeaderArea); err != nil {
				return err
			}
		}
	}
	return nil
}

func (in *inspection) walkSegment(s *segScan) (err error) {
	r, err := openReader(in.fsys, in.dir, s.name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.f.Close()) }()
	limit, limitChain := int64(math.MaxInt64), uint32(0)
	if s.endsSealed {
		limit, limitChain = s.seg.endOff, s.end.chain
	}
	at := s.start
	s.seg.base = at.pos
	s.records, s.clean, s.seg.index = 0, false, nil
	for at.off < limit {
		h, payload, after, bad, err := r.next(at, s.seg.seed, in.faults.TrustHeaderOnly)
		if err != nil {
			return err
		}
		if bad == "" && after.off > limit {
			bad = "record reaches beyond the end that the next segment names"
		}
		if bad != "" {
			stepped, err := in.badRecord(s, r, &at, bad)
			if err != nil || !stepped {
				s.finish(at)
				in.end = at
				return err
			}
			continue
		}
		s.note(h, payload, at)
		at = after
	}
	if s.endsSealed && at.chain != limitChain && len(s.skips) == 0 {
		in.bad = &badSpot{scan: s, at: at, reason: "checksum at the end is not the one that the next segment names"}
	}
	s.finish(at)
	in.end = at
	return nil
}

// badRecord ends the walk at a record that is not whole; stepped is true only
// with the mutant that steps over it.
func (in *inspection) badRecord(s *segScan, r *fileReader, at *point, reason string) (stepped bool, err error) {
	if in.faults.ReplayPastBad {
		if to, ok := in.resume(s, r, *at); ok {
			s.skips = append(s.skips, skip{at.off, to})
			*at = to
			return true, nil
		}
	}
	last, err := r.zeroFrom(min(at.off, r.size))
	if err != nil {
		return false, err
	}
	s.tornBytes = last - at.off
	in.bad = &badSpot{scan: s, at: *at, reason: reason, torn: last - at.off}
	if last == at.off {
		return false, nil
	}
	return false, in.evidenceFrom(s, r, at.off)
}

func (s *segScan) note(h header, payload []byte, at point) {
	s.records++
	s.synced = max(s.synced, h.synced)
	s.lastEpoch = h.epoch
	s.clean = h.typ == TypeMark && h.flags&FlagClean != 0
	if h.typ == TypeHistory {
		if hist, ok := ParseHistory(payload); ok {
			s.history = &hist
		}
	}
	s.seg.addIndex(at.pos, at.off)
}

func (s *segScan) finish(at point) {
	s.end = at
	s.seg.end, s.seg.endOff = at.pos, at.off
}

// evidence collects the synced addresses that whole headers behind off name.
func (in *inspection) evidence(s *segScan, off int64) error {
	r, err := openReader(in.fsys, in.dir, s.name)
	if err != nil {
		return err
	}
	return errors.Join(in.evidenceFrom(s, r, off), r.f.Close())
}

// evidenceFrom looks at every place where a record may begin. A header carries
// the segment's secret salt in its checksum, so neither data of clients nor
// records of another file pass for one.
func (in *inspection) evidenceFrom(s *segScan, r *fileReader, off int64) error {
	for off+frameHeader <= r.size {
		b, err := r.bytes(off, min(readChunk, r.size-off))
		if err != nil {
			return err
		}
		i := 0
		for ; i+frameHeader <= len(b); i += 8 {
			// The record behind a header may have been lost, and others be where
			// its payload was to be: look at every place.
			if h, ok := parseHeader(b[i:], s.seg.seed); ok {
				s.synced = max(s.synced, h.synced)
			}
		}
		off += int64(i)
	}
	return nil
}

// resume finds the next whole header behind a bad record. Only a mutant asks.
func (in *inspection) resume(s *segScan, r *fileReader, at point) (point, bool) {
	for off := at.off + 8; off+frameHeader <= r.size; off += 8 {
		b, err := r.bytes(off, frameHeader)
		if err != nil || b == nil {
			return point{}, false
		}
		if h, ok := parseHeader(b, s.seg.seed); ok {
			return point{seq: s.seq, off: off, chain: h.prev, pos: h.pos}, true
		}
	}
	return point{}, false
}

// judge decides between torn tail and corruption: a bad record below S was on the disk.
func (in *inspection) judge() error {
	for _, s := range in.segs {
		in.synced = max(in.synced, s.synced)
	}
	if len(in.damage) > 0 {
		return nil
	}
	pos, err := in.positionOf(in.synced)
	if err != nil {
		return err
	}
	in.syncPos = pos
	if in.bad == nil {
		return nil
	}
	if in.bad.at.addr() < in.synced {
		e := in.corrupt(in.bad.scan.name, in.bad.at.off, "%s, but the journal was on the disk up to %s offset %d",
			in.bad.reason, segmentName(in.man.Generation, in.synced.seq()), in.synced.off())
		e.Pos, e.SyncedPos = in.bad.at.pos, in.syncPos
		return nil
	}
	if in.end.pos < in.man.CheckpointPos {
		e := in.corrupt(in.bad.scan.name, in.bad.at.off, "%s, but the checkpoint ends at position %d", in.bad.reason, in.man.CheckpointPos)
		e.Pos, e.SyncedPos = in.bad.at.pos, in.man.CheckpointPos
	}
	return nil
}

// positionOf returns the position at address a: exact if the chain is whole up
// to there, else the highest that is known to lie at or below it.
func (in *inspection) positionOf(a address) (uint64, error) {
	for _, s := range in.live {
		if s.seq != a.seq() {
			continue
		}
		if a >= s.end.addr() {
			return s.end.pos, nil
		}
		return in.scanPosition(s, a)
	}
	pos := in.man.Base
	for _, s := range in.segs {
		if s.linked && s.seq <= a.seq() {
			pos = max(pos, s.start.pos)
		}
	}
	return pos, nil
}

// syncedPoint returns the last record boundary of the chain that is known to have
// been on the disk, and its segment's index in live. The first LINK always is.
func (in *inspection) syncedPoint() (p point, i int, err error) {
	for i = len(in.live) - 1; i > 0 && in.live[i].seq > in.synced.seq(); i-- {
	}
	s := in.live[i]
	r, err := openReader(in.fsys, in.dir, s.name)
	if err != nil {
		return p, i, err
	}
	defer func() { err = errors.Join(err, r.f.Close()) }()
	for p = s.start; p.off < s.end.off; {
		_, _, after, bad, err := r.next(p, s.seg.seed, in.faults.TrustHeaderOnly)
		if err != nil {
			return p, i, err
		}
		if bad != "" || after.addr() > in.synced && p.off > segHeaderArea {
			break
		}
		p = after
	}
	return p, i, nil
}

func (in *inspection) scanPosition(s *segScan, a address) (pos uint64, err error) {
	r, err := openReader(in.fsys, in.dir, s.name)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.f.Close()) }()
	off := int64(segHeaderArea)
	for _, e := range s.seg.index {
		if e.off <= a.off() {
			off = e.off
		}
	}
	pos = s.start.pos
	for off < a.off() {
		b, err := r.bytes(off, frameHeader)
		if err != nil || b == nil {
			return pos, err
		}
		h := rawHeader(b)
		pos = h.end()
		off += h.size()
	}
	return pos, nil
}
