package cluster

// updateState decides whether this node may serve: cluster_state.
func (c *Core) updateState() {
	if c.firstState == 0 {
		c.firstState = c.now
	}
	me := c.myself
	// A master that was just started waits: it may have been replaced.
	if me.isMaster() && !c.ok && c.now-c.firstState < writableDelay {
		c.countMasters()
		c.wake(c.firstState + writableDelay)
		return
	}
	ok := !c.cfg.RequireFullCoverage || c.covered()
	reachable := c.countMasters()
	switch minority := reachable < c.size/2+1; { // no quorum(): as Redis counts
	case minority && !c.faults.MinorityStaysOK:
		ok = false
		c.inMinority = true
		c.amongMinority = c.now
	case c.inMinority:
		c.inMinority = false
		c.amongMinority = c.now
	}
	c.mayResume()
	if c.suspended && me.isMaster() {
		ok = false
	}
	if ok == c.ok {
		return
	}
	rejoin := min(max(c.timeout(), minRejoinDelay), maxRejoinDelay)
	if ok && me.isMaster() && c.amongMinority != 0 && c.now-c.amongMinority < rejoin {
		c.wake(c.amongMinority + rejoin)
		return
	}
	c.ok = ok
	c.viewDirty = true
	c.logf(Warning, "Cluster state changed: %s", okText(ok))
	c.emit(StateChanged{ok})
}

func okText(ok bool) string {
	if ok {
		return "ok"
	}
	return "fail"
}

// covered reports whether every slot has an owner that is not FAIL.
func (c *Core) covered() bool {
	n := 0
	for _, o := range c.nodes {
		if o.numSlots > 0 && !o.failed() {
			n += o.numSlots
		}
	}
	return n == Slots
}

// countMasters counts the masters with slots into size, and returns how many of
// them answer.
func (c *Core) countMasters() (reachable int) {
	size, owned := 0, 0
	for _, n := range c.nodes {
		owned += n.numSlots
		if n.isVoter() {
			size++
			if n.flags&(FlagFail|FlagPFail) == 0 {
				reachable++
			}
		}
	}
	if size != c.size {
		c.size = size
		c.viewDirty = true
	}
	switch {
	case owned == Slots:
		c.fullSize, c.lostAt = size, 0
	case c.lostAt == 0:
		c.lostAt = c.now
	}
	return reachable
}
