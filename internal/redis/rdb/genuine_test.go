package rdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"holdfast/test/proc"
)

// genuine is a redis-server process of the test's own.
type genuine struct {
	*redis.Client
	addr string
	dir  string
}

// startGenuine runs the genuine server on dir, or skips the test where none is
// installed.
func startGenuine(t *testing.T, dir string, args ...string) *genuine {
	t.Helper()
	p, err := proc.StartGenuine(dir, append([]string{"--enable-debug-command", "yes", "--databases", "16"}, args...)...)
	if errors.Is(err, proc.ErrNotInstalled) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(p.Spec.Port))
	g := &genuine{redis.NewClient(&redis.Options{Addr: addr, Protocol: 2, DisableIdentity: true, ReadTimeout: 20 * time.Second}), addr, dir}
	t.Cleanup(func() { _ = g.Close() })
	return g
}

func (g *genuine) do(t *testing.T, args ...any) any {
	t.Helper()
	v, err := g.Do(t.Context(), args...).Result()
	if err != nil {
		t.Fatalf("%v: %v", args[:min(3, len(args))], err)
	}
	return v
}

// save returns the file that SAVE writes.
func (g *genuine) save(t *testing.T) []byte {
	t.Helper()
	g.do(t, "save")
	b, err := os.ReadFile(filepath.Join(g.dir, "dump.rdb"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// contents reads everything over the wire, in the form of a recorder.
func (g *genuine) contents(t *testing.T) map[int]map[string]*entry {
	t.Helper()
	out := map[int]map[string]*entry{}
	for db := range 16 {
		c := redis.NewClient(&redis.Options{Addr: g.addr, DB: db, Protocol: 2, DisableIdentity: true})
		keys, err := c.Keys(t.Context(), "*").Result()
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range keys {
			if out[db] == nil {
				out[db] = map[string]*entry{}
			}
			out[db][k] = readKey(t, c, k)
		}
		_ = c.Close()
	}
	return out
}

func readKey(t *testing.T, c *redis.Client, k string) *entry {
	t.Helper()
	ctx := t.Context()
	fail := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%q: %v", k, err)
		}
	}
	kind, err := c.Type(ctx, k).Result()
	fail(err)
	e := &entry{Kind: kind, Meta: NoMeta}
	switch kind {
	case "string":
		s, err := c.Get(ctx, k).Result()
		fail(err)
		e.Vals = []string{s}
	case "list":
		e.Vals, err = c.LRange(ctx, k, 0, -1).Result()
		fail(err)
	case "set":
		e.Vals, err = c.SMembers(ctx, k).Result()
		fail(err)
	case "hash":
		m, err := c.HGetAll(ctx, k).Result()
		fail(err)
		for f, v := range m {
			e.Vals = append(e.Vals, f+"\x00"+v)
		}
	case "zset":
		zs, err := c.ZRangeWithScores(ctx, k, 0, -1).Result()
		fail(err)
		for _, z := range zs {
			e.Vals = append(e.Vals, fmt.Sprint(z.Member)+"\x00"+formatScore(z.Score))
		}
	case "stream":
		raw, err := c.Dump(ctx, k).Result()
		fail(err)
		e.Vals = []string{raw[1 : len(raw)-dumpFooterSize]}
	}
	if kind != "list" {
		slices.Sort(e.Vals)
	}
	at, err := c.PExpireTime(ctx, k).Result()
	fail(err)
	if at > 0 {
		e.Meta.ExpireMs = at.Milliseconds()
	}
	return e
}

// populate fills three databases with values of all types and sizes.
func populate(t *testing.T, g *genuine) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	val := func() string {
		switch rnd.IntN(9) {
		case 0:
			return strconv.FormatInt(rnd.Int64()>>rnd.IntN(64)*int64(1-2*rnd.IntN(2)), 10)
		case 1:
			return strconv.Itoa(rnd.IntN(400) - 200)
		case 2:
			return ""
		case 3:
			return strings.Repeat("abcde", rnd.IntN(30))
		case 4:
			b := make([]byte, rnd.IntN(100))
			for i := range b {
				b[i] = byte(rnd.Uint32())
			}
			return string(b)
		case 5:
			return strings.Repeat(strconv.Itoa(rnd.IntN(1000)), 1+rnd.IntN(1200))
		}
		return fmt.Sprint("value:", rnd.IntN(10000))
	}
	for _, db := range []int{0, 1, 12} {
		c := redis.NewClient(&redis.Options{Addr: g.addr, DB: db, Protocol: 2, DisableIdentity: true, ReadTimeout: 20 * time.Second})
		pipe := c.Pipeline()
		ctx := t.Context()
		for i := range 120 {
			key := fmt.Sprint("k", i, ":", val())
			if len(key) > 300 {
				key = key[:300]
			}
			n := []int{1, 3, 20, 150, 700}[rnd.IntN(5)]
			switch i % 6 {
			case 0:
				pipe.Set(ctx, key, val(), 0)
			case 1:
				for range n {
					pipe.RPush(ctx, key, val())
				}
			case 2:
				for range n {
					pipe.SAdd(ctx, key, val())
				}
			case 3:
				for range n {
					pipe.HSet(ctx, key, val(), val())
				}
			case 4:
				for range n {
					score := []float64{rnd.NormFloat64(), float64(rnd.IntN(1000)), 1e300 * rnd.Float64(), math.Inf(1), math.Inf(-1), 0.1}[rnd.IntN(6)]
					pipe.ZAdd(ctx, key, redis.Z{Score: score, Member: val()})
				}
			case 5:
				base := int64(1) << rnd.IntN(62)
				for range n {
					pipe.SAdd(ctx, key, base+rnd.Int64N(1000)-500)
				}
			}
			if rnd.IntN(3) == 0 {
				pipe.PExpireAt(ctx, key, time.UnixMilli(4_000_000_000_000+rnd.Int64N(1e9)))
			}
		}
		pipe.Set(ctx, "large", strings.Repeat("large value ", 50_000), 0)
		pipe.Set(ctx, "huge", string(values(1_500_000, 1, false)[0]), 0)
		if _, err := pipe.Exec(ctx); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	}
	g.do(t, "xadd", "stream", "1-1", "f", "v", "g", "w")
	g.do(t, "xadd", "stream", "2-1", "f", "v")
	g.do(t, "xgroup", "create", "stream", "group", "0")
	g.do(t, "xreadgroup", "group", "group", "consumer", "count", "1", "streams", "stream", ">")
	g.do(t, "function", "load", "#!lua name=lib\nredis.register_function('f', function(keys, args) return 1 end)")
}

