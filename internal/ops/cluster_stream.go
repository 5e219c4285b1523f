package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/redis/cluster/slot"
)

// How slots move between two masters of ours: the target is told to fetch them,
// and does so by itself, as one stream of snapshot and changes at whose end they
// change their owner in one step. The administrator only looks on: what runs
// goes on without it, and the next one waits for it before it plans.
//
//	target: HOLDFAST.SLOTS IMPORT source 0 99   a job begins
//	target: HOLDFAST.SLOTS STATUS               until it is done, or failed: then all is as before
//	target: HOLDFAST.SLOTS CANCEL job           at Ctrl-C; refused behind the point of no return

const (
	// streamSlots and streamKeys bound one job: what fails begins anew, and its
	// slots all pause at once when they change their owner.
	streamSlots = 256
	streamKeys  = 200_000
	// streamTries is how often a job is begun.
	streamTries = 2
	streamPoll  = 25 * time.Millisecond
	// streamStill is how long a job may stand still before it is given up: longer
	// than every bound of the nodes themselves, a failover included.
	streamStill = time.Minute
	// streamReload is how often the cluster is looked at while a job stands still:
	// a shard may have another master.
	streamReload = time.Second
	// cancelLimit is how long a cancelled job may take to say so.
	cancelLimit = 10 * time.Second
)

// slotJob is a move of slots as one of its ends tells it.
type slotJob struct {
	ID       string `json:"id"`
	Role     string `json:"role"` // import, give
	Peer     string `json:"peer"` // node id
	Slots    string `json:"slots"`
	Phase    string `json:"phase"`
	Keys     int64  `json:"keys"`
	Bytes    int64  `json:"bytes"`
	BeganMs  int64  `json:"began_ms"`
	PausedMs int64  `json:"paused_ms"`
	TookMs   int64  `json:"took_ms"`
	Error    string `json:"error"`
}

// over says that nothing more will happen.
func (j *slotJob) over() bool { return j.Phase == "done" || j.Phase == "failed" }

// runs says that the slots are still on their way. While their former owner
// only deletes what it had, they are not.
func (j *slotJob) runs() bool { return !j.over() && j.Phase != "dropping" }

func parseSlotJobs(text []byte) ([]slotJob, error) {
	var reply struct {
		Jobs []slotJob `json:"jobs"`
	}
	if err := json.Unmarshal(text, &reply); err != nil {
		return nil, fmt.Errorf("HOLDFAST.SLOTS STATUS: %w", err)
	}
	return reply.Jobs, nil
}

// ClusterJob is a move of slots that runs, for tables.
type ClusterJob struct {
	ID     string `json:"id"`
	From   string `json:"from"`
	To     string `json:"to"`
	Slots  string `json:"slots"`
	Phase  string `json:"phase"`
	Keys   int64  `json:"keys"`
	Bytes  int64  `json:"bytes"`
	TookMs int64  `json:"took_ms"`
}

func (j ClusterJob) String() string {
	return fmt.Sprintf("slots %s from %s to %s: %s, %s, %s, %.1f s", cutRanges(j.Slots), j.From, j.To, j.Phase, pluralKeys(j.Keys), sizeText(j.Bytes), float64(j.TookMs)/1000)
}

// jobsOf asks a node for its jobs. ok is false for a server that has no such
// command; it is not asked again.
func (a *clusterAdmin) jobsOf(n *clusterNode) (jobs []slotJob, ok bool, err error) {
	a.mu.Lock()
	has, asked := a.streams[n.id]
	a.mu.Unlock()
	if asked && !has {
		return nil, false, nil
	}
	v, err := a.pool.do(n.addr(), "HOLDFAST.SLOTS", "STATUS")
	ok = !isReply(err, "unknown command") && !isReply(err, "NOPERM")
	if err == nil || !ok {
		a.mu.Lock()
		a.streams[n.id] = ok
		a.mu.Unlock()
	}
	switch {
	case !ok:
		return nil, false, nil
	case err != nil:
		return nil, true, fmt.Errorf("%s: HOLDFAST.SLOTS STATUS: %w", n.name(), err)
	}
	jobs, err = parseSlotJobs(v.Str)
	return jobs, true, err
}

