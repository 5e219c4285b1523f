package journal

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"holdfast/internal/vfstest"
)

var update = flag.Bool("update", false, "rewrite testdata")

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newTestWorld(t testing.TB, opts Options) (*world, *vfstest.Disk, *vfstest.Injector) {
	t.Helper()
	d, err := vfstest.NewDisk(vfs.NewMem())
	must(t, err)
	in := vfstest.NewInjector(d)
	return newWorld(in, opts), d, in
}

// started opens a journal with its background running.
func started(t testing.TB, opts Options) *Journal {
	t.Helper()
	if opts.FS == nil {
		opts.FS = vfs.NewMem()
	}
	if opts.Dir == "" {
		opts.Dir = testDir
	}
	j, _, err := Open(opts)
	must(t, err)
	must(t, j.Start())
	t.Cleanup(j.kill)
	return j
}

func TestFileSystemCallsInOrder(t *testing.T) {
	var log strings.Builder
	w, d, _ := newTestWorld(t, Options{Level: LevelAlways})
	d.OnOp(func(op vfstest.Op) {
		if op.Mutates() {
			fmt.Fprintf(&log, "  %v\n", op)
		}
	})
	for _, c := range []struct{ name, script string }{
		{"first start", ""},
		{"one record under always", "as"},
		{"the next segment is prepared", "p"},
		{"the segment is full: the prepared one is entered", "aaaaaaaaf"},
		{"both are synced", "s"},
		{"a second passes: a MARK, and the manifest names the segment", "m"},
		{"a checkpoint, then trimming", "c"},
		{"a new history id", "h"},
		{"a new generation", "g"},
		{"killed and opened: what is not known to be synced is copied", "afk"},
		{"closed and opened", "x"},
	} {
		fmt.Fprintf(&log, "%s\n", c.name)
		must(t, w.run(c.script))
	}
	w.j.kill()
	const golden = "testdata/fs-calls.txt"
	if *update {
		must(t, os.WriteFile(golden, []byte(log.String()), 0o644))
	}
	want, err := os.ReadFile(golden)
	must(t, err)
	if diff := cmp.Diff(string(want), log.String()); diff != "" {
		t.Errorf("file system calls differ (-want +got), -update writes them anew:\n%s", diff)
	}
}

func TestDirectoryInUseIsRefused(t *testing.T) {
	for _, fsys := range []vfs.FS{vfs.NewMem(), vfs.Default} {
		opts := Options{FS: fsys, Dir: t.TempDir()}
		j, _, err := Open(opts)
		must(t, err)
		if _, _, err := Open(opts); !errors.Is(err, ErrLocked) {
			t.Errorf("second Open: %v", err)
		}
		must(t, j.Close())
		j, _, err = Open(opts)
		must(t, err)
		must(t, j.Close())
	}
}

func TestRealFileSystem(t *testing.T) {
	opts := Options{FS: vfs.Default, Dir: t.TempDir(), SegmentSize: 64 << 10, PreZero: true, Level: LevelEverySec}
	var want []byte
	for range 3 {
		j, rec, err := Open(opts)
		must(t, err)
		var got []byte
		must(t, j.Replay(0, func(r Record) error { got = append(got, r.Payload...); return nil }))
		if !bytes.Equal(got, want) || rec.TornBytes != 0 {
			t.Fatalf("replayed %d bytes of %d, torn %d", len(got), len(want), rec.TornBytes)
		}
		must(t, j.Start())
		for i := range 2000 {
			b := fmt.Appendf(nil, "record %d of many;%s", i, strings.Repeat("x", i%200))
			want = append(want, b...)
			j.Append(TypeStream, 0, b)
			if i%50 == 0 {
				must(t, j.Flush())
			}
		}
		f, err := j.Follow(0)
		must(t, err)
		must(t, j.Flush())
		got = make([]byte, len(want)+1)
		n, err := f.Read(got)
		must(t, err)
		if !bytes.Equal(got[:n], want) {
			t.Fatalf("follower read %d bytes of %d", n, len(want))
		}
		must(t, f.Close())
		must(t, j.Close())
	}
}

