package keyspace

import (
	"encoding/binary"
	"hash/maphash"
	"math/rand/v2"

	"holdfast/internal/invariant"
)

// blockKind says where the key stands in the blocks that an Index points to.
type blockKind uint8

const (
	// blockEntry: an entry, see entry.go.
	blockEntry blockKind = iota
	// blockSet: uvarint length, member.
	blockSet
	// blockHash: uvarint field length, uvarint value length, field, value.
	blockHash
	// blockZSet: 8 bytes score (float64 bits, little endian), uvarint length, member.
	blockZSet
)

// blockKey returns the key in the block at off.
func (a *Arena) blockKey(kind blockKind, off Off) []byte {
	switch kind {
	case blockEntry:
		return a.entryKey(off)
	case blockZSet:
		off += 8
	}
	n, off := a.uvarint(off)
	if kind == blockHash {
		_, off = a.uvarint(off)
	}
	return a.Mem(off, int(n))
}

// uvarint decodes the number at off and returns the offset behind it.
func (a *Arena) uvarint(off Off) (uint64, Off) {
	if b := a.mem[off]; b < 0x80 {
		return uint64(b), off + 1
	}
	v, n := binary.Uvarint(a.mem[off:min(off+binary.MaxVarintLen64, Off(len(a.mem)))])
	if n <= 0 {
		invariant.Violated("block at %#x: bad length", off)
	}
	return v, off + Off(n)
}

// Index finds blocks of an arena by the key inside them. It is an extendible
// hash table: a directory, addressed by the leading bits of the hash, of segments
// of up to 512 slots, which split in two when they are full. Inside a segment
// the slots are in the order of their home buckets (Robin Hood hashing with
// linear probing), so that a search for what is not there ends early and no
// tombstones are needed.
//
//	hash:  | directory: leading bits ... |            ...            | home: last 9 bits |
//	slot:  | home: 9 bits | hash bits 8..22 from the top: 15 bits | offset / 16: 40 bits |
//
// The home of an entry in a segment of 2^k slots is the leading k bits of its 9
// home bits, and a split needs one of the 15 bits only: growing, splitting and
// merging read no keys, unless there are fewer than 2^8 or more than 2^23 segments.
//
// Keys are compared by their bytes; the hash must be Hash(key). Blocks belong
// to the caller. An Index holds no memory while it is empty. The zero value is
// not ready: see init.
//
// Invariants: n is the sum of all counts; dir has 2^depth places; a segment of
// depth d stands in 2^(depth-d) adjacent places; all segments but an only one
// have 512 slots.
type Index struct {
	a       *Arena
	seed    maphash.Seed
	dir     []uint32
	segs    []segment
	n       int
	free    int32 // first unused element of segs + 1; the next one is in its off
	live    int32 // segments in use
	deepest int32 // segments whose depth is the directory's
	depth   uint8
	kind    blockKind
	hashing hashing

	// While a large object is frozen: what is to be done before a segment of
	// another epoch changes. saver is nil otherwise.
	epoch uint32
	saver segmentSaver
}

// segmentSaver receives the content of a segment before it changes.
type segmentSaver interface {
	// saveBlock is called for each block of the segment.
	saveBlock(off Off)
}

type segment struct {
	off   Off // of 2^log words in the arena
	epoch uint32
	count uint16
	depth uint8
	log   uint8 // 0: not in use
}

const (
	homeBits   = 9
	leadFirst  = 8 // the first of the leading hash bits that a slot holds
	leadBits   = 15
	maxLog     = homeBits
	minLog     = 4
	maxDepth   = 32
	slotShift  = 40 // above the offset
	leadShift  = 64 - leadFirst - leadBits
	segBytes   = 16
	mergeBelow = 64  // a segment with fewer looks for a buddy to join
	mergeMax   = 192 // entries that a joined segment may have
)

// segLimit is the number of entries at which a segment of 2^log slots grows or
// splits: 7/8 of them.
func segLimit(log uint8) uint16 { return 7 << log >> 3 }

// mark returns the 24 bits of h that a slot holds.
func mark(h uint64) uint64 {
	return h&(1<<homeBits-1)<<leadBits | h>>leadShift&(1<<leadBits-1)
}

// slotOff returns the offset that the slot v holds.
func slotOff(v uint64) Off { return Off(v&(1<<slotShift-1)) << 4 }

func makeSlot(h uint64, off Off) uint64 { return mark(h)<<slotShift | uint64(off>>4) }

// slotHome returns the 9 home bits of the slot v.
func slotHome(v uint64) int { return int(v >> (64 - homeBits)) }

// init makes x an empty index of blocks of the given kind.
func (x *Index) init(a *Arena, seed maphash.Seed, kind blockKind) {
	*x = Index{a: a, seed: seed, kind: kind}
}

