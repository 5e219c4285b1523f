package keyspace

import (
	"bytes"
	"math"
	"math/rand/v2"
	"strconv"

	"holdfast/internal/invariant"
	"holdfast/internal/redis/listpack"
	"holdfast/internal/redis/rdb"
)

// ZSet is a handle on a sorted set. Members are ordered by score, then by
// their bytes; ranks count from 0 in that order. A score is never NaN.
type ZSet struct {
	r   Ref
	big *bigZSet // nil: the small form
}

// ZSet returns the handle of the sorted set r.
func (db *DB) ZSet(r Ref) ZSet {
	z := ZSet{r: r}
	if obj := db.large(r); obj != nil {
		z.big = obj.(*bigZSet)
	}
	return z
}

// NewZSet creates an empty sorted set under key, which must not exist. The
// caller adds a member or deletes the key.
func (db *DB) NewZSet(key []byte) ZSet {
	return ZSet{r: db.newBlob(key, TypeZSet, formBlob, emptyListpack)}
}

// NewZSetSized is NewZSet for n members of at most longest bytes: what has to be
// large is so from the beginning. It is not only faster: the large form keeps the
// score -0 apart from 0, the small one does not.
func (db *DB) NewZSetSized(key []byte, n, longest int) ZSet {
	z := db.NewZSet(key)
	if lim := db.ks.limits; n > lim.ZsetMaxListpackEntries || longest > lim.ZsetMaxListpackValue {
		z.expand()
	}
	return z
}

// Ref returns the entry of the sorted set, which changes may have moved.
func (z *ZSet) Ref() Ref { return z.r }

func (z *ZSet) blob() []byte { return z.r.db.blob(z.r) }

// Len returns the number of members.
func (z *ZSet) Len() int {
	if z.big != nil {
		return z.big.tree.n
	}
	return listpack.Len(z.blob()) / 2
}

// lpScore returns the score that stands at off of lp.
func lpScore(lp []byte, off int) float64 {
	str, num, isInt := listpack.Get(lp, off)
	if isInt {
		return float64(num)
	}
	switch stringOf(str) {
	case "inf":
		return math.Inf(1)
	case "-inf":
		return math.Inf(-1)
	}
	// What ZADD and the loader put in parses. A payload that was only checked
	// for its form may hold anything: it must not break the order.
	f, _ := strconv.ParseFloat(stringOf(str), 64)
	if f != f {
		return 0
	}
	return f
}

// appendLPScore appends the score behind the last element of lp.
func appendLPScore(lp []byte, score float64, buf *[scoreLen]byte) []byte {
	if v, ok := scoreInt(score); ok {
		return listpack.AppendInt(lp, v)
	}
	return listpack.Append(lp, formatScore(buf, score))
}

// scoreLen is enough for any score as text.
const scoreLen = 32

// scoreInt returns the score as an integer, if Redis stores it as one: it is
// integral and within half of the range of 64 bits. -0 becomes 0.
func scoreInt(score float64) (int64, bool) {
	if score < -math.MaxInt64/2 || score > math.MaxInt64/2 {
		return 0, false
	}
	v := int64(score)
	return v, float64(v) == score
}

// formatScore writes a score that is no integer as C's %.17g does.
func formatScore(buf *[scoreLen]byte, score float64) []byte {
	switch {
	case math.IsInf(score, 1):
		return append(buf[:0], "inf"...)
	case math.IsInf(score, -1):
		return append(buf[:0], "-inf"...)
	}
	return strconv.AppendFloat(buf[:0], score, 'g', 17, 64)
}

// Score returns the score of m.
func (z *ZSet) Score(m []byte) (float64, bool) {
	if z.big != nil {
		off, ok := z.big.idx.Find(z.big.idx.Hash(m), m)
		if !ok {
			return 0, false
		}
		return scoreOf(z.big.idx.a, off), true
	}
	lp := z.blob()
	off := listpack.Find(lp, listpack.First(lp), m, 1)
	if off < 0 {
		return 0, false
	}
	return lpScore(lp, listpack.Next(lp, off)), true
}

// Has reports whether m is a member.
func (z *ZSet) Has(m []byte) bool {
	if z.big != nil {
		_, ok := z.big.idx.Find(z.big.idx.Hash(m), m)
		return ok
	}
	lp := z.blob()
	return listpack.Find(lp, listpack.First(lp), m, 1) >= 0
}

