package raid

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/raid/format"
)

// Verdict is what Check makes of an array.
type Verdict string

// The verdicts, best first.
const (
	VerdictClean      Verdict = "clean"      // nothing is wrong
	VerdictRepaired   Verdict = "repaired"   // something was, and is not any more
	VerdictDecision   Verdict = "decision"   // somebody must decide: repair, replace a member, choose a side, or give something up
	VerdictUnreadable Verdict = "unreadable" // too little can be read to say more
)

// Severities of a Finding.
const (
	SeverityNote   = "note"   // costs nothing; the next start tidies it
	SeverityRepair = "repair" // wrong, and can be put right from the other members
	SeverityChoice = "choice" // needs somebody to decide, such as a missing member
	SeverityLost   = "lost"   // cannot be put right
)

// Finding is one thing that Check found.
type Finding struct {
	Severity string `json:"severity"`
	What     string `json:"what"`           // superblock, member, metadata, tail, chunk, parity, orphan
	Member   int    `json:"member"`         // slot, or -1
	Path     string `json:"path,omitempty"` // on the member
	File     string `json:"file,omitempty"` // of the array
	Off      int64  `json:"off"`            // in Path, or in File for a chunk
	Len      int64  `json:"len,omitempty"`
	Text     string `json:"text"`
}

func (f Finding) String() string {
	s := f.Severity + ": " + f.What
	if f.Path != "" {
		s += " " + f.Path
	}
	if f.File != "" {
		s += fmt.Sprintf(" %q at %d", f.File, f.Off)
	}
	return s + ": " + f.Text
}

// CheckOptions is how a check goes.
type CheckOptions struct {
	// Repair puts right what can be. Without it nothing is changed.
	Repair bool
	// Out gets the plan before anything is changed. Nil: nobody does.
	Out      io.Writer
	Rate     int64 // bytes per second read from each member; 0 or negative: unlimited
	Progress func(Progress)
	Context  context.Context // nil: never cancelled
}

// CheckReport is what a check found, and did.
type CheckReport struct {
	Verdict  Verdict      `json:"verdict"`
	Status   Status       `json:"status"`
	Findings []Finding    `json:"findings"` // at most maxFindings
	Omitted  int64        `json:"omitted"`  // findings beyond that
	Plan     []string     `json:"plan,omitempty"`
	Repaired []Finding    `json:"repaired,omitempty"` // what was found before the repair and not after it
	Moved    []string     `json:"moved,omitempty"`    // files that are in lost+found now
	Scrub    *ScrubResult `json:"scrub,omitempty"`
	Bytes    int64        `json:"bytes"` // read and verified
	Stripes  int64        `json:"stripes"`
	counts   map[string]int
}

// ExitCode is 0 for clean, 1 for repaired, 2 if somebody must decide, 4 for
// unreadable.
func (r *CheckReport) ExitCode() int {
	switch r.Verdict {
	case VerdictClean:
		return 0
	case VerdictRepaired:
		return 1
	case VerdictDecision:
		return 2
	}
	return 4
}

const maxFindings = 1000

func (r *CheckReport) add(f Finding) {
	if r.counts == nil {
		r.counts = map[string]int{}
	}
	r.counts[f.Severity]++
	if len(r.Findings) >= maxFindings {
		r.Omitted++
		return
	}
	r.Findings = append(r.Findings, f)
}

// decide sets the verdict from what was found.
func (r *CheckReport) decide() {
	if r.Verdict == VerdictUnreadable {
		return
	}
	r.Verdict = VerdictClean
	if r.counts[SeverityRepair]+r.counts[SeverityChoice]+r.counts[SeverityLost] > 0 {
		r.Verdict = VerdictDecision
	}
}

