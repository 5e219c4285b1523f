package server

import (
	"fmt"
	"os"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/redis/command"
	"holdfast/internal/redis/config"
)

func (s *Server) infoCommands() []command.Spec {
	return []command.Spec{
		{Name: "info", Arity: -1, Flags: command.Loading | command.Stale, Cat: command.CatDangerous,
			Tips: []string{"nondeterministic_output", "request_policy:all_shards", "response_policy:special"}, Run: s.cmdInfo},
	}
}

// infoSection is one part of INFO.
type infoSection struct {
	name, title string
	usual       bool // part of INFO without arguments
	write       func(s *Server, w *infoText)
}

// infoSections stand in the order in which they are printed.
var infoSections = []infoSection{
	{"server", "Server", true, (*Server).infoServer},
	{"clients", "Clients", true, (*Server).infoClients},
	{"memory", "Memory", true, (*Server).infoMemory},
	{"persistence", "Persistence", true, (*Server).infoPersistence},
	{"array", "Array", true, (*Server).infoArray},
	{"stats", "Stats", true, (*Server).infoStats},
	{"replication", "Replication", true, func(s *Server, w *infoText) { w.raw(s.infoReplication()) }},
	{"cpu", "CPU", true, (*Server).infoCPU},
	{"modules", "Modules", true, func(*Server, *infoText) {}},
	{"commandstats", "Commandstats", false, (*Server).infoCommandstats},
	{"errorstats", "Errorstats", true, (*Server).infoErrorstats},
	{"latencystats", "Latencystats", false, (*Server).infoLatencystats},
	{"cluster", "Cluster", true, (*Server).infoCluster},
	{"keyspace", "Keyspace", true, (*Server).infoKeyspace},
}

// infoText collects lines.
type infoText struct{ b []byte }

func (w *infoText) f(format string, args ...any) {
	w.b = fmt.Appendf(w.b, format, args...)
	w.b = append(w.b, '\r', '\n')
}

func (w *infoText) raw(s string) { w.b = append(w.b, s...) }

// ints writes lines of names and integers.
func (w *infoText) ints(pairs ...any) {
	for i := 0; i < len(pairs); i += 2 {
		w.f("%s:%d", pairs[i], pairs[i+1])
	}
}

func (s *Server) cmdInfo(c *command.Ctx) {
	want := map[string]bool{}
	for _, a := range c.Args[1:] {
		word := strings.ToLower(string(a))
		for _, sec := range infoSections {
			if sec.name == word || s.hasSection(&sec) && (word == "all" || word == "everything" || (word == "default" && sec.usual)) {
				want[sec.name] = true
			}
		}
		if word == "module_list" {
			want["modules"] = true
		}
	}
	if len(c.Args) == 1 {
		for _, sec := range infoSections {
			want[sec.name] = sec.usual && s.hasSection(&sec)
		}
	}
	c.Verbatim("txt", s.infoText(want))
}

// hasSection: a section that Redis does not know is shown unasked only by a
// server that it says something about.
func (s *Server) hasSection(sec *infoSection) bool {
	return sec.name != "array" || s.cfg.ArrayLevel != config.ArrayNone
}

// infoText writes the wanted sections. The engine's lock is held.
func (s *Server) infoText(want map[string]bool) string {
	var w infoText
	for _, sec := range infoSections {
		if !want[sec.name] {
			continue
		}
		if len(w.b) > 0 {
			w.raw("\r\n")
		}
		w.raw("# " + sec.title + "\r\n")
		sec.write(s, &w)
	}
	return string(w.b)
}

func flag(v bool) int {
	if v {
		return 1
	}
	return 0
}

func (s *Server) mode() string {
	if s.cfg.ClusterEnabled {
		return "cluster"
	}
	return "standalone"
}

func (s *Server) infoServer(w *infoText) {
	now := time.Now()
	up := int64(now.Sub(s.started).Seconds())
	w.f("redis_version:%s", Version)
	w.raw("redis_git_sha1:00000000\r\nredis_git_dirty:0\r\nredis_build_id:0\r\n")
	w.f("redis_mode:%s", s.mode())
	w.f("os:%s", osName())
	w.ints("arch_bits", strconv.IntSize)
	w.raw("monotonic_clock:POSIX clock_gettime\r\nmultiplexing_api:epoll\r\natomicvar_api:go\r\ngcc_version:0.0.0\r\n")
	w.ints("process_id", os.Getpid())
	w.f("process_supervised:%s", supervisedName(s.cfg.Supervised))
	w.f("run_id:%s", s.runID)
	port := s.cfg.Port
	if port == 0 {
		port = s.cfg.TLSPort
	}
	w.ints("tcp_port", port, "server_time_usec", now.UnixMicro(), "uptime_in_seconds", up, "uptime_in_days", up/86400,
		"hz", s.cfg.HZ, "configured_hz", s.cfg.HZ, "lru_clock", now.Unix()&(1<<24-1))
	w.f("executable:%s", s.exe)
	w.f("config_file:%s", s.cfg.File)
	w.ints("io_threads_active", 0)
	if s.shutdown.pending {
		w.ints("shutdown_in_milliseconds", max(0, time.Until(s.shutdown.deadline).Milliseconds()))
	}
}

