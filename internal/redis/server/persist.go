package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/journal"
	"holdfast/internal/redis/command"
	"holdfast/internal/redis/config"
	"holdfast/internal/redis/keyspace"
	"holdfast/internal/redis/rdb"
	"holdfast/internal/redis/resp"
	"holdfast/internal/redis/sds"
)

// journalDir is the journal's directory below dir.
const journalDir = "journal"

// persistence is the state of journal, checkpoints and dump.rdb. Under the
// engine's lock but for the atomics; stream is set before anybody serves and
// changed only while all loops wait for the lock.
type persistence struct {
	stream     journal.Stream
	journal    *journal.Journal // stream, when it is on disk; else nil
	always     atomic.Bool
	running    atomic.Bool // a snapshot runs
	job        *snapshotJob
	journalErr error
	journalAt  string // directory of journal
	nextReopen time.Time

	lastSave           time.Time // of dump.rdb
	lastSaveTry        time.Time
	lastSaveFailed     bool
	lastBgsaveSec      int64
	saves              int64
	bgsaveScheduled    bool
	ckptScheduled      bool
	ckptBase           int64 // journal bytes when the last checkpoint was made
	ckptSize           int64 // of the last checkpoint
	lastCkptSec        int64
	lastCkptFailed     bool
	ckpts              int64
	loadedKeys         int64
	atLoad             *journal.Memory // what expired while dump.rdb was loaded, nil: nothing
	expiredKeys        int64
	loadStart          time.Time
	loadTotal          int64
	loadDone           atomic.Int64
	checkpointFailures int       // in a row
	ckptRetry          time.Time // no automatic checkpoint before
}

// streamDB is the database that the stream is at. The engine's lock is held.
func (s *Server) streamDB() int { return s.e.StreamDB() }

// loadData is start-up, which is recovery: it opens the journal, or imports
// what Redis left, and leaves the data in memory and a stream to append to.
func (s *Server) loadData() error {
	s.persist.always.Store(s.cfg.AppendFsync == config.FsyncAlways)
	s.persist.loadStart = time.Now()
	var err error
	if s.cfg.AppendOnly {
		err = s.loadJournal()
	} else {
		err = s.loadDump()
	}
	if err != nil {
		return err
	}
	s.e.Dirty = 0
	s.persist.lastSave = time.Now()
	return nil
}

func journalLevel(f config.AppendFsync) journal.Level {
	switch f {
	case config.FsyncAlways:
		return journal.LevelAlways
	case config.FsyncNo:
		return journal.LevelNo
	}
	return journal.LevelEverySec
}

// journalPath is where the journal is; one that is open stays where it is when
// CONFIG SET dir changes the directory for what comes later.
func (s *Server) journalPath() string {
	if s.persist.journal != nil {
		return s.persist.journalAt
	}
	if s.array.a != nil {
		return journalDir
	}
	return s.fs.PathJoin(s.cfg.Dir, journalDir)
}

func (s *Server) openJournal() (*journal.Journal, journal.Recovery, error) {
	s.persist.journalAt = s.journalPath()
	return journal.Open(journal.Options{
		FS: s.journalFS(), Dir: s.journalPath(), SegmentSize: int64(s.cfg.JournalSegmentSize),
		PreZero: s.array.a == nil, // files of an array only grow
		Level:   journalLevel(s.cfg.AppendFsync), MemoryWindow: int(min(s.cfg.ReplBacklogSize, 64<<20)),
		RetainSize: max(int64(s.cfg.JournalRetainSize), s.cfg.ReplBacklogSize), RetainTime: time.Duration(s.cfg.JournalRetainTime) * time.Second,
		Logf: s.log.Warning,
	})
}

