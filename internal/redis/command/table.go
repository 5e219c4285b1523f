// Package command decides: it is the Redis command layer. It holds the command
// table, the dispatch checklist, and the handlers of every data family; it
// turns one parsed request of one client into changes of the keyspace, a reply
// in the client's buffer, and the bytes that the journal and the replicas are
// to get. It names no socket, no file and no clock.
//
// A shell drives it so:
//
//	e.Lock(); e.BeginBatch(now)
//	for each request { e.Dispatch(client, args) }
//	e.EndBatch(); e.Unlock()
//
// and then hands on what Engine.Stream has collected, and each client's reply.
//
// Reading order: table.go (what a command is), client.go, ctx.go (what a
// handler sees), dispatch.go (the checklist), propagate.go, then the families,
// one file each, which open with their rows of the table.
package command

import (
	"fmt"
	"sort"
	"strings"
)

// Flag is a property of a command; the names are those of COMMAND INFO.
type Flag uint32

// Command flags, in the order in which COMMAND INFO lists them.
const (
	Write Flag = 1 << iota
	ReadOnly
	DenyOOM
	Module
	Admin
	PubSub
	NoScript
	Random_ // unused since 7.0; keeps the order of the original
	Blocking
	Loading
	Stale
	SkipMonitor
	SkipSlowlog
	Asking
	Fast
	NoAuth
	MayReplicate
	NoMandatoryKeys
	Protected
	NoAsyncLoading
	NoMulti
	AllowBusy
	MovableKeys
)

// flagNames are the flags as COMMAND INFO shows them; MayReplicate and Protected it keeps to itself.
var flagNames = []struct {
	f    Flag
	name string
}{
	{Write, "write"}, {ReadOnly, "readonly"}, {DenyOOM, "denyoom"}, {Module, "module"}, {Admin, "admin"},
	{PubSub, "pubsub"}, {NoScript, "noscript"}, {Blocking, "blocking"}, {Loading, "loading"}, {Stale, "stale"},
	{SkipMonitor, "skip_monitor"}, {SkipSlowlog, "skip_slowlog"}, {Asking, "asking"}, {Fast, "fast"},
	{NoAuth, "no_auth"}, {NoMandatoryKeys, "no_mandatory_keys"},
	{NoAsyncLoading, "no_async_loading"}, {NoMulti, "no_multi"}, {MovableKeys, "movablekeys"}, {AllowBusy, "allow_busy"},
}

// Cat is a set of ACL categories.
type Cat uint32

// ACL categories in the order of ACL CAT.
const (
	CatKeyspace Cat = 1 << iota
	CatRead
	CatWrite
	CatSet
	CatSortedSet
	CatList
	CatHash
	CatString
	CatBitmap
	CatHyperLogLog
	CatGeo
	CatStream
	CatPubSub
	CatAdmin
	CatFast
	CatSlow
	CatBlocking
	CatDangerous
	CatConnection
	CatTransaction
	CatScripting
)

var catNames = []string{"keyspace", "read", "write", "set", "sortedset", "list", "hash", "string", "bitmap", "hyperloglog",
	"geo", "stream", "pubsub", "admin", "fast", "slow", "blocking", "dangerous", "connection", "transaction", "scripting"}

// KeyFlag says what a command does with a key (COMMAND INFO, key specifications).
type KeyFlag uint16

// Key flags.
const (
	KeyRO KeyFlag = 1 << iota
	KeyRW
	KeyOW
	KeyRM
	KeyAccess
	KeyUpdate
	KeyInsert
	KeyDelete
	KeyNotKey
	KeyIncomplete
	KeyVariable
)

var keyFlagNames = []string{"RO", "RW", "OW", "RM", "access", "update", "insert", "delete", "not_key", "incomplete", "variable_flags"}

// KeySpec tells where keys stand among the arguments.
type KeySpec struct {
	Flags KeyFlag
	// Begin: the index of the first key, or, with Keyword, the word to search
	// from StartFrom (negative: backwards from the end).
	Begin     int
	Keyword   string
	StartFrom int
	Unknown   bool // begin_search and find_keys are unknown: GetKeys decides
	// Range: Last is relative to the first key (negative: from the end), every
	// Step-th, Limit as in the original. KeyNum: the number of keys stands at
	// KeyNumIdx, keys from FirstKey, both relative to the begin.
	KeyNum    bool
	Last      int
	Step      int
	Limit     int
	KeyNumIdx int
	FirstKey  int
	Notes     string
}

// Key builds the specification of a range of keys: first, last (absolute, or
// negative from the end) and step, as COMMAND INFO's three numbers.
func Key(flags KeyFlag, first, last, step int) KeySpec {
	if last >= 0 {
		last -= first
	}
	return KeySpec{Flags: flags, Begin: first, Last: last, Step: step}
}

