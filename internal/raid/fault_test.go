package raid

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/vfstest"
)

// faultScript touches every kind of operation.
const faultScript = "c d wt s wZ s wm s c wt s f0 v wK s x d b wm s x d r d f2 wt y U v q f0 wt s wz s v k e wt s d c wt s u d v"

// faultCase is one fault at the n-th call on each of some members.
type faultCase struct {
	shape
	fault vfstest.Fault
	stay  bool
	slots []int
	n     int
	muts  Mutants
}

func (c faultCase) String() string {
	return fmt.Sprintf("%v: %v (lasting: %v) at call %d on members %v", c.shape, c.fault, c.stay, c.n, c.slots)
}

func (c faultCase) within() bool { return len(c.slots) <= c.parity() }

// silent says that the disk tells of a write that it did not do: what it was the
// only one to hold is gone without a trace.
func (c faultCase) silent() bool {
	switch c.fault {
	case vfstest.LostWrite, vfstest.DropWrite, vfstest.FlipWrite, vfstest.MisdirectWrite, vfstest.StaleRead, vfstest.FlipRead:
		return true
	}
	return false
}

// errStop ends a script whose array is gone.
var errStop = errors.New("no array left")

// refusal says whether an error is one that an array may answer with when more
// members fail than it survives, or when a disk is full.
func refusal(err error) bool {
	var (
		de *DataError
		fe *TooFewError
		ce *CorruptError
	)
	return errors.As(err, &de) || errors.As(err, &fe) || errors.As(err, &ce) || errors.Is(err, ErrFailed) || errors.Is(err, ErrReadOnly) ||
		errors.Is(err, ErrNotArray) || errors.Is(err, syscall.ENOSPC)
}

// allowed decides whether a step may fail so.
func (c faultCase) allowed(w *world, err error) error {
	noRoom := errors.Is(err, syscall.ENOSPC) && (c.fault == vfstest.FailNoRoom || c.fault == vfstest.ShortWrite)
	switch {
	case !noRoom && (c.within() || !refusal(err)):
		return err
	case w.a == nil:
		return errStop
	}
	return nil
}

// run carries out the script with the fault, and holds what is left against what
// was promised. It returns how many calls the fault could have hit.
func (c faultCase) run() (count int, err error) {
	d, err := vfstest.NewDisk(vfs.NewMem())
	if err != nil {
		return 0, err
	}
	w := newWorld(c.shape, d)
	w.muts = c.muts
	for _, dirs := range w.dirs {
		if err := d.MkdirAll(dirs[0], 0o755); err != nil {
			return 0, err
		}
	}
	if err := w.create(); err != nil {
		return 0, err
	}
	for _, s := range c.slots {
		w.member(w.dirs[s][0])
		in := w.inj[w.dirs[s][0]]
		if c.fault == vfstest.SyncLost && !c.within() {
			// Of a directory whose sync failed, names that stay visible and never become
			// durable are not found out by anybody who is started anew.
			in.Match = func(op vfstest.Op) bool { return op.Kind != "syncdir" }
		}
		in.Arm(c.fault, c.n, c.stay)
	}
	w.lenient = func(_ string, err error) error { return c.allowed(w, err) }
	w.beyond, w.silent = !c.within(), c.silent()
	err = w.run(faultScript)
	fired := ""
	for _, s := range c.slots {
		in := w.inj[w.dirs[s][0]]
		count = max(count, in.Count())
		if op, ok := in.Fired(); ok {
			fired += fmt.Sprintf(" %v of %s;", op, op.Name)
		}
		in.Disarm()
	}
	if err != nil && !errors.Is(err, errStop) {
		return count, errors.Join(fmt.Errorf("%v:%s %w", c, fired, err), eventsError(w.events))
	}
	w.lenient = nil
	if c.n == 0 {
		return count, nil
	}
	for _, s := range c.slots {
		w.weak[s] = true
	}
	if c.within() {
		err = c.afterWithin(w, d)
	} else {
		err = c.afterBeyond(w, d)
	}
	if err != nil {
		err = errors.Join(fmt.Errorf("%v:%s %w", c, fired, err), eventsError(w.events))
	}
	return count, err
}

// afterWithin goes on after a fault that the level survives: nothing is lost, not
// even by a power cut now, and a rebuild makes everything whole.
func (c faultCase) afterWithin(w *world, d *vfstest.Disk) error {
	if w.a != nil { // else a restart was refused for want of room
		if err := w.check(); err != nil {
			return fmt.Errorf("after the script: %w", err)
		}
	}
	x := &explorer{cfg: vfstest.Config{Exhaustive: 4, Subsets: 1, Samples: 2, Seed: uint64(c.n)}, seed: uint64(c.n), losses: 1, seen: map[uint64]bool{}}
	if c.n%4 == 0 || c.fault == vfstest.LostWrite {
		if err := x.explore(w, d.Snapshot()); err != nil {
			return fmt.Errorf("power cut after the script: %w", err)
		}
	}
	w.kill()
	if err := w.mount(); err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	if err := w.run("R e wt s wZ s v U"); err != nil {
		return fmt.Errorf("after the restart: %w", err)
	}
	return x.clean(w)
}

// afterBeyond is the rule beyond the redundancy: refusal, or the truth.
func (c faultCase) afterBeyond(w *world, d *vfstest.Disk) error {
	if c.fault == vfstest.SyncLost {
		// What was acknowledged before the sync that failed must survive a power cut.
		w.beyond = false
		x := &explorer{cfg: vfstest.Config{Exhaustive: 4, Subsets: 1, Samples: 2, Seed: uint64(c.n)}, seed: uint64(c.n), most: 4, seen: map[uint64]bool{}}
		if err := x.explore(w, d.Snapshot()); err != nil {
			return fmt.Errorf("power cut after the script: %w", err)
		}
		w.beyond = true
	}
	w.kill()
	if err := w.mount(); err != nil && !refusal(err) {
		return fmt.Errorf("restart: %w", err)
	}
	return nil
}

