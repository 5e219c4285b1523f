package sentineld

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	crand "crypto/rand"
	"encoding/hex"

	"holdfast/internal/redis/config"
	"holdfast/internal/redis/resp"
	"holdfast/internal/redis/sentinel"
)

const (
	maxClientQueue = 32 << 20 // bytes of replies and messages not yet taken
	maxRequest     = 1 << 20  // bytes of one request; no command here is long
)

func randomHex(n int) string {
	b := make([]byte, n/2)
	_, _ = crand.Read(b) // never fails, by its contract
	return hex.EncodeToString(b)
}

// client is one connection of a client. Its own goroutine alone touches what
// is not marked otherwise.
type client struct {
	s       *shell
	id      uint64
	conn    net.Conn
	out     *outbox
	created time.Time
	authed  bool

	mu       sync.Mutex // guards what CLIENT LIST shows
	name     string
	resp     int
	lastCmd  string
	lastUsed time.Time
	queryLen int

	channels map[string]bool // guarded by hub.mu
	patterns map[string]bool // guarded by hub.mu
}

type clientTable struct {
	mu     sync.Mutex
	all    map[uint64]*client
	lastID uint64
	closed bool
}

func (t *clientTable) closeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, c := range t.all {
		c.out.close()
	}
}

// list returns the clients ordered by id.
func (t *clientTable) list() []*client {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]*client, 0, len(t.all))
	for id := uint64(1); id <= t.lastID && len(out) < len(t.all); id++ {
		if c := t.all[id]; c != nil {
			out = append(out, c)
		}
	}
	return out
}

type stats struct {
	connections, commands, rejected, errors atomic.Int64
	in, out, reads, writes                  atomic.Int64
}

// listen opens the configured addresses. A bind address that begins with '-'
// may be missing on this machine.
func (s *shell) listen() error {
	addrs := s.base.Bind
	if len(addrs) == 0 {
		addrs = []string{"*"}
	}
	for _, port := range []int{s.base.Port, s.base.TLSPort} {
		if port == 0 {
			continue
		}
		for _, a := range addrs {
			host, optional := strings.CutPrefix(a, "-")
			l, err := listenOne(host, port)
			if err != nil {
				if optional {
					continue
				}
				s.closeListeners()
				return fmt.Errorf("Could not create server TCP listening socket %s:%d: bind: %w", host, port, lastError(err)) //lint:ignore ST1005 Redis's words
			}
			if port == s.base.TLSPort {
				l = tls.NewListener(l, s.serveTLS)
			}
			s.listeners = append(s.listeners, l)
		}
	}
	return nil
}

func listenOne(host string, port int) (net.Listener, error) {
	switch host {
	case "*":
		host = "0.0.0.0"
	case "::*":
		host = "::"
	}
	return net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
}

// lastError is the innermost cause, "address already in use".
func lastError(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}

func (s *shell) closeListeners() {
	for _, l := range s.listeners {
		_ = l.Close() // nothing is lost by a listener that fails to close
	}
}

