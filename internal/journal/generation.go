package journal

import (
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const writeCategory = vfs.WriteCategoryUnspecified

// NewGeneration describes the generation that BeginGeneration makes current.
type NewGeneration struct {
	HistoryIDs    [2]string // replid, replid2
	SecondEnd     uint64
	Base          uint64 // position of the first byte to come
	Checkpoint    string // file in the directory, written and synced by the caller; "" if the data is empty
	CheckpointPos uint64 // equal to Base if there is a checkpoint
}

// BeginGeneration discards the journal and begins anew at g.Base, by one durable
// manifest switch: after a crash either all of the old generation is there or
// all of the new one. The checkpoint's content and name must be durable. The old
// generation's files, its checkpoint included, are removed afterwards. Followers
// get ErrGeneration. Records that were not flushed are dropped: they are in the
// checkpoint. A failed journal works again after it. It may be called before
// Start, and belongs to the writer.
func (j *Journal) BeginGeneration(g NewGeneration) error {
	j.wmu.Lock()
	err := j.beginLocked(g)
	j.wmu.Unlock()
	j.fireVisible()
	return err
}

func (j *Journal) beginLocked(g NewGeneration) error {
	if g.Checkpoint == "" {
		g.CheckpointPos = g.Base
	}
	if g.CheckpointPos != g.Base {
		return fmt.Errorf("journal: checkpoint at position %d, base %d: they must be equal", g.CheckpointPos, g.Base)
	}
	j.mu.Lock()
	if j.phase == phaseClosed {
		j.mu.Unlock()
		return ErrClosed
	}
	j.switching = true
	for j.syncing {
		j.cond.Wait()
	}
	j.topGen++
	gen := j.topGen
	oldSeq := j.nextSeq
	j.mu.Unlock()
	defer j.stopSwitching()
	j.dropSpare()
	j.awaitOrphans()
	j.mu.Lock()
	j.nextSeq = 1
	j.mu.Unlock()
	s, at, err := j.freshSegment(gen, point{pos: g.Base})
	if err == nil {
		if err = j.syncSegment(s); err == nil {
			err = j.switchManifest(gen, g)
		}
		if err != nil {
			// The file stays: a restart may find that the switch was made.
			err = errors.Join(err, s.f.Close())
		}
	}
	if err != nil {
		j.mu.Lock()
		j.nextSeq = oldSeq
		j.mu.Unlock()
		return err
	}
	j.enterGeneration(gen, s, at)
	return nil
}

// switchManifest makes the manifest of generation gen durable.
func (j *Journal) switchManifest(gen uint64, g NewGeneration) error {
	j.manMu.Lock()
	defer j.manMu.Unlock()
	m := Manifest{
		Seq: j.man.Seq + 1, Generation: gen, Base: g.Base, HistoryIDs: g.HistoryIDs,
		SecondEnd: g.SecondEnd, Checkpoint: g.Checkpoint, CheckpointPos: g.CheckpointPos, Segment: 1,
	}
	unsure, err := j.writeManifest(m)
	if err != nil {
		j.man.Seq = m.Seq
		if unsure {
			// A restart may find either generation: nothing may be acknowledged
			// in the old one until a manifest is durable again.
			return j.fail(err)
		}
		return err
	}
	if old := j.man.Checkpoint; old != "" && old != m.Checkpoint {
		j.rec.strays = append(j.rec.strays, old)
	}
	j.setManifest(m)
	return nil
}

// enterGeneration swaps the state in memory and removes the old files.
func (j *Journal) enterGeneration(gen uint64, s *segment, at point) {
	j.mu.Lock()
	for j.syncing {
		j.cond.Wait() // a sync of the old generation must not end in the new one
	}
	old := append(j.segs, j.orphans...)
	for _, o := range old {
		j.closeSealed(o)
	}
	j.segs, j.orphans = []*segment{s}, nil
	clear(j.dirty)
	j.dirty = j.dirty[:0]
	j.gen, j.err = gen, nil
	j.win.reset(gen, j.opts.MemoryWindow)
	// A follower checks the generation after it has loaded what is visible.
	j.aGen.Store(gen)
	j.aFirst.Store(at.pos)
	j.aVisible.Store(at.pos)
	j.w.named = 0
	j.enterLocked(s, at)
	j.notify.Store(true)
	running := j.phase == phaseRunning
	j.cond.Broadcast()
	j.mu.Unlock()
	for _, o := range old {
		j.rec.strays = append(j.rec.strays, o.name)
	}
	j.rec.fresh, j.rec.in, j.rec.replay = false, nil, nil
	if running {
		j.removeStrays()
	}
}

// SetHistory changes the replication ids from the end on: a HISTORY record and
// the manifest, both durable on return. It belongs to the writer, after Start.
func (j *Journal) SetHistory(ids [2]string, secondEnd uint64) error {
	j.wmu.Lock()
	err := j.setHistoryLocked(ids, secondEnd)
	j.wmu.Unlock()
	j.fireVisible()
	return err
}

func (j *Journal) setHistoryLocked(ids [2]string, secondEnd uint64) error {
	j.manMu.Lock()
	defer j.manMu.Unlock()
	m := j.man
	m.Seq++
	m.HistoryIDs, m.SecondEnd = ids, secondEnd
	m.Segment = j.syncedSegment(m.Segment)
	if err := m.validate(); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	h := History{IDs: ids, SecondEnd: secondEnd, seq: m.Seq}
	j.appendLocked(TypeHistory, 0, h.appendTo(nil))
	if err := j.flushLocked(); err != nil {
		return err
	}
	if err := j.syncFlushed(); err != nil {
		return err
	}
	j.man.Seq = m.Seq
	if _, err := j.writeManifest(m); err != nil {
		return j.fail(err)
	}
	j.setManifest(m)
	return nil
}

// CheckpointDone makes file the checkpoint: it holds everything below pos, and
// its content and name are durable. The journal is synced up to pos first, so
// that it never ends before its checkpoint. Afterwards the old checkpoint is
// removed, and so are the segments that neither the checkpoint nor the retention
// nor a follower needs. On error the caller leaves both files: a restart may
// find either named. It may be called from any goroutine.
func (j *Journal) CheckpointDone(file string, pos uint64) error {
	if err := j.Sync(pos); err != nil {
		return err
	}
	j.manMu.Lock()
	defer j.manMu.Unlock()
	m := j.man
	if file == "" || pos < m.CheckpointPos {
		return fmt.Errorf("journal: checkpoint %q at position %d is not newer than the one at %d", file, pos, m.CheckpointPos)
	}
	m.Seq++
	m.Checkpoint, m.CheckpointPos = file, pos
	m.Segment = j.syncedSegment(m.Segment)
	if j.opts.Faults.TrimEarly {
		j.trimTo(pos)
	}
	j.man.Seq = m.Seq
	if _, err := j.writeManifest(m); err != nil {
		return err
	}
	old := j.man.Checkpoint
	j.setManifest(m)
	if old != "" && old != file {
		j.remove(old)
	}
	j.trimTo(pos)
	return nil
}

// syncedSegment returns the number of the newest segment whose beginning is on the disk.
func (j *Journal) syncedSegment(least uint64) uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return max(least, j.synced.seq)
}

