package journal

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Sync returns once everything up to pos is on the disk. Whoever finds no sync
// running syncs all that is flushed, for itself and for those who wait; the
// others wait. A failed sync is never tried again: the journal is failed, and
// Sync returns that error for every position that is not known to be synced.
func (j *Journal) Sync(pos uint64) error {
	if j.aSynced.Load() >= pos && j.aSyncedAddr.Load() >= j.aNeed.Load() {
		return nil
	}
	j.mu.Lock()
	if pos > j.flushed.pos {
		err := j.err
		j.mu.Unlock()
		if err == nil {
			err = fmt.Errorf("%w: %d, flushed up to %d", ErrNotFlushed, pos, j.Flushed())
		}
		return err
	}
	var target address
	if pos == j.flushed.pos {
		target = j.need // records without a length in the stream count too
	}
	err := j.waitSyncedLocked(pos, target)
	j.mu.Unlock()
	j.fireVisible()
	return err
}

// syncFlushed makes everything flushed durable, MARK records included.
func (j *Journal) syncFlushed() error {
	j.mu.Lock()
	err := j.waitSyncedLocked(j.flushed.pos, j.flushed.addr())
	j.mu.Unlock()
	j.fireVisible()
	return err
}

func (j *Journal) waitSyncedLocked(pos uint64, target address) error {
	gen := j.gen
	for {
		switch {
		case j.gen != gen:
			return ErrGeneration
		case j.synced.pos >= pos && j.synced.addr() >= target:
			return nil
		case j.err != nil:
			return j.err
		case j.phase == phaseClosed || len(j.segs) == 0 || j.segs[len(j.segs)-1].f == nil:
			return ErrClosed
		case j.syncing:
			j.cond.Wait()
		default:
			j.syncLocked()
		}
	}
}

// syncLocked is the leader: it syncs what is flushed now. mu is held on entry
// and return, not in between.
func (j *Journal) syncLocked() {
	j.syncing = true
	j.syncStart = j.opts.Now()
	target := j.flushed
	todo := append(j.syncList[:0], j.dirty...)
	j.mu.Unlock()
	var err error
	for _, s := range todo {
		if err = j.syncSegment(s); err != nil {
			break
		}
	}
	j.mu.Lock()
	j.syncing = false
	j.stats.Syncs++
	j.stats.LastSync = j.opts.Now().Sub(j.syncStart)
	if err != nil {
		j.stats.SyncErrors++
		j.failLocked(err)
	} else {
		j.synced = target
		j.cleanLocked()
		j.publishLocked()
	}
	clear(todo)
	j.syncList = todo[:0]
	j.cond.Broadcast()
}

// cleanLocked drops from dirty what the synced point covers.
func (j *Journal) cleanLocked() {
	keep := j.dirty[:0]
	for _, s := range j.dirty {
		if s.hdr.seq > j.synced.seq || s.hdr.seq == j.synced.seq && s.endOff > j.synced.off {
			keep = append(keep, s)
			continue
		}
		s.dirty = false
		if s.sealed {
			j.closeSealed(s)
		}
	}
	clear(j.dirty[len(keep):])
	j.dirty = keep
}

// background syncs each second under everysec, syncs sealed segments under every
// level, writes the MARK after the last append, and trims.
func (j *Journal) background() {
	defer j.bg.Done()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-j.quit:
			return
		case <-j.kick:
			// A sealed segment must not stay unsynced for long, or syncs would
			// have ever more files to do. An error is sticky and told by Err.
			_ = j.syncFlushed()
		case <-tick.C:
			j.everySecond()
		}
	}
}

func (j *Journal) everySecond() {
	if j.Level() == LevelEverySec && j.aSyncedAddr.Load() < j.aNeed.Load() {
		_ = j.syncFlushed() // sticky, told by Err and by the next Flush
	}
	if j.markIdle() == nil && j.nameSegment() == nil {
		j.trim()
	}
}

// nameSegment makes the manifest name the newest segment whose beginning is on
// the disk, so that its loss as a whole would show.
func (j *Journal) nameSegment() error {
	j.manMu.Lock()
	defer j.manMu.Unlock()
	m := j.man
	if m.Segment = j.syncedSegment(m.Segment); m.Segment == j.man.Segment || j.Err() != nil {
		return nil
	}
	m.Seq++
	j.man.Seq = m.Seq
	unsure, err := j.writeManifest(m)
	switch {
	case err == nil:
		j.setManifest(m)
	case unsure:
		return j.fail(err)
	default:
		j.opts.Logf("%v", err) // the copies of before are as good as they were
	}
	return err
}

