package server

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"holdfast/internal/redis/command"
	"holdfast/internal/redis/config"
	"holdfast/internal/redis/glob"
	"holdfast/internal/redis/keyspace"
	"holdfast/internal/redis/rdb"
	"holdfast/internal/redis/resp"
	"holdfast/internal/redis/sds"
)

func (s *Server) debugCommands() []command.Spec {
	return []command.Spec{
		{Name: "debug", Arity: -2, Flags: adminTime | command.Protected, Run: s.debugCommand},
	}
}

// debugSub is a subcommand of DEBUG, which has no rows of the command table in
// Redis either. Its number of words, DEBUG included, is within min and max; 0
// is any.
type debugSub struct {
	name     string
	min, max int
	run      func(s *Server, c *command.Ctx)
}

var debugSubs = []debugSub{
	{"aof-flush-sleep", 3, 3, debugNothing},
	{"assert", 0, 0, debugAssert},
	{"change-repl-id", 2, 2, debugChangeReplID},
	{"client-eviction", 2, 2, debugClientEviction},
	{"clusterlink", 5, 5, debugClusterlink},
	{"config-rewrite-force-all", 2, 2, debugConfigRewrite},
	{"crash-and-recover", 0, 0, debugRestart},
	{"digest", 2, 2, debugDigest},
	{"digest-value", 2, 0, debugDigestValue},
	{"drop-cluster-packet-filter", 3, 3, debugDropPackets},
	{"error", 3, 3, debugError},
	{"help", 2, 2, debugHelp},
	{"htstats", 3, 0, debugHtstats},
	{"htstats-key", 3, 0, debugHtstatsKey},
	{"leak", 3, 3, func(_ *Server, c *command.Ctx) { c.OK() }}, // the collector would undo it
	{"listpack", 3, 3, debugListpack},
	{"loadaof", 2, 2, debugLoadAOF},
	{"log", 3, 3, debugLog},
	{"mallctl", 3, 4, debugNothing},
	{"mallctl-str", 3, 4, debugNothing},
	{"object", 3, 0, debugObject},
	{"oom", 0, 0, debugOOM},
	{"panic", 0, 0, debugPanic},
	{"pause-cron", 3, 3, debugPauseCron},
	{"populate", 3, 5, debugPopulate},
	{"protocol", 3, 3, debugProtocol},
	{"quicklist", 3, 4, debugQuicklist},
	{"quicklist-packed-threshold", 3, 3, debugPackedThreshold},
	{"reload", 0, 0, debugReload},
	{"replicate", 3, 0, debugReplicate},
	{"replybuffer", 4, 4, debugReplybuffer},
	{"restart", 0, 0, debugRestart},
	{"sdslen", 3, 3, debugSdslen},
	{"segfault", 0, 0, debugSegfault},
	{"set-active-expire", 3, 3, debugSetActiveExpire},
	{"set-disable-deny-scripts", 3, 3, func(_ *Server, c *command.Ctx) { c.OK() }}, // there are no scripts
	{"set-skip-checksum-validation", 3, 3, debugSkipChecksum},
	{"sleep", 3, 3, debugSleep},
	{"stringmatch-test", 2, 2, debugStringmatch},
	{"structsize", 2, 2, debugStructsize},
}

func (s *Server) debugCommand(c *command.Ctx) {
	c.NoPropagate()
	for i := range debugSubs {
		d := &debugSubs[i]
		n := len(c.Args)
		if c.Is(1, d.name) && n >= d.min && (d.max == 0 || n <= d.max) {
			d.run(s, c)
			return
		}
	}
	c.ErrSub()
}

