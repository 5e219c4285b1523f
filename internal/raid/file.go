package raid

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/raid/format"
)

// column is the file on a member that holds its chunks of an array file.
type column struct {
	m     *member
	f     vfs.File
	write bool // not only for reading
	dirty bool // written to since the last sync began; guarded by Array.mu
	fresh bool // its name may not be durable; guarded by Array.mu
}

// column returns the open column of a member, opening it if need be; with write set
// it is made if it is not there. It does I/O only the first time.
func (a *Array) column(ino *inode, m *member, write bool) (*column, error) {
	ino.colMu.Lock()
	defer ino.colMu.Unlock()
	if ino.cols == nil {
		ino.cols = make([]*column, a.geo.Width())
	}
	c := ino.cols[m.slot]
	if c != nil && c.m == m && (c.write || !write) {
		return c, nil
	}
	var f vfs.File
	var err error
	if write {
		f, err = m.dir.FS.OpenReadWrite(m.columnPath(ino.id), vfs.WriteCategoryUnspecified)
	} else {
		f, err = m.dir.FS.Open(m.columnPath(ino.id))
	}
	if err != nil {
		return nil, err
	}
	if c != nil {
		// Of the directory that was in the slot before, or for reading only. Somebody
		// may still read from it.
		ino.old = append(ino.old, c)
	}
	c = &column{m: m, f: f, write: write, fresh: write}
	ino.cols[m.slot] = c
	return c, nil
}

// closeColumns closes all columns of a file that nobody uses.
func (a *Array) closeColumns(ino *inode) {
	ino.colMu.Lock()
	defer ino.colMu.Unlock()
	for i, c := range ino.cols {
		if c != nil {
			a.ignore(c.f.Close())
			ino.cols[i] = nil
		}
	}
	for _, c := range ino.old {
		a.ignore(c.f.Close())
	}
	ino.old = nil
}

// batch is what one call writes to the columns: consecutive stripes, encoded by
// member. It is kept for the next one.
type batch struct {
	bufs    [format.MaxWidth][]byte // by member: slots one after the other
	slot    [format.MaxWidth]uint32 // by member: the first slot
	sums    []uint32                // stripe by stripe, by member
	stripes []stripe
	shards  [][]byte
	errs    [format.MaxWidth]error
	set     uint32
}

// batchBytes bounds the data that one batch takes.
const batchBytes = 4 << 20

func (a *Array) stripeSize() int { return a.geo.Data() * a.chunk }

// write appends p to the file, as its writer. It returns how much of p counts.
func (a *Array) write(ino *inode, p []byte, bulk bool) (int, error) {
	ino.wmu.Lock()
	defer ino.wmu.Unlock()
	size := a.stripeSize()
	done, fresh := 0, 0 // fresh: bytes of the open tail that this call added
	for {
		a.mu.Lock()
		err := a.writable(ino)
		if err == nil {
			err = a.reservedLocked()
		}
		if err == nil && done == 0 && (len(p) == 0 || len(ino.buf)+len(p) < size) {
			n, err := a.writeSmall(ino, p, bulk)
			return n, err
		}
		if err != nil {
			a.cutTail(ino, fresh)
			a.unlock()
			return done - fresh, err
		}
		if done == len(p) {
			err := a.finishWrite(ino, fresh, bulk)
			if err != nil {
				done -= fresh
			}
			return done, err
		}
		direct := len(ino.buf) == 0 && len(p)-done >= size
		if !direct {
			n := min(size-len(ino.buf), len(p)-done)
			ino.buf = append(ino.buf, p[done:done+n]...)
			done, fresh = done+n, fresh+n
		}
		full := len(ino.buf) == size
		buf := ino.buf
		a.unlock()
		switch {
		case direct:
			n := min((len(p)-done)/size, max(1, batchBytes/size)) * size
			if err := a.writeStripes(ino, p[done:done+n]); err != nil {
				return done, err
			}
			done += n
		case full:
			if err := a.writeStripes(ino, buf); err != nil {
				a.mu.Lock()
				a.cutTail(ino, fresh)
				a.unlock()
				return done - fresh, err
			}
			fresh = 0
		}
	}
}

