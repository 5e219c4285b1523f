package cluster

import "slices"

// tick looks at all nodes: links, pings, who does not answer. It sets nextTick
// to when it has to look again.
func (c *Core) tick() {
	urgent := c.now + randomPingPeriod // what must be on time
	calm := urgent                     // what may wait for the next look
	c.nextTick = urgent
	c.lastTick = c.now
	clear(c.suspects)
	c.suspects, c.anyFailed = c.suspects[:0], false
	nodes := c.nodes
	for i := 0; i < len(nodes); i++ {
		n := nodes[i]
		if n.flags&(FlagMyself|FlagNoAddr) != 0 {
			continue
		}
		if n.handshake() && c.now-n.created > max(c.timeout(), minHandshake) {
			c.delNode(n)
			nodes = c.nodes
			i--
			continue
		}
		if n.timedOut() {
			c.suspects = append(c.suspects, n)
		}
		c.anyFailed = c.anyFailed || n.failed()
		if n.link == nil {
			if again := n.tried + reconnectAfter(n); again > c.now {
				calm = min(calm, again)
			} else {
				c.connect(n)
			}
		}
	}
	if c.now >= c.nextRandom {
		c.nextRandom = c.now + randomPingPeriod
		c.pingRandom()
		c.announceEpoch()
	}
	calm = min(calm, c.nextRandom)
	newPFail := false
	c.pingBudget = max(minPings, len(c.nodes)*pingSpread*tickPeriod/max(int(c.timeout()), 1))
	first := c.pingFrom % len(c.nodes)
	for i := range c.nodes {
		n := c.nodes[(first+i)%len(c.nodes)]
		if n.flags&(FlagMyself|FlagNoAddr|FlagHandshake) != 0 {
			continue
		}
		u, s, failed := c.check(n)
		urgent, calm = min(urgent, u), min(calm, s)
		newPFail = newPFail || failed
	}
	if newPFail {
		c.todo |= todoState
	}
	if t := c.checkManualTimeout(); t != 0 {
		urgent = min(urgent, t)
	}
	if c.myself.isReplica() {
		c.leaveSubReplica()
		c.handleManual()
		c.handleFailover()
		c.migrateReplica()
	}
	if !c.ok || c.inMinority {
		c.todo |= todoState
	}
	calm = max(calm, c.now+tickPeriod)
	c.nextTick = min(c.nextTick, urgent, calm)
	if !c.ok {
		c.nextTick = min(c.nextTick, c.now+tickPeriod)
	}
	c.nextTick = max(c.nextTick, c.now+1)
}

// announceEpoch tells everybody of a config epoch that a collision gave us, at
// most once a second: while a cluster is made, many collide.
func (c *Core) announceEpoch() {
	if c.announce && !c.plain {
		c.pongAll()
	}
	c.announce = false
}

// reconnectAfter is the pause between two attempts to connect to a node.
func reconnectAfter(n *node) instant {
	if n.failed() {
		return 2 * tickPeriod
	}
	return tickPeriod
}

// pingRandom pings, of five random nodes, the one that was silent the longest.
func (c *Core) pingRandom() {
	var oldest *node
	for range 5 {
		n := c.nodes[c.rand.IntN(len(c.nodes))]
		if !n.connected() || n.pingSent != 0 || n.flags&(FlagMyself|FlagHandshake) != 0 {
			continue
		}
		if oldest == nil || oldest.pongReceived > n.pongReceived {
			oldest = n
		}
	}
	if oldest != nil {
		c.debugf("Pinging node %s", oldest.id)
		c.sendPing(oldest.link, MsgPing)
	}
}

// check pings a node when it is time, and marks it PFAIL when it did not
// answer for the node timeout. It gives the time of the next urgent and the
// next calm look at it.
func (c *Core) check(n *node) (urgent, calm instant, newPFail bool) {
	timeout := c.timeout()
	urgent, calm = c.now+randomPingPeriod, c.now+randomPingPeriod
	pingDelay, dataDelay := c.now-n.pingSent, c.now-n.dataReceived
	// A link that brings nothing for half the timeout may be broken while the
	// node is fine: try another one, once per timeout. What the node says on a
	// link of its own does not open one that never came up.
	if n.link != nil && n.pingSent != 0 && c.now-n.link.created > timeout &&
		pingDelay > timeout/2 && (dataDelay > timeout/2 || !n.link.up) {
		c.closeLink(n.link)
		calm = min(calm, n.tried+tickPeriod)
	}
	if n.pingSent == 0 {
		due := n.pongReceived + timeout/2 + 1
		switch {
		case c.now < due:
			calm = min(calm, due)
		case !n.connected():
		case c.pingBudget == 0 && !c.plain:
			calm = c.now // the next look goes on here
		default:
			if c.pingBudget--; c.pingBudget == 0 {
				c.pingFrom = slices.Index(c.nodes, n) + 1
			}
			c.sendPing(n.link, MsgPing)
			return min(urgent, c.now+timeout+1), calm, false
		}
	}
	if c.manual.end != 0 && c.myself.isMaster() && c.manual.replica == n && n.connected() {
		c.sendPing(n.link, MsgPing) // it waits for our offset
		return urgent, min(calm, c.now+tickPeriod), false
	}
	if n.pingSent == 0 {
		return urgent, calm, false
	}
	silent := min(pingDelay, dataDelay)
	if silent <= timeout {
		return min(urgent, max(n.pingSent, n.dataReceived)+timeout+1), calm, false
	}
	if n.link != nil {
		calm = min(calm, n.link.created+timeout+1)
	}
	if n.flags&(FlagPFail|FlagFail) == 0 {
		c.debugf("*** NODE %s possibly failing", n.id)
		n.flags |= FlagPFail
		c.suspects = append(c.suspects, n)
		c.viewDirty = true
		c.event(EventPFail, n, nil, 0)
		newPFail = true
		if c.myself.master == n && !c.plain {
			c.pongShard() // our offset, while the others still make up their mind
		}
	}
	if n.timedOut() {
		if n.toldAt == 0 || c.now-n.toldAt >= timeout/2 {
			n.toldAt = c.now
			c.toTell = append(c.toTell, n)
		}
		urgent = min(urgent, n.toldAt+timeout/2)
		c.failIfQuorum(n)
	}
	return urgent, calm, newPFail
}

