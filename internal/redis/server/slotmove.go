package server

import (
	"errors"
	"strconv"
	"time"

	"holdfast/internal/journal"
	"holdfast/internal/redis/cluster"
	"holdfast/internal/redis/cluster/slot"
	"holdfast/internal/redis/command"
	"holdfast/internal/redis/replication"
	"holdfast/internal/redis/slotmove"
)

// Slots that move as a stream between two masters of ours: package slotmove
// decides, what it decides is carried out here, under the engine's lock.
//
//	slotmove.go   the core's inputs and effects
//	slotfeed.go   the source's connection to the target, which carries the data
//	slotcall.go   what nodes ask each other about a job
//	cmd_slots.go  HOLDFAST.SLOTS

// slotMoves is this server's part in moves of slots; nil without cluster mode.
// Everything is under the engine's lock.
type slotMoves struct {
	core  *slotmove.Core
	queue []slotmove.Input // to be stepped as soon as nothing is half done
	kick  chan struct{}

	gives  map[string]*slotFeed // by job
	takes  map[string]*slotTake // by job
	drops  []slotmove.Drop      // keys that are being deleted
	answer *slotmove.Refused    // of the command that runs; nil: accepted
	refs   []command.KeyRef     // scratch
	asked  bool                 // an answer was given
}

// slotTake is the target's end of a job.
type slotTake struct {
	over   bool // closed: ctl is to be closed by whoever uses it now
	ctl    *slotCall
	stream *command.Client // which the source's data comes from; nil: none yet
	bytes  int64
	seenMs int64
}

func newSlotMoves(s *Server) *slotMoves {
	return &slotMoves{core: slotmove.New(slotWorld{s}), kick: make(chan struct{}, 1),
		gives: make(map[string]*slotFeed), takes: make(map[string]*slotTake)}
}

// startSlotMoves begins to drive what the journal says was on its way, once
// the server is what it is going to be. The engine's lock is held.
func (s *Server) startSlotMoves() {
	s.slotRole()
	s.settleMoves()
}

// slotRole tells the core what the server is now.
func (s *Server) slotRole() {
	if s.moves == nil {
		return
	}
	master := !s.repl.isReplica.Load()
	if !master {
		// What was still to be decided is the new master's to decide.
		s.moves.queue = nil
	}
	s.postSlots(slotmove.Role{Master: master})
}

// postSlots keeps an input until nothing is half done. The engine's lock is
// held.
func (s *Server) postSlots(in slotmove.Input) {
	m := s.moves
	m.queue = append(m.queue, in)
	poke(m.kick)
}

// slotsMoved says that the view of the cluster is another one.
func (s *Server) slotsMoved() {
	if s.moves != nil && !s.moves.core.Idle() {
		s.postSlots(slotmove.Moved{})
	}
}

// slotsDisturbed ends what cannot go on.
func (s *Server) slotsDisturbed(why string) {
	if s.moves != nil && !s.moves.core.Idle() {
		s.postSlots(slotmove.Disturbed{Why: why})
	}
}

// settleMoves steps what has been posted. While writes are paused for a
// failover the end of the stream must not move, so that all waits. The engine's
// lock is held, no command is half executed.
func (s *Server) settleMoves() {
	m := s.moves
	if m == nil || len(m.queue) == 0 || s.e.State.FailoverPause || s.shutdown.over {
		return
	}
	for len(m.queue) > 0 {
		in := m.queue[0]
		m.queue[0] = nil
		m.queue = m.queue[1:]
		s.stepSlots(in)
	}
	m.queue = nil
}

// stepSlots hands one input to the core and carries out what it decides.
func (s *Server) stepSlots(in slotmove.Input) {
	for _, e := range s.moves.core.Step(time.Now(), in) {
		s.carryOutSlots(e)
	}
	s.watchChanges()
	switch in := in.(type) {
	case slotmove.Role:
		if in.Master {
			s.tellGiven()
		} else {
			s.stepUnsettled(cluster.GivenSlots{}) // a master's business
		}
	case slotmove.Durable:
		s.tellGiven()
	}
}

// tellSlots is postSlots from a goroutine of its own, which holds no lock: the
// input is stepped at once, and what it wrote is flushed.
func (s *Server) tellSlots(in slotmove.Input) {
	s.e.Lock()
	if !s.shutdown.over {
		s.e.BeginBatch(time.Now().UnixMicro())
		s.moves.queue = append(s.moves.queue, in)
		s.settleMoves()
		s.settleCluster()
		poke(s.moves.kick) // its deadline may be another one
	}
	s.e.Unlock()
	s.flushStream()
}

// slotLoop drives the moves beside the clients, until the server ends.
func (s *Server) slotLoop() {
	m := s.moves
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-m.kick:
		case <-timer.C:
		}
		timer.Reset(s.slotTurn())
		s.flushStream()
	}
}

