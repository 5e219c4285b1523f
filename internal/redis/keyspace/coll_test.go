package keyspace

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"holdfast/internal/redis/intset"
	"holdfast/internal/redis/listpack"
	"holdfast/internal/redis/rdb"
)

// tester is what *testing.T and *rapid.T share here.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
}

// newCollSpace returns a keyspace with low limits, so that short tests cross them.
func newCollSpace(t tester) *Keyspace {
	t.Helper()
	lim := DefaultLimits()
	lim.HashMaxListpackEntries, lim.HashMaxListpackValue = 16, 24
	lim.SetMaxIntsetEntries = 16
	lim.ZsetMaxListpackEntries, lim.ZsetMaxListpackValue = 16, 24
	ks, err := New(Options{Databases: 1, Reserve: 1 << 30, Limits: lim})
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	return ks
}

// finish deletes everything and asks that no memory is left.
func finish(t tester, ks *Keyspace, key string) {
	t.Helper()
	ks.DB(0).Delete([]byte(key), false)
	if n := ks.UsedMemory(); n != 0 {
		t.Fatalf("%d bytes are in use after the last key went", n)
	}
	if err := ks.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

// member draws keys that are integers, short and long strings.
func member() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		n := rapid.IntRange(0, 400).Draw(t, "n")
		switch rapid.IntRange(0, 20).Draw(t, "kind") {
		case 0:
			return fmt.Sprintf("%d-%s", n%10, bytes.Repeat([]byte("x"), 100))
		case 1, 2, 3, 4:
			return strconv.Itoa(n)
		case 5:
			return strconv.FormatInt(int64(n)<<40, 10)
		}
		return "m" + strconv.Itoa(n)
	})
}

// intMember draws mostly integers, for intsets.
func intMember() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		n := rapid.IntRange(-300, 300).Draw(t, "n")
		switch rapid.IntRange(0, 40).Draw(t, "kind") {
		case 0:
			return strconv.FormatInt(int64(n)<<50, 10)
		case 1:
			return strconv.FormatInt(int64(n)<<20, 10)
		case 2:
			return "m" + strconv.Itoa(n)
		}
		return strconv.Itoa(n)
	})
}

var testKey = []byte("key")

// handle fetches the Ref of the test's key.
func handle(t tester, db *DB) Ref {
	t.Helper()
	r, ok := db.Find(testKey)
	if !ok {
		t.Fatalf("the key is gone")
	}
	return r
}

func TestHashBehavesLikeAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ks := newCollSpace(t)
		db := ks.DB(0)
		model := map[string]string{}
		get := func() Hash {
			if r, ok := db.Find(testKey); ok {
				return db.Hash(r)
			}
			return db.NewHash(testKey)
		}
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				for range rapid.IntRange(1, 60).Draw(t, "n") {
					f, v := member().Draw(t, "f"), member().Draw(t, "v")
					h := get()
					_, had := model[f]
					if added := h.Set([]byte(f), []byte(v)); added == had {
						t.Fatalf("Set(%q) = %v, want %v", f, added, !had)
					}
					model[f] = v
				}
			},
			"del": func(t *rapid.T) {
				for range rapid.IntRange(1, 40).Draw(t, "n") {
					f := member().Draw(t, "f")
					h := get()
					_, had := model[f]
					if gone := h.Del([]byte(f)); gone != had {
						t.Fatalf("Del(%q) = %v, want %v", f, gone, had)
					}
					delete(model, f)
					if h.Len() == 0 {
						db.Delete(testKey, false)
					}
				}
			},
			"": func(t *rapid.T) {
				h := get()
				if h.Len() != len(model) {
					t.Fatalf("%d fields, want %d", h.Len(), len(model))
				}
				got := map[string]string{}
				h.Each(func(f, v []byte) bool {
					got[string(f)] = string(v)
					return true
				})
				if !maps.Equal(got, model) {
					t.Fatalf("got %v, want %v", got, model)
				}
				for f, want := range model {
					if v, ok := h.Get([]byte(f)); !ok || string(v) != want || !h.Has([]byte(f)) {
						t.Fatalf("Get(%q) = %q, %v, want %q", f, v, ok, want)
					}
				}
				if len(model) > 0 {
					f, v := h.Random(rand.New(rand.NewPCG(1, 2)))
					if model[string(f)] != string(v) {
						t.Fatalf("Random is %q: %q, want %q", f, v, model[string(f)])
					}
				}
				// Scan yields everything that stays, whatever the count.
				seen := map[string]string{}
				for cur := h.Scan(0, 7, func(f, v []byte) { seen[string(f)] = string(v) }); cur != 0; {
					cur = h.Scan(cur, 7, func(f, v []byte) { seen[string(f)] = string(v) })
				}
				if !maps.Equal(seen, model) {
					t.Fatalf("scanned %v, want %v", seen, model)
				}
			},
		})
		finish(t, ks, string(testKey))
	})
}

