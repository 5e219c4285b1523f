package raid

import (
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/vfstest"
)

// explorer tries what a power cut may leave while a world runs: each state as it
// is, with members lost, and with members as they were some time before.
type explorer struct {
	cfg      vfstest.Config
	seed     uint64
	most     int // states per barrier; 0: all that cfg gives
	losses   int // sets of lost or stale members per state; < 0: every set
	deep     int // of so many cases one lives on, with power cuts again; 0 none
	fsck     int // of so many cases one is held against Check; 0 none
	level2   string
	parallel bool // members work at the same time

	mu     sync.Mutex // barriers of several members may come at once
	seen   map[uint64]bool
	past   []map[string][]byte // files at earlier barriers
	figure figures
	err    error
}

// figures count what was tried.
type figures struct{ States, Lost, Stale, Returned, Lives, Checks int }

func (f *figures) add(o figures) {
	f.States += o.States
	f.Lost += o.Lost
	f.Stale += o.Stale
	f.Returned += o.Returned
	f.Lives += o.Lives
	f.Checks += o.Checks
}

func (f figures) String() string {
	return fmt.Sprintf("%d states: %d with members lost, %d with members rolled back; %d times lost members returned, %d second lives, %d checks", f.States, f.Lost, f.Stale, f.Returned, f.Lives, f.Checks)
}

// watch explores at each barrier of w's disk until the first violation.
func (x *explorer) watch(w *world, d *vfstest.Disk) {
	x.seen = map[uint64]bool{}
	d.OnBarrier(func(op vfstest.Op) {
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.err == nil {
			if x.err = x.explore(w, d.Snapshot()); x.err != nil {
				x.err = fmt.Errorf("power cut before %s of %s: %w", op.Kind, op.Name, x.err)
			}
		}
	})
}

// loss is what happens to members besides the power cut.
type loss struct {
	slots []int
	stale bool // as they were at an earlier moment, else gone
	empty bool // gone, but the directory is there, as of a disk that is not mounted
}

func (l loss) String() string {
	switch {
	case len(l.slots) == 0:
		return "no member lost"
	case l.stale:
		return fmt.Sprintf("members %v rolled back", l.slots)
	}
	return fmt.Sprintf("members %v lost", l.slots)
}

// subsets returns the sets of slots whose loss the level survives now.
func (w *world) subsets() [][]int {
	var out [][]int
	for bits := 1; bits < 1<<w.width; bits++ {
		gone := maps.Clone(w.weak)
		var set []int
		for i := range w.width {
			if bits>>i&1 == 1 {
				gone[i] = true
				set = append(set, i)
			}
		}
		if len(gone) <= w.parity() {
			out = append(out, set)
		}
	}
	return out
}

var hashSeed = maphash.MakeSeed()

func hashFiles(files map[string][]byte) uint64 {
	var sum uint64 // of the files, in any order
	for name, b := range files {
		sum += maphash.String(hashSeed, name) * (maphash.Bytes(hashSeed, b) | 1)
	}
	return sum
}

func (x *explorer) explore(w *world, snap *vfstest.Snapshot) error {
	key := maphash.String(hashSeed, w.m.key()+fmt.Sprint(w.weak, w.hidden, w.born))
	sets := w.subsets()
	if !w.born {
		sets = nil // nothing can be lost yet
	}
	rng := rand.New(rand.NewPCG(x.seed, uint64(x.figure.States)))
	each := 1
	if x.most > 0 {
		each = max(1, (3*snap.Pending()+x.cfg.Samples)/x.most)
	}
	n := rng.IntN(each)
	for st := range snap.States(x.cfg) {
		if n++; n%each != 0 {
			continue
		}
		files := st.Files()
		for _, l := range x.choose(rng, sets) {
			damaged := files
			if len(l.slots) > 0 {
				damaged = x.damage(rng, w, files, l)
			}
			h := hashFiles(damaged) ^ key*31
			if l.empty {
				h++
			}
			if x.seen[h] {
				continue
			}
			x.seen[h] = true
			x.count(l)
			if err := x.try(w, st.Dirs(), files, damaged, l); err != nil {
				return fmt.Errorf("%v: %w\nstate:\n%v", l, err, st)
			}
		}
	}
	if len(x.past) < 64 || rng.IntN(4) == 0 {
		x.past = append(x.past, snap.Durable().Files())
	}
	return nil
}

