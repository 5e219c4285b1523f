package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/ops"
	"holdfast/internal/raid"
	"holdfast/internal/redis/config"
	"holdfast/internal/redis/server"
)

// raidFlags are what the subcommands of raid have in common.
type raidFlags struct {
	json    bool
	server  string
	timeout time.Duration
	rate    string
}

func raidCommand() *cobra.Command {
	f := new(raidFlags)
	c := &cobra.Command{
		Use:   "raid",
		Short: "Disk arrays: make, look at, scrub, rebuild, mend",
		Long: `An array keeps journal and checkpoints of a server on several directories, each meant to be the mount of a
disk of its own, at RAID level 0, 1, 4, 5 or 6. 'holdfast redis-server --array-level 5 --array-members DIR ...'
makes one by itself at its first start. One member's directory, or the server's data directory, is enough to name
an array: its superblock names the others. Directories that are given override what it names.

Exit code: 0 healthy or repaired, 1 degraded, 2 needs a decision, 4 unreadable.`,
		Example: `  holdfast raid create --level 5 /mnt/d1 /mnt/d2 /mnt/d3 /mnt/d4
  holdfast raid status /mnt/d1
  holdfast raid status --server 127.0.0.1:6379
  holdfast raid replace --old /mnt/d2 --new /mnt/d5 --server 127.0.0.1:6379`,
		RunE: verbOf("raid"),
	}
	c.AddCommand(f.create(), f.status(), f.scrub(), f.rebuild(), f.replace(), f.check(), f.dump())
	return c
}

func (f *raidFlags) jsonFlag(c *cobra.Command) {
	c.Flags().BoolVar(&f.json, "json", false, "print JSON")
}

func (f *raidFlags) serverFlag(c *cobra.Command) {
	c.Flags().StringVar(&f.server, "server", "", "ADDR of a running server that has the array, instead of directories")
	c.Flags().DurationVar(&f.timeout, "timeout", 10*time.Second, "with --server: how long one question may take")
}

func (f *raidFlags) rateFlag(c *cobra.Command) {
	c.Flags().StringVar(&f.rate, "rate", "0", "bytes per second to read from each member, such as 50mb; 0 is without bound; with --server what the server has configured, if not given")
}

// on is the running server, or nil when directories are meant.
func (f *raidFlags) on(args []string, p *ops.Progress) (*ops.ArrayServer, error) {
	switch {
	case f.server == "" && len(args) == 0:
		return nil, errors.New("name a member directory, or a running server with --server ADDR")
	case f.server == "":
		return nil, nil
	case len(args) > 0:
		return nil, errors.New("either directories or --server, not both")
	}
	addr := f.server
	if !strings.Contains(addr, ":") {
		addr += ":6379"
	}
	return &ops.ArrayServer{Addr: addr, Timeout: f.timeout, Progress: p}, nil
}

// job is work on directories.
func (f *raidFlags) job(args []string, p *ops.Progress) (ops.RaidJob, error) {
	rate, ok := config.ParseMemory(f.rate)
	if !ok || rate > 1<<62 {
		return ops.RaidJob{}, fmt.Errorf("--rate %s is no number of bytes", f.rate)
	}
	j := ops.RaidJob{Dirs: args, Rate: int64(rate), Progress: p}
	if !f.json {
		j.Events = func(e raid.Event) { fmt.Println(ops.RaidEventLine(e)) }
	}
	return j, nil
}

// fail prints an error with what to do about it.
func (f *raidFlags) fail(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	fmt.Fprintln(os.Stderr, "holdfast:", err)
	if hint := ops.RaidHint(err); hint != "" {
		fmt.Fprintln(os.Stderr, hint)
	}
	return exitCode(ops.RaidExitOf(err))
}

// report prints the state that an array is in.
func (f *raidFlags) report(r *ops.RaidReport) error {
	if f.json {
		if err := r.WriteJSON(os.Stdout); err != nil {
			return err
		}
	} else {
		r.WriteTable(os.Stdout)
	}
	if r.Exit != ops.RaidOK {
		return exitCode(r.Exit)
	}
	return nil
}