// byKeyReason is why slots between two masters move key by key; "" when they
// move as a stream: both of them, and all their replicas, one of which may take
// over any moment, have to be ours. A replica that does not answer has no say.
func (a *clusterAdmin) byKeyReason(from, to *clusterNode) (string, error) {
	if a.o.ByKey {
		return "asked for", nil
	}
	for _, n := range []*clusterNode{from, to} {
		if why, err := a.streamless(n); why != "" || err != nil {
			return why, err
		}
		for _, r := range a.m.replicasOf(n.id) {
			if !r.up() {
				continue
			}
			if why, err := a.streamless(r); why != "" && err == nil {
				return why, nil
			}
		}
	}
	return "", nil
}

func (a *clusterAdmin) streamless(n *clusterNode) (string, error) {
	a.mu.Lock()
	has, asked := a.streams[n.id]
	a.mu.Unlock()
	if !asked {
		var err error
		if _, has, err = a.jobsOf(n); err != nil {
			return "", err
		}
	}
	if !has {
		return n.name() + " cannot move slots as a stream", nil
	}
	return "", nil
}

// runningJobs are the jobs of all masters that answer, each once.
func (a *clusterAdmin) runningJobs(all bool) []ClusterJob {
	live := a.m.live()
	of := make([][]slotJob, len(live))
	at := map[string]int{}
	for i, n := range live {
		at[n.id] = i
	}
	// A node that does not tell now is asked again by whoever waits for it.
	_ = each(live, func(n *clusterNode) (err error) {
		of[at[n.id]], _, err = a.jobsOf(n)
		return err
	})
	var out []ClusterJob
	for i, n := range live {
		for _, j := range of[i] {
			if !j.runs() && (!all || j.over()) {
				continue
			}
			c := ClusterJob{j.ID, nameOf(a.m, j.Peer), n.name(), j.Slots, j.Phase, j.Keys, j.Bytes, j.TookMs}
			if j.Role == "give" {
				c.From, c.To = c.To, c.From
			}
			k := slices.IndexFunc(out, func(o ClusterJob) bool { return o.ID == j.ID })
			switch {
			case k < 0:
				out = append(out, c)
			case j.Role == "import":
				out[k] = c // it knows more
			}
		}
	}
	return out
}

// adopt waits for the jobs that run, whoever began them. It reports whether
// there were any; the cluster is then loaded anew.
func (a *clusterAdmin) adopt(ctx context.Context) (bool, error) {
	var seen []ClusterJob
	var moved, told, loaded time.Time
	for {
		now := time.Now()
		jobs := a.runningJobs(false)
		switch {
		case len(jobs) == 0 && moved.IsZero():
			return false, nil
		case len(jobs) == 0:
			return true, a.load()
		case ctx.Err() != nil:
			return true, errInterrupted
		case !sameJobs(jobs, seen):
			seen, moved = jobs, now
		case now.Sub(moved) > streamStill:
			return true, fmt.Errorf("a move stands still: %s; start the end that is not there, or give it up there with HOLDFAST.SLOTS CANCEL %s", jobs[0], jobs[0].ID)
		}
		if now.Sub(told) >= tellEvery {
			told = now
			for _, j := range jobs {
				a.say("waiting for a move that runs: %s", j)
			}
		}
		if now.Sub(loaded) >= streamReload {
			loaded = now
			if err := a.load(); err != nil && now.Sub(moved) > streamStill {
				return true, err
			}
		}
		time.Sleep(streamPoll)
	}
}

// sameJobs says that nothing has happened.
func sameJobs(x, y []ClusterJob) bool {
	return slices.EqualFunc(x, y, func(a, b ClusterJob) bool {
		a.TookMs, b.TookMs = 0, 0
		return a == b
	})
}