// Check reads everything on the members and compares it: superblocks, metadata
// journal, tail log, every chunk with its seal, parity with data, and the files
// that belong to nothing. The array must not be open. Without Repair nothing is
// changed, and no lock is taken.
//
// With Repair the plan is written to Out first. Then files that belong to nothing
// are moved to lost+found of their member, the array is opened, which finishes
// what was interrupted, members that came back are rebuilt, all of it is scrubbed,
// and what was found is looked at again. Nothing is done while a member is missing
// that the array counts as live: opening without it would take it out, and that is
// a choice.
//
// The error is one of ctx, of Out, or of the repair itself; what is wrong with the
// array is in the report.
func Check(o Options, c CheckOptions) (*CheckReport, error) {
	if c.Context == nil {
		c.Context = context.Background()
	}
	before, err := examineArray(o, c)
	if err != nil || !c.Repair || before.counts[SeverityRepair] == 0 && before.counts[SeverityNote] == 0 {
		return before, err
	}
	if before.Verdict == VerdictUnreadable {
		return before, nil
	}
	plan := planOf(before)
	before.Plan = plan
	if before.Status.away() {
		return before, printPlan(c.Out, plan)
	}
	if err := printPlan(c.Out, plan); err != nil {
		return before, err
	}
	moved, scrub, err := repairArray(o, c, before)
	if err != nil {
		before.Moved, before.Scrub = moved, scrub
		return before, fmt.Errorf("repair: %w", err)
	}
	after, err := examineArray(o, c)
	if err != nil {
		return before, err
	}
	after.Plan, after.Moved, after.Scrub = plan, moved, scrub
	for _, f := range before.Findings {
		if f.Severity != SeverityNote && !slices.Contains(after.Findings, f) {
			after.Repaired = append(after.Repaired, f)
		}
	}
	if after.Verdict == VerdictClean && before.Verdict != VerdictClean {
		after.Verdict = VerdictRepaired
	}
	return after, nil
}

// planOf says what a repair would do.
func planOf(r *CheckReport) []string {
	if r.Status.away() {
		return []string{"nothing: " + r.Status.Reason + "; to open the array without it would take it out, so bring it back, or replace it, first"}
	}
	var plan []string
	chunks := 0
	copies := map[string]bool{}
	for _, f := range r.Findings {
		switch {
		case f.What == "orphan":
			plan = append(plan, fmt.Sprintf("move %s to lost+found: %s", f.Path, f.Text))
		case f.Severity != SeverityRepair:
		case f.What == "chunk" || f.What == "parity":
			chunks++
		case !copies[f.What+f.Path]:
			copies[f.What+f.Path] = true
			plan = append(plan, fmt.Sprintf("write anew from the other members: %s (%s)", f.Path, f.Text))
		}
	}
	if chunks > 0 {
		plan = append(plan, fmt.Sprintf("reconstruct %d chunks, compare them with their seals, and write them to new places", chunks))
	}
	return append(plan, "open the array, which finishes what was interrupted, rebuild members that came back, and scrub all of it")
}

// away reports whether a member is not there that the array counts as its own.
func (s *Status) away() bool {
	for i := range s.Members {
		switch s.Members[i].State {
		case "live", "rebuilding", "stale", "failed":
		default:
			return true
		}
	}
	return false
}

func printPlan(w io.Writer, plan []string) error {
	if w == nil {
		return nil
	}
	_, err := fmt.Fprintf(w, "plan:\n  %s\n", strings.Join(plan, "\n  "))
	return err
}

// repairArray carries the plan out.
func repairArray(o Options, c CheckOptions, r *CheckReport) (moved []string, res *ScrubResult, err error) {
	moved, err = moveOrphans(o, r)
	if err != nil {
		return moved, nil, err
	}
	o.Manual, o.ReadOnly, o.Force, o.Level = true, false, false, LevelAny
	o.ScrubRate, o.RebuildRate = rateOr(c.Rate), rateOr(c.Rate)
	a, err := Open(o)
	if err != nil {
		return moved, nil, err
	}
	if a.rebuildingSet() != 0 {
		if _, err := a.Rebuild(c.Context, RebuildOptions{Progress: c.Progress}); err != nil {
			return moved, nil, errors.Join(err, a.Close())
		}
	}
	s, err := a.Scrub(c.Context, ScrubOptions{Restart: true, Progress: c.Progress})
	return moved, &s, errors.Join(err, a.Close())
}

