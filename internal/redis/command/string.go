package command

import (
	"math"
	"strconv"

	"holdfast/internal/redis/keyspace"
	"holdfast/internal/redis/resp"
)

var stringCommands = []Spec{
	{Name: "append", Arity: 3, Flags: Write | DenyOOM | Fast, Cat: CatString, Keys: []KeySpec{Key(KeyRW|KeyInsert, 1, 1, 1)}, Run: cmdAppend},
	{Name: "decr", Arity: 2, Flags: Write | DenyOOM | Fast, Cat: CatString, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyUpdate, 1, 1, 1)}, Run: cmdDecr},
	{Name: "decrby", Arity: 3, Flags: Write | DenyOOM | Fast, Cat: CatString, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyUpdate, 1, 1, 1)}, Run: cmdDecrby},
	{Name: "get", Arity: 2, Flags: ReadOnly | Fast, Cat: CatString, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Run: cmdGet},
	{Name: "getdel", Arity: 2, Flags: Write | Fast, Cat: CatString, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyDelete, 1, 1, 1)}, Run: cmdGetdel},
	{Name: "getex", Arity: -2, Flags: Write | Fast, Cat: CatString, Keys: []KeySpec{{Flags: KeyRW | KeyAccess | KeyUpdate, Begin: 1, Last: 0, Step: 1, Notes: "RW and UPDATE because it changes the TTL"}}, Run: cmdGetex},
	{Name: "getrange", Arity: 4, Flags: ReadOnly, Cat: CatString, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Run: cmdGetrange},
	{Name: "getset", Arity: 3, Flags: Write | DenyOOM | Fast, Cat: CatString, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyUpdate, 1, 1, 1)}, Run: cmdGetset},
	{Name: "incr", Arity: 2, Flags: Write | DenyOOM | Fast, Cat: CatString, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyUpdate, 1, 1, 1)}, Run: cmdIncr},
	{Name: "incrby", Arity: 3, Flags: Write | DenyOOM | Fast, Cat: CatString, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyUpdate, 1, 1, 1)}, Run: cmdIncrby},
	{Name: "incrbyfloat", Arity: 3, Flags: Write | DenyOOM | Fast, Cat: CatString, Keys: []KeySpec{Key(KeyRW|KeyAccess|KeyUpdate, 1, 1, 1)}, Run: cmdIncrbyfloat},
	{Name: "lcs", Arity: -3, Flags: ReadOnly, Cat: CatString, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 2, 1)}, Run: cmdLcs},
	{Name: "mget", Arity: -2, Flags: ReadOnly | Fast, Cat: CatString, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, -1, 1)}, Tips: []string{"request_policy:multi_shard"}, Run: cmdMget},
	{Name: "mset", Arity: -3, Flags: Write | DenyOOM, Cat: CatString, Keys: []KeySpec{Key(KeyOW|KeyUpdate, 1, -1, 2)}, Tips: []string{"request_policy:multi_shard", "response_policy:all_succeeded"}, Run: cmdMset},
	{Name: "msetnx", Arity: -3, Flags: Write | DenyOOM, Cat: CatString, Keys: []KeySpec{Key(KeyOW|KeyInsert, 1, -1, 2)}, Tips: []string{"request_policy:multi_shard", "response_policy:agg_min"}, Run: cmdMsetnx},
	{Name: "psetex", Arity: 4, Flags: Write | DenyOOM, Cat: CatString, Keys: []KeySpec{Key(KeyOW|KeyUpdate, 1, 1, 1)}, Run: cmdPsetex},
	{Name: "set", Arity: -3, Flags: Write | DenyOOM, Cat: CatString, Keys: []KeySpec{{Flags: KeyRW | KeyAccess | KeyUpdate | KeyVariable, Begin: 1, Last: 0, Step: 1, Notes: "RW and ACCESS due to the optional `GET` argument"}}, Run: cmdSet, GetKeys: setKeys},
	{Name: "setex", Arity: 4, Flags: Write | DenyOOM, Cat: CatString, Keys: []KeySpec{Key(KeyOW|KeyUpdate, 1, 1, 1)}, Run: cmdSetex},
	{Name: "setnx", Arity: 3, Flags: Write | DenyOOM | Fast, Cat: CatString, Keys: []KeySpec{Key(KeyOW|KeyInsert, 1, 1, 1)}, Run: cmdSetnx},
	{Name: "setrange", Arity: 4, Flags: Write | DenyOOM, Cat: CatString, Keys: []KeySpec{Key(KeyRW|KeyUpdate, 1, 1, 1)}, Run: cmdSetrange},
	{Name: "strlen", Arity: 2, Flags: ReadOnly | Fast, Cat: CatString, Keys: []KeySpec{Key(KeyRO, 1, 1, 1)}, Run: cmdStrlen},
	{Name: "substr", Arity: 4, Flags: ReadOnly, Cat: CatString, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Run: cmdSubstr},
}

