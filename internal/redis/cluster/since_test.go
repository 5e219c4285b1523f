package cluster

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// successor is A, which took B's place and then gave slots 100-199 away.
func successor(t *testing.T, faults Mutants) *rig {
	r := newRig(t, replicaConf)
	r.c.faults = faults
	r.step(Command{Args: []string{"FAILOVER", "TAKEOVER"}})
	r.step(GivenSlots{Slots: slotsOf(100, 199)})
	if r.c.owner(150) != r.c.myself || r.c.myself.configEpoch != 6 {
		t.Fatalf("slot 150 of %s, epoch %d", r.c.owner(150).id, r.c.myself.configEpoch)
	}
	return r
}

// Who was replaced, and comes back when its successor has given slots away, does
// not get them: not from the successor, which tells it that it had them later.
func TestReplacedMasterGetsNothingThatWasGivenAway(t *testing.T) {
	r := successor(t, Mutants{})
	r.hear(r.claim(idD, 7, slotsOf(10923, 16383)))
	r.step(Command{Args: []string{"BUMPEPOCH"}}) // does not change when it got them
	e := r.hear(r.claim(idB, 2, slotsOf(0, 5460)))
	if r.c.owner(150) != r.c.myself {
		t.Fatalf("slot 150 of %s", r.c.owner(150).id)
	}
	reminded := false
	for _, s := range sends(e, MsgPong) {
		p := packet(s.Data)
		if !bitSet(p.slots(), 150) {
			continue
		}
		if s.Link != r.link[idB] || p.configEpoch() != 6 || !bitSet(p.slots(), 99) || !bitSet(p.slots(), 200) || r.c.myself.configEpoch != 8 {
			t.Fatalf("told on link %d: epoch %d", s.Link, p.configEpoch())
		}
		reminded = true
	}
	if !reminded {
		t.Fatal("B is not told that it was replaced")
	}
	if p := r.c.pingPacket(MsgPing); bitSet(p.slots(), 150) || p.configEpoch() != 8 {
		t.Fatal("others are told so, too")
	}
	// Whom they were given to may have a smaller epoch than ours by now.
	if e := r.hear(r.claim(idC, 6, slotsOf(5461, 10922), slotsOf(100, 199))); r.c.owner(150).id != idC || len(sends(e, MsgUpdate)) != 0 {
		t.Fatalf("slot 150 of %s", r.c.owner(150).id)
	} else if p, ok := e[0].(Persist); !ok || !p.Sync {
		t.Fatal("forgotten in a power cut, this claim would not be believed again")
	}
	checkTables(t, r.c)

	r = successor(t, Mutants{ForgetGiven: true})
	r.hear(r.claim(idD, 7, slotsOf(10923, 16383)))
	r.step(Command{Args: []string{"BUMPEPOCH"}})
	if p, ok := r.hear(r.claim(idC, 6, slotsOf(5461, 10922), slotsOf(100, 199)))[0].(Persist); !ok || p.Sync {
		t.Error("this test does not notice that it is not synced")
	}
	r = successor(t, Mutants{})
	if p, ok := r.hear(r.claim(idC, 7, slotsOf(5461, 10922), slotsOf(100, 199)))[0].(Persist); !ok || p.Sync {
		t.Error("a claim that would be believed again waits for the disk")
	}

	r = successor(t, Mutants{BelieveReplaced: true})
	if r.hear(r.claim(idB, 2, slotsOf(0, 5460))); r.c.owner(150).id != idB {
		t.Error("this test does not notice the mistake")
	}
}

// Nor from third nodes, be it a claim or an election.
func TestReplacedMasterIsNotBelievedByOthers(t *testing.T) {
	for _, believes := range []bool{false, true} {
		r := okRig(t, rulesConf)
		r.c.faults.BelieveReplaced = believes
		r.hear(r.claim(idD, 10, slotsOf(10923, 16383), slotsOf(6000, 6099)))
		r.hear(r.claim(idD, 12, slotsOf(10923, 16383))) // given away
		r.c.byID[idB].flags |= FlagFail
		ask := r.packet(idC, MsgAuthRequest)
		ask[offSlots+6000>>3] |= 1 << (6000 & 7)
		ask.put64(offCurEpoch, 30)
		if e := r.hear(ask); len(sends(e, MsgAuthAck)) == 1 != believes {
			t.Errorf("its replica gets our vote with what it had (%v): %v", believes, e)
		}
		r.hear(r.claim(idB, 9, slotsOf(5461, 10922)))
		if got := r.c.owner(6000).id == idB; got != believes {
			t.Errorf("slot 6000 of %s", r.c.owner(6000).id)
		}
		if r.hear(r.claim(idB, 11, slotsOf(5461, 10922))); r.c.owner(6000).id != idB {
			t.Error("who was given it is not believed")
		}
	}
}

