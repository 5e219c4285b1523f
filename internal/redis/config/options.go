package config

// This file is the option table: per theme a struct of typed fields, then the
// rows that bind, bound and explain them. A row reads: field, name, then what
// its kind needs (limits, words), default, mutability, consequence.

// table builds the rows over the fields of c and sets every default.
func (c *Config) table() []*Param {
	var rows []*Param
	for _, part := range []func() []*Param{
		c.networkTable, c.tlsTable, c.generalTable, c.securityTable, c.memoryTable, c.defragTable,
		c.persistenceTable, c.aofTable, c.replicationTable, c.replicaTable, c.clusterTable,
		c.encodingTable, c.ownTable,
	} {
		rows = append(rows, part()...)
	}
	return rows
}

// NetworkOptions say where the server listens and how it treats connections.
type NetworkOptions struct {
	Port                     int
	Bind                     []string // a leading '-' allows an address to be missing
	BindSourceAddr           string
	UnixSocket               string
	UnixSocketPerm           int // permission bits; 0 leaves them to the umask
	TCPBacklog               int
	TCPKeepalive             int // seconds, 0 is off
	Timeout                  int // seconds of idleness, 0 is never
	SocketMarkID             int64
	MaxClients               int
	ProtoMaxBulkLen          int64 // bytes
	ClientQueryBufferLimit   uint64
	ClientOutputBufferLimits [3]OutputBufferLimit // by ClientNormal, ClientReplica, ClientPubsub
	IOThreads                int
	IOThreadsDoReads         bool
}

func (c *Config) networkTable() []*Param {
	const ioThreads = "connections are served by io-loops, each of which reads, executes and writes"
	o := &c.NetworkOptions
	return []*Param{
		integer(&o.Port, "port", 0, 65535, 6379, Modifiable, "TCP port to accept on; 0 listens on none"),
		c.bindParam(),
		text(&o.BindSourceAddr, "bind-source-addr", "", orUnset, Modifiable, "address that outgoing connections come from"),
		text(&o.UnixSocket, "unixsocket", "", orUnset, Immutable, "path of a unix socket to accept on as well"),
		number(&o.UnixSocketPerm, "unixsocketperm", numeric{octal: true, unsigned: true, hi: 0o777}, 0, Immutable,
			"permissions of the unix socket; 0 leaves them to the umask"),
		integer(&o.TCPBacklog, "tcp-backlog", 0, maxInt, 511, Immutable, "connections that may wait to be accepted; the kernel's somaxconn caps it"),
		integer(&o.TCPKeepalive, "tcp-keepalive", 0, maxInt, 300, Modifiable, "seconds between keep-alive probes; 0 sends none"),
		integer(&o.Timeout, "timeout", 0, maxInt, 0, Modifiable, "seconds after which an idle client is closed; 0 never"),
		number(&o.SocketMarkID, "socket-mark-id", numeric{unsigned: true, hi: 1<<32 - 1}, 0, Immutable, "mark set on listening sockets (SO_MARK); 0 sets none"),
		count(&o.MaxClients, "maxclients", 1, 1<<32-1, 10000, Modifiable, "connections served at once; further ones are refused with an error"),
		signedMemory(&o.ProtoMaxBulkLen, "proto-max-bulk-len", 1<<20, maxLong, 512<<20, Modifiable, "longest single argument that a client may send"),
		memory(&o.ClientQueryBufferLimit, "client-query-buffer-limit", 1<<20, maxLong, 1<<30, Modifiable,
			"unparsed input after which a client is closed"),
		c.outputBufferParam(),
		integer(&o.IOThreads, "io-threads", 1, 128, 1, Immutable, "threads for socket work").noEffect(ioThreads),
		yesNo(&o.IOThreadsDoReads, "io-threads-do-reads", false, Immutable, "let those threads read as well").noEffect(ioThreads),
	}
}

// TLSOptions configure encryption. Files are PEM.
type TLSOptions struct {
	TLSPort                int
	TLSCertFile            string
	TLSKeyFile             string
	TLSKeyFilePass         string
	TLSClientCertFile      string
	TLSClientKeyFile       string
	TLSClientKeyFilePass   string
	TLSDHParamsFile        string
	TLSCACertFile          string
	TLSCACertDir           string
	TLSAuthClients         TLSAuthClients
	TLSReplication         bool
	TLSCluster             bool
	TLSProtocols           string // space-separated, e.g. "TLSv1.2 TLSv1.3"; "" is the default
	TLSCiphers             string
	TLSCiphersuites        string
	TLSPreferServerCiphers bool
	TLSSessionCaching      bool
	TLSSessionCacheSize    int
	TLSSessionCacheTimeout int // seconds
}

