package command

import (
	_ "embed"
	"encoding/json"
	"sync"

	"holdfast/internal/invariant"
	"holdfast/internal/redis/command/helptext"
	"holdfast/internal/redis/glob"
)

// COMMAND: what the table says of itself, and, for DOCS, what docs.json knows
// of the commands besides.

var commandsCommands = []Spec{
	{Name: "command", Arity: -1, Flags: Loading | Stale, Cat: CatConnection, Tips: []string{"nondeterministic_output_order"}, Run: cmdCommand, Sub: []*Spec{
		{Name: "count", Arity: 2, Flags: Loading | Stale, Cat: CatConnection, Run: cmdCommandCount},
		{Name: "docs", Arity: -2, Flags: Loading | Stale, Cat: CatConnection, Tips: []string{"nondeterministic_output_order"}, Run: cmdCommandDocs},
		{Name: "getkeys", Arity: -4, Flags: Loading | Stale, Cat: CatConnection, Run: cmdCommandGetkeys},
		{Name: "getkeysandflags", Arity: -4, Flags: Loading | Stale, Cat: CatConnection, Run: cmdCommandGetkeysandflags},
		{Name: "help", Arity: 2, Flags: Loading | Stale, Cat: CatConnection, Run: cmdCommandHelp},
		{Name: "info", Arity: -2, Flags: Loading | Stale, Cat: CatConnection, Tips: []string{"nondeterministic_output_order"}, Run: cmdCommandInfo},
		{Name: "list", Arity: -2, Flags: Loading | Stale, Cat: CatConnection, Tips: []string{"nondeterministic_output_order"}, Run: cmdCommandList},
	}},
}

func cmdCommand(c *Ctx) {
	c.Array(len(c.E.Table.All))
	for _, s := range c.E.Table.All {
		c.commandInfo(s)
	}
}

func cmdCommandCount(c *Ctx) { c.Int(int64(len(c.E.Table.All))) }

func cmdCommandDocs(c *Ctx) {
	all := docs()
	if len(c.Args) == 2 {
		c.Map(len(c.E.Table.All))
		for _, s := range c.E.Table.All {
			c.BulkStr(s.Full)
			c.commandDoc(s, all)
		}
		return
	}
	mark, n := c.Defer(), 0
	for _, name := range c.Args[2:] {
		if s := c.E.Table.LookupFull(string(name)); s != nil {
			c.BulkStr(s.Full)
			c.commandDoc(s, all)
			n++
		}
	}
	c.CloseMap(mark, n)
}

func cmdCommandGetkeys(c *Ctx) {
	if refs, ok := c.keysOfArgs(); ok {
		c.Array(len(refs))
		for _, r := range refs {
			c.Bulk(c.Args[2+r.Pos])
		}
	}
}

func cmdCommandGetkeysandflags(c *Ctx) {
	if refs, ok := c.keysOfArgs(); ok {
		c.Array(len(refs))
		for _, r := range refs {
			c.Array(2)
			c.Bulk(c.Args[2+r.Pos])
			c.keyFlags(r.Flags)
		}
	}
}

// keysOfArgs finds the keys of the request that stands from argument 2 on. It
// replies the error and returns false when that is none, or has none.
func (c *Ctx) keysOfArgs() (refs []KeyRef, ok bool) {
	args := c.Args[2:]
	s := c.E.Table.Lookup(args[0])
	if s != nil && s.sub != nil && len(args) > 1 {
		s = s.LookupSub(args[1])
	}
	if s == nil {
		c.Err("ERR Invalid command specified")
		return nil, false
	}
	if !s.hasKeys() {
		c.Err("ERR The command has no key arguments")
		return nil, false
	}
	if s.Arity > 0 && len(args) != s.Arity || len(args) < -s.Arity {
		c.Err("ERR Invalid number of arguments specified for command")
		return nil, false
	}
	refs, ok = s.AppendKeys(nil, args)
	if !ok || len(refs) == 0 {
		if s.Is(NoMandatoryKeys) {
			return nil, true
		}
		c.Err("ERR Invalid arguments specified for command")
		return nil, false
	}
	return refs, true
}

func (s *Spec) hasKeys() bool {
	for _, k := range s.Keys {
		if k.Flags&KeyNotKey == 0 {
			return true
		}
	}
	return s.GetKeys != nil
}

func cmdCommandHelp(c *Ctx) { c.Help(helptext.Command()...) }

func cmdCommandInfo(c *Ctx) {
	if len(c.Args) == 2 {
		cmdCommand(c)
		return
	}
	c.Array(len(c.Args) - 2)
	for _, name := range c.Args[2:] {
		if s := c.E.Table.LookupFull(string(name)); s != nil {
			c.commandInfo(s)
		} else {
			c.Null()
		}
	}
}

