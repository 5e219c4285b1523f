package command

import (
	"math"
	"slices"

	"holdfast/internal/redis/keyspace"
)

var setCommands = []Spec{
	{Name: "sadd", Arity: -3, Flags: Write | DenyOOM | Fast, Cat: CatSet, Keys: []KeySpec{Key(KeyRW|KeyInsert, 1, 1, 1)}, Run: cmdSadd},
	{Name: "scard", Arity: 2, Flags: ReadOnly | Fast, Cat: CatSet, Keys: []KeySpec{Key(KeyRO, 1, 1, 1)}, Run: cmdScard},
	{Name: "sdiff", Arity: -2, Flags: ReadOnly, Cat: CatSet, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, -1, 1)}, Tips: []string{"nondeterministic_output_order"}, Run: cmdSdiff},
	{Name: "sdiffstore", Arity: -3, Flags: Write | DenyOOM, Cat: CatSet, Keys: []KeySpec{Key(KeyOW|KeyUpdate, 1, 1, 1), Key(KeyRO|KeyAccess, 2, -1, 1)}, Run: cmdSdiffstore},
	{Name: "sinter", Arity: -2, Flags: ReadOnly, Cat: CatSet, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, -1, 1)}, Tips: []string{"nondeterministic_output_order"}, Run: cmdSinter},
	{Name: "sintercard", Arity: -3, Flags: ReadOnly | MovableKeys, Cat: CatSet, Keys: []KeySpec{KeyNum(KeyRO|KeyAccess, 1)}, Run: cmdSintercard},
	{Name: "sinterstore", Arity: -3, Flags: Write | DenyOOM, Cat: CatSet, Keys: []KeySpec{Key(KeyRW|KeyUpdate, 1, 1, 1), Key(KeyRO|KeyAccess, 2, -1, 1)}, Run: cmdSinterstore},
	{Name: "sismember", Arity: 3, Flags: ReadOnly | Fast, Cat: CatSet, Keys: []KeySpec{Key(KeyRO, 1, 1, 1)}, Run: cmdSismember},
	{Name: "smembers", Arity: 2, Flags: ReadOnly, Cat: CatSet, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Tips: []string{"nondeterministic_output_order"}, Run: cmdSmembers},
	{Name: "smismember", Arity: -3, Flags: ReadOnly | Fast, Cat: CatSet, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Run: cmdSmismember},
	{Name: "smove", Arity: 4, Flags: Write | Fast, Cat: CatSet, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyDelete, 1, 1, 1), Key(KeyRW|KeyInsert, 2, 2, 1)}, Run: cmdSmove},
	{Name: "spop", Arity: -2, Flags: Write | Fast, Cat: CatSet, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyDelete, 1, 1, 1)}, Tips: []string{"nondeterministic_output"}, Run: cmdSpop},
	{Name: "srandmember", Arity: -2, Flags: ReadOnly, Cat: CatSet, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Tips: []string{"nondeterministic_output"}, Run: cmdSrandmember},
	{Name: "srem", Arity: -3, Flags: Write | Fast, Cat: CatSet, Keys: []KeySpec{Key(KeyRW|KeyDelete, 1, 1, 1)}, Run: cmdSrem},
	{Name: "sscan", Arity: -3, Flags: ReadOnly, Cat: CatSet, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Tips: []string{"nondeterministic_output"}, Run: cmdSscan},
	{Name: "sunion", Arity: -2, Flags: ReadOnly, Cat: CatSet, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, -1, 1)}, Tips: []string{"nondeterministic_output_order"}, Run: cmdSunion},
	{Name: "sunionstore", Arity: -3, Flags: Write | DenyOOM, Cat: CatSet, Keys: []KeySpec{Key(KeyOW|KeyUpdate, 1, 1, 1), Key(KeyRO|KeyAccess, 2, -1, 1)}, Run: cmdSunionstore},
}

// readSet looks the set of argument 1 up for reading. When there is none, or
// something else, ok is false: the error of the latter has been replied (bad).
func (c *Ctx) readSet() (s keyspace.Set, ok, bad bool) {
	r, ok, bad := c.ReadAs(c.Args[1], keyspace.TypeSet)
	if ok {
		s = c.DB.Set(r)
	}
	return s, ok, bad
}

// writeSet is readSet for writing.
func (c *Ctx) writeSet(key []byte) (s keyspace.Set, ok, bad bool) {
	r, ok, bad := c.WriteAs(key, keyspace.TypeSet)
	if ok {
		s = c.DB.Set(r)
	}
	return s, ok, bad
}

