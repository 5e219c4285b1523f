package ops

import (
	"errors"
	"fmt"
	"math"
	"net"
	"slices"

	"holdfast/internal/redis/cluster/slot"
)

// The planners of `cluster`: pure functions from what is to what shall be.

// shard is one master with its replicas in the plan of a new cluster, as
// indexes of the addresses given.
type shard struct {
	master   int
	replicas []int
	from, to int // slots, both included
}

// minMasters is how many masters a cluster needs so that a majority remains
// when one fails.
const minMasters = 3

// planShards chooses masters and replicas among addresses: first, no replica on
// its master's host; then masters spread over hosts; then replicas of one
// master on different hosts. Nodes of equal merit stay in the order given. The
// same addresses always give the same plan.
func planShards(addrs []string, replicas int) ([]shard, error) {
	if replicas < 0 {
		return nil, errors.New("--replicas must not be negative")
	}
	masters := len(addrs) / (replicas + 1)
	if masters < minMasters {
		return nil, fmt.Errorf("a cluster needs %d masters at least: with %d replicas each that is %d nodes, and %d are given",
			minMasters, replicas, minMasters*(replicas+1), len(addrs))
	}
	if masters > slot.Count {
		return nil, fmt.Errorf("more than %d masters", slot.Count)
	}
	host, order := interleave(addrs)
	place := newPlacement(host, order, masters)
	place.improve()
	out := make([]shard, masters)
	per, cursor := float64(slot.Count)/float64(masters), 0.0
	first := 0
	for i := range out {
		last := int(math.Round(cursor + per - 1))
		if i == masters-1 {
			last = slot.Count - 1
		}
		out[i] = shard{master: place.seat[i], from: first, to: last}
		first, cursor = last+1, cursor+per
	}
	for i, n := range place.seat[masters:] {
		s := &out[i%masters]
		s.replicas = append(s.replicas, n)
	}
	return out, nil
}

// hosts gives every address the number of its host.
func hosts(addrs []string) []int {
	ids := map[string]int{}
	out := make([]int, len(addrs))
	for i, a := range addrs {
		h, _, err := net.SplitHostPort(a)
		if err != nil {
			h = a
		}
		n, ok := ids[h]
		if !ok {
			n = len(ids)
			ids[h] = n
		}
		out[i] = n
	}
	return out
}

// interleave returns the hosts by address and the indexes of the addresses, one
// host after the other in turn.
func interleave(addrs []string) (host, order []int) {
	host = hosts(addrs)
	by := map[int][]int{}
	most := 0
	for i, h := range host {
		by[h] = append(by[h], i)
		most = max(most, len(by[h]))
	}
	for round := range most {
		for h := range len(by) {
			if round < len(by[h]) {
				order = append(order, by[h][round])
			}
		}
	}
	return host, order
}

// placement seats nodes: seats 0…masters-1 are masters, and seat i beyond is a
// replica of master i mod masters.
type placement struct {
	host    []int
	seat    []int
	masters int
	onHost  map[int]int // masters per host
}

func newPlacement(host, order []int, masters int) *placement {
	p := &placement{host: host, seat: order, masters: masters, onHost: map[int]int{}}
	for _, n := range order[:masters] {
		p.onHost[host[n]]++
	}
	return p
}

// cost of the group of a master, lexicographic by weight: replicas on the
// master's host, then replicas that share a host.
func (p *placement) cost(group int) (c int64) {
	h := p.host[p.seat[group]]
	for i := group + p.masters; i < len(p.seat); i += p.masters {
		if p.host[p.seat[i]] == h {
			c += 1 << 40
		}
		for k := i + p.masters; k < len(p.seat); k += p.masters {
			if p.host[p.seat[i]] == p.host[p.seat[k]] {
				c++
			}
		}
	}
	return c
}

