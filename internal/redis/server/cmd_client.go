package server

import (
	"math"
	"sort"
	"strconv"
	"strings"

	"holdfast/internal/redis/command"
	"holdfast/internal/redis/command/helptext"
	"holdfast/internal/redis/config"
	"holdfast/internal/redis/resp"
)

const adminTime = command.Admin | anyTime

func (s *Server) clientCommands() []command.Spec {
	const conn = command.CatConnection
	return []command.Spec{
		{Name: "client", Arity: -2, Sub: []*command.Spec{
			{Name: "caching", Arity: 3, Flags: anyTime, Cat: conn, Run: cmdClientCaching},
			{Name: "getname", Arity: 2, Flags: anyTime, Cat: conn, Run: cmdClientGetname},
			{Name: "getredir", Arity: 2, Flags: anyTime, Cat: conn, Run: cmdClientGetredir},
			{Name: "help", Arity: 2, Flags: command.Loading | command.Stale, Cat: conn, Run: cmdClientHelp},
			{Name: "id", Arity: 2, Flags: anyTime, Cat: conn, Run: cmdClientID},
			{Name: "info", Arity: 2, Flags: anyTime, Cat: conn, Tips: []string{"nondeterministic_output"}, Run: s.cmdClientInfo},
			{Name: "kill", Arity: -3, Flags: adminTime, Cat: conn, Run: s.cmdClientKill},
			{Name: "list", Arity: -2, Flags: adminTime, Cat: conn, Tips: []string{"nondeterministic_output"}, Run: s.cmdClientList},
			{Name: "no-evict", Arity: 3, Flags: adminTime, Cat: conn, Run: cmdClientNoEvict},
			{Name: "pause", Arity: -3, Flags: adminTime, Cat: conn, Run: s.cmdClientPause},
			{Name: "reply", Arity: 3, Flags: anyTime, Cat: conn, Run: cmdClientReply},
			{Name: "setname", Arity: 3, Flags: anyTime, Cat: conn, Run: cmdClientSetname},
			{Name: "tracking", Arity: -3, Flags: anyTime, Cat: conn, Run: cmdClientTracking},
			{Name: "trackinginfo", Arity: 2, Flags: anyTime, Cat: conn, Run: cmdClientTrackinginfo},
			{Name: "unblock", Arity: -3, Flags: adminTime, Cat: conn, Run: s.cmdClientUnblock},
			{Name: "unpause", Arity: 2, Flags: adminTime, Cat: conn, Run: s.cmdClientUnpause},
		}},
	}
}

// --- tracking: not built ---

func cmdClientCaching(c *command.Ctx) {
	c.Err("ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled")
}

func cmdClientTracking(c *command.Ctx) {
	switch {
	case c.Is(2, "off") && len(c.Args) == 3:
		c.OK()
	case c.Is(2, "on"):
		c.Err("ERR CLIENT TRACKING is not supported by this server: client side caching cannot be switched on")
	default:
		c.Err(command.ErrSyntax)
	}
}

func cmdClientGetredir(c *command.Ctx) { c.Int(-1) }

func cmdClientTrackinginfo(c *command.Ctx) {
	c.Map(3)
	c.BulkStr("flags")
	c.Set(1)
	c.BulkStr("off")
	c.BulkStr("redirect")
	c.Int(-1)
	c.BulkStr("prefixes")
	c.Array(0)
}

// --- name, id, reply ---

func cmdClientGetname(c *command.Ctx) {
	if c.Client.Name == "" {
		c.Null()
		return
	}
	c.BulkStr(c.Client.Name)
}

func cmdClientSetname(c *command.Ctx) {
	if !validName(c.Args[2]) {
		c.Err(errClientName)
		return
	}
	c.Client.Name = string(c.Args[2])
	c.OK()
}

func cmdClientID(c *command.Ctx) { c.Int(int64(c.Client.ID)) }

func cmdClientReply(c *command.Ctx) {
	cl := c.Client
	switch {
	case c.Is(2, "on"):
		cl.Flags &^= command.FlagReplyOff | command.FlagReplySkip | command.FlagReplySkipNext
		c.OK()
	case c.Is(2, "off"):
		cl.Flags |= command.FlagReplyOff
	case c.Is(2, "skip"):
		if !cl.Has(command.FlagReplyOff) {
			cl.Flags |= command.FlagReplySkipNext
		}
	default:
		c.Err(command.ErrSyntax)
	}
}

