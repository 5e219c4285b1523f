package raid

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"holdfast/internal/raid/format"
)

// chunkCache is the header area of the chunk that a handle read last, so that small
// reads in a row do not read it again.
type chunkCache struct {
	mu     sync.Mutex
	area   []byte
	h      format.ChunkHeader
	member *member
	slot   uint32
	stripe int
}

// piece is a part of a chunk that a read wants.
type piece struct {
	stripe int // number
	index  int // of the chunk in the stripe
	from   int // in the chunk
	dst    []byte
	want   format.ChunkHeader // what the header must say
	chunk  format.Chunk
	m      *member // whom to ask; nil: its chunk is not there
	off    int64   // of dst[0] in the file
}

// chunkState says of a chunk what the array knows.
type chunkState struct {
	want  format.ChunkHeader
	chunk format.Chunk
	m     *member // nil: not written, or its member is out
}

// chunkLocked returns what is known of the chunk with this index of stripe n. With
// desperate set a member that failed is asked too: what it holds counts if it is as
// sealed. mu is held.
func (a *Array) chunkLocked(ino *inode, n, index int, desperate bool) chunkState {
	st, chunks := ino.stripe(n)
	slot := a.geo.Member(uint64(n), index)
	c := chunkState{chunk: chunks[slot], want: format.ChunkHeader{
		Array: a.id, Member: slot, Index: index, File: ino.id, Stripe: uint64(n), Offset: uint64(st.off),
		Gen: st.gen, Length: a.geo.ChunkLength(index, int(st.length), a.chunk), StripeLength: int(st.length),
	}}
	if m := a.members[slot]; st.present>>slot&1 != 0 && (m.ok() || desperate && m.dataf != nil) {
		c.m = m
	}
	return c
}

