package raid

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/raid/format"
	"holdfast/internal/vfstest"
)

// gatedFS holds up operations of one kind on files whose name has a part.
type gatedFS struct {
	vfs.FS
	mu   sync.Mutex
	kind string // write, sync; "": nothing is held up
	part string
	held chan struct{} // closed when something is held up
	open chan struct{} // closed: it goes on
}

func (g *gatedFS) shut(kind, part string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.kind, g.part, g.held, g.open = kind, part, make(chan struct{}), make(chan struct{})
}

func (g *gatedFS) pass(kind, name string) {
	g.mu.Lock()
	if g.kind != kind || !strings.Contains(name, g.part) {
		g.mu.Unlock()
		return
	}
	g.kind = ""
	held, open := g.held, g.open
	g.mu.Unlock()
	close(held)
	<-open
}

func (g *gatedFS) wrap(f vfs.File, name string, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &gatedFile{f, g, name}, nil
}

func (g *gatedFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := g.FS.Create(name, c)
	return g.wrap(f, name, err)
}

func (g *gatedFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	f, err := g.FS.OpenReadWrite(name, c, o...)
	return g.wrap(f, name, err)
}

type gatedFile struct {
	vfs.File
	g    *gatedFS
	name string
}

func (f *gatedFile) WriteAt(b []byte, off int64) (int, error) {
	f.g.pass("write", f.name)
	return f.File.WriteAt(b, off)
}

func (f *gatedFile) Sync() error {
	f.g.pass("sync", f.name)
	return f.File.Sync()
}

func (f *gatedFile) SyncData() error {
	f.g.pass("sync", f.name)
	return f.File.SyncData()
}

// rejoin takes back slot 1, which has failed, or gives it to a blank directory.
func (g *rig) rejoin(blank bool) {
	g.t.Helper()
	var err error
	if blank {
		err = g.a.Replace("1", g.dir(g.blank("new")))
		g.dirs[1] = "new"
	} else {
		err = g.a.Rejoin(g.dir("m1"))
	}
	if err != nil {
		g.t.Fatal(err)
	}
}

// TestStripesWithoutASealAreRebuilt: stripes that were written while a member was out,
// and are not sealed when its rebuild looks what it lacks, are not forgotten.
func TestStripesWithoutASealAreRebuilt(t *testing.T) {
	for _, s := range allShapes {
		if s.parity() == 0 {
			continue
		}
		for _, blank := range []bool{false, true} {
			g := newRig(t, s)
			g.fill()
			g.inj["m1"].Arm(vfstest.FailIO, 1, true)
			g.write("x", 1, false)
			g.inj["m1"].Disarm()
			f, err := g.a.Create("open", vfs.WriteCategoryUnspecified)
			must(t, err)
			b := payload(3, 0, 5*g.stripe()+9, 0)
			g.want["open"] = b
			writeAll(t, f, b)
			g.rejoin(blank)
			if res := g.rebuild(); !slices.Equal(res.Members, []int{1}) {
				t.Fatalf("%v: %+v", s, res)
			}
			must(t, f.Sync())
			if st := g.a.Status(); st.State != "healthy" || st.AtRisk != 0 {
				t.Errorf("%v: %s, and %d stripes lack a chunk", s, st.State, st.AtRisk)
			}
			if res := g.scrub(); res.Found() != 0 {
				t.Errorf("%v: after a rebuild a scrub found %+v", s, res)
			}
			must(t, f.Close())
			g.close()
			g.clean()
			g.loseOthers(1)
		}
	}
}

