package raid

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/raid/format"
)

// Who is a member.
//
// A claim is a member list under a (count, nonce). A change of membership writes
// the new claim in two steps: copies 0 and 1 of the superblock on every member that
// it lists as live or rebuilding, synced, and only then copies 2 and 3 on each of
// them. Nothing is acknowledged before the second step is done. Hence:
//
//   - A claim that stands in copy 2 or 3 of any member stands in copies 0 and 1 of
//     all members that it lists as live: it is established. A listed member that
//     does not carry it has been rolled back, and is current nevertheless.
//   - A claim that stands only in copies 0 and 1, beside an intact older one in 2 or
//     3, was begun and never came into force: nobody acknowledged anything under
//     it, so it yields to the older one, whose list is larger.
//
// The newest established claim decides. Another established claim is older if
// the newest one names it among its past; if it does not, two sets of members ran
// without each other, and somebody must choose.

// superCopies is how many copies of the superblock a member keeps.
const superCopies = 4

func superName(i int) string { return fmt.Sprintf("superblock.%d", i) }

// view is what a directory shows of itself before anybody knows who is a member.
type view struct {
	dir     Dir
	copies  [superCopies]*format.Superblock // nil: missing or damaged
	damaged int                             // copies that are there and damaged
	err     error                           // the directory cannot be read
}

func claimOf(s *format.Superblock) format.Claim {
	return format.Claim{Count: s.Count, Nonce: s.Nonce}
}

// best returns the copy with the highest count, or nil.
func (v *view) best() *format.Superblock {
	var best *format.Superblock
	for _, c := range v.copies {
		if c != nil && (best == nil || c.Count > best.Count) {
			best = c
		}
	}
	return best
}

// readView reads the superblocks of a directory. What cannot be read is in the view.
func readView(d Dir) view {
	v := view{dir: d}
	for i := range v.copies {
		b, err := readLimited(d.FS, d.FS.PathJoin(d.Path, superName(i)), format.MaxSuperblock)
		switch {
		case notExist(err):
		case err != nil:
			if v.err == nil {
				v.err = err
			}
		default:
			if v.copies[i], err = format.DecodeSuperblock(b); err != nil {
				v.damaged++
			}
		}
	}
	return v
}

// readLimited reads a whole file of at most limit bytes; what is longer is cut.
func readLimited(fsys vfs.FS, path string, limit int64) ([]byte, error) {
	f, err := fsys.Open(path)
	if err != nil {
		return nil, err
	}
	b, err := readAllAt(f, limit)
	return b, errors.Join(err, f.Close())
}

