package raid

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/raid/format"
)

// The names. Every operation is one record of the metadata journal: atomic, in
// order, handed over at the call and durable at the Sync of a directory, or at any
// later Sync that seals. Paths are slash separated; "x", "/x" and "./x" are the same.

// nameOpLocked checks and carries out one change of names. mu is held.
func (a *Array) nameOpLocked(r format.Record) error {
	switch {
	case a.closed:
		return ErrClosed
	case a.opts.ReadOnly:
		return ErrReadOnly
	case a.failed != nil:
		return a.failed
	}
	if err := a.st.check(r); err != nil {
		return err
	}
	frees := false
	switch r.(type) {
	case format.Remove, format.RemoveAll:
		frees = true
	}
	if a.full && !frees {
		// What waits in memory comes first; if there is still no room, nothing is
		// added to it.
		if err := a.writeMetaLocked(); err != nil {
			return err
		}
	}
	before := len(a.doomed)
	if err := a.appendLocked(r); err != nil {
		return err
	}
	if err := a.settleLocked(); err != nil && !noRoom(err) {
		return err
	}
	if a.freeNow(before) {
		if err := a.syncMetaLocked(a.meta.seq); err != nil && !noRoom(err) {
			return err
		}
	}
	return a.tidyLocked()
}

// freeAtOnce is how many bytes of removed files may wait for the next sync of the
// metadata before they make one.
const freeAtOnce = 64 << 20

// freeNow reports whether removed files must give back their room now.
func (a *Array) freeNow(before int) bool {
	if len(a.doomed) == before {
		return false
	}
	sum := int64(0)
	for _, d := range a.doomed {
		if d.ino.refs == 0 {
			sum += d.ino.base
		}
	}
	return sum >= freeAtOnce || a.full && sum > 0
}

func (a *Array) nameOp(op, name string, r format.Record) error {
	a.mu.Lock()
	defer a.unlock()
	if err := a.nameOpLocked(r); err != nil {
		return pathError(op, name, err)
	}
	return nil
}

// Create implements vfs.FS. With the category Bulk, what does not fill a stripe stays
// in memory until Sync.
func (a *Array) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	a.mu.Lock()
	defer a.unlock()
	return a.createLocked(name, category)
}

func (a *Array) createLocked(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	p := clean(name)
	if err := a.nameOpLocked(format.Create{Path: p, File: a.st.next, Time: a.opts.Now().UnixNano()}); err != nil {
		return nil, pathError("create", name, err)
	}
	ino := a.st.names[p]
	if ino == nil {
		return nil, pathError("create", name, fs.ErrNotExist) // somebody removed it while a member failed
	}
	return a.openLocked(ino, name, true, category), nil
}

func (a *Array) openLocked(ino *inode, name string, write bool, category vfs.DiskWriteCategory) *file {
	ino.refs++
	if write {
		ino.writers++
	}
	return &file{a: a, ino: ino, name: name, write: write, bulk: category == Bulk}
}

// Open implements vfs.FS.
func (a *Array) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	a.mu.Lock()
	p := clean(name)
	ino := a.st.names[p]
	var f vfs.File
	var err error
	switch {
	case a.closed:
		err = ErrClosed
	case ino != nil:
		f = a.openLocked(ino, name, false, "")
	case a.st.dirs[p]:
		f = &dirFile{a: a, name: name, path: p}
	default:
		err = fs.ErrNotExist
	}
	a.unlock()
	if err != nil {
		return nil, pathError("open", name, err)
	}
	for _, o := range opts {
		o.Apply(f)
	}
	return f, nil
}

// OpenReadWrite implements vfs.FS. Write appends to a file that is there.
func (a *Array) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	a.mu.Lock()
	var f vfs.File
	var err error
	switch ino := a.st.names[clean(name)]; {
	case a.closed:
		err = pathError("open", name, ErrClosed)
	case ino == nil:
		f, err = a.createLocked(name, category)
	case a.opts.ReadOnly:
		err = pathError("open", name, ErrReadOnly)
	default:
		f = a.openLocked(ino, name, true, category)
	}
	a.unlock()
	if err != nil {
		return nil, err
	}
	for _, o := range opts {
		o.Apply(f)
	}
	return f, nil
}

