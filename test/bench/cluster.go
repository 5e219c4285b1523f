package main

import (
	"strconv"
	"strings"
	"time"

	"holdfast/test/proc"
)

// What cluster mode costs on the data path, against the same server without it.

func clusterRows() []row {
	var rows []row
	for _, s := range []speed{
		{"GET with cluster mode", "get", 1, 50, 200_000, plain, 0.95, 0},
		{"SET with cluster mode", "set", 1, 50, 200_000, plain, 0.95, 0},
		{"GET -P 16 with cluster mode", "get", 16, 50, 1_000_000, plain, 0.95, 0},
		{"SET -P 16 with cluster mode", "set", 16, 50, 1_000_000, plain, 0.95, 0},
	} {
		rows = append(rows, row{s.name, s.withCluster})
	}
	return append(rows, row{"idle nodes", idleNodes})
}

// withCluster measures each side with cluster mode and without; the figures are
// the one divided by the other.
func (s speed) withCluster(e *env) ([]*samples, error) {
	rate := &samples{name: "throughput, with / without", unit: "ratio", goal: goal{atLeast: s.rate, absolute: true}}
	cpu := &samples{name: "server CPU, with / without", unit: "ratio"}
	var servers [2][2]*proc.Process // by side, then without and with
	for side := range servers {
		for with := range servers[side] {
			p, err := s.prepare(e, side, with == 1)
			if err != nil {
				return nil, err
			}
			servers[side][with] = p
		}
	}
	for pair := range e.pairs {
		err := e.both(pair, func(side int) error {
			var r, c [2]float64
			err := e.both(pair, func(with int) (err error) {
				r[with], c[with], err = s.measure(servers[side][with], e.ops(s.count))
				return err
			})
			if err != nil {
				return err
			}
			if side == ours {
				rate.ours, cpu.ours = append(rate.ours, r[1]/r[0]), append(cpu.ours, c[1]/c[0])
			} else {
				rate.redis, cpu.redis = append(rate.redis, r[1]/r[0]), append(cpu.redis, c[1]/c[0])
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return []*samples{rate, cpu}, nil
}

// prepare starts a server, which owns all slots if it is a node, with its keys.
func (s speed) prepare(e *env, side int, cluster bool) (*proc.Process, error) {
	var p *proc.Process
	var err error
	if cluster {
		var n *member
		if n, err = e.startMember(side, s.args...); err == nil {
			p = n.p
			_, err = do(p, "CLUSTER", "ADDSLOTSRANGE", "0", "16383")
		}
		if err == nil {
			err = until(readyLimit, 50*time.Millisecond, func() (bool, error) { return servesAll(p) })
		}
	} else {
		p, err = e.start(side, nil, s.args...)
	}
	if err != nil {
		return nil, err
	}
	if err := fill(p, keyspace); err != nil {
		return nil, err
	}
	_, err = bench(p, s.flags(e.ops(s.count)/4)...) // unmeasured, as in run
	return p, err
}

func servesAll(p *proc.Process) (bool, error) {
	v, err := do(p, "CLUSTER", "INFO")
	return strings.Contains(v.Str, "cluster_state:ok"), err
}

// member is a node with its bus port, which is not 10000 above the other: that
// may be no port at all.
type member struct {
	p   *proc.Process
	bus int
}

func (e *env) startMember(side int, args ...string) (*member, error) {
	bus, err := proc.FreePort()
	if err != nil {
		return nil, err
	}
	p, err := e.start(side, nil, append([]string{"--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(bus)}, args...)...)
	return &member{p, bus}, err
}
