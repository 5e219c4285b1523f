package keyspace

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"holdfast/internal/redis/rdb"
	"holdfast/test/proc"
)

// startGenuine runs the genuine server with the limits of newCollSpace, or
// skips the test where none is installed.
func startGenuine(t *testing.T) *redis.Client {
	t.Helper()
	p, err := proc.StartGenuine(t.TempDir(), "--rdbcompression", "no",
		"--hash-max-listpack-entries", "16", "--hash-max-listpack-value", "24", "--set-max-intset-entries", "16",
		"--zset-max-listpack-entries", "16", "--zset-max-listpack-value", "24")
	if errors.Is(err, proc.ErrNotInstalled) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	c := redis.NewClient(&redis.Options{Addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(p.Spec.Port)), Protocol: 2, DisableIdentity: true, ReadTimeout: 20 * time.Second})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// pair is a key in both programs.
type pair struct {
	t    *testing.T
	c    *redis.Client
	db   *DB
	rng  *rand.Rand
	last string // the last command
}

func (p *pair) do(args ...any) any {
	p.t.Helper()
	p.last = fmt.Sprintf("%q", args)
	v, err := p.c.Do(p.t.Context(), args...).Result()
	if err != nil && err != redis.Nil {
		p.t.Fatalf("%.80s: %v", p.last, err)
	}
	return v
}

// compare asks that encoding and DUMP payload are equal; of hash tables, whose
// order differs, the payload must load to the same value.
func (p *pair) compare() {
	p.t.Helper()
	r, ok := p.db.Find(testKey)
	last := p.last
	want, err := p.c.Dump(p.t.Context(), string(testKey)).Result()
	if ok == (err == redis.Nil) {
		p.t.Fatalf("after %.80s: the key exists: %v, in Redis: %v", last, ok, err)
	}
	if !ok {
		return
	}
	enc := p.do("object", "encoding", testKey)
	if r.Encoding() != enc {
		p.t.Fatalf("after %.80s: encoding %s, Redis has %s", last, r.Encoding(), enc)
	}
	got := plainDump(r)
	if string(got) == want {
		return
	}
	if enc != "hashtable" && enc != "skiplist" {
		p.t.Fatalf("after %.80s: payload\n%q, Redis has\n%q", last, got, want)
	}
	if len(got) != len(want) {
		p.t.Fatalf("after %.80s: payload of %d bytes, Redis has %d", last, len(got), len(want))
	}
	back := newCollSpace(p.t)
	loadPayload(p.t, back.DB(0), []byte(want))
	if a, b := valueOf(p.db, r), valueOf(back.DB(0), handle(p.t, back.DB(0))); a != b {
		p.t.Fatalf("after %.80s: value\n%s, Redis has\n%s", last, a, b)
	}
	finish(p.t, back, string(testKey))
}

// plainDump returns the DUMP payload without compression, where LZF has a choice.
func plainDump(r Ref) []byte {
	var enc rdb.Encoder
	t, f := r.Type(), r.db.form(r)
	if obj := r.db.large(r); obj != nil {
		return rdb.AppendDumpFooter(obj.appendValue(&enc, []byte{byte(obj.rdbType())}), 0)
	}
	return rdb.AppendDumpFooter(appendBlobRDB(&enc, []byte{byte(blobRDBType(t, f))}, t, f, r.db.blob(r)), 0)
}

// word returns integers at the borders of their encodings, and strings at the
// borders of lengths.
func (p *pair) word() []byte {
	n := p.rng.IntN(30)
	switch p.rng.IntN(12) {
	case 0:
		return strconv.AppendInt(nil, 1<<(2*n)-int64(n%3), 10)
	case 1:
		return strconv.AppendInt(nil, -1<<(2*n)+int64(n%3), 10)
	case 2:
		return bytes.Repeat([]byte{'z'}, 20+n%5)
	case 3:
		if n == 0 {
			return bytes.Repeat([]byte{'y'}, 25+p.rng.IntN(5000))
		}
	case 4:
		return fmt.Appendf(nil, "%03d", n)
	case 5, 6, 7:
		return strconv.AppendInt(nil, int64(n), 10)
	}
	return fmt.Appendf(nil, "w%d", n)
}

