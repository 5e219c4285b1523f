//go:build linux

package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/redis/process"
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
		conf, err := process.ServerTLS(s.cfg)
		if err != nil {
			return fmt.Errorf("Failed to configure TLS. Check logs for more info. (%w)", err)
		}
		if err := s.listenTCP(s.cfg.TLSPort, conf); err != nil {
			return err
		}
	}
	if s.cfg.UnixSocket != "" {
		if err := s.listenUnix(); err != nil {
			return err
		}
	}
	if len(s.listeners) == 0 {
		return errors.New("Configured to not listen anywhere, exiting.")
	}
	return nil
}

func (s *Server) listenTCP(port int, conf *tls.Config) error {
	return process.EachBind(s.cfg, port, s.log, func(network, where string) error {
		if s.isOpen(where, conf != nil) {
			return nil
		}
		return s.listenOne(network, where, conf)
	})
}

func (s *Server) listenOne(network, where string, conf *tls.Config) error {
	ln, err := process.ListenTCP(s.cfg, network, where)
	if err != nil {
		return err
	}
	return s.keep(ln, &listener{ln: ln, tls: conf, where: where})
}

func (s *Server) listenUnix() error {
	ln, err := process.ListenUnix(s.cfg)
	if err != nil {
		return err
	}
	return s.keep(ln, &listener{ln: ln, unix: true, where: s.cfg.UnixSocket})
}

// keep takes the listener's descriptor, for the loops.
func (s *Server) keep(ln interface{ File() (*os.File, error) }, l *listener) error {
	f, err := ln.File()
	if err != nil {
		return errors.Join(err, l.ln.Close())
	}
	l.file, l.fd = f, int(f.Fd()) // which makes it blocking, so once, and first
	_ = unix.SetNonblock(l.fd, true)
	s.listeners = append(s.listeners, l)
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
				_, _ = unix.Write(fd, []byte(process.CrowdedText)) // courtesy
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
