package slotmove

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/internal/redis/cluster/slot"
)

// feed is FEED: a target wants slots of ours.
func (c *Core) feed(in Feed) {
	w := c.world
	if c.jobs[in.Job] != nil {
		c.refuse(false, "the job %s exists already", in.Job)
		return
	}
	if j := c.inTheWay(false, in.Slots); j != nil {
		c.refuse(true, "another move is in the way: %s is at the phase %s", j.ID, j.Phase)
		return
	}
	if !w.Known(in.Target) || in.Target == w.MyID() {
		c.refuse(false, "unknown node %s", in.Target)
		return
	}
	why := ""
	in.Slots.Each(func(n int) {
		switch {
		case why != "":
		case w.Owner(n) != w.MyID():
			why = fmt.Sprintf("slot %d is not ours", n)
		case w.Open(n):
			why = fmt.Sprintf("slot %d is open: it is being moved key by key", n)
		}
	})
	if why != "" {
		c.refuse(false, "%s", why)
		return
	}
	j := &Job{ID: in.Job, Peer: in.Target, Slots: in.Slots, Phase: Snapshots, Began: c.now, opened: true, fed: true}
	c.jobs[j.ID] = j
	c.logf("Slot move %s: giving %s to %s", j.ID, slots(j), j.Peer)
	c.emit(Snapshot{j.ID, j.Peer, j.Slots})
}

// sent keeps how much has gone out, for STATUS.
func (c *Core) sent(in Sent) {
	j := c.jobs[in.Job]
	if j == nil {
		i := slices.IndexFunc(c.ended, func(j *Job) bool { return j.ID == in.Job })
		if i < 0 {
			return
		}
		j = c.ended[i]
	}
	if !j.Import {
		j.Keys, j.Commands, j.Bytes = in.Keys, in.Commands, in.Bytes
	}
}

// near begins the handover: nothing that is written from now on could reach
// the target.
func (c *Core) near(j *Job) {
	if j.Import || j.Phase != Following || !j.synced {
		return
	}
	for _, k := range c.kept {
		if k.Slots.Overlaps(j.Slots) {
			return // that they are ours may still be undone
		}
	}
	j.Phase = HandOver
	j.due = c.now.Add(handover)
	if !c.Faults.NoHold {
		c.hold(j, false)
	}
	c.emit(Drain{j.ID})
}

// preparedBy is the target's word that it has everything.
func (c *Core) preparedBy(j *Job) {
	if j.Import || j.Phase != HandOver || j.prepared {
		return
	}
	if !c.world.ClusterOK() {
		// Somebody may have taken our place, and whatever it is asked, it does not
		// know that these slots are given away.
		c.takeBack(j, "the cluster is down")
		return
	}
	j.prepared, j.Phase = true, Taking
	j.Ready = c.now.Sub(j.held)
	c.hold(j, !c.Faults.NoReadHold)
	c.mark(j, MarkGiven)
	c.syncGiven(j)
	if c.Faults.DropEarly {
		c.emit(Drop{j.ID, j.Slots})
	}
}

// syncGiven makes the mark GIVEN durable, here and at the replicas.
func (c *Core) syncGiven(j *Job) {
	j.syncing = true
	j.due = c.now.Add(refuseAfter)
	c.emit(Sync{j.ID})
	if c.Faults.CommitEarly && !j.heir {
		c.given(j, "")
	}
}

// given goes on once the mark GIVEN is durable, or is known not to be.
func (c *Core) given(j *Job, err string) {
	if err == "" && !j.heir && !c.world.ClusterOK() {
		err = "the cluster is down"
	}
	switch {
	case err != "" && j.heir:
		c.logf("Slot move %s: not yet safe here: %s", j.ID, err)
		j.due = c.now.Add(askEvery)
		return
	case err != "":
		// Nobody has been told. That the mark may be on a disk somewhere does no
		// harm: DONE stands behind it.
		c.takeBack(j, err)
		return
	}
	j.durable = true
	j.Given = c.now.Sub(j.held) - j.Ready
	j.due = c.now.Add(askEvery)
	if j.fed {
		c.emit(SendCommit{j.ID})
		j.due = c.now.Add(awaitCommit)
	}
	c.ownersOfGiven(j)
}

// Given returns the slots that are let go, and not claimed yet as far as is known
// here: whoever may take this node's place knows that, too, since the mark is
// durable here and at the replicas, or this is one of them. Until then nobody can
// have claimed them. The set is the caller's.
func (c *Core) Given() *slot.Set {
	set := &slot.Set{}
	for _, r := range c.table.jobs {
		if r.Kind != MarkGiven {
			continue
		}
		if j := c.jobs[r.Job]; j == nil || j.durable || j.heir {
			set.AddAll(r.Slots)
		}
	}
	return set
}

// takeBack ends a job whose slots stay here. The target must not have been told
// that it has them.
func (c *Core) takeBack(j *Job, why string) {
	c.closeFeed(j)
	j.syncing = false
	if c.table.Get(j.ID) != nil {
		c.mark(j, MarkDone)
	}
	c.logf("Slot move %s: given up, the slots stay here: %s", j.ID, why)
	c.release(j)
	c.end(j, Failed, why)
}

// ownersOfGiven ends the wait for the target's claim. Before GIVEN, it notices
// that slots have gone otherwise.
func (c *Core) ownersOfGiven(j *Job) {
	lost := c.notOurs(j.Slots)
	switch {
	case j.Phase == DroppingIt:
		if j.linger {
			c.cameBack(j, lost)
		}
	case j.Phase != Taking && !lost.Empty():
		c.takeBack(j, "slots have another owner now")
	case j.Phase != Taking || lost.Len() < j.Slots.Len() || !j.durable && !j.heir:
	default:
		c.closeFeed(j)
		c.emit(Stage{j.Slots})
		c.release(j)
		c.logf("Slot move %s: %s are of %s now%s", j.ID, slots(j), c.owner(j.Slots), waited(j))
		j.Phase, j.linger = DroppingIt, true
		j.due = c.now.Add(c.world.Linger())
	}
}

