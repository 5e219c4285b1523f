package resp

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
)

// Value is one reply. Kind is the type byte of the protocol: + - : $ * _ , #
// = ( % ~ >; the RESP2 nulls have Kind '_' as well. A map's Elems alternate key
// and value.
type Value struct {
	Kind  byte
	Str   []byte // text of + - $ = ( and of ,
	Int   int64  // of : and # (0 or 1)
	Elems []Value
}

// IsNull reports a null of either protocol.
func (v Value) IsNull() bool { return v.Kind == '_' }

// IsError reports an error reply; its text is in Str.
func (v Value) IsError() bool { return v.Kind == '-' || v.Kind == '!' }

// Err is the error reply as a Go error, nil for any other reply.
func (v Value) Err() error {
	if v.IsError() {
		return ReplyError(v.Str)
	}
	return nil
}

// String is the text of a reply that has one; an integer in decimal.
func (v Value) String() string {
	if v.Kind == ':' || v.Kind == '#' {
		return strconv.FormatInt(v.Int, 10)
	}
	return string(v.Str)
}

// ReplyError is an error reply of the peer, code included.
type ReplyError string

func (e ReplyError) Error() string { return string(e) }

const (
	maxReplyDepth = 32
	maxReplyElems = 1 << 26
	readChunk     = 1 << 20
)

// Reader reads replies from a stream. Strings are copies.
type Reader struct {
	R *bufio.Reader
	// MaxBulk bounds one string, in bytes; DefaultMaxBulk when zero.
	MaxBulk int64
}

// NewReader reads replies from r.
func NewReader(r io.Reader) *Reader { return &Reader{R: bufio.NewReaderSize(r, 16*1024)} }

// Read reads one reply, blocking; a push (Kind '>') is a reply of its own.
func (r *Reader) Read() (Value, error) { return r.read(0) }

// Line reads one line without its line end, at most 64 KiB.
func (r *Reader) Line() ([]byte, error) {
	var line []byte
	for {
		part, err := r.R.ReadSlice('\n')
		line = append(line, part...)
		if err == nil {
			break
		}
		if err != bufio.ErrBufferFull {
			if err == io.EOF && len(line) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if len(line) > maxInline {
			return nil, ProtocolError("reply line is longer than 64 KiB")
		}
	}
	line = line[:len(line)-1]
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line, nil
}

func (r *Reader) read(depth int) (Value, error) {
	if depth > maxReplyDepth {
		return Value{}, ProtocolError("reply is nested too deeply")
	}
	line, err := r.Line()
	if err != nil {
		return Value{}, err
	}
	if len(line) == 0 {
		return Value{}, ProtocolError("empty line where a reply was expected")
	}
	v := Value{Kind: line[0], Str: line[1:]}
	switch v.Kind {
	case '+', '-', '(', ',':
		return v, nil
	case '_':
		return Value{Kind: '_'}, nil
	case '#':
		v.Int = 0
		if len(v.Str) == 1 && v.Str[0] == 't' {
			v.Int = 1
		}
		v.Str = nil
		return v, nil
	case ':':
		n, ok := ParseInt(v.Str)
		if !ok {
			return Value{}, ProtocolError(fmt.Sprintf("bad integer reply %q", v.Str))
		}
		return Value{Kind: ':', Int: n}, nil
	case '$', '=', '!':
		return r.bulk(v)
	case '*', '%', '~', '>', '|':
		return r.aggregate(v, depth)
	}
	return Value{}, ProtocolError(fmt.Sprintf("unknown reply type %q", v.Kind))
}

func (r *Reader) bulk(v Value) (Value, error) {
	n, ok := ParseInt(v.Str)
	if ok && n == -1 {
		return Value{Kind: '_'}, nil
	}
	limit := r.MaxBulk
	if limit == 0 {
		limit = DefaultMaxBulk
	}
	if !ok || n < 0 || n > limit {
		return Value{}, ProtocolError(fmt.Sprintf("bad bulk length %q", v.Str))
	}
	data, err := readN(r.R, n)
	if err != nil {
		return Value{}, err
	}
	var end [2]byte
	if _, err := io.ReadFull(r.R, end[:]); err != nil {
		return Value{}, noEOF(err)
	}
	if v.Kind == '=' && len(data) >= 4 {
		data = data[4:]
	}
	return Value{Kind: v.Kind, Str: data}, nil
}

// readN reads n bytes, growing as they come: n is the peer's claim.
func readN(r io.Reader, n int64) ([]byte, error) {
	data := make([]byte, 0, min(n, readChunk))
	for int64(len(data)) < n {
		step := min(n-int64(len(data)), readChunk)
		at := len(data)
		data = append(data, make([]byte, step)...)
		if _, err := io.ReadFull(r, data[at:]); err != nil {
			return nil, noEOF(err)
		}
	}
	return data, nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (r *Reader) aggregate(v Value, depth int) (Value, error) {
	n, ok := ParseInt(v.Str)
	if ok && n == -1 {
		return Value{Kind: '_'}, nil
	}
	if !ok || n < 0 || n > maxReplyElems {
		return Value{}, ProtocolError(fmt.Sprintf("bad aggregate length %q", v.Str))
	}
	if v.Kind == '%' || v.Kind == '|' {
		n *= 2
	}
	out := Value{Kind: v.Kind, Elems: make([]Value, 0, min(n, 1024))}
	for range n {
		e, err := r.read(depth + 1)
		if err != nil {
			return Value{}, noEOF(err)
		}
		out.Elems = append(out.Elems, e)
	}
	if v.Kind == '|' { // attributes stand before the reply they describe
		return r.read(depth)
	}
	return out, nil
}
