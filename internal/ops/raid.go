package ops

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/raid"
	"holdfast/internal/redis/server"
)

// Exit codes of what is about disk arrays.
const (
	RaidOK         = 0 // healthy, or everything was repaired
	RaidDegraded   = 1
	RaidDecision   = 2 // a human has to decide
	RaidUnreadable = 4
)

// RaidCreateOptions are the flags of `raid create`.
type RaidCreateOptions struct {
	Level   int
	Chunk   int // bytes; 0 is the default
	Members []string
	Spares  []string
}

// absDirs makes the paths absolute, since superblocks name each other by them.
func absDirs(paths []string) ([]raid.Dir, error) {
	dirs := make([]raid.Dir, len(paths))
	for i, p := range paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			return nil, err
		}
		dirs[i] = raid.Dir{FS: vfs.Default, Path: abs}
	}
	return dirs, nil
}

// RaidCreate makes an array of empty directories, which are created if need be.
func RaidCreate(o RaidCreateOptions) (raid.Status, error) {
	members, err := absDirs(o.Members)
	if err != nil {
		return raid.Status{}, err
	}
	spares, err := absDirs(o.Spares)
	if err != nil {
		return raid.Status{}, err
	}
	for _, d := range append(append([]raid.Dir{}, members...), spares...) {
		if err := os.MkdirAll(d.Path, 0o755); err != nil {
			return raid.Status{}, err
		}
	}
	a, err := raid.Create(raid.Options{Members: members, Spares: spares, Level: o.Level, Chunk: o.Chunk, Manual: true})
	if err != nil {
		return raid.Status{}, err
	}
	st := a.Status()
	return st, a.Close()
}

// arrayAt finds the array that the directories belong to: any of its members,
// or a server's data directory.
func arrayAt(paths []string) (raid.Options, error) {
	o := raid.Options{Level: raid.LevelAny, Manual: true}
	if len(paths) == 1 {
		note, err := server.ReadArrayNote(vfs.Default, paths[0])
		if err != nil {
			return o, err
		}
		if note != nil {
			paths = append(append([]string{}, note.Members...), note.Spares...)
		}
	}
	dirs, err := absDirs(paths)
	if err != nil {
		return o, err
	}
	var known []string
	var unreadable error
	for _, d := range dirs {
		is, err := raid.Exists(d)
		switch {
		case err != nil:
			unreadable = errors.Join(unreadable, fmt.Errorf("%s: %w", d.Path, err))
		case is:
			known = append(known, d.Path)
		}
	}
	if len(known) == 0 {
		if unreadable != nil {
			return o, unreadable
		}
		return o, fmt.Errorf("%w: none of %v is a member of an array", raid.ErrNotArray, paths)
	}
	if o.Members, o.Spares, err = raid.Discover(vfs.Default, known...); err != nil {
		return o, err
	}
	o.Members, o.Spares = present(o.Members), present(o.Spares)
	return o, nil
}

// present leaves out directories that are not there: superblocks know who is
// missing.
func present(dirs []raid.Dir) []raid.Dir {
	return slices.DeleteFunc(dirs, func(d raid.Dir) bool {
		_, err := d.FS.Stat(d.Path)
		return errors.Is(err, os.ErrNotExist)
	})
}

// RaidStatus looks at an array that is not running, and changes nothing.
func RaidStatus(paths []string) (raid.Status, error) {
	o, err := arrayAt(paths)
	if err != nil {
		return raid.Status{}, err
	}
	o.ReadOnly = true
	return raid.Inspect(o)
}

// RaidJob is long work on an array that is not running.
type RaidJob struct {
	Dirs     []string
	Rate     int64 // bytes per second; 0 is without bound
	Restart  bool  // scrub: from the beginning
	Progress *Progress
	Events   func(raid.Event)
}

// open opens the array of the job for writing.
func (j *RaidJob) open() (*raid.Array, error) {
	o, err := arrayAt(j.Dirs)
	if err != nil {
		return nil, err
	}
	o.ScrubRate, o.RebuildRate, o.OnEvent = j.Rate, j.Rate, j.Events
	if j.Rate == 0 {
		o.ScrubRate, o.RebuildRate = -1, -1
	}
	return raid.Open(o)
}

