package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// mend computes anew the checksums of a segment, so that what the fuzzer changed
// gets past them to the decoder.
func mend(b []byte) []byte {
	b = bytes.Clone(b)
	if len(b) < segHeaderArea {
		return b
	}
	le := binary.LittleEndian
	for _, at := range []int{0, segSecondCopy} {
		le.PutUint32(b[at+60:], crc32.Checksum(b[at:at+60], castagnoli))
	}
	h, ok := parseSegHeader(b)
	if !ok {
		return b
	}
	chain, seed := h.sum, h.seed()
	for off := int64(segHeaderArea); off+frameHeader <= int64(len(b)); {
		f := b[off:]
		le.PutUint32(f[32:], chain)
		sum := crc32.Update(seed, castagnoli, f[:36])
		le.PutUint32(f[36:], sum)
		size := frameSize(int64(le.Uint32(f)))
		if size > int64(len(f)) {
			break
		}
		chain = crc32.Update(sum, castagnoli, f[frameHeader:size-frameTail])
		le.PutUint32(f[size-frameTail:], chain)
		off += size
	}
	return b
}

// FuzzRecover opens directories with any content. Whatever is in the files, Open
// returns an error or a journal that replays, goes on, and comes back the same.
func FuzzRecover(f *testing.F) {
	for _, script := range []string{"as", "asasafsashea", damageScript, "afafafmafaf"} {
		files, _, err := finished(script, Options{Level: LevelAlways})
		if err != nil {
			f.Fatal(err)
		}
		man := files[testDir+"/"+manifestNames[0]]
		m, err := decodeManifest(man)
		if err != nil {
			f.Fatal(err)
		}
		a, b := files[testDir+"/"+segmentName(1, m.Segment)], files[testDir+"/"+segmentName(1, m.Segment+1)]
		f.Add(a, b, man, uint8(m.Segment), true)
		f.Add(a, b, man, uint8(m.Segment), false)
		f.Add(a, b, []byte{}, uint8(1), true)
	}
	f.Fuzz(func(t *testing.T, a, b, man []byte, seq uint8, mended bool) {
		if len(a)+len(b)+len(man) > 1<<20 {
			return
		}
		if mended {
			a, b = mend(a), mend(b)
		}
		if len(man) == 0 {
			man = (&Manifest{Seq: 1, Generation: 1, Segment: 1}).encode()
		}
		files := map[string][]byte{testDir + "/" + manifestNames[0]: man, testDir + "/" + segmentName(1, uint64(seq)+1): b}
		if seq > 0 {
			files[testDir+"/"+segmentName(1, uint64(seq))] = a
		}
		fsys, err := memWith(files)
		if err != nil {
			t.Fatal(err)
		}
		fuzzLife(t, fsys)
	})
}

func fuzzLife(t *testing.T, fsys *vfs.MemFS) {
	opts := newWorld(fsys, Options{Level: LevelAlways}).opts
	if _, err := Check(fsys, testDir, io.Discard); err != nil {
		t.Fatalf("check: %v", err)
	}
	if err := Dump(fsys, testDir, io.Discard, DumpOptions{Payload: 9}); err != nil {
		t.Fatalf("dump: %v", err)
	}
	j, rec, err := Open(opts)
	if err != nil {
		if !errors.Is(err, ErrCorrupt) {
			t.Fatalf("open: %v", err)
		}
		return
	}
	first := replayAll(t, j, rec)
	if err := j.Start(); err != nil {
		t.Fatalf("start: %v", err)
	}
	if rec.End < 1<<63 {
		end := j.Append(TypeStream, 0, []byte("more"))
		if err := j.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := j.Sync(end); err != nil {
			t.Fatal(err)
		}
		if end != rec.End+4 {
			t.Fatalf("end %d after %d", end, rec.End)
		}
		first = append(first, "more"...)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j, again, err := Open(opts)
	if err != nil {
		t.Fatalf("open again: %v", err)
	}
	defer j.kill()
	if got := replayAll(t, j, again); !again.Clean || !bytes.Equal(got, first) {
		t.Fatalf("clean %v, %d bytes came back of %d", again.Clean, len(got), len(first))
	}
}

func replayAll(t *testing.T, j *Journal, rec Recovery) (got []byte) {
	if err := j.Replay(rec.CheckpointPos, func(r Record) error {
		got = append(got, r.Payload...)
		return nil
	}); err != nil && !errors.Is(err, ErrMidRecord) {
		t.Fatalf("replay: %v", err)
	}
	return got
}
