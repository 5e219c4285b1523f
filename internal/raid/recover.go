package raid

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/raid/format"
	"holdfast/internal/raid/layout"
	"holdfast/internal/raid/parity"
)

// Opening.
//
//  1. Who is a member: the superblocks, super.go.
//  2. The metadata: the highest batch that the current members' journals reach.
//  3. The open tails: the segment of the tail log that the metadata names.
//  4. Unsealed stripes: chunks behind the sealed ones that name themselves as of the
//     last incarnation, stripe after stripe, as long as enough of each are there.
//     What lies behind a gap was never acknowledged.
//  5. All of that is written anew: adopted stripes are completed, synced and sealed,
//     tails become short stripes, a new segment of the tail log and a new
//     generation of the metadata stand durably on all members, and last the
//     membership is raised if it differs. Only then the first read is served, so
//     that what one opening showed, every later one shows, whichever members it has.
//
// Up to the end of step 5 nothing old is removed, so that a power cut anywhere within
// it leaves the opening to be done again, from the same or from the new.

// Exists reports whether a directory has a superblock of an array.
func Exists(d Dir) (bool, error) {
	v := readView(d)
	return v.best() != nil, v.err
}

// Discover finds the members of an array from the superblocks of any of them: where
// the others were seen last, unless dirs hold them.
func Discover(fsys vfs.FS, dirs ...string) (members, spares []Dir, err error) {
	var views []view
	for _, d := range dirs {
		views = append(views, readView(Dir{fsys, d}))
	}
	v, err := assemble(views, Mutants{})
	if err != nil {
		return nil, nil, err
	}
	known := map[string]bool{}
	for _, d := range dirs {
		known[d] = true
	}
	for s := range v.member {
		switch hint := v.super.Members[s].Path; {
		case v.member[s] >= 0:
			members = append(members, views[v.member[s]].dir)
		case !known[hint]:
			members = append(members, Dir{fsys, hint})
		}
	}
	for s := range v.super.Spares {
		if i := v.spares[s]; i >= 0 {
			spares = append(spares, views[i].dir)
		} else {
			spares = append(spares, Dir{fsys, v.super.Spares[s].Path})
		}
	}
	return members, spares, nil
}

// newArray returns an array without members.
func newArray(o Options, level, width, chunk int) (*Array, error) {
	geo, err := layout.New(level, width)
	if err != nil {
		return nil, err
	}
	if !format.ValidChunk(chunk) {
		return nil, fmt.Errorf("chunk size of %d bytes: it must be a power of two from %d to %d", chunk, format.MinChunk, format.MaxChunk)
	}
	code, err := parity.New(level, width)
	if err != nil {
		return nil, err
	}
	if o.TailSize <= 0 {
		o.TailSize = max(minTailSize, int64(4*geo.Data()*chunk))
	}
	if o.Reserve == 0 {
		o.Reserve = int64(1<<20 + 16*chunk)
	}
	a := &Array{opts: o, geo: geo, code: code, chunk: chunk, st: newState(geo, chunk), pool: newWorkers(o.Serial), locks: map[string]bool{}}
	a.cond = sync.NewCond(&a.mu)
	a.meta.files, a.meta.written = make([]vfs.File, width), make([]int64, width)
	a.meta.nextGen, a.tail.next = 1, 1
	return a, nil
}

func (a *Array) newID() (id format.ID) {
	for id.IsZero() {
		for i := 0; i < len(id); i += 8 {
			x := a.opts.Rand()
			for k := range 8 {
				id[i+k] = byte(x >> (8 * k))
			}
		}
	}
	return id
}

// Create makes an array of blank directories and opens it. What an interrupted
// creation left counts as blank.
func Create(o Options) (*Array, error) {
	o = o.withDefaults()
	a, err := newArray(o, o.Level, len(o.Members), o.Chunk)
	if err != nil {
		return nil, err
	}
	a.id = a.newID()
	a.super = &format.Superblock{Array: a.id, Level: o.Level, Chunk: o.Chunk, Created: o.Now().UnixNano(), Members: make([]format.Member, a.geo.Width())}
	for i, d := range append(slices.Clone(o.Members), o.Spares...) {
		m := &member{slot: i, id: a.newID(), dir: d, state: "live"}
		if i >= a.geo.Width() {
			m.slot, m.state = -1, "spare"
			a.spares = append(a.spares, m)
		} else {
			a.members = append(a.members, m)
		}
		if err = a.blank(m); err != nil {
			break
		}
	}
	for len(a.members) < a.geo.Width() {
		a.members = append(a.members, &member{slot: len(a.members), state: "missing"})
	}
	if err == nil {
		a.mu.Lock()
		a.raisePending = true
		err = a.beginLocked(1)
		if err == nil && a.okLocked() != a.geo.All() {
			err = errors.New("a member failed while the array was created")
		}
		a.unlock()
	}
	if err == nil {
		err = a.writeSpares()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create array: %w", err), a.giveUp())
	}
	a.start()
	return a, nil
}

