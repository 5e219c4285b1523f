package ops

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// UpOptions are the flags of `up`.
type UpOptions struct {
	Mode         string // single, sentinel, cluster
	Dir          string
	Port         int // BASE
	Shards       int // cluster: masters
	Replicas     int // of the master; cluster: of each
	Sentinels    int
	ArrayWidth   int // members of each data server's array; 0: no array
	ArrayLevel   int
	RestartAfter time.Duration // a member that died is started again after this
	Exe          string        // the binary; this one if empty
	Out          io.Writer
	JSON         bool
}

// stopGrace is how long a member may take to end after SIGTERM.
const stopGrace = 15 * time.Second

// Up runs a deployment until ctx ends, then stops it in order. It blocks.
func Up(ctx context.Context, o UpOptions) error {
	u, err := newUp(o)
	if err != nil {
		return err
	}
	defer u.unlock()
	if err := u.start(ctx); err != nil {
		u.stopAll()
		return err
	}
	<-ctx.Done()
	fmt.Fprintln(o.Out, "stopping")
	u.stopAll()
	fmt.Fprintf(o.Out, "stopped; the data is in %s\n", u.d.Dir)
	return nil
}

// up is a running deployment.
type up struct {
	o    UpOptions
	d    *Deployment
	exe  string
	lock *os.File

	mu       sync.Mutex
	stopping bool
	procs    map[*Member]*process
	watchers sync.WaitGroup
	starts   chan startRequest
}

type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

type startRequest struct {
	m     *Member
	reply chan error
}

func newUp(o UpOptions) (*up, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	exe := o.Exe
	if exe == "" {
		if exe, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	u := &up{o: o, exe: exe, procs: make(map[*Member]*process), starts: make(chan startRequest)}
	if u.lock, err = lockDir(dir); err != nil {
		return nil, err
	}
	if u.d, err = LoadDeployment(dir); err != nil {
		u.d = plan(o.Mode, dir, o.Port, o.Replicas, o.Sentinels)
		if o.Mode == modeCluster {
			u.d = planCluster(dir, o.Port, o.Shards, o.Replicas)
		}
		u.d.ArrayLevel, u.d.ArrayWidth = o.ArrayLevel, o.ArrayWidth
	} else if u.d.Mode != o.Mode || u.d.Base != o.Port {
		u.unlock()
		return nil, fmt.Errorf("%s holds a deployment of another kind (%s, --port %d); run `holdfast up %s --port %d --dir %s`, or choose another --dir",
			dir, u.d.Mode, u.d.Base, u.d.Mode, u.d.Base, o.Dir)
	}
	if o.ArrayWidth > 0 && (u.d.ArrayWidth != o.ArrayWidth || u.d.ArrayLevel != o.ArrayLevel) {
		u.unlock()
		return nil, fmt.Errorf("%s holds a deployment %s; run `holdfast up` on it without --array-level, or choose another --dir", dir, u.d.arrayWords())
	}
	u.d.Dir = dir
	go u.starter()
	return u, nil
}

func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "up.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("another `holdfast up` runs on %s; stop it, or choose another --dir", dir)
	}
	return f, nil
}

func (u *up) unlock() { _ = u.lock.Close() }

// start brings everything up and waits until it is healthy.
func (u *up) start(ctx context.Context) error {
	if err := u.d.portsFree(); err != nil {
		return err
	}
	if u.d.Mode == modeCluster {
		if err := u.d.busPortsFree(); err != nil {
			return err
		}
	}
	if err := u.d.configure(); err != nil {
		return err
	}
	u.d.UpPid = os.Getpid()
	for _, kind := range []string{kindServer, kindSentinel} {
		for _, m := range u.d.ofKind(kind) {
			if err := u.launch(m); err != nil {
				return err
			}
		}
		for _, m := range u.d.ofKind(kind) {
			if err := u.waitAnswer(ctx, m); err != nil {
				return err
			}
		}
	}
	if u.d.Mode == modeCluster {
		if err := u.d.formCluster(ctx); err != nil {
			return err
		}
	}
	if err := u.waitHealthy(ctx); err != nil {
		return err
	}
	u.print()
	return nil
}

// launch starts a member and watches it.
func (u *up) launch(m *Member) error {
	reply := make(chan error)
	u.starts <- startRequest{m, reply}
	return <-reply
}

// starter starts all members from one thread that never ends: the kernel ends
// the members when the thread that started them is gone, so that not even
// kill -9 of this process leaves one behind.
func (u *up) starter() {
	runtime.LockOSThread()
	for r := range u.starts {
		r.reply <- u.spawn(r.m)
	}
}