// writeSmall is the usual case: p fits into the open tail. mu is held, and given up.
func (a *Array) writeSmall(ino *inode, p []byte, bulk bool) (int, error) {
	ino.buf = append(ino.buf, p...)
	err := a.finishWrite(ino, len(p), bulk)
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// finishWrite hands the open tail over. mu is held, and given up.
func (a *Array) finishWrite(ino *inode, fresh int, bulk bool) error {
	var err error
	if !bulk {
		if err = a.logLocked(ino); err != nil {
			a.cutTail(ino, fresh)
		}
	}
	a.unlock()
	return err
}

// cutTail takes back the last n bytes of the open tail: the caller is told that
// they were not written. mu is held.
func (a *Array) cutTail(ino *inode, n int) {
	// A Sync that runs at the same time may have promised a part already: that stays.
	n = min(n, len(ino.buf), int(ino.size()-min(ino.size(), ino.promised)))
	ino.buf = ino.buf[:len(ino.buf)-n]
	ino.logged = min(ino.logged, len(ino.buf))
}

// writable says why nothing can be written to the file. mu is held.
func (a *Array) writable(ino *inode) error {
	switch {
	case a.closed:
		return ErrClosed
	case a.opts.ReadOnly:
		return ErrReadOnly
	case a.failed != nil:
		return a.failed
	}
	return ino.broken
}

// writeStripes writes data as stripes behind the last one: full stripes, and the
// last one short if data ends within it. On return they are handed to the members'
// operating systems, not synced and not sealed. What they replace of the open tail
// is taken from it. wmu is held. If there is no room nothing counts, and the same
// place is written again later, under new generations.
func (a *Array) writeStripes(ino *inode, data []byte) error {
	b, _ := a.batches.Get().(*batch)
	if b == nil {
		b = &batch{shards: make([][]byte, a.geo.Width())}
	}
	defer a.batches.Put(b)
	a.mu.Lock()
	err := a.writable(ino)
	var members [format.MaxWidth]*member
	if err == nil {
		a.planStripes(ino, b, data)
		ino.flight = a.joins + 1
		copy(members[:], a.members)
	}
	first := ino.count()
	a.unlock()
	if err != nil {
		return err
	}
	if err := a.encodeStripes(ino, b, data, first); err != nil {
		a.mu.Lock()
		a.landedLocked(ino)
		a.unlock()
		return err
	}
	var cols [format.MaxWidth]*column
	a.pool.each(b.set, func(s int) {
		b.errs[s] = nil
		if len(b.bufs[s]) == 0 {
			return
		}
		cols[s], b.errs[s] = a.column(ino, members[s], true)
		if b.errs[s] == nil {
			b.errs[s] = writeAt(cols[s].f, b.bufs[s], format.SlotOffset(b.slot[s], a.chunk))
		}
	})
	a.mu.Lock()
	defer a.unlock()
	defer a.landedLocked(ino)
	return a.tookStripes(ino, b, members[:], cols[:])
}

// landedLocked notes that stripes of the file are no longer on their way to the
// members. mu is held.
func (a *Array) landedLocked(ino *inode) {
	ino.flight = 0
	a.cond.Broadcast()
}

// planStripes decides generations and slots. mu is held.
func (a *Array) planStripes(ino *inode, b *batch, data []byte) {
	size := a.stripeSize()
	n := (len(data) + size - 1) / size
	b.set = a.okLocked()
	b.stripes = b.stripes[:0]
	off := ino.base
	for i := range n {
		length := min(size, len(data)-i*size)
		b.stripes = append(b.stripes, stripe{off: off, gen: a.newGen(), length: uint32(length)})
		off += int64(length)
	}
	for s := range slots(b.set) {
		// Also if the writing fails: a slot is not given out twice by one process.
		b.slot[s] = ino.next[s]
		ino.next[s] += uint32(n)
	}
}

// newGen returns the next generation. mu is held.
func (a *Array) newGen() uint64 {
	a.genCounter++
	return format.Gen(a.st.incarnation, a.genCounter)
}

// encodeStripes fills b with slots: headers, data and parity.
func (a *Array) encodeStripes(ino *inode, b *batch, data []byte, first int) error {
	area, slot, n, size := format.HeaderArea(a.chunk), format.SlotSize(a.chunk), len(b.stripes), a.stripeSize()
	width := a.geo.Width()
	b.sums = slices.Grow(b.sums[:0], n*width)[:n*width]
	for s := range width {
		b.bufs[s] = slices.Grow(b.bufs[s][:0], n*slot)[:n*slot]
	}
	lastEnd := [format.MaxWidth]int{}
	for i := range b.stripes {
		st := &b.stripes[i]
		number := uint64(first + i)
		part := data[i*size : i*size+int(st.length)]
		for index := range width {
			m := a.geo.Member(number, index)
			c := a.geo.ChunkLength(index, int(st.length), a.chunk)
			b.shards[index] = b.bufs[m][i*slot+area : i*slot+area+c]
			if index < a.geo.Data() && c > 0 {
				copy(b.shards[index], part[index*a.chunk:])
			}
			if c > 0 {
				lastEnd[m] = i*slot + area + c
			}
			clear(b.bufs[m][i*slot+area+c : (i+1)*slot])
		}
		if err := a.code.Encode(b.shards); err != nil {
			return fmt.Errorf("parity: %w", err)
		}
		if a.opts.Faults.ParityOfWrongStripe && a.geo.Parity() > 0 && i > 0 {
			p := a.geo.Member(number, a.geo.Data())
			copy(b.bufs[p][i*slot+area:(i+1)*slot], b.bufs[a.geo.Member(number-1, a.geo.Data())][(i-1)*slot+area:i*slot])
		}
		a.putHeaders(ino, b, i, number)
	}
	for s := range width {
		b.bufs[s] = b.bufs[s][:lastEnd[s]]
	}
	return nil
}

// putHeaders writes the chunk headers of stripe i of the batch.
func (a *Array) putHeaders(ino *inode, b *batch, i int, number uint64) {
	area, slot := format.HeaderArea(a.chunk), format.SlotSize(a.chunk)
	st := &b.stripes[i]
	for index := range a.geo.Width() {
		m := a.geo.Member(number, index)
		if len(b.shards[index]) == 0 {
			clear(b.bufs[m][i*slot : i*slot+area])
			continue
		}
		h := format.ChunkHeader{
			Array: a.id, Member: m, Index: index, File: ino.id, Stripe: number,
			Offset: uint64(st.off), Gen: st.gen, StripeLength: int(st.length),
		}
		b.sums[i*a.geo.Width()+m] = format.PutChunkHeader(b.bufs[m][i*slot:i*slot+area], &h, b.shards[index])
	}
}

// tookStripes makes what was written part of the file. mu is held.
func (a *Array) tookStripes(ino *inode, b *batch, members []*member, cols []*column) error {
	var full error
	took := uint32(0)
	for s := range slots(b.set) {
		m := members[s]
		switch err := b.errs[s]; {
		case noRoom(err):
			full = errors.Join(full, a.noRoomLocked(m, err))
		case err != nil:
			a.failLocked(m, "write column", err)
		case a.members[s] == m && m.ok():
			took |= 1 << s
		}
		if cols[s] != nil {
			cols[s].dirty = true
		}
	}
	ino.writeSeq++
	if full != nil {
		return full
	}
	if a.failed != nil {
		return a.failed
	}
	width := a.geo.Width()
	for i := range b.stripes {
		st := b.stripes[i]
		number := uint64(ino.count())
		for m := range width {
			c := format.Chunk{}
			if took>>m&1 != 0 && a.geo.ChunkLength(a.geo.Index(number, m), int(st.length), a.chunk) > 0 {
				st.present |= 1 << m
				c = format.Chunk{Slot: b.slot[m] + uint32(i), Sum: b.sums[i*width+m]}
			}
			ino.openChunks = append(ino.openChunks, c)
		}
		ino.open = append(ino.open, st)
		ino.base += int64(st.length)
	}
	a.leaveTail(ino)
	a.roomyLocked()
	return nil
}

// leaveTail empties the open tail, which the last stripe has replaced. What a Sync
// may have promised of it stays until the seal is durable, so that a new segment
// of the tail log still gets it. mu is held.
func (a *Array) leaveTail(ino *inode) {
	if len(ino.buf) == 0 {
		return
	}
	start := ino.base - int64(len(ino.buf))
	if k := int(min(ino.promised-start, int64(ino.logged))); k > 0 && !a.opts.Faults.DropTailEarly {
		ino.held = append(ino.held, heldTail{off: start, data: slices.Clone(ino.buf[:k])})
	}
	ino.buf, ino.logged = ino.buf[:0], 0
}

// syncFile makes everything that was written to the file durable.
func (a *Array) syncFile(ino *inode) error {
	a.mu.Lock()
	defer a.unlock()
	if err := a.writable(ino); err != nil {
		return err
	}
	if len(ino.buf) > ino.logged {
		a.mu.Unlock()
		ino.wmu.Lock() // no write may be half done
		a.mu.Lock()
		err := a.writable(ino)
		if err == nil {
			err = a.logLocked(ino)
		}
		ino.wmu.Unlock()
		if err != nil {
			return err
		}
	}
	ino.promised = max(ino.promised, ino.base+int64(ino.logged))
	target, seg, end := ino.count(), ino.logSeg, ino.logEnd
	if ino.logged == 0 {
		seg, end = 0, 0
	}
	if err := a.syncBoth(ino, target, seg, end); err != nil {
		return err
	}
	if err := a.sealLocked(ino, target, true); err != nil {
		return err
	}
	if err := a.settleLocked(); err != nil {
		return err
	}
	return a.tidyLocked()
}

// syncBoth syncs the columns up to stripe target and the tail log, at the same time
// where both are to be synced. mu is held, and given up while the disks work.
func (a *Array) syncBoth(ino *inode, target int, seg uint64, end int64) error {
	if target == len(ino.stripes) {
		if end == 0 {
			return nil
		}
		return a.syncTailLocked(seg, end)
	}
	if a.opts.Faults.SealBeforeData {
		if err := a.sealLocked(ino, target, true); err != nil {
			return err
		}
	}
	if end == 0 || a.opts.Serial {
		err := a.syncColumnsLocked(ino, ino.writeSeq)
		if err == nil && end > 0 {
			err = a.syncTailLocked(seg, end)
		}
		return err
	}
	tail := make(chan error, 1)
	a.pool.start(func() {
		a.mu.Lock()
		err := a.syncTailLocked(seg, end)
		a.unlock()
		tail <- err
	})
	err := a.syncColumnsLocked(ino, ino.writeSeq)
	a.unlock()
	err = errors.Join(err, <-tail)
	a.mu.Lock()
	return err
}

// syncColumnsLocked returns when the writes to the file's columns up to number seq
// are durable, with the columns' names, on all members that have not failed over
// it. One caller at a time syncs, since only one of two syncs of a descriptor
// learns of an error. mu is held, and given up while the disks work.
func (a *Array) syncColumnsLocked(ino *inode, seq uint64) error {
	for ino.syncSeq < seq {
		switch {
		case ino.broken != nil:
			return ino.broken
		case a.failed != nil:
			return a.failed
		case ino.syncing:
			a.cond.Wait()
		default:
			a.leadColumnSync(ino)
		}
	}
	return nil
}

// leadColumnSync syncs the columns once. mu is held.
func (a *Array) leadColumnSync(ino *inode) {
	end := ino.writeSeq
	var cols [format.MaxWidth]*column
	var errs [format.MaxWidth]error
	var fresh, set uint32
	ino.colMu.Lock()
	for s, c := range ino.cols {
		if c == nil || !c.dirty || !c.m.ok() || a.members[s] != c.m {
			continue
		}
		cols[s], c.dirty = c, false
		set |= 1 << s
		if c.fresh {
			fresh |= 1 << s
		}
	}
	ino.colMu.Unlock()
	ino.syncing = true
	a.unlock()
	a.pool.each(set, func(s int) {
		errs[s] = a.retrySync(cols[s].f.SyncData)
		if errs[s] == nil && fresh>>s&1 != 0 {
			errs[s] = a.syncDataDir(cols[s].m)
		}
	})
	a.mu.Lock()
	ino.syncing = false
	a.cond.Broadcast()
	for s := range slots(set) {
		switch err := errs[s]; {
		case err == nil:
			cols[s].fresh = cols[s].fresh && fresh>>s&1 == 0
		case noRoom(err):
			// Its pages may be lost, and a second sync would not say so.
			ino.broken = fmt.Errorf("%s: not written since a sync found no room: %w", ino.name, a.noRoomLocked(cols[s].m, err))
		default:
			a.failLocked(cols[s].m, "sync column", err)
		}
	}
	if ino.broken == nil {
		ino.syncSeq = max(ino.syncSeq, end)
	}
}

// sealLocked seals the stripes up to number target, whose chunks are durable, and
// with wait set returns when the seal is durable. mu is held, and may be given up
// and taken again.
func (a *Array) sealLocked(ino *inode, target int, wait bool) error {
	if k := len(ino.stripes); k < target {
		if ino.links > 0 {
			if err := a.appendLocked(a.st.sealRecord(ino, k, target)); err != nil {
				return err
			}
			ino.sealSeq = a.meta.seq
			for i := range ino.held {
				if h := &ino.held[i]; h.seq == 0 && h.off < ino.sealedEnd() {
					h.seq = a.meta.seq
				}
			}
		} else {
			// It has lost its name: nobody will ask for it after a restart.
			n := target - k
			ino.stripes = append(ino.stripes, ino.open[:n]...)
			ino.chunks = append(ino.chunks, ino.openChunks[:n*a.geo.Width()]...)
		}
		n := target - k
		ino.open = slices.Delete(ino.open, 0, n)
		ino.openChunks = slices.Delete(ino.openChunks, 0, n*a.geo.Width())
	}
	if !wait {
		return nil
	}
	return a.syncMetaLocked(ino.sealSeq)
}

// sealTail seals all that was written, the open tail as a short stripe. The seal
// is handed over, not synced: the tail log keeps what was acknowledged until it
// is durable. Without room the file stays as it is, which loses nothing.
func (a *Array) sealTail(ino *inode) error {
	ino.wmu.Lock()
	defer ino.wmu.Unlock()
	a.mu.Lock()
	err := a.writable(ino)
	if err != nil || ino.links == 0 {
		a.unlock()
		if ino.links == 0 {
			return nil
		}
		return err
	}
	buf := ino.buf
	if len(buf) > 0 {
		err = a.reservedLocked()
	}
	a.unlock()
	if len(buf) > 0 && err == nil {
		err = a.writeStripes(ino, buf)
	}
	a.mu.Lock()
	defer a.unlock()
	if err == nil {
		target := ino.count()
		if err = a.syncColumnsLocked(ino, ino.writeSeq); err == nil {
			err = a.sealLocked(ino, target, false)
		}
		if err == nil {
			return a.tidyLocked()
		}
	}
	if noRoom(err) {
		return a.logLocked(ino) // handed over at least
	}
	return err
}

// file is an open file of the array.
type file struct {
	a     *Array
	ino   *inode
	name  string
	bulk  bool
	write bool
	pos   int64 // of Read
	cache chunkCache
	done  bool
}

var _ vfs.File = (*file)(nil)

func (f *file) Close() error {
	a := f.a
	a.mu.Lock()
	if f.done {
		a.mu.Unlock()
		return pathError("close", f.name, ErrClosed)
	}
	f.done = true
	last := false
	if f.write {
		f.ino.writers--
		last = f.ino.writers == 0 && !a.closed && !a.opts.ReadOnly
	}
	a.mu.Unlock()
	var err error
	if last {
		err = a.sealTail(f.ino)
	}
	a.mu.Lock()
	a.releaseLocked(f.ino)
	a.unlock()
	if err != nil {
		return pathError("close", f.name, err)
	}
	return nil
}

// releaseLocked gives up a reference to a file. mu is held.
func (a *Array) releaseLocked(ino *inode) {
	if ino.refs--; ino.refs > 0 {
		return
	}
	if ino.links == 0 {
		a.removeDoomedLocked()
	} else if len(ino.open) == 0 && !ino.syncing {
		a.closeColumns(ino)
	}
}

func (f *file) Write(p []byte) (int, error) {
	if !f.write {
		return 0, pathError("write", f.name, errors.New("file was opened for reading"))
	}
	n, err := f.a.write(f.ino, p, f.bulk)
	if err != nil {
		return n, pathError("write", f.name, err)
	}
	return n, nil
}

// WriteAt appends: off must be the end of the file.
func (f *file) WriteAt(p []byte, off int64) (int, error) {
	f.a.mu.look()
	size := f.ino.size()
	f.a.mu.looked()
	if off != size {
		return 0, pathError("write", f.name, fmt.Errorf("%w: offset %d, size %d", ErrAppend, off, size))
	}
	return f.Write(p)
}

func (f *file) Sync() error { return f.SyncData() }
func (f *file) SyncData() error {
	if err := f.a.syncFile(f.ino); err != nil {
		return pathError("sync", f.name, err)
	}
	return nil
}

// SyncTo promises nothing.
func (f *file) SyncTo(int64) (bool, error) { return false, nil }

func (f *file) Read(p []byte) (int, error) {
	n, err := f.ReadAt(p, f.pos)
	f.pos += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	return f.a.readAt(f, p, off)
}

func (f *file) Stat() (vfs.FileInfo, error) {
	f.a.mu.look()
	defer f.a.mu.looked()
	return fileInfo{name: f.a.PathBase(f.name), size: f.ino.size(), time: f.ino.time}, nil
}

func (f *file) Preallocate(int64, int64) error { return nil }
func (f *file) Prefetch(int64, int64) error    { return nil }
func (f *file) Fd() uintptr                    { return vfs.InvalidFd }
