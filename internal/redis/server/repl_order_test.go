package server_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// rawReplica is a connection that has asked for the stream and reads it.
func rawReplica(t *testing.T, n *node) *net.TCPConn {
	t.Helper()
	host, port := n.addr()
	nc, err := net.Dial("tcp", net.JoinHostPort(host, port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	if err := nc.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(nc, "REPLCONF capa psync2\r\nPSYNC ? -1\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(nc)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if size, found := strings.CutPrefix(line, "$"); found {
			n, err := strconv.Atoi(strings.TrimSpace(size))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Discard(n); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	// The first write is behind whatever the reader has buffered.
	n.do("SET", "first", "x")
	for got := ""; !strings.Contains(got, "first"); {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		got += line
	}
	if err := nc.SetReadDeadline(time.Time{}); err != nil { // arrived waits for nothing
		t.Fatal(err)
	}
	return nc.(*net.TCPConn)
}

// arrived is what a socket holds now, taken from it.
func arrived(t *testing.T, nc *net.TCPConn) string {
	t.Helper()
	raw, err := nc.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		for b := make([]byte, 4096); ; {
			n, err := syscall.Read(int(fd), b)
			if n <= 0 {
				failed = err
				return true
			}
			got = append(got, b[:n]...)
		}
	})
	if err = errors.Join(err, failed); err != nil && !errors.Is(err, syscall.EAGAIN) {
		t.Fatal(err)
	}
	return string(got)
}

// A write is in the sockets of the replicas before it is answered: what a client
// has been told survives the process that told it.
func TestReplicasAreSentAWriteBeforeItsReply(t *testing.T) {
	t.Parallel()
	for _, journal := range []string{"no", "yes"} {
		t.Run("appendonly "+journal, func(t *testing.T) {
			n := ours(t, "--io-loops", "1", "--repl-diskless-sync", "no", "--appendonly", journal)
			r := rawReplica(t, n)
			const writes = 300
			late := 0
			for i := range writes {
				key := fmt.Sprintf("key:%d:", i)
				n.do("SET", key, "x")
				if !strings.Contains(arrived(t, r), key) {
					late++
				}
			}
			// The kernel may hand a segment on later than the next one on a busy machine.
			if late > writes/20 {
				t.Errorf("%d of %d writes were answered before the replica had them", late, writes)
			}
		})
	}
}