func cmdSadd(c *Ctx) {
	key := c.Args[1]
	s, ok, bad := c.writeSet(key)
	if bad {
		return
	}
	if !ok {
		s = c.DB.NewSet(key)
		c.created(key)
	}
	added := int64(0)
	for _, m := range c.Args[2:] {
		if s.Add(m) {
			added++
		}
	}
	if added > 0 {
		c.Touched(key)
		c.Notify(NotifySet, "sadd", key)
		c.E.Dirty += added
	}
	c.Int(added)
}

func cmdScard(c *Ctx) {
	s, ok, bad := c.readSet()
	switch {
	case bad:
	case ok:
		c.Int(int64(s.Len()))
	default:
		c.Int(0)
	}
}

func cmdSdiff(c *Ctx) { c.combine(setDiff, c.Args[1:]) }

func cmdSdiffstore(c *Ctx) { c.combineStore(setDiff, "sdiffstore") }

func cmdSinter(c *Ctx) { c.combine(setInter, c.Args[1:]) }

func cmdSintercard(c *Ctx) {
	n, ok := c.IntArgRange(1, 1, math.MaxInt64, "ERR numkeys should be greater than 0")
	if !ok {
		return
	}
	if n > int64(len(c.Args)-2) {
		c.Err("ERR Number of keys can't be greater than number of args")
		return
	}
	limit := int64(0)
	for i := 2 + int(n); i < len(c.Args); i += 2 {
		if !c.Is(i, "limit") || i+1 == len(c.Args) {
			c.Err(ErrSyntax)
			return
		}
		if limit, ok = c.PositiveArg(i+1, "ERR LIMIT can't be negative"); !ok {
			return
		}
	}
	sets, ok := c.lookupSets(c.Args[2 : 2+n])
	if !ok {
		return
	}
	count := int64(0)
	eachInter(sets, func([]byte) bool {
		count++
		return count != limit
	})
	c.Int(count)
}

func cmdSinterstore(c *Ctx) { c.combineStore(setInter, "sinterstore") }

func cmdSismember(c *Ctx) {
	s, ok, bad := c.readSet()
	switch {
	case bad:
	case ok && s.Has(c.Args[2]):
		c.Int(1)
	default:
		c.Int(0)
	}
}

func cmdSmembers(c *Ctx) {
	s, ok, bad := c.readSet()
	if bad {
		return
	}
	if !ok {
		c.Set(0)
		return
	}
	c.Set(s.Len())
	s.Each(func(m []byte) bool {
		c.Bulk(m)
		return true
	})
}

func cmdSmismember(c *Ctx) {
	s, ok, bad := c.readSet()
	if bad {
		return
	}
	c.Array(len(c.Args) - 2)
	for _, m := range c.Args[2:] {
		if ok && s.Has(m) {
			c.Int(1)
		} else {
			c.Int(0)
		}
	}
}

func cmdSmove(c *Ctx) {
	from, to, m := c.Args[1], c.Args[2], c.Args[3]
	rsrc, hasSrc := c.Write(from)
	rdst, hasDst := c.Write(to)
	if !hasSrc {
		c.Int(0)
		return
	}
	if !c.IsType(rsrc, keyspace.TypeSet) || hasDst && !c.IsType(rdst, keyspace.TypeSet) {
		return
	}
	src := c.DB.Set(rsrc)
	if string(from) == string(to) {
		if src.Has(m) {
			c.Int(1)
		} else {
			c.Int(0)
		}
		return
	}
	if !src.Remove(m) {
		c.Int(0)
		return
	}
	c.Notify(NotifySet, "srem", from)
	c.DeleteIfEmpty(from, src.Len())
	var dst keyspace.Set
	if hasDst {
		// Looked up again: the change above ended the validity of handles.
		rdst, _ = c.DB.Find(to)
		dst = c.DB.Set(rdst)
	} else {
		dst = c.DB.NewSet(to)
		c.created(to)
	}
	c.Touched(from)
	c.E.Dirty++
	if dst.Add(m) {
		c.Touched(to)
		c.E.Dirty++
		c.Notify(NotifySet, "sadd", to)
	}
	c.Int(1)
}

var argSrem = []byte("SREM")

