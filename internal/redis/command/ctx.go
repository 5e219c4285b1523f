package command

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"

	"holdfast/internal/redis/keyspace"
	"holdfast/internal/redis/resp"
)

// Ctx is what a handler sees: one request of one client. It is valid during
// the call only, and so are Args, which alias the connection's input buffer:
// what is kept must be copied (the keyspace copies by itself).
type Ctx struct {
	*Reply // of the client, or of the script

	E      *Engine
	Client *Client
	DB     *keyspace.DB
	Spec   *Spec
	Args   [][]byte

	prop     [][]byte // propagated instead of Args; nil: Args
	propMode propMode
	failed   bool
	// redirected: refused because another node serves the keys.
	redirected bool
}

type propMode uint8

const (
	propAuto  propMode = iota // propagate when the command changed something
	propNever                 // the handler has propagated by itself, or nothing is to be
	propForce
)

// --- errors ---

// Err replies an error; s begins with its code. It is counted in errorstats
// and makes the call a failed one.
func (c *Ctx) Err(s string) {
	c.failed = true
	c.E.countError(s)
	if c.Client.Has(FlagMaster | FlagReplica | FlagReplay) {
		c.E.unexpectedError(c, s)
	}
	c.Buf = resp.AppendError(c.Buf, s)
}

// Errf is Err with formatting.
func (c *Ctx) Errf(format string, args ...any) { c.Err(fmt.Sprintf(format, args...)) }

// Fail makes the call a failed one though it replies no error: another client
// got one.
func (c *Ctx) Fail() { c.failed = true }

// Failed reports whether the handler has replied an error.
func (c *Ctx) Failed() bool { return c.failed }

// ErrArity replies the error of a wrong number of arguments.
func (c *Ctx) ErrArity() {
	c.Errf("ERR wrong number of arguments for '%s' command", c.Spec.Full)
}

// ErrExpire replies the error of an expire time out of range.
func (c *Ctx) ErrExpire() { c.Errf(ErrInvalidExp, c.Spec.Full) }

// ErrSub replies the error of a subcommand called with arguments that do not fit.
func (c *Ctx) ErrSub() {
	c.Errf("ERR unknown subcommand or wrong number of arguments for '%s'. Try %s HELP.",
		clipText(c.Args[1], 128), strings.ToUpper(c.Spec.root().Name))
}

func (s *Spec) root() *Spec {
	if s.Parent != nil {
		return s.Parent
	}
	return s
}

func clip(b []byte, n int) string { return string(b[:min(len(b), n)]) }

// Help replies the lines of a HELP subcommand between the two that all have.
func (c *Ctx) Help(lines ...string) {
	c.Array(len(lines) + 3)
	c.Simple(strings.ToUpper(c.Spec.root().Name) + " <subcommand> [<arg> [value] [opt] ...]. Subcommands are:")
	for _, l := range lines {
		c.Simple(l)
	}
	c.Simple("HELP")
	c.Simple("    Prints this help.")
}

// --- arguments ---

// Is reports whether argument i is the word, in any case.
func (c *Ctx) Is(i int, word string) bool { return i < len(c.Args) && EqualFold(c.Args[i], word) }

// IntArg reads argument i as an integer; when it is none it replies the error
// and returns false.
func (c *Ctx) IntArg(i int) (int64, bool) {
	n, ok := resp.ParseInt(c.Args[i])
	if !ok {
		c.Err(ErrNotInt)
	}
	return n, ok
}

// IntArgRange is IntArg with bounds, both included, and an error text of its
// own ("" for the general one).
func (c *Ctx) IntArgRange(i int, lo, hi int64, text string) (int64, bool) {
	n, ok := resp.ParseInt(c.Args[i])
	if ok && n >= lo && n <= hi {
		return n, true
	}
	switch {
	case text != "":
		c.Err(text)
	case !ok:
		c.Err(ErrNotInt)
	default:
		c.Errf("ERR value is out of range, value must between %d and %d", lo, hi)
	}
	return 0, false
}

// PositiveArg reads argument i as an integer of at least 0.
func (c *Ctx) PositiveArg(i int, text string) (int64, bool) {
	if text == "" {
		text = ErrNotPositive
	}
	n, ok := resp.ParseInt(c.Args[i])
	if !ok && text == ErrNotPositive {
		c.Err(ErrNotInt)
		return 0, false
	}
	if !ok || n < 0 {
		c.Err(text)
		return 0, false
	}
	return n, true
}

// FloatArg reads argument i as a float; NaN is none.
func (c *Ctx) FloatArg(i int) (float64, bool) {
	f, ok := ParseFloat(c.Args[i])
	if !ok {
		c.Err(ErrNotFloat)
	}
	return f, ok
}

