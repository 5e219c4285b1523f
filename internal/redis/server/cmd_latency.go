package server

import (
	"fmt"
	"sort"
	"strings"
	"time"

	"holdfast/internal/redis/command"
)

func (s *Server) latencyCommands() []command.Spec {
	special := []string{"nondeterministic_output", "request_policy:all_nodes", "response_policy:special"}
	return []command.Spec{
		{Name: "latency", Arity: -2, Sub: []*command.Spec{
			{Name: "doctor", Arity: 2, Flags: adminTime, Tips: special, Run: s.cmdLatencyDoctor},
			{Name: "graph", Arity: 3, Flags: adminTime, Tips: special, Run: s.cmdLatencyGraph},
			{Name: "help", Arity: 2, Flags: command.Loading | command.Stale, Run: cmdLatencyHelp},
			{Name: "histogram", Arity: -2, Flags: adminTime, Tips: special, Run: s.cmdLatencyHistogram},
			{Name: "history", Arity: 3, Flags: adminTime, Tips: special, Run: s.cmdLatencyHistory},
			{Name: "latest", Arity: 2, Flags: adminTime, Tips: special, Run: s.cmdLatencyLatest},
			{Name: "reset", Arity: -2, Flags: adminTime, Tips: []string{"request_policy:all_nodes", "response_policy:all_succeeded"}, Run: s.cmdLatencyReset},
		}},
	}
}

// latencyEvents are the classes with samples, in alphabetical order.
func (s *Server) latencyEvents() []string {
	var names []string
	s.e.Latency.Events(func(event string, _ *command.LatencySeries) { names = append(names, event) })
	sort.Strings(names)
	return names
}

func (s *Server) cmdLatencyLatest(c *command.Ctx) {
	names := s.latencyEvents()
	c.Array(len(names))
	for _, n := range names {
		ts := s.e.Latency.Series(n)
		last := ts.Samples[len(ts.Samples)-1]
		c.Array(4)
		c.BulkStr(n)
		c.Int(last.TimeSec)
		c.Int(last.Ms)
		c.Int(ts.MaxMs)
	}
}

func (s *Server) cmdLatencyHistory(c *command.Ctx) {
	ts := s.e.Latency.Series(string(c.Args[2]))
	if ts == nil {
		c.Array(0)
		return
	}
	c.Array(len(ts.Samples))
	for _, x := range ts.Samples {
		c.Array(2)
		c.Int(x.TimeSec)
		c.Int(x.Ms)
	}
}

func (s *Server) cmdLatencyReset(c *command.Ctx) {
	names := s.latencyEvents()
	if len(c.Args) > 2 {
		names = nil
		for _, a := range c.Args[2:] {
			names = append(names, string(a))
		}
	}
	n := int64(0)
	for _, name := range names {
		n += int64(flag(s.e.Latency.Reset(name)))
	}
	c.Int(n)
}

func (s *Server) cmdLatencyHistogram(c *command.Ctx) {
	m, n := c.Defer(), 0
	add := func(spec *command.Spec) {
		if h := spec.Stats().Hist; h != nil && h.Total > 0 {
			c.BulkStr(spec.Full)
			histogramReply(c, h)
			n++
		}
	}
	if len(c.Args) == 2 {
		s.eachCommand(add)
	}
	for _, a := range c.Args[2:] {
		spec := s.e.Table.LookupFull(string(a))
		if spec == nil {
			continue
		}
		add(spec)
		for _, sub := range spec.Sub {
			add(sub)
		}
	}
	c.CloseMap(m, n)
}

func histogramReply(c *command.Ctx, h *command.Histogram) {
	c.Map(2)
	c.BulkStr("calls")
	c.Int(h.Total)
	c.BulkStr("histogram_usec")
	m, n := c.Defer(), 0
	h.Counts(func(usec, cumulative int64) {
		c.Int(usec)
		c.Int(cumulative)
		n++
	})
	c.CloseMap(m, n)
}

// --- GRAPH ---

