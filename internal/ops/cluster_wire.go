package ops

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast/internal/redis/resp"
)

// Access is how connections to servers are made: with which name and password,
// "" for none, and over TLS unless that is nil.
type Access struct {
	User, Pass string
	TLS        *tls.Config
}

// dialNode connects and authenticates.
func dialNode(addr string, timeout time.Duration, by Access) (*client, error) {
	c, err := dial(addr, timeout)
	if err != nil {
		return nil, err
	}
	if by.TLS != nil {
		conf := by.TLS.Clone()
		if conf.ServerName == "" {
			conf.ServerName, _, _ = net.SplitHostPort(addr)
		}
		c.nc = tls.Client(c.nc, conf)
		c.r = resp.NewReader(c.nc)
	}
	if by.Pass == "" {
		return c, nil
	}
	args := []string{"AUTH", by.Pass}
	if by.User != "" {
		args = []string{"AUTH", by.User, by.Pass}
	}
	if _, err := c.do(args...); err != nil {
		c.close()
		return nil, fmt.Errorf("AUTH: %w", err)
	}
	return c, nil
}

// pipe sends commands together and returns their replies in order. Error
// replies are values here; err is a fault of the connection.
func (c *client) pipe(timeout time.Duration, cmds ...[]string) ([]resp.Value, error) {
	if err := c.nc.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	var b []byte
	for _, cmd := range cmds {
		b = resp.AppendCommand(b, cmd...)
	}
	if _, err := c.nc.Write(b); err != nil {
		return nil, err
	}
	out := make([]resp.Value, 0, len(cmds))
	for range cmds {
		v, err := c.r.Read()
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// pool keeps one connection per address. Different addresses may be used at the
// same time, one address only by one goroutine.
type pool struct {
	access  Access
	timeout time.Duration
	mu      sync.Mutex
	conns   map[string]*client
}

func newPool(by Access, timeout time.Duration) *pool {
	return &pool{access: by, timeout: timeout, conns: map[string]*client{}}
}

func (p *pool) get(addr string) (*client, error) {
	p.mu.Lock()
	c := p.conns[addr]
	p.mu.Unlock()
	if c != nil {
		return c, nil
	}
	c, err := dialNode(addr, p.timeout, p.access)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.conns[addr] = c
	p.mu.Unlock()
	return c, nil
}

func (p *pool) drop(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.conns[addr]; c != nil {
		c.close()
		delete(p.conns, addr)
	}
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.close()
	}
	p.conns = map[string]*client{}
}

// pipe is client.pipe on the connection of an address; one that broke is
// forgotten, so that the next use connects anew.
func (p *pool) pipe(addr string, timeout time.Duration, cmds ...[]string) ([]resp.Value, error) {
	c, err := p.get(addr)
	if err != nil {
		return nil, err
	}
	v, err := c.pipe(timeout, cmds...)
	if err != nil {
		p.drop(addr)
	}
	return v, err
}

// do is one command; an error reply is an error.
func (p *pool) do(addr string, args ...string) (resp.Value, error) {
	v, err := p.pipe(addr, p.timeout, args)
	if err != nil {
		return resp.Value{}, err
	}
	return v[0], v[0].Err()
}

// errLoading is a node that lives, but says nothing until it has its data.
var errLoading = errors.New("loading its data")

// errNoPassword is a server that answers nobody without one.
var errNoPassword = errors.New("asks for a password; say --pass, or set REDISCLI_AUTH")

// errNotCluster is a server without cluster mode.
var errNotCluster = errors.New("has no cluster mode; start it with --cluster-enabled yes")

// loadNode asks one node for everything.
func (p *pool) loadNode(addr string) (*clusterNode, error) {
	v, err := p.pipe(addr, p.timeout, []string{"CLUSTER", "NODES"}, []string{"CLUSTER", "INFO"},
		[]string{"INFO", "replication"}, []string{"INFO", "memory"}, []string{"DBSIZE"})
	if err != nil {
		return nil, err
	}
	for i, r := range v {
		if err := r.Err(); err != nil {
			if strings.Contains(err.Error(), "cluster support disabled") {
				return nil, errNotCluster
			}
			if isReply(err, "LOADING") {
				return nil, errLoading
			}
			if isReply(err, "NOAUTH") {
				return nil, errNoPassword
			}
			return nil, fmt.Errorf("%s: %w", [...]string{"CLUSTER NODES", "CLUSTER INFO", "INFO", "INFO", "DBSIZE"}[i], err)
		}
	}
	lines, err := parseNodes(v[0].String())
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	n := &clusterNode{view: make(map[string]*nodeLine, len(lines)), keys: v[4].Int}
	for _, l := range lines {
		if l.has("myself") {
			if l.host == "" {
				l.host = host
			}
			if l.port == 0 {
				l.port, _ = strconv.Atoi(port) // it was split from an address that was dialed
			}
			n.nodeLine = *l
		}
		n.view[l.id] = l
	}
	if n.id == "" {
		return nil, errors.New("CLUSTER NODES has no line about the node itself")
	}
	n.state = parseInfo(v[1].String())["cluster_state"]
	repl, mem := parseInfo(v[2].String()), parseInfo(v[3].String())
	n.linkUp = repl["master_link_status"] == "up"
	n.offset, _ = strconv.ParseInt(repl["master_repl_offset"], 10, 64) // what is no number counts as 0
	n.memory = mem["used_memory_human"]
	return n, nil
}

// load asks a first node that answers, then all nodes that any asked node
// knows.
func (p *pool) load(seeds []string) (*clusterMap, error) {
	var first *clusterNode
	var errs []error
	silent := true
	for _, s := range seeds {
		n, err := p.loadNode(s)
		if err == nil {
			first = n
			break
		}
		errs = append(errs, fmt.Errorf("%s: %s", s, plain(err)))
		var reply resp.ReplyError
		silent = silent && !errors.As(err, &reply) && err != errNoPassword && err != errNotCluster
	}
	if first == nil && !silent {
		return nil, errors.Join(errs...)
	}
	if first == nil {
		return nil, fmt.Errorf("%w; give the address of a node that runs", errors.Join(errs...))
	}
	seen := map[string]*clusterNode{first.id: first}
	for todo := unknownOf(first, seen); len(todo) > 0; {
		var next []*nodeLine
		for _, n := range p.loadAll(todo) {
			seen[n.id] = n
		}
		for _, l := range todo {
			if n := seen[l.id]; n != nil && n.up() {
				next = append(next, unknownOf(n, seen)...)
			}
		}
		todo = uniqueLines(next)
	}
	nodes := make([]*clusterNode, 0, len(seen))
	for _, n := range seen {
		if !n.up() {
			describeByOthers(n, seen)
		}
		nodes = append(nodes, n)
	}
	return newClusterMap(nodes), nil
}

func unknownOf(n *clusterNode, seen map[string]*clusterNode) (out []*nodeLine) {
	for id, l := range n.view {
		if seen[id] == nil && !l.has("handshake") {
			out = append(out, l)
		}
	}
	return out
}

func uniqueLines(in []*nodeLine) (out []*nodeLine) {
	seen := map[string]bool{}
	for _, l := range in {
		if !seen[l.id] {
			seen[l.id] = true
			out = append(out, l)
		}
	}
	return out
}

// loadAll asks nodes side by side.
func (p *pool) loadAll(lines []*nodeLine) []*clusterNode {
	out := make([]*clusterNode, len(lines))
	var wg sync.WaitGroup
	for i, l := range lines {
		wg.Add(1)
		go func() {
			defer wg.Done()
			out[i] = p.loadLine(l)
		}()
	}
	wg.Wait()
	return out
}

func (p *pool) loadLine(l *nodeLine) *clusterNode {
	down := &clusterNode{nodeLine: *l}
	if l.has("noaddr") || l.host == "" || l.port == 0 {
		down.err = errors.New("no node knows its address")
		return down
	}
	n, err := p.loadNode(l.addr())
	if err != nil {
		if down.err = err; err != errLoading {
			down.err = errors.New(plain(err))
		}
		return down
	}
	if n.id != l.id {
		down.err = fmt.Errorf("another node (%s) listens at its address", short(n.id))
		return down
	}
	// The address that the others use is the one that MIGRATE must use.
	n.host, n.port = l.host, l.port
	return n
}

// describeByOthers fills the line of a node that does not answer from the view
// with the highest config epoch.
func describeByOthers(n *clusterNode, all map[string]*clusterNode) {
	for _, o := range all {
		l := o.view[n.id]
		if l == nil || (l.epoch <= n.epoch && !l.has("fail")) {
			continue
		}
		n.nodeLine = *l
	}
}

// short is the beginning of a node id, for tables.
func short(id string) string { return id[:min(8, len(id))] }