func (p *placement) swapCost(i, k int) int64 {
	c := p.cost(i % p.masters)
	if k%p.masters != i%p.masters {
		c += p.cost(k % p.masters)
	}
	hi, hk := p.host[p.seat[i]], p.host[p.seat[k]]
	square := func(h int) int64 { return int64(p.onHost[h]) * int64(p.onHost[h]) }
	return c + (square(hi)+square(hk))<<20
}

func (p *placement) swap(i, k int) {
	for _, s := range []int{i, k} {
		if s < p.masters {
			p.onHost[p.host[p.seat[s]]]--
		}
	}
	p.seat[i], p.seat[k] = p.seat[k], p.seat[i]
	for _, s := range []int{i, k} {
		if s < p.masters {
			p.onHost[p.host[p.seat[s]]]++
		}
	}
}

// improve swaps seats as long as that helps. Each swap lowers the total cost, so
// it ends.
func (p *placement) improve() {
	for changed := true; changed; {
		changed = false
		for i := range p.seat {
			for k := i + 1; k < len(p.seat); k++ {
				if p.host[p.seat[i]] == p.host[p.seat[k]] {
					continue
				}
				before := p.swapCost(i, k)
				p.swap(i, k)
				if p.swapCost(i, k) < before {
					changed = true
				} else {
					p.swap(i, k)
				}
			}
		}
	}
}

// sharedHosts counts replicas on the host of their master.
func sharedHosts(addrs []string, shards []shard) (n int) {
	host := hosts(addrs)
	for _, s := range shards {
		for _, r := range s.replicas {
			if host[r] == host[s.master] {
				n++
			}
		}
	}
	return n
}

// clusterMove is one slot that changes its owner.
type clusterMove struct {
	Slot int    `json:"slot"`
	From string `json:"from"` // node ids
	To   string `json:"to"`
}

// holding is a master in the planning of moves.
type holding struct {
	id    string
	slots []int // ascending
}

func (h *holding) take(n int) []int {
	out := h.slots[:n]
	h.slots = h.slots[n:]
	return out
}

// shares splits n over weights exactly: by the largest remainder, the first
// wins a draw. The sum of weights must be positive.
func shares(n int, weights []float64) []int {
	sum := 0.0
	for _, w := range weights {
		sum += w
	}
	out := make([]int, len(weights))
	rest := make([]int, len(weights)) // indexes, by remainder
	left := n
	part := func(i int) float64 { return float64(n) * weights[i] / sum }
	for i := range weights {
		out[i] = int(part(i))
		left -= out[i]
		rest[i] = i
	}
	slices.SortStableFunc(rest, func(a, b int) int {
		ra, rb := part(a)-math.Floor(part(a)), part(b)-math.Floor(part(b))
		switch {
		case ra > rb:
			return -1
		case ra < rb:
			return 1
		}
		return 0
	})
	for i := 0; left > 0; i = (i + 1) % len(rest) {
		if weights[rest[i]] > 0 {
			out[rest[i]]++
			left--
		}
	}
	return out
}

// planReshard takes n slots from sources, each in proportion to what it has.
func planReshard(sources []holding, to string, n int) ([]clusterMove, error) {
	total := 0
	weights := make([]float64, len(sources))
	for i, s := range sources {
		total += len(s.slots)
		weights[i] = float64(len(s.slots))
	}
	switch {
	case n < 1:
		return nil, errors.New("--slots must be 1 or more")
	case total == 0:
		return nil, errors.New("the sources own no slots")
	case n > total:
		return nil, fmt.Errorf("the sources own %d slots, fewer than --slots %d", total, n)
	}
	var out []clusterMove
	for i, k := range shares(n, weights) {
		for _, s := range sources[i].take(k) {
			out = append(out, clusterMove{s, sources[i].id, to})
		}
	}
	return out, nil
}

