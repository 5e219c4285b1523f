package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"holdfast/test/proc"
)

func persistRows() []row {
	return []row{
		{"start-up, 1 M keys, checkpoint", func(e *env) ([]*samples, error) { return e.startUp(true) }},
		{"start-up, 1 M keys, journal", func(e *env) ([]*samples, error) { return e.startUp(false) }},
		{"stall during a checkpoint of 5 M keys", stall},
		{"growth during a checkpoint of 5 M keys", growth},
		{"full sync of 1 M keys", fullSync},
	}
}

func (s *samples) add(side int, v float64) {
	if side == ours {
		s.ours = append(s.ours, v)
	} else {
		s.redis = append(s.redis, v)
	}
}

// startUp is the time from the start of the process to its first PONG with 1 M
// keys: from a checkpoint against an RDB, or from a journal of SETs against an
// append-only file of SETs.
func (e *env) startUp(checkpoint bool) ([]*samples, error) {
	took := &samples{name: "until PONG", unit: "s", goal: goal{atMost: 1}}
	cpu := &samples{name: "CPU", unit: "s"}
	n := e.n(1_000_000)
	var dirs [2]string
	var args [2][]string
	for side := range 2 {
		args[side] = []string{"--save", "", "--appendonly", "yes", "--appendfsync", "no", "--auto-aof-rewrite-percentage", "0"}
		if checkpoint && side == redis {
			args[side] = plain
		}
		p, err := e.start(side, nil, args[side]...)
		if err != nil {
			return nil, err
		}
		dirs[side] = p.Spec.Dir
		if err := fill(p, n); err != nil {
			return nil, err
		}
		if checkpoint {
			if err := checkpointed(p, side); err != nil {
				return nil, err
			}
		}
		if err := p.Terminate(time.Minute); err != nil {
			return nil, err
		}
	}
	for pair := range e.pairs {
		err := e.both(pair, func(side int) error {
			began := time.Now()
			p, err := e.startIn(side, dirs[side], nil, args[side]...)
			if err != nil {
				return err
			}
			took.add(side, time.Since(began).Seconds())
			used, err := p.CPU()
			if err != nil {
				return err
			}
			cpu.add(side, used.Seconds())
			if v, err := do(p, "DBSIZE"); err != nil || v.Int != int64(n) {
				return fmt.Errorf("%d keys instead of %d, %v", v.Int, n, err)
			}
			return p.Terminate(time.Minute)
		})
		if err != nil {
			return nil, err
		}
	}
	return []*samples{took, cpu}, nil
}

// checkpointed puts all data into a checkpoint of the journal, or dump.rdb.
func checkpointed(p *proc.Process, side int) error {
	if side == redis {
		_, err := do(p, "SAVE")
		return err
	}
	if _, err := do(p, "BGREWRITEAOF"); err != nil {
		return err
	}
	err := until(replyLimit, 10*time.Millisecond, func() (bool, error) {
		files, err := filepath.Glob(filepath.Join(p.Spec.Dir, "journal", "checkpoint-*.rdb"))
		return len(files) > 0, err
	})
	if err != nil {
		return err
	}
	return finished(p, "aof_rewrite_in_progress")
}

// finished waits until a field of INFO persistence is 0.
func finished(p *proc.Process, field string) error {
	c, err := proc.Dial(p.Spec.Port, replyLimit)
	if err != nil {
		return err
	}
	defer c.Close()
	return until(10*time.Minute, 20*time.Millisecond, func() (bool, error) {
		v, err := infoField(c, "persistence", field)
		return v == "0", err
	})
}

// bgsave saves while serving and returns when that is over.
func bgsave(p *proc.Process) (took time.Duration, err error) {
	path := filepath.Join(p.Spec.Dir, "dump.rdb")
	old, _ := os.Stat(path) // nil before the first
	began := time.Now()
	if _, err := do(p, "BGSAVE"); err != nil {
		return 0, err
	}
	err = until(10*time.Minute, time.Millisecond, func() (bool, error) {
		now, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return err == nil && !os.SameFile(old, now), err
	})
	if err != nil {
		return 0, err
	}
	if err := finished(p, "rdb_bgsave_in_progress"); err != nil {
		return 0, err
	}
	v, err := do(p, "INFO", "persistence")
	if err == nil && !strings.Contains(v.Str, "rdb_last_bgsave_status:ok") {
		err = errors.New("BGSAVE failed")
	}
	return time.Since(began), err
}

// pair2 starts both sides with n keys.
func (e *env) pair2(n int) (servers [2]*proc.Process, err error) {
	for side := range servers {
		if servers[side], err = e.start(side, nil, plain...); err != nil {
			return servers, err
		}
		if err = fill(servers[side], n); err != nil {
			return servers, err
		}
	}
	return servers, nil
}

