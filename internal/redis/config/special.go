package config

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// This file holds the parameters and checks that fit no common kind.

func saveOrNot(v *ShutdownFlags) func() error {
	return func() error {
		if *v&ShutdownSave != 0 && *v&ShutdownNoSave != 0 {
			return valueError("shutdown options SAVE and NOSAVE can't be used simultaneously")
		}
		return nil
	}
}

// baseName refuses values with a slash or backslash, and empty ones if empty
// is not "".
func baseName(v *string, path, empty string) func() error {
	return func() error {
		if *v == "" && empty != "" {
			return valueError(empty)
		}
		if strings.ContainsAny(*v, `/\`) {
			return valueError(path)
		}
		return nil
	}
}

func hostName(v *string) func() error {
	const limit = 256
	return func() error {
		if len(*v) >= limit {
			return valueError(fmt.Sprintf("Hostnames must be less than %d characters", limit))
		}
		for i := 0; i < len(*v); i++ {
			c := (*v)[i]
			letter := c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
			if !letter && (c < '0' || c > '9') && c != '-' && c != '.' {
				return valueError("Hostnames may only contain alphanumeric characters, hyphens or dots")
			}
		}
		return nil
	}
}

func special(name string, flags Flag, def, values, doc string) *Param {
	return &Param{Name: name, Kind: KindSpecial, Flags: flags, Default: def, Range: values, Doc: doc}
}

var defaultBind = []string{"*", "-::*"}

func (c *Config) bindParam() *Param {
	const maxAddresses = 16
	o := &c.NetworkOptions
	o.Bind = defaultBind
	p := special("bind", MultiArg, strings.Join(defaultBind, " "), "up to 16 addresses",
		"addresses to accept on; one that begins with '-' may be missing; empty accepts on none")
	p.get = func() string { return strings.Join(o.Bind, " ") }
	p.set = func(args []string) (bool, error) {
		if len(args) > maxAddresses {
			return false, valueError("Too many bind addresses specified.")
		}
		if len(args) == 1 && args[0] == "" {
			args = nil
		}
		list := make([]string, len(args))
		for i, a := range args {
			list[i] = cString(a)
		}
		o.Bind = list
		return true, nil
	}
	p.setAway = func() bool { return p.get() != p.Default }
	p.rewrite = func(r *rewriter, name string) {
		switch {
		case !p.setAway():
			r.processed(name)
		case len(o.Bind) == 0:
			r.line(name, name+` ""`, true)
		default:
			r.line(name, joinDirective(name, o.Bind), true)
		}
	}
	return p
}

var outputBufferDefaults = [3]OutputBufferLimit{
	ClientReplica: {Hard: 256 << 20, Soft: 64 << 20, SoftSeconds: 60},
	ClientPubsub:  {Hard: 32 << 20, Soft: 8 << 20, SoftSeconds: 60},
}

func outputBufferClass(name string) (int, bool) {
	switch strings.ToLower(name) {
	case "normal":
		return ClientNormal, true
	case "slave", "replica":
		return ClientReplica, true
	case "pubsub":
		return ClientPubsub, true
	}
	return 0, false
}

func (c *Config) outputBufferParam() *Param {
	o := &c.NetworkOptions
	o.ClientOutputBufferLimits = outputBufferDefaults
	p := special("client-output-buffer-limit", MultiArg, "", "class hard soft soft-seconds, repeated; classes normal, replica, pubsub",
		"output waiting for a client after which it is closed: at once, or after a time")
	p.get = func() string {
		var parts []string
		for i, name := range []string{"normal", "slave", "pubsub"} {
			l := o.ClientOutputBufferLimits[i]
			parts = append(parts, fmt.Sprintf("%s %d %d %d", name, l.Hard, l.Soft, l.SoftSeconds))
		}
		return strings.Join(parts, " ")
	}
	p.Default = p.get()
	p.set = func(args []string) (bool, error) {
		limits, err := parseOutputBufferLimits(args, o.ClientOutputBufferLimits)
		if err != nil {
			return false, err
		}
		o.ClientOutputBufferLimits = limits
		return true, nil
	}
	p.setAway = func() bool { return o.ClientOutputBufferLimits != outputBufferDefaults }
	p.rewrite = func(r *rewriter, name string) {
		for i, class := range []string{"normal", "replica", "pubsub"} {
			l := o.ClientOutputBufferLimits[i]
			r.line(name, fmt.Sprintf("%s %s %s %s %d", name, class, FormatMemory(l.Hard),
				FormatMemory(l.Soft), l.SoftSeconds), l != outputBufferDefaults[i])
		}
	}
	return p
}

func parseOutputBufferLimits(args []string, limits [3]OutputBufferLimit) ([3]OutputBufferLimit, error) {
	if len(args)%4 != 0 {
		return limits, valueError("Wrong number of arguments in buffer limit configuration.")
	}
	for ; len(args) > 0; args = args[4:] {
		class, ok := outputBufferClass(cString(args[0]))
		if !ok {
			return limits, valueError("Invalid client class specified in buffer limit configuration.")
		}
		hard, hardOK := ParseMemory(args[1])
		soft, softOK := ParseMemory(args[2])
		n, rest, _ := scanInt(args[3], 10)
		// Redis keeps the seconds in 32 bits before it looks at the sign.
		seconds := int32(n)
		if !hardOK || !softOK || seconds < 0 || rest != "" {
			return limits, valueError("Error in hard, soft or soft_seconds setting in buffer limit configuration.")
		}
		limits[class] = OutputBufferLimit{Hard: hard, Soft: soft, SoftSeconds: int(seconds)}
	}
	return limits, nil
}

func (c *Config) procTitleParam() *Param {
	o := &c.GeneralOptions
	return text(&o.ProcTitleTemplate, "proc-title-template", "{title} {listen-addr} {server-mode}", mayBeEmpty, Modifiable,
		"what the process list shows").valid(func() error {
		if s, ok := c.ProcTitle(""); !ok || s == "" {
			return valueError("template format is invalid or contains unknown variables")
		}
		return nil
	})
}

// ProcTitle expands proc-title-template; ok is false if it is malformed.
func (c *Config) ProcTitle(title string) (s string, ok bool) {
	var b strings.Builder
	for t := c.ProcTitleTemplate; t != ""; {
		open := strings.IndexByte(t, '{')
		if open < 0 {
			b.WriteString(t)
			break
		}
		b.WriteString(t[:open])
		t = t[open+1:]
		if strings.HasPrefix(t, "{") { // "{{" is a brace
			b.WriteByte('{')
			t = t[1:]
			continue
		}
		end := strings.IndexByte(t, '}')
		if end < 0 {
			return "", false
		}
		value, known := c.procTitleVariable(t[:end], title)
		if !known {
			return "", false
		}
		b.WriteString(value)
		t = t[end+1:]
	}
	return strings.Trim(b.String(), " "), true
}

func (c *Config) procTitleVariable(name, title string) (string, bool) {
	switch strings.ToLower(name) {
	case "title":
		return title, true
	case "listen-addr":
		if c.Port == 0 && c.TLSPort == 0 {
			return "unixsocket:" + c.UnixSocket, true
		}
		host, port := "*", c.Port
		if len(c.Bind) > 0 {
			host = c.Bind[0]
		}
		if port == 0 {
			port = c.TLSPort
		}
		return host + ":" + strconv.Itoa(port), true
	case "server-mode":
		switch {
		case c.ClusterEnabled:
			return "[cluster]", true
		case c.SentinelMode:
			return "[sentinel]", true
		}
		return "", true
	case "port":
		return strconv.Itoa(c.Port), true
	case "tls-port":
		return strconv.Itoa(c.TLSPort), true
	case "unixsocket":
		return c.UnixSocket, true
	case "config-file":
		if c.File == "" {
			return "-", true
		}
		return c.File, true
	}
	return "", false
}

func (c *Config) dirParam() *Param {
	o := &c.GeneralOptions
	p := special("dir", Protected|DenyLoading, "", "a directory that exists",
		"directory of data files, and what relative paths are relative to; at first the working directory")
	p.get = func() string { return o.Dir }
	p.set = func(args []string) (bool, error) {
		path := cString(args[0])
		if path == "" {
			return false, valueError(strerror(syscall.ENOENT))
		}
		dir, err := c.files.enterDir(c.path(path))
		if err != nil {
			return false, valueError(strerror(err))
		}
		o.Dir = dir
		return true, nil
	}
	p.setAway = func() bool { return true }
	p.rewrite = func(r *rewriter, name string) {
		r.line(name, string(AppendRepr([]byte(name+" "), o.Dir)), true)
	}
	return p
}

// path resolves a file name of the configuration against Dir.
func (c *Config) path(name string) string {
	if filepath.IsAbs(name) || c.Dir == "" || name == "" {
		return name
	}
	return filepath.Join(c.Dir, name)
}

func (c *Config) oomScoreParam() *Param {
	defaults := [3]int{0, 200, 800}
	o := &c.GeneralOptions
	o.OOMScoreAdjValues = defaults
	p := special("oom-score-adj-values", MultiArg, "0 200 800", "3 numbers, -2000 to 2000",
		"scores of a master, a replica, and a background child")
	p.get = func() string { return strings.Trim(fmt.Sprint(o.OOMScoreAdjValues), "[]") }
	p.set = func(args []string) (bool, error) {
		if len(args) != len(defaults) {
			return false, errArgCount
		}
		var values [3]int
		for i, a := range args {
			n, rest, _ := scanInt(a, 10)
			if rest != "" || n < -2000 || n > 2000 {
				return false, valueError("Invalid oom-score-adj-values, elements must be between -2000 and 2000.")
			}
			values[i] = int(n)
		}
		changed := values != o.OOMScoreAdjValues
		o.OOMScoreAdjValues = values
		return changed, nil
	}
	p.setAway = func() bool { return o.OOMScoreAdjValues != defaults }
	p.rewrite = func(r *rewriter, name string) { r.line(name, name+" "+p.get(), p.setAway()) }
	return p
}

func (c *Config) percentilesParam() *Param {
	o := &c.GeneralOptions
	o.LatencyPercentiles = []float64{50, 99, 99.9}
	p := special("latency-tracking-info-percentiles", MultiArg, "50 99 99.9", "numbers, 0 to 100",
		"percentiles that INFO latencystats shows")
	p.get = func() string {
		parts := make([]string, len(o.LatencyPercentiles))
		for i, f := range o.LatencyPercentiles {
			parts[i] = formatPercentile(f)
		}
		return strings.Join(parts, " ")
	}
	p.set = func(args []string) (bool, error) {
		if len(args) == 1 && args[0] == "" {
			args = nil
		}
		var list []float64
		for _, a := range args {
			f, ok := parseDouble(a)
			if !ok {
				return false, valueError("Invalid latency-tracking-info-percentiles parameters")
			}
			if f < 0 || f > 100 {
				return false, valueError("latency-tracking-info-percentiles parameters should sit between [0.0,100.0]")
			}
			list = append(list, f)
		}
		o.LatencyPercentiles = list
		return true, nil
	}
	p.setAway = func() bool { return p.get() != p.Default }
	p.rewrite = func(r *rewriter, name string) {
		value := p.get()
		if value == "" {
			value = `""`
		}
		r.line(name, name+" "+value, true)
	}
	return p
}

func (c *Config) notifyParam() *Param {
	o := &c.GeneralOptions
	o.NotifyKeyspaceEvents = 0
	p := special("notify-keyspace-events", Modifiable, "", "letters of g$lshzxetdmnKEA",
		"classes of events that are published: K and E choose the channels, A stands for g$lshzxetd")
	p.get = func() string { return o.NotifyKeyspaceEvents.String() }
	p.set = func(args []string) (bool, error) {
		flags, ok := ParseNotifyFlags(cString(args[0]))
		if !ok {
			return false, valueError("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.")
		}
		o.NotifyKeyspaceEvents = flags
		return true, nil
	}
	p.setAway = func() bool { return o.NotifyKeyspaceEvents != 0 }
	p.rewrite = func(r *rewriter, name string) {
		r.line(name, string(AppendRepr([]byte(name+" "), p.get())), p.setAway())
	}
	return p
}

func (c *Config) saveParam() *Param {
	o := &c.PersistenceOptions
	o.SavePoints = []SavePoint{{3600, 1}, {300, 100}, {60, 10000}}
	p := special("save", MultiArg, "3600 1 300 100 60 10000", "seconds changes, repeated; or empty",
		"write a snapshot once that many writes happened in that time")
	p.get = func() string {
		parts := make([]string, len(o.SavePoints))
		for i, s := range o.SavePoints {
			parts[i] = fmt.Sprintf("%d %d", s.Seconds, s.Changes)
		}
		return strings.Join(parts, " ")
	}
	p.set = func(args []string) (bool, error) {
		points, err := parseSavePoints(args)
		if err != nil {
			return false, err
		}
		// Lines of one file accumulate, but not onto the defaults; save "" takes
		// back those before it.
		empty := len(args) == 1 && args[0] == ""
		if c.loading && c.saveSeen && !empty {
			points = append(o.SavePoints[:len(o.SavePoints):len(o.SavePoints)], points...)
		}
		c.saveSeen = c.saveSeen || c.loading
		o.SavePoints = points
		return true, nil
	}
	p.setAway = func() bool { return p.get() != p.Default }
	p.rewrite = func(r *rewriter, name string) {
		if c.SentinelMode {
			r.processed(name)
			return
		}
		if len(o.SavePoints) == 0 {
			r.line(name, name+` ""`, true)
		}
		for _, s := range o.SavePoints {
			r.line(name, fmt.Sprintf("%s %d %d", name, s.Seconds, s.Changes), true)
		}
	}
	return p
}

func parseSavePoints(args []string) ([]SavePoint, error) {
	if len(args) == 1 && args[0] == "" {
		args = nil
	}
	const invalid = valueError("Invalid save parameters")
	if len(args)%2 != 0 {
		return nil, invalid
	}
	points := make([]SavePoint, 0, len(args)/2)
	for ; len(args) > 0; args = args[2:] {
		seconds, rest1, _ := scanInt(args[0], 10)
		changes, rest2, _ := scanInt(args[1], 10)
		if rest1 != "" || rest2 != "" || seconds < 1 || changes < 0 {
			return nil, invalid
		}
		// Redis keeps the low 32 bits of the changes: a huge number may become a
		// negative one, snapshots without end, and a rewritten file that it
		// refuses. Here it stays huge.
		points = append(points, SavePoint{Seconds: seconds, Changes: int(min(changes, maxInt))})
	}
	return points, nil
}

func (c *Config) replicaOfParam() *Param {
	o := &c.ReplicationOptions
	p := special("replicaof", Immutable|MultiArg, "", "host port, or no one", "be a replica of that master").also("slaveof")
	p.get = func() string {
		if o.ReplicaOf.IsZero() {
			return ""
		}
		s := o.ReplicaOf.Host + " " + strconv.Itoa(o.ReplicaOf.Port)
		return s[:min(len(s), 255)]
	}
	p.set = func(args []string) (bool, error) {
		if len(args) != 2 {
			return false, errArgCount
		}
		if strings.EqualFold(args[0], "no") && strings.EqualFold(args[1], "one") {
			o.ReplicaOf = ReplicaOf{}
			return true, nil
		}
		port, rest, _ := scanInt(args[1], 10)
		if rest != "" || int32(port) < 0 || int32(port) > 65535 {
			return false, valueError("Invalid master port")
		}
		o.ReplicaOf = ReplicaOf{Host: args[0], Port: int(int32(port))}
		return true, nil
	}
	p.setAway = func() bool { return !o.ReplicaOf.IsZero() }
	p.rewrite = func(r *rewriter, name string) {
		if c.ClusterEnabled || o.ReplicaOf.IsZero() {
			r.processed(name)
			return
		}
		r.line(name, joinDirective(name, []string{o.ReplicaOf.Host, strconv.Itoa(o.ReplicaOf.Port)}), true)
	}
	return p
}

// maxArrayWidth is how many members an array has at most.
const maxArrayWidth = 32

// directories is a list of directories, given as several arguments.
func directories(v *[]string, name, values, doc string) *Param {
	p := special(name, Immutable|MultiArg|Own, "", values, doc)
	p.get = func() string { return strings.Join(*v, " ") }
	p.set = func(args []string) (bool, error) {
		if len(args) == 1 && args[0] == "" {
			args = nil
		}
		if len(args) > maxArrayWidth {
			return false, valueError(fmt.Sprintf("more than %d directories", maxArrayWidth))
		}
		list := make([]string, len(args))
		for i, a := range args {
			list[i] = cString(a)
			if list[i] == "" {
				return false, valueError("a directory has no name")
			}
			for _, other := range list[:i] {
				if filepath.Clean(other) == filepath.Clean(list[i]) {
					return false, valueError("the directory " + list[i] + " is named twice")
				}
			}
		}
		*v = list
		return true, nil
	}
	p.setAway = func() bool { return len(*v) > 0 }
	p.rewrite = func(r *rewriter, name string) {
		if len(*v) == 0 {
			r.processed(name)
			return
		}
		r.line(name, joinDirective(name, *v), true)
	}
	return p
}

// checkArray judges the directives of the array together.
func (c *Config) checkArray() error {
	o := &c.ArrayOptions
	n := len(o.ArrayMembers)
	if o.ArrayLevel == ArrayNone {
		if n > 0 || len(o.ArraySpares) > 0 {
			return valueError("array-members and array-spares need an array-level")
		}
		return nil
	}
	if least := o.ArrayLevel.MinMembers(); n < least {
		return valueError(fmt.Sprintf("array-level %d needs at least %d directories in array-members, %d are given", o.ArrayLevel, least, n))
	}
	for _, spare := range o.ArraySpares {
		for _, member := range o.ArrayMembers {
			if filepath.Clean(c.path(spare)) == filepath.Clean(c.path(member)) {
				return valueError("the directory " + spare + " is in array-members and in array-spares")
			}
		}
	}
	return nil
}
