package command

import (
	"math"

	"holdfast/internal/redis/keyspace"
	"holdfast/internal/redis/resp"
)

// OBJECT and MEMORY USAGE: how a value is stored.

var objectCommands = []Spec{
	{Name: "object", Arity: -2, Sub: []*Spec{
		{Name: "encoding", Arity: 3, Flags: ReadOnly, Cat: CatKeyspace, Keys: []KeySpec{Key(KeyRO, 2, 2, 1)}, Tips: []string{"nondeterministic_output"}, Run: cmdObjectEncoding},
		{Name: "idletime", Arity: 3, Flags: ReadOnly, Cat: CatKeyspace, Keys: []KeySpec{Key(KeyRO, 2, 2, 1)}, Tips: []string{"nondeterministic_output"}, Run: cmdObjectIdletime},
		{Name: "help", Arity: 2, Flags: Loading | Stale, Cat: CatKeyspace, Run: cmdObjectHelp},
		{Name: "freq", Arity: 3, Flags: ReadOnly, Cat: CatKeyspace, Keys: []KeySpec{Key(KeyRO, 2, 2, 1)}, Tips: []string{"nondeterministic_output"}, Run: cmdObjectFreq},
		{Name: "refcount", Arity: 3, Flags: ReadOnly, Cat: CatKeyspace, Keys: []KeySpec{Key(KeyRO, 2, 2, 1)}, Tips: []string{"nondeterministic_output"}, Run: cmdObjectRefcount},
	}},
}

// object looks the key of argument 2 up without a trace; it replies null and
// returns false when there is none.
func (c *Ctx) object() (keyspace.Ref, bool) {
	r, ok := c.Peek(c.Args[2])
	if !ok {
		c.Null()
	}
	return r, ok
}

func cmdObjectEncoding(c *Ctx) {
	if r, ok := c.object(); ok {
		c.BulkStr(r.Encoding())
	}
}

const policySwitch = " Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust."

func cmdObjectFreq(c *Ctx) {
	r, ok := c.object()
	if !ok {
		return
	}
	if !c.E.KS.Limits().LFU {
		c.Err("ERR An LFU maxmemory policy is not selected, access frequency not tracked." + policySwitch)
		return
	}
	c.Int(int64(r.Freq()))
}

func cmdObjectHelp(c *Ctx) {
	c.Help(
		"ENCODING <key>",
		"    Return the kind of internal representation used in order to store the value",
		"    associated with a <key>.",
		"FREQ <key>",
		"    Return the access frequency index of the <key>. The returned integer is",
		"    proportional to the logarithm of the recent access frequency of the key.",
		"IDLETIME <key>",
		"    Return the idle time of the <key>, that is the approximated number of",
		"    seconds elapsed since the last access to the key.",
		"REFCOUNT <key>",
		"    Return the number of references of the value associated with the specified",
		"    <key>.")
}

func cmdObjectIdletime(c *Ctx) {
	r, ok := c.object()
	if !ok {
		return
	}
	if c.E.KS.Limits().LFU {
		c.Err("ERR An LFU maxmemory policy is selected, idle time not tracked." + policySwitch)
		return
	}
	c.Int(r.IdleSeconds())
}

// Redis shares the objects of small integers, unless each needs access
// information of its own for eviction.
const sharedIntegers = 10000

func cmdObjectRefcount(c *Ctx) {
	r, ok := c.object()
	if !ok {
		return
	}
	c.Int(c.RefCount(r))
}

// RefCount is the number of references that Redis would report for a value.
func (c *Ctx) RefCount(r keyspace.Ref) int64 {
	if r.Type() == keyspace.TypeString && r.Encoding() == "int" && c.sharesIntegers() {
		if n, ok := resp.ParseInt(r.Bytes()); ok && n >= 0 && n < sharedIntegers {
			return math.MaxInt32
		}
	}
	return 1
}

func (c *Ctx) sharesIntegers() bool {
	policy := c.E.Cfg.MaxMemoryPolicy
	return c.E.Cfg.MaxMemory == 0 || !policy.IsLRU() && !policy.IsLFU()
}

// cmdMemoryUsage is MEMORY USAGE key [SAMPLES n].
func cmdMemoryUsage(c *Ctx) {
	samples := int64(5)
	for i := 3; i < len(c.Args); i += 2 {
		if !c.Is(i, "samples") || i+1 == len(c.Args) {
			c.Err(ErrSyntax)
			return
		}
		var ok bool
		if samples, ok = c.IntArg(i + 1); !ok {
			return
		}
		if samples < 0 {
			c.Err(ErrSyntax)
			return
		}
	}
	r, ok := c.DB.Find(c.Args[2])
	if !ok {
		c.Null()
		return
	}
	c.Int(r.MemoryUsage(int(samples)))
}
