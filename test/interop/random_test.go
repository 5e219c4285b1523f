package interop

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// generator makes random commands over a small key space. The same seed makes the same commands.
type generator struct{ *rand.Rand }

func (g generator) pick(words string) string {
	w := strings.Split(words, " ")
	return w[g.IntN(len(w))]
}

// key returns a key that mostly holds the type named by its first letter, and now and then any other.
func (g generator) key(letter string) string {
	if g.IntN(12) == 0 {
		letter = g.pick("s l u i h z n b")
	}
	return letter + strconv.Itoa(g.IntN(5))
}

func (g generator) member() string {
	switch g.IntN(8) {
	case 0:
		return strconv.Itoa(g.IntN(20))
	case 1:
		return strings.Repeat(g.pick("x y z"), 60+g.IntN(20)) // around the 64 bytes of small encodings
	case 2:
		return g.pick(`"" -5 007 3.5 1000000 9223372036854775807`)
	}
	return "m" + strconv.Itoa(g.IntN(30))
}

func (g generator) number() string {
	return g.pick("0 1 -1 2 3 5 10 100 -100 7 12345 -3")
}

// score avoids infinities: their sums depend on the order of evaluation.
func (g generator) score() string {
	return g.pick("0 1 -1 2 3.5 0.25 -2.75 10 1e3 100000 7 8 9 1.5 0.1")
}

func (g generator) scoreBound() string {
	return g.pick("-inf +inf 0 1 (1 2 (2 3.5 (3.5 10 (10 -1 100 x")
}

func (g generator) lexBound() string { return g.pick("- + [m1 (m1 [m2 (m20 [m9 [a (z [x") }

func (g generator) index() string { return g.pick("0 1 -1 2 -2 3 5 10 -10 100 -100") }

func (g generator) float() string { return g.pick("0.1 1.5 -0.25 3 1e2 2.675 -7.5 0.3 100.001") }

func (g generator) value() string {
	switch g.IntN(6) {
	case 0:
		return g.number()
	case 1:
		return strings.Repeat(g.pick("a b \x00"), g.IntN(100))
	}
	return "value" + strconv.Itoa(g.IntN(1000))
}

// optional returns the words in one case of n, else nothing.
func (g generator) optional(n int, words ...string) []string {
	if g.IntN(n) != 0 {
		return nil
	}
	return words
}

func (g generator) times(most int, f func() string) []string {
	var out []string
	for range 1 + g.IntN(most) {
		out = append(out, f())
	}
	return out
}

// families are weighted equally; each case of a family too.
var families = []func(generator) []string{
	generator.strings, generator.strings, generator.lists, generator.lists, generator.sets, generator.hashes, generator.hashes,
	generator.zsets, generator.zsets, generator.zsetAlgebra, generator.keys, generator.expiries, generator.bits,
}

func cmd(parts ...any) []string {
	var out []string
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			out = append(out, p)
		case []string:
			out = append(out, p...)
		}
	}
	return out
}

func (g generator) strings() []string {
	k := g.key("s")
	switch g.IntN(20) {
	case 0, 1, 2:
		return cmd("SET", k, g.value(), g.optional(6, "NX"), g.optional(6, "GET"), g.optional(8, "EX", "5000"), g.optional(9, "KEEPTTL"))
	case 3:
		return cmd("APPEND", k, g.value())
	case 4:
		return cmd("GETRANGE", k, g.index(), g.index())
	case 5:
		return cmd("SETRANGE", k, strconv.Itoa(g.IntN(120)), g.value())
	case 6:
		return cmd("STRLEN", k)
	case 7:
		return cmd("MSET", k, g.value(), g.key("s"), g.value())
	case 8:
		return cmd("MSETNX", k, g.value(), g.key("s"), g.value())
	case 9:
		return cmd("MGET", k, g.key("s"), g.key("n"))
	case 10:
		return cmd("GETSET", k, g.value())
	case 11:
		return cmd(g.pick("GETDEL GET GET GETEX"), k)
	case 12:
		return cmd("SETNX", k, g.value())
	case 13, 14:
		return cmd(g.pick("INCR DECR"), g.key("n"))
	case 15:
		return cmd(g.pick("INCRBY DECRBY"), g.key("n"), g.number())
	case 16, 17:
		return cmd("INCRBYFLOAT", g.key("n"), g.float())
	case 18:
		return cmd("LCS", k, g.key("s"), g.optional(2, g.pick("LEN IDX")))
	}
	return cmd("GETEX", k, g.pick("PERSIST EX PX"), g.optional(2, "900000"))
}

