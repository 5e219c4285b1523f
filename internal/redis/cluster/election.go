package cluster

// election is the attempt of this replica to be elected in the place of its
// failed master.
type election struct {
	planned   instant // 0: none
	readyAt   instant // planned + what the rank costs
	sentAt    instant
	sent      bool
	epoch     uint64 // of the request for votes
	rank      int
	rankDelay instant // what the rank costs
	shardRank int
	shardBase instant        // since when shardRank is what it is
	votes     map[*node]bool // who voted for us in epoch
	lost      map[*node]bool // who has gone on to a later epoch without voting
	contested instant        // when somebody else asked for votes in our epoch
	quick     int            // attempts that were repeated at once
	offsets   instant        // until when offsets of siblings are waited for
}

// Delays of an election, in ms.
const (
	betterStep    = 1200 // per sibling with better data: a genuine one may take 1100
	equalStep     = 500  // per sibling with the same data and a smaller id
	shardStep     = 50   // per shard that failed with ours and comes first
	offsetWait    = 250  // for siblings whose offset is older than the loss of the master
	offsetMargin  = 100  // how much later a report must be to be of the final offset
	contestedWait = 100  // for the votes of an epoch in which another one asked, too
	maxQuick      = 8

	plainFixedDelay  = 500 // Redis's, when the improvements are off
	plainRandomDelay = 500
	plainRankStep    = 1000
)

// cantReason is why a replica does not fail over, for the log.
type cantReason uint8

const (
	cantNone cantReason = iota
	cantDataAge
	cantDelay
	cantExpired
	cantVotes
)

var cantTexts = [...]string{
	cantNone:    "Unknown reason code.",
	cantDataAge: "Disconnected from master for longer than allowed. Please check the 'cluster-replica-validity-factor' configuration option.",
	cantDelay:   "Waiting the delay before I can start a new failover.",
	cantExpired: "Failover attempt expired.",
	cantVotes:   "Waiting for votes, but majority still not reached.",
}

// logCant logs why there is no failover, when it goes on for long.
func (c *Core) logCant(r cantReason) {
	m := &c.manual
	if r == m.cant && c.now-m.cantLogged < cantFailoverRelog {
		return
	}
	m.cant = r
	if master := c.myself.master; master != nil && master.failed() && c.now-master.failTime < c.timeout()+5000 {
		return
	}
	m.cantLogged = c.now
	c.logf(Warning, "Currently unable to failover: %s", cantTexts[r])
}

// dataTooOld reports whether this replica lost touch with its master too long
// before it failed (cluster-replica-validity-factor).
func (c *Core) dataTooOld() bool {
	if c.cfg.ReplicaValidityFactor == 0 || c.faults.StaleDataElection {
		return false
	}
	d := c.host.Data()
	if d.MasterSeen.IsZero() {
		return true // never had a link
	}
	age := c.now - c.instantOf(d.MasterSeen)
	if age > c.timeout() {
		age -= c.timeout()
	}
	return age > instant(c.cfg.PingReplicaPeriod.Milliseconds())+c.timeout()*instant(c.cfg.ReplicaValidityFactor)
}

// handleFailover drives the election, from the wish to the victory.
func (c *Core) handleFailover() {
	manual := c.manual.end != 0 && c.manual.canStart
	me, e := c.myself, &c.election
	master := me.master
	if me.isMaster() || master == nil || master.numSlots == 0 ||
		(!master.failed() && !manual && !c.faults.FailoverAnyMaster) || (c.cfg.ReplicaNoFailover && !manual) {
		c.manual.cant = cantNone
		if !c.plain {
			c.election = election{}
		}
		return
	}
	if c.dataTooOld() && !manual {
		c.logCant(cantDataAge)
		return
	}
	authTimeout := max(2*c.timeout(), 2000)
	if e.planned == 0 || c.now-e.startAt() > 2*authTimeout {
		c.planElection()
		if c.plain {
			return
		}
	}
	if !e.sent && c.manual.end == 0 {
		c.adjustElection()
	}
	if start := e.startAt(); c.now < start {
		c.wake(start)
		c.logCant(cantDelay)
		return
	}
	if c.now-e.startAt() > authTimeout {
		c.logCant(cantExpired)
		c.wake(e.startAt() + 2*authTimeout + 1)
		return
	}
	if !e.sent {
		c.requestVotes()
		return
	}
	if len(e.votes) >= c.quorum() {
		c.win()
		return
	}
	c.logCant(cantVotes)
	c.wake(e.startAt() + authTimeout + 1)
	c.retryIfHopeless()
}

