package vfstest

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const cat = vfs.WriteCategoryUnspecified

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newDisk(t *testing.T) *Disk {
	t.Helper()
	d, err := NewDisk(vfs.NewMem())
	must(t, err)
	must(t, d.MkdirAll("d", 0o755))
	return d
}

func create(t *testing.T, fsys vfs.FS, name, text string) vfs.File {
	t.Helper()
	f, err := fsys.Create(name, cat)
	must(t, err)
	_, err = f.Write([]byte(text))
	must(t, err)
	return f
}

func syncDir(t *testing.T, fsys vfs.FS) {
	t.Helper()
	f, err := fsys.OpenDir("d")
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
}

// outcomes lists every state as "name=content ...", sorted, without repetition.
func outcomes(s *Snapshot, cfg Config) []string {
	set := map[string]bool{}
	for st := range s.States(cfg) {
		files := st.Files()
		var parts []string
		for _, n := range slices.Sorted(maps.Keys(files)) {
			parts = append(parts, n[2:]+"="+string(bytes.ReplaceAll(files[n], []byte{0}, []byte("."))))
		}
		set[strings.Join(parts, " ")] = true
	}
	return slices.Sorted(maps.Keys(set))
}

func expect(t *testing.T, d *Disk, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := outcomes(d.Snapshot(), Config{}); !slices.Equal(got, want) {
		t.Fatalf("states\n got %q\nwant %q", got, want)
	}
}

func TestNameNeedsDirectorySyncAndContentNeedsFileSync(t *testing.T) {
	d := newDisk(t)
	f := create(t, d, "d/a", "x")
	expect(t, d, "", "a=", "a=x")
	must(t, f.Sync())
	expect(t, d, "", "a=x")
	syncDir(t, d)
	expect(t, d, "a=x")
	_, err := f.Write([]byte("y"))
	must(t, err)
	expect(t, d, "a=x", "a=xy")
	must(t, f.SyncData())
	expect(t, d, "a=xy")
	must(t, d.Remove("d/a"))
	expect(t, d, "", "a=xy")
}

func TestWritesPersistInAnyOrder(t *testing.T) {
	d := newDisk(t)
	f := create(t, d, "d/a", "1")
	must(t, f.Sync())
	syncDir(t, d)
	for _, s := range []string{"2", "3"} {
		_, err := f.Write([]byte(s))
		must(t, err)
	}
	expect(t, d, "a=1", "a=12", "a=1.3", "a=123")
}

func TestRenameIsOneStep(t *testing.T) {
	d := newDisk(t)
	must(t, create(t, d, "d/a", "old").Sync())
	must(t, create(t, d, "d/b", "new").Sync())
	syncDir(t, d)
	must(t, d.Rename("d/b", "d/a"))
	expect(t, d, "a=old b=new", "a=new")
}

func TestTearAtSectors(t *testing.T) {
	d := newDisk(t)
	f := create(t, d, "d/a", strings.Repeat("a", 500))
	must(t, f.Sync())
	syncDir(t, d)
	_, err := f.Write([]byte(strings.Repeat("b", 600)))
	must(t, err)
	var lengths []int
	for st := range d.Snapshot().States(Config{}) {
		lengths = append(lengths, len(st.Files()["d/a"]))
	}
	slices.Sort(lengths)
	if want := []int{500, 512, 1024, 1100}; !slices.Equal(lengths, want) {
		t.Fatalf("lengths %v, want %v", lengths, want)
	}
}

func TestLargeWriteIsCutAtPages(t *testing.T) {
	d := newDisk(t)
	f := create(t, d, "d/a", "")
	syncDir(t, d)
	_, err := f.Write(make([]byte, 3*PageSize+10))
	must(t, err)
	if n := d.Snapshot().Pending(); n != 4 {
		t.Fatalf("%d steps, want 4", n)
	}
}