func osName() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return runtime.GOOS + " " + runtime.GOARCH
	}
	return unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Machine[:])
}

func supervisedName(v config.Supervised) string {
	switch v {
	case config.SupervisedSystemd:
		return "systemd"
	case config.SupervisedUpstart:
		return "upstart"
	}
	return "no"
}

// connectedClients counts clients that are neither replicas nor our master.
func (s *Server) connectedClients() (n int) {
	for _, c := range s.conns {
		if c.closeWhen != closeNow && !c.cl.Has(command.FlagMaster) && (!c.cl.Has(command.FlagReplica) || c.cl.Has(command.FlagMonitor)) {
			n++
		}
	}
	return n
}

func (s *Server) pausedClients() (n int64) {
	for _, c := range s.paused {
		if !c.closed && c.waiting {
			n++
		}
	}
	return n
}

func (s *Server) infoClients(w *infoText) {
	m := s.measureConns()
	links, _ := s.busLinks()
	w.ints("connected_clients", s.connectedClients(), "cluster_connections", links, "maxclients", s.cfg.MaxClients,
		"client_recent_max_input_buffer", m.maxInput, "client_recent_max_output_buffer", m.maxOutput,
		"blocked_clients", s.e.Stat.Blocked+s.pausedClients(), "tracking_clients", 0,
		"clients_in_timeout_table", s.e.BlockedWithTimeout())
}

// humanBytes writes a size as Redis does: 1.50K, 2.00M.
func humanBytes(n int64) string {
	if n < 1024 {
		return strconv.FormatInt(n, 10) + "B"
	}
	f, unit := float64(n), 0
	for f >= 1024 && unit < 5 {
		f /= 1024
		unit++
	}
	return fmt.Sprintf("%.2f%c", f, " KMGTP"[unit])
}

func (w *infoText) bytes(name string, n int64) {
	w.f("%s:%d", name, n)
	w.f("%s_human:%s", name, humanBytes(n))
}

// memoryFigures are what INFO memory and MEMORY STATS tell, in bytes.
type memoryFigures struct {
	used, peak, rss, startup, overhead, dataset int64
	resident                                    int64 // of data: what the arena has mapped
	conns                                       connMemory
	backlog, journal                            int64
	forReplicas                                 int64 // of the stream, beyond the backlog: what slow replicas need yet
	datasetPerc, peakPerc                       float64
}

func (s *Server) memoryFigures() (m memoryFigures) {
	m.conns = s.measureConns()
	m.used = s.usedMemory()
	s.cron.peakMemory = max(s.cron.peakMemory, m.used)
	m.peak, m.startup = s.cron.peakMemory, s.cron.startMemory
	m.rss = readRSS()
	m.resident = max(min(m.rss, s.ks.UsedMemory()), 1)
	if st := s.persist.stream; st != nil {
		m.journal = int64(st.Stats().Buffered)
	}
	m.backlog, m.forReplicas = s.backlogMemory()
	m.overhead = m.startup + s.cron.connMemory + m.backlog + m.forReplicas
	for i := range s.ks.NumDB() {
		main, expires := s.indexMemory(i)
		m.overhead += main + expires
	}
	m.overhead = min(m.overhead, m.used)
	m.dataset = m.used - m.overhead
	if net := m.used - m.startup; net > 0 {
		m.datasetPerc = float64(m.dataset) * 100 / float64(net)
	}
	m.peakPerc = float64(m.used) * 100 / float64(max(m.peak, 1))
	return m
}

// indexMemory is about what the indexes of a database take, in bytes: a slot
// of 8 bytes per key in segments that are four fifths full.
func (s *Server) indexMemory(db int) (main, expires int64) {
	return int64(s.ks.DB(db).Len()) * 10, int64(s.ks.DB(db).Volatile()) * 10
}

