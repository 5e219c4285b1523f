package cluster

import (
	"bytes"
	"net/netip"
	"strings"
)

// onPacket checks a packet, learns what every header says, and hands it to
// the handler of its type.
func (c *Core) onPacket(in Packet) {
	l := c.links[in.Link]
	if l == nil {
		return
	}
	p, line, ok := validate(in.Data)
	if len(in.Data) >= headerLen {
		if t := packet(in.Data).msgType(); t < msgTypes {
			c.received[t]++
		}
	}
	if !ok {
		if line != "" {
			c.logf(Warning, "%s", line)
		}
		return
	}
	if c.cfg.Debug {
		c.debugf("--- Processing packet of type %s, %d bytes", p.msgType(), len(p))
	}
	sender := c.senderOf(l, p)
	if sender != nil {
		sender.dataReceived = c.now
		if !sender.handshake() {
			c.onHeader(sender, p)
		}
	}
	switch t := p.msgType(); t {
	case MsgPing, MsgMeet:
		c.onPing(l, sender, p)
	case MsgPong:
		c.onConfig(l, sender, p)
	case MsgFail:
		c.onFail(sender, p)
	case MsgPublish, MsgPublishShard:
		if sender != nil {
			channel, message := p.publish()
			c.emit(Deliver{channel, message, t == MsgPublishShard})
		}
	case MsgAuthRequest:
		if sender != nil {
			c.onAuthRequest(sender, p)
		}
	case MsgAuthAck:
		if sender != nil {
			c.onAuthAck(sender, p)
		}
	case MsgMFStart:
		c.onMFStart(l, sender)
	case MsgUpdate:
		c.onUpdate(sender, p)
	case MsgModule:
	default:
		c.logf(Warning, "Received unknown packet type: %d", uint16(t))
	}
}

// senderOf finds the node that a packet is from, nil if it is unknown.
func (c *Core) senderOf(l *link, p packet) *node {
	if l.node != nil && !l.node.handshake() {
		return l.node
	}
	sender := c.lookup(p.sender())
	if sender != nil && l.node == nil {
		c.bind(l, sender)
	}
	return sender
}

// onHeader takes what the header of any packet of a known node says.
func (c *Core) onHeader(sender *node, p packet) {
	if e := p.currentEpoch(); e > c.currentEpoch {
		c.currentEpoch = e
	}
	if e := p.configEpoch(); e > sender.configEpoch {
		sender.configEpoch = e
		c.todo |= todoSave
		c.currentEpoch = max(c.currentEpoch, e)
	}
	sender.replOffset = p.offset()
	sender.replOffsetTime = c.now
	c.noteEpoch(sender, p.currentEpoch())
	if c.manual.end != 0 && c.myself.isReplica() && c.myself.master == sender &&
		p.msgFlags()&flagPaused != 0 && c.manual.masterOffset == -1 {
		c.manual.masterOffset = sender.replOffset
		c.todo |= todoManual
		c.logf(Warning, "Received replication offset for paused master manual failover: %d", sender.replOffset)
	}
}

// onPing answers a PING or MEET and takes its content.
func (c *Core) onPing(l *link, sender *node, p packet) {
	meet := p.msgType() == MsgMeet
	me := c.myself
	// Our own address is what others reach us at: the near end of their link.
	if (meet || me.ip == "") && c.cfg.AnnounceIP == "" && l.localIP != "" && l.localIP != me.ip {
		me.ip = l.localIP
		c.logf(Warning, "IP address for this node updated to %s", me.ip)
		c.viewDirty = true
		c.todo |= todoSave
	}
	if sender == nil && meet {
		if ip := peerIP(l, p); ip != "" && len(c.nodes) < maxNodes {
			n := c.newNode(c.randomID(), FlagHandshake)
			n.ip, n.port, n.pport, n.cport = ip, p.port(), p.plainPort(), p.busPort()
			c.addNode(n)
			c.todo |= todoSave
		}
		// Whoever asks to be met is trusted with what it says of others: but
		// the gossip of strangers adds nobody, so there is nothing to take.
	}
	c.sendPing(l, MsgPong)
	c.onConfig(l, sender, p)
}

// peerIP is the address of a peer: the announced one, or that of the link.
func peerIP(l *link, p packet) string {
	if ip := p.myIP(); len(ip) > 0 {
		return string(ip)
	}
	return l.remoteIP
}

