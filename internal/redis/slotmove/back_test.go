package slotmove

import (
	"fmt"
	"testing"
	"time"

	"holdfast/internal/redis/cluster/slot"
)

// owned is a world in which some slots are of S, all others of T.
type owned struct {
	actor
	ours slot.Set
}

func (o *owned) Owner(n int) string {
	if o.ours.Has(n) {
		return nodeID("S")
	}
	return nodeID("T")
}

// A node goes on to claim what it is about to give until its replicas know of
// that: one that had only heard that the slots are not claimed any more would not
// take them in its place, and nobody would have them.
func TestSlotsAreClaimedUntilGivenIsDurable(t *testing.T) {
	s := &stage{t: t, now: time.Unix(0, 0), nodes: map[string]*actor{}, job: fmt.Sprintf("%040x", 0x10b)}
	s.add("S", "")
	s.add("T", "")
	w := &owned{actor: actor{s: s, name: "S"}}
	w.ours.AddRange(0, 9)
	c := New(w)
	set := w.ours
	for _, in := range []Input{Role{Master: true}, Feed{Job: s.job, Target: nodeID("T"), Slots: &set}, SnapshotSent{s.job}, Synced{s.job}, Near{s.job}, Prepared{s.job}} {
		c.Step(s.now, in)
	}
	if r := c.Table().Get(s.job); r == nil || r.Kind != MarkGiven {
		t.Fatalf("the mark is %v, want GIVEN", r)
	}
	if got := c.Given(); !got.Empty() {
		t.Errorf("slots %s count as given before the mark is durable", got)
	}
	c.Step(s.now, Durable{Job: s.job})
	if got := c.Given().String(); got != "0-9" {
		t.Errorf("slots %q are given, want 0-9", got)
	}
	// A replica has the mark, and an heir.
	r := New(w)
	r.Replay(Mark{Kind: MarkGiven, Job: s.job, Peer: nodeID("T"), Slots: &set})
	for range 2 {
		if got := r.Given().String(); got != "0-9" {
			t.Errorf("slots %q are given, want 0-9", got)
		}
		r.Step(s.now, Role{Master: true})
	}
}

// gave is S, which has given slots 0-9 to T in an earlier life and is at kind.
func gave(t *testing.T, kind MarkKind) (*stage, *owned, *Core) {
	s := &stage{t: t, now: time.Unix(0, 0), nodes: map[string]*actor{}, job: fmt.Sprintf("%040x", 0x10b)}
	s.add("S", "")
	s.add("T", "")
	w := &owned{actor: actor{s: s, name: "S"}}
	set := &slot.Set{}
	set.AddRange(0, 9)
	c := New(w)
	c.Replay(Mark{Kind: kind, Job: s.job, Peer: nodeID("T"), Slots: set})
	return s, w, c
}

// S has given slots to T, and still deletes what it had of them, when some come
// back key by key. T, which sees its claim undone, asks whether they were given:
// S must not say so of those that are its own again, or T claims slots of which
// it has no key any more.
func TestWhatCameBackKeyByKeyIsNotGiven(t *testing.T) {
	s, w, c := gave(t, MarkDrop)
	c.Step(s.now, Role{Master: true})
	w.ours.AddRange(3, 5)
	for _, q := range []struct {
		from, to     int
		given, retry bool
	}{{0, 2, true, false}, {3, 3, false, false}, {3, 5, false, false}, {5, 6, false, true}, {6, 9, true, false}} {
		asked := &slot.Set{}
		asked.AddRange(q.from, q.to)
		given, retry := false, false
		for _, e := range c.Step(s.now, Asked{Job: s.job, By: nodeID("T"), Slots: asked}) {
			switch e := e.(type) {
			case Accepted:
				given = true
			case Refused:
				retry = e.Retry
			}
		}
		if given != q.given || retry != q.retry {
			t.Errorf("slots %d-%d: given %v, to be asked again %v", q.from, q.to, given, retry)
		}
	}
}

// Some of the slots that S has given to T are given back by hand while S still
// keeps the keys. They are served again: what clients write to them must not go
// with the keys of the others.
func TestWhatCameBackByHandIsNotDeleted(t *testing.T) {
	s, w, c := gave(t, MarkGiven)
	c.Step(s.now, Role{Master: true}) // T has claimed them all
	w.ours.AddRange(3, 5)
	var shown, marked, dropped *slot.Set
	for _, in := range []Input{Moved{}, Timer{}} {
		for _, e := range c.Step(s.now, in) {
			switch e := e.(type) {
			case Unstage:
				shown = e.Slots
			case Write:
				marked = e.Slots
			case Drop:
				dropped = e.Slots
			}
		}
		s.now = c.Deadline()
	}
	if shown == nil || shown.String() != "3-5" {
		t.Errorf("slots %v are shown again, want 3-5", shown)
	}
	if marked == nil || marked.String() != "0-2,6-9" || dropped == nil || *dropped != *marked {
		t.Errorf("the keys of slots %v are deleted, marked are %v, want 0-2,6-9", dropped, marked)
	}
	if !c.Holds(0) || c.Holds(4) {
		t.Errorf("keys of slot 0 are the job's: %v, of 4: %v", c.Holds(0), c.Holds(4))
	}
}
