package command

import (
	"holdfast/internal/redis/config"
	"holdfast/internal/redis/keyspace"
)

// Eviction: while the memory used exceeds maxmemory, keys are deleted by
// maxmemory-policy. As in Redis, LRU, LFU and TTL are approximated: a pool
// keeps the best candidates of the samples taken so far.

type candidate struct {
	score uint64 // higher: rather evicted
	db    int
	key   []byte
}

type evictState struct {
	pool   []candidate
	nextDB int
	since  int64 // NowUs when the limit was first exceeded, 0: it is not
	// Extra is memory that counts besides the keyspace, in bytes: output
	// buffers of normal clients; set by the shell.
	Extra int64
}

const evictPool = 16

// SetExtraMemory tells the engine what counts for maxmemory besides the
// keyspace, in bytes.
func (e *Engine) SetExtraMemory(n int64) { e.evict.Extra = n }

func (e *Engine) overLimit() int64 {
	return e.KS.UsedMemory() + e.evict.Extra - int64(e.Cfg.MaxMemory)
}

// freeMemory evicts until the limit holds; false when it cannot. It stops
// after a while and goes on with the next command (maxmemory-eviction-tenacity).
func (e *Engine) freeMemory() bool {
	if e.overLimit() <= 0 {
		e.evictDone()
		return true
	}
	policy := e.Cfg.MaxMemoryPolicy
	if policy == config.NoEviction || e.State.IsReplica && e.Cfg.ReplicaIgnoreMaxMemory {
		return e.State.IsReplica && e.Cfg.ReplicaIgnoreMaxMemory
	}
	if e.pausedNow() {
		return true
	}
	if e.evict.since == 0 {
		e.evict.since = e.NowUs
	}
	start := e.Clock()
	defer func() {
		e.lastEnd = 0 // what this took is no part of the next command
		e.SampleLatency("eviction-cycle", (e.Clock()-start)/1000)
	}()
	limit := e.evictBudgetNs()
	for n := 1; e.overLimit() > 0; n++ {
		db, key := e.pickVictim(policy)
		if key == nil {
			if e.KS.FreeStep(1000) > 0 {
				continue // lazily freed memory is on its way back
			}
			e.evictDone()
			return e.overLimit() <= 0
		}
		e.evictKey(db, key)
		if n%16 == 0 && e.Clock()-start > limit {
			return true
		}
	}
	e.evictDone()
	return true
}

func (e *Engine) evictDone() {
	if e.evict.since != 0 {
		e.Stat.EvictionExceededUs += e.NowUs - e.evict.since
		e.evict.since = 0
	}
}

// EvictionExceededUs is how long the limit has been exceeded now, in microseconds.
func (e *Engine) EvictionExceededUs() int64 {
	if e.evict.since == 0 {
		return 0
	}
	return e.NowUs - e.evict.since
}

// EvictStep goes on with an eviction that ran out of time; the shell calls it
// from its timer.
func (e *Engine) EvictStep() {
	if e.evict.since != 0 && e.Cfg.MaxMemory > 0 {
		e.freeMemory()
		e.endUnit(nil)
	}
}

// evictBudgetNs: up to tenacity 10 linear to 500 us, then 15 % more each, no
// limit at 100.
func (e *Engine) evictBudgetNs() int64 {
	t := int64(e.Cfg.MaxMemoryEvictionTenacity)
	switch {
	case t <= 10:
		return 50_000 * t
	case t >= 100:
		return 1 << 62
	}
	ns := 500_000.0
	for ; t > 10; t-- {
		ns *= 1.15
	}
	return int64(ns)
}

func (e *Engine) evictKey(db *keyspace.DB, key []byte) {
	lazy := e.Cfg.LazyfreeLazyEviction
	key = append([]byte(nil), key...)
	e.deleteTimed("eviction-del", db, key, lazy)
	e.Stat.EvictedKeys++
	e.Touched(db, key)
	e.Notify(NotifyEvicted, "evicted", key, db)
	e.propagateDeletion(db, key, lazy)
	if e.callDepth == 0 {
		e.endUnit(nil)
	}
}

// pickVictim chooses the key to evict next; nil when there is none.
func (e *Engine) pickVictim(policy config.MaxMemoryPolicy) (*keyspace.DB, []byte) {
	volatile := !policy.IsAllKeys()
	if policy == config.AllKeysRandom || policy == config.VolatileRandom {
		return e.randomVictim(volatile)
	}
	for range 4 {
		if !e.fillPool(policy, volatile) {
			return nil, nil
		}
		for len(e.evict.pool) > 0 {
			last := e.evict.pool[len(e.evict.pool)-1]
			e.evict.pool = e.evict.pool[:len(e.evict.pool)-1]
			db := e.KS.DB(last.db)
			if r, ok := db.Find(last.key); ok && (!volatile || r.ExpireAt() >= 0) && !e.keeps(db, last.key) {
				return db, last.key
			}
		}
	}
	return e.randomVictim(volatile)
}

func (e *Engine) randomVictim(volatile bool) (db *keyspace.DB, key []byte) {
	n := e.KS.NumDB()
	for i := 0; i < n && key == nil; i++ {
		e.evict.nextDB = (e.evict.nextDB + 1) % n
		db = e.KS.DB(e.evict.nextDB)
		for range e.victimTries() {
			db.SampleEvict(volatile, 1, e.Rand, func(r keyspace.Ref) {
				if !e.keeps(db, r.Key()) {
					key = append([]byte(nil), r.Key()...)
				}
			})
			if key != nil {
				break
			}
		}
	}
	return db, key
}

// victimTries is how many random keys of a database are looked at: more than one
// only while some must stay.
func (e *Engine) victimTries() int {
	if e.hidden != nil || e.hold != nil {
		return 64
	}
	return 1
}

// fillPool samples every database; false when no key can be evicted at all.
func (e *Engine) fillPool(policy config.MaxMemoryPolicy, volatile bool) bool {
	any := false
	for i := 0; i < e.KS.NumDB(); i++ {
		db := e.KS.DB(i)
		if n := db.Len(); n == 0 || (volatile && db.Volatile() == 0) {
			continue
		}
		any = true
		db.SampleEvict(volatile, int(e.Cfg.MaxMemorySamples), e.Rand, func(r keyspace.Ref) {
			if e.keeps(db, r.Key()) {
				return
			}
			e.consider(candidate{score: evictScore(policy, r), db: i, key: r.Key()})
		})
	}
	return any
}

func evictScore(policy config.MaxMemoryPolicy, r keyspace.Ref) uint64 {
	switch {
	case policy == config.VolatileTTL:
		return ^uint64(r.ExpireAt())
	case policy.IsLFU():
		return 255 - uint64(r.Freq())
	}
	return uint64(r.IdleSeconds())
}

// consider puts a candidate into the pool, which is sorted by rising score,
// when there is room or it is better than the worst.
func (e *Engine) consider(x candidate) {
	p := e.evict.pool
	at := len(p)
	for at > 0 && p[at-1].score > x.score {
		at--
	}
	for _, y := range p {
		if y.db == x.db && string(y.key) == string(x.key) {
			return
		}
	}
	if len(p) == evictPool {
		if at == 0 {
			return
		}
		copy(p[:at-1], p[1:at])
		at--
	} else {
		p = append(p, candidate{})
		copy(p[at+1:], p[at:])
	}
	x.key = append([]byte(nil), x.key...)
	p[at] = x
	e.evict.pool = p
}
