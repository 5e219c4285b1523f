// Package journal stores the one log of a node: redo log on disk, replication
// backlog, and source of every follower. Recovery is the newest checkpoint plus
// a replay of what the journal holds after it.
//
//	j, rec, err := journal.Open(journal.Options{FS: vfs.Default, Dir: dir, Level: journal.LevelEverySec})
//	// load rec.Checkpoint, then:
//	err = j.Replay(rec.CheckpointPos, apply)
//	err = j.Start()
//	end := j.Append(journal.TypeStream, 0, payload) // frames into memory
//	err = j.Flush()                                 // hands it to the operating system
//	err = j.Sync(end)                               // returns once it is on the disk
//
// Positions are replication offsets: a position counts stream bytes, and the
// payload bytes of STREAM records are the stream. The other record types
// (HISTORY, EPOCH, MARK, LINK) have no length in the stream.
//
// A data directory holds
//
//	journal.lock                          held while a process has the journal open
//	journal.manifest-a, -b                two checksummed copies of the manifest
//	journal-GGGGGGGGGG-SSSSSSSSSS.seg     segments of generation G, S counts up and never repeats
//	(the checkpoint that the manifest names)
//
// A segment is a header area of 1024 bytes (the same 64-byte header at 0 and at
// 512) and then records, the first of which is a LINK that names the segment
// before it, the offset at which that one ends, and the checksum there. A record:
//
//	 0 length u32 | 4 type u8 | 5 flags u8 | 6 magic u16 | 8 epoch u64 | 16 position u64
//	24 synced u64 | 32 previous checksum u32 | 36 header checksum u32 | 40 payload, zero padding, checksum u32
//
// The byte diagrams, the recovery rules and the downsides of the format are in
// docs/formats/journal.md.
package journal

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Level says what an acknowledgement of the owner is worth; the names are those
// of the appendfsync directive.
type Level int32

// The levels, weakest first.
const (
	LevelNo       Level = iota // handed to the operating system; it decides when to write
	LevelEverySec              // as LevelNo, and synced each second in the background
	LevelAlways                // the owner calls Sync before it acknowledges
)

// String returns the value of the appendfsync directive.
func (l Level) String() string {
	switch l {
	case LevelNo:
		return "no"
	case LevelEverySec:
		return "everysec"
	case LevelAlways:
		return "always"
	}
	return fmt.Sprintf("Level(%d)", int32(l))
}

// RecordType tells what a record's payload is.
type RecordType uint8

// The record types. Only STREAM has a length in the stream.
const (
	TypeStream  RecordType = 1 // payload is the next bytes of the replication stream
	TypeHistory RecordType = 2 // payload is a History
	TypeEpoch   RecordType = 3 // payload is empty, the header carries the new epoch
	TypeMark    RecordType = 4 // carries the synced position after the last append
	TypeLink    RecordType = 5 // first record of a segment: where the one before it ends
)

// String returns the name used by Dump.
func (t RecordType) String() string {
	switch t {
	case TypeStream:
		return "STREAM"
	case TypeHistory:
		return "HISTORY"
	case TypeEpoch:
		return "EPOCH"
	case TypeMark:
		return "MARK"
	case TypeLink:
		return "LINK"
	}
	return fmt.Sprintf("TYPE(%d)", uint8(t))
}

func (t RecordType) known() bool { return t >= TypeStream && t <= TypeLink }

// Flags of records.
const (
	FlagClean     uint8 = 1 // on a MARK: the journal was closed in order
	FlagTentative uint8 = 1 // on a LINK: the segment counts once the manifest names it
)

// MaxPayload is the longest payload of one record, in bytes.
const MaxPayload = 1<<32 - 1<<16

// Record is one atomic unit of the journal.
type Record struct {
	Type    RecordType
	Flags   uint8
	Epoch   uint64
	Pos     uint64 // position of the first payload byte
	Payload []byte // valid during the callback only
}

