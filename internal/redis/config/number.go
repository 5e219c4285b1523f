package config

import (
	"math"
	"strconv"
	"strings"
)

// ParseMemory reads an amount of memory as Redis writes it: digits and an
// optional unit b, k (1000), kb (1024), m, mb, g, gb, without case. As in
// Redis no digits count as 0, digits beyond 64 bits saturate, and the product
// with the unit wraps; a sign or another unit is not ok.
func ParseMemory(s string) (bytes uint64, ok bool) {
	s = cString(s)
	digits := 0
	for digits < len(s) && s[digits] >= '0' && s[digits] <= '9' {
		digits++
	}
	var unit uint64
	switch strings.ToLower(s[digits:]) {
	case "", "b":
		unit = 1
	case "k":
		unit = 1000
	case "kb":
		unit = 1 << 10
	case "m":
		unit = 1000 * 1000
	case "mb":
		unit = 1 << 20
	case "g":
		unit = 1000 * 1000 * 1000
	case "gb":
		unit = 1 << 30
	default:
		return 0, false
	}
	if digits >= 128 {
		return 0, false
	}
	if digits == 0 {
		return 0, true
	}
	n, err := strconv.ParseUint(s[:digits], 10, 64)
	if err != nil {
		n = math.MaxUint64
	}
	return n * unit, true
}

// FormatMemory writes bytes as CONFIG REWRITE does: in the largest of gb, mb
// and kb that divides it, else as a plain number. Beyond 63 bits Redis writes a
// negative number, which it cannot read back; this does not.
func FormatMemory(bytes uint64) string {
	for _, u := range []struct {
		size uint64
		name string
	}{{1 << 30, "gb"}, {1 << 20, "mb"}, {1 << 10, "kb"}} {
		if bytes != 0 && bytes%u.size == 0 {
			return strconv.FormatUint(bytes/u.size, 10) + u.name
		}
	}
	return strconv.FormatUint(bytes, 10)
}

// parseStrictInt reads a decimal integer in the only form that prints back the
// same: no plus, no leading zeros, no spaces.
func parseStrictInt(s string) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && strconv.FormatInt(n, 10) == s
}

// scanInt reads an integer as strtoll of C does: leading spaces, a sign,
// digits of the base. Without digits it is 0 and nothing is consumed; an
// overflow saturates. rest is what follows.
func scanInt(s string, base int) (n int64, rest string, overflow bool) {
	s = cString(s)
	i := 0
	for i < len(s) && isSpace(s[i]) {
		i++
	}
	start := i
	if i < len(s) && (s[i] == '-' || s[i] == '+') {
		i++
	}
	first := i
	for i < len(s) && s[i] >= '0' && s[i] < byte('0'+base) {
		i++
	}
	if i == first {
		return 0, s, false
	}
	n, err := strconv.ParseInt(s[start:i], base, 64)
	return n, s[i:], err != nil
}

// parseDouble reads a floating point number as strtod of C does, but takes no
// leading space, no trailing text, no overflow and no NaN.
func parseDouble(s string) (float64, bool) {
	if s == "" || isSpace(s[0]) || strings.ContainsAny(s, "_") {
		return 0, false
	}
	text := s
	if unsigned := strings.TrimLeft(s, "+-"); len(unsigned) > 2 && (unsigned[1] == 'x' || unsigned[1] == 'X') &&
		!strings.ContainsAny(unsigned, "pP") {
		text += "p0" // Go wants an exponent after a hexadecimal mantissa; C does not.
	}
	f, err := strconv.ParseFloat(text, 64)
	return f, err == nil && !math.IsNaN(f)
}

// formatPercentile writes at most six decimals, without trailing zeros.
func formatPercentile(f float64) string {
	s := strings.TrimRight(strconv.FormatFloat(f, 'f', 6, 64), "0")
	return strings.TrimSuffix(s, ".")
}

// cString cuts s at its first NUL byte: where Redis works with C strings, what
// follows does not exist.
func cString(s string) string {
	if i := strings.IndexByte(s, 0); i >= 0 {
		return s[:i]
	}
	return s
}
