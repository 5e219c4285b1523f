package sentineld

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/redis/resp"
)

// deployment is a genuine master with two genuine replicas, and Sentinels.
type deployment struct {
	t         *testing.T
	servers   []*child
	sentinels []*child
}

func deploy(t *testing.T, ours, genuine int) *deployment {
	t.Helper()
	t.Parallel() // it mostly waits
	needGenuine(t, "redis-server")
	if genuine > 0 {
		needGenuine(t, "redis-sentinel")
	}
	d := &deployment{t: t}
	master := startServer(t, "master", 0)
	d.servers = append(d.servers, master)
	for i := range 2 {
		d.servers = append(d.servers, startServer(t, fmt.Sprintf("replica%d", i+1), master.port))
	}
	for _, s := range d.servers[1:] {
		waitFor(t, s.name+" is in sync", func() error { return expectInfo(s.port, "master_link_status", "up") })
	}
	for i := range ours {
		d.sentinels = append(d.sentinels, startOurs(t, fmt.Sprintf("ours%d", i), master.port))
	}
	for i := range genuine {
		d.sentinels = append(d.sentinels, startGenuine(t, fmt.Sprintf("genuine%d", i), master.port))
	}
	for _, s := range d.sentinels { // so that a test takes seconds, not half a minute, also after a slow fsync
		if _, err := call(s.port, "SENTINEL", "DEBUG", "INFO-PERIOD", "1000", "PUBLISH-PERIOD", "300", "TILT-PERIOD", "3000"); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range d.sentinels {
		waitFor(t, s.name+" knows all", func() error {
			v, err := call(s.port, "SENTINEL", "MASTER", "mymaster")
			if err != nil {
				return err
			}
			f := fields(v)
			if f["num-slaves"] != "2" || f["num-other-sentinels"] != strconv.Itoa(len(d.sentinels)-1) || f["flags"] != "master" {
				return fmt.Errorf("%v", f)
			}
			return nil
		})
	}
	return d
}

// downAfter changes at all Sentinels how long a silence is the end.
func (d *deployment) downAfter(ms string) {
	d.t.Helper()
	for _, s := range d.sentinels {
		if _, err := call(s.port, "SENTINEL", "SET", "mymaster", "down-after-milliseconds", ms); err != nil {
			d.t.Fatal(err)
		}
	}
}

func expectInfo(port int, key, want string) error {
	v, err := call(port, "INFO", "replication")
	if err != nil {
		return err
	}
	for _, l := range strings.Split(string(v.Str), "\r\n") {
		if k, got, _ := strings.Cut(l, ":"); k == key {
			if got == want {
				return nil
			}
			return fmt.Errorf("%s is %s", key, got)
		}
	}
	return fmt.Errorf("INFO has no %s", key)
}

// masterPort waits until all Sentinels name one master other than not.
func (d *deployment) masterPort(not int) int {
	d.t.Helper()
	port := 0
	waitFor(d.t, "all Sentinels agree on a new master", func() error {
		seen := map[int]bool{}
		for _, s := range d.sentinels {
			v, err := call(s.port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")
			if err != nil {
				return err
			}
			if len(v.Elems) != 2 {
				return fmt.Errorf("%s says %v", s.name, v)
			}
			if port, err = strconv.Atoi(v.Elems[1].String()); err != nil {
				return err
			}
			seen[port] = true
		}
		if len(seen) != 1 || port == not {
			return fmt.Errorf("they say %v", seen)
		}
		return nil
	})
	return port
}

// failover kills the master, waits for the next one, brings the old one back
// and waits until it follows; the data written before must be there.
func (d *deployment) failover() {
	t := d.t
	t.Helper()
	old := d.servers[0]
	w, err := dial(old.port)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	if v, err := w.do("SET", "key", "value"); err != nil || v.Err() != nil {
		t.Fatal(err, v)
	}
	if v, err := w.do("WAIT", "2", "20000"); err != nil || v.Int != 2 {
		t.Fatalf("WAIT: %v %v", v.Int, err)
	}
	events, err := dial(d.sentinels[0].port)
	if err != nil {
		t.Fatal(err)
	}
	defer events.close()
	if _, err := events.do("SUBSCRIBE", "+switch-master"); err != nil {
		t.Fatal(err)
	}
	old.kill()
	d.downAfter(brisk)
	port := d.masterPort(old.port)
	d.downAfter(calm)
	waitFor(t, "the new master has the data", func() error {
		v, err := call(port, "GET", "key")
		if err == nil && string(v.Str) != "value" {
			err = fmt.Errorf("GET says %q", v.Str)
		}
		return err
	})
	if err := events.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	v, err := events.r.Read()
	want := fmt.Sprintf("mymaster 127.0.0.1 %d 127.0.0.1 %d", old.port, port)
	if err != nil || len(v.Elems) != 3 || string(v.Elems[2].Str) != want {
		t.Errorf("event %v, %v, want %q", v, err, want)
	}
	old.start()
	port = d.masterPort(old.port)
	waitFor(t, "the old master follows", func() error { return expectInfo(old.port, "master_port", strconv.Itoa(port)) })
	for _, s := range d.servers {
		if s.port != port {
			waitFor(t, s.name+" is in sync again", func() error { return expectInfo(s.port, "master_link_status", "up") })
		}
	}
}

// Issue: ours over genuine servers, with a kill and a recovery.
func TestThreeOfOursOverGenuineServers(t *testing.T) {
	deploy(t, 3, 0).failover()
}

// Issue: mixed quorums of two and one.
func TestTwoOfOursAndOneGenuineSentinel(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	deploy(t, 2, 1).failover()
}

// Issue: mixed quorums of one and two.
func TestOneOfOursAndTwoGenuineSentinels(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	deploy(t, 1, 2).failover()
}

// With one of three Sentinels gone the mixed rest must still elect a leader:
// ours needs the genuine one's vote or the other way round.
func TestGenuineAndOursVoteForEachOther(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	d := deploy(t, 2, 1)
	d.sentinels[1].kill()
	d.sentinels = []*child{d.sentinels[0], d.sentinels[2]}
	d.failover()
}

// SENTINEL FAILOVER moves the master of a healthy deployment.
func TestFailoverByCommand(t *testing.T) {
	d := deploy(t, 1, 0)
	old := d.servers[0].port
	// NOGOODSLAVE until a replica has told its priority.
	waitFor(t, "the failover is begun", func() error {
		_, err := call(d.sentinels[0].port, "SENTINEL", "FAILOVER", "mymaster")
		return err
	})
	port := d.masterPort(old)
	waitFor(t, "the old master follows", func() error { return expectInfo(old, "master_port", strconv.Itoa(port)) })
}

// knowsAll complains of those whom a Sentinel has only been told of as yet.
func knowsAll(s *child) error {
	for flags, args := range map[string][]string{
		"master": {"SENTINEL", "MASTERS"}, "slave": {"SENTINEL", "REPLICAS", "mymaster"}, "sentinel": {"SENTINEL", "SENTINELS", "mymaster"},
	} {
		v, err := call(s.port, args...)
		if err != nil {
			return err
		}
		for _, e := range v.Elems {
			if f := fields(e); f["runid"] == "" || f["flags"] != flags || flags == "slave" && f["master-link-status"] != "ok" {
				return fmt.Errorf("%v", f)
			}
		}
	}
	return nil
}

var volatile = regexp.MustCompile(`^(-?[0-9]+|[0-9a-f]{40})$`)

// shape renders a reply with its types, masking numbers and ids, which differ
// from process to process. Lists of instances have no order in Redis.
func shape(v resp.Value) string {
	switch {
	case v.IsNull():
		return "nil"
	case len(v.Elems) > 0 || strings.IndexByte("*%~>", v.Kind) >= 0:
		var parts []string
		for _, e := range v.Elems {
			parts = append(parts, shape(e))
		}
		if v.Kind == '~' || len(v.Elems) > 0 && len(v.Elems[0].Elems) > 0 { // a set, or a list of instances
			sort.Strings(parts)
		}
		return string(v.Kind) + "[" + strings.Join(parts, " ") + "]"
	case v.Kind == ':':
		return ":N"
	}
	s := string(v.Str)
	if volatile.MatchString(s) {
		s = "N"
	}
	if strings.HasPrefix(s, "# ") || strings.Contains(s, "redis_version:") {
		s = infoShape(s)
	}
	if strings.HasPrefix(s, "id=") {
		s = regexp.MustCompile(`=[^ \n]*`).ReplaceAllString(s, "=")
	}
	return string(v.Kind) + s
}

// infoShape keeps the names of the fields of INFO.
func infoShape(s string) string {
	var names []string
	for _, l := range strings.Split(s, "\r\n") {
		k, _, _ := strings.Cut(l, ":")
		names = append(names, k)
	}
	return strings.Join(names, ",")
}

// The replies of SENTINEL and its companions have the shape, the order and the
// error texts of the genuine program, in RESP2 and RESP3.
func TestRepliesHaveTheShapeOfGenuine(t *testing.T) {
	needGenuine(t, "redis-server", "redis-sentinel")
	script, err := os.ReadFile(filepath.Join("testdata", "shape.txt"))
	if err != nil {
		t.Fatal(err)
	}
	d := deploy(t, 1, 1)
	ours, genuine := d.sentinels[0], d.sentinels[1]
	for _, s := range d.sentinels {
		waitFor(t, s.name+" has heard of everybody", func() error { return knowsAll(s) })
	}
	compared := 0
	for _, proto := range []string{"2", "3"} {
		a, err := dial(ours.port)
		if err != nil {
			t.Fatal(err)
		}
		defer a.close()
		b, err := dial(genuine.port)
		if err != nil {
			t.Fatal(err)
		}
		defer b.close()
		run := func(args []string) {
			t.Helper()
			va, err := a.do(args...)
			if err != nil {
				t.Fatalf("ours, %q: %v", args, err)
			}
			vb, err := b.do(args...)
			if err != nil {
				t.Fatalf("genuine, %q: %v", args, err)
			}
			compared++
			if sa, sb := shape(va), shape(vb); sa != sb {
				t.Errorf("RESP%s %q:\n   ours %s\ngenuine %s", proto, args, sa, sb)
			}
		}
		run([]string{"HELLO", proto})
		for _, line := range strings.Split(string(script), "\n") {
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			args := strings.Fields(strings.ReplaceAll(line, "$PORT", strconv.Itoa(d.servers[0].port)))
			for i, s := range args {
				if s == `""` {
					args[i] = ""
				}
			}
			run(args)
		}
	}
	t.Logf("%d replies compared", compared)
}

// otherProgram starts the genuine Sentinel on the file of ours, and ours on
// that of the genuine one.
func otherProgram(s *child) func() *exec.Cmd {
	path := filepath.Join(s.dir, "sentinel.conf")
	if strings.HasPrefix(s.name, "ours") {
		return func() *exec.Cmd { return exec.Command("redis-sentinel", path) }
	}
	return oursOn(path)
}

// What ours writes, the genuine program reads, and the other way round.
func TestConfigurationFileIsShared(t *testing.T) {
	needGenuine(t, "redis-server", "redis-sentinel")
	d := deploy(t, 1, 1)
	for _, s := range d.sentinels {
		before, err := call(s.port, "SENTINEL", "MYID")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := call(s.port, "SENTINEL", "FLUSHCONFIG"); err != nil {
			t.Fatal(err)
		}
		s.kill()
		s.restart = otherProgram(s)
		s.start()
		after, err := call(s.port, "SENTINEL", "MYID")
		if err != nil || string(after.Str) != string(before.Str) {
			t.Errorf("%s with the other program: id %s, was %s (%v)", s.name, after.Str, before.Str, err)
		}
		v, err := call(s.port, "SENTINEL", "MASTER", "mymaster")
		if f := fields(v); err != nil || f["num-slaves"] != "2" || f["num-other-sentinels"] != "1" || f["quorum"] != "2" ||
			f["down-after-milliseconds"] != calm {
			t.Errorf("%s with the other program knows %v (%v)", s.name, f, err)
		}
		text, err := os.ReadFile(filepath.Join(s.dir, "sentinel.conf"))
		if err != nil || !strings.HasPrefix(string(text), "# kept\n") {
			t.Errorf("the operator's comment is lost: %v\n%s", err, text)
		}
	}
}

// A file that may not be written: state lives in two generations beside it,
// and survives a restart.
func TestReadOnlyConfigurationKeepsStateBesideIt(t *testing.T) {
	port := freePort(t)
	s := startOurs(t, "ours", port)
	conf := filepath.Join(s.dir, "sentinel.conf")
	s.kill()
	if err := os.Chmod(conf, 0o444); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	s.start()
	id, err := call(s.port, "SENTINEL", "MYID")
	if err != nil {
		t.Fatal(err)
	}
	vote, err := call(s.port, "SENTINEL", "IS-MASTER-DOWN-BY-ADDR", "127.0.0.1", strconv.Itoa(port), "7", "candidate-one")
	if err != nil || vote.Elems[1].String() != "candidate-one" {
		t.Fatalf("vote %v %v", vote, err)
	}
	if _, err := call(s.port, "SENTINEL", "FLUSHCONFIG"); err != nil { // the second generation
		t.Fatal(err)
	}
	s.kill()
	s.start()
	again, err := call(s.port, "SENTINEL", "MYID")
	if err != nil || again.String() != id.String() {
		t.Errorf("the id was %s and is %s (%v)", id, again, err)
	}
	vote, err = call(s.port, "SENTINEL", "IS-MASTER-DOWN-BY-ADDR", "127.0.0.1", strconv.Itoa(port), "7", "candidate-two")
	if err != nil || vote.Elems[1].String() == "candidate-two" {
		t.Errorf("a second vote in epoch 7: %v (%v)", vote, err)
	}
	if after, err := os.ReadFile(conf); err != nil || string(after) != string(before) {
		t.Errorf("the read-only file changed (%v)", err)
	}
	// One damaged generation costs nothing.
	s.kill()
	newest := filepath.Join(s.dir, "sentinel-state.0")
	data, err := os.ReadFile(newest)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-2] ^= 1
	if err := os.WriteFile(newest, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s.start()
	if again, err := call(s.port, "SENTINEL", "MYID"); err != nil || again.String() != id.String() {
		t.Errorf("with one damaged generation the id is %s (%v)", again, err)
	}
}

// A Sentinel that is stopped and continued does not accuse a healthy master.
func TestPausedSentinelDoesNotAccuse(t *testing.T) {
	needGenuine(t, "redis-server")
	d := deploy(t, 1, 0)
	s := d.sentinels[0]
	d.downAfter("5000")
	if err := s.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(6500 * time.Millisecond) // the pause is the thing under test, not a wait
	if err := s.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the pause is noticed", func() error {
		if !strings.Contains(s.logText(), "This Sentinel stood still for") {
			return fmt.Errorf("not in the log")
		}
		return nil
	})
	last := 0
	waitFor(t, "PING goes on", func() error {
		v, err := call(s.port, "SENTINEL", "MASTER", "mymaster")
		if err != nil {
			return err
		}
		if n, _ := strconv.Atoi(fields(v)["last-ok-ping-reply"]); n < 200 {
			last++
		}
		if last < 3 {
			return fmt.Errorf("%d fresh replies", last)
		}
		return nil
	})
	if strings.Contains(s.logText(), "+sdown") {
		t.Error("it took its own pause for the silence of others")
	}
}

