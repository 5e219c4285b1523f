package cluster

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"holdfast/test/proc"
)

// halfMoved has a slot on its way from one node to another, key by key, with
// every other of its keys moved. It returns the keys.
func halfMoved(t *testing.T, from, to *node, migrate ...string) (keys []string, n string) {
	t.Helper()
	tag := tagsIn(t, from, 1)[0]
	n = strconv.FormatInt(from.do("CLUSTER", "KEYSLOT", tag).Int, 10)
	var moved []string
	for i := range 20 {
		k := fmt.Sprintf("{%s}%d", tag, i)
		from.do("SET", k, k)
		keys = append(keys, k)
		if i%2 == 0 {
			moved = append(moved, k)
		}
	}
	to.do("CLUSTER", "SETSLOT", n, "IMPORTING", from.id())
	from.do("CLUSTER", "SETSLOT", n, "MIGRATING", to.id())
	from.do(append(append([]string{"MIGRATE", "127.0.0.1", strconv.Itoa(to.clusterPort()), "", "0", "60000"}, migrate...), append([]string{"KEYS"}, moved...)...)...)
	return keys, n
}

// clusterPort is the port that nodes talk to.
func (n *node) clusterPort() int {
	if n.tls != 0 {
		return n.tls
	}
	return n.port
}

// asked is how often a node was sent ASKING.
func (n *node) asked() int {
	n.t.Helper()
	_, rest, _ := strings.Cut(n.do("INFO", "commandstats").Text(), "cmdstat_asking:calls=")
	text, _, _ := strings.Cut(rest, ",")
	calls, _ := strconv.Atoi(text) // nobody has asked
	return calls
}

// TestClientsFollowAsk: while a slot moves key by key, go-redis and redis-cli
// reach every key of it, wherever it is, and write new ones.
func TestClientsFollowAsk(t *testing.T) {
	for _, c := range []struct {
		name     string
		from, to bool // ours
	}{{"ours", true, true}, {"ours to genuine", true, false}, {"genuine to ours", false, true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var nodes []*node
			for _, ours := range []bool{c.from, c.to, true} {
				nodes = append(nodes, launch(t, ours, t.TempDir(), freePort(t), "--cluster-node-timeout", calmTimeout))
			}
			join(t, nodes, 3)
			from, to := nodes[0], nodes[1]
			keys, n := halfMoved(t, from, to)

			rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs(nodes)})
			defer func() { _ = rdb.Close() }()
			ctx, cancel := context.WithTimeout(context.Background(), deadline)
			defer cancel()
			for _, k := range keys {
				if got, err := rdb.Get(ctx, k).Result(); err != nil || got != k {
					t.Errorf("go-redis: %s is %q, %v", k, got, err)
				}
			}
			if to.asked() < len(keys)/2 {
				t.Errorf("go-redis asked %d times", to.asked())
			}
			before := to.asked()
			tag, _, _ := strings.Cut(keys[0], "}")
			for _, k := range []string{keys[0], keys[1], tag + "}new"} {
				out, err := exec.CommandContext(ctx, "redis-cli", "-c", "-p", strconv.Itoa(from.port), "SET", k, "cli").CombinedOutput()
				if err != nil || strings.TrimSpace(string(out)) != "OK" {
					t.Errorf("redis-cli -c: SET %s: %v %s", k, err, out)
				}
				if got, err := rdb.Get(ctx, k).Result(); err != nil || got != "cli" {
					t.Errorf("%s is %q, %v", k, got, err)
				}
			}
			if to.asked() == before {
				t.Error("redis-cli -c was not sent on by ASK")
			}
			// What is not all on one side has to be tried again.
			v := from.try("MGET", keys[0], keys[1])
			if v.Err() == nil || !strings.HasPrefix(v.Str, "ASK "+n+" ") && !strings.HasPrefix(v.Str, "TRYAGAIN") {
				t.Errorf("MGET of keys on both sides: %q", v.Str)
			}
			must(t, 0, "fix", from.addr())
			healthy(t, nodes[2])
			if got := to.do("CLUSTER", "COUNTKEYSINSLOT", n).Int; got != int64(len(keys)+1) {
				t.Errorf("%d keys at the target", got)
			}
		})
	}
}

// TestSlotsMoveOverTLS: with tls-cluster nodes speak TLS to each other when slots
// move, key by key between any kinds, and as a stream between ours.
func TestSlotsMoveOverTLS(t *testing.T) {
	t.Parallel()
	certs, err := proc.NewCerts(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var nodes []*node
	for i := range 3 {
		tlsPort := freePort(t)
		nodes = append(nodes, launch(t, i != 2, t.TempDir(), freePort(t), "--cluster-node-timeout", calmTimeout, "--tls-ca-cert-file", certs.CA,
			"--tls-cert-file", certs.Cert, "--tls-key-file", certs.Key, "--tls-cluster", "yes", "--tls-replication", "yes", "--tls-port", strconv.Itoa(tlsPort)))
		nodes[i].tls = tlsPort
	}
	auth := []string{"--tls", "--cacert", certs.CA, "--cert", certs.Cert, "--key", certs.Key}
	at := func(n *node) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(n.tls)) }
	must(t, 0, append([]string{"create", at(nodes[0]), at(nodes[1]), at(nodes[2])}, auth...)...)
	settled(t, nodes)
	for _, c := range []struct {
		from, to int
		way      string
	}{{0, 1, "stream"}, {0, 2, "by key"}, {2, 0, "by key"}} {
		from, to := nodes[c.from], nodes[c.to]
		tags := tagsIn(t, from, 100)
		for i, tag := range tags {
			from.do("SET", "{"+tag+"}tls", strconv.Itoa(i))
		}
		r := must(t, 0, append([]string{"reshard", at(from), "--from", from.id(), "--to", to.id(), "--slots", "100"}, auth...)...)
		if r.Way != c.way || r.Slots != 100 || r.Keys < 100 {
			t.Errorf("%s", r.text)
		}
		for i, tag := range tags {
			if got := to.do("GET", "{"+tag+"}tls").Text(); got != strconv.Itoa(i) {
				t.Fatalf("{%s}tls is %q on %s", tag, got, to.addr())
			}
		}
	}
	// By hand: MIGRATE to the port that speaks TLS works, to the plain one it does
	// not.
	from, to := nodes[1], nodes[2]
	keys, n := halfMoved(t, from, to)
	if v := from.try("MIGRATE", "127.0.0.1", strconv.Itoa(to.port), keys[1], "0", "1000"); v.Err() == nil {
		t.Error("MIGRATE does not speak TLS")
	}
	if got := to.do("CLUSTER", "COUNTKEYSINSLOT", n).Int; got != int64(len(keys)/2) {
		t.Errorf("%d keys at the target", got)
	}
	must(t, 0, append([]string{"fix", at(from)}, auth...)...)
}
