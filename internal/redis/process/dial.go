package process

import (
	"crypto/tls"
	"errors"
	"net"
	"time"
)

// Dial connects to addr over TCP, from the address bind unless that is "", and
// with conf, unless it is nil, over TLS, with the handshake done. Either may take
// up to timeout. No deadline is left on the connection.
func Dial(addr, bind string, timeout time.Duration, conf *tls.Config) (net.Conn, error) {
	d := net.Dialer{Timeout: timeout}
	if bind != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(bind)}
	}
	nc, err := d.Dial("tcp", addr)
	if err != nil || conf == nil {
		return nc, err
	}
	t := tls.Client(nc, conf)
	err = t.SetDeadline(time.Now().Add(timeout))
	if err == nil {
		err = t.Handshake()
	}
	if err == nil {
		err = t.SetDeadline(time.Time{})
	}
	if err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	return t, nil
}
