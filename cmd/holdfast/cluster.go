package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"holdfast/internal/ops"
	"holdfast/internal/redis/config"
)

// clusterFlags are those that all verbs of `cluster` have.
type clusterFlags struct {
	o      ops.ClusterOptions
	access accessFlags
}

// clusterVerb runs a verb with the addresses of its command line.
type clusterVerb func(ctx context.Context, args []string) (*ops.ClusterResult, error)

func clusterCommand() *cobra.Command {
	f := &clusterFlags{}
	c := &cobra.Command{
		Use:   "cluster",
		Short: "Administer a cluster: ours, a genuine Redis Cluster, or a mixed one",
		Long: `Administers a cluster over the wire, from the address of any one node that runs.

A verb that changes something shows its plan first and asks; --yes is for scripts, --dry-run shows the plan only.
It may be ended at any point, by kill -9 too: the same command goes on where it was, and every verb that moves slots first
waits for moves that run by themselves, and closes the slots that an interrupted one left open.

Between masters of ours, with replicas of ours, slots move as a stream and change their owner in one step. With a genuine node in
either shard, or with --by-key, they move key by key.

Flags may be written as redis-cli writes them, with --cluster- in front.
Exit code: 0 healthy or done, 1 degraded or partly done, 2 down or refused.`,
		Example: `  holdfast cluster create 10.0.0.1:6379 10.0.0.2:6379 10.0.0.3:6379 10.0.0.4:6379 10.0.0.5:6379 10.0.0.6:6379 --replicas 1
  holdfast cluster check 10.0.0.1:6379
  holdfast cluster reshard 10.0.0.1:6379 --to 10.0.0.3:6379 --slots 1000`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unknown verb %q; `holdfast cluster help` lists them", args[0])
			}
			return cmd.Help()
		},
	}
	f.register(c)
	c.AddCommand(clusterCreate(f), clusterCheck(f), clusterInfo(f), clusterFix(f), clusterReshard(f), clusterRebalance(f),
		clusterAddNode(f), clusterDelNode(f), clusterCall(f), clusterImport(f), clusterSetTimeout(f), clusterHelp())
	for _, sub := range append(c.Commands(), c) {
		sub.SetGlobalNormalizationFunc(clusterFlagName)
	}
	return c
}

// clusterFlagName lets flags be written as redis-cli has them.
func clusterFlagName(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	name = strings.TrimPrefix(name, "cluster-")
	switch name {
	case "slave":
		name = "replica"
	case "simulate":
		name = "dry-run"
	case "fix-with-unreachable-masters":
		name = "with-unreachable-masters"
	}
	return pflag.NormalizedName(name)
}

func (f *clusterFlags) register(c *cobra.Command) {
	p := c.PersistentFlags()
	p.BoolVar(&f.o.Yes, "yes", false, "carry the plan out without asking")
	p.BoolVar(&f.o.DryRun, "dry-run", false, "show the plan, change nothing")
	p.BoolVar(&f.o.JSON, "json", false, "print one JSON object")
	p.DurationVar(&f.o.Timeout, "connect-timeout", 5*time.Second, "how long one question to a node may take")
	p.DurationVar(&f.o.Settle, "settle", 30*time.Second, "how long nodes may take to agree after a change")
	f.access.register(p)
}

// moving are the flags of verbs that move keys.
func (f *clusterFlags) moving(c *cobra.Command) {
	p := c.Flags()
	f.o.MigrateTimeout = time.Minute
	p.Var((*milliseconds)(&f.o.MigrateTimeout), "timeout", "timeout of MIGRATE: milliseconds, or with a unit (60s)")
	p.IntVar(&f.o.Pipeline, "pipeline", 0, "keys per MIGRATE (0: as many as take a few milliseconds)")
	p.BoolVar(&f.o.Replace, "replace", false, "a key that the target has already is overwritten")
}

// streaming is the flag of verbs that move slots on purpose.
func (f *clusterFlags) streaming(c *cobra.Command) {
	c.Flags().BoolVar(&f.o.ByKey, "by-key", false, "move slots key by key, as genuine Redis wants it, between nodes of ours too")
}

