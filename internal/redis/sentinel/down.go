package sentinel

import (
	"strings"
	"time"
)

// checkSubjectivelyDown sets or clears SDOWN, which is our own opinion, and
// closes connections that look open but have gone silent.
func (c *Core) checkSubjectivelyDown(ri *instance) {
	m, l := ri.owner, ri.link
	c.dropSilentLinks(ri)
	down := false
	switch {
	case !l.actPing.IsZero():
		down = c.passed(m, l.actPing, ri.downAfter)
	case ri.disconnected():
		// Nothing was outstanding when the link was lost: silence is counted
		// from the loss, as Redis does by pinging a new link at once.
		since := l.lastAvail
		if l.lost.After(since) {
			since = l.lost
		}
		down = c.passed(m, since, ri.downAfter)
	}
	if ri.kind == kindMaster {
		// A master that says it is a replica gets the time of two INFO on top.
		if ri.roleReported == kindReplica && c.passed(m, ri.roleReportedTime, ri.downAfter+2*c.params.InfoPeriod) {
			down = true
		}
		if ri.is(masterReboot) && c.passed(m, m.rebootSince, m.cfg.RebootDownAfter) {
			down = true
		}
	}
	switch {
	case down && !ri.is(sDown):
		c.about(Warning, "+sdown", ri)
		ri.sDownSince = c.now
		ri.flags |= sDown
		if ri.kind == kindMaster {
			m.askNow = true
			c.wantFreshInfo(m)
		}
	case !down && ri.is(sDown):
		c.about(Warning, "-sdown", ri)
		ri.flags &^= sDown | scriptKillSent
	}
}

func (c *Core) dropSilentLinks(ri *instance) {
	m, l := ri.owner, ri.link
	if k := l.cmd; k != nil {
		old := c.params.MinLinkReconnectPeriod
		half := ri.downAfter / 2
		switch {
		case !k.up:
			if c.passed(m, k.started, connectTimeout) {
				c.closeConn(&l.cmd)
			}
		case !l.actPing.IsZero() && c.passed(m, k.started, old) &&
			c.passed(m, l.actPing, half) && c.passed(m, l.lastPong, half):
			c.closeConn(&l.cmd)
		}
	}
	if k := l.pub; k != nil {
		switch {
		case !k.up:
			if c.passed(m, k.started, connectTimeout) {
				c.closeConn(&l.pub)
			}
		case c.passed(m, k.started, c.params.MinLinkReconnectPeriod) && c.passed(m, l.pubActivity, 3*c.params.PublishPeriod):
			c.closeConn(&l.pub)
		}
	}
	if l.cmd == nil || (ri.kind != kindSentinel && l.pub == nil) {
		m.wantsEvaluation = m.wantsEvaluation || c.mayReconnect(ri)
	}
}

// mayReconnect reports whether a connection that was just closed can be made
// anew now; if not yet, m is woken when it can.
func (c *Core) mayReconnect(ri *instance) bool {
	m, l, d := ri.owner, ri.link, c.params.PingPeriod
	if ri.addr.Port == 0 {
		return false
	}
	return (l.cmd == nil && c.reached(m, l.cmdTried.Add(d))) ||
		(ri.kind != kindSentinel && l.pub == nil && c.reached(m, l.pubTried.Add(d)))
}

// checkObjectivelyDown sets or clears ODOWN: enough Sentinels agree.
func (c *Core) checkObjectivelyDown(m *master) {
	votes, odown := 0, false
	if m.is(sDown) {
		votes = 1
		for _, s := range m.sentinels {
			if s.is(masterDown) {
				votes++
			}
		}
		odown = votes >= m.cfg.Quorum
	}
	switch {
	case odown && !m.is(oDown):
		c.aboutf(Warning, "+odown", &m.instance, " #quorum %d/%d", votes, m.cfg.Quorum)
		m.flags |= oDown
		m.oDownSince = c.now
		// All who watch see the same at nearly the same moment. A small random
		// delay lets one of them be first, so that votes do not split.
		m.startNotBefore = c.now.Add(c.startDelay(m))
	case !odown && m.is(oDown):
		c.about(Warning, "-odown", &m.instance)
		m.flags &^= oDown
	}
}

// startDelay is how long we let others go first. All voters see ODOWN within
// milliseconds of each other, and a vote takes a sync of the disk, so that
// equals would split the votes: the first in an order that changes with the
// epoch starts at once, each further one a step later unless it has voted by
// then. Who is down is passed over.
func (c *Core) startDelay(m *master) time.Duration {
	rank := time.Duration(0)
	mine := startOrder(c.glob.MyID, c.currentEpoch)
	for _, s := range m.sentinels {
		if !s.is(sDown) && !s.disconnected() && startOrder(s.runID, c.currentEpoch) < mine {
			rank++
		}
	}
	return rank*startStep + c.randomDuration(startDesync)
}

// startOrder gives each Sentinel a place that differs from epoch to epoch
// (FNV-1a).
func startOrder(id string, epoch uint64) uint64 {
	h := uint64(14695981039346656037)
	for i := range 8 {
		h = (h ^ (epoch >> (8 * i) & 0xff)) * 1099511628211
	}
	for i := 0; i < len(id); i++ {
		h = (h ^ uint64(id[i]|0x20)) * 1099511628211
	}
	return h
}

// randomDuration is uniform in [0, d).
func (c *Core) randomDuration(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(c.rand.Int64N(int64(d)))
}