func TestSetBehavesLikeAMap(t *testing.T) {
	for name, gen := range map[string]*rapid.Generator[string]{"mixed": member(), "integers": intMember()} {
		t.Run(name, rapid.MakeCheck(func(t *rapid.T) { checkSet(t, gen) }))
	}
}

func checkSet(t *rapid.T, gen *rapid.Generator[string]) {
	ks := newCollSpace(t)
	db := ks.DB(0)
	model := map[string]bool{}
	intset := true // what Redis 7.0 would have
	get := func() Set {
		if r, ok := db.Find(testKey); ok {
			return db.Set(r)
		}
		intset = true
		return db.NewSet(testKey)
	}
	t.Repeat(map[string]func(*rapid.T){
		"add": func(t *rapid.T) {
			for range rapid.IntRange(1, 60).Draw(t, "n") {
				m := gen.Draw(t, "m")
				s := get()
				if added := s.Add([]byte(m)); added == model[m] {
					t.Fatalf("Add(%q) = %v, want %v", m, added, !model[m])
				}
				model[m] = true
				if _, err := strconv.ParseInt(m, 10, 64); err != nil || len(model) > 16 {
					intset = false
				}
			}
		},
		"remove": func(t *rapid.T) {
			for range rapid.IntRange(1, 40).Draw(t, "n") {
				m := gen.Draw(t, "m")
				s := get()
				if gone := s.Remove([]byte(m)); gone != model[m] {
					t.Fatalf("Remove(%q) = %v, want %v", m, gone, model[m])
				}
				delete(model, m)
				if s.Len() == 0 {
					db.Delete(testKey, false)
				}
			}
		},
		"": func(t *rapid.T) {
			s := get()
			if s.Len() != len(model) || s.IsIntset() != intset {
				t.Fatalf("%d members, intset %v; want %d, %v", s.Len(), s.IsIntset(), len(model), intset)
			}
			seen := map[string]bool{}
			s.Each(func(m []byte) bool {
				if seen[string(m)] {
					t.Fatalf("%q comes twice", m)
				}
				seen[string(m)] = true
				return true
			})
			if !maps.Equal(seen, model) {
				t.Fatalf("got %v, want %v", seen, model)
			}
			for m := range model {
				if !s.Has([]byte(m)) {
					t.Fatalf("Has(%q) is false", m)
				}
			}
			if len(model) > 0 {
				if m := s.Random(rand.New(rand.NewPCG(1, 2))); !model[string(m)] {
					t.Fatalf("Random is %q", m)
				}
			}
			clear(seen)
			for cur := s.Scan(0, 5, func(m []byte) { seen[string(m)] = true }); cur != 0; {
				cur = s.Scan(cur, 5, func(m []byte) { seen[string(m)] = true })
			}
			if !maps.Equal(seen, model) {
				t.Fatalf("scanned %v, want %v", seen, model)
			}
		},
	})
	finish(t, ks, string(testKey))
}

type scored struct {
	m     string
	score float64
}

func sortedModel(model map[string]float64) []scored {
	var all []scored
	for m, s := range model {
		all = append(all, scored{m, s})
	}
	slices.SortFunc(all, func(a, b scored) int {
		return cmp.Or(cmp.Compare(a.score, b.score), cmp.Compare(a.m, b.m))
	})
	return all
}

func score() *rapid.Generator[float64] {
	return rapid.Custom(func(t *rapid.T) float64 {
		n := rapid.IntRange(-20, 20).Draw(t, "score")
		switch rapid.IntRange(0, 12).Draw(t, "scoreKind") {
		case 0:
			return math.Inf(n)
		case 1:
			return float64(n) / 7
		case 2:
			return float64(n) * 1e300
		case 3:
			return float64(n) * (1 << 58)
		}
		return float64(n)
	})
}