func (c *Config) tlsTable() []*Param {
	const tickets = "sessions are resumed by stateless tickets, which need no cache on the server"
	o := &c.TLSOptions
	return []*Param{
		integer(&o.TLSPort, "tls-port", 0, 65535, 0, Modifiable, "TCP port to accept TLS on; 0 listens on none"),
		text(&o.TLSCertFile, "tls-cert-file", "", orUnset, Modifiable, "certificate shown to clients, and to servers without a client certificate"),
		text(&o.TLSKeyFile, "tls-key-file", "", orUnset, Modifiable, "private key of tls-cert-file"),
		text(&o.TLSKeyFilePass, "tls-key-file-pass", "", orUnset, Modifiable|Sensitive, "passphrase of tls-key-file"),
		text(&o.TLSClientCertFile, "tls-client-cert-file", "", orUnset, Modifiable, "certificate shown when connecting to others"),
		text(&o.TLSClientKeyFile, "tls-client-key-file", "", orUnset, Modifiable, "private key of tls-client-cert-file"),
		text(&o.TLSClientKeyFilePass, "tls-client-key-file-pass", "", orUnset, Modifiable|Sensitive, "passphrase of tls-client-key-file"),
		text(&o.TLSDHParamsFile, "tls-dh-params-file", "", orUnset, Modifiable, "Diffie-Hellman parameters").
			noEffect("key exchange is by elliptic curves only, which need no parameters"),
		text(&o.TLSCACertFile, "tls-ca-cert-file", "", orUnset, Modifiable, "authorities that peers' certificates are checked against"),
		text(&o.TLSCACertDir, "tls-ca-cert-dir", "", orUnset, Modifiable, "directory of authorities, beside tls-ca-cert-file"),
		enum(&o.TLSAuthClients, "tls-auth-clients", words("no", "yes", "optional"), TLSAuthClientsYes, Modifiable,
			"whether clients must show a certificate"),
		yesNo(&o.TLSReplication, "tls-replication", false, Modifiable, "connect to the master by TLS"),
		yesNo(&o.TLSCluster, "tls-cluster", false, Modifiable, "use TLS on the cluster bus"),
		text(&o.TLSProtocols, "tls-protocols", "", orUnset, Modifiable, "protocol versions offered, such as \"TLSv1.2 TLSv1.3\""),
		text(&o.TLSCiphers, "tls-ciphers", "", orUnset, Modifiable, "cipher suites of TLS 1.2"),
		text(&o.TLSCiphersuites, "tls-ciphersuites", "", orUnset, Modifiable, "cipher suites of TLS 1.3").
			noEffect("the suites of TLS 1.3 are all sound and always offered"),
		yesNo(&o.TLSPreferServerCiphers, "tls-prefer-server-ciphers", false, Modifiable, "choose the cipher by the server's order").
			noEffect("the cipher is always chosen by the server, safest and fastest first"),
		yesNo(&o.TLSSessionCaching, "tls-session-caching", true, Modifiable, "let clients resume sessions"),
		integer(&o.TLSSessionCacheSize, "tls-session-cache-size", 0, maxInt, 20*1024, Modifiable, "sessions kept").noEffect(tickets),
		integer(&o.TLSSessionCacheTimeout, "tls-session-cache-timeout", 0, maxInt, 300, Modifiable, "seconds a session is kept").noEffect(tickets),
	}
}

// GeneralOptions are about the process and what it reports.
type GeneralOptions struct {
	Daemonize               bool
	Supervised              Supervised
	PidFile                 string
	LogLevel                LogLevel
	LogFile                 string // "" is standard output
	SyslogEnabled           bool
	SyslogIdent             string
	SyslogFacility          SyslogFacility
	CrashLogEnabled         bool
	CrashMemcheckEnabled    bool
	Databases               int
	AlwaysShowLogo          bool
	SetProcTitle            bool
	ProcTitleTemplate       string
	HZ                      int // 1 to 500 once loaded
	DynamicHZ               bool
	Dir                     string // absolute
	OOMScoreAdj             OOMScoreAdj
	OOMScoreAdjValues       [3]int // master, replica, background child
	DisableTHP              bool
	ServerCPUList           string
	BioCPUList              string
	AOFRewriteCPUList       string
	BgsaveCPUList           string
	IgnoreWarnings          string
	ShutdownTimeout         int // seconds
	ShutdownOnSigint        ShutdownFlags
	ShutdownOnSigterm       ShutdownFlags
	SlowlogLogSlowerThan    int64 // microseconds; negative is off
	SlowlogMaxLen           int64
	LatencyMonitorThreshold int64 // milliseconds; 0 is off
	LatencyTracking         bool
	LatencyPercentiles      []float64 // latency-tracking-info-percentiles
	NotifyKeyspaceEvents    NotifyFlags
	BusyReplyThreshold      int64 // milliseconds
	WatchdogPeriod          int   // milliseconds
	UseExitOnPanic          bool
}

var syslogFacilities = []enumWord{
	{"user", int(SyslogUser)}, {"local0", 16}, {"local1", 17}, {"local2", 18}, {"local3", 19},
	{"local4", 20}, {"local5", 21}, {"local6", 22}, {"local7", int(SyslogLocal7)},
}

var shutdownWords = []enumWord{
	{"default", 0}, {"save", int(ShutdownSave)}, {"nosave", int(ShutdownNoSave)},
	{"now", int(ShutdownNow)}, {"force", int(ShutdownForce)},
}

