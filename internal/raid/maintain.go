package raid

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/raid/format"
)

// What scrub and rebuild share, and need of the array.

// background is the state of scrub, rebuild and what starts them by itself. The
// zero value is ready.
type background struct {
	scrubbing, rebuilding sync.Mutex // held while one runs

	bgMu    sync.Mutex // a leaf
	halted  bool
	cancels map[int]context.CancelFunc
	nextJob int
	jobs    sync.WaitGroup
	wake    chan struct{} // nil: nobody waits
	onScrub *Progress
	onBuild *Progress

	awaySince map[int]time.Time // members that are not there, by slot; guarded by Array.mu
}

// job registers work that Close cancels and waits for.
func (b *background) job(ctx context.Context) (context.Context, func(), error) {
	b.bgMu.Lock()
	defer b.bgMu.Unlock()
	if b.halted {
		return nil, nil, ErrClosed
	}
	ctx, cancel := context.WithCancel(ctx)
	if b.cancels == nil {
		b.cancels = map[int]context.CancelFunc{}
	}
	n := b.nextJob
	b.nextJob++
	b.cancels[n] = cancel
	b.jobs.Add(1)
	return ctx, func() {
		cancel()
		b.bgMu.Lock()
		delete(b.cancels, n)
		b.bgMu.Unlock()
		b.jobs.Done()
	}, nil
}

// halt cancels all work, waits for its end, and lets none begin again. No lock of
// the array may be held.
func (b *background) halt() {
	b.bgMu.Lock()
	b.halted = true
	for _, cancel := range b.cancels {
		cancel()
	}
	b.bgMu.Unlock()
	b.jobs.Wait()
}

// progress returns how far scrub and rebuild are, nil for what does not run.
func (b *background) progress() (scrub, rebuild *Progress) {
	b.bgMu.Lock()
	defer b.bgMu.Unlock()
	clone := func(p *Progress) *Progress {
		if p == nil {
			return nil
		}
		c := *p
		return &c
	}
	return clone(b.onScrub), clone(b.onBuild)
}

func (b *background) setProgress(which **Progress, p *Progress) {
	b.bgMu.Lock()
	defer b.bgMu.Unlock()
	*which = p
}

// event tells of something, with no lock held.
func (a *Array) event(e Event) {
	a.mu.Lock()
	defer a.unlock()
	a.eventLocked(e)
}

// commit makes records durable as one step.
func (a *Array) commit(recs ...format.Record) error {
	a.mu.Lock()
	defer a.unlock()
	if err := a.appendLocked(recs...); err != nil {
		return err
	}
	return a.syncMetaLocked(a.meta.seq)
}

func (a *Array) liveSet() uint32 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.liveLocked()
}

func (a *Array) rebuildingSet() uint32 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.okLocked() &^ a.liveLocked()
}

func (a *Array) memberPath(slot int) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.members[slot].dir.Path
}

// newExaminer returns an examiner that reads through the array. What it reads must
// be pinned by a walker.
func (a *Array) newExaminer() *examiner {
	x := newExaminer(a.id, a.geo, a.code, a.chunk, a.readColumn)
	x.each = a.pool.each
	return x
}

func (a *Array) readColumn(member int, file uint64, off int64, b []byte) error {
	a.mu.Lock()
	ino, m := a.st.files[file], a.members[member]
	a.mu.Unlock()
	if ino == nil {
		return errStripeGone
	}
	c, err := a.column(ino, m, false)
	if err != nil {
		return err
	}
	_, err = c.f.ReadAt(b, off)
	return err
}

// walker visits the sealed stripes of all files that have a name, in order of file
// and stripe. While it stands on a file, the file's columns stay. Files that are
// created on the way are not visited; they are whole by birth.
type walker struct {
	a    *Array
	ids  []uint64
	end  uint64 // files from here on were not there when the walk began
	ino  *inode
	from uint64 // first stripe of the first file

	file, stripe uint64
	name         string
	offset       int64
	rec          format.Stripe // its own copy

	// All stripes before this one were passed.
	passedFile, passedStripe uint64
}