// milliseconds is a duration that may be written as redis-cli has it.
type milliseconds time.Duration

func (m *milliseconds) String() string { return time.Duration(*m).String() }
func (m *milliseconds) Type() string   { return "duration" }
func (m *milliseconds) Set(s string) error {
	d, err := time.ParseDuration(s)
	if n, nerr := strconv.Atoi(s); nerr == nil {
		d, err = time.Duration(n)*time.Millisecond, nil
	}
	switch {
	case err != nil:
		err = errors.New("write milliseconds, or a unit with them (5s)")
	case d <= 0:
		err = errors.New("must be above 0")
	}
	*m = milliseconds(d)
	return err
}

// options completes what all verbs share; seeds are addresses as written.
func (f *clusterFlags) options(seeds ...string) (ops.ClusterOptions, error) {
	o := f.o
	o.Out, o.In = os.Stdout, os.Stdin
	if o.MigrateTimeout == 0 {
		o.MigrateTimeout = time.Minute
	}
	if o.Pipeline < 0 || o.Pipeline > 100000 {
		return o, errors.New("--pipeline must be between 0 and 100000")
	}
	if dir, err := os.UserCacheDir(); err == nil {
		o.StateDir = filepath.Join(dir, "holdfast", "cluster")
	}
	for _, s := range seeds {
		addr, err := ops.ClusterAddr(s)
		if err != nil {
			return o, err
		}
		o.Seeds = append(o.Seeds, addr)
	}
	by, err := f.access.access()
	o.User, o.Pass, o.TLS = by.User, by.Pass, by.TLS
	return o, err
}

// clusterRun makes a verb of cobra's out of one of ours: it prints the result and
// leaves with its code.
func clusterRun(f *clusterFlags, run clusterVerb) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		r, err := run(cmd.Context(), args)
		if err != nil {
			return err
		}
		if err := r.Print(os.Stdout, f.o.JSON); err != nil {
			return err
		}
		if r.Verdict != ops.Healthy {
			return exitCode(r.Verdict)
		}
		return nil
	}
}

// oneAddr reads the address of the cluster, which may be "host port" too, and
// returns what follows it.
func oneAddr(args []string) (addr string, rest []string, err error) {
	if len(args) == 0 {
		return "", nil, errors.New("say HOST:PORT of any node of the cluster")
	}
	if len(args) > 1 && !strings.Contains(args[0], ":") {
		if _, err := strconv.Atoi(args[1]); err == nil {
			return args[0] + ":" + args[1], args[2:], nil
		}
	}
	return args[0], args[1:], nil
}

// soleAddr is oneAddr for verbs that take nothing else.
func (f *clusterFlags) soleAddr(args []string) (ops.ClusterOptions, error) {
	addr, rest, err := oneAddr(args)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("unexpected argument %q", rest[0])
	}
	if err != nil {
		return ops.ClusterOptions{}, err
	}
	return f.options(addr)
}

func clusterCreate(f *clusterFlags) *cobra.Command {
	o := ops.CreateOptions{}
	c := &cobra.Command{
		Use:   "create HOST:PORT ...",
		Short: "Make a cluster of empty nodes",
		Long: `Makes a cluster of empty nodes: slots in equal parts over the masters, and replicas never on their master's host if there are
enough hosts. Run again on the same nodes, it goes on where it was interrupted.`,
		Example: `  holdfast cluster create 127.0.0.1:7000 127.0.0.1:7001 127.0.0.1:7002
  holdfast cluster create a:6379 b:6379 c:6379 a:6380 b:6380 c:6380 --replicas 1 --yes`,
		RunE: clusterRun(f, func(ctx context.Context, args []string) (_ *ops.ClusterResult, err error) {
			if len(args) == 0 {
				return nil, errors.New("say HOST:PORT of every node")
			}
			if o.ClusterOptions, err = f.options(args...); err != nil {
				return nil, err
			}
			return ops.ClusterCreate(ctx, o)
		}),
	}
	c.Flags().IntVar(&o.Replicas, "replicas", 0, "replicas of each master")
	return c
}

