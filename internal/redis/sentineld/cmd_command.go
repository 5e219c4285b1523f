package sentineld

import (
	"strings"

	"holdfast/internal/redis/command/helptext"
	"holdfast/internal/redis/glob"
	"holdfast/internal/redis/resp"
	"holdfast/internal/redis/sentinel"
)

// COMMAND.

func commandRows() []*spec {
	const always, cats = "loading stale", "slow connection"
	return []*spec{
		row("command|count", 2, always, cats, func(c *client, _ []string) { c.int(int64(len(c.s.names))) }),
		row("command|docs", -2, always, cats, (*client).commandDocs, anyOrder),
		row("command|getkeys", -4, always, cats, (*client).commandGetKeys),
		row("command|getkeysandflags", -4, always, cats, (*client).commandGetKeys),
		row("command|help", 2, always, cats, func(c *client, _ []string) { c.help("COMMAND", helptext.Command()) }),
		row("command|info", -2, always, cats, func(c *client, args []string) { c.commandInfo(args[2:]) }, anyOrder),
		row("command|list", -2, always, cats, (*client).commandList, anyOrder),
	}
}

// command is COMMAND without a subcommand.
func (c *client) command([]string) { c.commandInfo(nil) }

// commandGetKeys: no command here has keys.
func (c *client) commandGetKeys(args []string) {
	switch sp := lookup(c.s.names, args[2:]); {
	case sp == nil || len(sp.sub) > 0 && len(args) > 3:
		c.error("ERR Invalid command specified")
	default:
		c.error("ERR The command has no key arguments")
	}
}

func (c *client) commandList(args []string) {
	keep := func(*spec) bool { return true }
	switch {
	case len(args) == 2:
	case len(args) == 5 && strings.EqualFold(args[2], "filterby"):
		switch v := args[4]; strings.ToLower(args[3]) {
		case "pattern":
			keep = func(sp *spec) bool { return glob.Match([]byte(v), []byte(sp.full), true) }
		case "aclcat":
			keep = func(sp *spec) bool { return sp.in(v) }
		case "module":
			keep = func(*spec) bool { return false }
		default:
			c.error("ERR syntax error")
			return
		}
	default:
		c.error("ERR syntax error")
		return
	}
	out := sentinel.Value{Kind: sentinel.Array}
	eachOf(c.s.commands(), func(sp *spec) {
		if keep(sp) {
			out.Elems = append(out.Elems, bulkValue(sp.full))
		}
	})
	c.value(out)
}

// commandInfo replies with the ten elements of each command; the keys are
// none, since a Sentinel has no data.
func (c *client) commandInfo(names []string) {
	if len(names) == 0 {
		list := c.s.commands()
		b := resp.AppendHead(nil, '*', len(list))
		for _, sp := range list {
			b = c.appendInfo(b, sp)
		}
		c.write(b)
		return
	}
	b := resp.AppendHead(nil, '*', len(names))
	for _, n := range names {
		switch sp := lookupFull(c.s.names, n); {
		case sp != nil:
			b = c.appendInfo(b, sp)
		case c.resp == 3:
			b = append(b, resp.Null3...)
		default:
			b = append(b, resp.NullBulk2...)
		}
	}
	c.write(b)
}

func (c *client) appendInfo(b []byte, sp *spec) []byte {
	words := func(b []byte, list []string, head byte, add func([]byte, string) []byte) []byte {
		b = resp.AppendHead(b, head, len(list))
		for _, w := range list {
			b = add(b, w)
		}
		return b
	}
	set := setMark(c.resp)
	b = resp.AppendBulkString(resp.AppendHead(b, '*', 10), sp.full)
	b = resp.AppendInt(b, int64(sp.arity))
	b = words(b, sp.flags, set, resp.AppendSimple)
	for range 3 {
		b = resp.AppendInt(b, 0)
	}
	b = words(b, sp.cats, set, resp.AppendSimple)
	b = words(b, sp.tips, set, resp.AppendBulkString)
	b = resp.AppendHead(b, set, 0) // key specifications
	if len(sp.sub) == 0 {
		return resp.AppendHead(b, set, 0)
	}
	b = resp.AppendHead(b, '*', len(sp.sub))
	for _, sub := range sp.sub {
		b = c.appendInfo(b, sub)
	}
	return b
}

var summaries = map[string][3]string{ // summary, since, group
	"acl":          {"A container for Access List Control commands ", "6.0.0", "server"},
	"auth":         {"Authenticate to the server", "1.0.0", "connection"},
	"client":       {"A container for client connection commands", "2.4.0", "connection"},
	"command":      {"Get array of Redis command details", "2.8.13", "server"},
	"hello":        {"Handshake with Redis", "6.0.0", "connection"},
	"info":         {"Get information and statistics about the server", "1.0.0", "server"},
	"ping":         {"Ping the server", "1.0.0", "connection"},
	"psubscribe":   {"Listen for messages published to channels matching the given patterns", "2.0.0", "pubsub"},
	"publish":      {"Post a message to a channel", "2.0.0", "pubsub"},
	"punsubscribe": {"Stop listening for messages posted to channels matching the given patterns", "2.0.0", "pubsub"},
	"role":         {"Return the role of the instance in the context of replication", "2.8.12", "server"},
	"sentinel":     {"A container for Sentinel commands", "2.8.4", "sentinel"},
	"shutdown":     {"Synchronously save the dataset to disk and then shut down the server", "1.0.0", "server"},
	"subscribe":    {"Listen for messages published to the given channels", "2.0.0", "pubsub"},
	"unsubscribe":  {"Stop listening for messages posted to the given channels", "2.0.0", "pubsub"},
}

func (c *client) commandDocs(args []string) {
	names := args[2:]
	if len(names) == 0 {
		for _, sp := range c.s.commands() {
			names = append(names, sp.full)
		}
	}
	out := sentinel.Value{Kind: sentinel.Map}
	for _, n := range names {
		d, ok := summaries[strings.ToLower(n)]
		if !ok {
			continue
		}
		out.Elems = append(out.Elems, bulkValue(strings.ToLower(n)), sentinel.Value{Kind: sentinel.Map, Elems: []sentinel.Value{
			bulkValue("summary"), bulkValue(d[0]), bulkValue("since"), bulkValue(d[1]), bulkValue("group"), bulkValue(d[2]),
		}})
	}
	c.value(out)
}
