package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"holdfast/internal/redis/cluster/slot"
	"holdfast/test/proc"
)

// Moving slots from one master to another while a client reads keys of them.

const (
	moveSlots = 1000
	moveBytes = 1 << 30 // of values in them
	moveValue = 16 << 10
)

// moveWay is how slots move: whose nodes, and the administrator who does it.
type moveWay struct {
	side  int
	admin func(e *env, source, target *member, ids [2]string) []string
}

func byHoldfast(flags ...string) func(*env, *member, *member, [2]string) []string {
	return func(e *env, source, _ *member, ids [2]string) []string {
		return append([]string{e.argv[ours][0], "cluster", "reshard", addressOf(source), "--from", ids[0], "--to", ids[1],
			"--slots", strconv.Itoa(moveSlots), "--yes"}, flags...)
	}
}

func byRedisCLI(_ *env, source, _ *member, ids [2]string) []string {
	return []string{"redis-cli", "--cluster", "reshard", addressOf(source), "--cluster-from", ids[0], "--cluster-to", ids[1],
		"--cluster-slots", strconv.Itoa(moveSlots), "--cluster-yes"}
}

func addressOf(m *member) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(m.p.Spec.Port)) }

func moveRows() []row {
	return []row{
		{"moving 1,000 slots", moves(moveWay{ours, byHoldfast()}, moveWay{redis, byRedisCLI})},
		{"moving 1,000 slots key by key", moves(moveWay{ours, byHoldfast("--by-key")}, moveWay{redis, byHoldfast("--by-key")})},
	}
}

// moves compares two ways, in pairs.
func moves(a, b moveWay) func(*env) ([]*samples, error) {
	return func(e *env) ([]*samples, error) {
		all := []*samples{
			{name: "throughput", unit: "MiB/s"},
			{name: "CPU of both servers", unit: "s"},
			{name: "GET p50", unit: "ms"},
			{name: "GET p99", unit: "ms"},
			{name: "GET p99.9", unit: "ms"},
			{name: "GET maximum", unit: "ms"},
		}
		for pair := range min(e.pairs, 3) {
			err := e.both(pair, func(side int) error {
				v, err := [2]moveWay{a, b}[side].run(e)
				e.stopAll()
				if err != nil {
					return err
				}
				for i, s := range all {
					if side == ours {
						s.ours = append(s.ours, v[i])
					} else {
						s.redis = append(s.redis, v[i])
					}
				}
				return nil
			})
			if err != nil {
				return nil, err
			}
		}
		return all, nil
	}
}

// run makes a cluster of two, fills the slots and moves them. The figures are
// those of moves, in the same order.
func (w moveWay) run(e *env) ([]float64, error) {
	source, target, err := e.startTwo(w.side)
	if err != nil {
		return nil, err
	}
	size := e.n(moveBytes)
	tags := slotTags()
	if err := fillSlots(source.p, tags, size/moveValue); err != nil {
		return nil, err
	}
	var ids [2]string
	for i, m := range []*member{source, target} {
		v, err := do(m.p, "CLUSTER", "MYID")
		if err != nil {
			return nil, err
		}
		ids[i] = v.Str
	}
	probe := startSlotProbe([2]*proc.Process{source.p, target.p}, tags)
	time.Sleep(500 * time.Millisecond) // first page faults, first collections
	probe.counts.Store(true)
	c0, err := cpuOf(source.p, target.p)
	if err != nil {
		return nil, err
	}
	took, err := runAdmin(w.admin(e, source, target, ids))
	if err != nil {
		return nil, errors.Join(err, probe.end())
	}
	c1, err := cpuOf(source.p, target.p)
	if err != nil {
		return nil, err
	}
	if err := probe.end(); err != nil {
		return nil, err
	}
	v, err := do(target.p, "DBSIZE")
	if err != nil {
		return nil, err
	}
	if want := size/moveValue + len(tags); int(v.Int) != want {
		return nil, fmt.Errorf("the target has %d keys of %d", v.Int, want)
	}
	at := func(q float64) float64 {
		i := min(int(q*float64(len(probe.waits))), len(probe.waits)-1)
		return float64(probe.waits[i].Microseconds()) / 1000
	}
	return []float64{
		float64(size) / (1 << 20) / took.Seconds(),
		(c1 - c0).Seconds(),
		at(0.5), at(0.99), at(0.999), at(1),
	}, nil
}

