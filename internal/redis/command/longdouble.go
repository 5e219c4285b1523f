package command

import (
	"math/big"
	"strings"
)

// INCRBYFLOAT and HINCRBYFLOAT compute with the long double of x86: 64 bits of
// mantissa, 15 of exponent. A big.Float of precision 64 rounds the same way, so
// that a value is the same to the last digit as Redis's.

const (
	longDoublePrec   = 64
	longDoubleMaxExp = 16384  // 2^16384 is infinity
	longDoubleMinExp = -16445 // below 2^-16445 is zero
	maxLongDouble    = 5 * 1024
)

// longDouble is a number or an infinity.
type longDouble struct {
	f   big.Float
	inf bool
}

// parseLongDouble reads b as strtold does: decimal, hexadecimal, inf and
// infinity; not NaN, nothing around it, nothing that rounds to infinity or to
// zero without being it.
func parseLongDouble(b []byte) (d longDouble, ok bool) {
	d.f.SetPrec(longDoublePrec)
	if len(b) == 0 || len(b) >= maxLongDouble {
		return d, false
	}
	neg := b[0] == '-'
	if neg || b[0] == '+' {
		b = b[1:]
	}
	switch {
	case EqualFold(b, "inf") || EqualFold(b, "infinity"):
		d.inf = true
		return d, true
	case len(b) > 2 && b[0] == '0' && b[1]|0x20 == 'x':
		ok = d.parseHex(b)
	default:
		ok = d.parseDecimal(b)
	}
	if !ok || d.f.Sign() != 0 && !d.inRange() {
		return d, false
	}
	if neg {
		d.f.Neg(&d.f)
	}
	return d, true
}

func (d *longDouble) inRange() bool {
	exp := d.f.MantExp(nil)
	return exp <= longDoubleMaxExp && exp > longDoubleMinExp
}

// decimal is a decimal number taken apart: digits times 10^exp.
type decimal struct {
	digits []byte // without leading zeros
	exp    int
}

// scanDecimal takes digits[.digits][e[sign]digits] apart.
func scanDecimal(b []byte, hex bool) (n decimal, ok bool) {
	i, point, any := 0, -1, false
	for ; i < len(b); i++ {
		ch := b[i]
		if ch == '.' && point < 0 {
			point = 0
			continue
		}
		if !(ch >= '0' && ch <= '9' || hex && isHexLetter(ch)) {
			break
		}
		any = true
		if point >= 0 {
			point++
		}
		if ch != '0' || len(n.digits) > 0 {
			n.digits = append(n.digits, ch)
		}
	}
	if !any {
		return n, false
	}
	n.exp = -max(point, 0)
	if i == len(b) {
		return n, true
	}
	mark := byte('e')
	if hex {
		mark = 'p'
		n.exp *= 4
	}
	if b[i]|0x20 != mark {
		return n, false
	}
	e, ok := scanExponent(b[i+1:])
	n.exp += e
	return n, ok
}

func isHexLetter(ch byte) bool { return ch|0x20 >= 'a' && ch|0x20 <= 'f' }

// scanExponent reads a signed decimal, cut to a range that never overflows.
func scanExponent(b []byte) (e int, ok bool) {
	neg := false
	if len(b) > 0 && (b[0] == '-' || b[0] == '+') {
		neg = b[0] == '-'
		b = b[1:]
	}
	if len(b) == 0 {
		return 0, false
	}
	for _, ch := range b {
		if ch < '0' || ch > '9' {
			return 0, false
		}
		e = min(e*10+int(ch-'0'), 1<<20)
	}
	if neg {
		e = -e
	}
	return e, true
}

func (d *longDouble) parseDecimal(b []byte) bool {
	n, ok := scanDecimal(b, false)
	if !ok || len(n.digits) == 0 {
		return ok
	}
	// Exponents far outside of the range are refused before they are computed.
	if at := len(n.digits) + n.exp; at > 5000 || at < -5000 {
		return false
	}
	if len(n.digits) <= 19 && n.exp >= -27 && n.exp <= 27 {
		d.setSmall(n)
		return true
	}
	r, ok := new(big.Rat).SetString(string(n.digits))
	if !ok {
		return false
	}
	pow := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(n.exp, -n.exp))), nil)
	if n.exp < 0 {
		r.Quo(r, new(big.Rat).SetInt(pow))
	} else {
		r.Mul(r, new(big.Rat).SetInt(pow))
	}
	d.f.SetRat(r)
	return true
}

// setSmall sets digits and a power of ten that are both exact in 64 bits of
// mantissa: one operation rounds once.
func (d *longDouble) setSmall(n decimal) {
	var m uint64
	for _, ch := range n.digits {
		m = m*10 + uint64(ch-'0')
	}
	d.f.SetUint64(m)
	if n.exp == 0 {
		return
	}
	pow := new(big.Float).SetPrec(longDoublePrec).SetInt64(1)
	ten := big.NewFloat(10)
	for range max(n.exp, -n.exp) {
		pow.Mul(pow, ten)
	}
	if n.exp < 0 {
		d.f.Quo(&d.f, pow)
	} else {
		d.f.Mul(&d.f, pow)
	}
}

func (d *longDouble) parseHex(b []byte) bool {
	n, ok := scanDecimal(b[2:], true)
	if !ok || len(n.digits) == 0 {
		return ok
	}
	if n.exp > 1<<17 || n.exp < -1<<17 {
		return false
	}
	m, ok := new(big.Int).SetString(string(n.digits), 16)
	if !ok {
		return false
	}
	d.f.SetInt(m)
	d.f.SetMantExp(&d.f, n.exp)
	return true
}

// add adds x and reports whether the sum is finite.
func (d *longDouble) add(x *longDouble) bool {
	if d.inf || x.inf {
		return false
	}
	d.f.Add(&d.f, &x.f)
	return d.f.Sign() == 0 || d.f.MantExp(nil) <= longDoubleMaxExp
}

// text is the number with 17 digits behind the point, without trailing zeros.
func (d *longDouble) text() string {
	s := d.f.Text('f', 17)
	s = strings.TrimRight(s, "0")
	s = strings.TrimSuffix(s, ".")
	if s == "-0" {
		return "0"
	}
	return s
}