func cmdClientNoEvict(c *command.Ctx) {
	switch {
	case c.Is(2, "on"):
		c.Client.Flags |= command.FlagNoEvict
	case c.Is(2, "off"):
		c.Client.Flags &^= command.FlagNoEvict
	default:
		c.Err(command.ErrSyntax)
		return
	}
	if k, ok := c.Client.Conn.(*conn); ok {
		k.countMemory()
	}
	c.OK()
}

// --- LIST, INFO ---

// clientTypes are the words of TYPE with the classes of output buffer limits;
// a master's link has a class of its own.
const typeMaster = 3

func clientType(word []byte) (int, bool) {
	switch strings.ToLower(string(word)) {
	case "normal":
		return config.ClientNormal, true
	case "slave", "replica":
		return config.ClientReplica, true
	case "pubsub":
		return config.ClientPubsub, true
	case "master":
		return typeMaster, true
	}
	return 0, false
}

func (c *conn) clientType() int {
	if c.cl.Has(command.FlagMaster) {
		return typeMaster
	}
	return c.class()
}

// sortedConns are the living connections in the order in which they came.
func (s *Server) sortedConns() []*conn {
	list := make([]*conn, 0, len(s.conns))
	for _, c := range s.conns {
		if !c.closed && c.closeWhen != closeNow {
			list = append(list, c)
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].cl.ID < list[j].cl.ID })
	return list
}

// connByID finds a living connection, nil if there is none.
func (s *Server) connByID(id int64) *conn {
	if id <= 0 {
		return nil
	}
	if c := s.conns[uint64(id)]; c != nil && !c.closed && c.closeWhen != closeNow {
		return c
	}
	return nil
}

func (s *Server) cmdClientInfo(c *command.Ctx) {
	k, ok := c.Client.Conn.(*conn)
	if !ok {
		c.Verbatim("txt", "\n")
		return
	}
	c.Verbatim("txt", k.describe()+"\n")
}

func (s *Server) cmdClientList(c *command.Ctx) {
	var list []*conn
	switch {
	case len(c.Args) == 4 && c.Is(2, "type"):
		t, ok := clientType(c.Args[3])
		if !ok {
			c.Errf("ERR Unknown client type '%s'", c.Args[3])
			return
		}
		for _, k := range s.sortedConns() {
			if k.clientType() == t {
				list = append(list, k)
			}
		}
	case len(c.Args) > 3 && c.Is(2, "id"):
		for _, a := range c.Args[3:] {
			id, ok := resp.ParseInt(a)
			if !ok {
				c.Err("ERR Invalid client ID")
				return
			}
			if k := s.connByID(id); k != nil {
				list = append(list, k)
			}
		}
	case len(c.Args) != 2:
		c.Err(command.ErrSyntax)
		return
	default:
		list = s.sortedConns()
	}
	var b []byte
	for _, k := range list {
		b = append(k.appendDescription(b), '\n')
	}
	c.Verbatim("txt", string(b))
}

// describe is the client in the form of CLIENT LIST. The engine's lock is held.
func (c *conn) describe() string { return string(c.appendDescription(nil)) }

func (c *conn) describeLocked() string { return c.describe() }

