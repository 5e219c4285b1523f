package cluster

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	idA = strings.Repeat("a", 40) // us: master, slots 0-5460, epoch 1
	idB = strings.Repeat("b", 40) // master, 5461-10922, epoch 2
	idC = strings.Repeat("c", 40) // replica of B
	idD = strings.Repeat("d", 40) // master, 10923-16383, epoch 3
)

const rulesConf = `aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 127.0.0.1:7000@17000 myself,master - 0 0 1 connected 0-5460
bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb 127.0.0.1:7001@17001 master - 0 0 2 connected 5461-10922
cccccccccccccccccccccccccccccccccccccccc 127.0.0.1:7002@17002 slave bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb 0 0 2 connected
dddddddddddddddddddddddddddddddddddddddd 127.0.0.1:7003@17003 master - 0 0 3 connected 10923-16383
vars currentEpoch 5 lastVoteEpoch 4
`

// rig is one core among nodes whose packets a test makes up.
type rig struct {
	t    *testing.T
	c    *Core
	host *fakeHost
	now  time.Time
	link map[string]LinkID // our links
}

func newRig(t *testing.T, conf string) *rig {
	t.Helper()
	cfg := DefaultConfig(7000)
	cfg.NodeTimeout = time.Second
	h := &fakeHost{}
	c, err := New(testStart, cfg, Options{Rand: rand.New(rand.NewPCG(1, 1)), Host: h, State: []byte(conf)})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, c: c, host: h, now: testStart, link: map[string]LinkID{}}
	r.connect(c.Start(testStart))
	for _, n := range c.nodes {
		if n != c.myself {
			r.hear(r.packet(n.id, MsgPong))
		}
	}
	return r
}

// connect lets every link come up.
func (r *rig) connect(effects []Effect) {
	var ids []LinkID
	for _, e := range effects {
		if k, ok := e.(Connect); ok {
			ids = append(ids, k.Link)
		}
	}
	for _, id := range ids {
		r.link[r.c.links[id].node.id] = id
		r.step(LinkUp{id, "127.0.0.1", "127.0.0.1"})
	}
}

func (r *rig) step(in Input) []Effect {
	return append([]Effect(nil), r.c.Step(r.now, in)...)
}

// pass lets time go by with the others silent, except for those named.
func (r *rig) pass(d time.Duration, alive ...string) (out []Effect) {
	for end := r.now.Add(d); r.now.Before(end); {
		r.now = r.now.Add(20 * time.Millisecond)
		e := r.step(Timer{})
		r.connect(e)
		out = append(out, e...)
		for _, id := range alive {
			out = append(out, r.hear(r.packet(id, MsgPong))...)
		}
	}
	return out
}

// packet is one that the node would send that r.c believes in.
func (r *rig) packet(from string, typ MsgType) packet {
	n := r.c.byID[from]
	size := headerLen
	switch typ {
	case MsgFail:
		size += NameLen
	case MsgUpdate:
		size += updateLen
	}
	p := r.c.newPacket(typ, size)
	copy(p[offSender:], from)
	clear(p[offMaster : offMaster+NameLen])
	m := shardOf(n)
	if m != n {
		copy(p[offMaster:], m.id)
	}
	clear(p[offSlots : offSlots+bitmapLen])
	m.slots.fill(p[offSlots:])
	p.put64(offCfgEpoch, m.configEpoch)
	p.put64(offOffset, uint64(n.replOffset))
	p.put16(offFlags, int(n.flags&^(FlagFail|FlagPFail)))
	p.put16(offPort, n.port)
	p.put16(offBusPort, n.cport)
	p[offMsgFlags] = 0
	return p
}

func (r *rig) hear(p packet) []Effect {
	return r.step(Packet{r.link[string(p.sender())], p})
}

func sends(effects []Effect, typ MsgType) (out []Send) {
	for _, e := range effects {
		if s, ok := e.(Send); ok && packet(s.Data).msgType() == typ {
			out = append(out, s)
		}
	}
	return out
}

func find[T Effect](effects []Effect) (out []T) {
	for _, e := range effects {
		if v, ok := e.(T); ok {
			out = append(out, v)
		}
	}
	return out
}

func logged(effects []Effect, s string) bool {
	for _, l := range find[Log](effects) {
		if strings.Contains(l.Text, s) {
			return true
		}
	}
	return false
}

