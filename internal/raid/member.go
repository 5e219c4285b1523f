package raid

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/raid/format"
)

const (
	dataDir     = "data"
	lostDir     = "lost+found"
	lockName    = "lock"
	reserveName = "reserve"
	tempSuffix  = ".tmp"
)

// member is one directory in its slot, from joining to failing. A directory that
// returns is a new member, so that nothing of what was opened before counts.
type member struct {
	slot int
	id   format.ID
	dir  Dir
	lock io.Closer // nil: not locked
	// joined is Array.joins when it joined; 0: at the opening.
	joined uint64

	// Guarded by Array.mu.
	state    string // live, rebuilding; else out: failed, stale, missing
	reason   string
	counters format.Counters
	reserve  bool // the reserve stands on its disk

	dirf, dataf vfs.File // for syncing names; nil: not opened
	dataMu      sync.Mutex
}

func (m *member) ok() bool { return m.state == "live" || m.state == "rebuilding" }

func (m *member) path(name string) string { return m.dir.FS.PathJoin(m.dir.Path, name) }

func columnName(file uint64) string { return fmt.Sprintf("%016x.col", file) }

func (m *member) columnPath(file uint64) string {
	return m.dir.FS.PathJoin(m.dir.Path, dataDir, columnName(file))
}

// slots yields the bits of a set of member slots.
func slots(set uint32) iter.Seq[int] {
	return func(yield func(int) bool) {
		for ; set != 0; set &= set - 1 {
			if !yield(bits.TrailingZeros32(set)) {
				return
			}
		}
	}
}

func popcount(set uint32) int { return bits.OnesCount32(set) }

// open opens the directories for syncing names.
func (m *member) open() (err error) {
	if m.dirf, err = m.dir.FS.OpenDir(m.dir.Path); err != nil {
		return err
	}
	m.dataf, err = m.dir.FS.OpenDir(m.path(dataDir))
	return err
}

// close gives up directories and lock.
func (m *member) close() error {
	var errs []error
	m.dataMu.Lock()
	defer m.dataMu.Unlock()
	for _, f := range []*vfs.File{&m.dirf, &m.dataf} {
		if *f != nil {
			errs = append(errs, (*f).Close())
			*f = nil
		}
	}
	if m.lock != nil {
		errs = append(errs, m.lock.Close())
		m.lock = nil
	}
	return errors.Join(errs...)
}

// syncDir makes names in the member's directory durable.
func (a *Array) syncMemberDir(m *member) error {
	if a.opts.Faults.SkipDirSync {
		return nil
	}
	return a.retrySync(m.dirf.Sync)
}

// errGivenUp says that another directory took a member's place while it synced:
// nobody counts on it any more.
var errGivenUp = errors.New("the member was given up")

// syncDataDir makes the names of columns durable. Syncs of one descriptor follow
// each other, so that each learns of the error that concerns it.
func (a *Array) syncDataDir(m *member) error {
	if a.opts.Faults.SkipDirSync {
		return nil
	}
	m.dataMu.Lock()
	defer m.dataMu.Unlock()
	if m.dataf == nil {
		return errGivenUp
	}
	return a.retrySync(m.dataf.Sync)
}

// retrySync calls sync, once: after an error the pages may be gone, and a second
// sync would call them written.
func (a *Array) retrySync(sync func() error) error {
	if a.unsynced {
		return nil
	}
	err := sync()
	if err != nil && a.opts.Faults.RetrySync {
		err = sync()
	}
	return err
}

// writeAt writes all of b, which it may modify.
func writeAt(f vfs.File, b []byte, off int64) error {
	n, err := f.WriteAt(b, off)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return err
}

