package keyspace

// A cursor is a position in the order of hashes:
//
//	| leading hash bits: 32, or 38 by slot | depth: 6 | home: 9 |
//
// It says that everything below the prefix (the first depth of the leading bits)
// was visited, and within the prefix everything whose home bits are below home.
// Splits and merges move no entry in that order, so a scan visits exactly once
// whatever was there from its start to its end. 0 is both start and end.
type cursor struct {
	prefix uint64 // depth bits
	depth  uint8
	home   int
}

// Bits of the prefix in a cursor: so many that it still is an exact number in
// clients that know no integers.
const (
	plainPrefix = maxDepth
	slotPrefix  = slotBits + 24
)

func parseCursor(c uint64, bits uint8) cursor {
	d := min(uint8(c>>homeBits&63), bits)
	return cursor{
		prefix: c >> (homeBits + 6) & (1<<bits - 1) >> (bits - d),
		depth:  d,
		home:   int(c & (1<<homeBits - 1)),
	}
}

func (c cursor) pack(bits uint8) uint64 {
	return c.prefix<<(bits-c.depth)<<(homeBits+6) | uint64(c.depth)<<homeBits | uint64(c.home)
}

// Scan visits the buckets from cursor on, calls fn for their blocks, and stops
// when it called fn count times or more, or saw ten times as many buckets. It
// returns where to go on, 0 at the end. Any number is accepted as a cursor. fn
// must not change the index.
func (x *Index) Scan(cur uint64, count int, fn func(off Off)) uint64 {
	if len(x.dir) == 0 {
		return 0
	}
	count = max(count, 1)
	c := parseCursor(cur, plainPrefix)
	if cur == 0 {
		c.depth = x.segs[x.dir[0]].depth
	}
	buckets := 10 * count
	for count > 0 && buckets > 0 {
		emitted, end := x.scanBucket(&c, fn)
		if end {
			return 0
		}
		count -= emitted
		buckets--
	}
	return c.pack(plainPrefix)
}

// scanBucket visits one home bucket of the prefix of c, in all segments that
// the prefix covers, and moves c behind it.
func (x *Index) scanBucket(c *cursor, fn func(off Off)) (emitted int, end bool) {
	first, n := x.dirRange(c.prefix, c.depth)
	width := 1 << homeBits
	for i := 0; i < n; {
		s := &x.segs[x.dir[first+i]]
		width = min(width, 1<<(homeBits-s.log))
		i += 1 << (x.depth - s.depth)
	}
	to := (c.home | (width - 1)) + 1
	for i := 0; i < n; {
		s := &x.segs[x.dir[first+i]]
		emitted += x.scanSegment(s, c, to, fn)
		i += 1 << (x.depth - s.depth)
	}
	c.home = to
	if to < 1<<homeBits {
		return emitted, false
	}
	return emitted, x.nextPrefix(c)
}

// dirRange returns the places of the directory that the prefix covers: at least one.
func (x *Index) dirRange(prefix uint64, depth uint8) (first, n int) {
	if depth >= x.depth {
		return int(prefix >> (depth - x.depth)), 1
	}
	return int(prefix << (x.depth - depth)), 1 << (x.depth - depth)
}

// scanSegment visits the blocks of s with homes in [c.home, to) and the prefix of c.
func (x *Index) scanSegment(s *segment, c *cursor, to int, fn func(off Off)) (emitted int) {
	slots := x.slots(s)
	mask := len(slots) - 1
	shift := 64 - s.log
	b := c.home >> (homeBits - s.log)
	last := (to - 1) >> (homeBits - s.log)
	for pos := b; pos <= b+mask; pos++ {
		i := pos & mask
		v := slots[i]
		if v == 0 {
			if pos >= last {
				break
			}
			continue
		}
		// The slots are in the order of their buckets, counted on beyond the end.
		if bucket := pos - (i-int(v>>shift))&mask; bucket > last {
			break
		}
		if home := slotHome(v); home >= c.home && home < to && (c.depth <= s.depth || x.hasPrefix(v, s, c)) {
			fn(slotOff(v))
			emitted++
		}
	}
	return emitted
}

// hasPrefix reports whether the slot v of s, which was merged from deeper
// segments, has the prefix of c.
func (x *Index) hasPrefix(v uint64, s *segment, c *cursor) bool {
	for d := s.depth; d < c.depth; d++ {
		if x.leadingBit(v, d) != c.prefix>>(c.depth-1-d)&1 {
			return false
		}
	}
	return true
}

// nextPrefix moves c to the beginning of what follows its prefix.
func (x *Index) nextPrefix(c *cursor) (end bool) {
	c.home = 0
	c.prefix++
	if c.prefix>>c.depth != 0 {
		return true
	}
	// As coarse as the segment there, but not so coarse that it reaches back.
	first, _ := x.dirRange(c.prefix, c.depth)
	d := x.segs[x.dir[first]].depth
	for c.depth > d && c.prefix&1 == 0 {
		c.prefix >>= 1
		c.depth--
	}
	for c.depth < d {
		c.prefix <<= 1
		c.depth++
	}
	return false
}
