package interop

import (
	"os/exec"
	"syscall"
)

// dieWithParent makes the kernel end the server when the test binary dies without cleaning up, as on a test time-out.
func dieWithParent(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
