package server

import (
	"strings"

	"holdfast/internal/redis/command"
	"holdfast/internal/redis/rdb"
)

// There are no scripts and no functions here. What FUNCTION and SCRIPT say of
// them and how they are cleared is offered nevertheless, since clients and
// administrators do that without having any; loading one is refused.

const (
	errNoScripts   = "ERR scripts are not supported by this server: none can be loaded or debugged"
	errNoFunctions = "ERR functions are not supported by this server: no library can be loaded"
	errNotBusy     = "NOTBUSY No scripts in execution right now."
)

func scriptingCommands() []command.Spec {
	const (
		noScript  = command.NoScript
		changes   = command.Write | command.NoScript
		scripting = command.CatScripting
	)
	all := []string{"request_policy:all_shards", "response_policy:all_succeeded"}
	one := []string{"request_policy:all_shards", "response_policy:one_succeeded"}
	nodes := []string{"request_policy:all_nodes", "response_policy:all_succeeded"}
	return []command.Spec{
		{Name: "function", Arity: -2, Sub: []*command.Spec{
			{Name: "delete", Arity: 3, Flags: changes, Cat: scripting, Tips: all, Run: cmdFunctionDelete},
			{Name: "dump", Arity: 2, Flags: noScript, Cat: scripting, Run: cmdFunctionDump},
			{Name: "flush", Arity: -2, Flags: changes, Cat: scripting, Tips: all, Run: cmdFunctionFlush},
			{Name: "help", Arity: 2, Flags: command.Loading | command.Stale, Cat: scripting, Run: cmdFunctionHelp},
			{Name: "kill", Arity: 2, Flags: noScript | command.AllowBusy, Cat: scripting, Tips: one, Run: notBusy},
			{Name: "list", Arity: -2, Flags: noScript, Cat: scripting, Tips: []string{"nondeterministic_output_order"}, Run: cmdFunctionList},
			{Name: "load", Arity: -3, Flags: changes | command.DenyOOM, Cat: scripting, Tips: all, Run: cmdFunctionLoad},
			{Name: "restore", Arity: -3, Flags: changes | command.DenyOOM, Cat: scripting, Tips: all, Run: cmdFunctionRestore},
			{Name: "stats", Arity: 2, Flags: noScript | command.AllowBusy, Cat: scripting,
				Tips: []string{"nondeterministic_output", "request_policy:all_shards", "response_policy:special"}, Run: cmdFunctionStats},
		}},
		{Name: "script", Arity: -2, Sub: []*command.Spec{
			{Name: "debug", Arity: 3, Flags: noScript, Cat: scripting, Run: cmdScriptDebug},
			{Name: "exists", Arity: -3, Flags: noScript, Cat: scripting,
				Tips: []string{"request_policy:all_shards", "response_policy:agg_logical_and"}, Run: cmdScriptExists},
			{Name: "flush", Arity: -2, Flags: noScript, Cat: scripting, Tips: nodes, Run: cmdScriptFlush},
			{Name: "help", Arity: 2, Flags: command.Loading | command.Stale, Cat: scripting, Run: cmdScriptHelp},
			{Name: "kill", Arity: 2, Flags: noScript | command.AllowBusy, Cat: scripting, Tips: one, Run: notBusy},
			{Name: "load", Arity: 3, Flags: noScript | command.Stale, Cat: scripting, Tips: nodes, Run: cmdScriptLoad},
		}},
	}
}

func notBusy(c *command.Ctx) { c.Err(errNotBusy) }

// --- FUNCTION ---

func cmdFunctionDelete(c *command.Ctx) { c.Err("ERR Library not found") }

// cmdFunctionDump replies the payload of no library: the footer alone.
func cmdFunctionDump(c *command.Ctx) { c.Bulk(rdb.AppendDumpFooter(nil, 0)) }

func cmdFunctionFlush(c *command.Ctx) {
	switch {
	case len(c.Args) > 3:
		c.ErrSub()
	case len(c.Args) == 3 && !c.Is(2, "sync") && !c.Is(2, "async"):
		c.Err("ERR FUNCTION FLUSH only supports SYNC|ASYNC option")
	default:
		c.OK()
	}
}

func cmdFunctionList(c *command.Ctx) {
	code, name := false, false
	for i := 2; i < len(c.Args); i++ {
		switch {
		case !code && c.Is(i, "withcode"):
			code = true
		case !name && c.Is(i, "libraryname"):
			if i++; i == len(c.Args) {
				c.Err("ERR library name argument was not given")
				return
			}
			name = true
		default:
			c.Errf("ERR Unknown argument %s", c.Args[i])
			return
		}
	}
	c.Array(0)
}

