//go:build linux

package server

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listener accepts connections of one address. Plain ones are in the epoll set
// of the first loop; those with tls have a goroutine of their own.
type listener struct {
	fd    int
	ln    net.Listener
	file  *os.File
	unix  bool
	tls   *tls.Config
	where string
	gone  atomic.Bool // its address was given up; the loop is going to close it
}

// listen opens all configured addresses.
func (s *Server) listen() error {
	if s.cfg.Port != 0 {
		if err := s.listenTCP(s.cfg.Port, nil); err != nil {
			return err
		}
	}
	if s.cfg.TLSPort != 0 {
		conf, err := s.tlsServerConfig()
		if err != nil {
			return fmt.Errorf("Failed to configure TLS. Check logs for more info. (%w)", err)
		}
		if err := s.listenTCP(s.cfg.TLSPort, conf); err != nil {
			return err
		}
	}
	if path := s.cfg.UnixSocket; path != "" {
		if err := s.listenUnix(path); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) listenTCP(port int, conf *tls.Config) error {
	opened := 0
	for _, bind := range s.cfg.Bind {
		network, addr, optional := bindAddress(bind)
		where := net.JoinHostPort(addr, strconv.Itoa(port))
		if s.isOpen(where, conf != nil) {
			opened++
			continue
		}
		err := s.listenOne(network, where, conf)
		if err == nil {
			opened++
			continue
		}
		if optional && ignorableBind(err) {
			continue
		}
		s.log.Warning("Warning: Could not create server TCP listening socket %s:%d: %s", addr, port, bindText(err))
		if network == "tcp6" && ignorableBind(err) {
			continue
		}
		return &listenError{port, err}
	}
	if opened == 0 && len(s.cfg.Bind) > 0 {
		return fmt.Errorf("Failed listening on port %d (TCP), aborting.", port)
	}
	return nil
}

// listenError says that a port could not be listened on, in the words of Redis.
type listenError struct {
	port int
	err  error
}

func (e *listenError) Error() string {
	return fmt.Sprintf("Failed listening on port %d (TCP), aborting.", e.port)
}

func (e *listenError) Unwrap() error { return e.err }

// bindAddress reads an address of bind: "*" is every one of IPv4, "::*" of
// IPv6, and one behind '-' may be missing.
func bindAddress(bind string) (network, addr string, optional bool) {
	addr, optional = strings.CutPrefix(bind, "-")
	switch {
	case addr == "*":
		return "tcp4", "0.0.0.0", optional
	case addr == "::*":
		return "tcp6", "::", optional
	case strings.Contains(addr, ":"):
		return "tcp6", addr, optional
	}
	return "tcp4", addr, optional
}

func ignorableBind(err error) bool {
	for _, e := range []error{unix.EADDRNOTAVAIL, unix.EAFNOSUPPORT, unix.ENOPROTOOPT, unix.EPROTONOSUPPORT, unix.ESOCKTNOSUPPORT, unix.EPFNOSUPPORT} {
		if errorIs(err, e) {
			return true
		}
	}
	return false
}

func bindText(err error) string {
	if errorIs(err, unix.EADDRINUSE) {
		return "bind: Address already in use"
	}
	return err.Error()
}

func (s *Server) listenOne(network, addr string, conf *tls.Config) error {
	lc := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, raw syscall.RawConn) error {
		if s.cfg.SocketMarkID == 0 {
			return nil
		}
		var serr error
		err := raw.Control(func(fd uintptr) {
			serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(s.cfg.SocketMarkID))
		})
		if err != nil {
			return err
		}
		return serr
	}}
	ln, err := lc.Listen(s.context(), network, addr)
	if err != nil {
		return err
	}
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		_ = ln.Close()
		return err
	}
	fd := int(f.Fd()) // which makes it blocking, so once, and first
	// The backlog of the language's listener is the kernel's; ask again for ours.
	_ = unix.Listen(fd, s.cfg.TCPBacklog)
	_ = unix.SetNonblock(fd, true)
	s.listeners = append(s.listeners, &listener{fd: fd, ln: ln, file: f, tls: conf, where: addr})
	return nil
}

