// Package proc acts: it starts servers as real processes for the crash tests
// and the benchmarks, ends them by pid, and reads what the kernel says about
// them. Every wait has a deadline.
//
//	p, err := proc.Start(proc.Spec{Argv: []string{"holdfast", "redis-server"}, Dir: dir, Port: port})
//	err = p.Ready(10 * time.Second)
//	p.Kill()            // kill -9, and wait for the end
//	fmt.Print(p.Output()) // what it said
package proc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrDeadline is a wait that took too long.
var ErrDeadline = errors.New("deadline exceeded")

// Spec says how to start a server.
type Spec struct {
	Argv []string // program and leading arguments; --port, --dir, --bind and Args follow
	Bare bool     // only Args follow: a configuration file says the rest
	Dir  string   // data directory, must exist
	Port int
	Args []string
	Env  []string // beside the environment of this process
}

// Process is a running or ended server.
type Process struct {
	Spec   Spec
	cmd    *exec.Cmd
	exited chan struct{}
	out    *os.File // in memory: what a process says before it answers is there before the answer
}

// outputKept is how much of the end of what a process says can be asked for.
const outputKept = 2 << 20

// Ports are taken from below those that the kernel gives to outgoing
// connections, so that a server which is restarted finds its own free again;
// BusAbove them is the port of a node's cluster bus, which is below those, too.
const (
	firstPort = 10000
	ports     = 11000
	// BusAbove is how far the port of a cluster bus is above that of the node.
	BusAbove = 10000
	// firstOutgoing is the first port that Linux gives to outgoing connections.
	firstOutgoing = 32768
)

// reserved keeps the names that stand for ports, the newest of them: a listener
// that nothing refers to is closed by the collector.
var (
	reservedMu sync.Mutex
	reserved   []net.Listener
)

// reservedMost bounds reserved, for soaks.
const reservedMost = 4000

// reserve says whether a port is ours: nobody listens on it, and no other
// process which asked this package holds it.
func reserve(port int) bool {
	// A name that only one process can hold stands for the port.
	name, err := net.Listen("unix", "@holdfast-test-port-"+strconv.Itoa(port))
	if err != nil {
		return false
	}
	reservedMu.Lock()
	if reserved = append(reserved, name); len(reserved) > reservedMost {
		_ = reserved[0].Close()
		reserved = reserved[1:]
	}
	reservedMu.Unlock()
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	return err == nil && l.Close() == nil
}

// FreePort returns a port of 127.0.0.1 that nobody listens on, and that no other
// process which asked this function has been given: it is reserved until this
// process ends, or has asked for thousands more.
func FreePort() (int, error) {
	for range 1000 {
		if port := firstPort + rand.IntN(ports); reserve(port) {
			return port, nil
		}
	}
	return 0, errors.New("no free port found")
}

// FreePorts returns the first of n ports in a row, all of which are free and
// reserved as by FreePort, and so are those of their cluster buses.
func FreePorts(n int) (int, error) { return FreePortsWith(n, BusAbove) }

// FreePortsWith is FreePorts for programs that take, instead of those of a bus,
// the ports that are above so much higher.
func FreePortsWith(n, above int) (int, error) {
	for range 1000 {
		first := firstPort + rand.IntN(min(ports, firstOutgoing-above-firstPort)-n)
		ok := true
		for i := 0; ok && i < n; i++ {
			ok = reserve(first+i) && reserve(first+i+above)
		}
		if ok {
			return first, nil
		}
	}
	return 0, errors.New("no free ports found")
}

// Start starts the server and returns at once.
func Start(s Spec) (*Process, error) {
	args := append([]string{}, s.Argv[1:]...)
	if !s.Bare {
		args = append(args, "--port", strconv.Itoa(s.Port), "--dir", s.Dir, "--bind", "127.0.0.1")
	}
	args = append(args, s.Args...)
	p := &Process{Spec: s, cmd: exec.Command(s.Argv[0], args...), exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), s.Env...)
	if s.Bare {
		p.cmd.Dir = s.Dir
	}
	out, err := unix.MemfdCreate("output", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	p.out = os.NewFile(uintptr(out), "output")
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	// The server ends with this process, also when that is killed.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait() // ExitCode tells
		close(p.exited)
	}()
	return p, nil
}

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Output is what the process has said so far, at most the last 2 MiB.
func (p *Process) Output() string {
	st, err := p.out.Stat()
	if err != nil {
		return err.Error()
	}
	b := make([]byte, min(st.Size(), outputKept))
	n, err := p.out.ReadAt(b, st.Size()-int64(len(b)))
	if err != nil && !errors.Is(err, io.EOF) {
		return err.Error()
	}
	return string(b[:n])
}

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// ExitCode is -1 while the process runs, and after a signal ended it.
func (p *Process) ExitCode() int {
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode()
	default:
		return -1
	}
}

