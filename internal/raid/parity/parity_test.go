package parity

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/reedsolomon"
	"pgregory.net/rapid"
)

var geometries = [][2]int{{0, 2}, {0, 5}, {1, 2}, {1, 4}, {4, 3}, {4, 5}, {5, 3}, {5, 4}, {5, 8}, {6, 4}, {6, 5}, {6, 8}, {5, 32}, {6, 32}}

func newCode(t testing.TB, level, width int) *Code {
	t.Helper()
	c, err := New(level, width)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// gfMul multiplies in GF(2^8) with the polynomial 0x11d, bit by bit.
func gfMul(a, b byte) byte {
	var p byte
	for ; b > 0; b >>= 1 {
		if b&1 != 0 {
			p ^= a
		}
		carry := a & 0x80
		a <<= 1
		if carry != 0 {
			a ^= 0x1d
		}
	}
	return p
}

// obvious computes the parity shards byte by byte.
func obvious(level, data, parity, n int, shards [][]byte) [][]byte {
	out := make([][]byte, parity)
	for i := range out {
		out[i] = make([]byte, n)
	}
	for i := range data {
		coef := byte(1)
		for range i {
			coef = gfMul(coef, 2)
		}
		for k, v := range shards[i] {
			for o := range out {
				switch {
				case level == 1 || o == 0:
					out[o][k] ^= v
				default:
					out[o][k] ^= gfMul(coef, v)
				}
			}
		}
	}
	return out
}

// stripe fills shards with a stripe of the given length, as the array does: data
// chunks one after the other, parity as long as the first.
func stripe(r *rand.Rand, c *Code, chunk, length int) [][]byte {
	shards := make([][]byte, c.data+c.parity)
	for i := range shards {
		n := min(length, chunk)
		if i < c.data {
			n = max(0, min(length-i*chunk, chunk))
		}
		shards[i] = make([]byte, n)
		for k := range shards[i] {
			shards[i][k] = byte(r.Uint32())
		}
	}
	return shards
}

// TestEncodeIsTheObviousCode compares with parity computed byte by byte, for full
// and short stripes.
func TestEncodeIsTheObviousCode(t *testing.T) {
	for _, g := range geometries {
		c := newCode(t, g[0], g[1])
		for _, chunk := range []int{512, 4096} {
			r := rand.New(rand.NewPCG(1, uint64(chunk)))
			for _, length := range []int{1, 511, chunk, chunk + 1, c.data*chunk - 7, c.data * chunk} {
				length = min(length, c.data*chunk)
				shards := stripe(r, c, chunk, length)
				if err := c.Encode(shards); err != nil {
					t.Fatal(err)
				}
				for i, want := range obvious(g[0], c.data, c.parity, min(length, chunk), shards) {
					if !bytes.Equal(shards[c.data+i], want) {
						t.Fatalf("level %d width %d length %d: parity %d differs", g[0], g[1], length, i)
					}
				}
				if ok, err := c.Verify(shards); err != nil || !ok {
					t.Fatalf("level %d width %d: Verify of an encoded stripe: %v %v", g[0], g[1], ok, err)
				}
			}
		}
	}
}

// TestReconstructAnyMissing loses every set of at most P shards and asks for every
// part of it.
func TestReconstructAnyMissing(t *testing.T) {
	for _, g := range geometries {
		if g[1] > 8 {
			continue
		}
		c := newCode(t, g[0], g[1])
		r := rand.New(rand.NewPCG(2, uint64(g[0])))
		const chunk = 1024
		for _, length := range []int{5, chunk + 300, c.data * chunk} {
			length = min(length, c.data*chunk)
			shards := stripe(r, c, chunk, length)
			if err := c.Encode(shards); err != nil {
				t.Fatal(err)
			}
			all := uint32(1)<<g[1] - 1
			for lost := uint32(1); lost <= all; lost++ {
				if bits.OnesCount32(lost) > c.parity {
					continue
				}
				for want := lost; want != 0; want = (want - 1) & lost {
					checkLoss(t, c, shards, all&^lost, want)
				}
			}
		}
	}
}

func checkLoss(t *testing.T, c *Code, shards [][]byte, have, want uint32) {
	t.Helper()
	got := make([][]byte, len(shards))
	for i := range got {
		switch {
		case have>>i&1 != 0:
			got[i] = bytes.Clone(shards[i])
		case want>>i&1 != 0:
			got[i] = bytes.Repeat([]byte{0xa5}, len(shards[i]))
		}
	}
	if err := c.Reconstruct(got, have, want); err != nil {
		t.Fatalf("level %d have %b want %b: %v", c.level, have, want, err)
	}
	for i := range got {
		if (have|want)>>i&1 != 0 && !bytes.Equal(got[i], shards[i]) {
			t.Fatalf("level %d have %b want %b: shard %d differs", c.level, have, want, i)
		}
	}
}

// TestRangesAreIndependent reconstructs a part of a stripe from the same part of
// the others, as a degraded random read does.
func TestRangesAreIndependent(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		g := rapid.SampledFrom(geometries[2:]).Draw(rt, "geometry")
		c := newCode(t, g[0], g[1])
		const chunk = 4096
		length := rapid.IntRange(1, c.data*chunk).Draw(rt, "length")
		shards := stripe(rand.New(rand.NewPCG(3, uint64(length))), c, chunk, length)
		if err := c.Encode(shards); err != nil {
			rt.Fatal(err)
		}
		from := rapid.IntRange(0, min(length, chunk)-1).Draw(rt, "from")
		to := rapid.IntRange(from+1, min(length, chunk)).Draw(rt, "to")
		part := make([][]byte, len(shards))
		for i, s := range shards {
			part[i] = s[min(from, len(s)):min(to, len(s))]
		}
		missing := rapid.IntRange(0, len(shards)-1).Draw(rt, "missing")
		checkLoss(t, c, part, uint32(uint64(1)<<len(shards)-1)&^(1<<missing), 1<<missing)
	})
}