func (g generator) lists() []string {
	k, end := g.key("l"), g.pick("LEFT RIGHT")
	switch g.IntN(18) {
	case 0, 1, 2, 3:
		return cmd(g.pick("LPUSH RPUSH"), k, g.times(6, g.member))
	case 4:
		return cmd(g.pick("LPUSHX RPUSHX"), k, g.times(3, g.member))
	case 5:
		return cmd(g.pick("LPOP RPOP"), k, g.optional(3, strconv.Itoa(g.IntN(6))))
	case 6:
		return cmd("LRANGE", k, g.index(), g.index())
	case 7:
		return cmd("LINDEX", k, g.index())
	case 8:
		return cmd("LSET", k, g.index(), g.member())
	case 9:
		return cmd("LINSERT", k, g.pick("BEFORE AFTER"), g.member(), g.member())
	case 10:
		return cmd("LREM", k, g.number(), g.member())
	case 11:
		return cmd("LTRIM", k, g.pick("0 1 2 -50"), g.pick("-1 -2 50 100 3"))
	case 12:
		return cmd("LPOS", k, g.member(), g.optional(3, "RANK", g.pick("1 -1 2 0")), g.optional(3, "COUNT", g.pick("0 1 2")))
	case 13:
		return cmd("LMOVE", k, g.key("l"), end, g.pick("LEFT RIGHT"))
	case 14:
		return cmd("RPOPLPUSH", k, g.key("l"))
	case 15:
		return cmd("LMPOP", "2", k, g.key("l"), end, g.optional(2, "COUNT", g.pick("1 2 5")))
	case 16:
		return cmd("SORT", k, "ALPHA", g.optional(3, "DESC"), g.optional(4, "STORE", g.key("l")))
	}
	return cmd("LLEN", k)
}

func (g generator) sets() []string {
	letter := g.pick("u i")
	k, member := g.key(letter), g.member
	if letter == "i" {
		member = func() string { return strconv.Itoa(g.IntN(600) - 20) }
	}
	k2 := g.key(g.pick("u i"))
	switch g.IntN(12) {
	case 0, 1, 2, 3:
		return cmd("SADD", k, g.times(8, member))
	case 4, 5:
		return cmd("SREM", k, g.times(3, member))
	case 6:
		return cmd(g.pick("SCARD SMEMBERS"), k)
	case 7:
		return cmd("SMISMEMBER", k, g.times(3, member))
	case 8:
		return cmd("SMOVE", k, k2, member())
	case 9:
		return cmd(g.pick("SINTER SUNION SDIFF"), k, k2)
	case 10:
		return cmd(g.pick("SINTERSTORE SUNIONSTORE SDIFFSTORE"), g.key(g.pick("u i")), k, k2)
	}
	return cmd("SINTERCARD", "2", k, k2, g.optional(2, "LIMIT", g.pick("0 1 3")))
}

