package ops

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"holdfast/internal/raid"
)

// RaidReport is what `raid status` prints, and every other `raid` command at its
// end.
type RaidReport struct {
	Verdict string              `json:"verdict"` // healthy, degraded, failed
	Text    string              `json:"text"`    // the verdict in a sentence
	Exit    int                 `json:"exit_code"`
	Status  raid.Status         `json:"status"`
	Scrub   *raid.ScrubResult   `json:"scrub,omitempty"`
	Rebuild *raid.RebuildResult `json:"rebuild,omitempty"`
}

// NewRaidReport judges a status.
func NewRaidReport(st raid.Status) *RaidReport {
	r := &RaidReport{Status: st}
	switch st.State {
	case "healthy":
		r.Verdict, r.Exit = "healthy", RaidOK
	case "degraded", "rebuilding":
		r.Verdict, r.Exit = "degraded", RaidDegraded
	default:
		r.Verdict, r.Exit = "failed", RaidDecision
	}
	if r.Exit == RaidOK && st.AtRisk > 0 {
		r.Verdict, r.Exit = "degraded", RaidDegraded
	}
	r.Text = raidSentence(&st)
	return r
}

// survives is how many further members may be lost.
func survives(st *raid.Status) int {
	parity := 0
	switch st.Level {
	case 1:
		parity = st.Width - 1
	case 4, 5:
		parity = 1
	case 6:
		parity = 2
	}
	for i := range st.Members {
		if st.Members[i].State != "live" {
			parity--
		}
	}
	return max(parity, 0)
}

func raidSentence(st *raid.Status) string {
	var bad []string
	for i := range st.Members {
		m := &st.Members[i]
		if m.State == "live" {
			continue
		}
		s := fmt.Sprintf("member %d (%s) is %s", m.Slot, m.Path, m.State)
		if m.Reason != "" {
			s += ": " + m.Reason
		}
		bad = append(bad, s)
	}
	if len(bad) == 0 && st.Reason != "" {
		bad = append(bad, st.Reason)
	}
	parts := []string{fmt.Sprintf("RAID-%d over %d members, %s in %d files", st.Level, st.Width, sizeText(st.Bytes), st.Files)}
	parts = append(parts, bad...)
	if st.AtRisk > 0 {
		parts = append(parts, fmt.Sprintf("%d of %d stripes are at risk", st.AtRisk, st.Stripes))
	}
	if st.State != "failed" {
		switch n := survives(st); n {
		case 0:
			parts = append(parts, "no member may be lost")
		case 1:
			parts = append(parts, "any 1 member may be lost")
		default:
			parts = append(parts, fmt.Sprintf("any %d members may be lost", n))
		}
	}
	return strings.Join(parts, "; ")
}

// WriteTable prints a row per member, then the verdict.
func (r *RaidReport) WriteTable(w io.Writer) {
	st := &r.Status
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "MEMBER\tDIRECTORY\tSTATE\tREAD ERRORS\tWRITE ERRORS\tCHECKSUM ERRORS\tHEALED\tAT RISK\tLAST FULL SCRUB")
	row := func(name string, m *raid.MemberStatus) {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%s\n", name, m.Path, m.State,
			m.ReadErrors, m.WriteErrors, m.ChecksumErrors, m.Healed, m.AtRisk, sinceText(m.LastScrub))
	}
	for i := range st.Members {
		row(fmt.Sprint(st.Members[i].Slot), &st.Members[i])
	}
	for i := range st.Spares {
		row("spare", &st.Spares[i])
	}
	_ = tw.Flush() // an error of the terminal has nobody to be told
	for _, p := range []struct {
		name string
		p    *raid.Progress
	}{{"scrub", st.Scrub}, {"rebuild", st.Rebuild}} {
		if p.p != nil && p.p.Total > 0 {
			fmt.Fprintf(w, "%s running: %s of %s (%d%%)\n", p.name, sizeText(p.p.Done), sizeText(p.p.Total), p.p.Done*100/p.p.Total)
		}
	}
	fmt.Fprintf(w, "%s: %s\n", strings.ToUpper(r.Verdict), r.Text)
}

// WriteJSON prints the same for scripts.
func (r *RaidReport) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}
