package keyspace

import (
	"hash/maphash"
	"math/rand/v2"

	"holdfast/internal/invariant"
)

// What SetString takes in place of a time of expiry.
const (
	NoExpiry = -1
	KeepTTL  = -2
)

// Options configure a Keyspace.
type Options struct {
	Databases int     // number of databases; 0 means 16
	Limits    *Limits // nil means DefaultLimits(); kept, not copied
	Reserve   int64   // bytes of address space for the arena; 0 means as NewArena does
	BySlot    bool    // database 0 knows the keys of each hash slot: cluster mode
}

// Limits decide when small forms of collections become large ones, and how
// accesses are recorded. The fields have the meaning of the directives of
// redis.conf of the same name, and may be changed between two commands.
type Limits struct {
	HashMaxListpackEntries int
	HashMaxListpackValue   int
	ListMaxListpackSize    int // >0 elements, -1..-5 for 4 to 64 KiB
	ListCompressDepth      int
	SetMaxIntsetEntries    int
	ZsetMaxListpackEntries int
	ZsetMaxListpackValue   int

	LFU          bool // entries record frequency of use instead of the time of the last
	LFULogFactor int
	LFUDecayTime int // minutes

	SaveIdle bool // snapshots tell the idle times: the eviction policy is one of LRU

	LazyServerDel bool // what is overwritten is freed as with lazy of Delete
}

// DefaultLimits returns Redis's defaults.
func DefaultLimits() *Limits {
	return &Limits{
		HashMaxListpackEntries: 512, HashMaxListpackValue: 64,
		ListMaxListpackSize: -2, SetMaxIntsetEntries: 512,
		ZsetMaxListpackEntries: 128, ZsetMaxListpackValue: 64,
		LFULogFactor: 10, LFUDecayTime: 1,
	}
}

// Keyspace is all databases of a server. Not safe for concurrent use.
type Keyspace struct {
	arena  *Arena
	seed   maphash.Seed
	limits *Limits
	dbs    []*DB

	large     []largeObject // by the number in their entries, nil where unused
	largeFree []uint32

	// parity is what flagParity is in all entries that no snapshot waits for.
	parity uint8
	// saved is what it is in those that need not be saved before a change: parity,
	// but for a running snapshot of slots.
	saved uint8
	snap  *Snapshot // running, nil if none

	nowMs    int64
	lruClock uint32 // 24 bits, seconds
	lfuClock uint32 // 16 bits, minutes
	rnd      uint64 // xorshift state for the LFU counter

	trash  trashQueue
	defrag defragState
	coll   collScratch

	bySlot bool
}

// DB is one database.
type DB struct {
	ks       *Keyspace
	index    int
	keys     table
	volatile Index // the entries that expire

	expireCursor uint64
	avgTTL       int64 // ms, estimated as the expiry walk goes on

	origin *snapshotDB // what the running snapshot knows these entries as
}

// New returns an empty Keyspace. It fails when the system refuses even little
// address space.
func New(o Options) (*Keyspace, error) {
	a, err := NewArena(o.Reserve)
	if err != nil {
		return nil, err
	}
	ks := &Keyspace{arena: a, seed: maphash.MakeSeed(), limits: o.Limits, rnd: rand.Uint64() | 1, bySlot: o.BySlot}
	if ks.limits == nil {
		ks.limits = DefaultLimits()
	}
	n := o.Databases
	if n <= 0 {
		n = 16
	}
	for i := range n {
		db := &DB{ks: ks, index: i}
		db.reset()
		ks.dbs = append(ks.dbs, db)
	}
	return ks, nil
}

// Close gives all memory back. The Keyspace must not be used any more.
func (ks *Keyspace) Close() error {
	err := ks.trash.close()
	if e := ks.arena.Close(); err == nil {
		err = e
	}
	return err
}

// reset makes db empty without freeing what it held.
func (db *DB) reset() {
	slots := db.ks.bySlot && db.index == 0
	db.keys.init(db.ks.arena, db.ks.seed, slots)
	db.volatile.init(db.ks.arena, db.ks.seed, blockEntry)
	if slots {
		db.volatile.hashing = hashApart
	}
	db.expireCursor, db.avgTTL = 0, 0
	db.origin = nil
}

// DB returns the database number i, 0 <= i < NumDB().
func (ks *Keyspace) DB(i int) *DB { return ks.dbs[i] }

// NumDB returns the number of databases.
func (ks *Keyspace) NumDB() int { return len(ks.dbs) }

// Limits returns the limits that were given to New, to be read or changed.
func (ks *Keyspace) Limits() *Limits { return ks.limits }

