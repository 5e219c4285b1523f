package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/test/proc"
)

// certs are an authority and what it signed, as files and for a client.
type certs struct {
	dir    string
	port   int
	pool   *x509.CertPool
	client tls.Certificate
}

func newCerts(t *testing.T) *certs {
	t.Helper()
	c := &certs{dir: t.TempDir(), pool: x509.NewCertPool()}
	caKey, ca := c.issue(t, "ca", nil, nil)
	c.pool.AddCert(ca)
	c.issue(t, "server", ca, caKey)
	c.issue(t, "client", ca, caKey)
	var err error
	if c.client, err = tls.LoadX509KeyPair(c.file("client.crt"), c.file("client.key")); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *certs) file(name string) string { return filepath.Join(c.dir, name) }

// issue makes a key and a certificate and writes both; it is its own authority
// when there is none.
func (c *certs) issue(t *testing.T, name string, ca *x509.Certificate, caKey *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ca == nil {
		tmpl.IsCA, tmpl.BasicConstraintsValid, tmpl.KeyUsage = true, true, x509.KeyUsageCertSign
		ca, caKey = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, &key.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{
		c.file(name + ".crt"): {Type: "CERTIFICATE", Bytes: der},
		c.file(name + ".key"): {Type: "EC PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return key, cert
}

// args are the directives of a TLS port; auth is tls-auth-clients.
func (c *certs) args(t *testing.T, auth string) []string {
	t.Helper()
	c.port = freePort(t)
	return []string{"--tls-port", strconv.Itoa(c.port), "--tls-cert-file", c.file("server.crt"), "--tls-key-file", c.file("server.key"),
		"--tls-ca-cert-file", c.file("ca.crt"), "--tls-auth-clients", auth}
}

func (c *certs) connect(withCert bool) (*proc.Conn, error) {
	conf := &tls.Config{RootCAs: c.pool}
	if withCert {
		conf.Certificates = []tls.Certificate{c.client}
	}
	d := &tls.Dialer{NetDialer: &net.Dialer{Timeout: limit}, Config: conf}
	nc, err := d.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port)))
	if err != nil {
		return nil, err
	}
	return proc.NewConn(nc, limit), nil
}

func (c *certs) dial(t *testing.T, _ *instance, withCert bool) *proc.Conn {
	t.Helper()
	conn, err := c.connect(withCert)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

func TestTLSBesideThePlainPort(t *testing.T) {
	t.Parallel()
	certs := newCerts(t)
	s := start(t, append(certs.args(t, "no"), "--io-loops", "2")...)
	plain, c := s.dial(), certs.dial(t, nil, false)

	const n = 20_000
	for i := range n {
		c.Send("SET", "k"+strconv.Itoa(i%100), strings.Repeat("v", 100))
	}
	c.Send("DBSIZE")
	done := make(chan error, 1)
	go func() { done <- c.Flush() }()
	for range n {
		if v, err := c.Recv(); err != nil || v.Str != "OK" {
			t.Fatal(v, err)
		}
	}
	if v, err := c.Recv(); err != nil || v.Int != 100 {
		t.Fatal(v, err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("x", 5<<20)
	must(t, c, "SET", "big", big)
	if must(t, plain, "GET", "big") != big {
		t.Error("another value came back")
	}

	c.Send("BLPOP", "q", "0")
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it blocks", func() bool { return info(t, plain, "blocked_clients") == "1" })
	must(t, plain, "RPUSH", "q", "x")
	if v, err := c.Recv(); err != nil || len(v.List) != 2 {
		t.Fatal(v, err)
	}

	do(t, c, "SUBSCRIBE", "ch")
	for i := range 100 {
		wantText(t, plain, "1", "PUBLISH", "ch", strconv.Itoa(i))
	}
	for i := range 100 {
		if v, err := c.Recv(); err != nil || v.List[2].Str != strconv.Itoa(i) {
			t.Fatal(v, err)
		}
	}
	if err := s.Terminate(limit); err != nil {
		t.Fatal(err)
	}
	if !closed(t, c.Net()) {
		t.Error("a TLS client is left open by the shutdown")
	}
}

func TestTLSClientCertificates(t *testing.T) {
	t.Parallel()
	for _, auth := range []string{"yes", "optional"} {
		t.Run(auth, func(t *testing.T) {
			certs := newCerts(t)
			start(t, certs.args(t, auth)...)
			must(t, certs.dial(t, nil, true), "PING")
			c, err := certs.connect(false)
			if err == nil {
				_, err = c.Must("PING") // in TLS 1.3 the refusal comes with the first read
				c.Close()
			}
			if (err == nil) != (auth == "optional") {
				t.Errorf("without a certificate: %v", err)
			}
		})
	}
}

// A peer that never finishes its handshake counts as a client and does not
// delay the shutdown.
func TestTLSHandshakesAreBounded(t *testing.T) {
	t.Parallel()
	certs := newCerts(t)
	// Without a journal, so that the shutdown waits for no disk either.
	s := start(t, append(certs.args(t, "no"), "--maxclients", "5", "--appendonly", "no")...)
	admin := s.dial()
	must(t, admin, "PING")
	for range 4 {
		nc, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(certs.port)))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
	}
	eventually(t, "further ones are refused", func() bool {
		c, err := certs.connect(false)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	begin := time.Now()
	if err := s.Terminate(limit); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(begin); d > 8*time.Second {
		t.Errorf("the shutdown waited %s for handshakes", d)
	}
}

func TestTLSWithoutCertificatesIsRefused(t *testing.T) {
	t.Parallel()
	s := launch(t, serverArgv(), t.TempDir(), nil, "--tls-port", fmt.Sprint(freePort(t)))
	if err := s.WaitExit(limit); err != nil {
		t.Fatal(err)
	}
	if s.ExitCode() != 1 || !strings.Contains(s.Output(), "Failed to configure TLS") {
		t.Errorf("exit code %d\n%s", s.ExitCode(), s.Output())
	}
}