// TestRebuildWaitsForStripesOnTheirWay: as above, for stripes that were planned before
// the member joined and reach the others after its rebuild has walked.
func TestRebuildWaitsForStripesOnTheirWay(t *testing.T) {
	g := newRig(t, shape{5, 4})
	g.fill()
	g.close()
	gate := &gatedFS{FS: g.fs}
	o := g.options()
	o.Members[0] = Dir{FS: unlocked{gate}, Path: "m0"}
	o.OnEvent = nil
	a, err := Open(o)
	must(t, err)
	g.a = a
	g.inj["m1"].Arm(vfstest.FailIO, 1, true)
	g.write("x", 1, false)
	g.inj["m1"].Disarm()
	f, err := a.Create("flying", vfs.WriteCategoryUnspecified)
	must(t, err)
	b := payload(4, 0, 2*g.stripe(), 0)
	g.want["flying"] = bytes.Clone(b)
	gate.shut("write", ".col")
	wrote := make(chan error, 1)
	go func() {
		_, err := f.Write(b)
		wrote <- err
	}()
	waitFor(t, gate.held)
	g.rejoin(false)
	rebuilt := make(chan error, 1)
	go func() {
		_, err := a.Rebuild(context.Background(), RebuildOptions{})
		rebuilt <- err
	}()
	waits := func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.flightWaits > 0
	}
	for end := time.Now().Add(30 * time.Second); !waits(); time.Sleep(time.Millisecond) {
		if len(rebuilt) > 0 {
			break // it did not wait; what follows shows whether that was right
		}
		if time.Now().After(end) {
			t.Fatal("the rebuild neither waits nor ends")
		}
	}
	close(gate.open)
	must(t, <-wrote)
	must(t, <-rebuilt)
	must(t, f.Sync())
	if st := g.a.Status(); st.State != "healthy" || st.AtRisk != 0 {
		t.Errorf("%s, and %d stripes lack a chunk", st.State, st.AtRisk)
	}
	must(t, f.Close())
	g.verify()
	g.close()
	g.clean()
}

// TestReadingGoesOnWhileADiskSyncs: a superblock, a new segment of the tail log and a
// checkpoint of the metadata are synced while nobody may write; reading and the
// state do not wait for that.
func TestReadingGoesOnWhileADiskSyncs(t *testing.T) {
	for _, c := range []struct {
		name, part string
		do         func(a *Array) error
	}{
		{"superblock", "superblock.", func(a *Array) error { a.raisePending = true; return a.settleLocked() }},
		{"tail log", "tail-", func(a *Array) error { a.tail.mustRoll = true; return a.settleLocked() }},
		{"checkpoint", "meta-", (*Array).checkpointLocked},
	} {
		g := newRig(t, shape{5, 3})
		g.fill()
		g.close()
		gate := &gatedFS{FS: g.fs}
		o := g.options()
		o.Members[0] = Dir{FS: unlocked{gate}, Path: "m0"}
		a, err := Open(o)
		must(t, err)
		g.a = a
		f, err := a.Open("a")
		must(t, err)
		gate.shut("sync", c.part)
		done := make(chan error, 1)
		go func() {
			a.mu.Lock()
			defer a.unlock()
			done <- c.do(a)
		}()
		waitFor(t, gate.held)
		looked := make(chan struct{})
		go func() {
			defer close(looked)
			b := make([]byte, 2*g.stripe())
			if _, err := f.ReadAt(b, 0); err != nil || !bytes.Equal(b, g.want["a"][:len(b)]) {
				t.Errorf("%s: reading: %v", c.name, err)
			}
			if st := a.Status(); len(st.Members) != 3 || st.Members[0].State != "live" {
				t.Errorf("%s: %+v", c.name, st)
			}
			if _, err := a.Stat("a"); err != nil {
				t.Error(err)
			}
		}()
		waitFor(t, looked)
		close(gate.open)
		must(t, <-done)
		must(t, f.Close())
		g.close()
		g.clean()
	}
}