func ratio(a, b int64) float64 { return float64(a) / float64(max(b, 1)) }

func (s *Server) infoMemory(w *infoText) {
	m := s.memoryFigures()
	w.bytes("used_memory", m.used)
	w.bytes("used_memory_rss", m.rss)
	w.bytes("used_memory_peak", m.peak)
	w.f("used_memory_peak_perc:%.2f%%", m.peakPerc)
	w.ints("used_memory_overhead", m.overhead, "used_memory_startup", m.startup, "used_memory_dataset", m.dataset)
	w.f("used_memory_dataset_perc:%.2f%%", m.datasetPerc)
	w.ints("allocator_allocated", m.used, "allocator_active", max(m.used, m.resident), "allocator_resident", max(m.used, m.resident))
	w.bytes("total_system_memory", totalMemory())
	// There is no interpreter of scripts, so nothing is taken by one.
	w.raw("used_memory_lua:0\r\nused_memory_vm_eval:0\r\nused_memory_lua_human:0B\r\nused_memory_scripts_eval:0\r\nnumber_of_cached_scripts:0\r\n" +
		"number_of_functions:0\r\nnumber_of_libraries:0\r\nused_memory_vm_functions:0\r\nused_memory_vm_total:0\r\nused_memory_vm_total_human:0B\r\n" +
		"used_memory_functions:0\r\nused_memory_scripts:0\r\nused_memory_scripts_human:0B\r\n")
	w.bytes("maxmemory", int64(s.cfg.MaxMemory))
	w.f("maxmemory_policy:%s", s.cfg.MaxMemoryPolicy)
	fragPercent, fragBytes := s.fragmentation()
	_, busMemory := s.busLinks()
	w.f("allocator_frag_ratio:%.2f", 1+fragPercent/100)
	w.ints("allocator_frag_bytes", fragBytes)
	w.raw("allocator_rss_ratio:1.00\r\nallocator_rss_bytes:0\r\n")
	w.f("rss_overhead_ratio:%.2f", ratio(m.rss, m.resident))
	w.ints("rss_overhead_bytes", m.rss-m.resident)
	w.f("mem_fragmentation_ratio:%.2f", ratio(m.rss, m.used))
	w.ints("mem_fragmentation_bytes", m.rss-m.used, "mem_not_counted_for_evict", m.conns.replicas+m.forReplicas,
		"mem_replication_backlog", m.backlog, "mem_total_replication_buffers", m.backlog+m.forReplicas,
		"mem_clients_slaves", m.forReplicas, "mem_clients_normal", m.conns.normal, "mem_cluster_links", busMemory, "mem_aof_buffer", m.journal)
	w.raw("mem_allocator:arena\r\n")
	w.ints("active_defrag_running", s.cron.defrag.running)
	w.ints("lazyfree_pending_objects", s.ks.PendingFree(), "lazyfreed_objects", s.ks.LazyFreed())
}

func totalMemory() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return int64(uint64(info.Totalram) * uint64(info.Unit))
}

func okOrErr(ok bool) string {
	if ok {
		return "ok"
	}
	return "err"
}

// jobAge is for how many seconds a snapshot of that kind has been running, -1
// when none is.
func (s *Server) jobAge(what string) int64 {
	if j := s.persist.job; j != nil && j.what == what {
		return int64(time.Since(j.began).Seconds())
	}
	return -1
}

func (s *Server) jobIs(what string) bool { return s.persist.job != nil && s.persist.job.what == what }

