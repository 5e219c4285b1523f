package server

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"holdfast/internal/redis/config"
	"holdfast/internal/redis/logline"
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

// Log writes one line.
func (l *Logger) Log(level config.LogLevel, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if level < l.level {
		return
	}
	b := logline.Append(l.buf[:0], l.format, time.Now(), os.Getpid(), l.role(), level, fmt.Sprintf(format, args...))
	l.buf = b
	l.write(b)
}

// Notice logs at level notice, Warning at level warning, Verbose at verbose,
// Debug at debug.
func (l *Logger) Notice(format string, args ...any)  { l.Log(config.LogNotice, format, args...) }
func (l *Logger) Warning(format string, args ...any) { l.Log(config.LogWarning, format, args...) }
func (l *Logger) Verbose(format string, args ...any) { l.Log(config.LogVerbose, format, args...) }
func (l *Logger) Debug(format string, args ...any)   { l.Log(config.LogDebug, format, args...) }
