package command

import (
	"crypto/subtle"
	"encoding/binary"
	"math"
	"math/bits"

	"holdfast/internal/redis/keyspace"
	"holdfast/internal/redis/resp"
)

// Bit operations on strings: bit 0 is the highest bit of the first byte. Whole
// words are counted, combined and skipped; bytes only at the edges.

var bitmapCommands = []Spec{
	{Name: "bitcount", Arity: -2, Flags: ReadOnly, Cat: CatBitmap, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Run: cmdBitcount},
	{Name: "bitfield", Arity: -2, Flags: Write | DenyOOM, Cat: CatBitmap, Keys: []KeySpec{{Flags: KeyRW | KeyAccess | KeyUpdate | KeyVariable, Begin: 1, Last: 0, Step: 1, Notes: "This command allows both access and modification of the key"}}, Run: cmdBitfield, GetKeys: bitfieldKeys},
	{Name: "bitfield_ro", Arity: -2, Flags: ReadOnly | Fast, Cat: CatBitmap, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Run: cmdBitfieldRo},
	{Name: "bitop", Arity: -4, Flags: Write | DenyOOM, Cat: CatBitmap, Keys: []KeySpec{Key(KeyOW|KeyUpdate, 2, 2, 1), Key(KeyRO|KeyAccess, 3, -1, 1)}, Run: cmdBitop},
	{Name: "bitpos", Arity: -3, Flags: ReadOnly, Cat: CatBitmap, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Run: cmdBitpos},
	{Name: "getbit", Arity: 3, Flags: ReadOnly | Fast, Cat: CatBitmap, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Run: cmdGetbit},
	{Name: "setbit", Arity: 4, Flags: Write | DenyOOM, Cat: CatBitmap, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyUpdate, 1, 1, 1)}, Run: cmdSetbit},
}

func cmdBitcount(c *Ctx) {
	r, found, bad := c.ReadAs(c.Args[1], keyspace.TypeString)
	if bad {
		return
	}
	if !found {
		c.Int(0)
		return
	}
	s := r.Bytes()
	n := len(c.Args)
	if n == 2 {
		c.Int(popcount(s))
		return
	}
	if n != 4 && n != 5 {
		c.Err(ErrSyntax)
		return
	}
	start, ok := c.IntArg(2)
	if !ok {
		return
	}
	end, ok := c.IntArg(3)
	if !ok {
		return
	}
	if start < 0 && end < 0 && start > end {
		c.Int(0)
		return
	}
	isBit := false
	if n == 5 {
		if isBit, ok = c.bitUnit(4); !ok {
			return
		}
	}
	from, to, ok := bitRange(start, end, int64(len(s)), isBit)
	if !ok {
		c.Int(0)
		return
	}
	c.Int(popcountRange(s, from, to))
}

// bitUnit reads argument i: BIT or BYTE.
func (c *Ctx) bitUnit(i int) (isBit, ok bool) {
	switch {
	case c.Is(i, "bit"):
		return true, true
	case c.Is(i, "byte"):
		return false, true
	}
	c.Err(ErrSyntax)
	return false, false
}

// bitRange turns a range of bytes or bits of a string of n bytes, both ends
// included, into bits [from, to). ok is false for an empty one.
func bitRange(start, end, n int64, isBit bool) (from, to int64, ok bool) {
	total := n
	if isBit {
		total *= 8
	}
	start, end = clampRange(start, end, total)
	if start > end {
		return 0, 0, false
	}
	if isBit {
		return start, end + 1, true
	}
	return start * 8, (end + 1) * 8, true
}

// popcount counts the bits that are set.
func popcount(p []byte) int64 {
	n := 0
	for len(p) >= 32 {
		n += bits.OnesCount64(binary.LittleEndian.Uint64(p)) +
			bits.OnesCount64(binary.LittleEndian.Uint64(p[8:])) +
			bits.OnesCount64(binary.LittleEndian.Uint64(p[16:])) +
			bits.OnesCount64(binary.LittleEndian.Uint64(p[24:]))
		p = p[32:]
	}
	for len(p) >= 8 {
		n += bits.OnesCount64(binary.LittleEndian.Uint64(p))
		p = p[8:]
	}
	for _, b := range p {
		n += bits.OnesCount8(b)
	}
	return int64(n)
}

