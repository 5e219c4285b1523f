package raid

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/vfstest"
)

func testDirs(fsys vfs.FS, root string, n int) (out []Dir) {
	for i := range n {
		out = append(out, Dir{fsys, fsys.PathJoin(root, fmt.Sprintf("m%d", i))})
	}
	return out
}

func testOptions(dirs []Dir, level int) Options {
	return Options{Members: dirs, Level: level, Chunk: 512, Manual: true, Serial: true, TailSize: 2048, MetaLogSize: 4096, Reserve: -1}
}

// shapesTo6 are all levels from their least width to 6.
func shapesTo6() (out []shape) {
	for _, level := range []int{0, 1, 4, 5, 6} {
		for n := map[int]int{0: 2, 1: 2, 4: 3, 5: 3, 6: 4}[level]; n <= 6; n++ {
			out = append(out, shape{level, n})
		}
	}
	return out
}

func readAll(t *testing.T, fsys vfs.FS, name string) []byte {
	t.Helper()
	f, err := fsys.Open(name)
	must(t, err)
	b, err := io.ReadAll(f)
	must(t, err)
	must(t, f.Close())
	return b
}

func writeAll(t *testing.T, f vfs.File, b []byte) {
	t.Helper()
	n, err := f.Write(bytes.Clone(b))
	must(t, err)
	if n != len(b) {
		t.Fatalf("wrote %d of %d", n, len(b))
	}
}

func TestWriteSyncReadReopenAtEveryLevelAndWidth(t *testing.T) {
	for _, s := range shapesTo6() {
		t.Run(s.String(), func(t *testing.T) {
			fsys := vfs.NewMem()
			dirs := testDirs(fsys, "", s.width)
			a, err := Create(testOptions(dirs, s.level))
			must(t, err)
			exercise(t, a, s, func(kill bool) *Array {
				if !kill {
					must(t, a.Close())
				}
				slices.Reverse(dirs)
				for i := range dirs {
					dirs[i].FS = unlocked{fsys}
				}
				a, err = Open(testOptions(dirs, LevelAny))
				must(t, err)
				return a
			})
			for i := range s.parity() {
				must(t, a.Close())
				a, err = Open(testOptions(dirs[i+1:], s.level))
				must(t, err)
				if st := a.Status(); st.State != "degraded" {
					t.Errorf("state %q", st.State)
				}
				if got := readAll(t, a, "d/b"); !bytes.Equal(got, payload(7, 0, 12345, 0)) {
					t.Errorf("without %d members: content differs", i+1)
				}
			}
			must(t, a.Close())
		})
	}
}

func TestRealDirectoryAtEveryLevel(t *testing.T) {
	for _, s := range []shape{{0, 2}, {1, 2}, {4, 3}, {5, 4}, {6, 5}} {
		t.Run(s.String(), func(t *testing.T) {
			dirs := testDirs(vfs.Default, t.TempDir(), s.width)
			o := testOptions(dirs, s.level)
			o.Serial, o.Reserve, o.Chunk = false, 100_000, 4096
			a, err := Create(o)
			must(t, err)
			if _, err := Open(o); !errors.Is(err, ErrLocked) {
				t.Errorf("opened twice: %v", err)
			}
			exercise(t, a, s, func(kill bool) *Array {
				if kill {
					must(t, a.giveUp())
				} else {
					must(t, a.Close())
				}
				a, err = Open(o)
				must(t, err)
				return a
			})
			must(t, a.Close())
		})
	}
}

