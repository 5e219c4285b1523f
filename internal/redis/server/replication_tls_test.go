package server_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
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

// writeCertificate makes a certificate that is its own authority, for 127.0.0.1.
func writeCertificate(t *testing.T) (cert, key string) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &priv.PublicKey, priv)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// Replication over TLS, with passwords, both ways.
func TestReplicationOverTLS(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]string{{"ours", "ours"}, {"genuine", "ours"}, {"ours", "genuine"}} {
		t.Run(strings.Join(pair[:], "-"), func(t *testing.T) {
			t.Parallel()
			cert, key := writeCertificate(t)
			port, err := proc.FreePort()
			if err != nil {
				t.Fatal(err)
			}
			files := []string{"--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert, "--tls-replication", "yes"}
			m := makers[pair[0]](t, append([]string{"--tls-port", strconv.Itoa(port)}, files...)...)
			r := makers[pair[1]](t, append([]string{"--masterauth", "secret"}, files...)...)
			m.do("CONFIG", "SET", "requirepass", "secret")
			w := newWriter(t, m, 51)
			if _, err := w.c.Must("AUTH", "secret"); err != nil {
				t.Fatal(err)
			}
			w.write(t, 500)
			r.do("REPLICAOF", "127.0.0.1", strconv.Itoa(port))
			w.write(t, 500)
			same(t, m, r)
			m.do("CLIENT", "KILL", "TYPE", "replica")
			w.write(t, 500)
			same(t, m, r)
			if got := m.info("sync_full"); got != "1" {
				t.Errorf("sync_full %s", got)
			}
			r.do("CONFIG", "SET", "masterauth", "wrong")
			m.do("CLIENT", "KILL", "TYPE", "replica")
			eventually(t, "the wrong password is logged", func() bool { return r.logged("Unable to AUTH to MASTER: -WRONGPASS") })
		})
	}
}
