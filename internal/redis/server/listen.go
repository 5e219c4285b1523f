package server

import (
	"context"
	"errors"
	"net"
	"strings"
)

func errorIs(err, target error) bool { return errors.Is(err, target) }

// context is the life of the listeners: they are closed by stop.
func (s *Server) context() context.Context { return context.Background() }

const protectedText = "-DENIED Redis is running in protected mode because protected mode is enabled and no password is set for the default user. " +
	"In this mode connections are only accepted from the loopback interface. If you want to connect from external computers to Redis you may adopt one of the following solutions: " +
	"1) Just disable protected mode sending the command 'CONFIG SET protected-mode no' from the loopback interface by connecting to Redis from the same host the server is running, " +
	"however MAKE SURE Redis is not publicly accessible from internet if you do so. Use CONFIG REWRITE to make this change permanent. " +
	"2) Alternatively you can just disable the protected mode by editing the Redis configuration file, and setting the protected mode option to 'no', and then restarting the server. " +
	"3) If you started the server manually just for testing, restart it with the '--protected-mode no' option. " +
	"4) Setup a an authentication password for the default user. " +
	"NOTE: You only need to do one of the above things in order for the server to start accepting connections from the outside.\r\n"

const crowdedText = "-ERR max number of clients reached\r\n"

// admit counts a new connection. text is what it is told before it is closed,
// "" when it is welcome; keepAlive is tcp-keepalive.
func (s *Server) admit(addr string, ln *listener) (text string, keepAlive int) {
	s.e.Lock()
	if len(s.conns)+len(s.handshakes) >= s.cfg.MaxClients {
		s.stat.rejected++
		text = crowdedText
	} else {
		s.stat.accepted++
	}
	keepAlive = s.cfg.TCPKeepalive
	s.e.Unlock()
	if text == "" && ln.tls == nil { // with TLS it is told behind the handshake
		text = s.refuseProtected(addr, ln)
	}
	return text, keepAlive
}

// refuseProtected is protected mode.
func (s *Server) refuseProtected(addr string, ln *listener) string {
	s.e.Lock()
	defer s.e.Unlock()
	if s.cfg.ProtectedMode && s.cfg.RequirePass == "" && !ln.unix && !isLoopback(addr) {
		s.stat.rejected++
		return protectedText
	}
	return ""
}

func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}

// closeListeners stops accepting.
func (s *Server) closeListeners() {
	for _, ln := range s.listeners {
		_ = ln.file.Close()
		_ = ln.ln.Close()
	}
	s.listeners = nil
}
