package server

import "holdfast/internal/redis/process"

// tlsDirectives are those from which the configurations of TLS are built.
var tlsDirectives = []string{
	"tls-cert-file", "tls-key-file", "tls-key-file-pass", "tls-client-cert-file", "tls-client-key-file", "tls-client-key-file-pass",
	"tls-ca-cert-file", "tls-ca-cert-dir", "tls-auth-clients", "tls-replication", "tls-cluster", "tls-protocols", "tls-ciphers", "tls-ciphersuites",
	"tls-dh-params-file", "tls-session-caching",
}

// admit counts a new connection. text is what it is told before it is closed,
// "" when it is welcome; keepAlive is tcp-keepalive.
func (s *Server) admit(addr string, ln *listener) (text string, keepAlive int) {
	s.e.Lock()
	if len(s.conns)+len(s.handshakes) >= s.cfg.MaxClients {
		s.stat.rejected++
		text = process.CrowdedText
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
	if s.cfg.ProtectedMode && s.cfg.RequirePass == "" && !ln.unix && !process.IsLoopback(addr) {
		s.stat.rejected++
		return process.DeniedText
	}
	return ""
}

// closeListeners stops accepting.
func (s *Server) closeListeners() {
	for _, ln := range s.listeners {
		_ = ln.file.Close()
		_ = ln.ln.Close()
	}
	s.listeners = nil
}
