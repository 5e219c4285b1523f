package keyspace

// lazyMin is the length from which on a collection is freed by steps when the
// caller wishes so, as in Redis.
const lazyMin = 64

// trashQueue holds what is still to be freed.
type trashQueue struct {
	objects []largeObject
	indexes []*table // of entries that go with it
	arenas  []*Arena // everything in them goes

	arenaBytes int64 // used in arenas
	arenaKeys  int   // keys that were in arenas
	pending    int   // objects and keys not freed yet
	freed      int64 // what Redis would have left to its thread, as LazyFreed says
}

// freeEffort is Redis's estimate of what it takes to free the value: its
// elements, of a list its nodes, and 1 for what lies in one piece.
func (r Ref) freeEffort() int {
	switch r.Type() {
	case TypeString:
		return 1
	case TypeList:
		l := r.db.List(r)
		n, _ := l.Nodes()
		return n
	}
	switch e := r.entry(); {
	case e.isLarge():
		if obj := r.db.large(r); obj.encoding() != "listpack" {
			return obj.length()
		}
	case e.typ() == TypeSet && e.form() != formIntset:
		s := r.db.Set(r)
		return s.Len()
	}
	return 1
}

// countLazy counts the value of r, which is deleted lazily, if Redis would leave
// it to its thread. What is small here is freed at once all the same.
func (ks *Keyspace) countLazy(r Ref) {
	if r.freeEffort() > lazyMin {
		ks.trash.freed++
	}
}

// discard frees obj, which no entry names any more: now, or by FreeStep, or, if
// a snapshot still reads it, when that is done.
func (ks *Keyspace) discard(obj largeObject, lazy bool) {
	if ks.snap != nil && ks.snap.adopt(obj) {
		return
	}
	if lazy && obj.length() > lazyMin {
		ks.trash.objects = append(ks.trash.objects, obj)
		ks.trash.pending++
		return
	}
	for !obj.free(1 << 20) {
	}
}

// freeEntry frees the entry at off, which stands in no index any more.
func (ks *Keyspace) freeEntry(off Off, lazy bool) {
	e := ks.arena.entry(off)
	if e.isLarge() {
		ks.discard(ks.takeLarge(ks.arena.largeID(&e)), lazy)
	}
	ks.arena.Free(off, e.size())
}

// Flush removes all keys of the database number db, or of all if db is -1. With
// async the memory is given back by FreeStep.
func (ks *Keyspace) Flush(db int, async bool) {
	if db < 0 && ks.snap == nil {
		ks.flushArena(async)
		return
	}
	for i, d := range ks.dbs {
		if db < 0 || db == i {
			if async {
				ks.trash.freed += int64(d.keys.len())
			}
			d.flush(async)
		}
	}
}

// flush removes all keys of db. What a running snapshot has not seen becomes the
// snapshot's, which frees it.
func (db *DB) flush(async bool) {
	if db.keys.len() == 0 {
		return
	}
	ks := db.ks
	db.volatile.Free()
	keys := db.keys
	origin := db.origin
	db.reset()
	if origin != nil && ks.snap.adoptIndex(origin, &keys) {
		return
	}
	ks.trash.addIndex(&keys)
	if !async {
		ks.freeIndexes(int(^uint(0)>>1), false)
	}
}

func (t *trashQueue) addIndex(x *table) {
	t.pending += x.len()
	t.indexes = append(t.indexes, x)
}

// flushArena removes everything at once. Asynchronously it leaves the arena to
// FreeStep and goes on with a new one, if the system lets it have one.
func (ks *Keyspace) flushArena(async bool) {
	t := &ks.trash
	keys := 0
	for _, db := range ks.dbs {
		keys += db.keys.len()
	}
	if async {
		t.freed += int64(keys)
	}
	if async && ks.arena.Used() > dirtyMax {
		if a, err := NewArena(int64(len(ks.arena.mem))); err == nil {
			t.arenas = append(t.arenas, ks.arena)
			t.arenaBytes += ks.arena.Used()
			t.arenaKeys += keys
			t.pending += keys
			ks.arena = a
			ks.forgetAll()
			return
		}
	}
	ks.arena.Reset()
	ks.arena.extra = 0
	ks.forgetAll()
}

// forgetAll makes all databases empty in the present arena, which holds nothing.
func (ks *Keyspace) forgetAll() {
	ks.defrag = defragState{}
	for _, db := range ks.dbs {
		db.reset()
	}
	// What waited to be freed lay in the arena that is gone.
	t := &ks.trash
	t.indexes, t.objects = nil, nil
	t.pending = t.arenaKeys
	ks.large, ks.largeFree = nil, nil
}

// FreeStep frees about budget keys or elements of what was removed lazily, and
// returns how many keys wait still.
func (ks *Keyspace) FreeStep(budget int) (pending int) {
	t := &ks.trash
	switch {
	case len(t.objects) > 0:
		if t.objects[0].free(budget) {
			t.objects[0] = nil
			t.objects = t.objects[1:]
			t.pending--
		}
	case len(t.indexes) > 0:
		ks.freeIndexes(budget, true)
	case len(t.arenas) > 0:
		ks.freeArena(budget)
	}
	if ks.snap != nil && ks.snap.aborted {
		ks.snap.sweep(budget)
	}
	return t.pending
}

func (ks *Keyspace) freeIndexes(budget int, lazy bool) {
	t := &ks.trash
	for len(t.indexes) > 0 && budget > 0 {
		spent, done := t.indexes[0].drain(budget, func(off Off) { ks.freeEntry(off, lazy) })
		budget -= spent
		t.pending -= spent
		if !done {
			return
		}
		t.indexes[0] = nil
		t.indexes = t.indexes[1:]
	}
}

// freeArena gives a part of the oldest arena back that would hold about budget
// entries.
func (ks *Keyspace) freeArena(budget int) {
	t := &ks.trash
	a := t.arenas[0]
	const entryGuess = 256
	units := max(1, budget*entryGuess/unitSize)
	if n := len(a.units); n > 1 {
		from := max(1, n-units)
		release(a.mem[from*unitSize : n*unitSize])
		a.units = a.units[:from]
		part := a.used * int64(n-from) / int64(n)
		a.used -= part
		t.arenaBytes -= part
		keys := int(int64(t.arenaKeys) * int64(n-from) / int64(n))
		t.arenaKeys -= keys
		t.pending -= keys
	}
	if len(a.units) > 1 {
		return
	}
	t.arenaBytes -= a.used
	if len(t.arenas) == 1 {
		t.pending -= t.arenaKeys
		t.arenaKeys = 0
	}
	// Only an argument that is no mapping can fail, and leaves address space.
	_ = a.Close()
	t.arenas[0] = nil
	t.arenas = t.arenas[1:]
}

func (t *trashQueue) close() error {
	var err error
	for _, a := range t.arenas {
		if e := a.Close(); err == nil {
			err = e
		}
	}
	*t = trashQueue{}
	return err
}

// PendingFree returns how many keys and collections wait to be freed.
func (ks *Keyspace) PendingFree() int64 { return int64(ks.trash.pending) }

// LazyFreed returns how many keys and collections were removed lazily: the keys
// of databases that were flushed, and the values that take more than 64 steps to
// free by Redis's rule. Those that still wait are among them.
func (ks *Keyspace) LazyFreed() int64 { return ks.trash.freed }

// ResetLazyFreed sets that count to 0, as CONFIG RESETSTAT does.
func (ks *Keyspace) ResetLazyFreed() { ks.trash.freed = 0 }
