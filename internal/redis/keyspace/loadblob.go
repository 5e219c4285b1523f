package keyspace

import (
	"bytes"
	"hash/maphash"

	"holdfast/internal/redis/intset"
	"holdfast/internal/redis/listpack"
)

// LoadBlob creates key, which must not exist, from the blob that an RDB file or
// a DUMP payload holds: a well-formed, non-empty listpack of a hash or a sorted
// set, or an intset. The blob becomes the value as it is, or is expanded if it is above the
// limits. It reports false, and has done nothing, if the blob holds a member
// twice or in the wrong order, is of another type, or has so many elements that
// this is not worth looking into: then they are to be added one by one.
// expireAt is a Unix time in ms or NoExpiry.
func (db *DB) LoadBlob(key []byte, t Type, blob []byte, expireAt int64) (Ref, bool) {
	f := formBlob
	ok := false
	switch t {
	case TypeHash:
		ok = db.ks.distinct(blob)
	case TypeZSet:
		ok = ordered(blob) && db.ks.distinct(blob)
	case TypeSet:
		f, ok = formIntset, ascending(blob)
	}
	if !ok {
		return Ref{}, false
	}
	ks := db.ks
	e := ks.arena.newEntry(key, len(blob), uint8(t)|uint8(f)<<formShift|ks.parity, ks.newLRU(), expireAt)
	copy(ks.arena.mem[e.val():], blob)
	db.link(db.keys.hash(key), &e)
	return db.applyLimits(Ref{db, e.off}), true
}

// distinctMax is the number of pairs up to which distinct looks.
const distinctMax = 512

// distinct reports whether lp is of pairs whose first elements all differ.
func (ks *Keyspace) distinct(lp []byte) bool {
	n := listpack.Len(lp)
	if n%2 != 0 || n > 2*distinctMax {
		return false
	}
	if n <= 2*8 {
		return distinctFew(lp)
	}
	var table [2 * distinctMax]int32 // offsets, by hash
	buf := ks.coll.num
	for off := listpack.First(lp); off >= 0; off = listpack.Next(lp, listpack.Next(lp, off)) {
		key := textOf(lp, off, &buf)
		i := maphash.Bytes(ks.seed, key) % uint64(len(table))
		for ; table[i] != 0; i = (i + 1) % uint64(len(table)) {
			if listpack.Equal(lp, int(table[i]), key) {
				return false
			}
		}
		table[i] = int32(off)
	}
	ks.coll.num = buf[:0]
	return true
}

// distinctFew is distinct for a few pairs: it compares each with each.
func distinctFew(lp []byte) bool {
	var num [listpack.MaxIntLen]byte
	buf := num[:0]
	for off := listpack.First(lp); off >= 0; {
		key := textOf(lp, off, &buf)
		off = listpack.Next(lp, listpack.Next(lp, off))
		if listpack.Find(lp, off, key, 1) >= 0 {
			return false
		}
	}
	return true
}

// ordered reports whether lp is of members and scores, in the order of a sorted
// set; the same member twice with one score is out of order.
func ordered(lp []byte) bool {
	if listpack.Len(lp)%2 != 0 {
		return false
	}
	var a, b [listpack.MaxIntLen]byte
	buf, other := a[:0], b[:0]
	var last []byte
	lastScore, first := 0.0, true
	for off := listpack.First(lp); off >= 0; {
		m := textOf(lp, off, &buf)
		off = listpack.Next(lp, off)
		score, ok := elementScore(lp, off)
		if !ok {
			return false
		}
		if !first && (score < lastScore || score == lastScore && bytes.Compare(m, last) <= 0) {
			return false
		}
		// m may lie in buf: the next member takes the other one.
		last, lastScore, first = m, score, false
		buf, other = other, buf
		off = listpack.Next(lp, off)
	}
	return true
}

// elementScore returns the score at off; false if there is no number.
func elementScore(lp []byte, off int) (float64, bool) {
	str, num, isInt := listpack.Get(lp, off)
	if isInt {
		return float64(num), true
	}
	score, ok := ParseScore(str)
	return score, ok && score == score
}

// ascending reports whether the integers of is are in order, none twice.
func ascending(is []byte) bool {
	for i := 1; i < intset.Len(is); i++ {
		if intset.Get(is, i-1) >= intset.Get(is, i) {
			return false
		}
	}
	return true
}
