package sentineld

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/redis/sentinel"
)

// confFile writes a sentinel.conf of its own words.
func confFile(t *testing.T, lines ...string) (dir, path string) {
	t.Helper()
	dir = t.TempDir()
	path = filepath.Join(dir, "sentinel.conf")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, path
}

// runToEnd starts a Sentinel that is to refuse, and returns what it says.
func runToEnd(t *testing.T, path string) (code int, out string) {
	t.Helper()
	cmd := oursOn(path)()
	end := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer end.Stop()
	b, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(b)
}

// The order of Redis: the port first, then the users, then the masters.
func TestRefusalsToStart(t *testing.T) {
	port := freePort(t)
	for _, test := range []struct {
		lines []string
		want  []string
	}{
		{[]string{"port 0"}, []string{"# Configured to not listen anywhere, exiting."}},
		{[]string{fmt.Sprintf("port %d", port), "bind 127.0.0.1", "user x on +nosuch"},
			[]string{fmt.Sprintf("* Running mode=sentinel, port=%d.", port), "# Error loading ACL rule '+nosuch' for the user named 'x': "}},
		{[]string{fmt.Sprintf("port %d", port), "bind 127.0.0.1", "aclfile /nowhere"},
			[]string{fmt.Sprintf("* Running mode=sentinel, port=%d.", port), "# Aborting Redis startup because of ACL errors: "}},
	} {
		_, path := confFile(t, test.lines...)
		code, out := runToEnd(t, path)
		rest := out
		for _, w := range test.want {
			_, after, found := strings.Cut(rest, w)
			if rest = after; !found {
				t.Errorf("%q: no %q in its place in\n%s", test.lines, w, out)
			}
		}
		if code != 1 {
			t.Errorf("%q: exit code %d", test.lines, code)
		}
	}
}

// A user that is off in the file is worth a line of the log.
func TestDisabledUserIsLogged(t *testing.T) {
	p := startOurs(t, "ours", freePort(t), "user x on nopass +@all", "user y >secret +@all")
	const want = "* The user 'y' is disabled (there is no 'on' modifier in the user description). Make sure this is not a configuration error."
	if text := p.logText(); !strings.Contains(text, want) || strings.Contains(text, "The user 'x'") {
		t.Errorf("logged\n%s", text)
	}
}

// A resolver that is down must not keep a Sentinel down: the name may have a
// number later. What has one is known by it from the start.
func TestStartsWithANameThatHasNoNumber(t *testing.T) {
	port, master := freePort(t), freePort(t)
	dir, path := confFile(t, fmt.Sprintf("port %d", port), "bind 127.0.0.1", "sentinel resolve-hostnames yes",
		"sentinel monitor gone no-such-host.invalid 6379 2", fmt.Sprintf("sentinel monitor here localhost %d 2", master))
	p := newProcess(t, "ours", port, dir, oursOn(path))
	waitFor(t, "both masters are watched", func() error {
		text := p.logText()
		for _, want := range []string{
			"# Failed to resolve hostname 'no-such-host.invalid'", "# +monitor master gone ",
			fmt.Sprintf("# +monitor master here 127.0.0.1 %d quorum 2", master),
		} {
			if !strings.Contains(text, want) {
				return fmt.Errorf("no %q in the log", want)
			}
		}
		return nil
	})
	if v, err := call(port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "here"); err != nil || v.Elems[0].String() != "127.0.0.1" {
		t.Errorf("the master is at %v, %v", v, err)
	}
}

// scriptDir has the scripts of a test and a Sentinel that runs there.
func scriptDir(t *testing.T, scripts map[string]string) *child {
	t.Helper()
	port := freePort(t)
	dir, path := sentinelConf(t, port, freePort(t), "sentinel deny-scripts-reconfig no")
	for name, text := range scripts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return newProcess(t, "ours", port, dir, func() *exec.Cmd {
		cmd := oursOn(path)()
		cmd.Dir = dir
		return cmd
	})
}

func notifyBy(t *testing.T, p *child, script string) {
	t.Helper()
	if _, err := call(p.port, "SENTINEL", "SET", "mymaster", "notification-script", script); err != nil {
		t.Fatalf("%s: %v", script, err)
	}
}

// Whatever may be executed is taken as a script, also a directory; what then
// cannot be run is reported with the exit code of Redis. A name without a slash
// is one of the working directory, not of PATH. What a script prints goes where
// the Sentinel prints.
func TestScriptsRunAsThoseOfRedis(t *testing.T) {
	p := scriptDir(t, map[string]string{
		"no-shebang": "echo never\n", "no-interpreter": "#!/no/such\n", "true": "#!/bin/sh\necho said by $1\n",
	})
	for script, want := range map[string]string{
		"./no-shebang":     "# -script-error ./no-shebang 0 2\n",
		"./no-interpreter": "# -script-error ./no-interpreter 0 2\n",
		p.dir:              "# -script-error " + p.dir + " 0 2\n",
		"true":             "\nsaid by +set\n",
	} {
		notifyBy(t, p, script)
		waitFor(t, script+" is done with", func() error {
			if !strings.Contains(p.logText(), want) {
				return fmt.Errorf("no %q in the log", want)
			}
			return nil
		})
	}
	if _, err := call(p.port, "SENTINEL", "SET", "mymaster", "notification-script", "./nothing"); err == nil {
		t.Error("a script that does not exist was taken")
	}
}

