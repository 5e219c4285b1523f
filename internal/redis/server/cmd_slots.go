package server

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/redis/cluster/slot"
	"holdfast/internal/redis/command"
	"holdfast/internal/redis/resp"
	"holdfast/internal/redis/slotmove"
)

// HOLDFAST.SLOTS: what an administrator says about moves of slots, and what the
// two nodes of one say to each other.

func (s *Server) slotCommands() []command.Spec {
	if !s.cfg.ClusterEnabled {
		return nil
	}
	const flags = command.Admin | command.NoMulti | command.NoAsyncLoading
	sub := func(name string, arity int, flags command.Flag, run func(*command.Ctx)) *command.Spec {
		return &command.Spec{Name: name, Arity: arity, Flags: flags, Run: run}
	}
	return []command.Spec{{Name: "holdfast.slots", Arity: -2, Sub: []*command.Spec{
		sub("ask", 5, flags, s.cmdSlotsAsk),
		sub("cancel", 3, flags, s.cmdSlotsCancel),
		sub("commit", 6, flags, s.cmdSlotsCommit),
		sub("drained", 3, flags, s.cmdSlotsDrained),
		sub("feed", 5, flags, s.cmdSlotsFeed),
		sub("following", 3, flags, s.cmdSlotsFollowing),
		sub("help", 2, command.Loading|command.Stale, cmdSlotsHelp),
		sub("import", -5, flags, s.cmdSlotsImport),
		sub("mark", -4, command.Write|command.Loading|command.Stale, s.cmdSlotsMark),
		sub("prepared", 3, flags, s.cmdSlotsPrepared),
		sub("status", 2, command.Admin|command.Stale, s.cmdSlotsStatus),
		sub("stream", 3, flags, s.cmdSlotsStream),
		sub("synced", 3, flags, s.cmdSlotsSynced),
	}}}
}

func cmdSlotsHelp(c *command.Ctx) {
	c.Help(strings.Split(`CANCEL <job>
    Give a move up, unless the slots have been given away already.
IMPORT <node-id> <start slot> <end slot> [<start slot> <end slot> ...]
    Take over the slots from <node-id>, with their keys and while they are
    served, in the background; see STATUS. Returns the id of the job. Both ends
    and their replicas must be Holdfast. An interrupted move ends by itself,
    here or there.
STATUS
    Return the moves that run or have ended, as JSON.
ASK, COMMIT, DRAINED, FEED, FOLLOWING, MARK, PREPARED, STREAM, SYNCED
    What nodes say to each other.`, "\n")...)
}

// stepCommand hands an input to the core for a command, and replies.
func (s *Server) stepCommand(c *command.Ctx, in slotmove.Input) {
	if s.replySlots(c, in) {
		c.OK()
	}
}

// replySlots hands an input to the core, and replies the error when it is
// refused.
func (s *Server) replySlots(c *command.Ctx, in slotmove.Input) bool {
	c.NoPropagate()
	m := s.moves
	if s.e.State.FailoverPause {
		c.Err("TRYAGAIN writes are paused for a failover")
		return false
	}
	s.settleMoves() // what came before
	m.asked, m.answer = false, nil
	s.stepSlots(in)
	asked, answer := m.asked, m.answer
	s.settleMoves()
	switch {
	case !asked || answer == nil:
		return true
	case answer.Retry:
		c.Err("TRYAGAIN " + answer.Why)
	case strings.HasPrefix(answer.Why, "UNKNOWN "):
		c.Err(answer.Why)
	default:
		c.Err("ERR " + answer.Why)
	}
	return false
}

// slotArg reads argument i, which names slots as nodes do among themselves; when
// it names none it replies the error and returns false.
func slotArg(c *command.Ctx, i int) (*slot.Set, bool) {
	set, err := slot.ParseSet(string(c.Args[i]))
	if err != nil || set.Empty() {
		c.Err("ERR Invalid slots")
		return nil, false
	}
	return &set, true
}

// --- what an administrator says ---

