package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"holdfast/internal/redis/config"
	"holdfast/internal/redis/process"
)

// daemonMark in the environment says that this process is the daemon.
const daemonMark = "HOLDFAST_DAEMON"

// mayDaemonize reports whether this process is to go into the background. A
// supervisor has to see the process that it started.
func mayDaemonize(cfg *config.Config) bool {
	return cfg.Daemonize && os.Getenv(daemonMark) == "" && process.Supervisor(cfg) == ""
}

// daemonize starts this program again, in a session of its own and without a
// terminal, and leaves. The daemon reads the same arguments; stdin is what this
// process has read of them from standard input.
func daemonize(stdin []byte) int {
	if err := startDaemon(stdin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func startDaemon(stdin []byte) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(exe) // its streams are those of /dev/null
	cmd.Args = os.Args
	cmd.Env = append(os.Environ(), daemonMark+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if len(stdin) == 0 {
		return cmd.Start()
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if _, err := in.Write(stdin); err != nil {
		return fmt.Errorf("handing the configuration to the daemon: %w", err)
	}
	return in.Close()
}
