// Package resp encodes: the Redis serialization protocol, versions 2 and 3,
// as pure functions over byte slices.
//
// Three parts, for three readers:
//
//	Parser   a server's side of requests: arrays of bulk strings and inline
//	         commands, incremental, without copying
//	Append*  a server's side of replies: each appends one element to a buffer
//	Reader   a client's side: replies and pushes as Values
//
// Source: the RESP specification of redis.io; limits and error texts are those
// of Redis 7.0's networking.c, observed on the wire.
package resp

import (
	"bytes"
	"errors"
	"fmt"

	"holdfast/internal/redis/sds"
)

// Limits that Redis compiles in.
const (
	maxInline      = 64 * 1024 // bytes of an inline command or a count line
	maxMultibulk   = 1<<31 - 1
	maxUnauthArgs  = 10
	maxUnauthBulk  = 16384
	DefaultMaxBulk = 512 << 20 // proto-max-bulk-len
)

// ProtocolError is a violation of the protocol by the peer. Its text is what
// goes to the client behind "-ERR ", after which the connection is closed.
type ProtocolError string

func (e ProtocolError) Error() string { return string(e) }

type span struct{ off, len int }

// Parser reads one request after the other from a buffer that the caller owns
// and fills. It keeps its place between calls, so that a large request that
// arrives in many reads is parsed once. The zero value is ready for use but
// MaxBulk, which is DefaultMaxBulk when zero.
type Parser struct {
	// MaxBulk is proto-max-bulk-len, the largest argument in bytes.
	MaxBulk int64
	// Unauthenticated lowers the limits, as for clients that have yet to AUTH.
	Unauthenticated bool
	// Trusted lifts MaxBulk: the link to a master.
	Trusted bool
	// Args is the request after Next returned n > 0. It aliases the buffer and
	// is valid until the buffer changes or Next is called again.
	Args [][]byte

	pos   int   // bytes of the current request parsed so far
	multi int   // arguments still to come; 0: the request has not begun
	bulk  int64 // length of the argument being read, plus one; 0: not yet known
	spans []span
}

// Reset forgets a half-read request.
func (p *Parser) Reset() {
	p.pos, p.multi, p.bulk = 0, 0, 0
	p.spans = p.spans[:0]
}

// Pending is the number of bytes still missing of the argument being read, 0
// when that is not known: a hint for the size of the next read. The number is
// the peer's claim, so do not allocate it at once.
func (p *Parser) Pending(buffered int) int64 {
	if p.bulk == 0 {
		return 0
	}
	return max(0, int64(p.pos)+p.bulk-1+2-int64(buffered))
}

// Unread tells how much of a buffer is not parsed yet, and how many bytes of
// arguments the half-read request has already.
func (p *Parser) Unread(buffered int) (unread, args int) {
	if p.multi == 0 {
		return buffered, 0
	}
	for _, s := range p.spans {
		args += s.len
	}
	return max(0, buffered-p.pos), args
}

// Memory is what the parser itself takes, in bytes.
func (p *Parser) Memory() int { return cap(p.spans)*16 + cap(p.Args)*24 }

// Next parses the request at the beginning of buf. It returns n > 0 when Args
// holds a whole request, which took n bytes (Args may be empty: an empty line
// or an empty array, to be skipped); n == 0 when more bytes are needed; and a
// ProtocolError when the stream is beyond use. When it returned 0, the next
// call must pass the same bytes with more behind them.
func (p *Parser) Next(buf []byte) (n int, err error) {
	if p.multi == 0 {
		if len(buf) == 0 {
			return 0, nil
		}
		if buf[0] != '*' {
			return p.inline(buf)
		}
		n, done, err := p.header(buf)
		if err != nil || !done || n > 0 {
			return n, err
		}
	}
	for p.multi > 0 {
		ok, err := p.argument(buf)
		if err != nil || !ok {
			return 0, err
		}
	}
	p.Args = p.Args[:0]
	for _, s := range p.spans {
		p.Args = append(p.Args, buf[s.off:s.off+s.len:s.off+s.len])
	}
	n = p.pos
	p.Reset()
	return n, nil
}

// header parses the line "*N". It returns n > 0 for an empty request.
func (p *Parser) header(buf []byte) (n int, done bool, err error) {
	// One digit and CRLF is nearly every request.
	if len(buf) >= 4 && buf[2] == '\r' && buf[1] >= '1' && buf[1] <= '9' {
		p.multi, p.pos = int(buf[1]-'0'), 4
		p.spans = p.spans[:0]
		return 0, true, nil
	}
	line, next := cutLine(buf, 0)
	if next == 0 {
		if len(buf) > maxInline {
			return 0, false, ProtocolError("Protocol error: too big mbulk count string")
		}
		return 0, false, nil
	}
	count, ok := ParseInt(line[1:])
	if !ok || count > maxMultibulk {
		return 0, false, ProtocolError("Protocol error: invalid multibulk length")
	}
	if count > maxUnauthArgs && p.Unauthenticated {
		return 0, false, ProtocolError("Protocol error: unauthenticated multibulk length")
	}
	if count <= 0 {
		p.Args = p.Args[:0]
		return next, true, nil
	}
	p.multi, p.pos = int(count), next
	p.spans = p.spans[:0]
	return 0, true, nil
}