// maxStringLen is the longest string that the keyspace stores, whatever
// proto-max-bulk-len says.
const maxStringLen = math.MaxUint32 - 1

const errTooLong = "ERR string exceeds maximum allowed size (proto-max-bulk-len)"

// stringFits reports whether a string of size+add bytes is allowed, and
// replies the error when it is not. What a master or the journal says is only
// held to what can be stored.
func (c *Ctx) stringFits(size, add int64) bool {
	limit := int64(maxStringLen)
	if !c.obeys() {
		limit = min(limit, c.E.Cfg.ProtoMaxBulkLen)
	}
	if size > limit || add > limit || size+add > limit {
		c.Err(errTooLong)
		return false
	}
	return true
}

// obeys reports whether the client is to be obeyed: our master, the replay of the
// journal, or the present owner of slots that arrive.
func (c *Ctx) obeys() bool { return c.Client.Has(FlagMaster | FlagReplay | FlagImport) }

// created says that key is new.
func (c *Ctx) created(key []byte) { c.Notify(NotifyNew, "new", key) }

// setString makes key a string, whatever it was before.
func (c *Ctx) setString(key, val []byte, expireAt int64) {
	_, found := c.Write(key)
	c.DB.SetString(key, val, expireAt)
	if !found {
		c.created(key)
	}
}

// bulkOrNull replies a string, or null when there is none. It returns false
// when the key holds something else: the error has been replied.
func (c *Ctx) bulkOrNull(key []byte) (r keyspace.Ref, found, ok bool) {
	r, found, bad := c.ReadAs(key, keyspace.TypeString)
	if bad {
		return r, false, false
	}
	if found {
		c.Bulk(r.Bytes())
	} else {
		c.Null()
	}
	return r, found, true
}

func cmdAppend(c *Ctx) {
	key, suffix := c.Args[1], c.Args[2]
	r, found, bad := c.WriteAs(key, keyspace.TypeString)
	if bad {
		return
	}
	n := len(suffix)
	if found {
		if !c.stringFits(int64(len(r.Bytes())), int64(n)) {
			return
		}
		n = c.DB.AppendString(key, suffix)
	} else {
		c.DB.SetString(key, suffix, keyspace.NoExpiry)
		c.created(key)
	}
	c.Changed(NotifyString, "append", key)
	c.Int(int64(n))
}

func cmdDecr(c *Ctx) { c.incrBy(-1) }

func cmdDecrby(c *Ctx) {
	n, ok := c.IntArg(2)
	if !ok {
		return
	}
	if n == math.MinInt64 {
		c.Err("ERR decrement would overflow")
		return
	}
	c.incrBy(-n)
}

func cmdGet(c *Ctx) {
	r, ok := c.Read(c.Args[1])
	if !ok {
		c.Null()
		return
	}
	if c.IsType(r, keyspace.TypeString) {
		c.Bulk(r.Bytes())
	}
}

func cmdGetdel(c *Ctx) {
	key := c.Args[1]
	_, found, ok := c.bulkOrNull(key)
	if !ok || !found {
		return
	}
	lazy := c.E.Cfg.LazyfreeLazyUserDel
	if c.DB.Delete(key, lazy) {
		c.Rewrite(delName(lazy), key)
		c.Changed(NotifyGeneric, "del", key)
	}
}

// delName is the command that a deletion is propagated as.
func delName(lazy bool) []byte {
	if lazy {
		return argUnlink
	}
	return argDel
}