// End returns the position after the record.
func (r *Record) End() uint64 {
	if r.Type == TypeStream {
		return r.Pos + uint64(len(r.Payload))
	}
	return r.Pos
}

// Errors of the callers' side and of the world.
var (
	ErrLocked     = errors.New("data directory is in use by another process")
	ErrCorrupt    = errors.New("journal is corrupt")
	ErrTrimmed    = errors.New("journal: position is older than what is kept")
	ErrAhead      = errors.New("journal: position is beyond the end")
	ErrGeneration = errors.New("journal: a new generation has begun")
	ErrNotFlushed = errors.New("journal: position was not flushed")
	ErrNotHeld    = errors.New("journal: what was not synced is no longer held in memory; restart to recover")
	ErrClosed     = errors.New("journal: closed")
	ErrTooLarge   = errors.New("journal: record is too large")
	ErrMidRecord  = errors.New("journal: position is inside a record")
)

// Defaults of Options.
const (
	DefaultSegmentSize    = 64 << 20
	DefaultMemoryWindow   = 1 << 20
	DefaultFollowerRetain = 1 << 30
)

// Options configures a Journal. FS and Dir are required, the rest has defaults.
type Options struct {
	FS  vfs.FS
	Dir string
	// SegmentSize in bytes, default 64 MiB. A record that is larger gets a
	// segment of its own size.
	SegmentSize int64
	// PreZero writes the next segment with zeros in the background, which makes
	// fdatasync about twice as cheap on a plain directory. It needs an FS whose
	// OpenReadWrite allows overwriting; leave it off on an array.
	PreZero bool
	Level   Level
	// MemoryWindow is how many bytes near the head stay in memory, for
	// followers and for Reopen; default 1 MiB.
	MemoryWindow int
	// RetainSize keeps at least so many bytes of stream before the end, and
	// RetainTime every segment sealed less than this long ago, even when the
	// checkpoint does not need them.
	RetainSize int64
	RetainTime time.Duration
	// FollowerRetain is how many bytes of stream before the end a slow follower
	// may hold on disk; default 1 GiB.
	FollowerRetain int64
	Logf           func(format string, args ...any)
	Now            func() time.Time
	// Faults switches historic bugs on, to prove that the tests catch them. Nil in production.
	Faults *Mutants

	salt   func() uint64 // random source of segment salts; tests replace it
	manual bool          // no background: the test calls prepareSpare and everySecond
}

func (o Options) withDefaults() Options {
	if o.SegmentSize <= 0 {
		o.SegmentSize = DefaultSegmentSize
	}
	o.SegmentSize = max(o.SegmentSize, minSegmentSize)
	o.SegmentSize = min(o.SegmentSize, 1<<31)
	if o.MemoryWindow <= 0 {
		o.MemoryWindow = DefaultMemoryWindow
	}
	if o.FollowerRetain <= 0 {
		o.FollowerRetain = DefaultFollowerRetain
	}
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Faults == nil {
		o.Faults = &Mutants{}
	}
	if o.salt == nil {
		o.salt = randomSalt
	}
	return o
}

// Mutants are bugs that logs of this kind have had, as switches of the tests.
type Mutants struct {
	AckBeforeSync     bool // Sync returns without having synced
	SyncedStaysZero   bool // records never name a synced position
	ReplayPastBad     bool // recovery steps over a bad record below the synced position
	AppendToRecovered bool // go on in the segment that recovery cut
	ReuseSegment      bool // overwrite a trimmed segment instead of creating one
	SkipDirSync       bool // a new name is not made durable
	RetrySync         bool // a failed sync is tried again and then believed
	FollowerAhead     bool // under always, followers read what is flushed but not synced
	TrimEarly         bool // segments are removed before the manifest names the checkpoint
	TrustHeaderOnly   bool // recovery does not look at payload checksums
}

