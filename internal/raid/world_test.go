package raid

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/vfstest"
)

var flagScale = flag.Int("raid.scale", 0, "how many times the usual number of cases; 0: 1, or 20 with HOLDFAST_SOAK=1")

// scale is how much more than usual is tried.
func scale() int {
	if *flagScale > 0 {
		return *flagScale
	}
	if os.Getenv("HOLDFAST_SOAK") != "" {
		return 20
	}
	return 1
}

const testChunk = 512

// shape is a level at a width.
type shape struct{ level, width int }

func (s shape) String() string { return fmt.Sprintf("raid-%dx%d", s.level, s.width) }

// parity returns how many members the shape survives.
func (s shape) parity() int {
	switch s.level {
	case 0:
		return 0
	case 1:
		return s.width - 1
	case 6:
		return 2
	}
	return 1
}

// data returns the data chunks of a stripe.
func (s shape) data() int {
	if s.level == 0 {
		return s.width
	}
	return s.width - s.parity()
}

func (s shape) stripe() int { return s.data() * testChunk }

// unlocked is a file system without locks: a process that was killed holds none.
type unlocked struct{ vfs.FS }

func (unlocked) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

// world runs a script on an array and keeps the model.
type world struct {
	shape
	fs     vfs.FS // below the members
	inj    map[string]*vfstest.Injector
	muts   Mutants
	a      *Array
	m      *model
	dirs   [][]string // of each slot, newest last
	hidden map[int]bool
	// weak are the slots that may lack something: from before a fault until a
	// rebuild is through.
	weak     map[int]bool
	broken   map[int]bool // slots whose injector fails everything
	open     map[int]vfs.File
	cur      int // file that steps are about
	nextID   int
	names    int // fresh names handed out
	dirNo    int
	era      uint32
	rnd      uint64
	begun    bool // Create was called
	born     bool // Create has returned
	tail     int64
	reserve  int64
	parallel bool       // members work at the same time
	mu       sync.Mutex // events come from several goroutines
	events   []Event
	// lenient takes an error of a step, nil where it is allowed. Nil allows none.
	lenient func(step string, err error) error
	// beyond: more members fail than the level survives. Files may refuse to be
	// read; with silent set, what was acknowledged may be gone, since the disk told
	// of writes that it never did. Nothing may be wrong.
	beyond, silent bool
}

func newWorld(s shape, fsys vfs.FS) *world {
	w := &world{shape: s, fs: fsys, m: newModel(), inj: map[string]*vfstest.Injector{}, hidden: map[int]bool{}, weak: map[int]bool{}, broken: map[int]bool{}, open: map[int]vfs.File{}, tail: 2048, reserve: -1}
	for i := range s.width {
		w.dirs = append(w.dirs, []string{fmt.Sprintf("m%d", i)})
	}
	return w
}

// member returns the directory as the array is given it.
func (w *world) member(dir string) Dir {
	if w.inj[dir] == nil {
		w.inj[dir] = vfstest.NewInjector(w.fs)
	}
	return Dir{FS: unlocked{w.inj[dir]}, Path: dir}
}

func (w *world) members() []Dir {
	var out []Dir
	for slot, dirs := range w.dirs {
		if w.hidden[slot] {
			continue
		}
		for i, d := range dirs {
			// Of a member that was to be replaced, the new directory counts once the array knows it.
			if i > 0 {
				if ok, err := Exists(w.member(d)); err != nil || !ok {
					continue
				}
			}
			out = append(out, w.member(d))
		}
	}
	return out
}

// prepareInWorlds is Options.prepare of all worlds.
var prepareInWorlds int

func (w *world) options() Options {
	return Options{
		Members: w.members(), Level: w.level, Chunk: testChunk,
		Now:     func() time.Time { return time.Unix(1_700_000_000, 0) },
		Rand:    func() uint64 { w.rnd += 0x9e3779b97f4a7c15; x := w.rnd ^ w.rnd>>31; return x * 0xbf58476d1ce4e5b9 },
		OnEvent: w.note,
		Manual:  true, Serial: !w.parallel, ScrubEvery: -1, ScrubRate: -1, RebuildRate: -1,
		TailSize: w.tail, MetaLogSize: 2048, Reserve: w.reserve,
		Faults: w.muts, prepare: prepareInWorlds,
	}
}

func (w *world) note(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
}

func (w *world) create() error {
	w.begun = true
	a, err := Create(w.options())
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	w.a, w.born = a, true
	return w.mkdir("d")
}

