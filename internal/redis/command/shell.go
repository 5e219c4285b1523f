package command

// What the shell shows of the engine's tables.

// BlockedWithTimeout is the number of blocked clients that wait for a limited
// time.
func (e *Engine) BlockedWithTimeout() int { return len(e.blocking.heap) }

// MemoryUsageSpec is the row of MEMORY USAGE, which the shell's MEMORY takes in.
func MemoryUsageSpec() *Spec {
	return &Spec{Name: "usage", Arity: -3, Flags: ReadOnly, Keys: []KeySpec{Key(KeyRO, 2, 2, 1)}, Run: cmdMemoryUsage}
}

// Categories are the names of the categories, by the bits of Cat.
func Categories() []string { return catNames }

// Counts gives LATENCY HISTOGRAM: fn gets, for rising limits in microseconds,
// each about twice the last, how many durations were not longer, wherever that
// number grows. The limits are those of the histogram of Redis.
func (h *Histogram) Counts(fn func(usec, cumulative int64)) {
	var seen, last int64
	level := int64(1024) // nanoseconds
	put := func() {
		if seen > last {
			fn((level+level/128-1)/1000, seen)
			last = seen
		}
	}
	for i, n := range h.buckets {
		if n == 0 {
			continue
		}
		for histValue(i) > level {
			put()
			level *= 2
		}
		seen += int64(n)
	}
	put()
}
