package raid

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/raid/format"
	"holdfast/internal/vfstest"
)

func (g *rig) content() map[string][]byte {
	g.t.Helper()
	all := map[string][]byte{}
	for _, d := range append(slices.Clone(g.dirs), g.spares...) {
		_, files, err := vfstest.Collect(g.fs, d)
		if err != nil {
			g.t.Fatal(err)
		}
		maps.Copy(all, files)
	}
	return all
}

func (g *rig) put(name, text string) {
	g.t.Helper()
	f, err := g.fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		g.t.Fatal(err)
	}
	if _, err := f.Write([]byte(text)); err != nil {
		g.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		g.t.Fatal(err)
	}
}

// damageOne flips bytes in each kind of file of one member of a closed array, and
// adds files that belong to nothing.
func (g *rig) damageOne(dir string) {
	for _, col := range g.files(dir, ".col") {
		g.flip(col, everySlot(false))
	}
	g.flip(dir+"/superblock.2", func([]byte) []int { return []int{40} })
	for _, name := range g.files(dir, ".ckpt") {
		g.flip(name, func(b []byte) []int { return []int{len(b) / 2} })
	}
	g.put(dir+"/stray", "x")
	g.put(dir+"/data/00000000000000ff.col", "y")
	g.put(dir+"/data/readme", "z")
}

// TestCheckChangesNothing, whatever it finds.
func TestCheckChangesNothing(t *testing.T) {
	for _, s := range allShapes {
		g := newRig(t, s)
		g.fill()
		g.close()
		g.clean()
		g.damageOne("m0")
		before := g.content()
		if rep := g.check(false); rep.Verdict != VerdictDecision || rep.ExitCode() != 2 {
			t.Errorf("%v: %s", s, rep.Verdict)
		}
		if _, err := Inspect(g.options()); err != nil {
			t.Fatal(err)
		}
		if err := Dump(g.options(), &bytes.Buffer{}, DumpOptions{File: "a"}); err != nil {
			t.Fatal(err)
		}
		if after := g.content(); !maps.EqualFunc(before, after, bytes.Equal) {
			t.Errorf("%v: files changed", s)
		}
	}
}

// TestCheckRepairs: the plan is told first, everything is put right from the other
// members, orphans are moved and keep their content, and the next check is clean.
func TestCheckRepairs(t *testing.T) {
	for _, s := range allShapes {
		if s.parity() == 0 {
			continue
		}
		g := newRig(t, s)
		g.fill()
		g.close()
		g.damageOne("m1")
		var plan strings.Builder
		rep, err := Check(g.options(), CheckOptions{Repair: true, Out: &plan})
		if err != nil {
			t.Fatal(err)
		}
		if rep.Verdict != VerdictRepaired || rep.ExitCode() != 1 || len(rep.Repaired) == 0 || len(rep.Moved) != 3 {
			t.Fatalf("%v: %s, %d repaired, moved %v, left %v", s, rep.Verdict, len(rep.Repaired), rep.Moved, rep.Findings)
		}
		for _, says := range []string{"plan:", "reconstruct", "m1/superblock.2", "m1/stray to lost+found"} {
			if !strings.Contains(plan.String(), says) {
				t.Errorf("%v: the plan does not say %q:\n%s", s, says, plan.String())
			}
		}
		files := g.content()
		for name, text := range map[string]string{"stray": "x", "00000000000000ff.col": "y", "readme": "z"} {
			if got := string(files["m1/lost+found/"+name]); got != text {
				t.Errorf("%v: lost+found/%s holds %q", s, name, got)
			}
		}
		g.clean()
		g.open()
		if res := g.scrub(); res.Found() != 0 {
			t.Errorf("%v: a scrub after the repair found %+v", s, res)
		}
		g.verify()
		g.close()
	}
}