// readAllAt reads up to limit bytes of f in one call, or two.
func readAllAt(f vfs.File, limit int64) ([]byte, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := make([]byte, min(st.Size(), limit))
	n, err := f.ReadAt(b, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b[:n], err
}

// verdict is what assemble decides.
type verdict struct {
	super  *format.Superblock // the claim in force, as one of its members has it
	member []int              // by slot: index of the view, or -1
	state  []string           // by slot: live, rebuilding, stale, missing, failed
	reason []string           // by slot
	spares []int              // by spare of super: index of the view, or -1
	others []int              // views that are nobody here
	max    uint64             // highest count seen anywhere
	void   []format.Claim     // claims that were begun and never came into force
	mend   bool               // superblocks of current members differ, or paths do
}

// assemble decides who is a member, from what the directories show. It is pure.
// The error is ErrNotArray, a *SplitError, or tells of several arrays.
func assemble(views []view, faults Mutants) (*verdict, error) {
	array, err := oneArray(views)
	if err != nil {
		return nil, err
	}
	d := &verdict{}
	claims := map[format.Claim]*format.Superblock{}
	var order []format.Claim
	for i := range views {
		for _, c := range views[i].copies {
			if c == nil || c.Array != array {
				continue
			}
			d.max = max(d.max, c.Count)
			if k := claimOf(c); claims[k] == nil {
				claims[k] = c
				order = append(order, k)
			}
		}
	}
	slices.SortStableFunc(order, func(a, b format.Claim) int { return int(int64(b.Count - a.Count)) })
	var rivals []format.Claim
	for _, k := range order {
		switch {
		case !established(views, claims[k]):
			d.void = append(d.void, k)
		case d.super == nil:
			d.super = claims[k]
		case !isPast(d.super, k):
			rivals = append(rivals, k)
		}
	}
	if d.super == nil {
		return nil, fmt.Errorf("%w: its creation was interrupted", ErrNotArray)
	}
	if len(rivals) > 0 {
		return nil, split(views, d.super, claims[rivals[0]])
	}
	d.place(views, array, faults)
	return d, nil
}

// oneArray returns the array that the views are of.
func oneArray(views []view) (format.ID, error) {
	count := map[format.ID]int{}
	var ids []format.ID
	var trouble []string
	for i := range views {
		if b := views[i].best(); b != nil {
			if count[b.Array]++; count[b.Array] == 1 {
				ids = append(ids, b.Array)
			}
		} else if views[i].err != nil {
			trouble = append(trouble, fmt.Sprintf("%s: %v", views[i].dir.Path, views[i].err))
		} else if views[i].damaged > 0 {
			trouble = append(trouble, fmt.Sprintf("%s: all superblocks are damaged", views[i].dir.Path))
		}
	}
	if len(ids) == 0 {
		if len(trouble) > 0 {
			return format.ID{}, fmt.Errorf("%w that can be read (%s)", ErrNotArray, strings.Join(trouble, "; "))
		}
		return format.ID{}, ErrNotArray
	}
	slices.SortStableFunc(ids, func(a, b format.ID) int { return count[b] - count[a] })
	if len(ids) > 1 && count[ids[0]] == count[ids[1]] {
		return format.ID{}, fmt.Errorf("%w: the directories belong to several arrays, as many to one as to another", ErrWrongSpec)
	}
	return ids[0], nil
}

// lists returns the state in which s lists the directory whose superblock is b.
func lists(s, b *format.Superblock) format.MemberState {
	if b.Slot >= 0 && b.Slot < len(s.Members) && s.Members[b.Slot].ID == b.Member {
		return s.Members[b.Slot].State
	}
	return 0
}

// established reports whether claim s may have come into force.
func established(views []view, s *format.Superblock) bool {
	k := claimOf(s)
	for i := range views {
		v := &views[i]
		carries, older := false, false
		for n, c := range v.copies {
			if c == nil || c.Array != s.Array {
				continue
			}
			if claimOf(c) == k {
				if n >= superCopies/2 {
					return true
				}
				carries = true
			} else if c.Count < k.Count && n >= superCopies/2 {
				older = true
			}
		}
		// Both later copies damaged: there is no sign that the change was interrupted.
		// Of a creation there would be none, so it must show.
		if carries && !older && k.Count > 1 && v.damaged > 0 {
			return true
		}
	}
	return false
}

// isPast reports whether k is a claim before s.
func isPast(s *format.Superblock, k format.Claim) bool {
	if slices.Contains(s.Past, k) {
		return true
	}
	n := len(s.Past)
	return n == format.MaxPast && k.Count < s.Past[n-1].Count
}

func split(views []view, a, b *format.Superblock) error {
	names := func(s *format.Superblock) (out []string) {
		for i := range views {
			for _, c := range views[i].copies {
				if c != nil && claimOf(c) == claimOf(s) && c.Array == s.Array {
					out = append(out, views[i].dir.Path)
					break
				}
			}
		}
		return out
	}
	return &SplitError{A: names(a), B: names(b), Text: fmt.Sprintf(
		"the first are at event count %d (nonce %016x), the others at %d (nonce %016x), and neither knows of the other; "+
			"open the array with one set alone, and replace the members of the other, whose writes since then are lost",
		a.Count, a.Nonce, b.Count, b.Nonce)}
}

// place finds the directory of each slot.
func (d *verdict) place(views []view, array format.ID, faults Mutants) {
	width := d.super.Width()
	d.member, d.state, d.reason = make([]int, width), make([]string, width), make([]string, width)
	d.spares = make([]int, len(d.super.Spares))
	for s := range d.member {
		d.member[s] = -1
	}
	for s := range d.spares {
		d.spares[s] = -1
	}
	for i := range views {
		b := views[i].best()
		if b == nil || b.Array != array || !d.takes(i, b) {
			d.others = append(d.others, i)
		}
	}
	for s, i := range d.member {
		listed := d.super.Members[s].State
		switch {
		case i < 0 && listed == format.StateOut:
			d.state[s], d.reason[s] = "failed", "taken out before"
		case i < 0:
			d.state[s], d.reason[s] = "missing", "its directory is not there"
			d.mend = true
		case listed == format.StateLive || faults.TrustStale:
			d.state[s] = "live"
		case listed == format.StateRebuilding:
			d.state[s] = "rebuilding"
		default:
			d.state[s], d.reason[s] = "stale", "was away while the array was written to"
		}
		if i >= 0 {
			d.compare(&views[i], s)
		}
	}
}

// takes notes view i as the member or spare that its superblock says.
func (d *verdict) takes(i int, b *format.Superblock) bool {
	if lists(d.super, b) != 0 && d.member[b.Slot] < 0 {
		d.member[b.Slot] = i
		return true
	}
	for s := range d.super.Spares {
		if b.Slot < 0 && d.super.Spares[s].ID == b.Member && d.spares[s] < 0 {
			d.spares[s] = i
			return true
		}
	}
	return false
}

// compare notes whether the superblocks of a member must be written anew.
func (d *verdict) compare(v *view, slot int) {
	for _, c := range v.copies {
		if c == nil || claimOf(c) != claimOf(d.super) {
			d.mend = true
		}
	}
	if v.dir.Path != d.super.Members[slot].Path {
		d.mend = true
	}
}