// Set gives m the score, which is not NaN. added says that m is new, changed that it had
// another score.
func (z *ZSet) Set(m []byte, score float64) (added, changed bool) {
	if score != score {
		invariant.Violated("sorted set: member %q with the score NaN", m)
	}
	db := z.r.db
	if z.big == nil {
		lp := z.blob()
		off := listpack.Find(lp, listpack.First(lp), m, 1)
		if off >= 0 {
			if lpScore(lp, listpack.Next(lp, off)) == score {
				return false, false
			}
			db.beforeWrite(z.r)
			z.setSmall(m, score, off)
			return false, true
		}
		db.beforeWrite(z.r)
		lim := db.ks.limits
		if listpack.Len(lp)/2+1 <= lim.ZsetMaxListpackEntries && len(m) <= lim.ZsetMaxListpackValue &&
			listpack.SafeToAdd(lp, len(m)) {
			z.setSmall(m, score, -1)
			return true, false
		}
		z.expand()
	} else {
		db.beforeWrite(z.r)
	}
	return z.big.set(m, score)
}

// setSmall puts m with its score into the listpack, in order; old is the offset
// of m in it, -1 if it is new.
func (z *ZSet) setSmall(m []byte, score float64, old int) {
	db := z.r.db
	var sbuf [scoreLen]byte
	lp := z.blob()
	// A score takes less than scoreLen bytes, however it is written.
	lp = db.ks.coll.room(lp, listpack.EncodedLen(m)+scoreLen)
	if old >= 0 {
		lp = listpack.Delete(lp, old, 2)
	}
	at := z.place(lp, m, score)
	if at < 0 {
		lp = listpack.Append(lp, m)
		lp = appendLPScore(lp, score, &sbuf)
	} else {
		lp = listpack.InsertBefore(lp, at, m)
		next := listpack.Next(lp, at)
		if v, ok := scoreInt(score); ok {
			// The text of an integer is stored as one.
			lp = listpack.InsertBefore(lp, next, strconv.AppendInt(sbuf[:0], v, 10))
		} else {
			lp = listpack.InsertBefore(lp, next, formatScore(&sbuf, score))
		}
	}
	z.r = db.setBlob(z.r, formBlob, lp)
}

// place returns the offset of the first member behind (score, m), -1 if there
// is none. Most insertions are at the end: look there first.
func (z *ZSet) place(lp []byte, m []byte, score float64) int {
	last := listpack.Last(lp)
	if last < 0 || lpScore(lp, last) < score {
		return -1
	}
	for off := listpack.First(lp); off >= 0; {
		soff := listpack.Next(lp, off)
		if s := lpScore(lp, soff); s > score || s == score && z.compare(lp, off, m) > 0 {
			return off
		}
		off = listpack.Next(lp, soff)
	}
	return -1
}

// compare compares the member at off of lp with m.
func (z *ZSet) compare(lp []byte, off int, m []byte) int {
	return bytes.Compare(textOf(lp, off, &z.r.db.ks.coll.cmp), m)
}

// Expand makes the sorted set report the encoding "skiplist" from now on.
func (z *ZSet) Expand() {
	if z.big == nil {
		z.r.db.beforeWrite(z.r)
		z.expand()
	}
}

// expand gives the sorted set its large form.
func (z *ZSet) expand() {
	db := z.r.db
	big := newBigZSet(db.ks)
	lp := z.blob()
	var buf []byte
	for off := listpack.First(lp); off >= 0; {
		soff := listpack.Next(lp, off)
		big.set(textOf(lp, off, &buf), lpScore(lp, soff))
		off = listpack.Next(lp, soff)
	}
	z.r = db.promote(z.r, big)
	z.big = big
}

// Remove takes m out, which may alias the sorted set, and reports whether it was
// there. The caller deletes the key if that was the last one.
func (z *ZSet) Remove(m []byte) bool {
	db := z.r.db
	if z.big != nil {
		h := z.big.idx.Hash(m)
		off, ok := z.big.idx.Find(h, m)
		if ok {
			db.beforeWrite(z.r)
			z.big.tree.remove(scoreOf(z.big.idx.a, off), m)
			z.big.idx.Delete(h, off)
			freeElem(z.big.idx.a, blockZSet, off)
		}
		return ok
	}
	lp := z.blob()
	off := listpack.Find(lp, listpack.First(lp), m, 1)
	if off < 0 {
		return false
	}
	db.beforeWrite(z.r)
	z.r = db.setBlob(z.r, formBlob, listpack.Delete(lp, off, 2))
	return true
}

// Rank returns how many members stand before m.
func (z *ZSet) Rank(m []byte) (int, bool) {
	if z.big != nil {
		off, ok := z.big.idx.Find(z.big.idx.Hash(m), m)
		if !ok {
			return 0, false
		}
		return z.big.tree.rank(scoreOf(z.big.idx.a, off), m), true
	}
	lp := z.blob()
	at := listpack.Find(lp, listpack.First(lp), m, 1)
	if at < 0 {
		return 0, false
	}
	n := 0
	for off := listpack.First(lp); off != at; n++ {
		off = listpack.Next(lp, listpack.Next(lp, off))
	}
	return n, true
}