// Redis Cluster specification, "replica election and promotion": a master
// votes once in an epoch, only while the candidate's master is FAIL, and the
// vote is durable before it is sent.
func TestVoteOnceInAnEpochAndOnDiskFirst(t *testing.T) {
	r := newRig(t, rulesConf)
	ask := func(epoch uint64) []Effect {
		p := r.packet(idC, MsgAuthRequest)
		p.put64(offCurEpoch, epoch)
		return r.hear(p)
	}
	if e := ask(6); len(sends(e, MsgAuthAck)) != 0 || !logged(e, "its master is up") {
		t.Fatalf("voted while the master is up: %v", e)
	}
	fail := r.packet(idD, MsgFail)
	copy(fail[headerLen:], idB)
	r.hear(fail)
	e := ask(7)
	if len(sends(e, MsgAuthAck)) != 1 {
		t.Fatalf("no vote: %v", e)
	}
	if p, ok := e[0].(Persist); !ok || !p.Sync {
		t.Fatalf("the vote is not persisted first: %v", e[0])
	}
	if !bytes.Contains(r.c.NodesConf(), []byte("lastVoteEpoch 7")) {
		t.Fatalf("not in nodes.conf:\n%s", r.c.NodesConf())
	}
	if e := ask(7); len(sends(e, MsgAuthAck)) != 0 || !logged(e, "already voted for epoch 7") {
		t.Fatalf("voted twice: %v", e)
	}
	if e := ask(6); len(sends(e, MsgAuthAck)) != 0 || !logged(e, "reqEpoch (6) < curEpoch(7)") {
		t.Fatalf("voted for an old epoch: %v", e)
	}
	if e := ask(8); len(sends(e, MsgAuthAck)) != 1 {
		t.Fatalf("the same candidate must have our vote in the next epoch: %v", e)
	}
}

// Redis Cluster specification, "configEpoch conflicts resolution algorithm":
// the smaller id moves to a new epoch.
func TestSmallerIDMovesToANewEpoch(t *testing.T) {
	r := newRig(t, strings.Replace(rulesConf, "0 0 2 connected 5461", "0 0 1 connected 5461", 1))
	if got := r.c.myself.configEpoch; got <= 1 {
		t.Fatalf("still at epoch %d beside a master of greater id", got)
	}
	if !bytes.Contains(r.c.NodesConf(), []byte("currentEpoch 6")) {
		t.Errorf("currentEpoch did not follow:\n%s", r.c.NodesConf())
	}
}

// A claim of an older epoch is answered with UPDATE and changes nothing; one of
// a newer epoch takes the slots, except those that are being imported by hand.
func TestNewerEpochTakesSlots(t *testing.T) {
	r := newRig(t, rulesConf)
	p := r.packet(idB, MsgPong)
	p[offSlots] = 0xff // slots 0-7 are ours
	p.put64(offCfgEpoch, 1)
	r.c.byID[idB].configEpoch = 1
	r.c.myself.configEpoch = 4
	e := r.hear(p)
	if len(sends(e, MsgUpdate)) != 1 || r.c.owner(3) != r.c.myself {
		t.Fatalf("a stale claim: %v, owner %v", e, r.c.owner(3).id)
	}
	p.put64(offCfgEpoch, 9)
	r.c.importing[5] = r.c.byID[idD]
	e = r.hear(p)
	if r.c.owner(3).id != idB || r.c.owner(5) != r.c.myself {
		t.Fatalf("a newer claim: slot 3 of %s, slot 5 of %s", r.c.owner(3).id, r.c.owner(5).id)
	}
	if d := find[DropSlotKeys](e); len(d) != 1 || len(d[0].Slots) != 7 {
		t.Fatalf("the keys of lost slots stay: %v", d)
	}
	if d := find[DropShardChannels](e); len(d) != 1 || len(d[0].Slots) != 7 {
		t.Fatalf("the channels of lost slots stay: %v", d)
	}
	checkTables(t, r.c)
}

// A master that lost its last slot follows the one that took it.
func TestMasterWithoutSlotsFollowsTheTaker(t *testing.T) {
	r := newRig(t, rulesConf)
	p := r.packet(idB, MsgPong)
	for i := range 5461 {
		p[offSlots+i>>3] |= 1 << (i & 7)
	}
	p.put64(offCfgEpoch, 9)
	e := r.hear(p)
	f := find[FollowMaster](e)
	if len(f) != 1 || f[0].ID != idB || f[0].Port != 7001 || !logged(e, "Reconfiguring myself as a replica of "+idB) {
		t.Fatalf("%v", e)
	}
	if len(find[DropSlotKeys](e)) != 0 {
		t.Error("keys dropped one by one although the data set is replaced")
	}
	checkTables(t, r.c)
}