func clusterCheck(f *clusterFlags) *cobra.Command {
	o := ops.ClusterCheckOptions{}
	var wait time.Duration
	var many bool
	c := &cobra.Command{
		Use:   "check HOST:PORT",
		Short: "Verify coverage, open slots, replicas, and that all nodes agree",
		Long: `Asks every node for its view and compares them: owners of all slots, config epochs, membership, roles, open slots, replicas per
master, nodes that do not answer. Exit code: 0 healthy, 1 degraded, 2 down.`,
		Example: `  holdfast cluster check 127.0.0.1:7000
  holdfast cluster check 127.0.0.1:7000 --replicas 1 --json`,
		RunE: clusterRun(f, func(ctx context.Context, args []string) (_ *ops.ClusterResult, err error) {
			if o.ClusterOptions, err = f.soleAddr(args); err != nil {
				return nil, err
			}
			o.Settle = wait
			return ops.ClusterCheck(ctx, "check", o)
		}),
	}
	c.Flags().IntVar(&o.Replicas, "replicas", -1, "replicas that each master must have (-1: one, if another master has one)")
	c.Flags().DurationVar(&wait, "wait", 2*time.Second, "how long to wait for nodes that do not agree yet")
	acceptOnly(c, &many, "search-multiple-owners")
	return c
}

// acceptOnly takes a flag of redis-cli that asks for what is always done.
func acceptOnly(c *cobra.Command, into *bool, name string) {
	c.Flags().BoolVar(into, name, true, "always done")
	_ = c.Flags().MarkHidden(name) // it was defined in the line above
}

func clusterInfo(f *clusterFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "info HOST:PORT",
		Short:   "One row per node: role, slots, keys, replicas, memory",
		Long:    "Prints one row per node and a verdict. Exit code: 0 healthy, 1 degraded, 2 down.",
		Example: "  holdfast cluster info 127.0.0.1:7000",
		RunE: clusterRun(f, func(ctx context.Context, args []string) (*ops.ClusterResult, error) {
			co, err := f.soleAddr(args)
			if err != nil {
				return nil, err
			}
			co.Settle = 0
			return ops.ClusterCheck(ctx, "info", ops.ClusterCheckOptions{ClusterOptions: co, Replicas: -1})
		}),
	}
}

func clusterFix(f *clusterFlags) *cobra.Command {
	o := ops.FixOptions{}
	var many bool
	c := &cobra.Command{
		Use:   "fix HOST:PORT",
		Short: "Close open slots, give every slot one owner, make all nodes agree",
		Long: `Mends what gossip does not mend by itself: moves that were interrupted are finished or rolled back, slots without an owner go to
the node that has their keys, slots with several owners to the one that has most, and keys elsewhere are moved home.
While a master does not answer, slots that may be its are left alone unless --with-unreachable-masters gives it up.`,
		Example: `  holdfast cluster fix 127.0.0.1:7000
  holdfast cluster fix 127.0.0.1:7000 --yes --replace`,
		RunE: clusterRun(f, func(ctx context.Context, args []string) (_ *ops.ClusterResult, err error) {
			if o.ClusterOptions, err = f.soleAddr(args); err != nil {
				return nil, err
			}
			return ops.ClusterFix(ctx, o)
		}),
	}
	f.moving(c)
	c.Flags().BoolVar(&o.Unreachable, "with-unreachable-masters", false, "give up what masters hold that do not answer: their keys are lost")
	acceptOnly(c, &many, "search-multiple-owners")
	return c
}

