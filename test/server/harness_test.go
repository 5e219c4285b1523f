package server

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/test/proc"
)

var binary string

// limit is the deadline of every wait that is expected to end at once; it is
// long, since the machine may be busy, and a start waits for the disk a dozen
// times, one after the other, each of which may take a second and more.
const limit = 60 * time.Second

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if binary = os.Getenv("HOLDFAST_SERVER_BINARY"); binary != "" {
		return m.Run()
	}
	tmp, err := os.MkdirTemp("", "holdfast-server-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		return 1
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	binary = filepath.Join(tmp, "holdfast")
	if out, err := exec.Command("go", "build", "-o", binary, "holdfast/cmd/holdfast").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "server: go build ./cmd/holdfast: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

func soak(t *testing.T) {
	t.Helper()
	if os.Getenv("HOLDFAST_SOAK") == "" {
		t.Skip("a long form: set HOLDFAST_SOAK=1")
	}
}

// instance is a running server.
type instance struct {
	*proc.Process
	t    *testing.T
	dir  string
	port int
}

func freePort(t *testing.T) int {
	t.Helper()
	port, err := proc.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// launch starts argv on dir without waiting until it serves.
func launch(t *testing.T, argv []string, dir string, env []string, args ...string) *instance {
	t.Helper()
	port := freePort(t)
	p, err := proc.Start(proc.Spec{Argv: argv, Dir: dir, Port: port, Args: args, Env: env})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("log of pid %d:\n%s", p.PID(), tail(p.Output(), 6000))
		}
	})
	return &instance{Process: p, t: t, dir: dir, port: port}
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

var serverArgv = func() []string { return []string{binary, "redis-server"} }

// startIn starts a server on dir and waits until it serves.
func startIn(t *testing.T, dir string, args ...string) *instance {
	t.Helper()
	s := launch(t, serverArgv(), dir, nil, args...)
	if err := s.Ready(limit); err != nil {
		t.Fatal(err)
	}
	return s
}

// start is startIn on a fresh directory, without save points.
func start(t *testing.T, args ...string) *instance {
	t.Helper()
	return startIn(t, t.TempDir(), append([]string{"--save", ""}, args...)...)
}

// genuineIn starts the genuine server on dir; the test is skipped without it.
func genuineIn(t *testing.T, dir string, args ...string) *instance {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("genuine redis-server is not installed")
	}
	s := launch(t, []string{path}, dir, nil, args...)
	if err := s.Ready(limit); err != nil {
		t.Fatal(err)
	}
	return s
}

// dial connects; the connection ends with the test.
func (s *instance) dial() *proc.Conn {
	s.t.Helper()
	c, err := proc.Dial(s.port, limit)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.Close)
	return c
}

// do sends one request on c and fails the test when there is no reply.
func do(t *testing.T, c *proc.Conn, args ...string) proc.Value {
	t.Helper()
	v, err := c.Do(args...)
	if err != nil {
		t.Fatalf("%s: %v", args[0], err)
	}
	return v
}

// must is do for a request that has to succeed, and returns the reply's text.
func must(t *testing.T, c *proc.Conn, args ...string) string {
	t.Helper()
	v := do(t, c, args...)
	if v.Err() != nil {
		t.Fatalf("%s: %v", strings.Join(args, " "), v.Err())
	}
	return v.Text()
}

func wantText(t *testing.T, c *proc.Conn, want string, args ...string) {
	t.Helper()
	if got := do(t, c, args...).Text(); got != want {
		t.Fatalf("%s: %q, want %q", strings.Join(args, " "), got, want)
	}
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	end := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("waited %s in vain: %s", limit, what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func (s *instance) waitLog(text string) {
	s.t.Helper()
	eventually(s.t, "log line with "+text, func() bool { return strings.Contains(s.Output(), text) })
}

// info is one field of INFO.
func info(t *testing.T, c *proc.Conn, field string) string {
	t.Helper()
	for line := range strings.Lines(must(t, c, "INFO", "everything")) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), field+":"); ok {
			return v
		}
	}
	t.Fatalf("INFO has no %s", field)
	return ""
}

func infoInt(t *testing.T, c *proc.Conn, field string) int {
	t.Helper()
	n, err := strconv.Atoi(info(t, c, field))
	if err != nil {
		t.Fatalf("INFO %s: %v", field, err)
	}
	return n
}

// closed reports whether the peer has closed the connection within the limit,
// reading away what it has still sent.
func closed(t *testing.T, nc net.Conn) bool {
	t.Helper()
	if err := nc.SetReadDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	for {
		if _, err := nc.Read(buf); err != nil {
			ne, ok := err.(net.Error)
			return !ok || !ne.Timeout()
		}
	}
}

// digest is DEBUG DIGEST.
func digest(t *testing.T, c *proc.Conn) string {
	t.Helper()
	return must(t, c, "DEBUG", "DIGEST")
}

// fill writes keys of all types of data: n of each.
func fill(t *testing.T, c *proc.Conn, n int) {
	t.Helper()
	sent := 0
	send := func(args ...string) { c.Send(args...); sent++ }
	for i := range n {
		k := strconv.Itoa(i)
		send("SET", "str:"+k, "value of "+k)
		send("RPUSH", "list:"+k, "a", k, "c", strings.Repeat("x", i%200))
		send("SADD", "set:"+k, "m", k, "o")
		send("SADD", "intset:"+k, "1", k)
		send("ZADD", "zset:"+k, "1.5", "a", k, "b")
		send("HSET", "hash:"+k, "f", "v", "g", k)
		send("SET", "ttl:"+k, k, "EX", "100000")
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	for range sent {
		if v, err := c.Recv(); err != nil || v.Err() != nil {
			t.Fatal(err, v.Err())
		}
	}
}

const debugOn = "--enable-debug-command"
