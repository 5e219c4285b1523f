package keyspace

import (
	"hash/maphash"
	"math/rand/v2"
	"unsafe"

	"holdfast/internal/redis/cluster/slot"
)

// table is the index of all keys of a database. In cluster mode it also knows
// the keys of each hash slot, without a byte in the entries: the hash of a key
// then begins with its slot,
//
//	| slot: 14 bits |           random: 50 bits          |
//
// so that the keys of a slot stand side by side in the order of hashes, in few
// segments of one extendible hash table, however few keys there are.
//
// A slot with many keys would make the directory of that table deep for the sake
// of one place (hash tags put millions of keys into one slot). So a slot that
// has half of a full segment to itself is set apart: its keys get an Index of
// their own, where the random bits come first. The order of hashes is the same
// in both places, and cursors count in it, so a key is neither skipped nor
// repeated by a scan when its slot is set apart or joined again.
//
// Downsides: each look-up hashes twice (CRC16 besides the own hash), and a slot
// apart costs some 200 bytes beyond its keys.
//
// The first fields and those of top are what each look-up reads: they share two
// lines of cache, since behind system calls each further line is one that misses.
type table struct {
	parts *partition // nil unless by slot

	// What NoteSlot has said: the slot of the bytes from noted on.
	noted     *byte
	notedLen  int
	notedSlot int32
	napart    int32 // slots with an index of their own

	top Index
}

// partition is what a table knows by slot.
//
// Invariant: a slot's keys are all in apart[slot], or, where that is nil, all in
// the top Index; away holds the slots where it is not, and table.napart is their
// number. count[s] is the number of keys, groups[g] the sum of count of 128 slots,
// n the sum of all.
type partition struct {
	apart  [slot.Count]*Index
	away   slot.Set // the slots with an apart: in the nearest cache, as apart is not
	count  [slot.Count]uint32
	groups [slot.Count / groupSlots]uint64
	n      int
}

const (
	slotBits   = 14
	slotAbove  = 64 - slotBits
	groupSlots = 128

	partitionBytes = int(unsafe.Sizeof(partition{}))
	indexBytes     = int(unsafe.Sizeof(Index{}))

	// joinBelow is the number of keys below which a slot apart joins the others
	// again: so few that it does not soon go apart once more.
	joinBelow = 48
	// joinMax is how many keys a segment may have that takes in the rest of one
	// from which a slot went apart.
	joinMax = 384
)

// hashing says what hashes of keys an Index was filled with.
type hashing uint8

const (
	hashPlain hashing = iota // Hash
	hashSlot                 // bySlot of it
	hashApart                // apart of that
)

// bySlot puts the slot s of a key in front of the leading bits of its hash.
func bySlot(h, s uint64) uint64 { return s<<slotAbove | h>>slotBits }

// slotOf returns the slot of key, which may have been noted.
func (t *table) slotOf(key []byte) uint64 {
	if unsafe.SliceData(key) == t.noted && len(key) == t.notedLen {
		return uint64(t.notedSlot)
	}
	return uint64(slot.Of(key))
}

// apart turns what bySlot made into the hash for an Index in which the slot
// does not lead. The home bits are the same.
func apart(h uint64) uint64 { return h<<slotBits | h&(1<<slotBits-1) }

// rehash returns the hash of the block at off, by its key.
func (x *Index) rehash(off Off) uint64 {
	key := x.keyAt(off)
	h := x.Hash(key)
	if x.hashing != hashPlain {
		h = bySlot(h, uint64(slot.Of(key)))
		if x.hashing == hashApart {
			h = apart(h)
		}
	}
	return h
}

// init makes t an empty table, by slot or not.
func (t *table) init(a *Arena, seed maphash.Seed, slots bool) {
	*t = table{notedLen: -1}
	t.top.init(a, seed, blockEntry)
	if slots {
		t.top.hashing = hashSlot
		t.parts = new(partition)
		a.Account(partitionBytes)
	}
}

// hash returns the hash that the other methods want with key.
func (t *table) hash(key []byte) uint64 {
	h := t.top.Hash(key)
	if t.parts != nil {
		h = bySlot(h, t.slotOf(key))
	}
	return h
}

// volatileHash turns h into the hash for the index of keys that expire, which
// is not by slot.
func (t *table) volatileHash(h uint64) uint64 {
	if t.parts != nil {
		h = apart(h)
	}
	return h
}

// len returns the number of keys.
func (t *table) len() int {
	if t.parts != nil {
		return t.parts.n
	}
	return t.top.n
}