// mkdir makes a directory unless it is there.
func (w *world) mkdir(dir string) error {
	if _, ok := w.m.names()[dir]; ok {
		return nil
	}
	return w.tell(func() error { return w.a.MkdirAll(dir, 0o755) }, func(n map[string]int) { n[dir] = 0 })
}

// mount opens the array and holds it against the model.
func (w *world) mount() error {
	a, err := Open(w.options())
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	w.a = a
	fd, err := w.look()
	if err != nil {
		return err
	}
	names, err := w.m.verify(fd)
	if err != nil {
		return err
	}
	if len(fd.bad) == 0 {
		w.m.adopt(names, fd)
	}
	return nil
}

func (w *world) look() (found, error) {
	if !w.beyond {
		return look(w.a)
	}
	if w.silent {
		w.m.durable = 0
		for _, f := range w.m.files {
			f.acked = 0
		}
	}
	return lookBeyond(w.a)
}

// kill forgets the array as the end of its process does.
func (w *world) kill() {
	w.a = nil
	clear(w.open)
	w.cur = 0
}

// after returns a world that goes on, on another file system, from the same promises.
func (w *world) after(fsys vfs.FS) *world {
	c := newWorld(w.shape, fsys)
	c.m, c.muts, c.tail, c.reserve = w.m.clone(), w.muts, w.tail, w.reserve
	c.hidden, c.weak = maps.Clone(w.hidden), maps.Clone(w.weak)
	for i, d := range w.dirs {
		c.dirs[i] = slices.Clone(d)
	}
	c.nextID, c.names, c.dirNo, c.era, c.rnd, c.begun, c.born = w.nextID, w.names, w.dirNo, w.era+1, w.rnd+77, w.begun, w.born
	return c
}

// collect returns what is in the members' directories.
func (w *world) collect() (dirs []string, files map[string][]byte, err error) {
	files = map[string][]byte{}
	for _, list := range w.dirs {
		for _, dir := range list {
			d, f, err := vfstest.Collect(w.fs, dir)
			if err != nil {
				return nil, nil, err
			}
			dirs = append(dirs, d...)
			maps.Copy(files, f)
		}
	}
	return dirs, files, nil
}

// run carries out a script of words, see step.
func (w *world) run(script string) error {
	if !w.begun {
		if err := w.create(); err != nil {
			return err
		}
	}
	for i, word := range strings.Fields(script) {
		err := w.step(word)
		if err != nil && w.lenient != nil {
			err = w.lenient(word, err)
		}
		if err != nil {
			return fmt.Errorf("step %d (%s): %w", i, word, err)
		}
	}
	return nil
}

// step carries out one word:
//
//	c create a file    b a bulk file    g a file in d/sub    fN select the N-th file, e any
//	wS write (size below)    s Sync    y SyncData    x close    d sync the directory
//	r rename to a fresh name    o rename over an older one    l link    u unlink    G remove d/sub
//	v read everything    k kill and open    q close and open
//	FN member N fails    JN it works again and rejoins    AN killed, opened without member N
//	BN opened with it again    PN replace member N    R rebuild    U scrub
//
// Sizes: 1, t a tail, c a chunk, C one more, K one less, z a stripe, Z one more, Y one less,
// m three stripes and some, or a number.
func (w *world) step(word string) error {
	if w.a == nil {
		return errors.New("no array")
	}
	arg := word[1:]
	n, _ := strconv.Atoi(arg)
	switch word[0] {
	case 'c':
		return w.createFile("d", vfs.WriteCategoryUnspecified)
	case 'b':
		return w.createFile("d", Bulk)
	case 'g':
		return w.createFile("d/sub", vfs.WriteCategoryUnspecified)
	case 'f':
		return w.choose(n + 1)
	case 'e':
		if ids := slices.Sorted(maps.Values(w.m.names())); len(ids) > 0 && ids[len(ids)-1] > 0 {
			return w.choose(ids[len(ids)-1])
		}
		return w.createFile("d", vfs.WriteCategoryUnspecified)
	case 'w':
		return w.write(w.size(arg))
	case 's', 'y':
		return w.sync(word[0] == 'y')
	case 'x':
		return w.close()
	case 'd':
		return w.syncDir()
	case 'r', 'o', 'l', 'u', 'G':
		return w.nameOp(word[0])
	case 'v':
		return w.check()
	case 'k', 'q':
		return w.restart(word[0] == 'q')
	}
	return w.memberStep(word, n)
}

