package raid

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/raid/format"
	"holdfast/internal/vfstest"
)

var allShapes = []shape{{0, 3}, {1, 2}, {1, 3}, {4, 4}, {5, 3}, {5, 4}, {6, 4}, {6, 6}}

// rig is an array in memory with the content that it must have.
type rig struct {
	t      *testing.T
	fs     *vfs.MemFS
	inj    map[string]*vfstest.Injector
	dirs   []string
	spares []string
	shape
	a      *Array
	want   map[string][]byte
	events []Event
	seed   uint64
}

func newRig(t *testing.T, s shape) *rig {
	t.Helper()
	g := &rig{t: t, fs: vfs.NewMem(), shape: s, want: map[string][]byte{}, inj: map[string]*vfstest.Injector{}, seed: 1}
	for i := range s.width {
		g.dirs = append(g.dirs, g.blank(fmt.Sprintf("m%d", i)))
	}
	a, err := Create(g.options())
	if err != nil {
		t.Fatal(err)
	}
	g.a = a
	return g
}

func (g *rig) blank(name string) string {
	g.t.Helper()
	if err := g.fs.MkdirAll(name, 0o755); err != nil {
		g.t.Fatal(err)
	}
	return name
}

func (g *rig) dir(name string) Dir {
	if g.inj[name] == nil {
		g.inj[name] = vfstest.NewInjector(g.fs)
	}
	return Dir{FS: unlocked{g.inj[name]}, Path: name}
}

func (g *rig) options() Options {
	o := Options{
		Level: g.level, Chunk: testChunk, Manual: true, Serial: true,
		ScrubRate: -1, RebuildRate: -1, ScrubEvery: -1, TailSize: 4096, MetaLogSize: 8192, Reserve: -1,
		Now:     func() time.Time { return time.Unix(1_700_000_000, 0) },
		Rand:    func() uint64 { g.seed++; return g.seed * 0x9e3779b97f4a7c15 },
		OnEvent: func(e Event) { g.events = append(g.events, e) },
	}
	for _, d := range g.dirs {
		o.Members = append(o.Members, g.dir(d))
	}
	for _, d := range g.spares {
		o.Spares = append(o.Spares, g.dir(d))
	}
	return o
}

// write makes or goes on with a file; an odd length leaves a tail, and closing
// makes it a short stripe.
func (g *rig) write(name string, n int, keepOpen bool) vfs.File {
	g.t.Helper()
	f, err := g.a.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		g.t.Fatal(err)
	}
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(uint64(n), uint64(len(g.want[name]))))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	g.want[name] = append(g.want[name], b...)
	if _, err := f.Write(bytes.Clone(b)); err != nil {
		g.t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		g.t.Fatal(err)
	}
	if keepOpen {
		return f
	}
	if err := f.Close(); err != nil {
		g.t.Fatal(err)
	}
	return nil
}

// fill writes files of several shapes: many stripes, one byte, an open tail.
func (g *rig) fill() {
	g.t.Helper()
	s := g.stripe()
	g.write("a", 7*s+100, false)
	g.write("b", 1, false)
	g.write("c", s, false)
	for range 3 {
		g.write("d", s+testChunk+3, false)
	}
	if d, err := g.a.OpenDir(""); err != nil {
		g.t.Fatal(err)
	} else if err := errors.Join(d.Sync(), d.Close()); err != nil {
		g.t.Fatal(err)
	}
}

func (g *rig) verify() {
	g.t.Helper()
	for name, want := range g.want {
		f, err := g.a.Open(name)
		if err != nil {
			g.t.Fatal(err)
		}
		got := make([]byte, len(want))
		if _, err := f.ReadAt(got, 0); err != nil {
			g.t.Fatalf("%v: %s: %v", g.shape, name, err)
		}
		if !bytes.Equal(got, want) {
			g.t.Fatalf("%v: %s has other content", g.shape, name)
		}
		if err := f.Close(); err != nil {
			g.t.Fatal(err)
		}
	}
}

func (g *rig) close() {
	g.t.Helper()
	if err := g.a.Close(); err != nil {
		g.t.Fatal(err)
	}
	g.a = nil
}

func (g *rig) open() {
	g.t.Helper()
	a, err := Open(g.options())
	if err != nil {
		g.t.Fatal(err)
	}
	g.a = a
}