// configs are servers that store and write in different forms.
var configs = map[string][]string{
	"default": nil,
	"nothing small": {"--hash-max-listpack-entries", "0", "--zset-max-listpack-entries", "0", "--set-max-intset-entries", "0",
		"--list-max-listpack-size", "2", "--list-compress-depth", "1"},
	"everything small": {"--hash-max-listpack-entries", "10000", "--hash-max-listpack-value", "100000",
		"--zset-max-listpack-entries", "10000", "--zset-max-listpack-value", "100000", "--set-max-intset-entries", "10000",
		"--list-max-listpack-size", "-5", "--list-compress-depth", "2"},
	"no compression, no checksum": {"--rdbcompression", "no", "--rdbchecksum", "no"},
	"LFU":                         {"--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lfu"},
	"LRU":                         {"--maxmemory", "1gb", "--maxmemory-policy", "volatile-lru"},
}

func TestGenuineFilesAreLoadedAndOursAreLoadedByGenuine(t *testing.T) {
	for _, name := range sortedKeys(configs) {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && name != "default" {
				t.Skip("one configuration is enough for -short")
			}
			t.Parallel()
			args := configs[name]
			g := startGenuine(t, t.TempDir(), args...)
			populate(t, g)
			if name == "nothing small" {
				g.do(t, "debug", "quicklist-packed-threshold", "200b")
				g.do(t, "rpush", "plain", "a", strings.Repeat("p", 500), "b", strings.Repeat("q", 201))
			}
			theirs := g.save(t)
			want := g.contents(t)
			digest := g.do(t, "debug", "digest")

			rec := loadAll(t, theirs, Options{Sanitize: true})
			checkMeta(t, name, rec.dbs)
			if diff := cmp.Diff(want, rec.dbs); diff != "" {
				t.Fatalf("loading theirs (-genuine +ours):\n%.2000s", diff)
			}
			if len(rec.funcs) != 1 || !strings.HasPrefix(rec.funcs[0], "#!lua name=lib") || rec.aux["redis-ver"] == "" || rec.forms["resizedb"] != 3 {
				t.Errorf("functions %q, aux %v, %v", rec.funcs, rec.aux, rec.forms)
			}
			loadedByGenuine(t, copyFile(t, theirs, false, WriterOptions{Compress: true, Checksum: true}), args, want, digest)
			loadedByGenuine(t, copyFile(t, theirs, true, WriterOptions{}), args, want, digest)
		})
	}
}

