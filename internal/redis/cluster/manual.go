package cluster

// manualFailover is the state of CLUSTER FAILOVER, on either side.
type manualFailover struct {
	end          instant // 0: none is going on
	replica      *node   // on the master: who takes over
	masterOffset int64   // on the replica: where the master stopped; -1: not told yet
	canStart     bool    // on the replica: it may ask for votes

	cant       cantReason // why there is no failover, as last logged
	cantLogged instant
}

// resetManual ends a manual failover; the master serves writes again.
func (c *Core) resetManual() {
	if c.manual.replica != nil {
		c.emit(ResumeWrites{})
	}
	c.manual = manualFailover{masterOffset: -1, cant: c.manual.cant, cantLogged: c.manual.cantLogged}
}

// checkManualTimeout gives up after manualTimeout. It returns when to look again.
func (c *Core) checkManualTimeout() instant {
	if c.manual.end == 0 {
		return 0
	}
	if c.manual.end < c.now {
		c.logf(Warning, "Manual failover timed out.")
		c.resetManual()
		return 0
	}
	return c.manual.end + 1
}

// onMFStart stops writes, so that our replica can catch up and take over.
func (c *Core) onMFStart(l *link, sender *node) {
	if sender == nil || sender.master != c.myself || !c.myself.isMaster() {
		return
	}
	c.resetManual()
	c.manual.end = c.now + manualTimeout
	c.manual.replica = sender
	c.emit(PauseWrites{c.timeOf(c.now + manualTimeout*manualPauseFactor)})
	c.logf(Warning, "Manual failover requested by replica %s.", sender.id)
	c.event(EventManualStart, sender, nil, 0)
	// The next packet carries the offset at which we stopped: at once.
	c.sendPing(l, MsgPing)
	c.wake(c.now + tickPeriod)
}

// handleManual lets a manual failover start once this replica has everything.
func (c *Core) handleManual() {
	m := &c.manual
	if m.end == 0 || m.canStart || m.masterOffset == -1 || !c.myself.isReplica() {
		return
	}
	if m.masterOffset != c.host.Data().Offset {
		c.wake(c.now + 10)
		return
	}
	m.canStart = true
	c.election = election{}
	c.logf(Warning, "All master replication stream processed, manual failover can start.")
	c.todo |= todoFailover
}

// takeover takes our master's slots without asking anybody.
func (c *Core) takeover() {
	c.logf(Warning, "Taking over the master (user request).")
	c.event(EventTakeover, c.myself, c.myself.master, 0)
	c.bumpEpoch()
	c.replaceMaster()
}
