// Package raid stores files on an array of member directories, each meant to be
// the mount of a disk of its own, so that losing as many members as the level
// survives loses nothing. An Array is a vfs.FS: what stands on it neither knows
// nor cares.
//
//	a, err := raid.Create(raid.Options{Level: 5, Chunk: 64 << 10, Members: dirs}) // once
//	a, err := raid.Open(raid.Options{Level: raid.LevelAny, Members: dirs})        // later
//	f, err := a.Create("journal", vfs.WriteCategoryUnspecified)
//	f.Write(b)     // handed to the members' operating systems
//	f.Sync()       // on the disks of as many members as the level needs
//
// Files are append-only and nothing is updated in place, so there is no write
// hole. A file is a row of sealed stripes and an open tail. Full stripes are
// written once, synced, and then named by a SEAL record in the metadata journal,
// which stands on all members; what does not fill a stripe goes to a tail log that
// stands on as many members as may be lost, and one more.
//
// A member directory holds
//
//	superblock.0 … superblock.3    who belongs to the array and what state they are in
//	lock                           held while a process has the array open
//	meta-GGGGGGGGGG.ckpt, .log     metadata journal: checkpoint, and the batches after it
//	tail-SSSSSSSSSS.log            segment S of the tail log
//	data/FFFFFFFFFFFFFFFF.col      the chunks of array file F, in slots
//	lost+found/                    what a check moves away
//	reserve                        room for metadata when the disk is full
//
// What is where in the package: super.go decides who is a member; meta.go is the
// metadata as a pure state machine and metalog.go its journal; tail.go is the
// tail log; file.go writes, read.go reads and heals, fs.go has the names,
// member.go the members' I/O and failures, recover.go the opening. internal.go
// lists what scrub, rebuild and check build on.
package raid

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/raid/format"
	"holdfast/internal/raid/layout"
	"holdfast/internal/raid/parity"
)

// Bulk is the category of files that are written as a whole and then synced, such
// as checkpoints: what does not fill a stripe stays in memory until Sync.
const Bulk vfs.DiskWriteCategory = "holdfast-bulk"

// LevelAny makes Open take the level that it finds.
const LevelAny = -1

// Defaults of Options.
const (
	DefaultChunk       = 64 << 10
	DefaultScrubEvery  = 7 * 24 * time.Hour
	DefaultRate        = 64 << 20
	DefaultSpareAfter  = 5 * time.Minute
	DefaultMetaLogSize = 4 << 20
	minTailSize        = 1 << 20
)

// Dir is a directory on a file system.
type Dir struct {
	FS   vfs.FS
	Path string
}

// Options configures an Array. Members and, for Create, Level are required.
type Options struct {
	Members []Dir // Create: in slot order. Open: in any order, superblocks say who they are
	Spares  []Dir
	Level   int // Open: LevelAny, or what the array must have
	Chunk   int // bytes; Create only, default 64 KiB
	// ReadOnly writes nothing, not even what recovery found. Force opens an array
	// that has too few current members, for reading only.
	ReadOnly, Force bool
	Now             func() time.Time
	Rand            func() uint64
	OnEvent         func(Event)   // called without locks held, possibly from several goroutines
	ScrubEvery      time.Duration // default 7 days; negative: never by itself
	// ScrubRate and RebuildRate bound the bytes per second read from each member;
	// 0 is the default of 64 MiB/s, negative is unlimited.
	ScrubRate, RebuildRate int64
	// SpareAfter is how long a member may be missing before a spare takes its
	// slot. A spare steps in at once for a member that failed.
	SpareAfter time.Duration
	Manual     bool // no background work: scrub, rebuild and spares only when called
	Serial     bool // member operations one after the other, in slot order
	// TailSize is the size at which the tail log goes on in a new segment,
	// MetaLogSize that of the metadata log, Reserve the room kept back on each
	// member; all in bytes, 0 is the default. A negative Reserve is none.
	TailSize, MetaLogSize, Reserve int64
	Faults                         Mutants // deliberate bugs, for tests
	prepare                        int     // syncs of a segment of the tail log after which the next one is made beforehand; 0: never
}

func (o Options) withDefaults() Options {
	if o.Chunk == 0 {
		o.Chunk = DefaultChunk
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = randomUint64
	}
	if o.ScrubEvery == 0 {
		o.ScrubEvery = DefaultScrubEvery
	}
	if o.ScrubRate == 0 {
		o.ScrubRate = DefaultRate
	}
	if o.RebuildRate == 0 {
		o.RebuildRate = DefaultRate
	}
	if o.SpareAfter == 0 {
		o.SpareAfter = DefaultSpareAfter
	}
	if o.MetaLogSize <= 0 {
		o.MetaLogSize = DefaultMetaLogSize
	}
	if o.Force {
		o.ReadOnly = true
	}
	if o.prepare == 0 && !o.Manual {
		o.prepare = preparedAfter
	}
	return o
}

func randomUint64() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails, by its documentation
	return binary.LittleEndian.Uint64(b[:])
}

// Kinds of events.
const (
	EventMemberFailed = "member-failed"
	EventMemberStale  = "member-stale"
	EventDegraded     = "degraded"
	EventHealed       = "healed"
	EventLost         = "lost"
	EventScrubDone    = "scrub-done"
	EventRebuildBegin = "rebuild-begin"
	EventRebuildDone  = "rebuild-done"
	EventSpare        = "spare"
	EventReplaced     = "replaced"
	EventNoRoom       = "no-room"
	EventRoom         = "room"
)

