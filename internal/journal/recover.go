package journal

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
)

// Recovery says what Open found.
type Recovery struct {
	Fresh         bool // no journal yet: BeginGeneration or Start makes the first generation
	Clean         bool // it was closed in order
	Generation    uint64
	Base          uint64
	HistoryIDs    [2]string
	SecondEnd     uint64
	Checkpoint    string // load this file first, if not ""
	CheckpointPos uint64 // then Replay from here
	FirstPos      uint64 // oldest position that followers can read
	End           uint64 // position after the last whole record
	SyncedPos     uint64 // everything below is known to have been on the disk
	Epoch         uint64 // of the last record
	Segments      int
	Records       int
	TornBytes     int64  // bytes behind End that did not make a record and are left out
	TornFile      string // where, if TornBytes > 0
	TornOffset    int64
	ManifestFixed bool            // a copy of the manifest was damaged or behind; Start writes both anew
	Notes         []*CorruptError // damage that costs nothing: the checkpoint covers it
}

// recovered is what Replay and Start need to know of Open's findings.
type recovered struct {
	in     *inspection
	fresh  bool
	strays []string
	replay []*segScan
}

// Open locks the directory, creating it if need be, reads the manifest and
// verifies all segments. It changes nothing else: that is for Start. The error
// wraps ErrLocked, is a *ReadError, or is a *CorruptError (ErrCorrupt).
func Open(opts Options) (*Journal, Recovery, error) {
	opts = opts.withDefaults()
	if err := opts.FS.MkdirAll(opts.Dir, 0o755); err != nil {
		return nil, Recovery{}, fmt.Errorf("journal: create directory: %w", err)
	}
	lockPath := opts.FS.PathJoin(opts.Dir, lockName)
	lock, err := opts.FS.Lock(lockPath)
	if err != nil {
		if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EACCES) || err.Error() == "lock held by current process" {
			return nil, Recovery{}, fmt.Errorf("%w: %s (lock file %s)", ErrLocked, opts.Dir, lockPath)
		}
		return nil, Recovery{}, fmt.Errorf("journal: lock data directory: %w", err)
	}
	j := &Journal{
		opts: opts, fs: opts.FS, dir: opts.Dir, lock: lock,
		followers: map[*Follower]struct{}{}, nextSeq: 1,
		kick: make(chan struct{}, 1), prepare: make(chan struct{}, 1), quit: make(chan struct{}),
	}
	j.cond = sync.NewCond(&j.mu)
	j.level.Store(int32(opts.Level))
	rec, err := j.recover()
	if err != nil {
		return nil, rec, errors.Join(err, lock.Close())
	}
	if j.dirf, err = opts.FS.OpenDir(opts.Dir); err != nil {
		return nil, rec, errors.Join(fmt.Errorf("journal: open directory: %w", err), lock.Close())
	}
	return j, rec, nil
}

func (j *Journal) recover() (Recovery, error) {
	in, err := inspect(j.fs, j.dir, j.opts.Faults)
	if err != nil {
		return Recovery{}, err
	}
	rec := in.summary()
	if len(in.damage) > 0 {
		return rec, in.damage[0]
	}
	j.rec = recovered{in: in, fresh: rec.Fresh, strays: in.strays, replay: in.live}
	for _, name := range in.names {
		if gen, _, ok := parseSegmentName(name); ok {
			j.topGen = max(j.topGen, gen)
		}
	}
	for _, s := range in.dead {
		j.rec.strays = append(j.rec.strays, s.name)
	}
	if rec.Fresh {
		return rec, nil
	}
	m := *in.man
	m.HistoryIDs, m.SecondEnd = rec.HistoryIDs, rec.SecondEnd
	j.setManifest(m)
	j.adopt(in, rec)
	return rec, nil
}

