package ops

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// CreateOptions are the flags of `cluster create`; Seeds are all its nodes.
type CreateOptions struct {
	ClusterOptions
	Replicas int
}

// ClusterCreate makes a cluster of empty nodes. Run again on the same nodes, it
// goes on where it was interrupted.
func ClusterCreate(ctx context.Context, o CreateOptions) (*ClusterResult, error) {
	a := newClusterAdmin("create", o.ClusterOptions)
	defer a.close()
	return a.create(ctx, o)
}

func (a *clusterAdmin) create(ctx context.Context, o CreateOptions) (*ClusterResult, error) {
	shards, err := planShards(o.Seeds, o.Replicas)
	if err != nil {
		return nil, err
	}
	nodes := make([]*clusterNode, len(o.Seeds))
	for i, s := range o.Seeds {
		if nodes[i], err = a.pool.loadNode(s); err != nil {
			return nil, fmt.Errorf("%s: %s", s, plain(err))
		}
		for k, e := range nodes[:i] {
			if e.id == nodes[i].id {
				return nil, fmt.Errorf("%s and %s are the same node", o.Seeds[k], s)
			}
		}
	}
	begun, err := createBegun(nodes, shards)
	if err != nil {
		return nil, err
	}
	title := "To create:"
	if begun {
		title = "To create (it has begun already):"
	}
	ok, err := a.propose(ctx, createTable(o.Seeds, nodes, shards, title))
	if !ok || err != nil {
		return a.notBegun(err)
	}
	if n := sharedHosts(o.Seeds, shards); n > 0 {
		a.say("note: %s on the host of their master; with more hosts they would survive its loss", plural(n, "replica"))
	}
	if err := a.createNodes(ctx, nodes, shards); err != nil {
		a.res.Verdict, a.res.Reason = Degraded, err.Error()+"; run the same command again, it goes on from here"
		return a.res, nil
	}
	res, err := a.finish(ctx, fmt.Sprintf("cluster of %s with %s each", plural(len(shards), "master"), plural(o.Replicas, "replica")))
	return res, err
}

// createBegun makes sure that every node is empty, or is as an interrupted run
// of the same plan has left it.
func createBegun(nodes []*clusterNode, shards []shard) (begun bool, err error) {
	given := map[string]int{}
	for i, n := range nodes {
		given[n.id] = i
	}
	want := make([]slotSet, len(nodes))
	masterOf := make([]int, len(nodes))
	for _, s := range shards {
		for k := s.from; k <= s.to; k++ {
			want[s.master].Add(k)
		}
		masterOf[s.master] = -1
		for _, r := range s.replicas {
			masterOf[r] = s.master
		}
	}
	for i, n := range nodes {
		mixed := want[i]
		mixed.AddAll(&n.slots.Set)
		master, isGiven := given[n.master]
		switch {
		case n.keys > 0 && len(n.view) == 1:
			return false, fmt.Errorf("%s holds %d keys; empty it (FLUSHALL), or move them in later with `holdfast cluster import`", n.addr(), n.keys)
		case mixed != want[i] || (n.master != "" && (!isGiven || masterOf[i] != master)):
			return false, fmt.Errorf("%s is part of another cluster; take it out with `holdfast cluster del-node` or CLUSTER RESET HARD", n.addr())
		}
		for id := range n.view {
			if _, ok := given[id]; !ok && !n.view[id].has("handshake") {
				return false, fmt.Errorf("%s knows %s, which is not among these nodes; take it out of its cluster with `holdfast cluster del-node` or CLUSTER RESET HARD",
					n.addr(), n.view[id].addr())
			}
		}
		begun = begun || len(n.view) > 1 || n.slots.Len() > 0
	}
	return begun, nil
}

