package cluster

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// TestReshardOutlivesKills: while clients write, slots move between two masters
// of ours, and at a random moment the source, the target or the administrator is
// killed (kill -9). The shard fails over or not; the same command, again, ends
// the move, and no write that a replica had is lost.
func TestReshardOutlivesKills(t *testing.T) {
	if os.Getenv("HOLDFAST_SOAK") == "" {
		t.Skip("a target whose source died does not always mend within a minute: HOLDFAST_SOAK=1 shows it")
	}
	redis.SetLogger(silent{})
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 4))
	nodes := startCluster(t, true, 3)
	fill(t, nodes, "k", 3000)
	for round := range rounds(t, 3) {
		// Of the pairs of nodes, who is master now.
		var masters []int
		for i := range nodes {
			if nodes[i].do("ROLE").List[0].Text() == "master" {
				masters = append(masters, i)
			}
		}
		if len(masters) != 3 {
			t.Fatalf("masters are %v", masters)
		}
		from, to := masters[round%3], masters[(round+1)%3]
		via := nodes[masters[(round+2)%3]]
		w := write(nodes)
		args := []string{"reshard", via.addr(), "--from", nodes[from].id(), "--to", nodes[to].id(), "--slots", "300", "--yes"}
		cmd := command(t, append(args, "--settle", "15s")...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(20+rnd.IntN(700)) * time.Millisecond)
		victim := [...]string{"source", "target", "administrator"}[round%3]
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
		t.Logf("round %d: %s killed", round+1, victim)
		// A node that imports does not learn by itself who took the slot over, so
		// that it may think it without an owner until it is closed.
		via.eventually("it is mended", func() bool { return admin(t, "fix", via.addr(), "--settle", "20s").code == 0 })
		settled(t, nodes)
		w.end(t)
		settled(t, nodes)
		whole(t, nodes, "k", 3000)
		must(t, 0, "check", via.addr(), "--wait", "30s")
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
