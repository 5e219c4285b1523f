package keyspace

import (
	"bytes"
	"unsafe"

	"holdfast/internal/invariant"
)

// This file stores the order of a large sorted set: a counted B+tree whose nodes
// are blocks of 1 KiB in the arena, so that the garbage collector never sees
// them. An entry is a score and the offset of the element block that holds the
// member; the order is by score, then by the bytes of the member.
//
// Invariants:
//   - keys of an inner node: (scores[i], elems[i]) is exactly the smallest entry
//     below children[i]. Every offset in the tree is thus that of a live element.
//   - counts[i] is the number of entries below children[i], and never 0.
//   - leaves are chained in order by next and prev.
//   - a node below a quarter of its room has no sibling that it fits into.

const (
	zNodeSize = 1024
	zLeafCap  = 62
	zInnerCap = 36
	// zMaxHeight is enough for more entries than an arena can hold: nodes that
	// split have at least half of 36 children.
	zMaxHeight = 16
)

type zLeaf struct {
	n          int64
	next, prev Off
	scores     [zLeafCap]float64
	elems      [zLeafCap]Off
}

type zInner struct {
	n        int32
	counts   [zInnerCap]uint32
	scores   [zInnerCap]float64
	elems    [zInnerCap]Off
	children [zInnerCap]Off
}

// Both fit a block; a negative constant does not convert.
const (
	_ = uint(zNodeSize - unsafe.Sizeof(zLeaf{}))
	_ = uint(zNodeSize - unsafe.Sizeof(zInner{}))
)

// zTree is the order of one sorted set. Elements belong to the caller: the tree
// reads their keys and frees only its own nodes.
type zTree struct {
	a      *Arena
	root   Off
	height int // 0: empty; 1: the root is a leaf
	n      int // entries
	nodes  int // blocks held
}

// zPath is the way from the root to a leaf: the inner nodes and which child was
// taken. It has height-1 steps.
type zPath [zMaxHeight]struct {
	node *zInner
	i    int
}

func (t *zTree) leaf(off Off) *zLeaf {
	return (*zLeaf)(unsafe.Pointer(unsafe.SliceData(t.a.Mem(off, zNodeSize))))
}

func (t *zTree) inner(off Off) *zInner {
	return (*zInner)(unsafe.Pointer(unsafe.SliceData(t.a.Mem(off, zNodeSize))))
}

func (t *zTree) newLeaf() (Off, *zLeaf) {
	off := t.a.Alloc(zNodeSize)
	t.nodes++
	l := t.leaf(off)
	l.n, l.next, l.prev = 0, 0, 0
	return off, l
}

func (t *zTree) newInner() (Off, *zInner) {
	off := t.a.Alloc(zNodeSize)
	t.nodes++
	in := t.inner(off)
	in.n = 0
	return off, in
}

func (t *zTree) freeNode(off Off) {
	t.a.Free(off, zNodeSize)
	t.nodes--
}

// cmp compares the entry (score, elem) with (s, m).
func (t *zTree) cmp(score float64, elem Off, s float64, m []byte) int {
	switch {
	case score < s:
		return -1
	case score > s:
		return 1
	}
	return bytes.Compare(scoredKey(t.a, elem), m)
}

// childFor returns the child in which (s, m) is or would stand.
func (t *zTree) childFor(in *zInner, s float64, m []byte) int {
	lo, hi := 1, int(in.n) // the first of [1, n) whose smallest entry is larger
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if sc := in.scores[mid]; sc < s || sc == s && bytes.Compare(scoredKey(t.a, in.elems[mid]), m) <= 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo - 1
}

