//go:build linux

package server

//lint:file-ignore ST1005 the wording is that of Redis

import (
	"crypto/tls"
	"errors"
	"net"
	"strconv"

	"golang.org/x/sys/unix"

	"holdfast/internal/redis/process"
)

// Changing port, bind, tls-port and tls-* while serving. Addresses that stay
// keep their socket; the first loop, to which the listeners belong, is told
// what comes and what goes.

var (
	errBindPort = errors.New("Unable to listen on this port. Check server logs.")
	errBindAddr = errors.New("Failed to bind to specified addresses.")
	errTLSApply = errors.New("Unable to update TLS configuration. Check server logs.")
)

// registerListen ties the parameters to the listeners.
func (s *Server) registerListen() {
	on := func(name string, refusal error, fn func() error) {
		s.cfg.OnApply(name, func(string, string) error {
			err := fn()
			var listen *process.ListenError
			switch {
			case err == nil:
				return nil
			case !errors.As(err, &listen): // which was logged
				s.log.Warning("%s", err)
				return errTLSApply
			case name == "bind":
				s.log.Warning("Failed to bind")
			}
			return refusal
		})
	}
	on("port", errBindPort, s.relisten)
	on("tls-port", errBindPort, s.relisten)
	on("bind", errBindAddr, s.relisten)
	for _, name := range tlsDirectives {
		on(name, errTLSApply, s.applyTLS)
	}
}

// network is the network of a listener's address.
func (ln *listener) network() string {
	if host, _, err := net.SplitHostPort(ln.where); err == nil {
		if ip := net.ParseIP(host); ip != nil && ip.To4() == nil {
			return "tcp6"
		}
	}
	return "tcp4"
}

// relisten makes the listeners what the configuration says, or leaves them as
// they are. The engine's lock is held.
func (s *Server) relisten() error {
	old := s.listeners
	wanted := map[string]bool{}
	for _, secure := range []bool{false, true} {
		port := s.cfg.Port
		if secure {
			port = s.cfg.TLSPort
		}
		for _, bind := range s.cfg.Bind {
			if _, addr, _ := process.BindAddress(bind); port != 0 {
				wanted[listenKey(net.JoinHostPort(addr, strconv.Itoa(port)), secure)] = true
			}
		}
	}
	var kept, gone []*listener
	for _, ln := range old {
		if ln.unix || wanted[listenKey(ln.where, ln.tls != nil)] {
			kept = append(kept, ln)
		} else {
			gone = append(gone, ln)
		}
	}
	// An address that goes may be in the way of one that comes.
	retired := s.inTheWay(gone)
	if retired {
		for _, ln := range gone {
			ln.retire()
		}
	}
	if err := s.openBeside(kept); err != nil {
		if retired {
			s.reopen(kept, gone)
		} else {
			s.listeners = old
		}
		return err
	}
	s.changeListeners(s.listeners[len(kept):], gone)
	return nil
}

// inTheWay reports whether one of the listeners has a port that is wanted.
func (s *Server) inTheWay(gone []*listener) bool {
	for _, ln := range gone {
		_, port, err := net.SplitHostPort(ln.where)
		if err == nil && (port == strconv.Itoa(s.cfg.Port) || port == strconv.Itoa(s.cfg.TLSPort)) {
			return true
		}
	}
	return false
}

func listenKey(where string, secure bool) string {
	if secure {
		return "tls " + where
	}
	return where
}

// openBeside opens what the configuration wants and kept does not have; on an
// error nothing but kept stays.
func (s *Server) openBeside(kept []*listener) error {
	s.listeners = append([]*listener(nil), kept...)
	err := s.listenWanted()
	if err != nil {
		for _, ln := range s.listeners[len(kept):] {
			ln.close()
		}
		s.listeners = kept
	}
	return err
}

// listenWanted opens the TCP addresses that are not open yet.
func (s *Server) listenWanted() error {
	if s.cfg.Port != 0 {
		if err := s.listenTCP(s.cfg.Port, nil); err != nil {
			return err
		}
	}
	if s.cfg.TLSPort == 0 {
		return nil
	}
	conf, err := process.ServerTLS(s.cfg)
	if err != nil {
		return err
	}
	return s.listenTCP(s.cfg.TLSPort, conf)
}

// isOpen reports whether an address is listened on already.
func (s *Server) isOpen(where string, secure bool) bool {
	for _, ln := range s.listeners {
		if !ln.unix && ln.where == where && (ln.tls != nil) == secure {
			return true
		}
	}
	return false
}

// reopen brings back addresses that had to make room in vain.
func (s *Server) reopen(kept, gone []*listener) {
	for _, ln := range gone {
		if err := s.listenOne(ln.network(), ln.where, ln.tls); err != nil {
			s.log.Warning("Could not listen on %s again: %s", ln.where, process.BindText(err))
		}
	}
	s.changeListeners(s.listeners[len(kept):], gone)
}

// retire frees the address of a listener before the loop that owns the
// descriptor closes it.
func (ln *listener) retire() {
	ln.gone.Store(true)
	_ = unix.Shutdown(ln.fd, unix.SHUT_RDWR) // a socket that is closed already is fine
}

func (ln *listener) close() {
	_ = ln.file.Close()
	_ = ln.ln.Close()
}

// changeListeners hands new listeners to the first loop and takes old ones
// from it.
func (s *Server) changeListeners(came, gone []*listener) {
	s.postFirst(func(l *loop) {
		for _, ln := range gone {
			delete(l.accept, ln.fd)
			ln.close() // which takes it out of the epoll set
		}
		for _, ln := range came {
			l.accept[ln.fd] = ln
			if err := l.add(ln.fd, unix.EPOLLIN); err != nil {
				s.log.Warning("Unrecoverable error creating accept handler: %s", err)
			}
		}
	})
}

// postFirst lets the first loop run fn in its next tick. The engine's lock is held.
func (s *Server) postFirst(fn func(l *loop)) {
	if len(s.loops) == 0 {
		return
	}
	l := s.loops[0]
	l.posted = append(l.posted, fn)
	l.rouse()
}

// applyTLS lets new connections be encrypted as tls-* say now. The engine's
// lock is held.
func (s *Server) applyTLS() error {
	if s.cfg.TLSPort == 0 && !s.cfg.TLSReplication && !s.cfg.TLSCluster {
		return nil
	}
	conf, err := process.ServerTLS(s.cfg)
	if err != nil {
		return err
	}
	if _, err := process.ClientTLS(s.cfg); err != nil {
		return err
	}
	s.swapTLS(conf)
	return nil
}

func (s *Server) swapTLS(conf *tls.Config) {
	var changed []*listener
	for i, ln := range s.listeners {
		if ln.tls == nil {
			continue
		}
		s.listeners[i] = &listener{fd: ln.fd, ln: ln.ln, file: ln.file, tls: conf, where: ln.where}
		changed = append(changed, s.listeners[i])
	}
	s.postFirst(func(l *loop) {
		for _, ln := range changed {
			l.accept[ln.fd] = ln
		}
	})
}
