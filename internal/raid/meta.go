package raid

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"sort"
	"strings"
	"sync"
	"syscall"

	"holdfast/internal/raid/format"
	"holdfast/internal/raid/layout"
)

// stripe is one stripe of a file, without its chunks.
type stripe struct {
	off     int64  // of its first byte in the file
	gen     uint64 // incarnation << 32 | counter
	length  uint32 // data bytes
	present uint32 // members whose chunk was written
}

// inode is an array file apart from its names.
//
// Invariant: file size = base + len(buf); base = end of the last stripe of open, or
// of stripes if open is empty.
type inode struct {
	id    uint64
	links int
	time  int64 // Unix time in ns of its creation

	// What the metadata says: sealed stripes. chunks has width entries per stripe.
	stripes []stripe
	chunks  []format.Chunk
	next    []uint32 // by member: column slots below it were given out

	// What this process adds; guarded by Array.mu unless it says otherwise.
	open       []stripe       // written to the members, not sealed
	openChunks []format.Chunk // as chunks
	base       int64
	buf        []byte // open tail
	logged     int    // so much of buf stands in the tail log
	logSeg     uint64 // segment and offset behind the file's last record there
	logEnd     int64
	promised   int64 // size of the file when a Sync last began: it may be acknowledged
	held       []heldTail
	sealSeq    uint64 // metadata batch with the last seal

	flight uint64 // joins of the array + 1 when stripes were planned that are on their way; 0: none are

	refs, writers int
	name          string // for messages: the last name it had
	broken        error  // a sync answered that there is no room: nothing more is written
	writeSeq      uint64 // counts writes to columns
	syncSeq       uint64 // writes up to it are durable
	syncing       bool   // somebody syncs the columns

	wmu   sync.Mutex // held by whoever appends; taken before Array.mu
	colMu sync.Mutex // guards cols; a leaf
	cols  []*column  // by member
	old   []*column  // of members that failed
}

// heldTail is what a Sync may have promised of an open tail that became a full
// stripe: it goes into a new segment of the tail log until the seal is durable.
type heldTail struct {
	off  int64
	data []byte
	seq  uint64 // metadata batch with the seal; 0: not sealed
}

// size returns the number of bytes in the file. mu is held.
func (ino *inode) size() int64 { return ino.base + int64(len(ino.buf)) }

// count returns the number of stripes, sealed and not.
func (ino *inode) count() int { return len(ino.stripes) + len(ino.open) }

// stripe returns stripe number n and its chunks by member. mu is held.
func (ino *inode) stripe(n int) (*stripe, []format.Chunk) {
	if k := len(ino.stripes); n >= k {
		w := len(ino.openChunks) / len(ino.open)
		return &ino.open[n-k], ino.openChunks[(n-k)*w : (n-k+1)*w]
	}
	w := len(ino.chunks) / len(ino.stripes)
	return &ino.stripes[n], ino.chunks[n*w : (n+1)*w]
}

// find returns the number of the stripe that holds offset off, which is below base.
func (ino *inode) find(off int64) int {
	return sort.Search(ino.count(), func(n int) bool {
		s, _ := ino.stripe(n)
		return s.off+int64(s.length) > off
	})
}

func (ino *inode) sealedEnd() int64 {
	if n := len(ino.stripes); n > 0 {
		return ino.stripes[n-1].off + int64(ino.stripes[n-1].length)
	}
	return 0
}

// state is the metadata: what the records of the metadata journal make of
// nothing. It is pure: the same records give the same state.
type state struct {
	geo         layout.Geometry
	chunk       int
	dirs        map[string]bool // "" is the root
	names       map[string]*inode
	files       map[uint64]*inode
	next        uint64 // file ids below it were given out
	incarnation uint32
	tail        format.Tail
	scrub       format.Scrub
	counters    []format.Counters // by member
	rebuild     []format.Rebuild  // by member
	closed      int64             // Unix time in ns of the orderly end that the checkpoint stands for; 0: none
	figures     figuresOf
	dropped     []*inode // lost their last name; whoever applies takes them away
}

// figuresOf are counts over the sealed stripes of all files, kept up to date so that
// asking for them does not mean looking at every stripe.
type figuresOf struct {
	stripes int64
	risk    int64   // stripes that lack a chunk
	lacks   []int64 // by member: stripes that lack its chunk
}