// CountLess returns how many members have a smaller score, or one that is
// smaller or equal when inclusive is set.
func (z *ZSet) CountLess(score float64, inclusive bool) int {
	if z.big != nil {
		return z.big.tree.count(func(s float64, _ Off) bool { return s < score || inclusive && s == score })
	}
	lp := z.blob()
	n := 0
	for off := listpack.First(lp); off >= 0; n++ {
		soff := listpack.Next(lp, off)
		if s := lpScore(lp, soff); s > score || !inclusive && s == score {
			break
		}
		off = listpack.Next(lp, soff)
	}
	return n
}

// CountLexLess returns how many members are before m by their bytes, or equal to it
// when inclusive is set. It means something only if all scores are equal.
func (z *ZSet) CountLexLess(m []byte, inclusive bool) int {
	less := func(c int) bool { return c < 0 || inclusive && c == 0 }
	if z.big != nil {
		a := z.big.tree.a
		return z.big.tree.count(func(_ float64, off Off) bool { return less(bytes.Compare(scoredKey(a, off), m)) })
	}
	lp := z.blob()
	n := 0
	for off := listpack.First(lp); off >= 0 && less(z.compare(lp, off, m)); n++ {
		off = listpack.Next(lp, listpack.Next(lp, off))
	}
	return n
}

// CountLexGreater returns how many members are behind m by their bytes, or equal
// to it when inclusive is set. If the scores are not all equal this counts, in the
// small form, from the end up to the first that is not.
func (z *ZSet) CountLexGreater(m []byte, inclusive bool) int {
	if z.big != nil {
		return z.Len() - z.CountLexLess(m, !inclusive)
	}
	lp := z.blob()
	n := 0
	for off := listpack.Seek(lp, -2); off >= 0; n++ {
		if c := z.compare(lp, off, m); c < 0 || c == 0 && !inclusive {
			break
		}
		if off = listpack.Prev(lp, off); off >= 0 {
			off = listpack.Prev(lp, off)
		}
	}
	return n
}

// RangeByRank calls fn for up to n members from rank start on, until it returns
// false. With reverse, start counts from the end and the order is descending. The slice is
// valid during the call; fn must not change the sorted set.
func (z *ZSet) RangeByRank(start, n int, reverse bool, fn func(m []byte, score float64) bool) {
	size := z.Len()
	if start < 0 || start >= size {
		return
	}
	n = min(n, size-start)
	if reverse {
		start = size - 1 - start
	}
	if z.big != nil {
		a := z.big.tree.a
		z.big.tree.each(start, n, reverse, func(s float64, off Off) bool { return fn(scoredKey(a, off), s) })
		return
	}
	lp := z.blob()
	var buf []byte
	off := listpack.Seek(lp, 2*start)
	for ; n > 0; n-- {
		soff := listpack.Next(lp, off)
		if !fn(textOf(lp, off, &buf), lpScore(lp, soff)) || n == 1 {
			return
		}
		if reverse {
			off = listpack.Prev(lp, listpack.Prev(lp, off))
		} else {
			off = listpack.Next(lp, soff)
		}
	}
}

// Each calls fn for every member in ascending order until it returns false.
func (z *ZSet) Each(fn func(m []byte, score float64) bool) {
	z.RangeByRank(0, z.Len(), false, fn)
}

// RemoveRangeByRank removes up to n members from rank start on and returns how
// many. The caller deletes the key if none remains.
func (z *ZSet) RemoveRangeByRank(start, n int) int {
	size := z.Len()
	if start < 0 || start >= size || n <= 0 {
		return 0
	}
	db := z.r.db
	n = min(n, size-start)
	db.beforeWrite(z.r)
	if z.big == nil {
		lp := z.blob()
		z.r = db.setBlob(z.r, formBlob, listpack.Delete(lp, listpack.Seek(lp, 2*start), 2*n))
		return n
	}
	x := &z.big.idx
	for left := n; left > 0; {
		left -= z.big.tree.removeRange(start, left, func(off Off) {
			x.Delete(x.Hash(scoredKey(x.a, off)), off)
			freeElem(x.a, blockZSet, off)
		})
	}
	return n
}

// At returns the member with the given rank, 0 <= rank < Len, valid until the next call
// on the keyspace.
func (z *ZSet) At(rank int) (m []byte, score float64) {
	if z.big != nil {
		s, off := z.big.tree.at(rank)
		return scoredKey(z.big.tree.a, off), s
	}
	lp := z.blob()
	off := listpack.Seek(lp, 2*rank)
	return z.r.db.ks.coll.text(lp, off), lpScore(lp, listpack.Next(lp, off))
}

