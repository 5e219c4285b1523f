package server_test

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"holdfast/test/proc"
)

// another is one more connection to n, with a name.
func another(t *testing.T, n *node, name string) *proc.Conn {
	t.Helper()
	c, err := proc.Dial(n.spec.Port, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if _, err := c.Must("CLIENT", "SETNAME", name); err != nil {
		t.Fatal(err)
	}
	return c
}

// clientField is a field of CLIENT LIST, -1 when there is no client of the name.
func clientField(n *node, name, field string) int {
	n.t.Helper()
	for line := range strings.Lines(n.do("CLIENT", "LIST").Text()) {
		if strings.Contains(line, " name="+name+" ") {
			m := regexp.MustCompile(` ` + field + `=(\d+)`).FindStringSubmatch(line)
			v, err := strconv.Atoi(m[1])
			if err != nil {
				n.t.Fatal(err)
			}
			return v
		}
	}
	return -1
}

// What a half-read request has of arguments, and what of unread bytes, is told
// apart as in Redis, and both count as the client's memory.
func TestHalfARequestIsCounted(t *testing.T) {
	for _, n := range []*node{ours(t, "--save", "", "--appendonly", "no"), genuineOrNil(t)} {
		if n == nil {
			continue
		}
		c := another(t, n, "half")
		if err := c.Raw([]byte("*3\r\n$3\r\nSET\r\n$5\r\nabcde\r\n$200000\r\n" + strings.Repeat("x", 100_000))); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the bytes have come", func() bool { return clientField(n, "half", "qbuf") == 100_000 })
		if got := clientField(n, "half", "argv-mem"); got != 8 {
			t.Errorf("genuine %v: argv-mem is %d, want 8", n.genuine, got)
		}
		if got := clientField(n, "half", "tot-mem"); got < 100_000 {
			t.Errorf("genuine %v: tot-mem is %d", n.genuine, got)
		}
		m := another(t, n, "queue")
		for _, cmd := range [][]string{{"MULTI"}, {"SET", "k", strings.Repeat("v", 1000)}, {"GET", "k"}} {
			if _, err := m.Must(cmd...); err != nil {
				t.Fatal(err)
			}
		}
		if got, want := clientField(n, "queue", "multi-mem"), 5*8+1004+4; got != want {
			t.Errorf("genuine %v: multi-mem is %d, want %d", n.genuine, got, want)
		}
	}
}

// Room for a large argument counts as soon as its length is known, before any
// of it has come.
func TestRoomForAnAnnouncedArgumentIsCounted(t *testing.T) {
	for _, n := range []*node{ours(t, "--save", "", "--appendonly", "no"), genuineOrNil(t)} {
		if n == nil {
			continue
		}
		c := another(t, n, "announced")
		if err := c.Raw([]byte("*3\r\n$3\r\nset\r\n$1\r\na\r\n$1000000\r\n")); err != nil {
			t.Fatal(err)
		}
		eventually(t, "room for the argument", func() bool {
			return clientField(n, "announced", "qbuf")+clientField(n, "announced", "qbuf-free") >= 1_000_000
		})
	}
}

// genuineOrNil is a genuine server, nil where none is installed.
func genuineOrNil(t *testing.T) *node {
	n := genuineOrOurs(t)
	if !n.genuine {
		return nil
	}
	return n
}

// Watched keys, subscriptions and what waits to be sent count for
// maxmemory-clients, and a client that asked for it is spared.
func TestAllThatAClientHoldsCounts(t *testing.T) {
	n := ours(t, "--save", "", "--appendonly", "no", "--maxmemory-clients", "200000")
	n.do("CLIENT", "NO-EVICT", "on")
	for _, cmd := range []string{"WATCH", "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"} {
		c := another(t, n, cmd)
		var err error
		for i := 0; i < 20_000 && err == nil; i++ {
			_, err = c.Do(cmd, strconv.Itoa(i))
		}
		if err == nil {
			t.Errorf("a client with 20000 of %s was kept", cmd)
		}
	}
	spared := another(t, n, "spared")
	if _, err := spared.Must("CLIENT", "NO-EVICT", "on"); err != nil {
		t.Fatal(err)
	}
	if err := spared.Raw([]byte("*1\r\n$400000\r\n" + strings.Repeat("x", 300_000))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the large request has come", func() bool { return clientField(n, "spared", "qbuf") == 300_000 })
	if got := n.info("evicted_clients"); got != "4" {
		t.Errorf("%s clients were evicted, want 4", got)
	}
}

// Behind the reply that goes beyond the output limit nothing of a pipeline is
// executed, but a transaction is executed as a whole.
func TestOutputLimitEndsAPipeline(t *testing.T) {
	n := ours(t, "--save", "", "--appendonly", "no", "--client-output-buffer-limit", "normal 100000 0 0")
	n.do("SETRANGE", "big", "200000", "v")
	for i, batch := range [][][]string{
		{{"GET", "big"}, {"SET", "after", "x"}},
		{{"MULTI"}, {"GET", "big"}, {"SET", "inside", "x"}, {"EXEC"}, {"SET", "after", "x"}},
	} {
		name := fmt.Sprint("batch", i)
		c := another(t, n, name)
		for _, cmd := range batch {
			c.Send(cmd...)
		}
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the client is closed", func() bool { return clientField(n, name, "fd") == -1 })
	}
	if got := n.do("EXISTS", "after").Int; got != 0 {
		t.Error("a command behind the limit was executed")
	}
	if got := n.do("EXISTS", "inside").Int; got != 1 {
		t.Error("a part of the transaction is missing")
	}
}

// A transaction that writes and then makes a replica of the server: the replicas
// of before do not hear of it, and the server lives.
func TestBecomingAReplicaInsideATransaction(t *testing.T) {
	m, r := ours(t, "--save", "", "--appendonly", "no"), ours(t, "--save", "", "--appendonly", "no")
	r.replicate(m)
	r.linked()
	m.do("SET", "before", "x")
	eventually(t, "the replica has it", func() bool { return r.do("EXISTS", "before").Int == 1 })
	port, err := proc.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	m.do("MULTI")
	m.do("SET", "inside", "x")
	m.do("REPLICAOF", "127.0.0.1", strconv.Itoa(port))
	m.do("SET", "behind", "x")
	m.do("EXEC")
	m.fails("READONLY", "SET", "later", "x")
	m.do("REPLICAOF", "NO", "ONE")
	m.do("SET", "again", "x")
	same(t, m, r)
}

// What expired while a master was down is told to replicas that go on where
// they were.
func TestReplicasLearnWhatExpiredMeanwhile(t *testing.T) {
	m := ours(t, "--appendonly", "no", "--save", "3600 1", "--repl-ping-replica-period", "3600")
	r := ours(t, "--save", "", "--appendonly", "no")
	r.replicate(m)
	r.linked()
	m.do("DEBUG", "SET-ACTIVE-EXPIRE", "0")
	m.do("SET", "stays", "x")
	m.do("SELECT", "3")
	for i := range 50 {
		m.do("SET", strconv.Itoa(i), "x", "PX", "1")
	}
	m.do("SELECT", "0")
	eventually(t, "the replica has them", func() bool {
		return r.info("master_repl_offset") == m.info("master_repl_offset") && strings.HasPrefix(r.info("db3"), "keys=50,")
	})
	m.p.Signal(syscall.SIGTERM)
	if err := m.p.WaitExit(patience); err != nil {
		t.Fatal(err)
	}
	m.start()
	if got := m.info("rdb_last_load_keys_expired"); got != "50" {
		t.Errorf("%s keys had expired, want 50", got)
	}
	eventually(t, "the replica goes on", func() bool { return m.info("sync_partial_ok") == "1" })
	same(t, m, r)
	if got := m.info("sync_full"); got != "0" {
		t.Errorf("%s full resynchronizations", got)
	}
	if got := r.info("db3"); got != "" {
		t.Errorf("the replica has %s", got)
	}
}

// CLIENT PAUSE on a replica keeps back what its master sends, which is read
// and applied when the pause is over.
func TestPauseKeepsBackTheMastersStream(t *testing.T) {
	m, r := ours(t, "--save", "", "--repl-ping-replica-period", "3600"), ours(t, "--save", "")
	r.replicate(m)
	r.linked()
	m.do("SET", "a", "1")
	eventually(t, "the replica has it", func() bool { return r.do("GET", "a").Text() == "1" })
	r.do("CLIENT", "PAUSE", "100000", "WRITE")
	before := r.info("slave_repl_offset")
	m.do("SET", "a", "2")
	eventually(t, "the stream has come", func() bool { return r.info("slave_read_repl_offset") == m.info("master_repl_offset") })
	if got := r.info("slave_repl_offset"); got != before {
		t.Errorf("the offset moved from %s to %s", before, got)
	}
	if got := r.do("GET", "a").Text(); got != "1" {
		t.Errorf("the replica has %s", got)
	}
	r.do("CLIENT", "UNPAUSE")
	same(t, m, r)
	if got := r.do("GET", "a").Text(); got != "2" {
		t.Errorf("the replica has %s", got)
	}
}

// A shutdown by signal waits for the timer, can be called off, and asked for
// again.
func TestASignalCanBeCalledOff(t *testing.T) {
	n := ours(t, "--save", "")
	n.do("DEBUG", "PAUSE-CRON", "1")
	n.p.Signal(syscall.SIGTERM)
	eventually(t, "the signal has come", func() bool { return n.logged("Received SIGTERM scheduling shutdown...") })
	eventually(t, "it is called off", func() bool { v, err := n.c.Do("SHUTDOWN", "ABORT"); return err == nil && v.Err() == nil })
	n.do("DEBUG", "PAUSE-CRON", "0")
	n.do("PING")
	n.p.Signal(syscall.SIGTERM)
	if err := n.p.WaitExit(patience); err != nil {
		t.Fatal(err)
	}
	if code := n.p.ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