// Event is something that happened to the array.
type Event struct {
	Time   time.Time `json:"time"`
	Kind   string    `json:"kind"`
	Member int       `json:"member"` // slot, or -1
	Path   string    `json:"path,omitempty"`
	File   string    `json:"file,omitempty"` // of the array
	Text   string    `json:"text"`
}

// Array is an open array. It is a vfs.FS, safe for concurrent use.
//
// Locks: the wmu of a file is taken before mu; the colMu of a file is a leaf. No lock
// is held while a disk syncs, except while the membership changes, the tail log goes
// on in a new segment, or a checkpoint of the metadata is written; meanwhile reading
// and Status go on, see gate.
type Array struct {
	background
	opts  Options
	geo   layout.Geometry
	code  *parity.Code
	id    format.ID
	chunk int
	pool  *workers

	batches, buffers, caches sync.Pool // of *batch, *[]byte for one slot, *chunkCache

	mu           gate
	cond         *sync.Cond // a sync ended, or the array failed
	members      []*member  // by slot, never nil
	spares       []*member
	super        *format.Superblock // the claim in force
	lastClaim    format.Claim       // the last one tried
	lineage      []format.Claim     // the ones before it
	maxCount     uint64
	raisePending bool // the members do not know yet who is one
	st           *state
	meta         metaLog
	tail         tailLog
	genCounter   uint32
	joins        uint64 // directories that joined while the array was open
	flightWaits  int    // how often a rebuild waited for stripes on their way
	doomed       []doomed
	failed       *FailedError
	full         bool      // a member had no room
	reserveTry   time.Time // when making the reserve was tried last
	closed       bool
	locks        map[string]bool
	events       []Event
	closing      []vfs.File
	scratch      []byte
	ignored      int64 // errors that changed nothing
	unsynced     bool  // mutant ServeBeforeHeal: opening syncs nothing
}

var _ vfs.FS = (*Array)(nil)

// eventLocked notes an event; it is told when mu is given up. mu is held.
func (a *Array) eventLocked(e Event) {
	if a.opts.OnEvent == nil {
		return
	}
	e.Time = a.opts.Now()
	a.events = append(a.events, e)
}

// unlock gives up mu and tells of events.
func (a *Array) unlock() {
	list := a.events
	a.events = nil
	a.mu.Unlock()
	for _, e := range list {
		a.opts.OnEvent(e)
	}
}

// closeLater closes files that were left behind and that nobody uses.
func (a *Array) closeLater() {
	for _, f := range a.closing {
		a.ignore(f.Close())
	}
	a.closing = a.closing[:0]
}

// Close seals what is open, writes a checkpoint and gives up the members. Files that
// are still open cannot be used afterwards. What was acknowledged does not depend
// on it: if a disk is full, so that something cannot be sealed or made durable, the
// error says so (ENOSPC), the tail log keeps what was synced, and all is given up
// as usual.
func (a *Array) Close() error {
	a.halt()
	var errs []error
	if !a.opts.ReadOnly {
		errs = append(errs, a.sealAll())
	}
	a.mu.Lock()
	if a.closed {
		a.unlock()
		return ErrClosed
	}
	if !a.opts.ReadOnly && a.failed == nil {
		// The tail log too, so that its copies are equal although nothing in it counts.
		errs = append(errs, a.syncTailLocked(a.tail.seg, a.tail.off), a.syncMetaLocked(a.meta.seq))
		a.st.closed = a.opts.Now().UnixNano()
		if err := a.checkpointLocked(); err != nil && !noRoom(err) {
			errs = append(errs, err) // without room the log stands for it
		}
	}
	a.awaitSyncsLocked()
	a.closed = true
	a.unlock()
	err := errors.Join(append(errs, a.giveUp())...)
	if noRoom(err) {
		return fmt.Errorf("close array: no room to write everything; what was synced is in the tail log, and is there again after the next start: %w", err)
	}
	return err
}

// awaitSyncsLocked returns when no sync is under way, whose files could be closed
// under it. mu is held, and given up meanwhile.
func (a *Array) awaitSyncsLocked() {
	for busy := true; busy; {
		busy = a.meta.syncing || a.tail.syncing
		for _, ino := range a.inodesLocked() {
			busy = busy || ino.syncing
		}
		if busy {
			a.cond.Wait()
		}
	}
}

// giveUp closes files, locks and workers.
func (a *Array) giveUp() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	a.awaitSyncsLocked()
	a.dropPreparedLocked()
	for _, ino := range a.inodesLocked() {
		a.closeColumns(ino)
	}
	for _, list := range [][]vfs.File{a.meta.files, a.tail.files} {
		for i, f := range list {
			if f != nil {
				a.ignore(f.Close())
				list[i] = nil
			}
		}
	}
	var errs []error
	for _, m := range append(append([]*member(nil), a.members...), a.spares...) {
		if err := m.close(); err != nil && m.ok() {
			errs = append(errs, err)
		}
	}
	a.pool.close()
	return errors.Join(errs...)
}

// sealAll seals the open tails of all files.
func (a *Array) sealAll() error {
	a.mu.Lock()
	list := a.openFilesLocked()
	a.unlock()
	var errs []error
	for _, ino := range list {
		if err := a.sealTail(ino); err != nil && !errors.Is(err, ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// lockFile is what Lock returns.
type lockFile struct {
	a    *Array
	name string
}

func (l lockFile) Close() error {
	l.a.mu.Lock()
	defer l.a.mu.Unlock()
	delete(l.a.locks, l.name)
	return nil
}

var _ io.Closer = lockFile{}
