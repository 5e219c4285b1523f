package process

//lint:file-ignore ST1005 the wording is that of Redis

import (
	"fmt"
	"io"
	"log/syslog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"holdfast/internal/redis/config"
	"holdfast/internal/redis/logline"
)

// Logger writes the log of a process. In the legacy format its lines are those
// of Redis: "pid:role date level message". Safe for concurrent use; a line is one
// write.
type Logger struct {
	mu     sync.Mutex
	out    io.Writer
	path   string // of the log's own file, "" when there is none
	level  config.LogLevel
	format config.LogFormat
	role   func() byte
	syslog *systemLog // nil when syslog-enabled is no
	buf    []byte
}

// LogOptions say where a log goes.
type LogOptions struct {
	// Config has logfile, loglevel, log-format and syslog-*. A relative logfile
	// is one of the working directory.
	Config *config.Config
	// Role returns the letter of logline that stands in each line.
	Role func() byte
	// Output replaces logfile and standard output.
	Output io.Writer
	// SyslogSocket is the datagram socket of the system's log; "" looks for it
	// where it usually is.
	SyslogSocket string
}

// NewLogger opens the log. The error is that of a logfile which cannot be
// written.
func NewLogger(o LogOptions) (*Logger, error) {
	c := o.Config
	l := &Logger{out: os.Stdout, level: c.LogLevel, format: c.LogFormat, role: o.Role}
	if c.SyslogEnabled {
		l.syslog = &systemLog{socket: o.SyslogSocket, ident: c.SyslogIdent, facility: syslogFacility(c.SyslogFacility)}
	}
	if o.Output != nil {
		l.out = o.Output
		return l, nil
	}
	if c.LogFile == "" {
		return l, nil
	}
	f, err := openLog(c.LogFile)
	if err == nil {
		// The stacks of a crash go there, too: a daemon has no standard error.
		// Where that is not possible they are lost, which is no reason not to run.
		_ = debug.SetCrashOutput(f, debug.CrashOptions{})
		err = f.Close()
	}
	if err == nil {
		l.path, err = filepath.Abs(c.LogFile)
	}
	if err != nil {
		return nil, fmt.Errorf("Can't open the log file: %w", err)
	}
	return l, nil
}

func openLog(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
}

// SetLevel changes the least level that is logged.
func (l *Logger) SetLevel(level config.LogLevel) {
	l.mu.Lock()
	l.level = level
	l.mu.Unlock()
}

// write opens the file for each line, so that it can be moved away at any time
// by whoever rotates logs. A log that cannot be written must not stop the
// process; there is nobody left to tell.
func (l *Logger) write(b []byte) {
	if l.path == "" {
		_, _ = l.out.Write(b)
		return
	}
	if f, err := openLog(l.path); err == nil {
		_, _ = f.Write(b)
		_ = f.Close()
	}
}

// Log writes one line.
func (l *Logger) Log(level config.LogLevel, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if level < l.level {
		return
	}
	msg := fmt.Sprintf(format, args...)
	l.buf = logline.Append(l.buf[:0], l.format, time.Now(), os.Getpid(), l.role(), level, msg)
	l.write(l.buf)
	if l.syslog != nil {
		l.syslog.write(level, msg)
	}
}

// Raw writes text as it is.
func (l *Logger) Raw(level config.LogLevel, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if level >= l.level {
		l.write([]byte(text))
	}
}

// FromSignal writes one warning about a signal, in the form in which Redis's
// handlers of signals write.
func (l *Logger) FromSignal(text string) {
	if l.format != config.LogFormatLegacy {
		l.Warning("%s", text)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if config.LogWarning < l.level {
		return
	}
	l.write(fmt.Appendf(nil, "%d:signal-handler (%d) %s\n", os.Getpid(), time.Now().Unix(), text))
	if l.syslog != nil {
		l.syslog.write(config.LogWarning, text)
	}
}

// Notice logs at level notice, Warning at level warning, Verbose at verbose,
// Debug at debug.
func (l *Logger) Notice(format string, args ...any)  { l.Log(config.LogNotice, format, args...) }
func (l *Logger) Warning(format string, args ...any) { l.Log(config.LogWarning, format, args...) }
func (l *Logger) Verbose(format string, args ...any) { l.Log(config.LogVerbose, format, args...) }
func (l *Logger) Debug(format string, args ...any)   { l.Log(config.LogDebug, format, args...) }

// systemLog is the connection to syslog. It is made with the first line, and
// again when it was lost; a system without syslog gets nothing, as in C.
type systemLog struct {
	socket   string
	ident    string
	facility syslog.Priority
	w        *syslog.Writer
}

func (s *systemLog) write(level config.LogLevel, msg string) {
	if s.w == nil {
		network := ""
		if s.socket != "" {
			network = "unixgram"
		}
		w, err := syslog.Dial(network, s.socket, s.facility|syslog.LOG_NOTICE, s.ident)
		if err != nil {
			return
		}
		s.w = w
	}
	var err error
	switch level {
	case config.LogDebug:
		err = s.w.Debug(msg)
	case config.LogVerbose:
		err = s.w.Info(msg)
	case config.LogNotice:
		err = s.w.Notice(msg)
	default:
		err = s.w.Warning(msg)
	}
	if err != nil {
		_ = s.w.Close() // it is of no use any more
		s.w = nil
	}
}

// syslogFacility is the facility as syslog numbers it: user is 1, local0 to
// local7 are 16 to 23, each shifted by the three bits of the severity.
func syslogFacility(f config.SyslogFacility) syslog.Priority { return syslog.Priority(f) << 3 }
