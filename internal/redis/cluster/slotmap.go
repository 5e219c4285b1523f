package cluster

import (
	"bytes"
	"math/bits"
)

// slotMap is the slots of one node: the bytes of its bitmap from the first to
// the last that was ever set. A node of a large cluster has a few neighbouring
// slots, and each of its peers keeps a slotMap of it: whole bitmaps would be
// 1 MB of 500 masters in each of 1,000 nodes.
type slotMap struct {
	b  []byte
	lo int // the place of b[0] in the bitmap
}

// set puts slot s in.
func (m *slotMap) set(s int) {
	i := s >> 3
	switch {
	case m.b == nil:
		m.b, m.lo = make([]byte, 1, 8), i
	case i < m.lo:
		b := make([]byte, m.lo-i+len(m.b))
		copy(b[m.lo-i:], m.b)
		m.b, m.lo = b, i
	default:
		for len(m.b) <= i-m.lo {
			m.b = append(m.b, 0)
		}
	}
	m.b[i-m.lo] |= 1 << (s & 7)
}

// unset takes slot s out.
func (m *slotMap) unset(s int) {
	if i := s>>3 - m.lo; i >= 0 && i < len(m.b) {
		m.b[i] &^= 1 << (s & 7)
	}
}

// equal compares with a bitmap as it is on the wire.
func (m *slotMap) equal(full []byte) bool {
	hi := m.lo + len(m.b)
	return bytes.Equal(m.b, full[m.lo:hi]) && bytes.Equal(full[:m.lo], zeroSlots[:m.lo]) && bytes.Equal(full[hi:], zeroSlots[hi:])
}

// overlaps reports whether a slot is in both.
func (m *slotMap) overlaps(full []byte) bool {
	for i, v := range m.b {
		if v&full[m.lo+i] != 0 {
			return true
		}
	}
	return false
}

// fill writes the bitmap as it goes on the wire; full is zero.
func (m *slotMap) fill(full []byte) { copy(full[m.lo:], m.b) }

// each calls f for every slot, in order.
func (m *slotMap) each(f func(s int)) { eachBit(m.b, m.lo<<3, f) }

var zeroSlots bitmap

// eachSlot calls f for every slot in a bitmap, in order.
func eachSlot(b []byte, f func(s int)) { eachBit(b, 0, f) }

func eachBit(b []byte, base int, f func(s int)) {
	for i, v := range b {
		for v != 0 {
			f(base + i<<3 + bits.TrailingZeros8(v))
			v &= v - 1
		}
	}
}
