package command

import (
	"container/heap"

	"holdfast/internal/redis/keyspace"
)

// Block is the state of a client in a blocking command.
type Block struct {
	Spec       *Spec
	args       [][]byte
	db         *keyspace.DB
	keys       [][]byte
	deadlineMs int64 // 0: none
	seq        uint64
	index      int // in the heap, -1: not there
	try        func(c *Ctx, key []byte) bool
	onTimeout  func(c *Ctx)
	client     *Client
	held       bool // not for keys but for MIGRATE: no business of CLIENT UNBLOCK
	retry      bool // to be dispatched again in the end

	// WaitOff and WaitReplicas: WAIT, served by the shell.
	WaitOff      uint64
	WaitReplicas int
}

type blockTable struct {
	byKey map[watchKey][]*Block
	heap  blockHeap
	ready []watchKey
	seq   uint64
	isIn  map[watchKey]bool
	waits map[*Client]*Block
}

func (t *blockTable) init() {
	t.byKey = make(map[watchKey][]*Block)
	t.isIn = make(map[watchKey]bool)
	t.waits = make(map[*Client]*Block)
}

// CanBlock reports whether the command may block: not inside of EXEC.
func (c *Ctx) CanBlock() bool { return !c.Client.Has(FlagDenyBlocking | FlagMaster | FlagReplay) }

// Block makes the client wait until try serves it. try is called under the
// lock with a Ctx of the client once one of the keys was signalled, in the
// order in which clients blocked on it, and returns whether it has served the
// client, that is, replied. timeoutMs 0 waits for ever; else onTimeout replies
// when the time is over.
func (c *Ctx) Block(keys [][]byte, timeoutMs int64, try func(c *Ctx, key []byte) bool, onTimeout func(c *Ctx)) {
	e := c.E
	b := &Block{try: try, onTimeout: onTimeout, keys: copyArgs(keys)}
	e.block(c, b, timeoutMs)
	for i, k := range b.keys {
		wk := watchKey{b.db.Index(), string(k)}
		if !dupKey(b.keys[:i], k) {
			e.blocking.byKey[wk] = append(e.blocking.byKey[wk], b)
		}
	}
}

func dupKey(keys [][]byte, k []byte) bool {
	for _, x := range keys {
		if string(x) == string(k) {
			return true
		}
	}
	return false
}

// BlockWait makes the client wait until the shell says that n replicas have
// acknowledged the stream up to off (ServeWait), or the time is over.
func (c *Ctx) BlockWait(off uint64, n int, timeoutMs int64, onTimeout func(c *Ctx)) {
	b := &Block{WaitOff: off, WaitReplicas: n, onTimeout: onTimeout}
	c.E.block(c, b, timeoutMs)
	c.E.blocking.waits[c.Client] = b
}

// BlockHeld makes the client wait until the shell calls EndHeld; nothing else
// ends it.
func (c *Ctx) BlockHeld() { c.E.block(c, &Block{held: true}, 0) }

// EndHeld answers a client that BlockHeld made wait with an error.
func (e *Engine) EndHeld(cl *Client, text string) {
	if cl.block != nil && cl.block.held {
		e.unblockError(cl, text)
	}
}

func (e *Engine) block(c *Ctx, b *Block, timeoutMs int64) {
	t := &e.blocking
	t.seq++
	b.Spec, b.args, b.db, b.seq, b.index, b.client = c.Spec, copyArgs(c.Args), c.DB, t.seq, -1, c.Client
	if timeoutMs > 0 {
		e.setDeadline(b, e.NowMs+timeoutMs)
	}
	c.Client.block = b
	c.Client.Flags |= FlagBlocked
	e.Stat.Blocked++
}

// setDeadline ends the wait of b, which has no deadline, at the time atMs.
func (e *Engine) setDeadline(b *Block, atMs int64) {
	b.deadlineMs = atMs
	heap.Push(&e.blocking.heap, b)
}

// BlockedArgs is how many bytes the arguments of the command are that the
// client is blocked in.
func (c *Client) BlockedArgs() (n int) {
	if c.block != nil {
		for _, a := range c.block.args {
			n += len(a)
		}
	}
	return n
}

func (e *Engine) unblock(cl *Client) {
	t, b := &e.blocking, cl.block
	for _, k := range b.keys {
		wk := watchKey{b.db.Index(), string(k)}
		list := t.byKey[wk]
		for i, x := range list {
			if x == b {
				list = append(list[:i:i], list[i+1:]...)
				break
			}
		}
		if len(list) == 0 {
			delete(t.byKey, wk)
		} else {
			t.byKey[wk] = list
		}
	}
	if b.index >= 0 {
		heap.Remove(&t.heap, b.index)
	}
	delete(t.waits, cl)
	cl.block = nil
	cl.Flags &^= FlagBlocked
	e.Stat.Blocked--
}

// SignalKey says that the key holds something that a blocked client may wait for.
func (c *Ctx) SignalKey(key []byte) { c.E.SignalKey(c.DB, key) }

// SignalKey says that the key of db holds something that a blocked client may
// wait for. It costs one length check while nobody waits.
func (e *Engine) SignalKey(db *keyspace.DB, key []byte) {
	t := &e.blocking
	if len(t.byKey) == 0 {
		return
	}
	wk := watchKey{db.Index(), string(key)}
	if t.byKey[wk] == nil || t.isIn[wk] {
		return
	}
	t.isIn[wk] = true
	t.ready = append(t.ready, wk)
}

