package server

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/raid"
	"holdfast/internal/redis/keyspace"
	"holdfast/internal/redis/rdb"
	"holdfast/internal/redis/resp"
)

// A snapshot is taken while serving: the loop serialises a few keys per tick,
// a writer that changes a key serialises it first, and a goroutine carries the
// bytes to a file or to replicas. One runs at a time.

// Figures of pacing. The loop spends a share of its time on a snapshot, not all
// that it has to spare: a thread that never sleeps is one that the system makes
// wait for its turn, and its clients with it. What a step takes is measured by
// the clock, so that a busy machine slows the snapshot down by itself.
const (
	auxSlotMoves = "holdfast-slots" // auxiliary field: slots that are on their way

	stepKeys    = 64                     // keys serialised at once
	stepLarge   = 2048                   // and when writers have copied much
	shareBusy   = 5                      // tenths of the time, while clients are served
	creditMost  = 200 * time.Microsecond // in one tick
	debtMost    = 4 * time.Millisecond
	idleAfter   = 20 * time.Millisecond // without a command: all the time
	backlogSoft = 4 << 20               // bytes not yet taken by the goroutine: the loop takes no step
	backlogHard = 32 << 20
	chunkSize   = 256 << 10
)

// snapshotTarget is where a snapshot goes. Its methods are called by the
// snapshot's goroutine; they may block.
type snapshotTarget interface {
	// Write may modify p, and must not keep it.
	Write(p []byte) (int, error)
	// Finish makes the whole thing durable or known; Abort undoes it.
	Finish() error
	Abort(err error)
}

// snapshotJob is a running snapshot.
type snapshotJob struct {
	s        *Server
	snap     *keyspace.Snapshot
	target   snapshotTarget
	what     string // for the log
	pos      uint64 // stream position that it shows
	streamDB int
	dirty    int64 // e.Dirty when it began
	began    time.Time
	done     func(job *snapshotJob, err error) // under the engine's lock
	snapDone bool                              // the loop has serialised everything
	raw      bool                              // commands, not an RDB file
	made     *atomic.Int64                     // counts them

	delay  int64         // rdb-key-save-delay
	left   int64         // keys that no step has counted yet, for that
	keys   atomic.Int64  // serialised since the goroutine last waited
	credit time.Duration // that the loop may spend on steps now; negative after a long one
	asOf   time.Time     // when credit was counted
	served time.Time     // when a tick last saw that commands were executed
	seen   int64         // their number then

	buf []byte

	mu       sync.Mutex
	cond     *sync.Cond
	chunks   [][]byte
	free     [][]byte
	pending  int
	closed   bool
	failed   error
	finished chan struct{}
}

// startSnapshot begins a snapshot of the present moment into target. done is
// called under the engine's lock when it is over. The engine's lock is held,
// and no command is half executed.
func (s *Server) startSnapshot(what string, target snapshotTarget, done func(*snapshotJob, error)) *snapshotJob {
	return s.beginSnapshot(what, target, func(j *snapshotJob) {
		j.header()
		j.snap = s.ks.BeginSnapshot(j)
	}, done)
}

// beginSnapshot is startSnapshot with what makes it one of a kind: begin sets
// snap, and may write ahead of it.
func (s *Server) beginSnapshot(what string, target snapshotTarget, begin func(*snapshotJob), done func(*snapshotJob, error)) *snapshotJob {
	j := &snapshotJob{s: s, target: target, what: what, pos: s.streamEnd(), streamDB: s.streamDB(),
		dirty: s.e.Dirty, began: time.Now(), asOf: time.Now(), done: done, finished: make(chan struct{})}
	j.cond = sync.NewCond(&j.mu)
	if j.delay = int64(s.cfg.RDBKeySaveDelay); j.delay != 0 {
		j.left = int64(s.keys())
	}
	s.persist.job = j
	s.persist.running.Store(true)
	begin(j)
	j.snap.SetCompress(s.cfg.RDBCompression)
	go j.carry()
	if len(s.loops) > 0 {
		s.loops[0].rouse()
	}
	return j
}

