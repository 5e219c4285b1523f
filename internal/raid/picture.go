package raid

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/raid/format"
	"holdfast/internal/raid/layout"
	"holdfast/internal/raid/parity"
)

// picture is an array as the files of its members show it. Taking one reads only
// and takes no lock; of an array that is open it shows a moment that never was.
type picture struct {
	opts    Options
	views   []view
	who     *verdict
	id      format.ID
	geo     layout.Geometry
	code    *parity.Code
	chunk   int
	dirs    []Dir  // by slot; FS nil: not there
	live    uint32 // whose chunks are asked for: live and rebuilding
	current uint32 // live
	clean   bool   // closed in order
	st      *state // nil: no metadata can be read
	gen     uint64 // of the metadata journal
	total   int64  // bytes of all chunks
	status  Status
	open    map[columnOf]vfs.File
}

// takePicture looks at superblocks, metadata journal and tail log. What is wrong with
// them goes into r. Nil: there is nothing more to look at, and r says why.
func takePicture(o Options, r *CheckReport) *picture {
	p := &picture{opts: o, open: map[columnOf]vfs.File{}}
	for _, d := range append(slices.Clone(o.Members), o.Spares...) {
		p.views = append(p.views, readView(d))
	}
	who, err := assemble(p.views, Mutants{})
	var apart *SplitError
	switch {
	case errors.As(err, &apart):
		r.add(Finding{Severity: SeverityChoice, What: "member", Member: -1, Text: err.Error()})
		r.Status.State, r.Status.Reason = "failed", err.Error()
		return nil
	case err != nil:
		r.Verdict = VerdictUnreadable
		r.add(Finding{Severity: SeverityLost, What: "superblock", Member: -1, Text: err.Error()})
		r.Status.State, r.Status.Reason = "failed", err.Error()
		return nil
	}
	p.who, p.id, p.chunk = who, who.super.Array, who.super.Chunk
	if p.geo, err = layout.New(who.super.Level, who.super.Width()); err == nil {
		p.code, err = parity.New(who.super.Level, who.super.Width())
	}
	if err != nil {
		r.Verdict = VerdictUnreadable
		r.add(Finding{Severity: SeverityLost, What: "superblock", Member: -1, Text: err.Error()})
		return nil
	}
	p.members(r)
	p.metadata(r)
	if p.st != nil {
		p.tail(r)
		for _, ino := range p.st.files {
			for i := range ino.stripes {
				p.total += int64(popcount(ino.stripes[i].present)) * int64(p.geo.ChunkLength(0, int(ino.stripes[i].length), p.chunk))
			}
		}
	}
	p.fillStatus(r)
	return p
}

