package keyspace

// SetExpire makes key expire at the Unix time atMs. It does nothing when key
// does not exist.
func (db *DB) SetExpire(key []byte, atMs int64) {
	atMs = max(atMs, 0)
	h, off, ok := db.find(key)
	if !ok {
		return
	}
	e := db.ks.arena.entry(off)
	db.setExpiry(h, &e, atMs)
}

// Persist removes the expiry of key and reports whether it had one.
func (db *DB) Persist(key []byte) bool {
	h, off, ok := db.find(key)
	if !ok {
		return false
	}
	e := db.ks.arena.entry(off)
	if !e.expires() {
		return false
	}
	db.setExpiry(h, &e, NoExpiry)
	return true
}

// setExpiry gives e the expiry at. An entry without room for it, or with room that
// it needs no more, is replaced by another one.
func (db *DB) setExpiry(h uint64, e *entry, at int64) {
	a := db.ks.arena
	db.saveForAppend(e) // the value of a long one stays where it is, and as it is
	if e.bits&flagLong != 0 || e.expires() && at >= 0 {
		was := e.expires()
		a.setExpiry(e, at)
		switch {
		case was == e.expires():
		case was:
			db.volatile.Delete(db.keys.volatileHash(h), e.off)
		default:
			db.volatile.Insert(db.keys.volatileHash(h), e.off)
		}
		return
	}
	now := a.newEntry(a.keyOf(e), e.vlen, e.bits, a.lru(e.off), at)
	copy(a.mem[now.val():], a.valOf(e))
	db.relink(h, e, &now)
	a.Free(e.off, e.size())
}

// AvgTTL returns an estimate, in ms, of how long volatile keys have still to
// live; ExpiredStep refines it. 0 if unknown.
func (db *DB) AvgTTL(nowMs int64) int64 {
	if db.volatile.n == 0 {
		return 0
	}
	return db.avgTTL
}

// ExpiredStep looks at about maxKeys of the keys that expire, going on where the
// last call stopped, and calls fn with a copy of each that is past its time; fn may change
// the keyspace, and returns whether it has deleted that key. found is how many it has; more
// says that these are above a tenth of what was seen, so that another step pays.
func (db *DB) ExpiredStep(nowMs int64, maxKeys int, fn func(key []byte) bool) (found int, more bool) {
	if db.volatile.n == 0 {
		return 0, false
	}
	a := db.ks.arena
	var keys []byte
	var ends []int
	seen, alive, ttlSum := 0, int64(0), int64(0)
	db.expireCursor = db.volatile.Scan(db.expireCursor, maxKeys, func(off Off) {
		seen++
		e := a.entry(off)
		if ttl := a.expireAt(&e) - nowMs; ttl >= 0 {
			// An estimate in ms must not overflow on expiries far away.
			ttlSum += min(ttl, 1<<42)
			alive++
			return
		}
		keys = append(keys, a.keyOf(&e)...)
		ends = append(ends, len(keys))
	})
	if alive > 0 {
		db.noteTTL(ttlSum / alive)
	}
	start := 0
	for _, end := range ends {
		if fn(keys[start:end:end]) {
			found++
		}
		start = end
	}
	return found, found*10 > seen
}

// noteTTL weighs a new average into the estimate, 2 % each time as Redis does.
func (db *DB) noteTTL(avg int64) {
	if db.avgTTL == 0 {
		db.avgTTL = avg
	}
	db.avgTTL = db.avgTTL/50*49 + avg/50
}
