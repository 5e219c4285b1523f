package keyspace

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func testKeyspace(t tester, dbs int) *Keyspace {
	t.Helper()
	ks, err := New(Options{Databases: dbs, Reserve: testReserve, BySlot: testBySlot})
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	ks.SetClock(1_700_000_000_000)
	return ks
}

// emptyBytes is what a keyspace without keys uses.
func emptyBytes(ks *Keyspace) int64 {
	if ks.BySlot() {
		return int64(partitionBytes)
	}
	return 0
}

func closeKeyspace(t tester, ks *Keyspace) {
	t.Helper()
	if err := ks.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

// stringModel is what a keyspace of strings should hold.
type stringModel struct {
	ks  *Keyspace
	dbs []map[string]modelString
}

type modelString struct {
	val    string
	raw    bool
	expire int64
}

func (m *stringModel) check(t tester) {
	t.Helper()
	for i, want := range m.dbs {
		db := m.ks.DB(i)
		db.check()
		volatile := 0
		for k, v := range want {
			r, ok := db.Find([]byte(k))
			if !ok {
				t.Fatalf("db %d: key %q is missing", i, k)
			}
			if string(r.Key()) != k || string(r.Bytes()) != v.val || r.ExpireAt() != v.expire {
				t.Fatalf("db %d: %.40q = %.40q (%d bytes), expires %d; want %.40q (%d bytes), %d",
					i, r.Key(), r.Bytes(), len(r.Bytes()), r.ExpireAt(), v.val, len(v.val), v.expire)
			}
			if r.Encoding() == "raw" != (v.raw || len(v.val) > 44) {
				t.Fatalf("db %d: %.40q has the encoding %s, changed in place %v", i, k, r.Encoding(), v.raw)
			}
			if v.expire >= 0 {
				volatile++
			}
		}
		if db.Len() != len(want) || db.Volatile() != volatile {
			t.Fatalf("db %d: %d keys, %d volatile; want %d, %d", i, db.Len(), db.Volatile(), len(want), volatile)
		}
	}
}

func drawLen(t *rapid.T) int {
	switch rapid.IntRange(0, 30).Draw(t, "size") {
	case 0:
		return rapid.IntRange(65_500, 65_600).Draw(t, "len")
	case 1:
		return rapid.IntRange(30_000, 200_000).Draw(t, "len")
	case 2, 3:
		return rapid.IntRange(900, 3000).Draw(t, "len")
	}
	return rapid.IntRange(0, 120).Draw(t, "len")
}

func drawVal(t *rapid.T) []byte {
	return bytes.Repeat([]byte{byte('a' + rapid.IntRange(0, 25).Draw(t, "byte"))}, drawLen(t))
}

func drawKey(t *rapid.T) []byte {
	n := rapid.IntRange(0, 60).Draw(t, "key")
	if n == 60 {
		return bytes.Repeat([]byte("k"), 70_000)
	}
	return fmt.Appendf(nil, "key%d", n)
}

func TestStringsBehaveLikeAMap(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ks := testKeyspace(rt, 3)
		defer closeKeyspace(rt, ks)
		m := &stringModel{ks: ks, dbs: []map[string]modelString{{}, {}, {}}}
		n := func() int { return rapid.IntRange(0, 2).Draw(rt, "db") }
		rt.Repeat(map[string]func(*rapid.T){
			"": func(rt *rapid.T) { m.check(rt) },
			"set": func(rt *rapid.T) {
				i, key, val := n(), drawKey(rt), drawVal(rt)
				expire := rapid.SampledFrom([]int64{NoExpiry, KeepTTL, 0, 5000, 1 << 45}).Draw(rt, "expire")
				ks.DB(i).SetString(key, val, expire)
				if expire == KeepTTL {
					expire = NoExpiry
					if old, ok := m.dbs[i][string(key)]; ok {
						expire = old.expire
					}
				}
				m.dbs[i][string(key)] = modelString{val: string(val), expire: expire}
			},
			"append": func(rt *rapid.T) {
				i, key, val := n(), drawKey(rt), drawVal(rt)
				old, ok := m.dbs[i][string(key)]
				if !ok {
					old.expire = NoExpiry
				}
				if got := ks.DB(i).AppendString(key, val); got != len(old.val)+len(val) {
					rt.Fatalf("AppendString = %d, want %d", got, len(old.val)+len(val))
				}
				m.dbs[i][string(key)] = modelString{old.val + string(val), ok, old.expire}
			},
			"append itself": func(rt *rapid.T) {
				i, key := n(), drawKey(rt)
				old, ok := m.dbs[i][string(key)]
				if !ok || len(old.val) > 1<<20 {
					return
				}
				r, _ := ks.DB(i).Find(key)
				ks.DB(i).AppendString(r.Key(), r.Bytes())
				m.dbs[i][string(key)] = modelString{old.val + old.val, true, old.expire}
			},
			"write into": func(rt *rapid.T) {
				i, key, size := n(), drawKey(rt), drawLen(rt)
				old, ok := m.dbs[i][string(key)]
				if !ok {
					old.expire = NoExpiry
				}
				b := ks.DB(i).MutString(key, size)
				want := old.val + strings.Repeat("\x00", max(0, size-len(old.val)))
				if string(b) != want {
					rt.Fatalf("MutString gives %.60q, want %.60q", b, want)
				}
				if len(b) > 0 {
					b[len(b)/2] = '!'
					want = want[:len(b)/2] + "!" + want[len(b)/2+1:]
				}
				m.dbs[i][string(key)] = modelString{want, true, old.expire}
			},
			"delete": func(rt *rapid.T) {
				i, key := n(), drawKey(rt)
				_, ok := m.dbs[i][string(key)]
				if ks.DB(i).Delete(key, rapid.Bool().Draw(rt, "lazy")) != ok {
					rt.Fatalf("Delete(%.40q), there: %v", key, ok)
				}
				delete(m.dbs[i], string(key))
			},
			"expire": func(rt *rapid.T) {
				i, key, at := n(), drawKey(rt), rapid.Int64Range(0, 1<<41).Draw(rt, "at")
				ks.DB(i).SetExpire(key, at)
				if old, ok := m.dbs[i][string(key)]; ok {
					old.expire = at
					m.dbs[i][string(key)] = old
				}
			},
			"persist": func(rt *rapid.T) {
				i, key := n(), drawKey(rt)
				old, ok := m.dbs[i][string(key)]
				if got := ks.DB(i).Persist(key); got != (ok && old.expire >= 0) {
					rt.Fatalf("Persist = %v", got)
				}
				if ok {
					old.expire = NoExpiry
					m.dbs[i][string(key)] = old
				}
			},
			"rename": func(rt *rapid.T) {
				i, from, to := n(), drawKey(rt), drawKey(rt)
				ks.DB(i).Rename(from, to)
				if old, ok := m.dbs[i][string(from)]; ok {
					delete(m.dbs[i], string(from))
					m.dbs[i][string(to)] = old
				}
			},
			"move": func(rt *rapid.T) {
				i, j, key := n(), n(), drawKey(rt)
				ks.DB(i).Move(key, ks.DB(j))
				if old, ok := m.dbs[i][string(key)]; ok {
					delete(m.dbs[i], string(key))
					m.dbs[j][string(key)] = old
				}
			},
			"copy": func(rt *rapid.T) {
				i, j, from, to := n(), n(), drawKey(rt), drawKey(rt)
				ks.DB(i).Copy(from, ks.DB(j), to)
				if old, ok := m.dbs[i][string(from)]; ok {
					m.dbs[j][string(to)] = old
				}
			},
			"swap": func(rt *rapid.T) {
				i, j := n(), n()
				if ks.BySlot() && i*j == 0 {
					return
				}
				ks.SwapDB(i, j)
				m.dbs[i], m.dbs[j] = m.dbs[j], m.dbs[i]
			},
			"flush": func(rt *rapid.T) {
				if rapid.IntRange(0, 9).Draw(rt, "really") > 0 {
					return
				}
				i := rapid.IntRange(-1, 2).Draw(rt, "which")
				ks.Flush(i, rapid.Bool().Draw(rt, "async"))
				for j := range m.dbs {
					if i < 0 || i == j {
						m.dbs[j] = map[string]modelString{}
					}
				}
			},
			"free": func(*rapid.T) { ks.FreeStep(10) },
			"expired": func(rt *rapid.T) {
				i := n()
				db := ks.DB(i)
				db.ExpiredStep(10_000, 5, func(key []byte) bool {
					v, ok := m.dbs[i][string(key)]
					if !ok || v.expire < 0 || v.expire >= 10_000 {
						rt.Fatalf("%q was told as expired at 10000, its time is %d", key, v.expire)
					}
					delete(m.dbs[i], string(key))
					return db.Delete(key, false)
				})
			},
		})
		// All memory comes back.
		for i := range m.dbs {
			for k := range m.dbs[i] {
				ks.DB(i).Delete([]byte(k), false)
			}
		}
		for ks.FreeStep(1000) > 0 {
		}
		if n := ks.UsedMemory() - emptyBytes(ks); n != 0 || ks.PendingFree() != 0 {
			rt.Fatalf("%d bytes in use, %d pending, after all was deleted", n, ks.PendingFree())
		}
	})
}

