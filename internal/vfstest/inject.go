package vfstest

import (
	"io"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Fault is what happens to an operation.
type Fault int

// The faults. The operations that each may hit are those for which it is possible.
const (
	NoFault    Fault = iota
	FailIO           // EIO from any operation; it has no effect
	FailNoRoom       // ENOSPC from what needs room
	ShortWrite       // half of a write is done, then ENOSPC
	SyncLost         // a sync fails once; later ones succeed, the pages are lost
	FlipRead         // one bit of what is read is wrong
	LostWrite        // a write is told as done and never reaches the disk (needs a Disk below)
	Stall            // the operation takes Injector.StallFor longer (virtual time in a synctest bubble)

	// Faults that no error tells of and that the running program can see.
	DropWrite      // a write is told as done; what was there before stays, zeros beyond the end
	FlipWrite      // one bit of what is written is wrong
	MisdirectWrite // a write is told as done and lands where Injector.Misdirect says
	StaleRead      // a read gives what was there before the last write to that place since Arm
)

// String names the fault.
func (f Fault) String() string {
	return [...]string{"none", "EIO", "ENOSPC", "short write", "sync lost", "bit flip on read", "lost write", "stall",
		"dropped write", "bit flip on write", "misdirected write", "stale read"}[f]
}

// hits says whether the fault can happen to the operation.
func (f Fault) hits(kind string) bool {
	switch f {
	case FailIO:
		return kind != "close" && kind != "lock"
	case FailNoRoom:
		return kind == "create" || kind == "write" || kind == "rename" || kind == "link" || kind == "mkdir" || kind == "reuse"
	case ShortWrite, LostWrite, DropWrite, FlipWrite, MisdirectWrite:
		return kind == "write"
	case SyncLost:
		return kind == "sync" || kind == "syncdir"
	case FlipRead, StaleRead:
		return kind == "read"
	case Stall:
		return true
	}
	return false
}

// Injector is a vfs.FS that makes the N-th operation fail. Put it over a Disk to
// see what a fault and a power cut leave together.
type Injector struct {
	vfs.FS
	StallFor time.Duration
	// Match, if set, limits the fault to the operations for which it is true.
	Match func(Op) bool
	// Misdirect says where a misdirected write lands: a file that exists and an
	// offset. Default: the same file, 4 KiB earlier if there is room, else later.
	Misdirect func(Op) (name string, off int64)

	mu    sync.Mutex
	fault Fault
	left  int
	count int
	stay  bool
	fired *Op
	undo  map[string][]write // StaleRead: what each write since Arm replaced, by name
}

// NewInjector wraps fsys; nothing fails before Arm.
func NewInjector(fsys vfs.FS) *Injector { return &Injector{FS: fsys} }

// Arm makes the n-th operation from now on that f can hit fail, counted from 1;
// with stay set also every later one until Disarm. With n 0 it only counts.
func (in *Injector) Arm(f Fault, n int, stay bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.fault, in.left, in.stay, in.count, in.fired = f, n, stay, 0, nil
	in.undo = nil
	if f == StaleRead {
		in.undo = map[string][]write{}
	}
}

// Disarm ends the fault.
func (in *Injector) Disarm() {
	in.mu.Lock()
	in.fault = NoFault
	in.mu.Unlock()
}

// Count returns how many operations the fault could have hit since Arm.
func (in *Injector) Count() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.count
}

// Fired returns the first operation that failed, if any.
func (in *Injector) Fired() (Op, bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.fired == nil {
		return Op{}, false
	}
	return *in.fired, true
}

// before decides the fate of an operation, and stalls it here.
func (in *Injector) before(op Op) Fault {
	in.mu.Lock()
	f := in.decide(op)
	stall := in.StallFor
	in.mu.Unlock()
	if f == Stall {
		time.Sleep(stall)
		return NoFault
	}
	return f
}

