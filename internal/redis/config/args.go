package config

import (
	"errors"

	"holdfast/internal/redis/sds"
)

// ErrUnbalancedQuotes is what SplitArgs reports, in the words of Redis's loader.
//
//lint:ignore ST1005 the wording is that of Redis
var ErrUnbalancedQuotes = errors.New("Unbalanced quotes in configuration line")

// SplitArgs splits a line into arguments as the configuration file and the
// inline protocol do:
//
//	set "a b" 'c d' plain "\x41\n"   -> set, a b, c d, plain, A<newline>
//
// Inside double quotes \xHH, \n, \r, \t, \b, \a and an escaped byte are
// understood; inside single quotes only \'. A closing quote must be followed by
// a space or the end. A NUL byte ends the line. A nil error with no arguments
// means that the line was blank. The result shares no memory with line.
func SplitArgs(line string) ([]string, error) {
	parts, err := sds.SplitArgs([]byte(line))
	if err != nil {
		return nil, ErrUnbalancedQuotes
	}
	var args []string
	for _, p := range parts {
		args = append(args, string(p))
	}
	return args, nil
}

// AppendRepr appends s as a double-quoted string that SplitArgs reads back:
// printable ASCII as it is, the rest escaped.
func AppendRepr(dst []byte, s string) []byte { return sds.AppendRepr(dst, []byte(s)) }

// isSpace is isspace of the C locale.
func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }
