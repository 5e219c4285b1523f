package sentinel

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Defaults of a monitored master.
const (
	DefaultDownAfter       = 30 * time.Second
	DefaultFailoverTimeout = 3 * time.Minute
	DefaultParallelSyncs   = 1
)

// Limits on what a configuration or a peer may make us hold in memory.
const (
	maxMasterName         = 64 << 10 // bytes, of SENTINEL MONITOR; Redis has no limit
	maxReplicasPerMaster  = 10000
	maxSentinelsPerMaster = 1000
	maxFailedNames        = 10000
)

// Config is everything a Sentinel keeps over a restart: what the operator
// said and what it learned. The zero value is a Sentinel that watches nothing.
type Config struct {
	MyID                string
	CurrentEpoch        uint64
	DenyScriptsReconfig bool // NewConfig sets the default, true
	ResolveHostnames    bool
	AnnounceHostnames   bool
	AnnounceIP          string
	AnnouncePort        int
	SentinelUser        string
	SentinelPass        string
	Masters             []MasterConfig
}

// MasterConfig is the persistent part of one monitored master.
type MasterConfig struct {
	Name             string
	Host             string // address of the current master
	IP               string // its resolved address, not persisted
	Port             int
	Quorum           int
	DownAfter        time.Duration
	FailoverTimeout  time.Duration
	RebootDownAfter  time.Duration // master-reboot-down-after-period, 0 is off
	ParallelSyncs    int
	NotificationPath string // notification-script
	ReconfigPath     string // client-reconfig-script
	AuthPass         string
	AuthUser         string
	RenamedCommands  []Rename
	ConfigEpoch      uint64
	LeaderEpoch      uint64 // Invariant: the newest epoch in which a vote was given
	Replicas         []Addr
	Sentinels        []Peer
}

// Rename is one rename-command: the standard name and what to send instead.
type Rename struct{ From, To string }

// Peer is another Sentinel.
type Peer struct {
	Host  string
	Port  int
	RunID string
}

// NewConfig returns the configuration of an empty sentinel.conf.
func NewConfig() *Config { return &Config{DenyScriptsReconfig: true} }

// Clone returns a deep copy.
func (c *Config) Clone() *Config {
	d := *c
	d.Masters = make([]MasterConfig, len(c.Masters))
	for i, m := range c.Masters {
		m.RenamedCommands = append([]Rename(nil), m.RenamedCommands...)
		m.Replicas = append([]Addr(nil), m.Replicas...)
		m.Sentinels = append([]Peer(nil), m.Sentinels...)
		d.Masters[i] = m
	}
	return &d
}

// ConfigError is what is wrong with a directive, in the words of Redis.
type ConfigError string

func (e ConfigError) Error() string { return string(e) }

// Errors of "sentinel ..." directives, to the letter of Redis 7.0.
const (
	ErrUnknownDirective   = ConfigError("Unrecognized sentinel configuration statement.")
	ErrDuplicateMaster    = ConfigError("Duplicate master name.")
	ErrPort               = ConfigError("Invalid port number.")
	ErrQuorum             = ConfigError("Quorum must be 1 or greater.")
	ErrNoSuchMaster       = ConfigError("No such master with specified name.")
	ErrCannotResolve      = ConfigError("Can't resolve instance hostname.")
	ErrTime               = ConfigError("negative or zero time parameter.")
	ErrNegativeTime       = ConfigError("negative time parameter.")
	ErrDuplicateReplica   = ConfigError("Duplicate hostname and port for replica.")
	ErrDuplicateSentinel  = ConfigError("Duplicate runid for sentinel.")
	ErrDuplicateRename    = ConfigError("Same command renamed multiple times with rename-command.")
	ErrMyID               = ConfigError("Malformed Sentinel id in myid option.")
	ErrDenyScripts        = ConfigError("Please specify yes or no for the deny-scripts-reconfig options.")
	ErrResolveHostnames   = ConfigError("Please specify yes or no for the resolve-hostnames option.")
	ErrAnnounceHostnames  = ConfigError("Please specify yes or no for the announce-hostnames option.")
	ErrNotificationScript = ConfigError("Notification script seems non existing or non executable.")
	ErrReconfigScript     = ConfigError("Client reconfiguration script seems non existing or non executable.")
)

