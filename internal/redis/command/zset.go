package command

import (
	"math"
	"strconv"

	"holdfast/internal/redis/keyspace"
	"holdfast/internal/redis/resp"
)

// Sorted sets; zset_range.go has the ranges, zset_store.go what is computed
// from several sorted sets.

var zsetCommands = []Spec{
	{Name: "bzmpop", Arity: -5, Flags: Write | Blocking | MovableKeys, Cat: CatSortedSet, Keys: []KeySpec{KeyNum(KeyRW|KeyAccess|KeyDelete, 2)}, Run: cmdBzmpop},
	{Name: "bzpopmax", Arity: -3, Flags: Write | NoScript | Blocking | Fast, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyDelete, 1, -2, 1)}, Run: cmdBzpopmax},
	{Name: "bzpopmin", Arity: -3, Flags: Write | NoScript | Blocking | Fast, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyDelete, 1, -2, 1)}, Run: cmdBzpopmin},
	{Name: "zadd", Arity: -4, Flags: Write | DenyOOM | Fast, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyRW|KeyUpdate, 1, 1, 1)}, Run: cmdZadd},
	{Name: "zcard", Arity: 2, Flags: ReadOnly | Fast, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyRO, 1, 1, 1)}, Run: cmdZcard},
	{Name: "zcount", Arity: 4, Flags: ReadOnly | Fast, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Run: cmdZcount},
	{Name: "zdiff", Arity: -3, Flags: ReadOnly | MovableKeys, Cat: CatSortedSet, Keys: []KeySpec{KeyNum(KeyRO|KeyAccess, 1)}, Run: cmdZdiff},
	{Name: "zdiffstore", Arity: -4, Flags: Write | DenyOOM | MovableKeys, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyOW|KeyUpdate, 1, 1, 1), KeyNum(KeyRO|KeyAccess, 2)}, Run: cmdZdiffstore},
	{Name: "zincrby", Arity: 4, Flags: Write | DenyOOM | Fast, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyUpdate, 1, 1, 1)}, Run: cmdZincrby},
	{Name: "zinter", Arity: -3, Flags: ReadOnly | MovableKeys, Cat: CatSortedSet, Keys: []KeySpec{KeyNum(KeyRO|KeyAccess, 1)}, Run: cmdZinter},
	{Name: "zintercard", Arity: -3, Flags: ReadOnly | MovableKeys, Cat: CatSortedSet, Keys: []KeySpec{KeyNum(KeyRO|KeyAccess, 1)}, Run: cmdZintercard},
	{Name: "zinterstore", Arity: -4, Flags: Write | DenyOOM | MovableKeys, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyOW|KeyUpdate, 1, 1, 1), KeyNum(KeyRO|KeyAccess, 2)}, Run: cmdZinterstore},
	{Name: "zlexcount", Arity: 4, Flags: ReadOnly | Fast, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Run: cmdZlexcount},
	{Name: "zmpop", Arity: -4, Flags: Write | MovableKeys, Cat: CatSortedSet, Keys: []KeySpec{KeyNum(KeyRW|KeyAccess|KeyDelete, 1)}, Run: cmdZmpop},
	{Name: "zmscore", Arity: -3, Flags: ReadOnly | Fast, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Run: cmdZmscore},
	{Name: "zpopmax", Arity: -2, Flags: Write | Fast, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyDelete, 1, 1, 1)}, Run: cmdZpopmax},
	{Name: "zpopmin", Arity: -2, Flags: Write | Fast, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyDelete, 1, 1, 1)}, Run: cmdZpopmin},
	{Name: "zrandmember", Arity: -2, Flags: ReadOnly, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Tips: []string{"nondeterministic_output"}, Run: cmdZrandmember},
	{Name: "zrange", Arity: -4, Flags: ReadOnly, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Run: cmdZrange},
	{Name: "zrangebylex", Arity: -4, Flags: ReadOnly, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Run: cmdZrangebylex},
	{Name: "zrangebyscore", Arity: -4, Flags: ReadOnly, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Run: cmdZrangebyscore},
	{Name: "zrangestore", Arity: -5, Flags: Write | DenyOOM, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyOW|KeyUpdate, 1, 1, 1), Key(KeyRO|KeyAccess, 2, 2, 1)}, Run: cmdZrangestore},
	{Name: "zrank", Arity: 3, Flags: ReadOnly | Fast, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Run: cmdZrank},
	{Name: "zrem", Arity: -3, Flags: Write | Fast, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyRW|KeyDelete, 1, 1, 1)}, Run: cmdZrem},
	{Name: "zremrangebylex", Arity: 4, Flags: Write, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyRW|KeyDelete, 1, 1, 1)}, Run: cmdZremrangebylex},
	{Name: "zremrangebyrank", Arity: 4, Flags: Write, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyRW|KeyDelete, 1, 1, 1)}, Run: cmdZremrangebyrank},
	{Name: "zremrangebyscore", Arity: 4, Flags: Write, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyRW|KeyDelete, 1, 1, 1)}, Run: cmdZremrangebyscore},
	{Name: "zrevrange", Arity: -4, Flags: ReadOnly, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Run: cmdZrevrange},
	{Name: "zrevrangebylex", Arity: -4, Flags: ReadOnly, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Run: cmdZrevrangebylex},
	{Name: "zrevrangebyscore", Arity: -4, Flags: ReadOnly, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Run: cmdZrevrangebyscore},
	{Name: "zrevrank", Arity: 3, Flags: ReadOnly | Fast, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Run: cmdZrevrank},
	{Name: "zscan", Arity: -3, Flags: ReadOnly, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Tips: []string{"nondeterministic_output"}, Run: cmdZscan},
	{Name: "zscore", Arity: 3, Flags: ReadOnly | Fast, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Run: cmdZscore},
	{Name: "zunion", Arity: -3, Flags: ReadOnly | MovableKeys, Cat: CatSortedSet, Keys: []KeySpec{KeyNum(KeyRO|KeyAccess, 1)}, Run: cmdZunion},
	{Name: "zunionstore", Arity: -4, Flags: Write | DenyOOM | MovableKeys, Cat: CatSortedSet, Keys: []KeySpec{Key(KeyOW|KeyUpdate, 1, 1, 1), KeyNum(KeyRO|KeyAccess, 2)}, Run: cmdZunionstore},
}