func rateOr(rate int64) int64 {
	if rate == 0 {
		return -1
	}
	return rate
}

// moveOrphans moves files that belong to nothing to lost+found, under the locks of
// their members.
func moveOrphans(o Options, r *CheckReport) (moved []string, err error) {
	for _, dir := range o.Members {
		var names []string
		for _, f := range r.Findings {
			if f.What == "orphan" && strings.HasPrefix(f.Path, dir.Path+"/") {
				names = append(names, strings.TrimPrefix(f.Path, dir.Path+"/"))
			}
		}
		if len(names) == 0 {
			continue
		}
		m, err := moveInto(dir, names)
		moved = append(moved, m...)
		if err != nil {
			return moved, err
		}
	}
	return moved, nil
}

// moveInto moves the named files of a member into its lost+found, under names that
// are free, and makes that durable.
func moveInto(dir Dir, names []string) (moved []string, err error) {
	lock, err := dir.FS.Lock(dir.FS.PathJoin(dir.Path, lockName))
	if err != nil {
		return nil, fmt.Errorf("%s: %w (%w)", dir.Path, ErrLocked, err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	lost := dir.FS.PathJoin(dir.Path, lostDir)
	if err := dir.FS.MkdirAll(lost, 0o755); err != nil {
		return nil, err
	}
	for _, name := range names {
		from, to := dir.FS.PathJoin(dir.Path, name), dir.FS.PathJoin(lost, dir.FS.PathBase(name))
		for i := 1; ; i++ {
			if _, err := dir.FS.Stat(to); notExist(err) {
				break
			} else if err != nil {
				return moved, err
			}
			to = dir.FS.PathJoin(lost, fmt.Sprintf("%s.%d", dir.FS.PathBase(name), i))
		}
		if err := dir.FS.Rename(from, to); err != nil {
			return moved, err
		}
		moved = append(moved, to)
		if err := syncDirectory(dir.FS, dir.FS.PathDir(from)); err != nil {
			return moved, err
		}
	}
	return moved, syncDirectory(dir.FS, lost)
}

func syncDirectory(fsys vfs.FS, name string) error {
	d, err := fsys.OpenDir(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// examineArray is a check that changes nothing.
func examineArray(o Options, c CheckOptions) (*CheckReport, error) {
	r := &CheckReport{}
	p := takePicture(o, r)
	if p == nil {
		r.decide()
		return r, nil
	}
	var err error
	if p.st != nil {
		err = p.checkStripes(c, r)
	}
	p.checkNames(r)
	r.decide()
	return r, errors.Join(err, p.close())
}

// checkStripes compares every chunk with its seal, and parity with data.
func (p *picture) checkStripes(c CheckOptions, r *CheckReport) error {
	x := newExaminer(p.id, p.geo, p.code, p.chunk, p.readColumn)
	limit := newThrottle(rateOr(c.Rate), time.Now)
	return p.eachStripe(func(ino *inode, n int, rec *format.Stripe) error {
		if err := limit.take(c.Context, int64(format.HeaderArea(p.chunk)+p.geo.ChunkLength(0, int(rec.Length), p.chunk))); err != nil {
			return err
		}
		st, _ := ino.stripe(n)
		e := x.examine(ino.id, uint64(n), st.off, rec, p.live)
		if x.whole(e) {
			if err := x.verifyParity(e); err != nil {
				return err
			}
		}
		r.Stripes++
		r.Bytes += e.bytes
		if c.Progress != nil {
			c.Progress(Progress{Done: r.Bytes, Total: max(p.total, r.Bytes), Stage: "check"})
		}
		p.judge(x, e, ino.name, r)
		return nil
	})
}

// judge adds what was found in a stripe.
func (p *picture) judge(x *examiner, e *exam, name string, r *CheckReport) {
	sev := SeverityRepair
	if !x.enough(e) {
		sev = SeverityLost
	}
	for _, f := range e.faults {
		s, what := sev, "chunk"
		if errors.Is(f.err, errParity) {
			what = "parity"
		}
		if s == SeverityRepair && p.current>>f.member&1 == 0 {
			s = SeverityNote // the rebuild looks at it
		}
		slot := e.rec.Chunks[f.member].Slot
		r.add(Finding{Severity: s, What: what, Member: f.member, Path: p.path(f.member, dataDir+"/"+columnName(e.file)), File: name, Off: e.offset, Len: int64(e.rec.Length),
			Text: fmt.Sprintf("chunk %d of stripe %d, in slot %d, %v", f.index, e.stripe, slot, f.err)})
	}
	for m := range slots(e.absent) {
		switch {
		case !x.enough(e):
			r.add(Finding{Severity: SeverityLost, What: "chunk", Member: m, File: name, Off: e.offset, Len: int64(e.rec.Length), Text: fmt.Sprintf("stripe %d has no chunk there, and too few others", e.stripe)})
		case p.current>>m&1 != 0:
			r.add(Finding{Severity: SeverityRepair, What: "chunk", Member: m, File: name, Off: e.offset, Len: int64(e.rec.Length), Text: fmt.Sprintf("stripe %d lacks its chunk", e.stripe)})
		}
	}
	if len(e.faults) == 0 && e.absent == 0 && !x.enough(e) {
		r.add(Finding{Severity: SeverityLost, What: "chunk", Member: -1, File: name, Off: e.offset, Len: int64(e.rec.Length), Text: fmt.Sprintf("stripe %d stands on members that are not there", e.stripe)})
	}
}

// checkNames looks for files on members that belong to nothing.
func (p *picture) checkNames(r *CheckReport) {
	for s, d := range p.dirs {
		if d.FS == nil || p.live>>s&1 == 0 {
			continue
		}
		names, err := d.FS.List(d.Path)
		if err != nil {
			r.add(Finding{Severity: SeverityChoice, What: "member", Member: s, Path: d.Path, Text: err.Error()})
			continue
		}
		slices.Sort(names)
		for _, name := range names {
			if text, sev := p.stray(name); text != "" {
				r.add(Finding{Severity: sev, What: "orphan", Member: s, Path: p.path(s, name), Text: text})
			}
		}
		if p.st != nil {
			p.checkColumns(s, r)
		}
	}
}

// stray says what is wrong with a name in a member's directory, or "".
func (p *picture) stray(name string) (text, severity string) {
	switch {
	case name == lockName || name == dataDir || name == lostDir || name == reserveName:
		return "", ""
	case strings.HasPrefix(name, "superblock."):
		for i := range superCopies {
			if name == superName(i) {
				return "", ""
			}
		}
		return "a superblock that was not finished", SeverityNote
	case strings.HasPrefix(name, "meta-") || strings.HasPrefix(name, "tail-"):
		return "", "" // what is left over of them the next start removes
	}
	return "is no file of an array", SeverityRepair
}

// checkColumns looks for columns of files that do not exist.
func (p *picture) checkColumns(s int, r *CheckReport) {
	d := p.dirs[s]
	names, err := d.FS.List(d.FS.PathJoin(d.Path, dataDir))
	if err != nil {
		r.add(Finding{Severity: SeverityChoice, What: "member", Member: s, Path: d.FS.PathJoin(d.Path, dataDir), Text: err.Error()})
		return
	}
	slices.Sort(names)
	for _, name := range names {
		path := d.FS.PathJoin(d.Path, dataDir, name)
		switch id, ok := parseColumn(name); {
		case !ok:
			r.add(Finding{Severity: SeverityRepair, What: "orphan", Member: s, Path: path, Text: "is no column"})
		case p.st.files[id] != nil:
		case id < p.st.next:
			r.add(Finding{Severity: SeverityNote, What: "orphan", Member: s, Path: path, Text: fmt.Sprintf("is a column of file %d, which was removed; the next start removes it", id)})
		default:
			// After a crash it may be of a file that was never durably created.
			r.add(Finding{Severity: p.severity(), What: "orphan", Member: s, Path: path, Text: fmt.Sprintf("is a column of file %d, which does not exist", id)})
		}
	}
}
