package cluster

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"holdfast/internal/redis/cluster/slot"
)

// okRig is a rig whose cluster is up.
func okRig(t *testing.T, conf string) *rig {
	t.Helper()
	r := newRig(t, conf)
	r.pass(3*time.Second, idB, idC, idD)
	if !r.c.ok {
		t.Fatal("not ok after three seconds")
	}
	return r
}

func slotsOf(first, last int) *slot.Set {
	s := new(slot.Set)
	s.AddRange(first, last)
	return s
}

func (r *rig) take(s *slot.Set, from string, epoch uint64) (Taken, []Effect) {
	r.t.Helper()
	e := r.step(TakeSlots{Slots: s, From: from, Epoch: epoch})
	out := find[Taken](e)
	if len(out) != 1 {
		r.t.Fatalf("%d answers: %v", len(out), e)
	}
	return out[0], e
}

// A handover changes the owner in one step: durable first, then told to
// everybody, with an epoch above all that From can have known.
func TestTakeSlotsClaimsWithANewEpoch(t *testing.T) {
	r := okRig(t, rulesConf)
	taken, e := r.take(slotsOf(6000, 6099), idB, 40)
	if !taken.OK {
		t.Fatal(taken.Why)
	}
	if p, ok := e[0].(Persist); !ok || !p.Sync {
		t.Fatalf("not durable first: %v", e[0])
	}
	if c := r.c; c.owner(6000) != c.myself || c.owner(6099) != c.myself || c.owner(6100).id != idB || c.myself.configEpoch != 41 || c.currentEpoch != 41 {
		t.Fatalf("epoch %d\n%s", c.myself.configEpoch, c.NodesConf())
	}
	if !bytes.Contains(r.c.NodesConf(), []byte("connected 0-5460 6000-6099\n")) {
		t.Errorf("%s", r.c.NodesConf())
	}
	told := map[LinkID]bool{}
	for _, s := range sends(e, MsgPong) {
		p := packet(s.Data)
		told[s.Link] = bitSet(p.slots(), 6050) && p.configEpoch() == 41
	}
	for _, id := range []string{idB, idC, idD} {
		if !told[r.link[id]] {
			t.Errorf("%s is not told at once", id[:1])
		}
	}
	checkTables(t, r.c)

	// Again, because the answer was lost: as it was.
	if taken, e = r.take(slotsOf(6000, 6099), idB, 40); !taken.OK || r.c.myself.configEpoch != 41 || len(sends(e, MsgPong)) != 3 {
		t.Fatalf("%v, epoch %d, %v", taken, r.c.myself.configEpoch, e)
	}
	// Even the greatest epoch that we know of is raised: From may know of a greater one.
	if taken, _ = r.take(slotsOf(6000, 6199), idB, 0); !taken.OK || r.c.myself.configEpoch != 42 {
		t.Fatalf("%v, epoch %d", taken, r.c.myself.configEpoch)
	}
}

func TestTakeSlotsNeedsAClearCase(t *testing.T) {
	r := okRig(t, rulesConf)
	r.c.importing[6005] = r.c.byID[idB]
	before := string(r.c.NodesConf())
	for _, tc := range []struct {
		name  string
		slots *slot.Set
		from  string
		why   string
	}{
		{"no set", nil, idB, "no slots"},
		{"empty set", new(slot.Set), idB, "no slots"},
		{"an open slot", slotsOf(6000, 6010), idB, "slot 6005 is open"},
		{"somebody else's", slotsOf(10920, 10930), idB, "slot 10923 belongs to node " + idD},
		{"an unknown giver", slotsOf(6000, 6001), strings.Repeat("e", 40), "slot 6000 belongs to node " + idB},
	} {
		taken, e := r.take(tc.slots, tc.from, 0)
		if taken.OK || taken.Why != tc.why {
			t.Errorf("%s: %+v, want %q", tc.name, taken, tc.why)
		}
		if len(find[Persist](e)) != 0 || string(r.c.NodesConf()) != before {
			t.Errorf("%s: something changed", tc.name)
		}
	}
	down := newRig(t, rulesConf) // a master that was just started is not ok yet
	if taken, _ := down.take(slotsOf(6000, 6000), idB, 0); taken.OK || taken.Why != "the cluster is down" {
		t.Errorf("cluster down: %+v", taken)
	}
	rep := newRig(t, replicaConf)
	if taken, _ := rep.take(slotsOf(6000, 6001), idC, 0); taken.OK || taken.Why != "this node is a replica" {
		t.Errorf("a replica: %+v", taken)
	}
}

