package config

import (
	"fmt"
	"sort"
	"strings"

	"holdfast/internal/redis/glob"
)

// SetError is the refusal of a CONFIG SET. Error is the reply without its code.
type SetError struct {
	Code    string // "ERR" or "LOADING"
	Text    string
	Applied string // the parameter whose new value could not be put into force, if that is it
}

func (e *SetError) Error() string { return e.Text }

func setErrorf(format string, args ...any) *SetError {
	text := strings.NewReplacer("\r", " ", "\n", " ").Replace(fmt.Sprintf(format, args...))
	return &SetError{Code: "ERR", Text: text}
}

func failedAt(name, reason string) *SetError {
	if reason == "" {
		return setErrorf("CONFIG SET failed (possibly related to argument '%s')", cString(name))
	}
	return setErrorf("CONFIG SET failed (possibly related to argument '%s') - %s", cString(name), reason)
}

// Circumstances are what CONFIG SET depends on beside its arguments.
type Circumstances struct {
	Local   bool // the client is connected over loopback or the unix socket
	Loading bool // the data set is being loaded
}

// Set changes parameters as CONFIG SET of a remote client does: all of them or
// none. It returns the parameters whose value is another one now.
func (c *Config) Set(pairs []KV) (changed []*Param, err error) {
	return c.SetIn(Circumstances{}, pairs)
}

// SetIn is Set in the given circumstances. The error is a *SetError; then all
// values are as before, and hooks that had run were run again the other way.
func (c *Config) SetIn(now Circumstances, pairs []KV) (changed []*Param, err error) {
	params, refusal := c.choose(now, pairs)
	if refusal != nil {
		return nil, refusal
	}
	before := c.Options
	old := make([]string, len(params))
	for i, p := range params {
		old[i] = p.get()
	}
	var was []string // the old value of each changed parameter
	for i, p := range params {
		if p.Is(Immutable) {
			continue // set to what it is
		}
		changes, err := p.set(p.split(pairs[i].Value))
		if err != nil {
			c.Options = before
			return nil, failedAt(p.Name, err.Error())
		}
		if changes {
			changed = append(changed, p)
			was = append(was, old[i])
		}
	}
	if refusal := c.apply(changed, was, before); refusal != nil {
		return nil, refusal
	}
	return changed, nil
}

// choose finds the parameters. The first complaint is the one reported, and
// the checks of one parameter stand in Redis's order.
func (c *Config) choose(now Circumstances, pairs []KV) ([]*Param, *SetError) {
	params := make([]*Param, 0, len(pairs))
	var refusal *SetError
	for _, kv := range pairs {
		p := c.Lookup(kv.Name)
		switch {
		case p == nil:
			return nil, setErrorf("Unknown option or number of arguments for CONFIG SET - '%s'", cString(kv.Name))
		case p.Is(Immutable|Own) && p.get() == kv.Value:
			// Setting all that CONFIG GET shows to what it is works but for
			// the immutable parameters that Redis has: ours must not be more.
		case p.Is(Immutable):
			refusal = failedAt(kv.Name, "can't set immutable config")
		case p.Is(Protected) && !c.EnableProtectedConfigs.Allows(now.Local):
			refusal = failedAt(kv.Name, "can't set protected config")
		case p.Is(DenyLoading) && now.Loading:
			refusal = &SetError{Code: "LOADING", Text: "Redis is loading the dataset in memory"}
		}
		for _, q := range params {
			if q == p && refusal == nil {
				refusal = failedAt(kv.Name, "duplicate parameter")
			}
		}
		if refusal != nil {
			return nil, refusal
		}
		params = append(params, p)
	}
	return params, nil
}

// split makes arguments of a value given to CONFIG SET: lists are split at
// every single space, so that two in a row enclose an empty argument.
func (p *Param) split(value string) []string {
	switch {
	case !p.Is(MultiArg):
		return []string{value}
	case value == "":
		return nil
	}
	return strings.Split(value, " ")
}

// apply runs the hooks of the changed parameters in order, each once.
func (c *Config) apply(changed []*Param, was []string, before Options) *SetError {
	type call struct {
		hook     func(old, new string) error
		old, new string
	}
	var done []call
	seen := map[string]bool{}
	for i, p := range changed {
		c.intoRange(p.primary())
		if seen[p.primary()] {
			continue // named by both of its names
		}
		seen[p.primary()] = true
		for _, hook := range c.applied[p.primary()] {
			now := p.get()
			if err := hook(was[i], now); err != nil {
				c.Options = before
				for j := len(done) - 1; j >= 0; j-- {
					// The old value was in force a moment ago. If it cannot be
					// restored, the first error is still the one to report.
					_ = done[j].hook(done[j].new, done[j].old)
				}
				refusal := failedAt(p.Name, err.Error())
				refusal.Applied = p.Name
				return refusal
			}
			done = append(done, call{hook, was[i], now})
		}
	}
	return nil
}

// intoRange moves a parameter that is taken as a hint into its range.
func (c *Config) intoRange(name string) {
	switch name {
	case "hz":
		c.HZ = min(max(c.HZ, 1), 500)
	case "repl-backlog-size":
		c.ReplBacklogSize = max(c.ReplBacklogSize, 16<<10)
	}
}

// Get answers CONFIG GET: every parameter that a pattern names, once. A name
// without *, ? and [ is looked up and returned as it was written; patterns
// match without case and leave out hidden parameters.
func (c *Config) Get(patterns ...string) []KV {
	var result []KV
	seen := map[string]bool{}
	add := func(p *Param, shown string) {
		if !seen[p.Name] {
			seen[p.Name] = true
			result = append(result, KV{Name: shown, Value: p.get()})
		}
	}
	for _, pattern := range patterns {
		if !strings.ContainsAny(pattern, "[*?") {
			if p := c.Lookup(pattern); p != nil {
				add(p, pattern)
			}
			continue
		}
		for _, p := range c.params {
			if !p.Is(Hidden) && glob.Match([]byte(pattern), []byte(p.Name), true) {
				add(p, p.Name)
			}
		}
	}
	return result
}

// Sensitive reports whether the value of the named parameter must be kept out
// of logs, SLOWLOG and MONITOR.
func (c *Config) Sensitive(name string) bool {
	p := c.Lookup(name)
	return p != nil && p.Is(Sensitive)
}

// Warnings names each directive that is set away from its default and changes
// nothing here, and why; in alphabetical order.
func Warnings(c *Config) []string {
	var lines []string
	for _, p := range c.params {
		if p.NoEffect != "" && !p.Is(IsAlias) && p.setAway() {
			lines = append(lines, fmt.Sprintf("%s has no effect here: %s", p.Name, p.NoEffect))
		}
	}
	for _, m := range c.LoadModules {
		lines = append(lines, fmt.Sprintf("loadmodule %s has no effect here: modules of Redis are C libraries and cannot be loaded", m[0]))
	}
	sort.Strings(lines)
	return lines
}