// startAt is when votes are asked for.
func (e *election) startAt() instant {
	if e.sent {
		return e.sentAt
	}
	return max(e.readyAt, e.shardBase+instant(e.shardRank)*shardStep)
}

// planElection begins an attempt.
func (c *Core) planElection() {
	c.election = election{planned: c.now, readyAt: c.now, shardBase: c.now, votes: c.election.votes}
	e := &c.election
	offset := c.host.Data().Offset
	switch {
	case c.manual.end != 0:
		c.todo |= todoFailover
	case c.faults.IgnoreRank:
	case c.plain:
		e.rank, e.rankDelay = c.rank(offset)
		e.readyAt += plainFixedDelay + instant(c.rand.IntN(plainRandomDelay)) + e.rankDelay
	default:
		e.offsets = c.now + offsetWait
		e.rank, e.rankDelay = c.rank(offset)
		e.shardRank = c.shardRank()
		e.readyAt += e.rankDelay
	}
	c.logf(Warning, "Start of election delayed for %d milliseconds (rank #%d, offset %d).", e.startAt()-c.now, e.rank, offset)
	c.pongShard() // so that they know our offset
}

// adjustElection follows what is learned while we wait for our turn.
func (c *Core) adjustElection() {
	e := &c.election
	if c.faults.IgnoreRank {
		return
	}
	if r, delay := c.rank(c.host.Data().Offset); delay > e.rankDelay {
		added := delay - e.rankDelay
		e.readyAt += added
		e.rank, e.rankDelay = r, delay
		c.logf(Warning, "Replica rank updated to #%d, added %d milliseconds of delay.", r, added)
	}
	if c.plain {
		return
	}
	if s := c.shardRank(); s != e.shardRank {
		e.shardRank, e.shardBase = s, c.now
	}
	if c.now < e.offsets && !c.offsetsKnown() {
		e.readyAt = max(e.readyAt, min(e.offsets, c.now+10))
	}
}

// rank counts the siblings that are the better choice, and says how long to
// wait for them.
func (c *Core) rank(offset int64) (rank int, delay instant) {
	for _, r := range c.myself.master.replicas {
		if r == c.myself || r.flags.Has(FlagNoFailover) {
			continue
		}
		switch {
		case c.plain:
			if r.replOffset > offset {
				rank++
				delay += plainRankStep
			}
		case r.flags&(FlagFail|FlagPFail) != 0:
		case r.replOffset > offset:
			rank++
			delay += betterStep
		case r.replOffset == offset && r.id < c.myself.id:
			rank++
			delay += equalStep
		}
	}
	return rank, delay
}

// shardRank counts the shards that failed with ours, can be repaired, and come
// first: elections one after the other need one epoch each, at once they split
// the votes.
func (c *Core) shardRank() int {
	rank := 0
	for _, n := range c.nodes {
		if !n.isVoter() || !n.failed() || n.id >= c.myself.master.id {
			continue
		}
		for _, r := range n.replicas {
			if r.flags&(FlagFail|FlagPFail|FlagNoFailover) == 0 {
				rank++
				break
			}
		}
	}
	return rank
}

// offsetsKnown reports whether every sibling has told its offset since the
// master was last heard: before that, who is best is a guess.
func (c *Core) offsetsKnown() bool {
	since := c.instantOf(c.host.Data().MasterSeen) + offsetMargin
	for _, r := range c.myself.master.replicas {
		if r == c.myself || r.flags&(FlagFail|FlagPFail|FlagNoFailover) != 0 || !r.connected() {
			continue
		}
		if r.replOffsetTime < since {
			return false
		}
	}
	return true
}