// loadJournal opens the journal and brings the data to its end.
func (s *Server) loadJournal() error {
	if err := s.journalFS().MkdirAll(s.journalPath(), 0o755); err != nil {
		return fmt.Errorf("Can't create the journal's directory: %w", err)
	}
	j, rec, err := s.openJournal()
	if err != nil {
		return err
	}
	s.persist.journal = j
	if !rec.Fresh {
		// Clients come in while the records are applied: there is nothing yet that
		// could be made durable for them.
		defer func() { s.persist.stream = j }()
		if s.array.a != nil && s.hasPlainJournal() {
			s.log.Warning("The journal on the disk array is the newer word: %s is not read", s.plainJournal())
		}
		return s.replay(source{j, s.journalFS(), s.journalPath()}, rec)
	}
	s.persist.stream = j
	imported := false
	if s.array.a != nil {
		if imported, err = s.importPlainJournal(); err != nil {
			return err
		}
	}
	if !imported {
		if err := s.importData(); err != nil {
			return err
		}
	}
	if err := s.firstGeneration(); err != nil {
		return err
	}
	if imported {
		return s.setPlainJournalAside()
	}
	return nil
}

// source is a journal that data is loaded from.
type source struct {
	j   *journal.Journal
	fs  vfs.FS
	dir string
}

// replay loads the checkpoint and applies what the journal holds behind it.
func (s *Server) replay(from source, rec journal.Recovery) error {
	if _, err := s.fs.Stat(s.fs.PathJoin(s.cfg.Dir, s.cfg.DBFilename)); err == nil {
		s.log.Notice("The journal is the newer word: %s is not loaded", s.cfg.DBFilename)
	}
	if rec.TornBytes > 0 {
		s.log.Warning("The journal ends in a torn record, as after a power cut: %d bytes at %s:%d were never acknowledged and are left out",
			rec.TornBytes, rec.TornFile, rec.TornOffset)
	}
	streamDB := -1
	if rec.Checkpoint != "" {
		// Nothing expires here: the records behind may have lengthened a life.
		facts, err := s.loadFile(from.fs, from.fs.PathJoin(from.dir, rec.Checkpoint), true)
		if err != nil {
			return fmt.Errorf("the checkpoint %s of the journal cannot be loaded: %w; see `holdfast check %s`", rec.Checkpoint, err, s.cfg.Dir)
		}
		streamDB = facts.streamDB
		s.restoreMarks(facts.slots)
	}
	cl := s.replayClient()
	if streamDB >= 0 && streamDB < s.ks.NumDB() {
		cl.DB = s.ks.DB(streamDB)
	}
	n := 0
	p := resp.Parser{Trusted: true} // one for all records: its slices are used again
	err := from.j.Replay(rec.CheckpointPos, func(r journal.Record) error {
		if r.Type != journal.TypeStream {
			return nil
		}
		n++
		s.yield(n)
		if s.stopped() {
			return errStopped
		}
		return s.applyPayload(cl, &p, r.Payload)
	})
	if err != nil {
		return fmt.Errorf("replaying the journal: %w", err)
	}
	s.e.Release(cl)
	s.repl.restore(rec.HistoryIDs, rec.SecondEnd, rec.End)
	if n > 0 || streamDB >= 0 {
		s.e.SetStreamDB(cl.DB.Index())
	}
	s.log.Notice("DB loaded from journal: generation %d, %d records up to position %d, %.3f seconds", rec.Generation, n, rec.End, time.Since(s.persist.loadStart).Seconds())
	return nil
}

var errStopped = errors.New("stopped while loading")

// stopped reports whether the server is to end.
func (s *Server) stopped() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// yield lets clients in between two records, so that they are told -LOADING.
// The engine's lock is held; it is free for a moment.
func (s *Server) yield(n int) {
	if n%256 == 0 {
		s.yieldNow()
	}
}

func (s *Server) yieldNow() {
	s.e.Unlock()
	s.e.Lock()
}

// replayClient is the client as which records are applied: nothing expires, no
// reply is kept, nothing is refused.
func (s *Server) replayClient() *command.Client {
	cl := s.e.NewClient(0)
	cl.Flags |= command.FlagReplay
	cl.Authenticated = true
	return cl
}

