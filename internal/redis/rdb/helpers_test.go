package rdb

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"holdfast/internal/redis/intset"
	"holdfast/internal/redis/listpack"
)

// entry is a value in a form that does not depend on its encoding.
type entry struct {
	Kind string
	Vals []string // list: in order; others: sorted, pairs joined
	Meta Meta
}

// recorder is a Visitor that keeps what it is told.
type recorder struct {
	dbs      map[int]map[string]*entry
	aux      map[string]string
	funcs    []string
	forms    map[string]int // how often which form was told
	keys     uint64
	cur      *entry
	curKey   string
	kind     Kind
	db       int
	refuseDu bool // return ErrDuplicate
}

func newRecorder() *recorder {
	return &recorder{dbs: map[int]map[string]*entry{}, aux: map[string]string{}, forms: map[string]int{}}
}

func (r *recorder) Aux(key, val []byte) error {
	r.aux[string(key)] = string(val)
	return nil
}
func (r *recorder) SelectDB(db int) error { r.db = db; return nil }
func (r *recorder) ResizeDB(keys, expires uint64) error {
	r.forms["resizedb"]++
	return nil
}
func (r *recorder) Function(code []byte) error {
	r.funcs = append(r.funcs, string(code))
	return nil
}
func (r *recorder) BeginKey(key []byte, m Meta) error {
	r.curKey, r.cur = string(key), &entry{Meta: m}
	return nil
}
func (r *recorder) String(val []byte) error {
	r.cur.Kind = "string"
	r.cur.Vals = []string{string(val)}
	return nil
}
func (r *recorder) Blob(kind Kind, b []byte) error {
	r.forms["blob "+kind.String()]++
	r.cur.Kind = kind.String()
	if kind == KindSet {
		for _, v := range intset.All(b) {
			r.cur.Vals = append(r.cur.Vals, strconv.FormatInt(v, 10))
		}
		return nil
	}
	vals := elementsOf(b)
	for i := 0; i < len(vals); i += 2 {
		if kind == KindZset {
			f, err := strconv.ParseFloat(vals[i+1], 64)
			if err != nil {
				return err
			}
			vals[i+1] = formatScore(f)
		}
		r.cur.Vals = append(r.cur.Vals, vals[i]+"\x00"+vals[i+1])
	}
	return nil
}
func (r *recorder) BeginCollection(kind Kind, n uint64) error {
	r.forms["collection "+kind.String()]++
	r.kind, r.cur.Kind = kind, kind.String()
	return nil
}
func (r *recorder) ListNode(lp []byte) error {
	r.forms["node"]++
	r.cur.Vals = append(r.cur.Vals, elementsOf(lp)...)
	return nil
}
func (r *recorder) add(s string) error {
	if r.refuseDu && r.kind != KindList && slices.ContainsFunc(r.cur.Vals, func(v string) bool {
		a, _, _ := strings.Cut(v, "\x00")
		b, _, _ := strings.Cut(s, "\x00")
		return a == b
	}) {
		return fmt.Errorf("recorder: %w", ErrDuplicate)
	}
	r.cur.Vals = append(r.cur.Vals, s)
	return nil
}
func (r *recorder) Element(val []byte) error {
	r.forms["element "+r.kind.String()]++
	return r.add(string(val))
}
func (r *recorder) Pair(field, val []byte) error {
	return r.add(string(field) + "\x00" + string(val))
}
func (r *recorder) ScorePair(member []byte, score float64) error {
	return r.add(string(member) + "\x00" + formatScore(score))
}
func (r *recorder) Opaque(t Type, raw []byte) error {
	r.cur.Kind = "stream"
	r.cur.Vals = []string{string(raw)}
	return nil
}
func (r *recorder) EndKey() error {
	if r.cur.Kind != "list" {
		slices.Sort(r.cur.Vals)
	}
	if r.dbs[r.db] == nil {
		r.dbs[r.db] = map[string]*entry{}
	}
	r.dbs[r.db][r.curKey] = r.cur
	r.keys++
	return nil
}

