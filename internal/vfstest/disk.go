// Package vfstest stores nothing for long: it breaks. It wraps a vfs.FS, usually
// vfs.NewMem, and builds what a power cut may leave of it, and it injects the
// N-th fault.
//
//	disk, err := vfstest.NewDisk(vfs.NewMem())
//	disk.OnBarrier(func(op vfstest.Op) {
//		for state := range disk.Snapshot().States(vfstest.Config{Seed: 1}) {
//			reopen(state.FS()) // must hold exactly what was promised before op
//		}
//	})
//	run(disk)
//
// The model, harsher than any one file system:
//
//   - A write is durable after a Sync of its file that began later; until then it
//     is cut at pages of 4 KiB, each of which persists or not, in any order, and a
//     page may be torn: only its first sectors of 512 bytes persist. A write beyond
//     a lost one leaves zeros between.
//   - A name (create, remove, rename, link) is durable after a Sync of its
//     directory; until then each step persists or not, in any order. A rename is
//     one step. Syncing a file does not make its name durable.
//   - MkdirAll is durable at once, and locks are not modelled.
package vfstest

import (
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Op is one operation, told to OnOp when it is done and to an Injector before.
type Op struct {
	N    int    // counts from 1, per Disk or Injector
	Kind string // create, reuse, open, opendir, write, sync, syncdir, read, remove, rename, link, mkdir, list, stat, lock, close
	Name string
	To   string // rename, link, reuse: the new name
	Off  int64
	Len  int
}

// String is the form for golden lists: base names, without the number.
func (o Op) String() string {
	s := o.Kind + " " + path.Base(o.Name)
	if o.To != "" {
		s += " -> " + path.Base(o.To)
	}
	if o.Kind == "write" || o.Kind == "read" {
		s += fmt.Sprintf(" [%d:%d]", o.Off, o.Off+int64(o.Len))
	}
	return s
}

// Mutates says that the operation changes something.
func (o Op) Mutates() bool {
	switch o.Kind {
	case "create", "reuse", "write", "sync", "syncdir", "remove", "rename", "link", "mkdir":
		return true
	}
	return false
}

// inode is a file apart from its names. data is never modified, only replaced,
// so snapshots share it.
type inode struct {
	id      int
	data    []byte   // durable content
	pending []*write // issued, not durable, in order
}

type write struct {
	off  int64
	data []byte
}

// nameOp is one step of a directory that is not durable yet.
type nameOp struct {
	dir  string // its parent; for a rename the new one
	text string
	sets []binding
}

// binding makes a name mean an inode, or nothing.
type binding struct {
	name string
	ino  *inode
}

// Disk is a vfs.FS that knows what of it is durable. It is safe for concurrent use.
type Disk struct {
	inner vfs.FS

	mu      sync.Mutex
	n       int
	nextID  int
	names   map[string]*inode // as seen by the running program
	durable map[string]*inode // as a power cut leaves it
	pending []*nameOp
	dirs    map[string]bool
	onOp    func(Op)
	barrier func(Op)
}

var _ vfs.FS = (*Disk)(nil)

// NewDisk wraps inner; what inner holds now under root counts as durable.
func NewDisk(inner vfs.FS, root ...string) (*Disk, error) {
	d := &Disk{inner: inner, names: map[string]*inode{}, durable: map[string]*inode{}, dirs: map[string]bool{}}
	for _, r := range root {
		if err := d.load(r); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func (d *Disk) load(name string) error {
	st, err := d.inner.Stat(name)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		f, err := d.inner.Open(name)
		if err != nil {
			return err
		}
		b, err := io.ReadAll(f)
		if err != nil {
			return err
		}
		ino := d.newInode()
		ino.data = b
		d.names[name], d.durable[name] = ino, ino
		return f.Close()
	}
	d.dirs[name] = true
	list, err := d.inner.List(name)
	if err != nil {
		return err
	}
	slices.Sort(list)
	for _, e := range list {
		if err := d.load(d.inner.PathJoin(name, e)); err != nil {
			return err
		}
	}
	return nil
}

func (d *Disk) newInode() *inode {
	d.nextID++
	return &inode{id: d.nextID}
}

// OnOp sets the function that is called after each operation that succeeded,
// without locks held. Operations from several goroutines call it concurrently.
func (d *Disk) OnOp(fn func(Op)) {
	d.mu.Lock()
	d.onOp = fn
	d.mu.Unlock()
}

// OnBarrier sets the function that is called before each sync takes effect,
// without locks held. What is not durable only grows between two syncs, so the
// states at the barriers, and at the end, are all that a power cut may leave.
func (d *Disk) OnBarrier(fn func(Op)) {
	d.mu.Lock()
	d.barrier = fn
	d.mu.Unlock()
}

func (d *Disk) beforeSync(op Op) {
	d.mu.Lock()
	fn := d.barrier
	d.mu.Unlock()
	if fn != nil {
		fn(op)
	}
}

func (d *Disk) tell(op Op) {
	d.mu.Lock()
	d.n++
	op.N = d.n
	fn := d.onOp
	d.mu.Unlock()
	if fn != nil {
		fn(op)
	}
}

// bind changes the running program's view and notes the step as not durable. mu is held.
func (d *Disk) bind(text, dir string, sets ...binding) {
	for _, s := range sets {
		if s.ino == nil {
			delete(d.names, s.name)
		} else {
			d.names[s.name] = s.ino
		}
	}
	d.pending = append(d.pending, &nameOp{dir: dir, text: text, sets: sets})
}

func apply(names map[string]*inode, op *nameOp) {
	for _, s := range op.sets {
		if s.ino == nil {
			delete(names, s.name)
		} else {
			names[s.name] = s.ino
		}
	}
}

// syncDir makes the steps of a directory durable.
func (d *Disk) syncDir(dir string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pending = slices.DeleteFunc(d.pending, func(op *nameOp) bool {
		if op.dir != dir {
			return false
		}
		apply(d.durable, op)
		return true
	})
}

// loseDir makes the steps of a directory that are not durable never become so.
func (d *Disk) loseDir(dir string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pending = slices.DeleteFunc(d.pending, func(op *nameOp) bool { return op.dir == dir })
}

// overlay returns base with w written over it, as a new slice.
func overlay(base []byte, w *write) []byte {
	end := int(w.off) + len(w.data)
	out := make([]byte, max(len(base), end))
	copy(out, base)
	copy(out[w.off:], w.data)
	return out
}

// Create implements vfs.FS.
func (d *Disk) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.inner.Create(name, category)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	dir := d.inner.PathDir(name)
	if d.names[name] != nil {
		d.bind("remove "+name, dir, binding{name, nil})
	}
	ino := d.newInode()
	d.bind("create "+name, dir, binding{name, ino})
	d.mu.Unlock()
	d.tell(Op{Kind: "create", Name: name})
	return &diskFile{File: f, d: d, ino: ino, name: name}, nil
}

// Link implements vfs.FS.
func (d *Disk) Link(oldname, newname string) error {
	if err := d.inner.Link(oldname, newname); err != nil {
		return err
	}
	d.mu.Lock()
	d.bind("link "+newname, d.inner.PathDir(newname), binding{newname, d.names[oldname]})
	d.mu.Unlock()
	d.tell(Op{Kind: "link", Name: oldname, To: newname})
	return nil
}

func (d *Disk) wrap(f vfs.File, name string) vfs.File {
	d.mu.Lock()
	defer d.mu.Unlock()
	ino := d.names[name]
	if ino == nil {
		// OpenReadWrite has created it.
		ino = d.newInode()
		d.bind("create "+name, d.inner.PathDir(name), binding{name, ino})
	}
	return &diskFile{File: f, d: d, ino: ino, name: name}
}

// Open implements vfs.FS.
func (d *Disk) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := d.inner.Open(name, opts...)
	if err != nil {
		return nil, err
	}
	d.tell(Op{Kind: "open", Name: name})
	return d.wrap(f, name), nil
}

