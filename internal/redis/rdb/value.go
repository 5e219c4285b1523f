package rdb

import (
	"encoding/binary"
	"errors"
	"hash/maphash"
	"math"
	"strconv"

	"holdfast/internal/redis/intset"
	"holdfast/internal/redis/listpack"
)

// begin tells the visitor of the key, once its value is known not to be empty.
func (d *decoder) begin() error {
	if d.begun {
		return nil
	}
	d.begun = true
	return d.v.BeginKey(d.name, d.meta)
}

// empty is the error for a collection without elements.
func (d *decoder) empty() error { return d.fail(ErrEmptyKey, "empty key") }

// loadValue reads a value and tells it.
func (d *decoder) loadValue(t Type) error {
	switch t {
	case TypeString:
		s, err := d.str(&d.value, false)
		if err != nil {
			return err
		}
		if err := d.begin(); err != nil {
			return err
		}
		return d.v.String(s)
	case TypeList, TypeSet:
		return d.elements(t)
	case TypeHash:
		return d.pairs()
	case TypeZset, TypeZset2:
		return d.scorePairs(t)
	case TypeListQuicklist, TypeListQuick2:
		return d.quicklist(t)
	case TypeHashZipmap, TypeListZiplist, TypeSetIntset, TypeZsetZiplist, TypeHashZiplist,
		TypeHashListpack, TypeZsetListpack:
		return d.blob(t)
	case TypeStream, TypeStream2:
		return d.stream(t)
	case TypeModulePreGA, TypeModule2:
		id, err := d.count()
		if err != nil {
			return err
		}
		return d.fail(ErrModule, "The RDB file contains module data I can't load: no matching module type '%s'", moduleName(id))
	}
	return d.fail(ErrCorrupt, "Unknown RDB encoding type %d", t)
}

// Redis's words for a member that is there twice.
const (
	dupSetMember = "Duplicate set members detected"
	dupHashField = "Duplicate hash fields detected"
	dupZsetField = "Duplicate zset fields detected"
)

// beginCollection reads the number of elements and begins the collection.
func (d *decoder) beginCollection(kind Kind) (uint64, error) {
	n, err := d.count()
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, d.empty()
	}
	// Every element takes at least a byte: a payload bounds the claim.
	if d.src == nil && n > uint64(d.w-d.r) {
		d.r = d.w
		return 0, d.shortRead()
	}
	d.dups.reset()
	if err := d.begin(); err != nil {
		return 0, err
	}
	return n, d.v.BeginCollection(kind, n)
}

// noDup checks a member of a set, hash or zset that is read element by element.
func (d *decoder) noDup(member []byte, reason string) error {
	if d.opts.Sanitize && !d.dups.add(member) {
		return d.fail(ErrCorrupt, "%s", reason)
	}
	return nil
}

// told makes an *Error of a visitor's ErrDuplicate or bare ErrCorrupt.
func (d *decoder) told(err error, reason string) error {
	if err != nil && (err == ErrCorrupt || errors.Is(err, ErrDuplicate)) {
		return d.fail(ErrCorrupt, "%s", reason)
	}
	return err
}

