package command

import (
	"sort"

	"holdfast/internal/redis/glob"
)

var pubsubCommands = []Spec{
	{Name: "subscribe", Arity: -2, Flags: PubSub | NoScript | Loading | Stale, Run: cmdSubscribe},
	{Name: "unsubscribe", Arity: -1, Flags: PubSub | NoScript | Loading | Stale, Run: cmdUnsubscribe},
	{Name: "psubscribe", Arity: -2, Flags: PubSub | NoScript | Loading | Stale, Run: cmdPsubscribe},
	{Name: "punsubscribe", Arity: -1, Flags: PubSub | NoScript | Loading | Stale, Run: cmdPunsubscribe},
	{Name: "ssubscribe", Arity: -2, Flags: PubSub | NoScript | Loading | Stale, Keys: []KeySpec{Key(KeyNotKey, 1, -1, 1)}, Run: cmdSsubscribe},
	{Name: "sunsubscribe", Arity: -1, Flags: PubSub | NoScript | Loading | Stale, Keys: []KeySpec{Key(KeyNotKey, 1, -1, 1)}, Run: cmdSunsubscribe},
	{Name: "publish", Arity: 3, Flags: PubSub | Loading | Stale | Fast | MayReplicate, Run: cmdPublish},
	{Name: "spublish", Arity: 3, Flags: PubSub | Loading | Stale | Fast | MayReplicate, Keys: []KeySpec{Key(KeyNotKey, 1, 1, 1)}, Run: cmdSpublish},
	{Name: "pubsub", Arity: -2, Sub: []*Spec{
		{Name: "channels", Arity: -2, Flags: PubSub | Loading | Stale, Run: cmdPubsubChannels},
		{Name: "help", Arity: 2, Flags: Loading | Stale, Run: cmdPubsubHelp},
		{Name: "numpat", Arity: 2, Flags: PubSub | Loading | Stale, Run: cmdPubsubNumpat},
		{Name: "numsub", Arity: -2, Flags: PubSub | Loading | Stale, Run: cmdPubsubNumsub},
		{Name: "shardchannels", Arity: -2, Flags: PubSub | Loading | Stale, Run: cmdPubsubShardchannels},
		{Name: "shardnumsub", Arity: -2, Flags: PubSub | Loading | Stale, Run: cmdPubsubShardnumsub},
	}},
}

// subscribers of one channel or pattern.
type subscribers map[*Client]struct{}

type pubsubTable struct {
	channels map[string]subscribers
	patterns map[string]subscribers
	shard    map[string]subscribers
}

func (t *pubsubTable) init() {
	t.channels = make(map[string]subscribers)
	t.patterns = make(map[string]subscribers)
	t.shard = make(map[string]subscribers)
}

// subKind ties a client's own set to the server's table and to the words of
// its confirmations.
type subKind struct {
	table  map[string]subscribers
	own    *map[string]struct{}
	on     string
	off    string
	counts func(*Client) int
}

func (e *Engine) kindChannel(cl *Client) subKind {
	return subKind{e.pubsub.channels, &cl.channels, "subscribe", "unsubscribe", countGlobal}
}

func (e *Engine) kindPattern(cl *Client) subKind {
	return subKind{e.pubsub.patterns, &cl.patterns, "psubscribe", "punsubscribe", countGlobal}
}

func (e *Engine) kindShard(cl *Client) subKind {
	return subKind{e.pubsub.shard, &cl.shardChannels, "ssubscribe", "sunsubscribe", func(c *Client) int { return len(c.shardChannels) }}
}

func countGlobal(c *Client) int { return len(c.channels) + len(c.patterns) }

// pushReply begins a confirmation, which CLIENT REPLY OFF does not silence.
func (c *Ctx) pushReply(n int) {
	if c.Proto == 3 {
		c.Client.Flags |= FlagPushing
	}
	c.Push(n)
}

func (c *Ctx) subscribe(k subKind) {
	cl := c.Client
	if *k.own == nil {
		*k.own = make(map[string]struct{})
	}
	for _, name := range c.Args[1:] {
		s := string(name)
		if _, has := (*k.own)[s]; !has {
			(*k.own)[s] = struct{}{}
			if k.table[s] == nil {
				k.table[s] = make(subscribers)
			}
			k.table[s][cl] = struct{}{}
		}
		c.pushReply(3)
		c.BulkStr(k.on)
		c.Bulk(name)
		c.Int(int64(k.counts(cl)))
	}
}

func (c *Ctx) unsubscribe(k subKind) {
	cl := c.Client
	names := make([]string, 0, len(c.Args))
	for _, a := range c.Args[1:] {
		names = append(names, string(a))
	}
	if len(names) == 0 {
		for s := range *k.own {
			names = append(names, s)
		}
		sort.Strings(names)
	}
	if len(names) == 0 {
		c.pushReply(3)
		c.BulkStr(k.off)
		c.Null()
		c.Int(int64(k.counts(cl)))
		return
	}
	for _, s := range names {
		k.drop(cl, s)
		c.pushReply(3)
		c.BulkStr(k.off)
		c.BulkStr(s)
		c.Int(int64(k.counts(cl)))
	}
}

func (k subKind) drop(cl *Client, s string) {
	if _, has := (*k.own)[s]; !has {
		return
	}
	delete(*k.own, s)
	delete(k.table[s], cl)
	if len(k.table[s]) == 0 {
		delete(k.table, s)
	}
}