// Scan visits about count members from cursor on and returns where to go on, 0
// at the end. A small sorted set is visited at once.
func (z *ZSet) Scan(cursor uint64, count int, fn func(m []byte, score float64)) uint64 {
	if z.big != nil {
		x := &z.big.idx
		return x.Scan(cursor, count, func(off Off) { fn(scoredKey(x.a, off), scoreOf(x.a, off)) })
	}
	z.Each(func(m []byte, score float64) bool {
		fn(m, score)
		return true
	})
	return 0
}

// Random returns a member and its score, each with the same probability, valid
// until the next call on the keyspace. The sorted set must not be empty.
func (z *ZSet) Random(rng *rand.Rand) (m []byte, score float64) {
	if z.big != nil {
		off, _ := z.big.idx.Random(rng)
		return scoredKey(z.big.idx.a, off), scoreOf(z.big.idx.a, off)
	}
	return z.At(randomIndex(rng, z.Len()))
}

// bigZSet is the large form of a sorted set: the index finds members, the tree
// has their order.
//
// Invariant: both hold the same blocks, and the score in a block is that in the tree.
type bigZSet struct {
	idx    Index
	tree   zTree
	frozen frozenIndex
}

func newBigZSet(ks *Keyspace) *bigZSet {
	b := &bigZSet{tree: zTree{a: ks.arena}}
	b.idx.init(ks.arena, ks.seed, blockZSet)
	return b
}

func (b *bigZSet) set(m []byte, score float64) (added, changed bool) {
	h := b.idx.Hash(m)
	off, ok := b.idx.Find(h, m)
	if !ok {
		off = newScored(b.idx.a, m, score)
		b.idx.Insert(h, off)
		b.tree.insert(score, off)
		return true, false
	}
	old := scoreOf(b.idx.a, off)
	if old == score {
		return false, false
	}
	b.idx.beforeWrite(h)
	b.tree.update(old, score, off)
	setScore(b.idx.a, off, score)
	return false, true
}

func (b *bigZSet) appendScored(enc *rdb.Encoder, dst []byte, off Off) []byte {
	a := b.idx.a
	return rdb.AppendScore(enc.AppendString(dst, scoredKey(a, off)), scoreOf(a, off))
}

func (b *bigZSet) typ() Type         { return TypeZSet }
func (b *bigZSet) encoding() string  { return "skiplist" }
func (b *bigZSet) length() int       { return b.idx.Len() }
func (b *bigZSet) rdbType() rdb.Type { return rdb.TypeZset2 }

func (b *bigZSet) memory(samples int) int64 {
	return indexMemory(&b.idx, blockZSet, samples) + int64(b.tree.nodes)*zNodeSize
}

func (b *bigZSet) free(budget int) (done bool) {
	// The tree first: it costs a node for dozens of elements.
	if !b.tree.freeStep(max(1, budget/16)) {
		return false
	}
	_, done = b.idx.drain(budget, func(off Off) { freeElem(b.idx.a, blockZSet, off) })
	return done
}

func (b *bigZSet) clone() largeObject {
	a := b.idx.a
	c := &bigZSet{tree: zTree{a: a}}
	c.idx.init(a, b.idx.seed, blockZSet)
	b.tree.each(0, b.tree.n, false, func(score float64, off Off) bool {
		to := copyElem(a, blockZSet, off)
		c.idx.Insert(c.idx.Hash(scoredKey(a, to)), to)
		c.tree.insert(score, to)
		return true
	})
	return c
}

func (b *bigZSet) appendValue(enc *rdb.Encoder, dst []byte) []byte {
	// Descending, as Redis writes it: its loader then inserts at the head.
	dst = rdb.AppendLen(dst, uint64(b.tree.n))
	b.tree.each(b.tree.n-1, b.tree.n, true, func(_ float64, off Off) bool {
		dst = b.appendScored(enc, dst, off)
		return true
	})
	return dst
}

func (b *bigZSet) freeze(enc *rdb.Encoder) { b.frozen.freeze(&b.idx, enc, b.appendScored) }

func (b *bigZSet) freezeArgs() { b.frozen.freezeArgs(&b.idx, b.appendScoredArgs) }

func (b *bigZSet) appendScoredArgs(_ *rdb.Encoder, dst []byte, off Off) []byte {
	var t [32]byte
	dst = appendArg(dst, strconv.AppendFloat(t[:0], scoreOf(b.idx.a, off), 'g', -1, 64))
	return appendArg(dst, scoredKey(b.idx.a, off))
}

func (b *bigZSet) serialise(_ *rdb.Encoder, dst []byte, budget int) (_ []byte, done bool) {
	return b.frozen.serialise(dst, budget)
}

func (b *bigZSet) thaw() { b.frozen.thaw() }

func (b *bigZSet) backlog() int { return b.frozen.backlog() }