// readAt reads like io.ReaderAt. What cannot be read or reconstructed is a
// *DataError that names file and range; bytes before it are returned.
func (a *Array) readAt(f *file, p []byte, off int64) (int, error) {
	ino := f.ino
	if off < 0 {
		return 0, pathError("read", f.name, errors.New("negative offset"))
	}
	a.mu.look()
	if a.closed {
		a.mu.looked()
		return 0, pathError("read", f.name, ErrClosed)
	}
	size := ino.size()
	if off >= size {
		a.mu.looked()
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > size-off {
		p, eof = p[:size-off], io.EOF
	}
	if off+int64(len(p)) > ino.base {
		from := max(off, ino.base)
		copy(p[from-off:], ino.buf[from-ino.base:])
	}
	var few [4]piece
	list := few[:0]
	if off < ino.base && len(p) > 0 {
		list = a.piecesLocked(list, ino, p[:min(int64(len(p)), ino.base-off)], off)
	}
	a.mu.looked()
	if len(list) > 0 {
		if n, err := a.readPieces(f, list, off); err != nil {
			return n, err
		}
	}
	return len(p), eof
}

// piecesLocked cuts the range into chunks. mu is held.
func (a *Array) piecesLocked(list []piece, ino *inode, p []byte, off int64) []piece {
	for n := ino.find(off); len(p) > 0; n++ {
		st, _ := ino.stripe(n)
		for in := int(off - st.off); in < int(st.length) && len(p) > 0; {
			index, from := in/a.chunk, in%a.chunk
			k := min(len(p), a.chunk-from, int(st.length)-in)
			if a.geo.Level() == 1 {
				index = a.pickCopy(ino, n)
			}
			c := a.chunkLocked(ino, n, index, false)
			list = append(list, piece{stripe: n, index: index, from: from, dst: p[:k], want: c.want, chunk: c.chunk, m: c.m, off: off})
			p, off, in = p[k:], off+int64(k), in+k
		}
	}
	return list
}

// pickCopy spreads reads of a mirror over its copies. mu is held.
func (a *Array) pickCopy(ino *inode, n int) int {
	w := a.geo.Width()
	for i := range w {
		if c := (n + i) % w; a.chunkLocked(ino, n, c, false).m != nil {
			return c
		}
	}
	return n % w
}

// readPieces reads all pieces, those of each member in order, members at the same
// time. On an error it returns how many bytes from off on are right.
func (a *Array) readPieces(f *file, list []piece, off int64) (int, error) {
	if len(list) == 1 {
		if err := a.readPiece(f, &list[0]); err != nil {
			return 0, err
		}
		return 0, nil
	}
	errs := make([]error, len(list))
	var set uint32
	for i := range list {
		set |= 1 << list[i].want.Member
	}
	a.pool.each(set, func(s int) {
		for i := range list {
			if list[i].want.Member == s {
				errs[i] = a.readPiece(f, &list[i])
			}
		}
	})
	for i, err := range errs {
		if err != nil {
			return int(list[i].off - off), err
		}
	}
	return 0, nil
}

// readPiece reads one piece from its member, or what the others make of it.
func (a *Array) readPiece(f *file, p *piece) error {
	if p.m != nil {
		err := a.readFast(f, p)
		if err == nil {
			return nil
		}
		a.countFault(p.m.slot, err)
	}
	return a.readSlow(f, p)
}

// readFast reads the blocks of the piece and verifies them.
func (a *Array) readFast(f *file, p *piece) error {
	col, err := a.column(f.ino, p.m, false)
	if err != nil {
		return chunkReadError(err)
	}
	c := &f.cache
	if !c.mu.TryLock() {
		c, _ = a.caches.Get().(*chunkCache) // somebody reads from the same handle
		if c == nil {
			c = new(chunkCache)
		}
		defer a.caches.Put(c)
		c.member = nil
		c.mu.Lock()
	}
	defer c.mu.Unlock()
	areaSize := format.HeaderArea(a.chunk)
	first := p.from / format.BlockSize
	end := min((p.from+len(p.dst)+format.BlockSize-1)/format.BlockSize*format.BlockSize, p.want.Length)
	base := format.SlotOffset(p.chunk.Slot, a.chunk)
	known := c.member == p.m && c.slot == p.chunk.Slot && c.stripe == p.stripe && len(c.area) == areaSize && c.h == p.want
	if len(c.area) != areaSize {
		c.area = make([]byte, areaSize)
	}
	buf, _ := a.buffers.Get().(*[]byte)
	if buf == nil {
		b := make([]byte, format.SlotSize(a.chunk))
		buf = &b
	}
	defer a.buffers.Put(buf)
	data := (*buf)[areaSize+first*format.BlockSize : areaSize+end]
	if !known {
		c.member = nil
		if first == 0 { // header and data in one read
			if err := readFull(col, (*buf)[:areaSize+end], base); err != nil {
				return err
			}
			copy(c.area, (*buf)[:areaSize])
		} else if err := readFull(col, c.area, base); err != nil {
			return err
		}
		if err := a.checkHeader(c.area, &p.want, p.chunk.Sum); err != nil {
			return err
		}
		if c.h, _, err = format.ParseChunkHeader(c.area, a.chunk); err != nil {
			return fmt.Errorf("%w: %w", errChunkDamage, err)
		}
	}
	if known || first > 0 {
		if err := readFull(col, data, base+int64(areaSize+first*format.BlockSize)); err != nil {
			return err
		}
	}
	if !a.opts.Faults.SkipChunkChecksum {
		if err := format.VerifyBlocks(c.area, &c.h, first, data); err != nil {
			c.member = nil
			return fmt.Errorf("%w: %w", errChunkDamage, err)
		}
	}
	copy(p.dst, data[p.from-first*format.BlockSize:])
	c.member, c.slot, c.stripe = p.m, p.chunk.Slot, p.stripe
	return nil
}

// checkHeader compares a header area with what the stripe record says.
func (a *Array) checkHeader(area []byte, want *format.ChunkHeader, sum uint32) error {
	h, got, err := format.ParseChunkHeader(area, a.chunk)
	switch {
	case errors.Is(err, format.ErrMagic):
		return fmt.Errorf("%w: no chunk stands there", errChunkStale)
	case err != nil:
		return fmt.Errorf("%w: %w", errChunkDamage, err)
	case a.opts.Faults.SkipGeneration:
		if h.Length != want.Length {
			return errChunkStale
		}
		return nil
	case h != *want:
		return fmt.Errorf("%w: chunk %d of stripe %d of file %d, generation %x, instead of generation %x", errChunkStale, h.Index, h.Stripe, h.File, h.Gen, want.Gen)
	case got != sum:
		return fmt.Errorf("%w: checksum %08x, sealed as %08x", errChunkStale, got, sum)
	}
	return nil
}

// readFull reads all of b; less is an error.
func readFull(c *column, b []byte, off int64) error {
	n, err := c.f.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return chunkReadError(err)
}

func chunkReadError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || notExist(err) {
		return fmt.Errorf("%w (%w)", errChunkGone, err)
	}
	return fmt.Errorf("%w: %w", errChunkRead, err)
}