// slotRanges reads pairs of first and last slot.
func slotRanges(c *command.Ctx, args [][]byte) (*slot.Set, bool) {
	set := &slot.Set{}
	if len(args)%2 != 0 {
		c.Err("ERR slots are pairs of a first and a last one")
		return nil, false
	}
	for i := 0; i < len(args); i += 2 {
		first, ok1 := resp.ParseInt(args[i])
		last, ok2 := resp.ParseInt(args[i+1])
		if !ok1 || !ok2 || first < 0 || last >= slot.Count {
			c.Err("ERR Invalid or out of range slot")
			return nil, false
		}
		if first > last {
			c.Errf("ERR start slot number %d is greater than end slot number %d", first, last)
			return nil, false
		}
		set.AddRange(int(first), int(last))
	}
	return set, true
}

func (s *Server) cmdSlotsImport(c *command.Ctx) {
	c.NoPropagate()
	set, ok := slotRanges(c, c.Args[3:])
	if !ok {
		return
	}
	job := randomID()
	if s.replySlots(c, slotmove.Import{Job: job, Source: string(bytes.ToLower(c.Args[2])), Slots: set}) {
		c.BulkStr(job)
	}
}

func (s *Server) cmdSlotsCancel(c *command.Ctx) {
	s.stepCommand(c, slotmove.Cancel{Job: string(c.Args[2])})
}

// slotJobs is the reply of STATUS.
func (s *Server) slotJobs() []SlotJob {
	out := []SlotJob{}
	for _, j := range s.moves.core.Jobs() {
		r := SlotJob{ID: j.ID, Role: "give", Peer: j.Peer, Slots: j.Slots.String(), Phase: string(j.Phase), Keys: j.Keys, Bytes: j.Bytes,
			BeganMs: j.Began.UnixMilli(), PausedMs: j.Paused.Milliseconds(), Error: j.Error}
		switch {
		case j.Import:
			r.Role = "import"
		default:
			r.Commands = j.Commands
			if j.Ready > 0 && j.Phase != slotmove.Failed {
				r.Waits = &SlotWaits{ReadyUs: j.Ready.Microseconds(), GivenUs: j.Given.Microseconds()}
				if j.Paused > 0 {
					r.Waits.ClaimUs = (j.Paused - j.Ready - j.Given).Microseconds()
				}
			}
		}
		end := j.Ended
		if end.IsZero() {
			end = time.Now()
		}
		r.TookMs = end.Sub(j.Began).Milliseconds()
		out = append(out, r)
	}
	return out
}

// SlotJob is a job as HOLDFAST.SLOTS STATUS shows it.
type SlotJob struct {
	ID       string `json:"id"`
	Role     string `json:"role"` // import or give
	Peer     string `json:"peer"` // node id of the other end
	Slots    string `json:"slots"`
	Phase    string `json:"phase"`
	Keys     int64  `json:"keys"`               // of imports: that have come; else: that the slots have
	Commands int64  `json:"commands,omitempty"` // of gives: of the feed, sent so far
	Bytes    int64  `json:"bytes"`              // of the feed
	BeganMs  int64  `json:"began_ms"`
	PausedMs int64  `json:"paused_ms"` // how long clients had to wait
	// Waits is what they waited for; of gives, once it is known.
	Waits  *SlotWaits `json:"waits,omitempty"`
	TookMs int64      `json:"took_ms"`
	Error  string     `json:"error,omitempty"`
}

// SlotWaits are the parts of the time that clients of slots wait for a handover.
type SlotWaits struct {
	ReadyUs int64 `json:"ready_us"` // until the target was ready
	GivenUs int64 `json:"given_us"` // until the source had written down that the slots are given
	ClaimUs int64 `json:"claim_us"` // until the target's claim was seen
}

// SlotReply is the whole reply.
type SlotReply struct {
	Jobs []SlotJob `json:"jobs"`
}

func (s *Server) cmdSlotsStatus(c *command.Ctx) {
	c.NoPropagate()
	s.countStaged()
	for _, f := range s.moves.gives {
		s.stepSlots(s.sentBy(f))
	}
	b, err := json.Marshal(SlotReply{s.slotJobs()})
	if err != nil {
		c.Err("ERR " + err.Error())
		return
	}
	c.Bulk(b)
}

// countStaged tells the core how much has come of running imports.
func (s *Server) countStaged() {
	for _, j := range s.moves.core.Jobs() {
		t := s.moves.takes[j.ID]
		if t == nil || !j.Import {
			continue
		}
		s.stepSlots(slotmove.Heard{Job: j.ID, Keys: s.keysOf(j.Slots), Bytes: t.received()})
	}
}

