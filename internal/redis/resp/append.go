package resp

import (
	"math"
	"strconv"
)

// Null forms of RESP2.
const (
	NullBulk2  = "$-1\r\n"
	NullArray2 = "*-1\r\n"
	Null3      = "_\r\n"
)

// AppendSimple appends the status reply s, which holds no CR or LF.
func AppendSimple(b []byte, s string) []byte {
	b = append(b, '+')
	b = append(b, s...)
	return append(b, '\r', '\n')
}

// AppendError appends an error reply. s begins with its code ("ERR ...",
// "WRONGTYPE ..."); line breaks in it become spaces.
func AppendError(b []byte, s string) []byte {
	b = append(b, '-')
	for i := 0; i < len(s); i++ {
		if c := s[i]; c == '\r' || c == '\n' {
			b = append(b, ' ')
		} else {
			b = append(b, c)
		}
	}
	return append(b, '\r', '\n')
}

// AppendInt appends an integer reply.
func AppendInt(b []byte, n int64) []byte {
	if n >= 0 && n < 10 {
		return append(b, ':', byte('0'+n), '\r', '\n')
	}
	b = append(b, ':')
	b = strconv.AppendInt(b, n, 10)
	return append(b, '\r', '\n')
}

// AppendHead appends a length line: kind is one of $ * % ~ > = |.
func AppendHead(b []byte, kind byte, n int) []byte {
	if n >= 0 && n < 10 {
		return append(b, kind, byte('0'+n), '\r', '\n')
	}
	b = append(b, kind)
	b = strconv.AppendInt(b, int64(n), 10)
	return append(b, '\r', '\n')
}

// AppendBulk appends a bulk string.
func AppendBulk(b, s []byte) []byte {
	b = AppendHead(b, '$', len(s))
	b = append(b, s...)
	return append(b, '\r', '\n')
}

// AppendBulkString appends a bulk string.
func AppendBulkString(b []byte, s string) []byte {
	b = AppendHead(b, '$', len(s))
	b = append(b, s...)
	return append(b, '\r', '\n')
}

// AppendBulkInt appends n as a bulk string.
func AppendBulkInt(b []byte, n int64) []byte {
	var t [20]byte
	return AppendBulk(b, strconv.AppendInt(t[:0], n, 10))
}

// AppendVerbatim appends a RESP3 verbatim string; format has three letters.
func AppendVerbatim(b []byte, format, s string) []byte {
	b = AppendHead(b, '=', len(s)+4)
	b = append(b, format...)
	b = append(b, ':')
	b = append(b, s...)
	return append(b, '\r', '\n')
}

// AppendBool appends a RESP3 boolean.
func AppendBool(b []byte, v bool) []byte {
	if v {
		return append(b, "#t\r\n"...)
	}
	return append(b, "#f\r\n"...)
}

// AppendDouble appends a RESP3 double in Redis's text form.
func AppendDouble(b []byte, f float64) []byte {
	b = append(b, ',')
	b = AppendFloat(b, f)
	return append(b, '\r', '\n')
}

// AppendFloat appends f as Redis prints a score: "inf", "-inf", "nan", whole
// numbers without exponent while they are exact, else 17 significant digits as
// C's %.17g does.
func AppendFloat(b []byte, f float64) []byte {
	switch {
	case math.IsInf(f, 1):
		return append(b, "inf"...)
	case math.IsInf(f, -1):
		return append(b, "-inf"...)
	case math.IsNaN(f):
		return append(b, "nan"...)
	case f == 0:
		if math.Signbit(f) {
			return append(b, '-', '0')
		}
		return append(b, '0')
	}
	// Redis takes the integer path within these bounds (d2string).
	if f > -4503599627370495 && f < 4503599627370496 && f == math.Trunc(f) {
		return strconv.AppendInt(b, int64(f), 10)
	}
	return appendG17(b, f)
}

// appendG17 writes f as printf("%.17g") does: 17 significant digits without
// trailing zeros, an exponent of at least two digits when it is below -4 or
// above 16.
func appendG17(b []byte, f float64) []byte {
	var t [32]byte
	e := strconv.AppendFloat(t[:0], f, 'e', 16, 64)
	i := len(e) - 1
	for e[i] != 'e' {
		i--
	}
	exp, _ := strconv.Atoi(string(e[i+1:]))
	mant := e[:i]
	if exp < -4 || exp >= 17 {
		mant = trimZeros(mant)
		b = append(b, mant...)
		b = append(b, 'e')
		if exp < 0 {
			b = append(b, '-')
			exp = -exp
		} else {
			b = append(b, '+')
		}
		if exp < 10 {
			b = append(b, '0')
		}
		return strconv.AppendInt(b, int64(exp), 10)
	}
	start := len(b)
	b = strconv.AppendFloat(b, f, 'f', 16-exp, 64)
	return b[:start+len(trimZeros(b[start:]))]
}

func trimZeros(m []byte) []byte {
	dot := false
	for _, c := range m {
		if c == '.' {
			dot = true
		}
	}
	if !dot {
		return m
	}
	for m[len(m)-1] == '0' {
		m = m[:len(m)-1]
	}
	if m[len(m)-1] == '.' {
		m = m[:len(m)-1]
	}
	return m
}

// AppendCommand appends a request: an array of bulk strings.
func AppendCommand(b []byte, args ...string) []byte {
	b = AppendHead(b, '*', len(args))
	for _, a := range args {
		b = AppendBulkString(b, a)
	}
	return b
}

// AppendCommandBytes appends a request: an array of bulk strings.
func AppendCommandBytes(b []byte, args [][]byte) []byte {
	b = AppendHead(b, '*', len(args))
	for _, a := range args {
		b = AppendBulk(b, a)
	}
	return b
}