// readChunk reads a whole chunk, header area and data, into a new slice and
// verifies all of it.
func (a *Array) readChunk(ino *inode, c *chunkState) ([]byte, error) {
	col, err := a.column(ino, c.m, false)
	if err != nil {
		return nil, chunkReadError(err)
	}
	area := format.HeaderArea(a.chunk)
	b := make([]byte, area+c.want.Length)
	if err := readFull(col, b, format.SlotOffset(c.chunk.Slot, a.chunk)); err != nil {
		return nil, err
	}
	if err := a.checkHeader(b[:area], &c.want, c.chunk.Sum); err != nil {
		return nil, err
	}
	if a.opts.Faults.SkipChunkChecksum {
		return b, nil
	}
	h, _, err := format.ParseChunkHeader(b, a.chunk)
	if err == nil {
		err = format.VerifyBlocks(b[:area], &h, 0, b[area:])
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errChunkDamage, err)
	}
	return b, nil
}

// readSlow reads the piece's chunk whole, once more from its member, which may have
// erred, or makes it from the others, and writes it anew where it was bad.
func (a *Array) readSlow(f *file, p *piece) error {
	b, made, why := a.reconstruct(f.ino, p.stripe, p.index)
	if b == nil {
		e := &DataError{File: f.name, Off: p.off, Len: int64(len(p.dst)), Reason: why.Error()}
		a.mu.Lock()
		a.eventLocked(Event{Kind: EventLost, Member: p.want.Member, File: f.name, Text: e.Error()})
		a.unlock()
		return e
	}
	copy(p.dst, b[format.HeaderArea(a.chunk)+p.from:])
	if made && p.m != nil {
		if err := a.heal(f.ino, p.stripe, p.index, b); err != nil {
			a.mu.Lock()
			a.ignore(err)
			a.unlock()
		}
	}
	return nil
}

// reconstruct returns the whole slot of a chunk, from the other members or, where
// they do not suffice, from its own. made says that it comes from the others. It
// takes the state anew, since somebody may have repaired the stripe meanwhile.
func (a *Array) reconstruct(ino *inode, n, index int) (slot []byte, made bool, why error) {
	width := a.geo.Width()
	states := make([]chunkState, width)
	a.mu.look()
	desperate := a.failed != nil
	for i := range states {
		states[i] = a.chunkLocked(ino, n, i, desperate)
	}
	a.mu.looked()
	var errs []error
	shards := make([][]byte, width)
	area := format.HeaderArea(a.chunk)
	var have uint32
	for i := range width {
		if i != index && states[i].want.Length == 0 {
			have |= 1 << i
		}
	}
	for i := 0; i < width && popcount(have) < a.geo.Data(); i++ {
		if i == index || states[i].want.Length == 0 || states[i].m == nil {
			continue
		}
		b, err := a.readChunk(ino, &states[i])
		if err != nil {
			errs = append(errs, fmt.Errorf("member %d: %w", states[i].m.slot, err))
			a.countFault(states[i].m.slot, err)
			continue
		}
		shards[i] = b[area:]
		have |= 1 << i
	}
	want := &states[index]
	out := make([]byte, area+want.want.Length)
	shards[index] = out[area:]
	if a.geo.Parity() > 0 && popcount(have) >= a.geo.Data() {
		err := a.code.Reconstruct(shards, have, 1<<index)
		if err == nil {
			h := want.want
			sum := format.PutChunkHeader(out[:area], &h, out[area:])
			if a.sealedSum(ino, n, want) && sum != want.chunk.Sum {
				err = fmt.Errorf("what the others make of it has checksum %08x and was sealed as %08x", sum, want.chunk.Sum)
			}
		}
		if err == nil {
			return out, true, nil
		}
		errs = append(errs, err)
	}
	if want.m != nil {
		b, err := a.readChunk(ino, want)
		if err == nil {
			return b, false, nil
		}
		errs = append(errs, fmt.Errorf("member %d: %w", want.m.slot, err))
	}
	if len(errs) == 0 {
		errs = append(errs, fmt.Errorf("%d chunks of stripe %d are left, %d are needed", popcount(have), n, a.geo.Data()))
	}
	return nil, false, errors.Join(errs...)
}