// TestCheckTakesNobodyOut: with a member missing, a repair does nothing, because
// opening the array would take it out.
func TestCheckTakesNobodyOut(t *testing.T) {
	g := newRig(t, shape{5, 4})
	g.fill()
	g.close()
	g.damageOne("m1")
	before := g.content()
	all := g.dirs
	g.dirs = all[:3]
	if rep := g.check(true); rep.Verdict != VerdictDecision || len(rep.Plan) != 1 || !strings.Contains(rep.Plan[0], "m3") {
		t.Errorf("%s, plan %q", rep.Verdict, rep.Plan)
	}
	g.dirs = all
	if after := g.content(); !maps.EqualFunc(before, after, bytes.Equal) {
		t.Error("files changed")
	}
	if rep := g.check(true); rep.Verdict != VerdictRepaired {
		t.Errorf("%s: %v", rep.Verdict, rep.Findings)
	}
}

// TestCheckPlanIsToldBeforeAnythingChanges: if it cannot be told, nothing is done.
func TestCheckPlanIsToldBeforeAnythingChanges(t *testing.T) {
	g := newRig(t, shape{5, 3})
	g.fill()
	g.close()
	g.damageOne("m1")
	before := g.content()
	if _, err := Check(g.options(), CheckOptions{Repair: true, Out: brokenPipe{}}); !errors.Is(err, errBrokenPipe) {
		t.Errorf("%v", err)
	}
	if after := g.content(); !maps.EqualFunc(before, after, bytes.Equal) {
		t.Error("files changed")
	}
}

var errBrokenPipe = errors.New("broken pipe")

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errBrokenPipe }

// TestCheckOfParityThatIsWrong though its checksum is right, as a bug of the writer
// would leave it: only comparing parity with data finds it, and the scrub mends it.
func TestCheckOfParityThatIsWrong(t *testing.T) {
	g := newRig(t, shape{5, 4})
	g.close()
	o := g.options()
	o.Faults.ParityOfWrongStripe = true
	a, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	g.a = a
	g.write("a", 6*g.stripe(), false)
	g.close()
	rep := g.check(false)
	found := 0
	for _, f := range rep.Findings {
		if f.What == "parity" {
			found++
		}
	}
	if found == 0 || rep.Verdict != VerdictDecision {
		t.Fatalf("%s, %v", rep.Verdict, rep.Findings)
	}
	g.open()
	if res := g.scrub(); res.Parity == 0 || res.Lost != 0 {
		t.Fatalf("%+v", res)
	}
	g.close()
	g.clean()
	g.loseOthers(-1)
}

// TestCheckAfterACrash is clean: what a crash leaves is no damage, and the next start
// tidies it.
func TestCheckAfterACrash(t *testing.T) {
	for _, s := range allShapes {
		g := newRig(t, s)
		g.fill()
		g.write("open", 3*g.stripe()+50, true)
		g.a = nil // the process ends here
		if rep := g.check(false); rep.Verdict != VerdictClean {
			t.Errorf("%v: %s %v", s, rep.Verdict, rep.Findings)
		}
		g.open()
		g.verify()
		g.close()
		g.clean()
	}
}

// TestInspectSaysWhoIsMissing, also when the array cannot be assembled.
func TestInspectSaysWhoIsMissing(t *testing.T) {
	g := newRig(t, shape{5, 4})
	g.fill()
	g.close()
	all := g.dirs
	for _, c := range []struct {
		dirs        []string
		state, gone string
	}{
		{all, "healthy", ""},
		{all[1:], "degraded", "missing"},
		{all[2:], "failed", "missing"},
		{append([]string{g.blank("elsewhere")}, all[1:]...), "degraded", "missing"},
	} {
		g.dirs = c.dirs
		st, err := Inspect(g.options())
		if err != nil {
			t.Fatal(err)
		}
		if st.State != c.state || c.gone != "" && (st.Members[0].State != c.gone || st.Reason == "") {
			t.Errorf("%v: %s (%s), member 0 %s", c.dirs, st.State, st.Reason, st.Members[0].State)
		}
		if c.state == "healthy" && (st.Files == 0 || st.Stripes == 0 || st.Bytes == 0 || st.AtRisk != 0) {
			t.Errorf("%+v", st)
		}
	}
	rep, err := Check(g.options(), CheckOptions{})
	if err != nil || rep.ExitCode() != 2 {
		t.Errorf("a missing member: %s, %v", rep.Verdict, err)
	}
	g.dirs = []string{"elsewhere"}
	if st, err := Inspect(g.options()); err == nil || st.State != "failed" {
		t.Errorf("no member at all: %+v, %v", st, err)
	}
	if rep, err := Check(g.options(), CheckOptions{}); err != nil || rep.ExitCode() != 4 {
		t.Errorf("no member at all: %s, %v", rep.Verdict, err)
	}
}

