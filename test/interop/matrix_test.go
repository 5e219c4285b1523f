package interop

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// builtCommands are the commands of the families that are built, with the words that keep a table of nonsense calls from
// ending the server or the connection: those are sent by the scripts instead.
var builtCommands = strings.Fields(`
	append bitcount bitfield bitfield_ro bitop bitpos blmove blmpop blpop brpop brpoplpush bzmpop bzpopmax bzpopmin
	client command config copy dbsize decr decrby del dump echo exists expire expireat expiretime flushall flushdb
	get getbit getdel getex getrange getset hdel hexists hget hgetall hincrby hincrbyfloat hkeys hlen hmget hmset hrandfield
	hscan hset hsetnx hstrlen hvals incr incrby incrbyfloat keys lcs lindex linsert llen lmove lmpop lpop lpos lpush
	lpushx lrange lrem lset ltrim memory mget move mset msetnx object persist pexpire pexpireat pexpiretime
	ping psetex pttl publish pubsub rename renamenx restore rpop rpoplpush rpush rpushx sadd scan scard sdiff sdiffstore
	select set setbit setex setnx setrange sinter sintercard sinterstore sismember slowlog smembers smismember smove sort
	sort_ro spop spublish srandmember srem sscan strlen substr sunion sunionstore swapdb touch ttl type unlink unwatch wait
	zadd zcard zcount zdiff zdiffstore zincrby zinter zintercard zinterstore zlexcount zmpop zmscore zpopmax zpopmin
	zrandmember zrange zrangebylex zrangebyscore zrangestore zrank zrem zremrangebylex zremrangebyrank zremrangebyscore
	zrevrange zrevrangebylex zrevrangebyscore zrevrank zscan zscore zunion zunionstore`)

// alsoForArity may be called wrongly, but not with a number of arguments that could be right.
var alsoForArity = strings.Fields(`auth bgrewriteaof bgsave debug discard exec failover hello info lastsave lolwut monitor multi
	psubscribe psync punsubscribe quit randomkey replconf replicaof reset role save shutdown slaveof ssubscribe
	subscribe sunsubscribe sync time unsubscribe watch`)

var builtSubcommands = map[string]string{
	"client":  "getname id info kill list no-evict pause reply setname unblock unpause help getredir trackinginfo",
	"command": "count docs getkeys getkeysandflags help info list",
	"config":  "get help resetstat rewrite set",
	"memory":  "doctor help malloc-stats purge stats usage",
	"object":  "encoding freq help idletime refcount",
	"pubsub":  "channels help numpat numsub shardchannels shardnumsub",
	"slowlog": "get help len reset",
}

// prepared are the keys that every call of a matrix finds, named after what they hold.
var prepared = [][]string{
	{"SELECT", "0"},
	{"DEL", "str", "num", "empty", "list", "set", "iset", "hash", "zset", "vol", "nokey", "list2", "dest", "new", "x", "a", "b", "1"},
	{"MSET", "str", "hello", "num", "10", "empty", ""},
	{"RPUSH", "list", "a", "b", "3"},
	{"SADD", "set", "a", "b", "c"},
	{"SADD", "iset", "1", "2", "3"},
	{"HSET", "hash", "a", "1", "f", "v", "1", "x"},
	{"ZADD", "zset", "1", "a", "2", "b", "3.5", "1"},
	{"SET", "vol", "5", "EX", "5000"},
}

var preparedKeys = strings.Fields("str num list set iset hash zset vol nokey")

