package keyspace

import (
	"math/rand/v2"
	"strconv"
	"unsafe"

	"holdfast/internal/redis/listpack"
	"holdfast/internal/redis/rdb"
)

// This file holds what the collections share. Each type has a small form, a blob
// inside the entry, and a large one:
//
//	         small                                   large
//	hash     listpack: field, value, ...             bigHash: Index of field blocks
//	list     listpack of one node                    bigList: deque of listpacks
//	set      intset; listpack of members             bigSet: Index of member blocks
//	zset     listpack: member, score, ... in order   bigZSet: Index of member blocks, and a tree
//
// Handles (Hash, List, Set, ZSet) are values; they are valid until another key
// changes. Arguments must not alias the collection they are given to. Results
// that are not copied say how long they live.

// Bounds of the small forms that Redis does not have: it keeps every set of
// strings in a hash table and every list in a quicklist, and reports so.
const (
	setBlobEntries = 128
	setBlobValue   = 64
	listBlobBytes  = 2048
)

// collScratch is the memory that the collections of a keyspace share.
type collScratch struct {
	blob []byte // a blob that is being rebuilt
	pop  []byte // the last popped or removed element
	num  []byte // an integer as text
	cmp  []byte // an integer as text that is compared with an argument
}

// scratchKeep bounds the memory that a scratch buffer keeps between calls.
const scratchKeep = 64 << 10

// text returns the element at off of lp as text: inside lp, or in the shared
// buffer if it is an integer.
func (s *collScratch) text(lp []byte, off int) []byte {
	str, num, isInt := listpack.Get(lp, off)
	if !isInt {
		return str
	}
	return s.decimal(num)
}

// decimal returns n as text in the shared buffer.
func (s *collScratch) decimal(n int64) []byte {
	s.num = strconv.AppendInt(s.num[:0], n, 10)
	return s.num
}

// keepPopped copies the element at off of lp, which will be removed.
func (s *collScratch) keepPopped(lp []byte, off int) []byte {
	if cap(s.pop) > scratchKeep {
		s.pop = nil
	}
	s.pop = listpack.AppendValue(s.pop[:0], lp, off)
	return s.pop
}

// room returns blob with room for extra bytes more: itself, if its block has
// it, or a copy in the shared buffer. What is built there goes into an entry
// before the next call.
func (s *collScratch) room(blob []byte, extra int) []byte {
	need := len(blob) + extra
	if need <= cap(blob) {
		return blob
	}
	return append(s.empty(need), blob...)
}

// empty returns the shared buffer with room for n bytes.
func (s *collScratch) empty(n int) []byte {
	if cap(s.blob) < n || cap(s.blob) > scratchKeep && n <= scratchKeep {
		s.blob = make([]byte, 0, n+n/4)
	}
	return s.blob[:0]
}

// textOf returns the element at off of lp as text, inside lp or in buf.
func textOf(lp []byte, off int, buf *[]byte) []byte {
	str, num, isInt := listpack.Get(lp, off)
	if !isInt {
		return str
	}
	*buf = strconv.AppendInt((*buf)[:0], num, 10)
	return *buf
}

func appendInt(dst []byte, n int64) []byte { return strconv.AppendInt(dst, n, 10) }

// stringOf returns b as a string without copying; b must not change meanwhile.
func stringOf(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// applyLimits gives a collection whose blob was loaded from outside the large
// form if it has more entries than the limits allow, as Redis does on loading.
func (db *DB) applyLimits(r Ref) Ref {
	lim := db.ks.limits
	switch r.Type() {
	case TypeHash:
		if h := db.Hash(r); h.big == nil && h.Len() > lim.HashMaxListpackEntries {
			h.expand()
			return h.r
		}
	case TypeZSet:
		if z := db.ZSet(r); z.big == nil && z.Len() > lim.ZsetMaxListpackEntries {
			z.expand()
			return z.r
		}
	case TypeSet:
		if s := db.Set(r); s.IsIntset() && s.Len() > intsetLimit(lim) {
			s.leaveIntset(0)
			return s.r
		}
	case TypeList:
		if l := db.List(r); l.big == nil && len(db.blob(r)) > listBlobBytes {
			l.expand()
			return l.r
		}
	}
	return r
}

// elemAppender appends the RDB form of the element block at off.
type elemAppender func(enc *rdb.Encoder, dst []byte, off Off) []byte

// appendIndex appends the count and all elements of an index.
func appendIndex(x *Index, enc *rdb.Encoder, dst []byte, elem elemAppender) []byte {
	dst = rdb.AppendLen(dst, uint64(x.Len()))
	x.Each(func(off Off) bool {
		dst = elem(enc, dst, off)
		return true
	})
	return dst
}

// indexMemory estimates the bytes of an index and its blocks, from up to
// samples of them (0: all).
func indexMemory(x *Index, kind blockKind, samples int) int64 {
	var bytes, seen int64
	x.Each(func(off Off) bool {
		bytes += int64(classSize(elemSize(x.a, kind, off)))
		seen++
		return samples <= 0 || seen < int64(samples)
	})
	if seen > 0 && seen < int64(x.Len()) {
		bytes = bytes * int64(x.Len()) / seen
	}
	return x.memory() + bytes
}

// cloneIndex fills dst, an empty index of the same kind, with copies of the
// blocks of x.
func cloneIndex(dst, x *Index, kind blockKind) {
	x.Each(func(off Off) bool {
		to := copyElem(x.a, kind, off)
		dst.Insert(dst.Hash(x.keyAt(to)), to)
		return true
	})
}

// randomIndex returns a position among n > 0.
func randomIndex(rng *rand.Rand, n int) int {
	if n == 1 {
		return 0
	}
	return rng.IntN(n)
}