func formatScore(f float64) string { return strconv.FormatFloat(f, 'g', 17, 64) }

func elementsOf(lp []byte) []string {
	var vals []string
	for off := listpack.First(lp); off >= 0; off = listpack.Next(lp, off) {
		vals = append(vals, string(listpack.AppendValue(nil, lp, off)))
	}
	return vals
}

func listpackOf(vals ...string) []byte {
	lp := listpack.New(0)
	for _, v := range vals {
		lp = listpack.Append(lp, []byte(v))
	}
	return lp
}

func intsetOf(vals ...int64) []byte {
	is := intset.New()
	for _, v := range vals {
		is, _ = intset.Add(is, v)
	}
	return is
}

// copier is a Visitor that writes what it is told; with explode, blobs become
// elements.
type copier struct {
	w       *Writer
	explode bool
	kind    Kind
}

func (c *copier) Aux(key, val []byte) error {
	c.w.Aux(string(key), string(val))
	return nil
}
func (c *copier) SelectDB(db int) error               { c.w.SelectDB(db); return nil }
func (c *copier) ResizeDB(keys, exp uint64) error     { c.w.ResizeDB(keys, exp); return nil }
func (c *copier) Function(code []byte) error          { c.w.Function(code); return nil }
func (c *copier) BeginKey(k []byte, m Meta) error     { c.w.Key(k, m); return nil }
func (c *copier) String(val []byte) error             { c.w.String(val); return nil }
func (c *copier) ListNode(lp []byte) error            { c.w.ListNode(lp); return nil }
func (c *copier) Pair(f, v []byte) error              { c.w.Pair(f, v); return nil }
func (c *copier) Opaque(t Type, raw []byte) error     { c.w.Opaque(t, raw); return nil }
func (c *copier) EndKey() error                       { return c.w.Err() }
func (c *copier) ScorePair(m []byte, s float64) error { c.w.ScorePair(m, s); return nil }
func (c *copier) Blob(kind Kind, b []byte) error {
	switch {
	case c.explode && kind == KindSet:
		c.w.SetMembers(intset.Len(b))
		for _, v := range intset.All(b) {
			c.w.Element(strconv.AppendInt(nil, v, 10))
		}
	case c.explode:
		vals := elementsOf(b)
		if kind == KindHash {
			c.w.Hash(len(vals) / 2)
		} else {
			c.w.Zset2(len(vals) / 2)
		}
		for i := 0; i < len(vals); i += 2 {
			if kind == KindHash {
				c.w.Pair([]byte(vals[i]), []byte(vals[i+1]))
				continue
			}
			f, _ := strconv.ParseFloat(vals[i+1], 64)
			c.w.ScorePair([]byte(vals[i]), f)
		}
	case kind == KindSet:
		c.w.SetIntset(b)
	case kind == KindHash:
		c.w.HashListpack(b)
	default:
		c.w.ZsetListpack(b)
	}
	return nil
}
func (c *copier) BeginCollection(kind Kind, n uint64) error {
	c.kind = kind
	switch kind {
	case KindList:
		c.w.ListQuicklist2(int(n))
	case KindSet:
		c.w.SetMembers(int(n))
	case KindHash:
		c.w.Hash(int(n))
	case KindZset:
		c.w.Zset2(int(n))
	}
	return nil
}
func (c *copier) Element(val []byte) error {
	if c.kind == KindList {
		c.w.ListPlainNode(val)
	} else {
		c.w.Element(val)
	}
	return nil
}

// file builds an RDB file from hand-made pieces.
type file struct{ b []byte }

func newFile(version int) *file { return &file{fmt.Appendf(nil, "REDIS%04d", version)} }

func (f *file) raw(b ...byte) *file {
	f.b = append(f.b, b...)
	return f
}

