package server

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"holdfast/internal/redis/cluster"
	"holdfast/internal/redis/process"
)

// maxNodesFile bounds nodes.conf, in bytes: a thousand nodes with scattered
// slots take a few megabytes.
const maxNodesFile = 64 << 20

// inPlace is the largest nodes.conf that is written in place, in bytes.
const inPlace = 4096

// nodesFile is cluster-config-file and its copies, which are written in turn
// before it: whatever a crash does to one of the files, a whole one is left. A
// nodes.conf that parses wins at the start, so that operators and Redis itself
// may write it.
//
// The file is locked as Redis locks it, so that no two nodes take the same one.
// Everything is under the engine's lock, but for syncSoon.
type nodesFile struct {
	fs         vfs.FS
	dir, name  string
	path       string
	held       nodesText // nodes.conf as it is now, locked
	copies     [3]nodesText
	generation uint64     // of the last store
	must       uint64     // the last one of a store with sync
	durable    *nodesText // the copy that is known to be; nil: none
	last       *nodesText // the copy that was written last; nil: none
}

// openNodesFile locks and reads; state is nil for a new node.
func openNodesFile(fs vfs.FS, dir, name string, log *process.Logger) (*nodesFile, []byte, error) {
	n := &nodesFile{fs: fs, dir: dir, name: name, path: fs.PathJoin(dir, name)}
	held, err := fs.OpenReadWrite(n.path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, nil, fmt.Errorf("Can't open %s in order to acquire a lock: %s", name, errnoText(err))
	}
	n.held.File = held
	if err := flock(held); err != nil {
		_ = held.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil, fmt.Errorf("Sorry, the cluster configuration file %s is already used by a different Redis Cluster node. Please make sure that different nodes use different cluster configuration files.", name)
		}
		return nil, nil, fmt.Errorf("Impossible to lock %s: %w", name, err)
	}
	text, err := readSome(held)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("reading %s: %w", n.path, err), held.Close())
	}
	n.held.size = len(text)
	copies := make([][]byte, len(n.copies))
	for i := range copies {
		c := &n.copies[i]
		c.path = n.path + [...]string{".copy-a", ".copy-b", ".copy-c"}[i]
		if copies[i], err = readCopy(fs, c.path); err != nil {
			return nil, nil, errors.Join(err, held.Close())
		}
		c.size = len(copies[i])
		if g, _, err := cluster.DecodeGeneration(copies[i]); err == nil {
			c.generation = g
		}
	}
	state, generation, from, err := cluster.ChooseState(text, copies...)
	if err != nil {
		log.Warning("%s", err)
		return nil, nil, errors.Join(errors.New("Unrecoverable error: corrupted cluster config file."), held.Close())
	}
	n.generation = generation
	if from == cluster.FromGeneration {
		log.Warning("The cluster configuration file %s is torn or gone: its copy number %d is used", name, generation)
	}
	return n, state, nil
}

// flock takes the lock that Redis takes; a file that is not one of the operating
// system has none.
func flock(f vfs.File) error {
	if fd := f.Fd(); fd != vfs.InvalidFd {
		return unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB)
	}
	return nil
}

func readSome(f io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(f, maxNodesFile+1))
	if err == nil && len(b) > maxNodesFile {
		err = fmt.Errorf("is longer than %d bytes", maxNodesFile)
	}
	return b, err
}