// LoadPhase orders the directives of a file: global options come first
// whatever their place (host names are resolved by them), then monitor, then
// what refers to a monitored master.
func LoadPhase(args []string) int {
	if len(args) == 0 {
		return 2
	}
	switch strings.ToLower(args[0]) {
	case "announce-ip", "announce-port", "deny-scripts-reconfig", "sentinel-user", "sentinel-pass",
		"current-epoch", "myid", "resolve-hostnames", "announce-hostnames":
		return 0
	case "monitor":
		return 1
	}
	return 2
}

// Master returns the entry of that name, or nil.
func (c *Config) Master(name string) *MasterConfig {
	for i := range c.Masters {
		if c.Masters[i].Name == name {
			return &c.Masters[i]
		}
	}
	return nil
}

// Apply applies one directive, given without the leading word "sentinel".
// executable tells whether a path is an executable file; nil accepts all.
func (c *Config) Apply(args []string, executable func(string) bool) error {
	if len(args) == 0 {
		return ErrUnknownDirective
	}
	name := strings.ToLower(args[0])
	if LoadPhase(args) == 0 {
		return c.applyGlobal(name, args)
	}
	if name == "monitor" {
		if len(args) != 5 {
			return ErrUnknownDirective
		}
		return c.applyMonitor(args)
	}
	return c.applyMaster(name, args, executable)
}

func (c *Config) applyGlobal(name string, args []string) error {
	if len(args) != 2 {
		return ErrUnknownDirective
	}
	v := args[1]
	switch name {
	case "myid":
		if len(v) != runIDLen {
			return ErrMyID
		}
		c.MyID = v
	case "current-epoch":
		if e := parseEpoch(v); e > c.CurrentEpoch {
			c.CurrentEpoch = e
		}
	case "announce-ip":
		c.AnnounceIP = v
	case "announce-port":
		c.AnnouncePort = atoi(v)
	case "sentinel-user":
		c.SentinelUser = v
	case "sentinel-pass":
		c.SentinelPass = v
	case "deny-scripts-reconfig":
		return setYesNo(&c.DenyScriptsReconfig, v, ErrDenyScripts)
	case "resolve-hostnames":
		return setYesNo(&c.ResolveHostnames, v, ErrResolveHostnames)
	case "announce-hostnames":
		return setYesNo(&c.AnnounceHostnames, v, ErrAnnounceHostnames)
	}
	return nil
}

func (c *Config) applyMonitor(args []string) error {
	quorum := atoi(args[4])
	if quorum <= 0 {
		return ErrQuorum
	}
	port := atoi(args[3])
	if port < 0 || port > 65535 {
		return ErrPort
	}
	if !c.acceptsHost(args[2]) {
		return ErrCannotResolve
	}
	if c.Master(args[1]) != nil {
		return ErrDuplicateMaster
	}
	c.Masters = append(c.Masters, newMasterConfig(args[1], args[2], port, quorum))
	return nil
}

// acceptsHost reports whether host may stand in a directive. A name need not
// have a number now: the resolver may be back later.
func (c *Config) acceptsHost(host string) bool {
	return IsIP(host) || c.ResolveHostnames && plainHostName(host)
}

// HostNames lists the hosts that need a resolver, each once.
func (c *Config) HostNames() (names []string) {
	seen := map[string]bool{}
	add := func(host string) {
		if key := strings.ToLower(host); !IsIP(host) && !seen[key] {
			seen[key] = true
			names = append(names, host)
		}
	}
	for i := range c.Masters {
		m := &c.Masters[i]
		add(m.Host)
		for _, r := range m.Replicas {
			add(r.Host)
		}
		for _, s := range m.Sentinels {
			add(s.Host)
		}
	}
	return names
}