// claim is a PONG of a master with these slots and that epoch.
func (r *rig) claim(from string, epoch uint64, slots ...*slot.Set) packet {
	p := r.packet(from, MsgPong)
	clear(p[offSlots : offSlots+bitmapLen])
	for _, s := range slots {
		s.Each(func(n int) { p[offSlots+n>>3] |= 1 << (n & 7) })
	}
	p.put64(offCfgEpoch, epoch)
	return p
}

// What was given away is given away: when the giver, or its heir, gets a
// greater epoch before it has heard our claim, it is not believed.
func TestGiverMayNotTakeBackUnheard(t *testing.T) {
	r := okRig(t, rulesConf)
	all, given := slotsOf(5461, 10922), slotsOf(6000, 6099)
	if taken, _ := r.take(given, idB, 0); !taken.OK {
		t.Fatal(taken.Why)
	}
	e := r.hear(r.claim(idB, 50, all))
	if r.c.owner(6000) != r.c.myself || r.c.myself.configEpoch != 51 {
		t.Fatalf("slot 6000 of %s, our epoch %d", r.c.owner(6000).id, r.c.myself.configEpoch)
	}
	if p, ok := e[0].(Persist); !ok || !p.Sync || len(sends(e, MsgPong)) != 3 || len(sends(e, MsgUpdate)) != 1 {
		t.Fatalf("the others do not learn of it: %v", e)
	}
	// The other way: its replica was elected without having heard of the claim.
	r = okRig(t, rulesConf)
	r.take(given, idB, 0)
	heir := r.claim(idC, 60, all)
	clear(heir[offMaster : offMaster+NameLen])
	heir.put16(offFlags, int(FlagMaster))
	r.hear(heir)
	if r.c.owner(6000) != r.c.myself || r.c.owner(7000).id != idC || r.c.myself.configEpoch != 61 {
		t.Fatalf("slot 6000 of %s, 7000 of %s, our epoch %d", r.c.owner(6000).id, r.c.owner(7000).id, r.c.myself.configEpoch)
	}
	// Once only, so that nobody quarrels for ever; and once the heir has been
	// heard not to claim it, the slot is a slot like any other.
	rest := slotsOf(5461, 10922)
	rest.DelAll(given)
	again := r.claim(idC, 62, rest)
	clear(again[offMaster : offMaster+NameLen])
	again.put16(offFlags, int(FlagMaster))
	r.hear(again)
	if len(r.c.taken) != 0 {
		t.Fatalf("still waiting for %d slots", len(r.c.taken))
	}
	back := r.claim(idC, 70, all)
	clear(back[offMaster : offMaster+NameLen])
	back.put16(offFlags, int(FlagMaster))
	if e := r.hear(back); r.c.owner(6000).id != idC || len(find[DropSlotKeys](e)) != 1 {
		t.Fatal("a later claim is not believed")
	}
	checkTables(t, r.c)
}

// Another node's newer claim is believed as ever.
func TestTakenSlotsGoToAThirdNode(t *testing.T) {
	r := okRig(t, rulesConf)
	r.take(slotsOf(6000, 6099), idB, 0)
	r.hear(r.claim(idD, 50, slotsOf(10923, 16383), slotsOf(6000, 6099)))
	if r.c.owner(6000).id != idD {
		t.Fatal("the newest claim did not win")
	}
	r.hear(r.claim(idB, 51, slotsOf(7000, 10922)))
	if len(r.c.taken) != 0 {
		t.Errorf("still waiting for %d slots that are not ours", len(r.c.taken))
	}
	checkTables(t, r.c)
}

// A giver that is left without slots follows, as after SETSLOT.
func TestGiverOfTheLastSlotFollows(t *testing.T) {
	r := okRig(t, rulesConf)
	e := r.hear(r.claim(idB, 50, slotsOf(0, 10922)))
	if f := find[FollowMaster](e); len(f) != 1 || f[0].ID != idB {
		t.Fatalf("%v", e)
	}
	if len(r.c.taken) != 0 {
		t.Error("a replica waits for slots")
	}
}