func createTable(addrs []string, nodes []*clusterNode, shards []shard, title string) *planTable {
	t := &planTable{title: title, head: []string{"NODE", "ID", "ROLE", "SLOTS", "MASTER"}}
	for _, s := range shards {
		t.add(addrs[s.master], short(nodes[s.master].id), "master", fmt.Sprintf("%d-%d (%d)", s.from, s.to, s.to-s.from+1), "")
		for _, r := range s.replicas {
			t.add(addrs[r], short(nodes[r].id), "replica", "", addrs[s.master])
		}
	}
	return t
}

func (a *clusterAdmin) createNodes(ctx context.Context, nodes []*clusterNode, shards []shard) error {
	for i, s := range shards {
		if err := a.createMaster(nodes[s.master], s, i+1); err != nil {
			return err
		}
	}
	first := nodes[shards[0].master]
	var others []*clusterNode
	for _, n := range nodes {
		if n != first && first.view[n.id] == nil {
			others = append(others, n)
		}
	}
	for _, n := range others {
		if _, err := a.change(n, meet(a.reachable(first))); err != nil {
			return err
		}
	}
	if err := a.waitKnown(ctx, nodes, nodes); err != nil {
		return err
	}
	for _, s := range shards {
		for _, r := range s.replicas {
			if nodes[r].master == nodes[s.master].id {
				continue
			}
			if _, err := a.change(nodes[r], []string{"CLUSTER", "REPLICATE", nodes[s.master].id}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *clusterAdmin) createMaster(n *clusterNode, s shard, epoch int) error {
	var missing []int
	for k := s.from; k <= s.to; k++ {
		if !n.slots.Has(k) {
			missing = append(missing, k)
		}
	}
	var cmds [][]string
	if len(missing) > 0 {
		cmds = append(cmds, slotArgs("ADDSLOTS", missing))
	}
	// Later, a node that knows others refuses it, and the collision rule gives
	// it an epoch.
	if n.epoch == 0 && len(n.view) == 1 {
		cmds = append(cmds, []string{"CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(epoch)})
	}
	if len(cmds) == 0 {
		return nil
	}
	_, err := a.change(n, cmds...)
	return err
}

// reachable is an address for MEET, which takes numbers only.
func (a *clusterAdmin) reachable(n *clusterNode) (host string, port int) {
	if net.ParseIP(n.host) == nil {
		if ips, err := net.LookupHost(n.host); err == nil && len(ips) > 0 {
			return ips[0], n.port
		}
	}
	return n.host, n.port
}

func meet(host string, port int) []string {
	return []string{"CLUSTER", "MEET", host, strconv.Itoa(port)}
}

// meetAgain is how long gossip may take to introduce two nodes before they are
// introduced directly. Gossip does not bring a node back for a minute where it
// was forgotten (del-node, then add-node).
const meetAgain = 2 * time.Second

// waitKnown waits until each of the nodes knows all members.
func (a *clusterAdmin) waitKnown(ctx context.Context, nodes, members []*clusterNode) error {
	end, meetAt := time.Now().Add(a.o.Settle), time.Now().Add(meetAgain)
	for {
		introduce := time.Now().After(meetAt)
		if introduce {
			meetAt = time.Now().Add(meetAgain)
		}
		err := each(nodes, func(n *clusterNode) error { return a.knows(n, members, introduce) })
		var u errUnknown
		switch {
		case err == nil:
			return nil
		case !errors.As(err, &u):
			return err
		case time.Now().After(end):
			return fmt.Errorf("%w after %s; can they reach each other's bus ports (port + 10000)?", u, a.o.Settle)
		case !sleep(ctx, settlePoll):
			return errInterrupted
		}
	}
}

// knows is errUnknown when a node does not know all members; introduce has it
// meet them.
func (a *clusterAdmin) knows(n *clusterNode, members []*clusterNode, introduce bool) error {
	now, err := a.pool.loadNode(n.addr())
	if err == errLoading {
		return errUnknown{n.addr(), members[0].addr()}
	} else if err != nil {
		return fmt.Errorf("%s: %s", n.addr(), plain(err))
	}
	var unknown error
	for _, m := range members {
		if l := now.view[m.id]; l != nil && !l.has("handshake") {
			continue
		}
		unknown = errUnknown{n.addr(), m.addr()}
		if introduce {
			if _, err := a.change(n, meet(a.reachable(m))); err != nil {
				return err
			}
		}
	}
	return unknown
}

type errUnknown struct{ who, whom string }

func (e errUnknown) Error() string { return e.who + " does not know " + e.whom }

// AddNodeOptions are the flags of `cluster add-node`; Seeds is the cluster.
type AddNodeOptions struct {
	ClusterOptions
	Node    string // address
	Replica bool
	Master  string // id or address; "" chooses
}

// ClusterAddNode adds an empty node as a master without slots or as a replica.
func ClusterAddNode(ctx context.Context, o AddNodeOptions) (*ClusterResult, error) {
	a := newClusterAdmin("add-node", o.ClusterOptions)
	defer a.close()
	return a.addNode(ctx, o)
}

func (a *clusterAdmin) addNode(ctx context.Context, o AddNodeOptions) (*ClusterResult, error) {
	if o.Master != "" && !o.Replica {
		return nil, errors.New("--master-id is for a replica; add --replica")
	}
	if ok, err := a.begin(ctx); !ok || err != nil {
		return a.notBegun(err)
	}
	n, err := a.pool.loadNode(o.Node)
	if err != nil {
		return nil, fmt.Errorf("%s: %s", o.Node, plain(err))
	}
	member := a.m.byID[n.id] != nil
	if err := a.addable(n, member); err != nil {
		return nil, err
	}
	var master *clusterNode
	if o.Master != "" {
		if master, err = a.findMaster(o.Master); err != nil {
			return nil, err
		}
	} else if o.Replica {
		if master = a.m.byID[n.master]; master == nil {
			master = leastReplicated(a.m, n.host, n.id)
		}
		if master == nil {
			return nil, errors.New("no master with slots answers that it could follow")
		}
	}
	t := &planTable{title: "To add:", head: []string{"NODE", "ID", "ROLE", "MASTER"}}
	done := fmt.Sprintf("%s is a master without slots; give it some with `holdfast cluster rebalance --use-empty-masters %s`", n.addr(), a.o.Seeds[0])
	if master != nil {
		t.add(n.addr(), short(n.id), "replica", master.name())
		done = fmt.Sprintf("%s is a replica of %s", n.addr(), master.name())
	} else {
		t.add(n.addr(), short(n.id), "master", "")
	}
	if ok, err := a.propose(ctx, t); !ok || err != nil {
		return a.notBegun(err)
	}
	if err := a.join(ctx, n, master, member); err != nil {
		a.res.Verdict, a.res.Reason = Degraded, err.Error()+"; run the same command again, it goes on from here"
		return a.res, nil
	}
	return a.finish(ctx, done)
}

// addable refuses a node that has data or belongs elsewhere.
func (a *clusterAdmin) addable(n *clusterNode, member bool) error {
	switch {
	case member:
		if n.slots.Len() > 0 {
			return fmt.Errorf("%s is a member already and owns %s", n.addr(), plural(n.slots.Len(), "slot"))
		}
		return nil
	case n.keys > 0:
		return fmt.Errorf("%s holds %d keys; empty it (FLUSHALL) first", n.addr(), n.keys)
	}
	for id, l := range n.view {
		if id != n.id && !l.has("handshake") && a.m.byID[id] == nil {
			return fmt.Errorf("%s belongs to another cluster; take it out there, or CLUSTER RESET HARD", n.addr())
		}
	}
	return nil
}

func (a *clusterAdmin) join(ctx context.Context, n, master *clusterNode, member bool) error {
	var via *clusterNode
	var up []*clusterNode
	for _, m := range a.m.nodes {
		if m.up() && m.id != n.id {
			up = append(up, m)
			if via == nil && m.isMaster() {
				via = m
			}
		}
	}
	if via == nil {
		return errors.New("no master answers that could introduce it")
	}
	if master == nil && n.isMaster() {
		if err := a.copyFunctions(via, n); err != nil {
			return err
		}
	}
	if !member || len(n.view) <= len(up)/2 {
		if _, err := a.change(n, meet(a.reachable(via))); err != nil {
			return err
		}
	}
	if err := a.waitKnown(ctx, append(up, n), []*clusterNode{n}); err != nil {
		return err
	}
	if master == nil || n.master == master.id {
		return nil
	}
	if err := a.waitKnown(ctx, []*clusterNode{n}, []*clusterNode{master}); err != nil {
		return err
	}
	_, err := a.change(n, []string{"CLUSTER", "REPLICATE", master.id})
	return err
}

// copyFunctions gives a new master the functions of the others; every node has
// its own set. Servers before 7.0 have none.
func (a *clusterAdmin) copyFunctions(from, to *clusterNode) error {
	v, err := a.pool.do(from.addr(), "FUNCTION", "DUMP")
	if err != nil {
		if isReply(err, "unknown command") || isReply(err, "unknown subcommand") {
			return nil
		}
		return fmt.Errorf("%s: FUNCTION DUMP: %w", from.name(), err)
	}
	list, err := a.pool.do(from.addr(), "FUNCTION", "LIST")
	if err == nil && len(list.Elems) == 0 {
		return nil
	}
	_, err = a.change(to, []string{"FUNCTION", "RESTORE", v.String(), "REPLACE"})
	return err
}

// DelNodeOptions are the flags of `cluster del-node`.
type DelNodeOptions struct {
	ClusterOptions
	Node string // id, beginning of an id, or address
}

// ClusterDelNode takes a node out. The slots of a master go to all the others
// first.
func ClusterDelNode(ctx context.Context, o DelNodeOptions) (*ClusterResult, error) {
	a := newClusterAdmin("del-node", o.ClusterOptions)
	defer a.close()
	return a.delNode(ctx, o.Node)
}

func (a *clusterAdmin) delNode(ctx context.Context, what string) (*ClusterResult, error) {
	if err := a.load(); err != nil {
		return nil, err
	}
	n, err := a.m.find(what)
	if err != nil {
		return nil, err
	}
	if n.up() {
		if ok, err := a.begin(ctx); !ok || err != nil {
			return a.notBegun(err)
		}
		if n = a.m.byID[n.id]; n == nil {
			return nil, fmt.Errorf("%s went away meanwhile", what)
		}
	} else if n.isMaster() && n.slots.Len() > 0 {
		return nil, fmt.Errorf("%s does not answer and owns %s; start it, or give its slots to others with `holdfast cluster fix --with-unreachable-masters %s`",
			n.name(), plural(n.slots.Len(), "slot"), a.o.Seeds[0])
	}
	moves, err := a.planLeave(n)
	if err != nil {
		return nil, err
	}
	t := &planTable{title: "To remove:", head: []string{"DO", "NODE", "TO"}}
	for _, r := range a.m.replicasOf(n.id) {
		t.add("follow another master", r.name(), "the one with fewest replicas")
	}
	t.add("take out, then reset", n.name(), "")
	if ok, err := a.propose(ctx, movesTable(a.m, moves, "To move first:"), t); !ok || err != nil {
		return a.notBegun(err)
	}
	if err := a.moveSlots(ctx, moves); err != nil {
		return a.partly(err)
	}
	if err := a.leave(ctx, n); err != nil {
		a.res.Verdict, a.res.Reason = Degraded, fmt.Sprintf("%s; run the same command again, it goes on from here", err)
		return a.res, nil
	}
	a.reseed(n)
	return a.finish(ctx, fmt.Sprintf("%s (%s) removed, %s with %s moved before", n.name(), short(n.id), plural(len(moves), "slot"), pluralKeys(a.res.Keys)))
}

// planLeave spreads the slots of a master over all others.
func (a *clusterAdmin) planLeave(n *clusterNode) ([]clusterMove, error) {
	var others []string
	for _, m := range a.m.live() {
		if m.id != n.id {
			others = append(others, m.id)
		}
	}
	if n.isMaster() && len(others) == 0 {
		return nil, fmt.Errorf("%s is the only master that answers; it cannot be taken out", n.name())
	}
	if n.slots.Len() == 0 || !n.isMaster() {
		return nil, nil
	}
	if err := a.allOwned(); err != nil {
		return nil, err
	}
	return planEmpty(a.holdings([]string{n.id})[0], a.holdings(others))
}

// leave gives the node's replicas to others, resets the node, and lets everyone
// forget it. The reset comes first: a node that was interrupted behind it is
// still known, so that the next run finds it.
func (a *clusterAdmin) leave(ctx context.Context, n *clusterNode) error {
	if err := a.loaded(ctx, n.id); err != nil {
		return err
	}
	if now := a.m.byID[n.id]; now != nil && now.up() {
		if err := a.dropped(ctx, now); err != nil {
			return err
		}
		if err := a.loaded(ctx, n.id); err != nil {
			return err
		}
	}
	for _, r := range a.m.replicasOf(n.id) {
		if !r.up() {
			continue
		}
		to := leastReplicated(a.m, r.host, n.id)
		if to == nil {
			return fmt.Errorf("no master is left for the replica %s", r.name())
		}
		if _, err := a.change(r, []string{"CLUSTER", "REPLICATE", to.id}); err != nil {
			return err
		}
		r.master = to.id
	}
	var others []*clusterNode
	for _, m := range a.m.nodes {
		if m.id != n.id && m.up() {
			others = append(others, m)
		}
	}
	if now := a.m.byID[n.id]; now != nil && now.up() {
		if now.keys > 0 && now.isMaster() {
			return fmt.Errorf("%s still holds %d keys of slots that it does not own; look at them, then FLUSHALL there", n.name(), now.keys)
		}
		// It may have become a replica with its last slot, and load what it got.
		err := a.insist(ctx, "LOADING", func() error {
			_, err := a.change(now, []string{"CLUSTER", "RESET", "SOFT"})
			return err
		})
		if err != nil {
			return err
		}
	}
	return each(others, func(m *clusterNode) error {
		// A replica learns by and by that it has another master, and loads its data.
		err := a.insist(ctx, "LOADING", func() error {
			return a.insist(ctx, "Can't forget my master", func() error {
				_, err := a.change(m, []string{"CLUSTER", "FORGET", n.id})
				return err
			})
		})
		if isReply(err, "Unknown node") {
			return nil
		}
		return err
	})
}

// insist does something until it is not refused with a text that passes by
// itself, as long as nodes may take to agree.
func (a *clusterAdmin) insist(ctx context.Context, passes string, do func() error) error {
	for end := time.Now().Add(a.o.Settle); ; {
		if err := do(); !isReply(err, passes) || time.Now().After(end) || !sleep(ctx, settlePoll) {
			return err
		}
	}
}

// loaded loads the cluster, again while a node says nothing because it loads.
func (a *clusterAdmin) loaded(ctx context.Context, id string) error {
	for end := time.Now().Add(a.o.Settle); ; {
		if err := a.load(); err != nil {
			return err
		}
		if n := a.m.byID[id]; n == nil || n.err != errLoading {
			return nil
		}
		if time.Now().After(end) || !sleep(ctx, settlePoll) {
			return fmt.Errorf("%s is still loading its data", a.m.byID[id].name())
		}
	}
}

// reseed makes sure that the cluster is looked at from a node that stays.
func (a *clusterAdmin) reseed(gone *clusterNode) {
	var seeds []string
	for _, n := range a.m.nodes {
		if n.id != gone.id && n.up() {
			seeds = append(seeds, n.addr())
		}
	}
	for _, s := range a.o.Seeds {
		if s != gone.addr() && !strings.EqualFold(s, gone.addr()) {
			seeds = append([]string{s}, seeds...)
		}
	}
	a.o.Seeds = seeds
}
