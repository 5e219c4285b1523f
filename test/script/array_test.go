package script

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"holdfast/test/proc"
)

// holdfast runs the binary and returns what it printed, and its exit code.
func holdfast(t *testing.T, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*deadline)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v", args, err)
	}
	code := 0
	if exit != nil {
		code = exit.ExitCode()
	}
	return string(out), code
}

func wantRun(t *testing.T, code int, text string, args ...string) string {
	t.Helper()
	out, got := holdfast(t, args...)
	if got != code || !strings.Contains(out, text) {
		t.Fatalf("holdfast %s: exit code %d, want %d and %q in:\n%s", strings.Join(args, " "), got, code, text, out)
	}
	return out
}

// TestArrayEndToEnd is the life of a server on an array, by the command line: a
// kill, a lost disk, a new one, a scrub, a check of all files.
func TestArrayEndToEnd(t *testing.T) {
	ctx := context.Background()
	root := t.TempDir()
	var members []string
	for i := range 4 {
		members = append(members, filepath.Join(root, fmt.Sprintf("d%d", i)))
	}
	data := filepath.Join(root, "data")
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	spec := proc.Spec{Argv: []string{binary, "redis-server"}, Dir: data, Port: freeBase(t, 1),
		Args: append([]string{"--save", "", "--appendfsync", "always", "--array-level", "5", "--array-chunk", "4kb", "--array-members"}, members...)}
	addr := fmt.Sprintf("127.0.0.1:%d", spec.Port)
	start := func() *proc.Process {
		t.Helper()
		p, err := proc.Start(spec)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Kill)
		if err := p.Ready(deadline); err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := start()
	c := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, DialTimeout: deadline, ReadTimeout: deadline})
	defer func() { _ = c.Close() }()
	written := 0
	write := func(n int) {
		t.Helper()
		for range n {
			if err := c.Set(ctx, fmt.Sprintf("k%d", written), strings.Repeat("v", written%5000), 0).Err(); err != nil {
				t.Fatal(err)
			}
			written++
		}
	}
	verify := func() {
		t.Helper()
		for i := range written {
			if got, err := c.Get(ctx, fmt.Sprintf("k%d", i)).Result(); err != nil || len(got) != i%5000 {
				t.Fatalf("k%d: %d bytes, %v", i, len(got), err)
			}
		}
	}
	write(300)
	p.Kill()
	p = start()
	verify()
	wantRun(t, 0, "HEALTHY: RAID-5 over 4 members", "raid", "status", "--server", addr)
	wantRun(t, 2, "use --server", "raid", "scrub", members[0])

	// A disk is lost while the server runs.
	if err := os.Rename(members[1], members[1]+".gone"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(members[1], nil, 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the loss is noticed", func() bool {
		write(20)
		if err := c.BgRewriteAOF(ctx).Err(); err != nil && !strings.Contains(err.Error(), "progress") {
			t.Fatal(err)
		}
		_, code := holdfast(t, "raid", "status", "--server", addr)
		return code == 1
	})
	if out, code := holdfast(t, "status", addr); code != 1 || !strings.Contains(out, "array degraded") {
		t.Errorf("status: exit code %d:\n%s", code, out)
	}
	write(100)
	fresh := filepath.Join(root, "fresh")
	wantRun(t, 0, "HEALTHY", "raid", "replace", "--old", members[1], "--new", fresh, "--server", addr)
	wantRun(t, 0, "nothing found", "raid", "scrub", "--restart", "--server", addr)
	wantRun(t, 0, "RAID-5 healthy 4/4", "status", addr)
	write(50)
	if err := p.Terminate(deadline); err != nil {
		t.Fatal(err)
	}

	// Without a server: one member names the others, the data directory, too.
	wantRun(t, 0, fresh, "raid", "status", members[0])
	wantRun(t, 0, "clean", "check", members[0])
	out := wantRun(t, 0, "clean", "check", data)
	if !strings.Contains(out, "journal-") || !strings.Contains(out, "generation") {
		t.Errorf("check of the data directory does not read the journal on the array:\n%s", out)
	}
	damage(t, members[0])
	wantRun(t, 2, "", "check", data)
	wantRun(t, 1, "repaired", "check", "--repair", data)
	wantRun(t, 0, "clean", "check", data)
	p = start()
	verify()
	if err := p.Terminate(deadline); err != nil {
		t.Fatal(err)
	}
}

// damage overwrites the beginning of every column of a member.
func damage(t *testing.T, member string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(member, "data", "*.col"))
	if err != nil || len(files) == 0 {
		t.Fatalf("columns of %s: %v, %v", member, files, err)
	}
	for _, name := range files {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("damage"), 0); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDrillDisks: a deployment on arrays, a disk that lies, a disk that is lost.
func TestDrillDisks(t *testing.T) {
	if testing.Short() {
		t.Skip("needs half a minute")
	}
	dir, base := t.TempDir(), freeBase(t, 1)
	d := startUpMode(t, "single", dir, base, "--array-level", "5", "--members", "4")
	wantRun(t, 0, "RAID-5 healthy 4/4", "status", "--dir", dir)
	type report struct {
		Noticed      int64 `json:"noticed_after_ms"`
		Acknowledged int   `json:"acknowledged"`
		Lost         int   `json:"lost"`
		State        string
		First        *struct{ Repaired, Lost int } `json:"first_scrub"`
		Second       *struct{ Repaired, Lost int } `json:"second_scrub"`
		Flipped      int                           `json:"bytes_flipped"`
		Rebuilt      int64                         `json:"rebuilt_after_ms"`
	}
	drill := func(name string) (r report) {
		t.Helper()
		out, code := holdfast(t, "drill", name, "--dir", dir, "--json", "--before", "500ms", "--after", "500ms")
		if code != 0 {
			t.Fatalf("%s: exit code %d\n%s", name, code, out)
		}
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if r.Noticed < 0 || r.Acknowledged == 0 || r.Lost != 0 || r.State != "healthy" || r.Second == nil || r.Second.Lost != 0 {
			t.Errorf("%s: the report makes no sense: %s", name, out)
		}
		return r
	}
	if r := drill("corrupt-disk"); r.Flipped == 0 || r.First == nil || r.First.Repaired == 0 || r.Second.Repaired != 0 {
		t.Errorf("corrupt-disk: %+v", r)
	}
	if r := drill("lose-disk"); r.Rebuilt < 0 {
		t.Errorf("lose-disk: %+v", r)
	}
	wantRun(t, 2, "members 0 to 3", "drill", "lose-disk", "--dir", dir, "--disk", "9")
	d.stop()
}