func TestZSetBehavesLikeASortedSlice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ks := newCollSpace(t)
		db := ks.DB(0)
		model := map[string]float64{}
		get := func() ZSet {
			if r, ok := db.Find(testKey); ok {
				return db.ZSet(r)
			}
			return db.NewZSet(testKey)
		}
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				for range rapid.IntRange(1, 60).Draw(t, "n") {
					m, s := member().Draw(t, "m"), score().Draw(t, "s")
					z := get()
					old, had := model[m]
					added, changed := z.Set([]byte(m), s)
					if added == had || changed != (had && old != s) {
						t.Fatalf("Set(%q, %v) = %v, %v; had %v, %v", m, s, added, changed, old, had)
					}
					model[m] = s
				}
			},
			"remove": func(t *rapid.T) {
				for range rapid.IntRange(1, 40).Draw(t, "n") {
					m := member().Draw(t, "m")
					z := get()
					_, had := model[m]
					if gone := z.Remove([]byte(m)); gone != had {
						t.Fatalf("Remove(%q) = %v, want %v", m, gone, had)
					}
					delete(model, m)
					if z.Len() == 0 {
						db.Delete(testKey, false)
					}
				}
			},
			"removeRange": func(t *rapid.T) {
				all := sortedModel(model)
				from := rapid.IntRange(0, len(all)).Draw(t, "from")
				n := rapid.IntRange(0, 20).Draw(t, "n")
				z := get()
				to := min(len(all), from+n)
				if got := z.RemoveRangeByRank(from, n); got != to-from {
					t.Fatalf("RemoveRangeByRank(%d, %d) = %d of %d", from, n, got, len(all))
				}
				for _, e := range all[from:to] {
					delete(model, e.m)
				}
				if z.Len() == 0 {
					db.Delete(testKey, false)
				}
			},
			"": func(t *rapid.T) { checkZSet(t, get(), model) },
		})
		finish(t, ks, string(testKey))
	})
}

func checkZSet(t *rapid.T, z ZSet, model map[string]float64) {
	all := sortedModel(model)
	if z.Len() != len(all) {
		t.Fatalf("%d members, want %d", z.Len(), len(all))
	}
	if z.big != nil {
		z.big.tree.check()
	}
	i := 0
	z.Each(func(m []byte, s float64) bool {
		if string(m) != all[i].m || s != all[i].score {
			t.Fatalf("rank %d is %q %v, want %v", i, m, s, all[i])
		}
		i++
		return true
	})
	if i != len(all) {
		t.Fatalf("Each visited %d of %d", i, len(all))
	}
	for i, e := range all {
		if r, ok := z.Rank([]byte(e.m)); !ok || r != i {
			t.Fatalf("Rank(%q) = %d, %v, want %d", e.m, r, ok, i)
		}
		if s, ok := z.Score([]byte(e.m)); !ok || s != e.score {
			t.Fatalf("Score(%q) = %v, %v, want %v", e.m, s, ok, e.score)
		}
		if m, s := z.At(i); string(m) != e.m || s != e.score {
			t.Fatalf("At(%d) = %q, %v, want %v", i, m, s, e)
		}
	}
	s := score().Draw(t, "bound")
	lt, le := 0, 0
	for _, e := range all {
		if e.score < s {
			lt++
		}
		if e.score <= s {
			le++
		}
	}
	if a, b := z.CountLess(s, false), z.CountLess(s, true); a != lt || b != le {
		t.Fatalf("CountLess(%v) = %d, %d, want %d, %d", s, a, b, lt, le)
	}
	from, n := rapid.IntRange(0, len(all)).Draw(t, "from"), rapid.IntRange(0, 30).Draw(t, "n")
	at := len(all) - 1 - from
	got := 0
	z.RangeByRank(from, n, true, func(m []byte, s float64) bool {
		if string(m) != all[at].m || s != all[at].score {
			t.Fatalf("reverse rank %d is %q %v, want %v", at, m, s, all[at])
		}
		at--
		got++
		return true
	})
	if want := min(n, len(all)-from); got != want {
		t.Fatalf("RangeByRank(%d, %d, reverse) gave %d, want %d", from, n, got, want)
	}
}

func TestZSetLexicalCounts(t *testing.T) {
	for _, n := range []int{10, 300} {
		ks := newCollSpace(t)
		z := ks.DB(0).NewZSet(testKey)
		for i := range n {
			z.Set(fmt.Appendf(nil, "%03d", i), 0)
		}
		for i := range n {
			m := fmt.Appendf(nil, "%03d", i)
			if a, b := z.CountLexLess(m, false), z.CountLexLess(m, true); a != i || b != i+1 {
				t.Fatalf("%d members: CountLexLess(%q) = %d, %d", n, m, a, b)
			}
			if a := z.CountLexLess(append(m, '0'), false); a != i+1 {
				t.Fatalf("%d members: CountLexLess(%q0) = %d", n, m, a)
			}
		}
		finish(t, ks, string(testKey))
	}
}

func TestListBehavesLikeASlice(t *testing.T) {
	for _, fill := range []int{-1, -2, -5, 1, 7, 1000} {
		t.Run(strconv.Itoa(fill), rapid.MakeCheck(func(t *rapid.T) { checkList(t, fill) }))
	}
}

