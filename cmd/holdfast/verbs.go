package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/ops"
	"holdfast/internal/redis/config"
)

// exitCode is an error that only says with which code to leave.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

const defaultDir = "holdfast-data"

// verbs are the commands that are Holdfast's own.
func verbs(args []string) int {
	root := &cobra.Command{
		Use:   "holdfast",
		Short: "A data store that keeps its data and stays up: Redis protocols, one binary",
		Long: `Holdfast keeps its data and stays up: server, replication and Sentinel of Redis 7.0 in one binary.

Programs that it replaces (their own arguments; a symlink of that name does the same):
  holdfast redis-server [redis.conf] [--directive value ...]
  holdfast redis-sentinel sentinel.conf [--directive value ...]`,
		Example: `  holdfast up                      # 1 master, 2 replicas, 3 Sentinels on this machine
  holdfast status                  # one table and one verdict
  holdfast drill kill-primary      # break it, and see what it costs
  holdfast check ./holdfast-data/redis-7379
  holdfast raid status /mnt/d1     # the disks under a server's journal`,
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(upCommand(), statusCommand(), drillCommand(), checkCommand(), clusterCommand(), raidCommand())
	root.SetArgs(args[1:])
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := root.ExecuteContext(ctx)
	var code exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.Is(err, context.Canceled):
		return 130
	}
	fmt.Fprintln(os.Stderr, "holdfast:", err)
	return 2
}

func upCommand() *cobra.Command {
	o := ops.UpOptions{Out: os.Stdout}
	level := "none"
	c := &cobra.Command{
		Use:   "up [single|sentinel|cluster]",
		Short: "Run a whole deployment on this machine",
		Long: `Runs a deployment as child processes of this binary, on 127.0.0.1, and stops it in order on Ctrl-C.
Mode sentinel, the default: one master, replicas, and Sentinels that fail over. Mode single: one server.
Mode cluster: --shards masters that share the keys, with --replicas (1 if not given) each, and failover among themselves.
Run again on the same --dir, it goes on with the data.`,
		Example: `  holdfast up
  holdfast up --port 6000 --replicas 1
  holdfast up single --dir /srv/data
  holdfast up cluster --shards 3 --replicas 1
  holdfast up --array-level 5 --members 4     # every server on a RAID-5 of four directories`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Mode = "sentinel"
			if len(args) == 1 {
				o.Mode = args[0]
			}
			switch o.Mode {
			case "sentinel":
			case "single":
				o.Replicas, o.Sentinels = 0, 0
			case "cluster":
				if err := upShards(&o, cmd.Flags().Changed("replicas")); err != nil {
					return err
				}
			default:
				return fmt.Errorf("unknown mode %q: use single, sentinel or cluster", o.Mode)
			}
			if o.Port < 1 || o.Port > 65535 {
				return fmt.Errorf("--port %d: a port is between 1 and 65535", o.Port)
			}
			if o.Sentinels > 0 && o.Port+ops.SentinelOffset+o.Sentinels > 65535 {
				return fmt.Errorf("--port %d: ports up to BASE + %d + Sentinels must be below 65536", o.Port, ops.SentinelOffset)
			}
			if o.Replicas < 0 || o.Sentinels < 0 || o.Replicas > 100 || o.Sentinels > 100 {
				return errors.New("--replicas and --sentinels must be between 0 and 100")
			}
			if err := upArray(&o, level, cmd.Flags().Changed("members")); err != nil {
				return err
			}
			return ops.Up(cmd.Context(), o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Dir, "dir", defaultDir, "directory of the data, the configurations and the logs")
	f.IntVar(&o.Port, "port", 7379, "BASE: servers listen from here, Sentinels from BASE + 20000")
	f.IntVar(&o.Replicas, "replicas", 2, "replicas of the master (cluster: of each, 1 if not given)")
	f.IntVar(&o.Shards, "shards", 3, "cluster: masters")
	f.IntVar(&o.Sentinels, "sentinels", 3, "Sentinels")
	f.StringVar(&level, "array-level", level, "RAID level of the array that each server's journal lies on: none, 0, 1, 4, 5 or 6")
	f.IntVar(&o.ArrayWidth, "members", 4, "with --array-level: members of each array, directories that stand for disks")
	f.DurationVar(&o.RestartAfter, "restart-after", 5*time.Second, "how long after its end a member is started again")
	f.BoolVar(&o.JSON, "json", false, "print the members as JSON")
	return c
}

// upShards judges what mode cluster is asked for.
func upShards(o *ops.UpOptions, replicasGiven bool) error {
	o.Sentinels = 0
	if !replicasGiven {
		o.Replicas = 1
	}
	if o.Shards < 3 || o.Shards > 100 {
		return errors.New("--shards must be between 3 and 100: fewer masters have no majority once one is gone")
	}
	if last := o.Port + ops.BusOffset + o.Shards*(max(o.Replicas, 0)+1); last > 65535 {
		return fmt.Errorf("--port %d: the nodes' bus ports, %d above theirs, must be below 65536", o.Port, ops.BusOffset)
	}
	return nil
}

// upArray reads --array-level and judges --members by it.
func upArray(o *ops.UpOptions, level string, membersGiven bool) error {
	if level == "none" {
		o.ArrayWidth = 0
		if membersGiven {
			return errors.New("--members needs an --array-level")
		}
		return nil
	}
	if _, err := fmt.Sscan(level, &o.ArrayLevel); err != nil || !slices.Contains([]int{0, 1, 4, 5, 6}, o.ArrayLevel) {
		return fmt.Errorf("--array-level %s: use none, 0, 1, 4, 5 or 6", level)
	}
	if least := config.ArrayLevel(o.ArrayLevel).MinMembers(); o.ArrayWidth < least || o.ArrayWidth > 32 {
		return fmt.Errorf("--members %d: level %s needs %d to 32", o.ArrayWidth, level, least)
	}
	return nil
}

func statusCommand() *cobra.Command {
	var dir string
	var asJSON bool
	var timeout time.Duration
	var access accessFlags
	c := &cobra.Command{
		Use:   "status [ADDR ...]",
		Short: "One table and one verdict about a deployment",
		Long: `Asks around from any one address, of a data server or a Sentinel, and prints a row per member and a verdict.
Without an address it looks at the deployment that 'holdfast up' runs in --dir. A member that wants no password is asked without.
Exit code: 0 healthy, 1 degraded, 2 down.`,
		Example: `  holdfast status
  holdfast status 127.0.0.1:7379
  holdfast status 10.0.0.5:26379 --json
  REDISCLI_AUTH=secret holdfast status 10.0.0.5:6379 --tls --cacert ca.crt`,
		RunE: func(_ *cobra.Command, args []string) error {
			by, err := access.access()
			if err != nil {
				return err
			}
			var st *ops.Status
			if len(args) == 0 {
				d, err := ops.LoadDeployment(dir)
				if err != nil {
					return err
				}
				st = d.Status(timeout, by)
			} else {
				for i, a := range args {
					if _, err := strconv.Atoi(a); err == nil {
						args[i] = "127.0.0.1:" + a
					} else if !strings.Contains(a, ":") {
						args[i] = a + ":6379"
					}
				}
				st = ops.StatusOf(args, timeout, by)
			}
			if asJSON {
				if err := st.WriteJSON(os.Stdout); err != nil {
					return err
				}
			} else {
				st.WriteTable(os.Stdout)
			}
			if st.Verdict != ops.Healthy {
				return exitCode(st.Verdict)
			}
			return nil
		},
	}
	c.Flags().StringVar(&dir, "dir", defaultDir, "directory of a deployment of 'holdfast up'")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().DurationVar(&timeout, "timeout", time.Second, "how long one question may take")
	access.register(c.Flags())
	return c
}

// verbOf runs a command that only has verbs: without one it says which.
func verbOf(name string) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return fmt.Errorf("unknown verb %q; `holdfast %s --help` lists them", args[0], name)
		}
		return cmd.Help()
	}
}

