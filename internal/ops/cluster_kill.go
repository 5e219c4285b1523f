package ops

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// What reshard-under-load may kill.
const (
	killSource        = "source"
	killTarget        = "target"
	killAdministrator = "administrator"
)

// KillReport is what a drill killed while slots moved, and what became of it.
type KillReport struct {
	What     string `json:"what"` // source, target, administrator
	Seed     uint64 `json:"seed"`
	Step     string `json:"step"`            // at which it was to die
	Struck   string `json:"struck"`          // where it was when it died
	HealedMs int64  `json:"healed_after_ms"` // -1: not in time
	Unknown  int    `json:"unknown"`         // writes that nobody answered
	Runs     int    `json:"runs"`            // of the administrator, until all slots had moved
}

func (k *KillReport) print(w io.Writer) {
	healed := "not healed"
	if k.HealedMs >= 0 {
		healed = fmt.Sprintf("healed by itself in %.2f s", float64(k.HealedMs)/1000)
	}
	fmt.Fprintf(w, "killed             the %s %s (seed %d: %s); %s\n", k.What, k.Struck, k.Seed, k.Step, healed)
	fmt.Fprintf(w, "                   %d writes without an answer, %s of the administrator\n", k.Unknown, plural(k.Runs, "run"))
}

// killStep is the moment when somebody dies: not before so many jobs have begun
// and the last of them has come so far, and then a little later.
type killStep struct {
	job   int
	phase string
	after time.Duration
}

var killPhases = []string{"waiting", "snapshot", "following", "handover", "in-doubt", "taking", "dropping", "done"}

// drawStep draws a step of a move of so many jobs.
func drawStep(rnd *rand.Rand, jobs int) killStep {
	return killStep{1 + rnd.IntN(jobs), killPhases[rnd.IntN(len(killPhases)-2)], time.Duration(rnd.IntN(15000)) * time.Microsecond}
}

func (s killStep) String() string {
	return fmt.Sprintf("job %d, %s + %.1f ms", s.job, s.phase, float64(s.after.Microseconds())/1000)
}

// killTries is how often the administrator is run until all slots have moved.
const killTries = 4

// moveWithKill moves slots, kills somebody meanwhile, waits until all is well
// again without doing anything, and has the administrator move what is left.
func (x *loadDrill) moveWithKill(ctx context.Context, moves []clusterMove) error {
	seed := x.o.Seed
	for seed == 0 {
		seed = rand.Uint64() >> 12 // as a number in JSON it stays whole
	}
	rnd := rand.New(rand.NewPCG(seed, 1))
	why, err := x.a.byKeyReason(x.a.m.byID[moves[0].From], x.a.m.byID[moves[0].To])
	if err != nil {
		return err
	}
	if why != "" {
		return fmt.Errorf("slots would move key by key (%s): what a kill leaves open then is closed by the administrator's next run; --kill is for moves as a stream", why)
	}
	step := drawStep(rnd, (len(moves)+streamSlots-1)/streamSlots)
	k := &KillReport{What: x.o.Kill, Seed: seed, Step: step.String(), HealedMs: -1}
	x.r.Kill = k
	say(x.o.DrillOptions, "kill -9 of the %s at %s (seed %d)", k.What, step, seed)

	victim := make(chan *os.Process, 1)
	struck := make(chan time.Time, 1)
	strikeCtx, stop := context.WithCancel(ctx)
	go func() { struck <- x.strike(strikeCtx, step, victim) }()
	err = x.runMover(ctx, moves, victim)
	stop()
	at := <-struck
	if ctx.Err() != nil {
		return errInterrupted
	}
	if err != nil {
		say(x.o.DrillOptions, "the administrator ended: %s", err)
	}
	for k.Runs = 1; ; k.Runs++ {
		healed, err := x.waitHealed(ctx, at)
		if k.HealedMs < 0 {
			k.HealedMs = healed
		}
		if err != nil {
			return err
		}
		rest, err := x.a.remaining(moves)
		if err != nil || len(rest) == 0 {
			return err
		}
		if k.Runs == killTries {
			return fmt.Errorf("%s of %d still have not moved", plural(len(rest), "slot"), len(moves))
		}
		say(x.o.DrillOptions, "healthy again after %d ms; moving the last %s", healed, plural(len(rest), "slot"))
		if err := x.a.moveSlots(ctx, rest); err != nil {
			say(x.o.DrillOptions, "the administrator ended: %s", err)
		}
	}
}

