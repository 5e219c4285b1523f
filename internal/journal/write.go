package journal

import (
	"fmt"
	"time"
)

const (
	lateSync      = 2 * time.Second // under everysec, writes wait once a sync runs this long
	keepBuffer    = 4 << 20         // a write buffer that grew beyond this is given back
	failedBacklog = 64 << 20        // a failed journal keeps at most so many bytes for Reopen
)

// writer is the state of the single writer; guarded by Journal.wmu.
type writer struct {
	seg     *segment // what the next record goes into
	at      point    // after the last appended record
	epoch   uint64
	buf     []byte // framed, not yet handed to the operating system
	parts   []part // buf by segment; empty when buf is
	pending address
	named   address // highest synced address that any record names
	appends uint64
	lost    bool // records were dropped after the journal failed
	link    [linkSize]byte
}

// part is a run of records in writer.buf that go into one segment.
type part struct {
	seg        *segment
	start      int   // in buf
	off        int64 // in the segment
	pos, end   uint64
	lastAppend point // after its last record
}

// Append frames one record behind the last and returns the position after it.
// It does no I/O; Flush does. The payload is copied. The caller has Start behind
// it. A payload longer than MaxPayload makes the journal fail, and so tells
// Flush.
func (j *Journal) Append(t RecordType, flags uint8, payload []byte) (end uint64) {
	j.wmu.Lock()
	end = j.appendLocked(t, flags, payload)
	j.wmu.Unlock()
	return end
}

func (j *Journal) appendLocked(t RecordType, flags uint8, payload []byte) uint64 {
	w := &j.w
	w.appends++
	if w.lost || len(payload) > MaxPayload || w.seg == nil {
		return j.refuse(t, payload)
	}
	size := frameSize(int64(len(payload)))
	if w.at.off+size > j.opts.SegmentSize && w.at.off > segHeaderArea+linkFrame {
		j.roll()
	}
	j.frame(t, flags, payload)
	if t != TypeMark {
		w.pending = w.at.addr()
	}
	j.aEnd.Store(w.at.pos)
	return w.at.pos
}

// refuse counts a record that cannot be kept, so that the end is still what the
// owner believes, and makes the journal fail.
func (j *Journal) refuse(t RecordType, payload []byte) uint64 {
	w := &j.w
	err := ErrNotHeld
	if w.seg == nil {
		err = ErrClosed
	} else if len(payload) > MaxPayload {
		err = fmt.Errorf("%w: %d bytes; at most %d", ErrTooLarge, len(payload), MaxPayload)
	}
	w.lost = true
	w.buf, w.parts = nil, nil
	if t == TypeStream {
		w.at.pos += uint64(len(payload))
	}
	_ = j.fail(err)
	j.aEnd.Store(w.at.pos)
	return w.at.pos
}

// frame appends the record to the write buffer.
func (j *Journal) frame(t RecordType, flags uint8, payload []byte) {
	w := &j.w
	if n := len(w.parts); n == 0 || w.parts[n-1].seg != w.seg {
		w.parts = append(w.parts, part{seg: w.seg, start: len(w.buf), off: w.at.off, pos: w.at.pos})
	}
	h := header{typ: t, flags: flags, epoch: w.epoch, pos: w.at.pos, prev: w.at.chain}
	if !j.opts.Faults.SyncedStaysZero {
		h.synced = address(j.aSyncedAddr.Load())
	}
	w.named = max(w.named, h.synced)
	before := len(w.buf)
	w.buf, w.at.chain = appendFrame(w.buf, h, w.seg.seed, payload)
	w.at.off += int64(len(w.buf) - before)
	if t == TypeStream {
		w.at.pos += uint64(len(payload))
	}
	p := &w.parts[len(w.parts)-1]
	p.end, p.lastAppend = w.at.pos, w.at
}

// roll goes on in the next segment. Its file may not exist yet: Flush sees to that.
func (j *Journal) roll() {
	w := &j.w
	j.mu.Lock()
	next := j.spare
	j.spare = nil
	if next == nil {
		next = j.planSegment(j.gen)
	}
	j.mu.Unlock()
	next.base, next.end = w.at.pos, w.at.pos
	l := link{prevSeq: w.at.seq, prevEnd: w.at.off, prevChain: w.at.chain}
	w.seg = next
	w.at = point{seq: next.hdr.seq, off: segHeaderArea, chain: next.hdr.sum, pos: w.at.pos}
	j.frame(TypeLink, 0, l.appendTo(w.link[:0]))
}

// Flush hands what was appended to the operating system. Under LevelEverySec it
// blocks while a sync is more than two seconds late. The first error is sticky:
// the journal is failed, Err tells, and nothing more is written.
func (j *Journal) Flush() error {
	j.wmu.Lock()
	err := j.flushLocked()
	j.wmu.Unlock()
	j.fireVisible()
	return err
}