// OpenReadWrite implements vfs.FS.
func (d *Disk) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := d.inner.OpenReadWrite(name, category, opts...)
	if err != nil {
		return nil, err
	}
	d.tell(Op{Kind: "open", Name: name})
	return d.wrap(f, name), nil
}

// OpenDir implements vfs.FS.
func (d *Disk) OpenDir(name string) (vfs.File, error) {
	f, err := d.inner.OpenDir(name)
	if err != nil {
		return nil, err
	}
	d.tell(Op{Kind: "opendir", Name: name})
	return &diskFile{File: f, d: d, name: name}, nil
}

// Remove implements vfs.FS.
func (d *Disk) Remove(name string) error {
	if err := d.inner.Remove(name); err != nil {
		return err
	}
	d.mu.Lock()
	if d.names[name] != nil {
		d.bind("remove "+name, d.inner.PathDir(name), binding{name, nil})
	}
	delete(d.dirs, name)
	d.mu.Unlock()
	d.tell(Op{Kind: "remove", Name: name})
	return nil
}

// RemoveAll implements vfs.FS: one step per file.
func (d *Disk) RemoveAll(name string) error {
	if err := d.inner.RemoveAll(name); err != nil {
		return err
	}
	d.mu.Lock()
	var gone []string
	for n := range d.names {
		if n == name || strings.HasPrefix(n, name+"/") {
			gone = append(gone, n)
		}
	}
	slices.Sort(gone)
	for _, n := range gone {
		d.bind("remove "+n, d.inner.PathDir(n), binding{n, nil})
	}
	d.mu.Unlock()
	d.tell(Op{Kind: "remove", Name: name})
	return nil
}

