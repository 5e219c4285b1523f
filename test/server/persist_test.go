package server

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"holdfast/test/proc"
)

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestDumpOfGenuineIsImported(t *testing.T) {
	t.Parallel()
	g := genuineIn(t, t.TempDir(), "--save", "", debugOn, "yes")
	c := g.dial()
	fill(t, c, 300)
	must(t, c, "SELECT", "3")
	fill(t, c, 20)
	want := digest(t, c)
	must(t, c, "SAVE")
	for _, appendonly := range []string{"yes", "no"} {
		dir := t.TempDir()
		copyFile(t, filepath.Join(g.dir, "dump.rdb"), filepath.Join(dir, "dump.rdb"))
		s := startIn(t, dir, "--save", "", "--appendonly", appendonly, debugOn, "yes")
		if got := digest(t, s.dial()); got != want {
			t.Errorf("appendonly %s: digest %s, genuine %s", appendonly, got, want)
		}
		if appendonly == "no" {
			continue
		}
		// From now on the journal is the newer word.
		must(t, s.dial(), "SET", "new", "er")
		want2 := digest(t, s.dial())
		s.Kill()
		s = startIn(t, dir, "--save", "", debugOn, "yes")
		if got := digest(t, s.dial()); got != want2 {
			t.Errorf("after the restart: digest %s, want %s", got, want2)
		}
	}
}

func TestDumpGoesToGenuine(t *testing.T) {
	t.Parallel()
	s := start(t, debugOn, "yes")
	c := s.dial()
	fill(t, c, 300)
	must(t, c, "SELECT", "9")
	fill(t, c, 10)
	args := []string{"RPUSH", "long"}
	for i := range 5000 {
		args = append(args, strconv.Itoa(i))
	}
	must(t, c, args...)
	want := digest(t, c)
	must(t, c, "BGSAVE")
	eventually(t, "BGSAVE ends", func() bool { return info(t, c, "rdb_bgsave_in_progress") == "0" })
	dir := t.TempDir()
	copyFile(t, filepath.Join(s.dir, "dump.rdb"), filepath.Join(dir, "dump.rdb"))
	g := genuineIn(t, dir, "--save", "", debugOn, "yes")
	if got := digest(t, g.dial()); got != want {
		t.Errorf("genuine has %s, ours %s", got, want)
	}
}

func TestAppendOnlyFilesOfGenuineAreImported(t *testing.T) {
	t.Parallel()
	for _, preamble := range []string{"yes", "no"} {
		t.Run("preamble="+preamble, func(t *testing.T) {
			g := genuineIn(t, t.TempDir(), "--save", "", "--appendonly", "yes", "--aof-use-rdb-preamble", preamble, "--appenddirname", "my dir", debugOn, "yes")
			c := g.dial()
			fill(t, c, 100)
			must(t, c, "BGREWRITEAOF")
			eventually(t, "the rewrite", func() bool {
				return info(t, c, "aof_rewrite_in_progress") == "0" && info(t, c, "aof_rewrite_scheduled") == "0"
			})
			must(t, c, "SELECT", "2")
			fill(t, c, 50)
			must(t, c, "MULTI")
			do(t, c, "INCR", "x")
			do(t, c, "INCR", "x")
			must(t, c, "EXEC")
			want := digest(t, c)
			c.Send("SHUTDOWN")
			if err := c.Flush(); err != nil {
				t.Fatal(err)
			}
			g.exits(0)
			s := startIn(t, g.dir, "--save", "", "--appenddirname", "my dir", debugOn, "yes")
			if got := digest(t, s.dial()); got != want {
				t.Errorf("digest %s, genuine %s", got, want)
			}
			s.Kill()
			s = startIn(t, g.dir, "--save", "", "--appenddirname", "my dir", debugOn, "yes")
			if got := digest(t, s.dial()); got != want {
				t.Errorf("after a restart: digest %s, genuine %s", got, want)
			}
		})
	}
}

func TestAppendOnlyIsSwitchedWhileServing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startIn(t, dir, "--save", "", "--io-loops", "2", debugOn, "yes")
	stop, done := make(chan struct{}), make(chan error, 2)
	for w := range 2 {
		c := s.dial()
		go func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				if v, err := c.Do("SET", fmt.Sprintf("w%d:%d", w, i%5000), strconv.Itoa(i)); err != nil || v.Err() != nil {
					done <- fmt.Errorf("write %d: %v %v", i, v, err)
					return
				}
			}
		}()
	}
	c := s.dial()
	for range 4 {
		for _, value := range []string{"no", "yes"} {
			must(t, c, "CONFIG", "SET", "appendonly", value)
			if value == "yes" {
				must(t, c, "BGREWRITEAOF")
			}
		}
	}
	close(stop)
	for range 2 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	want := digest(t, c)
	s.Kill()
	s = startIn(t, dir, "--save", "", debugOn, "yes")
	if got := digest(t, s.dial()); got != want {
		t.Errorf("digest %s, before the kill %s", got, want)
	}
}

