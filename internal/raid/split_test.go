package raid

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/vfstest"
)

// built returns a world on memory that has run a script.
func built(t *testing.T, s shape, script string) *world {
	t.Helper()
	m := vfs.NewMem()
	w := newWorld(s, m)
	for _, dirs := range w.dirs {
		must(t, m.MkdirAll(dirs[0], 0o755))
	}
	if err := w.run(script); err != nil {
		t.Fatalf("%v: %v", s, errors.Join(err, eventsError(w.events)))
	}
	return w
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// hide leaves out all members but those.
func (w *world) only(slots ...int) {
	clear(w.hidden)
	for i := range w.width {
		if !slices.Contains(slots, i) {
			w.hidden[i] = true
		}
	}
}

func TestTwoHalvesThatRanAloneAreRefusedWithAnExplanation(t *testing.T) {
	for _, c := range []struct {
		shape
		a, b         []int
		alone, other string
	}{
		{shape{1, 2}, []int{0}, []int{1}, "f0 wt s c wt s d", "f0 wm s"},
		{shape{1, 2}, []int{0}, []int{1}, "", ""},
		{shape{1, 3}, []int{0, 2}, []int{1}, "f0 wt s q q q f0 wt s", "f0 wt s"},
		{shape{6, 4}, []int{0, 1}, []int{2, 3}, "f0 wm s c wz s d", "f0 wz s u d"},
	} {
		w := built(t, c.shape, "c d wm s wt s q")
		must(t, w.a.Close())
		w.kill()
		other := w.after(w.fs)
		other.rnd += 1000
		for _, half := range []struct {
			w      *world
			slots  []int
			script string
		}{{w, c.a, c.alone}, {other, c.b, c.other}} {
			half.w.only(half.slots...)
			must(t, half.w.mount())
			if err := half.w.run(half.script); err != nil {
				t.Fatalf("%v alone: %v", half.slots, err)
			}
			must(t, half.w.a.Close())
			half.w.kill()
		}
		clear(w.hidden)
		_, before, err := w.collect()
		must(t, err)
		a, err := Open(w.options())
		if err == nil {
			t.Errorf("%v: halves %v and %v that ran alone were opened together: %+v", c.shape, c.a, c.b, a.Status())
			continue
		}
		var split *SplitError
		if !errors.As(err, &split) {
			t.Errorf("%v: %v", c.shape, err)
			continue
		}
		for i := range c.width {
			if dir := fmt.Sprintf("m%d", i); !strings.Contains(err.Error(), dir) {
				t.Errorf("the explanation does not name %s: %v", dir, err)
			}
		}
		_, after, err := w.collect()
		must(t, err)
		if hashFiles(before) != hashFiles(after) {
			t.Errorf("%v: the refusal changed files", c.shape)
		}
		for _, half := range []*world{w, other} { // each half still serves alone
			half.only(c.a...)
			if half == other {
				half.only(c.b...)
			}
			must(t, half.mount())
			half.kill()
		}
	}
}

func TestMemberThatWasAwayNeverServesOldData(t *testing.T) {
	for _, s := range shapes {
		if s.parity() == 0 {
			continue
		}
		// The name means other content after the member went away.
		w := built(t, s, "c d wm s wt s A0 f0 u c wm s wt s d f0 c wK s d k")
		for _, m := range w.a.Status().Members {
			if m.Slot == 0 && m.State == "live" {
				t.Errorf("%v: a member that is away is live", s)
			}
		}
		w.kill()
		clear(w.hidden)
		must(t, w.mount()) // holds everything against the model
		st := w.a.Status()
		if st.Members[0].State == "live" {
			t.Errorf("%v: the member that was away is live before it was rebuilt: %+v", s, st)
		}
		before := w.m.clone()
		if s.parity() == 1 {
			// Until it is rebuilt it is no source: without another member there is too little.
			refused := w.after(w.fs)
			refused.hidden[1] = true
			if s.level != 1 {
				if a, err := Open(refused.options()); err == nil {
					t.Errorf("%v: opened with a stale member as a source: %+v", s, a.Status())
				}
			}
		}
		if err := w.run("R v"); err != nil {
			t.Fatalf("%v: %v", s, err)
		}
		w.kill()
		// Rebuilt, it is a full source: any others may go.
		for _, set := range w.subsets() {
			if len(set) < s.parity() || slices.Contains(set, 0) {
				continue
			}
			dirs, files, err := w.collect()
			must(t, err)
			m, err := vfstest.Build(dirs, files)
			must(t, err)
			without := w.after(m)
			without.m = before.clone()
			for _, slot := range set {
				without.hidden[slot] = true
			}
			if err := without.mount(); err != nil {
				t.Errorf("%v without %v: %v", s, set, err)
			}
		}
	}
}

// TestOldHalfThatStartedAloneIsNotTakenForNews is the dangerous order: one
// member ran alone, then the other one alone, older, and then both are there.
func TestOldHalfThatStartedAloneIsNotTakenForNews(t *testing.T) {
	w := built(t, shape{1, 2}, "c d wt s A1 f0 wt s c wt s d")
	w.kill()
	old := w.after(w.fs)
	old.only(1)
	a, err := Open(old.options())
	must(t, err) // it cannot know
	must(t, a.Close())
	clear(w.hidden)
	var split *SplitError
	if _, err := Open(w.options()); !errors.As(err, &split) {
		t.Fatalf("opened: %v", err)
	}
}

func TestTooFewMembersAreRefusedUnlessForced(t *testing.T) {
	for _, s := range shapes {
		w := built(t, s, "c d wm s wt s q")
		must(t, w.a.Close())
		w.kill()
		for i := range s.parity() + 1 {
			if i < s.width-1 || s.level != 1 {
				w.hidden[i] = true
			}
		}
		if s.level == 1 {
			continue // one copy suffices
		}
		var few *TooFewError
		if _, err := Open(w.options()); !errors.As(err, &few) {
			t.Errorf("%v: %v", s, err)
			continue
		}
		opts := w.options()
		opts.Force = true
		_, before, err := w.collect()
		must(t, err)
		a, err := Open(opts)
		if err != nil {
			t.Errorf("%v forced: %v", s, err)
			continue
		}
		fd, err := lookBeyond(a)
		if err != nil {
			t.Errorf("%v forced: %v", s, err)
		}
		if err := w.m.matches(w.m.names(), fd); err != nil {
			t.Errorf("%v forced: %v", s, err)
		}
		if len(fd.bad) == 0 {
			t.Errorf("%v forced: everything is there without members %v", s, w.hidden)
		}
		if _, err := a.Create("d/x", vfs.WriteCategoryUnspecified); !errors.Is(err, ErrReadOnly) {
			t.Errorf("%v forced: create: %v", s, err)
		}
		must(t, a.Close())
		_, after, err := w.collect()
		must(t, err)
		if hashFiles(before) != hashFiles(after) {
			t.Errorf("%v: forced, it wrote", s)
		}
	}
}