func TestSubsetsAndSamplesContainTheCorners(t *testing.T) {
	d := newDisk(t)
	f := create(t, d, "d/a", "")
	syncDir(t, d)
	for range 13 {
		_, err := f.Write([]byte("x"))
		must(t, err)
	}
	for _, cfg := range []Config{{Samples: 50, Seed: 7}, {Exhaustive: 8, Subsets: 13}} {
		got := outcomes(d.Snapshot(), cfg)
		for _, want := range []string{"a=", "a=" + strings.Repeat("x", 13), "a=x." + strings.Repeat("x", 11)} {
			if !slices.Contains(got, want) {
				t.Errorf("%+v: state %q is missing", cfg, want)
			}
		}
	}
	again := outcomes(d.Snapshot(), Config{Samples: 50, Seed: 7})
	if !slices.Equal(again, outcomes(d.Snapshot(), Config{Samples: 50, Seed: 7})) {
		t.Error("the same seed gives other states")
	}
}

func TestStateIsAFileSystem(t *testing.T) {
	d := newDisk(t)
	f := create(t, d, "d/a", "hello")
	must(t, f.Sync())
	syncDir(t, d)
	for st := range d.Snapshot().States(Config{}) {
		m, err := st.FS()
		must(t, err)
		again, err := NewDisk(m, "d")
		must(t, err)
		expect(t, again, "a=hello")
		if a, b := st.Hash(), again.Snapshot(); a == 0 || len(b.durable) != 1 {
			t.Error("the state does not load as durable")
		}
	}
}

func TestWriteMayModifyItsBuffer(t *testing.T) {
	d := newDisk(t)
	f, err := d.Create("d/a", cat)
	must(t, err)
	b := []byte("abc")
	_, err = f.Write(b)
	must(t, err)
	if string(b) == "abc" {
		t.Error("the buffer is as before: callers that share it go unnoticed")
	}
	must(t, f.Sync())
	syncDir(t, d)
	expect(t, d, "a=abc")
}

func TestFailedSyncLosesPages(t *testing.T) {
	d := newDisk(t)
	in := NewInjector(d)
	f := create(t, in, "d/a", "x")
	syncDir(t, d)
	in.Arm(SyncLost, 1, false)
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("sync: %v", err)
	}
	must(t, f.Sync()) // succeeds, and lies
	expect(t, d, "a=")
	b, err := io.ReadAll(func() io.Reader { r, err := d.Open("d/a"); must(t, err); return r }())
	must(t, err)
	if string(b) != "x" {
		t.Errorf("the running program reads %q", b)
	}
}

func TestNthFault(t *testing.T) {
	d := newDisk(t)
	in := NewInjector(d)
	in.Arm(FailNoRoom, 2, true) // create, write
	f, err := in.Create("d/a", cat)
	must(t, err)
	if _, err := f.Write([]byte("x")); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("write: %v", err)
	}
	if _, err := f.Write([]byte("x")); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("second write: %v", err)
	}
	if op, ok := in.Fired(); !ok || op.Kind != "write" || op.N != 2 || in.Count() != 3 {
		t.Errorf("fired %v %v, count %d", op, ok, in.Count())
	}
	in.Arm(ShortWrite, 1, false)
	if n, err := f.Write([]byte("abcd")); n != 2 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("short write: %d %v", n, err)
	}
	in.Arm(LostWrite, 1, false)
	if n, err := f.Write([]byte("ef")); n != 2 || err != nil {
		t.Errorf("lost write: %d %v", n, err)
	}
	_, err = f.Write([]byte("gh"))
	must(t, err)
	must(t, f.Sync())
	syncDir(t, d)
	expect(t, d, "a=ab..gh")
	in.Arm(FlipRead, 1, false)
	b := make([]byte, 2)
	r, err := in.Open("d/a")
	must(t, err)
	if _, err := r.ReadAt(b, 0); err != nil || string(b) == "ab" {
		t.Errorf("flip: %q %v", b, err)
	}
	in.Arm(FailIO, 1, false)
	if _, err := r.ReadAt(b, 0); !errors.Is(err, syscall.EIO) {
		t.Errorf("read: %v", err)
	}
}

func TestStallTakesVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(t)
		in := NewInjector(d)
		in.StallFor = time.Minute
		f := create(t, in, "d/a", "x")
		in.Match = func(op Op) bool { return op.Kind == "sync" }
		in.Arm(Stall, 1, false)
		before := time.Now()
		must(t, f.Sync())
		if took := time.Since(before); took != time.Minute {
			t.Errorf("took %v", took)
		}
	})
}
