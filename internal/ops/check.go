package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/journal"
	"holdfast/internal/raid"
	"holdfast/internal/redis/rdb"
	"holdfast/internal/redis/server"
)

// CheckFilesOptions say what `check` reads and whether it mends.
type CheckFilesOptions struct {
	Paths     []string  // a data directory, or member directories of an array
	Repair    bool      // print a plan, then mend
	ArrayOnly bool      // not what the files of the array hold
	Out       io.Writer // the report as text; nil: none
	Progress  *Progress
	Context   context.Context // ends a check that is under way; nil: nothing does
}

// CheckReport is what `check` found.
type CheckReport struct {
	Dir       string            `json:"dir"`
	Array     *raid.CheckReport `json:"array,omitempty"`
	Journal   *journal.Report   `json:"journal,omitempty"`
	Snapshots []SnapshotCheck   `json:"snapshots,omitempty"`
	Leftovers []Leftover        `json:"leftovers,omitempty"`
	Decide    []string          `json:"decide,omitempty"` // what a human has to decide
	Verdict   string            `json:"verdict"`          // clean, torn, repaired, empty, corrupt, needs a decision, unreadable
	Exit      int               `json:"exit_code"`        // 0 clean, 1 repaired, 2 a human must decide, 4 unreadable
}

// SnapshotCheck is one RDB file.
type SnapshotCheck struct {
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
	Keys  uint64 `json:"keys"`
	Error string `json:"error,omitempty"`
}

// CheckFiles reads everything in a server's data directory, in a journal's, or on a
// disk array. Without Repair it changes nothing.
func CheckFiles(o CheckFilesOptions) (*CheckReport, error) {
	if o.Out == nil {
		o.Out = io.Discard
	}
	if is, err := isArray(o.Paths); err != nil {
		return nil, err
	} else if is || o.ArrayOnly {
		return o.checkArray()
	}
	if len(o.Paths) != 1 {
		return nil, fmt.Errorf("none of %v is a member of a disk array; name one data directory", o.Paths)
	}
	return o.checkDir(vfs.Default, o.Paths[0])
}

// isArray reports whether the paths are about a disk array.
func isArray(paths []string) (bool, error) {
	for _, p := range paths {
		if _, err := os.Stat(p); err != nil {
			continue // that of the others counts, or the next to look at it says so
		}
		if is, err := raid.Exists(raid.Dir{FS: vfs.Default, Path: p}); is || err != nil {
			return is, err
		}
	}
	if len(paths) == 1 {
		note, err := server.ReadArrayNote(vfs.Default, paths[0])
		return note != nil, err
	}
	return false, nil
}

// checkDir checks a directory that is not on an array.
func (o CheckFilesOptions) checkDir(fs vfs.FS, dir string) (*CheckReport, error) {
	if st, err := fs.Stat(dir); err != nil {
		return nil, err
	} else if !st.IsDir() {
		return nil, fmt.Errorf("%s is no directory", dir)
	}
	r := &CheckReport{Dir: dir, Verdict: "empty"}
	jdir := fs.PathJoin(dir, "journal")
	if _, err := fs.Stat(jdir); errors.Is(err, os.ErrNotExist) {
		jdir = dir
	} else if err != nil {
		return nil, err
	}
	if err := r.readJournal(fs, jdir, o.Out); err != nil {
		return nil, err
	}
	if path := fs.PathJoin(dir, "dump.rdb"); isFile(fs, path) {
		r.snapshot(fs, path, o.Out)
	}
	r.decide()
	if err := r.findLeftovers(fs, dir, jdir); err != nil {
		return nil, err
	}
	return r, o.finish(r, func() (int, error) { return r.moveLeftovers(fs, dir, jdir, o.Out) })
}

// readJournal checks the journal in dir of fs, and its checkpoint.
func (r *CheckReport) readJournal(fs vfs.FS, dir string, w io.Writer) error {
	rep, err := journal.Check(fs, dir, w)
	if err != nil {
		return err
	}
	r.Journal = &rep
	if name := rep.Recovery.Checkpoint; name != "" && isFile(fs, fs.PathJoin(dir, name)) {
		r.snapshot(fs, fs.PathJoin(dir, name), w)
	}
	return nil
}

