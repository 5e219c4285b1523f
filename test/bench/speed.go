package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"holdfast/test/proc"
)

// speed is a workload of redis-benchmark.
type speed struct {
	name     string
	test     string // of redis-benchmark
	pipeline int
	clients  int
	count    int
	args     []string // of the server
	rate     float64  // goals
	cpu      float64
}

func speedRows() []row {
	everysec := []string{"--save", "", "--appendonly", "yes", "--appendfsync", "everysec"}
	always := []string{"--save", "", "--appendonly", "yes", "--appendfsync", "always"}
	all := []speed{
		{"GET", "get", 1, 50, 200_000, plain, 1.0, 1.0},
		{"SET", "set", 1, 50, 200_000, plain, 1.0, 1.0},
		{"INCR", "incr", 1, 50, 200_000, plain, 1.0, 1.0},
		{"LPUSH", "lpush", 1, 50, 200_000, plain, 1.0, 1.05},
		{"HSET", "hset", 1, 50, 200_000, plain, 1.0, 1.05},
		{"SADD", "sadd", 1, 50, 200_000, plain, 1.0, 1.05},
		{"ZADD", "zadd", 1, 50, 200_000, plain, 1.0, 1.05},
		{"GET -P 16", "get", 16, 50, 1_000_000, plain, 1.4, 0.75},
		{"SET -P 16", "set", 16, 50, 1_000_000, plain, 1.4, 0.75},
		{"GET -P 64", "get", 64, 50, 2_000_000, plain, 1.5, 0.70},
		{"SET -P 64", "set", 64, 50, 2_000_000, plain, 1.5, 0.70},
		{"SET everysec", "set", 1, 50, 200_000, everysec, 1.0, 1.0},
		{"SET everysec -P 16", "set", 16, 50, 1_000_000, everysec, 1.4, 0.70},
		{"SET always", "set", 1, 50, 50_000, always, 1.2, 0.9},
		{"SET always -P 16", "set", 16, 50, 400_000, always, 1.5, 0.9},
		{"GET -c 500", "get", 1, 500, 200_000, plain, 1.0, 1.0},
	}
	var rows []row
	for _, s := range all {
		rows = append(rows, row{s.name, s.run})
	}
	return rows
}

const keyspace = 100_000 // random keys, as the table says

// run measures the workload in alternating pairs against two servers that stay.
func (s speed) run(e *env) ([]*samples, error) {
	rate := &samples{name: "throughput", unit: "op/s", goal: goal{atLeast: s.rate}}
	cpu := &samples{name: "server CPU", unit: "us/op", goal: goal{atMost: s.cpu}}
	var servers [2]*proc.Process
	for side := range servers {
		p, err := e.start(side, nil, s.args...)
		if err != nil {
			return nil, err
		}
		servers[side] = p
		if err := fill(p, keyspace); err != nil {
			return nil, err
		}
		// Once unmeasured: page faults, the growth of tables, the first collections.
		if _, err := bench(p, s.flags(e.ops(s.count)/4)...); err != nil {
			return nil, err
		}
	}
	for pair := range e.pairs {
		err := e.both(pair, func(side int) error {
			r, c, err := s.measure(servers[side], e.ops(s.count))
			if side == ours {
				rate.ours, cpu.ours = append(rate.ours, r), append(cpu.ours, c)
			} else {
				rate.redis, cpu.redis = append(rate.redis, r), append(cpu.redis, c)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return []*samples{rate, cpu}, nil
}

func (s speed) flags(count int) []string {
	return []string{"-t", s.test, "-n", strconv.Itoa(count), "-r", strconv.Itoa(keyspace), "-d", "64",
		"-c", strconv.Itoa(s.clients), "-P", strconv.Itoa(s.pipeline)}
}

func (s speed) measure(p *proc.Process, count int) (rate, cpuUs float64, err error) {
	if strings.HasPrefix(s.test, "lpush") { // the list would grow from run to run
		if _, err := do(p, "DEL", "mylist"); err != nil {
			return 0, 0, err
		}
	}
	before, err := p.CPU()
	if err != nil {
		return 0, 0, err
	}
	rate, err = bench(p, s.flags(count)...)
	if err != nil {
		return 0, 0, err
	}
	after, err := p.CPU()
	if err != nil {
		return 0, 0, fmt.Errorf("%w\n%s", err, p.Output())
	}
	return rate, float64(after-before) / float64(time.Microsecond) / float64(count), nil
}
