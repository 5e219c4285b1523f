package command

import (
	"fmt"
	"math/bits"
)

// SlowEntry is one entry of SLOWLOG GET.
type SlowEntry struct {
	ID      int64
	TimeSec int64
	Usec    int64
	Args    [][]byte
	Addr    string
	Name    string
}

// Slowlog is the ring of slow commands, newest first.
type Slowlog struct {
	Entries []SlowEntry
	next    int64
}

const (
	slowMaxArgs  = 32
	slowMaxBytes = 128
)

// slow enters a command that took usec microseconds, when that is slow.
func (e *Engine) slow(c *Ctx, usec int64) {
	limit := e.Cfg.SlowlogLogSlowerThan
	if limit < 0 || usec < limit || c.Spec.Is(SkipSlowlog) || c.Client.Has(FlagReplay) {
		return
	}
	if e.Cfg.SlowlogMaxLen == 0 {
		e.Slow.next++ // entered and trimmed away
		return
	}
	args := c.Args
	entry := SlowEntry{ID: e.Slow.next, TimeSec: e.NowMs / 1000, Usec: usec, Addr: c.Client.Addr, Name: c.Client.Name}
	e.Slow.next++
	for i, a := range args {
		if i == slowMaxArgs-1 && len(args) > slowMaxArgs {
			entry.Args = append(entry.Args, fmt.Appendf(nil, "... (%d more arguments)", len(args)-slowMaxArgs+1))
			break
		}
		entry.Args = append(entry.Args, trimArg(a))
	}
	e.Slow.Entries = append([]SlowEntry{entry}, e.Slow.Entries...)
	e.Slow.Trim(int(e.Cfg.SlowlogMaxLen))
}

func trimArg(a []byte) []byte {
	if len(a) > slowMaxBytes {
		return fmt.Appendf(nil, "%s... (%d more bytes)", a[:slowMaxBytes], len(a)-slowMaxBytes)
	}
	return append([]byte(nil), a...)
}

// Trim keeps the n newest entries.
func (s *Slowlog) Trim(n int) {
	if len(s.Entries) > n {
		s.Entries = s.Entries[:n:n]
	}
}

// Histogram counts durations in buckets of 1/16 of a power of two, from 1 ns
// to about 1 s, as LATENCY HISTOGRAM and INFO latencystats need them.
type Histogram struct {
	buckets [16 * 32]uint32
	Total   int64
}

// Add counts a duration in nanoseconds.
func (h *Histogram) Add(ns int64) {
	h.buckets[histBucket(ns)]++
	h.Total++
}

func histBucket(ns int64) int {
	if ns < 16 {
		return int(max(ns, 0))
	}
	exp := bits.Len64(uint64(ns)) - 5 // ns>>exp is within 16..31
	i := exp*16 + int(ns>>exp)
	return min(i, 16*32-1)
}

// histValue is the highest duration that falls into the bucket.
func histValue(i int) int64 {
	if i < 32 {
		return int64(i)
	}
	exp := i/16 - 1
	return (int64(i-exp*16)+1)<<exp - 1
}

// Percentile returns the duration in nanoseconds that p percent stay within.
func (h *Histogram) Percentile(p float64) int64 {
	want := int64(p/100*float64(h.Total) + 0.5)
	want = max(want, 1)
	var seen int64
	for i, n := range h.buckets {
		seen += int64(n)
		if seen >= want {
			return histValue(i)
		}
	}
	return histValue(len(h.buckets) - 1)
}
