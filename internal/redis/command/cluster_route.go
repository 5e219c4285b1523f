package command

import (
	"fmt"

	"holdfast/internal/redis/cluster"
	"holdfast/internal/redis/cluster/slot"
)

// Routing of cluster mode: whether this node serves a request, or who does. All
// keys of a request, or of a transaction, must be of one hash slot; its owner
// serves it. While a slot moves, its source serves the keys that it still has,
// its target those that a client asks for after ASKING.

// Texts of refusals in cluster mode; MOVED and ASK name slot and node besides.
const (
	errCrossSlot    = "CROSSSLOT Keys in request don't hash to the same slot"
	errTryAgain     = "TRYAGAIN Multiple keys request during rehashing of slot"
	errDown         = "CLUSTERDOWN The cluster is down"
	errDownReadOnly = "CLUSTERDOWN The cluster is down and only accepts read commands"
	errUnbound      = "CLUSTERDOWN Hash slot not served"
	errNoCluster    = "ERR This instance has cluster support disabled"
)

// redirection is why this node does not serve a request.
type redirection uint8

const (
	servedHere redirection = iota
	crossSlot
	unstable // TRYAGAIN
	ask
	moved
	clusterDown
	clusterDownReadOnly
	unbound
)

// slotQuery finds out who serves a request: add takes its keys, then decide.
type slotQuery struct {
	view *cluster.View
	// here reports whether this node has a key. It is asked only while the slot
	// moves.
	here func(key []byte) bool
	// shard: SSUBSCRIBE and the like, whose channels need not exist.
	shard bool

	keys      int
	first     []byte // the first key
	slot      int
	owner     *cluster.NodeView
	migrating *cluster.NodeView // where the slot moves to, of which we are the owner
	importing bool
	differ    bool // while importing: not all keys are the same
	missing   int
	existing  int
}

// asker is what matters of whoever asks.
type asker struct {
	write    bool // the request changes data
	asking   bool // ASKING, or a command that needs none
	readonly bool // READONLY
	migrate  bool // MIGRATE, which serves open slots
}

// add takes a key, and gives the reason where the request fails because of it.
func (q *slotQuery) add(key []byte) redirection {
	n := slot.Of(key)
	if q.keys == 0 {
		q.first, q.slot = key, n
		v := q.view
		if q.owner = v.Owner(n); q.owner == nil {
			return unbound
		}
		if v.AnyMoving() {
			if q.owner == v.Myself {
				q.migrating = v.Migrating(n)
			}
			q.importing = q.migrating == nil && v.Importing(n) != nil
		}
	} else if n != q.slot {
		return crossSlot
	} else if q.importing && !q.differ {
		q.differ = string(key) != string(q.first)
	}
	q.keys++
	if (q.migrating != nil || q.importing) && !q.shard {
		if q.here(key) {
			q.existing++
		} else {
			q.missing++
		}
	}
	return servedHere
}

// decide tells who serves the request, once all keys were added: this node, or
// for ask and moved the node returned, or nobody.
func (q *slotQuery) decide(by asker) (redirection, *cluster.NodeView) {
	v := q.view
	if q.keys == 0 {
		return servedHere, nil
	}
	if !v.OK {
		switch {
		case q.shard:
			if !v.AllowPubsubShardWhenDown {
				return clusterDown, nil
			}
		case !v.AllowReadsWhenDown:
			return clusterDown, nil
		case by.write:
			return clusterDownReadOnly, nil
		}
	}
	open := q.migrating != nil || q.importing
	switch {
	case open && by.migrate:
		// Keys must be free to go either way while the slot is open.
		return servedHere, nil
	case q.migrating != nil && q.missing > 0:
		if q.existing > 0 {
			return unstable, nil
		}
		return ask, q.migrating
	case q.importing && by.asking:
		if q.differ && q.missing > 0 {
			return unstable, nil
		}
		return servedHere, nil
	case (by.readonly || q.shard) && !by.write && v.MyMaster != nil && v.MyMaster == q.owner:
		return servedHere, nil
	case q.owner != v.Myself:
		return moved, q.owner
	}
	return servedHere, nil
}

