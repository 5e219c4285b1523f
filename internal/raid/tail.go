package raid

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/raid/format"
)

// The tail log. One current segment for the whole array, the same bytes on as many
// members as may be lost, and one more. An append is acknowledged when all copies
// are synced. A segment that has grown, or lost a copy, is left behind: the next
// one begins with all that still counts, is synced with its name, and only then
// named by a TAIL record; nothing is acknowledged from it before that record is
// durable, and until then the old one stays.

// tailLog is the current segment. Guarded by Array.mu.
//
// Invariant: synced <= off.
type tailLog struct {
	seg      uint64
	next     uint64 // number of the next segment; none is tried twice
	members  uint32
	files    []vfs.File // by member
	off      int64      // end of what was appended
	seq      uint64
	last     uint64 // number of the last record that counts
	seqDone  uint64 // records up to it are synced
	chain    uint32
	synced   int64
	syncing  bool
	mustRoll bool   // a copy is gone, or a sync found no room
	metaSeq  uint64 // batch with the TAIL record that names the segment
	start    int64  // size with which it began
	syncs    int    // of this segment
	zeroed   bool   // it was made beforehand
	ready    preparedTail
	buf      []byte // one record, as encoded
	copies   []byte // what a member is given, since writing may modify it
	olds     []oldTail
}

// oldTail is a segment that goes when batch seq is durable.
type oldTail struct {
	seg     uint64
	members uint32
	seq     uint64
}

func tailName(seg uint64) string { return fmt.Sprintf("tail-%010d.log", seg) }

// appendTailLocked appends a record with bytes of ino from off on to all copies. An
// error for lack of room leaves the log as it was: the next record goes to the
// same place, under another number. Members that fail are marked, and the caller
// settles. mu is held.
func (a *Array) appendTailLocked(ino *inode, off int64, payload []byte) error {
	t := &a.tail
	t.seq++ // also if it fails: no two records have the same number
	r := format.TailRecord{Segment: t.seg, Seq: t.seq, Synced: t.seqDone, File: ino.id, Offset: uint64(off), Payload: payload}
	var chain uint32
	t.buf, chain = format.AppendTailRecord(t.buf[:0], &r, t.chain)
	var full error
	for s := range slots(t.members & a.okLocked()) {
		t.copies = append(t.copies[:0], t.buf...)
		err := writeAt(t.files[s], t.copies, t.off)
		switch {
		case err == nil:
		case noRoom(err):
			full = errors.Join(full, a.noRoomLocked(a.members[s], err))
		default:
			a.failLocked(a.members[s], "write tail log", err)
		}
	}
	if full != nil {
		return full
	}
	if a.failed != nil {
		return a.failed
	}
	t.chain, t.last = chain, t.seq
	t.off += int64(len(t.buf))
	ino.logSeg, ino.logEnd = t.seg, t.off
	a.roomyLocked()
	if cap(t.buf) > 1<<20 {
		t.buf, t.copies = nil, nil
	}
	return nil
}

// logLocked brings the open tail of ino into the tail log and sees to it that the
// log is in order. mu is held, and may be given up and taken again.
func (a *Array) logLocked(ino *inode) error {
	if a.tail.mustRoll || a.raisePending || a.failed != nil {
		if err := a.settleLocked(); err != nil {
			return err
		}
	}
	if n := len(ino.buf); n > ino.logged {
		if err := a.appendTailLocked(ino, ino.base+int64(ino.logged), ino.buf[ino.logged:]); err != nil {
			return err
		}
		ino.logged = n
	}
	if a.tail.mustRoll || a.raisePending {
		return a.settleLocked()
	}
	if t := &a.tail; !a.full && (t.off > t.start+a.opts.TailSize || !t.zeroed && t.ready.files != nil) {
		if err := a.rollTailLocked(); err != nil && !noRoom(err) {
			return err
		}
		return a.settleLocked()
	}
	return nil
}

// syncTailLocked returns when the tail log is durable up to end of segment seg,
// on all copies, and the segment is durably named. mu is held, and given up while
// the disks work.
func (a *Array) syncTailLocked(seg uint64, end int64) error {
	t := &a.tail
	// What stood in an earlier segment and still counts is in this one.
	for t.seg == seg && t.synced < end {
		if err := a.settleLocked(); err != nil {
			return err
		}
		if t.seg != seg || t.synced >= end {
			break
		}
		if t.syncing {
			a.cond.Wait()
			continue
		}
		if err := a.leadTailSync(); err != nil {
			return err
		}
	}
	if err := a.syncMetaLocked(t.metaSeq); err != nil {
		return err
	}
	return a.settleLocked()
}