// Slots with keys of a handover are not opened at start.
func TestLoadedKeysOfAHandoverOpenNothing(t *testing.T) {
	r := newRig(t, rulesConf)
	r.host.keys = map[int][]string{6000: {"x"}, 6001: {"y"}}
	r.step(DataLoaded{Except: slotsOf(6000, 6000)})
	if r.c.importing[6000] != nil || r.c.importing[6001] == nil {
		t.Fatalf("%s", r.c.NodesConf())
	}
}

// Who has given slots away does not claim them, tells nobody that they are its
// own, and believes whoever claims them, in whatever epoch; until then it stays
// their owner.
func TestGiverDoesNotClaimAnyMore(t *testing.T) {
	r := okRig(t, rulesConf)
	given := slotsOf(100, 199)
	r.step(GivenSlots{Slots: given})
	r.step(Command{Args: []string{"BUMPEPOCH"}}) // an epoch above that of B
	if v := r.c.View(); !v.Mine(150) || !v.CoversAll {
		t.Fatal("not the owner any more before somebody else is")
	}
	p := r.c.pingPacket(MsgPing)
	if bitSet(p.slots(), 150) || !bitSet(p.slots(), 99) || !bitSet(p.slots(), 200) {
		t.Fatal("it still claims what it has given away, or does not claim the rest")
	}
	e := r.hear(r.claim(idB, 2, slotsOf(5461, 10922), given))
	if len(sends(e, MsgUpdate)) != 0 || r.c.owner(150).id != idB || r.c.owner(99) != r.c.myself {
		t.Fatalf("slot 150 of %s, slot 99 of %s: %v", r.c.owner(150).id, r.c.owner(99).id, e)
	}
	if d := find[DropSlotKeys](e); len(d) != 1 || len(d[0].Slots) != 100 {
		t.Fatalf("%v", d)
	}
	checkTables(t, r.c)

	// Kept after all: it is claimed and defended as ever.
	r = okRig(t, rulesConf)
	r.step(GivenSlots{Slots: given})
	r.step(GivenSlots{})
	if p := r.c.pingPacket(MsgPing); !bitSet(p.slots(), 150) {
		t.Fatal("what was kept is not claimed")
	}
	r.step(Command{Args: []string{"BUMPEPOCH"}})
	if e := r.hear(r.claim(idB, 2, slotsOf(5461, 10922), given)); r.c.owner(150) != r.c.myself || len(sends(e, MsgUpdate)) != 1 {
		t.Fatal("what was kept is not defended")
	}
}

// A replica that is promoted does not claim what its master had given away.
func TestHeirOfAGiverDoesNotClaimEither(t *testing.T) {
	r := newRig(t, replicaConf)
	r.step(GivenSlots{Slots: slotsOf(100, 199)})
	e := r.step(Command{Args: []string{"FAILOVER", "TAKEOVER"}})
	pongs := sends(e, MsgPong)
	if len(pongs) == 0 || r.c.owner(150) != r.c.myself {
		t.Fatalf("not promoted: %v", e)
	}
	for _, s := range pongs {
		if p := packet(s.Data); bitSet(p.slots(), 150) || !bitSet(p.slots(), 200) {
			t.Fatal("it claims what was given away")
		}
	}
	if r.hear(r.claim(idC, 3, slotsOf(5461, 10922), slotsOf(100, 199))); r.c.owner(150).id != idC {
		t.Fatal("it does not believe who claims it")
	}
}

// promoted is a PONG of C as a master that owns these slots.
func (r *rig) promoted(id string, epoch uint64, slots *slot.Set) packet {
	p := r.claim(id, epoch, slots)
	clear(p[offMaster : offMaster+NameLen])
	p.put16(offFlags, int(FlagMaster))
	return p
}

