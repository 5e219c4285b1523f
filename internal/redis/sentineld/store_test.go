package sentineld

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/redis/config"
	"holdfast/internal/redis/logline"
	"holdfast/internal/redis/process"
	"holdfast/internal/redis/sentinel"
)

// A state file is believed only when its checksum holds.
func FuzzStateFile(f *testing.F) {
	f.Add([]byte("holdfast-sentinel-state 1 generation=1 operator=00000000 length=0 crc32c=00000000\n"))
	f.Add([]byte("holdfast-sentinel-state 1 generation=-1 operator=zz length=99999999999999999999 crc32c=0\nx"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _, cfg, ok := parseState(data)
		if ok && cfg == nil {
			t.Fatal("a whole state without a configuration")
		}
	})
}

// sentinel.conf as a whole, with the base directives.
func FuzzSentinelConf(f *testing.F) {
	f.Add("port 26379\nsentinel monitor m 127.0.0.1 6379 2\nsentinel auth-pass m \"a b\"\n")
	f.Add("sentinel known-sentinel m 127.0.0.1 1 x\nsentinel\nsentinel \"\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, word := range []string{"logfile", "include", "dir", "acl", "resolve-hostnames"} {
			if strings.Contains(strings.ToLower(text), word) {
				t.Skip() // touches files or the network
			}
		}
		c := config.Default()
		c.EnterSentinelMode()
		if err := c.LoadString(text, "fuzz"); err != nil {
			return
		}
		cfg := sentinel.NewConfig()
		for _, l := range c.SentinelLines {
			_ = cfg.Apply(l.Args, func(string) bool { return false }) // most lines are wrong
		}
		var b bytes.Buffer
		for _, l := range cfg.Lines() {
			b.WriteString(l.Text + "\n")
		}
		c2 := config.Default()
		c2.EnterSentinelMode()
		if err := c2.LoadString(b.String(), "written"); err != nil {
			t.Fatalf("what was written cannot be read: %v\n%s", err, b.String())
		}
		again := sentinel.NewConfig()
		for phase := 0; phase <= 2; phase++ {
			for _, l := range c2.SentinelLines {
				if sentinel.LoadPhase(l.Args) != phase {
					continue
				}
				if err := again.Apply(l.Args, nil); err != nil {
					t.Fatalf("what was written cannot be read: %q: %v", l.Text, err)
				}
			}
		}
		for i, l := range again.Lines() {
			if want := cfg.Lines()[i]; l != want {
				t.Fatalf("read back %q, was %q", l.Text, want.Text)
			}
		}
	})
}

func testStore(t *testing.T, text string) (*store, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sentinel.conf")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	c := config.Default()
	if err := c.LoadArgs([]string{path, "--sentinel", "--dir", filepath.Dir(path)}); err != nil {
		t.Fatal(err)
	}
	return newStore(c, quiet(t, c)), path
}

// A line of the operator's is replaced however it is written; a second one of
// the same master would refuse the next start. What he says although it is the
// default stays, what he does not say is not added.
func TestSavedFileHasEachDirectiveOnce(t *testing.T) {
	st, path := testStore(t, "SENTINEL MONITOR m 127.0.0.1 1 1\nSentinel Resolve-Hostnames no\n")
	if err := st.saveFile(stateWith(3)); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for what, want := range map[string]int{"sentinel monitor m ": 1, "sentinel resolve-hostnames no\n": 1, "announce-hostnames": 0} {
		if got := strings.Count(strings.ToLower(string(text)), what); got != want {
			t.Errorf("%q stands %d times, not %d:\n%s", what, got, want, text)
		}
	}
}

// quiet is a log that nobody reads.
func quiet(t *testing.T, c *config.Config) *process.Logger {
	t.Helper()
	log, err := process.NewLogger(process.LogOptions{Config: c, Output: io.Discard, Role: func() byte { return logline.Sentinel }})
	if err != nil {
		t.Fatal(err)
	}
	return log
}

func stateWith(epoch uint64) *sentinel.Config {
	cfg := sentinel.NewConfig()
	cfg.MyID = strings.Repeat("a", 40)
	cfg.CurrentEpoch = epoch
	for _, l := range []string{"monitor m 127.0.0.1 6379 2", "auth-pass m s3cret#", "known-replica m 127.0.0.1 6380"} {
		if err := cfg.Apply(strings.Fields(l), nil); err != nil {
			panic(err)
		}
	}
	cfg.Masters[0].LeaderEpoch = epoch
	return cfg
}