func cmdGetex(c *Ctx) {
	key := c.Args[1]
	o, ok := c.stringOptions(2, false)
	if !ok {
		return
	}
	r, found, bad := c.ReadAs(key, keyspace.TypeString)
	if bad {
		return
	}
	if !found {
		c.Null()
		return
	}
	at := int64(keyspace.NoExpiry)
	if o.unit != noExpiry {
		if at, ok = c.expiryOf(o); !ok {
			return
		}
	}
	c.Bulk(r.Bytes())
	switch {
	case o.unit.absolute() && c.alreadyExpired(at):
		lazy := c.E.Cfg.LazyfreeLazyExpire
		c.DB.Delete(key, lazy)
		c.Rewrite(delName(lazy), key)
		c.Changed(NotifyGeneric, "del", key)
	case o.unit != noExpiry:
		c.DB.SetExpire(key, at)
		c.Rewrite(argPexpireat, key, I(at))
		c.Changed(NotifyGeneric, "expire", key)
	case o.persist && c.DB.Persist(key):
		c.Rewrite(argPersist, key)
		c.Changed(NotifyGeneric, "persist", key)
	}
}

var (
	argSet       = []byte("SET")
	argPxat      = []byte("PXAT")
	argKeepttl   = []byte("KEEPTTL")
	argPexpireat = []byte("PEXPIREAT")
	argPersist   = []byte("PERSIST")
)

func cmdGetrange(c *Ctx) {
	start, ok := c.IntArg(2)
	if !ok {
		return
	}
	end, ok := c.IntArg(3)
	if !ok {
		return
	}
	r, found, bad := c.ReadAs(c.Args[1], keyspace.TypeString)
	if bad {
		return
	}
	if !found || start < 0 && end < 0 && start > end {
		c.Bulk(nil)
		return
	}
	s := r.Bytes()
	n := int64(len(s))
	start, end = clampRange(start, end, n)
	if start > end || n == 0 {
		c.Bulk(nil)
		return
	}
	c.Bulk(s[start : end+1])
}

// clampRange turns indexes of which negative ones count from the end into
// start >= 0 and end < n; an empty range has start > end, unless n is 0.
func clampRange(start, end, n int64) (int64, int64) {
	if start < 0 {
		start = max(start+n, 0)
	}
	if end < 0 {
		end = max(end+n, 0)
	}
	return start, min(end, n-1)
}

func cmdGetset(c *Ctx) {
	key, val := c.Args[1], c.Args[2]
	if _, _, ok := c.bulkOrNull(key); !ok {
		return
	}
	c.setString(key, val, keyspace.NoExpiry)
	c.Changed(NotifyString, "set", key)
	c.Rewrite(argSet, key, val)
}

func cmdIncr(c *Ctx) { c.incrBy(1) }

func cmdIncrby(c *Ctx) {
	if n, ok := c.IntArg(2); ok {
		c.incrBy(n)
	}
}

func (c *Ctx) incrBy(by int64) {
	key := c.Args[1]
	r, found, bad := c.WriteAs(key, keyspace.TypeString)
	if bad {
		return
	}
	var n int64
	if found {
		var ok bool
		if n, ok = resp.ParseInt(r.Bytes()); !ok {
			c.Err(ErrNotInt)
			return
		}
	}
	if addOverflows(n, by) {
		c.Err(errIncrOverflow)
		return
	}
	n += by
	var t [20]byte
	c.DB.SetString(key, strconv.AppendInt(t[:0], n, 10), keyspace.KeepTTL)
	if !found {
		c.created(key)
	}
	c.Changed(NotifyString, "incrby", key)
	c.Int(n)
}

const errIncrOverflow = "ERR increment or decrement would overflow"

func addOverflows(a, b int64) bool {
	return b > 0 && a > math.MaxInt64-b || b < 0 && a < math.MinInt64-b
}

const errNaNOrInf = "ERR increment would produce NaN or Infinity"

func cmdIncrbyfloat(c *Ctx) {
	key := c.Args[1]
	r, found, bad := c.WriteAs(key, keyspace.TypeString)
	if bad {
		return
	}
	old := []byte("0")
	if found {
		old = r.Bytes()
	}
	sum, ok := parseLongDouble(old)
	if !ok {
		c.Err(ErrNotFloat)
		return
	}
	by, ok := parseLongDouble(c.Args[2])
	if !ok {
		c.Err(ErrNotFloat)
		return
	}
	if !sum.add(&by) {
		c.Err(errNaNOrInf)
		return
	}
	val := []byte(sum.text())
	c.DB.SetText(key, val, keyspace.KeepTTL)
	if !found {
		c.created(key)
	}
	c.Changed(NotifyString, "incrbyfloat", key)
	c.Bulk(val)
	// The result, not the step: formatting and rounding are ours alone.
	c.Rewrite(argSet, key, val, argKeepttl)
}

