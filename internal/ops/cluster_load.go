package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast/internal/redis/cluster/slot"
	"holdfast/internal/redis/resp"
)

// LoadReport is the verdict of the drill reshard-under-load.
type LoadReport struct {
	Drill        string         `json:"drill"`
	From         string         `json:"from"`
	To           string         `json:"to"`
	Slots        int            `json:"slots"`
	Bytes        int64          `json:"bytes"` // of values that lay in the slots before
	TookMs       int64          `json:"took_ms"`
	Acknowledged int            `json:"acknowledged"`
	Redirects    int            `json:"redirects"`         // MOVED, ASK and TRYAGAIN, which a client follows
	Errors       map[string]int `json:"errors,omitempty"`  // everything else, by text
	P50Us        int64          `json:"latency_p50_us"`    // of writes while slots moved, redirects included
	P99Us        int64          `json:"latency_p99_us"`    //
	PauseP99Ms   int64          `json:"slot_pause_p99_ms"` // over slots: the longest that a write to it took
	PauseMaxMs   int64          `json:"slot_pause_max_ms"` //
	Lost         int            `json:"lost"`
	Doubled      int            `json:"doubled"`
	Healthy      bool           `json:"healthy_after"`
	Reason       string         `json:"reason"`
}

// Verdict is the exit code: 0 nothing lost and no errors, 1 writes lost or
// doubled or failed, 2 the slots did not move.
func (r *LoadReport) Verdict() Verdict {
	switch {
	case !r.Healthy:
		return Down
	case r.Lost > 0 || r.Doubled > 0 || len(r.Errors) > 0:
		return Degraded
	}
	return Healthy
}

// Print writes the report: the figures, then one verdict line.
func (r *LoadReport) Print(w io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	seconds := float64(max(r.TookMs, 1)) / 1000
	fmt.Fprintf(w, "moved              %s with %s from %s to %s in %.2f s (%.0f slots/s, %s/s)\n", plural(r.Slots, "slot"), sizeText(r.Bytes), r.From, r.To,
		seconds, float64(r.Slots)/seconds, sizeText(int64(float64(r.Bytes)/seconds)))
	fmt.Fprintf(w, "write latency      p50 %.2f ms, p99 %.2f ms\n", float64(r.P50Us)/1000, float64(r.P99Us)/1000)
	fmt.Fprintf(w, "pause of a slot    p99 %d ms, longest %d ms\n", r.PauseP99Ms, r.PauseMaxMs)
	fmt.Fprintf(w, "acknowledged       %d, with %d redirects\n", r.Acknowledged, r.Redirects)
	for _, text := range sortedKeys(r.Errors) {
		fmt.Fprintf(w, "error              %d × %s\n", r.Errors[text], text)
	}
	fmt.Fprintf(w, "lost               %d\n", r.Lost)
	fmt.Fprintf(w, "doubled            %d\n", r.Doubled)
	words := map[Verdict]string{Healthy: "PASSED", Degraded: "LOST OR FAILED WRITES", Down: "FAILED"}
	fmt.Fprintf(w, "%s: %s, %d of %d acknowledged writes lost, %d doubled; %s\n", words[r.Verdict()], r.Drill, r.Lost, r.Acknowledged, r.Doubled, r.Reason)
	return nil
}

// loadDrill is a running reshard-under-load.
type loadDrill struct {
	o     DrillOptions
	a     *clusterAdmin
	r     *LoadReport
	slots []int
	tags  []string // of each slot: a hash tag that falls into it
	mark  string   // of this run's keys
}

// ReshardUnderLoad moves slots between two masters of a cluster while clients
// write to just those slots, then counts what was lost.
func ReshardUnderLoad(ctx context.Context, o DrillOptions) (*LoadReport, error) {
	d, err := LoadDeployment(o.Dir)
	if err != nil {
		return nil, err
	}
	if d.Mode != modeCluster {
		return nil, fmt.Errorf("the deployment in %s is of mode %s; start a cluster with `holdfast up cluster --dir DIR`", o.Dir, d.Mode)
	}
	if o.Clients < 1 || o.Slots < 1 || o.FillMB < 0 {
		return nil, errors.New("--clients and --slots must be 1 or more, --fill 0 or more")
	}
	if st := d.Status(time.Second); st.Verdict != Healthy {
		return nil, fmt.Errorf("the deployment in %s is %s (%s); a drill begins with a healthy one, see `holdfast status`", o.Dir, st.Verdict, st.Reason)
	}
	x := &loadDrill{o: o, r: &LoadReport{Drill: "reshard-under-load", Errors: map[string]int{}}, mark: fmt.Sprintf(":drill:%d:", time.Now().UnixMilli())}
	x.a = newClusterAdmin("drill", ClusterOptions{Seeds: d.addrs(), Timeout: 10 * time.Second, MigrateTimeout: time.Minute, Settle: 30 * time.Second,
		JSON: true, Out: io.Discard})
	defer x.a.close()
	if err := x.a.load(); err != nil {
		return nil, err
	}
	return x.r, x.run(ctx)
}

