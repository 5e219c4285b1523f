package slotmove

import (
	"fmt"
	"time"

	"holdfast/internal/redis/cluster/slot"
)

// Times of the core. All are bounds on how long something stands open: none is
// waited for when things go well.
const (
	// silence is how long a target waits for anything from its source, which
	// sends something at least each Heartbeat.
	silence = 10 * time.Second
	// Heartbeat is how often a source is to send something.
	Heartbeat = time.Second
	// handover is how long the source holds writes until it hears PREPARED.
	handover = time.Second
	// awaitCommit is how long a target that is ready waits for the source's word
	// before it begins to ask.
	awaitCommit = time.Second
	// askEvery is how often somebody in doubt asks again.
	askEvery = 200 * time.Millisecond
	// refuseAfter is how long clients of slots wait that were given away and that
	// nobody claims; then they are refused.
	refuseAfter = 2 * time.Second
	// retryFeed is how often a target asks a source that is busy.
	retryFeed = 100 * time.Millisecond
	// patience is how often it does.
	patience = 3000
	// keepEnded is how many jobs that are over are remembered.
	keepEnded = 64
)

// World is what the core asks about the server it runs in. Its methods are
// called inside of Step.
type World interface {
	// Owner returns the id of the node that owns a slot, as far as this one
	// knows; "" if nobody does.
	Owner(slot int) string
	// MyID is this node's id.
	MyID() string
	// Known reports whether a node is part of the cluster.
	Known(node string) bool
	// MasterOf returns the id of the master of the shard that a node belongs to
	// now: its own when it is one.
	MasterOf(node string) string
	// Keys counts the keys of a slot.
	Keys(slot int) int
	// Open reports whether a slot is open (IMPORTING or MIGRATING).
	Open(slot int) bool
	// ClusterOK reports whether the cluster serves.
	ClusterOK() bool
	// Linger is how long a source keeps the keys of slots that another has
	// claimed: as long as a claim may still be undone by a failover that began
	// before it.
	Linger() time.Duration
}

// Input is something that happened.
type Input interface{ input() }

// Inputs.
type (
	// Role says what the server is from now on: a master, whose jobs the core
	// drives, or not. The first one ends the loading.
	Role struct{ Master bool }
	// Import is the command to fetch slots: answered by Accepted or Refused.
	Import struct {
		Job, Source string
		Slots       *slot.Set
	}
	// Cancel is the command to give a job up: answered by Accepted or Refused.
	Cancel struct{ Job string }
	// Feed is a target's wish to be fed: answered by Snapshot or Refused.
	Feed struct {
		Job, Target string
		Slots       *slot.Set
	}
	// Fed says that the feed of a job that is imported exists.
	Fed struct{ Job string }
	// Busy says that the source has no time now.
	Busy struct{ Job, Why string }
	// Heard says that something came on the feed of a job that is imported.
	Heard struct {
		Job         string
		Keys, Bytes int64 // in all
		Following   bool  // the snapshot is over
	}
	// Broken says that the feed of a job is gone, or could not be; or that what
	// came could not be applied. Either side.
	Broken struct{ Job, Why string }
	// Sent says, at the source, how much has gone out: the keys that the slots
	// have, and the commands and bytes of the feed. It may come late, for a job
	// that is over.
	Sent struct {
		Job                   string
		Keys, Commands, Bytes int64 // in all
	}
	// SnapshotSent says, at the source, that the snapshot is over.
	SnapshotSent struct{ Job string }
	// Synced says, at the source, that the target has the snapshot on its disk.
	Synced struct{ Job string }
	// Near says, at the source, that the target is close behind.
	Near struct{ Job string }
	// Drained says, at the target, that everything has come and is applied.
	Drained struct{ Job string }
	// Durable ends a Sync.
	Durable struct {
		Job string
		Err string // "" when it is on the disk and at the replicas
	}
	// Prepared says, at the source, that the target is ready.
	Prepared struct{ Job string }
	// Commit says, at the target, that the source has given the slots away. It
	// comes on the feed, as an answer to Ask, or from a source that tells anew:
	// then it is answered by Accepted or Refused.
	Commit struct {
		Job, From string
		Slots     *slot.Set // nil on the feed
		Epoch     uint64    // config epoch of From
	}
	// Claimed is what became of Claim. It comes inside of the Step that asked,
	// from the shell's carrying out, or later.
	Claimed struct{ Job, Err string }
	// Asked is a target's question whether a job was given to it: answered by
	// Accepted (it was) or Refused (it was not, and will not be; with Retry: ask
	// again).
	Asked struct {
		Job, By string
		Slots   *slot.Set
	}
	// Answer is what the node that was asked (Ask) or told (Tell) said.
	Answer struct {
		Job, Node string
		Yes       bool
		Err       string // no answer
		Epoch     uint64 // config epoch of the node
	}
	// Moved says that slots may have another owner than before, or that nodes
	// came or went.
	Moved struct{}
	// Disturbed says that a job cannot go on as it was: the keyspace was flushed,
	// writes are paused for a failover, the server ends.
	Disturbed struct{ Why string }
	// Dropped says that no key of the slots of a job is left.
	Dropped struct{ Job string }
	// Timer is the time itself.
	Timer struct{}
)