func TestFollowersStartAtAnyByte(t *testing.T) {
	for _, window := range []int{1, 400, 1 << 20} {
		w, _, _ := newTestWorld(t, Options{Level: LevelAlways, MemoryWindow: window})
		must(t, w.run("asasafafsmasasxasafafsheasasas"))
		data := w.gen.data
		for from := 0; from <= len(data); from++ {
			f, err := w.j.Follow(uint64(from))
			must(t, err)
			got := []byte{}
			for buf := make([]byte, 1+from%97); ; {
				n, err := f.Read(buf)
				must(t, err)
				if n == 0 {
					break
				}
				got = append(got, buf[:n]...)
			}
			if !bytes.Equal(got, data[from:]) || f.Pos() != w.j.End() {
				t.Fatalf("window %d, from %d: %d bytes of %d", window, from, len(got), len(data)-from)
			}
			must(t, f.Close())
		}
		if _, err := w.j.Follow(w.j.End() + 1); !errors.Is(err, ErrAhead) {
			t.Errorf("beyond the end: %v", err)
		}
		w.j.kill()
	}
}

func TestFollowersBesideAWriter(t *testing.T) {
	for _, level := range []Level{LevelEverySec, LevelAlways} {
		j := started(t, Options{SegmentSize: 4096, MemoryWindow: 2000, Level: level, PreZero: true})
		const total = 300_000
		content := func(p int) byte { return byte(p * 31 / 7) }
		var wake sync.Cond
		wake.L = new(sync.Mutex)
		j.OnVisible(func() { wake.L.Lock(); wake.Broadcast(); wake.L.Unlock() })
		var wg sync.WaitGroup
		for k := range 3 {
			wg.Go(func() {
				f, err := j.Follow(0)
				if err != nil {
					t.Error(err)
					return
				}
				buf := make([]byte, 100+k*5000)
				for f.Pos() < total {
					at := int(f.Pos())
					n, err := f.Read(buf)
					if err != nil {
						t.Errorf("at %d: %v", at, err)
						return
					}
					for i := range n {
						if buf[i] != content(at+i) {
							t.Errorf("wrong byte at %d", at+i)
							return
						}
					}
					if n == 0 {
						wake.L.Lock()
						for j.Visible() == f.Pos() {
							wake.Wait()
						}
						wake.L.Unlock()
					}
				}
				if err := f.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		b := make([]byte, 700)
		for p := 0; p < total; {
			n := min(1+p%len(b), total-p)
			for i := range n {
				b[i] = content(p + i)
			}
			end := j.Append(TypeStream, 0, b[:n])
			p += n
			if p%3 == 0 || p == total {
				must(t, j.Flush())
				if level == LevelAlways {
					must(t, j.Sync(end))
				}
			}
		}
		must(t, j.Flush())
		must(t, j.Sync(total))
		wg.Wait()
		must(t, j.Close())
	}
}

func TestFollowerWithholdsTheEndOfADamagedRecord(t *testing.T) {
	files, w, err := finished("asasas", Options{Level: LevelAlways})
	must(t, err)
	m, err := memWith(files)
	must(t, err)
	after := newWorld(m, w.opts)
	j, _, err := Open(after.opts)
	must(t, err)
	must(t, j.Start())
	defer j.kill()
	name := testDir + "/" + segmentName(1, 1)
	f, err := m.OpenReadWrite(name, writeCategory)
	must(t, err)
	first := len(w.payload(0))
	_, err = f.WriteAt([]byte{0xff}, segHeaderArea+linkFrame+frameSize(int64(first))+frameHeader+3)
	must(t, err)
	fo, err := j.Follow(0)
	must(t, err)
	got, buf := 0, make([]byte, 8)
	for err == nil {
		var n int
		n, err = fo.Read(buf)
		got += n
	}
	if !errors.Is(err, ErrCorrupt) || got < first || got >= first+len(w.payload(uint64(first))) {
		t.Errorf("read %d bytes, then %v", got, err)
	}
}

func TestTrimming(t *testing.T) {
	segments := func(w *world) int { return w.j.Stats().Segments }
	many := strings.Repeat("as", 40)

	w, _, _ := newTestWorld(t, Options{Level: LevelAlways})
	must(t, w.run(many))
	if n := segments(w); n < 5 {
		t.Fatalf("%d segments", n)
	}
	must(t, w.run("c"))
	if n := segments(w); n > 2 {
		t.Errorf("%d segments after a checkpoint of everything", n)
	}
	if _, err := w.j.Follow(0); !errors.Is(err, ErrTrimmed) {
		t.Errorf("follow what was trimmed: %v", err)
	}
	w.j.kill()

	w, _, _ = newTestWorld(t, Options{Level: LevelAlways, RetainSize: 1500})
	must(t, w.run(many+"c"))
	if kept := w.j.End() - w.j.FirstPos(); kept < 1500 || kept > 3000 {
		t.Errorf("%d bytes kept of 1500 to retain", kept)
	}
	w.j.kill()

	w, _, _ = newTestWorld(t, Options{Level: LevelAlways, RetainTime: time.Minute})
	must(t, w.run(many+"c"))
	if w.j.FirstPos() != 0 {
		t.Error("trimmed within the time to retain")
	}
	w.clock = w.clock.Add(2 * time.Minute)
	must(t, w.run("m"))
	if n := segments(w); n > 2 {
		t.Errorf("%d segments after the time to retain", n)
	}
	w.j.kill()
}

func TestSlowFollowerHoldsSegmentsUpToACap(t *testing.T) {
	w, _, _ := newTestWorld(t, Options{Level: LevelAlways, FollowerRetain: 3000, MemoryWindow: 1})
	must(t, w.run("as"))
	f, err := w.j.Follow(10)
	must(t, err)
	must(t, w.run(strings.Repeat("as", 15)+"c"))
	if w.j.FirstPos() > 10 {
		t.Error("trimmed what a follower needs")
	}
	if n, err := f.Read(make([]byte, 5)); n != 5 || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
	must(t, w.run(strings.Repeat("as", 60)+"c"))
	if w.j.FirstPos() <= 15 {
		t.Error("a follower beyond the cap still holds segments")
	}
	must(t, f.dropCursor())
	if _, err := f.Read(make([]byte, 5)); !errors.Is(err, ErrTrimmed) {
		t.Errorf("a follower beyond the cap: %v", err)
	}
	must(t, f.Close())
	w.j.kill()
}

func TestNewGenerationEndsFollowers(t *testing.T) {
	w, d, _ := newTestWorld(t, Options{Level: LevelAlways})
	must(t, w.run("asas"))
	f, err := w.j.Follow(0)
	must(t, err)
	must(t, w.run("gas"))
	if _, err := f.Read(make([]byte, 10)); !errors.Is(err, ErrGeneration) {
		t.Errorf("follower of the old generation: %v", err)
	}
	if names, err := d.List(testDir); err != nil || strings.Contains(strings.Join(names, " "), "journal-0000000001") {
		t.Errorf("files of the old generation remain: %v, %v", names, err)
	}
	must(t, w.run("vx"))
	w.j.kill()
}

func TestHistoryAndEpochComeBack(t *testing.T) {
	w, _, _ := newTestWorld(t, Options{Level: LevelAlways})
	must(t, w.run("aseheasas"))
	w.j.kill()
	j, rec, err := Open(w.opts)
	must(t, err)
	defer j.kill()
	if rec.HistoryIDs != [2]string{"id1", "old"} || rec.Epoch != 2 || rec.SecondEnd == 0 {
		t.Errorf("%+v", rec)
	}
	var types []RecordType
	must(t, j.Replay(0, func(r Record) error {
		types = append(types, r.Type)
		if r.Type == TypeHistory {
			if h, ok := ParseHistory(r.Payload); !ok || h.IDs != rec.HistoryIDs {
				t.Errorf("history %+v %v", h, ok)
			}
		}
		return nil
	}))
	if diff := cmp.Diff([]RecordType{TypeStream, TypeEpoch, TypeHistory, TypeEpoch, TypeStream, TypeStream}, types); diff != "" {
		t.Error(diff)
	}
	if err := j.Replay(1, func(Record) error { return nil }); !errors.Is(err, ErrMidRecord) {
		t.Errorf("replay from inside a record: %v", err)
	}
}

func TestRecordLargerThanASegmentGetsItsOwn(t *testing.T) {
	j := started(t, Options{SegmentSize: 4096, Level: LevelAlways})
	big := bytes.Repeat([]byte("0123456789abcdef"), 2000)
	for _, b := range [][]byte{[]byte("small"), big, []byte("small again")} {
		j.Append(TypeStream, 0, b)
	}
	must(t, j.Flush())
	must(t, j.Sync(j.End()))
	if s := j.Stats(); s.Segments != 3 {
		t.Errorf("%d segments", s.Segments)
	}
	f, err := j.Follow(5)
	must(t, err)
	got := make([]byte, len(big))
	if n, err := f.Read(got); n != len(big) || err != nil || !bytes.Equal(got, big) {
		t.Errorf("read %d, %v", n, err)
	}
	must(t, f.Close())
}

func TestNoRoomThenReopenLosesNothing(t *testing.T) {
	w, d, in := newTestWorld(t, Options{Level: LevelAlways})
	must(t, w.run("asas"))
	in.Arm(vfstest.FailNoRoom, 1, true)
	if err := w.run("as"); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("write without room: %v", err)
	}
	if err := w.j.Err(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Err: %v", err)
	}
	if err := w.run("af"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the error is not sticky: %v", err)
	}
	if err := w.j.Reopen(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("reopen without room: %v", err)
	}
	in.Disarm()
	must(t, w.run("rv"))
	if w.j.Synced() != w.gen.end() || w.j.Err() != nil {
		t.Errorf("synced %d of %d, %v", w.j.Synced(), w.gen.end(), w.j.Err())
	}
	must(t, w.run("asv"))
	w.j.kill()
	x := &explorer{seen: map[string]bool{}}
	must(t, x.explore(w, d.Snapshot(), 0))
}

func TestReopenRefusesWhatMemoryNoLongerHolds(t *testing.T) {
	w, _, in := newTestWorld(t, Options{Level: LevelEverySec, MemoryWindow: 100, SegmentSize: 1 << 20})
	must(t, w.run(strings.Repeat("af", 2000)))
	in.Arm(vfstest.SyncLost, 1, false)
	if err := w.run("s"); err == nil {
		t.Fatal("sync did not fail")
	}
	if err := w.j.Reopen(); !errors.Is(err, ErrNotHeld) {
		t.Errorf("reopen: %v", err)
	}
	must(t, w.run("gasv")) // a new generation with a checkpoint is the way out
	w.j.kill()
}

func TestFailedSyncIsNeverRetried(t *testing.T) {
	w, d, in := newTestWorld(t, Options{Level: LevelAlways})
	must(t, w.run("as"))
	in.Arm(vfstest.SyncLost, 1, false)
	if err := w.run("as"); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	syncs := 0
	d.OnOp(func(op vfstest.Op) {
		if op.Kind == "sync" || op.Kind == "write" {
			syncs++
		}
	})
	for range 3 {
		if err := w.j.Sync(w.gen.end()); !errors.Is(err, syscall.EIO) {
			t.Errorf("sync: %v", err)
		}
		w.j.everySecond()
	}
	if err := w.j.Close(); !errors.Is(err, syscall.EIO) {
		t.Errorf("close: %v", err)
	}
	if syncs != 0 {
		t.Errorf("%d syncs and writes after the failure", syncs)
	}
}

func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := vfstest.NewInjector(vfs.NewMem())
		in.StallFor = 10 * time.Millisecond
		in.Match = func(op vfstest.Op) bool { return op.Kind == "sync" }
		j := started(t, Options{FS: in, Level: LevelAlways})
		synctest.Wait() // the spare is prepared
		in.Arm(vfstest.Stall, 1, true)
		before := j.Stats().Syncs
		var wg sync.WaitGroup
		for range 50 {
			end := j.Append(TypeStream, 0, []byte("x"))
			must(t, j.Flush())
			wg.Go(func() { must(t, j.Sync(end)) })
			time.Sleep(time.Millisecond)
		}
		wg.Wait()
		if n := j.Stats().Syncs - before; n > 7 {
			t.Errorf("%d syncs of 10 ms for 50 writers, one each ms", n)
		}
		must(t, j.Close())
	})
}

