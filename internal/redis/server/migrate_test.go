package server_test

import (
	"bufio"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"

	"holdfast/test/proc"
)

// pairs of servers that MIGRATE goes between.
var migratePairs = []struct {
	name             string
	source, target   func(t *testing.T, args ...string) *node
	genuineTakesPart bool
}{
	{"ours to ours", ours, ours, false},
	{"ours to genuine", ours, genuine, true},
	{"genuine to ours", genuine, ours, true},
}

// migrateData are commands that make one key of each kind.
var migrateData = []string{
	"SET s hello", "SET n 12345", "SET long " + strings.Repeat("x", 70_000), "RPUSH l a b 1 2", "SADD is 1 2 300", "SADD set a b c",
	"HSET h f v g 1", "ZADD z 1 a 2.5 b", "SET ttl v PX 100000",
}

// ask sends a command and returns its reply, or its error, as text.
func (n *node) ask(args ...string) string {
	n.t.Helper()
	v, err := n.c.Do(args...)
	if err != nil {
		n.t.Fatalf("%q: %v", args, err)
	}
	if v.Kind == '*' && len(v.List) == 1 {
		v = v.List[0]
	}
	return v.Text()
}

func (n *node) port() string { return strconv.Itoa(n.spec.Port) }

func TestMigrateGoesBothWays(t *testing.T) {
	for _, pair := range migratePairs {
		t.Run(pair.name, func(t *testing.T) {
			if pair.genuineTakesPart {
				needGenuine(t)
			}
			a, b := pair.source(t), pair.target(t)
			b.ask("CONFIG", "SET", "requirepass", "secret")
			b.ask("AUTH", "secret")
			digests := map[string]string{}
			var keys []string
			for _, cmd := range migrateData {
				a.ask(strings.Fields(cmd)...)
				key := strings.Fields(cmd)[1]
				keys = append(keys, key)
				digests[key] = a.ask("DEBUG", "DIGEST-VALUE", key)
			}
			move := func(want string, args ...string) {
				t.Helper()
				if got := a.ask(append([]string{"MIGRATE", "127.0.0.1", b.port()}, args...)...); got != want {
					t.Fatalf("MIGRATE %q: %q, want %q", args, got, want)
				}
			}
			move("ERR Target instance replied with error: NOAUTH Authentication required.", "s", "0", "60000")
			move("ERR Target instance replied with error: WRONGPASS invalid username-password pair or user is disabled.", "s", "0", "60000", "AUTH", "wrong")
			move("ERR Target instance replied with error: ERR DB index is out of range", "s", "99", "60000", "AUTH", "secret")
			b.ask("DEL", "s") // RESTORE came right behind the SELECT that failed, as Redis sends it
			move("OK", "s", "0", "60000", "COPY", "AUTH", "secret")
			move("ERR Target instance replied with error: BUSYKEY Target key name already exists.", "s", "0", "60000", "AUTH", "secret")
			move("OK", "s", "0", "60000", "REPLACE", "AUTH2", "default", "secret")
			move("NOKEY", "s", "0", "60000", "AUTH", "secret")
			move("OK", append([]string{"", "3", "60000", "AUTH", "secret", "KEYS"}, keys...)...)
			if got := a.ask("DBSIZE"); got != "0" {
				t.Errorf("%s keys left", got)
			}
			if got := b.ask("DEBUG", "DIGEST-VALUE", "s"); got != digests["s"] {
				t.Error("the value of s is another one")
			}
			b.ask("SELECT", "3")
			for _, key := range keys[1:] {
				if got := b.ask("DEBUG", "DIGEST-VALUE", key); got != digests[key] {
					t.Errorf("the value of %s is another one", key)
				}
			}
			if ttl, err := strconv.Atoi(b.ask("PTTL", "ttl")); err != nil || ttl < 1 || ttl > 100_000 {
				t.Errorf("PTTL %d %v", ttl, err)
			}
		})
	}
}

// A connection that the target has closed meanwhile is no error.
func TestMigrateReconnectsWhenTheKeptConnectionIsGone(t *testing.T) {
	a, b := ours(t), ours(t)
	for i := range 3 {
		a.ask("SET", "k", "v")
		if got := a.ask("MIGRATE", "127.0.0.1", b.port(), "k", "0", "60000", "REPLACE"); got != "OK" {
			t.Fatalf("round %d: %q", i, got)
		}
		if i == 0 {
			// The connection that found out whether the server is ready may be the last to go.
			eventually(t, "the target has two clients", func() bool { return strings.Count(b.ask("CLIENT", "LIST"), "\n") == 2 })
		}
		b.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	}
}

