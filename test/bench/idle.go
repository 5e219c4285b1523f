package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"holdfast/test/proc"
)

// What nodes of a cluster spend that have nothing to do but to talk to each
// other: 100 of a kind on this machine, then as many of the other.

const (
	idleMembers = 100
	idleSeconds = 60
	idlePairs   = 3 // at most: one takes minutes
	// idleSettle is how long nodes are left alone once all know each other: a
	// ping and a pong over every link come at least every half node timeout.
	idleSettle = 20 * time.Second
	// idleMemory bounds what all nodes of one kind together may take.
	idleMemory = 4 << 30
)

// usage is what the nodes have used so far, all together.
type usage struct {
	cpu      time.Duration
	switches int64 // times that a thread was given a processor
	sent     int64 // bytes, mostly on the bus
	messages int64
}

func (u usage) less(o usage) usage {
	return usage{u.cpu - o.cpu, u.switches - o.switches, u.sent - o.sent, u.messages - o.messages}
}

// idleNodes measures both kinds, in pairs.
func idleNodes(e *env) ([]*samples, error) {
	all := []*samples{
		{name: "CPU per node and minute", unit: "ms", goal: goal{atMost: 1}},
		{name: "bytes sent per node and second", unit: "B/s", goal: goal{atMost: 1}},
		{name: "messages per node and second", unit: "1/s", goal: goal{atMost: 1}},
		{name: "times scheduled per node and second", unit: "1/s"},
		{name: "memory per node", unit: "MiB"},
	}
	for pair := range min(e.pairs, idlePairs) {
		err := e.both(pair, func(side int) error {
			v, err := e.idle(side, e.idleNodes)
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

// idle makes a cluster of n nodes, lets it settle and looks at it for a while.
// The figures are those of idleNodes, in the same order.
func (e *env) idle(side, n int) ([]float64, error) {
	nodes, err := e.startIdle(side, n)
	if err != nil {
		return nil, err
	}
	for _, m := range nodes {
		if err := until(readyLimit, 200*time.Millisecond, func() (bool, error) { return knowsAll(m.p, n) }); err != nil {
			return nil, fmt.Errorf("a node does not come to know %d: %w", n, err)
		}
	}
	time.Sleep(idleSettle)
	began := time.Now()
	before, err := spent(nodes)
	if err != nil {
		return nil, err
	}
	time.Sleep(time.Duration(e.n(idleSeconds)) * time.Second)
	after, err := spent(nodes)
	if err != nil {
		return nil, err
	}
	seconds := time.Since(began).Seconds() * float64(n)
	memory, err := memoryOf(nodes)
	if err != nil {
		return nil, err
	}
	u := after.less(before)
	return []float64{
		float64(u.cpu.Microseconds()) / 1000 * 60 / seconds,
		float64(u.sent) / seconds,
		float64(u.messages) / seconds,
		float64(u.switches) / seconds,
		float64(memory) / float64(n) / (1 << 20),
	}, nil
}

// startIdle starts n masters that share the slots and meet the first one.
func (e *env) startIdle(side, n int) ([]*member, error) {
	nodes := make([]*member, n)
	var memory int64
	for i := range nodes {
		var err error
		if nodes[i], err = e.startMember(side, plain...); err != nil {
			return nil, err
		}
		rss, err := nodes[i].p.RSS()
		if memory += rss; err != nil || memory > idleMemory {
			return nil, errors.Join(fmt.Errorf("%d nodes take %d MiB", i+1, memory>>20), err)
		}
		c, err := proc.Dial(nodes[i].p.Spec.Port, replyLimit)
		if err != nil {
			return nil, err
		}
		_, err = c.Must("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(16384*i/n), strconv.Itoa(16384*(i+1)/n-1))
		if err == nil {
			_, err = c.Must("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
		}
		if err == nil && i > 0 {
			_, err = c.Must("CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(nodes[0].p.Spec.Port), strconv.Itoa(nodes[0].bus))
		}
		c.Close()
		if err != nil {
			return nil, err
		}
	}
	return nodes, nil
}

// knowsAll reports whether a node has links to all others, in either direction,
// and serves.
func knowsAll(p *proc.Process, n int) (bool, error) {
	info, err := do(p, "CLUSTER", "INFO")
	if err != nil || !strings.Contains(info.Str, "cluster_state:ok") || !strings.Contains(info.Str, fmt.Sprintf("cluster_known_nodes:%d\r\n", n)) {
		return false, err
	}
	links, err := do(p, "CLUSTER", "LINKS")
	return len(links.List) == 2*(n-1), err
}

// spent adds up what all nodes have used.
func spent(nodes []*member) (sum usage, err error) {
	for _, m := range nodes {
		if err := sum.add(m.p); err != nil {
			return sum, err
		}
	}
	return sum, nil
}

func (u *usage) add(p *proc.Process) error {
	v, err := do(p, "CLUSTER", "INFO")
	if err != nil {
		return err
	}
	messages, err := number64(v.Str, "cluster_stats_messages_sent:")
	if err != nil {
		return err
	}
	u.messages += messages
	dir := fmt.Sprintf("/proc/%d", p.PID())
	text, err := os.ReadFile(filepath.Join(dir, "io"))
	if err != nil {
		return err
	}
	written, err := number64(string(text), "wchar:")
	if err != nil {
		return err
	}
	u.sent += written
	return u.addThreads(dir)
}

// addThreads reads what the scheduler says of each thread: nanoseconds run,
// nanoseconds waited, and how often it ran. /proc/PID/stat counts in steps of
// 10 ms, which is much for a node that idles.
func (u *usage) addThreads(dir string) error {
	tasks, err := filepath.Glob(filepath.Join(dir, "task", "*", "schedstat"))
	if err != nil || len(tasks) == 0 {
		return errors.Join(fmt.Errorf("no threads in %s", dir), err)
	}
	for _, t := range tasks {
		b, err := os.ReadFile(t)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has ended
		}
		if err != nil {
			return err
		}
		var run, waited, times int64
		if _, err := fmt.Fscan(bytes.NewReader(b), &run, &waited, &times); err != nil {
			return fmt.Errorf("%s: %w", t, err)
		}
		u.cpu += time.Duration(run)
		u.switches += times
	}
	return nil
}

// number64 is the number behind a prefix at the beginning of a line.
func number64(text, prefix string) (int64, error) {
	for line := range strings.Lines(text) {
		if s, ok := strings.CutPrefix(line, prefix); ok {
			return strconv.ParseInt(strings.TrimSpace(s), 10, 64)
		}
	}
	return 0, fmt.Errorf("no line %s", prefix)
}

// memoryOf is what the nodes take together; what they share counts once.
func memoryOf(nodes []*member) (sum int64, err error) {
	for _, m := range nodes {
		n, err := m.p.PSS()
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}
