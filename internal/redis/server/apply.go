package server

import (
	"errors"
	"os"
	"strconv"
	"strings"

	"holdfast/internal/journal"
	"holdfast/internal/redis/command"
	"holdfast/internal/redis/config"
	"holdfast/internal/redis/sds"
)

// applyLimits copies what the keyspace goes by to it.
func (s *Server) applyLimits() {
	l, c := s.ks.Limits(), s.cfg
	l.HashMaxListpackEntries, l.HashMaxListpackValue = int(c.HashMaxListpackEntries), int(c.HashMaxListpackValue)
	l.ListMaxListpackSize, l.ListCompressDepth = int(c.ListMaxListpackSize), int(c.ListCompressDepth)
	l.SetMaxIntsetEntries = int(c.SetMaxIntsetEntries)
	l.ZsetMaxListpackEntries, l.ZsetMaxListpackValue = int(c.ZSetMaxListpackEntries), int(c.ZSetMaxListpackValue)
	l.LFU, l.LFULogFactor, l.LFUDecayTime = c.MaxMemoryPolicy.IsLFU(), c.LFULogFactor, c.LFUDecayTime
	l.LazyServerDel = c.LazyfreeLazyServerDel
	s.e.State.RequirePass = c.RequirePass != ""
}

// Monitor implements command.Host.
func (s *Server) Monitor(cl *command.Client, db int, args [][]byte) {
	if len(s.monitors) == 0 {
		return
	}
	us := s.e.NowUs
	line := []byte{'+'}
	line = strconv.AppendInt(line, us/1e6, 10)
	line = append(line, '.')
	frac := strconv.FormatInt(us%1e6, 10)
	line = append(line, strings.Repeat("0", 6-len(frac))+frac...)
	line = append(line, " ["...)
	line = strconv.AppendInt(line, int64(db), 10)
	line = append(line, ' ')
	if cl.Has(command.FlagUnixSocket) {
		line = append(line, "unix:"...)
	}
	line = append(line, cl.Addr...)
	line = append(line, ']')
	for _, a := range args {
		line = append(line, ' ')
		line = sds.AppendRepr(line, a)
	}
	line = append(line, '\r', '\n')
	for c := range s.monitors {
		c.cl.Buf = append(c.cl.Buf, line...)
		c.wake()
	}
}

// readRSS is the resident memory of this process in bytes, 0 if unknown.
func readRSS() int64 {
	var b [128]byte
	n := readProcess(b[:])
	f := strings.Fields(string(b[:n]))
	if len(f) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(f[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// registerApply ties parameters that CONFIG SET may change to what they act on.
func (s *Server) registerApply() {
	on := func(name string, fn func(old, now string) error) { s.cfg.OnApply(name, fn) }
	for _, name := range []string{"hash-max-listpack-entries", "hash-max-listpack-value", "list-max-listpack-size", "list-compress-depth",
		"set-max-intset-entries", "zset-max-listpack-entries", "zset-max-listpack-value", "maxmemory-policy", "lfu-log-factor", "lfu-decay-time",
		"lazyfree-lazy-server-del", "requirepass"} {
		on(name, func(string, string) error { s.applyLimits(); return nil })
	}
	on("requirepass", func(_, now string) error {
		s.applyLimits()
		if now == "" {
			for _, c := range s.conns {
				c.cl.Authenticated = true
			}
		}
		return nil
	})
	on("loglevel", func(string, string) error { s.log.SetLevel(s.cfg.LogLevel); return nil })
	on("proto-max-bulk-len", func(string, string) error {
		for _, c := range s.conns {
			c.parser.MaxBulk = s.cfg.ProtoMaxBulkLen
		}
		return nil
	})
	on("maxmemory", func(string, string) error { return nil })
	on("maxmemory-clients", func(string, string) error { s.measureConns(); return nil })
	on("slowlog-max-len", func(string, string) error { s.e.Slow.Trim(int(s.cfg.SlowlogMaxLen)); return nil })
	on("appendfsync", func(string, string) error { return s.applyAppendFsync() })
	on("appendonly", func(_, now string) error {
		if err := s.setAppendOnly(now == "yes"); err != nil {
			s.log.Warning("Unable to turn on AOF: %s", err)
			return errors.New("Unable to turn on AOF. Check server logs.")
		}
		return nil
	})
	on("repl-backlog-size", func(string, string) error {
		if m, ok := s.persist.stream.(*journal.Memory); ok {
			m.Resize(int(s.cfg.ReplBacklogSize))
		}
		return nil
	})
	on("stop-writes-on-bgsave-error", func(string, string) error { s.updateDiskError(); return nil })
	on("save", func(string, string) error { s.updateDiskError(); return nil })
	on("watchdog-period", func(string, string) error { s.applyWatchdog(); return nil })
	s.registerListen()
	s.registerOOMScore()
	on("dir", func(_, now string) error { return os.Chdir(now) })
}

func (s *Server) applyAppendFsync() error {
	s.persist.always.Store(s.cfg.AppendFsync == config.FsyncAlways)
	if s.persist.stream != nil {
		s.persist.stream.SetLevel(journalLevel(s.cfg.AppendFsync))
	}
	return nil
}
