package sentinel

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"holdfast/internal/redis/sds"
)

// ask runs one command and returns its reply and the events of that step.
func ask(t *testing.T, c *Core, now time.Time, args ...string) (Value, []Event) {
	t.Helper()
	var reply *Value
	var events []Event
	for _, e := range c.Step(now, Command{Client: 1, Args: args}) {
		switch e := e.(type) {
		case Reply:
			reply = &e.Value
		case Event:
			events = append(events, e)
		}
	}
	if reply == nil {
		t.Fatalf("no reply to %q", args)
	}
	return *reply, events
}

// readBack makes a configuration of the lines of another, as a restart does.
func readBack(t *testing.T, cfg *Config) *Config {
	t.Helper()
	again := NewConfig()
	for phase := 0; phase <= 2; phase++ {
		for _, l := range cfg.Lines() {
			parts, err := sds.SplitArgs([]byte(l.Text))
			if err != nil || strings.ContainsAny(l.Text, "\r\n") {
				t.Fatalf("%q is not one line of a file: %v", l.Text, err)
			}
			var args []string
			for _, p := range parts[1:] {
				args = append(args, string(p))
			}
			if LoadPhase(args) != phase {
				continue
			}
			if err := again.Apply(args, nil); err != nil {
				t.Fatalf("%q: %v", l.Text, err)
			}
		}
	}
	return again
}

// Redis 7.0.15 takes any name, and writes it as it is: with a blank or a quote
// in it Redis cannot read its file again. Here the file holds every name.
func TestMastersHaveAnyNameAndKeepIt(t *testing.T) {
	for name, written := range map[string]string{
		"plain":    "plain",
		"a,b":      "a,b",
		"#x":       "#x",
		"*":        "*",
		`a\b`:      `a\b`,
		"\xff\xfe": "\xff\xfe",
		"a\x07b":   "a\x07b",
		"":         `""`,
		"a b":      `"a b"`,
		" a":       `" a"`,
		"a\nb":     `"a\nb"`,
		"a\rb":     `"a\rb"`,
		"a\tb":     `"a\tb"`,
		"a\vb":     `"a\x0bb"`,
		"a\x00b":   `"a\x00b"`,
		`a"b`:      `"a\"b"`,
		"a'b":      `"a'b"`,
		`"a b"`:    `"\"a b\""`,
	} {
		c, now := testCore(t)
		if v, _ := ask(t, c, now, "SENTINEL", "MONITOR", name, "127.0.0.1", "6379", "2"); v.Str != "OK" {
			t.Errorf("MONITOR %q: %v", name, v)
			continue
		}
		if v, _ := ask(t, c, now, "SENTINEL", "SET", name, "auth-pass", name); v.Str != "OK" {
			t.Errorf("SET %q: %v", name, v)
		}
		cfg := c.Snapshot()
		want := "sentinel monitor " + written + " 127.0.0.1 6379 2"
		found := false
		for _, l := range cfg.Lines() {
			found = found || l.Text == want
		}
		if !found {
			t.Errorf("%q: no line %q", name, want)
		}
		if got := readBack(t, cfg).Masters; len(got) != 1 || got[0].Name != name || got[0].AuthPass != name {
			t.Errorf("%q is read back as %+v", name, got)
		}
	}
	c, now := testCore(t)
	if v, _ := ask(t, c, now, "SENTINEL", "MONITOR", strings.Repeat("x", maxMasterName+1), "127.0.0.1", "6379", "2"); v.Kind != Error {
		t.Error("a name without bound was taken")
	}
}

// An event is as long as in Redis, whatever the name.
func TestEventsAreCut(t *testing.T) {
	c, now := testCore(t)
	_, events := ask(t, c, now, "SENTINEL", "MONITOR", strings.Repeat("x", 2000), "127.0.0.1", "6379", "2")
	if len(events) != 1 || len(events[0].Text) != 1023 || !strings.HasPrefix(events[0].Text, "master xxx") {
		t.Fatalf("events %+v", events)
	}
}

