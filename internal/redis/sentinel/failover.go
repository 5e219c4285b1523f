package sentinel

import (
	"sort"
	"strings"
	"time"
)

// startFailoverIfNeeded starts an attempt for a master that is ODOWN, unless
// one is running or one was made, by us or by the Sentinel that we voted for,
// less than twice the failover timeout ago.
func (c *Core) startFailoverIfNeeded(m *master) {
	if !m.is(oDown) || m.is(failoverInProgress) {
		return
	}
	wait := 2 * m.cfg.FailoverTimeout
	if !m.failoverStart.IsZero() && !c.reached(m, m.failoverStart.Add(wait)) {
		if !m.delayLogged.Equal(m.failoverStart) {
			m.delayLogged = m.failoverStart
			c.log(Warning, "Next failover delay: I will not start a failover before %s",
				m.failoverStart.Add(wait).Format(time.ANSIC))
		}
		return
	}
	if !c.reached(m, m.startNotBefore) {
		return
	}
	c.startFailover(m)
}

func (c *Core) setState(m *master, s failoverState) {
	m.state, m.stateChange = s, c.now
	m.wantsEvaluation = true
}

func (c *Core) startFailover(m *master) {
	m.flags |= failoverInProgress
	m.retryEpochAt = time.Time{}
	c.setState(m, stateWaitStart)
	c.newFailoverEpoch(m)
	c.about(Warning, "+try-failover", &m.instance)
	m.failoverStart = c.now.Add(c.randomDuration(maxDesync))
	c.voteLeader(m, m.failoverEpoch, c.glob.MyID)
}

// newFailoverEpoch takes the next epoch for the failover of m. The vote for
// ourselves in it follows, and is persisted before anybody is asked.
func (c *Core) newFailoverEpoch(m *master) {
	c.currentEpoch++
	c.dirty = true
	c.event(Warning, "+new-epoch", &m.instance, "%d", c.currentEpoch)
	m.failoverEpoch = c.currentEpoch
}

func (c *Core) abortFailover(m *master) {
	m.flags &^= failoverInProgress | forceFailover
	m.retryEpochAt = time.Time{}
	c.setState(m, stateNone)
	if m.promotedReplica != nil {
		m.promotedReplica.flags &^= promoted
		m.promotedReplica = nil
	}
}

// failoverSteps goes through the states for as long as they change.
func (c *Core) failoverSteps(m *master) {
	for m.is(failoverInProgress) {
		before := m.state
		switch m.state {
		case stateWaitStart:
			c.onWaitStart(m)
		case stateSelectSlave:
			c.onSelectSlave(m)
		case stateSendSlaveofNoOne:
			c.onSendSlaveofNoOne(m)
		case stateWaitPromotion:
			c.onWaitPromotion(m)
		case stateReconfSlaves:
			c.onReconfSlaves(m)
		}
		if m.state == before {
			return
		}
	}
}

// onWaitStart waits for the votes.
func (c *Core) onWaitStart(m *master) {
	if !c.isLeader(m) && !m.is(forceFailover) {
		if c.passed(m, m.failoverStart, min(c.params.ElectionTimeout, m.cfg.FailoverTimeout)) {
			c.about(Warning, "-failover-abort-not-elected", &m.instance)
			c.abortFailover(m)
			return
		}
		c.retryEpoch(m)
		return
	}
	c.about(Warning, "+elected-leader", &m.instance)
	if c.simFail&simCrashAfterElection != 0 {
		c.crash()
	}
	if c.opts.Mutants&MutEarlyEpoch != 0 {
		m.configEpoch = m.failoverEpoch
	}
	c.setState(m, stateSelectSlave)
	c.about(Warning, "+failover-state-select-slave", &m.instance)
	c.wantFreshInfo(m)
}

// retryEpoch takes a new epoch when nobody can win ours any more: the failover
// of another master has moved the epoch past it, or the votes are split. In
// neither case did a rival take it. Redis would wait for the election to time
// out, and then for the next attempt.
func (c *Core) retryEpoch(m *master) {
	if m.leaderEpoch > m.failoverEpoch {
		return // we have voted for a rival since
	}
	consumed := c.currentEpoch > m.failoverEpoch
	if !consumed && !c.splitVote(m) {
		m.retryEpochAt = time.Time{}
		return
	}
	if m.retryEpochAt.IsZero() {
		delay := c.randomDuration(startDesyncUnit * time.Duration(len(m.sentinels)+1))
		if !consumed {
			delay = c.startDelay(m)
		}
		m.retryEpochAt = c.now.Add(delay)
	}
	if !c.reached(m, m.retryEpochAt) {
		return
	}
	m.retryEpochAt = time.Time{}
	c.newFailoverEpoch(m)
	c.voteLeader(m, m.failoverEpoch, c.glob.MyID)
	m.wantsEvaluation = true
}

