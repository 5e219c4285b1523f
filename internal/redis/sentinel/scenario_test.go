package sentinel

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// stage is a world of one Sentinel, for scenarios in testdata. All others are
// puppets: they answer as the scenario says, at once.
//
//	sentinel                    the directives in the input, then start
//	info addr=H:P               what INFO of that server says from now on
//	opinion addr=H:P down=1 leader=ID epoch=N   how that peer answers
//	kill addr=H:P               it refuses connections, open ones break
//	revive addr=H:P
//	run for=5s                  time passes, timers fire, puppets answer
//	sleep for=3s                time passes and the Sentinel does not run
//	hello via=H:P               the message in the input arrives there
//	command                     a client sends the line in the input
//	connections                 shows who is connected
//
// The output is the trace: events, logs, what is persisted, and every command
// sent but the periodic ones.
type stage struct {
	t       *testing.T
	core    *Core
	start   time.Time
	now     time.Time
	info    map[string]string
	opinion map[string]Value
	dead    map[string]bool
	conns   map[ConnID]Connect
	up      map[ConnID]bool
	todo    []Input
	out     strings.Builder
}

func newStage(t *testing.T) *stage {
	s := &stage{t: t, start: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), info: map[string]string{},
		opinion: map[string]Value{}, dead: map[string]bool{}, conns: map[ConnID]Connect{}, up: map[ConnID]bool{}}
	s.now = s.start
	return s
}

func (s *stage) printf(format string, args ...any) {
	fmt.Fprintf(&s.out, "%6.3f  %s\n", s.now.Sub(s.start).Seconds(), fmt.Sprintf(format, args...))
}

func (s *stage) apply(effects []Effect) {
	for _, e := range effects {
		switch e := e.(type) {
		case Event:
			if e.Level > Debug {
				s.printf("%s %s", e.Type, e.Text)
			}
		case Log:
			s.printf("log: %s", e.Text)
		case Persist:
			m := e.Config.Masters
			line := fmt.Sprintf("persist current-epoch=%d", e.Config.CurrentEpoch)
			for _, m := range m {
				line += fmt.Sprintf(" %s=%s:%d config-epoch=%d leader-epoch=%d replicas=%d sentinels=%d",
					m.Name, m.Host, m.Port, m.ConfigEpoch, m.LeaderEpoch, len(m.Replicas), len(m.Sentinels))
			}
			s.printf("%s", line)
		case Connect:
			s.conns[e.Conn] = e
			if s.dead[hostPort(e.Host, e.Port)] {
				s.todo = append(s.todo, ConnDown{Conn: e.Conn, Refused: true, Err: "Connection refused"})
			} else {
				s.up[e.Conn] = true
				s.todo = append(s.todo, ConnUp{Conn: e.Conn, LocalIP: "10.0.0.9", RemoteIP: e.Host})
			}
		case Disconnect:
			delete(s.conns, e.Conn)
			delete(s.up, e.Conn)
		case Send:
			s.sent(e)
		case Reply:
			s.printf("reply: %s", render(e.Value))
		case RunScript:
			s.printf("script %d: %s", e.ID, strings.Join(e.Args, " "))
		case Exit:
			s.printf("exit %d", e.Code)
		}
	}
}

func render(v Value) string {
	switch v.Kind {
	case Int:
		return fmt.Sprintf(":%d", v.Int)
	case Array, Map:
		var parts []string
		for _, e := range v.Elems {
			parts = append(parts, render(e))
		}
		return "[" + strings.Join(parts, " ") + "]"
	case Error:
		return "-" + v.Str
	case Null, NullArray:
		return "nil"
	}
	return v.Str
}

// sent notes a command and, if the other side lives, its reply.
func (s *stage) sent(e Send) {
	k := s.conns[e.Conn]
	addr := hostPort(k.Host, k.Port)
	switch e.Args[0] {
	case "PING", "INFO", "PUBLISH", "CLIENT", "SUBSCRIBE":
	default:
		s.printf("-> %s %s", addr, strings.Join(e.Args, " "))
	}
	if s.dead[addr] {
		return
	}
	reply := Value{Kind: Status, Str: "OK"}
	switch e.Args[0] {
	case "PING":
		reply.Str = "PONG"
	case "INFO":
		reply = Value{Kind: Bulk, Str: s.info[addr]}
	case "PUBLISH":
		reply = integer(1)
	case "SUBSCRIBE":
		s.todo = append(s.todo, PubsubActivity{Conn: e.Conn})
		return
	case "SENTINEL":
		v, ok := s.opinion[addr]
		if !ok {
			v = array(integer(0), bulk("*"), integer(0))
		}
		reply = v
	case "EXEC":
		reply = array()
	}
	s.todo = append(s.todo, ReplyIn{Conn: e.Conn, Reply: reply})
}

