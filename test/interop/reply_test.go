package interop

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// Bounds on what a server under test may make the harness allocate.
const (
	maxBulkBytes  = 64 << 20
	maxAggregate  = 1 << 20
	maxReplyDepth = 32
	maxReplyLine  = 1 << 16
)

var errReplySyntax = errors.New("reply is not RESP")

// node is one parsed RESP2 or RESP3 reply.
type node struct {
	kind byte   // the type byte of the protocol
	null bool   // "$-1" and "*-1"
	text []byte // leaf: payload without framing
	kids []*node
}

// replyReader reads replies and keeps their exact bytes.
type replyReader struct {
	r   *bufio.Reader
	raw []byte
}

// read returns one complete reply and its bytes. A push is a reply like any other, an attribute comes with the reply that it
// describes.
func (rr *replyReader) read() (*node, []byte, error) {
	rr.raw = nil
	n, err := rr.node(0)
	return n, rr.raw, err
}

func (rr *replyReader) line() ([]byte, error) {
	var line []byte
	for {
		part, err := rr.r.ReadSlice('\n')
		rr.raw = append(rr.raw, part...)
		line = append(line, part...)
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
		if len(line) > maxReplyLine {
			return nil, fmt.Errorf("%w: line of more than %d bytes", errReplySyntax, maxReplyLine)
		}
	}
	if len(line) < 3 || line[len(line)-2] != '\r' {
		return nil, fmt.Errorf("%w: line %q", errReplySyntax, line)
	}
	return line[:len(line)-2], nil
}

func (rr *replyReader) node(depth int) (*node, error) {
	if depth > maxReplyDepth {
		return nil, fmt.Errorf("%w: nested deeper than %d", errReplySyntax, maxReplyDepth)
	}
	line, err := rr.line()
	if err != nil {
		return nil, err
	}
	n := &node{kind: line[0]}
	rest := line[1:]
	switch n.kind {
	case '+', '-', ':', ',', '#', '(', '_':
		n.text = rest
		return n, nil
	case '$', '=', '!':
		return n, rr.bulk(n, rest)
	case '*', '%', '~', '>', '|':
		return n, rr.aggregate(n, rest, depth)
	}
	return nil, fmt.Errorf("%w: line %q", errReplySyntax, line)
}

func (rr *replyReader) bulk(n *node, length []byte) error {
	size, err := strconv.Atoi(string(length))
	if err != nil || size < -1 || size > maxBulkBytes {
		return fmt.Errorf("%w: bulk length %q", errReplySyntax, length)
	}
	if size == -1 {
		n.null = true
		return nil
	}
	at := len(rr.raw)
	rr.raw = append(rr.raw, make([]byte, size+2)...)
	if _, err := io.ReadFull(rr.r, rr.raw[at:]); err != nil {
		return err
	}
	if !bytes.HasSuffix(rr.raw, []byte("\r\n")) {
		return fmt.Errorf("%w: bulk of %d bytes does not end in CRLF", errReplySyntax, size)
	}
	n.text = bytes.Clone(rr.raw[at : at+size])
	return nil
}

func (rr *replyReader) aggregate(n *node, length []byte, depth int) error {
	count, err := strconv.Atoi(string(length))
	if err != nil || count < -1 || count > maxAggregate {
		return fmt.Errorf("%w: aggregate length %q", errReplySyntax, length)
	}
	if count == -1 {
		n.null = true
		return nil
	}
	if n.kind == '%' || n.kind == '|' {
		count *= 2
	}
	if n.kind == '|' {
		count++ // the reply that follows the attribute
	}
	for range count {
		kid, err := rr.node(depth + 1)
		if err != nil {
			return err
		}
		n.kids = append(n.kids, kid)
	}
	return nil
}

func (n *node) isAggregate() bool { return strings.IndexByte("*%~>|", n.kind) >= 0 }

func (n *node) isError() bool { return n.kind == '-' || n.kind == '!' }

// firstLeaf returns the text of the first leaf, "" when there is none.
func (n *node) firstLeaf() string {
	if n == nil {
		return ""
	}
	if !n.isAggregate() {
		return string(n.text)
	}
	for _, kid := range n.kids {
		return kid.firstLeaf()
	}
	return ""
}

// lastLeaf returns the text of the last leaf, "" when there is none.
func (n *node) lastLeaf() string {
	if n == nil {
		return ""
	}
	if !n.isAggregate() {
		return string(n.text)
	}
	if len(n.kids) == 0 {
		return ""
	}
	return n.kids[len(n.kids)-1].lastLeaf()
}