// TestDump prints every structure, and damage where it is.
func TestDump(t *testing.T) {
	g := newRig(t, shape{6, 5})
	g.fill()
	f := g.write("open", 100, true)
	if err := g.a.Link("a", "a2"); err != nil {
		t.Fatal(err)
	}
	g.a = nil
	_ = f
	var b strings.Builder
	if err := Dump(g.options(), &b, DumpOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, says := range []string{"member m0", "superblock.0", "level 6, 5 members, chunk 512", "checkpoint, generation", "INCARNATION", "SEAL file", "TAIL segment", "LINK \"a\" as \"a2\"", "record 1, file"} {
		if !strings.Contains(b.String(), says) {
			t.Errorf("it does not say %q", says)
		}
	}
	b.Reset()
	if err := Dump(g.options(), &b, DumpOptions{File: "a"}); err != nil {
		t.Fatal(err)
	}
	for _, says := range []string{"file \"a\": id", "stripe 0 at byte 0", "data 0 on member 1", "P 3 on member 4", "Q 4 on member 0", "as sealed"} {
		if !strings.Contains(b.String(), says) {
			t.Errorf("it does not say %q:\n%s", says, b.String())
		}
	}
	for _, col := range g.files("m1", ".col") {
		g.flip(col, everySlot(false))
	}
	g.flip("m0/superblock.1", func([]byte) []int { return []int{9} })
	b.Reset()
	if err := Dump(g.options(), &b, DumpOptions{Superblocks: true, File: "a"}); err != nil {
		t.Fatal(err)
	}
	for _, says := range []string{"is damaged", "checksum does not match"} {
		if !strings.Contains(b.String(), says) {
			t.Errorf("it does not say %q", says)
		}
	}
	if err := Dump(g.options(), &b, DumpOptions{File: "nowhere"}); err == nil {
		t.Error("a file that is not there is no error")
	}
}

// TestRecordText has a line for every kind of record.
func TestRecordText(t *testing.T) {
	for _, r := range []format.Record{
		format.Create{}, format.Mkdir{}, format.Rename{}, format.Remove{}, format.RemoveAll{}, format.Link{}, format.Seal{}, format.Repair{},
		format.Lost{}, format.Tail{}, format.Incarnation{}, format.Reset{}, format.Scrub{}, format.Counters{}, format.Rebuild{}, format.Next{}, format.Closed{},
	} {
		if text := recordText(r); text == fmt.Sprintf("%T", r) {
			t.Errorf("%T has none", r)
		}
	}
}

// TestTailThatASegmentBeganWith is durable before the segment is named: damage to it
// in all copies is corruption, not a torn end that is cut.
func TestTailThatASegmentBeganWith(t *testing.T) {
	g := newRig(t, shape{5, 3})
	g.write("open", 100, true)
	if _, err := g.a.scrubTail(func(string, ...any) {}); err != nil {
		t.Fatal(err)
	}
	g.a.mu.Lock()
	g.a.tail.mustRoll = true
	err := g.a.settleLocked()
	if err == nil {
		err = g.a.syncMetaLocked(g.a.meta.seq)
	}
	g.a.unlock()
	if err != nil {
		t.Fatal(err)
	}
	g.a = nil
	for _, d := range g.dirs {
		for _, name := range g.files(d, "tail-") {
			g.flip(name, func([]byte) []int { return []int{format.TailSegmentHeader + format.TailRecordHeader + 3} })
		}
	}
	var corrupt *CorruptError
	if _, err := Open(g.options()); !errors.As(err, &corrupt) {
		t.Errorf("%v", err)
	}
	if rep := g.check(false); rep.Verdict != VerdictDecision {
		t.Errorf("%s %v", rep.Verdict, rep.Findings)
	}
}
