package raid

import (
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/vfstest"
)

// TestPowerCutWithTailsMadeBeforehand: as the other proofs, with segments of the tail
// log that are zeros before they are records.
func TestPowerCutWithTailsMadeBeforehand(t *testing.T) {
	prepareInWorlds = 1
	defer func() { prepareInWorlds = 0 }()
	var total figures
	for k, s := range []shape{{0, 2}, {1, 2}, {5, 3}, {6, 4}} {
		for i, c := range crashScripts {
			if s.parity() < c.needs || scale() == 1 && (i+k)%4 != 0 {
				continue
			}
			x := crashConfig(uint64(i))
			err := exploreScript(s, c.script, x, Mutants{})
			total.add(x.figure)
			if err != nil {
				t.Errorf("%v, %s: %v", s, c.name, err)
			}
		}
	}
	t.Log(total)
}

// TestTailsAreMadeBeforehand: small synced appends go to segments that were made so,
// also after a member has failed; nothing of it is left over.
func TestTailsAreMadeBeforehand(t *testing.T) {
	for _, s := range []shape{{0, 3}, {1, 2}, {5, 4}, {6, 4}} {
		g := newRig(t, s)
		g.close()
		open := func() {
			o := g.options()
			o.prepare = 2
			a, err := Open(o)
			must(t, err)
			g.a = a
		}
		open()
		zeroed := 0
		grow := func() {
			for range 60 {
				g.write("a", 90, true)
				if g.a.tail.zeroed {
					zeroed++
				}
			}
		}
		grow()
		if zeroed < 40 {
			t.Errorf("%v: %d of 60 appends went to a segment that was made beforehand", s, zeroed)
		}
		g.verify()
		g.a = nil // the process ends here
		open()
		g.verify()
		if s.parity() > 0 {
			g.inj["m1"].Arm(vfstest.FailIO, 5, true)
			grow()
			g.inj["m1"].Disarm()
			must(t, g.a.Rejoin(g.dir("m1")))
			g.rebuild()
		}
		if res := g.scrub(); res.Found() != 0 {
			t.Errorf("%v: %+v", s, res)
		}
		g.verify()
		g.close()
		for _, d := range g.dirs {
			names, err := g.fs.List(d)
			must(t, err)
			if slices.Contains(names, preparedName) {
				t.Errorf("%v: %s is left in %s", s, preparedName, d)
			}
		}
		g.clean()
	}
}

// TestATailMadeBeforehandGivesItsRoomBack when a disk is full.
func TestATailMadeBeforehandGivesItsRoomBack(t *testing.T) {
	o, caps, _ := lockedDirs(t, shape{1, 2}, 1<<20)
	o.prepare, o.TailSize = 2, 64<<10
	a, err := Create(o)
	must(t, err)
	f, err := a.Create("f", vfs.WriteCategoryUnspecified)
	must(t, err)
	for a.tail.ready.files == nil {
		writeAll(t, f, payload(1, 0, 100, 0))
		must(t, f.Sync())
	}
	for _, c := range caps {
		c.Resize(c.Used())
	}
	for err == nil {
		if _, err = f.Write(payload(1, 0, 100, 0)); err == nil {
			err = f.Sync()
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if a.tail.ready.files != nil {
		t.Error("it is kept although there is no room")
	}
	if err := a.Close(); err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}

// TestTailsAreMadeInTheBackground on real disks, while appending goes on.
func TestTailsAreMadeInTheBackground(t *testing.T) {
	o := testOptions(testDirs(vfs.Default, t.TempDir(), 2), 1)
	o.Manual, o.Serial, o.ScrubEvery, o.prepare, o.TailSize = false, false, -1, 2, 32<<10
	a, err := Create(o)
	must(t, err)
	f, err := a.Create("f", vfs.WriteCategoryUnspecified)
	must(t, err)
	used := func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.tail.zeroed
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	n := 0
	for ; !used() && ctx.Err() == nil; n++ {
		writeAll(t, f, []byte("one\n"))
		must(t, f.Sync())
	}
	if ctx.Err() != nil {
		t.Error("no segment was made beforehand")
	}
	must(t, f.Close())
	must(t, a.Close())
	a, err = Open(o)
	must(t, err)
	if got := string(readAll(t, a, "f")); got != strings.Repeat("one\n", n) {
		t.Errorf("%d bytes instead of %d", len(got), 4*n)
	}
	must(t, a.Close())
}
