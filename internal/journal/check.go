package journal

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Verdict is what Check makes of a directory.
type Verdict string

// The verdicts, best first.
const (
	VerdictEmpty   Verdict = "empty"   // no journal
	VerdictWhole   Verdict = "whole"   // everything reads back
	VerdictTorn    Verdict = "torn"    // a tail that was never synced is cut at the next start
	VerdictCorrupt Verdict = "corrupt" // something that was on the disk is damaged
)

// SegmentReport is one segment file.
type SegmentReport struct {
	Name      string
	Seq       uint64
	Size      int64
	State     string // "whole", "torn", "corrupt", "spare" (prepared, never used) or "left over"
	Copies    int    // whole copies of its header, of 2
	Records   int    // whole records from its beginning on
	First     uint64 // position of its first stream byte
	End       uint64 // position after the last whole record that counts
	EndOffset int64
	TornBytes int64 // bytes behind EndOffset that are not zero and do not count
	Reason    string
}

// Report is what Check found.
type Report struct {
	Verdict   Verdict
	Recovery  Recovery // what a start would find
	Manifests [2]string
	Segments  []SegmentReport
	Problems  []*CorruptError
	Notes     []*CorruptError
}

// Check reads everything in dir and changes nothing; it takes no lock. The error
// is a read error, or one of w. With w not nil the report is also written there,
// as text.
func Check(fsys vfs.FS, dir string, w io.Writer) (Report, error) {
	in, err := inspect(fsys, dir, &Mutants{})
	if err != nil {
		return Report{}, err
	}
	rep := Report{Recovery: in.summary(), Problems: in.damage, Notes: in.notes}
	for i := range in.copies {
		rep.Manifests[i] = in.copies[i].describe()
	}
	if err := in.checkCheckpoint(&rep); err != nil {
		return rep, err
	}
	for _, s := range in.segs {
		sr, err := in.report(s)
		if err != nil {
			return rep, err
		}
		rep.Segments = append(rep.Segments, sr)
	}
	switch {
	case len(rep.Problems) > 0:
		rep.Verdict = VerdictCorrupt
	case in.man == nil:
		rep.Verdict = VerdictEmpty
	case rep.Recovery.TornBytes > 0:
		rep.Verdict = VerdictTorn
	default:
		rep.Verdict = VerdictWhole
	}
	if w != nil {
		return rep, rep.write(w)
	}
	return rep, nil
}

func (c *manifestCopy) describe() string {
	switch {
	case c.missing:
		return c.name + ": missing"
	case c.bad != nil:
		return c.name + ": damaged: " + c.bad.Error()
	}
	return fmt.Sprintf("%s: whole, number %d", c.name, c.m.Seq)
}

func (in *inspection) checkCheckpoint(rep *Report) error {
	if in.man == nil || in.man.Checkpoint == "" {
		return nil
	}
	_, err := in.fsys.Stat(in.fsys.PathJoin(in.dir, in.man.Checkpoint))
	if isNotExist(err) {
		rep.Problems = append(rep.Problems, &CorruptError{File: in.man.Checkpoint, Pos: in.man.Base, SyncedPos: in.man.CheckpointPos, Reason: "the checkpoint that the manifest names is missing"})
		return nil
	}
	if err != nil {
		return &ReadError{File: in.man.Checkpoint, Err: err}
	}
	return nil
}

// report reads s on its own, whatever the segments around it are like.
func (in *inspection) report(s *segScan) (SegmentReport, error) {
	r := SegmentReport{Name: s.name, Seq: s.seq, Size: s.size, Copies: s.copies, State: "whole"}
	switch {
	case !s.ok && s.blank:
		r.State, r.Reason = "spare", "its preparation was not finished"
		return r, nil
	case !s.ok:
		r.State, r.Reason = "corrupt", "both copies of the header are damaged"
		return r, nil
	}
	limit := s.size
	live := slices.Contains(in.live, s)
	if live && s.endsSealed {
		limit = s.seg.endOff
	}
	err := in.readRecords(s, limit, func(rec Record, p, after point) error {
		r.Records++
		if r.Records == 1 {
			r.First = rec.Pos
		}
		r.End, r.EndOffset = after.pos, after.off
		return nil
	}, func(_ point, reason string, torn int64) { r.Reason, r.TornBytes = reason, torn })
	if err != nil {
		return r, err
	}
	switch {
	case !live && r.Records == 0 && r.TornBytes == 0:
		r.State, r.Reason = "spare", ""
	case !live:
		r.State = "left over"
	case r.TornBytes == 0 && (r.EndOffset == limit || !s.endsSealed):
		r.Reason = ""
	default:
		r.State = "torn"
	}
	for _, p := range in.damage {
		if p.File == s.name {
			r.State, r.Reason = "corrupt", p.Reason
		}
	}
	return r, nil
}