func (Role) input()         {}
func (Import) input()       {}
func (Cancel) input()       {}
func (Feed) input()         {}
func (Fed) input()          {}
func (Busy) input()         {}
func (Heard) input()        {}
func (Broken) input()       {}
func (Sent) input()         {}
func (SnapshotSent) input() {}
func (Synced) input()       {}
func (Near) input()         {}
func (Drained) input()      {}
func (Durable) input()      {}
func (Prepared) input()     {}
func (Commit) input()       {}
func (Claimed) input()      {}
func (Asked) input()        {}
func (Answer) input()       {}
func (Moved) input()        {}
func (Disturbed) input()    {}
func (Dropped) input()      {}
func (Timer) input()        {}

// Effect is something to do, in the order given.
type Effect interface{ effect() }

// Effects.
type (
	// Write appends a mark to the stream. The core has applied it to its table.
	Write struct{ Mark }
	// Accepted and Refused answer the input of this Step.
	Accepted struct{}
	// Refused is the opposite of Accepted. Retry: it may be otherwise soon.
	Refused struct {
		Why   string
		Retry bool
	}
	// Dial connects to a node and asks for the feed of a job.
	Dial struct {
		Job, Node string
		Slots     *slot.Set
	}
	// Snapshot begins a snapshot of the slots for the feed that asked.
	Snapshot struct {
		Job, Target string
		Slots       *slot.Set
	}
	// CloseFeed ends the feed of a job, at either side; no Broken follows.
	CloseFeed struct{ Job string }
	// Presync makes what has been written so far durable, so that little is left to
	// be when clients wait for it. A target then tells the source (Synced).
	Presync struct{ Job string }
	// Drain sends what is left of the changes, then DRAINED.
	Drain struct{ Job string }
	// Sync makes everything so far durable here, and waits until the replicas
	// that are connected have it: answered by Durable.
	Sync struct{ Job string }
	// SendPrepared and SendCommit go to the other end of the feed.
	SendPrepared struct{ Job string }
	// SendCommit tells the target that the slots are its own.
	SendCommit struct{ Job string }
	// Claim makes this node the owner of slots that From owns: answered by
	// Claimed.
	Claim struct {
		Job, From string
		Slots     *slot.Set
		Epoch     uint64 // config epoch of From, as it says
	}
	// Ask asks a node whether it has given a job's slots away: answered by
	// Answer.
	Ask struct {
		Job, Node string
		Slots     *slot.Set
	}
	// Tell tells a node that a job's slots are its own: answered by Answer, whose
	// Yes means that it is going to claim them, or that somebody has.
	Tell struct {
		Job, Node string
		Slots     *slot.Set
	}
	// Stage hides the keys of slots, Unstage shows them.
	Stage struct{ Slots *slot.Set }
	// Unstage is the opposite of Stage.
	Unstage struct{ Slots *slot.Set }
	// Hold makes clients wait that write to keys of slots, and with Reads those
	// that read, too.
	Hold struct {
		Slots *slot.Set
		Reads bool
	}
	// Refuse sends those away that wait for slots, and all that come.
	Refuse struct{ Slots *slot.Set }
	// Release ends Hold and Refuse.
	Release struct{ Slots *slot.Set }
	// Drop deletes the keys of slots by and by: answered by Dropped.
	Drop struct {
		Job   string
		Slots *slot.Set
	}
	// Log is a line for the server's log.
	Log struct{ Text string }
)