// blank prepares a directory that holds nothing, or what an interrupted creation left.
func (a *Array) blank(m *member) error {
	fsys := m.dir.FS
	if err := fsys.MkdirAll(m.dir.Path, 0o755); err != nil {
		return err
	}
	list, err := fsys.List(m.dir.Path)
	if err != nil {
		return err
	}
	slices.Sort(list)
	var old []string
	for _, name := range list {
		switch {
		case name == lockName || name == dataDir || name == lostDir || name == reserveName:
		case (strings.HasPrefix(name, "superblock.") && name != superName(2) && name != superName(3)) ||
			strings.HasPrefix(name, "meta-") || strings.HasPrefix(name, "tail-"):
			old = append(old, name)
		default:
			return fmt.Errorf("%s: %w (%s)", m.dir.Path, ErrNotBlank, name)
		}
	}
	if cols, err := fsys.List(m.path(dataDir)); err == nil && len(cols) > 0 {
		return fmt.Errorf("%s: %w (%s/%s)", m.dir.Path, ErrNotBlank, dataDir, cols[0])
	}
	if err := a.lock(m); err != nil {
		return err
	}
	for _, name := range old {
		if err := fsys.Remove(m.path(name)); err != nil {
			return err
		}
	}
	return a.prepare(m)
}

// prepare makes the directories of a member, durable.
func (a *Array) prepare(m *member) error {
	for _, d := range []string{dataDir, lostDir} {
		if err := m.dir.FS.MkdirAll(m.path(d), 0o755); err != nil {
			return err
		}
	}
	if err := m.open(); err != nil {
		return err
	}
	if err := a.makeReserve(m); err != nil {
		return err
	}
	return a.syncMemberDir(m)
}

// lock takes the member's lock.
func (a *Array) lock(m *member) (err error) {
	if m.lock, err = m.dir.FS.Lock(m.path(lockName)); err != nil {
		if isLocked(err) {
			return fmt.Errorf("%s: %w: %w", m.dir.Path, ErrLocked, err)
		}
		return err
	}
	return nil
}

// writeSpares gives the spares their superblocks.
func (a *Array) writeSpares() error {
	for _, m := range a.spares {
		for step := range 2 {
			if err := a.writeSuper(m, a.super, step); err != nil {
				return fmt.Errorf("spare %s: %w", m.dir.Path, err)
			}
		}
	}
	return nil
}

// start begins what runs by itself.
func (a *Array) start() {
	if !a.opts.Manual && !a.opts.ReadOnly {
		a.startBackground()
	}
}

// Open opens an array. Members that are missing, or cannot be read, are taken out of
// it if the level allows; members that were away come back to be rebuilt.
func Open(o Options) (*Array, error) {
	o = o.withDefaults()
	var views []view
	for _, d := range append(slices.Clone(o.Members), o.Spares...) {
		views = append(views, readView(d))
	}
	v, err := assemble(views, o.Faults)
	if err != nil {
		return nil, err
	}
	if o.Level >= 0 && o.Level != v.super.Level && len(o.Members) > 0 {
		return nil, fmt.Errorf("%w: it has level %d, not %d", ErrWrongSpec, v.super.Level, o.Level)
	}
	a, err := newArray(o, v.super.Level, v.super.Width(), v.super.Chunk)
	if err != nil {
		return nil, err
	}
	if err := a.open(views, v); err != nil {
		return nil, errors.Join(err, a.giveUp())
	}
	a.start()
	return a, nil
}

