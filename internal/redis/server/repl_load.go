package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/journal"
	"holdfast/internal/raid"
	"holdfast/internal/redis/config"
	"holdfast/internal/redis/keyspace"
	"holdfast/internal/redis/rdb"
	"holdfast/internal/redis/replication"
)

// Taking over a master's snapshot. With a journal, the snapshot's bytes are
// written down as they come, and the file becomes the checkpoint of the
// journal's new generation: nothing is ever encoded again.

// lockedReader reads without the engine's lock and returns with it, so that
// whoever decodes what it reads does so under the lock, a buffer at a time.
type lockedReader struct {
	s *Server
	r io.Reader
}

func (r lockedReader) Read(p []byte) (int, error) {
	r.s.e.Unlock()
	n, err := r.r.Read(p)
	r.s.e.Lock()
	return n, err
}

// maxSmallLoad bounds, in bytes, what may be loaded while nobody is served.
const maxSmallLoad = 4 << 20

// transfer is one full synchronisation.
type transfer struct {
	l       *masterLink
	nc      net.Conn
	timeout time.Duration
	reply   replication.Reply
	in      io.Reader // the snapshot's bytes
	mark    bool      // it ends with a mark

	file   vfs.File // where the bytes go; nil: nowhere
	fs     vfs.FS   // of dir
	dir    string
	temp   string
	buf    []byte
	unsync int64

	parse bool   // load while it comes
	swap  bool   // into a keyspace of its own
	async bool   // the old data is served meanwhile
	small []byte // the whole snapshot, if clients shall rather wait than be told of the load; or nil
	facts rdbFacts
}

// fullSync receives and loads the master's snapshot. It returns the database
// that the master's stream is at.
func (l *masterLink) fullSync(nc net.Conn, f linkFacts, reply replication.Reply) (streamDB int, err error) {
	t := &transfer{l: l, nc: nc, timeout: f.timeout, reply: reply}
	if err := t.open(); err != nil {
		return 0, err
	}
	defer t.discard()
	stop := l.keepAlive(nc)
	defer stop()
	if !t.parse {
		if err := t.receive(); err != nil {
			return 0, err
		}
	}
	if err := t.load(); err != nil {
		return 0, err
	}
	l.s.log.Notice("MASTER <-> REPLICA sync: Finished with success")
	return t.facts.streamDB, nil
}

// keepAlive sends the master an empty line each second, so that it knows that
// we are at work.
func (l *masterLink) keepAlive(nc net.Conn) (stop func()) {
	done := make(chan struct{})
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				_ = nc.SetWriteDeadline(time.Now().Add(time.Second))
				_, _ = nc.Write([]byte{'\n'}) // if it fails, reading fails, too
			}
		}
	}()
	return func() {
		close(done)
		<-gone
	}
}

// open reads the snapshot's preamble and decides how to load it.
func (t *transfer) open() error {
	line := ""
	for line == "" {
		var err error
		if line, err = t.l.line(t.nc, t.timeout); err != nil {
			return readError(err, silentBulk, "I/O error reading bulk count from MASTER: %s")
		}
		if len(line) > 0 && line[0] == '-' {
			return linkErrorf("MASTER aborted replication with an error: %s", line[1:])
		}
	}
	p, ok := replication.ParsePreamble(line)
	if !ok {
		return linkErrorf("Bad protocol from MASTER, the first byte is not '$' (we received '%s'), are you sure the host and port are right?", line)
	}
	src := &progressReader{l: t.l, nc: t.nc, timeout: t.timeout}
	t.l.syncTotal.Store(p.Size)
	t.l.syncRead.Store(0)
	t.in = io.LimitReader(src, p.Size)
	if p.Mark != "" {
		t.mark = true
		t.in = &markReader{src: src, mark: p.Mark}
	}
	return t.plan(p)
}

