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

// What directives do that have no command of their own: each test is about the
// sentence that stands for it in redis.conf.

// activedefrag, active-defrag-ignore-bytes, -threshold-lower, -cycle-min: holes
// that shorter values leave are closed, and nothing is lost by it.
func TestActiveDefragMovesKeysOutOfSparseMemory(t *testing.T) {
	t.Parallel()
	s := start(t, "--appendonly", "no", debugOn, "yes", "--active-defrag-ignore-bytes", "1", "--active-defrag-threshold-lower", "1", "--active-defrag-cycle-min", "50", "--loglevel", "verbose")
	c := s.dial()
	must(t, c, "DEBUG", "POPULATE", "40000", "key", "900")
	for i := range 40000 {
		if i%10 != 0 {
			c.Send("SET", "key:"+strconv.Itoa(i), "short")
		}
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	for range 36000 {
		if v, err := c.Recv(); err != nil || v.Err() != nil {
			t.Fatal(err, v.Err())
		}
	}
	want := digest(t, c)
	held := infoInt(t, c, "allocator_frag_bytes")
	if n := infoInt(t, c, "active_defrag_hits"); n != 0 {
		t.Errorf("%d keys were moved with activedefrag no", n)
	}
	must(t, c, "CONFIG", "SET", "activedefrag", "yes")
	eventually(t, "a walk has ended that moved keys", func() bool {
		return infoInt(t, c, "active_defrag_key_hits") > 1000 && strings.Contains(s.Output(), "Active defrag done in ")
	})
	if got := digest(t, c); got != want {
		t.Errorf("digest %s, before %s", got, want)
	}
	if now := infoInt(t, c, "allocator_frag_bytes"); now >= held {
		t.Errorf("%d bytes are wasted, before it were %d", now, held)
	}
	must(t, c, "CONFIG", "SET", "activedefrag", "no")
	eventually(t, "it has stopped", func() bool { return infoInt(t, c, "active_defrag_running") == 0 })
	must(t, c, "CONFIG", "RESETSTAT")
	if n := infoInt(t, c, "active_defrag_hits"); n != 0 {
		t.Errorf("active_defrag_hits:%d after RESETSTAT", n)
	}
}

// repl-backlog-ttl: "after a master has no connected replicas for some time, the
// backlog will be freed".
func TestBacklogWithoutReplicasIsFreed(t *testing.T) {
	t.Parallel()
	m := start(t, "--appendonly", "no", "--repl-backlog-ttl", "1", "--repl-diskless-sync-delay", "0")
	c := m.dial()
	must(t, c, "SET", "k", strings.Repeat("v", 10000))
	eventually(t, "the backlog is freed", func() bool { return info(t, c, "repl_backlog_active") == "0" })
	m.waitLog("Replication backlog freed after 1 seconds without connected replicas.")
	if n := infoInt(t, c, "repl_backlog_histlen"); n != 0 {
		t.Errorf("repl_backlog_histlen:%d", n)
	}
	r := start(t, "--appendonly", "no", "--replicaof", "127.0.0.1 "+strconv.Itoa(m.port))
	rc := r.dial()
	eventually(t, "the replica is in step", func() bool { return info(t, rc, "master_link_status") == "up" })
	if got := info(t, c, "repl_backlog_active"); got != "1" {
		t.Errorf("repl_backlog_active:%s with a replica", got)
	}
	must(t, c, "SET", "k2", strings.Repeat("w", 100_000))
	eventually(t, "the write arrives", func() bool { return len(do(t, rc, "GET", "k2").Text()) == 100_000 })
	must(t, c, "CONFIG", "SET", "repl-backlog-ttl", "3600")
	must(t, c, "CLIENT", "KILL", "TYPE", "replica") // the backlog serves who returns at once
	must(t, c, "SET", "k3", "x")
	eventually(t, "the replica goes on", func() bool { return do(t, rc, "GET", "k3").Text() == "x" })
	if n := infoInt(t, c, "sync_partial_ok"); n != 1 {
		t.Errorf("sync_partial_ok:%d", n)
	}
}

// pairOnSmallDisk is a master and a replica whose disk is going to be full.
func pairOnSmallDisk(t *testing.T, args ...string) (m, r *instance, ballast string) {
	t.Helper()
	dir, ballast := smallDisk(t, "10m", 4<<20)
	m = start(t, "--repl-diskless-sync-delay", "0", debugOn, "yes")
	r = startIn(t, dir, append([]string{"--save", "", "--journal-segment-size", "1mb", debugOn, "yes",
		"--replicaof", "127.0.0.1 " + strconv.Itoa(m.port)}, args...)...)
	c := r.dial()
	eventually(t, "the replica is in step", func() bool { return info(t, c, "master_link_status") == "up" })
	return m, r, ballast
}

// replica-ignore-disk-write-errors no: "the replica will crash".
func TestReplicaThatCannotStoreAWriteEnds(t *testing.T) {
	t.Parallel()
	m, r, _ := pairOnSmallDisk(t)
	c := m.dial()
	for i := 0; i < 2000 && r.ExitCode() < 0; i++ {
		must(t, c, "SET", "k"+strconv.Itoa(i), valueOf(i))
		if i%50 == 49 {
			eventually(t, "the replica follows or has ended", func() bool {
				return r.ExitCode() >= 0 || info(t, c, "connected_slaves") == "0" || do(t, c, "WAIT", "1", "1000").Int == 1
			})
		}
	}
	if err := r.WaitExit(limit); err != nil {
		t.Fatal(err)
	}
	if r.ExitCode() != 1 || !strings.Contains(r.Output(), "Guru Meditation: Replica was unable to write command to disk.") {
		t.Errorf("it ended with code %d:\n%s", r.ExitCode(), tail(r.Output(), 2000))
	}
}

// replica-ignore-disk-write-errors yes: "ignore the error and execute the write
// command"; what was not written is when there is room again.
func TestReplicaGoesOnWithoutDiskWhenTold(t *testing.T) {
	t.Parallel()
	m, r, ballast := pairOnSmallDisk(t, "--replica-ignore-disk-write-errors", "yes")
	c, rc := m.dial(), r.dial()
	const n = 1500
	for i := range n {
		must(t, c, "SET", "k"+strconv.Itoa(i), valueOf(i))
	}
	eventually(t, "the replica has applied everything", func() bool { return do(t, rc, "GET", "k"+strconv.Itoa(n-1)).Text() == valueOf(n-1) })
	r.waitLog("Replica is applying a command even though it is unable to write to disk.")
	if st := info(t, rc, "aof_last_write_status"); st != "err" {
		t.Errorf("aof_last_write_status:%s", st)
	}
	wantText(t, rc, noSpace, "PING") // as in Redis, of a replica too
	if got, want := digest(t, rc), digest(t, c); got != want {
		t.Errorf("digest %s, of the master %s", got, want)
	}
	must(t, c, "FLUSHALL")
	must(t, c, "SET", "last", "1")
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	r.waitLog("The journal can be written again")
	eventually(t, "the replica answers", func() bool { return do(t, rc, "GET", "last").Text() == "1" })
}

// propagation-error-behavior: "panic-on-replicas: the process will only panic on
// replication errors", "ignore: log and go on".
func TestPropagationErrorBehavior(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"ignore", "panic", "panic-on-replicas"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			m := start(t, "--repl-diskless-sync-delay", "0")
			r := start(t, "--replicaof", "127.0.0.1 "+strconv.Itoa(m.port), "--replica-read-only", "no", "--propagation-error-behavior", how)
			c, rc := m.dial(), r.dial()
			eventually(t, "the replica is in step", func() bool { return info(t, rc, "master_link_status") == "up" })
			must(t, rc, "SET", "k", "a string, here only")
			must(t, rc, "CONFIG", "SET", "replica-read-only", "yes")
			must(t, c, "RPUSH", "k", "an element")
			must(t, c, "SET", "after", "1")
			const said = "== CRITICAL == This replica is sending an error to its master: 'WRONGTYPE Operation against a key holding the wrong kind of value' after processing the command 'rpush'"
			r.waitLog(said)
			if how == "ignore" {
				eventually(t, "it goes on", func() bool { return do(t, rc, "GET", "after").Text() == "1" })
				if n := infoInt(t, rc, "unexpected_error_replies"); n != 1 {
					t.Errorf("unexpected_error_replies:%d", n)
				}
				return
			}
			if err := r.WaitExit(limit); err != nil {
				t.Fatal(err)
			}
			if r.ExitCode() != 1 || !strings.Contains(r.Output(), "Guru Meditation: This replica panicked sending an error to its master after processing the command 'rpush'") {
				t.Errorf("it ended with code %d:\n%s", r.ExitCode(), tail(r.Output(), 2000))
			}
		})
	}
}

