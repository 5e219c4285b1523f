package ops

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/redis/resp"
)

// How slots move, key by key as genuine Redis wants it. After each step the
// administrator may end; what is then open is closed by planClose:
//
//	target: SETSLOT n IMPORTING source   rolled back: nothing has moved
//	source: SETSLOT n MIGRATING target   finished
//	source: MIGRATE … until empty        finished
//	target: SETSLOT n NODE target        the slot is the target's; the source's mark goes
//	source: SETSLOT n NODE target
//
// The others learn it from the target, which tells all nodes at once.

func setslot(n int, args ...string) []string {
	return append([]string{"CLUSTER", "SETSLOT", strconv.Itoa(n)}, args...)
}

// moveBatch moves slots that are open together; they may be open between the two
// already. The error may leave them open.
func (a *clusterAdmin) moveBatch(slots []int, from, to *clusterNode) error {
	if _, err := a.change(to, setslots(slots, "IMPORTING", from.id)...); err != nil {
		return err
	}
	counts, err := a.change(from, markAndCount(slots, to.id)...)
	if err != nil {
		var fresh []int
		for _, n := range slots {
			if _, held := to.importing[n]; !held {
				fresh = append(fresh, n)
			}
		}
		if len(fresh) > 0 {
			_, _ = a.change(to, setslots(fresh, "STABLE")...) // if not, the next run closes them
		}
		return err
	}
	for i, n := range slots {
		if counts[len(slots)+i].Int == 0 {
			continue // nor will it have one: new keys are the target's by now
		}
		// What the source has is what clients see: it wins over a copy that a
		// timed-out MIGRATE has left on the target.
		if err := a.drain(n, from, to, true); err != nil {
			return err
		}
	}
	if err := a.stillEmpty(slots, from, to); err != nil {
		return err
	}
	if _, err := a.change(to, setslots(slots, "NODE", to.id)...); err != nil {
		return err
	}
	if _, err := a.change(from, setslots(slots, "NODE", to.id)...); err != nil && !a.gaveUp(slots, from, to) {
		return err
	}
	for _, n := range slots {
		from.slots.Del(n)
		to.slots.Add(n)
		delete(from.migrating, n)
		delete(to.importing, n)
	}
	return nil
}

func setslots(slots []int, args ...string) [][]string {
	out := make([][]string, len(slots))
	for i, n := range slots {
		out[i] = setslot(n, args...)
	}
	return out
}

// markAndCount marks slots as on their way to a node, then counts their keys.
func markAndCount(slots []int, to string) [][]string {
	cmds := setslots(slots, "MIGRATING", to)
	for _, n := range slots {
		cmds = append(cmds, []string{"CLUSTER", "COUNTKEYSINSLOT", strconv.Itoa(n)})
	}
	return cmds
}

// stillEmpty makes sure, at the moment before slots are given away, that the
// source is a master that owns them, and has nothing of them: a replica that
// took over meanwhile would else lose what was written to it.
func (a *clusterAdmin) stillEmpty(slots []int, from, to *clusterNode) error {
	v, err := a.change(from, markAndCount(slots, to.id)...)
	if err != nil {
		return err
	}
	for i, n := range slots {
		if v[len(slots)+i].Int != 0 {
			return fmt.Errorf("slot %d: %s has keys of it again", n, from.name())
		}
	}
	return nil
}

// gaveUp reports whether the source has learned by gossip that the slots are the
// target's. With its last slot it becomes a replica, which refuses SETSLOT.
func (a *clusterAdmin) gaveUp(slots []int, from, to *clusterNode) bool {
	now, err := a.pool.loadNode(from.addr())
	if err != nil || now.id != from.id || len(now.migrating) > 0 {
		return false
	}
	l := now.view[to.id]
	return l != nil && !slices.ContainsFunc(slots, func(n int) bool { return !l.slots.Has(n) })
}

// drain moves keys of a slot until the source has none. mine says that the
// source owns the slot.
func (a *clusterAdmin) drain(n int, from, to *clusterNode, mine bool) error {
	last, same := "", 0
	for {
		v, err := a.change(from, []string{"CLUSTER", "GETKEYSINSLOT", strconv.Itoa(n), strconv.Itoa(a.batch.keys(a.o.Pipeline))})
		if err != nil || len(v[0].Elems) == 0 {
			return err
		}
		keys := make([]string, len(v[0].Elems))
		for i, e := range v[0].Elems {
			keys[i] = e.String()
		}
		if same++; keys[0] != last {
			last, same = keys[0], 0
		}
		if same == 10 {
			return fmt.Errorf("slot %d: key %q does not leave %s", n, last, from.name())
		}
		if err := a.migrate(n, from, to, keys, mine); err != nil {
			return err
		}
	}
}

