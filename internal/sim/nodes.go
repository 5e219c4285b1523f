package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/redis/sentinel"
)

// simSentinel is a core in its simulated process. disk is all that survives.
type simSentinel struct {
	w         *world
	n         *node
	core      *sentinel.Core
	disk      *sentinel.Config
	life      uint64
	conns     map[sentinel.ConnID]*conn
	asking    map[uint64]*conn // commands of peers that wait for their reply
	lastToken uint64
	startedAt time.Time
	wake      time.Time
}

func (s *simSentinel) start() {
	s.life++
	s.conns, s.asking = map[sentinel.ConnID]*conn{}, map[uint64]*conn{}
	s.startedAt = s.w.now
	core, err := sentinel.New(s.w.now, s.disk, sentinel.Options{
		Rand: rand.New(rand.NewPCG(s.w.rng.Uint64(), uint64(s.n.id))), Port: s.n.port, Mutants: s.w.opts.Mutants,
	})
	if err != nil {
		s.w.violate("sentinel %s cannot start from its own state: %v", s.n.host, err)
		return
	}
	s.core = core
	s.w.check.restarted(s)
	s.apply(core.Start(s.w.now))
	s.schedule()
}

func (s *simSentinel) stop() {
	s.core = nil
	s.conns, s.asking = nil, nil
}

// peerRebooted: the old connections to n are answered by a reset.
func (s *simSentinel) peerRebooted(n *node) {
	ids := make([]sentinel.ConnID, 0, len(s.conns))
	for id := range s.conns {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		if k := s.conns[id]; k.to == n && !k.open {
			s.w.after(s.w.delay(), func() { s.w.tell(k, sentinel.ConnDown{Conn: id, Err: "Connection reset by peer"}) })
		}
	}
}

// schedule plans the next timer.
func (s *simSentinel) schedule() {
	if s.core == nil {
		return
	}
	t := s.core.Deadline()
	if !t.After(s.w.now) {
		t = s.w.now.Add(time.Millisecond)
	}
	if s.wake.After(s.w.now) && !s.wake.After(t) {
		return
	}
	s.wake = t
	life := s.life
	s.w.at(t, func() {
		if s.life != life || s.core == nil || s.n.paused || !s.wake.Equal(t) {
			return
		}
		s.step(sentinel.Timer{})
	})
}

func (s *simSentinel) step(in sentinel.Input) {
	if s.core == nil || !s.n.alive {
		return
	}
	s.apply(s.core.Step(s.w.now, in))
	if s.core != nil {
		s.w.check.observe(s)
		s.schedule()
	}
}

// apply carries out effects. During the time of faults the process may die
// between any two of them.
func (s *simSentinel) apply(effects []sentinel.Effect) {
	w := s.w
	for _, e := range effects {
		if w.faulty() && len(effects) > 3 && w.rng.IntN(600) == 0 {
			w.tracef("%s dies between two effects", s.n.host)
			w.crash(s.n, false)
			return
		}
		switch e := e.(type) {
		case sentinel.Persist:
			s.disk = e.Config
			w.check.persisted(s)
		case sentinel.Connect:
			k := &conn{id: e.Conn, from: s.n, to: w.nodeAt(e.Host, e.Port), life: s.life, pubsub: e.Pubsub}
			s.conns[e.Conn] = k
			w.dial(k)
		case sentinel.Disconnect:
			if k := s.conns[e.Conn]; k != nil {
				k.open = false
				delete(s.conns, e.Conn)
			}
		case sentinel.Send:
			s.send(s.conns[e.Conn], e.Args)
		case sentinel.Reply:
			if k := s.asking[e.Client]; k != nil {
				delete(s.asking, e.Client)
				v := e.Value
				w.transmit(k, toClient, func() { k.from.sentinel.reply(k, v) })
			}
		case sentinel.Event:
			w.tracef("%s %s %s", s.n.host, e.Type, e.Text)
			w.check.event(s, e)
			if e.Type == "+vote-for-leader" && w.faulty() && w.rng.IntN(5) == 0 {
				// Right after a vote is the moment to forget it.
				w.after(time.Duration(w.rng.IntN(30))*time.Millisecond, func() { w.crash(s.n, false) })
				w.after(time.Duration(50+w.rng.IntN(200))*time.Millisecond, func() { w.restart(s.n) })
			}
		case sentinel.Log:
			w.tracef("%s %s", s.n.host, e.Text)
		}
	}
}

