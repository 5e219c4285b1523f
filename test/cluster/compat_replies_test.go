package cluster

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/test/proc"
)

// What a client of a cluster is answered is the same, to the letter, on genuine
// nodes and on ours: the same requests go to a cluster of each, and what comes
// back is compared with ids and ports given names.

// side is one of the two clusters.
type side struct {
	nodes []*node
	ids   []string
	names *strings.Replacer // ids and addresses to names
	ports *strings.Replacer // and ports, where no other number may be one
	args  *strings.Replacer // names to ids and ports, in requests
	conns map[string]*talker
	lines []string
}

// bothSides builds a cluster of three masters and a replica of the first, of
// either kind, and runs a script on both at once.
func bothSides(t *testing.T, script func(t *testing.T, s *side), args ...string) {
	t.Helper()
	sides := map[kind]*side{genuineNodes: {}, ourNodes: {}}
	t.Run("sides", func(t *testing.T) {
		for k, s := range sides {
			t.Run(string(k), func(t *testing.T) {
				t.Parallel()
				s.nodes = startNodes(t, k, 4, args...)
				join(t, s.nodes, 3)
				s.name()
				for _, n := range s.nodes {
					n.eventually("all know the replica", func() bool { return strings.Contains(n.do("CLUSTER", "NODES").Str, "slave "+s.ids[0]) })
				}
				script(t, s)
			})
		}
	})
	want, got := sides[genuineNodes].lines, sides[ourNodes].lines
	if t.Failed() || len(want) != len(got) {
		t.Fatalf("%d lines of genuine nodes, %d of ours", len(want), len(got))
	}
	for i := range want {
		if want[i] != got[i] {
			t.Errorf("genuine:\n  %s\nours:\n  %s", want[i], got[i])
		}
	}
}

// name collects what stands for a node in replies.
func (s *side) name() {
	var names, ports, args []string
	for i, n := range s.nodes {
		id, name, port := n.id(), strconv.Itoa(i), strconv.Itoa(n.port)
		s.ids = append(s.ids, id)
		names = append(names, id, "<id"+name+">", n.addr(), "<addr"+name+">")
		ports = append(ports, strconv.Itoa(n.port+busAbove), "<bus"+name+">", port, "<port"+name+">")
		args = append(args, "<id"+name+">", id, "<port"+name+">", port, "''", "")
	}
	s.names, s.ports, s.args = strings.NewReplacer(names...), strings.NewReplacer(ports...), strings.NewReplacer(args...)
	s.conns = map[string]*talker{}
}

// run sends the requests of a text, one a line: the node's number, with "/3" for
// RESP3, then the words. Each node and protocol has one connection.
func (s *side) run(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		for i, w := range words {
			words[i] = s.args.Replace(w)
		}
		s.note(strings.TrimSpace(line), s.talk(t, words[0]).do(t, words[1:]...))
	}
}

func (s *side) note(what, reply string) {
	s.lines = append(s.lines, what+": "+s.names.Replace(reply))
}

