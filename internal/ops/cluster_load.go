package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast/internal/redis/cluster/slot"
)

// LoadOptions are the flags of the drill reshard-under-load.
type LoadOptions struct {
	DrillOptions
	Bytes int64  // of values that move with the slots; 0 for FillMB
	ByKey bool   // slots move key by key
	Kill  string // source, target or administrator: who is killed meanwhile; "" nobody
	Seed  uint64 // draws the step at which that happens; 0 for any
	Exe   string // the binary that is the administrator to kill; this one if empty
}

// LoadReport is the verdict of the drill reshard-under-load.
type LoadReport struct {
	Drill        string         `json:"drill"`
	From         string         `json:"from"`
	To           string         `json:"to"`
	Way          string         `json:"way"` // stream, by key
	Slots        int            `json:"slots"`
	Keys         int64          `json:"keys"`  // that moved
	Bytes        int64          `json:"bytes"` // of values that lay in the slots before
	TookMs       int64          `json:"took_ms"`
	MiBPerS      float64        `json:"mib_per_s"`
	KeysPerS     float64        `json:"keys_per_s"`
	Acknowledged int            `json:"acknowledged"`
	Redirects    int            `json:"redirects"` // MOVED, ASK and TRYAGAIN, which a client follows
	Moved        int            `json:"moved"`
	Ask          int            `json:"ask"`
	Errors       map[string]int `json:"errors,omitempty"` // everything else, by text
	P50Us        int64          `json:"latency_p50_us"`   // of writes while slots moved, redirects included
	P99Us        int64          `json:"latency_p99_us"`   //
	SlowMs       Spread         `json:"slot_slowest_ms"`  // over slots: the longest that a write to it took, at any time of the move
	PauseMs      Spread         `json:"slot_pause_ms"`    // over slots: the longest that a write took which met its change of owner, or that an end of the move had clients of it wait
	Lost         int            `json:"lost"`
	Doubled      int            `json:"doubled"`
	Kill         *KillReport    `json:"kill,omitempty"`
	Healthy      bool           `json:"healthy_after"`
	Reason       string         `json:"reason"`
}

// Spread is how something is spread over many.
type Spread struct {
	P50 int64 `json:"p50"`
	P99 int64 `json:"p99"`
	Max int64 `json:"max"`
}

func (s Spread) String() string {
	return fmt.Sprintf("p50 %d ms, p99 %d ms, longest %d ms", s.P50, s.P99, s.Max)
}