// applyPayload executes the commands of a record.
func (s *Server) applyPayload(cl *command.Client, p *resp.Parser, b []byte) error {
	for len(b) > 0 {
		n, err := p.Next(b)
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		if len(p.Args) > 0 {
			if err := s.replayOne(cl, p.Args); err != nil {
				return err
			}
		}
		b = b[n:]
	}
	return nil
}

// replayOne executes one command of a journal or an append-only file. A command
// that this server does not know, because it was renamed or belongs to another
// version, must not be passed over: the data would silently differ.
func (s *Server) replayOne(cl *command.Client, args [][]byte) error {
	if s.e.Table.Lookup(args[0]) == nil {
		return fmt.Errorf("Unknown command '%s' reading the append only file", args[0][:min(len(args[0]), 128)])
	}
	s.e.Dispatch(cl, args)
	return nil
}

// importData loads what Redis left in dir: its append-only files if there are
// any, else dump.rdb.
func (s *Server) importData() error {
	aofDir := s.fs.PathJoin(s.cfg.Dir, s.cfg.AppendDirname)
	manifest := s.fs.PathJoin(aofDir, s.cfg.AppendFilename+".manifest")
	if _, err := s.fs.Stat(manifest); err == nil {
		return s.importAOF(aofDir, manifest)
	}
	if old := s.fs.PathJoin(s.cfg.Dir, s.cfg.AppendFilename); s.isFile(old) {
		return s.importAOFFile(old, s.replayClient())
	}
	// A journal begins behind this, so what has expired is kept until it expires
	// once more: replicas that return learn of it by the journal.
	return s.importDump(true)
}

func (s *Server) isFile(path string) bool {
	st, err := s.fs.Stat(path)
	return err == nil && !st.IsDir()
}

// importDump loads dump.rdb if there is one.
func (s *Server) importDump(keepExpired bool) error {
	path := s.fs.PathJoin(s.cfg.Dir, s.cfg.DBFilename)
	if !s.isFile(path) {
		return nil
	}
	facts, err := s.loadFile(s.fs, path, keepExpired)
	if err != nil {
		return s.dumpUnreadable(err)
	}
	s.repl.restoreFromRDB(facts)
	s.restoreMarks(facts.slots)
	s.log.Notice("DB loaded from disk: %.3f seconds", time.Since(s.persist.loadStart).Seconds())
	return nil
}

var errInvalid = errors.New("Invalid argument")

// dumpUnreadable logs what is wrong with dump.rdb and returns the last line of
// it, for the end of the process, in the words of Redis.
func (s *Server) dumpUnreadable(err error) error {
	var e *rdb.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("Fatal error loading the DB: %w. Exiting.", err)
	}
	what := e.Reason
	switch {
	case errors.Is(e, rdb.ErrVersion):
		s.log.Warning("%s", e.Reason)
		return fmt.Errorf("Fatal error loading the DB: %w. Exiting.", errInvalid)
	case errors.Is(e, rdb.ErrShortRead):
		s.log.Warning("%s", e.Reason)
		what = "Unexpected EOF reading RDB file"
	case errors.Is(e, rdb.ErrChecksum):
		s.log.Warning("%s", e.Reason)
		what = "RDB CRC error"
	}
	return fmt.Errorf("Internal error in RDB reading offset %d -> %s", e.Offset, what)
}

// loadDump is start-up without a journal.
func (s *Server) loadDump() error {
	if st, err := s.journalFS().Stat(s.fs.PathJoin(s.journalPath(), "journal.manifest-a")); err == nil && !st.IsDir() {
		s.log.Warning("There is a journal in %s, but appendonly is no: it is not read. Start with --appendonly yes to use it.", s.journalPath())
	}
	if err := s.importDump(!s.cfg.ReplicaOf.IsZero() || s.isReplicaNode()); err != nil {
		return err
	}
	m := s.persist.atLoad
	if s.persist.atLoad = nil; m == nil {
		m = journal.NewMemory(int(s.cfg.ReplBacklogSize))
		m.Reset(s.repl.startOffset())
	}
	s.persist.stream = m
	return nil
}