func (a *Array) newWalker(file, stripe uint64) *walker {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := &walker{a: a, end: a.st.next, from: stripe, passedFile: file, passedStripe: stripe}
	for _, id := range slices.Sorted(maps.Keys(a.st.files)) {
		if id >= file {
			w.ids = append(w.ids, id)
		}
	}
	if len(w.ids) == 0 || w.ids[0] != file {
		w.from = 0
	}
	return w
}

// next goes to the next stripe, or returns false at the end.
func (w *walker) next() bool {
	w.a.mu.Lock()
	defer w.a.unlock()
	if w.ino != nil {
		w.stripe++
	}
	for {
		if w.ino != nil && w.ino.links > 0 && w.stripe < uint64(len(w.ino.stripes)) {
			w.load()
			return true
		}
		w.leaveLocked()
		if len(w.ids) == 0 {
			w.passedFile, w.passedStripe = w.end, 0
			return false
		}
		w.ino, w.ids = w.a.st.files[w.ids[0]], w.ids[1:]
		w.stripe, w.from = w.from, 0
		if w.ino != nil {
			w.ino.refs++
		}
	}
}

func (w *walker) load() {
	st, chunks := w.ino.stripe(int(w.stripe))
	w.file, w.name, w.offset = w.ino.id, w.ino.name, st.off
	w.rec = format.Stripe{Gen: st.gen, Length: st.length, Present: st.present, Chunks: append(w.rec.Chunks[:0], chunks...)}
}

func (w *walker) leaveLocked() {
	if w.ino != nil {
		w.a.releaseLocked(w.ino)
		w.ino = nil
	}
}

// close must be called when a walk ends before next has returned false.
func (w *walker) close() {
	w.a.mu.Lock()
	defer w.a.unlock()
	w.leaveLocked()
}

// passed notes that the stripe is done with.
func (w *walker) passed() { w.passedFile, w.passedStripe = w.file, w.stripe+1 }

// columnBytes returns the size of all chunks of files from the given one on, for
// progress.
func (a *Array) columnBytes(from uint64) (total int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	area := int64(format.HeaderArea(a.chunk))
	for id, ino := range a.st.files {
		if id < from {
			continue
		}
		for i := range ino.stripes {
			st := &ino.stripes[i]
			total += int64(popcount(st.present)) * (area + int64(a.geo.ChunkLength(0, int(st.length), a.chunk)))
		}
	}
	return total
}

// countFault adds to the counts of a member.
func (a *Array) countFault(slot int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if errors.Is(err, errChunkRead) {
		a.members[slot].counters.ReadErrors++
	} else {
		a.members[slot].counters.ChecksumErrors++
	}
}

func (a *Array) countHealed(slot, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.members[slot].counters.Healed += uint64(n)
}

// placed is a column that repaired chunks are written to. It has a descriptor of its
// own, so that its sync learns of its own errors.
type placed struct {
	ino *inode
	m   *member
	f   vfs.File
}

// placeChunk writes header area and chunk to a new slot of a column, not synced, and
// returns the slot. b may be modified.
func (a *Array) placeChunk(r *repairs, slot int, file uint64, b []byte) (uint32, error) {
	a.mu.Lock()
	ino, m := a.st.files[file], a.members[slot]
	if ino == nil || !m.ok() {
		a.mu.Unlock()
		return 0, errStripeGone
	}
	at := ino.next[slot]
	ino.next[slot]++
	key := columnOf{slot, file}
	p := r.columns[key]
	if p == nil {
		p = &placed{ino: ino, m: m}
		if r.columns == nil {
			r.columns = map[columnOf]*placed{}
		}
		r.columns[key] = p
		ino.refs++
	}
	a.mu.Unlock()
	if p.m != m {
		return 0, errStripeGone // another directory took the slot
	}
	var err error
	if p.f == nil {
		p.f, err = m.dir.FS.OpenReadWrite(m.columnPath(file), vfs.WriteCategoryUnspecified)
	}
	if err == nil {
		// A copy: the file may modify what it is given, and the next chunk of the stripe
		// may be made of this one.
		err = writeAt(p.f, slices.Clone(b), format.SlotOffset(at, a.chunk))
	}
	if err != nil {
		return 0, a.placeFailed(m, "write column", err)
	}
	return at, nil
}

