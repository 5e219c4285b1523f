package server

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"holdfast/test/proc"
)

// smallDisk is a file system of a few MiB with a ballast on it, that is,
// room to be freed; the data goes into the directory that it returns.
func smallDisk(t *testing.T, size string, ballast int) (dir, ballastFile string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting a small tmpfs needs root")
	}
	root := t.TempDir()
	if err := syscall.Mount("tmpfs", root, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("mounting a small tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(root, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	dir = filepath.Join(root, "data")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ballastFile = filepath.Join(root, "ballast")
	if err := os.WriteFile(ballastFile, make([]byte, ballast), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, ballastFile
}

const noSpace = "MISCONF Errors writing to the AOF file: No space left on device"

func valueOf(i int) string { return strconv.Itoa(i) + strings.Repeat("v", 8000) }

// writeUntilRefused sets k0, k1, ... from first on until the disk is full, and
// returns the number of the first that was not acknowledged.
func writeUntilRefused(t *testing.T, s *instance, first int) int {
	t.Helper()
	c := s.dial()
	for i := first; i < first+10_000; i++ {
		v := do(t, c, "SET", "k"+strconv.Itoa(i), valueOf(i))
		if v.Err() != nil {
			if v.Str != noSpace {
				t.Fatal(v.Str)
			}
			return i
		}
	}
	t.Fatal("the disk never was full")
	return 0
}

func wantAll(t *testing.T, c *proc.Conn, first, end int) {
	t.Helper()
	for i := first; i < end; i++ {
		if got := do(t, c, "GET", "k"+strconv.Itoa(i)).Text(); got != valueOf(i) {
			t.Fatalf("k%d, an acknowledged write, is missing (%d bytes)", i, len(got))
		}
	}
}

func TestFullDiskRefusesWritesAndRecovers(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"everysec", "always", "no"} {
		t.Run(level, func(t *testing.T) {
			dir, ballast := smallDisk(t, "10m", 4<<20)
			args := []string{"--save", "", "--appendfsync", level, "--journal-segment-size", "1mb"}
			s := startIn(t, dir, args...)
			n := writeUntilRefused(t, s, 0)
			c := s.dial()
			wantText(t, c, noSpace, "SET", "k", "v")
			wantText(t, c, noSpace, "PING")
			if level == "always" {
				// What is in memory may not be on the disk, so nobody sees it; the
				// connection and what holds no data go on.
				wantText(t, c, noSpace, "GET", "k0")
			} else {
				wantText(t, c, valueOf(0), "GET", "k0")
			}
			if st := info(t, c, "aof_last_write_status"); st != "err" {
				t.Errorf("aof_last_write_status:%s", st)
			}
			// What a kill leaves at this moment holds all that was acknowledged.
			elsewhere := t.TempDir()
			s.Signal(syscall.SIGSTOP)
			if err := os.CopyFS(elsewhere, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			s.Signal(syscall.SIGCONT)
			o := startIn(t, elsewhere, args...)
			wantAll(t, o.dial(), 0, n)
			o.Kill()

			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
			eventually(t, "writes are accepted again", func() bool { return do(t, c, "SET", "again", "1").Text() == "OK" })
			s.waitLog("The journal can be written again, writes are accepted.")
			for i := n; i < n+50; i++ {
				must(t, c, "SET", "k"+strconv.Itoa(i), valueOf(i))
			}
			wantAll(t, c, 0, n+50)
			s.Kill()
			s = startIn(t, dir, args...)
			wantAll(t, s.dial(), 0, n+50)
			wantText(t, s.dial(), "1", "GET", "again")
		})
	}
}

// Written fast and unsynced, the lost part is larger than what is held in
// memory: the way out is a checkpoint.
func TestFullDiskUnderAPipelineRecovers(t *testing.T) {
	t.Parallel()
	dir, ballast := smallDisk(t, "40m", 24<<20)
	args := []string{"--save", "", "--journal-segment-size", "1mb", "--repl-backlog-size", "16kb", debugOn, "yes"}
	s := startIn(t, dir, args...)
	c := s.dial()
	big := strings.Repeat("x", 100_000)
	sent := 0
	for range 20 {
		for range 20 {
			c.Send("SET", "same"+strconv.Itoa(sent%20), big)
			sent++
		}
		if c.Flush() != nil {
			break
		}
	}
	for range sent {
		if v, err := c.Recv(); err != nil || v.Err() != nil {
			break
		}
	}
	k := s.dial()
	eventually(t, "the disk is full", func() bool { return do(t, k, "SET", "k", "v").Err() != nil || s.ExitCode() >= 0 })
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	k = s.dial()
	eventually(t, "writes are accepted again", func() bool { return do(t, k, "SET", "again", "1").Text() == "OK" })
	s.waitLog("it begins anew with a checkpoint")
	want := digest(t, k)
	s.Kill()
	s = startIn(t, dir, args...)
	if got := digest(t, s.dial()); got != want {
		t.Errorf("digest %s, before the kill %s", got, want)
	}
}

func TestFailedBgsaveStopsWrites(t *testing.T) {
	t.Parallel()
	const refused = "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. " +
		"Commands that may modify the data set are disabled, because this instance is configured to report errors during writes " +
		"if RDB snapshotting fails (stop-writes-on-bgsave-error option). Please check the Redis logs for details about the RDB error."
	dir, ballast := smallDisk(t, "6m", 5<<20)
	s := startIn(t, dir, "--save", "3600 100000", "--appendonly", "no", "--rdbcompression", "no", debugOn, "yes")
	c := s.dial()
	must(t, c, "DEBUG", "POPULATE", "2000", "key", "1000")
	must(t, c, "BGSAVE")
	eventually(t, "BGSAVE fails", func() bool { return info(t, c, "rdb_last_bgsave_status") == "err" })
	if names, err := filepath.Glob(filepath.Join(dir, "temp-*")); err != nil || len(names) > 0 {
		t.Errorf("left behind: %v %v", names, err)
	}
	wantText(t, c, refused, "SET", "k", "v")
	wantText(t, c, refused, "PING")
	wantText(t, c, "2000", "DBSIZE")
	wantText(t, c, "ERR", "SAVE")
	must(t, c, "CONFIG", "SET", "stop-writes-on-bgsave-error", "no")
	must(t, c, "SET", "k", "v")
	must(t, c, "CONFIG", "SET", "stop-writes-on-bgsave-error", "yes")
	wantText(t, c, refused, "SET", "k", "v")
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	must(t, c, "BGSAVE")
	eventually(t, "BGSAVE succeeds", func() bool { return info(t, c, "rdb_last_bgsave_status") == "ok" })
	must(t, c, "SET", "k", "v")
}

// A checkpoint for which there is no room leaves the journal as it is.
func TestFullDiskFailsTheCheckpointOnly(t *testing.T) {
	t.Parallel()
	dir, ballast := smallDisk(t, "24m", 17<<20)
	args := []string{"--save", "", "--rdbcompression", "no", "--journal-segment-size", "1mb", debugOn, "yes"}
	s := startIn(t, dir, args...)
	c := s.dial()
	for i := range 400 {
		must(t, c, "SET", "k"+strconv.Itoa(i), valueOf(i))
	}
	must(t, c, "DEBUG", "POPULATE", "5000", "unlogged", "1000")
	do(t, c, "BGREWRITEAOF")
	eventually(t, "the checkpoint fails", func() bool { return info(t, c, "aof_last_bgrewrite_status") == "err" })
	s.waitLog("Background checkpoint failed")
	if names, err := filepath.Glob(filepath.Join(dir, "journal", "temp-*")); err != nil || len(names) > 0 {
		t.Errorf("left behind: %v %v", names, err)
	}
	wantAll(t, c, 0, 400)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a later one succeeds", func() bool {
		do(t, c, "BGREWRITEAOF")
		return info(t, c, "aof_last_bgrewrite_status") == "ok"
	})
	eventually(t, "writes are accepted", func() bool { return do(t, c, "SET", "last", "1").Text() == "OK" })
	s.Kill()
	s = startIn(t, dir, args...)
	wantAll(t, s.dial(), 0, 400)
	wantText(t, s.dial(), "1", "GET", "last")
}