// redirectText is the error for a client: tls tells whether it is connected so.
func redirectText(v *cluster.View, why redirection, to *cluster.NodeView, slot int, tls bool) string {
	switch why {
	case crossSlot:
		return errCrossSlot
	case unstable:
		return errTryAgain
	case clusterDown:
		return errDown
	case clusterDownReadOnly:
		return errDownReadOnly
	case unbound:
		return errUnbound
	}
	code := "MOVED"
	if why == ask {
		code = "ASK"
	}
	return fmt.Sprintf("%s %d %s:%d", code, slot, to.Endpoint(v), to.ClientPort(v, tls))
}

// routes reports whether requests of the command are to be routed.
func (s *Spec) routes() bool {
	return len(s.Keys) > 0 || s.GetKeys != nil || s.Is(MovableKeys) || s.Full == "exec"
}

// singleKey is the position of the key of a command that has always one, at a
// fixed place; 0 for others.
func (s *Spec) singleKey() int {
	if len(s.Keys) != 1 {
		return 0
	}
	if k := s.Keys[0]; k.isRange() && k.Last == 0 && k.Flags&KeyIncomplete == 0 {
		return k.Begin
	}
	return 0
}

// specified reports whether the specifications tell all keys, so that GetKeys,
// which may know better what is done with them, need not be asked where they are.
func (s *Spec) specified() bool {
	for _, k := range s.Keys {
		if k.Unknown || k.Flags&KeyIncomplete != 0 {
			return false
		}
	}
	return len(s.Keys) > 0
}

// SetView gives the engine what cluster mode routes by; nil is no cluster mode.
// Blocked clients that this node serves no more are sent away at once. The lock
// is held.
func (e *Engine) SetView(v *cluster.View) {
	e.view = v
	e.findMine()
	if v == nil {
		return
	}
	if e.drop != nil {
		e.dropReturned()
	}
	e.redirectBlocked()
}

// findMine finds out which slots need no second look.
func (e *Engine) findMine() {
	e.mine = slot.Set{}
	v := e.view
	if v == nil || !v.OK {
		return
	}
	e.mine = v.MySlots()
	v.EachMoving(e.mine.Del)
	if e.hold != nil {
		e.mine.DelAll(&e.hold.refused)
	}
}

// View is what SetView was given last.
func (e *Engine) View() *cluster.View { return e.view }

// serves reports whether this node serves a request as nearly all are: one key, of
// a slot that is ours without ado. Of others redirect is to find out.
func (e *Engine) serves(c *Ctx) bool {
	if p := c.Spec.oneKey; p > 0 && p < len(c.Args) {
		key := c.Args[p]
		if n := slot.Of(key); e.mine.Has(n) {
			c.DB.NoteSlot(key, n)
			return true
		}
	}
	return false
}

// redirect returns the error for a request that this node does not serve.
func (e *Engine) redirect(c *Ctx, write, trusted bool) string {
	e.KS.NoteSlot(nil, 0) // of the request before
	if trusted || !c.Spec.routed {
		return ""
	}
	s, cl := c.Spec, c.Client
	q := slotQuery{view: e.view, here: e.hasKey}
	why := servedHere
	switch {
	case s.Full == "exec":
		for i := 0; i < len(cl.multi) && why == servedHere; i++ {
			why = e.addKeys(&q, cl.multi[i].spec, cl.multi[i].args)
		}
	default:
		q.shard = s.Full == "ssubscribe" || s.Full == "sunsubscribe" || s.Full == "spublish"
		why = e.addKeys(&q, s, c.Args)
	}
	var to *cluster.NodeView
	if why == servedHere {
		why, to = q.decide(asker{
			write:    write,
			asking:   cl.Has(FlagAsking) || s.Is(Asking),
			readonly: cl.Has(FlagReadonly),
			migrate:  s.Full == "migrate",
		})
		if why == servedHere && q.keys > 0 && e.hold != nil && e.hold.refused.Has(q.slot) {
			why = unbound
		}
		if why == servedHere {
			return ""
		}
	}
	c.redirected = true
	return redirectText(e.view, why, to, q.slot, cl.Has(FlagTLS))
}

// addKeys adds the keys of a request. One whose arguments do not fit has none:
// the command itself is going to say so.
func (e *Engine) addKeys(q *slotQuery, s *Spec, args [][]byte) redirection {
	refs, ok := e.refs[:0], false
	if s.specified() {
		refs, ok = s.appendSpecified(refs, args)
	} else {
		refs, ok = s.AppendKeys(refs, args)
	}
	e.refs = refs[:0]
	if !ok {
		return servedHere
	}
	for _, r := range refs {
		if why := q.add(args[r.Pos]); why != servedHere {
			return why
		}
	}
	return servedHere
}

