package keyspace

import (
	"math/rand/v2"

	"holdfast/internal/redis/listpack"
	"holdfast/internal/redis/rdb"
)

// Hash is a handle on a hash.
type Hash struct {
	r   Ref
	big *bigHash // nil: the small form
}

// Hash returns the handle of the hash r.
func (db *DB) Hash(r Ref) Hash {
	h := Hash{r: r}
	if obj := db.large(r); obj != nil {
		h.big = obj.(*bigHash)
	}
	return h
}

// NewHash creates an empty hash under key, which must not exist. The caller
// adds a field or deletes the key.
func (db *DB) NewHash(key []byte) Hash {
	return Hash{r: db.newBlob(key, TypeHash, formBlob, emptyListpack)}
}

// emptyListpack is copied into new entries.
var emptyListpack = listpack.New(0)

// Ref returns the entry of the hash, which Set and Del may have moved.
func (h *Hash) Ref() Ref { return h.r }

func (h *Hash) blob() []byte { return h.r.db.blob(h.r) }

// Len returns the number of fields.
func (h *Hash) Len() int {
	if h.big != nil {
		return h.big.idx.Len()
	}
	return listpack.Len(h.blob()) / 2
}

// Get returns the value of a field, valid until the next call on the keyspace.
func (h *Hash) Get(field []byte) ([]byte, bool) {
	if h.big != nil {
		return h.big.get(field)
	}
	lp := h.blob()
	off := listpack.Find(lp, listpack.First(lp), field, 1)
	if off < 0 {
		return nil, false
	}
	return h.r.db.ks.coll.text(lp, listpack.Next(lp, off)), true
}

// Has reports whether the field exists.
func (h *Hash) Has(field []byte) bool {
	if h.big != nil {
		_, ok := h.big.idx.Find(h.big.idx.Hash(field), field)
		return ok
	}
	lp := h.blob()
	return listpack.Find(lp, listpack.First(lp), field, 1) >= 0
}

// Set gives a field its value and reports whether the field is new.
func (h *Hash) Set(field, val []byte) (added bool) {
	db := h.r.db
	db.beforeWrite(h.r)
	if h.big == nil {
		lim := db.ks.limits
		if len(field) <= lim.HashMaxListpackValue && len(val) <= lim.HashMaxListpackValue &&
			listpack.SafeToAdd(h.blob(), len(field)+len(val)) {
			return h.setSmall(field, val, lim.HashMaxListpackEntries)
		}
		h.expand()
	}
	return h.big.set(field, val)
}

func (h *Hash) setSmall(field, val []byte, maxEntries int) (added bool) {
	db := h.r.db
	lp := h.blob()
	off := listpack.Find(lp, listpack.First(lp), field, 1)
	if off >= 0 {
		off = listpack.Next(lp, off)
		lp = db.ks.coll.room(lp, listpack.EncodedLen(val)-(elementEnd(lp, off)-off))
		lp = listpack.Replace(lp, off, val)
	} else {
		lp = db.ks.coll.room(lp, listpack.EncodedLen(field)+listpack.EncodedLen(val))
		lp = listpack.Append(listpack.Append(lp, field), val)
		added = true
	}
	h.r = db.setBlob(h.r, formBlob, lp)
	if listpack.Len(lp)/2 > maxEntries { // also without a new field: the limit may have been lowered
		h.expand()
	}
	return added
}

// expand gives the hash its large form.
func (h *Hash) expand() {
	db := h.r.db
	big := newBigHash(db.ks)
	lp := h.blob()
	var fbuf, vbuf []byte
	for off := listpack.First(lp); off >= 0; {
		val := listpack.Next(lp, off)
		big.set(textOf(lp, off, &fbuf), textOf(lp, val, &vbuf))
		off = listpack.Next(lp, val)
	}
	h.r = db.promote(h.r, big)
	h.big = big
}

// Del removes a field, which may alias the hash, and reports whether it was
// there. The caller deletes the key if that was the last one.
func (h *Hash) Del(field []byte) bool {
	db := h.r.db
	if h.big != nil {
		hash := h.big.idx.Hash(field)
		off, ok := h.big.idx.Find(hash, field)
		if ok {
			db.beforeWrite(h.r)
			h.big.idx.Delete(hash, off)
			freeElem(h.big.idx.a, blockHash, off)
		}
		return ok
	}
	lp := h.blob()
	off := listpack.Find(lp, listpack.First(lp), field, 1)
	if off < 0 {
		return false
	}
	db.beforeWrite(h.r)
	h.r = db.setBlob(h.r, formBlob, listpack.Delete(lp, off, 2))
	return true
}

