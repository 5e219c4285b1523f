package raid

import (
	"context"
	"errors"
	"fmt"
	"time"

	"holdfast/internal/raid/format"
)

// ScrubOptions is how a scrub goes.
type ScrubOptions struct {
	Restart  bool           // begin anew, also if the last pass was interrupted
	Rate     int64          // bytes per second read from each member; 0: as in Options, negative: unlimited
	Progress func(Progress) // called now and then, without locks held
}

// ScrubResult is what a scrub found and did. A second scrub after one that
// returned without error and with Lost == 0 finds nothing, unless something was
// damaged in between.
type ScrubResult struct {
	Resumed     bool  `json:"resumed"`     // it went on where an earlier pass was interrupted
	Bytes       int64 `json:"bytes"`       // read and verified, all members together
	Stripes     int64 `json:"stripes"`     // looked at
	Chunks      int64 `json:"chunks"`      // verified
	Repaired    int64 `json:"repaired"`    // chunks that were bad or lacking, and written anew
	Parity      int64 `json:"parity"`      // of these: whole by their checksum, but not the parity of the data
	Lost        int64 `json:"lost"`        // chunks that could not be reconstructed
	Metadata    int64 `json:"metadata"`    // copies of the metadata journal that were damaged, and written anew
	Tails       int64 `json:"tails"`       // copies of the tail log, likewise
	Superblocks int64 `json:"superblocks"` // copies of superblocks, likewise
	// Problems names up to maxProblems of what was found.
	Problems []string `json:"problems,omitempty"`
}

// Found returns how many things were not as they should be.
func (r *ScrubResult) Found() int64 {
	return r.Repaired + r.Lost + r.Metadata + r.Tails + r.Superblocks
}

// maxProblems bounds the texts that a result keeps.
const maxProblems = 100

func (r *ScrubResult) problem(format string, args ...any) {
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
}

// scrubSave is after how many bytes the place of a scrub is noted durably: what a
// crash makes it read again.
const scrubSave = 256 << 20

// ErrBusy is the error of a scrub while one is running, and of a rebuild likewise.
var ErrBusy = errors.New("already running")

// Scrub reads everything on all live members, compares it with the seals, checks
// that parity belongs to the data, and writes anew what is bad or lacking:
// superblocks, metadata journal, tail log, then stripe after stripe. It goes on
// where an earlier pass was interrupted, by ctx, by a crash or by Close, unless
// Restart is set. Reading, writing and syncing go on beside it; what is written
// meanwhile is not looked at again.
//
// The error is ctx's, or that of an array that has failed or is closed. Chunks
// that cannot be reconstructed are no error: they are counted in Lost, and events
// name them.
func (a *Array) Scrub(ctx context.Context, opts ScrubOptions) (ScrubResult, error) {
	if a.opts.ReadOnly {
		return ScrubResult{}, ErrReadOnly
	}
	if !a.scrubbing.TryLock() {
		return ScrubResult{}, fmt.Errorf("scrub: %w", ErrBusy)
	}
	defer a.scrubbing.Unlock()
	ctx, done, err := a.job(ctx)
	if err != nil {
		return ScrubResult{}, err
	}
	defer done()
	s := &scrubber{a: a, ctx: ctx, opts: opts}
	if s.opts.Rate == 0 {
		s.opts.Rate = a.opts.ScrubRate
	}
	err = s.run()
	a.setProgress(&a.onScrub, nil)
	return s.res, err
}

type scrubber struct {
	a     *Array
	ctx   context.Context
	opts  ScrubOptions
	res   ScrubResult
	state format.Scrub // as in the metadata
	walk  *walker
	x     *examiner
	limit *throttle
	total int64 // bytes of all columns in use, for progress
	saved int64 // res.Bytes at the last note
}

func (s *scrubber) run() error {
	s.begin()
	s.limit = newThrottle(s.opts.Rate, time.Now)
	s.x = s.a.newExaminer()
	if err := s.copies(); err != nil {
		return err
	}
	err := s.stripes()
	if err != nil {
		// So that the next scrub goes on from here; if this fails too, it goes on from
		// an earlier place.
		return errors.Join(err, s.note())
	}
	return s.end()
}

// begin takes up an interrupted pass, or starts one.
func (s *scrubber) begin() {
	s.a.mu.Lock()
	s.state = s.a.st.scrub
	s.a.mu.Unlock()
	if s.state.Running && !s.opts.Restart {
		s.res.Resumed = true
		return
	}
	s.state = format.Scrub{Running: true, Started: s.a.opts.Now().UnixNano(), LastFull: s.state.LastFull}
}

