package sentineld

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast/internal/redis/command/helptext"
	"holdfast/internal/redis/resp"
	"holdfast/internal/redis/sentinel"
)

// ACL.

func aclRows() []*spec {
	const admin = "admin slow dangerous"
	return []*spec{
		row("acl|cat", -2, anyTime, "slow", (*client).aclCat),
		row("acl|deluser", -3, adminNow, admin, (*client).aclDelUser),
		row("acl|dryrun", -4, adminNow, admin, (*client).aclDryRun),
		row("acl|genpass", -2, anyTime, "slow", (*client).aclGenPass),
		row("acl|getuser", 3, adminNow, admin, (*client).aclGetUser),
		row("acl|help", 2, "loading stale", "slow", func(c *client, _ []string) { c.help("ACL", helptext.ACL()) }),
		row("acl|list", 2, adminNow, admin, (*client).aclList),
		row("acl|load", 2, adminNow, admin, (*client).aclLoad),
		row("acl|log", -2, adminNow, admin, (*client).aclLogCommand),
		row("acl|save", 2, adminNow, admin, (*client).aclSave),
		row("acl|setuser", -3, adminNow, admin, (*client).aclSetUser),
		row("acl|users", 2, adminNow, admin, (*client).aclUsers),
		row("acl|whoami", 2, anyTime, "slow", func(c *client, _ []string) { c.bulk(c.who().name) }),
	}
}

// who is the user of the connection.
func (c *client) who() *user {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.user
}

func (t *users) get(name string) *user {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byName[name]
}

// noPass reports whether any password, or none, is one of the default user's.
func (t *users) noPass() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byName[defaultUser].noPass
}

// denied replies, and notes, that the user may not do that.
func (c *client) denied(u *user, sp *spec, args []string) bool {
	d, arg := c.s.users.check(u, sp, args)
	switch d {
	case deniedCommand:
		c.s.users.log.add(aclEntry{reason: "command", object: sp.full, user: u.name}, c)
		c.error(fmt.Sprintf("NOPERM this user has no permissions to run the '%s' command", sp.full))
	case deniedChannel:
		c.s.users.log.add(aclEntry{reason: "channel", object: arg, user: u.name}, c)
		c.error("NOPERM this user has no permissions to access one of the channels used as arguments")
	default:
		return false
	}
	return true
}

func strs(list []string) sentinel.Value {
	v := sentinel.Value{Kind: sentinel.Array}
	for _, s := range list {
		v.Elems = append(v.Elems, bulkValue(s))
	}
	return v
}

func (c *client) aclCat(args []string) {
	switch {
	case len(args) == 2:
		c.value(strs(aclCategories))
	case len(args) > 3:
		c.error(badCall(args))
	case !isCategory(args[2]):
		c.error(fmt.Sprintf("ERR Unknown category '%s'", args[2]))
	default:
		var names []string
		each(func(sp *spec) {
			if sp.in(args[2]) {
				names = append(names, sp.full)
			}
		})
		c.value(strs(names))
	}
}

func (c *client) aclUsers([]string) {
	t := c.s.users
	t.mu.RLock()
	names := t.names()
	t.mu.RUnlock()
	c.value(strs(names))
}

func (c *client) aclList([]string) {
	list := c.s.users.describe()
	for i := range list {
		list[i] = "user " + list[i]
	}
	c.value(strs(list))
}

func (c *client) aclSetUser(args []string) {
	t := c.s.users
	if err := t.set(args[2], args[3:]); err != nil {
		c.error("ERR " + err.Error())
		return
	}
	u := t.get(args[2])
	for _, o := range c.s.clients.list() { // nobody follows on what is forbidden now
		channels, patterns := c.s.pubsub.names(o)
		if o.who() == u && !t.mayKeep(u, channels, patterns) {
			c.kill(o)
		}
	}
	c.status("OK")
}