// Rename implements vfs.FS: one step.
func (d *Disk) Rename(oldname, newname string) error {
	if err := d.inner.Rename(oldname, newname); err != nil {
		return err
	}
	d.rename(oldname, newname)
	d.tell(Op{Kind: "rename", Name: oldname, To: newname})
	return nil
}

func (d *Disk) rename(oldname, newname string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bind("rename "+oldname+" -> "+newname, d.inner.PathDir(newname), binding{oldname, nil}, binding{newname, d.names[oldname]})
}

// ReuseForWrite implements vfs.FS: a rename, then a file that keeps its content.
func (d *Disk) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := d.inner.Rename(oldname, newname); err != nil {
		return nil, err
	}
	d.rename(oldname, newname)
	f, err := d.inner.OpenReadWrite(newname, category)
	if err != nil {
		return nil, err
	}
	d.tell(Op{Kind: "reuse", Name: oldname, To: newname})
	return d.wrap(f, newname), nil
}

// MkdirAll implements vfs.FS; the directories are durable at once.
func (d *Disk) MkdirAll(dir string, perm os.FileMode) error {
	if err := d.inner.MkdirAll(dir, perm); err != nil {
		return err
	}
	d.mu.Lock()
	d.dirs[dir] = true
	d.mu.Unlock()
	d.tell(Op{Kind: "mkdir", Name: dir})
	return nil
}

// Lock implements vfs.FS; the lock file is not part of the model.
func (d *Disk) Lock(name string) (io.Closer, error) {
	c, err := d.inner.Lock(name)
	if err == nil {
		d.tell(Op{Kind: "lock", Name: name})
	}
	return c, err
}

// List implements vfs.FS.
func (d *Disk) List(dir string) ([]string, error) {
	l, err := d.inner.List(dir)
	if err == nil {
		d.tell(Op{Kind: "list", Name: dir})
	}
	return l, err
}

// Stat implements vfs.FS.
func (d *Disk) Stat(name string) (vfs.FileInfo, error) {
	st, err := d.inner.Stat(name)
	if err == nil {
		d.tell(Op{Kind: "stat", Name: name})
	}
	return st, err
}

// PathBase implements vfs.FS.
func (d *Disk) PathBase(p string) string { return d.inner.PathBase(p) }

// PathJoin implements vfs.FS.
func (d *Disk) PathJoin(elem ...string) string { return d.inner.PathJoin(elem...) }

// PathDir implements vfs.FS.
func (d *Disk) PathDir(p string) string { return d.inner.PathDir(p) }

// GetDiskUsage implements vfs.FS.
func (d *Disk) GetDiskUsage(p string) (vfs.DiskUsage, error) { return d.inner.GetDiskUsage(p) }

