package command

import (
	"math"

	"holdfast/internal/redis/keyspace"
)

// LCS by the table of dynamic programming. Redis keeps the whole table of
// lengths; here only one row of lengths is kept, and a bit per cell that says
// which way the walk back goes: a 32nd of the memory. The limit on the table is
// Redis's all the same.

// lcsOptions are the options of LCS.
type lcsOptions struct {
	idx, length, withLen bool
	minLen               int64
}

func (c *Ctx) lcsOptions() (o lcsOptions, ok bool) {
	for i := 3; i < len(c.Args); i++ {
		switch {
		case c.Is(i, "idx"):
			o.idx = true
		case c.Is(i, "len"):
			o.length = true
		case c.Is(i, "withmatchlen"):
			o.withLen = true
		case c.Is(i, "minmatchlen") && i+1 < len(c.Args):
			i++
			if o.minLen, ok = c.IntArg(i); !ok {
				return o, false
			}
			o.minLen = max(o.minLen, 0)
		default:
			c.Err(ErrSyntax)
			return o, false
		}
	}
	if o.idx && o.length {
		c.Err("ERR If you want both the length and indexes, please just use IDX.")
		return o, false
	}
	return o, true
}

func lcs(c *Ctx) {
	ra, hasA := c.Read(c.Args[1])
	rb, hasB := c.Read(c.Args[2])
	if hasA && ra.Type() != keyspace.TypeString || hasB && rb.Type() != keyspace.TypeString {
		c.Err("ERR The specified keys must contain string values")
		return
	}
	o, ok := c.lcsOptions()
	if !ok {
		return
	}
	var a, b []byte
	if hasA {
		a = ra.Bytes()
	}
	if hasB {
		b = rb.Bytes()
	}
	if len(a) >= math.MaxUint32-1 || len(b) >= math.MaxUint32-1 {
		c.Err("ERR String too long for LCS")
		return
	}
	// Lengths are below 2^32: the product of two fits into 64 bits, and so does
	// the quotient's comparison.
	if cells := uint64(len(a)+1) * uint64(len(b)+1); cells > uint64(c.E.Cfg.ProtoMaxBulkLen)/4 {
		c.Err("ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len")
		return
	} else if cells > 1<<36 {
		c.Err("ERR Insufficient memory, failed allocating transient memory for LCS")
		return
	}
	t := newLCSTable(a, b, o.length)
	switch {
	case o.length:
		c.Int(int64(t.length))
	case o.idx:
		c.lcsRanges(t, o)
	default:
		out := make([]byte, t.length)
		at := len(out)
		t.walk(func(i, _ int) {
			at--
			out[at] = a[i]
		}, nil)
		c.Bulk(out)
	}
}

// lcsTable says for each pair of prefixes whether the walk back drops the last
// byte of a (the bit is set) or of b.
type lcsTable struct {
	a, b   []byte
	length int
	up     []uint64 // bit (i-1)*len(b)+(j-1)
}

// newLCSTable computes the length of the longest common subsequence, and,
// unless only that is wanted, the way back.
func newLCSTable(a, b []byte, lengthOnly bool) *lcsTable {
	t := &lcsTable{a: a, b: b}
	if !lengthOnly {
		t.up = make([]uint64, (len(a)*len(b)+63)/64)
	}
	row := make([]uint32, len(b)+1)
	for i := 1; i <= len(a); i++ {
		var diag uint32 // row i-1, column j-1
		ch := a[i-1]
		at := (i - 1) * len(b)
		for j := 1; j <= len(b); j++ {
			above := row[j]
			switch {
			case ch == b[j-1]:
				row[j] = diag + 1
			case above > row[j-1]:
				if t.up != nil {
					bit := at + j - 1
					t.up[bit>>6] |= 1 << (bit & 63)
				}
			default:
				row[j] = row[j-1]
			}
			diag = above
		}
	}
	t.length = int(row[len(b)])
	return t
}

// walk goes back from the ends: match is called for each pair of positions of
// the subsequence, miss, if any, for each step in between.
func (t *lcsTable) walk(match func(i, j int), miss func()) {
	i, j := len(t.a), len(t.b)
	for i > 0 && j > 0 {
		if t.a[i-1] == t.b[j-1] {
			match(i-1, j-1)
			i--
			j--
			continue
		}
		if bit := (i-1)*len(t.b) + j - 1; t.up[bit>>6]>>(bit&63)&1 != 0 {
			i--
		} else {
			j--
		}
		if miss != nil {
			miss()
		}
	}
}

// lcsRange is a run of matches: both inclusive, in a and in b.
type lcsRange struct {
	aStart, aEnd, bStart, bEnd int
	open                       bool
}

// lcsRanges replies the runs of matches, the last ones first, and the length.
func (c *Ctx) lcsRanges(t *lcsTable, o lcsOptions) {
	c.Map(2)
	c.BulkStr("matches")
	mark := c.Defer()
	n := 0
	var run lcsRange
	emit := func() {
		run.open = false
		size := run.aEnd - run.aStart + 1
		if int64(size) < o.minLen {
			return
		}
		n++
		if o.withLen {
			c.Array(3)
		} else {
			c.Array(2)
		}
		c.Array(2)
		c.Int(int64(run.aStart))
		c.Int(int64(run.aEnd))
		c.Array(2)
		c.Int(int64(run.bStart))
		c.Int(int64(run.bEnd))
		if o.withLen {
			c.Int(int64(size))
		}
	}
	t.walk(func(i, j int) {
		if run.open {
			run.aStart, run.bStart = i, j
		} else {
			run = lcsRange{i, i, j, j, true}
		}
		if run.aStart == 0 || run.bStart == 0 {
			emit()
		}
	}, func() {
		if run.open {
			emit()
		}
	})
	c.CloseArray(mark, n)
	c.BulkStr("len")
	c.Int(int64(t.length))
}