// popcountRange counts the bits that are set among [from, to), from < to.
func popcountRange(p []byte, from, to int64) int64 {
	first, last := from>>3, (to-1)>>3
	n := popcount(p[first : last+1])
	n -= int64(bits.OnesCount8(p[first] &^ (0xFF >> (from & 7))))
	n -= int64(bits.OnesCount8(p[last] & (0x7F >> ((to - 1) & 7))))
	return n
}

// --- BITFIELD ---

// overflowMode says what BITFIELD does with a value that does not fit.
type overflowMode uint8

const (
	overflowWrap overflowMode = iota
	overflowSat
	overflowFail
)

type bitfieldOpcode uint8

const (
	bitfieldGet bitfieldOpcode = iota
	bitfieldSet
	bitfieldIncr
)

// bitfieldOp is one operation of a BITFIELD.
type bitfieldOp struct {
	offset   uint64 // in bits
	value    int64
	width    uint // in bits, 1..64, unsigned 1..63
	code     bitfieldOpcode
	signed   bool
	overflow overflowMode
}

func cmdBitfield(c *Ctx) { c.bitfield(false) }

func cmdBitfieldRo(c *Ctx) { c.bitfield(true) }

// bitfieldOps reads the operations. highest is the last bit that is written,
// writes whether any is.
func (c *Ctx) bitfieldOps(ops []bitfieldOp) (_ []bitfieldOp, highest uint64, writes, ok bool) {
	mode := overflowWrap
	for i := 2; i < len(c.Args); {
		left := len(c.Args) - i - 1
		op := bitfieldOp{overflow: mode}
		switch {
		case left >= 2 && c.Is(i, "get"):
			op.code = bitfieldGet
		case left >= 3 && c.Is(i, "set"):
			op.code = bitfieldSet
		case left >= 3 && c.Is(i, "incrby"):
			op.code = bitfieldIncr
		case left >= 1 && c.Is(i, "overflow"):
			if mode, ok = c.overflowMode(i + 1); !ok {
				return nil, 0, false, false
			}
			i += 2
			continue
		default:
			c.Err(ErrSyntax)
			return nil, 0, false, false
		}
		if !c.bitfieldType(&op, i+1) {
			return nil, 0, false, false
		}
		if op.offset, ok = c.bitOffset(i+2, int64(op.width)); !ok {
			return nil, 0, false, false
		}
		i += 3
		if op.code != bitfieldGet {
			writes = true
			highest = max(highest, op.offset+uint64(op.width)-1)
			if op.value, ok = c.IntArg(i); !ok {
				return nil, 0, false, false
			}
			i++
		}
		ops = append(ops, op)
	}
	return ops, highest, writes, true
}

func (c *Ctx) overflowMode(i int) (overflowMode, bool) {
	switch {
	case c.Is(i, "wrap"):
		return overflowWrap, true
	case c.Is(i, "sat"):
		return overflowSat, true
	case c.Is(i, "fail"):
		return overflowFail, true
	}
	c.Err("ERR Invalid OVERFLOW type specified")
	return 0, false
}

// bitfieldType reads argument i: i8, u63 and so on.
func (c *Ctx) bitfieldType(op *bitfieldOp, i int) bool {
	t := c.Args[i]
	if len(t) > 1 && (t[0] == 'i' || t[0] == 'u') {
		op.signed = t[0] == 'i'
		limit := int64(63)
		if op.signed {
			limit = 64
		}
		if n, ok := resp.ParseInt(t[1:]); ok && n >= 1 && n <= limit {
			op.width = uint(n)
			return true
		}
	}
	c.Err("ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.")
	return false
}

// bitOffset reads argument i as an offset in bits. With a width, #n is n
// times the width.
func (c *Ctx) bitOffset(i int, width int64) (uint64, bool) {
	b, times := c.Args[i], int64(1)
	if width > 0 && len(b) > 0 && b[0] == '#' {
		b, times = b[1:], width
	}
	n, ok := resp.ParseInt(b)
	limit := int64(maxStringLen) - 8 // a field may reach beyond its offset
	if !c.obeys() {
		limit = min(limit, c.E.Cfg.ProtoMaxBulkLen)
	}
	if ok && n >= 0 && n <= math.MaxInt64/times && n*times>>3 < limit {
		return uint64(n * times), true
	}
	c.Err("ERR bit offset is not an integer or out of range")
	return 0, false
}

