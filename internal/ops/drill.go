package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// DrillOptions are the flags of `drill`.
type DrillOptions struct {
	Dir    string
	Before time.Duration // of undisturbed writing
	After  time.Duration // of writing once writes are back
	Limit  time.Duration // after which the drill gives up
	Pause  time.Duration // pause-primary: how long the master is stopped
	Disk   int           // lose-disk, corrupt-disk: slot of the member
	Flips  int           // corrupt-disk: bytes to flip
	// reshard-under-load: how much moves, and how many write meanwhile.
	Slots, FillMB, Clients int
	Out                    io.Writer
	JSON                   bool
}

// DrillReport is the verdict of a drill. Durations are counted from the moment
// of the failure.
type DrillReport struct {
	Drill        string        `json:"drill"`
	OldMaster    string        `json:"old_master"`
	NewMaster    string        `json:"new_master"`
	DetectedMs   int64         `json:"detected_after_ms"`    // first +sdown or +odown of a Sentinel
	SwitchedMs   int64         `json:"switched_after_ms"`    // first +switch-master
	WritesBackMs int64         `json:"writes_back_after_ms"` // first acknowledged write
	Acknowledged int           `json:"acknowledged"`
	Lost         int           `json:"lost"`
	Duplicated   int           `json:"duplicated"`
	LostKeys     []string      `json:"lost_keys,omitempty"`
	Rejoined     bool          `json:"old_master_rejoined"`
	Took         time.Duration `json:"-"`
}

// Verdict is the exit code: 0 when writes came back and nothing is lost.
func (r *DrillReport) Verdict() Verdict {
	switch {
	case r.WritesBackMs < 0:
		return Down
	case r.Lost > 0 || r.Duplicated > 0:
		return Degraded
	}
	return Healthy
}

// KillPrimary kills the master's process under a probe client's writes, waits
// for the failover, and counts.
func KillPrimary(ctx context.Context, o DrillOptions) (*DrillReport, error) {
	return drill(ctx, o, "kill-primary", func(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) })
}

// PausePrimary stops the master's process for o.Pause, long enough for the
// others to give it up, and lets it go on.
func PausePrimary(ctx context.Context, o DrillOptions) (*DrillReport, error) {
	return drill(ctx, o, "pause-primary", func(pid int) error {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			return err
		}
		time.AfterFunc(o.Pause, func() { _ = syscall.Kill(pid, syscall.SIGCONT) }) // it may be gone
		return nil
	})
}

func drill(ctx context.Context, o DrillOptions, name string, strike func(pid int) error) (*DrillReport, error) {
	d, err := LoadDeployment(o.Dir)
	if err != nil {
		return nil, err
	}
	if d.Mode == modeCluster {
		return drillCluster(ctx, o, d, name, strike)
	}
	if d.Mode != "sentinel" {
		return nil, fmt.Errorf("the deployment in %s is of mode %s: without Sentinels nobody fails over", o.Dir, d.Mode)
	}
	st, err := d.healthyFirst(ctx, o)
	if err != nil {
		return nil, err
	}
	victim := memberAt(d, st.Master)
	if victim == nil || victim.Pid == 0 {
		return nil, fmt.Errorf("the master %s is no process of this deployment", st.Master)
	}
	r := &DrillReport{Drill: name, OldMaster: st.Master, DetectedMs: -1, SwitchedMs: -1, WritesBackMs: -1}
	ctx, cancel := context.WithTimeout(ctx, o.Before+o.Limit)
	defer cancel()
	say(o, "writing to %s for %s", st.Master, o.Before)
	p := newProbe(d)
	p.run(ctx)
	events := watchEvents(ctx, d)
	if !sleep(ctx, o.Before) {
		p.stop()
		return nil, ctx.Err()
	}
	say(o, "%s: %s, process %d", name, victim.Name, victim.Pid)
	struck := time.Now()
	p.expectFailure(struck)
	if err := strike(victim.Pid); err != nil {
		p.stop()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	p.waitBack(ctx)
	sleep(ctx, o.After)
	p.stop()
	r.fill(p, events, struck)
	if err := r.count(ctx, p); err != nil {
		return r, err
	}
	r.Rejoined = waitRejoined(ctx, d)
	r.Took = time.Since(struck)
	return r, nil
}

// firstLimit is how long a drill waits until the deployment is healthy; a member
// of a busy machine may miss another, or keep silent, for a moment, and a Sentinel
// that stood still judges nobody for 30 s.
const firstLimit = 45 * time.Second

// healthyFirst is the state that a drill begins with.
func (d *Deployment) healthyFirst(ctx context.Context, o DrillOptions) (*Status, error) {
	told := false
	for end := time.Now().Add(firstLimit); ; {
		st := d.Status(time.Second, Access{})
		if st.Verdict == Healthy {
			return st, nil
		}
		if st.silent() {
			return nil, fmt.Errorf("nobody of the deployment in %s answers; start it with `holdfast up --dir %s`", o.Dir, o.Dir)
		}
		if !told {
			told = true
			say(o, "waiting until the deployment is healthy: %s", st.Reason)
		}
		if time.Now().After(end) || !sleep(ctx, 100*time.Millisecond) {
			return nil, fmt.Errorf("the deployment in %s is %s (%s); a drill begins with a healthy one, see `holdfast status`", o.Dir, st.Verdict, st.Reason)
		}
	}
}

func memberAt(d *Deployment, addr string) *Member {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return nil
	}
	return d.byPort(n)
}