// send carries a command to the node at the other end of k.
func (s *simSentinel) send(k *conn, args []string) {
	if k == nil || k.to == nil {
		return
	}
	s.w.transmit(k, toServer, func() {
		if k.to.sentinel != nil {
			k.to.sentinel.serve(k, args)
		} else {
			k.to.server.serve(k, args)
		}
	})
}

// reply arrives at the Sentinel that asked.
func (s *simSentinel) reply(k *conn, v sentinel.Value) {
	if s.life == k.life && s.conns[k.id] == k {
		s.step(sentinel.ReplyIn{Conn: k.id, Reply: v})
	}
}

// serve answers a command of a peer.
func (s *simSentinel) serve(k *conn, args []string) {
	switch args[0] {
	case "PING":
		s.answer(k, sentinel.Value{Kind: sentinel.Status, Str: "PONG"})
	case "CLIENT", "AUTH":
		s.answer(k, sentinel.Value{Kind: sentinel.Status, Str: "OK"})
	default:
		s.lastToken++
		s.asking[s.lastToken] = k
		s.step(sentinel.Command{Client: s.lastToken, Args: args})
	}
}

func (s *simSentinel) answer(k *conn, v sentinel.Value) {
	s.w.transmit(k, toClient, func() { k.from.sentinel.reply(k, v) })
}

// simServer is a data server as far as a Sentinel can see it.
type simServer struct {
	w          *world
	n          *node
	runID      string
	master     bool
	masterHost string
	masterPort int
	linkUp     bool
	linkDown   time.Time // since when
	syncUntil  time.Time // a full copy runs until then
	offset     int64
	changed    time.Time // when offset last changed
	priority   int
	stuck      bool // replication has been broken since long ago
}

func (d *simServer) newRunID() {
	b := make([]byte, 40)
	for i := range b {
		b[i] = "0123456789abcdef"[d.w.rng.IntN(16)]
	}
	d.runID = string(b)
}

// restart keeps data and the rewritten configuration, as a server with a
// journal and CONFIG REWRITE does.
func (d *simServer) restart() {
	d.newRunID()
	d.linkUp = false
	d.linkDown = d.w.now
}

func (d *simServer) follow(host string, port int) {
	if !d.master && d.masterHost == host && d.masterPort == port {
		return
	}
	d.master, d.masterHost, d.masterPort = false, host, port
	d.linkUp, d.linkDown = false, d.w.now
	d.syncUntil = d.w.now.Add(time.Duration(50+d.w.rng.IntN(1500)) * time.Millisecond)
}

// replicate is one tick: a master takes writes, a replica that reaches its
// master copies what it can.
func (d *simServer) replicate() {
	w := d.w
	if !d.n.alive || d.n.paused {
		return
	}
	if d.master {
		d.set(d.offset + int64(w.rng.IntN(50)))
		return
	}
	m := w.nodeAt(d.masterHost, d.masterPort)
	if m == nil || m == d.n || m.server == nil || !m.alive || m.paused || d.stuck ||
		w.cut[m.id][d.n.id] || w.cut[d.n.id][m.id] || (!m.server.master && !m.server.linkUp) {
		if d.linkUp {
			d.linkUp, d.linkDown = false, w.now
		}
		return
	}
	if w.now.Before(d.syncUntil) {
		return
	}
	d.linkUp = true
	to := m.server.offset
	if lag := int64(w.rng.IntN(30)); to-lag > d.offset {
		to -= lag
	} else if to > d.offset {
		to = d.offset
	}
	d.set(to)
}