func (c *Config) generalTable() []*Param {
	const (
		goThreads = "threads belong to the language's scheduler; bind the process with taskset or systemd"
		debugging = "it serves the debugging of another program"
	)
	o := &c.GeneralOptions
	return []*Param{
		yesNo(&o.Daemonize, "daemonize", false, Immutable, "go on in the background"),
		enum(&o.Supervised, "supervised", words("upstart", "systemd", "auto", "no"), SupervisedNo, Immutable,
			"tell upstart or systemd when the server is ready"),
		text(&o.PidFile, "pidfile", "", orUnset, Immutable, "file that holds the process id while the server runs"),
		enum(&o.LogLevel, "loglevel", words("debug", "verbose", "notice", "warning"), LogNotice, Modifiable, "least severity that is logged"),
		text(&o.LogFile, "logfile", "", mayBeEmpty, Immutable, "file that log lines are appended to; empty is standard output"),
		yesNo(&o.SyslogEnabled, "syslog-enabled", false, Immutable, "log to syslog as well"),
		text(&o.SyslogIdent, "syslog-ident", "redis", mayBeEmpty, Immutable, "name that syslog lines carry"),
		enum(&o.SyslogFacility, "syslog-facility", syslogFacilities, SyslogLocal0, Immutable, "facility of syslog lines"),
		yesNo(&o.CrashLogEnabled, "crash-log-enabled", true, Modifiable, "print a report on a crash").
			noEffect("a crash always prints the stacks of all threads"),
		yesNo(&o.CrashMemcheckEnabled, "crash-memcheck-enabled", true, Modifiable, "test the memory on a crash").
			noEffect("memory is not tested on a crash"),
		integer(&o.Databases, "databases", 1, maxInt, 16, Immutable, "number of databases that SELECT can choose from"),
		yesNo(&o.AlwaysShowLogo, "always-show-logo", false, Immutable, "print a picture at start-up even if nobody watches a terminal"),
		yesNo(&o.SetProcTitle, "set-proc-title", true, Immutable, "show address and mode in the process list, if the command line has room for it (Linux)"),
		c.procTitleParam(),
		integer(&o.HZ, "hz", 0, maxInt, 10, Modifiable, "rounds of background work per second, held between 1 and 500"),
		yesNo(&o.DynamicHZ, "dynamic-hz", true, Modifiable, "more rounds with more clients").
			noEffect("idle and slow clients are found by timers, not by scanning all clients"),
		c.dirParam(),
		enum(&o.OOMScoreAdj, "oom-score-adj", []enumWord{{"no", 0}, {"yes", 1}, {"relative", 1}, {"absolute", 2}}, OOMScoreAdjNo, Modifiable,
			"set the kernel's out-of-memory score from oom-score-adj-values"),
		c.oomScoreParam(),
		yesNo(&o.DisableTHP, "disable-thp", true, Immutable, "turn transparent huge pages off for this process, where they are on for all"),
		text(&o.ServerCPUList, "server_cpulist", "", orUnset, Immutable, "CPUs of the main thread").noEffect(goThreads),
		text(&o.BioCPUList, "bio_cpulist", "", orUnset, Immutable, "CPUs of background threads").noEffect(goThreads),
		text(&o.AOFRewriteCPUList, "aof_rewrite_cpulist", "", orUnset, Immutable, "CPUs of the rewriting child").noEffect(goThreads),
		text(&o.BgsaveCPUList, "bgsave_cpulist", "", orUnset, Immutable, "CPUs of the saving child").noEffect(goThreads),
		text(&o.IgnoreWarnings, "ignore-warnings", "", mayBeEmpty, Modifiable, "start-up checks that only warn").
			noEffect("no start-up check here stops the server for a faulty kernel"),
		integer(&o.ShutdownTimeout, "shutdown-timeout", 0, maxInt, 10, Modifiable, "seconds that a shutdown waits for replicas to catch up"),
		flagSet(&o.ShutdownOnSigint, "shutdown-on-sigint", shutdownWords, Modifiable, "options of the SHUTDOWN that SIGINT causes").valid(saveOrNot(&o.ShutdownOnSigint)),
		flagSet(&o.ShutdownOnSigterm, "shutdown-on-sigterm", shutdownWords, Modifiable, "options of the SHUTDOWN that SIGTERM causes").valid(saveOrNot(&o.ShutdownOnSigterm)),
		integer(&o.SlowlogLogSlowerThan, "slowlog-log-slower-than", -1, maxLong, 10000, Modifiable, "microseconds from which a command enters the slow log; -1 never"),
		number(&o.SlowlogMaxLen, "slowlog-max-len", numeric{hi: maxLong}, 128, Modifiable, "entries kept in the slow log"),
		integer(&o.LatencyMonitorThreshold, "latency-monitor-threshold", 0, maxLong, 0, Modifiable, "milliseconds from which LATENCY records an event; 0 is off"),
		yesNo(&o.LatencyTracking, "latency-tracking", true, Modifiable, "keep latency histograms per command"),
		c.percentilesParam(),
		c.notifyParam(),
		integer(&o.BusyReplyThreshold, "busy-reply-threshold", 0, maxLong, 5000, Modifiable,
			"milliseconds after which clients get BUSY while a script runs").also("lua-time-limit").
			noEffect("there are no scripts yet, and no other command runs for long"),
		integer(&o.WatchdogPeriod, "watchdog-period", 0, maxInt, 0, Hidden, "milliseconds that anything may take before the log says what is going on"),
		yesNo(&o.UseExitOnPanic, "use-exit-on-panic", false, Hidden, "exit instead of abort").noEffect(debugging),
	}
}

// SecurityOptions say who may do what.
type SecurityOptions struct {
	ProtectedMode          bool
	RequirePass            string
	ACLFile                string
	ACLLogMaxLen           int64
	ACLPubsubDefault       ACLPubsubDefault
	EnableProtectedConfigs ProtectedAction
	EnableDebugCommand     ProtectedAction
	EnableModuleCommand    ProtectedAction
	SanitizeDumpPayload    SanitizeDumpPayload
}