// count adds sign to the figures for a stripe as it is now.
func (s *state) count(n int, st *stripe, sign int64) {
	s.figures.stripes += sign
	risk := false
	for m := range s.geo.Width() {
		if st.present>>m&1 == 0 && s.geo.ChunkLength(s.geo.Index(uint64(n), m), int(st.length), s.chunk) > 0 {
			s.figures.lacks[m] += sign
			risk = true
		}
	}
	if risk {
		s.figures.risk += sign
	}
}

func newState(geo layout.Geometry, chunk int) *state {
	s := &state{geo: geo, chunk: chunk, dirs: map[string]bool{"": true}, names: map[string]*inode{}, files: map[uint64]*inode{}, next: 1}
	s.figures.lacks = make([]int64, geo.Width())
	for m := range geo.Width() {
		s.counters = append(s.counters, format.Counters{Member: m})
		s.rebuild = append(s.rebuild, format.Rebuild{Member: m})
	}
	return s
}

// clean returns the form of a path that names are kept in: slash separated, without
// a slash at the ends; the root is "".
func clean(p string) string {
	return strings.TrimPrefix(path.Clean("/"+strings.ReplaceAll(p, "\\", "/")), "/")
}

// parent returns the directory that a clean path is in.
func parent(p string) string {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i]
	}
	return ""
}

func inside(p, dir string) bool { return dir == "" || strings.HasPrefix(p, dir+"/") }

// empty reports whether nothing is in the directory.
func (s *state) empty(dir string) bool {
	for p := range s.names {
		if inside(p, dir) {
			return false
		}
	}
	for p := range s.dirs {
		if p != "" && p != dir && inside(p, dir) {
			return false
		}
	}
	return true
}

// check says why a name operation cannot be done, as an error number. What it
// allows, apply does.
func (s *state) check(r format.Record) error {
	switch r := r.(type) {
	case format.Create:
		return s.checkNew(r.Path, true)
	case format.Mkdir:
		for p := r.Path; p != ""; p = parent(p) {
			if s.names[p] != nil {
				return syscall.ENOTDIR
			}
		}
		if !format.ValidPath(r.Path) {
			return syscall.ENAMETOOLONG
		}
	case format.Link:
		if s.names[r.From] == nil {
			return fs.ErrNotExist
		}
		return s.checkNew(r.To, false)
	case format.Rename:
		return s.checkRename(r)
	case format.Remove:
		switch {
		case s.names[r.Path] != nil:
		case !s.dirs[r.Path]:
			return fs.ErrNotExist
		case r.Path == "" || !s.empty(r.Path):
			return syscall.ENOTEMPTY
		}
	}
	return nil
}

func (s *state) checkNew(p string, over bool) error {
	switch {
	case !format.ValidPath(p):
		return syscall.ENAMETOOLONG
	case s.dirs[p]:
		return syscall.EISDIR
	case !s.dirs[parent(p)]:
		return fs.ErrNotExist
	case !over && s.names[p] != nil:
		return fs.ErrExist
	}
	return nil
}

func (s *state) checkRename(r format.Rename) error {
	if s.names[r.From] != nil {
		return s.checkNew(r.To, true)
	}
	switch {
	case !s.dirs[r.From]:
		return fs.ErrNotExist
	case r.From == "" || inside(r.To, r.From) || r.To == "":
		return syscall.EINVAL
	case s.names[r.To] != nil:
		return syscall.ENOTDIR
	case s.dirs[r.To] && r.To != r.From && !s.empty(r.To):
		return syscall.ENOTEMPTY
	case !s.dirs[parent(r.To)]:
		return fs.ErrNotExist
	}
	for p := range s.names {
		if inside(p, r.From) && !format.ValidPath(r.To+p[len(r.From):]) {
			return syscall.ENAMETOOLONG
		}
	}
	return nil
}

// apply carries out one record. The error says that the record contradicts the state.
func (s *state) apply(r format.Record) error {
	if err := s.check(r); err != nil {
		return fmt.Errorf("record %T %v cannot be: %w", r, r, err)
	}
	switch r := r.(type) {
	case format.Create, format.Mkdir, format.Rename, format.Remove, format.RemoveAll, format.Link:
		return s.applyName(r)
	case format.Seal:
		return s.seal(r)
	case format.Repair:
		return s.repair(r)
	case format.Lost:
		return s.lost(r)
	case format.Tail:
		s.tail = r
	case format.Incarnation:
		s.incarnation = max(s.incarnation, r.Number)
	case format.Scrub:
		s.scrub = r
	case format.Next:
		s.next = max(s.next, r.File)
	case format.Closed:
		s.closed = r.Time
	case format.Reset:
		return s.reset(r.Member)
	case format.Counters:
		if r.Member >= s.geo.Width() {
			return fmt.Errorf("record names member %d", r.Member)
		}
		s.counters[r.Member] = r
	case format.Rebuild:
		if r.Member >= s.geo.Width() {
			return fmt.Errorf("record names member %d", r.Member)
		}
		s.rebuild[r.Member] = r
	}
	return nil
}

