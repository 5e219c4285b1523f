package journal_test

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/journal"
	"holdfast/internal/raid"
)

// freeLocks is a file system on which the locks of a process that is gone are free.
type freeLocks struct{ vfs.FS }

func (freeLocks) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

func onArray(t *testing.T, a vfs.FS) (*journal.Journal, []byte) {
	t.Helper()
	j, _, err := journal.Open(journal.Options{FS: a, Dir: "data", SegmentSize: 4096, Level: journal.LevelAlways})
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	if err := j.Replay(0, func(r journal.Record) error {
		if r.Type == journal.TypeStream {
			got = append(got, r.Payload...)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := j.Start(); err != nil {
		t.Fatal(err)
	}
	return j, got
}

// TestJournalOnAnArray: the journal runs unchanged on an array, through kills and
// with as many members gone as the level survives.
func TestJournalOnAnArray(t *testing.T) {
	for _, c := range []struct{ level, width, survives int }{{0, 2, 0}, {1, 2, 1}, {4, 3, 1}, {5, 4, 1}, {6, 5, 2}} {
		t.Run(fmt.Sprintf("raid-%dx%d", c.level, c.width), func(t *testing.T) {
			fsys := vfs.NewMem()
			var dirs []raid.Dir
			for i := range c.width {
				dirs = append(dirs, raid.Dir{FS: freeLocks{fsys}, Path: fmt.Sprintf("m%d", i)})
			}
			o := raid.Options{Members: dirs, Level: c.level, Chunk: 512, Manual: true, TailSize: 8192, MetaLogSize: 8192, Reserve: -1}
			a, err := raid.Create(o)
			if err != nil {
				t.Fatal(err)
			}
			if err := a.MkdirAll("data", 0o755); err != nil {
				t.Fatal(err)
			}
			var want []byte
			for life := range 3 {
				j, got := onArray(t, a)
				if !bytes.Equal(got, want) {
					t.Fatalf("life %d: %d bytes were replayed, %d were acknowledged, or others", life, len(got), len(want))
				}
				for i := range 60 {
					p := bytes.Repeat([]byte{byte(i + life)}, 1+i*i%1500)
					end := j.Append(journal.TypeStream, 0, p)
					if err := j.Flush(); err != nil {
						t.Fatal(err)
					}
					if err := j.Sync(end); err != nil {
						t.Fatal(err)
					}
					want = append(want, p...)
				}
				// Killed: neither journal nor array is closed.
				o.Members = dirs
				if life == 1 {
					o.Members = dirs[c.survives:]
				}
				if a, err = raid.Open(o); err != nil {
					t.Fatal(err)
				}
			}
			if _, got := onArray(t, a); !bytes.Equal(got, want) {
				t.Fatal("the end differs")
			}
		})
	}
}
