package slotmove

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"holdfast/internal/redis/cluster/slot"
)

// stage plays the scenarios of testdata: a few nodes, whose messages arrive at
// once, in order, and whose disks and replicas are quick.
//
//	nodes S T            masters; all slots are S's
//	replica name=RS of=S
//	import to=T slots=0-9
//	cancel at=T
//	run                  until nobody has anything to do
//	run to=T effect=...  the same, but the node dies before an effect that begins so
//	run steps=3          so many messages
//	kill node=S
//	start node=S         with what its journal has
//	promote node=RT of=T it owns what T owned, as far as it has heard
//	gossip               all hear who owns the slots: of two claims the newer is believed
//	wait for=2s
//	tables               what the marks say
//
// The output is the trace: of each node, what it is told (<-) and what it does.
type stage struct {
	t     *testing.T
	now   time.Time
	nodes map[string]*actor
	order []string
	todo  []func()
	epoch int
	claim struct {
		owner string
		epoch int
	}
	die struct{ node, effect string }
	out strings.Builder
	job string
}

type actor struct {
	s      *stage
	name   string
	core   *Core
	of     string // whose replica it is
	alive  bool
	owner  string // of the slots, as it knows
	epoch  int    // of that knowledge
	marks  []Mark
	answer *Refused
}

func nodeID(name string) string { return fmt.Sprintf("%040x", name) }

// nameOf is the opposite of nodeID.
func (s *stage) nameOf(id string) string {
	for _, n := range s.order {
		if nodeID(n) == id {
			return n
		}
	}
	return ""
}

func (a *actor) Owner(int) string      { return nodeID(a.owner) }
func (a *actor) MyID() string          { return nodeID(a.name) }
func (a *actor) Known(id string) bool  { return a.s.nameOf(id) != "" }
func (a *actor) Keys(int) int          { return 0 }
func (a *actor) Open(int) bool         { return false }
func (a *actor) ClusterOK() bool       { return true }
func (a *actor) Linger() time.Duration { return 2 * time.Second }
func (a *actor) MasterOf(id string) string {
	if n := a.s.nodes[a.s.nameOf(id)]; n != nil && n.of != "" {
		return nodeID(n.of)
	}
	return id
}

func (s *stage) add(name, of string) *actor {
	a := &actor{s: s, name: name, of: of, owner: s.order0(name)}
	s.nodes[name] = a
	s.order = append(s.order, name)
	s.start(a)
	return a
}

// order0 is the first node, which owns everything in the beginning.
func (s *stage) order0(name string) string {
	if len(s.order) > 0 {
		return s.order[0]
	}
	return name
}

func (s *stage) start(a *actor) {
	a.alive = true
	a.core = New(a)
	for _, m := range a.marks {
		a.core.Replay(m)
	}
	a.step(Role{Master: a.of == ""})
}

func (s *stage) printf(format string, args ...any) {
	line := fmt.Sprintf("%6.3f  ", s.now.Sub(time.Unix(0, 0)).Seconds()) + fmt.Sprintf(format, args...)
	for _, n := range s.order {
		line = strings.ReplaceAll(line, nodeID(n), n)
	}
	s.out.WriteString(strings.ReplaceAll(line, s.job, "job") + "\n")
}

func (a *actor) step(in Input) bool {
	if !a.alive {
		return false
	}
	a.answer = nil
	if _, ok := in.(Timer); !ok {
		a.s.printf("%s <- %s", a.name, describe(in))
	}
	for _, e := range slices.Clone(a.core.Step(a.s.now, in)) {
		text := describe(e)
		if a.s.die.node == a.name && strings.HasPrefix(text, a.s.die.effect) {
			a.s.die.node = ""
			a.s.kill(a)
			return false
		}
		a.s.printf("%s    %s", a.name, text)
		a.act(e)
	}
	return true
}

