package server

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/test/proc"
)

func TestMaxClientsRefusesWithTheText(t *testing.T) {
	t.Parallel()
	s := start(t, "--maxclients", "3")
	held := []*proc.Conn{s.dial()}
	eventually(t, "who asked whether it serves is forgotten", func() bool { return info(t, held[0], "connected_clients") == "1" })
	for range 2 {
		c := s.dial()
		must(t, c, "PING")
		held = append(held, c)
	}
	c := s.dial()
	b, err := io.ReadAll(c.Net())
	if err != nil || string(b) != "-ERR max number of clients reached\r\n" {
		t.Fatalf("%q, %v", b, err)
	}
	if n := infoInt(t, held[0], "rejected_connections"); n < 1 {
		t.Errorf("rejected_connections:%d", n)
	}
	must(t, held[0], "CONFIG", "SET", "maxclients", "10")
	must(t, s.dial(), "PING")
}

func TestIdleClientsAreClosedAfterTimeout(t *testing.T) {
	t.Parallel()
	s := start(t, "--timeout", "3600")
	idle, sub, blocked := s.dial(), s.dial(), s.dial()
	do(t, sub, "SUBSCRIBE", "ch")
	blocked.Send("BLPOP", "nothing", "0")
	if err := blocked.Flush(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it blocks", func() bool { return info(t, idle, "blocked_clients") == "1" })
	must(t, idle, "CONFIG", "SET", "timeout", "1")
	if !closed(t, idle.Net()) {
		t.Fatal("an idle client was not closed")
	}
	var c *proc.Conn // who is slower than a second is closed, too
	eventually(t, "somebody comes who is quick enough", func() bool {
		c = s.dial()
		v, err := c.Do("CONFIG", "SET", "timeout", "0")
		return err == nil && v.Str == "OK"
	})
	wantText(t, c, "1", "PUBLISH", "ch", "m")
	wantText(t, c, "1", "RPUSH", "nothing", "x")
	if v, err := blocked.Recv(); err != nil || len(v.List) != 2 {
		t.Fatal(v, err)
	}
}

func TestUnixSocketHasItsPermissions(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s.sock")
	s := start(t, "--unixsocket", path, "--unixsocketperm", "700")
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o700 {
		t.Fatal(st.Mode(), err)
	}
	nc, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c := proc.NewConn(nc, limit)
	defer c.Close()
	if got := must(t, c, "CLIENT", "INFO"); !strings.Contains(got, " addr="+path+":0 laddr="+path+":0 ") || !strings.Contains(got, " flags=U ") {
		t.Error(got)
	}
	s.waitLog("The server is now ready to accept connections at " + path)
	if err := s.Terminate(limit); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the socket's file is left behind")
	}
}

// over runs a test with one loop and with three.
func over(t *testing.T, test func(t *testing.T, s *instance)) {
	for _, n := range []string{"1", "3"} {
		t.Run("io-loops="+n, func(t *testing.T) { test(t, start(t, "--io-loops", n)) })
	}
}

func TestPubSubReachesClientsOfAllLoops(t *testing.T) {
	t.Parallel()
	over(t, func(t *testing.T, s *instance) {
		const subs, messages = 12, 2000
		var wg sync.WaitGroup
		errs := make(chan error, subs)
		for range subs {
			c := s.dial()
			do(t, c, "SUBSCRIBE", "storm")
			wg.Add(1)
			go func() {
				defer wg.Done()
				for i := range messages {
					v, err := c.Recv()
					if err != nil || len(v.List) != 3 || v.List[2].Str != strconv.Itoa(i) {
						errs <- fmt.Errorf("message %d: %v, %v", i, v, err)
						return
					}
				}
			}()
		}
		p := s.dial()
		for i := range messages {
			p.Send("PUBLISH", "storm", strconv.Itoa(i))
		}
		if err := p.Flush(); err != nil {
			t.Fatal(err)
		}
		for range messages {
			if v, err := p.Recv(); err != nil || v.Int != subs {
				t.Fatal(v, err)
			}
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			t.Error(err)
		}
	})
}