// leadTailSync syncs all copies of the segment. mu is held.
func (a *Array) leadTailSync() error {
	t := &a.tail
	end, seq, set := t.off, t.last, t.members&a.okLocked()
	if a.opts.Faults.AckBeforeTailSync {
		set &= -set
	}
	t.syncing = true
	var files [format.MaxWidth]vfs.File
	var errs [format.MaxWidth]error
	copy(files[:], t.files)
	a.unlock()
	a.syncFiles(set, &files, &errs)
	a.mu.Lock()
	t.syncing = false
	a.cond.Broadcast()
	var full error
	for s := range slots(set) {
		switch {
		case errs[s] == nil:
		case noRoom(errs[s]):
			// Its pages may be lost: what counts goes to a new segment.
			t.mustRoll = true
			full = errors.Join(full, a.noRoomLocked(a.members[s], errs[s]))
		default:
			a.failLocked(a.members[s], "sync tail log", errs[s])
		}
	}
	if full != nil {
		return full
	}
	// If a copy failed, settling rolls the log, so that all of it is durable on
	// enough others.
	if t.mustRoll {
		return a.settleLocked()
	}
	t.synced, t.seqDone = end, seq
	t.syncs++
	a.prepareTailLocked()
	return nil
}

// syncFiles syncs the files of the members in set at the same time.
func (a *Array) syncFiles(set uint32, files *[format.MaxWidth]vfs.File, errs *[format.MaxWidth]error) {
	a.pool.each(set, func(s int) { errs[s] = a.retrySync(files[s].SyncData) })
}

// tailContent encodes a whole segment: all open tails as far as they are in the log,
// and what was promised of full stripes that are not sealed durably.
func (a *Array) tailContent(seg uint64, members uint32) (b []byte, seq uint64, chain uint32, ends map[*inode]int64) {
	var recs []format.TailRecord
	var of []*inode
	put := func(ino *inode, off int64, p []byte) {
		recs, of = append(recs, format.TailRecord{Segment: seg, Seq: uint64(len(recs) + 1), File: ino.id, Offset: uint64(off), Payload: p}), append(of, ino)
	}
	for _, id := range slices.Sorted(maps.Keys(a.st.files)) {
		ino := a.st.files[id]
		ino.held = slices.DeleteFunc(ino.held, func(h heldTail) bool { return h.seq != 0 && h.seq <= a.meta.synced })
		for _, h := range ino.held {
			put(ino, h.off, h.data)
		}
		if ino.logged > 0 {
			put(ino, ino.base, ino.buf[:ino.logged])
		}
	}
	h := format.TailHeader{Array: a.id, Segment: seg, Incarnation: a.st.incarnation, Members: members, Begin: uint32(len(recs))}
	b, chain = format.AppendTailHeader(nil, &h)
	ends = map[*inode]int64{}
	for i := range recs {
		b, chain = format.AppendTailRecord(b, &recs[i], chain)
		ends[of[i]] = int64(len(b))
	}
	return b, uint64(len(recs)), chain, ends
}

// rollTailLocked goes on in a new segment, on members that are live. Its content and
// name are durable on return; the TAIL record is appended, and syncs of the tail log
// wait for it. On error the old segment stays. mu is held, and given up only while
// a sync of the old segment ends.
func (a *Array) rollTailLocked() error {
	t := &a.tail
	for t.syncing {
		a.cond.Wait()
	}
	if a.failed != nil {
		return a.failed
	}
	seg := t.next
	t.next++
	set := a.geo.TailMembers(seg, a.liveLocked())
	b, seq, chain, ends := a.tailContent(seg, set)
	if a.opts.Faults.ReuseTail && t.files != nil {
		return a.reuseTail(b, seq, chain, ends)
	}
	files := make([]vfs.File, a.geo.Width())
	errs := make([]error, a.geo.Width())
	prepared := a.preparedFor(seg, set)
	a.mu.slowly(func() {
		a.pool.each(set, func(s int) {
			var f vfs.File
			if prepared != nil {
				f = prepared[s]
			}
			files[s], errs[s] = a.writeTail(a.members[s], seg, b, f)
		})
	})
	var full error
	failed := false
	for s := range slots(set) {
		switch {
		case errs[s] == nil:
		case noRoom(errs[s]) && (t.mustRoll || t.seg == 0) && a.dropReservesLocked():
			failed = true // once more, with the room that the reserve held
		case noRoom(errs[s]):
			full = errors.Join(full, a.noRoomLocked(a.members[s], errs[s]))
		default:
			failed = true
			a.failLocked(a.members[s], "write tail log", errs[s])
		}
	}
	if full != nil || failed {
		a.dropTail(seg, set, files)
		if full != nil {
			return full
		}
		if a.failed != nil {
			return a.failed
		}
		t.mustRoll = true // settle goes on: who is left, and then the log again
		return a.settleLocked()
	}
	a.enterTail(seg, set, files, b, seq, chain, ends)
	t.zeroed = prepared != nil
	return a.appendLocked(format.Tail{Segment: seg, Members: set})
}