func clusterReshard(f *clusterFlags) *cobra.Command {
	o := ops.ReshardOptions{}
	c := &cobra.Command{
		Use:   "reshard HOST:PORT --to NODE --slots N [--from NODE,...]",
		Short: "Move slots, with their keys, to one master",
		Long: `Moves slots to one master, from each source in proportion to what it owns. NODE is an id, the beginning of one, or an address.
Run again with the same flags after an interruption, it moves what is left of them.`,
		Example: `  holdfast cluster reshard 127.0.0.1:7000 --to 127.0.0.1:7002 --slots 1000
  holdfast cluster reshard 127.0.0.1:7000 --from 127.0.0.1:7001 --to 3fa94c1d --slots 100 --yes`,
		RunE: clusterRun(f, func(ctx context.Context, args []string) (_ *ops.ClusterResult, err error) {
			if o.ClusterOptions, err = f.soleAddr(args); err != nil {
				return nil, err
			}
			return ops.ClusterReshard(ctx, o)
		}),
	}
	f.moving(c)
	f.streaming(c)
	c.Flags().StringSliceVar(&o.From, "from", nil, "sources, with commas between; all other masters if not given, or \"all\"")
	c.Flags().StringVar(&o.To, "to", "", "the master that gets them")
	c.Flags().IntVar(&o.Slots, "slots", 0, "how many")
	return c
}

func clusterRebalance(f *clusterFlags) *cobra.Command {
	o := ops.RebalanceOptions{}
	c := &cobra.Command{
		Use:   "rebalance HOST:PORT [--weight NODE=W ...]",
		Short: "Give every master its share of the slots",
		Long: `Moves as few slots as possible so that every master has its share, by weight (1 if not given; 0 empties it).
Masters without slots are left without unless --use-empty-masters is given, or they have a weight.`,
		Example: `  holdfast cluster rebalance 127.0.0.1:7000 --use-empty-masters
  holdfast cluster rebalance 127.0.0.1:7000 --weight 127.0.0.1:7000=2 --weight 3fa94c1d=0.5 --dry-run`,
		RunE: clusterRun(f, func(ctx context.Context, args []string) (*ops.ClusterResult, error) {
			addr, rest, err := oneAddr(args)
			if err != nil {
				return nil, err
			}
			p := o
			for _, w := range rest { // as redis-cli has it: --cluster-weight a=1 b=2
				if !strings.Contains(w, "=") {
					return nil, fmt.Errorf("unexpected argument %q", w)
				}
				p.Weights = append(p.Weights, w)
			}
			if p.ClusterOptions, err = f.options(addr); err != nil {
				return nil, err
			}
			return ops.ClusterRebalance(ctx, p)
		}),
	}
	f.moving(c)
	f.streaming(c)
	c.Flags().StringSliceVar(&o.Weights, "weight", nil, "NODE=W: share of a master")
	c.Flags().Float64Var(&o.Threshold, "threshold", 2, "percent that a master may be off its share before slots move")
	c.Flags().BoolVar(&o.UseEmpty, "use-empty-masters", false, "give slots to masters without any")
	return c
}

func clusterAddNode(f *clusterFlags) *cobra.Command {
	o := ops.AddNodeOptions{}
	c := &cobra.Command{
		Use:   "add-node NEW_HOST:PORT HOST:PORT",
		Short: "Add an empty node, as a master without slots or as a replica",
		Long: `Adds the first address to the cluster of the second: as a master without slots or, with --replica, as a replica of --master-id or
of the master with fewest replicas, on another host if there is one.`,
		Example: `  holdfast cluster add-node 127.0.0.1:7006 127.0.0.1:7000
  holdfast cluster add-node 127.0.0.1:7007 127.0.0.1:7000 --replica --master-id 3fa94c1d`,
		RunE: clusterRun(f, func(ctx context.Context, args []string) (_ *ops.ClusterResult, err error) {
			if len(args) != 2 {
				return nil, errors.New("say HOST:PORT of the new node, then HOST:PORT of any node of the cluster")
			}
			if o.Node, err = ops.ClusterAddr(args[0]); err != nil {
				return nil, err
			}
			if o.ClusterOptions, err = f.options(args[1]); err != nil {
				return nil, err
			}
			return ops.ClusterAddNode(ctx, o)
		}),
	}
	c.Flags().BoolVar(&o.Replica, "replica", false, "as a replica")
	c.Flags().StringVar(&o.Master, "master-id", "", "id or address of the master to follow")
	return c
}

