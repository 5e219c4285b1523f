package server

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/redis/cluster/slot"
	"holdfast/internal/redis/command"
	"holdfast/internal/redis/resp"
	"holdfast/internal/redis/slotmove"
)

// The source's feed: a connection to the target over which it sends what the
// slots hold and then what changes, as ordinary commands. That they are ordinary
// is the point: the target executes, journals and replicates them like those of
// any client, and how far it has come is told by its replies.

const (
	feedPiece   = 64 << 10
	feedTimeout = 10 * time.Second // for the target to take a chunk
	nearCmds    = 512              // replies that may be outstanding when the handover begins
)

// slotFeed is one feed. Its goroutine sends; the engine adds.
type slotFeed struct {
	s     *Server
	job   string
	slots slot.Set
	peer  slotPeer
	wake  chan struct{}
	over  chan struct{} // closed by stop
	once  sync.Once

	snap    *bulkFeed // the snapshot, as commands
	changes *bulkFeed // what changed since
	saving  *snapshotJob
	scratch []byte // under the engine's lock

	made  atomic.Int64 // commands in snap and changes
	extra int64        // commands that the goroutine has added
	acked atomic.Int64 // replies
	sent  atomic.Int64 // bytes

	mu       sync.Mutex
	call     *slotCall
	draining bool
	drainTo  int64  // bytes of changes
	word     []byte // COMMIT, once it is to be sent
}

// beginFeed begins the snapshot of a job's slots. The engine's lock is held, no
// command is half executed.
func (s *Server) beginFeed(e slotmove.Snapshot) {
	m := s.moves
	f := &slotFeed{s: s, job: e.Job, slots: *e.Slots, peer: s.slotPeer(e.Target), wake: make(chan struct{}, 1), over: make(chan struct{})}
	rouse := func() { poke(f.wake) }
	f.snap, f.changes = newBulkFeed(s.fs, s.cfg.Dir, rouse), newBulkFeed(s.fs, s.cfg.Dir, rouse)
	m.gives[e.Job] = f
	f.saving = s.startSlotSnapshot(f, e.Slots)
	go f.run(f.snap.reader(), f.changes.reader())
}

// startSlotSnapshot begins a snapshot of slots, as commands into a feed.
func (s *Server) startSlotSnapshot(f *slotFeed, slots *slot.Set) *snapshotJob {
	return s.beginSnapshot("slots", slotTarget{f}, func(j *snapshotJob) {
		j.raw, j.made = true, &f.made
		j.snap = s.ks.BeginSlotSnapshot(slots, j)
	}, func(_ *snapshotJob, err error) {
		if err != nil && s.moves.gives[f.job] == f {
			s.postSlots(slotmove.Broken{Job: f.job, Why: "the snapshot failed: " + err.Error()})
		}
	})
}

// slotTarget is a snapshot's way into a feed.
type slotTarget struct{ f *slotFeed }

// Write implements snapshotTarget.
func (t slotTarget) Write(p []byte) (int, error) { return t.f.snap.Write(p) }

// Finish implements snapshotTarget.
func (t slotTarget) Finish() error {
	t.f.snap.seal()
	return nil
}

// Abort implements snapshotTarget.
func (t slotTarget) Abort(err error) { t.f.snap.Abort(err) }

// seal says that nothing more comes, without a mark.
func (f *bulkFeed) seal() {
	f.mu.Lock()
	f.whole = true
	f.closeIfUnused()
	f.mu.Unlock()
	f.wake()
}

// change takes a command that was executed here. The engine's lock is held.
func (f *slotFeed) change(n int, args [][]byte) {
	if !f.slots.Has(n) {
		return
	}
	f.scratch = resp.AppendCommandBytes(f.scratch[:0], args)
	f.made.Add(1)
	if _, err := f.changes.Write(f.scratch); err != nil {
		f.s.postSlots(slotmove.Broken{Job: f.job, Why: "changes cannot be kept: " + errnoText(err)})
	}
	if cap(f.scratch) > 1<<20 {
		f.scratch = nil
	}
}

// drain makes the goroutine send what has been added so far, and DRAINED behind
// it. The engine's lock is held.
func (f *slotFeed) drain() {
	f.changes.mu.Lock()
	end := f.changes.end
	f.changes.mu.Unlock()
	f.mu.Lock()
	f.draining, f.drainTo = true, end
	f.mu.Unlock()
	poke(f.wake)
}

// commit makes the goroutine send COMMIT.
func (f *slotFeed) commit(me string, epoch uint64) {
	f.mu.Lock()
	f.word = resp.AppendCommand(nil, "HOLDFAST.SLOTS", "COMMIT", f.job, me, strconv.FormatUint(epoch, 10), f.slots.String())
	f.mu.Unlock()
	poke(f.wake)
}

// stop ends the feed. The engine's lock is held.
func (f *slotFeed) stop() {
	f.once.Do(func() { close(f.over) })
	f.mu.Lock()
	if f.call != nil {
		f.call.close()
	}
	f.mu.Unlock()
	if f.saving != nil && f.s.persist.job == f.saving {
		f.saving.cancel("the move of slots has ended")
	}
}

// closeFeed ends a job's connections, at either side. The engine's lock is held.
func (s *Server) closeFeed(job string) {
	m := s.moves
	if f := m.gives[job]; f != nil {
		delete(m.gives, job)
		f.stop()
		s.postSlots(s.sentBy(f))
	}
	if t := m.takes[job]; t != nil {
		delete(m.takes, job)
		t.over = true
		if t.ctl != nil {
			t.ctl.close()
		}
		if t.stream != nil {
			if c, ok := t.stream.Conn.(*conn); ok {
				c.closeLater(true)
			}
			t.stream = nil
		}
	}
}

