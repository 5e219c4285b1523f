package command

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/redis/cluster"
	"holdfast/internal/redis/cluster/slot"
	"holdfast/internal/redis/resp"
)

// benchBatch is how many requests come in one read of a connection.
const benchBatch = 16

// benchEngine is a test engine with keys, in cluster mode the owner of all slots.
func benchEngine(b *testing.B, keys int, clustered bool) *testEngine {
	b.Helper()
	testBySlot = clustered
	te := newTestEngine(b, 1)
	testBySlot = false
	te.Stream = nil
	began := time.Now()
	te.Clock = func() int64 { return int64(time.Since(began)) }
	if clustered {
		te.Cfg.ClusterEnabled = true
		me := &cluster.NodeView{ID: strings.Repeat("a", 40), Flags: cluster.FlagMaster, IP: "127.0.0.1", Port: 7000}
		v := &cluster.View{OK: true, Myself: me, Nodes: []*cluster.NodeView{me}}
		v.SetOwner(0, slot.Count-1, me)
		te.SetView(v)
	}
	val := make([]byte, 64)
	for i := range keys {
		te.KS.DB(0).SetString(fmt.Appendf(nil, "key:%012d", i), val, -1)
	}
	return te
}

// benchInput are n batches of requests for random ones of the keys, as they come from a
// socket.
func benchInput(n, keys int, more ...[]byte) [][]byte {
	rng := rand.New(rand.NewPCG(3, 3))
	batches := make([][]byte, n)
	for i := range batches {
		for range benchBatch {
			args := append([][]byte{more[0], fmt.Appendf(nil, "key:%012d", rng.IntN(keys))}, more[1:]...)
			batches[i] = resp.AppendCommandBytes(batches[i], args)
		}
	}
	return batches
}

// benchSides runs the requests on an engine without cluster mode and on one with
// it, batch by batch in turns, so that what else the machine does falls on both
// alike, and reports the medians and their quotient. Between two batches something
// else takes the nearest cache, as system calls do.
func benchSides(b *testing.B, keys int, more ...[]byte) {
	batches := benchInput(512, keys, more...)
	sides := [2]*testEngine{benchEngine(b, keys, false), benchEngine(b, keys, true)}
	var (
		p     resp.Parser
		buf   [16 << 10]byte
		other [48 << 10]byte
		spent [2][]float64 // ns per request
	)
	run := func(te *testEngine, batch []byte) time.Duration {
		for i := 0; i < len(other); i += 64 {
			other[i]++
		}
		in := buf[:copy(buf[:], batch)]
		te.cl.Buf = te.cl.Buf[:0]
		start := time.Now()
		te.BeginBatch(start.UnixMicro())
		for len(in) > 0 {
			n, err := p.Next(in)
			if n == 0 || err != nil {
				b.Fatal(n, err)
			}
			te.Dispatch(te.cl, p.Args)
			in = in[n:]
		}
		return time.Since(start)
	}
	for b.Loop() {
		for i, batch := range batches {
			for j := range sides {
				side := (i + j) % 2
				spent[side] = append(spent[side], float64(run(sides[side], batch))/benchBatch)
			}
		}
	}
	slices.Sort(spent[0])
	slices.Sort(spent[1])
	mid := len(spent[0]) / 2
	b.ReportMetric(spent[0][mid], "ns/without")
	b.ReportMetric(spent[1][mid], "ns/with")
	b.ReportMetric(spent[1][mid]/spent[0][mid], "with/without")
	b.ReportMetric(0, "ns/op")
}

// What cluster mode costs a request: with few keys what the processor has to do,
// with many what it waits for, too.
func BenchmarkCluster(b *testing.B) {
	for _, keys := range []int{1000, 100_000} {
		b.Run(fmt.Sprint("GET/", keys), func(b *testing.B) { benchSides(b, keys, []byte("GET")) })
		b.Run(fmt.Sprint("SET/", keys), func(b *testing.B) { benchSides(b, keys, []byte("SET"), make([]byte, 64)) })
	}
}
