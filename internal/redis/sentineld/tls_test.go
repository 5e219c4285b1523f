package sentineld

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/redis/resp"
	"holdfast/test/proc"
)

func newCerts(t *testing.T) *proc.Certs {
	t.Helper()
	c, err := proc.NewCerts(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// secureCall runs one command on an encrypted connection of its own.
func secureCall(port int, conf *tls.Config, args ...string) (resp.Value, error) {
	nc, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", fmt.Sprintf("127.0.0.1:%d", port), conf)
	if err != nil {
		return resp.Value{}, err
	}
	defer nc.Close()
	v, err := (&wire{nc, resp.NewReader(nc)}).do(args...)
	if err == nil {
		err = v.Err()
	}
	return v, err
}

// startSecure starts a program whose only TCP port is an encrypted one.
func startSecure(t *testing.T, name string, certs *proc.Certs, command func(conf string) *exec.Cmd, lines ...string) *child {
	t.Helper()
	port, dir := freePort(t), t.TempDir()
	path := filepath.Join(dir, "program.conf")
	text := append([]string{"port 0", fmt.Sprintf("tls-port %d", port), "bind 127.0.0.1", "dir " + dir, "tls-replication yes"}, certs.Directives()...)
	text = append(text, lines...)
	if err := os.WriteFile(path, []byte(strings.Join(text, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return newChild(t, name, port, dir, func() *exec.Cmd { return command(path) }, func() error {
		_, err := secureCall(port, certs.Client, "PING")
		return err
	})
}

// Redis, TLS.md: "tls-replication yes: Sentinel connects to masters, replicas
// and other Sentinels by TLS", and tells its TLS port to the others.
func TestSentinelsAndServersSpeakOnlyTLS(t *testing.T) {
	needGenuine(t, "redis-server", "redis-sentinel")
	certs := newCerts(t)
	genuine := func(program string) func(string) *exec.Cmd {
		return func(conf string) *exec.Cmd { return exec.Command(program, conf) }
	}
	server := func(name string, more ...string) *child {
		return startSecure(t, name, certs, genuine("redis-server"), append([]string{`save ""`, "repl-diskless-sync-delay 0"}, more...)...)
	}
	master := server("master")
	replica := server("replica", fmt.Sprintf("replicaof 127.0.0.1 %d", master.port))
	watch := []string{
		fmt.Sprintf("sentinel monitor mymaster 127.0.0.1 %d 2", master.port),
		"sentinel down-after-milliseconds mymaster " + calm, "sentinel failover-timeout mymaster 8000",
	}
	ours := func(path string) *exec.Cmd { return oursOn(path)() }
	sentinels := []*child{
		startSecure(t, "one", certs, ours, watch...), startSecure(t, "two", certs, ours, watch...),
		startSecure(t, "genuine", certs, genuine("redis-sentinel"), watch...),
	}
	for _, s := range sentinels {
		waitFor(t, s.name+" knows the others", func() error {
			v, err := secureCall(s.port, certs.Client, "SENTINEL", "MASTER", "mymaster")
			if err != nil {
				return err
			}
			if f := fields(v); f["num-other-sentinels"] != "2" || f["num-slaves"] != "1" || f["flags"] != "master" {
				return fmt.Errorf("others %s, replicas %s, flags %s", f["num-other-sentinels"], f["num-slaves"], f["flags"])
			}
			return nil
		})
	}
	waitFor(t, "the replica is in step", func() error {
		v, err := secureCall(replica.port, certs.Client, "INFO", "replication")
		if err == nil && !strings.Contains(v.String(), "master_link_status:up") {
			err = errors.New("link down")
		}
		return err
	})
	for _, s := range sentinels {
		if _, err := secureCall(s.port, certs.Client, "SENTINEL", "DEBUG", "TILT-PERIOD", "3000"); err != nil {
			t.Fatal(err)
		}
	}
	master.kill()
	for _, s := range sentinels {
		if _, err := secureCall(s.port, certs.Client, "SENTINEL", "SET", "mymaster", "down-after-milliseconds", brisk); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range sentinels {
		waitFor(t, s.name+" names the new master", func() error {
			v, err := secureCall(s.port, certs.Client, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")
			if err == nil && (len(v.Elems) != 2 || v.Elems[1].String() != fmt.Sprint(replica.port)) {
				err = fmt.Errorf("it names %v", v)
			}
			return err
		})
	}
}

// tls-auth-clients, tls-protocols and tls-ciphers hold for a Sentinel's clients
// as they do for a server's.
func TestSentinelTLSDirectivesForClients(t *testing.T) {
	certs := newCerts(t)
	watch := fmt.Sprintf("sentinel monitor mymaster 127.0.0.1 %d 2", freePort(t))
	ours := func(path string) *exec.Cmd { return oursOn(path)() }
	ping := func(p *child, change func(c *tls.Config)) error {
		conf := certs.Client.Clone()
		change(conf)
		_, err := secureCall(p.port, conf, "PING")
		return err
	}
	noCert := func(c *tls.Config) { c.Certificates = nil }
	s := startSecure(t, "strict", certs, ours, watch, "tls-protocols TLSv1.2", "tls-ciphers ECDHE-ECDSA-AES256-GCM-SHA384")
	if err := ping(s, noCert); err == nil {
		t.Error("a client without a certificate came in")
	}
	if err := ping(s, func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 }); err == nil {
		t.Error("TLS 1.3 was offered")
	}
	if err := ping(s, func(c *tls.Config) { c.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256} }); err == nil {
		t.Error("another cipher was accepted")
	}
	if err := ping(s, func(c *tls.Config) { c.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384} }); err != nil {
		t.Errorf("the cipher that is configured: %v", err)
	}
	open := startSecure(t, "open", certs, ours, watch, "tls-auth-clients no")
	if err := ping(open, noCert); err != nil {
		t.Errorf("tls-auth-clients no: %v", err)
	}
	plain, err := dial(open.port)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.close()
	if v, err := plain.do("PING"); err == nil {
		t.Errorf("an unencrypted client got %v", v)
	}
}