// A snapshot under load shows one moment, and the journal behind a checkpoint
// leads to the very data.
func TestSnapshotsUnderLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startIn(t, dir, "--save", "", "--io-loops", "2", debugOn, "yes")
	c := s.dial()
	must(t, c, "DEBUG", "POPULATE", "30000", "p", "60")
	fill(t, c, 200)
	stop, done := make(chan struct{}), make(chan error, 1)
	w := s.dial()
	go func() { done <- churn(w, stop) }()
	for round := range 2 {
		must(t, c, "BGREWRITEAOF")
		must(t, c, "SET", "after", strconv.Itoa(round)) // at once
		wantText(t, c, strconv.Itoa(round), "GET", "after")
		eventually(t, "the checkpoint", func() bool { return info(t, c, "aof_rewrite_in_progress") == "0" })
		if st := info(t, c, "aof_last_bgrewrite_status"); st != "ok" {
			t.Fatal(st)
		}
		must(t, c, "BGSAVE")
		if round == 1 {
			must(t, c, "SELECT", "5")
			fill(t, c, 50)
			must(t, c, "FLUSHDB")
			must(t, c, "SELECT", "0")
		}
		// Refused while the other runs, which nobody knows here; TestDelaysPerKey does.
		if v := do(t, c, "SAVE"); v.Str != "OK" && v.Str != "ERR Background save already in progress" {
			t.Errorf("SAVE: %v", v)
		}
		eventually(t, "BGSAVE", func() bool { return info(t, c, "rdb_bgsave_in_progress") == "0" })
		if st := info(t, c, "rdb_last_bgsave_status"); st != "ok" {
			t.Fatal(st)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	want := digest(t, c)
	s.Kill()
	s = startIn(t, dir, "--save", "", debugOn, "yes")
	if got := digest(t, s.dial()); got != want {
		t.Errorf("digest %s, before the kill %s", got, want)
	}
}

// churn writes all kinds of things until stop.
func churn(c *proc.Conn, stop <-chan struct{}) error {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return nil
		default:
		}
		k := strconv.Itoa(i % 997)
		c.Send("SET", "p:"+k, strconv.Itoa(i))
		c.Send("RPUSH", "list:"+k, k)
		c.Send("LPOP", "list:"+strconv.Itoa(i%31))
		c.Send("HINCRBY", "hash:"+k, "n", "1")
		c.Send("ZINCRBY", "zset:"+k, "0.5", "a")
		c.Send("SADD", "set:"+k, strconv.Itoa(i))
		c.Send("DEL", "p:"+strconv.Itoa(i%5003))
		c.Send("EXPIRE", "p:"+k, "1000")
		if err := c.Flush(); err != nil {
			return err
		}
		for range 8 {
			if v, err := c.Recv(); err != nil || v.Err() != nil {
				return fmt.Errorf("%v %v", v, err)
			}
		}
	}
}

func TestFlushAllDuringSnapshot(t *testing.T) {
	t.Parallel()
	s := start(t, debugOn, "yes")
	c := s.dial()
	must(t, c, "DEBUG", "POPULATE", "30000", "p", "60")
	want := digest(t, c)
	c.Send("BGSAVE")
	c.Send("FLUSHALL", "SYNC")
	c.Send("SET", "k", "v")
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if v, err := c.Recv(); err != nil || v.Err() != nil {
			t.Fatal(v, err)
		}
	}
	eventually(t, "BGSAVE", func() bool { return info(t, c, "rdb_bgsave_in_progress") == "0" })
	wantText(t, c, "1", "DBSIZE")
	if !exists(filepath.Join(s.dir, "dump.rdb")) {
		return // as in Redis, FLUSHALL may end the snapshot
	}
	dir := t.TempDir()
	copyFile(t, filepath.Join(s.dir, "dump.rdb"), filepath.Join(dir, "dump.rdb"))
	o := startIn(t, dir, "--save", "", debugOn, "yes")
	if got := digest(t, o.dial()); got != want {
		t.Errorf("the dump has %s keys, digest %s, want the data of before", must(t, o.dial(), "DBSIZE"), got)
	}
}

func TestSavePointsSave(t *testing.T) {
	t.Parallel()
	s := startIn(t, t.TempDir(), "--save", "1 3", "--appendonly", "no")
	c := s.dial()
	for i := range 3 {
		must(t, c, "SET", strconv.Itoa(i), "v")
	}
	eventually(t, "the dump", func() bool { return exists(filepath.Join(s.dir, "dump.rdb")) })
	s.waitLog("3 changes in 1 seconds. Saving...")
	eventually(t, "no change is left to save", func() bool { return info(t, c, "rdb_changes_since_last_save") == "0" })
}