// ruleFor says how the reply of a command is compared whose order, or value, is chance's or the clock's.
func ruleFor(args []string) rules {
	name := strings.ToLower(args[0])
	second := ""
	if len(args) > 1 {
		second = strings.ToLower(args[1])
	}
	switch name {
	case "smembers", "sinter", "sunion", "sdiff", "keys", "hkeys", "hvals", "exec":
		return rules{unordered: true}
	case "hgetall":
		return rules{pairs: true}
	case "hscan", "zscan":
		return rules{pairs: true}
	case "sscan", "scan": // hash tables: only a walk in one go is certain
		cursor := args[min(len(args)-1, 1)]
		if name == "sscan" {
			cursor = args[min(len(args)-1, 2)]
		}
		if cursor != "0" || slices.Contains(args, "COUNT") && !slices.Contains(args, "100") {
			return rules{kind: true}
		}
		return rules{unordered: true}
	case "sort", "sort_ro":
		if second == "set" || second == "iset" {
			return rules{unordered: true}
		}
	case "spop", "srandmember", "hrandfield", "zrandmember":
		return rules{shape: true}
	case "ttl", "expiretime":
		return rules{near: 20}
	case "pttl", "pexpiretime":
		return rules{near: 20000}
	case "dump":
		if second == "set" {
			return rules{shape: true} // the order of a hash table
		}
	case "object":
		if second == "idletime" || second == "freq" {
			return rules{near: 20}
		}
	case "slowlog":
		return rules{kind: true}
	case "memory", "client", "info", "time", "lastsave", "lolwut":
		return rules{shape: true}
	case "command":
		return rules{unordered: true}
	case "config":
		return rules{pairs: true}
	case "randomkey", "role":
		return rules{shape: true}
	}
	return rules{}
}

// listsAll tells which calls list all commands, those of families that are not built yet too (streams, scripting, geo,
// hyperloglog, cluster): the script later_all compares them.
func listsAll(args []string) bool {
	if !strings.EqualFold(args[0], "command") {
		return false
	}
	if len(args) == 1 {
		return true
	}
	switch strings.ToLower(args[1]) {
	case "count", "docs", "info", "list":
		return len(args) == 2
	}
	return false
}

// matrix sends generated calls, each on freshly prepared keys, and compares replies and the state after it.
type matrix struct {
	*run
	t      *testing.T
	before []byte // the commands of prepared, encoded
	queue  [][]string
}

// matrixBatch is how many calls go out in one pipeline.
const matrixBatch = 25

func newMatrix(t *testing.T, proto int) *matrix {
	m := &matrix{run: newRun(borrow(t, false, nil), proto), t: t}
	for _, s := range m.pair.sides { // short time-outs are looked at hz times a second
		if o := s.control.do("CONFIG", "SET", "hz", "500"); o.fate != "" || o.n.isError() {
			t.Fatal("CONFIG SET hz", o)
		}
		// What a spoilt call gives a millisecond to live is still in the digest behind it, however late that comes.
		if o := s.control.do("DEBUG", "SET-ACTIVE-EXPIRE", "0"); o.fate != "" || o.n.isError() {
			t.Fatal("DEBUG SET-ACTIVE-EXPIRE", o)
		}
	}
	for _, cmd := range prepared {
		m.before = append(m.before, encodeCommand(cmd)...)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			m.flush()
		}
		m.finish(t)
	})
	return m
}

// call queues one call. It reports false when the run must end.
func (m *matrix) call(args []string) bool {
	if listsAll(args) && os.Getenv("HOLDFAST_INTEROP_LATER") == "" {
		return true
	}
	m.queue = append(m.queue, longerLife(args))
	return len(m.queue) < matrixBatch || m.flush()
}

// flush sends what is queued and compares; what a closed connection swallowed is sent again on a new one.
func (m *matrix) flush() bool {
	for len(m.queue) > 0 {
		c, err := m.conn()
		if err != nil {
			m.t.Error(err)
			return false
		}
		request := encodeCommand([]string{"FLUSHALL"})
		for _, args := range m.queue {
			request = slices.Concat(request, m.before, encodeCommand(args), encodeCommand([]string{"DEBUG", "DIGEST"}))
		}
		for _, l := range c {
			_ = l.write(request) // a closed connection shows when receiving
		}
		if !m.skip(c, 1) || !m.compareQueue(c) {
			return false
		}
	}
	return true
}

