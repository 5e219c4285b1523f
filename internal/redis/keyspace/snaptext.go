package keyspace

import "holdfast/internal/invariant"

// A long string is written by a snapshot in parts, from where it is in the
// keyspace, so that nobody waits for a copy of it. When it grows at its end nothing
// is copied, when a range of it is about to change the parts that it touches are,
// and before any other change what is left of it. For that, changes of it must be
// told: until it is written it looks like an entry that the snapshot waits for. Its
// parity says so in a snapshot of all, where it changes with the last part; in one
// of slots it tells other things (see slotsnap.go) and stays as it is.
//
// In a file such a string is never compressed: how long it would be then would
// have to be known before its first part.

// textMin is from how many bytes on a string in a file is written in parts; in
// commands chunkSize is.
const textMin = 1 << 20

// textKey names a string that is being written.
type textKey struct {
	origin *snapshotDB
	key    string
}

func (s *Snapshot) keyOfText(o *snapshotDB, e *entry) textKey {
	return textKey{o, string(s.ks.arena.keyOf(e))}
}

// partwise reports whether e is a string that is written in parts.
func (s *Snapshot) partwise(e *entry) bool {
	return e.typ() == TypeString && e.vlen > s.textMin
}

// queueText makes the string e wait to be written as f, from where it is.
func (s *Snapshot) queueText(f *frozenObject, e *entry) {
	f.key, f.inPlace, f.size = s.keyOfText(f.origin, e), true, e.vlen
	s.texts[f.key] = f
	s.queue = append(s.queue, f)
}

// nextText returns the next part of f, and counts it as written. It is valid until
// the string changes.
func (s *Snapshot) nextText(f *frozenObject) []byte {
	text := f.text
	if f.inPlace {
		e := s.entryOfText(f, f.origin.index())
		text = s.ks.arena.valOf(&e)[f.at:f.size]
		if part := f.kept[f.at/chunkSize]; part != nil {
			delete(f.kept, f.at/chunkSize)
			text = part
		}
	}
	n := min(len(text), chunkSize)
	f.at += n
	if !f.inPlace {
		f.text = text[n:]
	}
	return text[:n]
}

// entryOfText returns the entry of f, which is in place, in x.
func (s *Snapshot) entryOfText(f *frozenObject, x *table) entry {
	key := []byte(f.key.key)
	off, ok := x.find(x.hash(key), key)
	if !ok {
		invariant.Violated("snapshot: the string %q, which is being written, is gone", key)
	}
	return s.ks.arena.entry(off)
}

// leaveText ends that f is in place in x.
func (s *Snapshot) leaveText(f *frozenObject, x *table) {
	e := s.entryOfText(f, x)
	s.leave(f, &e)
}

func (s *Snapshot) leave(f *frozenObject, e *entry) {
	f.inPlace = false
	delete(s.texts, f.key)
	if s.slots == nil {
		s.ks.arena.setParity(e, s.ks.saved)
	}
}

// keepText copies what is left of the string e of o, which is about to change,
// if it is one that is written from where it is.
func (s *Snapshot) keepText(o *snapshotDB, e *entry) {
	if len(s.texts) == 0 || !s.partwise(e) {
		return
	}
	if f := s.texts[s.keyOfText(o, e)]; f != nil {
		f.text = append([]byte(nil), s.ks.arena.valOf(e)[f.at:f.size]...)
		for i, part := range f.kept {
			copy(f.text[i*chunkSize-f.at:], part)
		}
		f.kept = nil
		s.leave(f, e)
	}
}

// keepTexts is keepText for all strings of o, whose entries x are removed.
func (s *Snapshot) keepTexts(o *snapshotDB, x *table) {
	for _, f := range s.texts {
		if f.origin == o {
			e := s.entryOfText(f, x)
			s.keepText(o, &e)
		}
	}
}

// saveForAppend is save for a change of the string e that only adds to its end: a
// snapshot that writes it in parts needs no copy.
func (db *DB) saveForAppend(e *entry) {
	if e.parity() == db.ks.saved {
		return
	}
	s, o := db.ks.snap, db.origin
	switch {
	case s.aborted || !s.partwise(e):
		db.save(e)
	case s.slots == nil && s.texts[s.keyOfText(o, e)] == nil:
		s.write(o, e)
	case s.slots != nil && s.waits(o, e):
		s.early[string(db.ks.arena.keyOf(e))] = true
		s.write(o, e)
	}
}

// saveForRange is save for a change of n bytes of the string e from at on, which
// may make it longer.
func (db *DB) saveForRange(e *entry, at, n int) {
	if e.parity() == db.ks.saved {
		return
	}
	db.saveForAppend(e)
	s := db.ks.snap
	if len(s.texts) == 0 || !s.partwise(e) {
		return
	}
	f := s.texts[s.keyOfText(db.origin, e)]
	if f == nil {
		return
	}
	text := db.ks.arena.valOf(e)[:f.size]
	for i := max(at, f.at) / chunkSize; i*chunkSize < min(at+n, f.size); i++ {
		if f.kept[i] == nil {
			if f.kept == nil {
				f.kept = make(map[int][]byte)
			}
			f.kept[i] = append([]byte(nil), text[i*chunkSize:min((i+1)*chunkSize, f.size)]...)
		}
	}
}
