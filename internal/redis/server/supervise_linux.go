package server

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// disableHugePages is disable-thp: where the system makes transparent huge pages
// for everybody, this process asks for none.
func (s *Server) disableHugePages() {
	b, err := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled")
	if err != nil || !strings.Contains(string(b), "[always]") {
		return
	}
	if s.cfg.DisableTHP && unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0) == nil {
		return
	}
	s.log.Warning("WARNING you have Transparent Huge Pages (THP) support enabled in your kernel. This will create latency and memory usage issues with Redis. " +
		"To fix this issue run the command 'echo madvise > /sys/kernel/mm/transparent_hugepage/enabled' as root, and add it to your /etc/rc.local in order to retain the setting after a reboot. " +
		"Redis must be restarted after THP is disabled (set to 'madvise' or 'never').")
}

// registerMaxClients lets CONFIG SET maxclients fail where the system cannot
// follow.
func (s *Server) registerMaxClients() {
	s.cfg.OnApply("maxclients", func(string, string) error {
		wanted := s.cfg.MaxClients
		if s.adjustOpenFiles(); s.cfg.MaxClients != wanted {
			return fmt.Errorf("The operating system is not able to handle the specified number of clients, try with %d", s.cfg.MaxClients)
		}
		return nil
	})
}

// reservedFiles is how many descriptors are kept for files, links and loops,
// beside one per client.
const reservedFiles = 32

// adjustOpenFiles makes maxclients and the limit of open files fit each other.
func (s *Server) adjustOpenFiles() {
	want := uint64(s.cfg.MaxClients) + reservedFiles
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		s.log.Warning("Unable to obtain the current NOFILE limit (%s), assuming 1024 and setting the max clients configuration accordingly.", errnoText(err))
		s.cfg.MaxClients = 1024 - reservedFiles
		return
	}
	if lim.Cur >= want {
		return
	}
	before := lim.Cur
	raised := unix.Rlimit{Cur: want, Max: max(lim.Max, want)}
	err := unix.Setrlimit(unix.RLIMIT_NOFILE, &raised)
	if err == nil {
		s.log.Notice("Increased maximum number of open files to %d (it was originally set to %d).", want, before)
		return
	}
	if lim.Cur < lim.Max { // as far as it goes
		lim.Cur = lim.Max
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &lim) // what holds is read below
		_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &lim)
	}
	if lim.Cur <= reservedFiles {
		s.log.Warning("Your current 'ulimit -n' of %d is not enough for the server to start. Please increase your open file limit to at least %d. Exiting.", lim.Cur, want)
		s.exit(1)
		return
	}
	s.log.Warning("You requested maxclients of %d requiring at least %d max file descriptors.", s.cfg.MaxClients, want)
	s.log.Warning("Server can't set maximum open files to %d because of OS error: %s.", want, errnoText(err))
	s.cfg.MaxClients = int(lim.Cur) - reservedFiles
	s.log.Warning("Current maximum open files is %d. maxclients has been reduced to %d to compensate for low ulimit. If you need higher maxclients increase 'ulimit -n'.", lim.Cur, s.cfg.MaxClients)
}
