package raid

import (
	"bytes"
	"slices"

	"holdfast/internal/raid/format"
)

// Adopting: what a crash left behind the sealed stripes of a file.

// found is one chunk that no seal names.
type loose struct {
	h    format.ChunkHeader
	slot uint32
	sum  uint32
}

// file finds how far the content of a file goes, and makes it the open stripes and the
// open tail of ino.
func (r *recovery) file(ino *inode) error {
	a := r.a
	ino.base = ino.sealedEnd()
	chunks := map[uint64][]loose{} // by stripe number
	for s := range slots(a.liveLocked()) {
		if err := r.scan(ino, a.members[s], chunks); err != nil {
			return err
		}
	}
	for {
		tail := r.tailAt(ino, ino.base)
		if !r.adopt(ino, chunks[uint64(ino.count())], tail) {
			ino.buf = tail
			break
		}
	}
	a.closeColumns(ino)
	return nil
}

// tailAt returns what the tail log holds of the file from off on.
func (r *recovery) tailAt(ino *inode, off int64) []byte {
	for _, e := range r.extents[ino.id] {
		if e.off <= off && off < e.end() {
			return slices.Clone(e.data[off-e.off:])
		}
	}
	return nil
}

// scan collects the chunks in a member's column that no stripe record names. Slots
// that cannot be read hold nothing: what was acknowledged has other sources.
func (r *recovery) scan(ino *inode, m *member, chunks map[uint64][]loose) error {
	a := r.a
	c, err := a.column(ino, m, false)
	if err != nil {
		return nil // no column, or none that can be read: the others may do
	}
	st, err := c.f.Stat()
	if err != nil {
		return nil
	}
	slot := int64(format.SlotSize(a.chunk))
	n := uint32(min((st.Size()+slot-1)/slot, 1<<31))
	named := make([]bool, n)
	for i := range ino.stripes {
		if ino.stripes[i].present>>m.slot&1 != 0 {
			if k := ino.chunks[i*a.geo.Width()+m.slot].Slot; k < n {
				named[k] = true
			}
		}
	}
	area := make([]byte, format.HeaderArea(a.chunk))
	for k := range n {
		if named[k] {
			continue
		}
		if err := readFull(c, area, format.SlotOffset(k, a.chunk)); err != nil {
			continue
		}
		h, sum, err := format.ParseChunkHeader(area, a.chunk)
		if err != nil || h.Array != a.id || h.Member != m.slot || h.File != ino.id {
			continue
		}
		inc := format.GenIncarnation(h.Gen)
		r.top = max(r.top, inc)
		if inc == a.st.incarnation && h.Stripe >= uint64(len(ino.stripes)) && a.geo.Index(h.Stripe, h.Member) == h.Index {
			chunks[h.Stripe] = append(chunks[h.Stripe], loose{h, k, sum})
		}
	}
	return nil
}

// adopt takes the next stripe from loose chunks, if enough of it are whole. Of several
// attempts to write it the last one counts that is complete. What the tail log
// holds of the same range was handed over later, or is the same.
func (r *recovery) adopt(ino *inode, list []loose, tail []byte) bool {
	var gens []uint64
	for _, l := range list {
		if l.h.Offset == uint64(ino.base) && !slices.Contains(gens, l.h.Gen) {
			gens = append(gens, l.h.Gen)
		}
	}
	slices.Sort(gens)
	slices.Reverse(gens)
	for _, g := range gens {
		if r.adoptGen(ino, list, g, tail) {
			return true
		}
	}
	return false
}

func (r *recovery) adoptGen(ino *inode, list []loose, gen uint64, tail []byte) bool {
	a := r.a
	n := ino.count()
	st := stripe{off: ino.base, gen: gen}
	chunks := make([]format.Chunk, a.geo.Width())
	for _, l := range list {
		if l.h.Gen != gen || l.h.Offset != uint64(ino.base) {
			continue
		}
		if st.length == 0 {
			st.length = uint32(l.h.StripeLength)
		}
		if l.h.StripeLength != int(st.length) || l.h.Length != a.geo.ChunkLength(l.h.Index, int(st.length), a.chunk) {
			continue
		}
		st.present |= 1 << l.h.Member
		chunks[l.h.Member] = format.Chunk{Slot: l.slot, Sum: l.sum}
	}
	if st.length == 0 || int(st.length) > a.stripeSize() {
		return false
	}
	ino.open, ino.openChunks = append(ino.open, st), append(ino.openChunks, chunks...)
	if data, ok := r.whole(ino, n); ok && bytes.HasPrefix(data, tail[:min(len(tail), len(data))]) {
		for m := range slots(ino.open[len(ino.open)-1].present) {
			ino.next[m] = max(ino.next[m], chunks[m].Slot+1)
		}
		ino.base += int64(st.length)
		return true
	}
	ino.open, ino.openChunks = ino.open[:len(ino.open)-1], ino.openChunks[:len(ino.openChunks)-a.geo.Width()]
	return false
}

// whole verifies all chunks of an open stripe, takes those that are bad out of it,
// and returns its data if enough are left.
func (r *recovery) whole(ino *inode, n int) ([]byte, bool) {
	a := r.a
	st, _ := ino.stripe(n)
	shards := make([][]byte, a.geo.Width())
	var have uint32
	for index := range a.geo.Width() {
		c := a.chunkLocked(ino, n, index, false)
		if c.want.Length == 0 {
			have |= 1 << index
			continue
		}
		if c.m != nil {
			if b, err := a.readChunk(ino, &c); err == nil {
				shards[index] = b[format.HeaderArea(a.chunk):]
				have |= 1 << index
				continue
			}
		}
		st.present &^= 1 << c.want.Member
		shards[index] = make([]byte, c.want.Length)
	}
	if popcount(have) < a.geo.Data() {
		return nil, false
	}
	want := (uint32(1)<<a.geo.Data() - 1) &^ have
	if want != 0 {
		if err := a.code.Reconstruct(shards, have, want); err != nil {
			return nil, false
		}
	}
	return slices.Concat(shards[:a.geo.Data()]...), true
}
