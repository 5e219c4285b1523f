//go:build linux

package server

//lint:file-ignore ST1005 the wording is that of Redis

import (
	"errors"
	"os"
	"strconv"
	"strings"

	"holdfast/internal/redis/config"
)

// oomScore is what became of oom-score-adj. Under the engine's lock.
type oomScore struct {
	known bool // switched on: base is known
	base  int  // the process's score before it was touched
	set   int  // what was written last
}

const oomScoreFile = "/proc/self/oom_score_adj"

// registerOOMScore applies oom-score-adj now and whenever it changes.
func (s *Server) registerOOMScore() {
	apply := func(string, string) error {
		if err := s.applyOOMScore(); err != nil {
			s.log.Warning("Unable to write oom_score_adj: %s", errnoText(err))
			return errors.New("Failed to set current oom_score_adj. Check server logs.")
		}
		return nil
	}
	s.cfg.OnApply("oom-score-adj", apply)
	s.cfg.OnApply("oom-score-adj-values", apply)
	if err := s.applyOOMScore(); err != nil {
		s.log.Warning("Unable to write oom_score_adj: %s", errnoText(err))
	}
}

// applyOOMScore writes the score that configuration and role ask for, when it
// is another one than before. What the score is relative to, and goes back to, is
// what it was when the directive was last switched on.
func (s *Server) applyOOMScore() error {
	o := &s.oom
	off := s.cfg.OOMScoreAdj == config.OOMScoreAdjNo
	if off && !o.known {
		return nil
	}
	if !o.known {
		b, err := os.ReadFile(oomScoreFile)
		if err != nil {
			return err
		}
		if o.base, err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil {
			return err
		}
		o.known, o.set = true, o.base
	}
	want := o.base
	if !off {
		want = s.cfg.OOMScoreAdjValues[flag(s.repl.isReplica.Load())]
		if s.cfg.OOMScoreAdj == config.OOMScoreAdjRelative {
			want += o.base
		}
		want = min(max(want, -1000), 1000)
	}
	if want != o.set {
		if err := os.WriteFile(oomScoreFile, []byte(strconv.Itoa(want)), 0); err != nil {
			return err
		}
		o.set = want
	}
	o.known = !off
	return nil
}