func element() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		n := rapid.IntRange(0, 30).Draw(t, "n")
		switch rapid.IntRange(0, 30).Draw(t, "kind") {
		case 0:
			return fmt.Sprint(n, string(bytes.Repeat([]byte("y"), 9000)))
		case 1, 2, 3:
			return fmt.Sprint(n, string(bytes.Repeat([]byte("x"), 700)))
		case 4, 5, 6, 7, 8:
			return strconv.Itoa(n << n)
		}
		return "element" + strconv.Itoa(n)
	})
}

func checkList(t *rapid.T, fill int) {
	ks := newCollSpace(t)
	ks.limits.ListMaxListpackSize = fill
	db := ks.DB(0)
	var model []string
	get := func() List {
		if r, ok := db.Find(testKey); ok {
			return db.List(r)
		}
		return db.NewList(testKey)
	}
	done := func(l *List) {
		if l.Len() == 0 {
			db.Delete(testKey, false)
		}
	}
	t.Repeat(map[string]func(*rapid.T){
		"push": func(t *rapid.T) {
			head := rapid.Bool().Draw(t, "head")
			for range rapid.IntRange(1, 40).Draw(t, "n") {
				v := element().Draw(t, "v")
				l := get()
				if head {
					l.PushHead([]byte(v))
					model = slices.Insert(model, 0, v)
				} else {
					l.PushTail([]byte(v))
					model = append(model, v)
				}
			}
		},
		"pop": func(t *rapid.T) {
			head := rapid.Bool().Draw(t, "head")
			for range min(len(model), rapid.IntRange(1, 40).Draw(t, "n")) {
				l := get()
				if head {
					if v := l.PopHead(); string(v) != model[0] {
						t.Fatalf("PopHead = %.20q, want %.20q", v, model[0])
					}
					model = model[1:]
				} else {
					if v := l.PopTail(); string(v) != model[len(model)-1] {
						t.Fatalf("PopTail = %.20q, want %.20q", v, model[len(model)-1])
					}
					model = model[:len(model)-1]
				}
				done(&l)
			}
		},
		"insert": func(t *rapid.T) {
			for range rapid.IntRange(1, 20).Draw(t, "n") {
				i := rapid.IntRange(0, len(model)).Draw(t, "i")
				v := element().Draw(t, "v")
				l := get()
				l.InsertAt(i, []byte(v))
				model = slices.Insert(model, i, v)
			}
		},
		"set": func(t *rapid.T) {
			i := rapid.IntRange(-len(model)-1, len(model)).Draw(t, "i")
			v := element().Draw(t, "v")
			l := get()
			j := i
			if j < 0 {
				j += len(model)
			}
			ok := j >= 0 && j < len(model)
			if got := l.SetAt(i, []byte(v)); got != ok {
				t.Fatalf("SetAt(%d) of %d = %v", i, len(model), got)
			}
			if ok {
				model[j] = v
			}
			done(&l)
		},
		"removeRange": func(t *rapid.T) {
			from := rapid.IntRange(0, len(model)).Draw(t, "from")
			n := rapid.IntRange(0, len(model)-from).Draw(t, "n")
			l := get()
			l.RemoveRange(from, n)
			model = slices.Delete(model, from, from+n)
			done(&l)
		},
		"removeMatching": func(t *rapid.T) {
			v := element().Draw(t, "v")
			if len(model) > 0 && rapid.Bool().Draw(t, "there") {
				v = model[rapid.IntRange(0, len(model)-1).Draw(t, "i")]
			}
			count := rapid.IntRange(-3, 3).Draw(t, "count")
			l := get()
			got := l.RemoveMatching([]byte(v), count)
			if want := modelRemove(&model, v, count); got != want {
				t.Fatalf("RemoveMatching(%.20q, %d) = %d, want %d", v, count, got, want)
			}
			done(&l)
		},
		"": func(t *rapid.T) {
			l := get()
			checkListContent(t, &l, model, fill)
			done(&l)
		},
	})
	finish(t, ks, string(testKey))
}

// modelRemove is LREM on a slice.
func modelRemove(model *[]string, v string, count int) int {
	m := *model
	if count < 0 {
		slices.Reverse(m)
	}
	limit := max(count, -count)
	removed := 0
	m = slices.DeleteFunc(m, func(e string) bool {
		if e != v || limit > 0 && removed == limit {
			return false
		}
		removed++
		return true
	})
	if count < 0 {
		slices.Reverse(m)
	}
	*model = m
	return removed
}