func cmdLcs(c *Ctx) { lcs(c) }

func cmdMget(c *Ctx) {
	c.Array(len(c.Args) - 1)
	for _, key := range c.Args[1:] {
		if r, ok := c.Read(key); ok && r.Type() == keyspace.TypeString {
			c.Bulk(r.Bytes())
		} else {
			c.Null()
		}
	}
}

func cmdMset(c *Ctx) {
	if len(c.Args)%2 == 0 {
		c.ErrArity()
		return
	}
	c.setMany()
	c.OK()
}

func (c *Ctx) setMany() {
	for i := 1; i < len(c.Args); i += 2 {
		c.setString(c.Args[i], c.Args[i+1], keyspace.NoExpiry)
		c.Changed(NotifyString, "set", c.Args[i])
	}
}

func cmdMsetnx(c *Ctx) {
	if len(c.Args)%2 == 0 {
		c.ErrArity()
		return
	}
	for i := 1; i < len(c.Args); i += 2 {
		if _, ok := c.Write(c.Args[i]); ok {
			c.Int(0)
			return
		}
	}
	c.setMany()
	c.Int(1)
}

func cmdPsetex(c *Ctx) {
	c.setGeneric(c.Args[3], stringOptions{unit: inMs, expire: c.Args[2]}, setReplyOK)
}

// setReply says how a conditional SET answers.
type setReply uint8

const (
	setReplyOK  setReply = iota // OK, null when the condition does not hold
	setReplyInt                 // 1, 0
)

func cmdSet(c *Ctx) {
	if len(c.Args) == 3 {
		c.setString(c.Args[1], c.Args[2], keyspace.NoExpiry)
		c.Changed(NotifyString, "set", c.Args[1])
		c.OK()
		return
	}
	if o, ok := c.stringOptions(3, true); ok {
		c.setGeneric(c.Args[2], o, setReplyOK)
	}
}

// expiryUnit is how an option names a time of expiry.
type expiryUnit uint8

const (
	noExpiry expiryUnit = iota
	inSec               // EX
	inMs                // PX
	atSec               // EXAT
	atMs                // PXAT
)

func (u expiryUnit) absolute() bool { return u >= atSec }

// stringOptions are the options of SET and GETEX.
type stringOptions struct {
	nx, xx, get, keepTTL, persist bool

	unit   expiryUnit
	expire []byte
}

// stringOptions reads the options from argument i on, those of SET or those
// of GETEX. It replies the error and returns false on a bad one.
func (c *Ctx) stringOptions(i int, isSet bool) (o stringOptions, ok bool) {
	for ; i < len(c.Args); i++ {
		opt := c.Args[i]
		more := i+1 < len(c.Args)
		switch {
		case isSet && !o.xx && EqualFold(opt, "nx"):
			o.nx = true
		case isSet && !o.nx && EqualFold(opt, "xx"):
			o.xx = true
		case isSet && EqualFold(opt, "get"):
			o.get = true
		case isSet && o.unit == noExpiry && EqualFold(opt, "keepttl"):
			o.keepTTL = true
		case !isSet && o.unit == noExpiry && EqualFold(opt, "persist"):
			o.persist = true
		default:
			u := unitOf(opt)
			if u == noExpiry || !more || o.keepTTL || o.persist || o.unit != noExpiry && o.unit != u {
				c.Err(ErrSyntax)
				return o, false
			}
			i++
			o.unit, o.expire = u, c.Args[i]
		}
	}
	return o, true
}

func unitOf(opt []byte) expiryUnit {
	switch {
	case EqualFold(opt, "ex"):
		return inSec
	case EqualFold(opt, "px"):
		return inMs
	case EqualFold(opt, "exat"):
		return atSec
	case EqualFold(opt, "pxat"):
		return atMs
	}
	return noExpiry
}

