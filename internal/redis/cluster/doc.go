// Package cluster decides: it is the state machine of a Redis Cluster 7.0 node
// without a clock, a socket or a file. The caller hands in what happened and
// the time at which it happened, and carries out, in order, what comes back:
//
//	core, err := cluster.New(now, cfg, cluster.Options{Rand: rng, Host: data, State: nodesConf})
//	run(core.Start(now))
//	run(core.Step(now, cluster.Packet{Link: id, Data: bytes}))
//	...
//	for _, e := range effects {
//		switch e := e.(type) {
//		case cluster.Persist: // write core.NodesConf(); if e.Sync, durable before going on
//		case cluster.Send:    // write e.Data on link e.Link
//		...
//		}
//	}
//	// and call Step(now, Timer{}) no later than core.Deadline()
//
// It also encodes: packets of the bus (packet.go) and nodes.conf (conf.go).
//
// Messages of the bus. All carry the header: sender, its epochs, its slots (a
// replica: those of its master), its replication offset, its flags.
//
//	name                   from       to              meaning
//	PING                   all        all             alive? with gossip about some nodes
//	PONG                   all        all             the answer; unasked: my configuration changed
//	MEET                   all        a stranger      a PING that asks to be let in
//	FAIL                   all        all             a majority could not reach that node
//	PUBLISH, PUBLISHSHARD  all        all, own shard  a message for subscribers
//	FAILOVER_AUTH_REQUEST  replica    all             vote for me in this epoch
//	FAILOVER_AUTH_ACK      master     replica         you have my vote
//	UPDATE                 all        who is behind   that node owns these slots in that epoch
//	MFSTART                replica    its master      stop writes: I take over (manual failover)
//	MODULE                 all        all             not used here; accepted and ignored
//
// Handlers: one per input in core.go, one per message in receive.go, one per
// CLUSTER subcommand in command.go.
//
// Rules that hold at every return of Step:
//
//   - A vote, and every epoch that is ours, is in a Persist with Sync that
//     stands before the first Send or Reply of the same Step. What others claim
//     is in one without: who forgets it in a power cut is told again before he
//     serves or is elected, and nobody waits for him to know it. But he would
//     not believe it again if it took from us, and our own epoch is no smaller.
//   - In one epoch this node votes at most once, also across restarts, as long
//     as Persist is durable.
//   - currentEpoch >= configEpoch of every known node that is a master, and
//     currentEpoch >= lastVoteEpoch.
//   - slots[s] == n exactly when bit s of n's bitmap is set.
//
// Where this differs from Redis, always within what its nodes accept:
//
//   - A node that does not answer is told to the masters when it is noticed
//     (once per node and half timeout), not with the next gossip.
//   - A lost link counts as a ping that was not answered, so that detection
//     begins when the process dies.
//   - Replicas of one master tell each other their offsets when they notice
//     that it is gone. The best one sends FAIL and the request for votes on the
//     same links and waits for nothing; equal offsets are ordered by node id.
//   - Shards that fail together hold their elections in the order of their
//     masters' ids; who lost an epoch to another one tries the next at once,
//     and a voter gives the same candidate its vote again.
//   - A node that stood still does not take its own pause for the silence of
//     others, and a master that stood still for longer than the node timeout
//     serves nothing before it has heard from a majority again.
package cluster