func (g *rig) scrub() ScrubResult {
	g.t.Helper()
	res, err := g.a.Scrub(context.Background(), ScrubOptions{Restart: true})
	if err != nil {
		g.t.Fatal(err)
	}
	return res
}

func (g *rig) check(repair bool) *CheckReport {
	g.t.Helper()
	rep, err := Check(g.options(), CheckOptions{Repair: repair})
	if err != nil {
		g.t.Fatal(err)
	}
	return rep
}

func (g *rig) clean() {
	g.t.Helper()
	if rep := g.check(false); rep.Verdict != VerdictClean {
		g.t.Fatalf("%v: check says %s: %v", g.shape, rep.Verdict, rep.Findings)
	}
}

// files returns the paths of a member's files whose base name contains part.
func (g *rig) files(dir, part string) []string {
	g.t.Helper()
	_, files, err := vfstest.Collect(g.fs, dir)
	if err != nil {
		g.t.Fatal(err)
	}
	var list []string
	for name, b := range files {
		if strings.Contains(name[strings.LastIndex(name, "/")+1:], part) && len(b) > 0 {
			list = append(list, name)
		}
	}
	return list
}

// flip changes bytes of a file in place, where f says, under open handles too.
func (g *rig) flip(name string, where func(b []byte) []int) {
	g.t.Helper()
	f, err := g.fs.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		g.t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		g.t.Fatal(err)
	}
	b := make([]byte, info.Size())
	if _, err := f.ReadAt(b, 0); err != nil {
		g.t.Fatal(err)
	}
	for _, i := range where(b) {
		b[i] ^= 0x40
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		g.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		g.t.Fatal(err)
	}
}

// everySlot flips a byte of the first block of every chunk in a column, or of its
// header.
func everySlot(header bool) func(b []byte) []int {
	return func(b []byte) []int {
		var at []int
		size, area := format.SlotSize(testChunk), format.HeaderArea(testChunk)
		for i := 0; i < len(b); i += size {
			if header {
				at = append(at, i+30)
			} else if i+area < len(b) {
				at = append(at, i+area)
			}
		}
		return at
	}
}

// TestSecondScrubFindsNothing damages as many members as the level survives, in
// every chunk, under an open array. The first scrub repairs all of it, the second
// finds nothing, and so does the check.
func TestSecondScrubFindsNothing(t *testing.T) {
	for _, s := range allShapes {
		if s.parity() == 0 {
			continue
		}
		for first := range s.width {
			g := newRig(t, s)
			g.fill()
			damaged := 0
			for k := range s.parity() {
				for _, col := range g.files(g.dirs[(first+k)%s.width], ".col") {
					g.flip(col, everySlot(k%2 == 0))
					damaged++
				}
			}
			res := g.scrub()
			if damaged > 0 && res.Repaired == 0 || res.Lost != 0 {
				t.Fatalf("%v: %d columns were damaged, the scrub says %+v", s, damaged, res)
			}
			if res := g.scrub(); res.Found() != 0 {
				t.Fatalf("%v: the second scrub found %+v", s, res)
			}
			g.verify()
			g.close()
			g.clean()
			g.open()
			g.verify()
			g.close()
		}
	}
}

