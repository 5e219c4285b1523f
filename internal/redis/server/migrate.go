package server

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"holdfast/internal/redis/command"
	"holdfast/internal/redis/process"
	"holdfast/internal/redis/resp"
)

// The network part of MIGRATE. Connections to targets are kept for a while,
// since slots move key by key; each serves one transfer at a time.

const (
	migrateKept     = 64               // connections kept in all
	migrateKeepTime = 10 * time.Second // after the last use
	migrateChunk    = 64 << 10         // bytes that must be taken within the timeout
	migrateLine     = 1 << 10          // bytes of an error that are passed on
)

// transfers implements command.Transferrer.
type transfers struct {
	s *Server

	mu    sync.Mutex
	idle  map[string][]*migrateConn // by address, the last used last
	n     int                       // in idle
	timer *time.Timer               // closes old ones; nil when none is idle
	over  bool
}

// migrateConn is a connection to a target.
type migrateConn struct {
	net.Conn
	rd   *bufio.Reader
	db   int64 // selected, -1: not known
	used time.Time
}

// migratePeer is how a target is reached.
type migratePeer struct {
	addr string
	bind string
	tls  *tls.Config
	err  error // of making tls
}

func newTransfers(s *Server) *transfers {
	return &transfers{s: s, idle: make(map[string][]*migrateConn)}
}

// Now implements command.Transferrer.
func (x *transfers) Now(t *command.Transfer) command.TransferResult { return x.carry(t, x.peer(t)) }

// Begin implements command.Transferrer.
func (x *transfers) Begin(t *command.Transfer, done func(command.TransferResult)) {
	p := x.peer(t)
	go func() {
		r := x.carry(t, p)
		e := x.s.e
		e.Lock()
		defer e.Unlock()
		if !x.s.shutdown.over {
			e.BeginBatch(time.Now().UnixMicro())
			done(r)
		}
	}()
}

// peer reads the configuration. The engine's lock is held.
func (x *transfers) peer(t *command.Transfer) migratePeer {
	p := migratePeer{addr: net.JoinHostPort(t.Host, migratePort(t.Port)), bind: x.s.cfg.BindSourceAddr}
	if x.s.cfg.TLSCluster {
		p.tls, p.err = process.ClientTLS(x.s.cfg)
	}
	return p
}

// migratePort reads a port as Redis does: by atoi and 16 bits of the result.
func migratePort(s string) string {
	n := 0
	for i := 0; i < len(s) && s[i] >= '0' && s[i] <= '9' && n < 1<<40; i++ {
		n = n*10 + int(s[i]-'0')
	}
	if len(s) > 0 && s[0] == '-' {
		return s // not to be resolved
	}
	return strconv.Itoa(n & 0xFFFF)
}

// carry carries t out. A connection that fails before the target has answered
// anything is tried anew once: that it was closed meanwhile is no news.
func (x *transfers) carry(t *command.Transfer, p migratePeer) command.TransferResult {
	for retry := true; ; retry = false {
		c, err := x.take(p, t.Timeout)
		if errors.Is(err, syscall.ECONNREFUSED) && p.tls == nil {
			// Redis notices no sooner than when it writes.
			return command.TransferResult{Failure: command.TransferNotWritten}
		}
		if err != nil {
			return command.TransferResult{Failure: command.TransferNotConnected}
		}
		r, answered, err := c.exchange(t)
		if err != nil {
			_ = c.Close() // it has failed already
		} else {
			x.keep(p.addr, c)
		}
		if err == nil || answered || !retry || errors.Is(err, os.ErrDeadlineExceeded) {
			return r
		}
	}
}

// exchange sends t and reads the answers. err is not nil when the connection
// failed; answered tells whether a RESTORE was answered before.
func (c *migrateConn) exchange(t *command.Transfer) (r command.TransferResult, answered bool, err error) {
	head, selects := c.head(t)
	c.db = -1
	if err = c.send(head, t.Timeout); err == nil {
		err = c.send(t.Commands, t.Timeout)
	}
	if err != nil {
		r.Failure = command.TransferNotWritten
		return r, false, err
	}
	r.Failure = command.TransferNotRead
	refused := "" // by AUTH, else by SELECT
	for range selects {
		line, err := c.line(t.Timeout)
		if err != nil {
			return r, false, err
		}
		if refused == "" && line[0] == '-' {
			refused = line[1:]
		}
	}
	for i := range t.Keys {
		line, err := c.line(t.Timeout)
		if err != nil {
			return r, i > 0, err
		}
		text := refused
		if text == "" && line[0] == '-' {
			text = line[1:]
		}
		r.Acked = append(r.Acked, text == "")
		if r.TargetError == "" {
			r.TargetError = text
		}
	}
	r.Failure = command.TransferNoFailure
	if r.TargetError == "" {
		c.db = t.DB
	}
	return r, true, nil
}

