package cluster

import (
	"encoding/binary"
	"slices"
)

// newPacket builds the header of a packet of n bytes in all.
func (c *Core) newPacket(t MsgType, n int) packet {
	var p packet
	if c.buffer != nil {
		p = c.buffer(n)
	} else {
		p = make([]byte, n)
	}
	me := c.myself
	master := me // whose slots and epoch we speak of
	if me.isReplica() && me.master != nil {
		master = me.master
	}
	copy(p, "RCmb")
	binary.BigEndian.PutUint32(p[offTotlen:], uint32(n))
	p.put16(offVersion, protoVersion)
	p.put16(offType, int(t))
	port, pport, cport := c.announcedPorts()
	p.put16(offPort, port)
	p.put16(offPlainPort, pport)
	p.put16(offBusPort, cport)
	p.put64(offCurEpoch, c.currentEpoch)
	p.put64(offCfgEpoch, master.configEpoch)
	p.put64(offOffset, uint64(c.host.Data().Offset))
	copy(p[offSender:], me.id)
	master.slots.fill(p[offSlots:])
	if c.given != nil && master == me {
		for i, v := range c.given {
			p[offSlots+i] &^= v
		}
	}
	if me.master != nil {
		copy(p[offMaster:], me.master.id)
	}
	putCstr(p[offMyIP:offMyIP+ipLen], c.cfg.AnnounceIP)
	p.put16(offFlags, int(me.flags))
	if !c.ok {
		p[offState] = 1
	}
	if me.isMaster() && c.manual.end != 0 {
		p[offMsgFlags] |= flagPaused
	}
	return p
}

// send puts a packet on a link that is up.
func (c *Core) send(l *link, p packet) {
	if l == nil || !l.up {
		return
	}
	c.sent[p.msgType()]++
	c.emit(Send{l.id, p})
}

// broadcast sends a packet to every node that we have a link to.
func (c *Core) broadcast(p packet) {
	for _, n := range c.nodes {
		if n.flags&(FlagMyself|FlagHandshake) == 0 {
			c.send(n.link, p)
		}
	}
}

// sendPing sends a PING, PONG or MEET with gossip on a link. A PING on our own
// link begins the wait for its PONG.
func (c *Core) sendPing(l *link, t MsgType) {
	if l == nil || !l.up {
		return
	}
	if !l.inbound() && t == MsgPing {
		l.node.pingSent = c.now
		c.wake(c.now + c.timeout() + 1)
	}
	c.send(l, c.pingPacket(t))
}

// pingPacket builds a PING, PONG or MEET: a tenth of the nodes, at least
// three, and all that do not answer us.
func (c *Core) pingPacket(t MsgType) packet {
	list := c.pickGossip(min(max(len(c.nodes)/10, 3), len(c.nodes)-2))
	for _, n := range c.suspects {
		if n.timedOut() && n.flags&(FlagHandshake|FlagNoAddr) == 0 && len(list) < 1<<16-1 {
			list = append(list, n)
		}
	}
	c.picked = list
	host := c.myself.hostname
	size := headerLen + len(list)*gossipLen
	ext := 0
	if host != "" {
		ext = extHeader + (len(host)+1+7)/8*8
	}
	p := c.newPacket(t, size+ext)
	p.put16(offCount, len(list))
	for i, n := range list {
		c.putGossip(p[headerLen+i*gossipLen:], n)
	}
	if ext > 0 {
		p[offMsgFlags] |= flagExtData
		p.put16(offExtensions, 1)
		binary.BigEndian.PutUint32(p[size:], uint32(ext))
		binary.BigEndian.PutUint16(p[size+4:], extHostname)
		copy(p[size+extHeader:], host)
	}
	return p
}

// pickGossip chooses the nodes that a packet speaks of, up to wanted. All that
// may be missing are drawn before the first is looked at, for the reason that
// lookupGossip has.
func (c *Core) pickGossip(wanted int) []*node {
	c.gossipSeq++
	fresh := len(c.nodes) - 2
	list := c.picked[:0]
	for tries := 3 * wanted; tries > 0 && fresh > 0 && len(list) < wanted; {
		first := len(list)
		for range min(wanted-first, tries) {
			list = append(list, c.drawGossip())
			tries--
		}
		drawn := list[first:]
		list = list[:first]
		for _, n := range drawn {
			c.touched += int(n.flags) + n.port
		}
		for _, n := range drawn {
			if n == c.myself || n.timedOut() || n.gossiped == c.gossipSeq || fresh <= 0 {
				continue
			}
			fresh--
			if n.flags&(FlagHandshake|FlagNoAddr) != 0 || (n.link == nil && n.numSlots == 0) {
				continue
			}
			n.gossiped = c.gossipSeq
			list = append(list, n)
		}
	}
	return list
}