// Hash returns the hash that the other methods want with key.
func (x *Index) Hash(key []byte) uint64 { return maphash.Bytes(x.seed, key) }

// Len returns the number of blocks.
func (x *Index) Len() int { return x.n }

func (x *Index) slots(s *segment) []uint64 { return x.a.words(s.off, 1<<s.log) }

// at returns the number of the segment for h. The index must not be empty.
func (x *Index) at(h uint64) uint32 { return x.dir[h>>1>>((63-x.depth)&63)] }

// Find returns the block with the given key.
func (x *Index) Find(h uint64, key []byte) (Off, bool) {
	if len(x.dir) == 0 {
		return 0, false
	}
	s := &x.segs[x.at(h)]
	slots := x.slots(s)
	mask := len(slots) - 1
	m := mark(h)
	shift := (64 - s.log) & 63
	i := int(m << slotShift >> shift)
	for dist := 0; ; dist, i = dist+1, (i+1)&mask {
		v := slots[i&mask]
		if v>>slotShift == m && v != 0 && x.hasKey(slotOff(v), key) {
			return slotOff(v), true
		}
		if v == 0 || (i-int(v>>shift))&mask < dist {
			return 0, false
		}
	}
}

// hasKey reports whether the block at off has the given key.
func (x *Index) hasKey(off Off, key []byte) bool {
	if x.kind != blockEntry {
		return string(x.a.blockKey(x.kind, off)) == string(key)
	}
	// Most entries have neither long lengths nor an expiry: no need to decode all.
	h := x.a.load64(off)
	if uint8(h)&(flagLong|flagExpire) != 0 {
		return string(x.a.entryKey(off)) == string(key)
	}
	n := Off(h >> 32 & 0xFFFF)
	return int(n) == len(key) && string(x.a.mem[off+entryHeader:off+entryHeader+n]) == string(key)
}

func (x *Index) keyAt(off Off) []byte {
	if x.kind == blockEntry {
		return x.a.entryKey(off)
	}
	return x.a.blockKey(x.kind, off)
}

// find returns where in the slots of s the block off with hash h is; the block
// must be there.
func (x *Index) find(s *segment, h uint64, off Off) int {
	slots := x.slots(s)
	mask := len(slots) - 1
	want := makeSlot(h, off)
	b := int(mark(h) >> (homeBits + leadBits - s.log))
	for dist := 0; dist <= mask; dist++ {
		i := (b + dist) & mask
		if slots[i] == want {
			return i
		}
		if slots[i] == 0 {
			break
		}
	}
	invariant.Violated("index: block %#x with hash %#x is not in its segment (%d of %d entries, depth %d)",
		off, h, s.count, x.n, s.depth)
	return 0
}

// Insert adds the block off, whose key has the hash h and is not in the index.
func (x *Index) Insert(h uint64, off Off) {
	if len(x.dir) == 0 {
		x.first()
	}
	for {
		s := &x.segs[x.at(h)]
		x.save(s)
		if s.count < segLimit(s.log) {
			place(x.slots(s), s.log, makeSlot(h, off))
			s.count++
			x.n++
			return
		}
		if s.log < maxLog {
			x.resize(s, min(s.log+1, maxLog))
		} else {
			x.split(h)
		}
	}
}

// place puts v into its position among slots, of which one at least is empty.
func place(slots []uint64, log uint8, v uint64) {
	mask := len(slots) - 1
	shift := 64 - log
	i := int(v >> shift)
	for dist := 0; ; dist, i = dist+1, (i+1)&mask {
		w := slots[i]
		if w == 0 {
			slots[i] = v
			return
		}
		if d := (i - int(w>>shift)) & mask; d < dist {
			slots[i], v, dist = v, w, d
		}
	}
}

// Replace makes the index point to block now instead of old, with the same key.
func (x *Index) Replace(h uint64, old, now Off) {
	s := &x.segs[x.at(h)]
	x.save(s)
	x.slots(s)[x.find(s, h, old)] = makeSlot(h, now)
}

// Delete removes the block off, whose key has the hash h, and which must be there.
func (x *Index) Delete(h uint64, off Off) {
	s := &x.segs[x.at(h)]
	x.save(s)
	slots := x.slots(s)
	mask := len(slots) - 1
	shift := 64 - s.log
	i := x.find(s, h, off)
	for {
		j := (i + 1) & mask
		v := slots[j]
		if v == 0 || int(v>>shift) == j {
			break
		}
		slots[i] = v
		i = j
	}
	slots[i] = 0
	s.count--
	x.n--
	if x.n == 0 {
		x.Free()
	} else if s.count < mergeBelow {
		x.shrink(h, mergeMax)
	}
}

