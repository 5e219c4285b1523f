package journal

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/vfstest"
)

// finished runs a script, closes the journal in order, and returns the files.
func finished(script string, opts Options) (map[string][]byte, *world, error) {
	d, err := vfstest.NewDisk(vfs.NewMem())
	if err != nil {
		return nil, nil, err
	}
	w := newWorld(d, opts)
	if err := w.run(script); err != nil {
		return nil, nil, err
	}
	if err := w.j.Close(); err != nil {
		return nil, nil, err
	}
	w.gen.acked = w.gen.end()
	dirf, err := d.OpenDir(testDir)
	if err != nil {
		return nil, nil, err
	}
	if err := errors.Join(dirf.Sync(), dirf.Close()); err != nil {
		return nil, nil, err
	}
	for st := range d.Snapshot().States(vfstest.Config{}) {
		return st.Files(), w, nil
	}
	return nil, nil, errors.New("no state")
}

// memWith returns a file system with these files.
func memWith(files map[string][]byte) (*vfs.MemFS, error) {
	m := vfs.NewMem()
	if err := m.MkdirAll(testDir, 0o755); err != nil {
		return nil, err
	}
	for name, b := range files {
		f, err := m.Create(name, writeCategory)
		if err != nil {
			return nil, err
		}
		if _, err := f.Write(slices.Clone(b)); err != nil {
			return nil, err
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// openDamaged opens what a damage left: it must be refused as corrupt or hold
// everything.
func openDamaged(files map[string][]byte, w *world) (refused bool, err error) {
	m, err := memWith(files)
	if err != nil {
		return false, err
	}
	after := newWorld(m, w.opts)
	j, rec, err := Open(after.opts)
	if errors.Is(err, ErrCorrupt) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer j.kill()
	return false, w.m.verify(j, rec)
}

// eachDamage calls fn with each variant of the files that some damage makes.
func eachDamage(files map[string][]byte, fn func(what string, files map[string][]byte) error) error {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !strings.Contains(name, "/journal") {
			continue // the checkpoint is its owner's
		}
		change := func(what string, b []byte) error {
			c := maps.Clone(files)
			c[name] = b
			if b == nil {
				delete(c, name)
			}
			return fn(name+": "+what, c)
		}
		whole := files[name]
		for off := range whole {
			b := slices.Clone(whole)
			b[off] ^= 1 << (off % 8)
			if err := change(fmt.Sprintf("bit %d of byte %d flipped", off%8, off), b); err != nil {
				return err
			}
		}
		for off := 0; off < len(whole); off += 512 {
			b := slices.Clone(whole)
			clear(b[off:min(off+512, len(b))])
			if err := change(fmt.Sprintf("sector at %d zeroed", off), b); err != nil {
				return err
			}
			if err := change(fmt.Sprintf("cut to %d bytes", off), slices.Clone(whole[:off])); err != nil {
				return err
			}
		}
		if err := change("removed", nil); err != nil {
			return err
		}
	}
	return nil
}

const damageScript = "asasafsasascasafsasasasmasa"

// damageProof is the rule: damage below the synced position is never cut away
// and never read as data.
func damageProof(opts Options) error {
	opts.Level = LevelAlways
	files, w, err := finished(damageScript, opts)
	if err != nil {
		return err
	}
	refused := 0
	err = eachDamage(files, func(what string, files map[string][]byte) error {
		r, err := openDamaged(files, w)
		if r {
			refused++
		}
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	})
	if err == nil && refused < 500 {
		err = fmt.Errorf("only %d damages were refused", refused)
	}
	return err
}

func TestDamageBelowTheSyncedPositionIsNeverCutAway(t *testing.T) {
	for _, zero := range []bool{false, true} {
		if err := damageProof(Options{PreZero: zero}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCheckAgreesWithOpen(t *testing.T) {
	files, w, err := finished(damageScript, Options{Level: LevelAlways})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = eachDamage(files, func(what string, files map[string][]byte) error {
		if n++; n%5 != 0 {
			return nil
		}
		m, err := memWith(files)
		if err != nil {
			return err
		}
		var text strings.Builder
		rep, err := Check(m, testDir, &text)
		if err != nil {
			return err
		}
		refused, err := openDamaged(files, w)
		if err != nil {
			return err
		}
		if (rep.Verdict == VerdictCorrupt) != refused {
			return fmt.Errorf("%s: Check says %s, Open refused: %v", what, rep.Verdict, refused)
		}
		return Dump(m, testDir, io.Discard, DumpOptions{Payload: 10})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestMissingManifestsAreNotAFreshStart(t *testing.T) {
	files, w, err := finished("asas", Options{Level: LevelAlways})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range manifestNames {
		delete(files, testDir+"/"+name)
	}
	if refused, err := openDamaged(files, w); err != nil || !refused {
		t.Fatalf("refused %v, %v", refused, err)
	}
}

func TestSwappedSegmentsAreRefused(t *testing.T) {
	files, w, err := finished("asasasasasasas", Options{Level: LevelAlways})
	if err != nil {
		t.Fatal(err)
	}
	a, b := testDir+"/"+segmentName(1, 1), testDir+"/"+segmentName(1, 2)
	files[a], files[b] = files[b], files[a]
	if refused, err := openDamaged(files, w); err != nil || !refused {
		t.Fatalf("refused %v, %v", refused, err)
	}
}

func TestDamageThatTheCheckpointCoversDoesNotStopTheStart(t *testing.T) {
	files, w, err := finished("asasasasasascasas", Options{Level: LevelAlways, RetainSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	files[testDir+"/"+segmentName(1, 1)][segHeaderArea+linkFrame+50] ^= 1
	m, err := memWith(files)
	if err != nil {
		t.Fatal(err)
	}
	after := newWorld(m, w.opts)
	j, rec, err := Open(after.opts)
	if err != nil {
		t.Fatal(err)
	}
	defer j.kill()
	if len(rec.Notes) != 1 || rec.FirstPos == 0 {
		t.Errorf("notes %v, first position %d", rec.Notes, rec.FirstPos)
	}
	if err := w.m.verify(j, rec); err != nil {
		t.Error(err)
	}
}

func TestReadErrorIsNeitherTornNorCorrupt(t *testing.T) {
	files, w, err := finished("asasas", Options{Level: LevelAlways})
	if err != nil {
		t.Fatal(err)
	}
	m, err := memWith(files)
	if err != nil {
		t.Fatal(err)
	}
	in := vfstest.NewInjector(m)
	in.Match = func(op vfstest.Op) bool { return op.Kind == "read" }
	in.Arm(vfstest.FailIO, 0, false)
	for n := 1; ; n++ {
		in.Arm(vfstest.FailIO, n, false)
		after := newWorld(in, w.opts)
		j, rec, err := Open(after.opts)
		if _, fired := in.Fired(); !fired {
			in.Disarm()
			if err != nil {
				t.Fatal(err)
			}
			if err := w.m.verify(j, rec); err != nil {
				t.Error(err)
			}
			j.kill()
			if n < 5 {
				t.Errorf("only %d reads", n-1)
			}
			return
		}
		var re *ReadError
		if !errors.As(err, &re) || errors.Is(err, ErrCorrupt) {
			t.Fatalf("read %d fails: %v", n, err)
		}
	}
}
