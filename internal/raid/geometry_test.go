package raid

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/vfstest"
)

// Geometry: what N members of limited bandwidth give together, in virtual time,
// against the table of the design, section 4.2, and what small synced appends
// cost. Nothing here looks at a clock.

const (
	geoChunk     = 32 << 10
	geoSync      = 8 // stripes per Sync
	geoRounds    = 6 // Syncs
	geoTolerance = 0.15
)

var (
	geoSpeed = vfstest.Speed{BytesPerSecond: 100 << 20}
	// geoSeeks is a disk that passes over gaps at its bandwidth.
	geoSeeks = vfstest.Speed{BytesPerSecond: 100 << 20, Seek: 650 * time.Microsecond}
)

// factors are multiples of one disk's rate.
type factors struct{ random, read, readSeek, write, bulk float64 }

// expected is the table of the design; 0 promises nothing.
func (s shape) expected() factors {
	n := float64(s.width)
	switch s.level {
	case 0:
		return factors{n, n, n, n, n}
	case 1:
		return factors{n, n, 0, 1, 1}
	case 4:
		return factors{n - 1, n - 1, n - 1, n - 1, n - 1}
	case 5:
		return factors{n, n, n - 1, n - 1, n - 1}
	}
	return factors{n, n, n - 2, n - 2, n - 2}
}

func geoShapes() []shape {
	var out []shape
	for _, level := range []int{0, 1, 4, 5, 6} {
		for n := map[int]int{0: 2, 1: 2, 4: 3, 5: 3, 6: 4}[level]; n <= 8; n++ {
			out = append(out, shape{level, n})
		}
	}
	return out
}

// metered is an array, or a plain directory, over metered disks.
type metered struct {
	fs     vfs.FS
	meters []*vfstest.Meter
	a      *Array
}

func newMetered(s shape, speed vfstest.Speed, chunk int) (*metered, error) {
	m := &metered{}
	o := Options{Level: s.level, Chunk: chunk, Manual: true, Serial: true, ScrubEvery: -1, Reserve: -1}
	for range s.width {
		meter := vfstest.NewMeter(vfs.NewMem(), speed)
		m.meters = append(m.meters, meter)
		if err := meter.MkdirAll("m", 0o755); err != nil {
			return nil, err
		}
		o.Members = append(o.Members, Dir{FS: meter, Path: "m"})
	}
	if s.width == 1 {
		m.fs = m.meters[0]
		return m, nil
	}
	a, err := Create(o)
	m.fs, m.a = a, a
	return m, err
}

// rate runs a phase that moves n bytes and returns bytes per second of virtual time.
func (m *metered) rate(n int, phase func() error) (float64, error) {
	for _, meter := range m.meters {
		meter.Reset()
	}
	if err := phase(); err != nil {
		return 0, err
	}
	return float64(n) / vfstest.Slowest(m.meters).Seconds(), nil
}

// writeFile writes a file in pieces with a Sync after every so many.
func (m *metered) writeFile(name string, cat vfs.DiskWriteCategory, data []byte, piece, each int) error {
	f, err := m.fs.Create(name, cat)
	if err != nil {
		return err
	}
	done := 0
	for len(data) > 0 {
		n := min(piece, len(data))
		if _, err := f.Write(bytes.Clone(data[:n])); err != nil {
			return err
		}
		data = data[n:]
		if done += n; done >= each {
			done = 0
			if err := f.Sync(); err != nil {
				return err
			}
		}
	}
	return errors.Join(f.Sync(), f.Close())
}

func (m *metered) readFile(name string, data []byte, piece int, order []int) error {
	f, err := m.fs.Open(name)
	if err != nil {
		return err
	}
	b := make([]byte, piece)
	for _, i := range order {
		want := data[i*piece : min((i+1)*piece, len(data))]
		if n, err := f.ReadAt(b[:len(want)], int64(i*piece)); n != len(want) || err != nil && err != io.EOF {
			return fmt.Errorf("read at %d: %d, %w", i*piece, n, err)
		}
		if !bytes.Equal(b[:len(want)], want) {
			return fmt.Errorf("wrong bytes at %d", i*piece)
		}
	}
	return f.Close()
}