// A target that imports a slot learns who took the place of the source: else
// it would take a dead node for the owner until somebody calls fix.
func TestImportFollowsTheHeirOfItsSource(t *testing.T) {
	r := okRig(t, rulesConf)
	if v := reply(t, r.c, "SETSLOT", "6000", "IMPORTING", idB); v.Kind == Error {
		t.Fatal(v.Str)
	}
	// A stranger's newer claim is none of our business, as in Redis.
	r.hear(r.claim(idD, 20, slotsOf(10923, 16383), slotsOf(6000, 6000)))
	if r.c.owner(6000).id != idB || r.c.importing[6000].id != idB {
		t.Fatalf("slot 6000 of %s, imported from %s", r.c.owner(6000).id, r.c.importing[6000].id)
	}
	r.hear(r.claim(idD, 20, slotsOf(10923, 16383)))
	e := r.hear(r.promoted(idC, 21, slotsOf(5461, 10922)))
	if r.c.owner(6000).id != idC || r.c.importing[6000].id != idC || !logged(e, "Slot 6000 is imported from node "+idC+" now") {
		t.Fatalf("slot 6000 of %s, imported from %s", r.c.owner(6000).id, r.c.importing[6000].id)
	}
	if v := r.c.View(); v.Importing(6000).ID != idC || !v.CoversAll {
		t.Error("the view does not follow")
	}
	checkTables(t, r.c)
}

// The other order of news: the source is known as the replica of its heir
// before the heir claims the slots.
func TestImportFollowsWhomItsSourceReplicates(t *testing.T) {
	r := okRig(t, rulesConf)
	reply(t, r.c, "SETSLOT", "6000", "IMPORTING", idB)
	p := r.claim(idB, 2, slotsOf(10923, 16383))
	copy(p[offMaster:], idD)
	p.put16(offFlags, int(FlagReplica))
	r.hear(p)
	if r.c.owner(6000) != nil {
		t.Fatal("a replica owns slots")
	}
	r.hear(r.claim(idD, 20, slotsOf(5461, 16383)))
	if r.c.owner(6000) == nil || r.c.owner(6000).id != idD || r.c.importing[6000].id != idD {
		t.Fatalf("importing from %v", r.c.importing[6000].id)
	}
	checkTables(t, r.c)
}

// A source sends clients to whoever took the place of the target.
func TestMigratingFollowsTheHeirOfItsTarget(t *testing.T) {
	r := okRig(t, rulesConf)
	reply(t, r.c, "SETSLOT", "100", "MIGRATING", idB)
	reply(t, r.c, "SETSLOT", "101", "MIGRATING", idD)
	e := r.hear(r.promoted(idC, 21, slotsOf(5461, 10922)))
	if r.c.migrating[100].id != idC || r.c.migrating[101].id != idD || !logged(e, "Slot 100 migrates to node "+idC+" now") {
		t.Fatalf("slot 100 to %s, slot 101 to %s", r.c.migrating[100].id, r.c.migrating[101].id)
	}
	if !bytes.Contains(r.c.NodesConf(), []byte("[100->-"+idC+"]")) {
		t.Errorf("%s", r.c.NodesConf())
	}
}

// Somebody takes slots of ours for those of a node that has given them to us
// and has the greater epoch: a new epoch of ours ends it, once that node itself
// has been heard to claim none of them.
func TestDoubtIsAnsweredWithANewEpoch(t *testing.T) {
	r := okRig(t, rulesConf)
	r.hear(r.claim(idB, 30, slotsOf(5461, 10922)))
	update := r.packet(idD, MsgUpdate)
	b := update[headerLen:]
	binary.BigEndian.PutUint64(b, 30)
	copy(b[8:], idB)
	for s := 5000; s <= 10922; s++ {
		b[8+NameLen+s>>3] |= 1 << (s & 7)
	}
	r.hear(update)
	if r.c.myself.configEpoch != 1 {
		t.Fatal("a new epoch before B was heard")
	}
	e := r.hear(r.claim(idB, 30, slotsOf(5461, 10922)))
	if r.c.myself.configEpoch != 31 || len(sends(e, MsgPong)) != 3 || r.c.owner(5000) != r.c.myself {
		t.Fatalf("epoch %d, %v", r.c.myself.configEpoch, e)
	}
	if p, ok := e[0].(Persist); !ok || !p.Sync {
		t.Error("not durable first")
	}
	if e := r.hear(r.claim(idB, 30, slotsOf(5461, 10922))); r.c.myself.configEpoch != 31 {
		t.Fatalf("another one without a doubt: %v", e)
	}
}
