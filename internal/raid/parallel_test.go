package raid

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/vfstest"
)

// writer appends to a file of its own and knows what was acknowledged.
type writer struct {
	id    int
	name  string
	acked atomic.Int64 // bytes
	size  int
}

func (wr *writer) run(a *Array, rounds int) error {
	rng := rand.New(rand.NewPCG(uint64(wr.id), 3))
	f, err := a.OpenReadWrite(wr.name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	for range rounds {
		n := 1 + rng.IntN(4000)
		if _, err := f.Write(payload(wr.id, wr.size, n, 0)); err != nil {
			return fmt.Errorf("%s: write: %w", wr.name, err)
		}
		wr.size += n
		if rng.IntN(3) > 0 {
			if err := f.Sync(); err != nil {
				return fmt.Errorf("%s: sync: %w", wr.name, err)
			}
			wr.acked.Store(int64(wr.size))
		}
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("%s: sync: %w", wr.name, err)
	}
	wr.acked.Store(int64(wr.size))
	return f.Close()
}

// verify reads the whole file: at least what was acknowledged before, and right.
func (wr *writer) verify(fsys vfs.FS) error {
	least := wr.acked.Load()
	b, err := readFile(fsys, wr.name)
	if err != nil {
		return err
	}
	if int64(len(b)) < least || string(b) != string(payload(wr.id, 0, len(b), 0)) {
		return fmt.Errorf("%s: %d bytes of at least %d, or they are wrong", wr.name, len(b), least)
	}
	return nil
}

// TestConcurrentUseLosesNothing writes, reads, scrubs, fails a member and
// rebuilds it, all at the same time.
func TestConcurrentUseLosesNothing(t *testing.T) {
	for _, s := range []shape{{1, 2}, {5, 4}, {6, 5}} {
		m := vfs.NewMem()
		w := newWorld(s, m)
		w.parallel, w.tail = true, 16<<10
		for _, dirs := range w.dirs {
			must(t, m.MkdirAll(dirs[0], 0o755))
		}
		must(t, w.create())
		for round := range 2 {
			if err := concurrent(w, round); err != nil {
				t.Fatalf("%v: %v", s, errors.Join(err, eventsError(w.events)))
			}
		}
		if st := w.a.Status(); st.State != "healthy" {
			t.Errorf("%v: %+v", s, st)
		}
		must(t, w.a.Close())
		must(t, w.fsck())
	}
}

func concurrent(w *world, round int) error {
	writers := make([]*writer, 4)
	errs := make([]error, len(writers)+2)
	for i := range writers {
		writers[i] = &writer{id: round*10 + i, name: fmt.Sprintf("d/w%d-%d", round, i)}
		f, err := w.a.Create(writers[i].name, vfs.WriteCategoryUnspecified)
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	var work, side sync.WaitGroup
	for i, wr := range writers {
		work.Go(func() { errs[i] = wr.run(w.a, 60) })
	}
	var done atomic.Bool
	side.Go(func() { // readers
		for i := 0; !done.Load() && errs[len(writers)] == nil; i++ {
			errs[len(writers)] = writers[i%len(writers)].verify(w.a)
		}
	})
	side.Go(func() { errs[len(writers)+1] = disturb(w, round, &done) })
	work.Wait()
	done.Store(true)
	side.Wait()
	for _, wr := range writers {
		errs = append(errs, wr.verify(w.a))
	}
	return errors.Join(errs...)
}

// disturb fails a member under way, brings it back, rebuilds and scrubs.
func disturb(w *world, round int, done *atomic.Bool) error {
	ctx := context.Background()
	dir := w.dirs[round%w.width][0]
	for first := true; first || !done.Load(); first = false {
		w.inj[dir].Arm(vfstest.FailIO, 20, true)
		if err := touch(w.a); err != nil {
			return fmt.Errorf("with a member that fails: %w", err)
		}
		w.inj[dir].Disarm()
		if w.a.Status().Members[round%w.width].State == "failed" {
			if err := w.a.Rejoin(Dir{FS: unlocked{w.inj[dir]}, Path: dir}); err != nil {
				return fmt.Errorf("rejoin: %w", err)
			}
		}
		if _, err := w.a.Rebuild(ctx, RebuildOptions{}); err != nil {
			return fmt.Errorf("rebuild: %w", err)
		}
		if r, err := w.a.Scrub(ctx, ScrubOptions{Restart: true}); err != nil || r.Lost > 0 {
			return fmt.Errorf("scrub: %+v, %w", r, err)
		}
	}
	return nil
}

// touch uses the array until a member that fails every call was noticed.
func touch(a *Array) error {
	f, err := a.Create("d/touch", vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	for range 40 {
		if _, err := io.WriteString(f, "some words that nobody reads"); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return f.Close()
}
