package raid

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/vfstest"
)

// fillWorld is a world whose members are disks of the same size.
func fillWorld(t *testing.T, s shape, size, reserve int64) (*world, []*vfstest.Capacity) {
	t.Helper()
	m := vfs.NewMem()
	w := newWorld(s, m)
	w.reserve = reserve
	var caps []*vfstest.Capacity
	for _, dirs := range w.dirs {
		must(t, m.MkdirAll(dirs[0], 0o755))
		c := vfstest.NewCapacity(m, size)
		caps = append(caps, c)
		w.inj[dirs[0]] = vfstest.NewInjector(c)
	}
	must(t, w.run(""))
	return w, caps
}

// fillUp writes until a write is refused for want of room.
func fillUp(w *world, word string) error {
	for range 100_000 {
		err := w.step(word)
		if err == nil {
			err = w.step("s")
		}
		if errors.Is(err, syscall.ENOSPC) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return errors.New("the disks never fill up")
}

func allLive(w *world) error {
	for _, m := range w.a.Status().Members {
		if m.State != "live" {
			return fmt.Errorf("member %d is %s: %s", m.Slot, m.State, m.Reason)
		}
	}
	return nil
}

func hasEvent(w *world, kind string) bool {
	return slices.ContainsFunc(w.events, func(e Event) bool { return e.Kind == kind })
}

func TestEqualDisksThatFillUpTogetherRefuseWritesAndHealWhenFreed(t *testing.T) {
	for _, s := range faultShapes {
		for _, word := range []string{"wt", "wz", "w999"} {
			w, caps := fillWorld(t, s, 384<<10, 96<<10)
			fail := func(what string, err error) {
				if err != nil {
					used := []int64{}
					for _, c := range caps {
						used = append(used, c.Used())
					}
					t.Fatalf("%v %s, %s: %v (used %v)\n%v", s, word, what, err, used, eventsError(w.events))
				}
			}
			fail("prepare", w.run("c d wz s x c d wm s x c d"))
			fail("fill", fillUp(w, word))
			fail("no member fails", allLive(w))
			fail("reads go on", w.check())
			if !w.a.Status().NoRoom || !hasEvent(w, EventNoRoom) {
				t.Errorf("%v %s: nobody was told: %+v", s, word, w.a.Status())
			}
			for range 3 {
				if err := fillUp(w, word); err != nil { // refused again and again
					fail("refused again", err)
				}
			}
			fail("no member fails", allLive(w))
			// A restart of the full array.
			w.kill()
			fail("restart when full", w.mount())
			fail("no member fails", allLive(w))
			fail("reads go on", w.check())
			// Removing needs no room, and makes room.
			fail("choose", w.choose(3))
			fail("remove", w.run("u d x"))
			w.cur = 2
			fail("remove", w.run("u d"))
			fail("freed", w.run("c d wz s wt s v k v"))
			fail("no member fails", allLive(w))
			fail("close", w.a.Close())
			w.kill()
			fail("check", w.fsck())
		}
	}
}

// TestOneFullDiskFailsNobody is the case of unequal disks.
func TestOneFullDiskFailsNobody(t *testing.T) {
	w, caps := fillWorld(t, shape{5, 4}, 1<<20, 24<<10)
	must(t, w.run("c d wm s"))
	caps[2].Resize(caps[2].Used() + 4096)
	must(t, fillUp(w, "wt"))
	must(t, allLive(w))
	must(t, w.check())
	caps[2].Resize(1 << 20)
	must(t, w.run("e wm s v k v"))
	must(t, allLive(w))
}

// lockedDirs are members on disks of a size, with locks that count.
func lockedDirs(t *testing.T, s shape, size int64) (o Options, caps []*vfstest.Capacity, inj []*vfstest.Injector) {
	t.Helper()
	mem := vfs.NewMem()
	o = testOptions(testDirs(mem, "", s.width), s.level)
	o.Reserve = 16 << 10
	for i := range o.Members {
		caps = append(caps, vfstest.NewCapacity(mem, size))
		inj = append(inj, vfstest.NewInjector(caps[i]))
		o.Members[i].FS = inj[i]
	}
	return o, caps, inj
}

// TestCloseOfAFullArrayGivesUpItsLocksAndLosesNothing: whatever has no room from which
// operation of Close on. The locks are real: opening again shows that they are free.
func TestCloseOfAFullArrayGivesUpItsLocksAndLosesNothing(t *testing.T) {
	for _, s := range []shape{{0, 2}, {1, 2}, {5, 3}, {6, 4}} {
		for n := 1; ; n++ {
			o, _, inj := lockedDirs(t, s, 1<<20)
			a, err := Create(o)
			must(t, err)
			want := map[string][]byte{}
			files := map[string]vfs.File{}
			for i, name := range []string{"a", "b"} {
				f, err := a.Create(name, vfs.WriteCategoryUnspecified)
				must(t, err)
				want[name] = payload(i, 0, 3*s.stripe()+77+i, 0)
				writeAll(t, f, want[name])
				must(t, f.Sync())
				writeAll(t, f, payload(9, 0, 31, 0)) // not synced: may be there or not
				files[name] = f
			}
			for _, in := range inj {
				in.Arm(vfstest.FailNoRoom, n, true)
			}
			if err := files["a"].Close(); err != nil && !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("%v, no room from %d on: closing a file: %v", s, n, err)
			}
			fired := false
			err = a.Close()
			for _, in := range inj {
				_, f := in.Fired()
				fired = fired || f
				in.Disarm()
			}
			if err != nil && !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("%v, no room from %d on: %v", s, n, err)
			}
			if _, err := files["b"].Write([]byte("x")); !errors.Is(err, ErrClosed) {
				t.Errorf("%v: writing after Close: %v", s, err)
			}
			a, err = Open(o)
			if err != nil {
				t.Fatalf("%v, no room from %d on: opening again: %v", s, n, err)
			}
			for name, b := range want {
				if got := readAll(t, a, name); len(got) < len(b) || !slices.Equal(got[:len(b)], b) {
					t.Fatalf("%v, no room from %d on: %s lost what was synced", s, n, name)
				}
			}
			if st := a.Status(); st.State != "healthy" {
				t.Errorf("%v, no room from %d on: %s: %s", s, n, st.State, st.Reason)
			}
			must(t, a.Close())
			if !fired {
				break
			}
		}
	}
}

// TestCloseOfAnArrayOnDisksThatStayFull: nothing is left but what the array has, and it
// opens on that.
func TestCloseOfAnArrayOnDisksThatStayFull(t *testing.T) {
	for _, s := range []shape{{1, 2}, {5, 3}} {
		o, caps, _ := lockedDirs(t, s, 1<<20)
		a, err := Create(o)
		must(t, err)
		f, err := a.Create("f", vfs.WriteCategoryUnspecified)
		must(t, err)
		b := payload(1, 0, 2*s.stripe()+100, 0)
		writeAll(t, f, b)
		must(t, f.Sync())
		for _, c := range caps {
			c.Resize(c.Used())
		}
		for round := range 3 {
			if err := a.Close(); err != nil && !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("%v: %v", s, err)
			}
			a, err = Open(o)
			if err != nil {
				t.Fatalf("%v, start %d on full disks: %v", s, round+1, err)
			}
			if got := readAll(t, a, "f"); !slices.Equal(got, b) {
				t.Fatalf("%v: content differs", s)
			}
		}
		must(t, a.Remove("f"))
		for _, c := range caps {
			c.Resize(1 << 20)
		}
		must(t, a.Close())
	}
}