// Free forgets all blocks and gives the memory of the index back.
func (x *Index) Free() {
	for i := range x.segs {
		if s := &x.segs[i]; s.log != 0 {
			x.a.Free(s.off, 8<<s.log)
		}
	}
	x.account(-1)
	x.dir, x.segs = nil, nil
	x.n, x.free, x.live, x.deepest, x.depth = 0, 0, 0, 0, 0
}

// account tells the arena about the slices of the index, before (-1) and after
// (+1) a change of them.
func (x *Index) account(sign int) {
	x.a.Account(sign * (cap(x.dir)*4 + cap(x.segs)*segBytes))
}

func (x *Index) first() {
	x.dir = make([]uint32, 1)
	x.segs = make([]segment, 1)
	x.segs[0] = segment{log: minLog, off: x.newSlots(minLog), epoch: x.epoch}
	x.live, x.deepest = 1, 1
	x.account(+1)
}

func (x *Index) newSlots(log uint8) Off {
	off := x.a.Alloc(8 << log)
	clear(x.a.words(off, 1<<log))
	return off
}

// save hands the content of s over before a change, if a freeze needs it.
func (x *Index) save(s *segment) {
	if x.saver != nil && s.epoch != x.epoch {
		x.saveSegment(s)
	}
}

func (x *Index) saveSegment(s *segment) {
	s.epoch = x.epoch
	for _, v := range x.slots(s) {
		if v != 0 {
			x.saver.saveBlock(slotOff(v))
		}
	}
}

// beforeWrite must be called before the block of a key with the hash h is
// changed in place.
func (x *Index) beforeWrite(h uint64) {
	if x.saver != nil && len(x.dir) != 0 {
		x.save(&x.segs[x.at(h)])
	}
}

// resize gives s 2^log slots.
func (x *Index) resize(s *segment, log uint8) {
	old, oldOff, oldLog := x.slots(s), s.off, s.log
	s.off, s.log = x.newSlots(log), log
	slots := x.slots(s)
	for _, v := range old {
		if v != 0 {
			place(slots, log, v)
		}
	}
	x.a.Free(oldOff, 8<<oldLog)
}

// newSegment returns the number of an unused segment.
func (x *Index) newSegment() uint32 {
	x.live++
	if x.free != 0 {
		id := uint32(x.free - 1)
		x.free = int32(x.segs[id].off)
		return id
	}
	x.segs = append(x.segs, segment{})
	return uint32(len(x.segs) - 1)
}

func (x *Index) dropSegment(id uint32) {
	s := &x.segs[id]
	x.a.Free(s.off, 8<<s.log)
	*s = segment{off: Off(x.free)}
	x.free = int32(id) + 1
	x.live--
}

// split divides the segment for h by the next bit of the hash.
func (x *Index) split(h uint64) {
	x.account(-1)
	id := x.at(h)
	d := x.segs[id].depth
	if d >= maxDepth {
		invariant.Violated("index: %d entries share the leading %d bits of their hashes", x.segs[id].count, d)
	}
	if d == x.depth {
		x.doubleDir()
	}
	id2 := x.newSegment()
	s, t := &x.segs[id], &x.segs[id2]
	*t = segment{log: maxLog, off: x.newSlots(maxLog), epoch: s.epoch, depth: d + 1}
	s.depth = d + 1
	if s.depth == x.depth {
		x.deepest += 2
	}
	var scratch [1 << maxLog]uint64
	old, to := x.slots(s), x.slots(t)
	copy(scratch[:], old)
	clear(old)
	for _, v := range scratch {
		if v == 0 {
			continue
		}
		if x.leadingBit(v, d) == 0 {
			place(old, maxLog, v)
		} else {
			place(to, maxLog, v)
			t.count++
		}
	}
	s.count -= t.count
	// The second half of the places of s in the directory is now t's.
	n := 1 << (x.depth - d - 1)
	at := int(h>>(64-x.depth))&^(2*n-1) + n
	for i := range n {
		x.dir[at+i] = id2
	}
	x.account(+1)
}

// doubleDir makes the directory one bit deeper.
func (x *Index) doubleDir() {
	dir := make([]uint32, 2*len(x.dir))
	for i, id := range x.dir {
		dir[2*i], dir[2*i+1] = id, id
	}
	x.dir = dir
	x.depth++
	x.deepest = 0
}

// leadingBit returns bit i, counted from the top, of the hash of the slot v.
func (x *Index) leadingBit(v uint64, i uint8) uint64 {
	if i >= leadFirst && i < leadFirst+leadBits {
		return v >> (slotShift + leadBits - 1 - (i - leadFirst)) & 1
	}
	return x.rehash(slotOff(v)) >> (63 - i) & 1
}