// Notification scripts get the type and the text of the event.
func TestNotificationScriptRuns(t *testing.T) {
	dir := t.TempDir()
	script, out := filepath.Join(dir, "notify.sh"), filepath.Join(dir, "out")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"$1|$2\" >> "+out+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	startOurs(t, "ours", port, "sentinel notification-script mymaster "+script, "sentinel down-after-milliseconds mymaster 1500")
	want := fmt.Sprintf("+sdown|master mymaster 127.0.0.1 %d\n", port)
	waitFor(t, "the script has run", func() error {
		b, err := os.ReadFile(out)
		if err == nil && !strings.Contains(string(b), want) {
			err = fmt.Errorf("it wrote %q", b)
		}
		return err
	})
}

// requirepass: nothing but AUTH and HELLO before the password.
func TestPassword(t *testing.T) {
	port := freePort(t)
	dir, path := sentinelConf(t, port, freePort(t), "requirepass secret")
	_ = dir
	l, err := Load([]string{path})
	if err != nil || l.Config.RequirePass != "secret" || len(l.state.Masters) != 1 {
		t.Fatalf("load: %v", err)
	}
	s := newShell(l.Config, quiet(t, l.Config))
	mine, theirs := net.Pipe()
	defer mine.Close()
	s.welcome(theirs)
	w := &wire{mine, resp.NewReader(mine)}
	for _, step := range [][2]string{
		{"PING", "-NOAUTH Authentication required."},
		{"HELLO 3", "-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time"},
		{"AUTH wrong", "-" + wrongPass},
		{"AUTH nobody secret", "-" + wrongPass},
		{"AUTH secret", "+OK"},
		{"PING", "+PONG"},
	} {
		v, err := w.do(strings.Fields(step[0])...)
		if got := string(v.Kind) + string(v.Str); err != nil || got != step[1] {
			t.Errorf("%s: %q (%v)", step[0], got, err)
		}
	}
}