// SwapDB exchanges the content of two databases. In a keyspace by slot database 0
// stays what it is.
func (ks *Keyspace) SwapDB(i, j int) {
	invariant.Check(!ks.bySlot || i*j != 0 || i == j, "swap of databases %d and %d, of which one is by slot", i, j)
	a, b := ks.dbs[i], ks.dbs[j]
	*a, *b = *b, *a
	a.index, b.index = i, j
	if a.origin != nil {
		a.origin.db = a
	}
	if b.origin != nil {
		b.origin.db = b
	}
}

// UsedMemory returns the bytes that data and indexes take, counted by size
// classes, including what waits to be freed.
func (ks *Keyspace) UsedMemory() int64 {
	return ks.arena.Used() + ks.arena.Accounted() + ks.trash.arenaBytes
}

// Index returns the number of the database.
func (db *DB) Index() int { return db.index }

// Len returns the number of keys, expired ones that were not removed included.
func (db *DB) Len() int { return db.keys.len() }

// Volatile returns the number of keys with an expiry.
func (db *DB) Volatile() int { return db.volatile.n }

// Find returns the entry of key. It neither looks at the expiry nor counts as
// an access.
func (db *DB) Find(key []byte) (Ref, bool) {
	_, off, ok := db.find(key)
	return Ref{db, off}, ok
}

// find returns the hash of key and where its entry is.
func (db *DB) find(key []byte) (h uint64, off Off, ok bool) {
	t := &db.keys
	h = t.top.Hash(key)
	if t.parts != nil {
		h = bySlot(h, t.slotOf(key))
	}
	if t.napart != 0 {
		off, ok = t.find(h, key)
	} else {
		off, ok = t.top.Find(h, key)
	}
	return h, off, ok
}

// save must be called before the entry e is changed or removed: the running
// snapshot, if it did not do so yet, serialises it.
func (db *DB) save(e *entry) {
	if e.parity() != db.ks.saved {
		db.ks.snap.saveEntry(db.origin, e)
	}
}

// beforeWrite must be called before the value of r is changed.
func (db *DB) beforeWrite(r Ref) {
	if db.ks.arena.mem[r.off]&flagParity != db.ks.saved {
		e := db.ks.arena.entry(r.off)
		db.save(&e)
	}
}

// Delete removes key and reports whether it was there. With lazy, a large
// collection is freed later, by FreeStep.
func (db *DB) Delete(key []byte, lazy bool) bool {
	h, off, ok := db.find(key)
	if !ok {
		return false
	}
	a := db.ks.arena
	e := a.entry(off)
	db.save(&e)
	if lazy {
		db.ks.countLazy(Ref{db, off})
	}
	db.unlink(h, &e)
	if e.isLarge() {
		db.ks.discard(db.ks.takeLarge(a.largeID(&e)), lazy)
	}
	a.Free(off, e.size())
	return true
}

// unlink takes e out of the indexes.
func (db *DB) unlink(h uint64, e *entry) {
	db.keys.remove(h, e.off)
	if e.expires() {
		db.volatile.Delete(db.keys.volatileHash(h), e.off)
	}
}

// link puts the new entry e into the indexes.
func (db *DB) link(h uint64, e *entry) {
	db.keys.insert(h, e.off)
	if db.ks.saved != db.ks.parity {
		db.ks.snap.noteNew(db, h, e)
	}
	if e.expires() {
		db.volatile.Insert(db.keys.volatileHash(h), e.off)
	}
}

// relink makes the indexes point to now instead of old, which has the same key.
func (db *DB) relink(h uint64, old, now *entry) {
	db.keys.replace(h, old.off, now.off)
	switch {
	case old.expires() && now.expires():
		db.volatile.Replace(db.keys.volatileHash(h), old.off, now.off)
	case old.expires():
		db.volatile.Delete(db.keys.volatileHash(h), old.off)
	case now.expires():
		db.volatile.Insert(db.keys.volatileHash(h), now.off)
	}
}

// setValue makes val the value of e in form f and returns the offset of the
// entry, which moves when val does not fit its size class. val may lie in the
// entry itself. The caller has called save.
func (db *DB) setValue(e *entry, f form, val []byte) Off {
	a := db.ks.arena
	if db.fits(e, len(val)) {
		copy(a.mem[e.val():e.val()+Off(len(val))], val)
		a.setLen(e, len(val))
		a.setForm(e, f)
		return e.off
	}
	now := a.newEntry(a.keyOf(e), len(val), e.bits, a.lru(e.off), a.expireAt(e))
	copy(a.mem[now.val():], val)
	a.setForm(&now, f)
	db.move(e, &now)
	return now.off
}