// writeFile creates a file with this content, synced; its name is not durable.
func (a *Array) writeFile(m *member, name string, b []byte) error {
	f, err := m.dir.FS.Create(m.path(name), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	want := len(b)
	n, err := f.Write(slices.Clone(b))
	if err == nil && n < want {
		err = io.ErrShortWrite
	}
	if err == nil {
		err = a.retrySync(f.Sync)
	}
	return errors.Join(err, f.Close())
}

// liveSet returns the members that are whole, okSet also those being rebuilt. mu is held.
func (a *Array) liveLocked() (set uint32) {
	for _, m := range a.members {
		if m.state == "live" {
			set |= 1 << m.slot
		}
	}
	return set
}

func (a *Array) okLocked() (set uint32) {
	for _, m := range a.members {
		if m.ok() {
			set |= 1 << m.slot
		}
	}
	return set
}

// failLocked takes a member out, because of an error of a write or a sync that is
// not for lack of room. What must be done before anything is acknowledged again
// is left to settle. mu is held.
func (a *Array) failLocked(m *member, doing string, err error) {
	if a.members[m.slot] != m || !m.ok() {
		return
	}
	m.counters.WriteErrors++
	m.state, m.reason = "failed", fmt.Sprintf("%s: %v", doing, err)
	a.raisePending = true
	if a.tail.members>>m.slot&1 != 0 {
		a.tail.mustRoll = true
	}
	// What it was given and what was not sealed yet does not count.
	for _, ino := range a.inodesLocked() {
		for i := range ino.open {
			ino.open[i].present &^= 1 << m.slot
		}
	}
	a.eventLocked(Event{Kind: EventMemberFailed, Member: m.slot, Path: m.dir.Path, Text: m.reason})
	a.checkFailedLocked()
	a.wakeBackground()
}

// checkFailedLocked declares the array failed when too few members are live.
func (a *Array) checkFailedLocked() {
	live := popcount(a.liveLocked())
	if live >= a.geo.Data() || a.failed != nil {
		return
	}
	var why []string
	for _, m := range a.members {
		if m.state != "live" {
			why = append(why, fmt.Sprintf("member %d (%s) is %s: %s", m.slot, m.dir.Path, m.state, m.reason))
		}
	}
	a.failed = &FailedError{fmt.Sprintf("%d of %d members are live, %d are needed; %s", live, a.geo.Width(), a.geo.Data(), strings.Join(why, "; "))}
	a.eventLocked(Event{Kind: EventDegraded, Member: -1, Text: a.failed.Error()})
	a.cond.Broadcast()
}

// settleLocked does what members' failures left to do. Whoever acknowledges
// something calls it first: the others must know that the failed one is out before
// anything counts that it lacks, and the tail log must stand on enough members
// again. mu is held, and may be given up and taken again.
func (a *Array) settleLocked() error {
	for {
		switch {
		case a.failed != nil:
			return a.failed
		case a.raisePending:
			if err := a.raiseLocked(); err != nil {
				return err
			}
		case a.tail.mustRoll:
			if err := a.rollTailLocked(); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

// raiseLocked makes the membership in memory durable under a higher count, in two
// steps over all members, see super.go. mu is held throughout.
func (a *Array) raiseLocked() error {
	for {
		if a.failed != nil {
			return a.failed
		}
		sb := a.nextSuper()
		set := a.okLocked()
		again := false
		for step := range 2 {
			failed, err := a.writeSupersLocked(sb, set, step)
			if err != nil {
				return err
			}
			if again = failed; again {
				break
			}
		}
		if again {
			continue
		}
		a.super, a.raisePending = sb, false
		if len(a.super.Past) > 0 && a.geo.Parity() > 0 && set != a.geo.All() {
			a.eventLocked(Event{Kind: EventDegraded, Member: -1, Text: fmt.Sprintf("%d of %d members are left", popcount(set), a.geo.Width())})
		}
		return nil
	}
}

// nextSuper composes the next claim and notes it as tried.
func (a *Array) nextSuper() *format.Superblock {
	sb := a.super.Clone()
	if !a.opts.Faults.KeepEventCount {
		if sb.Count > 0 {
			a.lineage = slices.Insert(a.lineage, 0, a.lastClaim)
		}
		a.lineage = a.lineage[:min(len(a.lineage), format.MaxPast)]
		sb.Past = slices.Clone(a.lineage)
		a.maxCount++
		sb.Count, sb.Nonce = a.maxCount, a.opts.Rand()
	}
	if a.opts.Faults.NoNonce {
		sb.Nonce = 0
	}
	a.lastClaim = claimOf(sb)
	for i, m := range a.members {
		e := &sb.Members[i]
		e.ID, e.Path = m.id, m.dir.Path
		switch m.state {
		case "live":
			e.State = format.StateLive
		case "rebuilding":
			e.State = format.StateRebuilding
		default:
			e.State = format.StateOut
		}
	}
	sb.Spares = sb.Spares[:0]
	for _, m := range a.spares {
		sb.Spares = append(sb.Spares, format.Member{ID: m.id, State: format.StateSpare, Path: m.dir.Path})
	}
	return sb
}

// writeSupersLocked writes copies 0 and 1, or 2 and 3, on all members of set. An
// error is for lack of room; failed says that members failed, and are marked so.
func (a *Array) writeSupersLocked(sb *format.Superblock, set uint32, step int) (failed bool, err error) {
	errs := make([]error, a.geo.Width())
	a.mu.slowly(func() {
		a.pool.each(set, func(s int) {
			m := a.members[s]
			errs[s] = a.writeSuper(m, sb, step)
			if noRoom(errs[s]) && a.dropReserve(m) {
				errs[s] = a.writeSuper(m, sb, step)
			}
		})
	})
	for s := range slots(set) {
		switch {
		case errs[s] == nil:
		case noRoom(errs[s]):
			err = errors.Join(err, a.noRoomLocked(a.members[s], errs[s]))
		default:
			failed = true
			a.failLocked(a.members[s], "write superblock", errs[s])
		}
	}
	return failed, err
}

// writeSuper writes two copies for one member: temporary files, synced, renamed,
// and the names made durable.
func (a *Array) writeSuper(m *member, sb *format.Superblock, step int) error {
	own := sb.Clone()
	own.Slot, own.Member = m.slot, m.id
	b := format.AppendSuperblock(nil, own)
	first := step * superCopies / 2
	for i := first; i < first+superCopies/2; i++ {
		if err := a.writeFile(m, superName(i)+tempSuffix, b); err != nil {
			return err
		}
		if err := m.dir.FS.Rename(m.path(superName(i)+tempSuffix), m.path(superName(i))); err != nil {
			return err
		}
	}
	return a.syncMemberDir(m)
}

// noRoomLocked notes that a member is full and returns the operation's error.
func (a *Array) noRoomLocked(m *member, err error) error {
	a.dropPreparedLocked()
	if !a.full {
		a.full = true
		a.eventLocked(Event{Kind: EventNoRoom, Member: m.slot, Path: m.dir.Path, Text: err.Error()})
	}
	return fmt.Errorf("member %d: %w", m.slot, err)
}

// dropReserve gives the reserve back to the disk; false: there was none.
func (a *Array) dropReserve(m *member) bool {
	if !m.reserve {
		return false
	}
	m.reserve = false
	return m.dir.FS.Remove(m.path(reserveName)) == nil
}

// dropReservesLocked gives up all reserves, so that the members stay alike.
func (a *Array) dropReservesLocked() bool {
	any := false
	for _, m := range a.members {
		if m.ok() && a.dropReserve(m) {
			any = true
		}
	}
	return any
}

// makeReserve fills the reserve of a member. No room is no error.
func (a *Array) makeReserve(m *member) error {
	size := a.opts.Reserve
	if size <= 0 || m.reserve {
		return nil
	}
	f, err := m.dir.FS.Create(m.path(reserveName), vfs.WriteCategoryUnspecified)
	if err == nil {
		b := make([]byte, 64<<10)
		for left := size; left > 0 && err == nil; left -= int64(len(b)) {
			clear(b) // the file may modify what it is given
			_, err = f.Write(b[:min(left, int64(len(b)))])
		}
		if err == nil {
			err = f.Sync()
		}
		err = errors.Join(err, f.Close())
	}
	if noRoom(err) {
		if err := m.dir.FS.Remove(m.path(reserveName)); !notExist(err) {
			return err
		}
		return nil // not even its name found room
	}
	m.reserve = err == nil
	return err
}

// isLocked says that a lock could not be had because somebody holds it.
func isLocked(err error) bool { return err != nil && !errors.Is(err, syscall.EIO) }
