package raid

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"holdfast/internal/raid/format"
)

// DumpOptions selects what Dump prints. With none of the first three set it
// prints all three.
type DumpOptions struct {
	Superblocks bool
	Metadata    bool // every batch of the metadata journal with its records
	Tail        bool // every record of the tail log, without its payload
	// File prints the stripes of this file of the array, chunk by chunk, as they are
	// on the members.
	File string
}

// Dump prints what stands on the members, for people. It reads only, takes no
// lock, and prints damage where it is rather than stop at it; the error is one of
// w, or says that File is not there.
func Dump(o Options, w io.Writer, d DumpOptions) error {
	out := &dumper{w: bufio.NewWriter(w)}
	if !d.Superblocks && !d.Metadata && !d.Tail && d.File == "" {
		d.Superblocks, d.Metadata, d.Tail = true, true, true
	}
	for _, dir := range append(slices.Clone(o.Members), o.Spares...) {
		out.printf("member %s\n", dir.Path)
		if d.Superblocks {
			out.superblocks(dir)
		}
		names, err := dir.FS.List(dir.Path)
		if err != nil {
			out.printf("  cannot be listed: %v\n", err)
			continue
		}
		slices.Sort(names)
		for _, name := range names {
			switch {
			case d.Metadata && strings.HasPrefix(name, "meta-"):
				out.metadata(dir, name)
			case d.Tail && strings.HasPrefix(name, "tail-"):
				out.tail(dir, name)
			}
		}
	}
	var err error
	if d.File != "" {
		err = out.file(o, d.File)
	}
	return errors.Join(err, out.w.Flush())
}

type dumper struct{ w *bufio.Writer }

// printf ignores the error: the writer keeps it until Flush.
func (d *dumper) printf(format string, args ...any) { fmt.Fprintf(d.w, format, args...) }

func nanos(ns int64) string {
	if ns == 0 {
		return "never"
	}
	return time.Unix(0, ns).UTC().Format(time.RFC3339Nano)
}

func (d *dumper) superblocks(dir Dir) {
	var first string
	for i := range superCopies {
		name := superName(i)
		b, err := readLimited(dir.FS, dir.FS.PathJoin(dir.Path, name), format.MaxSuperblock)
		if err != nil {
			d.printf("  %s: %v\n", name, err)
			continue
		}
		sb, err := format.DecodeSuperblock(b)
		if err != nil {
			d.printf("  %s: %v\n", name, err)
			continue
		}
		text := superblockText(sb)
		if text == first {
			d.printf("  %s: the same\n", name)
			continue
		}
		if first == "" {
			first = text
		}
		d.printf("  %s:\n%s", name, text)
	}
}

func superblockText(sb *format.Superblock) string {
	var b strings.Builder
	slot := fmt.Sprint(sb.Slot)
	if sb.Slot < 0 {
		slot = "spare"
	}
	fmt.Fprintf(&b, "    array %s, member %s, slot %s\n", sb.Array, sb.Member, slot)
	fmt.Fprintf(&b, "    level %d, %d members, chunk %d, count %d, nonce %016x\n", sb.Level, sb.Width(), sb.Chunk, sb.Count, sb.Nonce)
	fmt.Fprintf(&b, "    created %s, %d earlier claims\n", nanos(sb.Created), len(sb.Past))
	for i, m := range sb.Members {
		fmt.Fprintf(&b, "    slot %d: %s %s %s\n", i, m.ID, m.State, m.Path)
	}
	for _, m := range sb.Spares {
		fmt.Fprintf(&b, "    spare: %s %s\n", m.ID, m.Path)
	}
	return b.String()
}