// compareQueue takes the calls off the queue whose replies have come.
func (m *matrix) compareQueue(c *conn) bool {
	seen := len(m.diffs)
	for len(m.queue) > 0 {
		args := m.queue[0]
		m.queue = m.queue[1:]
		if !m.skip(c, len(prepared)) {
			return false
		}
		st := &step{rules: ruleFor(args), cmd: fmt.Sprintf("%q", args)}
		if err := m.compareNext(st, false); err != nil {
			m.t.Errorf("%q: %v", args, err)
			return false
		}
		if m.conns[m.current] == nil {
			return true
		}
		outs := [2]outcome{c[0].recv(), c[1].recv()}
		if len(m.diffs) > seen || strings.EqualFold(args[0], "spop") {
			continue // what a difference left behind is swept with the next batch
		}
		if !bytes.Equal(outs[0].raw, outs[1].raw) {
			m.report(&step{cmd: fmt.Sprintf("state after %q", args)}, outs)
		}
	}
	return true
}

// skip receives replies that only prepare.
func (m *matrix) skip(c *conn, n int) bool {
	for range n {
		for side, l := range c {
			if o := l.recv(); o.fate != "" || o.n.isError() {
				m.t.Errorf("%s: preparing for a call: %v", m.pair.sides[side].program.name, o)
				return false
			}
		}
	}
	return true
}

func eachProtocol(t *testing.T, f func(t *testing.T, proto int)) {
	needServers(t)
	for _, proto := range []int{2, 3} {
		t.Run(fmt.Sprintf("resp%d", proto), func(t *testing.T) {
			t.Parallel()
			f(t, proto)
		})
	}
}

// Every command and subcommand with 0 to 9 arguments that mean nothing.
func TestMatrixArity(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, proto int) {
		m := newMatrix(t, proto)
		for _, name := range builtCommands {
			for n := range 10 {
				if !m.call(append([]string{name}, slices.Repeat([]string{"x"}, n)...)) {
					return
				}
			}
			for _, sub := range strings.Fields(builtSubcommands[name]) {
				for n := range 6 {
					if !m.call(append([]string{name, sub}, slices.Repeat([]string{"x"}, n)...)) {
						return
					}
				}
			}
		}
		arityOf(t, m)
	})
}

// arityOf calls the commands whose right forms would disturb the test with every number of arguments that is wrong by the
// genuine server's own table.
func arityOf(t *testing.T, m *matrix) {
	for _, name := range alsoForArity {
		o := m.pair.sides[1].control.do("COMMAND", "INFO", name)
		if o.fate != "" || len(o.n.kids) != 1 || len(o.n.kids[0].kids) < 2 {
			t.Errorf("COMMAND INFO %s: %v", name, o)
			return
		}
		var arity int
		if _, err := fmt.Sscan(string(o.n.kids[0].kids[1].text), &arity); err != nil {
			t.Errorf("arity of %s: %v", name, err)
			return
		}
		for n := 1; n < 8; n++ { // words, the name included
			if n == arity || arity < 0 && n >= -arity {
				continue
			}
			if !m.call(append([]string{name}, slices.Repeat([]string{"x"}, n-1)...)) {
				return
			}
		}
	}
}

// Every command on keys of every type, with arguments of several shapes.
func TestMatrixTypes(t *testing.T) {
	t.Parallel()
	templates := []string{"", "1", "a", "0 -1", "a 1", "1 a", "a b 1", "1 2 a b", "list a b 0", "nokey set zset"}
	eachProtocol(t, func(t *testing.T, proto int) {
		m := newMatrix(t, proto)
		for _, name := range builtCommands {
			switch name {
			case "client", "command", "config", "memory", "pubsub", "slowlog", "flushall", "select", "wait":
				continue
			}
			for _, key := range preparedKeys {
				for _, tail := range templates {
					args := append([]string{name, key}, strings.Fields(tail)...)
					if !m.call(shortenTimeout(args)) {
						return
					}
				}
			}
			for _, key := range preparedKeys { // the key in second place, after a count
				if !m.call(shortenTimeout([]string{name, "1", key, "1"})) {
					return
				}
			}
		}
	})
}

// shortenTimeout keeps a nonsense call of a blocking command from blocking: a time-out at the end becomes 10 ms.
func shortenTimeout(args []string) []string {
	switch args[0] {
	case "blpop", "brpop", "bzpopmin", "bzpopmax", "brpoplpush", "blmove":
		switch args[len(args)-1] {
		case "0", "1":
			args[len(args)-1] = "0.01"
		}
	}
	return args
}