// tlsConfigs builds the client and server sides from the tls-* directives.
func tlsConfigs(base *config.Config) (dial, serve *tls.Config, err error) {
	if base.TLSPort == 0 && !base.TLSReplication {
		return nil, nil, nil
	}
	pool, err := certPool(base)
	if err != nil {
		return nil, nil, err
	}
	var certs []tls.Certificate
	if base.TLSCertFile != "" {
		cert, err := tls.LoadX509KeyPair(base.TLSCertFile, base.TLSKeyFile)
		if err != nil {
			return nil, nil, err
		}
		certs = append(certs, cert)
	}
	clientCerts := certs
	if base.TLSClientCertFile != "" {
		cert, err := tls.LoadX509KeyPair(base.TLSClientCertFile, base.TLSClientKeyFile)
		if err != nil {
			return nil, nil, err
		}
		clientCerts = []tls.Certificate{cert}
	}
	auth := tls.RequireAndVerifyClientCert
	switch base.TLSAuthClients {
	case config.TLSAuthClientsNo:
		auth = tls.NoClientCert
	case config.TLSAuthClientsOptional:
		auth = tls.VerifyClientCertIfGiven
	}
	serve = &tls.Config{Certificates: certs, ClientCAs: pool, ClientAuth: auth, MinVersion: tls.VersionTLS12}
	// As in Redis, a server is trusted by its authority, whatever its name:
	// instances are known by address.
	dial = &tls.Config{
		Certificates: clientCerts, MinVersion: tls.VersionTLS12, InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			opts := x509.VerifyOptions{Roots: pool, Intermediates: x509.NewCertPool()}
			for _, c := range cs.PeerCertificates[1:] {
				opts.Intermediates.AddCert(c)
			}
			_, err := cs.PeerCertificates[0].Verify(opts)
			return err
		},
	}
	return dial, serve, nil
}

func certPool(base *config.Config) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	files := []string{}
	if base.TLSCACertFile != "" {
		files = append(files, base.TLSCACertFile)
	}
	if base.TLSCACertDir != "" {
		entries, err := os.ReadDir(base.TLSCACertDir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			files = append(files, base.TLSCACertDir+"/"+e.Name())
		}
	}
	for _, f := range files {
		pem, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		pool.AppendCertsFromPEM(pem)
	}
	return pool, nil
}

const deniedText = "-DENIED Redis is running in protected mode because protected mode is enabled and no password is set for the default user. " +
	"In this mode connections are only accepted from the loopback interface. If you want to connect from external computers to Redis you may adopt " +
	"one of the following solutions: 1) Just disable protected mode sending the command 'CONFIG SET protected-mode no' from the loopback interface " +
	"by connecting to Redis from the same host the server is running, however MAKE SURE Redis is not publicly accessible from internet if you do so. " +
	"Use CONFIG REWRITE to make this change permanent. 2) Alternatively you can just disable the protected mode by editing the Redis configuration file, " +
	"and setting the protected mode option to 'no', and then restarting the server. 3) If you started the server manually just for testing, restart it " +
	"with the '--protected-mode no' option. 4) Setup a an authentication password for the default user. NOTE: You only need to do one of the above things " +
	"in order for the server to start accepting connections from the outside.\r\n"

func (s *shell) accept(l net.Listener) {
	defer s.wg.Done()
	for {
		conn, err := l.Accept()
		if err != nil {
			select {
			case <-s.stop:
				return
			default:
			}
			if errors.Is(err, net.ErrClosed) {
				return
			}
			s.log.warning("Accepting client connection: %v", err)
			time.Sleep(50 * time.Millisecond) // out of descriptors: do not spin
			continue
		}
		s.stats.connections.Add(1)
		s.welcome(conn)
	}
}

// welcome starts a client, unless it may not come in.
func (s *shell) welcome(conn net.Conn) {
	refuse := ""
	s.clients.mu.Lock()
	switch {
	case s.clients.closed:
		s.clients.mu.Unlock()
		_ = conn.Close()
		return
	case len(s.clients.all) >= s.base.MaxClients:
		refuse = "-ERR max number of clients reached\r\n"
		s.stats.rejected.Add(1)
	case s.base.ProtectedMode && s.base.RequirePass == "" && !net.ParseIP(hostOf(conn.RemoteAddr())).IsLoopback():
		refuse = deniedText
		s.stats.rejected.Add(1)
	}
	if refuse != "" {
		s.clients.mu.Unlock()
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = conn.Write([]byte(refuse)) // best effort: it is turned away anyway
		_ = conn.Close()
		return
	}
	s.clients.lastID++
	c := &client{
		s: s, id: s.clients.lastID, conn: conn, out: newOutbox(conn, maxClientQueue), created: time.Now(),
		lastUsed: time.Now(), resp: 2, authed: s.base.RequirePass == "",
		channels: map[string]bool{}, patterns: map[string]bool{},
	}
	s.clients.all[c.id] = c
	s.clients.mu.Unlock()
	s.wg.Add(2)
	go func() { defer s.wg.Done(); c.out.run() }()
	go func() { defer s.wg.Done(); c.run() }()
}

