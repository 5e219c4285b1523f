package replication

import (
	"strings"
	"testing"
	"time"
)

const (
	idA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	idB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	idC = "cccccccccccccccccccccccccccccccccccccccc"
)

// Redis replication: a replica continues if it names our id, or our second id
// up to where that ends, and wants a byte that is kept.
func TestAnswer(t *testing.T) {
	h := History{ID: idA, ID2: idB, Second: 100}
	cases := []struct {
		id     string
		wanted int64
		want   Verdict
		pos    uint64
	}{
		{idA, 51, Continue, 50},
		{strings.ToUpper(idA), 51, Continue, 50},
		{idA, 201, Continue, 200}, // it has everything
		{idA, 202, Ahead, 0},
		{idA, 50, NoBacklog, 0},
		{idA, 0, NoBacklog, 0},
		{idA, -1, NoBacklog, 0},
		{idB, 101, Continue, 100}, // it has all of the old history
		{idB, 102, BeyondSecond, 0},
		{idB, 60, Continue, 59},
		{idC, 60, OtherHistory, 0},
		{"?", -1, FullRequested, 0},
	}
	for _, tc := range cases {
		v, pos := h.Answer(tc.id, tc.wanted, 50, 200)
		if v != tc.want || pos != tc.pos {
			t.Errorf("PSYNC %.3s %d: %d at %d, want %d at %d", tc.id, tc.wanted, v, pos, tc.want, tc.pos)
		}
	}
	fresh := History{ID: idA}
	if v, _ := fresh.Answer("", 1, 0, 0); v != OtherHistory {
		t.Errorf("an empty id must not match the missing second one: %d", v)
	}
	if v, _ := fresh.Answer(NoID, 1, 0, 0); v != OtherHistory {
		t.Errorf("the id of zeros must not match: %d", v)
	}
}

// A promotion keeps the old id valid up to its last byte, so that whoever
// followed the old master to the end, and nobody beyond, continues.
func TestShift(t *testing.T) {
	h := History{ID: idA}
	if h.SecondOffset() != -1 {
		t.Errorf("second offset %d of a fresh history", h.SecondOffset())
	}
	h.Shift(idB, 70)
	if h.ID != idB || h.ID2 != idA || h.SecondOffset() != 71 {
		t.Errorf("%+v", h)
	}
	for wanted, want := range map[int64]Verdict{71: Continue, 72: BeyondSecond} {
		if v, _ := h.Answer(idA, wanted, 0, 90); v != want {
			t.Errorf("PSYNC old %d: %d, want %d", wanted, v, want)
		}
	}
	h.Replace(idC)
	if h.Knows(idA) || h.Knows(idB) || !h.Knows(idC) || h.Knows("") {
		t.Errorf("after Replace: %+v", h)
	}
}

func TestParseReply(t *testing.T) {
	cases := map[string]Reply{
		"+FULLRESYNC " + idA + " 12": {Kind: ReplyFull, ID: idA, Offset: 12},
		"+FULLRESYNC " + idA:         {Kind: ReplyBroken},
		"+FULLRESYNC x 12":           {Kind: ReplyBroken},
		"+FULLRESYNC " + idA + " -1": {Kind: ReplyBroken},
		"+CONTINUE":                  {Kind: ReplyContinue},
		"+CONTINUE " + idB:           {Kind: ReplyContinue, ID: idB},
		"-NOMASTERLINK x":            {Kind: ReplyLater},
		"-LOADING x":                 {Kind: ReplyLater},
		"-ERR unknown command":       {Kind: ReplyNoPSYNC},
		"":                           {Kind: ReplyNoPSYNC},
	}
	for line, want := range cases {
		if got := ParseReply(line); got != want {
			t.Errorf("%q: %+v, want %+v", line, got, want)
		}
	}
}