// batchSize finds out how many keys to give to one MIGRATE. The source serves
// nobody else while it runs, so that it shall be short; but each costs a round
// trip of its own.
type batchSize struct{ now int }

const (
	batchFirst = 10 // as redis-cli has it
	batchMost  = 1000
	batchFast  = 4 * time.Millisecond  // below, twice as many
	batchSlow  = 16 * time.Millisecond // above, half as many
)

// keys is how many keys to ask for; fixed, unless 0, is what the user said.
func (b *batchSize) keys(fixed int) int {
	if fixed > 0 {
		return fixed
	}
	if b.now == 0 {
		b.now = batchFirst
	}
	return b.now
}

// took learns from a MIGRATE.
func (b *batchSize) took(keys int, d time.Duration) {
	switch {
	case d > batchSlow:
		b.now = max(1, min(b.now, keys)/2)
	case d < batchFast && keys == b.now:
		b.now = min(batchMost, b.now*2)
	}
}

// migrateGrace is added to the time that a MIGRATE may take by itself: its
// timeout is one of each transfer, not of the whole.
const migrateGrace = time.Minute

func (a *clusterAdmin) migrateCommand(to *clusterNode, keys []string, replace bool) []string {
	cmd := []string{"MIGRATE", to.host, strconv.Itoa(to.port), "", "0", strconv.FormatInt(a.o.MigrateTimeout.Milliseconds(), 10)}
	if replace {
		cmd = append(cmd, "REPLACE")
	}
	if a.o.Pass != "" && a.o.User != "" {
		cmd = append(cmd, "AUTH2", a.o.User, a.o.Pass)
	} else if a.o.Pass != "" {
		cmd = append(cmd, "AUTH", a.o.Pass)
	}
	return append(append(cmd, "KEYS"), keys...)
}

const migrateTries = 3

// migrate moves keys; those that both ends have are looked at one by one.
func (a *clusterAdmin) migrate(n int, from, to *clusterNode, keys []string, mine bool) error {
	began := time.Now()
	err := a.sendMigrate(from, a.migrateCommand(to, keys, a.o.Replace))
	switch {
	case err == nil:
		a.batch.took(len(keys), time.Since(began))
		a.res.Keys += int64(len(keys))
	case isReply(err, "BUSYKEY"):
		return a.migrateBusy(n, from, to, keys, mine)
	}
	return err
}

// sendMigrate sends a MIGRATE, again if what stopped it may pass: a transfer that
// broke off (the target may have what the source still has: seen as BUSYKEY
// then), or a target that is loading, or too new in the cluster to serve.
func (a *clusterAdmin) sendMigrate(from *clusterNode, cmd []string) error {
	end := time.Now().Add(a.o.Settle)
	for try := 1; ; try++ {
		_, err := a.changeAt(from.addr(), a.o.MigrateTimeout+migrateGrace, cmd)
		broke := isReply(err, "IOERR") && try < migrateTries
		passes := (isReply(err, "CLUSTERDOWN") || isReply(err, "LOADING") || isReply(err, "TRYAGAIN")) && time.Now().Before(end)
		if !broke && !passes {
			return err
		}
		time.Sleep(settlePoll)
	}
}

