package sentineld

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"holdfast/internal/redis/config"
	"holdfast/internal/redis/logline"
)

// logger writes lines in the form of Redis: "pid:X date mark message". Safe
// for concurrent use; a line is one write.
type logger struct {
	mu     sync.Mutex
	out    io.Writer
	file   *os.File
	level  config.LogLevel
	format config.LogFormat
	buf    []byte
}

// newLogger logs to out, or to the file at path, or to standard output.
func newLogger(out io.Writer, path string, level config.LogLevel, format config.LogFormat) (*logger, error) {
	l := &logger{out: out, level: level, format: format}
	if out != nil {
		return l, nil
	}
	l.out = os.Stdout
	if path != "" {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, fmt.Errorf("open the log file: %w", err)
		}
		l.out, l.file = f, f
	}
	return l, nil
}

func (l *logger) close() {
	if l.file != nil {
		_ = l.file.Close() // nobody is left to tell
	}
}

func (l *logger) log(level config.LogLevel, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if level < l.level {
		return
	}
	b := logline.Append(l.buf[:0], l.format, time.Now(), os.Getpid(), logline.Sentinel, level, fmt.Sprintf(format, args...))
	l.buf = b
	_, _ = l.out.Write(b) // a log that cannot be written must not stop the process
}

func (l *logger) notice(format string, args ...any)  { l.log(config.LogNotice, format, args...) }
func (l *logger) warning(format string, args ...any) { l.log(config.LogWarning, format, args...) }
