package keyspace

import (
	"math/rand/v2"

	"holdfast/internal/redis/intset"
	"holdfast/internal/redis/listpack"
	"holdfast/internal/redis/rdb"
)

// Set is a handle on a set.
type Set struct {
	r   Ref
	big *bigSet // nil: a small form
}

// Set returns the handle of the set r.
func (db *DB) Set(r Ref) Set {
	s := Set{r: r}
	if obj := db.large(r); obj != nil {
		s.big = obj.(*bigSet)
	}
	return s
}

// NewSet creates an empty set under key, which must not exist. The caller adds
// a member or deletes the key.
func (db *DB) NewSet(key []byte) Set {
	return Set{r: db.newBlob(key, TypeSet, formIntset, emptyIntset)}
}

// emptyIntset is copied into new entries.
var emptyIntset = intset.New()

// intsetLimit returns the number of integers that a set may have as an intset.
func intsetLimit(lim *Limits) int { return min(lim.SetMaxIntsetEntries, 1<<30) }

// Ref returns the entry of the set, which Add and Remove may have moved.
func (s *Set) Ref() Ref { return s.r }

func (s *Set) blob() []byte { return s.r.db.blob(s.r) }

// IsIntset reports whether the set is stored as sorted integers.
func (s *Set) IsIntset() bool { return s.big == nil && s.r.db.form(s.r) == formIntset }

// Len returns the number of members.
func (s *Set) Len() int {
	switch {
	case s.big != nil:
		return s.big.idx.Len()
	case s.IsIntset():
		return intset.Len(s.blob())
	}
	return listpack.Len(s.blob())
}

// Has reports whether m is a member.
func (s *Set) Has(m []byte) bool {
	switch {
	case s.big != nil:
		_, ok := s.big.idx.Find(s.big.idx.Hash(m), m)
		return ok
	case s.IsIntset():
		v, ok := listpack.ParseInt(m)
		return ok && intset.Contains(s.blob(), v)
	}
	lp := s.blob()
	return listpack.Find(lp, listpack.First(lp), m, 0) >= 0
}

// Add puts m into the set and reports whether it was not there.
func (s *Set) Add(m []byte) bool {
	if s.big != nil {
		s.r.db.beforeWrite(s.r)
		return s.big.add(m)
	}
	if s.IsIntset() {
		if v, ok := listpack.ParseInt(m); ok {
			return s.addInt(v)
		}
		s.r.db.beforeWrite(s.r)
		s.leaveIntset(len(m))
		if s.big != nil {
			return s.big.add(m)
		}
	}
	return s.addSmall(m)
}

// addInt adds v to an intset.
func (s *Set) addInt(v int64) bool {
	db := s.r.db
	is := s.blob()
	if intset.Contains(is, v) {
		return false
	}
	db.beforeWrite(s.r)
	enc := max(intset.Encoding(is), intsetWidth(v))
	n := intset.Len(is)
	is = db.ks.coll.room(is, (n+1)*enc-n*intset.Encoding(is))
	is, _ = intset.Add(is, v)
	s.r = db.setBlob(s.r, formIntset, is)
	if n+1 > intsetLimit(db.ks.limits) {
		s.leaveIntset(0)
	}
	return true
}

// intsetWidth returns the bytes that an intset needs for v.
func intsetWidth(v int64) int {
	switch {
	case v != int64(int32(v)):
		return 8
	case v != int64(int16(v)):
		return 4
	}
	return 2
}

// leaveIntset turns an intset into what reports as a hash table, ready for a
// member of the given length.
func (s *Set) leaveIntset(mlen int) {
	db := s.r.db
	is := s.blob()
	n := intset.Len(is)
	if n >= setBlobEntries || mlen > setBlobValue {
		big := newBigSet(db.ks)
		for _, v := range intset.All(is) {
			big.add(db.ks.coll.decimal(v))
		}
		s.r = db.promote(s.r, big)
		s.big = big
		return
	}
	const perInt = 10
	lp := listpack.AppendEmpty(db.ks.coll.empty(len(emptyListpack) + n*perInt))
	for _, v := range intset.All(is) {
		lp = listpack.AppendInt(lp, v)
	}
	s.r = db.setBlob(s.r, formBlob, lp)
}

// addSmall adds m to a listpack.
func (s *Set) addSmall(m []byte) bool {
	db := s.r.db
	lp := s.blob()
	if listpack.Find(lp, listpack.First(lp), m, 0) >= 0 {
		return false
	}
	db.beforeWrite(s.r)
	if listpack.Len(lp) >= setBlobEntries || len(m) > setBlobValue {
		s.expand()
		return s.big.add(m)
	}
	lp = db.ks.coll.room(lp, listpack.EncodedLen(m))
	s.r = db.setBlob(s.r, formBlob, listpack.Append(lp, m))
	return true
}

// expand turns a listpack into the large form.
func (s *Set) expand() {
	db := s.r.db
	big := newBigSet(db.ks)
	lp := s.blob()
	var buf []byte
	for off := listpack.First(lp); off >= 0; off = listpack.Next(lp, off) {
		big.add(textOf(lp, off, &buf))
	}
	s.r = db.promote(s.r, big)
	s.big = big
}

