package journal

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Manifest says which generation is current and what a start needs to know
// before it reads the log. It is kept as text in two copies, each written to a
// temporary file, synced and renamed, the second only when the first is durable.
type Manifest struct {
	Seq           uint64 // counts manifests; the higher of two copies is in force
	Generation    uint64
	Base          uint64    // position of the generation's first stream byte
	HistoryIDs    [2]string // replid, replid2
	SecondEnd     uint64    // replid2 is valid below this position
	Checkpoint    string    // file name in the directory, or ""
	CheckpointPos uint64    // the checkpoint holds everything below this position
	Segment       uint64    // a segment of at least this number must be there with its beginning
}

const (
	manifestMagic   = "holdfast journal manifest 1"
	manifestMaxSize = 4096
	lockName        = "journal.lock"
	tempSuffix      = ".tmp"
)

var manifestNames = [2]string{"journal.manifest-a", "journal.manifest-b"}

func (m *Manifest) encode() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\nseq %d\ngeneration %d\nbase %d\nreplid %q\nreplid2 %q\nsecond-end %d\ncheckpoint %q\ncheckpoint-pos %d\nsegment %d\n",
		manifestMagic, m.Seq, m.Generation, m.Base, m.HistoryIDs[0], m.HistoryIDs[1], m.SecondEnd, m.Checkpoint, m.CheckpointPos, m.Segment)
	fmt.Fprintf(&b, "crc32c %08x\n", crc32.Checksum(b.Bytes(), castagnoli))
	return b.Bytes()
}

// decodeManifest returns the manifest that b spells, and refuses every other text.
func decodeManifest(b []byte) (Manifest, error) {
	var m Manifest
	at := bytes.LastIndex(b, []byte("crc32c "))
	if at < 0 || !bytes.HasPrefix(b, []byte(manifestMagic+"\n")) {
		return m, errors.New("not a manifest")
	}
	if string(b[at:]) != fmt.Sprintf("crc32c %08x\n", crc32.Checksum(b[:at], castagnoli)) {
		return m, errors.New("checksum does not match")
	}
	_, err := fmt.Sscanf(string(b[len(manifestMagic)+1:at]),
		"seq %d\ngeneration %d\nbase %d\nreplid %q\nreplid2 %q\nsecond-end %d\ncheckpoint %q\ncheckpoint-pos %d\nsegment %d\n",
		&m.Seq, &m.Generation, &m.Base, &m.HistoryIDs[0], &m.HistoryIDs[1], &m.SecondEnd, &m.Checkpoint, &m.CheckpointPos, &m.Segment)
	if err != nil {
		return m, fmt.Errorf("fields: %w", err)
	}
	return m, m.validate()
}

func (m *Manifest) validate() error {
	for _, id := range m.HistoryIDs {
		if len(id) > 255 {
			return fmt.Errorf("history id of %d bytes; at most 255", len(id))
		}
	}
	if len(m.Checkpoint) > 255 || strings.ContainsAny(m.Checkpoint, "/\\\x00") || m.Checkpoint == "." || m.Checkpoint == ".." {
		return fmt.Errorf("checkpoint %q is not a plain file name", m.Checkpoint)
	}
	if m.Generation == 0 || m.Generation >= 1<<32 {
		return fmt.Errorf("generation %d is out of range", m.Generation)
	}
	return nil
}

// manifestCopy is one copy as it was found.
type manifestCopy struct {
	name    string
	missing bool
	bad     error // not nil: it is there and does not hold a manifest
	m       Manifest
}

func (c *manifestCopy) valid() bool { return !c.missing && c.bad == nil }

// readManifests reads both copies. The error is a read error, never damage.
func readManifests(fsys vfs.FS, dir string) (c [2]manifestCopy, err error) {
	for i, name := range manifestNames {
		c[i].name = name
		b, err := readSmall(fsys, fsys.PathJoin(dir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			c[i].missing = true
		case err != nil:
			return c, &ReadError{File: name, Err: err}
		default:
			c[i].m, c[i].bad = decodeManifest(b)
		}
	}
	return c, nil
}

func readSmall(fsys vfs.FS, path string) ([]byte, error) {
	f, err := fsys.Open(path)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, manifestMaxSize+1))
	return b, errors.Join(err, f.Close())
}

// newestManifest returns the copy in force, or nil.
func newestManifest(c *[2]manifestCopy) *Manifest {
	var best *Manifest
	for i := range c {
		if c[i].valid() && (best == nil || c[i].m.Seq > best.Seq) {
			best = &c[i].m
		}
	}
	return best
}

// writeManifest makes m the manifest in force. manMu is held. unsure says that
// an error left it open which of the two manifests a restart would find.
func (j *Journal) writeManifest(m Manifest) (unsure bool, err error) {
	if err := m.validate(); err != nil {
		return false, fmt.Errorf("journal: manifest: %w", err)
	}
	text := m.encode()
	for i, name := range manifestNames {
		path := j.fs.PathJoin(j.dir, name)
		if err := j.writeFile(path+tempSuffix, bytes.Clone(text)); err != nil {
			return i > 0, fmt.Errorf("journal: write manifest: %w", err)
		}
		if err := j.fs.Rename(path+tempSuffix, path); err != nil {
			return true, fmt.Errorf("journal: rename manifest: %w", err)
		}
		if err := j.syncDir(); err != nil {
			return true, fmt.Errorf("journal: sync directory: %w", err)
		}
	}
	return false, nil
}

func (j *Journal) writeFile(path string, b []byte) error {
	f, err := j.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	want := len(b)
	n, err := f.Write(b)
	if err == nil && n < want {
		err = io.ErrShortWrite
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func (j *Journal) syncDir() error {
	if j.opts.Faults.SkipDirSync {
		return nil
	}
	return j.dirf.Sync()
}
