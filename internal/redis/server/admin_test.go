package server_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/test/proc"
)

// fill stores every type in every form, in two databases.
func fill(n *node) {
	n.do("SET", "s", "v")
	n.do("SET", "n", "12345")
	n.do("SET", "e", "v", "PX", "10000000")
	n.do("SET", "big", strings.Repeat("abcdefgh", 3000))
	n.do("RPUSH", "l", "a", "", "-7", "300")
	n.do("SADD", "is", "1", "-2", "70000", "5000000000")
	n.do("SADD", "ss", "a", "b", "7")
	n.do("HSET", "h", "f", "v", "7", "8")
	n.do("ZADD", "z", "1", "a", "2.5", "b", "-inf", "c", "inf", "d", "1e300", "e", "0.1", "f", "-0", "g")
	for i := range 700 {
		s := strconv.Itoa(i)
		n.c.Send("RPUSH", "L", strings.Repeat(s, 10))
		n.c.Send("SADD", "S", "member"+s)
		n.c.Send("SADD", "IS", s)
		n.c.Send("HSET", "H", "field"+s, "value"+s)
		n.c.Send("ZADD", "Z", strconv.FormatFloat(float64(i)/7, 'g', -1, 64), "member"+s)
	}
	if err := n.c.Flush(); err != nil {
		n.t.Fatal(err)
	}
	for range 5 * 700 {
		if _, err := n.c.Recv(); err != nil {
			n.t.Fatal(err)
		}
	}
	n.do("SELECT", "3")
	n.do("SET", "s", "v")
	n.do("SELECT", "0")
}

// DEBUG DIGEST is what replication tests compare servers by, so it must be
// that of Redis for every type and form.
func TestDigestEqualsGenuine(t *testing.T) {
	a, b := ours(t, "--save", ""), genuine(t)
	fill(a)
	fill(b)
	if x, y := a.do("DEBUG", "DIGEST").Str, b.do("DEBUG", "DIGEST").Str; x != y {
		t.Errorf("digests differ: ours %s, genuine %s", x, y)
	}
	for _, key := range []string{"s", "n", "e", "big", "l", "is", "ss", "h", "z", "L", "S", "IS", "H", "Z", "missing"} {
		x, y := a.do("DEBUG", "DIGEST-VALUE", key), b.do("DEBUG", "DIGEST-VALUE", key)
		if x.List[0].Str != y.List[0].Str {
			t.Errorf("digest of %s: ours %s, genuine %s", key, x.List[0].Str, y.List[0].Str)
		}
	}
}

// What was loaded again, from a snapshot or from the journal, is what was there.
func TestReloadsKeepTheData(t *testing.T) {
	n := ours(t, "--save", "")
	fill(n)
	want := n.do("DEBUG", "DIGEST").Str
	for _, how := range [][]string{{"DEBUG", "RELOAD"}, {"DEBUG", "LOADAOF"}, {"DEBUG", "RELOAD", "NOSAVE"}, {"DEBUG", "LOADAOF"}, {"DEBUG", "RELOAD", "NOSAVE", "NOFLUSH", "MERGE"}} {
		n.do(how...)
		if got := n.do("DEBUG", "DIGEST").Str; got != want {
			t.Errorf("after %v the digest is %s, before %s", how, got, want)
		}
	}
	n.fails("Error trying to load", "DEBUG", "RELOAD", "NOSAVE", "NOFLUSH")
	n.do("SET", "later", "v")
	want = n.do("DEBUG", "DIGEST").Str
	n.p.Kill()
	n.start()
	if got := n.do("DEBUG", "DIGEST").Str; got != want {
		t.Errorf("after a restart the digest is %s, before %s", got, want)
	}
}