// Each calls fn for every field until it returns false: in the order of
// insertion while the hash is small. The slices are valid during the call; fn
// must not change the hash.
func (h *Hash) Each(fn func(field, val []byte) bool) {
	if h.big != nil {
		a := h.big.idx.a
		h.big.idx.Each(func(off Off) bool { return fn(fieldOf(a, off)) })
		return
	}
	lp := h.blob()
	var fbuf, vbuf []byte
	for off := listpack.First(lp); off >= 0; {
		val := listpack.Next(lp, off)
		if !fn(textOf(lp, off, &fbuf), textOf(lp, val, &vbuf)) {
			return
		}
		off = listpack.Next(lp, val)
	}
}

// Scan visits about count fields from cursor on and returns where to go on, 0
// at the end. A small hash is visited at once.
func (h *Hash) Scan(cursor uint64, count int, fn func(field, val []byte)) uint64 {
	if h.big != nil {
		a := h.big.idx.a
		return h.big.idx.Scan(cursor, count, func(off Off) { fn(fieldOf(a, off)) })
	}
	h.Each(func(field, val []byte) bool {
		fn(field, val)
		return true
	})
	return 0
}

// Random returns a field and its value, each with the same probability, valid
// until the next call on the keyspace. The hash must not be empty.
func (h *Hash) Random(rng *rand.Rand) (field, val []byte) {
	if h.big != nil {
		off, _ := h.big.idx.Random(rng)
		return fieldOf(h.big.idx.a, off)
	}
	lp := h.blob()
	off := listpack.Seek(lp, 2*randomIndex(rng, listpack.Len(lp)/2))
	c := &h.r.db.ks.coll
	// Both may be integers: they need a buffer each.
	return c.keepPopped(lp, off), c.text(lp, listpack.Next(lp, off))
}

// bigHash is the large form of a hash.
type bigHash struct {
	idx    Index
	frozen frozenIndex
}

func newBigHash(ks *Keyspace) *bigHash {
	b := &bigHash{}
	b.idx.init(ks.arena, ks.seed, blockHash)
	return b
}

func (b *bigHash) get(field []byte) ([]byte, bool) {
	off, ok := b.idx.Find(b.idx.Hash(field), field)
	if !ok {
		return nil, false
	}
	_, val := fieldOf(b.idx.a, off)
	return val, true
}

func (b *bigHash) set(field, val []byte) (added bool) {
	a := b.idx.a
	hash := b.idx.Hash(field)
	off, ok := b.idx.Find(hash, field)
	if !ok {
		b.idx.Insert(hash, newField(a, field, val))
		return true
	}
	old, now := elemSize(a, blockHash, off), fieldSize(len(field), len(val))
	if classSize(old) == classSize(now) {
		b.idx.beforeWrite(hash)
		putField(a, off, field, val)
		return false
	}
	moved := newField(a, field, val)
	b.idx.Replace(hash, off, moved)
	a.Free(off, old)
	return false
}

func (b *bigHash) appendField(enc *rdb.Encoder, dst []byte, off Off) []byte {
	a := b.idx.a
	field, val := fieldOf(a, off)
	return enc.AppendString(enc.AppendString(dst, field), val)
}

func (b *bigHash) typ() Type                { return TypeHash }
func (b *bigHash) encoding() string         { return "hashtable" }
func (b *bigHash) length() int              { return b.idx.Len() }
func (b *bigHash) memory(samples int) int64 { return indexMemory(&b.idx, blockHash, samples) }
func (b *bigHash) rdbType() rdb.Type        { return rdb.TypeHash }

func (b *bigHash) free(budget int) (done bool) {
	_, done = b.idx.drain(budget, func(off Off) { freeElem(b.idx.a, blockHash, off) })
	return done
}

func (b *bigHash) clone() largeObject {
	c := &bigHash{}
	c.idx.init(b.idx.a, b.idx.seed, blockHash)
	cloneIndex(&c.idx, &b.idx, blockHash)
	return c
}

func (b *bigHash) appendValue(enc *rdb.Encoder, dst []byte) []byte {
	return appendIndex(&b.idx, enc, dst, b.appendField)
}

func (b *bigHash) freeze(enc *rdb.Encoder) { b.frozen.freeze(&b.idx, enc, b.appendField) }

func (b *bigHash) freezeArgs() { b.frozen.freezeArgs(&b.idx, b.appendFieldArgs) }

func (b *bigHash) appendFieldArgs(_ *rdb.Encoder, dst []byte, off Off) []byte {
	field, val := fieldOf(b.idx.a, off)
	return appendArg(appendArg(dst, field), val)
}

func (b *bigHash) serialise(_ *rdb.Encoder, dst []byte, budget int) (_ []byte, done bool) {
	return b.frozen.serialise(dst, budget)
}

func (b *bigHash) thaw() { b.frozen.thaw() }

func (b *bigHash) backlog() int { return b.frozen.backlog() }