func (s *Server) infoPersistence(w *infoText) {
	p := &s.persist
	done, total := 0, 0
	if p.job != nil {
		done, total = p.job.snap.Progress()
	}
	w.ints("loading", flag(s.e.State.Loading && !s.e.State.AsyncLoading), "async_loading", flag(s.e.State.AsyncLoading),
		"current_cow_peak", 0, "current_cow_size", 0, "current_cow_size_age", 0)
	w.f("current_fork_perc:%.2f", float64(done)*100/float64(max(total, 1)))
	w.ints("current_save_keys_processed", done, "current_save_keys_total", total,
		"rdb_changes_since_last_save", s.e.Dirty, "rdb_bgsave_in_progress", flag(s.savesAlready() || s.repl.sync != nil), "rdb_last_save_time", p.lastSave.Unix())
	w.f("rdb_last_bgsave_status:%s", okOrErr(!p.lastSaveFailed))
	w.ints("rdb_last_bgsave_time_sec", p.lastBgsaveSec, "rdb_current_bgsave_time_sec", max(s.jobAge("dump"), s.jobAge("sync")), "rdb_saves", p.saves,
		"rdb_last_cow_size", 0, "rdb_last_load_keys_expired", p.expiredKeys, "rdb_last_load_keys_loaded", p.loadedKeys,
		"aof_enabled", flag(p.journal != nil), "aof_rewrite_in_progress", flag(s.jobIs("checkpoint")), "aof_rewrite_scheduled", flag(p.ckptScheduled),
		"aof_last_rewrite_time_sec", p.lastCkptSec, "aof_current_rewrite_time_sec", s.jobAge("checkpoint"))
	w.f("aof_last_bgrewrite_status:%s", okOrErr(!p.lastCkptFailed))
	w.ints("aof_rewrites", p.ckpts, "aof_rewrites_consecutive_failures", p.checkpointFailures)
	w.f("aof_last_write_status:%s", okOrErr(p.journalErr == nil))
	w.raw("aof_last_cow_size:0\r\nmodule_fork_in_progress:0\r\nmodule_fork_last_cow_size:0\r\n")
	if p.journal != nil {
		st := p.journal.Stats()
		w.ints("aof_current_size", st.DiskBytes, "aof_base_size", p.ckptBase, "aof_pending_rewrite", 0,
			"aof_buffer_length", st.Buffered, "aof_pending_bio_fsync", flag(st.SyncInProgress), "aof_delayed_fsync", st.Delayed)
	}
	s.infoLoading(w)
	if p.journal != nil {
		st := p.journal.Stats()
		w.ints("journal_generation", st.Generation, "journal_position", st.End, "journal_synced_position", st.Synced,
			"journal_segments", st.Segments, "journal_bytes", st.DiskBytes)
	}
}

func (s *Server) infoLoading(w *infoText) {
	if !s.e.State.Loading {
		return
	}
	p := &s.persist
	done := p.loadDone.Load()
	elapsed := time.Since(p.loadStart).Seconds()
	eta := int64(1)
	perc := 0.0
	if p.loadTotal > 0 {
		perc = float64(done) * 100 / float64(p.loadTotal)
	}
	if done > 0 && elapsed > 0 {
		eta = int64(float64(max(0, p.loadTotal-done)) / (float64(done) / elapsed))
	}
	w.ints("loading_start_time", p.loadStart.Unix(), "loading_total_bytes", p.loadTotal, "loading_rdb_used_mem", 0, "loading_loaded_bytes", done)
	w.f("loading_loaded_perc:%.2f", perc)
	w.ints("loading_eta_seconds", eta)
}

func (s *Server) infoStats(w *infoText) {
	st, e := &s.stat, &s.e.Stat
	kbps := func(name string, m *sampler) { w.f("%s:%.2f", name, float64(m.rate())/1024) }
	w.ints("total_connections_received", st.accepted, "total_commands_processed", e.Commands, "instantaneous_ops_per_sec", st.instOps.rate(),
		"total_net_input_bytes", st.inBytes.Load()+st.replInBytes.Load(), "total_net_output_bytes", st.outBytes.Load()+st.replOutBytes.Load(),
		"total_net_repl_input_bytes", st.replInBytes.Load(), "total_net_repl_output_bytes", st.replOutBytes.Load())
	kbps("instantaneous_input_kbps", &st.instIn)
	kbps("instantaneous_output_kbps", &st.instOut)
	kbps("instantaneous_input_repl_kbps", &st.instReplIn)
	kbps("instantaneous_output_repl_kbps", &st.instReplOut)
	full, partial, refused := s.repl.fullSyncs, s.repl.partialOK, s.repl.partialErr
	w.ints("rejected_connections", st.rejected, "sync_full", full, "sync_partial_ok", partial, "sync_partial_err", refused, "expired_keys", e.ExpiredKeys)
	w.f("expired_stale_perc:%.2f", e.ExpiredStale*100)
	exceeded := s.e.EvictionExceededUs()
	channels, patterns, shard := s.e.PubsubCounts()
	w.ints("expired_time_cap_reached_count", e.ExpireCapReached, "expire_cycle_cpu_milliseconds", e.ExpireCPUUs/1000,
		"evicted_keys", e.EvictedKeys, "evicted_clients", e.EvictedClients,
		"total_eviction_exceeded_time", (e.EvictionExceededUs+exceeded)/1000, "current_eviction_exceeded_time", exceeded/1000,
		"keyspace_hits", e.KeyspaceHits, "keyspace_misses", e.KeyspaceMisses,
		"pubsub_channels", channels, "pubsub_patterns", patterns, "pubsubshard_channels", shard)
	w.ints("latest_fork_usec", 0, "total_forks", 0, "migrate_cached_sockets", s.migrate.kept(), "slave_expires_tracked_keys", s.e.OwnExpires())
	defragTotal, defragNow := s.defragTimes()
	d := &s.cron.defrag
	w.ints("active_defrag_hits", d.hits, "active_defrag_misses", d.misses, "active_defrag_key_hits", d.hits, "active_defrag_key_misses", d.misses,
		"total_active_defrag_time", defragTotal, "current_active_defrag_time", defragNow)
	w.raw("tracking_total_keys:0\r\ntracking_total_items:0\r\ntracking_total_prefixes:0\r\n")
	w.ints("unexpected_error_replies", e.UnexpectedErrors, "total_error_replies", e.ErrorReplies, "dump_payload_sanitizations", 0,
		"total_reads_processed", st.reads.Load(), "total_writes_processed", st.writes.Load())
	w.raw("io_threaded_reads_processed:0\r\nio_threaded_writes_processed:0\r\n")
	w.ints("reply_buffer_shrinks", s.stat.replyShrinks, "reply_buffer_expands", s.stat.replyGrows)
}