// fits reports whether a value of n bytes can stand in the block of e.
func (db *DB) fits(e *entry, n int) bool {
	size := e.size()
	return classSize(size) == classSize(size-e.vlen+n) &&
		(e.bits&flagLong != 0 || !needsLong(e.klen, n))
}

// move replaces e by now, which has the same key, in the indexes, and frees it.
func (db *DB) move(e, now *entry) {
	a := db.ks.arena
	db.relink(db.keys.hash(a.keyOf(now)), e, now)
	a.Free(e.off, e.size())
}

func (a *Arena) setForm(e *entry, f form) {
	e.bits = e.bits&^formMask | uint8(f)<<formShift
	a.mem[e.off] = e.bits
}

// Rename gives the entry of from the key to, with value and expiry; what to held
// before is removed. Nothing happens when from does not exist or both are equal.
func (db *DB) Rename(from, to []byte) {
	if string(from) != string(to) {
		db.transfer(from, db, to)
	}
}

// Move moves key with value and expiry to dst, another database, where it
// replaces a key of that name.
func (db *DB) Move(key []byte, dst *DB) {
	if db != dst {
		db.transfer(key, dst, key)
	}
}

func (db *DB) transfer(from []byte, dst *DB, to []byte) {
	h, off, ok := db.find(from)
	if !ok {
		return
	}
	a := db.ks.arena
	e := a.entry(off)
	db.save(&e)
	now := a.newEntry(to, e.vlen, a.mem[off], a.lru(off), a.expireAt(&e))
	copy(a.mem[now.val():], a.valOf(&e))
	a.setParity(&now, db.ks.parity)
	db.unlink(h, &e)
	// The keys that were passed may lie in the entry that is freed here.
	to = a.keyOf(&now)
	a.Free(off, e.size())
	dst.Delete(to, db.ks.limits.LazyServerDel)
	dst.link(dst.keys.hash(to), &now)
}

func (a *Arena) setParity(e *entry, p uint8) {
	e.bits = e.bits&^flagParity | p
	a.mem[e.off] = e.bits
}

// Copy makes newKey of dst a deep copy of key, expiry included; what newKey held
// is removed. It does nothing when key does not exist or would be its own copy.
func (db *DB) Copy(key []byte, dst *DB, newKey []byte) {
	_, off, ok := db.find(key)
	if !ok || db == dst && string(key) == string(newKey) {
		return
	}
	ks, a := db.ks, db.ks.arena
	e := a.entry(off)
	now := a.newEntry(newKey, e.vlen, e.bits&^flagParity|ks.parity, ks.newLRU(), a.expireAt(&e))
	if e.isLarge() {
		id := ks.addLarge(ks.large[a.largeID(&e)].clone())
		a.store64(now.val(), uint64(id))
	} else {
		copy(a.mem[now.val():], a.valOf(&e))
	}
	newKey = a.keyOf(&now)
	dst.Delete(newKey, ks.limits.LazyServerDel)
	dst.link(dst.keys.hash(newKey), &now)
}

// Random returns a random entry; false when there is none.
func (db *DB) Random(rng *rand.Rand) (Ref, bool) {
	off, ok := db.keys.random(rng)
	return Ref{db, off}, ok
}

// Scan calls fn for the entries behind cursor, about count of them, and returns
// the next cursor, 0 at the end. Every key that exists from the first call to the last is
// visited, as Redis guarantees; any number is accepted as a cursor. fn must not change
// the keyspace.
func (db *DB) Scan(cursor uint64, count int, fn func(Ref)) uint64 {
	return db.keys.scan(cursor, count, func(off Off) { fn(Ref{db, off}) })
}

// Each calls fn for every entry until it returns false. fn must not change the
// keyspace.
func (db *DB) Each(fn func(Ref) bool) {
	db.keys.each(func(off Off) bool { return fn(Ref{db, off}) })
}

// check panics unless the indexes of db agree with its entries. For tests.
func (db *DB) check() {
	volatile := 0
	db.Each(func(r Ref) bool {
		e := db.ks.arena.entry(r.off)
		key := db.ks.arena.keyOf(&e)
		h := db.keys.hash(key)
		off, ok := db.keys.find(h, key)
		invariant.Check(ok && off == r.off, "key %q stands at %#x, found at %#x", key, r.off, off)
		if e.expires() {
			volatile++
			off, ok = db.volatile.Find(db.keys.volatileHash(h), key)
			invariant.Check(ok && off == r.off, "key %q stands at %#x, volatile at %#x", key, r.off, off)
		}
		invariant.Check(db.ks.snap != nil || e.parity() == db.ks.parity, "key %q has the parity of a snapshot", key)
		return true
	})
	invariant.Check(volatile == db.volatile.n, "%d keys expire, %d in the index", volatile, db.volatile.n)
}