func (c *Config) securityTable() []*Param {
	action := words("no", "yes", "local")
	o := &c.SecurityOptions
	return []*Param{
		yesNo(&o.ProtectedMode, "protected-mode", true, Modifiable, "without a password, accept loopback connections only"),
		binary(&o.RequirePass, "requirepass", Modifiable|Sensitive, "password of the default user; empty asks for none"),
		text(&o.ACLFile, "aclfile", "", mayBeEmpty, Immutable, "file of users, instead of user lines"),
		number(&o.ACLLogMaxLen, "acllog-max-len", numeric{hi: maxLong}, 128, Modifiable, "entries kept in ACL LOG; of a Sentinel, since a server has one user"),
		enum(&o.ACLPubsubDefault, "acl-pubsub-default", words("allchannels", "resetchannels"), PubsubResetChannels, Modifiable,
			"channels that a new user may use; of a Sentinel, since a server has one user"),
		enum(&o.EnableProtectedConfigs, "enable-protected-configs", action, ProtectedNo, Immutable, "who may set protected parameters at run time"),
		enum(&o.EnableDebugCommand, "enable-debug-command", action, ProtectedNo, Immutable, "who may use DEBUG"),
		enum(&o.EnableModuleCommand, "enable-module-command", action, ProtectedNo, Immutable, "who may use MODULE").
			noEffect("modules of Redis are C libraries and cannot be loaded"),
		enum(&o.SanitizeDumpPayload, "sanitize-dump-payload", words("no", "yes", "clients"), SanitizeNo, Modifiable, "whose RESTORE and RDB payloads are verified in depth").
			noEffect("every payload is verified in depth"),
	}
}

// MemoryOptions bound and tune the use of memory.
type MemoryOptions struct {
	MaxMemory                 uint64
	MaxMemoryPolicy           MaxMemoryPolicy
	MaxMemorySamples          int
	MaxMemoryEvictionTenacity int
	MaxMemoryClients          int64 // bytes; negative is a percentage of MaxMemory, negated
	LFULogFactor              int
	LFUDecayTime              int // minutes
	ActiveExpireEffort        int
	LazyfreeLazyEviction      bool
	LazyfreeLazyExpire        bool
	LazyfreeLazyServerDel     bool
	LazyfreeLazyUserDel       bool
	LazyfreeLazyUserFlush     bool
	ActiveRehashing           bool
	JemallocBgThread          bool
	TrackingTableMaxKeys      int64
	ActiveDefrag              bool
	ActiveDefragIgnoreBytes   uint64
	ActiveDefragThresholdLow  int // active-defrag-threshold-lower
	ActiveDefragThresholdHigh int // active-defrag-threshold-upper
	ActiveDefragCycleMin      int
	ActiveDefragCycleMax      int
	ActiveDefragMaxScanFields int64
}

var maxMemoryPolicyNames = words("volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl",
	"allkeys-lru", "allkeys-lfu", "allkeys-random", "noeviction")

func (c *Config) memoryTable() []*Param {
	o := &c.MemoryOptions
	return []*Param{
		memory(&o.MaxMemory, "maxmemory", 0, maxU64, 0, Modifiable, "bytes at which keys are evicted or writes refused; 0 is no limit"),
		enum(&o.MaxMemoryPolicy, "maxmemory-policy", maxMemoryPolicyNames, NoEviction, Modifiable, "which keys go when maxmemory is reached"),
		integer(&o.MaxMemorySamples, "maxmemory-samples", 1, maxInt, 5, Modifiable, "keys compared per eviction"),
		integer(&o.MaxMemoryEvictionTenacity, "maxmemory-eviction-tenacity", 0, 100, 10, Modifiable, "how long one eviction round may take, 100 without end"),
		number(&o.MaxMemoryClients, "maxmemory-clients", numeric{memory: true, percent: true, lo: -100, hi: maxLong}, 0, Modifiable,
			"memory of all clients, absolute or of maxmemory, above which the largest are closed; 0 is no limit"),
		integer(&o.LFULogFactor, "lfu-log-factor", 0, maxInt, 10, Modifiable, "how slowly the access counter of LFU grows"),
		integer(&o.LFUDecayTime, "lfu-decay-time", 0, maxInt, 1, Modifiable, "minutes after which the access counter of LFU falls by one"),
		integer(&o.ActiveExpireEffort, "active-expire-effort", 1, 10, 1, Modifiable, "how hard expired keys are looked for"),
		yesNo(&o.LazyfreeLazyEviction, "lazyfree-lazy-eviction", false, Modifiable, "free evicted values later"),
		yesNo(&o.LazyfreeLazyExpire, "lazyfree-lazy-expire", false, Modifiable, "free expired values later"),
		yesNo(&o.LazyfreeLazyServerDel, "lazyfree-lazy-server-del", false, Modifiable, "free overwritten values later"),
		yesNo(&o.LazyfreeLazyUserDel, "lazyfree-lazy-user-del", false, Modifiable, "let DEL act as UNLINK"),
		yesNo(&o.LazyfreeLazyUserFlush, "lazyfree-lazy-user-flush", false, Modifiable, "let FLUSHALL and FLUSHDB act as with ASYNC"),
		yesNo(&o.ActiveRehashing, "activerehashing", true, Modifiable, "rehash in idle time").
			noEffect("the index grows in small segments and never rehashes as a whole"),
		yesNo(&o.JemallocBgThread, "jemalloc-bg-thread", true, Modifiable, "let jemalloc purge in a thread").noEffect("jemalloc is not used"),
		count(&o.TrackingTableMaxKeys, "tracking-table-max-keys", 0, maxLong, 1000000, Modifiable, "keys remembered for client-side caching").
			noEffect("client-side caching (CLIENT TRACKING) is not offered"),
	}
}