func (f *raidFlags) create() *cobra.Command {
	o := ops.RaidCreateOptions{}
	var chunk string
	c := &cobra.Command{
		Use:   "create --level N DIR...",
		Short: "Make an array of empty directories",
		Long: `Makes an array of the directories, which must be empty; those that are missing are created. The order is
that of the slots: with level 4 the last one holds the parity.

Level  Members  Survives the loss of
0      2 to 32  no member
1      2 to 32  all members but one
4, 5   3 to 32  1 member
6      4 to 32  2 members`,
		Example: `  holdfast raid create --level 5 /mnt/d1 /mnt/d2 /mnt/d3 /mnt/d4
  holdfast raid create --level 1 --spare /mnt/d3 /mnt/d1 /mnt/d2`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			n, ok := config.ParseMemory(chunk)
			if !ok || n < 512 || n > 4<<20 || n&(n-1) != 0 {
				return fmt.Errorf("--chunk %s: use a power of two from 512 to 4mb", chunk)
			}
			o.Chunk, o.Members = int(n), args
			st, err := ops.RaidCreate(o)
			if err != nil {
				return f.fail(err)
			}
			return f.report(ops.NewRaidReport(st))
		},
	}
	c.Flags().IntVar(&o.Level, "level", 5, "RAID level: 0, 1, 4, 5 or 6")
	c.Flags().StringVar(&chunk, "chunk", "64kb", "bytes that lie in one piece on one member, a power of two")
	c.Flags().StringArrayVar(&o.Spares, "spare", nil, "empty directory that steps in for a member that fails; may be given again")
	f.jsonFlag(c)
	return c
}

func (f *raidFlags) status() *cobra.Command {
	c := &cobra.Command{
		Use:   "status DIR... | --server ADDR",
		Short: "One row per member and one verdict",
		Long: `Prints a row per member: state, errors, stripes that are at risk, last full scrub; and one verdict.
Exit code: 0 healthy, 1 degraded, 2 needs a decision, 4 unreadable.`,
		Example: `  holdfast raid status /mnt/d1
  holdfast raid status --server 127.0.0.1:6379 --json`,
		RunE: func(_ *cobra.Command, args []string) error {
			srv, err := f.on(args, nil)
			if err != nil {
				return err
			}
			if srv != nil {
				reply, err := srv.Status()
				if err != nil {
					return f.fail(err)
				}
				return f.report(ops.NewRaidReport(reply.Status))
			}
			st, err := ops.RaidStatus(args)
			if err != nil {
				return f.fail(err)
			}
			return f.report(ops.NewRaidReport(st))
		},
	}
	f.serverFlag(c)
	f.jsonFlag(c)
	return c
}

func (f *raidFlags) scrub() *cobra.Command {
	var restart bool
	c := &cobra.Command{
		Use:   "scrub DIR... | --server ADDR",
		Short: "Read and verify everything, and mend what is damaged",
		Long: `Reads every chunk of every stripe, compares checksums and parity, and writes anew what is damaged from what
is whole. It goes on where an interrupted scrub ended. A server scrubs by itself, see array-scrub-interval.
Exit code: 0 whole or repaired, 1 degraded, 2 something cannot be repaired, 4 unreadable.`,
		Example: `  holdfast raid scrub /mnt/d1
  holdfast raid scrub --server 127.0.0.1:6379`,
		RunE: func(cmd *cobra.Command, args []string) error {
			p := ops.NewProgress(os.Stderr, "scrub")
			srv, err := f.on(args, p)
			if err != nil {
				return err
			}
			j, err := f.job(args, p)
			if err != nil {
				return err
			}
			if srv != nil {
				rate := j.Rate
				if rate == 0 && cmd.Flags().Changed("rate") {
					rate = -1
				}
				reply, err := srv.Scrub(cmd.Context(), restart, rate)
				return f.finish(reply, err)
			}
			j.Restart = restart
			res, st, err := ops.RaidScrub(cmd.Context(), j)
			if err != nil {
				return f.fail(err)
			}
			r := ops.NewRaidReport(st)
			r.AddScrub(&res)
			return f.report(r)
		},
	}
	c.Flags().BoolVar(&restart, "restart", false, "begin anew instead of going on with an interrupted scrub")
	f.rateFlag(c)
	f.serverFlag(c)
	f.jsonFlag(c)
	return c
}

// finish reports what a running server's scrub or rebuild came to.
func (f *raidFlags) finish(reply *server.ArrayReply, err error) error {
	if err != nil {
		return f.fail(err)
	}
	r := ops.NewRaidReport(reply.Status)
	if reply.Scrub != nil && reply.Scrub.Scrub != nil {
		r.AddScrub(reply.Scrub.Scrub)
	}
	if reply.Rebuild != nil {
		r.Rebuild = reply.Rebuild.Result
	}
	return f.report(r)
}