func ascending(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// measure returns the rates of one shape in bytes per second; width 1 is a plain disk.
func measure(s shape) (f factors, err error) {
	stripe := max(s.data(), 1) * geoChunk
	if s.width == 1 {
		stripe = 7 * geoChunk
	}
	size := geoRounds * geoSync * stripe
	data := payload(1, 0, size, 0)
	m, err := newMetered(s, geoSpeed, geoChunk)
	if err != nil {
		return f, err
	}
	f.write, err = m.rate(size, func() error {
		return m.writeFile("a", vfs.WriteCategoryUnspecified, data, geoSync*stripe, geoSync*stripe)
	})
	if err != nil {
		return f, err
	}
	f.bulk, err = m.rate(size, func() error { return m.writeFile("b", Bulk, data, 50_000, size) })
	if err != nil {
		return f, err
	}
	f.read, err = m.rate(size, func() error { return m.readFile("a", data, 1<<20, ascending((size+1<<20-1)>>20)) })
	if err != nil {
		return f, err
	}
	order := rand.New(rand.NewPCG(1, 1)).Perm(size / geoChunk)
	f.random, err = m.rate(size, func() error { return m.readFile("a", data, geoChunk, order) })
	if err != nil {
		return f, err
	}
	if m, err = newMetered(s, geoSeeks, geoChunk); err != nil {
		return f, err
	}
	if err := m.writeFile("a", Bulk, data, geoSync*stripe, geoSync*stripe); err != nil {
		return f, err
	}
	f.readSeek, err = m.rate(size, func() error { return m.readFile("a", data, 1<<20, ascending((size+1<<20-1)>>20)) })
	return f, err
}

func TestGeometryIsThatOfTheDesign(t *testing.T) {
	plain, err := measure(shape{0, 1})
	must(t, err)
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tw, "array\trandom read\tsequential read\twith seek cost\tsequential write\tbulk write\t(multiples of one disk: measured/design)")
	for _, s := range geoShapes() {
		got, err := measure(s)
		if err != nil {
			t.Fatalf("%v: %v", s, err)
		}
		want := s.expected()
		fmt.Fprintf(tw, "%v", s)
		for _, c := range []struct {
			name             string
			got, plain, want float64
		}{
			{"random read", got.random, plain.random, want.random},
			{"sequential read", got.read, plain.read, want.read},
			{"sequential read with seek cost", got.readSeek, plain.readSeek, want.readSeek},
			{"sequential write", got.write, plain.write, want.write},
			{"bulk write", got.bulk, plain.bulk, want.bulk},
		} {
			factor := c.got / c.plain
			if c.want == 0 {
				fmt.Fprintf(tw, "\t%.2f/-", factor)
				continue
			}
			fmt.Fprintf(tw, "\t%.2f/%g", factor, c.want)
			if math.Abs(factor/c.want-1) > geoTolerance {
				t.Errorf("%v: %s: %.2f times one disk, the design says %g", s, c.name, factor, c.want)
			}
		}
		fmt.Fprintln(tw)
	}
	must(t, tw.Flush())
	t.Logf("\n%s", b.String())
}

// TestSmallSyncedAppendsCostWhatTheGeometryPredicts: the tail copies and then
// the stripe, bytes written on all members per byte.
func TestSmallSyncedAppendsCostWhatTheGeometryPredicts(t *testing.T) {
	const chunk, piece, size = 64 << 10, 8 << 10, 6 << 20
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tw, "array\tbytes written per byte\tpredicted\tsyncs per append")
	data := payload(1, 0, size, 0)
	for _, s := range []shape{{0, 2}, {0, 4}, {1, 2}, {1, 3}, {4, 3}, {5, 3}, {5, 4}, {5, 8}, {6, 4}, {6, 8}} {
		m, err := newMetered(s, geoSpeed, chunk)
		must(t, err)
		_, err = m.rate(size, func() error { return m.writeFile("a", vfs.WriteCategoryUnspecified, data, piece, piece) })
		if err != nil {
			t.Fatalf("%v: %v", s, err)
		}
		var written, syncs int64
		for _, meter := range m.meters {
			written += meter.Use().Written
			syncs += meter.Use().Syncs
		}
		tail, stripe := float64(s.parity()+1), float64(s.width)/float64(s.data())
		got, want := float64(written)/size, tail+stripe
		fmt.Fprintf(tw, "%v\t%.2f\t%g + %.2f = %.2f\t%.1f\n", s, got, tail, stripe, want, float64(syncs)*piece/size)
		if math.Abs(got/want-1) > geoTolerance {
			t.Errorf("%v: %.2f bytes per byte, the geometry predicts %.2f", s, got, want)
		}
	}
	must(t, tw.Flush())
	t.Logf("\n%s", b.String())
}
