package raid

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/raid/format"
	"holdfast/internal/vfstest"
)

// damageScript leaves files with full and short stripes and tails.
const damageScript = "c d wm wt s x b wm wc s x c wz s wt s x c wt s d"

// builtWith returns a world on memory that has run a script.
func builtWith(s shape, muts Mutants, script string) (*world, error) {
	m := vfs.NewMem()
	w := newWorld(s, m)
	w.muts = muts
	for _, dirs := range w.dirs {
		if err := m.MkdirAll(dirs[0], 0o755); err != nil {
			return nil, err
		}
	}
	if err := w.run(script); err != nil {
		return nil, fmt.Errorf("%v: %w", s, errors.Join(err, eventsError(w.events)))
	}
	return w, nil
}

// columns returns the names of the files that hold chunks on a member.
func columns(files map[string][]byte, slot int) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasPrefix(name, fmt.Sprintf("m%d/data/", slot)) && len(files[name]) > 0 {
			out = append(out, name)
		}
	}
	return out
}

// damages are what happens to one column; each returns its new content, nil for
// a file that is gone.
var damages = []struct {
	name string
	do   func(rng *rand.Rand, b, other []byte) []byte
}{
	{"one bit flipped in each slot", func(rng *rand.Rand, b, _ []byte) []byte {
		size := format.SlotSize(testChunk)
		for at := 0; at < len(b); at += size {
			b[at+rng.IntN(min(size, len(b)-at))] ^= 1 << rng.IntN(8)
		}
		return b
	}},
	{"a sector zeroed", func(rng *rand.Rand, b, _ []byte) []byte {
		at := rng.IntN(len(b)) &^ 511
		clear(b[at:min(at+512, len(b))])
		return b
	}},
	{"cut short", func(rng *rand.Rand, b, _ []byte) []byte { return b[:rng.IntN(len(b))] }},
	{"removed", func(*rand.Rand, []byte, []byte) []byte { return nil }},
	{"zeroed", func(_ *rand.Rand, b, _ []byte) []byte { clear(b); return b }},
	{"slots in another order", func(_ *rand.Rand, b, _ []byte) []byte {
		size := format.SlotSize(testChunk)
		if len(b) < 2*size {
			return b
		}
		return slices.Concat(b[size:2*size], b[:size], b[2*size:])
	}},
	{"that of another history", func(_ *rand.Rand, b, other []byte) []byte { return slices.Clone(other) }},
}

// history returns the files after the same operations with other content and
// other generations: whole and self-named chunks that are not those sealed.
func history(s shape, muts Mutants) (mine *world, files, other map[string][]byte, err error) {
	w, err := builtWith(s, muts, "")
	if err != nil {
		return nil, nil, nil, err
	}
	dirs, begin, err := w.collect()
	if err != nil {
		return nil, nil, nil, err
	}
	w.kill()
	two := []*world{nil, nil}
	found := []map[string][]byte{nil, nil}
	for i := range two {
		m, err := vfstest.Build(dirs, begin)
		if err != nil {
			return nil, nil, nil, err
		}
		two[i] = w.after(m)
		two[i].era += uint32(i)
		two[i].rnd += uint64(i)
		err = two[i].mount()
		if err == nil && i == 1 {
			err = two[i].run("k") // another incarnation
		}
		if err == nil {
			err = two[i].run("d " + damageScript)
		}
		if err == nil {
			err = two[i].a.Close()
		}
		if err != nil {
			return nil, nil, nil, err
		}
		two[i].kill()
		if _, found[i], err = two[i].collect(); err != nil {
			return nil, nil, nil, err
		}
	}
	return two[0], found[0], found[1], nil
}

// damaged returns the files with the columns of some members damaged, and how
// many files that changed.
func damaged(rng *rand.Rand, files, other map[string][]byte, slots []int, kind int) (map[string][]byte, int) {
	out, changed := maps.Clone(files), 0
	for _, slot := range slots {
		for _, name := range columns(files, slot) {
			b := damages[kind].do(rng, slices.Clone(files[name]), other[name])
			if b == nil {
				delete(out, name)
			} else {
				out[name] = b
			}
			if !bytes.Equal(b, files[name]) {
				changed++
			}
		}
	}
	return out, changed
}

// openFiles returns a world of the same promises on these files, mounted.
func (w *world) openFiles(dirs []string, files map[string][]byte) (*world, error) {
	m, err := vfstest.Build(dirs, files)
	if err != nil {
		return nil, err
	}
	after := w.after(m)
	if err := after.mount(); err != nil {
		return nil, errors.Join(err, eventsError(after.events))
	}
	return after, nil
}