// TestScrubOfAnUndamagedArray finds nothing, verifies every chunk, and is
// remembered.
func TestScrubOfAnUndamagedArray(t *testing.T) {
	for _, s := range allShapes {
		g := newRig(t, s)
		g.fill()
		f := g.write("open", 100, true)
		res := g.scrub()
		if res.Found() != 0 || res.Chunks == 0 || res.Stripes == 0 {
			t.Fatalf("%v: %+v", s, res)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		g.close()
		g.open()
		if st := g.a.Status(); st.LastScrub.Unix() != 1_700_000_000 || st.Members[0].LastScrub.IsZero() {
			t.Fatalf("%v: last scrub %v, of member 0 %v", s, st.LastScrub, st.Members[0].LastScrub)
		}
		g.verify()
		g.close()
		g.clean()
	}
}

// TestScrubOfTheCopies: superblocks, metadata journal and tail log of one member
// are damaged under an open array; one scrub writes them anew.
func TestScrubOfTheCopies(t *testing.T) {
	for _, s := range allShapes {
		if s.parity() == 0 {
			continue
		}
		for _, part := range []string{"superblock.", "meta-", "tail-"} {
			g := newRig(t, s)
			g.fill()
			f := g.write("open", 100, true)
			hit := 0
			for _, d := range g.dirs {
				names := g.files(d, part)
				for _, name := range names {
					g.flip(name, func(b []byte) []int {
						if part == "tail-" || strings.HasSuffix(name, ".log") {
							return []int{format.MetaHeaderSize + 9}
						}
						return []int{20}
					})
					hit++
				}
				if len(names) > 0 {
					break
				}
			}
			if hit == 0 {
				t.Fatalf("%v: no %s", s, part)
			}
			res := g.scrub()
			if res.Superblocks+res.Metadata+res.Tails == 0 {
				t.Fatalf("%v: damaged %s was not noticed: %+v", s, part, res)
			}
			if res := g.scrub(); res.Found() != 0 {
				t.Fatalf("%v: %s: the second scrub found %+v", s, part, res)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			g.close()
			g.clean()
			g.open()
			g.verify()
			g.close()
		}
	}
}

// TestScrubGoesOn where it was interrupted, also after a restart.
func TestScrubGoesOn(t *testing.T) {
	g := newRig(t, shape{5, 4})
	g.fill()
	ctx, cancel := context.WithCancel(context.Background())
	n := 0
	_, err := g.a.Scrub(ctx, ScrubOptions{Progress: func(Progress) {
		if n++; n == 5 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	g.close()
	g.open()
	rest, err := g.a.Scrub(context.Background(), ScrubOptions{})
	if err != nil {
		t.Fatal(err)
	}
	whole := g.scrub()
	if !rest.Resumed || rest.Stripes != whole.Stripes-5 {
		t.Errorf("a pass looks at %d stripes; interrupted after 5 it looked at %d more, resumed %t", whole.Stripes, rest.Stripes, rest.Resumed)
	}
	g.close()
}

// TestScrubBeyondRedundancy: one chunk more than the level survives is counted as
// lost, named by an event, and reading it is an error that names file and range.
func TestScrubBeyondRedundancy(t *testing.T) {
	for _, s := range allShapes {
		g := newRig(t, s)
		g.fill()
		for k := range s.parity() + 1 {
			for _, col := range g.files(g.dirs[k], ".col") {
				g.flip(col, everySlot(false))
			}
		}
		res := g.scrub()
		if res.Lost == 0 {
			t.Fatalf("%v: %+v", s, res)
		}
		lost := false
		for _, e := range g.events {
			lost = lost || e.Kind == EventLost
		}
		if !lost {
			t.Errorf("%v: no event says so", s)
		}
		failed := false
		for name := range g.want {
			f, err := g.a.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.ReadAt(make([]byte, len(g.want[name])), 0)
			var de *DataError
			if errors.As(err, &de) {
				failed = true
				if de.Len == 0 || !strings.HasSuffix(name, de.File) && !strings.HasSuffix(de.File, name) {
					t.Errorf("%v: %v", s, err)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if !failed {
			t.Errorf("%v: everything could be read", s)
		}
		g.close()
		if rep := g.check(false); rep.Verdict != VerdictDecision || rep.ExitCode() != 2 {
			t.Errorf("%v: check says %s", s, rep.Verdict)
		}
	}
}

// TestScrubRate: the time that a scrub must take follows from rate and bytes.
func TestScrubRate(t *testing.T) {
	now := time.Unix(100, 0)
	th := newThrottle(1<<20, func() time.Time { return now })
	var waited time.Duration
	for range 64 {
		d := th.owe(64 << 10)
		waited += d
		now = now.Add(d)
	}
	if waited < 3900*time.Millisecond || waited > 4100*time.Millisecond {
		t.Errorf("4 MiB at 1 MiB/s took %v", waited)
	}
	now = now.Add(time.Hour)
	if d := th.owe(1); d > time.Second {
		t.Errorf("an idle hour is not paid back: %v", d)
	}
	if d := newThrottle(-1, time.Now).owe(1 << 40); d != 0 {
		t.Errorf("unlimited waits %v", d)
	}
}
