package script

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"holdfast/test/proc"
)

// deadline bounds every wait; it says nothing about speed.
const deadline = 60 * time.Second

// deployment is a running `holdfast up`.
type deployment struct {
	t    *testing.T
	cmd  *exec.Cmd
	dir  string
	base int
	mu   sync.Mutex
	out  strings.Builder
	done chan struct{}
}

func startUp(t *testing.T, dir string, base int, args ...string) *deployment {
	t.Helper()
	return startUpMode(t, "sentinel", dir, base, args...)
}

func startUpMode(t *testing.T, mode, dir string, base int, args ...string) *deployment {
	t.Helper()
	d := &deployment{t: t, dir: dir, base: base, done: make(chan struct{})}
	// Who is killed stays away until the others have noticed and chosen.
	d.cmd = exec.Command(binary, append([]string{"up", mode, "--dir", dir, "--port", fmt.Sprint(base), "--restart-after", "15s"}, args...)...)
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	d.cmd.Stderr = d.cmd.Stdout
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	go d.read(out, ready)
	t.Cleanup(func() { d.kill() })
	select {
	case <-ready:
	case <-d.done:
		t.Fatalf("up ended before it was ready:\n%s", d.output())
	case <-time.After(deadline):
		t.Fatalf("up is not ready:\n%s", d.output())
	}
	d.calm()
	return d
}

// calm makes the Sentinels of the deployment more patient than the second that
// is right for one: in a test, a machine that is busy with others may keep all
// of a process from running for longer.
func (d *deployment) calm() {
	d.t.Helper()
	for _, m := range d.members() {
		if m.Kind != "sentinel" {
			continue
		}
		c, err := proc.Dial(m.Port, deadline)
		if err != nil {
			d.t.Fatal(err)
		}
		if _, err := c.Must("SENTINEL", "SET", "mymaster", "down-after-milliseconds", "4000"); err != nil {
			d.t.Error(err)
		}
		c.Close()
	}
}

func (d *deployment) read(out io.Reader, ready chan struct{}) {
	defer close(d.done)
	once := sync.OnceFunc(func() { close(ready) })
	for sc := bufio.NewScanner(out); sc.Scan(); {
		d.mu.Lock()
		d.out.WriteString(sc.Text() + "\n")
		d.mu.Unlock()
		if strings.HasPrefix(sc.Text(), "ready") {
			once()
		}
	}
}

func (d *deployment) output() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.out.String()
}

// kill is the emergency exit of a failed test: the members end with it.
func (d *deployment) kill() {
	if d.cmd.ProcessState == nil {
		_ = d.cmd.Process.Kill()
		_ = d.cmd.Wait()
	}
	if d.t.Failed() {
		d.t.Logf("output of up:\n%s", d.output())
		logs, _ := filepath.Glob(filepath.Join(d.dir, "*", "log"))
		for _, l := range logs {
			if b, err := os.ReadFile(l); err == nil {
				d.t.Logf("%s:\n%s", l, b[max(0, len(b)-3000):])
			}
		}
	}
}

// stop is Ctrl-C; it checks that no process is left.
func (d *deployment) stop() {
	d.t.Helper()
	members := d.members()
	if err := d.cmd.Process.Signal(os.Interrupt); err != nil {
		d.t.Fatal(err)
	}
	select {
	case <-d.done:
	case <-time.After(deadline):
		d.t.Fatalf("up does not end after SIGINT:\n%s", d.output())
	}
	if err := d.cmd.Wait(); err != nil {
		d.t.Errorf("up ended with %v", err)
	}
	for _, m := range members {
		if m.Pid > 0 && syscall.Kill(m.Pid, 0) == nil {
			d.t.Errorf("%s, process %d, is still there", m.Name, m.Pid)
		}
	}
}

type member struct {
	Name, Kind string
	Port, Pid  int
}

func (d *deployment) members() []member {
	d.t.Helper()
	b, err := os.ReadFile(filepath.Join(d.dir, "deployment.json"))
	if err != nil {
		d.t.Fatal(err)
	}
	var x struct{ Members []member }
	if err := json.Unmarshal(b, &x); err != nil {
		d.t.Fatal(err)
	}
	return x.Members
}

func (d *deployment) pidAt(port int) int {
	for _, m := range d.members() {
		if m.Port == port {
			return m.Pid
		}
	}
	return 0
}

