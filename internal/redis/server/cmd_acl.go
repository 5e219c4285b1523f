package server

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"math"
	"strings"

	"holdfast/internal/redis/command"
	"holdfast/internal/redis/command/helptext"
)

// There is one user, default, who may do everything; requirepass is its
// password. ACL shows that and refuses to change it.

func (s *Server) aclCommands() []command.Spec {
	return []command.Spec{
		{Name: "acl", Arity: -2, Sub: []*command.Spec{
			{Name: "cat", Arity: -2, Flags: anyTime, Run: s.cmdACLCat},
			{Name: "deluser", Arity: -3, Flags: adminTime, Run: cmdACLDeluser},
			{Name: "dryrun", Arity: -4, Flags: adminTime, Run: s.cmdACLDryrun},
			{Name: "genpass", Arity: -2, Flags: anyTime, Run: cmdACLGenpass},
			{Name: "getuser", Arity: 3, Flags: adminTime, Run: s.cmdACLGetuser},
			{Name: "help", Arity: 2, Flags: command.Loading | command.Stale, Run: cmdACLHelp},
			{Name: "list", Arity: 2, Flags: adminTime, Run: s.cmdACLList},
			{Name: "load", Arity: 2, Flags: adminTime, Run: s.cmdACLFile},
			{Name: "log", Arity: -2, Flags: adminTime, Run: cmdACLLog},
			{Name: "save", Arity: 2, Flags: adminTime, Run: s.cmdACLFile},
			{Name: "setuser", Arity: -3, Flags: adminTime, Run: cmdACLSetuser},
			{Name: "users", Arity: 2, Flags: adminTime, Run: cmdACLUsers},
			{Name: "whoami", Arity: 2, Flags: anyTime, Run: cmdACLWhoami},
		}},
	}
}

func cmdACLWhoami(c *command.Ctx) { c.BulkStr("default") }

func cmdACLUsers(c *command.Ctx) {
	c.Array(1)
	c.BulkStr("default")
}

// passwordHash is how ACL shows the password of default, "" if there is none.
func (s *Server) passwordHash() string {
	if s.cfg.RequirePass == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(s.cfg.RequirePass))
	return hex.EncodeToString(sum[:])
}

func (s *Server) cmdACLList(c *command.Ctx) {
	secret := "nopass"
	if h := s.passwordHash(); h != "" {
		secret = "#" + h
	}
	c.Array(1)
	c.BulkStr("user default on " + secret + " ~* &* +@all")
}

func (s *Server) cmdACLGetuser(c *command.Ctx) {
	if string(c.Args[2]) != "default" {
		c.Null()
		return
	}
	hash := s.passwordHash()
	c.Map(6)
	c.BulkStr("flags")
	if hash == "" {
		c.Set(2)
		c.BulkStr("on")
		c.BulkStr("nopass")
	} else {
		c.Set(1)
		c.BulkStr("on")
	}
	c.BulkStr("passwords")
	if hash == "" {
		c.Array(0)
	} else {
		c.Array(1)
		c.BulkStr(hash)
	}
	for _, kv := range [][2]string{{"commands", "+@all"}, {"keys", "~*"}, {"channels", "&*"}} {
		c.BulkStr(kv[0])
		c.BulkStr(kv[1])
	}
	c.BulkStr("selectors")
	c.Array(0)
}

func (s *Server) cmdACLCat(c *command.Ctx) {
	if len(c.Args) > 3 {
		c.ErrSub()
		return
	}
	names := command.Categories()
	if len(c.Args) == 2 {
		c.Array(len(names))
		for _, n := range names {
			c.BulkStr(n)
		}
		return
	}
	for i, n := range names {
		if !c.Is(2, n) {
			continue
		}
		m, count := c.Defer(), 0
		s.eachCommand(func(spec *command.Spec) {
			if spec.Cat&(1<<i) != 0 {
				c.BulkStr(spec.Full)
				count++
			}
		})
		c.CloseArray(m, count)
		return
	}
	c.Errf("ERR Unknown category '%s'", c.Args[2])
}

func cmdACLGenpass(c *command.Ctx) {
	if len(c.Args) > 3 {
		c.ErrSub()
		return
	}
	bits := int64(256)
	if len(c.Args) == 3 {
		var ok bool
		if bits, ok = c.IntArg(2); !ok {
			return
		}
		if bits <= 0 || bits > 4096 {
			c.Err("ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to 4096")
			return
		}
	}
	digits := (bits + 3) / 4
	b := make([]byte, (digits+1)/2)
	if _, err := rand.Read(b); err != nil {
		c.Err("ERR no randomness: " + err.Error())
		return
	}
	c.BulkStr(hex.EncodeToString(b)[:digits])
}