func (j *Journal) flushLocked() error {
	w := &j.w
	if err := j.beforeWrite(len(w.buf) > 0); err != nil {
		j.limitBacklog()
		return err
	}
	if len(w.buf) == 0 {
		return nil
	}
	for i := range w.parts {
		p := &w.parts[i]
		// Writing may modify the buffer, so the window takes its copy first. It
		// also holds what a failed write leaves for Reopen.
		j.win.add(addressOf(p.seg.hdr.seq, p.off), p.pos, p.end, w.buf[p.start:j.partEnd(i)])
	}
	for i := range w.parts {
		if err := j.writePart(i); err != nil {
			return j.failWrite(err)
		}
	}
	j.win.evict()
	rolled := len(w.parts) > 1
	j.afterWrite(rolled)
	w.buf, w.parts = w.buf[:0], w.parts[:0]
	if cap(w.buf) > keepBuffer {
		w.buf = nil
	}
	if rolled {
		wake(j.prepare)
	}
	return nil
}

// failWrite makes the journal fail and forgets the batch, which the window holds.
func (j *Journal) failWrite(err error) error {
	w := &j.w
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range w.parts {
		if s := w.parts[i].seg; s != j.segs[len(j.segs)-1] {
			j.orphans = append(j.orphans, s)
		}
	}
	w.buf, w.parts = w.buf[:0], w.parts[:0]
	j.failLocked(err)
	return j.err
}

// partEnd returns where part i ends in the write buffer.
func (j *Journal) partEnd(i int) int {
	if i+1 < len(j.w.parts) {
		return j.w.parts[i+1].start
	}
	return len(j.w.buf)
}

// limitBacklog keeps an owner that goes on appending to a failed journal from
// filling the memory; Reopen is then no longer possible.
func (j *Journal) limitBacklog() {
	if len(j.w.buf) > failedBacklog {
		j.w.buf, j.w.parts, j.w.lost = nil, nil, true
	}
}

// beforeWrite returns the sticky error, and waits for a sync that is late.
func (j *Journal) beforeWrite(data bool) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil || !data {
		return j.err
	}
	for waited := false; j.err == nil && j.syncing && j.Level() == LevelEverySec && j.opts.Now().Sub(j.syncStart) >= lateSync; j.cond.Wait() {
		if !waited {
			waited = true
			j.stats.Delayed++
			j.opts.Logf("Asynchronous AOF fsync is taking too long (disk is busy?). Writes wait until it is done.")
		}
	}
	return j.err
}

// writePart writes one run of records to its segment.
func (j *Journal) writePart(i int) error {
	p := &j.w.parts[i]
	if !p.seg.entered {
		if err := j.enter(p.seg); err != nil {
			return err
		}
		p.seg.entered = true
	}
	if err := writeSegment(p.seg, j.w.buf[p.start:j.partEnd(i)], p.off); err != nil {
		return fmt.Errorf("journal: write segment %s: %w", p.seg.name, err)
	}
	return nil
}

// enter sees to it that the file of s exists, by the background or here.
func (j *Journal) enter(s *segment) error {
	if s.ready != nil {
		<-s.ready
		if s.prepErr == nil {
			return nil
		}
		if err := j.Err(); err != nil {
			return err
		}
	}
	// The background could not make room for a whole segment of zeros; what is
	// needed now may still fit.
	_, err := j.createSegment(s, false)
	return err
}

// afterWrite makes the written parts known to syncs and followers.
func (j *Journal) afterWrite(rolled bool) {
	w := &j.w
	j.mu.Lock()
	defer j.mu.Unlock()
	now := j.opts.Now()
	for i := range w.parts {
		p := &w.parts[i]
		s := p.seg
		if last := j.segs[len(j.segs)-1]; last != s {
			j.sealLocked(last, now)
			j.segs = append(j.segs, s)
		}
		s.end, s.endOff = p.end, p.lastAppend.off
		s.addIndex(p.pos, p.off)
		if !s.dirty {
			s.dirty = true
			j.dirty = append(j.dirty, s)
		}
		j.flushed = p.lastAppend
	}
	j.need = max(j.need, w.pending)
	j.lastFlush = now
	j.stats.Flushes++
	j.publishLocked()
	if rolled {
		wake(j.kick)
	}
}

// sealLocked notes that s is written to no more.
func (j *Journal) sealLocked(s *segment, now time.Time) {
	s.sealed, s.sealedAt = true, now
	if !s.dirty {
		j.closeSealed(s)
	}
}

// closeSealed closes the file of a segment that is sealed and synced.
func (j *Journal) closeSealed(s *segment) {
	if s.f == nil {
		return
	}
	if err := s.f.Close(); err != nil {
		// Everything in it is synced: the data is safe, the descriptor may not be.
		j.opts.Logf("journal: close segment %s: %v", s.name, err)
	}
	s.f = nil
}

// SetEpoch makes every later record carry epoch e, beginning with an EPOCH record.
func (j *Journal) SetEpoch(e uint64) {
	j.wmu.Lock()
	defer j.wmu.Unlock()
	j.w.epoch = e
	j.appendLocked(TypeEpoch, 0, nil)
}

// Epoch returns the epoch that records carry now.
func (j *Journal) Epoch() uint64 {
	j.wmu.Lock()
	defer j.wmu.Unlock()
	return j.w.epoch
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