// header puts the file's header and facts into the buffer.
func (j *snapshotJob) header() {
	w := rdb.NewWriter(writerFunc(func(p []byte) (int, error) {
		j.buf = append(j.buf, p...)
		return len(p), nil
	}), rdb.WriterOptions{})
	w.Header()
	w.Aux("redis-ver", Version)
	w.Aux("redis-bits", "64")
	w.Aux("ctime", strconv.FormatInt(j.began.Unix(), 10))
	w.Aux("used-mem", strconv.FormatInt(j.s.usedMemory(), 10))
	w.Aux("repl-stream-db", strconv.Itoa(j.streamDB))
	w.Aux("repl-id", j.s.repl.id())
	w.Aux("repl-offset", strconv.FormatUint(j.pos, 10))
	w.Aux("aof-base", "0")
	if t := j.s.marks(); t != "" {
		w.Aux(auxSlotMoves, t)
	}
	_ = w.Flush() // the writer above cannot fail
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// SelectDB implements keyspace.SnapshotWriter.
func (j *snapshotJob) SelectDB(db, keys, expires int) {
	j.buf = append(j.buf, 0xFE)
	j.buf = rdb.AppendLen(j.buf, uint64(db))
	if keys >= 0 {
		j.buf = append(j.buf, 0xFB)
		j.buf = rdb.AppendLen(j.buf, uint64(keys))
		j.buf = rdb.AppendLen(j.buf, uint64(expires))
	}
}

// Append implements keyspace.SnapshotWriter.
func (j *snapshotJob) Append(b []byte) {
	j.buf = append(j.buf, b...)
	if len(j.buf) >= chunkSize {
		j.hand()
	}
}

// Command implements keyspace.CommandWriter.
func (j *snapshotJob) Command(args ...[]byte) {
	j.buf = resp.AppendCommandBytes(j.buf, args)
	j.made.Add(1)
	if len(j.buf) >= chunkSize {
		j.hand()
	}
}

// hand gives the buffer to the goroutine.
func (j *snapshotJob) hand() {
	j.mu.Lock()
	j.chunks = append(j.chunks, j.buf)
	j.pending += len(j.buf)
	j.buf = nil
	if n := len(j.free); n > 0 {
		j.buf, j.free = j.free[n-1][:0], j.free[:n-1]
	}
	j.mu.Unlock()
	j.cond.Broadcast()
	if j.buf == nil {
		j.buf = make([]byte, 0, chunkSize+chunkSize/4)
	}
}

// carry writes what the loop hands over, until it is all there.
func (j *snapshotJob) carry() {
	defer j.s.rouseFirst()
	defer close(j.finished)
	crc := uint64(0)
	for {
		j.mu.Lock()
		for len(j.chunks) == 0 && !j.closed && j.failed == nil {
			j.cond.Wait()
		}
		if j.failed != nil {
			err := j.failed
			j.mu.Unlock()
			j.target.Abort(err)
			return
		}
		if len(j.chunks) == 0 {
			j.mu.Unlock()
			break
		}
		b := j.chunks[0]
		j.chunks = j.chunks[1:]
		j.mu.Unlock()
		j.dawdle()
		if j.s.cfg.RDBChecksum && !j.raw {
			crc = rdb.CRC64(crc, b)
		}
		_, err := j.target.Write(b)
		j.mu.Lock()
		j.pending -= len(b)
		if len(j.free) < 4 {
			j.free = append(j.free, b)
		}
		if err != nil && j.failed == nil {
			j.failed = err
		}
		j.mu.Unlock()
		j.cond.Broadcast()
	}
	if err := j.trailer(crc); err != nil {
		j.fail(err)
		j.target.Abort(err)
		return
	}
	if err := j.target.Finish(); err != nil {
		j.fail(err)
	}
}

// dawdle is rdb-key-save-delay: it waits for the keys that were serialised since
// it last did, unless the snapshot is broken off.
func (j *snapshotJob) dawdle() {
	keys := j.keys.Swap(0)
	for wait := perKey(j.delay, keys); wait > 0 && j.err() == nil; wait -= dawdleStep {
		time.Sleep(min(wait, dawdleStep))
	}
}

const dawdleStep = 10 * time.Millisecond

// perKey is how long n keys are to take by a directive that gives microseconds
// per key, or, negative, keys per microsecond.
func perKey(directive, n int64) time.Duration {
	if directive < 0 {
		return time.Duration(n/-directive) * time.Microsecond
	}
	return time.Duration(min(n*directive, int64(time.Hour/time.Microsecond))) * time.Microsecond
}

// trailer writes the end of the file: opcode and checksum.
func (j *snapshotJob) trailer(crc uint64) error {
	if j.raw {
		return nil
	}
	end := []byte{0xFF}
	if j.s.cfg.RDBChecksum {
		crc = rdb.CRC64(crc, end)
	} else {
		crc = 0
	}
	for i := range 8 {
		end = append(end, byte(crc>>(8*i)))
	}
	_, err := j.target.Write(end)
	return err
}

func (j *snapshotJob) fail(err error) {
	j.mu.Lock()
	if j.failed == nil {
		j.failed = err
	}
	j.mu.Unlock()
	j.cond.Broadcast()
}

func (j *snapshotJob) err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.failed
}

