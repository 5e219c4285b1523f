package bus

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"

	"holdfast/internal/redis/cluster"
)

// The figures are those of CLUSTER LINKS in a genuine node.
func TestBuffersGrowAndShrinkAsInRedis(t *testing.T) {
	for _, c := range []struct {
		what             string
		packet           int64
		allocs           []int64 // behind each packet
		left             []int64 // bytes not written yet when the timer comes
		afterTimer, used int64
	}{
		{"a ping", 2360, []int64{5114}, nil, 0, 0},
		{"a ping that waits", 2360, []int64{5114}, []int64{2360}, 5114, 2360},
		{"messages of a transaction", 12271, []int64{24570, 24570, 81910, 81910, 81910, 81910, 196598}, nil, 0, 0},
		{"a large message", 133343, []int64{327670, 327670, 917494}, nil, 0, 0},
		{"the little that is left of one", 133343, []int64{327670}, []int64{99385, 65535, 65534, 30000}, 30000, 30000},
	} {
		alloc, used := int64(0), int64(0)
		for i, want := range c.allocs {
			if alloc = grown(alloc, used, c.packet); alloc != want {
				t.Errorf("%s: %d bytes behind packet %d, want %d", c.what, alloc, i+1, want)
			}
			used += c.packet
		}
		used = 0
		for _, used = range c.left {
			if used > 65534 && shrunk(alloc, used) != alloc {
				t.Errorf("%s: shrinks though %d bytes wait", c.what, used)
			}
		}
		if alloc = shrunk(alloc, used); alloc != c.afterTimer || used != c.used {
			t.Errorf("%s: %d bytes for %d behind the timer, want %d for %d", c.what, alloc, used, c.afterTimer, c.used)
		}
	}
	for size, want := range map[int64]int64{1: 8, 9: 16, 128: 128, 129: 160, 4726: 5120, 5120: 5120, 5121: 6144, 1 << 20: 1 << 20, 1<<20 + 1: 1280 << 10} {
		if got := sizeClass(size); got != want {
			t.Errorf("%d bytes take %d, want %d", size, got, want)
		}
	}
}

// silent is a link to a peer that does not read.
func silent(t *testing.T) (a *Bus, in chan cluster.Input, peer net.Conn) {
	t.Helper()
	a, in = newBus(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	a.Connect(1, "127.0.0.1", ln.Addr().(*net.TCPAddr).Port)
	if peer, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = peer.Close() })
	next[cluster.LinkUp](t, in)
	return a, in, peer
}

func within(t *testing.T, what string, fn func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !fn(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

// What has been sent is no reason to close a link, however small the limit.
func TestLimitSparesALinkThatIsRead(t *testing.T) {
	a, in := newBus(t)
	b, inB := newBus(t)
	a.Connect(1, "127.0.0.1", listen(t, b))
	next[cluster.LinkUp](t, in)
	next[cluster.InboundUp](t, inB)
	for range 5 {
		for range 5 {
			a.Send(1, packet(2360, 'x'))
		}
		for range 5 {
			next[cluster.Packet](t, inB)
		}
		within(t, "nothing waits", func() bool { _, used := a.Buffered(1); return used == 0 })
		a.SetLimit(1)
		within(t, "the links were looked at", func() bool { return !a.looking.Load() })
		within(t, "the buffer is given back", func() bool { alloc, _ := a.Buffered(1); return alloc == 0 })
		a.SetLimit(0) // a packet may be waiting when the next look comes
	}
	select {
	case i := <-in:
		t.Fatalf("%#v", i)
	default:
	}
}

func TestLimitTellsTheSizeThatExceededIt(t *testing.T) {
	a, in, _ := silent(t)
	p := packet(128<<10, 'x')
	within(t, "the socket is full", func() bool {
		a.Send(1, p)
		_, used := a.Buffered(1)
		return used > 1<<20
	})
	alloc, used := a.Buffered(1)
	if alloc <= used {
		t.Errorf("%d bytes for %d", alloc, used)
	}
	select {
	case i := <-in:
		t.Fatalf("without a limit: %#v", i)
	default:
	}
	a.SetLimit(alloc) // not exceeded
	a.SetLimit(used)
	if down := next[cluster.LinkDown](t, in); !down.BufferLimit || down.Buffer != alloc {
		t.Errorf("%+v, want one with a buffer of %d bytes", down, alloc)
	}
	if n, bytes := a.Links(); n != 0 || bytes != 0 {
		t.Errorf("%d links, %d bytes", n, bytes)
	}
}

// What the peer has taken of a packet waits no more.
func TestPartsOfAPacketThatAreSentDoNotCount(t *testing.T) {
	a, _, peer := silent(t)
	p := packet(24<<20, 'x') // more than sockets hold
	a.Send(1, p)
	whole := int64(len(p))
	within(t, "a part of it is sent", func() bool { _, used := a.Buffered(1); return used > 0 && used < whole })
	got := make([]byte, len(p))
	for n := 0; n < len(got); {
		m, err := peer.Read(got[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += m
	}
	if !bytes.Equal(got, p) {
		t.Error("other bytes came")
	}
	within(t, "nothing waits", func() bool { alloc, used := a.Buffered(1); return alloc == 0 && used == 0 })
}

// Over TLS, whose connections are written to in another way, all arrives too.
func TestBlockedTLSLinkGoesOn(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	conf := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, InsecureSkipVerify: true}
	in, inB := make(chan cluster.Input, 1000), make(chan cluster.Input)
	a := New(Options{Handle: func(i cluster.Input) { in <- i }, ClientTLS: func() *tls.Config { return conf }})
	t.Cleanup(a.Close)
	done := make(chan struct{})
	b := New(Options{Handle: func(i cluster.Input) {
		select {
		case inB <- i:
		case <-done:
		}
	}, ServerTLS: func() *tls.Config { return conf }})
	t.Cleanup(func() { close(done); b.Close() })
	a.Connect(1, "127.0.0.1", listen(t, b))
	next[cluster.LinkUp](t, in)
	next[cluster.InboundUp](t, inB)
	const packets, size = 20, 1 << 20
	for i := range packets {
		a.Send(1, packet(size, byte('a'+i)))
	}
	within(t, "some of it waits", func() bool { _, used := a.Buffered(1); return used > 0 && used < packets*size })
	for i := range packets {
		if p := next[cluster.Packet](t, inB); !bytes.Equal(p.Data, packet(size, byte('a'+i))) {
			t.Fatalf("packet %d is another one", i)
		}
	}
	within(t, "nothing waits", func() bool { _, used := a.Buffered(1); return used == 0 })
}