// importCommand names slots by ranges.
func importCommand(source string, slots []int) []string {
	cmd := []string{"HOLDFAST.SLOTS", "IMPORT", source}
	set := slotsOf(slots)
	for n := set.Next(0); n < slot.Count; {
		end := n
		for end+1 < slot.Count && set.Has(end+1) {
			end++
		}
		cmd = append(cmd, strconv.Itoa(n), strconv.Itoa(end))
		n = set.Next(end + 1)
	}
	return cmd
}

// errGone is a job that the target knows nothing of, or nobody tells of.
var errGone = errors.New("the move broke off")

// streamBatch moves the first slots of moves in one job, and returns how many.
// When it fails the slots are where they were, or where they were to go.
func (a *clusterAdmin) streamBatch(ctx context.Context, moves []clusterMove, p *counter) (int, error) {
	from, to := a.m.byID[moves[0].From], a.m.byID[moves[0].To]
	batch, keys, err := a.nextBatch(moves, from, streamSlots, streamKeys)
	if err != nil {
		return 0, err
	}
	n, rest := len(batch), moves[:len(batch)]
	for try := 1; ; try++ {
		var job slotJob
		if job, err = a.stream(ctx, from, to, batch, p); err == nil {
			job.Keys = max(job.Keys, keys)
			a.streamed(job, batch, from, to)
			return n, nil
		}
		if errors.Is(err, errInterrupted) {
			return 0, err
		}
		// Broken off does not say at which end it is now: both of them know, once
		// nothing runs any more.
		if lost := a.whole(ctx, rest); lost != nil {
			return 0, lost
		}
		var lost error
		if rest, lost = a.remaining(rest); lost != nil {
			return 0, lost
		}
		if len(rest) == 0 {
			a.streamed(slotJob{Keys: keys}, nil, from, to)
			a.res.Slots += len(batch)
			return n, nil
		}
		if try == streamTries {
			return 0, fmt.Errorf("%s from %s to %s: %w (twice; nothing of them has moved); or say --by-key", plural(len(rest), "slot"), from.name(), to.name(), err)
		}
		a.say("%s; trying again", err)
		from, to = a.m.byID[rest[0].From], a.m.byID[rest[0].To]
		a.res.Slots += len(batch) - len(rest)
		batch = batch[:0:0]
		for _, v := range rest {
			batch = append(batch, v.Slot)
		}
	}
}

// streamed counts a job that is done.
func (a *clusterAdmin) streamed(j slotJob, slots []int, from, to *clusterNode) {
	for _, n := range slots {
		// The cluster may have been looked at anew meanwhile.
		for _, x := range []*clusterNode{from, a.m.byID[from.id]} {
			if x != nil {
				x.slots.Del(n)
			}
		}
		for _, x := range []*clusterNode{to, a.m.byID[to.id]} {
			if x != nil {
				x.slots.Add(n)
			}
		}
	}
	a.res.Slots += len(slots)
	a.res.Keys += j.Keys
	a.res.Bytes += j.Bytes
	a.res.PausedMs = max(a.res.PausedMs, j.PausedMs)
	a.way("stream")
}

func (a *clusterAdmin) way(w string) {
	switch {
	case a.res.Way == "":
		a.res.Way = w
	case !strings.Contains(a.res.Way, w):
		a.res.Way += " and " + w
	}
}