// drawGossip draws two nodes and takes the one with the newer news: the newer
// it is, the longer it spares others a ping of their own. That a node is FAIL is
// old news, and whoever has just come needs it.
func (c *Core) drawGossip() *node {
	a, b := c.rand.IntN(len(c.nodes)), c.rand.IntN(len(c.nodes))
	if c.pongs[b] > c.pongs[a] && !c.plain && !(c.anyFailed && c.nodes[a].failed()) {
		a = b
	}
	return c.nodes[a]
}

func (c *Core) putGossip(b []byte, n *node) {
	copy(b, n.id)
	binary.BigEndian.PutUint32(b[40:], uint32(c.wall(n.pingSent)/1000))
	binary.BigEndian.PutUint32(b[44:], uint32(c.wall(n.pongReceived)/1000))
	putCstr(b[48:48+ipLen], n.ip)
	binary.BigEndian.PutUint16(b[94:], uint16(n.port))
	binary.BigEndian.PutUint16(b[96:], uint16(n.cport))
	binary.BigEndian.PutUint16(b[98:], uint16(n.flags))
	binary.BigEndian.PutUint16(b[100:], uint16(n.pport))
}

// pongAll tells every node our configuration: one packet for all, whose gossip
// is the same for all.
func (c *Core) pongAll() {
	c.broadcast(c.pingPacket(MsgPong))
}

// pongShard tells the replicas of our shard our offset.
func (c *Core) pongShard() {
	for _, n := range c.nodes {
		if n != c.myself && n.isReplica() && n.master != nil && (n.master == c.myself || n.master == c.myself.master) {
			c.sendPing(n.link, MsgPong)
		}
	}
}

func (c *Core) failPacket(failing *node) packet {
	p := c.newPacket(MsgFail, headerLen+NameLen)
	copy(p[headerLen:], failing.id)
	return p
}

// sendUpdate tells a node that its idea of who owns n's slots is outdated.
func (c *Core) sendUpdate(l *link, n *node) {
	if l == nil || !l.up {
		return
	}
	p := c.newPacket(MsgUpdate, headerLen+updateLen)
	b := p[headerLen:]
	binary.BigEndian.PutUint64(b, n.configEpoch)
	copy(b[8:], n.id)
	for i, v := range n.slots.b {
		i += n.slots.lo
		b[8+NameLen+i] = v &^ c.unclaimed[i]
	}
	c.send(l, p)
}

// onPublish passes a message of a local client on.
func (c *Core) onPublish(in Publish) {
	t := MsgPublish
	if in.Sharded {
		t = MsgPublishShard
	}
	size := headerLen + 8 + len(in.Channel) + len(in.Message)
	if size > MaxPacket {
		return
	}
	p := c.newPacket(t, size)
	b := p[headerLen:]
	binary.BigEndian.PutUint32(b, uint32(len(in.Channel)))
	binary.BigEndian.PutUint32(b[4:], uint32(len(in.Message)))
	copy(b[8:], in.Channel)
	copy(b[8+len(in.Channel):], in.Message)
	if !in.Sharded {
		c.broadcast(p)
		return
	}
	m := shardOf(c.myself)
	if m != c.myself {
		c.send(m.link, p)
	}
	for _, r := range m.replicas {
		if r != c.myself {
			c.send(r.link, p)
		}
	}
}

// tellPFail tells the masters which nodes stopped answering, once per node and
// half timeout, so that FAIL does not wait for gossip. In a large cluster a few
// masters and the replicas that wait for it are enough: whoever has counted a
// majority tells everybody.
func (c *Core) tellPFail() {
	if len(c.toTell) == 0 {
		return
	}
	list := c.toTell
	c.toTell = nil
	if c.plain || !c.myself.isVoter() {
		return
	}
	still := list[:0]
	for _, n := range list {
		if n.timedOut() {
			n.toldAt = c.now
			still = append(still, n)
		}
	}
	if len(still) == 0 {
		return
	}
	const everybody = 64 // masters
	const enough = 16
	var masters []*node
	for _, n := range c.nodes {
		if n.isVoter() && n != c.myself && n.connected() && n.flags&(FlagPFail|FlagFail) == 0 {
			masters = append(masters, n)
		}
	}
	if len(masters) > everybody {
		slices.SortFunc(masters, byID)
		masters = masters[:enough]
	}
	p := c.pingPacket(MsgPong)
	for _, n := range masters {
		c.send(n.link, p)
	}
	for _, n := range still {
		for _, r := range n.replicas {
			if r != c.myself && r.flags&(FlagPFail|FlagFail) == 0 {
				c.send(r.link, p)
			}
		}
	}
}

func byID(a, b *node) int {
	switch {
	case a.id < b.id:
		return -1
	case a.id > b.id:
		return 1
	}
	return 0
}
