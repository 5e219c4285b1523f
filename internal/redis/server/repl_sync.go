package server

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/redis/replication"
)

// Snapshots for replicas. All replicas that wait when a snapshot begins share
// it: a file that each is sent when it is whole, or a feed that all of them
// read while it is made. What is written meanwhile is in the journal, where
// each has a cursor at the snapshot's position from the beginning on.

// syncJob is a snapshot that replicas are waiting for.
type syncJob struct {
	job     *snapshotJob
	sockets bool
	feed    *bulkFeed // of sockets
	name    string    // file in dir, when it is not for sockets
	made    bool      // the feed is whole, but replicas still read it
	got     []*replicaLink
}

// errUseless is why a snapshot is given up that nobody waits for: in the words of
// Redis, whose child process gets this signal.
const errUseless = canceled("by signal 10")

// syncCron begins a snapshot when replicas wait for one and its time has come.
// The engine's lock is held, no command is half executed.
func (s *Server) syncCron(now time.Time) {
	if len(s.repl.links) == 0 && s.repl.sync == nil {
		return
	}
	if y := s.repl.sync; y != nil {
		s.lookAfterSync(y)
		return
	}
	if s.persist.job != nil || s.e.State.Loading {
		return
	}
	target := replication.NextSnapshot(s.repl.book, now, replication.SnapshotPolicy{
		Diskless: s.cfg.ReplDisklessSync, Delay: time.Duration(s.cfg.ReplDisklessSyncDelay) * time.Second,
		MaxReplicas: s.cfg.ReplDisklessSyncMaxReplicas,
	})
	if target != replication.TargetNone {
		s.startSync(target == replication.TargetSockets)
	}
}

// lookAfterSync ends a snapshot that all replicas have, or that none waits for
// any more; one to the disk only if it is of no use otherwise.
func (s *Server) lookAfterSync(y *syncJob) {
	switch {
	case s.anyWaitsFor(y):
	case y.sockets && s.have(y) == 0:
		s.log.Warning("Diskless rdb transfer, last replica dropped, killing fork child.")
		if y.made {
			s.socketSyncDone(y, errUseless)
		} else {
			y.job.cancel(errUseless)
		}
	case y.sockets:
		s.repl.sync = nil
		s.log.Warning("Diskless rdb transfer, done reading from pipe, %d replicas still up.", s.have(y))
		s.log.Notice("Background RDB transfer terminated with success")
	case len(s.cfg.SavePoints) == 0:
		y.job.cancel(errUseless)
	}
}

// have counts the replicas that have read a feed and are still there.
func (s *Server) have(y *syncJob) int {
	n := 0
	for _, l := range y.got {
		if !l.c.closed {
			n++
		}
	}
	return n
}

func (s *Server) anyWaitsFor(y *syncJob) bool {
	for _, l := range s.repl.links {
		if l.job == y {
			return true
		}
	}
	return false
}

// startSync begins a snapshot for all replicas that wait for one.
func (s *Server) startSync(sockets bool) {
	y := &syncJob{sockets: sockets}
	what := "disk"
	if sockets {
		what = "replicas sockets"
	}
	s.log.Notice("Starting BGSAVE for SYNC with target: %s", what)
	s.repl.sync = y
	if sockets {
		s.log.Notice("Background RDB transfer started by pid %d", pid())
		y.feed = newBulkFeed(s.fs, s.cfg.Dir, s.rousePumps)
		y.job = s.startSnapshot("sync", y.feed, func(_ *snapshotJob, err error) { s.socketSyncDone(y, err) })
	} else if err := s.startDiskSync(y); err != nil {
		s.log.Warning("BGSAVE for replication failed: %s", err)
		s.repl.sync = nil
		s.dropWaiting(nil)
		return
	}
	for _, l := range s.repl.links {
		if l.rep.State == replication.WaitStart {
			s.joinSync(l, y)
		}
	}
}

// startDiskSync begins a BGSAVE, whose file the replicas get.
func (s *Server) startDiskSync(y *syncJob) error {
	t, err := newFileTarget(s.fs, s.cfg.Dir, tempDump(), s.cfg.DBFilename, s.cfg.RDBSaveIncrementalFsync)
	if err != nil {
		return err
	}
	y.name = s.cfg.DBFilename
	s.log.Notice("Background saving started by pid %d", pid())
	y.job = s.startSnapshot("dump", t, func(j *snapshotJob, err error) {
		s.persist.lastBgsaveSec = int64(time.Since(j.began).Seconds())
		if err != nil {
			s.saveFailed(err)
		} else {
			s.log.Notice("DB saved on disk")
			s.log.Notice("Background saving terminated with success")
			s.saved(j)
		}
		s.diskSyncDone(y, err)
	})
	return nil
}