func (Write) effect()        {}
func (Accepted) effect()     {}
func (Refused) effect()      {}
func (Dial) effect()         {}
func (Snapshot) effect()     {}
func (CloseFeed) effect()    {}
func (Presync) effect()      {}
func (Drain) effect()        {}
func (Sync) effect()         {}
func (SendPrepared) effect() {}
func (SendCommit) effect()   {}
func (Claim) effect()        {}
func (Ask) effect()          {}
func (Tell) effect()         {}
func (Stage) effect()        {}
func (Unstage) effect()      {}
func (Hold) effect()         {}
func (Refuse) effect()       {}
func (Release) effect()      {}
func (Drop) effect()         {}
func (Log) effect()          {}

// Phase is where a job is.
type Phase string

// Phases, as STATUS shows them.
const (
	Waiting    Phase = "waiting" // for a source that is busy
	Snapshots  Phase = "snapshot"
	Following  Phase = "following"
	HandOver   Phase = "handover"
	InDoubt    Phase = "in-doubt" // ready, and the feed is gone
	Taking     Phase = "taking"   // given: the target is to claim, the source to see it
	DroppingIt Phase = "dropping"
	Done       Phase = "done"
	Failed     Phase = "failed"
)

// Job is a job as STATUS shows it.
type Job struct {
	ID          string
	Import      bool // we are the target
	Peer        string
	Slots       *slot.Set
	Phase       Phase
	Keys, Bytes int64 // staged so far; of the source: sent so far
	Commands    int64 // sent so far; of the source
	Began       time.Time
	Paused      time.Duration // how long writes had to wait; of the source
	Ready       time.Duration // of that time, until the target was ready; of the source, if it was so in this life
	Given       time.Duration // and from there until GIVEN was durable; the rest was for the target's claim
	Ended       time.Time
	Error       string

	opened   bool      // the shell has connections for it
	fed      bool      // there is a feed
	dialing  bool      // or there may be one soon
	held     time.Time // since when clients wait; zero: they do not
	linger   bool      // of DroppingIt: the keys are still there, in case that
	syncing  bool      // a Sync is on its way
	durable  bool      // of the source's Taking: the mark GIVEN is
	heir     bool      // of the source's Taking: a former life, or another node, may have told the target
	synced   bool      // the source's: the target's disk is not behind
	prepared bool      // the source's: PREPARED has come; the target's: it was sent
	asking   bool      // an Ask or Tell is on its way
	refusing bool      // Refuse was told
	claiming string    // the node whose slots we try to claim
	tries    int       // of the feed
	due      time.Time // when something must have happened; zero: nothing
}

// Core decides for one server.
type Core struct {
	// Faults are deliberate mistakes, for tests. They may be set before the first
	// Step.
	Faults Mutants

	world  World
	table  Table
	master bool
	jobs   map[string]*Job
	kept   map[string]*Job // imports that are over, but for their mark READY
	ended  []*Job
	out    []Effect
	now    time.Time
}

// New makes the core of a server that loads. The marks of its journal go to
// Replay, until the first Role.
func New(w World) *Core {
	return &Core{world: w, jobs: make(map[string]*Job), kept: make(map[string]*Job)}
}

// Restore sets the table: from a checkpoint, or from the snapshot of a master.
func (c *Core) Restore(t *Table) { c.table = *t }

// Replay takes a mark of the stream, while the server loads or is a replica.
func (c *Core) Replay(m Mark) { c.table.Apply(m) }

// Table is the part of the state that must be stored. It is the core's.
func (c *Core) Table() *Table { return &c.table }

// Idle reports whether there is nothing to do and nothing to wait for.
func (c *Core) Idle() bool { return len(c.jobs)+len(c.kept) == 0 }

