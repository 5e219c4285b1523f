package raid

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/vfstest"
)

// The rebuild of an array on real directories by a process that kill -9 ends at
// its K-th call to the file system. The test binary runs itself as that process.

const (
	killEnv   = "HOLDFAST_RAID_KILL"    // "directory slot-to-replace kill-at-call", the helper's task
	killChunk = 4096                    // bytes
	killFile  = 24 * killChunk * 3      // bytes of the file that is there before
	killLive  = "d/live"                // written while the rebuild runs
	killOld   = "d/old"                 //
	killBlock = killChunk + killChunk/2 // bytes per write
	killID    = 7                       // of the payload
)

func killOptions(dirs []string, fsys vfs.FS) Options {
	o := Options{Level: LevelAny, Chunk: killChunk, Manual: true, ScrubEvery: -1, ScrubRate: -1, RebuildRate: -1, TailSize: 64 << 10, MetaLogSize: 16 << 10, Reserve: -1}
	for _, d := range dirs {
		o.Members = append(o.Members, Dir{FS: fsys, Path: d})
	}
	return o
}

// killDirs lists the member directories in dir.
func killDirs(dir string) (members []string, err error) {
	all, err := filepath.Glob(filepath.Join(dir, "m*"))
	for _, d := range all {
		ok, err := Exists(Dir{FS: vfs.Default, Path: d})
		if err != nil {
			return nil, err
		}
		if ok {
			members = append(members, d)
		}
	}
	return members, err
}

// TestRebuildHelper is the process that dies; without its task it does nothing.
func TestRebuildHelper(t *testing.T) {
	task := strings.Fields(os.Getenv(killEnv))
	if len(task) != 3 {
		return
	}
	at, err := strconv.ParseInt(task[2], 10, 64)
	must(t, err)
	var calls atomic.Int64
	in := vfstest.NewInjector(vfs.Default)
	in.Match = func(op vfstest.Op) bool {
		if op.Kind != "stat" && op.Kind != "list" && calls.Add(1) == at {
			if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err == nil {
				select {}
			}
		}
		return false
	}
	in.Arm(vfstest.Stall, 0, false)
	dirs, err := killDirs(task[0])
	must(t, err)
	a, err := Open(killOptions(dirs, in))
	must(t, err)
	if task[1] != "-" {
		slot, err := strconv.Atoi(task[1])
		must(t, err)
		fresh := filepath.Join(task[0], "m-new"+strconv.Itoa(os.Getpid()))
		must(t, os.Mkdir(fresh, 0o755))
		must(t, a.Replace(a.Status().Members[slot].Path, Dir{FS: in, Path: fresh}))
	}
	done := make(chan error, 1)
	go func() { done <- liveWrites(a) }()
	_, err = a.Rebuild(context.Background(), RebuildOptions{})
	must(t, errors.Join(err, <-done))
	if _, err = a.Rebuild(context.Background(), RebuildOptions{}); err != nil {
		t.Fatal(err)
	}
	must(t, a.Close())
	fmt.Printf("calls %d\n", calls.Load())
}

// liveWrites appends while the rebuild runs and says what was acknowledged.
func liveWrites(a *Array) error {
	f, err := a.OpenReadWrite(killLive, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	off := int(st.Size())
	for range 12 {
		if _, err := f.Write(payload(killID, off, killBlock, 0)); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		off += killBlock
		fmt.Printf("acked %d\n", off)
	}
	return f.Close()
}

// runHelper starts the helper and returns what it acknowledged, and how many
// calls it made if it was not killed.
func runHelper(dir, slot string, at int) (acked, calls int, killed bool, err error) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestRebuildHelper$", "-test.count=1")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d", killEnv, dir, slot, at))
	var text strings.Builder
	cmd.Stderr = &text
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, 0, false, err
	}
	if err := cmd.Start(); err != nil {
		return 0, 0, false, err
	}
	for sc := bufio.NewScanner(out); sc.Scan(); {
		text.WriteString(sc.Text() + "\n")
		if n, ok := strings.CutPrefix(sc.Text(), "acked "); ok {
			acked, _ = strconv.Atoi(n)
		}
		if n, ok := strings.CutPrefix(sc.Text(), "calls "); ok {
			calls, _ = strconv.Atoi(n)
		}
	}
	err = cmd.Wait()
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		if ws, ok := ee.Sys().(syscall.WaitStatus); ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL {
			return acked, calls, true, nil
		}
	}
	if err != nil {
		err = fmt.Errorf("helper: %w\n%s", err, text.String())
	}
	return acked, calls, false, err
}