// Remove takes m, which may alias the set, out of it and reports whether it was
// there. The caller deletes the key if that was the last one.
func (s *Set) Remove(m []byte) bool {
	db := s.r.db
	if s.big != nil {
		h := s.big.idx.Hash(m)
		off, ok := s.big.idx.Find(h, m)
		if ok {
			db.beforeWrite(s.r)
			s.big.idx.Delete(h, off)
			freeElem(s.big.idx.a, blockSet, off)
		}
		return ok
	}
	if s.IsIntset() {
		v, ok := listpack.ParseInt(m)
		if !ok {
			return false
		}
		pos, ok := intset.Find(s.blob(), v)
		if ok {
			db.beforeWrite(s.r)
			s.r = db.setBlob(s.r, formIntset, intset.RemoveAt(s.blob(), pos))
		}
		return ok
	}
	lp := s.blob()
	off := listpack.Find(lp, listpack.First(lp), m, 0)
	if off < 0 {
		return false
	}
	db.beforeWrite(s.r)
	s.r = db.setBlob(s.r, formBlob, listpack.Delete(lp, off, 1))
	return true
}

// Each calls fn for every member until it returns false: ascending in an
// intset. The slice is valid during the call; fn must not change the set.
func (s *Set) Each(fn func(m []byte) bool) {
	if s.big != nil {
		x := &s.big.idx
		x.Each(func(off Off) bool { return fn(x.a.blockKey(blockSet, off)) })
		return
	}
	var buf []byte
	if s.IsIntset() {
		for _, v := range intset.All(s.blob()) {
			buf = appendInt(buf[:0], v)
			if !fn(buf) {
				return
			}
		}
		return
	}
	lp := s.blob()
	for off := listpack.First(lp); off >= 0; off = listpack.Next(lp, off) {
		if !fn(textOf(lp, off, &buf)) {
			return
		}
	}
}

// Scan visits about count members from cursor on and returns where to go on, 0
// at the end. A small set is visited at once.
func (s *Set) Scan(cursor uint64, count int, fn func(m []byte)) uint64 {
	if s.big != nil {
		x := &s.big.idx
		return x.Scan(cursor, count, func(off Off) { fn(x.a.blockKey(blockSet, off)) })
	}
	s.Each(func(m []byte) bool {
		fn(m)
		return true
	})
	return 0
}

// Random returns a member, each with the same probability, valid until the next
// call on the keyspace. The set must not be empty.
func (s *Set) Random(rng *rand.Rand) []byte {
	if s.big != nil {
		off, _ := s.big.idx.Random(rng)
		return s.big.idx.a.blockKey(blockSet, off)
	}
	blob := s.blob()
	c := &s.r.db.ks.coll
	if s.IsIntset() {
		return c.decimal(intset.Get(blob, randomIndex(rng, intset.Len(blob))))
	}
	return c.text(blob, listpack.Seek(blob, randomIndex(rng, listpack.Len(blob))))
}

// bigSet is the large form of a set.
type bigSet struct {
	idx    Index
	frozen frozenIndex
}

func newBigSet(ks *Keyspace) *bigSet {
	b := &bigSet{}
	b.idx.init(ks.arena, ks.seed, blockSet)
	return b
}

func (b *bigSet) add(m []byte) bool {
	h := b.idx.Hash(m)
	if _, ok := b.idx.Find(h, m); ok {
		return false
	}
	b.idx.Insert(h, newMember(b.idx.a, m))
	return true
}

func (b *bigSet) appendMember(enc *rdb.Encoder, dst []byte, off Off) []byte {
	a := b.idx.a
	return enc.AppendString(dst, a.blockKey(blockSet, off))
}

func (b *bigSet) typ() Type                { return TypeSet }
func (b *bigSet) encoding() string         { return "hashtable" }
func (b *bigSet) length() int              { return b.idx.Len() }
func (b *bigSet) memory(samples int) int64 { return indexMemory(&b.idx, blockSet, samples) }
func (b *bigSet) rdbType() rdb.Type        { return rdb.TypeSet }

func (b *bigSet) free(budget int) (done bool) {
	_, done = b.idx.drain(budget, func(off Off) { freeElem(b.idx.a, blockSet, off) })
	return done
}

func (b *bigSet) clone() largeObject {
	c := &bigSet{}
	c.idx.init(b.idx.a, b.idx.seed, blockSet)
	cloneIndex(&c.idx, &b.idx, blockSet)
	return c
}

func (b *bigSet) appendValue(enc *rdb.Encoder, dst []byte) []byte {
	return appendIndex(&b.idx, enc, dst, b.appendMember)
}

func (b *bigSet) freeze(enc *rdb.Encoder) { b.frozen.freeze(&b.idx, enc, b.appendMember) }

func (b *bigSet) freezeArgs() { b.frozen.freezeArgs(&b.idx, b.appendMemberArg) }

func (b *bigSet) appendMemberArg(_ *rdb.Encoder, dst []byte, off Off) []byte {
	return appendArg(dst, b.idx.a.blockKey(blockSet, off))
}

func (b *bigSet) serialise(_ *rdb.Encoder, dst []byte, budget int) (_ []byte, done bool) {
	return b.frozen.serialise(dst, budget)
}

func (b *bigSet) thaw() { b.frozen.thaw() }

func (b *bigSet) backlog() int { return b.frozen.backlog() }