func TestEverySecWaitsForASyncThatIsTwoSecondsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := vfstest.NewInjector(vfs.NewMem())
		in.StallFor = 5 * time.Second
		in.Match = func(op vfstest.Op) bool { return op.Kind == "sync" && strings.HasSuffix(op.Name, ".seg") }
		j := started(t, Options{FS: in, Level: LevelEverySec})
		synctest.Wait()
		in.Arm(vfstest.Stall, 1, false)
		write := func() time.Duration {
			start := time.Now()
			j.Append(TypeStream, 0, []byte("x"))
			must(t, j.Flush())
			return time.Since(start)
		}
		write() // the background sync begins after 1 s and takes until 6 s
		time.Sleep(2500 * time.Millisecond)
		if d := write(); d != 0 {
			t.Errorf("a write during a sync took %v", d)
		}
		time.Sleep(1500 * time.Millisecond)
		if d := write(); d < time.Second || d > 3*time.Second {
			t.Errorf("a write beside a late sync took %v", d)
		}
		if s := j.Stats(); s.Delayed != 1 {
			t.Errorf("delayed %d", s.Delayed)
		}
		time.Sleep(3 * time.Second)
		if j.Synced() != j.End() {
			t.Error("not synced after a second")
		}
		must(t, j.Close())
	})
}

