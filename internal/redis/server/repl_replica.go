package server

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/redis/command"
	"holdfast/internal/redis/config"
	"holdfast/internal/redis/process"
	"holdfast/internal/redis/replication"
	"holdfast/internal/redis/resp"
)

// linkState is how far a replica is with its master.
type linkState uint8

const (
	linkNone       linkState = iota // this is a master
	linkConnect                     // it has to connect
	linkConnecting                  // a connection is being made
	linkHandshake                   // PING ... PSYNC
	linkTransfer                    // a snapshot comes
	linkConnected
)

// String is the state in ROLE.
func (st linkState) String() string {
	switch st {
	case linkNone:
		return "none"
	case linkConnect:
		return "connect"
	case linkConnecting:
		return "connecting"
	case linkHandshake:
		return "handshake"
	case linkTransfer:
		return "sync"
	case linkConnected:
		return "connected"
	}
	return "unknown"
}

const (
	retryPeriod = time.Second // between two attempts to connect
	linkBuffer  = 64 << 10
	maxLine     = 4096 // of a reply in the handshake, in bytes
)

var (
	errSuperseded = errors.New("this server follows another master now")
	errRefused    = errors.New("the master's history was refused")
)

// masterLink is a replica's side of the link to one master: a goroutine that
// connects, synchronises, applies the stream, and begins anew when the link
// breaks, until it is stopped. It takes the engine's lock for a slice at a time
// and each time makes sure that it is still the server's link.
type masterLink struct {
	s      *Server
	master config.ReplicaOf
	addr   string
	quit   chan struct{}
	kicked chan struct{} // try again at once

	mu     sync.Mutex
	nc     net.Conn
	closed bool

	r       *bufio.Reader
	about   replication.Facts // what the master says about its history
	oldSync bool              // the master only knows SYNC: nothing is acknowledged
	cached  bool              // it was asked to let us go on
	broken  bool              // the connection broke while the snapshot came

	lastIO    atomic.Int64  // monotonic
	readPos   atomic.Uint64 // stream position behind what was read
	acked     atomic.Uint64 // position behind what is as durable as promised
	ackNow    chan struct{}
	asked     atomic.Bool  // the master wants an acknowledgement
	syncTotal atomic.Int64 // bytes of the snapshot; 0: not known
	syncRead  atomic.Int64
}

func newMasterLink(s *Server, master config.ReplicaOf) *masterLink {
	return &masterLink{s: s, master: master, addr: net.JoinHostPort(master.Host, strconv.Itoa(master.Port)),
		quit: make(chan struct{}), kicked: make(chan struct{}, 1), ackNow: make(chan struct{}, 1)}
}

// stop ends the link. It does not wait: the goroutine may be waiting for the
// engine's lock, which the caller holds.
func (l *masterLink) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.closed = true
	close(l.quit)
	if l.nc != nil {
		_ = l.nc.Close()
	}
}

// kick makes a waiting link try again at once.
func (l *masterLink) kick() {
	select {
	case l.kicked <- struct{}{}:
	default:
	}
}

// --- driver of the master's connection, as CLIENT LIST and KILL see it ---

func (l *masterLink) wake(c *conn) {
	c.queued = false
	c.cl.Buf = c.cl.Buf[:0] // nothing is answered
	if c.closeWhen != closeNot {
		l.disconnect()
		l.parted() // whoever killed it may keep the reader waiting for long
	}
}
func (l *masterLink) resume(*conn) {}
func (l *masterLink) drop(*conn)   { l.disconnect() }

// disconnect breaks the present connection; the link goes on with another.
func (l *masterLink) disconnect() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.nc != nil {
		_ = l.nc.Close()
	}
}

func (l *masterLink) idleSeconds(time.Time) int64 {
	return (monotonic() - l.lastIO.Load()) / int64(time.Second)
}

