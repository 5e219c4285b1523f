package keyspace

import (
	"encoding/binary"
	"strconv"

	"holdfast/internal/invariant"
	"holdfast/internal/redis/cluster/slot"
	"holdfast/internal/redis/rdb"
)

// A snapshot of some hash slots is one of commands that make their keys anew at
// another node. It works as the one of all databases does, but for what tells
// which entries are done: the parity of all others must stay what it is. The
// walk goes through the slots in order, and within a slot in the order of
// hashes. So an entry waits if
//
//   - its slot is one of the snapshot's,
//   - the walk has not come to its place yet, and
//   - it has the keyspace's parity: those that were serialised before their turn,
//     or made since the beginning, have the other one until the walk passes them;
//     long strings that only grew before their turn are noted by key instead.
//
// While such a snapshot runs, a change of any entry looks at its slot. At the end,
// and after the sweep that follows an Abort, all entries have the keyspace's
// parity again, and no entry of another slot was ever touched.

// CommandWriter takes the commands of a snapshot of slots.
type CommandWriter interface {
	// Command takes one command. The arguments are valid during the call only.
	Command(args ...[]byte)
}

// slotWalk is how far a snapshot of slots has come.
type slotWalk struct {
	set slot.Set
	// cur is where it stands: in one slot, so of a depth of slotBits or more.
	cur cursor
	end bool // it has passed all
}

// BeginSlotSnapshot begins a snapshot of the keys of these slots of database 0
// as they are now. The keyspace must be by slot. Values become one RESTORE each;
// strings and large collections beyond some 64 KiB become several commands of
// about that size, with the expiry at the end. Only one snapshot of any kind
// can run at a time.
func (ks *Keyspace) BeginSlotSnapshot(slots *slot.Set, w CommandWriter) *Snapshot {
	invariant.Check(ks.bySlot, "snapshot: of slots, in a keyspace that is not by slot")
	ks.endAborted()
	s := &Snapshot{ks: ks, w: &commandSink{w: w}, frozen: make(map[largeObject]*frozenObject), texts: make(map[textKey]*frozenObject), textMin: chunkSize}
	s.enc.Compress = true
	s.slots, s.early = &slotWalk{set: *slots}, make(map[string]bool)
	s.slots.enter(0)
	slots.Each(func(n int) { s.total += ks.CountKeysInSlot(n) })
	if s.total > 0 {
		o := &snapshotDB{keys: s.total, db: ks.dbs[0]}
		ks.dbs[0].origin = o
		s.origins = []*snapshotDB{o}
	}
	ks.snap = s
	ks.saved = ks.parity ^ flagParity
	return s
}

// enter moves the walk to the first slot from n on that is in the set.
func (w *slotWalk) enter(n int) {
	n = w.set.Next(n)
	w.end = n >= slot.Count
	w.cur = cursor{prefix: uint64(n), depth: slotBits}
}

// slot returns the slot in which the walk stands.
func (w *slotWalk) slot() int { return int(w.cur.prefix >> (w.cur.depth - slotBits)) }

// passed reports whether the walk has passed the place of h, a hash by slot.
func (w *slotWalk) passed(h uint64) bool {
	p := h >> (64 - w.cur.depth)
	return w.end || p < w.cur.prefix || p == w.cur.prefix && int(h&(1<<homeBits-1)) < w.cur.home
}

// awaits reports whether what has the hash h by slot is still to be walked to.
func (w *slotWalk) awaits(h uint64) bool { return w.set.Has(int(h>>slotAbove)) && !w.passed(h) }

// waits reports whether the entry e of o, which has the keyspace's parity, is to
// be serialised before it changes.
func (s *Snapshot) waits(o *snapshotDB, e *entry) bool {
	if o == nil || o.walked {
		return false
	}
	key := s.ks.arena.keyOf(e)
	n := slot.Of(key)
	return s.slots.set.Has(n) && !s.early[string(key)] && s.slots.awaits(bySlot(o.index().top.Hash(key), uint64(n)))
}

// noteNew marks the new entry e of db as done, if the walk is yet to come to it.
func (s *Snapshot) noteNew(db *DB, h uint64, e *entry) {
	if o := db.origin; o != nil && !o.walked && s.slots.awaits(h) {
		s.ks.arena.setParity(e, s.ks.saved)
	}
}

// walkSlots serialises the next entries of o that wait.
func (s *Snapshot) walkSlots(o *snapshotDB, budget int) (spent int) {
	ks, a := s.ks, s.ks.arena
	s.walking = o
	spent = o.index().scanSlots(s.slots, budget, func(off Off) {
		if a.mem[off]&flagParity == ks.saved {
			a.mem[off] ^= flagParity
			return
		}
		e := a.entry(off)
		if len(s.early) > 0 && s.early[string(a.keyOf(&e))] {
			return
		}
		s.write(o, &e)
		if len(s.out) >= chunkSize {
			s.flush()
		}
	})
	s.walking = nil
	if s.slots.end {
		s.endWalk(o)
	}
	return spent
}

