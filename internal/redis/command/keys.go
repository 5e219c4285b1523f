package command

import (
	"math"

	"holdfast/internal/redis/cluster/slot"
	"holdfast/internal/redis/glob"
	"holdfast/internal/redis/keyspace"
	"holdfast/internal/redis/resp"
)

// Commands about keys whatever they hold, and about whole databases.

var keysCommands = []Spec{
	{Name: "copy", Arity: -3, Flags: Write | DenyOOM, Cat: CatKeyspace, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1), Key(KeyOW|KeyUpdate, 2, 2, 1)}, Run: cmdCopy},
	{Name: "dbsize", Arity: 1, Flags: ReadOnly | Fast, Cat: CatKeyspace, Tips: []string{"request_policy:all_shards", "response_policy:agg_sum"}, Run: cmdDbsize},
	{Name: "del", Arity: -2, Flags: Write, Cat: CatKeyspace, Keys: []KeySpec{Key(KeyRM|KeyDelete, 1, -1, 1)}, Tips: []string{"request_policy:multi_shard", "response_policy:agg_sum"}, Run: cmdDel},
	{Name: "exists", Arity: -2, Flags: ReadOnly | Fast, Cat: CatKeyspace, Keys: []KeySpec{Key(KeyRO, 1, -1, 1)}, Tips: []string{"request_policy:multi_shard", "response_policy:agg_sum"}, Run: cmdExists},
	{Name: "expire", Arity: -3, Flags: Write | Fast, Cat: CatKeyspace, Keys: []KeySpec{Key(KeyRW|KeyUpdate, 1, 1, 1)}, Run: cmdExpire},
	{Name: "expireat", Arity: -3, Flags: Write | Fast, Cat: CatKeyspace, Keys: []KeySpec{Key(KeyRW|KeyUpdate, 1, 1, 1)}, Run: cmdExpireat},
	{Name: "expiretime", Arity: 2, Flags: ReadOnly | Fast, Cat: CatKeyspace, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Run: cmdExpiretime},
	{Name: "flushall", Arity: -1, Flags: Write, Cat: CatKeyspace | CatDangerous, Tips: []string{"request_policy:all_shards", "response_policy:all_succeeded"}, Run: cmdFlushall},
	{Name: "flushdb", Arity: -1, Flags: Write, Cat: CatKeyspace | CatDangerous, Tips: []string{"request_policy:all_shards", "response_policy:all_succeeded"}, Run: cmdFlushdb},
	{Name: "keys", Arity: 2, Flags: ReadOnly, Cat: CatKeyspace | CatDangerous, Tips: []string{"request_policy:all_shards", "nondeterministic_output_order"}, Run: cmdKeys},
	{Name: "move", Arity: 3, Flags: Write | Fast, Cat: CatKeyspace, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyUpdate, 1, 1, 1)}, Run: cmdMove},
	{Name: "persist", Arity: 2, Flags: Write | Fast, Cat: CatKeyspace, Keys: []KeySpec{Key(KeyRW|KeyUpdate, 1, 1, 1)}, Run: cmdPersist},
	{Name: "pexpire", Arity: -3, Flags: Write | Fast, Cat: CatKeyspace, Keys: []KeySpec{Key(KeyRW|KeyUpdate, 1, 1, 1)}, Run: cmdPexpire},
	{Name: "pexpireat", Arity: -3, Flags: Write | Fast, Cat: CatKeyspace, Keys: []KeySpec{Key(KeyRW|KeyUpdate, 1, 1, 1)}, Run: cmdPexpireat},
	{Name: "pexpiretime", Arity: 2, Flags: ReadOnly | Fast, Cat: CatKeyspace, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Run: cmdPexpiretime},
	{Name: "pttl", Arity: 2, Flags: ReadOnly | Fast, Cat: CatKeyspace, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Tips: []string{"nondeterministic_output"}, Run: cmdPttl},
	{Name: "randomkey", Arity: 1, Flags: ReadOnly, Cat: CatKeyspace, Tips: []string{"request_policy:all_shards", "nondeterministic_output"}, Run: cmdRandomkey},
	{Name: "rename", Arity: 3, Flags: Write, Cat: CatKeyspace, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyDelete, 1, 1, 1), Key(KeyOW|KeyUpdate, 2, 2, 1)}, Run: cmdRename},
	{Name: "renamenx", Arity: 3, Flags: Write | Fast, Cat: CatKeyspace, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyDelete, 1, 1, 1), Key(KeyOW|KeyInsert, 2, 2, 1)}, Run: cmdRenamenx},
	{Name: "swapdb", Arity: 3, Flags: Write | Fast, Cat: CatKeyspace | CatDangerous, Run: cmdSwapdb},
	{Name: "touch", Arity: -2, Flags: ReadOnly | Fast, Cat: CatKeyspace, Keys: []KeySpec{Key(KeyRO, 1, -1, 1)}, Tips: []string{"request_policy:multi_shard", "response_policy:agg_sum"}, Run: cmdTouch},
	{Name: "ttl", Arity: 2, Flags: ReadOnly | Fast, Cat: CatKeyspace, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Tips: []string{"nondeterministic_output"}, Run: cmdTtl},
	{Name: "type", Arity: 2, Flags: ReadOnly | Fast, Cat: CatKeyspace, Keys: []KeySpec{Key(KeyRO, 1, 1, 1)}, Run: cmdType},
	{Name: "unlink", Arity: -2, Flags: Write | Fast, Cat: CatKeyspace, Keys: []KeySpec{Key(KeyRM|KeyDelete, 1, -1, 1)}, Tips: []string{"request_policy:multi_shard", "response_policy:agg_sum"}, Run: cmdUnlink},
}

