package sentineld

import (
	"errors"
	"os"
	"os/exec"
	"syscall"

	"holdfast/internal/redis/sentinel"
)

// exitNotRun is what Redis's child ends with when it cannot run the script:
// it is not tried again.
const exitNotRun = 2

// runScript starts a notification or reconfiguration script; its end comes
// back as an input.
func (s *shell) runScript(e sentinel.RunScript) {
	// Not exec.Command: a name without a slash is one of the working directory,
	// where it was looked at, and not of PATH. What it prints goes where ours does.
	cmd := &exec.Cmd{Path: e.Args[0], Args: e.Args, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.ENOMEM) {
			msg := err.Error()
			go s.hand(sentinel.ScriptStarted{ID: e.ID, Err: msg})
			return
		}
		// There is a process, but it cannot become this program.
		go s.hand(sentinel.ScriptFinished{ID: e.ID, ExitCode: exitNotRun})
		return
	}
	s.scripts[e.ID] = cmd.Process
	go func() {
		s.hand(sentinel.ScriptStarted{ID: e.ID, PID: cmd.Process.Pid})
		fin := sentinel.ScriptFinished{ID: e.ID, PID: cmd.Process.Pid}
		err := cmd.Wait()
		var exit *exec.ExitError
		switch {
		case errors.As(err, &exit):
			if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
				fin.Signal = int(ws.Signal())
			} else {
				fin.ExitCode = exit.ExitCode()
			}
		case err != nil:
			fin.ExitCode = 99
		}
		s.ask(func() { delete(s.scripts, e.ID) })
		s.hand(fin)
	}()
}
