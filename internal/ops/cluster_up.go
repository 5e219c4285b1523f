package ops

import (
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/redis/cluster/slot"
)

// A deployment of mode cluster: what `up` and `status` do differently for it.

const (
	modeCluster = "cluster"
	// BusOffset is how far a node's bus port is above its port.
	BusOffset = 10000
	// upNodeTimeout is the cluster-node-timeout of nodes of `up`, in milliseconds.
	upNodeTimeout = 1000
)

// planCluster lays shards out, each of one master and its replicas.
func planCluster(dir string, base, shards, replicas int) *Deployment {
	d := &Deployment{Mode: modeCluster, Dir: dir, Base: base, Replicas: replicas}
	for i := range shards * (replicas + 1) {
		name := "redis-" + strconv.Itoa(base+i)
		d.Members = append(d.Members, &Member{Name: name, Kind: kindServer, Port: base + i, Dir: filepath.Join(dir, name)})
	}
	return d
}

// clusterConf is what a node's configuration has beyond a server's.
func clusterConf() string {
	return fmt.Sprintf("cluster-enabled yes\ncluster-config-file nodes.conf\ncluster-node-timeout %d\n", upNodeTimeout)
}

func (d *Deployment) addrs() (out []string) {
	for _, m := range d.ofKind(kindServer) {
		out = append(out, m.Addr())
	}
	return out
}

// busPortsFree is portsFree for the bus of a cluster.
func (d *Deployment) busPortsFree() error {
	for _, m := range d.Members {
		ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(m.Port+BusOffset)))
		if err != nil {
			return fmt.Errorf("port %d, for the cluster bus of %s, is in use (%w); choose others with --port BASE (now %d; the bus is at BASE + %d)",
				m.Port+BusOffset, m.Name, err, d.Base, BusOffset)
		}
		if err := ln.Close(); err != nil {
			return err
		}
	}
	return nil
}

// formCluster makes the nodes one cluster, unless they are one already: who is
// master of what may have changed since.
func (d *Deployment) formCluster(ctx context.Context) error {
	o := ClusterOptions{Seeds: d.addrs(), Timeout: 5 * time.Second, Settle: 30 * time.Second, Yes: true, JSON: true, Out: io.Discard}
	p := newPool(Access{}, o.Timeout)
	m, err := p.load(o.Seeds)
	p.close()
	if err != nil {
		return err
	}
	if r := judgeCluster(m, -1); r.Covered == slot.Count && len(m.nodes) == len(d.Members) && len(m.masters()) <= len(d.Members)/(d.Replicas+1) {
		return nil
	}
	if _, err := ClusterCreate(ctx, CreateOptions{ClusterOptions: o, Replicas: d.Replicas}); err != nil {
		return fmt.Errorf("create the cluster: %w", err)
	}
	return ctx.Err() // waitHealthy tells what may still be wrong
}

// isCluster reports whether the server at an address is a cluster node.
func (q asker) isCluster(addr string) bool {
	c, err := q.dial(addr)
	if err != nil {
		return false
	}
	defer c.close()
	info, err := c.info("server")
	return err == nil && info["redis_mode"] == "cluster"
}

// clusterStatus asks all nodes that any of the addresses knows. want is how many
// there should be, 0 if that is not known.
func (q asker) clusterStatus(addrs []string, want int) *Status {
	p := newPool(q.by, q.timeout)
	defer p.close()
	m, err := p.load(addrs)
	if err != nil {
		st := &Status{Verdict: Down, Reason: "no node of the cluster answers"}
		for _, a := range addrs {
			st.Rows = append(st.Rows, q.serverRow(a))
		}
		return st
	}
	r := judgeCluster(m, -1)
	st := &Status{Verdict: r.Verdict, Reason: r.Reason, Slots: r.Covered, rowOf: map[string]*clusterNode{}}
	rows := make(chan *Row)
	for _, n := range m.nodes {
		st.rowOf[n.addr()] = n
		go func() { rows <- q.serverRow(n.addr()) }()
	}
	var sick []string
	for range m.nodes {
		row := <-rows
		st.Rows = append(st.Rows, row)
		if n := st.rowOf[row.Addr]; n.up() && !row.ok {
			sick = append(sick, row.Addr+" "+row.State)
		}
	}
	st.clusterRows(m)
	if want > 0 && len(m.nodes) != want {
		sick = append(sick, fmt.Sprintf("%d of %d nodes belong to the cluster", len(m.nodes), want))
	}
	if st.Verdict == Healthy && len(sick) > 0 {
		st.Verdict, st.Reason = Degraded, strings.Join(sick, "; ")
	}
	for _, j := range jobsIn(p, m) {
		st.Reason += "; moving " + j.String()
	}
	return st
}

// jobsIn are the moves of slots that run in a cluster.
func jobsIn(p *pool, m *clusterMap) []ClusterJob {
	a := &clusterAdmin{pool: p, m: m, streams: map[string]bool{}}
	return a.runningJobs(true)
}

// clusterRows orders rows by shard, each master before its replicas, and says
// what the cluster knows of them.
func (st *Status) clusterRows(m *clusterMap) {
	by := map[string]*Row{}
	for _, r := range st.Rows {
		by[r.Addr] = r
	}
	st.Rows = st.Rows[:0]
	seen := map[string]bool{}
	put := func(n *clusterNode, of *Row) {
		r := by[n.addr()]
		if seen[n.id] || r == nil {
			return
		}
		seen[n.id] = true
		st.Rows = append(st.Rows, r)
		r.Role = roleOf(&n.nodeLine)
		if r.ok && n.up() && n.state != "ok" {
			r.State = "cluster_state " + n.state
		}
		r.Slots = "-"
		if k := n.slots.Len(); k > 0 {
			r.Slots = fmt.Sprintf("%d (%s)", k, brief(&n.slots))
		}
		if of != nil {
			r.Slots = "of " + of.Addr
			if r.ok && of.ok {
				r.Lag = strconv.FormatInt(max(0, of.offset-r.offset), 10)
			}
		}
	}
	for _, n := range m.masters() {
		put(n, nil)
		for _, s := range m.replicasOf(n.id) {
			put(s, by[n.addr()])
		}
	}
	for _, n := range m.nodes {
		put(n, nil)
	}
}
