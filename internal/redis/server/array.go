package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/journal"
	"holdfast/internal/raid"
	"holdfast/internal/redis/config"
)

// With array-level, journal and checkpoints live on an array of disks, which
// this file finds or makes before the journal is opened. What tools of Redis
// expect, dump.rdb above all, stays in dir.

// ArrayMarker is the file in dir that says which array the data is on. Without
// it, a start at which no disk is mounted would find empty directories, make a
// new array of them, and serve nothing.
const ArrayMarker = "array.json"

// ArrayNote is the content of ArrayMarker.
type ArrayNote struct {
	ID      string   `json:"id"`
	Level   int      `json:"level"`
	Members []string `json:"members"`
	Spares  []string `json:"spares,omitempty"`
}

// ArrayReply is what HOLDFAST.ARRAY STATUS answers, as JSON.
type ArrayReply struct {
	Status raid.Status  `json:"status"`
	Events []raid.Event `json:"events"` // the last ones, oldest first
	// What the last jobs that were asked for came to.
	Scrub   *ArrayJob `json:"last_scrub_job,omitempty"`
	Rebuild *ArrayJob `json:"last_rebuild_job,omitempty"`
}

// ArrayJob is a scrub or rebuild that HOLDFAST.ARRAY began.
type ArrayJob struct {
	Began  time.Time           `json:"began"`
	Ended  time.Time           `json:"ended,omitzero"` // zero while it runs
	Error  string              `json:"error,omitempty"`
	Scrub  *raid.ScrubResult   `json:"scrub,omitempty"`
	Result *raid.RebuildResult `json:"rebuild,omitempty"`
}

// eventsKept is how many events of the array are held for STATUS.
const eventsKept = 128

// arrayState is the array and what runs on it. a is set once, before anybody
// but the loading knows of it; the rest is under mu, which is below every other
// lock: an event may come from anywhere.
type arrayState struct {
	a *raid.Array
	// changed: there are members that the configuration may not know.
	changed atomic.Bool
	ctx     context.Context
	cancel  context.CancelFunc
	jobs    sync.WaitGroup

	mu             sync.Mutex
	events         []raid.Event
	scrub, rebuild *ArrayJob
}

// journalFS is the file system of journal and checkpoints.
func (s *Server) journalFS() vfs.FS {
	if s.array.a != nil {
		return s.array.a
	}
	return s.fs
}

// absolute resolves directories against dir.
func (s *Server) absolute(dirs []string) []string {
	out := make([]string, len(dirs))
	for i, d := range dirs {
		if !filepath.IsAbs(d) {
			d = filepath.Join(s.cfg.Dir, d)
		}
		out[i] = filepath.Clean(d)
	}
	return out
}

func (s *Server) raidDirs(paths []string) []raid.Dir {
	dirs := make([]raid.Dir, len(paths))
	for i, p := range paths {
		dirs[i] = raid.Dir{FS: s.fs, Path: p}
	}
	return dirs
}