// The answers of getaddrinfo with AI_NUMERICHOST, as Redis 7.0.15 shows them.
func TestAddressesInNumbers(t *testing.T) {
	for s, want := range map[string]string{
		"127.0.0.1": "127.0.0.1", "127.1": "127.0.0.1", "1.2.3": "1.2.0.3", "0127.0.0.1": "87.0.0.1",
		"0x7f.1": "127.0.0.1", "0x7f000001": "127.0.0.1", "017700000001": "127.0.0.1", "256": "0.0.1.0", "0": "0.0.0.0",
		"::0001": "::1", "0:0:0:0:0:0:0:1": "::1", "FE80::AB": "fe80::ab", "::ffff:1.2.3.4": "::ffff:1.2.3.4",
		"127.0.0.256": "", "127.0.0.1.": "", "1.2.3.4.5": "", "1..2": "", "4294967296": "", "08.1": "", "0x": "",
		"256.1": "", "1.16777216": "", "": "", " 127.0.0.1": "", "localhost": "", "fe80::1%lo": "", "1_0.1": "",
	} {
		if got, ok := numericIP(s); ok != (want != "") || (ok && got != want) {
			t.Errorf("%q is %q, %v; want %q", s, got, ok, want)
		}
	}
	c, now := testCore(t)
	if v, _ := ask(t, c, now, "SENTINEL", "MONITOR", "m", "127.1", "6379", "2"); v.Str != "OK" {
		t.Fatalf("MONITOR: %v", v)
	}
	if v, _ := ask(t, c, now, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "m"); v.Elems[0].Str != "127.0.0.1" {
		t.Fatalf("announced as %v", v)
	}
}

// The times of a file are read by atoi, those of a command are not.
func TestTimesOfDirectivesEndAtTheFirstOtherByte(t *testing.T) {
	cfg := NewConfig()
	for _, l := range [][]string{
		{"monitor", "m", "127.0.0.1", "6379", "2"}, {"down-after-milliseconds", "m", "12x"},
		{"failover-timeout", "m", " 34 5"}, {"master-reboot-down-after-period", "m", "+56"},
	} {
		if err := cfg.Apply(l, nil); err != nil {
			t.Fatalf("%q: %v", l, err)
		}
	}
	m := cfg.Masters[0]
	if got := fmt.Sprint(ms(m.DownAfter), ms(m.FailoverTimeout), ms(m.RebootDownAfter)); got != "12 34 56" {
		t.Fatalf("read as %s", got)
	}
	for _, bad := range []string{"x", "", "-1x", "0"} {
		if err := cfg.Apply([]string{"down-after-milliseconds", "m", bad}, nil); err != ErrTime {
			t.Errorf("%q: %v", bad, err)
		}
	}
	c, now := testCore(t, "monitor m 127.0.0.1 6379 2")
	if v, _ := ask(t, c, now, "SENTINEL", "SET", "m", "down-after-milliseconds", "12x"); v.Kind != Error {
		t.Errorf("SET took 12x: %v", v)
	}
}

// announce-ip is not judged: it may be a name that only others can resolve.
func TestAnyAnnounceIPIsTaken(t *testing.T) {
	for _, ip := range []string{"a b", "x\"y", "a\nb", "fe80::1%eth0", ""} {
		c, now := testCore(t)
		if v, _ := ask(t, c, now, "SENTINEL", "CONFIG", "SET", "announce-ip", ip); v.Str != "OK" {
			t.Errorf("%q: %v", ip, v)
		}
		if got := readBack(t, c.Snapshot()).AnnounceIP; got != ip {
			t.Errorf("%q is read back as %q", ip, got)
		}
	}
}