// trim removes the segments that nobody needs any more.
func (j *Journal) trim() {
	j.manMu.Lock()
	pos := j.man.CheckpointPos
	j.trimTo(pos)
	j.manMu.Unlock()
}

// trimTo removes segments wholly below pos that are not retained. manMu is held.
func (j *Journal) trimTo(pos uint64) {
	j.mu.Lock()
	n := j.trimmableLocked(pos, j.opts.Now())
	gone := append([]*segment(nil), j.segs[:n]...)
	if n > 0 {
		j.segs = append([]*segment(nil), j.segs[n:]...)
		j.aFirst.Store(j.segs[0].base)
		j.stats.Trimmed += uint64(n)
	}
	j.mu.Unlock()
	for _, s := range gone {
		if j.opts.Faults.ReuseSegment {
			j.mu.Lock()
			if j.recycled == "" {
				j.recycled = s.name
				j.mu.Unlock()
				continue
			}
			j.mu.Unlock()
		}
		j.remove(s.name)
	}
}

// trimmableLocked returns how many of the oldest segments may go.
func (j *Journal) trimmableLocked(pos uint64, now time.Time) int {
	end := j.flushed.pos
	keep := pos
	for f := range j.followers {
		// A follower holds what it has not read, but not without bound.
		if at := f.held.Load(); f.gen == j.gen && end-at <= uint64(j.opts.FollowerRetain) {
			keep = min(keep, at)
		}
	}
	if r := uint64(max(j.opts.RetainSize, 0)); r > 0 {
		keep = min(keep, end-min(r, end))
	}
	n := 0
	for n < len(j.segs)-1 {
		s := j.segs[n]
		if s.end > keep || s.dirty || !s.sealed || j.opts.RetainTime > 0 && now.Sub(s.sealedAt) < j.opts.RetainTime {
			break
		}
		n++
	}
	return n
}
