package sim

// agenda is what is to happen in a world, by time, and what was planned first
// comes first among the events of one moment: a binary heap without the cost of
// interfaces. The zero value is empty.
type agenda[E any] struct {
	heap []planned[E]
	seq  uint64
}

type planned[E any] struct {
	at    int64 // ns since the start of the world
	seq   uint64
	event E
}

func (p *planned[E]) before(q *planned[E]) bool {
	return p.at < q.at || (p.at == q.at && p.seq < q.seq)
}

// push plans an event.
func (a *agenda[E]) push(at int64, e E) {
	a.seq++
	p := planned[E]{at, a.seq, e}
	a.heap = append(a.heap, p)
	h := a.heap
	i := len(h) - 1
	for i > 0 {
		up := (i - 1) / 2
		if !p.before(&h[up]) {
			break
		}
		h[i] = h[up]
		i = up
	}
	h[i] = p
}

// due reports whether the next event happens no later than end.
func (a *agenda[E]) due(end int64) bool { return len(a.heap) > 0 && a.heap[0].at <= end }

// pop takes the next event. There is one.
func (a *agenda[E]) pop() (at int64, e E) {
	h := a.heap
	top := h[0]
	last := len(h) - 1
	p := h[last]
	h[last] = planned[E]{}
	h = h[:last]
	a.heap = h
	if last == 0 {
		return top.at, top.event
	}
	i := 0
	for {
		down := 2*i + 1
		if down >= len(h) {
			break
		}
		if down+1 < len(h) && h[down+1].before(&h[down]) {
			down++
		}
		if !h[down].before(&p) {
			break
		}
		h[i] = h[down]
		i = down
	}
	h[i] = p
	return top.at, top.event
}