const (
	errScoreRange = "ERR min or max is not a float"
	errLexRange   = "ERR min or max not valid string range item"
)

// readZSet looks a sorted set up for reading. When there is none, or something
// else, ok is false: the error of the latter has been replied (bad).
func (c *Ctx) readZSet(key []byte) (z keyspace.ZSet, ok, bad bool) {
	r, ok, bad := c.ReadAs(key, keyspace.TypeZSet)
	if ok {
		z = c.DB.ZSet(r)
	}
	return z, ok, bad
}

// writeZSet is readZSet for writing.
func (c *Ctx) writeZSet(key []byte) (z keyspace.ZSet, ok, bad bool) {
	r, ok, bad := c.WriteAs(key, keyspace.TypeZSet)
	if ok {
		z = c.DB.ZSet(r)
	}
	return z, ok, bad
}

// side is the side of a sorted set that a pop takes from.
type side bool

const (
	lowest  side = true
	highest side = false
)

var (
	argZpopmin = []byte("ZPOPMIN")
	argZpopmax = []byte("ZPOPMAX")
)

func (s side) event() string {
	if s == lowest {
		return "zpopmin"
	}
	return "zpopmax"
}

func (s side) popName() []byte {
	if s == lowest {
		return argZpopmin
	}
	return argZpopmax
}

func cmdBzmpop(c *Ctx) {
	p, timeout, ok := c.bmpopArgs("min", "max")
	if !ok {
		return
	}
	from := side(p.first)
	if c.zmpop(p.keys, from, p.count) {
		return
	}
	count := p.count
	c.blockOn(p.keys, timeout, func(c *Ctx, key []byte) bool {
		z, ok := c.waitedZSet(key)
		if ok {
			c.zpopNested(&z, key, from, count)
		}
		return ok
	})
}

func cmdBzpopmax(c *Ctx) { c.blockingZpop(highest) }

func cmdBzpopmin(c *Ctx) { c.blockingZpop(lowest) }

// zaddOptions are the conditions of ZADD.
type zaddOptions struct{ nx, xx, gt, lt, ch, incr bool }