// askMasterState asks the peers what they think of m while it is down, and
// for their vote while we run for leader. One question per peer is
// outstanding; a new epoch is asked for at once.
func (c *Core) askMasterState(m *master) {
	now := m.askNow
	m.askNow = false
	for _, s := range m.sentinels {
		if c.passed(m, s.lastMasterReply, 5*c.params.AskPeriod) {
			s.flags &^= masterDown
			s.leader = ""
		}
		running := m.state != stateNone
		// A failover by command does not wait for votes, but takes them: nobody
		// else can be elected in its epoch then.
		candidate := m.state == stateWaitStart || (running && m.is(forceFailover))
		newEpoch := candidate && s.askedVote != m.failoverEpoch
		if !s.link.cmdUp() || (!m.is(sDown) && !newEpoch) {
			continue
		}
		if !newEpoch {
			if !s.askSent.IsZero() || (!now && !c.reached(m, s.lastMasterReply.Add(c.params.AskPeriod))) {
				continue
			}
		}
		epoch, runID := c.currentEpoch, "*"
		if running {
			epoch, runID = m.failoverEpoch, c.glob.MyID
		}
		if c.send(s, reqAsk, "SENTINEL", "is-master-down-by-addr", c.announce(m.addr),
			itoa(m.addr.Port), utoa(epoch), runID) {
			s.askSent = c.now
			if candidate {
				s.askedVote = m.failoverEpoch
			}
		}
	}
}

// onMasterDownReply learns a peer's opinion and its vote.
func (c *Core) onMasterDownReply(s *instance, v Value) {
	// An error or a strange reply is ignored: the flag expires by itself.
	if v.Kind != Array || len(v.Elems) != 3 || v.Elems[0].Kind != Int ||
		v.Elems[1].Kind != Bulk || v.Elems[2].Kind != Int {
		return
	}
	s.lastMasterReply = c.now
	if v.Elems[0].Int == 1 {
		s.flags |= masterDown
	} else {
		s.flags &^= masterDown
	}
	leader, epoch := v.Elems[1].Str, uint64(v.Elems[2].Int)
	if leader == "*" || len(leader) > 2*runIDLen {
		return
	}
	if s.leaderEpoch != epoch {
		c.log(Warning, "%s voted for %s %d", s.name, leader, epoch)
	}
	s.leader, s.leaderEpoch = leader, epoch
}

// maxEpoch bounds what a peer may say: an epoch beyond it could never be
// raised again.
const maxEpoch = 1 << 62

// voteLeader votes for runID in reqEpoch if no vote was given in it yet. It
// returns the vote that stands, "" when there is none.
func (c *Core) voteLeader(m *master, reqEpoch uint64, runID string) (string, uint64) {
	if reqEpoch > c.currentEpoch && reqEpoch < maxEpoch {
		c.currentEpoch = reqEpoch
		c.dirty = true
		c.event(Warning, "+new-epoch", &m.instance, "%d", c.currentEpoch)
	}
	mayVote := m.leaderEpoch < reqEpoch
	if c.opts.Mutants&MutVoteTwice != 0 {
		mayVote = m.leaderEpoch <= reqEpoch
	}
	if mayVote && c.currentEpoch <= reqEpoch && reqEpoch < maxEpoch {
		m.leader, m.leaderEpoch = runID, c.currentEpoch
		c.dirty = true
		c.flush()
		c.event(Warning, "+vote-for-leader", &m.instance, "%s %d", m.leader, m.leaderEpoch)
		if !sameHost(runID, c.glob.MyID) {
			// Leave the one we voted for the time to do it.
			m.failoverStart = c.now.Add(c.randomDuration(maxDesync))
		}
	}
	return m.leader, m.leaderEpoch
}

// isLeader counts the votes for us in the epoch of our failover: it takes an
// absolute majority of all known Sentinels, and no fewer than the quorum.
func (c *Core) isLeader(m *master) bool {
	votes := 0
	if m.leaderEpoch == m.failoverEpoch && sameHost(m.leader, c.glob.MyID) {
		votes = 1
	}
	for _, s := range m.sentinels {
		if s.leaderEpoch == m.failoverEpoch && sameHost(s.leader, c.glob.MyID) {
			votes++
		}
	}
	need := c.votesNeeded(m)
	if c.opts.Mutants&MutNoMajority != 0 {
		need = 1
	}
	return votes >= need
}

// isMasterDown answers the question of a peer, and votes if it asks for that.
func (c *Core) isMasterDown(host string, port int, epoch uint64, runID string) Value {
	var m *master
	for _, o := range c.masters {
		if o.addr.Port == port && c.isAt(o.addr, host) {
			m = o
			break
		}
	}
	down, leader, leaderEpoch := int64(0), "*", uint64(0)
	if m != nil && m.is(sDown) && !c.suspended() {
		down = 1
	}
	if m != nil && runID != "*" && !c.now.Before(c.suspendedUntil) && saneWord(runID) {
		leader, leaderEpoch = c.voteLeader(m, epoch, runID)
		if leader == "" {
			leader = "*"
		}
		m.wantsEvaluation = true
	}
	return array(integer(down), bulk(leader), integer(int64(leaderEpoch)))
}

// saneWord accepts what may stand as one word in a configuration file.
func saneWord(s string) bool {
	return s != "" && len(s) <= 2*runIDLen && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || r == '"' || r == '\'' || r == '\\' || r == ','
	})
}
