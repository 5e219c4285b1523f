package cluster

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

const fuzzConf = `aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 127.0.0.1:7000@17000 myself,master - 0 0 1 connected 0-5460
bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb 127.0.0.1:7001@17001,host.example master - 0 0 2 connected 5461-10922
cccccccccccccccccccccccccccccccccccccccc 127.0.0.1:7002@17002 slave bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb 0 0 2 connected
dddddddddddddddddddddddddddddddddddddddd 127.0.0.1:7003@17003 master,fail? - 0 0 3 disconnected 10923-16383
vars currentEpoch 5 lastVoteEpoch 4
`

// checkTables holds what the tables of a core must agree on.
func checkTables(t *testing.T, c *Core) {
	t.Helper()
	total := 0
	for _, n := range c.nodes {
		bits := 0
		n.slots.each(func(s int) {
			bits++
			if c.owner(s) != n {
				t.Fatalf("slot %d is in the bitmap of %s and belongs to another", s, n.id)
			}
		})
		if bits != n.numSlots {
			t.Fatalf("%s: %d slots counted, %d in its bitmap", n.id, n.numSlots, bits)
		}
		total += bits
		if c.byID[n.id] != n {
			t.Fatalf("%s is not found by its id", n.id)
		}
		for _, r := range n.replicas {
			if r.master != n {
				t.Fatalf("%s lists a replica that has another master", n.id)
			}
		}
	}
	for s := range Slots {
		if c.owner(s) != nil {
			total--
		}
	}
	if total != 0 || len(c.nodes) != len(c.byID) {
		t.Fatalf("%d slots without a bitmap, %d nodes, %d ids", -total, len(c.nodes), len(c.byID))
	}
	if c.currentEpoch < c.lastVoteEpoch {
		t.Fatalf("currentEpoch %d < lastVoteEpoch %d", c.currentEpoch, c.lastVoteEpoch)
	}
}

// Whatever arrives on a link, the core neither panics nor loses its balance.
func FuzzPacket(f *testing.F) {
	base := newFuzzCore(f)
	other := base.byID[strings.Repeat("b", 40)]
	seed := func(p packet) {
		copy(p[offSender:], other.id)
		f.Add([]byte(p), false)
		f.Add([]byte(p), true)
	}
	for _, t := range []MsgType{MsgPing, MsgPong, MsgMeet} {
		seed(base.pingPacket(t))
	}
	for _, t := range []MsgType{MsgAuthRequest, MsgAuthAck, MsgMFStart, 77} {
		seed(base.newPacket(t, headerLen))
	}
	seed(base.failPacket(other))
	up := base.newPacket(MsgUpdate, headerLen+updateLen)
	binary.BigEndian.PutUint64(up[headerLen:], 9)
	copy(up[headerLen+8:], other.id)
	seed(up)
	pub := base.newPacket(MsgPublish, headerLen+8+5)
	binary.BigEndian.PutUint32(pub[headerLen:], 2)
	binary.BigEndian.PutUint32(pub[headerLen+4:], 3)
	copy(pub[headerLen+8:], "chmsg")
	seed(pub)
	base.myself.hostname = "us.example"
	seed(base.pingPacket(MsgPong))
	f.Fuzz(func(t *testing.T, data []byte, outbound bool) {
		c := newFuzzCore(t)
		c.Step(testStart, InboundUp{Inbound | 1, "127.0.0.1", "127.0.0.1"})
		link := Inbound | 1
		if outbound {
			link = c.byID[strings.Repeat("b", 40)].link.id
			c.Step(testStart, LinkUp{link, "127.0.0.1", "127.0.0.1"})
		}
		for i := range 3 {
			c.Step(testStart.Add(time.Duration(i)*time.Second), Packet{link, bytes.Clone(data)})
			c.Step(testStart.Add(time.Duration(i)*time.Second), Timer{})
			checkTables(t, c)
		}
		if _, err := parseConf(c.NodesConf()); err != nil {
			t.Fatalf("what the packet made of nodes.conf cannot be read: %v\n%s", err, c.NodesConf())
		}
	})
}

func newFuzzCore(t testing.TB) *Core {
	cfg := DefaultConfig(7000)
	cfg.NodeTimeout = time.Second
	c, err := New(testStart, cfg, Options{Rand: rand.New(rand.NewPCG(1, 1)), Host: &fakeHost{}, State: []byte(fuzzConf)})
	if err != nil {
		t.Fatal(err)
	}
	c.Start(testStart)
	return c
}

// A nodes.conf is refused or understood; what is understood and written again
// says the same.
func FuzzNodesConf(f *testing.F) {
	f.Add([]byte(fuzzConf))
	f.Add([]byte(strings.Replace(fuzzConf, "vars ", "vars slots-since 0-5460:1,5461:7,5462-16383:18446744073709551615,9:,-1:2\nvars ", 1)))
	f.Add([]byte("eb1859625df108878fa11e76f5c044ddd0505558 :0@0 myself,master - 0 0 0 connected\nvars currentEpoch 0 lastVoteEpoch 0\n"))
	f.Add([]byte("eb1859625df108878fa11e76f5c044ddd0505558 ::1:0 myself,slave eb1859625df108878fa11e76f5c044ddd0505559 0 0 0 connected [5->-eb1859625df108878fa11e76f5c044ddd0505551] 7\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := New(testStart, DefaultConfig(7000), Options{Rand: rand.New(rand.NewPCG(1, 1)), Host: &fakeHost{}, State: text})
		if err != nil || len(text) == 0 {
			return
		}
		checkTables(t, c)
		once := c.NodesConf()
		d, err := New(testStart, DefaultConfig(7000), Options{Rand: rand.New(rand.NewPCG(1, 1)), Host: &fakeHost{}, State: once})
		if err != nil {
			t.Fatalf("our own text is refused: %v\n%s", err, once)
		}
		if twice := d.NodesConf(); !bytes.Equal(once, twice) {
			t.Fatalf("once:\n%s\ntwice:\n%s", once, twice)
		}
	})
}

func FuzzGeneration(f *testing.F) {
	f.Add(EncodeGeneration(7, []byte(fuzzConf)), uint64(7))
	f.Fuzz(func(t *testing.T, b []byte, gen uint64) {
		if _, _, err := DecodeGeneration(b); err == nil && !bytes.HasPrefix(b, []byte(generationMagic)) {
			t.Fatal("accepted without its magic")
		}
		g, text, err := DecodeGeneration(EncodeGeneration(gen, b))
		if err != nil || g != gen || !bytes.Equal(text, b) {
			t.Fatalf("%d, %v, %q", g, err, text)
		}
	})
}