// KeyNum builds the specification "numkeys at begin, keys behind it".
func KeyNum(flags KeyFlag, begin int) KeySpec {
	return KeySpec{Flags: flags, Begin: begin, KeyNum: true, KeyNumIdx: 0, FirstKey: 1, Step: 1}
}

// KeyRef is a key found in a request: its index among the arguments and what
// is done with it.
type KeyRef struct {
	Pos   int
	Flags KeyFlag
}

// Handler executes a command whose arity has been checked.
type Handler func(c *Ctx)

// Spec is one row of the command table.
type Spec struct {
	Name  string // lower case; a subcommand's own word
	Arity int    // number of words, the name included; negative: at least
	Flags Flag
	Cat   Cat // explicit categories; read, write, fast ... follow from Flags
	Keys  []KeySpec
	Run   Handler
	// GetKeys overrides Keys where no specification can tell (SORT, MIGRATE).
	GetKeys func(args [][]byte) []KeyRef
	Tips    []string
	Sub     []*Spec

	// Set by NewTable.
	Full   string // "config|get" for a subcommand, else Name
	Parent *Spec
	stats  *Stats
	sub    map[string]*Spec
	id     int
	routed bool // cluster mode looks for keys in it
	oneKey int  // position of its only key, 0 if that is not fixed
}

// Stats of one command, for INFO commandstats and latencystats.
type Stats struct {
	Calls, Usec, Rejected, Failed int64
	Hist                          *Histogram
}

// addLatency adds a call of so many nanoseconds to the histogram.
func (s *Stats) addLatency(ns int64) {
	if s.Hist == nil {
		s.Hist = new(Histogram)
	}
	s.Hist.Add(ns)
}

// Stats returns the counters of the command.
func (s *Spec) Stats() *Stats { return s.stats }

// Is reports whether all flags of f are set.
func (s *Spec) Is(f Flag) bool { return s.Flags&f == f }

// Group returns the family in the sense of COMMAND DOCS; see docs.go.

// Table is the set of all commands of a role.
type Table struct {
	byName map[string]*Spec
	All    []*Spec // top level, sorted by name
	count  int
}

// NewTable merges families into a table. It panics on a duplicate name, a
// missing handler or key positions beyond the arity: the table is code.
func NewTable(families ...[]Spec) *Table {
	t := &Table{byName: make(map[string]*Spec)}
	for _, family := range families {
		for i := range family {
			s := new(Spec)
			*s = family[i]
			t.add(s)
		}
	}
	sort.Slice(t.All, func(i, j int) bool { return t.All[i].Name < t.All[j].Name })
	return t
}

func (t *Table) add(s *Spec) {
	if t.byName[s.Name] != nil || s.Name != strings.ToLower(s.Name) {
		panic("command table: duplicate or bad name " + s.Name)
	}
	t.prepare(s, nil)
	t.byName[s.Name] = s
	t.All = append(t.All, s)
}

func (t *Table) prepare(s, parent *Spec) {
	s.Parent, s.Full = parent, s.Name
	if parent != nil {
		s.Full = parent.Name + "|" + s.Name
	}
	if (s.Run == nil && s.Sub == nil) || s.Arity == 0 {
		panic("command table: no handler or arity for " + s.Full)
	}
	s.Cat |= impliedCats(s)
	s.stats = &Stats{}
	s.id = t.count
	s.routed, s.oneKey = s.routes(), s.singleKey()
	t.count++
	for _, k := range s.Keys {
		if k.Begin >= abs(s.Arity) && !s.Is(NoMandatoryKeys) && k.Keyword == "" && !k.Unknown && k.Flags&KeyIncomplete == 0 && !k.optional(s) {
			panic(fmt.Sprintf("command table: %s: key at %d beyond arity %d", s.Full, k.Begin, s.Arity))
		}
	}
	if s.Sub != nil {
		s.sub = make(map[string]*Spec, len(s.Sub))
		for _, c := range s.Sub {
			if s.sub[c.Name] != nil {
				panic("command table: duplicate " + s.Name + "|" + c.Name)
			}
			s.sub[c.Name] = c
			t.prepare(c, s)
		}
	}
}

// optional: a key position that a short request may lack.
func (k KeySpec) optional(s *Spec) bool {
	return s.Arity < 0 && (k.KeyNum || k.Flags&KeyNotKey != 0)
}

