package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/vfstest"
)

const testDir = "d"

// model is what the journal has promised, kept beside it by the test.
type model struct {
	gens   map[uint64]*genModel
	minGen uint64 // generations below are gone for good
	ids    []string
}

// genModel is one generation: all that was ever appended, and how much of it is
// acknowledged.
type genModel struct {
	base  uint64
	data  []byte
	ends  map[uint64]bool // record boundaries
	acked uint64          // Synced() said so, or a follower has seen it under always
}

func newGenModel(base uint64) *genModel {
	return &genModel{base: base, acked: base, ends: map[uint64]bool{base: true}}
}

func (g *genModel) end() uint64 { return g.base + uint64(len(g.data)) }

func (g *genModel) truncate(end uint64) {
	g.data = g.data[:end-g.base]
	for e := range g.ends {
		if e > end {
			delete(g.ends, e)
		}
	}
}

func (m *model) clone() *model {
	c := &model{gens: map[uint64]*genModel{}, minGen: m.minGen, ids: slices.Clone(m.ids)}
	for n, g := range m.gens {
		k := *g
		k.data = slices.Clone(g.data)
		k.ends = map[uint64]bool{}
		for e := range g.ends {
			k.ends[e] = true
		}
		c.gens[n] = &k
	}
	return c
}

// world runs a script on a journal and keeps the model.
type world struct {
	fs    vfs.FS
	opts  Options
	clock time.Time
	salt  uint64
	j     *Journal
	m     *model
	gen   *genModel
	f     *Follower
	era   byte // distinguishes payloads of two lives; 0: they look alike
	idNo  int
	opens int
}

func newWorld(fsys vfs.FS, opts Options) *world {
	w := &world{fs: fsys, opts: opts, clock: time.Unix(1_700_000_000, 0), m: &model{gens: map[uint64]*genModel{}, ids: []string{""}}}
	w.opts.FS, w.opts.Dir, w.opts.manual = fsys, testDir, true
	if w.opts.SegmentSize == 0 {
		w.opts.SegmentSize = 1600
	}
	w.opts.Now = func() time.Time { return w.clock }
	w.opts.salt = func() uint64 { w.salt += 0x9e3779b97f4a7c15; return w.salt }
	return w
}

// payload depends on the position alone, so that a second life appends the same
// bytes again, unless it is of another era.
func (w *world) payload(pos uint64) []byte {
	n := 20 + int(pos*7%90)
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(pos) + byte(i) + w.era
	}
	return b
}

// open opens the journal, holds it against the model, and starts it.
func (w *world) open() error {
	j, rec, err := Open(w.opts)
	if err != nil {
		return err
	}
	if err := w.m.verify(j, rec); err != nil {
		j.kill()
		return err
	}
	if rec.Fresh {
		w.gen = newGenModel(0)
		w.m.gens[j.topGen+1] = w.gen
	} else {
		w.gen = w.m.gens[rec.Generation]
		w.gen.truncate(rec.End)
	}
	if err := j.Start(); err != nil {
		j.kill()
		return fmt.Errorf("start: %w", err)
	}
	w.m.minGen = j.gen
	w.j = j
	w.opens++
	w.learn()
	return nil
}

// verify holds what was recovered against what was promised.
func (m *model) verify(j *Journal, rec Recovery) error {
	if rec.Fresh {
		if m.minGen > 0 {
			return fmt.Errorf("fresh, but generation %d was acknowledged", m.minGen)
		}
		return nil
	}
	g := m.gens[rec.Generation]
	if g == nil || rec.Generation < m.minGen {
		return fmt.Errorf("generation %d came back, at least %d was promised", rec.Generation, m.minGen)
	}
	if rec.End < g.acked {
		return fmt.Errorf("end %d, but everything up to %d was acknowledged", rec.End, g.acked)
	}
	if !g.ends[rec.End] {
		return fmt.Errorf("end %d is not the end of a record that was appended (last %d)", rec.End, g.end())
	}
	if !slices.Contains(m.ids, rec.HistoryIDs[0]) {
		return fmt.Errorf("history id %q, promised was one of %q", rec.HistoryIDs[0], m.ids)
	}
	if rec.Checkpoint != "" {
		b, err := readSmall(j.fs, j.fs.PathJoin(testDir, rec.Checkpoint))
		if err != nil || string(b) != fmt.Sprint(rec.CheckpointPos) {
			return fmt.Errorf("checkpoint %s: %q, %v", rec.Checkpoint, b, err)
		}
	}
	var got []byte
	if err := j.Replay(rec.CheckpointPos, func(r Record) error {
		if r.Type == TypeStream {
			if r.Pos != rec.CheckpointPos+uint64(len(got)) {
				return fmt.Errorf("record at %d, %d expected", r.Pos, rec.CheckpointPos+uint64(len(got)))
			}
			got = append(got, r.Payload...)
		}
		return nil
	}); err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	if want := g.data[rec.CheckpointPos-g.base : rec.End-g.base]; !bytes.Equal(got, want) {
		return fmt.Errorf("replayed %d bytes from %d that differ from the %d appended", len(got), rec.CheckpointPos, len(want))
	}
	return nil
}