func newMasterConfig(name, host string, port, quorum int) MasterConfig {
	return MasterConfig{
		Name: name, Host: host, Port: port, Quorum: quorum,
		DownAfter: DefaultDownAfter, FailoverTimeout: DefaultFailoverTimeout, ParallelSyncs: DefaultParallelSyncs,
	}
}

// masterDirectiveArgs is the number of words of each directive that names a master.
var masterDirectiveArgs = map[string]int{
	"down-after-milliseconds": 3, "failover-timeout": 3, "parallel-syncs": 3, "notification-script": 3,
	"client-reconfig-script": 3, "auth-pass": 3, "auth-user": 3, "config-epoch": 3, "leader-epoch": 3,
	"known-slave": 4, "known-replica": 4, "known-sentinel": 5, "rename-command": 4,
	"master-reboot-down-after-period": 3,
}

func (c *Config) applyMaster(name string, args []string, executable func(string) bool) error {
	want, known := masterDirectiveArgs[name]
	old := name == "known-sentinel" && len(args) == 4
	if !known || (len(args) != want && !old) {
		return ErrUnknownDirective
	}
	m := c.Master(args[1])
	if m == nil {
		return ErrNoSuchMaster
	}
	v := args[2]
	switch name {
	case "down-after-milliseconds":
		return setMillis(&m.DownAfter, leadingNumber(v), 1, ErrTime)
	case "failover-timeout":
		return setMillis(&m.FailoverTimeout, leadingNumber(v), 1, ErrTime)
	case "master-reboot-down-after-period":
		return setMillis(&m.RebootDownAfter, leadingNumber(v), 0, ErrNegativeTime)
	case "parallel-syncs":
		m.ParallelSyncs = atoi(v)
	case "notification-script":
		if executable != nil && !executable(v) {
			return ErrNotificationScript
		}
		m.NotificationPath = v
	case "client-reconfig-script":
		if executable != nil && !executable(v) {
			return ErrReconfigScript
		}
		m.ReconfigPath = v
	case "auth-pass":
		m.AuthPass = v
	case "auth-user":
		m.AuthUser = v
	case "config-epoch":
		m.ConfigEpoch = parseEpoch(v)
		c.CurrentEpoch = max(c.CurrentEpoch, m.ConfigEpoch)
	case "leader-epoch":
		m.LeaderEpoch = parseEpoch(v)
		c.CurrentEpoch = max(c.CurrentEpoch, m.LeaderEpoch)
	case "rename-command":
		return m.applyRename(v, args[3])
	case "known-slave", "known-replica":
		return c.applyReplica(m, v, args[3])
	case "known-sentinel":
		if old { // the form before run ids says nothing that hello does not
			return nil
		}
		return c.applyPeer(m, v, args[3], args[4])
	}
	return nil
}

func (m *MasterConfig) applyRename(from, to string) error {
	for _, r := range m.RenamedCommands {
		if strings.EqualFold(r.From, from) {
			return ErrDuplicateRename
		}
	}
	m.RenamedCommands = append(m.RenamedCommands, Rename{from, to})
	return nil
}

func (c *Config) applyReplica(m *MasterConfig, host, port string) error {
	p := atoi(port)
	if p < 0 || p > 65535 {
		return ErrPort
	}
	if !c.acceptsHost(host) {
		return ErrCannotResolve
	}
	for _, r := range m.Replicas {
		if r.Port == p && strings.EqualFold(r.Host, host) {
			return ErrDuplicateReplica
		}
	}
	if len(m.Replicas) < maxReplicasPerMaster {
		m.Replicas = append(m.Replicas, Addr{Host: host, Port: p})
	}
	return nil
}

func (c *Config) applyPeer(m *MasterConfig, host, port, runID string) error {
	p := atoi(port)
	if p < 0 || p > 65535 {
		return ErrPort
	}
	if !c.acceptsHost(host) {
		return ErrCannotResolve
	}
	for _, s := range m.Sentinels {
		if s.RunID == runID {
			return ErrDuplicateSentinel
		}
	}
	if len(m.Sentinels) < maxSentinelsPerMaster {
		m.Sentinels = append(m.Sentinels, Peer{Host: host, Port: p, RunID: runID})
	}
	return nil
}

