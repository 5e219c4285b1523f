package keyspace

import (
	"slices"
	"sync"

	"holdfast/internal/invariant"
	"holdfast/internal/redis/listpack"
	"holdfast/internal/redis/rdb"
)

// A snapshot shows the keyspace as it was when it began, while commands go on.
// It works by copy-before-write: the Snapshot walks over the keys, some at each
// Step, and whoever changes or removes an entry that it has not come to yet
// serialises that entry first (DB.save).
//
// Which entries are done is told by one bit in each, the parity: all entries
// have the keyspace's. BeginSnapshot flips the keyspace's, so that all entries
// wait; an entry that was serialised, or made since, has it again. At the end all
// have it. Beginning so costs nothing, and entries may move between blocks,
// segments and databases as they like.
//
// Large collections are not serialised at once: they are frozen (see
// largeObject), which makes them keep their own copies of parts that change, and
// written in parts when their turn comes.

// SnapshotWriter takes what a Snapshot writes: the body of an RDB file.
type SnapshotWriter interface {
	// SelectDB says that what follows belongs to database db. It is called
	// first with the number of keys, and of those that expire; again with -1
	// for both whenever the snapshot comes back to a database.
	SelectDB(db int, keys, expires int)
	// Append takes bytes of the file. b is valid during the call only.
	Append(b []byte)
}

// Snapshot is a running snapshot.
type Snapshot struct {
	ks      *Keyspace
	w       SnapshotWriter
	enc     rdb.Encoder
	origins []*snapshotDB
	next    int         // origins before it are walked
	walking *snapshotDB // set during a walk: its entries go to out
	stream  *snapshotDB // the database selected in the output

	out     []byte // not yet given to w
	queue   []*frozenObject
	current *frozenObject // partly written
	frozen  map[largeObject]*frozenObject
	pending int // bytes in pending buffers of origins

	done, total int
	aborted     bool

	texts   map[textKey]*frozenObject // long strings in place
	textMin int                       // strings above it are written in parts

	slots   *slotWalk       // of some slots, as commands; nil: of all, as a file
	early   map[string]bool // of slots: long strings that were queued before the walk came to them, and left in place
	payload []byte          // scratch
}

// snapshotDB is a database as it was when the snapshot began.
type snapshotDB struct {
	number        int
	keys, expires int
	selected      bool     // SelectDB was called once
	db            *DB      // where its entries are now; nil if orphan is set
	orphan        *table   // its entries after a flush; the snapshot's to free
	cursor        uint64   // of the walk
	walked        bool     // to the end
	pending       chunkBuf // entries serialised by those who changed them
}

// frozenObject is a large collection that is to be written.
type frozenObject struct {
	origin *snapshotDB
	obj    largeObject
	head   []byte // meta data, type and key; of slots, the key
	orphan bool   // removed from the keyspace: free it in the end

	// Of a long string, whose obj is nil; see snaptext.go.
	key      textKey
	inPlace  bool
	kept     map[int][]byte // parts of it that have changed since, by number
	text     []byte         // a copy of what is left of it, unless it is in place
	size, at int            // its length, and how much of it is written

	expireAt int64 // of slots only
}

func (f *frozenObject) backlog() int {
	if f.obj == nil {
		return len(f.text) + len(f.kept)*chunkSize
	}
	return f.obj.backlog()
}

// pendingMax is how many bytes wait for the turn of their database before they
// are written out of turn.
const pendingMax = 256 << 10

// BeginSnapshot begins a snapshot of all databases as they are now. Only one
// can run at a time (Snapshotting); after Abort a new one may begin at once.
func (ks *Keyspace) BeginSnapshot(w SnapshotWriter) *Snapshot {
	ks.endAborted()
	s := &Snapshot{ks: ks, w: w, frozen: make(map[largeObject]*frozenObject), texts: make(map[textKey]*frozenObject), textMin: textMin}
	s.enc.Compress = true
	for i, db := range ks.dbs {
		if db.keys.len() == 0 {
			continue
		}
		o := &snapshotDB{number: i, keys: db.keys.len(), expires: db.volatile.n, db: db}
		db.origin = o
		s.origins = append(s.origins, o)
		s.total += db.keys.len()
	}
	ks.parity ^= flagParity
	ks.saved = ks.parity
	ks.snap = s
	return s
}

