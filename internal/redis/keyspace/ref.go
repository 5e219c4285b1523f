package keyspace

import (
	"unsafe"

	"holdfast/internal/redis/listpack"
)

// Ref names an entry. It is valid until the entry moves, which any call that
// changes its key may cause; a Ref is passed by value and never kept.
type Ref struct {
	db  *DB
	off Off
}

// DB returns the database of the entry.
func (r Ref) DB() *DB { return r.db }

func (r Ref) entry() entry { return r.db.ks.arena.entry(r.off) }

// Key returns the key; it aliases the arena.
func (r Ref) Key() []byte { return r.db.ks.arena.entryKey(r.off) }

// Type returns the type of the value.
func (r Ref) Type() Type { return Type(r.db.ks.arena.mem[r.off] & typeMask) }

// ExpireAt returns the Unix time in ms at which the key expires, -1 if it does not.
func (r Ref) ExpireAt() int64 {
	a := r.db.ks.arena
	if a.mem[r.off]&flagExpire == 0 {
		return -1 // most keys: no need to decode the header
	}
	e := a.entry(r.off)
	return a.expireAt(&e)
}

// Bytes returns the value of a string; it aliases the arena and is valid until
// the next change of the keyspace.
func (r Ref) Bytes() []byte {
	a := r.db.ks.arena
	h := a.load64(r.off)
	if uint8(h)&(flagLong|flagExpire) == 0 { // as in hasKey
		val := r.off + entryHeader + Off(h>>32&0xFFFF)
		end := val + Off(h>>48)
		return a.mem[val:end:end]
	}
	e := a.entry(r.off)
	return a.valOf(&e)
}

// embstrMax is the longest string that Redis keeps in one allocation with its
// object.
const embstrMax = 44

// Encoding returns what OBJECT ENCODING reports.
func (r Ref) Encoding() string {
	e := r.entry()
	if e.typ() == TypeString {
		return r.db.ks.arena.stringEncoding(&e)
	}
	if e.isLarge() {
		return r.db.large(r).encoding()
	}
	switch e.typ() {
	case TypeList:
		return "quicklist"
	case TypeSet:
		if e.form() == formIntset {
			return "intset"
		}
		return "hashtable"
	}
	return "listpack"
}

func (a *Arena) stringEncoding(e *entry) string {
	if e.form() == formRaw {
		return "raw"
	}
	if e.vlen <= listpack.MaxIntLen && e.form() != formText {
		if _, ok := listpack.ParseInt(a.valOf(e)); ok {
			return "int"
		}
	}
	if e.vlen <= embstrMax {
		return "embstr"
	}
	return "raw"
}

// slotShare is what a key costs in the index on average.
const slotShare = 12

// MemoryUsage returns the bytes that the key takes with its value, by size
// classes. Of a large collection up to samples elements are looked at, all if
// samples is 0.
func (r Ref) MemoryUsage(samples int) int64 {
	e := r.entry()
	n := int64(classSize(e.size())) + slotShare
	if e.expires() {
		n += slotShare
	}
	if e.isLarge() {
		n += largeOverhead + r.db.large(r).memory(samples)
	}
	return n
}

// within reports whether b lies inside block.
func within(block, b []byte) bool {
	p, q := uintptr(unsafe.Pointer(unsafe.SliceData(block))), uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	return q >= p && q < p+uintptr(cap(block))
}
