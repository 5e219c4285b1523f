package server

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"holdfast/internal/redis/config"
)

// Logger writes the server's log. In the legacy format its lines are those of
// Redis: "pid:role date level message". Safe for concurrent use; a line is one
// write.
type Logger struct {
	mu     sync.Mutex
	out    io.Writer
	path   string // of the log's own file, "" when there is none
	level  config.LogLevel
	format config.LogFormat
	role   func() byte
	buf    []byte
}

// NewLogger logs to the file at path, appending, or to standard output when
// path is empty.
func NewLogger(path string, level config.LogLevel, format config.LogFormat, role func() byte) (*Logger, error) {
	l := &Logger{out: os.Stdout, level: level, format: format, role: role}
	if path != "" {
		f, err := openLog(path)
		if err != nil {
			return nil, fmt.Errorf("Can't open the log file: %w", err)
		}
		if err := f.Close(); err != nil {
			return nil, fmt.Errorf("Can't open the log file: %w", err)
		}
		if l.path, err = filepath.Abs(path); err != nil {
			return nil, fmt.Errorf("Can't open the log file: %w", err)
		}
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
// server; there is nobody left to tell.
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

var levelWords = [...]string{"debug", "verbose", "notice", "warning"}

const levelMarks = ".-*#"

// Log writes one line.
func (l *Logger) Log(level config.LogLevel, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if level < l.level {
		return
	}
	now := time.Now()
	b := l.buf[:0]
	switch l.format {
	case config.LogFormatLogfmt:
		b = append(b, "time="...)
		b = now.AppendFormat(b, time.RFC3339Nano)
		b = fmt.Appendf(b, " level=%s role=%s pid=%d msg=%q\n", levelWords[level], roleWord(l.role()), os.Getpid(), fmt.Sprintf(format, args...))
	case config.LogFormatJSON:
		b = append(b, `{"time":"`...)
		b = now.AppendFormat(b, time.RFC3339Nano)
		b = fmt.Appendf(b, `","level":"%s","role":"%s","pid":%d,"msg":%s}`+"\n", levelWords[level], roleWord(l.role()), os.Getpid(), jsonString(fmt.Sprintf(format, args...)))
	default:
		b = strconv.AppendInt(b, int64(os.Getpid()), 10)
		b = append(b, ':', l.role(), ' ')
		b = now.AppendFormat(b, "02 Jan 2006 15:04:05.000")
		b = append(b, ' ', levelMarks[level], ' ')
		b = fmt.Appendf(b, format, args...)
		b = append(b, '\n')
	}
	l.buf = b
	l.write(b)
}

func roleWord(role byte) string {
	switch role {
	case 'M':
		return "master"
	case 'S':
		return "replica"
	case 'X':
		return "sentinel"
	}
	return "child"
}

func jsonString(s string) string {
	b := []byte{'"'}
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < 0x20:
			b = fmt.Appendf(b, `\u%04x`, r)
		default:
			b = append(b, string(r)...)
		}
	}
	return string(append(b, '"'))
}

// Notice logs at level notice, Warning at level warning, Verbose at verbose,
// Debug at debug.
func (l *Logger) Notice(format string, args ...any)  { l.Log(config.LogNotice, format, args...) }
func (l *Logger) Warning(format string, args ...any) { l.Log(config.LogWarning, format, args...) }
func (l *Logger) Verbose(format string, args ...any) { l.Log(config.LogVerbose, format, args...) }
func (l *Logger) Debug(format string, args ...any)   { l.Log(config.LogDebug, format, args...) }
