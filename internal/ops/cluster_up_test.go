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

// consecutive is the first of n ports in a row that are free with their bus
// ports.
func consecutive(t *testing.T, n int) int {
	t.Helper()
	free := func(p int) bool {
		ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p)))
		return err == nil && ln.Close() == nil
	}
	for base := 16000 + os.Getpid()%50*20; base < 18000-n; base += n {
		ok := true
		for p := base; p < base+n; p++ {
			ok = ok && free(p) && free(p+BusOffset)
		}
		if ok {
			return base
		}
	}
	t.Fatal("no free ports")
	return 0
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
	dir, base := t.TempDir(), consecutive(t, 10)
	o := UpOptions{Mode: modeCluster, Dir: dir, Port: base, Shards: 5, Replicas: 1, RestartAfter: 5 * time.Second}
	stop := run(t, o)
	last := net.JoinHostPort("127.0.0.1", strconv.Itoa(base+9))
	st := StatusOf([]string{last}, 5*time.Second)
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
	d.Slots, d.FillMB, d.Clients = 40, 4, 4
	load, err := ReshardUnderLoad(context.Background(), LoadOptions{DrillOptions: d})
	if err != nil || load.Verdict() != Healthy || load.Slots != 40 || load.Acknowledged == 0 || load.Redirects == 0 {
		t.Fatalf("%v %+v", err, load)
	}
	key := fmt.Sprintf("{%d}", 1)
	owner := slotOwner([]string{last}, int(mustInt(t, last, "CLUSTER", "KEYSLOT", key)))
	if _, err := ask(owner, time.Second, "SET", key, "v"); err != nil {
		t.Fatal(err)
	}
	stop()
	if st := StatusOf([]string{last}, time.Second); st.Verdict != Down {
		t.Fatalf("%s after the end", st.Verdict)
	}
	run(t, o)
	owner = slotOwner([]string{last}, int(mustInt(t, last, "CLUSTER", "KEYSLOT", key)))
	if v, err := ask(owner, time.Second, "GET", key); err != nil || v.String() != "v" {
		t.Fatalf("%q, %v", v, err)
	}
}

func mustInt(t *testing.T, addr string, args ...string) int64 {
	t.Helper()
	v, err := ask(addr, time.Second, args...)
	if err != nil {
		t.Fatal(err)
	}
	return v.Int
}