// cameBack looks whether slots whose keys are kept for a while are ours again; lost
// are those that are not.
func (c *Core) cameBack(j *Job, lost *slot.Set) {
	switch ours := j.Slots.Len() - lost.Len(); {
	case c.anyOpen(j.Slots):
		c.endLinger(j) // they come back key by key, to where there must be none
	case lost.Empty():
		c.emit(Unstage{j.Slots})
		c.takeBack(j, "the slots have come back")
	case ours > 0:
		// By an administrator's hand. They are served from now on, so that they are
		// none of what is deleted in the end.
		c.logf("Slot move %s: %d of the slots have come back", j.ID, ours)
		c.narrow(j, lost)
		c.mark(j, MarkGiven)
	}
}

func (c *Core) anyOpen(set *slot.Set) (open bool) {
	set.Each(func(n int) { open = open || c.world.Open(n) })
	return open
}

// endLinger deletes the keys of slots that another has claimed.
func (c *Core) endLinger(j *Job) {
	j.linger = false
	c.mark(j, MarkDrop)
	c.dropKeys(j)
}

func (c *Core) overdueGive(j *Job) {
	switch j.Phase {
	case HandOver:
		c.takeBack(j, "the target was not ready in time")
	case Taking:
		c.insist(j)
	case DroppingIt:
		c.endLinger(j)
	default:
		j.due = c.now.Add(silence)
	}
}

// insist tells the target's shard that the slots are its own, until it claims
// them. A node that is not in the cluster any more never will.
func (c *Core) insist(j *Job) {
	j.due = c.now.Add(askEvery)
	if !j.refusing && c.now.Sub(j.held) >= refuseAfter {
		j.refusing = true
		c.emit(Refuse{j.Slots})
		c.logf("Slot move %s: the target has not claimed the slots yet; they are not served until it does", j.ID)
	}
	switch {
	case c.Faults.TakeBackLate && j.refusing:
		c.takeBack(j, "nobody claims the slots")
		return
	case j.syncing && !j.durable:
		return
	case !j.durable:
		c.syncGiven(j)
		return
	case !c.world.Known(j.Peer):
		c.takeBack(j, "the target left the cluster")
		return
	}
	if !j.asking {
		j.asking = true
		c.emit(Tell{j.ID, c.world.MasterOf(j.Peer), j.Slots})
	}
}

// told is what the target's shard said.
func (c *Core) told(j *Job, in Answer) {
	if j.Phase != Taking || in.Err != "" || in.Yes || !j.durable {
		return
	}
	// A master that has its data does not know the job. If it has claimed the
	// slots in a former life, and has forgotten it since, others would know.
	if c.world.MasterOf(j.Peer) == in.Node {
		c.takeBack(j, "the target does not have the data any more")
	}
}

// asked answers a target that has heard no COMMIT.
func (c *Core) asked(in Asked) {
	j := c.jobs[in.Job]
	if j == nil || j.Import {
		// Over, or never begun. Who owns the slots tells which.
		switch c.shardOf(in.Slots) {
		case c.world.MyID():
			c.refuse(false, "UNKNOWN the job was not given")
		case c.world.MasterOf(in.By):
			c.emit(Accepted{})
		default:
			c.refuse(true, "another node owns the slots")
		}
		return
	}
	switch j.Phase {
	case Taking, DroppingIt:
		if j.Phase == Taking && !j.durable {
			c.refuse(true, "the job is about to be given")
			return
		}
		if j.Phase == DroppingIt && in.Slots != nil && (!j.linger || !in.Slots.In(j.Slots)) {
			// Of what we still delete some may have come back since, key by key, and
			// ours is all there is of it: as above, who owns the slots tells.
			switch given := c.notOurs(in.Slots).Len(); {
			case given == 0:
				c.refuse(false, "UNKNOWN the job was not given")
				return
			case given < in.Slots.Len():
				c.refuse(true, "some of the slots have come back")
				return
			}
		}
		c.emit(Accepted{})
	default:
		// It asks instead of waiting for us: its feed is gone, and so is the job.
		c.takeBack(j, "the target has lost its feed")
		c.refuse(false, "UNKNOWN the job was not given")
	}
}

func sortJobs(jobs []*Job) {
	slices.SortFunc(jobs, func(a, b *Job) int { return strings.Compare(a.ID, b.ID) })
}

// slots names the slots of a job in a log line.
func slots(j *Job) string {
	if n := j.Slots.Len(); n != 1 {
		return fmt.Sprintf("%d slots", n)
	}
	return "1 slot"
}

// waited tells how long clients had to wait for a handover, and for what; ""
// when a former life began it.
func waited(j *Job) string {
	if j.heir || j.Paused == 0 {
		return ""
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return fmt.Sprintf("; clients waited %.1f ms: %.1f until it had all of them, %.1f until that was written down here, %.1f for its claim",
		ms(j.Paused), ms(j.Ready), ms(j.Given), ms(j.Paused-j.Ready-j.Given))
}

// Holds reports whether the keys of a slot are a job's business, which deletes
// them itself when it is time.
func (c *Core) Holds(n int) bool {
	for _, r := range c.table.jobs {
		if r.Slots.Has(n) {
			return true
		}
	}
	return false
}
