package sim

import (
	"time"

	"holdfast/internal/redis/slotmove"
)

// The data of a node: for each slot a list of the writes that it has, in order.
// The journal is the stream that replicas get; a checkpoint is what the journal
// begins with after a restart.

type mOpKind uint8

const (
	opPush  mOpKind = iota // a write of a client
	opSet                  // what a snapshot says of a slot
	opDel                  // all of a slot
	opFlush                // everything
	opMark
)

type mOp struct {
	kind mOpKind
	slot int
	id   uint32
	list []uint32
	mark slotmove.Mark
	fed  bool // came on the feed of an import
}

type mCheckpoint struct {
	pos   int
	data  [][]uint32
	table string
}

// mData is the part of a node that its disk keeps, and replication.
type mData struct {
	data    [][]uint32
	ops     []mOp
	base    int // position of the first of ops
	flushed int // survives the process
	synced  int // survives a power cut. Invariant: base <= ckpt.pos <= synced <= flushed <= end
	ckpt    mCheckpoint
	hist    int64 // replication id

	links    []*mLink // of a master
	upstream *mConn   // of a replica
	caughtUp bool     // upstream is up and all was loaded
	fit      bool     // of a replica: may be promoted
	syncAt   int      // of a master: the last position that a Sync waited for
}

// mLink is a replica, as its master sees it.
type mLink struct {
	conn   *mConn
	r      *mNode
	online bool
	sent   int
	acked  int
	moving bool
}

func (n *mNode) end() int { return n.base + len(n.ops) }

func (n *mNode) pos() int { return n.end() }

func (n *mNode) newHistory() { n.hist = n.w.rng.Int64() }

func (n *mNode) online() bool { return n.upstream != nil && n.caughtUp }

// append executes a change and puts it into the stream.
func (n *mNode) append(op mOp) {
	n.ops = append(n.ops, op)
	n.apply(op)
	if op.kind == opMark {
		return
	}
	if op.kind == opFlush {
		if !n.core.Idle() {
			n.queue = append(n.queue, slotmove.Disturbed{Why: "the keyspace was emptied"})
		}
		return
	}
	for _, f := range n.gives {
		if f.slots.Has(n.w.slots[op.slot]) {
			f.changes = append(f.changes, op)
		}
	}
}

// apply is what an operation does to the data.
func (n *mNode) apply(op mOp) {
	switch op.kind {
	case opPush:
		n.data[op.slot] = append(n.data[op.slot], op.id)
	case opSet:
		n.data[op.slot] = append([]uint32(nil), op.list...)
	case opDel:
		n.data[op.slot] = nil
	case opFlush:
		for i := range n.data {
			n.data[i] = nil
		}
	}
}

// flush writes the journal, and feeds the replicas.
func (n *mNode) flush() {
	n.flushed = n.end()
	for _, l := range n.links {
		n.feedReplica(l)
	}
}

func cloneData(d [][]uint32) [][]uint32 {
	out := make([][]uint32, len(d))
	for i, l := range d {
		out[i] = append([]uint32(nil), l...)
	}
	return out
}

// cutJournal is what a crash leaves.
func (n *mNode) cutJournal(keep int) {
	for _, op := range n.ops[keep-n.base:] {
		if op.kind == opPush && !op.fed && n.isMaster() {
			n.w.check.lose(op.id, "power cut")
		}
	}
	if keep < n.flushed {
		n.newHistory() // replicas may have more
	}
	n.ops = n.ops[:keep-n.base]
	n.flushed, n.synced = keep, min(n.synced, keep)
}

// reload builds the state from checkpoint and journal.
func (n *mNode) reload() {
	n.data = cloneData(n.ckpt.data)
	t, err := slotmove.ParseTable(n.ckpt.table)
	if err != nil {
		n.w.violate("the table of n%d cannot be read: %v: %q", n.idx, err, n.ckpt.table)
		return
	}
	n.core.Restore(t)
	for _, op := range n.ops[n.ckpt.pos-n.base:] {
		n.apply(op)
		if op.kind == opMark {
			n.replay(op.mark)
		}
	}
}

// replay takes a mark as it was written: as text.
func (n *mNode) replay(m slotmove.Mark) {
	got, err := slotmove.ParseMark(m.Args())
	if err != nil {
		n.w.violate("mark %v cannot be read: %v", m.Args(), err)
		return
	}
	n.core.Replay(got)
}

// syncTick syncs in the background, and takes checkpoints.
func (n *mNode) syncTick() {
	w := n.w
	w.at(n, w.ms(100, 400), n.syncTick)
	n.synced = n.flushed
	if w.chance(4) {
		n.confSynced = n.conf
	}
	if n.synced == n.end() && !n.stepping && w.chance(4) {
		n.ckpt = mCheckpoint{pos: n.end(), data: cloneData(n.data), table: n.core.Table().String()}
	}
}

// syncMark is Sync.
func (n *mNode) syncMark(job string) {
	w := n.w
	pos := n.end()
	wait := w.ms(1, 8)
	if w.chance(20) {
		wait = w.ms(1, 300)
	}
	w.at(n, wait, func() {
		n.flush()
		if !w.opts.NoSync {
			n.synced = max(n.synced, pos)
		}
		n.awaitReplicas(job, pos, w.now+int64(700*time.Millisecond))
	})
}