func (x *explorer) count(l loss) {
	x.figure.States++
	switch {
	case l.stale:
		x.figure.Stale++
	case len(l.slots) > 0:
		x.figure.Lost++
	}
}

// choose picks what happens to the members in one state.
func (x *explorer) choose(rng *rand.Rand, sets [][]int) []loss {
	out := []loss{{}}
	if len(sets) == 0 {
		return out
	}
	if x.losses < 0 {
		for i, s := range sets {
			out = append(out, loss{slots: s, empty: i%2 == 1}, loss{slots: s, stale: true})
		}
		return out
	}
	for i := range x.losses {
		l := loss{slots: sets[rng.IntN(len(sets))], empty: rng.IntN(2) == 0}
		if l.stale = i%3 == 2 || rng.IntN(3) == 0; l.stale {
			l.empty = false
		}
		out = append(out, l)
	}
	return out
}

// damage returns the files without those of the lost members, or with older ones.
func (x *explorer) damage(rng *rand.Rand, w *world, files map[string][]byte, l loss) map[string][]byte {
	out := maps.Clone(files)
	var past map[string][]byte
	if l.stale && len(x.past) > 0 {
		past = x.past[rng.IntN(len(x.past))]
	}
	of := func(name string) bool {
		dir, _, _ := strings.Cut(name, "/")
		return slices.ContainsFunc(l.slots, func(s int) bool { return slices.Contains(w.dirs[s], dir) })
	}
	maps.DeleteFunc(out, func(name string, _ []byte) bool { return of(name) })
	for name, b := range past {
		if of(name) {
			out[name] = b
		}
	}
	return out
}

// try opens what a power cut left.
func (x *explorer) try(w *world, dirs []string, files, damaged map[string][]byte, l loss) error {
	lost := func(name string) bool {
		dir, _, _ := strings.Cut(name, "/")
		return slices.ContainsFunc(l.slots, func(s int) bool { return slices.Contains(w.dirs[s], dir) })
	}
	all := dirs
	if len(l.slots) > 0 && !l.stale {
		dirs = slices.DeleteFunc(slices.Clone(dirs), func(dir string) bool {
			return lost(dir) && !(l.empty && !strings.Contains(dir, "/"))
		})
	}
	m, err := vfstest.Build(dirs, damaged)
	if err != nil {
		return err
	}
	n := x.figure.States
	if x.deep > 0 && n%x.deep == 0 && w.born {
		return x.liveOn(w, m, dirs, l)
	}
	after := w.after(m)
	for _, s := range l.slots {
		after.weak[s] = true
	}
	if !w.born {
		return after.unborn()
	}
	if err := after.mount(); err != nil {
		return err
	}
	if l.empty {
		for _, s := range l.slots {
			for _, dir := range w.dirs[s] {
				if list, err := m.List(dir); err == nil && len(list) > 0 {
					return fmt.Errorf("wrote %q into the empty directory of a member that is missing", list)
				}
			}
		}
	}
	switch {
	case len(l.slots) > 0 && !l.stale && x.deep > 0 && n%8 == 0:
		return x.comeBack(after, m, all, files, lost)
	case x.fsck > 0 && n%x.fsck == 0 && len(l.slots) == 0:
		return x.clean(after)
	}
	return nil
}

// unborn is the rule for a creation that a power cut interrupted: nothing, or an
// empty array, or it can be made anew.
func (w *world) unborn() error {
	err := w.mount()
	if err == nil {
		return nil
	}
	w.kill()
	w.m = newModel()
	if again := w.create(); again != nil {
		return fmt.Errorf("neither opens (%w) nor can be created again: %w", err, again)
	}
	return nil
}