// TestASpareThatDoesNotComeInGoesBack: for lack of room it is tried again, after an
// error of its disk the next one is.
func TestASpareThatDoesNotComeInGoesBack(t *testing.T) {
	for _, s := range []shape{{1, 2}, {5, 4}, {6, 5}} {
		for n := 1; ; n++ {
			g := newRig(t, s)
			for _, d := range []string{"sp", "sp2"} {
				must(t, g.a.AddSpare(g.dir(g.blank(d))))
			}
			g.fill()
			g.inj["m1"].Arm(vfstest.FailIO, 1, true)
			g.write("a", g.stripe(), false)
			g.inj["sp"].Arm(vfstest.FailNoRoom, n, true)
			_, err := g.a.Rebuild(context.Background(), RebuildOptions{})
			_, fired := g.inj["sp"].Fired()
			if err != nil && !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("%v: no room at %d: %v", s, n, err)
			}
			if st := g.a.Status(); err != nil && len(st.Spares) != 2 && st.Members[1].Path != "sp" {
				t.Fatalf("%v: no room at %d: the spares are %+v", s, n, st.Spares)
			}
			g.inj["sp"].Disarm()
			g.rebuild()
			if st := g.a.Status(); st.State != "healthy" || len(st.Spares) != 1 {
				t.Fatalf("%v: no room at %d: %+v", s, n, st)
			}
			g.verify()
			g.close()
			if !fired {
				break
			}
		}
		for n := 1; n < 40; n += 3 {
			g := newRig(t, s)
			for _, d := range []string{"sp", "sp2"} {
				must(t, g.a.AddSpare(g.dir(g.blank(d))))
			}
			g.fill()
			g.inj["m1"].Arm(vfstest.FailIO, 1, true)
			g.write("a", g.stripe(), false)
			g.inj["sp"].Arm(vfstest.FailIO, n, true)
			g.rebuild()
			if g.state() != "healthy" { // it failed while it was rebuilt
				g.rebuild()
			}
			if st := g.a.Status(); st.State != "healthy" {
				t.Fatalf("%v: failing at %d: %+v", s, n, st)
			}
			g.verify()
			g.close()
		}
	}
}

// TestCheckAfterACrashInClose: wherever Close ends, there is nothing to decide.
func TestCheckAfterACrashInClose(t *testing.T) {
	for _, s := range []shape{{1, 2}, {5, 3}, {6, 4}} {
		for n := 1; ; n++ {
			g := newRig(t, s)
			g.fill()
			f := g.write("open", g.stripe()+7, true)
			writeAll(t, f, []byte("not synced"))
			g.close()
			in := vfstest.NewInjector(g.fs)
			o := g.options()
			for i := range o.Members {
				o.Members[i].FS = unlocked{in}
			}
			a, err := Open(o)
			must(t, err)
			f, err = a.OpenReadWrite("open", vfs.WriteCategoryUnspecified)
			must(t, err)
			writeAll(t, f, payload(1, 0, 2*g.stripe()+3, 0))
			in.Arm(vfstest.FailIO, n, true) // for all members: as if the process ended here
			_ = a.Close()
			_, fired := in.Fired()
			in.Disarm()
			if r := g.check(false); r.Verdict != VerdictClean {
				t.Fatalf("%v: ended at step %d of Close: %s: %v", s, n, r.Verdict, r.Findings)
			}
			if !fired {
				break
			}
		}
	}
}

// TestScrubOfTheOlderGeneration: its log is what a start needs whose newest checkpoint
// is damaged everywhere.
func TestScrubOfTheOlderGeneration(t *testing.T) {
	for _, s := range []shape{{0, 2}, {1, 2}, {5, 3}} {
		g := newRig(t, s)
		g.fill()
		g.a.mu.Lock()
		old := g.a.meta.gen
		err := g.a.checkpointLocked()
		g.a.unlock()
		must(t, err)
		if res := g.scrub(); res.Found() != 0 {
			t.Fatalf("%v: %+v", s, res)
		}
		g.flip("m1/"+logName(old), func(b []byte) []int { return []int{format.MetaHeaderSize + format.BatchHeader + 1} })
		if res := g.scrub(); res.Metadata != 1 {
			t.Errorf("%v: %+v", s, res)
		}
		if res := g.scrub(); res.Found() != 0 {
			t.Errorf("%v: the second scrub found %+v", s, res)
		}
		g.verify()
		g.close()
		g.clean()
	}
}
