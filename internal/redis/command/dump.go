package command

import (
	"encoding/binary"

	"holdfast/internal/redis/keyspace"
	"holdfast/internal/redis/rdb"
)

// DUMP and RESTORE: a value as an RDB file holds it, with a footer.

var dumpCommands = []Spec{
	{Name: "dump", Arity: 2, Flags: ReadOnly, Cat: CatKeyspace, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1)}, Tips: []string{"nondeterministic_output"}, Run: cmdDump},
	{Name: "restore", Arity: -4, Flags: Write | DenyOOM, Cat: CatKeyspace | CatDangerous, Keys: []KeySpec{Key(KeyOW|KeyUpdate, 1, 1, 1)}, Run: cmdRestore},
	{Name: "restore-asking", Arity: -4, Flags: Write | DenyOOM | Asking, Cat: CatKeyspace | CatDangerous, Keys: []KeySpec{Key(KeyOW|KeyUpdate, 1, 1, 1)}, Run: cmdRestoreAsking},
}

func cmdDump(c *Ctx) {
	r, ok := c.Read(c.Args[1])
	if !ok {
		c.Null()
		return
	}
	c.Bulk(rdb.AppendDumpFooter(r.AppendDumpValue(nil, c.E.Cfg.RDBCompression), 0))
}

// restoreOptions are the options of RESTORE.
type restoreOptions struct {
	replace, absTTL bool
	idle, freq      int64 // -1: not given
}

func (c *Ctx) restoreOptions() (o restoreOptions, ok bool) {
	o.idle, o.freq = -1, -1
	for i := 4; i < len(c.Args); i++ {
		more := i+1 < len(c.Args)
		switch {
		case c.Is(i, "replace"):
			o.replace = true
		case c.Is(i, "absttl"):
			o.absTTL = true
		case more && o.freq == -1 && c.Is(i, "idletime"):
			i++
			if o.idle, ok = c.IntArg(i); !ok {
				return o, false
			}
			if o.idle < 0 {
				c.Err("ERR Invalid IDLETIME value, must be >= 0")
				return o, false
			}
		case more && o.idle == -1 && c.Is(i, "freq"):
			i++
			if o.freq, ok = c.IntArg(i); !ok {
				return o, false
			}
			if o.freq < 0 || o.freq > 255 {
				c.Err("ERR Invalid FREQ value, must be >= 0 and <= 255")
				return o, false
			}
		default:
			c.Err(ErrSyntax)
			return o, false
		}
	}
	return o, true
}

func cmdRestore(c *Ctx) {
	key, payload := c.Args[1], c.Args[3]
	o, ok := c.restoreOptions()
	if !ok {
		return
	}
	if !o.replace {
		if _, there := c.Write(key); there {
			c.Err("BUSYKEY Target key name already exists.")
			return
		}
	}
	ttl, ok := c.IntArg(2)
	if !ok {
		return
	}
	if ttl < 0 {
		c.Err("ERR Invalid TTL value, must be >= 0")
		return
	}
	if rdb.VerifyDump(payload, c.E.SkipChecksum) != nil {
		c.Err("ERR DUMP payload version or checksum are wrong")
		return
	}
	built, ok := c.buildValue(payload, o)
	if !ok {
		c.Err("ERR Bad data format")
		return
	}
	if ttl > 0 && !o.absTTL {
		ttl += c.Now()
	}
	if ttl != 0 && c.alreadyExpired(ttl) {
		c.DB.Delete(built, false)
		c.restoredDead(key)
		return
	}
	c.DB.Rename(built, key)
	if ttl != 0 {
		c.DB.SetExpire(key, max(ttl, 0))
		if !o.absTTL {
			args := append([][]byte(nil), c.Args...)
			args[2] = I(ttl)
			c.Rewrite(append(args, argAbsttl)...)
		}
	}
	c.placed(c.DB, key)
	c.Notify(NotifyGeneric, "restore", key)
	c.E.Dirty++
	c.OK()
}

var argAbsttl = []byte("ABSTTL")

// restoredDead ends a RESTORE of a value whose time is over already: all it
// does is to remove what it would have replaced.
func (c *Ctx) restoredDead(key []byte) {
	if c.Delete(key) {
		c.Rewrite(argDel, key)
		c.Changed(NotifyGeneric, "del", key)
	}
	c.OK()
}

// buildValue decodes a payload into a key of its own, which nobody else sees
// before it gets its name: a payload that turns out to be bad half way leaves
// nothing behind and what it would have replaced in place. Payloads are always
// looked into in depth, whatever sanitize-dump-payload says: a damaged value
// must not come to stand in the keyspace.
func (c *Ctx) buildValue(payload []byte, o restoreOptions) (key []byte, ok bool) {
	key = c.unusedKey()
	meta := rdb.NoMeta
	meta.IdleSec, meta.Freq = o.idle, int(o.freq)
	l := keyspace.Loader{KS: c.E.KS, DB: c.DB}
	if err := rdb.LoadValue(payload, key, meta, &l, rdb.Options{Sanitize: true}); err != nil {
		c.DB.Delete(key, false)
		return nil, false
	}
	if _, ok := c.DB.Find(key); !ok {
		return nil, false
	}
	return key, true
}

// unusedKey makes up a key that does not exist.
func (c *Ctx) unusedKey() []byte {
	for {
		key := append(make([]byte, 0, 20), "\x00restored-"...)
		key = binary.LittleEndian.AppendUint64(key, c.E.Rand.Uint64())
		if _, ok := c.DB.Find(key); !ok {
			return key
		}
	}
}

func cmdRestoreAsking(c *Ctx) { cmdRestore(c) }