// Stats are figures for INFO and metrics, taken at one moment.
type Stats struct {
	Generation                                   uint64
	Base, First, End, Flushed, Synced, Visible   uint64 // positions
	Segments                                     int
	DiskBytes                                    int64 // sum of the live segments' used bytes
	Buffered                                     int   // bytes appended, not flushed
	WindowBytes                                  int   // bytes held in memory near the head
	Followers                                    int
	Appends, Flushes, Syncs, SyncErrors, Delayed uint64 // Delayed: flushes that waited for a late sync
	LastSync                                     time.Duration
	SyncInProgress                               bool
	Trimmed                                      uint64 // segments removed
	CheckpointPos                                uint64
	Level                                        Level
}

// Stream is what a journal on disk and a Memory ring both offer.
type Stream interface {
	// Append adds one record behind the last and returns the position after it.
	Append(t RecordType, flags uint8, payload []byte) (end uint64)
	Flush() error
	Sync(pos uint64) error
	End() uint64
	Flushed() uint64
	Synced() uint64
	FirstPos() uint64
	Visible() uint64
	Follow(pos uint64) (*Follower, error)
	OnVisible(fn func())
	SetLevel(Level)
	Err() error
	Stats() Stats
	Close() error
}

var (
	_ Stream = (*Journal)(nil)
	_ Stream = (*Memory)(nil)
)

// Journal is an open journal. Append, Flush, SetEpoch, SetHistory,
// BeginGeneration and Reopen belong to one writer at a time; everything else may
// be called from any goroutine.
//
// Lock order: wmu, manMu, mu. The lock of the window is a leaf.
type Journal struct {
	opts Options
	fs   vfs.FS
	dir  string
	lock io.Closer
	dirf vfs.File // the directory, for syncing

	wmu sync.Mutex // the writer's side; taken by the background only for a MARK
	w   writer

	manMu sync.Mutex // held while a manifest is written
	man   Manifest

	mu        sync.Mutex
	cond      *sync.Cond // sync finished, error, close
	phase     phase
	gen       uint64
	segs      []*segment // live, in order; the last one is written to
	dirty     []*segment // flushed, not wholly synced, in order
	syncList  []*segment // scratch of the sync leader
	flushed   point
	synced    point
	need      address // end of the last flushed record that is not a MARK
	syncing   bool
	syncStart time.Time
	lastFlush time.Time
	err       error // first error of write or sync; sticky
	spare     *segment
	orphans   []*segment // entered by a write that failed
	switching bool       // no new spare may be planned
	nextSeq   uint64
	topGen    uint64 // highest generation number ever tried
	followers map[*Follower]struct{}
	recycled  string // mutant ReuseSegment: the file to overwrite
	stats     Stats
	shown     Manifest // copy of man for readers that must not wait for a disk

	rec     recovered // what Open found, for Replay and Start
	win     window
	level   atomic.Int32
	notify  atomic.Bool
	onVis   atomic.Pointer[func()]
	kick    chan struct{} // sealed segment to sync
	prepare chan struct{} // spare wanted
	quit    chan struct{}
	bg      sync.WaitGroup

	// Mirrors of the fields above for readers without a lock.
	aEnd, aFlushed, aSynced, aVisible, aFirst, aGen, aSyncedAddr, aNeed atomic.Uint64
}

type phase uint8

const (
	phaseOpened phase = iota
	phaseRunning
	phaseClosed
)

// End returns the position after the last appended record.
func (j *Journal) End() uint64 { return j.aEnd.Load() }

// Flushed returns the position up to which everything was handed to the operating system.
func (j *Journal) Flushed() uint64 { return j.aFlushed.Load() }

// Synced returns the position up to which everything is known to be on the disk.
func (j *Journal) Synced() uint64 { return j.aSynced.Load() }

// FirstPos returns the oldest position that a follower can read.
func (j *Journal) FirstPos() uint64 { return j.aFirst.Load() }