// DEBUG CRASH-AND-RECOVER is a kill -9 from inside.
func TestCrashAndRecover(t *testing.T) {
	n := ours(t, "--save", "", "--appendfsync", "always")
	n.do("SET", "k", "v")
	if _, err := n.c.Do("DEBUG", "CRASH-AND-RECOVER", "0"); err == nil {
		t.Fatal("the server answered instead of crashing")
	}
	eventually(t, "the server is back", func() bool {
		c, err := proc.Dial(n.spec.Port, time.Second)
		if err != nil {
			return false
		}
		defer c.Close()
		_, err = c.Must("PING")
		return err == nil
	})
	n.dial()
	if v := n.do("GET", "k").Text(); v != "v" {
		t.Errorf("k is %q", v)
	}
}

var infoLine = regexp.MustCompile(`^([^#:]+):`)

// Every field of INFO is there, section by section, in the order of Redis.
func TestInfoHasTheFieldsOfGenuine(t *testing.T) {
	a, b := ours(t, "--save", ""), genuine(t, "--appendonly", "yes")
	for _, n := range []*node{a, b} {
		n.do("SET", "k", "v")
		n.c.Send("NOSUCH")
		_ = n.c.Flush()
		if _, err := n.c.Recv(); err != nil {
			t.Fatal(err)
		}
		n.do("CONFIG", "RESETSTAT")
		n.do("SET", "k", "v")
	}
	names := func(n *node, section string) (list []string) {
		for line := range strings.Lines(n.do("INFO", section).Text()) {
			if m := infoLine.FindStringSubmatch(line); m != nil {
				list = append(list, m[1])
			} else if line = strings.TrimSpace(line); line != "" {
				list = append(list, line)
			}
		}
		return list
	}
	for _, section := range []string{"server", "clients", "memory", "persistence", "stats", "replication", "cpu", "modules", "errorstats", "cluster", "keyspace"} {
		got, want := names(a, section), names(b, section)
		at := 0
		for _, name := range want {
			i := slices.Index(got[at:], name)
			if i < 0 {
				t.Errorf("INFO %s: no %s behind %v", section, name, got[:at])
				continue
			}
			at += i + 1
		}
		if extra := len(got) - len(want); extra > 0 && section != "persistence" {
			t.Errorf("INFO %s has %d fields that Redis does not have: %v", section, extra, got)
		}
	}
	for _, field := range []string{"journal_generation", "journal_position", "journal_synced_position", "journal_segments", "journal_bytes"} {
		if a.info(field) == "" {
			t.Errorf("INFO persistence lacks %s", field)
		}
	}
}

// CONFIG SET port and bind move the server while it serves, or change nothing.
func TestListenersFollowTheConfiguration(t *testing.T) {
	n := ours(t, "--save", "")
	other, err := proc.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	old := n.spec.Port
	n.do("CONFIG", "SET", "port", strconv.Itoa(other))
	answers(t, other)
	eventually(t, "the old port is closed", func() bool {
		nc, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", old))
		if err == nil {
			_ = nc.Close()
		}
		return err != nil
	})
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	n.fails("Unable to listen on this port. Check server logs.", "CONFIG", "SET", "port", strconv.Itoa(taken.Addr().(*net.TCPAddr).Port))
	answers(t, other)
	// The wildcard address is in the way of a narrower one.
	for _, bind := range []string{"127.0.0.1", "*", "127.0.0.1 -::1", "* -::*"} {
		n.do("CONFIG", "SET", "bind", bind)
		answers(t, other)
	}
	n.fails("Failed to bind to specified addresses.", "CONFIG", "SET", "bind", "127.0.0.1 192.0.2.77")
	answers(t, other)
	if v := n.do("CONFIG", "GET", "bind"); v.List[1].Text() != "* -::*" {
		t.Errorf("bind is %q after a refusal", v.List[1].Text())
	}
}

func answers(t *testing.T, port int) {
	t.Helper()
	eventually(t, fmt.Sprintf("port %d answers", port), func() bool {
		c, err := proc.Dial(port, time.Second)
		if err != nil {
			return false
		}
		defer c.Close()
		_, err = c.Must("PING")
		return err == nil
	})
}