// A script is not ended with the Sentinel: it may be half way through the
// reconfiguration of clients.
func TestScriptOutlivesTheSentinel(t *testing.T) {
	p := scriptDir(t, map[string]string{
		"slow": "#!/bin/sh\ntouch began\ni=0\nwhile [ ! -e go ] && [ $i -lt 1200 ]; do i=$((i+1)); sleep 0.05; done\ntouch done\n",
	})
	exists := func(name string) func() error {
		return func() error { _, err := os.Stat(filepath.Join(p.dir, name)); return err }
	}
	notifyBy(t, p, "./slow")
	waitFor(t, "the script has begun", exists("began"))
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-p.done
	if err := os.WriteFile(filepath.Join(p.dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the script has gone on to its end", exists("done"))
}

// A master of any name is watched on after a restart, and spoken of with a
// genuine Sentinel; its file can be read by one.
func TestOddNamesSurviveRestartsOfBoth(t *testing.T) {
	needGenuine(t, "redis-server", "redis-sentinel")
	m := startServer(t, "master", 0)
	const name = `a "b" c`
	addr := []string{"127.0.0.1", fmt.Sprint(m.port), "2"}
	port := freePort(t)
	dir, path := confFile(t, fmt.Sprintf("port %d", port), "bind 127.0.0.1")
	ours := newProcess(t, "ours", port, dir, oursOn(path))
	theirs := startGenuine(t, "theirs", m.port)
	for _, p := range []*child{ours, theirs} {
		if _, err := call(p.port, append([]string{"SENTINEL", "MONITOR", name}, addr...)...); err != nil {
			t.Fatal(err)
		}
	}
	sees := func(p *child, others string) func() error {
		return func() error {
			v, err := call(p.port, "SENTINEL", "MASTER", name)
			if got := fields(v)["num-other-sentinels"]; err == nil && got != others {
				err = fmt.Errorf("%s other Sentinels", got)
			}
			return err
		}
	}
	waitFor(t, "ours sees theirs", sees(ours, "1"))
	waitFor(t, "theirs sees ours", sees(theirs, "1"))
	ours.kill()
	ours.start()
	waitFor(t, "ours knows both after a restart", sees(ours, "1"))
	ours.kill()
	ours.restart = func() *exec.Cmd { return exec.Command("redis-sentinel", path) }
	ours.start()
	waitFor(t, "a genuine Sentinel reads the file", sees(ours, "1"))
}

// After the end nothing is done any more, whatever waits: what crashes on
// purpose in the middle of a failover must not go on with it.
func TestNothingIsDoneAfterTheEnd(t *testing.T) {
	_, path := confFile(t, "port 0")
	l, err := Load([]string{path})
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		s := newShell(l.Config, quiet(t, l.Config))
		if s.core, err = sentinel.New(time.Now(), l.state, sentinel.Options{Rand: newRand()}); err != nil {
			t.Fatal(err)
		}
		s.calls <- func() { t.Error("a call was run after the end") }
		s.end(ExitError{99})
		var exit ExitError
		if err := s.serve(context.Background()); !errors.As(err, &exit) || exit.Code != 99 {
			t.Fatalf("ended with %v", err)
		}
	}
}

// Both signals end a Sentinel, and the log says which one it was.
func TestTheSignalIsNamed(t *testing.T) {
	for sig, name := range map[syscall.Signal]string{syscall.SIGINT: "SIGINT", syscall.SIGTERM: "SIGTERM"} {
		p := startOurs(t, name, freePort(t))
		if err := p.cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		<-p.done
		if want := "Received " + name + " scheduling shutdown...\n"; !strings.Contains(p.logText(), want) || p.cmd.ProcessState.ExitCode() != 0 {
			t.Errorf("exit code %d and the log\n%s", p.cmd.ProcessState.ExitCode(), p.logText())
		}
	}
}

// Who comes and goes is logged at verbose, in the words of Redis.
func TestVerboseLogNamesClients(t *testing.T) {
	p := startOurs(t, "ours", freePort(t), "loglevel verbose")
	w, err := dial(p.port)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.do("CLIENT", "SETNAME", "visitor"); err != nil {
		t.Fatal(err)
	}
	mine := w.conn.LocalAddr().String()
	w.close()
	waitFor(t, "the visit is logged", func() error {
		text := p.logText()
		_, after, found := strings.Cut(text, " - Accepted "+mine+"\n")
		if !found {
			return errors.New("no arrival")
		}
		for line := range strings.Lines(after) {
			if strings.Contains(line, " - Client closed connection id=") && strings.Contains(line, " addr="+mine+" ") &&
				strings.Contains(line, " name=visitor ") {
				return nil
			}
		}
		return errors.New("no departure")
	})
}