// stream carries out one job.
func (a *clusterAdmin) stream(ctx context.Context, from, to *clusterNode, slots []int, p *counter) (slotJob, error) {
	cmd := importCommand(from.id, slots)
	told := false
	for end := time.Now().Add(a.o.Settle); ; {
		v, err := a.change(to, cmd)
		switch {
		case err == nil:
			return a.await(ctx, v[0].String(), to, p)
		case !isReply(err, "TRYAGAIN") && !isReply(err, "LOADING") && !isReply(err, "CLUSTERDOWN"):
			return slotJob{}, err
		}
		if !told {
			told = true
			a.say("waiting, up to %s: %s", a.o.Settle, err)
		}
		busy, aerr := a.adopt(ctx)
		switch {
		case aerr != nil:
			return slotJob{}, aerr
		case busy:
			end = time.Now().Add(a.o.Settle)
		case time.Now().After(end):
			return slotJob{}, err
		case !sleep(ctx, settlePoll):
			return slotJob{}, errInterrupted
		}
	}
}

// awaited is a job that is looked at until it is over.
type awaited struct {
	a         *clusterAdmin
	id        string
	to        *clusterNode
	last      slotJob
	moved     time.Time // when it last did something
	loaded    time.Time
	cancelled time.Time
}

// await looks at a job until it is over; Ctrl-C cancels it, or waits for its end
// when it is too late for that.
func (a *clusterAdmin) await(ctx context.Context, id string, to *clusterNode, p *counter) (slotJob, error) {
	w := &awaited{a: a, id: id, to: to, moved: time.Now(), loaded: time.Now()}
	for {
		if ctx.Err() != nil && w.cancelled.IsZero() {
			w.cancelled = time.Now()
			// Refused, it is past the point of no return, and soon done.
			_, _ = a.change(to, []string{"HOLDFAST.SLOTS", "CANCEL", id})
		}
		over, err := w.look()
		switch {
		case over && err == nil && w.last.Phase == "failed":
			err = errors.New(w.last.Error)
			if !w.cancelled.IsZero() {
				err = errInterrupted
			}
			return w.last, err
		case over || err != nil:
			return w.last, err
		}
		p.step(0, fmt.Sprintf(" (%s: %d keys, %s)", w.last.Phase, w.last.Keys, sizeText(w.last.Bytes)))
		time.Sleep(streamPoll)
	}
}

// look asks once. An error says that nothing more will be heard of the job.
func (w *awaited) look() (over bool, err error) {
	now := time.Now()
	jobs, _, err := w.a.jobsOf(w.to)
	if err == nil {
		i := slices.IndexFunc(jobs, func(j slotJob) bool { return j.ID == w.id })
		if i < 0 {
			return false, fmt.Errorf("%w: %s knows nothing of it any more", errGone, w.to.name())
		}
		if j := jobs[i]; j.Phase != w.last.Phase || j.Keys != w.last.Keys || j.Bytes != w.last.Bytes {
			w.moved, w.last = now, j
		} else {
			w.last = j
		}
		if w.last.over() {
			return true, nil
		}
	}
	switch {
	case !w.cancelled.IsZero() && now.Sub(w.cancelled) > cancelLimit:
		return false, fmt.Errorf("interrupted, but the move cannot be cancelled and goes on by itself: `holdfast cluster info %s` shows it", w.a.o.Seeds[0])
	case now.Sub(w.moved) > streamStill:
		if err == nil {
			err = fmt.Errorf("it stands still in phase %q", w.last.Phase)
		}
		return false, fmt.Errorf("%w: %w", errGone, err)
	case now.Sub(w.loaded) > streamReload:
		w.loaded = now
		if w.a.load() != nil || err == nil {
			return false, nil
		}
		// Its keys, and what is known of the job, are with who took over.
		if heir := w.a.standsFor(w.to.id); heir != nil && heir.id != w.to.id {
			return false, fmt.Errorf("%w: %s has taken over from %s", errGone, heir.name(), w.to.name())
		}
	}
	return false, nil
}