// bitsState says what happened to a string that was made long enough.
type bitsState uint8

const (
	bitsKept bitsState = iota
	bitsGrown
	bitsCreated
)

// mutableBits makes the key a string that holds the given bit, to be written to.
func (c *Ctx) mutableBits(key []byte, bit uint64) (p []byte, state bitsState, ok bool) {
	r, found, bad := c.WriteAs(key, keyspace.TypeString)
	if bad {
		return nil, bitsKept, false
	}
	state = bitsCreated
	old := 0
	if found {
		state = bitsKept
		old = len(r.Bytes())
	}
	p = c.DB.MutString(key, int(bit>>3)+1)
	if found && len(p) != old {
		state = bitsGrown
	}
	return p, state, true
}

func (c *Ctx) bitfield(readonly bool) {
	key := c.Args[1]
	var room [8]bitfieldOp
	ops, highest, writes, ok := c.bitfieldOps(room[:0])
	if !ok {
		return
	}
	if !writes {
		r, found, bad := c.ReadAs(key, keyspace.TypeString)
		if bad {
			return
		}
		var p []byte
		if found {
			p = r.Bytes()
		}
		c.Array(len(ops))
		for i := range ops {
			c.Int(ops[i].load(p))
		}
		return
	}
	if readonly {
		c.Err("ERR BITFIELD_RO only supports the GET subcommand")
		return
	}
	p, state, ok := c.mutableBits(key, highest)
	if !ok {
		return
	}
	c.Array(len(ops))
	changes := int64(0)
	for i := range ops {
		if wrote, differs := ops[i].apply(c, p); wrote && (differs || state != bitsKept) {
			changes++
		}
	}
	if state == bitsCreated {
		c.created(key)
	}
	if changes > 0 {
		c.Touched(key)
		c.Notify(NotifyString, "setbit", key)
		c.E.Dirty += changes
	} else if state != bitsKept {
		// Every operation failed, but the string has grown for them.
		c.Touched(key)
		c.ForcePropagate()
	}
}

// apply executes one operation on p and replies its result. wrote is false for
// GET, and for an overflow that fails.
func (op *bitfieldOp) apply(c *Ctx, p []byte) (wrote, differs bool) {
	old := op.load(p)
	if op.code == bitfieldGet {
		c.Int(old)
		return false, false
	}
	base, by, reply := old, op.value, old
	if op.code == bitfieldSet {
		base, by = op.value, 0
	}
	var now int64
	var overflow bool
	if op.signed {
		now, overflow = op.addSigned(base, by)
	} else {
		now, overflow = op.addUnsigned(uint64(base), by)
	}
	if overflow && op.overflow == overflowFail {
		c.Null()
		return false, false
	}
	if op.code == bitfieldIncr {
		reply = now
	}
	c.Int(reply)
	storeBits(p, op.offset, op.width, uint64(now))
	return true, now != old
}

// addSigned adds to a value of the field's width. A value that does not fit is
// wrapped around or cut, as the operation says.
func (op *bitfieldOp) addSigned(v, by int64) (sum int64, overflow bool) {
	top := int64(math.MaxInt64) >> (64 - op.width)
	low := -top - 1
	limit := top
	// As in Redis the room on both sides may wrap around for a value far
	// outside of a narrow field, whose overflow then counts as the other one.
	room, below := top-v, low-v
	narrow := op.width < 64
	switch {
	case v > top || (narrow || v >= 0 && by > 0) && by > room:
	case v < low || (narrow || v < 0 && by < 0) && by < below:
		limit = low
	default:
		return v + by, false
	}
	if op.overflow == overflowSat {
		return limit, true
	}
	shift := 64 - op.width
	return (v + by) << shift >> shift, true
}

// addUnsigned is addSigned for an unsigned field of at most 63 bits.
func (op *bitfieldOp) addUnsigned(v uint64, by int64) (sum int64, overflow bool) {
	top := uint64(1)<<op.width - 1
	limit := top
	switch {
	case v > top || by > 0 && uint64(by) > top-v:
	case by < 0 && uint64(-by) > v:
		limit = 0
	default:
		return int64(v + uint64(by)), false
	}
	if op.overflow == overflowSat {
		return int64(limit), true
	}
	return int64((v + uint64(by)) & top), true
}