func clusterDelNode(f *clusterFlags) *cobra.Command {
	o := ops.DelNodeOptions{}
	c := &cobra.Command{
		Use:   "del-node HOST:PORT NODE",
		Short: "Take a node out; a master's slots go to all the others first",
		Long: `Takes a node out: the slots of a master are spread over all the others, its replicas follow other masters, then it is reset and
all others forget it. NODE is an id, the beginning of one, or an address.`,
		Example: `  holdfast cluster del-node 127.0.0.1:7000 127.0.0.1:7006
  holdfast cluster del-node 127.0.0.1:7000 3fa94c1d --yes`,
		RunE: clusterRun(f, func(ctx context.Context, args []string) (*ops.ClusterResult, error) {
			addr, rest, err := oneAddr(args)
			if err == nil && len(rest) != 1 {
				err = errors.New("say the cluster's HOST:PORT, then the NODE to take out")
			}
			if err != nil {
				return nil, err
			}
			o.Node = rest[0]
			if o.ClusterOptions, err = f.options(addr); err != nil {
				return nil, err
			}
			return ops.ClusterDelNode(ctx, o)
		}),
	}
	f.moving(c)
	f.streaming(c)
	return c
}

func clusterCall(f *clusterFlags) *cobra.Command {
	o := ops.CallOptions{}
	c := &cobra.Command{
		Use:   "call [flags] HOST:PORT COMMAND [ARG ...]",
		Short: "Run one command on all nodes",
		Long: `Runs one command on all nodes and prints their replies. Flags come before the address; --cluster-only-masters and
--cluster-only-replicas may end the command, as with redis-cli. Nobody is asked; --dry-run shows on which nodes it would run.
Exit code: 1 if a node failed, 2 if all did.`,
		Example: `  holdfast cluster call 127.0.0.1:7000 CONFIG GET maxmemory
  holdfast cluster call --only-masters 127.0.0.1:7000 DBSIZE`,
		RunE: clusterRun(f, func(ctx context.Context, args []string) (*ops.ClusterResult, error) {
			addr, rest, err := oneAddr(args)
			rest = callFlags(&o, rest)
			if err == nil && len(rest) == 0 {
				err = errors.New("say HOST:PORT, then the command to run")
			}
			if err != nil {
				return nil, err
			}
			o.Command = rest
			if o.ClusterOptions, err = f.options(addr); err != nil {
				return nil, err
			}
			return ops.ClusterCall(ctx, o)
		}),
	}
	c.Flags().SetInterspersed(false)
	c.Flags().BoolVar(&o.OnlyMasters, "only-masters", false, "on masters only")
	c.Flags().BoolVar(&o.OnlyReplicas, "only-replicas", false, "on replicas only")
	return c
}

// callFlags takes the flags out of a command that redis-cli wants behind it. No
// other argument of a command is a flag.
func callFlags(o *ops.CallOptions, args []string) []string {
	for ; len(args) > 0; args = args[:len(args)-1] {
		switch args[len(args)-1] {
		case "--cluster-only-masters":
			o.OnlyMasters = true
		case "--cluster-only-replicas":
			o.OnlyReplicas = true
		default:
			return args
		}
	}
	return args
}

func clusterImport(f *clusterFlags) *cobra.Command {
	o := ops.ImportOptions{}
	c := &cobra.Command{
		Use:   "import HOST:PORT --from HOST:PORT",
		Short: "Move all keys of a standalone server into the cluster",
		Long: `Moves the keys of database 0 of a server without cluster mode into the cluster, with MIGRATE. A key that the cluster has with another
value stays where it is unless --replace is given. Run again after an interruption, it goes on with the keys that are left.`,
		Example: `  holdfast cluster import 127.0.0.1:7000 --from 127.0.0.1:6379
  holdfast cluster import 127.0.0.1:7000 --from old.example:6379 --from-pass secret --copy --replace --yes`,
		RunE: clusterRun(f, func(ctx context.Context, args []string) (_ *ops.ClusterResult, err error) {
			p := o
			if p.ClusterOptions, err = f.soleAddr(args); err != nil {
				return nil, err
			}
			if p.From == "" {
				return nil, errors.New("say --from HOST:PORT, the server whose keys are imported")
			}
			if p.From, err = ops.ClusterAddr(p.From); err != nil {
				return nil, err
			}
			return ops.ClusterImport(ctx, p)
		}),
	}
	f.moving(c)
	c.Flags().StringVar(&o.From, "from", "", "the server whose keys are imported")
	c.Flags().StringVar(&o.FromUser, "from-user", "", "user name there")
	c.Flags().StringVar(&o.FromPass, "from-pass", "", "password there")
	c.Flags().BoolVar(&o.Copy, "copy", false, "leave the keys on the source too")
	return c
}