// joinSync makes a replica wait for the snapshot y, which may have begun
// before, unless it goes to sockets.
func (s *Server) joinSync(l *replicaLink, y *syncJob) {
	if err := l.follow(s.persist.stream, y.job.pos); err != nil {
		s.log.Warning("Replica %s cannot join the snapshot at position %d: %s", l.name(), y.job.pos, err)
		l.c.closeLater(false)
		return
	}
	l.job = y
	l.rep.State = replication.WaitEnd
	if !l.rep.PrePSYNC {
		l.tell(fmt.Sprintf("+FULLRESYNC %s %d\r\n", s.repl.id(), y.job.pos))
	}
	if !y.sockets {
		return
	}
	l.mu.Lock()
	l.ctl = append(l.ctl, "$EOF:"+y.feed.mark+"\r\n"...)
	l.bulk = y.feed.reader()
	l.mu.Unlock()
	l.c.wake()
}

// canJoin reports whether a replica that comes now can share the snapshot that
// runs for others.
func (s *Server) canJoin(l *replicaLink) bool {
	y := s.repl.sync
	if y == nil || y.sockets {
		return false
	}
	return y.job.pos >= s.persist.stream.FirstPos()
}

// diskSyncDone gives the file to those who waited for it.
func (s *Server) diskSyncDone(y *syncJob, err error) {
	s.repl.sync = nil
	if err != nil {
		s.log.Warning("SYNC failed. BGSAVE child returned an error")
		s.dropWaiting(y)
		return
	}
	for _, l := range append([]*replicaLink(nil), s.repl.links...) {
		if l.job != y {
			continue
		}
		f, size, err := openBulk(s.fs, s.fs.PathJoin(s.cfg.Dir, y.name))
		if err != nil {
			s.log.Warning("SYNC failed. Can't open/stat DB after BGSAVE: %s", err)
			l.c.closeLater(false)
			continue
		}
		l.rep.State = replication.SendBulk
		l.sent.Store(monotonic())
		l.mu.Lock()
		if l.closed {
			f.close()
		} else {
			l.ctl = append(l.ctl, fmt.Sprintf("$%d\r\n", size)...)
			l.bulk = f
		}
		l.mu.Unlock()
		l.c.wake()
	}
}

// socketSyncDone: the feed is whole, or it failed. It is over when all replicas
// have read it to its end, of which bulkSent tells.
func (s *Server) socketSyncDone(y *syncJob, err error) {
	if err == nil {
		y.made = true
		s.rousePumps()
		return
	}
	s.repl.sync = nil
	if why := canceled(""); errors.As(err, &why) {
		s.log.Warning("Background transfer terminated %s", why)
	} else {
		s.log.Warning("Background transfer error")
		s.log.Warning("Sending the data to the replicas: %s", err)
	}
	s.dropWaiting(y)
}

// dropWaiting closes the links that wait for y, or, for nil, to begin.
func (s *Server) dropWaiting(y *syncJob) {
	for _, l := range s.repl.links {
		if l.job == y && (y != nil || l.rep.State == replication.WaitStart) && l.rep.State < replication.Online {
			l.c.closeLater(false)
		}
	}
}

// bulkSent is the end of a snapshot's way to a replica. The engine's lock is
// not held.
func (s *Server) bulkSent(l *replicaLink) {
	s.e.Lock()
	defer s.e.Unlock()
	if l.c.closed || l.job == nil {
		return
	}
	y := l.job
	l.job = nil
	if y.sockets {
		y.got = append(y.got, l)
		if s.repl.sync == y {
			s.lookAfterSync(y)
		}
	}
	now := time.Now()
	l.rep.AckedTime = now
	if l.rep.RDBOnly {
		l.rep.State = replication.Transmitted
		s.log.Notice("RDB transfer completed, rdb only replica (%s) should be disconnected asap", l.name())
		return
	}
	l.rep.State = replication.Online
	if y.sockets && !l.rep.PrePSYNC {
		s.log.Notice("Streamed RDB transfer with replica %s succeeded (socket). Waiting for REPLCONF ACK from slave to enable streaming", l.name())
	} else {
		s.log.Notice("Synchronization with replica %s succeeded", l.name())
		l.mu.Lock()
		l.stream = true
		l.mu.Unlock()
	}
	s.countGoodReplicas(now)
}

// bulkFile is a snapshot in a file.
type bulkFile struct {
	f    vfs.File
	at   int64
	size int64
}

func openBulk(fs vfs.FS, path string) (*bulkFile, int64, error) {
	f, err := fs.Open(path, vfs.SequentialReadsOption)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return &bulkFile{f: f, size: st.Size()}, st.Size(), nil
}

