package command

import (
	"holdfast/internal/redis/keyspace"
)

var transactionCommands = []Spec{
	{Name: "multi", Arity: 1, Flags: NoScript | Loading | Stale | Fast | AllowBusy, Cat: CatTransaction, Run: cmdMulti},
	{Name: "exec", Arity: 1, Flags: NoScript | Loading | Stale | SkipSlowlog, Cat: CatTransaction, Run: cmdExec},
	{Name: "discard", Arity: 1, Flags: NoScript | Loading | Stale | Fast | AllowBusy, Cat: CatTransaction, Run: cmdDiscard},
	{Name: "watch", Arity: -2, Flags: NoScript | Loading | Stale | Fast | AllowBusy, Cat: CatTransaction, Keys: []KeySpec{Key(KeyRO, 1, -1, 1)}, Run: cmdWatch},
	{Name: "unwatch", Arity: 1, Flags: NoScript | Loading | Stale | Fast | AllowBusy, Cat: CatTransaction, Run: cmdUnwatch},
}

func cmdMulti(c *Ctx) {
	if c.Client.Has(FlagMulti) {
		c.Err("ERR MULTI calls can not be nested")
		return
	}
	c.Client.Flags |= FlagMulti
	c.OK()
}

// queue keeps a copy of the request for EXEC.
func (e *Engine) queue(c *Ctx) {
	cl := c.Client
	// A transaction that is going to fail anyway need not grow.
	if cl.Has(FlagDirtyCAS | FlagDirtyExec) {
		return
	}
	cl.enqueue(queued{c.Spec, copyArgs(c.Args)})
}

// copyArgs copies a request into one allocation of bytes and one of slices.
func copyArgs(args [][]byte) [][]byte {
	n := 0
	for _, a := range args {
		n += len(a)
	}
	buf := make([]byte, 0, n)
	out := make([][]byte, len(args))
	for i, a := range args {
		at := len(buf)
		buf = append(buf, a...)
		out[i] = buf[at:len(buf):len(buf)]
	}
	return out
}

func (e *Engine) discard(cl *Client) {
	cl.dropQueue()
	cl.Flags &^= FlagMulti | FlagDirtyCAS | FlagDirtyExec
	e.unwatchAll(cl)
}

func cmdExec(c *Ctx) {
	cl, e := c.Client, c.E
	if !cl.Has(FlagMulti) {
		c.Err("ERR EXEC without MULTI")
		return
	}
	if e.watchedExpired(cl) {
		cl.Flags |= FlagDirtyCAS
	}
	if cl.Has(FlagDirtyCAS | FlagDirtyExec) {
		if cl.Has(FlagDirtyExec) {
			c.Err(errExecAborted)
		} else {
			c.NullArray()
		}
		e.discard(cl)
		return
	}
	e.unwatchAll(cl)
	todo := cl.multi
	deny := cl.Flags & FlagDenyBlocking
	cl.Flags |= FlagDenyBlocking
	e.inExec = true
	c.Array(len(todo))
	for i := range todo {
		inner := Ctx{Reply: c.Reply, E: e, Client: cl, DB: cl.DB, Spec: todo[i].spec, Args: todo[i].args}
		e.call(&inner)
	}
	e.inExec = false
	if deny == 0 {
		cl.Flags &^= FlagDenyBlocking
	}
	e.discard(cl)
	c.DB = cl.DB
	c.NoPropagate()
}

func cmdDiscard(c *Ctx) {
	if !c.Client.Has(FlagMulti) {
		c.Err("ERR DISCARD without MULTI")
		return
	}
	c.E.discard(c.Client)
	c.OK()
}

// --- WATCH ---

type watchKey struct {
	db  int
	key string
}

type watchedKey struct {
	watchKey
	// expired: the key was logically gone already when it was watched; that it
	// is deleted later changes nothing.
	expired bool
}

func cmdWatch(c *Ctx) {
	if c.Client.Has(FlagMulti) {
		c.Err("ERR WATCH inside MULTI is not allowed")
		return
	}
	if !c.Client.Has(FlagDirtyCAS) {
		for _, key := range c.Args[1:] {
			c.E.watch(c.Client, key)
		}
	}
	c.OK()
}