// longerLife keeps a nonsense call from giving a key a millisecond or two to live, where a server looks at the clock twice:
// one that is held up in between deletes the key at once.
func longerLife(args []string) []string {
	switch strings.ToLower(args[0]) {
	case "pexpire", "restore":
		if len(args) > 2 && (args[2] == "1" || args[2] == "2") {
			args = slices.Clone(args)
			args[2] += "00000"
		}
	}
	return args
}

// validCalls are right calls; TestMatrixArguments spoils one argument at a time.
var validCalls = strings.Split(strings.TrimSpace(`
APPEND str x
BITCOUNT str 0 -1 BYTE
BITFIELD str GET u8 0 SET i8 #1 5 OVERFLOW SAT INCRBY u4 4 20
BITFIELD_RO str GET u8 0
BITOP AND dest str num
BITPOS str 1 0 -1 BIT
BLMOVE list list2 LEFT RIGHT 0.01
BLMPOP 0.01 1 list LEFT COUNT 2
BLPOP list 0.01
BRPOPLPUSH list list2 0.01
BZMPOP 0.01 1 zset MIN COUNT 2
BZPOPMIN zset 0.01
COPY str str2 DB 1 REPLACE
DECRBY num 5
DEL str num
ECHO hello
EXISTS str nokey
EXPIRE str 100 NX
EXPIREAT str 33177117420 GT
PEXPIRE vol 100000 LT
PEXPIREAT vol 33177117420000 XX
EXPIRETIME vol
GETBIT str 3
GETDEL str
GETEX str EX 100
GETRANGE str 1 3
GETSET str v
HDEL hash a f
HEXISTS hash a
HGET hash a
HINCRBY hash a 5
HINCRBYFLOAT hash a 1.5
HMGET hash a f
HMSET hash n 1 m 2
HRANDFIELD hash 3 WITHVALUES
HSCAN hash 0 MATCH * COUNT 10
HSET hash n 1 m 2
HSETNX hash n 1
HSTRLEN hash f
INCRBY num 5
INCRBYFLOAT num 1.5
KEYS *st*
LCS str num IDX MINMATCHLEN 1 WITHMATCHLEN
LINDEX list 1
LINSERT list BEFORE b x
LMOVE list list2 LEFT RIGHT
LMPOP 2 nokey list LEFT COUNT 2
LPOP list 2
LPOS list b RANK 1 COUNT 0 MAXLEN 10
LPUSH list x y
LPUSHX list x
LRANGE list 0 -1
LREM list 1 b
LSET list 1 x
LTRIM list 0 1
MGET str num nokey
MOVE str 1
MSET a 1 b 2
MSETNX a 1 b 2
OBJECT ENCODING list
OBJECT REFCOUNT str
PERSIST vol
PSETEX str 100000 v
PUBLISH ch msg
RENAME str new
RENAMENX str num
RESTORE new 0 "\x00\xc0\x05\n\x00\x8e\xd3\xb1\x93\x0c\xf8\x91\x5e" REPLACE
RPOP list 1
RPOPLPUSH list list2
RPUSH list x
SADD set x y
SCAN 0 MATCH * COUNT 100 TYPE string
SDIFF set iset
SDIFFSTORE dest set iset
SELECT 1
SET str v EX 100 GET
SET str v PX 100000 XX
SET str v EXAT 33177117420 NX
SETBIT str 7 1
SETEX str 100 v
SETNX new v
SETRANGE str 1 xx
SINTER set iset
SINTERCARD 2 set iset LIMIT 1
SINTERSTORE dest set iset
SISMEMBER set a
SMISMEMBER set a x
SMOVE set iset a
SORT list BY nosort GET # LIMIT 0 2 ALPHA DESC STORE dest
SORT_RO zset LIMIT 0 10 ALPHA
SPOP set 3
SPUBLISH ch msg
SRANDMEMBER iset 3
SREM set a b
SSCAN set 0 MATCH * COUNT 10
STRLEN str
SUBSTR str 0 1
SUNION set iset
SUNIONSTORE dest set iset
SWAPDB 0 1
TOUCH str nokey
TTL vol
TYPE list
UNLINK str list
WAIT 0 1
ZADD zset XX GT CH INCR 1 a
ZADD zset NX 1 x 2 y
ZCOUNT zset (1 +inf
ZDIFF 2 zset set WITHSCORES
ZDIFFSTORE dest 2 zset set
ZINCRBY zset 1.5 a
ZINTER 2 zset set WEIGHTS 1 2 AGGREGATE MAX WITHSCORES
ZINTERCARD 2 zset set LIMIT 1
ZINTERSTORE dest 2 zset set WEIGHTS 1 2 AGGREGATE MIN
ZLEXCOUNT zset [a [b
ZMPOP 2 nokey zset MAX COUNT 2
ZMSCORE zset a x
ZPOPMAX zset 2
ZPOPMIN zset 2
ZRANDMEMBER zset 3 WITHSCORES
ZRANGE zset 0 -1 REV WITHSCORES
ZRANGE zset (1 5 BYSCORE LIMIT 0 2 WITHSCORES
ZRANGE zset [a [b BYLEX LIMIT 0 2
ZRANGEBYLEX zset [a (b LIMIT 0 1
ZRANGEBYSCORE zset (1 5 WITHSCORES LIMIT 0 1
ZRANGESTORE dest zset 1 5 BYSCORE LIMIT 0 2
ZRANK zset a
ZREM zset a x
ZREMRANGEBYLEX zset [a (b
ZREMRANGEBYRANK zset 0 1
ZREMRANGEBYSCORE zset 1 (2
ZREVRANGE zset 0 1 WITHSCORES
ZREVRANGEBYLEX zset (b - LIMIT 0 1
ZREVRANGEBYSCORE zset 5 (1 WITHSCORES LIMIT 0 1
ZREVRANK zset a
ZSCAN zset 0 MATCH * COUNT 10
ZSCORE zset a
ZUNION 2 zset set WEIGHTS 1 2 AGGREGATE SUM WITHSCORES
ZUNIONSTORE dest 2 zset set WEIGHTS 1 2 AGGREGATE MAX
CLIENT SETNAME me
CLIENT GETNAME
CLIENT NO-EVICT OFF
CLIENT UNBLOCK 999999 TIMEOUT
COMMAND GETKEYS SET a b
COMMAND INFO get
CONFIG GET maxmemory
PUBSUB NUMSUB a b
PUBSUB CHANNELS *
SLOWLOG GET 1
MEMORY USAGE str SAMPLES 5
`), "\n")

