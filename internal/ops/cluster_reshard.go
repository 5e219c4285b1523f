package ops

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/redis/cluster/slot"
)

// ReshardOptions are the flags of `cluster reshard`.
type ReshardOptions struct {
	ClusterOptions
	From  []string // ids or addresses; empty or "all" for all other masters
	To    string
	Slots int
}

// ClusterReshard moves a number of slots to one master.
func ClusterReshard(ctx context.Context, o ReshardOptions) (*ClusterResult, error) {
	a := newClusterAdmin("reshard", o.ClusterOptions)
	defer a.close()
	return a.reshard(ctx, o)
}

func (a *clusterAdmin) reshard(ctx context.Context, o ReshardOptions) (*ClusterResult, error) {
	if err := a.load(); err != nil {
		return nil, err
	}
	if o.To == "" || o.Slots < 1 {
		return nil, fmt.Errorf("say --to NODE and --slots N; the masters are %s", a.masterNames())
	}
	if _, _, err := a.reshardEnds(o); err != nil {
		return nil, err
	}
	if ok, err := a.begin(ctx); !ok || err != nil {
		return a.notBegun(err)
	}
	to, sources, err := a.reshardEnds(o) // closing may have changed roles
	if err != nil {
		return nil, err
	}
	if err := a.allOwned(); err != nil {
		return nil, err
	}
	rec := newReshardRecord(o.StateDir, to, sources, o.Slots)
	moves, resumed, complete := rec.pending(a.m)
	if complete {
		rec.forget()
		return a.finish(ctx, "all slots had moved already when the last run was interrupted")
	}
	title := "To move:"
	if resumed {
		title = fmt.Sprintf("To move, the rest of the run begun at %s:", rec.Begun.Format("2006-01-02 15:04:05"))
	} else if moves, err = planReshard(a.holdings(sources), to, o.Slots); err != nil {
		return nil, err
	}
	if ok, err := a.propose(ctx, movesTable(a.m, moves, title)); !ok || err != nil {
		return a.notBegun(err)
	}
	if !resumed {
		rec.Moves = moves
		if err := rec.save(); err != nil {
			a.say("note: the plan cannot be saved (%s): after an interruption the same command would move %d slots anew", err, o.Slots)
		}
	}
	if err := a.moveSlots(ctx, moves); err != nil {
		return a.partly(err)
	}
	res, err := a.finish(ctx, fmt.Sprintf("%s with %s moved to %s", plural(len(moves), "slot"), pluralKeys(a.res.Keys), nameOf(a.m, to)))
	if err == nil {
		rec.forget()
	}
	return res, err
}

func pluralKeys(n int64) string { return plural(int(n), "key") }

// notBegun is the end of a verb whose plan was only shown, or refused.
func (a *clusterAdmin) notBegun(err error) (*ClusterResult, error) {
	if errors.Is(err, errInterrupted) {
		return a.partly(err)
	}
	if err != nil {
		return nil, err
	}
	return a.shown()
}

func (a *clusterAdmin) masterNames() string {
	var out []string
	for _, n := range a.m.masters() {
		out = append(out, fmt.Sprintf("%s (%s, %d slots)", n.name(), short(n.id), n.slots.Len()))
	}
	return strings.Join(out, ", ")
}

// reshardEnds finds target and sources, by id.
func (a *clusterAdmin) reshardEnds(o ReshardOptions) (to string, sources []string, err error) {
	t, err := a.findMaster(o.To)
	if err != nil {
		return "", nil, err
	}
	if len(o.From) == 0 || (len(o.From) == 1 && o.From[0] == "all") {
		for _, n := range a.m.live() {
			if n != t {
				sources = append(sources, n.id)
			}
		}
		return t.id, sources, nil
	}
	for _, f := range o.From {
		n, err := a.findMaster(f)
		if err != nil {
			return "", nil, err
		}
		if n == t {
			return "", nil, fmt.Errorf("%s is both source and target; leave it out of --from", t.name())
		}
		if !slices.Contains(sources, n.id) {
			sources = append(sources, n.id)
		}
	}
	return t.id, sources, nil
}

func (a *clusterAdmin) findMaster(what string) (*clusterNode, error) {
	n, err := a.m.find(what)
	switch {
	case err != nil:
		return nil, err
	case !n.isMaster():
		return nil, fmt.Errorf("%s is a replica; name its master %s", n.name(), nameOf(a.m, n.master))
	case !n.up():
		return nil, fmt.Errorf("%s does not answer (%s); start it first", n.name(), n.err)
	}
	return n, nil
}

func (a *clusterAdmin) holdings(ids []string) []holding {
	out := make([]holding, 0, len(ids))
	for _, id := range ids {
		out = append(out, holding{id, a.m.byID[id].slots.list()})
	}
	return out
}

// allOwned refuses to move slots in a cluster that is not whole.
func (a *clusterAdmin) allOwned() error {
	for _, p := range judgeCluster(a.m, -1).Problems {
		switch p.Kind {
		case "uncovered", "owners", "open":
			return fmt.Errorf("%s; mend that first: `holdfast cluster fix %s`", p, a.o.Seeds[0])
		}
	}
	return nil
}

