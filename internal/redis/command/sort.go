package command

import (
	"bytes"
	"math"
	"slices"

	"holdfast/internal/redis/keyspace"
)

var sortCommands = []Spec{
	{Name: "sort", Arity: -2, Flags: Write | DenyOOM | MovableKeys, Cat: CatSet | CatSortedSet | CatList | CatDangerous, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1), {Flags: KeyRO | KeyAccess, Unknown: true, Notes: "For the optional BY/GET keyword. It is marked 'unknown' because the key names derive from the content of the key we sort"}, {Flags: KeyOW | KeyUpdate, Unknown: true, Notes: "For the optional STORE keyword. It is marked 'unknown' because the keyword can appear anywhere in the argument array"}}, Run: cmdSort, GetKeys: sortKeys},
	{Name: "sort_ro", Arity: -2, Flags: ReadOnly | MovableKeys, Cat: CatSet | CatSortedSet | CatList | CatDangerous, Keys: []KeySpec{Key(KeyRO|KeyAccess, 1, 1, 1), {Flags: KeyRO | KeyAccess, Unknown: true, Notes: "For the optional BY/GET keyword. It is marked 'unknown' because the key names derive from the content of the key we sort"}}, Run: cmdSortRo, GetKeys: sortRoKeys},
}

// sortKeys finds the sorted key, and the last STORE target, as SORT does: its
// options may come in any order.
func sortKeys(args [][]byte) []KeyRef {
	refs := sortRoKeys(args)
	store := 0
	for i := 2; i < len(args); i++ {
		switch {
		case EqualFold(args[i], "limit"):
			i += 2
		case EqualFold(args[i], "get"), EqualFold(args[i], "by"):
			i++
		case EqualFold(args[i], "store") && i+1 < len(args):
			store = i + 1
		}
	}
	if store > 0 {
		refs = append(refs, KeyRef{store, KeyOW | KeyUpdate})
	}
	return refs
}

func sortRoKeys([][]byte) []KeyRef { return []KeyRef{{1, KeyRO | KeyAccess}} }

func cmdSort(c *Ctx) { sortGeneric(c, false) }

func cmdSortRo(c *Ctx) { sortGeneric(c, true) }

// sortOptions are the options of SORT.
type sortOptions struct {
	desc, alpha bool
	dontSort    bool // BY a pattern without '*': the order as it is
	offset      int64
	count       int64 // -1: all
	by          []byte
	get         [][]byte
	store       []byte
}

func (c *Ctx) sortOptions(readonly bool) (o sortOptions, ok bool) {
	o.count = -1
	for i := 2; i < len(c.Args); i++ {
		left := len(c.Args) - i - 1
		switch {
		case c.Is(i, "asc"):
			o.desc = false
		case c.Is(i, "desc"):
			o.desc = true
		case c.Is(i, "alpha"):
			o.alpha = true
		case left >= 2 && c.Is(i, "limit"):
			if o.offset, ok = c.IntArg(i + 1); !ok {
				return o, false
			}
			if o.count, ok = c.IntArg(i + 2); !ok {
				return o, false
			}
			i += 2
		case !readonly && left >= 1 && c.Is(i, "store"):
			i++
			o.store = c.Args[i]
			if o.store == nil {
				o.store = []byte{}
			}
		case left >= 1 && c.Is(i, "by"):
			i++
			o.by = c.Args[i]
			if bytes.IndexByte(o.by, '*') < 0 {
				o.dontSort = true
			} else if c.E.Cfg.ClusterEnabled {
				c.Err("ERR BY option of SORT denied in Cluster mode.")
				return o, false
			}
		case left >= 1 && c.Is(i, "get"):
			if c.E.Cfg.ClusterEnabled {
				c.Err("ERR GET option of SORT denied in Cluster mode.")
				return o, false
			}
			i++
			o.get = append(o.get, c.Args[i])
		default:
			c.Err(ErrSyntax)
			return o, false
		}
	}
	return o, true
}

