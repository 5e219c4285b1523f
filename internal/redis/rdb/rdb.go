// Package rdb encodes and decodes: the file format of Redis snapshots, and the
// payload of DUMP and RESTORE, as Redis 7.0 writes and reads them. It writes
// version 10 and reads versions 1 to 10. It knows no keyspace: a Writer is told
// the values, a Visitor is told what a file holds.
//
//	w := rdb.NewWriter(file, rdb.WriterOptions{Compress: true, Checksum: true})
//	w.Header()
//	w.Aux("redis-ver", "7.0.15")
//	w.SelectDB(0)
//	w.ResizeDB(1, 0)
//	w.Key([]byte("greeting"), rdb.NoMeta)
//	w.String([]byte("hello"))
//	err := w.EOF()
//
//	res, err := rdb.Load(file, visitor, rdb.Options{})
//
// One key can also be serialised into a buffer by an Encoder, without any
// allocation, and the buffer be given to Writer.Raw later, or be made a DUMP
// payload by AppendDumpFooter.
//
// Format:
//
//	"REDIS" <version, 4 digits>
//	250 <string> <string>             AUX: a fact about the file
//	245 <string>                      FUNCTION2: the code of a function library
//	254 <length>                      SELECTDB: the keys below are in this database
//	251 <length> <length>             RESIZEDB: its number of keys, and of those that expire
//	  [252 <8 bytes LE>]              expiry of the next key, Unix time in milliseconds
//	  [253 <4 bytes LE>]              the same in seconds (old)
//	  [248 <length> | 249 <1 byte>]   idle seconds, or access frequency, of the next key
//	  <type> <string: key> <value>
//	255 <CRC64 of all before, 8 bytes LE, 0 if there is none>   (from version 5 on)
//
// A length is 00llllll, 01llllll llllllll, 0x80 and 4 bytes, or 0x81 and 8
// bytes, big endian. A string is a length and its bytes, or 0xC0/C1/C2 and an
// integer of 1, 2 or 4 bytes (little endian), or 0xC3, two lengths and bytes
// compressed by LZF. Small collections are one string each: a listpack, an
// intset, or one of their predecessors ziplist and zipmap.
//
// Downsides of the format: one checksum at the very end, so that damage is
// noticed only after all was read and is not located; no index; lengths are
// not protected at all. The decoder therefore allocates in steps, as bytes
// really arrive, and never by what a length claims.
package rdb

import (
	"errors"
	"fmt"
	"math"
)

// Version is the RDB version that is written, and the newest that is read.
const Version = 10

// Type is the byte that says how a value is stored.
type Type byte

// Types of Redis 7.0. Those without a comment are still written.
const (
	TypeString        Type = 0
	TypeList          Type = 1 // elements
	TypeSet           Type = 2
	TypeZset          Type = 3 // scores as text
	TypeHash          Type = 4
	TypeZset2         Type = 5
	TypeModulePreGA   Type = 6 // of a module, not readable
	TypeModule2       Type = 7 // of a module
	TypeHashZipmap    Type = 9
	TypeListZiplist   Type = 10
	TypeSetIntset     Type = 11
	TypeZsetZiplist   Type = 12
	TypeHashZiplist   Type = 13
	TypeListQuicklist Type = 14 // nodes are ziplists
	TypeStream        Type = 15 // without the fields that 7.0 added
	TypeHashListpack  Type = 16
	TypeZsetListpack  Type = 17
	TypeListQuick2    Type = 18
	TypeStream2       Type = 19
)

// isValue reports whether t is the type of a value that Redis 7.0 may store.
func (t Type) isValue() bool { return t <= TypeModule2 || t >= TypeHashZipmap && t <= TypeStream2 }

// Bytes that stand in the place of a type.
const (
	opFunction2     = 245
	opFunctionPreGA = 246
	opModuleAux     = 247
	opIdle          = 248
	opFreq          = 249
	opAux           = 250
	opResizeDB      = 251
	opExpireMs      = 252
	opExpire        = 253
	opSelectDB      = 254
	opEOF           = 255
)

// First bytes of lengths and strings.
const (
	len14Bit = 0x40
	len32Bit = 0x80
	len64Bit = 0x81
	encInt8  = 0xC0
	encInt16 = 0xC1
	encInt32 = 0xC2
	encLZF   = 0xC3
)

// How a quicklist node holds its elements.
const (
	nodePlain  = 1
	nodePacked = 2
)

// Meta is what a file says of a key beside its value.
type Meta struct {
	ExpireMs int64 // Unix time in milliseconds; -1 if the key does not expire
	IdleSec  int64 // seconds since the last access; -1 if not said
	Freq     int   // logarithmic access counter, 0..255; -1 if not said
}

// NoMeta is the Meta of a key of which nothing is said.
var NoMeta = Meta{ExpireMs: -1, IdleSec: -1, Freq: -1}

// Kind names the collection that a Visitor is being told.
type Kind byte

// Kinds of collections.
const (
	KindList Kind = iota + 1
	KindSet
	KindHash
	KindZset
)

func (k Kind) String() string {
	switch k {
	case KindList:
		return "list"
	case KindSet:
		return "set"
	case KindHash:
		return "hash"
	case KindZset:
		return "zset"
	}
	return fmt.Sprintf("Kind(%d)", byte(k))
}

// What is wrong with a file or a payload. Every error of the decoder but those
// that a Visitor or the io.Reader returned wraps one of them, inside an *Error.
var (
	// ErrShortRead: the input ends too early.
	ErrShortRead = errors.New("short read")
	// ErrCorrupt: the input says something that cannot be.
	ErrCorrupt = errors.New("corrupt RDB")
	// ErrChecksum: the CRC64 at the end is not that of the bytes before.
	ErrChecksum = errors.New("wrong RDB checksum")
	// ErrVersion: no RDB file, or one of a newer version.
	ErrVersion = errors.New("not an RDB of a known version")
	// ErrModule: the input holds data of a module.
	ErrModule = errors.New("RDB with module data")
	// ErrEmptyKey: LoadValue found a collection without elements, which Redis
	// never stores. Load skips and counts such keys.
	ErrEmptyKey = errors.New("empty key")

	// ErrDuplicate is for visitors: they return it when a member is there
	// already. The decoder makes an *Error that wraps ErrCorrupt of it.
	ErrDuplicate = errors.New("duplicate member")
)

// Error says what is wrong with an input, and where.
type Error struct {
	Offset int64  // bytes read before the place where it was noticed
	Reason string // Redis's words where it has some
	Err    error  // one of the sentinels above
}

// Error returns one line with the offset.
func (e *Error) Error() string {
	return fmt.Sprintf("%s at offset %d: %s", e.Err, e.Offset, e.Reason)
}

// Unwrap returns the sentinel error.
func (e *Error) Unwrap() error { return e.Err }

// maxInt is the largest length that can be a Go length.
const maxInt = math.MaxInt
