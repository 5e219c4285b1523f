package raid

import (
	"context"
	"errors"
	"time"
)

// The array looks after itself: a spare takes the slot of a member that failed, what
// is rebuilding is rebuilt, what stripes lack is filled, and all of it is scrubbed
// when that is due.

// backgroundTick is how long a chore that could not be done now waits at most.
const backgroundTick = time.Minute

// startBackground begins to look after the array, unless that is left to the caller.
func (a *Array) startBackground() {
	if a.opts.Manual || a.opts.ReadOnly {
		return
	}
	ctx, done, err := a.job(context.Background())
	if err != nil {
		return // closed already
	}
	a.bgMu.Lock()
	a.wake = make(chan struct{}, 1)
	wake := a.wake
	a.bgMu.Unlock()
	go func() {
		defer done()
		a.lookAfter(ctx, wake)
	}()
}

// wakeBackground says that the membership has changed. Locks may be held.
func (a *Array) wakeBackground() {
	a.bgMu.Lock()
	defer a.bgMu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default: // nobody there, or told already
	}
}

func (a *Array) lookAfter(ctx context.Context, wake <-chan struct{}) {
	for changed := true; ; {
		timer := time.NewTimer(a.chores(ctx, changed))
		changed = false
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-wake:
			changed = true
		case <-timer.C:
		}
		timer.Stop()
	}
}

// chores does what is due, one after the other: redundancy first. It returns when to
// look again at the latest. What fails is tried again then; what concerns somebody
// has been an event. Gaps are looked for only after a change of the membership,
// because that means looking at all stripe records; the scrub fills them too.
func (a *Array) chores(ctx context.Context, changed bool) time.Duration {
	if err := a.useSpares(); err == nil && (a.rebuildingSet() != 0 || changed && a.gaps()) {
		_, err = a.Rebuild(ctx, RebuildOptions{})
		if errors.Is(err, ErrFailed) || errors.Is(err, ErrClosed) {
			return backgroundTick
		}
	}
	due := a.scrubDue()
	if due > 0 {
		return min(due, backgroundTick)
	}
	if _, err := a.Scrub(ctx, ScrubOptions{}); err != nil {
		return backgroundTick
	}
	return min(max(a.scrubDue(), time.Second), backgroundTick)
}

// gaps reports whether a stripe lacks a chunk on a live member.
func (a *Array) gaps() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for s := range slots(a.liveLocked()) {
		if a.lackingLocked(s) > 0 {
			return true
		}
	}
	return false
}

// scrubDue returns how long until the next scrub; 0 or less: now. An interrupted one
// is due at once.
func (a *Array) scrubDue() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.opts.ScrubEvery < 0 || a.failed != nil:
		return backgroundTick
	case a.st.scrub.Running:
		return 0
	case a.st.scrub.LastFull == 0:
		// Never scrubbed: a new array, which is due after the first interval.
		return time.Unix(0, a.super.Created).Add(a.opts.ScrubEvery).Sub(a.opts.Now())
	}
	return time.Unix(0, a.st.scrub.LastFull).Add(a.opts.ScrubEvery).Sub(a.opts.Now())
}

// useSpares puts spares into the slots of members that are out: at once for one that
// failed, and after Options.SpareAfter for one that is merely not there, which may
// come back.
func (a *Array) useSpares() error {
	a.mu.Lock()
	now := a.opts.Now()
	var out []int
	for s, m := range a.members {
		switch {
		case m.ok():
			delete(a.awaySince, s)
		case m.state == "failed":
			out = append(out, s)
		default:
			if a.awaySince == nil {
				a.awaySince = map[int]time.Time{}
			}
			since, known := a.awaySince[s]
			if !known {
				a.awaySince[s], since = now, now
			}
			if now.Sub(since) >= a.opts.SpareAfter {
				out = append(out, s)
			}
		}
	}
	failed := a.failed != nil
	a.mu.Unlock()
	if failed {
		return nil
	}
	for _, s := range out {
		var errs []error
		for {
			took, err := a.spareFor(s)
			if err == nil && took {
				break
			}
			if errs = append(errs, err); !took || !a.sparesFailed(len(errs)) {
				return errors.Join(errs...)
			}
		}
	}
	return nil
}

// sparesFailed reports whether at least n spares are known to have failed, so that the
// next one may be tried.
func (a *Array) sparesFailed(n int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range a.spares {
		if m.state == "failed" {
			n--
		}
	}
	return n <= 0
}
