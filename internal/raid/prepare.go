package raid

import (
	"context"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/raid/format"
)

// The next segment of the tail log, made beforehand. A sync of a file that grows
// writes the file system's own metadata too, which costs more than the bytes; one
// of a file whose blocks were written before does not. So while a segment takes
// small synced appends, a file of zeros is made for the next one, under a temporary
// name, beside the appending.
//
// Zeros are no record, so such a segment reads as one that ends where its records
// do. The file gets the name of its segment only when its content is durable (see
// writeTail), as a new file would: whoever finds the name finds zeros or records
// of this segment behind the content, and never what another one held.

const preparedName = "tail-next" + tempSuffix

// Appends of more than this many bytes to each sync are not small: writing the zeros
// would cost them more than it saves.
const smallAppend = 16 << 10

// preparedAfter is how many syncs a segment must have seen before the next one is
// made beforehand.
const preparedAfter = 32

// preparedTail is the next segment as far as it is there.
type preparedTail struct {
	busy  bool // being made
	seg   uint64
	set   uint32
	on    []*member  // by slot, who they were when it was begun
	files []vfs.File // by member; nil: there is none
}

// preparedSize is the size of a segment made beforehand, in bytes.
func (a *Array) preparedSize() int64 {
	return a.opts.TailSize + int64(a.stripeSize()) + min(64<<10, a.opts.TailSize/4)
}

// prepareTailLocked begins to make the next segment, if it is worth while and none
// is there. mu is held, and given up if there is no background.
func (a *Array) prepareTailLocked() {
	t := &a.tail
	p := &t.ready
	grown := t.off - t.start
	if a.opts.prepare == 0 || p.busy || p.files != nil || a.full || a.closed || a.failed != nil || t.mustRoll ||
		t.syncs < a.opts.prepare || grown > int64(t.syncs)*smallAppend || t.zeroed && grown < a.opts.TailSize/2 {
		return
	}
	seg, set, on := t.next, a.geo.TailMembers(t.next, a.liveLocked()), slices.Clone(a.members)
	if a.opts.Manual {
		var files []vfs.File
		a.mu.slowly(func() { files = a.makePrepared(set, on) })
		a.tookPreparedLocked(seg, set, on, files)
		return
	}
	_, done, err := a.job(context.Background())
	if err != nil {
		return // Close has begun
	}
	p.busy = true
	go func() {
		defer done()
		files := a.makePrepared(set, on)
		a.mu.Lock()
		defer a.unlock()
		p.busy = false
		a.tookPreparedLocked(seg, set, on, files)
	}()
}

// makePrepared writes the zeros. It returns nil if a member could not: what is wrong
// with it, whoever must have something from it will see.
func (a *Array) makePrepared(set uint32, on []*member) []vfs.File {
	files := make([]vfs.File, a.geo.Width())
	var errs [format.MaxWidth]error
	a.pool.each(set, func(s int) { files[s], errs[s] = a.writeZeros(on[s]) })
	for s := range slots(set) {
		if errs[s] != nil {
			removePrepared(set, on, files)
			return nil
		}
	}
	return files
}

func (a *Array) writeZeros(m *member) (vfs.File, error) {
	f, err := m.dir.FS.Create(m.path(preparedName), vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 256<<10)
	for left := a.preparedSize(); left > 0 && err == nil; left -= int64(len(b)) {
		clear(b) // the file may modify what it is given
		want := int(min(left, int64(len(b))))
		var n int
		if n, err = f.Write(b[:want]); err == nil && n < want {
			err = io.ErrShortWrite
		}
	}
	if err == nil {
		err = a.retrySync(f.Sync)
	}
	return f, err
}

// tookPreparedLocked notes the prepared segment, unless it is of no use any more. mu
// is held.
func (a *Array) tookPreparedLocked(seg uint64, set uint32, on []*member, files []vfs.File) {
	t := &a.tail
	switch {
	case files == nil:
		t.syncs = 0 // not again at once
	case a.closed || a.full || seg != t.next || !a.stillThere(set, on):
		removePrepared(set, on, files)
	default:
		t.ready = preparedTail{seg: seg, set: set, on: on, files: files}
	}
}

// preparedFor returns the files that were made for a segment, and nil if there are none
// for just these members. mu is held.
func (a *Array) preparedFor(seg uint64, set uint32) []vfs.File {
	p := &a.tail.ready
	if p.files == nil {
		return nil
	}
	if p.seg != seg || p.set != set || !a.stillThere(set, p.on) {
		a.dropPreparedLocked()
		return nil
	}
	files := p.files
	p.files = nil
	return files
}

// stillThere reports whether the slots in set have the same members, and these are live.
// mu is held.
func (a *Array) stillThere(set uint32, on []*member) bool {
	for s := range slots(set) {
		if a.members[s] != on[s] || on[s].state != "live" {
			return false
		}
	}
	return true
}

// dropPreparedLocked gives the prepared segment up. mu is held.
func (a *Array) dropPreparedLocked() {
	if p := &a.tail.ready; p.files != nil {
		removePrepared(p.set, p.on, p.files)
		p.files = nil
	}
}

// removePrepared closes and removes; what stays the next opening removes.
func removePrepared(set uint32, on []*member, files []vfs.File) {
	for s := range slots(set) {
		if files[s] != nil {
			_ = files[s].Close() // of no use any more
		}
		_ = on[s].dir.FS.Remove(on[s].path(preparedName)) // likewise
	}
}
