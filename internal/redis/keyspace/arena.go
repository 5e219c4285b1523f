package keyspace

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"unsafe"

	"holdfast/internal/invariant"
)

// Off names a block of an Arena: its distance from the start of the
// reservation in bytes, a multiple of 16. 0 names no block.
type Off uint64

const (
	// unitSize is the grain of the span allocator. A span of several units
	// costs only the pages that were touched.
	unitSize = 64 << 10
	pageSize = 4 << 10

	classStep = 16      // step of the size classes up to linearMax
	linearMax = 1 << 10 // above it, eight classes for each doubling
	slabMax   = 32 << 10

	linearClasses = linearMax / classStep
	slabClasses   = linearClasses + 5*8

	// dirtyMax bounds the bytes of freed spans that keep their pages, so that
	// values of changing size do not pay two system calls each.
	dirtyMax = 4 << 20

	defaultReserve = 1 << 40
	minReserve     = 1 << 24
)

// Arena is memory outside the Go heap, cut into blocks of size classes. The
// garbage collector never looks at it, so its content must not hold Go
// pointers. It is not safe for concurrent use.
//
// Blocks up to 32 KiB come from slabs: spans of 64 KiB to 1 MiB that hold blocks
// of one class. Larger blocks are spans of their own, whose pages go back to
// the system when they are freed. A slab without blocks goes back to the span
// allocator.
//
//	reservation: | unit 0 | unit 1 | ...        | never used yet ... |
//	             | unused | slab of class 6     |
//	                      | block | block | ... |
//	free block:  | number of the next free block + 1 (4 bytes) | ...  |
type Arena struct {
	mem   []byte // the reservation
	units []unit // one for each unit up to the high-water mark
	// partial heads, for each class, the list of slabs with room.
	partial [slabClasses]int32
	bins    [binCount]int32 // heads of the lists of free spans, by length
	used    int64           // bytes in blocks, by class size
	extra   int64           // bytes of the Go heap that belong to the content
	spans   int64           // units in slabs and large blocks
	dirty   int64           // bytes in free spans that may still have pages
}

// unit describes a span; only the first and the last unit of a span are kept up
// to date.
type unit struct {
	state uint8
	class uint8 // slabs only
	// evacuating slabs are in no list: Defrag empties them.
	evacuating bool
	n          int32 // length of the span in units; at its last unit, too
	next       int32 // neighbours in the list of partial slabs or of free spans, 0 = none
	prev       int32
	free       uint32 // slabs: number of the first freed block + 1
	fresh      uint32 // slabs: blocks from this number on were never used
	used       uint32 // slabs: blocks in use
	dirty      int64  // free spans: at most so many bytes may be resident
}

const (
	unitInside = iota // neither first nor last of a span
	unitFree
	unitSlab
	unitLarge
)

const (
	exactBins = 32 // spans of 1..32 units have a list each
	binCount  = exactBins + 2
)

// NewArena reserves address space for reserve bytes (0: as much as the system
// lets us have, up to 1 TiB) without using memory. When the system refuses, it
// asks for half, down to 16 MiB.
func NewArena(reserve int64) (*Arena, error) {
	if reserve <= 0 {
		reserve = defaultReserve
	}
	reserve = max(roundUp(reserve, unitSize), 2*unitSize)
	for {
		mem, err := mapReserve(int(reserve))
		if err == nil {
			// Unit 0 stays unused, so that no block has the offset 0.
			return &Arena{mem: mem, units: make([]unit, 1, 64)}, nil
		}
		if reserve <= minReserve {
			return nil, fmt.Errorf("reserve %d bytes of address space: %w", reserve, err)
		}
		reserve = roundUp(reserve/2, unitSize)
	}
}

// Close gives the reservation back. Nothing of the arena may be used any more.
func (a *Arena) Close() error {
	mem := a.mem
	*a = Arena{}
	if mem == nil {
		return nil
	}
	return unmap(mem)
}

