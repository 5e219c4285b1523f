package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/spf13/cobra"

	"holdfast/internal/ops"
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
  holdfast check ./holdfast-data/redis-7379`,
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(upCommand(), statusCommand(), drillCommand(), checkCommand())
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
	c := &cobra.Command{
		Use:   "up [single|sentinel]",
		Short: "Run a whole deployment on this machine",
		Long: `Runs a deployment as child processes of this binary, on 127.0.0.1, and stops it in order on Ctrl-C.
Mode sentinel, the default: one master, replicas, and Sentinels that fail over. Mode single: one server.
Run again on the same --dir, it goes on with the data.`,
		Example: `  holdfast up
  holdfast up --port 6000 --replicas 1
  holdfast up single --dir /srv/data`,
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
			default:
				return fmt.Errorf("unknown mode %q: use single or sentinel", o.Mode)
			}
			if o.Port < 1 || o.Port+ops.SentinelOffset+o.Sentinels > 65535 {
				return fmt.Errorf("--port %d: ports up to BASE + %d + Sentinels must be below 65536", o.Port, ops.SentinelOffset)
			}
			if o.Replicas < 0 || o.Sentinels < 0 || o.Replicas > 100 || o.Sentinels > 100 {
				return errors.New("--replicas and --sentinels must be between 0 and 100")
			}
			return ops.Up(cmd.Context(), o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Dir, "dir", defaultDir, "directory of the data, the configurations and the logs")
	f.IntVar(&o.Port, "port", 7379, "BASE: servers listen from here, Sentinels from BASE + 20000")
	f.IntVar(&o.Replicas, "replicas", 2, "replicas of the master")
	f.IntVar(&o.Sentinels, "sentinels", 3, "Sentinels")
	f.DurationVar(&o.RestartAfter, "restart-after", 5*time.Second, "how long after its end a member is started again")
	f.BoolVar(&o.JSON, "json", false, "print the members as JSON")
	return c
}

func statusCommand() *cobra.Command {
	var dir string
	var asJSON bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "status [ADDR ...]",
		Short: "One table and one verdict about a deployment",
		Long: `Asks around from any one address, of a data server or a Sentinel, and prints a row per member and a verdict.
Without an address it looks at the deployment that 'holdfast up' runs in --dir.
Exit code: 0 healthy, 1 degraded, 2 down.`,
		Example: `  holdfast status
  holdfast status 127.0.0.1:7379
  holdfast status 10.0.0.5:26379 --json`,
		RunE: func(_ *cobra.Command, args []string) error {
			var st *ops.Status
			if len(args) == 0 {
				d, err := ops.LoadDeployment(dir)
				if err != nil {
					return err
				}
				st = d.Status(timeout)
			} else {
				for i, a := range args {
					if !strings.Contains(a, ":") {
						args[i] = a + ":6379"
					}
				}
				st = ops.StatusOf(args, timeout)
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
	return c
}

func drillCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "drill",
		Short: "Break a deployment of 'holdfast up' on purpose and measure what it costs",
		Example: `  holdfast drill kill-primary
  holdfast drill pause-primary --pause 8s`,
	}
	o := ops.DrillOptions{Out: os.Stdout}
	add := func(name, short string, run func(context.Context, ops.DrillOptions) (*ops.DrillReport, error)) {
		sub := &cobra.Command{
			Use: name, Short: short, Args: cobra.NoArgs,
			Long: short + `, while a probe client writes and records every acknowledged write; then print what was
noticed when, when writes were back, and how many acknowledged writes are lost.
Exit code: 0 nothing lost, 1 acknowledged writes lost, 2 writes did not come back.`,
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
	}
	add("kill-primary", "Kill the master's process (kill -9)", ops.KillPrimary)
	add("pause-primary", "Stop the master's process for a while (SIGSTOP)", ops.PausePrimary)
	f := c.PersistentFlags()
	f.StringVar(&o.Dir, "dir", defaultDir, "directory of the deployment")
	f.DurationVar(&o.Before, "before", 2*time.Second, "how long to write before the failure")
	f.DurationVar(&o.After, "after", 2*time.Second, "how long to write after writes are back")
	f.DurationVar(&o.Limit, "limit", 60*time.Second, "when to give up")
	f.DurationVar(&o.Pause, "pause", 6*time.Second, "pause-primary: how long")
	f.BoolVar(&o.JSON, "json", false, "print the report as JSON")
	return c
}

func checkCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "check DIR",
		Short: "Read a data directory and say what is whole, torn or corrupt",
		Long: `Reads every segment and record of the journal in DIR, a server's data directory, and changes nothing.
Exit code: 0 clean, 2 a human must decide, 4 unreadable.`,
		Example: "  holdfast check ./holdfast-data/redis-7379",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return runCheck(vfs.Default, args[0], asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// runCheck prints the report and turns the verdict into an exit code.
func runCheck(fs vfs.FS, dir string, asJSON bool) error {
	var w io.Writer
	if !asJSON {
		w = os.Stdout
	}
	r, err := ops.CheckDir(fs, dir, w)
	if err != nil {
		fmt.Fprintln(os.Stderr, "holdfast:", err)
		return exitCode(4)
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