const (
	graphColumns = 80
	graphRows    = 4
	graphFill    = "_o#"
)

func (s *Server) cmdLatencyGraph(c *command.Ctx) {
	event := string(c.Args[2])
	ts := s.e.Latency.Series(event)
	if ts == nil {
		c.Errf("ERR No samples available for event '%s'", event)
		return
	}
	now := time.Now().Unix()
	values, labels := make([]int64, 0, len(ts.Samples)), make([]string, 0, len(ts.Samples))
	for _, x := range ts.Samples {
		values = append(values, x.Ms)
		labels = append(labels, ago(now-x.TimeSec))
	}
	lo, hi := bounds(values)
	var b strings.Builder
	fmt.Fprintf(&b, "%s - high %d ms, low %d ms (all time high %d ms)\n%s\n", event, hi, lo, ts.MaxMs, strings.Repeat("-", graphColumns))
	for at := 0; at < len(values); at += graphColumns {
		if at > 0 {
			b.WriteByte('\n')
		}
		end := min(at+graphColumns, len(values))
		drawGraph(&b, values[at:end], labels[at:end], lo, hi)
	}
	c.Verbatim("txt", b.String())
}

func bounds(values []int64) (lo, hi int64) {
	lo, hi = values[0], values[0]
	for _, v := range values {
		lo, hi = min(lo, v), max(hi, v)
	}
	return lo, hi
}

func ago(sec int64) string {
	switch {
	case sec < 60:
		return fmt.Sprintf("%ds", sec)
	case sec < 3600:
		return fmt.Sprintf("%dm", sec/60)
	case sec < 24*3600:
		return fmt.Sprintf("%dh", sec/3600)
	}
	return fmt.Sprintf("%dd", sec/(24*3600))
}

// drawGraph draws bars from the top row down, an empty row, and the labels
// below, from top to bottom.
func drawGraph(b *strings.Builder, values []int64, labels []string, lo, hi int64) {
	steps := len(graphFill) * graphRows
	span := float64(max(hi-lo, 1))
	line := make([]byte, len(values))
	for row := range graphRows {
		for i, v := range values {
			step := min(int(float64(v-lo)*float64(steps)/span), steps-1)
			at := step - (graphRows-row-1)*len(graphFill)
			switch {
			case at < 0:
				line[i] = ' '
			case at < len(graphFill):
				line[i] = graphFill[at]
			default:
				line[i] = '|'
			}
		}
		b.Write(line)
		b.WriteByte('\n')
	}
	b.WriteString(strings.Repeat(" ", len(values)) + "\n")
	for row := 0; ; row++ {
		any := false
		for i, l := range labels {
			line[i] = ' '
			if row < len(l) {
				line[i], any = l[row], true
			}
		}
		if !any {
			return
		}
		b.Write(line)
		b.WriteByte('\n')
	}
}

// --- DOCTOR ---

func (s *Server) cmdLatencyDoctor(c *command.Ctx) {
	if s.cfg.LatencyMonitorThreshold == 0 && s.e.Latency.Len() == 0 {
		c.Verbatim("txt", "I'm sorry, Dave, I can't do that. Latency monitoring is disabled in this Redis instance. You may use "+
			"\"CONFIG SET latency-monitor-threshold <milliseconds>.\" in order to enable it. If we weren't in a deep space mission I'd suggest to take a look at "+
			"https://redis.io/topics/latency-monitor.\n")
		return
	}
	names := s.latencyEvents()
	if len(names) == 0 {
		c.Verbatim("txt", "Dave, no latency spike was observed during the lifetime of this Redis instance, not in the slightest bit. "+
			"I honestly think you ought to sit down calmly, take a stress pill, and think things over.\n")
		return
	}
	var b strings.Builder
	b.WriteString("Dave, I have observed latency spikes in this Redis instance. You don't mind talking about it, do you Dave?\n\n")
	advice := map[string]bool{}
	for i, n := range names {
		ts := s.e.Latency.Series(n)
		avg, mad, period := describeSeries(ts)
		fmt.Fprintf(&b, "%d. %s: %d latency spikes (average %dms, mean deviation %dms, period %.2f sec). Worst all time event %dms.\n", i+1, n, len(ts.Samples), avg, mad, period, ts.MaxMs)
		advice[n] = true
	}
	b.WriteString("\nI have a few advices for you:\n\n")
	for _, line := range s.latencyAdvice(advice) {
		b.WriteString("- " + line + "\n")
	}
	c.Verbatim("txt", b.String())
}

