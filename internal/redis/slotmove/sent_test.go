package slotmove

import (
	"fmt"
	"testing"
	"time"

	"holdfast/internal/redis/cluster/slot"
)

// STATUS of the source tells what has gone out, also when that is told after the
// job's end, and what clients waited for.
func TestSourceTellsWhatWasSent(t *testing.T) {
	s := &stage{t: t, now: time.Unix(0, 0), nodes: map[string]*actor{}, job: fmt.Sprintf("%040x", 0x10b)}
	from, to := s.add("S", ""), s.add("T", "")
	set := &slot.Set{}
	set.AddRange(0, 9)
	to.step(Import{Job: s.job, Source: nodeID("S"), Slots: set})
	s.run(1000)
	s.gossip()
	from.step(Sent{Job: s.job, Keys: 7, Commands: 8, Bytes: 900})
	to.step(Sent{Job: s.job, Keys: 1, Commands: 1, Bytes: 1}) // not its business
	s.wait(5 * time.Second)
	for range 2 {
		j := from.core.Jobs()[0]
		if j.Keys != 7 || j.Commands != 8 || j.Bytes != 900 || j.Phase != Done {
			t.Fatalf("the source's job: %+v", j)
		}
		if j := to.core.Jobs()[0]; j.Commands != 0 || j.Bytes == 1 {
			t.Fatalf("the target's job: %+v", j)
		}
		from.step(Sent{Job: "unknown", Keys: 1, Commands: 1, Bytes: 1})
	}
	from.step(Sent{Job: s.job, Keys: 0, Commands: 9, Bytes: 901})
	if j := from.core.Jobs()[0]; j.Commands != 9 || j.Bytes != 901 {
		t.Fatalf("behind its end: %+v", j)
	}
}