func (c *conn) appendDescription(b []byte) []byte {
	cl := c.cl
	now := c.s.e.NowMs
	num := func(name string, n int64) {
		b = append(b, name...)
		b = strconv.AppendInt(b, n, 10)
	}
	ch, pat, shard := cl.Subs()
	num("id=", int64(cl.ID))
	b = append(append(b, " addr="...), cl.Addr...)
	b = append(append(b, " laddr="...), cl.Laddr...)
	num(" fd=", int64(c.fd))
	b = append(append(b, " name="...), cl.Name...)
	num(" age=", max(0, now/1000-cl.CreatedMs/1000))
	num(" idle=", max(0, now/1000-cl.LastMs/1000))
	b = append(b, " flags="...)
	b = c.appendFlags(b)
	num(" db=", int64(cl.DB.Index()))
	num(" sub=", int64(ch))
	num(" psub=", int64(pat))
	num(" ssub=", int64(shard))
	num(" multi=", int64(cl.MultiLen()))
	input, args := c.inPending, int64(cl.BlockedArgs())+c.inArgs
	if c.executing > 0 {
		input, args = int64(c.executing), 0
		for _, a := range c.parser.Args {
			args += int64(len(a))
		}
	}
	num(" qbuf=", input)
	num(" qbuf-free=", max(0, int64(c.sizes.room)-input))
	num(" argv-mem=", args)
	num(" multi-mem=", int64(cl.MultiMem()))
	inBuffer, pieces, outSize := c.output()
	num(" rbs=", int64(c.sizes.reply))
	num(" rbp=", int64(c.sizes.used))
	num(" obl=", inBuffer)
	num(" oll=", pieces)
	num(" omem=", outSize)
	num(" tot-mem=", c.memory())
	b = append(b, " events=r"...)
	if c.outPending > 0 {
		b = append(b, 'w')
	}
	b = append(b, " cmd="...)
	if cl.LastCmd != nil {
		b = append(b, cl.LastCmd.Full...)
	} else {
		b = append(b, "NULL"...)
	}
	if cl.Has(command.FlagMaster) {
		b = append(b, " user=(superuser) redir=-1"...)
	} else {
		b = append(b, " user=default redir=-1"...)
	}
	num(" resp=", int64(cl.Proto))
	return b
}

func (c *conn) appendFlags(b []byte) []byte {
	cl := c.cl
	start := len(b)
	switch {
	case cl.Has(command.FlagMonitor):
		b = append(b, 'O')
	case cl.Has(command.FlagReplica):
		b = append(b, 'S')
	}
	if cl.Has(command.FlagMaster) {
		b = append(b, 'M')
	}
	if ch, pat, sh := cl.Subs(); ch+pat+sh > 0 {
		b = append(b, 'P')
	}
	if cl.Has(command.FlagMulti) {
		b = append(b, 'x')
	}
	if cl.Has(command.FlagBlocked) || c.waiting {
		b = append(b, 'b')
	}
	if cl.Has(command.FlagDirtyCAS) {
		b = append(b, 'd')
	}
	if c.closeWhen == closeAfterReply {
		b = append(b, 'c')
	}
	if c.closeWhen == closeNow {
		b = append(b, 'A')
	}
	if cl.Has(command.FlagUnixSocket) {
		b = append(b, 'U')
	}
	if cl.Has(command.FlagReadonly) {
		b = append(b, 'r')
	}
	if cl.Has(command.FlagNoEvict) {
		b = append(b, 'e')
	}
	if len(b) == start {
		b = append(b, 'N')
	}
	return b
}

// --- KILL ---

// killFilter is what CLIENT KILL looks for; zero values match all.
type killFilter struct {
	addr, laddr string
	typ         int
	hasType     bool
	id          int64
	skipMe      bool
}

func (f *killFilter) matches(k *conn, me *command.Client) bool {
	return (f.addr == "" || k.cl.Addr == f.addr) && (f.laddr == "" || k.cl.Laddr == f.laddr) &&
		(!f.hasType || k.clientType() == f.typ) && (f.id == 0 || int64(k.cl.ID) == f.id) &&
		(!f.skipMe || k.cl != me)
}

// parseKill reads the arguments; false when it has replied an error.
func (s *Server) parseKill(c *command.Ctx) (f killFilter, ok bool) {
	if len(c.Args) == 3 {
		f.addr = string(c.Args[2]) // the old form, by which one can kill oneself
		return f, true
	}
	f.skipMe = true
	for i := 2; i < len(c.Args); i += 2 {
		if i+1 == len(c.Args) {
			c.Err(command.ErrSyntax)
			return f, false
		}
		if text := f.option(c, i); text != "" {
			c.Err(text)
			return f, false
		}
	}
	return f, true
}