func (e *Engine) unsubscribeAll(cl *Client) {
	for _, k := range []subKind{e.kindChannel(cl), e.kindPattern(cl), e.kindShard(cl)} {
		for s := range *k.own {
			k.drop(cl, s)
		}
	}
}

// UnsubscribeAll drops all subscriptions of a client without telling it (RESET).
func (e *Engine) UnsubscribeAll(cl *Client) { e.unsubscribeAll(cl) }

func cmdSubscribe(c *Ctx)    { c.subscribe(c.E.kindChannel(c.Client)) }
func cmdUnsubscribe(c *Ctx)  { c.unsubscribe(c.E.kindChannel(c.Client)) }
func cmdPsubscribe(c *Ctx)   { c.subscribe(c.E.kindPattern(c.Client)) }
func cmdPunsubscribe(c *Ctx) { c.unsubscribe(c.E.kindPattern(c.Client)) }
func cmdSunsubscribe(c *Ctx) { c.unsubscribe(c.E.kindShard(c.Client)) }

func cmdSsubscribe(c *Ctx) {
	// Unlike SUBSCRIBE not even in a transaction, as in Redis.
	if c.Client.Has(FlagDenyBlocking) {
		c.Err("ERR SSUBSCRIBE isn't allowed for a DENY BLOCKING client")
		return
	}
	c.subscribe(c.E.kindShard(c.Client))
}

func cmdPublish(c *Ctx) {
	c.published(c.E.publish(c.Args[1], c.Args[2]), false)
}

func cmdSpublish(c *Ctx) {
	c.published(c.E.deliver(c.E.pubsub.shard[string(c.Args[1])], "smessage", nil, c.Args[1], c.Args[2]), true)
}

// published ends PUBLISH, whose message n clients here have got: others get it
// over the bus of the cluster, or as replicas.
func (c *Ctx) published(n int, sharded bool) {
	switch {
	case !c.E.Cfg.ClusterEnabled:
		c.ForcePropagate()
	case c.E.OnPublish != nil:
		c.E.OnPublish(c.Args[1], c.Args[2], sharded)
	}
	c.Int(int64(n))
}

// publish hands a message to the subscribers of its channel and of all
// patterns that match it, and returns their number.
func (e *Engine) publish(channel, message []byte) int {
	n := 0
	if subs := e.pubsub.channels[string(channel)]; subs != nil {
		n += e.deliver(subs, "message", nil, channel, message)
	}
	for pattern, subs := range e.pubsub.patterns {
		if glob.Match([]byte(pattern), channel, false) {
			n += e.deliver(subs, "pmessage", []byte(pattern), channel, message)
		}
	}
	return n
}

func (e *Engine) deliver(subs subscribers, kind string, pattern, channel, message []byte) int {
	for cl := range subs {
		if pattern != nil {
			cl.Push(4)
			cl.BulkStr(kind)
			cl.Bulk(pattern)
		} else {
			cl.Push(3)
			cl.BulkStr(kind)
		}
		cl.Bulk(channel)
		cl.Bulk(message)
		e.Host.Wake(cl)
	}
	return len(subs)
}

// PublishLocal publishes a message of the server's own (a Sentinel's hello).
func (e *Engine) PublishLocal(channel, message []byte) int { return e.publish(channel, message) }

// PubsubCounts returns the numbers of channels, patterns and shard channels
// with subscribers, for INFO.
func (e *Engine) PubsubCounts() (channels, patterns, shard int) {
	return len(e.pubsub.channels), len(e.pubsub.patterns), len(e.pubsub.shard)
}

func (c *Ctx) listChannels(table map[string]subscribers) {
	if len(c.Args) > 3 {
		c.ErrSub()
		return
	}
	m, n := c.Defer(), 0
	for name := range table {
		if len(c.Args) == 2 || glob.Match(c.Args[2], []byte(name), false) {
			c.BulkStr(name)
			n++
		}
	}
	c.CloseArray(m, n)
}

func (c *Ctx) countSubs(table map[string]subscribers) {
	c.Array(2 * (len(c.Args) - 2))
	for _, a := range c.Args[2:] {
		c.Bulk(a)
		c.Int(int64(len(table[string(a)])))
	}
}

func cmdPubsubChannels(c *Ctx)      { c.listChannels(c.E.pubsub.channels) }
func cmdPubsubShardchannels(c *Ctx) { c.listChannels(c.E.pubsub.shard) }
func cmdPubsubNumpat(c *Ctx)        { c.Int(int64(len(c.E.pubsub.patterns))) }
func cmdPubsubNumsub(c *Ctx)        { c.countSubs(c.E.pubsub.channels) }
func cmdPubsubShardnumsub(c *Ctx)   { c.countSubs(c.E.pubsub.shard) }

func cmdPubsubHelp(c *Ctx) {
	c.Help("CHANNELS [<pattern>]",
		"    Return the currently active channels matching a <pattern> (default: '*').",
		"NUMPAT",
		"    Return number of subscriptions to patterns.",
		"NUMSUB [<channel> ...]",
		"    Return the number of subscribers for the specified channels, excluding",
		"    pattern subscriptions(default: no channels).",
		"SHARDCHANNELS [<pattern>]",
		"    Return the currently active shard level channels matching a <pattern> (default: '*').",
		"SHARDNUMSUB [<shardchannel> ...]",
		"    Return the number of subscribers for the specified shard level channel(s)")
}