func cmdCommandList(c *Ctx) {
	keep := func(*Spec) bool { return true }
	switch {
	case len(c.Args) == 2:
	case len(c.Args) != 5 || !c.Is(2, "filterby"):
		c.Err(ErrSyntax)
		return
	case c.Is(3, "module"):
		keep = func(*Spec) bool { return false } // there are no modules
	case c.Is(3, "aclcat"):
		cat := categoryOf(c.Args[4])
		keep = func(s *Spec) bool { return s.Cat&cat != 0 }
	case c.Is(3, "pattern"):
		pattern := c.Args[4]
		keep = func(s *Spec) bool { return glob.Match(pattern, []byte(s.Full), true) }
	default:
		c.Err(ErrSyntax)
		return
	}
	mark, n := c.Defer(), 0
	add := func(s *Spec) {
		if keep(s) {
			c.BulkStr(s.Full)
			n++
		}
	}
	for _, s := range c.E.Table.All {
		add(s)
		for _, sub := range s.Sub {
			add(sub)
		}
	}
	c.CloseArray(mark, n)
}

// categoryOf is the ACL category of a name, 0 when there is none.
func categoryOf(name []byte) Cat {
	for i, n := range catNames {
		if EqualFold(name, n) {
			return 1 << i
		}
	}
	return 0
}

// --- INFO ---

// commandInfo replies a row of the table.
func (c *Ctx) commandInfo(s *Spec) {
	c.Array(10)
	c.BulkStr(s.Full)
	c.Int(int64(s.Arity))
	mark, n := c.Defer(), 0
	for _, f := range flagNames {
		if s.Is(f.f) {
			c.Simple(f.name)
			n++
		}
	}
	c.CloseSet(mark, n)
	first, last, step := s.keyRange()
	c.Int(int64(first))
	c.Int(int64(last))
	c.Int(int64(step))
	mark, n = c.Defer(), 0
	for i, name := range catNames {
		if s.Cat&(1<<i) != 0 {
			c.Simple("@" + name)
			n++
		}
	}
	c.CloseSet(mark, n)
	c.Set(len(s.Tips))
	for _, t := range s.Tips {
		c.BulkStr(t)
	}
	c.Set(len(s.Keys))
	for _, k := range s.Keys {
		c.keySpec(k)
	}
	if len(s.Sub) == 0 {
		c.Set(0)
		return
	}
	c.Array(len(s.Sub))
	for _, sub := range s.Sub {
		c.commandInfo(sub)
	}
}

// keyRange tells the keys in the way that was there before key specifications:
// the first and the last of them and the step, as far as that can tell it. The
// last may count from the end. All are 0 when it cannot.
func (s *Spec) keyRange() (first, last, step int) {
	if len(s.Keys) == 1 && s.Keys[0].isRange() {
		k := s.Keys[0]
		return k.Begin, k.lastKey(), max(k.Step, 1)
	}
	for _, k := range s.Keys {
		if !k.isRange() || k.Step > 1 || last != 0 && last != k.Begin-1 {
			continue // no range, or not the one behind that before
		}
		if first == 0 {
			first = k.Begin
		}
		if end := k.lastKey(); uint(end) > uint(last) {
			last = end
		}
	}
	if first == 0 {
		return 0, 0, 0
	}
	return first, last, 1
}

// isRange: a plain range of keys from a fixed position on.
func (k KeySpec) isRange() bool { return !k.Unknown && !k.KeyNum && k.Keyword == "" }

// lastKey is the index of the last key, negative if it counts from the end.
func (k KeySpec) lastKey() int {
	if k.Last < 0 {
		return k.Last
	}
	return k.Begin + k.Last
}

func (c *Ctx) keyFlags(f KeyFlag) {
	mark, n := c.Defer(), 0
	for i, name := range keyFlagNames {
		if f&(1<<i) != 0 {
			c.Simple(name)
			n++
		}
	}
	c.CloseSet(mark, n)
}

func (c *Ctx) keySpec(k KeySpec) {
	if k.Notes != "" {
		c.Map(4)
		c.BulkStr("notes")
		c.BulkStr(k.Notes)
	} else {
		c.Map(3)
	}
	c.BulkStr("flags")
	c.keyFlags(k.Flags)
	c.BulkStr("begin_search")
	switch {
	case k.Unknown:
		c.specPart("unknown")
	case k.Keyword != "":
		c.specPart("keyword", "keyword", k.Keyword, "startfrom", k.StartFrom)
	default:
		c.specPart("index", "index", k.Begin)
	}
	c.BulkStr("find_keys")
	switch {
	case k.Unknown:
		c.specPart("unknown")
	case k.KeyNum:
		c.specPart("keynum", "keynumidx", k.KeyNumIdx, "firstkey", k.FirstKey, "keystep", max(k.Step, 1))
	default:
		c.specPart("range", "lastkey", k.Last, "keystep", max(k.Step, 1), "limit", k.Limit)
	}
}

