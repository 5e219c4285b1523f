package raid

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"holdfast/internal/raid/format"
)

// Joining a running array. A directory that joins gets the whole metadata first, as
// a checkpoint that goes to all members; then the membership is raised with it as
// rebuilding. A power cut between leaves a directory that nobody lists.

// Rejoin takes back a member that failed or was away. What it holds counts where it
// is as sealed; a rebuild brings what it lacks.
func (a *Array) Rejoin(d Dir) error {
	if a.opts.ReadOnly {
		return ErrReadOnly
	}
	v := readView(d)
	b := v.best()
	if b == nil {
		if v.err != nil {
			return fmt.Errorf("rejoin %s: %w", d.Path, v.err)
		}
		return fmt.Errorf("rejoin %s: %w", d.Path, ErrNotArray)
	}
	a.mu.Lock()
	defer a.unlock()
	if a.closed {
		return ErrClosed
	}
	if b.Array != a.id || b.Slot < 0 || b.Slot >= a.geo.Width() || a.members[b.Slot].id != b.Member {
		return fmt.Errorf("rejoin %s: %w: it is no member of this array", d.Path, ErrWrongSpec)
	}
	if !isPast(a.super, claimOf(b)) && claimOf(b) != claimOf(a.super) {
		return &SplitError{A: []string{d.Path}, B: []string{"the running array"}, Text: "the directory was written to by another array of the same members"}
	}
	old := a.members[b.Slot]
	if old.ok() {
		return fmt.Errorf("rejoin %s: member %d is %s", d.Path, b.Slot, old.state)
	}
	a.ignore(old.close())
	m := &member{slot: b.Slot, id: b.Member, dir: d, counters: old.counters}
	if err := a.take(m); err != nil {
		a.ignore(m.close())
		return fmt.Errorf("rejoin %s: %w", d.Path, err)
	}
	if err := a.joinLocked(m, false); err != nil {
		return fmt.Errorf("rejoin %s: %w", d.Path, err)
	}
	a.wakeBackground()
	return nil
}

// joinLocked makes m the member of its slot, in the state rebuilding; with blank set
// it holds nothing. mu is held.
func (a *Array) joinLocked(m *member, blank bool) error {
	if err := a.settleLocked(); err != nil {
		a.ignore(m.close())
		return err
	}
	var err error
	a.mu.slowly(func() { err = a.clearJoiner(m) })
	if err != nil {
		a.ignore(m.close())
		return err
	}
	before := a.members[m.slot]
	m.state = "rebuilding"
	a.joins++
	m.joined = a.joins
	a.members[m.slot] = m
	a.meta.files[m.slot], a.meta.written[m.slot] = nil, 0
	a.raisePending = true
	if blank {
		err = a.appendLocked(format.Reset{Member: m.slot})
	}
	if err == nil {
		err = a.checkpointLocked()
	}
	if err == nil && !m.ok() {
		err = errors.New(m.reason)
	}
	if err != nil {
		a.ousted(m, before)
		return err
	}
	a.mu.slowly(func() { err = a.makeReserve(m) })
	if err != nil {
		a.failLocked(m, "write reserve", err)
	}
	return a.settleLocked()
}

// ousted gives the slot of m, whose joining failed, back to who had it. No claim with m
// in it can be in force that was not settled, and the next one is without it. mu is held.
func (a *Array) ousted(m, before *member) {
	if a.members[m.slot] == m {
		a.members[m.slot] = before
		for _, ino := range a.inodesLocked() {
			for i := range ino.open {
				ino.open[i].present &^= 1 << m.slot
			}
		}
		if f := a.meta.files[m.slot]; f != nil {
			a.closing = append(a.closing, f)
			a.meta.files[m.slot], a.meta.written[m.slot] = nil, 0
		}
		if a.tail.members>>m.slot&1 != 0 {
			a.tail.mustRoll = true
		}
	}
	a.raisePending = true
	a.ignore(m.close())
}

// clearJoiner removes the metadata and tails that a joining directory holds from
// before: the numbers may be given out again.
func (a *Array) clearJoiner(m *member) error {
	list, err := m.dir.FS.List(m.dir.Path)
	if err != nil {
		return err
	}
	slices.Sort(list)
	for _, name := range list {
		_, isTail := parseNumber(name, "tail-", ".log")
		_, isCkpt := parseNumber(name, "meta-", ".ckpt")
		_, isLog := parseNumber(name, "meta-", ".log")
		if isTail || isCkpt || isLog || name == preparedName {
			if err := m.dir.FS.Remove(m.path(name)); err != nil {
				return err
			}
		}
	}
	return a.syncMemberDir(m)
}

// slotOf finds a slot by its number or by the path of its member. mu is held.
func (a *Array) slotOf(name string) (int, error) {
	for _, m := range a.members {
		if m.dir.Path == name {
			return m.slot, nil
		}
	}
	if n, err := strconv.Atoi(name); err == nil && n >= 0 && n < a.geo.Width() {
		return n, nil
	}
	return 0, fmt.Errorf("no member %q", name)
}