// OpenDir implements vfs.FS.
func (a *Array) OpenDir(name string) (vfs.File, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := clean(name)
	switch {
	case a.closed:
		return nil, pathError("open", name, ErrClosed)
	case a.st.dirs[p]:
		return &dirFile{a: a, name: name, path: p}, nil
	case a.st.names[p] != nil:
		return nil, pathError("open", name, syscall.ENOTDIR)
	}
	return nil, pathError("open", name, fs.ErrNotExist)
}

// Link implements vfs.FS.
func (a *Array) Link(oldname, newname string) error {
	return a.nameOp("link", oldname, format.Link{From: clean(oldname), To: clean(newname)})
}

// Remove implements vfs.FS. The room is given back once the removal is durable and
// nobody has the file open.
func (a *Array) Remove(name string) error {
	return a.nameOp("remove", name, format.Remove{Path: clean(name)})
}

// RemoveAll implements vfs.FS: one step.
func (a *Array) RemoveAll(name string) error {
	p := clean(name)
	a.mu.Lock()
	defer a.unlock()
	if a.st.names[p] == nil && !a.st.dirs[p] {
		return nil
	}
	if err := a.nameOpLocked(format.RemoveAll{Path: p}); err != nil {
		return pathError("remove", name, err)
	}
	return nil
}

// Rename implements vfs.FS: one step, also where something stood at newname.
func (a *Array) Rename(oldname, newname string) error {
	return a.nameOp("rename", oldname, format.Rename{From: clean(oldname), To: clean(newname)})
}

// ReuseForWrite implements vfs.FS: nothing is reused.
func (a *Array) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := a.Rename(oldname, newname); err != nil {
		return nil, err
	}
	return a.Create(newname, category)
}

// MkdirAll implements vfs.FS.
func (a *Array) MkdirAll(dir string, _ os.FileMode) error {
	p := clean(dir)
	a.mu.Lock()
	defer a.unlock()
	if a.st.dirs[p] {
		return nil
	}
	if err := a.nameOpLocked(format.Mkdir{Path: p}); err != nil {
		return pathError("mkdir", dir, err)
	}
	return nil
}

// Lock implements vfs.FS. The members' locks keep other processes away, so a name
// is locked within this one; no file is made.
func (a *Array) Lock(name string) (io.Closer, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := clean(name)
	switch {
	case a.closed:
		return nil, pathError("lock", name, ErrClosed)
	case a.locks[p]:
		return nil, pathError("lock", name, syscall.EAGAIN)
	case !a.st.dirs[parent(p)]:
		return nil, pathError("lock", name, fs.ErrNotExist)
	}
	a.locks[p] = true
	return lockFile{a, p}, nil
}

// List implements vfs.FS; the names are in order.
func (a *Array) List(dir string) ([]string, error) {
	a.mu.look()
	defer a.mu.looked()
	p := clean(dir)
	switch {
	case a.closed:
		return nil, pathError("list", dir, ErrClosed)
	case a.st.names[p] != nil:
		return nil, pathError("list", dir, syscall.ENOTDIR)
	case !a.st.dirs[p]:
		return nil, pathError("list", dir, fs.ErrNotExist)
	}
	set := map[string]bool{}
	add := func(name string) {
		if name != "" && parent(name) == p {
			set[strings.TrimPrefix(name[len(p):], "/")] = true
		}
	}
	for name := range a.st.names {
		add(name)
	}
	for name := range a.st.dirs {
		add(name)
	}
	return slices.Sorted(maps.Keys(set)), nil
}

