package slot

import (
	"errors"
	"math/bits"
	"strconv"
	"strings"
)

// Set is a set of hash slots: 2 KiB, small enough to stay in a near cache. The
// zero value is empty. Slots are numbers in [0, Count); the methods panic on
// others, but Has, which must be quick, takes them modulo Count.
type Set [Count / 64]uint64

// Add puts slot n into the set.
func (s *Set) Add(n int) { s[n/64] |= 1 << (n % 64) }

// AddRange puts the slots from first to last, both included, into the set.
func (s *Set) AddRange(first, last int) {
	for n := first; n <= last; n++ {
		s.Add(n)
	}
}

// AddAll puts all slots of t into the set.
func (s *Set) AddAll(t *Set) {
	for i, w := range t {
		s[i] |= w
	}
}

// Del takes slot n out of the set.
func (s *Set) Del(n int) { s[n/64] &^= 1 << (n % 64) }

// DelAll takes all slots of t out of the set.
func (s *Set) DelAll(t *Set) {
	for i, w := range t {
		s[i] &^= w
	}
}

// Meet takes out of the set what is not in t.
func (s *Set) Meet(t *Set) {
	for i, w := range t {
		s[i] &= w
	}
}

// Has reports whether slot n is in the set.
func (s *Set) Has(n int) bool { return s[uint(n)/64%uint(len(s))]>>(uint(n)%64)&1 != 0 }

// Len returns the number of slots in the set.
func (s *Set) Len() (n int) {
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

// Empty reports whether no slot is in the set.
func (s *Set) Empty() bool { return *s == Set{} }

// Each calls fn for the slots of the set in rising order. fn may take out slots.
func (s *Set) Each(fn func(n int)) {
	for n := s.Next(0); n < Count; n = s.Next(n + 1) {
		fn(n)
	}
}

// Next returns the first slot of the set that is not below from, 0 <= from;
// Count if there is none.
func (s *Set) Next(from int) int {
	for i := from / 64; i < len(s); i++ {
		w := s[i]
		if i == from/64 {
			w &= ^uint64(0) << (from % 64)
		}
		if w != 0 {
			return i*64 + bits.TrailingZeros64(w)
		}
	}
	return Count
}

// Overlaps reports whether a slot is in both sets.
func (s *Set) Overlaps(t *Set) bool {
	for i, w := range t {
		if s[i]&w != 0 {
			return true
		}
	}
	return false
}

// In reports whether all slots of s are in t.
func (s *Set) In(t *Set) bool {
	for i, w := range s {
		if w&^t[i] != 0 {
			return false
		}
	}
	return true
}

// String returns the set as ranges in rising order, "0-99,105"; "" if it is empty.
func (s *Set) String() string {
	var b []byte
	for first := s.Next(0); first < Count; {
		last := first
		for last+1 < Count && s.Has(last+1) {
			last++
		}
		if len(b) > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(first), 10)
		if last > first {
			b = append(b, '-')
			b = strconv.AppendInt(b, int64(last), 10)
		}
		first = s.Next(last + 1)
	}
	return string(b)
}

// ErrBadSet says that a text is not what Set.String writes.
var ErrBadSet = errors.New("slot: not a list of slots")

// ParseSet reads what String writes. Ranges may come in any order and overlap;
// slots that do not exist, signs, spaces and empty ranges are errors.
func ParseSet(text string) (Set, error) {
	var s Set
	for text != "" {
		part, rest, more := strings.Cut(text, ",")
		if more && rest == "" {
			return Set{}, ErrBadSet
		}
		text = rest
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, ok1 := parse(from)
		last, ok2 := parse(to)
		if !ok1 || !ok2 || first > last {
			return Set{}, ErrBadSet
		}
		s.AddRange(first, last)
	}
	return s, nil
}

// parse reads the number of a slot in decimal digits.
func parse(text string) (n int, ok bool) {
	if text == "" || len(text) > 5 {
		return 0, false
	}
	for _, ch := range []byte(text) {
		if ch < '0' || ch > '9' {
			return 0, false
		}
		n = n*10 + int(ch-'0')
	}
	return n, n < Count
}