// Redis Cluster specification, "failure detection": PFAIL is ours alone, FAIL
// needs a majority of the masters, whose reports expire.
func TestFailNeedsAMajority(t *testing.T) {
	r := newRig(t, rulesConf)
	e := r.pass(1900*time.Millisecond, idC, idD)
	b := r.c.byID[idB]
	if !b.timedOut() || b.failed() {
		t.Fatalf("flags of the silent node: %b", b.flags)
	}
	told := 0
	for _, s := range sends(e, MsgPong) {
		if p := packet(s.Data); s.Link == r.link[idD] && p.count() > 0 {
			for i := range p.count() {
				if string(p.gossip(i).id()) == idB && p.gossip(i).flags().Has(FlagPFail) {
					told++
				}
			}
		}
	}
	if told == 0 {
		t.Error("the masters were not told")
	}
	report := r.packet(idD, MsgPong)
	report = append(report, make([]byte, gossipLen)...)
	binary.BigEndian.PutUint32(report[offTotlen:], uint32(len(report)))
	report.put16(offCount, 1)
	r.c.putGossip(report[headerLen:], b)
	e = r.hear(report)
	if !b.failed() || len(sends(e, MsgFail)) == 0 || !logged(e, "Marking node "+idB+" as failing (quorum reached).") {
		t.Fatalf("no FAIL with two of three masters: %v", e)
	}
	e = append(r.pass(1500*time.Millisecond, idB, idC, idD), r.pass(1500*time.Millisecond, idB, idC, idD)...)
	if b.failed() || !logged(e, "is reachable again and nobody is serving its slots after some time.") {
		t.Fatal("FAIL is not cleared when it is back and nobody took its slots")
	}
}

// Redis: CLUSTER FORGET bans the node for 60 seconds.
func TestForgottenNodeStaysAwayForAMinute(t *testing.T) {
	r := newRig(t, rulesConf)
	c := r.c.byID[idC]
	gossip := r.packet(idD, MsgPong)
	gossip = append(gossip, make([]byte, gossipLen)...)
	binary.BigEndian.PutUint32(gossip[offTotlen:], uint32(len(gossip)))
	gossip.put16(offCount, 1)
	r.c.putGossip(gossip[headerLen:], c)
	r.step(Command{Args: []string{"FORGET", idC}})
	r.hear(gossip)
	if r.c.byID[idC] != nil {
		t.Fatal("it is back at once")
	}
	r.pass(59*time.Second, idB, idD)
	r.hear(gossip)
	if r.c.byID[idC] != nil {
		t.Fatal("it is back after 59 s")
	}
	r.pass(2*time.Second, idB, idD)
	r.hear(gossip)
	if r.c.byID[idC] == nil {
		t.Fatal("it may not return after 61 s")
	}
	checkTables(t, r.c)
}

// Redis: CLUSTER RESET forgets the cluster; HARD also who we are.
func TestReset(t *testing.T) {
	r := newRig(t, rulesConf)
	r.host.set(func(d *Data) { d.Empty = true })
	r.step(Command{Args: []string{"RESET", "SOFT"}})
	if r.c.MyID() != idA || len(r.c.nodes) != 1 || r.c.myself.numSlots != 0 || r.c.currentEpoch != 5 {
		t.Fatalf("soft: %s", r.c.NodesConf())
	}
	e := r.step(Command{Args: []string{"RESET", "HARD"}})
	if r.c.MyID() == idA || r.c.currentEpoch != 0 || !logged(e, "Node hard reset, now I'm "+r.c.MyID()) {
		t.Fatalf("hard: %s", r.c.NodesConf())
	}
	checkTables(t, r.c)
}

const replicaConf = `aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 127.0.0.1:7000@17000 myself,slave bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb 0 0 0 connected
bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb 127.0.0.1:7001@17001 master - 0 0 2 connected 0-5460
cccccccccccccccccccccccccccccccccccccccc 127.0.0.1:7002@17002 master - 0 0 3 connected 5461-10922
dddddddddddddddddddddddddddddddddddddddd 127.0.0.1:7003@17003 master - 0 0 4 connected 10923-16383
vars currentEpoch 5 lastVoteEpoch 0
`

