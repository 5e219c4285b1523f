package ops

import (
	"errors"
	"net"
	"strings"
	"time"

	"holdfast/internal/redis/resp"
)

// client is a plain connection to a server or a Sentinel. Not safe for
// concurrent use.
type client struct {
	nc      net.Conn
	r       *resp.Reader
	timeout time.Duration
}

// dial connects within timeout, which also bounds every later command.
func dial(addr string, timeout time.Duration) (*client, error) {
	nc, err := net.DialTimeout("tcp", addr, timeout)
	if err != nil {
		return nil, err
	}
	return &client{nc: nc, r: resp.NewReader(nc), timeout: timeout}, nil
}

// do sends one command and returns its reply; an error reply is an error.
func (c *client) do(args ...string) (resp.Value, error) {
	if err := c.nc.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return resp.Value{}, err
	}
	if _, err := c.nc.Write(resp.AppendCommand(nil, args...)); err != nil {
		return resp.Value{}, err
	}
	v, err := c.r.Read()
	if err != nil {
		return v, err
	}
	return v, v.Err()
}

func (c *client) close() { _ = c.nc.Close() }

// ask is one command on a connection of its own.
func ask(addr string, timeout time.Duration, args ...string) (resp.Value, error) {
	c, err := dial(addr, timeout)
	if err != nil {
		return resp.Value{}, err
	}
	defer c.close()
	return c.do(args...)
}

// info reads the given sections of INFO as a map.
func (c *client) info(sections ...string) (map[string]string, error) {
	v, err := c.do(append([]string{"INFO"}, sections...)...)
	if err != nil {
		return nil, err
	}
	return parseInfo(string(v.Str)), nil
}

func parseInfo(text string) map[string]string {
	m := make(map[string]string)
	for _, line := range strings.Split(text, "\n") {
		if k, val, ok := strings.Cut(strings.TrimRight(line, "\r"), ":"); ok && !strings.HasPrefix(k, "#") {
			m[k] = val
		}
	}
	return m
}

// pairs turns a flat array of names and values into a map.
func pairs(v resp.Value) map[string]string {
	m := make(map[string]string, len(v.Elems)/2)
	for i := 0; i+1 < len(v.Elems); i += 2 {
		m[v.Elems[i].String()] = v.Elems[i+1].String()
	}
	return m
}

// refused reports whether nobody listens at the address.
func refused(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
