// Package script runs the binary end to end: its command line by scripts, and
// the main job, a deployment that fails over, with a real client library.
package script

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"holdfast/internal/ops"
	"holdfast/test/proc"
)

var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "holdfast-script")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "holdfast")
	if out, err := exec.Command("go", "build", "-o", binary, "holdfast/cmd/holdfast").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %s\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// TestCommandLine runs testdata/*.txtar: what the binary prints and how it
// exits. $PORT is a port that is free, $BUSY one that is in use.
func TestCommandLine(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:  "testdata",
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"exits": exits},
		Setup: func(env *testscript.Env) error {
			bin := filepath.Join(env.WorkDir, "bin")
			if err := os.Mkdir(bin, 0o755); err != nil {
				return err
			}
			for _, name := range []string{"holdfast", "redis-server", "redis-sentinel"} {
				if err := os.Symlink(binary, filepath.Join(bin, name)); err != nil {
					return err
				}
			}
			env.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
			// Low enough for a BASE whose Sentinels are 20000 above.
			fatal := env.T().(interface{ Fatal(...any) })
			ln, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(freeBase(fatal, 1)))
			if err != nil {
				return err
			}
			env.Defer(func() { _ = ln.Close() })
			env.Setenv("BUSY", strconv.Itoa(ln.Addr().(*net.TCPAddr).Port))
			env.Setenv("PORT", strconv.Itoa(freeBase(fatal, 1)))
			return nil
		},
	})
}

// exits is the script command `exits CODE PROGRAM ARGUMENT...`: an exit code is
// part of what a command says.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGUMENT...")
	}
	code := 0
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// freeBase returns a port from which n ports, and as many where the Sentinels of
// a deployment are, are free and stay so for who asks as this does.
func freeBase(t interface{ Fatal(...any) }, n int) int {
	base, err := proc.FreePortsWith(n, ops.SentinelOffset)
	if err != nil {
		t.Fatal(err)
	}
	return base
}
