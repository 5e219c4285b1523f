package sim

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/redis/sentinel"
)

// checker watches the whole world for what no single process may break.
type checker struct {
	w       *world
	leaders map[uint64]string            // epoch -> who was elected
	votes   map[string]map[uint64]string // voter -> epoch -> candidate
	addrs   map[uint64]string            // configuration epoch -> address
	epochs  map[string]uint64            // Sentinel -> its configuration epoch
	onDisk  map[string]uint64            // the same, as persisted
}

func (c *checker) init(w *world) {
	*c = checker{w: w, leaders: map[uint64]string{}, votes: map[string]map[uint64]string{},
		addrs: map[uint64]string{}, epochs: map[string]uint64{}, onDisk: map[string]uint64{}}
}

// event checks what a Sentinel announced.
func (c *checker) event(s *simSentinel, e sentinel.Event) {
	if s.core == nil {
		return
	}
	me := s.core.MyID()
	switch e.Type {
	case "+elected-leader":
		v, _ := s.core.Master(masterName)
		if who, ok := c.leaders[v.FailoverEpoch]; ok && who != me {
			c.w.violate("one leader: %.6s and %.6s were both elected in epoch %d", who, me, v.FailoverEpoch)
		}
		c.leaders[v.FailoverEpoch] = me
	case "+vote-for-leader":
		who, num, _ := strings.Cut(e.Text, " ")
		epoch, err := strconv.ParseUint(num, 10, 64)
		if err != nil {
			c.w.violate("vote without an epoch: %q", e.Text)
			return
		}
		if c.votes[me] == nil {
			c.votes[me] = map[uint64]string{}
		}
		if old, ok := c.votes[me][epoch]; ok && old != who {
			c.w.violate("one vote: %.6s voted in epoch %d for %.6s and for %.6s", me, epoch, old, who)
		}
		c.votes[me][epoch] = who
	case "+selected-slave":
		c.selected(s, e.Text)
	case "+promoted-slave":
		c.w.res.Failovers++
	}
}

// observe checks the state of a Sentinel after a step.
func (c *checker) observe(s *simSentinel) {
	v, ok := s.core.Master(masterName)
	if !ok {
		c.w.violate("%s forgot the master", s.n.host)
		return
	}
	me := s.core.MyID()
	if v.ConfigEpoch < c.epochs[me] {
		c.w.violate("epochs rise: %.6s went from configuration epoch %d to %d", me, c.epochs[me], v.ConfigEpoch)
	}
	c.epochs[me] = v.ConfigEpoch
	addr := fmt.Sprintf("%s:%d", v.Addr.IP, v.Addr.Port)
	if old, ok := c.addrs[v.ConfigEpoch]; ok && old != addr {
		c.w.violate("one master: configuration epoch %d is %s and, for %.6s, %s", v.ConfigEpoch, old, me, addr)
	}
	c.addrs[v.ConfigEpoch] = addr
}

func (c *checker) persisted(s *simSentinel) {
	if m := s.disk.Master(masterName); m != nil {
		c.onDisk[s.disk.MyID] = m.ConfigEpoch
	}
}

// restarted: what was not persisted is rightly forgotten.
func (c *checker) restarted(s *simSentinel) {
	c.epochs[s.core.MyID()] = c.onDisk[s.core.MyID()]
}

// promoted checks a server at the moment it is made a master.
func (c *checker) promoted(d *simServer) {
	if d.master {
		return
	}
	switch {
	case d.priority == 0:
		c.w.violate("fit replica: %s of priority 0 was promoted", d.n.host)
	case d.stuck && c.w.now.Sub(d.linkDown) > 10*time.Minute:
		c.w.violate("fit replica: %s was promoted, %v after it lost its master", d.n.host, c.w.now.Sub(d.linkDown))
	}
}

// steady is how long nothing may have happened around a replica before the
// checker holds a Sentinel to knowing its state.
const steady = 8 * time.Second

// selected checks that no replica is passed over that the Sentinel must know
// to be better.
func (c *checker) selected(s *simSentinel, text string) {
	f := strings.Fields(text)
	if len(f) < 4 {
		c.w.violate("strange event %q", text)
		return
	}
	port, err := strconv.Atoi(f[3])
	chosen := c.w.nodeAt(f[2], port)
	if err != nil || chosen == nil || chosen.server == nil {
		c.w.violate("selected an unknown replica: %q", text)
		return
	}
	calm := func(n *node) bool { return n.alive && !n.paused && c.w.now.Sub(n.lastFault) > steady }
	if !calm(s.n) || c.w.now.Sub(s.startedAt) < 2*steady {
		return
	}
	for _, n := range c.w.nodes {
		o := n.server
		if o == nil || n == chosen || o.master || o.stuck || !calm(n) || o.priority != chosen.server.priority {
			continue
		}
		if c.w.now.Sub(o.changed) > 700*time.Millisecond && o.offset > chosen.server.offset &&
			c.w.now.Sub(o.linkDown) < 5*time.Second {
			c.w.violate("fit replica: %s with offset %d was chosen over %s with %d",
				chosen.host, chosen.server.offset, n.host, o.offset)
		}
	}
}

// agreed reports whether all Sentinels and servers agree on one master, and
// why not otherwise.
func (c *checker) agreed() (bool, string) {
	addr := ""
	for _, n := range c.w.nodes {
		if s := n.sentinel; s != nil {
			v, _ := s.core.Master(masterName)
			switch {
			case addr == "":
				addr = v.Addr.IP
			case addr != v.Addr.IP:
				return false, fmt.Sprintf("%s says %s, another %s", n.host, v.Addr.IP, addr)
			}
			if v.FailoverState != "none" || v.SDown {
				return false, fmt.Sprintf("%s is in state %s, sdown %v", n.host, v.FailoverState, v.SDown)
			}
		}
	}
	for _, n := range c.w.nodes {
		d := n.server
		switch {
		case d == nil:
		case n.host == addr && !d.master:
			return false, n.host + " is not a master"
		case n.host != addr && (d.master || d.masterHost != addr || !d.linkUp):
			return false, fmt.Sprintf("%s: master=%v follows %s link=%v", n.host, d.master, d.masterHost, d.linkUp)
		}
	}
	return true, ""
}
