package process

import (
	"os"
	"strconv"

	"holdfast/internal/redis/config"
)

// PidFile is where the process id is written, "" for nowhere: a daemon has a
// file even if none is configured.
func PidFile(cfg *config.Config) string {
	if cfg.PidFile == "" && cfg.Daemonize {
		if cfg.SentinelMode {
			return "/var/run/redis-sentinel.pid"
		}
		return "/var/run/redis.pid"
	}
	return cfg.PidFile
}

// WritePidFile writes the process id, if the configuration wants that. A file
// that cannot be written is logged and not fatal, as in Redis.
func WritePidFile(cfg *config.Config, log *Logger) {
	path := PidFile(cfg)
	if path == "" {
		return
	}
	if err := os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
		log.Warning("Failed to write PID file: %s", err)
	}
}

// RemovePidFile removes what WritePidFile has written.
func RemovePidFile(cfg *config.Config, log *Logger) {
	if path := PidFile(cfg); path != "" {
		log.Notice("Removing the pid file.")
		_ = os.Remove(path) // somebody else may have
	}
}

// RemoveUnixSocket removes the socket that ListenUnix has made.
func RemoveUnixSocket(cfg *config.Config, log *Logger) {
	if cfg.UnixSocket == "" {
		return
	}
	log.Notice("Removing the unix socket file.")
	if err := os.Remove(cfg.UnixSocket); err != nil && !os.IsNotExist(err) {
		log.Warning("Error removing the unix socket file: %s", err)
	}
}
