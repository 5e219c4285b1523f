// Package sim runs the cores of Sentinel, Cluster and slot moves in simulated
// worlds: virtual time, a seeded random network, data servers that answer like Redis,
// and faults (loss of connections, delay, one-way partitions, pauses, crashes,
// restarts with nothing but what was persisted). It decides nothing about Redis;
// it shows whether what a core decides keeps the global promises. Of Sentinels:
//
//	one leader       at most one Sentinel is elected in an epoch
//	one vote         a Sentinel votes once in an epoch, also over restarts
//	epochs rise      the configuration epoch of a Sentinel never falls
//	one master       an epoch of a configuration names one address, everywhere
//	fit replica      no replica of priority 0, or long without its master, and
//	                 none behind another known to be better, is promoted
//	agreement        once faults stop, all Sentinels and all servers agree on
//	                 one master, within a bound of virtual time
//
// A run is a function of its seed:
//
//	res := sim.Run(sim.Options{Seed: 42})
//	for _, v := range res.Violations { ... }
//
// Connections are like TCP: in order, nothing lost while they last; what a
// partition holds back arrives when it heals, unless the connection was reset.
//
// The world of the Cluster core (cluster*.go; cChecker lists its promises) has
// plots beside mixed faults: masters that die together, a node that is
// forgotten, slots that move, a replica with old data, ... A quarter of its runs
// mixes nodes with and without the improvements over Redis.
//
//	res := sim.RunCluster(sim.ClusterOptions{Seed: 42, Kind: sim.KindMany})
//
// MeasureTraffic (cluster_large.go) is one cluster of up to 1,000 nodes in
// calm and through the death of a tenth of them: what the bus costs, and how
// long it takes until all agree.
//
// The world of slots that move as a stream (slotmove*.go; mChecker lists its
// promises) runs package slotmove with a model of journal, replication, clients
// and ownership of slots: no acknowledged write is lost or doubled, whatever
// breaks, and what was interrupted heals without a hand.
//
//	res := sim.RunMoves(sim.MoveOptions{Seed: 42, Kind: sim.MoveKills})
package sim