func (w *world) size(arg string) int {
	n, err := strconv.Atoi(arg)
	if err == nil {
		return n
	}
	z := w.stripe()
	return map[string]int{"t": 100, "c": testChunk, "C": testChunk + 1, "K": testChunk - 1, "z": z, "Z": z + 1, "Y": z - 1, "m": 3*z + 17}[arg]
}

func (w *world) fresh(dir string) string {
	w.names++
	return fmt.Sprintf("%s/f%d", dir, w.names)
}

// tell carries out a name operation and notes it. While it is under way, and when
// it has failed, it may be done or not.
func (w *world) tell(do func() error, fn func(map[string]int)) error {
	w.m.doubt(fn)
	err := do()
	if err == nil {
		w.m.change(fn)
	}
	return err
}

func (w *world) createFile(dir string, cat vfs.DiskWriteCategory) error {
	if err := w.mkdir("d"); err != nil {
		return err
	}
	if err := w.mkdir(dir); err != nil {
		return err
	}
	name := w.fresh(dir)
	w.nextID++
	id := w.nextID
	w.m.files[id] = &mfile{id: id, bulk: cat == Bulk}
	var f vfs.File
	create := func() (err error) { f, err = w.a.Create(name, cat); return err }
	if err := w.tell(create, func(n map[string]int) { n[name] = id }); err != nil {
		return err
	}
	w.open[id], w.cur = f, id
	return nil
}

// nameOf returns the first name of a file, or "".
func (w *world) nameOf(id int) string {
	names := w.m.names()
	for _, n := range slices.Sorted(maps.Keys(names)) {
		if names[n] == id {
			return n
		}
	}
	return ""
}

// choose makes a file the current one and opens it at its end where it is not open.
func (w *world) choose(id int) error {
	w.cur = 0
	name := w.nameOf(id)
	if w.open[id] != nil {
		w.cur = id
		return nil
	}
	if name == "" {
		return nil // a cut took it, or it was removed: steps on it do nothing
	}
	f, err := w.a.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	w.open[id], w.cur = f, id
	mf := w.m.files[id]
	mf.bulk, mf.closed = false, false
	return nil
}

func (w *world) write(n int) error {
	f, m := w.open[w.cur], w.m.files[w.cur]
	if f == nil {
		return nil
	}
	b := payload(m.id, len(m.data), n, w.era)
	from := len(m.data)
	m.data = append(m.data, b...) // a power cut during the write may leave a part
	done, err := f.Write(slices.Clone(b))
	if err != nil {
		m.tried = append(m.tried, m.data)
		w.era++ // the next try writes other bytes there
		m.data = m.data[: from+max(done, 0) : from+max(done, 0)]
		return err
	}
	if done != n {
		return fmt.Errorf("wrote %d of %d bytes without an error", done, n)
	}
	return nil
}

func (w *world) sync(data bool) error {
	f, m := w.open[w.cur], w.m.files[w.cur]
	if f == nil {
		return nil
	}
	do := f.Sync
	if data {
		do = f.SyncData
	}
	if err := do(); err != nil {
		return err
	}
	m.acked = len(m.data)
	return nil
}

func (w *world) close() error {
	f, id := w.open[w.cur], w.cur
	if f == nil {
		return nil
	}
	delete(w.open, id)
	w.cur = 0
	if err := f.Close(); err != nil {
		return err
	}
	w.m.files[id].closed = true
	return nil
}

func (w *world) syncDir() error {
	if err := w.mkdir("d"); err != nil {
		return err
	}
	d, err := w.a.OpenDir("d")
	if err != nil {
		return err
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return err
	}
	w.m.durable = len(w.m.hist) - 1
	return nil
}

func (w *world) nameOp(op byte) error {
	if op == 'G' {
		return w.tell(func() error { return w.a.RemoveAll("d/sub") }, func(n map[string]int) {
			maps.DeleteFunc(n, func(name string, _ int) bool { return name == "d/sub" || strings.HasPrefix(name, "d/sub/") })
		})
	}
	id, name := w.cur, w.nameOf(w.cur)
	if name == "" || id == 0 {
		return nil
	}
	to := w.fresh("d")
	switch op {
	case 'u':
		return w.tell(func() error { return w.a.Remove(name) }, func(n map[string]int) { delete(n, name) })
	case 'l':
		return w.tell(func() error { return w.a.Link(name, to) }, func(n map[string]int) { n[to] = id })
	case 'o':
		for _, old := range slices.Sorted(maps.Keys(w.m.names())) {
			if other := w.m.names()[old]; other != 0 && other != id {
				to = old
				break
			}
		}
	}
	return w.tell(func() error { return w.a.Rename(name, to) }, func(n map[string]int) { delete(n, name); n[to] = id })
}

