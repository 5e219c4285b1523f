package raid

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"holdfast/internal/raid/format"
)

// RebuildOptions is how a rebuild goes.
type RebuildOptions struct {
	Rate     int64          // bytes per second read from each member; 0: as in Options, negative: unlimited
	Progress func(Progress) // called now and then, without locks held
}

// RebuildResult is what a rebuild did.
type RebuildResult struct {
	Members []int `json:"members"` // slots that are live now and were not before
	Stripes int64 `json:"stripes"` // looked at
	Kept    int64 `json:"kept"`    // chunks of a returned member that were found whole
	Written int64 `json:"written"` // chunks reconstructed and written
	Bytes   int64 `json:"bytes"`   // written
	Lost    int64 `json:"lost"`    // chunks for which too few others are left
	// Problems names up to maxProblems chunks that were found bad.
	Problems []string `json:"problems,omitempty"`
}

// A batch of rebuilt chunks is synced and made durable after so many bytes, or
// stripes: what a crash makes the rebuild do again.
const (
	rebuildBatch   = 32 << 20
	rebuildStripes = 1024
)

// Rebuild puts spares in the slots of failed members, and brings every rebuilding
// member up to date: it walks over the stripes of
// files that exist, keeps what a returned member still holds and verifies,
// reconstructs the rest, and makes the member live when nothing is lacking. With
// no rebuilding member it fills what stripes lack on live ones. Reading and
// writing go on beside it. It goes on where an earlier rebuild was interrupted.
//
// The error is ctx's, or that of an array that has failed or is closed, or
// ENOSPC. Chunks that cannot be reconstructed are counted in Lost and named by
// events; the member becomes live without them.
func (a *Array) Rebuild(ctx context.Context, opts RebuildOptions) (RebuildResult, error) {
	if a.opts.ReadOnly {
		return RebuildResult{}, ErrReadOnly
	}
	if !a.rebuilding.TryLock() {
		return RebuildResult{}, fmt.Errorf("rebuild: %w", ErrBusy)
	}
	defer a.rebuilding.Unlock()
	ctx, done, err := a.job(ctx)
	if err != nil {
		return RebuildResult{}, err
	}
	defer done()
	if err := a.useSpares(); err != nil {
		return RebuildResult{}, err
	}
	if opts.Rate == 0 {
		opts.Rate = a.opts.RebuildRate
	}
	r := &rebuilder{a: a, ctx: ctx, opts: opts, limit: newThrottle(opts.Rate, time.Now), x: a.newExaminer()}
	err = r.run()
	a.setProgress(&a.onBuild, nil)
	return r.res, err
}

type rebuilder struct {
	a       *Array
	ctx     context.Context
	opts    RebuildOptions
	res     RebuildResult
	limit   *throttle
	x       *examiner
	targets uint32 // members that are rebuilding
	batch   repairs
	stripes int                  // in the batch
	lostOn  [format.MaxWidth]int // in this pass: chunks of a member that cannot be brought
	done    int64
	total   int64
}

// run makes passes until no member is rebuilding: one that begins to while a pass
// is under way is not part of that pass.
func (r *rebuilder) run() error {
	for try := 0; ; try++ {
		r.targets = r.a.rebuildingSet()
		r.lostOn = [format.MaxWidth]int{}
		if err := r.a.sealLacking(r.targets); err != nil {
			return err
		}
		if err := r.pass(); err != nil {
			return err
		}
		for m := range slots(r.targets) {
			allowed := r.lostOn[m]
			if try >= maxPasses {
				allowed = math.MaxInt // degraded writes keep coming; the scrub fills them
			}
			ok, err := r.a.setRebuilt(m, allowed)
			if err != nil {
				return err
			}
			if ok {
				r.finished(m)
			}
		}
		left := r.a.rebuildingSet()
		if left == 0 {
			return nil
		}
		// Stripes that were written without the member while it was on its way lie
		// behind; another pass begins at the beginning, and reads what it finds.
		var recs []format.Record
		for m := range slots(left & r.targets) {
			recs = append(recs, format.Rebuild{Member: m})
		}
		if len(recs) > 0 {
			if err := r.a.commit(recs...); err != nil {
				return err
			}
		}
	}
}

// maxPasses is after how many passes a member becomes live although stripes that
// were sealed meanwhile lack its chunk.
const maxPasses = 3

func (r *rebuilder) finished(m int) {
	r.res.Members = append(r.res.Members, m)
	r.a.event(Event{Kind: EventRebuildDone, Member: m, Path: r.a.memberPath(m),
		Text: fmt.Sprintf("%d chunks were written, %d kept, %d lost", r.res.Written, r.res.Kept, r.res.Lost)})
}

