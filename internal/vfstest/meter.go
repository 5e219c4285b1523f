package vfstest

import (
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Speed is that of a disk in virtual time. A zero field costs nothing.
type Speed struct {
	BytesPerSecond int64
	// Seek is what it costs to go elsewhere than to where the last transfer
	// ended. A gap ahead in the same file is passed over at BytesPerSecond where
	// that is quicker.
	Seek time.Duration
	Sync time.Duration
}

// Meter is a vfs.FS that counts what is transferred and how long a disk of the
// given speed would have been busy with it. Nothing sleeps. Transfers of several
// Meters run at the same time: a phase takes as long as its busiest member, see
// Slowest.
type Meter struct {
	vfs.FS
	speed Speed

	mu    sync.Mutex
	use   Use
	place string // where the head is
	at    int64
}

// Use is what a Meter has counted since Reset.
type Use struct {
	Read, Written        int64 // bytes
	Reads, Writes, Syncs int64 // calls
	Seeks                int64
	Busy                 time.Duration
}

// NewMeter wraps fsys as a disk of that speed.
func NewMeter(fsys vfs.FS, speed Speed) *Meter { return &Meter{FS: fsys, speed: speed} }

// Use returns what was counted since Reset.
func (m *Meter) Use() Use {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.use
}

// Reset begins a new phase.
func (m *Meter) Reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.use = Use{}
}

// Slowest returns how long a phase took: the time of the busiest.
func Slowest(meters []*Meter) time.Duration {
	var d time.Duration
	for _, m := range meters {
		d = max(d, m.Use().Busy)
	}
	return d
}

func (m *Meter) transfer(name string, off int64, n int) {
	m.use.Busy += m.time(int64(n))
	if m.speed.Seek > 0 && (m.place != name || m.at != off) {
		cost := m.speed.Seek
		if m.place == name && off > m.at {
			cost = min(cost, m.time(off-m.at))
		}
		m.use.Busy += cost
		m.use.Seeks++
	}
	m.place, m.at = name, off+int64(n)
}

func (m *Meter) time(n int64) time.Duration {
	if m.speed.BytesPerSecond <= 0 {
		return 0
	}
	return time.Duration(float64(n) / float64(m.speed.BytesPerSecond) * float64(time.Second))
}

func (m *Meter) read(name string, off int64, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.use.Read += int64(n)
	m.use.Reads++
	m.transfer(name, off, n)
}

func (m *Meter) wrote(name string, off int64, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.use.Written += int64(n)
	m.use.Writes++
	m.transfer(name, off, n)
}

func (m *Meter) synced() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.use.Syncs++
	m.use.Busy += m.speed.Sync
}

func (m *Meter) file(f vfs.File, name string, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &meterFile{File: f, m: m, name: name}, nil
}

// Create implements vfs.FS.
func (m *Meter) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := m.FS.Create(name, c)
	return m.file(f, name, err)
}

// Open implements vfs.FS.
func (m *Meter) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := m.FS.Open(name, opts...)
	return m.file(f, name, err)
}

// OpenReadWrite implements vfs.FS.
func (m *Meter) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := m.FS.OpenReadWrite(name, c, opts...)
	return m.file(f, name, err)
}

// OpenDir implements vfs.FS.
func (m *Meter) OpenDir(name string) (vfs.File, error) {
	f, err := m.FS.OpenDir(name)
	return m.file(f, name, err)
}

// ReuseForWrite implements vfs.FS.
func (m *Meter) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := m.FS.ReuseForWrite(oldname, newname, c)
	return m.file(f, newname, err)
}

// Unwrap implements vfs.FS.
func (m *Meter) Unwrap() vfs.FS { return m.FS }

type meterFile struct {
	vfs.File
	m          *Meter
	name       string
	rpos, wpos int64
}

func (f *meterFile) Read(b []byte) (int, error) {
	n, err := f.File.Read(b)
	f.m.read(f.name, f.rpos, n)
	f.rpos += int64(n)
	return n, err
}

func (f *meterFile) ReadAt(b []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(b, off)
	f.m.read(f.name, off, n)
	return n, err
}

func (f *meterFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	f.m.wrote(f.name, f.wpos, n)
	f.wpos += int64(n)
	return n, err
}

func (f *meterFile) WriteAt(b []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(b, off)
	f.m.wrote(f.name, off, n)
	return n, err
}

func (f *meterFile) Sync() error {
	f.m.synced()
	return f.File.Sync()
}

func (f *meterFile) SyncData() error {
	f.m.synced()
	return f.File.SyncData()
}