// reshardRecord is the plan of a reshard on disk. "Move 1000 slots" says by
// itself nothing about what an interrupted run had still to do; the file, found
// by the same ends and number, does. What has moved is seen from the cluster.
type reshardRecord struct {
	Begun time.Time     `json:"begun"`
	Moves []clusterMove `json:"moves"`
	path  string
}

func newReshardRecord(dir, to string, from []string, n int) *reshardRecord {
	r := &reshardRecord{Begun: time.Now()}
	if dir != "" {
		from = slices.Sorted(slices.Values(from))
		sum := sha256.Sum256([]byte(strings.Join(from, " ") + ">" + to + " " + strconv.Itoa(n)))
		r.path = filepath.Join(dir, "reshard-"+hex.EncodeToString(sum[:8])+".json")
	}
	return r
}

// pending is what an interrupted run has left to do. complete says that it had
// moved everything and ended before it could say so. A plan that the cluster has
// moved on from counts for nothing.
func (r *reshardRecord) pending(m *clusterMap) (moves []clusterMove, resumed, complete bool) {
	if r.path == "" {
		return nil, false, false
	}
	b, err := os.ReadFile(r.path)
	if err != nil {
		return nil, false, false
	}
	var old reshardRecord
	if json.Unmarshal(b, &old) != nil || len(old.Moves) == 0 {
		return nil, false, false
	}
	for _, v := range old.Moves {
		if v.Slot < 0 || v.Slot >= slot.Count {
			return nil, false, false
		}
		switch o := m.owner(v.Slot); {
		case o == nil || (o.id != v.From && o.id != v.To) || m.byID[v.To] == nil:
			return nil, false, false
		case o.id == v.From:
			moves = append(moves, v)
		}
	}
	if len(moves) == 0 {
		return nil, false, true
	}
	r.Begun = old.Begun
	return moves, true, false
}

func (r *reshardRecord) save() error {
	if r.path == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(r.path), 0o700); err != nil {
		return err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return writeFileAtomic(r.path, b)
}

func (r *reshardRecord) forget() {
	if r.path != "" {
		_ = os.Remove(r.path) // without the file there is nothing to forget
	}
}

// RebalanceOptions are the flags of `cluster rebalance`.
type RebalanceOptions struct {
	ClusterOptions
	Weights   []string // NODE=W
	Threshold float64  // percent
	UseEmpty  bool
}

// ClusterRebalance gives every master its share of the slots by weight.
func ClusterRebalance(ctx context.Context, o RebalanceOptions) (*ClusterResult, error) {
	a := newClusterAdmin("rebalance", o.ClusterOptions)
	defer a.close()
	return a.rebalance(ctx, o)
}

func (a *clusterAdmin) rebalance(ctx context.Context, o RebalanceOptions) (*ClusterResult, error) {
	if !(o.Threshold >= 0 && o.Threshold <= 100) {
		return nil, fmt.Errorf("--threshold %g: it is a percentage, 0 to 100", o.Threshold)
	}
	if ok, err := a.begin(ctx); !ok || err != nil {
		return a.notBegun(err)
	}
	if err := a.allOwned(); err != nil {
		return nil, err
	}
	given := map[string]float64{}
	for _, w := range o.Weights {
		name, value, ok := strings.Cut(w, "=")
		if !ok {
			return nil, fmt.Errorf("weight %q: write NODE=NUMBER", w)
		}
		n, err := a.findMaster(name)
		if err != nil {
			return nil, err
		}
		if given[n.id], err = strconv.ParseFloat(value, 64); err != nil {
			return nil, fmt.Errorf("weight %q: write NODE=NUMBER", w)
		}
	}
	var ids []string
	var weights []float64
	for _, n := range a.m.masters() {
		w, named := given[n.id]
		switch {
		case !n.up():
			return nil, fmt.Errorf("%s does not answer (%s); start it, or remove it with del-node", n.name(), n.err)
		case n.slots.Len() == 0 && !o.UseEmpty && !named:
			continue
		case !named:
			w = 1
		}
		ids, weights = append(ids, n.id), append(weights, w)
	}
	moves, err := planRebalance(a.holdings(ids), weights, o.Threshold/100)
	if err != nil {
		return nil, err
	}
	if len(moves) == 0 {
		return a.finish(ctx, fmt.Sprintf("nothing to move: all %s are within %g %% of their share", plural(len(ids), "master"), o.Threshold))
	}
	if ok, err := a.propose(ctx, movesTable(a.m, moves, "To move:")); !ok || err != nil {
		return a.notBegun(err)
	}
	if err := a.moveSlots(ctx, moves); err != nil {
		return a.partly(err)
	}
	return a.finish(ctx, fmt.Sprintf("%s with %s moved", plural(len(moves), "slot"), pluralKeys(a.res.Keys)))
}