// onConfig takes the content of a PING, PONG or MEET.
func (c *Core) onConfig(l *link, sender *node, p packet) {
	if !l.inbound() && !c.checkIdentity(l, sender, p) {
		return
	}
	if sender == nil {
		sender = c.lookup(p.sender()) // its handshake may have just ended
		if sender == nil || sender != l.node {
			return
		}
		c.onHeader(sender, p)
	}
	sender.setFlag(FlagNoFailover, p.flags()&FlagNoFailover != 0)
	if p.msgType() == MsgPing && !sender.handshake() && c.updateAddress(sender, l, p) {
		c.todo |= todoSave | todoState
	}
	c.pongFrom(l, p)
	c.onRole(sender, p)
	c.onClaim(sender, p)
	if sender.handshake() {
		return
	}
	c.onGossip(sender, p)
	c.onExtensions(sender, p)
}

func (n *node) setFlag(f Flags, on bool) {
	n.flags &^= f
	if on {
		n.flags |= f
	}
}

// checkIdentity ends a handshake, or notices that somebody else lives at the
// address of a node. It reports whether the packet may be used.
func (c *Core) checkIdentity(l *link, sender *node, p packet) bool {
	n := l.node
	if n.handshake() {
		if sender != nil {
			c.logf(Verbose, "Handshake: we already know node %s, updating the address if needed.", sender.id)
			if sender != c.myself && c.updateAddress(sender, l, p) {
				c.todo |= todoSave | todoState
			}
			c.delNode(n)
			return false
		}
		if !validID(p.sender()) {
			c.delNode(n)
			return false
		}
		c.rename(n, string(p.sender()))
		c.debugf("Handshake with node %s completed.", n.id)
		n.flags = n.flags&^FlagHandshake | p.flags()&(FlagMaster|FlagReplica)
		c.event(EventNodeJoined, n, nil, 0)
		c.viewDirty = true
		c.todo |= todoSave
		return true
	}
	if n.id == string(p.sender()) {
		return true
	}
	c.debugf("PONG contains mismatching sender ID. About node %s added %d ms ago, having flags %d",
		n.id, c.now-n.created, n.flags)
	n.flags |= FlagNoAddr
	n.ip, n.port, n.pport, n.cport = "", 0, 0, 0
	c.closeLink(l)
	c.viewDirty = true
	c.todo |= todoSave
	return false
}

// pongFrom notes that a node answered on our link.
func (c *Core) pongFrom(l *link, p packet) {
	n := l.node
	if l.inbound() || p.msgType() != MsgPong || n == nil {
		return
	}
	c.setPong(n, c.now)
	n.pingSent = 0
	c.wake(c.now + c.timeout()/2)
	if n.timedOut() {
		n.flags &^= FlagPFail
		c.viewDirty = true
		c.todo |= todoSave | todoState
	} else if n.failed() {
		c.clearFail(n)
	}
	c.heard(n)
}

// updateAddress takes the address of a node from a packet of it, and connects
// anew when it changed.
func (c *Core) updateAddress(n *node, l *link, p packet) bool {
	if l == n.link || n == c.myself {
		return false
	}
	ip := p.myIP()
	same := string(ip) == n.ip
	if len(ip) == 0 {
		same = l.remoteIP == n.ip
	}
	if same && n.port == p.port() && n.cport == p.busPort() && n.pport == p.plainPort() {
		return false
	}
	n.ip, n.port, n.pport, n.cport = peerIP(l, p), p.port(), p.plainPort(), p.busPort()
	if n.link != nil {
		c.closeLink(n.link)
	}
	n.flags &^= FlagNoAddr
	c.viewDirty = true
	c.wake(c.now)
	c.logf(Warning, "Address updated for node %s, now %s:%d", n.id, n.ip, n.port)
	return true
}

