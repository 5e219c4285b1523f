package command

import (
	"slices"
	"testing"
)

func TestLatencyMonitorKeepsTheWorstOfEachSecond(t *testing.T) {
	var m LatencyMonitor
	m.Add("command", 10, 5)
	m.Add("command", 10, 9)
	m.Add("command", 10, 7)
	m.Add("command", 11, 3)
	ts := m.Series("command")
	if want := []LatencySample{{10, 9}, {11, 3}}; !slices.Equal(ts.Samples, want) || ts.MaxMs != 9 {
		t.Errorf("got %+v, want %v", ts, want)
	}
	for i := range int64(500) {
		m.Add("command", 100+i, i)
	}
	if n := len(ts.Samples); n != latencySamples || ts.Samples[n-1] != (LatencySample{599, 499}) || ts.Samples[0].TimeSec != 440 {
		t.Errorf("%d samples, from %+v to %+v", n, ts.Samples[0], ts.Samples[n-1])
	}
	if !m.Reset("command") || m.Reset("command") || m.Len() != 0 {
		t.Error("reset does not forget exactly once")
	}
}

// The limits are those of Redis: 1, 2, 4, 8, 16, 33, 66, ... microseconds.
func TestHistogramCountsCumulate(t *testing.T) {
	var h Histogram
	for _, ns := range []int64{1, 900, 1024, 1100, 30_000, 32_768, 40_000, 1_000_000} {
		h.Add(ns)
	}
	var got [][2]int64
	h.Counts(func(usec, n int64) { got = append(got, [2]int64{usec, n}) })
	want := [][2]int64{{1, 2}, {2, 4}, {33, 5}, {66, 7}, {1056, 8}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	var sum int64
	for i := range len(h.buckets) - 1 {
		if histValue(i) >= histValue(i+1) {
			t.Fatalf("bucket %d ends at %d, the next at %d", i, histValue(i), histValue(i+1))
		}
		sum += int64(h.buckets[i])
	}
	if sum != h.Total {
		t.Errorf("buckets hold %d of %d", sum, h.Total)
	}
}

// The numbers of SLOWLOG go on while slowlog-max-len is 0 and nothing is kept.
func TestSlowlogNumbersWhatItDoesNotKeep(t *testing.T) {
	te := newTestEngine(t, 1)
	te.Cfg.SlowlogLogSlowerThan, te.Cfg.SlowlogMaxLen = 0, 0
	te.do("GET", "a")
	te.do("GET", "b")
	if n := len(te.Slow.Entries); n != 0 {
		t.Fatalf("%d entries are kept", n)
	}
	te.Cfg.SlowlogMaxLen = 5
	te.do("GET", "c")
	if len(te.Slow.Entries) != 1 || te.Slow.Entries[0].ID != 2 {
		t.Errorf("entries %+v, want one with the number 2", te.Slow.Entries)
	}
}