// metadata prints one file of the metadata journal. It is read as a whole: a log
// is checkpointed at a few megabytes.
func (d *dumper) metadata(dir Dir, name string) {
	b, err := readLimited(dir.FS, dir.FS.PathJoin(dir.Path, name), maxMetaFile)
	if err != nil {
		d.printf("  %s: %v\n", name, err)
		return
	}
	h, chain, err := format.ParseMetaHeader(b)
	if err != nil {
		d.printf("  %s: %v\n", name, err)
		return
	}
	kind := "log"
	if h.Kind == format.KindCheckpoint {
		kind = "checkpoint"
	}
	d.printf("  %s: %s, generation %d, after batch %d, %d bytes\n", name, kind, h.Generation, h.Base, len(b))
	for at := format.MetaHeaderSize; at < len(b); {
		batch, n, next, err := format.ParseBatch(b[at:], chain)
		if err != nil {
			d.printf("    offset %d: %v; %d bytes are left\n", at, err, len(b)-at)
			return
		}
		d.printf("    offset %d: batch %d, %d bytes, synced up to %d\n", at, batch.Seq, n, batch.Synced)
		for _, r := range batch.Records {
			d.printf("      %s\n", recordText(r))
		}
		if batch.End {
			d.printf("      end of the checkpoint\n")
		}
		at, chain = at+n, next
	}
}

func recordText(r format.Record) string {
	switch r := r.(type) {
	case format.Create:
		return fmt.Sprintf("CREATE %q file %d at %s", r.Path, r.File, nanos(r.Time))
	case format.Mkdir:
		return fmt.Sprintf("MKDIR %q", r.Path)
	case format.Rename:
		return fmt.Sprintf("RENAME %q to %q", r.From, r.To)
	case format.Remove:
		return fmt.Sprintf("REMOVE %q", r.Path)
	case format.RemoveAll:
		return fmt.Sprintf("RMALL %q", r.Path)
	case format.Link:
		return fmt.Sprintf("LINK %q as %q", r.From, r.To)
	case format.Seal:
		var b strings.Builder
		fmt.Fprintf(&b, "SEAL file %d", r.File)
		for i := range r.Stripes {
			fmt.Fprintf(&b, "\n        %s", stripeText(r.From+uint64(i), &r.Stripes[i]))
		}
		return b.String()
	case format.Repair:
		return fmt.Sprintf("REPAIR file %d stripe %d member %d slot %d generation %x checksum %08x", r.File, r.Stripe, r.Member, r.Slot, r.Gen, r.Sum)
	case format.Lost:
		return fmt.Sprintf("LOST file %d stripe %d member %d", r.File, r.Stripe, r.Member)
	case format.Tail:
		return fmt.Sprintf("TAIL segment %d on members %s", r.Segment, slotsText(r.Members))
	case format.Incarnation:
		return fmt.Sprintf("INCARNATION %d", r.Number)
	case format.Reset:
		return fmt.Sprintf("RESET member %d", r.Member)
	case format.Scrub:
		return fmt.Sprintf("SCRUB running %t at file %d stripe %d, started %s, last whole pass %s, %d bytes, %d chunks, %d repaired, %d lost",
			r.Running, r.File, r.Stripe, nanos(r.Started), nanos(r.LastFull), r.Bytes, r.Chunks, r.Repaired, r.Lost)
	case format.Counters:
		return fmt.Sprintf("COUNTERS member %d: errors %d read, %d write, %d checksum; %d healed; scrubbed %s",
			r.Member, r.ReadErrors, r.WriteErrors, r.ChecksumErrors, r.Healed, nanos(r.LastScrub))
	case format.Rebuild:
		return fmt.Sprintf("REBUILD member %d up to file %d stripe %d", r.Member, r.File, r.Stripe)
	case format.Next:
		return fmt.Sprintf("NEXT file %d", r.File)
	case format.Closed:
		return fmt.Sprintf("CLOSED at %s", nanos(r.Time))
	}
	return fmt.Sprintf("%T", r)
}

func stripeText(n uint64, s *format.Stripe) string {
	var b strings.Builder
	fmt.Fprintf(&b, "stripe %d: %d bytes, generation %x", n, s.Length, s.Gen)
	for m, c := range s.Chunks {
		if s.Has(m) {
			fmt.Fprintf(&b, ", member %d slot %d %08x", m, c.Slot, c.Sum)
		}
	}
	return b.String()
}

func slotsText(set uint32) string {
	var list []string
	for m := range slots(set) {
		list = append(list, fmt.Sprint(m))
	}
	return strings.Join(list, " ")
}

