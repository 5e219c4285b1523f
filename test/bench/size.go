package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"holdfast/test/proc"
)

func sizeRows() []row {
	rows := []row{
		{"memory, 1 M keys", func(e *env) ([]*samples, error) { return e.memory(e.n(1_000_000), 0.8, fillTwice) }},
		{"memory, 5 M keys", func(e *env) ([]*samples, error) { return e.memory(e.n(5_000_000), 0.8, fillTwice) }},
	}
	for _, s := range small {
		rows = append(rows, row{"memory, 1 M " + s.name, func(e *env) ([]*samples, error) {
			return e.memory(e.n(1_000_000), 1.0, func(p *proc.Process, n int) error { return pipeline(p, n, s.request) })
		}})
	}
	return append(rows, row{"garbage collection, 5 M keys", gcShare})
}

// fillTwice sets n keys and then every second one again.
func fillTwice(p *proc.Process, n int) error {
	if err := fill(p, n); err != nil {
		return err
	}
	return pipeline(p, n/2, func(c *proc.Conn, i int) { c.Send("SET", key(2*i), value(i+n)) })
}

// small are collections of eight elements. The set of words is a hash table in
// Redis 7.0, the set of numbers an array.
var small = []struct {
	name    string
	request func(c *proc.Conn, i int)
}{
	{"hashes of 8", func(c *proc.Conn, i int) {
		args := []string{"HSET", key(i)}
		for j := range 8 {
			args = append(args, "field"+strconv.Itoa(j), value(i + j)[:12])
		}
		c.Send(args...)
	}},
	{"lists of 8", func(c *proc.Conn, i int) { c.Send(append([]string{"RPUSH", key(i)}, words(i)...)...) }},
	{"sets of 8 words", func(c *proc.Conn, i int) { c.Send(append([]string{"SADD", key(i)}, words(i)...)...) }},
	{"sets of 8 numbers", func(c *proc.Conn, i int) {
		args := []string{"SADD", key(i)}
		for j := range 8 {
			args = append(args, strconv.Itoa(i+j*1000))
		}
		c.Send(args...)
	}},
	{"sorted sets of 8", func(c *proc.Conn, i int) {
		args := []string{"ZADD", key(i)}
		for j, w := range words(i) {
			args = append(args, strconv.Itoa(j*10), w)
		}
		c.Send(args...)
	}},
}

func words(i int) (w []string) {
	for j := range 8 {
		w = append(w, value(i*8 + j)[:12])
	}
	return w
}

// memory is the resident memory of the whole process per key. It repeats to
// within a percent, so one pair is enough.
func (e *env) memory(n int, most float64, load func(*proc.Process, int) error) ([]*samples, error) {
	mem := &samples{name: "resident memory", unit: "bytes/key", goal: goal{atMost: most}}
	for side := range 2 {
		p, err := e.start(side, nil, plain...)
		if err != nil {
			return nil, err
		}
		if err := load(p, n); err != nil {
			return nil, err
		}
		rss, err := settledRSS(p)
		if err != nil {
			return nil, err
		}
		if v, err := do(p, "DBSIZE"); err != nil || v.Int != int64(n) {
			return nil, fmt.Errorf("%d keys instead of %d, %v", v.Int, n, err)
		}
		if per := float64(rss) / float64(n); side == ours {
			mem.ours = append(mem.ours, per)
		} else {
			mem.redis = append(mem.redis, per)
		}
		if err := e.stop(p); err != nil {
			return nil, err
		}
	}
	return []*samples{mem}, nil
}

// gcLine is a line of GODEBUG=gctrace=1; the group holds the processor times:
// sweep termination + assist / background / idle + mark termination.
var gcLine = regexp.MustCompile(`(?m)^gc \d+ @.* ms clock, ([0-9.+/]+) ms cpu`)

// gcShare is the part of the process's CPU time that goes into garbage
// collection with 5 M keys under writes. Redis has none.
func gcShare(e *env) ([]*samples, error) {
	n := e.n(5_000_000)
	share := &samples{name: "share of CPU", unit: "%", goal: goal{atMost: 1, absolute: true}}
	count := &samples{name: "collections", unit: ""}
	p, err := e.start(ours, []string{"GODEBUG=gctrace=1"}, plain...)
	if err != nil {
		return nil, err
	}
	if err := fill(p, n); err != nil {
		return nil, err
	}
	for range e.pairs {
		said := len(p.Output())
		before, err := p.CPU()
		if err != nil {
			return nil, err
		}
		if _, err := bench(p, "-t", "set", "-n", strconv.Itoa(e.n(3_000_000)), "-r", strconv.Itoa(n), "-d", "64", "-c", "50", "-P", "16"); err != nil {
			return nil, err
		}
		after, err := p.CPU()
		if err != nil {
			return nil, err
		}
		gc, times, err := gcTime(p.Output()[said:])
		if err != nil {
			return nil, err
		}
		share.ours = append(share.ours, 100*float64(gc)/float64(after-before))
		count.ours = append(count.ours, float64(times))
	}
	return []*samples{share, count}, nil
}

func gcTime(said string) (sum time.Duration, times int, err error) {
	for _, m := range gcLine.FindAllStringSubmatch(said, -1) {
		times++
		for _, f := range strings.FieldsFunc(m[1], func(r rune) bool { return r == '+' || r == '/' }) {
			ms, err := strconv.ParseFloat(f, 64)
			if err != nil {
				return 0, 0, fmt.Errorf("gctrace: %q: %w", m[0], err)
			}
			sum += time.Duration(ms * float64(time.Millisecond))
		}
	}
	return sum, times, nil
}