func (s *Server) cmdACLFile(c *command.Ctx) {
	if s.cfg.ACLFile == "" {
		c.Err("ERR This Redis instance is not configured to use an ACL file. You may want to specify users via the ACL SETUSER command and then " +
			"issue a CONFIG REWRITE (assuming you have a Redis configuration file set) in order to store users in the Redis configuration.")
		return
	}
	c.Err(errOneUser)
}

const errOneUser = "ERR this server has one user, default, whose password is requirepass: users cannot be made or changed"

func cmdACLSetuser(c *command.Ctx) {
	redactFrom(c, 2)
	c.Err(errOneUser)
}

// redactFrom hides arguments that may be secrets from SLOWLOG.
func redactFrom(c *command.Ctx, first int) {
	for i := first; i < len(c.Args); i++ {
		c.Args[i] = redacted
	}
}

func cmdACLDeluser(c *command.Ctx) {
	for _, a := range c.Args[2:] {
		if string(a) == "default" {
			c.Err("ERR The 'default' user cannot be removed")
			return
		}
	}
	c.Int(0)
}

func (s *Server) cmdACLDryrun(c *command.Ctx) {
	if string(c.Args[2]) != "default" {
		c.Errf("ERR User '%s' not found", c.Args[2])
		return
	}
	spec := s.e.Table.Lookup(c.Args[3])
	if spec != nil && spec.Sub != nil && len(c.Args) > 4 {
		spec = spec.LookupSub(c.Args[4])
	}
	if spec == nil {
		c.Errf("ERR Command '%s' not found", c.Args[3])
		return
	}
	if n := len(c.Args) - 3; (spec.Arity > 0 && n != spec.Arity) || n < -spec.Arity {
		c.Errf("ERR wrong number of arguments for '%s' command", spec.Full)
		return
	}
	c.OK()
}

func cmdACLLog(c *command.Ctx) {
	switch {
	case len(c.Args) > 3:
		c.ErrSub()
	case len(c.Args) == 3 && c.Is(2, "reset"):
		c.OK()
	case len(c.Args) == 3:
		if _, ok := c.IntArgRange(2, math.MinInt64, math.MaxInt64, ""); ok {
			c.Array(0)
		}
	default:
		c.Array(0)
	}
}

func cmdACLHelp(c *command.Ctx) { c.Help(helptext.ACL()...) }

// --- MODULE ---

// moduleCommands: modules of Redis are C libraries, which cannot be loaded.
var moduleCommands = []command.Spec{
	{Name: "module", Arity: -2, Sub: []*command.Spec{
		{Name: "help", Arity: 2, Flags: command.Loading | command.Stale, Run: cmdModuleHelp},
		{Name: "list", Arity: 2, Flags: command.Admin | command.NoScript, Tips: []string{"nondeterministic_output_order"}, Run: func(c *command.Ctx) { c.Array(0) }},
		{Name: "load", Arity: -3, Flags: command.Admin | command.NoScript | command.NoAsyncLoading | command.Protected, Run: cmdModuleLoad},
		{Name: "loadex", Arity: -3, Flags: command.Admin | command.NoScript | command.NoAsyncLoading | command.Protected, Run: cmdModuleLoad},
		{Name: "unload", Arity: 3, Flags: command.Admin | command.NoScript | command.NoAsyncLoading | command.Protected, Run: cmdModuleUnload},
	}},
}

func cmdModuleLoad(c *command.Ctx) {
	c.Err("ERR Error loading the extension. Please check the server logs.")
	c.E.Host.Logf("Module %s failed to load: modules of Redis are C libraries and cannot be loaded by this server", c.Args[2])
}

func cmdModuleUnload(c *command.Ctx) {
	c.Err("ERR Error unloading module: no such module with that name")
}

func cmdModuleHelp(c *command.Ctx) {
	c.Help(strings.Split(`LIST
    Return a list of loaded modules.
LOAD <path> [<arg> ...]
    Load a module library from <path>, passing to it any optional arguments.
LOADEX <path> [[CONFIG NAME VALUE] [CONFIG NAME VALUE]] [ARGS ...]
    Load a module library from <path>, while passing it module configurations and optional arguments.
UNLOAD <name>
    Unload a module.`, "\n")...)
}