func (c *client) aclDelUser(args []string) {
	if slices.Contains(args[2:], defaultUser) {
		c.error("ERR The 'default' user cannot be removed")
		return
	}
	gone := map[*user]bool{}
	t := c.s.users
	t.mu.Lock()
	for _, n := range args[2:] {
		if u := t.byName[n]; u != nil {
			gone[u] = true
			delete(t.byName, n)
		}
	}
	t.mu.Unlock()
	c.int(int64(len(gone)))
	c.killUsers(gone)
}

// killUsers ends the connections of users.
func (c *client) killUsers(gone map[*user]bool) {
	for _, o := range c.s.clients.list() {
		if gone[o.who()] {
			c.kill(o)
		}
	}
}

func (r *rights) value() []sentinel.Value {
	return []sentinel.Value{bulkValue("commands"), bulkValue(r.commands()), bulkValue("keys"), bulkValue(r.keyText()),
		bulkValue("channels"), bulkValue(r.channelText())}
}

func (c *client) aclGetUser(args []string) {
	t := c.s.users
	t.mu.RLock()
	u := t.byName[args[2]]
	if u != nil {
		u = u.clone()
	}
	t.mu.RUnlock()
	if u == nil {
		c.value(sentinel.Value{Kind: sentinel.Null})
		return
	}
	proto := c.protocol()
	head := resp.AppendHead(nil, '*', 12)
	if proto == 3 {
		head = resp.AppendHead(nil, '%', 6)
	}
	flags := u.flags()
	b := resp.AppendHead(resp.AppendBulkString(head, "flags"), setMark(proto), len(flags))
	for _, f := range flags {
		b = resp.AppendBulkString(b, f)
	}
	b = appendValue(resp.AppendBulkString(b, "passwords"), strs(u.passwords), proto)
	for _, v := range u.root.value() {
		b = appendValue(b, v, proto)
	}
	selectors := sentinel.Value{Kind: sentinel.Array}
	for i := range u.selectors {
		selectors.Elems = append(selectors.Elems, sentinel.Value{Kind: sentinel.Map, Elems: u.selectors[i].value()})
	}
	c.write(appendValue(resp.AppendBulkString(b, "selectors"), selectors, proto))
}

func (c *client) aclGenPass(args []string) {
	if len(args) > 3 {
		c.error(badCall(args))
		return
	}
	bits := int64(256)
	if len(args) == 3 {
		var ok bool
		if bits, ok = resp.ParseInt([]byte(args[2])); !ok {
			c.error("ERR value is not an integer or out of range")
			return
		}
		if bits <= 0 || bits > 4096 {
			c.error("ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to 4096")
			return
		}
	}
	b := make([]byte, 512)
	_, _ = rand.Read(b) // never fails, by its contract
	c.bulk(hex.EncodeToString(b)[:(bits+3)/4])
}

func (c *client) aclDryRun(args []string) {
	u := c.s.users.get(args[2])
	if u == nil {
		c.error(fmt.Sprintf("ERR User '%s' not found", args[2]))
		return
	}
	words := args[3:]
	sp := lookup(c.s.names, words)
	switch {
	case sp == nil || len(sp.sub) > 0 && len(words) > 1:
		c.error(fmt.Sprintf("ERR Command '%s' not found", words[0]))
		return
	case sp.wrongCount(len(words)):
		c.error(wrongArity(sp.full))
		return
	}
	switch d, arg := c.s.users.check(u, sp, words); d {
	case deniedCommand:
		c.bulk(fmt.Sprintf("This user has no permissions to run the '%s' command", sp.full))
	case deniedChannel:
		c.bulk(fmt.Sprintf("This user has no permissions to access the '%s' channel", arg))
	default:
		c.status("OK")
	}
}

// aclEntry is one line of ACL LOG: what was refused, to whom, how often.
type aclEntry struct {
	reason, object, user string
	count                int64
	last                 time.Time
	client               string
}

// aclLog keeps the newest entries first.
type aclLog struct {
	mu      sync.Mutex
	entries []aclEntry
	max     int
}

const aclLogGroup = time.Minute // equal entries no further apart than this are one