// rules say how two replies are compared; the zero value means byte for byte.
type rules struct {
	unordered, pairs, lines, fields, shape, kind, ignore, errPrefix, quiet bool
	mask                                                                   []*regexp.Regexp
	hide                                                                   string // the leaf behind this one does not count; "": none
	near                                                                   float64
}

func (r *rules) exact() bool {
	return !r.unordered && !r.pairs && !r.lines && !r.fields && !r.kind && !r.shape && !r.errPrefix && len(r.mask) == 0 && r.near == 0 && r.hide == ""
}

// outcome is what came back on one side: a reply, or a connection that was closed or stayed silent.
type outcome struct {
	n    *node
	raw  []byte
	fate string // "" when a reply came
}

func (o outcome) String() string {
	s := fmt.Sprintf("%q", o.raw)
	if len(s) > 700 {
		s = s[:500] + " ... " + s[len(s)-180:]
	}
	if o.fate != "" {
		return s + " (" + o.fate + ")"
	}
	return s
}

// same reports whether two outcomes are equal under the rules.
func (r *rules) same(a, b outcome) bool {
	if a.fate != "" || b.fate != "" {
		return a.fate == b.fate && bytes.Equal(a.raw, b.raw)
	}
	if r.ignore {
		return true
	}
	if r.exact() {
		return bytes.Equal(a.raw, b.raw)
	}
	if r.kind {
		return a.n.kind == b.n.kind && (!a.n.isError() || bytes.Equal(a.raw, b.raw))
	}
	if r.fields {
		return len(missingFields(a.n, b.n)) == 0
	}
	if r.near > 0 {
		return r.nearlySame(a.n, b.n)
	}
	return r.canonical(a.n) == r.canonical(b.n)
}

// missingFields names the fields and sections of an INFO text that ours lacks; it may have more.
func missingFields(ours, genuine *node) []string {
	if ours.kind != genuine.kind {
		return []string{"(reply of another type)"}
	}
	have := map[string]bool{}
	for _, name := range fieldNames(ours) {
		have[name] = true
	}
	return slices.DeleteFunc(fieldNames(genuine), func(name string) bool { return have[name] })
}

func fieldNames(n *node) []string {
	var names []string
	for _, line := range strings.Split(string(n.text), "\r\n") {
		name, _, _ := strings.Cut(line, ":")
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}

func (r *rules) nearlySame(a, b *node) bool {
	if a.kind != b.kind || a.null != b.null || len(a.kids) != len(b.kids) {
		return false
	}
	if !a.isAggregate() {
		x, errX := strconv.ParseFloat(string(a.text), 64)
		y, errY := strconv.ParseFloat(string(b.text), 64)
		if errX != nil || errY != nil {
			return bytes.Equal(a.text, b.text)
		}
		return math.Abs(x-y) <= r.near
	}
	for i := range a.kids {
		if !r.nearlySame(a.kids[i], b.kids[i]) {
			return false
		}
	}
	return true
}

// canonical renders a reply so that two replies which the rules call equal render equally.
func (r *rules) canonical(n *node) string {
	if n.null {
		return string(n.kind) + "null"
	}
	if !n.isAggregate() {
		return r.canonicalLeaf(n)
	}
	parts := make([]string, len(n.kids))
	leaves := true
	for i, kid := range n.kids {
		parts[i] = r.canonical(kid)
		if r.hide != "" && i > 0 && !kid.isAggregate() && string(n.kids[i-1].text) == r.hide {
			parts[i] = string(kid.kind) + "<*>"
		}
		leaves = leaves && !kid.isAggregate()
	}
	isMap := n.kind == '%'
	if r.unordered && isMap || r.pairs && (isMap || leaves && len(parts)%2 == 0) {
		joined := make([]string, 0, len(parts)/2)
		for i := 0; i+1 < len(parts); i += 2 {
			joined = append(joined, parts[i]+"=>"+parts[i+1])
		}
		parts = joined
		sort.Strings(parts)
	} else if r.unordered {
		sort.Strings(parts)
	}
	return fmt.Sprintf("%c%d[%s]", n.kind, len(n.kids), strings.Join(parts, " "))
}

func (r *rules) canonicalLeaf(n *node) string {
	if r.shape && !n.isError() {
		return string(n.kind)
	}
	text := n.text
	if r.errPrefix && n.isError() {
		text, _, _ = bytes.Cut(text, []byte(" "))
	}
	for _, re := range r.mask {
		text = re.ReplaceAll(text, []byte("<*>"))
	}
	if r.lines {
		lines := bytes.SplitAfter(text, []byte("\n"))
		slices.SortFunc(lines, bytes.Compare)
		text = bytes.Join(lines, nil)
	}
	return fmt.Sprintf("%c%q", n.kind, text)
}
