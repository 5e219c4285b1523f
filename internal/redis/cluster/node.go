package cluster

import (
	"cmp"
	"encoding/binary"
	"slices"
	"unique"

	"holdfast/internal/invariant"
)

// node is what we know of a node, ourselves included. The first two lines of
// 64 bytes are all that most gossip needs: a node of a large cluster looks at
// thousands of them per second, and none is in a cache of the processor.
type node struct {
	id           string
	pongReceived instant // set by Core.setPong
	pingSent     instant // an unanswered ping, or a link that was lost since; 0: none
	gossiped     uint64  // the packet whose gossip section it is in
	link         *link
	flags        Flags
	viewIdx      uint16
	num          uint16 // its place in Core.nums, from 1 on; 0: it has none yet
	pos          uint16 // its place in Core.nodes
	numSlots     int    // Invariant: bits set in slots

	ip                 string
	port, pport, cport int // client port, plain one where that is TLS, bus
	dataReceived       instant
	inbound            *link
	master             *node // of a replica; nil if it is unknown

	configEpoch uint64
	slots       slotMap
	slotText    []byte  // the slots as nodes.conf shows them; nil: to be made anew
	replicas    []*node // of a master
	heirOf      *node   // of a master: whose replica it was until then

	reports      []report // by ord
	oldestReport instant  // no report is older

	hostname  string
	announced bool   // the ip of ourselves comes from cluster-announce-ip
	doubted   bool   // somebody believes that it owns slots of ours
	ord       uint32 // rises with every node that becomes known

	created   instant
	failTime  instant
	failNews  instant // when we learned that it is FAIL, not from nodes.conf
	votedTime instant // last vote of ours for a replica of it
	votedFor  string  // that replica
	orphaned  instant // since when it is a master without working replicas
	tried     instant // last attempt to connect
	toldAt    instant // when the masters were told that it does not answer

	replOffset     int64
	replOffsetTime instant
}

// report is the word of a master that a node does not answer it.
type report struct {
	from uint32 // ord of the master
	at   instant
}

func (n *node) isMaster() bool  { return n.flags&FlagMaster != 0 }
func (n *node) isReplica() bool { return n.flags&FlagReplica != 0 }
func (n *node) failed() bool    { return n.flags&FlagFail != 0 }
func (n *node) timedOut() bool  { return n.flags&FlagPFail != 0 }
func (n *node) handshake() bool { return n.flags&FlagHandshake != 0 }

// isVoter reports whether it is a master with slots: one that counts.
func (n *node) isVoter() bool { return n.isMaster() && n.numSlots > 0 }

// connected reports whether packets to it go out at once.
func (n *node) connected() bool { return n.link != nil && n.link.up }

func (c *Core) newNode(id string, flags Flags) *node {
	c.nextOrd++
	return &node{id: intern(id), flags: flags, created: c.now, ord: c.nextOrd}
}

// intern gives the one copy of a string in this process. Whoever parses a
// packet gets the names of nodes in it compared with what is in the cache of the
// processor, and a thousand nodes in one process share their names.
func intern(s string) string { return unique.Make(s).Value() }

func (c *Core) addNode(n *node) {
	n.pos = uint16(len(c.nodes))
	c.nodes = append(c.nodes, n)
	c.pongs = append(c.pongs, n.pongReceived)
	c.byID[n.id] = n
	c.fitSeats()
	c.viewDirty = true
	c.wake(c.now)
}

// setPong notes when a node was last heard, by us or by others.
func (c *Core) setPong(n *node, t instant) {
	n.pongReceived = t
	if int(n.pos) < len(c.nodes) && c.nodes[n.pos] == n {
		c.pongs[n.pos] = t
	}
}

// lookup finds a node by the bytes of its id, nil if it is unknown.
func (c *Core) lookup(id []byte) *node {
	h := c.seats.place(id)
	for _, pos := range c.seats[h : h+2] {
		if int(pos) < len(c.nodes) && c.nodes[pos].id == string(id) {
			return c.nodes[pos]
		}
	}
	n := c.byID[string(id)]
	if n != nil {
		c.seats[h], c.seats[h+1] = n.pos, c.seats[h]
	}
	return n
}

// seats remembers where in Core.nodes the node of an id may be, in a table that
// fits into a cache of the processor: gossip asks for a hundred ids per packet.
// What it says is compared with the node, and byID knows when it is wrong.
type seats []uint16

const (
	minSeats = 64
	maxSeats = 1 << 14
)

// place is the first of the two seats of an id.
func (s seats) place(id []byte) int {
	if len(id) < 8 {
		return 0
	}
	h := binary.LittleEndian.Uint64(id) * 0x9e3779b97f4a7c15
	return int(h>>40) & (len(s) - 1) &^ 1
}

