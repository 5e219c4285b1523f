package command

import (
	"bytes"
	"math"
	"math/big"

	"holdfast/internal/redis/keyspace"
)

// Lists, and what the blocking commands of lists and sorted sets share.

var listCommands = []Spec{
	{Name: "blmove", Arity: 6, Flags: Write | DenyOOM | NoScript | Blocking, Cat: CatList, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyDelete, 1, 1, 1), Key(KeyRW|KeyInsert, 2, 2, 1)}, Run: cmdBlmove},
	{Name: "blmpop", Arity: -5, Flags: Write | Blocking | MovableKeys, Cat: CatList, Keys: []KeySpec{KeyNum(KeyRW|KeyAccess|KeyDelete, 2)}, Run: cmdBlmpop},
	{Name: "blpop", Arity: -3, Flags: Write | NoScript | Blocking, Cat: CatList, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyDelete, 1, -2, 1)}, Run: cmdBlpop},
	{Name: "brpop", Arity: -3, Flags: Write | NoScript | Blocking, Cat: CatList, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyDelete, 1, -2, 1)}, Run: cmdBrpop},
	{Name: "brpoplpush", Arity: 4, Flags: Write | DenyOOM | NoScript | Blocking, Cat: CatList, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyDelete, 1, 1, 1), Key(KeyRW|KeyInsert, 2, 2, 1)}, Run: cmdBrpoplpush},
	{Name: "lindex", Arity: 3, Flags: ReadOnly, Cat: CatList, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Run: cmdLindex},
	{Name: "linsert", Arity: 5, Flags: Write | DenyOOM, Cat: CatList, Keys: []KeySpec{Key(KeyRW|KeyInsert, 1, 1, 1)}, Run: cmdLinsert},
	{Name: "llen", Arity: 2, Flags: ReadOnly | Fast, Cat: CatList, Keys: []KeySpec{Key(KeyRO, 1, 1, 1)}, Run: cmdLlen},
	{Name: "lmove", Arity: 5, Flags: Write | DenyOOM, Cat: CatList, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyDelete, 1, 1, 1), Key(KeyRW|KeyInsert, 2, 2, 1)}, Run: cmdLmove},
	{Name: "lmpop", Arity: -4, Flags: Write | MovableKeys, Cat: CatList, Keys: []KeySpec{KeyNum(KeyRW|KeyAccess|KeyDelete, 1)}, Run: cmdLmpop},
	{Name: "lpop", Arity: -2, Flags: Write | Fast, Cat: CatList, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyDelete, 1, 1, 1)}, Run: cmdLpop},
	{Name: "lpos", Arity: -3, Flags: ReadOnly, Cat: CatList, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Run: cmdLpos},
	{Name: "lpush", Arity: -3, Flags: Write | DenyOOM | Fast, Cat: CatList, Keys: []KeySpec{Key(KeyRW|KeyInsert, 1, 1, 1)}, Run: cmdLpush},
	{Name: "lpushx", Arity: -3, Flags: Write | DenyOOM | Fast, Cat: CatList, Keys: []KeySpec{Key(KeyRW|KeyInsert, 1, 1, 1)}, Run: cmdLpushx},
	{Name: "lrange", Arity: 4, Flags: ReadOnly, Cat: CatList, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Run: cmdLrange},
	{Name: "lrem", Arity: 4, Flags: Write, Cat: CatList, Keys: []KeySpec{Key(KeyRW|KeyDelete, 1, 1, 1)}, Run: cmdLrem},
	{Name: "lset", Arity: 4, Flags: Write | DenyOOM, Cat: CatList, Keys: []KeySpec{Key(KeyRW|KeyUpdate, 1, 1, 1)}, Run: cmdLset},
	{Name: "ltrim", Arity: 4, Flags: Write, Cat: CatList, Keys: []KeySpec{Key(KeyRW|KeyDelete, 1, 1, 1)}, Run: cmdLtrim},
	{Name: "rpop", Arity: -2, Flags: Write | Fast, Cat: CatList, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyDelete, 1, 1, 1)}, Run: cmdRpop},
	{Name: "rpoplpush", Arity: 3, Flags: Write | DenyOOM, Cat: CatList, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyDelete, 1, 1, 1), Key(KeyRW|KeyInsert, 2, 2, 1)}, Run: cmdRpoplpush},
	{Name: "rpush", Arity: -3, Flags: Write | DenyOOM | Fast, Cat: CatList, Keys: []KeySpec{Key(KeyRW|KeyInsert, 1, 1, 1)}, Run: cmdRpush},
	{Name: "rpushx", Arity: -3, Flags: Write | DenyOOM | Fast, Cat: CatList, Keys: []KeySpec{Key(KeyRW|KeyInsert, 1, 1, 1)}, Run: cmdRpushx},
}

