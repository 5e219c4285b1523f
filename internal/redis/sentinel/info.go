package sentinel

import (
	"strconv"
	"strings"
	"time"
)

// infoReport is what a Sentinel reads out of an INFO reply.
type infoReport struct {
	runID      string
	role       kind
	hasRole    bool
	replicas   []Addr // of a master
	linkDown   time.Duration
	masterHost string
	masterPort int
	hasPort    bool
	linkUp     bool
	hasLink    bool
	priority   int
	hasPrio    bool
	offset     uint64
	hasOffset  bool
	announced  bool
	hasAnn     bool
}

// parseInfo reads an INFO reply. Fields that are missing or malformed keep
// their zero value; nothing in it is trusted to be in order or complete.
func parseInfo(text string) infoReport {
	var r infoReport
	for len(text) > 0 {
		var line string
		line, text, _ = strings.Cut(text, "\n")
		line = strings.TrimSuffix(line, "\r")
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		r.field(key, value)
	}
	return r
}

func (r *infoReport) field(key, value string) {
	switch key {
	case "run_id":
		if len(value) >= runIDLen {
			r.runID = value[:runIDLen]
		}
	case "role":
		switch {
		case strings.HasPrefix(value, "master"):
			r.role, r.hasRole = kindMaster, true
		case strings.HasPrefix(value, "slave"):
			r.role, r.hasRole = kindReplica, true
		}
	case "master_link_down_since_seconds":
		n, _ := strconv.ParseInt(value, 10, 64)
		// -1 means not connected since its start. As in Redis that is no
		// reason against it: after a power cut of all, nobody has been.
		r.linkDown = time.Duration(max(-1, min(n, maxMillis/1000))) * time.Second
	case "master_host":
		r.masterHost = value
	case "master_port":
		r.masterPort, r.hasPort = atoi(value), true
	case "master_link_status":
		r.linkUp, r.hasLink = sameHost(value, "up"), true
	case "slave_priority":
		r.priority, r.hasPrio = atoi(value), true
	case "slave_repl_offset":
		n, err := strconv.ParseUint(value, 10, 64)
		r.offset, r.hasOffset = n, err == nil
	case "replica_announced":
		r.announced, r.hasAnn = atoi(value) != 0, true
	default:
		if len(key) >= 6 && strings.HasPrefix(key, "slave") && key[5] >= '0' && key[5] <= '9' {
			if a, ok := parseReplicaLine(value); ok && len(r.replicas) < maxReplicasPerMaster {
				r.replicas = append(r.replicas, a)
			}
		}
	}
}

// parseReplicaLine reads "ip=127.0.0.1,port=9999,..." and the form of Redis
// before 2.8, "127.0.0.1,9999,online".
func parseReplicaLine(s string) (Addr, bool) {
	var a Addr
	parts := strings.SplitN(s, ",", 8)
	if !strings.Contains(s, "ip=") {
		if len(parts) < 3 {
			return a, false
		}
		a = Addr{Host: parts[0], Port: atoi(parts[1])}
	}
	for _, p := range parts {
		if v, ok := strings.CutPrefix(p, "ip="); ok {
			a.Host = v
		} else if v, ok := strings.CutPrefix(p, "port="); ok {
			a.Port = atoi(v)
		}
	}
	return a, a.Host != "" && a.Port > 0 && a.Port <= 65535
}

// onInfo learns from an INFO reply and acts on what changed.
func (c *Core) onInfo(ri *instance, text string) {
	r := parseInfo(text)
	m := ri.owner
	ri.info = text
	c.learnRunID(ri, r.runID)
	if ri.kind == kindMaster {
		for _, a := range r.replicas {
			c.learnReplica(m, a)
		}
	}
	ri.masterLinkDown = r.linkDown
	if r.role == kindReplica && r.hasRole {
		c.learnReplication(ri, &r)
	}
	ri.infoRefresh = c.now
	if !r.hasRole {
		return
	}
	if r.role != ri.roleReported {
		ri.roleReported, ri.roleReportedTime = r.role, c.now
		if r.role == kindReplica {
			ri.confChangeTime = c.now
		}
		typ := "-role-change"
		if r.role == ri.kind {
			typ = "+role-change"
		}
		c.aboutf(Verbose, typ, ri, " new reported role is %s", r.role)
	}
	if c.suspended() || ri.kind != kindReplica {
		// A master that says it is a replica is dealt with by SDOWN.
		return
	}
	if r.role == kindMaster {
		c.onReplicaIsMaster(ri)
		return
	}
	c.fixWrongMaster(ri)
	c.onReconfProgress(ri)
}