func (c *Config) defragTable() []*Param {
	o := &c.MemoryOptions
	return []*Param{
		yesNo(&o.ActiveDefrag, "activedefrag", false, Modifiable, "move keys out of sparse memory, so that it can be used anew or given back"),
		memory(&o.ActiveDefragIgnoreBytes, "active-defrag-ignore-bytes", 1, maxLong, 100<<20, Modifiable, "waste that is left alone"),
		integer(&o.ActiveDefragThresholdLow, "active-defrag-threshold-lower", 0, 1000, 10, Modifiable, "waste in percent at which to begin"),
		integer(&o.ActiveDefragThresholdHigh, "active-defrag-threshold-upper", 0, 1000, 100, Modifiable, "waste in percent at which to try hardest"),
		integer(&o.ActiveDefragCycleMin, "active-defrag-cycle-min", 1, 99, 1, Modifiable, "least effort in percent of CPU"),
		integer(&o.ActiveDefragCycleMax, "active-defrag-cycle-max", 1, 99, 25, Modifiable, "most effort in percent of CPU"),
		number(&o.ActiveDefragMaxScanFields, "active-defrag-max-scan-fields", numeric{lo: 1, hi: maxLong}, 1000, Modifiable,
			"fields of a collection handled at once").
			noEffect("a collection is moved as a whole or, when it is large, stays"),
	}
}

// PersistenceOptions are about the journal, snapshots and what is imported.
type PersistenceOptions struct {
	SavePoints                  []SavePoint
	DBFilename                  string
	RDBCompression              bool
	RDBChecksum                 bool
	RDBDelSyncFiles             bool
	RDBSaveIncrementalFsync     bool
	StopWritesOnBgsaveError     bool
	RDBKeySaveDelay             int // microseconds; negative is keys per microsecond
	KeyLoadDelay                int // microseconds; negative is keys per microsecond
	LoadingProcessEventsBytes   int64
	AppendOnly                  bool
	AppendFilename              string
	AppendDirname               string
	AppendFsync                 AppendFsync
	NoAppendFsyncOnRewrite      bool
	AutoAOFRewritePercentage    int
	AutoAOFRewriteMinSize       int64
	AOFLoadTruncated            bool
	AOFUseRDBPreamble           bool
	AOFTimestampEnabled         bool
	AOFRewriteIncrementalFsync  bool
	AOFDisableAutoGC            bool
	PropagationErrorBehavior    PropagationErrorBehavior
	ReplicaIgnoreDiskWriteError bool // replica-ignore-disk-write-errors
}

func (c *Config) persistenceTable() []*Param {
	o := &c.PersistenceOptions
	return []*Param{
		c.saveParam(),
		text(&o.DBFilename, "dbfilename", "dump.rdb", mayBeEmpty, Protected, "name of the snapshot in dir").
			valid(baseName(&o.DBFilename, "dbfilename can't be a path, just a filename", "")),
		yesNo(&o.RDBCompression, "rdbcompression", true, Modifiable, "compress strings in snapshots"),
		yesNo(&o.RDBChecksum, "rdbchecksum", true, Immutable, "write and verify a checksum of snapshots"),
		yesNo(&o.RDBDelSyncFiles, "rdb-del-sync-files", false, Modifiable, "remove snapshots made for replication if nothing else needs them"),
		yesNo(&o.RDBSaveIncrementalFsync, "rdb-save-incremental-fsync", true, Modifiable, "sync a snapshot while it is written"),
		yesNo(&o.StopWritesOnBgsaveError, "stop-writes-on-bgsave-error", true, Modifiable, "refuse writes while the last snapshot failed"),
		integer(&o.RDBKeySaveDelay, "rdb-key-save-delay", minInt, maxInt, 0, Hidden, "microseconds that a snapshot waits per key, for tests; -N waits one per N keys"),
		integer(&o.KeyLoadDelay, "key-load-delay", minInt, maxInt, 0, Hidden, "microseconds that loading waits per key, for tests; -N waits one per N keys"),
		integer(&o.LoadingProcessEventsBytes, "loading-process-events-interval-bytes", 1024, maxInt, 2<<20, Hidden,
			"a master's snapshot that is smaller is loaded without a look at clients in between"),
	}
}

func (c *Config) aofTable() []*Param {
	const (
		compaction = "the journal is trimmed behind a checkpoint and needs no rewriting"
		gc         = "segments behind a checkpoint are always removed"
	)
	o := &c.PersistenceOptions
	return []*Param{
		yesNo(&o.AppendOnly, "appendonly", true, DenyLoading, "keep a journal of all writes; yes unlike Redis, so that nothing acknowledged is lost with the process"),
		text(&o.AppendFilename, "appendfilename", "appendonly.aof", mayBeEmpty, Immutable, "name of the append-only file of Redis that is imported").
			valid(baseName(&o.AppendFilename, "appendfilename can't be a path, just a filename", "appendfilename can't be empty")),
		text(&o.AppendDirname, "appenddirname", "appendonlydir", mayBeEmpty, Immutable, "directory of the append-only files of Redis that are imported").
			valid(baseName(&o.AppendDirname, "appenddirname can't be a path, just a dirname", "appenddirname can't be empty")),
		enum(&o.AppendFsync, "appendfsync", words("everysec", "always", "no"), FsyncEverysec, Modifiable, "when the journal is synced, and so what a power cut may cost"),
		yesNo(&o.NoAppendFsyncOnRewrite, "no-appendfsync-on-rewrite", false, Modifiable, "do not sync while a snapshot is written").
			noEffect("a snapshot never weakens what appendfsync promises"),
		integer(&o.AutoAOFRewritePercentage, "auto-aof-rewrite-percentage", 0, maxInt, 100, Modifiable, "growth of the journal since the last checkpoint that causes the next; 0 never"),
		signedMemory(&o.AutoAOFRewriteMinSize, "auto-aof-rewrite-min-size", 0, maxLong, 64<<20, Modifiable, "size below which the journal causes no checkpoint"),
		yesNo(&o.AOFLoadTruncated, "aof-load-truncated", true, Modifiable, "import an append-only file of Redis whose end is missing"),
		yesNo(&o.AOFUseRDBPreamble, "aof-use-rdb-preamble", true, Modifiable, "begin the append-only file with a snapshot").noEffect(compaction),
		yesNo(&o.AOFTimestampEnabled, "aof-timestamp-enabled", false, Modifiable, "write timestamps into the append-only file").
			noEffect("the journal is not read by time"),
		yesNo(&o.AOFRewriteIncrementalFsync, "aof-rewrite-incremental-fsync", true, Modifiable, "sync a rewrite while it is written").noEffect(compaction),
		yesNo(&o.AOFDisableAutoGC, "aof-disable-auto-gc", false, Modifiable, "keep superseded append-only files").noEffect(gc),
		enum(&o.PropagationErrorBehavior, "propagation-error-behavior", words("ignore", "panic", "panic-on-replicas"), PropagationIgnore, Modifiable,
			"what a replicated or replayed command that fails causes"),
		yesNo(&o.ReplicaIgnoreDiskWriteError, "replica-ignore-disk-write-errors", false, Modifiable,
			"let a replica go on when it cannot store what its master sends; with no it ends"),
	}
}

