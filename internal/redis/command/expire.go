package command

import (
	"holdfast/internal/redis/cluster/slot"
	"holdfast/internal/redis/keyspace"
)

// Expiry. A key whose time has come is logically gone at once for every
// reader; it is deleted, and its deletion propagated, by whoever touches it
// first (lazy expiry) or by the cycle (active expiry). A replica deletes
// nothing by itself and a replay expires nothing: their master, or the stream,
// says when.

type expireState struct {
	disabled bool // DEBUG SET-ACTIVE-EXPIRE 0
	db       int  // where the cycle goes on

	// own are the keys with an expiry that clients of a writable replica have
	// made: its master does not know them, so that nobody else deletes them.
	own map[watchKey]struct{}
}

// SetActiveExpire switches the cycle on or off (DEBUG SET-ACTIVE-EXPIRE).
func (e *Engine) SetActiveExpire(on bool) { e.expire.disabled = !on }

// expired reports whether r's time has come, for this client.
func (e *Engine) expired(r keyspace.Ref, cl *Client) bool {
	at := r.ExpireAt()
	if at < 0 || e.NowMs <= at {
		return false
	}
	if e.State.Loading || (cl != nil && cl.Has(FlagMaster|FlagReplay|FlagImport)) {
		return false
	}
	return e.hidden == nil || r.DB().Index() != 0 || !e.hidden.Has(slot.Of(r.Key()))
}

// mayDelete: only a master that is not paused deletes expired keys.
func (e *Engine) mayDelete(force bool) bool {
	if e.State.IsReplica && !force {
		return false
	}
	return !e.pausedNow()
}

func (e *Engine) pausedNow() bool {
	return e.State.PauseUntilMs > e.NowMs
}

// Expired reports whether r is logically gone for the client of c.
func (c *Ctx) Expired(r keyspace.Ref) bool { return c.E.expired(r, c.Client) }

func (e *Engine) lookupRead(db *keyspace.DB, cl *Client, key []byte) (keyspace.Ref, bool) {
	r, ok := db.Find(key)
	if ok && r.ExpireAt() >= 0 && e.expired(r, cl) {
		if e.mayDelete(false) {
			e.deleteExpired(db, key)
		}
		ok = false
	}
	if !ok {
		e.Stat.KeyspaceMisses++
		e.Notify(NotifyKeyMiss, "keymiss", key, db)
		return r, false
	}
	e.Stat.KeyspaceHits++
	db.Touch(r)
	return r, true
}

func (e *Engine) lookupPeek(db *keyspace.DB, cl *Client, key []byte) (keyspace.Ref, bool) {
	r, ok := db.Find(key)
	if ok && e.expired(r, cl) {
		if e.mayDelete(false) {
			e.deleteExpired(db, key)
		}
		return r, false
	}
	return r, ok
}

func (e *Engine) lookupWrite(db *keyspace.DB, cl *Client, key []byte) (keyspace.Ref, bool) {
	r, ok := db.Find(key)
	if !ok {
		return r, false
	}
	if r.ExpireAt() >= 0 && e.expired(r, cl) {
		// A writable replica must drop the key or the write would go to the dead one.
		if e.mayDelete(!e.State.ReadOnly) {
			e.deleteExpired(db, key)
		}
		return r, false
	}
	db.Touch(r)
	return r, true
}

// deleteExpired deletes a key whose time has come and tells everybody. It returns
// false where that is not to be now.
func (e *Engine) deleteExpired(db *keyspace.DB, key []byte) bool {
	if e.keeps(db, key) {
		return false
	}
	lazy := e.Cfg.LazyfreeLazyExpire
	e.keyBuf = append(e.keyBuf[:0], key...) // key may alias what is deleted
	key = e.keyBuf
	e.deleteTimed("expire-del", db, key, lazy)
	e.Notify(NotifyExpired, "expired", key, db)
	e.Touched(db, key)
	e.propagateDeletion(db, key, lazy)
	e.Stat.ExpiredKeys++
	return true
}

var (
	argDel    = []byte("DEL")
	argUnlink = []byte("UNLINK")
)

func (e *Engine) propagateDeletion(db *keyspace.DB, key []byte, lazy bool) {
	if e.State.IsReplica {
		return
	}
	name := argDel
	if lazy {
		name = argUnlink
	}
	e.alsoPropagate(db.Index(), [][]byte{name, key})
}

// noteOwn remembers a key that a client of a writable replica has changed. cl is
// who changes it.
func (e *Engine) noteOwn(db *keyspace.DB, cl *Client, key []byte) {
	if !e.State.IsReplica || e.State.ReadOnly || e.State.Loading || cl == nil || cl.Has(FlagMaster|FlagReplay|FlagImport) {
		return
	}
	if r, ok := db.Find(key); ok && r.ExpireAt() >= 0 {
		if e.expire.own == nil {
			e.expire.own = make(map[watchKey]struct{})
		}
		e.expire.own[watchKey{db.Index(), string(key)}] = struct{}{}
	}
}

// OwnExpires is how many keys of a writable replica the cycle looks after.
func (e *Engine) OwnExpires() int { return len(e.expire.own) }

// ForgetOwnExpires is for when all keys are gone: those that come under the same
// names are the master's.
func (e *Engine) ForgetOwnExpires() { e.expire.own = nil }

// expireOwn deletes the keys of a writable replica whose time has come: up to a
// bound in one run, in no order.
func (e *Engine) expireOwn() {
	looked := 0
	for wk := range e.expire.own {
		if looked++; looked > 1000 {
			return
		}
		db := e.KS.DB(wk.db)
		r, ok := db.Find([]byte(wk.key))
		if ok && r.ExpireAt() >= 0 {
			if !e.expired(r, nil) {
				continue
			}
			e.deleteExpired(db, []byte(wk.key))
		}
		delete(e.expire.own, wk)
	}
}

// ActiveExpire runs the expiry cycle of one run of a timer with the given
// period, in nanoseconds of the engine's clock. As in Redis it takes at most a
// quarter of the time, and 2 % more and a quarter more keys at once for each step
// of active-expire-effort above 1. It returns whether expired keys are left.
func (e *Engine) ActiveExpire(periodNs int64) (more bool) {
	if e.expire.disabled || e.State.Loading || e.pausedNow() {
		return false
	}
	if e.State.IsReplica {
		e.expireOwn()
		return false
	}
	effort := int64(e.Cfg.ActiveExpireEffort - 1)
	budgetNs, atOnce := periodNs*(25+2*effort)/100, int(20+5*effort)
	start := e.Clock()
	n := e.KS.NumDB()
	for i := 0; i < n; i++ {
		db := e.KS.DB((e.expire.db + i) % n)
		if db.Volatile() == 0 {
			continue
		}
		for {
			_, again := db.ExpiredStep(e.NowMs, atOnce, func(key []byte) bool {
				deleted := e.deleteExpired(db, key)
				e.endUnit(nil)
				return deleted
			})
			if !again {
				break
			}
			if e.Clock()-start > budgetNs {
				e.expire.db = (e.expire.db + i) % n
				e.Stat.ExpireCapReached++
				e.Stat.ExpireCPUUs += (e.Clock() - start) / 1000
				return true
			}
		}
	}
	e.Stat.ExpireCPUUs += (e.Clock() - start) / 1000
	return false
}