// liveOn opens the state on a disk that has power cuts too, and writes more.
func (x *explorer) liveOn(w *world, m *vfs.MemFS, dirs []string, l loss) error {
	x.figure.Lives++
	var roots []string
	for _, dir := range dirs {
		if !strings.Contains(dir, "/") && dir != "" && dir != "." {
			roots = append(roots, dir)
		}
	}
	d, err := vfstest.NewDisk(m, roots...)
	if err != nil {
		return err
	}
	after := w.after(d)
	for _, s := range l.slots {
		after.weak[s] = true
	}
	seed := x.seed + uint64(x.figure.States)
	inner := &explorer{cfg: vfstest.Config{Exhaustive: 8, Subsets: 2, Samples: 3, Seed: seed}, seed: seed, losses: 1, most: 1}
	inner.watch(after, d)
	err = after.mount()
	if err == nil && inner.err == nil {
		err = after.run(x.level2)
	}
	x.figure.add(inner.figure)
	if inner.err != nil {
		return fmt.Errorf("second life: %w", inner.err)
	}
	if err != nil {
		return fmt.Errorf("second life: %w", err)
	}
	if err := inner.explore(after, d.Snapshot()); err != nil {
		return fmt.Errorf("second life, at its end: %w", err)
	}
	return nil
}

// comeBack writes without the lost members, brings them back as they were, and
// rebuilds: nothing old may be served.
func (x *explorer) comeBack(after *world, m *vfs.MemFS, dirs []string, files map[string][]byte, lost func(string) bool) error {
	x.figure.Returned++
	if err := after.run("c wt s wZ s d v"); err != nil {
		return fmt.Errorf("without them: %w", err)
	}
	after.kill()
	if err := restore(m, dirs, files, lost); err != nil {
		return err
	}
	after.hidden = map[int]bool{}
	before := after.m.clone()
	if err := after.mount(); err != nil {
		return fmt.Errorf("when they returned: %w", err)
	}
	fd, err := look(after.a)
	if err == nil {
		err = before.exact(fd)
	}
	if err == nil {
		err = after.run("R v e wZ s v")
	}
	if err != nil {
		return fmt.Errorf("after they returned: %w", err)
	}
	return x.clean(after)
}

// restore makes those of the directories and files again that were lost.
func restore(m *vfs.MemFS, dirs []string, files map[string][]byte, lost func(string) bool) error {
	for _, dir := range dirs {
		if err := m.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !lost(name) {
			continue
		}
		f, err := m.Create(name, vfs.WriteCategoryUnspecified)
		if err != nil {
			return err
		}
		if _, err := f.Write(slices.Clone(files[name])); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// clean closes the array and asks Check.
func (x *explorer) clean(w *world) error {
	x.figure.Checks++
	if err := w.a.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	w.kill()
	if len(w.weak) > 0 {
		return nil
	}
	return w.fsck()
}

// fsck holds the closed array against Check: it must be clean.
func (w *world) fsck() error {
	rep, err := Check(w.options(), CheckOptions{})
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if code := rep.ExitCode(); code != 0 {
		return fmt.Errorf("check finds fault: exit code %d: %+v", code, rep)
	}
	return nil
}

// exploreScript runs a script with a power cut at every moment.
func exploreScript(s shape, script string, x *explorer, muts Mutants) error {
	d, err := vfstest.NewDisk(vfs.NewMem())
	if err != nil {
		return err
	}
	w := newWorld(s, d)
	w.muts, w.parallel = muts, x.parallel
	for _, dirs := range w.dirs {
		if err := d.MkdirAll(dirs[0], 0o755); err != nil {
			return err
		}
	}
	if x.level2 == "" {
		x.level2 = "e wt s c wZ s d wt v"
	}
	x.watch(w, d)
	err = w.run(script)
	if x.err != nil {
		return x.err
	}
	if err != nil {
		return errors.Join(err, eventsError(w.events))
	}
	if err := w.check(); err != nil {
		return fmt.Errorf("at the end: %w", err)
	}
	return x.explore(w, d.Snapshot())
}

// eventsError shows the last events where a script failed.
func eventsError(list []Event) error {
	if len(list) > 8 {
		list = list[len(list)-8:]
	}
	if len(list) == 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString("last events:")
	for _, e := range list {
		fmt.Fprintf(&b, "\n  %s member %d %s %s: %s", e.Kind, e.Member, e.Path, e.File, e.Text)
	}
	return errors.New(b.String())
}