// Jobs returns the running jobs, then those that ended, oldest first.
func (c *Core) Jobs() []Job {
	out := make([]Job, 0, len(c.jobs)+len(c.ended))
	for _, j := range sorted(c.jobs) {
		out = append(out, *j)
	}
	for _, j := range c.ended {
		out = append(out, *j)
	}
	return out
}

// Deadline is when Step wants a Timer at the latest; zero if never.
func (c *Core) Deadline() (at time.Time) {
	for _, jobs := range []map[string]*Job{c.jobs, c.kept} {
		for _, j := range jobs {
			if !j.due.IsZero() && (at.IsZero() || j.due.Before(at)) {
				at = j.due
			}
		}
	}
	return at
}

// Step takes an input and returns what is to be done, in order. The slice is
// valid until the next Step. Effects may be carried out by giving further inputs
// to Step once the slice is done with, never before.
func (c *Core) Step(now time.Time, in Input) []Effect {
	c.now = now
	clear(c.out)
	c.out = c.out[:0]
	if r, ok := in.(Role); ok {
		c.role(r.Master)
		return c.out
	}
	if !c.master {
		switch in.(type) {
		case Import, Cancel, Feed, Asked, Commit:
			c.refuse(false, "this node is not a master that has its data")
		}
		return c.out
	}
	switch in := in.(type) {
	case Import:
		c.begin(in)
	case Cancel:
		c.cancel(in.Job)
	case Feed:
		c.feed(in)
	case Asked:
		c.asked(in)
	case Commit:
		c.commit(in)
	case Moved:
		for _, j := range sorted(c.kept) {
			c.keptMoved(j)
		}
		for _, j := range sorted(c.jobs) {
			c.moved(j)
		}
	case Disturbed:
		for _, j := range sorted(c.jobs) {
			c.broken(j, in.Why)
		}
	case Timer:
		for _, j := range sorted(c.jobs) {
			if !j.due.IsZero() && !now.Before(j.due) {
				c.overdue(j)
			}
		}
		for _, j := range sorted(c.kept) {
			if !now.Before(j.due) {
				c.keptLongEnough(j)
			}
		}
	default:
		c.about(in)
	}
	return c.out
}

// about is the part of Step that concerns one job.
func (c *Core) about(in Input) {
	switch in := in.(type) {
	case Fed:
		if j := c.jobs[in.Job]; j != nil && j.Phase == Waiting {
			j.fed, j.dialing = true, false
			j.due = c.now.Add(silence)
			j.Phase = Snapshots
		}
	case Busy:
		if j := c.jobs[in.Job]; j != nil && j.Phase == Waiting {
			c.busy(j, in.Why)
		}
	case Heard:
		if j := c.jobs[in.Job]; j != nil && j.Import && j.fed {
			c.heard(j, in)
		}
	case Broken:
		if j := c.jobs[in.Job]; j != nil {
			c.broken(j, in.Why)
		}
	case Sent:
		c.sent(in)
	case SnapshotSent:
		if j := c.jobs[in.Job]; j != nil && !j.Import && j.Phase == Snapshots {
			j.Phase = Following
			c.emit(Presync{j.ID})
		}
	case Synced:
		if j := c.jobs[in.Job]; j != nil && !j.Import {
			j.synced = true
		}
	case Near:
		if j := c.jobs[in.Job]; j != nil {
			c.near(j)
		}
	case Drained:
		if j := c.jobs[in.Job]; j != nil && j.Import && j.fed && !j.syncing {
			c.drained(j)
		}
	case Durable:
		if j := c.jobs[in.Job]; j != nil && j.syncing {
			c.durable(j, in.Err)
		}
	case Prepared:
		if j := c.jobs[in.Job]; j != nil {
			c.preparedBy(j)
		}
	case Claimed:
		if j := c.jobs[in.Job]; j != nil && j.claiming != "" {
			c.claimed(j, in.Err)
		}
	case Answer:
		if j := c.jobs[in.Job]; j != nil && j.asking {
			j.asking = false
			c.answered(j, in)
		}
	case Dropped:
		if j := c.jobs[in.Job]; j != nil && j.Phase == DroppingIt && !j.linger {
			c.dropped(j)
		}
	}
}

