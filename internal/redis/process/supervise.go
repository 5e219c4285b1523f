package process

import (
	"net"
	"os"
	"strings"

	"holdfast/internal/redis/config"
)

// Supervisor is who is told about start-up and stop: "systemd", "upstart", or
// "" for nobody.
func Supervisor(cfg *config.Config) string {
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

// Notify tells systemd what the process is doing, in the form of sd_notify:
// lines of NAME=VALUE in one datagram. Without systemd it does nothing.
func Notify(cfg *config.Config, log *Logger, state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if Supervisor(cfg) != "systemd" || path == "" {
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
		log.Warning("Telling systemd %q failed: %s", state, err)
	}
}