const (
	dropKeys  = 256 // deleted in one go
	dropPause = time.Millisecond
	slotPeek  = 500 * time.Millisecond // between two looks at a running import
)

// slotTurn is one turn of slotLoop; it returns when the next is due.
func (s *Server) slotTurn() time.Duration {
	s.e.Lock()
	defer s.e.Unlock()
	m := s.moves
	if s.shutdown.over {
		return time.Hour
	}
	s.e.BeginBatch(time.Now().UnixMicro())
	s.settleMoves()
	if s.e.State.FailoverPause {
		return slotPeek
	}
	if !m.core.Idle() {
		s.hearFeeds()
		s.settleMoves()
		if d := m.core.Deadline(); !d.IsZero() && !time.Now().Before(d) {
			s.stepSlots(slotmove.Timer{})
			s.settleMoves()
		}
	}
	next := time.Hour
	if s.e.DropStep(dropKeys) {
		next = dropPause
	}
	s.reportDropped()
	if !m.core.Idle() {
		next = min(next, slotPeek)
		if d := m.core.Deadline(); !d.IsZero() {
			next = min(next, max(0, time.Until(d)))
		}
	}
	s.settleCluster()
	return next
}

// hearFeeds tells the core what has come for imports.
func (s *Server) hearFeeds() {
	for job, t := range s.moves.takes {
		if t.stream == nil || t.stream.LastMs == t.seenMs {
			continue
		}
		t.seenMs = t.stream.LastMs
		s.moves.queue = append(s.moves.queue, slotmove.Heard{Job: job})
	}
}

// reportDropped tells the core which slots have no key any more.
func (s *Server) reportDropped() {
	m := s.moves
	if len(m.drops) == 0 {
		return
	}
	left := s.e.Dropping()
	rest := m.drops[:0]
	for _, d := range m.drops {
		if left != nil && left.Overlaps(d.Slots) {
			rest = append(rest, d)
			continue
		}
		m.queue = append(m.queue, slotmove.Dropped{Job: d.Job})
	}
	clear(m.drops[len(rest):])
	m.drops = rest
	s.settleMoves()
}

// carryOutSlots does one thing that the core decided.
func (s *Server) carryOutSlots(e slotmove.Effect) {
	m := s.moves
	switch e := e.(type) {
	case slotmove.Write:
		s.writeMark(e.Mark)
	case slotmove.Accepted:
		m.asked, m.answer = true, nil
	case slotmove.Refused:
		m.asked, m.answer = true, &e
	case slotmove.Dial:
		s.askForFeed(e)
	case slotmove.Snapshot:
		s.beginFeed(e)
	case slotmove.CloseFeed:
		s.closeFeed(e.Job)
	case slotmove.Drain:
		if f := m.gives[e.Job]; f != nil {
			f.drain()
		}
	case slotmove.Presync:
		s.presync(e.Job)
	case slotmove.Sync:
		s.syncMark(e.Job)
	case slotmove.SendPrepared:
		s.sendPrepared(e.Job)
	case slotmove.SendCommit:
		if f := m.gives[e.Job]; f != nil {
			f.commit(s.cluster.core.MyID(), s.configEpoch())
		}
	case slotmove.Claim:
		s.claimSlots(e)
	case slotmove.Ask:
		s.askAbout(e.Job, e.Node, "ASK", e.Slots)
	case slotmove.Tell:
		s.askAbout(e.Job, e.Node, "COMMIT", e.Slots)
	case slotmove.Stage:
		s.e.StageSlots(e.Slots)
	case slotmove.Unstage:
		s.e.UnstageSlots(e.Slots)
	case slotmove.Hold:
		s.e.HoldSlots(e.Slots, e.Reads)
	case slotmove.Refuse:
		s.e.RefuseSlots(e.Slots, true)
	case slotmove.Release:
		s.e.RefuseSlots(e.Slots, false)
		s.e.ReleaseSlots(e.Slots)
	case slotmove.Drop:
		m.drops = append(m.drops, e)
		s.e.QueueDrop(e.Slots)
		s.dropWhatIsBack(e.Slots)
		poke(m.kick)
	case slotmove.Log:
		s.log.Notice("%s", e.Text)
	}
}

// dropWhatIsBack deletes at once what is left of slots that this node serves, or
// takes key by key.
func (s *Server) dropWhatIsBack(slots *slot.Set) {
	var now slot.Set
	v := s.e.View()
	slots.Each(func(n int) {
		if v.Mine(n) || v.Importing(n) != nil {
			now.Add(n)
		}
	})
	if !now.Empty() {
		s.e.DropNow(&now)
	}
}

