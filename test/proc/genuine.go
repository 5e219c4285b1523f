package proc

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// ErrNotInstalled: a genuine program of Redis 7.0 is not there, so that what
// compares with it has to be skipped.
var ErrNotInstalled = errors.New("not installed")

// Genuine is the path of a genuine program, "redis-server" or "redis-sentinel".
func Genuine(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", fmt.Errorf("%s: %w (Debian package %s)", program, ErrNotInstalled, program)
	}
	out, err := exec.Command(path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", path, err)
	}
	if !strings.Contains(string(out), " v=7.0.") {
		return "", fmt.Errorf("%s is %s, of version 7.0 it is %w", program, strings.TrimSpace(string(out)), ErrNotInstalled)
	}
	return path, nil
}

// genuineReady is how long a genuine server may take to answer.
const genuineReady = 30 * time.Second

// StartGenuine starts the genuine server on dir and waits until it answers. The
// caller ends it by Kill.
func StartGenuine(dir string, args ...string) (*Process, error) {
	path, err := Genuine("redis-server")
	if err != nil {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	p, err := Start(Spec{Argv: []string{path}, Dir: dir, Port: port, Args: append([]string{"--save", ""}, args...)})
	if err != nil {
		return nil, err
	}
	if err := p.Ready(genuineReady); err != nil {
		p.Kill()
		return nil, err
	}
	return p, nil
}
