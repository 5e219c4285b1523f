package journal

import (
	"encoding/binary"
	"sync"
)

const windowChunk = 64 << 10

// window keeps the last records as they were framed. Followers near the head
// read from it, and Reopen writes from it what was not synced.
//
// Invariant: the chunks hold every record from the first chunk's address on,
// in order, each whole.
type window struct {
	mu      sync.Mutex
	gen     uint64
	limit   int // bytes
	size    int // bytes held
	chunks  []*chunk
	free    []*chunk
	evicted address // end of the last record that fell out
	nextID  uint64
}

// chunk holds whole records of one segment, one behind the other.
type chunk struct {
	id   uint64 // 0 while it is free, so that a stale hint shows
	addr address
	pos  uint64 // position of its first record
	end  uint64 // position after its last record
	data []byte
}

// reset forgets everything and begins generation gen.
func (w *window) reset(gen uint64, limit int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.chunks {
		c.id = 0
	}
	w.gen, w.limit, w.size, w.chunks, w.evicted = gen, limit, 0, nil, 0
}

func (w *window) bytes() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.size
}

// add copies framed records that stand at addr and run from pos to end.
func (w *window) add(addr address, pos, end uint64, frames []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.chunks); n > 0 {
		last := w.chunks[n-1]
		if last.addr+address(len(last.data)) == addr && len(last.data)+len(frames) <= cap(last.data) {
			last.data = append(last.data, frames...)
			last.end = end
			w.size += len(frames)
			return
		}
	}
	c := w.take(len(frames))
	w.nextID++
	c.id, c.addr, c.pos, c.end = w.nextID, addr, pos, end
	c.data = append(c.data[:0], frames...)
	w.chunks = append(w.chunks, c)
	w.size += len(frames)
}

func (w *window) take(n int) *chunk {
	if k := len(w.free); k > 0 && n <= windowChunk {
		c := w.free[k-1]
		w.free = w.free[:k-1]
		return c
	}
	return &chunk{data: make([]byte, 0, max(n, windowChunk))}
}

// evict lets the oldest chunks go until the limit holds; the newest stays.
func (w *window) evict() {
	w.mu.Lock()
	defer w.mu.Unlock()
	drop := 0
	for w.size > w.limit && drop < len(w.chunks)-1 {
		c := w.chunks[drop]
		w.size -= len(c.data)
		w.evicted = c.addr + address(len(c.data))
		c.id = 0
		if cap(c.data) == windowChunk && len(w.free) < 4 {
			w.free = append(w.free, c)
		}
		drop++
	}
	if drop > 0 {
		n := copy(w.chunks, w.chunks[drop:])
		clear(w.chunks[n:])
		w.chunks = w.chunks[:n]
	}
}

// hint remembers where the last read of a follower ended.
type hint struct {
	c   *chunk
	id  uint64
	off int
}

// read copies stream bytes from pos on into buf. ok is false if pos is older
// than the window or the window belongs to another generation.
func (w *window) read(gen, pos uint64, buf []byte, h *hint) (n int, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if gen != w.gen || len(w.chunks) == 0 || pos < w.chunks[0].pos {
		return 0, false
	}
	at := w.find(pos)
	off := 0
	if h.c != nil && h.c.id == h.id && h.c.id != 0 && at < len(w.chunks) && w.chunks[at] == h.c {
		off = h.off
	}
	for ; at < len(w.chunks) && n < len(buf); at, off = at+1, 0 {
		c := w.chunks[at]
		for off < len(c.data) && n < len(buf) {
			length := int(binary.LittleEndian.Uint32(c.data[off:]))
			next := off + int(frameSize(int64(length)))
			if RecordType(c.data[off+4]) == TypeStream {
				first := binary.LittleEndian.Uint64(c.data[off+16:])
				if want := pos + uint64(n); want < first+uint64(length) {
					n += copy(buf[n:], c.data[off+frameHeader+int(want-first):off+frameHeader+length])
					*h = hint{c, c.id, off}
				}
			}
			off = next
		}
	}
	return n, true
}

// find returns the index of the first chunk that ends behind pos.
func (w *window) find(pos uint64) int {
	lo, hi := 0, len(w.chunks)
	for lo < hi {
		if mid := (lo + hi) / 2; w.chunks[mid].end <= pos {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// since calls fn with each record from address a on, in order, and reports
// whether all of them are still held.
func (w *window) since(a address, fn func(h header, payload []byte)) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.evicted > a {
		return false
	}
	for _, c := range w.chunks {
		for off := 0; off < len(c.data); {
			h := rawHeader(c.data[off:])
			if c.addr+address(off) >= a {
				fn(h, c.data[off+frameHeader:off+frameHeader+int(h.length)])
			}
			off += int(h.size())
		}
	}
	return true
}