func describe(v any) string {
	s := strings.TrimPrefix(fmt.Sprintf("%T", v), "slotmove.")
	switch v := v.(type) {
	case Write:
		return s + " " + strings.Join(v.Args(), " ")
	case Log:
		return "log: " + v.Text
	case Stage, Unstage, Release, Refuse, Moved, Accepted, Drop, Sync, Drain, SendPrepared, SendCommit, CloseFeed, Dial, Snapshot, Presync:
		return s
	case Hold:
		return fmt.Sprintf("%s reads=%v", s, v.Reads)
	case Refused:
		return s + " " + v.Why
	case Role:
		return fmt.Sprintf("%s master=%v", s, v.Master)
	case Broken:
		return s + " " + v.Why
	case Answer:
		return fmt.Sprintf("%s of %s: yes=%v %s", s, v.Node, v.Yes, v.Err)
	case Ask:
		return s + " " + v.Node
	case Tell:
		return s + " " + v.Node
	case Claim:
		return s + " from " + v.From
	}
	return s
}

func (s *stage) later(f func()) { s.todo = append(s.todo, f) }

func (s *stage) tell(a *actor, in Input) { s.later(func() { a.step(in) }) }

// ask hands an input to a node that answers it at once.
func (s *stage) ask(from *actor, node, job string, in Input) {
	to := s.nodes[s.nameOf(node)]
	s.later(func() {
		a := Answer{Job: job, Node: node}
		switch {
		case !to.alive:
			a.Err = "connection refused"
		case !to.step(in):
			a.Err = "connection reset"
		case to.answer == nil:
			a.Yes = true
		case !strings.HasPrefix(to.answer.Why, "UNKNOWN "):
			a.Err = to.answer.Why
		}
		s.tell(from, a)
	})
}

func (s *stage) others(a *actor, f func(*actor)) {
	for _, n := range s.order {
		if n != a.name {
			f(s.nodes[n])
		}
	}
}

// peer is the other end of the one job.
func (a *actor) peer() *actor {
	if r := a.core.jobs[a.s.job]; r != nil {
		return a.s.nodes[a.s.nameOf(r.Peer)]
	}
	return nil
}

func (a *actor) act(e Effect) {
	s := a.s
	switch e := e.(type) {
	case Write:
		a.marks = append(a.marks, e.Mark)
		s.others(a, func(r *actor) {
			if r.of == a.name {
				r.marks = append(r.marks, e.Mark)
				r.core.Replay(e.Mark)
			}
		})
	case Refused:
		a.answer = &e
	case Dial:
		to := s.nodes[s.nameOf(e.Node)]
		s.later(func() {
			if !to.alive || !to.step(Feed{e.Job, a.MyID(), e.Slots}) || to.answer != nil {
				s.tell(a, Broken{e.Job, "the source refuses"})
			}
		})
	case Snapshot:
		to := s.nodes[s.nameOf(e.Target)]
		s.later(func() {
			if to.core.jobs[e.Job] == nil {
				s.tell(a, Broken{e.Job, "the target refuses"})
				return
			}
			to.step(Fed{e.Job})
			s.tell(a, SnapshotSent{e.Job})
			s.tell(to, Heard{Job: e.Job, Following: true})
		})
	case Presync:
		if j := a.core.jobs[e.Job]; j.Import {
			s.tell(a.peer(), Synced(e))
			s.tell(a.peer(), Near(e))
		}
	case Drain:
		s.tell(a.peer(), Drained(e))
	case Sync:
		s.tell(a, Durable{Job: e.Job})
	case SendPrepared:
		s.tell(a.peer(), Prepared(e))
	case SendCommit:
		s.tell(a.peer(), Commit{Job: e.Job, From: a.MyID(), Slots: a.core.jobs[e.Job].Slots})
	case CloseFeed:
		s.others(a, func(o *actor) {
			if j := o.core.jobs[e.Job]; j != nil && j.opened {
				s.tell(o, Broken{e.Job, "connection closed"})
			}
		})
	case Claim:
		s.epoch++
		a.owner, a.epoch = a.name, s.epoch
		s.claim.owner, s.claim.epoch = a.name, s.epoch
		s.tell(a, Claimed{Job: e.Job})
	case Ask:
		s.ask(a, e.Node, e.Job, Asked{e.Job, a.MyID(), e.Slots})
	case Tell:
		s.ask(a, e.Node, e.Job, Commit{Job: e.Job, From: a.MyID(), Slots: e.Slots})
	case Drop:
		s.tell(a, Dropped{e.Job})
	}
}

