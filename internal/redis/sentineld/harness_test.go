package sentineld

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/redis/resp"
	"holdfast/test/proc"
)

// freePort is a port that nobody listens on.
func freePort(t *testing.T) int {
	t.Helper()
	port, err := proc.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func needGenuine(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			t.Skipf("%s is not installed", n)
		}
	}
}

// child is a process of the test, ended with it.
type child struct {
	t       *testing.T
	name    string
	port    int
	dir     string
	cmd     *exec.Cmd
	restart func() *exec.Cmd
	answers func() error
	done    chan struct{}
}

func (p *child) start() {
	p.t.Helper()
	p.cmd = p.restart()
	log, err := os.OpenFile(filepath.Join(p.dir, p.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		p.t.Fatal(err)
	}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	_ = log.Close() // the child has its own
	p.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait() // killed, most of the time
		close(done)
	}(p.cmd, p.done)
	waitFor(p.t, p.name+" answers", p.answers)
}

func (p *child) kill() {
	_ = p.cmd.Process.Kill() // it may be gone already
	<-p.done
}

func (p *child) logText() string {
	b, err := os.ReadFile(filepath.Join(p.dir, p.name+".log"))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func newProcess(t *testing.T, name string, port int, dir string, command func() *exec.Cmd) *child {
	t.Helper()
	return newChild(t, name, port, dir, command, func() error { _, err := call(port, "PING"); return err })
}

// newChild starts a process, which is there when answers has no complaint.
func newChild(t *testing.T, name string, port int, dir string, command func() *exec.Cmd, answers func() error) *child {
	t.Helper()
	p := &child{t: t, name: name, port: port, dir: dir, restart: command, answers: answers}
	t.Cleanup(func() {
		if p.cmd != nil {
			p.kill()
		}
		if t.Failed() {
			t.Logf("log of %s:\n%s", p.name, p.logText())
		}
	})
	p.start()
	return p
}

func startServer(t *testing.T, name string, masterPort int) *child {
	t.Helper()
	port, dir := freePort(t), t.TempDir()
	conf := filepath.Join(dir, "redis.conf")
	text := fmt.Sprintf("port %d\nbind 127.0.0.1\nsave \"\"\ndir %s\nrepl-diskless-sync-delay 0\n", port, dir)
	if masterPort != 0 {
		text += fmt.Sprintf("replicaof 127.0.0.1 %d\n", masterPort)
	}
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return newProcess(t, name, port, dir, func() *exec.Cmd { return exec.Command("redis-server", conf) })
}

// sentinelConf is sentinel.conf for a test.
func sentinelConf(t *testing.T, port, masterPort int, more ...string) (dir, path string) {
	t.Helper()
	dir = t.TempDir()
	path = filepath.Join(dir, "sentinel.conf")
	text := fmt.Sprintf("# kept\nport %d\nbind 127.0.0.1\ndir %s\nsentinel monitor mymaster 127.0.0.1 %d 2\n"+
		"sentinel down-after-milliseconds mymaster %s\nsentinel failover-timeout mymaster 6000\n%s\n",
		port, dir, masterPort, calm, strings.Join(more, "\n"))
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, path
}

func startOurs(t *testing.T, name string, masterPort int, more ...string) *child {
	t.Helper()
	port := freePort(t)
	dir, path := sentinelConf(t, port, masterPort, more...)
	return newProcess(t, name, port, dir, oursOn(path))
}

func oursOn(path string) func() *exec.Cmd {
	return func() *exec.Cmd {
		cmd := exec.Command(os.Args[0], path)
		cmd.Env = append(os.Environ(), runAsSentinel+"=1")
		return cmd
	}
}

func startGenuine(t *testing.T, name string, masterPort int) *child {
	t.Helper()
	port := freePort(t)
	dir, path := sentinelConf(t, port, masterPort)
	return newProcess(t, name, port, dir, func() *exec.Cmd { return exec.Command("redis-sentinel", path) })
}

// What down-after-milliseconds is: calm while nobody is to be missed, however
// busy the machine is; brisk once somebody is gone. The genuine Sentinel
// reconnects once a second only: with less than brisk it takes the CLIENT KILL
// of a failover for the death of the new master.
const (
	calm  = "60000"
	brisk = "4000"
)

// patience bounds every wait; it is long because the machine may be busy.
const patience = 60 * time.Second

func waitFor(t *testing.T, what string, ok func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	t.Fatalf("waited %v in vain until %s: %v", patience, what, err)
}

// wire is a client connection of a test.
type wire struct {
	conn net.Conn
	r    *resp.Reader
}

func dial(port int) (*wire, error) {
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), patience)
	if err != nil {
		return nil, err
	}
	return &wire{conn, resp.NewReader(conn)}, nil
}

func (w *wire) do(args ...string) (resp.Value, error) {
	if err := w.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return resp.Value{}, err
	}
	if _, err := w.conn.Write(resp.AppendCommand(nil, args...)); err != nil {
		return resp.Value{}, err
	}
	return w.r.Read()
}

func (w *wire) close() { _ = w.conn.Close() }

// call runs one command on a connection of its own. An error reply is an error.
func call(port int, args ...string) (resp.Value, error) {
	w, err := dial(port)
	if err != nil {
		return resp.Value{}, err
	}
	defer w.close()
	v, err := w.do(args...)
	if err == nil {
		err = v.Err()
	}
	return v, err
}

// fields turns a flat map reply into a map.
func fields(v resp.Value) map[string]string {
	m := map[string]string{}
	for i := 0; i+1 < len(v.Elems); i += 2 {
		m[v.Elems[i].String()] = v.Elems[i+1].String()
	}
	return m
}