// strike kills the victim at a step, or when the move ends before. It returns
// when that was.
func (x *loadDrill) strike(ctx context.Context, s killStep, admin <-chan *os.Process) time.Time {
	victim := x.r.From
	if x.o.Kill == killTarget {
		victim = x.r.To
	}
	kill := func() error { return errors.New("no process of this deployment") }
	if x.o.Kill == killAdministrator {
		select {
		case p := <-admin:
			kill = p.Kill
		case <-ctx.Done():
			return time.Now()
		}
	} else if m := memberAt(x.d, victim); m != nil && m.Pid > 0 {
		kill = func() error { return syscall.Kill(m.Pid, syscall.SIGKILL) }
	}
	where := "at the end"
	if x.reach(ctx, s, &where) {
		sleep(ctx, s.after)
	}
	if err := kill(); errors.Is(err, os.ErrProcessDone) {
		where = "when it had ended by itself"
	} else if err != nil {
		where = "not: " + err.Error()
	}
	x.r.Kill.Struck = where
	return time.Now()
}

// reach waits for a step by asking the target; false when the move ended before.
func (x *loadDrill) reach(ctx context.Context, s killStep, where *string) bool {
	p := newPool(Access{}, 2*time.Second)
	defer p.close()
	began := x.a.began.UnixMilli()
	for sleep(ctx, time.Millisecond) {
		v, err := p.do(x.r.To, "HOLDFAST.SLOTS", "STATUS")
		if err != nil {
			continue
		}
		jobs, err := parseSlotJobs(v.Str)
		jobs = slices.DeleteFunc(jobs, func(j slotJob) bool { return j.Role != "import" || j.BeganMs < began })
		n := len(jobs)
		if err != nil || n < s.job {
			continue
		}
		last := slices.MaxFunc(jobs, func(a, b slotJob) int { return int(a.BeganMs - b.BeganMs) })
		if n > s.job || slices.Index(killPhases, last.Phase) >= slices.Index(killPhases, s.phase) {
			*where = fmt.Sprintf("in job %d, phase %s", n, last.Phase)
			return true
		}
	}
	return false
}

// runMover is the administrator: a process of its own when it is to be killed.
func (x *loadDrill) runMover(ctx context.Context, moves []clusterMove, proc chan<- *os.Process) error {
	if x.o.Kill != killAdministrator {
		return x.a.moveSlots(ctx, moves)
	}
	exe := x.o.Exe
	if exe == "" {
		var err error
		if exe, err = os.Executable(); err != nil {
			return err
		}
	}
	cache := filepath.Join(x.d.Dir, "drill-cache")
	defer os.RemoveAll(cache)
	args := []string{"cluster", "reshard", x.r.From, "--from", moves[0].From, "--to", moves[0].To, "--slots", strconv.Itoa(len(moves)), "--yes", "--json"}
	if x.o.ByKey {
		args = append(args, "--by-key")
	}
	cmd := exec.CommandContext(ctx, exe, args...)
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+cache)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		return err
	}
	proc <- cmd.Process
	err := cmd.Wait()
	var exit *exec.ExitError
	switch {
	case err == nil:
		var r ClusterResult
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			return err
		}
		x.a.res.Slots, x.a.res.Keys, x.a.res.Bytes, x.a.res.PausedMs, x.a.res.Way = r.Slots, r.Keys, r.Bytes, r.PausedMs, r.Way
		return nil
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(append(errs.Bytes(), out.Bytes()...)))
	}
	return err
}

// waitHealed waits, and does nothing else, until all nodes are there and agree,
// and no move runs. It returns how long that was after since, in ms.
func (x *loadDrill) waitHealed(ctx context.Context, since time.Time) (int64, error) {
	for end := time.Now().Add(x.o.Limit); ; {
		reason := ""
		if err := x.a.load(); err != nil {
			reason = err.Error()
		} else {
			r := judgeCluster(x.a.m, -1)
			reason = r.Reason
			jobs := x.a.runningJobs(false)
			switch {
			case len(jobs) > 0:
				reason = "moving " + jobs[0].String()
			case r.Verdict == Healthy && len(x.a.m.nodes) == len(x.d.Members):
				return time.Since(since).Milliseconds(), nil
			}
		}
		if time.Now().After(end) {
			return -1, fmt.Errorf("not healthy within %s: %s", x.o.Limit, reason)
		}
		if !sleep(ctx, settlePoll) {
			return -1, errInterrupted
		}
	}
}
