package sentineld

import (
	"errors"
	"os/exec"
	"syscall"

	"holdfast/internal/redis/sentinel"
)

// runScript starts a notification or reconfiguration script; its end comes
// back as an input.
func (s *shell) runScript(e sentinel.RunScript) {
	cmd := exec.Command(e.Args[0], e.Args[1:]...)
	if err := cmd.Start(); err != nil {
		msg := err.Error()
		go s.hand(sentinel.ScriptStarted{ID: e.ID, Err: msg})
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