// load reads the field of p, which is followed by zeros without end.
func (op *bitfieldOp) load(p []byte) int64 {
	v := loadBits(p, op.offset, op.width)
	if op.signed {
		return int64(v<<(64-op.width)) >> (64 - op.width)
	}
	return int64(v)
}

// window reads the nine bytes that a field at the offset can touch.
func window(p []byte, offset uint64) (b [9]byte) {
	if at := offset >> 3; at < uint64(len(p)) {
		copy(b[:], p[at:])
	}
	return b
}

func loadBits(p []byte, offset uint64, width uint) uint64 {
	b := window(p, offset)
	shift := offset & 7
	v := binary.BigEndian.Uint64(b[:])<<shift | uint64(b[8])>>(8-shift)
	return v >> (64 - width)
}

// storeBits writes the lowest bits of v into the field, which lies in p.
func storeBits(p []byte, offset uint64, width uint, v uint64) {
	b := window(p, offset)
	shift := offset & 7
	mask := ^uint64(0) << (64 - width)
	v <<= 64 - width
	high := binary.BigEndian.Uint64(b[:])
	binary.BigEndian.PutUint64(b[:], high&^(mask>>shift)|v>>shift)
	b[8] = b[8]&^byte(mask<<(8-shift)) | byte(v<<(8-shift))
	copy(p[offset>>3:], b[:])
}

// --- BITOP ---

func cmdBitop(c *Ctx) {
	var op func(dst, src []byte)
	switch {
	case c.Is(1, "and"):
		op = andBytes
	case c.Is(1, "or"):
		op = orBytes
	case c.Is(1, "xor"):
		op = func(dst, src []byte) { subtle.XORBytes(dst, dst, src) }
	case c.Is(1, "not"):
		if len(c.Args) != 4 {
			c.Err("ERR BITOP NOT must be called with a single source key.")
			return
		}
	default:
		c.Err(ErrSyntax)
		return
	}
	srcs, longest, ok := c.bitopSources(c.Args[3:])
	if !ok {
		return
	}
	res := make([]byte, longest)
	copy(res, srcs[0])
	if op == nil {
		notBytes(res)
	} else {
		isAnd := c.Is(1, "and")
		for _, s := range srcs[1:] {
			op(res[:len(s)], s)
			if isAnd {
				clear(res[len(s):]) // zeros follow a shorter string
			}
		}
	}
	dst := c.Args[2]
	if longest > 0 {
		c.setString(dst, res, keyspace.NoExpiry)
		c.DB.MutString(dst, 0) // a result reports as raw
		c.Changed(NotifyString, "set", dst)
	} else if c.Delete(dst) {
		c.Changed(NotifyGeneric, "del", dst)
	}
	c.Int(int64(longest))
}

// bitopSources looks the keys up; one that does not exist is an empty string.
// The slices are valid until the keyspace is changed.
func (c *Ctx) bitopSources(keys [][]byte) (srcs [][]byte, longest int, ok bool) {
	srcs = make([][]byte, len(keys))
	for i, key := range keys {
		// A lookup that deletes an expired key leaves the values of others
		// where they are.
		r, found, bad := c.ReadAs(key, keyspace.TypeString)
		if bad {
			return nil, 0, false
		}
		if found {
			srcs[i] = r.Bytes()
			longest = max(longest, len(srcs[i]))
		}
	}
	return srcs, longest, true
}

func andBytes(dst, src []byte) {
	for len(src) >= 8 {
		binary.LittleEndian.PutUint64(dst, binary.LittleEndian.Uint64(dst)&binary.LittleEndian.Uint64(src))
		dst, src = dst[8:], src[8:]
	}
	for i := range src {
		dst[i] &= src[i]
	}
}

func orBytes(dst, src []byte) {
	for len(src) >= 8 {
		binary.LittleEndian.PutUint64(dst, binary.LittleEndian.Uint64(dst)|binary.LittleEndian.Uint64(src))
		dst, src = dst[8:], src[8:]
	}
	for i := range src {
		dst[i] |= src[i]
	}
}

func notBytes(p []byte) {
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, ^binary.LittleEndian.Uint64(p))
		p = p[8:]
	}
	for i := range p {
		p[i] = ^p[i]
	}
}

// --- BITPOS, GETBIT, SETBIT ---