// ReplicationOptions are about both ends of replication.
type ReplicationOptions struct {
	ReplicaOf                   ReplicaOf
	MasterAuth                  string
	MasterUser                  string
	ReplBacklogSize             int64
	ReplBacklogTTL              int64 // seconds
	ReplTimeout                 int   // seconds
	ReplPingReplicaPeriod       int   // seconds
	ReplDisableTCPNodelay       bool
	ReplDisklessSync            bool
	ReplDisklessSyncDelay       int // seconds
	ReplDisklessSyncMaxReplicas int
	ReplDisklessLoad            ReplDisklessLoad
	MinReplicasToWrite          int
	MinReplicasMaxLag           int // seconds
	ReplicaServeStaleData       bool
	ReplicaReadOnly             bool
	ReplicaLazyFlush            bool
	ReplicaIgnoreMaxMemory      bool
	ReplicaPriority             int
	ReplicaAnnounced            bool
	ReplicaAnnounceIP           string
	ReplicaAnnouncePort         int
}

func (c *Config) replicationTable() []*Param {
	o := &c.ReplicationOptions
	return []*Param{
		c.replicaOfParam(),
		binary(&o.MasterAuth, "masterauth", Modifiable|Sensitive, "password shown to the master"),
		text(&o.MasterUser, "masteruser", "", orUnset, Modifiable|Sensitive, "user that a replica is at its master"),
		signedMemory(&o.ReplBacklogSize, "repl-backlog-size", 1, maxLong, 1<<20, Modifiable, "stream kept for replicas that return, if there is no journal to keep it"),
		integer(&o.ReplBacklogTTL, "repl-backlog-ttl", 0, maxLong, 3600, Modifiable, "seconds without replicas after which a backlog in memory goes; 0 never. A journal on disk is the backlog by itself and stays"),
		integer(&o.ReplTimeout, "repl-timeout", 1, maxInt, 60, Modifiable, "seconds of silence after which a replication link is given up"),
		integer(&o.ReplPingReplicaPeriod, "repl-ping-replica-period", 1, maxInt, 10, Modifiable, "seconds between a master's pings").also("repl-ping-slave-period"),
		yesNo(&o.ReplDisableTCPNodelay, "repl-disable-tcp-nodelay", false, Modifiable, "send to replicas in fewer, later packets"),
		yesNo(&o.ReplDisklessSync, "repl-diskless-sync", true, Modifiable, "send snapshots to replicas without a file"),
		integer(&o.ReplDisklessSyncDelay, "repl-diskless-sync-delay", 0, maxInt, 5, Modifiable, "seconds that such a snapshot waits for further replicas"),
		integer(&o.ReplDisklessSyncMaxReplicas, "repl-diskless-sync-max-replicas", 0, maxInt, 0, Modifiable, "replicas after which it waits no longer; 0 waits in any case"),
		enum(&o.ReplDisklessLoad, "repl-diskless-load", words("disabled", "on-empty-db", "swapdb"), DisklessLoadDisabled, DenyLoading,
			"when a replica loads a snapshot straight from the socket"),
		integer(&o.MinReplicasToWrite, "min-replicas-to-write", 0, maxInt, 0, Modifiable, "replicas in step without which writes are refused; 0 is off").also("min-slaves-to-write"),
		integer(&o.MinReplicasMaxLag, "min-replicas-max-lag", 0, maxInt, 10, Modifiable, "seconds since its last acknowledgement that a replica counts as in step").also("min-slaves-max-lag"),
	}
}

func (c *Config) replicaTable() []*Param {
	o := &c.ReplicationOptions
	return []*Param{
		yesNo(&o.ReplicaServeStaleData, "replica-serve-stale-data", true, Modifiable, "answer while the link to the master is down").also("slave-serve-stale-data"),
		yesNo(&o.ReplicaReadOnly, "replica-read-only", true, Modifiable, "refuse writes of clients on a replica").also("slave-read-only"),
		yesNo(&o.ReplicaLazyFlush, "replica-lazy-flush", false, Modifiable, "free the old data set of a replica in the background").also("slave-lazy-flush"),
		yesNo(&o.ReplicaIgnoreMaxMemory, "replica-ignore-maxmemory", true, Modifiable, "leave eviction to the master").also("slave-ignore-maxmemory"),
		integer(&o.ReplicaPriority, "replica-priority", 0, maxInt, 100, Modifiable, "rank for promotion by Sentinel, lowest first; 0 is never promoted").also("slave-priority"),
		yesNo(&o.ReplicaAnnounced, "replica-announced", true, Modifiable, "let Sentinel tell clients about this replica"),
		text(&o.ReplicaAnnounceIP, "replica-announce-ip", "", orUnset, Modifiable, "address that the master and Sentinel are told").also("slave-announce-ip"),
		integer(&o.ReplicaAnnouncePort, "replica-announce-port", 0, 65535, 0, Modifiable, "port that the master and Sentinel are told; 0 is the real one").also("slave-announce-port"),
	}
}