// specPart replies one half of a key specification; fields are names and
// values, which are strings or ints.
func (c *Ctx) specPart(typ string, fields ...any) {
	c.Map(2)
	c.BulkStr("type")
	c.BulkStr(typ)
	c.BulkStr("spec")
	c.Map(len(fields) / 2)
	for _, f := range fields {
		switch v := f.(type) {
		case string:
			c.BulkStr(v)
		case int:
			c.Int(int64(v))
		}
	}
}

// --- DOCS ---

// docsFile has what COMMAND DOCS tells, by full name of the command.
//
//go:embed docs.json
var docsFile []byte

// doc describes a command.
type doc struct {
	Summary         string      `json:"summary"`
	Since           string      `json:"since"`
	Group           string      `json:"group"`
	Complexity      string      `json:"complexity"`
	Flags           []string    `json:"doc_flags"`
	DeprecatedSince string      `json:"deprecated_since"`
	ReplacedBy      string      `json:"replaced_by"`
	History         [][2]string `json:"history"` // version and change
	Arguments       []docArg    `json:"arguments"`
}

// docArg describes an argument.
type docArg struct {
	Name            string   `json:"name"`
	Type            string   `json:"type"`
	KeySpecIndex    *int     `json:"key_spec_index"`
	Token           *string  `json:"token"`
	Since           string   `json:"since"`
	DeprecatedSince string   `json:"deprecated_since"`
	Flags           []string `json:"flags"`
	Arguments       []docArg `json:"arguments"`
}

// docs parses the file, once somebody asks.
var docs = sync.OnceValue(func() map[string]doc {
	var all map[string]doc
	if err := json.Unmarshal(docsFile, &all); err != nil {
		invariant.Violated("docs.json: %v", err)
	}
	return all
})

// commandDoc replies the description of a command.
func (c *Ctx) commandDoc(s *Spec, all map[string]doc) {
	d := all[s.Full]
	mark := c.Defer()
	c.pair("summary", d.Summary)
	c.pair("since", d.Since)
	c.pair("group", d.Group)
	n := 3
	n += c.pairIf("complexity", d.Complexity)
	n += c.docFlags("doc_flags", d.Flags)
	n += c.pairIf("deprecated_since", d.DeprecatedSince)
	n += c.pairIf("replaced_by", d.ReplacedBy)
	if len(d.History) > 0 {
		c.BulkStr("history")
		c.Set(len(d.History))
		for _, h := range d.History {
			c.Array(2)
			c.BulkStr(h[0])
			c.BulkStr(h[1])
		}
		n++
	}
	n += c.docArgs(d.Arguments)
	if len(s.Sub) > 0 {
		c.BulkStr("subcommands")
		c.Map(len(s.Sub))
		for _, sub := range s.Sub {
			c.BulkStr(sub.Full)
			c.commandDoc(sub, all)
		}
		n++
	}
	c.CloseMap(mark, n)
}

func (c *Ctx) pair(name, value string) {
	c.BulkStr(name)
	c.BulkStr(value)
}

// pairIf replies the pair if there is a value, and returns how many it replied.
func (c *Ctx) pairIf(name, value string) int {
	if value == "" {
		return 0
	}
	c.pair(name, value)
	return 1
}

func (c *Ctx) docFlags(name string, flags []string) int {
	if len(flags) == 0 {
		return 0
	}
	c.BulkStr(name)
	c.Set(len(flags))
	for _, f := range flags {
		c.Simple(f)
	}
	return 1
}

func (c *Ctx) docArgs(args []docArg) int {
	if len(args) == 0 {
		return 0
	}
	c.BulkStr("arguments")
	c.Array(len(args))
	for i := range args {
		a := &args[i]
		mark := c.Defer()
		c.pair("name", a.Name)
		c.pair("type", a.Type)
		n := 2
		if a.KeySpecIndex != nil {
			c.BulkStr("key_spec_index")
			c.Int(int64(*a.KeySpecIndex))
			n++
		}
		if a.Token != nil {
			c.pair("token", *a.Token)
			n++
		}
		n += c.pairIf("since", a.Since)
		n += c.pairIf("deprecated_since", a.DeprecatedSince)
		n += c.docFlags("flags", a.Flags)
		n += c.docArgs(a.Arguments)
		c.CloseMap(mark, n)
	}
	return 1
}
