package server_test

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
)

// fakeMaster is a master that serves one snapshot, whatever it is.
type fakeMaster struct{ port int }

func newFakeMaster(t *testing.T, snapshot string) *fakeMaster {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go serveFake(nc, snapshot)
		}
	}()
	return &fakeMaster{port: ln.Addr().(*net.TCPAddr).Port}
}

func serveFake(nc net.Conn, snapshot string) {
	defer nc.Close()
	r := bufio.NewReader(nc)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		word := strings.ToUpper(strings.TrimSpace(line))
		reply := ""
		switch {
		case word == "PING":
			reply = "+PONG\r\n"
		case word == "REPLCONF":
			reply = "+OK\r\n"
		case word == "INFO":
			reply = "-ERR unknown command\r\n"
		case word == "PSYNC":
			reply = fmt.Sprintf("+FULLRESYNC %s 100\r\n$%d\r\n%s", strings.Repeat("ab", 20), len(snapshot), snapshot)
		}
		if _, err := nc.Write([]byte(reply)); err != nil {
			return
		}
	}
}
