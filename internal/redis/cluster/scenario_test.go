package cluster

import (
	"encoding/binary"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"holdfast/internal/redis/cluster/slot"
)

// Scenarios in testdata/*.txt: one core among nodes whose packets the file makes
// up. A node is a letter, its id that letter forty times; we are A. Time stands
// still but for pass. Every command shows the effects in order; pings, and
// pongs while time passes, are left out.
//
//	begin                    one line of input per node: LETTER master|replica-of-X epoch=N [slots]
//	                         after it, all have answered, and seconds have passed
//	pass 1900ms [alive=CD]   time passes; only those named answer (all: alive=*)
//	hear from=B type=pong    a packet as B would send it, changed by: epoch=N current=N slots=SET
//	                         master=C|none offset=N paused about=X (fail, update)
//	data offset=N age=1s     what the host says of its data; then DataChanged
//	cluster ARGS             a CLUSTER command; letters after a dollar are ids
//	take from=B slots=SET epoch=N
//	show                     who owns what, as we know it
type stage struct {
	t *testing.T
	r *rig
}

func sceneID(letter string) string { return strings.Repeat(strings.ToLower(letter), NameLen) }

var sceneIDs = regexp.MustCompile(`a{40}|b{40}|c{40}|d{40}|e{40}|f{40}`)

// letters shows ids as letters.
func letters(s string) string {
	return sceneIDs.ReplaceAllStringFunc(s, func(id string) string { return strings.ToUpper(id[:1]) })
}

func (s *stage) begin(d *datadriven.TestData) string {
	var conf strings.Builder
	current := 0
	for i, line := range strings.Split(d.Input, "\n") {
		f := strings.Fields(line)
		flags, master, epoch := "master", "-", 0
		if of, ok := strings.CutPrefix(f[1], "replica-of-"); ok {
			flags, master = "slave", sceneID(of)
		}
		if f[0] == "A" {
			flags = "myself," + flags
		}
		fmt.Sscanf(f[2], "epoch=%d", &epoch)
		current = max(current, epoch)
		fmt.Fprintf(&conf, "%s 127.0.0.1:%d@%d %s %s 0 0 %d connected %s\n", sceneID(f[0]), 7000+i, 17000+i, flags, master, epoch, strings.Join(f[3:], " "))
	}
	fmt.Fprintf(&conf, "vars currentEpoch %d lastVoteEpoch 0\n", current)
	s.r = newRig(s.t, conf.String())
	s.r.pass(3*time.Second, s.names("*")...)
	return s.show()
}

// names are the ids of letters; "*" is everybody else.
func (s *stage) names(list string) (ids []string) {
	for _, n := range s.r.c.nodes {
		if n != s.r.c.myself && (list == "*" || strings.Contains(list, strings.ToUpper(n.id[:1]))) {
			ids = append(ids, n.id)
		}
	}
	return ids
}

func sceneArg(d *datadriven.TestData, key string) string {
	if a, ok := d.Arg(key); ok && len(a.Vals) > 0 {
		return strings.Join(a.Vals, ",")
	}
	return ""
}

func (s *stage) number(d *datadriven.TestData, key string) uint64 {
	n, err := strconv.ParseUint(sceneArg(d, key), 10, 64)
	if err != nil {
		d.Fatalf(s.t, "%s: %v", key, err)
	}
	return n
}

func (s *stage) set(d *datadriven.TestData) *slot.Set {
	set, err := slot.ParseSet(sceneArg(d, "slots"))
	if err != nil {
		d.Fatalf(s.t, "%v", err)
	}
	return &set
}

var sceneTypes = map[string]MsgType{
	"ping": MsgPing, "pong": MsgPong, "fail": MsgFail, "auth-req": MsgAuthRequest, "auth-ack": MsgAuthAck, "update": MsgUpdate, "mfstart": MsgMFStart,
}

// packet is what the file has a node send.
func (s *stage) packet(d *datadriven.TestData) packet {
	typ := sceneTypes[sceneArg(d, "type")]
	p := s.r.packet(sceneID(sceneArg(d, "from")), typ)
	put := func(b []byte) {
		clear(b[:bitmapLen])
		s.set(d).Each(func(n int) { b[n>>3] |= 1 << (n & 7) })
	}
	if d.HasArg("current") {
		p.put64(offCurEpoch, s.number(d, "current"))
	}
	if d.HasArg("offset") {
		p.put64(offOffset, s.number(d, "offset"))
	}
	if d.HasArg("paused") {
		p[offMsgFlags] |= flagPaused
	}
	if m := sceneArg(d, "master"); m == "none" {
		clear(p[offMaster : offMaster+NameLen])
		p.put16(offFlags, int(FlagMaster))
	} else if m != "" {
		copy(p[offMaster:], sceneID(m))
		p.put16(offFlags, int(FlagReplica))
	}
	switch about := sceneID(sceneArg(d, "about")); typ {
	case MsgFail:
		copy(p[headerLen:], about)
		return p
	case MsgUpdate:
		binary.BigEndian.PutUint64(p[headerLen:], s.number(d, "epoch"))
		copy(p[headerLen+8:], about)
		put(p[headerLen+8+NameLen:])
		return p
	}
	if d.HasArg("epoch") {
		p.put64(offCfgEpoch, s.number(d, "epoch"))
	}
	if d.HasArg("slots") {
		put(p[offSlots:])
	}
	return p
}

