package server_test

import (
	"strings"
	"syscall"
	"testing"
)

// slowTransfer is a master that sends its data to two replicas, of which the
// second takes it slowly; it returns when both load.
func slowTransfer(t *testing.T) (m, fast, slow *node) {
	t.Helper()
	m = ours(t, "--appendonly", "no", "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "600",
		"--repl-diskless-sync-max-replicas", "2", "--rdbcompression", "no")
	m.do("DEBUG", "POPULATE", "2000", "key", "10000")
	fast = ours(t, "--appendonly", "no", "--repl-diskless-load", "swapdb")
	slow = ours(t, "--appendonly", "no", "--repl-diskless-load", "swapdb", "--key-load-delay", "50000") // 100 s in all
	fast.replicate(m)
	slow.replicate(m)
	for _, r := range []*node{fast, slow} {
		eventually(t, "the replica loads", func() bool { return r.logged("Loading DB in memory") })
	}
	fast.linked()
	return m, fast, slow
}

func (n *node) kill() { n.p.Signal(syscall.SIGKILL) }

const stillUp = "Diskless rdb transfer, done reading from pipe, "

// A transfer to several replicas lasts until the slowest has all of it or is
// gone, and its end is logged as in Redis.
func TestTransferLastsUntilTheSlowestHasIt(t *testing.T) {
	t.Parallel()
	ended := func(t *testing.T, m *node) {
		t.Helper()
		eventually(t, "the transfer ends", func() bool { return m.info("rdb_bgsave_in_progress") == "0" })
	}
	t.Run("slow", func(t *testing.T) {
		t.Parallel()
		m, _, slow := slowTransfer(t)
		if got := m.info("rdb_bgsave_in_progress"); got != "1" {
			t.Errorf("rdb_bgsave_in_progress is %s while a replica still reads", got)
		}
		slow.kill()
		ended(t, m)
		eventually(t, "the log says who is left", func() bool { return m.logged(stillUp + "1 replicas still up.") })
	})
	t.Run("all", func(t *testing.T) {
		t.Parallel()
		m, fast, slow := slowTransfer(t)
		fast.kill()
		eventually(t, "the fast one is missed", func() bool { return m.info("connected_slaves") == "1" })
		slow.kill()
		ended(t, m)
		eventually(t, "the log says that nobody is left", func() bool {
			return m.logged("# Diskless rdb transfer, last replica dropped, killing fork child.")
		})
		if m.logged(stillUp) {
			t.Errorf("the log says that somebody is left:\n%s", m.p.Output())
		}
	})
	t.Run("no", func(t *testing.T) {
		t.Parallel()
		m, fast, slow := slowTransfer(t)
		slow.do("CONFIG", "SET", "key-load-delay", "0")
		slow.linked()
		ended(t, m)
		eventually(t, "the log counts both", func() bool { return m.logged(stillUp + "2 replicas still up.") })
		same(t, m, fast, slow)
	})
}

// A snapshot to the disk that was begun for replicas ends with the last of them,
// unless the server saves by itself; and that it was ended is no error.
func TestSnapshotEndsWithTheLastReplica(t *testing.T) {
	t.Parallel()
	for _, save := range []string{"", "900 1"} {
		t.Run("save "+save, func(t *testing.T) {
			t.Parallel()
			m := ours(t, "--appendonly", "no", "--repl-diskless-sync", "no", "--rdb-key-save-delay", "500000", "--save", save)
			m.do("DEBUG", "POPULATE", "100")
			r := ours(t, "--appendonly", "no")
			r.replicate(m)
			eventually(t, "the replica waits", func() bool {
				return strings.Contains(m.info("slave0"), "state=wait_bgsave") && m.info("rdb_bgsave_in_progress") == "1"
			})
			r.do("REPLICAOF", "NO", "ONE")
			if save != "" {
				eventually(t, "the replica is missed", func() bool { return m.info("connected_slaves") == "0" })
				if got := m.info("rdb_bgsave_in_progress"); got != "1" {
					t.Error("a snapshot that is of use was ended")
				}
				m.do("CONFIG", "SET", "rdb-key-save-delay", "0")
				return
			}
			eventually(t, "the snapshot ends", func() bool { return m.info("rdb_bgsave_in_progress") == "0" })
			if got := m.info("rdb_last_bgsave_status"); got != "ok" {
				t.Errorf("rdb_last_bgsave_status is %s", got)
			}
		})
	}
}

// A connection that breaks while a replica loads from it is made again at once,
// and the log says what broke in the words of Redis.
func TestBrokenTransferIsTriedAgain(t *testing.T) {
	t.Parallel()
	for load, words := range map[string]string{"swapdb": "Internal error in RDB reading offset", "disabled": "I/O error trying to sync with MASTER: connection lost"} {
		t.Run(load, func(t *testing.T) {
			t.Parallel()
			m := ours(t, "--appendonly", "no", "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0",
				"--rdb-key-save-delay", "50000", "--rdbcompression", "no")
			m.do("DEBUG", "POPULATE", "400", "key", "10000")
			r := ours(t, "--appendonly", "no", "--repl-diskless-load", load)
			r.do("SET", "mine", "x")
			r.replicate(m)
			eventually(t, "the data comes", func() bool {
				return m.info("rdb_bgsave_in_progress") == "1" && r.logged("receiving streamed RDB from master")
			})
			m.do("CONFIG", "SET", "rdb-key-save-delay", "0")
			m.do("CLIENT", "KILL", "TYPE", "replica")
			eventually(t, "the end is logged", func() bool { return r.logged(words) && r.logged("after failure") })
			r.linked()
			same(t, m, r)
		})
	}
}

// A replica that waits for a snapshot is closed when what it needs behind it is
// not kept any more: the snapshot would be of no use to it.
func TestReplicaThatCannotContinueIsNotKept(t *testing.T) {
	t.Parallel()
	m := ours(t, "--appendonly", "no", "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0",
		"--rdb-key-save-delay", "1000000", "--repl-backlog-size", "16384", "--client-output-buffer-limit", "replica 0 0 0")
	m.do("DEBUG", "POPULATE", "100")
	r := ours(t, "--appendonly", "no")
	r.replicate(m)
	eventually(t, "the replica waits", func() bool { return m.info("rdb_bgsave_in_progress") == "1" })
	value := strings.Repeat("x", 100_000)
	for range 30 {
		m.do("SET", "k", value)
	}
	if m.logged("overcoming of output buffer limits") {
		t.Error("closed although there is no limit")
	}
	r.freeze()
	defer r.p.Signal(syscall.SIGCONT)
	m.do("CONFIG", "SET", "client-output-buffer-limit", "replica 128k 0 0")
	eventually(t, "the replica is closed", func() bool {
		return m.logged("overcoming of output buffer limits") && m.info("connected_slaves") == "0"
	})
}
