package sentineld

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/redis/command/helptext"
	"holdfast/internal/redis/resp"
	"holdfast/internal/redis/sentinel"
)

// CLIENT.

func clientRows() []*spec {
	const own, others = "slow connection", "admin slow dangerous connection"
	return []*spec{
		row("client|caching", 3, anyTime, own, (*client).clientCaching),
		row("client|getname", 2, anyTime, own, (*client).clientGetName),
		row("client|getredir", 2, anyTime, own, func(c *client, _ []string) { c.int(-1) }),
		row("client|help", 2, "loading stale", own, func(c *client, _ []string) { c.help("CLIENT", helptext.Client()) }),
		row("client|id", 2, anyTime, own, func(c *client, _ []string) { c.int(int64(c.id)) }),
		row("client|info", 2, anyTime, own, func(c *client, _ []string) { c.verbatim(c.line() + "\n") }, anyOutput),
		row("client|kill", -3, adminNow, others, (*client).clientKill),
		row("client|list", -2, adminNow, others, (*client).clientList, anyOutput),
		row("client|no-evict", 3, adminNow, others, (*client).clientNoEvict),
		row("client|pause", -3, adminNow, others, (*client).clientPause),
		row("client|reply", 3, anyTime, own, (*client).clientReply),
		row("client|setname", 3, anyTime, own, (*client).clientSetName),
		row("client|tracking", -3, anyTime, own, (*client).clientTracking),
		row("client|trackinginfo", 2, anyTime, own, (*client).clientTrackingInfo),
		row("client|unblock", -3, adminNow, others, (*client).clientUnblock),
		row("client|unpause", 2, adminNow, others, (*client).clientUnpause),
	}
}

func (c *client) clientGetName([]string) {
	if c.name == "" {
		c.value(sentinel.Value{Kind: sentinel.Null})
		return
	}
	c.bulk(c.name)
}

func (c *client) clientSetName(args []string) {
	if !validName(args[2]) {
		c.error(badName)
		return
	}
	c.mu.Lock()
	c.name = args[2]
	c.mu.Unlock()
	c.status("OK")
}

func (c *client) clientNoEvict(args []string) {
	switch strings.ToLower(args[2]) {
	case "on", "off":
		c.status("OK")
	default:
		c.error("ERR syntax error")
	}
}

// replies says what becomes of the replies of a connection.
type replies int

const (
	replyOn replies = iota
	replyOff
	replySkip  // of the request that is running
	replySkips // of the next one
)

// beginReply moves CLIENT REPLY SKIP on by a request.
func (c *client) beginReply() {
	switch c.replies {
	case replySkips:
		c.replies = replySkip
	case replySkip:
		c.replies = replyOn
	}
}

func (c *client) clientReply(args []string) {
	switch strings.ToLower(args[2]) {
	case "on":
		c.replies = replyOn
		c.status("OK")
	case "off":
		c.replies = replyOff
	case "skip":
		if c.replies != replyOff {
			c.replies = replySkips
		}
	default:
		c.error("ERR syntax error")
	}
}

// clientPause keeps the requests of all clients waiting; in the WRITE mode none,
// since no command here writes.
func (c *client) clientPause(args []string) {
	if len(args) > 4 {
		c.error(badCall(args))
		return
	}
	all := true
	if len(args) == 4 {
		switch strings.ToLower(args[3]) {
		case "write":
			all = false
		case "all":
		default:
			c.error("ERR CLIENT PAUSE mode must be WRITE or ALL")
			return
		}
	}
	millis, ok := resp.ParseInt([]byte(args[2]))
	switch {
	case !ok:
		c.error("ERR timeout is not an integer or out of range")
		return
	case millis < 0:
		c.error("ERR timeout is negative")
		return
	}
	if all {
		end := time.Now().Add(time.Duration(min(millis, maxPauseMillis)) * time.Millisecond).UnixNano()
		if c.s.pausedUntil.Load() < end {
			c.s.pausedUntil.Store(end)
		}
	}
	c.status("OK")
}

const (
	maxPauseMillis = 365 * 24 * 3600 * 1000
	pauseCheck     = 10 * time.Millisecond // how soon UNPAUSE is noticed
)

// waitPause waits for the end of CLIENT PAUSE; false: the Sentinel ends.
func (c *client) waitPause() bool {
	for {
		left := time.Until(time.Unix(0, c.s.pausedUntil.Load()))
		if left <= 0 {
			return true
		}
		select {
		case <-time.After(min(left, pauseCheck)):
		case <-c.s.stop:
			return false
		}
	}
}

func (c *client) clientUnpause([]string) {
	c.s.pausedUntil.Store(0)
	c.status("OK")
}

// clientUnblock finds nobody: no command here blocks.
func (c *client) clientUnblock(args []string) {
	if len(args) > 4 {
		c.error(badCall(args))
		return
	}
	if len(args) == 4 && !strings.EqualFold(args[3], "timeout") && !strings.EqualFold(args[3], "error") {
		c.error("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")
		return
	}
	if _, ok := resp.ParseInt([]byte(args[2])); !ok {
		c.error("ERR value is not an integer or out of range")
		return
	}
	c.int(0)
}

func (c *client) clientTracking(args []string) {
	switch {
	case len(args) == 3 && strings.EqualFold(args[2], "off"):
		c.status("OK")
	case strings.EqualFold(args[2], "on"):
		c.error("ERR a Sentinel has no keys to track")
	default:
		c.error("ERR syntax error")
	}
}

