package config

// AppendFsync says when the journal is synced.
type AppendFsync int

// The values of appendfsync.
const (
	FsyncEverysec AppendFsync = iota
	FsyncAlways
	FsyncNo
)

// LogLevel is the least severity that is logged.
type LogLevel int

// The values of loglevel, least severe first.
const (
	LogDebug LogLevel = iota
	LogVerbose
	LogNotice
	LogWarning
)

// LogFormat is the form of log lines.
type LogFormat int

// The values of log-format.
const (
	LogFormatLegacy LogFormat = iota // the line form of Redis
	LogFormatLogfmt
	LogFormatJSON
)

// ArrayLevel is the RAID level of the disk array; its value is the level's
// number.
type ArrayLevel int

// ArrayNone is the value of array-level without an array.
const ArrayNone ArrayLevel = -1

// arrayLevels are the words of array-level.
var arrayLevels = []enumWord{{"none", int(ArrayNone)}, {"0", 0}, {"1", 1}, {"4", 4}, {"5", 5}, {"6", 6}}

// MinMembers is the least number of members of the level.
func (l ArrayLevel) MinMembers() int {
	switch l {
	case 4, 5:
		return 3
	case 6:
		return 4
	}
	return 2
}

// MaxMemoryPolicy says which keys go when maxmemory is reached.
type MaxMemoryPolicy int

// The values of maxmemory-policy.
const (
	VolatileLRU MaxMemoryPolicy = iota
	VolatileLFU
	VolatileRandom
	VolatileTTL
	AllKeysLRU
	AllKeysLFU
	AllKeysRandom
	NoEviction
)

// String returns the policy's name as CONFIG GET and INFO show it.
func (p MaxMemoryPolicy) String() string { return enumName(maxMemoryPolicyNames, int(p)) }

// IsLRU reports whether the policy compares idle times.
func (p MaxMemoryPolicy) IsLRU() bool { return p == VolatileLRU || p == AllKeysLRU }

// IsLFU reports whether the policy compares access frequencies.
func (p MaxMemoryPolicy) IsLFU() bool { return p == VolatileLFU || p == AllKeysLFU }

// IsAllKeys reports whether keys without a time to live may be evicted.
func (p MaxMemoryPolicy) IsAllKeys() bool {
	return p == AllKeysLRU || p == AllKeysLFU || p == AllKeysRandom
}

// Supervised says which process supervisor is told about start-up.
type Supervised int

// The values of supervised.
const (
	SupervisedUpstart Supervised = iota
	SupervisedSystemd
	SupervisedAuto
	SupervisedNo
)

// SyslogFacility is the facility number of syslog(3), not shifted.
type SyslogFacility int

// The values of syslog-facility.
const (
	SyslogUser   SyslogFacility = 1
	SyslogLocal0 SyslogFacility = 16
	SyslogLocal7 SyslogFacility = 23
)

// ReplDisklessLoad says when a replica loads a snapshot from the socket.
type ReplDisklessLoad int

// The values of repl-diskless-load.
const (
	DisklessLoadDisabled ReplDisklessLoad = iota
	DisklessLoadOnEmptyDB
	DisklessLoadSwapDB
)

// TLSAuthClients says whether clients must show a certificate.
type TLSAuthClients int

// The values of tls-auth-clients.
const (
	TLSAuthClientsNo TLSAuthClients = iota
	TLSAuthClientsYes
	TLSAuthClientsOptional
)

// OOMScoreAdj says how the kernel's out-of-memory score is set.
type OOMScoreAdj int

// The values of oom-score-adj; "yes" is another word for relative.
const (
	OOMScoreAdjNo OOMScoreAdj = iota
	OOMScoreAdjRelative
	OOMScoreAdjAbsolute
)

// ACLPubsubDefault is what new users may do with channels.
type ACLPubsubDefault int

// The values of acl-pubsub-default.
const (
	PubsubAllChannels ACLPubsubDefault = iota
	PubsubResetChannels
)

// SanitizeDumpPayload says whose payloads are verified in depth.
type SanitizeDumpPayload int

// The values of sanitize-dump-payload.
const (
	SanitizeNo SanitizeDumpPayload = iota
	SanitizeYes
	SanitizeClients
)

// ProtectedAction says who may do what an enable-* directive guards.
type ProtectedAction int

// The values of enable-debug-command and its like.
const (
	ProtectedNo ProtectedAction = iota
	ProtectedYes
	ProtectedLocal
)

// Allows reports whether a client may act; local says that it is connected
// over loopback or the unix socket.
func (a ProtectedAction) Allows(local bool) bool {
	return a == ProtectedYes || a == ProtectedLocal && local
}

