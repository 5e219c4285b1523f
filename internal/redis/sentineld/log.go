package sentineld

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"holdfast/internal/redis/config"
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
	now, msg := time.Now(), fmt.Sprintf(format, args...)
	b := l.buf[:0]
	switch l.format {
	case config.LogFormatLegacy:
		b = strconv.AppendInt(b, int64(os.Getpid()), 10)
		b = append(b, ":X "...)
		b = now.AppendFormat(b, "02 Jan 2006 15:04:05.000")
		b = append(b, ' ', ".-*#"[level&3], ' ')
		b = append(b, msg...)
	case config.LogFormatLogfmt:
		b = fmt.Appendf(b, "time=%s level=%s role=sentinel pid=%d msg=%q",
			now.Format(time.RFC3339Nano), levelName(level), os.Getpid(), msg)
	default:
		b = fmt.Appendf(b, `{"time":"%s","level":"%s","role":"sentinel","pid":%d,"msg":%s}`,
			now.Format(time.RFC3339Nano), levelName(level), os.Getpid(), jsonString(msg))
	}
	b = append(b, '\n')
	l.buf = b
	_, _ = l.out.Write(b) // a log that cannot be written must not stop the process
}

func levelName(l config.LogLevel) string {
	return [...]string{"debug", "verbose", "notice", "warning"}[l&3]
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

func (l *logger) notice(format string, args ...any)  { l.log(config.LogNotice, format, args...) }
func (l *logger) warning(format string, args ...any) { l.log(config.LogWarning, format, args...) }
