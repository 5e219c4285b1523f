package command

import (
	"math"
	"math/rand/v2"
	"strconv"

	"holdfast/internal/redis/keyspace"
	"holdfast/internal/redis/resp"
)

var hashCommands = []Spec{
	{Name: "hdel", Arity: -3, Flags: Write | Fast, Cat: CatHash, Keys: []KeySpec{Key(KeyRW|KeyDelete, 1, 1, 1)}, Run: cmdHdel},
	{Name: "hexists", Arity: 3, Flags: ReadOnly | Fast, Cat: CatHash, Keys: []KeySpec{Key(KeyRO, 1, 1, 1)}, Run: cmdHexists},
	{Name: "hget", Arity: 3, Flags: ReadOnly | Fast, Cat: CatHash, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Run: cmdHget},
	{Name: "hgetall", Arity: 2, Flags: ReadOnly, Cat: CatHash, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Tips: []string{"nondeterministic_output_order"}, Run: cmdHgetall},
	{Name: "hincrby", Arity: 4, Flags: Write | DenyOOM | Fast, Cat: CatHash, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyUpdate, 1, 1, 1)}, Run: cmdHincrby},
	{Name: "hincrbyfloat", Arity: 4, Flags: Write | DenyOOM | Fast, Cat: CatHash, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyUpdate, 1, 1, 1)}, Run: cmdHincrbyfloat},
	{Name: "hkeys", Arity: 2, Flags: ReadOnly, Cat: CatHash, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Tips: []string{"nondeterministic_output_order"}, Run: cmdHkeys},
	{Name: "hlen", Arity: 2, Flags: ReadOnly | Fast, Cat: CatHash, Keys: []KeySpec{Key(KeyRO, 1, 1, 1)}, Run: cmdHlen},
	{Name: "hmget", Arity: -3, Flags: ReadOnly | Fast, Cat: CatHash, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Run: cmdHmget},
	{Name: "hmset", Arity: -4, Flags: Write | DenyOOM | Fast, Cat: CatHash, Keys: []KeySpec{Key(KeyRW|KeyUpdate, 1, 1, 1)}, Run: cmdHmset},
	{Name: "hrandfield", Arity: -2, Flags: ReadOnly, Cat: CatHash, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Tips: []string{"nondeterministic_output"}, Run: cmdHrandfield},
	{Name: "hscan", Arity: -3, Flags: ReadOnly, Cat: CatHash, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Tips: []string{"nondeterministic_output"}, Run: cmdHscan},
	{Name: "hset", Arity: -4, Flags: Write | DenyOOM | Fast, Cat: CatHash, Keys: []KeySpec{Key(KeyRW|KeyUpdate, 1, 1, 1)}, Run: cmdHset},
	{Name: "hsetnx", Arity: 4, Flags: Write | DenyOOM | Fast, Cat: CatHash, Keys: []KeySpec{Key(KeyRW|KeyInsert, 1, 1, 1)}, Run: cmdHsetnx},
	{Name: "hstrlen", Arity: 3, Flags: ReadOnly | Fast, Cat: CatHash, Keys: []KeySpec{Key(KeyRO, 1, 1, 1)}, Run: cmdHstrlen},
	{Name: "hvals", Arity: 2, Flags: ReadOnly, Cat: CatHash, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Tips: []string{"nondeterministic_output_order"}, Run: cmdHvals},
}

// readHash looks the hash of argument 1 up for reading. When there is none, or
// something else, ok is false: the error of the latter has been replied (bad).
func (c *Ctx) readHash() (h keyspace.Hash, ok, bad bool) {
	r, ok, bad := c.ReadAs(c.Args[1], keyspace.TypeHash)
	if ok {
		h = c.DB.Hash(r)
	}
	return h, ok, bad
}

// hashForWrite returns the hash of argument 1, which is created if need be.
func (c *Ctx) hashForWrite() (h keyspace.Hash, ok bool) {
	key := c.Args[1]
	r, found, bad := c.WriteAs(key, keyspace.TypeHash)
	if bad {
		return h, false
	}
	if found {
		return c.DB.Hash(r), true
	}
	h = c.DB.NewHash(key)
	c.created(key)
	return h, true
}

func cmdHdel(c *Ctx) {
	key := c.Args[1]
	r, found, bad := c.WriteAs(key, keyspace.TypeHash)
	if bad {
		return
	}
	if !found {
		c.Int(0)
		return
	}
	h := c.DB.Hash(r)
	deleted, left := int64(0), h.Len()
	for _, field := range c.Args[2:] {
		if h.Del(field) {
			deleted++
			if left--; left == 0 {
				break
			}
		}
	}
	c.removed(key, NotifyHash, "hdel", deleted, left)
}

