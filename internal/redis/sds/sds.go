// Package sds encodes: the two text forms that Redis's string library gives to
// arguments and that inline commands, configuration files and log lines share.
// It is pure.
package sds

import "errors"

// ErrUnbalanced says that a quote was opened and not closed, or that a closing
// quote is followed by something else than a space.
var ErrUnbalanced = errors.New("unbalanced quotes")

// SplitArgs splits a line into arguments by the rules of inline commands and
// configuration files: arguments are separated by spaces; "..." understands
// \n \r \t \b \a \xHH and \c for any other c; '...' understands \' only. The
// results are copies. An empty line gives no arguments and no error.
func SplitArgs(line []byte) ([][]byte, error) {
	var args [][]byte
	i := 0
	for {
		for i < len(line) && isSpace(line[i]) {
			i++
		}
		if i >= len(line) || line[i] == 0 {
			return args, nil
		}
		arg, next, err := splitOne(line, i)
		if err != nil {
			return nil, err
		}
		args = append(args, arg)
		i = next
	}
}

// splitOne reads the argument that begins at i, which may be built of quoted
// and unquoted parts.
func splitOne(line []byte, i int) ([]byte, int, error) {
	cur := []byte{}
	for i < len(line) && line[i] != 0 {
		switch c := line[i]; {
		case c == ' ' || c == '\n' || c == '\r' || c == '\t':
			return cur, i, nil
		case c == '"' || c == '\'':
			var err error
			cur, i, err = quoted(cur, line, i+1, c)
			if err != nil {
				return nil, 0, err
			}
			if i < len(line) && line[i] != 0 && !isSpace(line[i]) {
				return nil, 0, ErrUnbalanced
			}
			return cur, i, nil
		default:
			cur = append(cur, c)
			i++
		}
	}
	return cur, i, nil
}

// quoted appends the text up to the closing quote and returns the index after it.
func quoted(cur, line []byte, i int, quote byte) ([]byte, int, error) {
	for i < len(line) && line[i] != 0 {
		c := line[i]
		switch {
		case c == quote:
			return cur, i + 1, nil
		case quote == '\'' && c == '\\' && i+1 < len(line) && line[i+1] == '\'':
			cur = append(cur, '\'')
			i += 2
		case quote == '"' && c == '\\' && i+3 < len(line) && line[i+1] == 'x' && hexVal(line[i+2]) >= 0 && hexVal(line[i+3]) >= 0:
			cur = append(cur, byte(hexVal(line[i+2])<<4|hexVal(line[i+3])))
			i += 4
		case quote == '"' && c == '\\' && i+1 < len(line) && line[i+1] != 0:
			cur = append(cur, unescape(line[i+1]))
			i += 2
		default:
			cur = append(cur, c)
			i++
		}
	}
	return nil, 0, ErrUnbalanced
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

func isSpace(c byte) bool { return c == ' ' || (c >= '\t' && c <= '\r') }

func hexVal(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// AppendRepr appends s in double quotes, with everything that is not printable
// ASCII escaped, as MONITOR and rewritten configuration files show it.
func AppendRepr(dst, s []byte) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for _, c := range s {
		switch {
		case c == '\\' || c == '"':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c == '\r':
			dst = append(dst, '\\', 'r')
		case c == '\t':
			dst = append(dst, '\\', 't')
		case c == '\a':
			dst = append(dst, '\\', 'a')
		case c == '\b':
			dst = append(dst, '\\', 'b')
		case c >= 0x20 && c < 0x7f:
			dst = append(dst, c)
		default:
			dst = append(dst, '\\', 'x', hex[c>>4], hex[c&15])
		}
	}
	return append(dst, '"')
}