func exercise(t *testing.T, a *Array, s shape, reopen func(kill bool) *Array) {
	must(t, a.MkdirAll("d/e", 0o755))
	f, err := a.Create("d/a", vfs.WriteCategoryUnspecified)
	must(t, err)
	want := payload(7, 0, 12345, 0)
	for at := 0; at < len(want); {
		n := min(len(want)-at, 1+at%977)
		writeAll(t, f, want[at:at+n])
		at += n
		if at%3 == 0 {
			must(t, f.Sync())
		}
	}
	must(t, f.Sync())
	if got := readAll(t, a, "/d/a"); !bytes.Equal(got, want) {
		t.Fatal("content differs before close")
	}
	a = reopen(true)
	if got := readAll(t, a, "d/a"); !bytes.Equal(got, want) {
		t.Fatalf("content differs after a kill: %d bytes", len(got))
	}
	f, err = a.OpenReadWrite("d/a", Bulk)
	must(t, err)
	more := payload(7, len(want), 5000, 0)
	writeAll(t, f, more)
	must(t, f.Sync())
	must(t, f.Close())
	must(t, a.Link("d/a", "d/e/l"))
	must(t, a.Rename("d/e/l", "d/e/m"))
	if err := a.Remove("d/e"); err == nil {
		t.Error("removed a directory with something in it")
	}
	must(t, a.Remove("d/a"))
	if _, err := a.Open("d/a"); !os.IsNotExist(err) {
		t.Errorf("open of a removed name: %v", err)
	}
	a = reopen(false)
	if got := readAll(t, a, "d/e/m"); !bytes.Equal(got, append(want, more...)) {
		t.Fatal("content differs after close")
	}
	must(t, a.RemoveAll("d/e"))
	f, err = a.Create("d/b", vfs.WriteCategoryUnspecified)
	must(t, err)
	writeAll(t, f, want)
	must(t, f.Sync())
	must(t, f.Close())
	list, err := a.List("d")
	must(t, err)
	if !slices.Equal(list, []string{"b"}) {
		t.Errorf("list %q", list)
	}
	if st := a.Status(); st.State != "healthy" || st.Files != 1 || st.Bytes != int64(len(want)) {
		t.Errorf("status %+v", st)
	}
}

