package sentineld

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"holdfast/internal/redis/config"
)

// infoSections are the sections of INFO here, in order.
var infoSections = []string{"server", "clients", "stats", "cpu", "sentinel"}

// infoText renders INFO; it runs inside the loop, since it asks the core.
func (s *shell) infoText(wanted []string) string {
	show := map[string]bool{}
	for _, w := range wanted {
		switch w = strings.ToLower(w); w {
		case "all", "default", "everything":
			for _, n := range infoSections {
				show[n] = true
			}
		default:
			show[w] = true
		}
	}
	var parts []string
	for _, n := range infoSections {
		if len(wanted) > 0 && !show[n] {
			continue
		}
		switch n {
		case "server":
			parts = append(parts, s.infoServer())
		case "clients":
			parts = append(parts, s.infoClients())
		case "stats":
			parts = append(parts, s.infoStats())
		case "cpu":
			parts = append(parts, infoCPU())
		case "sentinel":
			parts = append(parts, s.core.InfoSection(time.Now()))
		}
	}
	return strings.Join(parts, "\r\n")
}

func (s *shell) infoServer() string {
	up := int64(time.Since(s.started).Seconds())
	exe, _ := os.Executable() // "" where the system cannot tell
	now := time.Now()
	port := s.base.Port
	if port == 0 {
		port = s.base.TLSPort
	}
	return fmt.Sprintf("# Server\r\nredis_version:%s\r\nredis_git_sha1:00000000\r\nredis_git_dirty:0\r\nredis_build_id:0\r\n"+
		"redis_mode:sentinel\r\nos:%s\r\narch_bits:64\r\nmonotonic_clock:Go runtime\r\nmultiplexing_api:%s\r\natomicvar_api:Go\r\n"+
		"gcc_version:0.0.0\r\nprocess_id:%d\r\nprocess_supervised:no\r\nrun_id:%s\r\ntcp_port:%d\r\nserver_time_usec:%d\r\n"+
		"uptime_in_seconds:%d\r\nuptime_in_days:%d\r\nhz:%d\r\nconfigured_hz:%d\r\nlru_clock:%d\r\nexecutable:%s\r\n"+
		"config_file:%s\r\nio_threads_active:0\r\n",
		config.Version, osName(), pollName(), os.Getpid(), s.runID, port, now.UnixMicro(),
		up, up/86400, s.base.HZ, s.base.HZ, now.Unix()&(1<<24-1), exe, s.base.File)
}

func osName() string { return runtime.GOOS + " " + runtime.GOARCH }

func pollName() string {
	if runtime.GOOS == "linux" {
		return "epoll"
	}
	return "kqueue"
}

func (s *shell) infoClients() string {
	return fmt.Sprintf("# Clients\r\nconnected_clients:%d\r\ncluster_connections:0\r\nmaxclients:%d\r\n"+
		"client_recent_max_input_buffer:0\r\nclient_recent_max_output_buffer:0\r\nblocked_clients:0\r\n"+
		"tracking_clients:0\r\nclients_in_timeout_table:0\r\n", len(s.clients.list()), s.base.MaxClients)
}

// infoStats has all fields of Redis; what a Sentinel never does stays 0.
func (s *shell) infoStats() string {
	channels, patterns := s.pubsub.counts()
	st := &s.stats
	values := map[string]int64{
		"total_connections_received": st.connections.Load(), "total_commands_processed": st.commands.Load(),
		"total_net_input_bytes": st.in.Load(), "total_net_output_bytes": st.out.Load(),
		"rejected_connections": st.rejected.Load(), "pubsub_channels": int64(channels),
		"pubsub_patterns": int64(patterns), "total_error_replies": st.errors.Load(),
		"total_reads_processed": st.reads.Load(), "total_writes_processed": st.writes.Load(),
	}
	var b strings.Builder
	b.WriteString("# Stats\r\n")
	for _, f := range statsFields {
		if strings.HasSuffix(f, "kbps") || f == "expired_stale_perc" {
			fmt.Fprintf(&b, "%s:0.00\r\n", f)
			continue
		}
		fmt.Fprintf(&b, "%s:%d\r\n", f, values[f])
	}
	return b.String()
}

var statsFields = strings.Fields(`total_connections_received total_commands_processed instantaneous_ops_per_sec
	total_net_input_bytes total_net_output_bytes total_net_repl_input_bytes total_net_repl_output_bytes
	instantaneous_input_kbps instantaneous_output_kbps instantaneous_input_repl_kbps instantaneous_output_repl_kbps
	rejected_connections sync_full sync_partial_ok sync_partial_err expired_keys expired_stale_perc
	expired_time_cap_reached_count expire_cycle_cpu_milliseconds evicted_keys evicted_clients total_eviction_exceeded_time
	current_eviction_exceeded_time keyspace_hits keyspace_misses pubsub_channels pubsub_patterns pubsubshard_channels
	latest_fork_usec total_forks migrate_cached_sockets slave_expires_tracked_keys active_defrag_hits active_defrag_misses
	active_defrag_key_hits active_defrag_key_misses total_active_defrag_time current_active_defrag_time tracking_total_keys
	tracking_total_items tracking_total_prefixes unexpected_error_replies total_error_replies dump_payload_sanitizations
	total_reads_processed total_writes_processed io_threaded_reads_processed io_threaded_writes_processed
	reply_buffer_shrinks reply_buffer_expands`)

func infoCPU() string {
	var self, children syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &self)         // zero where unknown
	_ = syscall.Getrusage(syscall.RUSAGE_CHILDREN, &children) // zero where unknown
	sec := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
	return fmt.Sprintf("# CPU\r\nused_cpu_sys:%.6f\r\nused_cpu_user:%.6f\r\nused_cpu_sys_children:%.6f\r\n"+
		"used_cpu_user_children:%.6f\r\nused_cpu_sys_main_thread:%.6f\r\nused_cpu_user_main_thread:%.6f\r\n",
		sec(self.Stime), sec(self.Utime), sec(children.Stime), sec(children.Utime), sec(self.Stime), sec(self.Utime))
}
