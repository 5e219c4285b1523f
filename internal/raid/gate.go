package raid

import "sync"

// gate is the lock of an array. Whoever changes something holds it whole; whoever
// only looks, to read a file or to tell the state, takes the inner half alone. So
// somebody who must keep all others from changing anything while a disk works,
// as when the membership is raised, can let them look meanwhile.
//
// The outer half is always taken before the inner one.
type gate struct {
	outer, inner sync.Mutex
}

var _ sync.Locker = (*gate)(nil)

func (g *gate) Lock() {
	g.outer.Lock()
	g.inner.Lock()
}

func (g *gate) Unlock() {
	g.inner.Unlock()
	g.outer.Unlock()
}

// look locks for looking only: nothing that the gate guards may be changed.
func (g *gate) look()   { g.inner.Lock() }
func (g *gate) looked() { g.inner.Unlock() }

// slowly calls fn, which waits for disks, while others may look. The gate is held.
// What it guards must be fit to be seen, and fn changes only what nobody looks at.
func (g *gate) slowly(fn func()) {
	g.inner.Unlock()
	defer g.inner.Lock()
	fn()
}
