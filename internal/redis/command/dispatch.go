package command

import (
	"bytes"
	"fmt"
	"strings"
)

// Texts of refusals, in the order of the checklist.
const (
	errNoAuth      = "NOAUTH Authentication required."
	errInMulti     = "ERR Command not allowed inside a transaction"
	errOOM         = "OOM command not allowed when used memory > 'maxmemory'."
	errNoReplicas  = "NOREPLICAS Not enough good replicas to write."
	errReadOnly    = "READONLY You can't write against a read only replica."
	errMasterDown  = "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'."
	errLoading     = "LOADING Redis is loading the dataset in memory"
	errBusy        = "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."
	errReplicaKeys = "ERR Replica can't interact with the keyspace"
	errExecAborted = "EXECABORT Transaction discarded because of previous errors."
)

// Outcome tells the shell what became of a request.
type Outcome uint8

// Outcomes of Dispatch.
const (
	// Executed: replied, queued, refused or blocked (see Client.Blocked).
	Executed Outcome = iota
	// Postponed: clients are paused. Nothing was done; the shell is to
	// dispatch the same request again once the pause ends.
	Postponed
)

// Dispatch takes one request of a client, at least one word, through the
// checklist and executes it. The reply stands in the client's buffer.
func (e *Engine) Dispatch(cl *Client, args [][]byte) Outcome {
	c := &e.ctx
	c.begin(e, cl, args)
	mark := len(cl.Buf)
	cl.LastMs = e.NowMs

	text := e.find(c)
	cl.LastCmd = c.Spec // which may be none
	if text == "" {
		text = e.refusal(c)
	}
	switch {
	case text != "" && c.Spec == nil && isHTTP(args[0]):
		e.abortHTTP(cl)
	case text != "":
		e.reject(c, text)
	case e.paused(c):
		return Postponed
	case cl.Has(FlagMulti) && c.Spec.queues():
		e.queue(c)
		cl.Simple("QUEUED")
	case len(e.held) > 0 && e.awaitHeld(c):
	case e.hold != nil && e.awaitSlots(c):
	default:
		e.call(c)
		e.afterCommand(cl)
	}
	if cl.Flags&(FlagMaster|FlagReplay|FlagReplyOff|FlagReplySkip|FlagReplySkipNext|FlagAsking) != 0 {
		e.cutReply(cl, mark)
		e.endAsking(c)
	}
	return Executed
}

// begin makes c the context of a request. It sets the fields one by one: an
// assignment of the whole goes through a copy, whose words are read in other sizes
// than they were written, which is slow.
func (c *Ctx) begin(e *Engine, cl *Client, args [][]byte) {
	c.Reply, c.E, c.Client, c.DB, c.Spec = &cl.Reply, e, cl, cl.DB, nil
	c.Args, c.prop = args, nil
	c.propMode, c.failed, c.redirected = propAuto, false, false
}

// cutReply drops the reply of a client that wants none.
func (e *Engine) cutReply(cl *Client, mark int) {
	if cl.Flags&(FlagMaster|FlagReplay|FlagReplyOff|FlagReplySkip) != 0 && len(cl.Buf) > mark && !cl.Has(FlagPushing) {
		cl.Buf = cl.Buf[:mark]
	}
	cl.Flags &^= FlagReplySkip | FlagPushing
	if cl.Has(FlagReplySkipNext) {
		cl.Flags = cl.Flags&^FlagReplySkipNext | FlagReplySkip
	}
}

// find sets c.Spec, or returns the error of an unknown command, of a wrong
// number of arguments, or of a command that the configuration protects.
func (e *Engine) find(c *Ctx) string {
	s := e.Table.Lookup(c.Args[0])
	if s == nil {
		return unknownCommand(c.Args)
	}
	if s.sub != nil && len(c.Args) > 1 {
		sub := s.LookupSub(c.Args[1])
		if sub == nil {
			return fmt.Sprintf("ERR unknown subcommand '%s'. Try %s HELP.", clipText(c.Args[1], 128), strings.ToUpper(s.Name))
		}
		s = sub
	}
	c.Spec = s
	if n := len(c.Args); (s.Arity > 0 && n != s.Arity) || n < -s.Arity {
		return fmt.Sprintf("ERR wrong number of arguments for '%s' command", s.Full)
	}
	if s.Is(Protected) && !e.allowProtected(c) {
		return fmt.Sprintf("ERR %s command not allowed. If the enable-%s-command option is set to \"local\", you can run it from a local connection, otherwise you need to set this option in the configuration file, and then restart the server.",
			strings.ToUpper(s.root().Name), s.root().Name)
	}
	return ""
}