// hasKey reports whether the key lives in the database of cluster mode. It
// leaves no trace.
func (e *Engine) hasKey(key []byte) bool {
	r, ok := e.KS.DB(0).Find(key)
	return ok && !e.expired(r, nil)
}

// redirectBlocked ends the wait of clients for keys that this node does not
// serve any more, or that nobody can bring while the cluster is down.
func (e *Engine) redirectBlocked() {
	var away []*Block
	for wk, list := range e.blocking.byKey {
		for _, b := range list {
			// All keys are of one slot: the first is enough.
			if string(b.keys[0]) == wk.key && e.blockedElsewhere(b) != "" {
				away = append(away, b)
			}
		}
	}
	for _, b := range away {
		if b.client.block == b {
			e.unblockError(b.client, e.blockedElsewhere(b))
		}
	}
}

// blockedElsewhere is the error for a blocked client that waits in vain, "" for
// others.
func (e *Engine) blockedElsewhere(b *Block) string {
	v, cl := e.view, b.client
	if !v.OK {
		return errDown
	}
	n := slot.Of(b.keys[0])
	owner := v.Owner(n)
	switch {
	case owner == v.Myself && owner != nil, v.Importing(n) != nil:
		return ""
	case owner == nil:
		return errUnbound
	case cl.Has(FlagReadonly) && !b.Spec.Is(Write) && owner == v.MyMaster:
		return ""
	}
	return redirectText(v, moved, owner, n, cl.Has(FlagTLS))
}

// --- keys of slots ---

// FlushEverything empties the keyspace and tells the replicas. The lock is held.
func (e *Engine) FlushEverything() {
	e.Dirty += e.Empty(e.Cfg.LazyfreeLazyUserFlush)
	e.Propagate(0, []byte("FLUSHALL"))
}

// --- sharded channels ---

// DropShardChannels unsubscribes the sharded channels of slots that the shard of
// this node does not serve any more, and tells their subscribers. The lock is held.
func (e *Engine) DropShardChannels(slots []int) {
	if len(e.pubsub.shard) == 0 {
		return
	}
	var gone [slot.Count]bool
	for _, n := range slots {
		gone[n] = true
	}
	for name, subs := range e.pubsub.shard {
		if !gone[slot.OfString(name)] {
			continue
		}
		for cl := range subs {
			k := e.kindShard(cl)
			k.drop(cl, name)
			cl.Push(3)
			cl.BulkStr(k.off)
			cl.BulkStr(name)
			cl.Int(int64(k.counts(cl)))
			e.Host.Wake(cl)
		}
	}
}

// Deliver hands a message that came over the cluster bus to the subscribers
// here, and returns their number. The lock is held.
func (e *Engine) Deliver(channel, message []byte, sharded bool) int {
	if sharded {
		return e.deliver(e.pubsub.shard[string(channel)], "smessage", nil, channel, message)
	}
	return e.publish(channel, message)
}

// --- ASKING, READONLY, READWRITE ---

var clusterClientCommands = []Spec{
	{Name: "asking", Arity: 1, Flags: Fast, Cat: CatConnection, Run: cmdAsking},
	{Name: "readonly", Arity: 1, Flags: Loading | Stale | Fast, Cat: CatConnection, Run: cmdReadonly},
	{Name: "readwrite", Arity: 1, Flags: Loading | Stale | Fast, Cat: CatConnection, Run: cmdReadwrite},
}

// inCluster replies an error and returns false without cluster mode.
func (c *Ctx) inCluster() bool {
	if !c.E.Cfg.ClusterEnabled {
		c.Err(errNoCluster)
		return false
	}
	return true
}

func cmdAsking(c *Ctx) {
	if c.inCluster() {
		c.Client.Flags |= FlagAsking
		c.OK()
	}
}

// endAsking ends what ASKING allowed: one command, or one transaction.
func (e *Engine) endAsking(c *Ctx) {
	if !c.Client.Has(FlagMulti) && (c.Spec == nil || c.Spec.Full != "asking") {
		c.Client.Flags &^= FlagAsking
	}
}

func cmdReadonly(c *Ctx) {
	if c.inCluster() {
		c.Client.Flags |= FlagReadonly
		c.OK()
	}
}

func cmdReadwrite(c *Ctx) {
	if c.inCluster() {
		c.Client.Flags &^= FlagReadonly
		c.OK()
	}
}