// close closes the columns that were read.
func (p *picture) close() (err error) {
	for _, f := range p.open {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// members finds the directory of each slot and judges superblocks.
func (p *picture) members(r *CheckReport) {
	p.dirs = make([]Dir, p.geo.Width())
	p.strangers()
	for s, i := range p.who.member {
		if i < 0 {
			r.add(Finding{Severity: SeverityChoice, What: "member", Member: s, Path: p.who.super.Members[s].Path,
				Text: fmt.Sprintf("is %s: %s", p.who.state[s], p.who.reason[s])})
			continue
		}
		v := &p.views[i]
		p.dirs[s] = v.dir
		switch p.who.state[s] {
		case "live":
			p.live |= 1 << s
			p.current |= 1 << s
		case "rebuilding":
			p.live |= 1 << s
			r.add(Finding{Severity: SeverityNote, What: "member", Member: s, Path: v.dir.Path, Text: "is being rebuilt"})
		default:
			r.add(Finding{Severity: SeverityChoice, What: "member", Member: s, Path: v.dir.Path,
				Text: fmt.Sprintf("is %s: %s", p.who.state[s], p.who.reason[s])})
		}
		p.superblocks(s, v, r)
	}
	for _, i := range p.who.others {
		r.add(Finding{Severity: SeverityNote, What: "member", Member: -1, Path: p.views[i].dir.Path, Text: "is no member of this array: " + strangerState(&p.views[i])})
	}
	if n := popcount(p.current); n < p.geo.Data() {
		r.add(Finding{Severity: SeverityChoice, What: "member", Member: -1, Text: (&TooFewError{Need: p.geo.Data(), Have: n, Text: p.statesText()}).Error()})
	}
}

func (p *picture) statesText() string {
	var list []string
	for s, st := range p.who.state {
		list = append(list, fmt.Sprintf("member %d (%s) is %s", s, p.who.super.Members[s].Path, st))
	}
	return strings.Join(list, ", ")
}

// strangers takes from the directories that are nobody here those that are not there
// at all, or stand where a member or spare was seen last: the slot says it.
func (p *picture) strangers() {
	var rest []int
	for _, i := range p.who.others {
		v := &p.views[i]
		state := strangerState(v)
		_, err := v.dir.FS.Stat(v.dir.Path)
		if s := p.hinted(v.dir.Path); s >= 0 && p.who.member[s] < 0 {
			if err == nil {
				p.who.state[s], p.who.reason[s] = state, "its directory is there and holds no superblock of this array"
			}
			continue
		}
		if err != nil && notExist(err) {
			continue
		}
		rest = append(rest, i)
	}
	p.who.others = rest
}

// hinted returns the slot whose member was last seen at the path, or -1.
func (p *picture) hinted(path string) int {
	return slices.IndexFunc(p.who.super.Members, func(m format.Member) bool { return m.Path == path })
}

// strangerState tells what a directory is that belongs to no slot.
func strangerState(v *view) string {
	switch {
	case v.best() != nil:
		return "foreign"
	case v.err != nil:
		return "unreadable"
	case v.damaged > 0:
		return "damaged"
	}
	return "blank"
}

func (p *picture) superblocks(s int, v *view, r *CheckReport) {
	if st := p.who.state[s]; st != "live" && st != "rebuilding" {
		return
	}
	for i, c := range v.copies {
		path := v.dir.FS.PathJoin(v.dir.Path, superName(i))
		switch {
		case c == nil:
			r.add(Finding{Severity: SeverityRepair, What: "superblock", Member: s, Path: path, Text: "is damaged or missing"})
		case claimOf(c) != claimOf(p.who.super):
			r.add(Finding{Severity: SeverityNote, What: "superblock", Member: s, Path: path,
				Text: fmt.Sprintf("is of count %d, the array is at %d; the next start goes on with the change", c.Count, p.who.super.Count)})
		}
	}
}

// metadata reads the metadata journal, as a start would.
func (p *picture) metadata(r *CheckReport) {
	l, err := loadMeta(p.sources(), p.id, p.geo, p.chunk, Mutants{})
	if err != nil {
		r.Verdict = VerdictUnreadable
		r.add(p.corrupt("metadata", err))
		return
	}
	p.st, p.gen, p.clean = l.st, l.gen, l.st.closed != 0
	for slot, err := range l.failed {
		r.add(Finding{Severity: SeverityChoice, What: "member", Member: slot, Path: p.dirs[slot].Path, Text: err.Error()})
	}
	begun := p.begun(l.gen)
	for _, f := range l.findings {
		sev := SeverityNote // what a crash leaves, or of a generation that is kept for need
		if p.clean && begun>>f.Slot&1 != 0 && (f.File == ckptName(l.gen) || f.File == logName(l.gen)) {
			sev = SeverityRepair
		}
		r.add(Finding{Severity: sev, What: "metadata", Member: f.Slot, Path: p.path(f.Slot, f.File), Off: f.Off, Text: f.Text})
	}
	// A copy that ends too early, or is not there, is no finding of loadMeta.
	p.sameSize(r, "metadata", begun, ckptName(l.gen))
	p.sameSize(r, "metadata", begun, logName(l.gen))
	for s := range slots(p.live &^ begun) {
		r.add(Finding{Severity: SeverityNote, What: "metadata", Member: s, Path: p.path(s, ckptName(l.gen)), Text: "is not there yet: the array was not closed to the end; the next start writes it anew"})
	}
}

// begun returns the members on which the log of a generation begins. It is made when
// the checkpoint is durable there: where it does not begin, a crash in the last step
// of Close may have left it so, although another member has the checkpoint that calls
// the end an orderly one; where it does, the checkpoint must be whole.
func (p *picture) begun(gen uint64) (set uint32) {
	for _, s := range p.sources() {
		b, err := readLimited(s.dir.FS, s.path(logName(gen)), format.MetaHeaderSize)
		if err == nil {
			var h format.MetaHeader
			if h, _, err = format.ParseMetaHeader(b); err == nil && h.Array == p.id && h.Generation == gen && h.Kind == format.KindLog {
				set |= 1 << s.slot
			}
		}
	}
	return set
}

// sources returns the members that a start would read from.
func (p *picture) sources() (list []source) {
	for s := range slots(p.live) {
		list = append(list, source{s, p.dirs[s]})
	}
	return list
}

// corrupt makes a finding of what loadMeta and loadTail refuse.
func (p *picture) corrupt(what string, err error) Finding {
	f := Finding{Severity: SeverityLost, What: what, Member: -1, Text: err.Error()}
	var c *CorruptError
	if errors.As(err, &c) {
		f.Path, f.Off = c.Member+"/"+c.File, c.Off
	}
	return f
}

// severity is that of a copy that is worse than others: after an orderly end it is
// damage, and otherwise it may be what a crash left.
func (p *picture) severity() string {
	if p.clean {
		return SeverityRepair
	}
	return SeverityNote
}

func (p *picture) path(slot int, name string) string {
	return p.dirs[slot].FS.PathJoin(p.dirs[slot].Path, name)
}

// sameSize compares the sizes of what should be equal copies.
func (p *picture) sameSize(r *CheckReport, what string, members uint32, name string) {
	sizes := map[int]int64{}
	var most int64
	for s := range slots(members) {
		info, err := p.dirs[s].FS.Stat(p.path(s, name))
		if err != nil {
			r.add(Finding{Severity: p.severity(), What: what, Member: s, Path: p.path(s, name), Text: err.Error()})
			continue
		}
		sizes[s] = info.Size()
		most = max(most, info.Size())
	}
	for s := range slots(members) {
		if n, ok := sizes[s]; ok && n < most {
			r.add(Finding{Severity: p.severity(), What: what, Member: s, Path: p.path(s, name), Off: n, Text: fmt.Sprintf("has %d bytes, another copy %d", n, most)})
		}
	}
}

// tail reads the tail log, as a start would.
func (p *picture) tail(r *CheckReport) {
	_, findings, err := loadTail(p.sources(), p.id, p.st.tail, Mutants{})
	if err != nil {
		r.add(p.corrupt("tail", err))
	}
	for _, f := range findings {
		r.add(Finding{Severity: p.severity(), What: "tail", Member: f.Slot, Path: p.path(f.Slot, f.File), Off: f.Off, Text: f.Text})
	}
	if p.st.tail.Segment != 0 {
		p.sameSize(r, "tail", p.st.tail.Members&p.live, tailName(p.st.tail.Segment))
	}
}

// fillStatus says in one structure what was found.
func (p *picture) fillStatus(r *CheckReport) {
	sb := p.who.super
	st := Status{ID: sb.Array.String(), Level: sb.Level, Width: sb.Width(), Chunk: sb.Chunk, Count: sb.Count, ReadOnly: true}
	for s := range sb.Members {
		ms := MemberStatus{Slot: s, ID: sb.Members[s].ID.String(), Path: sb.Members[s].Path, State: p.who.state[s], Reason: p.who.reason[s]}
		if p.dirs[s].FS != nil {
			ms.Path = p.dirs[s].Path
		}
		if p.st != nil {
			c := p.st.counters[s]
			ms.ReadErrors, ms.WriteErrors, ms.ChecksumErrors, ms.Healed = int64(c.ReadErrors), int64(c.WriteErrors), int64(c.ChecksumErrors), int64(c.Healed)
			ms.LastScrub = unixTime(c.LastScrub)
		}
		st.Members = append(st.Members, ms)
	}
	for i := range sb.Spares {
		ms := MemberStatus{Slot: -1, ID: sb.Spares[i].ID.String(), Path: sb.Spares[i].Path, State: "spare"}
		if p.who.spares[i] < 0 {
			ms.State = "missing"
		}
		st.Spares = append(st.Spares, ms)
	}
	for _, i := range p.who.others {
		st.Spares = append(st.Spares, MemberStatus{Slot: -1, Path: p.views[i].dir.Path, State: strangerState(&p.views[i])})
	}
	if p.st != nil {
		p.countFiles(&st)
	}
	st.State, st.Reason = p.overall(&st)
	p.status, r.Status = st, st
}

func (p *picture) countFiles(st *Status) {
	st.Files = len(p.st.files)
	st.LastScrub = unixTime(p.st.scrub.LastFull)
	for _, ino := range p.st.files {
		st.Stripes += int64(len(ino.stripes))
		st.Bytes += ino.sealedEnd()
		for i := range ino.stripes {
			lacks := false
			for m := range p.geo.Width() {
				if p.geo.ChunkLength(p.geo.Index(uint64(i), m), int(ino.stripes[i].length), p.chunk) == 0 {
					continue
				}
				if (ino.stripes[i].present&p.live)>>m&1 == 0 {
					st.Members[m].AtRisk++
					lacks = true
				}
			}
			if lacks {
				st.AtRisk++
			}
		}
	}
}

func (p *picture) overall(st *Status) (state, reason string) {
	for s := range st.Members {
		if m := &st.Members[s]; m.State != "live" && reason == "" {
			reason = fmt.Sprintf("member %d (%s) is %s: %s", s, m.Path, m.State, m.Reason)
		}
	}
	switch {
	case popcount(p.current) < p.geo.Data():
		return "failed", reason
	case popcount(p.live) < p.geo.Width():
		return "degraded", reason
	case p.live != p.current:
		return "rebuilding", reason
	case st.AtRisk > 0:
		return "degraded", fmt.Sprintf("%d stripes lack a chunk", st.AtRisk)
	}
	return "healthy", ""
}

// Inspect tells the state of an array that is not open: offline, reading only, and
// also if it cannot be assembled. The error says that no superblock can be read, or
// that its members ran apart; the Status says as much as is known.
func Inspect(o Options) (Status, error) {
	var r CheckReport
	p := takePicture(o, &r)
	if p != nil {
		return p.status, p.close()
	}
	for i := range o.Members {
		r.Status.Members = append(r.Status.Members, MemberStatus{Slot: -1, Path: o.Members[i].Path, State: "unknown"})
		if v := readView(o.Members[i]); v.best() != nil {
			b := v.best()
			m := &r.Status.Members[i]
			m.Slot, m.ID = b.Slot, b.Member.String()
			m.Reason = fmt.Sprintf("event count %d, nonce %016x", b.Count, b.Nonce)
			r.Status.ID, r.Status.Level, r.Status.Width, r.Status.Chunk = b.Array.String(), b.Level, b.Width(), b.Chunk
		} else {
			r.Status.Members[i].State = strangerState(&v)
		}
	}
	return r.Status, errors.New(r.Status.Reason)
}

// readColumn reads from the column of a member.
func (p *picture) readColumn(member int, file uint64, off int64, b []byte) error {
	key := columnOf{member, file}
	f, ok := p.open[key]
	if !ok {
		var err error
		d := p.dirs[member]
		if f, err = d.FS.Open(d.FS.PathJoin(d.Path, dataDir, columnName(file))); err != nil {
			return err
		}
		p.open[key] = f
	}
	_, err := f.ReadAt(b, off)
	return err
}

// eachStripe calls fn for every sealed stripe, in order of file and stripe. Columns
// of a file are closed when it is through.
func (p *picture) eachStripe(fn func(ino *inode, n int, rec *format.Stripe) error) error {
	for _, id := range slices.Sorted(maps.Keys(p.st.files)) {
		ino := p.st.files[id]
		for n := range ino.stripes {
			st, chunks := ino.stripe(n)
			if err := fn(ino, n, &format.Stripe{Gen: st.gen, Length: st.length, Present: st.present, Chunks: chunks}); err != nil {
				return err
			}
		}
		if err := p.close(); err != nil {
			return err
		}
		clear(p.open)
	}
	return nil
}

func unixTime(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}