// run is the link's life.
func (l *masterLink) run() {
	for {
		began := time.Now()
		l.broken = false
		err := l.once()
		if l.over() {
			return
		}
		wait := retryPeriod
		if time.Since(began) > 2*retryPeriod || l.broken {
			wait = 0 // it had been up: try again at once
		}
		if !l.lost(err) {
			return
		}
		timer := time.NewTimer(wait)
		select {
		case <-l.quit:
			timer.Stop()
			return
		case <-l.kicked:
			timer.Stop()
		case <-timer.C:
		}
		if wait > 0 {
			l.s.log.Notice("Connecting to MASTER %s:%d", l.master.Host, l.master.Port)
		}
	}
}

func (l *masterLink) over() bool {
	select {
	case <-l.quit:
		return true
	default:
		return false
	}
}

// lost notes that the connection is no more. It returns false when the link is
// not the server's any more.
func (l *masterLink) lost(err error) bool {
	s := l.s
	l.mu.Lock()
	if l.nc != nil {
		_ = l.nc.Close()
		l.nc = nil
	}
	l.mu.Unlock()
	s.e.Lock()
	defer s.e.Unlock()
	if s.repl.link != l {
		return false
	}
	l.parted()
	var down linkError
	if errors.As(err, &down) {
		s.log.Warning("%s", string(down))
		if down == silentMaster || down == silentBulk || l.broken {
			s.log.Notice("Reconnecting to MASTER %s:%d after failure", l.master.Host, l.master.Port)
		}
	}
	s.setLinkState(linkConnect)
	return true
}

// parted notes that the master is not followed any more. The engine's lock is
// held.
func (l *masterLink) parted() {
	s := l.s
	if s.repl.link != l || s.repl.linkState != linkConnected {
		return
	}
	s.log.Warning("Connection with master lost.")
	s.log.Notice("Caching the disconnected master state.")
	s.log.Notice("Reconnecting to MASTER %s:%d", l.master.Host, l.master.Port)
	s.setLinkState(linkConnect)
}

// linkError is the reason for which a connection was given up, as it is logged.
type linkError string

func (e linkError) Error() string { return string(e) }

func linkErrorf(format string, args ...any) error { return linkError(fmt.Sprintf(format, args...)) }

// enter takes the engine's lock if this is still the server's link.
func (l *masterLink) enter() bool {
	l.s.e.Lock()
	if l.s.repl.link != l {
		l.s.e.Unlock()
		return false
	}
	l.s.e.BeginBatch(time.Now().UnixMicro())
	return true
}

func (l *masterLink) setState(st linkState) error {
	if !l.enter() {
		return errSuperseded
	}
	l.s.setLinkState(st)
	l.s.e.Unlock()
	return nil
}

// facts are what the handshake needs of the configuration, read under the lock.
type linkFacts struct {
	timeout    time.Duration
	user, pass string
	port       int
	announceIP string
	bind       string
	tls        bool
	id         string // "?" without a history to go on with
	wanted     int64
	handOver   bool // the master is asked to become a replica: FAILOVER
	diskError  error
}

func (l *masterLink) facts() (f linkFacts, ok bool) {
	if !l.enter() {
		return f, false
	}
	defer l.s.e.Unlock()
	c := l.s.cfg
	f = linkFacts{timeout: time.Duration(c.ReplTimeout) * time.Second, user: c.MasterUser, pass: c.MasterAuth, port: c.Port,
		announceIP: c.ReplicaAnnounceIP, bind: c.BindSourceAddr, tls: c.TLSReplication, id: "?", wanted: -1}
	if !c.ReplicaIgnoreDiskWriteError {
		f.diskError = l.s.persist.journalErr
	}
	switch {
	case c.ReplicaAnnouncePort != 0:
		f.port = c.ReplicaAnnouncePort
	case c.TLSReplication && c.TLSPort != 0:
		f.port = c.TLSPort
	}
	if !l.s.repl.lost && (l.s.hasHistory() || l.s.repl.deposed) {
		f.id, f.wanted = l.s.repl.id(), int64(l.s.streamEnd())+1
	}
	f.handOver = l.s.repl.failover.Phase == replication.FailoverInProgress
	return f, true
}

