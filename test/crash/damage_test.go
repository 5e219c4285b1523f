package crash

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/journal"
	"holdfast/test/proc"
)

// written makes a directory with one writer's data, killed under load, and
// returns the directory and the writer.
func written(t *testing.T, least int64, args ...string) (string, *writer) {
	t.Helper()
	return writtenUntil(t, func(_ *proc.Process, w *writer) bool { return w.acked.Load() >= least }, args...)
}

// writtenUntil is written for a condition of its own.
func writtenUntil(t *testing.T, enough func(*proc.Process, *writer) bool, args ...string) (string, *writer) {
	t.Helper()
	dir := filepath.Join(workDir(t), "data")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// So many at once that some thousand need few syncs, which may be slow.
	w := &writer{model: newModel("w:"), depth: 200}
	p := startReady(t, dir, append([]string{"--save", ""}, args...)...)
	done := make(chan error, 1)
	go func() { done <- w.run(p.Spec.Port, rand.New(rand.NewPCG(*flagSeed, 3))) }()
	waitFor(t, func() bool { return enough(p, w) })
	p.Kill()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return dir, w
}

func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(startLimit); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the condition did not come true in time")
		}
	}
}

func check(t *testing.T, dir string) journal.Report {
	t.Helper()
	rep, err := journal.Check(vfs.Default, filepath.Join(dir, "journal"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

// tail is the last segment that holds records, and where they end.
func tail(t *testing.T, dir string) (path string, s journal.SegmentReport) {
	t.Helper()
	for _, r := range check(t, dir).Segments {
		if r.Records > 1 && r.Seq >= s.Seq {
			s = r
		}
	}
	if s.Name == "" {
		t.Fatal("no segment holds records")
	}
	return filepath.Join(dir, "journal", s.Name), s
}

// surviving starts the server on dir and returns how many of w's writes are there.
func surviving(t *testing.T, dir string, w *writer) int64 {
	t.Helper()
	p := startReady(t, dir, "--save", "")
	m, err := findPrefix(dial(t, p), w.model, w.acked.Load())
	if err != nil {
		t.Fatalf("%v\nthe start said:\n%s", err, p.Output())
	}
	if err := p.Terminate(startLimit); err != nil {
		t.Fatal(err)
	}
	if code := p.ExitCode(); code != 0 {
		t.Fatalf("SIGTERM: exit code %d\n%s", code, p.Output())
	}
	return m.n
}

// Design, promise P5: a torn tail never needs a human.
func TestTornTailIsRecovered(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(*flagSeed, 4))
	change := func(t *testing.T, path string, f func(*os.File) error) {
		t.Helper()
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := f(file); err != nil {
			t.Fatal(err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
	garbage := make([]byte, 4096)
	for i := range garbage {
		garbage[i] = byte(rng.Uint32())
	}
	cases := []struct {
		name string
		tear func(*os.File, journal.SegmentReport) error
		// All acknowledged writes survive; else a prefix of them.
		all bool
	}{
		{"truncated somewhere in the last segment", func(f *os.File, s journal.SegmentReport) error {
			return f.Truncate(1024 + rng.Int64N(s.EndOffset-1024))
		}, false},
		{"truncated inside the last record", func(f *os.File, s journal.SegmentReport) error { return f.Truncate(s.EndOffset - 3) }, false},
		{"truncated right behind the last record", func(f *os.File, s journal.SegmentReport) error { return f.Truncate(s.EndOffset) }, true},
		{"garbage right behind the last record", func(f *os.File, s journal.SegmentReport) error {
			_, err := f.WriteAt(garbage, s.EndOffset)
			return err
		}, true},
		{"garbage at the end of the file", func(f *os.File, s journal.SegmentReport) error {
			_, err := f.WriteAt(garbage, s.Size)
			return err
		}, true},
		{"half of a valid record behind the last", func(f *os.File, s journal.SegmentReport) error {
			b := make([]byte, 64)
			if _, err := f.ReadAt(b, s.EndOffset-64); err != nil {
				return err
			}
			_, err := f.WriteAt(b, s.EndOffset)
			return err
		}, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir, w := written(t, 3000, "--appendfsync", "everysec", "--journal-segment-size", "65536")
			path, s := tail(t, dir)
			change(t, path, func(f *os.File) error { return c.tear(f, s) })
			n := surviving(t, dir, w)
			if c.all && n < w.acked.Load() || n > w.sent.Load() {
				t.Errorf("%d writes were acknowledged, %d sent; %d are there", w.acked.Load(), w.sent.Load(), n)
			}
			if again := surviving(t, dir, w); again != n {
				t.Errorf("the second start holds %d writes, the first held %d", again, n)
			}
		})
	}
}

// files reads all files of a directory.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		all[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// refused holds that a start stops with code 1, says what want matches, and
// leaves all files as they are.
func refused(t *testing.T, dir string, want *regexp.Regexp) {
	t.Helper()
	was := files(t, dir)
	p := start(t, dir, "--save", "")
	if err := p.WaitExit(startLimit); err != nil {
		t.Fatalf("the start should have stopped: %v\n%s", err, p.Output())
	}
	if p.ExitCode() != 1 || !want.MatchString(p.Output()) {
		t.Errorf("exit code %d, want 1; said, want %s:\n%s", p.ExitCode(), want, p.Output())
	}
	is := files(t, dir)
	for name, b := range was {
		if is[name] != b {
			t.Errorf("%s was changed by the start that stopped", name)
		}
	}
	for name := range is {
		if _, ok := was[name]; !ok && !strings.HasSuffix(name, "journal.lock") {
			t.Errorf("%s was made by the start that stopped", name)
		}
	}
}

// Design, promise P5: real corruption is never guessed over. A byte that was
// synced and is damaged stops the start; mended, everything is there.
func TestFlippedByteStopsTheStart(t *testing.T) {
	t.Parallel()
	dir, w := written(t, 4000, "--appendfsync", "always", "--journal-segment-size", "65536")
	rep := check(t, dir)
	rng := rand.New(rand.NewPCG(*flagSeed, 5))
	live := slices.DeleteFunc(slices.Clone(rep.Segments), func(s journal.SegmentReport) bool { return s.State != "whole" || s.Records < 2 })
	if len(live) < 4 {
		t.Fatalf("%d segments hold records, the test needs 4", len(live))
	}
	rounds := 6
	if testing.Short() {
		rounds = 2
	}
	for i := range rounds {
		s := live[rng.IntN(len(live)-2)] // not the last two: what is not synced may begin in one and end in the other
		path := filepath.Join(dir, "journal", s.Name)
		at := 1024 + rng.Int64N(s.EndOffset-1024)
		flip := byte(1 << rng.IntN(8))
		if err := xorByte(path, at, flip); err != nil {
			t.Fatal(err)
		}
		t.Logf("flip %d: bit %08b of %s at %d", i, flip, s.Name, at)
		refused(t, dir, regexp.MustCompile(regexp.QuoteMeta(s.Name)+` at offset \d+: .*position`))
		if v := check(t, dir).Verdict; v != journal.VerdictCorrupt {
			t.Errorf("check says %q of the directory", v)
		}
		if err := xorByte(path, at, flip); err != nil {
			t.Fatal(err)
		}
	}
	if n := surviving(t, dir, w); n < w.acked.Load() || n > w.sent.Load() {
		t.Errorf("after the repair: %d writes were acknowledged, %d sent; %d are there", w.acked.Load(), w.sent.Load(), n)
	}
}

func xorByte(path string, at int64, mask byte) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		return err
	}
	b[0] ^= mask
	_, err = f.WriteAt(b, at)
	return err
}

// A damaged checkpoint stops the start, too: what it holds is nowhere else.
func TestDamagedCheckpointStopsTheStart(t *testing.T) {
	t.Parallel()
	dir, w := writtenUntil(t, func(p *proc.Process, w *writer) bool {
		return w.acked.Load() >= 3000 && strings.Contains(p.Output(), "Background checkpoint terminated with success")
	}, "--appendfsync", "always", "--journal-segment-size", "65536", "--auto-aof-rewrite-min-size", "64kb", "--auto-aof-rewrite-percentage", "1")
	name := check(t, dir).Recovery.Checkpoint
	if name == "" {
		t.Fatal("no checkpoint was made")
	}
	path := filepath.Join(dir, "journal", name)
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(*flagSeed, 6))
	for _, at := range []int64{0, st.Size() / 2, rng.Int64N(st.Size()), st.Size() - 1} {
		if err := xorByte(path, at, 0x10); err != nil {
			t.Fatal(err)
		}
		t.Logf("byte %d of %d of %s", at, st.Size(), name)
		refused(t, dir, regexp.MustCompile(regexp.QuoteMeta(name)+".*cannot be loaded"))
		if err := xorByte(path, at, 0x10); err != nil {
			t.Fatal(err)
		}
	}
	if n := surviving(t, dir, w); n < w.acked.Load() || n > w.sent.Load() {
		t.Errorf("after the repair: %d writes were acknowledged, %d sent; %d are there", w.acked.Load(), w.sent.Load(), n)
	}
}

// Two processes never write one data directory.
func TestDataDirectoryInUse(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(workDir(t), "data")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	first := startReady(t, dir, "--save", "", "--appendfsync", "always")
	c := dial(t, first)
	if _, err := c.Must("SET", "k", "1"); err != nil {
		t.Fatal(err)
	}
	second := start(t, dir, "--save", "")
	if err := second.WaitExit(startLimit); err != nil {
		t.Fatalf("the second process: %v\n%s", err, second.Output())
	}
	if second.ExitCode() != 1 || !strings.Contains(second.Output(), "data directory is in use by another process") ||
		!strings.Contains(second.Output(), dir) {
		t.Errorf("the second process: exit code %d, want 1; said:\n%s", second.ExitCode(), second.Output())
	}
	if v, err := c.Must("INCR", "k"); err != nil || v.Int != 2 {
		t.Errorf("INCR at the first process after that: %v, %v", v, err)
	}
	first.Kill()
	third := startReady(t, dir, "--save", "") // the lock of a killed process is nobody's
	if v, err := dial(t, third).Must("GET", "k"); err != nil || v.Str != "2" {
		t.Errorf("GET after the restart: %v, %v", v, err)
	}
}

// An orderly end keeps everything at every level of appendfsync, and says so in
// the journal: nothing is torn.
func TestOrderlyEndKeepsEverything(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"no", "everysec", "always"} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(workDir(t), "data")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			w := &writer{model: newModel("w:"), depth: 200} // few syncs, as in written
			p := startReady(t, dir, "--save", "", "--appendfsync", level, "--journal-segment-size", "65536")
			done := make(chan error, 1)
			go func() { done <- w.run(p.Spec.Port, rand.New(rand.NewPCG(*flagSeed, 7))) }()
			waitFor(t, func() bool { return w.acked.Load() >= 3000 })
			if err := p.Terminate(startLimit); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if code := p.ExitCode(); code != 0 {
				t.Errorf("exit code %d:\n%s", code, p.Output())
			}
			rep := check(t, dir)
			if rep.Verdict != journal.VerdictWhole || !rep.Recovery.Clean {
				t.Errorf("the journal is %s, closed in order: %v", rep.Verdict, rep.Recovery.Clean)
			}
			if n := surviving(t, dir, w); n < w.acked.Load() || n > w.sent.Load() {
				t.Errorf("%d writes were acknowledged, %d sent; %d are there", w.acked.Load(), w.sent.Load(), n)
			}
		})
	}
}