// planRebalance moves as few slots as possible so that each master has its share
// by weight. When no master is further than threshold (a fraction) from its
// share, nothing moves.
func planRebalance(masters []holding, weights []float64, threshold float64) ([]clusterMove, error) {
	total, sum := 0, 0.0
	for i, m := range masters {
		total += len(m.slots)
		if weights[i] < 0 || math.IsNaN(weights[i]) || math.IsInf(weights[i], 0) {
			return nil, fmt.Errorf("weight %v of %s: weights are numbers from 0", weights[i], short(m.id))
		}
		sum += weights[i]
	}
	if sum <= 0 {
		return nil, errors.New("all weights are 0: nobody is left to own the slots")
	}
	want := shares(total, weights)
	over := false
	for i, m := range masters {
		have := float64(len(m.slots))
		if want[i] == 0 {
			over = over || have > 0
			continue
		}
		// A difference of less than a slot cannot be mended.
		exact := float64(total) * weights[i] / sum
		over = over || (math.Abs(have-exact) >= 1 && math.Abs(have-exact) > threshold*exact)
	}
	if !over {
		return nil, nil
	}
	return level(masters, want), nil
}

// level moves the surplus of each master to those that lack, in order.
func level(masters []holding, want []int) (out []clusterMove) {
	to := 0
	for i := range masters {
		for len(masters[i].slots) > want[i] {
			for len(masters[to].slots) >= want[to] {
				to++ // the sums are equal, so someone lacks
			}
			n := min(len(masters[i].slots)-want[i], want[to]-len(masters[to].slots))
			for _, s := range masters[i].take(n) {
				out = append(out, clusterMove{s, masters[i].id, masters[to].id})
			}
			want[to] -= n
		}
	}
	return out
}

// planEmpty spreads the slots of a master over others so that those end as
// equal as can be; every slot goes to the one that has fewest then.
func planEmpty(from holding, others []holding) ([]clusterMove, error) {
	if len(from.slots) == 0 {
		return nil, nil
	}
	if len(others) == 0 {
		return nil, errors.New("no other master is left to take its slots")
	}
	get := make([]int, len(others))
	for range from.slots {
		least := 0
		for i := range others {
			if len(others[i].slots)+get[i] < len(others[least].slots)+get[least] {
				least = i
			}
		}
		get[least]++
	}
	var out []clusterMove
	for i, k := range get {
		for _, s := range from.take(k) {
			out = append(out, clusterMove{s, from.id, others[i].id})
		}
	}
	return out, nil
}

// openSlot is everything that is known of a slot that is migrating, importing
// or without an owner.
type openSlot struct {
	slot      int
	owners    []string          // who claims it
	migrating map[string]string // node to the other end
	importing map[string]string
	keys      map[string]int    // of the slot, on each master that answers
	epoch     map[string]uint64 // config epoch of each master that answers
	believed  string            // the owner in most views; "" when none
}

// closeStep is one step that closes an open slot.
type closeStep struct {
	Do   string // finish, gather, stable, assign, disown
	From string
	To   string
}

// planClose says how a slot is closed: a move that has begun is finished, one
// that has not moved anything is rolled back, keys on nodes that the slot does
// not belong to go to its owner. usable says whether a node is a master that
// answers, known whether it is in the cluster at all; force gives up what a
// node holds that does not answer.
func planClose(o openSlot, usable, known func(id string) bool, force bool) ([]closeStep, error) {
	owner := ""
	var steps []closeStep
	switch len(o.owners) {
	case 1:
		owner = o.owners[0]
	case 0:
		owner = chooseOwner(o, sortedKeys(o.keys))
	default:
		owner = chooseOwner(o, o.owners)
		for _, id := range o.owners {
			if id != owner && usable(id) {
				steps = append(steps, closeStep{"disown", id, owner})
			}
		}
	}
	if owner == "" {
		return nil, errors.New("no master answers that could own it")
	}
	if !usable(owner) {
		return nil, fmt.Errorf("its owner %s does not answer; start it, or let a replica take over", short(owner))
	}
	if len(o.owners) != 1 {
		steps = append(steps, closeStep{"assign", "", owner})
	} else if to := o.migrating[owner]; to != "" {
		_, imports := o.importing[to]
		switch {
		case known(to) && !usable(to) && !force:
			return nil, fmt.Errorf("it migrates to %s, which does not answer and may hold keys of it; start it, or roll back by `holdfast cluster fix --with-unreachable-masters`", short(to))
		case usable(to) && to != owner && (imports || o.keys[to] > 0):
			steps = append(steps, closeStep{"finish", owner, to})
			owner = to
		default:
			steps = append(steps, closeStep{"stable", owner, ""})
		}
	} else if _, imports := o.importing[owner]; imports {
		steps = append(steps, closeStep{"stable", owner, ""})
	}
	return append(steps, closeOthers(o, owner, usable)...), nil
}