func TestWriteElsewhereThanAtTheEndIsRefused(t *testing.T) {
	a, err := Create(testOptions(testDirs(vfs.NewMem(), "", 3), 5))
	must(t, err)
	f, err := a.OpenReadWrite("x", vfs.WriteCategoryUnspecified)
	must(t, err)
	writeAll(t, f, []byte("abc"))
	if _, err := f.WriteAt([]byte("d"), 2); !errors.Is(err, ErrAppend) {
		t.Errorf("WriteAt within: %v", err)
	}
	if _, err := f.WriteAt([]byte("d"), 3); err != nil {
		t.Errorf("WriteAt at the end: %v", err)
	}
	if got := readAll(t, a, "x"); string(got) != "abcd" {
		t.Errorf("content %q", got)
	}
	if _, err := a.Create("no/such/dir", vfs.WriteCategoryUnspecified); !os.IsNotExist(err) {
		t.Errorf("create without a directory: %v", err)
	}
	must(t, a.Close())
	if _, err := f.Write([]byte("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
}

func TestMemberThatFailsIsTakenOutAndNothingIsLost(t *testing.T) {
	for _, s := range shapesTo6() {
		if s.parity() == 0 {
			continue
		}
		for bad := range s.width {
			fsys := vfs.NewMem()
			dirs := testDirs(fsys, "", s.width)
			in := vfstest.NewInjector(fsys)
			dirs[bad].FS = in
			a, err := Create(testOptions(dirs, s.level))
			must(t, err)
			f, err := a.Create("x", vfs.WriteCategoryUnspecified)
			must(t, err)
			want := payload(1, 0, 9999, 0)
			writeAll(t, f, want[:3000])
			must(t, f.Sync())
			in.Arm(vfstest.FailIO, 1, true)
			writeAll(t, f, want[3000:])
			must(t, f.Sync())
			if st := a.Status(); st.State != "degraded" || st.Members[bad].State != "failed" {
				t.Fatalf("%v: %+v", s, st)
			}
			if got := readAll(t, a, "x"); !bytes.Equal(got, want) {
				t.Fatalf("%v: content differs", s)
			}
			in.Disarm()
			must(t, a.Rejoin(dirs[bad]))
			writeAll(t, f, want)
			must(t, f.Close())
			if st := a.Status(); st.State != "rebuilding" {
				t.Fatalf("%v: %+v", s, st)
			}
			must(t, a.Close())
		}
	}
}

func TestTooManyFailuresFailTheArrayAndReadsGoOn(t *testing.T) {
	fsys := vfs.NewMem()
	dirs := testDirs(fsys, "", 3)
	in := vfstest.NewInjector(fsys)
	in.Match = func(op vfstest.Op) bool { return op.Kind != "read" && op.Kind != "open" }
	dirs[0].FS, dirs[2].FS = in, in
	a, err := Create(testOptions(dirs, 5))
	must(t, err)
	f, err := a.Create("x", vfs.WriteCategoryUnspecified)
	must(t, err)
	want := payload(1, 0, 5000, 0)
	writeAll(t, f, want)
	must(t, f.Sync())
	in.Arm(vfstest.FailIO, 1, true)
	if _, err := f.Write([]byte("x")); !errors.Is(err, ErrFailed) {
		if err := f.Sync(); !errors.Is(err, ErrFailed) {
			t.Fatalf("sync: %v", err)
		}
	}
	if _, err := a.Create("y", vfs.WriteCategoryUnspecified); !errors.Is(err, ErrFailed) {
		t.Errorf("create: %v", err)
	}
	if got := readAll(t, a, "x"); !bytes.HasPrefix(got, want) {
		t.Error("content differs")
	}
	if st := a.Status(); st.State != "failed" {
		t.Errorf("state %q", st.State)
	}
}

func TestDamagedChunkIsHealedByReading(t *testing.T) {
	for _, s := range []shape{{1, 2}, {4, 3}, {5, 3}, {6, 4}} {
		fsys := vfs.NewMem()
		dirs := testDirs(fsys, "", s.width)
		a, err := Create(testOptions(dirs, s.level))
		must(t, err)
		f, err := a.Create("x", vfs.WriteCategoryUnspecified)
		must(t, err)
		want := payload(1, 0, 8*s.stripe(), 0)
		writeAll(t, f, want)
		must(t, f.Sync())
		must(t, f.Close())
		name := a.members[0].columnPath(a.st.names["x"].id)
		must(t, a.Close())
		c, err := fsys.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
		must(t, err)
		st, err := c.Stat()
		must(t, err)
		for off := int64(0); off < st.Size(); off += 1024 {
			_, err = c.WriteAt([]byte("damage"), off+600)
			must(t, err)
		}
		must(t, c.Close())
		o := testOptions(dirs, s.level)
		healed := 0
		o.OnEvent = func(e Event) {
			if e.Kind == EventHealed {
				healed++
			}
		}
		a, err = Open(o)
		must(t, err)
		for i := range 2 {
			if got := readAll(t, a, "x"); !bytes.Equal(got, want) {
				t.Fatalf("%v: content differs at reading %d", s, i)
			}
			if i == 1 && healed == 0 {
				t.Errorf("%v: nothing was healed", s)
			}
			if i == 0 {
				healed *= 1000
			}
		}
		if healed%1000 != 0 {
			t.Errorf("%v: healed again what was healed", s)
		}
		must(t, a.Close())
	}
}

func TestFullMemberFailsNothingAndRoomHeals(t *testing.T) {
	fsys := vfs.NewMem()
	dirs := testDirs(fsys, "", 3)
	in := vfstest.NewInjector(fsys)
	dirs[1].FS = in
	a, err := Create(testOptions(dirs, 5))
	must(t, err)
	f, err := a.Create("x", vfs.WriteCategoryUnspecified)
	must(t, err)
	want := payload(1, 0, 5000, 0)
	writeAll(t, f, want)
	must(t, f.Sync())
	in.Arm(vfstest.FailNoRoom, 1, true)
	n, err := f.Write(payload(1, 5000, 4000, 1))
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("write: %d %v", n, err)
	}
	in.Disarm()
	want = append(want, payload(1, 5000, n, 1)...)
	more := payload(1, len(want), 4000, 2)
	writeAll(t, f, more)
	must(t, f.Sync())
	want = append(want, more...)
	if st := a.Status(); st.State != "healthy" {
		t.Errorf("%+v", st)
	}
	dirs[1].FS = unlocked{fsys}
	dirs[0].FS, dirs[2].FS = dirs[1].FS, dirs[1].FS
	a, err = Open(testOptions(dirs, 5)) // as after a kill
	must(t, err)
	if got := readAll(t, a, "x"); !bytes.Equal(got, want) {
		t.Fatal("content differs")
	}
}

func TestCreateRefusesWhatIsNotBlank(t *testing.T) {
	fsys := vfs.NewMem()
	dirs := testDirs(fsys, "", 2)
	a, err := Create(testOptions(dirs, 1))
	must(t, err)
	must(t, a.Close())
	if _, err := Create(testOptions(dirs, 1)); !errors.Is(err, ErrNotBlank) {
		t.Errorf("over an array: %v", err)
	}
	if _, err := Open(testOptions(testDirs(fsys, "other", 2), 1)); !errors.Is(err, ErrNotArray) {
		t.Errorf("open of nothing: %v", err)
	}
	if _, err := Open(testOptions(dirs, 0)); !errors.Is(err, ErrWrongSpec) {
		t.Errorf("open at another level: %v", err)
	}
	members, _, err := Discover(fsys, dirs[1].Path)
	must(t, err)
	if len(members) != 2 || members[0].Path != dirs[0].Path {
		t.Errorf("discovered %v", members)
	}
}

// TestManyAtOnce has writers, readers and syncs in parallel; its worth is under -race.
func TestManyAtOnce(t *testing.T) {
	dirs := testDirs(vfs.NewMem(), "", 4)
	o := testOptions(dirs, 5)
	o.Serial = false
	a, err := Create(o)
	must(t, err)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			name := fmt.Sprintf("f%d", w)
			cat := vfs.WriteCategoryUnspecified
			if w == 0 {
				cat = Bulk
			}
			f, err := a.Create(name, cat)
			if err != nil {
				t.Error(err)
				return
			}
			stop := make(chan struct{})
			if w > 0 {
				go func() { // as everysec does
					defer close(stop)
					for range 50 {
						if err := f.Sync(); err != nil {
							t.Error(err)
						}
					}
				}()
			} else {
				close(stop)
			}
			rng := rand.New(rand.NewPCG(1, uint64(w)))
			size := 0
			for range 200 {
				b := payload(w, size, 1+rng.IntN(3000), 0)
				if _, err := f.Write(bytes.Clone(b)); err != nil {
					t.Error(err)
				}
				from := rng.IntN(size + 1)
				size += len(b)
				got := make([]byte, size-from)
				if n, err := f.ReadAt(got, int64(from)); n != len(got) || err != nil && err != io.EOF {
					t.Errorf("read: %d %v", n, err)
				} else if !bytes.Equal(got, payload(w, from, size-from, 0)) {
					t.Errorf("%s [%d:%d] differs", name, from, size)
				}
				if rng.IntN(10) == 0 {
					if err := f.Sync(); err != nil {
						t.Error(err)
					}
				}
			}
			<-stop
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 40 {
			name := fmt.Sprintf("n%d", i%3)
			if f, err := a.Create(name, vfs.WriteCategoryUnspecified); err == nil {
				if _, err := f.Write([]byte(name)); err != nil {
					t.Error(err)
				}
				if err := f.Close(); err != nil {
					t.Error(err)
				}
			}
			if err := a.Remove(name); err != nil {
				t.Error(err)
			}
			a.Status()
		}
	}()
	wg.Wait()
	<-done
	must(t, a.Close())
	for i := range dirs {
		dirs[i].FS = unlocked{dirs[i].FS}
	}
	a, err = Open(o)
	must(t, err)
	for w := range 4 {
		got := readAll(t, a, fmt.Sprintf("f%d", w))
		if !bytes.Equal(got, payload(w, 0, len(got), 0)) || len(got) < 1000 {
			t.Errorf("f%d differs after reopening", w)
		}
	}
	must(t, a.Close())
}