// Verdict is the exit code: 0 nothing lost and no errors, 1 writes lost or
// doubled or failed, or clients sent to and fro by ASK in a move as a stream, 2
// the slots did not move, or the cluster is not healthy behind it.
func (r *LoadReport) Verdict() Verdict {
	switch {
	case !r.Healthy:
		return Down
	case r.Lost > 0 || r.Doubled > 0 || len(r.Errors) > 0 || (r.Way == "stream" && r.Ask > 0):
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
	keys, perS := " with "+pluralKeys(r.Keys), fmt.Sprintf(", %.0f keys/s", r.KeysPerS)
	if r.Keys == 0 { // whoever counted them was killed
		keys, perS = "", ""
	}
	fmt.Fprintf(w, "moved              %s%s (%s) from %s to %s in %.2f s, %s\n", plural(r.Slots, "slot"), keys, sizeText(r.Bytes), r.From, r.To,
		float64(r.TookMs)/1000, wayText(r.Way))
	fmt.Fprintf(w, "throughput         %.1f MiB/s%s\n", r.MiBPerS, perS)
	fmt.Fprintf(w, "write latency      p50 %.2f ms, p99 %.2f ms\n", float64(r.P50Us)/1000, float64(r.P99Us)/1000)
	fmt.Fprintf(w, "slowest of a slot  %s\n", r.SlowMs)
	fmt.Fprintf(w, "pause of a slot    %s\n", r.PauseMs)
	fmt.Fprintf(w, "acknowledged       %d, with %d redirects: %d MOVED, %d ASK\n", r.Acknowledged, r.Redirects, r.Moved, r.Ask)
	if k := r.Kill; k != nil {
		k.print(w)
	}
	for _, text := range sortedKeys(r.Errors) {
		fmt.Fprintf(w, "error              %d × %s\n", r.Errors[text], text)
	}
	fmt.Fprintf(w, "lost               %d\n", r.Lost)
	fmt.Fprintf(w, "doubled            %d\n", r.Doubled)
	words := map[Verdict]string{Healthy: "PASSED", Degraded: "LOST OR FAILED WRITES", Down: "FAILED"}
	fmt.Fprintf(w, "%s: %s, %d of %d acknowledged writes lost, %d doubled; %s\n", words[r.Verdict()], r.Drill, r.Lost, r.Acknowledged, r.Doubled, r.Reason)
	return nil
}

func wayText(way string) string {
	if way == "stream" {
		return "as a stream"
	}
	return way
}

// loadDrill is a running reshard-under-load.
type loadDrill struct {
	o     LoadOptions
	d     *Deployment
	a     *clusterAdmin
	r     *LoadReport
	slots []int
	tags  []string // of each slot: a hash tag that falls into it
	mark  string   // of this run's keys
	fills int      // how many values were written before
}

// ReshardUnderLoad moves slots between two masters of a cluster while clients
// write to just those slots, then counts what was lost.
func ReshardUnderLoad(ctx context.Context, o LoadOptions) (*LoadReport, error) {
	d, err := LoadDeployment(o.Dir)
	if err != nil {
		return nil, err
	}
	if d.Mode != modeCluster {
		return nil, fmt.Errorf("the deployment in %s is of mode %s; start a cluster with `holdfast up cluster --dir DIR`", o.Dir, d.Mode)
	}
	if o.Clients < 1 || o.Slots < 1 || o.FillMB < 0 || o.Bytes < 0 {
		return nil, errors.New("--clients and --slots must be 1 or more, --fill and --bytes 0 or more")
	}
	if o.Bytes == 0 {
		o.Bytes = int64(o.FillMB) << 20
	}
	switch o.Kill {
	case "", killSource, killTarget, killAdministrator:
	default:
		return nil, fmt.Errorf("--kill %s: it is source, target or administrator", o.Kill)
	}
	if _, err := d.healthyFirst(ctx, o.DrillOptions); err != nil {
		return nil, err
	}
	x := &loadDrill{o: o, d: d, r: &LoadReport{Drill: "reshard-under-load", Errors: map[string]int{}}, mark: fmt.Sprintf(":drill:%d:", time.Now().UnixMilli())}
	x.a = newClusterAdmin("drill", ClusterOptions{Seeds: d.addrs(), Timeout: 10 * time.Second, MigrateTimeout: time.Minute, Settle: 30 * time.Second,
		ByKey: o.ByKey, JSON: true, Out: io.Discard})
	defer x.a.close()
	if err := x.a.load(); err != nil {
		return nil, err
	}
	return x.r, x.run(ctx)
}

func (x *loadDrill) run(ctx context.Context) error {
	moves, err := x.prepare()
	if err != nil {
		return err
	}
	done := make(chan struct{})
	writers := make([]*loadWriter, x.o.Clients)
	var wg sync.WaitGroup
	for i := range writers {
		writers[i] = x.newWriter(i, x.r.From)
		wg.Add(1)
		go func() {
			defer wg.Done()
			writers[i].run(done)
		}()
	}
	sleep(ctx, x.o.Before)
	say(x.o.DrillOptions, "moving them to %s, with %s writing to them", x.r.To, plural(x.o.Clients, "client"))
	began := time.Now()
	if x.o.Kill == "" {
		err = x.a.moveSlots(ctx, moves)
	} else {
		err = x.moveWithKill(ctx, moves)
	}
	ended := time.Now()
	sleep(ctx, x.o.After)
	close(done)
	wg.Wait()
	x.r.TookMs = max(1, ended.Sub(began).Milliseconds())
	if err != nil {
		x.r.Reason = fmt.Sprintf("moving slots: %s; see `holdfast cluster check %s`", err, x.a.o.Seeds[0])
		return ctx.Err()
	}
	if x.r.Way, x.r.Keys = x.a.res.Way, x.a.res.Keys; x.o.Kill != "" {
		x.r.Way = "stream" // whoever told what has moved may be gone
	}
	x.r.MiBPerS = float64(x.r.Bytes) / (1 << 20) / ended.Sub(began).Seconds()
	x.r.KeysPerS = float64(x.r.Keys) / ended.Sub(began).Seconds()
	x.summarize(writers, began, ended)
	report, err := x.a.settle(ctx, x.a.o.Settle, -1)
	if err != nil {
		return err
	}
	x.r.Healthy, x.r.Reason = report.Verdict == Healthy, report.Reason
	return x.count(writers)
}

// prepare chooses the ends and the slots, and fills these.
func (x *loadDrill) prepare() ([]clusterMove, error) {
	masters := x.a.m.live()
	slices.SortStableFunc(masters, func(a, b *clusterNode) int { return b.slots.Len() - a.slots.Len() })
	from, to := masters[0], masters[len(masters)-1]
	x.slots = from.slots.list()
	x.slots = x.slots[:min(len(x.slots), x.o.Slots)]
	x.tags = tagsOf(x.slots)
	x.r.Slots = len(x.slots)
	say(x.o.DrillOptions, "filling %s of %s with %s", plural(len(x.slots), "slot"), from.name(), sizeText(x.o.Bytes))
	if err := x.fill(from.id); err != nil {
		return nil, err
	}
	if err := x.a.load(); err != nil { // replicas may have changed sides
		return nil, err
	}
	if from, to = x.a.standsFor(from.id), x.a.standsFor(to.id); from == nil || to == nil {
		return nil, errors.New("source or target went away while values were written")
	}
	x.r.From, x.r.To = from.name(), to.name()
	moves := make([]clusterMove, len(x.slots))
	for i, n := range x.slots {
		moves[i] = clusterMove{n, from.id, to.id}
	}
	return moves, nil
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

const (
	// fillValue is how large the values are that a drill moves beside its own.
	fillValue = 16 << 10
	// fillBatch is how many of them are written together.
	fillBatch = 64
)

func (x *loadDrill) fillKey(i int) string {
	return fmt.Sprintf("{%s}%sfill:%d", x.tags[i%len(x.slots)], x.mark, i)
}

// fill writes values that cannot be compressed.
func (x *loadDrill) fill(source string) error {
	noise := make([]byte, 4*fillValue)
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	for x.r.Bytes < x.o.Bytes {
		var cmds [][]string
		for range fillBatch {
			at := x.fills * 61 % (3 * fillValue)
			cmds = append(cmds, []string{"SET", x.fillKey(x.fills), string(noise[at : at+fillValue])})
			x.r.Bytes += fillValue
			x.fills++
		}
		if x.r.Bytes >= x.o.Bytes && x.d.Replicas > 0 {
			cmds = append(cmds, []string{"WAIT", "1", "60000"})
		}
		if err := x.send(source, cmds); err != nil {
			return err
		}
	}
	return nil
}

// send has the source execute commands. On a busy machine nodes may miss each
// other for a moment, even fail over: then it tries again.
func (x *loadDrill) send(id string, cmds [][]string) error {
	for end := time.Now().Add(x.o.Limit); ; time.Sleep(settlePoll) {
		from := x.a.standsFor(id)
		err := errors.New("the source does not answer")
		if from != nil {
			if err = x.sendTo(from, cmds); err == nil {
				return nil
			}
		}
		if time.Now().After(end) {
			return err
		}
		if err := x.a.load(); err != nil {
			return err
		}
	}
}

func (x *loadDrill) sendTo(n *clusterNode, cmds [][]string) error {
	v, err := x.a.pool.pipe(n.addr(), 2*time.Minute, cmds...)
	if err != nil {
		return err
	}
	for i, r := range v {
		if r.Err() != nil {
			return fmt.Errorf("%s: %s: %w", n.name(), cmds[i][0], r.Err())
		}
	}
	return nil
}

// loadWriter is one client: it writes new keys, to one slot after the other, and
// follows redirects.
type loadWriter struct {
	x      *loadDrill
	n      int
	nodes  []string       // where to ask when nobody answers
	home   string         // where to go first
	at     map[int]string // owner of a slot, once redirected
	pool   *pool
	acked  []loadAck
	moved  int
	ask    int
	again  int // TRYAGAIN
	errors map[string]int
	// unknown counts writes of which nobody said what became of them, because a
	// node was killed.
	unknown int
}

type loadAck struct {
	slot int // index
	seq  int
	at   time.Time
	took time.Duration
	sent bool // on to another node
}

func (x *loadDrill) newWriter(n int, home string) *loadWriter {
	return &loadWriter{x: x, n: n, nodes: x.d.addrs(), home: home, at: map[int]string{}, pool: newPool(Access{}, 10*time.Second), errors: map[string]int{}}
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
		began, before := time.Now(), w.moved+w.ask
		err := w.write(k, seq)
		now := time.Now()
		switch {
		case err == nil:
			w.acked = append(w.acked, loadAck{k, seq, now, now.Sub(began), w.moved+w.ask > before})
		case w.x.o.Kill == "" || isReply(err, "ERR") || isReply(err, "WRONGTYPE"):
			w.errors[err.Error()]++
		default:
			// Somebody is gone: whoever is there knows who has the slot now.
			w.unknown++
			w.at[k] = w.nodes[(seq+w.n)%len(w.nodes)]
			time.Sleep(5 * time.Millisecond)
		}
	}
}

const loadTries = 1000

// errUnconfirmed is a write that no replica has confirmed.
var errUnconfirmed = errors.New("no replica has confirmed it")

// write writes a key once, wherever it is served. Where a node may be killed, it
// counts once a replica has it.
func (w *loadWriter) write(k, seq int) error {
	addr, asking := w.home, false
	if a := w.at[k]; a != "" {
		addr = a
	}
	cmd := []string{"INCR", w.x.key(k, w.n, seq)}
	for range loadTries {
		var cmds [][]string
		if asking {
			cmds = append(cmds, []string{"ASKING"})
		}
		at := len(cmds)
		cmds = append(cmds, cmd)
		confirm := w.x.o.Kill != "" && w.x.d.Replicas > 0
		if confirm {
			cmds = append(cmds, []string{"WAIT", "1", "1000"})
		}
		v, err := w.pool.pipe(addr, 10*time.Second, cmds...)
		if err != nil {
			return err
		}
		reply := v[at]
		if reply.Err() == nil {
			if confirm && v[at+1].Int < 1 {
				return errUnconfirmed
			}
			return nil
		}
		f := strings.Fields(reply.String())
		switch {
		case f[0] == "MOVED" && len(f) == 3:
			addr, asking = f[2], false
			w.at[k] = addr
			w.moved++
		case f[0] == "ASK" && len(f) == 3:
			addr, asking = f[2], true
			w.ask++
		case f[0] == "TRYAGAIN":
			w.again++
			time.Sleep(time.Millisecond)
		default:
			return reply.Err()
		}
	}
	return errors.New("redirected without end")
}

func (x *loadDrill) summarize(writers []*loadWriter, began, ended time.Time) {
	var all []time.Duration
	slow, pause := make([]time.Duration, len(x.slots)), make([]time.Duration, len(x.slots))
	index := make(map[int]int, len(x.slots))
	for i, n := range x.slots {
		index[n] = i
	}
	for _, w := range writers {
		x.r.Acknowledged += len(w.acked)
		x.r.Redirects += w.moved + w.ask + w.again
		x.r.Moved += w.moved
		x.r.Ask += w.ask
		if x.r.Kill != nil {
			x.r.Kill.Unknown += w.unknown
		}
		for text, n := range w.errors {
			x.r.Errors[text] += n
		}
		for _, a := range w.acked {
			if a.at.After(began) && a.at.Add(-a.took).Before(ended) {
				all = append(all, a.took)
				slow[a.slot] = max(slow[a.slot], a.took)
				if a.sent {
					pause[a.slot] = max(pause[a.slot], a.took)
				}
			}
		}
	}
	// Few clients meet the pause of a slot: the ends of the move know it of all.
	for _, n := range x.a.m.live() {
		jobs, _, err := x.a.jobsOf(n)
		if err != nil {
			continue // what clients saw stands
		}
		for _, j := range jobs {
			set, err := slot.ParseSet(j.Slots)
			if err != nil || j.BeganMs < began.UnixMilli() {
				continue
			}
			set.Each(func(n int) {
				if i, ok := index[n]; ok {
					pause[i] = max(pause[i], time.Duration(j.PausedMs)*time.Millisecond)
				}
			})
		}
	}
	slices.Sort(all)
	slices.Sort(slow)
	slices.Sort(pause)
	at := func(d []time.Duration, q int) time.Duration {
		if len(d) == 0 {
			return 0
		}
		return d[min(len(d)-1, len(d)*q/100)]
	}
	x.r.P50Us, x.r.P99Us = at(all, 50).Microseconds(), at(all, 99).Microseconds()
	spread := func(d []time.Duration) Spread {
		return Spread{at(d, 50).Milliseconds(), at(d, 99).Milliseconds(), at(d, 100).Milliseconds()}
	}
	x.r.SlowMs, x.r.PauseMs = spread(slow), spread(pause)
}

// count reads every acknowledged key back, then removes what the drill wrote.
func (x *loadDrill) count(writers []*loadWriter) error {
	written := make([][]string, len(x.slots))
	for _, w := range writers {
		for _, a := range w.acked {
			written[a.slot] = append(written[a.slot], x.key(a.slot, w.n, a.seq))
		}
	}
	for k := range x.slots {
		for end := time.Now().Add(x.o.Limit); ; time.Sleep(settlePoll) {
			lost, doubled, err := x.countSlot(k, written[k])
			if err == nil {
				x.r.Lost, x.r.Doubled = x.r.Lost+lost, x.r.Doubled+doubled
				break
			}
			if time.Now().After(end) {
				return fmt.Errorf("counting: %w", err)
			}
			if err := x.a.load(); err != nil {
				return err
			}
		}
	}
	return nil
}

// countSlot looks whether a slot has the keys that were acknowledged, and all
// that was there before the move.
func (x *loadDrill) countSlot(k int, keys []string) (lost, doubled int, err error) {
	n := x.slots[k]
	owner := x.a.m.owner(n)
	if owner == nil {
		return 0, 0, fmt.Errorf("slot %d has %s", n, plural(len(x.a.m.claimants(n)), "owner"))
	}
	for part := range slices.Chunk(keys, 512) {
		v, err := x.a.pool.do(owner.addr(), append([]string{"MGET"}, part...)...)
		if err != nil {
			return 0, 0, fmt.Errorf("%s: MGET: %w", owner.name(), err)
		}
		for _, e := range v.Elems {
			switch {
			case e.IsNull():
				lost++
			case e.String() != "1":
				doubled++
			}
		}
	}
	var cmds [][]string
	for i := k; i < x.fills; i += len(x.slots) {
		cmds = append(cmds, []string{"STRLEN", x.fillKey(i)})
	}
	for part := range slices.Chunk(cmds, 512) {
		v, err := x.a.pool.pipe(owner.addr(), 10*time.Second, part...)
		if err != nil {
			return 0, 0, fmt.Errorf("%s: STRLEN: %w", owner.name(), err)
		}
		for _, r := range v {
			if r.Err() != nil {
				return 0, 0, fmt.Errorf("%s: STRLEN: %w", owner.name(), r.Err())
			}
			if r.Int != fillValue {
				lost++
			}
		}
	}
	x.remove(owner, n)
	return lost, doubled, nil
}

// remove deletes what the drill wrote, as far as that can be done now.
func (x *loadDrill) remove(owner *clusterNode, n int) {
	for {
		v, err := x.a.pool.do(owner.addr(), "CLUSTER", "GETKEYSINSLOT", strconv.Itoa(n), "100000")
		if err != nil {
			return
		}
		args := []string{"UNLINK"}
		for _, e := range v.Elems {
			if strings.Contains(e.String(), x.mark) {
				args = append(args, e.String())
			}
		}
		if len(args) == 1 {
			return
		}
		if _, err := x.a.pool.do(owner.addr(), args...); err != nil {
			return
		}
	}
}