// writeMark puts a mark into the stream.
func (s *Server) writeMark(mark slotmove.Mark) {
	args := [][]byte{[]byte("HOLDFAST.SLOTS"), []byte("MARK")}
	for _, a := range mark.Args() {
		args = append(args, []byte(a))
	}
	s.e.Propagate(0, args...)
	s.offsetMoved()
	s.tellGiven()
}

// tellGiven tells the cluster's core which slots are let go, and not claimed by
// their new owner yet.
func (s *Server) tellGiven() {
	s.stepUnsettled(cluster.GivenSlots{Slots: s.moves.core.Given()})
}

// syncMark makes all that was written durable here, whatever appendfsync says: a
// power cut that took a mark from one end of a move would leave keys on both. It
// lets the replicas have it, and tells the core. A replica that is connected
// must have it, since it may be the next master; one that does not answer in time
// is as good as gone, but then the move had better be tried later.
func (s *Server) syncMark(job string) {
	pos, stream := s.streamEnd(), s.persist.stream
	go func() {
		text := ""
		err := stream.Flush()
		if err == nil {
			there := make(chan bool, 1)
			go func() { there <- s.awaitReplicas(pos, replicaPatience) }()
			err = stream.Sync(pos)
			if !<-there {
				text = "a replica does not acknowledge"
			}
		}
		if err != nil {
			text = "the journal cannot be written: " + errnoText(err)
			s.e.Lock()
			s.journalFailed(err)
			s.e.Unlock()
		}
		s.tellSlots(slotmove.Durable{Job: job, Err: text})
	}()
}

// presync brings the disk and the replicas close to the end of the stream, and
// waits until both are quick again after all that came, so that clients wait for
// little. When they do not get so in time, then it is not the move which keeps
// them busy; a replica that does not acknowledge is left for syncMark to judge.
func (s *Server) presync(job string) {
	pos, stream := s.streamEnd(), s.persist.stream
	t := s.moves.takes[job]
	go func() {
		err := stream.Flush()
		if err == nil {
			err = stream.Sync(pos)
		}
		if err == nil {
			err = s.awaitCalm(stream)
		}
		if err == nil && t != nil {
			err = s.tellSource(t, "HOLDFAST.SLOTS", "SYNCED", job)
		}
		if err != nil {
			s.tellSlots(slotmove.Broken{Job: job, Why: callError(err)})
		}
	}()
}

// onlineBehind reports whether a replica that follows the stream lacks a
// position of it.
func (r *replState) onlineBehind(pos uint64) bool {
	for _, b := range r.book {
		if b.State == replication.Online && !b.HasAcked(pos) {
			return true
		}
	}
	return false
}

const (
	replicaPatience = 700 * time.Millisecond // while clients wait
	presyncPatience = 5 * time.Second        // while they do not
	calm            = 10 * time.Millisecond
	calmRounds      = 3
	calmPause       = 20 * time.Millisecond
	replicaPoll     = time.Millisecond
)

// awaitCalm writes to the stream until its disk and the replicas take it quickly,
// calmRounds times in a row, or patience ends.
func (s *Server) awaitCalm(stream journal.Stream) error {
	begin := time.Now()
	for quick := 0; quick < calmRounds; time.Sleep(calmPause) {
		s.e.Lock()
		if s.shutdown.over || s.e.State.FailoverPause {
			s.e.Unlock()
			return nil
		}
		if len(s.repl.links) > 0 {
			s.repl.asked = s.appendShell(getackUnit)
		}
		pos := s.streamEnd()
		s.e.Unlock()
		t := time.Now()
		if err := errors.Join(stream.Flush(), stream.Sync(pos)); err != nil {
			return err
		}
		s.awaitReplicas(pos, presyncPatience-t.Sub(begin))
		switch now := time.Now(); {
		case now.Sub(begin) >= presyncPatience:
			return nil
		case now.Sub(t) <= calm:
			quick++
		default:
			quick = 0
		}
	}
	return nil
}

// awaitReplicas waits until all replicas that are online have a position.
func (s *Server) awaitReplicas(pos uint64, patience time.Duration) bool {
	end := time.Now().Add(patience)
	for asked := false; ; time.Sleep(replicaPoll) {
		s.e.Lock()
		behind := s.repl.onlineBehind(pos)
		if behind && !asked && !s.e.State.FailoverPause {
			s.askForAcks()
			asked = true
		}
		over := s.shutdown.over
		s.e.Unlock()
		if !behind {
			return true
		}
		if over || time.Now().After(end) {
			return false
		}
	}
}

// claimSlots makes this node the owner.
func (s *Server) claimSlots(e slotmove.Claim) {
	s.cluster.taken = nil
	s.stepCluster(cluster.TakeSlots{Slots: e.Slots, From: e.From, Epoch: e.Epoch})
	why := ""
	switch t := s.cluster.taken; {
	case t == nil:
		why = "the server ends"
	case !t.OK:
		why = t.Why
	}
	s.postSlots(slotmove.Claimed{Job: e.Job, Err: why})
}

