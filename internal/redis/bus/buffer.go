package bus

import (
	"math/bits"
	"time"
)

// What waits on a link is a queue of packets here, and one string in Redis, which
// grows ahead of what it holds and shrinks when the cluster's timer finds it
// mostly empty. CLUSTER LINKS shows how large it is, and cluster-link-sendbuf-limit
// is compared with that, at the timer: so an operator's limit cuts links where it
// did. This file computes the size.

// lookEvery is the period of Redis's cluster timer.
const lookEvery = 100 * time.Millisecond

const (
	doubledBelow = 1 << 20 // a string below it is given twice what it needs, one above it so much more
	shrinkFactor = 4
)

// grown is the capacity of a string of used bytes and capacity alloc once more
// bytes are appended.
func grown(alloc, used, more int64) int64 {
	if alloc-used >= more {
		return alloc
	}
	n := used + more
	if n < doubledBelow {
		n *= 2
	} else {
		n += doubledBelow
	}
	head, most := int64(9), int64(1)<<32-1
	switch {
	case n < 1<<8:
		head, most = 3, 1<<8-1
	case n < 1<<16:
		head, most = 5, 1<<16-1
	case n >= 1<<32:
		head, most = 17, 1<<62
	}
	return min(sizeClass(head+n+1)-head-1, most)
}

// shrunk is the capacity that the timer leaves.
func shrunk(alloc, used int64) int64 {
	if (alloc-used)/shrinkFactor > used {
		return used
	}
	return alloc
}

// sizeClass rounds an allocation up as jemalloc does: four classes for each
// power of two, and multiples of 16 below 128 bytes.
func sizeClass(n int64) int64 {
	if n <= 8 {
		return 8
	}
	step := int64(16)
	if n > 128 {
		step = 1 << (bits.Len64(uint64(n-1)) - 3)
	}
	return (n + step - 1) &^ (step - 1)
}

// trim does what the timer of Redis would have done to the buffer since somebody
// came by last. l.mu is held.
func (l *link) trim() {
	if at := int64(time.Since(l.b.began) / lookEvery); at != l.looked {
		l.looked = at
		l.alloc = shrunk(l.alloc, l.size)
	}
}

// overLimit reports whether the link has to go. l.mu is held.
func (l *link) overLimit() bool {
	limit := l.b.limit.Load()
	return limit > 0 && l.alloc > limit && !l.closed
}

// look has the links checked at the next turn of the timer.
func (b *Bus) look() {
	if b.looking.CompareAndSwap(false, true) {
		time.AfterFunc(lookEvery-time.Since(b.began)%lookEvery, b.lookNow)
	}
}

// lookNow closes the links whose buffers exceed the limit; their readers tell.
func (b *Bus) lookNow() {
	b.looking.Store(false)
	b.mu.Lock()
	links := make([]*link, 0, len(b.links))
	for _, l := range b.links {
		links = append(links, l)
	}
	b.mu.Unlock()
	for _, l := range links {
		l.mu.Lock()
		if l.trim(); l.overLimit() {
			l.overflow = l.alloc
			l.shut()
			l.stop() // if it is still being connected
		}
		l.mu.Unlock()
	}
}