func checkListContent(t *rapid.T, l *List, model []string, fill int) {
	if l.Len() != len(model) {
		t.Fatalf("%d elements, want %d", l.Len(), len(model))
	}
	if l.big != nil {
		n := 0
		for _, c := range l.big.dir {
			if c.n == 0 {
				t.Fatalf("an empty chunk")
			}
			n += int(c.n)
		}
		if n != l.big.n {
			t.Fatalf("chunks hold %d elements, the list says %d", n, l.big.n)
		}
	}
	if len(model) == 0 {
		return
	}
	from := rapid.IntRange(0, len(model)-1).Draw(t, "from")
	for _, reverse := range []bool{false, true} {
		want, step := from, 1
		if reverse {
			step = -1
		}
		l.Each(from, reverse, func(i int, v []byte) bool {
			if i != want || string(v) != model[i] {
				t.Fatalf("element %d (want %d) is %.20q, want %.20q", i, want, v, model[want])
			}
			want += step
			return true
		})
		if reverse && want != -1 || !reverse && want != len(model) {
			t.Fatalf("Each from %d of %d, reverse %v, ended before %d", from, len(model), reverse, want)
		}
	}
	if v, ok := l.Index(from - len(model)); !ok || string(v) != model[from] {
		t.Fatalf("Index(%d) = %.20q, want %.20q", from-len(model), v, model[from])
	}
	if _, ok := l.Index(len(model)); ok {
		t.Fatalf("Index(%d) of %d elements", len(model), len(model))
	}
}

// value returns the key's value in a comparable form, and its DUMP payload.
func valueOf(db *DB, r Ref) string {
	var all []string
	switch r.Type() {
	case TypeHash:
		h := db.Hash(r)
		h.Each(func(f, v []byte) bool {
			all = append(all, fmt.Sprintf("%q=%q", f, v))
			return true
		})
		slices.Sort(all)
	case TypeSet:
		s := db.Set(r)
		s.Each(func(m []byte) bool {
			all = append(all, fmt.Sprintf("%q", m))
			return true
		})
		slices.Sort(all)
	case TypeZSet:
		z := db.ZSet(r)
		z.Each(func(m []byte, score float64) bool {
			all = append(all, fmt.Sprintf("%q=%v", m, score))
			return true
		})
	case TypeList:
		l := db.List(r)
		l.Each(0, false, func(_ int, v []byte) bool {
			all = append(all, fmt.Sprintf("%q", v))
			return true
		})
	}
	return fmt.Sprint(all)
}

// fillColl makes a collection of n elements under key.
func fillColl(db *DB, typ Type, key []byte, n int) {
	switch typ {
	case TypeHash:
		h := db.NewHash(key)
		for i := range n {
			h.Set(fmt.Appendf(nil, "field%d", i), fmt.Appendf(nil, "value%d", i))
		}
	case TypeSet:
		s := db.NewSet(key)
		for i := range n {
			s.Add(fmt.Appendf(nil, "member%d", i))
		}
	case TypeZSet:
		z := db.NewZSet(key)
		for i := range n {
			z.Set(fmt.Appendf(nil, "member%d", i), float64(i*7%n))
		}
	case TypeList:
		l := db.NewList(key)
		for i := range n {
			l.PushTail(fmt.Appendf(nil, "element%d", i))
		}
	}
}

var collTypes = []Type{TypeList, TypeSet, TypeZSet, TypeHash}

func TestCopyIsDeep(t *testing.T) {
	for _, typ := range collTypes {
		for _, n := range []int{3, 3000} {
			ks := newCollSpace(t)
			db := ks.DB(0)
			fillColl(db, typ, testKey, n)
			want := valueOf(db, handle(t, db))
			db.Copy(testKey, db, []byte("copy"))
			c, ok := db.Find([]byte("copy"))
			if !ok || valueOf(db, c) != want {
				t.Fatalf("%v of %d: the copy differs", typ, n)
			}
			mutate(db, c, rand.New(rand.NewPCG(3, 4)), n)
			if valueOf(db, handle(t, db)) != want {
				t.Fatalf("%v of %d: a change of the copy shows in the original", typ, n)
			}
			db.Delete(testKey, false)
			finish(t, ks, "copy")
		}
	}
}

