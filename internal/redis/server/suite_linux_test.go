package server_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"holdfast/test/proc"
)

// both are a server of ours and, where it is installed, a genuine one.
func both(t *testing.T, args ...string) []*node {
	t.Helper()
	nodes := []*node{ours(t, args...)}
	if g := genuineOrOurs(t, args...); g.genuine {
		nodes = append(nodes, g)
	}
	return nodes
}

func (n *node) oomScore() int {
	n.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", n.p.PID()))
	if err != nil {
		n.t.Fatal(err)
	}
	v, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		n.t.Fatal(err)
	}
	return v
}

// oom-score-adj follows the role at once, and is relative to, and goes back to,
// what the score was when it was switched on, not when the process began.
func TestOOMScoreFollowsTheRoleAndForgetsItsBase(t *testing.T) {
	for _, n := range both(t, "--save", "", "--appendonly", "no") {
		base := n.oomScore()
		if base > 500 {
			t.Skip("the score of this process leaves no room for the test")
		}
		expect := func(what string, want int) {
			t.Helper()
			if got := n.oomScore(); got != want {
				t.Errorf("genuine %v, %s: score %d, want %d", n.genuine, what, got, want)
			}
		}
		n.do("CONFIG", "SET", "oom-score-adj-values", "10 20 30", "oom-score-adj", "yes")
		expect("a master", base+10)
		n.do("REPLICAOF", "127.0.0.1", "1")
		expect("a replica", base+20)
		n.do("REPLICAOF", "NO", "ONE")
		expect("a master again", base+10)
		n.do("CONFIG", "SET", "oom-score-adj", "no")
		expect("switched off", base)
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", n.p.PID()), []byte(strconv.Itoa(base+3)), 0); err != nil {
			t.Fatal(err)
		}
		n.do("CONFIG", "SET", "oom-score-adj", "yes")
		expect("switched on anew", base+13)
		n.do("CONFIG", "SET", "oom-score-adj", "no")
		expect("switched off anew", base+3)
	}
}

// A SAVE that fails says so to who asked for it, and stops nobody else's writes:
// that is for background saves.
func TestAFailedSaveRefusesNoWrites(t *testing.T) {
	for _, n := range both(t, "--save", "900 1", "--appendonly", "no") {
		if err := os.Mkdir(filepath.Join(n.spec.Dir, "dump.rdb"), 0o755); err != nil {
			t.Fatal(err)
		}
		n.do("SET", "k", "v")
		n.fails("ERR", "SAVE")
		n.fails("ERR Errors trying to SHUTDOWN. Check logs.", "SHUTDOWN")
		n.do("SET", "k", "w")
		if got := n.info("rdb_last_bgsave_status"); got != "ok" {
			t.Errorf("genuine %v: rdb_last_bgsave_status is %s", n.genuine, got)
		}
	}
}

// Who has not authenticated cannot make the server keep replies for it.
func TestStrangersCannotHoardReplies(t *testing.T) {
	n := ours(t, "--save", "", "--appendonly", "no")
	n.do("CONFIG", "SET", "requirepass", "secret")
	c, err := proc.Dial(n.spec.Port, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	chunk := []byte(strings.Repeat("*2\r\n$3\r\nGET\r\n$1\r\nx\r\n", 1000))
	for range 4000 { // 80 MB: far more than sockets hold
		if err := c.Raw(chunk); err != nil {
			n.do("PING")
			return
		}
	}
	t.Error("the connection is still open")
}
