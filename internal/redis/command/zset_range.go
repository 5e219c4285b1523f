package command

import (
	"bytes"
	"errors"
	"math"
	"strconv"

	"holdfast/internal/redis/keyspace"
)

// Ranges of sorted sets: by rank, by score, by the bytes of the members. Each
// becomes a range of ranks first, so that all of them count, reply, remove and
// store in the same way.

// rangeKind is what a range goes by.
type rangeKind uint8

const (
	byAuto rangeKind = iota // what the options say
	byRank
	byScore
	byLex
)

// direction is the order of a range.
type direction uint8

const (
	dirAuto direction = iota // what the options say
	forward
	backward
)

// zrange is a parsed range.
type zrange struct {
	kind        rangeKind
	start, stop int64 // byRank
	score       scoreRange
	lex         lexRange
}

// scoreRange is a range of scores; open says that the bound itself is not in it.
type scoreRange struct {
	min, max         float64
	minOpen, maxOpen bool
}

// lexRange is a range of members.
type lexRange struct{ min, max lexBound }

// lexBound is a bound of such a range: a string, or, with infinite -1 or 1, one
// that is before or behind all strings.
type lexBound struct {
	s        []byte
	open     bool
	infinite int8
}

// ranks returns the first rank of the range and the number of members in it.
// backward says that it will be walked from its end: where scores differ, a range
// by lex finds something else then.
func (r *zrange) ranks(z *keyspace.ZSet, backward bool) (first, n int) {
	switch r.kind {
	case byScore:
		first = z.CountLess(r.score.min, r.score.minOpen)
		n = z.CountLess(r.score.max, !r.score.maxOpen) - first
	case byLex:
		first, n = r.lex.ranks(z, backward)
	default:
		return rangeOf(r.start, r.stop, z.Len())
	}
	return first, max(n, 0)
}

// ranks is zrange.ranks. Only if all scores are equal it means something, but then
// again Redis says what it finds if they are not, and so do we.
func (r *lexRange) ranks(z *keyspace.ZSet, backward bool) (first, n int) {
	size := z.Len()
	if lowest, _ := z.At(0); !r.max.admits(lowest, -1) {
		return 0, 0
	}
	if highest, _ := z.At(size - 1); !r.min.admits(highest, 1) {
		return 0, 0
	}
	if backward {
		first = size - r.min.rest(z, !r.min.open)
		return first, size - r.max.rest(z, r.max.open) - first
	}
	first = r.min.rank(z, r.min.open)
	return first, r.max.rank(z, !r.max.open) - first
}

// admits reports whether m is on that side of the bound: -1 before it, 1 behind it.
func (b *lexBound) admits(m []byte, side int) bool {
	if b.infinite != 0 {
		return int(b.infinite) == -side
	}
	c := bytes.Compare(m, b.s)
	return c == side || c == 0 && !b.open
}

// rest returns how many members are behind the bound.
func (b *lexBound) rest(z *keyspace.ZSet, inclusive bool) int {
	switch b.infinite {
	case -1:
		return z.Len()
	case 1:
		return 0
	}
	return z.CountLexGreater(b.s, inclusive)
}

// rank returns how many members are before the bound.
func (b *lexBound) rank(z *keyspace.ZSet, inclusive bool) int {
	switch b.infinite {
	case -1:
		return 0
	case 1:
		return z.Len()
	}
	return z.CountLexLess(b.s, inclusive)
}

// rangeArgs reads the two arguments of a range; when they are none it replies
// the error and returns false.
func (c *Ctx) rangeArgs(kind rangeKind, low, high int) (r zrange, ok bool) {
	r.kind = kind
	switch kind {
	case byScore:
		var ok1, ok2 bool
		r.score.min, r.score.minOpen, ok1 = parseScoreBound(c.Args[low])
		r.score.max, r.score.maxOpen, ok2 = parseScoreBound(c.Args[high])
		if !ok1 || !ok2 {
			c.Err(errScoreRange)
			return r, false
		}
	case byLex:
		var ok1, ok2 bool
		r.lex.min, ok1 = parseLexBound(c.Args[low])
		r.lex.max, ok2 = parseLexBound(c.Args[high])
		if !ok1 || !ok2 {
			c.Err(errLexRange)
			return r, false
		}
	default:
		if r.start, ok = c.IntArg(low); !ok {
			return r, false
		}
		if r.stop, ok = c.IntArg(high); !ok {
			return r, false
		}
	}
	return r, true
}

// parseScoreBound reads a score as strtod does, which takes more than a score
// of ZADD may be: nothing is 0, spaces may stand before, what is too large is
// infinite. "(" before it makes the bound an open one.
func parseScoreBound(b []byte) (score float64, open, ok bool) {
	if len(b) > 0 && b[0] == '(' {
		open = true
		b = b[1:]
	}
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	if len(b) == 0 {
		return 0, open, true
	}
	b = bytes.TrimLeft(b, " \t\n\v\f\r")
	if score, ok = ParseFloat(b); ok {
		return score, open, true
	}
	if bytes.IndexByte(b, '_') >= 0 || len(b) > 1<<12 {
		return 0, open, false
	}
	score, err := strconv.ParseFloat(string(b), 64)
	ok = (err == nil || errors.Is(err, strconv.ErrRange)) && !math.IsNaN(score)
	return score, open, ok
}

func parseLexBound(b []byte) (bound lexBound, ok bool) {
	if len(b) == 0 {
		return bound, false
	}
	switch b[0] {
	case '+', '-':
		bound.infinite, bound.open = 1, true
		if b[0] == '-' {
			bound.infinite = -1
		}
		return bound, len(b) == 1 || b[1] == 0
	case '(', '[':
		return lexBound{s: b[1:], open: b[0] == '('}, true
	}
	return bound, false
}