// expiredAtLoad writes the stream of a master that starts without a journal: the
// keys of its dump.rdb that have expired. Replicas that know the history that the
// file names go on where it ends, and have those keys yet.
type expiredAtLoad struct {
	s     *Server
	facts *rdbFacts
	db    int // that the stream is at
	buf   []byte
}

func (x *expiredAtLoad) drop(db int, key []byte) {
	if x.facts.replID == "" || !x.facts.hasOffset {
		return
	}
	p := &x.s.persist
	if p.atLoad == nil {
		p.atLoad = journal.NewMemory(int(x.s.cfg.ReplBacklogSize))
		p.atLoad.Reset(x.facts.replOffset)
		x.db = -1
	}
	x.buf = x.buf[:0]
	if db != x.db {
		x.db = db
		x.buf = resp.AppendCommandBytes(x.buf, [][]byte{[]byte("SELECT"), strconv.AppendInt(nil, int64(db), 10)})
	}
	x.buf = resp.AppendCommandBytes(x.buf, [][]byte{[]byte("DEL"), key})
	p.atLoad.Append(journal.TypeStream, 0, x.buf)
	_ = p.atLoad.Flush() // memory does not fail
}

// rdbFacts are the auxiliary fields of a snapshot that matter here.
type rdbFacts struct {
	replID     string
	replOffset uint64
	hasOffset  bool
	streamDB   int
	slots      string                           // slots that were on their way
	say        func(format string, args ...any) // the log, nil: nobody is told
}

func (f *rdbFacts) aux(key, val []byte) error {
	switch string(key) {
	case "repl-id":
		if len(val) == 40 {
			f.replID = string(val)
		}
	case "repl-offset":
		if n, err := strconv.ParseUint(string(val), 10, 64); err == nil {
			f.replOffset, f.hasOffset = n, true
		}
	case "repl-stream-db":
		if n, err := strconv.Atoi(string(val)); err == nil {
			f.streamDB = n
		}
	case auxSlotMoves:
		f.slots = string(val)
	default:
		f.tell(string(key), string(val))
	}
	return nil
}

