package ops

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/internal/redis/cluster/slot"
	"holdfast/internal/redis/resp"
)

// ImportOptions are the flags of `cluster import`.
type ImportOptions struct {
	ClusterOptions
	From               string // address of a server without cluster mode
	FromUser, FromPass string
	Copy               bool // keys stay on the source too
}

// ClusterImport moves all keys of a standalone server into the cluster. Run
// again, it goes on with those that are left.
func ClusterImport(ctx context.Context, o ImportOptions) (*ClusterResult, error) {
	a := newClusterAdmin("import", o.ClusterOptions)
	defer a.close()
	im := &importer{clusterAdmin: a, o: o, source: newPool(Access{o.FromUser, o.FromPass, o.TLS}, o.Timeout)}
	defer im.source.close()
	return im.run(ctx)
}

type importer struct {
	*clusterAdmin
	o         ImportOptions
	source    *pool
	owners    [slot.Count]*clusterNode
	there     int64 // keys that the cluster had already, with the same value
	conflicts int64
	example   string // a key in conflict
}

func (im *importer) run(ctx context.Context) (*ClusterResult, error) {
	if ok, err := im.begin(ctx); !ok || err != nil {
		return im.notBegun(err)
	}
	if err := im.allOwned(); err != nil {
		return nil, err
	}
	total, err := im.look()
	if err != nil {
		return nil, err
	}
	for n := range im.owners {
		if im.owners[n] = im.m.owner(n); im.owners[n] == nil || !im.owners[n].up() {
			return nil, fmt.Errorf("the owner of slot %d does not answer; see `holdfast cluster check %s`", n, im.clusterAdmin.o.Seeds[0])
		}
	}
	t := &planTable{title: "To import:", head: []string{"FROM", "KEYS", "TO", "HOW"}}
	how := "move"
	if im.o.Copy {
		how = "copy"
	}
	if im.o.Replace {
		how += ", replace"
	}
	t.add(im.o.From, fmt.Sprint(total), plural(len(im.m.live()), "master"), how)
	if ok, err := im.propose(ctx, t); !ok || err != nil {
		return im.notBegun(err)
	}
	if err := im.scan(ctx, total); err != nil {
		im.res.Verdict = Degraded
		im.res.Reason = fmt.Sprintf("%s imported, then: %s", pluralKeys(im.res.Keys), err)
		return im.res, nil
	}
	did := fmt.Sprintf("%s imported from %s", pluralKeys(im.res.Keys), im.o.From)
	if im.there > 0 {
		did += fmt.Sprintf(", %d were there already", im.there)
	}
	res, err := im.finish(ctx, did)
	if err == nil && im.conflicts > 0 {
		res.Verdict = Degraded
		res.Reason = fmt.Sprintf("%s; %s left on %s because the cluster has other values of them (such as %q): say --replace to overwrite those of the cluster",
			did, pluralKeys(im.conflicts), im.o.From, im.example)
	}
	return res, err
}

// look makes sure that the source is a standalone server, and counts its keys.
func (im *importer) look() (total int, err error) {
	v, err := im.source.do(im.o.From, "INFO")
	if isReply(err, "NOAUTH") {
		return 0, fmt.Errorf("%s asks for a password; say --from-pass", im.o.From)
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %s", im.o.From, plain(err))
	}
	info := parseInfo(v.String())
	if info["cluster_enabled"] == "1" {
		return 0, fmt.Errorf("%s is a cluster node; import takes keys from a standalone server", im.o.From)
	}
	for k := range info {
		if strings.HasPrefix(k, "db") && k != "db0" && strings.HasPrefix(info[k], "keys=") {
			im.say("note: a cluster has database 0 only; the keys in %s of %s stay where they are", k, im.o.From)
		}
	}
	n, err := im.source.do(im.o.From, "DBSIZE")
	return int(n.Int), err
}