func cmdSpop(c *Ctx) {
	if len(c.Args) == 3 {
		spopCount(c)
		return
	}
	if len(c.Args) > 3 {
		c.Err(ErrSyntax)
		return
	}
	key := c.Args[1]
	s, ok, bad := c.writeSet(key)
	if bad {
		return
	}
	if !ok {
		c.Null()
		return
	}
	m := c.popRandom(&s)
	c.Notify(NotifySet, "spop", key)
	c.Rewrite(argSrem, key, m)
	c.DeleteIfEmpty(key, s.Len())
	c.Touched(key)
	c.E.Dirty++
}

// popRandom replies a random member and removes it. The copy in the reply is
// returned: it stays valid until the command ends.
func (c *Ctx) popRandom(s *keyspace.Set) []byte {
	m := s.Random(c.E.Rand)
	n := len(m)
	c.Bulk(m)
	end := len(c.Buf) - 2
	m = c.Buf[end-n : end : end]
	s.Remove(m)
	return m
}

func spopCount(c *Ctx) {
	key := c.Args[1]
	n, ok := c.IntArgRange(2, 0, math.MaxInt64, ErrNotPositive)
	if !ok {
		return
	}
	s, ok, bad := c.writeSet(key)
	if bad {
		return
	}
	if !ok || n == 0 {
		c.Set(0)
		return
	}
	c.Notify(NotifySet, "spop", key)
	size := s.Len()
	if n >= int64(size) {
		c.Set(size)
		s.Each(func(m []byte) bool {
			c.Bulk(m)
			return true
		})
		c.DB.Delete(key, c.E.Cfg.LazyfreeLazyServerDel)
		c.Notify(NotifyGeneric, "del", key)
		c.Rewrite(argDel, key)
		c.Touched(key)
		c.E.Dirty += int64(size)
		return
	}
	c.Set(int(n))
	for range n {
		c.Also(argSrem, key, c.popRandom(&s)) // each by itself, as in Redis
	}
	c.NoPropagate()
	c.Touched(key)
	c.E.Dirty += n
}

func cmdSrandmember(c *Ctx) {
	if len(c.Args) == 3 {
		srandmemberCount(c)
		return
	}
	if len(c.Args) > 3 {
		c.Err(ErrSyntax)
		return
	}
	s, ok, bad := c.readSet()
	switch {
	case bad:
	case ok:
		c.Bulk(s.Random(c.E.Rand))
	default:
		c.Null()
	}
}

func srandmemberCount(c *Ctx) {
	n, ok := c.IntArgRange(2, -math.MaxInt64, math.MaxInt64, "")
	if !ok {
		return
	}
	s, ok, bad := c.readSet()
	if bad {
		return
	}
	if !ok || n == 0 {
		c.Array(0)
		return
	}
	size := s.Len()
	count := min(n, int64(size))
	if n < 0 {
		count = -n
	}
	c.Array(int(count))
	switch {
	case n < 0 || n == 1:
		for ; count > 0 && !c.tooLong(); count-- {
			c.Bulk(s.Random(c.E.Rand))
		}
	case worthSeen(int(count), size):
		seen := make(map[string]struct{}, count)
		for int64(len(seen)) < count {
			m := s.Random(c.E.Rand)
			if _, dup := seen[string(m)]; !dup {
				seen[string(m)] = struct{}{}
				c.Bulk(m)
			}
		}
	default:
		pick := picker{c.E.Rand, size, int(count)}
		s.Each(func(m []byte) bool {
			if pick.take() {
				c.Bulk(m)
			}
			return pick.need > 0
		})
	}
}

func cmdSrem(c *Ctx) {
	key := c.Args[1]
	s, ok, bad := c.writeSet(key)
	if bad {
		return
	}
	if !ok {
		c.Int(0)
		return
	}
	removed, left := int64(0), s.Len()
	for _, m := range c.Args[2:] {
		if s.Remove(m) {
			removed++
			if left--; left == 0 {
				break
			}
		}
	}
	c.removed(key, NotifySet, "srem", removed, left)
}

func cmdSscan(c *Ctx) {
	cursor, ok := c.scanCursor(2)
	if !ok {
		return
	}
	s, ok, bad := c.readSet()
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
	start, n := len(c.Buf), 0
	next := s.Scan(cursor, o.count, func(m []byte) {
		if o.match(m) {
			c.Bulk(m)
			n++
		}
	})
	c.closeScan(start, next, n)
}

func cmdSunion(c *Ctx) { c.combine(setUnion, c.Args[1:]) }

func cmdSunionstore(c *Ctx) { c.combineStore(setUnion, "sunionstore") }

// --- union, intersection, difference ---

// setOp calls fn for each member of a combination of sets until it returns
// false. Where sets[i] is nil there is no such key.
type setOp func(sets []*keyspace.Set, fn func(m []byte) bool)

