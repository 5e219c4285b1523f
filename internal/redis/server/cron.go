package server

import (
	"runtime/metrics"
	"time"

	"holdfast/internal/redis/command"
)

// cronState is what the timer remembers between two runs. Under the engine's lock.
type cronState struct {
	ticks      int64
	watchdog   *time.Timer // nil until it is wanted
	wakeMs     int64       // when the timer means to look at deadlines
	defrag     defragCron
	peakMemory int64
	rss        int64
	connMemory int64 // of all connections, as of the last second
	evictable  int64 // of those that maxmemory-clients may close

	replyResizing    bool  // the sizes of reply buffers follow their use
	replyPeakResetMs int64 // how long the peak of a reply buffer is remembered, in milliseconds
	counted          int64 // of connections, counts for maxmemory
	backlog          int64 // of the stream, counts for maxmemory
	baseMemory       int64 // what the process takes without data and connections
	startMemory      int64
	paused           bool    // DEBUG PAUSE-CRON
	walk             []*conn // connections still to be looked at in this round
}

// sampler averages a counter's growth per second over the last 16 samples.
type sampler struct {
	lastValue int64
	lastTime  int64
	samples   [16]int64
	at        int
}

func (m *sampler) track(nowMs, value int64) {
	if dt := nowMs - m.lastTime; m.lastTime != 0 && dt > 0 {
		m.samples[m.at] = (value - m.lastValue) * 1000 / dt
		m.at = (m.at + 1) % len(m.samples)
	}
	m.lastTime, m.lastValue = nowMs, value
}

func (m *sampler) rate() int64 {
	var sum int64
	for _, v := range m.samples {
		sum += v
	}
	return sum / int64(len(m.samples))
}

// cronLoop runs the timer hz times a second, answers blocked clients when their
// time is over, and lets the core of cluster mode look at its clock. All of it
// shares one alarm, and what is due at about the same time one waking up: a node
// that idles does little else.
func (s *Server) cronLoop() {
	next := time.Now()
	s.alarm.ring()
	for s.alarm.wait() {
		select {
		case <-s.done:
			return
		default:
		}
		at := s.clusterTurn()
		period := time.Second / time.Duration(max(1, s.cfg.HZ))
		slack := time.Duration(0) // that the timer's runs may be early or late
		if s.cluster != nil {
			slack = period / 2
		}
		if now := time.Now(); !now.Before(next.Add(-slack)) {
			if next = next.Add(period); next.Before(now) {
				next = now.Add(period)
			}
			s.runCron()
		}
		wake := next
		if at.After(next) && at.Sub(next) < slack {
			wake = at
		}
		if at.IsZero() || wake.Before(at) {
			at = wake
		}
		s.alarm.sooner(s.runDeadlines(at))
		s.flushStream()
	}
}

// runDeadlines answers those whose time is over. It returns when the next is
// due, at the latest next.
func (s *Server) runDeadlines(next time.Time) time.Time {
	e := s.e
	e.Lock()
	defer e.Unlock()
	now := time.Now()
	e.BeginBatch(now.UnixMicro())
	e.CheckTimeouts()
	s.endPause()
	wake := max(0, next.Sub(now))
	due := func(ms int64) { wake = min(wake, s.untilMs(ms)) }
	if d := e.NextDeadlineMs(); d != 0 {
		due(d)
	}
	if p := e.State.PauseUntilMs; p > e.NowMs && p < 1<<61 {
		due(p)
	}
	s.cron.wakeMs = e.NowMs + wake.Milliseconds()
	return now.Add(wake)
}

// untilMs is how long it is until a time of the engine's clock has passed. The
// engine's lock is held.
func (s *Server) untilMs(ms int64) time.Duration {
	return time.Duration(max(0, ms-s.e.NowMs))*time.Millisecond + 100*time.Microsecond
}

// pokeCron makes the timer look again when somebody's time is over before it
// meant to. The engine's lock is held.
func (s *Server) pokeCron() {
	if d := s.e.NextDeadlineMs(); d != 0 && d < s.cron.wakeMs {
		s.cron.wakeMs = d
		s.alarm.sooner(time.Now().Add(s.untilMs(d)))
	}
}

// runCron is one run of the timer; deadlines are looked at behind it.
func (s *Server) runCron() {
	e := s.e
	e.Lock()
	defer e.Unlock()
	now := time.Now()
	e.BeginBatch(now.UnixMicro())
	period := time.Second / time.Duration(max(1, s.cfg.HZ))
	if s.cron.paused {
		return
	}
	s.cron.ticks++
	s.feedWatchdog()
	if s.e.KS.PendingFree() > 0 {
		e.KS.FreeStep(20000)
	}
	s.timed("expire-cycle", func() { e.ActiveExpire(int64(period)) })
	e.EvictStep()
	s.defragCron(now, period)
	s.clientsCron(now)
	if s.every(100 * time.Millisecond) {
		s.trackRates()
	}
	if s.every(time.Second) {
		s.secondCron(now)
	}
	s.persistCron(now)
	s.replicationCron(now)
	s.shutdownCron(now)
}