// pass walks once over the stripes, from where the rebuild of all targets stands.
func (r *rebuilder) pass() error {
	file, stripe := r.start()
	for m := range slots(r.targets) {
		r.a.event(Event{Kind: EventRebuildBegin, Member: m, Path: r.a.memberPath(m),
			Text: fmt.Sprintf("from file %d, stripe %d on", file, stripe)})
	}
	w := r.a.newWalker(file, stripe)
	defer w.close()
	r.done, r.total = 0, r.a.columnBytes(0)
	r.done = r.total - r.a.columnBytes(file)
	for w.next() {
		err := r.ctx.Err()
		if err == nil {
			err = r.one(w)
		}
		if err != nil {
			return errors.Join(err, r.flush(w))
		}
		w.passed()
		if r.batch.bytes >= rebuildBatch || r.stripes >= rebuildStripes {
			if err := r.flush(w); err != nil {
				return err
			}
		}
	}
	return r.flush(w)
}

// start returns the least of the noted places of all targets.
func (r *rebuilder) start() (file, stripe uint64) {
	first := true
	for m := range slots(r.targets) {
		c := r.a.rebuildPlace(m)
		if first || c.File < file || c.File == file && c.Stripe < stripe {
			file, stripe = c.File, c.Stripe
		}
		first = false
	}
	return file, stripe
}

// one brings one stripe: what a target lacks, and what a live member does.
func (r *rebuilder) one(w *walker) error {
	r.res.Stripes++
	r.stripes++
	live := r.a.liveSet()
	targets := r.targets & r.a.rebuildingSet()
	own := w.rec.Present & targets
	n := int64(format.HeaderArea(r.a.chunk) + r.a.geo.ChunkLength(0, int(w.rec.Length), r.a.chunk))
	r.done += n * int64(popcount(w.rec.Present))
	r.progress()
	if own != 0 {
		// A member that was away may hold its chunks still: nothing else is read then.
		if err := r.limit.take(r.ctx, n); err != nil {
			return err
		}
		e := r.x.examine(w.file, w.stripe, w.offset, &w.rec, own)
		r.res.Kept += int64(popcount(own) - len(e.faults))
		if len(e.faults) == 0 && e.absent&(live|targets) == 0 {
			return nil
		}
	} else if r.lacking(w)&(live|targets) == 0 {
		return nil
	}
	if err := r.limit.take(r.ctx, n); err != nil {
		return err
	}
	e := r.sources(w, live, targets)
	fixed, lost, err := r.a.place(r.x, e, w.name, live|targets, &r.batch)
	if errors.Is(err, errStripeGone) {
		return nil
	}
	r.res.Written += int64(fixed)
	r.res.Bytes += int64(fixed) * n
	r.res.Lost += int64(lost)
	if lost > 0 {
		for m := range slots(targets &^ r.x.goodMembers(e)) {
			r.lostOn[m]++
		}
	}
	for _, f := range e.faults {
		if len(r.res.Problems) < maxProblems && live>>f.member&1 != 0 {
			r.res.Problems = append(r.res.Problems, fmt.Sprintf("%s: stripe %d: chunk on member %d %v", w.name, w.stripe, f.member, f.err))
		}
	}
	return err
}

// lacking returns the members that should hold a chunk of the stripe and do not,
// by the metadata.
func (r *rebuilder) lacking(w *walker) uint32 {
	var set uint32
	for index := range r.a.geo.Width() {
		if r.a.geo.ChunkLength(index, int(w.rec.Length), r.a.chunk) > 0 {
			set |= 1 << r.a.geo.Member(w.stripe, index)
		}
	}
	return set &^ w.rec.Present
}

// sources reads as many chunks as are needed, first from live members, and all
// there are if some of them are bad.
func (r *rebuilder) sources(w *walker, live, targets uint32) *exam {
	few := w.rec.Present & targets
	for m := range slots(w.rec.Present & live) {
		if popcount(few&live) == r.a.geo.Data() {
			break
		}
		few |= 1 << m
	}
	e := r.x.examine(w.file, w.stripe, w.offset, &w.rec, few)
	if r.x.enough(e) {
		return e
	}
	return r.x.examine(w.file, w.stripe, w.offset, &w.rec, live|targets)
}

// flush makes the batch durable, and how far the rebuild came.
func (r *rebuilder) flush(w *walker) error {
	var recs []format.Record
	for m := range slots(r.targets & r.a.rebuildingSet()) {
		recs = append(recs, format.Rebuild{Member: m, File: w.passedFile, Stripe: w.passedStripe})
	}
	r.stripes = 0
	return r.a.flushRepairs(&r.batch, recs...)
}

// rebuildPlace returns how far the rebuild of a member came.
func (a *Array) rebuildPlace(slot int) format.Rebuild {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.st.rebuild[slot]
}

func (r *rebuilder) progress() {
	p := Progress{Done: min(r.done, r.total), Total: r.total, Stage: "rebuild"}
	r.a.setProgress(&r.a.onBuild, &p)
	if r.opts.Progress != nil {
		r.opts.Progress(p)
	}
}