// value adds a key whose value is made of strings and raw bytes.
func (f *file) value(t Type, key string, parts ...any) *file {
	var e Encoder
	f.b = e.AppendKey(f.b, t, []byte(key), NoMeta)
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			f.b = append(AppendLen(f.b, uint64(len(p))), p...)
		case int:
			f.b = AppendLen(f.b, uint64(p))
		case float64:
			f.b = AppendScore(f.b, p)
		case []byte:
			f.b = append(f.b, p...)
		default:
			panic(fmt.Sprintf("%T", p))
		}
	}
	return f
}

func (f *file) end() []byte {
	version, _ := strconv.Atoi(string(f.b[5:9]))
	b := append(bytes.Clone(f.b), opEOF)
	if version >= 5 {
		b = binary.LittleEndian.AppendUint64(b, CRC64(0, b))
	}
	return b
}

// ziplistOf encodes as Redis before 7.0 did.
func ziplistOf(vals ...string) []byte {
	zl := make([]byte, ziplistHeader)
	last, prev := ziplistHeader, 0
	for _, v := range vals {
		last = len(zl)
		if prev < 254 {
			zl = append(zl, byte(prev))
		} else {
			zl = binary.LittleEndian.AppendUint32(append(zl, 0xFE), uint32(prev))
		}
		n, isInt := listpack.ParseInt([]byte(v))
		switch {
		case isInt && n >= 0 && n <= 12:
			zl = append(zl, 0xF1+byte(n))
		case isInt && n >= math.MinInt8 && n <= math.MaxInt8:
			zl = append(zl, 0xFE, byte(n))
		case isInt && n >= math.MinInt16 && n <= math.MaxInt16:
			zl = binary.LittleEndian.AppendUint16(append(zl, 0xC0), uint16(n))
		case isInt && n >= -1<<23 && n < 1<<23:
			zl = append(zl, 0xF0, byte(n), byte(n>>8), byte(n>>16))
		case isInt && n >= math.MinInt32 && n <= math.MaxInt32:
			zl = binary.LittleEndian.AppendUint32(append(zl, 0xD0), uint32(n))
		case isInt:
			zl = binary.LittleEndian.AppendUint64(append(zl, 0xE0), uint64(n))
		case len(v) < 64:
			zl = append(append(zl, byte(len(v))), v...)
		case len(v) < 1<<14:
			zl = append(append(zl, 0x40|byte(len(v)>>8), byte(len(v))), v...)
		default:
			zl = append(binary.BigEndian.AppendUint32(append(zl, 0x80), uint32(len(v))), v...)
		}
		prev = len(zl) - last
	}
	zl = append(zl, ziplistEnd)
	binary.LittleEndian.PutUint32(zl, uint32(len(zl)))
	binary.LittleEndian.PutUint32(zl[4:], uint32(last))
	binary.LittleEndian.PutUint16(zl[8:], uint16(len(vals)))
	return zl
}

func zipmapOf(free int, vals ...string) []byte {
	zm := []byte{byte(len(vals) / 2)}
	size := func(n int) {
		if n < 254 {
			zm = append(zm, byte(n))
		} else {
			zm = binary.LittleEndian.AppendUint32(append(zm, 254), uint32(n))
		}
	}
	for i := 0; i < len(vals); i += 2 {
		size(len(vals[i]))
		zm = append(zm, vals[i]...)
		size(len(vals[i+1]))
		zm = append(zm, byte(free))
		zm = append(zm, vals[i+1]...)
		zm = append(zm, make([]byte, free)...)
	}
	return append(zm, 0xFF)
}

// loadAll loads b or fails the test.
func loadAll(t testing.TB, b []byte, opts Options) *recorder {
	t.Helper()
	r := newRecorder()
	if _, err := Load(bytes.NewReader(b), r, opts); err != nil {
		t.Fatal(err)
	}
	return r
}

// sortedKeys is for messages.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