// expiryOf computes the time of expiry, Unix time in ms. It replies the error
// and returns false when it is none or out of range.
func (c *Ctx) expiryOf(o stringOptions) (at int64, ok bool) {
	at, ok = resp.ParseInt(o.expire)
	if !ok {
		c.Err(ErrNotInt)
		return 0, false
	}
	seconds := o.unit == inSec || o.unit == atSec
	if at <= 0 || seconds && at > math.MaxInt64/1000 {
		c.ErrExpire()
		return 0, false
	}
	if seconds {
		at *= 1000
	}
	if !o.unit.absolute() {
		at += c.Now() // may wrap around
	}
	if at <= 0 {
		c.ErrExpire()
		return 0, false
	}
	return at, true
}

// setGeneric is SET with options, for the key in argument 1.
func (c *Ctx) setGeneric(val []byte, o stringOptions, reply setReply) {
	key := c.Args[1]
	at := int64(keyspace.NoExpiry)
	if o.unit != noExpiry {
		var ok bool
		if at, ok = c.expiryOf(o); !ok {
			return
		}
	}
	if o.get {
		if _, _, ok := c.bulkOrNull(key); !ok {
			return
		}
	}
	_, found := c.Write(key)
	if o.nx && found || o.xx && !found {
		switch {
		case o.get:
		case reply == setReplyInt:
			c.Int(0)
		default:
			c.Null()
		}
		return
	}
	if o.keepTTL {
		at = keyspace.KeepTTL
	}
	c.DB.SetString(key, val, at)
	if !found {
		c.created(key)
	}
	c.Changed(NotifyString, "set", key)
	if o.unit != noExpiry {
		c.Notify(NotifyGeneric, "expire", key)
		c.Rewrite(argSet, key, val, argPxat, I(at))
	} else if o.get {
		c.Rewrite(withoutGet(c.Args)...)
	}
	switch {
	case o.get:
	case reply == setReplyInt:
		c.Int(1)
	default:
		c.OK()
	}
}

// withoutGet is a SET without its GET options: nobody reads a reply to what is
// propagated.
func withoutGet(args [][]byte) [][]byte {
	out := make([][]byte, 0, len(args))
	for i, a := range args {
		if i < 3 || !EqualFold(a, "get") {
			out = append(out, a)
		}
	}
	return out
}

func cmdSetex(c *Ctx) {
	c.setGeneric(c.Args[3], stringOptions{unit: inSec, expire: c.Args[2]}, setReplyOK)
}

func cmdSetnx(c *Ctx) { c.setGeneric(c.Args[2], stringOptions{nx: true}, setReplyInt) }

func cmdSetrange(c *Ctx) {
	key, val := c.Args[1], c.Args[3]
	offset, ok := c.IntArg(2)
	if !ok {
		return
	}
	if offset < 0 {
		c.Err("ERR offset is out of range")
		return
	}
	r, found, bad := c.WriteAs(key, keyspace.TypeString)
	if bad {
		return
	}
	if len(val) == 0 {
		n := 0
		if found {
			n = len(r.Bytes())
		}
		c.Int(int64(n))
		return
	}
	if !c.stringFits(offset, int64(len(val))) {
		return
	}
	n := c.DB.SetRange(key, int(offset), val)
	if !found {
		c.created(key)
	}
	c.Changed(NotifyString, "setrange", key)
	c.Int(int64(n))
}

func cmdStrlen(c *Ctx) {
	r, found, bad := c.ReadAs(c.Args[1], keyspace.TypeString)
	switch {
	case bad:
	case found:
		c.Int(int64(len(r.Bytes())))
	default:
		c.Int(0)
	}
}

func cmdSubstr(c *Ctx) { cmdGetrange(c) }

var (
	keyOverwritten = []KeyRef{{1, KeyOW | KeyUpdate}}
	keyRead        = []KeyRef{{1, KeyRO | KeyAccess}}
	keyReadWritten = []KeyRef{{1, KeyRW | KeyAccess | KeyUpdate}}
)

// setKeys finds the key of SET, which is read only for the sake of GET.
func setKeys(args [][]byte) []KeyRef {
	for _, a := range args[min(3, len(args)):] {
		if EqualFold(a, "get") {
			return keyReadWritten
		}
	}
	return keyOverwritten
}