func unknownCommand(args [][]byte) string {
	var b strings.Builder
	for _, a := range args[1:] {
		if b.Len() >= 128 {
			break
		}
		b.WriteString("'" + clipText(a, 128-b.Len()) + "' ")
	}
	return fmt.Sprintf("ERR unknown command '%s', with args beginning with: %s", clipText(args[0], 128), b.String())
}

// isHTTP reports whether a word that is no command begins a line of an HTTP request.
func isHTTP(word []byte) bool { return EqualFold(word, "post") || EqualFold(word, "host:") }

// abortHTTP closes a connection that speaks HTTP: a page in somebody's browser
// may have been made to send it, and what follows could be read as commands.
func (e *Engine) abortHTTP(cl *Client) {
	if e.httpLogMs == 0 || e.NowMs-e.httpLogMs > 60_000 {
		e.httpLogMs = e.NowMs
		e.Host.Logf("Possible SECURITY ATTACK detected. It looks like somebody is sending POST or Host: commands to Redis. "+
			"This is likely due to an attacker attempting to use Cross Protocol Scripting to compromise your Redis instance. Connection from %s aborted.", cl.Addr)
	}
	e.Host.Close(cl, false)
}

// clipText is clip for text that Redis prints as a C string: it ends at a NUL.
func clipText(b []byte, n int) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return clip(b, n)
}

func (e *Engine) allowProtected(c *Ctx) bool {
	who := e.Cfg.EnableDebugCommand
	if c.Spec.root().Name == "module" {
		who = e.Cfg.EnableModuleCommand
	}
	return who.Allows(c.Client.Local())
}

// Local reports whether the client comes from this machine.
func (c *Client) Local() bool {
	return c.Has(FlagUnixSocket) || strings.HasPrefix(c.Addr, "127.") || strings.HasPrefix(c.Addr, "[::1]:") || c.Addr == ""
}

// refusal is the checklist: each check has its reason for standing where it
// does, and the first that fails gives the error.
func (e *Engine) refusal(c *Ctx) string {
	cl, s := c.Client, c.Spec
	flags, inverse := s.Flags, ^s.Flags
	if s.Name == "exec" && cl.Has(FlagMulti) {
		// EXEC is judged by what it would execute.
		for _, q := range cl.multi {
			flags |= q.spec.Flags
			inverse |= ^q.spec.Flags
		}
	}
	trusted := cl.Has(FlagMaster | FlagReplay)
	write := flags&Write != 0

	// First of all who it is: nothing below may leak to a stranger.
	if e.State.RequirePass && !cl.Authenticated && !s.Is(NoAuth) {
		return errNoAuth
	}
	if cl.Has(FlagMulti) && s.Is(NoMulti) {
		return errInMulti
	}
	// Whose the keys are, before anything that is about them here.
	if e.view != nil {
		obeyed := trusted || cl.Has(FlagImport)
		if obeyed || !e.serves(c) {
			if text := e.redirect(c, write, obeyed); text != "" {
				return text
			}
		}
	}
	// Memory before anything that depends on what is stored: evicting may
	// delete what the command is about.
	if e.Cfg.MaxMemory > 0 && !trusted && !e.State.Loading {
		if text := e.refuseMemory(c, flags); text != "" {
			return text
		}
	}
	// What a write would need: a disk, replicas, the right to write.
	if e.State.DiskError != "" && !trusted && (write || s.Name == "ping" || e.State.ReadsRefused && flags&ReadOnly != 0) {
		return e.State.DiskError
	}
	if write && !trusted {
		if n := int(e.Cfg.MinReplicasToWrite); n > 0 && e.Cfg.MinReplicasMaxLag > 0 && !e.State.IsReplica && e.State.GoodReplicas < n {
			return errNoReplicas
		}
		if e.State.ReadOnly {
			return errReadOnly
		}
	}
	// A RESP2 connection that is subscribed cannot tell replies from messages.
	if cl.Proto == 2 && cl.subscribed() && !s.allowedSubscribed() {
		return fmt.Sprintf("ERR Can't execute '%s': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context", s.Full)
	}
	// What the data is worth: stale, or not yet loaded.
	if e.State.MasterDown && inverse&Stale != 0 && !trusted {
		return errMasterDown
	}
	if e.State.Loading && !trusted {
		if !e.State.AsyncLoading && inverse&Loading != 0 {
			return errLoading
		}
		if e.State.AsyncLoading && flags&NoAsyncLoading != 0 {
			return errLoading
		}
	}
	if e.State.Busy && inverse&AllowBusy != 0 {
		return errBusy
	}
	// Replicas and monitors are exempt from CLIENT PAUSE, so they must not
	// touch the data.
	if cl.Has(FlagReplica|FlagMonitor) && flags&(Write|ReadOnly|MayReplicate) != 0 {
		return errReplicaKeys
	}
	return ""
}