func (s *Server) infoCPU(w *infoText) {
	line := func(name string, t unix.Timeval) { w.f("%s:%d.%06d", name, t.Sec, t.Usec) }
	var self, children unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &self) // fails for bad arguments only
	_ = unix.Getrusage(unix.RUSAGE_CHILDREN, &children)
	line("used_cpu_sys", self.Stime)
	line("used_cpu_user", self.Utime)
	line("used_cpu_sys_children", children.Stime)
	line("used_cpu_user_children", children.Utime)
	// No thread is the main one here: its share is that of the process.
	line("used_cpu_sys_main_thread", self.Stime)
	line("used_cpu_user_main_thread", self.Utime)
}

// eachCommand calls fn for every command and subcommand that has a handler.
func (s *Server) eachCommand(fn func(*command.Spec)) {
	for _, spec := range s.e.Table.All {
		fn(spec)
		for _, sub := range spec.Sub {
			fn(sub)
		}
	}
}

func (s *Server) infoCommandstats(w *infoText) {
	s.eachCommand(func(spec *command.Spec) {
		st := spec.Stats()
		if st.Calls == 0 && st.Failed == 0 && st.Rejected == 0 {
			return
		}
		per := 0.0
		if st.Calls > 0 {
			per = float64(st.Usec) / float64(st.Calls)
		}
		w.f("cmdstat_%s:calls=%d,usec=%d,usec_per_call=%.2f,rejected_calls=%d,failed_calls=%d", spec.Full, st.Calls, st.Usec, per, st.Rejected, st.Failed)
	})
}

func (s *Server) infoErrorstats(w *infoText) {
	var lines []string
	s.e.Errors(func(code string, n int64) {
		lines = append(lines, fmt.Sprintf("errorstat_%s:count=%d\r\n", safeInfo(code), n))
	})
	sort.Strings(lines)
	w.raw(strings.Join(lines, ""))
}

// safeInfo replaces what would break a line of INFO.
func safeInfo(s string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("#:\n\r", r) {
			return '_'
		}
		return r
	}, s)
}

func (s *Server) infoLatencystats(w *infoText) {
	if !s.cfg.LatencyTracking {
		return
	}
	s.eachCommand(func(spec *command.Spec) {
		h := spec.Stats().Hist
		if h == nil || h.Total == 0 {
			return
		}
		parts := make([]string, 0, len(s.cfg.LatencyPercentiles))
		for _, p := range s.cfg.LatencyPercentiles {
			parts = append(parts, fmt.Sprintf("p%s=%.3f", strconv.FormatFloat(p, 'f', -1, 64), float64(h.Percentile(p))/1000))
		}
		w.f("latency_percentiles_usec_%s:%s", spec.Full, strings.Join(parts, ","))
	})
}

func (s *Server) infoCluster(w *infoText) { w.ints("cluster_enabled", flag(s.cfg.ClusterEnabled)) }

func (s *Server) infoKeyspace(w *infoText) {
	for i := range s.ks.NumDB() {
		db := s.ks.DB(i)
		keys := s.e.VisibleLen(db)
		if keys == 0 {
			continue
		}
		w.f("db%d:keys=%d,expires=%d,avg_ttl=%d", i, keys, db.Volatile(), db.AvgTTL(s.e.NowMs))
	}
}
