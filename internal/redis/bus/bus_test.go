package bus

import (
	"bytes"
	"encoding/binary"
	"net"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/redis/cluster"
)

const patience = 20 * time.Second

// packet is n bytes that frame as a packet.
func packet(n int, fill byte) []byte {
	p := bytes.Repeat([]byte{fill}, n)
	copy(p, "RCmb")
	binary.BigEndian.PutUint32(p[4:], uint32(n))
	return p
}

func newBus(t *testing.T) (*Bus, chan cluster.Input) {
	t.Helper()
	in := make(chan cluster.Input, 1000)
	b := New(Options{Handle: func(i cluster.Input) { in <- i }})
	t.Cleanup(b.Close)
	return b, in
}

func listen(t *testing.T, b *Bus) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	b.Serve(ln)
	return port
}

func next[T cluster.Input](t *testing.T, in chan cluster.Input) T {
	t.Helper()
	select {
	case i := <-in:
		v, ok := i.(T)
		if !ok {
			t.Fatalf("%#v, want a %T", i, v)
		}
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
	}
	panic("unreachable")
}

func TestPacketsArriveWholeAndInOrder(t *testing.T) {
	a, inA := newBus(t)
	b, inB := newBus(t)
	port := listen(t, b)
	a.Connect(1, "127.0.0.1", port)
	if up := next[cluster.LinkUp](t, inA); up.Link != 1 || up.RemoteIP != "127.0.0.1" || up.LocalIP != "127.0.0.1" {
		t.Fatalf("%+v", up)
	}
	back := next[cluster.InboundUp](t, inB)
	if back.Link&cluster.Inbound == 0 {
		t.Fatalf("%+v is no inbound link", back)
	}
	for i, n := range []int{2256, 3000, 1 << 20, 2256} {
		a.Send(1, packet(n, byte('a'+i)))
		b.Send(back.Link, packet(n, byte('A'+i)))
	}
	for i, n := range []int{2256, 3000, 1 << 20, 2256} {
		if p := next[cluster.Packet](t, inB); p.Link != back.Link || !bytes.Equal(p.Data, packet(n, byte('a'+i))) {
			t.Fatalf("packet %d: %d bytes on %d", i, len(p.Data), p.Link)
		}
		if p := next[cluster.Packet](t, inA); p.Link != 1 || !bytes.Equal(p.Data, packet(n, byte('A'+i))) {
			t.Fatalf("packet %d back: %d bytes on %d", i, len(p.Data), p.Link)
		}
	}
	a.CloseLink(1)
	if down := next[cluster.LinkDown](t, inB); down.Link != back.Link {
		t.Fatalf("%+v", down)
	}
	select {
	case i := <-inA:
		t.Fatalf("who closes a link hears no more of it, but %#v came", i)
	default:
	}
}

func TestRefusedConnectionIsTold(t *testing.T) {
	a, in := newBus(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	_ = ln.Close()
	a.Connect(7, "127.0.0.1", port)
	if down := next[cluster.LinkDown](t, in); down.Link != 7 || down.Err == "" {
		t.Fatalf("%+v", down)
	}
}

func TestWhoDoesNotSpeakTheProtocolIsCutOff(t *testing.T) {
	for _, hello := range [][]byte{[]byte("GET / HTTP/1.1\r\n\r\n"), append([]byte("RCmb"), 0, 0, 0, 9), append([]byte("RCmb"), 255, 255, 255, 255)} {
		b, in := newBus(t)
		conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(listen(t, b))))
		if err != nil {
			t.Fatal(err)
		}
		up := next[cluster.InboundUp](t, in)
		if _, err := conn.Write(hello); err != nil {
			t.Fatal(err)
		}
		if down := next[cluster.LinkDown](t, in); down.Link != up.Link {
			t.Fatalf("%+v", down)
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Fatal("the connection still stands")
		}
		_ = conn.Close()
	}
}

func TestAnnouncedLengthTakesNoMemory(t *testing.T) {
	head := make([]byte, 100000)
	copy(head, "RCmb")
	binary.BigEndian.PutUint32(head[4:], cluster.MaxPacket)
	var in input
	for len(head) > 0 {
		n := min(len(head), 1000)
		if err := in.add(head[:n], func([]byte) { t.Fatal("a packet") }); err != nil {
			t.Fatal(err)
		}
		head = head[n:]
	}
	if len(in.rest) != 100000 || cap(in.rest) > 300000 {
		t.Fatalf("%d bytes are held of 100,000 that came, in a buffer of %d", len(in.rest), cap(in.rest))
	}
}