// Reset frees all blocks at once and gives their pages back to the system.
func (a *Arena) Reset() {
	if high := len(a.units) * unitSize; high > unitSize {
		release(a.mem[unitSize:high])
	}
	*a = Arena{mem: a.mem, units: a.units[:1], extra: a.extra}
}

// Used returns the bytes in blocks, counted by the size of their classes.
func (a *Arena) Used() int64 { return a.used }

// Mapped returns the bytes of address space in slabs, large blocks and freed
// spans that may still hold pages: at least what is resident.
func (a *Arena) Mapped() int64 { return a.spans*unitSize + a.dirty }

// Account adds n bytes (which may be negative) to what Accounted returns: memory of the
// Go heap that belongs to content of this arena.
func (a *Arena) Account(n int) { a.extra += int64(n) }

// Accounted returns the sum of what was passed to Account.
func (a *Arena) Accounted() int64 { return a.extra }

// Mem returns the first n bytes of the block at off. The slice is valid until
// the block is freed; its capacity is n.
func (a *Arena) Mem(off Off, n int) []byte {
	return a.mem[off : off+Off(n) : off+Off(n)]
}

// zeroByPages is from how many bytes on zero lets the system do it, when they are
// touched.
const zeroByPages = 256 << 10

// zero makes n bytes at off zero.
func (a *Arena) zero(off Off, n int) {
	b := a.Mem(off, n)
	if n >= zeroByPages {
		from := int(roundUp(int64(off), pageSize) - int64(off))
		to := (int(off)+n)/pageSize*pageSize - int(off)
		if zeroPages(b[from:to]) {
			clear(b[to:])
			b = b[:from]
		}
	}
	clear(b)
}

// load64 returns the 8 bytes at off.
func (a *Arena) load64(off Off) uint64 { return binary.LittleEndian.Uint64(a.mem[off:]) }

// store64 sets the 8 bytes at off.
func (a *Arena) store64(off Off, v uint64) { binary.LittleEndian.PutUint64(a.mem[off:], v) }

// words returns n 64-bit words at off, which must be a block.
func (a *Arena) words(off Off, n int) []uint64 {
	m := a.mem[off : off+Off(n)*8]
	return unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(m))), n)
}

// ClassSize returns how many bytes Alloc(n) really sets aside: a block may be
// used up to that size, and Free accepts any size with the same ClassSize.
func (a *Arena) ClassSize(n int) int { return classSize(n) }

func classSize(n int) int {
	if n <= linearMax {
		return (n + classStep - 1) &^ (classStep - 1)
	}
	step := geometricStep(n)
	return (n + step - 1) &^ (step - 1)
}

// geometricStep returns the distance of the classes around n > linearMax: an
// eighth of the power of two below n.
func geometricStep(n int) int { return 1 << (bits.Len(uint(n-1)) - 4) }

// classOf returns the number of the slab class of n, 0 < n <= slabMax.
func classOf(n int) int {
	if n <= linearMax {
		return (n+classStep-1)/classStep - 1
	}
	step := geometricStep(n)
	log := bits.Len(uint(step)) - 1 // 7 for sizes of 1 KiB to 2 KiB
	return linearClasses + (log-7)*8 + (n+step-1)/step - 9
}

// slabUnits returns the length of a slab with blocks of size bytes, such that a
// slab wastes little at its end.
func slabUnits(size int) int {
	switch {
	case size <= 2<<10:
		return 1
	case size <= 8<<10:
		return 4
	}
	return 16
}