// readList looks a list up for reading. When there is none, or something else,
// ok is false: the error of the latter has been replied (bad).
func (c *Ctx) readList(key []byte) (l keyspace.List, ok, bad bool) {
	r, ok, bad := c.ReadAs(key, keyspace.TypeList)
	if ok {
		l = c.DB.List(r)
	}
	return l, ok, bad
}

// writeList is readList for writing.
func (c *Ctx) writeList(key []byte) (l keyspace.List, ok, bad bool) {
	r, ok, bad := c.WriteAs(key, keyspace.TypeList)
	if ok {
		l = c.DB.List(r)
	}
	return l, ok, bad
}

// newList creates a list, to which the caller adds, and wakes who waits for it.
func (c *Ctx) newList(key []byte) keyspace.List {
	l := c.DB.NewList(key)
	c.SignalKey(key)
	c.created(key)
	return l
}

// end is one of the two ends of a list.
type end bool

const (
	left  end = true
	right end = false
)

var (
	argLpop      = []byte("LPOP")
	argRpop      = []byte("RPOP")
	argLmove     = []byte("LMOVE")
	argRpoplpush = []byte("RPOPLPUSH")
	argLeft      = []byte("left")
	argRight     = []byte("right")
)

func (e end) pop(l *keyspace.List) []byte {
	if e == left {
		return l.PopHead()
	}
	return l.PopTail()
}

func (e end) push(l *keyspace.List, v []byte) {
	if e == left {
		l.PushHead(v)
	} else {
		l.PushTail(v)
	}
}

// popEvent is the event of a pop at this end, pushEvent that of a push.
func (e end) popEvent() string {
	if e == left {
		return "lpop"
	}
	return "rpop"
}

func (e end) pushEvent() string {
	if e == left {
		return "lpush"
	}
	return "rpush"
}

// popName is the command that pops here, word the argument that names the end.
func (e end) popName() []byte {
	if e == left {
		return argLpop
	}
	return argRpop
}

func (e end) word() []byte {
	if e == left {
		return argLeft
	}
	return argRight
}

// endArg reads argument i as LEFT or RIGHT.
func (c *Ctx) endArg(i int) (end, bool) {
	switch {
	case c.Is(i, "left"):
		return left, true
	case c.Is(i, "right"):
		return right, true
	}
	c.Err(ErrSyntax)
	return left, false
}

func cmdBlmove(c *Ctx) {
	from, ok := c.endArg(3)
	if !ok {
		return
	}
	to, ok := c.endArg(4)
	if !ok {
		return
	}
	if timeout, ok := c.timeoutArg(5); ok {
		c.blockingMove(from, to, timeout, argLmove, c.Args[1], c.Args[2], from.word(), to.word())
	}
}

func cmdBlmpop(c *Ctx) {
	p, timeout, ok := c.bmpopArgs("left", "right")
	if !ok {
		return
	}
	from := end(p.first)
	if c.lmpop(p.keys, from, p.count) {
		return
	}
	count := p.count
	c.blockOn(p.keys, timeout, func(c *Ctx, key []byte) bool {
		l, ok := c.waitedList(key)
		if ok {
			c.popCounted(&l, key, from, count)
		}
		return ok
	})
}

func cmdBlpop(c *Ctx) { c.blockingPop(left) }

func cmdBrpop(c *Ctx) { c.blockingPop(right) }

func cmdBrpoplpush(c *Ctx) {
	if timeout, ok := c.timeoutArg(3); ok {
		c.blockingMove(right, left, timeout, argRpoplpush, c.Args[1], c.Args[2])
	}
}

func cmdLindex(c *Ctx) {
	l, ok, bad := c.readList(c.Args[1])
	if bad {
		return
	}
	if !ok {
		c.Null()
		return
	}
	i, ok := c.IntArg(2)
	if !ok {
		return
	}
	if v, ok := l.Index(int(i)); ok {
		c.Bulk(v)
	} else {
		c.Null()
	}
}