// sentBy is what a feed has sent. The engine's lock is held.
func (s *Server) sentBy(f *slotFeed) slotmove.Sent {
	return slotmove.Sent{Job: f.job, Keys: s.keysOf(&f.slots), Commands: min(f.acked.Load(), f.made.Load()), Bytes: f.sent.Load()}
}

// keysOf counts the keys of slots.
func (s *Server) keysOf(slots *slot.Set) (n int64) {
	slots.Each(func(i int) { n += int64(s.ks.CountKeysInSlot(i)) })
	return n
}

// --- what nodes say to each other ---

// cmdSlotsMark is a mark in the stream of a master, or of the journal.
func (s *Server) cmdSlotsMark(c *command.Ctx) {
	c.NoPropagate()
	if !c.Client.Has(command.FlagMaster | command.FlagReplay) {
		c.Err("ERR MARK is part of the replication stream")
		return
	}
	args := make([]string, len(c.Args)-2)
	for i, a := range c.Args[2:] {
		args[i] = string(a)
	}
	mark, err := slotmove.ParseMark(args)
	if err != nil {
		c.Err("ERR " + err.Error())
		return
	}
	s.moves.core.Replay(mark)
	c.OK()
}

func (s *Server) cmdSlotsFeed(c *command.Ctx) {
	c.NoPropagate()
	set, ok := slotArg(c, 4)
	if !ok {
		return
	}
	if s.persist.job != nil || s.ks.Snapshotting() {
		c.Err("TRYAGAIN another snapshot is being taken")
		return
	}
	s.stepCommand(c, slotmove.Feed{Job: string(c.Args[2]), Target: string(c.Args[3]), Slots: set})
}

func (s *Server) cmdSlotsStream(c *command.Ctx) {
	c.NoPropagate()
	job := string(c.Args[2])
	t := s.moves.takes[job]
	if t == nil || t.stream != nil {
		c.Err("ERR no such job waits for a feed")
		return
	}
	t.stream = c.Client
	c.Client.Flags |= command.FlagImport
	s.stepCommand(c, slotmove.Fed{Job: job})
}

// feedCommand is for commands that only a feed may send.
func (s *Server) feedCommand(c *command.Ctx, in slotmove.Input) {
	c.NoPropagate()
	t := s.moves.takes[string(c.Args[2])]
	if t == nil || t.stream != c.Client {
		c.Err("ERR this connection does not feed the job")
		return
	}
	s.stepCommand(c, in)
}

func (s *Server) cmdSlotsFollowing(c *command.Ctx) {
	s.feedCommand(c, slotmove.Heard{Job: string(c.Args[2]), Following: true})
}

func (s *Server) cmdSlotsDrained(c *command.Ctx) {
	s.countStaged()
	s.feedCommand(c, slotmove.Drained{Job: string(c.Args[2])})
}

// givenFeed is the feed of the job that a command names; it replies the error
// when there is none.
func (s *Server) givenFeed(c *command.Ctx) (job string, f *slotFeed) {
	c.NoPropagate()
	job = string(c.Args[2])
	if f = s.moves.gives[job]; f == nil {
		c.Err("UNKNOWN no such job")
	}
	return job, f
}

func (s *Server) cmdSlotsSynced(c *command.Ctx) {
	if job, f := s.givenFeed(c); f != nil {
		s.stepCommand(c, slotmove.Synced{Job: job})
		poke(f.wake)
	}
}

func (s *Server) cmdSlotsPrepared(c *command.Ctx) {
	if job, f := s.givenFeed(c); f != nil {
		s.stepCommand(c, slotmove.Prepared{Job: job})
	}
}

func (s *Server) cmdSlotsCommit(c *command.Ctx) {
	c.NoPropagate()
	epoch, err := strconv.ParseUint(string(c.Args[4]), 10, 64)
	if err != nil {
		c.Err("ERR Invalid epoch")
		return
	}
	set, ok := slotArg(c, 5)
	if !ok {
		return
	}
	s.stepCommand(c, slotmove.Commit{Job: string(c.Args[2]), From: string(c.Args[3]), Epoch: epoch, Slots: set})
}

func (s *Server) cmdSlotsAsk(c *command.Ctx) {
	c.NoPropagate()
	set, ok := slotArg(c, 4)
	if !ok {
		return
	}
	if s.replySlots(c, slotmove.Asked{Job: string(c.Args[2]), By: string(c.Args[3]), Slots: set}) {
		c.Int(int64(s.configEpoch()))
	}
}