// readRecords calls fn for each whole record of s below limit and then, if
// reading did not end exactly there, bad with the reason and the number of bytes
// behind that are not zero.
func (in *inspection) readRecords(s *segScan, limit int64, fn func(rec Record, at, after point) error, bad func(at point, reason string, torn int64)) (err error) {
	r, err := openReader(in.fsys, in.dir, s.name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.f.Close()) }()
	at := point{seq: s.seq, off: segHeaderArea, chain: s.hdr.sum, pos: s.start.pos}
	for at.off < limit {
		h, payload, after, reason, err := r.next(at, s.seg.seed, false)
		if err != nil {
			return err
		}
		if reason != "" {
			last, err := r.zeroFrom(min(at.off, r.size))
			if err != nil {
				return err
			}
			bad(at, reason, last-at.off)
			return nil
		}
		if err := fn(Record{Type: h.typ, Flags: h.flags, Epoch: h.epoch, Pos: h.pos, Payload: payload}, at, after); err != nil {
			return err
		}
		at = after
	}
	return nil
}

func (rep *Report) write(w io.Writer) error {
	p := printer{w: w}
	p.f("verdict: %s\n", rep.Verdict)
	for _, m := range rep.Manifests {
		p.f("%s\n", m)
	}
	rec := &rep.Recovery
	if rec.Generation > 0 {
		p.f("generation %d, base %d, checkpoint %q at %d, history %s %s\n", rec.Generation, rec.Base, rec.Checkpoint, rec.CheckpointPos, rec.HistoryIDs[0], rec.HistoryIDs[1])
		p.f("positions %d to %d, synced up to %d at least, closed in order: %v\n", rec.FirstPos, rec.End, rec.SyncedPos, rec.Clean)
	}
	for i := range rep.Segments {
		s := &rep.Segments[i]
		p.f("%s: %s, %d records, positions %d to %d, ends at offset %d of %d", s.Name, s.State, s.Records, s.First, s.End, s.EndOffset, s.Size)
		if s.Copies == 1 {
			p.f(", one copy of the header is damaged")
		}
		if s.TornBytes > 0 {
			p.f(", %d bytes behind do not count", s.TornBytes)
		}
		if s.Reason != "" {
			p.f(" (%s)", s.Reason)
		}
		p.f("\n")
	}
	for _, e := range rep.Notes {
		p.f("note: %s at offset %d: %s\n", e.File, e.Offset, e.Reason)
	}
	for _, e := range rep.Problems {
		p.f("corrupt: %v\n", e)
	}
	return p.err
}

// printer keeps the first error of a series of writes.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) f(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

// DumpOptions choose what Dump prints.
type DumpOptions struct {
	From, To uint64 // positions; To 0 means no limit
	Payload  int    // bytes of payload to print, quoted; 0 none
}

// Dump prints the records of dir, one per line, decoded as a start would decode
// them, and each place where decoding ends early.
func Dump(fsys vfs.FS, dir string, w io.Writer, opts DumpOptions) error {
	in, err := inspect(fsys, dir, &Mutants{})
	if err != nil {
		return err
	}
	p := &printer{w: w}
	for _, s := range in.segs {
		if !s.ok {
			p.f("%s: no whole header\n", s.name)
			continue
		}
		p.f("%s: salt %016x, created %s\n", s.name, s.hdr.salt, s.hdr.created.UTC().Format("2006-01-02T15:04:05.000Z"))
		limit := s.size
		if s.endsSealed {
			limit = s.seg.endOff
		}
		err := in.readRecords(s, limit, func(rec Record, at, after point) error {
			if rec.End() >= opts.From && (opts.To == 0 || rec.Pos < opts.To) {
				p.record(&rec, at, opts.Payload)
			}
			return p.err
		}, func(at point, reason string, torn int64) {
			p.f("  %10d  end at position %d: %s; %d bytes behind are not zero\n", at.off, at.pos, reason, torn)
		})
		if err != nil {
			return err
		}
	}
	return p.err
}

func (p *printer) record(rec *Record, at point, show int) {
	p.f("  %10d  %-7s pos %d len %d epoch %d flags %d", at.off, rec.Type, rec.Pos, len(rec.Payload), rec.Epoch, rec.Flags)
	switch rec.Type {
	case TypeLink:
		if l, ok := parseLink(rec.Payload); ok {
			p.f(" behind segment %d, which ends at offset %d", l.prevSeq, l.prevEnd)
		}
	case TypeHistory:
		if h, ok := ParseHistory(rec.Payload); ok {
			p.f(" ids %s %s until %d", h.IDs[0], h.IDs[1], h.SecondEnd)
		}
	case TypeStream:
		if show > 0 {
			p.f(" %s", strconv.Quote(string(rec.Payload[:min(show, len(rec.Payload))])))
		}
	}
	p.f("\n")
}