func (j *snapshotJob) backlog() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.pending
}

// step serialises about n keys. It returns whether the loop's part is over.
// The engine's lock is held.
func (j *snapshotJob) step(n int) bool {
	if j.err() != nil {
		j.snap.Abort()
		return true
	}
	if j.delay != 0 {
		k := min(j.left, int64(n))
		j.left -= k
		j.keys.Add(k)
	}
	if !j.snap.Step(n) {
		return false
	}
	j.hand()
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	j.cond.Broadcast()
	return true
}

// runToEnd does the rest of a snapshot at once (SAVE, SHUTDOWN). The engine's
// lock is held.
func (j *snapshotJob) runToEnd() error {
	for !j.step(4096) {
		j.mu.Lock()
		for j.pending > backlogHard && j.failed == nil {
			j.cond.Wait()
		}
		j.mu.Unlock()
	}
	<-j.finished
	j.s.jobOver(j)
	return j.err()
}

// cancel ends a running snapshot. The engine's lock is held.
func (j *snapshotJob) cancel(why canceled) {
	j.fail(why)
	j.snap.Abort()
	<-j.finished
	j.s.jobOver(j)
}

// canceled is why a snapshot was given up: nothing went wrong.
type canceled string

func (c canceled) Error() string { return string(c) }

// snapshotPatience is how long the first loop may sleep, in milliseconds, while
// a snapshot runs; -1 without bound.
func (s *Server) snapshotPatience() int {
	if !s.persist.running.Load() {
		return -1
	}
	s.e.Lock()
	defer s.e.Unlock()
	j := s.persist.job
	switch {
	case j == nil:
		return -1
	case j.snapDone:
		return 100 // its goroutine rouses the loop at the end
	case j.backlog() > backlogSoft || j.earn(time.Now()) <= 0:
		return 1
	}
	return 0
}

// rouseFirst makes the first loop look at the snapshot. No lock is held.
func (s *Server) rouseFirst() {
	if len(s.loops) > 0 {
		s.loops[0].signal()
	}
}

// earn counts what time has passed towards the next steps.
func (j *snapshotJob) earn(now time.Time) time.Duration {
	if now.Sub(j.served) > idleAfter {
		j.credit = creditMost
	} else {
		j.credit = min(j.credit+now.Sub(j.asOf)*shareBusy/10, creditMost)
	}
	j.asOf = now
	return j.credit
}

// spend takes what a step has cost off the credit.
func (j *snapshotJob) spend(now time.Time) {
	j.credit = max(j.credit-now.Sub(j.asOf), -debtMost)
	j.asOf = now
}

// snapshotTick takes a step of the running snapshot in the first loop's tick.
func (s *Server) snapshotTick() {
	if !s.persist.running.Load() {
		return
	}
	s.e.Lock()
	defer s.e.Unlock()
	j := s.persist.job
	if j == nil {
		return
	}
	if !j.snapDone {
		j.tickStep()
		return
	}
	select {
	case <-j.finished:
		s.jobOver(j)
	default:
	}
}