// Visible returns the position up to which followers may read: what is flushed
// and, under LevelAlways, synced. It never goes back within a generation.
func (j *Journal) Visible() uint64 { return j.aVisible.Load() }

// SetLevel changes the durability level. What followers may already read stays visible.
func (j *Journal) SetLevel(l Level) {
	j.mu.Lock()
	j.level.Store(int32(l))
	j.publishLocked()
	j.cond.Broadcast()
	j.mu.Unlock()
	j.fireVisible()
}

// Level returns the durability level in force.
func (j *Journal) Level() Level { return Level(j.level.Load()) }

// Err returns the error that made the journal fail, or nil. A failed journal
// neither writes nor syncs until Reopen or BeginGeneration succeeds.
func (j *Journal) Err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err
}

// OnVisible sets the function that is called, without any lock of the journal
// held, each time Visible advances. It must be quick and must not block.
func (j *Journal) OnVisible(fn func()) {
	if fn == nil {
		j.onVis.Store(nil)
		return
	}
	j.onVis.Store(&fn)
}

// Manifest returns a copy of the manifest in force.
func (j *Journal) Manifest() Manifest {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.shown
}

// setManifest notes the manifest in force. manMu is held, or nobody else has j yet.
func (j *Journal) setManifest(m Manifest) {
	j.man = m
	j.mu.Lock()
	j.shown = m
	j.mu.Unlock()
}

// SetRetain changes RetainSize and RetainTime.
func (j *Journal) SetRetain(size int64, d time.Duration) {
	j.mu.Lock()
	j.opts.RetainSize, j.opts.RetainTime = size, d
	j.mu.Unlock()
}

// publishLocked recomputes what followers may see. mu is held.
func (j *Journal) publishLocked() {
	j.aFlushed.Store(j.flushed.pos)
	j.aSynced.Store(j.synced.pos)
	j.aSyncedAddr.Store(uint64(j.synced.addr()))
	j.aNeed.Store(uint64(j.need))
	v := j.flushed.pos
	if j.Level() == LevelAlways && !j.opts.Faults.FollowerAhead {
		v = j.synced.pos
	}
	if v > j.aVisible.Load() {
		j.aVisible.Store(v)
		j.notify.Store(true)
	}
}

// fireVisible runs the callback if Visible advanced. No lock may be held.
func (j *Journal) fireVisible() {
	if j.notify.Load() && j.notify.Swap(false) {
		if fn := j.onVis.Load(); fn != nil {
			(*fn)()
		}
	}
}

// failLocked makes the journal fail with its first error. mu is held.
func (j *Journal) failLocked(err error) {
	if j.err == nil {
		j.err = err
		j.opts.Logf("journal: failed: %v", err)
	}
	j.cond.Broadcast()
}

func (j *Journal) fail(err error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.failLocked(err)
	return j.err
}

// Stats returns the figures of this moment.
func (j *Journal) Stats() Stats {
	// A writer that waits for a slow disk must not make INFO wait too.
	buffered, appends := 0, uint64(0)
	if j.wmu.TryLock() {
		buffered, appends = len(j.w.buf), j.w.appends
		j.wmu.Unlock()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	s := j.stats
	s.Generation, s.Base, s.CheckpointPos = j.gen, j.shown.Base, j.shown.CheckpointPos
	s.First, s.End, s.Flushed = j.aFirst.Load(), j.aEnd.Load(), j.flushed.pos
	s.Synced, s.Visible = j.synced.pos, j.aVisible.Load()
	s.Segments = len(j.segs)
	for _, seg := range j.segs {
		s.DiskBytes += seg.endOff
	}
	s.Buffered, s.Appends = buffered, max(appends, j.stats.Appends)
	j.stats.Appends = s.Appends
	s.WindowBytes = j.win.bytes()
	s.Followers = len(j.followers)
	s.SyncInProgress = j.syncing
	s.Level = j.Level()
	return s
}