// The combinations, in the order of the sets as they were named.
var (
	setUnion setOp = eachUnion
	setInter setOp = eachInter
	setDiff  setOp = eachDiff
)

// lookupSets looks keys up; it replies the error and returns false when one
// holds something else than a set. The handles are valid until the keyspace is
// changed: that a lookup deletes another, expired key does not touch them.
func (c *Ctx) lookupSets(keys [][]byte) ([]*keyspace.Set, bool) {
	handles := make([]keyspace.Set, len(keys))
	sets := make([]*keyspace.Set, len(keys))
	for i, key := range keys {
		r, ok, bad := c.ReadAs(key, keyspace.TypeSet)
		if bad {
			return nil, false
		}
		if ok {
			handles[i] = c.DB.Set(r)
			sets[i] = &handles[i]
		}
	}
	return sets, true
}

// combine replies the combination of the sets under the keys.
func (c *Ctx) combine(op setOp, keys [][]byte) {
	sets, ok := c.lookupSets(keys)
	if !ok {
		return
	}
	mark, n := c.Defer(), 0
	op(sets, func(m []byte) bool {
		c.Bulk(m)
		n++
		return true
	})
	c.CloseSet(mark, n)
}

// combineStore stores the combination under the key of argument 1. It is
// collected outside of the keyspace, for the target may be among the sources.
func (c *Ctx) combineStore(op setOp, event string) {
	dst := c.Args[1]
	sets, ok := c.lookupSets(c.Args[2:])
	if !ok {
		return
	}
	var res byteList
	op(sets, func(m []byte) bool {
		res.add(m)
		return true
	})
	n := res.len()
	if n == 0 {
		c.Int(0)
		if c.Delete(dst) {
			c.Changed(NotifyGeneric, "del", dst)
		}
		return
	}
	_, found := c.Write(dst)
	c.Delete(dst)
	s := c.DB.NewSet(dst)
	for i := range n {
		s.Add(res.at(i))
	}
	if !found {
		c.created(dst)
	}
	c.Int(int64(n))
	c.Changed(NotifySet, event, dst)
}

// byteList is a list of byte strings in one piece of memory.
type byteList struct {
	data []byte
	ends []int
}

func (l *byteList) len() int { return len(l.ends) }

func (l *byteList) add(b []byte) {
	l.data = append(l.data, b...)
	l.ends = append(l.ends, len(l.data))
}

func (l *byteList) at(i int) []byte {
	from := 0
	if i > 0 {
		from = l.ends[i-1]
	}
	return l.data[from:l.ends[i]]
}

// eachInter walks over the smallest set and asks the others, the small ones
// first.
func eachInter(sets []*keyspace.Set, fn func(m []byte) bool) {
	for _, s := range sets {
		if s == nil {
			return
		}
	}
	slices.SortStableFunc(sets, func(a, b *keyspace.Set) int { return a.Len() - b.Len() })
	sets[0].Each(func(m []byte) bool {
		for _, s := range sets[1:] {
			if !s.Has(m) {
				return true
			}
		}
		return fn(m)
	})
}

// eachUnion walks over all sets. A member counts where it stands first: the
// sets before are asked, or, when they are many, the members are remembered.
func eachUnion(sets []*keyspace.Set, fn func(m []byte) bool) {
	const many = 8
	var seen map[string]struct{}
	if len(sets) > many {
		seen = make(map[string]struct{})
	}
	for i, s := range sets {
		if s == nil {
			continue
		}
		more := true
		s.Each(func(m []byte) bool {
			if seen != nil {
				if _, dup := seen[string(m)]; dup {
					return true
				}
				seen[string(m)] = struct{}{}
			} else if anyHas(sets[:i], m) {
				return true
			}
			more = fn(m)
			return more
		})
		if !more {
			return
		}
	}
}

func anyHas(sets []*keyspace.Set, m []byte) bool {
	for _, s := range sets {
		if s != nil && s.Has(m) {
			return true
		}
	}
	return false
}

// eachDiff walks over the first set and asks the others, the large ones first.
func eachDiff(sets []*keyspace.Set, fn func(m []byte) bool) {
	if sets[0] == nil {
		return
	}
	rest := slices.DeleteFunc(sets[1:], func(s *keyspace.Set) bool { return s == nil })
	slices.SortStableFunc(rest, func(a, b *keyspace.Set) int { return b.Len() - a.Len() })
	sets[0].Each(func(m []byte) bool {
		return anyHas(rest, m) || fn(m)
	})
}