func (in *Injector) decide(op Op) Fault {
	if !in.fault.hits(op.Kind) || in.Match != nil && !in.Match(op) {
		return NoFault
	}
	in.count++
	op.N = in.count
	switch {
	case in.left == 0:
		return NoFault
	case in.count == in.left, in.stay && in.count > in.left:
		if in.fired == nil {
			in.fired = &op
		}
		return in.fault
	}
	return NoFault
}

// fail returns the error of a fault that has no effect but the error.
func (in *Injector) fail(op Op) error {
	var errno error
	switch in.before(op) {
	case FailIO:
		errno = syscall.EIO
	case FailNoRoom:
		errno = syscall.ENOSPC
	default:
		return nil
	}
	return &os.PathError{Op: op.Kind, Path: op.Name, Err: errno}
}

func (in *Injector) file(f vfs.File, name string, dir bool, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &faultFile{File: f, in: in, name: name, dir: dir}, nil
}

// Create implements vfs.FS.
func (in *Injector) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := in.fail(Op{Kind: "create", Name: name}); err != nil {
		return nil, err
	}
	f, err := in.FS.Create(name, c)
	in.forget(name, err)
	return in.file(f, name, false, err)
}

// Link implements vfs.FS.
func (in *Injector) Link(oldname, newname string) error {
	if err := in.fail(Op{Kind: "link", Name: oldname, To: newname}); err != nil {
		return err
	}
	return in.FS.Link(oldname, newname)
}

// Open implements vfs.FS.
func (in *Injector) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	if err := in.fail(Op{Kind: "open", Name: name}); err != nil {
		return nil, err
	}
	f, err := in.FS.Open(name, opts...)
	return in.file(f, name, false, err)
}

// OpenReadWrite implements vfs.FS.
func (in *Injector) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	if err := in.fail(Op{Kind: "open", Name: name}); err != nil {
		return nil, err
	}
	f, err := in.FS.OpenReadWrite(name, c, opts...)
	return in.file(f, name, false, err)
}

// OpenDir implements vfs.FS.
func (in *Injector) OpenDir(name string) (vfs.File, error) {
	if err := in.fail(Op{Kind: "opendir", Name: name}); err != nil {
		return nil, err
	}
	f, err := in.FS.OpenDir(name)
	return in.file(f, name, true, err)
}

// Remove implements vfs.FS.
func (in *Injector) Remove(name string) error {
	if err := in.fail(Op{Kind: "remove", Name: name}); err != nil {
		return err
	}
	return in.FS.Remove(name)
}

// RemoveAll implements vfs.FS.
func (in *Injector) RemoveAll(name string) error {
	if err := in.fail(Op{Kind: "remove", Name: name}); err != nil {
		return err
	}
	return in.FS.RemoveAll(name)
}

// Rename implements vfs.FS.
func (in *Injector) Rename(oldname, newname string) error {
	if err := in.fail(Op{Kind: "rename", Name: oldname, To: newname}); err != nil {
		return err
	}
	err := in.FS.Rename(oldname, newname)
	in.moved(oldname, newname, err)
	return err
}

// ReuseForWrite implements vfs.FS.
func (in *Injector) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := in.fail(Op{Kind: "reuse", Name: oldname, To: newname}); err != nil {
		return nil, err
	}
	f, err := in.FS.ReuseForWrite(oldname, newname, c)
	in.moved(oldname, newname, err)
	return in.file(f, newname, false, err)
}

// MkdirAll implements vfs.FS.
func (in *Injector) MkdirAll(dir string, perm os.FileMode) error {
	if err := in.fail(Op{Kind: "mkdir", Name: dir}); err != nil {
		return err
	}
	return in.FS.MkdirAll(dir, perm)
}

// Lock implements vfs.FS.
func (in *Injector) Lock(name string) (io.Closer, error) {
	if err := in.fail(Op{Kind: "lock", Name: name}); err != nil {
		return nil, err
	}
	return in.FS.Lock(name)
}

// List implements vfs.FS.
func (in *Injector) List(dir string) ([]string, error) {
	if err := in.fail(Op{Kind: "list", Name: dir}); err != nil {
		return nil, err
	}
	return in.FS.List(dir)
}