// OBJECT ENCODING of strings, Redis 7.0.
func TestStringEncodings(t *testing.T) {
	ks := testKeyspace(t, 1)
	defer closeKeyspace(t, ks)
	db := ks.DB(0)
	for _, c := range []struct{ val, want string }{
		{"", "embstr"}, {"0", "int"}, {"-1", "int"}, {"01", "embstr"}, {"-0", "embstr"}, {"1.5", "embstr"},
		{"9223372036854775807", "int"}, {"9223372036854775808", "embstr"}, {"-9223372036854775808", "int"},
		{" 1", "embstr"}, {strings.Repeat("x", 44), "embstr"}, {strings.Repeat("x", 45), "raw"},
	} {
		db.SetString([]byte("k"), []byte(c.val), NoExpiry)
		if r, _ := db.Find([]byte("k")); r.Encoding() != c.want {
			t.Errorf("%q has the encoding %s, want %s", c.val, r.Encoding(), c.want)
		}
	}
	db.AppendString([]byte("k"), []byte("1"))
	db.SetString([]byte("k"), []byte("1"), NoExpiry)
	db.AppendString([]byte("k"), []byte("1"))
	if r, _ := db.Find([]byte("k")); r.Encoding() != "raw" {
		t.Errorf("after APPEND: %s", r.Encoding())
	}
}