// When slots were got outlives a restart, in a line of nodes.conf that Redis
// skips. Where it is not known, anybody is believed, as ever.
func TestAgeOfSlotsIsKeptInNodesConf(t *testing.T) {
	r := okRig(t, rulesConf)
	if text := r.c.NodesConf(); bytes.Contains(text, []byte("since")) {
		t.Fatalf("nothing is known:\n%s", text)
	}
	r.hear(r.claim(idD, 10, slotsOf(10923, 16383), slotsOf(6000, 6099), slotsOf(6101, 6101)))
	text := r.c.NodesConf()
	if !bytes.Contains(text, []byte("\nvars slots-since 6000-6099:10,6101:10\nvars currentEpoch 10 lastVoteEpoch 4\n")) {
		t.Fatalf("%s", text)
	}
	for _, tc := range []struct {
		text     string
		believes bool
	}{
		{string(text), false},
		{strings.Replace(string(text), "vars slots-since 6000-6099:10,6101:10\n", "", 1), true},
		{strings.Replace(string(text), "6000-6099:10", "6000-6099:x,7-6:3,0-99999:7", 1), true},
	} {
		c := newRig(t, tc.text)
		c.hear(c.claim(idD, 10, slotsOf(10923, 16383)))
		c.hear(c.claim(idB, 9, slotsOf(5461, 10922)))
		if got := c.c.owner(6000).id == idB; got != tc.believes {
			t.Errorf("slot 6000 of %s after a start with\n%s", c.c.owner(6000).id, tc.text)
		}
		checkTables(t, c.c)
	}
	// An epoch that nobody can have reached would be believed by nobody.
	high := strings.Replace(string(text), ":10", ":18446744073709551615", 2)
	if c := newRig(t, high); c.c.since.get(6000) != 10 {
		t.Errorf("since %d", c.c.since.get(6000))
	}
	// A file that lost its last line is torn, with this line or without.
	torn := text[:bytes.Index(text, []byte("vars currentEpoch"))]
	if _, _, from, err := ChooseState(torn, EncodeGeneration(3, text)); from != FromGeneration || err != nil {
		t.Errorf("taken from %v, %v", from, err)
	}
}

// What a third node says of an owner does not tell since when it is one.
func TestWordOfOthersDoesNotDateSlots(t *testing.T) {
	r := okRig(t, rulesConf)
	update := r.packet(idB, MsgUpdate)
	b := update[headerLen:]
	binary.BigEndian.PutUint64(b, 30)
	copy(b[8:], idD)
	slotsOf(10923, 16383).Each(func(s int) { b[8+NameLen+s>>3] |= 1 << (s & 7) })
	b[8+NameLen+6000>>3] |= 1 << (6000 & 7)
	r.hear(update)
	if r.c.owner(6000).id != idD || r.c.since.get(6000) != 0 {
		t.Fatalf("slot 6000 of %s since %d", r.c.owner(6000).id, r.c.since.get(6000))
	}
}

// Slots may be taken from a giver of which we have not heard that it had them:
// it was given them, and gave them on. Their owner in our eyes claims them no more.
func TestTakeSlotsThatWentOnUnseen(t *testing.T) {
	for _, only := range []bool{false, true} {
		r := okRig(t, rulesConf)
		r.c.faults.TakeClaimedOnly = only
		if taken, _ := r.take(slotsOf(6000, 6099), idD, 20); taken.OK {
			t.Fatal("taken from D while B claims them")
		}
		r.hear(r.claim(idB, 2, slotsOf(5461, 5999), slotsOf(6100, 10922)))
		if taken, _ := r.take(slotsOf(6000, 6099), strings.Repeat("e", 40), 20); taken.OK {
			t.Fatal("taken from a stranger")
		}
		taken, _ := r.take(slotsOf(6000, 6099), idD, 20)
		if taken.OK == only {
			t.Fatalf("%+v", taken)
		}
		if taken.OK && (r.c.owner(6000) != r.c.myself || r.c.myself.configEpoch != 21 || r.c.taken[6000].id != idD) {
			t.Fatalf("slot 6000 of %s, epoch %d", r.c.owner(6000).id, r.c.myself.configEpoch)
		}
		checkTables(t, r.c)
	}
}

