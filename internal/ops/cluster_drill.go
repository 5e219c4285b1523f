package ops

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"holdfast/internal/redis/cluster/slot"
)

// KillHost kills as many masters of a cluster at once as still leave a majority,
// as the loss of a machine would.
func KillHost(ctx context.Context, o DrillOptions) (*DrillReport, error) {
	d, err := LoadDeployment(o.Dir)
	if err != nil {
		return nil, err
	}
	if d.Mode != modeCluster {
		return nil, fmt.Errorf("the deployment in %s is of mode %s; start a cluster with `holdfast up cluster --dir DIR`, or try `holdfast drill kill-primary`", o.Dir, d.Mode)
	}
	masters := len(d.Members) / (d.Replicas + 1)
	return clusterDrill(ctx, o, d, "kill-host", max(1, (masters-1)/2), func(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) })
}

// shardDrill is one victim of a drill on a cluster, with a probe of its own that
// writes to one slot of it.
type shardDrill struct {
	member   *Member
	id       string
	slot     int
	probe    *probe
	detected time.Time // when a survivor first said that it failed
	switched time.Time // when a survivor first named another owner of the slot
}

// clusterDrill strikes masters at once and measures each of their shards; the
// report has the slowest.
func clusterDrill(ctx context.Context, o DrillOptions, d *Deployment, name string, victims int, strike func(pid int) error) (*DrillReport, error) {
	if d.Replicas == 0 {
		return nil, fmt.Errorf("the cluster in %s has no replicas: nobody would take over; start one with --replicas 1", o.Dir)
	}
	st, err := d.healthyFirst(ctx, o)
	if err != nil {
		return nil, err
	}
	shards, survivors := d.chooseVictims(st, victims)
	if len(shards) < victims {
		return nil, fmt.Errorf("only %d masters with replicas are processes of this deployment", len(shards))
	}
	ctx, cancel := context.WithTimeout(ctx, o.Before+o.Limit)
	defer cancel()
	for _, s := range shards {
		s.probe.where = func() string { return slotOwner(survivors, s.slot) }
		s.probe.run(ctx)
	}
	stop := func() {
		for _, s := range shards {
			s.probe.stop()
		}
	}
	say(o, "writing to %s of %d for %s", plural(len(shards), "shard"), len(d.Members)/(d.Replicas+1), o.Before)
	if !sleep(ctx, o.Before) {
		stop()
		return nil, ctx.Err()
	}
	struck := time.Now()
	for _, s := range shards {
		say(o, "%s: %s, process %d", name, s.member.Name, s.member.Pid)
		s.probe.expectFailure(time.Now())
		if err := strike(s.member.Pid); err != nil {
			stop()
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	watched := make(chan struct{})
	watchCtx, unwatch := context.WithCancel(ctx)
	go func() {
		defer close(watched)
		watchShards(watchCtx, survivors, shards)
	}()
	for _, s := range shards {
		s.probe.waitBack(ctx)
	}
	sleep(ctx, o.After)
	unwatch()
	<-watched
	stop()
	r := &DrillReport{Drill: name}
	r.fillShards(shards, struck)
	for _, s := range shards {
		if err := r.count(ctx, s.probe); err != nil {
			return r, err
		}
	}
	r.Rejoined = waitRejoined(ctx, d)
	r.Took = time.Since(struck)
	return r, nil
}

// chooseVictims takes the first masters that own slots, and a slot of each.
func (d *Deployment) chooseVictims(st *Status, n int) (out []*shardDrill, survivors []string) {
	prefix := fmt.Sprintf("drill:%d:", time.Now().UnixMilli())
	for _, row := range st.Rows {
		node, m := st.rowOf[row.Addr], memberAt(d, row.Addr)
		if len(out) == n || m == nil || m.Pid == 0 || node == nil || !node.isMaster() || node.slots.Len() == 0 {
			survivors = append(survivors, row.Addr)
			continue
		}
		s := &shardDrill{member: m, id: node.id, probe: newProbe(d)}
		for i := 0; ; i++ {
			// The tag keeps all keys of a probe in one slot.
			tag := "{" + strconv.Itoa(i) + "}"
			if s.slot = slot.OfString(tag); node.slots.Has(s.slot) {
				s.probe.prefix = prefix + tag + ":"
				break
			}
		}
		out = append(out, s)
	}
	return out, survivors
}

// slotOwner asks the survivors in turn who owns a slot; "" if none knows.
func slotOwner(survivors []string, n int) string {
	for _, a := range survivors {
		v, err := ask(a, probeTimeout, "CLUSTER", "SLOTS")
		if err != nil {
			continue
		}
		for _, e := range v.Elems {
			if len(e.Elems) > 2 && int64(n) >= e.Elems[0].Int && int64(n) <= e.Elems[1].Int && len(e.Elems[2].Elems) > 1 {
				return net.JoinHostPort(e.Elems[2].Elems[0].String(), e.Elems[2].Elems[1].String())
			}
		}
	}
	return ""
}

const watchPoll = 10 * time.Millisecond

// watchShards notes when survivors take the victims for failed, and when another
// owns their slots.
func watchShards(ctx context.Context, survivors []string, shards []*shardDrill) {
	p := newPool(Access{}, probeTimeout)
	defer p.close()
	for sleep(ctx, watchPoll) {
		for _, a := range survivors {
			v, err := p.do(a, "CLUSTER", "NODES")
			if err != nil {
				continue
			}
			lines, err := parseNodes(v.String())
			if err != nil {
				continue
			}
			for _, s := range shards {
				s.note(lines)
			}
		}
		if !slices.ContainsFunc(shards, func(s *shardDrill) bool { return s.switched.IsZero() || s.detected.IsZero() }) {
			return
		}
	}
}

func (s *shardDrill) note(lines []*nodeLine) {
	for _, l := range lines {
		if s.detected.IsZero() && l.id == s.id && l.has("fail") {
			s.detected = time.Now()
		}
		if s.switched.IsZero() && l.id != s.id && l.slots.Has(s.slot) {
			s.switched = time.Now()
		}
	}
}

// fillShards takes the slowest of all shards.
func (r *DrillReport) fillShards(shards []*shardDrill, struck time.Time) {
	var olds, news []string
	after := func(t time.Time) int64 {
		if t.IsZero() {
			return -1
		}
		return t.Sub(struck).Milliseconds()
	}
	slowest := func(old *int64, now int64) {
		if *old < 0 || now < 0 {
			*old = -1
			return
		}
		*old = max(*old, now)
	}
	for _, s := range shards {
		one := DrillReport{WritesBackMs: -1}
		one.fill(s.probe, &eventLog{}, struck)
		slowest(&r.DetectedMs, after(s.detected))
		slowest(&r.SwitchedMs, after(s.switched))
		slowest(&r.WritesBackMs, one.WritesBackMs)
		r.Acknowledged += one.Acknowledged
		olds, news = append(olds, s.member.Addr()), append(news, one.NewMaster)
	}
	r.OldMaster, r.NewMaster = strings.Join(olds, ", "), strings.Join(news, ", ")
}

// drillCluster is drill for a deployment of mode cluster.
func drillCluster(ctx context.Context, o DrillOptions, d *Deployment, name string, strike func(pid int) error) (*DrillReport, error) {
	if len(d.Members)/(d.Replicas+1) < minMasters {
		return nil, errors.New("a cluster of fewer than 3 masters has no majority once one is gone")
	}
	return clusterDrill(ctx, o, d, name, 1, strike)
}
