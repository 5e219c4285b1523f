package ops

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Leftover is a file that nothing names: an earlier run has left it, and the
// next start of the server would remove it.
type Leftover struct {
	Path    string `json:"path"`
	Why     string `json:"why"`
	MovedTo string `json:"moved_to,omitempty"`
}

// lostAndFound is the directory that leftovers are moved to.
const lostAndFound = "lost+found"

// findLeftovers lists what is left over in a data directory and its journal's.
// In a journal that is corrupt nothing is: any file may be needed to mend it.
func (r *CheckReport) findLeftovers(fs vfs.FS, dir, jdir string) error {
	if r.Verdict == "corrupt" {
		return nil
	}
	names, err := fs.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if why := leftInData(name); why != "" {
			r.Leftovers = append(r.Leftovers, Leftover{Path: fs.PathJoin(dir, name), Why: why})
		}
	}
	if jdir == dir {
		return nil
	}
	if names, err = fs.List(jdir); err != nil {
		return err
	}
	for _, name := range names {
		if why := r.leftInJournal(name); why != "" {
			r.Leftovers = append(r.Leftovers, Leftover{Path: fs.PathJoin(jdir, name), Why: why})
		}
	}
	return nil
}

// leftInData says why a file of the data directory is left over, "" if it is not.
func leftInData(name string) string {
	if strings.HasPrefix(name, "temp-sync-") && strings.HasSuffix(name, ".rdb") {
		return "a transfer to a replica that was not finished"
	}
	middle, ok := strings.CutPrefix(name, "temp-")
	if !ok {
		return ""
	}
	if middle, ok = strings.CutSuffix(middle, ".rdb"); !ok {
		return ""
	}
	if i := strings.LastIndexByte(middle, '.'); i >= 0 {
		middle = middle[i+1:]
	}
	pid, err := strconv.Atoi(middle)
	if err != nil || pid <= 0 || Alive(pid) {
		return ""
	}
	return "a snapshot that was not finished"
}

// leftInJournal says why a file of the journal's directory is left over.
func (r *CheckReport) leftInJournal(name string) string {
	switch {
	case strings.HasPrefix(name, "temp-"):
		return "a checkpoint that was not finished"
	case strings.HasPrefix(name, "journal.") && strings.HasSuffix(name, ".tmp"):
		return "a manifest that was not finished"
	case strings.HasPrefix(name, "checkpoint-") && strings.HasSuffix(name, ".rdb"):
		if r.Journal.Recovery.Generation > 0 && name != r.Journal.Recovery.Checkpoint {
			return "a checkpoint that the journal does not name"
		}
	case strings.HasPrefix(name, "journal-") && strings.HasSuffix(name, ".seg"):
		if r.Journal.Recovery.Generation == 0 {
			return ""
		}
		for _, s := range r.Journal.Segments {
			if s.Name == name {
				if s.State == "left over" {
					return "a segment that the journal does not name"
				}
				return ""
			}
		}
		return "a segment of another generation"
	}
	return ""
}

// errInUse says that a repair would be behind a running server's back.
var errInUse = errors.New("a running server uses the directory: stop it before a repair")

// moveLeftovers prints the plan and moves what is left over to lost+found.
func (r *CheckReport) moveLeftovers(fs vfs.FS, dir, jdir string, w io.Writer) (moved int, err error) {
	if len(r.Leftovers) == 0 {
		return 0, nil
	}
	if jdir != dir {
		lock, err := fs.Lock(fs.PathJoin(jdir, "journal.lock"))
		switch {
		case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EACCES):
			return 0, errInUse
		case err != nil:
			return 0, err
		}
		defer lock.Close()
	}
	to := fs.PathJoin(dir, lostAndFound)
	fmt.Fprintf(w, "plan: move %d files to %s\n", len(r.Leftovers), to)
	if err := fs.MkdirAll(to, 0o755); err != nil {
		return 0, err
	}
	for i := range r.Leftovers {
		l := &r.Leftovers[i]
		target, err := freeName(fs, fs.PathJoin(to, fs.PathBase(l.Path)))
		if err != nil {
			return moved, err
		}
		if err := fs.Rename(l.Path, target); err != nil {
			return moved, err
		}
		l.MovedTo = target
		moved++
		fmt.Fprintf(w, "moved: %s to %s\n", l.Path, target)
	}
	for _, d := range []string{to, dir, jdir} {
		if err := syncDirectory(fs, d); err != nil {
			return moved, err
		}
	}
	return moved, nil
}

// freeName returns path, or path with a number that makes it a new name.
func freeName(fs vfs.FS, path string) (string, error) {
	for n, name := 1, path; ; n++ {
		_, err := fs.Stat(name)
		if errors.Is(err, os.ErrNotExist) {
			return name, nil
		}
		if err != nil {
			return "", err
		}
		name = path + "." + strconv.Itoa(n)
	}
}

func syncDirectory(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