func (e *Engine) watch(cl *Client, key []byte) {
	wk := watchKey{cl.DB.Index(), string(key)}
	for _, w := range cl.watched {
		if w.watchKey == wk {
			return
		}
	}
	r, ok := cl.DB.Find(key)
	cl.watched = append(cl.watched, watchedKey{wk, ok && e.expired(r, cl)})
	e.watchers[wk] = append(e.watchers[wk], cl)
}

func cmdUnwatch(c *Ctx) {
	c.E.unwatchAll(c.Client)
	c.Client.Flags &^= FlagDirtyCAS
	c.OK()
}

func (e *Engine) unwatchAll(cl *Client) {
	for _, w := range cl.watched {
		list := e.watchers[w.watchKey]
		for i, x := range list {
			if x == cl {
				list = append(list[:i], list[i+1:]...)
				break
			}
		}
		if len(list) == 0 {
			delete(e.watchers, w.watchKey)
		} else {
			e.watchers[w.watchKey] = list
		}
	}
	cl.watched = nil
}

// watchedExpired: a key that lived when it was watched and has expired since
// is a change, though nobody has deleted it yet.
func (e *Engine) watchedExpired(cl *Client) bool {
	for _, w := range cl.watched {
		if w.expired {
			continue
		}
		if r, ok := e.KS.DB(w.db).Find([]byte(w.key)); ok && e.expired(r, cl) {
			return true
		}
	}
	return false
}

// Touched makes the transactions fail that watch the key.
func (e *Engine) Touched(db *keyspace.DB, key []byte) {
	if len(e.held) > 0 {
		e.noteHeld(db.Index(), key)
	}
	if len(e.watchers) == 0 {
		return
	}
	wk := watchKey{db.Index(), string(key)}
	for _, cl := range append([]*Client(nil), e.watchers[wk]...) {
		e.touchOne(cl, wk, db)
	}
}

func (e *Engine) touchOne(cl *Client, wk watchKey, db *keyspace.DB) {
	for i := range cl.watched {
		w := &cl.watched[i]
		if w.watchKey != wk {
			continue
		}
		if w.expired {
			if _, ok := db.Find([]byte(wk.key)); !ok {
				w.expired = false
				return
			}
		}
		cl.Flags |= FlagDirtyCAS
		e.unwatchAll(cl)
		return
	}
}

// TouchedAll makes the transactions fail that watch a key of db that exists in
// it, or, when other is not nil, in other, which is about to take its place.
// To be called before a flush or a swap.
func (e *Engine) TouchedAll(db, other *keyspace.DB) {
	if len(e.held) > 0 {
		e.noteAllHeld(db.Index())
	}
	if len(e.watchers) == 0 {
		return
	}
	var hit []watchKey
	for wk := range e.watchers {
		if wk.db != db.Index() {
			continue
		}
		_, here := db.Find([]byte(wk.key))
		there := false
		if other != nil {
			_, there = other.Find([]byte(wk.key))
		}
		if here || there {
			hit = append(hit, wk)
		}
	}
	for _, wk := range hit {
		for _, cl := range append([]*Client(nil), e.watchers[wk]...) {
			e.touchSwap(cl, wk, db, other)
		}
	}
}

// touchSwap marks a client whose watched key is flushed or swapped, but for a
// key that was expired when watched and is not replaced by a living one.
func (e *Engine) touchSwap(cl *Client, wk watchKey, db, other *keyspace.DB) {
	for i := range cl.watched {
		w := &cl.watched[i]
		if w.watchKey != wk {
			continue
		}
		if w.expired {
			if other == nil {
				w.expired = false
				return
			}
			if r, ok := other.Find([]byte(wk.key)); !ok || e.expired(r, cl) {
				w.expired = ok
				return
			}
		}
		cl.Flags |= FlagDirtyCAS
		e.unwatchAll(cl)
		return
	}
}
