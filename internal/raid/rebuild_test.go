package raid

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"holdfast/internal/vfstest"
)

func (g *rig) rebuild() RebuildResult {
	g.t.Helper()
	res, err := g.a.Rebuild(context.Background(), RebuildOptions{})
	if err != nil {
		g.t.Fatal(err)
	}
	return res
}

func (g *rig) state() string { return g.a.Status().State }

// loseOthers opens the array without as many members as the level survives, not
// counting those in keep, and reads everything: what was rebuilt is a source.
func (g *rig) loseOthers(keep int) {
	g.t.Helper()
	all := slices.Clone(g.dirs)
	var left []string
	lost := 0
	for i, d := range all {
		if i != keep && lost < g.parity() {
			lost++
			continue
		}
		left = append(left, d)
	}
	g.dirs = left
	g.open()
	g.verify()
	g.close()
	g.dirs = all
}

// TestReplace: a slot gets a blank directory, which ends up holding what the old
// one held.
func TestReplace(t *testing.T) {
	for _, s := range allShapes {
		if s.parity() == 0 {
			continue
		}
		for slot := range s.width {
			g := newRig(t, s)
			g.fill()
			if err := g.a.Replace(g.dirs[slot], g.dir(g.blank("new"))); err != nil {
				t.Fatalf("%v: %v", s, err)
			}
			g.dirs[slot] = "new"
			if st := g.state(); st != "rebuilding" {
				t.Fatalf("%v: state %s", s, st)
			}
			g.verify()
			g.write("late", 3*g.stripe()+5, false)
			res := g.rebuild()
			if res.Written == 0 || res.Lost != 0 || !slices.Equal(res.Members, []int{slot}) {
				t.Fatalf("%v slot %d: %+v", s, slot, res)
			}
			if st := g.state(); st != "healthy" {
				t.Fatalf("%v: state %s: %s", s, st, g.a.Status().Reason)
			}
			if res := g.scrub(); res.Found() != 0 {
				t.Fatalf("%v: %+v", s, res)
			}
			g.verify()
			g.close()
			g.clean()
			g.loseOthers(slot)
		}
	}
}

// TestRejoin: a member that was away comes back with what it held; that is kept,
// what it missed is brought, and what it held and was damaged meanwhile too.
func TestRejoin(t *testing.T) {
	for _, s := range allShapes {
		if s.parity() == 0 {
			continue
		}
		g := newRig(t, s)
		g.fill()
		g.close()
		all := slices.Clone(g.dirs)
		g.dirs = g.dirs[1:]
		g.open()
		g.write("while-away", 4*g.stripe()+77, false)
		g.write("a", 2*g.stripe(), false)
		g.close()
		if cols := g.files("m0", ".col"); len(cols) > 0 {
			g.flip(cols[0], everySlot(false))
		}
		g.dirs = all
		g.open()
		if st := g.state(); st != "rebuilding" {
			t.Fatalf("%v: state %s", s, st)
		}
		g.verify()
		res := g.rebuild()
		if res.Kept == 0 || res.Written == 0 || res.Lost != 0 {
			t.Fatalf("%v: %+v", s, res)
		}
		if st := g.state(); st != "healthy" {
			t.Fatalf("%v: state %s", s, st)
		}
		if res := g.scrub(); res.Found() != 0 {
			t.Fatalf("%v: %+v", s, res)
		}
		g.close()
		g.clean()
		g.loseOthers(0)
	}
}

// TestRebuildGoesOn: interrupted at every stripe, by a cancelled context and then
// a crash of the process or an orderly end, it always ends in a clean array.
func TestRebuildGoesOn(t *testing.T) {
	for _, s := range []shape{{1, 2}, {5, 3}, {6, 5}} {
		for stop := 1; stop < 12; stop++ {
			g := newRig(t, s)
			g.fill()
			if err := g.a.Replace("1", g.dir(g.blank("new"))); err != nil {
				t.Fatal(err)
			}
			g.dirs[1] = "new"
			ctx, cancel := context.WithCancel(context.Background())
			n := 0
			_, err := g.a.Rebuild(ctx, RebuildOptions{Progress: func(Progress) {
				if n++; n == stop {
					cancel()
				}
			}})
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("%v stopped at %d: %v", s, stop, err)
			}
			if stop%2 == 0 {
				g.close()
			}
			g.a = nil
			g.open()
			if st := g.state(); st != "rebuilding" {
				t.Fatalf("%v: state %s after a restart", s, st)
			}
			g.rebuild()
			if res := g.scrub(); res.Found() != 0 || g.state() != "healthy" {
				t.Fatalf("%v stopped at %d: %s, %+v", s, stop, g.state(), res)
			}
			g.verify()
			g.close()
			g.clean()
		}
	}
}

// TestSpareStepsIn: a member fails while it is written to; the spare takes its
// slot and is rebuilt, and the array is healthy without anybody's help.
func TestSpareStepsIn(t *testing.T) {
	for _, s := range allShapes {
		if s.parity() == 0 {
			continue
		}
		g := newRig(t, s)
		if err := g.a.AddSpare(g.dir(g.blank("sp"))); err != nil {
			t.Fatal(err)
		}
		g.fill()
		if st := g.a.Status(); len(st.Spares) != 1 || st.Spares[0].State != "spare" {
			t.Fatalf("%v: %+v", s, st.Spares)
		}
		g.inj["m1"].Arm(vfstest.FailIO, 1, true)
		g.write("a", 5*g.stripe()+9, false)
		if st := g.state(); st != "degraded" {
			t.Fatalf("%v: state %s", s, st)
		}
		res := g.rebuild()
		if !slices.Equal(res.Members, []int{1}) {
			t.Fatalf("%v: %+v", s, res)
		}
		if st := g.a.Status(); st.State != "healthy" || st.Members[1].Path != "sp" || len(st.Spares) != 0 {
			t.Fatalf("%v: %+v", s, st)
		}
		g.verify()
		g.close()
		g.inj["m1"].Disarm()
		g.dirs[1] = "sp"
		g.clean()
		g.loseOthers(1)
		g.dirs = append(g.dirs, "m1") // the failed one comes back: it is foreign now
		g.open()
		g.verify()
		g.close()
	}
}

// TestSpareInTheBackground: without Manual the spare steps in and is rebuilt by
// itself.
func TestSpareInTheBackground(t *testing.T) {
	g := newRig(t, shape{5, 4})
	g.fill()
	g.close()
	g.spares = []string{g.blank("sp")}
	o := g.options()
	o.Manual = false
	done := make(chan struct{})
	o.OnEvent = func(e Event) {
		if e.Kind == EventRebuildDone {
			close(done)
		}
	}
	a, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	g.a = a
	if err := g.a.AddSpare(g.dir("sp")); err != nil {
		t.Fatal(err)
	}
	g.inj["m2"].Arm(vfstest.FailIO, 1, true)
	g.write("a", 5*g.stripe()+9, false)
	waitFor(t, done)
	g.verify()
	g.close()
}

func waitFor(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("not within 30 s")
	}
}
