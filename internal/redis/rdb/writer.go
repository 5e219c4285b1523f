package rdb

import (
	"encoding/binary"
	"fmt"
	"io"
)

const (
	// writeSize is how much a Writer gathers before it writes.
	writeSize = 64 << 10
	// keepSize is the largest buffer that is kept for later use.
	keepSize = 1 << 20
)

// WriterOptions say how a Writer writes.
type WriterOptions struct {
	Compress bool // rdbcompression
	Checksum bool // rdbchecksum; without it the file ends in eight zero bytes
}

// A Writer writes an RDB file, in the order of its methods: Header, Aux,
// Function, then for each database SelectDB, ResizeDB and its keys, then EOF. A
// key is Key, one method that names the type, and the elements that it
// announced. Writing begins to be buffered anew after each 64 KiB and ends with
// EOF. The first error of the io.Writer is kept, later calls do nothing, and
// Err and EOF return it. A Writer does not sync, and it keeps no slice.
type Writer struct {
	dst      io.Writer
	enc      Encoder
	buf      []byte
	crc      uint64
	checksum bool
	written  int64
	err      error

	key  []byte // of Key, until the type is known; a copy
	meta Meta
}

// NewWriter returns a Writer to dst.
func NewWriter(dst io.Writer, opts WriterOptions) *Writer {
	return &Writer{
		dst: dst, enc: Encoder{Compress: opts.Compress}, checksum: opts.Checksum,
		buf: make([]byte, 0, writeSize+writeSize/4),
	}
}

// Err returns the first error of the io.Writer.
func (w *Writer) Err() error { return w.err }

// Offset returns how many bytes the file has so far, buffered ones included.
func (w *Writer) Offset() int64 { return w.written + int64(len(w.buf)) }

// put takes over the buffer, lengthened by some piece, and writes it out when
// it is large.
func (w *Writer) put(buf []byte) {
	w.buf = buf
	if len(buf) >= writeSize {
		w.flush()
	}
}

func (w *Writer) flush() {
	w.out(w.buf)
	w.buf = w.buf[:0]
	if cap(w.buf) > keepSize {
		w.buf = make([]byte, 0, writeSize+writeSize/4)
	}
}

// Flush writes out what is buffered, for a reader at the other end that waits.
func (w *Writer) Flush() error {
	w.flush()
	return w.err
}

// out sums and writes p.
func (w *Writer) out(p []byte) {
	if w.err != nil || len(p) == 0 {
		return
	}
	// The sum comes first: a Write may modify its buffer.
	if w.checksum {
		w.crc = CRC64(w.crc, p)
	}
	n, err := w.dst.Write(p)
	w.written += int64(n)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		w.err = fmt.Errorf("write RDB at offset %d: %w", w.written, err)
	}
}

// Header begins the file.
func (w *Writer) Header() { w.put(fmt.Appendf(w.buf, "REDIS%04d", Version)) }

// Aux states a fact about the file, such as "redis-ver" or "repl-id".
func (w *Writer) Aux(key, val string) {
	w.buf = w.enc.AppendString(append(w.buf, opAux), []byte(key))
	w.put(w.enc.AppendString(w.buf, []byte(val)))
}

// Function adds the code of a function library.
func (w *Writer) Function(code []byte) {
	w.put(w.enc.AppendString(append(w.buf, opFunction2), code))
}

// SelectDB begins the keys of a database.
func (w *Writer) SelectDB(db int) { w.put(AppendLen(append(w.buf, opSelectDB), uint64(db))) }

// ResizeDB says how many keys the database has, and how many of them expire.
func (w *Writer) ResizeDB(keys, expires uint64) {
	w.put(AppendLen(AppendLen(append(w.buf, opResizeDB), keys), expires))
}

// Key begins a key; the next call names its type.
func (w *Writer) Key(key []byte, m Meta) {
	w.key, w.meta = append(w.key[:0], key...), m
}

func (w *Writer) begin(t Type) { w.buf = w.enc.AppendKey(w.buf, t, w.key, w.meta) }

// str writes a string; one that is large and stays as it is goes out directly.
func (w *Writer) str(s []byte) {
	if len(s) < writeSize || w.enc.Compress {
		w.put(w.enc.AppendString(w.buf, s))
		return
	}
	w.buf = AppendLen(w.buf, uint64(len(s)))
	w.flush()
	w.out(s)
}

// String is the value of a string.
func (w *Writer) String(val []byte) {
	w.begin(TypeString)
	w.str(val)
}

// StringInt is the value of a string that writes v.
func (w *Writer) StringInt(v int64) {
	w.begin(TypeString)
	w.put(w.enc.AppendInt(w.buf, v))
}

// ListQuicklist2 is a list; as many ListNode or ListPlainNode calls follow.
func (w *Writer) ListQuicklist2(nodes int) { w.collection(TypeListQuick2, nodes) }

// ListNode adds a listpack of elements to a list.
func (w *Writer) ListNode(lp []byte) {
	w.buf = append(w.buf, nodePacked)
	w.str(lp)
}

// ListPlainNode adds one element, as a node of its own, to a list.
func (w *Writer) ListPlainNode(val []byte) {
	w.buf = append(w.buf, nodePlain)
	w.str(val)
}

// SetIntset is a set in the form of an intset.
func (w *Writer) SetIntset(is []byte) {
	w.begin(TypeSetIntset)
	w.str(is)
}

// SetMembers is a set; as many Element calls follow.
func (w *Writer) SetMembers(n int) { w.collection(TypeSet, n) }

// Element adds a member to a set.
func (w *Writer) Element(val []byte) { w.str(val) }

// HashListpack is a hash in the form of a listpack.
func (w *Writer) HashListpack(lp []byte) {
	w.begin(TypeHashListpack)
	w.str(lp)
}

// Hash is a hash; as many Pair calls follow.
func (w *Writer) Hash(n int) { w.collection(TypeHash, n) }

// Pair adds a field to a hash.
func (w *Writer) Pair(field, val []byte) {
	w.str(field)
	w.str(val)
}

// ZsetListpack is a sorted set in the form of a listpack.
func (w *Writer) ZsetListpack(lp []byte) {
	w.begin(TypeZsetListpack)
	w.str(lp)
}

// Zset2 is a sorted set; as many ScorePair calls follow. Redis writes them from
// the greatest down, which makes loading fastest.
func (w *Writer) Zset2(n int) { w.collection(TypeZset2, n) }

// ScorePair adds a member to a sorted set. score must be a number.
func (w *Writer) ScorePair(member []byte, score float64) {
	w.str(member)
	w.put(AppendScore(w.buf, score))
}

func (w *Writer) collection(t Type, n int) {
	w.begin(t)
	w.put(AppendLen(w.buf, uint64(n)))
}

// Opaque is a value of a type that only its own bytes describe, as
// Visitor.Opaque handed it over.
func (w *Writer) Opaque(t Type, raw []byte) {
	w.begin(t)
	w.Raw(raw)
}

// Raw adds bytes that an Encoder made.
func (w *Writer) Raw(p []byte) {
	if len(p) < writeSize {
		w.put(append(w.buf, p...))
		return
	}
	w.flush()
	w.out(p)
}

// EOF ends the file and returns the first error of all. The io.Writer is
// neither synced nor closed.
func (w *Writer) EOF() error {
	w.buf = append(w.buf, opEOF)
	w.flush()
	w.out(binary.LittleEndian.AppendUint64(w.buf, w.crc))
	return w.err
}