// loadFile loads an RDB file into the keyspace. keepExpired: a replica's, whose
// master will say what expires.
func (s *Server) loadFile(fs vfs.FS, path string, keepExpired bool) (rdbFacts, error) {
	f, err := fs.Open(path, vfs.SequentialReadsOption)
	if err != nil {
		return rdbFacts{}, err
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil {
		s.persist.loadTotal = st.Size()
	}
	return s.loadRDB(f, keepExpired)
}

// tell logs what a snapshot says of its origin.
func (f *rdbFacts) tell(key, val string) {
	if f.say == nil {
		return
	}
	n, err := strconv.ParseInt(val, 10, 64)
	switch {
	case key == "redis-ver":
		f.say("Loading RDB produced by version %s", val)
	case key == "ctime" && err == nil:
		f.say("RDB age %d seconds", max(0, time.Now().Unix()-n))
	case key == "used-mem" && err == nil:
		f.say("RDB memory usage when created %.2f Mb", float64(n)/(1<<20))
	}
}

// loadRDB loads an RDB stream into the keyspace.
func (s *Server) loadRDB(r io.Reader, keepExpired bool) (rdbFacts, error) {
	facts := rdbFacts{streamDB: -1, say: s.log.Notice}
	l := &keyspace.Loader{KS: s.ks, DB: s.ks.DB(0), OnAux: facts.aux, OnOpaque: opaqueKey, OnFunc: functionCode}
	if !keepExpired {
		l.DropBeforeMs = time.Now().UnixMilli()
		l.OnExpired = (&expiredAtLoad{s: s, facts: &facts}).drop
	}
	progress := func(n int64) {
		s.persist.loadDone.Store(n)
		s.yieldNow()
	}
	res, err := rdb.Load(r, s.paced(l), rdb.Options{SkipChecksum: !s.cfg.RDBChecksum, Progress: progress, OnEmpty: s.noteEmpty()})
	if err == nil && s.stopped() {
		err = errStopped
	}
	s.persist.loadedKeys, s.persist.expiredKeys = l.Loaded, l.Expired
	if err == nil {
		if res.NoChecksum && s.cfg.RDBChecksum {
			s.log.Warning("RDB file was saved with checksum disabled: no check performed.")
		}
		s.noteLoaded(l, res)
	}
	return facts, err
}

// noteEmpty returns what logs the first empty keys of a load.
func (s *Server) noteEmpty() func(key []byte) {
	n := 0
	return func(key []byte) {
		if n++; n <= 10 {
			s.log.Warning("rdbLoadObject skipping empty key: %s", key)
		}
	}
}

func (s *Server) noteLoaded(l *keyspace.Loader, res rdb.Result) {
	if res.EmptyKeys > 0 {
		s.log.Warning("Done loading RDB, keys loaded: %d, keys expired: %d, empty keys skipped: %d.", l.Loaded, l.Expired, res.EmptyKeys)
		return
	}
	s.log.Notice("Done loading RDB, keys loaded: %d, keys expired: %d.", l.Loaded, l.Expired)
}

// paced is l, slowed down by key-load-delay.
func (s *Server) paced(l *keyspace.Loader) rdb.Visitor {
	if s.cfg.KeyLoadDelay == 0 {
		return l
	}
	return slowLoader{l, s}
}

type slowLoader struct {
	*keyspace.Loader
	s *Server
}

// EndKey waits behind each key without the lock; the delay may be changed
// meanwhile.
func (l slowLoader) EndKey() error {
	err := l.Loader.EndKey()
	for wait := perKey(int64(l.s.cfg.KeyLoadDelay), l.Loaded) - perKey(int64(l.s.cfg.KeyLoadDelay), l.Loaded-1); wait > 0 && err == nil && l.s.cfg.KeyLoadDelay != 0; wait -= dawdleStep {
		l.s.e.Unlock()
		time.Sleep(min(wait, dawdleStep))
		l.s.e.Lock()
		if l.s.stopped() {
			err = errStopped
		}
	}
	return err
}

func opaqueKey(key []byte) error {
	return fmt.Errorf("key %q is a stream, a type that this server does not hold yet; delete it in Redis and save again", key)
}

func functionCode([]byte) error {
	return fmt.Errorf("the file holds a function library, which this server cannot run yet; FUNCTION FLUSH in Redis and save again")
}

// importAOF imports the append-only directory of Redis 7.
func (s *Server) importAOF(dir, manifest string) error {
	b, err := s.readSmallFile(manifest)
	if err != nil {
		return err
	}
	cl := s.replayClient()
	for _, line := range strings.Split(string(b), "\n") {
		// "file NAME seq N type b|i|h": a name may be quoted, and history files
		// are of no interest.
		f, err := sds.SplitArgs([]byte(line))
		if err != nil {
			return fmt.Errorf("Invalid AOF manifest file format: %q: %w", line, err)
		}
		if len(f) < 6 || string(f[0]) != "file" || string(f[5]) == "h" {
			continue
		}
		if err := s.importAOFFile(s.fs.PathJoin(dir, string(f[1])), cl); err != nil {
			return err
		}
	}
	s.log.Notice("DB loaded from append only file: %.3f seconds", time.Since(s.persist.loadStart).Seconds())
	return nil
}

func (s *Server) readSmallFile(path string) ([]byte, error) {
	f, err := s.fs.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 1<<20))
}

// firstGeneration makes the journal's first generation, whose checkpoint is
// what was imported.
func (s *Server) firstGeneration() error {
	g := journal.NewGeneration{HistoryIDs: s.repl.ids(), SecondEnd: s.repl.secondEnd(), Base: s.repl.startOffset()}
	s.e.SetStreamDB(-1)
	if s.keys() > 0 {
		name, err := s.writeCheckpoint(g.Base)
		if err != nil {
			return fmt.Errorf("writing the first checkpoint: %w", err)
		}
		g.Checkpoint, g.CheckpointPos = name, g.Base
	}
	return s.persist.journal.BeginGeneration(g)
}

func (s *Server) keys() (n int) {
	for i := range s.ks.NumDB() {
		n += s.ks.DB(i).Len()
	}
	return n
}