func (s *stage) kill(a *actor) {
	s.printf("%s is killed", a.name)
	a.alive = false
	s.others(a, func(o *actor) {
		if j := o.core.jobs[s.job]; j != nil && j.opened {
			s.tell(o, Broken{s.job, "connection reset"})
		}
	})
}

func (s *stage) run(steps int) {
	for ; len(s.todo) > 0 && steps > 0; steps-- {
		f := s.todo[0]
		s.todo = s.todo[1:]
		f()
	}
}

// wait lets timers fire.
func (s *stage) wait(d time.Duration) {
	for end := s.now.Add(d); s.now.Before(end); s.now = s.now.Add(100 * time.Millisecond) {
		for _, n := range s.order {
			if a := s.nodes[n]; a.alive && !a.core.Deadline().IsZero() && !s.now.Before(a.core.Deadline()) {
				a.step(Timer{})
			}
		}
		s.run(1000)
	}
}

func (s *stage) gossip() {
	for _, n := range s.order {
		if a := s.nodes[n]; a.alive && a.epoch < s.claim.epoch {
			a.owner, a.epoch = s.claim.owner, s.claim.epoch
			a.step(Moved{})
		}
	}
	s.run(1000)
}

func (s *stage) tables() {
	for _, n := range s.order {
		if a := s.nodes[n]; a.alive {
			s.printf("%s knows %s as the owner; marks: %s", n, a.owner, strings.ReplaceAll(a.core.Table().String(), "\n", " "))
		}
	}
}

func (s *stage) do(d *datadriven.TestData) string {
	s.out.Reset()
	arg := func(key string) (v string) {
		if d.HasArg(key) {
			d.ScanArgs(s.t, key, &v)
		}
		return v
	}
	switch d.Cmd {
	case "nodes":
		for _, a := range d.CmdArgs {
			s.add(a.Key, "")
		}
	case "replica":
		s.add(arg("name"), arg("of"))
	case "import":
		set, err := slot.ParseSet(arg("slots"))
		if err != nil {
			s.t.Fatal(err)
		}
		s.nodes[arg("to")].step(Import{Job: s.job, Source: nodeID(s.order[0]), Slots: &set})
	case "cancel":
		s.nodes[arg("at")].step(Cancel{Job: s.job})
		s.run(1000)
	case "run":
		s.die.node, s.die.effect = arg("to"), strings.ReplaceAll(arg("effect"), "_", " ")
		steps := 1000
		if d.HasArg("steps") {
			d.ScanArgs(s.t, "steps", &steps)
		}
		s.run(steps)
	case "kill":
		s.kill(s.nodes[arg("node")])
		s.run(1000)
	case "start":
		s.start(s.nodes[arg("node")])
	case "promote":
		a, old := s.nodes[arg("node")], s.nodes[arg("of")]
		a.of, old.of = "", a.name
		if a.owner == old.name {
			s.epoch++
			a.owner, a.epoch = a.name, s.epoch
			s.claim.owner, s.claim.epoch = a.name, s.epoch
		}
		a.step(Role{Master: true})
	case "gossip":
		s.gossip()
	case "wait":
		wait, err := time.ParseDuration(arg("for"))
		if err != nil {
			s.t.Fatal(err)
		}
		s.wait(wait)
	case "tables":
		s.tables()
	default:
		s.t.Fatalf("%s: unknown verb %s", d.Pos, d.Cmd)
	}
	return s.out.String()
}

// What the package comment promises, told step by step.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		if strings.Contains(path, "fuzz") {
			return
		}
		s := &stage{t: t, now: time.Unix(0, 0), nodes: map[string]*actor{}, job: fmt.Sprintf("%040x", 0x10b)}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.t = t
			return s.do(d)
		})
	})
}
