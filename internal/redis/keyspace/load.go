package keyspace

import (
	"math"
	"strconv"

	"holdfast/internal/redis/intset"
	"holdfast/internal/redis/listpack"
	"holdfast/internal/redis/rdb"
)

// Loader stores what an RDB decoder tells it: a file's databases, or the one
// value of a RESTORE. It implements rdb.Visitor.
type Loader struct {
	KS *Keyspace
	// DB is where keys go; SelectDB changes it.
	DB *DB
	// DropBeforeMs, if positive, leaves out keys whose expiry is earlier: a
	// master's start. Unix time in milliseconds.
	DropBeforeMs int64
	// OnExpired, if set, is told of each key that is left out for it; the key is
	// valid during the call.
	OnExpired func(db int, key []byte)
	// OnAux and OnOpaque, if set, are told what is not a key of ours; OnOpaque
	// may refuse by an error.
	OnAux    func(key, val []byte) error
	OnOpaque func(key []byte) error
	OnFunc   func(code []byte) error

	Loaded, Expired int64

	key  []byte
	meta rdb.Meta
	skip bool
	made bool
	kind rdb.Kind
	hash Hash
	list List
	set  Set
	zset ZSet
}

// Aux implements rdb.Visitor.
func (l *Loader) Aux(key, val []byte) error {
	if l.OnAux != nil {
		return l.OnAux(key, val)
	}
	return nil
}

// SelectDB implements rdb.Visitor.
func (l *Loader) SelectDB(db int) error {
	if db >= l.KS.NumDB() {
		return &TooManyDatabases{DB: db, Have: l.KS.NumDB()}
	}
	l.DB = l.KS.DB(db)
	return nil
}

// TooManyDatabases says that a file has a database that is not configured.
type TooManyDatabases struct{ DB, Have int }

func (e *TooManyDatabases) Error() string {
	return "FATAL: Data file was created with a Redis server configured to handle more than " + strconv.Itoa(e.Have) +
		" databases. Exiting: it has keys in database " + strconv.Itoa(e.DB) + "; raise `databases`"
}

// ResizeDB implements rdb.Visitor; the index grows by itself.
func (l *Loader) ResizeDB(_, _ uint64) error { return nil }

// Function implements rdb.Visitor.
func (l *Loader) Function(code []byte) error {
	if l.OnFunc != nil {
		return l.OnFunc(code)
	}
	return nil
}

// BeginKey implements rdb.Visitor.
func (l *Loader) BeginKey(key []byte, m rdb.Meta) error {
	l.key = append(l.key[:0], key...)
	l.meta, l.made, l.kind = m, false, 0
	l.skip = l.DropBeforeMs > 0 && m.ExpireMs >= 0 && m.ExpireMs < l.DropBeforeMs
	return nil
}

// ErrDuplicateKey is what BeginKey's value returns when the key exists already.
type ErrDuplicateKey struct{ Key string }

func (e *ErrDuplicateKey) Error() string {
	return "Internal error in RDB reading: key '" + e.Key + "' is there twice"
}

func (l *Loader) fresh() error {
	if _, ok := l.DB.Find(l.key); ok {
		return &ErrDuplicateKey{string(l.key)}
	}
	l.made = true
	return nil
}

// String implements rdb.Visitor.
func (l *Loader) String(val []byte) error {
	if l.skip {
		return nil
	}
	if err := l.fresh(); err != nil {
		return err
	}
	l.DB.SetString(l.key, val, l.meta.ExpireMs)
	return nil
}

