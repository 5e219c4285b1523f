package keyspace

import (
	"encoding/binary"

	"holdfast/internal/invariant"
)

// Type is the type of a value, as TYPE reports it.
type Type uint8

// The types, numbered as in Redis.
const (
	TypeString Type = iota
	TypeList
	TypeSet
	TypeZSet
	TypeHash
)

var typeNames = [...]string{"string", "list", "set", "zset", "hash"}

// String returns Redis's name of the type.
func (t Type) String() string {
	if int(t) < len(typeNames) {
		return typeNames[t]
	}
	return "unknown"
}

// An entry is one block of the arena that holds a key and its value:
//
//	  0      1           4            6            8
//	+------+-----------+------------+------------+ ... +--------+-----+-------+
//	| bits | LRU / LFU | key length | val length |     | expiry | key | value |
//	+------+-----------+------------+------------+ ... +--------+-----+-------+
//	bits:  0-2 Type, 3-4 form, 5 expires, 6 long, 7 snapshot parity
//
// All little endian. A long entry has two 32-bit lengths behind the header, and
// zeros in it. The expiry (Unix time in ms) means something when the bit says so;
// there is room for it then, and in every long entry, whose value would else be
// copied by EXPIRE. The form says what the value is:
//
//	string:     formPlain  bytes      formRaw  bytes that report the encoding "raw"
//	            formText   bytes that never report the encoding "int"
//	collection: formBlob   a small form, at its owner's choice listpack or the like
//	            formIntset an intset (sets only)
//	            formLarge  8 bytes: the number of a large object in Keyspace.large
//
// Invariant: the block was allocated with a size of the class of head+key+value
// bytes, so that the header alone tells how to free it.
const (
	entryHeader = 8
	entryMaxLen = 1<<32 - 1

	typeMask   = 0x07
	formShift  = 3
	formMask   = 0x18
	flagExpire = 0x20
	flagLong   = 0x40
	flagParity = 0x80
)

// form says how the value of an entry is stored.
type form uint8

const (
	formBlob   form = 0
	formIntset form = 1
	formLarge  form = 3

	formPlain      = formBlob
	formRaw        = formIntset
	formText  form = 2
)

// entry is a decoded header.
type entry struct {
	off    Off
	bits   uint8
	key    Off // where the key begins
	klen   int
	vlen   int
	expire Off // where the expiry stands, 0 if there is none
}

func (a *Arena) entry(off Off) entry {
	h := a.load64(off)
	e := entry{off: off, bits: uint8(h), key: off + entryHeader}
	e.klen, e.vlen = int(h>>32&0xFFFF), int(h>>48)
	if e.bits&(flagLong|flagExpire) != 0 {
		a.entryRare(&e)
	}
	return e
}

// entryRare fills in what short entries without expiry do not have.
func (a *Arena) entryRare(e *entry) {
	if e.bits&flagLong != 0 {
		l := a.load64(e.key)
		e.klen, e.vlen = int(uint32(l)), int(l>>32)
		e.key += 8
	}
	if e.bits&flagExpire != 0 {
		e.expire = e.key
	}
	e.key += 8
}

func (e *entry) size() int  { return int(e.key-e.off) + e.klen + e.vlen }
func (e *entry) typ() Type  { return Type(e.bits & typeMask) }
func (e *entry) form() form { return form(e.bits & formMask >> formShift) }
func (e *entry) val() Off   { return e.key + Off(e.klen) }
func (e *entry) isLarge() bool {
	return e.bits&formMask == uint8(formLarge)<<formShift && e.typ() != TypeString
}
func (e *entry) parity() uint8 { return e.bits & flagParity }
func (e *entry) expires() bool { return e.expire != 0 }
func (a *Arena) keyOf(e *entry) []byte {
	return a.mem[e.key : e.key+Off(e.klen) : e.key+Off(e.klen)]
}

func (a *Arena) valOf(e *entry) []byte { return a.Mem(e.val(), e.vlen) }

// expireAt returns the expiry of e in ms, -1 if it has none.
func (a *Arena) expireAt(e *entry) int64 {
	if e.expire == 0 {
		return -1
	}
	return int64(a.load64(e.expire))
}

// entryKey returns the key of the entry at off.
func (a *Arena) entryKey(off Off) []byte {
	e := a.entry(off)
	return a.keyOf(&e)
}

// lru returns the 24 bits of access information of the entry at off.
func (a *Arena) lru(off Off) uint32 { return uint32(a.load64(off)) >> 8 }

func (a *Arena) setLRU(off Off, v uint32) {
	m := a.mem[off : off+4]
	m[1], m[2], m[3] = byte(v), byte(v>>8), byte(v>>16)
}

// setLen changes the length of the value in the header, without moving
// anything; the caller has seen to it that the block is large enough.
func (a *Arena) setLen(e *entry, vlen int) {
	if e.bits&flagLong != 0 {
		binary.LittleEndian.PutUint32(a.mem[e.off+entryHeader+4:], uint32(vlen))
	} else {
		binary.LittleEndian.PutUint16(a.mem[e.off+6:], uint16(vlen))
	}
	e.vlen = vlen
}

func needsLong(klen, vlen int) bool { return klen >= 0xFFFF || vlen >= 0xFFFF }

// entrySize returns the size of an entry with these properties.
func entrySize(klen, vlen int, expires bool) int {
	n := entryHeader + klen + vlen
	switch {
	case needsLong(klen, vlen):
		n += 16
	case expires:
		n += 8
	}
	return n
}

// newEntry makes an entry whose value is vlen bytes that the caller fills in.
// bits gives the type, form and parity; expireAt < 0 means none. The key may
// lie in the arena.
func (a *Arena) newEntry(key []byte, vlen int, bits uint8, lru uint32, expireAt int64) entry {
	if len(key) > entryMaxLen || vlen > entryMaxLen || vlen < 0 {
		invariant.Violated("entry: key of %d bytes, value of %d bytes", len(key), vlen)
	}
	bits &^= flagLong | flagExpire
	e := entry{bits: bits, klen: len(key), vlen: vlen}
	e.off = a.Alloc(entrySize(len(key), vlen, expireAt >= 0))
	e.key = e.off + entryHeader
	long := needsLong(len(key), vlen)
	if long {
		e.bits |= flagLong
		a.store64(e.key, uint64(len(key))|uint64(vlen)<<32)
		e.key += 8
	}
	if expireAt >= 0 {
		e.bits |= flagExpire
		a.store64(e.key, uint64(expireAt))
		e.expire = e.key
	}
	if long || expireAt >= 0 {
		e.key += 8
	}
	h := uint64(e.bits) | uint64(lru)<<8
	if e.bits&flagLong == 0 {
		h |= uint64(len(key))<<32 | uint64(vlen)<<48
	}
	a.store64(e.off, h)
	copy(a.mem[e.key:e.key+Off(len(key))], key)
	return e
}

// setExpiry is for entries that have room for an expiry, which need not mean
// anything before or, with expireAt < 0, behind.
func (a *Arena) setExpiry(e *entry, expireAt int64) {
	e.bits &^= flagExpire
	e.expire = 0
	if expireAt >= 0 {
		e.bits |= flagExpire
		e.expire = e.key - 8
		a.store64(e.expire, uint64(expireAt))
	}
	a.mem[e.off] = a.mem[e.off]&^flagExpire | e.bits&flagExpire
}

// largeID returns the number of the large object that e names.
func (a *Arena) largeID(e *entry) uint32 { return uint32(a.load64(e.val())) }
