package server

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"time"

	"holdfast/internal/raid"
	"holdfast/internal/redis/command"
	"holdfast/internal/redis/config"
)

// arrayCommands are the commands of a server on a disk array. They are in the
// table only if there is one, so that a server without one lists the commands
// of Redis and no other.
func (s *Server) arrayCommands() []command.Spec {
	if s.cfg.ArrayLevel == config.ArrayNone {
		return nil
	}
	flags := adminTime | command.NoMulti
	return []command.Spec{
		{Name: "holdfast.array", Arity: -2, Sub: []*command.Spec{
			{Name: "add-spare", Arity: 3, Flags: flags, Run: s.cmdArrayAddSpare},
			{Name: "help", Arity: 2, Flags: command.Loading | command.Stale, Run: cmdArrayHelp},
			{Name: "rebuild", Arity: -2, Flags: flags, Run: s.cmdArrayRebuild},
			{Name: "replace", Arity: 4, Flags: flags, Run: s.cmdArrayReplace},
			{Name: "scrub", Arity: -2, Flags: flags, Run: s.cmdArrayScrub},
			{Name: "status", Arity: 2, Flags: flags, Run: s.cmdArrayStatus},
		}},
	}
}

func cmdArrayHelp(c *command.Ctx) {
	c.Help(strings.Split(`ADD-SPARE <directory>
    Make an empty directory a hot spare.
REBUILD [<directory> ...]
    Take members back whose directories have returned, or only those named,
    and give them what they lack. In the background; see STATUS.
REPLACE <old> <new>
    Put the empty directory <new> in the place of the member <old>, a path or
    a slot number, and rebuild it in the background.
SCRUB [RESTART] [RATE <bytes>]
    Read and verify everything in the background, and mend what is damaged.
    Goes on where an interrupted scrub ended, unless RESTART. RATE is bytes per
    second of each member, instead of array-scrub-rate; 0 is without bound.
STATUS
    Return state, members, progress and the last events as JSON.`, "\n")...)
}

// theArray is the array, or nil after an error reply: it is opened while the
// server loads.
func (s *Server) theArray(c *command.Ctx) *raid.Array {
	c.NoPropagate()
	if s.array.a == nil {
		c.Err("ERR the array is not open yet")
	}
	return s.array.a
}

func (s *Server) cmdArrayStatus(c *command.Ctx) {
	a := s.theArray(c)
	if a == nil {
		return
	}
	r := ArrayReply{Status: a.Status()}
	st := &s.array
	st.mu.Lock()
	r.Events = append([]raid.Event{}, st.events...)
	r.Scrub, r.Rebuild = st.scrub.clone(), st.rebuild.clone()
	st.mu.Unlock()
	b, err := json.Marshal(r)
	if err != nil {
		c.Err("ERR " + err.Error())
		return
	}
	c.Bulk(b)
}

func (j *ArrayJob) clone() *ArrayJob {
	if j == nil {
		return nil
	}
	k := *j
	return &k
}

// startJob runs work in the background unless a job of its kind runs already.
func (st *arrayState) startJob(slot **ArrayJob, work func(ctx context.Context, j *ArrayJob) error) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if *slot != nil && (*slot).Ended.IsZero() {
		return false
	}
	j := &ArrayJob{Began: time.Now()}
	*slot = j
	st.jobs.Add(1)
	go func() {
		defer st.jobs.Done()
		done := *j
		err := work(st.ctx, &done)
		if err != nil {
			done.Error = err.Error()
		}
		done.Ended = time.Now()
		st.mu.Lock()
		*j = done
		st.mu.Unlock()
	}()
	return true
}

