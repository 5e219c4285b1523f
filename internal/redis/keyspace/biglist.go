package keyspace

import (
	"math"

	"holdfast/internal/redis/listpack"
	"holdfast/internal/redis/rdb"
)

// This file stores large lists: a deque of chunks, each a listpack in a block of
// the arena. The directory of chunks is the only part in the Go heap, and holds
// no pointers.

// listChunk is one listpack of a large list, what Redis calls a quicklist node.
type listChunk struct {
	off  Off
	size uint32 // bytes of the listpack
	room uint32 // bytes of the block, as given to Alloc
	n    uint32 // elements, at least 1
	// snap is 1 + the chunk's position in the frozen directory while it shares
	// its block with it, 0 otherwise. It counts only while the list is frozen.
	snap uint32
}

const listChunkBytes = 24

// bigList is a list of more than one node.
//
// Invariant: n is the sum of the chunks' n, and no chunk is empty.
type bigList struct {
	a    *Arena
	dir  []listChunk // the deque; free room is in front of and behind it
	buf  []listChunk // what dir is a part of
	head int         // where dir begins in buf
	n    int
	// frozen is the directory as it was when a snapshot began, nil without one.
	frozen *frozenList
}

// frozenList is what a snapshot still has to write of a list.
type frozenList struct {
	chunks []listChunk // snap is 1 where the block belongs to the snapshot alone
	next   int         // chunks before it are written
	own    int         // bytes of the blocks that belong to the snapshot alone
	args   bool        // as freezeArgs says
}

func newBigList(a *Arena) *bigList { return &bigList{a: a} }

// listpack returns the chunk's listpack; its capacity is that of the block.
func (c *listChunk) listpack(a *Arena) []byte { return a.Mem(c.off, int(c.room))[:c.size] }

// nodeAllows reports whether an element of add bytes may go into a node that
// has n elements in size bytes, under list-max-listpack-size fill. It is Redis's rule.
func nodeAllows(fill, size, n, add int) bool {
	// Redis's estimate of what an element costs beyond its bytes.
	const overhead = 8
	if add >= plainThreshold {
		return false
	}
	size += add + overhead
	if fill >= 0 {
		return size <= nodeSafetyLimit && n+1 <= max(fill, 1)
	}
	return size <= nodeSizeLimit(fill)
}

const (
	// nodeSafetyLimit bounds nodes whose limit is a number of elements.
	nodeSafetyLimit = 8192
	// plainThreshold is the size from which on an element is a node of its own
	// kind, without a listpack around it, in RDB files.
	plainThreshold = 1 << 30
)

// nodeSizeLimit returns the bytes that list-max-listpack-size fill < 0 allows.
func nodeSizeLimit(fill int) int { return 4096 << (min(-fill, 5) - 1) }

// fitsTogether reports whether two neighbouring nodes may be one.
func fitsTogether(fill int, a, b *listChunk) bool {
	size, n := int(a.size)+int(b.size)-lpOverhead, int(a.n)+int(b.n)
	if fill >= 0 {
		return size <= nodeSafetyLimit && n <= max(fill, 1)
	}
	return size <= nodeSizeLimit(fill)
}

// lpOverhead is the size of an empty listpack.
const lpOverhead = 7

// insertDir puts c before position i of the directory.
func (l *bigList) insertDir(i int, c listChunk) {
	n := len(l.dir)
	front := i < n-i // the shorter part moves
	if front && l.head == 0 || !front && l.head+n == len(l.buf) {
		l.growDir()
	}
	if front {
		l.head--
		l.dir = l.buf[l.head : l.head+n+1]
		copy(l.dir, l.dir[1:i+1])
	} else {
		l.dir = l.buf[l.head : l.head+n+1]
		copy(l.dir[i+1:], l.dir[i:n])
	}
	l.dir[i] = c
}

// growDir moves the deque to the middle of a buffer with room at both ends.
func (l *bigList) growDir() {
	n := len(l.dir)
	size := max(8, 2*n)
	l.a.Account((size - len(l.buf)) * listChunkBytes)
	buf := make([]listChunk, size)
	l.head = (size - n) / 2
	copy(buf[l.head:], l.dir)
	l.buf, l.dir = buf, buf[l.head:l.head+n]
}

