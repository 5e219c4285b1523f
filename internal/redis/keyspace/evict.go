package keyspace

import (
	"math"
	"math/rand/v2"
)

// The 24 bits of access information of an entry are
//
//	LRU:  the time of the last access in seconds, modulo 2^24
//	LFU:  | minute of the last decrement: 16 | logarithmic counter: 8 |
const (
	lruMask    = 1<<24 - 1
	lfuInitial = 5 // so that new keys are not evicted at once

	// sweepStep is how many entries a batch of commands sweeps after a snapshot
	// was given up.
	sweepStep = 64
)

// SetClock tells the time, once per batch of commands.
func (ks *Keyspace) SetClock(nowMs int64) {
	if ks.snap != nil && ks.snap.aborted {
		ks.snap.sweep(sweepStep)
	}
	ks.nowMs = nowMs
	ks.lruClock = uint32(nowMs/1000) & lruMask
	ks.lfuClock = uint32(nowMs/60000) & 0xFFFF
}

// newLRU returns the access information of a new entry.
func (ks *Keyspace) newLRU() uint32 {
	if ks.limits.LFU {
		return ks.lfuClock<<8 | lfuInitial
	}
	return ks.lruClock
}

// Touch records an access to the entry.
func (db *DB) Touch(r Ref) {
	ks := db.ks
	if ks.limits.LFU {
		c := ks.decayed(ks.arena.lru(r.off))
		ks.arena.setLRU(r.off, ks.lfuClock<<8|uint32(ks.increment(c)))
		return
	}
	ks.arena.setLRU(r.off, ks.lruClock)
}

// decayed returns the counter in v less one for each lfu-decay-time passed.
func (ks *Keyspace) decayed(v uint32) uint8 {
	c := uint8(v)
	if ks.limits.LFUDecayTime <= 0 {
		return c
	}
	elapsed := (ks.lfuClock - v>>8) & 0xFFFF
	return c - uint8(min(uint32(c), elapsed/uint32(ks.limits.LFUDecayTime)))
}

// increment counts an access with a probability that falls as the counter grows.
func (ks *Keyspace) increment(c uint8) uint8 {
	if c == math.MaxUint8 {
		return c
	}
	base := max(0, int(c)-lfuInitial)
	ks.rnd ^= ks.rnd << 13
	ks.rnd ^= ks.rnd >> 7
	ks.rnd ^= ks.rnd << 17
	// Certain with probability 1 / (base * factor + 1).
	if (ks.rnd>>11)%uint64(base*max(0, ks.limits.LFULogFactor)+1) == 0 {
		c++
	}
	return c
}

// IdleSeconds returns how long ago the last access was. Meaningful only while
// Limits.LFU is off.
func (r Ref) IdleSeconds() int64 {
	ks := r.db.ks
	return int64((ks.lruClock - ks.arena.lru(r.off)) & lruMask)
}

// Freq returns the logarithmic access counter, decayed to the present.
// Meaningful only while Limits.LFU is on.
func (r Ref) Freq() uint8 {
	return r.db.ks.decayed(r.db.ks.arena.lru(r.off))
}

// SetIdle makes the last access one of sec seconds ago. Times further back than
// 24 bits reach count as the longest that they do.
func (r Ref) SetIdle(sec int64) {
	ks := r.db.ks
	sec = min(max(sec, 0), lruMask)
	ks.arena.setLRU(r.off, (ks.lruClock-uint32(sec))&lruMask)
}

// SetFreq sets the access counter.
func (r Ref) SetFreq(f uint8) {
	r.db.ks.arena.setLRU(r.off, r.db.ks.lfuClock<<8|uint32(f))
}

// SampleEvict calls fn for up to n entries that stand together at a random
// place, all or only those that expire. fn must not change the keyspace.
func (db *DB) SampleEvict(volatileOnly bool, n int, rng *rand.Rand, fn func(Ref)) {
	visit := func(off Off) { fn(Ref{db, off}) }
	if volatileOnly {
		db.volatile.sample(rng, n, visit)
	} else {
		db.keys.sample(rng, n, visit)
	}
}
