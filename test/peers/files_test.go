package peers

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// encodings are keys of every type and encoding, beside the random load.
func encodings(n *node) {
	long := strings.Repeat("0123456789", 5_000)
	n.do("SELECT", "1")
	for i, v := range []string{"0", "-1", "127", "-128", "32767", "2147483648", "-9223372036854775808", "9223372036854775807",
		"9223372036854775808", "007", "3.0", "", "short", strings.Repeat("e", 44), strings.Repeat("r", 45), long, "\x00\xff\r\n"} {
		n.do("SET", "string:"+strconv.Itoa(i), v)
	}
	n.do("SET", "expires", "v", "PX", "5000000")
	n.do("SADD", "intset16", "1", "-2", "300")
	n.do("SADD", "intset32", "1", "-2", "70000")
	n.do("SADD", "intset64", "1", "-2", "5000000000")
	n.do("SADD", "set", "1", "two", long)
	n.do("HSET", "hash:small", "f", "1", "g", "-5", "", "")
	n.do("HSET", "hash:value", "f", long)
	n.do("RPUSH", "list:small", "1", "two", "-3", "")
	n.do("RPUSH", "list:long", long, "between", long, "12", long)
	n.do("ZADD", "zset:small", "1", "a", "-inf", "b", "inf", "c", "0.1", "d", "3.0000000000000004", "e", "17179869184", "f")
	n.do("ZADD", "zset:member", "1", "a", "2.5", strings.Repeat("m", 65))
	for i := range 700 {
		s := strconv.Itoa(i)
		n.c.Send("SADD", "set:large", "m"+s)
		n.c.Send("SADD", "intset:large", s)
		n.c.Send("HSET", "hash:large", s, "v"+s)
		n.c.Send("RPUSH", "list:large", strings.Repeat(s, 20))
		n.c.Send("ZADD", "zset:large", s+".25", "m"+s)
		n.c.Send("ZADD", "zset:negative-zero", "-0.0", "m"+s)
	}
	must(n, 6*700)
	n.do("ZUNIONSTORE", "zset:weighted", "1", "zset:large", "WEIGHTS", "-0")
	n.do("SELECT", "0")
}

// must flushes and reads n replies, none of which may be an error.
func must(n *node, replies int) {
	n.t.Helper()
	if err := n.c.Flush(); err != nil {
		n.t.Fatal(err)
	}
	for range replies {
		v, err := n.c.Recv()
		if err == nil {
			err = v.Err()
		}
		if err != nil {
			n.t.Fatal(err)
		}
	}
}

// fill gives a server data of all types and encodings that does not expire soon.
func fill(t *testing.T, n *node, stream uint64, commands int) {
	t.Helper()
	l := newLoad(t, n, stream)
	l.durable = true
	l.write(t, commands)
	encodings(n)
}

func digest(n *node) string { return n.do("DEBUG", "DIGEST").Text() }

// sizes is how many keys each database has, for messages.
func sizes(n *node) string { return n.do("INFO", "keyspace").Text() }

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// Genuine Redis loads our dump.rdb: redis-check-rdb passes, the data is equal.
func TestGenuineLoadsOurDump(t *testing.T) {
	needGenuine(t, "redis-server", "redis-check-rdb")
	for i, args := range [][]string{
		nil,
		{"--rdbcompression", "no", "--rdbchecksum", "no"},
		{"--list-max-listpack-size", "4", "--list-compress-depth", "1", "--hash-max-listpack-entries", "4", "--zset-max-listpack-entries", "4", "--set-max-intset-entries", "4"},
		{"--maxmemory", "500mb", "--maxmemory-policy", "allkeys-lfu"},
		{"--maxmemory", "500mb", "--maxmemory-policy", "allkeys-lru", "--appendonly", "no"},
	} {
		t.Run("with "+strings.Join(args, " "), func(t *testing.T) {
			t.Parallel()
			n := server(t, ours, args...)
			fill(t, n, uint64(300+i), commands(4_000))
			want := digest(n)
			if i%2 == 0 {
				n.do("SAVE")
			} else {
				n.do("BGSAVE")
				eventually(t, "the dump is saved", func() string {
					if in := n.info(); in["rdb_bgsave_in_progress"] != "0" || in["rdb_last_bgsave_status"] != "ok" {
						return in["rdb_last_bgsave_status"]
					}
					return ""
				})
			}
			dump := filepath.Join(n.spec.Dir, "dump.rdb")
			if out, err := exec.Command("redis-check-rdb", dump).CombinedOutput(); err != nil || !strings.Contains(string(out), "\\o/ RDB looks OK! \\o/") {
				t.Errorf("redis-check-rdb: %v\n%s", err, out)
			}
			dir := t.TempDir()
			copyFile(t, dump, filepath.Join(dir, "dump.rdb"))
			g := serverIn(t, genuine, dir)
			if got := digest(g); got != want {
				t.Errorf("digest %s, ours is %s\nours:\n%s\ngenuine:\n%s\n%s", got, want, sizes(n), sizes(g), difference(n, g))
			}
		})
	}
}