// mutate changes about n elements in place, adds and removes some.
func mutate(db *DB, r Ref, rng *rand.Rand, n int) {
	switch r.Type() {
	case TypeHash:
		h := db.Hash(r)
		for i := range n {
			h.Set(fmt.Appendf(nil, "field%d", rng.IntN(2*n)), fmt.Appendf(nil, "changed%d", i))
			h.Del(fmt.Appendf(nil, "field%d", rng.IntN(2*n)))
		}
	case TypeSet:
		s := db.Set(r)
		for range n {
			s.Add(fmt.Appendf(nil, "member%d", rng.IntN(2*n)))
			s.Remove(fmt.Appendf(nil, "member%d", rng.IntN(2*n)))
		}
	case TypeZSet:
		z := db.ZSet(r)
		for range n {
			z.Set(fmt.Appendf(nil, "member%d", rng.IntN(2*n)), rng.Float64())
			z.Remove(fmt.Appendf(nil, "member%d", rng.IntN(2*n)))
		}
	case TypeList:
		l := db.List(r)
		for i := range n {
			v := fmt.Appendf(nil, "changed%d", i)
			switch at := rng.IntN(l.Len()); rng.IntN(5) {
			case 0:
				l.SetAt(at, v)
			case 1:
				l.InsertAt(at, v)
			case 2:
				l.PushHead(v)
			case 3:
				l.PushTail(v)
			default:
				if l.Len() > 2 {
					l.RemoveRange(at, 1)
				}
			}
		}
	}
}

// The value that a frozen object writes is that of the moment of the freeze,
// whatever happens between the steps.
func TestFrozenCollectionIsWrittenAsItWas(t *testing.T) {
	for _, typ := range collTypes {
		for seed := range uint64(6) {
			ks := newCollSpace(t)
			db := ks.DB(0)
			const n = 4000
			fillColl(db, typ, testKey, n)
			want := valueOf(db, handle(t, db))
			obj := db.large(handle(t, db))
			rng := rand.New(rand.NewPCG(seed, 1))
			enc := &rdb.Encoder{}
			obj.freeze(enc)
			var out []byte
			for done := false; !done; {
				mutate(db, handle(t, db), rng, int(seed)*40+1)
				if seed == 5 {
					mutate(db, handle(t, db), rng, n) // all of it
				}
				out, done = obj.serialise(enc, out, 100)
			}
			if obj.backlog() != 0 {
				t.Fatalf("%v: backlog of %d bytes after the end", typ, obj.backlog())
			}
			after := valueOf(db, handle(t, db))
			back := newCollSpace(t)
			loadColl(t, back.DB(0), obj.rdbType(), out)
			if got := valueOf(back.DB(0), handle(t, back.DB(0))); got != want {
				t.Fatalf("%v, seed %d: the frozen value differs", typ, seed)
			}
			if after == want {
				t.Fatalf("%v: the test changed nothing", typ)
			}
			finish(t, back, string(testKey))
			finish(t, ks, string(testKey))
		}
	}
}

func TestThawGivesBackWhatTheFreezeHeld(t *testing.T) {
	for _, typ := range collTypes {
		ks := newCollSpace(t)
		db := ks.DB(0)
		fillColl(db, typ, testKey, 4000)
		obj := db.large(handle(t, db))
		enc := &rdb.Encoder{}
		obj.freeze(enc)
		mutate(db, handle(t, db), rand.New(rand.NewPCG(1, 1)), 500)
		if obj.backlog() == 0 {
			t.Fatalf("%v: changes of a frozen value left no copies", typ)
		}
		out, _ := obj.serialise(enc, nil, 100)
		mutate(db, handle(t, db), rand.New(rand.NewPCG(2, 1)), 500)
		if len(out) == 0 {
			t.Fatalf("%v: nothing was written", typ)
		}
		obj.thaw()
		mutate(db, handle(t, db), rand.New(rand.NewPCG(3, 1)), 500)
		finish(t, ks, string(testKey))
	}
}

// loadColl reads an RDB value into testKey.
func loadColl(t tester, db *DB, typ rdb.Type, val []byte) {
	t.Helper()
	loadPayload(t, db, rdb.AppendDumpFooter(append([]byte{byte(typ)}, val...), 0))
}

// loadPayload reads a DUMP payload that is not one blob into testKey.
func loadPayload(t tester, db *DB, payload []byte) {
	t.Helper()
	if err := rdb.LoadValue(payload, testKey, rdb.NoMeta, &collVisitor{db: db}, rdb.Options{Sanitize: true}); err != nil {
		t.Fatalf("load: %v", err)
	}
}

// collVisitor puts a collection that is not one blob into testKey.
type collVisitor struct {
	rdb.Visitor
	db   *DB
	list List
	set  Set
	hash Hash
	zset ZSet
}

func (v *collVisitor) BeginKey([]byte, rdb.Meta) error { return nil }
func (v *collVisitor) EndKey() error                   { return nil }

func (v *collVisitor) BeginCollection(kind rdb.Kind, _ uint64) error {
	switch kind {
	case rdb.KindList:
		v.list = v.db.NewList(testKey)
	case rdb.KindSet:
		v.set = v.db.NewSet(testKey)
	case rdb.KindHash:
		v.hash = v.db.NewHash(testKey)
	case rdb.KindZset:
		v.zset = v.db.NewZSet(testKey)
	}
	return nil
}

