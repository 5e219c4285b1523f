package command

import (
	"slices"
	"strings"
	"testing"

	"holdfast/internal/redis/keyspace"
	"holdfast/internal/redis/resp"
)

// What the random test against genuine Redis says of lists and sorted sets.
func init() {
	templates = append(templates, strings.Split(strings.TrimSpace(`
BLMOVE <k> <k> <side> <side> <to>
BLMPOP <to> <nk> <k> <k> <side> ?COUNT ?<n>
BLPOP <k> <k>... <to>
BRPOP <k> <to>
BRPOPLPUSH <k> <k> <to>
LINDEX <k> <n>
LINSERT <k> <ba> <m> <m>
LLEN <k>
LMOVE <k> <k> <side> <side>
LMPOP <nk> <k> <side>
LMPOP <nk> <k> <k> <side> ?COUNT ?<n>
LPOP <k> ?<n>
LPOS <k> <m> ?RANK ?<n> ?COUNT ?<n> ?MAXLEN ?<n>
LPOS <k> <m> COUNT <n> RANK <n>
LPUSH <k> <m>...
LPUSHX <k> <m>...
LRANGE <k> <n> <n>
LRANGE <k> 0 -1
LREM <k> <n> <m>
LSET <k> <n> <m>
LTRIM <k> <n> <n>
RPOP <k> ?<n>
RPOPLPUSH <k> <k>
RPUSH <k> <m>...
RPUSH <k> <m>... <v> <i> <m>...
RPUSHX <k> <m>...
BZMPOP <to> <nk> <k> <k> <mm> ?COUNT ?<n>
BZPOPMAX <k> <k> <to>
BZPOPMIN <k> <to>
ZADD <k> <sc> <m> <sc> <m> <sc> <m>
ZADD <k> 1 <m> 1 <m> 1 <m>
ZADD <k> ?NX ?XX ?CH <sc> <m>
ZADD <k> ?GT ?LT ?CH ?XX <sc> <m>
ZADD <k> ?GT ?NX ?XX INCR <sc> <m>
ZCARD <k>
ZCOUNT <k> <rs> <rs>
ZDIFF <nk> <k> <k> ?WITHSCORES
ZDIFFSTORE <k> <nk> <k> <k>
ZINCRBY <k> <sc> <m>
ZINTER <nk> <k> <k> ?WITHSCORES
ZINTER 2 <k> <k> WEIGHTS <sc> <sc> AGGREGATE <agg> WITHSCORES
ZINTERCARD <nk> <k> <k> ?LIMIT ?<n>
ZINTERSTORE <k> 2 <k> <k> ?AGGREGATE ?<agg>
ZINTERSTORE <k> 2 <k> <k> WEIGHTS <sc> <sc>
ZLEXCOUNT <lk> <rl> <rl>
ZADD <lk> 0 <m> 0 <m> 0 <m>
ZADD <lk> 0 <lm> 0 <lm>
ZMPOP <nk> <k> <mm>
ZMPOP <nk> <k> <k> <mm> ?COUNT ?<n>
ZMSCORE <k> <m>...
ZPOPMAX <k> ?<n>
ZPOPMIN <k> ?<n>
ZRANDMEMBER <k>
ZRANDMEMBER <k> <n> ?WITHSCORES
ZRANGE <k> <n> <n> ?REV ?WITHSCORES
ZRANGE <k> <rs> <rs> BYSCORE ?REV ?WITHSCORES ?LIMIT ?<n> ?<n>
ZRANGE <k> <rs> <rs> BYSCORE ?REV LIMIT <n> <n>
ZRANGE <lk> <rl> <rl> BYLEX ?REV ?WITHSCORES ?LIMIT ?<n> ?<n>
ZRANGE <k> 0 -1 WITHSCORES
ZRANGEBYLEX <lk> <rl> <rl> ?LIMIT ?<n> ?<n>
ZRANGEBYSCORE <k> <rs> <rs> ?WITHSCORES ?LIMIT ?<n> ?<n>
ZRANGESTORE <k> <k> <n> <n> ?REV
ZRANGESTORE <k> <k> <rs> <rs> BYSCORE ?REV ?LIMIT ?<n> ?<n>
ZRANGESTORE <k> <lk> <rl> <rl> BYLEX
ZRANK <k> <m>
ZREM <k> <m>...
ZREMRANGEBYLEX <lk> <rl> <rl>
ZREMRANGEBYRANK <k> <n> <n>
ZREMRANGEBYSCORE <k> <rs> <rs>
ZREVRANGE <k> <n> <n> ?WITHSCORES
ZREVRANGEBYLEX <lk> <rl> <rl> ?LIMIT ?<n> ?<n>
ZREVRANGEBYSCORE <k> <rs> <rs> ?WITHSCORES ?LIMIT ?<n> ?<n>
ZREVRANK <k> <m>
ZSCAN <k> 0 COUNT 10000 ?MATCH ?<p>
ZSCORE <k> <m>
ZUNION <nk> <k> <k> ?WITHSCORES
ZUNION 3 <k> <k> <k> WEIGHTS <sc> <sc> <sc> AGGREGATE <agg> WITHSCORES
ZUNIONSTORE <k> 2 <k> <k> ?AGGREGATE ?<agg>
ZUNIONSTORE <k> 2 <k> <k> WEIGHTS <sc> <sc>
`), "\n")...)
	for name, words := range map[string][]string{
		"<side>": {"LEFT", "RIGHT", "left", "right", "middle"},
		"<to>":   {"0", "0.5", "-1", "x", "inf", "1e30", "0x2", "nan"},
		"<ba>":   {"BEFORE", "AFTER", "after", "beside"},
		"<nk>":   {"1", "2", "1", "2", "0", "3", "x", "9223372036854775807"},
		"<mm>":   {"MIN", "MAX", "min", "MAX", "mid"},
		"<sc>":   {"0", "1", "2", "-1", "1.5", "3.25e10", "inf", "-inf", "1e17", "4e18", "0.1", "x", "nan", "-0.5"},
		"<agg>":  {"SUM", "MIN", "MAX", "avg"},
		"<rs>":   {"0", "1", "(1", "2", "-inf", "+inf", "(2", "1.5", "-1", "", "( 1", "x", "1e300"},
		"<lk>":   {"lex", "lex long"}, // all scores are 0 in there: else the order by bytes means nothing
		"<lm>":   {"d", "e", "f", "ab", "aa", strings.Repeat("long", 20)},
		"<rl>":   {"-", "+", "[a", "(a", "[c", "(field", "[1", "a", "", "[", "++"},
	} {
		vocabulary[name] = words
	}
}