func clusterSetTimeout(f *clusterFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "set-timeout HOST:PORT MILLISECONDS",
		Short:   "Set cluster-node-timeout on all nodes",
		Long:    "Sets cluster-node-timeout on all nodes, and writes it to their configuration files.",
		Example: "  holdfast cluster set-timeout 127.0.0.1:7000 5000",
		RunE: clusterRun(f, func(ctx context.Context, args []string) (*ops.ClusterResult, error) {
			addr, rest, err := oneAddr(args)
			if err == nil && len(rest) != 1 {
				err = errors.New("say HOST:PORT, then the timeout in milliseconds")
			}
			if err != nil {
				return nil, err
			}
			var d milliseconds
			if err := d.Set(rest[0]); err != nil {
				return nil, fmt.Errorf("timeout %q: %w", rest[0], err)
			}
			co, err := f.options(addr)
			if err != nil {
				return nil, err
			}
			return ops.ClusterSetTimeout(ctx, co, time.Duration(d))
		}),
	}
}

func clusterHelp() *cobra.Command {
	return &cobra.Command{
		Use:     "help [VERB]",
		Short:   "List the verbs, or explain one",
		Example: "  holdfast cluster help reshard",
		RunE: func(cmd *cobra.Command, args []string) error {
			parent := cmd.Parent()
			if len(args) > 0 {
				sub, _, err := parent.Find(args[:1])
				if err != nil || sub == parent {
					return fmt.Errorf("unknown verb %q; `holdfast cluster help` lists them", args[0])
				}
				return sub.Help()
			}
			return parent.Help()
		},
	}
}

// loadFlags are those that only the drill reshard-under-load has.
type loadFlags struct {
	o     ops.LoadOptions
	bytes string
}

func (f *loadFlags) register(c *cobra.Command) {
	c.Long = `Moves slots between two masters of a cluster while clients write to just these slots, then counts what was lost or doubled. It
prints the throughput of the move, how long slots paused, and whatever clients were told but OK and MOVED.

With --kill it kills (kill -9) the source, the target or the administrator at a random step of the move; the seed is printed. 'holdfast up'
starts a node again; the drill waits until the cluster is whole again by itself, and then has the administrator move what is left.
Exit code: 0 nothing lost and no errors, 1 writes lost, doubled or failed, 2 it did not move or is not healthy again.`
	c.Example = `  holdfast drill reshard-under-load
  holdfast drill reshard-under-load --bytes 1gb --slots 1000
  holdfast drill reshard-under-load --slots 1000 --kill target`
	p := c.Flags()
	p.StringVar(&f.bytes, "bytes", "", "how large the values are, together, that move (1gb; default: --fill)")
	p.StringVar(&f.o.Kill, "kill", "", "kill the source, the target or the administrator at a random step")
	p.Uint64Var(&f.o.Seed, "seed", 0, "draws the step of --kill (0: any)")
	p.BoolVar(&f.o.ByKey, "by-key", false, "move slots key by key")
}

func (f *loadFlags) run(ctx context.Context, o ops.DrillOptions) (drillReport, error) {
	l := f.o
	l.DrillOptions = o
	if f.bytes != "" {
		n, ok := config.ParseMemory(f.bytes)
		if !ok || n == 0 || n > 1<<40 {
			return nil, fmt.Errorf("--bytes %s: write a number with a unit, as 64mb or 1gb", f.bytes)
		}
		l.Bytes = int64(n)
	}
	return ops.ReshardUnderLoad(ctx, l)
}
