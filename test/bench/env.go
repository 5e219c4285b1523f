package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/test/proc"
)

const (
	readyLimit = 5 * time.Minute // a start with much data on a busy machine
	replyLimit = 2 * time.Minute
	loadLimit  = 20 * time.Minute
)

// The two sides of a pair.
const (
	ours = iota
	redis
)

// env is where rows run: programs, a scratch directory, the running servers.
type env struct {
	argv    [2][]string
	tmp     string
	pairs   int
	quick   bool
	running []*proc.Process
	dirs    int

	idleNodes int // how many nodes idle beside each other
}

func newEnv(binary string, pairs int, quick bool) (*env, error) {
	tmp, err := os.MkdirTemp("", "holdfast-bench-")
	if err != nil {
		return nil, err
	}
	e := &env{tmp: tmp, pairs: pairs, quick: quick, idleNodes: idleMembers}
	path, err := findPrograms(binary, tmp)
	if err != nil {
		e.close()
		return nil, err
	}
	e.argv = [2][]string{{path, "redis-server"}, {"redis-server"}}
	return e, nil
}

func (e *env) close() {
	e.stopAll()
	if err := os.RemoveAll(e.tmp); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
}

// n scales a count down in a quick run.
func (e *env) n(count int) int {
	if e.quick {
		return max(1, count/5)
	}
	return count
}

// ops scales a number of operations down in a quick run; processor time is read
// in steps of 10 ms, so it must not become too small.
func (e *env) ops(count int) int {
	if e.quick {
		return count / 2
	}
	return count
}

// plain are the directives of a server that keeps nothing on disk.
var plain = []string{"--save", "", "--appendonly", "no"}

// start starts one side in a directory of its own and waits until it serves.
func (e *env) start(side int, env []string, args ...string) (*proc.Process, error) {
	e.dirs++
	dir := filepath.Join(e.tmp, fmt.Sprintf("data%d", e.dirs))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	return e.startIn(side, dir, env, args...)
}

func (e *env) startIn(side int, dir string, env []string, args ...string) (*proc.Process, error) {
	port, err := proc.FreePort()
	if err != nil {
		return nil, err
	}
	p, err := proc.Start(proc.Spec{Argv: e.argv[side], Dir: dir, Port: port, Args: args, Env: env})
	if err != nil {
		return nil, err
	}
	e.running = append(e.running, p)
	return p, p.Ready(readyLimit)
}

// stop kills a server and removes its data.
func (e *env) stop(p *proc.Process) error {
	p.Kill()
	e.running = slices.DeleteFunc(e.running, func(r *proc.Process) bool { return r == p })
	return os.RemoveAll(p.Spec.Dir)
}

func (e *env) stopAll() {
	for len(e.running) > 0 {
		if err := e.stop(e.running[0]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}
}

// both calls f once for each side, in an order that changes with the pair.
func (e *env) both(pair int, f func(side int) error) error {
	for i := range 2 {
		if err := f((pair + i) % 2); err != nil {
			return err
		}
	}
	return nil
}

// bench runs redis-benchmark against a server and returns operations per second.
func bench(p *proc.Process, args ...string) (rps float64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), loadLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "redis-benchmark", append([]string{"-p", strconv.Itoa(p.Spec.Port), "-q", "--csv"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("redis-benchmark %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	records, err := csv.NewReader(bytes.NewReader(out)).ReadAll()
	if err != nil {
		return 0, fmt.Errorf("redis-benchmark %s: %w: %q", strings.Join(args, " "), err, out)
	}
	for _, r := range records {
		if len(r) > 1 && r[0] != "test" {
			return strconv.ParseFloat(r[1], 64)
		}
	}
	return 0, fmt.Errorf("redis-benchmark %s printed no figure: %q", strings.Join(args, " "), out)
}

// do sends one request over a connection of its own.
func do(p *proc.Process, args ...string) (proc.Value, error) {
	c, err := proc.Dial(p.Spec.Port, replyLimit)
	if err != nil {
		return proc.Value{}, err
	}
	defer c.Close()
	return c.Must(args...)
}

// infoField reads one field of INFO.
func infoField(c *proc.Conn, section, field string) (string, error) {
	v, err := c.Must("INFO", section)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(v.Str) {
		if val, ok := strings.CutPrefix(strings.TrimSpace(line), field+":"); ok {
			return val, nil
		}
	}
	return "", fmt.Errorf("INFO %s has no %s", section, field)
}

// until polls a condition.
func until(limit, every time.Duration, cond func() (bool, error)) error {
	for end := time.Now().Add(limit); ; time.Sleep(every) {
		if ok, err := cond(); ok || err != nil {
			return err
		}
		if time.Now().After(end) {
			return proc.ErrDeadline
		}
	}
}

// settledRSS is the resident memory once it changes no more: background
// rehashing, scavenging.
func settledRSS(p *proc.Process) (int64, error) {
	last, err := p.RSS()
	if err != nil {
		return 0, err
	}
	calm := 0
	err = until(30*time.Second, 250*time.Millisecond, func() (bool, error) {
		now, err := p.RSS()
		if d := now - last; d < last/500 && -d < last/500 {
			calm++
		} else {
			calm = 0
		}
		last = now
		return calm == 4, err
	})
	if errors.Is(err, proc.ErrDeadline) {
		err = nil // still moving: the last value is as good as any
	}
	return last, err
}
