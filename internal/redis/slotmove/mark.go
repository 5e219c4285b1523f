package slotmove

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"holdfast/internal/redis/cluster/slot"
)

// MarkKind says what has become of a job.
type MarkKind uint8

// Kinds of marks.
const (
	MarkImport MarkKind = iota + 1 // target: the job begins
	MarkReady                      // target: everything is here; only the source knows who owns the slots
	MarkGiven                      // source: the slots are the target's
	MarkDrop                       // either: the keys of the slots are being deleted
	MarkDone                       // either: nothing is left of the job
)

var markNames = [...]string{MarkImport: "IMPORT", MarkReady: "READY", MarkGiven: "GIVEN", MarkDrop: "DROP", MarkDone: "DONE"}

func (k MarkKind) String() string {
	if int(k) < len(markNames) {
		return markNames[k]
	}
	return ""
}

// Mark is a change of a job that outlives the process: a record of the journal,
// and of the replication stream.
type Mark struct {
	Kind  MarkKind
	Job   string    // 40 hexadecimal digits
	Peer  string    // node id of the other end, where the kind begins a job
	Slots *slot.Set // where the kind begins a job
}

// begins reports whether marks of the kind name peer and slots.
func (k MarkKind) begins() bool { return k == MarkImport || k == MarkGiven || k == MarkDrop }

// Args returns the mark as the arguments of HOLDFAST.SLOTS MARK.
func (m Mark) Args() []string {
	args := []string{m.Kind.String(), m.Job}
	if m.Kind.begins() {
		args = append(args, m.Peer, m.Slots.String())
	}
	return args
}

var errBadMark = errors.New("invalid mark of a slot move")

// ParseMark is the opposite of Args.
func ParseMark(args []string) (Mark, error) {
	if len(args) < 2 || !isID(args[1]) {
		return Mark{}, errBadMark
	}
	m := Mark{Job: args[1]}
	i := slices.Index(markNames[:], strings.ToUpper(args[0]))
	if i < 1 {
		return Mark{}, errBadMark
	}
	m.Kind = MarkKind(i)
	if !m.Kind.begins() {
		if len(args) != 2 {
			return Mark{}, errBadMark
		}
		return m, nil
	}
	if len(args) != 4 || !isID(args[2]) {
		return Mark{}, errBadMark
	}
	set, err := slot.ParseSet(args[3])
	if err != nil || set.Empty() {
		return Mark{}, errBadMark
	}
	m.Peer, m.Slots = args[2], &set
	return m, nil
}

// isID reports whether s is a node or job id.
func isID(s string) bool {
	return len(s) == 40 && strings.Trim(s, "0123456789abcdef") == ""
}

// Record is what the marks say of a job: the newest of them.
type Record = Mark

// maxRecords bounds the table: there is one running job in each direction, and
// others whose keys are being deleted.
const maxRecords = 1024

// Table holds the jobs that are not over, as the marks tell. It is the part of
// the state that a crash or a failover must not lose.
type Table struct{ jobs map[string]*Record }

// Apply takes a mark. One about an unknown job changes nothing.
func (t *Table) Apply(m Mark) {
	r := t.jobs[m.Job]
	switch {
	case m.Kind == MarkDone:
		delete(t.jobs, m.Job)
	case r != nil:
		r.Kind = m.Kind // the peer of a job never changes, its slots become fewer at most
		if m.Kind.begins() && m.Slots.In(r.Slots) {
			r.Slots = m.Slots
		}
	case m.Kind.begins() && len(t.jobs) < maxRecords:
		if t.jobs == nil {
			t.jobs = make(map[string]*Record)
		}
		t.jobs[m.Job] = &Record{Kind: m.Kind, Job: m.Job, Peer: m.Peer, Slots: m.Slots}
	}
}

// Get returns a job, nil if there is none.
func (t *Table) Get(job string) *Record { return t.jobs[job] }

// Len is the number of jobs.
func (t *Table) Len() int { return len(t.jobs) }

// All returns the jobs by id. The records are the table's.
func (t *Table) All() []*Record {
	out := make([]*Record, 0, len(t.jobs))
	for _, r := range t.jobs {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b *Record) int { return strings.Compare(a.Job, b.Job) })
	return out
}

// String is the table as text, for a checkpoint; "" when it is empty.
func (t *Table) String() string {
	var b strings.Builder
	for _, r := range t.All() {
		fmt.Fprintf(&b, "%s %s %s %s\n", r.Kind, r.Job, r.Peer, r.Slots)
	}
	return b.String()
}

// ParseTable is the opposite of String.
func ParseTable(text string) (*Table, error) {
	t := &Table{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 4 || !isID(f[1]) || !isID(f[2]) || len(t.jobs) == maxRecords {
			return nil, errBadMark
		}
		kind := MarkKind(max(slices.Index(markNames[:], f[0]), 0))
		set, err := slot.ParseSet(f[3])
		if kind == 0 || kind == MarkDone || err != nil || set.Empty() {
			return nil, errBadMark
		}
		if t.jobs == nil {
			t.jobs = make(map[string]*Record)
		}
		t.jobs[f[1]] = &Record{Kind: kind, Job: f[1], Peer: f[2], Slots: &set}
	}
	return t, nil
}

// Slots returns the slots of all jobs; nil if there are none.
func (t *Table) Slots() *slot.Set {
	if len(t.jobs) == 0 {
		return nil
	}
	out := &slot.Set{}
	for _, r := range t.jobs {
		out.AddAll(r.Slots)
	}
	return out
}