// hasHistory reports whether the server holds anything that it could continue.
// The engine's lock is held.
func (s *Server) hasHistory() bool {
	return s.repl.restored || s.streamEnd() > 0 || s.keys() > 0
}

// once connects, synchronises and follows the master until the link breaks.
func (l *masterLink) once() error {
	f, ok := l.facts()
	if !ok {
		return errSuperseded
	}
	if f.diskError != nil {
		return nil // there is nothing to be applied that could not be stored
	}
	if err := l.setState(linkConnecting); err != nil {
		return err
	}
	l.s.log.Notice("MASTER <-> REPLICA sync started")
	nc, err := l.dial(f)
	if err != nil {
		return linkErrorf("Error condition on socket for SYNC: %s", errnoText(cause(err)))
	}
	l.lastIO.Store(monotonic())
	l.s.log.Notice("Non blocking connect for SYNC fired the event.")
	if err := l.setState(linkHandshake); err != nil {
		return err
	}
	l.r = bufio.NewReaderSize(nc, linkBuffer)
	if err := l.handshake(nc, f); err != nil {
		return err
	}
	reply, err := l.psync(nc, f)
	if err != nil {
		return err
	}
	cl, err := l.synchronise(nc, f, reply)
	if err != nil {
		return err
	}
	return l.follow(nc, cl, f)
}

// cause is the innermost error of a network operation.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("Connection timed out")
	}
	return err
}

func (l *masterLink) dial(f linkFacts) (net.Conn, error) {
	var conf *tls.Config
	if f.tls {
		var err error
		if conf, err = process.ClientTLS(l.s.cfg); err != nil {
			return nil, err
		}
	}
	nc, err := process.Dial(l.addr, f.bind, f.timeout, conf)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errors.Join(errSuperseded, nc.Close())
	}
	l.nc = nc
	return nc, nil
}

func (l *masterLink) send(nc net.Conn, timeout time.Duration, args ...string) error {
	b := resp.AppendHead(nil, '*', len(args))
	for _, a := range args {
		b = resp.AppendBulkString(b, a)
	}
	_ = nc.SetWriteDeadline(time.Now().Add(timeout))
	_, err := nc.Write(b)
	return err
}

// line reads one line without its end.
func (l *masterLink) line(nc net.Conn, timeout time.Duration) (string, error) {
	_ = nc.SetReadDeadline(time.Now().Add(timeout))
	var b []byte
	for {
		c, err := l.r.ReadByte()
		if err != nil {
			return "", err
		}
		l.lastIO.Store(monotonic())
		if c == '\n' {
			return strings.TrimSuffix(string(b), "\r"), nil
		}
		if len(b) == maxLine {
			return "", errors.New("line too long")
		}
		b = append(b, c)
	}
}

// ask sends a command and returns the line that answers it.
func (l *masterLink) ask(nc net.Conn, f linkFacts, args ...string) (string, error) {
	if err := l.send(nc, f.timeout, args...); err != nil {
		return "", linkErrorf("Sending command to master in replication handshake: %s", errnoText(cause(err)))
	}
	reply, err := l.line(nc, f.timeout)
	if err != nil {
		return "", readError(err, silentMaster, "Failed to read response from the server: %s")
	}
	return reply, nil
}

// A master that says nothing, before and while it sends its data.
const (
	silentMaster = linkError("Timeout connecting to the MASTER...")
	silentBulk   = linkError("Timeout receiving bulk data from MASTER... If the problem persists try to set the 'repl-timeout' parameter in redis.conf to a larger value.")
)

// readError is why reading failed: silent when the master's time was over, else
// the format with the error.
func readError(err error, silent linkError, format string) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return silent
	}
	return linkErrorf(format, errnoText(cause(err)))
}

