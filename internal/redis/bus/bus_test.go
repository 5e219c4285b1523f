package bus

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"strconv"
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
	r := &counting{r: bytes.NewReader(packet(100000, 'x'))}
	if _, err := readPacket(r, 1<<30); err != io.ErrUnexpectedEOF && err != io.EOF {
		t.Fatal(err)
	}
	if r.most > 1<<20 {
		t.Fatalf("a buffer of %d bytes for 100,000 that came", r.most)
	}
}

// counting notes the longest buffer it was given.
type counting struct {
	r    io.Reader
	most int
}

func (c *counting) Read(b []byte) (int, error) {
	c.most = max(c.most, len(b))
	return c.r.Read(b)
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