// Stat implements vfs.FS.
func (a *Array) Stat(name string) (vfs.FileInfo, error) {
	a.mu.look()
	defer a.mu.looked()
	p := clean(name)
	switch ino := a.st.names[p]; {
	case a.closed:
		return nil, pathError("stat", name, ErrClosed)
	case ino != nil:
		return fileInfo{name: path.Base(p), size: ino.size(), time: ino.time}, nil
	case a.st.dirs[p]:
		return fileInfo{name: path.Base("/" + p), dir: true}, nil
	}
	return nil, pathError("stat", name, fs.ErrNotExist)
}

// PathBase implements vfs.FS.
func (a *Array) PathBase(p string) string { return path.Base(p) }

// PathJoin implements vfs.FS.
func (a *Array) PathJoin(elem ...string) string { return path.Join(elem...) }

// PathDir implements vfs.FS.
func (a *Array) PathDir(p string) string { return path.Dir(p) }

// GetDiskUsage implements vfs.FS: the fullest member, times the data chunks.
func (a *Array) GetDiskUsage(string) (vfs.DiskUsage, error) {
	a.mu.look()
	members := slices.Clone(a.members)
	set := a.okLocked()
	a.mu.looked()
	var out vfs.DiskUsage
	first := true
	for s := range slots(set) {
		u, err := members[s].dir.FS.GetDiskUsage(members[s].dir.Path)
		if err != nil {
			return vfs.DiskUsage{}, err
		}
		if first || u.AvailBytes < out.AvailBytes {
			out, first = u, false
		}
	}
	d := uint64(a.geo.Data())
	return vfs.DiskUsage{AvailBytes: out.AvailBytes * d, TotalBytes: out.TotalBytes * d, UsedBytes: out.UsedBytes * d}, nil
}

// Unwrap implements vfs.FS: an array wraps several.
func (a *Array) Unwrap() vfs.FS { return nil }

// dirFile is an open directory.
type dirFile struct {
	a          *Array
	name, path string
}

var errIsDir = errors.New("is a directory")

func (d *dirFile) Close() error                       { return nil }
func (d *dirFile) Read([]byte) (int, error)           { return 0, pathError("read", d.name, errIsDir) }
func (d *dirFile) ReadAt([]byte, int64) (int, error)  { return 0, pathError("read", d.name, errIsDir) }
func (d *dirFile) Write([]byte) (int, error)          { return 0, pathError("write", d.name, errIsDir) }
func (d *dirFile) WriteAt([]byte, int64) (int, error) { return 0, pathError("write", d.name, errIsDir) }
func (d *dirFile) Preallocate(int64, int64) error     { return nil }
func (d *dirFile) Prefetch(int64, int64) error        { return nil }
func (d *dirFile) SyncTo(int64) (bool, error)         { return false, nil }
func (d *dirFile) SyncData() error                    { return d.Sync() }
func (d *dirFile) Fd() uintptr                        { return vfs.InvalidFd }
func (d *dirFile) Stat() (vfs.FileInfo, error)        { return d.a.Stat(d.name) }

// Sync makes all name operations durable that were done before, in this directory
// and elsewhere.
func (d *dirFile) Sync() error {
	a := d.a
	a.mu.Lock()
	defer a.unlock()
	err := error(nil)
	switch {
	case a.closed:
		err = ErrClosed
	case a.opts.ReadOnly:
		err = ErrReadOnly
	case a.failed != nil:
		err = a.failed
	default:
		if err = a.syncMetaLocked(a.meta.seq); err == nil {
			err = a.tidyLocked()
		}
	}
	if err != nil {
		return pathError("sync", d.name, err)
	}
	return nil
}

// fileInfo implements vfs.FileInfo.
type fileInfo struct {
	name string
	size int64
	time int64
	dir  bool
}

func (i fileInfo) Name() string           { return i.name }
func (i fileInfo) Size() int64            { return i.size }
func (i fileInfo) ModTime() time.Time     { return time.Unix(0, i.time) }
func (i fileInfo) IsDir() bool            { return i.dir }
func (i fileInfo) Sys() any               { return nil }
func (i fileInfo) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }
func (i fileInfo) Mode() os.FileMode {
	if i.dir {
		return os.ModeDir | 0o755
	}
	return 0o644
}