var allFaults = []struct {
	fault vfstest.Fault
	stay  bool
}{
	{vfstest.FailIO, false}, {vfstest.FailIO, true}, {vfstest.FailNoRoom, false}, {vfstest.FailNoRoom, true},
	{vfstest.ShortWrite, false}, {vfstest.SyncLost, false}, {vfstest.FlipRead, false}, {vfstest.FlipWrite, false},
	{vfstest.LostWrite, false}, {vfstest.DropWrite, false}, {vfstest.MisdirectWrite, false}, {vfstest.StaleRead, false},
}

// faultShapes are those that every call is tried with.
var faultShapes = []shape{{0, 2}, {1, 2}, {4, 3}, {5, 3}, {6, 4}}

// slotsFor picks k members, another set for each n.
func slotsFor(s shape, k, n int) []int {
	var out []int
	for i := range k {
		out = append(out, (n+i)%s.width)
	}
	slices.Sort(out)
	return out
}

// everyFault tries a fault at each stride-th call; a stride of 1 is every call.
func everyFault(c faultCase, k, stride int) (tried int, err error) {
	c.slots = slotsFor(c.shape, k, 0)
	total := 0
	for first := range c.width { // members differ in how many calls they get
		c.slots = slotsFor(c.shape, k, first)
		count, err := c.run()
		if err != nil {
			return 0, err
		}
		total = max(total, count)
	}
	for n := 1 + int(c.fault)%stride; n <= total; n += stride {
		c.n, c.slots = n, slotsFor(c.shape, k, n/stride)
		if _, err := c.run(); err != nil {
			return tried, err
		}
		tried++
	}
	return tried, nil
}

// stride leaves out cases in CI; the long form tries every call.
func stride(usual int) int {
	if scale() > 1 {
		return 1
	}
	return usual
}

func TestEveryFaultWithinTheRedundancyLosesNothing(t *testing.T) {
	total := 0
	for _, s := range faultShapes {
		if s.parity() == 0 {
			continue
		}
		t.Run(s.String(), func(t *testing.T) {
			for _, f := range allFaults {
				for k := 1; k <= s.parity(); k++ {
					tried, err := everyFault(faultCase{shape: s, fault: f.fault, stay: f.stay}, k, stride(13))
					total += tried
					if err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	t.Logf("%d faults", total)
}

func TestEveryFaultBeyondTheRedundancyIsRefusedNeverWrong(t *testing.T) {
	total := 0
	for _, s := range faultShapes {
		t.Run(s.String(), func(t *testing.T) {
			for _, f := range allFaults {
				tried, err := everyFault(faultCase{shape: s, fault: f.fault, stay: f.stay}, s.parity()+1, stride(5))
				total += tried
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	t.Logf("%d faults", total)
}

func TestSameScriptMakesTheSameCalls(t *testing.T) {
	for _, s := range faultShapes {
		var first []string
		for range 3 {
			d, err := vfstest.NewDisk(vfs.NewMem())
			must(t, err)
			var calls []string
			d.OnOp(func(op vfstest.Op) { calls = append(calls, op.String()+" "+op.Name) })
			w := newWorld(s, d)
			for _, dirs := range w.dirs {
				must(t, d.MkdirAll(dirs[0], 0o755))
			}
			must(t, w.run(faultScript))
			if first == nil {
				first = calls
			}
			for i := range min(len(first), len(calls)) {
				if first[i] != calls[i] {
					t.Fatalf("%v: call %d is %q, and was %q", s, i, calls[i], first[i])
				}
			}
			if len(first) != len(calls) {
				t.Fatalf("%v: %d calls, and then %d", s, len(first), len(calls))
			}
		}
	}
}

func TestStalledMemberDelaysAndFailsNothing(t *testing.T) {
	for _, s := range faultShapes {
		c := faultCase{shape: s, fault: vfstest.Stall, slots: []int{0}}
		total, err := c.run()
		if err != nil {
			t.Fatal(err)
		}
		for n := 1; n <= total; n += stride(11) {
			c.n = n
			synctest.Test(t, func(t *testing.T) {
				before := time.Now()
				if _, err := c.stalled(); err != nil {
					t.Fatal(err)
				}
				if d := time.Since(before); d != time.Minute {
					t.Fatalf("%v: took %v of virtual time", c, d)
				}
			})
		}
	}
}

// stalled runs the case; even without redundancy every step must succeed.
func (c faultCase) stalled() (int, error) {
	d, err := vfstest.NewDisk(vfs.NewMem())
	if err != nil {
		return 0, err
	}
	w := newWorld(c.shape, d)
	for _, dirs := range w.dirs {
		if err := d.MkdirAll(dirs[0], 0o755); err != nil {
			return 0, err
		}
	}
	if err := w.create(); err != nil {
		return 0, err
	}
	in := w.inj["m0"]
	in.StallFor = time.Minute
	in.Arm(vfstest.Stall, c.n, false)
	if err := w.run(faultScript); err != nil {
		return 0, fmt.Errorf("%v: %w", c, err)
	}
	if st := w.a.Status(); st.State != "healthy" {
		return 0, fmt.Errorf("%v: %s: %s", c, st.State, st.Reason)
	}
	return in.Count(), nil
}
