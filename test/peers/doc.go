// Package peers proves that genuine Redis 7.0 processes and ours work in one
// deployment: as master and replica of each other, as Sentinels over each
// other's servers, and as readers of each other's files. It holds tests only;
// each starts real processes on free ports of 127.0.0.1 and ends them by pid.
//
//   - replication_test.go: full and partial resynchronisation in both
//     directions, chains, restarts, promotion by hand
//   - sentinel_test.go: genuine, our and mixed quorums over our, genuine and
//     mixed servers, with a client that writes through the failover
//   - files_test.go: dump.rdb both ways, append-only directories of Redis
//   - python_test.go: the client library redis-py against our processes
//
// What a master is sent is a seeded random load over all types (load_test.go).
// Two servers hold the same when their replication offsets and their DEBUG
// DIGEST are equal at one moment.
//
// Environment: HOLDFAST_SOAK=1 runs every case with 100,000 commands instead of
// 100,000 for one case each way and fewer for the others; HOLDFAST_PEERS_BINARY
// names a built binary; HOLDFAST_PEERS_SEED is the seed of the load;
// HOLDFAST_PEERS_GENUINE_ONLY=1 puts genuine programs in the place of ours, which
// proves that the load is one that two genuine servers agree on.
package peers