func (e *Engine) refuseMemory(c *Ctx, flags Flag) string {
	if e.freeMemory() {
		return ""
	}
	queued := c.Client.Has(FlagMulti) && c.Spec.queues()
	if flags&DenyOOM != 0 || queued {
		return errOOM
	}
	return ""
}

func (s *Spec) allowedSubscribed() bool {
	switch s.Name {
	case "ping", "subscribe", "ssubscribe", "unsubscribe", "sunsubscribe", "psubscribe", "punsubscribe", "quit", "reset":
		return true
	}
	return false
}

// queues reports whether MULTI queues the command.
func (s *Spec) queues() bool {
	switch s.Full {
	case "exec", "discard", "multi", "watch", "quit", "reset":
		return false
	}
	return true
}

// reject replies a refusal and makes a running transaction fail.
func (e *Engine) reject(c *Ctx, text string) {
	cl := c.Client
	if cl.Has(FlagMulti) {
		cl.Flags |= FlagDirtyExec
	}
	if c.Spec != nil {
		c.Spec.stats.Rejected++
		if c.Spec.Full == "exec" {
			e.discard(cl)
		}
		if c.Spec.Full == "exec" && !c.redirected {
			text = "EXECABORT Transaction discarded because of: " + strings.TrimPrefix(text, "ERR ")
		}
	}
	c.Err(text)
}

// paused: the last check, since a refusal needs no waiting.
func (e *Engine) paused(c *Ctx) bool {
	if e.State.PauseUntilMs == 0 || c.Client.Has(FlagReplica|FlagMonitor|FlagMaster|FlagReplay) {
		return false
	}
	if e.NowMs >= e.State.PauseUntilMs {
		return false
	}
	if !e.State.PauseWrites {
		return true
	}
	flags := c.Spec.Flags
	if c.Spec.Name == "exec" {
		for _, q := range c.Client.multi {
			flags |= q.spec.Flags
		}
	}
	return flags&(Write|MayReplicate) != 0
}

// call executes the command of c and adds what it changed to the running unit
// of the stream.
func (e *Engine) call(c *Ctx) {
	before := e.Dirty
	if c.Client.Flags&FlagReplay != 0 {
		c.Spec.Run(c) // neither measured nor counted, as in Redis
	} else {
		e.measure(c)
	}
	// Dirty may also have become smaller: a snapshot ended meanwhile.
	if c.propMode == propForce || (c.propMode == propAuto && e.Dirty > before) {
		args := c.prop
		if args == nil {
			args = c.Args
		}
		e.alsoPropagate(c.DB.Index(), args)
	}
}

// measure executes the command of c, counts it, and tells those who want to
// know about it.
func (e *Engine) measure(c *Ctx) {
	s := c.Spec
	start := e.lastEnd
	if e.callDepth > 0 || start == 0 {
		start = e.Clock()
	}
	e.callDepth++
	s.Run(c)
	e.callDepth--
	end := e.Clock()
	e.lastEnd = end
	us := (end - start) / 1000
	e.NowUs += us
	e.NowMs = e.NowUs / 1000
	e.count(c, end-start)
	if e.Cfg.LatencyMonitorThreshold > 0 {
		event := "command"
		if s.Is(Fast) {
			event = "fast-command"
		}
		e.SampleLatency(event, us)
	}
	if c.Client.block == nil || c.Client.Has(FlagDenyBlocking) {
		e.slow(c, us)
	}
	// As in Redis the monitors see a command after it was executed: without the
	// passwords in it, in the database that it leads to, EXEC behind its commands.
	if !s.Is(SkipMonitor) && !s.Is(Admin) {
		e.Host.Monitor(c.Client, c.Client.DB.Index(), c.Args)
	}
}

func (e *Engine) count(c *Ctx, ns int64) {
	st := c.Spec.stats
	st.Calls++
	st.Usec += ns / 1000
	if c.failed {
		st.Failed++
	}
	e.Stat.Commands++
	// A call that waits for keys is measured when it ends.
	if b := c.Client.block; e.Cfg.LatencyTracking && (b == nil || b.held) {
		st.addLatency(ns)
	}
}

// afterCommand ends the atomic unit of a top-level command and serves the
// clients that its changes wake.
func (e *Engine) afterCommand(cl *Client) {
	e.endUnit(cl)
	if len(e.blocking.ready) > 0 {
		e.serveBlocked()
	}
}
