package vfstest

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Sizes of the model, in bytes.
const (
	SectorSize = 512
	PageSize   = 4096
)

// Config bounds the states that are built of one snapshot. The zero value means
// the defaults.
type Config struct {
	// Exhaustive: up to so many combinations of all variants of all steps are
	// all built. Default 4096.
	Exhaustive int
	// Subsets: with at most so many steps that are not durable, and too many
	// combinations, all subsets are built, each step whole or lost, and then each
	// tear of each step with the others whole, lost, and at random. Default 12.
	Subsets int
	// Samples: with more steps, the corners and so many states by seed. Default 256.
	Samples int
	Seed    uint64
}

func (c Config) withDefaults() Config {
	if c.Exhaustive == 0 {
		c.Exhaustive = 4096
	}
	if c.Subsets == 0 {
		c.Subsets = 12
	}
	if c.Samples == 0 {
		c.Samples = 256
	}
	return c
}

// Snapshot is a Disk at one moment: what is durable and what may yet persist.
type Snapshot struct {
	durable map[string]*inode
	content map[*inode][]byte
	dirs    []string
	units   []unit
}

// unit is one step that persists or not; a write of a page may also be torn.
type unit struct {
	name *nameOp
	ino  *inode
	w    *write // a piece of a write, within one page
	cuts []int  // lengths of w.data at which a sector boundary lies
}

// variants: 0 lost, 1 whole, 2... torn at cuts.
func (u *unit) variants() int { return 2 + len(u.cuts) }

func (u *unit) String() string {
	if u.name != nil {
		return u.name.text
	}
	return fmt.Sprintf("write #%d [%d:%d]", u.ino.id, u.w.off, u.w.off+int64(len(u.w.data)))
}

// Snapshot takes the state of this moment. It stays valid while the disk goes on.
func (d *Disk) Snapshot() *Snapshot {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := &Snapshot{durable: maps.Clone(d.durable), content: map[*inode][]byte{}, dirs: slices.Sorted(maps.Keys(d.dirs))}
	for _, op := range d.pending {
		s.units = append(s.units, unit{name: op})
	}
	for _, ino := range s.reachable(d.pending) {
		s.content[ino] = ino.data
		for _, w := range ino.pending {
			s.units = append(s.units, pages(ino, w)...)
		}
	}
	return s
}