func cmdLinsert(c *Ctx) {
	after := c.Is(2, "after")
	if !after && !c.Is(2, "before") {
		c.Err(ErrSyntax)
		return
	}
	key, pivot := c.Args[1], c.Args[3]
	l, ok, bad := c.writeList(key)
	if bad {
		return
	}
	if !ok {
		c.Int(0)
		return
	}
	at := -1
	l.Each(0, false, func(i int, v []byte) bool {
		if bytes.Equal(v, pivot) {
			at = i
		}
		return at < 0
	})
	if at < 0 {
		c.Int(-1)
		return
	}
	if after {
		at++
	}
	l.InsertAt(at, c.Args[4])
	c.Changed(NotifyList, "linsert", key)
	c.Int(int64(l.Len()))
}

func cmdLlen(c *Ctx) {
	l, ok, bad := c.readList(c.Args[1])
	switch {
	case bad:
	case ok:
		c.Int(int64(l.Len()))
	default:
		c.Int(0)
	}
}

func cmdLmove(c *Ctx) {
	from, ok := c.endArg(3)
	if !ok {
		return
	}
	if to, ok := c.endArg(4); ok {
		c.move(from, to)
	}
}

func cmdLmpop(c *Ctx) {
	p, ok := c.mpopArgs(1, "left", "right")
	if ok && !c.lmpop(p.keys, end(p.first), p.count) {
		c.NullArray()
	}
}

func cmdLpop(c *Ctx) { c.pop(left) }

// lposOptions are the options of LPOS.
type lposOptions struct {
	rank   int64 // the first match that counts, from the end if negative
	count  int64 // matches to reply, 0 all, -1 only one and no array
	maxlen int64 // elements to compare, 0 all
}

func (c *Ctx) lposOptions() (o lposOptions, ok bool) {
	o = lposOptions{rank: 1, count: -1}
	for i := 3; i < len(c.Args); i += 2 {
		more := i+1 < len(c.Args)
		switch {
		case more && c.Is(i, "rank"):
			o.rank, ok = c.IntArg(i + 1)
			if ok && o.rank == 0 {
				c.Err("ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use negative to start from the end of the list")
				return o, false
			}
		case more && c.Is(i, "count"):
			o.count, ok = c.PositiveArg(i+1, "ERR COUNT can't be negative")
		case more && c.Is(i, "maxlen"):
			o.maxlen, ok = c.PositiveArg(i+1, "ERR MAXLEN can't be negative")
		default:
			c.Err(ErrSyntax)
			ok = false
		}
		if !ok {
			return o, false
		}
	}
	if o.rank == math.MinInt64 {
		// It has no positive counterpart: Redis begins with the last match then,
		// and never reaches the count.
		o.rank, o.count = -1, min(o.count, 0)
	}
	return o, true
}

func cmdLpos(c *Ctx) {
	o, ok := c.lposOptions()
	if !ok {
		return
	}
	l, ok, bad := c.readList(c.Args[1])
	if bad {
		return
	}
	many := o.count >= 0
	var mark Mark
	if many {
		mark = c.Defer()
	}
	replied := 0
	if ok {
		replied = c.positions(&l, c.Args[2], o)
	}
	switch {
	case many:
		c.CloseArray(mark, replied)
	case replied == 0:
		c.Null()
	}
}

// positions replies the positions of v that the options ask for, and returns
// how many they are.
func (c *Ctx) positions(l *keyspace.List, v []byte, o lposOptions) (replied int) {
	from, skip, limit := 0, o.rank-1, max(o.count, -o.count)
	reverse := o.rank < 0
	if reverse {
		from, skip = -1, -o.rank-1
	}
	seen := int64(0)
	l.Each(from, reverse, func(i int, elem []byte) bool {
		seen++
		if bytes.Equal(elem, v) {
			if skip--; skip < 0 {
				c.Int(int64(i))
				replied++
			}
		}
		return (limit == 0 || int64(replied) < limit) && seen != o.maxlen
	})
	return replied
}

func cmdLpush(c *Ctx) { c.push(left, false) }

func cmdLpushx(c *Ctx) { c.push(left, true) }

func cmdLrange(c *Ctx) {
	start, ok := c.IntArg(2)
	if !ok {
		return
	}
	stop, ok := c.IntArg(3)
	if !ok {
		return
	}
	l, ok, bad := c.readList(c.Args[1])
	if bad {
		return
	}
	if !ok {
		c.Array(0)
		return
	}
	first, n := rangeOf(start, stop, l.Len())
	c.elements(&l, first, n, false)
}

