package server

import (
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast/internal/redis/config"
)

// supervisor is who is told about start-up and stop: "" nobody.
func supervisor(cfg *config.Config) string {
	systemd, upstart := os.Getenv("NOTIFY_SOCKET") != "", os.Getenv("UPSTART_JOB") != ""
	switch cfg.Supervised {
	case config.SupervisedSystemd:
		return "systemd"
	case config.SupervisedUpstart:
		return "upstart"
	case config.SupervisedAuto:
		if upstart {
			return "upstart"
		}
		if systemd {
			return "systemd"
		}
	}
	return ""
}

// Supervised reports whether a supervisor watches this process, which must
// then stay the one that was started.
func Supervised(cfg *config.Config) bool { return supervisor(cfg) != "" }

// notifySupervisor tells systemd what the server is doing, in the form of
// sd_notify: lines of NAME=VALUE in one datagram.
func (s *Server) notifySupervisor(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if supervisor(s.cfg) != "systemd" || path == "" {
		return
	}
	if rest, abstract := strings.CutPrefix(path, "@"); abstract {
		path = "\x00" + rest
	}
	nc, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err == nil {
		_, err = nc.Write([]byte(state + "\n"))
		_ = nc.Close() // a datagram is sent or not by then
	}
	if err != nil {
		s.log.Warning("Telling systemd %q failed: %s", state, err)
	}
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