var spoilt = []string{
	"", "x", "-1", "0", "1", "2", "1.5", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "nan", "-inf", "(1",
	" 1", "\x00", "nokey", "list", "zset",
}

// Every valid call, and every valid call with one argument spoilt, left out or doubled.
func TestMatrixArguments(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, proto int) {
		m := newMatrix(t, proto)
		for _, line := range validCalls {
			call, err := splitArgs(line)
			if err != nil {
				t.Fatal(line, err)
			}
			if !m.call(call) {
				return
			}
			for at := 1; at < len(call); at++ {
				if !m.call(slices.Delete(slices.Clone(call), at, at+1)) ||
					!m.call(slices.Insert(slices.Clone(call), at, call[at])) {
					return
				}
				for _, bad := range spoilt {
					one := slices.Clone(call)
					one[at] = bad
					if blocksForever(one) {
						continue
					}
					if !m.call(one) {
						return
					}
				}
			}
		}
	})
}

// blocksForever tells which spoilt calls would wait for what never comes, or take chance's word or a minute of CPU time.
func blocksForever(args []string) bool {
	switch args[0] {
	case "WAIT":
		return args[1] != "0" && args[2] == "0"
	case "SPOP", "HRANDFIELD", "ZRANDMEMBER", "SRANDMEMBER":
		return args[2] == "-9223372036854775808"
	}
	return false
}