// sorter sorts the elements of one key. They are copied out of the keyspace
// first: weights and GET patterns look other keys up.
type sorter struct {
	c       *Ctx
	o       sortOptions
	elems   byteList
	weights byteList // of BY ... ALPHA
	items   []sortItem
	cut     bool   // LIMIT was applied while loading
	key     []byte // of a pattern, for reuse
}

// sortItem is an element with what it is sorted by.
type sortItem struct {
	elem   int
	weight int // in weights, -1: none
	score  float64
}

func sortGeneric(c *Ctx, readonly bool) {
	o, ok := c.sortOptions(readonly)
	if !ok {
		return
	}
	r, found := c.Read(c.Args[1])
	typ := keyspace.TypeList
	if found {
		typ = r.Type()
	}
	if typ != keyspace.TypeList && typ != keyspace.TypeSet && typ != keyspace.TypeZSet {
		c.Err(ErrWrongType)
		return
	}
	s := sorter{c: c, o: o}
	if o.dontSort && typ == keyspace.TypeSet && o.store != nil {
		// A set has no order of its own: what is stored gets one, so that it
		// is the same on every replica.
		s.o.dontSort, s.o.alpha, s.o.by = false, true, nil
	}
	if found {
		s.load(r, typ)
	}
	if !s.o.dontSort {
		if !s.weigh() {
			c.Err("ERR One or more scores can't be converted into double")
			return
		}
		slices.SortStableFunc(s.items, s.compare)
	}
	if !s.cut {
		start, n := s.o.limits(len(s.items))
		s.items = s.items[start : start+n]
	}
	if o.store == nil {
		s.reply()
	} else {
		s.store()
	}
}

// limits turns LIMIT into a range of size elements.
func (o *sortOptions) limits(size int) (start, n int) {
	start = int(min(max(o.offset, 0), int64(size)))
	n = size - start
	if o.count >= 0 {
		n = int(min(o.count, int64(n)))
	}
	return start, n
}

// load copies the elements. Those of a list or a sorted set come in their
// order, or, for DESC, in the opposite one; when that is all there is to it,
// only the range that LIMIT asks for is read.
func (s *sorter) load(r keyspace.Ref, typ keyspace.Type) {
	backwards := s.o.dontSort && s.o.desc
	start, n := 0, math.MaxInt
	limit := func(size int) {
		if s.o.dontSort {
			start, n = s.o.limits(size)
			s.cut = true
		}
	}
	add := func(m []byte) bool {
		s.items = append(s.items, sortItem{elem: s.elems.len(), weight: -1})
		s.elems.add(m)
		return len(s.items) < n
	}
	switch typ {
	case keyspace.TypeList:
		l := s.c.DB.List(r)
		limit(l.Len())
		from := start
		if backwards {
			from = l.Len() - 1 - start
		}
		if n > 0 {
			l.Each(from, backwards, func(_ int, v []byte) bool { return add(v) })
		}
	case keyspace.TypeSet:
		set := s.c.DB.Set(r)
		set.Each(add)
	default:
		z := s.c.DB.ZSet(r)
		z.Expand() // nobody needs it here, but in Redis SORT leaves that behind
		limit(z.Len())
		if n > 0 {
			z.RangeByRank(start, min(n, z.Len()), backwards, func(m []byte, _ float64) bool { return add(m) })
		}
	}
}

// weigh finds what each element is sorted by. It returns false when a weight
// should be a number and is none.
func (s *sorter) weigh() bool {
	if s.o.alpha && s.o.by == nil {
		return true
	}
	ok := true
	for i := range s.items {
		it := &s.items[i]
		w := s.elems.at(it.elem)
		if s.o.by != nil {
			var found bool
			if w, found = s.lookup(s.o.by, w); !found {
				continue
			}
		}
		if s.o.alpha {
			it.weight = s.weights.len()
			s.weights.add(w)
			continue
		}
		var isNum bool
		if it.score, isNum = sortScore(w); !isNum {
			ok = false
		}
	}
	return ok
}