// Redis Cluster specification, "manual failover": the replica waits for the
// master's final offset, asks with FORCEACK, and takes over.
func TestManualFailoverWaitsForTheOffset(t *testing.T) {
	r := newRig(t, replicaConf)
	r.host.set(func(d *Data) { d.Offset, d.MasterLinkUp = 90, true })
	e := r.step(Command{Args: []string{"FAILOVER"}})
	if s := sends(e, MsgMFStart); len(s) != 1 || s[0].Link != r.link[idB] {
		t.Fatalf("%v", e)
	}
	p := r.packet(idB, MsgPing)
	p[offMsgFlags] |= flagPaused
	p.put64(offOffset, 100)
	if e := r.hear(p); len(sends(e, MsgAuthRequest)) != 0 || !r.c.AwaitsOffset() {
		t.Fatalf("did not wait: %v", e)
	}
	r.host.set(func(d *Data) { d.Offset = 100 })
	e = r.step(DataChanged{})
	req := sends(e, MsgAuthRequest)
	if len(req) == 0 || packet(req[0].Data).msgFlags()&flagForceAck == 0 || len(sends(e, MsgFail)) != 0 {
		t.Fatalf("no forced request: %v", e)
	}
	if p, ok := e[0].(Persist); !ok || !p.Sync {
		t.Fatal("the epoch is not persisted first")
	}
	ack := func(id string) []Effect { return r.hear(r.packet(id, MsgAuthAck)) }
	if e := ack(idC); len(find[Promote](e)) != 0 {
		t.Fatal("won with one vote of three masters")
	}
	if e := ack(idC); len(find[Promote](e)) != 0 {
		t.Fatal("one voter counts twice")
	}
	e = ack(idD)
	if len(find[Promote](e)) != 1 || r.c.myself.numSlots != 5461 || r.c.myself.configEpoch != 6 {
		t.Fatalf("not promoted: %v", e)
	}
	checkTables(t, r.c)
}

// The other side: a master asked to step back stops writes and says where.
func TestMasterPausesForManualFailover(t *testing.T) {
	r := newRig(t, strings.Replace(rulesConf, "slave "+idB, "slave "+idA, 1))
	r.host.set(func(d *Data) { d.Offset = 777 })
	e := r.hear(r.packet(idC, MsgMFStart))
	ping := sends(e, MsgPing)
	if len(find[PauseWrites](e)) != 1 || len(ping) != 1 || packet(ping[0].Data).msgFlags()&flagPaused == 0 || packet(ping[0].Data).offset() != 777 {
		t.Fatalf("%v", e)
	}
	e = r.pass(6*time.Second, idB, idC, idD)
	if len(find[ResumeWrites](e)) != 1 || !logged(e, "Manual failover timed out.") {
		t.Fatal("writes stay paused")
	}
}

// cluster-replica-validity-factor: whoever lost touch too long ago does not stand.
func TestOldDataDoesNotStand(t *testing.T) {
	for _, factor := range []int{10, 0} {
		r := newRig(t, replicaConf)
		cfg := r.c.cfg
		cfg.ReplicaValidityFactor, cfg.PingReplicaPeriod = factor, time.Second
		r.step(ConfigChanged{cfg})
		r.host.set(func(d *Data) { d.MasterSeen = testStart.Add(-time.Minute) })
		fail := r.packet(idC, MsgFail)
		copy(fail[headerLen:], idB)
		e := append(r.hear(fail), r.pass(3*time.Second, idC, idD)...)
		if stood := len(sends(e, MsgAuthRequest)) > 0; stood != (factor == 0) {
			t.Errorf("factor %d: stood for election: %v", factor, stood)
		}
	}
}

// DESIGN 5.5: the best replica sends FAIL and then its request on the same
// links, without delay.
func TestBestReplicaStartsAtOnce(t *testing.T) {
	r := newRig(t, replicaConf)
	r.pass(1100*time.Millisecond, idC, idD)
	r.host.set(func(d *Data) { d.MasterSeen = r.now.Add(-time.Second) })
	fail := r.packet(idC, MsgFail)
	copy(fail[headerLen:], idB)
	e := r.hear(fail)
	var order []MsgType
	for _, x := range find[Send](e) {
		if x.Link == r.link[idD] && (packet(x.Data).msgType() == MsgFail || packet(x.Data).msgType() == MsgAuthRequest) {
			order = append(order, packet(x.Data).msgType())
		}
	}
	if len(order) != 2 || order[0] != MsgFail || order[1] != MsgAuthRequest {
		t.Fatalf("order on the link of a voter: %v", order)
	}
}

