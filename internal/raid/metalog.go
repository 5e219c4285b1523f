package raid

import (
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/raid/format"
)

// The metadata journal. A batch of records is applied to the state in memory and
// appended to the log of every live and rebuilding member, the same bytes at the
// same offset. What could not be written for lack of room stays in memory and is
// written before anything that comes later, so copies never disagree: each holds
// a prefix of one sequence.
//
// A checkpoint of the whole state begins a new generation: its file and an empty
// log, both durable on all members before the first batch goes to the new log.
// The generation before stays until the next one. If a checkpoint cannot be
// finished, the old log goes on, and a checkpoint that is whole on some member
// does no harm: opening takes what reaches the highest batch number.

// metaLog is the log of the current generation. Guarded by Array.mu.
//
// Invariant: synced <= seq; written[m] <= len(log).
type metaLog struct {
	gen     uint64
	nextGen uint64 // for the next checkpoint; a number is never tried twice
	files   []vfs.File
	written []int64 // by member: so much of log stands on it
	log     []byte  // the whole log, header included
	chain   uint32
	seq     uint64 // of the last batch
	synced  uint64 // batches up to it are durable on all members
	syncing bool
	broken  bool     // a sync found no room: the log must go on in a new generation
	base    int      // size of the checkpoint, for deciding when the next is due
	olds    []uint64 // earlier generations that are still on the members
}

func ckptName(gen uint64) string { return fmt.Sprintf("meta-%010d.ckpt", gen) }
func logName(gen uint64) string  { return fmt.Sprintf("meta-%010d.log", gen) }

// appendLocked applies the records as one atomic step and hands them to all
// members. No room is no error here: the batch stays in memory, in order, and
// whoever needs it durable learns of it. mu is held.
func (a *Array) appendLocked(recs ...format.Record) error {
	if a.failed != nil {
		return a.failed
	}
	for _, r := range recs {
		if err := a.st.apply(r); err != nil {
			return fmt.Errorf("metadata: %w", err)
		}
	}
	l := &a.meta
	l.seq++
	l.log, l.chain = format.AppendBatch(l.log, &format.Batch{Seq: l.seq, Synced: l.synced, Records: recs}, l.chain)
	a.doomLocked()
	a.ignore(a.writeMetaLocked())
	return nil
}

// tidyLocked writes a checkpoint when the log has grown. Public operations end with
// it. mu is held, and may be given up and taken again. An error is only one that
// fails the array; without room the log goes on.
func (a *Array) tidyLocked() error {
	l := &a.meta
	if int64(len(l.log)) <= max(a.opts.MetaLogSize, int64(l.base)) || a.full || l.syncing || a.failed != nil {
		return nil
	}
	if err := a.checkpointLocked(); err != nil && !noRoom(err) {
		return err
	}
	return nil
}

// writeMetaLocked hands to each member what of the log it lacks. It returns the
// error of a member that has no room.
func (a *Array) writeMetaLocked() (err error) {
	l := &a.meta
	for s := range slots(a.okLocked()) {
		m := a.members[s]
		if l.files[s] == nil || l.written[s] == int64(len(l.log)) {
			continue
		}
		a.scratch = append(a.scratch[:0], l.log[l.written[s]:]...)
		e := writeAt(l.files[s], a.scratch, l.written[s])
		if noRoom(e) && a.dropReservesLocked() {
			a.scratch = append(a.scratch[:0], l.log[l.written[s]:]...)
			e = writeAt(l.files[s], a.scratch, l.written[s])
		}
		switch {
		case e == nil:
			l.written[s] = int64(len(l.log))
		case noRoom(e):
			err = errors.Join(err, a.noRoomLocked(m, e))
		default:
			a.failLocked(m, "write metadata", e)
		}
	}
	return err
}

// syncMetaLocked returns when all batches up to seq are durable on all members, and
// everybody knows of those that failed over it. mu is held, and given up while the
// disks work.
func (a *Array) syncMetaLocked(seq uint64) error {
	l := &a.meta
	for l.synced < seq {
		if a.failed != nil {
			return a.failed
		}
		if l.syncing {
			a.cond.Wait()
			continue
		}
		if err := a.leadMetaSync(); err != nil {
			return err
		}
	}
	return a.settleLocked()
}