// option reads the option at i; it returns the error of a bad one.
func (f *killFilter) option(c *command.Ctx, i int) string {
	val := c.Args[i+1]
	switch {
	case c.Is(i, "id"):
		n, ok := resp.ParseInt(val)
		if !ok || n < 1 {
			return "ERR client-id should be greater than 0"
		}
		f.id = n
	case c.Is(i, "type"):
		t, ok := clientType(val)
		if !ok {
			return "ERR Unknown client type '" + string(val) + "'"
		}
		f.typ, f.hasType = t, true
	case c.Is(i, "addr"):
		f.addr = string(val)
	case c.Is(i, "laddr"):
		f.laddr = string(val)
	case c.Is(i, "user"):
		if string(val) != "default" {
			return "ERR No such user '" + string(val) + "'"
		}
	case c.Is(i, "skipme") && c.Is(i+1, "yes"):
		f.skipMe = true
	case c.Is(i, "skipme") && c.Is(i+1, "no"):
		f.skipMe = false
	default:
		return command.ErrSyntax
	}
	return ""
}

func (s *Server) cmdClientKill(c *command.Ctx) {
	f, ok := s.parseKill(c)
	if !ok {
		return
	}
	killed, suicide := 0, false
	for _, k := range s.sortedConns() {
		if !f.matches(k, c.Client) {
			continue
		}
		killed++
		if k.cl == c.Client {
			suicide = true // once the reply is written
			continue
		}
		s.kill(k)
	}
	switch {
	case len(c.Args) > 3:
		c.Int(int64(killed))
	case killed == 0:
		c.Err("ERR No such client")
	default:
		c.OK()
	}
	if suicide {
		c.E.Host.Close(c.Client, true)
	}
}

// kill ends a connection that is not the running command's: it watches, waits
// and listens for nothing any more, and its socket goes with the tick. The
// engine's lock is held.
func (s *Server) kill(k *conn) {
	s.e.Release(k.cl)
	delete(s.monitors, k)
	k.closeLater(false)
}

// --- PAUSE, UNBLOCK ---

func (s *Server) cmdClientPause(c *command.Ctx) {
	if len(c.Args) > 4 {
		c.ErrSub()
		return
	}
	writes := false
	if len(c.Args) == 4 {
		writes = c.Is(3, "write")
		if !writes && !c.Is(3, "all") {
			c.Err("ERR CLIENT PAUSE mode must be WRITE or ALL")
			return
		}
	}
	ms, ok := resp.ParseInt(c.Args[2])
	switch {
	case !ok:
		c.Err("ERR timeout is not an integer or out of range")
		return
	case ms < 0:
		c.Err("ERR timeout is negative")
		return
	case ms > math.MaxInt64-s.e.NowMs:
		c.OK() // Redis lets the sum overflow, so that the pause is over before it begins
		return
	}
	s.pause(s.e.NowMs+ms, writes)
	c.OK()
}

// pause holds clients back until a time; of several pauses the longest and the
// stricter one holds. The engine's lock is held.
func (s *Server) pause(untilMs int64, writes bool) {
	st := &s.e.State
	if st.PauseUntilMs > s.e.NowMs {
		writes = writes && st.PauseWrites
		untilMs = max(untilMs, st.PauseUntilMs)
	}
	st.PauseUntilMs, st.PauseWrites = untilMs, writes
}

func (s *Server) cmdClientUnpause(c *command.Ctx) {
	// A shutdown or failover that waits for replicas keeps its own pause.
	if !s.shutdown.pending && !s.e.State.FailoverPause {
		s.unpause()
	}
	c.OK()
}

func (s *Server) cmdClientUnblock(c *command.Ctx) {
	if len(c.Args) > 4 {
		c.ErrSub()
		return
	}
	withError := false
	if len(c.Args) == 4 {
		withError = c.Is(3, "error")
		if !withError && !c.Is(3, "timeout") {
			c.Err("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")
			return
		}
	}
	id, ok := c.IntArg(2)
	if !ok {
		return
	}
	if k := s.connByID(id); k != nil && s.e.Unblock(k.cl, withError) {
		if withError {
			c.Fail() // every error counts for the command that runs, as in Redis
		}
		c.Int(1)
		return
	}
	c.Int(0)
}

func cmdClientHelp(c *command.Ctx) { c.Help(helptext.Client()...) }
