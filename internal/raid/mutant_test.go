package raid

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"holdfast/internal/vfstest"
)

// proofs are the tests that a mutant has to get past, the quickest first.
var proofs = []struct {
	name string
	run  func(Mutants) error
}{
	{"stale members", staleProof},
	{"damaged chunks", damageProof},
	{"silent faults", func(m Mutants) error {
		for _, f := range []vfstest.Fault{vfstest.SyncLost, vfstest.DropWrite, vfstest.MisdirectWrite, vfstest.FlipWrite} {
			for _, s := range []shape{{1, 2}, {5, 3}} {
				if _, err := everyFault(faultCase{shape: s, fault: f, muts: m}, 1, 9); err != nil {
					return err
				}
			}
		}
		return nil
	}},
	{"failed syncs", func(m Mutants) error {
		_, err := everyFault(faultCase{shape: shape{0, 2}, fault: vfstest.SyncLost, muts: m}, 1, 1)
		return err
	}},
	{"power cuts", func(m Mutants) error {
		for _, s := range []shape{{5, 3}, {1, 2}, {6, 4}, {0, 2}} {
			for i, c := range crashScripts {
				if s.parity() < c.needs {
					continue
				}
				if err := exploreScript(s, c.script, crashConfig(uint64(i)), m); err != nil {
					return fmt.Errorf("%v, %s: %w", s, c.name, err)
				}
			}
		}
		return nil
	}},
}

// staleProof: members that were away, halves that ran alone.
func staleProof(m Mutants) error {
	for _, s := range []shape{{1, 2}, {5, 3}, {6, 4}} {
		w, err := builtWith(s, m, "c d wm s wt s A0 f0 u c wm s wt s d k B0 v R v")
		if err != nil {
			return err
		}
		w.kill()
		if err := sourceProof(s, m); err != nil {
			return err
		}
	}
	return splitProof(m)
}

// sourceProof: a member that was away is no source before it is rebuilt.
func sourceProof(s shape, m Mutants) error {
	w, err := builtWith(s, m, "c d wm s wt s A0 f0 wm s wt s d")
	if err != nil {
		return err
	}
	w.kill()
	clear(w.hidden)
	if err := w.mount(); err != nil {
		return err
	}
	w.kill()
	for i := range s.parity() { // it alone is left of those that may be lost
		w.hidden[i+1] = true
	}
	var few *TooFewError
	if err := w.mount(); err != nil && !errors.As(err, &few) {
		return fmt.Errorf("with a member that was away as the only source: %w", err)
	}
	return nil
}

// splitProof: two halves that ran alone must not be opened together.
func splitProof(m Mutants) error {
	w, err := builtWith(shape{1, 2}, m, "c d wt s A1 c wt s d")
	if err != nil {
		return err
	}
	w.kill()
	other := w.after(w.fs)
	other.m = newModel()
	other.only(1)
	a, err := Open(other.options())
	if err != nil {
		return err
	}
	if err := a.Close(); err != nil {
		return err
	}
	clear(w.hidden)
	var split *SplitError
	if _, err := Open(w.options()); !errors.As(err, &split) {
		return fmt.Errorf("halves that ran alone: %w", errors.Join(errors.New("not refused"), err))
	}
	return nil
}

func TestEveryMutantIsCaught(t *testing.T) {
	for _, p := range proofs[:len(proofs)-1] { // the last one is a test of its own
		if err := p.run(Mutants{}); err != nil {
			t.Fatalf("%s fails without a mutant: %v", p.name, err)
		}
	}
	var table strings.Builder
	fmt.Fprintf(&table, "\n%-24s %-18s %-10s %s\n", "mutant", "caught by", "after", "as")
	kind := reflect.TypeFor[Mutants]()
	for i := range kind.NumField() {
		var m Mutants
		reflect.ValueOf(&m).Elem().Field(i).SetBool(true)
		by, as := "", ""
		start := time.Now()
		for _, p := range proofs {
			if err := p.run(m); err != nil {
				by, as = p.name, firstLine(err.Error())
				break
			}
		}
		if by == "" {
			t.Errorf("mutant %s is not caught", kind.Field(i).Name)
			by = "NOTHING"
		}
		fmt.Fprintf(&table, "%-24s %-18s %-10v %.100s\n", kind.Field(i).Name, by, time.Since(start).Round(time.Millisecond), as)
	}
	t.Log(table.String())
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}