// handshake makes us known to the master.
func (l *masterLink) handshake(nc net.Conn, f linkFacts) error {
	reply, err := l.ask(nc, f, "PING")
	if err != nil {
		return err
	}
	// An old or protected master refuses PING without a password; AUTH comes next.
	if !strings.HasPrefix(reply, "+") && !strings.HasPrefix(reply, "-NOAUTH") && !strings.HasPrefix(reply, "-NOPERM") &&
		!strings.HasPrefix(reply, "-ERR operation not permitted") {
		return linkErrorf("Error reply to PING from master: '%s'", reply)
	}
	l.s.log.Notice("Master replied to PING, replication can continue...")
	if f.pass != "" {
		args := []string{"AUTH", f.pass}
		if f.user != "" {
			args = []string{"AUTH", f.user, f.pass}
		}
		if reply, err = l.ask(nc, f, args...); err != nil {
			return err
		}
		if strings.HasPrefix(reply, "-") {
			return linkErrorf("Unable to AUTH to MASTER: %s", reply)
		}
	}
	steps := [][]string{{"listening-port", strconv.Itoa(f.port)}}
	if f.announceIP != "" {
		steps = append(steps, []string{"ip-address", f.announceIP})
	}
	steps = append(steps, []string{"capa", "eof", "capa", "psync2"})
	for _, step := range steps {
		if reply, err = l.ask(nc, f, append([]string{"REPLCONF"}, step...)...); err != nil {
			return err
		}
		if strings.HasPrefix(reply, "-") {
			l.s.log.Notice("(Non critical) Master does not understand REPLCONF %s: %s", step[0], reply)
		}
	}
	return nil
}

// psync asks to go on where our own stream ends.
func (l *masterLink) psync(nc net.Conn, f linkFacts) (replication.Reply, error) {
	args := []string{"PSYNC", f.id, strconv.FormatInt(f.wanted, 10)}
	l.about = replication.Facts{}
	if l.cached = f.wanted >= 0; l.cached {
		var err error
		if l.about, err = l.masterFacts(nc, f); err != nil {
			return replication.Reply{}, err
		}
		l.s.log.Notice("Trying a partial resynchronization (request %s:%d).", f.id, f.wanted)
	} else {
		l.s.log.Notice("Partial resynchronization not possible (no cached master)")
	}
	if f.handOver {
		l.s.log.Notice("Initiating coordinated failover PSYNC request to %s:%d replica.", l.master.Host, l.master.Port)
		args = append(args, "FAILOVER")
	}
	if err := l.send(nc, f.timeout, args...); err != nil {
		return replication.Reply{}, linkErrorf("Unable to send PSYNC to master: %s", errnoText(cause(err)))
	}
	line := ""
	for line == "" { // empty lines keep the link alive while the master prepares
		var err error
		if line, err = l.line(nc, f.timeout); err != nil {
			return replication.Reply{}, readError(err, silentMaster, "Master did not reply to PSYNC: %s")
		}
	}
	reply := replication.ParseReply(line)
	if f.handOver {
		if err := l.handedOver(reply); err != nil {
			return reply, err
		}
	}
	switch reply.Kind {
	case replication.ReplyBroken:
		return reply, linkErrorf("Master replied with wrong +FULLRESYNC syntax.")
	case replication.ReplyLater:
		return reply, linkErrorf("Master is currently unable to PSYNC but should be in the future: %s", line)
	case replication.ReplyNoPSYNC:
		if strings.HasPrefix(line, "-ERR") {
			l.s.log.Notice("Master does not support PSYNC or is in error state (reply: %s)", line)
		} else {
			l.s.log.Warning("Unexpected reply to PSYNC from master: %s", line)
		}
		l.s.log.Notice("Retrying with SYNC...")
		if err := l.send(nc, f.timeout, "SYNC"); err != nil {
			return reply, linkErrorf("I/O error writing to MASTER: %s", errnoText(cause(err)))
		}
	}
	return reply, nil
}

// handedOver notes that the target of a FAILOVER has taken over, or refused to.
func (l *masterLink) handedOver(reply replication.Reply) error {
	if !l.enter() {
		return errSuperseded
	}
	defer l.s.e.Unlock()
	if reply.Kind == replication.ReplyFull || reply.Kind == replication.ReplyContinue {
		l.s.clearFailover()
		return nil
	}
	l.s.abortFailover("Failover target rejected psync request")
	return errSuperseded
}

