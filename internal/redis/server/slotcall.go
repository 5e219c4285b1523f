package server

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/redis/cluster/slot"
	"holdfast/internal/redis/process"
	"holdfast/internal/redis/resp"
	"holdfast/internal/redis/slotmove"
)

// slotPeer is how another node is reached as a client, as of one moment.
type slotPeer struct {
	addr       string
	bind       string
	user, pass string
	tls        *tls.Config
	err        error
}

// slotPeer finds out how to reach a node. Nodes authenticate to each other as
// replicas do to masters. The engine's lock is held.
func (s *Server) slotPeer(id string) slotPeer {
	host, port, ok := s.nodeAddr(id)
	if !ok {
		return slotPeer{err: fmt.Errorf("the address of node %s is not known", id)}
	}
	p := slotPeer{addr: net.JoinHostPort(host, port), bind: s.cfg.BindSourceAddr, user: s.cfg.MasterUser, pass: s.cfg.MasterAuth}
	if p.pass == "" {
		p.user, p.pass = "", s.cfg.RequirePass // nodes of a cluster commonly have the same
	}
	if s.cfg.TLSCluster {
		p.tls, p.err = process.ClientTLS(s.cfg)
	}
	return p
}

// slotCallTimeout bounds everything that a call waits for.
const slotCallTimeout = 2 * time.Second

// slotCall is a connection to another node. It belongs to one goroutine at a
// time.
type slotCall struct {
	nc net.Conn
	rd *resp.Reader
}

// dial connects and authenticates.
func (p slotPeer) dial() (*slotCall, error) {
	if p.err != nil {
		return nil, p.err
	}
	nc, err := process.Dial(p.addr, p.bind, slotCallTimeout, p.tls)
	if err != nil {
		return nil, err
	}
	c := &slotCall{nc: nc, rd: resp.NewReader(bufio.NewReaderSize(nc, 16<<10))}
	if p.pass != "" {
		auth := []string{"AUTH", p.pass}
		if p.user != "" {
			auth = []string{"AUTH", p.user, p.pass}
		}
		if _, err := c.do(auth...); err != nil {
			return nil, errors.Join(err, nc.Close())
		}
	}
	return c, nil
}

// do sends a command and reads its reply; one that is an error is an error.
func (c *slotCall) do(args ...string) (resp.Value, error) {
	if err := c.nc.SetDeadline(time.Now().Add(slotCallTimeout)); err != nil {
		return resp.Value{}, err
	}
	if _, err := c.nc.Write(resp.AppendCommand(nil, args...)); err != nil {
		return resp.Value{}, err
	}
	v, err := c.rd.Read()
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return v, err
	}
	return v, v.Err()
}

func (c *slotCall) close() { _ = c.nc.Close() } // nobody reads it any more

// passing reports whether an error reply is one of those that pass.
func passing(err error) bool {
	var r resp.ReplyError
	if !errors.As(err, &r) {
		return false
	}
	for _, code := range []string{"TRYAGAIN ", "LOADING ", "CLUSTERDOWN ", "BUSY "} {
		if strings.HasPrefix(string(r), code) {
			return true
		}
	}
	return false
}

// askForFeed asks the source to feed a job. The answer is the source's
// connection to us, or Busy or Broken.
func (s *Server) askForFeed(e slotmove.Dial) {
	m := s.moves
	t := m.takes[e.Job]
	if t == nil {
		t = &slotTake{}
		m.takes[e.Job] = t
	}
	peer, me := s.slotPeer(e.Node), s.cluster.core.MyID()
	ctl := t.ctl
	t.ctl = nil // the goroutine's until it is done
	go func() {
		var err error
		if ctl == nil {
			ctl, err = peer.dial()
		}
		if err == nil {
			_, err = ctl.do("HOLDFAST.SLOTS", "FEED", e.Job, me, e.Slots.String())
		}
		s.e.Lock()
		now := m.takes[e.Job]
		if ctl != nil && (now != t || t.over || err != nil && !passing(err)) {
			ctl.close()
		} else {
			t.ctl = ctl
		}
		s.e.Unlock()
		switch {
		case err == nil || now != t:
		case passing(err):
			s.tellSlots(slotmove.Busy{Job: e.Job, Why: err.Error()})
		default:
			s.tellSlots(slotmove.Broken{Job: e.Job, Why: "the source refuses: " + callError(err)})
		}
	}()
}

// sendPrepared tells the source that everything is here.
func (s *Server) sendPrepared(job string) {
	t := s.moves.takes[job]
	if t == nil {
		s.postSlots(slotmove.Broken{Job: job, Why: "the connection to the source is gone"})
		return
	}
	go func() {
		if err := s.tellSource(t, "HOLDFAST.SLOTS", "PREPARED", job); err != nil {
			s.tellSlots(slotmove.Broken{Job: job, Why: "the source does not answer: " + callError(err)})
		}
	}()
}

// tellSource says something to the source of an import, over the connection on
// which it was asked to feed. Its feed may be here before its answer to that.
func (s *Server) tellSource(t *slotTake, args ...string) error {
	var ctl *slotCall
	for end := time.Now().Add(slotCallTimeout); ; time.Sleep(replicaPoll) {
		s.e.Lock()
		ctl, t.ctl = t.ctl, nil // ours for now
		s.e.Unlock()
		if ctl != nil {
			break
		}
		if time.Now().After(end) {
			return errors.New("the connection to the source is gone")
		}
	}
	_, err := ctl.do(args...)
	s.e.Lock()
	defer s.e.Unlock()
	if t.over || err != nil {
		ctl.close()
	} else {
		t.ctl = ctl
	}
	return err
}

// askAbout asks or tells a node about a job.
func (s *Server) askAbout(job, node, verb string, slots *slot.Set) {
	peer := s.slotPeer(node)
	args := []string{"HOLDFAST.SLOTS", verb, job, s.cluster.core.MyID()}
	if verb == "COMMIT" {
		args = append(args, strconv.FormatUint(s.configEpoch(), 10))
	}
	args = append(args, slots.String())
	go func() {
		c, err := peer.dial()
		var v resp.Value
		if err == nil {
			v, err = c.do(args...)
			c.close()
		}
		a := slotmove.Answer{Job: job, Node: node}
		var r resp.ReplyError
		switch {
		case err == nil:
			a.Yes, a.Epoch = true, uint64(max(v.Int, 0))
		case errors.As(err, &r) && strings.HasPrefix(string(r), "UNKNOWN "):
		default:
			a.Err = callError(err)
		}
		s.tellSlots(a)
	}()
}

// callError is what went wrong, without what the reader knows.
func callError(err error) string {
	var r resp.ReplyError
	if errors.As(err, &r) {
		return string(r)
	}
	return errnoText(cause(err))
}