// deafTarget takes connections and requests, and answers with what reply gives
// and by the end of the connection; with no reply, when over is closed.
func deafTarget(t *testing.T, reply string, over <-chan struct{}) (port string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				if _, err := bufio.NewReader(nc).ReadByte(); err != nil {
					return
				}
				if reply == "" {
					go func() {
						<-over
						_ = nc.(*net.TCPConn).CloseWrite() // the other side may have gone
					}()
				} else {
					_, _ = nc.Write([]byte(reply))
					_ = nc.(*net.TCPConn).CloseWrite()
				}
				// To close with requests unread would break what is being sent.
				_, _ = io.Copy(io.Discard, nc)
			}()
		}
	}()
	_, port, err = net.SplitHostPort(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// The same targets give the same errors as Redis 7.0.15 gives.
func TestMigrateFailsAsRedisDoes(t *testing.T) {
	needGenuine(t)
	free, err := proc.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	defer close(over)
	silent, closes := deafTarget(t, "", over), deafTarget(t, "\r\n", over)
	refuses := deafTarget(t, "+OK\r\n-WHATEVER no\r\n", over)
	half := deafTarget(t, "+OK\r\n+OK\r\n", over)
	for _, args := range [][]string{
		{strconv.Itoa(free), "k", "0", "60000"},
		{"notaport", "k", "0", "60000"},
		{silent, "k", "0", "1000"}, // the only one that waits for it
		{closes, "k", "0", "60000"},
		{refuses, "k", "0", "60000"},
		{half, "", "0", "60000", "KEYS", "k", "k2"},
	} {
		var got [2]string
		for i, start := range []func(*testing.T, ...string) *node{genuine, ours} {
			n := start(t)
			n.ask("MSET", "k", "v", "k2", "v")
			got[i] = n.ask(append([]string{"MIGRATE", "127.0.0.1"}, args...)...) + ", left " + n.ask("EXISTS", "k", "k2")
			n.p.Kill()
		}
		if got[0] != got[1] {
			t.Errorf("MIGRATE %q: genuine %q, ours %q", args, got[0], got[1])
		}
	}
}

// Only who writes to the key waits for a target that does not answer.
func TestMigrateHoldsUpNobodyElse(t *testing.T) {
	n := ours(t)
	over := make(chan struct{})
	silent := deafTarget(t, "", over)
	n.ask("MSET", "k", "v", "other", "v")
	mover, writer := n.another(), n.another()
	mover.Send("MIGRATE", "127.0.0.1", silent, "k", "0", "60000")
	if err := mover.Flush(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "MIGRATE waits", func() bool { return n.info("blocked_clients") == "1" })
	writer.Send("APPEND", "k", "w")
	if err := writer.Flush(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the writer waits", func() bool { return n.info("blocked_clients") == "2" })
	if got := n.ask("APPEND", "other", "w") + n.ask("GET", "k"); got != "2v" {
		t.Errorf("others got %q", got)
	}
	close(over)
	for c, want := range map[*proc.Conn]string{mover: "IOERR error or timeout reading to target instance", writer: "2"} {
		v, err := c.Recv()
		if err != nil || v.Text() != want {
			t.Errorf("got %q %v, want %q", v.Text(), err, want)
		}
	}
	if got := n.ask("GET", "k"); got != "vw" {
		t.Errorf("the key is %q", got)
	}
}

func (n *node) another() *proc.Conn {
	n.t.Helper()
	c, err := proc.Dial(n.spec.Port, patience)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(c.Close)
	return c
}

// The replica of a source hears of DEL, not of MIGRATE.
func TestMigrateReachesReplicasAsDel(t *testing.T) {
	a, b := ours(t), ours(t)
	r := ours(t, "--replicaof", "127.0.0.1 "+a.port())
	eventually(t, "the link is up", func() bool { return r.info("master_link_status") == "up" })
	a.ask("MSET", "k", "v", "stays", "v")
	a.ask("MIGRATE", "127.0.0.1", b.port(), "k", "0", "60000")
	if got := a.ask("WAIT", "1", "60000"); got != "1" {
		t.Fatalf("WAIT: %s", got)
	}
	if got := r.ask("EXISTS", "k") + r.ask("EXISTS", "stays"); got != "01" {
		t.Errorf("on the replica: %q", got)
	}
}