// No wake-up is lost: 200 clients block, and pushers of other loops serve them.
func TestBlockedClientsAreServedFromAllLoops(t *testing.T) {
	t.Parallel()
	over(t, func(t *testing.T, s *instance) {
		const clients, rounds = 200, 10
		var wg sync.WaitGroup
		errs := make(chan error, clients)
		for i := range clients {
			c := s.dial()
			wg.Add(1)
			go func() {
				defer wg.Done()
				for range rounds {
					v, err := c.Do("BLPOP", "q"+strconv.Itoa(i%7), "0")
					if err != nil || len(v.List) != 2 {
						errs <- fmt.Errorf("client %d: %v %v", i, v, err)
						return
					}
				}
			}()
		}
		for p := range 4 {
			c := s.dial()
			wg.Add(1)
			go func() {
				defer wg.Done()
				for n := p; n < clients*rounds; n += 4 {
					// As many per queue as its clients take.
					if v, err := c.Do("RPUSH", "q"+strconv.Itoa(n%clients%7), "x"); err != nil || v.Err() != nil {
						errs <- fmt.Errorf("push: %v %v", v, err)
						return
					}
				}
			}()
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			t.Error(err)
		}
		if n := infoInt(t, s.dial(), "blocked_clients"); n != 0 {
			t.Errorf("blocked_clients:%d", n)
		}
	})
}

func TestClientKillAcrossLoops(t *testing.T) {
	t.Parallel()
	over(t, func(t *testing.T, s *instance) {
		killer := s.dial()
		for range 6 {
			c := s.dial()
			id := must(t, c, "CLIENT", "ID")
			wantText(t, killer, "1", "CLIENT", "KILL", "ID", id)
			if !closed(t, c.Net()) {
				t.Fatal("a killed client was not closed")
			}
		}
		wantText(t, killer, "PONG", "PING")
	})
}

func TestMonitorSeesAllLoops(t *testing.T) {
	t.Parallel()
	over(t, func(t *testing.T, s *instance) {
		m := s.dial()
		wantText(t, m, "OK", "MONITOR")
		for i := range 6 {
			must(t, s.dial(), "SET", "k"+strconv.Itoa(i), "v")
			v, err := m.Recv()
			if err != nil || !strings.HasSuffix(v.Str, fmt.Sprintf(`"SET" "k%d" "v"`, i)) {
				t.Fatal(v, err)
			}
		}
	})
}

func TestPubSubOutputLimitClosesTheClient(t *testing.T) {
	t.Parallel()
	for _, tls := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%v", tls), func(t *testing.T) {
			var s *instance
			var slow *proc.Conn
			args := []string{"--client-output-buffer-limit", "pubsub 1mb 0 0"}
			if tls {
				certs := newCerts(t)
				s = start(t, append(args, certs.args(t, "no")...)...)
				slow = certs.dial(t, s, false)
			} else {
				s = start(t, args...)
				slow = s.dial()
			}
			do(t, slow, "SUBSCRIBE", "ch")
			p := s.dial()
			message := strings.Repeat("m", 100<<10)
			eventually(t, "the slow subscriber is closed", func() bool {
				return do(t, p, "PUBLISH", "ch", message).Int == 0
			})
			s.waitLog("scheduled to be closed ASAP for overcoming of output buffer limits.")
			if !closed(t, slow.Net()) {
				t.Error("still open")
			}
			wantText(t, p, "PONG", "PING")
		})
	}
}

func TestPubSubSoftLimitClosesAfterItsTime(t *testing.T) {
	t.Parallel()
	s := start(t, "--client-output-buffer-limit", "pubsub 0 256kb 1")
	slow, p := s.dial(), s.dial()
	do(t, slow, "SUBSCRIBE", "ch")
	message := strings.Repeat("m", 100<<10)
	begin := time.Now()
	for range 120 { // more than the socket's buffers take
		if do(t, p, "PUBLISH", "ch", message).Int > 0 {
			continue
		}
		if d := time.Since(begin); d < time.Second {
			t.Fatalf("closed after %s, before the time of the soft limit", d)
		}
		break // the machine is so slow that the time was over before the messages were
	}
	eventually(t, "the slow subscriber is closed", func() bool {
		return do(t, p, "PUBSUB", "NUMSUB", "ch").List[1].Int == 0
	})
	s.waitLog("overcoming of output buffer limits")
}

func TestQueryBufferLimitClosesTheClient(t *testing.T) {
	t.Parallel()
	s := start(t, "--client-query-buffer-limit", "1mb")
	c := s.dial()
	if _, err := c.Net().Write([]byte("*2\r\n$3\r\nGET\r\n$100000000\r\n")); err != nil {
		t.Fatal(err)
	}
	chunk := bytes.Repeat([]byte("x"), 256<<10)
	for range 20 {
		if _, err := c.Net().Write(chunk); err != nil {
			break
		}
	}
	if !closed(t, c.Net()) {
		t.Fatal("not closed")
	}
	s.waitLog("Closing client that reached max query buffer length")
	must(t, s.dial(), "PING")
}

// What is sent before the end of the input is answered.
func TestHalfClosedConnectionGetsItsReplies(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.dial()
	if _, err := c.Net().Write([]byte("SET k v\r\nGET k\r\n")); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"OK", "v"} {
		if v, err := c.Recv(); err != nil || v.Text() != want {
			t.Fatal(v, err)
		}
	}
	if err := c.Net().(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if !closed(t, c.Net()) {
		t.Fatal("still open")
	}
	eventually(t, "the server forgets the client", func() bool { return infoInt(t, s.dial(), "connected_clients") >= 1 })
}