// closeOthers is what is left to do on those that do not own the slot.
func closeOthers(o openSlot, owner string, usable func(string) bool) (steps []closeStep) {
	for _, id := range sortedKeys(o.keys) {
		_, mig := o.migrating[id]
		_, imp := o.importing[id]
		if id == owner || !usable(id) || (len(o.owners) == 1 && o.migrating[o.owners[0]] == owner && id == o.owners[0]) {
			continue // the source of a finished move is closed by it
		}
		if o.keys[id] > 0 || (len(o.owners) > 1 && slices.Contains(o.owners, id)) {
			steps = append(steps, closeStep{"gather", id, owner})
		} else if !mig && !imp {
			continue
		}
		steps = append(steps, closeStep{"stable", id, ""})
	}
	return steps
}

// chooseOwner is who of the candidates should own a slot: the one with most of
// its keys, then one that imports it, then the one that most nodes believe to be
// the owner, then the highest config epoch.
func chooseOwner(o openSlot, candidates []string) string {
	best := ""
	rank := func(id string) [4]uint64 {
		r := [4]uint64{uint64(o.keys[id]), 0, 0, o.epoch[id]}
		if _, ok := o.importing[id]; ok {
			r[1] = 1
		}
		if o.believed == id {
			r[2] = 1
		}
		return r
	}
	for _, id := range candidates {
		if _, answers := o.keys[id]; !answers {
			continue
		}
		if a, b := rank(id), rank(best); best == "" || slices.Compare(a[:], b[:]) > 0 {
			best = id
		}
	}
	return best
}

// leastReplicated is the master that a new replica on a host should follow:
// fewest replicas, then not on that host, then most slots, then by address.
func leastReplicated(m *clusterMap, host, except string) *clusterNode {
	var best *clusterNode
	rank := func(n *clusterNode) [3]int {
		r := [3]int{len(m.replicasOf(n.id)), 0, -n.slots.Len()}
		for _, s := range append(m.replicasOf(n.id), n) {
			if s.host == host {
				r[1] = 1
			}
		}
		return r
	}
	for _, n := range m.live() {
		if n.id == except || n.slots.Len() == 0 {
			continue
		}
		if best == nil {
			best = n
			continue
		}
		if a, b := rank(n), rank(best); slices.Compare(a[:], b[:]) < 0 {
			best = n
		}
	}
	return best
}

// movesTable shows moves by pair of source and target.
func movesTable(m *clusterMap, moves []clusterMove, title string) *planTable {
	t := &planTable{title: title, head: []string{"FROM", "TO", "SLOTS", "RANGES"}}
	type pair struct{ from, to string }
	sets := map[pair]*slotSet{}
	var order []pair
	for _, v := range moves {
		p := pair{v.From, v.To}
		if sets[p] == nil {
			sets[p] = new(slotSet)
			order = append(order, p)
		}
		sets[p].Add(v.Slot)
	}
	for _, p := range order {
		t.add(nameOf(m, p.from), nameOf(m, p.to), fmt.Sprint(sets[p].Len()), brief(sets[p]))
	}
	return t
}

// nameOf is the address of a node, or its id when it is not known.
func nameOf(m *clusterMap, id string) string {
	if n := m.byID[id]; n != nil {
		return n.name()
	}
	if id == "" {
		return ""
	}
	return short(id) + "?"
}