// sweepSlots gives about budget entries the keyspace's parity after Abort.
func (s *Snapshot) sweepSlots(budget int) (done bool) {
	a := s.ks.arena
	for _, o := range s.origins {
		for o.db != nil && !s.slots.end {
			if budget <= 0 {
				return false
			}
			n := min(budget, 1024)
			o.db.keys.scanSlots(s.slots, n, func(off Off) {
				a.mem[off] = a.mem[off]&^flagParity | s.ks.parity
			})
			budget -= n
		}
	}
	s.finish()
	return true
}

// scanSlots calls fn for about count of the entries that w comes to next, and
// moves it behind them. The table must be by slot. fn must not change it.
func (t *table) scanSlots(w *slotWalk, count int, fn func(off Off)) (spent int) {
	p := t.parts
	buckets := 10 * count
	for !w.end && spent < count && buckets > 0 {
		n := w.slot()
		keys := int(p.count[n])
		atStart := w.cur.home == 0 && w.cur.prefix == uint64(n)<<(w.cur.depth-slotBits)
		switch {
		case keys == 0:
			w.enter(n + 1)
		case atStart && p.apart[n] == nil && keys <= max(count-spent, 16):
			// Few: all at one look through the segment.
			t.eachOf(n, func(off Off) bool { fn(off); return true })
			spent += keys
			buckets -= 16
			w.enter(n + 1)
		default:
			if atStart {
				t.fitSlot(&w.cur)
			}
			spent += t.slotBucket(w, fn)
			buckets--
		}
	}
	return spent
}

// slotBucket visits one home bucket of what the prefix of w covers, and moves w
// behind it.
func (t *table) slotBucket(w *slotWalk, fn func(off Off)) (emitted int) {
	c, n := &w.cur, w.slot()
	width := 1 << homeBits
	t.covering(c, func(_ *Index, s *segment, _ *cursor) {
		width = min(width, 1<<(homeBits-s.log))
	})
	to := (c.home | (width - 1)) + 1
	t.covering(c, func(x *Index, s *segment, in *cursor) {
		emitted += x.scanSegment(s, in, to, fn)
	})
	if c.home = to; to < 1<<homeBits {
		return emitted
	}
	c.home = 0
	c.prefix++
	if w.slot() != n {
		w.enter(n + 1)
	} else {
		t.fitSlot(c)
	}
	return emitted
}

// fitSlot is fit for a cursor that stays in its slot.
func (t *table) fitSlot(c *cursor) {
	x := t.parts.apart[c.prefix>>(c.depth-slotBits)]
	if x == nil {
		c.resize(slotBits, slotBits)
		return
	}
	inside := c.depth - slotBits
	first, _ := x.dirRange(c.prefix&(1<<inside-1), inside)
	c.resize(slotBits+min(x.segs[x.dir[first]].depth, slotPrefix-slotBits), slotBits)
}

// --- commands ---

// Commands on their way to the writer are records: the number of arguments, and
// each with its length before it, numbers as uvarint.

// commandSink is a SnapshotWriter that takes records.
type commandSink struct {
	w    CommandWriter
	args [][]byte
}

// SelectDB does nothing: there is one database.
func (c *commandSink) SelectDB(int, int, int) {}

// Append hands over the commands in b, which are whole.
func (c *commandSink) Append(b []byte) {
	for len(b) > 0 {
		var n uint64
		n, b = cutNumber(b)
		c.args = c.args[:0]
		for range n {
			var arg []byte
			arg, b = cutArg(b)
			c.args = append(c.args, arg)
		}
		c.w.Command(c.args...)
	}
	clear(c.args)
}

// cutNumber takes a uvarint off b.
func cutNumber(b []byte) (uint64, []byte) {
	n, k := binary.Uvarint(b)
	if k <= 0 {
		invariant.Violated("snapshot: a record of %d bytes has no length", len(b))
	}
	return n, b[k:]
}

// cutArg takes an argument off b.
func cutArg(b []byte) (arg, rest []byte) {
	n, b := cutNumber(b)
	return b[:n:n], b[n:]
}

func appendArg(dst, arg []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(arg))), arg...)
}

func appendArgString(dst []byte, arg string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(arg))), arg...)
}

func appendArgInt(dst []byte, n int64) []byte {
	var t [20]byte
	return appendArg(dst, strconv.AppendInt(t[:0], n, 10))
}

