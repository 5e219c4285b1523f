package format

import "slices"

// MemberState is what a superblock says of a member.
type MemberState uint8

// The states of a member.
const (
	StateLive       MemberState = 1 // holds everything that its stripe records say; a source
	StateRebuilding MemberState = 2 // takes new stripes; older ones are being brought
	StateOut        MemberState = 3 // failed or taken out: stale, never a source
	StateSpare      MemberState = 4 // waits for a member to fail
)

func (s MemberState) String() string {
	switch s {
	case StateLive:
		return "live"
	case StateRebuilding:
		return "rebuilding"
	case StateOut:
		return "failed"
	case StateSpare:
		return "spare"
	}
	return "unknown"
}

// Member is a member or spare as a superblock lists it.
type Member struct {
	ID    ID
	State MemberState
	Path  string // where it was last seen; a hint, of at most MaxPath bytes
}

// Superblock says what a member directory belongs to, and who else does.
type Superblock struct {
	Array   ID
	Member  ID       // of this directory
	Slot    int      // of this directory; -1: a spare
	Level   int      // 0, 1, 4, 5 or 6
	Chunk   int      // bytes
	Count   uint64   // event count: raised by each change of membership
	Nonce   uint64   // random, new with each count
	Created int64    // Unix time in ns
	Members []Member // by slot; Invariant: 2 <= len <= MaxWidth
	Spares  []Member // Invariant: len <= MaxSpares
	// Past are the claims before this one, newest first, those included that were
	// begun and never came into force. A claim that is not among them, nor older than
	// all of them, was made by members that ran apart. Invariant: len <= MaxPast.
	Past []Claim
}

// Claim names one state of the membership.
type Claim struct{ Count, Nonce uint64 }

// MaxPast is how many earlier claims a superblock names.
const MaxPast = 64

// Width returns the number of member slots.
func (s *Superblock) Width() int { return len(s.Members) }

// Clone returns a copy that shares nothing with s.
func (s *Superblock) Clone() *Superblock {
	c := *s
	c.Members, c.Spares, c.Past = slices.Clone(s.Members), slices.Clone(s.Spares), slices.Clone(s.Past)
	return &c
}

const (
	superMagic  = 0x31425341464c4f48 // "HOLFASB1", little endian
	superHeader = 16
	superAlign  = 4096
	spareSlot   = 0xff

	// MaxSuperblock is the largest size of an encoded superblock, in bytes.
	MaxSuperblock = (superHeader + 128 + MaxPast*16 + (MaxWidth+MaxSpares)*(19+MaxPath) + 4 + superAlign - 1) &^ (superAlign - 1)
)

// AppendSuperblock appends the encoded superblock, padded with zeros to a
// multiple of 4096 bytes.
func AppendSuperblock(b []byte, s *Superblock) []byte {
	at := len(b)
	b = le.AppendUint64(b, superMagic)
	b = le.AppendUint32(b, Version)
	b = le.AppendUint32(b, 0) // length, below
	b = append(b, s.Array[:]...)
	b = append(b, s.Member[:]...)
	slot := byte(spareSlot)
	if s.Slot >= 0 {
		slot = byte(s.Slot)
	}
	b = append(b, slot, byte(s.Level), byte(len(s.Members)), byte(len(s.Spares)))
	b = le.AppendUint32(b, uint32(s.Chunk))
	b = le.AppendUint64(b, s.Count)
	b = le.AppendUint64(b, s.Nonce)
	b = le.AppendUint64(b, uint64(s.Created))
	for _, list := range [][]Member{s.Members, s.Spares} {
		for i := range list {
			b = append(b, list[i].ID[:]...)
			b = append(b, byte(list[i].State))
			b = appendStr(b, list[i].Path)
		}
	}
	b = append(b, byte(len(s.Past)))
	for _, c := range s.Past {
		b = le.AppendUint64(b, c.Count)
		b = le.AppendUint64(b, c.Nonce)
	}
	le.PutUint32(b[at+12:], uint32(len(b)-at+4))
	b = le.AppendUint32(b, Checksum(b[at:]))
	pad := -(len(b) - at) & (superAlign - 1)
	return append(b, make([]byte, pad)...)
}

// DecodeSuperblock decodes a superblock; what follows it in b is not looked at.
func DecodeSuperblock(b []byte) (*Superblock, error) {
	const what = "superblock"
	if len(b) < superHeader {
		return nil, bad(what, ErrShort)
	}
	if le.Uint64(b) != superMagic {
		return nil, bad(what, ErrMagic)
	}
	version, n := le.Uint32(b[8:]), int64(le.Uint32(b[12:]))
	if n < superHeader+4 || n > MaxSuperblock || n > int64(len(b)) {
		return nil, bad(what, ErrShort)
	}
	if Checksum(b[:n-4]) != le.Uint32(b[n-4:]) {
		return nil, bad(what, ErrChecksum)
	}
	if version != Version {
		return nil, bad(what, ErrVersion)
	}
	r := reader{b: b[superHeader : n-4]}
	s := &Superblock{Array: r.id(), Member: r.id()}
	s.Slot, s.Level = int(r.u8()), int(r.u8())
	width, spares := int(r.u8()), int(r.u8())
	s.Chunk = int(r.u32())
	s.Count, s.Nonce = r.u64(), r.u64()
	s.Created = r.i64()
	if r.err == nil && (width < 2 || width > MaxWidth || spares > MaxSpares) {
		r.fail(ErrInvalid)
	}
	if r.err != nil {
		return nil, bad(what, r.err)
	}
	s.Members, s.Spares = r.members(width), r.members(spares)
	s.Past = r.past()
	if r.err == nil && len(r.b) != 0 {
		r.fail(ErrInvalid)
	}
	if s.Slot == spareSlot {
		s.Slot = -1
	}
	if r.err == nil && !s.valid() {
		r.fail(ErrInvalid)
	}
	if r.err != nil {
		return nil, bad(what, r.err)
	}
	return s, nil
}

func (r *reader) members(n int) []Member {
	if n == 0 {
		return nil
	}
	list := make([]Member, n)
	for i := range list {
		list[i] = Member{ID: r.id(), State: MemberState(r.u8()), Path: r.str()}
		if st := list[i].State; r.err == nil && (st < StateLive || st > StateSpare) {
			r.fail(ErrInvalid)
		}
	}
	return list
}

func (r *reader) past() []Claim {
	n := int(r.u8())
	if n > MaxPast {
		r.fail(ErrInvalid)
	}
	if r.err != nil || n == 0 {
		return nil
	}
	list := make([]Claim, n)
	for i := range list {
		list[i] = Claim{Count: r.u64(), Nonce: r.u64()}
	}
	return list
}

func (s *Superblock) valid() bool {
	switch s.Level {
	case 0, 1, 4, 5, 6:
	default:
		return false
	}
	return ValidChunk(s.Chunk) && s.Slot < len(s.Members) && !s.Array.IsZero() && !s.Member.IsZero()
}