// copies looks at what stands on several members as equal copies.
func (s *scrubber) copies() error {
	supers, err := s.a.scrubSuperblocks(s.res.problem)
	s.res.Superblocks = supers
	if err != nil {
		return err
	}
	metas, err := s.a.scrubMetadata(s.res.problem)
	s.res.Metadata = metas
	if err != nil {
		return err
	}
	tails, err := s.a.scrubTail(s.res.problem)
	s.res.Tails = tails
	return err
}

// stripes walks over all sealed stripes from the noted place on.
func (s *scrubber) stripes() error {
	s.walk = s.a.newWalker(s.state.File, s.state.Stripe)
	defer s.walk.close()
	s.total = int64(s.state.Bytes) + s.a.columnBytes(s.state.File)
	for s.walk.next() {
		if err := s.one(); err != nil {
			return err
		}
		s.walk.passed()
		s.state.File, s.state.Stripe = s.walk.passedFile, s.walk.passedStripe
		if s.res.Bytes-s.saved >= scrubSave {
			if err := s.note(); err != nil {
				return err
			}
		}
	}
	return nil
}

// one verifies and repairs one stripe.
func (s *scrubber) one() error {
	w := s.walk
	live := s.a.liveSet()
	per := int64(format.HeaderArea(s.a.chunk) + s.a.geo.ChunkLength(0, int(w.rec.Length), s.a.chunk))
	if err := s.limit.take(s.ctx, per); err != nil {
		return err
	}
	e := s.x.examine(w.file, w.stripe, w.offset, &w.rec, live)
	if s.x.whole(e) {
		if err := s.x.verifyParity(e); err != nil {
			return err
		}
	}
	s.res.Stripes++
	s.res.Bytes += e.bytes
	s.state.Bytes += uint64(e.bytes)
	verified := int64(popcount(e.rec.Present&live)) - int64(len(e.faults))
	s.res.Chunks += verified
	s.state.Chunks += uint64(verified)
	s.progress("data")
	if len(e.faults) == 0 && e.absent&live == 0 {
		return nil
	}
	return s.repair(e, live)
}

// repair writes anew what examine found bad or absent on live members.
func (s *scrubber) repair(e *exam, live uint32) error {
	for _, f := range e.faults {
		s.a.countFault(f.member, f.err)
	}
	fixed, lost, err := s.a.mend(s.x, e, s.walk.name, live)
	if errors.Is(err, errStripeGone) {
		return nil // the file was removed meanwhile, and its chunks with it
	}
	name := s.walk.name
	for _, f := range e.faults {
		s.res.problem("%s: stripe %d at byte %d: chunk on member %d %v", name, e.stripe, e.offset, f.member, f.err)
		if errors.Is(f.err, errParity) {
			s.res.Parity++
		}
	}
	s.res.Repaired += int64(fixed)
	s.res.Lost += int64(lost)
	s.state.Repaired += uint64(fixed)
	s.state.Lost += uint64(lost)
	return err
}

func (s *scrubber) progress(stage string) {
	p := Progress{Done: int64(s.state.Bytes), Total: max(s.total, int64(s.state.Bytes)), Stage: stage}
	s.a.setProgress(&s.a.onScrub, &p)
	if s.opts.Progress != nil {
		s.opts.Progress(p)
	}
}

// note makes the place of the scrub durable.
func (s *scrubber) note() error {
	s.saved = s.res.Bytes
	return s.a.commit(s.state)
}

// end notes that the pass is through, for the array and for each live member.
func (s *scrubber) end() error {
	now := s.a.opts.Now()
	lost := s.state.Lost
	s.state = format.Scrub{
		Started: s.state.Started, LastFull: now.UnixNano(), Bytes: s.state.Bytes, Chunks: s.state.Chunks,
		Repaired: s.state.Repaired, Lost: lost,
	}
	recs := append(s.a.scrubbedRecords(now), s.state)
	if err := s.a.commit(recs...); err != nil {
		return err
	}
	text := fmt.Sprintf("%d stripes, %d bytes verified, %d chunks repaired", s.res.Stripes, s.res.Bytes, s.res.Repaired)
	if n := s.res.Metadata + s.res.Tails + s.res.Superblocks; n > 0 {
		text += fmt.Sprintf(", %d copies of metadata, tail log or superblocks written anew", n)
	}
	if s.res.Lost > 0 {
		text += fmt.Sprintf(", %d chunks could not be repaired", s.res.Lost)
	}
	s.a.event(Event{Kind: EventScrubDone, Member: -1, Text: text})
	return nil
}