// summary is what the inspection means for the owner.
func (in *inspection) summary() Recovery {
	rec := Recovery{Fresh: in.man == nil && len(in.damage) == 0, Notes: in.notes, Segments: len(in.live)}
	if in.man == nil {
		return rec
	}
	m := in.man
	rec.Generation, rec.Base, rec.HistoryIDs, rec.SecondEnd = m.Generation, m.Base, m.HistoryIDs, m.SecondEnd
	rec.Checkpoint, rec.CheckpointPos = m.Checkpoint, m.CheckpointPos
	rec.ManifestFixed = !in.copies[0].valid() || !in.copies[1].valid() || in.copies[0].m.Seq != in.copies[1].m.Seq
	rec.End, rec.SyncedPos, rec.FirstPos = in.end.pos, in.syncPos, m.Base
	if len(in.live) > 0 {
		rec.FirstPos = in.live[0].start.pos
	}
	for _, s := range in.live {
		rec.Records += s.records
		rec.Epoch, rec.Clean = s.lastEpoch, s.clean
		if s.history != nil && s.history.seq > m.Seq {
			rec.HistoryIDs, rec.SecondEnd, rec.ManifestFixed = s.history.IDs, s.history.SecondEnd, true
		}
	}
	if in.bad != nil {
		rec.TornBytes = in.bad.torn
		for _, s := range in.dead {
			if s.linked && s.seq > in.bad.scan.seq {
				rec.TornBytes += max(0, s.size-segHeaderArea)
			}
		}
		if rec.TornBytes > 0 {
			rec.TornFile, rec.TornOffset, rec.Clean = in.bad.scan.name, in.bad.at.off, false
		}
	}
	return rec
}

// adopt takes over what the inspection found as the journal's state.
func (j *Journal) adopt(in *inspection, rec Recovery) {
	j.gen, j.topGen = rec.Generation, max(j.topGen, rec.Generation)
	for _, s := range in.segs {
		j.nextSeq = max(j.nextSeq, s.seq+1)
	}
	now := j.opts.Now()
	for i, s := range in.live {
		s.seg.sealedAt = now
		if i+1 < len(in.live) {
			s.seg.sealedAt = in.live[i+1].hdr.created
		}
		j.segs = append(j.segs, s.seg)
	}
	j.w.epoch = rec.Epoch
	j.w.at = in.end
	j.flushed = in.end
	j.need = in.end.addr()
	j.synced = point{pos: rec.SyncedPos}
	j.win.reset(j.gen, j.opts.MemoryWindow)
	j.aGen.Store(j.gen)
	j.aEnd.Store(in.end.pos)
	j.aFirst.Store(rec.FirstPos)
	j.aVisible.Store(rec.SyncedPos)
	j.publishLocked()
}

// Replay calls fn with each STREAM, HISTORY and EPOCH record from position from
// on, in order. It may be called between Open and Start; from must be a
// record's position or the end. An error of fn ends it and is returned.
func (j *Journal) Replay(from uint64, fn func(Record) error) error {
	if j.rec.fresh {
		return nil
	}
	if j.rec.in == nil {
		return errors.New("journal: Replay after Start")
	}
	if end := j.End(); from > end {
		return fmt.Errorf("%w: replay from %d, end %d", ErrAhead, from, end)
	}
	if first := j.FirstPos(); from < first {
		return fmt.Errorf("%w: replay from %d, first %d", ErrTrimmed, from, first)
	}
	for _, s := range j.rec.replay {
		if s.end.pos < from {
			continue
		}
		if err := j.replaySegment(s, from, fn); err != nil {
			return err
		}
	}
	return nil
}

func (j *Journal) replaySegment(s *segScan, from uint64, fn func(Record) error) error {
	return j.eachRecovered(s, s.start, func(h header, payload []byte) error {
		if h.typ == TypeLink || h.typ == TypeMark || h.pos < from && h.end() <= from {
			return nil
		}
		if h.pos < from {
			return fmt.Errorf("%w: %d, the record runs from %d to %d", ErrMidRecord, from, h.pos, h.end())
		}
		return fn(Record{Type: h.typ, Flags: h.flags, Epoch: h.epoch, Pos: h.pos, Payload: payload})
	})
}

// eachRecovered calls fn with each record of s from at on that counts.
func (j *Journal) eachRecovered(s *segScan, at point, fn func(header, []byte) error) (err error) {
	r, err := openReader(j.fs, j.dir, s.name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.f.Close()) }()
	skips := s.skips
	for at.off < s.end.off {
		if len(skips) > 0 && skips[0].off == at.off {
			at, skips = skips[0].to, skips[1:]
			continue
		}
		h, payload, after, bad, err := r.next(at, s.seg.seed, j.opts.Faults.TrustHeaderOnly)
		if err != nil {
			return err
		}
		if bad != "" {
			return &CorruptError{File: s.name, Offset: at.off, Pos: at.pos, SyncedPos: j.Synced(), Reason: bad + ", but it was whole a moment ago"}
		}
		if err := fn(h, payload); err != nil {
			return err
		}
		at = after
	}
	return nil
}