func cmdFunctionLoad(c *command.Ctx) {
	for i := 2; i < len(c.Args)-1; i++ {
		if !c.Is(i, "replace") {
			c.Errf("ERR Unknown option given: %s", c.Args[i])
			return
		}
	}
	if !strings.HasPrefix(string(c.Args[len(c.Args)-1]), "#!") {
		c.Err("ERR Missing library metadata")
		return
	}
	c.Err(errNoFunctions)
}

// cmdFunctionRestore takes the payload of no library, which FUNCTION DUMP of
// a server without any gives.
func cmdFunctionRestore(c *command.Ctx) {
	payload := c.Args[2]
	switch {
	case len(c.Args) > 4:
		c.ErrSub()
	case len(c.Args) == 4 && !c.Is(3, "flush") && !c.Is(3, "append") && !c.Is(3, "replace"):
		c.Err("ERR Wrong restore policy given, value should be either FLUSH, APPEND or REPLACE.")
	case rdb.VerifyDump(payload, c.E.SkipChecksum) != nil:
		c.Err("ERR DUMP payload version or checksum are wrong")
	case len(payload) > len(rdb.AppendDumpFooter(nil, 0)):
		c.Err(errNoFunctions)
	default:
		c.OK()
	}
}

func cmdFunctionStats(c *command.Ctx) {
	c.Map(2)
	c.BulkStr("running_script")
	c.Null()
	c.BulkStr("engines")
	c.Map(0)
}

func cmdFunctionHelp(c *command.Ctx) {
	c.Help(strings.Split(`LOAD [REPLACE] <FUNCTION CODE>
    Create a new library with the given library name and code.
DELETE <LIBRARY NAME>
    Delete the given library.
LIST [LIBRARYNAME PATTERN] [WITHCODE]
    Return general information on all the libraries:
    * Library name
    * The engine used to run the Library
    * Library description
    * Functions list
    * Library code (if WITHCODE is given)
    It also possible to get only function that matches a pattern using LIBRARYNAME argument.
STATS
    Return information about the current function running:
    * Function name
    * Command used to run the function
    * Duration in MS that the function is running
    If no function is running, return nil
    In addition, returns a list of available engines.
KILL
    Kill the current running function.
FLUSH [ASYNC|SYNC]
    Delete all the libraries.
    When called without the optional mode argument, the behavior is determined by the
    lazyfree-lazy-user-flush configuration directive. Valid modes are:
    * ASYNC: Asynchronously flush the libraries.
    * SYNC: Synchronously flush the libraries.
DUMP
    Return a serialized payload representing the current libraries, can be restored using FUNCTION RESTORE command
RESTORE <PAYLOAD> [FLUSH|APPEND|REPLACE]
    Restore the libraries represented by the given payload, it is possible to give a restore policy to
    control how to handle existing libraries (default APPEND):
    * FLUSH: delete all existing libraries.
    * APPEND: appends the restored libraries to the existing libraries. On collision, abort.
    * REPLACE: appends the restored libraries to the existing libraries, On collision, replace the old
      libraries with the new libraries (notice that even on this option there is a chance of failure
      in case of functions name collision with another library).`, "\n")...)
}

// --- SCRIPT ---

func cmdScriptDebug(c *command.Ctx) {
	switch {
	case c.Is(2, "no"):
		c.OK()
	case c.Is(2, "yes"), c.Is(2, "sync"):
		c.Err(errNoScripts)
	default:
		c.Err("ERR Use SCRIPT DEBUG YES/SYNC/NO")
	}
}

func cmdScriptExists(c *command.Ctx) {
	c.Array(len(c.Args) - 2)
	for range c.Args[2:] {
		c.Int(0)
	}
}

func cmdScriptFlush(c *command.Ctx) {
	if len(c.Args) > 3 || len(c.Args) == 3 && !c.Is(2, "sync") && !c.Is(2, "async") {
		c.Err("ERR SCRIPT FLUSH only support SYNC|ASYNC option")
		return
	}
	c.OK()
}

func cmdScriptLoad(c *command.Ctx) { c.Err(errNoScripts) }

func cmdScriptHelp(c *command.Ctx) {
	c.Help(strings.Split(`DEBUG (YES|SYNC|NO)
    Set the debug mode for subsequent scripts executed.
EXISTS <sha1> [<sha1> ...]
    Return information about the existence of the scripts in the script cache.
FLUSH [ASYNC|SYNC]
    Flush the Lua scripts cache. Very dangerous on replicas.
    When called without the optional mode argument, the behavior is determined by the
    lazyfree-lazy-user-flush configuration directive. Valid modes are:
    * ASYNC: Asynchronously flush the scripts cache.
    * SYNC: Synchronously flush the scripts cache.
KILL
    Kill the currently executing Lua script.
LOAD <script>
    Load a script into the scripts cache without executing it.`, "\n")...)
}