// What a name resolved to at the start is used from the first event on, and for
// the names of replicas, so that INFO of the master does not bring them twice.
// A name without a number is watched nevertheless, and asked for.
func TestHostNamesOfTheFile(t *testing.T) {
	cfg := NewConfig()
	for _, l := range []string{
		"resolve-hostnames yes", "monitor m red.test 6379 2", "monitor n gone.test 6379 2", "known-replica m blue.test 6380",
		"known-replica m RED.test 6381", "known-sentinel m far.test 26379 " + strings.Repeat("a", 40),
	} {
		if err := cfg.Apply(strings.Fields(l), nil); err != nil {
			t.Fatalf("%s: %v", l, err)
		}
	}
	if got := fmt.Sprint(cfg.HostNames()); got != "[red.test blue.test far.test gone.test]" {
		t.Fatalf("host names %s", got)
	}
	now := time.Unix(1e9, 0)
	c, err := New(now, cfg, Options{Rand: rand.New(rand.NewPCG(1, 1)), Port: 26379,
		Hosts: map[string]string{"red.test": "10.0.0.1", "blue.test": "10.0.0.2", "far.test": "10.0.0.3", "gone.test": ""}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range c.Start(now) {
		switch e := e.(type) {
		case Event:
			got = append(got, e.Type+" "+e.Text)
		case Resolve:
			got = append(got, "resolve "+e.Host)
		}
	}
	want := "resolve gone.test|+monitor master m 10.0.0.1 6379 quorum 2|+monitor master n gone.test 6379 quorum 2"
	if s := strings.Join(got, "|"); s != want {
		t.Fatalf("started with %s", s)
	}
	for i, name := range []string{"10.0.0.2:6380", "10.0.0.1:6381"} {
		if r := c.byName["m"].replicas[i]; r.name != name {
			t.Errorf("replica %d is %s, not %s", i, r.name, name)
		}
	}
	for _, bad := range []string{"a b", "", "x,y"} {
		if err := cfg.Apply([]string{"monitor", "bad", bad, "6379", "2"}, nil); err != ErrCannotResolve {
			t.Errorf("host %q: %v", bad, err)
		}
	}
}

// step hands in one input and returns the events and questions of it.
func step(c *Core, now time.Time, in Input) string {
	var got []string
	for _, e := range c.Step(now, in) {
		switch e := e.(type) {
		case Event:
			got = append(got, e.Type+" "+e.Text)
		case Resolve:
			got = append(got, "resolve "+e.Host)
		}
	}
	return strings.Join(got, "|")
}

// Who is known by his number is not taken in again by his name. A replica that
// is there twice would be written twice, and the next start refused.
func TestOneServerUnderTwoNames(t *testing.T) {
	c, now := testCore(t, "resolve-hostnames yes", "monitor m 10.0.0.1 6379 2", "known-replica m 10.0.0.2 6380")
	m := c.byName["m"]
	want := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Fatalf("%s: %q, want %q", what, got, want)
		}
	}
	names := func() string {
		var s []string
		for _, r := range m.replicas {
			s = append(s, r.name)
		}
		return strings.Join(s, " ")
	}
	c.begin(now)
	c.onInfo(&m.instance, "role:master\r\nslave0:ip=blue.test,port=6380,state=online\r\nslave1:ip=green.test,port=6381,state=online\r\n"+
		"slave2:ip=pink.test,port=6380,state=online\r\n")
	c.end()
	want("before the names have numbers", names(), "10.0.0.2:6380")
	want("blue", step(c, now, Resolved{"blue.test", "10.0.0.2"}), "")
	want("green", step(c, now, Resolved{"green.test", "10.0.0.3"}), "+slave slave 10.0.0.3:6381 10.0.0.3 6381 @ m 10.0.0.1 6379")
	want("pink has none", step(c, now, Resolved{"pink.test", ""}), "resolve pink.test|+slave slave pink.test:6380 pink.test 6380 @ m 10.0.0.1 6379")
	want("all are in", names(), "10.0.0.2:6380 10.0.0.3:6381 pink.test:6380")
	step(c, now, Resolved{"pink.test", "10.0.0.2"})
	want("pink was blue", names(), "10.0.0.2:6380 10.0.0.3:6381")

	m.promotedReplica = m.replicas[1]
	m.replicas = append(m.replicas, newInstance(now, kindReplica, "red.test:6381", Addr{Host: "red.test", Port: 6381}, m))
	m.promotedReplica = m.replicas[2]
	step(c, now, Resolved{"red.test", "10.0.0.3"})
	want("the promoted one stays", names(), "10.0.0.2:6380 red.test:6381")
}