// ClusterOptions make the server a cluster node.
type ClusterOptions struct {
	ClusterEnabled               bool
	ClusterConfigFile            string
	ClusterPort                  int
	ClusterNodeTimeout           int64 // milliseconds
	ClusterReplicaValidityFactor int
	ClusterMigrationBarrier      int
	ClusterAllowReplicaMigration bool
	ClusterRequireFullCoverage   bool
	ClusterReplicaNoFailover     bool
	ClusterAllowReadsWhenDown    bool
	ClusterAllowPubsubWhenDown   bool // cluster-allow-pubsubshard-when-down
	ClusterLinkSendbufLimit      uint64
	ClusterAnnounceIP            string
	ClusterAnnounceHostname      string
	ClusterAnnouncePort          int
	ClusterAnnounceTLSPort       int
	ClusterAnnounceBusPort       int
	ClusterPreferredEndpointType EndpointType
}

func (c *Config) clusterTable() []*Param {
	o := &c.ClusterOptions
	return []*Param{
		yesNo(&o.ClusterEnabled, "cluster-enabled", false, Immutable, "be a node of a cluster"),
		text(&o.ClusterConfigFile, "cluster-config-file", "nodes.conf", mayBeEmpty, Immutable, "file in dir that the node keeps the cluster's state in"),
		integer(&o.ClusterPort, "cluster-port", 0, 65535, 0, Immutable, "port of the cluster bus; 0 is the port + 10000"),
		integer(&o.ClusterNodeTimeout, "cluster-node-timeout", 0, maxLong, 15000, Modifiable, "milliseconds of silence after which a node is suspected"),
		integer(&o.ClusterReplicaValidityFactor, "cluster-replica-validity-factor", 0, maxInt, 10, Modifiable, "node timeouts of lag beyond which a replica does not stand for election; 0 always stands").also("cluster-slave-validity-factor"),
		integer(&o.ClusterMigrationBarrier, "cluster-migration-barrier", 0, maxInt, 1, Modifiable, "replicas a master must keep before one moves to an orphaned master"),
		yesNo(&o.ClusterAllowReplicaMigration, "cluster-allow-replica-migration", true, Modifiable, "let replicas move to orphaned masters"),
		yesNo(&o.ClusterRequireFullCoverage, "cluster-require-full-coverage", true, Modifiable, "refuse queries while any slot is not served"),
		yesNo(&o.ClusterReplicaNoFailover, "cluster-replica-no-failover", false, Modifiable, "never fail over by itself").also("cluster-slave-no-failover"),
		yesNo(&o.ClusterAllowReadsWhenDown, "cluster-allow-reads-when-down", false, Modifiable, "serve reads while the cluster is down"),
		yesNo(&o.ClusterAllowPubsubWhenDown, "cluster-allow-pubsubshard-when-down", true, Modifiable, "serve sharded pub/sub while the cluster is down"),
		memory(&o.ClusterLinkSendbufLimit, "cluster-link-sendbuf-limit", 0, maxU64, 0, Modifiable, "output on a bus link after which it is closed; 0 is no limit"),
		text(&o.ClusterAnnounceIP, "cluster-announce-ip", "", orUnset, Modifiable, "address that other nodes are told"),
		text(&o.ClusterAnnounceHostname, "cluster-announce-hostname", "", orUnset, Modifiable, "host name that clients are told").valid(hostName(&o.ClusterAnnounceHostname)),
		integer(&o.ClusterAnnouncePort, "cluster-announce-port", 0, 65535, 0, Modifiable, "port that other nodes are told; 0 is the real one"),
		integer(&o.ClusterAnnounceTLSPort, "cluster-announce-tls-port", 0, 65535, 0, Modifiable, "TLS port that other nodes are told; 0 is the real one"),
		integer(&o.ClusterAnnounceBusPort, "cluster-announce-bus-port", 0, 65535, 0, Modifiable, "bus port that other nodes are told; 0 is the real one"),
		enum(&o.ClusterPreferredEndpointType, "cluster-preferred-endpoint-type", words("ip", "hostname", "unknown-endpoint"), EndpointIP, Modifiable,
			"what CLUSTER SLOTS and redirects name a node by"),
	}
}

// EncodingOptions are the sizes up to which values keep a compact form.
type EncodingOptions struct {
	HashMaxListpackEntries int
	HashMaxListpackValue   int
	ListMaxListpackSize    int
	ListCompressDepth      int
	SetMaxIntsetEntries    int
	ZSetMaxListpackEntries int
	ZSetMaxListpackValue   int
	HLLSparseMaxBytes      int
	StreamNodeMaxBytes     int
	StreamNodeMaxEntries   int64
}