// startTwo starts two masters with half of the slots each.
func (e *env) startTwo(side int) (source, target *member, err error) {
	var two [2]*member
	for i := range two {
		if two[i], err = e.startMember(side, plain...); err != nil {
			return nil, nil, err
		}
		first := i * slot.Count / 2
		_, err = do(two[i].p, "CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(first), strconv.Itoa(first+slot.Count/2-1))
		if err == nil {
			_, err = do(two[i].p, "CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
		}
		if err != nil {
			return nil, nil, err
		}
	}
	if _, err := do(two[1].p, "CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(two[0].p.Spec.Port), strconv.Itoa(two[0].bus)); err != nil {
		return nil, nil, err
	}
	for _, m := range two {
		if err := until(readyLimit, 100*time.Millisecond, func() (bool, error) { return knowsAll(m.p, 2) }); err != nil {
			return nil, nil, err
		}
	}
	return two[0], two[1], nil
}

// slotTags are hash tags of the first slots, by slot: those that an
// administrator takes from the source.
func slotTags() []string {
	tags := make([]string, moveSlots)
	for i, left := 0, moveSlots; left > 0; i++ {
		t := strconv.Itoa(i)
		if s := slot.OfString(t); s < moveSlots && tags[s] == "" {
			tags[s] = t
			left--
		}
	}
	return tags
}

// fillSlots sets n large values, and a small one in each slot that a client reads.
func fillSlots(p *proc.Process, tags []string, n int) error {
	blob := []byte(strings.Repeat(value(1), moveValue/len(value(1))+1)[:moveValue])
	return pipeline(p, n+len(tags), func(c *proc.Conn, i int) {
		if i < len(tags) {
			c.Send("SET", "{"+tags[i]+"}", value(i))
			return
		}
		copy(blob, value(i))
		c.Send("SET", "{"+tags[i%len(tags)]+"}"+strconv.Itoa(i), string(blob))
	})
}

// runAdmin runs the administrator and returns how long it took.
func runAdmin(argv []string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), loadLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	began := time.Now()
	if err := cmd.Run(); err != nil {
		b := out.Bytes()
		return 0, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, b[max(0, len(b)-500):])
	}
	return time.Since(began), nil
}

func cpuOf(processes ...*proc.Process) (sum time.Duration, err error) {
	for _, p := range processes {
		c, err := p.CPU()
		if err != nil {
			return 0, err
		}
		sum += c
	}
	return sum, nil
}

// slotProbe is a client of the cluster that measures how long it waits for each
// GET, redirections included.
type slotProbe struct {
	stop   atomic.Bool
	counts atomic.Bool // waits are kept from now on
	done   chan struct{}
	waits  []time.Duration
	err    error
}

func startSlotProbe(nodes [2]*proc.Process, tags []string) *slotProbe {
	p := &slotProbe{done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = p.run(nodes, tags)
	}()
	return p
}

// end stops the client and sorts what it has measured.
func (p *slotProbe) end() error {
	p.stop.Store(true)
	<-p.done
	slices.Sort(p.waits)
	if p.err == nil && len(p.waits) == 0 {
		return errors.New("the client has measured nothing")
	}
	return p.err
}

func (p *slotProbe) run(nodes [2]*proc.Process, tags []string) error {
	var conns [2]*proc.Conn
	for i, n := range nodes {
		c, err := proc.Dial(n.Spec.Port, replyLimit)
		if err != nil {
			return err
		}
		defer c.Close()
		conns[i] = c
	}
	owner := make([]int, len(tags))
	rng := rand.New(rand.NewPCG(1, 9))
	for !p.stop.Load() {
		s := rng.IntN(len(tags))
		began := time.Now()
		if err := get(conns, &owner[s], "{"+tags[s]+"}"); err != nil {
			return err
		}
		if p.counts.Load() {
			p.waits = append(p.waits, time.Since(began))
		}
	}
	return nil
}

// get follows MOVED, which it remembers, and ASK.
func get(conns [2]*proc.Conn, owner *int, key string) error {
	for range 100 {
		v, err := conns[*owner].Do("GET", key)
		if err == nil && v.Kind == '-' && strings.HasPrefix(v.Str, "ASK ") {
			if _, err = conns[1-*owner].Must("ASKING"); err == nil {
				v, err = conns[1-*owner].Do("GET", key)
			}
		}
		switch {
		case err != nil:
			return err
		case v.Kind != '-' && !v.Null:
			return nil
		case v.Kind == '-' && strings.HasPrefix(v.Str, "MOVED "):
			*owner = 1 - *owner
		case v.Kind == '-' && !strings.HasPrefix(v.Str, "TRYAGAIN"):
			return v.Err()
		case v.Null:
			return fmt.Errorf("GET %s: the key is gone", key)
		}
	}
	return fmt.Errorf("GET %s is sent to and fro", key)
}