// splitVote reports that no candidate of our epoch can get the votes it needs,
// even if all who have not answered yet voted for it. Where too few can vote at
// all the vote is not split: in a new epoch they would still be too few.
func (c *Core) splitVote(m *master) bool {
	votes := map[string]int{strings.ToLower(c.glob.MyID): 1}
	open, best, voters := 0, 1, 1
	for _, s := range m.sentinels {
		if !s.is(sDown) {
			voters++
		}
		switch {
		case s.leaderEpoch == m.failoverEpoch && s.leader != "":
			votes[strings.ToLower(s.leader)]++
			best = max(best, votes[strings.ToLower(s.leader)])
		case !s.is(sDown):
			open++
		}
	}
	needed := c.votesNeeded(m)
	return voters >= needed && best+open < needed
}

// votesNeeded is the majority of all voters that are known, or the quorum,
// whichever is more.
func (c *Core) votesNeeded(m *master) int {
	return max((len(m.sentinels)+1)/2+1, m.cfg.Quorum)
}

// onSelectSlave waits a moment for fresh figures, then chooses.
func (c *Core) onSelectSlave(m *master) {
	if c.awaitsInfo(m) && !c.reached(m, m.stateChange.Add(freshInfoWait)) {
		return
	}
	r := c.selectReplica(m)
	if r == nil {
		c.about(Warning, "-failover-abort-no-good-slave", &m.instance)
		c.abortFailover(m)
		return
	}
	c.about(Warning, "+selected-slave", r)
	r.flags |= promoted
	m.promotedReplica = r
	c.setState(m, stateSendSlaveofNoOne)
	c.about(Notice, "+failover-state-send-slaveof-noone", r)
}

// awaitsInfo reports whether a replica that could be chosen has not answered
// INFO since we became leader.
func (c *Core) awaitsInfo(m *master) bool {
	for _, r := range m.replicas {
		if c.reachable(r) && r.priority != 0 && r.infoRefresh.Before(m.stateChange) {
			return true
		}
	}
	return false
}

func (c *Core) reachable(r *instance) bool {
	return !r.is(sDown|oDown) && !r.disconnected() && c.now.Sub(r.link.lastAvail) <= 5*c.params.PingPeriod
}

// selectReplica returns the best replica to promote, or nil.
func (c *Core) selectReplica(m *master) *instance {
	maxLinkDown := 10 * m.downAfter
	infoAge := 3 * c.params.InfoPeriod
	if m.is(sDown) {
		maxLinkDown += c.now.Sub(m.lostSince())
		infoAge = 5 * c.params.PingPeriod
	}
	var good []*instance
	for _, r := range m.replicas {
		switch {
		case !c.reachable(r):
		case r.priority == 0 && c.opts.Mutants&MutIgnorePriority == 0:
		case r.infoRefresh.IsZero() || c.now.Sub(r.infoRefresh) > infoAge:
		case r.masterLinkDown > maxLinkDown && c.opts.Mutants&MutIgnoreLinkAge == 0:
		default:
			good = append(good, r)
		}
	}
	if len(good) == 0 {
		return nil
	}
	sort.SliceStable(good, func(i, j int) bool { return c.better(good[i], good[j]) })
	return good[0]
}

// lostSince is since when a master that is SDOWN has been none. One that
// answers, but as a replica, has been lost since it said so first: replicas
// could not be linked to it from then on, which must not disqualify them.
func (m *master) lostSince() time.Time {
	if m.roleReported == kindReplica {
		return earlier(m.roleReportedTime, m.sDownSince)
	}
	return m.sDownSince
}

// better orders by priority, then by how much was received from the master,
// then by run id (unknown last), so that everybody would choose the same.
func (c *Core) better(a, b *instance) bool {
	if a.priority != b.priority {
		return a.priority < b.priority
	}
	if a.replOffset != b.replOffset && c.opts.Mutants&MutIgnoreOffset == 0 {
		return a.replOffset > b.replOffset
	}
	if a.runID == "" || b.runID == "" {
		return a.runID != "" && b.runID == ""
	}
	return strings.ToLower(a.runID) < strings.ToLower(b.runID)
}