// Ready waits until the server answers PING with PONG.
func (p *Process) Ready(limit time.Duration) error {
	end := time.Now().Add(limit)
	for {
		if c, err := Dial(p.Spec.Port, time.Second); err == nil {
			v, err := c.Do("PING")
			c.Close()
			if err == nil && v.Text() == "PONG" {
				return nil
			}
		}
		select {
		case <-p.exited:
			return fmt.Errorf("the server ended with code %d:\n%s", p.ExitCode(), p.Output())
		case <-time.After(time.Millisecond):
		}
		if time.Now().After(end) {
			return fmt.Errorf("not ready after %s: %w\n%s", limit, ErrDeadline, p.Output())
		}
	}
}

// Signal sends a signal; a process that has ended gets none.
func (p *Process) Signal(sig os.Signal) { _ = p.cmd.Process.Signal(sig) }

// Kill is kill -9, and waits for the end.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited // the kernel ends it without its consent
}

// Terminate sends SIGTERM and waits; after limit it kills and says so.
func (p *Process) Terminate(limit time.Duration) error {
	p.Signal(syscall.SIGTERM)
	if err := p.WaitExit(limit); err != nil {
		p.Kill()
		return fmt.Errorf("after SIGTERM: %w", err)
	}
	return nil
}

// WaitExit waits until the process ends by itself.
func (p *Process) WaitExit(limit time.Duration) error {
	select {
	case <-p.exited:
		return nil
	case <-time.After(limit):
		return fmt.Errorf("still running after %s: %w", limit, ErrDeadline)
	}
}

// ticksPerSecond is USER_HZ, which Linux fixes at 100 for all its user-visible
// figures on the architectures that this runs on.
const ticksPerSecond = 100

// CPU is the processor time, user and system, that the process has used; 10 ms
// is the unit.
func (p *Process) CPU() (time.Duration, error) { return p.cpu(11, 12) }

// CPUWithChildren is CPU and that of children that have ended.
func (p *Process) CPUWithChildren() (time.Duration, error) { return p.cpu(11, 12, 13, 14) }

// cpu adds fields of /proc/PID/stat, counted behind the name.
func (p *Process) cpu(fields ...int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	if err != nil {
		return 0, err
	}
	// The name in parentheses may hold spaces. Then come utime, stime, cutime
	// and cstime as numbers 11 to 14, counted from 0.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	var ticks int64
	for _, i := range fields {
		if i >= len(f) {
			return 0, fmt.Errorf("unexpected /proc/%d/stat: %q", p.PID(), b)
		}
		n, err := strconv.ParseInt(f[i], 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond, nil
}

// RSS is the resident memory of the process in bytes, without children.
func (p *Process) RSS() (int64, error) { return statusKB(p.PID(), "status", "VmRSS:") }

// PSS is the proportional resident memory of the process and its children, in
// bytes: what a fork shares is counted once.
func (p *Process) PSS() (int64, error) {
	sum, err := statusKB(p.PID(), "smaps_rollup", "Pss:")
	if err != nil {
		return 0, err
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.PID(), p.PID()))
	if err != nil {
		return sum, nil // a kernel without that file
	}
	for _, f := range strings.Fields(string(b)) {
		if pid, err := strconv.Atoi(f); err == nil {
			if n, err := statusKB(pid, "smaps_rollup", "Pss:"); err == nil { // it may have ended
				sum += n
			}
		}
	}
	return sum, nil
}

func statusKB(pid int, file, field string) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, field); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("no %s in /proc/%d/%s", field, pid, file)
}