var errFeedOver = errors.New("the feed was closed")

// run is the goroutine.
func (f *slotFeed) run(snap, changes *feedReader) {
	err := f.send(snap, changes)
	snap.close()
	changes.close()
	f.snap.seal()
	f.changes.seal()
	f.mu.Lock()
	if f.call != nil {
		f.call.close()
	}
	f.mu.Unlock()
	if err != nil && !errors.Is(err, errFeedOver) {
		f.s.tellSlots(slotmove.Broken{Job: f.job, Why: callError(err)})
	}
}

// send is the life of a feed.
func (f *slotFeed) send(snap, changes *feedReader) error {
	call, err := f.peer.dial()
	if err != nil {
		return fmt.Errorf("connecting to the target: %w", err)
	}
	f.mu.Lock()
	f.call = call
	f.mu.Unlock()
	if f.ended() {
		return errFeedOver
	}
	if _, err := call.do("HOLDFAST.SLOTS", "STREAM", f.job); err != nil {
		return fmt.Errorf("the target refuses: %w", err)
	}
	failed := make(chan error, 1)
	go func() { failed <- f.hear(call) }()
	if err := f.pump(call, snap, failed, nil); err != nil {
		return err
	}
	if err := f.say(call, "HOLDFAST.SLOTS", "FOLLOWING", f.job); err != nil {
		return err
	}
	f.s.tellSlots(slotmove.SnapshotSent{Job: f.job})
	if err := f.pump(call, changes, failed, f.follow); err != nil {
		return err
	}
	if err := f.say(call, "HOLDFAST.SLOTS", "DRAINED", f.job); err != nil {
		return err
	}
	return f.await(call, failed)
}

func (f *slotFeed) ended() bool {
	select {
	case <-f.over:
		return true
	default:
		return false
	}
}

// pump sends what r gives, until it is whole, or until follow, which is asked
// whenever there is nothing to send, says so.
func (f *slotFeed) pump(call *slotCall, r *feedReader, failed chan error, follow func(at int64) bool) error {
	buf := make([]byte, feedPiece)
	beat := time.NewTicker(slotmove.Heartbeat)
	defer beat.Stop()
	for {
		n, whole, err := r.read(buf)
		if err != nil {
			return err
		}
		if n > 0 {
			if err := f.write(call, buf[:n]); err != nil {
				return f.why(err, failed)
			}
			continue
		}
		if whole || follow != nil && follow(r.at) {
			return nil
		}
		select {
		case <-f.wake:
		case <-beat.C:
			if err := f.say(call, "PING"); err != nil {
				return f.why(err, failed)
			}
		case err := <-failed:
			return err
		case <-f.over:
			return errFeedOver
		}
	}
}

// follow looks whether the handover may begin, or is at its end: at is how many
// bytes of changes were sent.
func (f *slotFeed) follow(at int64) bool {
	f.mu.Lock()
	draining, to := f.draining, f.drainTo
	f.mu.Unlock()
	if draining {
		return at >= to
	}
	if f.made.Load()+f.extra-f.acked.Load() <= nearCmds {
		f.s.tellSlots(slotmove.Near{Job: f.job})
	}
	return false
}

// why is the target's own word, when there is one, for a write that failed.
func (f *slotFeed) why(err error, failed chan error) error {
	select {
	case said := <-failed:
		return said
	case <-time.After(slotMoment):
		return err
	}
}

const slotMoment = 50 * time.Millisecond

// await is the time behind DRAINED: COMMIT goes out when it may.
func (f *slotFeed) await(call *slotCall, failed chan error) error {
	for {
		f.mu.Lock()
		word := f.word
		f.word = nil
		f.mu.Unlock()
		if word != nil {
			if err := f.write(call, word); err != nil {
				return f.why(err, failed)
			}
		}
		select {
		case <-f.wake:
		case err := <-failed:
			return err
		case <-f.over:
			return errFeedOver
		}
	}
}

// say sends a command of our own.
func (f *slotFeed) say(call *slotCall, args ...string) error {
	f.extra++
	return f.write(call, resp.AppendCommand(nil, args...))
}

func (f *slotFeed) write(call *slotCall, b []byte) error {
	if err := call.nc.SetWriteDeadline(time.Now().Add(feedTimeout)); err != nil {
		return err
	}
	n, err := call.nc.Write(b)
	f.sent.Add(int64(n))
	return err
}

// hear reads replies. The first error among them ends the feed: what the target
// could not take would be missing there.
func (f *slotFeed) hear(call *slotCall) error {
	if err := call.nc.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	for {
		v, err := call.rd.Read()
		if err != nil {
			return fmt.Errorf("the target has closed the connection: %w", err)
		}
		if err := v.Err(); err != nil {
			return fmt.Errorf("the target could not take a command: %w", err)
		}
		if n := f.acked.Add(1); n%64 == 0 || f.made.Load() <= n {
			poke(f.wake)
		}
	}
}

// slotStreamGone is the end of a connection that was a feed. The engine's lock
// is held.
func (s *Server) slotStreamGone(cl *command.Client) {
	for job, t := range s.moves.takes {
		if t.stream == cl {
			t.stream = nil
			s.postSlots(slotmove.Broken{Job: job, Why: "the source has closed the connection"})
		}
	}
}

// received is how many bytes have come on a feed.
func (t *slotTake) received() int64 {
	if t.stream == nil {
		return t.bytes
	}
	if c, ok := t.stream.Conn.(*conn); ok {
		t.bytes = c.received
	}
	return t.bytes
}