// zaddOptions reads the options from argument 2 on and returns where the first
// score stands.
func (c *Ctx) zaddOptions(o *zaddOptions) (i int, ok bool) {
	for i = 2; i < len(c.Args); i++ {
		switch {
		case c.Is(i, "nx"):
			o.nx = true
			continue
		case c.Is(i, "xx"):
			o.xx = true
			continue
		case c.Is(i, "ch"):
			o.ch = true
			continue
		case c.Is(i, "incr"):
			o.incr = true
			continue
		case c.Is(i, "gt"):
			o.gt = true
			continue
		case c.Is(i, "lt"):
			o.lt = true
			continue
		}
		break
	}
	n := len(c.Args) - i
	switch {
	case n == 0 || n%2 != 0:
		c.Err(ErrSyntax)
	case o.nx && o.xx:
		c.Err("ERR XX and NX options at the same time are not compatible")
	case o.gt && o.nx || o.lt && o.nx || o.gt && o.lt:
		c.Err("ERR GT, LT, and/or NX options at the same time are not compatible")
	case o.incr && n > 2:
		c.Err("ERR INCR option supports a single increment-element pair")
	default:
		return i, true
	}
	return 0, false
}

func cmdZadd(c *Ctx) { c.zadd(zaddOptions{}) }

// zadd is ZADD and ZINCRBY. All scores are read before anything changes.
func (c *Ctx) zadd(o zaddOptions) {
	first, ok := c.zaddOptions(&o)
	if !ok {
		return
	}
	var few [16]float64
	scores := few[:0]
	for i := first; i < len(c.Args); i += 2 {
		score, ok := c.FloatArg(i)
		if !ok {
			return
		}
		scores = append(scores, score)
	}
	key := c.Args[1]
	z, ok, bad := c.writeZSet(key)
	if bad {
		return
	}
	if !ok {
		if o.xx {
			c.zaddReply(o, 0, 0, 0, false)
			return
		}
		z = c.newZSet(key)
	}
	var added, updated int64
	var last float64
	done := false
	for i, score := range scores {
		res := zaddOne(&z, c.Args[first+2*i+1], score, o)
		if res.nan {
			c.Err("ERR resulting score is not a number (NaN)")
			return
		}
		if res.added {
			added++
		}
		if res.changed {
			updated++
		}
		last, done = res.score, !res.skipped
	}
	c.E.Dirty += added + updated
	c.zaddReply(o, added, updated, last, done)
	if added+updated > 0 {
		c.Touched(key)
		event := "zadd"
		if o.incr {
			event = "zincr"
		}
		c.Notify(NotifyZSet, event, key)
	}
}

// zaddReply replies to ZADD: the new score, unless a condition was in its way,
// with INCR; else how many members are new, or with CH, new or changed.
func (c *Ctx) zaddReply(o zaddOptions, added, updated int64, score float64, done bool) {
	switch {
	case o.incr && done:
		c.Double(score)
	case o.incr:
		c.Null()
	case o.ch:
		c.Int(added + updated)
	default:
		c.Int(added)
	}
}

// zaddResult is what became of one member.
type zaddResult struct {
	added, changed bool
	skipped        bool // by a condition
	nan            bool // the sum would be none
	score          float64
}

func zaddOne(z *keyspace.ZSet, m []byte, score float64, o zaddOptions) (res zaddResult) {
	if o.nx || o.xx || o.gt || o.lt || o.incr {
		now, exists := z.Score(m)
		switch {
		case !exists && o.xx || exists && o.nx:
			return zaddResult{skipped: true}
		case exists && o.incr:
			if score += now; math.IsNaN(score) {
				return zaddResult{nan: true}
			}
		}
		if exists && (o.lt && score >= now || o.gt && score <= now) {
			return zaddResult{skipped: true}
		}
	}
	res.added, res.changed = z.Set(m, score)
	res.score = score
	return res
}

// newZSet creates a sorted set, to which the caller adds, and wakes who waits
// for it.
func (c *Ctx) newZSet(key []byte) keyspace.ZSet {
	z := c.DB.NewZSet(key)
	c.SignalKey(key)
	c.created(key)
	return z
}

func cmdZcard(c *Ctx) {
	z, ok, bad := c.readZSet(c.Args[1])
	switch {
	case bad:
	case ok:
		c.Int(int64(z.Len()))
	default:
		c.Int(0)
	}
}

func cmdZincrby(c *Ctx) { c.zadd(zaddOptions{incr: true}) }

func cmdZmpop(c *Ctx) {
	p, ok := c.mpopArgs(1, "min", "max")
	if ok && !c.zmpop(p.keys, side(p.first), p.count) {
		c.NullArray()
	}
}

