package command

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"holdfast/internal/redis/keyspace"
)

// Sorted sets computed from others: ZRANGESTORE, union, intersection and
// difference. The result is collected outside of the keyspace, for the target
// may be among the sources.

// scoredMember is a member of a result.
type scoredMember struct {
	m     string
	score float64
}

// storeZSet makes dst the sorted set of the members, or deletes it when there
// are none, and replies their number.
func (c *Ctx) storeZSet(dst []byte, members []scoredMember, event string) {
	if len(members) == 0 {
		c.Int(0)
		if c.Delete(dst) {
			c.Changed(NotifyGeneric, "del", dst)
		}
		return
	}
	_, found := c.Write(dst)
	c.Delete(dst)
	longest := 0
	if event != "zrangestore" { // which, in Redis, does not look at them
		for i := range members {
			longest = max(longest, len(members[i].m))
		}
	}
	z := c.DB.NewZSetSized(dst, len(members), longest)
	if !found { // as in Redis, a value that replaces another wakes nobody
		c.SignalKey(dst)
		c.created(dst)
	}
	for i := range members {
		z.Set([]byte(members[i].m), members[i].score)
	}
	c.Int(int64(len(members)))
	c.Changed(NotifyZSet, event, dst)
}

func cmdZrangestore(c *Ctx) {
	q, ok := c.zrangeQuery(2, true, byAuto, dirAuto)
	if !ok {
		return
	}
	z, ok, bad := c.readZSet(c.Args[2])
	if bad {
		return
	}
	var members []scoredMember
	if ok {
		start, n := q.window(&z)
		members = make([]scoredMember, 0, n)
		z.RangeByRank(start, n, q.reverse, func(m []byte, score float64) bool {
			members = append(members, scoredMember{string(m), score})
			return true
		})
	}
	c.storeZSet(c.Args[1], members, "zrangestore")
}

func cmdZdiff(c *Ctx) { c.zcombine(zDiff) }

func cmdZdiffstore(c *Ctx) { c.zcombineStore(zDiff, "zdiffstore") }

func cmdZinter(c *Ctx) { c.zcombine(zInter) }

func cmdZintercard(c *Ctx) {
	q, ok := c.combination(1, zInterCard, false)
	if !ok {
		return
	}
	n := int64(0)
	q.eachInter(func([]byte, float64) bool {
		n++
		return n != q.limit
	})
	c.Int(n)
}

func cmdZinterstore(c *Ctx) { c.zcombineStore(zInter, "zinterstore") }

func cmdZunion(c *Ctx) { c.zcombine(zUnion) }

func cmdZunionstore(c *Ctx) { c.zcombineStore(zUnion, "zunionstore") }

// zop is a way to combine sorted sets.
type zop uint8

const (
	zUnion zop = iota
	zInter
	zInterCard
	zDiff
)

// zcombine replies the combination of the keys that argument 1 counts.
func (c *Ctx) zcombine(op zop) {
	q, ok := c.combination(1, op, false)
	if !ok {
		return
	}
	members := q.members(op)
	c.scoredArray(len(members), q.withScores)
	for i := range members {
		c.scored([]byte(members[i].m), members[i].score, q.withScores)
	}
}

// zcombineStore stores the combination of the keys that argument 2 counts.
func (c *Ctx) zcombineStore(op zop, event string) {
	if q, ok := c.combination(2, op, true); ok {
		c.storeZSet(c.Args[1], q.members(op), event)
	}
}

// combination is a request to combine sorted sets.
type combination struct {
	src        []zsource
	aggregate  func(a, b float64) float64
	withScores bool
	limit      int64 // ZINTERCARD; 0: none
}

// zsource is one of the sources: a sorted set, a set, whose scores are all 1,
// or nothing.
type zsource struct {
	zset   keyspace.ZSet
	set    keyspace.Set
	typ    keyspace.Type
	n      int // members; 0 when there is no such key
	weight float64
}

// combination reads the request from the number of keys at argument i on. As
// in Redis, the keys are looked up before the options are read.
func (c *Ctx) combination(i int, op zop, store bool) (q combination, ok bool) {
	n, ok := c.IntArg(i)
	if !ok {
		return q, false
	}
	if n < 1 {
		c.Errf("ERR at least 1 input key is needed for '%s' command", c.Spec.Full)
		return q, false
	}
	if n > int64(len(c.Args)-i-1) {
		c.Err(ErrSyntax)
		return q, false
	}
	options := i + 1 + int(n)
	q.src = make([]zsource, n)
	for k, key := range c.Args[i+1 : options] {
		if !c.zsource(&q.src[k], key) {
			return q, false
		}
	}
	q.aggregate = sumScores
	if !c.combineOptions(&q, options, op, store) {
		return q, false
	}
	if op != zDiff {
		slices.SortStableFunc(q.src, func(a, b zsource) int { return a.n - b.n })
	}
	return q, true
}

