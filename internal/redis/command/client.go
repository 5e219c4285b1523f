package command

import (
	"holdfast/internal/redis/keyspace"
)

// ClientFlag is a state of a client.
type ClientFlag uint32

// Client flags.
const (
	FlagMaster        ClientFlag = 1 << iota // our master's link: its commands are applied, not answered
	FlagReplica                              // a replica's link
	FlagMonitor                              // MONITOR
	FlagMulti                                // between MULTI and EXEC
	FlagDirtyCAS                             // a watched key changed: EXEC fails
	FlagDirtyExec                            // a queued command was refused: EXEC fails
	FlagBlocked                              // waits in a blocking command
	FlagCloseAfter                           // close once the reply is written
	FlagCloseASAP                            // close now
	FlagReplyOff                             // CLIENT REPLY OFF
	FlagReplySkip                            // CLIENT REPLY SKIP: this command
	FlagReplySkipNext                        // CLIENT REPLY SKIP: the next command
	FlagReadonly                             // READONLY of cluster mode
	FlagAsking                               // ASKING of cluster mode
	FlagUnixSocket                           //
	FlagNoEvict                              // CLIENT NO-EVICT
	FlagDenyBlocking                         // blocking commands answer at once (inside EXEC)
	FlagReplay                               // the journal's replay: no expiry, no reply
	FlagPushing                              // reply functions write a push, never cut by REPLY OFF
	FlagTLS                                  //
	FlagProtocolErr                          // protocol error: read no more
	FlagImport                               // keys of slots that arrive: not routed, nothing expires
)

// Client is what the command layer knows of a connection. The shell owns its
// life; all fields belong to whoever holds the engine's lock.
type Client struct {
	Reply // the reply buffer and the protocol version

	ID            uint64
	Flags         ClientFlag
	DB            *keyspace.DB
	Name          string
	Authenticated bool
	Addr, Laddr   string
	CreatedMs     int64
	LastMs        int64 // time of the last interaction
	LastCmd       *Spec

	// Woff is the stream position after the client's last write: what WAIT waits for.
	Woff uint64

	multi []queued
	// What they take, in bytes, and the number of their arguments.
	multiMem, multiArgs int
	watched             []watchedKey
	block               *Block

	channels, patterns, shardChannels map[string]struct{}

	// Conn is the shell's own side of the connection.
	Conn any
}

type queued struct {
	spec *Spec
	args [][]byte
}

// Has reports whether one of the flags is set.
func (c *Client) Has(f ClientFlag) bool { return c.Flags&f != 0 }

// MultiLen is the number of queued commands, -1 outside of MULTI.
func (c *Client) MultiLen() int {
	if !c.Has(FlagMulti) {
		return -1
	}
	return len(c.multi)
}

// MultiMem is the memory of the queued commands in bytes.
func (c *Client) MultiMem() int { return c.multiMem }

// MultiArgs is the number of their arguments.
func (c *Client) MultiArgs() int { return c.multiArgs }

// enqueue adds a command to those that wait for EXEC.
func (c *Client) enqueue(q queued) {
	const perArg = 8 // besides its bytes, as Redis counts it
	c.multi = append(c.multi, q)
	c.multiMem += perArg * len(q.args)
	c.multiArgs += len(q.args)
	for _, a := range q.args {
		c.multiMem += len(a)
	}
}

// dropQueue forgets them.
func (c *Client) dropQueue() { c.multi, c.multiMem, c.multiArgs = nil, 0, 0 }

// WatchLen is the number of watched keys.
func (c *Client) WatchLen() int { return len(c.watched) }

// Subs returns the number of channels, patterns and shard channels that the
// client is subscribed to.
func (c *Client) Subs() (channels, patterns, shard int) {
	return len(c.channels), len(c.patterns), len(c.shardChannels)
}

// subscribed reports whether the client is in the subscribed context of RESP2.
func (c *Client) subscribed() bool {
	return len(c.channels)+len(c.patterns)+len(c.shardChannels) > 0
}

// Blocked is the blocked state, nil when the client is not blocked.
func (c *Client) Blocked() *Block { return c.block }