func (im *importer) scan(ctx context.Context, total int) error {
	p := im.newCounter("importing", "key", total)
	defer p.end()
	cursor := "0"
	for {
		v, err := im.source.do(im.o.From, "SCAN", cursor, "COUNT", "1000")
		if err != nil {
			return fmt.Errorf("%s: SCAN: %w", im.o.From, err)
		}
		if len(v.Elems) != 2 {
			return fmt.Errorf("%s: unexpected reply to SCAN", im.o.From)
		}
		cursor = v.Elems[0].String()
		for part := range slices.Chunk(v.Elems[1].Elems, im.batch.keys(im.o.Pipeline)) {
			if ctx.Err() != nil {
				return errInterrupted
			}
			if err := im.importKeys(part); err != nil {
				return err
			}
			p.step(len(part), "")
		}
		if cursor == "0" {
			return nil
		}
	}
}

func (im *importer) command(key string, replace bool) []string {
	cmd := im.migrateCommand(im.owners[slot.OfString(key)], []string{key}, replace)
	if im.o.Copy {
		cmd = slices.Insert(cmd, 6, "COPY")
	}
	return cmd
}

// importKeys sends one MIGRATE per key, together: what became of each is known.
func (im *importer) importKeys(keys []resp.Value) error {
	cmds := make([][]string, len(keys))
	for i, k := range keys {
		cmds[i] = im.command(k.String(), im.o.Replace)
		if im.before != nil {
			if err := im.before(im.o.From, cmds[i]); err != nil {
				return err
			}
		}
	}
	limit := im.o.MigrateTimeout*time.Duration(len(keys)) + migrateGrace
	began := time.Now()
	v, err := im.source.pipe(im.o.From, limit, cmds...)
	if err != nil {
		return fmt.Errorf("%s: MIGRATE: %w", im.o.From, err)
	}
	im.batch.took(len(keys), time.Since(began))
	for i, r := range v {
		switch err := r.Err(); {
		case err == nil:
			if r.String() == "OK" { // NOKEY is a key that expired
				im.res.Keys++
			}
		case isReply(err, "BUSYKEY"):
			if err := im.busy(keys[i].String()); err != nil {
				return err
			}
		case isReply(err, "MOVED"), isReply(err, "CLUSTERDOWN"), isReply(err, "TRYAGAIN"):
			return fmt.Errorf("the cluster changed meanwhile (%w); run the same command again, it goes on from here", err)
		default:
			return fmt.Errorf("%s: MIGRATE: %w; run the same command again, it goes on from here", im.o.From, err)
		}
	}
	return nil
}

// busy is a key that the cluster has too.
func (im *importer) busy(key string) error {
	to := im.owners[slot.OfString(key)]
	mine, err := im.source.do(im.o.From, "DUMP", key)
	if err != nil {
		return fmt.Errorf("%s: DUMP: %w", im.o.From, err)
	}
	theirs, err := im.pool.do(to.addr(), "DUMP", key)
	if err != nil {
		return fmt.Errorf("%s: DUMP: %w", to.name(), err)
	}
	switch {
	case mine.IsNull():
	case string(mine.Str) != string(theirs.Str):
		im.conflicts++
		im.example = key
	case im.o.Copy:
		im.there++
	default:
		im.there++
		_, err = im.source.do(im.o.From, im.command(key, true)...)
	}
	return err
}

// CallOptions are the flags of `cluster call`.
type CallOptions struct {
	ClusterOptions
	Command                   []string
	OnlyMasters, OnlyReplicas bool
}

// ClusterCall runs one command on all nodes.
func ClusterCall(ctx context.Context, o CallOptions) (*ClusterResult, error) {
	a := newClusterAdmin("call", o.ClusterOptions)
	defer a.close()
	if o.OnlyMasters && o.OnlyReplicas {
		return nil, errors.New("--only-masters and --only-replicas exclude each other")
	}
	if err := a.load(); err != nil {
		return nil, err
	}
	var nodes []*clusterNode
	for _, n := range a.m.nodes {
		if (o.OnlyMasters && !n.isMaster()) || (o.OnlyReplicas && n.isMaster()) {
			continue
		}
		nodes = append(nodes, n)
	}
	if o.DryRun {
		t := &planTable{title: "To run:", head: []string{"NODE", "COMMAND"}}
		for _, n := range nodes {
			t.add(n.name(), strings.Join(o.Command, " "))
		}
		if _, err := a.propose(ctx, t); err != nil {
			return nil, err
		}
		return a.shown()
	}
	return a.onAll(nodes, max(o.Timeout, o.MigrateTimeout), o.Command)
}

