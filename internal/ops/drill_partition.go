package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// All members of `up` live on 127.0.0.1, where no cable can be pulled without
// being root. What a partition does to the others is done all the same: the
// master moves to another port that only the drill knows, and all its
// connections are cut. Replicas, Sentinels and clients cannot reach it any more,
// while it lives, takes itself for the master, and acknowledges the writes of a
// client on its own side. The partition heals when it moves back.

// PartitionReport is the verdict of `drill partition`: that of a failover, and
// what happened on the isolated side.
type PartitionReport struct {
	DrillReport
	HealedMs     int64    `json:"healed_after_ms"`
	LostSaved    int      `json:"lost_saved"` // of Lost, how many are in Files
	Isolated     int      `json:"acknowledged_by_isolated_master"`
	IsolatedLost int      `json:"isolated_lost"`  // not on the master of now
	Saved        int      `json:"isolated_saved"` // of those, how many are in Files
	Files        []string `json:"divergence_files,omitempty"`
}

// Verdict is the exit code. What a master acknowledges while it is alone is lost to
// the others, since replication is asynchronous; what counts against the deployment
// is a write that is not saved either.
func (r *PartitionReport) Verdict() Verdict {
	switch {
	case r.WritesBackMs < 0:
		return Down
	case r.unsaved() > 0 || r.Duplicated > 0:
		return Degraded
	}
	return Healthy
}

// unsaved is how many acknowledged writes are nowhere.
func (r *PartitionReport) unsaved() int { return r.Lost - r.LostSaved + r.IsolatedLost - r.Saved }

// Partition cuts the master off from everybody but one client for o.Pause, and
// at least until the others have another master; then it joins them again.
func Partition(ctx context.Context, o DrillOptions) (*PartitionReport, error) {
	d, victim, err := healthyDeployment(ctx, o)
	if err != nil {
		return nil, err
	}
	r := &PartitionReport{DrillReport: DrillReport{Drill: "partition", OldMaster: victim.Addr(), DetectedMs: -1, SwitchedMs: -1, WritesBackMs: -1}}
	ctx, cancel := context.WithTimeout(ctx, o.Before+o.Limit)
	defer cancel()
	say(o, "writing to %s for %s", victim.Addr(), o.Before)
	p := newProbe(d)
	p.run(ctx)
	stop := sync.OnceFunc(p.stop)
	defer stop()
	events := watchEvents(ctx, d)
	if !sleep(ctx, o.Before) {
		return nil, ctx.Err()
	}
	say(o, "partition: %s, process %d, is alone with one client", victim.Name, victim.Pid)
	struck := time.Now()
	p.expectFailure(struck)
	cut, err := isolate(victim)
	if err != nil {
		return nil, fmt.Errorf("partition: %w", err)
	}
	defer cut.heal() // also when the drill is given up
	aside := newProbe(d)
	aside.prefix += "aside:"
	aside.fixed = cut.aside
	aside.run(ctx)
	p.waitBack(ctx)
	sleep(ctx, o.Pause-time.Since(struck))
	aside.stop()
	if err := cut.heal(); err != nil {
		return nil, fmt.Errorf("healing the partition: %w", err)
	}
	r.HealedMs = time.Since(struck).Milliseconds()
	say(o, "healed: the old master is among the others again")
	sleep(ctx, o.After)
	stop()
	r.fill(p, events, struck)
	r.Rejoined = waitRejoined(ctx, d)
	r.Took = time.Since(struck)
	saved, err := r.readDivergence(victim, struck)
	if err != nil {
		return r, err
	}
	if err := r.count(ctx, p); err != nil {
		return r, err
	}
	if _, r.LostSaved, err = missing(d, p, saved); err != nil {
		return r, err
	}
	r.Isolated = len(aside.acked)
	r.IsolatedLost, r.Saved, err = missing(d, aside, saved)
	return r, err
}

