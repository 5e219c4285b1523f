package sentinel

import (
	"fmt"
	"strings"
	"time"
)

// dispatch hands one input to its handler.
func (c *Core) dispatch(in Input) {
	switch in := in.(type) {
	case Timer: // evaluateDue follows every input
	case ConnUp:
		c.onConnUp(in)
	case ConnDown:
		c.onConnDown(in)
	case ReplyIn:
		c.onReply(in)
	case PubsubActivity:
		c.onPubsub(in)
	case Command:
		c.onCommand(in)
	case Resolved:
		c.onResolved(in)
	case ScriptStarted:
		c.onScriptStarted(in)
	case ScriptFinished:
		c.onScriptFinished(in)
	default:
		panic(fmt.Sprintf("sentinel: unknown input %T", in))
	}
}

// touch makes every master evaluated that this link serves.
func (l *link) touch() {
	for _, u := range l.users {
		u.owner.wantsEvaluation = true
	}
}

func (c *Core) onConnUp(in ConnUp) {
	k := c.conns[in.Conn]
	if k == nil {
		return
	}
	k.up = true
	l := k.link
	l.localIP = in.LocalIP
	var named []*master
	if in.RemoteIP != "" {
		for _, u := range l.users {
			if !IsIP(u.addr.Host) {
				u.addr.IP = in.RemoteIP
				c.hosts[strings.ToLower(u.addr.Host)] = in.RemoteIP
				named = append(named, u.owner)
			}
		}
	}
	c.onLinkUp(k, l.users[0])
	for _, m := range named {
		c.dropTwins(m)
	}
	l.touch()
}

func (c *Core) onConnDown(in ConnDown) {
	k := c.conns[in.Conn]
	if k == nil {
		return
	}
	l, failed := k.link, !k.up
	c.forget(k)
	if k.pubsub {
		l.pub = nil
	} else {
		l.cmd = nil
	}
	if failed && in.Err != "" && len(l.users) > 0 {
		typ := "-cmd-link-reconnection"
		if k.pubsub {
			typ = "-pubsub-link-reconnection"
		}
		c.aboutf(Debug, typ, l.users[0], " #%s", in.Err)
	}
	l.touch()
}

func (c *Core) onReply(in ReplyIn) {
	k := c.conns[in.Conn]
	if k == nil || len(k.pending) == 0 {
		return
	}
	r := k.pending[0]
	k.pending = k.pending[1:]
	k.link.touch()
	if r.kind == reqPing { // the link's, whatever became of the instance that asked
		c.onPing(k.link, r.inst, in.Reply)
		return
	}
	r.inst.unanswered(r.kind)
	if r.inst.gone {
		return
	}
	switch r.kind {
	case reqInfo:
		if in.Reply.Kind == Bulk {
			c.onInfo(r.inst, in.Reply.Str)
		} else {
			// No permission, still loading: ask again, but not at once.
			r.inst.infoNotBefore = c.now.Add(c.params.PingPeriod)
		}
	case reqHello:
		if in.Reply.Kind != Error {
			r.inst.lastPub = c.now
		} else {
			// Not published: try again in a tenth of a second, as Redis.
			r.inst.lastPub = c.now.Add(100*time.Millisecond - c.params.PublishPeriod)
		}
	case reqAsk:
		c.onMasterDownReply(r.inst, in.Reply)
	case reqExec:
		r.inst.infoWanted = true
	}
}

// onPing handles the reply to PING. Anything but PONG, LOADING and
// MASTERDOWN is a sign of life that does not count as health.
func (c *Core) onPing(l *link, ri *instance, v Value) {
	l.lastPong = c.now
	if v.Kind != Status && v.Kind != Error {
		return
	}
	switch {
	case strings.HasPrefix(v.Str, "PONG"), strings.HasPrefix(v.Str, "LOADING"), strings.HasPrefix(v.Str, "MASTERDOWN"):
		l.lastAvail = c.now
		l.actPing = time.Time{}
		if strings.HasPrefix(v.Str, "PONG") {
			ri.flags &^= masterReboot
		}
	case strings.HasPrefix(v.Str, "BUSY"):
		if ri.is(sDown) && !ri.is(scriptKillSent) && !ri.gone {
			if c.send(ri, reqDiscard, "SCRIPT", "KILL") {
				ri.flags |= scriptKillSent
			}
		}
	}
}

func (c *Core) onPubsub(in PubsubActivity) {
	k := c.conns[in.Conn]
	if k == nil || !k.pubsub {
		return
	}
	k.link.pubActivity = c.now
	k.link.touch()
	if in.Payload == "" || strings.Contains(in.Payload, c.glob.MyID) { // our own, come back
		return
	}
	c.onHello(in.Payload)
}

func (c *Core) onResolved(in Resolved) {
	key := strings.ToLower(in.Host)
	delete(c.asked, key)
	if in.IP == "" {
		if len(c.failed) >= maxFailedNames {
			clear(c.failed)
		}
		c.failed[key] = true
	} else {
		delete(c.failed, key)
		c.hosts[key] = in.IP
	}
	for _, m := range c.masters {
		if in.IP != "" {
			m.instances(func(ri *instance) {
				if sameHost(ri.addr.Host, in.Host) {
					ri.addr.IP = in.IP
				}
			})
			c.dropTwins(m)
		}
		for _, a := range parseInfo(m.info).replicas { // some may have waited for this
			if sameHost(a.Host, in.Host) {
				c.learnReplica(m, a)
			}
		}
	}
}