// shrink joins the segment for h with its buddy, and reports whether it did, if
// both have not more than most entries; or it makes an only segment smaller, when
// that leaves room enough.
func (x *Index) shrink(h uint64, most uint16) bool {
	id := x.at(h)
	s := &x.segs[id]
	if x.depth == 0 {
		if s.log > minLog && int(s.count) < 1<<s.log/8 {
			x.resize(s, max(s.log-2, minLog))
		}
		return false
	}
	n := 1 << (x.depth - s.depth)
	at := int(h>>(64-x.depth)) &^ (n - 1)
	buddy := x.dir[at^n]
	t := &x.segs[buddy]
	if t.depth != s.depth || s.count+t.count > most {
		return false
	}
	x.save(s)
	x.save(t)
	x.account(-1)
	slots := x.slots(s)
	for _, v := range x.slots(t) {
		if v != 0 {
			place(slots, maxLog, v)
		}
	}
	s.count += t.count
	if s.depth == x.depth {
		x.deepest -= 2
	}
	s.depth--
	for i := range n {
		x.dir[at^n+i] = id
	}
	x.dropSegment(buddy)
	for x.deepest == 0 && x.depth > 0 {
		x.halveDir()
	}
	if int(x.live)*4 < len(x.segs) {
		x.compactSegs()
	}
	x.account(+1)
	return true
}

// halveDir makes the directory one bit shorter; no segment needs that bit.
func (x *Index) halveDir() {
	dir := make([]uint32, len(x.dir)/2)
	for i := range dir {
		dir[i] = x.dir[2*i]
	}
	x.dir = dir
	x.depth--
	for i := range x.segs {
		if x.segs[i].log != 0 && x.segs[i].depth == x.depth {
			x.deepest++
		}
	}
}

// compactSegs numbers the segments anew, without gaps.
func (x *Index) compactSegs() {
	segs := make([]segment, 0, x.live)
	for i := 0; i < len(x.dir); {
		s := x.segs[x.dir[i]]
		n := 1 << (x.depth - s.depth)
		for j := range n {
			x.dir[i+j] = uint32(len(segs))
		}
		segs = append(segs, s)
		i += n
	}
	x.segs, x.free = segs, 0
}

// Each calls fn for every block in the order of hash positions until it returns
// false. fn must not change the index.
func (x *Index) Each(fn func(off Off) bool) {
	for i := 0; i < len(x.dir); {
		s := &x.segs[x.dir[i]]
		for _, v := range x.slots(s) {
			if v != 0 && !fn(slotOff(v)) {
				return
			}
		}
		i += 1 << (x.depth - s.depth)
	}
}

// Random returns a block, each with the same probability; false if there is none.
func (x *Index) Random(rng *rand.Rand) (Off, bool) {
	if x.n == 0 {
		return 0, false
	}
	for {
		s := &x.segs[rng.IntN(len(x.segs))]
		if s.log == 0 {
			continue
		}
		if v := x.slots(s)[rng.IntN(1<<s.log)]; v != 0 {
			return slotOff(v), true
		}
	}
}

// sample calls fn for up to n blocks that stand together at a random place.
func (x *Index) sample(rng *rand.Rand, n int, fn func(off Off)) {
	if x.n == 0 {
		return
	}
	n = min(n, x.n)
	d := rng.IntN(len(x.dir))
	for visited := 0; n > 0 && visited < len(x.dir); visited++ {
		s := &x.segs[x.dir[d]]
		slots := x.slots(s)
		start := rng.IntN(len(slots))
		for i := range slots {
			if v := slots[(start+i)&(len(slots)-1)]; v != 0 {
				fn(slotOff(v))
				if n--; n == 0 {
					return
				}
			}
		}
		// A segment fills several places when the directory is deeper.
		step := 1 << (x.depth - s.depth)
		visited += step - 1
		d = (d&^(step-1) + step) % len(x.dir)
	}
}

// drain takes about budget blocks out of the index, in any order, and calls fn
// for each; done means that the index is empty. Between calls the index can not
// be used for anything else.
func (x *Index) drain(budget int, fn func(off Off)) (spent int, done bool) {
	for i := len(x.segs) - 1; i >= 0; i-- {
		s := &x.segs[i]
		if s.log == 0 {
			continue
		}
		slots := x.slots(s)
		for j, v := range slots {
			if v == 0 {
				continue
			}
			if spent >= budget {
				return spent, false
			}
			slots[j] = 0
			s.count--
			x.n--
			spent++
			fn(slotOff(v))
		}
		x.a.Free(s.off, 8<<s.log)
		*s = segment{}
	}
	x.Free()
	return spent, true
}

// memory returns the bytes the index takes, without the blocks.
func (x *Index) memory() int64 {
	n := cap(x.dir)*4 + cap(x.segs)*segBytes
	for i := range x.segs {
		if x.segs[i].log != 0 {
			n += classSize(8 << x.segs[i].log)
		}
	}
	return int64(n)
}