func checkpointName(pos uint64) string {
	return fmt.Sprintf("checkpoint-%020d-%d.rdb", pos, time.Now().UnixMicro())
}

// writeCheckpoint writes a checkpoint of the present moment, at once, for a
// generation that begins at pos; the engine's lock is held or nobody serves.
func (s *Server) writeCheckpoint(pos uint64) (string, error) {
	name := checkpointName(pos)
	t, err := newFileTarget(s.journalFS(), s.journalPath(), "temp-"+name, name, s.cfg.RDBSaveIncrementalFsync)
	if err != nil {
		return "", err
	}
	if s.persist.job != nil {
		s.persist.job.cancel("superseded by a new generation of the journal")
	}
	j := s.startSnapshot("checkpoint", t, func(*snapshotJob, error) {})
	return name, j.runToEnd()
}

// startCheckpoint begins a checkpoint of the running generation while serving.
// The engine's lock is held.
func (s *Server) startCheckpoint() error {
	jr := s.persist.journal
	s.persist.ckptScheduled = false
	name := checkpointName(s.streamEnd())
	t, err := newFileTarget(s.journalFS(), s.journalPath(), "temp-"+name, name, s.cfg.RDBSaveIncrementalFsync)
	if err != nil {
		s.checkpointFailed()
		return err
	}
	s.log.Notice("Background checkpoint started")
	s.startSnapshot("checkpoint", &checkpointTarget{t, jr, s.streamEnd()}, func(j *snapshotJob, err error) {
		s.persist.lastCkptSec = int64(time.Since(j.began).Seconds())
		if err != nil {
			s.log.Warning("Background checkpoint failed: %s", err)
			s.checkpointFailed()
			return
		}
		s.persist.lastCkptFailed, s.persist.checkpointFailures = false, 0
		s.persist.ckpts++
		s.persist.ckptSize, s.persist.ckptBase = t.written, jr.Stats().DiskBytes
		s.log.Notice("Background checkpoint terminated with success: position %d, %d bytes", j.pos, t.written)
	})
	return nil
}

// checkpointTarget is a file that becomes the journal's checkpoint when it is
// whole. Whoever begins a new generation ends the running snapshot first, so
// that it never becomes the checkpoint of another one.
type checkpointTarget struct {
	*fileTarget
	jr  *journal.Journal
	pos uint64
}

// Finish implements snapshotTarget. It syncs several times and holds no lock of
// the server meanwhile.
func (t *checkpointTarget) Finish() error {
	if err := t.fileTarget.Finish(); err != nil {
		return err
	}
	// On error the file stays: a restart may find it named.
	return t.jr.CheckpointDone(t.name, t.pos)
}

// checkpointFailed sees to it that automatic checkpoints are tried less and less
// often while they fail.
func (s *Server) checkpointFailed() {
	s.persist.lastCkptFailed = true
	wait := min(time.Hour, 5*time.Second<<min(s.persist.checkpointFailures, 10))
	s.persist.checkpointFailures++
	s.persist.ckptRetry = time.Now().Add(wait)
}

// startBgsave begins a snapshot into dump.rdb while serving. The engine's lock
// is held.
func (s *Server) startBgsave() error {
	s.persist.bgsaveScheduled = false
	s.persist.lastSaveTry = time.Now()
	t, err := newFileTarget(s.fs, s.cfg.Dir, tempDump(), s.cfg.DBFilename, s.cfg.RDBSaveIncrementalFsync)
	if err != nil {
		s.saveFailed(err)
		return err
	}
	s.log.Notice("Background saving started by pid %d", pid())
	s.startSnapshot("dump", t, func(j *snapshotJob, err error) {
		s.persist.lastBgsaveSec = int64(time.Since(j.began).Seconds())
		if err != nil {
			s.saveFailed(err)
			return
		}
		s.log.Notice("DB saved on disk")
		s.log.Notice("Background saving terminated with success")
		s.saved(j)
	})
	return nil
}

