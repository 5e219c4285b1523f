// Package logline encodes: one line of the log of a server or a Sentinel, in
// Redis's form, which supervisors and people know, or as logfmt or JSON. Pure.
package logline

import (
	"fmt"
	"strconv"
	"time"

	"holdfast/internal/redis/config"
)

// Roles, as they stand in Redis's lines.
const (
	Master   = 'M'
	Replica  = 'S'
	Sentinel = 'X'
	Child    = 'C'
)

const marks = ".-*#"

var levels = [...]string{"debug", "verbose", "notice", "warning"}

// Append appends one line, its end included.
//
//	legacy  4899:M 21 Nov 2026 05:30:02.633 * Ready to accept connections
//	logfmt  time=... level=notice role=master pid=4899 msg="Ready ..."
//	json    {"time":"...","level":"notice","role":"master","pid":4899,"msg":"Ready ..."}
func Append(b []byte, format config.LogFormat, now time.Time, pid int, role byte, level config.LogLevel, msg string) []byte {
	switch format {
	case config.LogFormatLogfmt:
		return fmt.Appendf(b, "time=%s level=%s role=%s pid=%d msg=%q\n", now.Format(time.RFC3339Nano), levels[level&3], roleWord(role), pid, msg)
	case config.LogFormatJSON:
		b = fmt.Appendf(b, `{"time":"%s","level":"%s","role":"%s","pid":%d,"msg":`, now.Format(time.RFC3339Nano), levels[level&3], roleWord(role), pid)
		b = appendJSON(b, msg)
		return append(b, '}', '\n')
	}
	b = strconv.AppendInt(b, int64(pid), 10)
	b = append(b, ':', role, ' ')
	b = now.AppendFormat(b, "02 Jan 2006 15:04:05.000")
	b = append(b, ' ', marks[level&3], ' ')
	b = append(b, msg...)
	return append(b, '\n')
}

func roleWord(role byte) string {
	switch role {
	case Master:
		return "master"
	case Replica:
		return "replica"
	case Sentinel:
		return "sentinel"
	}
	return "child"
}

// appendJSON quotes s; what is not UTF-8 becomes the replacement character.
func appendJSON(b []byte, s string) []byte {
	b = append(b, '"')
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
	return append(b, '"')
}
