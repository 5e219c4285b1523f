package interop

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast/test/proc"
)

// fateSilent is the fate of a reply that did not come in time.
const fateSilent = "no reply"

// A server with a journal waits for the disk a dozen times, one after the other, when it starts, and some times for a
// checkpoint: with a disk that takes a second and more for each, 20 s are not far away.
const (
	startDeadline = 60 * time.Second
	replyDeadline = 40 * time.Second
	pollInterval  = 2 * time.Millisecond
)

// program is how to start one kind of server: the leading words of its command line.
type program struct {
	name string
	argv []string
}

// process is one running server with its own directory and port.
type process struct {
	program program
	dir     string
	port    int
	args    []string
	cmd     *exec.Cmd
	exited  chan struct{} // closed once cmd.Wait returned
	output  *bytes.Buffer // read only after exited
	control *link
	initial map[string]string // CONFIG GET * right after the first start
}

var baseArgs = []string{
	"--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--enable-debug-command", "yes",
	"--enable-protected-configs", "yes",
}

// startProcess starts a server and waits until it answers PING. dir must exist; the server's own dir is dir/name.
func startProcess(p program, dir string, args []string) (*process, error) {
	s := &process{program: p, dir: dir, args: args}
	var err error
	for range 3 { // the free port may be taken by another process before the server binds it
		if s.port, err = proc.FreePort(); err != nil {
			return nil, err
		}
		if err = s.start(); err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	s.initial, err = s.config()
	return s, err
}

func (s *process) start() error {
	argv := append([]string{}, s.program.argv[1:]...)
	argv = append(argv, "--port", strconv.Itoa(s.port), "--dir", s.dir)
	argv = append(argv, baseArgs...)
	argv = append(argv, s.args...)
	s.cmd = exec.Command(s.program.argv[0], argv...)
	s.cmd.Dir = s.dir
	s.output = &bytes.Buffer{}
	s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
	s.cmd.WaitDelay = time.Second // a forked child may hold the pipe longer than its parent lives
	dieWithParent(s.cmd)
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		_ = cmd.Wait() // the exit status shows in the server's output
		close(exited)
	}(s.cmd, s.exited)
	deadline := time.Now().Add(startDeadline)
	var l *link // one connection, however long loading takes: client ids are compared
	for {
		if l == nil {
			l, _ = dial(s.port) // nobody listens there yet
		}
		if l != nil {
			o := l.do("PING")
			if o.fate == "" && (string(o.raw) == "+PONG\r\n" || bytes.HasPrefix(o.raw, []byte("-NOAUTH"))) {
				s.control = l
				return nil
			}
			if o.fate != "" {
				l.close()
				l = nil
			}
		}
		select {
		case <-s.exited:
			return fmt.Errorf("%s ended at its start:\n%s", s.program.name, tail(s.output.String(), 2000))
		case <-time.After(pollInterval * 2):
		}
		if time.Now().After(deadline) {
			s.kill()
			return fmt.Errorf("%s did not answer PING within %v:\n%s", s.program.name, startDeadline,
				tail(s.output.String(), 2000))
		}
	}
}

func tail(s string, n int) string {
	if len(s) > n {
		return "..." + s[len(s)-n:]
	}
	return s
}