// requestVotes begins a new epoch and asks every node for its vote. Voters
// learn on the same link, just before, that our master is FAIL.
func (c *Core) requestVotes() {
	e := &c.election
	c.currentEpoch++
	e.epoch, e.sent, e.sentAt = c.currentEpoch, true, c.now
	e.lost, e.contested = map[*node]bool{}, 0
	if e.votes == nil || !c.faults.CountStaleVotes {
		e.votes = map[*node]bool{}
	}
	c.logf(Warning, "Starting a failover election for epoch %d.", c.currentEpoch)
	c.event(EventElection, c.myself.master, nil, e.epoch)
	if c.failIsNews(c.myself.master) {
		fail := c.failPacket(c.myself.master)
		for _, n := range c.nodes {
			if n.isVoter() && n != c.myself {
				c.send(n.link, fail)
			}
		}
	}
	p := c.newPacket(MsgAuthRequest, headerLen)
	eachSlot(p.slots(), func(s int) {
		if c.letGoByMaster(s) {
			p[offSlots+s>>3] &^= 1 << (s & 7)
		}
	})
	if c.manual.end != 0 {
		p[offMsgFlags] |= flagForceAck
	}
	c.broadcast(p)
	c.todo |= todoSave | todoSync | todoState
	c.wake(c.now + max(2*c.timeout(), 2000) + 1)
}

// failIsNews reports whether voters may not have heard yet that n is FAIL: it
// was found out a moment ago, and n is still silent. What was found out longer
// ago, perhaps in a partition that healed, they know better than we do.
func (c *Core) failIsNews(n *node) bool {
	return !c.plain && n.failed() && n.failNews != 0 && c.now-n.failNews < c.timeout() &&
		n.pingSent != 0 && c.now-max(n.pingSent, n.dataReceived) > c.timeout()/2
}

// noteEpoch notices, from the epoch in any packet of a voter, that it has gone
// on without giving us its vote.
func (c *Core) noteEpoch(n *node, epoch uint64) {
	e := &c.election
	if !e.sent || epoch <= e.epoch || c.plain || !n.isVoter() || e.votes[n] || e.lost[n] {
		return
	}
	e.lost[n] = true
	c.todo |= todoFailover
}

// retryIfHopeless tries a new epoch as soon as this one cannot be won.
func (c *Core) retryIfHopeless() {
	e := &c.election
	if c.plain || e.quick >= maxQuick || c.manual.end != 0 {
		return
	}
	reachable := 0
	for _, n := range c.nodes {
		if n.isVoter() && n.flags&(FlagFail|FlagPFail) == 0 && !e.votes[n] && !e.lost[n] {
			reachable++
		}
	}
	if len(e.votes)+reachable >= c.quorum() {
		if e.contested == 0 {
			return
		}
		if until := e.contested + contestedWait; c.now < until {
			c.wake(until)
			return
		}
	} else if len(e.lost) == 0 {
		return // too few voters are left: asking again helps nobody
	}
	c.event(EventElectionLost, c.myself.master, nil, e.epoch)
	next := election{
		planned: c.now, readyAt: c.now + instant(c.rand.IntN(shardStep/2)), shardBase: c.now,
		rank: e.rank, rankDelay: e.rankDelay, shardRank: c.shardRank(), quick: e.quick + 1, votes: e.votes,
	}
	c.election = next
	c.wake(c.election.startAt())
	c.todo |= todoFailover
}

// onAuthAck counts a vote.
func (c *Core) onAuthAck(n *node, p packet) {
	e := &c.election
	if !n.isVoter() || !e.sent {
		return
	}
	// A vote is given in the epoch that its packet names; one of an earlier
	// election of ours must not count in this one.
	if p.currentEpoch() != e.epoch && !c.faults.CountStaleVotes {
		return
	}
	e.votes[n] = true
	c.todo |= todoFailover
}