// learn notes what the journal claims to be durable now.
func (w *world) learn() {
	if w.j != nil && w.gen != nil {
		w.gen.acked = max(w.gen.acked, w.j.Synced())
	}
}

// run carries out a script, one letter per step:
//
//	a append   A append one large record   f flush   s flush and sync   m a second passes, idle work
//	p prepare the next segment   c checkpoint   g new generation   h new history id
//	e new epoch   k kill and open   x close and open   v followers read   r reopen after failure
func (w *world) run(script string) error {
	if w.j == nil {
		if err := w.open(); err != nil {
			return err
		}
	}
	for i, op := range script {
		if err := w.step(op); err != nil {
			return fmt.Errorf("step %d (%c): %w", i, op, err)
		}
		w.learn()
	}
	return nil
}

func (w *world) step(op rune) error {
	j := w.j
	switch op {
	case 'a':
		w.append(w.payload(w.gen.end()))
		return nil
	case 'A':
		w.append(bytes.Repeat(w.payload(w.gen.end()), 60))
		return nil
	case 'f':
		return j.Flush()
	case 's':
		if err := j.Flush(); err != nil {
			return err
		}
		return j.Sync(j.End())
	case 'm':
		w.clock = w.clock.Add(1100 * time.Millisecond)
		j.everySecond()
		return j.Err()
	case 'p':
		j.prepareSpare()
		return j.Err()
	case 'c':
		return w.checkpoint()
	case 'g':
		return w.generation()
	case 'h':
		w.idNo++
		id := fmt.Sprintf("id%d", w.idNo)
		w.m.ids = append(w.m.ids, id)
		if err := j.SetHistory([2]string{id, "old"}, j.End()); err != nil {
			return err
		}
		w.m.ids = []string{id}
		return nil
	case 'e':
		j.SetEpoch(j.Epoch() + 1)
		return nil
	case 'v':
		return w.follow()
	case 'r':
		return j.Reopen()
	case 'k', 'x':
		return w.restart(op == 'x')
	}
	return fmt.Errorf("unknown step %c", op)
}

func (w *world) append(b []byte) {
	w.gen.data = append(w.gen.data, b...)
	w.gen.ends[w.gen.end()] = true
	if end := w.j.Append(TypeStream, 0, b); end != w.gen.end() {
		panic(fmt.Sprintf("Append returned %d, %d expected", end, w.gen.end()))
	}
}

// writeCheckpoint writes the file as the owner of a journal must: synced, and its name too.
func (w *world) writeCheckpoint(pos uint64) (string, error) {
	name := fmt.Sprintf("checkpoint-%d-%d.rdb", w.j.gen, pos)
	f, err := w.fs.Create(w.fs.PathJoin(testDir, name), writeCategory)
	if err != nil {
		return "", err
	}
	if _, err = io.WriteString(f, fmt.Sprint(pos)); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	return name, w.j.dirf.Sync()
}

func (w *world) checkpoint() error {
	pos := w.j.Flushed()
	if pos == w.j.Manifest().CheckpointPos {
		return nil
	}
	name, err := w.writeCheckpoint(pos)
	if err != nil {
		return err
	}
	return w.j.CheckpointDone(name, pos)
}

func (w *world) generation() error {
	base := w.j.End() + 1000
	name, err := w.writeCheckpoint(base)
	if err != nil {
		return err
	}
	gen := w.j.topGen + 1
	g := newGenModel(base)
	w.m.gens[gen] = g
	if err := w.j.BeginGeneration(NewGeneration{HistoryIDs: [2]string{w.m.ids[0]}, Base: base, Checkpoint: name, CheckpointPos: base}); err != nil {
		return err
	}
	w.gen, w.m.minGen, w.f = g, gen, nil
	return nil
}

