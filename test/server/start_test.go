package server

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/test/proc"
)

// exits waits for the end and compares the exit code.
func (s *instance) exits(code int) {
	s.t.Helper()
	if err := s.WaitExit(limit); err != nil {
		s.t.Fatal(err)
	}
	if got := s.ExitCode(); got != code {
		s.t.Fatalf("exit code %d, want %d", got, code)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestLoadingIsToldWhileLoading(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startIn(t, dir, "--appendonly", "no", "--save", "", debugOn, "yes")
	must(t, s.dial(), "DEBUG", "POPULATE", "150000", "key", "100")
	must(t, s.dial(), "SAVE")
	s.Kill()
	// It loads until it is told to hurry, however late this test comes to ask.
	s = launch(t, serverArgv(), dir, nil, "--appendonly", "no", "--save", "", "--key-load-delay", "2000000000")
	told := false
	eventually(t, "it serves", func() bool {
		c, err := proc.Dial(s.port, limit)
		if err != nil {
			return false
		}
		defer c.Close()
		for {
			v, err := c.Do("GET", "key:1")
			if err != nil {
				t.Fatal(err)
			}
			if v.Kind != '-' {
				return true
			}
			if v.Str != "LOADING Redis is loading the dataset in memory" {
				t.Fatal(v.Str)
			}
			if i, err := c.Do("INFO", "persistence"); err != nil || !told && !strings.Contains(i.Str, "loading:1") && !strings.Contains(i.Str, "loading:0") {
				t.Fatal(i, err)
			}
			if !told {
				must(t, c, "CONFIG", "SET", "key-load-delay", "0")
			}
			told = true
		}
	})
	if !told {
		t.Error("loading was over before anybody could ask")
	}
	wantText(t, s.dial(), "150000", "DBSIZE")
}

func TestSignalDuringLoadingEndsAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startIn(t, dir, "--appendonly", "no", "--save", "", debugOn, "yes")
	must(t, s.dial(), "DEBUG", "POPULATE", "150000", "key", "100")
	must(t, s.dial(), "SAVE")
	s.Kill()
	// Without a signal it would load for days.
	s = launch(t, serverArgv(), dir, nil, "--appendonly", "no", "--save", "", "--key-load-delay", "2000000000")
	s.waitLog("Server initialized")
	s.Signal(syscall.SIGTERM)
	s.exits(0)
	if strings.Contains(s.Output(), "Ready to accept") {
		t.Error("loading was over before the signal")
	}
	if !strings.Contains(s.Output(), "Received shutdown signal during loading, exiting now.") {
		t.Error("the log does not say why")
	}
}

func TestShutdownSavesAsAsked(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		save, how string
		dumped    bool
	}{
		{"", "SHUTDOWN", false}, {"3600 1", "SHUTDOWN", true}, {"3600 1", "SHUTDOWN NOSAVE", false},
		{"", "SHUTDOWN SAVE", true}, {"", "SHUTDOWN NOW FORCE", false},
		{"3600 1", "SIGTERM", true}, {"", "SIGTERM", false}, {"3600 1", "SIGINT", true},
	} {
		t.Run(c.how+" with save "+strconv.Quote(c.save), func(t *testing.T) {
			dir := t.TempDir()
			s := startIn(t, dir, "--save", c.save, "--appendonly", "no", "--pidfile", filepath.Join(dir, "pid"))
			k := s.dial()
			must(t, k, "SET", "k", "v")
			if b, err := os.ReadFile(filepath.Join(dir, "pid")); err != nil || string(b) != fmt.Sprintf("%d\n", s.PID()) {
				t.Errorf("pid file %q, %v", b, err)
			}
			switch c.how {
			case "SIGTERM":
				s.Signal(syscall.SIGTERM)
			case "SIGINT":
				s.Signal(os.Interrupt)
			default:
				k.Send(strings.Fields(c.how)...)
				if err := k.Flush(); err != nil {
					t.Fatal(err)
				}
				if v, err := k.Recv(); err == nil {
					t.Errorf("a reply: %v", v)
				}
			}
			s.exits(0)
			if exists(filepath.Join(dir, "dump.rdb")) != c.dumped {
				t.Errorf("dump.rdb there: %v", !c.dumped)
			}
			if exists(filepath.Join(dir, "pid")) {
				t.Error("the pid file is left behind")
			}
			if !strings.Contains(s.Output(), "ready to exit, bye bye...") {
				t.Error("no farewell in the log")
			}
		})
	}
}

// A shutdown that cannot save is refused, and forced it ends all the same.
func TestShutdownThatCannotSave(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startIn(t, dir, "--save", "", "--appendonly", "no", "--dbfilename", "d.rdb")
	if err := os.Mkdir(filepath.Join(dir, "d.rdb"), 0o755); err != nil { // nothing can be renamed to it
		t.Fatal(err)
	}
	c := s.dial()
	must(t, c, "SET", "k", "v")
	wantText(t, c, "ERR Errors trying to SHUTDOWN. Check logs.", "SHUTDOWN", "SAVE")
	wantText(t, c, "ERR No shutdown in progress.", "SHUTDOWN", "ABORT")
	must(t, c, "CONFIG", "SET", "save", "3600 1")
	s.Signal(syscall.SIGTERM)
	s.waitLog("Errors trying to shut down the server. Check the logs for more information.")
	wantText(t, c, "v", "GET", "k")
	c.Send("SHUTDOWN", "SAVE", "FORCE")
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	s.exits(0)
}