func cmdZmscore(c *Ctx) {
	z, ok, bad := c.readZSet(c.Args[1])
	if bad {
		return
	}
	c.Array(len(c.Args) - 2)
	for _, m := range c.Args[2:] {
		if ok {
			if score, has := z.Score(m); has {
				c.Double(score)
				continue
			}
		}
		c.Null()
	}
}

func cmdZpopmax(c *Ctx) { c.zpop(highest) }

func cmdZpopmin(c *Ctx) { c.zpop(lowest) }

func cmdZrandmember(c *Ctx) {
	if len(c.Args) > 2 {
		zrandmemberCount(c)
		return
	}
	z, ok, bad := c.readZSet(c.Args[1])
	if bad {
		return
	}
	if !ok {
		c.Null()
		return
	}
	m, _ := z.Random(c.E.Rand)
	c.Bulk(m)
}

func zrandmemberCount(c *Ctx) {
	n, withScores, ok := c.randomArgs("withscores")
	if !ok {
		return
	}
	z, ok, bad := c.readZSet(c.Args[1])
	if bad {
		return
	}
	if !ok || n == 0 {
		c.Array(0)
		return
	}
	size := z.Len()
	count := min(n, int64(size))
	if n < 0 {
		count = -n
	}
	c.scoredArray(int(count), withScores)
	switch {
	case n < 0 || n == 1:
		for ; count > 0 && !c.tooLong(); count-- {
			m, score := z.Random(c.E.Rand)
			c.scored(m, score, withScores)
		}
	case worthSeen(int(count), size):
		seen := make(map[string]struct{}, count)
		for int64(len(seen)) < count {
			m, score := z.Random(c.E.Rand)
			if _, dup := seen[string(m)]; !dup {
				seen[string(m)] = struct{}{}
				c.scored(m, score, withScores)
			}
		}
	case int(count) == size: // all of them: Redis walks from the end
		z.RangeByRank(0, size, true, func(m []byte, score float64) bool {
			c.scored(m, score, withScores)
			return true
		})
	default:
		pick := picker{c.E.Rand, size, int(count)}
		z.Each(func(m []byte, score float64) bool {
			if pick.take() {
				c.scored(m, score, withScores)
			}
			return pick.need > 0
		})
	}
}

// scoredArray begins an array of n members, each with its score where withScores
// is set: pairs in RESP3, a flat array in RESP2.
func (c *Ctx) scoredArray(n int, withScores bool) {
	if withScores && c.Proto == 2 {
		n *= 2
	}
	c.Array(n)
}

// scored replies one member of such an array.
func (c *Ctx) scored(m []byte, score float64, withScores bool) {
	if withScores && c.Proto == 3 {
		c.Array(2)
	}
	c.Bulk(m)
	if withScores {
		c.Double(score)
	}
}

func cmdZrank(c *Ctx) { c.zrank(false) }

func (c *Ctx) zrank(reverse bool) {
	z, ok, bad := c.readZSet(c.Args[1])
	if bad {
		return
	}
	if ok {
		if rank, has := z.Rank(c.Args[2]); has {
			if reverse {
				rank = z.Len() - 1 - rank
			}
			c.Int(int64(rank))
			return
		}
	}
	c.Null()
}

func cmdZrem(c *Ctx) {
	key := c.Args[1]
	z, ok, bad := c.writeZSet(key)
	if bad {
		return
	}
	if !ok {
		c.Int(0)
		return
	}
	removed, left := int64(0), z.Len()
	for _, m := range c.Args[2:] {
		if z.Remove(m) {
			removed++
			if left--; left == 0 {
				break
			}
		}
	}
	c.removed(key, NotifyZSet, "zrem", removed, left)
}

func cmdZrevrank(c *Ctx) { c.zrank(true) }

func cmdZscan(c *Ctx) {
	cursor, ok := c.scanCursor(2)
	if !ok {
		return
	}
	r, ok, bad := c.ReadAs(c.Args[1], keyspace.TypeZSet)
	if bad {
		return
	}
	if !ok {
		c.emptyScan()
		return
	}
	o, ok := c.scanOptions(3, false)
	if !ok {
		return
	}
	z := c.DB.ZSet(r)
	// The small form keeps integers as such, and they are replied so.
	compact := r.Encoding() == "listpack"
	start, n := len(c.Buf), 0
	next := z.Scan(cursor, o.count, func(m []byte, score float64) {
		if o.match(m) {
			var t [40]byte
			c.Bulk(m)
			c.Bulk(appendScore(t[:0], score, compact))
			n += 2
		}
	})
	c.closeScan(start, next, n)
}

