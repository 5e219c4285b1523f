// Package config encodes the configuration: it reads redis.conf and the
// command line of redis-server, answers CONFIG GET and CONFIG SET, and produces
// the text of CONFIG REWRITE. It decides nothing about the server: values lie in
// typed fields, and whoever must act on a change registers a hook.
//
//	c := config.Default()
//	if err := c.LoadArgs(os.Args[1:]); err != nil { ... }
//	c.OnApply("maxmemory", func(old, new string) error { ... })
//	changed, err := c.Set([]config.KV{{Name: "maxmemory", Value: "1gb"}})
//
// Everything derives from one table, options.go: a row per directive with its
// names, type, range, mutability, default, consequence, and whether it has an
// effect here. Names, texts and formats are those of Redis 7.0.15.
//
// A line of a configuration file is
//
//	directive SP argument (SP argument)*     arguments quoted as SplitArgs says
//	# comment                                only at the beginning of a line
//
// The format's downsides: a later line silently wins over an earlier one, save
// and user accumulate instead, and nothing says where a value came from.
package config

import (
	"strings"

	"holdfast/internal/invariant"
)

// Version is the release of Redis whose behaviour is kept.
const Version = "7.0.15"

// Config holds the value of every directive. The zero value is not usable:
// begin with Default. A Config must not be copied. It does no locking: the
// caller orders Set against readers of the fields.
type Config struct {
	// File is the absolute path of the configuration file, or "".
	File string
	// SentinelMode is set by EnterSentinelMode, or by --sentinel.
	SentinelMode bool

	Options

	// Directives of the file that are no CONFIG parameters.

	// RenamedCommands are the rename-command lines in order; New is "" for a
	// command that is taken away.
	RenamedCommands []RenamedCommand
	// UserLines are the user lines in order: name, then ACL rules.
	UserLines [][]string
	// LoadModules are the loadmodule lines: path, then arguments.
	LoadModules [][]string
	// ModuleDirectives are lines of the form module.parameter value.
	ModuleDirectives [][]string
	// SentinelLines are the sentinel lines, for the Sentinel to interpret.
	SentinelLines []SentinelLine

	// CheckUser, if set, judges the rules of a user line while it is loaded;
	// the error's text becomes part of the message. args is name, then rules.
	CheckUser func(args []string) error
	// StdinText is what LoadArgs has read from standard input.
	StdinText []byte
	// HasCommand, if set, says whether a command of that (lower-case) name
	// exists; rename-command is checked against it.
	HasCommand func(name string) bool
	// DescribeUsers, if set, gives the ACL users that CONFIG REWRITE writes,
	// in order, each as "name rules"; else the loaded ones are kept.
	DescribeUsers func() []string
	// RewriteSentinel, if set, emits the state of a Sentinel into a rewrite.
	RewriteSentinel func(line func(option, text string), processed func(option string))

	files fileSystem

	params  []*Param          // the table, aliases after their parameter
	byName  map[string]*Param // lower-case name or alias
	applied map[string][]func(old, new string) error

	// loading is set while a file is read: save lines then accumulate.
	// saveSeen says that the default save points are gone.
	loading, saveSeen bool
	includes          int // files read by the current load
}

// Options are the values of all parameters. Slices in it are replaced, never
// changed, so that a copy is a snapshot.
type Options struct {
	NetworkOptions
	TLSOptions
	GeneralOptions
	SecurityOptions
	MemoryOptions
	PersistenceOptions
	ReplicationOptions
	ClusterOptions
	EncodingOptions
	OwnOptions
}

// RenamedCommand is one rename-command line.
type RenamedCommand struct{ Old, New string }

// SentinelLine is one sentinel line: its arguments without the word itself, and
// where it stood, for error messages.
type SentinelLine struct {
	Args []string
	Line int
	Text string
}

// KV is a parameter's name and value.
type KV struct{ Name, Value string }

// Default returns the configuration of a server that is started without any:
// that of Redis 7.0, with appendonly yes.
func Default() *Config {
	c := &Config{files: osFiles{}, applied: map[string][]func(old, new string) error{}}
	rows := c.table()
	c.byName = make(map[string]*Param, len(rows)*2)
	for _, p := range rows {
		c.add(p)
		if p.Alias != "" {
			second := *p
			second.Name, second.Alias = p.Alias, p.Name
			second.Flags |= IsAlias
			c.add(&second)
		}
	}
	c.Dir = c.files.workingDir()
	return c
}

func (c *Config) add(p *Param) {
	_, twice := c.byName[p.Name]
	invariant.Check(!twice, "directive %q stands twice in the option table", p.Name)
	c.byName[p.Name] = p
	c.params = append(c.params, p)
}

// EnterSentinelMode sets what differs by default in a Sentinel. It comes before
// any Load.
func (c *Config) EnterSentinelMode() {
	c.SentinelMode = true
	c.Port = 26379
	c.ProtectedMode = false
}

// Params returns the option table in the order of the reference page, aliases
// included. The caller must not change it.
func (c *Config) Params() []*Param { return c.params }

// Lookup finds a parameter by name or alias, without case; nil if unknown.
func (c *Config) Lookup(name string) *Param { return c.byName[strings.ToLower(name)] }

// OnApply registers fn to act on a change of the parameter by Set: it is called
// after all values of one Set are stored, with the values as CONFIG GET prints
// them. An error vetoes the whole Set; its text is shown to the client. fn is
// then called again with old and new exchanged if it had succeeded. The name
// must be in the table.
func (c *Config) OnApply(name string, fn func(old, new string) error) {
	p := c.Lookup(name)
	invariant.Check(p != nil, "OnApply for unknown parameter %q", name)
	name = p.primary()
	c.applied[name] = append(c.applied[name], fn)
}

// primary is the parameter's first name, also for an alias.
func (p *Param) primary() string {
	if p.Is(IsAlias) {
		return p.Alias
	}
	return p.Name
}