func TestAcknowledgedWritesSurviveSIGTERM(t *testing.T) {
	t.Parallel()
	for _, appendonly := range []string{"yes", "no"} {
		t.Run("appendonly="+appendonly, func(t *testing.T) {
			dir := t.TempDir()
			s := startIn(t, dir, "--appendonly", appendonly, "--save", "3600 1")
			c := s.dial()
			acked := make(chan int, 1)
			go func() {
				n := 0
				for {
					v, err := c.Do("INCR", "n")
					if err != nil || v.Err() != nil {
						acked <- n
						return
					}
					n = int(v.Int)
				}
			}()
			k := s.dial()
			eventually(t, "some writes", func() bool { n, _ := strconv.Atoi(do(t, k, "GET", "n").Text()); return n > 100 })
			s.Signal(syscall.SIGTERM)
			s.exits(0)
			want := <-acked
			s = startIn(t, dir, "--appendonly", appendonly, "--save", "")
			got, err := strconv.Atoi(must(t, s.dial(), "GET", "n"))
			if err != nil || got < want || got > want+1 {
				t.Errorf("%d, acknowledged were %d", got, want)
			}
		})
	}
}

func TestDaemonize(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	port := freePort(t)
	pidFile, logFile := filepath.Join(dir, "d.pid"), filepath.Join(dir, "d.log")
	out, err := exec.Command(binary, "redis-server", "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", dir,
		"--daemonize", "yes", "--pidfile", pidFile, "--logfile", logFile).CombinedOutput()
	if err != nil || len(out) != 0 {
		t.Fatalf("%v: %s", err, out)
	}
	var pid int
	eventually(t, "the pid file", func() bool {
		b, err := os.ReadFile(pidFile)
		if err == nil {
			pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		}
		return pid > 0
	})
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	var c *proc.Conn
	eventually(t, "it serves", func() bool {
		c, err = proc.Dial(port, limit)
		if err != nil {
			return false
		}
		v, err := c.Do("PING")
		return err == nil && v.Str == "PONG"
	})
	defer c.Close()
	must(t, c, "SET", "k", "v")
	// A log file that is moved away is begun anew.
	if err := os.Rename(logFile, logFile+".1"); err != nil {
		t.Fatal(err)
	}
	must(t, c, "BGREWRITEAOF")
	eventually(t, "a new log file", func() bool { return exists(logFile) })
	c.Send("SHUTDOWN", "NOSAVE")
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the daemon ends", func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH && !exists(pidFile) })
	b, err := os.ReadFile(logFile + ".1")
	if err != nil || !strings.Contains(string(b), "Ready to accept connections") {
		t.Errorf("log file: %q, %v", b, err)
	}
}

func TestSystemdIsNotified(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "notify")
	sock, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	s := launch(t, serverArgv(), dir, []string{"NOTIFY_SOCKET=" + path}, "--supervised", "systemd", "--daemonize", "yes")
	buf := make([]byte, 1000)
	expect := func(want string) {
		t.Helper()
		if err := sock.SetReadDeadline(time.Now().Add(limit)); err != nil {
			t.Fatal(err)
		}
		n, err := sock.Read(buf)
		if err != nil || !strings.Contains(string(buf[:n]), want) {
			t.Fatalf("%q, %v; want %s", buf[:n], err, want)
		}
	}
	expect("STATUS=Ready to accept connections\nREADY=1\n")
	must(t, s.dial(), "PING")
	s.Signal(syscall.SIGTERM)
	expect("STOPPING=1\n")
	s.exits(0)
}

func TestDirectoryProblemsAreNamed(t *testing.T) {
	t.Parallel()
	missing := launch(t, serverArgv(), filepath.Join(t.TempDir(), "nowhere"), nil)
	missing.exits(1)
	if !strings.Contains(missing.Output(), "No such file or directory") {
		t.Error(missing.Output())
	}
	s := start(t)
	second := launch(t, serverArgv(), s.dir, nil)
	second.exits(1)
	if out := second.Output(); !strings.Contains(out, "journal.lock") || !strings.Contains(out, "another process") {
		t.Error(out)
	}
	must(t, s.dial(), "SET", "still", "here")
	port := launch(t, serverArgv(), t.TempDir(), nil, "--port", strconv.Itoa(s.port))
	port.exits(1)
	if !strings.Contains(port.Output(), "bind: Address already in use") {
		t.Error(port.Output())
	}
}

func TestRelativeDirectoriesAndConfigFile(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	data := filepath.Join(base, "data")
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	conf := fmt.Sprintf("port %d\nbind 127.0.0.1\ndir data\nsave \"\"\n", port)
	if err := os.WriteFile(filepath.Join(base, "r.conf"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := proc.Start(proc.Spec{Argv: []string{"/bin/sh", "-c", `cd "$1" && exec "$0" redis-server r.conf`, binary, base}, Dir: data, Port: port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	if err := p.Ready(limit); err != nil {
		t.Fatal(err)
	}
	c, err := proc.Dial(port, limit)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	must(t, c, "SET", "k", "v")
	must(t, c, "SAVE")
	if !exists(filepath.Join(data, "dump.rdb")) || !exists(filepath.Join(data, "journal")) {
		t.Error("the files are not in dir")
	}
	must(t, c, "CONFIG", "SET", "timeout", "77")
	must(t, c, "CONFIG", "REWRITE")
	b, err := os.ReadFile(filepath.Join(base, "r.conf"))
	if err != nil || !strings.Contains(string(b), "timeout 77") {
		t.Errorf("%s, %v", b, err)
	}
}