// argument parses one bulk string at p.pos; false when it is not all there.
func (p *Parser) argument(buf []byte) (bool, error) {
	if p.bulk == 0 {
		if p.pos >= len(buf) {
			return false, nil
		}
		ok, err := p.bulkLen(buf)
		if err != nil || !ok {
			return false, err
		}
	}
	size := int(p.bulk - 1)
	if len(buf)-p.pos < size+2 {
		return false, nil
	}
	p.spans = append(p.spans, span{p.pos, size})
	p.pos += size + 2
	p.bulk = 0
	p.multi--
	return true, nil
}

func (p *Parser) bulkLen(buf []byte) (bool, error) {
	rest := buf[p.pos:]
	if len(rest) >= 5 && rest[0] == '$' {
		// Up to two digits: nearly every argument.
		if d := rest[1] - '0'; d <= 9 {
			if rest[2] == '\r' {
				p.bulk = int64(d) + 1
				p.pos += 4
				return true, nil
			}
			if e := rest[2] - '0'; e <= 9 && rest[3] == '\r' && d > 0 {
				p.bulk = int64(d)*10 + int64(e) + 1
				p.pos += 5
				return true, nil
			}
		}
	}
	line, next := cutLine(buf, p.pos)
	if next == 0 {
		if len(rest) > maxInline {
			return false, ProtocolError("Protocol error: too big bulk count string")
		}
		return false, nil
	}
	if len(line) == 0 || line[0] != '$' {
		c := buf[p.pos]
		return false, ProtocolError(fmt.Sprintf("Protocol error: expected '$', got '%s'", string([]byte{c})))
	}
	size, ok := ParseInt(line[1:])
	limit := p.MaxBulk
	if limit == 0 {
		limit = DefaultMaxBulk
	}
	if !ok || size < 0 || (size > limit && !p.Trusted) {
		return false, ProtocolError("Protocol error: invalid bulk length")
	}
	if size > maxUnauthBulk && p.Unauthenticated {
		return false, ProtocolError("Protocol error: unauthenticated bulk length")
	}
	p.bulk = size + 1
	p.pos = next
	return true, nil
}

// inline parses a line of words.
func (p *Parser) inline(buf []byte) (int, error) {
	end := bytes.IndexByte(buf, '\n')
	if end < 0 {
		if len(buf) > maxInline {
			return 0, ProtocolError("Protocol error: too big inline request")
		}
		return 0, nil
	}
	line := buf[:end]
	if len(line) > 0 && line[len(line)-1] == '\r' {
		line = line[:len(line)-1]
	}
	args, err := sds.SplitArgs(line)
	if err != nil {
		return 0, ProtocolError("Protocol error: unbalanced quotes in request")
	}
	p.Args = append(p.Args[:0], args...)
	return end + 1, nil
}

// cutLine returns the line that begins at from, without its CR LF, and the
// index behind it; 0 when it is not all there. Only the CR is looked at, as
// Redis does.
func cutLine(buf []byte, from int) (line []byte, next int) {
	i := bytes.IndexByte(buf[from:], '\r')
	if i < 0 || from+i+2 > len(buf) {
		return nil, 0
	}
	return buf[from : from+i], from + i + 2
}

// ParseInt reads a canonical decimal int64: no sign but '-', no leading zeros,
// no spaces, no overflow. What ParseInt accepts, AppendInt writes back the same.
func ParseInt(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 20 {
		return 0, false
	}
	neg := false
	i := 0
	if b[0] == '-' {
		neg = true
		i = 1
		if len(b) == 1 {
			return 0, false
		}
	}
	if b[i] == '0' {
		return 0, len(b) == 1
	}
	var v uint64
	for ; i < len(b); i++ {
		d := b[i] - '0'
		if d > 9 || v > (1<<63)/10 {
			return 0, false
		}
		v = v*10 + uint64(d)
	}
	if neg {
		if v > 1<<63 {
			return 0, false
		}
		return -int64(v), true
	}
	if v > 1<<63-1 {
		return 0, false
	}
	return int64(v), true
}

// IsProtocol reports whether err is a ProtocolError.
func IsProtocol(err error) bool {
	var p ProtocolError
	return errors.As(err, &p)
}