// talk is the connection to a node, "1", or "1/3" with RESP3.
func (s *side) talk(t *testing.T, where string) *talker {
	t.Helper()
	if c := s.conns[where]; c != nil {
		return c
	}
	number, proto, _ := strings.Cut(where, "/")
	i, err := strconv.Atoi(number)
	if err != nil {
		t.Fatal(err)
	}
	nc, err := net.Dial("tcp", s.nodes[i].addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	c := &talker{nc, bufio.NewReader(nc)}
	s.conns[where] = c
	if proto != "" {
		c.do(t, "HELLO", proto)
	}
	return c
}

// talker renders replies of both protocols as text that shows their types.
type talker struct {
	nc net.Conn
	r  *bufio.Reader
}

func (c *talker) do(t *testing.T, args ...string) string {
	t.Helper()
	req := fmt.Appendf(nil, "*%d\r\n", len(args))
	for _, a := range args {
		req = fmt.Appendf(req, "$%d\r\n%s\r\n", len(a), a)
	}
	if err := c.nc.SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	_, err := c.nc.Write(req)
	var v string
	if err == nil {
		v, err = c.read()
	}
	if err != nil {
		t.Fatalf("%q: %s", args, err)
	}
	return v
}

func (c *talker) read() (string, error) {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimSuffix(line, "\r\n")
	if line == "" {
		return "", errors.New("an empty line")
	}
	n, count := 0, 1
	switch line[0] {
	case '$', '=', '*', '~', '>', '%':
		if n, err = strconv.Atoi(line[1:]); err != nil || n < 0 {
			return line, err
		}
	}
	switch line[0] {
	case '$', '=':
		b := make([]byte, n+2)
		_, err := io.ReadFull(c.r, b)
		return string(line[0]) + string(b[:n]), err
	case '%':
		count = 2
		fallthrough
	case '*', '~', '>':
		var elems []string
		for range n * count {
			e, err := c.read()
			if err != nil {
				return "", err
			}
			elems = append(elems, e)
		}
		return string(line[0]) + "[" + strings.Join(elems, " ") + "]", nil
	}
	return line, nil
}

// TestSubcommandsRefuseAlike gives every subcommand arguments that do not fit.
func TestSubcommandsRefuseAlike(t *testing.T) {
	t.Parallel()
	names := strings.Fields(`ADDSLOTS ADDSLOTSRANGE COUNT-FAILURE-REPORTS COUNTKEYSINSLOT DELSLOTSRANGE FORGET GETKEYSINSLOT
		HELP KEYSLOT MYID REPLICAS REPLICATE SET-CONFIG-EPOCH SETSLOT SLAVES FOO MYSHARDID`)
	args := []string{"", "0", "abc", "-1", "16384", "99999999999999999999", "0 1", "1 0", "0 0", "a b", "5 5 5", "5 5 5 5", "0 1 2 3 4", "''", "0 ''"}
	more := `
		CLUSTER
		CLUSTER SETSLOT 0 NODE <id3>
		CLUSTER SETSLOT 0 IMPORTING <id1>
		CLUSTER SETSLOT 16000 IMPORTING <id3>
		CLUSTER SETSLOT 0 MIGRATING <id3>
		CLUSTER SETSLOT 16000 MIGRATING <id1>
		CLUSTER SETSLOT 0 STABLE x
		CLUSTER SETSLOT 0 FOO BAR
		CLUSTER FORGET <id0>
		CLUSTER REPLICATE <id0>
		CLUSTER REPLICATE <id3>
		CLUSTER SLAVES <id3>
		CLUSTER FAILOVER FORCE x
		CLUSTER FAILOVER foo
		CLUSTER RESET foo
		CLUSTER RESET hard x
		CLUSTER MEET foo bar
		CLUSTER MEET 300.1.1.1 6379
		CLUSTER MEET 127.0.0.1 65536
		CLUSTER MEET 127.0.0.1 60000
		CLUSTER MEET 127.0.0.1 6379 70000
		CLUSTER MEET 127.0.0.1 6379 x
		CLUSTER MEET 127.0.0.1
		CLUSTER KEYSLOT a{b}c{d}
		CLUSTER KEYSLOT a{}{b}
		CLUSTER FLUSHSLOTS x
		CLUSTER NODES x
		CLUSTER LINKS x
		CLUSTER SHARDS x
		CLUSTER SLOTS x
		CLUSTER INFO x
		CLUSTER BUMPEPOCH x
		FAILOVER
		REPLICAOF NO ONE
		SELECT 1
		MOVE a 1
		SWAPDB 0 1
		COPY {bar}1 {bar}2 DB 1
		READONLY x
		ASKING x
		READWRITE x`
	bothSides(t, func(t *testing.T, s *side) {
		var text strings.Builder
		for _, where := range []string{"0", "0/3", "3"} {
			for _, name := range names {
				for _, a := range args {
					fmt.Fprintf(&text, "%s CLUSTER %s %s\n", where, name, a)
				}
			}
			for line := range strings.Lines(more) {
				if line = strings.TrimSpace(line); line != "" {
					fmt.Fprintln(&text, where, line)
				}
			}
		}
		s.run(t, "0 SET {bar}1 x") // RESET and FLUSHSLOTS of a master with keys
		s.run(t, "0 CLUSTER RESET\n0 CLUSTER RESET HARD\n0 CLUSTER FLUSHSLOTS\n0 CLUSTER FAILOVER\n0 CLUSTER FAILOVER TAKEOVER")
		s.run(t, text.String())
	})
}

// TestRoutingAnswersAlike goes through everything that decides where a request
// is to go: owners, replicas, transactions, and a slot on its way.
func TestRoutingAnswersAlike(t *testing.T) {
	t.Parallel()
	// bar, b and hello are of node 0, c of node 1, foo and a of node 2.
	owned := `
		0 SET {bar}1 1
		0 GET {c}1
		0 MSET {bar}1 1 {bar}2 2
		0 MSET {bar}1 1 hello 2
		0 MGET {bar}1 {c}1
		0 DEL {bar}1 hello
		0 RENAME {bar}1 hello
		0 SORT {bar}l BY w_*
		0 SORT {bar}l STORE hello
		0 BLPOP {bar}q hello 0
		0 BLPOP {c}q 0
		0 SPUBLISH {c}1 m
		0 SPUBLISH {bar}1 m
		0 PUBLISH {c}1 m
		0 WATCH {c}1
		0 WATCH {bar}1 hello
		0 WATCH {bar}1
		0 UNWATCH
		0 OBJECT ENCODING {c}1
		0 MIGRATE 127.0.0.1 1 {c}1 0 10
		0 MIGRATE 127.0.0.1 1 '' 0 10 KEYS {bar}1 hello
		0 MIGRATE 127.0.0.1 1 '' 0 10 KEYS {bar}nokey
		0 RESTORE {c}1 0 x
		0 RESTORE-ASKING {c}1 0 x
		0 EXEC
		0 MULTI
		0 SET {bar}1 1
		0 SET {c}1 1
		0 SET {bar}2 1
		0 EXEC
		0 MULTI
		0 SET {bar}1 1
		0 SET hello 1
		0 EXEC
		0 MULTI
		0 SPUBLISH {bar}1 m
		0 GET {bar}1
		0 EXEC
		0 MULTI
		0 SELECT 1
		0 EXEC
		0 ASKING
		0 MULTI
		0 SET {c}1 1
		0 EXEC
		0 MULTI
		0 SSUBSCRIBE {bar}1
		0 EXEC
		0/3 SSUBSCRIBE {c}1
		0/3 SSUBSCRIBE {bar}1 hello
		0/3 SSUBSCRIBE {bar}1
		0/3 SUNSUBSCRIBE {bar}1
		3 GET {bar}1
		3 READONLY
		3 SET {bar}1 1
		3 GET {c}1
		3 MGET {bar}1 hello
		3 MULTI
		3 GET {bar}none
		3 SET {bar}1 1
		3 EXEC
		3 SPUBLISH {bar}1 m
		3 SPUBLISH {c}1 m
		3 REPLICAOF NO ONE
		3 READWRITE
		3 GET {bar}1
		0 SET {bar}1 1
		0 SET {bar}2 2
		0 CLUSTER SETSLOT 5061 MIGRATING <id1>
		1 CLUSTER SETSLOT 5061 IMPORTING <id0>`
	// While the slot moves, with and without ASKING, at everybody.
	moving := `
		GET {bar}1
		GET {bar}none
		SET {bar}none 1 XX
		MGET {bar}1 {bar}2
		MGET {bar}1 {bar}none
		MGET {bar}none {bar}none2
		WATCH {bar}none
		UNWATCH
		SPUBLISH {bar}1 m
		STRLEN {bar}none
		OBJECT ENCODING {bar}none
		RENAME {bar}1 {bar}none
		MIGRATE 127.0.0.1 1 {bar}none 0 10
		MIGRATE 127.0.0.1 1 '' 0 10 KEYS {bar}none {bar}none2
		MULTI
		GET {bar}1
		GET {bar}none
		EXEC`
	ended := `
		0 MIGRATE 127.0.0.1 <port1> {bar}1 0 60000
		0 GET {bar}1
		0 MGET {bar}1 {bar}2
		1 MGET {bar}1 {bar}2
		1 ASKING
		1 GET {bar}1
		1 ASKING
		1 MGET {bar}1 {bar}2
		0 CLUSTER SETSLOT 5061 NODE <id1>
		0 WATCH {bar}2
		0 MULTI
		0 GET {bar}2
		0/3 MIGRATE 127.0.0.1 <port1> '' 0 60000 KEYS {bar}2 {bar}1
		0 EXEC
		1 CLUSTER SETSLOT 5061 NODE <id1>
		0 CLUSTER SETSLOT 5061 NODE <id1>
		0 GET {bar}1
		1 GET {bar}1
		1 GET {bar}2
		0 CLUSTER COUNTKEYSINSLOT 5061
		1 CLUSTER COUNTKEYSINSLOT 5061
		0 CLUSTER GETKEYSINSLOT 5061 10`
	bothSides(t, func(t *testing.T, s *side) {
		s.run(t, owned)
		for _, where := range []string{"0", "1", "2", "3"} {
			for line := range strings.Lines(moving) {
				if line = strings.TrimSpace(line); line != "" {
					s.run(t, where+" "+line)
					s.run(t, where+" ASKING\n"+where+" "+line)
				}
			}
		}
		s.run(t, ended)
	})
}

// TestViewsShowAlike compares what every kind of client is shown of the cluster,
// for all kinds of endpoints.
func TestViewsShowAlike(t *testing.T) {
	t.Parallel()
	times := regexp.MustCompile(`\b(0|\d{13})\b (0|\d{13})\b`)
	offsets := regexp.MustCompile(`\$replication-offset :\d+`)
	facts := regexp.MustCompile(`cluster_(current_epoch|stats_messages)[^\r]*\r\n`)
	links := regexp.MustCompile(`(\$(create-time|send-buffer-allocated|send-buffer-used)) :\d+`)
	busy := regexp.MustCompile(`\$events \$rw`) // something is being sent just now
	// sorted are the parts of a reply in an order of their own.
	sorted := func(reply, sep string) string {
		parts := regexp.MustCompile(sep).Split(strings.TrimSuffix(reply, "]"), -1)
		slices.Sort(parts)
		return strings.Join(parts, "\n")
	}
	bothSides(t, func(t *testing.T, s *side) {
		for i, n := range s.nodes {
			n.do("CONFIG", "SET", "cluster-announce-hostname", fmt.Sprintf("host-%d.example.com", i))
		}
		s.run(t, "0 SET bar 1\n0 CLUSTER SETSLOT 5061 MIGRATING <id1>")
		for _, n := range s.nodes {
			n.eventually("all have names and links, and the replica its data", func() bool {
				return strings.Count(n.do("CLUSTER", "NODES").Str, ".example.com") == 4 && strings.Contains(n.slots(), s.ids[3]) &&
					len(n.do("CLUSTER", "LINKS").List) == 6 // one to and one from each
			})
		}
		for _, endpoint := range []string{"ip", "hostname", "unknown-endpoint"} {
			for i, n := range s.nodes {
				n.do("CONFIG", "SET", "cluster-preferred-endpoint-type", endpoint)
				for _, where := range []string{strconv.Itoa(i), strconv.Itoa(i) + "/3"} {
					c := s.talk(t, where)
					for what, clean := range map[string]func(string) string{
						"NODES":  func(r string) string { return sorted(times.ReplaceAllString(r, "T T"), "\n") },
						"INFO":   func(r string) string { return facts.ReplaceAllString(r, "") },
						"SLOTS":  func(r string) string { return r },
						"SHARDS": func(r string) string { return sorted(offsets.ReplaceAllString(r, "$offset"), ` ?[%*]\[\$slots `) },
						"LINKS": func(r string) string {
							return sorted(busy.ReplaceAllString(links.ReplaceAllString(r, "$1"), "$$events $$r"), ` ?[%*]\[\$direction `)
						},
						"REPLICAS " + "0": func(r string) string { return times.ReplaceAllString(r, "T T") },
					} {
						args := []string{"CLUSTER", what}
						if what == "REPLICAS 0" {
							args = []string{"CLUSTER", "REPLICAS", s.ids[0]}
						}
						r := c.do(t, args...)
						kindOf, body := r[:1], strings.TrimPrefix(r[1:], "txt:")
						s.note(endpoint+" "+where+" "+what, kindOf+clean(s.ports.Replace(s.names.Replace(body))))
					}
				}
			}
			s.run(t, "0 GET c\n0 GET {bar}none\n3 GET bar\n2 GET bar")
		}
		for i, line := range s.lines { // none of the slots above is a port
			s.lines[i] = s.ports.Replace(line)
		}
		slices.Sort(s.lines) // the maps above have no order
	})
}

// TestNodesConfIsReadAlike starts a node of either kind on files that Redis, or
// a hand, may have left.
func TestNodesConfIsReadAlike(t *testing.T) {
	t.Parallel()
	id := func(i int) string { return fmt.Sprintf("%040x", i+1) }
	line := func(i int, rest string) string { return id(i) + " " + rest + "\n" }
	mine := line(0, ":0@0 myself,master - 0 0 1 connected 0-100")
	vars := "vars currentEpoch 3 lastVoteEpoch 2\n"
	files := map[string]string{
		"whole":            mine + line(1, "127.0.0.1:1@2 master - 0 0 1 connected 101 103-200") + vars,
		"no vars":          mine,
		"no end of line":   mine + strings.TrimSuffix(vars, "\n"),
		"nobody is myself": line(1, "127.0.0.1:1@2 master - 0 0 1 connected") + vars,
		"empty line":       mine + "\n" + vars,
		"no bus port":      mine + line(1, "127.0.0.1:7001 master - 0 0 1 connected") + vars,
		"no port":          mine + line(1, "127.0.0.1 master - 0 0 1 connected") + vars,
		"host name":        mine + line(1, "127.0.0.1:1@2,foo.example master - 0 0 1 connected") + vars,
		"no address":       mine + line(1, ":0@0 master,noaddr - 0 0 1 connected") + vars,
		"master behind":    line(0, ":0@0 myself,slave "+id(1)+" 0 0 1 connected") + line(1, "127.0.0.1:1@2 master - 0 0 1 connected 0-16383") + vars,
		"slot too high":    mine + line(1, "127.0.0.1:1@2 master - 0 0 1 connected 16384") + vars,
		"slots reversed":   mine + line(1, "127.0.0.1:1@2 master - 0 0 1 connected 600-500") + vars,
		"open slots":       line(0, ":0@0 myself,master - 0 0 1 connected 0-100 [50->-"+id(1)+"] [200-<-"+id(1)+"]") + line(1, "127.0.0.1:1@2 master - 0 0 1 connected 101-300") + vars,
		"odd vars":         mine + "vars currentEpoch\n",
		"short line":       mine + "abc\n" + vars,
		"open quote":       mine + `"` + line(1, "127.0.0.1:1@2 master - 0 0 1 connected") + vars,
		"not text":         "\x00\x01\x02garbage\n",
	}
	clock := regexp.MustCompile(` (0|\d{13}) (0|\d{13}) `) // it may have pinged somebody by now
	read := func(t *testing.T, k kind, text string) string {
		dir, port := t.TempDir(), freePort(t)
		if err := os.WriteFile(filepath.Join(dir, "nodes.conf"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		argv := []string{genuine}
		if k == ourNodes {
			argv = []string{binary, "redis-server"}
		}
		p, err := proc.Start(proc.Spec{Argv: argv, Dir: dir, Port: port, Args: []string{"--save", "", "--cluster-enabled", "yes"}})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Kill()
		if err := p.Ready(deadline); err != nil {
			if !strings.Contains(p.Output(), "Unrecoverable error: corrupted cluster config file.") {
				t.Fatalf("%s", p.Output())
			}
			return "refused"
		}
		n := &node{t: t, port: port}
		rows := strings.Split(n.do("CLUSTER", "NODES").Str, "\n")
		slices.Sort(rows)
		// Whether a link is still being tried is a matter of the moment.
		return clock.ReplaceAllString(strings.NewReplacer(" disconnected", " connected", strconv.Itoa(port+busAbove), "<bus>", strconv.Itoa(port), "<port>").Replace(strings.Join(rows, "\n")), " T T ")
	}
	for name, text := range files {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if want, got := read(t, genuineNodes, text), read(t, ourNodes, text); want != got {
				t.Errorf("genuine:\n%s\nours:\n%s", want, got)
			}
		})
	}
}