// dataDirs returns the directories of the members of a closed world.
func (w *world) dataDirs() []string {
	var dirs []string
	for _, list := range w.dirs {
		dirs = append(dirs, list[0], list[0]+"/data")
	}
	return dirs
}

// damageProof: damage to as many members as the level survives is never read as
// data; the first scrub repairs all of it, the second finds nothing, and Check agrees.
func damageProof(muts Mutants) error {
	for _, s := range []shape{{1, 2}, {4, 3}, {5, 4}, {6, 4}, {6, 5}, {1, 3}} {
		if err := damageShape(s, muts, 1); err != nil {
			return fmt.Errorf("%v: %w", s, err)
		}
	}
	return nil
}

func damageShape(s shape, muts Mutants, rounds int) error {
	w, files, other, err := history(s, muts)
	if err != nil {
		return err
	}
	for kind := range damages {
		for round := range rounds {
			rng := rand.New(rand.NewPCG(uint64(kind), uint64(round)))
			slots := rng.Perm(s.width)[:1+rng.IntN(s.parity())]
			bad, changed := damaged(rng, files, other, slots, kind)
			if changed == 0 {
				return fmt.Errorf("%s: nothing to damage in %v", damages[kind].name, slots)
			}
			if err := w.scrubTwice(bad, changed); err != nil {
				return fmt.Errorf("columns of members %v %s (round %d): %w", slots, damages[kind].name, round, err)
			}
		}
	}
	return nil
}

// scrubTwice opens damaged files in two ways: one is read, the other one scrubbed.
func (w *world) scrubTwice(bad map[string][]byte, changed int) error {
	read, err := w.openFiles(w.dataDirs(), bad) // reads everything
	if err != nil {
		return fmt.Errorf("reading: %w", err)
	}
	if err := read.check(); err != nil {
		return fmt.Errorf("reading again: %w", err)
	}
	read.kill()
	m, err := vfstest.Build(w.dataDirs(), bad)
	if err != nil {
		return err
	}
	after := w.after(m)
	if after.a, err = Open(after.options()); err != nil {
		return err
	}
	ctx := context.Background()
	first, err := after.a.Scrub(ctx, ScrubOptions{Restart: true})
	if err != nil {
		return fmt.Errorf("first scrub: %w", err)
	}
	if first.Repaired == 0 || first.Lost != 0 {
		return fmt.Errorf("first scrub: %d columns damaged: %+v", changed, first)
	}
	second, err := after.a.Scrub(ctx, ScrubOptions{Restart: true})
	if err != nil {
		return fmt.Errorf("second scrub: %w", err)
	}
	if second.Found() != 0 || second.Bytes == 0 {
		return fmt.Errorf("the second scrub finds %+v", second)
	}
	fd, err := look(after.a)
	if err != nil {
		return err
	}
	if _, err := w.m.verify(fd); err != nil {
		return err
	}
	if err := after.a.Close(); err != nil {
		return err
	}
	after.kill()
	return after.fsck()
}

func TestFirstScrubRepairsAllAndTheSecondFindsNothing(t *testing.T) {
	for _, s := range shapes {
		if s.parity() == 0 {
			continue
		}
		if err := damageShape(s, Mutants{}, 3*scale()); err != nil {
			t.Errorf("%v: %v", s, err)
		}
	}
}

// TestDamageBeyondTheRedundancyIsRefusedWithFileAndRange damages one member more.
func TestDamageBeyondTheRedundancyIsRefusedWithFileAndRange(t *testing.T) {
	for _, s := range shapes {
		w, files, other, err := history(s, Mutants{})
		must(t, err)
		refused := 0
		for kind := range damages {
			rng := rand.New(rand.NewPCG(uint64(kind), 7))
			bad, _ := damaged(rng, files, other, rng.Perm(s.width)[:s.parity()+1], kind)
			m, err := vfstest.Build(w.dataDirs(), bad)
			must(t, err)
			after := w.after(m)
			after.beyond = true
			after.m = w.m.clone()
			if err := after.mount(); err != nil {
				t.Errorf("%v: %s: %v", s, damages[kind].name, err)
				continue
			}
			fd, err := lookBeyond(after.a)
			must(t, err)
			refused += len(fd.bad)
		}
		if refused < len(damages) {
			t.Errorf("%v: only %d files were refused", s, refused)
		}
	}
}