func (s *process) alive() bool {
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

func (s *process) kill() {
	if s.control != nil {
		s.control.close()
	}
	_ = s.cmd.Process.Kill() // fails only when it has ended already
	<-s.exited
}

// stop ends the server in the way named: save, nosave or kill.
func (s *process) stop(how string) error {
	switch how {
	case "kill":
		s.kill()
		return nil
	case "save", "nosave":
		if err := s.control.send([]string{"SHUTDOWN", strings.ToUpper(how)}); err != nil {
			return err
		}
	default:
		return fmt.Errorf("!restart %s: want save, nosave or kill", how)
	}
	select {
	case <-s.exited:
		s.control.close()
		return nil
	case <-time.After(startDeadline):
		s.kill()
		return fmt.Errorf("%s: SHUTDOWN %s did not end it", s.program.name, how)
	}
}

// config returns CONFIG GET * as a map.
func (s *process) config() (map[string]string, error) {
	o := s.control.do("CONFIG", "GET", "*")
	if o.fate != "" {
		return nil, fmt.Errorf("%s: CONFIG GET *: %v", s.program.name, o)
	}
	if o.n.isError() { // a server that wants a password first: nothing to restore
		return map[string]string{}, nil
	}
	m := make(map[string]string, len(o.n.kids)/2)
	for i := 0; i+1 < len(o.n.kids); i += 2 {
		m[string(o.n.kids[i].text)] = string(o.n.kids[i+1].text)
	}
	return m, nil
}

// reset brings a server back to the state after its start, all client connections closed by the caller before.
func (s *process) reset() error {
	for _, cmd := range [][]string{
		{"CLIENT", "UNPAUSE"}, {"FLUSHALL"}, {"CONFIG", "RESETSTAT"}, {"SLOWLOG", "RESET"}, {"DEBUG", "SET-ACTIVE-EXPIRE", "1"},
	} {
		if o := s.control.do(cmd...); o.fate != "" {
			return fmt.Errorf("%s: %v: %v", s.program.name, cmd, o)
		}
	}
	now, err := s.config()
	if err != nil {
		return err
	}
	for k, v := range s.initial {
		if now[k] == v {
			continue
		}
		if o := s.control.do("CONFIG", "SET", k, v); string(o.raw) != "+OK\r\n" {
			return fmt.Errorf("%s: CONFIG SET %s back to %q: %v", s.program.name, k, v, o)
		}
	}
	return s.waitInfo("connected_clients", "1")
}

// waitInfo polls INFO until a field has a value.
func (s *process) waitInfo(field, value string) error {
	deadline := time.Now().Add(replyDeadline)
	for {
		o := s.control.do("INFO", "everything")
		if o.fate != "" {
			return fmt.Errorf("%s: INFO: %v", s.program.name, o)
		}
		got, _ := infoField(string(o.n.text), field)
		if got == value {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: INFO says %s:%s, waited for %s", s.program.name, field, got, value)
		}
		time.Sleep(pollInterval)
	}
}

func infoField(info, field string) (string, bool) {
	for _, line := range strings.Split(info, "\r\n") {
		if k, v, ok := strings.Cut(line, ":"); ok && k == field {
			return v, true
		}
	}
	return "", false
}

// pair is our server and the genuine one beside it.
type pair struct {
	sides [2]*process // 0 is ours, 1 is genuine
	dir   string
}

func startPair(programs [2]program, args []string) (*pair, error) {
	dir, err := os.MkdirTemp("", "holdfast-interop-")
	if err != nil {
		return nil, err
	}
	p := &pair{dir: dir}
	for i, prog := range programs {
		sub := filepath.Join(dir, strconv.Itoa(i))
		if err := os.Mkdir(sub, 0o755); err != nil {
			return nil, errors.Join(err, p.stop())
		}
		s, err := startProcess(prog, sub, args)
		if err != nil {
			return nil, errors.Join(err, p.stop())
		}
		p.sides[i] = s
	}
	return p, nil
}

func (p *pair) stop() error {
	for _, s := range p.sides {
		if s != nil {
			s.kill()
		}
	}
	return os.RemoveAll(p.dir)
}

func (p *pair) reset() error { return errors.Join(p.sides[0].reset(), p.sides[1].reset()) }

// pool lends pairs of servers to tests that run at the same time.
type pool struct {
	programs [2]program
	mu       sync.Mutex
	idle     []*pair
	all      map[*pair]bool
}

func (pl *pool) get() (*pair, error) {
	pl.mu.Lock()
	if n := len(pl.idle); n > 0 {
		p := pl.idle[n-1]
		pl.idle = pl.idle[:n-1]
		pl.mu.Unlock()
		return p, nil
	}
	pl.mu.Unlock()
	return pl.fresh(nil)
}

func (pl *pool) fresh(args []string) (*pair, error) {
	p, err := startPair(pl.programs, args)
	if err != nil {
		return nil, err
	}
	pl.mu.Lock()
	defer pl.mu.Unlock()
	pl.all[p] = true
	return p, nil
}

// put takes a pair back. A pair that cannot be brought back to its initial state is ended, and the reason returned: a script
// must not be able to disturb the next one.
func (pl *pool) put(p *pair) error {
	if err := p.reset(); err != nil {
		return errors.Join(err, pl.drop(p))
	}
	pl.mu.Lock()
	defer pl.mu.Unlock()
	pl.idle = append(pl.idle, p)
	return nil
}

func (pl *pool) drop(p *pair) error {
	pl.mu.Lock()
	delete(pl.all, p)
	pl.mu.Unlock()
	return p.stop()
}

func (pl *pool) stop() {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	for p := range pl.all {
		if err := p.stop(); err != nil {
			fmt.Fprintln(os.Stderr, "interop:", err)
		}
	}
}

// link is one raw connection to one server.
type link struct {
	c  net.Conn
	rr replyReader
}

func dial(port int) (*link, error) {
	c, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), replyDeadline)
	if err != nil {
		return nil, err
	}
	return &link{c: c, rr: replyReader{r: bufio.NewReader(c)}}, nil
}

func (l *link) close() { _ = l.c.Close() }

func encodeCommand(args []string) []byte {
	b := fmt.Appendf(nil, "*%d\r\n", len(args))
	for _, a := range args {
		b = fmt.Appendf(b, "$%d\r\n", len(a))
		b = append(b, a...)
		b = append(b, '\r', '\n')
	}
	return b
}

func (l *link) send(args []string) error { return l.write(encodeCommand(args)) }

func (l *link) write(b []byte) error {
	if err := l.c.SetWriteDeadline(time.Now().Add(replyDeadline)); err != nil {
		return err
	}
	_, err := l.c.Write(b)
	return err
}

// recv reads one reply; a connection that was closed or stays silent is an outcome too.
func (l *link) recv() outcome {
	if err := l.c.SetReadDeadline(time.Now().Add(replyDeadline)); err != nil {
		return outcome{fate: "closed"}
	}
	n, raw, err := l.rr.read()
	o := outcome{n: n, raw: raw}
	var timeout net.Error
	switch {
	case err == nil:
	case errors.As(err, &timeout) && timeout.Timeout():
		o.fate = fateSilent
	case errors.Is(err, errReplySyntax):
		o.fate = err.Error()
	default:
		o.fate = "closed"
	}
	return o
}

// do sends and receives. A failed send shows as a closed connection when receiving, after whatever the server said before.
func (l *link) do(args ...string) outcome {
	_ = l.send(args)
	return l.recv()
}
