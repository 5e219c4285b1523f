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
