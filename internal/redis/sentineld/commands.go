package sentineld

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net"
	"sort"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/redis/config"
	"holdfast/internal/redis/glob"
	"holdfast/internal/redis/resp"
	"holdfast/internal/redis/sentinel"
)

// spec is one row of the command table of a Sentinel.
type spec struct {
	name  string
	arity int // words with the name; negative: at least
	flags []string
	cats  []string
	run   func(c *client, args []string)
	noAuth,
	inPubsub bool
}

var (
	table  map[string]*spec
	sorted []*spec
)

func init() { // COMMAND lists the table that it stands in
	pubsubFlags := []string{"pubsub", "noscript", "loading", "stale"}
	pubsubCats := []string{"@pubsub", "@slow"}
	rows := []*spec{
		{name: "acl", arity: -2, flags: []string{"sentinel"}, cats: []string{"@slow"}, run: (*client).acl},
		{name: "auth", arity: -2, flags: []string{"noscript", "loading", "stale", "fast", "no_auth", "allow_busy"},
			cats: []string{"@fast", "@connection"}, run: (*client).auth, noAuth: true},
		{name: "client", arity: -2, cats: []string{"@slow"}, run: (*client).client},
		{name: "command", arity: -1, flags: []string{"loading", "stale"}, cats: []string{"@slow", "@connection"}, run: (*client).command},
		{name: "hello", arity: -1, flags: []string{"noscript", "loading", "stale", "fast", "no_auth", "allow_busy"},
			cats: []string{"@fast", "@connection"}, run: (*client).hello, noAuth: true},
		{name: "info", arity: -1, flags: []string{"loading", "stale"}, cats: []string{"@slow", "@dangerous"}, run: (*client).info},
		{name: "ping", arity: -1, flags: []string{"fast"}, cats: []string{"@fast", "@connection"}, run: (*client).ping, inPubsub: true},
		{name: "psubscribe", arity: -2, flags: pubsubFlags, cats: pubsubCats, inPubsub: true,
			run: func(c *client, a []string) { c.subscribe(a, subscription{"psubscribe", true, true}) }},
		{name: "publish", arity: 3, flags: []string{"pubsub", "loading", "stale", "fast", "may_replicate"},
			cats: []string{"@pubsub", "@fast"}, run: (*client).toCore},
		{name: "punsubscribe", arity: -1, flags: pubsubFlags, cats: pubsubCats, inPubsub: true,
			run: func(c *client, a []string) { c.subscribe(a, subscription{"punsubscribe", true, false}) }},
		{name: "role", arity: 1, flags: []string{"noscript", "loading", "stale", "fast"},
			cats: []string{"@admin", "@fast", "@dangerous"}, run: (*client).toCore},
		{name: "sentinel", arity: -2, flags: []string{"admin"}, cats: []string{"@admin", "@slow", "@dangerous"}, run: (*client).sentinel},
		{name: "shutdown", arity: -1, flags: []string{"admin", "noscript", "loading", "stale", "no_multi", "allow_busy"},
			cats: []string{"@admin", "@slow", "@dangerous"}, run: (*client).shutdown},
		{name: "subscribe", arity: -2, flags: pubsubFlags, cats: pubsubCats, inPubsub: true,
			run: func(c *client, a []string) { c.subscribe(a, subscription{"subscribe", false, true}) }},
		{name: "unsubscribe", arity: -1, flags: pubsubFlags, cats: pubsubCats, inPubsub: true,
			run: func(c *client, a []string) { c.subscribe(a, subscription{"unsubscribe", false, false}) }},
	}
	table = make(map[string]*spec, len(rows))
	for _, r := range rows {
		table[r.name] = r
	}
	sorted = rows
}

// protocol is 2 or 3; other goroutines ask too.
func (c *client) protocol() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.resp
}