// checkMeta asks for what the eviction policy makes the server write, and
// removes it.
func checkMeta(t *testing.T, policy string, dbs map[int]map[string]*entry) {
	t.Helper()
	for _, db := range dbs {
		for k, e := range db {
			if (e.Meta.Freq >= 0) != (policy == "LFU") || (e.Meta.IdleSec >= 0) != (policy == "LRU") {
				t.Fatalf("%q: %+v", k, e.Meta)
			}
			e.Meta.Freq, e.Meta.IdleSec = -1, -1
		}
	}
}

func copyFile(t *testing.T, b []byte, explode bool, opts WriterOptions) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := NewWriter(&buf, opts)
	w.Header()
	if _, err := Load(bytes.NewReader(b), &copier{w: w, explode: explode}, Options{}); err != nil {
		t.Fatal(err)
	}
	if err := w.EOF(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// loadedByGenuine lets redis-check-rdb and redis-server read a file of ours.
func loadedByGenuine(t *testing.T, ours []byte, args []string, want map[int]map[string]*entry, digest any) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "dump.rdb")
	if err := os.WriteFile(path, ours, 0o600); err != nil {
		t.Fatal(err)
	}
	if check, err := exec.LookPath("redis-check-rdb"); err == nil {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if out, err := exec.CommandContext(ctx, check, path).CombinedOutput(); err != nil {
			t.Fatalf("redis-check-rdb: %v\n%s", err, out)
		}
	}
	g := startGenuine(t, dir, append(slices.Clone(args), "--sanitize-dump-payload", "yes")...)
	if diff := cmp.Diff(want, g.contents(t)); diff != "" {
		t.Fatalf("genuine loading ours (-want +got):\n%.2000s", diff)
	}
	if got := g.do(t, "debug", "digest"); digest != nil && got != digest {
		t.Errorf("digest %v, want %v", got, digest)
	}
	_ = g.Close()
}

func TestOldFormsMeanTheSameToGenuine(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "dump.rdb"), oldFile(), 0o600); err != nil {
		t.Fatal(err)
	}
	g := startGenuine(t, dir, "--sanitize-dump-payload", "yes")
	if diff := cmp.Diff(g.contents(t), loadAll(t, oldFile(), Options{Sanitize: true}).dbs); diff != "" {
		t.Errorf("(-genuine +ours):\n%.2000s", diff)
	}
}