// tempDump is the name of a dump in the making.
func tempDump() string { return fmt.Sprintf("temp-%d.rdb", pid()) }

func (s *Server) saveFailed(err error) {
	if why := canceled(""); errors.As(err, &why) { // nothing is wrong
		s.log.Warning("Background saving terminated by signal 10")
		return
	}
	s.persist.lastSaveFailed = true
	s.logSaveError(err)
	s.log.Warning("Background saving error")
	s.updateDiskError()
}

func (s *Server) logSaveError(err error) {
	var m *movingError
	if errors.As(err, &m) {
		s.log.Warning("%s", m)
	} else {
		s.log.Warning("Write error saving DB on disk: %s", errnoText(err))
	}
}

func (s *Server) saved(j *snapshotJob) {
	s.e.Dirty -= j.dirty
	s.persist.lastSave = time.Now()
	s.persist.lastSaveFailed = false
	s.persist.saves++
	s.updateDiskError()
}

// saveNow writes dump.rdb at once (SAVE, SHUTDOWN). The engine's lock is held.
func (s *Server) saveNow() error {
	if j := s.persist.job; j != nil {
		j.cancel("superseded by SAVE")
	}
	t, err := newFileTarget(s.fs, s.cfg.Dir, tempDump(), s.cfg.DBFilename, s.cfg.RDBSaveIncrementalFsync)
	if err != nil {
		s.log.Warning("%s", err)
		return err
	}
	j := s.startSnapshot("dump", t, func(*snapshotJob, error) {})
	if err := j.runToEnd(); err != nil {
		s.logSaveError(err)
		return err
	}
	s.log.Notice("DB saved on disk")
	s.saved(j)
	return nil
}

// persistCron starts what is due: a scheduled or automatic snapshot; and tries
// a failed journal again. The engine's lock is held.
func (s *Server) persistCron(now time.Time) {
	s.arrayCron()
	s.reopenJournal(now)
	if s.persist.job != nil || s.e.State.Loading {
		return
	}
	switch {
	case s.persist.ckptScheduled && s.persist.journal != nil:
		_ = s.startCheckpoint() // logged, and seen in INFO
	case s.persist.bgsaveScheduled:
		_ = s.startBgsave()
	case s.saveDue(now):
		_ = s.startBgsave()
	case s.checkpointDue():
		_ = s.startCheckpoint()
	}
}

func (s *Server) saveDue(now time.Time) bool {
	if s.persist.lastSaveFailed && now.Sub(s.persist.lastSaveTry) < 5*time.Second {
		return false
	}
	for _, p := range s.cfg.SavePoints {
		if s.e.Dirty >= int64(p.Changes) && now.Sub(s.persist.lastSave) > time.Duration(p.Seconds)*time.Second {
			s.log.Notice("%d changes in %d seconds. Saving...", p.Changes, p.Seconds)
			return true
		}
	}
	return false
}

// checkpointDue: the journal has grown by auto-aof-rewrite-percentage of the
// last checkpoint, and beyond auto-aof-rewrite-min-size.
func (s *Server) checkpointDue() bool {
	jr := s.persist.journal
	if jr == nil || s.cfg.AutoAOFRewritePercentage == 0 || s.persist.journalErr != nil || !s.every(time.Second) {
		return false
	}
	if time.Now().Before(s.persist.ckptRetry) {
		return false
	}
	// What is kept for replicas does not count, so positions tell.
	grown := int64(s.streamEnd() - jr.Manifest().CheckpointPos)
	if grown < s.cfg.AutoAOFRewriteMinSize {
		return false
	}
	return grown >= s.persist.ckptSize*int64(s.cfg.AutoAOFRewritePercentage)/100
}

