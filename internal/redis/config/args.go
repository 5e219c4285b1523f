package config

import (
	"errors"
	"strings"
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
	if i := strings.IndexByte(line, 0); i >= 0 {
		line = line[:i]
	}
	var args []string
	for {
		for len(line) > 0 && isSpace(line[0]) {
			line = line[1:]
		}
		if line == "" {
			return args, nil
		}
		arg, rest, ok := splitOne(line)
		if !ok {
			return nil, ErrUnbalancedQuotes
		}
		args = append(args, arg)
		line = rest
	}
}

// splitOne takes the first argument off s, which does not begin with a space.
func splitOne(s string) (arg, rest string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case ' ', '\n', '\r', '\t':
			return b.String(), s[i+1:], true
		case '"', '\'':
			next, closed := unquote(&b, s, i+1, c)
			if !closed || next < len(s) && !isSpace(s[next]) {
				return "", "", false
			}
			return b.String(), s[next:], true
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), "", true
}

// unquote appends the quoted text that begins at s[i] and ends at quote. It
// returns the index after the closing quote, or closed false without one.
func unquote(b *strings.Builder, s string, i int, quote byte) (next int, closed bool) {
	for ; i < len(s); i++ {
		c := s[i]
		switch {
		case c == quote:
			return i + 1, true
		case quote == '\'' && c == '\\' && i+1 < len(s) && s[i+1] == '\'':
			i++
			c = '\''
		case quote == '"' && c == '\\' && i+3 < len(s) && s[i+1] == 'x' && isHex(s[i+2]) && isHex(s[i+3]):
			c = hexValue(s[i+2])<<4 | hexValue(s[i+3])
			i += 3
		case quote == '"' && c == '\\' && i+1 < len(s):
			i++
			c = unescape(s[i])
		}
		b.WriteByte(c)
	}
	return i, false
}

func unescape(c byte) byte {
	switch c {
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	case 'b':
		return '\b'
	case 'a':
		return '\a'
	}
	return c
}

// AppendRepr appends s as a double-quoted string that SplitArgs reads back:
// printable ASCII as it is, the rest escaped.
func AppendRepr(dst []byte, s string) []byte {
	const digits = "0123456789abcdef"
	dst = append(dst, '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '\\', '"':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '\t':
			dst = append(dst, `\t`...)
		case '\a':
			dst = append(dst, `\a`...)
		case '\b':
			dst = append(dst, `\b`...)
		default:
			if c >= ' ' && c <= '~' {
				dst = append(dst, c)
			} else {
				dst = append(dst, '\\', 'x', digits[c>>4], digits[c&15])
			}
		}
	}
	return append(dst, '"')
}

// isSpace is isspace of the C locale.
func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func hexValue(c byte) byte {
	switch {
	case c >= 'a':
		return c - 'a' + 10
	case c >= 'A':
		return c - 'A' + 10
	}
	return c - '0'
}
