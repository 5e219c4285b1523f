package server_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"holdfast/test/proc"
)

// These tests take the steps of Redis's own suite where they look at what a
// server says beside its replies; each goes through them with the genuine server
// as well, where it is installed.

// members is a command with n members of their own each.
func members(n int, words ...string) []string {
	for i := range n {
		words = append(words, fmt.Sprintf("m%d", i))
	}
	return words
}

// unit/lazyfree: lazyfreed_objects counts what takes more than 64 steps to free,
// and all keys of databases that are flushed asynchronously.
func TestLazyFreedObjectsAreCountedAsInRedis(t *testing.T) {
	t.Parallel()
	ints := []string{"RPUSH", "k"}
	for i := range 2000 {
		ints = append(ints, strconv.Itoa(i))
	}
	mset := []string{"MSET"}
	for i := range 100 {
		mset = append(mset, strconv.Itoa(i), "v")
	}
	set := members(200, "SADD", "k")
	cases := []struct {
		name, config string // the directive is "yes" for the case
		first        [][]string
		last         []string
		want         string
	}{
		{"a set of 64", "", [][]string{members(64, "SADD", "k")}, []string{"UNLINK", "k"}, "0"},
		{"a set of 65", "", [][]string{members(65, "SADD", "k")}, []string{"UNLINK", "k"}, "1"},
		{"a list of one node", "", [][]string{ints}, []string{"UNLINK", "k"}, "0"},
		{"DEL", "", [][]string{set}, []string{"DEL", "k"}, "0"},
		{"DEL with lazyfree-lazy-user-del", "lazyfree-lazy-user-del", [][]string{set}, []string{"DEL", "k"}, "1"},
		{"SET", "", [][]string{set}, []string{"SET", "k", "v"}, "0"},
		{"SET with lazyfree-lazy-server-del", "lazyfree-lazy-server-del", [][]string{set}, []string{"SET", "k", "v"}, "1"},
		{"RENAME with lazyfree-lazy-server-del", "lazyfree-lazy-server-del", [][]string{set, {"SET", "a", "v"}}, []string{"RENAME", "a", "k"}, "1"},
		{"COPY with lazyfree-lazy-server-del", "lazyfree-lazy-server-del", [][]string{set, {"SET", "a", "v"}}, []string{"COPY", "a", "k", "REPLACE"}, "1"},
		{"SORT STORE with lazyfree-lazy-server-del", "lazyfree-lazy-server-del", [][]string{set, {"RPUSH", "a", "1"}}, []string{"SORT", "a", "STORE", "k"}, "1"},
		{"FLUSHALL", "", [][]string{mset}, []string{"FLUSHALL"}, "0"},
		{"FLUSHALL ASYNC", "", [][]string{mset}, []string{"FLUSHALL", "ASYNC"}, "100"},
		{"FLUSHDB SYNC", "", [][]string{mset}, []string{"FLUSHDB", "SYNC"}, "0"},
		{"FLUSHDB ASYNC", "", [][]string{mset, set}, []string{"FLUSHDB", "ASYNC"}, "101"},
		{"FLUSHDB with lazyfree-lazy-user-flush", "lazyfree-lazy-user-flush", [][]string{mset}, []string{"FLUSHDB"}, "100"},
	}
	for _, n := range both(t, "--save", "", "--appendonly", "no") {
		settled := func() bool { return n.info("lazyfree_pending_objects") == "0" }
		for _, c := range cases {
			n.do("FLUSHALL", "SYNC")
			eventually(t, "nothing waits to be freed", settled)
			if c.config != "" {
				n.do("CONFIG", "SET", c.config, "yes")
			}
			for _, args := range c.first {
				n.do(args...)
			}
			n.do("CONFIG", "RESETSTAT")
			n.do(c.last...)
			eventually(t, "all is freed", settled)
			if got := n.info("lazyfreed_objects"); got != c.want {
				t.Errorf("genuine %v, %s: %s, want %s", n.genuine, c.name, got, c.want)
			}
			if c.config != "" {
				n.do("CONFIG", "SET", c.config, "no")
			}
		}
	}
}