// removed ends a command that has taken n elements out of the collection at key
// and left some: it says so to everybody, and replies n.
func (c *Ctx) removed(key []byte, class NotifyClass, event string, n int64, left int) {
	if n > 0 {
		c.Touched(key)
		c.Notify(class, event, key)
		c.DeleteIfEmpty(key, left)
		c.E.Dirty += n
	}
	c.Int(n)
}

func cmdHexists(c *Ctx) {
	h, ok, bad := c.readHash()
	switch {
	case bad:
	case ok && h.Has(c.Args[2]):
		c.Int(1)
	default:
		c.Int(0)
	}
}

func cmdHget(c *Ctx) {
	h, ok, bad := c.readHash()
	if bad {
		return
	}
	if ok {
		if val, ok := h.Get(c.Args[2]); ok {
			c.Bulk(val)
			return
		}
	}
	c.Null()
}

func cmdHgetall(c *Ctx) {
	h, ok, bad := c.readHash()
	if bad {
		return
	}
	if !ok {
		c.Map(0)
		return
	}
	c.Map(h.Len())
	h.Each(func(field, val []byte) bool {
		c.Bulk(field)
		c.Bulk(val)
		return true
	})
}

func cmdHincrby(c *Ctx) {
	by, ok := c.IntArg(3)
	if !ok {
		return
	}
	key, field := c.Args[1], c.Args[2]
	r, found, bad := c.WriteAs(key, keyspace.TypeHash)
	if bad {
		return
	}
	var h keyspace.Hash
	var n int64
	if found {
		h = c.DB.Hash(r)
		if val, has := h.Get(field); has {
			if n, ok = resp.ParseInt(val); !ok {
				c.Err("ERR hash value is not an integer")
				return
			}
		}
	}
	if addOverflows(n, by) {
		c.Err(errIncrOverflow)
		return
	}
	if !found {
		h = c.DB.NewHash(key)
		c.created(key)
	}
	n += by
	var t [20]byte
	h.Set(field, strconv.AppendInt(t[:0], n, 10))
	c.Changed(NotifyHash, "hincrby", key)
	c.Int(n)
}

func cmdHincrbyfloat(c *Ctx) {
	by, ok := parseLongDouble(c.Args[3])
	if !ok {
		c.Err(ErrNotFloat)
		return
	}
	if by.inf {
		c.Err("ERR value is NaN or Infinity")
		return
	}
	key, field := c.Args[1], c.Args[2]
	r, found, bad := c.WriteAs(key, keyspace.TypeHash)
	if bad {
		return
	}
	var h keyspace.Hash
	if found {
		h = c.DB.Hash(r)
		if val, has := h.Get(field); has {
			old, ok := parseLongDouble(val)
			if !ok {
				c.Err("ERR hash value is not a float")
				return
			}
			if !by.add(&old) {
				c.Err(errNaNOrInf)
				return
			}
		}
	} else {
		h = c.DB.NewHash(key)
		c.created(key)
	}
	val := []byte(by.text())
	h.Set(field, val)
	c.Changed(NotifyHash, "hincrbyfloat", key)
	c.Bulk(val)
	// The result, not the step: formatting and rounding are ours alone.
	c.Rewrite(argHset, key, field, val)
}

var argHset = []byte("HSET")

func cmdHkeys(c *Ctx) {
	h, ok, bad := c.readHash()
	if bad {
		return
	}
	if !ok {
		c.Array(0)
		return
	}
	c.Array(h.Len())
	h.Each(func(field, _ []byte) bool {
		c.Bulk(field)
		return true
	})
}

func cmdHlen(c *Ctx) {
	h, ok, bad := c.readHash()
	switch {
	case bad:
	case ok:
		c.Int(int64(h.Len()))
	default:
		c.Int(0)
	}
}

func cmdHmget(c *Ctx) {
	h, ok, bad := c.readHash()
	if bad {
		return
	}
	c.Array(len(c.Args) - 2)
	for _, field := range c.Args[2:] {
		if ok {
			if val, has := h.Get(field); has {
				c.Bulk(val)
				continue
			}
		}
		c.Null()
	}
}

func cmdHmset(c *Ctx) {
	if _, ok := c.hset(); ok {
		c.OK()
	}
}

// hset sets the fields from argument 2 on and returns how many are new.
func (c *Ctx) hset() (added int64, ok bool) {
	if len(c.Args)%2 == 1 {
		c.ErrArity()
		return 0, false
	}
	h, ok := c.hashForWrite()
	if !ok {
		return 0, false
	}
	for i := 2; i < len(c.Args); i += 2 {
		if h.Set(c.Args[i], c.Args[i+1]) {
			added++
		}
	}
	key := c.Args[1]
	c.Touched(key)
	c.Notify(NotifyHash, "hset", key)
	c.E.Dirty += int64(len(c.Args)-2) / 2
	return added, true
}

