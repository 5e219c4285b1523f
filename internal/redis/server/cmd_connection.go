package server

import (
	"math"

	"holdfast/internal/redis/command"
	"holdfast/internal/redis/resp"
)

// families are the commands about the server itself.
func (s *Server) families() [][]command.Spec {
	return [][]command.Spec{s.connectionCommands(), s.serverCommandsShutdown(), s.clientCommands(), s.configCommands(),
		s.infoCommands(), s.serverCommands(), s.debugCommands(), s.replicationCommands(), s.arrayCommands(), s.clusterCommands(), s.slotCommands()}
}

const (
	anyTime = command.NoScript | command.Loading | command.Stale
	atOnce  = command.Loading | command.Stale | command.Fast
)

func (s *Server) connectionCommands() []command.Spec {
	return []command.Spec{
		{Name: "auth", Arity: -2, Flags: anyTime | command.Fast | command.NoAuth | command.AllowBusy, Cat: command.CatConnection, Run: s.cmdAuth},
		{Name: "echo", Arity: 2, Flags: atOnce, Cat: command.CatConnection, Run: cmdEcho},
		{Name: "hello", Arity: -1, Flags: anyTime | command.Fast | command.NoAuth | command.AllowBusy, Cat: command.CatConnection, Run: s.cmdHello},
		{Name: "ping", Arity: -1, Flags: command.Fast, Cat: command.CatConnection, Run: cmdPing, Tips: []string{"request_policy:all_shards", "response_policy:all_succeeded"}},
		{Name: "quit", Arity: -1, Flags: anyTime | command.Fast | command.NoAuth | command.AllowBusy, Cat: command.CatConnection, Run: cmdQuit},
		{Name: "reset", Arity: 1, Flags: anyTime | command.Fast | command.NoAuth | command.AllowBusy, Cat: command.CatConnection, Run: s.cmdReset},
		{Name: "select", Arity: 2, Flags: atOnce, Cat: command.CatConnection, Run: s.cmdSelect},
	}
}

func cmdEcho(c *command.Ctx) { c.Bulk(c.Args[1]) }

func cmdPing(c *command.Ctx) {
	if len(c.Args) > 2 {
		c.ErrArity()
		return
	}
	if ch, pat, sh := c.Client.Subs(); ch+pat+sh > 0 && c.Proto == 2 {
		c.Array(2)
		c.BulkStr("pong")
		if len(c.Args) == 1 {
			c.BulkStr("")
		} else {
			c.Bulk(c.Args[1])
		}
		return
	}
	if len(c.Args) == 1 {
		c.Simple("PONG")
	} else {
		c.Bulk(c.Args[1])
	}
}

func cmdQuit(c *command.Ctx) {
	c.OK()
	c.E.Host.Close(c.Client, true)
}

func (s *Server) cmdSelect(c *command.Ctx) {
	n, ok := c.IntArgRange(1, math.MinInt32, math.MaxInt32, "")
	if !ok {
		return
	}
	if s.cfg.ClusterEnabled && n != 0 {
		c.Err("ERR SELECT is not allowed in cluster mode")
		return
	}
	if n < 0 || n >= int64(s.ks.NumDB()) {
		c.Err("ERR DB index is out of range")
		return
	}
	c.Client.DB = s.ks.DB(int(n))
	c.OK()
}

const errWrongPass = "WRONGPASS invalid username-password pair or user is disabled."

// authenticate checks a password; the only user is default.
func (s *Server) authenticate(c *command.Ctx, user, pass []byte) bool {
	ok := string(user) == "default" && (s.cfg.RequirePass == "" || constantTimeEqual(pass, s.cfg.RequirePass))
	if !ok {
		c.Err(errWrongPass)
		return false
	}
	c.Client.Authenticated = true
	if k, is := c.Client.Conn.(*conn); is {
		k.parser.Unauthenticated = false
	}
	return true
}

func constantTimeEqual(a []byte, b string) bool {
	diff := len(a) ^ len(b)
	for i := range b {
		var x byte
		if i < len(a) {
			x = a[i]
		}
		diff |= int(x ^ b[i])
	}
	return diff == 0
}

func (s *Server) cmdAuth(c *command.Ctx) {
	if len(c.Args) > 3 {
		c.Err("ERR syntax error")
		return
	}
	user, pass := []byte("default"), c.Args[1]
	c.Args[1] = redacted // from here on only SLOWLOG and MONITOR see it
	if len(c.Args) == 3 {
		user, pass = pass, c.Args[2]
		c.Args[2] = redacted
	} else if s.cfg.RequirePass == "" {
		c.Err("ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?")
		return
	}
	if s.authenticate(c, user, pass) {
		c.OK()
	}
}

func (s *Server) cmdHello(c *command.Ctx) {
	proto := int64(c.Proto)
	if len(c.Args) > 1 {
		n, ok := resp.ParseInt(c.Args[1])
		if !ok {
			c.Err("ERR Protocol version is not an integer or out of range")
			return
		}
		if n < 2 || n > 3 {
			c.Err("NOPROTO unsupported protocol version")
			return
		}
		proto = n
	}
	var user, pass []byte
	for i := 2; i < len(c.Args); i++ {
		left := len(c.Args) - 1 - i
		switch {
		case c.Is(i, "auth") && left >= 2:
			user, pass = c.Args[i+1], c.Args[i+2]
			c.Args[i+1], c.Args[i+2] = redacted, redacted
			i += 2
		case c.Is(i, "setname") && left >= 1:
			// As in Redis the name stays even if a later option is wrong.
			if !validName(c.Args[i+1]) {
				c.Err(errClientName)
				return
			}
			c.Client.Name = string(c.Args[i+1])
			i++
		default:
			c.Errf("ERR Syntax error in HELLO option '%s'", c.Args[i])
			return
		}
	}
	if user != nil && !s.authenticate(c, user, pass) {
		return
	}
	if !c.Client.Authenticated {
		c.Err("NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time")
		return
	}
	c.Client.Proto = int(proto)
	s.helloReply(c)
}

func (s *Server) helloReply(c *command.Ctx) {
	c.Map(7)
	c.BulkStr("server")
	c.BulkStr("redis")
	c.BulkStr("version")
	c.BulkStr(Version)
	c.BulkStr("proto")
	c.Int(int64(c.Proto))
	c.BulkStr("id")
	c.Int(int64(c.Client.ID))
	c.BulkStr("mode")
	if s.cfg.ClusterEnabled {
		c.BulkStr("cluster")
	} else {
		c.BulkStr("standalone")
	}
	c.BulkStr("role")
	if s.repl.isReplica.Load() {
		c.BulkStr("replica")
	} else {
		c.BulkStr("master")
	}
	c.BulkStr("modules")
	c.Array(0)
}

const errClientName = "ERR Client names cannot contain spaces, newlines or special characters."

func validName(b []byte) bool {
	for _, ch := range b {
		if ch < '!' || ch > '~' {
			return false
		}
	}
	return true
}

// cmdReset brings the connection back to what it was when it was new.
func (s *Server) cmdReset(c *command.Ctx) {
	cl := c.Client
	if cl.Has(command.FlagReplica | command.FlagMaster) {
		c.Err("ERR can only reset normal client connections")
		return
	}
	if k, is := cl.Conn.(*conn); is && cl.Has(command.FlagMonitor) {
		delete(s.monitors, k)
	}
	s.e.ResetClient(cl)
	cl.Authenticated = s.cfg.RequirePass == ""
	cl.Name = ""
	c.Simple("RESET")
}
