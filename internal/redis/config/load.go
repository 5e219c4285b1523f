package config

import (
	"fmt"
	"path/filepath"
	"strings"
)

// LoadError is a configuration that cannot be accepted. Its text is what Redis
// prints; Redis sets an empty line before it and exits with 1.
type LoadError struct {
	Line    int    // from 1; 0 if the error belongs to no line
	Text    string // the line
	Message string
}

func (e *LoadError) Error() string {
	s := "*** FATAL CONFIG FILE ERROR (Redis " + Version + ") ***\n"
	if e.Line > 0 {
		s += fmt.Sprintf("Reading the configuration file, at line %d\n>>> '%s'\n", e.Line, e.Text)
	}
	return s + e.Message + "\n"
}

// OpenError is a configuration file that cannot be read. Redis logs its text
// as a warning and exits with 1.
type OpenError struct {
	Path string
	Err  error
}

func (e *OpenError) Error() string {
	return fmt.Sprintf("Fatal error, can't open config file '%s': %s", e.Path, strerror(e.Err))
}

func (e *OpenError) Unwrap() error { return e.Err }

const (
	// maxIncludes bounds the files of one load: a file that includes itself
	// must not read for ever.
	maxIncludes     = 1000
	maxIncludeDepth = 64
)

// obsolete directives are accepted with one argument and mean nothing.
var obsolete = map[string]bool{
	"list-max-ziplist-entries": true, "list-max-ziplist-value": true, "lua-replicate-commands": true,
}

// LoadFile reads the configuration file at path and remembers it as File. After
// an error the values are partly those of the file; the caller gives up then.
func (c *Config) LoadFile(path string) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return &OpenError{Path: path, Err: err}
	}
	c.File = abs
	text, err := c.readConfig(abs)
	if err != nil {
		return err
	}
	return c.LoadString(text, abs)
}

// LoadString reads a configuration from text. Several loads into one Config
// add up, like several parts of one file. name says where the text is from; the
// error text of Redis does not mention it.
func (c *Config) LoadString(text, name string) error {
	_ = name
	c.includes = 0
	defer func() { c.loading = false }()
	return c.load(text, 0)
}

// LoadArgs reads the command line of redis-server without the program's name:
//
//	[file] [-] [--directive value ...]...
//
// A first argument that does not begin with '-' is the configuration file; "-"
// as first or last argument reads further lines from standard input; the rest
// is appended to both as lines, so that the last mention of a directive wins.
// --sentinel anywhere enters Sentinel mode.
func (c *Config) LoadArgs(args []string) error {
	for _, a := range args {
		if a == "--sentinel" && !c.SentinelMode {
			c.EnterSentinelMode()
		}
	}
	if len(args) == 0 {
		return nil
	}
	var text strings.Builder
	rest := args
	if !strings.HasPrefix(args[0], "-") && args[0] != "" {
		abs, err := filepath.Abs(args[0])
		if err != nil {
			return &OpenError{Path: args[0], Err: err}
		}
		c.File = abs
		file, err := c.readConfig(abs)
		if err != nil {
			return err
		}
		text.WriteString(file)
		rest = args[1:]
	}
	lines, fromStdin := argLines(rest, len(rest) == len(args))
	if fromStdin {
		more, err := c.files.stdin()
		if err != nil {
			return &OpenError{Path: "-", Err: err}
		}
		c.StdinText = more
		text.Write(more)
	}
	text.WriteByte('\n')
	text.WriteString(lines)
	return c.LoadString(text.String(), c.File)
}

// argLines turns command line options into lines of a configuration. first
// says that args[0] is the first argument of the command line.
func argLines(args []string, first bool) (lines string, fromStdin bool) {
	var b strings.Builder
	// An option begins only once the option before it has a value, so that a
	// value may begin with dashes.
	optionMayBegin := true
	for i, a := range args {
		last := i == len(args)-1
		switch {
		case a == "-" && (i == 0 && first || last):
			fromStdin = true
		case optionMayBegin && strings.HasPrefix(a, "--"):
			if b.Len() > 0 {
				b.WriteByte('\n')
			}
			b.WriteString(a[2:] + " ")
			parts, err := SplitArgs(a)
			if err != nil || len(parts) != 1 {
				continue // name and value in one argument
			}
			optionMayBegin = false
			// These two may stand without a value.
			optionNext := !last && strings.HasPrefix(args[i+1], "--")
			switch {
			case strings.EqualFold(a, "--save") && (last || optionNext):
				b.WriteString(`""`)
				optionMayBegin = true
			case strings.EqualFold(a, "--sentinel") && (last || optionNext):
				optionMayBegin = true
			}
		default:
			b.Write(AppendRepr(nil, a))
			b.WriteByte(' ')
			optionMayBegin = true
		}
	}
	return b.String(), fromStdin
}

// readConfig reads the file, or all files that a pattern matches, one after the
// other. A pattern may match none.
func (c *Config) readConfig(path string) (string, error) {
	names := []string{path}
	if strings.ContainsAny(path, "*?[") {
		names = c.files.glob(c.path(path))
	}
	var text strings.Builder
	for _, name := range names {
		data, err := c.files.readFile(c.path(name))
		if err != nil {
			return "", &OpenError{Path: name, Err: err}
		}
		text.Write(data)
	}
	return text.String(), nil
}