func TestLeftoversAreSwept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startIn(t, dir, "--save", "")
	c := s.dial()
	fill(t, c, 10)
	must(t, c, "BGREWRITEAOF")
	eventually(t, "the checkpoint", func() bool { return info(t, c, "aof_rewrite_in_progress") == "0" })
	s.Kill()
	names := func() (n []string) {
		found, err := filepath.Glob(filepath.Join(dir, "journal", "checkpoint-*.rdb"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	real := names()
	if len(real) != 1 {
		t.Fatal(real)
	}
	strays := []string{"journal/temp-checkpoint-1.rdb", "journal/checkpoint-00000000000000000001-1.rdb", "temp-999999999.rdb", "temp-1700000000.999999999.rdb"}
	keep := []string{"temp-notes.rdb", "temp-" + strconv.Itoa(os.Getpid()) + ".rdb", "dump.rdb.bak"}
	for _, name := range append(append([]string(nil), strays...), keep...) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s = startIn(t, dir, "--save", "")
	for _, name := range strays {
		if exists(filepath.Join(dir, name)) {
			t.Errorf("%s is still there", name)
		}
	}
	for _, name := range keep {
		if !exists(filepath.Join(dir, name)) {
			t.Errorf("%s is gone", name)
		}
	}
	if got := names(); len(got) != 1 || got[0] != real[0] {
		t.Error(got)
	}
	wantText(t, s.dial(), "70", "DBSIZE")
}

func TestDumpWithAStreamIsRefusedClearly(t *testing.T) {
	t.Parallel()
	g := genuineIn(t, t.TempDir(), "--save", "")
	c := g.dial()
	must(t, c, "XADD", "the-stream", "*", "f", "v")
	must(t, c, "SAVE")
	for _, appendonly := range []string{"yes", "no"} {
		dir := t.TempDir()
		copyFile(t, filepath.Join(g.dir, "dump.rdb"), filepath.Join(dir, "dump.rdb"))
		s := launch(t, serverArgv(), dir, nil, "--appendonly", appendonly)
		s.exits(1)
		if out := s.Output(); !strings.Contains(out, `"the-stream"`) || !strings.Contains(out, "is a stream") {
			t.Error(out)
		}
	}
}

// A damaged dump ends the start with a message: no crash, no hang, and the file
// stays as it is.
func TestDamagedDumpIsRefused(t *testing.T) {
	t.Parallel()
	s := startIn(t, t.TempDir(), "--save", "", "--appendonly", "no")
	c := s.dial()
	fill(t, c, 20)
	must(t, c, "SAVE")
	good, err := os.ReadFile(filepath.Join(s.dir, "dump.rdb"))
	if err != nil {
		t.Fatal(err)
	}
	damage := map[string]func([]byte) []byte{
		"empty":           func([]byte) []byte { return nil },
		"magic":           func(b []byte) []byte { b[0] ^= 1; return b },
		"version":         func(b []byte) []byte { copy(b[5:], "9999"); return b },
		"flipped early":   func(b []byte) []byte { b[200] ^= 0x10; return b },
		"flipped":         func(b []byte) []byte { b[len(b)/2] ^= 0x80; return b },
		"checksum":        func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"cut":             func(b []byte) []byte { return b[:len(b)*2/3] },
		"without its end": func(b []byte) []byte { return b[:len(b)-9] },
	}
	for name, f := range damage {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			bad := f(append([]byte(nil), good...))
			if err := os.WriteFile(filepath.Join(dir, "dump.rdb"), bad, 0o644); err != nil {
				t.Fatal(err)
			}
			p := launch(t, serverArgv(), dir, nil, "--save", "")
			p.exits(1)
			if out := p.Output(); strings.Contains(out, "goroutine ") || !strings.Contains(out, "Fatal error loading the DB") && !strings.Contains(out, "Internal error in RDB reading") {
				t.Error(tail(out, 3000))
			}
			if b, err := os.ReadFile(filepath.Join(dir, "dump.rdb")); err != nil || string(b) != string(bad) {
				t.Error("the file was changed", err)
			}
		})
	}
}

func TestFailedCheckpointLeavesTheOldOne(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startIn(t, dir, "--save", "", debugOn, "yes")
	c := s.dial()
	fill(t, c, 50)
	must(t, c, "BGREWRITEAOF")
	eventually(t, "the checkpoint", func() bool { return info(t, c, "aof_rewrite_in_progress") == "0" })
	if os.Getuid() == 0 {
		// Permissions stop nobody here; a directory without room is in disk_test.go.
		t.Skip("runs as root: covered by TestFullDisk")
	}
	jdir := filepath.Join(dir, "journal")
	if err := os.Chmod(jdir, 0o500); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.Chmod(jdir, 0o700) }()
	v := do(t, c, "BGREWRITEAOF")
	if v.Err() == nil {
		t.Error(v)
	}
	if st := info(t, c, "aof_last_bgrewrite_status"); st != "err" {
		t.Error(st)
	}
}

// A whole request may be one argument of the journal's size and more.
func TestRecordsLargerThanASegment(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startIn(t, dir, "--save", "", "--journal-segment-size", "1mb", debugOn, "yes")
	c := s.dial()
	for i := range 5 {
		must(t, c, "SET", "big"+strconv.Itoa(i), strings.Repeat(strconv.Itoa(i), 3<<20))
	}
	want := digest(t, c)
	s.Kill()
	s = startIn(t, dir, "--save", "", "--journal-segment-size", "1mb", debugOn, "yes")
	if got := digest(t, s.dial()); got != want {
		t.Errorf("digest %s, want %s", got, want)
	}
}