func (n *mNode) awaitReplicas(job string, pos int, until int64) {
	w := n.w
	behind := false
	for _, l := range n.links {
		behind = behind || l.online && l.acked < pos
	}
	switch {
	case !behind || w.opts.NoReplicaWait:
		n.syncAt = max(n.syncAt, pos)
		if !w.opts.NoReplicaWait {
			n.leaveBehind(pos)
		}
		n.post(slotmove.Durable{Job: job})
	case w.now >= until:
		n.post(slotmove.Durable{Job: job, Err: "a replica does not acknowledge"})
	default:
		w.at(n, 3*time.Millisecond, func() { n.awaitReplicas(job, pos, until) })
	}
}

// leaveBehind: a replica that lacks what a Sync has promised must not be
// promoted, until it has it. Nothing in the cluster ensures that for one that is
// not connected; that its data is too old then is a matter of time.
func (n *mNode) leaveBehind(pos int) {
	for _, r := range n.w.nodes {
		if r.view.master[r.idx] != n.idx {
			continue
		}
		has := false
		for _, l := range n.links {
			has = has || l.r == r && l.online && l.acked >= pos
		}
		r.fit = r.fit && has
	}
}

// replTick connects a replica to its master.
func (n *mNode) replTick() {
	w := n.w
	w.at(n, w.ms(20, 120), n.replTick)
	i := n.view.master[n.idx]
	if i == none || n.upstream != nil {
		return
	}
	m := w.nodes[i]
	if !m.alive || w.isCut(n, m) {
		return
	}
	c := w.connect(m, n)
	n.upstream, n.caughtUp = c, false
	c.down[1] = func(string) {
		if n.upstream == c {
			n.upstream = nil
		}
	}
	hist, pos := n.hist, n.end()
	c.send(0, func() { m.addReplica(c, n, hist, pos) })
	w.at(n, 3*time.Second, func() { // it never answered
		if n.upstream == c && !n.caughtUp {
			n.upstream = nil
			c.close(1)
		}
	})
}

// addReplica is PSYNC at the master.
func (n *mNode) addReplica(c *mConn, r *mNode, hist int64, pos int) {
	if !n.isMaster() {
		c.close(0)
		return
	}
	l := &mLink{conn: c, r: r}
	c.down[0] = func(string) { n.dropLink(l) }
	n.flush()
	n.links = append(n.links, l)
	if hist == n.hist && pos >= n.base && pos <= n.end() {
		l.sent, l.acked = pos, pos
		c.send(1, func() { r.caughtUp = r.upstream == c; clear(r.split); r.ack(c, n, l) })
		n.feedReplica(l)
		return
	}
	data, table, at, hist := cloneData(n.data), n.core.Table().String(), n.end(), n.hist
	l.sent = at
	c.send(1, func() {
		if r.upstream != c {
			return
		}
		r.loadFrom(data, table, at, hist)
		r.ack(c, n, l)
	})
	n.feedReplica(l)
}

func (n *mNode) dropLink(l *mLink) {
	for i, o := range n.links {
		if o == l {
			n.links = append(n.links[:i], n.links[i+1:]...)
			return
		}
	}
}

// loadFrom is a full synchronization, at the replica.
func (n *mNode) loadFrom(data [][]uint32, table string, at int, hist int64) {
	n.data = cloneData(data)
	n.ops, n.base, n.flushed, n.synced, n.hist = nil, at, at, at, hist
	n.ckpt = mCheckpoint{pos: at, data: cloneData(data), table: table}
	t, err := slotmove.ParseTable(table)
	if err != nil {
		n.w.violate("the table of a snapshot cannot be read: %v: %q", err, table)
		return
	}
	n.core.Restore(t)
	n.caughtUp = true
	clear(n.split)
}

// ack tells the master how far its replica n has come.
func (n *mNode) ack(c *mConn, m *mNode, l *mLink) {
	pos := n.end()
	c.send(0, func() {
		l.acked, l.online = pos, true
		if pos >= m.syncAt {
			n.fit = n.upstream == c
		}
	})
}

// feedReplica sends what a replica lacks.
func (n *mNode) feedReplica(l *mLink) {
	if l.moving || l.sent >= n.flushed || !l.conn.open {
		return
	}
	l.moving = true
	n.w.at(n, n.w.ms(0, 4), func() {
		l.moving = false
		if !l.conn.open || !n.isMaster() || l.sent >= n.flushed {
			return
		}
		ops := append([]mOp(nil), n.ops[l.sent-n.base:n.flushed-n.base]...)
		l.sent = n.flushed
		c, r := l.conn, l.r
		c.send(1, func() {
			if r.upstream != c {
				return
			}
			for _, op := range ops {
				r.ops = append(r.ops, op)
				r.apply(op)
				if op.kind == opMark {
					r.replay(op.mark)
				}
			}
			r.flushed = r.end()
			r.ack(c, n, l)
		})
	})
}
