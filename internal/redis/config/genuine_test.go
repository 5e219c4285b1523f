package config

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/test/proc"
)

// genuine is a running redis-server that the tests compare with.
type genuine struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
	dir  string
	conf string // path of its configuration file
	port string
}

func redisServer(t *testing.T) string {
	t.Helper()
	bin, err := proc.Genuine("redis-server")
	if errors.Is(err, proc.ErrNotInstalled) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// startGenuine starts redis-server on a configuration file with the given text.
// The text may speak of PORT and DIR.
func startGenuine(t *testing.T, text string) *genuine {
	t.Helper()
	bin := redisServer(t)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	port, err := proc.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	g := &genuine{t: t, dir: dir, conf: filepath.Join(dir, "redis.conf"), port: strconv.Itoa(port)}
	text = strings.NewReplacer("PORT", g.port, "DIR", dir).Replace(text)
	if err := os.WriteFile(g.conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := proc.Start(proc.Spec{Argv: []string{bin, g.conf}, Bare: true, Dir: dir, Port: port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	if err := p.Ready(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	if g.conn, err = net.Dial("tcp", "127.0.0.1:"+g.port); err != nil {
		t.Fatal(err)
	}
	g.r = bufio.NewReader(g.conn)
	t.Cleanup(func() { _ = g.conn.Close() })
	return g
}

// call sends a command; an error reply comes back as err.
func (g *genuine) call(args ...string) ([]string, error) {
	g.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	if err := g.conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		g.t.Fatal(err)
	}
	if _, err := io.WriteString(g.conn, b.String()); err != nil {
		g.t.Fatal(err)
	}
	return g.reply()
}

func (g *genuine) reply() ([]string, error) {
	g.t.Helper()
	line, err := g.r.ReadString('\n')
	if err != nil {
		g.t.Fatal(err)
	}
	line = strings.TrimRight(line, "\r\n")
	switch line[0] {
	case '-':
		return nil, errors.New(line[1:])
	case '$', '*':
		n, err := strconv.Atoi(line[1:])
		if err != nil {
			g.t.Fatal(err)
		}
		if line[0] == '$' {
			buf := make([]byte, n+2)
			if _, err := io.ReadFull(g.r, buf); err != nil {
				g.t.Fatal(err)
			}
			return []string{string(buf[:n])}, nil
		}
		var all []string
		for range n {
			part, err := g.reply()
			if err != nil {
				return nil, err
			}
			all = append(all, part...)
		}
		return all, nil
	}
	return []string{line[1:]}, nil
}

func (g *genuine) get(patterns ...string) map[string]string {
	g.t.Helper()
	list, err := g.call(append([]string{"CONFIG", "GET"}, patterns...)...)
	if err != nil {
		g.t.Fatal(err)
	}
	values := map[string]string{}
	for i := 0; i+1 < len(list); i += 2 {
		values[list[i]] = list[i+1]
	}
	return values
}

func asMap(list []KV) map[string]string {
	values := map[string]string{}
	for _, kv := range list {
		values[kv.Name] = kv.Value
	}
	return values
}

// loadOurs loads the genuine server's present file.
func (g *genuine) loadOurs() *Config {
	g.t.Helper()
	c := Default()
	c.Dir = g.dir
	if err := c.LoadFile(g.conf); err != nil {
		g.t.Fatal(err)
	}
	return c
}

func TestDefaultsAreThoseOfGenuineRedis(t *testing.T) {
	g := startGenuine(t, "port PORT\nbind 127.0.0.1\n")
	theirs, ours := g.get("*"), asMap(Default().Get("*"))
	if len(theirs) != 192 {
		t.Errorf("genuine lists %d names", len(theirs))
	}
	differ := map[string]bool{"port": true, "bind": true, "dir": true, "appendonly": true}
	for name, want := range theirs {
		got, ok := ours[name]
		if !ok {
			t.Errorf("%s is missing", name)
		} else if got != want && !differ[name] {
			t.Errorf("%s = %q, genuine %q", name, got, want)
		}
	}
	c := Default()
	for name := range ours {
		if _, ok := theirs[name]; !ok && !c.Lookup(name).Is(Own) {
			t.Errorf("%s is not in genuine", name)
		}
	}
	// Hidden names answer to their exact name only, with the same value.
	for _, p := range c.Params() {
		if p.Is(Hidden) {
			if theirs := g.get(p.Name); theirs[p.Name] != p.Value() || len(theirs) != 1 {
				t.Errorf("hidden %s = %q, genuine %q", p.Name, p.Value(), theirs)
			}
		}
	}
}

func TestGetMatchesLikeGenuineRedis(t *testing.T) {
	g := startGenuine(t, "port PORT\nbind 127.0.0.1\nappendonly no\n")
	c := g.loadOurs()
	for _, patterns := range [][]string{
		{"maxmemory"}, {"MaxMemory"}, {"maxmemory*"}, {"MAX*"}, {"slave*"}, {"*slave*", "slave-priority"},
		{"slave-priority", "replica-priority"}, {"nosuch"}, {"*nosuch*"}, {"hz", "HZ"}, {"h?"}, {"[hs]z"},
		{"watchdog*"}, {"watchdog-period"}, {"*dump*", "timeout", "time*"}, {""}, {"lua-time-limit"},
	} {
		theirs, ours := g.get(patterns...), asMap(c.Get(patterns...))
		if fmt.Sprint(theirs) != fmt.Sprint(ours) {
			t.Errorf("CONFIG GET %q:\n ours    %v\n genuine %v", patterns, ours, theirs)
		}
	}
}

// valuesByKind are tried on every parameter of the kind.
var valuesByKind = map[Kind][]string{
	KindBool: {"yes", "no", "YES", "nO", "", "1", "true", "yes ", " yes", "yes\x00x"},
	KindEnum: {"", "nosuch", "no no"},
	KindInt: {"", "-1", "0", "1", "5", "100", "500", "501", "0777", "+5", " 5", "5 ", "1e3", "1kb", "5%", "abc",
		"2147483647", "2147483648", "-2147483649", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "-0", "00"},
	KindMemory: {"", "-1", "0", "1", "5", "1048576", "1k", "1kb", "2M", "2mB", "1GB", "1g", "3b", "b", "kb", "1 kb", "1.5gb", "10%",
		"9223372036854775807", "9223372036854775808", "18446744073709551615", "99999999999999999999", "8589934592gb", "007", "1tb", "1\x00x"},
	KindMemoryOrPercent: {"", "0", "5%", "100%", "101%", "0%", "-5%", "%", "05%", "1mb", "1mb%", "9223372036854775808", "-1"},
	KindString:          {"", "x", "a b", "a/b", "a\\b", "\"q\"", "\xff\x01", "cut\x00here", "{title}", "{{title}", "{title", "{nosuch}", "host.example-1", "a_b", strings.Repeat("h", 256), strings.Repeat("h", 255)},
	KindFlags:           {"", "default", "save", "nosave", "now force", "nosave now force", "save nosave", "SAVE", "nosuch", "default force", "save  now"},
}

var valuesByName = map[string][]string{
	"save":                              {"", "1 1", "900 1 300 10", "900 1  300 10", "900", "0 1", "1 -1", "a b", "1 b", " 1 1", "1 1 ", "+5 5", "99999999999 2147483647"},
	"client-output-buffer-limit":        {"", "normal 1 2 3", "slave 1kb 2mb 3 pubsub 1 1 1", "replica 5 5 5", "REPLICA 1 2 3", "master 1 1 1", "normal 1 2", "normal x 2 3", "normal 1 2 -3", "normal 1 2 3x", "normal 1 2 4294967299", "normal 9 9 9 nosuch 1 1 1"},
	"oom-score-adj-values":              {"", "1 2 3", "1 2", "1 2 3 4", "0 0 2001", "-2000 0 2000", "a b c", "800 200 0"},
	"notify-keyspace-events":            {"", "A", "AKE", "KEA", "Kg$lshzxetd", "KEgn", "AnK", "q", "K E", "mmm", "dtexzhsl$g"},
	"latency-tracking-info-percentiles": {"", "50", "0.0 100.0", "101", "-1", "abc", "50 50", "99.9999999", "1e1", "nan", "inf", "50  60", "0x10", "-0", ".5", "5."},
	"bind":                              {"127.0.0.1", "127.0.0.1 -::1", strings.Repeat("127.0.0.1 ", 16) + "x"},
	"dir":                               {"/nonexistent", "", "/etc/passwd", "/tmp", "."},
	"replicaof":                         {"no one", "a 1"},
	"slaveof":                           {"no one"},
	"dbfilename":                        {"a.rdb"},
	"appendfsync":                       {"always", "EVERYSEC", "no"},
	"maxmemory-policy":                  {"allkeys-lru", "volatile-ttl", "ALLKEYS-LFU", "noeviction"},
	"acl-pubsub-default":                {"allchannels", "resetchannels"},
	"loglevel":                          {"debug", "warning"},
	"repl-diskless-load":                {"swapdb", "on-empty-db", "disabled"},
	"cluster-preferred-endpoint-type":   {"hostname", "unknown-endpoint"},
	"propagation-error-behavior":        {"panic", "panic-on-replicas", "ignore"},
	"sanitize-dump-payload":             {"yes", "clients", "no"},
	"tls-auth-clients":                  {"optional", "no"},
	"supervised":                        {"no"},
	// An address, a port or a limit of the operating system decides about
	// values of these that are well formed; the shell's hooks do it here.
	"port":            {"abc", "-1", "65536"},
	"tls-port":        {"abc", "-1", "65536", "0"},
	"maxclients":      {"abc", "0", "-1", "100", "4294967296"},
	"oom-score-adj":   {"nosuch", "no"},
	"watchdog-period": {"abc", "-1", "0"},
	"tls-replication": {"abc", "no"},
	"tls-cluster":     {"abc", "no"},
	// Debian builds Redis without the allocator that this needs there.
	"activedefrag": {"abc", "no"},
}

// pinned parameters are tried with the values of valuesByName only.
var pinned = map[string]bool{"port": true, "tls-port": true, "maxclients": true, "oom-score-adj": true, "watchdog-period": true,
	"tls-replication": true, "tls-cluster": true, "activedefrag": true}

func valuesFor(p *Param) []string {
	if pinned[p.Name] {
		return valuesByName[p.Name]
	}
	return append(slices.Clone(valuesByName[p.Name]), valuesByKind[p.Kind]...)
}

func TestSetJudgesEveryParameterLikeGenuineRedis(t *testing.T) {
	g := startGenuine(t, "port PORT\nbind 127.0.0.1\nappendonly no\nsave \"\"\nenable-protected-configs yes\ndir DIR\n")
	c := g.loadOurs()
	compared := 0
	for _, p := range c.Params() {
		if p.Is(Own) || strings.HasPrefix(p.Name, "tls-") && p.Kind == KindString {
			continue
		}
		for _, value := range valuesFor(p) {
			compared++
			compareSet(t, g, c, KV{p.Name, value})
		}
	}
	if compared < 1500 {
		t.Errorf("only %d values compared", compared)
	}
}

func compareSet(t *testing.T, g *genuine, c *Config, pairs ...KV) {
	t.Helper()
	args := []string{"CONFIG", "SET"}
	var names []string
	for _, kv := range pairs {
		args = append(args, kv.Name, kv.Value)
		if cString(kv.Name) == kv.Name {
			names = append(names, kv.Name)
		}
	}
	_, theirs := g.call(args...)
	_, ours := c.Set(pairs)
	if want, got := errText(theirs), errText(ours); got != want {
		t.Errorf("CONFIG SET %q: %s\n genuine: %s", pairs, got, want)
		return
	}
	want, got := g.get(names...), asMap(c.Get(names...))
	for _, name := range names {
		if got[name] != want[name] {
			t.Errorf("after CONFIG SET %q: %s = %q, genuine %q", pairs, name, got[name], want[name])
		}
	}
}

func errText(err error) string {
	if err == nil {
		return "OK"
	}
	var set *SetError
	if errors.As(err, &set) {
		return set.Code + " " + set.Text
	}
	return err.Error()
}

func TestSetOfSeveralIsAllOrNothingLikeGenuineRedis(t *testing.T) {
	g := startGenuine(t, "port PORT\nbind 127.0.0.1\nappendonly no\nsave \"\"\n")
	c := g.loadOurs()
	for _, pairs := range [][]KV{
		{{"hz", "20"}, {"timeout", "7"}},
		{{"hz", "30"}, {"timeout", "x"}},
		{{"timeout", "9"}, {"nosuch", "1"}, {"hz", "x"}},
		{{"hz", "40"}, {"hz", "50"}},
		{{"hz", "40"}, {"HZ", "50"}},
		{{"slave-priority", "1"}, {"replica-priority", "2"}},
		{{"daemonize", "yes"}, {"nosuch", "1"}},
		{{"nosuch", "1"}, {"daemonize", "yes"}},
		{{"nosuch", "1"}, {"nosuch2", "yes"}},
		{{"daemonize", "yes"}, {"databases", "5"}},
		{{"dir", "/tmp"}, {"hz", "11"}},
		{{"dbfilename", "a/b"}},
		{{"save", "5 5"}, {"hz", "12"}, {"save", "6 6"}},
		{{"client-output-buffer-limit", "normal 1 1 1"}, {"save", "bad"}},
		{{"latency-tracking-info-percentiles", "1 2"}, {"maxmemory", "bad"}},
		{{"HZ", "9000"}, {"Timeout", "3"}},
		{{"hz", "0"}}, {{"hz", "10"}, {"maxmemory", "1gb"}, {"maxmemory-policy", "allkeys-lru"}},
		{{"no\nsuch\r", "1"}}, {{"", ""}},
	} {
		compareSet(t, g, c, pairs...)
	}
}

// stderrOf runs redis-server until it gives up, and returns its message.
func stderrOf(t *testing.T, bin, dir, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.Command(bin, args...)
	cmd.Dir = dir
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.Discard, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	if err := cmd.Wait(); err == nil {
		t.Fatalf("redis-server %q ended without an error", args)
	}
	return out.String()
}

// loadErrorOf gives the message of our loader as Redis writes it to stderr.
func loadErrorOf(c *Config, err error) string {
	var load *LoadError
	if errors.As(err, &load) {
		return "\n" + load.Error()
	}
	return fmt.Sprint(err)
}

// commandsForTest are the commands that rename-command is tried with.
func commandsForTest(name string) bool {
	return slices.Contains([]string{"get", "set", "config", "flushall"}, name)
}

func TestLoadErrorsAreThoseOfGenuineRedis(t *testing.T) {
	bin := redisServer(t)
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("fine.conf", "hz 10\n")
	write("bad.conf", "hz 10\nhz x\n")
	// Every file ends in a line that nobody takes, so that genuine ends soon.
	for _, text := range []string{
		"foo bar", "port", "port 1 2", "port abc", "PORT x", "  port\tx  ", "bind \"x", "bind 'x", `bind "a"b`, `bind 'a'b`,
		`port "1\x3x"`, `port "12"`, `port '12'`, `p"ort" 12`, "save", "save 1", `save ""`, `save "1 1"`, `save "1 1" "2 2"`, `save "1`, `save " "`,
		`save "900 1 'x"`, "save 900 1 300 10", "save 900 1\nsave x", "client-output-buffer-limit normal 1 2",
		`client-output-buffer-limit "normal 1 2 3"`, "client-output-buffer-limit nosuch 1 2 3", "client-output-buffer-limit",
		"oom-score-adj-values 1 2", "oom-score-adj-values 1 2 3", "oom-score-adj-values 1 2 2001", `oom-score-adj-values "1 2 3"`,
		"replicaof", "replicaof a", "replicaof a b", "replicaof a 70000", "replicaof a -1", "replicaof no one", `slaveof "a 1"`, "slaveof a 4294967297",
		"list-max-ziplist-entries 5", "list-max-ziplist-entries 5 6", "lua-replicate-commands yes", "LIST-MAX-ZIPLIST-VALUE 3",
		"include", "include fine.conf", "include bad.conf", "include none-*.conf", "include f*.conf", "include [b]ad.conf",
		"rename-command a", "rename-command nosuch x", "rename-command GET SET", "rename-command get \"\"", "rename-command get \"\"\nrename-command set GET",
		"rename-command get x\nrename-command set X", "rename-command get get",
		"user", "user a on", "user a on\nuser a off", "user A on\nuser a off",
		"loadmodule", "loadmodule /x y z", "mod.x", "mod.x y", "mod.x y z", ".", "sentinel", "sentinel monitor a 1", "SENTINEL x",
		"dir /nonexistent", "dir", "dir /etc/passwd", "dir .", "dbfilename a/b", "dbfilename \"\"", `appendfilename ""`, "appendfilename a/b", `appenddirname ""`, "appenddirname a/b",
		"unixsocketperm 777", "unixsocketperm 778", "unixsocketperm 1000", "unixsocketperm -1", "unixsocketperm 9", `unixsocketperm ""`, "unixsocketperm ' 7'",
		"supervised x", "syslog-facility mail", "syslog-facility local9", "databases 0", "databases 16", "io-threads 129", "tcp-backlog -1",
		"activedefrag no", "proc-title-template {x}", "notify-keyspace-events q", "shutdown-on-sigint save nosave", "shutdown-on-sigint nosave force", "shutdown-on-sigint",
		`shutdown-on-sigint "now force"`, "latency-tracking-info-percentiles 1 101", `latency-tracking-info-percentiles ""`, "bind", `bind ""`, "bind " + strings.Repeat("1 ", 17),
		"maxmemory-clients 101%", "maxmemory 1xb", "socket-mark-id -1", "socket-mark-id 4294967296", "cluster-port 99999", "\xff\xfe", "enable-debug-command maybe", "# c\n\n \n\t\nx",
		"maxclients 0", "hz 10000", "port 5 # not a comment", "cluster-announce-hostname a_b", "busy-reply-threshold -1", "daemonize maybe",
	} {
		text += "\nthis-is-the end\n"
		write("redis.conf", text)
		want := stderrOf(t, bin, dir, "", "redis.conf")
		c := Default()
		c.Dir = dir
		c.HasCommand = commandsForTest
		got := loadErrorOf(c, c.LoadFile(filepath.Join(dir, "redis.conf")))
		if got != want {
			t.Errorf("loading %q:\n%s\ngenuine:\n%s", text, got, want)
		}
	}
	for _, text := range []string{"cluster-enabled yes\nreplicaof a 1\n", "logfile /nonexistent/x\n"} {
		write("redis.conf", text)
		want := stderrOf(t, bin, dir, "", "redis.conf")
		c := Default()
		if got := loadErrorOf(c, c.LoadFile(filepath.Join(dir, "redis.conf"))); got != want {
			t.Errorf("loading %q:\n%s\ngenuine:\n%s", text, got, want)
		}
	}
}

// stdinFiles is the real file system with another standard input.
type stdinFiles struct {
	osFiles
	text string
}

func (f stdinFiles) stdin() ([]byte, error) { return []byte(f.text), nil }

func TestArgumentsBecomeLinesLikeGenuineRedis(t *testing.T) {
	bin := redisServer(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "redis.conf")
	if err := os.WriteFile(file, []byte("hz 11\nsave 7 7"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		stdin string
		args  []string
	}{
		{"", []string{"--end", "1"}},
		{"", []string{"--port", "1", "--end", "1"}},
		{"", []string{file, "--port", "1", "2", "--hz", "5"}},
		{"", []string{file, "--port", "x\ny\"z\\"}},
		{"", []string{file, "--bind", "a b", "--end", "a b", "c"}},
		{"", []string{"--save", "--hz", "x"}},
		{"", []string{"--save", "", "--hz", "x"}},
		{"", []string{"--save", "1", "1", "--hz", "x"}},
		{"", []string{"--save 1 1", "--hz x"}},
		{"", []string{"--hz", "--port", "1", "--end", "1"}},
		{"", []string{"--masterauth", "--secret", "--end", "1"}},
		{"", []string{"--masterauth", "--secret", "x", "--end", "1"}},
		{"", []string{"--hz 5", "--end"}},
		{"", []string{"--", "x"}},
		{"", []string{"--hz", "5", "-", "--hz", "6", "--end", "1"}},
		{"hz x\n", []string{"-"}},
		{"hz x\n", []string{file, "-"}},
		{"hz x\n", []string{file, "--hz", "7", "-"}},
		{"hz x\n", []string{"-", "--hz", "7"}},
		{"hz x\n", []string{file, "-", "--hz", "7", "--end", "1"}},
		{"", []string{file, "--hz", "\"12"}},
		{"", []string{file, "--hz \"12"}},
		{"", []string{file, "x", "--hz", "12"}},
		{"", []string{"--sentinel"}},
		{"", []string{"--sentinel", "--hz", "x"}},
		{"", []string{"--save"}},
	} {
		if tc.args[len(tc.args)-1] == "--sentinel" || tc.args[len(tc.args)-1] == "--save" {
			tc.args = append(tc.args, "--end", "1")
		}
		want := stderrOf(t, bin, dir, tc.stdin, tc.args...)
		c := Default()
		c.files = stdinFiles{text: tc.stdin}
		if got := loadErrorOf(c, c.LoadArgs(tc.args)); got != want {
			t.Errorf("arguments %q:\n%s\ngenuine:\n%s", tc.args, got, want)
		}
	}
}

// TestLoadedValuesAreThoseOfGenuineRedis starts both on files with a value for
// nearly every directive that cannot be set later.
func TestLoadedValuesAreThoseOfGenuineRedis(t *testing.T) {
	for _, text := range []string{`
aclfile ""
unixsocketperm 0700
tcp-backlog 128
databases 5
syslog-ident "x y"
syslog-facility local7
cluster-config-file n.conf
cluster-port 0
appendfilename "x.aof"
appenddirname xdir
io-threads-do-reads yes
disable-thp no
set-proc-title no
always-show-logo yes
rdbchecksum no
enable-debug-command local
enable-module-command local
supervised no
bgsave_cpulist 0-1
aof_rewrite_cpulist ""
replicaof 127.0.0.1 1
logfile "DIR/log"
pidfile DIR/pid
unixsocket 'DIR/sock'
save 900 1
save 300 10
save "60 5 50 5"
hz 0
client-output-buffer-limit "slave 1gb 2gb 3"
client-output-buffer-limit pubsub 1k 2k 3 normal 1 2 3
shutdown-on-sigterm now force
notify-keyspace-events Ex
maxmemory-clients 7%
maxmemory 3mb
latency-tracking-info-percentiles 1 2.50 3
slave-priority 7
lua-time-limit 77
hash-max-ziplist-entries 9
oom-score-adj-values 1 2 3
masterauth "\x00\xffz"
proc-title-template "{{ {title} {port}"
user alice on >x ~*
LIST-MAX-ZIPLIST-ENTRIES 5
`, "include DIR/redis-*.inc\nsave 5 5\nsave 6 6\n", "save 5 5\ninclude /dev/null\nsave 6 6\n", "save \"\"\nsave 5 5\n", "save 5 5\nsave \"\"\n", "save 5 5\nsave \" \"\nsave 6 6\n", "repl-backlog-size 5\nsave 5 5\nsave 6 6\n"} {
		g := startGenuine(t, "port PORT\nbind 127.0.0.1\nappendonly no\ndir DIR\n"+text)
		theirs, ours := g.get("*"), asMap(g.loadOurs().Get("*"))
		for name, want := range theirs {
			if ours[name] != want {
				t.Errorf("%s = %q, genuine %q (file %q)", name, ours[name], want, text)
			}
		}
	}
}

func TestConfigurationShippedByDebianLoads(t *testing.T) {
	const path = "/etc/redis/redis.conf"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Skipf("%s cannot be read: %v", path, err)
	}
	// Its directories belong to a user of their own.
	kept := strings.NewReplacer("\ndir /", "\n#dir /", "\nlogfile /", "\n#logfile /").Replace(string(text))
	c := Default()
	if err := c.LoadString(kept, path); err != nil {
		t.Fatal(err)
	}
	if c.AppendOnly || c.Port != 6379 || strings.Join(c.Bind, " ") != "127.0.0.1 -::1" || !c.Daemonize {
		t.Errorf("appendonly %v, port %d, bind %q, daemonize %v", c.AppendOnly, c.Port, c.Bind, c.Daemonize)
	}
	if w := Warnings(c); len(w) != 0 {
		t.Errorf("warnings about the shipped file: %q", w)
	}
}

// rewritten splits a file into the part that was there, exactly, and what was
// appended; genuine appends in no particular order.
func rewritten(text string) (before string, appended []string) {
	before, tail, found := strings.Cut(text, rewriteSignature+"\n")
	if !found {
		return text, nil
	}
	appended = strings.Split(strings.TrimSuffix(tail, "\n"), "\n")
	slices.Sort(appended)
	return before, appended
}

func TestRewriteIsThatOfGenuineRedis(t *testing.T) {
	base := "port PORT\nbind 127.0.0.1\nappendonly no\n"
	for _, tc := range []struct {
		name, file string
		sets       [][]KV
	}{
		{"nothing changed", base, nil},
		{"no newline at the end", base + "hz 10", nil},
		{"comments and order", "# top\n\n\n\n  # indented\n" + base + "\n#between\nhz 10\n\n\n# end\n", [][]KV{{{"hz", "20"}}}},
		{"duplicates", base + "hz 10\n# a\nhz 11\nhz 12\n", nil},
		{"aliases", base + "slave-priority 5\nhash-max-ziplist-value 7\nlua-time-limit 6\n", [][]KV{{{"replica-priority", "9"}}}},
		{"save points", base + "save 5 5\nsave 6 6\nhz 12\nsave 7 7\n", [][]KV{{{"save", "8 8"}}}},
		{"more save points", base + "save 5 5\n", [][]KV{{{"save", "8 8 9 9 10 10"}}}},
		{"no save points", base + "save 5 5\nsave 6 6\n", [][]KV{{{"save", ""}}}},
		{"buffer limits", base + "client-output-buffer-limit slave 1mb 2mb 3\n", [][]KV{{{"client-output-buffer-limit", "pubsub 1025 2048 3"}}}},
		{"quoting", base + "masterauth x\n", [][]KV{{{"masterauth", "a \"b\"\n\x00\xff"}, {"masteruser", "it's"}}}},
		{"memory", base + "maxmemory 1000\n", [][]KV{{{"maxmemory", "3gb"}, {"maxmemory-clients", "9%"}, {"repl-backlog-size", "1025"}, {"hll-sparse-max-bytes", "3kb"}}}},
		{"back to default", base + "maxmemory 1000\nloglevel debug\n", [][]KV{{{"maxmemory", "0"}, {"loglevel", "notice"}}}},
		{"unset strings", base + "masterauth x\nreplica-announce-ip y\n", [][]KV{{{"masterauth", ""}, {"replica-announce-ip", ""}}}},
		{"not understood", base + "list-max-ziplist-entries 5\nlua-replicate-commands yes\ninclude /dev/null\nrename-command GET g\n", nil},
		{"replicaof", base + "slaveof 127.0.0.1 1\nreplicaof 127.0.0.1 2\n", nil},
		{"special lists", base, [][]KV{{{"oom-score-adj-values", "1 2 3"}, {"notify-keyspace-events", "KEA"}, {"latency-tracking-info-percentiles", ""}, {"shutdown-on-sigint", "force nosave"}}}},
		{"percentiles", base + "latency-tracking-info-percentiles 1 2\n", [][]KV{{{"latency-tracking-info-percentiles", "1.5 99.99"}}}},
		{"hidden", base, [][]KV{{{"key-load-delay", "1"}}}},
		{"case", "PORT PORTX\nBIND 127.0.0.1\nAppendOnly NO\n", [][]KV{{{"hz", "20"}}}},
		{"bind unset", "port PORT\nappendonly no\nbind 127.0.0.1 -::1\n", nil},
		{"password", base, [][]KV{{{"requirepass", "foo"}}}},
		{"signed before", base + rewriteSignature + "\nhz 20\n", [][]KV{{{"timeout", "3"}}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := startGenuine(t, "dir DIR\n"+strings.ReplaceAll(tc.file, "PORT PORTX", "Port PORT"))
			c := g.loadOurs()
			for _, pairs := range tc.sets {
				compareSet(t, g, c, pairs...)
			}
			ours, err := c.Rewrite()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := g.call("CONFIG", "REWRITE"); err != nil {
				t.Fatal(err)
			}
			theirs, err := os.ReadFile(g.conf)
			if err != nil {
				t.Fatal(err)
			}
			beforeOurs, addedOurs := rewritten(string(ours))
			beforeTheirs, addedTheirs := rewritten(string(theirs))
			if beforeOurs != beforeTheirs || !slices.Equal(addedOurs, addedTheirs) {
				t.Errorf("ours:\n%s\ngenuine:\n%s", ours, theirs)
			}
		})
	}
}
