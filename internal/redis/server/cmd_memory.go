package server

import (
	"fmt"
	"runtime/debug"
	"strings"

	"holdfast/internal/redis/command"
)

func (s *Server) memoryCommands() []command.Spec {
	special := []string{"nondeterministic_output", "request_policy:all_shards", "response_policy:special"}
	return []command.Spec{
		{Name: "memory", Arity: -2, Sub: []*command.Spec{
			{Name: "doctor", Arity: 2, Tips: special, Run: s.cmdMemoryDoctor},
			{Name: "help", Arity: 2, Flags: command.Loading | command.Stale, Run: cmdMemoryHelp},
			{Name: "malloc-stats", Arity: 2, Tips: special, Run: s.cmdMemoryMallocStats},
			{Name: "purge", Arity: 2, Tips: []string{"request_policy:all_shards", "response_policy:all_succeeded"}, Run: cmdMemoryPurge},
			{Name: "stats", Arity: 2, Tips: special, Run: s.cmdMemoryStats},
			command.MemoryUsageSpec(),
		}},
	}
}

func (s *Server) cmdMemoryStats(c *command.Ctx) {
	m := s.memoryFigures()
	keys, used := 0, []int(nil)
	for i := range s.ks.NumDB() {
		if n := s.ks.DB(i).Len(); n > 0 {
			keys += n
			used = append(used, i)
		}
	}
	perKey := int64(0)
	if keys > 0 {
		perKey = (m.used - m.startup) / int64(keys)
	}
	c.Map(27 + len(used))
	ints := func(pairs ...any) {
		for i := 0; i < len(pairs); i += 2 {
			c.BulkStr(pairs[i].(string))
			c.Int(pairs[i+1].(int64))
		}
	}
	double := func(name string, f float64) {
		c.BulkStr(name)
		c.Double(f)
	}
	ints("peak.allocated", m.peak, "total.allocated", m.used, "startup.allocated", m.startup, "replication.backlog", m.backlog,
		"clients.slaves", m.forReplicas, "clients.normal", m.conns.normal, "cluster.links", int64(0), "aof.buffer", m.journal,
		"lua.caches", int64(0), "functions.caches", int64(0))
	for _, i := range used {
		main, expires := s.indexMemory(i)
		c.BulkStr(fmt.Sprintf("db.%d", i))
		c.Map(3)
		ints("overhead.hashtable.main", main, "overhead.hashtable.expires", expires, "overhead.hashtable.slot-to-keys", int64(0))
	}
	ints("overhead.total", m.overhead, "keys.count", int64(keys), "keys.bytes-per-key", perKey, "dataset.bytes", m.dataset)
	double("dataset.percentage", m.datasetPerc)
	double("peak.percentage", m.peakPerc)
	active := max(m.used, m.resident)
	ints("allocator.allocated", m.used, "allocator.active", active, "allocator.resident", active)
	double("allocator-fragmentation.ratio", 1)
	ints("allocator-fragmentation.bytes", int64(0))
	double("allocator-rss.ratio", 1)
	ints("allocator-rss.bytes", int64(0))
	double("rss-overhead.ratio", ratio(m.rss, m.resident))
	ints("rss-overhead.bytes", m.rss-m.resident)
	double("fragmentation", ratio(m.rss, m.used))
	ints("fragmentation.bytes", m.rss-m.used)
}

func (s *Server) cmdMemoryDoctor(c *command.Ctx) {
	m := s.memoryFigures()
	const little = 5 << 20
	if m.used < little {
		c.Verbatim("txt", "Hi Sam, this instance is empty or is using very little memory, my issues detector can't be used in these conditions. "+
			"Please, leave for your mission on Earth and fill it with some data. The new Sam and I will be back to our programming as soon as I finished rebooting.\n")
		return
	}
	var found []string
	if ratio(m.peak, m.used) > 1.5 {
		found = append(found, " * Peak memory: In the past this instance used more than 150% the memory that is currently using. "+
			"What is free is used again before more is taken from the system.")
	}
	if ratio(m.rss, m.used) > 1.4 && m.rss-m.used > 10<<20 {
		found = append(found, " * High total RSS: This instance has a memory fragmentation and RSS overhead greater than 1.4: "+
			"MEMORY PURGE gives back what the process itself holds in reserve.")
	}
	if n := int64(s.connectedClients()); n > 0 && m.conns.normal/n > 200<<10 {
		found = append(found, " * Big client buffers: The clients' output or input buffers are greater than 200K per client on average. "+
			"CLIENT LIST shows which ones they are.")
	}
	if len(found) == 0 {
		c.Verbatim("txt", "Hi Sam, I can't find any memory issue in your instance. I can only account for what occurs on this base.\n")
		return
	}
	c.Verbatim("txt", "Sam, I detected a few issues in this Redis instance memory implants:\n\n"+strings.Join(found, "\n\n")+
		"\n\nI'm here to keep you safe, Sam. I want to help you.\n")
}

func (s *Server) cmdMemoryMallocStats(c *command.Ctx) {
	m := s.memoryFigures()
	c.Verbatim("txt", fmt.Sprintf("Data lies in an arena of slabs, outside of the collected heap.\ndata: %d bytes\nconnections: %d bytes\njournal, not yet written: %d bytes\n"+
		"stream window: %d bytes\nwaiting to be freed: %d objects\nresident: %d bytes\n",
		s.ks.UsedMemory(), m.conns.normal+m.conns.replicas, m.journal, m.backlog, s.ks.PendingFree(), m.rss))
}

func cmdMemoryPurge(c *command.Ctx) {
	go debug.FreeOSMemory() // takes a while, and nobody waits for it
	c.OK()
}

func cmdMemoryHelp(c *command.Ctx) {
	c.Help(strings.Split(`DOCTOR
    Return memory problems reports.
MALLOC-STATS
    Return internal statistics report from the memory allocator.
PURGE
    Attempt to purge dirty pages for reclamation by the allocator.
STATS
    Return information about the memory usage of the server.
USAGE <key> [SAMPLES <count>]
    Return memory in bytes used by <key> and its value. Nested values are
    sampled up to <count> times (default: 5, 0 means sample all).`, "\n")...)
}