// endAborted ends the sweep of a snapshot that was given up.
func (ks *Keyspace) endAborted() {
	if ks.snap == nil {
		return
	}
	if !ks.snap.aborted {
		invariant.Violated("snapshot: begun while another runs, at %d of %d keys", ks.snap.done, ks.snap.total)
	}
	for !ks.snap.sweep(1 << 20) {
	}
}

// Snapshotting reports whether a snapshot is running, and not aborted.
func (ks *Keyspace) Snapshotting() bool { return ks.snap != nil && !ks.snap.aborted }

// SetCompress says whether strings are compressed (they are unless it is called,
// before the first Step or change).
func (s *Snapshot) SetCompress(on bool) { s.enc.Compress = on }

// Progress returns how many keys were serialised, and how many there were.
func (s *Snapshot) Progress() (done, total int) { return s.done, s.total }

// Backlog returns the bytes held in copies that were made before writes. Steps
// write them: when there are too many, let Step run before the next command.
func (s *Snapshot) Backlog() int {
	n := s.pending
	for _, f := range s.queue {
		n += f.backlog() + len(f.head)
	}
	if s.current != nil {
		n += s.current.backlog()
	}
	return n
}

// Step serialises about maxKeys keys or elements and gives them to the writer.
// done means that all is written; the Snapshot is of no use then.
func (s *Snapshot) Step(maxKeys int) (done bool) {
	if s.ks.snap != s {
		return true
	}
	if s.aborted {
		return s.sweep(maxKeys)
	}
	for budget := max(maxKeys, 1); budget > 0; {
		spent, more := s.advance(budget)
		if len(s.out) >= chunkSize {
			s.flush()
		}
		if !more {
			s.flush()
			s.finish()
			return true
		}
		budget -= max(spent, 1)
	}
	s.flush()
	return false
}

// advance does the next thing: an object that was begun must be ended before
// anything else is written.
func (s *Snapshot) advance(budget int) (spent int, more bool) {
	if f := s.current; f != nil {
		var done bool
		if s.slots != nil {
			done = s.writeParts(f, budget)
		} else if f.obj == nil {
			s.out = append(s.out, s.nextText(f)...)
			done = f.at == f.size
		} else {
			s.out, done = f.obj.serialise(&s.enc, s.out, budget)
		}
		if done {
			s.current = nil
			s.release(f)
		}
		return budget, true
	}
	if s.pending > pendingMax {
		return s.writePending(s.fullest()), true
	}
	if len(s.queue) > 0 {
		s.current = s.queue[0]
		s.queue[0] = nil
		s.queue = s.queue[1:]
		s.selectDB(s.current.origin)
		if s.slots != nil {
			s.beginParts(s.current)
		} else {
			s.out = append(s.out, s.current.head...)
		}
		return 1, true
	}
	for s.next < len(s.origins) {
		o := s.origins[s.next]
		if o.pending.len() > 0 {
			return s.writePending(o), true
		}
		if !o.walked {
			return s.walk(o, budget), true
		}
		s.next++
	}
	// Entries that were changed after their database's turn.
	if s.pending > 0 {
		return s.writePending(s.fullest()), true
	}
	return 0, false
}

// walk serialises the next entries of o that wait.
func (s *Snapshot) walk(o *snapshotDB, budget int) (spent int) {
	s.selectDB(o)
	if s.slots != nil {
		return s.walkSlots(o, budget)
	}
	s.walking = o
	a := s.ks.arena
	o.cursor = o.index().scan(o.cursor, budget, func(off Off) {
		spent++
		if a.mem[off]&flagParity != s.ks.parity {
			e := a.entry(off)
			s.saveEntry(o, &e)
		}
		if len(s.out) >= chunkSize {
			s.flush()
		}
	})
	s.walking = nil
	if o.cursor == 0 {
		s.endWalk(o)
	}
	return spent
}

func (s *Snapshot) endWalk(o *snapshotDB) {
	o.walked = true
	if o.orphan != nil {
		s.keepTexts(o, o.orphan)
		s.ks.trash.addIndex(o.orphan)
		o.orphan = nil
	}
}

// index returns where the entries of o are; an empty index if there are none.
func (o *snapshotDB) index() *table {
	if o.orphan != nil {
		return o.orphan
	}
	if o.db != nil {
		return &o.db.keys
	}
	return new(table)
}