// unit/latency-monitor: what deleting a large key takes is an event of its own,
// and no part of the command that came behind.
func TestLatencyOfDeletionsByTheServer(t *testing.T) {
	t.Parallel()
	for _, n := range both(t, "--save", "", "--appendonly", "no") {
		events := func() (names []string) {
			for _, e := range n.do("LATENCY", "LATEST").List {
				names = append(names, e.List[0].Str)
			}
			return names
		}
		has := func(what string, want ...string) {
			t.Helper()
			eventually(t, fmt.Sprintf("genuine %v: %s are events when a key %s", n.genuine, want, what), func() bool {
				names := events()
				return !slices.ContainsFunc(want, func(w string) bool { return !slices.Contains(names, w) })
			})
		}
		fill := func() {
			for i := range 8 {
				args := []string{"SADD", "big"}
				for j := range 50_000 {
					args = append(args, fmt.Sprintf("member:%d:%d", i, j))
				}
				n.do(args...)
			}
			n.do("CONFIG", "SET", "latency-monitor-threshold", "1")
			n.do("LATENCY", "RESET")
		}
		n.do("DEBUG", "SET-ACTIVE-EXPIRE", "0")
		fill()
		n.do("PEXPIRE", "big", "1")
		eventually(t, "the key expires", func() bool { return n.do("EXISTS", "big").Int == 0 })
		has("expires", "expire-del")
		n.do("CONFIG", "SET", "latency-monitor-threshold", "0", "maxmemory-policy", "allkeys-random")
		fill()
		n.do("CONFIG", "SET", "maxmemory", "1")
		eventually(t, "the key is evicted", func() bool { return n.do("DBSIZE").Int == 0 })
		has("is evicted", "eviction-del", "eviction-cycle")
	}
}

// integration/logging: with a watchdog-period, the log says what goes on when a
// command takes longer; the period is at least two of the timer's.
func TestWatchdogSaysWhatTakesLong(t *testing.T) {
	t.Parallel()
	const said = "--- WATCHDOG TIMER EXPIRED ---"
	for _, n := range both(t, "--save", "", "--appendonly", "no") {
		n.do("CONFIG", "SET", "watchdog-period", "10")
		if got := n.do("CONFIG", "GET", "watchdog-period").List[1].Str; got != "200" {
			t.Errorf("genuine %v: the period is %s ms", n.genuine, got)
		}
		n.do("DEBUG", "SLEEP", "1")
		eventually(t, "the watchdog speaks", func() bool { return n.logged(said) && n.logged("------ STACK TRACE ------") })
		n.do("CONFIG", "SET", "watchdog-period", "0")
		before := strings.Count(n.p.Output(), said)
		n.do("DEBUG", "SLEEP", "0.5")
		if after := strings.Count(n.p.Output(), said); after != before {
			t.Errorf("genuine %v: it speaks although it was switched off", n.genuine)
		}
	}
}

// A CONFIG SET that cannot be put into force says why, and that it was given up.
func TestLogOfAConfigSetThatFails(t *testing.T) {
	t.Parallel()
	taken := ours(t, "--save", "", "--appendonly", "no")
	for _, n := range both(t, "--save", "", "--appendonly", "no") {
		refused := func(because, name, value string, lines ...string) {
			t.Helper()
			n.fails("(possibly related to argument '"+name+"') - "+because, "CONFIG", "SET", name, value)
			lines = append(lines, "Failed applying new configuration. Possibly related to new "+name+" setting. Restoring previous settings.")
			for _, line := range lines {
				eventually(t, fmt.Sprintf("genuine %v: %q is in the log after CONFIG SET %s %s", n.genuine, line, name, value), func() bool { return n.logged(line) })
			}
		}
		refused("Unable to listen on this port. Check server logs.", "port", taken.port(),
			"# Warning: Could not create server TCP listening socket 127.0.0.1:"+taken.port()+": bind: Address already in use")
		refused("Failed to bind to specified addresses.", "bind", "127.0.0.1 192.0.2.77",
			"# Warning: Could not create server TCP listening socket 192.0.2.77:"+n.port()+": bind: Cannot assign requested address", "# Failed to bind")
		refused("Unable to update TLS configuration. Check server logs.", "tls-port", "1", "# No tls-cert-file configured!")
		n.do("PING")
		n.another().Close()
	}
}

// unit/networking: an address that may be missing is told of in the log, too.
func TestLogOfAnAddressThatMayBeMissing(t *testing.T) {
	t.Parallel()
	for _, n := range both(t, "--save", "", "--appendonly", "no") {
		n.do("CONFIG", "SET", "bind", "127.0.0.1 -192.0.2.77")
		want := "Could not create server TCP listening socket 192.0.2.77:" + n.port() + ": bind: Cannot assign requested address"
		eventually(t, fmt.Sprintf("genuine %v: the log has %q", n.genuine, want), func() bool { return n.logged(want) })
	}
}

// A master that is told to follow another offers its own history, empty or not,
// as PSYNC2 has it.
func TestAFirstReplicaofOffersItsOwnHistory(t *testing.T) {
	t.Parallel()
	for _, r := range both(t, "--save", "", "--appendonly", "no") {
		m := ours(t, "--save", "", "--appendonly", "no")
		id := r.info("master_replid")
		r.replicate(m)
		r.linked()
		if got := m.info("sync_partial_err"); got != "1" {
			t.Errorf("genuine %v: sync_partial_err %s", r.genuine, got)
		}
		eventually(t, "the log tells of the end", func() bool { return r.logged("MASTER <-> REPLICA sync: Finished with success") })
		at := 0
		for _, line := range []string{"S * Before turning into a replica,", "Trying a partial resynchronization (request " + id + ":1).", "Full resync from master: ",
			"Discarding previously cached master state.", "MASTER <-> REPLICA sync: Flushing old data"} {
			// The role stands in front of the time.
			if role, text, ok := strings.Cut(line, " * "); ok {
				line = text
				if i := strings.Index(r.p.Output(), text); i < 0 || !strings.Contains(r.p.Output()[:i], ":"+role+" ") {
					t.Errorf("genuine %v: %q is not said by a replica", r.genuine, text)
				}
			}
			i := strings.Index(r.p.Output()[at:], line)
			if i < 0 {
				t.Errorf("genuine %v: the log lacks %q behind what came before", r.genuine, line)
				continue
			}
			at += i
		}
	}
}