func cmdZcount(c *Ctx) { c.zcount(byScore) }

func cmdZlexcount(c *Ctx) { c.zcount(byLex) }

func (c *Ctx) zcount(kind rangeKind) {
	r, ok := c.rangeArgs(kind, 2, 3)
	if !ok {
		return
	}
	z, ok, bad := c.readZSet(c.Args[1])
	if bad {
		return
	}
	n := 0
	if ok {
		_, n = r.ranks(&z, false)
	}
	c.Int(int64(n))
}

func cmdZrange(c *Ctx) { c.zrange(byAuto, dirAuto) }

func cmdZrangebylex(c *Ctx) { c.zrange(byLex, forward) }

func cmdZrangebyscore(c *Ctx) { c.zrange(byScore, forward) }

func cmdZrevrange(c *Ctx) { c.zrange(byRank, backward) }

func cmdZrevrangebylex(c *Ctx) { c.zrange(byLex, backward) }

func cmdZrevrangebyscore(c *Ctx) { c.zrange(byScore, backward) }

func (c *Ctx) zrange(kind rangeKind, dir direction) {
	q, ok := c.zrangeQuery(1, false, kind, dir)
	if !ok {
		return
	}
	z, ok, bad := c.readZSet(c.Args[1])
	if bad {
		return
	}
	if !ok {
		c.Array(0)
		return
	}
	start, n := q.window(&z)
	c.scoredArray(n, q.withScores)
	z.RangeByRank(start, n, q.reverse, func(m []byte, score float64) bool {
		c.scored(m, score, q.withScores)
		return true
	})
}

// zrangeQuery is a range with what is wanted of it.
type zrangeQuery struct {
	zrange
	reverse       bool
	withScores    bool
	offset, limit int64 // limit < 0: no limit
}

// zrangeQuery reads the arguments of ZRANGE and its relatives: the key stands
// at argument i, the range and the options behind it.
func (c *Ctx) zrangeQuery(i int, store bool, kind rangeKind, dir direction) (q zrangeQuery, ok bool) {
	q.limit = -1
	if kind, dir, ok = c.zrangeOptions(&q, i+3, store, kind, dir); !ok {
		return q, false
	}
	q.reverse = dir == backward
	if kind == byAuto {
		kind = byRank
	}
	if q.limit != -1 && kind == byRank {
		c.Err("ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX")
		return q, false
	}
	if q.withScores && kind == byLex {
		c.Err("ERR syntax error, WITHSCORES not supported in combination with BYLEX")
		return q, false
	}
	low, high := i+1, i+2
	if q.reverse && kind != byRank {
		low, high = high, low
	}
	q.zrange, ok = c.rangeArgs(kind, low, high)
	return q, ok
}

// zrangeOptions reads the options from argument i on. Kind and direction are
// options only where the command does not say them.
func (c *Ctx) zrangeOptions(q *zrangeQuery, i int, store bool, kind rangeKind, dir direction) (rangeKind, direction, bool) {
	for ; i < len(c.Args); i++ {
		switch {
		case !store && c.Is(i, "withscores"):
			q.withScores = true
		case c.Is(i, "limit") && i+2 < len(c.Args):
			var ok bool
			if q.offset, ok = c.IntArg(i + 1); !ok {
				return kind, dir, false
			}
			if q.limit, ok = c.IntArg(i + 2); !ok {
				return kind, dir, false
			}
			i += 2
		case dir == dirAuto && c.Is(i, "rev"):
			dir = backward
		case kind == byAuto && c.Is(i, "bylex"):
			kind = byLex
		case kind == byAuto && c.Is(i, "byscore"):
			kind = byScore
		default:
			c.Err(ErrSyntax)
			return kind, dir, false
		}
	}
	return kind, dir, true
}

// window returns the range as RangeByRank takes it: the first rank, counted
// from the end when it is reversed, and the number of members, after LIMIT.
func (q *zrangeQuery) window(z *keyspace.ZSet) (start, n int) {
	start, n = q.ranks(z, q.reverse)
	if q.reverse && q.kind != byRank {
		// The range has been found in ascending order. A range of ranks counts
		// in the order that is asked for already.
		start = z.Len() - start - n
	}
	if q.offset < 0 || q.offset >= int64(n) && q.offset > 0 {
		return 0, 0
	}
	start += int(q.offset)
	n -= int(q.offset)
	if q.limit >= 0 {
		n = int(min(q.limit, int64(n)))
	}
	return start, n
}

func cmdZremrangebylex(c *Ctx) { c.zremrange(byLex, "zremrangebylex") }

func cmdZremrangebyrank(c *Ctx) { c.zremrange(byRank, "zremrangebyrank") }

func cmdZremrangebyscore(c *Ctx) { c.zremrange(byScore, "zremrangebyscore") }

func (c *Ctx) zremrange(kind rangeKind, event string) {
	r, ok := c.rangeArgs(kind, 2, 3)
	if !ok {
		return
	}
	key := c.Args[1]
	z, ok, bad := c.writeZSet(key)
	if bad {
		return
	}
	removed := 0
	if ok {
		removed = z.RemoveRangeByRank(r.ranks(&z, false))
	}
	if removed > 0 {
		c.Touched(key)
		c.Notify(NotifyZSet, event, key)
		c.DeleteIfEmpty(key, z.Len())
		c.E.Dirty += int64(removed)
	}
	c.Int(int64(removed))
}
