package ops

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/internal/redis/resp"
)

// ClusterOptions are the flags that verbs of `cluster` share. A verb reads those
// that it has.
type ClusterOptions struct {
	Seeds          []string // addresses, any of which will do
	User, Pass     string
	TLS            *tls.Config   // nil for plain connections
	Timeout        time.Duration // of connecting and of each command
	MigrateTimeout time.Duration // of MIGRATE, as it is told to the source
	Settle         time.Duration // how long views may take to agree
	Pipeline       int           // keys per MIGRATE; 0: as many as the source moves without a pause that clients notice
	Replace        bool          // a key that both ends have is overwritten by the source's
	ByKey          bool          // slots move key by key between nodes of ours, too
	Yes            bool
	DryRun         bool
	JSON           bool
	Out            io.Writer
	In             io.Reader // asked for consent; nil when nobody is there
	StateDir       string    // where the plan of a reshard outlives its administrator; "" keeps none
}

// clusterAdmin carries one verb out.
type clusterAdmin struct {
	o     ClusterOptions
	pool  *pool
	m     *clusterMap
	res   *ClusterResult
	began time.Time
	batch batchSize
	// shards is the shard of each node that was ever seen; see noteShards.
	shards map[string]string
	home   map[string]int // of each master that was ever seen, a slot that it had
	mu     sync.Mutex
	// streams says which nodes, by id, move slots as a stream. Guarded by mu.
	streams map[string]bool
	// before is called before every command that changes a node; an error stands
	// for the end of the administrator just there. For tests.
	before func(addr string, args []string) error
}

func newClusterAdmin(verb string, o ClusterOptions) *clusterAdmin {
	return &clusterAdmin{
		o: o, began: time.Now(), res: &ClusterResult{Verb: verb},
		pool:   newPool(Access{o.User, o.Pass, o.TLS}, o.Timeout),
		shards: map[string]string{}, home: map[string]int{}, streams: map[string]bool{},
	}
}

func (a *clusterAdmin) close() { a.pool.close() }

// load reads the cluster anew.
func (a *clusterAdmin) load() error {
	m, err := a.pool.load(a.o.Seeds)
	if err != nil {
		return err
	}
	a.m = m
	a.noteShards()
	return nil
}

// errInterrupted is Ctrl-C between two steps.
var errInterrupted = errors.New("interrupted; run the same command again, it goes on from here")

func stopped(ctx context.Context) error {
	if ctx.Err() != nil {
		return errInterrupted
	}
	return nil
}

// change sends commands that change a node, together. The error names node and
// command; replies before the first error count.
func (a *clusterAdmin) change(n *clusterNode, cmds ...[]string) ([]resp.Value, error) {
	return a.changeAt(n.addr(), a.o.Timeout, cmds...)
}

func (a *clusterAdmin) changeAt(addr string, timeout time.Duration, cmds ...[]string) ([]resp.Value, error) {
	for i, cmd := range cmds {
		if a.before == nil {
			break
		}
		if err := a.before(addr, cmd); err != nil {
			if i > 0 {
				_, _ = a.pool.pipe(addr, timeout, cmds[:i]...)
			}
			return nil, err
		}
	}
	v, err := a.pool.pipe(addr, timeout, cmds...)
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", addr, label(cmds[0]), err)
	}
	for i, r := range v {
		if err := r.Err(); err != nil {
			return v, fmt.Errorf("%s: %s: %w", addr, label(cmds[i]), err)
		}
	}
	return v, nil
}

// label is the beginning of a command, for errors; passwords are never in it.
func label(cmd []string) string { return strings.Join(cmd[:min(len(cmd), 4)], " ") }

// isReply reports whether err is an error reply that holds text.
func isReply(err error, text string) bool {
	var r resp.ReplyError
	return errors.As(err, &r) && strings.Contains(string(r), text)
}

// each does something on nodes side by side, and joins the errors.
func each(nodes []*clusterNode, fn func(*clusterNode) error) error {
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs[i] = fn(n)
		}()
	}
	wg.Wait()
	return errors.Join(errs...)
}

const settlePoll = 100 * time.Millisecond

// settle waits until all nodes that answer agree, at most for limit, and leaves
// the newest report.
func (a *clusterAdmin) settle(ctx context.Context, limit time.Duration, replicas int) (*ClusterReport, error) {
	end, told := time.Now().Add(limit), time.Now()
	for {
		if err := a.load(); err != nil {
			return nil, err
		}
		r := judgeCluster(a.m, replicas)
		waiting := false
		for _, p := range r.Problems {
			waiting = waiting || p.transient()
		}
		if waiting && limit > 2*tellEvery && time.Since(told) > 2*tellEvery {
			told = told.Add(limit) // once is enough
			a.say("waiting, up to %s, until the nodes agree: %s", limit, r.Reason)
		}
		if !waiting || time.Now().After(end) || !sleep(ctx, settlePoll) {
			return r, nil
		}
	}
}