// FuzzInput cuts what comes at arbitrary places: the packets must be the same.
func FuzzInput(f *testing.F) {
	two := append(packet(16, 'a'), packet(300, 'b')...)
	f.Add(two, uint16(1))
	f.Add(two, uint16(17))
	f.Add(append(two, "GET / HTTP/1.1\r\n\r\n"...), uint16(5))
	f.Add(append(two, 'R', 'C', 'm', 'b', 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0), uint16(100))
	f.Fuzz(func(t *testing.T, data []byte, step uint16) {
		cut := func(step int) (all [][]byte, err error) {
			var in input
			for rest := data; len(rest) > 0 && err == nil; {
				n := min(step, len(rest))
				err = in.add(append([]byte(nil), rest[:n]...), func(p []byte) { all = append(all, p) })
				if rest = rest[n:]; cap(in.rest) > 3*len(data)+64 {
					t.Fatalf("a buffer of %d bytes for %d that came", cap(in.rest), len(data))
				}
			}
			return all, err
		}
		whole, err1 := cut(max(1, len(data)))
		parts, err2 := cut(max(1, int(step)))
		if !slices.EqualFunc(whole, parts, bytes.Equal) || (err1 == nil) != (err2 == nil) {
			t.Fatalf("%d packets (%v) at once, %d (%v) in steps of %d", len(whole), err1, len(parts), err2, step)
		}
		at := 0
		for _, p := range whole {
			if n, err := cluster.PacketLen(p); err != nil || n != len(p) || !bytes.HasPrefix(data[at:], p) {
				t.Fatalf("a packet of %d bytes is not what came at %d (%d, %v)", len(p), at, n, err)
			}
			at += len(p)
		}
	})
}

func TestHeldPacketsGoOutWithFlush(t *testing.T) {
	a, inA := newBus(t)
	b, inB := newBus(t)
	a.Connect(1, "127.0.0.1", listen(t, b))
	next[cluster.LinkUp](t, inA)
	next[cluster.InboundUp](t, inB)
	a.Hold()
	for i := range 3 {
		a.Send(1, packet(2256+i, 'x'))
	}
	if alloc, used := a.Buffered(1); used != 3*2256+3 || alloc < used {
		t.Fatalf("%d bytes of %d are queued", used, alloc)
	}
	a.Flush()
	for i := range 3 {
		if p := next[cluster.Packet](t, inB); len(p.Data) != 2256+i {
			t.Fatalf("packet %d has %d bytes", i, len(p.Data))
		}
	}
	if _, bytes := a.Links(); bytes != 0 {
		t.Fatalf("%d bytes are queued still", bytes)
	}
}

// More than the sockets hold: the rest goes out behind them, in order.
func TestWhatTheSocketDoesNotTakeIsNotLost(t *testing.T) {
	a, inA := newBus(t)
	var seen atomic.Int64
	gate := make(chan struct{})
	wrong := make(chan string, 1)
	done := make(chan struct{})
	const packets, size = 400, 64 << 10
	b := New(Options{Handle: func(in cluster.Input) {
		p, ok := in.(cluster.Packet)
		if !ok {
			return
		}
		<-gate
		n := seen.Add(1)
		if want := packet(size, byte(n)); !bytes.Equal(p.Data, want) {
			select {
			case wrong <- "packet " + strconv.Itoa(int(n)) + " is another one":
			default:
			}
		}
		if n == packets {
			close(done)
		}
	}})
	t.Cleanup(b.Close)
	a.Connect(1, "127.0.0.1", listen(t, b))
	next[cluster.LinkUp](t, inA)
	for i := range packets {
		a.Send(1, packet(size, byte(i+1)))
		if i == packets/2 {
			close(gate)
		}
	}
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("%d of %d packets came", seen.Load(), packets)
	}
	select {
	case text := <-wrong:
		t.Fatal(text)
	default:
	}
}

func TestLimitClosesALinkThatDoesNotRead(t *testing.T) {
	a, in := newBus(t)
	a.SetLimit(1 << 20)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	a.Connect(1, "127.0.0.1", ln.Addr().(*net.TCPAddr).Port)
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	next[cluster.LinkUp](t, in)
	p := packet(64<<10, 'x')
	for range 10000 { // far beyond what the kernel takes
		a.Send(1, p)
	}
	if down := next[cluster.LinkDown](t, in); !down.BufferLimit {
		t.Fatalf("%+v", down)
	}
	if n, bytes := a.Links(); n != 0 || bytes != 0 {
		t.Fatalf("%d links, %d bytes", n, bytes)
	}
}
