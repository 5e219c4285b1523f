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

// nodesFile is cluster-config-file and its two copies, which are written in turn
// before it: whatever a crash does to one of the three, a whole one is left. A
// nodes.conf that parses wins at the start, so that operators and Redis itself
// may write it.
//
// The file is locked as Redis locks it, so that no two nodes take the same one.
type nodesFile struct {
	fs         vfs.FS
	dir, name  string
	path       string
	held       vfs.File // nodes.conf as it is now, locked
	generation uint64
}

// openNodesFile locks and reads; state is nil for a new node.
func openNodesFile(fs vfs.FS, dir, name string, log *process.Logger) (*nodesFile, []byte, error) {
	n := &nodesFile{fs: fs, dir: dir, name: name, path: fs.PathJoin(dir, name)}
	held, err := fs.OpenReadWrite(n.path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, nil, fmt.Errorf("Can't open %s in order to acquire a lock: %s", name, errnoText(err))
	}
	n.held = held
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
	copies := [2][]byte{}
	for i := range copies {
		if copies[i], err = n.readCopy(uint64(i)); err != nil {
			return nil, nil, errors.Join(err, held.Close())
		}
	}
	state, generation, from, err := cluster.ChooseState(text, copies[0], copies[1])
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

// copyPath is the file of a generation: the even ones and the odd ones have one each.
func (n *nodesFile) copyPath(generation uint64) string {
	return n.path + [2]string{".copy-a", ".copy-b"}[generation%2]
}

func (n *nodesFile) readCopy(generation uint64) ([]byte, error) {
	path := n.copyPath(generation)
	f, err := n.fs.Open(path)
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

// store writes text to the older copy and beside nodes.conf, which it replaces
// in one step. With sync nodes.conf is durable on return; the copy is never
// waited for: a crash leaves nodes.conf as it was or as it is to be, the copies
// are for what happens to it otherwise. Without sync it is as in Redis: handed
// to the operating system before anything is answered.
func (n *nodesFile) store(text []byte, sync bool) error {
	n.generation++
	c, err := n.write(n.copyPath(n.generation), cluster.EncodeGeneration(n.generation, text), false)
	if err != nil {
		return err
	}
	if err := c.Close(); err != nil {
		return err
	}
	temp := n.path + ".tmp"
	f, err := n.write(temp, text, sync)
	if err != nil {
		return err
	}
	// Locked before it has the name, so that there is never one without a lock.
	if err := flock(f); err != nil {
		return errors.Join(fmt.Errorf("Impossible to lock %s: %w", temp, err), f.Close())
	}
	if err := n.fs.Rename(temp, n.path); err != nil {
		return errors.Join(err, f.Close())
	}
	old := n.held
	n.held = f
	if err := old.Close(); err != nil {
		return err
	}
	if sync {
		return syncDir(n.fs, n.dir)
	}
	return nil
}

func (n *nodesFile) write(path string, text []byte, sync bool) (vfs.File, error) {
	f, err := n.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, fmt.Errorf("creating %s: %w", path, err)
	}
	// The file may modify what it is given.
	if _, err = f.Write(append([]byte(nil), text...)); err == nil && sync {
		err = f.Sync()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("writing %s: %w", path, err), f.Close())
	}
	return f, nil
}

func (n *nodesFile) close() {
	_ = n.held.Close() // which gives the lock back
}