// rangeOf turns the range of positions from start to stop, both included and
// counting from the end if negative, into the first one and their number.
func rangeOf(start, stop int64, size int) (first, n int) {
	length := int64(size)
	if start < 0 {
		start = max(start+length, 0)
	}
	if stop < 0 {
		stop += length
	}
	stop = min(stop, length-1)
	if start > stop {
		return 0, 0
	}
	return int(start), int(stop - start + 1)
}

// elements replies n elements from position from on, towards the start when
// reverse is set.
func (c *Ctx) elements(l *keyspace.List, from, n int, reverse bool) {
	c.Array(n)
	if n == 0 {
		return
	}
	l.Each(from, reverse, func(_ int, v []byte) bool {
		c.Bulk(v)
		n--
		return n > 0
	})
}

func cmdLrem(c *Ctx) {
	count, ok := c.IntArg(2)
	if !ok {
		return
	}
	key := c.Args[1]
	l, ok, bad := c.writeList(key)
	if bad {
		return
	}
	if !ok {
		c.Int(0)
		return
	}
	removed := l.RemoveMatching(c.Args[3], int(max(count, -math.MaxInt64)))
	if removed > 0 {
		c.Touched(key)
		c.Notify(NotifyList, "lrem", key)
		c.E.Dirty += int64(removed)
		c.DeleteIfEmpty(key, l.Len())
	}
	c.Int(int64(removed))
}

func cmdLset(c *Ctx) {
	key := c.Args[1]
	l, ok, bad := c.writeList(key)
	if bad {
		return
	}
	if !ok {
		c.Err(ErrNoKey)
		return
	}
	i, ok := c.IntArg(2)
	if !ok {
		return
	}
	if !l.SetAt(int(i), c.Args[3]) {
		c.Err(ErrOutOfRange)
		return
	}
	c.OK()
	c.Changed(NotifyList, "lset", key)
}

func cmdLtrim(c *Ctx) {
	start, ok := c.IntArg(2)
	if !ok {
		return
	}
	stop, ok := c.IntArg(3)
	if !ok {
		return
	}
	key := c.Args[1]
	l, ok, bad := c.writeList(key)
	if bad {
		return
	}
	if !ok {
		c.OK()
		return
	}
	size := l.Len()
	first, n := rangeOf(start, stop, size)
	l.RemoveRange(first+n, size-first-n)
	l.RemoveRange(0, first)
	c.Notify(NotifyList, "ltrim", key)
	c.DeleteIfEmpty(key, n)
	c.Touched(key)
	c.E.Dirty += int64(size - n)
	c.OK()
}

func cmdRpop(c *Ctx) { c.pop(right) }

func cmdRpoplpush(c *Ctx) { c.move(right, left) }

func cmdRpush(c *Ctx) { c.push(right, false) }

func cmdRpushx(c *Ctx) { c.push(right, true) }

// --- push and pop ---

// push puts the arguments from 2 on at one end, one after the other; with
// existing, only if there is a list.
func (c *Ctx) push(to end, existing bool) {
	key := c.Args[1]
	l, ok, bad := c.writeList(key)
	if bad {
		return
	}
	if !ok {
		if existing {
			c.Int(0)
			return
		}
		l = c.newList(key)
	}
	for _, v := range c.Args[2:] {
		to.push(&l, v)
	}
	c.E.Dirty += int64(len(c.Args) - 2)
	c.Int(int64(l.Len()))
	c.Touched(key)
	c.Notify(NotifyList, to.pushEvent(), key)
}

func (c *Ctx) pop(from end) {
	if len(c.Args) > 3 {
		c.ErrArity()
		return
	}
	key, count, counted := c.Args[1], int64(1), len(c.Args) == 3
	ok := true
	if counted {
		if count, ok = c.IntArgRange(2, 0, math.MaxInt64, ErrNotPositive); !ok {
			return
		}
	}
	l, ok, bad := c.writeList(key)
	switch {
	case bad:
	case !ok && counted:
		c.NullArray()
	case !ok:
		c.Null()
	case count == 0:
		c.Array(0)
	case counted:
		c.popRange(&l, key, from, count)
	default:
		c.Bulk(from.pop(&l))
		c.popped(key, from, 1, l.Len())
	}
}