// onRole notices that a node became master, or a replica, or changed its master.
func (c *Core) onRole(n *node, p packet) {
	if n == c.myself {
		return
	}
	if p.noMaster() {
		if n.isReplica() {
			c.setMasterRole(n)
			if bytes.Equal(p.slots(), zeroSlots[:]) {
				n.heirOf = nil // it was reset, and took nobody's place
			}
		}
		return
	}
	if n.isMaster() {
		c.delNodeSlots(n)
		n.flags = n.flags&^(FlagMaster|FlagMigrateTo) | FlagReplica
		n.heirOf = nil
		c.viewDirty = true
		c.todo |= todoSave | todoState
	}
	n.setFlag(FlagReplica, true)
	if m := c.lookup(p.master()); m != nil && m != n && n.master != m {
		if n.master != nil {
			c.removeReplica(n.master, n)
		}
		c.addReplica(m, n)
		n.master = m
		c.moveToHeir(m)
		if m == c.myself {
			c.noteGiven(n, zeroSlots[:]) // it claims nothing of its own any more
		}
		c.viewDirty = true
		c.todo |= todoSave
	}
}

// onClaim compares the slots that the sender speaks of with what we know.
func (c *Core) onClaim(sender *node, p packet) {
	if sender == c.myself {
		return
	}
	owner := shardOf(sender)
	if owner == sender {
		if len(c.taken) > 0 {
			c.noteGiven(sender, p.slots())
		}
		if sender.doubted {
			c.answerDoubt(sender, p.slots())
		}
	}
	if owner.isReplica() || owner.slots.equal(p.slots()) {
		if owner == sender && c.anyUnclaimed {
			c.noteUnclaimed(sender, p.slots()) // it claims them again
			c.dropCopies()
		}
		c.resolveCollision(sender, p)
		return
	}
	epoch := p.configEpoch()
	if sender.isMaster() {
		c.noteUnclaimed(sender, p.slots())
		c.updateSlots(sender, epoch, p.slots(), true)
		c.dropCopies()
	}
	if !c.faults.NoUpdate {
		c.correct(sender, epoch, p.slots())
	}
	c.resolveCollision(sender, p)
}

// noteUnclaimed remembers the slots that n owns in our eyes and does not claim
// any more: it gave them away, and we have not heard to whom. They stay its own,
// so that the cluster stays whole and clients are sent there, but anybody may
// claim them, and nobody is told by us that they are n's. Redis keeps them for
// ever if the new owner has the smaller epoch.
func (c *Core) noteUnclaimed(n *node, claim []byte) {
	if c.plain || n.numSlots == 0 {
		return
	}
	for i, have := range n.slots.b {
		i += n.slots.lo
		c.unclaimed[i] = c.unclaimed[i]&^have | have&^claim[i]
	}
	c.anyUnclaimed = c.unclaimed != zeroSlots
}

// correct sends an UPDATE to a node that claims a slot whose owner has a newer
// config epoch.
func (c *Core) correct(sender *node, epoch uint64, slots []byte) {
	var newer *node
	eachSlot(slots, func(s int) {
		if o := c.owner(s); newer == nil && o != nil && o != sender && o.configEpoch > epoch && !bitSet(c.unclaimed[:], s) {
			newer = o
		}
	})
	if newer != nil {
		c.logf(Verbose, "Node %s has old slots configuration, sending an UPDATE message about %s", sender.id, newer.id)
		c.sendUpdate(sender.link, newer)
	}
	if sender.isMaster() {
		c.remind(sender, epoch, slots)
	}
}

// resolveCollision moves us to a new config epoch when another master has the
// same one and the greater id; not to defy our successor, but when it does not
// claim what is left to us.
func (c *Core) resolveCollision(sender *node, p packet) {
	me := c.myself
	if !me.isMaster() || !sender.isMaster() || p.configEpoch() != me.configEpoch || sender.configEpoch != me.configEpoch ||
		sender.id <= me.id || sender == me || c.faults.NoCollisionRule ||
		(c.succeeds(sender, p.configEpoch()) && me.slots.overlaps(p.slots())) {
		return
	}
	c.currentEpoch++
	c.setMyEpoch(c.currentEpoch)
	c.logf(Verbose, "WARNING: configEpoch collision with node %s. configEpoch set to %d", sender.id, me.configEpoch)
	c.announce = true // whoever takes a slot from us must beat the new epoch
}

// succeeds reports whether n was elected in our place, in the very epoch that we
// have chosen for ourselves meanwhile, without asking anybody. It has the votes.
func (c *Core) succeeds(n *node, epoch uint64) bool {
	return !c.plain && !c.faults.DefyHeir && c.myself.isMaster() && epoch == c.myself.configEpoch && isHeir(n, c.myself)
}