func (a *Array) open(views []view, v *verdict) error {
	a.id, a.super = v.super.Array, v.super.Clone()
	a.maxCount, a.lastClaim = v.max, claimOf(v.super)
	// What was begun and never came into force is past, too, for whoever carries it.
	a.lineage = append(slices.Clone(v.void), v.super.Past...)
	if err := a.takeMembers(views, v); err != nil {
		return err
	}
	r := &recovery{a: a, back: map[int]bool{}}
	if live := popcount(a.liveLocked()); live < a.geo.Data() && !a.opts.Force {
		return a.tooFew(live)
	}
	if err := r.load(); err != nil {
		return err
	}
	if live := popcount(a.liveLocked()); live < a.geo.Data() && !a.opts.Force {
		return a.tooFew(live) // some could not be read
	}
	if err := r.content(); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.unlock()
	a.raisePending = v.mend || a.raisePending
	if a.opts.ReadOnly {
		a.checkFailedLocked()
		return nil
	}
	return r.persist()
}

func (a *Array) tooFew(live int) error {
	var why []string
	for _, m := range a.members {
		why = append(why, fmt.Sprintf("member %d (%s) is %s", m.slot, m.dir.Path, m.state))
		if m.reason != "" {
			why[len(why)-1] += ": " + m.reason
		}
	}
	return &TooFewError{Need: a.geo.Data(), Have: live, Text: strings.Join(why, "; ")}
}

// takeMembers opens and locks the directories.
func (a *Array) takeMembers(views []view, v *verdict) error {
	for s := range v.member {
		m := &member{slot: s, id: v.super.Members[s].ID, dir: Dir{Path: v.super.Members[s].Path}, state: v.state[s], reason: v.reason[s]}
		a.members = append(a.members, m)
		if v.member[s] < 0 {
			continue
		}
		m.dir = views[v.member[s]].dir
		if err := a.take(m); err != nil {
			if errors.Is(err, ErrLocked) {
				return err
			}
			m.state, m.reason = "missing", err.Error()
			a.raisePending = true
		}
	}
	for s, i := range v.spares {
		m := &member{slot: -1, id: v.super.Spares[s].ID, dir: Dir{Path: v.super.Spares[s].Path}, state: "spare"}
		if i >= 0 {
			m.dir = views[i].dir
			if err := a.take(m); err != nil {
				if errors.Is(err, ErrLocked) {
					return err
				}
				m.state, m.reason = "missing", err.Error()
			}
		} else {
			m.state = "missing"
		}
		a.spares = append(a.spares, m)
	}
	return nil
}

// take locks and opens a member's directory. Reading only leaves no lock behind on
// a disk that allows no writing.
func (a *Array) take(m *member) error {
	if err := a.lock(m); err != nil && !(a.opts.ReadOnly && errors.Is(err, syscall.EROFS)) {
		return err
	}
	if err := m.open(); err != nil {
		return err
	}
	_, err := m.dir.FS.Stat(m.path(reserveName))
	m.reserve = err == nil
	return nil
}

// recovery is one opening.
type recovery struct {
	a       *Array
	meta    *loaded
	extents map[uint64][]extent
	top     uint32       // highest incarnation that any chunk names
	segment uint64       // of the tail log, as it was found
	back    map[int]bool // members that were away
	swept   bool
}

// sources returns the current members.
func (a *Array) sources() (out []source) {
	for _, m := range a.members {
		if m.ok() {
			out = append(out, source{m.slot, m.dir})
		}
	}
	return out
}

// load reads metadata and tail log.
func (r *recovery) load() (err error) {
	a := r.a
	if r.meta, err = loadMeta(a.sources(), a.id, a.geo, a.chunk, a.opts.Faults); err != nil {
		return err
	}
	for s := range slots(a.okLocked()) {
		if e := r.meta.failed[s]; e != nil {
			m := a.members[s]
			m.state, m.reason = "missing", "its directory cannot be read: "+e.Error()
			a.raisePending = true
		}
	}
	a.st = r.meta.st
	a.st.closed = 0
	r.top, r.segment = a.st.incarnation, a.st.tail.Segment
	for s, m := range a.members {
		m.counters = a.st.counters[s]
		m.counters.Member = s
	}
	r.extents, _, err = loadTail(a.sources(), a.id, a.st.tail, a.opts.Faults)
	if err != nil && a.opts.Force {
		return nil
	}
	return err
}

// content finds what stands behind the sealed stripes of each file.
func (r *recovery) content() error {
	for _, id := range slices.Sorted(maps.Keys(r.a.st.files)) {
		if err := r.file(r.a.st.files[id]); err != nil {
			return err
		}
	}
	return nil
}

