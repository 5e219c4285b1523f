package sim

import (
	"fmt"
	"runtime"
	"time"

	"holdfast/internal/redis/cluster"
)

// KillResult is what became of a cluster that lost many masters at once.
type KillResult struct {
	LastFail   time.Duration // from the kill until the last of them was FAIL somewhere
	AllBack    time.Duration // from that until every node is in state ok again
	Elections  int
	Violations []string
}

// KillMany kills the first kill of so many masters, each with one replica, in
// the same moment, and waits until all shards are served again.
func KillMany(seed uint64, masters, kill int, plain bool) KillResult {
	w := newCWorld(ClusterOptions{Seed: seed, Masters: masters, Replicas: 1, Plain: plain, Kind: KindMany})
	w.masters = masters
	w.build()
	w.after(cDataTick, w.replicate)
	w.runFor(4*time.Second + w.ms(0, 1000))
	if w.done {
		return KillResult{Violations: w.res.Violations}
	}
	w.check.firstFail = map[int]int64{}
	start := w.now
	for _, n := range w.nodes[:kill] {
		w.crash(n, false, false)
	}
	end := w.now + int64(60*time.Second)
	for !w.done && w.now < end && !w.allBack(kill) {
		w.runFor(5 * time.Millisecond)
	}
	var r KillResult
	last := start
	for _, t := range w.check.firstFail {
		last = max(last, t)
	}
	r.LastFail, r.AllBack = time.Duration(last-start), time.Duration(w.now-last)
	r.Elections, r.Violations = w.res.Elections, w.res.Violations
	if w.now >= end {
		r.Violations = append(r.Violations, "not back within a minute")
	}
	return r
}

// allBack: every living node is ok, and sees a living owner of every slot.
func (w *cWorld) allBack(kill int) bool {
	if len(w.check.firstFail) < kill {
		return false
	}
	for _, n := range w.nodes {
		if !n.alive {
			continue
		}
		if !n.core.Status().OK {
			return false
		}
		for shard := range w.masters {
			from, _ := shardRange(shard, w.masters)
			id, _ := n.core.SlotOwner(from)
			if o := w.byID[id]; o == nil || !o.alive {
				return false
			}
		}
	}
	return true
}

// Traffic is what the bus of one cluster size costs.
type Traffic struct {
	Nodes        int
	Idle         Rate          // in calm
	Dying        Rate          // while a tenth of the nodes dies and is replaced
	Converged    time.Duration // from the death of a tenth until all the others agree
	NotConverged string        // why not, if they did not
	Packets      int64
}

// Rate is per node and second, counted where it is sent.
type Rate struct {
	Messages, Bytes float64
}

func (r Rate) String() string { return fmt.Sprintf("%.1f msg/s %.0f kB/s", r.Messages, r.Bytes/1000) }

// MeasureTraffic runs a cluster of n nodes, half of them masters, in calm and
// through the death of a tenth of its nodes. Progress is told how far it has
// come; nil: nobody.
func MeasureTraffic(seed uint64, n int, timeout time.Duration, plain bool, progress func(string)) Traffic {
	w := newCWorld(ClusterOptions{Seed: seed, Masters: n / 2, Replicas: 1, Plain: plain, Timeout: timeout})
	w.progress = progress
	w.masters = n / 2
	w.noPersist, w.unchecked, w.uniform = true, true, true
	w.cfg.MinLevel = cluster.Warning + 1 // a million lines that nobody reads
	w.spread = int64(timeout / 2)
	w.build()
	w.after(cDataTick, w.replicate)
	w.runSmall(timeout / 2)
	w.spread = 0
	w.runSmall(timeout)
	t := Traffic{Nodes: len(w.nodes)}
	measure := func(d time.Duration) Rate {
		p, b := w.res.Packets, w.res.Bytes
		w.runSmall(d)
		per := d.Seconds() * float64(len(w.nodes))
		return Rate{float64(w.res.Packets-p) / per, float64(w.res.Bytes-b) / per}
	}
	t.Idle = measure(max(timeout, 5*time.Second))
	dead := map[*cNode]bool{}
	for len(dead) < n/10 {
		if x := w.pick(); !dead[x] && !dead[w.partner(x)] { // of no shard both
			dead[x] = true
			w.crash(x, false, false)
		}
	}
	start, p, b := w.now, w.res.Packets, w.res.Bytes
	for w.now-start < int64(20*timeout+30*time.Second) {
		w.runSmall(100 * time.Millisecond)
		if w.tooLarge {
			t.NotConverged = "more memory than a simulation may take"
			break
		}
		if t.NotConverged = w.converged(dead); t.NotConverged == "" {
			break
		}
	}
	t.Converged = time.Duration(w.now - start)
	per := t.Converged.Seconds() * float64(len(w.nodes)-len(dead))
	t.Dying = Rate{float64(w.res.Packets-p) / per, float64(w.res.Bytes-b) / per}
	t.Packets = w.res.Packets
	return t
}

// worldLimit bounds the memory of one world, in bytes: a machine that swaps
// measures nothing, and does nothing else either.
const worldLimit = 3 << 30

// runSmall is runFor for worlds that may not fit into memory: it looks every
// tenth of a second, and stops the world before it stops the machine.
func (w *cWorld) runSmall(d time.Duration) {
	for end := w.now + int64(d); w.now < end && !w.tooLarge; {
		w.runFor(min(100*time.Millisecond, time.Duration(end-w.now)))
		if len(w.nodes) < 300 {
			continue
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		w.tooLarge = m.HeapAlloc > worldLimit
		if w.progress != nil && w.now%int64(time.Second) == 0 {
			w.progress(fmt.Sprintf("%.1f s, %d packets, %d MB of heap", float64(w.now)/1e9, w.res.Packets, m.HeapAlloc>>20))
		}
	}
}

// partner is the other node of a shard of two.
func (w *cWorld) partner(n *cNode) *cNode {
	return w.nodes[(n.idx+w.masters)%len(w.nodes)]
}

// converged says what is missing until all living nodes have all the dead for
// FAIL and agree on the owners of all slots.
func (w *cWorld) converged(dead map[*cNode]bool) string {
	var owners []string
	for _, n := range w.nodes {
		if dead[n] {
			continue
		}
		st := n.core.Status()
		if pfail, fail := n.core.Failing(); !st.OK || fail != len(dead) || pfail != 0 {
			return fmt.Sprintf("n%d: ok %v, %d of %d FAIL, %d PFAIL", n.idx, st.OK, fail, len(dead), pfail)
		}
		for shard := range w.masters {
			from, _ := shardRange(shard, w.masters)
			id, _ := n.core.SlotOwner(from)
			if len(owners) <= shard {
				owners = append(owners, id)
			}
			if o := w.byID[id]; o == nil || dead[o] || owners[shard] != id {
				return fmt.Sprintf("n%d: shard %d belongs to %.6s", n.idx, shard, id)
			}
		}
	}
	return ""
}

var _ cluster.Host = (*cNode)(nil)