// check reads everything, whole and in pieces, as the running program sees it.
func (w *world) check() error {
	fd, err := w.look()
	if err != nil {
		return err
	}
	if w.beyond {
		_, err = w.m.verify(fd)
		return err
	}
	if err := w.m.matches(w.m.names(), fd); err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(w.rnd, 9))
	for _, name := range slices.Sorted(maps.Keys(w.m.names())) {
		id := w.m.names()[name]
		want := w.m.files[id]
		if id == 0 || len(want.data) == 0 {
			continue
		}
		if len(fd.files[name]) != len(want.data) {
			return fmt.Errorf("%s reads as %d bytes, %d were written", name, len(fd.files[name]), len(want.data))
		}
		if err := w.pieces(rng, name, want.data); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) pieces(rng *rand.Rand, name string, want []byte) error {
	f, err := w.a.Open(name)
	if err != nil {
		return err
	}
	for range 4 {
		from := rng.IntN(len(want))
		to := from + 1 + rng.IntN(len(want)-from)
		b := make([]byte, to-from)
		if n, err := f.ReadAt(b, int64(from)); n != len(b) || err != nil && err != io.EOF {
			return fmt.Errorf("%s [%d:%d]: %d bytes, %w", name, from, to, n, err)
		}
		if !bytes.Equal(b, want[from:to]) {
			return fmt.Errorf("%s [%d:%d]: wrong bytes", name, from, to)
		}
	}
	return f.Close()
}

func (w *world) restart(clean bool) error {
	if clean {
		a := w.a
		for _, id := range slices.Sorted(maps.Keys(w.open)) {
			w.cur = id
			if err := w.close(); err != nil {
				return err
			}
		}
		if err := a.Close(); err != nil {
			err = fmt.Errorf("close: %w", err)
			if w.lenient == nil || w.lenient("close", err) != nil {
				return err
			}
		}
	}
	before := w.m.clone()
	w.kill()
	w.era++
	if err := w.mount(); err != nil || w.beyond {
		return err
	}
	fd, err := look(w.a)
	if err != nil {
		return err
	}
	return before.exact(fd)
}

func (w *world) memberStep(word string, n int) error {
	ctx := context.Background()
	switch word[0] {
	case 'R':
		if _, err := w.a.Rebuild(ctx, RebuildOptions{}); err != nil {
			return err
		}
		return w.settled()
	case 'U':
		_, err := w.a.Scrub(ctx, ScrubOptions{})
		return err
	}
	if n >= w.width {
		return nil
	}
	switch dir := w.dirs[n][len(w.dirs[n])-1]; word[0] {
	case 'F':
		w.weak[n], w.broken[n] = true, true
		w.member(dir)
		w.inj[dir].Arm(vfstest.FailIO, 1, true)
		return nil
	case 'J':
		w.inj[dir].Disarm()
		delete(w.broken, n)
		if st := w.a.Status().Members[n].State; st == "live" || st == "rebuilding" {
			return nil
		}
		return w.a.Rejoin(w.member(dir))
	case 'A':
		w.weak[n], w.hidden[n] = true, true
		return w.restart(false)
	case 'B':
		delete(w.hidden, n)
		return w.restart(false)
	case 'P':
		w.weak[n] = true
		w.dirNo++
		fresh := fmt.Sprintf("n%d", w.dirNo)
		if err := w.fs.MkdirAll(fresh, 0o755); err != nil {
			return err
		}
		w.dirs[n] = append(w.dirs[n], fresh)
		if err := w.a.Replace(dir, w.member(fresh)); err != nil {
			return err
		}
		delete(w.broken, n)
		return nil
	}
	return fmt.Errorf("unknown step %s", word)
}

// settled clears the weak slots if the array says that it is whole again.
func (w *world) settled() error {
	st := w.a.Status()
	if st.State == "healthy" {
		if len(w.hidden)+len(w.broken) > 0 {
			return fmt.Errorf("healthy, but members %v are away and %v fail", w.hidden, w.broken)
		}
		clear(w.weak)
		return nil
	}
	if len(w.hidden)+len(w.broken) == 0 {
		return fmt.Errorf("state %q after a rebuild with all members: %s; %+v", st.State, st.Reason, st.Members)
	}
	return nil
}