func (d *simServer) set(offset int64) {
	if offset != d.offset {
		d.offset, d.changed = offset, d.w.now
	}
}

func (d *simServer) answer(k *conn, v sentinel.Value) {
	d.w.transmit(k, toClient, func() { k.from.sentinel.reply(k, v) })
}

var okStatus = sentinel.Value{Kind: sentinel.Status, Str: "OK"}

func (d *simServer) serve(k *conn, args []string) {
	if k.inMulti && args[0] != "EXEC" {
		k.multi = append(k.multi, args)
		d.answer(k, sentinel.Value{Kind: sentinel.Status, Str: "QUEUED"})
		return
	}
	switch args[0] {
	case "PING":
		d.answer(k, sentinel.Value{Kind: sentinel.Status, Str: "PONG"})
	case "INFO":
		d.answer(k, sentinel.Value{Kind: sentinel.Bulk, Str: d.info()})
	case "MULTI":
		k.inMulti = true
		d.answer(k, okStatus)
	case "EXEC":
		list := k.multi
		k.inMulti, k.multi = false, nil
		for _, a := range list {
			d.execute(k, a)
		}
		d.answer(k, sentinel.Value{Kind: sentinel.Array})
	case "SUBSCRIBE":
		k.subscribed = true
		d.w.transmit(k, toClient, func() { k.from.sentinel.message(k, "") })
	case "PUBLISH":
		for _, o := range d.w.conns {
			if o.to == d.n && o.open && o.subscribed {
				d.w.transmit(o, toClient, func() { o.from.sentinel.message(o, args[2]) })
			}
		}
		d.answer(k, sentinel.Value{Kind: sentinel.Int, Int: 1})
	default:
		d.answer(k, okStatus)
	}
}

func (s *simSentinel) message(k *conn, payload string) {
	if s.life == k.life && s.conns[k.id] == k {
		s.step(sentinel.PubsubActivity{Conn: k.id, Payload: payload})
	}
}

// execute runs one command of a transaction.
func (d *simServer) execute(k *conn, args []string) {
	w := d.w
	switch {
	case args[0] == "SLAVEOF" && args[1] == "NO":
		w.tracef("%s becomes master, told by %s", d.n.host, k.from.host)
		w.check.promoted(d)
		d.master, d.masterHost = true, ""
	case args[0] == "SLAVEOF":
		port, err := strconv.Atoi(args[2])
		if err != nil {
			w.violate("SLAVEOF with port %q", args[2])
			return
		}
		w.tracef("%s follows %s, told by %s", d.n.host, args[1], k.from.host)
		d.follow(args[1], port)
	case args[0] == "CLIENT" && args[1] == "KILL":
		for _, o := range w.conns {
			if o.to == d.n && o != k && o.pubsub == (args[3] == "pubsub") {
				w.reset(o)
			}
		}
	}
}

// info is INFO with the fields that a Sentinel reads.
func (d *simServer) info() string {
	var b strings.Builder
	b.WriteString("# Server\r\nrun_id:" + d.runID + "\r\n# Replication\r\n")
	if d.master {
		b.WriteString("role:master\r\n")
		i := 0
		for _, n := range d.w.nodes {
			if o := n.server; o != nil && !o.master && o.linkUp && o.masterHost == d.n.host {
				fmt.Fprintf(&b, "slave%d:ip=%s,port=%d,state=online,offset=%d,lag=0\r\n", i, n.host, n.port, o.offset)
				i++
			}
		}
		return b.String()
	}
	status := "up"
	if !d.linkUp {
		status = "down"
		fmt.Fprintf(&b, "master_link_down_since_seconds:%d\r\n", int(d.w.now.Sub(d.linkDown).Seconds()))
	}
	fmt.Fprintf(&b, "role:slave\r\nmaster_host:%s\r\nmaster_port:%d\r\nmaster_link_status:%s\r\n"+
		"slave_repl_offset:%d\r\nslave_priority:%d\r\nreplica_announced:1\r\n",
		d.masterHost, d.masterPort, status, d.offset, d.priority)
	return b.String()
}