func (f *raidFlags) rebuild() *cobra.Command {
	c := &cobra.Command{
		Use:   "rebuild DIR... | --server ADDR",
		Short: "Take members back that were away, and give them what they lack",
		Long: `A member that was away and has returned is stale: it counts only once everything that it lacks has been
written to it and what it has was verified. Only what files hold is copied. An interrupted rebuild goes on.
Exit code: 0 healthy again, 1 still degraded, 2 needs a decision, 4 unreadable.`,
		Example: `  holdfast raid rebuild /mnt/d1
  holdfast raid rebuild --server 127.0.0.1:6379`,
		RunE: func(cmd *cobra.Command, args []string) error {
			p := ops.NewProgress(os.Stderr, "rebuild")
			srv, err := f.on(args, p)
			if err != nil {
				return err
			}
			if srv != nil {
				reply, err := srv.Rebuild(cmd.Context())
				return f.finish(reply, err)
			}
			j, err := f.job(args, p)
			if err != nil {
				return err
			}
			res, st, err := ops.RaidRebuild(cmd.Context(), j)
			if err != nil {
				return f.fail(err)
			}
			r := ops.NewRaidReport(st)
			r.Rebuild = &res
			return f.report(r)
		},
	}
	f.rateFlag(c)
	f.serverFlag(c)
	f.jsonFlag(c)
	return c
}

func (f *raidFlags) replace() *cobra.Command {
	var old, fresh string
	c := &cobra.Command{
		Use:   "replace --old DIR --new DIR DIR... | --server ADDR",
		Short: "Put an empty directory in the place of a member, and rebuild it",
		Long: `The member --old, a directory or a slot number, leaves the array, and the empty directory --new takes its
slot. With --server both are paths on that machine, and the server goes on meanwhile.
Exit code: 0 healthy again, 1 still degraded, 2 needs a decision, 4 unreadable.`,
		Example: `  holdfast raid replace --old /mnt/d2 --new /mnt/d5 /mnt/d1
  holdfast raid replace --old 1 --new /mnt/d5 --server 127.0.0.1:6379`,
		RunE: func(cmd *cobra.Command, args []string) error {
			p := ops.NewProgress(os.Stderr, "rebuild")
			srv, err := f.on(args, p)
			if err != nil {
				return err
			}
			if srv != nil {
				reply, err := srv.Replace(cmd.Context(), old, fresh)
				return f.finish(reply, err)
			}
			j, err := f.job(args, p)
			if err != nil {
				return err
			}
			res, st, err := ops.RaidReplace(cmd.Context(), j, old, fresh)
			if err != nil {
				return f.fail(err)
			}
			r := ops.NewRaidReport(st)
			r.Rebuild = &res
			return f.report(r)
		},
	}
	c.Flags().StringVar(&old, "old", "", "the member that leaves: its directory, or its slot number")
	c.Flags().StringVar(&fresh, "new", "", "the empty directory that takes its place")
	for _, name := range []string{"old", "new"} {
		if err := c.MarkFlagRequired(name); err != nil {
			panic(err) // the flag is defined above
		}
	}
	f.rateFlag(c)
	f.serverFlag(c)
	f.jsonFlag(c)
	return c
}

func (f *raidFlags) check() *cobra.Command {
	var repair bool
	c := &cobra.Command{
		Use:   "check DIR...",
		Short: "Verify superblocks, metadata, chunks and parity of an array",
		Long: `Reads all that the members hold: superblocks, metadata journal, chunk checksums, parity, and files that
belong to nothing. Without --repair it changes nothing; with it, the plan is printed first, and what is in the way is
moved to lost+found, never deleted. 'holdfast check' reads what the files of the array hold as well.
Exit code: 0 clean, 1 repaired, 2 needs a decision, 4 unreadable.`,
		Example: `  holdfast raid check /mnt/d1
  holdfast raid check --repair /mnt/d1`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runCheck(ops.CheckFilesOptions{Context: cmd.Context(), Paths: args, Repair: repair, ArrayOnly: true}, f.json)
		},
	}
	c.Flags().BoolVar(&repair, "repair", false, "print a plan, then mend")
	f.jsonFlag(c)
	return c
}

func (f *raidFlags) dump() *cobra.Command {
	var d raid.DumpOptions
	c := &cobra.Command{
		Use:   "dump DIR...",
		Short: "Print what superblocks, metadata journal and tail log of an array say",
		Long: `Prints what stands on the members, damage included, and changes nothing; it takes no lock.
With none of the first three flags it prints all three.`,
		Example: `  holdfast raid dump /mnt/d1
  holdfast raid dump --metadata /mnt/d1 | less
  holdfast raid dump --file journal/journal.manifest-a /mnt/d1`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := ops.RaidDump(args, os.Stdout, d); err != nil {
				return f.fail(err)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&d.Superblocks, "superblocks", false, "print superblocks")
	c.Flags().BoolVar(&d.Metadata, "metadata", false, "print every batch of the metadata journal with its records")
	c.Flags().BoolVar(&d.Tail, "tail", false, "print every record of the tail log, without its payload")
	c.Flags().StringVar(&d.File, "file", "", "print the stripes of this file of the array, chunk by chunk")
	return c
}
