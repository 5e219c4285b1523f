package main

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/test/proc"
)

// pipeline sends count requests, made by make, over one connection, a thousand
// in flight at most.
func pipeline(p *proc.Process, count int, request func(c *proc.Conn, i int)) error {
	const window = 500
	c, err := proc.Dial(p.Spec.Port, replyLimit)
	if err != nil {
		return err
	}
	defer c.Close()
	recv := func(n int) error {
		for range n {
			if v, err := c.Recv(); err != nil {
				return err
			} else if v.Err() != nil {
				return v.Err()
			}
		}
		return nil
	}
	open := 0
	for i := 0; i < count; {
		n := min(window, count-i)
		for range n {
			request(c, i)
			i++
		}
		if err := c.Flush(); err != nil {
			return err
		}
		if err := recv(open); err != nil {
			return err
		}
		open = n
	}
	return recv(open)
}

// key is a key of 16 bytes, the form that redis-benchmark uses.
func key(i int) string {
	b := []byte("key:000000000000")
	for at := len(b) - 1; i > 0; at-- {
		b[at] = byte('0' + i%10)
		i /= 10
	}
	return string(b)
}

// value is a value of 64 bytes that does not repeat itself.
func value(seed int) string {
	b := make([]byte, 0, 80)
	for x := uint64(seed)*0x9e3779b97f4a7c15 + 1; len(b) < 64; x ^= x >> 29 {
		x *= 0xbf58476d1ce4e5b9
		b = strconv.AppendUint(b, x, 36)
	}
	return string(b[:64])
}

// fill sets n keys.
func fill(p *proc.Process, n int) error {
	return pipeline(p, n, func(c *proc.Conn, i int) { c.Send("SET", key(i), value(i)) })
}

// probe is a set of clients that measure how long they wait for each reply.
type probe struct {
	stop    atomic.Bool
	wg      sync.WaitGroup
	mu      sync.Mutex
	waits   []time.Duration
	problem error
}

// startProbe lets clients GET and SET random ones of keys, one request at a time each.
func startProbe(p *proc.Process, clients, keys int) *probe {
	b := &probe{}
	for i := range clients {
		b.wg.Add(1)
		go func() {
			defer b.wg.Done()
			waits, err := b.client(p, keys, rand.New(rand.NewPCG(uint64(i), 9)))
			b.mu.Lock()
			defer b.mu.Unlock()
			b.waits = append(b.waits, waits...)
			if err != nil {
				b.problem = err
			}
		}()
	}
	return b
}

func (b *probe) client(p *proc.Process, keys int, rng *rand.Rand) (waits []time.Duration, err error) {
	c, err := proc.Dial(p.Spec.Port, replyLimit)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	for i := 0; !b.stop.Load(); i++ {
		n := rng.IntN(keys)
		began := time.Now()
		if i%2 == 0 {
			_, err = c.Must("GET", key(n))
		} else {
			_, err = c.Must("SET", key(n), value(i))
		}
		if err != nil {
			return waits, err
		}
		waits = append(waits, time.Since(began))
	}
	return waits, nil
}

// end stops the clients and returns all waits in order.
func (b *probe) end() ([]time.Duration, error) {
	b.stop.Store(true)
	b.wg.Wait()
	slices.Sort(b.waits)
	return b.waits, b.problem
}