// placeFailed fails the member over an error that is not for lack of room. Only
// that, or the failure of the array, is returned; the work goes on without the member.
func (a *Array) placeFailed(m *member, doing string, err error) error {
	a.mu.Lock()
	defer a.unlock()
	if noRoom(err) {
		return a.noRoomLocked(m, err)
	}
	a.failLocked(m, doing, err)
	if err := a.settleLocked(); err != nil {
		return err
	}
	return errMemberGone
}

// errMemberGone says that the member that was to take a chunk failed over it.
var errMemberGone = errors.New("member failed")

// syncPlaced makes the written columns durable, names included. Members that fail
// over it are marked.
func (a *Array) syncPlaced(r *repairs) error {
	for _, key := range r.keys() {
		p := r.columns[key]
		if p.f == nil {
			continue
		}
		err := a.retrySync(p.f.SyncData)
		if err == nil {
			err = a.syncDataDir(p.m)
		}
		if err != nil {
			if err := a.placeFailed(p.m, "sync column", err); !errors.Is(err, errMemberGone) {
				return err
			}
		}
	}
	return nil
}

// releaseRepairs closes what the batch has open and gives up its files.
func (a *Array) releaseRepairs(r *repairs) {
	a.mu.Lock()
	defer a.unlock()
	for _, p := range r.columns {
		if p.f != nil {
			a.ignore(p.f.Close())
		}
		a.releaseLocked(p.ino)
	}
	*r = repairs{}
}

// setRebuilt makes a member live. It returns false if it is not rebuilding any more,
// or if stripes still lack chunks on it, more than the allowed number.
func (a *Array) setRebuilt(slot, allowed int) (bool, error) {
	a.mu.Lock()
	defer a.unlock()
	m := a.members[slot]
	if err := a.sealLackingLocked(m); err != nil {
		return false, err
	}
	if a.members[slot] != m || m.state != "rebuilding" || a.lackingLocked(slot) > allowed {
		return false, nil
	}
	var err error
	a.mu.slowly(func() { err = a.sweepMemberLocked(m) })
	if err != nil {
		a.failLocked(m, "remove column", err)
		return false, a.settleLocked()
	}
	// The tail log must reach the member too, where the level wants it there: new
	// segment and new membership are settled before anything else is acknowledged.
	m.state, m.reason = "live", ""
	a.raisePending, a.tail.mustRoll = true, true
	if err := a.settleLocked(); err != nil {
		return false, err
	}
	return true, a.syncMetaLocked(a.meta.seq)
}

// sealLackingLocked seals the stripes that were written and have no chunk on m, so that
// the rebuild finds them, and waits for those that were on their way to the members
// when m joined: they lack its chunk as well. What is written later goes to m, too.
// A file that a sync found no room for cannot be sealed, and nothing of it counts
// that is not. mu is held, and given up while the disks work.
func (a *Array) sealLackingLocked(m *member) error {
	for _, id := range sortedIDs(a.st.files) {
		ino := a.st.files[id]
		for ino != nil && ino.flight != 0 && ino.flight <= m.joined {
			a.flightWaits++
			a.cond.Wait()
		}
		if ino = a.st.files[id]; ino == nil || ino.broken != nil || !a.lacksOpen(ino, m.slot) {
			continue // it may have been removed meanwhile
		}
		target := ino.count()
		err := a.syncColumnsLocked(ino, ino.writeSeq)
		if err == nil {
			err = a.sealLocked(ino, target, false)
		}
		if err != nil && ino.broken == nil {
			return err
		}
	}
	return nil
}

// lacksOpen reports whether a stripe that is not sealed lacks its chunk on the
// member. mu is held.
func (a *Array) lacksOpen(ino *inode, slot int) bool {
	for i := range ino.open {
		if a.lacks(&ino.open[i], len(ino.stripes)+i, slot) {
			return true
		}
	}
	return false
}

// lacks reports whether stripe number n should have a chunk on the member and has
// none. mu is held.
func (a *Array) lacks(st *stripe, n, slot int) bool {
	return st.present>>slot&1 == 0 && a.geo.ChunkLength(a.geo.Index(uint64(n), slot), int(st.length), a.chunk) > 0
}

