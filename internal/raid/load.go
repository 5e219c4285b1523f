package raid

import (
	"fmt"
	"slices"
	"strings"

	"holdfast/internal/raid/format"
	"holdfast/internal/raid/layout"
)

// Reading what the members hold, without writing anything: the metadata journal
// and the tail log. Opening, check and inspection all go through here.

// source is a member's directory in its slot.
type source struct {
	slot int
	dir  Dir
}

func (s source) path(name string) string { return s.dir.FS.PathJoin(s.dir.Path, name) }

// finding is something that is not as it should be, in one copy.
type finding struct {
	Slot int
	Path string // of the member
	File string
	Off  int64
	Text string
	Torn bool // what a crash may leave: no damage
}

// loaded is what the metadata journals of several members make together.
type loaded struct {
	st       *state
	seq      uint64 // of the last batch
	gen      uint64 // generation it was read from
	maxGen   uint64 // highest number of any file
	maxTail  uint64 // highest number of any segment of the tail log
	findings []finding
	failed   map[int]error // members whose directory cannot be read
}

// genFiles are the copies of one generation.
type genFiles struct {
	slots []source
	ckpt  [][]byte
	logs  [][]byte
}

// parseNumber returns the number in a name of the form prefix-NNNNNNNNNN.suffix.
func parseNumber(name, prefix, suffix string) (n uint64, ok bool) {
	s, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return 0, false
	}
	if s, ok = strings.CutSuffix(s, suffix); !ok || len(s) < 10 || len(s) > 19 {
		return 0, false
	}
	for _, c := range s {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, true
}

const maxMetaFile = 8 << 30

// loadMeta reads the metadata. Of all generations of the newest incarnation it takes the one that reaches the
// highest batch, and of the copies of a log each batch from any copy that has it
// whole. The error is a *CorruptError if something is missing that was durable.
func loadMeta(srcs []source, array format.ID, geo layout.Geometry, chunk int, faults Mutants) (*loaded, error) {
	l := &loaded{failed: map[int]error{}}
	gens := map[uint64]*genFiles{}
	var order []uint64
	for _, s := range srcs {
		list, err := s.dir.FS.List(s.dir.Path)
		if err != nil {
			l.failed[s.slot] = err
			continue
		}
		slices.Sort(list)
		for _, name := range list {
			if n, ok := parseNumber(name, "tail-", ".log"); ok {
				l.maxTail = max(l.maxTail, n)
			}
			n, isCkpt := parseNumber(name, "meta-", ".ckpt")
			if !isCkpt {
				var ok bool
				if n, ok = parseNumber(name, "meta-", ".log"); !ok {
					continue
				}
			}
			l.maxGen = max(l.maxGen, n)
			if gens[n] == nil {
				gens[n] = &genFiles{}
				order = append(order, n)
			}
			l.read(gens[n], s, name, isCkpt)
		}
	}
	slices.Sort(order)
	slices.Reverse(order)
	var best *loaded
	for _, n := range order {
		c, err := l.replay(n, gens[n], array, geo, chunk, faults)
		if err != nil {
			return nil, err
		}
		// A later incarnation first: it has left out what an earlier one wrote and what
		// nobody had when it began, though a member that was away then may hold it, under
		// higher numbers.
		if c != nil && (best == nil || c.st.incarnation > best.st.incarnation ||
			c.st.incarnation == best.st.incarnation && c.seq > best.seq) {
			best = c
		}
	}
	if best == nil {
		return nil, l.noMeta(srcs)
	}
	if err := l.nothingBeyond(best, gens, order, array); err != nil {
		return nil, err
	}
	l.st, l.seq, l.gen = best.st, best.seq, best.gen
	return l, nil
}

func (l *loaded) noMeta(srcs []source) error {
	e := &CorruptError{File: "meta-*.ckpt", Text: "no copy of the metadata is whole on any member"}
	if len(srcs) > 0 {
		e.Member = srcs[0].dir.Path
	}
	for slot, err := range l.failed {
		e.Text += fmt.Sprintf("; member %d: %v", slot, err)
	}
	return e
}

func (l *loaded) find(s source, file string, off int64, torn bool, text string, args ...any) {
	l.findings = append(l.findings, finding{Slot: s.slot, Path: s.dir.Path, File: file, Off: off, Torn: torn, Text: fmt.Sprintf(text, args...)})
}

func (l *loaded) read(g *genFiles, s source, name string, isCkpt bool) {
	b, err := readLimited(s.dir.FS, s.path(name), maxMetaFile)
	if err != nil {
		l.find(s, name, 0, false, "cannot be read: %v", err)
		return
	}
	i := slices.IndexFunc(g.slots, func(o source) bool { return o.slot == s.slot })
	if i < 0 {
		i = len(g.slots)
		g.slots, g.ckpt, g.logs = append(g.slots, s), append(g.ckpt, nil), append(g.logs, nil)
	}
	if isCkpt {
		g.ckpt[i] = b
	} else {
		g.logs[i] = b
	}
}

