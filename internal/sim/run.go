package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"holdfast/internal/redis/sentinel"
)

const replicationTick = 100 * time.Millisecond

// Run plays one world: a calm start, a time of faults, then calm until all
// agree. The same Options give the same Result.
func Run(opts Options) Result {
	w := newWorld(opts)
	if w.opts.Faults == 0 {
		w.opts.Faults = 30 * time.Second
	}
	w.build()
	const calm = 5 * time.Second
	w.runUntil(w.start.Add(calm), w.stopped)
	end := w.now.Add(w.opts.Faults)
	w.check.w = w
	w.plan(end)
	w.runUntil(end, w.stopped)
	w.calmDown()
	if !w.done {
		w.awaitAgreement()
	}
	w.res.Virtual = w.now.Sub(w.start)
	return w.res
}

func (w *world) stopped() bool { return w.done }

// faulty: this is the time of faults.
func (w *world) faulty() bool {
	d := w.now.Sub(w.start)
	return d > 5*time.Second && d < 5*time.Second+w.opts.Faults
}

// build sets up a master, its replicas, and the Sentinels, which know only
// the master.
func (w *world) build() {
	sentinels, replicas := w.opts.Sentinels, w.opts.Replicas
	if sentinels == 0 {
		sentinels = 3
		if w.rng.IntN(4) == 0 {
			sentinels = 5
		}
	}
	if replicas == 0 {
		replicas = 2 + w.rng.IntN(2)
	}
	for i := 0; i <= replicas; i++ {
		n := w.addNode(6379)
		n.server = &simServer{w: w, n: n, priority: 100, master: i == 0}
		n.server.newRunID()
		if i > 0 {
			n.server.follow(w.nodes[0].host, 6379)
			n.server.syncUntil = w.now
		}
	}
	if w.rng.IntN(3) == 0 { // one that must never win
		d := w.nodes[replicas].server
		if w.rng.IntN(2) == 0 {
			d.priority = 0
		} else {
			d.stuck, d.priority = true, 10 // would be the first choice
			w.after(3*time.Second, func() { d.linkUp, d.linkDown = false, w.start.Add(-time.Hour) })
		}
	}
	for i := 0; i < sentinels; i++ {
		n := w.addNode(26379)
		cfg := sentinel.NewConfig()
		cfg.MyID = id(w.rng)
		cfg.Masters = []sentinel.MasterConfig{{
			Name: masterName, Host: w.nodes[0].host, Port: 6379, Quorum: sentinels/2 + 1,
			DownAfter: downAfter, FailoverTimeout: failoverTimeout, ParallelSyncs: 1,
		}}
		n.sentinel = &simSentinel{w: w, n: n, disk: cfg}
	}
	w.cut = make([][]bool, len(w.nodes))
	for i := range w.cut {
		w.cut[i] = make([]bool, len(w.nodes))
	}
	for _, n := range w.nodes {
		if n.sentinel != nil {
			// Not before the master can name its replicas: one that it never
			// named while it was master is unknown to a Sentinel, as in Redis.
			w.after(time.Duration(500+w.rng.IntN(1000))*time.Millisecond, n.sentinel.start)
		}
	}
	w.tick()
}

func id(r *rand.Rand) string {
	return fmt.Sprintf("%016x%016x%08x", r.Uint64(), r.Uint64(), r.Uint32())
}

// tick moves replication and, for a replica that is stuck, lets it be seen.
func (w *world) tick() {
	for _, n := range w.nodes {
		if d := n.server; d != nil {
			stuck := d.stuck
			if stuck && w.now.Sub(w.start) < 3*time.Second {
				d.stuck = false // long enough for the master to name it
			}
			d.replicate()
			d.stuck = stuck
		}
	}
	w.after(replicationTick, w.tick)
}

// plan spreads faults over the time until end.
func (w *world) plan(end time.Time) {
	if w.opts.Flap {
		for t := w.now; t.Before(end); t = t.Add(time.Duration(1500+w.rng.IntN(2500)) * time.Millisecond) {
			w.at(t, w.flap)
		}
		return
	}
	for t := w.now; t.Before(end); t = t.Add(time.Duration(100+w.rng.IntN(4000)) * time.Millisecond) {
		w.at(t, w.fault)
	}
}

func (w *world) pick() *node { return w.nodes[w.rng.IntN(len(w.nodes))] }

// currentMaster is the node that most of the faults are for.
func (w *world) currentMaster() *node {
	for _, n := range w.nodes {
		if n.server != nil && n.server.master && n.alive {
			return n
		}
	}
	return w.nodes[0]
}

// fault does one random bad thing, or ends one.
func (w *world) fault() {
	n := w.pick()
	if w.rng.IntN(3) == 0 {
		n = w.currentMaster()
	}
	switch w.rng.IntN(12) {
	case 0, 1, 2:
		w.crash(n, w.rng.IntN(3) == 0)
		w.after(time.Duration(500+w.rng.IntN(12000))*time.Millisecond, func() { w.restart(n) })
	case 3, 4:
		w.pause(n, time.Duration(200+w.rng.IntN(5000))*time.Millisecond)
	case 5, 6: // one way
		w.cutPair(n, w.pick())
	case 7: // one node alone
		for _, o := range w.nodes {
			w.cutPair(n, o)
			w.cutPair(o, n)
		}
	case 8: // two halves
		for _, a := range w.nodes {
			for _, b := range w.nodes {
				if a.id%2 != b.id%2 {
					w.cutPair(a, b)
				}
			}
		}
	case 9, 10:
		w.tracef("heal")
		w.heal()
	case 11:
		w.sweep()
		if len(w.conns) > 0 {
			w.reset(w.conns[w.rng.IntN(len(w.conns))])
		}
	}
}

// flap takes the master away for long enough to be replaced, and one of the
// others for a moment, so that the failovers overlap.
func (w *world) flap() {
	m, n := w.currentMaster(), w.pick()
	w.crash(m, w.rng.IntN(2) == 0)
	w.after(time.Duration(1200+w.rng.IntN(1500))*time.Millisecond, func() { w.restart(m) })
	if w.rng.IntN(2) == 0 {
		w.pause(n, time.Duration(500+w.rng.IntN(2500))*time.Millisecond)
	}
}

func (w *world) cutPair(a, b *node) {
	if a != b {
		w.tracef("cut %s -> %s", a.host, b.host)
		w.cut[a.id][b.id] = true
		a.lastFault, b.lastFault = w.now, w.now
	}
}

// calmDown ends all faults.
func (w *world) calmDown() {
	w.tracef("faults end")
	w.heal()
	for _, n := range w.nodes {
		if n.server != nil {
			n.server.stuck = false
		}
		w.resume(n)
		w.restart(n)
	}
}

// awaitAgreement runs until all agree and still do a little later.
func (w *world) awaitAgreement() {
	from, why := w.now, ""
	for w.now.Sub(from) < agreeWithin && !w.done {
		w.runUntil(w.now.Add(250*time.Millisecond), w.stopped)
		ok := false
		if ok, why = w.check.agreed(); ok {
			w.res.Agreed = w.now.Sub(from)
			return
		}
	}
	if !w.done {
		w.violate("agreement: not within %v after faults stopped: %s", agreeWithin, why)
	}
}