// removeDir takes positions i..i+k out of the directory.
func (l *bigList) removeDir(i, k int) {
	n := len(l.dir)
	if i < n-i-k {
		copy(l.dir[k:], l.dir[:i])
		l.head += k
		l.dir = l.buf[l.head : l.head+n-k]
	} else {
		copy(l.dir[i:], l.dir[i+k:])
		l.dir = l.dir[:n-k]
	}
	if len(l.buf) > 64 && len(l.dir)*8 < len(l.buf) {
		l.growDir() // to twice what is left
	}
}

// newChunk makes a chunk of an empty listpack with room for need bytes.
func (l *bigList) newChunk(need int) listChunk {
	room := blockRoom(max(need+lpOverhead, 128))
	c := listChunk{off: l.a.Alloc(room), size: lpOverhead, room: uint32(room)}
	listpack.AppendEmpty(l.a.Mem(c.off, room)[:0])
	return c
}

// addChunk puts an existing listpack of n > 0 elements, which is copied, behind
// the last chunk.
func (l *bigList) addChunk(lp []byte, n int) {
	room := blockRoom(len(lp))
	c := listChunk{off: l.a.Alloc(room), size: uint32(len(lp)), room: uint32(room), n: uint32(n)}
	copy(l.a.Mem(c.off, room), lp)
	l.insertDir(len(l.dir), c)
	l.n += n
}

// own makes the chunk writable with extra bytes of room behind its listpack,
// and returns the listpack: a block that a snapshot still needs is left to it,
// one that is too small is replaced.
func (l *bigList) own(c *listChunk, extra int) []byte {
	shared := l.detach(c)
	need := int(c.size) + extra
	if !shared && need <= int(c.room) {
		return c.listpack(l.a)
	}
	room := int(c.room)
	if need > room {
		// Double while it is small: a node is mostly filled from one end.
		room = blockRoom(max(need, min(2*room, nodeSafetyLimit)))
	}
	off := l.a.Alloc(room)
	lp := append(l.a.Mem(off, room)[:0], c.listpack(l.a)...)
	if !shared {
		l.a.Free(c.off, int(c.room))
	}
	c.off, c.room = off, uint32(room)
	return lp
}

// detach ends the sharing of the chunk's block with the frozen directory. It
// reports whether the block now belongs to the snapshot, so that the chunk
// needs another one.
func (l *bigList) detach(c *listChunk) bool {
	snap := c.snap
	c.snap = 0
	if snap == 0 || l.frozen == nil || int(snap) <= l.frozen.next {
		return false
	}
	l.frozen.chunks[snap-1].snap = 1
	l.frozen.own += int(c.room)
	return true
}

// drop frees the block of a chunk that leaves the list.
func (l *bigList) drop(c *listChunk) {
	if !l.detach(c) {
		l.a.Free(c.off, int(c.room))
	}
}

// set records the listpack of a chunk after n elements were added.
func (c *listChunk) set(lp []byte, n int) {
	c.size = uint32(len(lp))
	c.n = uint32(int(c.n) + n)
}

// shrink gives most of an emptied block back.
func (l *bigList) shrink(c *listChunk) {
	if c.room <= 512 || c.size*4 > c.room {
		return
	}
	room := blockRoom(2 * int(c.size))
	off := l.a.Alloc(room)
	copy(l.a.Mem(off, room), c.listpack(l.a))
	l.a.Free(c.off, int(c.room))
	c.off, c.room = off, uint32(room)
}

// insertInto puts val before element pos of chunk i.
func (l *bigList) insertInto(i, pos int, val []byte) {
	c := &l.dir[i]
	lp := l.own(c, listpack.EncodedLen(val))
	switch {
	case pos == 0:
		lp = listpack.Prepend(lp, val)
	case pos == int(c.n):
		lp = listpack.Append(lp, val)
	default:
		lp = listpack.InsertBefore(lp, listpack.Seek(lp, pos), val)
	}
	c.set(lp, 1)
	l.n++
}

// push puts val at one end.
func (l *bigList) push(fill int, head bool, val []byte) {
	i := len(l.dir) - 1
	if head {
		i = 0
	}
	if len(l.dir) > 0 && nodeAllows(fill, int(l.dir[i].size), int(l.dir[i].n), len(val)) {
		pos := 0
		if !head {
			pos = int(l.dir[i].n)
		}
		l.insertInto(i, pos, val)
		return
	}
	if !head {
		i++
	}
	l.insertAlone(max(i, 0), val)
}