// handle is the dispatch checklist: known, arity, authenticated, not
// subscribed, run.
func (c *client) handle(args []string) {
	c.s.stats.commands.Add(1)
	name := strings.ToLower(args[0])
	sp := table[name]
	c.mu.Lock()
	c.lastUsed = time.Now()
	if sp != nil {
		c.lastCmd = name
		if (name == "client" || name == "sentinel" || name == "command" || name == "acl") && len(args) > 1 {
			c.lastCmd = name + "|" + strings.ToLower(args[1])
		}
	}
	c.mu.Unlock()
	switch {
	case sp == nil:
		c.error(unknownCommand(args))
	case len(args) != sp.arity && (sp.arity > 0 || len(args) < -sp.arity):
		c.error("ERR wrong number of arguments for '" + name + "' command")
	case !c.authed && !sp.noAuth:
		c.error("NOAUTH Authentication required.")
	case !sp.inPubsub && c.subscribed() && c.resp == 2:
		c.error("ERR Can't execute '" + c.lastCmd +
			"': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context")
	default:
		sp.run(c, args)
	}
}

func unknownCommand(args []string) string {
	s := fmt.Sprintf("ERR unknown command '%.128s', with args beginning with: ", args[0])
	rest := ""
	for _, a := range args[1:] {
		if len(rest) >= 128 {
			break
		}
		rest += fmt.Sprintf("'%.*s' ", 128-len(rest), a)
	}
	return s + rest
}

func wrongArity(name string) string {
	return "ERR wrong number of arguments for '" + name + "' command"
}

func (c *client) subscribed() bool {
	ch, pat := c.s.pubsub.of(c)
	return ch+pat > 0
}

func (c *client) subscribe(args []string, sub subscription) { c.s.pubsub.change(c, sub, args[1:]) }

func (c *client) ping(args []string) {
	if len(args) > 2 {
		c.error(wrongArity("ping"))
		return
	}
	if c.resp == 2 && c.subscribed() {
		b := resp.AppendBulkString(resp.AppendHead(nil, '*', 2), "pong")
		arg := ""
		if len(args) == 2 {
			arg = args[1]
		}
		c.write(resp.AppendBulkString(b, arg))
		return
	}
	if len(args) == 2 {
		c.bulk(args[1])
		return
	}
	c.status("PONG")
}

// toCore hands a command to the state machine and waits for its reply.
func (c *client) toCore(args []string) {
	s := c.s
	token := s.lastToken.Add(1)
	ch := make(chan sentinel.Value, 1)
	s.waiting.Store(token, ch)
	defer s.waiting.Delete(token)
	cmd := sentinel.Command{Client: token, Args: args}
	if len(args) > 2 && strings.EqualFold(args[1], "set") {
		for i, a := range args {
			if (strings.EqualFold(a, "notification-script") || strings.EqualFold(a, "client-reconfig-script")) &&
				i+1 < len(args) && !executable(args[i+1]) {
				cmd.NotExecutable = append(cmd.NotExecutable, args[i+1])
			}
		}
	}
	s.hand(cmd)
	select {
	case v := <-ch:
		c.value(v)
	case <-s.stop:
	}
}

func (c *client) sentinel(args []string) {
	// A host name is resolved here, so that only this client waits.
	if len(args) == 6 && strings.EqualFold(args[1], "monitor") && net.ParseIP(args[3]) == nil {
		c.s.hand(sentinel.Resolved{Host: args[3], IP: resolve(args[3])})
	}
	c.toCore(args)
}

func (c *client) info(args []string) {
	sections := args[1:]
	text := ""
	if c.s.ask(func() { text = c.s.infoText(sections) }) {
		c.verbatim(text)
	}
}

func (c *client) shutdown(args []string) {
	for _, a := range args[1:] {
		switch strings.ToLower(a) {
		case "nosave", "save", "now", "force":
		case "abort":
			if len(args) > 2 {
				c.error("ERR syntax error")
			} else {
				c.error("ERR No shutdown in progress.")
			}
			return
		default:
			c.error("ERR syntax error")
			return
		}
	}
	c.s.log.Warning("User requested shutdown...")
	c.s.end(nil)
}