func (c *client) clientTrackingInfo([]string) {
	proto := c.protocol()
	b := resp.AppendHead(nil, '*', 6)
	if proto == 3 {
		b = resp.AppendHead(nil, '%', 3)
	}
	b = resp.AppendHead(resp.AppendBulkString(b, "flags"), setMark(proto), 1)
	b = resp.AppendBulkString(resp.AppendBulkString(b, "off"), "redirect")
	b = resp.AppendBulkString(resp.AppendInt(b, -1), "prefixes")
	c.write(resp.AppendHead(b, '*', 0))
}

// setMark begins a set.
func setMark(proto int) byte {
	if proto == 3 {
		return '~'
	}
	return '*'
}

func (c *client) clientCaching([]string) {
	c.error("ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled")
}

// line describes the client as CLIENT LIST does.
func (c *client) line() string {
	ch, pat := c.s.pubsub.of(c)
	c.mu.Lock()
	defer c.mu.Unlock()
	flags := ""
	if ch+pat > 0 {
		flags += "P"
	}
	if isUnix(c.conn) {
		flags += "U"
	}
	if flags == "" {
		flags = "N"
	}
	now := time.Now()
	return fmt.Sprintf("id=%d addr=%s laddr=%s fd=%d name=%s age=%d idle=%d flags=%s db=0 sub=%d psub=%d ssub=0 multi=-1 "+
		"qbuf=%d qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=%d tot-mem=0 events=r cmd=%s user=%s redir=-1 resp=%d",
		c.id, c.remote(), c.local(), c.id+7, c.name, int(now.Sub(c.created).Seconds()),
		int(now.Sub(c.lastUsed).Seconds()), flags, ch, pat, c.queryLen, c.out.pending(), orNull(c.lastCmd), c.user.name, c.resp)
}

func orNull(s string) string {
	if s == "" {
		return "NULL"
	}
	return s
}

func (c *client) kind() string {
	if c.subscribed() {
		return "pubsub"
	}
	return "normal"
}

func clientType(s string) (string, bool) {
	switch s = strings.ToLower(s); s {
	case "normal", "pubsub", "master":
		return s, true
	case "replica", "slave":
		return "replica", true
	}
	return "", false
}

func (c *client) clientList(args []string) {
	keep := func(*client) bool { return true }
	switch {
	case len(args) == 4 && strings.EqualFold(args[2], "type"):
		typ, ok := clientType(args[3])
		if !ok {
			c.error(fmt.Sprintf("ERR Unknown client type '%s'", args[3]))
			return
		}
		keep = func(o *client) bool { return o.kind() == typ }
	case len(args) > 3 && strings.EqualFold(args[2], "id"):
		ids := map[uint64]bool{}
		for _, a := range args[3:] {
			n, err := strconv.ParseInt(a, 10, 64)
			if err != nil {
				c.error("ERR Invalid client ID")
				return
			}
			ids[uint64(n)] = true
		}
		keep = func(o *client) bool { return ids[o.id] }
	case len(args) != 2:
		c.error("ERR syntax error")
		return
	}
	var b strings.Builder
	for _, o := range c.s.clients.list() {
		if keep(o) {
			b.WriteString(o.line())
			b.WriteByte('\n')
		}
	}
	c.verbatim(b.String())
}

func (c *client) clientKill(args []string) {
	if len(args) == 3 { // the old form
		for _, o := range c.s.clients.list() {
			if o.remote() == args[2] {
				c.status("OK")
				c.kill(o)
				return
			}
		}
		c.error("ERR No such client")
		return
	}
	if len(args)%2 != 0 {
		c.error("ERR syntax error")
		return
	}
	var tests []func(*client) bool
	skipMe := true
	for i := 2; i < len(args); i += 2 {
		if strings.EqualFold(args[i], "skipme") {
			if !strings.EqualFold(args[i+1], "yes") && !strings.EqualFold(args[i+1], "no") {
				c.error("ERR syntax error")
				return
			}
			skipMe = strings.EqualFold(args[i+1], "yes")
			continue
		}
		test, wrong := c.killTest(args[i], args[i+1])
		if wrong != "" {
			c.error("ERR " + wrong)
			return
		}
		tests = append(tests, test)
	}
	var victims []*client
next:
	for _, o := range c.s.clients.list() {
		if o == c && skipMe {
			continue
		}
		for _, t := range tests {
			if !t(o) {
				continue next
			}
		}
		victims = append(victims, o)
	}
	c.int(int64(len(victims)))
	for _, o := range victims {
		c.kill(o)
	}
}

// killTest is one filter of CLIENT KILL, or what is wrong with it.
func (c *client) killTest(filter, v string) (test func(*client) bool, wrong string) {
	switch strings.ToLower(filter) {
	case "id":
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 1 {
			return nil, "client-id should be greater than 0"
		}
		return func(o *client) bool { return o.id == uint64(n) }, ""
	case "type":
		typ, ok := clientType(v)
		if !ok {
			return nil, fmt.Sprintf("Unknown client type '%s'", v)
		}
		return func(o *client) bool { return o.kind() == typ }, ""
	case "addr":
		return func(o *client) bool { return o.remote() == v }, ""
	case "laddr":
		return func(o *client) bool { return o.local() == v }, ""
	case "user":
		u := c.s.users.get(v)
		if u == nil {
			return nil, fmt.Sprintf("No such user '%s'", v)
		}
		return func(o *client) bool { return o.who() == u }, ""
	}
	return nil, "syntax error"
}

// kill closes a client; this one after its reply is written.
func (c *client) kill(o *client) {
	if o == c {
		o.out.closeSoon()
		return
	}
	o.out.close()
}
