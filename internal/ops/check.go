package ops

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/journal"
	"holdfast/internal/redis/rdb"
)

// CheckReport is what `check` found in a server's data directory.
type CheckReport struct {
	Dir       string          `json:"dir"`
	Journal   *journal.Report `json:"journal,omitempty"`
	Snapshots []SnapshotCheck `json:"snapshots,omitempty"`
	Verdict   string          `json:"verdict"` // clean, torn, corrupt, empty
}

// SnapshotCheck is one RDB file.
type SnapshotCheck struct {
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
	Keys  uint64 `json:"keys"`
	Error string `json:"error,omitempty"`
}

// CheckDir reads everything in a server's data directory, or in a journal's,
// and changes nothing. It writes a text report to w, if that is not nil.
func CheckDir(fs vfs.FS, dir string, w io.Writer) (*CheckReport, error) {
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
	rep, err := journal.Check(fs, jdir, w)
	if err != nil {
		return nil, err
	}
	r.Journal = &rep
	if name := rep.Recovery.Checkpoint; name != "" {
		r.snapshot(fs, fs.PathJoin(jdir, name), w)
	}
	if path := fs.PathJoin(dir, "dump.rdb"); isFile(fs, path) {
		r.snapshot(fs, path, w)
	}
	r.decide(rep.Verdict)
	if w != nil {
		_, err = fmt.Fprintf(w, "%s: %s\n", dir, r.Verdict)
	}
	return r, err
}

func (r *CheckReport) decide(v journal.Verdict) {
	switch v {
	case journal.VerdictCorrupt:
		r.Verdict = "corrupt"
	case journal.VerdictTorn:
		r.Verdict = "torn"
	case journal.VerdictWhole:
		r.Verdict = "clean"
	default:
		if len(r.Snapshots) > 0 {
			r.Verdict = "clean"
		}
	}
	for _, s := range r.Snapshots {
		if s.Error != "" {
			r.Verdict = "corrupt"
		}
	}
}

// ExitCode: 0 clean (a torn tail is: it was never acknowledged and the next
// start cuts it), 2 a human must decide.
func (r *CheckReport) ExitCode() int {
	if r.Verdict == "corrupt" {
		return 2
	}
	return 0
}

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