// checkPassword compares in constant time, whatever the lengths.
func (c *client) checkPassword(user, pass string) bool {
	if !strings.EqualFold(user, "default") || user != "default" {
		return false
	}
	if c.s.base.RequirePass == "" {
		return true
	}
	a, b := sha256.Sum256([]byte(pass)), sha256.Sum256([]byte(c.s.base.RequirePass))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

const wrongPass = "WRONGPASS invalid username-password pair or user is disabled."

func (c *client) auth(args []string) {
	if len(args) > 3 {
		c.error("ERR syntax error")
		return
	}
	user, pass := "default", args[len(args)-1]
	if len(args) == 3 {
		user = args[1]
	} else if c.s.base.RequirePass == "" {
		c.error("ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?")
		return
	}
	if !c.checkPassword(user, pass) {
		c.error(wrongPass)
		return
	}
	c.authed = true
	c.status("OK")
}

func (c *client) hello(args []string) {
	proto, next := 0, 1
	if len(args) >= 2 {
		n, err := strconv.ParseInt(args[1], 10, 64)
		if err != nil {
			c.error("ERR Protocol version is not an integer or out of range")
			return
		}
		if n < 2 || n > 3 {
			c.error("NOPROTO unsupported protocol version")
			return
		}
		proto, next = int(n), 2
	}
	name, hasName, authed := "", false, c.authed
	for i := next; i < len(args); i++ {
		more := len(args) - 1 - i
		switch opt := strings.ToLower(args[i]); {
		case opt == "auth" && more >= 2:
			if !c.checkPassword(args[i+1], args[i+2]) {
				c.error(wrongPass)
				return
			}
			authed = true
			i += 2
		case opt == "setname" && more >= 1:
			name, hasName = args[i+1], true
			if !validName(name) {
				c.error(badName)
				return
			}
			i++
		default:
			c.error(fmt.Sprintf("ERR Syntax error in HELLO option '%s'", args[i]))
			return
		}
	}
	if !authed {
		c.error("NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> " +
			"option can be used to authenticate the client and select the RESP protocol version at the same time")
		return
	}
	c.authed = true
	c.mu.Lock()
	if hasName {
		c.name = name
	}
	if proto != 0 {
		c.resp = proto
	}
	c.mu.Unlock()
	b := sentinel.Value{Kind: sentinel.Map}
	add := func(k string, v sentinel.Value) { b.Elems = append(b.Elems, bulkValue(k), v) }
	add("server", bulkValue("redis"))
	add("version", bulkValue(config.Version))
	add("proto", sentinel.Value{Kind: sentinel.Int, Int: int64(c.resp)})
	add("id", sentinel.Value{Kind: sentinel.Int, Int: int64(c.id)})
	add("mode", bulkValue("sentinel"))
	add("modules", sentinel.Value{Kind: sentinel.Array})
	c.value(b)
}

func bulkValue(s string) sentinel.Value { return sentinel.Value{Kind: sentinel.Bulk, Str: s} }

const badName = "ERR Client names cannot contain spaces, newlines or special characters."

func validName(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '!' || s[i] > '~' {
			return false
		}
	}
	return true
}

func (c *client) acl(args []string) {
	sub := strings.ToLower(args[1])
	switch {
	case sub == "whoami" && len(args) == 2:
		c.bulk("default")
	case sub == "users" && len(args) == 2:
		c.value(sentinel.Value{Kind: sentinel.Array, Elems: []sentinel.Value{bulkValue("default")}})
	case sub == "list" && len(args) == 2:
		secret := "nopass"
		if p := c.s.base.RequirePass; p != "" {
			secret = fmt.Sprintf("#%x", sha256.Sum256([]byte(p)))
		}
		c.value(sentinel.Value{Kind: sentinel.Array, Elems: []sentinel.Value{bulkValue("user default on " + secret + " ~* &* +@all")}})
	case sub == "whoami" || sub == "users" || sub == "list":
		c.error(wrongArity("acl|" + sub))
	default:
		c.error(fmt.Sprintf("ERR unknown subcommand '%.128s'. Try ACL HELP.", args[1]))
	}
}

