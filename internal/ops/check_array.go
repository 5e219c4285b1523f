package ops

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/raid"
)

// checkArray checks a disk array, and then, read through it, the journal and its
// checkpoint: what is whole on the disks may still be damaged by who wrote it.
func (o CheckFilesOptions) checkArray() (*CheckReport, error) {
	opts, err := arrayAt(o.Paths)
	if err != nil {
		return nil, err
	}
	r := &CheckReport{Dir: o.Paths[0], Verdict: "empty"}
	rep, err := raid.Check(opts, raid.CheckOptions{Repair: o.Repair, Out: o.Out, Context: o.Context,
		Progress: func(p raid.Progress) { o.Progress.At(p.Stage, p.Done, p.Total) }})
	o.Progress.End()
	if err != nil {
		return nil, err
	}
	r.Array = rep
	if err := writeArrayCheck(o.Out, rep); err != nil {
		return nil, err
	}
	if !o.ArrayOnly && rep.Verdict != raid.VerdictUnreadable && rep.Status.State != "failed" {
		if err := o.readThrough(r, opts); err != nil {
			return nil, err
		}
	} else if rep.Verdict == raid.VerdictClean {
		r.Verdict = "clean"
	}
	r.decideArray()
	return r, o.finish(r, nil)
}

// readThrough checks the journal on the array, and dump.rdb in the data directory
// if that was named.
func (o CheckFilesOptions) readThrough(r *CheckReport, opts raid.Options) (err error) {
	opts.ReadOnly = true
	a, err := raid.Open(opts)
	if errors.Is(err, raid.ErrLocked) {
		r.Decide = append(r.Decide, "a running server has the array open: what its files hold was not read; stop it first")
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	if _, err := a.Stat(arrayJournal); err == nil {
		if err := r.readJournal(a, arrayJournal, o.Out); err != nil {
			return err
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if len(o.Paths) == 1 {
		if path := vfs.Default.PathJoin(o.Paths[0], "dump.rdb"); isFile(vfs.Default, path) {
			r.snapshot(vfs.Default, path, o.Out)
		}
	}
	r.decide()
	return nil
}

// arrayJournal is the journal's directory on an array.
const arrayJournal = "journal"

// decideArray combines what the array is like with what its files hold.
func (r *CheckReport) decideArray() {
	rep := r.Array
	r.Exit = rep.ExitCode()
	switch {
	case r.Verdict == "corrupt":
	case rep.Verdict == raid.VerdictUnreadable:
		r.Verdict = "unreadable"
	case rep.Verdict == raid.VerdictDecision:
		r.Verdict = "needs a decision"
	case rep.Verdict == raid.VerdictRepaired:
		r.Verdict = "repaired"
	case r.Verdict == "empty":
		r.Verdict = "clean" // an array with nothing on it yet
	}
	mendable := 0
	for _, f := range rep.Findings {
		switch f.Severity {
		case raid.SeverityRepair:
			mendable++
		case raid.SeverityChoice, raid.SeverityLost:
			r.Decide = append(r.Decide, f.Text)
		}
	}
	if mendable > 0 {
		r.Decide = append(r.Decide, fmt.Sprintf("%d findings can be repaired from the other members: run it again with --repair", mendable))
	}
}

// writeArrayCheck prints what a check of the array found.
func writeArrayCheck(w io.Writer, rep *raid.CheckReport) error {
	if w == io.Discard {
		return nil
	}
	for _, f := range rep.Repaired {
		fmt.Fprintf(w, "repaired: %s\n", f)
	}
	for _, path := range rep.Moved {
		fmt.Fprintf(w, "moved: %s\n", path)
	}
	for _, f := range rep.Findings {
		fmt.Fprintln(w, f)
	}
	if rep.Omitted > 0 {
		fmt.Fprintf(w, "and %d findings more\n", rep.Omitted)
	}
	st := &rep.Status
	_, err := fmt.Fprintf(w, "array: %s, RAID-%d over %d members, %d stripes, %s verified\n", rep.Verdict, st.Level, st.Width, rep.Stripes, sizeText(rep.Bytes))
	return err
}