// timed does a part of the timer's work and enters it with the latency monitor.
func (s *Server) timed(event string, work func()) {
	if s.cfg.LatencyMonitorThreshold == 0 {
		work()
		return
	}
	start := s.e.Clock()
	work()
	s.e.SampleLatency(event, (s.e.Clock()-start)/1000)
}

// every reports whether a run of the timer is due for work of the period d.
func (s *Server) every(d time.Duration) bool {
	n := int64(d / (time.Second / time.Duration(max(1, s.cfg.HZ))))
	return n <= 1 || s.cron.ticks%n == 0
}

func (s *Server) trackRates() {
	st, ms := &s.stat, s.e.NowMs
	st.instOps.track(ms, s.e.Stat.Commands)
	st.instIn.track(ms, st.inBytes.Load()+st.replInBytes.Load())
	st.instOut.track(ms, st.outBytes.Load()+st.replOutBytes.Load())
	st.instReplIn.track(ms, st.replInBytes.Load())
	st.instReplOut.track(ms, st.replOutBytes.Load())
	s.cron.peakMemory = max(s.cron.peakMemory, s.usedMemory())
}

func (s *Server) secondCron(time.Time) {
	s.cron.rss = readRSS()
	_ = s.applyOOMScore() // after a change of role; told when it was configured
	s.measureConns()
}

// connMemory is what connections take, in bytes.
type connMemory struct {
	normal, replicas    int64
	maxInput, maxOutput int64
}

// measureConns looks at all connections. The engine's lock is held.
func (s *Server) measureConns() (m connMemory) {
	for _, c := range s.conns {
		n := c.memory()
		m.maxInput = max(m.maxInput, c.inPending)
		m.maxOutput = max(m.maxOutput, c.outPending+int64(len(c.cl.Buf)))
		if c.cl.Has(command.FlagReplica) && !c.cl.Has(command.FlagMonitor) {
			m.replicas += n
			continue
		}
		m.normal += n
		c.countMemory()
	}
	s.cron.connMemory = m.normal + m.replicas
	s.countExtra()
	return m
}

// usedMemory is INFO's used_memory: the data, what connections hold, and the
// process itself.
func (s *Server) usedMemory() int64 {
	backlog, forReplicas := s.backlogMemory()
	return s.cron.baseMemory + s.ks.UsedMemory() + s.cron.connMemory + backlog + forReplicas
}

// measureBase finds out what the process takes before it has data: like in
// Redis that counts for maxmemory.
func (s *Server) measureBase() {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() == metrics.KindUint64 {
		s.cron.baseMemory = int64(sample[0].Value.Uint64())
	}
	s.countExtra()
}

// endPause lets the clients go on that CLIENT PAUSE held, once it is over.
func (s *Server) endPause() {
	if s.e.State.PauseUntilMs != 0 && s.e.NowMs >= s.e.State.PauseUntilMs {
		s.unpause()
	}
}

// unpause ends CLIENT PAUSE. The engine's lock is held.
func (s *Server) unpause() {
	s.e.State.PauseUntilMs, s.e.State.PauseWrites = 0, false
	held := s.paused
	s.paused = nil
	for _, c := range held {
		c.waiting = false
		c.resume()
	}
}

// clientsCron closes idle clients and gives unused buffers back; each run
// looks at a part of them, so that all are seen about once a second.
func (s *Server) clientsCron(now time.Time) {
	if len(s.cron.walk) == 0 {
		for _, c := range s.conns {
			s.cron.walk = append(s.cron.walk, c)
		}
	}
	n := max(5, len(s.conns)/max(1, s.cfg.HZ))
	for ; n > 0 && len(s.cron.walk) > 0; n-- {
		last := len(s.cron.walk) - 1
		c := s.cron.walk[last]
		s.cron.walk[last] = nil
		s.cron.walk = s.cron.walk[:last]
		if !c.closed {
			s.clientCron(c, now)
		}
	}
}

func (s *Server) clientCron(c *conn, _ time.Time) {
	cl := c.cl
	idle := s.e.NowMs - cl.LastMs
	if t := s.cfg.Timeout; t > 0 && idle > int64(t)*1000 && !cl.Has(command.FlagReplica|command.FlagMaster|command.FlagBlocked) {
		if ch, pat, sh := cl.Subs(); ch+pat+sh == 0 {
			s.log.Verbose("Closing idle client")
			c.closeLater(false)
			return
		}
	}
	if held := c.outPending + int64(len(cl.Buf)); held > 0 {
		c.checkOutputLimit(held)
		if c.closeWhen == closeNow {
			c.closeLater(false)
		}
	}
	s.bufferCron(c, idle)
	if idle > 2000 && c.trimmedMs != cl.LastMs && !cl.Has(command.FlagMaster|command.FlagReplica) {
		c.trimmedMs, c.trim = cl.LastMs, true
		c.wake() // the buffers are its driver's
	}
}
