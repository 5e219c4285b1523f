package slotmove

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"holdfast/internal/redis/cluster/slot"
)

func ranges(t testing.TB, text string) *slot.Set {
	t.Helper()
	set, err := slot.ParseSet(text)
	if err != nil {
		t.Fatal(err)
	}
	return &set
}

var (
	jobA, jobB = strings.Repeat("a", 40), strings.Repeat("b", 40)
	peer       = strings.Repeat("0123456789", 4)
)

func TestMarksAreReadAsTheyWereWritten(t *testing.T) {
	for kind := MarkImport; kind <= MarkDone; kind++ {
		m := Mark{Kind: kind, Job: jobA}
		if kind.begins() {
			m.Peer, m.Slots = peer, ranges(t, "0-99,105,16383")
		}
		got, err := ParseMark(m.Args())
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%v: got %+v, %v", m.Args(), got, err)
		}
	}
}

func TestWhatIsNoMarkIsRefused(t *testing.T) {
	for _, args := range [][]string{
		{}, {"READY"}, {"READY", jobA, "x"}, {"READY", jobA[1:]}, {"READY", strings.ToUpper(jobA)}, {"", jobA}, {"NONE", jobA},
		{"IMPORT", jobA}, {"IMPORT", jobA, peer}, {"IMPORT", jobA, peer, ""}, {"IMPORT", jobA, peer, "16384"}, {"IMPORT", jobA, "x", "1"},
		{"GIVEN", jobA, peer, "1", "2"},
	} {
		if m, err := ParseMark(args); err == nil {
			t.Errorf("%q: got %+v", args, m)
		}
	}
}

func TestTableHoldsTheNewestMarkOfEachJob(t *testing.T) {
	var table Table
	apply := func(m Mark) { table.Apply(m) }
	apply(Mark{Kind: MarkReady, Job: jobA}) // of nobody
	if table.Len() != 0 {
		t.Fatalf("a mark about an unknown job is kept: %s", &table)
	}
	apply(Mark{Kind: MarkImport, Job: jobB, Peer: peer, Slots: ranges(t, "1-3")})
	apply(Mark{Kind: MarkGiven, Job: jobA, Peer: peer, Slots: ranges(t, "7")})
	apply(Mark{Kind: MarkReady, Job: jobB})
	want := fmt.Sprintf("GIVEN %s %s 7\nREADY %s %s 1-3\n", jobA, peer, jobB, peer)
	if got := table.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	// The peer of a job never changes, its slots only become fewer.
	apply(Mark{Kind: MarkDrop, Job: jobB, Peer: jobA, Slots: ranges(t, "100")})
	if r := table.Get(jobB); r.Kind != MarkDrop || r.Peer != peer || r.Slots.String() != "1-3" {
		t.Errorf("got %+v", r)
	}
	apply(Mark{Kind: MarkDrop, Job: jobB, Peer: peer, Slots: ranges(t, "2-3")})
	if r := table.Get(jobB); r.Slots.String() != "2-3" {
		t.Errorf("got %+v", r)
	}
	apply(Mark{Kind: MarkDone, Job: jobA})
	apply(Mark{Kind: MarkDone, Job: jobA})
	if table.Get(jobA) != nil || table.Len() != 1 {
		t.Errorf("DONE leaves %s", &table)
	}
}

func TestTableIsReadAsItWasWritten(t *testing.T) {
	var table Table
	for i, kind := range []MarkKind{MarkImport, MarkGiven, MarkDrop} {
		job := fmt.Sprintf("%040x", i+1)
		table.Apply(Mark{Kind: kind, Job: job, Peer: peer, Slots: ranges(t, "0-16383")})
	}
	table.Apply(Mark{Kind: MarkReady, Job: fmt.Sprintf("%040x", 1)})
	got, err := ParseTable(table.String())
	if err != nil || got.String() != table.String() || got.Len() != 3 {
		t.Errorf("got %s, %v", got, err)
	}
	for _, text := range []string{"x", "READY\n", "DONE " + jobA + " " + peer + " 1\n", "READY " + jobA + " " + peer + " \n", "READY " + jobA + " " + peer + " 9-1\n"} {
		if got, err := ParseTable(text); err == nil {
			t.Errorf("%q: got %s", text, got)
		}
	}
}

func TestTableIsBounded(t *testing.T) {
	var table Table
	for i := range 2 * maxRecords {
		table.Apply(Mark{Kind: MarkDrop, Job: fmt.Sprintf("%040x", i), Peer: peer, Slots: ranges(t, "1")})
	}
	if table.Len() != maxRecords {
		t.Errorf("%d records", table.Len())
	}
	if _, err := ParseTable(table.String()); err != nil {
		t.Error(err)
	}
	if _, err := ParseTable(table.String() + "READY " + strings.Repeat("f", 40) + " " + peer + " 1\n"); err == nil {
		t.Error("one too many is read")
	}
}

func FuzzParseMark(f *testing.F) {
	f.Add("READY " + jobA)
	f.Add("GIVEN " + jobA + " " + peer + " 0-5,7")
	f.Add("import " + jobA + " " + peer + " 7,0-5")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := ParseMark(strings.Split(text, " "))
		if err != nil {
			return
		}
		again, err := ParseMark(m.Args())
		if err != nil || !reflect.DeepEqual(m, again) {
			t.Fatalf("%q: %+v, then %+v, %v", text, m, again, err)
		}
		var table Table
		table.Apply(m)
		if _, err := ParseTable(table.String()); err != nil {
			t.Fatalf("%q makes a table that cannot be read: %v", text, err)
		}
	})
}

func FuzzParseTable(f *testing.F) {
	f.Add("READY " + jobA + " " + peer + " 1\n")
	f.Add("GIVEN " + jobB + " " + peer + " 0-5,7\nDROP " + jobA + " " + peer + " 3\n")
	f.Fuzz(func(t *testing.T, text string) {
		table, err := ParseTable(text)
		if err != nil {
			return
		}
		again, err := ParseTable(table.String())
		if err != nil || again.String() != table.String() {
			t.Fatalf("%q: %q, then %q, %v", text, table, again, err)
		}
	})
}