// unit/other: the process list shows what proc-title-template says.
func TestProcessTitle(t *testing.T) {
	t.Parallel()
	title := func(n *node) string {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", n.p.PID()))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimRight(string(b), "\x00")
	}
	for _, n := range both(t, "--save", "", "--appendonly", "no") {
		if got, want := title(n), "redis-server 127.0.0.1:"+n.port(); !strings.HasSuffix(got, want) {
			t.Errorf("genuine %v: %q, want %q", n.genuine, got, want)
		}
		dir := n.do("CONFIG", "GET", "dir").List[1].Str
		n.do("CONFIG", "SET", "proc-title-template", "TEST {port} {config-file} {server-mode}{listen-addr}")
		if got, want := title(n), "TEST "+n.port()+" - 127.0.0.1:"+n.port(); got != want {
			t.Errorf("genuine %v: %q, want %q", n.genuine, got, want)
		}
		if got := n.do("CONFIG", "GET", "dir").List[1].Str; got != dir || !filepath.IsAbs(got) {
			t.Errorf("genuine %v: the title has overwritten a value: %q", n.genuine, got)
		}
	}
	for _, n := range both(t, "--save", "", "--set-proc-title", "no") {
		if got := title(n); !strings.Contains(got, "\x00--set-proc-title\x00no") {
			t.Errorf("genuine %v: the title is %q although there is to be none", n.genuine, got)
		}
	}
}

// A signal is told of in the form of the handlers of signals.
func TestSignalIsLoggedAsByAHandler(t *testing.T) {
	t.Parallel()
	for _, n := range both(t, "--save", "", "--appendonly", "no") {
		n.p.Signal(syscall.SIGTERM)
		if err := n.p.WaitExit(patience); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("\n%d:signal-handler (", n.p.PID())
		eventually(t, fmt.Sprintf("genuine %v: the log has %q", n.genuine, want), func() bool {
			return n.logged(want) && n.logged(") Received SIGTERM scheduling shutdown...\n")
		})
	}
}

// A server without a TCP address is ready at its socket only.
func TestReadyLineIsForTCP(t *testing.T) {
	t.Parallel()
	for _, n := range both(t, "--save", "", "--appendonly", "no") {
		n.p.Kill()
		dir := t.TempDir()
		argv := n.spec.Argv
		p, err := proc.Start(proc.Spec{Argv: argv, Dir: dir, Port: 0, Args: []string{"--save", "", "--appendonly", "no", "--unixsocket", filepath.Join(dir, "s")}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Kill)
		eventually(t, "it is ready", func() bool {
			return strings.Contains(p.Output(), "The server is now ready to accept connections at "+filepath.Join(dir, "s"))
		})
		p.Signal(syscall.SIGTERM)
		if err := p.WaitExit(patience); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(p.Output(), "* Ready to accept connections") {
			t.Errorf("genuine %v: it says that it is ready for TCP", n.genuine)
		}
	}
}

// unit/tls: what a TLS directive names must be usable, even where it has no
// effect here; a handshake that fails is told of.
func TestTLSDirectivesThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	certs, err := proc.NewCerts(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"--save", "", "--appendonly", "no"}
	for _, line := range certs.Directives() {
		args = append(args, "--"+strings.Fields(line)[0])
		args = append(args, strings.Fields(line)[1:]...)
	}
	for _, n := range both(t, args...) {
		port, err := proc.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		n.do("CONFIG", "SET", "tls-port", strconv.Itoa(port))
		for _, bad := range [][2]string{{"tls-ciphersuites", "TLS_NONSENSE"}, {"tls-dh-params-file", "/nowhere"}, {"tls-protocols", "SSLv2"}, {"tls-key-file", "/nowhere"}, {"tls-cert-file", ""}} {
			n.fails("(possibly related to argument '"+bad[0]+"') - Unable to update TLS configuration. Check server logs.", "CONFIG", "SET", bad[0], bad[1])
		}
		n.do("CONFIG", "SET", "tls-ciphersuites", "TLS_AES_128_GCM_SHA256")
		plain, err := proc.Dial(port, patience)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = plain.Do("PING") // it is closed
		plain.Close()
		eventually(t, fmt.Sprintf("genuine %v: the log tells of the handshake", n.genuine), func() bool { return n.logged("# Error accepting a client connection: ") })
	}
}
