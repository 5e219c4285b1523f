package sentineld

import (
	"sync"

	"holdfast/internal/redis/glob"
	"holdfast/internal/redis/resp"
)

// hub hands events to the clients that subscribed to them.
type hub struct {
	mu       sync.Mutex
	channels map[string]map[*client]bool
	patterns map[string]map[*client]bool
}

func (h *hub) init() {
	h.channels = map[string]map[*client]bool{}
	h.patterns = map[string]map[*client]bool{}
}

func (h *hub) counts() (channels, patterns int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.channels), len(h.patterns)
}

// of returns how many channels and patterns c follows.
func (h *hub) of(c *client) (channels, patterns int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(c.channels), len(c.patterns)
}

// names are the channels and patterns that c follows.
func (h *hub) names(c *client) (channels, patterns []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for n := range c.channels {
		channels = append(channels, n)
	}
	for n := range c.patterns {
		patterns = append(patterns, n)
	}
	return channels, patterns
}

func pushHead(b []byte, proto, n int) []byte {
	if proto == 3 {
		return resp.AppendHead(b, '>', n)
	}
	return resp.AppendHead(b, '*', n)
}

// publish sends a message to all who want it.
func (h *hub) publish(channel, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.channels[channel] {
		b := pushHead(nil, c.protocol(), 3)
		b = resp.AppendBulkString(b, "message")
		b = resp.AppendBulkString(b, channel)
		c.push(resp.AppendBulkString(b, text))
	}
	for pat, set := range h.patterns {
		if !glob.Match([]byte(pat), []byte(channel), false) {
			continue
		}
		for c := range set {
			b := pushHead(nil, c.protocol(), 4)
			b = resp.AppendBulkString(b, "pmessage")
			b = resp.AppendBulkString(b, pat)
			b = resp.AppendBulkString(b, channel)
			c.push(resp.AppendBulkString(b, text))
		}
	}
}

// subscription tells apart the four commands.
type subscription struct {
	verb    string
	pattern bool
	add     bool
}

func (h *hub) change(c *client, sub subscription, names []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	own, all := c.channels, h.channels
	if sub.pattern {
		own, all = c.patterns, h.patterns
	}
	confirm := func(name *string) {
		b := pushHead(nil, c.protocol(), 3)
		b = resp.AppendBulkString(b, sub.verb)
		switch {
		case name != nil:
			b = resp.AppendBulkString(b, *name)
		case c.protocol() == 3:
			b = append(b, resp.Null3...)
		default:
			b = append(b, resp.NullBulk2...)
		}
		c.push(resp.AppendInt(b, int64(len(c.channels)+len(c.patterns))))
	}
	if !sub.add && len(names) == 0 {
		for n := range own {
			names = append(names, n)
		}
		if len(names) == 0 {
			confirm(nil)
			return
		}
	}
	for _, n := range names {
		if sub.add {
			own[n] = true
			if all[n] == nil {
				all[n] = map[*client]bool{}
			}
			all[n][c] = true
		} else {
			delete(own, n)
			drop(all, n, c)
		}
		confirm(&n)
	}
}

func drop(all map[string]map[*client]bool, name string, c *client) {
	delete(all[name], c)
	if len(all[name]) == 0 {
		delete(all, name)
	}
}

// leave forgets a client.
func (h *hub) leave(c *client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for n := range c.channels {
		drop(h.channels, n, c)
	}
	for n := range c.patterns {
		drop(h.patterns, n, c)
	}
	c.channels, c.patterns = map[string]bool{}, map[string]bool{}
}
