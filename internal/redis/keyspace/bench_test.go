package keyspace

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"holdfast/internal/redis/cluster/slot"
)

// benchBySlot makes the benchmarks use keyspaces of cluster mode:
//
//	KEYSPACE_BY_SLOT=1 go test -bench . ./internal/redis/keyspace
var benchBySlot = os.Getenv("KEYSPACE_BY_SLOT") != ""

func benchKeyspace(b testing.TB) *Keyspace {
	b.Helper()
	ks, err := New(Options{BySlot: benchBySlot})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := ks.Close(); err != nil {
			b.Error(err)
		}
	})
	ks.SetClock(1_700_000_000_000)
	return ks
}

// benchKeys returns n keys of 16 bytes in random order.
func benchKeys(n int) [][]byte {
	keys := make([][]byte, n)
	rng := rand.New(rand.NewPCG(1, 1))
	for i, j := range rng.Perm(n) {
		keys[i] = fmt.Appendf(nil, "key:%012d", j)
	}
	return keys
}

func filled(b testing.TB, n int) (*DB, [][]byte, []byte) {
	ks := benchKeyspace(b)
	keys, val := benchKeys(n), make([]byte, 64)
	for _, k := range keys {
		ks.DB(0).SetString(k, val, NoExpiry)
	}
	return ks.DB(0), keys, val
}

// sizes of the keyspace in keys: 100,000 as in the goals, and one far beyond the caches.
var benchSizes = []int{1000, 100_000, 1_000_000}

func BenchmarkFind(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			db, keys, _ := filled(b, n)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				r, ok := db.Find(keys[i])
				if !ok || len(r.Bytes()) != 64 {
					b.Fatal("missing")
				}
				if i++; i == len(keys) {
					i = 0
				}
			}
		})
	}
}

func BenchmarkSetStringOverwrite(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			db, keys, val := filled(b, n)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				db.SetString(keys[i], val, NoExpiry)
				if i++; i == len(keys) {
					i = 0
				}
			}
		})
	}
}

func BenchmarkSetStringNew(b *testing.B) {
	keys, val := benchKeys(1_000_000), make([]byte, 64)
	ks := benchKeyspace(b)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if i == len(keys) {
			b.StopTimer()
			ks.Flush(-1, false)
			i = 0
			b.StartTimer()
		}
		ks.DB(0).SetString(keys[i], val, NoExpiry)
		i++
	}
}

func BenchmarkSetStringOtherSize(b *testing.B) {
	db, keys, _ := filled(b, 100_000)
	val := make([]byte, 200)
	rng := rand.New(rand.NewPCG(2, 2))
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		db.SetString(keys[i], val[:rng.IntN(200)], NoExpiry)
		if i++; i == len(keys) {
			i = 0
		}
	}
}

func BenchmarkDeleteAndSet(b *testing.B) {
	db, keys, val := filled(b, 100_000)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		db.Delete(keys[i], false)
		db.SetString(keys[i], val, NoExpiry)
		if i++; i == len(keys) {
			i = 0
		}
	}
}

func BenchmarkSnapshotStep(b *testing.B) {
	db, _, _ := filled(b, 1_000_000)
	w := new(discardSnapshot)
	for b.Loop() {
		s := db.ks.BeginSnapshot(w)
		for !s.Step(1000) {
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1e6, "ns/key")
}

type discardSnapshot struct{ n int }

func (w *discardSnapshot) SelectDB(int, int, int) {}
func (w *discardSnapshot) Append(b []byte)        { w.n += len(b) }

// residentBytes returns the resident memory of the process.
func residentBytes(tb testing.TB) int64 {
	raw, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		tb.Skip(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(raw))[1], 10, 64)
	if err != nil {
		tb.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// BenchmarkMemoryPerKey reports resident bytes and UsedMemory per key of 16 bytes
// with a value of 64, after a fill and after half of the keys were overwritten
// with values of other lengths and back.
func BenchmarkMemoryPerKey(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			for b.Loop() {
				ks := benchKeyspace(b)
				db, val := ks.DB(0), make([]byte, 80)
				before := residentBytes(b)
				var key []byte
				for i := range n {
					key = fmt.Appendf(key[:0], "key:%012d", i)
					db.SetString(key, val[:64], NoExpiry)
				}
				b.ReportMetric(float64(residentBytes(b)-before)/float64(n), "RSS/key")
				b.ReportMetric(float64(ks.UsedMemory())/float64(n), "used/key")
				for i := range n / 2 {
					key = fmt.Appendf(key[:0], "key:%012d", 2*i)
					db.SetString(key, val[:80], NoExpiry)
					db.SetString(key, val[:64], NoExpiry)
				}
				b.ReportMetric(float64(residentBytes(b)-before)/float64(n), "RSS/key-overwritten")
			}
		})
	}
}

type discardCommands struct{}

func (discardCommands) Command(...[]byte) {}

// BenchmarkSlotSnapshot tells what a key costs, of all slots and of a tenth.
func BenchmarkSlotSnapshot(b *testing.B) {
	ks, err := New(Options{BySlot: true})
	if err != nil {
		b.Fatal(err)
	}
	defer ks.Close()
	const keys = 300_000
	for i := range keys {
		ks.DB(0).SetString(fmt.Appendf(nil, "key:%08d", i), make([]byte, 64), NoExpiry)
	}
	for _, n := range []int{slot.Count, slot.Count / 10} {
		b.Run(fmt.Sprint("slots=", n), func(b *testing.B) {
			slots := new(slot.Set)
			slots.AddRange(0, n-1)
			total := 0
			for b.Loop() {
				s := ks.BeginSlotSnapshot(slots, discardCommands{})
				for !s.Step(256) {
				}
				total, _ = s.Progress()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(total), "ns/key")
		})
	}
}