// insertAlone makes a chunk of val before chunk i.
func (l *bigList) insertAlone(i int, val []byte) {
	l.insertDir(i, l.newChunk(listpack.EncodedLen(val)))
	l.insertInto(i, 0, val)
}

// locate returns the chunk that holds element index and its position there.
// 0 <= index < l.n.
func (l *bigList) locate(index int) (chunk, pos int) {
	if index > l.n/2 {
		rest := l.n - index // elements from index on
		i := len(l.dir) - 1
		for ; rest > int(l.dir[i].n); i-- {
			rest -= int(l.dir[i].n)
		}
		return i, int(l.dir[i].n) - rest
	}
	i := 0
	for ; index >= int(l.dir[i].n); i++ {
		index -= int(l.dir[i].n)
	}
	return i, index
}

// insertAt puts val before element index, 0 < index < l.n.
func (l *bigList) insertAt(fill, index int, val []byte) {
	i, pos := l.locate(index)
	allows := func(i int) bool {
		return nodeAllows(fill, int(l.dir[i].size), int(l.dir[i].n), len(val))
	}
	switch {
	case allows(i):
		l.insertInto(i, pos, val)
	case pos == 0 && i > 0 && allows(i-1):
		l.insertInto(i-1, int(l.dir[i-1].n), val)
	case pos == 0:
		l.insertAlone(i, val)
	default:
		l.split(i, pos)
		if len(val) < plainThreshold && allows(i) {
			l.insertInto(i, pos, val)
		} else {
			l.insertAlone(i+1, val)
		}
		l.mergeAround(fill, i)
	}
}

// split cuts chunk i before its element pos, 0 < pos < n.
func (l *bigList) split(i, pos int) {
	n := int(l.dir[i].n)
	lp := l.dir[i].listpack(l.a)
	at := listpack.Seek(lp, pos)
	size := len(lp) - at + lpOverhead
	room := blockRoom(size)
	c := listChunk{off: l.a.Alloc(room), room: uint32(room)}
	// The upper part without the lower one is what a deletion leaves.
	tail := l.a.Mem(c.off, room)[:0]
	tail = listpack.AppendEmpty(tail)
	tail = appendElements(tail, lp, at)
	c.set(tail, n-pos)
	head := l.own(&l.dir[i], 0)
	head = listpack.Delete(head, at, n-pos)
	l.dir[i].set(head, pos-n)
	l.shrink(&l.dir[i])
	l.insertDir(i+1, c)
}

// appendElements appends the elements of src from offset at on to dst.
func appendElements(dst, src []byte, at int) []byte {
	for at >= 0 {
		str, num, isInt := listpack.Get(src, at)
		if isInt {
			dst = listpack.AppendInt(dst, num)
		} else {
			dst = listpack.Append(dst, str)
		}
		at = listpack.Next(src, at)
	}
	return dst
}

// mergeAround joins the chunks around i with their neighbours where the limits allow it.
func (l *bigList) mergeAround(fill, i int) {
	for j := min(i+2, len(l.dir)-1); j >= max(i, 1); j-- {
		if fitsTogether(fill, &l.dir[j-1], &l.dir[j]) {
			l.mergeInto(j-1, j)
		}
	}
}

// mergeInto appends chunk j to chunk i, its predecessor, and drops it.
func (l *bigList) mergeInto(i, j int) {
	right := &l.dir[j]
	rlp := right.listpack(l.a)
	lp := l.own(&l.dir[i], len(rlp)-lpOverhead)
	lp = listpack.Merge(lp, rlp)
	l.dir[i].set(lp, int(right.n))
	l.drop(right)
	l.removeDir(j, 1)
}

