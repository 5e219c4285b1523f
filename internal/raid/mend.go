package raid

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"holdfast/internal/raid/format"
)

// errStripeGone says that the file of a stripe was removed, or its member replaced,
// while it was worked on.
var errStripeGone = errors.New("gone")

// repairs are chunks that were written to new slots and are not durable yet.
type repairs struct {
	recs    []format.Record
	columns map[columnOf]*placed // written to
	healed  []healed
	bytes   int64
}

// columnOf names a member's file for the chunks of one file of the array.
type columnOf struct {
	member int
	file   uint64
}

// healed is a chunk that was bad, for the event.
type healed struct {
	member int
	name   string
	stripe uint64
	offset int64
	why    error
}

// keys returns the columns in a fixed order.
func (r *repairs) keys() []columnOf {
	return slices.SortedFunc(maps.Keys(r.columns), func(a, b columnOf) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.member, b.member))
	})
}

// place reconstructs the chunks that examine found bad or absent on the given
// members and writes them to new slots. They count from the flush on. It returns
// how many were written and how many could not be reconstructed: those are named
// by an event, and if the member is not live yet recorded as lost, so that it does
// not count as holding them.
func (a *Array) place(x *examiner, e *exam, name string, members uint32, r *repairs) (fixed, lost int, err error) {
	live := a.liveSet()
	for index := range a.geo.Width() {
		m := x.member(e, index)
		why := e.trouble(index, m)
		if e.good>>index&1 != 0 || members>>m&1 == 0 || why == nil {
			continue
		}
		if !x.enough(e) {
			lost++
			a.event(Event{Kind: EventLost, Member: m, Path: a.memberPath(m), File: name, Text: fmt.Sprintf(
				"the chunk of stripe %d at byte %d %v and cannot be reconstructed: %d others are left, %d are needed",
				e.stripe, e.offset, why, popcount(e.good), a.geo.Data())})
			if e.rec.Has(m) && live>>m&1 == 0 {
				r.recs = append(r.recs, format.Lost{File: e.file, Stripe: e.stripe, Member: m})
			}
			continue
		}
		b, sum, err := x.restore(e, index)
		if err != nil {
			return fixed, lost, err
		}
		slot, err := a.placeChunk(r, m, e.file, b)
		if errors.Is(err, errMemberGone) {
			x.drop(e, index) // the file may have modified what it was given
			continue
		}
		if err != nil {
			return fixed, lost, err
		}
		r.add(m, e, name, slot, sum, len(b), why)
		fixed++
	}
	return fixed, lost, nil
}

// trouble returns why the chunk must be written anew, or nil.
func (e *exam) trouble(index, member int) error {
	if e.absent>>member&1 != 0 {
		return errChunkGone
	}
	for _, f := range e.faults {
		if f.index == index {
			return f.err
		}
	}
	return nil
}

func (r *repairs) add(m int, e *exam, name string, slot, sum uint32, n int, why error) {
	r.recs = append(r.recs, format.Repair{File: e.file, Stripe: e.stripe, Member: m, Slot: slot, Gen: e.rec.Gen, Sum: sum})
	if e.rec.Has(m) {
		r.healed = append(r.healed, healed{m, name, e.stripe, e.offset, why})
	}
	r.bytes += int64(n)
}

// flushRepairs syncs the columns that were written to, then makes the records
// durable that name the new chunks, and tells of what was healed. After an error
// nothing of the batch counts.
func (a *Array) flushRepairs(r *repairs, more ...format.Record) error {
	defer a.releaseRepairs(r)
	if len(r.recs)+len(more) == 0 {
		return nil
	}
	if err := a.syncPlaced(r); err != nil {
		return err
	}
	recs := append(r.recs, more...)
	if err := a.commitRepairs(r, recs); err != nil {
		return err
	}
	for _, h := range r.healed {
		a.countHealed(h.member, 1)
		a.event(Event{Kind: EventHealed, Member: h.member, Path: a.memberPath(h.member), File: h.name,
			Text: fmt.Sprintf("the chunk of stripe %d at byte %d %v; it was written anew", h.stripe, h.offset, h.why)})
	}
	return nil
}

// commitRepairs makes the records durable, without those for members that failed
// or were replaced since their chunks were written.
func (a *Array) commitRepairs(r *repairs, recs []format.Record) error {
	a.mu.Lock()
	defer a.unlock()
	keep := recs[:0]
	for _, rec := range recs {
		if rep, ok := rec.(format.Repair); ok {
			p := r.columns[columnOf{rep.Member, rep.File}]
			if p == nil || a.members[rep.Member] != p.m || !p.m.ok() {
				continue
			}
		}
		keep = append(keep, rec)
	}
	if len(keep) == 0 {
		return nil
	}
	if err := a.appendLocked(keep...); err != nil {
		return err
	}
	return a.syncMetaLocked(a.meta.seq)
}

// mend places and flushes the chunks of one stripe.
func (a *Array) mend(x *examiner, e *exam, name string, members uint32) (fixed, lost int, err error) {
	var r repairs
	fixed, lost, err = a.place(x, e, name, members, &r)
	if err != nil {
		a.releaseRepairs(&r)
		return 0, lost, err
	}
	if err := a.flushRepairs(&r); err != nil {
		return 0, lost, err
	}
	return fixed, lost, nil
}
