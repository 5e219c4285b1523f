package server

import (
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"holdfast/internal/journal"
)

// What a process that was killed leaves behind is removed by the next one:
// snapshots that were not finished, and finished ones that nothing names.

// sweepJournal removes from the journal's directory every snapshot but the one
// that the manifest in force names.
func (s *Server) sweepJournal(j *journal.Journal) {
	s.sweep(s.journalFS(), s.journalPath(), func(name string) bool {
		return strings.HasPrefix(name, "temp-") ||
			strings.HasPrefix(name, "checkpoint-") && strings.HasSuffix(name, ".rdb") && name != j.Manifest().Checkpoint
	})
}

// sweepDumps removes from dir the unfinished dumps of processes that are gone.
func (s *Server) sweepDumps() {
	s.sweep(s.fs, s.cfg.Dir, func(name string) bool {
		middle, ok := strings.CutPrefix(name, "temp-")
		if !ok {
			return false
		}
		if middle, ok = strings.CutSuffix(middle, ".rdb"); !ok {
			return false
		}
		// temp-PID.rdb, or temp-TIME.PID.rdb of a transfer.
		if before, after, two := strings.Cut(middle, "."); two {
			if _, err := strconv.ParseInt(before, 10, 64); err != nil {
				return false
			}
			middle = after
		}
		id, err := strconv.Atoi(middle)
		if err != nil || id <= 0 {
			return false
		}
		return id == pid() || unix.Kill(id, 0) == unix.ESRCH
	})
}

func (s *Server) sweep(fs vfs.FS, dir string, stray func(name string) bool) {
	names, err := fs.List(dir)
	if err != nil {
		s.log.Warning("Looking for leftovers in %s: %s", dir, err)
		return
	}
	for _, name := range names {
		if !stray(name) {
			continue
		}
		if err := fs.Remove(fs.PathJoin(dir, name)); err != nil {
			s.log.Warning("Removing the leftover %s: %s", name, err)
			continue
		}
		s.log.Notice("Removed %s, left by an earlier run", name)
	}
}