// plan decides whether to load from the socket, and opens the file.
func (t *transfer) plan(p replication.Preamble) error {
	if !t.l.enter() {
		return errSuperseded
	}
	defer t.l.s.e.Unlock()
	s := t.l.s
	switch s.cfg.ReplDisklessLoad {
	case config.DisklessLoadOnEmptyDB:
		t.parse = s.keys() == 0
	case config.DisklessLoadSwapDB:
		t.parse, t.swap = true, true
		t.async = !s.repl.lost && s.repl.hist.Knows(t.reply.ID)
	}
	t.fs = s.fs
	where := "to disk"
	if t.parse {
		where = "to parser"
	}
	if t.mark {
		s.log.Notice("MASTER <-> REPLICA sync: receiving streamed RDB from master with EOF %s", where)
	} else {
		s.log.Notice("MASTER <-> REPLICA sync: receiving %d bytes from master %s", p.Size, where)
	}
	switch {
	case s.persist.journal != nil:
		t.fs, t.dir = s.journalFS(), s.journalPath()
	case t.parse:
		return nil
	default:
		t.dir = s.cfg.Dir
	}
	t.temp = t.fs.PathJoin(t.dir, fmt.Sprintf("temp-%d.%d.rdb", time.Now().Unix(), pid()))
	f, err := t.fs.Create(t.temp, raid.Bulk)
	if err != nil {
		return linkErrorf("Opening the temp file needed for MASTER <-> REPLICA synchronization: %s", errnoText(err))
	}
	t.file = f
	return nil
}

// discard removes the file of a transfer that came to nothing.
func (t *transfer) discard() {
	if t.file != nil {
		_ = t.file.Close()
		t.file = nil
	}
	if t.temp != "" {
		_ = t.fs.Remove(t.temp) // what stays is removed at the next start
	}
}

// keep writes bytes of the snapshot to the file.
func (t *transfer) keep(b []byte) error {
	t.buf = append(t.buf[:0], b...) // Write may modify its argument
	if _, err := t.file.Write(t.buf); err != nil {
		return linkErrorf("Write error or short write writing to the DB dump file needed for MASTER <-> REPLICA synchronization: %s", errnoText(err))
	}
	t.unsync += int64(len(b))
	if t.unsync >= incrementalSync {
		t.unsync = 0
		if err := t.file.SyncData(); err != nil {
			return linkErrorf("Syncing the DB dump file needed for MASTER <-> REPLICA synchronization: %s", errnoText(err))
		}
	}
	return nil
}

// receive writes the snapshot to the file, syncs it and, if there is data that
// it would replace, reads it once to see that it is whole.
func (t *transfer) receive() error {
	b := make([]byte, linkBuffer)
	for {
		n, err := t.in.Read(b)
		if n > 0 {
			if err := t.keep(b[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			t.l.broken = true
			return linkErrorf("I/O error trying to sync with MASTER: connection lost")
		}
		if err != nil {
			t.l.broken = true
			return readError(err, silentBulk, "I/O error trying to sync with MASTER: %s")
		}
	}
	if err := t.seal(); err != nil {
		return err
	}
	if !t.l.enter() {
		return errSuperseded
	}
	empty := t.l.s.keys() == 0
	unseen := t.l.s.cfg.LoadingProcessEventsBytes
	if t.l.s.cfg.KeyLoadDelay != 0 {
		unseen = 0
	}
	t.l.s.e.Unlock()
	if err := t.readSmall(unseen); err != nil || empty {
		return err
	}
	return t.verify()
}

// readSmall reads a snapshot that Redis would load without a look at its clients
// in between, those below so many bytes: nobody is answered LOADING for it.
func (t *transfer) readSmall(unseen int64) error {
	info, err := t.fs.Stat(t.temp)
	if err == nil && info.Size() < min(unseen, maxSmallLoad) {
		t.small, err = t.readFile()
	}
	if err != nil {
		return linkErrorf("Opening the received DB: %s", errnoText(err))
	}
	return nil
}

// seal makes the file durable under its temporary name.
func (t *transfer) seal() error {
	f := t.file
	t.file = nil
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return linkErrorf("Failed trying to sync the temp DB to disk in MASTER <-> REPLICA synchronization: %s", errnoText(err))
	}
	return nil
}

func (t *transfer) readFile() ([]byte, error) {
	f, err := t.fs.Open(t.temp, vfs.SequentialReadsOption)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSmallLoad))
	return b, errors.Join(err, f.Close())
}