// openArray finds the array, or makes it at the first start. No lock is held.
func (s *Server) openArray() error {
	note, err := ReadArrayNote(s.fs, s.cfg.Dir)
	if err != nil {
		return err
	}
	if s.cfg.ArrayLevel == config.ArrayNone {
		if note != nil {
			return fmt.Errorf("the data of %s is on the disk array of %s: start with array-level and array-members as before; "+
				"or, to begin without that data, move %s away", s.cfg.Dir, strings.Join(note.Members, " "), s.fs.PathJoin(s.cfg.Dir, ArrayMarker))
		}
		return nil
	}
	members, spares := s.absolute(s.cfg.ArrayMembers), s.absolute(s.cfg.ArraySpares)
	began := time.Now()
	o := raid.Options{
		Members: s.raidDirs(members), Spares: s.raidDirs(spares),
		Level: int(s.cfg.ArrayLevel), Chunk: int(s.cfg.ArrayChunk),
		OnEvent:     s.arrayEvent,
		ScrubEvery:  time.Duration(s.cfg.ArrayScrubInterval) * time.Second,
		ScrubRate:   orNone(s.cfg.ArrayScrubRate),
		RebuildRate: orNone(s.cfg.ArrayRebuildRate),
		SpareAfter:  max(time.Duration(s.cfg.ArraySpareAfter)*time.Second, time.Nanosecond),
	}
	if o.ScrubEvery == 0 {
		o.ScrubEvery = -1
	}
	a, fresh, err := s.findOrMake(o, note)
	if err != nil {
		return arrayRefusal(err, members)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.e.Lock()
	s.array.a, s.array.ctx, s.array.cancel = a, ctx, cancel
	s.e.Unlock()
	st := a.Status()
	what := "found"
	if fresh {
		what = "made"
	}
	s.log.Notice("Array %s: %s, %s, %.3f seconds", what, arrayWords(&st), strings.Join(statePaths(&st), " "), time.Since(began).Seconds())
	if st.Reason != "" {
		s.log.Warning("Array: %s", st.Reason)
	}
	s.e.Lock()
	defer s.e.Unlock()
	s.followArray(&st)
	return s.noteArray()
}

// orNone is a rate of the configuration, where 0 is no bound, as the array takes
// it, for which 0 is the default.
func orNone(rate int64) int64 {
	if rate == 0 {
		return -1
	}
	return rate
}

// findOrMake opens the array that any of the directories belongs to; if none
// does, it makes one of them, unless there was one before.
func (s *Server) findOrMake(o raid.Options, note *ArrayNote) (a *raid.Array, fresh bool, err error) {
	var known []string
	look := append(append([]raid.Dir{}, o.Members...), o.Spares...)
	if note != nil {
		look = append(look, s.raidDirs(append(append([]string{}, note.Members...), note.Spares...))...)
	}
	for _, d := range look {
		is, err := raid.Exists(d)
		if err != nil {
			s.log.Warning("Array: %s cannot be read: %s", d.Path, err)
			continue
		}
		if is {
			known = append(known, d.Path)
		}
	}
	if len(known) == 0 {
		if note != nil {
			return nil, false, fmt.Errorf("none of the directories %s holds a member of the array %s, which the data of %s is on: are the disks mounted? "+
				"To begin anew without that data, move %s away",
				strings.Join(note.Members, " "), note.ID, s.cfg.Dir, s.fs.PathJoin(s.cfg.Dir, ArrayMarker))
		}
		for _, d := range look {
			if err := s.fs.MkdirAll(d.Path, 0o755); err != nil {
				return nil, false, err
			}
		}
		a, err = raid.Create(o)
		return a, true, err
	}
	// What the superblocks say counts: members may have been replaced since the
	// configuration was written.
	members, spares, err := raid.Discover(s.fs, known...)
	if err != nil {
		return s.makeAgain(o, note, err)
	}
	found := o
	found.Members, found.Spares = members, spares
	if a, err = raid.Open(found); err != nil {
		return s.makeAgain(o, note, err)
	}
	s.adopt(a, o.Members, o.Spares)
	return a, false, nil
}

// makeAgain makes the array if all that there is of one is what a first start
// left that was interrupted: Create refuses anything else.
func (s *Server) makeAgain(o raid.Options, note *ArrayNote, err error) (*raid.Array, bool, error) {
	if note != nil {
		return nil, false, err
	}
	a, cerr := raid.Create(o)
	if cerr != nil {
		return nil, false, err
	}
	return a, true, nil
}

// adopt compares the array with the directives: a new spare is taken in, a
// directory that is no member is named, since replacing one is a decision.
func (s *Server) adopt(a *raid.Array, members, spares []raid.Dir) {
	st := a.Status()
	known := append(append([]raid.MemberStatus{}, st.Members...), st.Spares...)
	has := func(d raid.Dir) bool {
		return slices.ContainsFunc(known, func(m raid.MemberStatus) bool { return m.Path == d.Path })
	}
	for _, d := range members {
		if !has(d) {
			s.log.Warning("Array: %s stands in array-members but is no member; `holdfast raid replace` puts it in another one's place", d.Path)
		}
	}
	for _, d := range spares {
		if has(d) {
			continue
		}
		err := s.fs.MkdirAll(d.Path, 0o755)
		if err == nil {
			err = a.AddSpare(d)
		}
		if err != nil {
			s.log.Warning("Array: %s does not become a spare: %s", d.Path, err)
		}
	}
}

// arrayRefusal explains why the array cannot be used, and what to do.
func arrayRefusal(err error, members []string) error {
	hint := "`holdfast raid status " + members[0] + "` shows its members"
	var split *raid.SplitError
	var few *raid.TooFewError
	var corrupt *raid.CorruptError
	switch {
	case errors.Is(err, raid.ErrLocked):
		hint = "another process has it open"
	case errors.As(err, &split):
		hint = "decide which part counts, and start with the directories of that part only; " + hint
	case errors.As(err, &few):
		hint = "bring the missing disks back; " + hint
	case errors.As(err, &corrupt):
		hint = "`holdfast check " + members[0] + "` says more"
	}
	return fmt.Errorf("the disk array cannot be opened: %w; %s", err, hint)
}

func arrayWords(st *raid.Status) string {
	live := 0
	for i := range st.Members {
		if st.Members[i].State == "live" {
			live++
		}
	}
	return fmt.Sprintf("RAID-%d, chunks of %d bytes, %s, %d of %d members live", st.Level, st.Chunk, st.State, live, st.Width)
}

func statePaths(st *raid.Status) (paths []string) {
	for i := range st.Members {
		paths = append(paths, st.Members[i].Path)
	}
	return paths
}

// noteArray writes the marker if it is not what the array is like now.
func (s *Server) noteArray() error {
	st := s.array.a.Status()
	note := ArrayNote{ID: st.ID, Level: st.Level, Members: statePaths(&st)}
	for i := range st.Spares {
		note.Spares = append(note.Spares, st.Spares[i].Path)
	}
	text, err := json.MarshalIndent(note, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	path := s.fs.PathJoin(s.cfg.Dir, ArrayMarker)
	if old, err := s.readSmallFile(path); err == nil && string(old) == string(text) {
		return nil
	}
	f, err := s.fs.Create(path+".temp", vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("noting the array in %s: %w", path, err)
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = s.fs.Rename(path+".temp", path)
	}
	if err == nil {
		err = syncDir(s.fs, s.cfg.Dir)
	}
	if err != nil {
		return fmt.Errorf("noting the array in %s: %w", path, err)
	}
	return nil
}

// ReadArrayNote reads the marker in a server's data directory; nil without one.
func ReadArrayNote(fsys vfs.FS, dir string) (*ArrayNote, error) {
	path := fsys.PathJoin(dir, ArrayMarker)
	f, err := fsys.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	note := new(ArrayNote)
	if err := json.NewDecoder(f).Decode(note); err != nil {
		return nil, fmt.Errorf("%s, which says on which array the data is, cannot be read: %w", path, err)
	}
	return note, nil
}

// arrayEvent logs what happened to the array and keeps it for STATUS. It is
// called from anywhere, with or without the engine's lock.
func (s *Server) arrayEvent(e raid.Event) {
	st := &s.array
	st.mu.Lock()
	if len(st.events) >= eventsKept {
		st.events = append(st.events[:0], st.events[1:]...)
	}
	st.events = append(st.events, e)
	st.mu.Unlock()
	if e.Kind == raid.EventSpare || e.Kind == raid.EventReplaced {
		st.changed.Store(true)
	}
	line := "Array event " + e.Kind
	if e.Member >= 0 {
		line += fmt.Sprintf(" member=%d", e.Member)
	}
	if e.Path != "" {
		line += fmt.Sprintf(" path=%q", e.Path)
	}
	if e.File != "" {
		line += fmt.Sprintf(" file=%q", e.File)
	}
	if e.Text != "" {
		line += ": " + e.Text
	}
	switch e.Kind {
	case "scrub-done", "rebuild-begin", "rebuild-done", "replaced", "spare", "room":
		s.log.Notice("%s", line)
	default:
		s.log.Warning("%s", line)
	}
}

// arrayCron follows changes of membership that nobody asked for: a spare that
// stepped in has to be in the configuration. The engine's lock is held.
func (s *Server) arrayCron() {
	if s.array.a == nil || !s.array.changed.Swap(false) {
		return
	}
	st := s.array.a.Status()
	s.followArray(&st)
}

// followArray brings the directives up to what the array consists of, for
// CONFIG REWRITE, and the marker in dir. The engine's lock is held.
func (s *Server) followArray(st *raid.Status) {
	members, spares := statePaths(st), []string(nil)
	for i := range st.Spares {
		spares = append(spares, st.Spares[i].Path)
	}
	if sameSet(members, s.absolute(s.cfg.ArrayMembers)) && sameSet(spares, s.absolute(s.cfg.ArraySpares)) {
		return
	}
	s.cfg.ArrayMembers, s.cfg.ArraySpares = members, spares
	if err := s.noteArray(); err != nil {
		s.log.Warning("%s", err) // the superblocks know; this is for people
	}
	s.log.Notice("Array: array-members is now %s; CONFIG REWRITE puts it into the configuration file", strings.Join(members, " "))
}

// sameSet reports whether a and b hold the same paths, in whatever order.
func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// plainJournal is where the journal of a server without an array is.
func (s *Server) plainJournal() string { return s.fs.PathJoin(s.cfg.Dir, journalDir) }

func (s *Server) hasPlainJournal() bool {
	st, err := s.fs.Stat(s.plainJournal())
	return err == nil && st.IsDir()
}

// importPlainJournal loads what a journal in dir holds: data that was there
// before the server got an array. Nothing of it is changed.
func (s *Server) importPlainJournal() (imported bool, err error) {
	if !s.hasPlainJournal() {
		return false, nil
	}
	dir := s.plainJournal()
	j, rec, err := journal.Open(journal.Options{FS: s.fs, Dir: dir, Logf: s.log.Warning})
	if err != nil {
		return false, fmt.Errorf("the journal in %s, which is to be taken over onto the disk array, cannot be opened: %w", dir, err)
	}
	if !rec.Fresh {
		s.log.Notice("Taking the journal in %s over onto the disk array", dir)
		err = s.replay(source{j, s.fs, dir}, rec)
	}
	return !rec.Fresh, errors.Join(err, j.Close())
}

// setPlainJournalAside renames the journal that was taken over, so that nobody
// takes it for the data.
func (s *Server) setPlainJournalAside() error {
	from, to := s.plainJournal(), s.plainJournal()+".imported-"+time.Now().UTC().Format("20060102-150405")
	if err := s.fs.Rename(from, to); err != nil {
		return fmt.Errorf("setting the journal aside that was taken over: %w", err)
	}
	s.log.Notice("The data is on the disk array now; the old journal is in %s", to)
	return syncDir(s.fs, s.cfg.Dir)
}

// closeArray ends the jobs and closes the array, after the journal.
func (s *Server) closeArray() error {
	if s.array.a == nil {
		return nil
	}
	s.array.cancel()
	s.array.jobs.Wait()
	return s.array.a.Close()
}

// infoArray is the section of INFO about the array.
func (s *Server) infoArray(w *infoText) {
	if s.array.a == nil {
		w.ints("array_enabled", 0)
		return
	}
	st := s.array.a.Status()
	live, sum := 0, raid.MemberStatus{}
	for i := range st.Members {
		m := &st.Members[i]
		if m.State == "live" {
			live++
		}
		sum.ReadErrors += m.ReadErrors
		sum.WriteErrors += m.WriteErrors
		sum.ChecksumErrors += m.ChecksumErrors
		sum.Healed += m.Healed
	}
	w.ints("array_enabled", 1, "array_level", st.Level)
	w.f("array_state:%s", st.State)
	w.f("array_reason:%s", strings.Map(oneLine, st.Reason))
	w.f("array_id:%s", st.ID)
	w.ints("array_members", st.Width, "array_members_live", live, "array_spares", len(st.Spares), "array_chunk", st.Chunk, "array_event_count", st.Count,
		"array_files", st.Files, "array_bytes", st.Bytes, "array_stripes", st.Stripes, "array_stripes_at_risk", st.AtRisk,
		"array_read_errors", sum.ReadErrors, "array_write_errors", sum.WriteErrors, "array_checksum_errors", sum.ChecksumErrors, "array_healed", sum.Healed)
	w.progress("array_scrub", st.Scrub)
	w.ints("array_last_scrub_time", unixOrZero(st.LastScrub))
	w.progress("array_rebuild", st.Rebuild)
	for i := range st.Members {
		w.member("array_member"+fmt.Sprint(st.Members[i].Slot), &st.Members[i])
	}
	for i := range st.Spares {
		w.member("array_spare"+fmt.Sprint(i), &st.Spares[i])
	}
}

func oneLine(r rune) rune {
	if r == '\r' || r == '\n' {
		return ' '
	}
	return r
}

func unixOrZero(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func (w *infoText) progress(name string, p *raid.Progress) {
	if p == nil {
		w.ints(name+"_in_progress", 0)
		return
	}
	w.ints(name+"_in_progress", 1, name+"_done_bytes", p.Done, name+"_total_bytes", p.Total)
}

// member writes a member's line. The path is last: it may hold any character
// but the end of the line.
func (w *infoText) member(name string, m *raid.MemberStatus) {
	w.f("%s:state=%s,read_errors=%d,write_errors=%d,checksum_errors=%d,healed=%d,at_risk=%d,last_scrub=%d,path=%s", name,
		m.State, m.ReadErrors, m.WriteErrors, m.ChecksumErrors, m.Healed, m.AtRisk, unixOrZero(m.LastScrub), strings.Map(oneLine, m.Path))
}