// client follows the master by the Sentinels.
func (d *deployment) client() *redis.Client {
	var sentinels []string
	for _, m := range d.members() {
		if m.Kind == "sentinel" {
			sentinels = append(sentinels, fmt.Sprintf("127.0.0.1:%d", m.Port))
		}
	}
	c := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "mymaster", SentinelAddrs: sentinels,
		DialTimeout: deadline, ReadTimeout: deadline, WriteTimeout: deadline, MaxRetries: -1})
	d.t.Cleanup(func() { _ = c.Close() })
	return c
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); ; time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// TestUpFailsOverAndKeepsTheData: one command starts a deployment, a real
// client writes to it, the master is killed, and it goes on by itself with
// the data; a second start has the data too.
func TestUpFailsOverAndKeepsTheData(t *testing.T) {
	if testing.Short() {
		t.Skip("needs half a minute")
	}
	ctx := context.Background()
	dir, base := t.TempDir(), freeBase(t, 3)
	d := startUp(t, dir, base)
	c := d.client()
	eventually(t, "a first write", func() bool { return c.Set(ctx, "k", "v", 0).Err() == nil })
	// One client writes on all the time; what WAIT says is replicated must survive.
	var safe, acked atomic.Int64
	var proven []int64 // the numbers that WAIT, on the same connection, found on both replicas
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for n := int64(1); ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			var set *redis.StatusCmd
			var wait *redis.Cmd
			write := func(p redis.Pipeliner) error {
				set, wait = p.Set(ctx, fmt.Sprintf("n:%d", n), n, 0), p.Do(ctx, "WAIT", 2, 300)
				return nil
			}
			for _, _ = c.Pipelined(ctx, write); set.Err() != nil; _, _ = c.Pipelined(ctx, write) {
				time.Sleep(10 * time.Millisecond)
				select {
				case <-stop:
					return
				default:
				}
			}
			acked.Store(n)
			if got, err := wait.Int(); err == nil && got == 2 {
				proven = append(proven, n)
				safe.Store(n)
			}
		}
	}()
	eventually(t, "200 replicated writes", func() bool { return safe.Load() >= 200 })
	pid := d.pidAt(base)
	if pid == 0 {
		t.Fatal("no process of the master")
	}
	before := safe.Load()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// One reply more may have been on its way from the old master.
	mark := acked.Load() + 1
	eventually(t, "writes are back", func() bool { return acked.Load() > mark+50 })
	eventually(t, "the old master is back as a replica", func() bool {
		return exec.Command(binary, "status", "--dir", dir).Run() == nil
	})
	eventually(t, "what is written now is replicated", func() bool { return safe.Load() > mark+20 })
	close(stop)
	<-ended
	// Who is the master may change, or not be told, for a moment; what it says counts.
	get := func(key string) (got int64, err error) {
		eventually(t, "an answer about "+key, func() bool {
			got, err = c.Get(ctx, key).Int64()
			return err == nil || errors.Is(err, redis.Nil)
		})
		return got, err
	}
	last := safe.Load()
	for _, n := range proven {
		if got, err := get(fmt.Sprintf("n:%d", n)); err != nil || got != n {
			t.Fatalf("write %d of %d (replicated up to %d, killed at %d): %d, %v", n, last, before, mark, got, err)
		}
	}
	d.stop()

	d = startUp(t, dir, base)
	c = d.client()
	eventually(t, "the first write is there after a restart of everything", func() bool {
		got, err := c.Get(ctx, "k").Result()
		if errors.Is(err, redis.Nil) || err == nil && got != "v" {
			t.Fatalf("after a restart of everything: k = %q, %v", got, err)
		}
		return err == nil
	})
	if got, err := get(fmt.Sprintf("n:%d", last)); err != nil || got != last {
		t.Errorf("after a restart of everything: the last write is %d, %v, want %d", got, err, last)
	}
	d.stop()
}

// TestDrillKillPrimary: the drill finds the deployment, and its verdict says
// what happened.
func TestDrillKillPrimary(t *testing.T) {
	if testing.Short() {
		t.Skip("needs half a minute")
	}
	dir, base := t.TempDir(), freeBase(t, 3)
	d := startUp(t, dir, base)
	out, err := exec.Command(binary, "drill", "kill-primary", "--dir", dir, "--json").CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1) { // 1: writes that no replica had were lost
		t.Fatalf("drill: %v\n%s", err, out)
	}
	var r struct {
		OldMaster    string `json:"old_master"`
		NewMaster    string `json:"new_master"`
		Detected     int    `json:"detected_after_ms"`
		Back         int    `json:"writes_back_after_ms"`
		Acknowledged int    `json:"acknowledged"`
		Lost         int    `json:"lost"`
		Duplicated   int    `json:"duplicated"`
		Rejoined     bool   `json:"old_master_rejoined"`
	}
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Logf("%+v", r)
	if r.OldMaster == r.NewMaster || r.Detected < 0 || r.Back < 0 || r.Acknowledged == 0 || r.Duplicated != 0 || !r.Rejoined {
		t.Errorf("the report makes no sense: %s", out)
	}
	// Replication is asynchronous: what was on its way may be lost, no more.
	if r.Lost > 50 {
		t.Errorf("%d of %d acknowledged writes lost", r.Lost, r.Acknowledged)
	}
	d.stop()
}