// atoi reads a number as C's atoi does: what is none is 0.
func atoi(b []byte) int64 {
	s := strings.TrimLeft(string(b), " \t\n\v\f\r")
	end := 0
	for end < len(s) && (s[end] >= '0' && s[end] <= '9' || end == 0 && (s[0] == '-' || s[0] == '+')) {
		end++
	}
	n, err := strconv.ParseInt(s[:end], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// debugNothing refuses what has no meaning here.
func debugNothing(_ *Server, c *command.Ctx) {
	c.Errf("ERR DEBUG %s has no meaning in this server, whose internals are others than those of Redis", strings.ToUpper(string(c.Args[1])))
}

// --- crashes ---

func debugAssert(s *Server, _ *command.Ctx) {
	s.failAssertion("1 == 2", "DEBUG ASSERT: assertion failed: 1 == 2")
}

func debugPanic(s *Server, _ *command.Ctx) {
	s.softwareFailure("called by Unittest or DEBUG PANIC")
}

func debugOOM(*Server, *command.Ctx) { panic("DEBUG OOM: out of memory") }

func debugSegfault(s *Server, _ *command.Ctx) { s.dieBy(syscall.SIGSEGV) }

// debugRestart is RESTART and CRASH-AND-RECOVER: the process becomes a new one
// with the same arguments, after everything was saved, or as it is.
func debugRestart(s *Server, c *command.Ctx) {
	delay := int64(0)
	if len(c.Args) >= 3 {
		var ok bool
		if delay, ok = c.IntArg(2); !ok {
			return
		}
	}
	graceful := c.Is(1, "restart")
	s.restart(graceful, time.Duration(max(delay, 0))*time.Millisecond)
	c.Err("ERR failed to restart the server. Check server logs.")
}

func (s *Server) restart(graceful bool, delay time.Duration) {
	if graceful {
		if s.cfg.File != "" {
			if err := s.rewriteConfig(); err != nil {
				s.log.Warning("Can't restart: configuration rewrite process failed: %s", err)
				return
			}
		}
		if st := s.persist.stream; st != nil {
			if err := st.Flush(); err != nil {
				s.log.Warning("Can't restart: writing the journal failed: %s", err)
				return
			}
			if err := st.Sync(st.End()); err != nil {
				s.log.Warning("Can't restart: syncing the journal failed: %s", err)
				return
			}
		}
		if len(s.cfg.SavePoints) > 0 && s.saveNow() != nil {
			s.log.Warning("Can't restart: error preparing for shutdown")
			return
		}
	}
	time.Sleep(delay)
	err := syscall.Exec(s.exe, s.args, os.Environ())
	s.log.Warning("Can't restart: %s", err)
}

// --- digests ---

func debugDigest(s *Server, c *command.Ctx) {
	d := datasetDigest(s.ks)
	c.Simple(d.String())
}

func debugDigestValue(_ *Server, c *command.Ctx) {
	c.Array(len(c.Args) - 2)
	for _, key := range c.Args[2:] {
		var d digest
		// Also keys that are logically expired have a digest.
		if r, ok := c.DB.Find(key); ok {
			d.value(r)
		}
		c.Simple(d.String())
	}
}

// --- loading ---

func debugReload(s *Server, c *command.Ctx) {
	flush, save, merge := true, true, false
	for i := 2; i < len(c.Args); i++ {
		switch {
		case c.Is(i, "merge"):
			merge = true
		case c.Is(i, "noflush"):
			flush = false
		case c.Is(i, "nosave"):
			save = false
		default:
			c.Err("ERR DEBUG RELOAD only supports the MERGE, NOFLUSH and NOSAVE options.")
			return
		}
	}
	if save {
		if err := s.saveNow(); err != nil {
			c.Err("ERR")
			return
		}
	}
	if flush {
		s.ks.Flush(-1, false)
	}
	loadErr := s.reloadFile(s.fs.PathJoin(s.cfg.Dir, s.cfg.DBFilename), merge)
	// What a file of another time has left in memory is news to the journal.
	if !save && s.persist.journal != nil {
		if err := s.newGeneration(s.streamEnd(), s.streamDB()); err != nil {
			s.log.Warning("DEBUG RELOAD: the journal cannot begin anew: %s", err)
			c.Err("ERR the journal cannot begin anew with what was loaded: " + errnoText(err))
			return
		}
	}
	if loadErr != nil {
		s.log.Warning("DEBUG RELOAD: %s", loadErr)
		c.Err("ERR Error trying to load the RDB dump")
		return
	}
	s.log.Warning("DB reloaded by DEBUG RELOAD")
	c.OK()
}

// reloadFile loads an RDB file beside what is in memory; with merge, its keys
// replace those of the same name.
func (s *Server) reloadFile(path string, merge bool) error {
	f, err := s.fs.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	l := &keyspace.Loader{KS: s.ks, DB: s.ks.DB(0), OnOpaque: opaqueKey, OnFunc: functionCode}
	if !s.repl.isReplica.Load() {
		l.DropBeforeMs = s.e.NowMs
	}
	var v rdb.Visitor = l
	if merge {
		v = mergingLoader{l}
	}
	_, err = rdb.Load(f, v, rdb.Options{SkipChecksum: !s.cfg.RDBChecksum || s.e.SkipChecksum})
	return err
}

// mergingLoader makes room for each key that it loads.
type mergingLoader struct{ *keyspace.Loader }

func (m mergingLoader) BeginKey(key []byte, meta rdb.Meta) error {
	m.DB.Delete(key, false)
	return m.Loader.BeginKey(key, meta)
}

// debugLoadAOF brings the data to what checkpoint and journal say.
func debugLoadAOF(s *Server, c *command.Ctx) {
	switch {
	case s.persist.journal == nil:
		c.Err("ERR there is no journal to load: appendonly is no")
		return
	case c.Client.Has(command.FlagDenyBlocking):
		c.Err("ERR DEBUG LOADAOF is not possible inside a transaction")
		return
	}
	kept := *c // the engine has one context, which the replay uses as well
	err := s.reloadJournal()
	*c = kept
	if err != nil {
		s.log.Warning("DEBUG LOADAOF: %s", err)
		c.Err("ERR loading the journal failed: " + err.Error())
		return
	}
	s.log.Warning("Append Only File loaded by DEBUG LOADAOF")
	c.OK()
}

// reloadJournal empties the keyspace and fills it again from the journal's
// checkpoint and what the journal holds behind it. The engine's lock is held.
func (s *Server) reloadJournal() error {
	j := s.persist.journal
	if err := j.Flush(); err != nil {
		return err
	}
	if err := j.Sync(j.End()); err != nil {
		return err
	}
	m := j.Manifest()
	from := m.Base
	if m.Checkpoint != "" {
		from = m.CheckpointPos
	}
	f, err := j.Follow(from)
	if err != nil {
		return err
	}
	defer f.Close()
	s.ks.Flush(-1, false)
	// What is replayed is in the stream already.
	stream := s.e.Stream
	s.e.Stream = nil
	defer func() { s.e.Stream = stream }()
	cl := s.replayClient()
	if m.Checkpoint != "" {
		facts, err := s.loadFile(s.journalFS(), s.fs.PathJoin(s.journalPath(), m.Checkpoint), true)
		if err != nil {
			return err
		}
		if facts.streamDB >= 0 && facts.streamDB < s.ks.NumDB() {
			cl.DB = s.ks.DB(facts.streamDB)
		}
	}
	defer s.e.Release(cl)
	p := resp.Parser{Trusted: true}
	var buf []byte
	chunk := make([]byte, 256<<10)
	for f.Pos() < j.End() {
		n, err := f.Read(chunk)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		buf = append(buf, chunk[:n]...)
		used, err := s.applyCommands(&p, buf, cl)
		if err != nil {
			return err
		}
		buf = buf[:copy(buf, buf[used:])]
	}
	s.e.Dirty = 0
	return nil
}

// --- settings ---

func debugSetActiveExpire(s *Server, c *command.Ctx) {
	s.e.SetActiveExpire(atoi(c.Args[2]) != 0)
	c.OK()
}

func debugPauseCron(s *Server, c *command.Ctx) {
	s.cron.paused = atoi(c.Args[2]) != 0
	c.OK()
}

func debugSkipChecksum(s *Server, c *command.Ctx) {
	s.e.SkipChecksum = atoi(c.Args[2]) != 0
	c.OK()
}

func debugReplybuffer(s *Server, c *command.Ctx) {
	switch {
	case c.Is(2, "resizing"):
		s.cron.replyResizing = atoi(c.Args[3]) != 0
	case c.Is(2, "peak-reset-time"):
		switch {
		case c.Is(3, "never"):
			s.cron.replyPeakResetMs = replyPeakNever
		case c.Is(3, "reset"):
			s.cron.replyPeakResetMs = replyPeakReset
		default:
			ms, ok := c.IntArg(3)
			if !ok {
				return
			}
			s.cron.replyPeakResetMs = ms
		}
	default:
		c.ErrSub()
		return
	}
	c.OK()
}

func debugPackedThreshold(_ *Server, c *command.Ctx) {
	n, ok := config.ParseMemory(string(c.Args[2]))
	if !ok || n > 1<<32-1<<20 {
		c.Err("ERR argument must be a memory value bigger than 1 and smaller than 4gb")
		return
	}
	c.OK()
}

func debugChangeReplID(s *Server, c *command.Ctx) {
	s.log.Warning("Changing replication IDs after receiving change-repl-id")
	if err := s.changeReplID(); err != nil {
		s.log.Warning("The new replication ID could not be stored: %s", err)
		c.Err("ERR the new replication ID could not be stored: " + errnoText(err))
		return
	}
	c.OK()
}

func debugConfigRewrite(s *Server, c *command.Ctx) {
	if s.cfg.File == "" {
		c.Err("ERR CONFIG-REWRITE-FORCE-ALL failed: Bad address")
		return
	}
	if err := s.rewriteWholeConfig(); err != nil {
		c.Err("ERR CONFIG-REWRITE-FORCE-ALL failed: " + errnoText(err))
		return
	}
	c.OK()
}

// rewriteWholeConfig is rewriteConfig with a line for every parameter that has
// a value, at its default or not.
func (s *Server) rewriteWholeConfig() error {
	text, err := s.cfg.Rewrite()
	if err != nil {
		return err
	}
	for _, p := range s.cfg.Params() {
		line := []byte(p.Name + " ")
		if p.Is(config.IsAlias) || p.Value() == "" || bytes.HasPrefix(text, line) || bytes.Contains(text, append([]byte{'\n'}, line...)) {
			continue
		}
		value := p.Value()
		if !p.Is(config.MultiArg) {
			value = string(sds.AppendRepr(nil, []byte(value)))
		}
		text = append(append(append(text, line...), value...), '\n')
	}
	return replaceFile(s.cfg.File, text)
}

func debugReplicate(_ *Server, c *command.Ctx) {
	// The journal is the stream that replicas get, so after a restart this
	// server agrees with them again.
	c.Also(c.Args[2:]...)
	c.OK()
}

func debugLog(s *Server, c *command.Ctx) {
	s.log.Warning("DEBUG LOG: %s", c.Args[2])
	c.OK()
}

func debugError(_ *Server, c *command.Ctx) {
	text := strings.NewReplacer("\n", " ", "\r", " ").Replace(string(c.Args[2]))
	c.Buf = append(append(append(c.Buf, '-'), text...), '\r', '\n')
}

func debugClientEviction(s *Server, c *command.Ctx) {
	limit := s.clientMemoryLimit()
	if limit == 0 {
		c.Err("ERR maxmemory-clients is disabled.")
		return
	}
	var total int64
	n := 0
	for _, k := range s.conns {
		if k.evictable() {
			total += k.memory()
			n++
		}
	}
	c.Verbatim("txt", fmt.Sprintf("clients that may be evicted: %d\ntheir memory: %d\nlimit: %d\n", n, total, limit))
}

// debugSleep stops the whole server.
func debugSleep(_ *Server, c *command.Ctx) {
	if f, ok := command.ParseFloat(c.Args[2]); ok && f > 0 {
		time.Sleep(time.Duration(min(f, 1e9) * float64(time.Second)))
	}
	c.OK()
}

// --- what a value looks like inside ---

func debugObject(s *Server, c *command.Ctx) {
	r, ok := c.DB.Find(c.Args[2])
	if !ok {
		c.Err(command.ErrNoKey)
		return
	}
	clock := time.Now().Unix() & (1<<24 - 1)
	extra := ""
	if r.Type() == keyspace.TypeList {
		extra = s.listShape(r)
	}
	idle := r.IdleSeconds()
	c.Simple(fmt.Sprintf("Value at:%p refcount:%d encoding:%s serializedlength:%d lru:%d lru_seconds_idle:%d%s",
		unsafe.SliceData(r.Key()), c.RefCount(r), r.Encoding(), len(r.AppendDumpValue(nil, s.cfg.RDBCompression))-1, (clock-idle)&(1<<24-1), idle, extra))
}

// listShape is how a quicklist of these elements would look.
func (s *Server) listShape(r keyspace.Ref) string {
	l := r.DB().List(r)
	nodes, inNode, size, total := 1, 0, 0, 0
	limit, count := nodeLimit(s.cfg.ListMaxListpackSize)
	l.Each(0, false, func(_ int, v []byte) bool {
		n := len(v) + 2
		if inNode > 0 && (size+n > limit || inNode >= count) {
			nodes, inNode, size = nodes+1, 0, 0
		}
		inNode, size, total = inNode+1, size+n, total+n
		return true
	})
	return fmt.Sprintf(" ql_nodes:%d ql_avg_node:%.2f ql_listpack_max:%d ql_compressed:%d ql_uncompressed_size:%d",
		nodes, float64(l.Len())/float64(nodes), max(s.cfg.ListMaxListpackSize, -5), flag(s.cfg.ListCompressDepth > 0), total+7*nodes)
}

// nodeLimit is how many bytes and elements a list node may have.
func nodeLimit(fill int) (bytes, elements int) {
	if fill >= 0 {
		return 8192, max(fill, 1)
	}
	return 4096 << (min(-fill, 5) - 1), 1 << 30
}

func debugSdslen(_ *Server, c *command.Ctx) {
	r, ok := c.DB.Find(c.Args[2])
	switch {
	case !ok:
		c.Err(command.ErrNoKey)
	case r.Type() != keyspace.TypeString || r.Encoding() == "int":
		c.Err("ERR Not an sds encoded string.")
	default:
		k, v := len(r.Key()), len(r.Bytes())
		c.Simple(fmt.Sprintf("key_sds_len:%d, key_sds_avail:0, key_zmalloc: %d, val_sds_len:%d, val_sds_avail:0, val_zmalloc: %d", k, k+8, v, v+8))
	}
}

func debugListpack(_ *Server, c *command.Ctx) {
	r, ok := c.DB.Find(c.Args[2])
	switch {
	case !ok:
		c.Err(command.ErrNoKey)
	case r.Encoding() != "listpack":
		c.Err("ERR Not a listpack encoded object.")
	default:
		c.Simple("Listpack structure printed on stdout")
	}
}

func debugQuicklist(_ *Server, c *command.Ctx) {
	r, ok := c.DB.Find(c.Args[2])
	switch {
	case !ok:
		c.Err(command.ErrNoKey)
	case r.Type() != keyspace.TypeList:
		c.Err("ERR Not a quicklist encoded object.")
	default:
		c.Simple("Quicklist structure printed on stdout")
	}
}

// tableStats describes an index of n entries in the words of Redis. The index
// here has no chains: an entry takes the next free slot of its segment.
func tableStats(n int) string {
	if n == 0 {
		return "Hash table 0 stats (main hash table):\nNo stats available for empty dictionaries\n"
	}
	size := 4
	for size < n {
		size *= 2
	}
	return fmt.Sprintf("Hash table 0 stats (main hash table):\n table size: %d\n number of elements: %d\n different slots: %d\n max chain length: 1\n"+
		" avg chain length (counted): 1.00\n avg chain length (computed): 1.00\n Chain length distribution:\n   0: %d (%.2f%%)\n   1: %d (%.2f%%)\n",
		size, n, n, size-n, float64(size-n)*100/float64(size), n, float64(n)*100/float64(size))
}

func debugHtstats(s *Server, c *command.Ctx) {
	n, ok := c.IntArg(2)
	if !ok {
		return
	}
	if n < 0 || n >= int64(s.ks.NumDB()) {
		c.Err("ERR Out of range database")
		return
	}
	db := s.ks.DB(int(n))
	c.Verbatim("txt", "[Dictionary HT]\n"+tableStats(db.Len())+"[Expires HT]\n"+tableStats(db.Volatile()))
}

func debugHtstatsKey(_ *Server, c *command.Ctx) {
	r, ok := c.DB.Find(c.Args[2])
	if !ok {
		c.Err(command.ErrNoKey)
		return
	}
	n := 0
	switch db := r.DB(); r.Encoding() {
	case "hashtable":
		if r.Type() == keyspace.TypeSet {
			v := db.Set(r)
			n = v.Len()
		} else {
			v := db.Hash(r)
			n = v.Len()
		}
	case "skiplist":
		v := db.ZSet(r)
		n = v.Len()
	default:
		c.Err("ERR The value stored at the specified key is not represented using an hash table")
		return
	}
	c.Verbatim("txt", tableStats(n))
}

func debugStructsize(_ *Server, c *command.Ctx) {
	c.BulkStr("bits:64 robj:16 dictentry:24 sdshdr5:1 sdshdr8:3 sdshdr16:5 sdshdr32:9 sdshdr64:17 ")
}

// debugStringmatch matches random patterns, which must come to an end.
func debugStringmatch(s *Server, c *command.Ctx) {
	var pattern, text [32]byte
	for range 100_000 {
		for i := range pattern {
			pattern[i] = "ab*?[]\\-^c"[s.e.Rand.IntN(10)]
			text[i] = byte(s.e.Rand.IntN(128))
		}
		glob.Match(pattern[:s.e.Rand.IntN(len(pattern))], text[:s.e.Rand.IntN(len(text))], false)
	}
	c.Simple("Apparently Redis did not crash: test passed")
}

// --- POPULATE ---

func debugPopulate(s *Server, c *command.Ctx) {
	keys, ok := c.IntArgRange(2, 0, math.MaxInt64, command.ErrNotPositive)
	if !ok {
		return
	}
	const most = 1 << 36 // beyond any memory
	if keys > most {
		c.Err("ERR OOM in dictTryExpand")
		return
	}
	size := int64(0)
	if len(c.Args) == 5 {
		if size, ok = c.IntArgRange(4, 0, math.MaxInt64, command.ErrNotPositive); !ok {
			return
		}
		if size > s.cfg.ProtoMaxBulkLen {
			c.Err("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
			return
		}
	}
	prefix := "key"
	if len(c.Args) > 3 {
		prefix = string(c.Args[3])
	}
	const keyRoom = 127 // bytes of a key, as in Redis
	value := make([]byte, size)
	var key, text []byte
	for i := range keys {
		key = append(append(key[:0], prefix...), ':')
		key = strconv.AppendInt(key, i, 10)
		key = key[:min(len(key), keyRoom)]
		if _, has := c.Write(key); has {
			continue
		}
		text = strconv.AppendInt(append(text[:0], "value:"...), i, 10)
		val := text
		if size > 0 {
			copy(value, text)
			val = value
		}
		c.DB.SetString(key, val, -1)
		c.Touched(key)
	}
	c.OK()
}

// --- PROTOCOL ---

func debugProtocol(_ *Server, c *command.Ctx) {
	switch kind := strings.ToLower(string(c.Args[2])); kind {
	case "string":
		c.BulkStr("Hello World")
	case "integer":
		c.Int(12345)
	case "double":
		c.Double(3.141)
	case "null":
		c.Null()
	case "array", "set":
		if kind == "array" {
			c.Array(3)
		} else {
			c.Set(3)
		}
		for i := range int64(3) {
			c.Int(i)
		}
	case "map":
		c.Map(3)
		for i := range int64(3) {
			c.Int(i)
			c.Bool(i == 1)
		}
	case "attrib":
		if c.Proto == 3 {
			c.Buf = append(c.Buf, "|1\r\n"...)
			c.BulkStr("key-popularity")
			c.Array(2)
			c.BulkStr("key:123")
			c.Int(90)
		}
		// An attribute is no reply: one follows.
		c.BulkStr("Some real reply following the attribute")
	case "push":
		if c.Proto < 3 {
			c.Err("ERR RESP2 is not supported by this command")
			return
		}
		c.Push(2)
		c.BulkStr("server-cpu-usage")
		c.Int(42)
		c.BulkStr("Some real reply following the push reply")
	case "true", "false":
		c.Bool(kind == "true")
	case "verbatim":
		c.Verbatim("txt", "This is a verbatim\nstring")
	case "bignum":
		const n = "1234567999999999999999999999999999999"
		if c.Proto == 3 {
			c.Buf = append(append(append(c.Buf, '('), n...), '\r', '\n')
		} else {
			c.BulkStr(n)
		}
	default:
		c.Err("ERR Wrong protocol type name. Please use one of the following: string|integer|double|bignum|null|array|set|map|attrib|push|verbatim|true|false")
	}
}

func debugHelp(_ *Server, c *command.Ctx) {
	c.Help(strings.Split(strings.TrimSpace(debugHelpText), "\n")...)
}

const debugHelpText = `
AOF-FLUSH-SLEEP <microsec>
    Server will sleep before flushing the AOF, this is used for testing.
ASSERT
    Crash by assertion failed.
CHANGE-REPL-ID
    Change the replication IDs of the instance.
    Dangerous: should be used only for testing the replication subsystem.
CONFIG-REWRITE-FORCE-ALL
    Like CONFIG REWRITE but writes all configuration options, including
    keywords not listed in original configuration file or default values.
CRASH-AND-RECOVER [<milliseconds>]
    Hard crash and restart after a <milliseconds> delay (default 0).
DIGEST
    Output a hex signature representing the current DB content.
DIGEST-VALUE <key> [<key> ...]
    Output a hex signature of the values of all the specified keys.
ERROR <string>
    Return a Redis protocol error with <string> as message. Useful for clients
    unit tests to simulate Redis errors.
LEAK <string>
    Create a memory leak of the input string.
LOG <message>
    Write <message> to the server log.
HTSTATS <dbid>
    Return hash table statistics of the specified Redis database.
HTSTATS-KEY <key>
    Like HTSTATS but for the hash table stored at <key>'s value.
LOADAOF
    Flush the AOF buffers on disk and reload the AOF in memory.
REPLICATE <string>
    Replicates the provided string to replicas, allowing data divergence.
MALLCTL <key> [<val>]
    Get or set a malloc tuning integer.
MALLCTL-STR <key> [<val>]
    Get or set a malloc tuning string.
OBJECT <key>
    Show low level info about ` + "`" + `key` + "`" + ` and associated value.
DROP-CLUSTER-PACKET-FILTER <packet-type>
    Drop all packets that match the filtered type. Set to -1 allow all packets.
OOM
    Crash the server simulating an out-of-memory error.
PANIC
    Crash the server simulating a panic.
POPULATE <count> [<prefix>] [<size>]
    Create <count> string keys named key:<num>. If <prefix> is specified then
    it is used instead of the 'key' prefix. These are not propagated to
    replicas. Cluster slots are not respected so keys not belonging to the
    current node can be created in cluster mode.
PROTOCOL <type>
    Reply with a test value of the specified type. <type> can be: string,
    integer, double, bignum, null, array, set, map, attrib, push, verbatim,
    true, false.
RELOAD [option ...]
    Save the RDB on disk and reload it back to memory. Valid <option> values:
    * MERGE: conflicting keys will be loaded from RDB.
    * NOFLUSH: the existing database will not be removed before load, but
      conflicting keys will generate an exception and kill the server.
    * NOSAVE: the database will be loaded from an existing RDB file.
    Examples:
    * DEBUG RELOAD: verify that the server is able to persist, flush and reload
      the database.
    * DEBUG RELOAD NOSAVE: replace the current database with the contents of an
      existing RDB file.
    * DEBUG RELOAD NOSAVE NOFLUSH MERGE: add the contents of an existing RDB
      file to the database.
RESTART [<milliseconds>]
    Graceful restart: save config, db, restart after a <milliseconds> delay (default 0).
SDSLEN <key>
    Show low level SDS string info representing ` + "`" + `key` + "`" + ` and value.
SEGFAULT
    Crash the server with sigsegv.
SET-ACTIVE-EXPIRE <0|1>
    Setting it to 0 disables expiring keys in background when they are not
    accessed (otherwise the Redis behavior). Setting it to 1 reenables back the
    default.
QUICKLIST-PACKED-THRESHOLD <size>
    Sets the threshold for elements to be inserted as plain vs packed nodes
    Default value is 1GB, allows values up to 4GB. Setting to 0 restores to default.
SET-SKIP-CHECKSUM-VALIDATION <0|1>
    Enables or disables checksum checks for RDB files and RESTORE's payload.
SLEEP <seconds>
    Stop the server for <seconds>. Decimals allowed.
STRINGMATCH-TEST
    Run a fuzz tester against the stringmatchlen() function.
STRUCTSIZE
    Return the size of different Redis core C structures.
LISTPACK <key>
    Show low level info about the listpack encoding of <key>.
QUICKLIST <key> [<0|1>]
    Show low level info about the quicklist encoding of <key>.
    The optional argument (0 by default) sets the level of detail
CLIENT-EVICTION
    Show low level client eviction pools info (maxmemory-clients).
PAUSE-CRON <0|1>
    Stop periodic cron job processing.
REPLYBUFFER PEAK-RESET-TIME <NEVER||RESET|time>
    Sets the time (in milliseconds) to wait between client reply buffer peak resets.
    In case NEVER is provided the last observed peak will never be reset
    In case RESET is provided the peak reset time will be restored to the default value
REPLYBUFFER RESIZING <0|1>
    Enable or disable the reply buffer resize cron job
CLUSTERLINK KILL <to|from|all> <node-id>
    Kills the link based on the direction to/from (both) with the provided node.
`