// at returns the index for h and the hash to use there.
func (t *table) at(h uint64) (*Index, uint64) {
	if t.napart != 0 {
		if s := h >> slotAbove; t.parts.away.Has(int(s)) {
			return t.parts.apart[s], apart(h)
		}
	}
	return &t.top, h
}

func (t *table) find(h uint64, key []byte) (Off, bool) {
	x, h := t.at(h)
	return x.Find(h, key)
}

func (t *table) replace(h uint64, old, now Off) {
	x, h := t.at(h)
	x.Replace(h, old, now)
}

func (t *table) insert(h uint64, off Off) {
	p := t.parts
	if p == nil {
		t.top.Insert(h, off)
		return
	}
	s := h >> slotAbove
	x := p.apart[s]
	if x == nil && t.top.crowded(h, p.count[s]) {
		x = t.setApart(h)
	}
	if x != nil {
		x.Insert(apart(h), off)
	} else {
		t.top.Insert(h, off)
	}
	p.note(s, 1)
}

func (t *table) remove(h uint64, off Off) {
	p := t.parts
	if p == nil {
		t.top.Delete(h, off)
		return
	}
	s := h >> slotAbove
	p.note(s, -1)
	x := p.apart[s]
	if x == nil {
		t.top.Delete(h, off)
		return
	}
	x.Delete(apart(h), off)
	if x.n < joinBelow {
		t.join(s)
	}
}

// note counts keys of slot s that came or went.
func (p *partition) note(s uint64, n int) {
	p.count[s] += uint32(n)
	p.groups[s/groupSlots] += uint64(n)
	p.n += n
}

// crowded reports whether the segment for h is full, and at least half of it
// belongs to a slot with count keys.
func (x *Index) crowded(h uint64, count uint32) bool {
	if count < uint32(segLimit(maxLog))/2 {
		return false
	}
	s := &x.segs[x.at(h)]
	return s.log == maxLog && s.count >= segLimit(maxLog) && count*2 >= uint32(s.count)
}

// setApart gives the slot of h, whose keys all stand in the segment for h, an
// index of its own.
func (t *table) setApart(h uint64) *Index {
	sub := new(Index)
	sub.init(t.top.a, t.top.seed, blockEntry)
	sub.hashing = hashApart
	t.top.a.Account(indexBytes)

	x, want := &t.top, int(h>>slotAbove)
	s := &x.segs[x.at(h)]
	var old [1 << maxLog]uint64
	slots := x.slots(s)
	copy(old[:], slots)
	clear(slots)
	left := uint16(0)
	for _, v := range old {
		switch {
		case v == 0:
		case maySlot(v, want) && x.slotAt(v) == want:
			sub.Insert(sub.rehash(slotOff(v)), slotOff(v))
		default:
			place(slots, maxLog, v)
			left++
		}
	}
	x.n -= int(s.count - left)
	s.count = left
	t.parts.apart[want] = sub
	t.parts.away.Add(want)
	t.napart++
	if x.n == 0 {
		x.Free()
		return sub
	}
	for x.shrink(h, joinMax) {
	}
	return sub
}

// join ends that slot s has an index of its own.
func (t *table) join(s uint64) {
	sub := t.parts.apart[s]
	t.parts.apart[s] = nil
	t.parts.away.Del(int(s))
	t.napart--
	sub.Each(func(off Off) bool {
		t.top.Insert(t.top.rehash(off), off)
		return true
	})
	sub.Free()
	t.top.a.Account(-indexBytes)
}

// maySlot reports whether the mark of v, a slot of an Index by slot, leaves it
// possible that the key is one of the hash slot want: it has its last bits.
func maySlot(v uint64, want int) bool {
	const known = slotBits - leadFirst
	return int(v>>(slotShift+leadBits-known)&(1<<known-1)) == want&(1<<known-1)
}

// slotAt returns the hash slot of the key at v.
func (x *Index) slotAt(v uint64) int { return slot.Of(x.keyAt(slotOff(v))) }

// each calls fn for every key until it returns false. fn must not change the
// table.
func (t *table) each(fn func(off Off) bool) {
	more := true
	wrapped := func(off Off) bool {
		more = fn(off)
		return more
	}
	t.top.Each(wrapped)
	if t.parts == nil {
		return
	}
	for _, x := range t.parts.apart {
		if !more {
			return
		}
		if x != nil {
			x.Each(wrapped)
		}
	}
}