func (x *loadDrill) run(ctx context.Context) error {
	masters := x.a.m.live()
	slices.SortStableFunc(masters, func(a, b *clusterNode) int { return b.slots.count() - a.slots.count() })
	from, to := masters[0], masters[len(masters)-1]
	x.slots = from.slots.list()
	x.slots = x.slots[:min(len(x.slots), x.o.Slots)]
	x.tags = tagsOf(x.slots)
	x.r.From, x.r.To, x.r.Slots = from.name(), to.name(), len(x.slots)
	say(x.o, "filling %s of %s with %d MiB", plural(len(x.slots), "slot"), x.r.From, x.o.FillMB)
	if err := x.fill(from); err != nil {
		return err
	}
	done := make(chan struct{})
	writers := make([]*loadWriter, x.o.Clients)
	var wg sync.WaitGroup
	for i := range writers {
		writers[i] = x.newWriter(i, from.addr())
		wg.Add(1)
		go func() {
			defer wg.Done()
			writers[i].run(done)
		}()
	}
	sleep(ctx, x.o.Before)
	say(x.o, "moving them to %s, with %s writing to them", x.r.To, plural(x.o.Clients, "client"))
	began := time.Now()
	moves := make([]clusterMove, len(x.slots))
	for i, n := range x.slots {
		moves[i] = clusterMove{n, from.id, to.id}
	}
	err := x.a.moveSlots(ctx, moves)
	ended := time.Now()
	sleep(ctx, x.o.After)
	close(done)
	wg.Wait()
	x.r.TookMs = ended.Sub(began).Milliseconds()
	if err != nil {
		return fmt.Errorf("moving slots: %w; close what is open with `holdfast cluster fix %s`", err, x.a.o.Seeds[0])
	}
	x.summarize(writers, began, ended)
	report, err := x.a.settle(ctx, x.a.o.Settle, -1)
	if err != nil {
		return err
	}
	x.r.Healthy, x.r.Reason = report.Verdict == Healthy, report.Reason
	return x.count(writers)
}

// tagsOf finds a hash tag for each slot.
func tagsOf(slots []int) []string {
	want := make(map[int]int, len(slots))
	for i, n := range slots {
		want[n] = i
	}
	out := make([]string, len(slots))
	for i, found := 0, 0; found < len(slots); i++ {
		tag := strconv.Itoa(i)
		if k, ok := want[slot.OfString(tag)]; ok && out[k] == "" {
			out[k] = tag
			found++
		}
	}
	return out
}

// fillValue is how large the values are that a drill moves beside its own.
const fillValue = 16 << 10

func (x *loadDrill) fill(from *clusterNode) error {
	value := strings.Repeat("x", fillValue)
	total := int64(x.o.FillMB) << 20
	for i := 0; x.r.Bytes < total; i++ {
		var cmds [][]string
		for range 64 {
			k := i % len(x.slots)
			cmds = append(cmds, []string{"SET", fmt.Sprintf("{%s}%sfill:%d", x.tags[k], x.mark, i), value})
			x.r.Bytes += fillValue
			i++
		}
		i--
		v, err := x.a.pool.pipe(from.addr(), time.Minute, cmds...)
		if err != nil {
			return err
		}
		for _, r := range v {
			if r.Err() != nil {
				return fmt.Errorf("%s: SET: %w", from.name(), r.Err())
			}
		}
	}
	return nil
}

// loadWriter is one client: it writes new keys, to one slot after the other, and
// follows redirects.
type loadWriter struct {
	x         *loadDrill
	n         int
	home      string         // where to go first
	at        map[int]string // owner of a slot, once redirected
	pool      *pool
	acked     []loadAck
	redirects int
	errors    map[string]int
}

type loadAck struct {
	slot int // index
	seq  int
	at   time.Time
	took time.Duration
}

func (x *loadDrill) newWriter(n int, home string) *loadWriter {
	return &loadWriter{x: x, n: n, home: home, at: map[int]string{}, pool: newPool(clusterAuth{}, 10*time.Second), errors: map[string]int{}}
}

func (x *loadDrill) key(tag, writer, seq int) string {
	return fmt.Sprintf("{%s}%s%d:%d", x.tags[tag], x.mark, writer, seq)
}