// Alloc returns a block of at least n > 0 bytes. Its content is undefined.
func (a *Arena) Alloc(n int) Off {
	if n <= 0 {
		invariant.Violated("arena: block of %d bytes", n)
	}
	size := classSize(n)
	a.used += int64(size)
	if n > slabMax {
		u := a.takeSpan((size + unitSize - 1) / unitSize)
		a.units[u].state = unitLarge
		return Off(u) * unitSize
	}
	class := classOf(n)
	s := a.partial[class]
	if s == 0 {
		s = a.newSlab(class, size)
	}
	u := &a.units[s]
	var block uint32
	if u.free != 0 {
		block = u.free - 1
		at := Off(s)*unitSize + Off(block)*Off(size)
		u.free = binary.LittleEndian.Uint32(a.mem[at:])
		if poison {
			a.checkPoison(at, size)
		}
	} else {
		block = u.fresh
		u.fresh++
	}
	u.used++
	if u.free == 0 && int(u.fresh) == int(u.n)*unitSize/size {
		a.unlinkPartial(s)
	}
	return Off(s)*unitSize + Off(block)*Off(size)
}

// Free gives the block at off back; n is what was passed to Alloc, or any size
// of the same class.
func (a *Arena) Free(off Off, n int) {
	size := classSize(n)
	a.used -= int64(size)
	if n > slabMax {
		s := int32(off / unitSize)
		if a.units[s].state != unitLarge || off%unitSize != 0 {
			invariant.Violated("arena: free of %d bytes at %#x: not a large block", n, off)
		}
		a.freeLarge(s, size)
		return
	}
	s := a.slabOf(off, slabUnits(size))
	u := &a.units[s]
	if u.state != unitSlab || int(u.class) != classOf(n) {
		invariant.Violated("arena: free of %d bytes at %#x: state %d, class %d", n, off, u.state, u.class)
	}
	full := u.free == 0 && int(u.fresh) == int(u.n)*unitSize/size
	block := uint32((off - Off(s)*unitSize) / Off(size))
	if poison {
		a.fillPoison(off, size)
	}
	binary.LittleEndian.PutUint32(a.mem[off:], u.free)
	u.free = block + 1
	u.used--
	if full {
		a.linkPartial(s)
	}
	// The last small slab with room stays, so that a class at the edge does not
	// come and go with each block.
	if u.used == 0 && (u.next != 0 || u.prev != 0 || u.evacuating || u.n > 1) {
		if !u.evacuating {
			a.unlinkPartial(s)
		}
		a.freeSpan(s, int64(u.n)*unitSize)
	}
}

// slabOf returns the first unit of the slab that the block at off lies in. A
// slab may start at any unit, so its inner units point back to it.
func (a *Arena) slabOf(off Off, n int) int32 {
	s := int32(off / unitSize)
	if n == 1 {
		return s
	}
	if a.units[s].state == unitInside {
		return a.units[s].prev
	}
	return s
}

func (a *Arena) newSlab(class, size int) int32 {
	n := slabUnits(size)
	s := a.takeSpan(n)
	for i := s + 1; i < s+int32(n); i++ {
		a.units[i] = unit{state: unitInside, prev: s, n: int32(n)}
	}
	a.units[s] = unit{state: unitSlab, class: uint8(class), n: int32(n)}
	a.linkPartial(s)
	return s
}

func (a *Arena) linkPartial(s int32) {
	u := &a.units[s]
	u.prev, u.next = 0, a.partial[u.class]
	if u.next != 0 {
		a.units[u.next].prev = s
	}
	a.partial[u.class] = s
}

func (a *Arena) unlinkPartial(s int32) {
	u := &a.units[s]
	if u.next != 0 {
		a.units[u.next].prev = u.prev
	}
	if u.prev != 0 {
		a.units[u.prev].next = u.next
	} else {
		a.partial[u.class] = u.next
	}
	u.next, u.prev = 0, 0
}

// freeLarge frees the span of a large block of size bytes.
func (a *Arena) freeLarge(s int32, size int) {
	if poison {
		a.fillPoison(Off(s)*unitSize, size)
	}
	a.freeSpan(s, int64(size))
}

func bin(n int32) int {
	if n <= exactBins {
		return int(n)
	}
	return exactBins + 1
}

