package journal

import (
	"bytes"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// discardFS is a file system whose segments go nowhere, to see the journal's own cost.
type discardFS struct{ vfs.FS }

type discardFile struct{ vfs.File }

func (d discardFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.Create(name, c)
	return discardFile{f}, err
}

func (discardFile) Write(b []byte) (int, error) { return len(b), nil }

func benchAppend(b *testing.B, opts Options, batch int, sync bool) {
	j := started(b, opts)
	payload := bytes.Repeat([]byte("x"), 100)
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	b.ResetTimer()
	var end uint64
	for i := 0; i < b.N; i++ {
		end = j.Append(TypeStream, 0, payload)
		if i%batch == batch-1 {
			must(b, j.Flush())
			if sync {
				must(b, j.Sync(end))
			}
		}
	}
	must(b, j.Flush())
	must(b, j.Sync(end))
	b.StopTimer()
}

func BenchmarkAppendFlush(b *testing.B) {
	b.Run("nowhere/batch=1", func(b *testing.B) {
		benchAppend(b, Options{FS: discardFS{vfs.NewMem()}, Level: LevelEverySec}, 1, false)
	})
	b.Run("nowhere/batch=100", func(b *testing.B) {
		benchAppend(b, Options{FS: discardFS{vfs.NewMem()}, Level: LevelEverySec}, 100, false)
	})
	b.Run("disk/batch=1", func(b *testing.B) {
		benchAppend(b, Options{FS: vfs.Default, Dir: b.TempDir(), Level: LevelEverySec, PreZero: true}, 1, false)
	})
	b.Run("disk/batch=100", func(b *testing.B) {
		benchAppend(b, Options{FS: vfs.Default, Dir: b.TempDir(), Level: LevelEverySec, PreZero: true}, 100, false)
	})
}

func BenchmarkAppendFlushSync(b *testing.B) {
	for _, zero := range []bool{false, true} {
		name := map[bool]string{false: "append", true: "zeros"}[zero]
		b.Run(name+"/batch=1", func(b *testing.B) {
			benchAppend(b, Options{FS: vfs.Default, Dir: b.TempDir(), Level: LevelAlways, PreZero: zero}, 1, true)
		})
		b.Run(name+"/batch=50", func(b *testing.B) {
			benchAppend(b, Options{FS: vfs.Default, Dir: b.TempDir(), Level: LevelAlways, PreZero: zero}, 50, true)
		})
	}
}

func BenchmarkFollowFromDisk(b *testing.B) {
	j := started(b, Options{FS: vfs.Default, Dir: b.TempDir(), SegmentSize: 8 << 20, MemoryWindow: 1})
	payload := bytes.Repeat([]byte("x"), 100)
	for range 100_000 {
		j.Append(TypeStream, 0, payload)
	}
	must(b, j.Flush())
	buf := make([]byte, 16<<10)
	b.SetBytes(int64(j.End()))
	b.ReportAllocs()
	for b.Loop() {
		f, err := j.Follow(0)
		must(b, err)
		for {
			n, err := f.Read(buf)
			must(b, err)
			if n == 0 {
				break
			}
		}
		must(b, f.Close())
	}
}
