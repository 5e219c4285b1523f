package cluster

import (
	"strconv"
	"strings"
	"testing"
	"time"
)

// What a replica tells of its data while it takes it over, as genuine ones do.

// master starts a node that owns all slots, and fills it.
func master(t *testing.T, k kind, keys int) *node {
	t.Helper()
	m := startNodes(t, k, 1)[0]
	m.do("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
	m.eventually("it serves", func() bool { return strings.Contains(m.do("CLUSTER", "INFO").Str, "cluster_state:ok") })
	fill(t, []*node{m}, "key", keys)
	return m
}

// meets makes an empty node known to the master and the master to it.
func meets(t *testing.T, m, r *node) {
	t.Helper()
	m.do("CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(r.port))
	for _, pair := range [][2]*node{{m, r}, {r, m}} {
		pair[0].eventually("they know each other", func() bool {
			return strings.Contains(pair[0].do("CLUSTER", "NODES").Str, pair[1].id())
		})
	}
}

// TestSmallLoadIsNotSeen asks a node all the while that it becomes a replica:
// redis-cli --cluster create does, and takes LOADING for a node that is gone.
func TestSmallLoadIsNotSeen(t *testing.T) {
	onBoth(t, func(t *testing.T, k kind) {
		m := master(t, k, 1000)
		r := startNodes(t, k, 1)[0]
		meets(t, m, r)
		c := r.dial()
		defer c.Close()
		if _, err := c.Must("CLUSTER", "REPLICATE", m.id()); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(deadline); ; {
			if _, err := c.Must("CLUSTER", "NODES"); err != nil {
				t.Fatal(err)
			}
			info, err := c.Must("INFO", "replication")
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(info.Str, "master_link_status:up") {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("no link\n%s", r.p.Output())
			}
		}
		if n := r.do("DBSIZE").Int; n != 1000 {
			t.Errorf("%d keys", n)
		}
	})
}

// TestLoadingReplicaIsShownSo slows a replica's load down: meanwhile nobody is
// sent to it.
func TestLoadingReplicaIsShownSo(t *testing.T) {
	onBoth(t, func(t *testing.T, k kind) {
		m := master(t, k, 1000)
		r := startNodes(t, k, 1)[0]
		meets(t, m, r)
		m.do("SET", "key", "so that the offset is not 0")
		id := r.id() // which it would not say while it loads
		r.do("CONFIG", "SET", "key-load-delay", "20000", "loading-process-events-interval-bytes", "1024")
		r.do("CLUSTER", "REPLICATE", m.id())
		health := func() string {
			for _, shard := range m.do("CLUSTER", "SHARDS").List {
				for _, n := range shard.List[3].List {
					if f := n.List; f[1].Str == id {
						return f[len(f)-1].Str
					}
				}
			}
			return ""
		}
		m.eventually("it is loading", func() bool { return health() == "loading" })
		if strings.Contains(m.slots(), id) {
			t.Error("CLUSTER SLOTS sends clients to a replica that loads")
		}
		r.do("CONFIG", "SET", "key-load-delay", "0")
		m.do("SET", "key", "again")
		m.eventually("it is there", func() bool { return health() == "online" && strings.Contains(m.slots(), id) })
	})
}