// verify decodes the file without loading it.
func (t *transfer) verify() error {
	f, err := t.fs.Open(t.temp, vfs.SequentialReadsOption)
	if err != nil {
		return linkErrorf("Opening the received DB: %s", errnoText(err))
	}
	defer f.Close()
	if _, err := rdb.Load(f, &dryRun{}, rdb.Options{}); err != nil {
		return linkErrorf("Failed trying to load the MASTER synchronization DB, the data of this replica is kept: %s", err)
	}
	return nil
}

// load brings the snapshot into memory and makes it the beginning of the
// journal's new generation.
func (t *transfer) load() error {
	if !t.l.enter() {
		return errSuperseded
	}
	defer t.l.s.e.Unlock()
	s := t.l.s
	if j := s.persist.job; j != nil {
		j.cancel("a full synchronization replaces the data")
	}
	s.e.State.Loading, s.e.State.AsyncLoading = true, t.async
	s.persist.loadStart, s.persist.loadTotal = time.Now(), t.l.syncTotal.Load()
	s.persist.loadDone.Store(0)
	defer func() { s.e.State.Loading, s.e.State.AsyncLoading = false, false }()
	into := s.ks
	if t.swap {
		fresh, err := keyspace.New(keyspace.Options{Databases: s.cfg.Databases, Limits: s.ks.Limits(), BySlot: s.cfg.ClusterEnabled})
		if err != nil {
			return linkErrorf("No memory for a second data set: %s", err)
		}
		into = fresh
	} else {
		t.emptyOld()
	}
	s.log.Notice("MASTER <-> REPLICA sync: Loading DB in memory")
	err := t.loadInto(into)
	if err == nil && s.repl.link != t.l {
		err = errSuperseded
	}
	if err != nil {
		if t.swap {
			s.log.Notice("MASTER <-> REPLICA sync: Discarding temporary DB in background")
			_ = into.Close()
		} else {
			s.ks.Flush(-1, false)
		}
		return err
	}
	if t.swap {
		t.l.discardCached()
		s.dropReplicas()
		s.swapKeyspace(into)
	}
	return t.adopt()
}

// discardCached notes that this server cannot go on where its own stream ends
// any more.
func (l *masterLink) discardCached() {
	if l.cached {
		l.s.log.Notice("Discarding previously cached master state.")
	}
}

// emptyOld removes the old data. What our own replicas have is worth nothing
// from now on.
func (t *transfer) emptyOld() {
	s := t.l.s
	t.l.discardCached()
	s.log.Notice("MASTER <-> REPLICA sync: Flushing old data")
	s.repl.lost = true
	s.dropReplicas()
	s.e.Empty(s.cfg.ReplicaLazyFlush)
}

// loadInto decodes the snapshot; the engine's lock is held but while it reads.
func (t *transfer) loadInto(ks *keyspace.Keyspace) error {
	s := t.l.s
	src, done := t.in, func() error { return nil }
	switch {
	case t.small != nil:
	case t.parse:
		if t.file != nil {
			src = io.TeeReader(t.in, writerFunc(func(p []byte) (int, error) { return len(p), t.keep(p) }))
		}
	default:
		f, err := t.fs.Open(t.temp, vfs.SequentialReadsOption)
		if err != nil {
			return linkErrorf("Opening the received DB: %s", errnoText(err))
		}
		src, done = f, f.Close
	}
	t.facts = rdbFacts{streamDB: -1}
	ld := &keyspace.Loader{KS: ks, DB: ks.DB(0), OnAux: t.facts.aux, OnOpaque: opaqueKey, OnFunc: functionCode}
	in := io.Reader(lockedReader{s, src})
	if t.small != nil {
		in = bytes.NewReader(t.small) // the lock stays ours
	}
	res, err := rdb.Load(in, s.paced(ld), rdb.Options{SkipChecksum: !s.cfg.RDBChecksum, Progress: s.persist.loadDone.Store, OnEmpty: s.noteEmpty()})
	if err == nil && t.parse {
		err = t.drain(src)
	}
	err = errors.Join(err, done())
	if err != nil {
		return t.loadFailed(err)
	}
	s.persist.loadedKeys = ld.Loaded
	s.noteLoaded(ld, res)
	if t.file != nil {
		s.e.Unlock()
		err = t.seal()
		s.e.Lock()
	}
	return err
}

