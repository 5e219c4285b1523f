package main

import (
	"fmt"
	"strconv"

	"holdfast/test/proc"
)

// arrayRows are what synced writes cost on an array. Both sides are Holdfast: what
// stands in the column of Redis is a server with its journal in one plain
// directory. All directories are on the same disk, so an array pays here for all
// its copies, and gains nothing from having several disks.
func arrayRows() []row {
	var rows []row
	for _, a := range []struct{ level, members int }{{1, 2}, {5, 4}} {
		for _, pipeline := range []int{1, 16} {
			s := speed{test: "set", pipeline: pipeline, clients: 50, count: 50_000}
			name := fmt.Sprintf("SET always, RAID-%d of %d", a.level, a.members)
			if pipeline > 1 {
				name, s.count = fmt.Sprintf("%s -P %d", name, pipeline), 400_000
			}
			rows = append(rows, row{name, func(e *env) ([]*samples, error) { return s.onArray(e, a.level, a.members) }})
		}
	}
	return rows
}

// onArray measures the workload on an array and in a plain directory, in alternating
// pairs against two servers that stay.
func (s speed) onArray(e *env, level, members int) ([]*samples, error) {
	rate := &samples{name: "throughput, beside a plain directory", unit: "op/s"}
	cpu := &samples{name: "server CPU, likewise", unit: "us/op"}
	var servers [2]*proc.Process
	for side := range servers {
		args := []string{"--save", "", "--appendonly", "yes", "--appendfsync", "always"}
		if side == ours {
			args = append(args, "--array-level", strconv.Itoa(level), "--array-members")
			for i := range members {
				args = append(args, fmt.Sprintf("member%d", i))
			}
		}
		p, err := e.start(ours, nil, args...)
		if err != nil {
			return nil, err
		}
		servers[side] = p
		if err := fill(p, keyspace); err != nil {
			return nil, err
		}
		if _, err := bench(p, s.flags(e.ops(s.count)/4)...); err != nil {
			return nil, err
		}
	}
	for pair := range e.pairs {
		err := e.both(pair, func(side int) error {
			r, c, err := s.measure(servers[side], e.ops(s.count))
			rate.add(side, r)
			cpu.add(side, c)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return []*samples{rate, cpu}, nil
}