// A client that asks for much and never reads stops nobody else.
func TestClientThatNeverReadsStopsNobody(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.dial()
	value := strings.Repeat("v", 40)
	for i := 0; i < 300_000; {
		args := []string{"RPUSH", "big"}
		for range 1000 {
			args = append(args, value)
			i++
		}
		c.Send(args...)
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	for range 300 {
		if v, err := c.Recv(); err != nil || v.Err() != nil {
			t.Fatal(v, err)
		}
	}
	mute := s.dial()
	for range 5 {
		mute.Send("LRANGE", "big", "0", "-1")
	}
	if err := mute.Flush(); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		wantText(t, c, "PONG", "PING")
	}
	// It reads after all, and gets everything.
	for range 5 {
		if v, err := mute.Recv(); err != nil || len(v.List) != 300_000 {
			t.Fatal(len(v.List), err)
		}
	}
	// What was held for it is given back.
	eventually(t, "output memory is given back", func() bool { return infoInt(t, c, "mem_clients_normal") < 4<<20 })
}

func TestHugePipelineIsAnsweredInOrder(t *testing.T) {
	t.Parallel()
	s := start(t, "--io-loops", "2")
	c, other := s.dial(), s.dial()
	const n = 100_000
	done := make(chan error, 1)
	go func() { // in pieces, since each Flush has its deadline
		var err error
		for i := 0; i < n && err == nil; i++ {
			c.Send("SET", "k", strconv.Itoa(i))
			c.Send("GET", "k")
			if i%10_000 == 9_999 {
				err = c.Flush()
			}
		}
		done <- err
	}()
	for i := range n {
		if v, err := c.Recv(); err != nil || v.Str != "OK" {
			t.Fatal(i, v, err)
		}
		if v, err := c.Recv(); err != nil || v.Str != strconv.Itoa(i) {
			t.Fatal(i, v, err)
		}
		if i%10_000 == 0 {
			wantText(t, other, "PONG", "PING")
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestLargeValueRoundTrip(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.dial()
	repeat := 1 << 20 // 16 MiB
	if os.Getenv("HOLDFAST_SOAK") != "" {
		repeat = 4 << 20
	}
	value := strings.Repeat("0123456789abcdef", repeat)
	must(t, c, "SET", "big", value)
	if got := must(t, c, "GET", "big"); got != value {
		t.Fatalf("%d bytes came back, or others", len(got))
	}
	must(t, c, "DEL", "big")
}

func TestRequestsByteByByte(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.dial()
	if err := c.Net().(*net.TCPConn).SetNoDelay(true); err != nil {
		t.Fatal(err)
	}
	for i, request := range []string{"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nhello\r\n", "GET k\r\n", "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"} {
		for j := range len(request) {
			if _, err := c.Net().Write([]byte{request[j]}); err != nil {
				t.Fatal(err)
			}
		}
		want := "hello"
		if i == 0 {
			want = "OK"
		}
		if v, err := c.Recv(); err != nil || v.Text() != want {
			t.Fatal(v, err)
		}
	}
}

func TestConnectionStorm(t *testing.T) {
	t.Parallel()
	s := start(t, "--io-loops", "3")
	const workers, each = 20, 100
	var wg sync.WaitGroup
	errs := make(chan error, workers)
	for range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range each {
				c, err := proc.Dial(s.port, limit)
				if err != nil {
					errs <- err
					return
				}
				v, err := c.Do("PING")
				c.Close()
				if err != nil || v.Str != "PONG" {
					errs <- fmt.Errorf("%v %v", v, err)
					return
				}
			}
		}()
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	c := s.dial()
	eventually(t, "all clients are forgotten", func() bool { return info(t, c, "connected_clients") == "1" })
}

// Out of descriptors: who comes is told so, who is there is served, and it is
// over when descriptors are free again.
func TestOutOfDescriptors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := launch(t, []string{"/bin/sh", "-c", `ulimit -n 60; exec "$0" redis-server "$@"`, binary}, dir, nil, "--save", "", "--maxclients", "40")
	if err := s.Ready(limit); err != nil {
		t.Fatal(err)
	}
	s.waitLog("maxclients has been reduced to")
	c := s.dial()
	wantText(t, c, "ERR CONFIG SET failed (possibly related to argument 'maxclients') - The operating system is not able to handle the specified number of clients, try with 28",
		"CONFIG", "SET", "maxclients", "10000")
	var held []net.Conn
	for range 80 {
		nc, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)))
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, nc)
	}
	wantText(t, c, "PONG", "PING")
	for _, nc := range held {
		_ = nc.Close()
	}
	eventually(t, "new clients are served again", func() bool {
		d, err := proc.Dial(s.port, limit)
		if err != nil {
			return false
		}
		defer d.Close()
		v, err := d.Do("PING")
		return err == nil && v.Str == "PONG"
	})
}