const errDBIndex = "ERR DB index is out of range"

// dbArg reads argument i as the number of a database. text replaces the error
// of what is no integer of 32 bits.
func (c *Ctx) dbArg(i int, text string) (*keyspace.DB, bool) {
	n, ok := c.IntArgRange(i, math.MinInt32, math.MaxInt32, text)
	if !ok {
		return nil, false
	}
	if n < 0 || n >= int64(c.E.KS.NumDB()) {
		c.Err(errDBIndex)
		return nil, false
	}
	return c.E.KS.DB(int(n)), true
}

// readQuietly is Read without an effect on the eviction: EXISTS, TTL and their
// like look at a key without using it.
func (c *Ctx) readQuietly(key []byte) (keyspace.Ref, bool) {
	r, ok := c.Peek(key)
	if ok {
		c.E.Stat.KeyspaceHits++
	} else {
		c.E.Stat.KeyspaceMisses++
		c.Notify(NotifyKeyMiss, "keymiss", key)
	}
	return r, ok
}

func cmdCopy(c *Ctx) {
	key, newKey := c.Args[1], c.Args[2]
	dst, replace := c.DB, false
	for i := 3; i < len(c.Args); i++ {
		switch {
		case c.Is(i, "replace"):
			replace = true
		case c.Is(i, "db") && i+1 < len(c.Args):
			i++
			var ok bool
			if dst, ok = c.dbArg(i, ""); !ok {
				return
			}
		default:
			c.Err(ErrSyntax)
			return
		}
	}
	if c.E.Cfg.ClusterEnabled && (c.DB.Index() != 0 || dst.Index() != 0) {
		c.Err("ERR Copying to another database is not allowed in cluster mode")
		return
	}
	if dst == c.DB && string(key) == string(newKey) {
		c.Err(ErrSameObject)
		return
	}
	if _, ok := c.Read(key); !ok {
		c.Int(0)
		return
	}
	if _, there := c.E.lookupWrite(dst, c.Client, newKey); there && !replace {
		c.Int(0)
		return
	}
	c.DB.Copy(key, dst, newKey)
	c.placed(dst, newKey)
	c.E.Notify(NotifyGeneric, "copy_to", newKey, dst)
	c.E.Dirty++
	c.Int(1)
}

// placed says that a value has come to stand under key of db: clients may wait
// for it, transactions may watch it.
func (c *Ctx) placed(db *keyspace.DB, key []byte) {
	c.E.Notify(NotifyNew, "new", key, db)
	c.E.SignalKey(db, key)
	c.touched(db, key)
}