// certificate writes a self-signed certificate and its key.
func certificate(t *testing.T, dir, name string, serial int64) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "EC PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// TLS can be switched on, and its certificate changed, while serving.
func TestTLSFollowsTheConfiguration(t *testing.T) {
	n := ours(t, "--save", "")
	port, err := proc.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	serial := func() int64 {
		nc, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			return -1
		}
		defer nc.Close()
		return nc.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	n.fails("Unable to update TLS configuration. Check server logs.", "CONFIG", "SET", "tls-port", strconv.Itoa(port))
	certFile, keyFile := certificate(t, t.TempDir(), "one", 1)
	n.do("CONFIG", "SET", "tls-cert-file", certFile, "tls-key-file", keyFile, "tls-auth-clients", "no", "tls-port", strconv.Itoa(port))
	eventually(t, "TLS is served", func() bool { return serial() == 1 })
	certFile, keyFile = certificate(t, t.TempDir(), "two", 2)
	n.do("CONFIG", "SET", "tls-cert-file", certFile, "tls-key-file", keyFile)
	eventually(t, "the new certificate is shown", func() bool { return serial() == 2 })
	n.fails("Unable to update TLS configuration. Check server logs.", "CONFIG", "SET", "tls-key-file", "/nonexistent")
	if got := serial(); got != 2 {
		t.Errorf("after a refused change the certificate is %d", got)
	}
	n.do("CONFIG", "SET", "tls-port", "0")
	eventually(t, "TLS is off", func() bool { return serial() == -1 })
}

// CONFIG REWRITE keeps comments and what it does not know, and the server
// starts with what it wrote.
func TestConfigRewriteIsReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "holdfast.conf")
	if err := os.WriteFile(file, []byte("# by hand\nsave \"\"\nhz 20\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	n := ours(t)
	n.fails("The server is running without a config file", "CONFIG", "REWRITE")
	n.p.Kill()
	n.spec.Argv = append(n.spec.Argv, file)
	n.start()
	n.do("CONFIG", "SET", "hz", "30", "maxmemory", "77mb", "requirepass", "se cret")
	n.do("CONFIG", "REWRITE")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"# by hand", "hz 30", "maxmemory 77mb", `requirepass "se cret"`} {
		if !slices.Contains(strings.Split(string(text), "\n"), line) {
			t.Errorf("no line %q in\n%s", line, text)
		}
	}
	st, err := os.Stat(file)
	if err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if left, _ := filepath.Glob(file + ".*"); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

// maxmemory-clients closes the largest clients and spares the others.
func TestLargestClientsAreEvicted(t *testing.T) {
	n := ours(t, "--save", "", "--maxmemory-clients", "2mb")
	big, err := proc.Dial(n.spec.Port, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer big.Close()
	if err := big.Raw([]byte("*2\r\n$3\r\nGET\r\n$8000000\r\n" + strings.Repeat("x", 4<<20))); err != nil && !strings.Contains(err.Error(), "reset") && !strings.Contains(err.Error(), "broken pipe") {
		t.Fatal(err)
	}
	eventually(t, "the large client is gone", func() bool { return n.info("evicted_clients") == "1" })
	n.do("PING")
	// The connection that found out whether the server is ready may be the last to go.
	eventually(t, "one client is left", func() bool { return n.info("connected_clients") == "1" })
}

// FLUSHALL makes an end of the BGSAVE that runs, and of the old dump.rdb.
func TestFlushallEndsBgsave(t *testing.T) {
	n := ours(t, "--appendonly", "no", "--save", "3600 100000000")
	n.do("DEBUG", "POPULATE", "200000")
	n.do("SAVE")
	n.do("BGSAVE")
	n.do("FLUSHALL")
	eventually(t, "nothing is being saved", func() bool { return n.info("rdb_bgsave_in_progress") == "0" })
	if got := n.info("rdb_last_bgsave_status"); got != "ok" {
		t.Errorf("rdb_last_bgsave_status is %s", got)
	}
	n.p.Kill()
	n.start()
	if got := n.do("DBSIZE").Int; got != 0 {
		t.Errorf("%d keys came back", got)
	}
}