const splitConf = `aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 127.0.0.1:7000@17000 myself,slave bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb 0 0 0 connected
bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb 127.0.0.1:7001@17001 master - 0 0 2 connected 0-5460
cccccccccccccccccccccccccccccccccccccccc 127.0.0.1:7002@17002 slave bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb 0 0 2 connected
dddddddddddddddddddddddddddddddddddddddd 127.0.0.1:7003@17003 master - 0 0 4 connected 5461-16383
vars currentEpoch 5 lastVoteEpoch 0
`

// When the replicas of a dead master share its slots, each drops what the other
// has got: but only if nothing has come from their master since, and not what
// that one did not own any more.
func TestHeirsOfOneMasterDoNotKeepTheSameKeys(t *testing.T) {
	down := func(at time.Duration) func(*Data) {
		return func(d *Data) { d.MasterLinkUp, d.MasterSeen = false, testStart.Add(at) }
	}
	for _, tc := range []struct {
		name    string
		mutant  bool
		before  func(*rig)
		between func(*rig)
		drops   bool
	}{
		{"the master is gone", false, nil, nil, true},
		{"with the mistake", true, nil, nil, false},
		{"the master is there", false, func(r *rig) { r.host.set(func(d *Data) { d.MasterLinkUp = true }) }, func(r *rig) { r.host.set(down(0)) }, false},
		{"the master came back for a moment", false, nil, func(r *rig) { r.host.set(down(5 * time.Second)) }, false},
		{"the master did not claim them any more", false, func(r *rig) { r.hear(r.claim(idB, 2, slotsOf(100, 5460))) }, nil, false},
		{"a stranger took them", false, func(r *rig) { r.hear(r.claim(idD, 6, slotsOf(0, 99), slotsOf(5461, 16383))) }, nil, false},
	} {
		r := newRig(t, splitConf)
		r.c.faults.KeepCopies = tc.mutant
		r.host.set(down(0))
		if tc.before != nil {
			tc.before(r)
		}
		e := r.hear(r.promoted(idC, 7, slotsOf(0, 99)))
		if r.c.owner(50).id != idC || r.c.owner(100).id != idB || len(find[DropSlotKeys](e)) > 0 {
			t.Fatalf("%s: slot 50 of %s, 100 of %s", tc.name, r.c.owner(50).id, r.c.owner(100).id)
		}
		if tc.between != nil {
			tc.between(r)
		}
		e = r.step(Command{Args: []string{"FAILOVER", "TAKEOVER"}})
		if r.c.owner(100) != r.c.myself {
			t.Fatalf("%s: not promoted", tc.name)
		}
		d := find[DropSlotKeys](e)
		if len(d) > 0 != tc.drops || tc.drops && (len(d[0].Slots) != 100 || d[0].Slots[99] != 99) {
			t.Errorf("%s: drops %v", tc.name, d)
		}
		if promoted := find[Promote](e); len(promoted) != 1 {
			t.Errorf("%s: %v", tc.name, e)
		}
	}
}

// The table says what a plain array would.
func TestSinceTableIsAnArray(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var table sinceTable
	var plain [Slots]uint64
	for range 20000 {
		s, epoch := rng.IntN(Slots/4)*4, uint64(rng.IntN(4))
		table.set(s, epoch)
		plain[s] = epoch
	}
	for s, want := range plain {
		if got := table.get(s); got != want {
			t.Fatalf("slot %d: %d, want %d", s, got, want)
		}
	}
}