// persist makes what was found durable on all members. mu is held.
func (r *recovery) persist() error {
	a := r.a
	a.unsynced = a.opts.Faults.ServeBeforeHeal
	defer func() { a.unsynced = false }()
	// Returning members are written to from now on, and are listed so at the end.
	for _, m := range a.members {
		if m.state == "stale" {
			r.back[m.slot] = true
			m.state, m.reason = "rebuilding", ""
			a.raisePending = true
			a.eventLocked(Event{Kind: EventMemberStale, Member: m.slot, Path: m.dir.Path, Text: "was away while the array was written to; it is rebuilt"})
			if err := r.number(m); err != nil {
				a.failLocked(m, "list directory", err)
			}
		}
	}
	for _, m := range a.members {
		if m.state == "missing" && a.super.Members[m.slot].State != format.StateOut {
			a.eventLocked(Event{Kind: EventDegraded, Member: m.slot, Path: m.dir.Path, Text: m.reason})
		}
	}
	a.meta.seq, a.meta.synced = r.meta.seq+1, r.meta.seq
	a.meta.nextGen, a.tail.next = r.meta.maxGen+1, r.meta.maxTail+1
	if a.opts.Faults.ReuseTail && a.st.tail.Segment > 0 {
		a.tail.next = a.st.tail.Segment
	}
	incarnation := max(r.top, a.st.incarnation) + 1
	if err := a.st.apply(format.Incarnation{Number: incarnation}); err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(a.st.files)) {
		if ino := a.st.files[id]; len(ino.open) > 0 || len(ino.buf) > 0 {
			if err := r.secure(ino); err != nil {
				return fmt.Errorf("write anew what was recovered: %w", err)
			}
		}
	}
	err := a.beginLocked(incarnation)
	if noRoom(err) {
		a.unlock()
		again := r.makeRoom()
		a.mu.Lock()
		if again {
			err = a.beginLocked(incarnation)
		}
	}
	if err != nil {
		return fmt.Errorf("write anew what was recovered: %w", err)
	}
	r.sweep()
	for s := range slots(a.okLocked()) {
		if err := a.makeReserve(a.members[s]); err != nil {
			a.failLocked(a.members[s], "write reserve", err)
		}
	}
	return a.settleLocked()
}

// makeRoom frees what is not needed to open the array again: what is older than that
// which was read, columns without a file, and the reserve. It returns false the
// second time. No lock is held.
func (r *recovery) makeRoom() bool {
	a := r.a
	if r.swept {
		return false
	}
	r.swept = true
	a.mu.Lock()
	defer a.unlock()
	a.dropReservesLocked()
	for s := range slots(a.okLocked()) {
		m := a.members[s]
		list, err := m.dir.FS.List(m.dir.Path)
		a.ignore(err)
		slices.Sort(list)
		for _, name := range list {
			n, isCkpt := parseNumber(name, "meta-", ".ckpt")
			ok := isCkpt
			if !ok {
				n, ok = parseNumber(name, "meta-", ".log")
			}
			old := ok && n < r.meta.gen
			if n, ok := parseNumber(name, "tail-", ".log"); ok && n < r.segment {
				old = true
			}
			if old || strings.HasSuffix(name, tempSuffix) {
				a.ignore(m.dir.FS.Remove(m.path(name)))
			}
		}
		r.sweepColumns(m)
	}
	return true
}

// number looks which numbers of files a returning member has used.
func (r *recovery) number(m *member) error {
	list, err := m.dir.FS.List(m.dir.Path)
	for _, name := range list {
		if n, ok := parseNumber(name, "tail-", ".log"); ok {
			r.meta.maxTail = max(r.meta.maxTail, n)
		}
		for _, suffix := range []string{".ckpt", ".log"} {
			if n, ok := parseNumber(name, "meta-", suffix); ok {
				r.meta.maxGen = max(r.meta.maxGen, n)
			}
		}
	}
	return err
}

// beginLocked writes what an open array stands on: tail log, metadata, membership. mu
// is held.
func (a *Array) beginLocked(incarnation uint32) error {
	if err := a.st.apply(format.Incarnation{Number: incarnation}); err != nil {
		return err
	}
	pending := a.raisePending
	a.raisePending = false // last, see below
	err := a.rollTailLocked()
	pending = pending || a.raisePending
	a.raisePending = pending
	if err != nil {
		return err
	}
	// The membership is raised by the checkpoint's end, when it is durable.
	if err := a.checkpointLocked(); err != nil {
		return err
	}
	return a.settleLocked()
}