// popRange replies and removes up to count elements of one end. It returns how
// many they were.
func (c *Ctx) popRange(l *keyspace.List, key []byte, from end, count int64) int {
	size := l.Len()
	n := int(min(count, int64(size)))
	if from == left {
		c.elements(l, 0, n, false)
		l.RemoveRange(0, n)
	} else {
		c.elements(l, size-1, n, true)
		l.RemoveRange(size-n, n)
	}
	c.popped(key, from, n, size-n)
	return n
}

// popped tells that n elements were taken from the list, in which left remain.
func (c *Ctx) popped(key []byte, from end, n, left int) {
	c.Notify(NotifyList, from.popEvent(), key)
	c.DeleteIfEmpty(key, left)
	c.Touched(key)
	c.E.Dirty += int64(n)
}

// popCounted is popRange with the key before the elements, propagated as LPOP
// or RPOP with their number.
func (c *Ctx) popCounted(l *keyspace.List, key []byte, from end, count int64) {
	c.Array(2)
	c.Bulk(key)
	n := c.popRange(l, key, from, count)
	c.Rewrite(from.popName(), key, I(int64(n)))
}

// lmpop pops from the first list that there is. It returns false when there is
// none, without a reply.
func (c *Ctx) lmpop(keys [][]byte, from end, count int64) (replied bool) {
	for _, key := range keys {
		l, ok, bad := c.writeList(key)
		if bad {
			return true
		}
		if ok {
			c.popCounted(&l, key, from, count)
			return true
		}
	}
	return false
}

// mpop are the arguments of LMPOP, ZMPOP and their blocking forms.
type mpop struct {
	keys  [][]byte
	first bool // the first of the two words that say where
	count int64
}

// mpopArgs reads them from argument i, the number of keys, on.
func (c *Ctx) mpopArgs(i int, first, second string) (p mpop, ok bool) {
	n, ok := c.IntArgRange(i, 1, math.MaxInt64, "ERR numkeys should be greater than 0")
	if !ok {
		return p, false
	}
	if n >= int64(len(c.Args)-i-1) {
		c.Err(ErrSyntax)
		return p, false
	}
	p.keys = c.Args[i+1 : i+1+int(n)]
	i += 1 + int(n)
	p.first = c.Is(i, first)
	if !p.first && !c.Is(i, second) {
		c.Err(ErrSyntax)
		return p, false
	}
	p.count = 1
	switch rest := len(c.Args) - i - 1; {
	case rest == 0:
		return p, true
	case rest >= 2 && c.Is(i+1, "count"):
		if p.count, ok = c.IntArgRange(i+2, 1, math.MaxInt64, "ERR count should be greater than 0"); !ok {
			return p, false
		}
		if rest == 2 {
			return p, true
		}
	}
	c.Err(ErrSyntax)
	return p, false
}

// bmpopArgs reads the arguments of BLMPOP and BZMPOP. A bad timeout comes first
// and is complained about last, as in Redis.
func (c *Ctx) bmpopArgs(first, second string) (p mpop, timeout int64, ok bool) {
	timeout, text := c.parseTimeout(1)
	if p, ok = c.mpopArgs(2, first, second); ok && text != "" {
		c.Err(text)
		ok = false
	}
	return p, timeout, ok
}

// --- moving from list to list ---

// move is LMOVE from the list of argument 1 to that of argument 2.
func (c *Ctx) move(from, to end) {
	src, ok, bad := c.writeList(c.Args[1])
	if bad {
		return
	}
	if !ok {
		c.Null()
		return
	}
	if c.moveElement(&src, c.Args[1], c.Args[2], from, to) {
		c.Touched(c.Args[1])
		c.E.Dirty++
	}
}

// moveElement takes an element from one end of src to one end of the list
// dstKey and replies it. It returns false when the latter is no list; the
// error has been replied.
func (c *Ctx) moveElement(src *keyspace.List, srcKey, dstKey []byte, from, to end) bool {
	dst, found, bad := c.writeList(dstKey)
	if bad {
		return false
	}
	// The copy in the reply outlives what the keyspace returns.
	v := from.pop(src)
	n := len(v)
	c.Bulk(v)
	last := len(c.Buf) - 2
	v = c.Buf[last-n : last : last]
	size := src.Len()
	switch {
	case bytes.Equal(srcKey, dstKey):
		to.push(src, v)
		size++
	case found:
		to.push(&dst, v)
	default:
		dst = c.newList(dstKey)
		to.push(&dst, v)
	}
	c.Touched(dstKey)
	c.Notify(NotifyList, to.pushEvent(), dstKey)
	c.Notify(NotifyList, from.popEvent(), srcKey)
	c.DeleteIfEmpty(srcKey, size)
	return true
}