// zsource looks one source up; it replies the error and returns false when it
// is neither a sorted set nor a set.
func (c *Ctx) zsource(s *zsource, key []byte) bool {
	s.weight = 1
	r, found := c.Read(key)
	if !found {
		return true
	}
	s.typ = r.Type()
	switch s.typ {
	case keyspace.TypeZSet:
		s.zset = c.DB.ZSet(r)
		s.n = s.zset.Len()
	case keyspace.TypeSet:
		s.set = c.DB.Set(r)
		s.n = s.set.Len()
	default:
		c.Err(ErrWrongType)
		return false
	}
	return true
}

func (c *Ctx) combineOptions(q *combination, i int, op zop, store bool) bool {
	scoring := op == zUnion || op == zInter
	for i < len(c.Args) {
		rest := len(c.Args) - i - 1
		switch {
		case scoring && rest >= len(q.src) && c.Is(i, "weights"):
			for k := range q.src {
				i++
				var ok bool
				if q.src[k].weight, ok = ParseFloat(c.Args[i]); !ok {
					c.Err("ERR weight value is not a float")
					return false
				}
			}
		case scoring && rest >= 1 && c.Is(i, "aggregate"):
			i++
			switch {
			case c.Is(i, "sum"):
				q.aggregate = sumScores
			case c.Is(i, "min"):
				q.aggregate = minScore
			case c.Is(i, "max"):
				q.aggregate = maxScore
			default:
				c.Err(ErrSyntax)
				return false
			}
		case !store && op != zInterCard && c.Is(i, "withscores"):
			q.withScores = true
		case op == zInterCard && rest >= 1 && c.Is(i, "limit"):
			i++
			var ok bool
			if q.limit, ok = c.PositiveArg(i, "ERR LIMIT can't be negative"); !ok {
				return false
			}
		default:
			c.Err(ErrSyntax)
			return false
		}
		i++
	}
	return true
}

// sumScores adds scores; inf + -inf is 0.
func sumScores(a, b float64) float64 {
	if a += b; math.IsNaN(a) {
		return 0
	}
	return a
}

func minScore(a, b float64) float64 {
	if b < a {
		return b
	}
	return a
}

func maxScore(a, b float64) float64 {
	if b > a {
		return b
	}
	return a
}

// each calls fn for the members until it returns false, and reports whether it
// never did.
func (s *zsource) each(fn func(m []byte, score float64) bool) (all bool) {
	all = true
	call := func(m []byte, score float64) bool {
		all = fn(m, score)
		return all
	}
	switch {
	case s.n == 0:
	case s.typ == keyspace.TypeZSet:
		s.zset.Each(call)
	default:
		s.set.Each(func(m []byte) bool { return call(m, 1) })
	}
	return all
}

// score finds a member.
func (s *zsource) score(m []byte) (float64, bool) {
	switch {
	case s.n == 0:
		return 0, false
	case s.typ == keyspace.TypeZSet:
		return s.zset.Score(m)
	}
	return 1, s.set.Has(m)
}

// weighted is the score times the weight; inf * 0 is 0.
func (s *zsource) weighted(score float64) float64 {
	if score *= s.weight; math.IsNaN(score) {
		return 0
	}
	return score
}

// members returns the combination in the order of a sorted set.
func (q *combination) members(op zop) []scoredMember {
	var members []scoredMember
	add := func(m []byte, score float64) bool {
		members = append(members, scoredMember{string(m), score})
		return true
	}
	switch op {
	case zUnion:
		members = q.union()
	case zDiff:
		q.eachDiff(add)
	default:
		q.eachInter(add)
	}
	slices.SortFunc(members, func(a, b scoredMember) int {
		if a.score != b.score {
			return cmp.Compare(a.score, b.score)
		}
		return strings.Compare(a.m, b.m)
	})
	return members
}

// eachInter walks over the smallest source, which is the first, and asks the
// others.
func (q *combination) eachInter(fn func(m []byte, score float64) bool) {
	first := &q.src[0]
	if first.n == 0 {
		return
	}
	first.each(func(m []byte, score float64) bool {
		sum := first.weighted(score)
		for i := range q.src[1:] {
			s := &q.src[1+i]
			v, ok := s.score(m)
			if !ok {
				return true
			}
			// As in Redis, only the first product is guarded against NaN.
			sum = q.aggregate(sum, v*s.weight)
		}
		return fn(m, sum)
	})
}

// union aggregates the scores of one source after the other.
func (q *combination) union() (members []scoredMember) {
	at := make(map[string]int, q.src[len(q.src)-1].n)
	for i := range q.src {
		s := &q.src[i]
		s.each(func(m []byte, score float64) bool {
			score = s.weighted(score)
			if k, dup := at[string(m)]; dup {
				members[k].score = q.aggregate(members[k].score, score)
				return true
			}
			name := string(m)
			at[name] = len(members)
			members = append(members, scoredMember{name, score})
			return true
		})
	}
	return members
}

// eachDiff walks over the first source and asks the others.
func (q *combination) eachDiff(fn func(m []byte, score float64) bool) {
	q.src[0].each(func(m []byte, score float64) bool {
		for i := range q.src[1:] {
			if _, has := q.src[1+i].score(m); has {
				return true
			}
		}
		return fn(m, score)
	})
}