// drillReport is what every drill ends with.
type drillReport interface {
	Print(w io.Writer, asJSON bool) error
	Verdict() ops.Verdict
}

func failover(run func(context.Context, ops.DrillOptions) (*ops.DrillReport, error)) func(context.Context, ops.DrillOptions) (drillReport, error) {
	return func(ctx context.Context, o ops.DrillOptions) (drillReport, error) { return run(ctx, o) }
}

func diskDrill(run func(context.Context, ops.DrillOptions) (*ops.DiskReport, error)) func(context.Context, ops.DrillOptions) (drillReport, error) {
	return func(ctx context.Context, o ops.DrillOptions) (drillReport, error) { return run(ctx, o) }
}

func partition(run func(context.Context, ops.DrillOptions) (*ops.PartitionReport, error)) func(context.Context, ops.DrillOptions) (drillReport, error) {
	return func(ctx context.Context, o ops.DrillOptions) (drillReport, error) { return run(ctx, o) }
}

func drillCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "drill",
		Short: "Break a deployment of 'holdfast up' on purpose and measure what it costs",
		Example: `  holdfast drill kill-primary
  holdfast drill pause-primary --pause 8s
  holdfast drill lose-disk --disk 2        # after: holdfast up --array-level 5 --members 4`,
		RunE: verbOf("drill"),
	}
	o := ops.DrillOptions{Out: os.Stdout}
	add := func(name, short string, run func(context.Context, ops.DrillOptions) (drillReport, error)) *cobra.Command {
		sub := &cobra.Command{
			Use: name, Short: short, Args: cobra.NoArgs,
			Long: short + `, while a probe client writes and records every acknowledged write; then print what was
noticed when, what was healed, when writes were back, and how many acknowledged writes are lost.
Exit code: 0 nothing lost, 1 acknowledged writes lost, 2 it is not healthy again.`,
			Example: "  holdfast drill " + name + " --dir ./holdfast-data --json",
			RunE: func(cmd *cobra.Command, _ []string) error {
				r, err := run(cmd.Context(), o)
				if err != nil {
					return err
				}
				if err := r.Print(os.Stdout, o.JSON); err != nil {
					return err
				}
				if v := r.Verdict(); v != ops.Healthy {
					return exitCode(v)
				}
				return nil
			},
		}
		c.AddCommand(sub)
		return sub
	}
	add("kill-primary", "Kill the master's process (kill -9)", failover(ops.KillPrimary))
	add("pause-primary", "Stop the master's process for a while (SIGSTOP)", failover(ops.PausePrimary))
	add("partition", "Cut the master off from everybody but one client, and let it come back", partition(ops.Partition))
	add("kill-host", "Kill as many masters of a cluster at once as leave a majority (kill -9)", failover(ops.KillHost))
	load := loadFlags{}
	load.register(add("reshard-under-load", "Move slots between two masters of a cluster", func(ctx context.Context, o ops.DrillOptions) (drillReport, error) {
		return load.run(ctx, o)
	}))
	add("lose-disk", "Take a disk of the master's array away, and bring it back", diskDrill(ops.LoseDisk))
	add("corrupt-disk", "Flip bytes on a disk of the master's array", diskDrill(ops.CorruptDisk))
	f := c.PersistentFlags()
	f.StringVar(&o.Dir, "dir", defaultDir, "directory of the deployment")
	f.DurationVar(&o.Before, "before", 2*time.Second, "how long to write before the failure")
	f.DurationVar(&o.After, "after", 2*time.Second, "how long to write after writes are back")
	f.DurationVar(&o.Limit, "limit", 60*time.Second, "when to give up")
	f.DurationVar(&o.Pause, "pause", 6*time.Second, "pause-primary, partition: how long")
	f.IntVar(&o.Disk, "disk", 1, "lose-disk, corrupt-disk: slot of the member of the array")
	f.IntVar(&o.Slots, "slots", 200, "reshard-under-load: how many slots move")
	f.IntVar(&o.FillMB, "fill", 64, "reshard-under-load: MiB of values that move with them")
	f.IntVar(&o.Clients, "clients", 8, "reshard-under-load: clients that write to these slots meanwhile")
	f.IntVar(&o.Flips, "flips", 20, "corrupt-disk: how many bytes to flip")
	f.BoolVar(&o.JSON, "json", false, "print the report as JSON")
	return c
}