// markIdle writes a MARK one second after the last append, so that the synced
// position of the last records is named by something.
func (j *Journal) markIdle() error {
	j.mu.Lock()
	synced := j.synced.addr()
	due := j.err == nil && synced >= j.need && j.opts.Now().Sub(j.lastFlush) >= time.Second
	j.mu.Unlock()
	if !due {
		return nil
	}
	j.wmu.Lock()
	if len(j.w.buf) > 0 || j.w.named >= j.w.pending || j.w.seg == nil {
		j.wmu.Unlock()
		return nil
	}
	j.appendLocked(TypeMark, 0, nil)
	err := j.flushLocked()
	j.wmu.Unlock()
	if err != nil || j.Level() == LevelNo {
		return err
	}
	return j.syncFlushed()
}

// preparer creates the next segment ahead of the writer.
func (j *Journal) preparer() {
	defer j.bg.Done()
	for {
		select {
		case <-j.quit:
			return
		case <-j.prepare:
			j.prepareSpare()
		}
	}
}

func (j *Journal) prepareSpare() {
	j.mu.Lock()
	if j.spare != nil || j.switching || j.err != nil || j.phase != phaseRunning {
		j.mu.Unlock()
		return
	}
	s := j.planSegment(j.gen)
	s.ready = make(chan struct{})
	j.spare = s
	j.mu.Unlock()
	final, err := j.createSegment(s, j.opts.PreZero)
	s.prepErr = err
	if err != nil {
		j.mu.Lock()
		if j.spare == s {
			j.spare = nil
		}
		if final {
			j.failLocked(err)
		}
		j.mu.Unlock()
		if !final {
			// The half-made file takes room that the writer may need now.
			j.opts.Logf("journal: no segment in advance: %v", err)
			j.remove(s.name)
		}
	}
	close(s.ready)
}

// dropSpare takes the spare away and removes its file. switching is set, or the
// background has ended.
func (j *Journal) dropSpare() {
	j.mu.Lock()
	s := j.spare
	j.spare = nil
	j.mu.Unlock()
	if s == nil {
		return
	}
	if s.ready != nil {
		<-s.ready
	}
	if s.f != nil {
		if err := s.f.Close(); err != nil {
			j.opts.Logf("journal: close segment %s: %v", s.name, err)
		}
		s.f = nil
	}
	j.remove(s.name)
}

// awaitOrphans adds segments that were planned behind a failed write to the
// orphans, and waits until the background is done with all of them. The writer
// calls it, without mu.
func (j *Journal) awaitOrphans() {
	j.mu.Lock()
	for i := range j.w.parts {
		if s := j.w.parts[i].seg; s.ready != nil && !s.entered && !slices.Contains(j.orphans, s) {
			j.orphans = append(j.orphans, s)
		}
	}
	orphans := j.orphans
	j.mu.Unlock()
	for _, s := range orphans {
		if s.ready != nil {
			<-s.ready
		}
	}
}

// remove removes a file that is no longer needed. A failure costs room, no data.
func (j *Journal) remove(name string) {
	if err := j.fs.Remove(j.fs.PathJoin(j.dir, name)); err != nil && !isNotExist(err) {
		j.opts.Logf("journal: remove %s: %v", name, err)
	}
}

// Reopen lets a failed journal go on after the condition went away (room on the
// disk, a replaced device): a fresh segment takes everything after Synced from
// memory and is synced; the files of before are not touched again. It needs
// what was not synced to be held still: the memory window and what Flush has not
// taken. If it is not, Reopen returns ErrNotHeld, the journal stays failed,
// and a restart recovers what the disk has; BeginGeneration with a new
// checkpoint is the other way out. It belongs to the writer.
func (j *Journal) Reopen() error {
	j.wmu.Lock()
	err := j.reopenLocked()
	j.wmu.Unlock()
	j.fireVisible()
	return err
}