// saveEntry serialises e, an entry of o that the snapshot waits for. A large
// collection is only frozen, and queued.
func (s *Snapshot) saveEntry(o *snapshotDB, e *entry) {
	if !s.aborted && s.slots != nil && !s.waits(o, e) {
		s.keepText(o, e)
		return
	}
	if !s.aborted && s.partwise(e) && s.slots == nil {
		// Its parity stays until it is written or copied.
		if s.texts[s.keyOfText(o, e)] == nil {
			s.write(o, e)
		}
		if s.walking == nil {
			s.keepText(o, e)
		}
		return
	}
	s.ks.arena.setParity(e, s.ks.saved)
	if !s.aborted {
		s.write(o, e)
		if s.walking == nil {
			s.keepText(o, e)
		}
	}
}

// write serialises e.
func (s *Snapshot) write(o *snapshotDB, e *entry) {
	a := s.ks.arena
	s.done++
	if s.slots != nil && (e.isLarge() || s.partwise(e)) {
		s.queueParts(o, e)
		return
	}
	if s.partwise(e) {
		f := &frozenObject{origin: o, head: s.appendHead(nil, rdb.TypeString, e)}
		f.head = rdb.AppendLen(f.head, uint64(e.vlen))
		s.queueText(f, e)
		return
	}
	if e.isLarge() {
		obj := s.ks.large[a.largeID(e)]
		obj.freeze(&s.enc)
		f := &frozenObject{origin: o, obj: obj, head: s.appendHead(nil, obj.rdbType(), e)}
		s.queue = append(s.queue, f)
		s.frozen[obj] = f
		return
	}
	if s.walking == o {
		s.out = s.appendEntry(s.out, e)
		return
	}
	before := o.pending.len()
	o.pending.put(s.appendEntry(o.pending.tail(), e))
	s.pending += o.pending.len() - before
}

func (s *Snapshot) appendEntry(dst []byte, e *entry) []byte {
	if s.slots != nil {
		return s.appendRestore(dst, e)
	}
	t, f := e.typ(), e.form()
	dst = s.appendHead(dst, blobRDBType(t, f), e)
	return appendBlobRDB(&s.enc, dst, t, f, s.ks.arena.valOf(e))
}

// appendHead appends what stands before the value of e.
func (s *Snapshot) appendHead(dst []byte, t rdb.Type, e *entry) []byte {
	ks := s.ks
	m := rdb.Meta{ExpireMs: ks.arena.expireAt(e), IdleSec: -1, Freq: -1}
	switch {
	case ks.limits.LFU:
		m.Freq = int(ks.decayed(ks.arena.lru(e.off)))
	case ks.limits.SaveIdle:
		m.IdleSec = int64((ks.lruClock - ks.arena.lru(e.off)) & lruMask)
	}
	return s.enc.AppendKey(dst, t, ks.arena.keyOf(e), m)
}

// selectDB makes o the database of what is written next.
func (s *Snapshot) selectDB(o *snapshotDB) {
	if s.stream == o {
		return
	}
	s.flush()
	s.stream = o
	if o.selected {
		s.w.SelectDB(o.number, -1, -1)
		return
	}
	o.selected = true
	s.w.SelectDB(o.number, o.keys, o.expires)
}

func (s *Snapshot) flush() {
	if len(s.out) > 0 {
		s.w.Append(s.out)
		s.out = s.out[:0]
	}
	// A very large value must not pin its size for good.
	if cap(s.out) > 1<<20 {
		s.out = nil
	}
}

// writePending writes a piece of what waits in o.
func (s *Snapshot) writePending(o *snapshotDB) (spent int) {
	s.selectDB(o)
	s.flush()
	if p := o.pending.pop(); p != nil {
		s.pending -= len(p)
		s.w.Append(p)
	}
	return 256
}

// fullest returns the database with the most bytes waiting.
func (s *Snapshot) fullest() *snapshotDB {
	return slices.MaxFunc(s.origins, func(a, b *snapshotDB) int { return a.pending.len() - b.pending.len() })
}

// release forgets a frozen object; one that was removed meanwhile is freed.
func (s *Snapshot) release(f *frozenObject) {
	delete(s.frozen, f.obj)
	if f.inPlace {
		s.leaveText(f, f.origin.index())
	}
	if f.orphan {
		s.ks.discard(f.obj, true)
	}
}