func (g generator) hashes() []string {
	k := g.key("h")
	switch g.IntN(14) {
	case 0, 1, 2:
		return cmd("HSET", k, g.member(), g.value(), g.optional(2, g.member(), g.value()))
	case 3:
		return cmd("HMSET", k, g.member(), g.value())
	case 4:
		return cmd("HSETNX", k, g.member(), g.value())
	case 5:
		return cmd("HDEL", k, g.times(3, g.member))
	case 6:
		return cmd(g.pick("HGET HEXISTS HSTRLEN"), k, g.member())
	case 7:
		return cmd("HMGET", k, g.times(4, g.member))
	case 8:
		return cmd(g.pick("HGETALL HKEYS HVALS HLEN"), k)
	case 9, 10:
		return cmd("HINCRBY", k, "n"+strconv.Itoa(g.IntN(3)), g.number())
	case 11:
		return cmd("HINCRBYFLOAT", k, "f"+strconv.Itoa(g.IntN(3)), g.float())
	case 12:
		return cmd("HSCAN", k, "0", "COUNT", "10000", g.optional(2, "MATCH", g.pick("m1* *5 x*")))
	}
	return cmd("HLEN", k)
}

func (g generator) zsets() []string {
	k := g.key("z")
	switch g.IntN(22) {
	case 0, 1, 2, 3:
		return cmd("ZADD", k, g.optional(5, g.pick("NX XX")), g.optional(6, g.pick("GT LT")), g.optional(5, "CH"), g.score(), g.member(),
			g.optional(2, g.score(), g.member()))
	case 4:
		return cmd("ZADD", k, "INCR", g.score(), g.member())
	case 5, 6:
		return cmd("ZINCRBY", k, g.score(), g.member())
	case 7:
		return cmd("ZREM", k, g.times(3, g.member))
	case 8:
		return cmd(g.pick("ZSCORE ZRANK ZREVRANK"), k, g.member())
	case 9:
		return cmd("ZMSCORE", k, g.times(3, g.member))
	case 10:
		return cmd("ZRANGE", k, g.index(), g.index(), g.optional(3, "REV"), g.optional(2, "WITHSCORES"))
	case 11:
		return cmd("ZRANGE", k, g.scoreBound(), g.scoreBound(), "BYSCORE", g.optional(3, "REV"), g.optional(3, "LIMIT", "1", "3"))
	case 12:
		return g.lex("x" + strconv.Itoa(g.IntN(3)))
	case 13:
		return cmd(g.pick("ZRANGEBYSCORE ZREVRANGEBYSCORE"), k, g.scoreBound(), g.scoreBound(), g.optional(2, "WITHSCORES"))
	case 14:
		return cmd("ZCOUNT", k, g.scoreBound(), g.scoreBound())
	case 15:
		return cmd(g.pick("ZPOPMIN ZPOPMAX"), k, g.optional(2, g.pick("0 1 2 3")))
	case 16:
		return cmd("ZMPOP", "2", k, g.key("z"), g.pick("MIN MAX"), g.optional(2, "COUNT", "2"))
	case 17:
		return cmd("ZREMRANGEBYRANK", k, g.pick("0 5 -2"), g.pick("1 6 -1"))
	case 18:
		return cmd("ZREMRANGEBYSCORE", k, g.pick("(2 8 100"), g.pick("3 (9 inf"))
	case 19:
		return cmd("ZRANGESTORE", g.key("z"), k, g.index(), g.index(), g.optional(3, "REV"))
	case 20:
		return cmd("ZSCAN", k, "0", "COUNT", "10000")
	}
	return cmd("ZCARD", k)
}

// lex works on keys of its own: ranges by name are defined only where all scores are equal.
func (g generator) lex(k string) []string {
	switch g.IntN(6) {
	case 0, 1:
		return cmd("ZADD", k, "0", g.member(), "0", g.member())
	case 2:
		return cmd("ZREMRANGEBYLEX", k, "["+g.member(), "["+g.member())
	case 3:
		return cmd("ZRANGE", k, g.lexBound(), g.lexBound(), "BYLEX", g.optional(2, "LIMIT", "1", "4"))
	}
	return cmd(g.pick("ZRANGEBYLEX ZREVRANGEBYLEX ZLEXCOUNT"), k, g.lexBound(), g.lexBound())
}