// A start on what a killed first start left behind, at every stage of it: the
// import of a dump.rdb is made once, and whole.
func TestKilledImportIsMadeAgain(t *testing.T) {
	if testing.Short() {
		t.Skip("many starts")
	}
	t.Parallel()
	// A dump.rdb of our own, with enough keys that its import takes a while.
	source := filepath.Join(workDir(t), "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	const keys = 40_000
	p := startReady(t, source, "--save", "", "--appendonly", "no")
	c := dial(t, p)
	for i := range keys {
		c.Send("SET", fmt.Sprintf("key:%d", i), "value")
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	for range keys {
		if v, err := c.Recv(); err != nil || v.Err() != nil {
			t.Fatal(v, err)
		}
	}
	if _, err := c.Must("SAVE"); err != nil {
		t.Fatal(err)
	}
	p.Kill()
	dump, err := os.ReadFile(filepath.Join(source, "dump.rdb"))
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	whole := importOnce(t, dump, 0)
	took := time.Since(began)
	rng := rand.New(rand.NewPCG(*flagSeed, 8))
	for range 6 {
		if n := importOnce(t, dump, time.Duration(rng.Int64N(int64(took)))); n != whole || n != keys {
			t.Fatalf("%d keys after an import that was killed and made again, want %d", n, keys)
		}
	}
}

// importOnce starts on a directory with dump.rdb, kills that start after a while
// unless that is 0, starts again and returns the number of keys.
func importOnce(t *testing.T, dump []byte, after time.Duration) int64 {
	t.Helper()
	dir := filepath.Join(workDir(t), "data")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "dump.rdb"), bytes.Clone(dump), 0o644); err != nil {
		t.Fatal(err)
	}
	if after > 0 {
		p := start(t, dir, "--save", "")
		select {
		case <-p.Exited():
			t.Fatalf("the start ended by itself:\n%s", p.Output())
		case <-time.After(after): // the moment of the kill is the test's input
		}
		p.Kill()
	}
	p := startReady(t, dir, "--save", "")
	defer p.Kill()
	v, err := dial(t, p).Must("DBSIZE")
	if err != nil {
		t.Fatal(err)
	}
	return v.Int
}