// killedVerify opens the array and holds its files against what they must be.
func killedVerify(dir string, acked int, rebuild bool) error {
	dirs, err := killDirs(dir)
	if err != nil {
		return err
	}
	a, err := Open(killOptions(dirs, vfs.Default))
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if rebuild {
		if _, err := a.Rebuild(context.Background(), RebuildOptions{}); err != nil {
			return errors.Join(fmt.Errorf("rebuild: %w", err), a.Close())
		}
		if st := a.Status(); st.State != "healthy" {
			return errors.Join(fmt.Errorf("%s after the rebuild: %+v", st.State, st), a.Close())
		}
	}
	for name, least := range map[string]int{killOld: killFile, killLive: acked} {
		b, err := readFile(a, name)
		if err != nil {
			return errors.Join(fmt.Errorf("read: %w", err), a.Close())
		}
		if len(b) < least || string(b) != string(payload(killID, 0, len(b), 0)) {
			return errors.Join(fmt.Errorf("%s: %d bytes, of %d acknowledged, or they are wrong", name, len(b), least), a.Close())
		}
	}
	return a.Close()
}

// killRounds is how often a rebuild is killed.
func killRounds() int {
	if n, err := strconv.Atoi(os.Getenv("HOLDFAST_RAID_KILLS")); err == nil {
		return n
	}
	if scale() > 1 {
		return 100
	}
	return 15
}

func TestRebuildThatIsKilledAlwaysEndsInACleanArray(t *testing.T) {
	for i, s := range []shape{{1, 2}, {5, 4}, {6, 5}} {
		dir := t.TempDir()
		o := killOptions(nil, nil)
		o.Level = s.level
		for slot := range s.width {
			m := filepath.Join(dir, fmt.Sprintf("m%d", slot))
			must(t, os.Mkdir(m, 0o755))
			o.Members = append(o.Members, Dir{FS: vfs.Default, Path: m})
		}
		a, err := Create(o)
		must(t, err)
		must(t, a.MkdirAll("d", 0o755))
		for name, size := range map[string]int{killOld: killFile, killLive: 0} {
			f, err := a.Create(name, vfs.WriteCategoryUnspecified)
			must(t, err)
			_, err = f.Write(payload(killID, 0, size, 0))
			must(t, errors.Join(err, f.Sync(), f.Close()))
		}
		d, err := a.OpenDir("d")
		must(t, err)
		must(t, errors.Join(d.Sync(), d.Close(), a.Close()))
		rng := rand.New(rand.NewPCG(uint64(i), 11))
		acked, usual, killed, err := runHelper(dir, "0", 0)
		if err != nil || killed || usual < 100 {
			t.Fatalf("%v, not killed: %d calls, %v", s, usual, err)
		}
		kills := 0
		for round := 0; kills < killRounds()/3; round++ {
			slot := strconv.Itoa(rng.IntN(s.width))
			for again := true; again; again = rng.IntN(2) == 0 {
				at := 1 + rng.IntN(usual)
				more, _, was, err := runHelper(dir, slot, at)
				acked = max(acked, more)
				if was {
					kills++
				}
				slot = "-" // goes on with what is begun
				if err == nil {
					err = killedVerify(dir, acked, false)
				}
				if err != nil {
					t.Fatalf("%v, round %d, killed at call %d: %v", s, round, at, err)
				}
			}
			err := killedVerify(dir, acked, true)
			if err == nil {
				err = killedCheck(dir)
			}
			if err != nil {
				t.Fatalf("%v, round %d: %v", s, round, err)
			}
		}
		t.Logf("%v: %d kills, %d calls usually", s, kills, usual)
	}
}

// killedCheck removes the directories of replaced members and asks Check.
func killedCheck(dir string) error {
	dirs, err := killDirs(dir)
	if err != nil {
		return err
	}
	all, err := filepath.Glob(filepath.Join(dir, "m*"))
	if err != nil {
		return err
	}
	st, err := Inspect(killOptions(dirs, vfs.Default))
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, m := range st.Members {
		used[m.Path] = true
	}
	var left []string
	for _, d := range all {
		if used[d] {
			left = append(left, d)
		} else if err := os.RemoveAll(d); err != nil {
			return err
		}
	}
	rep, err := Check(killOptions(left, vfs.Default), CheckOptions{})
	if err != nil {
		return err
	}
	if code := rep.ExitCode(); code != 0 {
		return fmt.Errorf("check: exit code %d: %+v", code, rep)
	}
	return nil
}