func TestMarkNamesTheSyncedPositionAfterTheLastAppend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := vfs.NewMem()
		j := started(t, Options{FS: fsys, Level: LevelEverySec})
		j.Append(TypeStream, 0, []byte("hello"))
		must(t, j.Flush())
		time.Sleep(5 * time.Second)
		j.kill()
		var dump strings.Builder
		must(t, Dump(fsys, testDir, &dump, DumpOptions{Payload: 5}))
		if strings.Count(dump.String(), "MARK") != 1 {
			t.Errorf("not one MARK:\n%s", &dump)
		}
		rep, err := Check(fsys, testDir, nil)
		must(t, err)
		if rep.Recovery.SyncedPos != 5 || rep.Recovery.Clean || rep.Verdict != VerdictWhole {
			t.Errorf("%+v", rep)
		}
	})
}

func TestAlwaysHidesFromFollowersWhatIsNotSynced(t *testing.T) {
	j := started(t, Options{Level: LevelAlways})
	f, err := j.Follow(0)
	must(t, err)
	calls := 0
	j.OnVisible(func() { calls++ })
	end := j.Append(TypeStream, 0, []byte("x"))
	must(t, j.Flush())
	if n, err := f.Read(make([]byte, 9)); n != 0 || err != nil || calls != 0 {
		t.Errorf("read %d bytes that are not synced, %v, %d calls", n, err, calls)
	}
	must(t, j.Sync(end))
	if n, err := f.Read(make([]byte, 9)); n != 1 || err != nil || calls != 1 {
		t.Errorf("read %d, %v, %d calls", n, err, calls)
	}
	j.SetLevel(LevelEverySec)
	j.Append(TypeStream, 0, []byte("y"))
	must(t, j.Flush())
	if j.Visible() != 2 || calls != 2 {
		t.Errorf("visible %d, %d calls", j.Visible(), calls)
	}
	if err := j.Sync(99); !errors.Is(err, ErrNotFlushed) {
		t.Errorf("sync beyond what is flushed: %v", err)
	}
	must(t, f.Close())
}