// An idle server sleeps, and idle connections cost little.
func TestIdleServerSleepsAndIdleConnectionsAreSmall(t *testing.T) {
	const conns = 2000
	s := start(t)
	c := s.dial()
	must(t, c, "PING")
	before, err := s.RSS()
	if err != nil {
		t.Fatal(err)
	}
	payload := strings.Repeat("x", 8000)
	for range conns {
		k := s.dial()
		must(t, k, "ECHO", payload)
	}
	after, err := s.RSS()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes per connection right after use", (after-before)/conns)
	if per := (after - before) / conns; per > 64<<10 {
		t.Errorf("%d bytes per connection", per)
	}
	cpu, err := s.CPU()
	if err != nil {
		t.Fatal(err)
	}
	<-time.After(time.Second) // the measured interval, not a wait for something
	cpu2, err := s.CPU()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s of processor time in an idle second", cpu2-cpu)
	if cpu2-cpu > 300*time.Millisecond {
		t.Errorf("an idle server used %s in a second", cpu2-cpu)
	}
}

func TestClientPauseKeepsPipelinesInOrder(t *testing.T) {
	t.Parallel()
	over(t, func(t *testing.T, s *instance) {
		admin, c := s.dial(), s.dial()
		must(t, c, "SET", "k", "0")
		must(t, admin, "CLIENT", "PAUSE", "100000", "WRITE")
		for range 100 {
			c.Send("GET", "k")
			c.Send("INCR", "k")
		}
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
		if v, err := c.Recv(); err != nil || v.Str != "0" {
			t.Fatal(v, err)
		}
		wantText(t, admin, "0", "GET", "k")
		must(t, admin, "CLIENT", "UNPAUSE")
		for i := range 100 {
			if i > 0 {
				if v, err := c.Recv(); err != nil || v.Str != strconv.Itoa(i) {
					t.Fatal(i, v, err)
				}
			}
			if v, err := c.Recv(); err != nil || v.Int != int64(i+1) {
				t.Fatal(i, v, err)
			}
		}
		// And one that ends by itself.
		must(t, admin, "CLIENT", "PAUSE", "50", "ALL")
		wantText(t, c, "101", "INCR", "k")
	})
}

func TestReplyOffAndSkip(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.dial()
	for _, line := range []string{"CLIENT REPLY SKIP", "SET k 1", "GET k", "CLIENT REPLY OFF", "SET k 2", "GET k", "CLIENT REPLY ON", "GET k"} {
		c.Send(strings.Fields(line)...)
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1", "OK", "2"} {
		if v, err := c.Recv(); err != nil || v.Text() != want {
			t.Fatalf("%q %v, want %q", v.Text(), err, want)
		}
	}
}

// otherAddress is an address of this machine that is not loopback. Connections
// may come from it, though the server listens on 127.0.0.1 alone.
func otherAddress(t *testing.T) net.IP {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			return n.IP
		}
	}
	t.Skip("this machine has no address but loopback")
	return nil
}

func firstWords(t *testing.T, from net.IP, port int) string {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: limit}
	nc, err := d.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		t.Skip("no connection from another address:", err)
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	// Only a client that is let in gets this answered. Who is refused may find
	// the connection reset, but not before the refusal has come.
	b := make([]byte, 4096)
	n, err := nc.Read(b[:1])
	if err == nil {
		var m int
		m, _ = io.ReadFull(nc, b[1:])
		n += m
	}
	return string(b[:n])
}

func TestProtectedModeRefusesOtherMachines(t *testing.T) {
	t.Parallel()
	from := otherAddress(t)
	s := start(t)
	got := firstWords(t, from, s.port)
	if !strings.HasPrefix(got, "-DENIED Redis is running in protected mode") {
		t.Fatalf("%q", got)
	}
	g := genuineIn(t, t.TempDir(), "--save", "")
	if want := firstWords(t, from, g.port); got != want {
		t.Errorf("ours    %q\ngenuine %q", got, want)
	}
	c := s.dial()
	must(t, c, "CONFIG", "SET", "requirepass", "secret")
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: limit}
	nc, err := d.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)))
	if err != nil {
		t.Fatal(err)
	}
	k := proc.NewConn(nc, limit)
	defer k.Close()
	wantText(t, k, "OK", "AUTH", "secret")
	wantText(t, k, "PONG", "PING")
}