// Start opens a new segment, removes leftovers and begins the background work. It
// never appends to a segment that another process wrote, and it writes anew, into
// the new segment, what is not known to have been on the disk: a sync that failed
// in the other process may have lost pages that only the cache still shows. On a fresh directory without a BeginGeneration before,
// it begins generation 1 at position 0.
func (j *Journal) Start() error {
	j.wmu.Lock()
	err := j.startLocked()
	j.wmu.Unlock()
	j.fireVisible()
	return err
}

func (j *Journal) startLocked() error {
	if j.phase != phaseOpened {
		return errors.New("journal: Start is called once")
	}
	if j.w.seg == nil {
		var err error
		if j.rec.fresh {
			err = j.beginLocked(NewGeneration{})
		} else {
			err = j.resume()
		}
		if err != nil {
			_ = j.fail(err)
			return err
		}
	}
	j.removeStrays()
	j.rec = recovered{}
	j.mu.Lock()
	j.phase = phaseRunning
	j.mu.Unlock()
	if !j.opts.manual {
		j.bg.Add(2)
		go j.background()
		go j.preparer()
	}
	wake(j.prepare)
	return nil
}

// removeStrays removes leftovers, but never a file that is in use after all.
func (j *Journal) removeStrays() {
	used := map[string]bool{j.Manifest().Checkpoint: true}
	j.mu.Lock()
	for _, s := range j.segs {
		used[s.name] = true
	}
	j.mu.Unlock()
	for _, name := range j.rec.strays {
		if !used[name] {
			j.remove(name)
		}
	}
	j.rec.strays = nil
}