// secure completes adopted stripes, makes the open tail a short stripe, and seals
// both. mu is held, and given up while the disks work.
func (r *recovery) secure(ino *inode) error {
	a := r.a
	a.unlock()
	defer a.mu.Lock()
	for n := len(ino.stripes); n < ino.count(); n++ {
		if err := r.complete(ino, n); err != nil {
			return err
		}
	}
	tail := ino.buf
	a.mu.Lock()
	ino.buf, ino.logged = nil, 0
	// Adopted chunks may stand in the cache only: all columns are synced.
	for s := range slots(a.okLocked()) {
		if c, err := a.column(ino, a.members[s], true); err == nil {
			c.dirty, c.fresh = true, true
		} else if !noRoom(err) {
			a.failLocked(a.members[s], "open column", err)
		}
	}
	ino.writeSeq++
	a.unlock()
	if len(tail) > 0 {
		err := a.writeStripes(ino, tail)
		if noRoom(err) {
			// It stays an open tail, in the new segment of the tail log.
			a.mu.Lock()
			ino.buf, ino.logged = tail, len(tail)
			a.unlock()
		} else if err != nil {
			return err
		}
	}
	a.mu.Lock()
	defer a.unlock()
	if err := a.syncColumnsLocked(ino, ino.writeSeq); err != nil {
		return err
	}
	return a.sealLocked(ino, ino.count(), false)
}

// complete writes all chunks of an adopted stripe to new slots, those that members
// lack and the others: what was read may stand in a cache only, and if a sync of it
// has failed, the next one would not say so. They are not synced. A member without
// room keeps the chunk that it has.
func (r *recovery) complete(ino *inode, n int) error {
	a := r.a
	for index := range a.geo.Width() {
		a.mu.Lock()
		st, chunks := ino.stripe(n)
		m := a.members[a.geo.Member(uint64(n), index)]
		lacks := st.present>>m.slot&1 == 0
		before, to := chunks[m.slot], ino.next[m.slot]
		skip := !m.ok() || a.geo.ChunkLength(index, int(st.length), a.chunk) == 0
		a.unlock()
		if skip {
			continue
		}
		b, made, err := a.reconstruct(ino, n, index)
		if b == nil || lacks && !made {
			return fmt.Errorf("%s: stripe %d: %w", ino.name, n, err)
		}
		_, sum, err := format.ParseChunkHeader(b, a.chunk)
		if err != nil {
			return fmt.Errorf("%s: stripe %d: %w", ino.name, n, err)
		}
		a.mu.Lock()
		ino.next[m.slot]++
		a.unlock()
		err = a.writeSlot(ino, m, to, b)
		a.mu.Lock()
		if err == nil {
			err = a.tookRepair(ino, n, m, before, format.Chunk{Slot: to, Sum: sum})
		} else {
			err = asError(a.failed)
		}
		a.unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// sweep removes what the new beginning has replaced, and columns without a file.
// An error leaves it to the next opening.
func (r *recovery) sweep() {
	a := r.a
	a.meta.olds = nil
	for s := range slots(a.okLocked()) {
		m := a.members[s]
		list, err := m.dir.FS.List(m.dir.Path)
		a.ignore(err)
		slices.Sort(list)
		for _, name := range list {
			n, isCkpt := parseNumber(name, "meta-", ".ckpt")
			ok := isCkpt
			if !ok {
				n, ok = parseNumber(name, "meta-", ".log")
			}
			old := ok && n != a.meta.gen && (n != r.meta.gen || r.back[s])
			if n, ok := parseNumber(name, "tail-", ".log"); ok && n != a.tail.seg {
				old = true
			}
			if old || strings.HasSuffix(name, tempSuffix) {
				a.ignore(m.dir.FS.Remove(m.path(name)))
			}
		}
		r.sweepColumns(m)
	}
	if r.meta.gen != a.meta.gen {
		a.meta.olds = []uint64{r.meta.gen}
	}
}

func (r *recovery) sweepColumns(m *member) {
	a := r.a
	list, err := m.dir.FS.List(m.path(dataDir))
	a.ignore(err)
	slices.Sort(list)
	for _, name := range list {
		if id, ok := parseColumn(name); ok && a.st.files[id] == nil {
			a.ignore(m.dir.FS.Remove(m.dir.FS.PathJoin(m.dir.Path, dataDir, name)))
		}
	}
}

// parseColumn returns the file whose column has this name.
func parseColumn(name string) (id uint64, ok bool) {
	if len(name) != 20 {
		return 0, false
	}
	if _, err := fmt.Sscanf(name, "%016x.col", &id); err != nil {
		return 0, false
	}
	return id, name == columnName(id)
}