// loadFailed logs what is wrong with the snapshot in the words of Redis. What ends
// early while it comes is the connection's fault.
func (t *transfer) loadFailed(err error) error {
	s := t.l.s
	var bad *rdb.Error
	short := !errors.As(err, &bad) || errors.Is(bad, rdb.ErrShortRead)
	at, what := t.l.syncRead.Load(), "Unexpected EOF reading RDB file"
	if bad != nil {
		at = bad.Offset
	}
	switch {
	case short && t.parse:
		t.l.broken = true
		s.log.Warning("Short read or OOM loading DB. Unrecoverable error, aborting now.")
		s.log.Warning("Internal error in RDB reading offset %d -> %s. Failure loading rdb format from socket, assuming connection error, resuming operation.", at, what)
	case bad != nil:
		s.log.Warning("Internal error in RDB reading offset %d -> %s", at, bad.Reason)
	}
	from := ""
	if t.parse {
		from = " from socket"
	}
	return linkErrorf("Failed trying to load the MASTER synchronization DB%s: %s", from, err)
}

// drain reads what is left of the transfer behind the snapshot: its mark.
func (t *transfer) drain(src io.Reader) error {
	n, err := io.Copy(io.Discard, lockedReader{t.l.s, src})
	if err != nil {
		return err
	}
	if n > 0 {
		return fmt.Errorf("%d bytes follow the snapshot", n)
	}
	return nil
}

// adopt makes what was loaded ours: the ids, the offset, and, durably, the
// journal's new generation.
func (t *transfer) adopt() error {
	s := t.l.s
	s.repl.lost = true // until the journal says the same as the memory
	hist := replication.History{ID: t.reply.ID}
	s.e.SetStreamDB(t.facts.streamDB)
	jr, st := s.persist.journal, s.persist.stream
	// Nobody appends while a replica loads, so the disk need not be waited for
	// under the lock.
	var err error
	if jr == nil && t.small != nil {
		err = t.newStream(hist, jr, st)
	} else {
		s.e.Unlock()
		err = t.newStream(hist, jr, st)
		s.e.Lock()
	}
	switch {
	case err != nil:
		if jr != nil {
			s.journalFailed(err)
		}
		return linkErrorf("The synchronized data cannot be made durable: %s", errnoText(err))
	case s.repl.link != t.l || s.persist.stream != st:
		return errSuperseded
	}
	s.repl.hist, s.repl.lost, s.repl.shared = hist, false, 0
	s.restoreMarks(t.facts.slots)
	s.e.Dirty = 0
	return nil
}

func (t *transfer) newStream(hist replication.History, jr *journal.Journal, st journal.Stream) error {
	base := t.reply.Offset
	if m, ok := st.(*journal.Memory); ok {
		m.Reset(base)
		return t.keepDump()
	}
	if t.temp == "" || jr == nil {
		return errors.New("the journal was switched on or off meanwhile")
	}
	name := checkpointName(base)
	if err := t.fs.Rename(t.temp, t.fs.PathJoin(t.dir, name)); err != nil {
		return err
	}
	if err := syncDir(t.fs, t.dir); err != nil {
		return err
	}
	t.temp = ""
	return jr.BeginGeneration(journal.NewGeneration{HistoryIDs: [2]string{hist.ID, ""}, Base: base, Checkpoint: name, CheckpointPos: base})
}