func TestOverwritingACollectionFreesIt(t *testing.T) {
	for _, typ := range collTypes {
		for _, n := range []int{3, 5000} {
			ks := testKeyspace(t, 1)
			db := ks.DB(0)
			fillColl(db, typ, []byte("c"), n)
			db.SetString([]byte("c"), []byte("v"), NoExpiry)
			if r, _ := db.Find([]byte("c")); r.Type() != TypeString || string(r.Bytes()) != "v" {
				t.Errorf("%v: type %v", typ, r.Type())
			}
			db.Delete([]byte("c"), false)
			if u := ks.UsedMemory() - emptyBytes(ks); u != 0 {
				t.Errorf("%v of %d: %d bytes stay", typ, n, u)
			}
			closeKeyspace(t, ks)
		}
	}
}

func TestLazyDeleteFreesInSteps(t *testing.T) {
	for _, typ := range collTypes {
		ks := testKeyspace(t, 1)
		fillColl(ks.DB(0), typ, []byte("c"), 5000)
		full := ks.UsedMemory()
		ks.DB(0).Delete([]byte("c"), true)
		if ks.PendingFree() != 1 || ks.UsedMemory() < full/2 {
			t.Errorf("%v: pending %d, used %d of %d", typ, ks.PendingFree(), ks.UsedMemory(), full)
		}
		steps := 0
		for ks.FreeStep(2) > 0 {
			steps++
		}
		counted := int64(1)
		if typ == TypeList {
			counted = 0 // fewer than 65 nodes
		}
		if ks.UsedMemory() != 0 || ks.LazyFreed() != counted || steps < 3 {
			t.Errorf("%v: %d bytes stay after %d steps, %d freed", typ, ks.UsedMemory(), steps, ks.LazyFreed())
		}
		closeKeyspace(t, ks)
	}
}