// elements reads a set, or a list of version 1.
func (d *decoder) elements(t Type) error {
	kind := KindList
	if t == TypeSet {
		kind = KindSet
	}
	n, err := d.beginCollection(kind)
	if err != nil {
		return err
	}
	for ; n > 0; n-- {
		s, err := d.str(&d.value, false)
		if err != nil {
			return err
		}
		if kind == KindSet {
			if err := d.noDup(s, dupSetMember); err != nil {
				return err
			}
		}
		if err := d.told(d.v.Element(s), dupSetMember); err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) pairs() error {
	n, err := d.beginCollection(KindHash)
	if err != nil {
		return err
	}
	for ; n > 0; n-- {
		field, err := d.str(&d.field, true)
		if err != nil {
			return err
		}
		if err := d.noDup(field, dupHashField); err != nil {
			return err
		}
		val, err := d.str(&d.value, false)
		if err != nil {
			return err
		}
		if err := d.told(d.v.Pair(field, val), dupHashField); err != nil {
			return err
		}
	}
	return nil
}

// zipmapPairs tells a zipmap that was converted to the sound listpack lp pair by
// pair: unlike its successors' its lengths were never bounded by what Redis now
// keeps in a listpack, so the Visitor is to choose the form.
func (d *decoder) zipmapPairs(lp []byte, reason string) error {
	if err := d.v.BeginCollection(KindHash, uint64(listpack.Len(lp)/2)); err != nil {
		return err
	}
	for off := listpack.First(lp); off >= 0; off = listpack.Next(lp, off) {
		d.field.packed = listpack.AppendValue(d.field.packed[:0], lp, off)
		off = listpack.Next(lp, off)
		d.value.packed = listpack.AppendValue(d.value.packed[:0], lp, off)
		if err := d.told(d.v.Pair(d.field.packed, d.value.packed), reason); err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) scorePairs(t Type) error {
	n, err := d.beginCollection(KindZset)
	if err != nil {
		return err
	}
	for ; n > 0; n-- {
		member, err := d.str(&d.field, true)
		if err != nil {
			return err
		}
		if err := d.noDup(member, dupZsetField); err != nil {
			return err
		}
		score, err := d.score(t)
		if err != nil {
			return err
		}
		if math.IsNaN(score) {
			return d.fail(ErrCorrupt, "Zset with NAN score detected")
		}
		if err := d.told(d.v.ScorePair(member, score), dupZsetField); err != nil {
			return err
		}
	}
	return nil
}

// score reads a score: 8 bytes, or, in version 1, a length byte and text, the
// length standing for a value that has no digits if it is above 252.
func (d *decoder) score(t Type) (float64, error) {
	if t == TypeZset2 {
		p, err := d.take(8)
		if err != nil {
			return 0, err
		}
		return math.Float64frombits(binary.LittleEndian.Uint64(p)), nil
	}
	n, err := d.byte()
	if err != nil {
		return 0, err
	}
	switch n {
	case 255:
		return math.Inf(-1), nil
	case 254:
		return math.Inf(1), nil
	case 253:
		return math.NaN(), nil
	}
	p, err := d.take(int(n))
	if err != nil {
		return 0, err
	}
	f, ok := parseScore(p)
	if !ok {
		return 0, d.fail(ErrCorrupt, "score %q is not a number", p)
	}
	return f, nil
}

// parseScore reads a score from text.
func parseScore(p []byte) (float64, bool) {
	f, err := strconv.ParseFloat(string(p), 64)
	// A value out of range is infinite, and so it is in Redis.
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, false
	}
	return f, true
}

// quicklist reads a list of nodes.
func (d *decoder) quicklist(t Type) error {
	nodes, err := d.count()
	if err != nil {
		return err
	}
	if d.src == nil && nodes > uint64(d.w-d.r) {
		d.r = d.w
		return d.shortRead()
	}
	left := nodes
	for ; left > 0; left-- {
		container := uint64(nodePacked)
		if t == TypeListQuick2 {
			if container, err = d.count(); err != nil {
				return err
			}
			if container != nodePacked && container != nodePlain {
				return d.fail(ErrCorrupt, "Quicklist integrity check failed.")
			}
		}
		s, err := d.str(&d.value, false)
		if err != nil {
			return err
		}
		if err := d.quicklistNode(t, container == nodePlain, s, left); err != nil {
			return err
		}
	}
	if !d.begun {
		return d.empty()
	}
	return nil
}

// quicklistNode tells one node; left is the number of nodes from it on.
func (d *decoder) quicklistNode(t Type, plain bool, s []byte, left uint64) error {
	switch {
	case len(s) == 0:
		return d.fail(ErrCorrupt, "Quicklist integrity check failed.")
	case plain:
	case t == TypeListQuicklist:
		var ok bool
		if d.lp, ok = convertZiplist(listpack.AppendEmpty(d.lp[:0]), s); !ok {
			return d.fail(ErrCorrupt, "Ziplist integrity check failed.")
		}
		s = d.lp
	default:
		if listpack.Validate(s, true) != nil {
			return d.fail(ErrCorrupt, "Listpack integrity check failed.")
		}
	}
	if !plain && listpack.First(s) < 0 {
		return nil // Redis skips empty nodes too
	}
	if !d.begun {
		if err := d.begin(); err != nil {
			return err
		}
		if err := d.v.BeginCollection(KindList, left); err != nil {
			return err
		}
	}
	if plain {
		return d.v.Element(s)
	}
	return d.v.ListNode(s)
}

// blob reads a collection that is one string.
func (d *decoder) blob(t Type) error {
	s, err := d.str(&d.value, false)
	if err != nil {
		return err
	}
	if t == TypeSetIntset {
		return d.intset(s)
	}
	kind, reason := KindHash, "Hash listpack integrity check failed."
	dups := d.opts.Sanitize
	ok := true
	switch t {
	case TypeHashListpack:
		ok = listpack.Validate(s, true) == nil
	case TypeZsetListpack:
		kind, reason = KindZset, "Zset listpack integrity check failed."
		ok = listpack.Validate(s, true) == nil
	case TypeHashZipmap:
		reason, dups = "Zipmap integrity check failed.", true
		d.lp, ok = convertZipmap(listpack.AppendEmpty(d.lp[:0]), s)
		s = d.lp
	default: // predecessors of the listpack
		switch t {
		case TypeHashZiplist:
			reason, dups = "Hash ziplist integrity check failed.", true
		case TypeZsetZiplist:
			kind, reason, dups = KindZset, "Zset ziplist integrity check failed.", true
		default:
			kind, reason, dups = KindList, "List ziplist integrity check failed.", false
		}
		d.lp, ok = convertZiplist(listpack.AppendEmpty(d.lp[:0]), s)
		s = d.lp
	}
	if !ok || kind != KindList && !d.soundPairs(s, kind, dups) {
		return d.fail(ErrCorrupt, "%s", reason)
	}
	if listpack.First(s) < 0 {
		return d.empty()
	}
	if err := d.begin(); err != nil {
		return err
	}
	if t == TypeHashZipmap {
		return d.zipmapPairs(s, reason)
	}
	if kind != KindList {
		return d.told(d.v.Blob(kind, s), reason)
	}
	if err := d.v.BeginCollection(KindList, 1); err != nil {
		return err
	}
	return d.v.ListNode(s)
}

func (d *decoder) intset(s []byte) error {
	if intset.Validate(s, d.opts.Sanitize) != nil {
		return d.fail(ErrCorrupt, "Intset integrity check failed.")
	}
	if err := d.begin(); err != nil {
		return err
	}
	return d.told(d.v.Blob(KindSet, s), "Intset integrity check failed.")
}

// soundPairs reports whether the well-formed listpack lp has an even number of
// elements, scores that are numbers where they should be, and, if dups is set,
// no member twice.
func (d *decoder) soundPairs(lp []byte, kind Kind, dups bool) bool {
	if dups {
		d.dups.reset()
	}
	for off := listpack.First(lp); off >= 0; {
		if dups {
			str, num, isInt := listpack.Get(lp, off)
			if isInt {
				d.value.packed = strconv.AppendInt(d.value.packed[:0], num, 10)
				str = d.value.packed
			}
			if !d.dups.add(str) {
				return false
			}
		}
		if off = listpack.Next(lp, off); off < 0 {
			return false
		}
		if kind == KindZset {
			if str, _, isInt := listpack.Get(lp, off); !isInt {
				if f, ok := parseScore(str); !ok || math.IsNaN(f) {
					return false
				}
			}
		}
		off = listpack.Next(lp, off)
	}
	return true
}

// dupSet remembers the members of one collection by two independent 64-bit
// hashes with random seeds: that two different members are taken for one is as
// unlikely as a forged 128-bit checksum, and memory does not depend on their
// length. It is an open hash table, kept from collection to collection.
type dupSet struct {
	seen  [][2]uint64 // {0, 0} is free; len is a power of two
	count int
}

// maxKeptDups is the size up to which the table of a dupSet is used again.
const maxKeptDups = 4096

var dupSeeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}

func (s *dupSet) reset() {
	if len(s.seen) > maxKeptDups {
		*s = dupSet{} // clearing it for every small collection would be slow
	} else if s.count > 0 {
		clear(s.seen)
		s.count = 0
	}
}

// add reports whether member is new.
func (s *dupSet) add(member []byte) bool {
	h := [2]uint64{maphash.Bytes(dupSeeds[0], member) | 1, maphash.Bytes(dupSeeds[1], member)}
	if 2*s.count >= len(s.seen) {
		s.grow()
	}
	if !s.put(h) {
		return false
	}
	s.count++
	return true
}

func (s *dupSet) put(h [2]uint64) bool {
	mask := uint64(len(s.seen) - 1)
	for i := h[1] & mask; ; i = (i + 1) & mask {
		switch s.seen[i] {
		case [2]uint64{}:
			s.seen[i] = h
			return true
		case h:
			return false
		}
	}
}

func (s *dupSet) grow() {
	old := s.seen
	s.seen = make([][2]uint64, max(64, 2*len(old)))
	for _, h := range old {
		if h != [2]uint64{} {
			s.put(h)
		}
	}
}