func (s *Server) configEpoch() uint64 { return s.cluster.core.Status().ConfigEpoch }

// watchChanges makes the engine tell of changes while somebody wants to know.
func (s *Server) watchChanges() {
	if s.moves.core.Idle() {
		s.e.OnChange = nil
	} else if s.e.OnChange == nil {
		s.e.OnChange = s.changed
	}
}

// changed is told of every command that goes into the stream: it may have to
// go to a target as well. It is in the middle of a command.
func (s *Server) changed(args [][]byte) {
	switch name := args[0]; {
	case command.EqualFold(name, "flushall"), command.EqualFold(name, "flushdb"), command.EqualFold(name, "swapdb"):
		s.slotsDisturbed("the keyspace was emptied")
		return
	case len(s.moves.gives) == 0:
		return
	}
	n, ok := s.slotOfCommand(args)
	if !ok {
		return
	}
	for _, f := range s.moves.gives {
		f.change(n, args)
	}
}

// slotOfCommand is the slot that a command of the stream is about.
func (s *Server) slotOfCommand(args [][]byte) (n int, ok bool) {
	spec := s.e.Table.Lookup(args[0])
	if spec == nil || !spec.Is(command.Write) {
		return 0, false
	}
	refs, ok := spec.AppendKeys(s.moves.refs[:0], args)
	s.moves.refs = refs[:0]
	if !ok || len(refs) == 0 {
		return 0, false
	}
	return slot.Of(args[refs[0].Pos]), true
}

// slotWorld answers what the core asks about the server.
type slotWorld struct{ s *Server }

// Owner implements slotmove.World.
func (w slotWorld) Owner(n int) string {
	if o := w.s.e.View().Owner(n); o != nil {
		return o.ID
	}
	return ""
}

// MyID implements slotmove.World.
func (w slotWorld) MyID() string { return w.s.cluster.core.MyID() }

// Known implements slotmove.World.
func (w slotWorld) Known(id string) bool { return w.s.e.View().Node(id) != nil }

// MasterOf implements slotmove.World.
func (w slotWorld) MasterOf(id string) string {
	v := w.s.e.View()
	for range 3 { // chains are short, and may not be circles for long
		n := v.Node(id)
		if n == nil || n.MasterID == "" {
			break
		}
		id = n.MasterID
	}
	return id
}

// Keys implements slotmove.World.
func (w slotWorld) Keys(n int) int { return w.s.ks.CountKeysInSlot(n) }

// Open implements slotmove.World.
func (w slotWorld) Open(n int) bool {
	v := w.s.e.View()
	return v.Migrating(n) != nil || v.Importing(n) != nil
}

// ClusterOK implements slotmove.World.
func (w slotWorld) ClusterOK() bool { return w.s.e.View().OK }

// Linger implements slotmove.World.
func (w slotWorld) Linger() time.Duration {
	return 2 * time.Duration(min(w.s.cfg.ClusterNodeTimeout, 60_000)) * time.Millisecond
}

// restoreMarks takes over what a snapshot says of moves.
func (s *Server) restoreMarks(text string) {
	if s.moves == nil {
		return
	}
	t, err := slotmove.ParseTable(text)
	if err != nil {
		s.log.Warning("The snapshot's table of slot moves cannot be read, it is ignored: %s", err)
		t = &slotmove.Table{}
	}
	s.moves.core.Restore(t)
}

// marks is what a snapshot has to say of moves; "" for nothing.
func (s *Server) marks() string {
	if s.moves == nil {
		return ""
	}
	return s.moves.core.Table().String()
}

// nodeAddr is where a node serves clients, as other nodes reach it.
func (s *Server) nodeAddr(id string) (host string, port string, ok bool) {
	n := s.e.View().Node(id)
	if n == nil || n.IP == "" || n.Port == 0 {
		return "", "", false
	}
	return n.IP, strconv.Itoa(n.Port), true
}

// manyKeys is above how many keys slots that went to another node are emptied
// by and by; fewer are deleted at once, as in Redis.
const manyKeys = 2000

// dropSlots deletes the keys of slots that another node has claimed. Those of a
// move of ours wait for its end. The engine's lock is held.
func (s *Server) dropSlots(slots []int) {
	keys := 0
	var later slot.Set
	for _, n := range slots {
		if s.moves.core.Holds(n) {
			continue
		}
		later.Add(n)
		keys += s.ks.CountKeysInSlot(n)
	}
	if keys > manyKeys {
		s.e.QueueDrop(&later)
		poke(s.moves.kick)
		return
	}
	later.Each(func(n int) { s.e.DropSlot(n) })
}