func (s *Server) listenUnix(path string) error {
	_ = os.Remove(path) // a stale socket of an earlier run
	ln, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("Opening Unix socket: %w", err)
	}
	if perm := s.cfg.UnixSocketPerm; perm != 0 {
		if err := os.Chmod(path, os.FileMode(perm)); err != nil {
			_ = ln.Close()
			return fmt.Errorf("Opening Unix socket: %w", err)
		}
	}
	f, err := ln.(*net.UnixListener).File()
	if err != nil {
		_ = ln.Close()
		return err
	}
	fd := int(f.Fd())
	_ = unix.SetNonblock(fd, true)
	s.listeners = append(s.listeners, &listener{fd: fd, ln: ln, file: f, unix: true, where: path})
	return nil
}

// acceptFrom accepts what waits at a listener.
func (l *loop) acceptFrom(ln *listener) {
	s := l.s
	for range acceptPerTick {
		fd, sa, err := unix.Accept4(ln.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch err {
		case nil:
		case unix.EAGAIN:
			return
		case unix.EINTR, unix.ECONNABORTED:
			continue
		default:
			l.acceptFailed(ln, err)
			return
		}
		addr, laddr := sockString(sa), ""
		if ln.unix {
			addr, laddr = ln.where+":0", ln.where+":0"
		} else {
			if lsa, err := unix.Getsockname(fd); err == nil {
				laddr = sockString(lsa)
			}
			_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		}
		text, keepAlive := s.admit(addr, ln)
		if text != "" {
			if ln.tls == nil {
				_, _ = unix.Write(fd, []byte(text)) // courtesy; the socket is closed anyway
			}
			_ = unix.Close(fd)
			continue
		}
		if !ln.unix {
			setKeepAlive(fd, keepAlive)
		}
		if ln.tls != nil {
			s.startTLS(fd, ln, addr, laddr)
			continue
		}
		target := s.loops[int(s.nextConn.Load())%len(s.loops)]
		if target == l {
			l.adopt(fd, ln, addr, laddr)
		} else {
			target.handOver(fd, ln, addr, laddr)
		}
	}
}

// acceptFailed handles an accept that the system refused, out of descriptors
// most likely. The listener stays readable, so the one who waits there is let
// in on a descriptor kept for that, told, and dropped; whatever else it is, the
// listener has a pause instead of a loop that spins.
func (l *loop) acceptFailed(ln *listener, err error) {
	if now := time.Now(); now.Sub(l.refusedAt) >= time.Second {
		l.refusedAt = now
		l.s.log.Warning("Accepting client connection: %s", err)
	}
	if (err == unix.EMFILE || err == unix.ENFILE) && l.spare >= 0 {
		_ = unix.Close(l.spare)
		fd, _, aerr := unix.Accept4(ln.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if aerr == nil {
			if ln.tls == nil {
				_, _ = unix.Write(fd, []byte(crowdedText)) // courtesy
			}
			_ = unix.Close(fd)
		}
		l.spare = openSpare()
		if aerr == nil {
			l.s.e.Lock()
			l.s.stat.rejected++
			l.s.e.Unlock()
			return
		}
	}
	time.Sleep(10 * time.Millisecond)
}

// openSpare opens a descriptor that is only there to be closed; -1 if none is free.
func openSpare() int {
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
}

func setKeepAlive(fd, seconds int) {
	if seconds <= 0 {
		return
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, seconds)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, max(1, seconds/3))
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3)
}

func sockString(sa unix.Sockaddr) string {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return net.JoinHostPort(net.IP(a.Addr[:]).String(), strconv.Itoa(a.Port))
	case *unix.SockaddrInet6:
		return net.JoinHostPort(net.IP(a.Addr[:]).String(), strconv.Itoa(a.Port))
	}
	return "?:0"
}
