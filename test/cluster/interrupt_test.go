package cluster

import (
	"bytes"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"
)

// killed runs the administrator and kills it (kill -9) after a while, unless it
// has ended by then.
func killed(t *testing.T, after time.Duration, args ...string) (code int, out string) {
	t.Helper()
	cmd := command(t, append(args, "--yes")...)
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		return exitCode(t, err), b.String()
	case <-time.After(after):
		_ = cmd.Process.Kill()
		<-done
		return -1, b.String()
	}
}

// TestKilledReshardIsFinishedByTheSameCommand: kill -9 of the administrator at
// random moments; the next run closes what is open and moves what is left, so
// that in the end exactly the slots asked for have moved, once.
func TestKilledReshardIsFinishedByTheSameCommand(t *testing.T) {
	onGenuine(t, killedReshardIsFinishedByTheSameCommand)
}

func killedReshardIsFinishedByTheSameCommand(t *testing.T, k kind) {
	const keys, slots = 4000, 600
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	nodes := startNodes(t, k, 3)
	create(t, nodes, 0)
	fill(t, nodes, "k", keys)
	before := healthy(t, nodes[0]).slotsOf()
	args := []string{"reshard", nodes[0].addr(), "--from", nodes[0].addr(), "--to", nodes[2].addr(), "--slots", "600", "--pipeline", "2"}
	kills := 0
	for try := 0; ; try++ {
		if try == 200 {
			t.Fatal("it never ends")
		}
		// Later and later, so that the first is killed on any machine and the last
		// comes to its end.
		limit := time.Duration(15*(try+1)+rnd.IntN(30)) * time.Millisecond
		if try > 20 {
			limit = deadline
		}
		code, out := killed(t, limit, args...)
		if code == 0 {
			break
		}
		if code > 0 {
			t.Fatalf("exit code %d:\n%s", code, out)
		}
		kills++
		whole(t, nodes, "k", keys)
		// Killed behind its last step, it was at its end: the same command again is
		// a new one.
		if from, open := ownSlots(nodes[0]); before[nodes[0].addr()]-from == slots && !open {
			if to, open := ownSlots(nodes[2]); to-before[nodes[2].addr()] == slots && !open {
				break
			}
		}
	}
	t.Logf("killed %d times", kills)
	if kills == 0 {
		t.Error("never killed")
	}
	after := healthy(t, nodes[1]).slotsOf()
	if before[nodes[0].addr()]-after[nodes[0].addr()] != slots || after[nodes[2].addr()]-before[nodes[2].addr()] != slots {
		t.Fatalf("%v, then %v", before, after)
	}
	whole(t, nodes, "k", keys)
}

// TestAnyVerbClosesWhatAKilledOneLeft: after a kill, fix alone leaves nothing
// open, and so does a rebalance to even shares.
func TestAnyVerbClosesWhatAKilledOneLeft(t *testing.T) { onGenuine(t, anyVerbClosesWhatAKilledOneLeft) }

func anyVerbClosesWhatAKilledOneLeft(t *testing.T, k kind) {
	const keys = 2000
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 2))
	nodes := startNodes(t, k, 3)
	create(t, nodes, 0)
	fill(t, nodes, "k", keys)
	for round := range 6 {
		to := nodes[round%3].addr()
		killed(t, time.Duration(15+rnd.IntN(150))*time.Millisecond, "reshard", nodes[0].addr(), "--to", to, "--slots", "500", "--pipeline", "1")
		verb := []string{"fix", "rebalance"}[round%2]
		must(t, 0, verb, nodes[1].addr())
		healthy(t, nodes[0])
		whole(t, nodes, "k", keys)
	}
}

// TestKilledCreateAddAndDel: the same command, again, ends well.
func TestKilledCreateAddAndDel(t *testing.T) { onGenuine(t, killedCreateAddAndDel) }

func killedCreateAddAndDel(t *testing.T, k kind) {
	if testing.Short() {
		t.Skip("takes a quarter of a minute")
	}
	const keys = 500
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 3))
	again := func(most int, args ...string) {
		t.Helper()
		for range 3 {
			if code, out := killed(t, time.Duration(5+rnd.IntN(most))*time.Millisecond, args...); code == 0 {
				return
			} else if code > 0 {
				t.Fatalf("exit code %d:\n%s", code, out)
			}
		}
		must(t, 0, args...)
	}
	nodes := startNodes(t, k, 5)
	again(1500, append([]string{"create"}, addrs(nodes[:3])...)...)
	fill(t, nodes, "k", keys)
	healthy(t, nodes[2])
	via := nodes[0].addr()
	again(1000, "add-node", nodes[3].addr(), via)
	again(1000, "add-node", nodes[4].addr(), via, "--replica", "--master-id", nodes[0].id())
	again(1500, "rebalance", via, "--use-empty-masters")
	id := nodes[3].id()
	for range 3 {
		code, out := killed(t, time.Duration(50+rnd.IntN(2000))*time.Millisecond, "del-node", via, id)
		if code == 0 {
			break
		} else if code > 0 {
			t.Fatalf("exit code %d:\n%s", code, out)
		}
	}
	// Killed behind its last step, the node is gone already.
	if r := admin(t, "del-node", via, id); r.code != 0 && !bytes.Contains([]byte(r.text), []byte("no node")) {
		t.Fatal(r.text)
	}
	r := must(t, 1, "check", via, "--wait", "20s") // one replica for three masters
	if len(r.Cluster.Nodes) != 4 || r.Cluster.Covered != 16384 {
		t.Fatal(r.text)
	}
	whole(t, nodes[:3], "k", keys)
}

// ownSlots counts the slots that a node says to own, and tells whether any is
// open there.
func ownSlots(n *node) (count int, open bool) {
	for line := range strings.Lines(n.do("CLUSTER", "NODES").Text()) {
		if !strings.Contains(line, "myself") {
			continue
		}
		for _, f := range strings.Fields(line)[8:] {
			if f[0] == '[' {
				open = true
				continue
			}
			first, last, isRange := strings.Cut(f, "-")
			a, _ := strconv.Atoi(first)
			b := a
			if isRange {
				b, _ = strconv.Atoi(last)
			}
			count += b - a + 1
		}
	}
	return count, open
}