// setAt replaces element index, 0 <= index < l.n.
func (l *bigList) setAt(fill, index int, val []byte) {
	i, pos := l.locate(index)
	c := &l.dir[i]
	lp := c.listpack(l.a)
	off := listpack.Seek(lp, pos)
	old := elementEnd(lp, off) - off
	if c.n == 1 || nodeAllows(fill, int(c.size)-old, int(c.n)-1, len(val)) {
		lp = l.own(c, max(0, listpack.EncodedLen(val)-old))
		lp = listpack.Replace(lp, off, val)
		c.set(lp, 0)
		l.shrink(c)
		return
	}
	// It has outgrown its node: out of it, and in again under the limits.
	l.removeIn(i, pos, 1)
	if index == l.n {
		l.push(fill, false, val)
	} else if index == 0 {
		l.push(fill, true, val)
	} else {
		l.insertAt(fill, index, val)
	}
}

// removeIn deletes k elements of chunk i from position pos on, and the chunk
// when nothing remains of it; gone tells.
func (l *bigList) removeIn(i, pos, k int) (gone bool) {
	c := &l.dir[i]
	l.n -= k
	if k == int(c.n) {
		l.drop(c)
		l.removeDir(i, 1)
		return true
	}
	lp := l.own(c, 0)
	lp = listpack.Delete(lp, listpack.Seek(lp, pos), k)
	c.set(lp, -k)
	l.shrink(c)
	return false
}

// removeRange deletes k elements from index on; all exist.
func (l *bigList) removeRange(index, k int) {
	if k == 0 {
		return
	}
	i, pos := l.locate(index)
	for k > 0 && (pos > 0 || k < int(l.dir[i].n)) {
		take := min(k, int(l.dir[i].n)-pos)
		l.removeIn(i, pos, take)
		k -= take
		i, pos = i+1, 0
	}
	// Whole chunks leave the directory together.
	j := i
	for j < len(l.dir) && k >= int(l.dir[j].n) && k > 0 {
		k -= int(l.dir[j].n)
		l.n -= int(l.dir[j].n)
		l.drop(&l.dir[j])
		j++
	}
	if j > i {
		l.removeDir(i, j-i)
	}
	if k > 0 {
		l.removeIn(i, 0, k)
	}
}

// removeMatching deletes up to limit elements equal to val, from the tail when
// back is set, and returns how many.
func (l *bigList) removeMatching(val []byte, limit int, back bool) (removed int) {
	if back {
		for i := len(l.dir) - 1; i >= 0 && removed < limit; i-- {
			n, _ := l.removeMatchingIn(i, val, limit-removed, true)
			removed += n
		}
		return removed
	}
	for i := 0; i < len(l.dir) && removed < limit; {
		n, gone := l.removeMatchingIn(i, val, limit-removed, false)
		removed += n
		if !gone {
			i++
		}
	}
	return removed
}

// removeMatchingIn deletes matching elements of chunk i; gone tells that none remain.
func (l *bigList) removeMatchingIn(i int, val []byte, limit int, back bool) (removed int, gone bool) {
	c := &l.dir[i]
	lp := c.listpack(l.a)
	if listpack.Find(lp, listpack.First(lp), val, 0) < 0 {
		return 0, false
	}
	lp, removed = removeFrom(l.own(c, 0), val, limit, back)
	return removed, l.afterRemoval(i, lp, removed)
}

// afterRemoval records the listpack of chunk i after k elements left it.
func (l *bigList) afterRemoval(i int, lp []byte, k int) (gone bool) {
	c := &l.dir[i]
	c.set(lp, -k)
	l.n -= k
	if c.n == 0 {
		l.drop(c)
		l.removeDir(i, 1)
		return true
	}
	l.shrink(c)
	return false
}

// pop removes an element at one end and returns it in the shared buffer.
func (l *bigList) pop(c *collScratch, head bool) []byte {
	i, pos := 0, 0
	if !head {
		i = len(l.dir) - 1
		pos = int(l.dir[i].n) - 1
	}
	lp := l.dir[i].listpack(l.a)
	v := c.keepPopped(lp, listpack.Seek(lp, pos))
	l.removeIn(i, pos, 1)
	return v
}

func (l *bigList) typ() Type         { return TypeList }
func (l *bigList) encoding() string  { return "quicklist" }
func (l *bigList) length() int       { return l.n }
func (l *bigList) rdbType() rdb.Type { return rdb.TypeListQuick2 }

// memory ignores samples: it looks at no element.
func (l *bigList) memory(int) int64 {
	sum := int64(len(l.buf)) * listChunkBytes
	for i := range l.dir {
		sum += int64(classSize(int(l.dir[i].room)))
	}
	return sum
}