func cmdZscore(c *Ctx) {
	z, ok, bad := c.readZSet(c.Args[1])
	if bad {
		return
	}
	if ok {
		if score, has := z.Score(c.Args[2]); has {
			c.Double(score)
			return
		}
	}
	c.Null()
}

// appendScore appends a score with 17 digits, or, with integers set, as an
// integer if it is one that the small form of a sorted set stores as such.
func appendScore(b []byte, score float64, integers bool) []byte {
	if integers && math.Abs(score) < math.MaxInt64/2 {
		if n := int64(score); float64(n) == score {
			return strconv.AppendInt(b, n, 10)
		}
	}
	return resp.AppendFloat(b, score)
}

// --- pops ---

// zpop is ZPOPMIN and ZPOPMAX.
func (c *Ctx) zpop(from side) {
	if len(c.Args) > 3 {
		c.Err(ErrSyntax)
		return
	}
	key, count, counted := c.Args[1], int64(1), len(c.Args) == 3
	ok := true
	if counted {
		if count, ok = c.IntArgRange(2, 0, math.MaxInt64, ErrNotPositive); !ok {
			return
		}
	}
	z, ok, bad := c.writeZSet(key)
	if bad {
		return
	}
	if !ok || count == 0 {
		c.Array(0)
		return
	}
	n := int(min(count, int64(z.Len())))
	pairs := counted && c.Proto == 3
	if pairs {
		c.Array(n)
	} else {
		c.Array(2 * n)
	}
	c.zpopRange(&z, key, from, n, pairs)
}

// zpopRange replies and removes n members of one side, in the frame that the
// caller has opened.
func (c *Ctx) zpopRange(z *keyspace.ZSet, key []byte, from side, n int, pairs bool) {
	size := z.Len()
	z.RangeByRank(0, n, from == highest, func(m []byte, score float64) bool {
		if pairs {
			c.Array(2)
		}
		c.Bulk(m)
		c.Double(score)
		return true
	})
	start := 0
	if from == highest {
		start = size - n
	}
	z.RemoveRangeByRank(start, n)
	c.E.Dirty += int64(n)
	c.Notify(NotifyZSet, from.event(), key)
	c.DeleteIfEmpty(key, size-n)
	c.Touched(key)
}

// zpopNested replies the key and up to count pairs, as ZMPOP does.
func (c *Ctx) zpopNested(z *keyspace.ZSet, key []byte, from side, count int64) {
	n := int(min(count, int64(z.Len())))
	c.Array(2)
	c.Bulk(key)
	c.Array(n)
	c.zpopRange(z, key, from, n, true)
	c.Rewrite(from.popName(), key, I(int64(n)))
}

// zmpop pops from the first sorted set that there is. It returns false when
// there is none, without a reply.
func (c *Ctx) zmpop(keys [][]byte, from side, count int64) (replied bool) {
	for _, key := range keys {
		z, ok, bad := c.writeZSet(key)
		if bad {
			return true
		}
		if ok {
			c.zpopNested(&z, key, from, count)
			return true
		}
	}
	return false
}

// blockingZpop is BZPOPMIN and BZPOPMAX.
func (c *Ctx) blockingZpop(from side) {
	last := len(c.Args) - 1
	timeout, ok := c.timeoutArg(last)
	if !ok {
		return
	}
	keys := c.Args[1:last]
	for _, key := range keys {
		z, ok, bad := c.writeZSet(key)
		if bad {
			return
		}
		if ok {
			c.zpopKeyed(&z, key, from)
			return
		}
	}
	c.blockOn(keys, timeout, func(c *Ctx, key []byte) bool {
		z, ok := c.waitedZSet(key)
		if ok {
			c.zpopKeyed(&z, key, from)
		}
		return ok
	})
}

// zpopKeyed replies the key, a member and its score, as BZPOPMIN does.
func (c *Ctx) zpopKeyed(z *keyspace.ZSet, key []byte, from side) {
	c.Array(3)
	c.Bulk(key)
	c.zpopRange(z, key, from, 1, false)
	c.Rewrite(from.popName(), key)
}

// waitedZSet returns the sorted set that a blocked client has waited for; ok is
// false while there is none.
func (c *Ctx) waitedZSet(key []byte) (z keyspace.ZSet, ok bool) {
	r, ok := c.Write(key)
	if !ok || r.Type() != keyspace.TypeZSet {
		return z, false
	}
	return c.DB.ZSet(r), true
}
