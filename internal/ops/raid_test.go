package ops

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"holdfast/internal/journal"
	"holdfast/internal/raid"
)

func members(states ...string) (list []raid.MemberStatus) {
	for i, s := range states {
		list = append(list, raid.MemberStatus{Slot: i, Path: "/d" + string(rune('0'+i)), State: s})
	}
	return list
}

// Exit codes: 0 healthy, 1 degraded, 2 needs a decision.
func TestRaidVerdicts(t *testing.T) {
	for _, tc := range []struct {
		st   raid.Status
		exit int
		text string
	}{
		{raid.Status{Level: 5, Width: 4, State: "healthy", Members: members("live", "live", "live", "live")}, 0, "any 1 member may be lost"},
		{raid.Status{Level: 6, Width: 4, State: "healthy", Members: members("live", "live", "live", "live")}, 0, "any 2 members may be lost"},
		{raid.Status{Level: 1, Width: 3, State: "degraded", Members: members("live", "failed", "live")}, 1, "member 1 (/d1) is failed; any 1 member may be lost"},
		{raid.Status{Level: 5, Width: 3, State: "rebuilding", AtRisk: 7, Stripes: 9, Members: members("live", "rebuilding", "live")}, 1, "7 of 9 stripes are at risk; no member may be lost"},
		{raid.Status{Level: 5, Width: 3, State: "healthy", AtRisk: 1, Stripes: 9, Members: members("live", "live", "live")}, 1, "1 of 9 stripes"},
		{raid.Status{Level: 0, Width: 2, State: "failed", Members: members("live", "missing")}, 2, "member 1 (/d1) is missing"},
	} {
		r := NewRaidReport(tc.st)
		if r.Exit != tc.exit || !strings.Contains(r.Text, tc.text) {
			t.Errorf("level %d %s: exit code %d, %q; want %d and %q", tc.st.Level, tc.st.State, r.Exit, r.Text, tc.exit, tc.text)
		}
		var b bytes.Buffer
		r.WriteTable(&b)
		if got, want := strings.Count(b.String(), "\n"), len(tc.st.Members)+2; got != want {
			t.Errorf("%d lines, want %d:\n%s", got, want, b.String())
		}
	}
}

// What a scrub could not mend needs a decision, whatever the members are like.
func TestRaidReportOfAScrub(t *testing.T) {
	healthy := raid.Status{Level: 5, Width: 3, State: "healthy", Members: members("live", "live", "live")}
	r := NewRaidReport(healthy)
	r.AddScrub(&raid.ScrubResult{Chunks: 9, Stripes: 3, Repaired: 2})
	if r.Exit != RaidOK || !strings.Contains(r.Text, "2 chunks repaired") {
		t.Errorf("%d, %q", r.Exit, r.Text)
	}
	r = NewRaidReport(healthy)
	r.AddScrub(&raid.ScrubResult{Chunks: 9, Stripes: 3, Lost: 1})
	if r.Exit != RaidDecision || !strings.Contains(r.Text, "1 chunks lost") {
		t.Errorf("%d, %q", r.Exit, r.Text)
	}
}

func TestLeftoversAreKnownByName(t *testing.T) {
	for name, left := range map[string]bool{
		"dump.rdb": false, "temp-999999999.rdb": true, "temp-1700000000.999999999.rdb": true, "temp-1.rdb": false, "temp-x.rdb": false,
		"temp-sync-abc.rdb": true, "temp-5.txt": false, "temperature-1.rdb": false, "temp--5.rdb": false,
	} {
		if got := leftInData(name) != ""; got != left {
			t.Errorf("%s: left over %v", name, got)
		}
	}
	r := &CheckReport{Journal: &journal.Report{Segments: []journal.SegmentReport{
		{Name: "journal-0000000002-0000000001.seg", State: "whole"}, {Name: "journal-0000000002-0000000009.seg", State: "left over"}}}}
	r.Journal.Recovery.Generation, r.Journal.Recovery.Checkpoint = 2, "checkpoint-2.rdb"
	for name, left := range map[string]bool{
		"journal-0000000002-0000000001.seg": false, "journal-0000000002-0000000009.seg": true, "journal-0000000001-0000000001.seg": true,
		"checkpoint-1.rdb": true, "checkpoint-2.rdb": false, "temp-checkpoint-3.rdb": true, "journal.manifest-a": false,
		"journal.manifest-a.tmp": true, "journal.lock": false, "notes.txt": false,
	} {
		if got := r.leftInJournal(name) != ""; got != left {
			t.Errorf("%s: left over %v", name, got)
		}
	}
	// Without a manifest nobody knows what belongs to what.
	r.Journal.Recovery.Generation = 0
	if why := r.leftInJournal("journal-0000000001-0000000001.seg"); why != "" {
		t.Error(why)
	}
}

func TestProgressLine(t *testing.T) {
	p := NewProgress(nil, "scrub")
	now := time.Unix(1000, 0)
	p.began, p.done = now.Add(-10*time.Second), 10<<20
	if got, want := p.line(now, 110<<20, 210<<20), "scrub: 110.0 MiB of 210.0 MiB, 10.0 MiB/s, 10s left"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	p.stage = "stripes"
	if got, want := p.line(now, 10<<20, 210<<20), "scrub: stripes: 10.0 MiB of 210.0 MiB"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	p.At("x", 1, 2) // shows nothing, and does not mind
	p.End()
	(*Progress)(nil).At("x", 1, 2)
	(*Progress)(nil).End()
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 3 << 30: "3.0 GiB", 1 << 60: "1024.0 PiB"} {
		if got := sizeText(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}