// adopt takes over an object that was removed from the keyspace, if it is frozen.
func (s *Snapshot) adopt(obj largeObject) bool {
	f := s.frozen[obj]
	if f == nil {
		return false
	}
	f.orphan = true
	return true
}

// adoptIndex takes over the entries of a flushed database, if some of them wait.
func (s *Snapshot) adoptIndex(o *snapshotDB, x *table) bool {
	o.db = nil
	s.keepTexts(o, x)
	if o.walked || s.aborted {
		return false
	}
	o.orphan = x
	return true
}

// finish ends the snapshot.
func (s *Snapshot) finish() {
	for _, o := range s.origins {
		if o.db != nil {
			o.db.origin = nil
		}
	}
	s.ks.snap = nil
	s.ks.saved = s.ks.parity
}

// Abort gives the snapshot up: nothing more is written. The entries that it did
// not come to are swept by Step or FreeStep, or at once by BeginSnapshot.
func (s *Snapshot) Abort() {
	if s.ks.snap != s || s.aborted {
		return
	}
	s.aborted = true
	s.ks.saved = s.ks.parity
	for _, f := range s.texts {
		s.leaveText(f, f.origin.index())
	}
	s.queue, s.current, s.out, s.texts, s.early = nil, nil, nil, nil, nil
	frozen := s.frozen
	s.frozen, s.pending = nil, 0
	for obj, f := range frozen {
		obj.thaw()
		if f.orphan {
			s.ks.discard(obj, true)
		}
	}
	for _, o := range s.origins {
		o.pending = chunkBuf{}
		if o.orphan != nil {
			s.endWalk(o)
		}
	}
}

// sweep gives about budget entries the keyspace's parity after Abort.
func (s *Snapshot) sweep(budget int) (done bool) {
	if s.slots != nil {
		return s.sweepSlots(budget)
	}
	a := s.ks.arena
	for ; s.next < len(s.origins); s.next++ {
		o := s.origins[s.next]
		for o.db != nil && !o.walked {
			if budget <= 0 {
				return false
			}
			o.cursor = o.db.keys.scan(o.cursor, min(budget, 1024), func(off Off) {
				a.mem[off] = a.mem[off]&^flagParity | s.ks.parity
			})
			budget -= min(budget, 1024)
			o.walked = o.cursor == 0
		}
	}
	s.finish()
	return true
}

// blobRDBType returns the RDB type of a value that is not a large object.
func blobRDBType(t Type, f form) rdb.Type {
	switch t {
	case TypeList:
		return rdb.TypeListQuick2
	case TypeSet:
		if f == formIntset {
			return rdb.TypeSetIntset
		}
		return rdb.TypeSet
	case TypeZSet:
		return rdb.TypeZsetListpack
	case TypeHash:
		return rdb.TypeHashListpack
	}
	return rdb.TypeString
}

// appendBlobRDB appends a value that is not a large object as an RDB file holds it.
func appendBlobRDB(enc *rdb.Encoder, dst []byte, t Type, f form, val []byte) []byte {
	switch {
	case t == TypeList:
		return enc.AppendListNode(rdb.AppendLen(dst, 1), val)
	case t == TypeSet && f == formBlob:
		dst = rdb.AppendLen(dst, uint64(listpack.Len(val)))
		for off := listpack.First(val); off >= 0; off = listpack.Next(val, off) {
			if str, num, isInt := listpack.Get(val, off); isInt {
				dst = enc.AppendInt(dst, num)
			} else {
				dst = enc.AppendString(dst, str)
			}
		}
		return dst
	}
	return enc.AppendString(dst, val)
}

var dumpEncoders = sync.Pool{New: func() any { return &rdb.Encoder{LikeRedis: true} }}

// AppendDumpValue appends the RDB type byte and the value, as a DUMP payload
// begins: the very bytes that Redis gives for it. compress is rdbcompression.
func (r Ref) AppendDumpValue(dst []byte, compress bool) []byte {
	enc := dumpEncoders.Get().(*rdb.Encoder)
	defer dumpEncoders.Put(enc)
	enc.Compress = compress
	e := r.entry()
	if e.isLarge() {
		obj := r.db.large(r)
		return obj.appendValue(enc, append(dst, byte(obj.rdbType())))
	}
	t, f := e.typ(), e.form()
	return appendBlobRDB(enc, append(dst, byte(blobRDBType(t, f))), t, f, r.db.ks.arena.valOf(&e))
}
