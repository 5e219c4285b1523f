package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/test/proc"
)

// drillReport is what `holdfast drill reshard-under-load --json` prints.
type drillReport struct {
	Way          string
	Slots        int
	Acknowledged int
	Ask          int
	Lost         int
	Doubled      int
	Errors       map[string]int
	Pause        struct {
		P99 int `json:"p99"`
	} `json:"slot_pause_ms"`
	Kill struct {
		What, Step, Struck string
		Healed             int `json:"healed_after_ms"`
		Unknown, Runs      int
	}
	Healthy bool `json:"healthy_after"`
	Reason  string
}

// output collects what a process says, which others read meanwhile.
type output struct {
	ready chan struct{}
	mu    sync.Mutex
	b     bytes.Buffer
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	had := strings.Contains(o.b.String(), "\nready ")
	o.b.Write(p)
	if !had && strings.Contains(o.b.String(), "\nready ") {
		close(o.ready)
	}
	return len(p), nil
}

// up runs `holdfast up cluster` until the test ends, and returns its directory
// and the address of a node.
func up(t *testing.T, args ...string) (dir, addr string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "up")
	base, err := proc.FreePorts(6)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, append([]string{"up", "cluster", "--shards", "3", "--replicas", "1", "--port", strconv.Itoa(base), "--dir", dir}, args...)...)
	out := &output{ready: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(deadline):
			_ = cmd.Process.Kill() // its members end with it
			<-ended
		}
		if t.Failed() {
			t.Logf("up:\n%s", out)
		}
	})
	select {
	case <-out.ready:
	case <-ended:
		t.Fatalf("up ended:\n%s", out)
	case <-time.After(2 * deadline):
		t.Fatal("up is not ready in time")
	}
	return dir, "127.0.0.1:" + strconv.Itoa(base)
}

// drill runs reshard-under-load on a deployment.
func drill(t *testing.T, dir string, args ...string) (r drillReport, text string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append([]string{"drill", "reshard-under-load", "--dir", dir, "--json", "--before", "300ms", "--after", "200ms",
		"--limit", "120s", "--clients", "4"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	code = exitCode(t, cmd.Run())
	text = strings.Join(args, " ") + "\n" + out.String() + errs.String()
	if out.Len() > 0 {
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			t.Fatalf("%s: %s", err, text)
		}
	}
	return r, text, code
}

// TestStreamsOutliveKills: while slots move as a stream and clients write to
// them, the source, the target or the administrator is killed (kill -9) at a
// random step. Nobody mends anything: the node is started again, by then its
// replica has taken over or not; the move goes on, or begins anew, or is as if
// it had never begun. No acknowledged write is lost or doubled.
func TestStreamsOutliveKills(t *testing.T) {
	for _, c := range []struct{ name, restart, timeout string }{{"back at once", "100ms", "5000"}, {"a replica takes over", "4s", "1000"}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			rnd := rand.New(rand.NewPCG(seed, 5))
			dir, addr := up(t, "--restart-after", c.restart)
			must(t, 0, "set-timeout", addr, c.timeout)
			n := 5
			if os.Getenv("HOLDFAST_SOAK") != "" {
				n = 50
			}
			for i := range n {
				what := [...]string{"source", "target", "administrator"}[(i+rnd.IntN(2))%3]
				r, text, code := drill(t, dir, "--bytes", "24mb", "--slots", "600", "--kill", what, "--seed", strconv.FormatUint(rnd.Uint64()>>12|1, 10))
				if code != 0 || r.Kill.Healed < 0 || r.Lost+r.Doubled+r.Ask > 0 || r.Acknowledged == 0 || r.Slots != 600 {
					t.Fatalf("exit code %d: %s", code, text)
				}
				t.Logf("%s killed %s (%s): healed in %d ms, %d runs; %d writes, %d without an answer", what, r.Kill.Struck, r.Kill.Step, r.Kill.Healed, r.Kill.Runs,
					r.Acknowledged, r.Kill.Unknown)
			}
		})
	}
}

// TestReshardUnderLoadDrill: the drill as it is in the manual, smaller.
func TestReshardUnderLoadDrill(t *testing.T) {
	t.Parallel()
	dir, addr := up(t)
	must(t, 0, "set-timeout", addr, calmTimeout)
	r, text, code := drill(t, dir, "--bytes", "32mb", "--slots", "300")
	if code != 0 || r.Way != "stream" || r.Slots != 300 || r.Ask > 0 || !r.Healthy {
		t.Errorf("exit code %d: %s", code, text)
	}
	t.Logf("p99 of the pause of a slot: %d ms", r.Pause.P99)
	if r, text, code := drill(t, dir, "--bytes", "1mb", "--slots", "50", "--by-key"); code != 0 || r.Way != "by key" {
		t.Errorf("exit code %d: %s", code, text)
	}
	if _, text, code := drill(t, dir, "--kill", "nobody"); code == 0 {
		t.Error(text)
	}
}
