package sentinel

import "time"

// Limits of user scripts, those of Redis.
const (
	scriptMaxQueue   = 256
	scriptMaxRunning = 16
	scriptMaxRetry   = 10
)

type scriptJob struct {
	id      uint64
	args    []string
	running bool
	killed  bool
	pid     int
	start   time.Time // running: since when; else: not before (zero: any time)
	retries int
}

// scriptQueue runs notification and reconfiguration scripts in order. Exit
// code 1 or a signal means: try again later; any other failure is final.
type scriptQueue struct {
	jobs    []*scriptJob
	lastID  uint64
	running int
}

func (c *Core) clientReconfigScript(m *master, role string, from, to Addr) {
	if m.cfg.ReconfigPath == "" {
		return
	}
	c.schedule(m.cfg.ReconfigPath, m.name, role, "start",
		c.announce(from), itoa(from.Port), c.announce(to), itoa(to.Port))
}

func (c *Core) schedule(args ...string) {
	q := &c.scripts
	q.lastID++
	q.jobs = append(q.jobs, &scriptJob{id: q.lastID, args: args})
	if len(q.jobs) <= scriptMaxQueue {
		return
	}
	for i, j := range q.jobs { // drop the oldest that does not run
		if !j.running {
			q.jobs = append(q.jobs[:i:i], q.jobs[i+1:]...)
			return
		}
	}
}

// stepScripts starts what may start and ends what runs for too long.
func (c *Core) stepScripts() {
	q := &c.scripts
	for _, j := range q.jobs {
		switch {
		case j.running:
			if !j.killed && c.now.Sub(j.start) > c.params.ScriptMaxRuntime {
				j.killed = true
				c.emit(Event{Warning, "-script-timeout", j.args[0] + " " + itoa(j.pid)})
				c.emit(KillScript{j.id})
			}
		case q.running < scriptMaxRunning && !c.now.Before(j.start):
			j.running, j.killed, j.start = true, false, c.now
			j.retries++
			q.running++
			c.act(RunScript{ID: j.id, Args: j.args})
		}
	}
}

// deadline is when stepScripts has something to do; zero for never.
func (q *scriptQueue) deadline(now time.Time, maxRuntime time.Duration) time.Time {
	var d time.Time
	for _, j := range q.jobs {
		t := j.start
		if j.running {
			if j.killed {
				continue
			}
			t = t.Add(maxRuntime + time.Millisecond)
		} else if q.running >= scriptMaxRunning {
			continue
		}
		if t.Before(now) {
			t = now
		}
		if d.IsZero() || t.Before(d) {
			d = t
		}
	}
	return d
}

func (q *scriptQueue) find(id uint64) int {
	for i, j := range q.jobs {
		if j.id == id {
			return i
		}
	}
	return -1
}

func (c *Core) onScriptStarted(in ScriptStarted) {
	i := c.scripts.find(in.ID)
	if i < 0 {
		return
	}
	j := c.scripts.jobs[i]
	if in.Err != "" {
		c.event(Warning, "-script-error", nil, "%s %d %d", j.args[0], 99, 0)
		c.endScript(i)
		return
	}
	j.pid = in.PID
	c.event(Debug, "+script-child", nil, "%d", in.PID)
}

func (c *Core) onScriptFinished(in ScriptFinished) {
	i := c.scripts.find(in.ID)
	if i < 0 || !c.scripts.jobs[i].running {
		return
	}
	j := c.scripts.jobs[i]
	c.event(Debug, "-script-child", nil, "%d %d %d", in.PID, in.ExitCode, in.Signal)
	if (in.Signal != 0 || in.ExitCode == 1) && j.retries != scriptMaxRetry {
		j.running, j.pid = false, 0
		j.start = c.now.Add(c.params.ScriptRetryDelay << (j.retries - 1))
		c.scripts.running--
		return
	}
	if in.Signal != 0 || in.ExitCode != 0 {
		c.event(Warning, "-script-error", nil, "%s %d %d", j.args[0], in.Signal, in.ExitCode)
	}
	c.endScript(i)
}

func (c *Core) endScript(i int) {
	q := &c.scripts
	if q.jobs[i].running {
		q.running--
	}
	q.jobs = append(q.jobs[:i:i], q.jobs[i+1:]...)
}

func (c *Core) pendingScripts() Value {
	out := array()
	for _, j := range c.scripts.jobs {
		argv := array()
		for _, a := range j.args {
			argv.Elems = append(argv.Elems, bulk(a))
		}
		state, timeName, d := "scheduled", "run-delay", max(0, j.start.Sub(c.now))
		if j.running {
			state, timeName, d = "running", "run-time", c.now.Sub(j.start)
		} else if j.start.IsZero() {
			d = 0
		}
		out.Elems = append(out.Elems, mapValue(bulk("argv"), argv, bulk("flags"), bulk(state),
			bulk("pid"), bulk(itoa(j.pid)), bulk(timeName), bulk(utoa(uint64(ms(d)))),
			bulk("retry-num"), bulk(itoa(j.retries))))
	}
	return out
}
