package server_test

import "testing"

// Keys that clients give a writable replica expire there: its master, which
// deletes all others, does not know them.
func TestWritableReplicaExpiresItsOwnKeys(t *testing.T) {
	t.Parallel()
	m, r := ours(t), ours(t, "--replica-read-only", "no")
	// Neither end expires anything by itself until all is in place, and the transaction has one time for all its
	// commands: however slow the machine is, the keys are there when they are counted.
	m.do("DEBUG", "SET-ACTIVE-EXPIRE", "0")
	r.do("DEBUG", "SET-ACTIVE-EXPIRE", "0")
	m.do("SET", "theirs", "x", "PX", "600")
	r.replicate(m)
	r.linked()
	for _, args := range [][]string{{"MULTI"}, {"SET", "a", "1", "PX", "500"}, {"PSETEX", "b", "500", "1"}, {"SET", "c", "1"}, {"PEXPIRE", "c", "500"},
		{"COPY", "a", "d"}, {"SET", "stays", "1", "PX", "500"}, {"PERSIST", "stays"}, {"EXEC"}} {
		r.do(args...)
	}
	if got := r.info("slave_expires_tracked_keys"); got != "5" {
		t.Errorf("%s keys are looked after, want 5", got)
	}
	r.do("DEBUG", "SET-ACTIVE-EXPIRE", "1")
	eventually(t, "only what the master has, and what does not expire, is left", func() bool { return r.do("DBSIZE").Int == 2 })
	if got := r.info("expired_keys"); got != "4" {
		t.Errorf("%s keys have expired, want 4", got)
	}
	eventually(t, "nothing is looked after any more", func() bool { return r.info("slave_expires_tracked_keys") == "0" })
}

// Behind a full synchronisation a key of the same name is the master's to expire.
func TestWritableReplicaForgetsItsOwnKeysWithAllOthers(t *testing.T) {
	t.Parallel()
	m, r := ours(t), ours(t, "--replica-read-only", "no")
	m.do("SET", "k", "theirs", "PX", "1000000")
	r.replicate(m)
	r.linked()
	for _, empty := range []func(){
		func() { r.do("FLUSHALL") },
		func() {
			r.do("REPLICAOF", "NO", "ONE")
			r.do("SET", "apart", "1") // so that the histories differ
			r.replicate(m)
			r.linked()
		},
	} {
		r.do("SET", "k", "1", "PX", "100000")
		if got := r.info("slave_expires_tracked_keys"); got != "1" {
			t.Errorf("%s keys are looked after, want 1", got)
		}
		empty()
		if got := r.info("slave_expires_tracked_keys"); got != "0" {
			t.Errorf("%s keys are looked after though all are gone, want 0", got)
		}
	}
}