// tail prints a segment of the tail log, record by record, without holding more
// than one of them.
func (d *dumper) tail(dir Dir, name string) {
	f, err := dir.FS.Open(dir.FS.PathJoin(dir.Path, name))
	if err != nil {
		d.printf("  %s: %v\n", name, err)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		d.printf("  %s: %v\n", name, err)
		return
	}
	b := make([]byte, format.TailSegmentHeader)
	if _, err := f.ReadAt(b, 0); err != nil {
		d.printf("  %s: header: %v\n", name, err)
		return
	}
	h, chain, err := format.ParseTailHeader(b)
	if err != nil {
		d.printf("  %s: %v\n", name, err)
		return
	}
	d.printf("  %s: segment %d on members %s, incarnation %d, %d bytes\n", name, h.Segment, slotsText(h.Members), h.Incarnation, info.Size())
	for at := int64(format.TailSegmentHeader); at < info.Size(); {
		r, n, next, err := readTailRecord(f, at, info.Size(), chain)
		if err != nil {
			d.printf("    offset %d: %v; %d bytes are left\n", at, err, info.Size()-at)
			return
		}
		d.printf("    offset %d: record %d, file %d, bytes %d to %d, synced up to %d\n", at, r.Seq, r.File, r.Offset, r.Offset+uint64(len(r.Payload)), r.Synced)
		at, chain = at+n, next
	}
}

// readTailRecord reads the record at an offset of a segment of the given size.
func readTailRecord(f io.ReaderAt, at, size int64, chain uint32) (format.TailRecord, int64, uint32, error) {
	head := make([]byte, min(format.TailRecordHeader, size-at))
	if _, err := f.ReadAt(head, at); err != nil {
		return format.TailRecord{}, 0, 0, err
	}
	r, n, _, err := format.ParseTailRecordHeader(head)
	if err != nil {
		return r, 0, 0, err
	}
	if n > size-at {
		return r, 0, 0, format.ErrShort
	}
	b := make([]byte, n)
	if _, err := f.ReadAt(b, at); err != nil {
		return r, 0, 0, err
	}
	r, _, next, err := format.ParseTailRecord(b, chain)
	return r, n, next, err
}

// file prints a file of the array as its members hold it.
func (d *dumper) file(o Options, name string) error {
	var r CheckReport
	p := takePicture(o, &r)
	if p == nil || p.st == nil {
		for _, f := range r.Findings {
			d.printf("%s\n", f)
		}
		return errors.New("the metadata cannot be read")
	}
	ino := p.st.names[clean(name)]
	if ino == nil {
		return errors.Join(fmt.Errorf("%s: %w", name, fs.ErrNotExist), p.close())
	}
	d.printf("file %q: id %d, created %s, %d bytes in %d stripes\n", name, ino.id, nanos(ino.time), ino.sealedEnd(), len(ino.stripes))
	x := newExaminer(p.id, p.geo, p.code, p.chunk, p.readColumn)
	for n := range ino.stripes {
		st, chunks := ino.stripe(n)
		rec := format.Stripe{Gen: st.gen, Length: st.length, Present: st.present, Chunks: chunks}
		e := x.examine(ino.id, uint64(n), st.off, &rec, p.live)
		d.printf("  stripe %d at byte %d: %d bytes, generation %x\n", n, st.off, st.length, st.gen)
		for index := range p.geo.Width() {
			d.chunk(p, x, e, index)
		}
	}
	tails, _, err := loadTail(p.sources(), p.id, p.st.tail, Mutants{})
	for _, t := range tails[ino.id] {
		d.printf("  tail log: bytes %d to %d\n", t.off, t.end())
	}
	return errors.Join(err, p.close())
}

func (d *dumper) chunk(p *picture, x *examiner, e *exam, index int) {
	m := x.member(e, index)
	kind := "data"
	switch {
	case p.geo.Level() == 1:
		kind = "copy"
	case index >= p.geo.Data():
		kind = string("PQ"[index-p.geo.Data()])
	}
	n := x.length(e, index)
	switch {
	case n == 0:
		return
	case e.absent>>m&1 != 0:
		d.printf("    %s %d on member %d: absent\n", kind, index, m)
	default:
		c := e.rec.Chunks[m]
		text := "as sealed"
		if err := e.trouble(index, m); err != nil {
			text = err.Error()
		} else if e.good>>index&1 == 0 {
			text = "not asked: its member is not there"
		}
		d.printf("    %s %d on member %d: slot %d, %d bytes, checksum %08x: %s\n", kind, index, m, c.Slot, n, c.Sum, text)
	}
}
