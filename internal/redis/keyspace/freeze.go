package keyspace

import "holdfast/internal/redis/rdb"

// chunkSize is about how many bytes a piece of a chunkBuf holds.
const chunkSize = 64 << 10

// chunkBuf is a queue of bytes that never moves what it holds.
type chunkBuf struct {
	full [][]byte
	last []byte
	size int // of full
}

// tail returns where to append to; put takes the result.
func (b *chunkBuf) tail() []byte { return b.last }

func (b *chunkBuf) put(last []byte) {
	b.last = last
	if len(last) >= chunkSize {
		b.full = append(b.full, last)
		b.size += len(last)
		b.last = nil
	}
}

func (b *chunkBuf) len() int { return b.size + len(b.last) }

// pop takes out the oldest piece, nil if there is none.
func (b *chunkBuf) pop() []byte {
	if len(b.full) > 0 {
		p := b.full[0]
		b.full[0] = nil
		b.full = b.full[1:]
		b.size -= len(p)
		return p
	}
	p := b.last
	b.last = nil
	if len(p) == 0 {
		return nil
	}
	return p
}

// frozenIndex is the view that a snapshot has of a large hash, set or sorted
// set while the collection goes on changing: it serialises the segments of the
// index one after the other, and those that are about to change before their turn.
// A zero value is not frozen. It must not be copied while it is.
type frozenIndex struct {
	x    *Index
	enc  *rdb.Encoder
	emit func(enc *rdb.Encoder, dst []byte, off Off) []byte // appends one element
	n    int                                                // elements at the moment of the freeze
	head bool                                               // the length was written, or none is to be
	pos  uint64                                             // leading 32 bits of the hash up to which segments are done
	side chunkBuf                                           // segments serialised before their turn
}

// freeze begins a view of x, whose elements emit serialises.
func (f *frozenIndex) freeze(x *Index, enc *rdb.Encoder, emit func(*rdb.Encoder, []byte, Off) []byte) {
	*f = frozenIndex{x: x, enc: enc, emit: emit, n: x.n}
	x.epoch++
	x.saver = f
}

// freezeArgs is freeze for elements as arguments, without their number.
func (f *frozenIndex) freezeArgs(x *Index, emit func(*rdb.Encoder, []byte, Off) []byte) {
	f.freeze(x, nil, emit)
	f.head = true
}

func (f *frozenIndex) saveBlock(off Off) { f.side.put(f.emit(f.enc, f.side.tail(), off)) }

// serialise appends the next part of about budget elements, the number of
// elements first. When done, the view has ended.
func (f *frozenIndex) serialise(dst []byte, budget int) (_ []byte, done bool) {
	if !f.head {
		dst = rdb.AppendLen(dst, uint64(f.n))
		f.head = true
	}
	if p := f.side.pop(); p != nil {
		return append(dst, p...), false
	}
	x := f.x
	for budget > 0 && f.pos < 1<<32 && len(x.dir) > 0 {
		s := &x.segs[x.dir[f.pos>>(32-x.depth)]]
		if s.epoch != x.epoch {
			s.epoch = x.epoch
			for _, v := range x.slots(s) {
				if v != 0 {
					dst = f.emit(f.enc, dst, slotOff(v))
				}
			}
			budget -= int(s.count)
		}
		budget--
		width := uint64(1) << (32 - s.depth)
		f.pos = f.pos&^(width-1) + width
	}
	if f.pos < 1<<32 && len(x.dir) > 0 || f.side.len() > 0 {
		return dst, false
	}
	f.thaw()
	return dst, true
}

// thaw ends the view.
func (f *frozenIndex) thaw() {
	if f.x != nil {
		f.x.saver = nil
	}
	*f = frozenIndex{}
}

// backlog returns the bytes held in copies.
func (f *frozenIndex) backlog() int { return f.side.len() }