// healthyDeployment is the deployment of o with the member that is its master.
func healthyDeployment(ctx context.Context, o DrillOptions) (*Deployment, *Member, error) {
	d, err := LoadDeployment(o.Dir)
	if err != nil {
		return nil, nil, err
	}
	if d.Mode != "sentinel" {
		return nil, nil, fmt.Errorf("the deployment in %s is of mode %s: drill partition needs one with Sentinels", o.Dir, d.Mode)
	}
	st, err := d.healthyFirst(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	victim := memberAt(d, st.Master)
	if victim == nil || victim.Pid == 0 {
		return nil, nil, fmt.Errorf("the master %s is no process of this deployment", st.Master)
	}
	return d, victim, nil
}

// isolation is a server that listens where nobody looks for it.
type isolation struct {
	port   int    // where it belongs
	aside  string // where it is
	healed bool
}

const isolateTimeout = 5 * time.Second

// isolate moves the server to a port of its own and cuts its connections.
func isolate(m *Member) (*isolation, error) {
	aside, err := unusedPort()
	if err != nil {
		return nil, err
	}
	c, err := dial(m.Addr(), isolateTimeout)
	if err != nil {
		return nil, err
	}
	defer c.close()
	i := &isolation{port: m.Port, aside: net.JoinHostPort("127.0.0.1", strconv.Itoa(aside))}
	for _, cmd := range [][]string{
		{"CONFIG", "SET", "port", strconv.Itoa(aside)},
		{"CLIENT", "KILL", "TYPE", "replica"}, {"CLIENT", "KILL", "TYPE", "pubsub"}, {"CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"},
	} {
		if _, err := c.do(cmd...); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", strings.Join(cmd, " "), err), i.heal())
		}
	}
	return i, nil
}

func unusedPort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// heal moves the server back. Once is enough.
func (i *isolation) heal() error {
	if i.healed {
		return nil
	}
	_, err := ask(i.aside, isolateTimeout, "CONFIG", "SET", "port", strconv.Itoa(i.port))
	i.healed = err == nil
	return err
}

// missing is how many acknowledged writes of a probe the master of now does not
// have, and how many of those are in the text of the divergence files.
func missing(d *Deployment, p *probe, text string) (lost, saved int, err error) {
	c, err := dial(d.probeMaster(), isolateTimeout)
	if err != nil {
		return 0, 0, fmt.Errorf("counting on the new master: %w", err)
	}
	defer c.close()
	for _, a := range p.acked {
		v, err := c.do("EXISTS", p.key(a.n))
		if err != nil {
			return lost, saved, fmt.Errorf("counting on the new master: %w", err)
		}
		if v.Int == 1 {
			continue
		}
		lost++
		if strings.Contains(text, "\r\n"+p.key(a.n)+"\r\n") {
			saved++
		}
	}
	return lost, saved, nil
}

// probeMaster is whom the Sentinels call the master.
func (d *Deployment) probeMaster() string { return (&probe{d: d}).master() }

// readDivergence is the text of all divergence files that are newer than since.
func (r *PartitionReport) readDivergence(m *Member, since time.Time) (string, error) {
	paths, err := filepath.Glob(filepath.Join(m.Dir, "divergence-*.resp"))
	if err != nil {
		return "", err
	}
	var text strings.Builder
	for _, path := range paths {
		fi, err := os.Stat(path)
		if err != nil {
			return "", err
		}
		if fi.ModTime().Before(since) {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		r.Files = append(r.Files, path)
		text.Write(b)
	}
	return text.String(), nil
}

// Print writes the report: the figures, then one verdict line.
func (r *PartitionReport) Print(w io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	fmt.Fprintf(w, "detected after     %s\n", ms(r.DetectedMs))
	fmt.Fprintf(w, "switched after     %s\n", ms(r.SwitchedMs))
	fmt.Fprintf(w, "writes back after  %s   on %s\n", ms(r.WritesBackMs), r.NewMaster)
	fmt.Fprintf(w, "healed after       %s\n", ms(r.HealedMs))
	fmt.Fprintf(w, "acknowledged       %d, and %d by the isolated master on its side\n", r.Acknowledged, r.Isolated)
	fmt.Fprintf(w, "lost               %d, and %d of the isolated master; %d of them are saved\n", r.Lost, r.IsolatedLost, r.LostSaved+r.Saved)
	for _, f := range r.Files {
		fmt.Fprintf(w, "saved in           %s   (redis-cli --pipe reads it)\n", f)
	}
	fmt.Fprintf(w, "duplicated         %d\n", r.Duplicated)
	rejoined := "the old master is back as a replica"
	if !r.Rejoined {
		rejoined = "the old master is not back yet"
	}
	words := map[Verdict]string{Healthy: "PASSED", Degraded: "LOST WRITES", Down: "FAILED"}
	fmt.Fprintf(w, "%s: %s, writes back in %s, %d acknowledged writes neither on the master nor saved, %s\n",
		words[r.Verdict()], r.Drill, ms(r.WritesBackMs), r.unsaved(), rejoined)
	return nil
}