// Line is one directive of a rewritten sentinel.conf. Lines with the same
// Option replace each other in place, the rest is appended, as Redis does.
type Line struct {
	Option string // for example "sentinel monitor"
	Text   string
	// Default is set on a line that says what holds without it: it replaces an
	// older one, but is not appended.
	Default bool
}

// Lines renders the state in the order in which Redis writes it.
func (c *Config) Lines() []Line {
	var out []Line
	add := func(option, format string, args ...any) {
		text := option
		if format != "" {
			text += " " + fmt.Sprintf(format, args...)
		}
		out = append(out, Line{Option: "sentinel " + option, Text: "sentinel " + text})
	}
	yes := func(option string, value, usual bool) {
		add(option, "%s", yesNo(value))
		out[len(out)-1].Default = value == usual
	}
	if c.MyID != "" {
		add("myid", "%s", word(c.MyID))
	}
	yes("deny-scripts-reconfig", c.DenyScriptsReconfig, true)
	yes("resolve-hostnames", c.ResolveHostnames, false)
	yes("announce-hostnames", c.AnnounceHostnames, false)
	for i := range c.Masters {
		c.Masters[i].lines(add)
	}
	add("current-epoch", "%d", c.CurrentEpoch)
	if c.AnnounceIP != "" {
		add("announce-ip", "%s", Quote(c.AnnounceIP))
	}
	if c.AnnouncePort != 0 {
		add("announce-port", "%d", c.AnnouncePort)
	}
	if c.SentinelUser != "" {
		add("sentinel-user", "%s", word(c.SentinelUser))
	}
	if c.SentinelPass != "" {
		add("sentinel-pass", "%s", word(c.SentinelPass))
	}
	return out
}

func (m *MasterConfig) lines(add func(option, format string, args ...any)) {
	n := word(m.Name)
	add("monitor", "%s %s %d %d", n, word(m.Host), m.Port, m.Quorum)
	if m.DownAfter != DefaultDownAfter {
		add("down-after-milliseconds", "%s %d", n, ms(m.DownAfter))
	}
	if m.FailoverTimeout != DefaultFailoverTimeout {
		add("failover-timeout", "%s %d", n, ms(m.FailoverTimeout))
	}
	if m.ParallelSyncs != DefaultParallelSyncs {
		add("parallel-syncs", "%s %d", n, m.ParallelSyncs)
	}
	if m.NotificationPath != "" {
		add("notification-script", "%s %s", n, word(m.NotificationPath))
	}
	if m.ReconfigPath != "" {
		add("client-reconfig-script", "%s %s", n, word(m.ReconfigPath))
	}
	if m.AuthPass != "" {
		add("auth-pass", "%s %s", n, word(m.AuthPass))
	}
	if m.AuthUser != "" {
		add("auth-user", "%s %s", n, word(m.AuthUser))
	}
	if m.RebootDownAfter != 0 {
		add("master-reboot-down-after-period", "%s %d", n, ms(m.RebootDownAfter))
	}
	add("config-epoch", "%s %d", n, m.ConfigEpoch)
	add("leader-epoch", "%s %d", n, m.LeaderEpoch)
	for _, r := range m.Replicas {
		add("known-replica", "%s %s %d", n, word(r.Host), r.Port)
	}
	for _, s := range m.Sentinels {
		add("known-sentinel", "%s %s %d %s", n, word(s.Host), s.Port, word(s.RunID))
	}
	for _, r := range m.RenamedCommands {
		add("rename-command", "%s %s %s", n, word(r.From), word(r.To))
	}
}

// word quotes s only where it would not be read back as it is. Redis never
// quotes: it cannot read its own file again then, or reads something else.
func word(s string) string {
	if s == "" || strings.ContainsAny(s, " \t\n\v\f\r\x00\"'") {
		return Quote(s)
	}
	return s
}