func (s *state) applyName(r format.Record) error {
	switch r := r.(type) {
	case format.Create:
		if s.files[r.File] != nil {
			return fmt.Errorf("file %d is created twice", r.File)
		}
		s.unlink(r.Path)
		ino := &inode{id: r.File, time: r.Time, next: make([]uint32, s.geo.Width()), name: r.Path}
		s.files[r.File] = ino
		s.next = max(s.next, r.File+1)
		s.bind(r.Path, ino)
	case format.Mkdir:
		for p := r.Path; p != ""; p = parent(p) {
			s.dirs[p] = true
		}
	case format.Link:
		s.bind(r.To, s.names[r.From])
	case format.Rename:
		s.rename(r.From, r.To)
	case format.Remove:
		if s.names[r.Path] != nil {
			s.unlink(r.Path)
		} else {
			delete(s.dirs, r.Path)
		}
	case format.RemoveAll:
		for _, p := range slices.Sorted(maps.Keys(s.names)) {
			if p == r.Path || inside(p, r.Path) {
				s.unlink(p)
			}
		}
		maps.DeleteFunc(s.dirs, func(p string, _ bool) bool { return p != "" && (p == r.Path || inside(p, r.Path)) })
	}
	return nil
}

func (s *state) bind(p string, ino *inode) {
	s.names[p] = ino
	ino.links++
	ino.name = p
}

func (s *state) unlink(p string) {
	ino := s.names[p]
	if ino == nil {
		return
	}
	delete(s.names, p)
	if ino.links--; ino.links == 0 {
		delete(s.files, ino.id)
		for n := range ino.stripes {
			s.count(n, &ino.stripes[n], -1)
		}
		s.dropped = append(s.dropped, ino)
	}
}

func (s *state) rename(from, to string) {
	if from == to {
		return
	}
	if ino := s.names[from]; ino != nil {
		if s.names[to] == ino {
			return // two names of one file: POSIX leaves both
		}
		s.unlink(to)
		delete(s.names, from)
		s.names[to], ino.name = ino, to
		return
	}
	for _, p := range slices.Sorted(maps.Keys(s.names)) {
		if inside(p, from) {
			ino := s.names[p]
			delete(s.names, p)
			s.names[to+p[len(from):]], ino.name = ino, to+p[len(from):]
		}
	}
	for _, p := range slices.Sorted(maps.Keys(s.dirs)) {
		if p == from || p != "" && inside(p, from) {
			delete(s.dirs, p)
			s.dirs[to+p[len(from):]] = true
		}
	}
}

func (s *state) seal(r format.Seal) error {
	ino := s.files[r.File]
	if ino == nil {
		return nil // removed, and its seal came after
	}
	if r.From != uint64(len(ino.stripes)) {
		return fmt.Errorf("file %d: seal of stripe %d, after %d", r.File, r.From, len(ino.stripes))
	}
	off := ino.sealedEnd()
	for i := range r.Stripes {
		st := &r.Stripes[i]
		if len(st.Chunks) != s.geo.Width() || st.Length == 0 || int64(st.Length) > int64(s.geo.Data()*s.chunk) {
			return fmt.Errorf("file %d: seal of stripe %d has %d bytes over %d members", r.File, r.From+uint64(i), st.Length, len(st.Chunks))
		}
		ino.stripes = append(ino.stripes, stripe{off: off, gen: st.Gen, length: st.Length, present: st.Present})
		ino.chunks = append(ino.chunks, st.Chunks...)
		s.count(len(ino.stripes)-1, &ino.stripes[len(ino.stripes)-1], 1)
		off += int64(st.Length)
		for m := range slots(st.Present) {
			ino.next[m] = max(ino.next[m], st.Chunks[m].Slot+1)
		}
	}
	ino.base = max(ino.base, off)
	return nil
}