// finish fills the result: how the cluster is, and what has been done.
func (a *clusterAdmin) finish(ctx context.Context, did string) (*ClusterResult, error) {
	r, err := a.settle(ctx, a.o.Settle, -1)
	if err != nil {
		return a.res, err
	}
	a.res.Cluster = r
	a.res.TookMs = time.Since(a.began).Milliseconds()
	a.res.Reason = did
	// Who lacks replicas is shown, but did not fail at what was asked.
	sick := slices.ContainsFunc(r.Problems, func(p ClusterProblem) bool { return p.Kind != "replicas" })
	if sick {
		a.res.Verdict = Degraded
		a.res.Reason = fmt.Sprintf("%s; but the cluster is %s: %s; see `holdfast cluster check %s`", did, r.Verdict, r.Reason, a.o.Seeds[0])
	}
	return a.res, nil
}

// shown is the result of a plan that was only to be shown.
func (a *clusterAdmin) shown() (*ClusterResult, error) {
	a.res.Reason = "nothing changed: this was the plan only"
	return a.res, nil
}

// partly is the end of a work that an error stopped: what is done stays done.
func (a *clusterAdmin) partly(err error) (*ClusterResult, error) {
	a.res.TookMs = time.Since(a.began).Milliseconds()
	a.res.Verdict = Degraded
	a.res.Reason = fmt.Sprintf("%s moved, then: %s", plural(a.res.Slots, "slot"), err)
	if !errors.Is(err, errInterrupted) {
		a.res.Reason += "; mend that and run the same command again, it goes on from here"
	}
	return a.res, nil
}

// begin loads the cluster, waits for moves that run, and closes what an earlier
// administrator left open. It returns false when the plan was only to be shown.
func (a *clusterAdmin) begin(ctx context.Context) (bool, error) {
	if err := a.load(); err != nil {
		return false, err
	}
	if _, err := a.adopt(ctx); err != nil {
		return false, err
	}
	if err := a.calm(ctx); err != nil {
		return false, err
	}
	if len(a.m.openSlots()) == 0 {
		return true, nil
	}
	work, problems := a.planOpen(false)
	if len(problems) > 0 {
		return false, fmt.Errorf("slots are open that cannot be closed: %s", summary(problems))
	}
	ok, err := a.propose(ctx, a.closeTable(work, "To close first, left open by an interrupted move:"))
	if !ok || err != nil {
		return false, err
	}
	if err := a.closeSlots(ctx, work); err != nil {
		if !errors.Is(err, errInterrupted) {
			err = fmt.Errorf("closing what an interrupted move left open: %w; mend that and run the same command again", err)
		}
		return false, err
	}
	return true, a.waitClosed(ctx)
}

const (
	// gossipTime is how long nodes that talk to each other take to agree, mostly.
	gossipTime = 3 * time.Second
	// tornTime is how long a slot may seem to have no owner because its nodes were
	// asked one before and one behind its change.
	tornTime = 500 * time.Millisecond
)

// calm waits for what gossip changes by itself, a while, and leaves the newest
// state. Between the target's SETSLOT NODE and the moment when the source hears
// of it, both own the slots: a plan made then would be about what no longer is
// when it is carried out.
func (a *clusterAdmin) calm(ctx context.Context) error {
	for began := time.Now(); ; {
		waiting := false
		for _, p := range judgeCluster(a.m, -1).Problems {
			switch {
			case p.Kind == "uncovered":
				waiting = waiting || time.Since(began) < tornTime
			case p.Kind == "owners" || p.transient():
				waiting = true
			}
		}
		if !waiting || time.Since(began) > min(a.o.Settle, gossipTime) {
			return nil
		}
		if !sleep(ctx, settlePoll) {
			return errInterrupted
		}
		if err := a.load(); err != nil {
			return err
		}
	}
}

// waitClosed waits until what was closed is known everywhere.
func (a *clusterAdmin) waitClosed(ctx context.Context) error {
	r, err := a.settle(ctx, a.o.Settle, -1)
	if err != nil {
		return err
	}
	for _, p := range r.Problems {
		switch p.Kind {
		case "open", "owners", "uncovered":
			return fmt.Errorf("%s; look at `holdfast cluster fix %s`", p, a.o.Seeds[0])
		}
	}
	return stopped(ctx)
}