// whole waits until no job runs and each slot of moves has one owner that
// answers.
func (a *clusterAdmin) whole(ctx context.Context, moves []clusterMove) error {
	for end := time.Now().Add(a.o.Settle + streamStill); ; {
		_, err := a.adopt(ctx)
		if errors.Is(err, errInterrupted) {
			return err
		}
		if err == nil {
			err = a.load()
		}
		if err == nil {
			if i := slices.IndexFunc(moves, func(v clusterMove) bool { o := a.m.owner(v.Slot); return o == nil || !o.up() }); i >= 0 {
				err = fmt.Errorf("slot %d has no owner that answers; start its node, or let a replica take over", moves[i].Slot)
			}
		}
		switch {
		case err == nil:
			return nil
		case time.Now().After(end):
			return err
		case !sleep(ctx, settlePoll):
			return errInterrupted
		}
	}
}

// remaining is what of moves is still to be done. A shard may have another
// master than when they were planned.
func (a *clusterAdmin) remaining(moves []clusterMove) (out []clusterMove, err error) {
	for _, v := range moves {
		owner, to := a.m.owner(v.Slot), a.standsFor(v.To)
		switch {
		case owner == nil:
			return nil, fmt.Errorf("slot %d has %s", v.Slot, plural(len(a.m.claimants(v.Slot)), "owner"))
		case to == nil:
			return nil, fmt.Errorf("%s, which was to get slot %d, does not answer, and nobody stands for it", nameOf(a.m, v.To), v.Slot)
		case owner == to:
		case a.shards[owner.id] == a.shards[v.From] || !a.owns(v.From):
			// The second is a failover to a replica that had just come to the shard.
			out = append(out, clusterMove{v.Slot, owner.id, to.id})
		default:
			return nil, fmt.Errorf("slot %d belongs to %s now: somebody else moves slots, too", v.Slot, owner.name())
		}
	}
	return out, nil
}

// owns says that a node is a master that answers and has slots.
func (a *clusterAdmin) owns(id string) bool { return a.usable(id) && !a.m.byID[id].slots.Empty() }

// noteShards remembers who belongs together, by the id of a master: the heir of
// a master that died is found by it. Who follows another master than before
// changes sides; who has become master has brought its shard along.
func (a *clusterAdmin) noteShards() {
	for _, n := range a.m.nodes {
		if a.shards[n.id] == "" {
			a.shards[n.id] = n.id
			if !n.isMaster() {
				a.shards[n.id] = n.master
			}
		}
		if a.owns(n.id) {
			a.home[n.id] = n.slots.Next(0)
		}
	}
	for _, n := range a.m.nodes {
		if s := a.shards[n.master]; s != "" && !n.isMaster() {
			a.shards[n.id] = s
		}
	}
}

// standsFor is the master of the shard that a node belonged to, nil if none
// answers. When the heir is not known to have been a replica there, it is who
// has the slots.
func (a *clusterAdmin) standsFor(id string) *clusterNode {
	if a.usable(id) {
		return a.m.byID[id]
	}
	var best *clusterNode
	for _, n := range a.m.live() {
		if a.shards[n.id] == a.shards[id] && (best == nil || n.epoch > best.epoch) {
			best = n
		}
	}
	if home, known := a.home[id]; best == nil && known {
		if o := a.m.owner(home); o != nil && o.up() {
			return o
		}
	}
	return best
}

// dropped waits until a node has deleted what it gave away, which it keeps for a
// while: a claim of slots may be undone by a failover that began before it.
func (a *clusterAdmin) dropped(ctx context.Context, n *clusterNode) error {
	var told time.Time
	for end := time.Now().Add(a.o.Settle + streamStill); ; {
		jobs, _, err := a.jobsOf(n)
		if err == nil && !slices.ContainsFunc(jobs, func(j slotJob) bool { return !j.over() }) {
			return nil
		}
		switch now := time.Now(); {
		case now.After(end) && err == nil:
			return fmt.Errorf("%s is still deleting keys that it gave away", n.name())
		case now.After(end):
			return err
		case now.Sub(told) > 5*tellEvery:
			told = now
			a.say("waiting for %s to delete what it gave away", n.name())
		}
		if !sleep(ctx, settlePoll) {
			return errInterrupted
		}
	}
}
