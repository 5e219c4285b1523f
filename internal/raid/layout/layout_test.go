package layout

import (
	"math/bits"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The tables are those of Linux md, left-symmetric: for each stripe the chunk on
// each member, digits for data.
var tables = []struct {
	level int
	rows  string
}{
	{5, "01P 1P0 P01"},
	{5, "012P 12P0 2P01 P012"},
	{5, "0123P 123P0 23P01 3P012 P0123"},
	{6, "Q01P 01PQ 1PQ0 PQ01"},
	{6, "Q012P 012PQ 12PQ0 2PQ01 PQ012"},
	{6, "Q0123P 0123PQ 123PQ0 23PQ01 3PQ012 PQ0123"},
	{4, "01P 01P"},
	{4, "0123P 0123P"},
	{0, "01 01"},
	{0, "0123 0123"},
	{1, "0P 0P"},
	{1, "0PQR 0PQR"},
}

// TestLayoutIsThatOfMd compares two turns of each table.
func TestLayoutIsThatOfMd(t *testing.T) {
	for _, tab := range tables {
		rows := strings.Fields(tab.rows)
		g, err := New(tab.level, len(rows[0]))
		if err != nil {
			t.Fatal(err)
		}
		for stripe := range uint64(2 * len(rows)) {
			var got strings.Builder
			for m := range g.Width() {
				if i := g.Index(stripe, m); i < g.Data() {
					got.WriteByte('0' + byte(i))
				} else {
					got.WriteByte("PQR"[i-g.Data()])
				}
			}
			if want := rows[stripe%uint64(len(rows))]; got.String() != want {
				t.Errorf("level %d, %d members, stripe %d: %s instead of %s", tab.level, g.Width(), stripe, got.String(), want)
			}
		}
	}
}

func drawGeometry(rt *rapid.T) Geometry {
	level := rapid.SampledFrom([]int{0, 1, 4, 5, 6}).Draw(rt, "level")
	g, err := New(level, rapid.IntRange(MinWidth(level), MaxWidth).Draw(rt, "width"))
	if err != nil {
		rt.Fatal(err)
	}
	return g
}

// TestIndexIsTheInverseOfMember, and each member holds exactly one chunk.
func TestIndexIsTheInverseOfMember(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		g := drawGeometry(rt)
		stripe := rapid.Uint64().Draw(rt, "stripe")
		var seen uint32
		for i := range g.Width() {
			m := g.Member(stripe, i)
			seen |= 1 << m
			if g.Index(stripe, m) != i {
				rt.Fatalf("index %d on member %d, which holds %d", i, m, g.Index(stripe, m))
			}
		}
		if seen != g.All() {
			rt.Fatalf("members %b of %b", seen, g.All())
		}
		if g.Data()+g.Parity() != g.Width() {
			rt.Fatalf("%d data and %d parity over %d", g.Data(), g.Parity(), g.Width())
		}
	})
}

// TestParityIsSpreadEvenly: over as many stripes as members, each member holds P
// once at levels 5 and 6; so does Q at 6.
func TestParityIsSpreadEvenly(t *testing.T) {
	for _, level := range []int{5, 6} {
		for width := MinWidth(level); width <= MaxWidth; width++ {
			g, err := New(level, width)
			if err != nil {
				t.Fatal(err)
			}
			for p := g.Data(); p < width; p++ {
				var seen uint32
				for stripe := range uint64(width) {
					seen |= 1 << g.Member(stripe, p)
				}
				if seen != g.All() {
					t.Errorf("level %d, %d members: index %d on %b", level, width, p, seen)
				}
			}
		}
	}
}

// TestTailMembers: P+1 live ones, or all that are left, and they take turns.
func TestTailMembers(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		g := drawGeometry(rt)
		live := rapid.Uint32().Draw(rt, "live")
		set := g.TailMembers(rapid.Uint64().Draw(rt, "segment"), live)
		live &= g.All()
		if set&^live != 0 || bits.OnesCount32(set) != min(bits.OnesCount32(live), g.Parity()+1) {
			rt.Fatalf("level %d, %d members, live %b: tail on %b", g.Level(), g.Width(), live, set)
		}
	})
	g, err := New(5, 4)
	if err != nil {
		t.Fatal(err)
	}
	var seen uint32
	for s := range uint64(4) {
		seen |= g.TailMembers(s, g.All())
	}
	if seen != g.All() {
		t.Errorf("four segments on members %b only", seen)
	}
}

// TestChunkLengthsMakeTheStripe: data chunks add up to the stripe, parity is as
// long as the first.
func TestChunkLengthsMakeTheStripe(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		g := drawGeometry(rt)
		const chunk = 512
		length := rapid.IntRange(1, g.Data()*chunk).Draw(rt, "length")
		sum := 0
		for i := range g.Width() {
			n := g.ChunkLength(i, length, chunk)
			if i < g.Data() {
				sum += n
			} else if n != g.ChunkLength(0, length, chunk) {
				rt.Fatalf("parity of %d bytes, data chunk 0 of %d", n, g.ChunkLength(0, length, chunk))
			}
		}
		if sum != length {
			rt.Fatalf("chunks of %d bytes in a stripe of %d", sum, length)
		}
	})
}

// TestNewRefuses what the levels do not allow, and says what they do.
func TestNewRefuses(t *testing.T) {
	for _, c := range []struct {
		level, width int
		says         string
	}{
		{2, 4, "no RAID level 2"}, {-1, 4, "no RAID level"}, {5, 2, "needs 3 to 32"}, {6, 3, "needs 4 to 32"},
		{0, 1, "needs 2"}, {1, 33, "not 33"}, {4, -1, "not -1"},
	} {
		if _, err := New(c.level, c.width); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("level %d width %d: %v, expected %q", c.level, c.width, err, c.says)
		}
	}
}