func (c *Core) emit(e Effect) { c.out = append(c.out, e) }

func (c *Core) refuse(retry bool, format string, args ...any) {
	c.emit(Refused{Why: fmt.Sprintf(format, args...), Retry: retry})
}

func (c *Core) mark(j *Job, kind MarkKind) {
	m := Mark{Kind: kind, Job: j.ID, Peer: j.Peer, Slots: j.Slots}
	c.table.Apply(m)
	c.emit(Write{m})
}

func (c *Core) logf(format string, args ...any) { c.emit(Log{fmt.Sprintf(format, args...)}) }

// sorted returns jobs by id, so that what happens does not depend on the order
// of a map.
func sorted(jobs map[string]*Job) []*Job {
	out := make([]*Job, 0, len(jobs))
	for _, j := range jobs {
		out = append(out, j)
	}
	sortJobs(out)
	return out
}

// role begins to drive the jobs of the table, or leaves that to another.
func (c *Core) role(master bool) {
	if master == c.master {
		return
	}
	c.master = master
	if !master {
		for _, j := range sorted(c.jobs) {
			c.release(j)
			c.closeFeed(j)
			c.emit(Unstage{j.Slots})
			c.end(j, Failed, "this node is a replica now; its master goes on")
		}
		clear(c.kept)
		return
	}
	for _, r := range c.table.All() {
		j := &Job{ID: r.Job, Peer: r.Peer, Slots: r.Slots, Began: c.now}
		c.jobs[j.ID] = j
		switch r.Kind {
		case MarkImport:
			j.Import = true
			c.emit(Stage{j.Slots})
			if c.owner(j.Slots) == c.world.MyID() {
				c.finish(j) // claimed, and the power failed before READY was on the disk
				continue
			}
			c.abandon(j, "the target was interrupted")
		case MarkReady:
			j.Import, j.Phase = true, InDoubt
			c.emit(Stage{j.Slots})
			c.hold(j, false)
			c.resolve(j)
		case MarkGiven:
			j.Phase, j.heir = Taking, true
			c.hold(j, true)
			c.syncGiven(j) // it may be known to nobody else so far
			c.moved(j)
		case MarkDrop:
			j.Slots = c.notOurs(j.Slots)
			c.emit(Stage{j.Slots})
			c.dropKeys(j)
		}
	}
}

// end moves a job to those that are over.
func (c *Core) end(j *Job, how Phase, why string) {
	delete(c.jobs, j.ID)
	j.Phase, j.Error, j.Ended, j.due = how, why, c.now, time.Time{}
	if len(c.ended) == keepEnded {
		c.ended = append(c.ended[:0], c.ended[1:]...)
	}
	c.ended = append(c.ended, j)
}

// dropKeys begins to delete the keys of a job's slots; its mark is written.
func (c *Core) dropKeys(j *Job) {
	j.Phase, j.due = DroppingIt, time.Time{}
	c.emit(Drop{j.ID, j.Slots})
}

// dropped ends a job whose keys are gone.
func (c *Core) dropped(j *Job) {
	c.emit(Unstage{j.Slots})
	c.mark(j, MarkDone)
	if j.Error != "" {
		c.end(j, Failed, j.Error)
		return
	}
	c.end(j, Done, "")
}

// inTheWay is a job that another with these slots, in this direction, has to
// wait for: one at a time has a feed.
func (c *Core) inTheWay(imports bool, set *slot.Set) *Job {
	for _, j := range sorted(c.jobs) {
		switch j.Phase {
		case Waiting, Snapshots, Following, HandOver:
			if j.Import == imports {
				return j
			}
		}
		if j.Slots.Overlaps(set) {
			if j.linger {
				c.endLinger(j) // these keys are no use any more
			}
			return j
		}
	}
	return nil
}

// hold makes clients wait for the slots of a job.
func (c *Core) hold(j *Job, reads bool) {
	if j.held.IsZero() {
		j.held = c.now
	}
	c.emit(Hold{j.Slots, reads})
}