func TestMemory(t *testing.T) {
	m := NewMemory(1000)
	m.Reset(500)
	var s Stream = m
	var want []byte
	f, err := s.Follow(500)
	must(t, err)
	for i := range 100 {
		b := bytes.Repeat([]byte{byte(i)}, i)
		want = append(want, b...)
		if end := s.Append(TypeStream, 0, b); end != 500+uint64(len(want)) {
			t.Fatalf("end %d", end)
		}
		s.Append(TypeEpoch, 0, nil)
		if n, err := f.Read(make([]byte, 9)); n != 0 || err != nil {
			t.Fatalf("read %d before Flush, %v", n, err)
		}
		must(t, s.Flush())
		got := make([]byte, 200)
		if n, err := f.Read(got); err != nil || !bytes.Equal(got[:n], b) {
			t.Fatalf("read %d, %v", n, err)
		}
		if i == 50 {
			m.Resize(300)
		}
		if i == 70 {
			m.Resize(2000)
		}
		first := s.FirstPos()
		g, err := s.Follow(first)
		must(t, err)
		all := make([]byte, 5000)
		if n, err := g.Read(all); err != nil || !bytes.Equal(all[:n], want[first-500:]) {
			t.Fatalf("round %d: %d bytes from %d, %v", i, n, first, err)
		}
	}
	if kept := s.End() - s.FirstPos(); kept != 2000 {
		t.Errorf("%d bytes kept", kept)
	}
	if _, err := s.Follow(s.FirstPos() - 1); !errors.Is(err, ErrTrimmed) {
		t.Error(err)
	}
	if _, err := s.Follow(s.End() + 1); !errors.Is(err, ErrAhead) {
		t.Error(err)
	}
	slow, err := s.Follow(s.FirstPos())
	must(t, err)
	s.Append(TypeStream, 0, make([]byte, 5000))
	must(t, s.Flush())
	if _, err := slow.Read(make([]byte, 9)); !errors.Is(err, ErrTrimmed) {
		t.Error(err)
	}
	m.Reset(0)
	if _, err := slow.Read(make([]byte, 9)); !errors.Is(err, ErrGeneration) {
		t.Error(err)
	}
}