func impliedCats(s *Spec) Cat {
	var c Cat
	if s.Is(Write) {
		c |= CatWrite
	}
	if s.Is(ReadOnly) && s.Cat&CatScripting == 0 {
		c |= CatRead
	}
	if s.Is(Admin) {
		c |= CatAdmin | CatDangerous
	}
	if s.Is(PubSub) {
		c |= CatPubSub
	}
	if s.Is(Fast) {
		c |= CatFast
	} else {
		c |= CatSlow
	}
	if s.Is(Blocking) {
		c |= CatBlocking
	}
	return c
}

// Lookup finds a command by its name in any case, nil when there is none. It
// does not allocate.
func (t *Table) Lookup(name []byte) *Spec {
	var buf [32]byte
	if len(name) > len(buf) {
		return nil
	}
	return t.byName[string(lower(buf[:len(name)], name))]
}

// LookupSub finds the subcommand of s, nil when there is none.
func (s *Spec) LookupSub(name []byte) *Spec {
	var buf [32]byte
	if len(name) > len(buf) {
		return nil
	}
	return s.sub[string(lower(buf[:len(name)], name))]
}

// LookupFull finds "get" or "config|get" in any case.
func (t *Table) LookupFull(name string) *Spec {
	cmd, sub, has := strings.Cut(strings.ToLower(name), "|")
	s := t.byName[cmd]
	if s == nil || !has {
		return s
	}
	return s.sub[sub]
}

// Rename gives the command from the name to, or removes it when to is empty:
// the rename-command directive. false: there is no such command, or to is the
// name of another one, which the configuration has checked already.
func (t *Table) Rename(from, to string) bool {
	from, to = strings.ToLower(from), strings.ToLower(to)
	s := t.byName[from]
	if s == nil || (to != "" && t.byName[to] != nil && to != from) {
		return false
	}
	delete(t.byName, from)
	if to != "" {
		t.byName[to] = s
	}
	return true
}

func lower(dst, src []byte) []byte {
	for i, c := range src {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		dst[i] = c
	}
	return dst
}

func abs(n int) int {
	if n < 0 {
		return -n
	}
	return n
}

// AppendKeys appends the keys of a request, found by its specifications. ok is
// false when the arguments do not fit them (a bad numkeys).
func (s *Spec) AppendKeys(dst []KeyRef, args [][]byte) (refs []KeyRef, ok bool) {
	if s.GetKeys != nil {
		refs := s.GetKeys(args)
		return append(dst, refs...), refs != nil
	}
	return s.appendSpecified(dst, args)
}

// appendSpecified appends the keys that the specifications tell.
func (s *Spec) appendSpecified(dst []KeyRef, args [][]byte) (refs []KeyRef, ok bool) {
	for _, k := range s.Keys {
		var fits bool
		dst, fits = k.appendKeys(dst, args)
		if !fits {
			return dst, false
		}
	}
	return dst, true
}

func (k KeySpec) appendKeys(dst []KeyRef, args [][]byte) ([]KeyRef, bool) {
	first := k.Begin
	if k.Keyword != "" {
		first = findKeyword(args, k.Keyword, k.StartFrom)
		if first < 0 {
			return dst, true
		}
	}
	if first >= len(args) {
		return dst, true
	}
	last, step := 0, max(k.Step, 1)
	if k.KeyNum {
		at := first + k.KeyNumIdx
		if at >= len(args) {
			return dst, false
		}
		n, ok := parseInt(args[at])
		first += k.FirstKey
		if !ok || n < 1 || n > int64(len(args)) || first+(int(n)-1)*step >= len(args) {
			return dst, false
		}
		last = first + (int(n)-1)*step
	} else {
		last = first + k.Last
		if k.Last < 0 {
			last = len(args) + k.Last
			if k.Limit > 1 {
				last = first + (len(args)-first)/k.Limit + k.Last
			}
		}
	}
	for i := first; i <= last && i < len(args); i += step {
		dst = append(dst, KeyRef{i, k.Flags})
	}
	return dst, true
}

func findKeyword(args [][]byte, word string, from int) int {
	if from < 0 {
		for i := len(args) + from; i > 0; i-- {
			if EqualFold(args[i], word) && i+1 < len(args) {
				return i + 1
			}
		}
		return -1
	}
	for i := from; i < len(args); i++ {
		if EqualFold(args[i], word) && i+1 < len(args) {
			return i + 1
		}
	}
	return -1
}

// EqualFold compares an argument with a lower- or upper-case ASCII word.
func EqualFold(b []byte, word string) bool {
	if len(b) != len(word) {
		return false
	}
	for i := range b {
		x, y := b[i], word[i]
		if x >= 'A' && x <= 'Z' {
			x |= 0x20
		}
		if y >= 'A' && y <= 'Z' {
			y |= 0x20
		}
		if x != y {
			return false
		}
	}
	return true
}