// unblocked executes a command, one that may block in a transaction, where it
// does not.
func unblocked(args []string, do func(args ...string) resp.Value) resp.Value {
	switch args[0] {
	case "BLMOVE", "BLMPOP", "BLPOP", "BRPOP", "BRPOPLPUSH", "BZMPOP", "BZPOPMAX", "BZPOPMIN":
		do("MULTI")
		do(args...)
		return do("EXEC")
	}
	return do(args...)
}

// The same as TestRandomCommandsAnswerAsGenuineRedis, with collections that are
// large from a few elements on.
func TestRandomCommandsOnLargeCollectionsAnswerAsGenuineRedis(t *testing.T) {
	g := startGenuine(t)
	for name, value := range map[string]string{
		"zset-max-listpack-entries": "2", "hash-max-listpack-entries": "2", "set-max-intset-entries": "2", "list-max-listpack-size": "2",
	} {
		if v := g.conn.do("CONFIG", "SET", name, value); v.IsError() {
			t.Fatalf("%s: %s", name, v)
		}
	}
	testLimits = keyspace.DefaultLimits()
	testLimits.ZsetMaxListpackEntries, testLimits.HashMaxListpackEntries = 2, 2
	testLimits.SetMaxIntsetEntries, testLimits.ListMaxListpackSize = 2, 2
	defer func() { testLimits = nil }()
	payloads := g.payloads()
	for seed := range 2 {
		g.conn.do("FLUSHALL")
		randomAgainst(t, g, payloads, uint64(1000+seed), 1500)
	}
}

func TestHotListAndSortedSetCommandsDoNotAllocate(t *testing.T) {
	te := newTestEngine(t, 1)
	te.do("RPUSH", "l", "a", "b", "c")
	te.do("ZADD", "z", "1", "m", "2", "n", "3.5", "o")
	te.Stream = nil
	for _, cmd := range []string{"LPUSH l value", "LPOP l", "RPUSH l value", "RPOP l", "LLEN l", "LINDEX l 1", "LRANGE l 0 -1",
		"RPOPLPUSH l l", "LSET l 0 x", "ZADD z 5 m", "ZADD z 6 m 7 n", "ZINCRBY z 1 m", "ZSCORE z m", "ZRANK z m", "ZCARD z", "ZCOUNT z 1 3",
		"ZRANGE z 0 -1 WITHSCORES", "ZRANGEBYSCORE z 1 3", "ZREM z none"} {
		var args [][]byte
		for _, w := range strings.Fields(cmd) {
			args = append(args, []byte(w))
		}
		n := testing.AllocsPerRun(100, func() {
			te.cl.Buf = te.cl.Buf[:0]
			te.Dispatch(te.cl, args)
		})
		if n > 0 {
			t.Errorf("%s allocates %.0f times", cmd, n)
		}
	}
}