func (s *stage) step(in Input) { s.apply(s.core.Step(s.now, in)) }

// settle lets the puppets answer until there is nothing left to answer.
func (s *stage) settle() {
	for i := 0; len(s.todo) > 0; i++ {
		if i > 10000 {
			s.t.Fatalf("the Sentinel and its puppets do not come to rest: %#v\n%s", s.todo[0], s.out.String())
		}
		in := s.todo[0]
		s.todo = s.todo[1:]
		s.step(in)
	}
}

func (s *stage) run(d time.Duration) {
	end := s.now.Add(d)
	for {
		s.settle()
		t := s.core.Deadline()
		if t.After(end) {
			break
		}
		if t.Before(s.now) {
			t = s.now
		}
		if !t.After(s.now) {
			t = s.now.Add(time.Millisecond)
		}
		s.now = t
		s.step(Timer{})
	}
	s.now = end
}

func (s *stage) ids(addr string) []ConnID {
	var ids []ConnID
	for id, k := range s.conns {
		if hostPort(k.Host, k.Port) == addr && s.up[id] {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func arg(d *datadriven.TestData, key string) string {
	var v string
	if d.HasArg(key) {
		for _, a := range d.CmdArgs {
			if a.Key == key && len(a.Vals) > 0 {
				v = a.Vals[0]
			}
		}
	}
	return v
}

func (s *stage) exec(d *datadriven.TestData) string {
	s.out.Reset()
	addr := arg(d, "addr")
	switch d.Cmd {
	case "sentinel":
		s.begin(d)
	case "info":
		s.info[addr] = strings.ReplaceAll(d.Input, "\n", "\r\n") + "\r\n"
	case "opinion":
		epoch, _ := strconv.ParseInt(arg(d, "epoch"), 10, 64)
		leader := arg(d, "leader")
		if leader == "" {
			leader = "*"
		}
		down, _ := strconv.ParseInt(arg(d, "down"), 10, 64)
		s.opinion[addr] = array(integer(down), bulk(leader), integer(epoch))
	case "kill":
		s.dead[addr] = true
		for _, id := range s.ids(addr) {
			delete(s.up, id)
			s.step(ConnDown{Conn: id, Err: "EOF"})
		}
		s.settle()
	case "revive":
		delete(s.dead, addr)
	case "run", "sleep":
		dur, err := time.ParseDuration(arg(d, "for"))
		if err != nil {
			d.Fatalf(s.t, "%v", err)
		}
		if d.Cmd == "sleep" {
			s.now = s.now.Add(dur)
			break
		}
		s.run(dur)
	case "hello":
		for _, id := range s.ids(arg(d, "via")) {
			if s.conns[id].Pubsub {
				s.step(PubsubActivity{Conn: id, Payload: d.Input})
			}
		}
		s.settle()
	case "command":
		s.step(Command{Client: 1, Args: strings.Fields(d.Input)})
		s.settle()
	case "connections":
		var lines []string
		for id, k := range s.conns {
			if s.up[id] {
				lines = append(lines, fmt.Sprintf("%s pubsub=%v", hostPort(k.Host, k.Port), k.Pubsub))
			}
		}
		sort.Strings(lines)
		return strings.Join(lines, "\n") + "\n"
	default:
		d.Fatalf(s.t, "unknown verb %q", d.Cmd)
	}
	return s.out.String()
}

func (s *stage) begin(d *datadriven.TestData) {
	cfg := NewConfig()
	for _, l := range strings.Split(d.Input, "\n") {
		if err := cfg.Apply(strings.Fields(l), nil); err != nil {
			d.Fatalf(s.t, "%s: %v", l, err)
		}
	}
	core, err := New(s.now, cfg, Options{Rand: rand.New(rand.NewPCG(1, 1)), Port: 26379})
	if err != nil {
		d.Fatalf(s.t, "%v", err)
	}
	s.core = core
	s.apply(core.Start(s.now))
	s.settle()
}

// The stories that a Sentinel is there for, each a file.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata/scenarios", func(t *testing.T, path string) {
		s := newStage(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string { return s.exec(d) })
	})
}