// CLIENT.

func (c *client) client(args []string) {
	sub := strings.ToLower(args[1])
	arity := map[string]int{"getname": 2, "setname": 3, "id": 2, "info": 2, "list": -2, "kill": -3, "no-evict": 3, "reply": 3, "getredir": 2}
	n, ok := arity[sub]
	switch {
	case !ok:
		c.error(fmt.Sprintf("ERR unknown subcommand '%.128s'. Try CLIENT HELP.", args[1]))
		return
	case len(args) != n && (n > 0 || len(args) < -n):
		c.error(wrongArity("client|" + sub))
		return
	}
	switch sub {
	case "getname":
		if c.name == "" {
			c.value(sentinel.Value{Kind: sentinel.Null})
		} else {
			c.bulk(c.name)
		}
	case "setname":
		if !validName(args[2]) {
			c.error(badName)
			return
		}
		c.mu.Lock()
		c.name = args[2]
		c.mu.Unlock()
		c.status("OK")
	case "id":
		c.int(int64(c.id))
	case "info":
		c.verbatim(c.line() + "\n")
	case "list":
		c.clientList(args)
	case "kill":
		c.clientKill(args)
	case "getredir":
		c.int(-1)
	case "no-evict":
		switch strings.ToLower(args[2]) {
		case "on", "off":
			c.status("OK")
		default:
			c.error("ERR syntax error")
		}
	case "reply":
		if strings.EqualFold(args[2], "on") {
			c.status("OK")
		} else {
			c.error("ERR syntax error")
		}
	}
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
		"qbuf=%d qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=%d tot-mem=0 events=r cmd=%s user=default redir=-1 resp=%d",
		c.id, c.remote(), c.local(), c.id+7, c.name, int(now.Sub(c.created).Seconds()),
		int(now.Sub(c.lastUsed).Seconds()), flags, ch, pat, c.queryLen, c.out.pending(), orNull(c.lastCmd), c.resp)
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
		v := args[i+1]
		switch strings.ToLower(args[i]) {
		case "id":
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil || n < 1 {
				c.error("ERR client-id should be greater than 0")
				return
			}
			tests = append(tests, func(o *client) bool { return o.id == uint64(n) })
		case "type":
			typ, ok := clientType(v)
			if !ok {
				c.error(fmt.Sprintf("ERR Unknown client type '%s'", v))
				return
			}
			tests = append(tests, func(o *client) bool { return o.kind() == typ })
		case "addr":
			tests = append(tests, func(o *client) bool { return o.remote() == v })
		case "laddr":
			tests = append(tests, func(o *client) bool { return o.local() == v })
		case "user":
			if v != "default" {
				c.error(fmt.Sprintf("ERR No such user '%s'", v))
				return
			}
		case "skipme":
			switch strings.ToLower(v) {
			case "yes":
				skipMe = true
			case "no":
				skipMe = false
			default:
				c.error("ERR syntax error")
				return
			}
		default:
			c.error("ERR syntax error")
			return
		}
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

// kill closes a client; this one after its reply is written.
func (c *client) kill(o *client) {
	if o == c {
		o.out.closeSoon()
		return
	}
	o.out.close()
}

// COMMAND.

func (c *client) command(args []string) {
	if len(args) == 1 {
		c.commandInfo(nil)
		return
	}
	switch sub := strings.ToLower(args[1]); sub {
	case "count":
		if len(args) != 2 {
			c.error(wrongArity("command|count"))
			return
		}
		c.int(int64(len(sorted)))
	case "list":
		c.commandList(args)
	case "info":
		c.commandInfo(args[2:])
	case "docs":
		c.commandDocs(args[2:])
	default:
		c.error(fmt.Sprintf("ERR unknown subcommand '%.128s'. Try COMMAND HELP.", args[1]))
	}
}