// synchronise brings our data to where the master's stream is going to go on,
// and returns the client as which the stream is applied.
func (l *masterLink) synchronise(nc net.Conn, f linkFacts, reply replication.Reply) (*command.Client, error) {
	streamDB := 0
	l.oldSync = reply.Kind == replication.ReplyNoPSYNC
	switch reply.Kind {
	case replication.ReplyContinue:
		if err := l.continued(reply); err != nil {
			return nil, err
		}
		streamDB = -1
	default:
		if reply.Kind == replication.ReplyFull {
			l.s.log.Notice("Full resync from master: %s:%d", reply.ID, reply.Offset)
			if err := l.judge(reply); err != nil {
				return nil, err
			}
		} else {
			reply.ID = randomID()
		}
		if err := l.setState(linkTransfer); err != nil {
			return nil, err
		}
		db, err := l.fullSync(nc, f, reply)
		if err != nil {
			return nil, err
		}
		streamDB = db
	}
	return l.connected(nc, streamDB)
}

// judge is the lineage guard, and the last moment to save what is going to be
// thrown away.
func (l *masterLink) judge(reply replication.Reply) error {
	if !l.enter() {
		return errSuperseded
	}
	s, r := l.s, &l.s.repl
	offer := replication.Offer{Own: r.hist, OwnEnd: s.streamEnd(), HasData: !r.lost && s.keys() > 0,
		ID: reply.ID, Offset: reply.Offset, Master: l.about, Forced: r.forced || !s.cfg.ReplicaLineageGuard}
	refused := offer.Refused()
	var d divergence
	diverged := false
	if !refused {
		d, diverged = s.findDivergence(&offer)
	}
	s.e.Unlock()
	if refused {
		s.log.Warning("Refusing the full resynchronization: the master's history %s is unknown here and ends at offset %d, "+
			"while this replica has data of the history %s up to offset %d. The master may have lost its data. "+
			"To follow it nevertheless: REPLICAOF %s %d", reply.ID, reply.Offset, offer.Own.ID, offer.OwnEnd, l.master.Host, l.master.Port)
		return errRefused
	}
	if diverged {
		if err := s.saveDivergence(d); err != nil {
			return linkError(err.Error())
		}
	}
	return nil
}

// continued is the master's +CONTINUE.
func (l *masterLink) continued(reply replication.Reply) error {
	if !l.enter() {
		return errSuperseded
	}
	defer l.s.e.Unlock()
	s := l.s
	s.log.Notice("Successful partial resynchronization with master.")
	if reply.ID != "" && reply.ID != s.repl.hist.ID {
		// Our own replicas must learn the new id; they continue at once.
		s.dropReplicas()
		s.repl.hist.Shift(reply.ID, s.streamEnd())
		s.log.Warning("Master replication ID changed to %s", reply.ID)
		if err := s.storeHistory(); err != nil {
			s.journalFailed(err)
			return linkError(err.Error())
		}
	}
	s.log.Notice("MASTER <-> REPLICA sync: Master accepted a Partial Resynchronization.")
	return nil
}

// connected makes the master's client. streamDB is the database that the stream
// is at, -1 for where our own stream is.
func (l *masterLink) connected(nc net.Conn, streamDB int) (*command.Client, error) {
	if !l.enter() {
		return nil, errSuperseded
	}
	s := l.s
	defer s.e.Unlock()
	if streamDB < 0 {
		streamDB = s.e.StreamDB()
	}
	if streamDB < 0 || streamDB >= s.ks.NumDB() {
		streamDB = 0
	}
	c := s.newConn(l, nc.RemoteAddr().String(), nc.LocalAddr().String())
	c.master = true
	c.cl.Flags |= command.FlagMaster
	c.cl.Authenticated = true
	c.cl.DB = s.ks.DB(streamDB)
	s.e.SetStreamDB(streamDB)
	s.repl.forced = false
	s.repl.restored = true
	l.readPos.Store(s.streamEnd())
	l.acked.Store(s.streamEnd())
	s.setLinkState(linkConnected)
	return c.cl, nil
}