// An heir takes what its master claimed when it was heard last. What that one had
// let go is somebody's of whom the heir has not heard, with the keys; its own
// copies of them go when that one is heard, unless the slot was opened meanwhile.
func TestHeirTakesOnlyWhatItsMasterClaimed(t *testing.T) {
	start := func(faults Mutants) *rig {
		r := newRig(t, replicaConf)
		r.c.faults = faults
		r.hear(r.claim(idB, 2, slotsOf(100, 5460)))
		return r
	}
	takeover := Command{Args: []string{"FAILOVER", "TAKEOVER"}}
	claim := func(r *rig) []Effect { return r.hear(r.claim(idD, 4, slotsOf(10923, 16383), slotsOf(0, 99))) }

	r := start(Mutants{})
	e := r.step(takeover)
	if r.c.owner(50).id != idB || r.c.owner(100) != r.c.myself || len(find[DropSlotKeys](e)) > 0 {
		t.Fatalf("slot 50 of %s, 100 of %s", r.c.owner(50).id, r.c.owner(100).id)
	}
	for _, s := range sends(e, MsgPong) {
		if bitSet(packet(s.Data).slots(), 50) {
			t.Fatal("it claims what its master had let go")
		}
	}
	e = claim(r)
	if d := find[DropSlotKeys](e); r.c.owner(50).id != idD || len(d) != 1 || len(d[0].Slots) != 100 {
		t.Fatalf("slot 50 of %s, drops %v", r.c.owner(50).id, d)
	}
	checkTables(t, r.c)

	// The old master comes back and claims them again: it has the keys.
	r = start(Mutants{})
	r.step(takeover)
	if d := find[DropSlotKeys](r.hear(r.claim(idB, 2, slotsOf(0, 99)))); r.c.owner(50).id != idB || len(d) != 1 {
		t.Fatalf("slot 50 of %s, drops %v", r.c.owner(50).id, d)
	}

	// Keys that come one by one are not copies.
	r = start(Mutants{})
	r.step(takeover)
	reply(t, r.c, "SETSLOT", "50", "IMPORTING", idD)
	reply(t, r.c, "SETSLOT", "50", "STABLE")
	if d := find[DropSlotKeys](claim(r)); len(d) != 1 || len(d[0].Slots) != 99 {
		t.Fatalf("drops %v", d)
	}

	r = start(Mutants{InheritAll: true})
	if r.step(takeover); r.c.owner(50) != r.c.myself {
		t.Error("this test does not notice that it takes all")
	}
	r = start(Mutants{KeepCopies: true})
	r.step(takeover)
	if d := find[DropSlotKeys](claim(r)); len(d) != 0 {
		t.Error("this test does not notice that it keeps them")
	}
}

// Nor does it ask for votes with them.
func TestCandidateNamesOnlyWhatItsMasterClaimed(t *testing.T) {
	r := newRig(t, replicaConf)
	r.host.set(func(d *Data) { d.MasterSeen = r.now })
	r.hear(r.claim(idB, 2, slotsOf(100, 5460)))
	fail := r.packet(idD, MsgFail)
	copy(fail[headerLen:], idB)
	asked := sends(append(r.hear(fail), r.pass(2*time.Second, idC, idD)...), MsgAuthRequest)
	if len(asked) == 0 {
		t.Fatal("no election")
	}
	if p := packet(asked[0].Data); bitSet(p.slots(), 50) || !bitSet(p.slots(), 100) {
		t.Fatal("it asks for what its master had let go, or not for the rest")
	}
}

const heirConf = `aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 127.0.0.1:7000@17000 myself,master - 0 0 6 connected 0-5460
cccccccccccccccccccccccccccccccccccccccc 127.0.0.1:7002@17002 slave aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 0 0 6 connected
dddddddddddddddddddddddddddddddddddddddd 127.0.0.1:7003@17003 master - 0 0 3 connected 5461-16383
vars currentEpoch 6 lastVoteEpoch 0
`

// A replaced master whose successor has its epoch, and does not claim all of its
// slots, keeps the rest in an epoch of its own.
func TestEpochOfTheSuccessorIsNotKept(t *testing.T) {
	r := newRig(t, heirConf)
	r.hear(r.promoted(idC, 6, slotsOf(0, 5000)))
	if c := r.c; c.owner(5000).id != idC || c.owner(5001) != c.myself || c.myself.configEpoch != 7 {
		t.Fatalf("slot 5000 of %s, 5001 of %s, epoch %d", c.owner(5000).id, c.owner(5001).id, c.myself.configEpoch)
	}
	r = newRig(t, heirConf)
	r.hear(r.promoted(idC, 6, slotsOf(0, 5460)))
	if c := r.c; c.myself.master == nil || c.myself.master.id != idC || c.currentEpoch != 6 {
		t.Fatalf("epoch %d\n%s", c.currentEpoch, c.NodesConf())
	}
}