func (g generator) zsetAlgebra() []string {
	a, b := g.key("z"), g.key(g.pick("z z u i"))
	tail := cmd("2", a, b)
	name := g.pick("ZUNION ZINTER ZDIFF ZINTERCARD ZUNIONSTORE ZINTERSTORE ZDIFFSTORE")
	weighted := strings.HasPrefix(name, "ZUNION") || strings.HasPrefix(name, "ZINTER") && name != "ZINTERCARD"
	if weighted {
		tail = cmd(tail, g.optional(3, "WEIGHTS", g.pick("1 2 0.5 -1"), g.pick("1 2 0.5 -1")),
			g.optional(3, "AGGREGATE", g.pick("SUM MIN MAX")))
	}
	if strings.HasSuffix(name, "STORE") {
		return cmd(name, g.key("z"), tail)
	}
	if name == "ZINTERCARD" {
		return cmd(name, tail)
	}
	return cmd(name, tail, g.optional(2, "WITHSCORES"))
}

func (g generator) anyKey() string { return g.key(g.pick("s l u i h z n b")) }

func (g generator) keys() []string {
	k := g.anyKey()
	switch g.IntN(12) {
	case 0:
		return cmd(g.pick("DEL UNLINK"), g.times(2, g.anyKey))
	case 1:
		return cmd(g.pick("EXISTS TOUCH"), g.times(3, g.anyKey))
	case 2:
		return cmd(g.pick("RENAME RENAMENX"), k, g.anyKey())
	case 3, 4:
		return cmd("COPY", k, g.anyKey(), g.optional(2, "REPLACE"))
	case 5, 6:
		return cmd("TYPE", k)
	case 7, 8:
		return cmd("OBJECT", "ENCODING", k)
	case 9:
		return cmd("KEYS", g.pick("* s* [lz]* ?1 nothing*"))
	case 10:
		return cmd("DBSIZE")
	}
	return cmd("SCAN", "0", "COUNT", "100000")
}

func (g generator) expiries() []string {
	k := g.anyKey()
	switch g.IntN(6) {
	case 0:
		return cmd("EXPIRE", k, g.pick("5000 6000 7000"), g.optional(2, g.pick("NX XX")))
	case 1:
		return cmd("PEXPIREAT", k, g.pick("33177117420000 33177117421000 33177117422000"), g.optional(2, g.pick("NX XX GT LT")))
	case 2:
		return cmd("PERSIST", k)
	case 3:
		return cmd("EXPIRE", k, g.pick("-1 5000 5000 5000 5000"))
	case 4:
		return cmd(g.pick("TTL PTTL EXPIRETIME PEXPIRETIME"), k)
	}
	return cmd("GETEX", g.key("s"), "PXAT", "33177117423000")
}

func (g generator) bits() []string {
	k := g.key("b")
	offset := func() string { return strconv.Itoa(g.IntN(400)) }
	switch g.IntN(7) {
	case 0, 1:
		return cmd("SETBIT", k, offset(), g.pick("0 1 1"))
	case 2:
		return cmd("GETBIT", k, offset())
	case 3:
		return cmd("BITCOUNT", k, g.optional(2, g.index(), g.index(), g.pick("BYTE BIT")))
	case 4:
		return cmd("BITPOS", k, g.pick("0 1"), g.optional(2, g.index(), g.index(), g.pick("BYTE BIT")))
	case 5:
		if op := g.pick("AND OR XOR NOT"); op != "NOT" {
			return cmd("BITOP", op, g.key("b"), k, g.key("b"))
		}
		return cmd("BITOP", "NOT", g.key("b"), k)
	}
	return cmd("BITFIELD", k, "OVERFLOW", g.pick("WRAP SAT FAIL"), g.pick("INCRBY SET"), g.pick("u4 i5 u8 i16 u33 i64"), offset(), g.number(),
		"GET", "u8", offset())
}

