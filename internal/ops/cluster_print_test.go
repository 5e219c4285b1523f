package ops

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"holdfast/internal/redis/resp"
)

// TestConsent: a plan is carried out only after a yes. Ctrl-C at the question
// ends it, although nothing can interrupt the reading itself.
func TestConsent(t *testing.T) {
	silent, writer := io.Pipe()
	t.Cleanup(func() { _ = writer.Close() })
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for _, c := range []struct {
		name string
		ctx  context.Context
		in   io.Reader
		ok   bool
		says string
	}{
		{"yes", context.Background(), strings.NewReader("yes\n"), true, ""},
		{"yes, and the pipe's end", context.Background(), strings.NewReader("Y"), true, ""},
		{"no", context.Background(), strings.NewReader("no\n"), false, "not agreed to"},
		{"an empty pipe", context.Background(), strings.NewReader(""), false, "say --yes"},
		{"Ctrl-C", ended, silent, false, "interrupted; nothing was changed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := new(bytes.Buffer)
			a := newClusterAdmin("reshard", ClusterOptions{In: c.in, Out: out})
			plan := &planTable{title: "To do:", head: []string{"WHAT", "WHERE"}}
			plan.add("nothing", "")
			ok, err := a.propose(c.ctx, plan)
			if ok != c.ok || (err == nil) != c.ok || (err != nil && !strings.Contains(err.Error(), c.says)) {
				t.Fatalf("%t, %v", ok, err)
			}
			if want := "To do:\nWHAT     WHERE\nnothing  -\nCarry this out? (yes or no) \n"; out.String() != want {
				t.Errorf("it shows %q, want %q", out, want)
			}
		})
	}
}

// TestCallDryRun runs nothing anywhere.
func TestCallDryRun(t *testing.T) {
	c := newFakeCluster(t, 3, 0)
	o := c.options()
	call := CallOptions{ClusterOptions: o, Command: []string{"CLUSTER", "SETSLOT", "0", "STABLE"}}
	call.DryRun = true
	r, err := ClusterCall(context.Background(), call)
	if err != nil || r.Verdict != Healthy || len(r.Plan) != 3 || r.Plan[0]["command"] != "CLUSTER SETSLOT 0 STABLE" {
		t.Fatalf("%+v, %v", r, err)
	}
	if n := c.did("SETSLOT"); n != 0 {
		t.Fatalf("%d nodes were told", n)
	}
	call.DryRun = false
	if _, err := ClusterCall(context.Background(), call); err != nil || c.did("SETSLOT") != 3 {
		t.Fatalf("%d nodes were told, %v", c.did("SETSLOT"), err)
	}
}

// TestRebalanceThresholdIsAPercentage, and a weight names its node.
func TestRebalanceThresholdIsAPercentage(t *testing.T) {
	c := newFakeCluster(t, 3, 0)
	for _, o := range []RebalanceOptions{{Threshold: -3}, {Threshold: 101}, {Threshold: 2, Weights: []string{c.nodes[0].addr}}} {
		o.ClusterOptions = c.options()
		if r, err := ClusterRebalance(context.Background(), o); err == nil {
			t.Errorf("%v %v: %+v", o.Threshold, o.Weights, r)
		}
	}
}

// serveReply answers whatever comes with the same, or hangs up if that is nil.
func serveReply(t *testing.T, reply []byte) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				r := resp.NewReader(nc)
				for {
					if _, err := r.Read(); err != nil || reply == nil {
						return
					}
					if _, err := nc.Write(reply); err != nil {
						return
					}
				}
			}()
		}
	}()
	return ln.Addr().String()
}

// TestNoClusterThere: what is said of an address where no cluster answers names
// the cause, and what to do about it.
func TestNoClusterThere(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	const another = "give the address of a node that runs"
	for _, c := range []struct{ name, addr, says, not string }{
		{"nobody", nobody, another, "password"},
		{"password", serveReply(t, resp.AppendError(nil, "NOAUTH Authentication required.")), "say --pass", another},
		{"another error", serveReply(t, resp.AppendError(nil, "NOPERM this user has no permissions")), "NOPERM", another},
		{"standalone", serveReply(t, resp.AppendError(nil, "ERR This instance has cluster support disabled")), "--cluster-enabled yes", another},
		{"a port of something else", serveReply(t, nil), "cluster bus", "EOF"},
		{"no port", "127.0.0.1:99999", "invalid port", "nobody listens"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := ClusterCheckOptions{ClusterOptions: ClusterOptions{Seeds: []string{c.addr}, Timeout: 30 * time.Second}, Replicas: -1}
			_, err := ClusterCheck(context.Background(), "check", o)
			if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), c.not) {
				t.Fatalf("%v", err)
			}
		})
	}
}
