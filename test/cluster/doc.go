// Package cluster tests clusters end to end, as processes: of nodes of ours, of
// genuine Redis, and of both. `holdfast cluster` and redis-cli build, move and
// mend them; what they did is what redis-cli, go-redis and the nodes themselves
// then say. Nodes and administrators are killed at random moments, and must heal
// by themselves or by the administrator's next run, as far as either is promised.
package cluster
