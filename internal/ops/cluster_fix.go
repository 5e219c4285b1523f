package ops

import (
	"context"
	"errors"
	"fmt"
	"time"

	"holdfast/internal/redis/cluster/slot"
)

// ClusterCheckOptions are the flags of `cluster check` and `cluster info`.
type ClusterCheckOptions struct {
	ClusterOptions
	Replicas int // how many each master must have; -1 for as many as others have
}

// ClusterCheck compares what all nodes say.
func ClusterCheck(ctx context.Context, verb string, o ClusterCheckOptions) (*ClusterResult, error) {
	a := newClusterAdmin(verb, o.ClusterOptions)
	defer a.close()
	r, err := a.settle(ctx, o.Settle, o.Replicas)
	if err != nil {
		return nil, err
	}
	r.Jobs = a.runningJobs(true)
	a.res.Cluster, a.res.Verdict, a.res.Reason = r, r.Verdict, r.Reason
	a.res.TookMs = time.Since(a.began).Milliseconds()
	if len(r.Nodes) == 1 && r.Covered == 0 {
		a.res.Reason += "; it belongs to no cluster yet: make one with `holdfast cluster create HOST:PORT ...`"
		return a.res, nil
	}
	for _, p := range r.Problems {
		switch p.Kind {
		case "uncovered", "owners", "open":
			a.res.Reason += fmt.Sprintf("; mend it with `holdfast cluster fix %s`", o.Seeds[0])
			return a.res, nil
		}
	}
	return a.res, nil
}

// FixOptions are the flags of `cluster fix`.
type FixOptions struct {
	ClusterOptions
	// Unreachable gives up what masters hold that do not answer.
	Unreachable bool
}

// ClusterFix closes open slots, gives every slot exactly one owner, and makes
// all nodes agree on it.
func ClusterFix(ctx context.Context, o FixOptions) (*ClusterResult, error) {
	a := newClusterAdmin("fix", o.ClusterOptions)
	defer a.close()
	return a.fix(ctx, o)
}

func (a *clusterAdmin) fix(ctx context.Context, o FixOptions) (*ClusterResult, error) {
	// What runs, or gossip mends by itself, needs no fixing.
	if err := a.load(); err != nil {
		return nil, err
	}
	if _, err := a.adopt(ctx); err != nil {
		return a.notBegun(err)
	}
	if err := a.calm(ctx); err != nil {
		return a.notBegun(err)
	}
	work, problems, err := a.planFix(o.Unreachable)
	if err != nil {
		return nil, err
	}
	bumps := a.planBumps()
	t := a.closeTable(work, "To mend:")
	for _, n := range bumps {
		t.add("raise its config epoch", "", n.name(), "", "")
	}
	if len(t.rows) == 0 {
		res, err := a.finish(ctx, "nothing to mend")
		return withProblems(res, problems), err
	}
	for _, p := range problems {
		a.say("cannot be mended now: %s", p)
	}
	if ok, err := a.propose(ctx, t); !ok || err != nil {
		return a.notBegun(err)
	}
	if err := a.closeSlots(ctx, work); err != nil {
		a.res.Verdict, a.res.Reason = Degraded, err.Error()
		return a.res, nil
	}
	for _, n := range bumps {
		if _, err := a.change(n, []string{"CLUSTER", "BUMPEPOCH"}); err != nil {
			return nil, err
		}
	}
	res, err := a.finish(ctx, fmt.Sprintf("%s mended", plural(len(work), "slot")))
	return withProblems(res, problems), err
}

func withProblems(r *ClusterResult, problems []ClusterProblem) *ClusterResult {
	if r != nil && len(problems) > 0 {
		r.Verdict = Degraded
		r.Reason = "cannot be mended now: " + summary(problems)
	}
	return r
}