func (u *up) spawn(m *Member) error {
	args := []string{"redis-server", m.confPath()}
	if m.Kind == kindSentinel {
		args[0] = "redis-sentinel"
	}
	cmd := exec.Command(u.exe, args...)
	cmd.Dir = m.Dir
	// What is said before the log is open, and a crash.
	out, err := os.OpenFile(filepath.Join(m.Dir, "stderr"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	// A group of its own: Ctrl-C is for us, who end the members in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.stopping {
		return errors.New("stopping")
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", m.Name, err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	u.procs[m] = p
	m.Pid = cmd.Process.Pid
	u.watchers.Add(1)
	go u.watch(m, p)
	return u.d.save()
}

// watch starts a member again that ended by itself.
func (u *up) watch(m *Member, p *process) {
	defer u.watchers.Done()
	err := p.cmd.Wait()
	close(p.done)
	u.mu.Lock()
	stopping := u.stopping
	m.Pid = 0
	if !stopping {
		fmt.Fprintf(u.o.Out, "%s  %s ended (%s); it is started again in %s\n", time.Now().Format("15:04:05"), m.Name, ended(err), u.o.RestartAfter)
		if code := p.cmd.ProcessState.ExitCode(); code > 0 { // nobody killed it
			fmt.Fprintf(u.o.Out, "its last words:\n%s", lastLines(m))
		}
		_ = u.d.save() // only for those who look
	}
	u.mu.Unlock()
	if stopping {
		return
	}
	time.Sleep(u.o.RestartAfter)
	if err := u.launch(m); err != nil {
		u.mu.Lock()
		if !u.stopping {
			fmt.Fprintf(u.o.Out, "%s  %s cannot be started again: %s\n", time.Now().Format("15:04:05"), m.Name, err)
		}
		u.mu.Unlock()
		return
	}
	fmt.Fprintf(u.o.Out, "%s  %s started again\n", time.Now().Format("15:04:05"), m.Name)
}

func ended(err error) string {
	if err == nil {
		return "exit code 0"
	}
	return err.Error()
}

// waitAnswer waits until a member answers PING, or has ended.
func (u *up) waitAnswer(ctx context.Context, m *Member) error {
	u.mu.Lock()
	p := u.procs[m]
	u.mu.Unlock()
	for {
		if v, err := ask(m.Addr(), time.Second, "PING"); err == nil && v.String() == "PONG" {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.done:
			return fmt.Errorf("%s ended while starting; its last words:\n%s", m.Name, lastLines(m))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// lastLines is the end of what a member has said, in whole lines.
func lastLines(m *Member) string {
	var out string
	for _, path := range []string{m.logPath(), filepath.Join(m.Dir, "stderr")} {
		if b, err := tail(path, 1000); err == nil {
			out += string(b)
		}
	}
	return out
}

// tail reads the whole lines in the last n bytes of a file.
func tail(path string, n int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	from := max(size-n, 0)
	b := make([]byte, size-from)
	if _, err := f.ReadAt(b, from); err != nil {
		return nil, err
	}
	if from > 0 {
		b = b[bytes.IndexByte(b, '\n')+1:]
	}
	return b, nil
}

// waitHealthy waits until every member says that all is well.
func (u *up) waitHealthy(ctx context.Context) error {
	tell := time.NewTicker(5 * time.Second)
	defer tell.Stop()
	for {
		st := u.d.Status(time.Second, Access{})
		if st.Verdict == Healthy {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tell.C:
			fmt.Fprintf(u.o.Out, "waiting: %s\n", st.Reason)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (u *up) print() {
	st := u.d.Status(time.Second, Access{})
	if u.o.JSON {
		_ = st.WriteJSON(u.o.Out)
	} else {
		st.WriteTable(u.o.Out)
	}
	if u.d.Mode == modeCluster {
		fmt.Fprintf(u.o.Out, "ready   %s   data in %s   try: redis-cli -c -p %d set k v   stop: Ctrl-C\n", st.Reason, u.d.Dir, u.d.Base)
		return
	}
	fmt.Fprintf(u.o.Out, "ready   master %s   data in %s   try: redis-cli -p %s set k v   stop: Ctrl-C\n",
		st.Master, u.d.Dir, portOf(st.Master, u.d.Base))
}

func portOf(addr string, otherwise int) string {
	for i := len(addr) - 1; i >= 0; i-- {
		if addr[i] == ':' {
			return addr[i+1:]
		}
	}
	return strconv.Itoa(otherwise)
}

// stopAll ends the members in order: Sentinels first, so that nobody takes the
// end for a failure, then replicas, then the master, which waits for them.
func (u *up) stopAll() {
	u.mu.Lock()
	u.stopping = true
	u.mu.Unlock()
	isMaster := map[string]bool{}
	st := u.d.Status(500*time.Millisecond, Access{})
	for _, r := range st.Rows {
		isMaster[r.Addr] = r.Addr == st.Master || (u.d.Mode == modeCluster && r.Role == "master")
	}
	var sentinels, replicas, masters []*Member
	for _, m := range u.d.Members {
		switch {
		case m.Kind == kindSentinel:
			sentinels = append(sentinels, m)
		case isMaster[m.Addr()]:
			masters = append(masters, m)
		default:
			replicas = append(replicas, m)
		}
	}
	for _, group := range [][]*Member{sentinels, replicas, masters} {
		u.stopGroup(group)
	}
}

func (u *up) stopGroup(group []*Member) {
	var wg sync.WaitGroup
	for _, m := range group {
		u.mu.Lock()
		p := u.procs[m]
		u.mu.Unlock()
		if p == nil {
			continue
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
			select {
			case <-p.done:
			case <-time.After(stopGrace):
				fmt.Fprintf(u.o.Out, "%s does not end, killing it\n", m.Name)
				_ = p.cmd.Process.Kill()
				<-p.done
			}
		}()
	}
	wg.Wait()
}