func TestAsyncFlushGivesMemoryBackInSteps(t *testing.T) {
	for _, which := range []int{-1, 0} {
		ks := testKeyspace(t, 2)
		for i := range 60_000 {
			ks.DB(0).SetString(fmt.Append(nil, i), make([]byte, 200), NoExpiry)
		}
		fillColl(ks.DB(0), TypeHash, []byte("h"), 5000)
		ks.Flush(which, true)
		if ks.DB(0).Len() != 0 || ks.UsedMemory() < 1<<20 || ks.PendingFree() < 60_000 {
			t.Errorf("flush %d: %d keys, %d bytes, %d pending", which, ks.DB(0).Len(), ks.UsedMemory(), ks.PendingFree())
		}
		ks.DB(0).SetString([]byte("new"), []byte("v"), NoExpiry)
		steps := 0
		for ks.FreeStep(1000) > 0 {
			steps++
		}
		if r, ok := ks.DB(0).Find([]byte("new")); !ok || string(r.Bytes()) != "v" {
			t.Errorf("flush %d: a key set afterwards is gone", which)
		}
		ks.DB(0).Delete([]byte("new"), false)
		if ks.UsedMemory() != emptyBytes(ks) || steps < 3 || ks.LazyFreed() < 60_000 {
			t.Errorf("flush %d: %d bytes after %d steps, %d freed", which, ks.UsedMemory(), steps, ks.LazyFreed())
		}
		closeKeyspace(t, ks)
	}
}

func TestExpiryWalkFindsAll(t *testing.T) {
	ks := testKeyspace(t, 1)
	defer closeKeyspace(t, ks)
	db := ks.DB(0)
	for i := range 20_000 {
		db.SetString(fmt.Append(nil, "p", i), []byte("v"), NoExpiry)
		db.SetString(fmt.Append(nil, "e", i), []byte("v"), int64(1000+i%2*1000))
	}
	found := 0
	for range 5000 {
		n, more := db.ExpiredStep(1500, 20, func(key []byte) bool { return db.Delete(key, false) })
		if n == 0 && more {
			t.Fatal("none had expired, told that another step pays")
		}
		found += n
	}
	if found != 10_000 || db.Len() != 30_000 || db.Volatile() != 10_000 {
		t.Errorf("%d found, %d keys, %d volatile", found, db.Len(), db.Volatile())
	}
	if ttl := db.AvgTTL(1500); ttl < 400 || ttl > 500 {
		t.Errorf("average TTL %d, want about 500", ttl)
	}
}

func TestAccessInformation(t *testing.T) {
	ks := testKeyspace(t, 1)
	defer closeKeyspace(t, ks)
	db, key := ks.DB(0), []byte("k")
	db.SetString(key, []byte("v"), NoExpiry)
	ks.SetClock(1_700_000_100_000)
	r, _ := db.Find(key)
	if r.IdleSeconds() != 100 {
		t.Errorf("idle %d, want 100", r.IdleSeconds())
	}
	db.Touch(r)
	if r.IdleSeconds() != 0 {
		t.Errorf("idle %d after an access", r.IdleSeconds())
	}
	r.SetIdle(50)
	if r.IdleSeconds() != 50 || string(r.Bytes()) != "v" || string(r.Key()) != "k" {
		t.Errorf("idle %d, want 50", r.IdleSeconds())
	}
	ks.Limits().LFU = true
	r.SetFreq(100)
	ks.SetClock(1_700_000_100_000 + 10*60_000)
	if r.Freq() != 90 {
		t.Errorf("frequency %d after 10 minutes, want 90", r.Freq())
	}
	for range 100_000 {
		db.Touch(r)
	}
	if f := r.Freq(); f < 110 || f > 200 {
		t.Errorf("frequency %d after 100000 accesses more", f)
	}
	db.SetString([]byte("new"), nil, NoExpiry)
	if n, _ := db.Find([]byte("new")); n.Freq() != 5 {
		t.Errorf("frequency %d of a new key, want 5", n.Freq())
	}
}

func TestSamplesAreDistinctAndOfTheKindWanted(t *testing.T) {
	ks := testKeyspace(t, 1)
	defer closeKeyspace(t, ks)
	db := ks.DB(0)
	for i := range 5000 {
		expire := int64(NoExpiry)
		if i%10 == 0 {
			expire = 5
		}
		db.SetString(fmt.Append(nil, i), nil, expire)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for range 1000 {
		for _, volatile := range []bool{true, false} {
			seen := map[string]bool{}
			db.SampleEvict(volatile, 16, rng, func(r Ref) {
				seen[string(r.Key())] = true
				if volatile && r.ExpireAt() < 0 {
					t.Fatalf("%q does not expire", r.Key())
				}
			})
			if len(seen) != 16 {
				t.Fatalf("%d distinct keys of 16", len(seen))
			}
		}
	}
}
