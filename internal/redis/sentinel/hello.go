package sentinel

import (
	"errors"
	"strconv"
	"strings"
)

// hello is a message of the hello channel:
//
//	ip,port,runid,current_epoch,master_name,master_ip,master_port,master_config_epoch
type hello struct {
	host         string
	port         int
	runID        string
	currentEpoch uint64
	master       string
	masterHost   string
	masterPort   int
	configEpoch  uint64
}

var errHello = errors.New("malformed hello message")

// parseHello checks everything that is going to be kept: a message comes from
// anybody who can publish on a server.
func parseHello(s string) (hello, error) {
	t := strings.Split(s, ",")
	if len(s) > 4096 || len(t) != 8 {
		return hello{}, errHello
	}
	h := hello{host: t[0], runID: t[2], master: t[4], masterHost: t[5], port: atoi(t[1]), masterPort: atoi(t[6])}
	var err1, err2 error
	h.currentEpoch, err1 = strconv.ParseUint(t[3], 10, 64)
	h.configEpoch, err2 = strconv.ParseUint(t[7], 10, 64)
	if err1 != nil || err2 != nil || h.currentEpoch >= maxEpoch || h.configEpoch >= maxEpoch ||
		h.port <= 0 || h.port > 65535 || h.masterPort <= 0 || h.masterPort > 65535 || !saneWord(h.runID) ||
		(!IsIP(h.host) && !plainHostName(h.host)) || (!IsIP(h.masterHost) && !plainHostName(h.masterHost)) {
		return hello{}, errHello
	}
	return h, nil
}

// onHello learns of a peer, of its epoch, and of a newer configuration.
func (c *Core) onHello(payload string) {
	h, err := parseHello(payload)
	if err != nil || h.runID == c.glob.MyID {
		return
	}
	m := c.byName[h.master]
	if m == nil {
		return
	}
	m.wantsEvaluation = true
	si := m.sentinelByRunID(h.runID)
	if si == nil || si.addr.Port != h.port || !c.addrIs(si.addr, h.host) {
		si = c.meetSentinel(m, &h)
	}
	if h.currentEpoch > c.currentEpoch {
		c.currentEpoch = h.currentEpoch
		c.dirty = true
		c.event(Warning, "+new-epoch", &m.instance, "%d", c.currentEpoch)
	}
	if si == nil {
		return
	}
	si.lastHello = c.now
	newer := h.configEpoch > m.configEpoch && c.opts.Mutants&MutIgnoreHello == 0
	if c.opts.Mutants&MutSkipEpochCheck != 0 {
		newer = true
	}
	if newer {
		c.adoptConfig(m, si, &h)
	}
}

func (c *Core) sentinelByAddr(m *master, host string, port int) *instance {
	for _, s := range m.sentinels {
		if s.addr.Port == port && c.isAt(s.addr, host) {
			return s
		}
	}
	return nil
}

// meetSentinel adds a peer that is new, or known under another address. Two
// run ids at one address means that the old one was reinstalled: it is
// forgotten everywhere, since a ghost would count as a voter.
func (c *Core) meetSentinel(m *master, h *hello) *instance {
	if c.awaitsNumber(h.host) {
		return nil // the next hello comes soon
	}
	moved := c.removeSentinel(m, h.runID)
	if moved {
		c.aboutf(Notice, "+sentinel-address-switch", &m.instance, " ip %s port %d for %s", h.host, h.port, h.runID)
	} else if other := c.sentinelByAddr(m, h.host, h.port); other != nil {
		c.about(Notice, "+sentinel-invalid-addr", other)
		for _, o := range c.masters {
			c.removeSentinel(o, other.runID)
		}
	}
	si, err := c.addSentinel(m, h.runID, h.host, h.port)
	if err != nil {
		return nil
	}
	if moved {
		c.updateSentinelAddress(si)
	} else {
		c.about(Notice, "+sentinel", si)
	}
	c.dirty = true
	return si
}

// updateSentinelAddress carries a new address of a peer to the other masters
// that it watches too.
func (c *Core) updateSentinelAddress(si *instance) {
	for _, m := range c.masters {
		o := m.sentinelByRunID(si.runID)
		if o == nil || o == si || c.sameAddr(o.addr, si.addr) {
			continue
		}
		c.closeConn(&o.link.cmd)
		o.addr = si.addr
		m.wantsEvaluation = true
		c.aboutf(Notice, "+sentinel-address-update", o, " %d additional matching instances", len(si.link.users)-1)
	}
	si.link.touch()
}

// adoptConfig takes over a newer configuration. Its epoch can only have been
// given by the leader of a later failover.
func (c *Core) adoptConfig(m *master, si *instance, h *hello) {
	cur := m.currentAddr()
	// A failover of ours in an older epoch is overtaken, even where the newer
	// configuration names the very master that we are replacing: to go on
	// would put our promoted replica under the epoch of somebody else.
	overtaken := m.is(failoverInProgress) && m.failoverEpoch <= h.configEpoch && c.opts.Mutants&MutOvertaken == 0
	// Without doubt: to take the epoch and keep another address would be to
	// contradict in this epoch who has it. The next hello comes soon.
	if c.awaitsNumber(h.masterHost) {
		return
	}
	same := h.masterPort == m.addr.Port && c.isAt(m.addr, h.masterHost)
	if !same {
		if _, err := c.makeAddr(h.masterHost, h.masterPort); err != nil {
			return
		}
	}
	m.configEpoch = h.configEpoch
	c.currentEpoch = max(c.currentEpoch, h.configEpoch)
	c.dirty = true
	if same && !overtaken {
		return
	}
	c.about(Warning, "+config-update-from", si)
	if h.masterPort != cur.Port || !c.isAt(cur, h.masterHost) {
		c.event(Warning, "+switch-master", &m.instance, "%s %s %d %s %d",
			m.name, c.announce(cur), cur.Port, h.masterHost, h.masterPort)
	}
	old := m.addr
	if err := c.resetAndChangeAddress(m, h.masterHost, h.masterPort); err == nil && !same {
		c.clientReconfigScript(m, "observer", old, m.addr)
	}
}