// genuineVariants are configurations under which Redis writes its files differently.
var genuineVariants = []struct {
	name   string
	args   []string
	packed string // of DEBUG QUICKLIST-PACKED-THRESHOLD: longer elements get a node of their own
}{
	{"defaults", nil, ""},
	{"no compression, no checksum", []string{"--rdbcompression", "no", "--rdbchecksum", "no"}, "100B"},
	{"small limits", []string{"--list-max-listpack-size", "4", "--list-compress-depth", "1", "--hash-max-listpack-entries", "4",
		"--zset-max-listpack-entries", "4", "--set-max-intset-entries", "4"}, ""},
	{"large limits", []string{"--list-max-listpack-size", "-5", "--list-compress-depth", "2", "--hash-max-listpack-entries", "5000",
		"--hash-max-listpack-value", "5000", "--zset-max-listpack-entries", "5000", "--zset-max-listpack-value", "5000", "--set-max-intset-entries", "5000"}, "1K"},
	{"LFU", []string{"--maxmemory", "500mb", "--maxmemory-policy", "allkeys-lfu"}, ""},
	{"LRU", []string{"--maxmemory", "500mb", "--maxmemory-policy", "volatile-lru"}, ""},
}

// Ours loads a genuine dump.rdb, and has it after a restart from its own journal.
func TestOursLoadsGenuineDump(t *testing.T) {
	needGenuine(t, "redis-server")
	for i, v := range genuineVariants {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			g := server(t, genuine, v.args...)
			if v.packed != "" {
				g.do("DEBUG", "QUICKLIST-PACKED-THRESHOLD", v.packed)
			}
			fill(t, g, uint64(400+i), commands(4_000))
			g.do("SAVE")
			dir := t.TempDir()
			copyFile(t, filepath.Join(g.spec.Dir, "dump.rdb"), filepath.Join(dir, "dump.rdb"))
			taken(t, g, dir)
		})
	}
}

// taken starts ours on a directory of Redis, twice, and compares.
func taken(t *testing.T, g *node, dir string, args ...string) {
	t.Helper()
	want := digest(g)
	n := serverIn(t, ours, dir, args...)
	for _, when := range []string{"after the import", "after a kill", "after DEBUG RELOAD"} {
		switch when {
		case "after a kill":
			n.p.Kill()
			n.start()
		case "after DEBUG RELOAD":
			n.do("DEBUG", "RELOAD")
		}
		if got := digest(n); got != want {
			t.Fatalf("%s the digest is %s, the genuine one %s\nours:\n%s\ngenuine:\n%s\n%s", when, got, want, sizes(n), sizes(g), difference(g, n))
		}
	}
}

// Ours loads a genuine append-only directory: base file as RDB or as commands,
// incremental files, annotations.
func TestOursLoadsGenuineAppendOnlyDirectory(t *testing.T) {
	needGenuine(t, "redis-server")
	for i, v := range []struct {
		name string
		args []string
	}{
		{"RDB preamble", []string{"--aof-use-rdb-preamble", "yes"}},
		{"commands only", []string{"--aof-use-rdb-preamble", "no"}},
		{"annotations", []string{"--aof-use-rdb-preamble", "no", "--aof-timestamp-enabled", "yes"}},
		{"other names", []string{"--appenddirname", "log", "--appendfilename", "log.aof"}},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"--appendonly", "yes", "--appendfsync", "no"}, v.args...)
			g := server(t, genuine, args...)
			fill(t, g, uint64(500+i), commands(3_000))
			g.do("SELECT", "1")
			g.do("DEL", "zset:negative-zero", "zset:weighted") // as commands, -0 does not survive in Redis either
			g.do("BGREWRITEAOF")
			eventually(t, "the rewrite is done", func() string {
				if in := g.info(); in["aof_rewrite_in_progress"] != "0" || in["aof_rewrite_scheduled"] != "0" {
					return "it runs"
				}
				return ""
			})
			l := newLoad(t, g, uint64(600+i))
			l.durable = true
			l.write(t, commands(3_000))
			name := "appendonlydir"
			if i == 3 {
				name = "log"
			}
			dir := t.TempDir()
			files, err := filepath.Glob(filepath.Join(g.spec.Dir, name, "*"))
			if err != nil || len(files) < 3 {
				t.Fatalf("files %v, %v", files, err)
			}
			for _, f := range files {
				copyFile(t, f, filepath.Join(dir, name, filepath.Base(f)))
			}
			taken(t, g, dir, v.args...)
		})
	}
}

// The files of ours are read by ours with any limits, and by a genuine server
// with any limits: encodings are a matter of the reader.
func TestDumpCrossesLimits(t *testing.T) {
	needGenuine(t, "redis-server")
	t.Parallel()
	n := server(t, ours)
	fill(t, n, 700, commands(3_000))
	n.do("SAVE")
	want := digest(n)
	for i, v := range genuineVariants[2:4] {
		for _, k := range directions {
			t.Run(fmt.Sprintf("%s, %s", k, v.name), func(t *testing.T) {
				dir := t.TempDir()
				copyFile(t, filepath.Join(n.spec.Dir, "dump.rdb"), filepath.Join(dir, "dump.rdb"))
				r := serverIn(t, k, dir, v.args...)
				if i == 1 { // a set of -0 that becomes small loses the sign, in Redis too
					n.do("SELECT", "1")
					r.do("SELECT", "1")
					n.do("DEL", "zset:negative-zero", "zset:weighted")
					r.do("DEL", "zset:negative-zero", "zset:weighted")
					n.do("SELECT", "0")
					r.do("SELECT", "0")
					want = digest(n)
				}
				if got := digest(r); got != want {
					t.Errorf("digest %s, want %s\n%s", got, want, difference(n, r))
				}
			})
		}
	}
}