func (s *stage) exec(d *datadriven.TestData) string {
	r := s.r
	switch d.Cmd {
	case "begin":
		return s.begin(d)
	case "pass":
		t, err := time.ParseDuration(d.CmdArgs[0].Key)
		if err != nil {
			d.Fatalf(s.t, "%v", err)
		}
		return s.effects(r.pass(t, s.names(sceneArg(d, "alive"))...), true)
	case "hear":
		return s.effects(r.hear(s.packet(d)), false)
	case "data":
		r.host.set(func(data *Data) {
			data.MasterLinkUp = d.HasArg("up")
			if d.HasArg("offset") {
				data.Offset = int64(s.number(d, "offset"))
			}
			if age, err := time.ParseDuration(sceneArg(d, "age")); err == nil {
				data.MasterSeen = r.now.Add(-age)
			}
		})
		return s.effects(r.step(DataChanged{}), false)
	case "cluster":
		var args []string
		for _, a := range d.CmdArgs {
			k := a.Key
			if l, ok := strings.CutPrefix(k, "$"); ok {
				k = sceneID(l)
			}
			args = append(args, k)
		}
		return s.effects(r.step(Command{Args: args}), false)
	case "take":
		in := TakeSlots{Slots: s.set(d), From: sceneID(sceneArg(d, "from"))}
		if d.HasArg("epoch") {
			in.Epoch = s.number(d, "epoch")
		}
		return s.effects(r.step(in), false)
	case "show":
		return s.show()
	}
	d.Fatalf(s.t, "unknown command %s", d.Cmd)
	return ""
}

// show is one line per node, and the epochs.
func (s *stage) show() string {
	var b strings.Builder
	c := s.r.c
	for _, n := range c.nodes {
		role := "master"
		if n.isReplica() {
			role = "replica of nobody"
			if n.master != nil {
				role = "replica of " + letters(n.master.id)
			}
		}
		fmt.Fprintf(&b, "%s %s epoch=%d", letters(n.id), role, n.configEpoch)
		if n.failed() {
			b.WriteString(" FAIL")
		}
		set := n.slots.set64()
		if t := set.String(); t != "" {
			b.WriteString(" " + t)
		}
		b.WriteByte('\n')
	}
	for i := range Slots {
		if n := c.migrating[i]; n != nil {
			fmt.Fprintf(&b, "slot %d migrates to %s\n", i, letters(n.id))
		}
		if n := c.importing[i]; n != nil {
			fmt.Fprintf(&b, "slot %d is imported from %s\n", i, letters(n.id))
		}
	}
	fmt.Fprintf(&b, "state %s, current epoch %d, last vote %d\n", okText(c.ok), c.currentEpoch, c.lastVoteEpoch)
	return b.String()
}

// effects shows what a step asks for; packets that go to several nodes in one
// line.
func (s *stage) effects(list []Effect, quiet bool) string {
	var b strings.Builder
	names := map[LinkID]string{}
	for id, l := range s.r.c.links {
		if l.node != nil {
			names[id] = letters(l.node.id)
		}
	}
	last := ""
	for _, e := range list {
		line := ""
		switch e := e.(type) {
		case Persist:
			line = "persist"
			if e.Sync {
				line = "persist and sync"
			}
			if quiet && !e.Sync {
				continue
			}
		case Send:
			p := packet(e.Data)
			if t := p.msgType(); t == MsgPing || (t == MsgPong && quiet) {
				continue
			}
			what := fmt.Sprintf("send %s %s to", p.msgType(), sceneContent(p))
			if what == last {
				b.WriteString(" " + names[e.Link])
				continue
			}
			last = what
			fmt.Fprintf(&b, "\n%s %s", what, names[e.Link])
			continue
		case FollowMaster:
			line = "follow " + e.ID
		case DropSlotKeys:
			line = fmt.Sprintf("drop the keys of %d slots", len(e.Slots))
		case PauseWrites:
			line = "pause writes"
		case ResumeWrites:
			line = "resume writes"
		case Promote:
			line = "promote"
		case Taken:
			line = fmt.Sprintf("taken: %v %s", e.OK, e.Why)
		case Reply:
			line = fmt.Sprintf("reply: %s", e.Value.Str)
		case StateChanged:
			line = "state " + okText(e.OK)
		case Log:
			if e.Level < Notice {
				continue
			}
			line = "log: " + e.Text
		default:
			continue
		}
		last = ""
		b.WriteString("\n" + strings.TrimSpace(line))
	}
	if b.Len() == 0 {
		return "nothing\n"
	}
	return letters(b.String()[1:]) + "\n"
}

// sceneContent is what matters of a packet.
func sceneContent(p packet) string {
	switch p.msgType() {
	case MsgFail:
		return "about " + string(p.failing())
	case MsgUpdate:
		epoch, id, _ := p.update()
		return fmt.Sprintf("about %s epoch=%d", id, epoch)
	case MsgAuthRequest:
		return fmt.Sprintf("current=%d", p.currentEpoch())
	}
	return fmt.Sprintf("epoch=%d current=%d", p.configEpoch(), p.currentEpoch())
}

// What a node does, told as stories.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata/scenarios", func(t *testing.T, path string) {
		s := &stage{t: t}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.t = t
			if s.r != nil {
				s.r.t = t
			}
			return s.exec(d)
		})
	})
}