func (l *bigList) clone() largeObject {
	c := newBigList(l.a)
	for i := range l.dir {
		c.addChunk(l.dir[i].listpack(l.a), int(l.dir[i].n))
	}
	return c
}

func (l *bigList) free(budget int) (done bool) {
	for ; budget > 0 && len(l.dir) > 0; budget-- {
		last := len(l.dir) - 1
		l.n -= int(l.dir[last].n)
		l.drop(&l.dir[last])
		l.dir = l.dir[:last]
	}
	if len(l.dir) > 0 {
		return false
	}
	l.a.Account(-len(l.buf) * listChunkBytes)
	l.buf, l.dir, l.head = nil, nil, 0
	return true
}

func (l *bigList) appendValue(enc *rdb.Encoder, dst []byte) []byte {
	dst = rdb.AppendLen(dst, uint64(len(l.dir)))
	for i := range l.dir {
		dst = appendNode(dst, enc, l.dir[i].listpack(l.a))
	}
	return dst
}

// freeze copies the directory. Blocks are shared with it until one side lets go.
func (l *bigList) freeze(*rdb.Encoder) {
	f := &frozenList{chunks: make([]listChunk, len(l.dir))}
	copy(f.chunks, l.dir)
	for i := range l.dir {
		l.dir[i].snap = uint32(i + 1)
		f.chunks[i].snap = 0
	}
	l.frozen = f
	l.a.Account(len(f.chunks) * listChunkBytes)
}

func (l *bigList) freezeArgs() {
	l.freeze(nil)
	l.frozen.args = true
}

// appendNodeArgs appends the elements of a node as freezeArgs says.
func appendNodeArgs(dst, lp []byte) []byte {
	for at := listpack.First(lp); at >= 0; at = listpack.Next(lp, at) {
		if str, num, isInt := listpack.Get(lp, at); isInt {
			dst = appendArgInt(dst, num)
		} else {
			dst = appendArg(dst, str)
		}
	}
	return dst
}

func (l *bigList) serialise(enc *rdb.Encoder, dst []byte, budget int) (_ []byte, done bool) {
	f := l.frozen
	if f.next == 0 && !f.args {
		dst = rdb.AppendLen(dst, uint64(len(f.chunks)))
	}
	for budget > 0 && f.next < len(f.chunks) {
		c := &f.chunks[f.next]
		budget -= int(c.n)
		if f.args {
			dst = appendNodeArgs(dst, c.listpack(l.a))
		} else {
			dst = appendNode(dst, enc, c.listpack(l.a))
		}
		if c.snap == 1 {
			l.a.Free(c.off, int(c.room))
			f.own -= int(c.room)
		}
		f.next++
	}
	if f.next < len(f.chunks) {
		return dst, false
	}
	l.thaw()
	return dst, true
}

func (l *bigList) thaw() {
	f := l.frozen
	if f == nil {
		return
	}
	for i := f.next; i < len(f.chunks); i++ {
		if c := &f.chunks[i]; c.snap == 1 {
			l.a.Free(c.off, int(c.room))
		}
	}
	l.a.Account(-len(f.chunks) * listChunkBytes)
	l.frozen = nil
}

func (l *bigList) backlog() int {
	if l.frozen == nil {
		return 0
	}
	return l.frozen.own
}

// appendNode appends a node of an RDB list.
func appendNode(dst []byte, enc *rdb.Encoder, lp []byte) []byte {
	if len(lp) > plainThreshold {
		if str, _, isInt := listpack.Get(lp, listpack.First(lp)); !isInt && len(str) >= plainThreshold {
			return enc.AppendPlainNode(dst, str)
		}
	}
	return enc.AppendListNode(dst, lp)
}

// elementEnd returns the offset behind the element at off.
func elementEnd(lp []byte, off int) int {
	if next := listpack.Next(lp, off); next >= 0 {
		return next
	}
	return len(lp) - 1
}

// blockRoom returns the size of the class for n bytes, or n if that class is
// beyond 32 bits.
func blockRoom(n int) int {
	if r := classSize(n); r <= math.MaxUint32 {
		return r
	}
	return n
}
