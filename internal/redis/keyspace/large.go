package keyspace

import (
	"encoding/binary"

	"holdfast/internal/redis/rdb"
)

// This file is the seam between entries and collections. A small collection is
// a blob: the value bytes of its entry. A large one is a Go object that an entry
// names by number. The rules for both:
//
//   - Every method that changes a collection calls db.beforeWrite(r) first, and
//     before it reads what it will change: a running snapshot then copies what
//     it still needs.
//   - A large object moreover calls, before a change, Index.beforeWrite(hash) for
//     the element (Insert, Replace and Delete do so themselves), or, a list, its
//     own rule for chunks.
//   - A Ref stays valid while the entry does not move. setBlob, promote and the
//     methods of DB that change the key may move it; they return the new Ref or
//     the key must be looked up again.
//   - Memory of the Go heap that a large object holds in slices is told to the
//     arena with Arena.Account; Index does so itself.

// largeObject is the form of a collection that has outgrown a blob.
type largeObject interface {
	typ() Type
	// encoding is what OBJECT ENCODING reports.
	encoding() string
	// length is the number of elements.
	length() int
	// memory estimates the bytes the object takes in arena and Go heap, from
	// up to samples elements (0: all).
	memory(samples int) int64
	// free gives back up to about budget blocks and reports whether the object
	// is gone. The object is not used for anything else once free was called.
	free(budget int) (done bool)
	// clone returns a deep copy in the same arena.
	clone() largeObject

	// rdbType is the type byte of appendValue's bytes. It does not change while
	// the object is frozen.
	rdbType() rdb.Type
	// appendValue appends the whole value without the type byte, as of now.
	appendValue(enc *rdb.Encoder, dst []byte) []byte

	// freeze begins the view of a snapshot: what serialise appends from now on
	// is the value at this moment, whatever is changed meanwhile. It is cheap:
	// parts are copied when they are first changed. Objects are frozen once for
	// a snapshot, before their first change or when the snapshot reaches them.
	freeze(enc *rdb.Encoder)
	// serialise appends the next part of the frozen value, of about budget
	// elements, beginning with the length; done means that it was the last, and
	// the object is no longer frozen.
	serialise(enc *rdb.Encoder, dst []byte, budget int) (_ []byte, done bool)
	// freezeArgs is freeze for parts as arguments of a command that adds elements:
	// serialise then appends for each element its arguments, score or field first,
	// each with its length before it, and no number of elements.
	freezeArgs()
	// thaw ends a freeze early, when a snapshot is given up.
	thaw()
	// backlog returns the bytes that the freeze holds in copies.
	backlog() int
}

// newBlob creates key with a small collection; the key must not exist.
func (db *DB) newBlob(key []byte, t Type, f form, blob []byte) Ref {
	e := db.ks.arena.newEntry(key, len(blob), uint8(t)|uint8(f)<<formShift|db.ks.parity, db.ks.newLRU(), -1)
	copy(db.ks.arena.mem[e.val():], blob)
	db.link(db.keys.hash(key), &e)
	return Ref{db, e.off}
}

// blob returns the value bytes of the entry: those of a small collection. The
// capacity reaches to the end of the block, so that a blob may grow in place;
// setBlob makes the new length known. Valid until the next change of any key.
func (db *DB) blob(r Ref) []byte {
	a := db.ks.arena
	e := a.entry(r.off)
	end := e.off + Off(classSize(e.size()))
	return a.mem[e.val() : e.val()+Off(e.vlen) : end]
}

// form returns how the value of r is stored.
func (db *DB) form(r Ref) form {
	return form(db.ks.arena.mem[r.off] & formMask >> formShift)
}

// setBlob makes blob the value of the entry, in form f, and returns the Ref,
// which changes when the entry had to move. blob may be what db.blob returned,
// changed in place and resliced, or any other bytes.
func (db *DB) setBlob(r Ref, f form, blob []byte) Ref {
	a := db.ks.arena
	e := a.entry(r.off)
	return Ref{db, db.setValue(&e, f, blob)}
}

// promote replaces the small form of r by the large object obj, which must hold
// all elements already.
func (db *DB) promote(r Ref, obj largeObject) Ref {
	var id [8]byte
	binary.LittleEndian.PutUint64(id[:], uint64(db.ks.addLarge(obj)))
	return db.setBlob(r, formLarge, id[:])
}

// large returns the large object of r, nil if its value is a blob.
func (db *DB) large(r Ref) largeObject {
	e := db.ks.arena.entry(r.off)
	if !e.isLarge() {
		return nil
	}
	return db.ks.large[db.ks.arena.largeID(&e)]
}

// addLarge puts obj into the table of large objects.
func (ks *Keyspace) addLarge(obj largeObject) uint32 {
	ks.arena.Account(largeOverhead)
	if n := len(ks.largeFree); n > 0 {
		id := ks.largeFree[n-1]
		ks.largeFree = ks.largeFree[:n-1]
		ks.large[id] = obj
		return id
	}
	ks.large = append(ks.large, obj)
	return uint32(len(ks.large) - 1)
}

// largeOverhead is what an object costs beside what it accounts for itself: its
// struct and its place in the table.
const largeOverhead = 256

// takeLarge takes the object out of the table.
func (ks *Keyspace) takeLarge(id uint32) largeObject {
	obj := ks.large[id]
	ks.large[id] = nil
	ks.largeFree = append(ks.largeFree, id)
	ks.arena.Account(-largeOverhead)
	return obj
}
