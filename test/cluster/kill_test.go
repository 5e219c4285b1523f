package cluster

import (
	"math/rand/v2"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// TestReshardByKeyOutlivesKills: while clients write, slots move key by key
// between two masters of ours, and at a random moment the source, the target or
// the administrator is killed (kill -9), and the shard fails over. What is open
// then the administrator's next run closes, and no write that a replica had is
// lost. As with genuine Redis the target may come back as master of those slots
// that it had told nobody of yet, beside who took over from it.
func TestReshardByKeyOutlivesKills(t *testing.T) {
	redis.SetLogger(silent{})
	for _, victim := range []string{"source", "target", "administrator"} {
		t.Run(victim, func(t *testing.T) {
			t.Parallel()
			for range rounds(t, 1) {
				reshardByKeyOutlives(t, victim)
			}
		})
	}
}

func reshardByKeyOutlives(t *testing.T, victim string) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 4))
	nodes := startCluster(t, true, 3)
	fill(t, nodes, "k", 3000)
	replicasAgree(t, nodes)
	const from, to = 0, 1
	via := nodes[2]
	w := write(nodes)
	args := []string{"reshard", via.addr(), "--from", nodes[from].id(), "--to", nodes[to].id(), "--slots", "300", "--by-key", "--yes"}
	cmd := command(t, append(args, "--settle", "15s")...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Duration(20+rnd.IntN(700)) * time.Millisecond)
	switch victim {
	case "source":
		restart(t, nodes, from)
	case "target":
		restart(t, nodes, to)
	default:
		_ = cmd.Process.Kill()
	}
	// It ends by itself, well or not: what counts is the next run.
	if err := cmd.Wait(); err != nil {
		if _, is := err.(*exec.ExitError); !is {
			t.Fatal(err)
		}
	}
	last := ""
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(last)
		}
	})
	via.eventually("it is mended", func() bool {
		r := admin(t, "fix", via.addr(), "--settle", "20s")
		last = r.text
		return r.code == 0
	})
	setTimeout(nodes, patientTimeout) // nobody is to fail any more
	settled(t, nodes)
	w.end(t)
	whole(t, nodes, "k", 3000)
	must(t, 0, "check", via.addr(), "--replicas", "0", "--wait", "30s")
	for _, n := range nodes {
		n.p.Kill()
	}
}

// restart kills a node, waits until it is missed, and starts it again.
func restart(t *testing.T, nodes []*node, i int) {
	t.Helper()
	dead := nodes[i]
	dead.p.Kill()
	heir := nodes[(i+3)%6]
	heir.eventually("it is master", func() bool { return heir.do("ROLE").List[0].Text() == "master" })
	nodes[i] = launch(t, true, dead.p.Spec.Dir, dead.port)
}

// TestNodesConfIsWrittenBeforeTheReply: what SETSLOT has said is there after a
// kill -9, however many of them came at once.
func TestNodesConfIsWrittenBeforeTheReply(t *testing.T) {
	t.Parallel()
	dir, port := t.TempDir(), freePort(t)
	n := launch(t, true, dir, port)
	id := n.id()
	n.do("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
	for round := range 3 {
		c := n.dial()
		for i := range 100 {
			c.Send("CLUSTER", "DELSLOTS", strconv.Itoa(round*100+i))
		}
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			if v, err := c.Recv(); err != nil || v.Err() != nil {
				t.Fatal(v.Str, err)
			}
		}
		c.Close()
		n.p.Kill()
		n = launch(t, true, dir, port)
		if want := strconv.Itoa(round*100+100) + "-16383"; n.id() != id || fields(n, 8) != want {
			t.Fatalf("node %s has %s, not %s with %s", n.id(), fields(n, 8), id, want)
		}
	}
}
