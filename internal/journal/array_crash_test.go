package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/raid"
	"holdfast/internal/vfstest"
)

// The journal on an array: a record that spans stripes and segments is there
// whole or not at all after a power cut, at every level, with members lost.

// lockless is a file system without locks: a killed process holds none.
type lockless struct{ vfs.FS }

func (lockless) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

type arrayShape struct{ level, width, survives int }

func (s arrayShape) options(fsys vfs.FS, rnd uint64) raid.Options {
	o := raid.Options{
		Level: s.level, Chunk: 512, Manual: true, Serial: true, ScrubEvery: -1,
		TailSize: 2048, MetaLogSize: 2048, Reserve: -1,
		Rand: func() uint64 { rnd += 0x9e3779b97f4a7c15; return (rnd ^ rnd>>29) * 0xbf58476d1ce4e5b9 },
	}
	for i := range s.width {
		o.Members = append(o.Members, raid.Dir{FS: lockless{fsys}, Path: fmt.Sprintf("m%d", i)})
	}
	return o
}

// arrayExplorer tries power cuts below the array below the journal.
type arrayExplorer struct {
	arrayShape
	cfg    vfstest.Config
	states int
	seen   map[string]bool
	err    error
}

func (x *arrayExplorer) explore(w *world, snap *vfstest.Snapshot) error {
	w.learn()
	key := w.key()
	rng := rand.New(rand.NewPCG(x.cfg.Seed, uint64(x.states)))
	each := max(1, (3*snap.Pending()+x.cfg.Samples)/2) // about two states per barrier
	n := rng.IntN(each)
	for st := range snap.States(x.cfg) {
		if n++; n%each != 0 {
			continue
		}
		k := fmt.Sprint(st.Hash(), key)
		if x.seen[k] {
			continue
		}
		x.seen[k] = true
		if err := x.try(w, st, rng.Perm(x.width)[:rng.IntN(x.survives+1)]); err != nil {
			return fmt.Errorf("%w\nstate:\n%v", err, st)
		}
	}
	return nil
}

func (x *arrayExplorer) try(w *world, st vfstest.State, lost []int) error {
	x.states++
	files := st.Files()
	for _, slot := range lost {
		maps.DeleteFunc(files, func(name string, _ []byte) bool { return strings.HasPrefix(name, fmt.Sprintf("m%d/", slot)) })
	}
	m, err := vfstest.Build(st.Dirs(), files)
	if err != nil {
		return err
	}
	a, err := raid.Open(x.options(m, uint64(x.states)*1000))
	if err != nil {
		return fmt.Errorf("without members %v: %w", lost, err)
	}
	after := newWorld(a, w.opts)
	after.m, after.salt = w.m.clone(), w.salt+uint64(x.states)
	j, rec, err := Open(after.opts)
	if err == nil {
		err = after.m.verify(j, rec)
		j.kill()
	}
	if err != nil {
		return fmt.Errorf("without members %v: %w", lost, err)
	}
	return nil
}

// exploreOnArray runs a script of the journal on an array with a power cut at
// every moment.
func exploreOnArray(s arrayShape, script string, opts Options, cfg vfstest.Config) (int, error) {
	d, err := vfstest.NewDisk(vfs.NewMem())
	if err != nil {
		return 0, err
	}
	for i := range s.width {
		if err := d.MkdirAll(fmt.Sprintf("m%d", i), 0o755); err != nil {
			return 0, err
		}
	}
	a, err := raid.Create(s.options(d, 1))
	if err != nil {
		return 0, err
	}
	w := newWorld(a, opts)
	x := &arrayExplorer{arrayShape: s, cfg: cfg, seen: map[string]bool{}}
	d.OnBarrier(func(op vfstest.Op) {
		if x.err == nil {
			if x.err = x.explore(w, d.Snapshot()); x.err != nil {
				x.err = fmt.Errorf("power cut before %s of %s: %w", op.Kind, op.Name, x.err)
			}
		}
	})
	err = w.run(script)
	if x.err != nil || err != nil {
		return x.states, errors.Join(x.err, err)
	}
	defer w.j.kill()
	if err := x.explore(w, d.Snapshot()); err != nil {
		return x.states, err
	}
	return x.states, a.Close()
}

func TestTransactionOverStripesAndSegmentsIsThereWholeOrNotAtAllOnAnArray(t *testing.T) {
	total := 0
	for k, s := range []arrayShape{{0, 2, 0}, {1, 2, 1}, {4, 3, 1}, {5, 4, 1}, {6, 4, 2}} {
		for i, script := range []string{"asAsasAAsafAfs", "afAfkaAfsAfxAs", "AscasAsaAscas", "AsgAsaAsvAs"} {
			if (i+k)%2 == 1 {
				continue
			}
			states, err := exploreOnArray(s, script, Options{Level: LevelAlways}, vfstest.Config{Exhaustive: 16, Subsets: 2, Samples: 4, Seed: 3})
			total += states
			if err != nil {
				t.Errorf("raid-%d of %d, %s: %v", s.level, s.width, script, err)
				break
			}
		}
	}
	t.Logf("%d states", total)
}

// BenchmarkAlwaysOnArray is the cost of an array on one real disk: synced appends
// to a journal in a plain directory and to one on the array, alternating. The
// figure of-plain is appends per second against the plain directory.
func BenchmarkAlwaysOnArray(b *testing.B) {
	for _, s := range []arrayShape{{1, 2, 1}, {5, 4, 1}} {
		for _, size := range []int{100, 4096} {
			b.Run(fmt.Sprintf("raid-%d of %d/%d bytes", s.level, s.width, size), func(b *testing.B) { benchOnArray(b, s, size) })
		}
	}
}

func benchOnArray(b *testing.B, s arrayShape, size int) {
	plain := started(b, Options{FS: vfs.Default, Dir: b.TempDir(), Level: LevelAlways, PreZero: true})
	o := raid.Options{Level: s.level, ScrubEvery: -1}
	for range s.width {
		o.Members = append(o.Members, raid.Dir{FS: vfs.Default, Path: b.TempDir()})
	}
	a, err := raid.Create(o)
	must(b, err)
	on := started(b, Options{FS: a, Dir: "journal", Level: LevelAlways})
	payload := bytes.Repeat([]byte("x"), size)
	var took [2]time.Duration
	b.ResetTimer()
	for i := range b.N {
		for k := range 2 {
			side := (i + k) % 2
			j := [2]*Journal{plain, on}[side]
			began := time.Now()
			end := j.Append(TypeStream, 0, payload)
			must(b, j.Flush())
			must(b, j.Sync(end))
			took[side] += time.Since(began)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(took[0].Microseconds())/float64(b.N), "plain-µs/op")
	b.ReportMetric(float64(took[1].Microseconds())/float64(b.N), "array-µs/op")
	b.ReportMetric(took[0].Seconds()/took[1].Seconds(), "of-plain")
	must(b, on.Close())
	must(b, a.Close())
}
