// Package sentinel decides: it is the state machine of Redis Sentinel 7.0
// without a clock, a socket or a file. The caller hands in what happened and
// the time at which it happened, and carries out, in order, what comes back:
//
//	core, err := sentinel.New(now, cfg, sentinel.Options{Rand: rng})
//	for _, e := range core.Step(now, sentinel.ConnUp{Conn: id, LocalIP: ip}) {
//		switch e := e.(type) {
//		case sentinel.Persist: // make e.Config durable, then go on
//		case sentinel.Send:    // write e.Args on connection e.Conn
//		...
//		}
//	}
//	// and call Step(now, Timer{}) no later than core.Deadline()
//
// The same text runs in production (package sentineld) and in the simulator
// (package sim).
//
// Messages. "Peer" is another Sentinel, "server" a master or replica.
//
//	name                     from      to             meaning
//	PING                     us        server, peer   alive? PONG, LOADING and MASTERDOWN count as yes
//	INFO                     us        server         role, replicas, offsets, run id
//	PUBLISH hello            us        server, peer   our address and epoch, our view of the master
//	message on hello         server    us             the same of a peer, relayed by the server
//	PUBLISH hello            peer      us             the same, directly
//	IS-MASTER-DOWN-BY-ADDR   us, peer  peer, us       do you agree that it is down? with a run id: vote for me
//	SLAVEOF in MULTI         us        server         become master, or follow that one
//	SCRIPT KILL              us        server         it is SDOWN and answers BUSY
//
// Handlers: one per input in input.go (onConnUp, onReply, onHello, ...), one
// per failover state in failover.go, one per SENTINEL subcommand in
// command.go.
//
// Rules that hold at every return of Step:
//
//   - A vote, and every epoch it depends on, is in a Persist effect that
//     stands before the first Send, Reply or RunScript of the same Step.
//   - In one epoch this Sentinel votes at most once for each master, also
//     across restarts, as long as Persist is durable.
//   - currentEpoch >= configEpoch and currentEpoch >= leaderEpoch of every
//     master.
//
// Where this differs from Redis: steps are taken when the event arrives, not
// at the next tick of a 100 ms timer; SDOWN asks the peers at once; promotion
// is confirmed by polling INFO; votes are asked and counted for the epoch of
// the failover, not for the newest epoch seen; replicas are asked for a fresh
// INFO before one is chosen; an observer that was paused does not take its
// own pause for the silence of others. docs/decisions has the reasons.
package sentinel