// sealLacking does so for all members of a set, when what their joining, or the
// failure of others, left to do is done.
func (a *Array) sealLacking(set uint32) error {
	a.mu.Lock()
	defer a.unlock()
	if err := a.settleLocked(); err != nil {
		return err
	}
	for s := range slots(set) {
		if err := a.sealLackingLocked(a.members[s]); err != nil {
			return err
		}
	}
	return nil
}

// sweepMemberLocked removes the columns of files that were removed while the member
// was away. mu is held.
func (a *Array) sweepMemberLocked(m *member) error {
	list, err := m.dir.FS.List(m.path(dataDir))
	if err != nil {
		return err
	}
	known := map[uint64]bool{}
	for _, ino := range a.inodesLocked() {
		known[ino.id] = true
	}
	slices.Sort(list)
	for _, name := range list {
		if id, ok := parseColumn(name); ok && !known[id] {
			if err := m.dir.FS.Remove(m.columnPath(id)); err != nil {
				return err
			}
		}
	}
	return nil
}

// lackingLocked counts the sealed stripes that should have a chunk on the member and
// have none. mu is held.
func (a *Array) lackingLocked(slot int) (n int) {
	for _, ino := range a.st.files {
		for i := range ino.stripes {
			if a.lacks(&ino.stripes[i], i, slot) {
				n++
			}
		}
	}
	return n
}

// scrubSuperblocks compares the superblocks of all members with the membership in
// force and writes those of a member anew that has a bad one. It returns the number
// of bad copies.
func (a *Array) scrubSuperblocks(problem func(string, ...any)) (int64, error) {
	a.mu.Lock()
	defer a.unlock()
	if err := a.settleLocked(); err != nil {
		return 0, err
	}
	var bad int64
	for s := range slots(a.okLocked()) {
		m := a.members[s]
		v := readView(m.dir)
		before := bad
		for i, c := range v.copies {
			if c == nil || claimOf(c) != claimOf(a.super) || c.Slot != s || c.Member != m.id {
				bad++
				problem("member %d: %s is damaged or missing", s, m.path(superName(i)))
			}
		}
		if bad == before {
			continue
		}
		for step := range 2 {
			err := a.writeSuper(m, a.super, step)
			if noRoom(err) {
				return bad, a.noRoomLocked(m, err)
			}
			if err != nil {
				a.failLocked(m, "write superblock", err)
				break
			}
		}
	}
	return bad, a.settleLocked()
}

// scrubMetadata reads all copies of the metadata journal that a start might need,
// and begins a new generation if one is bad. It returns the number of bad files.
func (a *Array) scrubMetadata(problem func(string, ...any)) (int64, error) {
	a.mu.Lock()
	gen, log, olds := a.meta.gen, a.meta.log, slices.Clone(a.meta.olds)
	written, members, set := slices.Clone(a.meta.written), slices.Clone(a.members), a.okLocked()
	a.mu.Unlock()
	var bad int64
	for s := range slots(set) {
		m := members[s]
		check := func(name string, err error) {
			if err != nil {
				bad++
				problem("member %d: %s: %v", s, m.path(name), err)
			}
		}
		for _, g := range append(olds, gen) {
			if g != gen && !a.hasGeneration(m, g) {
				continue // it became a member after that
			}
			check(ckptName(g), checkCheckpoint(m.dir, ckptName(g), a.id, g))
		}
		// The log in memory only grows: what was there stays as it is.
		b, err := readLimited(m.dir.FS, m.path(logName(gen)), written[s])
		if err == nil && !bytes.Equal(b, log[:written[s]]) {
			err = format.ErrChecksum
		}
		check(logName(gen), err)
	}
	for _, g := range olds {
		for s, err := range checkOldLogs(members, set, a.id, g) {
			bad++
			problem("member %d: %s: %v", s, members[s].path(logName(g)), err)
		}
	}
	if bad == 0 {
		return 0, nil
	}
	a.mu.Lock()
	defer a.unlock()
	if a.meta.gen != gen {
		// A new generation began meanwhile, and the files that were looked for may be
		// gone for that reason. All was written anew by it.
		return 0, nil
	}
	// Twice: so that also the generation before is a whole one.
	for range 2 {
		if err := a.checkpointLocked(); err != nil {
			return bad, err
		}
	}
	return bad, a.settleLocked()
}

