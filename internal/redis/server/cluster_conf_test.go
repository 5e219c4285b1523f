package server

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/redis/config"
	"holdfast/internal/redis/logline"
	"holdfast/internal/redis/process"
	"holdfast/internal/vfstest"
)

// confText is a nodes.conf whose text and length depend on n almost everywhere:
// of less than a sector, or of several pages.
func confText(n, nodes int) []byte {
	var b bytes.Buffer
	for i := range nodes + n%2 {
		flags := "master"
		if i == 0 {
			flags = "myself,master"
		}
		fmt.Fprintf(&b, "%040x 127.0.0.1:%d@%d %s - %d %d %d connected %d-%d\n", i+1, 7000+i, 17000+i, flags, n*1009, n*2003, n+i, i*10, i*10+n%10)
	}
	fmt.Fprintf(&b, "vars currentEpoch %d lastVoteEpoch %d\n", n+100, n)
	return b.Bytes()
}

func confLog(t *testing.T) *process.Logger {
	t.Helper()
	log, err := process.NewLogger(process.LogOptions{Config: config.Default(), Output: io.Discard, Role: func() byte { return logline.Master }})
	if err != nil {
		t.Fatal(err)
	}
	return log
}

var confSizes = [...]int{3, 45}

// confRun stores versions 1, 2, ... by seed on a disk, and has look called
// whenever a power cut or a kill might come: done is the version that must be
// there at least, begun the one that may be.
func confRun(t *testing.T, fs vfs.FS, nodes int, seed uint64, look func(done, begun int)) {
	t.Helper()
	n, _, err := openNodesFile(fs, "/", "nodes.conf", confLog(t))
	if err != nil {
		t.Fatal(err)
	}
	defer n.close()
	rng := rand.New(rand.NewPCG(seed, 1))
	done := 0
	var soon *written
	for i := 1; i <= 14; i++ {
		sync := i == 1 || rng.IntN(4) == 0
		look(done, i)
		if err := n.store(confText(i, nodes), sync); err != nil {
			t.Fatal(err)
		}
		if sync {
			done = i
		}
		look(done, i)
		if soon == nil && rng.IntN(3) == 0 {
			w := n.written()
			soon = &w
		}
		if soon != nil && rng.IntN(2) == 0 { // which other stores may have come before
			if err := n.syncSoon(*soon); err != nil {
				t.Fatal(err)
			}
			n.isDurable(*soon)
			if soon.generation == n.generation {
				done = i
			}
			soon = nil
			look(done, i)
		}
	}
}

// confFound is the version that a start would find.
func confFound(t *testing.T, fs vfs.FS, nodes int, where string) int {
	t.Helper()
	n, state, err := openNodesFile(fs, "/", "nodes.conf", confLog(t))
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	n.close()
	if state == nil {
		return 0
	}
	// The epochs of a newer copy may have been added.
	text, _, _ := strings.Cut(string(state), "\n\nvars")
	text = strings.TrimRight(text, "\n")
	for i := 1; i <= 14; i++ {
		if text == strings.TrimRight(string(confText(i, nodes)), "\n") {
			return i
		}
	}
	t.Fatalf("%s: what is found was never stored:\n%s", where, state)
	return 0
}

func TestNodesConfAfterAPowerCut(t *testing.T) {
	states, seeds := 0, uint64(2)
	if testing.Short() {
		seeds = 1
	}
	for seed := range seeds {
		nodes := confSizes[seed%2]
		d, err := vfstest.NewDisk(vfs.NewMem())
		if err != nil {
			t.Fatal(err)
		}
		done, begun := 0, 0
		check := func(op vfstest.Op) {
			for st := range d.Snapshot().States(vfstest.Config{Exhaustive: 4, Subsets: 1, Samples: 5, Seed: seed}) {
				fs, err := st.FS()
				if err != nil {
					t.Fatal(err)
				}
				states++
				if got := confFound(t, fs, nodes, fmt.Sprintf("seed %d before %s: %s", seed, op, st)); got < done || got > begun {
					t.Fatalf("seed %d before %s: version %d found, %d was durable, %d was stored: %s", seed, op, got, done, begun, st)
				}
			}
		}
		d.OnBarrier(check)
		confRun(t, d, nodes, seed, func(a, b int) {
			done, begun = a, b
			check(vfstest.Op{})
		})
	}
	t.Logf("%d states", states)
}

// A kill leaves what the operating system has been given; of a write that is
// under way the beginning, in whole sectors.
func TestNodesConfAfterAKill(t *testing.T) {
	for seed := range uint64(2) {
		fs, nodes := vfs.NewMem(), confSizes[seed%2]
		before, old := map[string][]byte{}, 0
		confRun(t, fs, nodes, seed, func(_, begun int) {
			_, files, err := vfstest.Collect(fs, "/")
			if err != nil {
				t.Fatal(err)
			}
			for name := range files {
				for cut := 0; cut < len(files[name]); cut += vfstest.SectorSize {
					torn := map[string][]byte{}
					for other, b := range files {
						torn[other] = b
					}
					torn[name] = append(bytes.Clone(files[name][:cut]), before[name][min(cut, len(before[name])):]...)
					if strings.HasSuffix(name, "nodes.conf") && len(before[name]) == 0 {
						continue // replaced in one step
					}
					m, err := vfstest.Build([]string{"/"}, torn)
					if err != nil {
						t.Fatal(err)
					}
					if got := confFound(t, m, nodes, fmt.Sprintf("seed %d, %s cut at %d", seed, name, cut)); got < old || got > begun {
						t.Fatalf("seed %d, %s cut at %d: version %d found, %d had been stored, %d was being", seed, name, cut, got, old, begun)
					}
				}
			}
			before, old = files, confFound(t, fs, nodes, "whole")
		})
	}
}

// A power cut may keep the length of one version and the content of another, and
// lose all copies but the one that is known to be durable.
func TestNodesConfIsWrittenInPlaceOnlyBesideADurableCopy(t *testing.T) {
	fs := vfs.NewMem()
	n, _, err := openNodesFile(fs, "/", "nodes.conf", confLog(t))
	if err != nil {
		t.Fatal(err)
	}
	defer n.close()
	store := func(i int, sync, inPlace bool) {
		t.Helper()
		held := n.held.File
		if err := n.store(confText(i, 3), sync); err != nil {
			t.Fatal(err)
		}
		if (held == n.held.File) != inPlace {
			t.Fatalf("version %d: in place: %v", i, !inPlace)
		}
	}
	soon := func() {
		w := n.written()
		if err := n.syncSoon(w); err != nil {
			t.Fatal(err)
		}
		n.isDurable(w)
	}
	store(1, true, false)
	store(2, false, false) // nothing is durable but nodes.conf
	soon()
	for i := 3; i < 8; i++ {
		store(i, false, true)
		_, files, err := vfstest.Collect(fs, "/")
		if err != nil {
			t.Fatal(err)
		}
		for name := range files {
			if name != n.path && name != n.durable.path {
				delete(files, name)
			}
		}
		for _, text := range [][]byte{confText(i, 3)[:300], append(confText(i-1, 3), make([]byte, 9)...), nil} {
			files[n.path] = text
			m, err := vfstest.Build([]string{"/"}, files)
			if err != nil {
				t.Fatal(err)
			}
			if got := confFound(t, m, 3, "torn"); got < 2 {
				t.Fatalf("version %d found behind version %d", got, i)
			}
		}
	}
	store(8, true, false)
	store(9, false, false) // the durable copy is older than version 8
	soon()
	store(10, false, true)
}