// follow applies the stream until the link breaks.
func (l *masterLink) follow(nc net.Conn, cl *command.Client, f linkFacts) error {
	s := l.s
	_ = nc.SetDeadline(time.Time{})
	done := make(chan struct{})
	var acks sync.WaitGroup
	if !l.oldSync {
		acks.Add(1)
		go func() {
			defer acks.Done()
			l.sendAcks(nc, done, f.timeout)
		}()
		l.ack()
	}
	defer func() {
		close(done)
		acks.Wait()
		s.e.Lock()
		if c, ok := cl.Conn.(*conn); ok {
			s.forget(c)
		}
		s.e.Unlock()
	}()
	a := applier{l: l, cl: cl, parser: resp.Parser{Trusted: true}}
	for {
		if a.held && len(a.buf) > heldMost {
			time.Sleep(heldLook) // the rest waits in the master
			if err := a.take(0); err != nil {
				return err
			}
			continue
		}
		patience := l.timeout()
		if a.held {
			patience = heldLook
		}
		_ = nc.SetReadDeadline(time.Now().Add(patience))
		n, err := l.r.Read(a.room())
		if n > 0 {
			l.lastIO.Store(monotonic())
			l.readPos.Add(uint64(n))
			s.stat.replInBytes.Add(int64(n))
			s.stat.inBytes.Add(int64(n))
			s.stat.reads.Add(1)
		}
		held := a.held
		if n > 0 || held {
			if err := a.take(n); err != nil {
				return err
			}
		}
		switch {
		case err == nil:
		case held && errors.Is(err, os.ErrDeadlineExceeded) && monotonic()-l.lastIO.Load() < int64(l.timeout()):
		case errors.Is(err, os.ErrDeadlineExceeded):
			return linkErrorf("MASTER timeout: no data nor PING received...")
		case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
			return err
		default:
			return linkErrorf("Reading from master: %s", errnoText(cause(err)))
		}
	}
}

func (l *masterLink) timeout() time.Duration {
	l.s.e.Lock()
	defer l.s.e.Unlock()
	return time.Duration(l.s.cfg.ReplTimeout) * time.Second
}

// ack asks for an acknowledgement to be sent now.
func (l *masterLink) ack() {
	select {
	case l.ackNow <- struct{}{}:
	default:
	}
}

// sendAcks acknowledges each second and when asked to.
func (l *masterLink) sendAcks(nc net.Conn, done chan struct{}, timeout time.Duration) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-l.ackNow:
		case <-tick.C:
		}
		if err := l.send(nc, timeout, "REPLCONF", "ACK", strconv.FormatUint(l.acked.Load(), 10)); err != nil {
			_ = nc.Close() // the reader notices
			return
		}
	}
}

// applier executes the stream and stores it.
type applier struct {
	l      *masterLink
	cl     *command.Client
	parser resp.Parser
	buf    []byte // from the beginning of the first unit that is not whole
	parsed int    // bytes of buf that were executed or queued
	held   bool   // CLIENT PAUSE keeps back what comes next
}

// A stream that CLIENT PAUSE keeps back: how often we look whether it may go on,
// and how many bytes of it are read meanwhile.
const (
	heldLook = 50 * time.Millisecond
	heldMost = 64 << 20
)

const (
	applySlice  = 1024    // commands applied in one go
	applyShrink = 1 << 20 // a buffer that grew beyond this is given back
)

// room is where the next bytes are to be read to.
func (a *applier) room() []byte {
	if cap(a.buf)-len(a.buf) < linkBuffer/4 {
		grown := make([]byte, len(a.buf), max(linkBuffer, 2*cap(a.buf)))
		copy(grown, a.buf)
		a.buf = grown
	}
	return a.buf[len(a.buf):cap(a.buf)]
}