// sealedSum reports whether the stripe record has a checksum of this chunk.
func (a *Array) sealedSum(ino *inode, n int, c *chunkState) bool {
	a.mu.look()
	defer a.mu.looked()
	st, chunks := ino.stripe(n)
	return st.present>>c.want.Member&1 != 0 && chunks[c.want.Member] == c.chunk && !a.opts.Faults.SkipGeneration
}

// heal writes a chunk that was bad to a new slot of its member. A chunk that is
// sealed is never written over: if this fails, nothing has changed.
func (a *Array) heal(ino *inode, n, index int, slot []byte) error {
	a.mu.Lock()
	if a.writable(ino) != nil || ino.links == 0 {
		a.unlock()
		return nil
	}
	number := a.geo.Member(uint64(n), index)
	m := a.members[number]
	_, chunks := ino.stripe(n)
	before := chunks[number]
	if !m.ok() {
		a.unlock()
		return nil
	}
	to := ino.next[number]
	ino.next[number]++
	ino.refs++ // so that the column stays
	a.unlock()
	defer func() {
		a.mu.Lock()
		a.releaseLocked(ino)
		a.unlock()
	}()
	fresh := format.Chunk{Slot: to}
	_, sum, err := format.ParseChunkHeader(slot, a.chunk)
	if err != nil {
		return err
	}
	fresh.Sum = sum
	if err := a.writeSlot(ino, m, to, slot); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.unlock()
	if err := a.syncColumnsLocked(ino, ino.writeSeq); err != nil {
		return err
	}
	if err := a.tookRepair(ino, n, m, before, fresh); err != nil {
		return err
	}
	m.counters.Healed++
	a.eventLocked(Event{Kind: EventHealed, Member: m.slot, Path: m.dir.Path, File: ino.name,
		Text: fmt.Sprintf("stripe %d: its chunk was bad, and was written anew from the others", n)})
	return nil
}

// writeSlot writes a whole chunk to a slot of a member's column, not synced.
func (a *Array) writeSlot(ino *inode, m *member, to uint32, slot []byte) error {
	col, err := a.column(ino, m, true)
	if err == nil {
		err = writeAt(col.f, bytes.Clone(slot), format.SlotOffset(to, a.chunk))
	}
	a.mu.Lock()
	defer a.unlock()
	ino.writeSeq++
	if col != nil {
		col.dirty = true
	}
	switch {
	case noRoom(err):
		return a.noRoomLocked(m, err)
	case err != nil:
		a.failLocked(m, "write column", err)
	}
	return err
}

// tookRepair makes the durable new place of a chunk the one in force, unless the
// chunk has moved meanwhile or its member has failed. mu is held.
func (a *Array) tookRepair(ino *inode, n int, m *member, before, fresh format.Chunk) error {
	st, chunks := ino.stripe(n)
	if !m.ok() || a.members[m.slot] != m || chunks[m.slot] != before {
		return nil
	}
	if n >= len(ino.stripes) { // not sealed: the seal will name it
		st.present |= 1 << m.slot
		chunks[m.slot] = fresh
		return nil
	}
	return a.appendLocked(format.Repair{File: ino.id, Stripe: uint64(n), Member: m.slot, Slot: fresh.Slot, Gen: st.gen, Sum: fresh.Sum})
}