// fitSeats makes the table large enough for n nodes.
func (c *Core) fitSeats() {
	size := max(len(c.seats), minSeats)
	for size < 4*len(c.nodes) && size < maxSeats {
		size *= 2
	}
	if size != len(c.seats) {
		c.seats = make(seats, size)
	}
}

// delNode removes a node and all that points to it.
func (c *Core) delNode(n *node) {
	for s, o := range c.importing {
		if o == n {
			c.markImporting(s, nil)
		}
	}
	for s, o := range c.migrating {
		if o == n {
			c.markMigrating(s, nil)
		}
	}
	c.delNodeSlots(n)
	for s, from := range c.taken {
		if from == n {
			delete(c.taken, s)
		}
	}
	for _, o := range c.nodes {
		c.delReport(o, n)
		if o.heirOf == n {
			o.heirOf = nil
		}
	}
	for _, r := range n.replicas {
		r.master = nil
	}
	if n.master != nil {
		c.removeReplica(n.master, n)
	}
	if n.num != 0 {
		c.nums[n.num], n.num = nil, 0
	}
	delete(c.byID, n.id)
	if i := slices.Index(c.nodes, n); i >= 0 {
		c.nodes = slices.Delete(c.nodes, i, i+1)
		c.pongs = slices.Delete(c.pongs, i, i+1)
		for ; i < len(c.nodes); i++ {
			c.nodes[i].pos = uint16(i)
		}
	}
	if n.link != nil {
		c.closeLink(n.link)
	}
	if n.inbound != nil {
		c.closeLink(n.inbound)
	}
	for _, l := range c.links {
		if l.node == n { // an older inbound link
			l.node = nil
		}
	}
	if c.manual.replica == n {
		c.resetManual()
	}
	delete(c.election.votes, n)
	delete(c.heardSincePause, n)
	if i := slices.Index(c.toTell, n); i >= 0 {
		c.toTell = slices.Delete(c.toTell, i, i+1)
	}
	if i := slices.Index(c.suspects, n); i >= 0 {
		c.suspects = slices.Delete(c.suspects, i, i+1)
	}
	c.viewDirty = true
}

// rename gives a node its real id at the end of its handshake.
func (c *Core) rename(n *node, id string) {
	c.debugf("Renaming node %s into %s", n.id, id)
	delete(c.byID, n.id)
	n.id = intern(id)
	c.byID[n.id] = n
	c.viewDirty = true
}

func (c *Core) addReplica(m, r *node) {
	if slices.Contains(m.replicas, r) {
		return
	}
	m.replicas = append(m.replicas, r)
	m.flags |= FlagMigrateTo
	c.viewDirty = true
}

func (c *Core) removeReplica(m, r *node) {
	i := slices.Index(m.replicas, r)
	if i < 0 {
		return
	}
	m.replicas = slices.Delete(m.replicas, i, i+1)
	if len(m.replicas) == 0 {
		m.flags &^= FlagMigrateTo
	}
	c.viewDirty = true
}

// okReplicas counts the replicas of n that are not FAIL.
func okReplicas(n *node) int {
	ok := 0
	for _, r := range n.replicas {
		if !r.failed() {
			ok++
		}
	}
	return ok
}

// owner is the node that slot s belongs to, nil if there is none.
func (c *Core) owner(s int) *node {
	if i := c.slots.get(s); i != 0 {
		return c.nums[i]
	}
	return nil
}

// number gives n a place in nums, so that slots need no pointers.
func (c *Core) number(n *node) uint16 {
	if n.num == 0 {
		if len(c.nums) == 0 {
			c.nums = append(c.nums, nil)
		}
		i := 1 + slices.Index(c.nums[1:], nil)
		if i == 0 {
			i = len(c.nums)
			c.nums = append(c.nums, nil)
		}
		invariant.Check(i < 1<<16, "%d nodes with slots", i)
		n.num = uint16(i)
		c.nums[i] = n
		c.viewDirty = true
	}
	return n.num
}

// addSlot gives slot s to n; it does nothing when the slot has an owner.
func (c *Core) addSlot(n *node, s int) bool {
	if c.slots.get(s) != 0 {
		return false
	}
	n.slots.set(s)
	n.numSlots++
	n.slotText = nil
	c.slots.set(s, c.number(n))
	c.unclaimed[s>>3] &^= 1 << (s & 7)
	c.slotsDirty = true
	// A master with its first slot may be given replicas when others have some.
	if n.numSlots == 1 && c.mastersHaveReplicas() {
		n.flags |= FlagMigrateTo
		c.viewDirty = true
	}
	return true
}

func (c *Core) mastersHaveReplicas() bool {
	for _, n := range c.nodes {
		if !n.isReplica() && len(n.replicas) > 0 {
			return true
		}
	}
	return false
}