func describeSeries(ts *command.LatencySeries) (avg, mad int64, period float64) {
	n := int64(len(ts.Samples))
	var sum, dev int64
	for _, x := range ts.Samples {
		sum += x.Ms
	}
	avg = sum / n
	for _, x := range ts.Samples {
		dev += max(x.Ms-avg, avg-x.Ms)
	}
	elapsed := max(time.Now().Unix()-ts.Samples[0].TimeSec, 1)
	return avg, dev / n, float64(elapsed) / float64(n)
}

func (s *Server) latencyAdvice(seen map[string]bool) (lines []string) {
	if seen["command"] || seen["fast-command"] {
		limit := s.cfg.LatencyMonitorThreshold * 1000
		switch {
		case s.cfg.SlowlogLogSlowerThan < 0:
			lines = append(lines, fmt.Sprintf("There are latency issues with potentially slow commands you are using. Try to enable the Slow Log Redis feature using the command 'CONFIG SET slowlog-log-slower-than %d'. "+
				"If the Slow log is disabled Redis is not able to log slow commands execution for you.", limit))
		case s.cfg.SlowlogLogSlowerThan > limit:
			lines = append(lines, fmt.Sprintf("Your current Slow Log configuration only logs events that are slower than your configured latency monitor threshold. Please use 'CONFIG SET slowlog-log-slower-than %d'.", limit))
		}
		lines = append(lines,
			"Check your Slow Log to understand what are the commands you are running which are too slow to execute. Please check https://redis.io/commands/slowlog for more information.")
	}
	if seen["expire-cycle"] && s.cfg.HZ < 100 {
		lines = append(lines, "In order to make the Redis keys expiring process more incremental, try to set the 'hz' configuration parameter to 100 using 'CONFIG SET hz 100'.")
	}
	if seen["command"] || seen["fast-command"] || seen["expire-cycle"] || seen["eviction-del"] {
		lines = append(lines, "Deleting, expiring or evicting (because of maxmemory policy) large objects is a blocking operation. If you have very large objects that are often deleted, expired, or evicted, try to fragment those objects into multiple smaller objects.")
	}
	if seen["eviction-cycle"] {
		lines = append(lines, "Sudden changes to the 'maxmemory' setting via 'CONFIG SET', or allocation of large objects via sets or sorted sets intersections, STORE option of SORT, "+
			"Redis Cluster large keys migrations (RESTORE command), may create sudden memory pressure forcing the server to block trying to evict keys. ")
	}
	if seen["aof-fsync-always"] || seen["aof-write"] {
		lines = append(lines, "The disk under the journal is slow: put it on a faster disk, or use appendfsync everysec if losing a second of writes at a power cut is acceptable.")
	}
	if len(lines) == 0 {
		lines = append(lines, "Nothing in particular: the events above have no known remedy.")
	}
	return lines
}

func cmdLatencyHelp(c *command.Ctx) {
	c.Help(strings.Split(`DOCTOR
    Return a human readable latency analysis report.
GRAPH <event>
    Return an ASCII latency graph for the <event> class.
HISTORY <event>
    Return time-latency samples for the <event> class.
LATEST
    Return the latest latency samples for all events.
RESET [<event> ...]
    Reset latency data of one or more <event> classes.
    (default: reset all data for all event classes)
HISTOGRAM [COMMAND ...]
    Return a cumulative distribution of latencies in the format of a histogram for the specified command names.
    If no commands are specified then all histograms are replied.`, "\n")...)
}
