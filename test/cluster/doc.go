// Package cluster tests `holdfast cluster` end to end, as a process, on nodes of
// genuine Redis: what it builds, moves and mends is what redis-cli and the nodes
// themselves then say. The administrator is killed at random moments, and its
// next run must heal.
package cluster
