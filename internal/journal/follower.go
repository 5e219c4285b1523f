package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Follower reads the stream from a position on. It belongs to one goroutine.
// A follower near the head costs nothing but itself; one further back costs a
// descriptor and a read buffer of 64 KiB.
type Follower struct {
	j    *Journal
	mem  *Memory
	gen  uint64
	pos  uint64
	held atomic.Uint64 // pos, for trimming
	hint hint
	cur  *cursor
}

// Follow begins to read at pos, which may be any byte of the stream from FirstPos
// to End, also inside a record.
func (j *Journal) Follow(pos uint64) (*Follower, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.phase == phaseClosed {
		return nil, ErrClosed
	}
	if first := j.aFirst.Load(); pos < first {
		return nil, fmt.Errorf("%w: %d, the oldest is %d", ErrTrimmed, pos, first)
	}
	if end := j.aEnd.Load(); pos > end {
		return nil, fmt.Errorf("%w: %d, the end is %d", ErrAhead, pos, end)
	}
	f := &Follower{j: j, gen: j.gen, pos: pos}
	f.held.Store(pos)
	j.followers[f] = struct{}{}
	return f, nil
}

// Pos returns the position of the next byte that Read will give.
func (f *Follower) Pos() uint64 { return f.pos }

// Close ends the follower; it no longer holds segments.
func (f *Follower) Close() error {
	if f.j == nil {
		return nil
	}
	f.j.mu.Lock()
	delete(f.j.followers, f)
	f.j.mu.Unlock()
	return f.dropCursor()
}

func (f *Follower) dropCursor() error {
	if f.cur == nil {
		return nil
	}
	err := f.cur.f.Close()
	f.cur = nil
	return err
}

// Read fills buf with stream bytes, without framing, and returns how many; 0 and
// nil at the visible head (OnVisible tells when there is more). The errors are
// ErrTrimmed when the follower was too slow, ErrGeneration when the journal began
// anew, a *ReadError, or a *CorruptError. The last bytes of a record that is read
// from the disk are given only after its checksum was verified.
func (f *Follower) Read(buf []byte) (int, error) {
	if f.mem != nil {
		return f.mem.read(f, buf)
	}
	n := 0
	for n < len(buf) {
		visible := f.j.aVisible.Load()
		if f.j.aGen.Load() != f.gen {
			return n, ErrGeneration
		}
		if f.pos >= visible {
			break
		}
		limit := min(uint64(len(buf)-n), visible-f.pos)
		k, ok := f.j.win.read(f.gen, f.pos, buf[n:n+int(limit)], &f.hint)
		var err error
		if ok && k > 0 {
			err = f.dropCursor()
		} else if k, err = f.readFile(buf[n : n+int(limit)]); err == nil && k == 0 {
			break
		}
		n += k
		f.pos += uint64(k)
		f.held.Store(f.pos)
		if err != nil {
			if n > 0 && k > 0 {
				return n, nil
			}
			return n, err
		}
	}
	return n, nil
}

const cursorBuffer = 64 << 10

// cursor reads one segment's records from its file.
type cursor struct {
	seg   *segment
	f     vfs.File
	limit int64 // the file's content counts up to here
	off   int64 // of the record that is being read
	h     header
	open  bool   // h is valid
	done  int64  // payload bytes of it that were read
	sum   uint32 // checksum over them
	buf   []byte
	at    int64

	scratch [frameHeader]byte // headers and tails: on the heap once, not per record
	skip    []byte            // what a follower that starts inside a record reads and drops
}

// readFile reads at least one byte at f.pos from the segments. It is called only
// for positions below what is visible.
func (f *Follower) readFile(buf []byte) (int, error) {
	if f.cur == nil || !f.cur.open && f.cur.off >= f.cur.limit {
		if err := f.openCursor(); err != nil {
			return 0, err
		}
	}
	c := f.cur
	for !c.open || c.done == int64(c.h.length) {
		if c.open {
			c.off += c.h.size()
			c.open = false
		}
		if c.off >= c.limit {
			if err := f.openCursor(); err != nil {
				return 0, err
			}
			c = f.cur
		}
		if err := c.openRecord(f.pos); err != nil {
			return 0, f.explain(err)
		}
	}
	n, err := c.payload(buf, f.pos)
	if err != nil {
		return 0, f.explain(err)
	}
	return n, nil
}

// explain turns an error over a file that was trimmed meanwhile into ErrTrimmed.
func (f *Follower) explain(err error) error {
	if f.j.aGen.Load() != f.gen {
		return ErrGeneration
	}
	if first := f.j.FirstPos(); f.pos < first {
		return fmt.Errorf("%w: %d, the oldest is %d", ErrTrimmed, f.pos, first)
	}
	return err
}