// TestVerifyFindsOneFlippedBit flips one bit anywhere in a stripe.
func TestVerifyFindsOneFlippedBit(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		g := rapid.SampledFrom(geometries[2:]).Draw(rt, "geometry")
		c := newCode(t, g[0], g[1])
		const chunk = 1024
		length := rapid.IntRange(1, c.data*chunk).Draw(rt, "length")
		shards := stripe(rand.New(rand.NewPCG(4, uint64(length))), c, chunk, length)
		if err := c.Encode(shards); err != nil {
			rt.Fatal(err)
		}
		i := rapid.IntRange(0, len(shards)-1).Draw(rt, "shard")
		if len(shards[i]) == 0 {
			return
		}
		k := rapid.IntRange(0, len(shards[i])*8-1).Draw(rt, "bit")
		shards[i][k/8] ^= 1 << (k % 8)
		if ok, err := c.Verify(shards); err != nil || ok {
			rt.Fatalf("Verify says %v, %v of a stripe with a flipped bit in shard %d", ok, err, i)
		}
	})
}

// TestTooFew: one more loss than the level survives is refused, and nothing is
// made up.
func TestTooFew(t *testing.T) {
	for _, g := range geometries {
		c := newCode(t, g[0], g[1])
		shards := stripe(rand.New(rand.NewPCG(5, 5)), c, 512, c.data*512)
		lost := uint32(1)<<(c.parity+1) - 1
		if c.parity+1 > len(shards) {
			continue
		}
		err := c.Reconstruct(shards, uint32(uint64(1)<<g[1]-1)&^lost, 1)
		if !errors.Is(err, ErrTooFew) {
			t.Errorf("level %d width %d: %v instead of ErrTooFew", g[0], g[1], err)
		}
	}
}

// TestNoAllocation of our own in steady state: what is allocated is what the
// library allocates in its calls, of which there is one for a full stripe that is
// encoded, and one per piece otherwise.
func TestNoAllocation(t *testing.T) {
	for _, g := range [][2]int{{1, 2}, {4, 4}, {5, 4}, {6, 6}} {
		c := newCode(t, g[0], g[1])
		r := rand.New(rand.NewPCG(6, 6))
		for _, f := range []struct{ length, calls int }{
			{c.data * pieceSize, 1 + 1},
			{c.data * 2 * pieceSize, 1 + 2},
			{2*pieceSize + 100, 3 + 3},
		} {
			length, calls := min(f.length, c.data*2*pieceSize), f.calls
			chunk := min(length, 2*pieceSize)
			if f.length == c.data*pieceSize {
				chunk = pieceSize
			}
			if c.rs == nil {
				calls = 0
			}
			shards := stripe(r, c, chunk, length)
			n := testing.AllocsPerRun(50, func() {
				if err := c.Encode(shards); err != nil {
					t.Error(err)
				}
				if ok, err := c.Verify(shards); err != nil || !ok {
					t.Error(ok, err)
				}
			})
			if n > float64(calls) {
				t.Errorf("level %d length %d: %v allocations for %d calls of the library", g[0], length, n, calls)
			}
		}
	}
}

// BenchmarkParity prints the throughput in data bytes, beside that of the library
// alone with its own defaults and with one goroutine.
func BenchmarkParity(b *testing.B) {
	for _, g := range [][2]int{{5, 4}, {5, 8}, {6, 4}, {6, 8}} {
		for _, chunk := range []int{64 << 10, 1 << 20} {
			c := newCode(b, g[0], g[1])
			shards := stripe(rand.New(rand.NewPCG(7, 7)), c, chunk, c.data*chunk)
			if err := c.Encode(shards); err != nil {
				b.Fatal(err)
			}
			lib, err := reedsolomon.New(c.data, c.parity)
			if err != nil {
				b.Fatal(err)
			}
			theirs := stripe(rand.New(rand.NewPCG(7, 7)), c, chunk, c.data*chunk)
			if err := lib.Encode(theirs); err != nil {
				b.Fatal(err)
			}
			run := func(name string, f func() error) {
				b.Run(fmt.Sprintf("%s/level=%d/width=%d/chunk=%dk", name, g[0], g[1], chunk>>10), func(b *testing.B) {
					b.SetBytes(int64(c.data * chunk))
					b.ReportAllocs()
					for b.Loop() {
						if err := f(); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
			run("encode/holdfast", func() error { return c.Encode(shards) })
			run("encode/library", func() error { return lib.Encode(theirs) })
			run("verify/holdfast", func() error { return verdict(c.Verify(shards)) })
			run("verify/library", func() error { return verdict(lib.Verify(theirs)) })
		}
	}
}

func verdict(ok bool, err error) error {
	if err == nil && !ok {
		return errors.New("not verified")
	}
	return err
}