func (c *Config) encodingTable() []*Param {
	const streams = "the commands of streams are not built yet"
	o := &c.EncodingOptions
	return []*Param{
		count(&o.HashMaxListpackEntries, "hash-max-listpack-entries", 0, maxLong, 512, Modifiable, "fields up to which a hash is compact").also("hash-max-ziplist-entries"),
		memory(&o.HashMaxListpackValue, "hash-max-listpack-value", 0, maxLong, 64, Modifiable, "length of field or value up to which a hash is compact").also("hash-max-ziplist-value"),
		integer(&o.ListMaxListpackSize, "list-max-listpack-size", minInt, maxInt, -2, Modifiable, "entries per list node, or -1 to -5 for 4 to 64 kb").also("list-max-ziplist-size"),
		integer(&o.ListCompressDepth, "list-compress-depth", 0, maxInt, 0, Modifiable, "nodes at either end of a list that stay uncompressed; 0 compresses none").
			noEffect("list nodes are not compressed"),
		count(&o.SetMaxIntsetEntries, "set-max-intset-entries", 0, maxLong, 512, Modifiable, "members up to which a set of integers is compact"),
		count(&o.ZSetMaxListpackEntries, "zset-max-listpack-entries", 0, maxLong, 128, Modifiable, "members up to which a sorted set is compact").also("zset-max-ziplist-entries"),
		memory(&o.ZSetMaxListpackValue, "zset-max-listpack-value", 0, maxLong, 64, Modifiable, "length of a member up to which a sorted set is compact").also("zset-max-ziplist-value"),
		memory(&o.HLLSparseMaxBytes, "hll-sparse-max-bytes", 0, maxLong, 3000, Modifiable, "bytes up to which a HyperLogLog is sparse").noEffect("the commands of HyperLogLogs are not built yet"),
		memory(&o.StreamNodeMaxBytes, "stream-node-max-bytes", 0, maxLong, 4096, Modifiable, "bytes per stream node; 0 is no limit").noEffect(streams),
		integer(&o.StreamNodeMaxEntries, "stream-node-max-entries", 0, maxLong, 100, Modifiable, "entries per stream node; 0 is no limit").noEffect(streams),
	}
}

// OwnOptions do not exist in Redis.
type OwnOptions struct {
	IOLoops             int // 0 is chosen by the number of CPUs
	LogFormat           LogFormat
	JournalRetainSize   uint64 // bytes
	JournalRetainTime   int64  // seconds
	JournalSegmentSize  uint64 // bytes
	ReplicaLineageGuard bool
	ArrayOptions
}

func (c *Config) ownTable() []*Param {
	o := &c.OwnOptions
	return append([]*Param{
		integer(&o.IOLoops, "io-loops", 0, 128, 0, Immutable|Own, "event loops that serve connections; 0 chooses"),
		enum(&o.LogFormat, "log-format", words("legacy", "logfmt", "json"), LogFormatLegacy, Own, "form of log lines; legacy is that of Redis"),
		memory(&o.JournalRetainSize, "journal-retain-size", 0, maxLong, 0, Own, "journal kept for replicas that return, at least; 0 is the window of Redis"),
		integer(&o.JournalRetainTime, "journal-retain-time", 0, maxLong, 0, Own, "seconds that journal is kept for replicas that return, at least; 0 is the window of Redis"),
		memory(&o.JournalSegmentSize, "journal-segment-size", 4096, 1<<40, 64<<20, Own, "size of a journal file; a change takes effect with the next one"),
		yesNo(&o.ReplicaLineageGuard, "replica-lineage-guard", true, Own, "refuse a master that offers a history that is neither ours nor continues it"),
	}, c.arrayTable()...)
}

// ArrayOptions put the journal and its checkpoints on an array of disks.
type ArrayOptions struct {
	ArrayLevel         ArrayLevel
	ArrayMembers       []string // directories; a relative one is below Dir
	ArraySpares        []string
	ArrayChunk         uint64 // bytes, a power of two
	ArrayScrubInterval int64  // seconds; 0 is never
	ArrayScrubRate     int64  // bytes per second; 0 is without bound
	ArrayRebuildRate   int64  // bytes per second; 0 is without bound
	ArraySpareAfter    int64  // seconds
}

func (c *Config) arrayTable() []*Param {
	o := &c.ArrayOptions
	return []*Param{
		enum(&o.ArrayLevel, "array-level", arrayLevels, ArrayNone, Immutable|Own,
			"RAID level of the disk array that holds the journal and its checkpoints; it is made at the first start. With none they are in dir"),
		directories(&o.ArrayMembers, "array-members", "2 to 32 directories, at least 3 for levels 4 and 5, 4 for level 6",
			"member directories of the array, each meant to be the mount of a disk of its own"),
		directories(&o.ArraySpares, "array-spares", "up to 32 directories",
			"empty directories that step in for members that fail"),
		memory(&o.ArrayChunk, "array-chunk", 512, 4<<20, 64<<10, Immutable|Own, "bytes that lie in one piece on one member; counts when the array is made").
			valid(func() error {
				if o.ArrayChunk&(o.ArrayChunk-1) != 0 {
					return valueError("argument must be a power of two")
				}
				return nil
			}),
		integer(&o.ArrayScrubInterval, "array-scrub-interval", 0, maxInt, 7*24*3600, Immutable|Own, "seconds from one reading of everything on the array to the next; 0 never"),
		signedMemory(&o.ArrayScrubRate, "array-scrub-rate", 0, maxLong, 64<<20, Immutable|Own, "bytes per second that a scrub reads from the members; 0 without bound"),
		signedMemory(&o.ArrayRebuildRate, "array-rebuild-rate", 0, maxLong, 64<<20, Immutable|Own, "bytes per second that a rebuild reads from the members; 0 without bound"),
		integer(&o.ArraySpareAfter, "array-spare-after", 0, maxInt, 300, Immutable|Own, "seconds that a spare waits for a member that is missing; one that failed is replaced at once"),
	}
}