// stall is how long clients wait while a checkpoint is made: four clients, one
// request at a time each, half of them writes.
func stall(e *env) ([]*samples, error) {
	p9999 := &samples{name: "p99.99", unit: "ms", goal: goal{atMost: 0.25}}
	longest := &samples{name: "median of maxima", unit: "ms", goal: goal{atMost: 0.25}}
	p50 := &samples{name: "p50", unit: "ms"}
	took := &samples{name: "duration", unit: "s"}
	n := e.n(5_000_000)
	servers, err := e.pair2(n)
	if err != nil {
		return nil, err
	}
	for pair := range e.pairs {
		err := e.both(pair, func(side int) error {
			b := startProbe(servers[side], 4, n)
			d, err := bgsave(servers[side])
			waits, perr := b.end()
			if err := errors.Join(err, perr); err != nil {
				return err
			}
			ms := func(i int) float64 { return float64(waits[i]) / float64(time.Millisecond) }
			last := len(waits) - 1
			p9999.add(side, ms(last-last/10_000))
			longest.add(side, ms(last))
			p50.add(side, ms(last/2))
			took.add(side, d.Seconds())
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return []*samples{p9999, longest, p50, took}, nil
}

// growth is by how much the resident memory grows, at its highest, during a
// checkpoint under SETs as fast as they go. What Redis's child shares with it is
// counted once.
func growth(e *env) ([]*samples, error) {
	more := &samples{name: "growth of memory", unit: "%", goal: goal{atMost: 15, absolute: true}}
	took := &samples{name: "duration", unit: "s"}
	n := e.n(5_000_000)
	servers, err := e.pair2(n)
	if err != nil {
		return nil, err
	}
	for pair := range e.pairs {
		err := e.both(pair, func(side int) error {
			grown, d, err := growthOnce(servers[side], side, n)
			more.add(side, grown)
			took.add(side, d.Seconds())
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return []*samples{more, took}, nil
}

func growthOnce(p *proc.Process, side, n int) (percent float64, took time.Duration, err error) {
	load := exec.Command("redis-benchmark", "-p", strconv.Itoa(p.Spec.Port), "-q", "--csv", "-t", "set", "-n", "1000000000",
		"-r", strconv.Itoa(n), "-d", "64", "-c", "50", "-P", "16")
	if err := load.Start(); err != nil {
		return 0, 0, err
	}
	defer func() {
		_ = load.Process.Kill()
		_ = load.Wait() // it was killed
	}()
	memory, every := p.RSS, 20*time.Millisecond
	if side == redis { // walks all page tables: not too often
		memory, every = p.PSS, 200*time.Millisecond
	}
	before, err := settledMemory(memory)
	if err != nil {
		return 0, 0, err
	}
	done := make(chan error, 1)
	go func() {
		d, err := bgsave(p)
		took = d
		done <- err
	}()
	peak := before
	for {
		now, err := memory()
		if err != nil {
			return 0, 0, err
		}
		peak = max(peak, now)
		select {
		case err := <-done:
			return 100 * float64(peak-before) / float64(before), took, err
		case <-time.After(every):
		}
	}
}

// settledMemory lets the load run for a moment first, so that its connections
// and buffers do not count as growth.
func settledMemory(memory func() (int64, error)) (now int64, err error) {
	time.Sleep(time.Second)
	return memory()
}

// fullSync is the time from REPLICAOF to a replica that is up, diskless on the
// master's side without delay.
func fullSync(e *env) ([]*samples, error) {
	took := &samples{name: "until link up", unit: "s", goal: goal{atMost: 1}}
	cpuMaster := &samples{name: "CPU of the master", unit: "s"}
	cpuReplica := &samples{name: "CPU of the replica", unit: "s"}
	n := e.n(1_000_000)
	var masters [2]*proc.Process
	args := append([]string{"--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"}, plain...)
	for side := range 2 {
		var err error
		if masters[side], err = e.start(side, nil, args...); err != nil {
			return nil, err
		}
		if err := fill(masters[side], n); err != nil {
			return nil, err
		}
	}
	for pair := range e.pairs {
		err := e.both(pair, func(side int) error {
			m := masters[side]
			r, err := e.start(side, nil, args...)
			if err != nil {
				return err
			}
			m0, err1 := m.CPUWithChildren() // a child writes Redis's snapshot
			r0, err2 := r.CPU()
			d, err3 := syncOnce(r, m.Spec.Port, n)
			m1, err4 := m.CPUWithChildren()
			r1, err5 := r.CPU()
			if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
				return err
			}
			took.add(side, d.Seconds())
			cpuMaster.add(side, (m1 - m0).Seconds())
			cpuReplica.add(side, (r1 - r0).Seconds())
			return e.stop(r)
		})
		if err != nil {
			return nil, err
		}
	}
	return []*samples{took, cpuMaster, cpuReplica}, nil
}

func syncOnce(r *proc.Process, port, n int) (time.Duration, error) {
	c, err := proc.Dial(r.Spec.Port, replyLimit)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	began := time.Now()
	if _, err := c.Must("REPLICAOF", "127.0.0.1", strconv.Itoa(port)); err != nil {
		return 0, err
	}
	err = until(replyLimit, 5*time.Millisecond, func() (bool, error) {
		v, err := infoField(c, "replication", "master_link_status")
		return v == "up", err
	})
	took := time.Since(began)
	if err != nil {
		return 0, fmt.Errorf("full sync: %w\n%s", err, r.Output())
	}
	if v, err := c.Must("DBSIZE"); err != nil || v.Int != int64(n) {
		return 0, fmt.Errorf("the replica holds %d keys instead of %d, %v", v.Int, n, err)
	}
	return took, nil
}
