package vfstest

import (
	"errors"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// silent.go holds the faults that no error tells of: dropped and misdirected
// writes, and stale reads.

// before reads what a file holds at [off, off+n); what lies beyond its end is zeros.
func contentAt(fsys vfs.FS, name string, off int64, n int) ([]byte, error) {
	old := make([]byte, n)
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	if _, err := f.ReadAt(old, off); err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(err, f.Close())
	}
	return old, f.Close()
}

// drop writes what is there already, which is what a lost write leaves.
func (f *faultFile) drop(do func([]byte) (int, error), off int64, n int) (int, error) {
	old, err := contentAt(f.in.FS, f.name, off, n)
	if err != nil {
		return 0, err
	}
	return do(old)
}

// misdirect drops the write and lets its bytes land elsewhere.
func (f *faultFile) misdirect(do func([]byte) (int, error), op Op, b []byte) (int, error) {
	name, at := op.Name, op.Off-PageSize
	if at < 0 {
		at = op.Off + PageSize
	}
	if f.in.Misdirect != nil {
		name, at = f.in.Misdirect(op)
	}
	n, err := f.drop(do, op.Off, len(b))
	if err != nil {
		return n, err
	}
	w, err := f.in.FS.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return n, err
	}
	_, err = w.WriteAt(append([]byte(nil), b...), at)
	return n, errors.Join(err, w.Close())
}

// note keeps what a write is about to replace, while stale reads are armed.
func (f *faultFile) note(off int64, n int) error {
	f.in.mu.Lock()
	wanted := f.in.undo != nil
	f.in.mu.Unlock()
	if !wanted {
		return nil
	}
	old, err := contentAt(f.in.FS, f.name, off, n)
	if err != nil {
		return err
	}
	f.in.mu.Lock()
	defer f.in.mu.Unlock()
	if f.in.undo != nil {
		f.in.undo[f.name] = append(f.in.undo[f.name], write{off, old})
	}
	return nil
}

// makeStale puts into b, read from off, what the last write there replaced.
func (in *Injector) makeStale(name string, b []byte, off int64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	list := in.undo[name]
	for i := len(list) - 1; i >= 0; i-- {
		w := list[i]
		from, to := max(off, w.off), min(off+int64(len(b)), w.off+int64(len(w.data)))
		if from < to {
			copy(b[from-off:to-off], w.data[from-w.off:to-w.off])
			return
		}
	}
}

// forget drops what is known of a name that means a new file now.
func (in *Injector) forget(name string, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if err == nil && in.undo != nil {
		delete(in.undo, name)
	}
}

// moved follows a rename.
func (in *Injector) moved(oldname, newname string, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if err == nil && in.undo != nil {
		in.undo[newname] = in.undo[oldname]
		delete(in.undo, oldname)
	}
}

// Under matches the operations on dir and what lies in it, for Injector.Match.
func Under(dir string) func(Op) bool {
	return func(op Op) bool { return within(dir, op.Name) || within(dir, op.To) }
}

func within(dir, name string) bool {
	return name == dir || len(name) > len(dir) && name[:len(dir)] == dir && name[len(dir)] == '/'
}