func (j *RaidJob) at(p raid.Progress) { j.Progress.At(p.Stage, p.Done, p.Total) }

// RaidScrub reads and verifies everything and mends what is damaged.
func RaidScrub(ctx context.Context, j RaidJob) (res raid.ScrubResult, st raid.Status, err error) {
	a, err := j.open()
	if err != nil {
		return res, st, err
	}
	res, err = a.Scrub(ctx, raid.ScrubOptions{Restart: j.Restart, Progress: j.at})
	j.Progress.End()
	st = a.Status()
	return res, st, errors.Join(err, a.Close())
}

// RaidRebuild gives members that were away what they lack.
func RaidRebuild(ctx context.Context, j RaidJob) (res raid.RebuildResult, st raid.Status, err error) {
	a, err := j.open()
	if err != nil {
		return res, st, err
	}
	res, err = a.Rebuild(ctx, raid.RebuildOptions{Progress: j.at})
	j.Progress.End()
	st = a.Status()
	return res, st, errors.Join(err, a.Close())
}

// RaidReplace puts the empty directory fresh in the place of the member old and
// rebuilds it.
func RaidReplace(ctx context.Context, j RaidJob, old, fresh string) (res raid.RebuildResult, st raid.Status, err error) {
	dirs, err := absDirs([]string{fresh})
	if err != nil {
		return res, st, err
	}
	if err := os.MkdirAll(dirs[0].Path, 0o755); err != nil {
		return res, st, err
	}
	a, err := j.open()
	if err != nil {
		return res, st, err
	}
	if err = a.Replace(memberName(old), dirs[0]); err == nil {
		res, err = a.Rebuild(ctx, raid.RebuildOptions{Progress: j.at})
	}
	j.Progress.End()
	st = a.Status()
	return res, st, errors.Join(err, a.Close())
}

// memberName is a slot number as it is, or a path made absolute.
func memberName(s string) string {
	for _, c := range s {
		if c < '0' || c > '9' {
			if abs, err := filepath.Abs(s); err == nil {
				return abs
			}
			return s
		}
	}
	return s
}

// RaidDump prints what the files of an array say.
func RaidDump(paths []string, w io.Writer, d raid.DumpOptions) error {
	o, err := arrayAt(paths)
	if err != nil {
		return err
	}
	o.ReadOnly = true
	return raid.Dump(o, w, d)
}

// RaidExitOf is the exit code for an error of the above.
func RaidExitOf(err error) int {
	var split *raid.SplitError
	var few *raid.TooFewError
	var corrupt *raid.CorruptError
	switch {
	case err == nil:
		return RaidOK
	case errors.As(err, &split), errors.As(err, &few), errors.As(err, &corrupt), errors.Is(err, raid.ErrLocked):
		return RaidDecision
	}
	return RaidUnreadable
}

// RaidHint says what to do about an error, "" if nothing can be said.
func RaidHint(err error) string {
	var split *raid.SplitError
	var few *raid.TooFewError
	var corrupt *raid.CorruptError
	switch {
	case errors.Is(err, raid.ErrLocked):
		return "a running server has it open: use --server ADDR, or stop it"
	case errors.As(err, &split):
		return "both parts were written to: choose one, and name only its directories; the others are rebuilt from it with `holdfast raid replace`"
	case errors.As(err, &few):
		return "bring the missing disks back; nothing was changed"
	case errors.As(err, &corrupt):
		return "`holdfast check` says what is damaged"
	case errors.Is(err, raid.ErrNotBlank):
		return "an array is made of empty directories; nothing was changed"
	case errors.Is(err, raid.ErrNotArray):
		return "make one with `holdfast raid create --level 5 DIR...`"
	}
	return ""
}

// sinceText is a moment for a table.
func sinceText(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Local().Format("2006-01-02 15:04")
}
