package server_test

import (
	"strconv"
	"strings"
	"testing"

	"holdfast/test/proc"
)

// A replica counts from the moment at which its link is killed, even if it stands
// still behind that: cluster-replica-validity-factor is about that time.
func TestKilledLinkIsDownAtOnce(t *testing.T) {
	t.Parallel()
	for _, start := range []func(*testing.T, ...string) *node{genuine, ours} {
		m, r := ours(t), start(t)
		r.replicate(m)
		r.linked()
		host, port := m.addr()
		r.do("MULTI")
		r.do("CLIENT", "KILL", host+":"+port)
		r.do("INFO", "replication")
		r.do("CLIENT", "KILL", "TYPE", "master") // there is none any more
		v := r.do("EXEC")
		if len(v.List) != 3 || v.List[0].Str != "OK" || !strings.Contains(v.List[1].Str, "master_link_status:down") || v.List[2].Int != 0 {
			t.Errorf("%+v", v)
		}
		r.linked() // again
	}
}

func TestDebugClusterlinkRefuses(t *testing.T) {
	t.Parallel()
	bus, err := proc.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	n := ours(t, "--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(bus))
	id := n.do("CLUSTER", "MYID").Str
	const unknown = "ERR unknown subcommand or wrong number of arguments for 'CLUSTERLINK'. Try DEBUG HELP."
	for _, c := range []struct {
		want string
		args []string
	}{
		{"ERR Unknown node nobody", []string{"KILL", "all", "nobody"}},
		{"ERR Unknown node nobody", []string{"KILL", "ways", "nobody"}},
		{"ERR Unknown direction ways", []string{"KILL", "ways", id}},
		{unknown, []string{"MEND", "all", id}},
		{unknown, []string{"KILL", "all"}},
	} {
		n.fails(c.want, append([]string{"DEBUG", "CLUSTERLINK"}, c.args...)...)
	}
	n.do("DEBUG", "CLUSTERLINK", "KILL", "ALL", id) // which has none to itself
}