// Unwrap implements vfs.FS.
func (d *Disk) Unwrap() vfs.FS { return d.inner }

// diskFile is a file (ino set) or a directory.
type diskFile struct {
	vfs.File
	d    *Disk
	ino  *inode
	name string
	pos  int64 // where the next Write goes; Read does not move it
}

func (f *diskFile) Write(b []byte) (int, error) {
	n, err := f.put(b, f.pos, f.File.Write, true)
	f.pos += int64(n)
	return n, err
}

func (f *diskFile) WriteAt(b []byte, off int64) (int, error) {
	return f.put(b, off, func(b []byte) (int, error) { return f.File.WriteAt(b, off) }, true)
}

// put writes and, unless the write is to be lost, notes it as not durable.
func (f *diskFile) put(b []byte, off int64, do func([]byte) (int, error), keep bool) (int, error) {
	kept := slices.Clone(b) // do may modify b
	n, err := do(b)
	if n > 0 && keep {
		f.d.mu.Lock()
		f.ino.pending = append(f.ino.pending[:len(f.ino.pending):len(f.ino.pending)], &write{off, kept[:n]})
		f.d.mu.Unlock()
	}
	for i := range b {
		b[i] ^= 0xa5 // the contract allows it; nobody may rely on the buffer
	}
	if err == nil {
		f.d.tell(Op{Kind: "write", Name: f.name, Off: off, Len: n})
	}
	return n, err
}

// writeLost is a write that the program sees and the disk never does.
func (f *diskFile) writeLost(b []byte, off int64, at bool) (int, error) {
	if at {
		return f.put(b, off, func(b []byte) (int, error) { return f.File.WriteAt(b, off) }, false)
	}
	n, err := f.put(b, f.pos, f.File.Write, false)
	f.pos += int64(n)
	return n, err
}

func (f *diskFile) Read(b []byte) (int, error) {
	n, err := f.File.Read(b)
	if err == nil {
		f.d.tell(Op{Kind: "read", Name: f.name, Len: n})
	}
	return n, err
}

func (f *diskFile) ReadAt(b []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(b, off)
	if err == nil || err == io.EOF {
		f.d.tell(Op{Kind: "read", Name: f.name, Off: off, Len: n})
	}
	return n, err
}

func (f *diskFile) Sync() error     { return f.sync(f.File.Sync) }
func (f *diskFile) SyncData() error { return f.sync(f.File.SyncData) }

// SyncTo promises nothing, as the contract allows.
func (f *diskFile) SyncTo(int64) (bool, error) { return false, nil }

func (f *diskFile) sync(do func() error) error {
	if f.ino == nil {
		f.d.beforeSync(Op{Kind: "syncdir", Name: f.name})
		if err := do(); err != nil {
			return err
		}
		f.d.syncDir(f.name)
		f.d.tell(Op{Kind: "syncdir", Name: f.name})
		return nil
	}
	f.d.beforeSync(Op{Kind: "sync", Name: f.name})
	f.d.mu.Lock()
	before := f.ino.pending // writes that begin from now on are not covered
	f.d.mu.Unlock()
	if err := do(); err != nil {
		return err
	}
	f.d.mu.Lock()
	f.ino.settle(before)
	f.d.mu.Unlock()
	f.d.tell(Op{Kind: "sync", Name: f.name})
	return nil
}

// settle folds those of done that are still pending into the durable content.
func (i *inode) settle(done []*write) {
	var rest []*write
	for _, w := range i.pending {
		if slices.Contains(done, w) {
			i.data = overlay(i.data, w)
		} else {
			rest = append(rest, w)
		}
	}
	i.pending = rest
}

// losePending is what a failed sync does: the running program still sees the
// pages, later syncs call them written, and the disk never gets them.
func (f *diskFile) losePending() {
	if f.ino == nil {
		f.d.loseDir(f.name)
		return
	}
	f.d.mu.Lock()
	f.ino.pending = nil
	f.d.mu.Unlock()
}

func (f *diskFile) Close() error {
	err := f.File.Close()
	if err == nil {
		f.d.tell(Op{Kind: "close", Name: f.name})
	}
	return err
}
