package command

import (
	"time"

	"holdfast/internal/redis/rdb"
	"holdfast/internal/redis/resp"
)

// MIGRATE stores keys at another server and deletes them here. Redis holds all
// clients up until the other side has answered. Here only those wait that write
// to the keys on their way: the values are serialised under the lock, the shell
// sends them without it, and the keys are deleted, under the lock again, once
// the target has them. What writes without asking (expiry, eviction, FLUSHALL,
// a served BLMOVE) is noticed; then the key is sent again as Redis does it, with
// everybody waiting.
//
// Inside of EXEC nothing may happen in between, so it is done as in Redis.

var migrateCommands = []Spec{
	{Name: "migrate", Arity: -6, Flags: Write | MovableKeys, Cat: CatKeyspace | CatDangerous, Tips: []string{"nondeterministic_output"}, Keys: []KeySpec{
		Key(KeyRW|KeyAccess|KeyDelete, 3, 3, 1),
		{Flags: KeyRW | KeyAccess | KeyDelete | KeyIncomplete, Keyword: "KEYS", StartFrom: -2, Last: -1, Step: 1},
	}, Run: cmdMigrate, GetKeys: migrateKeys},
}

// Texts of MIGRATE that do not come from the target.
const (
	errMigrateConnect = "IOERR error or timeout connecting to the client"
	errMigrateWrite   = "IOERR error or timeout writing to target instance"
	errMigrateRead    = "IOERR error or timeout reading to target instance"
)

// Transfer is the part of a MIGRATE that happens on the network: a connection
// to Host and Port, AUTH if Auth is not empty, SELECT, and Commands. It belongs
// to whoever carries it out.
type Transfer struct {
	Host, Port string
	DB         int64 // as the client gave it
	Timeout    time.Duration
	Auth       []string // nil, password, or user and password
	Commands   []byte   // encoded, one RESTORE for each key
	Keys       int      // their number, at least 1
}

// TransferResult is what became of a Transfer.
type TransferResult struct {
	// Acked tells for each key whether the target has said to have it.
	Acked []bool
	// TargetError is the first error that the target replied, without the dash.
	TargetError string
	// Failure says what went wrong with the connection. If there is a
	// TargetError too, that came first.
	Failure TransferFailure
}

// TransferFailure is a failure of the connection.
type TransferFailure uint8

// Failures of the connection of a Transfer: none, to connect, to write, to read.
const (
	TransferNoFailure TransferFailure = iota
	TransferNotConnected
	TransferNotWritten
	TransferNotRead
)

// Transferrer carries transfers out: the shell's sockets.
type Transferrer interface {
	// Now carries t out and returns when that is over. The engine's lock is held.
	Now(t *Transfer) TransferResult
	// Begin carries t out beside the engine and returns at once. It calls done,
	// once, later, with the lock held as for a batch.
	Begin(t *Transfer, done func(TransferResult))
}

// migration is a MIGRATE that has begun.
type migration struct {
	e       *Engine
	spec    *Spec
	client  *Client
	block   *Block // of the client, nil when nobody waits
	db      int    // number of the database here
	keys    [][]byte
	copy    bool
	replace bool
	replica bool // whether this server was a replica when it began
	target  Transfer
	held    map[watchKey]*heldKey // keys that others may not write to; nil with copy
	waiting []*Block              // clients that want to, in order
	result  TransferResult        // once it is there
}

// heldKey is a key on its way.
type heldKey struct {
	m       *migration
	changed bool // by somebody who could not wait
}

func migrateKeys(args [][]byte) []KeyRef {
	const flags = KeyRW | KeyAccess | KeyDelete
	for i := 6; i < len(args)-1; i++ {
		switch {
		case EqualFold(args[i], "auth"):
			i++
		case EqualFold(args[i], "auth2"):
			i += 2
		case EqualFold(args[i], "keys") && len(args[3]) > 0:
			return nil // an error
		case EqualFold(args[i], "keys"):
			refs := make([]KeyRef, 0, len(args)-i)
			for i++; i < len(args); i++ {
				refs = append(refs, KeyRef{i, flags})
			}
			return refs
		}
	}
	return []KeyRef{{3, flags}}
}

func cmdMigrate(c *Ctx) {
	m, keys, ok := c.migrateArgs()
	if !ok {
		return
	}
	for _, key := range keys {
		if _, ok := c.Read(key); ok {
			m.keys = append(m.keys, key)
		}
	}
	if len(m.keys) == 0 {
		c.Simple("NOKEY")
		return
	}
	m.keys = copyArgs(m.keys)
	m.serialise()
	if c.E.Transfer == nil {
		c.Err(errMigrateConnect)
		return
	}
	if c.CanBlock() {
		m.begin(c)
		return
	}
	m.result = c.E.Transfer.Now(&m.target)
	m.conclude(c)
}