func rounds() int {
	if testing.Short() {
		return 10
	}
	return 60
}

// each runs f on a fresh key, many times.
func (p *pair) each(f func(step int)) {
	for range rounds() {
		p.do("del", testKey)
		p.db.Delete(testKey, false)
		for step := range 20 + p.rng.IntN(40) {
			f(step)
			if r, ok := p.db.Find(testKey); ok && p.length(r) == 0 {
				p.db.Delete(testKey, false)
			}
			p.compare()
		}
	}
}

func (p *pair) length(r Ref) int {
	switch r.Type() {
	case TypeHash:
		h := p.db.Hash(r)
		return h.Len()
	case TypeList:
		l := p.db.List(r)
		return l.Len()
	case TypeSet:
		s := p.db.Set(r)
		return s.Len()
	}
	z := p.db.ZSet(r)
	return z.Len()
}

func newPair(t *testing.T, c *redis.Client) *pair {
	ks := newCollSpace(t)
	t.Cleanup(func() { _ = ks.Close() })
	return &pair{t: t, c: c, db: ks.DB(0), rng: rand.New(rand.NewPCG(7, 7))}
}

func TestEncodingsAndPayloadsAreThoseOfRedis(t *testing.T) {
	c := startGenuine(t)
	t.Run("hash", func(t *testing.T) {
		p := newPair(t, c)
		p.each(func(int) {
			r, ok := p.db.Find(testKey)
			f, v := p.word(), p.word()
			if p.rng.IntN(4) == 0 && ok {
				p.do("hdel", testKey, f)
				h := p.db.Hash(r)
				h.Del(f)
				return
			}
			p.do("hset", testKey, f, v)
			h := p.db.Hash(r)
			if !ok {
				h = p.db.NewHash(testKey)
			}
			h.Set(f, v)
		})
	})
	t.Run("set", func(t *testing.T) {
		p := newPair(t, c)
		ints := true
		p.each(func(step int) {
			if step == 0 {
				ints = p.rng.IntN(2) == 0
			}
			m := p.word()
			if ints && p.rng.IntN(50) != 0 {
				m = strconv.AppendInt(nil, int64(p.rng.IntN(40))<<(p.rng.IntN(2)*p.rng.IntN(50)), 10)
			}
			r, ok := p.db.Find(testKey)
			if p.rng.IntN(3) == 0 && ok {
				p.do("srem", testKey, m)
				s := p.db.Set(r)
				s.Remove(m)
				return
			}
			p.do("sadd", testKey, m)
			s := p.db.Set(r)
			if !ok {
				s = p.db.NewSet(testKey)
			}
			s.Add(m)
		})
	})
	t.Run("zset", func(t *testing.T) { testZSetPair(t, newPair(t, c)) })
	for _, fill := range []int{-2, -1, 3, 1, 200} {
		t.Run(fmt.Sprintf("list/%d", fill), func(t *testing.T) {
			p := newPair(t, c)
			p.do("config", "set", "list-max-listpack-size", fill)
			p.db.ks.limits.ListMaxListpackSize = fill
			p.each(func(int) { listStep(p) })
		})
	}
}

func testZSetPair(t *testing.T, p *pair) {
	scores := []float64{0, math.Copysign(0, -1), 1, 0.1, 1.0 / 3, 1e21, -1e300, math.Inf(1), math.Inf(-1), 1 << 52, 1<<53 + 2,
		1 << 62, 1 << 63, -(1 << 62), 5e-324, math.MaxFloat64, 123456.75, 3.0000000000000004}
	p.each(func(int) {
		m := p.word()
		r, ok := p.db.Find(testKey)
		if p.rng.IntN(4) == 0 && ok {
			p.do("zrem", testKey, m)
			z := p.db.ZSet(r)
			z.Remove(m)
			return
		}
		s := float64(p.rng.IntN(8))
		switch p.rng.IntN(3) {
		case 0:
			s = scores[p.rng.IntN(len(scores))]
		case 1:
			s = p.rng.NormFloat64()
		}
		p.do("zadd", testKey, strconv.FormatFloat(s, 'g', -1, 64), m)
		z := p.db.ZSet(r)
		if !ok {
			z = p.db.NewZSet(testKey)
		}
		z.Set(m, s)
	})
}