func TestManifestTextComesBack(t *testing.T) {
	m := Manifest{Seq: 7, Generation: 3, Base: 1 << 60, HistoryIDs: [2]string{"a b\n\"", strings.Repeat("f", 40)}, SecondEnd: 9, Checkpoint: "checkpoint-1.rdb", CheckpointPos: 1 << 61, Segment: 12}
	got, err := decodeManifest(m.encode())
	must(t, err)
	if diff := cmp.Diff(m, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []Manifest{{Generation: 0}, {Generation: 1, Checkpoint: "../x"}, {Generation: 1, HistoryIDs: [2]string{strings.Repeat("x", 256)}}} {
		if _, err := decodeManifest(bad.encode()); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}

func TestAppendDoesNotAllocateWhenWarm(t *testing.T) {
	j := started(t, Options{FS: vfs.NewMem(), SegmentSize: 1 << 30, Level: LevelNo})
	b := make([]byte, 100)
	step := func() {
		for range 100 {
			j.Append(TypeStream, 0, b)
		}
		must(t, j.Flush())
	}
	for range 200 {
		step()
	}
	// The file in memory grows now and then; the journal itself must not.
	if n := testing.AllocsPerRun(200, step); n >= 1 {
		t.Errorf("%v allocations for 100 records", n)
	}
}