// appendRestore appends the command that makes e, whose value is no large object.
func (s *Snapshot) appendRestore(dst []byte, e *entry) []byte {
	ks, a := s.ks, s.ks.arena
	t, f := e.typ(), e.form()
	s.payload = append(s.payload[:0], byte(blobRDBType(t, f)))
	s.payload = rdb.AppendDumpFooter(appendBlobRDB(&s.enc, s.payload, t, f, a.valOf(e)), 0)
	access := ks.limits.LFU || ks.limits.SaveIdle
	if access {
		dst = append(dst, 8)
	} else {
		dst = append(dst, 6)
	}
	dst = appendArgString(dst, "RESTORE")
	dst = appendArg(dst, a.keyOf(e))
	dst = appendArgInt(dst, max(a.expireAt(e), 0))
	dst = appendArg(dst, s.payload)
	dst = appendArgString(dst, "REPLACE")
	dst = appendArgString(dst, "ABSTTL")
	switch {
	case ks.limits.LFU:
		dst = appendArgString(dst, "FREQ")
		dst = appendArgInt(dst, int64(ks.decayed(a.lru(e.off))))
	case access:
		dst = appendArgString(dst, "IDLETIME")
		dst = appendArgInt(dst, int64((ks.lruClock-a.lru(e.off))&lruMask))
	}
	if cap(s.payload) > 1<<20 {
		s.payload = nil
	}
	return dst
}

// queueParts makes e, a large object or a long string, wait to be written in
// parts.
func (s *Snapshot) queueParts(o *snapshotDB, e *entry) {
	a := s.ks.arena
	f := &frozenObject{origin: o, head: append([]byte(nil), a.keyOf(e)...), expireAt: a.expireAt(e)}
	if !e.isLarge() {
		s.queueText(f, e)
		return
	}
	f.obj = s.ks.large[a.largeID(e)]
	f.obj.freezeArgs()
	s.frozen[f.obj] = f
	s.queue = append(s.queue, f)
}

// beginParts writes what comes before the parts of f.
func (s *Snapshot) beginParts(f *frozenObject) {
	if f.obj != nil {
		s.out = appendArgString(append(s.out, 2), "DEL")
		s.out = appendArg(s.out, f.head)
	}
}

// writeParts writes the next part of f; done means that it was the last.
func (s *Snapshot) writeParts(f *frozenObject, budget int) (done bool) {
	if f.obj != nil {
		var parts []byte
		parts, done = f.obj.serialise(&s.enc, s.payload[:0], budget)
		s.writeElements(f, parts)
		if s.payload = parts[:0]; cap(parts) > 1<<20 {
			s.payload = nil
		}
	} else {
		done = s.writeText(f)
	}
	if done && f.expireAt >= 0 {
		s.out = appendArgString(append(s.out, 3), "PEXPIREAT")
		s.out = appendArg(s.out, f.head)
		s.out = appendArgInt(s.out, f.expireAt)
	}
	return done
}

// writeText writes the next part of the long string f. The first makes it as long
// as it is going to be, which costs nothing, where appending to it would copy it
// again and again.
func (s *Snapshot) writeText(f *frozenObject) (done bool) {
	at := f.at
	text := s.nextText(f)
	if at > 0 {
		s.appendSetrange(f, at, text)
	} else {
		s.out = appendArgString(append(s.out, 3), "SET")
		s.out = appendArg(s.out, f.head)
		s.out = appendArg(s.out, text)
		s.appendSetrange(f, f.size-1, []byte{0})
	}
	return f.at == f.size
}

func (s *Snapshot) appendSetrange(f *frozenObject, at int, text []byte) {
	s.out = appendArgString(append(s.out, 4), "SETRANGE")
	s.out = appendArg(s.out, f.head)
	s.out = appendArgInt(s.out, int64(at))
	s.out = appendArg(s.out, text)
}

// partsCommands are the commands that add elements, by type of value, and how
// many arguments an element has.
var partsCommands = [...]struct {
	name string
	each int
}{TypeList: {"RPUSH", 1}, TypeSet: {"SADD", 1}, TypeZSet: {"ZADD", 2}, TypeHash: {"HSET", 2}}

// writeElements writes elements, which freezeArgs describes, in commands of about
// 64 KiB.
func (s *Snapshot) writeElements(f *frozenObject, parts []byte) {
	cmd := partsCommands[f.obj.typ()]
	for len(parts) > 0 {
		n, size, rest := 0, 0, parts
		for len(rest) > 0 {
			next := rest
			for range cmd.each {
				_, next = cutArg(next)
			}
			add := len(rest) - len(next)
			if n > 0 && size+add > chunkSize {
				break
			}
			n, size, rest = n+cmd.each, size+add, next
		}
		s.out = binary.AppendUvarint(s.out, uint64(n+2))
		s.out = appendArgString(s.out, cmd.name)
		s.out = appendArg(s.out, f.head)
		s.out = append(s.out, parts[:size]...)
		parts = rest
		if len(s.out) >= chunkSize {
			s.flush()
		}
	}
}
