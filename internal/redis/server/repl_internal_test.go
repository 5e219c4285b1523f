package server

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A feed gives each reader the same bytes, in whatever order they read, and
// holds no more than its bound in memory for the slowest.
func TestBulkFeedSpillsForSlowReaders(t *testing.T) {
	fs := vfs.NewMem()
	woken := 0
	f := newBulkFeed(fs, "", func() { woken++ })
	rng := rand.New(rand.NewPCG(1, 2))
	readers := []*feedReader{f.reader(), f.reader(), f.reader()}
	got := make([]bytes.Buffer, len(readers))
	var want bytes.Buffer
	buf := make([]byte, 70_000)
	// take lets reader i read n times; it returns whether it is at the end.
	take := func(i, n int) bool {
		for range n {
			k, done, err := readers[i].read(buf[:1+rng.IntN(len(buf)-1)])
			if err != nil {
				t.Fatal(err)
			}
			got[i].Write(buf[:k])
			if done {
				return true
			}
			if k == 0 {
				return false
			}
		}
		return false
	}
	chunk := make([]byte, 256<<10)
	for round := range 80 {
		for i := 0; i < len(chunk); i += 8 {
			binary.LittleEndian.PutUint64(chunk[i:], rng.Uint64())
		}
		want.Write(chunk)
		if _, err := f.Write(chunk); err != nil {
			t.Fatal(err)
		}
		if f.mem > feedMemory+len(chunk) {
			t.Fatalf("%d bytes in memory", f.mem)
		}
		take(0, 100)
		take(1, 3)
		if round%30 == 29 {
			take(1, 1000) // it catches up now and then; reader 2 never does
			take(2, 1)
		}
	}
	if err := f.Finish(); err != nil {
		t.Fatal(err)
	}
	want.WriteString(f.mark)
	for i := range readers {
		for !take(i, 10) {
		}
		if !bytes.Equal(got[i].Bytes(), want.Bytes()) {
			t.Errorf("reader %d got %d bytes, not the %d that were fed", i, got[i].Len(), want.Len())
		}
		readers[i].close()
	}
	if names, err := fs.List(""); err != nil || len(names) != 0 {
		t.Errorf("left behind: %v, %v", names, err)
	}
	if woken == 0 {
		t.Error("nobody was told that there is something to read")
	}
}

// A feed whose spool cannot be written fails for all readers.
func TestBulkFeedFailureReachesReaders(t *testing.T) {
	f := newBulkFeed(vfs.NewMem(), "", func() {})
	r := f.reader()
	broken := errors.New("broken")
	f.Abort(broken)
	if _, _, err := r.read(make([]byte, 10)); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	r.close()
}

const testMark = "0123456789abcdef0123456789abcdef01234567"

func TestMarkReader(t *testing.T) {
	for _, body := range []string{"", "x", testMark[:39], strings.Repeat("y", 200_000), testMark[:20] + "z" + testMark[:30]} {
		for _, src := range []io.Reader{
			strings.NewReader(body + testMark),
			iotest.OneByteReader(strings.NewReader(body + testMark)),
			iotest.HalfReader(strings.NewReader(body + testMark)),
		} {
			got, err := io.ReadAll(&markReader{src: src, mark: testMark})
			if err != nil || string(got) != body {
				t.Errorf("%d bytes before the mark: got %d, %v", len(body), len(got), err)
			}
		}
	}
	_, err := io.ReadAll(&markReader{src: io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(io.ErrUnexpectedEOF)), mark: testMark})
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a connection that ends before the mark: %v", err)
	}
}

// FuzzMarkReader: whatever comes before the mark, in whatever pieces, comes out.
func FuzzMarkReader(f *testing.F) {
	f.Add([]byte("some bytes"), uint64(3))
	f.Add([]byte(testMark[:25]), uint64(1))
	f.Fuzz(func(t *testing.T, body []byte, seed uint64) {
		if bytes.Contains(append(body, testMark[:39]...), []byte(testMark)) {
			t.Skip("the mark is random: it is not in the snapshot")
		}
		rng := rand.New(rand.NewPCG(seed, 0))
		src := &piecesReader{b: append(append([]byte{}, body...), testMark...), rng: rng}
		got, err := io.ReadAll(&markReader{src: src, mark: testMark})
		if err != nil || !bytes.Equal(got, body) {
			t.Fatalf("%q came out as %q, %v", body, got, err)
		}
	})
}

type piecesReader struct {
	b   []byte
	rng *rand.Rand
}

func (r *piecesReader) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n := copy(p[:min(len(p), 1+r.rng.IntN(50))], r.b)
	r.b = r.b[n:]
	return n, nil
}
