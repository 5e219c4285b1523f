package vfstest

import (
	"errors"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Build returns a file system in memory with these directories and files. The
// contents are copied.
func Build(dirs []string, files map[string][]byte) (*vfs.MemFS, error) {
	m := vfs.NewMem()
	for _, dir := range dirs {
		if err := m.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	for name, b := range files {
		f, err := m.Create(name, vfs.WriteCategoryUnspecified)
		if err != nil {
			return nil, err
		}
		if _, err := f.Write(slices.Clone(b)); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Collect reads everything below root: its directories, root among them, and its
// files. It is the opposite of Build.
func Collect(fsys vfs.FS, root string) (dirs []string, files map[string][]byte, err error) {
	files = map[string][]byte{}
	var walk func(name string) error
	walk = func(name string) error {
		st, err := fsys.Stat(name)
		if err != nil {
			return err
		}
		if !st.IsDir() {
			f, err := fsys.Open(name)
			if err != nil {
				return err
			}
			b, err := io.ReadAll(f)
			files[name] = b
			return errors.Join(err, f.Close())
		}
		dirs = append(dirs, name)
		list, err := fsys.List(name)
		if err != nil {
			return err
		}
		slices.Sort(list)
		for _, e := range list {
			if err := walk(fsys.PathJoin(name, e)); err != nil {
				return err
			}
		}
		return nil
	}
	err = walk(root)
	return dirs, files, err
}

// Dirs returns the directories of the state, each after its parents.
func (st State) Dirs() []string { return slices.Clone(st.snap.dirs) }

// Durable returns the state in which nothing that is not durable persisted.
func (s *Snapshot) Durable() State { return State{s, make([]int, len(s.units))} }

// Whole returns the state in which everything persisted: what a process that
// was killed leaves to the next one.
func (s *Snapshot) Whole() State {
	choice := make([]int, len(s.units))
	for i := range choice {
		choice[i] = 1
	}
	return State{s, choice}
}