// release lets those go on who wait for the slots of a job.
func (c *Core) release(j *Job) {
	if j.held.IsZero() {
		return
	}
	j.Paused = c.now.Sub(j.held)
	j.held, j.refusing = time.Time{}, false
	c.emit(Release{j.Slots})
}

// closeFeed ends the feed of a job, and what may become one.
func (c *Core) closeFeed(j *Job) {
	if c.Faults.LeakFeed && !j.fed && !j.dialing {
		return
	}
	j.fed, j.dialing = false, false
	if j.opened {
		j.opened = false
		c.emit(CloseFeed{j.ID})
	}
}

// --- the target ---

// begin is IMPORT.
func (c *Core) begin(in Import) {
	w := c.world
	if j := c.inTheWay(true, in.Slots); j != nil {
		c.refuse(true, "another move is in the way: %s is at the phase %s", j.ID, j.Phase)
		return
	}
	switch {
	case in.Source == w.MyID():
		c.refuse(false, "the source is this node itself")
		return
	case !w.Known(in.Source):
		c.refuse(false, "unknown node %s", in.Source)
		return
	case !w.ClusterOK():
		c.refuse(true, "the cluster is down")
		return
	}
	why := ""
	in.Slots.Each(func(n int) {
		switch {
		case why != "":
		case w.Owner(n) != in.Source:
			why = fmt.Sprintf("slot %d is not of node %s", n, in.Source)
		case w.Open(n):
			why = fmt.Sprintf("slot %d is open: it is being moved key by key", n)
		case w.Keys(n) > 0:
			why = fmt.Sprintf("slot %d has keys here already; look at them, then run `holdfast cluster fix`", n)
		}
	})
	if why != "" {
		c.refuse(false, "%s", why)
		return
	}
	j := &Job{ID: in.Job, Import: true, Peer: in.Source, Slots: in.Slots, Phase: Waiting, Began: c.now}
	c.jobs[j.ID] = j
	c.emit(Accepted{})
	c.mark(j, MarkImport)
	c.emit(Stage{j.Slots})
	c.logf("Slot move %s: importing %s from %s", j.ID, slots(j), j.Peer)
	c.dial(j)
}

func (c *Core) dial(j *Job) {
	j.dialing, j.opened = true, true
	j.due = c.now.Add(silence)
	c.emit(Dial{j.ID, j.Peer, j.Slots})
}

// busy waits until the source has time.
func (c *Core) busy(j *Job, why string) {
	j.dialing = false
	if j.tries++; j.tries > patience {
		c.broken(j, why)
		return
	}
	j.due = c.now.Add(retryFeed)
}

func (c *Core) heard(j *Job, in Heard) {
	if in.Bytes > 0 { // else it says only that something came
		j.Keys, j.Bytes = in.Keys, in.Bytes
	}
	if in.Following && j.Phase == Snapshots {
		j.Phase = Following
		c.emit(Presync{j.ID})
	}
	if !j.prepared {
		j.due = c.now.Add(silence)
	}
}

// drained: from now on only the source knows whose the slots are.
func (c *Core) drained(j *Job) {
	j.Phase, j.syncing = HandOver, true
	j.due = c.now.Add(handover + awaitCommit)
	c.hold(j, false) // nobody reads or writes these slots here, but FLUSHALL has to wait
	if !c.Faults.ForgetReady {
		c.mark(j, MarkReady)
	}
	c.emit(Sync{j.ID})
}

func (c *Core) durable(j *Job, err string) {
	j.syncing = false
	switch {
	case j.Import && err == "" && j.fed:
		j.prepared = true
		j.due = c.now.Add(awaitCommit)
		c.emit(SendPrepared{j.ID})
		if c.Faults.ClaimEarly {
			c.claim(j, j.Peer, 0)
		}
	case j.Import && err != "":
		// PREPARED was not sent: the source cannot have given anything.
		c.abandon(j, err)
	case !j.Import && j.Phase == Taking && !j.durable:
		c.given(j, err)
	}
}