// migrateBusy moves keys one by one. One that the target has too is replaced
// when both are the same, or when the source is the owner in whose name clients
// see it.
func (a *clusterAdmin) migrateBusy(n int, from, to *clusterNode, keys []string, mine bool) error {
	for _, k := range keys {
		err := a.sendMigrate(from, a.migrateCommand(to, []string{k}, a.o.Replace))
		if isReply(err, "BUSYKEY") {
			if !mine {
				same, err := a.sameValue(from, to, k)
				if err != nil {
					return err
				}
				if !same {
					return fmt.Errorf("slot %d: %s and %s have different values of key %q; say --replace to take those of %s, or delete one",
						n, from.name(), to.name(), k, from.name())
				}
			}
			if err := a.sendMigrate(from, a.migrateCommand(to, []string{k}, true)); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
		a.res.Keys++
	}
	return nil
}

func (a *clusterAdmin) sameValue(x, y *clusterNode, key string) (bool, error) {
	var dump [2]resp.Value
	for i, n := range []*clusterNode{x, y} {
		v, err := a.pool.pipe(n.addr(), a.o.MigrateTimeout+migrateGrace, []string{"ASKING"}, []string{"DUMP", key})
		if err != nil {
			return false, fmt.Errorf("%s: DUMP: %w", n.name(), err)
		}
		if err := v[1].Err(); err != nil {
			return false, fmt.Errorf("%s: DUMP: %w", n.name(), err)
		}
		dump[i] = v[1]
	}
	return !dump[0].IsNull() && string(dump[0].Str) == string(dump[1].Str), nil
}

// openWork is an open slot with the steps that close it.
type openWork struct {
	slot  int
	steps []closeStep
}

// planOpen plans the closing of all open slots; problems are those that cannot
// be closed.
func (a *clusterAdmin) planOpen(force bool) (work []openWork, problems []ClusterProblem) {
	slots := a.m.openSlots()
	counts, err := a.countKeys(slots)
	if err != nil {
		return nil, []ClusterProblem{{"open", "", err.Error()}}
	}
	for _, n := range slots {
		steps, err := planClose(a.describe(n, counts), a.usable, a.known, force)
		if err != nil {
			problems = append(problems, ClusterProblem{"open", "", fmt.Sprintf("slot %d: %s", n, err)})
			continue
		}
		work = append(work, openWork{n, steps})
	}
	return work, problems
}

func (a *clusterAdmin) usable(id string) bool {
	n := a.m.byID[id]
	return n != nil && n.up() && n.isMaster()
}

func (a *clusterAdmin) known(id string) bool { return a.m.byID[id] != nil }

// countKeys counts the keys of slots on all masters that answer: by id, then by
// slot.
func (a *clusterAdmin) countKeys(slots []int) (map[string]map[int]int, error) {
	out := map[string]map[int]int{}
	live := a.m.live()
	for _, n := range live {
		out[n.id] = make(map[int]int, len(slots))
	}
	if len(slots) == 0 {
		return out, nil
	}
	return out, each(live, func(n *clusterNode) error {
		for part := range slices.Chunk(slots, 1024) {
			cmds := make([][]string, len(part))
			for i, s := range part {
				cmds[i] = []string{"CLUSTER", "COUNTKEYSINSLOT", strconv.Itoa(s)}
			}
			v, err := a.pool.pipe(n.addr(), a.o.Timeout, cmds...)
			if err != nil {
				return fmt.Errorf("%s: COUNTKEYSINSLOT: %w", n.name(), err)
			}
			for i, r := range v {
				if r.Err() != nil {
					return fmt.Errorf("%s: COUNTKEYSINSLOT: %w", n.name(), r.Err())
				}
				out[n.id][part[i]] = int(r.Int)
			}
		}
		return nil
	})
}

// successor is the master that stands for a node: itself, or the master of what
// has become a replica, since that has its keys.
func (a *clusterAdmin) successor(id string) string {
	if n := a.m.byID[id]; n != nil && !n.isMaster() {
		return n.master
	}
	return id
}

func (a *clusterAdmin) describe(n int, counts map[string]map[int]int) openSlot {
	o := openSlot{slot: n, migrating: map[string]string{}, importing: map[string]string{}, keys: map[string]int{}, epoch: map[string]uint64{}}
	for _, c := range a.m.claimants(n) {
		o.owners = append(o.owners, c.id)
	}
	for _, c := range a.m.live() {
		if to, ok := c.migrating[n]; ok {
			o.migrating[c.id] = a.successor(to)
		}
		if from, ok := c.importing[n]; ok {
			o.importing[c.id] = a.successor(from)
		}
		o.keys[c.id], o.epoch[c.id] = counts[c.id][n], c.epoch
	}
	votes := map[string]int{}
	for _, c := range a.m.nodes {
		for id, l := range c.view {
			if l.slots.Has(n) {
				votes[id]++
			}
		}
	}
	for _, id := range sortedKeys(votes) {
		if o.believed == "" || votes[id] > votes[o.believed] {
			o.believed = id
		}
	}
	return o
}

// closeTable shows the steps, equal ones of several slots together.
func (a *clusterAdmin) closeTable(work []openWork, title string) *planTable {
	t := &planTable{title: title, head: []string{"DO", "FROM", "TO", "SLOTS", "RANGES"}}
	sets := map[closeStep]*slotSet{}
	var order []closeStep
	for _, w := range work {
		for _, s := range w.steps {
			if sets[s] == nil {
				sets[s] = new(slotSet)
				order = append(order, s)
			}
			sets[s].Add(w.slot)
		}
	}
	words := map[string]string{"finish": "finish the move", "gather": "move keys home", "stable": "clear the mark", "assign": "assign", "disown": "take away"}
	for _, s := range order {
		t.add(words[s.Do], nameOf(a.m, s.From), nameOf(a.m, s.To), strconv.Itoa(sets[s].Len()), brief(sets[s]))
	}
	return t
}

// closeSlots carries the steps out. Assignments of many slots to one master are
// one change.
func (a *clusterAdmin) closeSlots(ctx context.Context, work []openWork) error {
	assign := map[string]*slotSet{}
	disowned := map[closeStep]*slotSet{}
	for _, w := range work {
		for _, s := range w.steps {
			switch s.Do {
			case "assign":
				if assign[s.To] == nil {
					assign[s.To] = new(slotSet)
				}
				assign[s.To].Add(w.slot)
			case "disown":
				if disowned[s] == nil {
					disowned[s] = new(slotSet)
				}
				disowned[s].Add(w.slot)
			}
		}
	}
	for s, set := range disowned {
		if err := a.disown(a.m.byID[s.From], s.To, set); err != nil {
			return err
		}
	}
	for _, id := range sortedKeys(assign) {
		if err := a.assign(a.m.byID[id], assign[id]); err != nil {
			return err
		}
	}
	p := a.newCounter("closing", "slot", len(work))
	defer p.end()
	for _, w := range work {
		if err := stopped(ctx); err != nil {
			return err
		}
		for _, s := range w.steps {
			if err := a.closeStep(w.slot, s); err != nil {
				return err
			}
		}
		p.step(1, "")
	}
	return nil
}

func (a *clusterAdmin) closeStep(n int, s closeStep) error {
	from, to := a.m.byID[s.From], a.m.byID[s.To]
	switch s.Do {
	case "finish":
		return a.moveBatch([]int{n}, from, to)
	case "gather":
		// MIGRATE works on keys of a slot that is another's only while the slot is
		// open here. A node does not learn by gossip who took an open slot over: it
		// may think that the owner is dead and the cluster down.
		if _, err := a.change(from, setslot(n, "NODE", to.id), setslot(n, "IMPORTING", to.id)); err != nil {
			return err
		}
		return a.drain(n, from, to, false)
	case "stable":
		_, err := a.change(from, setslot(n, "STABLE"))
		return err
	}
	return nil
}

// chunk is how many slots one ADDSLOTS names.
const chunk = 1024

func slotArgs(verb string, list []int) []string {
	args := []string{"CLUSTER", verb}
	for _, n := range list {
		args = append(args, strconv.Itoa(n))
	}
	return args
}

// assign makes a master the owner, with a new config epoch so that all others
// believe it. SETSLOT NODE does so whatever the master thinks of the slots: that
// may have changed since they were looked at.
func (a *clusterAdmin) assign(n *clusterNode, set *slotSet) error {
	cmds := [][]string{{"MULTI"}}
	for _, s := range set.list() {
		_, mig := n.migrating[s]
		if _, imp := n.importing[s]; mig || imp {
			cmds = append(cmds, setslot(s, "STABLE"))
		}
		cmds = append(cmds, setslot(s, "NODE", n.id))
	}
	cmds = append(cmds, []string{"CLUSTER", "BUMPEPOCH"}, []string{"EXEC"})
	return a.transaction(n, cmds)
}

// disown takes slots away from a master and leaves them open there, so that it
// keeps its keys when another's claim reaches it. If that has reached it already
// nothing is left to do.
func (a *clusterAdmin) disown(n *clusterNode, owner string, set *slotSet) error {
	now, err := a.pool.loadNode(n.addr())
	if err != nil {
		return fmt.Errorf("%s: %s", n.name(), plain(err))
	}
	var mine []int
	for _, s := range set.list() {
		if now.slots.Has(s) {
			mine = append(mine, s)
		}
	}
	if len(mine) == 0 {
		return nil
	}
	cmds := [][]string{{"MULTI"}}
	for part := range slices.Chunk(mine, chunk) {
		cmds = append(cmds, slotArgs("DELSLOTS", part))
	}
	for _, s := range mine {
		cmds = append(cmds, setslot(s, "IMPORTING", owner))
	}
	return a.transaction(n, append(cmds, []string{"EXEC"}))
}

// transaction sends MULTI … EXEC; an error inside it is an error.
func (a *clusterAdmin) transaction(n *clusterNode, cmds [][]string) error {
	v, err := a.change(n, cmds...)
	if err != nil {
		return err
	}
	for i, r := range v[len(v)-1].Elems {
		if err := r.Err(); err != nil {
			return fmt.Errorf("%s: %s: %w", n.name(), strings.Join(cmds[i+1][:2], " "), err)
		}
	}
	return nil
}

const (
	// batchSlots is how many slots move together, which saves round trips and
	// writes of nodes.conf, …
	batchSlots = 64
	// batchKeys … unless they hold more keys: clients are redirected by ASK while a
	// slot is open, so that it shall not wait for others.
	batchKeys = 500
)

// moveSlots carries moves out, batch by batch. Between two of them it may be
// interrupted, and a stream at any time.
func (a *clusterAdmin) moveSlots(ctx context.Context, moves []clusterMove) error {
	p := a.newCounter("moving", "slot", len(moves))
	defer p.end()
	said := false
	for len(moves) > 0 {
		if err := stopped(ctx); err != nil {
			return err
		}
		from, to := a.m.byID[moves[0].From], a.m.byID[moves[0].To]
		why, err := a.byKeyReason(from, to)
		if err != nil {
			return err
		}
		done := 0
		if why == "" {
			done, err = a.streamBatch(ctx, moves, p)
		} else {
			if !said && !a.o.ByKey && len(a.streams) > 1 && anyTrue(a.streams) {
				a.say("note: slots move key by key: %s", why)
				said = true
			}
			done, err = a.keyBatch(moves, from, to)
		}
		if err != nil {
			return err
		}
		if moves, err = a.renamed(moves[done:]); err != nil {
			return err
		}
		p.step(done, fmt.Sprintf(", %d keys", a.res.Keys))
	}
	return nil
}

// renamed are moves with the masters that their shards have now.
func (a *clusterAdmin) renamed(moves []clusterMove) ([]clusterMove, error) {
	if !slices.ContainsFunc(moves, func(v clusterMove) bool { return !a.usable(v.From) || !a.usable(v.To) }) {
		return moves, nil
	}
	return a.remaining(moves)
}

func anyTrue(m map[string]bool) bool {
	for _, v := range m {
		if v {
			return true
		}
	}
	return false
}

// keyBatch moves the first slots of moves key by key, and returns how many.
func (a *clusterAdmin) keyBatch(moves []clusterMove, from, to *clusterNode) (int, error) {
	batch, _, err := a.nextBatch(moves, from, batchSlots, batchKeys)
	if err != nil {
		return 0, err
	}
	if err := a.moveBatch(batch, from, to); err != nil {
		return 0, err
	}
	a.way("by key")
	a.res.Slots += len(batch)
	return len(batch), nil
}

// nextBatch is the first slots of moves, between the same ends, that together
// hold few keys, and how many; at least one slot, at most slots.
func (a *clusterAdmin) nextBatch(moves []clusterMove, from *clusterNode, slots int, most int64) (out []int, keys int64, err error) {
	var cmds [][]string
	for _, v := range moves[:min(len(moves), slots)] {
		if v.From != moves[0].From || v.To != moves[0].To {
			break
		}
		cmds = append(cmds, []string{"CLUSTER", "COUNTKEYSINSLOT", strconv.Itoa(v.Slot)})
	}
	v, err := a.pool.pipe(from.addr(), a.o.Timeout, cmds...)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: COUNTKEYSINSLOT: %w", from.name(), err)
	}
	for i, r := range v {
		if err := r.Err(); err != nil {
			return nil, 0, fmt.Errorf("%s: COUNTKEYSINSLOT: %w", from.name(), err)
		}
		if i > 0 && keys+r.Int > most {
			break
		}
		keys += r.Int
		out = append(out, moves[i].Slot)
	}
	return out, keys, nil
}