// lowerBound returns the position of the first entry of l not before (s, m).
func (t *zTree) lowerBound(l *zLeaf, s float64, m []byte) int {
	lo, hi := 0, int(l.n)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if sc := l.scores[mid]; sc < s || sc == s && bytes.Compare(scoredKey(t.a, l.elems[mid]), m) < 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// descend returns the leaf for (s, m) and the way there; the tree is not empty.
func (t *zTree) descend(path *zPath, s float64, m []byte) Off {
	off := t.root
	for level := 0; level < t.height-1; level++ {
		in := t.inner(off)
		i := t.childFor(in, s, m)
		path[level].node, path[level].i = in, i
		off = in.children[i]
	}
	return off
}

// descendRank returns the leaf that holds the entry with the given rank, the
// entry's position in it, and the way there. 0 <= rank < t.n.
func (t *zTree) descendRank(path *zPath, rank int) (Off, int) {
	off := t.root
	for level := 0; level < t.height-1; level++ {
		in := t.inner(off)
		i := 0
		for rank >= int(in.counts[i]) {
			rank -= int(in.counts[i])
			i++
		}
		path[level].node, path[level].i = in, i
		off = in.children[i]
	}
	return off, rank
}

// insert adds an entry; the element block must hold its member already, and the
// member must not be in the tree.
func (t *zTree) insert(score float64, elem Off) {
	t.n++
	if t.height == 0 {
		off, l := t.newLeaf()
		l.n, l.scores[0], l.elems[0] = 1, score, elem
		t.root, t.height = off, 1
		return
	}
	m := scoredKey(t.a, elem)
	var path zPath
	leafOff := t.descend(&path, score, m)
	l := t.leaf(leafOff)
	pos := t.lowerBound(l, score, m)
	level := t.height - 2
	if l.n < zLeafCap {
		l.put(pos, score, elem)
		if pos == 0 {
			t.fixMin(&path, level, score, elem)
		}
		t.addCount(&path, level, 1)
		return
	}
	rightOff, right := t.splitLeaf(leafOff, l, &pos, score, elem)
	if pos == 0 {
		t.fixMin(&path, level, l.scores[0], l.elems[0])
	}
	t.addChild(&path, level, uint32(l.n), zChild{right.scores[0], right.elems[0], rightOff, uint32(right.n)})
}

// splitLeaf moves the upper part of a full leaf to a new one behind it and puts
// the entry into the one where it belongs. Insertion in order, from either end,
// leaves full leaves behind.
func (t *zTree) splitLeaf(leafOff Off, l *zLeaf, pos *int, score float64, elem Off) (Off, *zLeaf) {
	at := zLeafCap / 2
	if *pos == zLeafCap && l.next == 0 {
		at = zLeafCap
	} else if *pos == 0 && l.prev == 0 {
		at = 0
	}
	rightOff, right := t.newLeaf()
	right.n = int64(copy(right.scores[:], l.scores[at:]))
	copy(right.elems[:], l.elems[at:])
	l.n = int64(at)
	right.next, right.prev = l.next, leafOff
	if l.next != 0 {
		t.leaf(l.next).prev = rightOff
	}
	l.next = rightOff
	if *pos <= at && at != zLeafCap {
		l.put(*pos, score, elem)
	} else {
		right.put(*pos-at, score, elem)
	}
	return rightOff, right
}

// put inserts an entry at position i; there is room.
func (l *zLeaf) put(i int, score float64, elem Off) {
	n := int(l.n)
	copy(l.scores[i+1:n+1], l.scores[i:n])
	copy(l.elems[i+1:n+1], l.elems[i:n])
	l.scores[i], l.elems[i] = score, elem
	l.n++
}

// cut removes k entries from position i.
func (l *zLeaf) cut(i, k int) {
	n := int(l.n)
	copy(l.scores[i:], l.scores[i+k:n])
	copy(l.elems[i:], l.elems[i+k:n])
	l.n -= int64(k)
}

type zChild struct {
	score float64
	elem  Off
	child Off
	count uint32
}

func (in *zInner) put(i int, c zChild) {
	n := int(in.n)
	copy(in.counts[i+1:n+1], in.counts[i:n])
	copy(in.scores[i+1:n+1], in.scores[i:n])
	copy(in.elems[i+1:n+1], in.elems[i:n])
	copy(in.children[i+1:n+1], in.children[i:n])
	in.counts[i], in.scores[i], in.elems[i], in.children[i] = c.count, c.score, c.elem, c.child
	in.n++
}

func (in *zInner) cut(i int) {
	n := int(in.n)
	copy(in.counts[i:], in.counts[i+1:n])
	copy(in.scores[i:], in.scores[i+1:n])
	copy(in.elems[i:], in.elems[i+1:n])
	copy(in.children[i:], in.children[i+1:n])
	in.n--
}

// moveTo appends the children from position at on to dst.
func (in *zInner) moveTo(dst *zInner, at int) {
	n, d := int(in.n), int(dst.n)
	copy(dst.counts[d:], in.counts[at:n])
	copy(dst.scores[d:], in.scores[at:n])
	copy(dst.elems[d:], in.elems[at:n])
	copy(dst.children[d:], in.children[at:n])
	dst.n += int32(n - at)
	in.n = int32(at)
}

func (in *zInner) total() uint32 {
	var sum uint32
	for _, c := range in.counts[:in.n] {
		sum += c
	}
	return sum
}

// addCount changes the counts on the way down by d, from the given level up.
func (t *zTree) addCount(path *zPath, level, d int) {
	for ; level >= 0; level-- {
		path[level].node.counts[path[level].i] += uint32(d)
	}
}

// fixMin writes a new smallest entry of the subtree taken at the given level
// into that node, and above as long as it stands first.
func (t *zTree) fixMin(path *zPath, level int, score float64, elem Off) {
	for ; level >= 0; level-- {
		in, i := path[level].node, path[level].i
		in.scores[i], in.elems[i] = score, elem
		if i != 0 {
			return
		}
	}
}

// addChild puts c behind the child taken at the given level, whose own count
// became left. Together they hold one entry more than before.
func (t *zTree) addChild(path *zPath, level int, left uint32, c zChild) {
	for ; level >= 0; level-- {
		in, i := path[level].node, path[level].i
		in.counts[i] = left
		if in.n < zInnerCap {
			in.put(i+1, c)
			t.addCount(path, level-1, 1)
			return
		}
		at := zInnerCap / 2
		if i == zInnerCap-1 {
			at = zInnerCap
		}
		rightOff, right := t.newInner()
		in.moveTo(right, at)
		if i+1 <= at && at != zInnerCap {
			in.put(i+1, c)
		} else {
			right.put(i+1-at, c)
		}
		left = in.total()
		c = zChild{right.scores[0], right.elems[0], rightOff, right.total()}
	}
	t.newRoot(left, c)
}

// newRoot puts a node above the root, which holds left entries, and c.
func (t *zTree) newRoot(left uint32, c zChild) {
	if t.height == zMaxHeight {
		invariant.Violated("sorted set: a tree of %d entries in %d nodes wants to be higher than %d", t.n, t.nodes, zMaxHeight)
	}
	first := zChild{child: t.root, count: left}
	if t.height == 1 {
		l := t.leaf(t.root)
		first.score, first.elem = l.scores[0], l.elems[0]
	} else {
		in := t.inner(t.root)
		first.score, first.elem = in.scores[0], in.elems[0]
	}
	off, in := t.newInner()
	in.put(0, first)
	in.put(1, c)
	t.root = off
	t.height++
}

// find returns the leaf and the position of the entry (score, m), which must be
// in the tree, and the way there.
func (t *zTree) find(path *zPath, score float64, m []byte) (Off, int) {
	leafOff := t.descend(path, score, m)
	l := t.leaf(leafOff)
	pos := t.lowerBound(l, score, m)
	if pos == int(l.n) || t.cmp(l.scores[pos], l.elems[pos], score, m) != 0 {
		invariant.Violated("sorted set: member %q with score %v is not in the tree of %d entries", m, score, t.n)
	}
	return leafOff, pos
}

// remove takes out the entry (score, m), which must be there.
func (t *zTree) remove(score float64, m []byte) {
	var path zPath
	leafOff, pos := t.find(&path, score, m)
	t.removeAt(&path, leafOff, pos, 1)
}

// update changes the score of a member that is in the tree. elem's key is m.
func (t *zTree) update(old, score float64, elem Off) {
	m := scoredKey(t.a, elem)
	var path zPath
	leafOff, pos := t.find(&path, old, m)
	l := t.leaf(leafOff)
	// Between its neighbours in the leaf it can stay where it stands.
	if pos > 0 && pos+1 < int(l.n) &&
		t.cmp(l.scores[pos-1], l.elems[pos-1], score, m) < 0 && t.cmp(l.scores[pos+1], l.elems[pos+1], score, m) > 0 {
		l.scores[pos] = score
		return
	}
	t.removeAt(&path, leafOff, pos, 1)
	t.insert(score, elem)
}

// removeRange takes out up to k entries from the given rank on that stand in one
// leaf, and returns how many; gone is called for each before.
func (t *zTree) removeRange(rank, k int, gone func(elem Off)) int {
	var path zPath
	leafOff, pos := t.descendRank(&path, rank)
	l := t.leaf(leafOff)
	k = min(k, int(l.n)-pos)
	// The entries leave the tree before their elements go: the tree reads keys.
	var elems [zLeafCap]Off
	copy(elems[:k], l.elems[pos:pos+k])
	t.removeAt(&path, leafOff, pos, k)
	for _, e := range elems[:k] {
		gone(e)
	}
	return k
}

// removeAt cuts k entries from the leaf that path leads to.
func (t *zTree) removeAt(path *zPath, leafOff Off, pos, k int) {
	l := t.leaf(leafOff)
	level := t.height - 2
	l.cut(pos, k)
	t.n -= k
	t.addCount(path, level, -k)
	switch {
	case l.n == 0:
		t.unlinkLeaf(l)
		t.freeNode(leafOff)
		t.removeChild(path, level)
		return
	case pos == 0:
		t.fixMin(path, level, l.scores[0], l.elems[0])
	}
	if l.n < zLeafCap/4 && level >= 0 {
		t.mergeLeaf(path, level)
	}
}

func (t *zTree) unlinkLeaf(l *zLeaf) {
	if l.next != 0 {
		t.leaf(l.next).prev = l.prev
	}
	if l.prev != 0 {
		t.leaf(l.prev).next = l.next
	}
}

// removeChild takes the child at the given level, whose node is freed and whose
// count is 0, out of its parent, and parents that become empty with it.
func (t *zTree) removeChild(path *zPath, level int) {
	if level < 0 {
		t.root, t.height = 0, 0
		return
	}
	in, i := path[level].node, path[level].i
	in.cut(i)
	if in.n == 0 {
		off := t.root
		if level > 0 {
			off = path[level-1].node.children[path[level-1].i]
		}
		t.freeNode(off)
		t.removeChild(path, level-1)
		return
	}
	if i == 0 {
		t.fixMin(path, level-1, in.scores[0], in.elems[0])
	}
	t.shrinkInner(path, level)
}

// shrinkInner lowers a root with one child, or merges the node at the given
// level with a sibling if it became small.
func (t *zTree) shrinkInner(path *zPath, level int) {
	in := path[level].node
	if level == 0 {
		for t.height > 1 {
			root := t.inner(t.root)
			if root.n != 1 {
				return
			}
			child := root.children[0]
			t.freeNode(t.root)
			t.root = child
			t.height--
		}
		return
	}
	if in.n >= zInnerCap/4 {
		return
	}
	parent := path[level-1].node
	li, ok := t.sibling(parent, path[level-1].i, func(off Off) int { return int(t.inner(off).n) }, zInnerCap)
	if !ok {
		return
	}
	right := parent.children[li+1]
	t.inner(right).moveTo(t.inner(parent.children[li]), 0)
	t.dropRight(path, level-1, li, right)
}

// mergeLeaf joins the leaf below the given level with a sibling, if one has room.
func (t *zTree) mergeLeaf(path *zPath, level int) {
	parent := path[level].node
	li, ok := t.sibling(parent, path[level].i, func(off Off) int { return int(t.leaf(off).n) }, zLeafCap)
	if !ok {
		return
	}
	rightOff := parent.children[li+1]
	left, right := t.leaf(parent.children[li]), t.leaf(rightOff)
	n := int(left.n)
	copy(left.scores[n:], right.scores[:right.n])
	copy(left.elems[n:], right.elems[:right.n])
	left.n += right.n
	t.unlinkLeaf(right)
	t.dropRight(path, level, li, rightOff)
}

// sibling returns the position of the left one of two neighbouring children, one
// of them i, that fit into one node.
func (t *zTree) sibling(parent *zInner, i int, size func(Off) int, room int) (int, bool) {
	n := size(parent.children[i])
	if i+1 < int(parent.n) && n+size(parent.children[i+1]) <= room {
		return i, true
	}
	if i > 0 && n+size(parent.children[i-1]) <= room {
		return i - 1, true
	}
	return 0, false
}

// dropRight takes child li+1, whose entries moved to child li, out of the node
// at the given level.
func (t *zTree) dropRight(path *zPath, level, li int, right Off) {
	in := path[level].node
	in.counts[li] += in.counts[li+1]
	in.cut(li + 1)
	t.freeNode(right)
	t.shrinkInner(path, level)
}

// rank returns how many entries stand before (s, m).
func (t *zTree) rank(s float64, m []byte) int {
	if t.height == 0 {
		return 0
	}
	n, off := 0, t.root
	for level := 0; level < t.height-1; level++ {
		in := t.inner(off)
		i := t.childFor(in, s, m)
		for _, c := range in.counts[:i] {
			n += int(c)
		}
		off = in.children[i]
	}
	return n + t.lowerBound(t.leaf(off), s, m)
}

// count returns how many entries, from the first on, satisfy before, which must
// hold for a prefix of the order.
func (t *zTree) count(before func(score float64, elem Off) bool) int {
	if t.height == 0 {
		return 0
	}
	n, off := 0, t.root
	for level := 0; level < t.height-1; level++ {
		in := t.inner(off)
		lo, hi := 1, int(in.n)
		for lo < hi {
			mid := int(uint(lo+hi) >> 1)
			if before(in.scores[mid], in.elems[mid]) {
				lo = mid + 1
			} else {
				hi = mid
			}
		}
		for _, c := range in.counts[:lo-1] {
			n += int(c)
		}
		off = in.children[lo-1]
	}
	l := t.leaf(off)
	lo, hi := 0, int(l.n)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if before(l.scores[mid], l.elems[mid]) {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return n + lo
}

// each calls fn for up to n entries from the one with the given rank on, upwards
// or downwards, until it returns false.
func (t *zTree) each(rank, n int, down bool, fn func(score float64, elem Off) bool) {
	if rank < 0 || rank >= t.n {
		return
	}
	var path zPath
	off, pos := t.descendRank(&path, rank)
	l := t.leaf(off)
	for ; n > 0; n-- {
		if !fn(l.scores[pos], l.elems[pos]) {
			return
		}
		if down {
			if pos--; pos < 0 {
				if l.prev == 0 {
					return
				}
				l = t.leaf(l.prev)
				pos = int(l.n) - 1
			}
			continue
		}
		if pos++; pos == int(l.n) {
			if l.next == 0 {
				return
			}
			l, pos = t.leaf(l.next), 0
		}
	}
}

// at returns the entry with the given rank, 0 <= rank < t.n.
func (t *zTree) at(rank int) (float64, Off) {
	var path zPath
	off, pos := t.descendRank(&path, rank)
	l := t.leaf(off)
	return l.scores[pos], l.elems[pos]
}

// freeStep frees up to budget nodes and reports whether any remain. Once begun,
// only freeStep may be called.
func (t *zTree) freeStep(budget int) (done bool) {
	for ; budget > 0 && t.height > 0; budget-- {
		t.dropLast()
	}
	return t.height == 0
}

// dropLast frees the last leaf and the inner nodes that become empty.
func (t *zTree) dropLast() {
	var parents [zMaxHeight]Off
	off := t.root
	level := 0
	for ; level < t.height-1; level++ {
		parents[level] = off
		in := t.inner(off)
		off = in.children[in.n-1] // from the right: nothing moves
	}
	t.freeNode(off)
	for level--; level >= 0; level-- {
		in := t.inner(parents[level])
		if in.n--; in.n > 0 {
			return
		}
		t.freeNode(parents[level])
	}
	t.root, t.height, t.n = 0, 0, 0
}

// check panics unless the tree is whole. Tests call it; it visits all nodes.
func (t *zTree) check() {
	if t.height == 0 {
		if t.n != 0 || t.nodes != 0 || t.root != 0 {
			invariant.Violated("sorted set: empty tree with %d entries, %d nodes, root %d", t.n, t.nodes, t.root)
		}
		return
	}
	nodes, entries := 0, 0
	var prevLeaf Off
	var walk func(off Off, level int) (uint32, float64, Off)
	walk = func(off Off, level int) (uint32, float64, Off) {
		nodes++
		if level == t.height-1 {
			l := t.leaf(off)
			invariant.Check(l.n > 0 && l.n <= zLeafCap, "leaf of %d entries", l.n)
			invariant.Check(l.prev == prevLeaf, "leaf %d: prev is %d, not %d", off, l.prev, prevLeaf)
			if prevLeaf != 0 {
				p := t.leaf(prevLeaf)
				invariant.Check(p.next == off, "leaf %d: next is %d, not %d", prevLeaf, p.next, off)
				invariant.Check(t.cmp(p.scores[p.n-1], p.elems[p.n-1], l.scores[0], scoredKey(t.a, l.elems[0])) < 0, "leaves out of order")
			}
			for i := 1; i < int(l.n); i++ {
				invariant.Check(t.cmp(l.scores[i-1], l.elems[i-1], l.scores[i], scoredKey(t.a, l.elems[i])) < 0, "entries out of order")
			}
			prevLeaf = off
			entries += int(l.n)
			return uint32(l.n), l.scores[0], l.elems[0]
		}
		in := t.inner(off)
		invariant.Check(in.n > 0 && in.n <= zInnerCap, "inner node of %d children", in.n)
		for i := range int(in.n) {
			c, s, e := walk(in.children[i], level+1)
			invariant.Check(c == in.counts[i] && s == in.scores[i] && e == in.elems[i],
				"child %d: %d entries from (%v, %d), its parent says %d from (%v, %d)", i, c, s, e, in.counts[i], in.scores[i], in.elems[i])
		}
		return in.total(), in.scores[0], in.elems[0]
	}
	walk(t.root, 0)
	if prevLeaf != 0 {
		invariant.Check(t.leaf(prevLeaf).next == 0, "the last leaf has a next one")
	}
	invariant.Check(nodes == t.nodes && entries == t.n, "%d nodes, %d entries; counted %d and %d", nodes, entries, t.nodes, t.n)
}