// command returns one command line, or a whole transaction.
func (g generator) next() [][]string {
	one := func() []string { return families[g.IntN(len(families))](g) }
	if g.IntN(40) != 0 {
		return [][]string{one()}
	}
	tx := [][]string{{"MULTI"}}
	for range 1 + g.IntN(4) {
		c := one()
		if strings.Contains(c[0], "TTL") || strings.Contains(c[0], "EXPIRETIME") {
			continue // compared within a tolerance, which EXEC's rule does not have
		}
		tx = append(tx, c)
	}
	return append(tx, []string{g.pick("EXEC EXEC EXEC DISCARD")})
}

const (
	digestEvery      = 500
	maxRandomDiffs   = 5
	randomHistory    = 12
	smallThresholds  = "hash-max-listpack-entries 8 zset-max-listpack-entries 8 set-max-intset-entries 8 list-max-listpack-size 5"
	normalThresholds = "hash-max-listpack-entries 512 zset-max-listpack-entries 128 set-max-intset-entries 512 list-max-listpack-size -2"
)

// Random commands over all types: equal replies, and every 500 commands equal DEBUG DIGEST. Half of them run with thresholds
// so low that encodings change all the time.
func TestRandom(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, proto int) {
		seed := *flagSeed + uint64(proto)
		r := newRun(borrow(t, false, nil), proto)
		defer r.finish(t)
		g := generator{rand.New(rand.NewPCG(seed, seed))}
		var history [][]string
		count := *flagCount / 2
		for i := 0; i < count; {
			if i == 0 || i >= count/2 && i < count/2+10 {
				thresholds := normalThresholds
				if i > 0 {
					thresholds = smallThresholds
				}
				if err := r.config(&step{cmd: thresholds}, thresholds); err != nil {
					t.Fatal(err)
				}
			}
			for _, args := range g.next() {
				history = append(history, args)
				if err := r.words(args); err != nil {
					t.Fatalf("seed %d, command %d %q: %v", seed, i, args, err)
				}
				if i++; i%digestEvery == 0 {
					r.compareDigest(history)
				}
				if len(r.diffs) > maxRandomDiffs {
					t.Errorf("seed %d: given up after %d commands", seed, i)
					return
				}
			}
		}
		r.compareDigest(history)
	})
}

// words sends an already split command and compares the reply under ruleFor.
func (r *run) words(args []string) error {
	c, err := r.conn()
	if err != nil {
		return err
	}
	for _, l := range c {
		_ = l.send(args) // a closed connection shows when receiving
	}
	return r.compareNext(&step{rules: ruleFor(args), cmd: fmt.Sprintf("%q", args)}, false)
}

// compareDigest compares the whole state; when it differs, key by key, with the last commands that named a differing key.
func (r *run) compareDigest(history [][]string) {
	var outs [2]outcome
	ask := func(args ...string) bool {
		for side, s := range r.pair.sides {
			outs[side] = s.control.do(args...)
		}
		return string(outs[0].raw) == string(outs[1].raw)
	}
	r.comparisons++
	if ask("DEBUG", "DIGEST") {
		return
	}
	for _, letter := range strings.Fields("s l u i h z n b x") {
		for n := range 5 {
			key := letter + strconv.Itoa(n)
			if ask("DEBUG", "DIGEST-VALUE", key) && ask("OBJECT", "ENCODING", key) {
				continue
			}
			var last []string
			for _, args := range slices.Backward(history) {
				if slices.Contains(args, key) && len(last) < randomHistory {
					last = append(last, fmt.Sprintf("\n\t\t%q", args))
				}
			}
			slices.Reverse(last)
			r.report(&step{cmd: "state of " + key + ", last commands that named it:" + strings.Join(last, "")}, outs)
		}
	}
	ask("DEBUG", "DIGEST")
	r.report(&step{cmd: "DEBUG DIGEST"}, outs)
}