// The two generations: the newer whole one counts; none whole refuses the start.
func TestDamagedStateIsNeverGuessedOver(t *testing.T) {
	const operator = "sentinel monitor m 127.0.0.1 6379 2\n"
	st, path := testStore(t, operator)
	if err := os.Chmod(path, 0o444); err != nil {
		t.Fatal(err)
	}
	if _, err := st.restore(stateWith(0)); err != nil {
		t.Fatal(err)
	}
	for epoch := uint64(1); epoch <= 2; epoch++ {
		if err := st.save(stateWith(epoch)); err != nil {
			t.Fatal(err)
		}
	}
	again := newStore(st.base, st.log)
	got, err := again.restore(stateWith(0))
	if err != nil || got.CurrentEpoch != 2 || got.Masters[0].LeaderEpoch != 2 || got.Masters[0].AuthPass != "s3cret#" {
		t.Fatalf("restored %+v, %v", got, err)
	}
	damage := func(gen uint64) {
		t.Helper()
		data, err := os.ReadFile(st.statePath(gen))
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/2] ^= 4
		if err := os.WriteFile(st.statePath(gen), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	damage(2)
	again = newStore(st.base, st.log)
	if got, err := again.restore(stateWith(0)); err != nil || got.CurrentEpoch != 1 {
		t.Fatalf("with generation 2 damaged: %+v, %v", got, err)
	}
	damage(1)
	again = newStore(st.base, st.log)
	if _, err := again.restore(stateWith(0)); err == nil {
		t.Fatal("started although both generations are damaged")
	}
}

// An operator's change of a read-only file counts, what was learned stays; a
// file that can be written again takes everything back.
func TestOperatorsChangeIsMerged(t *testing.T) {
	st, path := testStore(t, "sentinel monitor m 127.0.0.1 6379 2\n")
	if err := os.Chmod(path, 0o444); err != nil {
		t.Fatal(err)
	}
	if _, err := st.restore(stateWith(0)); err != nil {
		t.Fatal(err)
	}
	learned := stateWith(9)
	learned.Masters[0].Host, learned.Masters[0].Port, learned.Masters[0].ConfigEpoch = "127.0.0.1", 6380, 9
	if err := st.save(learned); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("sentinel monitor m 127.0.0.1 6379 3\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	file := sentinel.NewConfig()
	if err := file.Apply([]string{"monitor", "m", "127.0.0.1", "6379", "3"}, nil); err != nil {
		t.Fatal(err)
	}
	again := newStore(st.base, st.log)
	got, err := again.restore(file)
	if err != nil {
		t.Fatal(err)
	}
	m := got.Masters[0]
	if m.Quorum != 3 || m.Port != 6380 || m.LeaderEpoch != 9 || got.CurrentEpoch != 9 || got.MyID != learned.MyID {
		t.Fatalf("merged into %+v", got)
	}
	if err := again.save(got); err != nil {
		t.Fatal(err)
	}
	for gen := uint64(0); gen < 2; gen++ {
		if _, err := os.Stat(again.statePath(gen)); !os.IsNotExist(err) {
			t.Errorf("state generation %d outlived its export: %v", gen, err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), "sentinel monitor m 127.0.0.1 6380 3\n") {
		t.Errorf("exported as\n%s%v", text, err)
	}
}

// Where nothing can be made durable, no vote leaves the process: the reply is
// an error, and the link on which a vote would be asked for is closed.
func TestNoVoteWithoutDurableState(t *testing.T) {
	base := config.Default()
	base.File, base.Dir = "/nowhere/at/all/sentinel.conf", "/nowhere/at/all"
	s := newShell(base, quiet(t, base))
	ch := make(chan sentinel.Value, 1)
	s.waiting.Store(uint64(1), ch)
	s.links[5] = &link{id: 5, cancel: func() {}}
	s.apply([]sentinel.Effect{
		sentinel.Persist{Config: stateWith(3)},
		sentinel.Reply{Client: 1, Value: sentinel.Value{Kind: sentinel.Status, Str: "vote"}},
		sentinel.Send{Conn: 5, Args: []string{"SENTINEL", "is-master-down-by-addr", "h", "1", "3", "me"}},
	})
	if v := <-ch; v.Kind != sentinel.Error || v.Str != "ERR Failed to save config file. Check server logs." {
		t.Errorf("the reply left as %+v", v)
	}
	if in, ok := (<-s.inputs).(sentinel.ConnDown); !ok || in.Conn != 5 || s.links[5] != nil {
		t.Errorf("the link stayed open: %+v", in)
	}
}

// A word that needs quotes is written with them, or the next start could not
// read the file.
func TestOddWordsAreReadBack(t *testing.T) {
	id := `ff""""` + strings.Repeat("f", 34)
	text := "sentinel myid '" + id + "'\nsentinel resolve-hostnames no\nsentinel monitor m 127.0.0.1 6379 2\n" +
		"sentinel known-sentinel m 127.0.0.1 26380 'a \"b'\n"
	st, path := testStore(t, text)
	cfg := sentinel.NewConfig()
	apply := func(cfg *sentinel.Config, lines []config.SentinelLine) {
		t.Helper()
		for phase := 0; phase <= 2; phase++ {
			for _, l := range lines {
				if sentinel.LoadPhase(l.Args) != phase {
					continue
				}
				if err := cfg.Apply(l.Args, nil); err != nil {
					t.Fatalf("%s: %v", l.Text, err)
				}
			}
		}
	}
	apply(cfg, st.base.SentinelLines)
	if err := st.save(cfg); err != nil {
		t.Fatal(err)
	}
	c := config.Default()
	if err := c.LoadArgs([]string{path, "--sentinel"}); err != nil {
		b, _ := os.ReadFile(path)
		t.Fatalf("the next start: %v\n%s", err, b)
	}
	again := sentinel.NewConfig()
	apply(again, c.SentinelLines)
	if again.MyID != id || len(again.Masters[0].Sentinels) != 1 || again.Masters[0].Sentinels[0].RunID != `a "b` {
		t.Errorf("read back %q, %+v", again.MyID, again.Masters[0].Sentinels)
	}
}