// delSlot leaves slot s without an owner.
func (c *Core) delSlot(s int) bool {
	n := c.owner(s)
	if n == nil {
		return false
	}
	if c.inMyShard(n) {
		c.lostChannels = append(c.lostChannels, s)
	}
	n.slots.unset(s)
	if n.numSlots--; n.numSlots == 0 {
		n.slots = slotMap{}
	}
	n.slotText = nil
	c.slots.set(s, 0)
	c.slotsDirty = true
	return true
}

func (c *Core) delNodeSlots(n *node) {
	if n.numSlots == 0 {
		return
	}
	n.slots.each(func(s int) { c.delSlot(s) })
}

// shardOf is the master of n's shard: n itself, or its master.
func shardOf(n *node) *node {
	if n.isMaster() || n.master == nil {
		return n
	}
	return n.master
}

func (c *Core) inMyShard(n *node) bool {
	m := shardOf(n)
	return m == c.myself || slices.Contains(m.replicas, c.myself)
}

func (c *Core) closeAllSlots() {
	clear(c.migrating)
	clear(c.importing)
	c.migrateTo.clear()
	c.importFrom.clear()
	c.slotsDirty = true
}

// findReport is the place of the report of from, or where it belongs. Hundreds
// of masters report each node that dies in a large cluster, again and again.
func (n *node) findReport(from *node) (i int, found bool) {
	return slices.BinarySearchFunc(n.reports, from.ord, func(r report, ord uint32) int {
		return cmp.Compare(r.from, ord)
	})
}

// addReport notes that from cannot reach n; it tells whether that is new.
func (c *Core) addReport(n, from *node) bool {
	i, found := n.findReport(from)
	if found && !c.faults.DoubleReports {
		n.reports[i].at = c.now
		return false
	}
	if len(n.reports) == 0 {
		n.oldestReport = c.now
	}
	n.reports = slices.Insert(n.reports, i, report{from.ord, c.now})
	return true
}

// delReport takes back the report of from; it tells whether there was one.
func (c *Core) delReport(n, from *node) bool {
	i, found := n.findReport(from)
	if !found {
		return false
	}
	n.reports = slices.Delete(n.reports, i, i+1)
	c.expireReports(n)
	return true
}

func (c *Core) expireReports(n *node) {
	oldest := c.now - failReportValidity*c.timeout()
	if len(n.reports) == 0 || n.oldestReport >= oldest || c.faults.ReportsNeverExpire {
		return
	}
	n.oldestReport = c.now
	n.reports = slices.DeleteFunc(n.reports, func(r report) bool {
		if r.at < oldest {
			return true
		}
		n.oldestReport = min(n.oldestReport, r.at)
		return false
	})
}

func (c *Core) countReports(n *node) int {
	c.expireReports(n)
	return len(n.reports)
}

func (c *Core) maxEpoch() uint64 {
	e := c.currentEpoch
	for _, n := range c.nodes {
		e = max(e, n.configEpoch)
	}
	return e
}

// bumpEpoch gives this node a new config epoch without asking anybody, unless
// it has the greatest one already.
func (c *Core) bumpEpoch() bool {
	if c.myself.configEpoch != 0 && c.myself.configEpoch == c.maxEpoch() {
		return false
	}
	c.currentEpoch++
	c.setMyEpoch(c.currentEpoch)
	c.logf(Warning, "New configEpoch set to %d", c.myself.configEpoch)
	return true
}

func (c *Core) setMyEpoch(e uint64) {
	c.myself.configEpoch = e
	c.todo |= todoSave | todoSync
	c.event(EventEpochBumped, c.myself, nil, e)
}

// setMaster makes n a master, if it is not.
func (c *Core) setMasterRole(n *node) {
	if n.isMaster() {
		return
	}
	if n.master != nil {
		c.removeReplica(n.master, n)
		if n != c.myself {
			n.flags |= FlagMigrateTo
		}
	}
	n.flags = n.flags&^FlagReplica | FlagMaster
	n.master, n.heirOf = nil, n.master
	if old := n.heirOf; old != nil && old.heirOf == n {
		old.heirOf = nil // as it was before
	}
	c.viewDirty = true
	c.todo |= todoSave | todoState
}

// replicate makes this node a replica of n. It owns no slot at this point.
func (c *Core) replicate(n *node) {
	me := c.myself
	if me.isMaster() {
		me.flags = me.flags&^(FlagMaster|FlagMigrateTo) | FlagReplica
		c.closeAllSlots()
	} else if me.master != nil {
		c.removeReplica(me.master, me)
	}
	c.event(EventNewMaster, n, me.master, 0)
	me.master, me.heirOf = n, nil
	c.split, c.copies = splitShard{}, nil
	clear(c.taken)
	c.addReplica(n, me)
	c.suspended = false
	c.election = election{}
	c.resetManual()
	c.viewDirty = true
	c.todo |= todoSave | todoState | todoSync
}