// Quote renders s between double quotes with the escapes that the
// configuration parser of Redis reads.
func Quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '\\', '"':
			b.WriteByte('\\')
			b.WriteByte(c)
		case '\n':
			b.WriteString(`\n`)
		case '\r':
			b.WriteString(`\r`)
		case '\t':
			b.WriteString(`\t`)
		case '\a':
			b.WriteString(`\a`)
		case '\b':
			b.WriteString(`\b`)
		default:
			if c >= 0x20 && c < 0x7f {
				b.WriteByte(c)
			} else {
				fmt.Fprintf(&b, `\x%02x`, c)
			}
		}
	}
	b.WriteByte('"')
	return b.String()
}

const runIDLen = 40

// IsIP reports whether s is an address in numbers, which needs no resolver.
func IsIP(s string) bool {
	_, ok := numericIP(s)
	return ok
}

// numericIP returns the usual form of an address in numbers. As getaddrinfo
// does it takes the forms of inet_aton, such as 127.1 and 0177.0.0.1. A zone
// is refused, since it may hold any byte.
func numericIP(s string) (ip string, ok bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.String(), a.Zone() == ""
	}
	parts := strings.Split(s, ".")
	if len(parts) > 4 {
		return "", false
	}
	var addr uint64
	for i, p := range parts {
		// The last number fills all bytes that are left.
		bits := 8
		if i == len(parts)-1 {
			bits = 8 * (5 - len(parts))
		}
		n, ok := cInteger(p)
		if !ok || n >= 1<<bits {
			return "", false
		}
		addr = addr<<bits | n
	}
	return netip.AddrFrom4([4]byte{byte(addr >> 24), byte(addr >> 16), byte(addr >> 8), byte(addr)}).String(), true
}

// cInteger reads a whole number as C writes it: 0x is hexadecimal, 0 octal.
func cInteger(s string) (uint64, bool) {
	base := 10
	if len(s) > 1 && s[0] == '0' {
		if base, s = 8, s[1:]; s[0]|0x20 == 'x' {
			base, s = 16, s[1:]
		}
	}
	n, err := strconv.ParseUint(s, base, 32)
	return n, err == nil
}

// atoi reads a leading decimal number as C's atoi does, 0 when there is none;
// what does not fit an int becomes -1, which every caller refuses.
func atoi(s string) int {
	n, err := strconv.ParseInt(leadingNumber(s), 10, 32)
	if errors.Is(err, strconv.ErrRange) {
		return -1
	}
	return int(n)
}

// leadingNumber is the part of s that C's atoi reads, "0" when there is none.
func leadingNumber(s string) string {
	s = strings.TrimLeft(s, " \t\n\v\f\r")
	end := 0
	if end < len(s) && (s[end] == '-' || s[end] == '+') {
		end++
	}
	digits := end
	for end < len(s) && s[end] >= '0' && s[end] <= '9' {
		end++
	}
	if end == digits {
		return "0"
	}
	return s[:end]
}

func parseEpoch(s string) uint64 {
	end := 0
	for end < len(s) && s[end] >= '0' && s[end] <= '9' {
		end++
	}
	n, err := strconv.ParseUint(s[:end], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// maxMillis keeps every configured time inside time.Duration with room to
// multiply by ten.
const maxMillis = int64(365 * 24 * time.Hour / time.Millisecond * 2)

// setMillis reads a time in milliseconds, of at least least. One longer than
// maxMillis is cut to that: either way nobody sees its end.
func setMillis(d *time.Duration, s string, least int64, bad error) error {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < least {
		return bad
	}
	*d = time.Duration(min(n, maxMillis)) * time.Millisecond
	return nil
}

func setYesNo(b *bool, s string, bad error) error {
	switch strings.ToLower(s) {
	case "yes":
		*b = true
	case "no":
		*b = false
	default:
		return bad
	}
	return nil
}