// eachOf calls fn for the keys of slot s until it returns false. The table must
// be by slot. fn must not change it.
func (t *table) eachOf(s int, fn func(off Off) bool) {
	p := t.parts
	if p.count[s] == 0 {
		return
	}
	if x := p.apart[s]; x != nil {
		x.Each(fn)
		return
	}
	x := &t.top
	for _, v := range x.slots(&x.segs[x.at(uint64(s)<<slotAbove)]) {
		if v != 0 && maySlot(v, s) && x.slotAt(v) == s && !fn(slotOff(v)) {
			return
		}
	}
}

// randomIndex returns the top index or that of a slot apart, each with the
// probability of its share of the keys. The table must be by slot and not empty.
func (t *table) randomIndex(rng *rand.Rand) *Index {
	p := t.parts
	r := rng.Uint64N(uint64(p.n))
	g := 0
	for r >= p.groups[g] {
		r -= p.groups[g]
		g++
	}
	s := g * groupSlots
	for r >= uint64(p.count[s]) {
		r -= uint64(p.count[s])
		s++
	}
	if x := p.apart[s]; x != nil {
		return x
	}
	return &t.top
}

// random returns a key, each with the same probability; false if there is none.
func (t *table) random(rng *rand.Rand) (Off, bool) {
	if t.parts == nil {
		return t.top.Random(rng)
	}
	if t.parts.n == 0 {
		return 0, false
	}
	return t.randomIndex(rng).Random(rng)
}

// sample calls fn for up to n keys that stand together at a random place.
func (t *table) sample(rng *rand.Rand, n int, fn func(off Off)) {
	if t.parts == nil {
		t.top.sample(rng, n, fn)
	} else if t.parts.n > 0 {
		t.randomIndex(rng).sample(rng, n, fn)
	}
}

// drain is Index.drain for the whole table.
func (t *table) drain(budget int, fn func(off Off)) (spent int, done bool) {
	spent, done = t.top.drain(budget, fn)
	p := t.parts
	if p == nil || !done {
		return spent, done
	}
	for s, x := range p.apart {
		if x == nil {
			continue
		}
		n, done := x.drain(budget-spent, fn)
		spent += n
		if !done {
			return spent, false
		}
		p.apart[s] = nil
		p.away.Del(s)
		t.napart--
		x.a.Account(-indexBytes)
	}
	t.top.a.Account(-partitionBytes)
	t.parts = nil
	return spent, true
}

// --- scanning ---

// scan is Index.Scan over the whole table. By slot, the prefix of a cursor is one
// of hashes by slot: what is below the first 14 bits are places in the index of a
// slot apart.
func (t *table) scan(cur uint64, count int, fn func(off Off)) uint64 {
	if t.parts == nil {
		return t.top.Scan(cur, count, fn)
	}
	if t.parts.n == 0 {
		return 0
	}
	count = max(count, 1)
	c := parseCursor(cur, slotPrefix)
	if cur == 0 {
		t.fit(&c)
	}
	buckets := 10 * count
	for count > 0 && buckets > 0 {
		emitted, end := t.scanBucket(&c, fn)
		if end {
			return 0
		}
		count -= emitted
		buckets--
	}
	return c.pack(slotPrefix)
}

// covering calls fn for the segments that hold what has the prefix of c, with
// their index and with c as a cursor of that index.
func (t *table) covering(c *cursor, fn func(x *Index, s *segment, c *cursor)) {
	p := t.parts
	first, n := int(c.prefix), 1 // slots
	if c.depth >= slotBits {
		first = int(c.prefix >> (c.depth - slotBits))
		if x := p.apart[first]; x != nil {
			d := c.depth - slotBits
			in := cursor{prefix: c.prefix & (1<<d - 1), depth: d, home: c.home}
			x.eachSegment(&in, fn)
			return
		}
	} else {
		n = 1 << (slotBits - c.depth)
		first *= n
	}
	if len(t.top.dir) != 0 {
		t.top.eachSegment(c, fn)
	}
	if n > 1 && p.n != t.top.n {
		for _, x := range p.apart[first : first+n] {
			if x != nil {
				x.eachSegment(&cursor{home: c.home}, fn)
			}
		}
	}
}

// eachSegment calls fn for the segments of x that the prefix of c covers.
func (x *Index) eachSegment(c *cursor, fn func(x *Index, s *segment, c *cursor)) {
	first, n := x.dirRange(c.prefix, c.depth)
	for i := 0; i < n; {
		s := &x.segs[x.dir[first+i]]
		fn(x, s, c)
		i += 1 << (x.depth - s.depth)
	}
}