// failIfQuorum turns PFAIL into FAIL when a majority of the masters cannot
// reach the node, and tells everybody.
func (c *Core) failIfQuorum(n *node) {
	if !n.timedOut() || n.failed() {
		return
	}
	reports := c.countReports(n)
	if c.myself.isMaster() {
		reports++
	}
	if c.faults.DoubleReports && c.myself.isMaster() {
		reports++
	}
	if reports < c.quorum() && !c.faults.FailWithoutQuorum {
		return
	}
	c.logf(Notice, "Marking node %s as failing (quorum reached).", n.id)
	c.markFailed(n)
	c.broadcast(c.failPacket(n))
}

func (c *Core) markFailed(n *node) {
	n.flags = n.flags&^FlagPFail | FlagFail
	c.anyFailed = true
	n.failTime, n.failNews = c.now, c.now
	c.event(EventFail, n, nil, 0)
	c.viewDirty = true
	c.todo |= todoState | todoSave | todoFailover
}

// onFail takes the word of a known node that a majority cannot reach another.
func (c *Core) onFail(sender *node, p packet) {
	if sender == nil {
		c.logf(Notice, "Ignoring FAIL message from unknown node %s about %s", printable(p.sender()), printable(p.failing()))
		return
	}
	n := c.lookup(p.failing())
	if n == nil || n.flags&(FlagFail|FlagMyself) != 0 {
		return
	}
	c.logf(Notice, "FAIL message received from %s about %s", sender.id, n.id)
	c.markFailed(n)
}

// printable is an id of unknown origin, fit for a log line.
func printable(b []byte) string {
	if validID(b) {
		return string(b)
	}
	return "?"
}

// clearFail ends the FAIL of a node that answers again: at once if no slots
// depend on it, else when nobody took them for a while.
func (c *Core) clearFail(n *node) {
	if c.faults.NeverClearFail {
		return
	}
	switch {
	case n.isReplica() || n.numSlots == 0:
		what := "master without slots"
		if n.isReplica() {
			what = "replica"
		}
		c.logf(Notice, "Clear FAIL state for node %s: %s is reachable again.", n.id, what)
	case n.isMaster() && c.now-n.failTime > failUndoTime*c.timeout():
		c.logf(Notice, "Clear FAIL state for node %s: is reachable again and nobody is serving its slots after some time.", n.id)
	default:
		return
	}
	n.flags &^= FlagFail
	c.viewDirty = true
	c.event(EventFailCleared, n, nil, 0)
	c.todo |= todoState | todoSave
}

// leaveSubReplica follows the master of our master.
func (c *Core) leaveSubReplica() {
	m := c.myself.master
	if m == nil || m.master == nil || m.master == c.myself || !m.isReplica() {
		return
	}
	c.logf(Warning, "I'm a sub-replica! Reconfiguring myself as a replica of grandmaster %s", m.master.id)
	c.replicate(m.master)
}

// migrateReplica moves this replica to a master that lost all of its own.
// Of the masters with the most working replicas, the replica with the smallest
// id goes, and only when enough of its siblings stay.
func (c *Core) migrateReplica() {
	mine := c.myself.master
	if !c.cfg.AllowReplicaMigration || mine == nil {
		return
	}
	if okReplicas(mine) < 2 {
		return // nobody has the most replicas with one
	}
	orphans, most, ours := 0, 0, 0
	for _, n := range c.nodes {
		if !n.isMaster() || n.failed() || n.flags&(FlagNoAddr|FlagHandshake) != 0 {
			continue
		}
		ok := okReplicas(n)
		if ok == 0 && n.numSlots > 0 && n.flags.Has(FlagMigrateTo) {
			orphans++
		}
		most = max(most, ok)
		if n == mine {
			ours = ok
		}
	}
	if orphans == 0 || most < 2 || ours != most || !c.ok {
		return
	}
	working := 0
	for _, r := range mine.replicas {
		if r.flags&(FlagFail|FlagPFail) == 0 {
			working++
		}
	}
	if working <= c.cfg.MigrationBarrier {
		return
	}
	target, candidate := c.orphanAndCandidate(most)
	if target == nil || candidate != c.myself {
		return
	}
	if c.now-target.orphaned <= migrationDelay {
		c.wake(target.orphaned + migrationDelay + 1)
		return
	}
	c.logf(Warning, "Migrating to orphaned master %s", target.id)
	c.replicate(target)
}

func (c *Core) orphanAndCandidate(most int) (target, candidate *node) {
	candidate = c.myself
	for _, n := range c.nodes {
		ok := 0
		if n.isMaster() {
			ok = okReplicas(n)
		}
		if n.isMaster() && !n.failed() && n.flags.Has(FlagMigrateTo) && ok == 0 {
			if target == nil && n.numSlots > 0 {
				target = n
			}
			if n.orphaned == 0 {
				n.orphaned = c.now
			}
		} else {
			n.orphaned = 0
		}
		if n.isMaster() && ok == most {
			for _, r := range n.replicas {
				if r.id < candidate.id {
					candidate = r
				}
			}
		}
	}
	return target, candidate
}
