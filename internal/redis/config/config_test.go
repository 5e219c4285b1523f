package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// memFiles is a small world for loading: files by absolute path, every
// directory exists, no log file is ever opened.
type memFiles map[string]string

func (m memFiles) readFile(path string) ([]byte, error) {
	text, ok := m[path]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: path, Err: syscall.ENOENT}
	}
	return []byte(text), nil
}

func (m memFiles) glob(pattern string) []string {
	var names []string
	for name := range m {
		if ok, err := filepath.Match(pattern, name); err == nil && ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (m memFiles) stdin() ([]byte, error)               { return nil, nil }
func (m memFiles) workingDir() string                   { return "/w" }
func (m memFiles) enterDir(path string) (string, error) { return path, nil }
func (m memFiles) tryLogFile(string) error              { return nil }

func inMemory(files memFiles) *Config {
	c := Default()
	c.files = files
	c.Dir = files.workingDir()
	return c
}

func value(t *testing.T, c *Config, name string) string {
	t.Helper()
	kv := c.Get(name)
	if len(kv) != 1 {
		t.Fatalf("CONFIG GET %s: %v", name, kv)
	}
	return kv[0].Value
}

func TestDefaultDiffersFromRedisInTheJournalOnly(t *testing.T) {
	c := Default()
	if !c.AppendOnly || c.Port != 6379 || c.AppendFsync != FsyncEverysec || !c.ReplicaLineageGuard || c.IOLoops != 0 ||
		c.LogFormat != LogFormatLegacy || c.JournalRetainSize != 0 || c.JournalRetainTime != 0 {
		t.Errorf("appendonly %v, port %d, appendfsync %d, own %+v", c.AppendOnly, c.Port, c.AppendFsync, c.OwnOptions)
	}
	if want := []SavePoint{{3600, 1}, {300, 100}, {60, 10000}}; !slices.Equal(c.SavePoints, want) {
		t.Errorf("save %v", c.SavePoints)
	}
	for _, p := range c.Params() {
		if p.Name != "dir" && p.Value() != p.Default {
			t.Errorf("%s starts as %q, its default is %q", p.Name, p.Value(), p.Default)
		}
		if p.Name != "dir" && p.setAway() {
			t.Errorf("%s counts as changed at its default", p.Name)
		}
		if p.Doc == "" || strings.ContainsAny(p.Doc+p.NoEffect, "\n|") {
			t.Errorf("%s: consequence %q, reason %q", p.Name, p.Doc, p.NoEffect)
		}
	}
}

func TestSplitArgs(t *testing.T) {
	for _, tc := range []struct {
		line string
		want []string
		bad  bool
	}{
		{line: "", want: nil},
		{line: " \t\r\n\v\f", want: nil},
		{line: "a  b\tc", want: []string{"a", "b", "c"}},
		{line: `"a b" 'c d'`, want: []string{"a b", "c d"}},
		{line: `"\x41\n\r\t\b\a\"\\\q"`, want: []string{"A\n\r\t\b\a\"\\q"}},
		{line: `"\xg1"`, want: []string{"xg1"}},
		{line: `'\'\n'`, want: []string{`'\n`}},
		{line: `""`, want: []string{""}},
		{line: `''`, want: []string{""}},
		{line: `foo"bar"`, want: []string{"foobar"}},
		{line: "a\vb", want: []string{"a\vb"}},
		{line: "a\x00b c", want: []string{"a"}},
		{line: `"a`, bad: true},
		{line: `'a`, bad: true},
		{line: `"a"b`, bad: true},
		{line: `'a'b`, bad: true},
		{line: `"a\`, bad: true},
		{line: "\"a\x00\"", bad: true},
	} {
		got, err := SplitArgs(tc.line)
		if (err != nil) != tc.bad || !slices.Equal(got, tc.want) {
			t.Errorf("SplitArgs(%q) = %q, %v", tc.line, got, err)
		}
	}
}

func TestMemoryUnits(t *testing.T) {
	for s, want := range map[string]uint64{
		"0": 0, "1": 1, "1b": 1, "1k": 1000, "1kb": 1024, "1M": 1000000, "1mB": 1 << 20, "2g": 2000000000, "2GB": 2 << 30,
		"18446744073709551615": 1<<64 - 1, "18446744073709551616": 1<<64 - 1, "": 0, "kb": 0,
	} {
		if got, ok := ParseMemory(s); !ok || got != want {
			t.Errorf("ParseMemory(%q) = %d, %v", s, got, ok)
		}
	}
	for _, s := range []string{"-1", "1tb", "1 kb", "x", "1.5gb", strings.Repeat("1", 128)} {
		if got, ok := ParseMemory(s); ok {
			t.Errorf("ParseMemory(%q) = %d", s, got)
		}
	}
	for n, want := range map[uint64]string{0: "0", 1: "1", 1024: "1kb", 1025: "1025", 5 << 20: "5mb", 3 << 30: "3gb", 1<<64 - 1: "18446744073709551615"} {
		if got := FormatMemory(n); got != want {
			t.Errorf("FormatMemory(%d) = %q", n, got)
		}
	}
}

func TestHooksMayVetoAndAreTakenBack(t *testing.T) {
	c := Default()
	var calls []string
	note := func(name string) func(old, new string) error {
		return func(old, new string) error {
			calls = append(calls, name+" "+old+">"+new)
			return nil
		}
	}
	c.OnApply("timeout", note("timeout"))
	c.OnApply("slave-priority", note("priority"))
	c.OnApply("maxmemory", func(old, new string) error {
		if c.MaxMemory == 5 {
			return errors.New("too small for me")
		}
		return note("maxmemory")(old, new)
	})
	_, err := c.Set([]KV{{"timeout", "7"}, {"hz", "20"}, {"maxmemory", "5"}, {"replica-priority", "3"}})
	if want := "CONFIG SET failed (possibly related to argument 'maxmemory') - too small for me"; err == nil || err.Error() != want {
		t.Errorf("error %v", err)
	}
	if c.Timeout != 0 || c.HZ != 10 || c.MaxMemory != 0 || c.ReplicaPriority != 100 {
		t.Errorf("not rolled back: timeout %d hz %d maxmemory %d priority %d", c.Timeout, c.HZ, c.MaxMemory, c.ReplicaPriority)
	}
	if want := []string{"timeout 0>7", "timeout 7>0"}; !slices.Equal(calls, want) {
		t.Errorf("calls %q", calls)
	}
	calls = nil
	changed, err := c.Set([]KV{{"timeout", "0"}, {"maxmemory", "6"}, {"slave-priority", "3"}, {"replica-priority", "4"}})
	if err != nil {
		t.Fatal(err)
	}
	// An unchanged value calls no hook; a parameter under two names one.
	if want := []string{"maxmemory 0>6", "priority 100>4"}; !slices.Equal(calls, want) {
		t.Errorf("calls %q", calls)
	}
	if len(changed) != 3 {
		t.Errorf("%d changed", len(changed))
	}
}

func TestSetRespectsCircumstances(t *testing.T) {
	dir := t.TempDir()
	for _, tc := range []struct {
		enable string
		now    Circumstances
		pair   KV
		want   string
	}{
		{"no", Circumstances{Local: true}, KV{"dbfilename", "x"}, "ERR CONFIG SET failed (possibly related to argument 'dbfilename') - can't set protected config"},
		{"local", Circumstances{}, KV{"dir", dir}, "ERR CONFIG SET failed (possibly related to argument 'dir') - can't set protected config"},
		{"local", Circumstances{Local: true}, KV{"dir", dir}, "OK"},
		{"yes", Circumstances{}, KV{"dbfilename", "x"}, "OK"},
		{"yes", Circumstances{Loading: true}, KV{"dir", dir}, "LOADING Redis is loading the dataset in memory"},
		{"no", Circumstances{Loading: true}, KV{"appendonly", "no"}, "LOADING Redis is loading the dataset in memory"},
		{"no", Circumstances{Loading: true}, KV{"hz", "20"}, "OK"},
	} {
		c := Default()
		if err := c.LoadString("enable-protected-configs "+tc.enable, "test"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.SetIn(tc.now, []KV{tc.pair}); errText(err) != tc.want {
			t.Errorf("%+v: %s", tc, errText(err))
		}
	}
}

func TestIncludeOfItselfEnds(t *testing.T) {
	for _, text := range []string{"include /w/a\n", "include /w/a\ninclude /w/a\n", "include a\n"} {
		c := inMemory(memFiles{"/w/a": text})
		err := c.LoadFile("/w/a")
		var load *LoadError
		if !errors.As(err, &load) || !strings.Contains(load.Message, "included") {
			t.Errorf("%q: %v", text, err)
		}
	}
	wide := memFiles{"/w/a": strings.Repeat("include b*\n", 900), "/w/b1": "hz 11\n", "/w/b2": "timeout 3\n"}
	c := inMemory(wide)
	if err := c.LoadFile("/w/a"); err != nil || c.HZ != 11 || c.Timeout != 3 {
		t.Errorf("%v, hz %d, timeout %d", err, c.HZ, c.Timeout)
	}
}

func TestMissingFileIsNamed(t *testing.T) {
	c := inMemory(memFiles{"/w/a": "include /nope\n"})
	if err := c.LoadFile("/gone"); err == nil || err.Error() != "Fatal error, can't open config file '/gone': No such file or directory" {
		t.Error(err)
	}
	if err := c.LoadFile("/w/a"); err == nil || err.Error() != "Fatal error, can't open config file '/nope': No such file or directory" {
		t.Error(err)
	}
}

func TestDirectivesThatAreNoParameters(t *testing.T) {
	c := inMemory(memFiles{})
	c.CheckUser = func(args []string) error {
		if slices.Contains(args, "bad") {
			return errors.New("Syntax error")
		}
		return nil
	}
	err := c.LoadString("rename-command GET \"\"\nuser alice on >p\nloadmodule /m.so a b\nmod.x 1 2\n", "test")
	if err != nil {
		t.Fatal(err)
	}
	if want := []RenamedCommand{{"GET", ""}}; !reflect.DeepEqual(c.RenamedCommands, want) {
		t.Errorf("renamed %q", c.RenamedCommands)
	}
	if want := [][]string{{"alice", "on", ">p"}}; !reflect.DeepEqual(c.UserLines, want) {
		t.Errorf("users %q", c.UserLines)
	}
	if want := [][]string{{"/m.so", "a", "b"}}; !reflect.DeepEqual(c.LoadModules, want) {
		t.Errorf("modules %q", c.LoadModules)
	}
	if want := [][]string{{"mod.x", "1", "2"}}; !reflect.DeepEqual(c.ModuleDirectives, want) {
		t.Errorf("module directives %q", c.ModuleDirectives)
	}
	err = c.LoadString("user bob bad\n", "test")
	if err == nil || !strings.Contains(err.Error(), "Error in user declaration 'bob': Syntax error\n") {
		t.Error(err)
	}
}

func TestSentinelModeTakesSentinelLines(t *testing.T) {
	c := inMemory(memFiles{"/w/s.conf": "port 26380\nsentinel monitor m 127.0.0.1 6379 2\n# c\nSENTINEL myid abc\n"})
	if err := c.LoadArgs([]string{"/w/s.conf", "--sentinel", "--sentinel", "down-after-milliseconds", "m", "5"}); err != nil {
		t.Fatal(err)
	}
	if !c.SentinelMode || c.Port != 26380 || c.ProtectedMode || c.File != "/w/s.conf" {
		t.Errorf("sentinel %v port %d protected %v file %q", c.SentinelMode, c.Port, c.ProtectedMode, c.File)
	}
	want := []SentinelLine{
		{[]string{"monitor", "m", "127.0.0.1", "6379", "2"}, 2, "sentinel monitor m 127.0.0.1 6379 2"},
		{[]string{"myid", "abc"}, 4, "SENTINEL myid abc"},
		{[]string{"down-after-milliseconds", "m", "5"}, 7, `sentinel "down-after-milliseconds" "m" "5"`},
	}
	if !reflect.DeepEqual(c.SentinelLines, want) {
		t.Errorf("lines %+v", c.SentinelLines)
	}
	c.RewriteSentinel = func(line func(option, text string), processed func(option string)) {
		line("sentinel myid", "sentinel myid def")
		processed("sentinel monitor")
	}
	text, err := c.Rewrite()
	if err != nil {
		t.Fatal(err)
	}
	if s := string(text); !strings.Contains(s, "\n# c\nsentinel myid def\n") || strings.Contains(s, "monitor") || strings.Contains(s, "save") {
		t.Errorf("rewritten:\n%s", s)
	}
}

func TestWarningsNameWhatHasNoEffect(t *testing.T) {
	c := inMemory(memFiles{})
	if w := Warnings(c); len(w) != 0 {
		t.Errorf("warnings at the defaults: %q", w)
	}
	if err := c.LoadString("io-threads 4\nsanitize-dump-payload yes\nhz 20\nloadmodule /x.so\n", "test"); err != nil {
		t.Fatal(err)
	}
	w := Warnings(c)
	if len(w) != 3 || !strings.HasPrefix(w[0], "io-threads has no effect here: ") ||
		!strings.HasPrefix(w[1], "loadmodule /x.so ") || !strings.HasPrefix(w[2], "sanitize-dump-payload ") {
		t.Errorf("warnings %q", w)
	}
}

func TestRewriteWithoutFile(t *testing.T) {
	c := inMemory(memFiles{})
	if _, err := c.Rewrite(); !errors.Is(err, ErrNoFile) {
		t.Error(err)
	}
	c.File = "/w/gone" // removed since: everything is appended
	c.Timeout = 5
	text, err := c.Rewrite()
	if err != nil || !strings.HasPrefix(string(text), rewriteSignature+"\n") || !strings.Contains(string(text), "\ntimeout 5\n") {
		t.Errorf("%v\n%s", err, text)
	}
}

// Redis keeps 32 bits of the changes, may call them negative, and refuses what
// it then writes.
func TestHugeSavePointStaysHuge(t *testing.T) {
	c := inMemory(memFiles{})
	if _, err := c.Set([]KV{{"save", "1 9999999999999999999999"}}); err != nil || value(t, c, "save") != "1 2147483647" {
		t.Errorf("%v: save %q", err, value(t, c, "save"))
	}
}

// Redis writes sizes beyond 63 bits as negative numbers, which no Redis reads.
func TestRewriteOfHugeSizesCanBeRead(t *testing.T) {
	c := inMemory(memFiles{})
	if _, err := c.Set([]KV{{"maxmemory", "18446744073709551615"}, {"client-output-buffer-limit", "normal 18446744073709551615 1 1"}}); err != nil {
		t.Fatal(err)
	}
	again := inMemory(memFiles{})
	if err := again.LoadString(string(c.RewriteText(nil)), "test"); err != nil {
		t.Fatal(err)
	}
	if again.MaxMemory != c.MaxMemory || again.ClientOutputBufferLimits != c.ClientOutputBufferLimits {
		t.Errorf("maxmemory %d, limits %v", again.MaxMemory, again.ClientOutputBufferLimits)
	}
}

func TestOwnParametersAreSetAndRewritten(t *testing.T) {
	c := inMemory(memFiles{})
	pairs := []KV{{"log-format", "json"}, {"journal-retain-size", "1gb"}, {"journal-retain-time", "60"}, {"journal-segment-size", "8mb"}, {"replica-lineage-guard", "no"}}
	if _, err := c.Set(pairs); err != nil {
		t.Fatal(err)
	}
	if c.LogFormat != LogFormatJSON || c.JournalRetainSize != 1<<30 || c.JournalRetainTime != 60 || c.JournalSegmentSize != 8<<20 || c.ReplicaLineageGuard {
		t.Errorf("%+v", c.OwnOptions)
	}
	if _, err := c.Set([]KV{{"io-loops", "2"}}); err == nil {
		t.Error("io-loops was set at run time")
	}
	for _, p := range c.Params() {
		if p.Is(Own) {
			if changed, err := c.Set([]KV{{p.Name, p.get()}}); err != nil || len(changed) > 0 {
				t.Errorf("%s set to what it is: %v, %v", p.Name, changed, err)
			}
		}
	}
	text := string(c.RewriteText([]byte("io-loops 3\n")))
	for _, line := range []string{"io-loops 0\n", "log-format json\n", "journal-retain-size 1gb\n", "replica-lineage-guard no\n"} {
		if !strings.Contains(text, line) {
			t.Errorf("%q is missing in:\n%s", line, text)
		}
	}
}

func TestArrayDirectives(t *testing.T) {
	c := inMemory(memFiles{})
	if err := c.LoadArgs([]string{"--array-level", "5", "--array-members", "/mnt/d1", "/mnt/d 2", "d3", "--array-chunk", "4kb",
		"--array-spares", "/mnt/s", "--array-scrub-interval", "0", "--port", "0"}); err != nil {
		t.Fatal(err)
	}
	if c.ArrayLevel != 5 || !slices.Equal(c.ArrayMembers, []string{"/mnt/d1", "/mnt/d 2", "d3"}) || c.ArrayChunk != 4096 ||
		!slices.Equal(c.ArraySpares, []string{"/mnt/s"}) || c.ArrayScrubInterval != 0 || c.ArrayRebuildRate != 64<<20 || c.Port != 0 {
		t.Errorf("%+v", c.ArrayOptions)
	}
	text := string(c.RewriteText([]byte("array-members /old1 /old2\narray-level 1\n")))
	for _, line := range []string{"array-members /mnt/d1 \"/mnt/d 2\" d3\n", "array-level 5\n", "array-chunk 4kb\n"} {
		if !strings.Contains(text, line) {
			t.Errorf("%q is missing in:\n%s", line, text)
		}
	}
	again := inMemory(memFiles{})
	if err := again.LoadString(text, "test"); err != nil || !slices.Equal(again.ArrayMembers, c.ArrayMembers) {
		t.Errorf("read back as %q, %v", again.ArrayMembers, err)
	}
	if _, err := c.Set([]KV{{"array-members", "/a /b /c"}}); err == nil {
		t.Error("array-members was set at run time")
	}
	if err := inMemory(memFiles{"/level": "array-level 1\n"}).LoadString("include /level\narray-members /a /b\n", "test"); err != nil {
		t.Errorf("the level in an included file: %v", err)
	}
}

func TestArrayDirectivesThatMakeNoSense(t *testing.T) {
	for text, want := range map[string]string{
		"array-members /a /b":                                      "array-members and array-spares need an array-level",
		"array-level 5\narray-members /a /b":                       "array-level 5 needs at least 3 directories in array-members, 2 are given",
		"array-level 6\narray-members /a /b /c":                    "array-level 6 needs at least 4 directories in array-members, 3 are given",
		"array-level 1":                                            "array-level 1 needs at least 2 directories in array-members, 0 are given",
		"array-level 1\narray-members /a /b /a/":                   "the directory /a/ is named twice",
		"array-level 1\narray-members /a /b\narray-spares /b/":     "the directory /b/ is in array-members and in array-spares",
		"array-level 3\narray-members /a /b":                       "argument(s) must be one of the following: none, 0, 1, 4, 5, 6",
		"array-chunk 3000":                                         "argument must be a power of two",
		"array-chunk 256":                                          "argument must be between 512 and 4194304 inclusive",
		"array-level 0\narray-members" + strings.Repeat(" /x", 33): "more than 32 directories",
	} {
		err := inMemory(memFiles{}).LoadString(text, "test")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestNotifyFlagsBothWays(t *testing.T) {
	for s, want := range map[string]string{"": "", "AKE": "AKE", "EKA": "AKE", "g$lshzxetdKE": "AKE", "xE": "xE", "mKn": "nKm"} {
		flags, ok := ParseNotifyFlags(s)
		if !ok || flags.String() != want {
			t.Errorf("%q becomes %q, %v", s, flags, ok)
		}
	}
	if _, ok := ParseNotifyFlags("KQ"); ok {
		t.Error("took Q")
	}
}

func TestSensitiveParameters(t *testing.T) {
	c := Default()
	for name, want := range map[string]bool{"requirepass": true, "MasterAuth": true, "masteruser": true, "tls-key-file-pass": true, "port": false, "nosuch": false} {
		if c.Sensitive(name) != want {
			t.Errorf("Sensitive(%s) = %v", name, !want)
		}
	}
	if got := value(t, c, "requirepass"); got != "" {
		t.Errorf("requirepass %q", got)
	}
}

func TestLoadFileFromDisk(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"redis.conf":       "dir " + data + "\ninclude more.conf\ninclude .*.conf\ninclude nothing-*.conf\n",
		"data/more.conf":   "hz 33\n",
		"data/.hide.conf":  "timeout 4\n",
		"data/xmore2.conf": "bad",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := Default()
	// Includes are relative to dir once it was set, as after a chdir.
	if err := c.LoadFile(filepath.Join(dir, "redis.conf")); err != nil || c.HZ != 33 || c.Timeout != 4 || c.Dir != data {
		t.Errorf("%v: hz %d timeout %d dir %s", err, c.HZ, c.Timeout, c.Dir)
	}
}