// Replace gives the slot of a member, named by its path or by the number of its slot, to
// a blank directory, which is then rebuilt. The old one does not belong to the array
// any more.
func (a *Array) Replace(old string, d Dir) error {
	a.mu.Lock()
	slot, err := a.slotOf(old)
	a.mu.Unlock()
	if err == nil {
		err = a.replaceSlot(slot, d)
	}
	if err != nil {
		return fmt.Errorf("replace %s by %s: %w", old, d.Path, err)
	}
	return nil
}

func (a *Array) replaceSlot(slot int, d Dir) error {
	if a.opts.ReadOnly {
		return ErrReadOnly
	}
	m := &member{slot: slot, id: a.newID(), dir: d}
	if err := a.blank(m); err != nil {
		a.ignore(m.close())
		return err
	}
	return a.installLocked(m)
}

// installLocked puts a blank member that is open into its slot; it takes mu.
func (a *Array) installLocked(m *member) error {
	a.mu.Lock()
	defer a.unlock()
	if a.closed {
		a.ignore(m.close())
		return ErrClosed
	}
	old := a.members[m.slot]
	if old.state == "live" && popcount(a.liveLocked()) <= a.geo.Data() {
		a.ignore(m.close())
		return fmt.Errorf("member %d is needed: without it too few are live", m.slot)
	}
	if old.ok() {
		old.state, old.reason = "failed", "replaced"
		if a.tail.members>>m.slot&1 != 0 {
			a.tail.mustRoll = true
		}
		for _, ino := range a.inodesLocked() {
			for i := range ino.open {
				ino.open[i].present &^= 1 << m.slot
			}
		}
		a.raisePending = true
	}
	if err := a.joinLocked(m, true); err != nil {
		return err
	}
	a.ignore(old.close())
	a.eventLocked(Event{Kind: EventReplaced, Member: m.slot, Path: m.dir.Path, Text: "took the slot of " + old.dir.Path})
	a.wakeBackground()
	return nil
}

// AddSpare formats a blank directory as a spare.
func (a *Array) AddSpare(d Dir) error {
	if a.opts.ReadOnly {
		return ErrReadOnly
	}
	m := &member{slot: -1, id: a.newID(), dir: d, state: "spare"}
	if err := a.blank(m); err != nil {
		a.ignore(m.close())
		return fmt.Errorf("add spare %s: %w", d.Path, err)
	}
	a.mu.Lock()
	defer a.unlock()
	if len(a.spares) >= format.MaxSpares {
		a.ignore(m.close())
		return fmt.Errorf("add spare %s: there are %d already", d.Path, len(a.spares))
	}
	a.spares = append(a.spares, m)
	a.raisePending = true
	err := a.settleLocked()
	for step := 0; step < 2 && err == nil; step++ {
		err = a.writeSuper(m, a.super, step)
	}
	if err != nil {
		a.spares = a.spares[:len(a.spares)-1]
		a.raisePending = true
		a.ignore(m.close())
		return fmt.Errorf("add spare %s: %w", d.Path, err)
	}
	a.wakeBackground()
	return nil
}

// spareFor puts a spare into the slot of a member that is out. It returns false if
// there is none.
func (a *Array) spareFor(slot int) (bool, error) {
	a.mu.Lock()
	var m *member
	for i, s := range a.spares {
		if s.state == "spare" {
			m = s
			a.spares = slices.Delete(slices.Clone(a.spares), i, i+1)
			break
		}
	}
	a.mu.Unlock()
	if m == nil {
		return false, nil
	}
	m.slot = slot
	if err := a.installLocked(m); err != nil {
		err = fmt.Errorf("spare %s for member %d: %w", m.dir.Path, slot, err)
		return true, errors.Join(err, a.returnSpare(m, err))
	}
	a.event(Event{Kind: EventSpare, Member: slot, Path: m.dir.Path, Text: "a spare stepped in"})
	return true, nil
}

// returnSpare takes back a spare that did not come into its slot. One that failed over
// it, and not for lack of room, is listed as failed and not tried again before the
// next opening.
func (a *Array) returnSpare(was *member, why error) error {
	m := &member{slot: -1, id: was.id, dir: was.dir, state: "spare"}
	a.mu.Lock()
	defer a.unlock()
	if a.closed {
		return nil // the superblocks may list it, or not: it is blank
	}
	if !was.ok() && was.state != "spare" && was.reason != "" {
		m.state, m.reason = "failed", was.reason
	} else if err := a.take(m); err != nil {
		a.ignore(m.close())
		m.state, m.reason = "failed", err.Error()
	}
	a.spares = append(a.spares, m)
	a.raisePending = true
	if m.state == "failed" {
		a.eventLocked(Event{Kind: EventMemberFailed, Member: -1, Path: m.dir.Path, Text: why.Error()})
		return a.settleLocked()
	}
	err := a.settleLocked()
	if err == nil {
		a.mu.slowly(func() {
			for step := 0; step < 2 && err == nil; step++ {
				err = a.writeSuper(m, a.super, step)
			}
		})
	}
	return err
}