func TestGoldenListOfCallsOfOneSmallSync(t *testing.T) {
	d, err := vfstest.NewDisk(vfs.NewMem())
	must(t, err)
	a, err := Create(testOptions(testDirs(d, "", 4), 5))
	must(t, err)
	f, err := a.Create("x", vfs.WriteCategoryUnspecified)
	must(t, err)
	writeAll(t, f, []byte("x"))
	must(t, f.Sync())
	var ops []string
	d.OnOp(func(op vfstest.Op) { ops = append(ops, filepath.Dir(op.Name)+" "+op.Kind) })
	writeAll(t, f, []byte("y"))
	must(t, f.Sync())
	want := []string{"m1 write", "m2 write", "m1 sync", "m2 sync"}
	if !slices.Equal(ops, want) {
		t.Errorf("calls %q, want %q", ops, want)
	}
}

func BenchmarkSmallAppendSync(b *testing.B) {
	for _, s := range []shape{{1, 2}, {5, 4}} {
		b.Run(s.String(), func(b *testing.B) {
			o := testOptions(testDirs(vfs.NewMem(), "", s.width), s.level)
			o.Serial, o.Chunk, o.TailSize, o.MetaLogSize = false, 64<<10, 1<<20, 4<<20
			a, err := Create(o)
			must(b, err)
			f, err := a.Create("x", vfs.WriteCategoryUnspecified)
			must(b, err)
			p := make([]byte, 200)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := f.Write(p); err != nil {
					b.Fatal(err)
				}
				if err := f.Sync(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	_ = time.Second
}
