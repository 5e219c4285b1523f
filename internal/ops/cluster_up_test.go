package ops

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/test/proc"
)

// genuineExe is a program that takes our arguments and runs genuine Redis.
func genuineExe(t *testing.T) string {
	t.Helper()
	exe, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("no redis-server")
	}
	path := filepath.Join(t.TempDir(), "exe")
	if err := os.WriteFile(path, []byte(fmt.Sprintf("#!/bin/sh\nshift\nexec %q \"$@\"\n", exe)), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// run is a deployment of genuine nodes that `up` runs; stop ends it.
func run(t *testing.T, o UpOptions) (stop func()) {
	t.Helper()
	out := &lockedBuffer{}
	o.Out, o.Exe = out, genuineExe(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Up(ctx, o) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("up: %s\n%s", err, out.String())
			}
		})
	}
	t.Cleanup(stop)
	end := time.Now().Add(60 * time.Second)
	for !strings.Contains(out.String(), "\nready ") {
		select {
		case err := <-done:
			done <- err
			t.Fatalf("up ended: %v\n%s", err, out.String())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(end) {
			t.Fatalf("not ready:\n%s", out.String())
		}
	}
	return stop
}

// TestUpClusterResumesAndSurvivesDrills: one command gives a healthy cluster,
// status tells it from any node, drills lose nothing that was acknowledged by a
// master that lived long enough to send it on, and a second `up` on the same
// directory goes on with the data and with whoever is master by then.
func TestUpClusterResumesAndSurvivesDrills(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	t.Parallel()
	dir := t.TempDir()
	base, err := proc.FreePorts(10)
	if err != nil {
		t.Fatal(err)
	}
	o := UpOptions{Mode: modeCluster, Dir: dir, Port: base, Shards: 5, Replicas: 1, RestartAfter: 15 * time.Second} // an election that fails is held again after 4 s
	stop := run(t, o)
	last := net.JoinHostPort("127.0.0.1", strconv.Itoa(base+9))
	var st *Status // on a busy machine a node is missed for a moment
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if st = StatusOf([]string{last}, 5*time.Second, Access{}); st.Verdict == Healthy || time.Now().After(end) {
			break
		}
	}
	var table bytes.Buffer
	st.WriteTable(&table)
	if st.Verdict != Healthy || st.Slots != 16384 || len(st.Rows) != 10 || st.Rows[0].Role != "master" || st.Rows[1].Role != "replica" {
		t.Fatalf("%s", table.String())
	}
	if !strings.Contains(table.String(), "3277 (0-3276)") || !strings.Contains(table.String(), "of "+st.Rows[0].Addr) {
		t.Fatalf("%s", table.String())
	}
	d := DrillOptions{Dir: dir, Before: 500 * time.Millisecond, After: 200 * time.Millisecond, Limit: 60 * time.Second, Out: new(bytes.Buffer)}
	for _, c := range []struct {
		run     func(context.Context, DrillOptions) (*DrillReport, error)
		victims int
	}{{KillPrimary, 1}, {KillHost, 2}} {
		r, err := c.run(context.Background(), d)
		if err != nil {
			t.Fatal(err)
		}
		// Of two elections at once one may fail, and its master be back before the
		// next.
		if r.WritesBackMs < 0 || r.DetectedMs < 0 || (r.SwitchedMs < 0 && c.victims == 1) || r.Acknowledged == 0 || r.Duplicated > 0 || !r.Rejoined ||
			len(strings.Split(r.NewMaster, ",")) != c.victims {
			t.Fatalf("%+v", r)
		}
	}
	// Nobody is to fail any more: a write that meets a failover is an error.
	for _, row := range st.Rows {
		if _, err := ask(row.Addr, askLimit, "CONFIG", "SET", "cluster-node-timeout", "15000"); err != nil {
			t.Fatal(err)
		}
	}
	d.Slots, d.FillMB, d.Clients = 40, 4, 4
	load, err := ReshardUnderLoad(context.Background(), LoadOptions{DrillOptions: d})
	if err != nil || load.Verdict() != Healthy || load.Slots != 40 || load.Acknowledged == 0 || load.Redirects == 0 {
		t.Fatalf("%v %+v", err, load)
	}
	key := fmt.Sprintf("{%d}", 1)
	owner := ownerOf(t, last, key)
	if _, err := ask(owner, askLimit, "SET", key, "v"); err != nil {
		t.Fatal(err)
	}
	stop()
	if st := StatusOf([]string{last}, time.Second, Access{}); st.Verdict != Down {
		t.Fatalf("%s after the end", st.Verdict)
	}
	run(t, o)
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		v, err := ask(ownerOf(t, last, key), askLimit, "GET", key)
		if err == nil && v.String() == "v" {
			break
		}
		// Who owns the slot may change once more: nodes of up miss each other after a second.
		if err == nil || time.Now().After(end) {
			t.Fatalf("%q, %v", v, err)
		}
	}
}

// askLimit is how long a node of a busy machine may take to answer.
const askLimit = 30 * time.Second

// ownerOf waits until a node says who owns the slot of a key.
func ownerOf(t *testing.T, addr, key string) string {
	t.Helper()
	n := int(mustInt(t, addr, "CLUSTER", "KEYSLOT", key))
	for end := time.Now().Add(askLimit); ; time.Sleep(50 * time.Millisecond) {
		if owner := slotOwner([]string{addr}, n); owner != "" {
			return owner
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not say who owns slot %d", addr, n)
		}
	}
}

func mustInt(t *testing.T, addr string, args ...string) int64 {
	t.Helper()
	v, err := ask(addr, askLimit, args...)
	if err != nil {
		t.Fatal(err)
	}
	return v.Int
}
