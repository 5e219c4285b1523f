package server

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/test/proc"
)

// Everything at once: made for a binary that is built with -race, which
// HOLDFAST_SERVER_BINARY can name.
func TestMixedLoad(t *testing.T) {
	soak(t)
	certs := newCerts(t)
	dir := t.TempDir()
	s := startIn(t, dir, append(certs.args(t, "no"), "--save", "2 100", "--io-loops", "3", "--timeout", "30", debugOn, "yes",
		"--client-output-buffer-limit", "pubsub 1mb 256kb 2", "--auto-aof-rewrite-min-size", "1mb")...)
	admin := s.dial()
	must(t, admin, "DEBUG", "POPULATE", "20000", "p", "100")
	end := time.Now().Add(20 * time.Second)
	var wg sync.WaitGroup
	errs := make(chan error, 100)
	// worker repeats a step on a connection, and takes a new one when it is closed.
	worker := func(tls bool, step func(c *proc.Conn, i int) error) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := 0; time.Now().Before(end); {
				c, err := proc.Dial(s.port, limit)
				if tls && err == nil {
					c.Close()
					c, err = certs.connect(false)
				}
				if err != nil {
					errs <- err
					return
				}
				for err == nil && time.Now().Before(end) {
					err = step(c, i)
					i++
				}
				c.Close()
			}
		}()
	}
	run := func(lines ...string) func(c *proc.Conn, i int) error {
		return func(c *proc.Conn, i int) error {
			for _, l := range lines {
				c.Send(strings.Fields(strings.ReplaceAll(l, "#", strconv.Itoa(i%100)))...)
			}
			if err := c.Flush(); err != nil {
				return err
			}
			for range lines {
				if _, err := c.Recv(); err != nil {
					return err
				}
			}
			return nil
		}
	}
	for _, tls := range []bool{false, true} {
		worker(tls, run("SET k# #", "GET k#", "INCR n", "DEL p:#", "SETEX t# 1 x", "HSET h f# #", "LPUSH l #", "LTRIM l 0 50"))
		worker(tls, run("MULTI", "INCR a", "ZINCRBY z 1 #", "PUBLISH ch #", "EXEC", "WATCH k#", "UNWATCH"))
		worker(tls, run("BLPOP q# 0.05", "BLPOP q1 q2 q3 0.02"))
		worker(tls, run("RPUSH q# x", "BRPOPLPUSH q# r# 0.01", "BZPOPMIN z 0.01"))
		worker(tls, run("SUBSCRIBE ch", "PSUBSCRIBE c*", "PING", "UNSUBSCRIBE", "PUNSUBSCRIBE"))
		worker(tls, run("PUBLISH ch "+strings.Repeat("m", 20000)))
		worker(tls, run("CLIENT LIST", "INFO everything", "CLIENT NO-EVICT on", "CLIENT REPLY SKIP", "PING"))
	}
	worker(false, func(c *proc.Conn, i int) error {
		c.Send("SUBSCRIBE", "ch") // never reads
		if err := c.Flush(); err != nil {
			return err
		}
		<-time.After(2 * time.Second)
		return fmt.Errorf("another connection")
	})
	worker(false, func(c *proc.Conn, i int) error {
		if _, err := c.Do("MONITOR"); err != nil {
			return err
		}
		for range 1000 {
			if _, err := c.Recv(); err != nil {
				return err
			}
		}
		return fmt.Errorf("another connection")
	})
	kill := run("CLIENT KILL TYPE pubsub", "CLIENT KILL TYPE normal SKIPME yes")
	worker(false, func(c *proc.Conn, i int) error {
		<-time.After(400 * time.Millisecond)
		return kill(c, i)
	})
	admins := []string{"BGSAVE", "BGREWRITEAOF", "CONFIG SET appendfsync always", "CONFIG SET appendfsync everysec", "CONFIG SET appendonly no",
		"CONFIG SET appendonly yes", "CONFIG SET maxmemory-policy allkeys-lru", "CONFIG SET hz 50", "CONFIG SET loglevel verbose", "CONFIG SET tcp-keepalive 10",
		"CONFIG SET maxclients 500", "CONFIG SET save 1", "CONFIG RESETSTAT", "CLIENT PAUSE 20 WRITE", "CLIENT PAUSE 10 ALL", "FLUSHDB ASYNC", "DEBUG POPULATE 5000 p 50",
		"SWAPDB 0 1", "MEMORY STATS", "SLOWLOG GET", "LATENCY RESET", "CONFIG SET timeout 20", "CONFIG SET proto-max-bulk-len 2mb", "CONFIG SET client-query-buffer-limit 2mb",
		"CONFIG SET requirepass secret", "AUTH secret", "CONFIG SET requirepass ", "SAVE", "DEBUG CHANGE-REPL-ID"}
	worker(true, func(c *proc.Conn, i int) error {
		line := admins[rand.IntN(len(admins))]
		args := strings.Fields(line)
		if strings.HasSuffix(line, " ") {
			args = append(args, "")
		}
		if line == "CONFIG SET save 1" {
			args = []string{"CONFIG", "SET", "save", "1 1"}
		}
		_, err := c.Do(args...)
		<-time.After(30 * time.Millisecond)
		return err
	})
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	admin = s.dial()
	do(t, admin, "AUTH", "secret")
	must(t, admin, "CONFIG", "SET", "requirepass", "")
	must(t, admin, "CONFIG", "SET", "appendonly", "yes")
	eventually(t, "snapshots end", func() bool {
		return info(t, admin, "rdb_bgsave_in_progress") == "0" && info(t, admin, "aof_rewrite_in_progress") == "0"
	})
	must(t, admin, "DEBUG", "SET-ACTIVE-EXPIRE", "0")
	if strings.Contains(s.Output(), "DATA RACE") {
		t.Fatalf("races:\n%s", s.Output())
	}
	if err := s.Terminate(limit); err != nil {
		t.Fatal(err)
	}
	startIn(t, dir, "--save", "")
}
