package ops

import (
	"fmt"
	"strings"

	"holdfast/internal/raid"
)

// RaidEventLine is an event as a line for people.
func RaidEventLine(e raid.Event) string {
	s := e.Kind
	if e.Member >= 0 {
		s += fmt.Sprintf(" member %d", e.Member)
	}
	if e.Path != "" {
		s += " " + e.Path
	}
	if e.File != "" {
		s += " file " + e.File
	}
	if e.Text != "" {
		s += ": " + strings.ReplaceAll(e.Text, "\n", " ")
	}
	return s
}

// AddScrub puts the result of a scrub into the report: what could not be
// repaired needs a decision.
func (r *RaidReport) AddScrub(s *raid.ScrubResult) {
	r.Scrub = s
	r.Text = scrubWords(s) + "; " + r.Text
	if unrepaired(s) > 0 {
		r.Verdict, r.Exit = "failed", RaidDecision
	}
}

// unrepaired is how many chunks a scrub found bad and could not mend.
func unrepaired(s *raid.ScrubResult) int64 {
	if s == nil {
		return 0
	}
	return s.Lost
}

func scrubWords(s *raid.ScrubResult) string {
	words := fmt.Sprintf("%d chunks of %d stripes verified", s.Chunks, s.Stripes)
	if s.Found() == 0 {
		return words + ", nothing found"
	}
	for _, p := range []struct {
		n    int64
		what string
	}{
		{s.Repaired, "chunks repaired"}, {s.Metadata, "copies of metadata repaired"}, {s.Tails, "copies of the tail log repaired"},
		{s.Superblocks, "superblocks repaired"}, {s.Lost, "chunks lost"},
	} {
		if p.n > 0 {
			words += fmt.Sprintf(", %d %s", p.n, p.what)
		}
	}
	return words
}
