package sentinel

import (
	"fmt"
	"time"
)

const helloChannel = "__sentinel__:hello"

// command is the name under which this instance knows a command (rename-command).
func (ri *instance) command(name string) string {
	if ri.kind != kindSentinel {
		for _, r := range ri.owner.cfg.RenamedCommands {
			if sameHost(r.From, name) {
				return r.To
			}
		}
	}
	return name
}

// reconnect asks for the connections that are missing, each at most once per
// ping period.
func (c *Core) reconnect(ri *instance) {
	l := ri.link
	if ri.addr.Port == 0 {
		return
	}
	if l.cmd == nil && c.reached(ri.owner, l.cmdTried.Add(c.params.PingPeriod)) {
		l.cmdTried = c.now
		l.cmd = c.connect(ri, false)
	}
	if ri.kind != kindSentinel && l.pub == nil && c.reached(ri.owner, l.pubTried.Add(c.params.PingPeriod)) {
		l.pubTried = c.now
		l.pub = c.connect(ri, true)
	}
}

func (c *Core) connect(ri *instance, pubsub bool) *conn {
	c.nextConn++
	k := &conn{id: c.nextConn, link: ri.link, pubsub: pubsub, started: c.now}
	c.conns[k.id] = k
	host := ri.addr.Host
	if IsIP(host) || host == "" {
		host = ri.addr.IP
	}
	c.act(Connect{Conn: k.id, Host: host, Port: ri.addr.Port, Pubsub: pubsub, Peer: ri.kind == kindSentinel})
	return k
}

// closeConn closes *k, if any, on our initiative.
func (c *Core) closeConn(k **conn) {
	if *k == nil {
		return
	}
	c.forget(*k)
	c.emit(Disconnect{(*k).id})
	*k = nil
}

// forget drops a connection and everything that waited for a reply on it.
func (c *Core) forget(k *conn) {
	delete(c.conns, k.id)
	if k.up && !k.pubsub {
		k.link.lost = c.now
	}
	for _, r := range k.pending {
		r.inst.unanswered(r.kind)
	}
	k.pending, k.up = nil, false
}

// unanswered notes that a request will get no reply any more.
func (ri *instance) unanswered(k requestKind) {
	switch k {
	case reqInfo:
		ri.infoSent = time.Time{}
	case reqHello:
		ri.pubPending = false
	case reqAsk:
		ri.askSent = time.Time{}
	}
}

// send writes a command on the command connection; false when there is none
// or too much is unanswered on it.
func (c *Core) send(ri *instance, kind requestKind, args ...string) bool {
	l := ri.link
	if !l.cmdUp() {
		return false
	}
	if kind != reqPing && len(l.cmd.pending) >= maxPending*len(l.users) {
		return false
	}
	c.sendOn(l.cmd, ri, kind, args...)
	return true
}

func (c *Core) sendOn(k *conn, ri *instance, kind requestKind, args ...string) {
	args[0] = ri.command(args[0])
	if !k.pubsub || kind == reqDiscard {
		k.pending = append(k.pending, request{kind, ri})
	}
	c.act(Send{Conn: k.id, Args: args})
}

// onLinkUp greets the other side: password, name, then PING or SUBSCRIBE.
func (c *Core) onLinkUp(k *conn, ri *instance) {
	user, pass := c.credentials(ri)
	switch {
	case pass != "" && user == "":
		c.sendOn(k, ri, reqDiscard, "AUTH", pass)
	case pass != "":
		c.sendOn(k, ri, reqDiscard, "AUTH", user, pass)
	}
	what := "cmd"
	if k.pubsub {
		what = "pubsub"
	}
	c.sendOn(k, ri, reqDiscard, "CLIENT", "SETNAME", fmt.Sprintf("sentinel-%.8s-%s", c.glob.MyID, what))
	if k.pubsub {
		ri.link.pubActivity = c.now
		c.sendOn(k, ri, reqHello, "SUBSCRIBE", helloChannel)
		return
	}
	c.sendPing(ri)
}

func (c *Core) credentials(ri *instance) (user, pass string) {
	if ri.kind != kindSentinel {
		return ri.owner.cfg.AuthUser, ri.owner.cfg.AuthPass
	}
	if c.glob.SentinelPass != "" {
		return c.glob.SentinelUser, c.glob.SentinelPass
	}
	return "", c.opts.RequirePass
}

func (c *Core) sendPing(ri *instance) {
	if !c.send(ri, reqPing, "PING") {
		return
	}
	l := ri.link
	l.lastPing = c.now
	if l.actPing.IsZero() {
		l.actPing = c.now
	}
}