func (c *Core) onSendSlaveofNoOne(m *master) {
	r := m.promotedReplica
	if !r.disconnected() && c.sendSlaveOf(r, nil) {
		c.about(Notice, "+failover-state-wait-promotion", r)
		c.setState(m, stateWaitPromotion)
		return
	}
	if c.passed(m, m.stateChange, m.cfg.FailoverTimeout) {
		c.about(Warning, "-failover-abort-slave-timeout", &m.instance)
		c.abortFailover(m)
	}
}

// onWaitPromotion only watches the clock; INFO ends this state (onPromotion).
func (c *Core) onWaitPromotion(m *master) {
	if c.passed(m, m.stateChange, m.cfg.FailoverTimeout) {
		c.about(Warning, "-failover-abort-slave-timeout", &m.instance)
		c.abortFailover(m)
	}
}

// onPromotion: the chosen replica says that it is a master. From now on our
// configuration has the epoch of the election and overrides older ones.
func (c *Core) onPromotion(m *master, r *instance) {
	m.configEpoch = m.failoverEpoch
	c.setState(m, stateReconfSlaves)
	c.dirty = true
	c.flush()
	c.about(Warning, "+promoted-slave", r)
	if c.simFail&simCrashAfterPromotion != 0 {
		c.crash()
	}
	c.about(Warning, "+failover-state-reconf-slaves", &m.instance)
	c.clientReconfigScript(m, "leader", m.addr, r.addr)
	c.forceHello(m)
}

// onReconfSlaves repoints the other replicas, parallel-syncs at a time.
func (c *Core) onReconfSlaves(m *master) {
	busy := 0
	for _, r := range m.replicas {
		// A replica that does not move on is given up, so that it does not
		// hold the place of the others; it is repaired later as misconfigured.
		if r.is(reconfSent) && c.passed(m, r.reconfSentTime, c.params.SlaveReconfTimeout) {
			c.about(Notice, "-slave-reconf-sent-timeout", r)
			r.flags = r.flags&^reconfSent | reconfDone
		}
		if r.is(reconfSent | reconfInProgress) {
			busy++
		}
	}
	for _, r := range m.replicas {
		if busy >= m.cfg.ParallelSyncs {
			break
		}
		if r.is(promoted|reconfDone|reconfSent|reconfInProgress) || r.disconnected() {
			continue
		}
		if c.sendSlaveOf(r, &m.promotedReplica.addr) {
			r.flags |= reconfSent
			r.reconfSentTime = c.now
			c.about(Notice, "+slave-reconf-sent", r)
			m.wantsEvaluation = true
			busy++
		}
	}
	c.detectEnd(m)
}

// detectEnd ends the failover once every reachable replica follows the new
// master, or the time is up.
func (c *Core) detectEnd(m *master) {
	if m.promotedReplica.is(sDown) {
		return
	}
	left := 0
	for _, r := range m.replicas {
		if !r.is(promoted | reconfDone | sDown) {
			left++
		}
	}
	timeout := c.passed(m, m.stateChange, m.cfg.FailoverTimeout)
	if timeout {
		c.about(Warning, "+failover-end-for-timeout", &m.instance)
	}
	if left > 0 && !timeout {
		return
	}
	c.about(Warning, "+failover-end", &m.instance)
	c.setState(m, stateUpdateConfig)
	if !timeout {
		return
	}
	for _, r := range m.replicas {
		if r.is(promoted|reconfDone|reconfSent) || r.disconnected() {
			continue
		}
		if c.sendSlaveOf(r, &m.promotedReplica.addr) {
			c.about(Notice, "+slave-reconf-sent-be", r)
			r.flags |= reconfSent
		}
	}
}

// switchToPromoted makes the promoted replica the master of the configuration.
func (c *Core) switchToPromoted(m *master) {
	to := m.addr
	if m.promotedReplica != nil {
		to = m.promotedReplica.addr
	}
	c.event(Warning, "+switch-master", &m.instance, "%s %s %d %s %d",
		m.name, c.announce(m.addr), m.addr.Port, c.announce(to), to.Port)
	// The address was accepted when the replica was added; it cannot fail now.
	if err := c.resetAndChangeAddress(m, to.Host, to.Port); err != nil {
		c.resetMaster(m, true)
		c.log(Warning, "cannot switch to %s: %v", hostPort(to.Host, to.Port), err)
	}
}

func (c *Core) crash() {
	c.flush()
	c.log(Warning, "Sentinel CRASH because of SENTINEL simulate-failure")
	c.emit(Exit{99})
}