func cmdDbsize(c *Ctx) {
	n := c.DB.Len()
	if c.hidden() != nil {
		n = c.E.VisibleLen(c.DB)
	}
	c.Int(int64(n))
}

func cmdDel(c *Ctx) { c.deleteKeys(c.E.Cfg.LazyfreeLazyUserDel) }

func (c *Ctx) deleteKeys(lazy bool) {
	n := int64(0)
	for _, key := range c.Args[1:] {
		// The lookup deletes an expired key, which does not count.
		if _, ok := c.Peek(key); ok && c.DB.Delete(key, lazy) {
			c.Changed(NotifyGeneric, "del", key)
			n++
		}
	}
	c.Int(n)
}

func cmdExists(c *Ctx) {
	n := int64(0)
	for _, key := range c.Args[1:] {
		if _, ok := c.readQuietly(key); ok {
			n++
		}
	}
	c.Int(n)
}

func cmdExpire(c *Ctx) { c.expireAt(c.Now(), true) }

func cmdExpireat(c *Ctx) { c.expireAt(0, true) }

// expireOptions are the conditions of EXPIRE.
type expireOptions struct{ nx, xx, gt, lt bool }

func (c *Ctx) expireOptions() (o expireOptions, ok bool) {
	for i := 3; i < len(c.Args); i++ {
		switch {
		case c.Is(i, "nx"):
			o.nx = true
		case c.Is(i, "xx"):
			o.xx = true
		case c.Is(i, "gt"):
			o.gt = true
		case c.Is(i, "lt"):
			o.lt = true
		default:
			c.Err("ERR Unsupported option " + cString(c.Args[i]))
			return o, false
		}
	}
	if o.nx && (o.xx || o.gt || o.lt) {
		c.Err("ERR NX and XX, GT or LT options at the same time are not compatible")
		return o, false
	}
	if o.gt && o.lt {
		c.Err("ERR GT and LT options at the same time are not compatible")
		return o, false
	}
	return o, true
}