func say(o DrillOptions, format string, args ...any) {
	if !o.JSON {
		fmt.Fprintf(o.Out, format+"\n", args...)
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// probe writes one key after the other to whoever the Sentinels call the
// master, and remembers what was acknowledged.
type probe struct {
	d      *Deployment
	fixed  string        // the address to write to, instead of asking the Sentinels
	where  func() string // the same, asked before each connection
	prefix string
	done   chan struct{}
	ended  sync.WaitGroup

	mu     sync.Mutex
	acked  []ack
	back   chan time.Time
	since  time.Time // of the failure; zero before it
	failed bool      // a write has failed since then

	refused int // writes that failed since then
}

type ack struct {
	n    int
	at   time.Time
	on   string
	back bool // a write has failed before this one
}

func newProbe(d *Deployment) *probe {
	return &probe{d: d, prefix: fmt.Sprintf("drill:%d:", time.Now().UnixMilli()), done: make(chan struct{}), back: make(chan time.Time, 1)}
}

func (p *probe) key(n int) string { return p.prefix + strconv.Itoa(n) }

const probeTimeout = 500 * time.Millisecond

func (p *probe) run(ctx context.Context) {
	p.ended.Add(1)
	go func() {
		defer p.ended.Done()
		var c *client
		var addr string
		for n := 0; ; n++ {
			select {
			case <-p.done:
			case <-ctx.Done():
			default:
				c, addr = p.write(c, addr, n)
				continue
			}
			if c != nil {
				c.close()
			}
			return
		}
	}()
}

// write writes key n once. Not acknowledged, it is left behind: its fate is
// unknown, which is no loss.
func (p *probe) write(c *client, addr string, n int) (*client, string) {
	if c == nil {
		addr = p.master()
		var err error
		if c, err = dial(addr, probeTimeout); err != nil {
			time.Sleep(5 * time.Millisecond)
			return nil, ""
		}
	}
	if _, err := c.do("INCR", p.key(n)); err != nil {
		c.close()
		p.mu.Lock()
		if !p.since.IsZero() {
			p.failed = true
			p.refused++
		}
		p.mu.Unlock()
		time.Sleep(5 * time.Millisecond)
		return nil, ""
	}
	now := time.Now()
	p.mu.Lock()
	// A reply may have been on its way when the failure came: writes are back
	// once one succeeds after one has failed.
	p.acked = append(p.acked, ack{n: n, at: now, on: addr, back: p.failed})
	if p.failed {
		select {
		case p.back <- now:
		default:
		}
	}
	p.mu.Unlock()
	time.Sleep(time.Millisecond)
	return c, addr
}

// master asks the Sentinels in turn.
func (p *probe) master() string {
	if p.fixed != "" {
		return p.fixed
	}
	if p.where != nil {
		return p.where()
	}
	for _, m := range p.d.ofKind(kindSentinel) {
		v, err := ask(m.Addr(), probeTimeout, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", p.d.Master)
		if err == nil && len(v.Elems) == 2 {
			return net.JoinHostPort(v.Elems[0].String(), v.Elems[1].String())
		}
	}
	return ""
}

// expectFailure says when the failure is caused.
func (p *probe) expectFailure(at time.Time) {
	p.mu.Lock()
	p.since = at
	p.mu.Unlock()
}

// waitBack waits for the first write that is acknowledged after one has failed.
func (p *probe) waitBack(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-p.back:
	}
}

func (p *probe) stop() {
	close(p.done)
	p.ended.Wait()
}

// event is what a Sentinel published.
type event struct {
	at   time.Time
	kind string
	text string
}

type eventLog struct {
	mu  sync.Mutex
	all []event
}

// watchEvents listens to all Sentinels until ctx ends.
func watchEvents(ctx context.Context, d *Deployment) *eventLog {
	log := &eventLog{}
	for _, m := range d.ofKind(kindSentinel) {
		c, err := dial(m.Addr(), time.Second)
		if err != nil {
			continue
		}
		if _, err := c.do("PSUBSCRIBE", "*"); err != nil {
			c.close()
			continue
		}
		_ = c.nc.SetDeadline(time.Time{})
		context.AfterFunc(ctx, c.close)
		go func() {
			for {
				v, err := c.r.Read()
				if err != nil {
					return
				}
				if len(v.Elems) == 4 {
					log.mu.Lock()
					log.all = append(log.all, event{time.Now(), v.Elems[2].String(), v.Elems[3].String()})
					log.mu.Unlock()
				}
			}
		}()
	}
	return log
}

func (l *eventLog) firstAfter(t time.Time, kinds ...string) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.all {
		for _, k := range kinds {
			if e.kind == k && e.at.After(t) {
				return e.at.Sub(t).Milliseconds()
			}
		}
	}
	return -1
}

func (r *DrillReport) fill(p *probe, events *eventLog, struck time.Time) {
	r.DetectedMs = events.firstAfter(struck, "+sdown", "+odown")
	r.SwitchedMs = events.firstAfter(struck, "+switch-master")
	p.mu.Lock()
	defer p.mu.Unlock()
	r.Acknowledged = len(p.acked)
	for _, a := range p.acked {
		if a.back {
			r.WritesBackMs = a.at.Sub(struck).Milliseconds()
			r.NewMaster = a.on
			return
		}
	}
}

// count reads back every acknowledged key from the master of now. Who that is may
// change, or not be told, for a moment.
func (r *DrillReport) count(ctx context.Context, p *probe) error {
	for {
		one := DrillReport{}
		err := one.countNow(p)
		if err == nil {
			r.Lost, r.Duplicated = r.Lost+one.Lost, r.Duplicated+one.Duplicated
			r.LostKeys = append(r.LostKeys, one.LostKeys...)
			r.LostKeys = r.LostKeys[:min(len(r.LostKeys), lostShown)]
			return nil
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return err
		}
	}
}

// lostShown is how many lost keys are named.
const lostShown = 10

func (r *DrillReport) countNow(p *probe) error {
	addr := p.master()
	if addr == "" {
		return errors.New("no Sentinel names a master: what is lost cannot be counted")
	}
	c, err := dial(addr, 5*time.Second)
	if err != nil {
		return fmt.Errorf("the new master %s: %w", addr, err)
	}
	defer c.close()
	const batch = 512
	for at := 0; at < len(p.acked); at += batch {
		part := p.acked[at:min(at+batch, len(p.acked))]
		args := []string{"MGET"}
		for _, a := range part {
			args = append(args, p.key(a.n))
		}
		v, err := c.do(args...)
		if err != nil {
			return fmt.Errorf("counting on %s: %w", addr, err)
		}
		for i, e := range v.Elems {
			switch {
			case e.IsNull():
				r.Lost++
				if len(r.LostKeys) < lostShown {
					r.LostKeys = append(r.LostKeys, p.key(part[i].n))
				}
			case e.String() != "1":
				r.Duplicated++
			}
		}
	}
	return nil
}

// waitRejoined waits until all is healthy again: the old master is a replica.
func waitRejoined(ctx context.Context, d *Deployment) bool {
	for {
		if d.Status(time.Second, Access{}).Verdict == Healthy {
			return true
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return false
		}
	}
}

// Print writes the report: the figures, then one verdict line.
func (r *DrillReport) Print(w io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	fmt.Fprintf(w, "detected after     %s\n", ms(r.DetectedMs))
	fmt.Fprintf(w, "switched after     %s\n", ms(r.SwitchedMs))
	fmt.Fprintf(w, "writes back after  %s   on %s\n", ms(r.WritesBackMs), r.NewMaster)
	fmt.Fprintf(w, "acknowledged       %d\n", r.Acknowledged)
	fmt.Fprintf(w, "lost               %d\n", r.Lost)
	fmt.Fprintf(w, "duplicated         %d\n", r.Duplicated)
	rejoined := "the old master is back as a replica"
	if !r.Rejoined {
		rejoined = "the old master is not back yet"
	}
	words := map[Verdict]string{Healthy: "PASSED", Degraded: "LOST WRITES", Down: "FAILED"}
	fmt.Fprintf(w, "%s: %s, writes back in %s, %d of %d acknowledged writes lost, %s\n",
		words[r.Verdict()], r.Drill, ms(r.WritesBackMs), r.Lost, r.Acknowledged, rejoined)
	return nil
}

func ms(n int64) string {
	if n < 0 {
		return "never"
	}
	return fmt.Sprintf("%.2f s", float64(n)/1000)
}

// Alive reports whether a process exists.
func Alive(pid int) bool {
	p, err := os.FindProcess(pid)
	return err == nil && p.Signal(syscall.Signal(0)) == nil
}