func (w *world) follow() error {
	if w.f == nil {
		var err error
		if w.f, err = w.j.Follow(w.j.FirstPos()); err != nil {
			return err
		}
	}
	for buf := make([]byte, 333); ; {
		from := w.f.Pos()
		n, err := w.f.Read(buf)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		if want := w.gen.data[from-w.gen.base:][:n]; !bytes.Equal(want, buf[:n]) {
			return fmt.Errorf("follower read wrong bytes at %d", from)
		}
	}
	if w.opts.Level == LevelAlways {
		// A replica has it: it must never be unheard of here.
		w.gen.acked = max(w.gen.acked, w.f.Pos())
	}
	return nil
}

func (w *world) restart(clean bool) error {
	flushed := w.j.Flushed()
	if clean {
		if err := w.j.Close(); err != nil {
			return err
		}
		flushed = w.gen.end()
	} else {
		w.j.kill()
	}
	w.j, w.f = nil, nil
	if err := w.open(); err != nil {
		return err
	}
	if end := w.j.End(); end != flushed {
		return fmt.Errorf("end %d after a restart, %d was handed to the operating system", end, flushed)
	}
	return nil
}

// explorer tries the states that a power cut may leave while a world runs.
type explorer struct {
	cfg    vfstest.Config
	seen   map[string]bool
	states int
	deep   int // of so many states one is run further, with power cuts again; 0 none
	level2 string
	err    error
}

// watch explores at each barrier of w's disk until the first violation.
func (x *explorer) watch(w *world, d *vfstest.Disk, deep int) {
	d.OnBarrier(func(op vfstest.Op) {
		if x.err == nil {
			x.err = x.explore(w, d.Snapshot(), deep)
			if x.err != nil {
				x.err = fmt.Errorf("power cut before %v: %w", op, x.err)
			}
		}
	})
}

func (w *world) key() string {
	var b strings.Builder
	fmt.Fprint(&b, w.m.minGen, w.m.ids)
	for n, g := range w.m.gens {
		if n >= w.m.minGen {
			fmt.Fprint(&b, n, ":", g.acked, "/", g.end(), " ")
		}
	}
	return b.String()
}

func (x *explorer) explore(w *world, snap *vfstest.Snapshot, deep int) error {
	w.learn()
	key := w.key()
	for st := range snap.States(x.cfg) {
		k := fmt.Sprint(st.Hash(), key)
		if x.seen[k] {
			continue
		}
		x.seen[k] = true
		x.states++
		if err := x.try(w, st, deep > 0 && x.states%deep == 0); err != nil {
			return fmt.Errorf("%w\nstate:\n%v", err, st)
		}
	}
	return nil
}

// try opens what a power cut left; further also lives on with it.
func (x *explorer) try(w *world, st vfstest.State, further bool) error {
	m, err := st.FS()
	if err != nil {
		return err
	}
	var fsys vfs.FS = m
	after := newWorld(fsys, w.opts)
	after.m, after.salt, after.era, after.idNo = w.m.clone(), w.salt+uint64(x.states), w.era, w.idNo+100
	if !further {
		j, rec, err := Open(after.opts)
		if err != nil {
			return err
		}
		defer j.kill()
		return after.m.verify(j, rec)
	}
	d, err := vfstest.NewDisk(m, testDir)
	if err != nil {
		return err
	}
	after.fs, after.opts.FS = d, d
	if x.states/max(x.deep, 1)%2 == 0 {
		after.era += 100
	}
	inner := &explorer{cfg: vfstest.Config{Exhaustive: 64, Subsets: 4, Samples: 8, Seed: uint64(x.states)}, seen: map[string]bool{}}
	inner.watch(after, d, 0)
	err = after.run(x.level2)
	x.states += inner.states
	if inner.err != nil {
		return fmt.Errorf("second life: %w", inner.err)
	}
	if err != nil {
		return fmt.Errorf("second life: %w", err)
	}
	defer after.j.kill()
	return inner.explore(after, d.Snapshot(), 0)
}

// exploreScript runs a script with a power cut at every moment.
func exploreScript(script string, opts Options, cfg vfstest.Config, deep int) (states int, err error) {
	d, err := vfstest.NewDisk(vfs.NewMem())
	if err != nil {
		return 0, err
	}
	w := newWorld(d, opts)
	x := &explorer{cfg: cfg, seen: map[string]bool{}, deep: deep, level2: "afaaf"}
	x.watch(w, d, deep)
	err = w.run(script)
	if x.err != nil {
		return x.states, x.err
	}
	if err != nil {
		return x.states, err
	}
	defer w.j.kill()
	return x.states, x.explore(w, d.Snapshot(), deep)
}