// cString is b up to its first NUL, as C prints it.
func cString(b []byte) string {
	for i, ch := range b {
		if ch == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// allow reports whether the new time of expiry may replace the current one, -1
// for none, which counts as infinitely late.
func (o expireOptions) allow(when, current int64) bool {
	switch {
	case o.nx && current != -1, o.xx && current == -1:
		return false
	case o.gt && (current == -1 || when <= current):
		return false
	case o.lt && current != -1 && when >= current:
		return false
	}
	return true
}

// expireAt is EXPIRE and its variants: argument 2 counts from base (Unix time
// in ms), in seconds or milliseconds.
func (c *Ctx) expireAt(base int64, seconds bool) {
	key := c.Args[1]
	o, ok := c.expireOptions()
	if !ok {
		return
	}
	when, ok := c.IntArg(2)
	if !ok {
		return
	}
	if seconds {
		if when > math.MaxInt64/1000 || when < math.MinInt64/1000 {
			c.ErrExpire()
			return
		}
		when *= 1000
	}
	if when > math.MaxInt64-base {
		c.ErrExpire()
		return
	}
	when += base
	r, ok := c.Write(key)
	if !ok || !o.allow(when, r.ExpireAt()) {
		c.Int(0)
		return
	}
	if c.alreadyExpired(when) {
		lazy := c.E.Cfg.LazyfreeLazyExpire
		c.DB.Delete(key, lazy)
		c.Rewrite(delName(lazy), key)
		c.Changed(NotifyGeneric, "del", key)
		c.Int(1)
		return
	}
	// Before 1970 is as gone as 1970, and the keyspace knows no earlier time.
	when = max(when, 0)
	c.DB.SetExpire(key, when)
	c.Int(1)
	c.rewriteExpire(when, base == 0 && !seconds)
	c.Changed(NotifyGeneric, "expire", key)
}

// rewriteExpire propagates a time of expiry as PEXPIREAT, with the options that
// the command has; exact says that the command is that already.
func (c *Ctx) rewriteExpire(when int64, exact bool) {
	if exact {
		return
	}
	args := append(make([][]byte, 0, len(c.Args)), argPexpireat, c.Args[1], I(when))
	c.Rewrite(append(args, c.Args[3:]...)...)
}

// alreadyExpired reports whether a time of expiry means to delete at once. A
// replica and a replay keep the key: it is not theirs to delete.
func (c *Ctx) alreadyExpired(when int64) bool {
	return when <= c.Now() && !c.E.State.Loading && !c.E.State.IsReplica && !c.obeys()
}

func cmdExpiretime(c *Ctx) { c.ttl(false, true) }

// flushMode reads the option of FLUSHALL and FLUSHDB.
func (c *Ctx) flushMode() (async, ok bool) {
	switch {
	case len(c.Args) == 1:
		return c.E.Cfg.LazyfreeLazyUserFlush, true
	case len(c.Args) == 2 && c.Is(1, "sync"):
		return false, true
	case len(c.Args) == 2 && c.Is(1, "async"):
		return true, true
	}
	c.Err(ErrSyntax)
	return false, false
}

// Empty removes all keys, in the background if lazy, and returns how many there
// were. It tells nobody but watchers. The lock is held.
func (e *Engine) Empty(lazy bool) (keys int64) {
	for i := range e.KS.NumDB() {
		db := e.KS.DB(i)
		e.TouchedAll(db, nil)
		keys += int64(db.Len())
	}
	e.KS.Flush(-1, lazy)
	e.ForgetOwnExpires()
	return keys
}

func cmdFlushall(c *Ctx) {
	async, ok := c.flushMode()
	if !ok {
		return
	}
	c.E.Dirty += c.E.Empty(async)
	if c.E.OnFlushAll != nil && !c.Client.Has(FlagReplay) {
		c.E.OnFlushAll()
	}
	c.ForcePropagate() // a replica may hold what this one does not
	c.OK()
}

func cmdFlushdb(c *Ctx) {
	async, ok := c.flushMode()
	if !ok {
		return
	}
	c.E.TouchedAll(c.DB, nil)
	c.E.Dirty += int64(c.DB.Len())
	c.E.KS.Flush(c.DB.Index(), async)
	c.ForcePropagate()
	c.OK()
}

func cmdKeys(c *Ctx) {
	pattern := c.Args[1]
	all := len(pattern) == 1 && pattern[0] == '*'
	hidden := c.hidden()
	mark, n := c.Defer(), 0
	c.DB.Each(func(r keyspace.Ref) bool {
		key := r.Key()
		if hidden != nil && hidden.Has(slot.Of(key)) {
			return true
		}
		if (all || glob.Match(pattern, key, false)) && !c.Expired(r) {
			c.Bulk(key)
			n++
		}
		return true
	})
	c.CloseArray(mark, n)
}

func cmdMove(c *Ctx) {
	if c.E.Cfg.ClusterEnabled {
		c.Err("ERR MOVE is not allowed in cluster mode")
		return
	}
	key := c.Args[1]
	dst, ok := c.dbArg(2, "")
	if !ok {
		return
	}
	if dst == c.DB {
		c.Err(ErrSameObject)
		return
	}
	if _, ok := c.Write(key); !ok {
		c.Int(0)
		return
	}
	if _, there := c.E.lookupWrite(dst, c.Client, key); there {
		c.Int(0)
		return
	}
	c.DB.Move(key, dst)
	c.Touched(key)
	c.placed(dst, key)
	c.Notify(NotifyGeneric, "move_from", key)
	c.E.Notify(NotifyGeneric, "move_to", key, dst)
	c.E.Dirty++
	c.Int(1)
}

func cmdPersist(c *Ctx) {
	key := c.Args[1]
	if _, ok := c.Write(key); ok && c.DB.Persist(key) {
		c.Changed(NotifyGeneric, "persist", key)
		c.Int(1)
		return
	}
	c.Int(0)
}

func cmdPexpire(c *Ctx) { c.expireAt(c.Now(), false) }

func cmdPexpireat(c *Ctx) { c.expireAt(0, false) }

func cmdPexpiretime(c *Ctx) { c.ttl(true, true) }

func cmdPttl(c *Ctx) { c.ttl(true, false) }

// ttl replies when the key of argument 1 expires: in how long, or at what
// time, in milliseconds or seconds; -2 without the key, -1 without expiry.
func (c *Ctx) ttl(ms, absolute bool) {
	r, ok := c.readQuietly(c.Args[1])
	if !ok {
		c.Int(-2)
		return
	}
	at := r.ExpireAt()
	if at == -1 {
		c.Int(-1)
		return
	}
	if !absolute {
		at = max(at-c.Now(), 0)
	}
	if !ms {
		at = (at + 500) / 1000
	}
	c.Int(at)
}

func cmdRandomkey(c *Ctx) {
	// On a replica expired keys stay; a database full of them must not hold
	// the search up for ever.
	for range 100 {
		r, ok := c.randomVisible()
		if !ok {
			break
		}
		if !c.Expired(r) || c.E.State.IsReplica && c.DB.Volatile() == c.DB.Len() {
			c.Bulk(r.Key())
			return
		}
		c.Peek(append([]byte(nil), r.Key()...)) // deletes it
	}
	c.Null()
}

// randomVisible returns a random key among those that the client sees.
func (c *Ctx) randomVisible() (r keyspace.Ref, ok bool) {
	hidden := c.hidden()
	if hidden == nil {
		return c.DB.Random(c.E.Rand)
	}
	for range 100 {
		if r, ok = c.DB.Random(c.E.Rand); !ok || !hidden.Has(slot.Of(r.Key())) {
			return r, ok
		}
	}
	// Almost all are hidden: the first that is not.
	ok = false
	c.DB.Each(func(x keyspace.Ref) bool {
		if ok = !hidden.Has(slot.Of(x.Key())); ok {
			r = x
		}
		return !ok
	})
	return r, ok
}

func cmdRename(c *Ctx) { c.rename(false) }

func cmdRenamenx(c *Ctx) { c.rename(true) }

func (c *Ctx) rename(nx bool) {
	from, to := c.Args[1], c.Args[2]
	if _, ok := c.Write(from); !ok {
		c.Err(ErrNoKey)
		return
	}
	if string(from) == string(to) {
		c.renamed(nx, 0)
		return
	}
	if _, there := c.Write(to); there && nx {
		c.Int(0)
		return
	}
	c.DB.Rename(from, to)
	c.Touched(from)
	c.placed(c.DB, to)
	c.Notify(NotifyGeneric, "rename_from", from)
	c.Notify(NotifyGeneric, "rename_to", to)
	c.E.Dirty++
	c.renamed(nx, 1)
}

func (c *Ctx) renamed(nx bool, n int64) {
	if nx {
		c.Int(n)
	} else {
		c.OK()
	}
}

func cmdSwapdb(c *Ctx) {
	if c.E.Cfg.ClusterEnabled {
		c.Err("ERR SWAPDB is not allowed in cluster mode")
		return
	}
	// Both are read as numbers before either is judged.
	if _, ok := c.IntArgRange(1, math.MinInt32, math.MaxInt32, "ERR invalid first DB index"); !ok {
		return
	}
	second, ok := c.IntArgRange(2, math.MinInt32, math.MaxInt32, "ERR invalid second DB index")
	if !ok {
		return
	}
	first, _ := resp.ParseInt(c.Args[1])
	n := int64(c.E.KS.NumDB())
	if first < 0 || first >= n || second < 0 || second >= n {
		c.Err(errDBIndex)
		return
	}
	if first != second {
		a, b := c.E.KS.DB(int(first)), c.E.KS.DB(int(second))
		c.E.TouchedAll(a, b)
		c.E.TouchedAll(b, a)
		c.E.KS.SwapDB(int(first), int(second))
		c.E.SignalDB(a)
		c.E.SignalDB(b)
	}
	c.E.Dirty++
	c.OK()
}

func cmdTouch(c *Ctx) {
	n := int64(0)
	for _, key := range c.Args[1:] {
		if _, ok := c.Read(key); ok {
			n++
		}
	}
	c.Int(n)
}

func cmdTtl(c *Ctx) { c.ttl(false, false) }

func cmdType(c *Ctx) {
	if r, ok := c.readQuietly(c.Args[1]); ok {
		c.Simple(r.Type().String())
	} else {
		c.Simple("none")
	}
}

func cmdUnlink(c *Ctx) { c.deleteKeys(true) }
