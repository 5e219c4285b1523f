package command

import "holdfast/internal/redis/keyspace"

// The latency monitor: a short history, per class of events, of those that
// took latency-monitor-threshold milliseconds or longer.

// latencySamples are kept per event.
const latencySamples = 160

// LatencySample is the worst event of one second.
type LatencySample struct {
	TimeSec int64 // Unix time
	Ms      int64
}

// LatencySeries is the history of one class of events, oldest first.
type LatencySeries struct {
	Samples []LatencySample
	MaxMs   int64 // of all time, also of samples that are no longer kept
}

// LatencyMonitor holds the history of all classes. The zero value is empty.
type LatencyMonitor struct {
	events map[string]*LatencySeries
}

// Add enters an event of a class.
func (m *LatencyMonitor) Add(event string, nowSec, ms int64) {
	ts := m.events[event]
	if ts == nil {
		if m.events == nil {
			m.events = make(map[string]*LatencySeries)
		}
		ts = new(LatencySeries)
		m.events[event] = ts
	}
	ts.MaxMs = max(ts.MaxMs, ms)
	if n := len(ts.Samples); n > 0 && ts.Samples[n-1].TimeSec == nowSec {
		ts.Samples[n-1].Ms = max(ts.Samples[n-1].Ms, ms)
		return
	}
	if len(ts.Samples) == latencySamples {
		copy(ts.Samples, ts.Samples[1:])
		ts.Samples = ts.Samples[:latencySamples-1]
	}
	ts.Samples = append(ts.Samples, LatencySample{nowSec, ms})
}

// Series returns the history of a class, nil when there is none.
func (m *LatencyMonitor) Series(event string) *LatencySeries { return m.events[event] }

// Events calls fn for every class, in no order.
func (m *LatencyMonitor) Events(fn func(event string, ts *LatencySeries)) {
	for event, ts := range m.events {
		fn(event, ts)
	}
}

// Len is the number of classes.
func (m *LatencyMonitor) Len() int { return len(m.events) }

// Reset forgets a class and reports whether there was one.
func (m *LatencyMonitor) Reset(event string) bool {
	_, ok := m.events[event]
	delete(m.events, event)
	return ok
}

// SampleLatency enters an event that took us microseconds, when the monitor is
// on and that is long.
func (e *Engine) SampleLatency(event string, us int64) {
	if t := e.Cfg.LatencyMonitorThreshold; t > 0 && us/1000 >= t {
		e.Latency.Add(event, e.NowMs/1000, us/1000)
	}
}

// deleteTimed deletes a key for the server's own reasons and enters what that
// took with the latency monitor.
func (e *Engine) deleteTimed(event string, db *keyspace.DB, key []byte, lazy bool) {
	if e.Cfg.LatencyMonitorThreshold == 0 {
		db.Delete(key, lazy)
		return
	}
	start := e.Clock()
	db.Delete(key, lazy)
	e.SampleLatency(event, (e.Clock()-start)/1000)
}
