//go:build poison

package keyspace

// poison makes the arena fill freed blocks and check them when they are taken
// again.
const poison = true