// SignalDB signals every key of db that somebody waits for: after SWAPDB.
func (e *Engine) SignalDB(db *keyspace.DB) {
	for wk := range e.blocking.byKey {
		if wk.db == db.Index() {
			if _, ok := db.Find([]byte(wk.key)); ok {
				e.SignalKey(db, []byte(wk.key))
			}
		}
	}
}

// serveBlocked serves the clients that wait for signalled keys, until nothing
// is left to be served: a client that is served may signal further keys.
func (e *Engine) serveBlocked() {
	t := &e.blocking
	for len(t.ready) > 0 {
		wk := t.ready[0]
		t.ready = t.ready[1:]
		delete(t.isIn, wk)
		db := e.KS.DB(wk.db)
		for _, b := range append([]*Block(nil), t.byKey[wk]...) {
			// What has expired meanwhile serves nobody, and is deleted here.
			if _, ok := e.lookupPeek(db, nil, []byte(wk.key)); !ok {
				break
			}
			if b.client.block == b {
				e.tryServe(b, []byte(wk.key))
			}
		}
		e.endUnit(nil)
	}
	t.ready = nil
}

func (e *Engine) tryServe(b *Block, key []byte) {
	cl := b.client
	c := Ctx{Reply: &cl.Reply, E: e, Client: cl, DB: b.db, Spec: b.Spec, Args: b.args, propMode: propAuto}
	before, start := e.Dirty, e.Clock()
	if !b.try(&c, key) {
		return
	}
	if c.propMode != propNever && e.Dirty != before {
		args := c.prop
		if args == nil {
			args = c.Args
		}
		e.alsoPropagate(b.db.Index(), args)
	}
	ns := e.Clock() - start
	b.Spec.stats.Usec += ns / 1000
	e.countEnded(b.Spec, ns, c.failed)
	e.slow(&c, ns/1000)
	e.unblock(cl)
	e.endUnit(cl)
	e.resume(cl)
}

func (e *Engine) resume(cl *Client) {
	e.Host.Wake(cl)
	e.Host.Resume(cl)
}

// NextDeadlineMs is the time at which the next blocked client's time is over,
// 0 when none waits for a time.
func (e *Engine) NextDeadlineMs() int64 {
	if len(e.blocking.heap) == 0 {
		return 0
	}
	return e.blocking.heap[0].deadlineMs
}

// CheckTimeouts answers the blocked clients whose time is over.
func (e *Engine) CheckTimeouts() {
	e.endArrived()
	for len(e.blocking.heap) > 0 && e.blocking.heap[0].deadlineMs <= e.NowMs {
		e.timeOut(e.blocking.heap[0])
	}
}

func (e *Engine) timeOut(b *Block) {
	cl := b.client
	if b.retry {
		e.retry(b)
		return
	}
	c := Ctx{Reply: &cl.Reply, E: e, Client: cl, DB: b.db, Spec: b.Spec, Args: b.args}
	b.onTimeout(&c)
	e.unblock(cl)
	e.resume(cl)
}

// Unblock is CLIENT UNBLOCK: as if the time were over, or with an error. It
// returns false when the client is not blocked.
func (e *Engine) Unblock(cl *Client, withError bool) bool {
	b := cl.block
	if b == nil || b.held {
		return false
	}
	e.countEnded(b.Spec, 0, true) // either way, as in Redis
	if !withError {
		e.timeOut(b)
		return true
	}
	e.unblockError(cl, "UNBLOCKED client unblocked via CLIENT UNBLOCK")
	return true
}

// countEnded counts the end of a call that has waited.
func (e *Engine) countEnded(s *Spec, ns int64, failed bool) {
	if failed {
		s.stats.Failed++
	}
	if e.Cfg.LatencyTracking {
		s.stats.addLatency(ns)
	}
}

func (e *Engine) unblockError(cl *Client, text string) {
	c := Ctx{Reply: &cl.Reply, E: e, Client: cl, DB: cl.DB, Spec: cl.block.Spec}
	c.Err(text)
	e.unblock(cl)
	e.resume(cl)
}

// UnblockAllForRoleChange ends all blocking commands and their connections:
// this server became a replica.
func (e *Engine) UnblockAllForRoleChange() {
	seen := map[*Client]bool{}
	for _, list := range e.blocking.byKey {
		for _, b := range list {
			seen[b.client] = true
		}
	}
	for cl := range e.blocking.waits {
		seen[cl] = true
	}
	for cl := range seen {
		e.unblockError(cl, "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)")
		e.Host.Close(cl, true)
	}
}

// Waits calls fn for each client in WAIT; fn may call ServeWait on it.
func (e *Engine) Waits(fn func(cl *Client, off uint64, replicas int)) {
	for cl, b := range e.blocking.waits {
		fn(cl, b.WaitOff, b.WaitReplicas)
	}
}

// ServeWait answers a client in WAIT.
func (e *Engine) ServeWait(cl *Client, acked int) {
	cl.Int(int64(acked))
	e.unblock(cl)
	e.resume(cl)
}

type blockHeap []*Block

func (h blockHeap) Len() int { return len(h) }
func (h blockHeap) Less(i, j int) bool {
	if h[i].deadlineMs != h[j].deadlineMs {
		return h[i].deadlineMs < h[j].deadlineMs
	}
	return h[i].seq < h[j].seq
}
func (h blockHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *blockHeap) Push(x any) {
	b := x.(*Block)
	b.index = len(*h)
	*h = append(*h, b)
}
func (h *blockHeap) Pop() any {
	old := *h
	b := old[len(old)-1]
	*h = old[:len(old)-1]
	b.index = -1
	return b
}
