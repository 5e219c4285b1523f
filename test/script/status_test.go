package script

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"holdfast/test/proc"
)

// status says a password, and speaks TLS, as redis-cli does.
func TestStatusOfServersWithPasswordAndTLS(t *testing.T) {
	t.Parallel()
	certs, err := proc.NewCerts(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	port, secure := freeBase(t, 1), freeBase(t, 1)
	p, err := proc.Start(proc.Spec{Argv: []string{binary, "redis-server"}, Dir: t.TempDir(), Port: port, Args: []string{"--save", "", "--appendonly", "no",
		"--tls-port", fmt.Sprint(secure), "--tls-ca-cert-file", certs.CA, "--tls-cert-file", certs.Cert, "--tls-key-file", certs.Key}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	if err := p.Ready(deadline); err != nil {
		t.Fatal(err)
	}
	status := func(env string, args ...string) (string, int) {
		cmd := exec.Command(binary, append([]string{"status", "--timeout", "30s"}, args...)...)
		cmd.Env = append(os.Environ(), "REDISCLI_AUTH="+env)
		out, _ := cmd.CombinedOutput() // the code tells
		return string(out), cmd.ProcessState.ExitCode()
	}
	expect := func(code int, text, env string, args ...string) {
		t.Helper()
		out, got := status(env, args...)
		if got != code || !strings.Contains(out, text) {
			t.Errorf("status %v with %q: code %d, want %d; no %q in\n%s", args, env, got, code, text, out)
		}
	}
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	expect(0, "HEALTHY", "", addr)
	expect(0, "HEALTHY", "", addr, "--pass", "secret") // it wants none
	c, err := proc.Dial(port, deadline)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Must("CONFIG", "SET", "requirepass", "secret"); err != nil {
		t.Fatal(err)
	}
	expect(2, "asks for a password; say --pass, or set REDISCLI_AUTH", "", addr)
	expect(2, "asks for a password; say --pass, or set REDISCLI_AUTH", "", addr, "--pass", "wrong")
	expect(0, "HEALTHY", "", addr, "--pass", "secret")
	expect(0, "HEALTHY", "secret", addr)
	expect(0, "HEALTHY", "secret", addr, "--user", "default")
	addr = fmt.Sprintf("127.0.0.1:%d", secure)
	expect(0, "HEALTHY", "secret", addr, "--cacert", certs.CA, "--cert", certs.Cert, "--key", certs.Key)
	expect(2, "DOWN", "secret", addr)
}
