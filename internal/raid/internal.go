package raid

import (
	"maps"
	"slices"
	"time"
)

// What scrub, rebuild, check and the background build on:
//
//	a.chunkLocked(ino, n, index, …)     where a chunk stands and what its header must say
//	a.readChunk(ino, &state)            header area and data of a chunk, verified
//	a.reconstruct(ino, n, index)        a chunk from the others, verified against the seal
//	a.heal(ino, n, index, slot)         written to a new slot, synced, recorded
//	a.appendLocked(records…)            one atomic step of the metadata
//	a.syncMetaLocked(seq)               … durable
//	a.checkpointLocked()                all metadata anew on all members
//	a.rollTailLocked()                  the tail log anew
//	a.failLocked(m, doing, err)         takes a member out; settleLocked finishes it
//	a.joinLocked(m, blank)              brings a directory in, as rebuilding
//	loadMeta, loadTail, readView, assemble    the same offline, writing nothing

// openFilesLocked returns the files with something that is not sealed, in order. mu is held.
func (a *Array) openFilesLocked() (out []*inode) {
	for _, id := range sortedIDs(a.st.files) {
		if ino := a.st.files[id]; len(ino.open) > 0 || len(ino.buf) > 0 {
			out = append(out, ino)
		}
	}
	return out
}

// Status returns the state of this moment.
func (a *Array) Status() Status {
	scrub, rebuild := a.progress()
	a.mu.look()
	defer a.mu.looked()
	s := Status{
		ID: a.id.String(), Level: a.geo.Level(), Width: a.geo.Width(), Chunk: a.chunk, Count: a.super.Count,
		ReadOnly: a.opts.ReadOnly, NoRoom: a.full, Files: len(a.st.files), Scrub: scrub, Rebuild: rebuild,
	}
	if t := a.st.scrub.LastFull; t != 0 {
		s.LastScrub = time.Unix(0, t)
	}
	s.Stripes, s.AtRisk = a.st.figures.stripes, a.st.figures.risk
	for _, ino := range a.st.files {
		s.Bytes += ino.size()
		s.Stripes += int64(len(ino.open))
	}
	for _, m := range a.members {
		ms := m.status()
		ms.AtRisk = a.st.figures.lacks[m.slot]
		if !m.ok() {
			ms.AtRisk, s.AtRisk = s.Stripes, s.Stripes // nothing of it is to be had
		}
		s.Members = append(s.Members, ms)
	}
	for _, m := range a.spares {
		s.Spares = append(s.Spares, m.status())
	}
	s.State, s.Reason = a.verdictLocked()
	return s
}

func (m *member) status() MemberStatus {
	c := m.counters
	ms := MemberStatus{
		Slot: m.slot, ID: m.id.String(), Path: m.dir.Path, State: m.state, Reason: m.reason,
		ReadErrors: int64(c.ReadErrors), WriteErrors: int64(c.WriteErrors), ChecksumErrors: int64(c.ChecksumErrors), Healed: int64(c.Healed),
	}
	if c.LastScrub != 0 {
		ms.LastScrub = time.Unix(0, c.LastScrub)
	}
	return ms
}

// verdictLocked returns the state in one word, and why. mu is held.
func (a *Array) verdictLocked() (state, reason string) {
	if a.failed != nil {
		return "failed", a.failed.Error()
	}
	state = "healthy"
	for _, m := range a.members {
		switch {
		case !m.ok():
			return "degraded", "member " + m.dir.Path + " is " + m.state + ": " + m.reason
		case m.state == "rebuilding":
			state, reason = "rebuilding", "member "+m.dir.Path+" is being rebuilt"
		}
	}
	if state == "healthy" && (a.raisePending || a.tail.mustRoll) {
		// Whoever takes a member away now would meet the members of before.
		return "rebuilding", "the change of members is not on all of them yet"
	}
	return state, reason
}

func sortedIDs(files map[uint64]*inode) []uint64 { return slices.Sorted(maps.Keys(files)) }