func (b *bulkFile) read(p []byte) (int, bool, error) {
	if b.at == b.size {
		return 0, true, nil
	}
	p = p[:min(int64(len(p)), b.size-b.at)]
	n, err := b.f.ReadAt(p, b.at)
	b.at += int64(n)
	if n > 0 {
		return n, false, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return 0, false, err
}

func (b *bulkFile) close() { _ = b.f.Close() } // it was only read

// feedMemory is how much of a feed is held in memory for its slowest reader,
// in bytes; the rest waits in a file.
const feedMemory = 8 << 20

// bulkFeed is a snapshot on its way to several replicas at once. It never makes
// the snapshot wait: what a slow replica has not taken yet goes to a file
// without a name when it is more than feedMemory. It is a snapshotTarget.
type bulkFeed struct {
	fs   vfs.FS
	dir  string
	mark string
	wake func()

	mu      sync.Mutex
	chunks  []feedChunk // in memory, in order, behind the spool
	mem     int
	end     int64 // bytes fed
	whole   bool
	failed  error
	readers map[*feedReader]struct{}

	spool     vfs.File // bytes [spoolFrom, spoolTo) of the feed, from spoolAt on
	spoolName string
	spoolFrom int64
	spoolTo   int64
	spoolAt   int64
	buf       []byte
}

type feedChunk struct {
	at int64
	b  []byte
}

func newBulkFeed(fs vfs.FS, dir string, wake func()) *bulkFeed {
	return &bulkFeed{fs: fs, dir: dir, mark: randomID(), wake: wake, readers: make(map[*feedReader]struct{})}
}

// Write implements snapshotTarget.
func (f *bulkFeed) Write(p []byte) (int, error) {
	err := f.add(p)
	f.wake()
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f *bulkFeed) add(p []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.chunks = append(f.chunks, feedChunk{f.end, append([]byte(nil), p...)})
	f.mem += len(p)
	f.end += int64(len(p))
	f.discard()
	for f.mem > feedMemory && len(f.chunks) > 1 {
		if err := f.spill(f.chunks[0]); err != nil {
			return err
		}
		f.dropChunk()
	}
	return nil
}

func (f *bulkFeed) dropChunk() {
	f.mem -= len(f.chunks[0].b)
	f.chunks[0] = feedChunk{}
	f.chunks = f.chunks[1:]
}

// discard forgets what all readers have.
func (f *bulkFeed) discard() {
	low := f.end
	for r := range f.readers {
		low = min(low, r.at)
	}
	for len(f.chunks) > 0 && f.chunks[0].at+int64(len(f.chunks[0].b)) <= low {
		f.dropChunk()
	}
}

// spill moves the oldest chunk to the file.
func (f *bulkFeed) spill(c feedChunk) error {
	if f.spool == nil {
		f.spoolName = f.fs.PathJoin(f.dir, fmt.Sprintf("temp-sync-%s.rdb", f.mark[:12]))
		w, err := f.fs.OpenReadWrite(f.spoolName, vfs.WriteCategoryUnspecified)
		if err != nil {
			return err
		}
		f.spool = w
		f.spoolFrom, f.spoolTo = c.at, c.at
	}
	if f.spoolTo != c.at {
		// All that was there has been read.
		f.spoolAt += f.spoolTo - f.spoolFrom
		f.spoolFrom, f.spoolTo = c.at, c.at
	}
	f.buf = append(f.buf[:0], c.b...) // Write may modify its argument
	if _, err := f.spool.Write(f.buf); err != nil {
		return err
	}
	f.spoolTo += int64(len(c.b))
	return nil
}

// Finish implements snapshotTarget.
func (f *bulkFeed) Finish() error {
	err := f.add([]byte(f.mark))
	f.mu.Lock()
	f.whole = true
	if err != nil {
		f.failed = err
	}
	f.closeIfUnused()
	f.mu.Unlock()
	f.wake()
	return err
}

// Abort implements snapshotTarget.
func (f *bulkFeed) Abort(err error) {
	f.mu.Lock()
	f.failed = err
	f.closeIfUnused()
	f.mu.Unlock()
	f.wake()
}

func (f *bulkFeed) closeIfUnused() {
	if len(f.readers) > 0 || (!f.whole && f.failed == nil) {
		return
	}
	f.chunks, f.mem = nil, 0
	if f.spool != nil {
		_ = f.spool.Close()
		_ = f.fs.Remove(f.spoolName) // what stays is removed at the next start
		f.spool = nil
	}
}

func (f *bulkFeed) reader() *feedReader {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &feedReader{f: f, at: f.end}
	if len(f.chunks) > 0 && f.chunks[0].at == 0 {
		r.at = 0
	}
	f.readers[r] = struct{}{}
	return r
}

// feedReader is one replica's place in a feed.
type feedReader struct {
	f  *bulkFeed
	at int64
}

func (r *feedReader) read(b []byte) (int, bool, error) {
	f := r.f
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.failed != nil:
		return 0, false, f.failed
	case r.at == f.end:
		return 0, f.whole, nil
	case r.at < f.spoolTo && f.spool != nil:
		b = b[:min(int64(len(b)), f.spoolTo-r.at)]
		n, err := f.spool.ReadAt(b, f.spoolAt+r.at-f.spoolFrom)
		r.at += int64(n)
		if n > 0 {
			err = nil
		}
		return n, false, err
	}
	n := 0
	for _, c := range f.chunks {
		if end := c.at + int64(len(c.b)); r.at < end && n < len(b) {
			k := copy(b[n:], c.b[r.at-c.at:])
			n += k
			r.at += int64(k)
		}
	}
	f.discard()
	return n, false, nil
}

func (r *feedReader) close() {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	delete(r.f.readers, r)
	r.f.discard()
	r.f.closeIfUnused()
}