// at returns the sealed stripe that a record names, or nil: the file is gone.
func (s *state) at(file, n uint64, member int) (*inode, *stripe, error) {
	ino := s.files[file]
	if ino == nil {
		return nil, nil, nil
	}
	if n >= uint64(len(ino.stripes)) || member >= s.geo.Width() {
		return nil, nil, fmt.Errorf("file %d: record names stripe %d, member %d", file, n, member)
	}
	return ino, &ino.stripes[n], nil
}

func (s *state) repair(r format.Repair) error {
	ino, st, err := s.at(r.File, r.Stripe, r.Member)
	if ino == nil || err != nil {
		return err
	}
	if r.Gen != st.gen {
		return fmt.Errorf("file %d: repair of stripe %d with generation %x instead of %x", r.File, r.Stripe, r.Gen, st.gen)
	}
	s.count(int(r.Stripe), st, -1)
	st.present |= 1 << r.Member
	s.count(int(r.Stripe), st, 1)
	ino.chunks[int(r.Stripe)*s.geo.Width()+r.Member] = format.Chunk{Slot: r.Slot, Sum: r.Sum}
	ino.next[r.Member] = max(ino.next[r.Member], r.Slot+1)
	return nil
}

func (s *state) lost(r format.Lost) error {
	ino, st, err := s.at(r.File, r.Stripe, r.Member)
	if ino != nil && err == nil {
		s.count(int(r.Stripe), st, -1)
		st.present &^= 1 << r.Member
		s.count(int(r.Stripe), st, 1)
	}
	return err
}

func (s *state) reset(member int) error {
	if member >= s.geo.Width() {
		return fmt.Errorf("record names member %d", member)
	}
	for _, ino := range s.files {
		for i := range ino.stripes {
			s.count(i, &ino.stripes[i], -1)
			ino.stripes[i].present &^= 1 << member
			s.count(i, &ino.stripes[i], 1)
		}
		ino.next[member] = 0
	}
	s.counters[member] = format.Counters{Member: member}
	s.rebuild[member] = format.Rebuild{Member: member}
	return nil
}

// sealRecord makes the record that seals stripes [from, to) of a file, taken from
// those that are sealed already (a checkpoint) or not yet. mu is held.
func (s *state) sealRecord(ino *inode, from, to int) format.Seal {
	r := format.Seal{File: ino.id, From: uint64(from)}
	for n := from; n < to; n++ {
		st, chunks := ino.stripe(n)
		r.Stripes = append(r.Stripes, format.Stripe{Gen: st.gen, Length: st.length, Present: st.present, Chunks: chunks})
	}
	return r
}

const (
	sealsPerRecord   = 1024
	recordsPerBatch  = 1024
	bytesPerSnapshot = 1 << 20 // of stripes, roughly, in one batch of a checkpoint
)

// snapshot returns the records that make the state of nothing, in batches.
func (s *state) snapshot() [][]format.Record {
	var out [][]format.Record
	var cur []format.Record
	weight := 0
	add := func(w int, r format.Record) {
		cur = append(cur, r)
		if weight += w; weight > bytesPerSnapshot || len(cur) >= recordsPerBatch {
			out, cur, weight = append(out, cur), nil, 0
		}
	}
	add(1, format.Incarnation{Number: s.incarnation})
	add(1, format.Next{File: s.next})
	add(1, s.tail)
	add(1, s.scrub)
	for m := range s.counters {
		add(1, s.counters[m])
		add(1, s.rebuild[m])
	}
	for _, d := range slices.Sorted(maps.Keys(s.dirs)) {
		if d != "" {
			add(len(d), format.Mkdir{Path: d})
		}
	}
	first := map[uint64]string{}
	for _, p := range slices.Sorted(maps.Keys(s.names)) {
		ino := s.names[p]
		if from, ok := first[ino.id]; ok {
			add(2*len(p), format.Link{From: from, To: p})
			continue
		}
		first[ino.id] = p
		add(len(p), format.Create{Path: p, File: ino.id, Time: ino.time})
		for from := 0; from < len(ino.stripes); from += sealsPerRecord {
			to := min(len(ino.stripes), from+sealsPerRecord)
			add((to-from)*(16+8*s.geo.Width()), s.sealRecord(ino, from, to))
		}
	}
	if s.closed != 0 {
		add(1, format.Closed{Time: s.closed})
	}
	return append(out, cur)
}

// restore makes the state of the batches of a checkpoint.
func (s *state) restore(batches [][]format.Record) error {
	for _, b := range batches {
		for _, r := range b {
			if err := s.apply(r); err != nil {
				return err
			}
		}
	}
	s.dropped = nil
	return nil
}