func (v *collVisitor) ListNode(lp []byte) error {
	v.list.AppendNode(lp)
	return nil
}

func (v *collVisitor) Element(m []byte) error {
	if !v.set.Add(m) {
		return rdb.ErrDuplicate
	}
	return nil
}

func (v *collVisitor) Pair(field, val []byte) error {
	if !v.hash.Set(field, val) {
		return rdb.ErrDuplicate
	}
	return nil
}

func (v *collVisitor) ScorePair(m []byte, score float64) error {
	if added, _ := v.zset.Set(m, score); !added {
		return rdb.ErrDuplicate
	}
	return nil
}

// A blob from outside may hold members twice and out of order: nothing breaks,
// and the large forms of hashes and sorted sets hold each once.
func TestAdoptedBlobsAreNotTrusted(t *testing.T) {
	twice := emptyListpack
	for i := range 100 {
		twice = listpack.Append(twice, fmt.Appendf(nil, "m%d", i%30))
		twice = listpack.Append(twice, fmt.Appendf(nil, "%d", (i*13)%40))
	}
	nan := listpack.Append(listpack.Append(emptyListpack, []byte("m")), []byte("nan"))
	unordered := []byte{2, 0, 0, 0, 40, 0, 0, 0}
	for i := range 40 {
		unordered = append(unordered, byte(i*7%20), 0)
	}
	for _, c := range []struct {
		name string
		typ  Type
		f    form
		blob []byte
		want int
	}{
		{"hash", TypeHash, formBlob, twice, 30},
		{"zset", TypeZSet, formBlob, twice, 30},
		{"nan", TypeZSet, formBlob, nan, 1},
		{"intset", TypeSet, formIntset, unordered, 40},
		{"list", TypeList, formBlob, twice, 200},
	} {
		ks := newCollSpace(t)
		db := ks.DB(0)
		r := db.applyLimits(db.newBlob(testKey, c.typ, c.f, c.blob))
		n := 0
		switch c.typ {
		case TypeHash:
			h := db.Hash(r)
			n = h.Len()
			for i := range 40 {
				h.Del(fmt.Appendf(nil, "m%d", i))
			}
		case TypeZSet:
			z := db.ZSet(r)
			n = z.Len()
			for i := range 20 {
				z.Set(fmt.Appendf(nil, "m%d", i), float64(i))
			}
			for i := range 40 {
				z.Remove(fmt.Appendf(nil, "m%d", i))
			}
		case TypeSet:
			s := db.Set(r)
			n = s.Len()
			for i := range 40 {
				s.Add(fmt.Appendf(nil, "m%d", i))
			}
		case TypeList:
			l := db.List(r)
			n = l.Len()
		}
		if n != c.want {
			t.Errorf("%s: %d elements, want %d", c.name, n, c.want)
		}
		finish(t, ks, string(testKey))
	}
}

func TestHotPathsDoNotAllocate(t *testing.T) {
	for _, typ := range collTypes {
		for _, n := range []int{8, 5000} {
			ks := newCollSpace(t)
			db := ks.DB(0)
			fillColl(db, typ, testKey, n)
			old, fresh := []byte("member3"), []byte("another")
			field, val := []byte("field3"), []byte("some value")
			i := 0.0
			ops := func() {
				i++
				r, _ := db.Find(testKey)
				switch typ {
				case TypeHash:
					h := db.Hash(r)
					h.Set(field, val)
					h.Set(fresh, val)
					h.Get(field)
					h.Del(fresh)
				case TypeSet:
					s := db.Set(r)
					s.Add(old)
					s.Add(fresh)
					s.Has(old)
					s.Remove(fresh)
				case TypeZSet:
					z := db.ZSet(r)
					z.Set(old, i)
					z.Set(fresh, i/3)
					z.Rank(old)
					z.CountLess(i, true)
					z.Remove(fresh)
				case TypeList:
					l := db.List(r)
					l.PushHead(val)
					l.PushTail(old)
					l.Index(3)
					l.SetAt(2, field)
					l.PopHead()
					l.PopTail()
				}
			}
			if allocs := testing.AllocsPerRun(2000, ops); allocs != 0 {
				t.Errorf("%v of %d: %v allocations", typ, n, allocs)
			}
			finish(t, ks, string(testKey))
		}
	}
}