// tickStep takes the steps that the loop has time for, unless the goroutine is
// behind. What writers have copied lies in the keyspace until a step writes it,
// so much of it means a larger step whatever the time; and when the goroutine is
// far behind, the writers wait for it, which is what bounds the memory.
func (j *snapshotJob) tickStep() {
	now := time.Now()
	if n := j.s.e.Stat.Commands; n != j.seen {
		j.seen, j.served = n, now
	}
	if held := j.snap.Backlog(); held > backlogSoft {
		if j.backlog() < backlogSoft || held > backlogHard {
			j.snapDone = j.step(stepLarge)
		}
		j.asOf = now
	} else if j.earn(now) > 0 {
		for !j.snapDone && j.credit > 0 && j.backlog() < backlogSoft {
			j.snapDone = j.step(stepKeys)
			j.spend(time.Now())
		}
	}
	j.mu.Lock()
	for j.pending > backlogHard && j.failed == nil {
		j.cond.Wait()
	}
	j.mu.Unlock()
}

// jobOver is the end of a snapshot, good or bad. The engine's lock is held.
func (s *Server) jobOver(j *snapshotJob) {
	if s.persist.job != j {
		return
	}
	s.persist.job = nil
	s.persist.running.Store(false)
	j.done(j, j.err())
}

// fileTarget writes a snapshot to a file under a temporary name, syncs it, and
// gives it its name.
type fileTarget struct {
	fs       vfs.FS
	dir      string
	temp     string
	name     string
	f        vfs.File
	written  int64
	unsynced int64
	sync     bool // sync now and then, so that the end is not one long stall
}

const incrementalSync = 4 << 20

func newFileTarget(fs vfs.FS, dir, temp, name string, incremental bool) (*fileTarget, error) {
	// Bulk: what is not synced yet need not survive the process.
	f, err := fs.Create(fs.PathJoin(dir, temp), raid.Bulk)
	if err != nil {
		return nil, fmt.Errorf("Failed opening the temp RDB file %s (in server root dir %s) for saving: %w", temp, dir, err)
	}
	return &fileTarget{fs: fs, dir: dir, temp: temp, name: name, f: f, sync: incremental}, nil
}

func (t *fileTarget) Write(p []byte) (int, error) {
	n, err := t.f.Write(p)
	t.written += int64(n)
	t.unsynced += int64(n)
	if err == nil && t.sync && t.unsynced >= incrementalSync {
		t.unsynced = 0
		err = t.f.SyncData()
	}
	return n, err
}

func (t *fileTarget) Finish() error {
	if err := t.f.Sync(); err != nil {
		t.Abort(err)
		return err
	}
	if err := t.f.Close(); err != nil {
		t.f = nil
		t.Abort(err)
		return err
	}
	t.f = nil
	if err := t.fs.Rename(t.fs.PathJoin(t.dir, t.temp), t.fs.PathJoin(t.dir, t.name)); err != nil {
		t.Abort(err)
		return &movingError{t.temp, t.name, t.dir, err}
	}
	return syncDir(t.fs, t.dir)
}

// movingError is a finished dump that could not take its name.
type movingError struct {
	temp, name, dir string
	err             error
}

func (e *movingError) Error() string {
	return fmt.Sprintf("Error moving temp DB file %s on the final destination %s (in server root dir %s): %s", e.temp, e.name, e.dir, errnoText(e.err))
}

func (e *movingError) Unwrap() error { return e.err }

func (t *fileTarget) Abort(error) {
	if t.f != nil {
		_ = t.f.Close() // it is going to be removed
		t.f = nil
	}
	_ = t.fs.Remove(t.fs.PathJoin(t.dir, t.temp)) // what stays is removed at the next start
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// errnoText is the text of the system's error alone, as Redis words it.
func errnoText(err error) string {
	var pe *os.PathError
	var le *os.LinkError
	var se *os.SyscallError
	var no syscall.Errno
	switch {
	case errors.As(err, &no):
		err = no
	case errors.As(err, &pe):
		err = pe.Err
	case errors.As(err, &le):
		err = le.Err
	case errors.As(err, &se):
		err = se.Err
	}
	s := err.Error()
	if s != "" && s[0] >= 'a' && s[0] <= 'z' {
		s = string(s[0]-32) + s[1:]
	}
	return s
}
