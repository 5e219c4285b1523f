package server

import "time"

// defragCron is activedefrag: entries are moved out of slabs that have become
// sparse, a slice of each run of the timer at a time. Under the engine's lock.
type defragCron struct {
	running      int // percent of the time that the walk takes; 0 when there is none
	began        time.Time
	hits, misses int64 // keys that were moved, and that could stay
	moved        int64 // in the running walk
	totalTime    time.Duration
}

// defragKeys is how many keys are looked at between two looks at the clock.
const defragKeys = 64

// defragCron does the work of one run of the timer. The engine's lock is held.
func (s *Server) defragCron(now time.Time, period time.Duration) {
	d := &s.cron.defrag
	if !s.cfg.ActiveDefrag {
		if d.running > 0 { // switched off in the middle
			s.ks.EndDefrag()
			s.endDefrag(now)
		}
		return
	}
	if s.every(time.Second) {
		s.defragEffort(now)
	}
	// As in Redis not beside a snapshot: what is moved would have to be copied for it.
	if d.running == 0 || s.persist.job != nil {
		return
	}
	s.timed("active-defrag-cycle", func() { s.defragSlice(now, period*time.Duration(d.running)/100) })
}

// fragmentation is how much more memory is held than is in use, in percent and
// in bytes.
func (s *Server) fragmentation() (percent float64, bytes int64) {
	used, held := s.ks.UsedMemory(), s.ks.MappedMemory()
	if used <= 0 || held <= used {
		return 0, 0
	}
	return float64(held)*100/float64(used) - 100, held - used
}

// defragEffort decides whether to begin, and how much of the time to take: from
// active-defrag-cycle-min to active-defrag-cycle-max, as the fragmentation lies
// between the two thresholds. It never becomes less during a walk.
func (s *Server) defragEffort(now time.Time) {
	d, c := &s.cron.defrag, s.cfg
	percent, bytes := s.fragmentation()
	if d.running == 0 && (percent < float64(c.ActiveDefragThresholdLow) || bytes < int64(c.ActiveDefragIgnoreBytes)) {
		return
	}
	low, high := float64(c.ActiveDefragThresholdLow), float64(c.ActiveDefragThresholdHigh)
	share := 1.0
	if high > low {
		share = (percent - low) / (high - low)
	}
	effort := c.ActiveDefragCycleMin + int(share*float64(c.ActiveDefragCycleMax-c.ActiveDefragCycleMin))
	effort = max(min(effort, c.ActiveDefragCycleMax), c.ActiveDefragCycleMin)
	if effort <= d.running {
		return
	}
	if d.running == 0 {
		d.began, d.moved = now, 0
	}
	d.running = effort
	s.log.Verbose("Starting active defrag, frag=%.0f%%, frag_bytes=%d, cpu=%d%%", percent, bytes, effort)
}

// defragSlice goes on with the walk for about budget.
func (s *Server) defragSlice(now time.Time, budget time.Duration) {
	d := &s.cron.defrag
	end := s.e.Clock() + int64(budget)
	for {
		moved, seen, done := s.ks.Defrag(defragKeys)
		d.moved += int64(moved)
		d.hits += int64(moved)
		d.misses += int64(seen - moved)
		if done {
			percent, bytes := s.fragmentation()
			s.log.Verbose("Active defrag done in %dms, reallocated=%d, frag=%.0f%%, frag_bytes=%d", now.Sub(d.began).Milliseconds(), d.moved, percent, bytes)
			s.endDefrag(now)
			return
		}
		if s.e.Clock() >= end {
			return
		}
	}
}

func (s *Server) endDefrag(now time.Time) {
	d := &s.cron.defrag
	d.totalTime += now.Sub(d.began)
	d.running = 0
}

// defragTimes are the milliseconds of all walks and of the running one.
func (s *Server) defragTimes() (total, current int64) {
	d := &s.cron.defrag
	if d.running > 0 {
		current = time.Since(d.began).Milliseconds()
	}
	return d.totalTime.Milliseconds() + current, current
}