func readCopy(fs vfs.FS, path string) ([]byte, error) {
	f, err := fs.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	b, err := readSome(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return b, nil
}

// store writes text to nodes.conf and to a copy. With sync nodes.conf is
// replaced in one step and durable on return. Without sync it is as in Redis:
// handed to the operating system before anything is answered, and written in
// place, since file systems flush what is renamed over another file, and this is
// done under the engine's lock. For a power cut there must be a copy that is
// durable, and not older than what had to be: until syncSoon has seen to that,
// everything is stored with sync. So is what is larger than a page, of which a
// power cut may leave some pages of one version and some of another, which no
// copy tells from an operator's edit; for sectors cluster.ChooseState tries.
func (n *nodesFile) store(text []byte, sync bool) error {
	n.generation++
	if sync || n.durable == nil || n.durable.generation < n.must || max(len(text), n.held.size) > inPlace {
		n.must = n.generation
		if err := n.replace(text); err != nil {
			return err
		}
		return n.copy(text)
	}
	if err := n.copy(text); err != nil {
		return err
	}
	if err := n.held.overwrite(text); err != nil {
		return fmt.Errorf("writing %s: %w", n.path, err)
	}
	return nil
}

// copy writes the copy of a store.
func (n *nodesFile) copy(text []byte) error {
	c := n.next()
	if c.File == nil {
		f, err := n.fs.OpenReadWrite(c.path, vfs.WriteCategoryUnspecified)
		if err != nil {
			return err
		}
		c.File = f
	}
	c.generation, n.last = n.generation, c
	if err := c.overwrite(cluster.EncodeGeneration(n.generation, text)); err != nil {
		return fmt.Errorf("writing %s: %w", c.path, err)
	}
	return nil
}

// next is the copy to write: neither the durable one nor that of the store
// before, which nodes.conf may be needed to be told from.
func (n *nodesFile) next() *nodesText {
	var c *nodesText
	for i := range n.copies {
		x := &n.copies[i]
		if x != n.durable && x != n.last && (c == nil || x.generation < c.generation) {
			c = x
		}
	}
	return c
}

// replace puts a new file in the place of nodes.conf, durably.
func (n *nodesFile) replace(text []byte) error {
	temp := n.path + ".tmp"
	f, err := n.fs.Create(temp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("creating %s: %w", temp, err)
	}
	fresh := nodesText{File: f}
	if err = fresh.overwrite(text); err == nil {
		err = f.Sync()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", temp, err), f.Close())
	}
	// Locked before it has the name, so that there is never one without a lock.
	if err := flock(f); err != nil {
		return errors.Join(fmt.Errorf("Impossible to lock %s: %w", temp, err), f.Close())
	}
	if err := n.fs.Rename(temp, n.path); err != nil {
		return errors.Join(err, f.Close())
	}
	old := n.held
	n.held = fresh
	if err := old.Close(); err != nil {
		return err
	}
	return syncDir(n.fs, n.dir)
}

// nodesText is a file that is written over in place.
type nodesText struct {
	vfs.File
	size       int    // bytes that may be in it
	path       string // of a copy
	generation uint64 // of a copy
}

// overwrite makes text the content of the file, followed by empty lines, which
// readers skip, up to where the old content ended: one write, so that a kill in
// between leaves the old or the new text, or the beginning of the new and the
// end of the old.
func (f *nodesText) overwrite(text []byte) error {
	b := make([]byte, max(len(text), f.size)) // which the file may modify
	for i := copy(b, text); i < len(b); i++ {
		b[i] = '\n'
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		return err
	}
	if fd := f.Fd(); fd != vfs.InvalidFd && len(b) > len(text) {
		if err := unix.Ftruncate(int(fd), int64(len(text))); err != nil {
			return err
		}
		b = b[:len(text)]
	}
	f.size = len(b)
	return nil
}

// written is what was stored last, for syncSoon.
type written struct {
	generation uint64
	copied     *nodesText
}

func (n *nodesFile) written() written { return written{n.generation, n.last} }

// syncSoon makes what was written durable. It may run beside anything else.
func (n *nodesFile) syncSoon(w written) error {
	for _, path := range []string{w.copied.path, n.path} {
		f, err := n.fs.Open(path)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return syncDir(n.fs, n.dir)
}

// isDurable notes what syncSoon has done. A copy that was written again
// meanwhile may be anything.
func (n *nodesFile) isDurable(w written) {
	if w.copied.generation == w.generation {
		n.durable = w.copied
	}
}

func (n *nodesFile) close() {
	for i := range n.copies {
		if c := &n.copies[i]; c.File != nil {
			_ = c.Close()
		}
	}
	_ = n.held.Close() // which gives the lock back
}