// ChooseState: a nodes.conf that parses wins, then the newer whole copy.
func TestChooseState(t *testing.T) {
	old, newer := []byte(rulesConf), []byte(strings.Replace(rulesConf, "lastVoteEpoch 4", "lastVoteEpoch 5", 1))
	a, b := EncodeGeneration(1, old), EncodeGeneration(2, newer)
	torn := []byte(rulesConf[:200])
	bad := append([]byte(nil), b...)
	bad[len(bad)-3] ^= 1
	for _, tc := range []struct {
		name    string
		conf    []byte
		a, b    []byte
		want    []byte
		from    Origin
		corrupt bool
	}{
		{"nothing", nil, nil, nil, nil, FromNothing, false},
		{"nodes.conf", newer, a, b, newer, FromNodesConf, false},
		{"nodes.conf that was put back", old, a, b, []byte(rulesConf + "\nvars currentEpoch 5 lastVoteEpoch 5\n"), FromNodesConf, false},
		{"torn nodes.conf", torn, a, b, newer, FromGeneration, false},
		{"empty nodes.conf", []byte("\n\n"), b, a, newer, FromGeneration, false},
		{"no nodes.conf, newer copy damaged", nil, a, bad, old, FromGeneration, false},
		{"everything damaged", torn, bad, nil, nil, FromNothing, true},
		{"only damaged copies", nil, bad, a[:20], nil, FromNothing, true},
		{"cut after a line, no copy", []byte(rulesConf[:strings.Index(rulesConf, "vars")]), nil, nil, []byte(rulesConf[:strings.Index(rulesConf, "vars")]), FromNodesConf, false},
		{"cut after a line, a copy", []byte(rulesConf[:strings.Index(rulesConf, "vars")]), a, nil, old, FromGeneration, false},
	} {
		got, _, from, err := ChooseState(tc.conf, tc.a, tc.b)
		if !bytes.Equal(got, tc.want) || from != tc.from || errors.Is(err, ErrCorruptConf) != tc.corrupt {
			t.Errorf("%s: from %d, err %v, state %q", tc.name, from, err, got)
		}
	}
}

// cluster-announce-*: what others are told of us.
func TestAnnouncedAddress(t *testing.T) {
	r := newRig(t, rulesConf)
	cfg := r.c.cfg
	cfg.AnnounceIP, cfg.AnnouncePort, cfg.AnnounceBusPort, cfg.AnnounceHostname = "10.0.0.9", 1234, 2345, "a.example"
	r.step(ConfigChanged{cfg})
	p, line, ok := validate(r.c.pingPacket(MsgPing))
	if !ok || string(p.myIP()) != "10.0.0.9" || p.port() != 1234 || p.busPort() != 2345 {
		t.Fatalf("%q %s:%d@%d", line, p.myIP(), p.port(), p.busPort())
	}
	host := ""
	p.eachExtension(func(typ int, body []byte) { host = string(cstr(body)) })
	if host != "a.example" {
		t.Fatalf("hostname %q", host)
	}
	if n := string(r.c.appendNode(nil, r.c.myself, false)); !strings.HasPrefix(n, idA+" 10.0.0.9:1234@2345,a.example myself,master ") {
		t.Fatal(n)
	}
	cfg.TLSCluster, cfg.TLSPort, cfg.AnnounceTLSPort = true, 7443, 4443
	r.step(ConfigChanged{cfg})
	v := r.c.View()
	if me := v.Myself; me.Port != 4443 || me.PlainPrt != 1234 || me.ClientPort(v, true) != 4443 || me.ClientPort(v, false) != 1234 {
		t.Fatalf("%+v", me)
	}
}