// takeSpan returns the first unit of n units that nobody uses, from the free
// spans or from beyond the high-water mark.
func (a *Arena) takeSpan(n int) int32 {
	want := int32(n)
	a.spans += int64(n)
	for b := bin(want); b < binCount; b++ {
		for s := a.bins[b]; s != 0; s = a.units[s].next {
			if a.units[s].n < want {
				continue
			}
			a.cutSpan(s, want)
			return s
		}
	}
	s := len(a.units)
	if (s+n)*unitSize > len(a.mem) {
		invariant.Violated("arena: reservation of %d bytes is exhausted: %d in use, %d bytes more wanted",
			len(a.mem), a.used, n*unitSize)
	}
	for range n {
		a.units = append(a.units, unit{})
	}
	a.setSpan(int32(s), want, unitInside, 0)
	return int32(s)
}

// cutSpan takes the first n units of the free span s and frees the rest again.
func (a *Arena) cutSpan(s, n int32) {
	u := a.units[s]
	a.unlinkFree(s)
	rest := u.n - n
	dirty := min(u.dirty, int64(rest)*unitSize)
	a.dirty -= u.dirty - dirty
	if rest > 0 {
		a.setSpan(s+n, rest, unitFree, dirty)
		a.linkFree(s + n)
	}
	a.setSpan(s, n, unitInside, 0)
}

func (a *Arena) setSpan(s, n int32, state uint8, dirty int64) {
	last := s + n - 1
	a.units[last] = unit{state: state, n: n}
	a.units[s] = unit{state: state, n: n, dirty: dirty}
}

// freeSpan frees the span that begins at s and joins it with its free
// neighbours; dirty is how many of its bytes may be resident.
func (a *Arena) freeSpan(s int32, dirty int64) {
	n := a.units[s].n
	a.spans -= int64(n)
	a.units[s] = unit{n: n}
	a.dirty += dirty
	if a.dirty > dirtyMax && !poison {
		release(a.mem[int(s)*unitSize : int(s)*unitSize+int(dirty)])
		a.dirty -= dirty
		dirty = 0
	}
	if next := s + n; int(next) < len(a.units) && a.units[next].state == unitFree {
		a.unlinkFree(next)
		dirty += a.units[next].dirty
		n += a.units[next].n
	}
	if s > 1 && a.units[s-1].state == unitFree {
		prev := s - a.units[s-1].n
		a.unlinkFree(prev)
		dirty += a.units[prev].dirty
		n += a.units[prev].n
		s = prev
	}
	// Nothing lies behind: the high-water mark goes down.
	if int(s+n) == len(a.units) && dirty == 0 {
		a.units = a.units[:s]
		return
	}
	a.setSpan(s, n, unitFree, dirty)
	a.linkFree(s)
}

func (a *Arena) linkFree(s int32) {
	u := &a.units[s]
	b := bin(u.n)
	u.prev, u.next = 0, a.bins[b]
	if u.next != 0 {
		a.units[u.next].prev = s
	}
	a.bins[b] = s
}

func (a *Arena) unlinkFree(s int32) {
	u := &a.units[s]
	if u.next != 0 {
		a.units[u.next].prev = u.prev
	}
	if u.prev != 0 {
		a.units[u.prev].next = u.next
	} else {
		a.bins[bin(u.n)] = u.next
	}
	u.next, u.prev = 0, 0
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// poisonByte fills freed blocks in builds with the tag poison.
const poisonByte = 0xDB

func fill(b []byte) {
	for i := range b {
		b[i] = poisonByte
	}
}

func (a *Arena) fillPoison(off Off, size int) { fill(a.mem[off : off+Off(size)]) }

// checkPoison panics when a freed block was written to; its first 4 bytes are
// the link of the free list.
func (a *Arena) checkPoison(off Off, size int) {
	for i, b := range a.mem[off+4 : off+Off(size)] {
		if b != poisonByte {
			invariant.Violated("arena: block of %d bytes at %#x was written to after it was freed: byte %d is %#x",
				size, off, i+4, b)
		}
	}
}
