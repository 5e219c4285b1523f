package keyspace

// Slabs that are less than half full are emptied: their entries move to other
// slabs, one walk over all keys at a time, so that the memory of values that
// became smaller or went serves other sizes again. Elements of large collections stay.

// defragState is a walk over the keys; the zero value is none.
type defragState struct {
	active bool
	db     int
	cursor uint64
	offs   []Off
}

// MappedMemory returns the bytes of address space that hold data or may hold
// pages of what was freed. What it exceeds UsedMemory by is fragmentation, which
// Defrag works against.
func (ks *Keyspace) MappedMemory() int64 {
	n := ks.arena.Mapped() + ks.arena.Accounted()
	for _, a := range ks.trash.arenas {
		n += a.Mapped()
	}
	return n
}

// Defrag looks at about budget keys and moves those that stand in sparse slabs.
// It returns how many it moved of how many it has seen; done means that a walk over all
// keys has ended, or that there is nothing to gain. Refs are not valid afterwards.
func (ks *Keyspace) Defrag(budget int) (moved, seen int, done bool) {
	d := &ks.defrag
	if !d.active {
		if ks.arena.beginEvacuation() == 0 {
			return 0, 0, true
		}
		*d = defragState{active: true, offs: d.offs}
	}
	for d.db < len(ks.dbs) {
		if budget <= 0 {
			return moved, seen, false
		}
		n := min(budget, 256)
		budget -= n
		m, v := ks.defragStep(ks.dbs[d.db], n)
		moved, seen = moved+m, seen+v
		if d.cursor == 0 {
			d.db++
		}
	}
	ks.EndDefrag()
	return moved, seen, true
}

// EndDefrag breaks off a walk that Defrag has begun; the next one begins anew.
func (ks *Keyspace) EndDefrag() {
	if ks.defrag.active {
		ks.arena.endEvacuation()
		ks.defrag.active = false
	}
}

// defragStep looks at about n keys from the cursor on.
func (ks *Keyspace) defragStep(db *DB, n int) (moved, seen int) {
	d, a := &ks.defrag, ks.arena
	d.offs = d.offs[:0]
	d.cursor = db.keys.scan(d.cursor, n, func(off Off) {
		seen++
		e := a.entry(off)
		if a.evacuating(off, e.size()) {
			d.offs = append(d.offs, off)
		}
	})
	for _, off := range d.offs {
		e := a.entry(off)
		size := e.size()
		to := a.Alloc(size)
		copy(a.Mem(to, size), a.Mem(off, size))
		now := a.entry(to)
		db.move(&e, &now)
	}
	return len(d.offs), seen
}

// beginEvacuation takes the slabs that are less than half full out of use for
// new blocks and returns how many there are. A class with but one such slab
// has nothing to gain.
func (a *Arena) beginEvacuation() (n int) {
	var sparse [slabClasses]int
	for class, s := range a.partial {
		for ; s != 0; s = a.units[s].next {
			if a.sparse(s) {
				sparse[class]++
			}
		}
	}
	for class, s := range a.partial {
		if sparse[class] < 2 {
			continue
		}
		for s != 0 {
			next := a.units[s].next
			if a.sparse(s) {
				a.unlinkPartial(s)
				a.units[s].evacuating = true
				n++
			}
			s = next
		}
	}
	return n
}

// sparse reports whether less than half of the slab's blocks are in use.
func (a *Arena) sparse(s int32) bool {
	u := &a.units[s]
	return int(u.used)*2 < int(u.n)*unitSize/slabSize(int(u.class))
}

// slabSize returns the size of the blocks of a class: what classOf undoes.
func slabSize(class int) int {
	if class < linearClasses {
		return (class + 1) * classStep
	}
	class -= linearClasses
	return (9 + class%8) << (7 + class/8)
}

// evacuating reports whether the block of n bytes at off is to move.
func (a *Arena) evacuating(off Off, n int) bool {
	return n <= slabMax && a.units[a.slabOf(off, slabUnits(classSize(n)))].evacuating
}

// endEvacuation takes the slabs that could not be emptied into use again.
func (a *Arena) endEvacuation() {
	for i := range a.units {
		u := &a.units[i]
		if u.state == unitSlab && u.evacuating {
			u.evacuating = false
			a.linkPartial(int32(i))
		}
	}
}