func (w *loadWriter) run(done <-chan struct{}) {
	defer w.pool.close()
	for seq := 0; ; seq++ {
		select {
		case <-done:
			return
		default:
		}
		k := (seq*7 + w.n*13) % len(w.x.slots)
		began := time.Now()
		if err := w.write(k, seq); err != nil {
			w.errors[err.Error()]++
			continue
		}
		now := time.Now()
		w.acked = append(w.acked, loadAck{k, seq, now, now.Sub(began)})
	}
}

const loadTries = 1000

// write writes a key once, wherever it is served.
func (w *loadWriter) write(k, seq int) error {
	addr, asking := w.home, false
	if a := w.at[k]; a != "" {
		addr = a
	}
	cmd := []string{"INCR", w.x.key(k, w.n, seq)}
	for range loadTries {
		cmds := [][]string{cmd}
		if asking {
			cmds = [][]string{{"ASKING"}, cmd}
		}
		v, err := w.pool.pipe(addr, 10*time.Second, cmds...)
		if err != nil {
			return err
		}
		reply := v[len(v)-1]
		if reply.Err() == nil {
			return nil
		}
		f := strings.Fields(reply.String())
		switch {
		case f[0] == "MOVED" && len(f) == 3:
			addr, asking = f[2], false
			w.at[k] = addr
		case f[0] == "ASK" && len(f) == 3:
			addr, asking = f[2], true
		case f[0] == "TRYAGAIN":
			time.Sleep(time.Millisecond)
		default:
			return reply.Err()
		}
		w.redirects++
	}
	return errors.New("redirected without end")
}

func (x *loadDrill) summarize(writers []*loadWriter, began, ended time.Time) {
	var all []time.Duration
	pause := make([]time.Duration, len(x.slots))
	for _, w := range writers {
		x.r.Acknowledged += len(w.acked)
		x.r.Redirects += w.redirects
		for text, n := range w.errors {
			x.r.Errors[text] += n
		}
		for _, a := range w.acked {
			if a.at.After(began) && a.at.Add(-a.took).Before(ended) {
				all = append(all, a.took)
				pause[a.slot] = max(pause[a.slot], a.took)
			}
		}
	}
	slices.Sort(all)
	slices.Sort(pause)
	at := func(d []time.Duration, q int) time.Duration {
		if len(d) == 0 {
			return 0
		}
		return d[min(len(d)-1, len(d)*q/100)]
	}
	x.r.P50Us, x.r.P99Us = at(all, 50).Microseconds(), at(all, 99).Microseconds()
	x.r.PauseP99Ms, x.r.PauseMaxMs = at(pause, 99).Milliseconds(), at(pause, 100).Milliseconds()
}

// count reads every acknowledged key back, then removes what the drill wrote.
func (x *loadDrill) count(writers []*loadWriter) error {
	for k, n := range x.slots {
		owner := x.a.m.owner(n)
		if owner == nil {
			return fmt.Errorf("slot %d has no owner: what is lost cannot be counted", n)
		}
		for _, w := range writers {
			var keys []string
			for _, a := range w.acked {
				if a.slot == k {
					keys = append(keys, x.key(k, w.n, a.seq))
				}
			}
			for part := range slices.Chunk(keys, 512) {
				v, err := x.a.pool.do(owner.addr(), append([]string{"MGET"}, part...)...)
				if err != nil {
					return fmt.Errorf("counting on %s: %w", owner.name(), err)
				}
				x.compare(v)
			}
		}
		if err := x.remove(owner, n); err != nil {
			return err
		}
	}
	return nil
}

func (x *loadDrill) compare(v resp.Value) {
	for _, e := range v.Elems {
		switch {
		case e.IsNull():
			x.r.Lost++
		case e.String() != "1":
			x.r.Doubled++
		}
	}
}

func (x *loadDrill) remove(owner *clusterNode, n int) error {
	for {
		v, err := x.a.pool.do(owner.addr(), "CLUSTER", "GETKEYSINSLOT", strconv.Itoa(n), "100000")
		if err != nil {
			return fmt.Errorf("%s: GETKEYSINSLOT: %w", owner.name(), err)
		}
		args := []string{"UNLINK"}
		for _, e := range v.Elems {
			if strings.Contains(e.String(), x.mark) {
				args = append(args, e.String())
			}
		}
		if len(args) == 1 {
			return nil
		}
		if _, err := x.a.pool.do(owner.addr(), args...); err != nil {
			return fmt.Errorf("%s: UNLINK: %w", owner.name(), err)
		}
	}
}
