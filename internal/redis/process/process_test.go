package process

import (
	"crypto/tls"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/redis/config"
)

func load(t *testing.T, text string) *config.Config {
	t.Helper()
	c := config.Default()
	if err := c.LoadString(text, "test"); err != nil {
		t.Fatal(err)
	}
	return c
}

// syslog(3): the priority is facility*8 + severity; redis.conf: syslog-ident,
// syslog-facility; the severities are those that Redis maps its levels to.
func TestSyslogGetsFacilityIdentAndSeverity(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	ln, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c := load(t, "syslog-enabled yes\nsyslog-ident custodian\nsyslog-facility local3\nloglevel debug\n")
	var own strings.Builder
	l, err := NewLogger(LogOptions{Config: c, Role: func() byte { return 'M' }, Output: &own, SyslogSocket: path})
	if err != nil {
		t.Fatal(err)
	}
	read := func() string {
		t.Helper()
		b := make([]byte, 1024)
		if err := ln.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := ln.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	for _, line := range []struct {
		level    config.LogLevel
		priority string
	}{{config.LogDebug, "<159>"}, {config.LogVerbose, "<158>"}, {config.LogNotice, "<157>"}, {config.LogWarning, "<156>"}} {
		l.Log(line.level, "%s %d", "answer", 42)
		got := read()
		if !strings.HasPrefix(got, line.priority) || !strings.Contains(got, " custodian[") || !strings.HasSuffix(got, "]: answer 42\n") {
			t.Errorf("level %v: %q", line.level, got)
		}
	}
	if n := strings.Count(own.String(), "answer 42\n"); n != 4 {
		t.Errorf("the log itself has %d lines of 4: syslog comes beside it", n)
	}
	l.SetLevel(config.LogWarning)
	l.Notice("below the level")
	l.Warning("above")
	if got := read(); !strings.HasSuffix(got, "above\n") {
		t.Errorf("loglevel does not hold for syslog: %q", got)
	}
}

func TestSyslogThatIsNotThereStopsNothing(t *testing.T) {
	var own strings.Builder
	l, err := NewLogger(LogOptions{Config: load(t, "syslog-enabled yes"), Role: func() byte { return 'M' }, Output: &own,
		SyslogSocket: filepath.Join(t.TempDir(), "none")})
	if err != nil {
		t.Fatal(err)
	}
	l.Warning("on")
	if !strings.HasSuffix(own.String(), "# on\n") {
		t.Error(own.String())
	}
}

// redis.conf: "tls-ciphers DEFAULT:!MEDIUM", and names as `openssl ciphers` prints them.
func TestTLSCiphersAreReadAsOpenSSLNamesThem(t *testing.T) {
	for list, want := range map[string][]uint16{
		"ECDHE-RSA-AES128-GCM-SHA256":                          {tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256},
		"AES256-GCM-SHA384:NOT-HERE":                           {tls.TLS_RSA_WITH_AES_256_GCM_SHA384},
		"ECDHE-ECDSA-CHACHA20-POLY1305":                        {tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256},
		"ECDHE-RSA-AES256-SHA":                                 {tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA},
		"ECDHE-RSA-AES128-SHA:ECDHE-RSA-AES256-SHA:!AES128":    {tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA},
		"HIGH:!aNULL:!CHACHA20:!AES128:!ECDSA:!RSA-AES256-SHA": nil, // below
		"NOT-HERE": {},
	} {
		got := cipherSuites(list)
		if want == nil {
			if slices.Contains(got, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256) || !slices.Contains(got, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384) {
				t.Errorf("%s: %#x", list, got)
			}
			continue
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %#x, want %#x", list, got, want)
		}
	}
}

func TestTLSProtocolsBoundTheVersions(t *testing.T) {
	for _, c := range []struct {
		text     string
		min, max uint16
		refused  bool
	}{
		{"", tls.VersionTLS12, 0, false},
		{"TLSv1.3", tls.VersionTLS13, tls.VersionTLS13, false},
		{"tlsv1.1 TLSv1.2", tls.VersionTLS11, tls.VersionTLS12, false},
		{"SSLv3", 0, 0, true},
	} {
		var conf tls.Config
		err := protocols(&conf, load(t, `tls-protocols "`+c.text+`"`))
		if c.refused != (err != nil) || !c.refused && (conf.MinVersion != c.min || conf.MaxVersion != c.max) {
			t.Errorf("%q: %#x to %#x, %v", c.text, conf.MinVersion, conf.MaxVersion, err)
		}
	}
}

// redis.conf: "each address can be prefixed by '-', which means that redis will
// not fail to start if the address is not available".
func TestBindAddressesThatMayBeMissing(t *testing.T) {
	var out strings.Builder
	log, err := NewLogger(LogOptions{Config: config.Default(), Role: func() byte { return 'M' }, Output: &out})
	if err != nil {
		t.Fatal(err)
	}
	open := func(c *config.Config) error {
		return EachBind(c, 0, log, func(network, where string) error {
			ln, err := ListenTCP(c, network, where)
			if err == nil {
				err = ln.Close()
			}
			return err
		})
	}
	if err := open(load(t, "bind 127.0.0.1 -192.0.2.1")); err != nil {
		t.Errorf("an optional address: %v", err)
	}
	if err := open(load(t, "bind -192.0.2.1")); err == nil {
		t.Error("no address at all was accepted")
	}
	if err := open(load(t, "bind 127.0.0.1 192.0.2.1")); err == nil || !strings.Contains(out.String(), "Could not create server TCP listening socket 192.0.2.1:0") {
		t.Errorf("an address that must be there: %v\n%s", err, out.String())
	}
}