// reachable returns every inode that some state gives a name, in order of creation.
func (s *Snapshot) reachable(pending []*nameOp) []*inode {
	set := map[*inode]bool{}
	for _, ino := range s.durable {
		set[ino] = true
	}
	for _, op := range pending {
		for _, b := range op.sets {
			if b.ino != nil {
				set[b.ino] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(set), func(a, b *inode) int { return a.id - b.id })
}

// pages cuts a write at page boundaries.
func pages(ino *inode, w *write) []unit {
	var out []unit
	for at := 0; at < len(w.data); {
		off := w.off + int64(at)
		n := min(len(w.data)-at, int(PageSize-off%PageSize))
		u := unit{ino: ino, w: &write{off, w.data[at : at+n]}}
		for cut := int(SectorSize - off%SectorSize); cut < n; cut += SectorSize {
			u.cuts = append(u.cuts, cut)
		}
		out = append(out, u)
		at += n
	}
	return out
}

// Pending returns how many steps are not durable.
func (s *Snapshot) Pending() int { return len(s.units) }

// State is one thing that a power cut may leave.
type State struct {
	snap   *Snapshot
	choice []int // variant of each unit
}

// String says which steps persisted, so that a failure can be understood.
func (st State) String() string {
	var b strings.Builder
	for i, c := range st.choice {
		u := &st.snap.units[i]
		switch {
		case c == 0:
			fmt.Fprintf(&b, "lost %v\n", u)
		case c == 1:
			fmt.Fprintf(&b, "kept %v\n", u)
		default:
			fmt.Fprintf(&b, "torn %v after %d bytes\n", u, u.cuts[c-2])
		}
	}
	return b.String()
}

// Files returns the names and contents of the state. The contents are shared.
func (st State) Files() map[string][]byte {
	names := maps.Clone(st.snap.durable)
	content := maps.Clone(st.snap.content)
	for i, c := range st.choice {
		u := &st.snap.units[i]
		switch {
		case c == 0:
		case u.name != nil:
			apply(names, u.name)
		default:
			w := *u.w
			if c >= 2 {
				w.data = w.data[:u.cuts[c-2]]
			}
			content[u.ino] = overlay(content[u.ino], &w)
		}
	}
	files := make(map[string][]byte, len(names))
	for name, ino := range names {
		files[name] = content[ino]
	}
	return files
}

// FS builds the state as a file system in memory.
func (st State) FS() (*vfs.MemFS, error) { return Build(st.snap.dirs, st.Files()) }

var hashSeed = maphash.MakeSeed()

// Hash identifies the state within this process, to leave out what was tried before.
func (st State) Hash() uint64 {
	files := st.Files()
	var h maphash.Hash
	h.SetSeed(hashSeed)
	var n [8]byte
	for _, name := range slices.Sorted(maps.Keys(files)) {
		for _, b := range [][]byte{[]byte(name), files[name]} {
			binary.LittleEndian.PutUint64(n[:], uint64(len(b)))
			h.Write(n[:])
			h.Write(b)
		}
	}
	return h.Sum64()
}

// States yields what a power cut at this moment may leave: everything if that is
// little enough, else all subsets, else a sample by seed that contains the corners.
func (s *Snapshot) States(cfg Config) iter.Seq[State] {
	cfg = cfg.withDefaults()
	product := 1
	for i := range s.units {
		if product *= s.units[i].variants(); product > cfg.Exhaustive {
			break
		}
	}
	return func(yield func(State) bool) {
		switch {
		case product <= cfg.Exhaustive:
			s.all(yield, func(u *unit) int { return u.variants() })
		case len(s.units) <= cfg.Subsets:
			_ = s.all(yield, func(*unit) int { return 2 }) && s.tears(yield, cfg)
		default:
			_ = s.corners(yield) && s.sample(yield, cfg)
		}
	}
}

// all yields every combination of the first variants of each unit.
func (s *Snapshot) all(yield func(State) bool, variants func(*unit) int) bool {
	choice := make([]int, len(s.units))
	for {
		if !yield(State{s, slices.Clone(choice)}) {
			return false
		}
		i := 0
		for i < len(choice) {
			if choice[i]++; choice[i] < variants(&s.units[i]) {
				break
			}
			choice[i] = 0
			i++
		}
		if i == len(choice) {
			return true
		}
	}
}

// tears yields each tear of each unit, the others whole, lost and at random.
func (s *Snapshot) tears(yield func(State) bool, cfg Config) bool {
	rng := rand.New(rand.NewPCG(cfg.Seed, 1))
	for i := range s.units {
		for v := 2; v < s.units[i].variants(); v++ {
			for mode := range 3 {
				choice := make([]int, len(s.units))
				for k := range choice {
					choice[k] = [3]int{1, 0, rng.IntN(2)}[mode]
				}
				choice[i] = v
				if !yield(State{s, choice}) {
					return false
				}
			}
		}
	}
	return true
}

// corners yields all, nothing, each prefix, and each single step lost or kept.
func (s *Snapshot) corners(yield func(State) bool) bool {
	n := len(s.units)
	for i := 0; i <= n; i++ {
		prefix, lost, kept := make([]int, n), make([]int, n), make([]int, n)
		for k := range n {
			if k < i {
				prefix[k] = 1
			}
			lost[k] = 1
			if k == i {
				lost[k], kept[k] = 0, 1
			}
		}
		for _, c := range [][]int{prefix, lost, kept} {
			if !yield(State{s, c}) {
				return false
			}
		}
	}
	return true
}

// sample yields states at random, from mostly lost to mostly kept.
func (s *Snapshot) sample(yield func(State) bool, cfg Config) bool {
	rng := rand.New(rand.NewPCG(cfg.Seed, 2))
	for range cfg.Samples {
		keep := []float64{0.1, 0.5, 0.9}[rng.IntN(3)]
		choice := make([]int, len(s.units))
		for i := range choice {
			if rng.Float64() < keep {
				choice[i] = 1
				if k := len(s.units[i].cuts); k > 0 && rng.IntN(4) == 0 {
					choice[i] = 2 + rng.IntN(k)
				}
			}
		}
		if !yield(State{s, choice}) {
			return false
		}
	}
	return true
}