// enterTail makes the new segment the current one.
func (a *Array) enterTail(seg uint64, set uint32, files []vfs.File, b []byte, seq uint64, chain uint32, ends map[*inode]int64) {
	t := &a.tail
	if t.members != 0 {
		t.olds = append(t.olds, oldTail{t.seg, t.members, a.meta.seq + 1})
	}
	for _, f := range t.files {
		if f != nil {
			a.closing = append(a.closing, f)
		}
	}
	a.closeLater()
	t.seg, t.members, t.files = seg, set, files
	t.off, t.synced, t.start, t.syncs = int64(len(b)), int64(len(b)), int64(len(b)), 0
	t.seq, t.last, t.seqDone, t.chain = seq, seq, seq, chain
	t.mustRoll = false
	t.metaSeq = a.meta.seq + 1
	for ino, end := range ends {
		ino.logSeg, ino.logEnd = seg, end
	}
	a.cond.Broadcast()
}

// writeTail creates a segment on one member, durable with its name; f is the file that
// was made for it beforehand, or nil. That one is renamed only after its content is
// synced: under the name of a segment nothing stands at any time but its content,
// or, of a new file, a part of it that no TAIL record names yet.
func (a *Array) writeTail(m *member, seg uint64, b []byte, f vfs.File) (_ vfs.File, err error) {
	made := f != nil
	if !made {
		if f, err = m.dir.FS.OpenReadWrite(m.path(tailName(seg)), vfs.WriteCategoryUnspecified); err != nil {
			return nil, err
		}
	}
	err = writeAt(f, slices.Clone(b), 0)
	if err == nil {
		err = a.retrySync(f.Sync)
	}
	if err == nil && made {
		err = m.dir.FS.Rename(m.path(preparedName), m.path(tailName(seg)))
	}
	if err == nil {
		err = a.syncMemberDir(m)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (a *Array) dropTail(seg uint64, set uint32, files []vfs.File) {
	for s := range slots(set) {
		if files[s] != nil {
			a.ignore(files[s].Close())
		}
		a.ignore(a.members[s].dir.FS.Remove(a.members[s].path(tailName(seg))))
		a.ignore(a.members[s].dir.FS.Remove(a.members[s].path(preparedName)))
	}
}

// removeOldTailsLocked removes segments whose successor is durably named.
func (a *Array) removeOldTailsLocked() {
	t := &a.tail
	kept := t.olds[:0]
	for _, o := range t.olds {
		if o.seq > a.meta.synced {
			kept = append(kept, o)
			continue
		}
		for s := range slots(o.members & a.okLocked()) {
			m := a.members[s]
			a.ignore(m.dir.FS.Remove(m.path(tailName(o.seg))))
		}
	}
	t.olds = kept
}

// reuseTail is the mutant ReuseTail: the new content goes over the old one, in the
// same file and under the same number.
func (a *Array) reuseTail(_ []byte, _ uint64, _ uint32, _ map[*inode]int64) error {
	t := &a.tail
	set := t.members & a.liveLocked()
	b, seq, chain, ends := a.tailContent(t.seg, set)
	for s := range slots(set) {
		if err := writeAt(t.files[s], slices.Clone(b), 0); err != nil {
			return err
		}
	}
	t.off, t.start, t.synced = int64(len(b)), int64(len(b)), 0
	t.seq, t.last, t.seqDone, t.chain, t.members, t.mustRoll = seq, seq, 0, chain, set, false
	for ino, end := range ends {
		ino.logSeg, ino.logEnd = t.seg, end
	}
	return nil
}