// migrateArgs reads the arguments. It replies the error and returns false when
// they are wrong. Passwords are taken out of them.
func (c *Ctx) migrateArgs() (m *migration, keys [][]byte, ok bool) {
	m = &migration{e: c.E, spec: c.Spec, db: c.DB.Index(), replica: c.E.State.IsReplica}
	t := &m.target
	keys = c.Args[3:4]
	secret := func(i int) {
		t.Auth = append(t.Auth, string(c.Args[i]))
		c.Args[i] = redactedArg // from here on only SLOWLOG and MONITOR see it
	}
	for i := 6; i < len(c.Args); i++ {
		more := len(c.Args) - 1 - i
		switch {
		case c.Is(i, "copy"):
			m.copy = true
		case c.Is(i, "replace"):
			m.replace = true
		case c.Is(i, "auth") && more >= 1:
			// A user that AUTH2 has named before stays.
			t.Auth = t.Auth[:max(len(t.Auth)-1, 0)]
			i++
			secret(i)
		case c.Is(i, "auth2") && more >= 2:
			t.Auth = nil
			secret(i + 1)
			secret(i + 2)
			i += 2
		case c.Is(i, "keys"):
			if len(c.Args[3]) != 0 {
				c.Err("ERR When using MIGRATE KEYS option, the key argument must be set to the empty string")
				return nil, nil, false
			}
			keys = c.Args[i+1:]
			i = len(c.Args)
		default:
			c.Err(ErrSyntax)
			return nil, nil, false
		}
	}
	timeout, ok := c.IntArg(5)
	if !ok {
		return nil, nil, false
	}
	if t.DB, ok = c.IntArg(4); !ok {
		return nil, nil, false
	}
	if timeout <= 0 {
		timeout = 1000
	}
	t.Timeout = time.Duration(min(timeout, int64(time.Hour*24*365/time.Millisecond))) * time.Millisecond
	t.Host, t.Port = string(c.Args[1]), string(c.Args[2])
	return m, keys, true
}

var redactedArg = []byte("(redacted)")

// serialise builds the commands for the target. Keys whose time is over go on
// no journey: they are taken out of m.keys.
func (m *migration) serialise() {
	e, db := m.e, m.e.KS.DB(m.db)
	name, buf := "RESTORE", m.target.Commands[:0]
	if e.Cfg.ClusterEnabled {
		name = "RESTORE-ASKING"
	}
	keys := m.keys[:0]
	var value []byte
	for _, key := range m.keys {
		r, ok := db.Find(key)
		if !ok {
			continue
		}
		ttl := int64(0)
		if at := r.ExpireAt(); at != -1 {
			if ttl = at - e.NowMs; ttl < 0 {
				continue
			}
			ttl = max(ttl, 1)
		}
		keys = append(keys, key)
		words := 4
		if m.replace {
			words = 5
		}
		buf = resp.AppendHead(buf, '*', words)
		buf = resp.AppendBulk(buf, []byte(name))
		buf = resp.AppendBulk(buf, key)
		buf = resp.AppendBulk(buf, I(ttl))
		value = rdb.AppendDumpFooter(r.AppendDumpValue(value[:0], e.Cfg.RDBCompression), 0)
		buf = resp.AppendBulk(buf, value)
		if m.replace {
			buf = resp.AppendBulk(buf, []byte("REPLACE"))
		}
	}
	m.keys, m.target.Commands, m.target.Keys = keys, buf, len(keys)
}

// begin sends the keys off, and lets the client wait.
func (m *migration) begin(c *Ctx) {
	e := c.E
	m.client = c.Client
	m.block = &Block{held: true}
	e.block(c, m.block, 0)
	if !m.copy {
		m.held = make(map[watchKey]*heldKey, len(m.keys))
		if e.held == nil {
			e.held = make(map[watchKey]*heldKey)
		}
		for _, key := range m.keys {
			wk := watchKey{m.db, string(key)}
			h := &heldKey{m: m}
			m.held[wk], e.held[wk] = h, h
		}
	}
	target := m.target
	m.target.Commands = nil
	e.Transfer.Begin(&target, func(r TransferResult) {
		m.result = r
		m.arrived()
	})
}

// arrived goes on when the target has answered, unless writes are paused, or held
// for the slot: the end of the stream has been told to somebody, and must not move.
func (m *migration) arrived() {
	e := m.e
	if e.pausedNow() || e.hold != nil && m.db == 0 && e.holdsKeys(m.keys) {
		e.arrived = append(e.arrived, m)
		return
	}
	c := Ctx{Reply: new(Reply), E: e, Client: &Client{}, DB: e.KS.DB(m.db), Spec: m.spec}
	cl := m.client
	waits := m.block != nil && cl.block == m.block
	if waits {
		c.Reply, c.Client = &cl.Reply, cl
	}
	if e.State.IsReplica && !m.replica {
		// Not ours to delete any more. The target has them all the same.
		c.Err(errRoleChanged)
	} else {
		m.conclude(&c)
	}
	if c.failed {
		m.spec.stats.Failed++
	}
	if c.prop != nil {
		e.alsoPropagate(m.db, c.prop)
	}
	for wk := range m.held {
		delete(e.held, wk)
	}
	if waits {
		e.unblock(cl)
		e.endUnit(cl)
		e.resume(cl)
	} else {
		e.endUnit(nil)
	}
	for _, b := range m.waiting {
		if b.client.block == b {
			e.retry(b)
		}
	}
	if len(e.blocking.ready) > 0 {
		e.serveBlocked()
	}
}

