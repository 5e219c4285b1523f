package process

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"holdfast/internal/redis/config"
)

// logo has the facts in the lines in which Redis's picture has them: tools read
// the process id from it.
const logo = `
      _   _   _
     | |_| |_| |          Holdfast, as Redis %s (00000000/0) 64 bit
     |         |
   __|  _   _  |__        Running in %s mode
  |  | | | | | |  |       Port: %d
  |  |_|_|_|_|_|  |       PID: %d
  |    |  _  |    |
  |____| | | |____|
 /_____|_|_|_|_____\

`

// Announce says in which mode a process runs: with a picture if standard output
// is a terminal and nothing else is logged to, or always-show-logo asks for it,
// else in one line.
func Announce(cfg *config.Config, log *Logger, version, mode string) {
	port := cfg.Port
	if port == 0 {
		port = cfg.TLSPort
	}
	if !cfg.AlwaysShowLogo && (cfg.SyslogEnabled || cfg.LogFile != "" || !isTerminal(os.Stdout)) {
		log.Notice("Running mode=%s, port=%d.", mode, port)
		return
	}
	log.Raw(config.LogNotice, fmt.Sprintf(logo, version, mode, cfg.Port, os.Getpid()))
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