// Freeing a large collection by steps frees it all, and never much at once.
func TestLazyFreeGoesBySteps(t *testing.T) {
	for _, typ := range collTypes {
		ks := newCollSpace(t)
		db := ks.DB(0)
		fillColl(db, typ, testKey, 20_000)
		full := ks.UsedMemory()
		db.Delete(testKey, true)
		steps, budget := 0, 100
		if typ == TypeList {
			budget = 5 // chunks
		}
		for before := ks.UsedMemory(); ks.FreeStep(budget) > 0; steps++ {
			now := ks.UsedMemory()
			if before-now > full/4 {
				t.Fatalf("%v: one step freed %d of %d bytes", typ, before-now, full)
			}
			before = now
		}
		if steps < 2 {
			t.Errorf("%v: freed in %d steps", typ, steps)
		}
		finish(t, ks, string(testKey))
	}
}

// With high limits a blob outgrows 64 KiB (long entries) and the slabs.
func TestSmallFormsMayBeBig(t *testing.T) {
	ks := newCollSpace(t)
	ks.limits.HashMaxListpackEntries = 1 << 20
	db := ks.DB(0)
	h := db.NewHash(testKey)
	const n = 3000
	for i := range n {
		h.Set(fmt.Appendf(nil, "field%d", i), fmt.Appendf(nil, "value%019d", i))
	}
	db.SetExpire(testKey, 1<<40)
	h = db.Hash(handle(t, db))
	if h.big != nil || h.Len() != n || len(h.blob()) < 1<<16 {
		t.Fatalf("%d fields, large %v", h.Len(), h.big != nil)
	}
	for i := range n {
		if v, ok := h.Get(fmt.Appendf(nil, "field%d", i)); !ok || string(v) != fmt.Sprintf("value%019d", i) {
			t.Fatalf("field %d is %q", i, v)
		}
		if i%100 == 0 {
			h.Set(fmt.Appendf(nil, "field%d", i), []byte("short"))
			h.Set(fmt.Appendf(nil, "field%d", i), fmt.Appendf(nil, "value%019d", i))
		}
	}
	for i := range n {
		h.Del(fmt.Appendf(nil, "field%d", i))
	}
	if h.Len() != 0 {
		t.Fatalf("%d fields remain", h.Len())
	}
	finish(t, ks, string(testKey))
}

// FuzzForeignBlob: what passed the deep validation of its format may be used
// without harm, whatever it holds.
func FuzzForeignBlob(f *testing.F) {
	f.Add(byte(TypeHash), listpack.Append(listpack.Append(listpack.New(0), []byte("f")), []byte("v")))
	f.Add(byte(TypeZSet), listpack.Append(listpack.Append(listpack.New(0), []byte("m")), []byte("1.5")))
	f.Add(byte(TypeList), listpack.Append(listpack.New(0), []byte("123")))
	f.Add(byte(TypeSet), []byte{2, 0, 0, 0, 1, 0, 0, 0, 7, 0})
	f.Fuzz(func(t *testing.T, typ byte, blob []byte) {
		ks := newCollSpace(t)
		db := ks.DB(0)
		m := []byte("f")
		switch Type(typ) {
		case TypeHash, TypeZSet, TypeList:
			if listpack.Validate(blob, true) != nil || listpack.Len(blob) == 0 || Type(typ) != TypeList && listpack.Len(blob)%2 != 0 {
				return
			}
			r := db.applyLimits(db.newBlob(testKey, Type(typ), formBlob, blob))
			useBlob(db, r, m)
		case TypeSet:
			if intset.Validate(blob, false) != nil {
				return
			}
			r := db.applyLimits(db.newBlob(testKey, TypeSet, formIntset, blob))
			s := db.Set(r)
			s.Add(m)
			s.Remove([]byte("7"))
			s.Remove(m)
		}
		finish(t, ks, string(testKey))
	})
}

// useBlob changes a collection in every way that looks at its elements.
func useBlob(db *DB, r Ref, m []byte) {
	switch r.Type() {
	case TypeHash:
		h := db.Hash(r)
		h.Set(m, m)
		h.Del(m)
		for i := range 20 {
			h.Set(fmt.Appendf(nil, "%d", i), m)
		}
	case TypeZSet:
		z := db.ZSet(r)
		z.Set(m, 1.5)
		z.Rank(m)
		z.CountLess(2, true)
		z.RemoveRangeByRank(1, 2)
		for i := range 20 {
			z.Set(fmt.Appendf(nil, "%d", i), float64(i))
		}
		z.Remove(m)
		z.RemoveRangeByRank(0, z.Len())
	case TypeList:
		l := db.List(r)
		l.SetAt(-1, m)
		l.InsertAt(l.Len()/2, bytes.Repeat(m, 3000))
		l.RemoveMatching(m, 0)
		l.RemoveRange(0, l.Len()/2)
	}
}