// leadMetaSync syncs all copies of the log. mu is held.
func (a *Array) leadMetaSync() error {
	l := &a.meta
	if l.broken {
		return a.checkpointLocked()
	}
	if err := a.writeMetaLocked(); err != nil {
		return err
	}
	if a.failed != nil {
		return a.failed
	}
	end, set := l.seq, a.okLocked()
	l.syncing = true
	var members [format.MaxWidth]*member
	var files [format.MaxWidth]vfs.File
	var errs [format.MaxWidth]error
	copy(members[:], a.members)
	copy(files[:], l.files)
	for s := range slots(set) {
		if files[s] == nil {
			set &^= 1 << s // it joins, and gets all this as a checkpoint
		}
	}
	a.unlock()
	a.syncFiles(set, &files, &errs)
	a.mu.Lock()
	l.syncing = false
	a.cond.Broadcast()
	var full error
	for s := range slots(set) {
		switch {
		case errs[s] == nil:
		case noRoom(errs[s]):
			l.broken = true
			full = errors.Join(full, a.noRoomLocked(members[s], errs[s]))
		default:
			a.failLocked(members[s], "sync metadata", errs[s])
		}
	}
	if full != nil {
		return full
	}
	l.synced = max(l.synced, end)
	return a.afterMetaSync()
}

// afterMetaSync does what waited for batches to be durable: columns of removed
// files and old segments of the tail log go away. The membership is settled
// first: until the members agree on who is one, somebody may come back who needs
// what is removed.
func (a *Array) afterMetaSync() error {
	if err := a.settleLocked(); err != nil {
		return err
	}
	a.removeDoomedLocked()
	a.removeOldTailsLocked()
	return nil
}

// encodeCheckpoint returns the two files of a generation.
func (a *Array) encodeCheckpoint(gen uint64) (ckpt, log []byte, chain uint32) {
	h := format.MetaHeader{Array: a.id, Kind: format.KindCheckpoint, Generation: gen, Base: a.meta.seq}
	ckpt, chain = format.AppendMetaHeader(nil, &h)
	batches := a.st.snapshot()
	for i, b := range batches {
		// All batches of a checkpoint carry the number of the last one they stand for.
		ckpt, chain = format.AppendBatch(ckpt, &format.Batch{Seq: a.meta.seq, Synced: a.meta.seq, End: i == len(batches)-1, Records: b}, chain)
	}
	h.Kind = format.KindLog
	log, chain = format.AppendMetaHeader(nil, &h)
	return ckpt, log, chain
}

// checkpointLocked writes the whole state anew on all members, as the next
// generation, durable on return. Members that fail over it are marked; the caller
// settles. mu is held throughout, except while another sync ends.
func (a *Array) checkpointLocked() error {
	l := &a.meta
	for l.syncing {
		a.cond.Wait()
	}
	if a.failed != nil {
		return a.failed
	}
	gen := l.nextGen
	l.nextGen++
	set := a.okLocked()
	var ckpt, log []byte
	var chain uint32
	files := make([]vfs.File, a.geo.Width())
	errs := make([]error, a.geo.Width())
	a.mu.slowly(func() {
		ckpt, log, chain = a.encodeCheckpoint(gen)
		a.pool.each(set, func(s int) {
			files[s], errs[s] = a.writeGeneration(a.members[s], gen, ckpt, log)
			if noRoom(errs[s]) && a.dropReserve(a.members[s]) {
				files[s], errs[s] = a.writeGeneration(a.members[s], gen, ckpt, log)
			}
		})
	})
	var full error
	for s := range slots(set) {
		switch {
		case errs[s] == nil:
		case noRoom(errs[s]):
			full = errors.Join(full, a.noRoomLocked(a.members[s], errs[s]))
		default:
			a.failLocked(a.members[s], "write checkpoint of the metadata", errs[s])
		}
	}
	if full != nil || a.failed != nil {
		a.dropGeneration(gen, set, files)
		return errors.Join(full, asError(a.failed))
	}
	for s, f := range l.files {
		if f != nil {
			a.closing = append(a.closing, f)
		}
		l.files[s], l.written[s] = nil, 0
	}
	a.closeLater()
	l.olds = append(l.olds, l.gen)
	l.gen, l.log, l.chain, l.base, l.broken = gen, log, chain, len(ckpt), false
	for s := range slots(set) {
		if errs[s] == nil {
			l.files[s], l.written[s] = files[s], int64(len(log))
		}
	}
	l.synced = l.seq
	a.trimGenerations()
	a.cond.Broadcast()
	return a.afterMetaSync()
}