// parseCheckpoint returns the batches of a checkpoint that is whole.
func parseCheckpoint(b []byte, array format.ID, gen uint64) (h format.MetaHeader, batches [][]format.Record, err error) {
	h, chain, err := format.ParseMetaHeader(b)
	if err != nil {
		return h, nil, err
	}
	if h.Array != array || h.Kind != format.KindCheckpoint || h.Generation != gen {
		return h, nil, fmt.Errorf("header: %w", format.ErrInvalid)
	}
	for at := format.MetaHeaderSize; ; {
		batch, size, next, err := format.ParseBatch(b[at:], chain)
		if err != nil {
			return h, nil, fmt.Errorf("at offset %d: %w", at, err)
		}
		batches = append(batches, batch.Records)
		if batch.End {
			return h, batches, nil
		}
		at, chain = at+size, next
	}
}

// replay makes the state of one generation, or nil if no checkpoint of it is whole.
func (l *loaded) replay(gen uint64, g *genFiles, array format.ID, geo layout.Geometry, chunk int, faults Mutants) (*loaded, error) {
	var c *loaded
	for i, b := range g.ckpt {
		if b == nil {
			continue
		}
		h, batches, err := parseCheckpoint(b, array, gen)
		if err == nil && c == nil {
			st := newState(geo, chunk)
			if err = st.restore(batches); err == nil {
				c = &loaded{st: st, seq: h.Base, gen: gen}
			}
		}
		if err != nil {
			l.find(g.slots[i], ckptName(gen), 0, true, "is not whole: %v", err)
		}
	}
	if c == nil {
		return nil, nil
	}
	return c, l.replayLog(c, g, array, faults)
}

// replayLog applies the longest row of batches that the copies of a log hold.
func (l *loaded) replayLog(c *loaded, g *genFiles, array format.ID, faults Mutants) error {
	type copyOf struct {
		src  source
		b    []byte
		done bool
	}
	var copies []copyOf
	var chain uint32
	for i, b := range g.logs {
		h, sum, err := format.ParseMetaHeader(b)
		if err == nil && (h.Array != array || h.Kind != format.KindLog || h.Generation != c.gen || h.Base != c.base()) {
			err = format.ErrInvalid
		}
		if err != nil {
			if b != nil {
				l.find(g.slots[i], logName(c.gen), 0, true, "header: %v", err)
			}
			continue
		}
		copies, chain = append(copies, copyOf{src: g.slots[i], b: b}), sum
	}
	if faults.ShortestCopy && len(copies) > 1 {
		slices.SortStableFunc(copies, func(a, b copyOf) int { return len(a.b) - len(b.b) })
		copies = copies[:1]
	}
	at := format.MetaHeaderSize
	for {
		var found *format.Batch
		var size int
		var next uint32
		for i := range copies {
			k := &copies[i]
			if k.done || at >= len(k.b) {
				continue
			}
			b, n, sum, err := format.ParseBatch(k.b[at:], chain)
			if err != nil || b.Seq != c.seq+1 {
				continue
			}
			if found == nil {
				found, size, next = &b, n, sum
			}
		}
		for i := range copies {
			k := &copies[i]
			if k.done || at >= len(k.b) {
				continue
			}
			if _, _, _, err := format.ParseBatch(k.b[at:], chain); err != nil && found != nil {
				l.find(k.src, logName(c.gen), int64(at), at+size > len(k.b), "batch %d: %v", c.seq+1, err)
			}
		}
		if found == nil {
			break
		}
		for _, r := range found.Records {
			if err := c.st.apply(r); err != nil {
				return &CorruptError{Member: copies[0].src.dir.Path, File: logName(c.gen), Off: int64(at), Text: err.Error()}
			}
		}
		c.st.dropped = nil
		c.seq, at, chain = found.Seq, at+size, next
	}
	for i := range copies {
		if s := syncedBeyond(copies[i].b[min(at, len(copies[i].b)):]); s > c.seq {
			return &CorruptError{Member: copies[i].src.dir.Path, File: logName(c.gen), Off: int64(at),
				Text: fmt.Sprintf("no member holds batch %d of the metadata whole, and batches up to %d were durable", c.seq+1, s)}
		}
	}
	return nil
}

// base is the number of the last batch that the checkpoint stands for, before a log
// was replayed onto it.
func (l *loaded) base() uint64 { return l.seq }

// syncedBeyond returns the highest number of a batch that was durable, as the
// headers of batches tell that stand anywhere in b.
func syncedBeyond(b []byte) (top uint64) {
	for at := 0; at+format.BatchHeader <= len(b); at += 8 {
		if h, _, _, err := format.ParseBatchHeader(b[at:]); err == nil {
			top = max(top, h.Synced)
		}
	}
	return top
}

// nothingBeyond refuses if a log tells of batches that were durable and that what
// was taken does not reach: its checkpoint is damaged on all members.
func (l *loaded) nothingBeyond(best *loaded, gens map[uint64]*genFiles, order []uint64, array format.ID) error {
	for _, n := range order {
		if n <= best.gen {
			break
		}
		for i, b := range gens[n].logs {
			h, _, err := format.ParseMetaHeader(b)
			if err != nil || h.Array != array || len(b) <= format.MetaHeaderSize {
				continue
			}
			if s := syncedBeyond(b[format.MetaHeaderSize:]); s > best.seq {
				return &CorruptError{Member: gens[n].slots[i].dir.Path, File: ckptName(n),
					Text: fmt.Sprintf("no member holds the checkpoint whole, and batches up to %d were durable; %d can be had", s, best.seq)}
			}
		}
	}
	return nil
}

