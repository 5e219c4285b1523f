package cluster

// link is one connection of the bus. Outbound ones carry what we say and the
// answers to it, inbound ones what the other side says and our answers.
type link struct {
	id       LinkID
	node     *node // nil: inbound, and nothing was received yet
	up       bool
	created  instant
	since    int64 // created on the wall's clock, in ms, whatever became of that clock
	remoteIP string
	localIP  string
}

func (l *link) inbound() bool { return l.id&Inbound != 0 }

// connect opens the link to a node.
func (c *Core) connect(n *node) {
	c.nextLink++
	l := &link{id: c.nextLink, node: n, created: c.now, since: c.wall(c.now)}
	c.links[l.id] = l
	n.link = l
	n.tried = c.now
	if n.pingSent == 0 {
		n.pingSent = c.now // whoever cannot be connected to must time out
		c.wake(c.now + c.timeout() + 1)
	}
	c.emit(Connect{Link: l.id, IP: n.ip, Port: n.cport})
}

func (c *Core) onLinkUp(in LinkUp) {
	l := c.links[in.Link]
	if l == nil || l.up || l.inbound() {
		return
	}
	l.up, l.remoteIP, l.localIP = true, in.RemoteIP, in.LocalIP
	n := l.node
	asked := n.pingSent // it has been silent since then
	t := MsgPing
	if n.flags.Has(FlagMeet) {
		t = MsgMeet
	}
	c.sendPing(l, t)
	n.pingSent = asked
	// After the first packet it is a handshake like any other.
	n.flags &^= FlagMeet
	c.debugf("Connecting with Node %s at %s:%d", n.id, n.ip, n.cport)
	c.wake(c.now + c.timeout())
}

func (c *Core) onInboundUp(in InboundUp) {
	if in.Link&Inbound == 0 || c.links[in.Link] != nil {
		return
	}
	c.links[in.Link] = &link{id: in.Link, up: true, created: c.now, since: c.wall(c.now), remoteIP: in.RemoteIP, localIP: in.LocalIP}
}

func (c *Core) onLinkDown(in LinkDown) {
	l := c.links[in.Link]
	if l == nil {
		return
	}
	n := l.node
	if in.BufferLimit {
		c.limitExceeded++
		direction, id := "to", ""
		if l.inbound() {
			direction = "from"
		}
		if n != nil {
			id = n.id
		}
		c.logf(Warning, "Freeing cluster link(%s node %s, used memory: %d) due to exceeding send buffer memory limit.", direction, id, in.Buffer)
	}
	if !l.inbound() && n != nil && !l.up {
		c.logf(Verbose, "Connection with Node %s at %s:%d failed: %s", n.id, n.ip, n.cport, in.Err)
	}
	c.forgetLink(l)
	if l.inbound() || n == nil {
		return
	}
	// Without a link no ping can go unanswered, so the loss of it counts as
	// one: what is dead must time out.
	if n.pingSent == 0 {
		n.pingSent = c.now
		c.wake(c.now + c.timeout() + 1)
	}
	c.wake(n.tried + tickPeriod)
}

// forgetLink drops our side of a link that is gone.
func (c *Core) forgetLink(l *link) {
	delete(c.links, l.id)
	if n := l.node; n != nil {
		if n.link == l {
			n.link = nil
		}
		if n.inbound == l {
			n.inbound = nil
		}
	}
}

func (c *Core) closeLink(l *link) {
	if c.links[l.id] != l {
		return
	}
	c.forgetLink(l)
	c.emit(CloseLink{l.id})
	if !l.inbound() && l.node != nil {
		c.wake(l.node.tried + tickPeriod)
	}
}

// bind notes whose inbound link this is.
func (c *Core) bind(l *link, n *node) {
	if n.inbound != nil {
		c.debugf("Replacing inbound link fd %d from node %s with fd %d", n.inbound.id&^Inbound, n.id, l.id&^Inbound)
	}
	n.inbound = l
	l.node = n
}
