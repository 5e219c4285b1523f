package journal

import (
	"fmt"
	"sync"
)

const memoryFirst = 64 << 10

// Memory is the stream of a server that keeps no journal on disk (appendonly
// no): the last bytes in a ring of repl-backlog-size, for partial resyncs. Sync
// has nothing to do and says so by returning nil. It grows to its size only as
// data comes.
type Memory struct {
	mu      sync.Mutex
	size    uint64
	ring    []byte // the byte at position p stands at p % len(ring)
	base    uint64 // nothing below this position was ever here
	first   uint64
	end     uint64
	visible uint64
	gen     uint64
	level   Level
	appends uint64
	flushes uint64
	follow  int
	onVis   func()
}

// NewMemory returns an empty ring of size bytes that begins at position 0.
func NewMemory(size int) *Memory {
	return &Memory{size: uint64(max(size, 1))}
}

// Append adds the payload of a STREAM record; other types have no bytes in the stream.
func (m *Memory) Append(t RecordType, _ uint8, payload []byte) (end uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.appends++
	if t != TypeStream {
		return m.end
	}
	m.grow(uint64(len(payload)))
	n := uint64(len(m.ring))
	rest := payload
	at := m.end
	if k := uint64(len(rest)); k > n {
		at += k - n
		rest = rest[k-n:]
	}
	for len(rest) > 0 {
		k := copy(m.ring[at%n:], rest)
		at += uint64(k)
		rest = rest[k:]
	}
	m.end += uint64(len(payload))
	if m.end-m.first > n {
		m.first = m.end - n
	}
	return m.end
}

// grow makes room for n more bytes, up to the size.
func (m *Memory) grow(n uint64) {
	need := m.end - m.first + n
	have := uint64(len(m.ring))
	if need <= have || have >= m.size {
		return
	}
	m.resizeRing(min(m.size, max(need, 2*have, memoryFirst)))
}

// resizeRing moves the last bytes into a ring of n bytes.
func (m *Memory) resizeRing(n uint64) {
	ring := make([]byte, n)
	if m.end-m.first > n {
		m.first = m.end - n
	}
	old := uint64(len(m.ring))
	for p := m.first; p < m.end; {
		k := copy(ring[p%n:], m.ring[p%old:p%old+min(old-p%old, m.end-p)])
		p += uint64(k)
	}
	m.ring = ring
}

// Resize changes the size of the ring; a smaller one keeps the newest bytes.
func (m *Memory) Resize(size int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.size = uint64(max(size, 1))
	if uint64(len(m.ring)) > m.size {
		m.resizeRing(m.size)
	}
}

// Reset forgets everything and goes on at position base; followers get ErrGeneration.
func (m *Memory) Reset(base uint64) {
	m.mu.Lock()
	m.ring, m.base, m.first, m.end, m.visible = nil, base, base, base, base
	m.gen++
	fn := m.onVis
	m.mu.Unlock()
	if fn != nil {
		fn()
	}
}

// Flush makes what was appended visible to followers.
func (m *Memory) Flush() error {
	m.mu.Lock()
	moved := m.visible != m.end
	m.visible = m.end
	m.flushes++
	fn := m.onVis
	m.mu.Unlock()
	if moved && fn != nil {
		fn()
	}
	return nil
}

// Sync returns nil: there is no disk.
func (m *Memory) Sync(uint64) error { return nil }

// End returns the position after the last appended byte.
func (m *Memory) End() uint64 { return m.get(&m.end) }

// Flushed equals Visible.
func (m *Memory) Flushed() uint64 { return m.get(&m.visible) }

// Synced equals Visible: what can be lost is lost in any case.
func (m *Memory) Synced() uint64 { return m.get(&m.visible) }

// FirstPos returns the oldest position in the ring.
func (m *Memory) FirstPos() uint64 { return m.get(&m.first) }

// Visible returns the position up to which followers may read.
func (m *Memory) Visible() uint64 { return m.get(&m.visible) }

func (m *Memory) get(p *uint64) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return *p
}

// OnVisible sets the function that Flush calls, without locks held.
func (m *Memory) OnVisible(fn func()) {
	m.mu.Lock()
	m.onVis = fn
	m.mu.Unlock()
}

// SetLevel is noted for Stats only.
func (m *Memory) SetLevel(l Level) {
	m.mu.Lock()
	m.level = l
	m.mu.Unlock()
}

// Err returns nil: memory does not fail.
func (m *Memory) Err() error { return nil }

// Close drops the ring.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ring, m.first, m.visible = nil, m.end, m.end
	m.gen++
	return nil
}

// Stats returns the figures of this moment.
func (m *Memory) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Stats{
		Generation: m.gen, Base: m.base, First: m.first, End: m.end, Flushed: m.visible, Synced: m.visible, Visible: m.visible,
		WindowBytes: len(m.ring), Followers: m.follow, Appends: m.appends, Flushes: m.flushes, Level: m.level, Buffered: int(m.end - m.visible),
	}
}

// Follow begins to read at pos, any byte from FirstPos to End.
func (m *Memory) Follow(pos uint64) (*Follower, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if pos < m.first {
		return nil, fmt.Errorf("%w: %d, the oldest is %d", ErrTrimmed, pos, m.first)
	}
	if pos > m.end {
		return nil, fmt.Errorf("%w: %d, the end is %d", ErrAhead, pos, m.end)
	}
	return &Follower{mem: m, gen: m.gen, pos: pos}, nil
}

func (m *Memory) read(f *Follower, buf []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f.gen != m.gen {
		return 0, ErrGeneration
	}
	if f.pos < m.first {
		return 0, fmt.Errorf("%w: %d, the oldest is %d", ErrTrimmed, f.pos, m.first)
	}
	n := 0
	size := uint64(len(m.ring))
	for n < len(buf) && f.pos < m.visible {
		at := f.pos % size
		k := copy(buf[n:], m.ring[at:at+min(size-at, m.visible-f.pos)])
		n += k
		f.pos += uint64(k)
	}
	return n, nil
}