func TestScoresAndBoundsOfRangesAreReadAsStrtodDoes(t *testing.T) {
	te := newTestEngine(t, 1)
	for _, bad := range []string{"", "x", " 1", "1 ", "nan", "1e999", "-1e999", "1e-400", "0x", "1_0"} {
		te.want("-"+ErrNotFloat, "ZADD", "z", bad, "m")
	}
	te.want(":3", "ZADD", "z", "0x10", "a", "-inf", "b", "0e-400", "c")
	te.want("$2\n16", "ZSCORE", "z", "a")
	for bounds, want := range map[[2]string]string{
		{" 1", "1e999"}:      ":1",
		{"", "("}:            ":0",
		{"", ""}:             ":1",
		{"(0", "0x10"}:       ":1",
		{"-1e999", "1e-400"}: ":2",
		{" ", "1"}:           "-" + errScoreRange,
		{"nan", "1"}:         "-" + errScoreRange,
		{"((1", "2"}:         "-" + errScoreRange,
		{"1_0", "20"}:        "-" + errScoreRange,
	} {
		te.want(want, "ZCOUNT", "z", bounds[0], bounds[1])
	}
}

func TestValueThatReplacesAnotherWakesNobody(t *testing.T) {
	te := newTestEngine(t, 1)
	te.do("RPUSH", "src", "v")
	te.do("ZADD", "z", "1", "m")
	list, zset := te.block("BLPOP", "l", "0"), te.block("BZPOPMIN", "d", "0")
	te.do("SET", "l", "x")
	te.do("SET", "d", "x")
	te.want(":1", "SORT", "src", "ALPHA", "STORE", "l")
	te.want(":1", "ZUNIONSTORE", "d", "1", "z")
	list.got("")
	zset.got("")
	te.do("DEL", "l", "d")
	te.want(":1", "SORT", "src", "ALPHA", "STORE", "l")
	te.want(":1", "ZRANGESTORE", "d", "z", "0", "-1")
	list.got("*2\r\n$1\r\nl\r\n$1\r\nv\r\n")
	zset.got("*3\r\n$1\r\nd\r\n$1\r\nm\r\n$1\r\n1\r\n")
}

// FuzzListAndSortedSetCommands executes lines of words; every command must
// reply one well-formed value, or wait.
func FuzzListAndSortedSetCommands(f *testing.F) {
	f.Add("RPUSH l a b c\nLRANGE l 0 -1\nLPOS l a RANK -1 COUNT 0\nLMPOP 1 l LEFT COUNT 2")
	f.Add("ZADD z NX 1 a 2 b\nZRANGE z (1 +inf BYSCORE LIMIT 0 -1 WITHSCORES\nZRANGEBYLEX z - [b\nZMPOP 1 z MIN")
	f.Add("ZADD z 1 a\nZUNION 2 z z WEIGHTS 1 inf AGGREGATE MAX WITHSCORES\nZRANDMEMBER z -5 WITHSCORES")
	f.Add("BLPOP l 0x1p3\nBZMPOP 1e30 1 z MAX")
	f.Fuzz(func(t *testing.T, script string) {
		te := newTestEngine(t, 1)
		for _, line := range strings.Split(script, "\n") {
			args := strings.Split(line, " ")
			name := strings.ToLower(args[0])
			isRow := func(s Spec) bool { return s.Name == name }
			if !slices.ContainsFunc(listCommands, isRow) && !slices.ContainsFunc(zsetCommands, isRow) || len(args) > 64 {
				continue
			}
			if name == "zrandmember" && len(args) > 2 && len(args[2]) > 4 {
				continue // as many as are asked for
			}
			if te.cl.Blocked() != nil {
				te.Unblock(te.cl, false)
			}
			reply := te.do(args...)
			if te.cl.Blocked() == nil {
				te.value(reply)
			}
		}
	})
}
