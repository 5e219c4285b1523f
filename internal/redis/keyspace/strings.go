package keyspace

// SetString makes key a string with the value val, whatever it was before.
// expireAt is a Unix time in ms >= 0, NoExpiry or KeepTTL. Both slices are copied and may
// lie in the keyspace.
func (db *DB) SetString(key, val []byte, expireAt int64) {
	ks, a := db.ks, db.ks.arena
	h, off, ok := db.find(key)
	if !ok {
		e := a.newEntry(key, len(val), uint8(TypeString)|ks.parity, ks.newLRU(), expireAt)
		copy(a.mem[e.val():], val)
		db.link(h, &e)
		return
	}
	e := a.entry(off)
	db.save(&e)
	lazy := ks.limits.LazyServerDel
	if lazy && e.typ() != TypeString {
		ks.countLazy(Ref{db, off})
	}
	if e.isLarge() {
		// The value may be an element of what is freed here.
		val = append([]byte(nil), val...)
		ks.discard(ks.takeLarge(a.largeID(&e)), lazy)
	}
	lru := ks.newLRU()
	if ks.limits.LFU {
		lru = a.lru(off)
	}
	if expireAt == KeepTTL {
		expireAt = a.expireAt(&e)
	}
	bits := e.bits&(flagLong|flagExpire|flagParity) | uint8(TypeString)
	if e.expires() == (expireAt >= 0) && db.fits(&e, len(val)) {
		copy(a.mem[e.val():e.val()+Off(len(val))], val)
		if e.expires() {
			a.store64(e.expire, uint64(expireAt))
		}
		a.setLen(&e, len(val))
		a.mem[off] = bits
		a.setLRU(off, lru)
		return
	}
	now := a.newEntry(key, len(val), bits, lru, expireAt)
	copy(a.mem[now.val():], val)
	db.relink(h, &e, &now)
	a.Free(off, e.size())
}

// SetText is SetString for a value that Redis stores as it is, without a look
// whether it is an integer: what reads as one reports the encoding "embstr".
func (db *DB) SetText(key, val []byte, expireAt int64) {
	db.SetString(key, val, expireAt)
	_, off, _ := db.find(key)
	e := db.ks.arena.entry(off)
	db.ks.arena.setForm(&e, formText)
}

// SetRange writes part, which does not lie in the keyspace, into the string key
// from at >= 0 on, and returns the length that it has then. Like MutString, it
// creates the string and fills it up with zeros, and makes its encoding "raw".
func (db *DB) SetRange(key []byte, at int, part []byte) int {
	val := db.mutString(key, at+len(part), at)
	copy(val[at:], part)
	return len(val)
}

// MutString makes key a string of at least minLen bytes, filled up with zeros,
// whose encoding reports as "raw", and returns its value to be written to. The
// slice is valid until the next call on the keyspace. The caller has checked that
// key is a string or does not exist.
func (db *DB) MutString(key []byte, minLen int) []byte {
	return db.mutString(key, minLen, 0)
}

// mutString is MutString for who changes nothing before from, and nothing from
// minLen on if from is not 0.
func (db *DB) mutString(key []byte, minLen, from int) []byte {
	ks, a := db.ks, db.ks.arena
	h, off, ok := db.find(key)
	if !ok {
		e := a.newEntry(key, minLen, uint8(TypeString)|uint8(formRaw)<<formShift|ks.parity, ks.newLRU(), NoExpiry)
		a.zero(e.val(), minLen)
		db.link(h, &e)
		return a.valOf(&e)
	}
	e := a.entry(off)
	if from > 0 {
		db.saveForRange(&e, from, minLen-from)
	} else {
		db.save(&e)
	}
	old := e.vlen
	if minLen > old {
		e = db.grow(&e, minLen)
		a.zero(e.val()+Off(old), minLen-old)
	}
	a.setForm(&e, formRaw)
	return a.valOf(&e)
}

// AppendString appends suffix to the string key, which is created if it does
// not exist, and returns the new length. An existing one reports the encoding "raw"
// from then on. The caller has checked the type.
func (db *DB) AppendString(key, suffix []byte) int {
	_, off, ok := db.find(key)
	if !ok {
		db.SetString(key, suffix, NoExpiry)
		return len(suffix)
	}
	a := db.ks.arena
	e := a.entry(off)
	db.saveForAppend(&e)
	old := e.vlen
	// Growing may free the block that the suffix lies in.
	if sameBlock(a, &e, suffix) {
		suffix = append([]byte(nil), suffix...)
	}
	e = db.grow(&e, old+len(suffix))
	copy(a.mem[e.val()+Off(old):], suffix)
	a.setForm(&e, formRaw)
	return e.vlen
}

// grow makes the value of e n bytes long, n >= e.vlen; the new ones are
// undefined. It returns the entry, which may have moved.
func (db *DB) grow(e *entry, n int) entry {
	a := db.ks.arena
	if db.fits(e, n) {
		a.setLen(e, n)
		return *e
	}
	now := a.newEntry(a.keyOf(e), n, e.bits, a.lru(e.off), a.expireAt(e))
	copy(a.mem[now.val():], a.valOf(e))
	db.move(e, &now)
	return now
}

// sameBlock reports whether b lies in the block of e.
func sameBlock(a *Arena, e *entry, b []byte) bool {
	if len(b) == 0 {
		return false
	}
	block := a.Mem(e.off, e.size())
	return within(block, b)
}