// finish prints what is left over, mends if that was asked for, and gives the
// verdict. mend returns how many things it has mended.
func (o CheckFilesOptions) finish(r *CheckReport, mend func() (int, error)) error {
	for _, l := range r.Leftovers {
		fmt.Fprintf(o.Out, "left over: %s, %s\n", l.Path, l.Why)
	}
	if o.Repair && mend != nil {
		n, err := mend()
		if err != nil {
			return err
		}
		if n > 0 && r.Verdict != "corrupt" {
			r.Verdict = "repaired"
		}
	}
	switch r.Verdict {
	case "corrupt":
		r.Exit = max(r.Exit, 2)
	case "repaired":
		r.Exit = max(r.Exit, 1)
	}
	for _, d := range r.Decide {
		fmt.Fprintf(o.Out, "decide: %s\n", d)
	}
	_, err := fmt.Fprintf(o.Out, "%s: %s\n", r.Dir, r.Verdict)
	return err
}

// decide derives the verdict from what was read, and what somebody has to do.
func (r *CheckReport) decide() {
	if r.Journal != nil {
		switch r.Journal.Verdict {
		case journal.VerdictCorrupt:
			r.Verdict = "corrupt"
			for _, p := range r.Journal.Problems {
				r.Decide = append(r.Decide, fmt.Sprintf("%s is damaged at offset %d (%s): restore it from a backup, or move %s away and let the server "+
					"take a full copy from another member", p.File, p.Offset, p.Reason, r.Dir))
			}
		case journal.VerdictTorn:
			r.Verdict = "torn"
		case journal.VerdictWhole:
			r.Verdict = "clean"
		}
	}
	if r.Verdict == "empty" && len(r.Snapshots) > 0 {
		r.Verdict = "clean"
	}
	for _, s := range r.Snapshots {
		if s.Error != "" {
			r.Verdict = "corrupt"
			r.Decide = append(r.Decide, fmt.Sprintf("%s cannot be loaded (%s): restore it from a backup", s.File, s.Error))
		}
	}
}

// ExitCode: 0 clean (a torn tail is: it was never acknowledged and the next
// start cuts it), 1 repaired, 2 a human must decide, 4 unreadable.
func (r *CheckReport) ExitCode() int { return r.Exit }

func (r *CheckReport) snapshot(fs vfs.FS, path string, w io.Writer) {
	c := SnapshotCheck{File: path}
	res, err := checkRDB(fs, path)
	c.Bytes, c.Keys = res.Bytes, res.Keys
	word := "whole"
	if err != nil {
		c.Error, word = err.Error(), "corrupt: "+err.Error()
	}
	r.Snapshots = append(r.Snapshots, c)
	if w != nil {
		fmt.Fprintf(w, "snapshot %s: %s, %d keys, %d bytes\n", fs.PathBase(path), word, c.Keys, c.Bytes)
	}
}

func checkRDB(fs vfs.FS, path string) (rdb.Result, error) {
	f, err := fs.Open(path, vfs.SequentialReadsOption)
	if err != nil {
		return rdb.Result{}, err
	}
	defer f.Close()
	return rdb.Load(f, nothing{}, rdb.Options{Sanitize: true})
}

func isFile(fs vfs.FS, path string) bool {
	st, err := fs.Stat(path)
	return err == nil && !st.IsDir()
}

// WriteJSON prints the report for scripts.
func (r *CheckReport) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// nothing is an rdb.Visitor that only lets the decoder verify.
type nothing struct{}

func (nothing) Aux(_, _ []byte) error                  { return nil }
func (nothing) SelectDB(int) error                     { return nil }
func (nothing) ResizeDB(_, _ uint64) error             { return nil }
func (nothing) Function([]byte) error                  { return nil }
func (nothing) BeginKey([]byte, rdb.Meta) error        { return nil }
func (nothing) String([]byte) error                    { return nil }
func (nothing) Blob(rdb.Kind, []byte) error            { return nil }
func (nothing) BeginCollection(rdb.Kind, uint64) error { return nil }
func (nothing) ListNode([]byte) error                  { return nil }
func (nothing) Element([]byte) error                   { return nil }
func (nothing) Pair(_, _ []byte) error                 { return nil }
func (nothing) ScorePair([]byte, float64) error        { return nil }
func (nothing) Opaque(rdb.Type, []byte) error          { return nil }
func (nothing) EndKey() error                          { return nil }