// reopenJournal tries, once a second, to go on after the journal failed: a
// disk that was full may have room again.
func (s *Server) reopenJournal(now time.Time) {
	jr := s.persist.journal
	if jr == nil {
		return
	}
	if s.persist.journalErr == nil {
		if err := jr.Err(); err != nil {
			s.journalFailed(err)
		}
		return
	}
	if now.Before(s.persist.nextReopen) {
		return
	}
	s.persist.nextReopen = now.Add(time.Second)
	err := jr.Reopen()
	if errors.Is(err, journal.ErrNotHeld) {
		// What the disk does not have is only in the data by now: begin anew with
		// all of it.
		s.log.Warning("What the journal has not written is no longer held: it begins anew with a checkpoint.")
		err = s.newGeneration(s.streamEnd(), s.streamDB())
	}
	if err != nil {
		s.log.Verbose("The journal still cannot be written: %s", err)
		return
	}
	s.persist.journalErr = nil
	s.updateDiskError()
	s.log.Warning("The journal can be written again, writes are accepted.")
}

// setAppendOnly switches the journal on or off while serving (CONFIG SET
// appendonly). The engine's lock is held.
func (s *Server) setAppendOnly(on bool) error {
	if on == (s.persist.journal != nil) {
		return nil
	}
	end := s.streamEnd()
	if on {
		return s.journalOn(end)
	}
	old := s.persist.journal
	if s.jobIs("checkpoint") {
		s.persist.job.cancel("appendonly is switched off")
	}
	// Other loops may be about to commit what they executed before.
	if err := old.Flush(); err == nil {
		if err := old.Sync(end); err != nil {
			s.log.Warning("Syncing the journal before it is switched off: %s", err)
		}
	}
	m := journal.NewMemory(int(s.cfg.ReplBacklogSize))
	m.Reset(end)
	s.switchStream(m, nil)
	s.persist.journalErr = nil
	s.persist.ckptScheduled = false
	s.updateDiskError()
	if err := old.Close(); err != nil {
		s.log.Warning("Closing the journal: %s", err)
	}
	return nil
}

// journalOn begins a generation with a checkpoint of the present moment.
func (s *Server) journalOn(end uint64) error {
	if err := s.journalFS().MkdirAll(s.journalPath(), 0o755); err != nil {
		return err
	}
	j, _, err := s.openJournal()
	if err != nil {
		return err
	}
	name, err := s.writeCheckpoint(end)
	if err == nil {
		err = j.BeginGeneration(journal.NewGeneration{HistoryIDs: s.repl.ids(), SecondEnd: s.repl.secondEnd(),
			Base: end, Checkpoint: name, CheckpointPos: end})
	}
	if err == nil {
		err = j.Start()
	}
	if err != nil {
		_ = j.Close() // the error that matters is the first
		return err
	}
	s.sweepJournal(j)
	s.switchStream(j, j)
	return nil
}

// switchStream puts another stream in place of the running one. Followers of
// the old one begin anew. The engine's lock is held.
func (s *Server) switchStream(st journal.Stream, j *journal.Journal) {
	s.persist.stream, s.persist.journal = st, j
	s.streamSwitched()
}

// newGeneration makes the present data the beginning of a new history, durably:
// after a full resynchronisation, and by DEBUG CHANGE-REPL-ID. The engine's
// lock is held.
func (s *Server) newGeneration(base uint64, streamDB int) error {
	s.e.SetStreamDB(streamDB)
	if s.persist.journal == nil {
		s.persist.stream.(*journal.Memory).Reset(base)
		return nil
	}
	g := journal.NewGeneration{HistoryIDs: s.repl.ids(), SecondEnd: s.repl.secondEnd(), Base: base}
	name, err := s.writeCheckpoint(base)
	if err != nil {
		return err
	}
	g.Checkpoint, g.CheckpointPos = name, base
	return s.persist.journal.BeginGeneration(g)
}

// loadPreamble loads the RDB that an append-only file begins with and returns
// what was read beyond its end.
func (s *Server) loadPreamble(r io.Reader) (io.Reader, error) {
	l := &keyspace.Loader{KS: s.ks, DB: s.ks.DB(0), OnOpaque: opaqueKey, OnFunc: functionCode}
	res, err := rdb.Load(r, l, rdb.Options{SkipChecksum: !s.cfg.RDBChecksum})
	return bytes.NewReader(bytes.Clone(res.Rest)), err
}