// checkOldLogs reads the copies of the log of an earlier generation, and returns what
// is wrong with which member's. A copy may end in what a crash tore; it is damaged if
// it lacks a batch of which any copy says that it was durable on all members. A copy
// that does not begin was never in use.
func checkOldLogs(members []*member, set uint32, array format.ID, gen uint64) map[int]error {
	last := map[int]uint64{} // batch that a copy is whole up to
	top := uint64(0)
	for s := range slots(set) {
		b, err := readLimited(members[s].dir.FS, members[s].path(logName(gen)), maxMetaFile)
		if err != nil {
			continue
		}
		h, chain, err := format.ParseMetaHeader(b)
		if err != nil || h.Array != array || h.Kind != format.KindLog || h.Generation != gen {
			continue
		}
		seq, at := h.Base, format.MetaHeaderSize
		for at < len(b) {
			batch, n, next, err := format.ParseBatch(b[at:], chain)
			if err != nil || batch.Seq != seq+1 {
				break
			}
			seq, at, chain = batch.Seq, at+n, next
		}
		last[s] = seq
		top = max(top, syncedBeyond(b[format.MetaHeaderSize:]))
	}
	bad := map[int]error{}
	for s, seq := range last {
		if seq < top {
			bad[s] = fmt.Errorf("batch %d: %w", seq+1, format.ErrChecksum)
		}
	}
	return bad
}

// hasGeneration reports whether a member was given a generation.
func (a *Array) hasGeneration(m *member, gen uint64) bool {
	_, err := m.dir.FS.Stat(m.path(ckptName(gen)))
	return !notExist(err)
}

// checkCheckpoint reads a checkpoint of the metadata and says what is wrong with it.
func checkCheckpoint(dir Dir, name string, array format.ID, gen uint64) error {
	b, err := readLimited(dir.FS, dir.FS.PathJoin(dir.Path, name), maxMetaFile)
	if err != nil {
		return err
	}
	_, _, err = parseCheckpoint(b, array, gen)
	return err
}

// scrubTail reads all copies of the current segment of the tail log, and goes on
// in a new one if one is bad: what counts of it is in memory.
func (a *Array) scrubTail(problem func(string, ...any)) (int64, error) {
	a.mu.Lock()
	defer a.unlock()
	if err := a.settleLocked(); err != nil {
		return 0, err
	}
	t := &a.tail
	var bad int64
	for s := range slots(t.members & a.okLocked()) {
		m := a.members[s]
		if err := checkTail(m.dir, tailName(t.seg), t.off, t.chain); err != nil {
			bad++
			problem("member %d: %s: %v", s, m.path(tailName(t.seg)), err)
		}
	}
	if bad == 0 {
		return 0, nil
	}
	t.mustRoll = true
	if err := a.settleLocked(); err != nil {
		return bad, err
	}
	return bad, a.syncMetaLocked(a.meta.seq)
}

// checkTail reads a segment up to end, where its chain must have the given value.
func checkTail(dir Dir, name string, end int64, chain uint32) error {
	b, err := readLimited(dir.FS, dir.FS.PathJoin(dir.Path, name), end)
	if err != nil {
		return err
	}
	_, c, err := format.ParseTailHeader(b)
	if err != nil {
		return err
	}
	at := format.TailSegmentHeader
	for at < len(b) {
		_, n, next, err := format.ParseTailRecord(b[at:], c)
		if err != nil {
			return fmt.Errorf("at %d: %w", at, err)
		}
		at, c = at+n, next
	}
	if int64(at) != end || c != chain {
		return format.ErrShort
	}
	return nil
}

// scrubbedRecords notes a whole pass in the counts of the live members.
func (a *Array) scrubbedRecords(now time.Time) (recs []format.Record) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for s := range slots(a.liveLocked()) {
		m := a.members[s]
		m.counters.Member, m.counters.LastScrub = s, now.UnixNano()
		recs = append(recs, m.counters)
	}
	return recs
}