// ParseFloat reads a float as strtod does: decimal, hexadecimal, inf and
// infinity in any case; no spaces, no NaN, no overflow of a finite number.
func ParseFloat(b []byte) (float64, bool) {
	if len(b) == 0 || len(b) > 255 {
		return 0, false
	}
	if n, ok := resp.ParseInt(b); ok && len(b) < 16 {
		return float64(n), true
	}
	for _, ch := range b {
		if ch == '_' {
			return 0, false // Go's own syntax
		}
	}
	s := string(b)
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		if hex, ok := hexFloat(s); ok {
			return hex, true
		}
		return 0, false
	}
	if math.IsNaN(f) || f == 0 && !isZero(b) {
		return 0, false // no number, or one that is too small
	}
	return f, true
}

// isZero reports whether the digits of a number, up to its exponent, are zeros.
func isZero(b []byte) bool {
	if i := bytes.IndexAny(b, "eEpP"); i >= 0 {
		b = b[:i]
	}
	return !bytes.ContainsAny(b, "123456789")
}

// hexFloat reads a hexadecimal number without exponent, which strtod takes and
// Go does not.
func hexFloat(s string) (float64, bool) {
	t := strings.TrimLeft(s, "+-")
	if len(s)-len(t) > 1 || (!strings.HasPrefix(t, "0x") && !strings.HasPrefix(t, "0X")) || strings.ContainsAny(t, "pP") {
		return 0, false
	}
	f, err := strconv.ParseFloat(s+"p0", 64)
	return f, err == nil
}

// --- keys ---

// Read looks a key up for reading: an expired key is none, the access is
// counted as hit or miss and for LRU/LFU.
func (c *Ctx) Read(key []byte) (keyspace.Ref, bool) { return c.E.lookupRead(c.DB, c.Client, key) }

// Peek is Read without a trace: no LRU/LFU update, no hit or miss.
func (c *Ctx) Peek(key []byte) (keyspace.Ref, bool) { return c.E.lookupPeek(c.DB, c.Client, key) }

// Write looks a key up for writing: an expired key is deleted first.
func (c *Ctx) Write(key []byte) (keyspace.Ref, bool) { return c.E.lookupWrite(c.DB, c.Client, key) }

// IsType replies WRONGTYPE and returns false when r is not of type t.
func (c *Ctx) IsType(r keyspace.Ref, t keyspace.Type) bool {
	if r.Type() != t {
		c.Err(ErrWrongType)
		return false
	}
	return true
}

// ReadAs is Read with the type check: bad is true when the error has been
// replied; else ok tells whether the key exists.
func (c *Ctx) ReadAs(key []byte, t keyspace.Type) (r keyspace.Ref, ok, bad bool) {
	r, ok = c.Read(key)
	if ok && r.Type() != t {
		c.Err(ErrWrongType)
		return r, false, true
	}
	return r, ok, false
}

// WriteAs is Write with the type check, like ReadAs.
func (c *Ctx) WriteAs(key []byte, t keyspace.Type) (r keyspace.Ref, ok, bad bool) {
	r, ok = c.Write(key)
	if ok && r.Type() != t {
		c.Err(ErrWrongType)
		return r, false, true
	}
	return r, ok, false
}

// Changed says that the key was changed: its watchers' transactions will fail,
// the event of the class is published, and the change counts as one.
func (c *Ctx) Changed(class NotifyClass, event string, key []byte) {
	c.Touched(key)
	c.E.Notify(class, event, key, c.DB)
	c.E.Dirty++
}

// Touched says that the key was changed, without event and count.
func (c *Ctx) Touched(key []byte) { c.touched(c.DB, key) }

func (c *Ctx) touched(db *keyspace.DB, key []byte) {
	if c.E.State.IsReplica {
		c.E.noteOwn(db, c.Client, key)
	}
	c.E.Touched(db, key)
}

// Notify publishes a keyspace event.
func (c *Ctx) Notify(class NotifyClass, event string, key []byte) {
	c.E.Notify(class, event, key, c.DB)
}

// Delete deletes a key of the current database, without event.
func (c *Ctx) Delete(key []byte) bool { return c.DB.Delete(key, c.E.Cfg.LazyfreeLazyServerDel) }

// DeleteIfEmpty deletes key when n, the length left of its collection, is 0,
// and publishes "del".
func (c *Ctx) DeleteIfEmpty(key []byte, n int) {
	if n == 0 {
		c.Delete(key)
		c.Notify(NotifyGeneric, "del", key)
	}
}

// Now is the time of the command in milliseconds since 1970.
func (c *Ctx) Now() int64 { return c.E.NowMs }

// --- propagation ---

// Rewrite replaces what goes to the journal and the replicas; args are copied
// when the command ends, so they may alias.
func (c *Ctx) Rewrite(args ...[]byte) { c.prop = args }

// NoPropagate keeps this command from the journal and the replicas.
func (c *Ctx) NoPropagate() { c.propMode = propNever }

// ForcePropagate propagates the command although it changed nothing.
func (c *Ctx) ForcePropagate() { c.propMode = propForce }

// Also propagates a command of its own, before this one.
func (c *Ctx) Also(args ...[]byte) { c.E.alsoPropagate(c.DB.Index(), args) }

// Bytes is a short way to build arguments.
func B(s string) []byte { return []byte(s) }

// I is an integer as an argument.
func I(n int64) []byte { return strconv.AppendInt(nil, n, 10) }