// keepDump: without a journal, the received file is the data's only copy on
// disk, as dump.rdb.
func (t *transfer) keepDump() error {
	s := t.l.s
	if t.temp == "" || s.cfg.RDBDelSyncFiles && len(s.cfg.SavePoints) == 0 {
		return nil
	}
	if s.array.a != nil && t.fs == vfs.FS(s.array.a) {
		return nil // meant for the journal, which was switched off meanwhile
	}
	if err := s.fs.Rename(t.temp, s.fs.PathJoin(s.cfg.Dir, s.cfg.DBFilename)); err != nil {
		s.log.Warning("Failed trying to rename the temp DB into %s in MASTER <-> REPLICA synchronization: %s", s.cfg.DBFilename, errnoText(err))
		return nil // the data is in memory, as it would be without a file
	}
	t.temp = ""
	return syncDir(s.fs, s.cfg.Dir)
}

// swapKeyspace puts another data set in the place of the present one. The
// engine's lock is held.
func (s *Server) swapKeyspace(ks *keyspace.Keyspace) {
	old := s.ks
	s.e.UnblockAllForRoleChange() // what they wait for is going to be gone
	for i := range old.NumDB() {
		s.e.TouchedAll(old.DB(i), ks.DB(i))
	}
	s.ks, s.e.KS = ks, ks
	s.e.ForgetOwnExpires()
	ks.SetClock(s.e.NowMs)
	for _, c := range s.conns {
		c.cl.DB = ks.DB(c.cl.DB.Index())
	}
	if err := old.Close(); err != nil {
		s.log.Warning("Giving back the memory of the old data set: %s", err)
	}
}

// progressReader reads from the link and counts.
type progressReader struct {
	l       *masterLink
	nc      net.Conn
	timeout time.Duration
}

func (r *progressReader) Read(p []byte) (int, error) {
	_ = r.nc.SetReadDeadline(time.Now().Add(r.timeout))
	n, err := r.l.r.Read(p)
	if n > 0 {
		r.l.lastIO.Store(monotonic())
		r.l.syncRead.Add(int64(n))
		r.l.s.stat.replInBytes.Add(int64(n))
		r.l.s.stat.inBytes.Add(int64(n))
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // the connection has ended, not the snapshot
	}
	return n, err
}

// markReader reads up to a mark, which it holds back. The mark is what the
// sender's bytes end with: it sends nothing more until it is acknowledged.
type markReader struct {
	src  io.Reader
	mark string
	held []byte // the last bytes read, at most as many as the mark has
	out  []byte // read, and known not to be of the mark
	buf  []byte
	end  bool
}

func (r *markReader) Read(p []byte) (int, error) {
	for len(r.out) == 0 {
		if r.end {
			return 0, io.EOF
		}
		if r.buf == nil {
			r.buf = make([]byte, replication.IDLen+linkBuffer)
		}
		k := copy(r.buf, r.held)
		n, err := r.src.Read(r.buf[k:])
		if n == 0 && err != nil {
			return 0, err
		}
		all := r.buf[:k+n]
		keep := min(len(all), len(r.mark))
		r.out = all[:len(all)-keep]
		r.held = append(r.held[:0], all[len(all)-keep:]...)
		r.end = string(r.held) == r.mark
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}

// dryRun is the rdb.Visitor of a verification: it accepts what could be loaded.
type dryRun struct{ key []byte }

func (v *dryRun) BeginKey(key []byte, _ rdb.Meta) error {
	v.key = append(v.key[:0], key...)
	return nil
}
func (v *dryRun) Opaque(rdb.Type, []byte) error          { return opaqueKey(v.key) }
func (v *dryRun) Function(code []byte) error             { return functionCode(code) }
func (v *dryRun) Aux(_, _ []byte) error                  { return nil }
func (v *dryRun) SelectDB(int) error                     { return nil }
func (v *dryRun) ResizeDB(_, _ uint64) error             { return nil }
func (v *dryRun) String([]byte) error                    { return nil }
func (v *dryRun) Blob(rdb.Kind, []byte) error            { return nil }
func (v *dryRun) BeginCollection(rdb.Kind, uint64) error { return nil }
func (v *dryRun) ListNode([]byte) error                  { return nil }
func (v *dryRun) Element([]byte) error                   { return nil }
func (v *dryRun) Pair(_, _ []byte) error                 { return nil }
func (v *dryRun) ScorePair([]byte, float64) error        { return nil }
func (v *dryRun) EndKey() error                          { return nil }