// rdb-key-save-delay and key-load-delay, which tests of Redis slow it down by.
func TestDelaysPerKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startIn(t, dir, "--save", "", "--appendonly", "no", debugOn, "yes", "--rdb-key-save-delay", "2000000000")
	c := s.dial()
	must(t, c, "DEBUG", "POPULATE", "100")
	must(t, c, "BGSAVE")
	eventually(t, "the snapshot runs", func() bool { return info(t, c, "rdb_bgsave_in_progress") == "1" })
	must(t, c, "CONFIG", "SET", "rdb-key-save-delay", "0")
	if info(t, c, "rdb_bgsave_in_progress") != "1" {
		t.Error("a snapshot of two days is over")
	}
	wantText(t, c, "ERR Background save already in progress", "SAVE")
	must(t, c, "FLUSHALL") // which breaks it off
	eventually(t, "it was broken off", func() bool { return info(t, c, "rdb_bgsave_in_progress") == "0" })
	must(t, c, "DEBUG", "POPULATE", "100")
	must(t, c, "SAVE")
	s.Kill()

	slow := launch(t, serverArgv(), dir, nil, "--save", "", "--appendonly", "no", "--key-load-delay", "2000000000")
	var lc *proc.Conn
	eventually(t, "it accepts while it loads", func() (ok bool) {
		nc, err := proc.Dial(slow.port, limit)
		if err == nil {
			lc = nc
			t.Cleanup(nc.Close)
		}
		return err == nil
	})
	eventually(t, "it is loading", func() bool { return strings.HasPrefix(do(t, lc, "GET", "key:1").Str, "LOADING ") })
	must(t, lc, "CONFIG", "SET", "key-load-delay", "0")
	eventually(t, "it has loaded", func() bool { return do(t, lc, "DBSIZE").Int == 100 })
}