// run reads requests until the connection ends.
func (c *client) run() {
	defer c.leave()
	p := resp.Parser{MaxBulk: maxRequest, Unauthenticated: !c.authed}
	buf := make([]byte, 0, 4096)
	for {
		for {
			n, err := p.Next(buf)
			if err != nil {
				c.out.write(resp.AppendError(nil, "ERR "+err.Error()))
				c.out.closeSoon()
				return
			}
			if n == 0 {
				break
			}
			if len(p.Args) > 0 {
				args := make([]string, len(p.Args))
				for i, a := range p.Args {
					args[i] = string(a)
				}
				c.handle(args)
			}
			buf = buf[:copy(buf, buf[n:])]
			p.Unauthenticated = !c.authed
		}
		if len(buf) > 2*maxRequest {
			return
		}
		if cap(buf)-len(buf) < 1024 {
			buf = append(make([]byte, 0, 2*cap(buf)), buf...)
		}
		n, err := c.conn.Read(buf[len(buf):cap(buf)])
		c.s.stats.in.Add(int64(n))
		c.s.stats.reads.Add(1)
		if err != nil {
			return
		}
		buf = buf[:len(buf)+n]
	}
}

func (c *client) leave() {
	c.s.pubsub.leave(c)
	c.s.clients.mu.Lock()
	delete(c.s.clients.all, c.id)
	c.s.clients.mu.Unlock()
	c.out.mu.Lock()
	last := c.out.last
	c.out.mu.Unlock()
	if !last { // else the outbox closes when all is written
		c.out.close()
	}
}

// write queues a reply.
func (c *client) write(b []byte) {
	c.s.stats.out.Add(int64(len(b)))
	c.s.stats.writes.Add(1)
	c.out.write(b)
}

func (c *client) status(s string) { c.write(resp.AppendSimple(nil, s)) }
func (c *client) int(n int64)     { c.write(resp.AppendInt(nil, n)) }

func (c *client) error(s string) {
	c.s.stats.errors.Add(1)
	c.write(resp.AppendError(nil, s))
}

func (c *client) bulk(s string) { c.write(resp.AppendBulkString(nil, s)) }

func (c *client) verbatim(s string) {
	if c.resp == 3 {
		c.write(resp.AppendVerbatim(nil, "txt", s))
		return
	}
	c.bulk(s)
}

func (c *client) value(v sentinel.Value) {
	if v.Kind == sentinel.Error {
		c.s.stats.errors.Add(1)
	}
	c.write(appendValue(nil, v, c.resp))
}

// appendValue renders a reply of the core.
func appendValue(b []byte, v sentinel.Value, proto int) []byte {
	switch v.Kind {
	case sentinel.Status:
		return resp.AppendSimple(b, v.Str)
	case sentinel.Error:
		return resp.AppendError(b, v.Str)
	case sentinel.Int:
		return resp.AppendInt(b, v.Int)
	case sentinel.Bulk:
		return resp.AppendBulkString(b, v.Str)
	case sentinel.Array, sentinel.Map:
		if v.Kind == sentinel.Map && proto == 3 {
			b = resp.AppendHead(b, '%', len(v.Elems)/2)
		} else {
			b = resp.AppendHead(b, '*', len(v.Elems))
		}
		for _, e := range v.Elems {
			b = appendValue(b, e, proto)
		}
		return b
	}
	switch {
	case proto == 3:
		return append(b, resp.Null3...)
	case v.Kind == sentinel.NullArray:
		return append(b, resp.NullArray2...)
	}
	return append(b, resp.NullBulk2...)
}