// sendPeriodic sends what is due by time: INFO, PING, hello.
func (c *Core) sendPeriodic(ri *instance) {
	l, m := ri.link, ri.owner
	if !l.cmdUp() || len(l.cmd.pending) >= maxPending*len(l.users) {
		return
	}
	if ri.kind != kindSentinel {
		c.sendInfo(ri)
	}
	period := min(ri.downAfter, c.params.PingPeriod)
	if c.passed(m, l.lastPong, period) && c.passed(m, l.lastPing, period/2) {
		c.sendPing(ri)
	}
	if !ri.pubPending && c.passed(m, ri.lastPub, c.params.PublishPeriod) {
		c.sendHello(ri)
	}
}

// infoPeriod is how often ri is asked for INFO. Redis speeds up from ODOWN
// on; here already SDOWN does, so that the figures are fresh when a replica
// must be chosen.
func (c *Core) infoPeriod(ri *instance) time.Duration {
	m := ri.owner
	if ri.kind == kindReplica {
		switch {
		case m.state == stateWaitPromotion && ri == m.promotedReplica:
			return promotionPoll
		case ri.is(reconfSent|reconfInProgress) && c.now.Sub(ri.reconfSentTime) < reconfPollFor:
			return reconfPoll
		case m.is(sDown|oDown|failoverInProgress) || ri.masterLinkDown != 0 || ri.misplaced():
			return failoverInfo
		}
	} else if ri.roleReported == kindReplica {
		return failoverInfo
	}
	return c.params.InfoPeriod
}

// misplaced: a replica that says it is a master, or follows another one than
// ours. It is watched closely, since it is going to be reconfigured.
func (ri *instance) misplaced() bool {
	if ri.infoRefresh.IsZero() || ri.is(promoted) {
		return false
	}
	return ri.roleReported == kindMaster ||
		(ri.masterHost != "" && ri.masterPort != ri.owner.addr.Port)
}

// sendInfo keeps at most one INFO outstanding.
func (c *Core) sendInfo(ri *instance) {
	if !ri.infoSent.IsZero() || !c.reached(ri.owner, ri.infoNotBefore) {
		return
	}
	if !ri.infoWanted && !ri.infoRefresh.IsZero() && !c.passed(ri.owner, ri.infoRefresh, c.infoPeriod(ri)) {
		return
	}
	if c.send(ri, reqInfo, "INFO") {
		ri.infoSent, ri.infoWanted = c.now, false
	}
}

// wantFreshInfo asks all replicas of m for INFO now.
func (c *Core) wantFreshInfo(m *master) {
	for _, r := range m.replicas {
		r.infoWanted = true
	}
	m.wantsEvaluation = true
}

func (c *Core) sendHello(ri *instance) {
	m := ri.owner
	ip, port := c.glob.AnnounceIP, c.glob.AnnouncePort
	if ip == "" {
		ip = ri.link.localIP
	}
	if port == 0 {
		port = c.opts.Port
	}
	if ip == "" {
		return
	}
	cur := m.currentAddr()
	payload := fmt.Sprintf("%s,%d,%s,%d,%s,%s,%d,%d", ip, port, c.glob.MyID, c.currentEpoch,
		m.name, c.announce(cur), cur.Port, m.configEpoch)
	if c.send(ri, reqHello, "PUBLISH", helloChannel, payload) {
		ri.pubPending = true
	}
}

// forceHello makes everybody hear our view of m at once.
func (c *Core) forceHello(m *master) {
	m.instances(func(ri *instance) {
		ri.lastPub = ri.lastPub.Add(-c.params.PublishPeriod - time.Millisecond)
	})
	m.wantsEvaluation = true
}

// sendSlaveOf turns ri into a master (host "") or into a replica, keeps that
// over its restart, and disconnects its clients so that they ask who is
// master now; all in one transaction.
func (c *Core) sendSlaveOf(ri *instance, to *Addr) bool {
	if !ri.link.cmdUp() {
		return false
	}
	host, port := "NO", "ONE"
	if to != nil {
		host, port = c.announce(*to), fmt.Sprint(to.Port)
	}
	cmds := [][]string{
		{"MULTI"}, {"SLAVEOF", host, port}, {"CONFIG", "REWRITE"},
		{"CLIENT", "KILL", "TYPE", "normal"}, {"CLIENT", "KILL", "TYPE", "pubsub"},
	}
	for _, a := range cmds {
		c.sendOn(ri.link.cmd, ri, reqDiscard, a...)
	}
	c.sendOn(ri.link.cmd, ri, reqExec, "EXEC")
	return true
}

// dropConnections closes the connections of the given instances, so that they
// are made anew with the present credentials.
func (c *Core) dropConnections(list ...*instance) {
	for _, ri := range list {
		c.closeConn(&ri.link.cmd)
		c.closeConn(&ri.link.pub)
		ri.link.cmdTried, ri.link.pubTried = time.Time{}, time.Time{}
		ri.owner.wantsEvaluation = true
	}
}
