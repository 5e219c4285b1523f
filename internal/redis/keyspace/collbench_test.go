package keyspace

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

const benchElements = 100_000

// elementNames are the names that redis-benchmark uses, in random order.
func elementNames() [][]byte {
	keys := make([][]byte, benchElements)
	for i, p := range rand.New(rand.NewPCG(1, 1)).Perm(benchElements) {
		keys[i] = fmt.Appendf(nil, "element:%012d", p)
	}
	return keys
}

func benchSpace(b *testing.B) (*Keyspace, *DB) {
	ks, err := New(Options{Databases: 1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := ks.Close(); err != nil {
			b.Error(err)
		}
	})
	return ks, ks.DB(0)
}

// find is what a command does first.
func find(b *testing.B, db *DB) Ref {
	r, ok := db.Find(testKey)
	if !ok {
		b.Fatal("no key")
	}
	return r
}

func BenchmarkLargeHashSet(b *testing.B) {
	ks, db := benchSpace(b)
	keys := elementNames()
	val := make([]byte, 64)
	h := db.NewHash(testKey)
	for _, k := range keys {
		h.Set(k, val)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		h := db.Hash(find(b, db))
		h.Set(keys[i%len(keys)], val)
	}
	b.ReportMetric(float64(ks.UsedMemory())/benchElements, "B/elem")
}

func BenchmarkLargeHashFill(b *testing.B) {
	_, db := benchSpace(b)
	keys := elementNames()
	val := make([]byte, 64)
	b.ReportAllocs()
	var h Hash
	for i := 0; b.Loop(); i++ {
		if i%len(keys) == 0 {
			db.Delete(testKey, false)
			h = db.NewHash(testKey)
		}
		h.Set(keys[i%len(keys)], val)
	}
}

func BenchmarkLargeSetAdd(b *testing.B) {
	ks, db := benchSpace(b)
	keys := elementNames()
	s := db.NewSet(testKey)
	for _, k := range keys {
		s.Add(k)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		s := db.Set(find(b, db))
		s.Add(keys[i%len(keys)])
	}
	b.ReportMetric(float64(ks.UsedMemory())/benchElements, "B/elem")
}

func BenchmarkLargeZSetSet(b *testing.B) {
	ks, db := benchSpace(b)
	keys := elementNames()
	z := db.NewZSet(testKey)
	rng := rand.New(rand.NewPCG(1, 2))
	for _, k := range keys {
		z.Set(k, float64(rng.IntN(benchElements)))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		z := db.ZSet(find(b, db))
		z.Set(keys[i%len(keys)], float64(rng.IntN(benchElements)))
	}
	b.ReportMetric(float64(ks.UsedMemory())/benchElements, "B/elem")
}

// redis-benchmark's ZADD gives all members the score 0.
func BenchmarkLargeZSetFillOneScore(b *testing.B) {
	_, db := benchSpace(b)
	keys := elementNames()
	b.ReportAllocs()
	var z ZSet
	for i := 0; b.Loop(); i++ {
		if i%len(keys) == 0 {
			db.Delete(testKey, false)
			z = db.NewZSet(testKey)
		}
		z.Set(keys[i%len(keys)], 0)
	}
}

func BenchmarkLargeZSetRank(b *testing.B) {
	_, db := benchSpace(b)
	keys := elementNames()
	z := db.NewZSet(testKey)
	for i, k := range keys {
		z.Set(k, float64(i))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		z.Rank(keys[(i*7919)%len(keys)])
	}
}

func BenchmarkListPush(b *testing.B) {
	for _, head := range []bool{true, false} {
		b.Run(fmt.Sprintf("head=%v", head), func(b *testing.B) {
			ks, db := benchSpace(b)
			val := make([]byte, 64)
			b.ReportAllocs()
			n := 0
			for i := 0; b.Loop(); i++ {
				if i%1_000_000 == 0 {
					db.Delete(testKey, false)
					db.NewList(testKey)
					n = 0
				}
				l := db.List(find(b, db))
				l.push(head, val)
				n++
			}
			b.ReportMetric(float64(ks.UsedMemory())/float64(n), "B/elem")
		})
	}
}

func BenchmarkListPushPop(b *testing.B) {
	_, db := benchSpace(b)
	val := make([]byte, 64)
	l := db.NewList(testKey)
	for range benchElements {
		l.PushTail(val)
	}
	b.ReportAllocs()
	for b.Loop() {
		l := db.List(find(b, db))
		l.PushHead(val)
		l.PopTail()
	}
}

// Small collections: one change of one of many.
func BenchmarkSmall(b *testing.B) {
	val := []byte("value-of-some-length")
	for _, typ := range collTypes {
		b.Run(typ.String(), func(b *testing.B) {
			_, db := benchSpace(b)
			keys := make([][]byte, 1000)
			for i := range keys {
				keys[i] = fmt.Appendf(nil, "key:%08d", i)
				fillColl(db, typ, keys[i], 8)
			}
			fields := make([][]byte, 8)
			for i := range fields {
				fields[i] = fmt.Appendf(nil, "field%d", i)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				r, _ := db.Find(keys[i%len(keys)])
				switch typ {
				case TypeHash:
					h := db.Hash(r)
					h.Set(fields[i%8], val)
				case TypeSet:
					s := db.Set(r)
					s.Add(fields[i%8])
				case TypeZSet:
					z := db.ZSet(r)
					z.Set(fields[i%8], float64(i))
				case TypeList:
					l := db.List(r)
					l.PushHead(val)
					l.PopTail()
				}
			}
		})
	}
}

func BenchmarkSmallMemory(b *testing.B) {
	for _, typ := range collTypes {
		b.Run(typ.String(), func(b *testing.B) {
			const n = 100_000
			var bytes int64
			for b.Loop() {
				ks, db := benchSpace(b)
				for i := range n {
					fillColl(db, typ, fmt.Appendf(nil, "key:%012d", i), 8)
				}
				bytes = ks.UsedMemory()
			}
			b.ReportMetric(float64(bytes)/n, "B/key")
		})
	}
}
