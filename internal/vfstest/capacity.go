package vfstest

import (
	"os"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Capacity is a vfs.FS of a bounded size: the bytes of its files count, a write
// that does not fit is done as far as it fits and then fails with ENOSPC, and
// removing a file frees its bytes once no handle is open and no name is left.
// What the wrapped file system held before does not count.
type Capacity struct {
	vfs.FS

	mu    sync.Mutex
	size  int64
	used  int64
	names map[string]*extent
}

// extent is the room that one file takes.
type extent struct {
	size         int64
	names, opens int
}

// NewCapacity wraps fsys as a disk of size bytes.
func NewCapacity(fsys vfs.FS, size int64) *Capacity {
	return &Capacity{FS: fsys, size: size, names: map[string]*extent{}}
}

// Resize changes the size, in bytes. A disk may hold more than its size then; it
// takes nothing more until enough was freed.
func (c *Capacity) Resize(size int64) {
	c.mu.Lock()
	c.size = size
	c.mu.Unlock()
}

// Used returns how many bytes the files take.
func (c *Capacity) Used() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used
}

// put makes name mean e, or nothing. mu is held.
func (c *Capacity) put(name string, e *extent) {
	if old := c.names[name]; old != nil {
		delete(c.names, name)
		old.names--
		c.release(old)
	}
	if e != nil {
		e.names++
		c.names[name] = e
	}
}

func (c *Capacity) release(e *extent) {
	if e.names == 0 && e.opens == 0 {
		c.used -= e.size
		e.size = 0
	}
}

func (c *Capacity) wrap(f vfs.File, name string, fresh bool) vfs.File {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.names[name]
	if fresh || e == nil {
		e = &extent{}
		if !fresh {
			if st, err := f.Stat(); err == nil && !st.IsDir() {
				e.size = st.Size()
				c.used += e.size
			}
		}
		c.put(name, e)
	}
	e.opens++
	return &capFile{File: f, c: c, e: e, name: name}
}

// Create implements vfs.FS.
func (c *Capacity) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := c.FS.Create(name, category)
	if err != nil {
		return nil, err
	}
	return c.wrap(f, name, true), nil
}

// Open implements vfs.FS.
func (c *Capacity) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := c.FS.Open(name, opts...)
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err != nil || st.IsDir() {
		return f, err
	}
	return c.wrap(f, name, false), nil
}

// OpenReadWrite implements vfs.FS.
func (c *Capacity) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := c.FS.OpenReadWrite(name, category, opts...)
	if err != nil {
		return nil, err
	}
	return c.wrap(f, name, false), nil
}

// Link implements vfs.FS.
func (c *Capacity) Link(oldname, newname string) error {
	if err := c.FS.Link(oldname, newname); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.names[oldname]; e != nil {
		c.put(newname, e)
	}
	return nil
}

// Remove implements vfs.FS.
func (c *Capacity) Remove(name string) error {
	if err := c.FS.Remove(name); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(name, nil)
	return nil
}

// RemoveAll implements vfs.FS.
func (c *Capacity) RemoveAll(name string) error {
	if err := c.FS.RemoveAll(name); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := range c.names {
		if within(name, n) {
			c.put(n, nil)
		}
	}
	return nil
}

// Rename implements vfs.FS.
func (c *Capacity) Rename(oldname, newname string) error {
	if err := c.FS.Rename(oldname, newname); err != nil {
		return err
	}
	c.moved(oldname, newname)
	return nil
}

func (c *Capacity) moved(oldname, newname string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.names[oldname]; e != nil && oldname != newname {
		c.put(newname, e)
		c.put(oldname, nil)
	}
}

// ReuseForWrite implements vfs.FS.
func (c *Capacity) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := c.FS.ReuseForWrite(oldname, newname, category)
	if err != nil {
		return nil, err
	}
	c.moved(oldname, newname)
	return c.wrap(f, newname, false), nil
}

// GetDiskUsage implements vfs.FS.
func (c *Capacity) GetDiskUsage(string) (vfs.DiskUsage, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return vfs.DiskUsage{AvailBytes: uint64(max(c.size-c.used, 0)), TotalBytes: uint64(c.size), UsedBytes: uint64(c.used)}, nil
}

// Unwrap implements vfs.FS.
func (c *Capacity) Unwrap() vfs.FS { return c.FS }

// capFile is a file whose growth is counted.
type capFile struct {
	vfs.File
	c    *Capacity
	e    *extent
	name string
	pos  int64 // where the next Write goes
	done bool
}

func (f *capFile) Write(b []byte) (int, error) {
	n, err := f.put(b, f.pos, f.File.Write)
	f.pos += int64(n)
	return n, err
}

func (f *capFile) WriteAt(b []byte, off int64) (int, error) {
	return f.put(b, off, func(b []byte) (int, error) { return f.File.WriteAt(b, off) })
}

// put writes what fits.
func (f *capFile) put(b []byte, off int64, do func([]byte) (int, error)) (int, error) {
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	n := int64(len(b))
	if grow := off + n - f.e.size; grow > 0 {
		fits := min(grow, max(f.c.size-f.c.used, 0))
		n = max(n-(grow-fits), 0)
		if n == 0 && fits < grow {
			return 0, f.full()
		}
		f.c.used += fits
		f.e.size += fits
	}
	done, err := do(b[:n])
	if err == nil && done < len(b) {
		err = f.full()
	}
	return done, err
}

func (f *capFile) full() error {
	return &os.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
}

func (f *capFile) Close() error {
	f.c.mu.Lock()
	if !f.done {
		f.done = true
		f.e.opens--
		f.c.release(f.e)
	}
	f.c.mu.Unlock()
	return f.File.Close()
}
