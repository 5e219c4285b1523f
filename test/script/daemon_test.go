package script

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

// daemonPatience bounds each wait for a daemon.
const daemonPatience = 30 * time.Second

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(daemonPatience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v in vain until %s", daemonPatience, what)
		}
	}
}

// pidOf reads a pid file, 0 while there is none.
func pidOf(path string) int {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return pid
}

// daemonize, pidfile, logfile, unixsocket and unixsocketperm, relative to dir,
// and a configuration of which one part comes from standard input, which the
// daemon does not have any more: for both programs.
func TestDaemonKeepsWhatItReadFromStandardInput(t *testing.T) {
	for _, program := range []string{"redis-server", "redis-sentinel"} {
		t.Run(program, func(t *testing.T) {
			dir := t.TempDir()
			port := freeBase(t, 1)
			conf := filepath.Join(dir, "program.conf")
			text := "daemonize yes\nbind 127.0.0.1\ndir " + dir + "\n"
			if program == "redis-sentinel" {
				text += "sentinel monitor mymaster 127.0.0.1 1 2\n"
			} else {
				text += "appendonly no\nsave \"\"\n"
			}
			if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(binary, program, conf, "-")
			cmd.Stdin = strings.NewReader(fmt.Sprintf("port %d\npidfile p.pid\nlogfile p.log\nunixsocket p.sock\nunixsocketperm 700\n", port))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			pidFile := filepath.Join(dir, "p.pid")
			until(t, "there is a pid file", func() bool { return pidOf(pidFile) != 0 })
			pid := pidOf(pidFile)
			t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) }) // it has ended, if all is well
			if sid, err := sessionOf(pid); err != nil || sid != pid {
				t.Errorf("the daemon %d is in session %d (%v), want one of its own", pid, sid, err)
			}
			until(t, "it answers at the port from standard input", func() bool {
				c, err := proc.Dial(port, daemonPatience)
				if err != nil {
					return false
				}
				defer c.Close()
				v, err := c.Do("PING")
				return err == nil && v.Text() == "PONG"
			})
			socket := filepath.Join(dir, "p.sock")
			if fi, err := os.Stat(socket); err != nil || fi.Mode().Perm() != 0o700 {
				t.Errorf("the unix socket: %v, %v", fi, err)
			}
			nc, err := net.Dial("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			c := proc.NewConn(nc, daemonPatience)
			defer c.Close()
			if v, err := c.Do("CLIENT", "LIST"); err != nil || !strings.Contains(v.Text(), "addr=p.sock:0 laddr=p.sock:0 ") || !strings.Contains(v.Text(), " flags=U ") {
				t.Errorf("a client of the unix socket is listed as %q (%v)", v.Text(), err)
			}
			if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			until(t, "pid file and socket are gone", func() bool {
				_, errP := os.Stat(pidFile)
				_, errS := os.Stat(socket)
				return os.IsNotExist(errP) && os.IsNotExist(errS)
			})
			log, err := os.ReadFile(filepath.Join(dir, "p.log"))
			for _, line := range []string{"Configuration loaded", "Removing the pid file.", "Removing the unix socket file.", "is now ready to exit, bye bye..."} {
				if err != nil || !strings.Contains(string(log), line) {
					t.Errorf("the log has no %q (%v)\n%s", line, err, log)
				}
			}
		})
	}
}

// sessionOf is the session that a process belongs to: field 6 of /proc/PID/stat,
// which is the fourth behind the name.
func sessionOf(pid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 4 {
		return 0, fmt.Errorf("unexpected stat %q", b)
	}
	return strconv.Atoi(f[3])
}

// Redis: "Sentinel needs config file on disk to save state. Exiting...", as a
// line of the log, and exit code 1.
func TestSentinelWithoutAFileIsRefused(t *testing.T) {
	for _, args := range [][]string{{"redis-sentinel"}, {"redis-server", "--sentinel"}, {"redis-sentinel", "-"}} {
		cmd := exec.Command(binary, args...)
		out, err := cmd.Output()
		if cmd.ProcessState.ExitCode() != 1 || !strings.HasSuffix(string(out), " # Sentinel needs config file on disk to save state. Exiting...\n") {
			t.Errorf("%v: code %d (%v), %q", args, cmd.ProcessState.ExitCode(), err, out)
		}
	}
}
