package raid

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// model is what an array has promised, kept beside it by the test.
type model struct {
	// hist are the names after each name operation; a power cut may leave those
	// after any operation from durable on. A directory means file 0.
	hist    []map[string]int
	durable int
	// maybe are the names that there may be after the operations that failed since.
	maybe []map[string]int
	files map[int]*mfile
}

// mfile is one file, apart from its names.
// Invariant: acked <= len(data).
type mfile struct {
	id     int
	data   []byte   // all that was written
	tried  [][]byte // what it would be after each write that failed: they may be there
	acked  int      // Sync said so
	bulk   bool     // what does not fill a stripe may stay in memory
	closed bool     // Close said that it is handed over
}

// allows says whether the file may hold b, as to its bytes.
func (f *mfile) allows(b []byte) bool {
	ok := func(data []byte) bool { return bytes.HasPrefix(data, b) }
	return ok(f.data) || len(b) >= f.acked && bytes.Equal(b[:f.acked], f.data[:f.acked]) && slices.ContainsFunc(f.tried, ok)
}

func newModel() *model {
	return &model{hist: []map[string]int{{}}, files: map[int]*mfile{}}
}

func (m *model) clone() *model {
	c := &model{durable: m.durable, files: map[int]*mfile{}, maybe: slices.Clone(m.maybe)}
	c.hist = slices.Clone(m.hist) // maps in it are never modified
	for id, f := range m.files {
		k := *f
		k.data = f.data[:len(f.data):len(f.data)] // only ever appended to
		c.files[id] = &k
	}
	return c
}

// names returns the current names, not to be modified.
func (m *model) names() map[string]int { return m.hist[len(m.hist)-1] }

// change notes a name operation that was done.
func (m *model) change(fn func(names map[string]int)) {
	n := maps.Clone(m.names())
	fn(n)
	m.hist = append(m.hist, n)
	m.maybe = nil
}

// doubt notes a name operation that failed: it may be done or not.
func (m *model) doubt(fn func(names map[string]int)) {
	if len(m.maybe) > 64 {
		return // an array that has failed answers everything so
	}
	for _, names := range append([]map[string]int{m.names()}, m.maybe...) {
		n := maps.Clone(names)
		fn(n)
		m.maybe = append(m.maybe, n)
	}
}

// key is different whenever the promise is.
func (m *model) key() string {
	var b strings.Builder
	fmt.Fprint(&b, m.durable, len(m.hist), len(m.maybe))
	for _, id := range slices.Sorted(maps.Keys(m.files)) {
		fmt.Fprint(&b, " ", id, ":", m.files[id].acked, "/", len(m.files[id].data))
	}
	return b.String()
}

// found is what a file system holds below "d".
type found struct {
	files map[string][]byte
	dirs  map[string]bool
	// bad are the files that cannot be read, with an error that says so.
	bad map[string]*DataError
}

// readFile reads a whole file through the file system.
func readFile(fsys vfs.FS, name string) (b []byte, err error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b = make([]byte, st.Size())
	n, err := f.ReadAt(b, 0)
	if err == io.EOF && n == len(b) {
		err = nil
	}
	if err == nil && n != len(b) {
		err = fmt.Errorf("%s: read %d of %d bytes without an error", name, n, len(b))
	}
	return b[:n], err
}

// look reads everything below "d"; nothing may be unreadable.
func look(fsys vfs.FS) (found, error) {
	fd, err := lookBeyond(fsys)
	for _, name := range slices.Sorted(maps.Keys(fd.bad)) {
		err = errors.Join(err, fmt.Errorf("read %s: %w", name, fd.bad[name]))
	}
	return fd, err
}

// lookBeyond reads everything below "d"; files may refuse, with their name and a
// range.
func lookBeyond(fsys vfs.FS) (found, error) {
	fd := found{files: map[string][]byte{}, dirs: map[string]bool{}, bad: map[string]*DataError{}}
	var walk func(dir string) error
	walk = func(dir string) error {
		list, err := fsys.List(dir)
		if err != nil {
			return fmt.Errorf("list %s: %w", dir, err)
		}
		fd.dirs[dir] = true
		slices.Sort(list)
		for _, e := range list {
			name := fsys.PathJoin(dir, e)
			st, err := fsys.Stat(name)
			if err != nil {
				return fmt.Errorf("stat %s: %w", name, err)
			}
			if st.IsDir() {
				if err := walk(name); err != nil {
					return err
				}
				continue
			}
			fd.files[name], err = readFile(fsys, name)
			if de := (*DataError)(nil); errors.As(err, &de) {
				if de.File == "" || de.Off < 0 || de.Len <= 0 || de.Off+de.Len > st.Size() {
					return fmt.Errorf("read %s (%d bytes): the error does not say what is lost: %w", name, st.Size(), err)
				}
				fd.bad[name] = de
			} else if err != nil {
				return fmt.Errorf("read %s: %w", name, err)
			}
		}
		return nil
	}
	if _, err := fsys.Stat("d"); errors.Is(err, os.ErrNotExist) {
		return fd, nil
	}
	return fd, walk("d")
}