// take executes n bytes that were read to room. Whole units go to our own
// stream, byte for byte; a unit is a command, or MULTI to EXEC.
func (a *applier) take(n int) error {
	a.buf = a.buf[:len(a.buf)+n]
	for more := true; more; {
		var err error
		if more, err = a.slice(); err != nil {
			return err
		}
	}
	if len(a.buf) == 0 && cap(a.buf) > applyShrink {
		a.buf = nil
	}
	return nil
}

// slice applies some commands under the engine's lock, and then makes them as
// durable as promised.
func (a *applier) slice() (more bool, err error) {
	l, s := a.l, a.l.s
	if !l.enter() {
		return false, errSuperseded
	}
	whole := 0 // bytes of buf that end with a unit
	perr := error(nil)
	count := 0
	a.held = false
	for ; count < applySlice; count++ {
		used, err := a.parser.Next(a.buf[a.parsed:])
		if err != nil {
			perr = err
			break
		}
		if used == 0 {
			break
		}
		if len(a.parser.Args) > 0 {
			if s.e.State.DiskError != "" && s.writes(a.parser.Args[0]) && !s.obeyWithoutDisk() {
				s.e.Unlock()
				return false, errSuperseded
			}
			if a.held = s.holdsBack(a.cl, a.parser.Args[0]); a.held {
				break
			}
			s.e.Dispatch(a.cl, a.parser.Args)
		}
		a.parsed += used
		if !a.cl.Has(command.FlagMulti) {
			whole = a.parsed
		}
	}
	if whole > 0 {
		s.AppendUnit(a.buf[:whole])
		s.e.SetStreamDB(a.cl.DB.Index())
		s.offsetMoved()
		a.buf = a.buf[:copy(a.buf, a.buf[whole:])]
		a.parsed -= whole
	}
	at := s.commitPoint()
	s.e.Unlock()
	if perr != nil {
		return false, linkErrorf("Protocol error from master: %s", perr)
	}
	if err := s.commitStream(at); err != nil && !s.goOnUnstored(err) {
		return false, linkErrorf("The master's stream cannot be stored: %s", err)
	}
	l.acked.Store(at.pos)
	if l.asked.Swap(false) {
		l.ack()
	}
	return count == applySlice, nil
}

// writes reports whether name is a command that writes.
func (s *Server) writes(name []byte) bool {
	spec := s.e.Table.Lookup(name)
	return spec != nil && spec.Is(command.Write)
}

// holdsBack reports whether CLIENT PAUSE postpones a command of our master, as it
// does with those of clients. The engine's lock is held.
func (s *Server) holdsBack(cl *command.Client, name []byte) bool {
	st := &s.e.State
	if st.PauseUntilMs <= s.e.NowMs || st.FailoverPause {
		return false
	}
	spec := s.e.Table.Lookup(name)
	return spec != nil && (!st.PauseWrites || spec.Flags&(command.Write|command.MayReplicate) != 0 || cl.Has(command.FlagMulti) && spec.Name == "exec")
}

// unstoredLogMs is how often a replica says that it goes on without a disk.
const unstoredLogMs = 10_000

// goOnUnstored is what becomes of a replica that could not store what its master
// has sent: with replica-ignore-disk-write-errors it goes on, without it ends.
// The engine's lock is not held.
func (s *Server) goOnUnstored(err error) bool {
	s.e.Lock()
	defer s.e.Unlock()
	s.journalFailed(err)
	return s.obeyWithoutDisk()
}

// obeyWithoutDisk decides about a write of the master while the disk fails. The
// engine's lock is held.
func (s *Server) obeyWithoutDisk() bool {
	if !s.cfg.ReplicaIgnoreDiskWriteError {
		s.panicked("Replica was unable to write command to disk.")
		return false
	}
	if s.e.NowMs > s.repl.unstoredMs+unstoredLogMs {
		s.repl.unstoredMs = s.e.NowMs
		s.log.Warning("Replica is applying a command even though it is unable to write to disk.")
	}
	return true
}
