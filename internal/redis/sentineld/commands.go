package sentineld

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/redis/config"
	"holdfast/internal/redis/resp"
	"holdfast/internal/redis/sentinel"
)

// protocol is 2 or 3; other goroutines ask too.
func (c *client) protocol() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.resp
}

// handle is the dispatch checklist: known, arity, authenticated, allowed, not
// subscribed, run.
func (c *client) handle(args []string) {
	c.s.stats.commands.Add(1)
	c.beginReply()
	sp := lookup(c.s.names, args)
	c.mu.Lock()
	c.lastUsed = time.Now()
	if sp != nil {
		c.lastCmd = sp.full
	}
	u, authed := c.user, c.authed
	c.mu.Unlock()
	switch {
	case sp == nil:
		c.error(unknownCommand(args))
	case len(sp.sub) > 0 && len(args) > 1:
		c.error(unknownSubcommand(args[0], args[1]))
	case sp.wrongCount(len(args)):
		c.error(wrongArity(sp.full))
	case !authed && !sp.noAuth && !c.s.users.open():
		c.error("NOAUTH Authentication required.")
	case c.denied(u, sp, args):
	case !sp.inPubsub && c.subscribed() && c.resp == 2:
		c.error("ERR Can't execute '" + c.lastCmd +
			"': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context")
	default:
		if top, _, _ := strings.Cut(sp.full, "|"); !strings.EqualFold(args[0], top) {
			args[0] = top // it has been renamed
		}
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

func unknownSubcommand(top, sub string) string {
	return fmt.Sprintf("ERR unknown subcommand '%.128s'. Try %s HELP.", sub, strings.ToUpper(top))
}

// badCall is a subcommand whose arguments fit no form of it.
func badCall(args []string) string {
	return fmt.Sprintf("ERR unknown subcommand or wrong number of arguments for '%.128s'. Try %s HELP.", args[1], strings.ToUpper(args[0]))
}

// help replies what the HELP of a command says, with what all of them have.
func (c *client) help(name string, lines []string) {
	out := sentinel.Value{Kind: sentinel.Array}
	add := func(l string) { out.Elems = append(out.Elems, sentinel.Value{Kind: sentinel.Status, Str: l}) }
	add(name + " <subcommand> [<arg> [value] [opt] ...]. Subcommands are:")
	for _, l := range lines {
		add(l)
	}
	add("HELP")
	add("    Prints this help.")
	c.value(out)
}

func wrongArity(name string) string {
	return "ERR wrong number of arguments for '" + name + "' command"
}

func (c *client) subscribed() bool {
	ch, pat := c.s.pubsub.of(c)
	return ch+pat > 0
}

func (c *client) subscribe(args []string) {
	verb := strings.ToLower(args[0])
	c.s.pubsub.change(c, subscription{verb, verb[0] == 'p', !strings.Contains(verb, "un")}, args[1:])
}

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
	if len(args) == 6 && strings.EqualFold(args[1], "monitor") && !sentinel.IsIP(args[3]) {
		c.s.hand(sentinel.Resolved{Host: args[3], IP: resolve(args[3])})
	}
	c.toCore(args)
}

func (c *client) info(args []string) {
	sections := args[1:]
	text := ""
	if c.s.ask(func() { text = c.s.infoText(sections) }) {
		c.bulk(text) // a Sentinel replies no verbatim string here
	}
}

func (c *client) shutdown(args []string) {
	var save, noSave, abort, other bool
	for _, a := range args[1:] {
		switch strings.ToLower(a) {
		case "save":
			save = true
		case "nosave":
			noSave = true
		case "now", "force":
			other = true
		case "abort":
			abort = true
		default:
			c.error("ERR syntax error")
			return
		}
	}
	switch {
	case save && noSave, abort && (save || noSave || other):
		c.error("ERR syntax error")
		return
	case abort:
		c.error("ERR No shutdown in progress.")
		return
	}
	c.s.log.Warning("User requested shutdown...")
	c.s.end(nil)
}

const wrongPass = "WRONGPASS invalid username-password pair or user is disabled."

// login makes the connection one of a user, and notes it where that fails.
func (c *client) login(args []string, name, pass string) bool {
	u, ok := c.s.users.login(name, pass)
	if !ok {
		c.s.users.log.add(aclEntry{reason: "auth", object: args[0], user: name}, c)
		return false
	}
	c.mu.Lock()
	c.user, c.authed = u, true
	c.mu.Unlock()
	return true
}

func (c *client) auth(args []string) {
	if len(args) > 3 {
		c.error("ERR syntax error")
		return
	}
	name, pass := defaultUser, args[len(args)-1]
	if len(args) == 3 {
		name = args[1]
	} else if c.s.users.noPass() {
		c.error("ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?")
		return
	}
	if !c.login(args, name, pass) {
		c.error(wrongPass)
		return
	}
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
	name, hasName := "", false
	for i := next; i < len(args); i++ {
		more := len(args) - 1 - i
		switch opt := strings.ToLower(args[i]); {
		case opt == "auth" && more >= 2:
			if !c.login(args, args[i+1], args[i+2]) {
				c.error(wrongPass)
				return
			}
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
	if !c.authed && !c.s.users.open() {
		c.error("NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> " +
			"option can be used to authenticate the client and select the RESP protocol version at the same time")
		return
	}
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