// matches says why the names and contents differ from those after an operation.
func (m *model) matches(names map[string]int, fd found) error {
	for name, id := range names {
		b, isFile := fd.files[name]
		switch {
		case id == 0 && !fd.dirs[name]:
			return fmt.Errorf("directory %s is missing", name)
		case id == 0:
			continue
		case !isFile:
			return fmt.Errorf("%s is missing", name)
		}
		f := m.files[id]
		if fd.bad[name] != nil {
			if len(b) > 0 && !f.allows(b) {
				return fmt.Errorf("%s (file %d): wrong bytes before the range that was refused", name, id)
			}
			continue
		}
		if len(b) < f.acked {
			return fmt.Errorf("%s (file %d) has %d bytes, %d were acknowledged", name, id, len(b), f.acked)
		}
		if !f.allows(b) {
			at := 0
			for at < min(len(b), len(f.data)) && b[at] == f.data[at] {
				at++
			}
			return fmt.Errorf("%s (file %d) holds %d bytes, of which byte %d was never written so (%d written, %d acknowledged)", name, id, len(b), at, len(f.data), f.acked)
		}
	}
	for name := range fd.files {
		if id, ok := names[name]; !ok || id == 0 {
			return fmt.Errorf("%s (%d bytes) should not be there", name, len(fd.files[name]))
		}
	}
	for name := range fd.dirs {
		if id, ok := names[name]; !ok || id != 0 {
			return fmt.Errorf("directory %s should not be there", name)
		}
	}
	return nil
}

// verify finds the operation after which a power cut struck: everything that was
// acknowledged is there, and nothing that was not written.
func (m *model) verify(fd found) (map[string]int, error) {
	for _, names := range m.maybe {
		if m.matches(names, fd) == nil {
			return names, nil
		}
	}
	var last error
	for k := len(m.hist) - 1; k >= m.durable; k-- {
		err := m.matches(m.hist[k], fd)
		if err == nil {
			return m.hist[k], nil
		}
		if last == nil {
			last = fmt.Errorf("after operation %d: %w", k, err)
		} else if k == m.durable {
			last = fmt.Errorf("%w; after operation %d, the last durable one: %w", last, k, err)
		}
	}
	return nil, last
}

// exact is the promise to the killed process: everything that was handed over is there.
func (m *model) exact(fd found) error {
	if err := m.matches(m.names(), fd); err != nil {
		return err
	}
	for name, id := range m.names() {
		if f := m.files[id]; id != 0 && (!f.bulk || f.closed) && len(fd.files[name]) < len(f.data) {
			return fmt.Errorf("%s has %d bytes, %d were handed over", name, len(fd.files[name]), len(f.data))
		}
	}
	return nil
}

// adopt makes what was found the whole truth: it was served, so it stays.
func (m *model) adopt(names map[string]int, fd found) {
	files := map[int]*mfile{}
	for name, id := range names {
		if id == 0 {
			continue
		}
		f := *m.files[id]
		n := len(fd.files[name])
		f.data, f.tried, f.acked = slices.Clone(fd.files[name]), nil, n
		files[id] = &f
	}
	m.hist, m.durable, m.maybe, m.files = []map[string]int{names}, 0, nil, files
}

// payload is the next n bytes of a file. They depend on file and offset, and on
// the era, so that what a cut took away is told from what was written later.
func payload(id, off, n int, era uint32) []byte {
	b := make([]byte, n)
	for i := range b {
		x := uint32(off+i)*2654435761 ^ uint32(id)*40503 ^ era*2246822519
		x ^= x >> 15
		x *= 2246822519
		b[i] = byte(x >> 24)
	}
	return b
}