// scanBucket is Index.scanBucket over all that the prefix of c covers.
func (t *table) scanBucket(c *cursor, fn func(off Off)) (emitted int, end bool) {
	width := 1 << homeBits
	t.covering(c, func(_ *Index, s *segment, _ *cursor) {
		width = min(width, 1<<(homeBits-s.log))
	})
	to := (c.home | (width - 1)) + 1
	t.covering(c, func(x *Index, s *segment, in *cursor) {
		emitted += x.scanSegment(s, in, to, fn)
	})
	c.home = to
	if to < 1<<homeBits {
		return emitted, false
	}
	c.home = 0
	c.prefix++
	if c.prefix>>c.depth != 0 {
		return emitted, true
	}
	t.fit(c)
	return emitted, false
}

// fit makes the prefix of c, which stands at the beginning of what it covers, as
// coarse as the segment there, but not so coarse that it reaches back, or that a
// slot apart is one of several slots.
func (t *table) fit(c *cursor) {
	// As the prefix of one slot at least.
	if c.depth < slotBits {
		c.prefix <<= slotBits - c.depth
		c.depth = slotBits
	}
	p := t.parts
	s := int(c.prefix >> (c.depth - slotBits))
	if x := p.apart[s]; x != nil {
		inside := c.depth - slotBits
		first, _ := x.dirRange(c.prefix&(1<<inside-1), inside)
		c.resize(slotBits+min(x.segs[x.dir[first]].depth, slotPrefix-slotBits), slotBits)
		return
	}
	d := uint8(0)
	if x := &t.top; len(x.dir) != 0 {
		first, _ := x.dirRange(c.prefix, c.depth)
		d = x.segs[x.dir[first]].depth
	}
	c.resize(slotBits, slotBits)
	// Coarser while what is added has no slot apart.
	for n := 1; c.depth > d && c.prefix&1 == 0 && p.noneApart(s+n, n); n *= 2 {
		c.prefix >>= 1
		c.depth--
	}
}

// noneApart reports whether none of n slots from first on is apart.
func (p *partition) noneApart(first, n int) bool {
	for _, x := range p.apart[first : first+n] {
		if x != nil {
			return false
		}
	}
	return true
}

// resize makes the prefix of c one of depth d, or the nearest above least that
// does not reach back.
func (c *cursor) resize(d, least uint8) {
	for c.depth > max(d, least) && c.prefix&1 == 0 {
		c.prefix >>= 1
		c.depth--
	}
	for c.depth < d {
		c.prefix <<= 1
		c.depth++
	}
}

// --- what the command layer asks ---

// NoteSlot says that key is of hash slot s, so that looking it up need not compute
// that again: the very slice, not its content. It holds until the next call; the
// bytes must not change until then. A nil key is none.
func (ks *Keyspace) NoteSlot(key []byte, s int) { ks.dbs[0].NoteSlot(key, s) }

// NoteSlot is Keyspace.NoteSlot for a caller who has the database at hand: of
// those that are not by slot it says nothing.
func (db *DB) NoteSlot(key []byte, s int) {
	t := &db.keys
	if len(key) == 0 {
		t.noted, t.notedLen = nil, -1
		return
	}
	t.noted, t.notedLen, t.notedSlot = unsafe.SliceData(key), len(key), int32(s)
}

// CountKeysInSlot returns the number of keys of hash slot s, 0 <= s < slot.Count,
// expired ones that were not removed included. The keyspace must be by slot.
func (ks *Keyspace) CountKeysInSlot(s int) int {
	if p := ks.dbs[0].keys.parts; p != nil {
		return int(p.count[s])
	}
	return 0
}

// KeysInSlot returns copies of up to max keys of hash slot s, in no order. The
// keyspace must be by slot.
func (ks *Keyspace) KeysInSlot(s, max int) [][]byte {
	n := min(ks.CountKeysInSlot(s), max)
	if n <= 0 {
		return nil
	}
	keys := make([][]byte, 0, n)
	ks.dbs[0].keys.eachOf(s, func(off Off) bool {
		keys = append(keys, append([]byte(nil), ks.arena.entryKey(off)...))
		return len(keys) < n
	})
	return keys
}

// BySlot reports whether the keyspace knows the keys of each hash slot.
func (ks *Keyspace) BySlot() bool { return ks.bySlot }