// allNames are the commands and the subcommands of SENTINEL.
func allNames() []string {
	var names []string
	for _, s := range sorted {
		names = append(names, s.name)
	}
	subs, _ := sentinel.Subcommands()
	for _, s := range subs {
		names = append(names, "sentinel|"+s)
	}
	sort.Strings(names)
	return names
}

func (c *client) commandList(args []string) {
	keep := func(string) bool { return true }
	switch {
	case len(args) == 2:
	case len(args) == 5 && strings.EqualFold(args[2], "filterby"):
		switch v := args[4]; strings.ToLower(args[3]) {
		case "pattern":
			keep = func(n string) bool { return glob.Match([]byte(strings.ToLower(v)), []byte(n), true) }
		case "aclcat":
			keep = func(n string) bool {
				top, _, _ := strings.Cut(n, "|")
				for _, cat := range table[top].cats {
					if strings.EqualFold(cat, "@"+v) {
						return true
					}
				}
				return false
			}
		case "module":
			keep = func(string) bool { return false }
		default:
			c.error("ERR syntax error")
			return
		}
	default:
		c.error("ERR syntax error")
		return
	}
	out := sentinel.Value{Kind: sentinel.Array}
	for _, n := range allNames() {
		if keep(n) {
			out.Elems = append(out.Elems, bulkValue(n))
		}
	}
	c.value(out)
}

// commandInfo replies with the ten elements of each command; the keys are
// none, since a Sentinel has no data.
func (c *client) commandInfo(names []string) {
	all := len(names) == 0
	if all {
		for _, s := range sorted {
			names = append(names, s.name)
		}
	}
	b := resp.AppendHead(nil, '*', len(names))
	for _, n := range names {
		n = strings.ToLower(n)
		top, sub, isSub := strings.Cut(n, "|")
		sp := table[top]
		switch {
		case sp != nil && !isSub:
			b = c.appendInfo(b, sp.name, sp.arity, sp)
		case sp != nil && top == "sentinel" && subArity(sub) != 0:
			b = c.appendInfo(b, n, subArity(sub), sp)
		case c.resp == 3:
			b = append(b, resp.Null3...)
		default:
			b = append(b, resp.NullArray2...)
		}
	}
	c.write(b)
}

func subArity(name string) int {
	names, arity := sentinel.Subcommands()
	for i, n := range names {
		if n == name {
			return arity[i]
		}
	}
	return 0
}

func (c *client) appendInfo(b []byte, name string, arity int, sp *spec) []byte {
	set := byte('*')
	if c.resp == 3 {
		set = '~'
	}
	b = resp.AppendBulkString(resp.AppendHead(b, '*', 10), name)
	b = resp.AppendInt(b, int64(arity))
	b = resp.AppendHead(b, set, len(sp.flags))
	for _, f := range sp.flags {
		b = resp.AppendSimple(b, f)
	}
	for range 3 {
		b = resp.AppendInt(b, 0)
	}
	b = resp.AppendHead(b, set, len(sp.cats))
	for _, f := range sp.cats {
		b = resp.AppendSimple(b, f)
	}
	b = resp.AppendHead(b, '*', 0)
	b = resp.AppendHead(b, '*', 0)
	if name != "sentinel" {
		return resp.AppendHead(b, '*', 0)
	}
	names, arities := sentinel.Subcommands()
	b = resp.AppendHead(b, '*', len(names))
	for i, n := range names {
		b = c.appendInfo(b, "sentinel|"+n, arities[i], sp)
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

func (c *client) commandDocs(names []string) {
	if len(names) == 0 {
		for _, s := range sorted {
			names = append(names, s.name)
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