func (s *Server) cmdArrayScrub(c *command.Ctx) {
	a := s.theArray(c)
	if a == nil {
		return
	}
	var o raid.ScrubOptions
	for i := 2; i < len(c.Args); i++ {
		switch {
		case c.Is(i, "restart"):
			o.Restart = true
		case c.Is(i, "rate") && i+1 < len(c.Args):
			i++
			n, ok := config.ParseMemory(string(c.Args[i]))
			if !ok || n > 1<<62 {
				c.Err("ERR RATE is a number of bytes per second")
				return
			}
			o.Rate = orNone(int64(n))
		default:
			c.Err(command.ErrSyntax)
			return
		}
	}
	if a.Status().Scrub != nil || !s.array.startJob(&s.array.scrub, func(ctx context.Context, j *ArrayJob) error {
		r, err := a.Scrub(ctx, o)
		j.Scrub = &r
		return err
	}) {
		c.Err("ERR a scrub is running already")
		return
	}
	c.Simple("Background scrub started")
}

// cmdArrayRebuild takes members back that were away. Their directories are
// looked at in the background: a disk that is broken may take its time.
func (s *Server) cmdArrayRebuild(c *command.Ctx) {
	a := s.theArray(c)
	if a == nil {
		return
	}
	var dirs []string
	for _, arg := range c.Args[2:] {
		dirs = append(dirs, filepath.Clean(string(arg)))
	}
	for _, d := range dirs {
		if !filepath.IsAbs(d) {
			c.Errf("ERR %s is no absolute path", d)
			return
		}
	}
	if !s.startRebuild(func() error { return s.rejoin(a, dirs) }) {
		c.Err("ERR a rebuild is running already")
		return
	}
	c.Simple("Background rebuild started")
}

// startRebuild runs before, then rebuilds whatever lacks something, in the
// background.
func (s *Server) startRebuild(before func() error) bool {
	return s.array.startJob(&s.array.rebuild, func(ctx context.Context, j *ArrayJob) error {
		if err := before(); err != nil {
			return err
		}
		for {
			r, err := s.array.a.Rebuild(ctx, raid.RebuildOptions{})
			if !errors.Is(err, raid.ErrBusy) {
				j.Result = &r
				return err
			}
			// The array has begun to rebuild by itself: then that is what to wait for.
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
}

// rejoin takes back the members in dirs, or, if none is named, every one that is
// out and whose directory can be seen.
func (s *Server) rejoin(a *raid.Array, dirs []string) error {
	named := len(dirs) > 0
	st := a.Status()
	if !named {
		for i := range st.Members {
			switch st.Members[i].State {
			case "live", "rebuilding":
			default:
				dirs = append(dirs, st.Members[i].Path)
			}
		}
	}
	for _, d := range dirs {
		dir := raid.Dir{FS: s.fs, Path: d}
		if is, err := raid.Exists(dir); !named && (err != nil || !is) {
			continue
		}
		if err := a.Rejoin(dir); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) cmdArrayReplace(c *command.Ctx) {
	a := s.theArray(c)
	if a == nil {
		return
	}
	old, fresh := string(c.Args[2]), filepath.Clean(string(c.Args[3]))
	if !filepath.IsAbs(fresh) {
		c.Errf("ERR %s is no absolute path", fresh)
		return
	}
	if err := s.fs.MkdirAll(fresh, 0o755); err != nil {
		c.Err("ERR " + errnoText(err))
		return
	}
	if err := a.Replace(old, raid.Dir{FS: s.fs, Path: fresh}); err != nil {
		c.Err("ERR " + err.Error())
		return
	}
	st := a.Status()
	s.followArray(&st)
	s.startRebuild(func() error { return nil }) // if one is running, it will do this too
	c.OK()
}

func (s *Server) cmdArrayAddSpare(c *command.Ctx) {
	a := s.theArray(c)
	if a == nil {
		return
	}
	fresh := filepath.Clean(string(c.Args[2]))
	if !filepath.IsAbs(fresh) {
		c.Errf("ERR %s is no absolute path", fresh)
		return
	}
	if err := s.fs.MkdirAll(fresh, 0o755); err != nil {
		c.Err("ERR " + errnoText(err))
		return
	}
	if err := a.AddSpare(raid.Dir{FS: s.fs, Path: fresh}); err != nil {
		c.Err("ERR " + err.Error())
		return
	}
	st := a.Status()
	s.followArray(&st)
	c.OK()
}