// resume opens a segment behind the last point that is known to be on the disk,
// and copies what was recovered behind that point into it.
func (j *Journal) resume() error {
	in := j.rec.in
	if j.opts.Faults.AppendToRecovered {
		return j.appendToRecovered(in.live[len(in.live)-1])
	}
	from, last, err := in.syncedPoint()
	if err != nil {
		return err
	}
	if in.end.pos-from.pos > maxCopy {
		if from, last, err = in.end, len(in.live)-1, j.syncRecovered(in); err != nil {
			return err
		}
	}
	s, at, err := j.freshSegment(j.gen, from)
	if err != nil {
		return err
	}
	if at, err = j.copyRecovered(s, at, from, last); err == nil {
		err = j.syncSegment(s)
	}
	if err == nil {
		err = j.rewriteManifest(s.hdr.seq)
	}
	if err != nil {
		return errors.Join(err, s.f.Close())
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, old := range in.live[last+1:] {
		j.rec.strays = append(j.rec.strays, old.name)
	}
	j.segs = j.segs[:last+1]
	j.segs[last].end, j.segs[last].endOff = from.pos, from.off
	j.segs = append(j.segs, s)
	j.enterLocked(s, at)
	return nil
}

// maxCopy is how many bytes of stream resume copies at most; the level "no" may
// leave more behind, which is then synced where it is.
const maxCopy = 1 << 30

// copyRecovered frames anew, into s from at on, the records behind from.
func (j *Journal) copyRecovered(s *segment, at, from point, last int) (point, error) {
	var buf []byte
	for i, old := range j.rec.in.live[last:] {
		start := old.start
		if i == 0 {
			start = from
		}
		err := j.eachRecovered(old, start, func(h header, payload []byte) error {
			if h.typ == TypeLink || h.typ == TypeMark {
				return nil
			}
			s.addIndex(at.pos, at.off+int64(len(buf)))
			h.synced, h.prev = from.addr(), at.chain
			buf, at.chain = appendFrame(buf, h, s.seed, payload)
			at.pos = h.end()
			if len(buf) < readChunk {
				return nil
			}
			err := writeSegment(s, buf, at.off)
			at.off += int64(len(buf))
			buf = buf[:0]
			return err
		})
		if err != nil {
			return at, fmt.Errorf("journal: copy to segment %s: %w", s.name, err)
		}
	}
	if len(buf) > 0 {
		if err := writeSegment(s, buf, at.off); err != nil {
			return at, fmt.Errorf("journal: copy to segment %s: %w", s.name, err)
		}
	}
	at.off += int64(len(buf))
	s.end, s.endOff = at.pos, at.off
	return at, nil
}

// enterLocked makes s the segment to write to, everything up to at synced.
func (j *Journal) enterLocked(s *segment, at point) {
	j.w.seg, j.w.at, j.w.pending = s, at, at.addr()
	j.w.buf, j.w.parts, j.w.lost = nil, nil, false
	j.flushed, j.synced, j.need = at, at, at.addr()
	j.lastFlush = j.opts.Now()
	j.aEnd.Store(at.pos)
	j.publishLocked()
}

// syncRecovered makes durable where it is what another process wrote.
func (j *Journal) syncRecovered(in *inspection) error {
	for _, s := range in.live {
		if s.end.addr() <= in.synced {
			continue
		}
		f, err := j.fs.OpenReadWrite(j.fs.PathJoin(j.dir, s.name), writeCategory)
		if err != nil {
			return fmt.Errorf("journal: open segment %s: %w", s.name, err)
		}
		if err := errors.Join(f.SyncData(), f.Close()); err != nil {
			return fmt.Errorf("journal: sync segment %s: %w", s.name, err)
		}
	}
	return nil
}

// appendToRecovered is the mutant that goes on in the cut segment.
func (j *Journal) appendToRecovered(s *segScan) error {
	f, err := j.fs.OpenReadWrite(j.fs.PathJoin(j.dir, s.name), writeCategory)
	if err != nil {
		return err
	}
	s.seg.f, s.seg.at, s.seg.sealed, s.seg.entered = f, true, false, true
	j.mu.Lock()
	j.enterLocked(s.seg, s.end)
	j.mu.Unlock()
	return nil
}

// Close flushes, writes the MARK of an orderly end, syncs and releases the
// directory. A failed journal is released as it is, and its error returned.
func (j *Journal) Close() error {
	j.wmu.Lock()
	defer j.wmu.Unlock()
	j.mu.Lock()
	was := j.phase
	if was == phaseClosed {
		j.mu.Unlock()
		return ErrClosed
	}
	j.mu.Unlock()
	var err error
	if j.w.seg != nil {
		err = j.finish()
	}
	return errors.Join(err, j.release(was))
}

// finish syncs what is there, then the MARK that names all of it.
func (j *Journal) finish() error {
	if err := j.Err(); err != nil {
		return err
	}
	if err := j.flushLocked(); err != nil {
		return err
	}
	if err := j.syncFlushed(); err != nil {
		return err
	}
	j.appendLocked(TypeMark, FlagClean, nil)
	if err := j.flushLocked(); err != nil {
		return err
	}
	if err := j.syncFlushed(); err != nil {
		return err
	}
	return j.nameSegment()
}

// release ends the background and gives back every descriptor and the lock.
func (j *Journal) release(was phase) error {
	j.mu.Lock()
	j.phase, j.switching = phaseClosed, true
	j.cond.Broadcast()
	for j.syncing {
		j.cond.Wait()
	}
	j.mu.Unlock()
	if was == phaseRunning {
		close(j.quit)
		// The background may be waiting for the writer's lock to write a MARK.
		j.wmu.Unlock()
		j.bg.Wait()
		j.wmu.Lock()
	}
	j.dropSpare()
	j.mu.Lock()
	defer j.mu.Unlock()
	var err error
	for _, s := range append(append([]*segment(nil), j.segs...), j.orphans...) {
		if s.f != nil {
			err = errors.Join(err, s.f.Close())
			s.f = nil
		}
	}
	return errors.Join(err, j.dirf.Close(), j.lock.Close())
}

// kill releases the journal as a crash of the process would: nothing is flushed,
// marked or synced.
func (j *Journal) kill() {
	j.wmu.Lock()
	defer j.wmu.Unlock()
	j.mu.Lock()
	was := j.phase
	if j.err == nil {
		j.err = ErrClosed
	}
	j.mu.Unlock()
	if was != phaseClosed {
		_ = j.release(was)
	}
}
