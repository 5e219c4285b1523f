package interop

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

var (
	flagSeed  = flag.Uint64("interop.seed", 1, "seed of TestRandom")
	flagCount = flag.Int("interop.count", 20000, "commands that TestRandom sends")
)

// servers is the pool that all tests share; nil with whyNot set when the tests cannot run.
var (
	servers *pool
	whyNot  string

	totalComparisons, totalDifferences atomic.Int64
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	flag.Parse()
	if !isFlagSet("test.parallel") { // scripts wait for time-outs more than they compute
		if err := flag.Set("test.parallel", "6"); err != nil {
			fmt.Fprintln(os.Stderr, "interop:", err)
			return 1
		}
	}
	tmp, err := os.MkdirTemp("", "holdfast-interop-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		return 1
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	if isFlagSet("test.fuzz") || isFlagSet("test.fuzzworker") {
		whyNot = "fuzzing needs no servers"
		return m.Run()
	}
	programs, err := findPrograms(tmp)
	if err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		return 1
	}
	if whyNot == "" {
		servers = &pool{programs: programs, all: map[*pair]bool{}}
		defer servers.stop()
	}
	code := m.Run()
	if whyNot == "" {
		fmt.Printf("interop: %d comparisons, %d differences\n", totalComparisons.Load(), totalDifferences.Load())
	}
	return code
}

func isFlagSet(name string) bool {
	found := false
	flag.Visit(func(f *flag.Flag) { found = found || f.Name == name })
	return found
}

// findPrograms returns ours and the genuine server; without a genuine one whyNot says so.
func findPrograms(tmp string) (programs [2]program, err error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		whyNot = "redis-server is not installed (Debian package redis-server)"
		return programs, nil
	}
	version, err := exec.Command(path, "--version").Output()
	if err != nil {
		return programs, fmt.Errorf("%s --version: %w", path, err)
	}
	if !strings.Contains(string(version), " v=7.0.") {
		whyNot = "redis-server is not version 7.0: " + strings.TrimSpace(string(version))
		return programs, nil
	}
	programs[1] = program{"redis", []string{path}}
	if os.Getenv("HOLDFAST_INTEROP_GENUINE_ONLY") != "" {
		programs[0] = program{"redis-A", []string{path}}
		return programs, nil
	}
	binary := os.Getenv("HOLDFAST_INTEROP_BINARY")
	if binary == "" {
		binary = filepath.Join(tmp, "holdfast")
		if out, err := exec.Command("go", "build", "-o", binary, "holdfast/cmd/holdfast").CombinedOutput(); err != nil {
			return programs, fmt.Errorf("go build ./cmd/holdfast: %w\n%s", err, out)
		}
	}
	programs[0] = program{"holdfast", []string{binary, "redis-server"}}
	return programs, nil
}

func needServers(t *testing.T) {
	t.Helper()
	if whyNot != "" {
		t.Skip(whyNot)
	}
}

// borrow lends a pair of servers to a test; args ask for a pair of its own.
func borrow(t *testing.T, own bool, args []string) *pair {
	t.Helper()
	needServers(t)
	if own {
		p, err := servers.fresh(args)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := servers.drop(p); err != nil {
				t.Error(err)
			}
		})
		return p
	}
	p, err := servers.get()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := servers.put(p); err != nil {
			t.Error("after the test:", err)
		}
	})
	return p
}

// Same script to ours and to genuine Redis 7.0, replies compared byte for byte.
func TestScripts(t *testing.T) {
	needServers(t)
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatal("no scripts in testdata", err)
	}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".txt")
		if strings.HasPrefix(name, "later_") && os.Getenv("HOLDFAST_INTEROP_LATER") == "" {
			continue
		}
		s, err := loadScript(path, name)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, proto := range []int{2, 3} {
			if s.only != 0 && s.only != proto {
				continue
			}
			t.Run(fmt.Sprintf("%s/resp%d", name, proto), func(t *testing.T) {
				t.Parallel()
				runOne(t, s, proto)
			})
		}
	}
}

func runOne(t *testing.T, s *script, proto int) {
	r := newRun(borrow(t, s.hasServer, s.serverArgs), proto)
	defer r.finish(t)
	if err := r.runScript(s); err != nil && (!errors.Is(err, errTooSilent) || len(r.diffs) == 0) {
		t.Error(err)
	}
}

// finish closes the connections, reports differences and adds to the totals.
func (r *run) finish(t *testing.T) {
	t.Helper()
	r.closeAll()
	totalComparisons.Add(int64(r.comparisons))
	totalDifferences.Add(int64(len(r.diffs)))
	if len(r.diffs) == 0 {
		return
	}
	shown := r.diffs[:len(r.diffs)-r.suppressed]
	t.Errorf("%d of %d comparisons differ:\n%s", len(r.diffs), r.comparisons, strings.Join(shown, "\n"))
}