func FuzzParseReply(f *testing.F) {
	f.Add("+FULLRESYNC " + idA + " 12")
	f.Add("+CONTINUE " + idB)
	f.Add("$EOF:" + idA)
	f.Add("$100")
	f.Add("master_replid:" + idA + "\r\nmaster_replid2:" + NoID + "\r\nmaster_repl_offset:7\r\nsecond_repl_offset:-1\r\n")
	f.Fuzz(func(t *testing.T, line string) {
		r := ParseReply(line)
		if r.Kind == ReplyFull && !ValidID(r.ID) || r.ID != "" && !ValidID(r.ID) {
			t.Errorf("id %q", r.ID)
		}
		if p, ok := ParsePreamble(line); ok && (p.Size < 0 || p.Mark != "" && len(p.Mark) != IDLen) {
			t.Errorf("preamble %+v", p)
		}
		if m := ParseFacts(line); m.Known && (!ValidID(m.ID) || m.ID2 != "" && !ValidID(m.ID2)) {
			t.Errorf("facts %+v", m)
		}
	})
}

// Redis: a snapshot without a file needs that all who wait understand its end,
// and waits for more of them, but not if enough are there.
func TestNextSnapshot(t *testing.T) {
	now := time.Unix(1000, 0)
	waits := func(ago time.Duration, capa Capa) *Replica {
		return &Replica{State: WaitStart, Capa: capa, Since: now.Add(-ago)}
	}
	online := &Replica{State: Online}
	policy := SnapshotPolicy{Diskless: true, Delay: 5 * time.Second, MaxReplicas: 3}
	cases := []struct {
		name     string
		replicas []*Replica
		policy   SnapshotPolicy
		want     Target
	}{
		{"nobody waits", []*Replica{online}, policy, TargetNone},
		{"too early", []*Replica{waits(time.Second, CapaEOF), online}, policy, TargetNone},
		{"one has waited", []*Replica{waits(time.Second, CapaEOF), waits(5*time.Second, CapaEOF)}, policy, TargetSockets},
		{"enough are there", []*Replica{waits(0, CapaEOF), waits(0, CapaEOF), waits(0, CapaEOF)}, policy, TargetSockets},
		{"one is old", []*Replica{waits(0, CapaEOF), waits(0, 0)}, policy, TargetDisk},
		{"with a file", []*Replica{waits(0, CapaEOF)}, SnapshotPolicy{Delay: time.Hour}, TargetDisk},
		{"no delay", []*Replica{waits(0, CapaEOF)}, SnapshotPolicy{Diskless: true}, TargetSockets},
	}
	for _, tc := range cases {
		if got := NextSnapshot(tc.replicas, now, tc.policy); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
}

func TestReplicaBook(t *testing.T) {
	now := time.Unix(1000, 500)
	r := &Replica{State: Online, AckedTime: now.Add(-10 * time.Second)}
	if !r.Good(now, 10) || r.Good(now, 9) {
		t.Error("min-replicas-max-lag counts whole seconds")
	}
	r.Ack(50, now)
	r.Ack(40, now) // late
	if r.Acked != 50 || !r.HasAcked(50) || r.HasAcked(51) {
		t.Errorf("acked %d", r.Acked)
	}
	if r.TimedOut(now.Add(60*time.Second), 60*time.Second) || !r.TimedOut(now.Add(61*time.Second), 60*time.Second) {
		t.Error("repl-timeout")
	}
	r.PrePSYNC = true
	if r.TimedOut(now.Add(time.Hour), time.Second) {
		t.Error("a replica that cannot acknowledge never times out")
	}
	r.State = SendBulk
	if r.Good(now, 100) || r.HasAcked(0) {
		t.Error("only online replicas count")
	}
	for st, want := range map[State]string{WaitStart: "wait_bgsave", WaitEnd: "wait_bgsave", SendBulk: "send_bulk", Online: "online"} {
		if st.String() != want {
			t.Errorf("state %d is %q", st, st)
		}
	}
}

// The lineage guard refuses what looks like a master that lost its data, and
// nothing else.
func TestLineageGuard(t *testing.T) {
	own := History{ID: idA, ID2: idB, Second: 50}
	base := Offer{Own: own, OwnEnd: 100, HasData: true, ID: idC, Offset: 10}
	if !base.Refused() {
		t.Error("an unknown history behind our own")
	}
	cases := map[string]func(*Offer){
		"it is ahead":               func(o *Offer) { o.Offset = 100 },
		"we hold nothing":           func(o *Offer) { o.HasData = false },
		"somebody said so":          func(o *Offer) { o.Forced = true },
		"it is our own history":     func(o *Offer) { o.ID = idA },
		"it is our older history":   func(o *Offer) { o.ID = idB },
		"it continues our own":      func(o *Offer) { o.Master = Facts{Known: true, ID: idC, ID2: idA, Second: 90} },
		"it continues our master's": func(o *Offer) { o.Master = Facts{Known: true, ID: idC, ID2: idB, Second: 40} },
	}
	for name, change := range cases {
		o := base
		change(&o)
		if o.Refused() {
			t.Errorf("refused although %s", name)
		}
	}
	o := base
	o.Master = Facts{ID2: idA} // not known to be true
	if !o.Refused() {
		t.Error("accepted on facts that the master did not give")
	}
}

// Where two histories part: what lies beyond is saved by who gives its own up.
func TestBranch(t *testing.T) {
	own := History{ID: idA, ID2: idB, Second: 50}
	cases := []struct {
		name   string
		id     string
		offset uint64
		facts  Facts
		shared uint64
		pos    uint64
		known  bool
	}{
		{"promoted from our replica", idC, 95, Facts{Known: true, ID: idC, ID2: idA, Second: 80}, 70, 80, true},
		{"promoted, and it had more than we recovered", idC, 200, Facts{Known: true, ID: idC, ID2: idA, Second: 120}, 0, 100, true},
		{"the same history, shorter", idA, 60, Facts{}, 0, 60, true},
		{"we left it, it went on", idB, 200, Facts{Known: true, ID: idB}, 0, 50, true},
		{"both left it", idC, 200, Facts{Known: true, ID: idC, ID2: idB, Second: 40}, 0, 40, true},
		{"it does not tell, but a replica had so much", idC, 200, Facts{}, 70, 70, true},
		{"nothing in common", idC, 200, Facts{Known: true, ID: idC}, 0, 0, false},
	}
	for _, tc := range cases {
		o := Offer{Own: own, OwnEnd: 100, HasData: true, ID: tc.id, Offset: tc.offset, Master: tc.facts}
		pos, known := o.Branch(tc.shared)
		if pos != tc.pos || known != tc.known {
			t.Errorf("%s: %d %v, want %d %v", tc.name, pos, known, tc.pos, tc.known)
		}
	}
}

func TestFailoverStep(t *testing.T) {
	now := time.Unix(1000, 0)
	f := Failover{Phase: FailoverWaiting}
	if f.Step(now, false) != FailoverKeepWaiting || f.Step(now, true) != FailoverHandOver {
		t.Error("without a deadline")
	}
	f.Deadline = now
	if f.Step(now.Add(-1), false) != FailoverKeepWaiting || f.Step(now, false) != FailoverGiveUp || f.Step(now, true) != FailoverHandOver {
		t.Error("with a deadline")
	}
	f.Force = true
	if f.Step(now, false) != FailoverForce {
		t.Error("with force")
	}
	f.Phase = FailoverInProgress
	if f.Step(now, true) != FailoverKeepWaiting {
		t.Error("it is under way already")
	}
	if NoFailover.String() != "no-failover" || FailoverWaiting.String() != "waiting-for-sync" || FailoverInProgress.String() != "failover-in-progress" {
		t.Error("names")
	}
}