func TestDumpAndRestoreWithGenuine(t *testing.T) {
	g := startGenuine(t, t.TempDir(), "--sanitize-dump-payload", "yes")
	populate(t, g)
	keys, err := g.Keys(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	enc := Encoder{Compress: true}
	for _, k := range keys {
		want := readKey(t, g.Client, k)
		want.Meta = NoMeta
		dump, err := g.Dump(t.Context(), k).Result()
		if err != nil {
			t.Fatal(err)
		}
		if err := VerifyDump([]byte(dump), false); err != nil {
			t.Fatalf("%q: %v", k, err)
		}
		rec := newRecorder()
		if err := LoadValue([]byte(dump), []byte(k), NoMeta, rec, Options{Sanitize: true}); err != nil {
			t.Fatalf("%q: %v", k, err)
		}
		if diff := cmp.Diff(want, rec.dbs[0][k]); diff != "" {
			t.Fatalf("%q (-genuine +ours):\n%.1000s", k, diff)
		}
		ours := []byte(dump[:len(dump)-dumpFooterSize])
		if want.Kind == "string" {
			ours = enc.AppendString([]byte{byte(TypeString)}, []byte(want.Vals[0]))
			if len(want.Vals[0]) <= 20 && string(ours) != dump[:len(dump)-dumpFooterSize] {
				t.Errorf("%q: our bytes % x, genuine % x", k, ours, dump)
			}
		}
		ours = AppendDumpFooter(ours, 0)
		if err := g.RestoreReplace(t.Context(), k, 0, string(ours)).Err(); err != nil {
			t.Fatalf("%q: RESTORE of ours: %v", k, err)
		}
		if diff := cmp.Diff(want, readKey(t, g.Client, k)); diff != "" {
			t.Fatalf("%q restored (-want +got):\n%.1000s", k, diff)
		}
	}
}

// TestBadPayloadsAreJudgedAsByGenuine compares verdicts on RESTORE payloads
// with damaged bodies and right footers. Ours may be stricter, never laxer.
func TestBadPayloadsAreJudgedAsByGenuine(t *testing.T) {
	g := startGenuine(t, t.TempDir(), "--sanitize-dump-payload", "yes")
	var enc Encoder
	bodies := map[string][]byte{
		"string":   enc.AppendString([]byte{byte(TypeString)}, []byte("hello")),
		"list":     enc.AppendListNode([]byte{byte(TypeListQuick2), 1}, listpackOf("a", "1", "bcd")),
		"intset":   enc.AppendString([]byte{byte(TypeSetIntset)}, intsetOf(1, 2, 300)),
		"set":      enc.AppendString(enc.AppendString([]byte{byte(TypeSet), 2}, []byte("a")), []byte("b")),
		"hash":     enc.AppendString([]byte{byte(TypeHashListpack)}, listpackOf("f", "v", "g", "7")),
		"zset":     AppendScore(enc.AppendString([]byte{byte(TypeZset2), 1}, []byte("m")), 1.5),
		"zsetlp":   enc.AppendString([]byte{byte(TypeZsetListpack)}, listpackOf("m", "1", "n", "2")),
		"hash-zl":  enc.AppendString([]byte{byte(TypeHashZiplist)}, ziplistOf("f", "v", "g", "7")),
		"list-zl":  enc.AppendString([]byte{byte(TypeListZiplist)}, ziplistOf("f", "300", "-1")),
		"hash-zm":  enc.AppendString([]byte{byte(TypeHashZipmap)}, zipmapOf(1, "f", "v", "g", "w")),
		"zset-old": append(enc.AppendString([]byte{byte(TypeZset), 1}, []byte("m")), "\x031.5"...),
	}
	for _, name := range slices.Sorted(maps.Keys(bodies)) {
		body := bodies[name]
		for i := 1; i < len(body); i++ {
			for _, x := range []byte{0x01, 0x02, 0x10, 0x40, 0x80, 0xFF} {
				bad := bytes.Clone(body)
				bad[i] ^= x
				payload := AppendDumpFooter(bad, 0)
				ours := LoadValue(payload, nil, NoMeta, discard{}, Options{Sanitize: true})
				theirs := g.RestoreReplace(t.Context(), "k", 0, string(payload)).Err()
				if ours == nil && theirs != nil {
					t.Errorf("%s, byte %d ^ %#x: genuine says %v, we load it: % x", name, i, x, theirs, bad)
				}
				// Genuine lets the last string reach into the footer, and takes
				// the beginning of a score that is a number.
				if ours != nil && theirs == nil && !errors.Is(ours, ErrShortRead) && name != "zset-old" {
					t.Errorf("%s, byte %d ^ %#x: genuine loads it, we say %v: % x", name, i, x, ours, bad)
				}
			}
		}
	}
}
