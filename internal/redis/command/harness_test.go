package command

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"holdfast/internal/redis/config"
	"holdfast/internal/redis/keyspace"
)

// testHost is a shell that does nothing but remember.
type testHost struct {
	woken, resumed, closed []*Client
	logged                 []string
}

func (h *testHost) Wake(c *Client)                 { h.woken = append(h.woken, c) }
func (h *testHost) Resume(c *Client)               { h.resumed = append(h.resumed, c) }
func (h *testHost) Close(c *Client, _ bool)        { h.closed = append(h.closed, c) }
func (h *testHost) Logf(f string, a ...any)        { h.logged = append(h.logged, fmt.Sprintf(f, a...)) }
func (h *testHost) Monitor(*Client, int, [][]byte) {}

// testSink keeps the units of the stream.
type testSink struct {
	units []string
	end   uint64
}

func (s *testSink) AppendUnit(p []byte) uint64 {
	s.units = append(s.units, string(p))
	s.end += uint64(len(p))
	return s.end
}

// testEngine is an engine with one client and a stream that is kept.
type testEngine struct {
	*Engine
	t    testing.TB
	host *testHost
	sink *testSink
	cl   *Client
}

// testFamilies are the commands of a test engine.
func testFamilies() [][]Spec { return append(DataFamilies(), selectForTest) }

// selectForTest is what the tests need of the connection family.
var selectForTest = []Spec{{Name: "select", Arity: 2, Flags: Loading | Stale | Fast, Cat: CatConnection, Run: func(c *Ctx) {
	if db, ok := c.dbArg(1, ""); ok {
		c.Client.DB, c.DB = db, db
		c.OK()
	}
}}}

// testLimits are the limits of the keyspace of a test engine; nil: the defaults.
var testLimits *keyspace.Limits

// testBySlot makes the keyspace of a test engine one of cluster mode.
var testBySlot bool

// newTestEngine makes an engine with the given seed for random choices, whose
// time stands at a fixed moment.
func newTestEngine(t testing.TB, seed uint64) *testEngine {
	t.Helper()
	ks, err := keyspace.New(keyspace.Options{Reserve: 1 << 30, Limits: testLimits, BySlot: testBySlot})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ks.Close(); err != nil {
			t.Error(err)
		}
	})
	te := &testEngine{t: t, host: &testHost{}, sink: &testSink{}}
	te.Engine = NewEngine(ks, config.Default(), NewTable(testFamilies()...), te.host,
		rand.New(rand.NewPCG(seed, 1)), func() int64 { return 0 })
	te.Stream = te.sink
	te.Rand = rand.New(rand.NewPCG(seed, 2))
	te.BeginBatch(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro())
	te.cl = te.NewClient(1)
	return te
}

// do executes a command and returns its reply as it goes to the wire.
func (te *testEngine) do(args ...string) string { return te.as(te.cl, args...) }

// as is do for another client.
func (te *testEngine) as(cl *Client, args ...string) string {
	words := make([][]byte, len(args))
	for i, a := range args {
		words[i] = []byte(a)
	}
	cl.Buf = cl.Buf[:0]
	te.Dispatch(cl, words)
	return string(cl.Buf)
}

// want executes a command and compares its reply, in which "\n" stands for a
// line end.
func (te *testEngine) want(reply string, args ...string) {
	te.t.Helper()
	want := strings.ReplaceAll(reply, "\n", "\r\n") + "\r\n"
	if got := te.do(args...); got != want {
		te.t.Errorf("%q\n got %q\nwant %q", args, got, want)
	}
}

// stream returns what was propagated since the last call, each unit as its
// words.
func (te *testEngine) stream() []string {
	var out []string
	for _, u := range te.sink.units {
		out = append(out, strings.Join(words(u), " "))
	}
	te.sink.units = nil
	return out
}

// words splits encoded commands into words.
func words(unit string) []string {
	var out []string
	lines := strings.Split(unit, "\r\n")
	for i, l := range lines {
		if strings.HasPrefix(l, "$") && i+1 < len(lines) {
			out = append(out, lines[i+1])
		}
	}
	return out
}