// commit is the source's word that the slots are ours.
func (c *Core) commit(in Commit) {
	j := c.jobs[in.Job]
	if k := c.kept[in.Job]; k != nil && !c.Faults.ForgetUnheard {
		// Who tells us has not heard our claim: others may not have, either.
		k.due = c.now.Add(c.world.Linger())
	}
	if j == nil || !j.Import || j.Phase == DroppingIt {
		// If the slots are not the asker's, we have claimed them, and more may have
		// become of them since. Else we, or a master before us, have lost them.
		if in.Slots != nil && c.shardOf(in.Slots) != c.world.MasterOf(in.From) {
			c.emit(Accepted{})
			return
		}
		c.refuse(false, "UNKNOWN no such job waits here")
		return
	}
	r := c.table.Get(j.ID)
	if (r == nil || r.Kind != MarkReady) && !c.Faults.ForgetReady {
		// Nobody gives what is not ready; a lie, or another life of this job.
		c.refuse(false, "UNKNOWN the job is not ready")
		return
	}
	c.emit(Accepted{})
	c.claim(j, in.From, in.Epoch)
}

func (c *Core) claim(j *Job, from string, epoch uint64) {
	if j.claiming != "" {
		return
	}
	if from == "" {
		from = j.Peer
	}
	j.Phase, j.claiming = Taking, from
	c.emit(Claim{j.ID, from, j.Slots, epoch})
}

func (c *Core) claimed(j *Job, err string) {
	j.claiming = ""
	if err != "" {
		c.logf("Slot move %s: cannot claim the slots yet: %s", j.ID, err)
		j.Phase = InDoubt
		j.due = c.now.Add(askEvery)
		return
	}
	c.finish(j)
}

// finish ends an import whose slots are ours. Its mark stays for a while: who
// takes our place may not have heard the claim, and who takes the source's place
// may make one of its own, which the others believe. Both have to be told again
// that the slots were given, and to whom.
func (c *Core) finish(j *Job) {
	c.emit(Unstage{j.Slots})
	c.release(j)
	c.closeFeed(j)
	c.logf("Slot move %s: %s are ours now", j.ID, slots(j))
	c.end(j, Done, "")
	if c.Faults.ForgetClaim {
		c.mark(j, MarkDone)
		return
	}
	c.kept[j.ID] = &Job{ID: j.ID, Import: true, Peer: j.Peer, Slots: j.Slots, Began: j.Began, Phase: Done, due: c.now.Add(c.world.Linger())}
}

// forget takes the mark of an import away that is over.
func (c *Core) forget(j *Job) {
	delete(c.kept, j.ID)
	c.mark(j, MarkDone)
}

// keptLongEnough ends the time in which a claim may be lost.
func (c *Core) keptLongEnough(j *Job) {
	if !c.world.ClusterOK() {
		j.due = c.now.Add(askEvery) // we may have been replaced, and not know it
		return
	}
	c.forget(j)
}

// keptMoved looks at slots that were imported and that have another owner now:
// by a claim of the source's heir, or by an administrator. Whoever it is has to
// say whether they are his.
func (c *Core) keptMoved(j *Job) {
	if c.notOurs(j.Slots).Empty() {
		return
	}
	delete(c.kept, j.ID)
	c.jobs[j.ID] = j
	c.logf("Slot move %s: %s are not all ours any more, in doubt", j.ID, slots(j))
	j.Phase = InDoubt
	c.emit(Stage{j.Slots})
	c.hold(j, false)
	c.resolve(j)
}

// narrow leaves those slots of a job alone that are ours, and go on being so.
func (c *Core) narrow(j *Job, lost *slot.Set) {
	ours := *j.Slots
	ours.DelAll(lost)
	j.Slots = lost
	c.emit(Unstage{&ours})
	if !j.held.IsZero() {
		c.emit(Release{&ours})
	}
}

// notOurs returns those of the slots that are not ours.
func (c *Core) notOurs(set *slot.Set) *slot.Set {
	out := *set
	me := c.world.MyID()
	set.Each(func(n int) {
		if c.world.Owner(n) == me {
			out.Del(n)
		}
	})
	return &out
}