// sortScore reads a weight as strtod does: up to the first NUL, with spaces
// before it, and nothing at all is 0.
func sortScore(b []byte) (float64, bool) {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	if len(b) == 0 {
		return 0, true
	}
	f, ok := ParseFloat(bytes.TrimLeft(b, " \t\n\v\f\r"))
	return f, ok && !math.IsNaN(f)
}

func (s *sorter) compare(a, b sortItem) int {
	order := 0
	switch {
	case !s.o.alpha:
		switch {
		case a.score > b.score:
			order = 1
		case a.score < b.score:
			order = -1
		default:
			order = bytes.Compare(s.elems.at(a.elem), s.elems.at(b.elem))
		}
	case s.o.by == nil:
		order = bytes.Compare(s.elems.at(a.elem), s.elems.at(b.elem))
	case a.weight >= 0 && b.weight >= 0:
		order = bytes.Compare(s.weights.at(a.weight), s.weights.at(b.weight))
	case a.weight >= 0:
		order = 1
	case b.weight >= 0:
		order = -1
	}
	if s.o.desc {
		return -order
	}
	return order
}

// lookup finds the value that a BY or GET pattern names for an element: '#' is
// the element itself, the first '*' is replaced by it, and "->field" behind
// takes a field of a hash. The value is valid until the next call.
func (s *sorter) lookup(pattern, elem []byte) ([]byte, bool) {
	if len(pattern) == 1 && pattern[0] == '#' {
		return elem, true
	}
	star := bytes.IndexByte(pattern, '*')
	if star < 0 {
		return nil, false
	}
	rest := pattern[star+1:]
	var field []byte
	if i := bytes.Index(rest, []byte("->")); i >= 0 && i+2 < len(rest) {
		rest, field = rest[:i], rest[i+2:]
	}
	s.key = append(s.key[:0], pattern[:star]...)
	s.key = append(s.key, elem...)
	s.key = append(s.key, rest...)
	r, ok := s.c.Read(s.key)
	switch {
	case !ok:
		return nil, false
	case field == nil:
		if r.Type() != keyspace.TypeString {
			return nil, false
		}
		return r.Bytes(), true
	case r.Type() != keyspace.TypeHash:
		return nil, false
	}
	h := s.c.DB.Hash(r)
	return h.Get(field)
}

// reply sends the elements, or what GET names for each.
func (s *sorter) reply() {
	c := s.c
	if len(s.o.get) == 0 {
		c.Array(len(s.items))
		for _, it := range s.items {
			c.Bulk(s.elems.at(it.elem))
		}
		return
	}
	c.Array(len(s.items) * len(s.o.get))
	for _, it := range s.items {
		for _, pattern := range s.o.get {
			if val, ok := s.lookup(pattern, s.elems.at(it.elem)); ok {
				c.Bulk(val)
			} else {
				c.Null()
			}
		}
	}
}

// store makes the result a list.
func (s *sorter) store() {
	c, dst := s.c, s.o.store
	res := byteList{}
	for _, it := range s.items {
		elem := s.elems.at(it.elem)
		if len(s.o.get) == 0 {
			res.add(elem)
		}
		for _, pattern := range s.o.get {
			val, _ := s.lookup(pattern, elem) // nothing is stored as empty
			res.add(val)
		}
	}
	n := res.len()
	if n == 0 {
		if c.Delete(dst) {
			c.Changed(NotifyGeneric, "del", dst)
		}
		c.Int(0)
		return
	}
	_, found := c.Write(dst)
	c.Delete(dst)
	l := c.DB.NewList(dst)
	for i := range n {
		l.PushTail(res.at(i))
	}
	if !found {
		// As in Redis, a list that replaces another value wakes nobody.
		c.SignalKey(dst)
		c.created(dst)
	}
	c.Touched(dst)
	c.Notify(NotifyList, "sortstore", dst)
	c.E.Dirty += int64(n)
	c.Int(int64(n))
}