func (j *Journal) reopenLocked() error {
	w := &j.w
	j.mu.Lock()
	for j.syncing {
		j.cond.Wait()
	}
	if j.err == nil || j.phase != phaseRunning {
		err := j.err
		if j.phase != phaseRunning {
			err = ErrClosed
		}
		j.mu.Unlock()
		return err
	}
	j.switching = true
	from, gen := j.synced, j.gen
	j.mu.Unlock()
	defer j.stopSwitching()
	if w.lost {
		return ErrNotHeld
	}
	j.dropSpare()
	j.awaitOrphans()
	s, at, err := j.freshSegment(gen, from)
	if err != nil {
		return err
	}
	frames, end, ok := j.reframe(s, at, from)
	if !ok {
		return errors.Join(ErrNotHeld, s.f.Close())
	}
	// Writing may modify what it is given, and the window needs it afterwards.
	if err := writeSegment(s, append([]byte(nil), frames...), at.off); err != nil {
		return errors.Join(fmt.Errorf("journal: write segment %s: %w", s.name, err), s.f.Close())
	}
	if err := j.syncSegment(s); err != nil {
		return errors.Join(err, s.f.Close())
	}
	if err := j.rewriteManifest(s.hdr.seq); err != nil {
		return errors.Join(err, s.f.Close())
	}
	j.install(s, at, end, frames)
	return nil
}

func (j *Journal) stopSwitching() {
	j.mu.Lock()
	j.switching = false
	j.mu.Unlock()
	wake(j.prepare)
}

// rewriteManifest makes both copies durable that name segment seq, and so settles
// which manifest is in force, if an error or a crash left that open.
func (j *Journal) rewriteManifest(seq uint64) error {
	j.manMu.Lock()
	defer j.manMu.Unlock()
	m := j.man
	m.Seq++
	m.Segment = seq
	j.man.Seq = m.Seq
	if _, err := j.writeManifest(m); err != nil {
		return err
	}
	j.setManifest(m)
	return nil
}

// reframe frames for segment s, from at on, every record behind from that memory
// holds. ok is false if memory does not reach back to from.
func (j *Journal) reframe(s *segment, at, from point) (frames []byte, end point, ok bool) {
	w := &j.w
	end = at
	again := func(h header, payload []byte) {
		if h.typ == TypeLink || h.typ == TypeMark {
			return
		}
		h.synced, h.prev = from.addr(), end.chain
		before := len(frames)
		frames, end.chain = appendFrame(frames, h, s.seed, payload)
		end.off += int64(len(frames) - before)
		end.pos = h.end()
	}
	if !j.win.since(from.addr(), again) {
		return nil, end, false
	}
	for off := 0; off < len(w.buf); {
		h := rawHeader(w.buf[off:])
		again(h, w.buf[off+frameHeader:off+frameHeader+int(h.length)])
		off += int(h.size())
	}
	return frames, end, end.pos == w.at.pos && end.off < 1<<32
}

// install makes s the segment to write to, with frames from at to end in it, all synced.
func (j *Journal) install(s *segment, at, end point, frames []byte) {
	w := &j.w
	j.mu.Lock()
	var gone []*segment
	for len(j.segs) > 0 && j.segs[len(j.segs)-1].hdr.seq > j.synced.seq {
		gone = append(gone, j.segs[len(j.segs)-1])
		j.segs = j.segs[:len(j.segs)-1]
	}
	now := j.opts.Now()
	for _, old := range append(j.segs, gone...) {
		old.dirty = false
		if !old.sealed {
			j.sealLocked(old, now)
		}
		j.closeSealed(old)
	}
	if n := len(j.segs); n > 0 {
		j.segs[n-1].end, j.segs[n-1].endOff = j.synced.pos, j.synced.off
	}
	for _, o := range j.orphans {
		j.closeSealed(o)
		gone = append(gone, o)
	}
	j.orphans = nil
	j.dirty = j.dirty[:0]
	s.end, s.endOff = end.pos, end.off
	j.segs = append(j.segs, s)
	j.win.reset(j.gen, j.opts.MemoryWindow)
	if len(frames) > 0 {
		j.win.add(at.addr(), at.pos, end.pos, frames)
	}
	j.flushed, j.synced, j.need = end, end, end.addr()
	j.err = nil
	j.publishLocked()
	j.cond.Broadcast()
	j.mu.Unlock()
	w.seg, w.at, w.pending = s, end, end.addr()
	w.buf, w.parts = nil, nil
	j.win.evict()
	for _, old := range gone {
		j.remove(old.name)
	}
	j.opts.Logf("journal: going on in segment %s at position %d", s.name, end.pos)
}