// onAll runs commands on each node, and keeps the reply to the last.
func (a *clusterAdmin) onAll(nodes []*clusterNode, limit time.Duration, cmds ...[]string) (*ClusterResult, error) {
	a.res.Replies = make([]NodeReply, len(nodes))
	index := map[*clusterNode]int{}
	for i, n := range nodes {
		index[n] = i
	}
	_ = each(nodes, func(n *clusterNode) error { // errors are replies here
		r := &a.res.Replies[index[n]]
		r.Addr = n.name()
		if !n.up() {
			r.Error = n.err.Error()
			return nil
		}
		v, err := a.pool.pipe(n.addr(), limit, cmds...)
		if err != nil {
			r.Error = plain(err)
			return nil
		}
		for i, x := range v {
			if err := x.Err(); err != nil {
				r.Error = err.Error()
				if len(v) > 1 {
					r.Error = label(cmds[i]) + ": " + r.Error
				}
				return nil
			}
		}
		r.Reply = plainValue(v[len(v)-1])
		return nil
	})
	bad := 0
	for _, r := range a.res.Replies {
		if r.Error != "" {
			bad++
		}
	}
	a.res.TookMs = time.Since(a.began).Milliseconds()
	a.res.Reason = plural(len(nodes), "node") + " answered"
	if bad > 0 {
		a.res.Verdict, a.res.Reason = Degraded, fmt.Sprintf("%d of %s answered with an error or not at all", bad, plural(len(nodes), "node"))
	}
	if bad == len(nodes) {
		a.res.Verdict = Down
	}
	return a.res, nil
}

func plainValue(v resp.Value) any {
	switch v.Kind {
	case '_':
		return nil
	case ':':
		return v.Int
	case '*', '~', '%', '>':
		out := make([]any, len(v.Elems))
		for i, e := range v.Elems {
			out[i] = plainValue(e)
		}
		return out
	}
	return v.String()
}

// ClusterSetTimeout sets cluster-node-timeout on all nodes, in their
// configuration files too.
func ClusterSetTimeout(ctx context.Context, o ClusterOptions, timeout time.Duration) (*ClusterResult, error) {
	a := newClusterAdmin("set-timeout", o)
	defer a.close()
	if timeout < 100*time.Millisecond {
		return nil, errors.New("a node timeout below 100 ms would take healthy nodes for failed")
	}
	if err := a.load(); err != nil {
		return nil, err
	}
	t := &planTable{title: "To set:", head: []string{"NODES", "DIRECTIVE", "MILLISECONDS"}}
	t.add(fmt.Sprint(len(a.m.nodes)), "cluster-node-timeout", fmt.Sprint(timeout.Milliseconds()))
	if ok, err := a.propose(ctx, t); !ok || err != nil {
		return a.notBegun(err)
	}
	res, err := a.onAll(a.m.nodes, o.Timeout,
		[]string{"CONFIG", "SET", "cluster-node-timeout", fmt.Sprint(timeout.Milliseconds())})
	if err != nil || res.Verdict != Healthy {
		return res, err
	}
	// A node without a configuration file forgets it at its next start.
	set := res.Replies
	again, err := a.onAll(a.m.nodes, o.Timeout, []string{"CONFIG", "REWRITE"})
	if err == nil && again.Verdict != Healthy {
		again.Verdict = Degraded
		again.Reason = "set everywhere, but not kept by nodes whose configuration file cannot be written"
		return again, nil
	}
	res.Replies = set
	res.Reason = fmt.Sprintf("cluster-node-timeout is %s on %s", timeout, plural(len(a.m.nodes), "node"))
	return res, err
}