// The same of peers: a hello by name is from whom we know by number, and a new
// run id at an address that was of another one replaces that.
func TestPeersAreKnownByNameAndNumber(t *testing.T) {
	id := func(b string) string { return strings.Repeat(b, 40) }
	c, now := testCore(t, "resolve-hostnames yes", "monitor m red.test 6379 2", "known-sentinel m 10.0.0.9 26379 "+id("a"))
	hello := func(host, port, who string) string {
		return step(c, now, Command{Client: 1, Args: []string{"PUBLISH", helloChannel, host + "," + port + "," + id(who) + ",0,m,10.0.0.1,6379,0"}})
	}
	for _, s := range []struct{ what, got, want string }{
		{"red", step(c, now, Resolved{"red.test", "10.0.0.1"}), ""},
		{"a by name", hello("far.test", "26379", "a"), "resolve far.test"},
		{"b is new", hello("near.test", "26379", "b"), "resolve near.test"},
		{"far", step(c, now, Resolved{"far.test", "10.0.0.9"}), ""},
		{"near", step(c, now, Resolved{"near.test", "10.0.0.8"}), ""},
		{"a again", hello("far.test", "26379", "a"), ""},
		{"b again", hello("near.test", "26379", "b"), "+sentinel sentinel " + id("b") + " 10.0.0.8 26379 @ m 10.0.0.1 6379"},
		{"c is where a was", hello("far.test", "26379", "c"), "+sentinel-invalid-addr sentinel " + id("a") + " 10.0.0.9 26379 @ m 10.0.0.1 6379|" +
			"+sentinel sentinel " + id("c") + " 10.0.0.9 26379 @ m 10.0.0.1 6379"},
	} {
		if s.got != s.want {
			t.Fatalf("%s: %q, want %q", s.what, s.got, s.want)
		}
	}
	// They ask by the name or the number of the master, whichever they announce.
	for _, host := range []string{"red.test", "RED.TEST", "10.0.0.1"} {
		v, _ := ask(t, c, now, "SENTINEL", "IS-MASTER-DOWN-BY-ADDR", host, "6379", "1", id("b"))
		if v.Elems[1].Str != id("b") {
			t.Errorf("asked for %s: %v", host, v)
		}
	}
	c.hosts["other.test"] = "10.0.0.1"
	if v, _ := ask(t, c, now, "SENTINEL", "IS-MASTER-DOWN-BY-ADDR", "other.test", "6379", "1", id("b")); v.Elems[1].Str != id("b") {
		t.Errorf("asked by another name of it: %v", v)
	}
}

// A newer configuration is taken with its address or not at all, also where all
// servers have one port and the name of the new master has no number yet. The
// new master is no replica of itself, whatever its names.
func TestNewerConfigurationIsTakenWhole(t *testing.T) {
	peer := strings.Repeat("a", 40)
	for _, fails := range []bool{false, true} {
		c, now := testCore(t, "resolve-hostnames yes", "monitor m 10.0.0.1 6379 2", "known-replica m 10.0.0.2 6379",
			"known-sentinel m 10.0.0.9 26379 "+peer)
		m := c.byName["m"]
		hello := Command{Client: 1, Args: []string{"PUBLISH", helloChannel, "10.0.0.9,26379," + peer + ",7,m,blue.test,6379,7"}}
		step(c, now, hello)
		if m.configEpoch != 0 || m.addr.IP != "10.0.0.1" {
			t.Fatalf("epoch %d at %v before the name has a number", m.configEpoch, m.addr)
		}
		name := "10.0.0.2"
		if fails {
			step(c, now, Resolved{"blue.test", ""})
			name = "blue.test"
		} else {
			step(c, now, Resolved{"blue.test", "10.0.0.2"})
		}
		got := step(c, now, hello)
		if want := "+switch-master m 10.0.0.1 6379 blue.test 6379"; m.configEpoch != 7 || !strings.Contains(got, want) {
			t.Fatalf("epoch %d, %s", m.configEpoch, got)
		}
		if c.announce(m.addr) != name {
			t.Fatalf("the master is %v", m.addr)
		}
		step(c, now, Resolved{"blue.test", "10.0.0.2"})
		if len(m.replicas) != 1 || m.replicas[0].addr.IP != "10.0.0.1" || m.addr.IP != "10.0.0.2" {
			t.Fatalf("%d replicas, the first %v, of %v", len(m.replicas), m.replicas[0].addr, m.addr)
		}
	}
}