// blockingMove moves an element, at once or when there is one. It is
// propagated as the command given.
func (c *Ctx) blockingMove(from, to end, timeout int64, as ...[]byte) {
	_, ok, bad := c.writeList(c.Args[1])
	if bad {
		return
	}
	if ok {
		c.move(from, to)
		c.Rewrite(as...)
		return
	}
	if !c.CanBlock() {
		c.Null()
		return
	}
	as = copyArgs(as)
	c.blockOn(c.Args[1:2], timeout, func(c *Ctx, key []byte) bool {
		src, ok := c.waitedList(key)
		if ok && c.moveElement(&src, key, c.Args[2], from, to) {
			// The push that served it has counted as a change already.
			c.NoPropagate()
			c.Also(as...)
		}
		return ok
	})
}

// --- blocking ---

// blockingPop is BLPOP and BRPOP.
func (c *Ctx) blockingPop(from end) {
	last := len(c.Args) - 1
	timeout, ok := c.timeoutArg(last)
	if !ok {
		return
	}
	keys := c.Args[1:last]
	for _, key := range keys {
		l, ok, bad := c.writeList(key)
		if bad {
			return
		}
		if ok {
			c.Array(2)
			c.Bulk(key)
			c.Bulk(from.pop(&l))
			c.popped(key, from, 1, l.Len())
			c.Rewrite(from.popName(), key)
			return
		}
	}
	c.blockOn(keys, timeout, func(c *Ctx, key []byte) bool {
		l, ok := c.waitedList(key)
		if !ok {
			return false
		}
		c.Array(2)
		c.Bulk(key)
		c.Bulk(from.pop(&l))
		// The push that served it has counted as a change already.
		c.Notify(NotifyList, from.popEvent(), key)
		c.DeleteIfEmpty(key, l.Len())
		c.NoPropagate()
		c.Also(from.popName(), key)
		return true
	})
}

// waitedList returns the list that a blocked client has waited for; ok is false
// while there is none.
func (c *Ctx) waitedList(key []byte) (l keyspace.List, ok bool) {
	r, ok := c.Write(key)
	if !ok || r.Type() != keyspace.TypeList {
		return l, false
	}
	return c.DB.List(r), true
}

// blockOn makes the client wait for one of the keys; where it may not wait, its
// time is over at once.
func (c *Ctx) blockOn(keys [][]byte, timeoutMs int64, try func(c *Ctx, key []byte) bool) {
	if !c.CanBlock() {
		c.NullArray()
		return
	}
	c.Block(keys, timeoutMs, try, (*Ctx).NullArray)
}

// timeoutArg reads argument i as the timeout of a blocking command, in seconds.
// It returns milliseconds, 0 for no timeout, or replies the error.
func (c *Ctx) timeoutArg(i int) (ms int64, ok bool) {
	ms, text := c.parseTimeout(i)
	if text != "" {
		c.Err(text)
		return 0, false
	}
	return ms, true
}

// parseTimeout is timeoutArg without the reply: text is the error.
func (c *Ctx) parseTimeout(i int) (ms int64, text string) {
	const negative = "ERR timeout is negative"
	if n, ok := parseInt(c.Args[i]); ok && n >= 0 && n < math.MaxInt64/1000 {
		return c.deadlineIn(n * 1000), ""
	}
	d, ok := parseLongDouble(c.Args[i])
	if !ok {
		return 0, "ERR timeout is not a float or out of range"
	}
	if d.inf {
		return 0, negative
	}
	var scaled big.Float
	scaled.SetPrec(longDoublePrec).Mul(&d.f, big.NewFloat(1000))
	ms, exact := scaled.Int64()
	if exact != big.Exact && scaled.Sign() > 0 && ms < math.MaxInt64 {
		ms++ // rounded up: a timeout that is not 0 must not become none
	}
	if scaled.Sign() > 0 && scaled.Cmp(new(big.Float).SetInt64(math.MaxInt64)) > 0 {
		// Redis casts what does not fit to the smallest integer.
		return 0, negative
	}
	if ms < 0 {
		return 0, negative
	}
	return c.deadlineIn(ms), ""
}

// deadlineIn returns the timeout, or 0 for one that ends beyond all time.
func (c *Ctx) deadlineIn(ms int64) int64 {
	if ms > math.MaxInt64-c.Now() {
		return 0
	}
	return ms
}