func cmdHrandfield(c *Ctx) {
	if len(c.Args) > 2 {
		hrandfieldCount(c)
		return
	}
	h, ok, bad := c.readHash()
	if bad {
		return
	}
	if !ok {
		c.Null()
		return
	}
	field, _ := h.Random(c.E.Rand)
	c.Bulk(field)
}

// randomArgs reads the count of HRANDFIELD and ZRANDMEMBER, and the word behind it
// that asks for values or scores as well, which halves what a count may be.
func (c *Ctx) randomArgs(word string) (n int64, with, ok bool) {
	if n, ok = c.IntArgRange(2, -math.MaxInt64, math.MaxInt64, ""); !ok {
		return n, false, false
	}
	with = len(c.Args) == 4 && c.Is(3, word)
	if len(c.Args) > 3 && !with {
		c.Err(ErrSyntax)
		return n, with, false
	}
	if with && (n < -math.MaxInt64/2 || n > math.MaxInt64/2) {
		c.Err("ERR value is out of range")
		return n, with, false
	}
	return n, with, true
}

func hrandfieldCount(c *Ctx) {
	n, withValues, ok := c.randomArgs("withvalues")
	if !ok {
		return
	}
	h, ok, bad := c.readHash()
	if bad {
		return
	}
	if !ok || n == 0 {
		c.Array(0)
		return
	}
	size := h.Len()
	count := min(n, int64(size))
	if n < 0 {
		count = -n
	}
	emit := func(field, val []byte) {
		if withValues && c.Proto == 3 {
			c.Array(2)
		}
		c.Bulk(field)
		if withValues {
			c.Bulk(val)
		}
	}
	if withValues && c.Proto == 2 {
		c.Array(int(count) * 2)
	} else {
		c.Array(int(count))
	}
	switch {
	case n < 0 || n == 1:
		for ; count > 0 && !c.tooLong(); count-- {
			emit(h.Random(c.E.Rand))
		}
	case worthSeen(int(count), size):
		seen := make(map[string]struct{}, count)
		for int64(len(seen)) < count {
			field, val := h.Random(c.E.Rand)
			if _, dup := seen[string(field)]; !dup {
				seen[string(field)] = struct{}{}
				emit(field, val)
			}
		}
	default:
		pick := picker{c.E.Rand, size, int(count)}
		h.Each(func(field, val []byte) bool {
			if pick.take() {
				emit(field, val)
			}
			return pick.need > 0
		})
	}
}

// maxRepeated bounds the reply to a request for random elements that may be
// repeated: the client alone says how many.
const maxRepeated = 1 << 30 // bytes

// tooLong reports whether the reply has outgrown any use; the client is then
// closed, as it would be by an output buffer limit.
func (c *Ctx) tooLong() bool {
	if len(c.Buf) < maxRepeated {
		return false
	}
	c.Client.Flags |= FlagCloseASAP
	c.E.Host.Close(c.Client, false)
	return true
}

// worthSeen reports whether count different ones of size elements are found
// sooner by drawing and remembering than by walking over all.
func worthSeen(count, size int) bool { return size > 64 && count < size/3 }

// picker draws need of left elements, each subset with the same probability,
// while they are walked over.
type picker struct {
	rng        *rand.Rand
	left, need int
}

// take decides about the next element.
func (p *picker) take() bool {
	ok := p.rng.IntN(p.left) < p.need
	p.left--
	if ok {
		p.need--
	}
	return ok
}

func cmdHscan(c *Ctx) {
	cursor, ok := c.scanCursor(2)
	if !ok {
		return
	}
	h, ok, bad := c.readHash()
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
	next := h.Scan(cursor, o.count, func(field, val []byte) {
		if o.match(field) {
			c.Bulk(field)
			c.Bulk(val)
			n += 2
		}
	})
	c.closeScan(start, next, n)
}

func cmdHset(c *Ctx) {
	if added, ok := c.hset(); ok {
		c.Int(added)
	}
}

func cmdHsetnx(c *Ctx) {
	h, ok := c.hashForWrite()
	if !ok {
		return
	}
	if h.Has(c.Args[2]) {
		c.Int(0)
		return
	}
	h.Set(c.Args[2], c.Args[3])
	c.Changed(NotifyHash, "hset", c.Args[1])
	c.Int(1)
}

func cmdHstrlen(c *Ctx) {
	h, ok, bad := c.readHash()
	if bad {
		return
	}
	n := 0
	if ok {
		val, _ := h.Get(c.Args[2])
		n = len(val)
	}
	c.Int(int64(n))
}

func cmdHvals(c *Ctx) {
	h, ok, bad := c.readHash()
	if bad {
		return
	}
	if !ok {
		c.Array(0)
		return
	}
	c.Array(h.Len())
	h.Each(func(_, val []byte) bool {
		c.Bulk(val)
		return true
	})
}