// head is what goes before the commands of t, and the number of its replies.
func (c *migrateConn) head(t *command.Transfer) (head []byte, replies int) {
	if len(t.Auth) > 0 {
		head = resp.AppendCommand(head, append([]string{"AUTH"}, t.Auth...)...)
		replies++
	}
	if c.db != t.DB || t.DB < 0 {
		head = resp.AppendCommand(head, "SELECT", strconv.FormatInt(t.DB, 10))
		replies++
	}
	return head, replies
}

// send writes b; each piece must be taken within the timeout.
func (c *migrateConn) send(b []byte, timeout time.Duration) error {
	for len(b) > 0 {
		n := min(len(b), migrateChunk)
		if err := c.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
			return err
		}
		if _, err := c.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// line reads a reply of one line, at least one byte; what is longer than an
// error has any business to be is cut.
func (c *migrateConn) line(timeout time.Duration) (string, error) {
	if err := c.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return "", err
	}
	var line []byte
	for {
		part, err := c.rd.ReadSlice('\n')
		if room := migrateLine - len(line); room > 0 {
			line = append(line, part[:min(room, len(part))]...)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return "", err
		}
	}
	for len(line) > 0 && (line[len(line)-1] == '\n' || line[len(line)-1] == '\r') {
		line = line[:len(line)-1]
	}
	if len(line) == 0 {
		return "", io.ErrUnexpectedEOF // no reply is empty
	}
	return string(line), nil
}

// take returns a connection to p that nobody else uses.
func (x *transfers) take(p migratePeer, timeout time.Duration) (*migrateConn, error) {
	x.mu.Lock()
	if list := x.idle[p.addr]; len(list) > 0 {
		c := list[len(list)-1]
		x.removeLocked(p.addr, len(list)-1)
		x.mu.Unlock()
		return c, nil
	}
	x.mu.Unlock()
	if p.err != nil {
		return nil, p.err
	}
	if host, _, _ := net.SplitHostPort(p.addr); host == "" {
		return nil, errors.New("no host") // and not this one
	}
	nc, err := process.Dial(p.addr, p.bind, timeout, p.tls)
	if err != nil {
		return nil, err
	}
	return &migrateConn{Conn: nc, rd: bufio.NewReader(nc), db: -1}, nil
}

// keep puts a connection aside for the next transfer to addr.
func (x *transfers) keep(addr string, c *migrateConn) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over {
		_ = c.Close() // nothing waits on it
		return
	}
	if x.n == migrateKept {
		for other, list := range x.idle { // any
			_ = list[0].Close() // idle: nothing waits on it
			x.removeLocked(other, 0)
			break
		}
	}
	c.used = time.Now()
	x.idle[addr] = append(x.idle[addr], c)
	x.n++
	if x.timer == nil {
		x.timer = time.AfterFunc(migrateKeepTime, x.expire)
	}
}

// kept is the number of idle connections.
func (x *transfers) kept() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.n
}

func (x *transfers) removeLocked(addr string, i int) {
	list := x.idle[addr]
	list = append(list[:i:i], list[i+1:]...)
	if x.n--; len(list) == 0 {
		delete(x.idle, addr)
	} else {
		x.idle[addr] = list
	}
}

// expire closes the connections that were idle for long.
func (x *transfers) expire() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.timer = nil
	x.closeLocked(time.Now().Add(-migrateKeepTime))
	if x.n > 0 {
		x.timer = time.AfterFunc(migrateKeepTime/4, x.expire)
	}
}

// closeLocked closes what was not used since the given time.
func (x *transfers) closeLocked(since time.Time) {
	for addr, list := range x.idle {
		for i := len(list) - 1; i >= 0; i-- {
			if !list[i].used.After(since) {
				_ = list[i].Close() // idle: nothing waits on it
				x.removeLocked(addr, i)
			}
		}
	}
}

// close closes all connections; those in use when their transfers end.
func (x *transfers) close() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.over = true
	x.closeLocked(time.Now())
	if x.timer != nil {
		x.timer.Stop()
	}
}