// abandon deletes what an import has staged. It must not be called once the
// source may have given the slots away.
func (c *Core) abandon(j *Job, why string) {
	c.closeFeed(j)
	c.logf("Slot move %s: given up: %s", j.ID, why)
	j.Error, j.syncing = why, false
	c.release(j)
	c.mark(j, MarkDrop)
	c.dropKeys(j)
}

// resolve finds out what has become of slots that were ready here.
func (c *Core) resolve(j *Job) {
	j.due = c.now.Add(askEvery)
	if j.asking || j.claiming != "" {
		return
	}
	if lost := c.notOurs(j.Slots); lost.Empty() {
		c.finish(j)
		return
	} else if lost.Len() < j.Slots.Len() {
		c.narrow(j, lost)
	}
	switch owner := c.owner(j.Slots); owner {
	case "":
		// Nobody owns them, as far as we know: that will change.
	default:
		if c.Faults.AskPeer {
			owner = j.Peer
		}
		j.asking = true
		c.emit(Ask{j.ID, owner, j.Slots})
	}
}

// owner is who owns slots: one node owns all of them, as long as their job is
// in doubt.
func (c *Core) owner(set *slot.Set) (id string) {
	set.Each(func(n int) {
		if id == "" {
			id = c.world.Owner(n)
		}
	})
	return id
}

// shardOf is the master of the shard that slots belong to; "" if nobody owns
// them.
func (c *Core) shardOf(set *slot.Set) string {
	o := c.owner(set)
	if o == "" {
		return ""
	}
	return c.world.MasterOf(o)
}

// --- either side ---

func (c *Core) cancel(job string) {
	j := c.jobs[job]
	if j == nil {
		c.refuse(false, "no such job runs here")
		return
	}
	switch j.Phase {
	case Taking, InDoubt, DroppingIt:
		c.refuse(false, "the job is at the phase %s: it ends by itself", j.Phase)
		return
	case HandOver:
		if j.prepared || j.Import {
			c.refuse(true, "the job is at the phase %s: it ends by itself", j.Phase)
			return
		}
	}
	c.emit(Accepted{})
	c.broken(j, "cancelled")
}

// broken ends what rests on the feed.
func (c *Core) broken(j *Job, why string) {
	if j.Phase == Taking || j.Phase == DroppingIt || j.Phase == InDoubt {
		c.closeFeed(j)
		return
	}
	switch {
	case !j.Import:
		c.takeBack(j, why)
	case !j.prepared:
		c.abandon(j, why)
	default:
		c.closeFeed(j)
		if c.Faults.PresumeCommit {
			c.claim(j, j.Peer, 0)
			return
		}
		c.logf("Slot move %s: in doubt: %s", j.ID, why)
		j.Phase = InDoubt
		c.resolve(j)
	}
}

// moved looks at who owns the slots of a job now.
func (c *Core) moved(j *Job) {
	if !j.Import {
		c.ownersOfGiven(j)
		return
	}
	switch {
	case j.Phase == InDoubt:
		c.resolve(j)
	case j.Phase == Waiting, j.Phase == Snapshots, j.Phase == Following:
		if o := c.owner(j.Slots); o != j.Peer {
			c.broken(j, "the slots have another owner now")
		}
	}
}

// overdue: what was to happen has not.
func (c *Core) overdue(j *Job) {
	if !j.Import {
		c.overdueGive(j)
		return
	}
	switch j.Phase {
	case Waiting:
		if j.dialing {
			c.broken(j, "the source does not answer")
			return
		}
		c.dial(j)
	case Snapshots, Following:
		c.broken(j, "nothing comes from the source any more")
	case HandOver:
		c.broken(j, "the source does not say whether the slots are given")
	case InDoubt, Taking:
		c.resolve(j)
	}
}

func (c *Core) answered(j *Job, in Answer) {
	if !j.Import {
		c.told(j, in)
		return
	}
	if j.Phase != InDoubt || in.Err != "" {
		return // asked again when it is due
	}
	if in.Yes {
		c.claim(j, in.Node, in.Epoch)
		return
	}
	if c.owner(j.Slots) != in.Node && !c.Faults.AskPeer {
		return // it is not the owner any more: ask who is
	}
	c.abandon(j, "the source has kept the slots")
}