// Blob implements rdb.Visitor: a whole small collection.
func (l *Loader) Blob(kind rdb.Kind, b []byte) error {
	if l.skip {
		return nil
	}
	if err := l.fresh(); err != nil {
		return err
	}
	if _, ok := l.DB.LoadBlob(l.key, blobTypes[kind], b, l.meta.ExpireMs); ok {
		return nil
	}
	if kind == rdb.KindSet {
		if err := l.BeginCollection(kind, uint64(intset.Len(b))); err != nil {
			return err
		}
		var t [20]byte
		for i := range intset.Len(b) {
			l.set.Add(appendInt(t[:0], intset.Get(b, i)))
		}
		return nil
	}
	n := listpack.Len(b)
	if kind != rdb.KindList {
		n /= 2 // pairs
	}
	if err := l.BeginCollection(kind, uint64(n)); err != nil {
		return err
	}
	var f, v []byte
	for at := listpack.First(b); at >= 0; at = listpack.Next(b, at) {
		f = listpack.AppendValue(f[:0], b, at)
		if kind == rdb.KindList {
			l.list.PushTail(f)
			continue
		}
		if at = listpack.Next(b, at); at < 0 {
			return rdb.ErrCorrupt
		}
		v = listpack.AppendValue(v[:0], b, at)
		if kind == rdb.KindHash {
			if !l.hash.Set(f, v) {
				return rdb.ErrDuplicate
			}
			continue
		}
		score, ok := ParseScore(v)
		if !ok {
			return rdb.ErrCorrupt
		}
		if err := l.ScorePair(f, score); err != nil {
			return err
		}
	}
	return nil
}

// blobTypes are the types of what comes as one blob.
var blobTypes = map[rdb.Kind]Type{rdb.KindSet: TypeSet, rdb.KindHash: TypeHash, rdb.KindZset: TypeZSet}

// BeginCollection implements rdb.Visitor.
func (l *Loader) BeginCollection(kind rdb.Kind, n uint64) error {
	if l.skip {
		return nil
	}
	if err := l.fresh(); err != nil {
		return err
	}
	l.kind = kind
	switch kind {
	case rdb.KindHash:
		l.hash = l.DB.NewHash(l.key)
	case rdb.KindList:
		l.list = l.DB.NewList(l.key)
	case rdb.KindSet:
		l.set = l.DB.NewSet(l.key)
	case rdb.KindZset:
		l.zset = l.DB.NewZSetSized(l.key, int(min(n, math.MaxInt32)), 0)
	}
	return nil
}

// ListNode implements rdb.Visitor.
func (l *Loader) ListNode(lp []byte) error {
	if l.skip {
		return nil
	}
	l.list.AppendNode(lp)
	return nil
}

// Element implements rdb.Visitor.
func (l *Loader) Element(val []byte) error {
	switch {
	case l.skip:
	case l.kind == rdb.KindList:
		l.list.PushTail(val)
	case !l.set.Add(val):
		return rdb.ErrDuplicate
	}
	return nil
}

// Pair implements rdb.Visitor.
func (l *Loader) Pair(field, val []byte) error {
	if !l.skip && !l.hash.Set(field, val) {
		return rdb.ErrDuplicate
	}
	return nil
}

// ScorePair implements rdb.Visitor.
func (l *Loader) ScorePair(member []byte, score float64) error {
	if l.skip {
		return nil
	}
	if score != score {
		return rdb.ErrCorrupt
	}
	if added, _ := l.zset.Set(member, score); !added {
		return rdb.ErrDuplicate
	}
	return nil
}

// Opaque implements rdb.Visitor: a type that this server does not hold.
func (l *Loader) Opaque(rdb.Type, []byte) error {
	if l.OnOpaque != nil {
		return l.OnOpaque(l.key)
	}
	return rdb.ErrModule
}

// EndKey implements rdb.Visitor.
func (l *Loader) EndKey() error {
	if l.skip {
		l.Expired++
		if l.OnExpired != nil {
			l.OnExpired(l.DB.Index(), l.key)
		}
		return nil
	}
	if !l.made {
		return nil
	}
	l.Loaded++
	if l.kind != 0 && l.meta.ExpireMs >= 0 {
		l.DB.SetExpire(l.key, l.meta.ExpireMs)
	}
	if l.meta.Freq >= 0 || l.meta.IdleSec >= 0 {
		r, ok := l.DB.Find(l.key)
		if !ok {
			return nil
		}
		if lfu := l.KS.limits.LFU; lfu && l.meta.Freq >= 0 {
			r.SetFreq(uint8(l.meta.Freq))
		} else if !lfu && l.meta.IdleSec >= 0 {
			r.SetIdle(l.meta.IdleSec)
		}
	}
	return nil
}

// ParseScore reads the text of a score as a listpack holds it.
func ParseScore(b []byte) (float64, bool) {
	f, err := strconv.ParseFloat(string(b), 64)
	return f, err == nil
}