// EndpointType is what CLUSTER SLOTS names first.
type EndpointType int

// The values of cluster-preferred-endpoint-type.
const (
	EndpointIP EndpointType = iota
	EndpointHostname
	EndpointUnknown
)

// PropagationErrorBehavior says what a failing replicated command causes.
type PropagationErrorBehavior int

// The values of propagation-error-behavior.
const (
	PropagationIgnore PropagationErrorBehavior = iota
	PropagationPanic
	PropagationPanicOnReplicas
)

// ShutdownFlags are the options of SHUTDOWN that a signal implies.
type ShutdownFlags int

// The values of shutdown-on-sigint and shutdown-on-sigterm; 0 is "default".
const (
	ShutdownSave ShutdownFlags = 1 << iota
	ShutdownNoSave
	ShutdownNow
	ShutdownForce
)

// The classes of client-output-buffer-limit, indexes of
// Config.ClientOutputBufferLimits.
const (
	ClientNormal = iota
	ClientReplica
	ClientPubsub
)

// OutputBufferLimit closes a client whose output passes Hard bytes, or stays
// above Soft bytes for SoftSeconds. 0 is no limit.
type OutputBufferLimit struct {
	Hard, Soft  uint64
	SoftSeconds int
}

// SavePoint asks for a snapshot once Seconds have passed with at least Changes
// writes.
type SavePoint struct {
	Seconds int64
	Changes int
}

// ReplicaOf is a master's address; the zero value says that this is a master.
type ReplicaOf struct {
	Host string
	Port int
}

// IsZero reports that no master is configured.
func (r ReplicaOf) IsZero() bool { return r.Host == "" }

// NotifyFlags are the classes of keyspace events that are published.
type NotifyFlags uint32

// The bits of NotifyFlags, with their letters in notify-keyspace-events.
const (
	NotifyKeyspace NotifyFlags = 1 << 0  // K
	NotifyKeyevent NotifyFlags = 1 << 1  // E
	NotifyGeneric  NotifyFlags = 1 << 2  // g
	NotifyString   NotifyFlags = 1 << 3  // $
	NotifyList     NotifyFlags = 1 << 4  // l
	NotifySet      NotifyFlags = 1 << 5  // s
	NotifyHash     NotifyFlags = 1 << 6  // h
	NotifyZSet     NotifyFlags = 1 << 7  // z
	NotifyExpired  NotifyFlags = 1 << 8  // x
	NotifyEvicted  NotifyFlags = 1 << 9  // e
	NotifyStream   NotifyFlags = 1 << 10 // t
	NotifyKeyMiss  NotifyFlags = 1 << 11 // m, not in A
	NotifyModule   NotifyFlags = 1 << 13 // d
	NotifyNew      NotifyFlags = 1 << 14 // n, not in A

	// NotifyAll is what the letter A stands for.
	NotifyAll = NotifyGeneric | NotifyString | NotifyList | NotifySet | NotifyHash | NotifyZSet |
		NotifyExpired | NotifyEvicted | NotifyStream | NotifyModule
)

// notifyLetters is in the order in which flags are written.
var notifyLetters = []struct {
	letter byte
	flag   NotifyFlags
}{
	{'g', NotifyGeneric}, {'$', NotifyString}, {'l', NotifyList}, {'s', NotifySet}, {'h', NotifyHash},
	{'z', NotifyZSet}, {'x', NotifyExpired}, {'e', NotifyEvicted}, {'t', NotifyStream}, {'d', NotifyModule},
	{'n', NotifyNew}, {'K', NotifyKeyspace}, {'E', NotifyKeyevent}, {'m', NotifyKeyMiss},
}

// ParseNotifyFlags reads the letters of notify-keyspace-events.
func ParseNotifyFlags(s string) (NotifyFlags, bool) {
	var flags NotifyFlags
next:
	for i := 0; i < len(s); i++ {
		if s[i] == 'A' {
			flags |= NotifyAll
			continue
		}
		for _, n := range notifyLetters {
			if n.letter == s[i] {
				flags |= n.flag
				continue next
			}
		}
		return 0, false
	}
	return flags, true
}

// String writes the flags as CONFIG GET does. With all of A set, Redis leaves
// out n as well, and so do we.
func (f NotifyFlags) String() string {
	var b []byte
	all := f&NotifyAll == NotifyAll
	if all {
		b = append(b, 'A')
	}
	for _, n := range notifyLetters {
		inA := n.flag&(NotifyAll|NotifyNew) != 0
		if f&n.flag != 0 && (!all || !inA) {
			b = append(b, n.letter)
		}
	}
	return string(b)
}