// openCursor finds the segment that holds f.pos and a record at or before it.
func (f *Follower) openCursor() error {
	j := f.j
	j.mu.Lock()
	var seg *segment
	var off, limit int64
	for i := len(j.segs) - 1; i >= 0; i-- {
		if s := j.segs[i]; s.base <= f.pos && f.pos < s.end {
			seg, off, limit = s, s.seek(f.pos), s.endOff
			break
		}
	}
	gen := j.gen
	j.mu.Unlock()
	if gen != f.gen {
		return ErrGeneration
	}
	if seg == nil {
		return f.explain(fmt.Errorf("journal: no segment holds position %d", f.pos))
	}
	if f.cur != nil && f.cur.seg == seg {
		if limit <= f.cur.off {
			return &CorruptError{File: seg.name, Offset: f.cur.off, Pos: f.pos, Reason: "the segment ends before the position"}
		}
		f.cur.limit = limit // it grew: go on where the cursor stands
		return nil
	}
	if err := f.dropCursor(); err != nil {
		return err
	}
	file, err := j.fs.Open(j.fs.PathJoin(j.dir, seg.name))
	if err != nil {
		return f.explain(&ReadError{File: seg.name, Err: err})
	}
	f.cur = &cursor{seg: seg, f: file, limit: limit, off: off}
	return nil
}

// openRecord steps from c.off to the record that pos is in. It is left closed if
// the segment holds no such record.
func (c *cursor) openRecord(pos uint64) error {
	for c.off < c.limit {
		b := c.scratch[:]
		if err := c.readAt(b, c.off); err != nil {
			return err
		}
		h, ok := parseHeader(b, c.seg.seed)
		if !ok || c.off+h.size() > c.limit {
			c.buf = c.buf[:0] // read it again from the disk next time
			return &CorruptError{File: c.seg.name, Offset: c.off, Pos: pos, Reason: "header checksum does not match"}
		}
		if h.typ == TypeStream && pos < h.end() {
			if pos < h.pos {
				return &CorruptError{File: c.seg.name, Offset: c.off, Pos: pos, Reason: "positions have a gap"}
			}
			c.h, c.open, c.done, c.sum = h, true, 0, h.sum
			return nil
		}
		c.off += h.size()
	}
	return nil
}

// payload reads from the open record at pos into buf.
func (c *cursor) payload(buf []byte, pos uint64) (int, error) {
	body := c.off + frameHeader
	for skip := int64(pos-c.h.pos) - c.done; skip > 0; skip = int64(pos-c.h.pos) - c.done {
		drop := c.skip
		if drop == nil {
			drop = make([]byte, 4096)
			c.skip = drop
		}
		if err := c.take(drop[:min(skip, int64(len(drop)))], body); err != nil {
			return 0, err
		}
	}
	b := buf[:min(int64(len(buf)), int64(c.h.length)-c.done)]
	if err := c.take(b, body); err != nil {
		return 0, err
	}
	if c.done < int64(c.h.length) {
		return len(b), nil
	}
	t := c.scratch[:c.h.size()-frameHeader-int64(c.h.length)]
	if err := c.readAt(t, body+c.done); err != nil {
		return 0, err
	}
	pad := len(t) - frameTail
	if crc32.Update(c.sum, castagnoli, t[:pad]) != binary.LittleEndian.Uint32(t[pad:]) {
		err := &CorruptError{File: c.seg.name, Offset: c.off, Pos: c.h.pos, Reason: "payload checksum does not match"}
		c.open = false // read it again from the disk next time
		c.buf = c.buf[:0]
		return 0, err
	}
	return len(b), nil
}

func (c *cursor) take(b []byte, body int64) error {
	if err := c.readAt(b, body+c.done); err != nil {
		return err
	}
	c.sum = crc32.Update(c.sum, castagnoli, b)
	c.done += int64(len(b))
	return nil
}

// readAt reads through a buffer that never reaches beyond what was flushed when
// it was filled: bytes behind that may still change.
func (c *cursor) readAt(b []byte, off int64) error {
	if len(b) == 0 {
		return nil
	}
	if len(b) >= cursorBuffer {
		return c.readFull(b, off)
	}
	if off < c.at || off+int64(len(b)) > c.at+int64(len(c.buf)) {
		if c.buf == nil {
			c.buf = make([]byte, 0, cursorBuffer)
		}
		want := min(cursorBuffer, c.limit-off)
		if want < int64(len(b)) {
			return &CorruptError{File: c.seg.name, Offset: off, Pos: c.h.pos, Reason: "the segment ends inside a record"}
		}
		c.buf, c.at = c.buf[:want], off
		if err := c.readFull(c.buf, off); err != nil {
			c.buf = c.buf[:0]
			return err
		}
	}
	copy(b, c.buf[off-c.at:])
	return nil
}

func (c *cursor) readFull(b []byte, off int64) error {
	n, err := c.f.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &ReadError{File: c.seg.name, Off: off, Err: err}
}