// writeGeneration writes checkpoint and empty log on one member and makes both
// durable, names included. The log stays open.
func (a *Array) writeGeneration(m *member, gen uint64, ckpt, log []byte) (vfs.File, error) {
	if err := a.writeFile(m, ckptName(gen), ckpt); err != nil {
		return nil, err
	}
	f, err := m.dir.FS.OpenReadWrite(m.path(logName(gen)), vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	err = writeAt(f, slices.Clone(log), 0)
	if err == nil {
		err = a.retrySync(f.Sync)
	}
	if err == nil {
		err = a.syncMemberDir(m)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// dropGeneration removes what is there of a generation that did not become
// current. What stays does no harm.
func (a *Array) dropGeneration(gen uint64, set uint32, files []vfs.File) {
	for s := range slots(set) {
		if files[s] != nil {
			a.ignore(files[s].Close())
		}
		m := a.members[s]
		a.ignore(m.dir.FS.Remove(m.path(ckptName(gen))))
		a.ignore(m.dir.FS.Remove(m.path(logName(gen))))
	}
}

// trimGenerations removes all generations but the current one and the one before.
func (a *Array) trimGenerations() {
	l := &a.meta
	if len(l.olds) < 2 {
		return
	}
	for _, gen := range l.olds[:len(l.olds)-1] {
		for s := range slots(a.okLocked()) {
			m := a.members[s]
			a.ignore(m.dir.FS.Remove(m.path(ckptName(gen))))
			a.ignore(m.dir.FS.Remove(m.path(logName(gen))))
		}
	}
	l.olds = slices.Clone(l.olds[len(l.olds)-1:])
}

// doomLocked takes away what the last batch left without a name.
func (a *Array) doomLocked() {
	for _, ino := range a.st.dropped {
		ino.held = nil
		a.doomed = append(a.doomed, doomed{ino, a.meta.seq})
	}
	a.st.dropped = nil
}

// doomed is a file without a name; seq is the batch that took the last one.
type doomed struct {
	ino *inode
	seq uint64
}

// removeDoomedLocked removes the columns of files whose removal is durable and
// that nobody has open. Before, a power cut would bring the name back.
func (a *Array) removeDoomedLocked() {
	kept := a.doomed[:0]
	for _, d := range a.doomed {
		if d.seq > a.meta.synced || d.ino.refs > 0 || d.ino.syncing {
			kept = append(kept, d)
			continue
		}
		a.closeColumns(d.ino)
		for s := range slots(a.okLocked()) {
			if d.ino.next[s] == 0 {
				continue
			}
			m := a.members[s]
			// An error leaves a column that belongs to no file: the next opening removes it.
			a.ignore(m.dir.FS.Remove(m.columnPath(d.ino.id)))
		}
		a.roomLocked()
	}
	clear(a.doomed[len(kept):])
	a.doomed = kept
}

// roomLocked notes that something was freed: what waits in memory is written, and the
// reserve is made again. mu is held.
func (a *Array) roomLocked() {
	a.reserveTry = time.Time{}
	if a.full && a.writeMetaLocked() == nil && a.reservedLocked() == nil {
		a.roomyLocked()
	}
}

// roomyLocked notes that a write has found room again.
func (a *Array) roomyLocked() {
	if a.full {
		a.full = false
		a.eventLocked(Event{Kind: EventRoom, Member: -1, Text: "there is room again"})
	}
}

// reserveEvery is how often at most a write tries to make the reserve again.
const reserveEvery = time.Second

// reservedLocked refuses data while the reserve is given up: the room that is left
// belongs to the metadata, so that removing files stays possible, and opening the
// array again. mu is held.
func (a *Array) reservedLocked() error {
	if a.opts.Reserve <= 0 {
		return nil
	}
	var missing uint32
	for s := range slots(a.okLocked()) {
		if !a.members[s].reserve {
			missing |= 1 << s
		}
	}
	if missing == 0 {
		return nil
	}
	if now := a.opts.Now(); a.reserveTry.IsZero() || now.Sub(a.reserveTry) >= reserveEvery {
		a.reserveTry = now
		for s := range slots(missing) {
			m := a.members[s]
			var err error
			a.mu.slowly(func() { err = a.makeReserve(m) })
			if err != nil {
				a.failLocked(m, "write reserve", err)
			}
			if m.reserve || !m.ok() {
				missing &^= 1 << s
			}
		}
	}
	if missing == 0 {
		return nil
	}
	m := a.members[bits.TrailingZeros32(missing)]
	return a.noRoomLocked(m, fmt.Errorf("%s: only the reserve is left: %w", m.dir.Path, syscall.ENOSPC))
}

// inodesLocked returns all files, also those that have lost their name, in no order.
func (a *Array) inodesLocked() []*inode {
	out := slices.Collect(maps.Values(a.st.files))
	for _, d := range a.doomed {
		out = append(out, d.ino)
	}
	return out
}

func asError(e *FailedError) error {
	if e == nil {
		return nil
	}
	return e
}

// ignore says that an error changes nothing: what could not be removed or closed is
// found again when the array is opened.
func (a *Array) ignore(err error) {
	if err != nil {
		a.ignored++
	}
}