func cmdBitpos(c *Ctx) {
	bit, ok := c.IntArg(2)
	if !ok {
		return
	}
	if bit != 0 && bit != 1 {
		c.Err("ERR The bit argument must be 1 or 0.")
		return
	}
	r, found, bad := c.ReadAs(c.Args[1], keyspace.TypeString)
	if bad {
		return
	}
	if !found {
		c.Int(-bit) // zeros without end: the first is at 0, a one nowhere
		return
	}
	s := r.Bytes()
	start, end, isBit, ok := c.bitposRange(int64(len(s)))
	if !ok {
		return
	}
	from, to, ok := bitRange(start, end, int64(len(s)), isBit)
	if !ok {
		c.Int(-1)
		return
	}
	pos := findBit(s, from, to, bit == 1)
	if pos < 0 && bit == 0 && len(c.Args) < 5 {
		pos = to // without an end the string goes on with zeros
	}
	c.Int(pos)
}

// bitposRange reads the range of BITPOS on a string of n bytes.
func (c *Ctx) bitposRange(n int64) (start, end int64, isBit, ok bool) {
	end = n - 1
	args := len(c.Args)
	if args == 3 {
		return start, end, false, true
	}
	if args > 6 {
		c.Err(ErrSyntax)
		return 0, 0, false, false
	}
	if start, ok = c.IntArg(3); !ok {
		return 0, 0, false, false
	}
	if args == 6 {
		if isBit, ok = c.bitUnit(5); !ok {
			return 0, 0, false, false
		}
	}
	if args >= 5 {
		if end, ok = c.IntArg(4); !ok {
			return 0, 0, false, false
		}
	}
	return start, end, isBit, true
}

// findBit returns the first bit among [from, to) that is set, or clear; -1 if
// there is none.
func findBit(p []byte, from, to int64, set bool) int64 {
	// Turned around for clear bits, so that a one is looked for.
	var flip uint64
	if !set {
		flip = math.MaxUint64
	}
	at := from >> 3
	first := (p[at] ^ byte(flip)) & (0xFF >> (from & 7))
	if first != 0 {
		return within(at*8+int64(bits.LeadingZeros8(first)), to)
	}
	last := (to + 7) >> 3
	for at++; at+8 <= last; at += 8 {
		if w := binary.BigEndian.Uint64(p[at:]) ^ flip; w != 0 {
			return within(at*8+int64(bits.LeadingZeros64(w)), to)
		}
	}
	for ; at < last; at++ {
		if b := p[at] ^ byte(flip); b != 0 {
			return within(at*8+int64(bits.LeadingZeros8(b)), to)
		}
	}
	return -1
}

func within(pos, to int64) int64 {
	if pos >= to {
		return -1
	}
	return pos
}

func cmdGetbit(c *Ctx) {
	bit, ok := c.bitOffset(2, 0)
	if !ok {
		return
	}
	r, found, bad := c.ReadAs(c.Args[1], keyspace.TypeString)
	if bad {
		return
	}
	n := int64(0)
	if found {
		if s := r.Bytes(); bit>>3 < uint64(len(s)) {
			n = int64(s[bit>>3] >> (7 - bit&7) & 1)
		}
	}
	c.Int(n)
}

func cmdSetbit(c *Ctx) {
	key := c.Args[1]
	bit, ok := c.bitOffset(2, 0)
	if !ok {
		return
	}
	on, ok := resp.ParseInt(c.Args[3])
	if !ok || on&^1 != 0 {
		c.Err("ERR bit is not an integer or out of range")
		return
	}
	p, state, ok := c.mutableBits(key, bit)
	if !ok {
		return
	}
	at, shift := bit>>3, 7-bit&7
	old := p[at] >> shift & 1
	p[at] = p[at]&^(1<<shift) | byte(on)<<shift
	if state == bitsCreated {
		c.created(key)
	}
	if state != bitsKept || old != byte(on) {
		c.Changed(NotifyString, "setbit", key)
	}
	c.Int(int64(old))
}

// bitfieldKeys finds the key of BITFIELD, which is written unless all there is
// are GETs.
func bitfieldKeys(args [][]byte) []KeyRef {
	for i := 2; i < len(args); i++ {
		rest := len(args) - i - 1
		switch {
		case EqualFold(args[i], "get") && rest >= 2:
			i += 2
		case EqualFold(args[i], "overflow") && rest >= 1:
			i++
		default:
			return keyReadWritten
		}
	}
	return keyRead
}