// A start that is told to end while it loads ends, with SIGTERM and with
// SHUTDOWN, and costs nothing.
func TestEndWhileLoading(t *testing.T) {
	t.Parallel()
	for _, by := range []string{"SIGTERM", "SHUTDOWN"} {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			dir, w := written(t, 20_000, "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0")
			p := start(t, dir, "--save", "")
			if by == "SIGTERM" {
				waitFor(t, func() bool { return strings.Contains(p.Output(), "Server initialized") })
				p.Signal(syscall.SIGTERM)
			} else {
				var c *proc.Conn
				waitFor(t, func() (ok bool) {
					var err error
					c, err = proc.Dial(p.Spec.Port, replyLimit)
					return err == nil
				})
				defer c.Close()
				if v, err := c.Do("SHUTDOWN", "NOSAVE"); err == nil { // it closes without a reply
					t.Errorf("SHUTDOWN NOSAVE: %+v", v)
				}
			}
			if err := p.WaitExit(startLimit); err != nil {
				t.Fatalf("%v\n%s", err, p.Output())
			}
			if p.ExitCode() != 0 {
				t.Errorf("exit code %d:\n%s", p.ExitCode(), p.Output())
			}
			if n := surviving(t, dir, w); n < w.acked.Load() || n > w.sent.Load() {
				t.Errorf("%d writes were acknowledged, %d sent; %d are there", w.acked.Load(), w.sent.Load(), n)
			}
		})
	}
}
