package proc

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// maxBulk bounds what a reply may claim, in bytes and in elements.
const maxBulk = 512 << 20

// Value is a RESP2 reply.
type Value struct {
	Kind byte // + - : $ *
	Str  string
	Int  int64
	Null bool
	List []Value
}

// Text is the reply as text: a status, a bulk string or a number.
func (v Value) Text() string {
	if v.Kind == ':' {
		return strconv.FormatInt(v.Int, 10)
	}
	return v.Str
}

// Err is the error reply as an error, or nil.
func (v Value) Err() error {
	if v.Kind == '-' {
		return errors.New(v.Str)
	}
	return nil
}

// Conn is a client's connection: requests are buffered by Send, sent by Flush,
// and answered in order by Recv. One goroutine may send while another receives.
type Conn struct {
	nc    net.Conn
	r     *bufio.Reader
	w     []byte
	limit time.Duration
}

// Dial connects to a port of 127.0.0.1. limit is the deadline of each Flush and
// each Recv.
func Dial(port int, limit time.Duration) (*Conn, error) {
	nc, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), limit)
	if err != nil {
		return nil, err
	}
	return NewConn(nc, limit), nil
}

// NewConn makes a client's connection of one that is open already.
func NewConn(nc net.Conn, limit time.Duration) *Conn {
	return &Conn{nc: nc, r: bufio.NewReaderSize(nc, 64<<10), limit: limit}
}

// Net is the connection below, for tests that write and read raw bytes.
func (c *Conn) Net() net.Conn { return c.nc }

// Close closes the connection.
func (c *Conn) Close() { _ = c.nc.Close() }

// Send buffers a request.
func (c *Conn) Send(args ...string) {
	c.w = append(c.w, '*')
	c.w = strconv.AppendInt(c.w, int64(len(args)), 10)
	c.w = append(c.w, '\r', '\n')
	for _, a := range args {
		c.w = append(c.w, '$')
		c.w = strconv.AppendInt(c.w, int64(len(a)), 10)
		c.w = append(c.w, '\r', '\n')
		c.w = append(c.w, a...)
		c.w = append(c.w, '\r', '\n')
	}
}

// Flush sends what is buffered.
func (c *Conn) Flush() error {
	if err := c.nc.SetWriteDeadline(time.Now().Add(c.limit)); err != nil {
		return err
	}
	_, err := c.nc.Write(c.w)
	c.w = c.w[:0]
	return err
}

// Recv reads one reply. An error reply is a Value, not an error.
func (c *Conn) Recv() (Value, error) {
	if c.r.Buffered() == 0 {
		if err := c.nc.SetReadDeadline(time.Now().Add(c.limit)); err != nil {
			return Value{}, err
		}
	}
	return c.value(0)
}

// Do sends one request and reads its reply.
func (c *Conn) Do(args ...string) (Value, error) {
	c.Send(args...)
	if err := c.Flush(); err != nil {
		return Value{}, err
	}
	return c.Recv()
}

// Must is Do for a request whose error reply is an error too.
func (c *Conn) Must(args ...string) (Value, error) {
	v, err := c.Do(args...)
	if err == nil && v.Err() != nil {
		err = fmt.Errorf("%s: %w", args[0], v.Err())
	}
	return v, err
}

func (c *Conn) value(depth int) (Value, error) {
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return Value{}, err
	}
	if len(line) < 3 || depth > 8 {
		return Value{}, fmt.Errorf("malformed reply %q", line)
	}
	v := Value{Kind: line[0]}
	rest := string(line[1 : len(line)-2])
	switch v.Kind {
	case '+', '-':
		v.Str = rest
		return v, nil
	case ':':
		v.Int, err = strconv.ParseInt(rest, 10, 64)
		return v, err
	case '$', '*':
	default:
		return Value{}, fmt.Errorf("malformed reply %q", line)
	}
	n, err := strconv.Atoi(rest)
	if err != nil || n < -1 || n > maxBulk {
		return Value{}, fmt.Errorf("malformed length %q", rest)
	}
	if n == -1 {
		v.Null = true
		return v, nil
	}
	if v.Kind == '$' {
		b := make([]byte, n+2)
		if _, err := io.ReadFull(c.r, b); err != nil {
			return Value{}, err
		}
		v.Str = string(b[:n])
		return v, nil
	}
	for range n {
		e, err := c.value(depth + 1)
		if err != nil {
			return Value{}, err
		}
		v.List = append(v.List, e)
	}
	return v, nil
}

// Raw sends bytes as they are.
func (c *Conn) Raw(b []byte) error {
	if err := c.nc.SetWriteDeadline(time.Now().Add(c.limit)); err != nil {
		return err
	}
	_, err := c.nc.Write(b)
	return err
}
