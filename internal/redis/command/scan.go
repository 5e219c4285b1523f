package command

import (
	"bytes"
	"math"
	"strconv"

	"holdfast/internal/redis/cluster/slot"
	"holdfast/internal/redis/glob"
	"holdfast/internal/redis/keyspace"
	"holdfast/internal/redis/resp"
)

// SCAN, and what HSCAN, SSCAN and ZSCAN share with it: cursor, options, reply.

var scanCommands = []Spec{
	{Name: "scan", Arity: -2, Flags: ReadOnly, Cat: CatKeyspace, Tips: []string{"nondeterministic_output", "request_policy:special"}, Run: cmdScan},
}

// maxScanCount bounds COUNT: ten times as many buckets must not overflow.
const maxScanCount = 1 << 48

// scanOptions are the options of the SCAN family.
type scanOptions struct {
	count   int
	pattern []byte // nil: everything matches
	typ     []byte // SCAN only; nil: every type
}

// scanCursor reads argument i as a cursor; when it is none it replies the
// error and returns false.
func (c *Ctx) scanCursor(i int) (uint64, bool) {
	n, ok := parseCursor(c.Args[i])
	if !ok {
		c.Err("ERR invalid cursor")
	}
	return n, ok
}

// parseCursor reads a cursor as strtoul does: with a sign, nothing at all is 0,
// and a NUL ends it.
func parseCursor(b []byte) (uint64, bool) {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	neg := false
	if len(b) > 0 && (b[0] == '-' || b[0] == '+') {
		neg = b[0] == '-'
		b = b[1:]
		if len(b) == 0 {
			return 0, false
		}
	}
	var v uint64
	for _, ch := range b {
		d := uint64(ch - '0')
		if d > 9 || v > (math.MaxUint64-d)/10 {
			return 0, false
		}
		v = v*10 + d
	}
	if neg {
		v = -v
	}
	return v, true
}

// scanOptions reads the options from argument i on: MATCH, COUNT, and TYPE
// where it is allowed. It replies the error and returns false on a bad one.
func (c *Ctx) scanOptions(i int, withType bool) (o scanOptions, ok bool) {
	o.count = 10
	for ; i < len(c.Args); i += 2 {
		more := i+1 < len(c.Args)
		switch {
		case more && c.Is(i, "count"):
			n, ok := c.IntArg(i + 1)
			if !ok {
				return o, false
			}
			if n < 1 {
				c.Err(ErrSyntax)
				return o, false
			}
			o.count = int(min(n, maxScanCount))
		case more && c.Is(i, "match"):
			o.pattern = c.Args[i+1]
			if len(o.pattern) == 1 && o.pattern[0] == '*' {
				o.pattern = nil
			}
		case more && withType && c.Is(i, "type"):
			o.typ = c.Args[i+1]
		default:
			c.Err(ErrSyntax)
			return o, false
		}
	}
	return o, true
}

// match reports whether an element is asked for.
func (o *scanOptions) match(b []byte) bool {
	return o.pattern == nil || glob.Match(o.pattern, b, false)
}

// emptyScan replies what a scan of nothing finds.
func (c *Ctx) emptyScan() { c.Buf = append(c.Buf, "*2\r\n$1\r\n0\r\n*0\r\n"...) }

// closeScan puts the head of a scan's reply, with the next cursor and the
// number of elements, before the n elements that stand in the reply from start
// on.
func (c *Ctx) closeScan(start int, cursor uint64, n int) {
	var t [72]byte
	var digits [20]byte
	head := append(t[:0], "*2\r\n"...)
	head = resp.AppendBulk(head, strconv.AppendUint(digits[:0], cursor, 10))
	head = resp.AppendHead(head, '*', n)
	end := len(c.Buf)
	c.Buf = append(c.Buf, head...)
	copy(c.Buf[start+len(head):], c.Buf[start:end])
	copy(c.Buf[start:], head)
}

func cmdScan(c *Ctx) {
	cursor, ok := c.scanCursor(1)
	if !ok {
		return
	}
	o, ok := c.scanOptions(2, true)
	if !ok {
		return
	}
	start, n := len(c.Buf), 0
	hidden := c.hidden()
	var dead [][]byte
	next := c.DB.Scan(cursor, o.count, func(r keyspace.Ref) {
		key := r.Key()
		switch {
		case !o.match(key):
		case hidden != nil && hidden.Has(slot.Of(key)):
		case c.Expired(r):
			dead = append(dead, append([]byte(nil), key...))
		case o.typ != nil && !EqualFold(o.typ, r.Type().String()):
		default:
			c.Bulk(key)
			n++
		}
	})
	c.closeScan(start, next, n)
	for _, key := range dead {
		if o.typ != nil {
			c.readQuietly(key) // asking for the type was a lookup, and a miss
		} else {
			c.Peek(key) // deletes it
		}
	}
}