// listStep does one change of a list for which the nodes are the same as Redis's.
func listStep(p *pair) {
	r, ok := p.db.Find(testKey)
	v := p.word()
	if p.rng.IntN(6) == 0 {
		v = bytes.Repeat([]byte{'l'}, p.rng.IntN(3000))
	}
	l := p.db.List(r)
	if !ok {
		l = p.db.NewList(testKey)
	}
	n := l.Len()
	switch op := p.rng.IntN(12); {
	case op < 4 || n == 0:
		p.do("lpush", testKey, v)
		l.PushHead(v)
	case op < 8:
		p.do("rpush", testKey, v)
		l.PushTail(v)
	case op == 8:
		p.do("lpop", testKey)
		l.PopHead()
	case op == 9:
		p.do("rpop", testKey)
		l.PopTail()
	case op == 10:
		count := p.rng.IntN(5) - 2
		p.do("lrem", testKey, count, v)
		l.RemoveMatching(v, count)
	default:
		from := p.rng.IntN(min(n, 3))
		to := n - 1 - p.rng.IntN(min(n, 3))
		p.do("ltrim", testKey, from, to)
		if from > to {
			l.RemoveRange(0, n)
			return
		}
		l.RemoveRange(to+1, n)
		l.RemoveRange(0, from)
	}
}

// Redis loads what large forms write, and finds the same in it.
func TestRedisLoadsPayloadsOfLargeForms(t *testing.T) {
	c := startGenuine(t)
	for _, typ := range collTypes {
		p := newPair(t, c)
		fillColl(p.db, typ, testKey, 3000)
		mutate(p.db, handle(t, p.db), p.rng, 500)
		r := handle(t, p.db)
		payload := rdb.AppendDumpFooter(r.AppendDumpValue(nil, false), 0)
		p.do("del", testKey)
		p.do("restore", testKey, 0, payload)
		if enc := p.do("object", "encoding", testKey); enc != r.Encoding() {
			t.Errorf("%v: encoding %v, ours is %s", typ, enc, r.Encoding())
		}
		got := fmt.Sprint(redisValue(p, typ))
		if want := valueOf(p.db, r); got != want {
			t.Errorf("%v: Redis has\n%.300s, we have\n%.300s", typ, got, want)
		}
	}
}

// redisValue returns the key's value in the form of valueOf.
func redisValue(p *pair, typ Type) []string {
	var out []string
	strs := func(args ...any) []string {
		var s []string
		for _, v := range p.do(args...).([]any) {
			s = append(s, v.(string))
		}
		return s
	}
	switch typ {
	case TypeList:
		for _, v := range strs("lrange", testKey, 0, -1) {
			out = append(out, fmt.Sprintf("%q", v))
		}
		return out
	case TypeSet:
		for _, v := range strs("smembers", testKey) {
			out = append(out, fmt.Sprintf("%q", v))
		}
	case TypeHash:
		all := strs("hgetall", testKey)
		for i := 0; i < len(all); i += 2 {
			out = append(out, fmt.Sprintf("%q=%q", all[i], all[i+1]))
		}
	case TypeZSet:
		all := strs("zrange", testKey, 0, -1, "withscores")
		for i := 0; i < len(all); i += 2 {
			f, _ := strconv.ParseFloat(all[i+1], 64)
			out = append(out, fmt.Sprintf("%q=%v", all[i], f))
		}
		return out
	}
	slices.Sort(out)
	return out
}