const errRoleChanged = "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)"

// conclude deletes what has arrived and replies.
func (m *migration) conclude(c *Ctx) {
	if !m.copy {
		gone := m.deleteArrived(c)
		if len(gone) > 0 {
			c.Rewrite(append([][]byte{argDel}, gone...)...)
		}
	}
	r := &m.result
	switch {
	case r.TargetError != "":
		c.Err("ERR Target instance replied with error: " + r.TargetError)
	case r.Failure == TransferNotConnected:
		c.Err(errMigrateConnect)
	case r.Failure == TransferNotWritten:
		c.Err(errMigrateWrite)
	case r.Failure == TransferNotRead:
		c.Err(errMigrateRead)
	default:
		c.OK()
	}
}

// deleteArrived deletes the keys that the target has, and returns them.
func (m *migration) deleteArrived(c *Ctx) (gone [][]byte) {
	var again [][]byte
	for i, key := range m.keys {
		if i >= len(m.result.Acked) || !m.result.Acked[i] {
			continue
		}
		if h := m.held[watchKey{m.db, string(key)}]; h != nil && h.changed {
			again = append(again, key)
			continue
		}
		gone = m.deleteOne(c, gone, key)
	}
	if len(again) == 0 {
		return gone
	}
	// What stands there now is another value, or none. The old one at the
	// target is of our making, and may be replaced.
	second := *m
	second.keys, second.replace, second.held = again, true, nil
	if second.serialise(); len(second.keys) == 0 {
		return gone
	}
	r := m.e.Transfer.Now(&second.target)
	for i, key := range second.keys {
		if i < len(r.Acked) && r.Acked[i] {
			gone = m.deleteOne(c, gone, key)
		}
	}
	if m.result.TargetError == "" && m.result.Failure == TransferNoFailure {
		m.result.TargetError, m.result.Failure = r.TargetError, r.Failure
	}
	return gone
}

func (m *migration) deleteOne(c *Ctx, gone [][]byte, key []byte) [][]byte {
	if !c.Delete(key) {
		return gone
	}
	c.Changed(NotifyGeneric, "del", key)
	return append(gone, key)
}

// --- those who wait ---

// awaitHeld makes a client wait that is about to write to a key on its way. It
// executes its command again when that is over.
func (e *Engine) awaitHeld(c *Ctx) bool {
	if c.Client.Has(FlagMaster | FlagReplay | FlagDenyBlocking) {
		return false
	}
	m := e.holder(c)
	if m == nil {
		return false
	}
	b := &Block{held: true, retry: true}
	e.block(c, b, 0)
	m.waiting = append(m.waiting, b)
	return true
}

// holder is a migration that has a key to which the request writes, nil if
// there is none.
func (e *Engine) holder(c *Ctx) *migration {
	if c.Spec.Full == "exec" && c.Client.Has(FlagMulti) {
		for _, q := range c.Client.multi {
			if m := e.holderOf(c.DB.Index(), q.spec, q.args); m != nil {
				return m
			}
		}
		return nil
	}
	return e.holderOf(c.DB.Index(), c.Spec, c.Args)
}

func (e *Engine) holderOf(db int, s *Spec, args [][]byte) *migration {
	if !s.Is(Write) {
		return nil
	}
	refs, ok := s.AppendKeys(e.refs[:0], args)
	e.refs = refs[:0]
	if !ok {
		return nil
	}
	for _, r := range refs {
		if h := e.held[watchKey{db, string(args[r.Pos])}]; h != nil {
			return h.m
		}
	}
	return nil
}

// retry dispatches the command of a client again that had to wait for others.
func (e *Engine) retry(b *Block) {
	cl := b.client
	e.unblock(cl)
	if e.Dispatch(cl, b.args) == Postponed {
		again := &Block{held: true, retry: true}
		e.block(&Ctx{E: e, Client: cl, DB: cl.DB, Spec: b.Spec, Args: b.args}, again, max(1, e.State.PauseUntilMs-e.NowMs))
		return
	}
	if cl.block == nil {
		e.resume(cl)
	} else {
		e.Host.Wake(cl)
	}
}

// noteHeld notes that a key was changed.
func (e *Engine) noteHeld(db int, key []byte) {
	if h := e.held[watchKey{db, string(key)}]; h != nil {
		h.changed = true
	}
}

// noteAllHeld notes that a whole database was changed.
func (e *Engine) noteAllHeld(db int) {
	for wk, h := range e.held {
		if wk.db == db {
			h.changed = true
		}
	}
}

// endArrived goes on with migrations that a pause of writes has stopped.
func (e *Engine) endArrived() {
	if len(e.arrived) == 0 || e.pausedNow() {
		return
	}
	todo := e.arrived
	e.arrived = nil
	for _, m := range todo {
		m.arrived()
	}
}

// Migrating is the number of keys on their way, for tests and figures.
func (e *Engine) Migrating() int { return len(e.held) }