func (c *Core) learnRunID(ri *instance, runID string) {
	if runID == "" || runID == ri.runID {
		return
	}
	if ri.runID != "" {
		c.about(Notice, "+reboot", ri)
		if ri.kind == kindMaster && ri.owner.cfg.RebootDownAfter != 0 {
			ri.flags |= masterReboot
			ri.owner.rebootSince = c.now
		}
	}
	ri.runID = runID
}

func (c *Core) learnReplica(m *master, a Addr) {
	if m.replicaByAddr(a.Host, a.Port) != nil || c.awaitsNumber(a.Host) {
		return
	}
	if ri, err := c.addReplica(m, a.Host, a.Port); err == nil {
		c.about(Notice, "+slave", ri)
		c.dirty = true
	}
}

func (c *Core) learnReplication(ri *instance, r *infoReport) {
	if r.masterHost != "" && !sameHost(r.masterHost, ri.masterHost) {
		ri.masterHost, ri.confChangeTime = r.masterHost, c.now
	}
	if r.hasPort && r.masterPort != ri.masterPort {
		ri.masterPort, ri.confChangeTime = r.masterPort, c.now
	}
	if r.hasLink {
		ri.masterLinkUp = r.linkUp
	}
	if r.hasPrio {
		ri.priority = r.priority
	}
	if r.hasOffset {
		ri.replOffset = r.offset
	}
	if r.hasAnn {
		ri.announced = r.announced
	}
}

// onReplicaIsMaster: either the promotion that we wait for has happened, or
// somebody who should follow does not.
func (c *Core) onReplicaIsMaster(ri *instance) {
	m := ri.owner
	if ri.is(promoted) && m.is(failoverInProgress) && m.state == stateWaitPromotion {
		c.onPromotion(m, ri)
		return
	}
	// Wait before reconfiguring, so that news of a failover that made it a
	// master can arrive first.
	wait := 4 * c.params.PublishPeriod
	if !ri.is(promoted) && c.looksSane(m) && ri.noDownFor(c.now, wait) &&
		c.now.Sub(ri.roleReportedTime) > wait && c.opts.Mutants&MutKeepOldMaster == 0 {
		if c.repoint(ri) {
			c.about(Notice, "+convert-to-slave", ri)
		}
	}
}

// fixWrongMaster repoints a replica that follows another master than ours.
func (c *Core) fixWrongMaster(ri *instance) {
	m := ri.owner
	if ri.masterHost == "" || (ri.masterPort == m.addr.Port && c.addrIs(m.addr, ri.masterHost)) {
		return
	}
	wait := m.cfg.FailoverTimeout
	if c.looksSane(m) && ri.noDownFor(c.now, wait) && c.now.Sub(ri.confChangeTime) > wait {
		if c.repoint(ri) {
			c.about(Notice, "+fix-slave-config", ri)
		}
	}
}

// repoint tells a replica to follow our master, but one that does not obey
// not more often than once in an INFO period.
func (c *Core) repoint(ri *instance) bool {
	if !ri.repointed.IsZero() && c.now.Sub(ri.repointed) < c.params.InfoPeriod {
		return false
	}
	if !c.sendSlaveOf(ri, &ri.owner.addr) {
		return false
	}
	ri.repointed = c.now
	return true
}

// looksSane: the master is up, says that it is one, and said so lately.
func (c *Core) looksSane(m *master) bool {
	return m.roleReported == kindMaster && !m.is(sDown|oDown) && !m.infoRefresh.IsZero() &&
		c.now.Sub(m.infoRefresh) < 2*c.params.InfoPeriod
}

// onReconfProgress moves a replica through sent, in progress, done.
func (c *Core) onReconfProgress(ri *instance) {
	m := ri.owner
	if m.promotedReplica == nil {
		return
	}
	to := m.promotedReplica.addr
	if ri.is(reconfSent) && ri.masterPort == to.Port && ri.masterHost != "" && c.addrIs(to, ri.masterHost) {
		ri.flags = ri.flags&^reconfSent | reconfInProgress
		c.about(Notice, "+slave-reconf-inprog", ri)
	}
	if ri.is(reconfInProgress) && ri.masterLinkUp {
		ri.flags = ri.flags&^reconfInProgress | reconfDone
		c.about(Notice, "+slave-reconf-done", ri)
	}
}