// load applies the lines of text, then checks the whole.
func (c *Config) load(text string, depth int) error {
	c.loading = true
	for i, line := range strings.Split(text, "\n") {
		line = strings.Trim(line, " \t\r\n")
		if line == "" || line[0] == '#' {
			continue
		}
		err := c.loadLine(line, i+1, depth)
		if message, ok := err.(valueError); ok {
			return &LoadError{Line: i + 1, Text: line, Message: string(message)}
		}
		if err != nil {
			return err
		}
	}
	if err := c.checkWhole(); err != nil {
		return err
	}
	if depth == 0 {
		// Level and members may stand in different files.
		if err := c.checkArray(); err != nil {
			return &LoadError{Message: err.Error()}
		}
	}
	// Also after an included file: save lines that follow it replace each
	// other, as they do in Redis.
	c.loading = false
	return nil
}

// checkWhole judges what no single line shows, and brings hz into its range.
func (c *Config) checkWhole() error {
	if c.LogFile != "" {
		if err := c.files.tryLogFile(c.path(c.LogFile)); err != nil {
			return &LoadError{Message: "Can't open the log file: " + strerror(err)}
		}
	}
	if c.ClusterEnabled && !c.ReplicaOf.IsZero() {
		return &LoadError{Message: "replicaof directive not allowed in cluster mode"}
	}
	c.intoRange("hz")
	return nil
}

// loadLine applies one line. A valueError becomes a LoadError of that line.
func (c *Config) loadLine(line string, number, depth int) error {
	args, err := SplitArgs(line)
	if err != nil {
		return valueError(err.Error())
	}
	if len(args) == 0 {
		return nil
	}
	args[0] = strings.ToLower(args[0])
	if p := c.byName[args[0]]; p != nil {
		return p.load(args[1:])
	}
	if obsolete[args[0]] && len(args) == 2 {
		return nil
	}
	return c.loadDirective(args, line, number, depth)
}

// load sets the parameter from the arguments of a line.
func (p *Param) load(args []string) error {
	if !p.Is(MultiArg) && len(args) != 1 {
		return errArgCount
	}
	// A list may also be one quoted argument, as CONFIG GET prints it.
	if p.Is(MultiArg) && len(args) == 1 && args[0] != "" {
		split, err := SplitArgs(args[0])
		if err != nil {
			split = nil
		}
		args = split
	}
	_, err := p.set(args)
	return err
}

// loadDirective applies a line that is no CONFIG parameter.
func (c *Config) loadDirective(args []string, line string, number, depth int) error {
	switch {
	case args[0] == "include" && len(args) == 2:
		return c.include(args[1], depth)
	case args[0] == "rename-command" && len(args) == 3:
		return c.renameCommand(args[1], args[2])
	case args[0] == "user" && len(args) >= 2:
		return c.addUser(args[1:])
	case args[0] == "loadmodule" && len(args) >= 2:
		c.LoadModules = append(c.LoadModules, args[1:])
	case strings.Contains(args[0], "."):
		if len(args) < 2 {
			return valueError("Module config specified without value")
		}
		c.ModuleDirectives = append(c.ModuleDirectives, args)
	case args[0] == "sentinel":
		if len(args) == 1 {
			return nil // the mode was entered before the lines were read
		}
		if !c.SentinelMode {
			return valueError("sentinel directive while not in sentinel mode")
		}
		c.SentinelLines = append(c.SentinelLines, SentinelLine{Args: args[1:], Line: number, Text: line})
	default:
		return valueError("Bad directive or wrong number of arguments")
	}
	return nil
}

func (c *Config) include(path string, depth int) error {
	c.includes++
	if c.includes > maxIncludes || depth >= maxIncludeDepth {
		return valueError("Too many included files; does one include itself?")
	}
	text, err := c.readConfig(path)
	if err != nil {
		return err
	}
	return c.load(text, depth+1)
}

func (c *Config) renameCommand(from, to string) error {
	if c.HasCommand != nil && !c.commandStands(from) {
		return valueError("No such command in rename-command")
	}
	if to != "" && c.HasCommand != nil && !strings.EqualFold(from, to) && c.commandStands(to) {
		return valueError("Target command name already exists")
	}
	c.RenamedCommands = append(c.RenamedCommands, RenamedCommand{Old: from, New: to})
	return nil
}

// commandStands reports whether a command answers to name after the renames so
// far.
func (c *Config) commandStands(name string) bool {
	stands := c.HasCommand(strings.ToLower(name))
	for _, r := range c.RenamedCommands {
		if strings.EqualFold(r.Old, name) {
			stands = false
		}
		if strings.EqualFold(r.New, name) {
			stands = true
		}
	}
	return stands
}

func (c *Config) addUser(args []string) error {
	for _, u := range c.UserLines {
		if u[0] == args[0] {
			return valueError(fmt.Sprintf("Error in user declaration '%s': %s", args[0],
				"Duplicate user found. A user can only be defined once in config files"))
		}
	}
	if c.CheckUser != nil {
		if err := c.CheckUser(args); err != nil {
			return valueError(fmt.Sprintf("Error in user declaration '%s': %s", args[0], err))
		}
	}
	c.UserLines = append(c.UserLines, args)
	return nil
}