// onUpdate takes over the configuration of a third node.
func (c *Core) onUpdate(sender *node, p packet) {
	if sender == nil {
		return
	}
	epoch, id, slots := p.update()
	n := c.lookup(id)
	if n == nil {
		return
	}
	if n.configEpoch >= epoch {
		c.noteDoubt(n, epoch, slots)
		return
	}
	if n == c.myself {
		c.logf(Warning, "Discarding UPDATE message about myself.")
		return
	}
	c.setMasterRole(n)
	n.configEpoch = epoch
	c.currentEpoch = max(c.currentEpoch, epoch)
	c.todo |= todoSave
	c.updateSlots(n, epoch, slots, false)
}

// updateSlots gives n the slots that it claims with a newer config epoch than
// that of their owner, and draws the consequences for us: a master, or the
// replica of one, that is left without slots follows the one that took them. With
// own the word is that of n itself.
func (c *Core) updateSlots(n *node, epoch uint64, slots []byte, own bool) {
	me := c.myself
	mine := shardOf(me)
	var taker *node
	claimed, taken := 0, 0
	contested := false // it claims what was given to us
	heir := c.succeeds(n, epoch)
	var dirty, split []int
	eachSlot(slots, func(s int) {
		claimed++
		o := c.owner(s)
		from := c.importing[s]
		if o == n || (from != nil && (c.plain || c.faults.StaleImport || !isHeir(n, from))) {
			return // an importing slot is closed by hand
		}
		if o != nil && o.configEpoch >= epoch && !c.vacant(s, epoch) && !c.faults.StaleSlotClaim && !(o == me && heir) {
			return
		}
		if c.holdsTaken(s, n) {
			contested = true
			return
		}
		if o == me {
			dirty = append(dirty, s)
			if me.configEpoch >= epoch && !c.faults.ForgetGiven {
				c.todo |= todoSync // nobody would believe n against us, if we forgot it
			}
		} else if o != nil && o == mine && !bitSet(c.unclaimed[:], s) {
			split = append(split, s)
		}
		if o != nil && o == mine {
			taker = n
			taken++
		}
		c.delSlot(s)
		c.addSlot(n, s)
		if own {
			c.since.set(s, epoch)
		} else {
			c.since.set(s, min(c.since.get(s), epoch)) // it may have had it long before
		}
		if from != nil {
			c.logf(Notice, "Slot %d is imported from node %s now, which took the place of node %s", s, n.id, from.id)
			c.markImporting(s, n)
		}
		c.todo |= todoSave | todoState
	})
	c.moveToHeir(n)
	if len(split) > 0 {
		c.noteSplit(n, split)
	}
	if c.election.planned != 0 {
		c.todo |= todoFailover // a shard that failed with ours may be done
	}
	if len(dirty) > 0 {
		c.event(EventSlotsLost, n, nil, epoch)
	}
	if contested {
		c.claimAgain(n, epoch)
	}
	switch {
	case taker != nil && mine.numSlots == 0 && (c.cfg.AllowReplicaMigration || claimed == taken) && !c.faults.KeepOldMaster:
		c.logf(Warning, "Configuration change detected. Reconfiguring myself as a replica of %s", n.id)
		c.replicate(n)
	case me.master != nil && me.master.master != nil && me.master.master != me:
		c.logf(Warning, "I'm a sub-replica! Reconfiguring myself as a replica of grandmaster %s", me.master.master.id)
		c.replicate(me.master.master)
	default:
		c.lostSlots = append(c.lostSlots, dirty...)
	}
}

// onGossip takes what the sender says of others.
func (c *Core) onGossip(sender *node, p packet) {
	known := c.lookupGossip(p)
	for i, n := range known {
		g := p.gossip(i)
		flags := g.flags()
		if c.cfg.Debug {
			c.debugf("GOSSIP %s %s:%d@%d %s", g.id(), g.ip(), g.port(), g.busPort(), appendFlags(nil, flags))
		}
		if n == nil {
			n = c.lookup(g.id()) // the same packet may have named it before
		}
		if n != nil {
			c.onGossipKnown(sender, n, g, flags)
		} else {
			c.onGossipNew(g, flags)
		}
	}
	c.picked = known
}