// cluster-preferred-endpoint-type: what clients are told.
func TestPreferredEndpoint(t *testing.T) {
	r := newRig(t, rulesConf)
	r.c.byID[idB].hostname = "b.example"
	for typ, want := range map[EndpointType][2]string{
		EndpointIP:       {"127.0.0.1", `["127.0.0.1" 7001 "` + idB + `" ["hostname" "b.example"]]`},
		EndpointHostname: {"b.example", `["b.example" 7001 "` + idB + `" ["ip" "127.0.0.1"]]`},
		EndpointUnknown:  {"", `[nil 7001 "` + idB + `" ["ip" "127.0.0.1" "hostname" "b.example"]]`},
	} {
		cfg := r.c.cfg
		cfg.Preferred = typ
		r.step(ConfigChanged{cfg})
		v := r.c.View()
		if got := v.Owner(6000).Endpoint(v); got != want[0] {
			t.Errorf("type %d: MOVED names %q, want %q", typ, got, want[0])
		}
		if got := resp2(r.c.slotsNode(r.c.byID[idB], Command{})); got != want[1] {
			t.Errorf("type %d: CLUSTER SLOTS names %s, want %s", typ, got, want[1])
		}
	}
}

// DataLoaded: keys in slots that are not ours.
func TestLoadedKeysClaimTheirSlots(t *testing.T) {
	r := newRig(t, strings.Replace(rulesConf, " 10923-16383", " 10924-16383", 1))
	r.host.keys = map[int][]string{10: {"x"}, 10923: {"y"}, 12000: {"z"}}
	e := r.step(DataLoaded{})
	if r.c.owner(10923) != r.c.myself || r.c.importing[12000] == nil || len(r.c.importing) != 1 {
		t.Fatalf("%s", r.c.NodesConf())
	}
	if !logged(e, "I have keys for unassigned slot 10923. Taking responsibility for it.") ||
		!logged(e, "I have keys for slot 12000, but the slot is assigned to another node. Setting it to importing state.") {
		t.Fatalf("%v", e)
	}
}

// A node that stood still does not take its own pause for the silence of
// others, and serves nothing before a majority answered it.
func TestOwnPauseIsNotTheirSilence(t *testing.T) {
	r := newRig(t, rulesConf)
	r.pass(3*time.Second, idB, idC, idD)
	if !r.c.ok {
		t.Fatal("not ok before the pause")
	}
	r.now = r.now.Add(5 * time.Second)
	e := r.step(Timer{})
	if r.c.ok || !logged(e, "stood still") {
		t.Fatal("serves at once after a pause of five node timeouts")
	}
	for _, id := range []string{idB, idC, idD} {
		if r.c.byID[id].timedOut() {
			t.Fatalf("%s is accused", id)
		}
	}
	r.pass(3*time.Second, idB, idC, idD)
	if !r.c.ok {
		t.Fatal("does not come back")
	}
}

func BenchmarkPing(b *testing.B) {
	c := newFuzzCore(b)
	c.Step(testStart, InboundUp{Inbound | 1, "127.0.0.1", "127.0.0.1"})
	p := c.pingPacket(MsgPing)
	copy(p[offSender:], idB)
	clear(p[offSlots : offSlots+bitmapLen])
	c.byID[idB].slots.fill(p[offSlots:])
	p.put64(offCfgEpoch, 2)
	b.ReportAllocs()
	for b.Loop() {
		c.Step(testStart, Packet{Inbound | 1, p})
	}
}

func BenchmarkView(b *testing.B) {
	c := newFuzzCore(b)
	for b.Loop() {
		c.viewDirty = true
		c.View()
	}
}

// A stream of SETSLOT, as an administrator sends it who moves many slots.
func BenchmarkSetSlot(b *testing.B) {
	c := newFuzzCore(b)
	args := []string{"SETSLOT", "100", "MIGRATING", idB}
	back := []string{"SETSLOT", "100", "STABLE"}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		in := Command{Args: args}
		if i%2 == 1 {
			in.Args = back
		}
		c.Step(testStart, in)
		c.View()
	}
}