// onAuthRequest votes, if the rules allow it.
func (c *Core) onAuthRequest(n *node, p packet) {
	me := c.myself
	e := &c.election
	if e.sent && p.currentEpoch() == e.epoch && e.contested == 0 {
		e.contested = c.now
		c.wake(c.now + contestedWait)
	}
	if !me.isVoter() {
		return
	}
	epoch := p.currentEpoch()
	if epoch < c.currentEpoch && !c.faults.SkipVoteEpochCheck {
		c.logf(Warning, "Failover auth denied to %s: reqEpoch (%d) < curEpoch(%d)", n.id, epoch, c.currentEpoch)
		return
	}
	voted := c.lastVoteEpoch == epoch || (c.lastVoteEpoch > epoch && !c.faults.SkipVoteEpochCheck)
	if voted && !c.faults.VoteTwice {
		c.logf(Warning, "Failover auth denied to %s: already voted for epoch %d", n.id, c.currentEpoch)
		return
	}
	master := n.master
	force := p.msgFlags()&flagForceAck != 0
	switch {
	case n.isMaster():
		c.logf(Warning, "Failover auth denied to %s: it is a master node", n.id)
		return
	case master == nil:
		c.logf(Warning, "Failover auth denied to %s: I don't know its master", n.id)
		return
	case !master.failed() && !force && !c.faults.VoteWithoutFail:
		c.logf(Warning, "Failover auth denied to %s: its master is up", n.id)
		return
	}
	// Not needed for safety, one vote per epoch is; it gives the first
	// candidate time. The same candidate may ask again: it lost that epoch.
	if wait := master.votedTime + 2*c.timeout() - c.now; master.votedTime != 0 && wait > 0 &&
		(c.plain || master.votedFor != n.id) && !c.faults.VoteTwice {
		c.logf(Warning, "Failover auth denied to %s: can't vote about this master before %d milliseconds", n.id, wait)
		return
	}
	claim := p.configEpoch()
	for s := range Slots {
		if !bitSet(p.slots(), s) || c.vacant(s, claim) || c.faults.SkipVoteSlotCheck {
			continue
		}
		if o := c.owner(s); o != nil && o.configEpoch > claim {
			c.logf(Warning, "Failover auth denied to %s: slot %d epoch (%d) > reqEpoch (%d)", n.id, s, o.configEpoch, claim)
			return
		}
	}
	c.vote(n, epoch)
}

func (c *Core) vote(n *node, epoch uint64) {
	c.lastVoteEpoch = max(c.lastVoteEpoch, epoch)
	n.master.votedTime, n.master.votedFor = c.now, n.id
	if !c.faults.ForgetVote {
		c.todo |= todoSave | todoSync
	}
	c.event(EventVote, n, n.master, epoch)
	ack := c.newPacket(MsgAuthAck, headerLen)
	if c.faults.SkipVoteEpochCheck {
		ack.put64(offCurEpoch, epoch)
	}
	c.send(n.link, ack)
	c.logf(Warning, "Failover auth granted to %s for epoch %d", n.id, epoch)
}

// win takes over after an election.
func (c *Core) win() {
	e := &c.election
	c.logf(Warning, "Failover election won: I'm the new master.")
	c.event(EventWon, c.myself, c.myself.master, e.epoch)
	if c.myself.configEpoch < e.epoch && !c.faults.NoEpochBump {
		c.setMyEpoch(e.epoch)
		c.logf(Warning, "configEpoch set to %d after successful failover", e.epoch)
	}
	c.replaceMaster()
}

// letGoByMaster reports whether our master did not claim slot s any more when it
// was heard last: somebody else has it, of whom we have not heard, with keys that
// we do not have.
func (c *Core) letGoByMaster(s int) bool {
	return bitSet(c.unclaimed[:], s) && !c.faults.InheritAll
}

// replaceMaster takes our master's slots. The new config epoch is set.
func (c *Core) replaceMaster() {
	me, old := c.myself, c.myself.master
	if me.isMaster() || old == nil {
		return
	}
	c.endSplit()
	c.setMasterRole(me)
	for s := range Slots {
		if c.owner(s) == old {
			given := c.given != nil && bitSet(c.given[:], s)
			if !given && c.letGoByMaster(s) {
				c.noteCopy(s)
				continue // it stays the dead master's until its owner is heard
			}
			c.delSlot(s)
			c.addSlot(me, s)
			if !given { // what our master had given is older
				c.since.set(s, me.configEpoch)
			}
		}
	}
	c.letGo()
	c.dropCopies()
	c.election = election{}
	c.following = followed{}
	c.emit(Promote{})
	c.todo |= todoSave | todoSync
	c.updateState()
	c.pongAll()
	c.resetManual()
}