// lookupGossip finds the nodes of a gossip section, nil for those that are
// unknown. Who may be meant is looked up first, then all of them are touched,
// and only then compared: in a large cluster none of them is in a cache of the
// processor, and this way the memory brings many at a time. The slice is
// c.picked, which a packet that is built meanwhile does without.
func (c *Core) lookupGossip(p packet) []*node {
	known := c.picked[:0]
	c.picked = nil
	for i := range p.count() {
		pos := c.seats[c.seats.place(p.gossip(i).id())]
		known = append(known, c.nodes[min(int(pos), len(c.nodes)-1)])
	}
	for _, n := range known {
		c.touched += int(n.flags)
	}
	for i, n := range known {
		if id := p.gossip(i).id(); n.id != string(id) {
			known[i] = c.lookup(id)
		}
	}
	return known
}

func (c *Core) onGossipKnown(sender, n *node, g gossip, flags Flags) {
	bad := flags&(FlagFail|FlagPFail) != 0
	if sender.isMaster() && n != c.myself {
		if bad {
			if c.addReport(n, sender) && c.logs(Verbose) {
				c.logf(Verbose, "Node %s reported node %s as not reachable.", sender.id, n.id)
			}
			c.failIfQuorum(n)
		} else if len(n.reports) > 0 && c.delReport(n, sender) {
			c.logf(Verbose, "Node %s reported node %s is back online.", sender.id, n.id)
		}
	}
	// Somebody else heard of it later than we did: no need to ping it.
	if !bad && n.pingSent == 0 && n.flags&(FlagFail|FlagPFail) == 0 {
		pong := instant(g.pongSeconds()*1000 - c.wallOff)
		if pong <= c.now+500 && pong > n.pongReceived && c.countReports(n) == 0 {
			c.setPong(n, pong)
		}
	}
	// It does not answer us, but the sender, at another address.
	if n.flags&(FlagFail|FlagPFail) != 0 && !bad && flags&FlagNoAddr == 0 &&
		(!strings.EqualFold(n.ip, string(g.ip())) || n.port != g.port() || n.cport != g.busPort()) {
		if n.link != nil {
			c.closeLink(n.link)
		}
		n.ip, n.port, n.pport, n.cport = string(g.ip()), g.port(), g.plainPort(), g.busPort()
		n.flags &^= FlagNoAddr
		c.viewDirty = true
		c.wake(c.now)
	}
}

// onGossipNew adds a node that a known node knows.
func (c *Core) onGossipNew(g gossip, flags Flags) {
	if flags&FlagNoAddr != 0 || !validID(g.id()) || len(c.nodes) >= maxNodes || c.isBanned(g.id()) {
		return
	}
	n := c.newNode(string(g.id()), flags&^(FlagMyself|FlagHandshake|FlagMeet))
	n.ip, n.port, n.pport, n.cport = string(g.ip()), g.port(), g.plainPort(), g.busPort()
	c.addNode(n)
}

func (c *Core) isBanned(id []byte) bool {
	until, ok := c.banned[string(id)]
	if !ok {
		return false
	}
	if c.now > until {
		delete(c.banned, string(id))
		return false
	}
	return true
}

// onExtensions takes the hostname; no extension means that it has none.
func (c *Core) onExtensions(sender *node, p packet) {
	host := ""
	p.eachExtension(func(typ int, body []byte) {
		if typ == extHostname {
			host = string(cstr(body))
			return
		}
		c.logf(Warning, "Received unknown extension type %d", typ)
	})
	if sender != c.myself && sender.hostname != host && cleanHost(host) {
		sender.hostname = host
		c.viewDirty = true
		c.todo |= todoSave
	}
}

// cleanHost reports whether a hostname fits into a line of nodes.conf.
func cleanHost(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f || s[i] == ',' || s[i] == '"' || s[i] == '\'' {
			return false
		}
	}
	return true
}

// startHandshake begins to meet a stranger. It reports whether the address is
// one; a handshake in progress with it is not repeated.
func (c *Core) startHandshake(ip string, port, bus int64) bool {
	a, err := netip.ParseAddr(ip)
	if err != nil || a.Zone() != "" || port <= 0 || port > 65535 || bus <= 0 || bus > 65535 {
		return false
	}
	norm := a.String()
	for _, n := range c.nodes {
		if n.handshake() && strings.EqualFold(n.ip, norm) && n.port == int(port) && n.cport == int(bus) {
			return true
		}
	}
	n := c.newNode(c.randomID(), FlagHandshake|FlagMeet)
	n.ip, n.port, n.cport = norm, int(port), int(bus)
	c.addNode(n)
	return true
}