// Stat implements vfs.FS.
func (in *Injector) Stat(name string) (vfs.FileInfo, error) {
	if err := in.fail(Op{Kind: "stat", Name: name}); err != nil {
		return nil, err
	}
	return in.FS.Stat(name)
}

// Unwrap implements vfs.FS.
func (in *Injector) Unwrap() vfs.FS { return in.FS }

type faultFile struct {
	vfs.File
	in   *Injector
	name string
	dir  bool
	wpos int64 // where the next Write goes
	rpos int64 // where the next Read begins
}

// loser is what a Disk's file offers to faults.
type loser interface {
	losePending()
	writeLost(b []byte, off int64, at bool) (int, error)
}

func (f *faultFile) error(kind string, errno error) error {
	return &os.PathError{Op: kind, Path: f.name, Err: errno}
}

func (f *faultFile) Write(b []byte) (int, error) {
	n, err := f.write(b, f.wpos, false)
	f.wpos += int64(n)
	return n, err
}

func (f *faultFile) WriteAt(b []byte, off int64) (int, error) { return f.write(b, off, true) }

func (f *faultFile) write(b []byte, off int64, at bool) (int, error) {
	do := func(b []byte) (int, error) {
		if at {
			return f.File.WriteAt(b, off)
		}
		return f.File.Write(b)
	}
	op := Op{Kind: "write", Name: f.name, Off: off, Len: len(b)}
	switch f.in.before(op) {
	case FailIO:
		return 0, f.error("write", syscall.EIO)
	case FailNoRoom:
		return 0, f.error("write", syscall.ENOSPC)
	case ShortWrite:
		n, err := do(b[:len(b)/2])
		if err == nil {
			err = f.error("write", syscall.ENOSPC)
		}
		return n, err
	case LostWrite:
		if l, ok := f.File.(loser); ok {
			return l.writeLost(b, off, at)
		}
	case DropWrite:
		return f.drop(do, off, len(b))
	case FlipWrite:
		c := slices.Clone(b)
		if len(c) > 0 {
			c[len(c)/2] ^= 1 << (len(c) % 8)
		}
		return do(c)
	case MisdirectWrite:
		return f.misdirect(do, op, b)
	}
	if err := f.note(off, len(b)); err != nil {
		return 0, err
	}
	return do(b)
}

func (f *faultFile) Sync() error     { return f.sync(f.File.Sync) }
func (f *faultFile) SyncData() error { return f.sync(f.File.SyncData) }

func (f *faultFile) sync(do func() error) error {
	kind := "sync"
	if f.dir {
		kind = "syncdir"
	}
	switch f.in.before(Op{Kind: kind, Name: f.name}) {
	case FailIO:
		return f.error(kind, syscall.EIO)
	case SyncLost:
		if l, ok := f.File.(loser); ok {
			l.losePending()
		}
		return f.error(kind, syscall.EIO)
	}
	return do()
}

func (f *faultFile) Read(b []byte) (int, error) {
	n, err := f.read(b, f.rpos, func() (int, error) { return f.File.Read(b) })
	f.rpos += int64(n)
	return n, err
}

func (f *faultFile) ReadAt(b []byte, off int64) (int, error) {
	return f.read(b, off, func() (int, error) { return f.File.ReadAt(b, off) })
}

func (f *faultFile) read(b []byte, off int64, do func() (int, error)) (int, error) {
	switch f.in.before(Op{Kind: "read", Name: f.name, Off: off, Len: len(b)}) {
	case FailIO:
		return 0, f.error("read", syscall.EIO)
	case FlipRead:
		n, err := do()
		if n > 0 {
			b[n/2] ^= 1 << (n % 8)
		}
		return n, err
	case StaleRead:
		n, err := do()
		f.in.makeStale(f.name, b[:n], off)
		return n, err
	}
	return do()
}

func (f *faultFile) Stat() (vfs.FileInfo, error) {
	if err := f.in.fail(Op{Kind: "stat", Name: f.name}); err != nil {
		return nil, err
	}
	return f.File.Stat()
}
