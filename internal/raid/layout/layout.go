// Package layout decides where the chunks of a stripe live. It is pure: level,
// width and stripe number in, member slots out.
//
// A stripe has D data chunks and P parity chunks, numbered by index: 0…D-1 data,
// D…D+P-1 parity (P, then Q; at level 1 the copies). Each index lives on one
// member, each member holds one index:
//
//	g, err := layout.New(5, 4)
//	g.Member(stripe, 0)       // who holds the first data chunk
//	g.Index(stripe, 3)        // what member 3 holds
//
// Levels 5 and 6 rotate as the left-symmetric layouts of Linux md do, so that
// sequential reads visit the members in turn:
//
//	level 5, 4 members          level 6, 5 members
//	stripe 0   0 1 2 P          stripe 0   Q 0 1 2 P
//	stripe 1   1 2 P 0          stripe 1   0 1 2 P Q
//	stripe 2   2 P 0 1          stripe 2   1 2 P Q 0
//	stripe 3   P 0 1 2          stripe 3   2 P Q 0 1
//	                            stripe 4   P Q 0 1 2
//
// Levels 0, 1 and 4 do not rotate; at level 4 parity stands on the last member.
package layout

import (
	"fmt"
	"math/bits"

	"holdfast/internal/invariant"
)

// MaxWidth is the largest number of members.
const MaxWidth = 32

// Geometry is the level and width of an array. The zero value is none.
type Geometry struct {
	level, width, data, parity int
}

// MinWidth returns the smallest number of members at a level, or 0 if there is no
// such level.
func MinWidth(level int) int {
	switch level {
	case 0, 1:
		return 2
	case 4, 5:
		return 3
	case 6:
		return 4
	}
	return 0
}

// New returns the geometry, or an error that says which widths the level allows.
func New(level, width int) (Geometry, error) {
	least := MinWidth(level)
	if least == 0 {
		return Geometry{}, fmt.Errorf("no RAID level %d: there are 0, 1, 4, 5 and 6", level)
	}
	if width < least || width > MaxWidth {
		return Geometry{}, fmt.Errorf("RAID level %d needs %d to %d members, not %d", level, least, MaxWidth, width)
	}
	g := Geometry{level: level, width: width}
	switch level {
	case 0:
		g.data = width
	case 1:
		g.data, g.parity = 1, width-1
	case 4, 5:
		g.data, g.parity = width-1, 1
	case 6:
		g.data, g.parity = width-2, 2
	}
	return g, nil
}

// Level returns the RAID level.
func (g Geometry) Level() int { return g.level }

// Width returns the number of member slots.
func (g Geometry) Width() int { return g.width }

// Data returns D, the data chunks of a stripe.
func (g Geometry) Data() int { return g.data }

// Parity returns P, the parity chunks of a stripe or copies of it: as many
// members may be lost.
func (g Geometry) Parity() int { return g.parity }

// All returns the bitmap of all member slots.
func (g Geometry) All() uint32 { return uint32(uint64(1)<<g.width - 1) }

// first returns the member that holds index 0 of the stripe.
func (g Geometry) first(stripe uint64) int {
	switch g.level {
	case 5:
		return (g.parityMember(stripe) + 1) % g.width
	case 6:
		return (g.parityMember(stripe) + 2) % g.width
	}
	return 0
}

// parityMember is where P stands at levels 5 and 6.
func (g Geometry) parityMember(stripe uint64) int {
	return g.width - 1 - int(stripe%uint64(g.width))
}

// Member returns the member slot that holds a chunk of the stripe, given by its
// index, which must be in 0…width-1.
func (g Geometry) Member(stripe uint64, index int) int {
	if index < 0 || index >= g.width {
		invariant.Violated("chunk index %d of a stripe over %d members", index, g.width)
	}
	// Behind the last data chunk the row goes on with P, then Q, round the end.
	return (g.first(stripe) + index) % g.width
}

// Index returns the index of the chunk that a member, in 0…width-1, holds of the
// stripe.
func (g Geometry) Index(stripe uint64, member int) int {
	if member < 0 || member >= g.width {
		invariant.Violated("member slot %d of %d", member, g.width)
	}
	return (member - g.first(stripe) + g.width) % g.width
}

// ChunkLength returns how many bytes the chunk with this index has in a stripe
// of length bytes, for arrays with the given chunk size: data chunks are filled
// one after the other, parity and copies are as long as data chunk 0. 0: the
// chunk is not written.
func (g Geometry) ChunkLength(index, length, chunk int) int {
	if index >= g.data {
		return min(length, chunk)
	}
	return max(0, min(length-index*chunk, chunk))
}

// TailCopies returns how many members carry the tail log while all are live.
func (g Geometry) TailCopies() int { return g.parity + 1 }

// TailMembers returns who of the live members carries a segment of the tail log:
// TailCopies of them, or all if they are fewer. Segments take turns.
func (g Geometry) TailMembers(segment uint64, live uint32) uint32 {
	live &= g.All()
	if bits.OnesCount32(live) <= g.TailCopies() {
		return live
	}
	var set uint32
	at := int(segment % uint64(g.width))
	for n := g.TailCopies(); n > 0; at = (at + 1) % g.width {
		if live>>at&1 != 0 {
			set |= 1 << at
			n--
		}
	}
	return set
}