// active-expire-effort: more of it finds as many expired keys, and no fewer.
func TestActiveExpireEffortFindsExpiredKeys(t *testing.T) {
	t.Parallel()
	for _, effort := range []int{1, 10} {
		s := start(t, "--appendonly", "no", "--active-expire-effort", strconv.Itoa(effort))
		c := s.dial()
		for i := range 3000 {
			c.Send("SET", "k"+strconv.Itoa(i), "v", "PX", "1")
		}
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
		for range 3000 {
			if v, err := c.Recv(); err != nil || v.Err() != nil {
				t.Fatal(err, v.Err())
			}
		}
		eventually(t, fmt.Sprintf("effort %d removes all of them", effort), func() bool { return do(t, c, "DBSIZE").Int == 0 })
	}
}

// syslog-enabled on a system whose syslog does not answer: the server runs.
func TestSyslogWithoutSyslog(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "own.log")
	s := start(t, "--syslog-enabled", "yes", "--syslog-ident", "holdfast-test", "--logfile", log)
	must(t, s.dial(), "SET", "k", "v")
	if b, err := os.ReadFile(log); err != nil || !strings.Contains(string(b), "Ready to accept connections") {
		t.Errorf("the log of its own: %v\n%s", err, b)
	}
	if err := s.Terminate(limit); err != nil || s.ExitCode() != 0 {
		t.Errorf("it ended with %d, %v", s.ExitCode(), err)
	}
}

// Redis: SAVE and BGSAVE are refused while a snapshot goes to replicas, which is
// not broken off by them.
func TestSaveDoesNotBreakOffASynchronisation(t *testing.T) {
	t.Parallel()
	for _, diskless := range []string{"yes", "no"} {
		m := start(t, "--appendonly", "no", debugOn, "yes", "--repl-diskless-sync", diskless, "--repl-diskless-sync-delay", "0", "--rdb-key-save-delay", "2000000000")
		c := m.dial()
		must(t, c, "DEBUG", "POPULATE", "100")
		r := start(t, "--appendonly", "no", "--replicaof", "127.0.0.1 "+strconv.Itoa(m.port))
		eventually(t, "the snapshot for the replica runs", func() bool { return info(t, c, "rdb_bgsave_in_progress") == "1" })
		for _, cmd := range [][]string{{"SAVE"}, {"BGSAVE"}, {"BGSAVE", "SCHEDULE"}} {
			wantText(t, c, "ERR Background save already in progress", cmd...)
		}
		if info(t, c, "rdb_bgsave_in_progress") != "1" || infoInt(t, c, "sync_full") != 1 {
			t.Errorf("diskless %s: the snapshot for the replica was broken off", diskless)
		}
		must(t, c, "CONFIG", "SET", "rdb-key-save-delay", "0")
		must(t, c, "FLUSHALL")                          // ends a BGSAVE
		must(t, c, "CLIENT", "KILL", "TYPE", "replica") // ends what goes to sockets
		rc := r.dial()
		eventually(t, "the replica is in step", func() bool { return info(t, rc, "master_link_status") == "up" })
	}
}
