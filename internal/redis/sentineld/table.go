package sentineld

import (
	"maps"
	"slices"
	"sort"
	"strings"

	"holdfast/internal/redis/config"
	"holdfast/internal/redis/sentinel"
)

// spec is one row of the command table of a Sentinel.
type spec struct {
	full  string // as in "client|id"
	arity int    // words with the name; negative: at least
	flags []string
	cats  []string // of ACL, with the @
	tips  []string
	run   func(c *client, args []string)
	sub   []*spec // ordered by name

	noAuth, inPubsub bool
}

var (
	table  map[string]*spec
	sorted []*spec // without subcommands
)

// row makes a spec of words with spaces between them.
func row(name string, arity int, flags, cats string, run func(c *client, args []string), tips ...string) *spec {
	sp := &spec{full: name, arity: arity, flags: strings.Fields(flags), run: run, tips: tips}
	sp.noAuth = slices.Contains(sp.flags, "no_auth")
	for _, c := range strings.Fields(cats) {
		sp.cats = append(sp.cats, "@"+c)
	}
	return sp
}

// The flags that most commands have, and the tips.
const (
	anyTime   = "noscript loading stale"
	atOnce    = anyTime + " fast no_auth allow_busy"
	adminNow  = "admin " + anyTime
	following = "pubsub " + anyTime

	anyOutput = "nondeterministic_output"
	anyOrder  = "nondeterministic_output_order"
)

func init() { // COMMAND lists the table that it stands in
	sorted = []*spec{
		row("acl", -2, "", "slow", nil),
		row("auth", -2, atOnce, "fast connection", (*client).auth),
		row("client", -2, "", "slow", nil),
		row("command", -1, "loading stale", "slow connection", (*client).command, anyOrder),
		row("hello", -1, atOnce, "fast connection", (*client).hello),
		row("info", -1, "loading stale", "slow dangerous", (*client).info, anyOutput, "request_policy:all_shards", "response_policy:special"),
		row("ping", -1, "fast", "fast connection", (*client).ping, "request_policy:all_shards", "response_policy:all_succeeded"),
		row("psubscribe", -2, following, "pubsub slow", (*client).subscribe),
		row("publish", 3, "pubsub loading stale fast", "pubsub fast", (*client).toCore),
		row("punsubscribe", -1, following, "pubsub slow", (*client).subscribe),
		row("role", 1, anyTime+" fast", "admin fast dangerous", (*client).toCore),
		row("sentinel", -2, "admin", "admin slow dangerous", nil),
		row("shutdown", -1, adminNow+" no_multi allow_busy", "admin slow dangerous", (*client).shutdown),
		row("subscribe", -2, following, "pubsub slow", (*client).subscribe),
		row("unsubscribe", -1, following, "pubsub slow", (*client).subscribe),
	}
	table = make(map[string]*spec, len(sorted))
	for _, r := range sorted {
		table[r.full] = r
	}
	for _, name := range strings.Fields("ping psubscribe punsubscribe subscribe unsubscribe") {
		table[name].inPubsub = true
	}
	table["acl"].sub = aclRows()
	table["client"].sub = clientRows()
	table["command"].sub = commandRows()
	table["sentinel"].sub = sentinelRows()
}

func sentinelRows() (rows []*spec) {
	names, arity := sentinel.Subcommands()
	for i, n := range names {
		flags, cats := "admin", "admin slow dangerous"
		if n == "help" {
			flags, cats = "loading stale", "slow"
		}
		rows = append(rows, row("sentinel|"+n, arity[i], flags, cats, (*client).sentinel))
	}
	sort.Slice(rows, func(i, j int) bool { return rows[i].full < rows[j].full })
	return rows
}

// subName is the part behind the bar, "" for what is no subcommand.
func (sp *spec) subName() string {
	_, sub, _ := strings.Cut(sp.full, "|")
	return sub
}

// child is the subcommand of that name, in lower case, or nil.
func (sp *spec) child(name string) *spec {
	for _, s := range sp.sub {
		if s.subName() == name {
			return s
		}
	}
	return nil
}

// in reports whether a command is of an ACL category.
func (sp *spec) in(category string) bool {
	return slices.ContainsFunc(sp.cats, func(c string) bool { return strings.EqualFold(c[1:], category) })
}

// channels are the arguments that ACL judges as channels.
func (sp *spec) channels(args []string) []string {
	switch {
	case (sp.full == "subscribe" || sp.full == "psubscribe") && len(args) > 1:
		return args[1:]
	case sp.full == "publish" && len(args) > 1:
		return args[1:2]
	}
	return nil
}

// wrongCount reports whether a request has too many or too few words.
func (sp *spec) wrongCount(words int) bool {
	return words != sp.arity && (sp.arity > 0 || words < -sp.arity)
}

// renamed is the table by the names that rename-command leaves.
func renamed(renames []config.RenamedCommand) map[string]*spec {
	names := maps.Clone(table)
	for _, r := range renames {
		from, to := strings.ToLower(r.Old), strings.ToLower(r.New)
		sp := names[from]
		delete(names, from)
		if to != "" && sp != nil {
			names[to] = sp
		}
	}
	return names
}

// commands are those that rename-command has left, in order.
func (s *shell) commands() (list []*spec) {
	for _, sp := range s.names {
		list = append(list, sp)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].full < list[j].full })
	return list
}

// lookup finds the command of a request; a container is found where the
// subcommand is unknown.
func lookup(names map[string]*spec, args []string) *spec {
	sp := names[strings.ToLower(args[0])]
	if sp != nil && len(args) > 1 {
		if sub := sp.child(strings.ToLower(args[1])); sub != nil {
			return sub
		}
	}
	return sp
}

// lookupFull finds a command by a name like "client|id".
func lookupFull(names map[string]*spec, name string) *spec {
	top, sub, isSub := strings.Cut(strings.ToLower(name), "|")
	sp := names[top]
	if sp == nil || !isSub {
		return sp
	}
	return sp.child(sub)
}

// each goes over all commands, a container before its subcommands.
func each(f func(sp *spec)) { eachOf(sorted, f) }

func eachOf(list []*spec, f func(sp *spec)) {
	for _, sp := range list {
		f(sp)
		for _, sub := range sp.sub {
			f(sub)
		}
	}
}