// planFix plans for slots that are open, without an owner, or with several.
func (a *clusterAdmin) planFix(force bool) (work []openWork, problems []ClusterProblem, err error) {
	var sick slotSet
	for n := range slot.Count {
		owners := a.m.claimants(n)
		if len(owners) != 1 || (force && !a.usable(owners[0].id)) {
			sick.Add(n)
		}
	}
	sick.AddAll(&slotsOf(a.m.openSlots()).Set)
	counts, err := a.countKeys(sick.list())
	if err != nil {
		return nil, nil, err
	}
	if len(a.m.live()) == 0 {
		return nil, nil, errors.New("no master answers")
	}
	given := map[string]int{}
	for _, n := range sick.list() {
		o := a.describe(n, counts)
		if force {
			o.owners = a.onlyUsable(o.owners)
		}
		if len(o.owners) == 0 {
			a.spread(&o, given)
		}
		steps, err := planClose(o, a.usable, a.known, force)
		if err != nil {
			problems = append(problems, ClusterProblem{"open", "", fmt.Sprintf("slot %d: %s", n, err)})
			continue
		}
		work = append(work, openWork{n, steps})
	}
	// A master that does not answer may be the owner, or hold the keys.
	if !force {
		work, problems = a.sparing(work, problems)
	}
	return work, problems, nil
}

func (a *clusterAdmin) onlyUsable(ids []string) (out []string) {
	for _, id := range ids {
		if a.usable(id) {
			out = append(out, id)
		}
	}
	return out
}

// spread makes the master with fewest slots the believed owner of a slot that
// nobody has a claim to.
func (a *clusterAdmin) spread(o *openSlot, given map[string]int) {
	if a.usable(o.believed) || len(o.importing) > 0 {
		return
	}
	for _, k := range o.keys {
		if k > 0 {
			return
		}
	}
	var best *clusterNode
	for _, n := range a.m.live() {
		if best == nil || n.slots.Len()+given[n.id] < best.slots.Len()+given[best.id] {
			best = n
		}
	}
	if best != nil {
		given[best.id]++
		o.believed = best.id
	}
}

// sparing leaves slots without an owner alone while a master that does not
// answer may be theirs.
func (a *clusterAdmin) sparing(work []openWork, problems []ClusterProblem) ([]openWork, []ClusterProblem) {
	var down []*clusterNode
	for _, n := range a.m.masters() {
		if !n.up() && (n.slots.Len() > 0 || len(a.m.replicasOf(n.id)) > 0) {
			down = append(down, n)
		}
	}
	if len(down) == 0 {
		return work, problems
	}
	for _, n := range down {
		if k := n.slots.Len(); k > 0 {
			problems = append(problems, ClusterProblem{"unreachable", "", fmt.Sprintf(
				"%s of %s, which does not answer; start it, let a replica take over (CLUSTER FAILOVER FORCE there), or give it up with --with-unreachable-masters", plural(k, "slot"), n.name())})
		}
	}
	var rest []openWork
	var left slotSet
	for _, w := range work {
		if len(a.m.claimants(w.slot)) == 0 {
			left.Add(w.slot)
		} else {
			rest = append(rest, w)
		}
	}
	if k := left.Len(); k > 0 {
		problems = append(problems, ClusterProblem{"uncovered", "", fmt.Sprintf(
			"%s (%s) may belong to %s, which does not answer; start it, or give it up with --with-unreachable-masters", plural(k, "slot"), brief(&left), down[0].name())})
	}
	return rest, problems
}

// planBumps are the owners that some node does not believe although gossip had
// its time: a higher config epoch convinces it.
func (a *clusterAdmin) planBumps() (out []*clusterNode) {
	truth := ownersBy(a.m)
	need := map[string]bool{}
	for _, n := range a.m.nodes {
		if !n.up() {
			continue
		}
		for s, id := range ownersIn(n.view) {
			if truth[s] != "" && id != truth[s] && len(n.importing) == 0 {
				need[truth[s]] = true
			}
		}
	}
	for _, id := range sortedKeys(need) {
		if a.usable(id) {
			out = append(out, a.m.byID[id])
		}
	}
	return out
}