// extent is a piece of a file that the tail log holds.
type extent struct {
	off  int64
	data []byte
}

func (e *extent) end() int64 { return e.off + int64(len(e.data)) }

// loadTail reads the segment that the state names and returns the pieces of files
// in it, by file, in order. The error is a *CorruptError if something is missing
// that was durable.
func loadTail(srcs []source, array format.ID, t format.Tail, faults Mutants) (map[uint64][]extent, []finding, error) {
	out := map[uint64][]extent{}
	if t.Segment == 0 {
		return out, nil, nil
	}
	l := &loaded{}
	var copies [][]byte
	var from []source
	var chain uint32
	for _, s := range srcs {
		if t.Members>>s.slot&1 == 0 {
			continue
		}
		b, err := readLimited(s.dir.FS, s.path(tailName(t.Segment)), maxMetaFile)
		if err == nil {
			var h format.TailHeader
			var sum uint32
			if h, sum, err = format.ParseTailHeader(b); err == nil && (h.Array != array || h.Segment != t.Segment) {
				err = format.ErrInvalid
			}
			if err == nil {
				copies, from, chain = append(copies, b), append(from, s), sum
				continue
			}
		}
		l.find(s, tailName(t.Segment), 0, false, "cannot be read: %v", err)
	}
	if len(copies) == 0 {
		e := &CorruptError{File: tailName(t.Segment), Text: "no member that carries the tail log holds it"}
		for _, f := range l.findings {
			e.Member = f.Path
			e.Text += fmt.Sprintf("; %s %s", f.Path, f.Text)
		}
		return out, l.findings, e
	}
	if faults.ShortestCopy {
		i := 0
		for k := range copies {
			if len(copies[k]) < len(copies[i]) {
				i = k
			}
		}
		copies, from = copies[i:i+1], from[i:i+1]
	}
	return out, l.findings, l.mergeTail(out, copies, from, t, chain)
}

// mergeTail takes record after record from any copy that has it whole. Where
// copies differ, after a write that one of them had no room for, the later one
// counts.
func (l *loaded) mergeTail(out map[uint64][]extent, copies [][]byte, from []source, t format.Tail, chain uint32) error {
	at, last := format.TailSegmentHeader, uint64(0)
	for {
		var best *format.TailRecord
		var size int
		var next uint32
		for _, b := range copies {
			if at >= len(b) {
				continue
			}
			r, n, sum, err := format.ParseTailRecord(b[at:], chain)
			if err == nil && r.Segment == t.Segment && r.Seq > last && (best == nil || r.Seq > best.Seq) {
				best, size, next = &r, n, sum
			}
		}
		if best == nil {
			break
		}
		for i, b := range copies {
			if at >= len(b) {
				continue
			}
			if r, _, _, err := format.ParseTailRecord(b[at:], chain); err != nil || r.Seq != best.Seq {
				l.find(from[i], tailName(t.Segment), int64(at), at+size > len(b), "record %d is not whole", best.Seq)
			}
		}
		addExtent(out, best)
		at, last, chain = at+size, best.Seq, next
	}
	if h, _, err := format.ParseTailHeader(copies[0]); err == nil && last < uint64(h.Begin) {
		return &CorruptError{Member: from[0].dir.Path, File: tailName(t.Segment), Off: int64(at),
			Text: fmt.Sprintf("no copy holds record %d whole, and the segment began with %d durable ones", last+1, h.Begin)}
	}
	for i, b := range copies {
		if s := tailSyncedBeyond(b[min(at, len(b)):], t.Segment); s > last {
			return &CorruptError{Member: from[i].dir.Path, File: tailName(t.Segment), Off: int64(at),
				Text: fmt.Sprintf("no copy holds the record after number %d whole, and records up to %d were durable", last, s)}
		}
	}
	return nil
}

func tailSyncedBeyond(b []byte, seg uint64) (top uint64) {
	for at := 0; at+format.TailRecordHeader <= len(b); at += 8 {
		if r, _, _, err := format.ParseTailRecordHeader(b[at:]); err == nil && r.Segment == seg {
			top = max(top, r.Synced)
		}
	}
	return top
}

// addExtent notes what a record says: from its offset on the file continues with the
// payload, whatever earlier records said.
func addExtent(out map[uint64][]extent, r *format.TailRecord) {
	list := out[r.File]
	off := int64(r.Offset)
	for len(list) > 0 && list[len(list)-1].off >= off {
		list = list[:len(list)-1]
	}
	if n := len(list); n > 0 && list[n-1].end() >= off {
		e := &list[n-1]
		e.data = append(e.data[:off-e.off:off-e.off], r.Payload...)
	} else {
		list = append(list, extent{off: off, data: slices.Clone(r.Payload)})
	}
	out[r.File] = list
}
