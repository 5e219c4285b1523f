package vfstest

import (
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func readAll(t *testing.T, fsys vfs.FS, name string) string {
	t.Helper()
	f, err := fsys.Open(name)
	must(t, err)
	b, err := io.ReadAll(f)
	must(t, err)
	must(t, f.Close())
	return strings.ReplaceAll(string(b), "\x00", ".")
}

func put(t *testing.T, f vfs.File, text string) {
	t.Helper()
	if n, err := f.Write([]byte(text)); n != len(text) || err != nil {
		t.Fatalf("write %q: %d, %v", text, n, err)
	}
}

func TestDroppedWriteIsToldAsDone(t *testing.T) {
	d := newDisk(t)
	in := NewInjector(d)
	f := create(t, in, "d/a", "one")
	in.Arm(DropWrite, 1, false)
	put(t, f, "two")
	put(t, f, "three")
	must(t, f.Sync())
	syncDir(t, d)
	expect(t, d, "a=one...three")
	if got := readAll(t, d, "d/a"); got != "one...three" {
		t.Errorf("the running program reads %q", got)
	}
	w, err := in.OpenReadWrite("d/a", cat)
	must(t, err)
	in.Arm(DropWrite, 1, false)
	_, err = w.WriteAt([]byte("ONE"), 0)
	must(t, err)
	must(t, w.Sync())
	expect(t, d, "a=one...three")
}

func TestFlippedWriteDiffersInOneBit(t *testing.T) {
	d := newDisk(t)
	in := NewInjector(d)
	in.Match = func(op Op) bool { return op.Kind == "write" }
	in.Arm(FlipWrite, 1, false)
	create(t, in, "d/a", "abc")
	if got := readAll(t, d, "d/a"); got != "ajc" {
		t.Errorf("content %q", got)
	}
}

func TestMisdirectedWriteLandsElsewhere(t *testing.T) {
	d := newDisk(t)
	in := NewInjector(d)
	other := create(t, in, "d/b", "bbbbbb")
	f := create(t, in, "d/a", "aa")
	in.Misdirect = func(op Op) (string, int64) { return "d/b", op.Off }
	in.Arm(MisdirectWrite, 1, false)
	put(t, f, "xx")
	put(t, f, "yy")
	must(t, f.Sync())
	must(t, other.Sync())
	syncDir(t, d)
	expect(t, d, "a=aa..yy b=bbxxbb")

	in.Misdirect = nil
	in.Arm(MisdirectWrite, 1, false)
	put(t, f, "zz")
	got := readAll(t, d, "d/a")
	if !strings.HasPrefix(got, "aa..yy..") || !strings.HasSuffix(got, "zz") || len(got) != 6+PageSize+2 {
		t.Errorf("%d bytes, begins %.10q", len(got), got)
	}
}

func TestStaleReadGivesWhatWasThereBefore(t *testing.T) {
	d := newDisk(t)
	in := NewInjector(d)
	must(t, create(t, in, "d/a", "old old old").Close())
	in.Arm(StaleRead, 0, false)
	in.Match = func(op Op) bool { return op.Kind == "read" }
	f, err := in.OpenReadWrite("d/a", cat)
	must(t, err)
	for _, s := range []string{"mid", "new"} {
		_, err = f.WriteAt([]byte(s), 4)
		must(t, err)
	}
	must(t, in.Rename("d/a", "d/c"))
	in.mu.Lock()
	in.left = 1
	in.mu.Unlock()
	for _, want := range []string{"old mid old", "old new old"} {
		b := make([]byte, 11)
		r, err := in.Open("d/c")
		must(t, err)
		if _, err := r.ReadAt(b, 0); err != nil || string(b) != want {
			t.Errorf("read %q, %v, want %q", b, err, want)
		}
		must(t, r.Close())
	}
}

func TestCapacityFillsUpAndFreeingHeals(t *testing.T) {
	c := NewCapacity(vfs.NewMem(), 10)
	must(t, c.MkdirAll("d", 0o755))
	a := create(t, c, "d/a", "123456")
	f, err := c.Create("d/b", cat)
	must(t, err)
	if n, err := f.Write([]byte("abcdef")); n != 4 || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("write beyond the end: %d, %v", n, err)
	}
	if n, err := f.Write([]byte("x")); n != 0 || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("write to a full disk: %d, %v", n, err)
	}
	must(t, c.Link("d/a", "d/c"))
	must(t, c.Remove("d/a"))
	must(t, c.Rename("d/c", "d/e"))
	if u := c.Used(); u != 10 {
		t.Errorf("%d used while a name is left", u)
	}
	must(t, c.Remove("d/e"))
	if u := c.Used(); u != 10 {
		t.Errorf("%d used while a handle is open", u)
	}
	must(t, a.Close())
	if u := c.Used(); u != 4 {
		t.Errorf("%d used after all is freed", u)
	}
	put(t, f, "efghij")
	w, err := c.OpenReadWrite("d/b", cat)
	must(t, err)
	if n, err := w.WriteAt([]byte("ABCDE"), 5); n != 5 || err != nil {
		t.Errorf("overwriting needs no room: %d, %v", n, err)
	}
	if n, err := w.WriteAt([]byte("12"), 9); n != 1 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("overwriting beyond the end: %d, %v", n, err)
	}
	c.Resize(12)
	u, err := c.GetDiskUsage("d")
	if must(t, err); u.AvailBytes != 2 || u.UsedBytes != 10 {
		t.Errorf("usage %+v", u)
	}
	must(t, c.RemoveAll("d"))
}

func TestMeterCountsTheTimeOfADisk(t *testing.T) {
	m := NewMeter(vfs.NewMem(), Speed{BytesPerSecond: 1000, Seek: 10 * time.Millisecond, Sync: time.Millisecond})
	must(t, m.MkdirAll("d", 0o755))
	f := create(t, m, "d/a", strings.Repeat("x", 100))
	must(t, f.Sync())
	if u := m.Use(); u.Written != 100 || u.Busy != 111*time.Millisecond {
		t.Errorf("a write of 100 bytes and a sync: %+v", u)
	}
	m.Reset()
	b := make([]byte, 10)
	for _, off := range []int64{0, 10, 25, 90, 0} {
		_, err := f.ReadAt(b, off)
		must(t, err)
	}
	// 50 bytes; seeks to 0, over 5 bytes, to 90, and back.
	if u := m.Use(); u.Read != 50 || u.Seeks != 4 || u.Busy != (50+10+5+10+10)*time.Millisecond {
		t.Errorf("reads: %+v", u)
	}
	idle := NewMeter(vfs.NewMem(), Speed{})
	if d := Slowest([]*Meter{idle, m}); d != 85*time.Millisecond {
		t.Errorf("slowest %v", d)
	}
}