func (l *aclLog) add(e aclEntry, c *client) {
	e.count, e.last, e.client = 1, time.Now(), c.line()
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, old := range l.entries {
		if old.reason == e.reason && old.object == e.object && old.user == e.user && e.last.Sub(old.last) <= aclLogGroup {
			e.count += old.count
			l.entries = slices.Delete(l.entries, i, i+1)
			break
		}
	}
	l.entries = slices.Insert(l.entries, 0, e)
	if len(l.entries) > l.max {
		l.entries = l.entries[:l.max]
	}
}

func (c *client) aclLogCommand(args []string) {
	l := &c.s.users.log
	count := int64(10)
	switch {
	case len(args) > 3:
		c.error(badCall(args))
		return
	case len(args) == 3 && strings.EqualFold(args[2], "reset"):
		l.mu.Lock()
		l.entries = nil
		l.mu.Unlock()
		c.status("OK")
		return
	case len(args) == 3:
		var ok bool
		if count, ok = resp.ParseInt([]byte(args[2])); !ok {
			c.error("ERR value is not an integer or out of range")
			return
		}
	}
	l.mu.Lock()
	entries := slices.Clone(l.entries)
	l.mu.Unlock()
	entries = entries[:min(int64(len(entries)), max(count, 0))]
	proto := c.protocol()
	b := resp.AppendHead(nil, '*', len(entries))
	for _, e := range entries {
		b = e.append(b, proto)
	}
	c.write(b)
}

func (e *aclEntry) append(b []byte, proto int) []byte {
	if proto == 3 {
		b = resp.AppendHead(b, '%', 7)
	} else {
		b = resp.AppendHead(b, '*', 14)
	}
	b = resp.AppendInt(resp.AppendBulkString(b, "count"), e.count)
	for _, kv := range [][2]string{{"reason", e.reason}, {"context", "toplevel"}, {"object", e.object}, {"username", e.user}} {
		b = resp.AppendBulkString(resp.AppendBulkString(b, kv[0]), kv[1])
	}
	b = resp.AppendBulkString(b, "age-seconds")
	age := strconv.FormatFloat(float64(time.Since(e.last).Milliseconds())/1000, 'g', 17, 64)
	if proto == 3 {
		b = append(append(append(b, ','), age...), "\r\n"...)
	} else {
		b = resp.AppendBulkString(b, age)
	}
	return resp.AppendBulkString(resp.AppendBulkString(b, "client-info"), e.client)
}

// aclLoad takes all users anew from the file of users, or, where a line of it
// is wrong, none.
func (c *client) aclLoad([]string) {
	path := c.s.base.ACLFile
	if path == "" {
		c.error("ERR " + errACLNoFile.Error())
		return
	}
	fresh, err := loadUsersFile(path, c.s.users.allChannels)
	if err != nil {
		c.error("ERR " + err.Error())
		return
	}
	gone := c.s.users.replace(fresh)
	c.status("OK")
	c.killUsers(gone)
}

func (c *client) aclSave([]string) {
	path := c.s.base.ACLFile
	if path == "" {
		c.error("ERR " + errACLNoFile.Error())
		return
	}
	var text []byte
	for _, u := range c.s.users.describe() {
		text = append(text, "user "+u+"\n"...)
	}
	if err := writeAtomically(path, text, 0o644); err != nil {
		c.s.log.Warning("Opening temp ACL file for ACL SAVE: %v", err)
		c.error("ERR There was an error trying to save the ACLs. Please check the server logs for more information")
		return
	}
	c.status("OK")
}

// replace takes over the users of fresh. Those whose rules stay the same keep
// their connections; the others are returned.
func (t *users) replace(fresh *users) map[*user]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	gone := map[*user]bool{}
	for n, old := range t.byName {
		u := fresh.byName[n]
		switch {
		case n == defaultUser:
			*old = *u
			fresh.byName[n] = old
		case u != nil && u.describe() == old.describe():
			fresh.byName[n] = old
		default:
			gone[old] = true
		}
	}
	t.byName = fresh.byName
	return gone
}
