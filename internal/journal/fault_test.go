package journal

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/vfstest"
)

// faultScript touches every kind of operation.
const faultScript = "aspafsaafsvmafafscafsgashpafafsxasafkafsvafs"

// runFault runs the script with the n-th operation failing and holds what is
// left against what was promised. n 0 only counts.
func runFault(fault vfstest.Fault, n int, stay bool, opts Options) (count int, err error) {
	d, err := vfstest.NewDisk(vfs.NewMem())
	if err != nil {
		return 0, err
	}
	in := vfstest.NewInjector(d)
	in.Arm(fault, n, stay)
	w := newWorld(in, opts)
	runErr := w.run(faultScript)
	count = in.Count()
	op, fired := in.Fired()
	in.Disarm()
	if runErr != nil && !fired {
		return count, fmt.Errorf("failed without a fault: %w", runErr)
	}
	if err := w.afterFault(d, n); err != nil {
		return count, fmt.Errorf("fault %d, %v (%v; the script said %v): %w", n, op, fault, runErr, err)
	}
	return count, nil
}

// afterFault goes on after a fault: by Reopen if the journal failed, and in every
// case after power cuts and after a restart.
func (w *world) afterFault(d *vfstest.Disk, n int) error {
	if w.j != nil {
		w.learn()
		if w.j.Err() != nil && n%2 == 0 {
			if err := w.goOn(); err != nil {
				return err
			}
		}
		w.j.kill()
		w.j = nil
	}
	x := &explorer{cfg: vfstest.Config{Exhaustive: 16, Subsets: 1, Samples: 8, Seed: uint64(n)}, seen: map[string]bool{}}
	if err := x.explore(w, d.Snapshot(), 0); err != nil {
		return err
	}
	w.f = nil
	if err := w.open(); err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	defer func() { w.j.kill() }()
	if err := w.run("afsvafs"); err != nil {
		return fmt.Errorf("after restart: %w", err)
	}
	return x.explore(w, d.Snapshot(), 0)
}

// goOn reopens a failed journal; everything appended is acknowledged afterwards.
func (w *world) goOn() error {
	err := w.j.Reopen()
	if errors.Is(err, ErrNotHeld) || errors.Is(err, ErrClosed) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reopen: %w", err)
	}
	for g := range w.m.gens {
		if g > w.j.gen {
			delete(w.m.gens, g) // reopening settled which manifest is in force
		}
	}
	if end := w.gen.end(); w.j.Synced() != end {
		return fmt.Errorf("synced up to %d after reopening, %d was appended", w.j.Synced(), end)
	}
	w.f = nil
	return w.run("vafsvafafsv")
}

// everyFault runs the script with each operation failing in turn.
func everyFault(fault vfstest.Fault, stay bool, opts Options, run func(vfstest.Fault, int, bool, Options) (int, error)) (int, error) {
	total, err := run(fault, 0, false, opts)
	if err != nil {
		return 0, err
	}
	for n := 1; n <= total; n++ {
		if _, err := run(fault, n, stay, opts); err != nil {
			return n, err
		}
	}
	return total, nil
}

func TestEveryFaultKeepsWhatWasAcknowledged(t *testing.T) {
	for _, f := range []struct {
		fault vfstest.Fault
		stay  bool
	}{
		{vfstest.FailIO, false}, {vfstest.FailNoRoom, false}, {vfstest.FailNoRoom, true},
		{vfstest.ShortWrite, false}, {vfstest.SyncLost, false}, {vfstest.FlipRead, false},
	} {
		for _, opts := range []Options{{Level: LevelAlways}, {Level: LevelEverySec, PreZero: true}} {
			t.Run(fmt.Sprintf("%v/stay=%v/%v", f.fault, f.stay, opts.Level), func(t *testing.T) {
				total, err := everyFault(f.fault, f.stay, opts, runFault)
				if err != nil {
					t.Fatal(err)
				}
				if total < 10 {
					t.Errorf("only %d operations could fail", total)
				}
			})
		}
	}
}

// runLostWrite runs the script with the n-th write lost: told as done, never on
// the disk. One copy cannot keep what it never got, but nothing wrong may come
// back, and if a later record names it as synced, the loss must be told.
func runLostWrite(fault vfstest.Fault, n int, stay bool, opts Options) (int, error) {
	d, err := vfstest.NewDisk(vfs.NewMem())
	if err != nil {
		return 0, err
	}
	in := vfstest.NewInjector(d)
	in.Match = func(op vfstest.Op) bool { _, _, ok := parseSegmentName(in.PathBase(op.Name)); return ok }
	in.Arm(fault, n, stay)
	w := newWorld(in, opts)
	if err := w.run("afsafsafsafsafsafsafsafsafsm"); err != nil {
		return in.Count(), err
	}
	count := in.Count()
	w.j.kill()
	for st := range d.Snapshot().States(vfstest.Config{Exhaustive: 1, Subsets: 1, Samples: 1}) {
		m, err := st.FS()
		if err != nil {
			return count, err
		}
		after := newWorld(m, opts)
		after.m = w.m
		j, rec, err := Open(after.opts)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				return count, err
			}
			continue
		}
		err = w.m.verify(j, rec)
		j.kill()
		if err != nil {
			return count, fmt.Errorf("write %d lost without a word: %w", n, err)
		}
	}
	return count, nil
}

func TestLostWriteIsToldOnceALaterRecordNamesIt(t *testing.T) {
	if _, err := everyFault(vfstest.LostWrite, false, Options{Level: LevelAlways}, runLostWrite); err != nil {
		t.Fatal(err)
	}
}