// A View is never changed by what comes after it, and shares what stays.
func TestViewsAreImmutable(t *testing.T) {
	r := newRig(t, rulesConf)
	rng := rand.New(rand.NewPCG(7, 7))
	type seen struct {
		v                       *View
		owner, migrate, imports [Slots]string
		mine                    int
	}
	look := func(v *View) (s seen) {
		s.v = v
		name := func(n *NodeView) string {
			if n == nil {
				return ""
			}
			return n.ID
		}
		for i := range Slots {
			s.owner[i], s.migrate[i], s.imports[i] = name(v.Owner(i)), name(v.Migrating(i)), name(v.Importing(i))
		}
		m := v.MySlots()
		s.mine = m.Len()
		return s
	}
	var views []seen
	ids := []string{idA, idB, idD}
	for range 60 {
		s := strconv.Itoa(rng.IntN(Slots))
		switch rng.IntN(5) {
		case 0:
			r.step(Command{Args: []string{"SETSLOT", s, "MIGRATING", ids[1+rng.IntN(2)]}})
		case 1:
			r.step(Command{Args: []string{"SETSLOT", s, "IMPORTING", ids[1+rng.IntN(2)]}})
		case 2:
			r.step(Command{Args: []string{"SETSLOT", s, "NODE", ids[rng.IntN(3)]}})
		case 3:
			r.step(Command{Args: []string{"DELSLOTS", s}})
		case 4:
			r.step(Command{Args: []string{"ADDSLOTS", s}})
		}
		v := r.c.View()
		now := look(v)
		views = append(views, now)
		owned := 0
		for i := range Slots {
			want := ""
			if o := r.c.owner(i); o != nil {
				want = o.id
				owned++
			}
			if now.owner[i] != want || v.Mine(i) != (want == idA) {
				t.Fatalf("slot %d of %q in the view, of %q in fact", i, now.owner[i], want)
			}
		}
		if v.Assigned != owned || v.CoversAll != (owned == Slots) || now.mine != r.c.myself.numSlots {
			t.Fatalf("%d assigned, want %d; %d mine, want %d", v.Assigned, owned, now.mine, r.c.myself.numSlots)
		}
		if v.AnyMoving() != (len(r.c.migrating)+len(r.c.importing) > 0) {
			t.Fatalf("moving: %v, %d and %d marks", v.AnyMoving(), len(r.c.migrating), len(r.c.importing))
		}
		for i, n := range r.c.migrating {
			if now.migrate[i] != n.id {
				t.Fatalf("slot %d migrates to %q in the view, to %q in fact", i, now.migrate[i], n.id)
			}
		}
		for i, n := range r.c.importing {
			if now.imports[i] != n.id {
				t.Fatalf("slot %d is imported from %q in the view, from %q in fact", i, now.imports[i], n.id)
			}
		}
	}
	r.step(Command{Args: []string{"FORGET", idD}})
	r.c.View()
	for i, s := range views {
		if look(s.v) != s {
			t.Fatalf("view %d changed afterwards", i)
		}
	}
}

// A node that has just come learns from gossip who is FAIL: nothing else says
// it again. The choice of fresh news must not keep it back.
func TestGossipStillSpeaksOfFailedNodes(t *testing.T) {
	r := newRig(t, rulesConf)
	r.pass(3*time.Second, idB, idC, idD)
	fail := r.packet(idD, MsgFail)
	copy(fail[headerLen:], idB)
	r.hear(fail)
	r.pass(time.Second, idC, idD)
	b, n := r.c.byID[idB], 0
	b.flags = b.flags&^FlagPFail | FlagFail
	// More nodes, all heard a moment ago, so that not everybody is in every packet.
	for i := range 96 {
		x := r.c.newNode(fmt.Sprintf("%040d", i), FlagMaster)
		x.link, x.pongReceived = b.link, r.c.now
		if x.link == nil {
			x.link = r.c.byID[idC].link
		}
		r.c.addNode(x)
	}
	const rounds = 1000
	for range rounds {
		p := r.c.pingPacket(MsgPing)
		for i := range p.count() {
			if string(p.gossip(i).id()) == idB {
				n++
			}
		}
	}
	if want := rounds * 10 / 100; n < want/2 {
		t.Errorf("in %d of %d packets of ten entries about a hundred nodes, want about %d", n, rounds, want)
	}
}

// A replica may be promoted with keys of slots that others own: its master may
// have been importing them key by key, and nobody else has them.
func TestTheSuccessorKeepsWhatOthersOwn(t *testing.T) {
	r := newRig(t, replicaConf)
	r.host.keys = map[int][]string{100: {"ours"}, 6000: {"of C"}, 16383: {"of D"}}
	r.host.set(func(d *Data) { d.MasterLinkUp = true })
	e := r.step(Command{Args: []string{"FAILOVER", "TAKEOVER"}})
	if r.c.owner(100) != r.c.myself || len(find[DropSlotKeys](e)) > 0 {
		t.Fatalf("slot 100 is of %s, dropped: %v", r.c.owner(100).id, find[DropSlotKeys](e))
	}
}