func checkCommand() *cobra.Command {
	var asJSON bool
	var o ops.CheckFilesOptions
	c := &cobra.Command{
		Use:   "check DIR...",
		Short: "Read a data directory or a disk array and say what is whole, torn or corrupt",
		Long: `Reads every segment and record of the journal in DIR, a server's data directory, its checkpoint and dump.rdb.
If the data is on a disk array, or DIR is a member of one, it reads the array first: superblocks, metadata journal, chunk
checksums, parity and files that belong to nothing; then journal and checkpoint through the array. It changes nothing, unless
--repair is given: then it prints the plan first, mends what can be mended without a loss, and moves what belongs to nothing
to lost+found; it never deletes. The server must not be running then.
Exit code: 0 clean, 1 repaired, 2 a human must decide, 4 unreadable.`,
		Example: `  holdfast check ./holdfast-data/redis-7379
  holdfast check /mnt/d1
  holdfast check --repair /mnt/d1`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Paths, o.Context = args, cmd.Context()
			return runCheck(o, asJSON)
		},
	}
	c.Flags().BoolVar(&o.Repair, "repair", false, "print a plan, then mend")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// runCheck prints the report and turns the verdict into an exit code.
func runCheck(o ops.CheckFilesOptions, asJSON bool) error {
	if !asJSON {
		o.Out = os.Stdout
	}
	o.Progress = ops.NewProgress(os.Stderr, "check")
	r, err := ops.CheckFiles(o)
	o.Progress.End()
	if err != nil {
		fmt.Fprintln(os.Stderr, "holdfast:", err)
		if hint := ops.RaidHint(err); hint != "" {
			fmt.Fprintln(os.Stderr, hint)
		}
		return exitCode(ops.RaidExitOf(err))
	}
	if asJSON {
		if err := r.WriteJSON(os.Stdout); err != nil {
			return err
		}
	}
	if c := r.ExitCode(); c != 0 {
		return exitCode(c)
	}
	return nil
}
