package interop

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"
)

// splitArgs splits a line in the quoting of redis-cli: "..." with \n \r \t \b \a \xHH and \c, '...' with \'.
func splitArgs(line string) ([]string, error) {
	var args []string
	for i := 0; ; {
		for i < len(line) && (line[i] == ' ' || line[i] == '\t') {
			i++
		}
		if i == len(line) {
			return args, nil
		}
		var word strings.Builder
		for i < len(line) && line[i] != ' ' && line[i] != '\t' {
			var err error
			switch line[i] {
			case '"':
				i, err = doubleQuoted(line, i+1, &word)
			case '\'':
				i, err = singleQuoted(line, i+1, &word)
			default:
				word.WriteByte(line[i])
				i++
			}
			if err != nil {
				return nil, err
			}
		}
		args = append(args, word.String())
	}
}

var errUnbalanced = errors.New("unbalanced quotes")

func doubleQuoted(line string, i int, word *strings.Builder) (int, error) {
	for ; i < len(line); i++ {
		c := line[i]
		if c == '"' {
			return i + 1, nil
		}
		if c != '\\' {
			word.WriteByte(c)
			continue
		}
		if i++; i == len(line) {
			break
		}
		if line[i] == 'x' && i+2 < len(line) {
			if v, err := strconv.ParseUint(line[i+1:i+3], 16, 8); err == nil {
				word.WriteByte(byte(v))
				i += 2
				continue
			}
		}
		if at := strings.IndexByte("nrtba", line[i]); at >= 0 {
			word.WriteByte("\n\r\t\b\a"[at])
		} else {
			word.WriteByte(line[i])
		}
	}
	return i, errUnbalanced
}

func singleQuoted(line string, i int, word *strings.Builder) (int, error) {
	for ; i < len(line); i++ {
		if line[i] == '\'' {
			return i + 1, nil
		}
		if line[i] == '\\' && i+1 < len(line) && line[i+1] == '\'' {
			i++
		}
		word.WriteByte(line[i])
	}
	return i, errUnbalanced
}

// expand returns all combinations of the {a|b} alternatives of a line; ${...} is left alone.
func expand(line string) []string {
	for i := 0; i < len(line); i++ {
		if line[i] != '{' || i > 0 && line[i-1] == '$' {
			continue
		}
		end := closingBrace(line[i:])
		if end < 0 {
			break
		}
		tails := expand(line[i+end+1:])
		var out []string
		for _, choice := range strings.Split(line[i+1:i+end], "|") {
			for _, t := range tails {
				out = append(out, line[:i]+choice+t)
			}
		}
		return out
	}
	return []string{line}
}

// closingBrace returns where the { that s begins with is closed, -1 if nowhere; a ${...} may lie between.
func closingBrace(s string) int {
	inner := false
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '{' && s[i-1] == '$':
			inner = true
		case s[i] == '}' && !inner:
			return i
		case s[i] == '}':
			inner = false
		}
	}
	return -1
}

// step is one parsed line that sends something.
type step struct {
	rules
	line            int
	cmd             string // the rest of the line, not yet split
	each, hasUntil  bool
	repeat, replies int
	capture, until  string
}

// parseModifiers consumes modifiers at the start of a line and returns the rest.
func (st *step) parseModifiers(line string) (string, error) {
	for strings.HasPrefix(line, "!") {
		word, rest, _ := strings.Cut(line, " ")
		rest = strings.TrimSpace(rest)
		takes := map[string]bool{"!mask": true, "!hide": true, "!near": true, "!replies": true, "!repeat": true, "!capture": true, "!until": true}
		var arg string
		if takes[word] {
			if strings.HasPrefix(rest, `"`) { // taken literally up to the next quote: regular expressions keep their backslashes
				var ok bool
				if arg, rest, ok = strings.Cut(rest[1:], `"`); !ok {
					return "", errUnbalanced
				}
			} else {
				arg, rest, _ = strings.Cut(rest, " ")
			}
			rest = strings.TrimSpace(rest)
		}
		known, err := st.modifier(word, arg)
		if err != nil {
			return "", err
		}
		if !known {
			return line, nil
		}
		line = rest
	}
	return line, nil
}

func (st *step) modifier(word, arg string) (known bool, err error) {
	switch word {
	case "!unordered":
		st.unordered = true
	case "!pairs":
		st.pairs = true
	case "!kind":
		st.kind = true
	case "!fields":
		st.fields = true
	case "!lines":
		st.lines = true
	case "!shape":
		st.shape = true
	case "!ignore":
		st.ignore = true
	case "!err-prefix":
		st.errPrefix = true
	case "!quiet":
		st.quiet = true
	case "!x":
		st.each = true
	case "!mask":
		var re *regexp.Regexp
		re, err = regexp.Compile(arg)
		st.mask = append(st.mask, re)
	case "!hide":
		st.hide = arg
	case "!near":
		st.near, err = strconv.ParseFloat(arg, 64)
	case "!replies":
		st.replies, err = strconv.Atoi(arg)
	case "!repeat":
		st.repeat, err = strconv.Atoi(arg)
	case "!capture":
		st.capture, st.shape = arg, true
	case "!until":
		st.until, st.hasUntil = arg, true
	default:
		return false, nil
	}
	return true, err
}

// script is one file of testdata.
type script struct {
	name       string
	lines      []string
	serverArgs []string // with hasServer: run on servers of its own
	hasServer  bool
	only       int // 2, 3, or 0 for both
}

func loadScript(path, name string) (*script, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := &script{name: name, lines: strings.Split(string(b), "\n")}
	for i, line := range s.lines {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "!server":
			s.hasServer = true
			if s.serverArgs, err = splitArgs(rest); err != nil {
				return nil, fmt.Errorf("%s:%d: %w", name, i+1, err)
			}
		case "!only":
			if s.only, err = strconv.Atoi(rest); err != nil {
				return nil, fmt.Errorf("%s:%d: %w", name, i+1, err)
			}
		}
	}
	return s, nil
}

// conn is one named connection, to both servers.
type conn [2]*link

// run is a script on its way through one protocol and one pair of servers.
type run struct {
	pair        *pair
	proto       int
	conns       map[string]*conn
	current     string
	vars        [2]map[string]string
	before      []string
	after       []string
	index       int // of !repeat
	line        int
	comparisons int
	diffs       []string
	suppressed  int
	silences    int // replies that never came on one side only
}

const (
	maxDiffsShown = 25
	maxSilences   = 8
)

// traced makes every command and the genuine reply visible, for who writes scripts.
var traced = os.Getenv("HOLDFAST_INTEROP_TRACE") != ""

var errTooSilent = errors.New("too many missing replies, script given up")

func newRun(p *pair, proto int) *run {
	return &run{
		pair: p, proto: proto, conns: map[string]*conn{}, current: "main",
		vars: [2]map[string]string{{}, {}},
	}
}

func (r *run) closeAll() {
	for name := range r.conns {
		r.closeConn(name)
	}
}

func (r *run) closeConn(name string) {
	if c := r.conns[name]; c != nil {
		for _, l := range c {
			l.close()
		}
		delete(r.conns, name)
	}
}

// conn returns the current connection, opening it at its first use.
func (r *run) conn() (*conn, error) {
	if c := r.conns[r.current]; c != nil {
		return c, nil
	}
	c := &conn{}
	for i, s := range r.pair.sides {
		l, err := dial(s.port)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.program.name, err)
		}
		c[i] = l
		if r.proto == 3 {
			if o := l.do("HELLO", "3"); o.fate != "" {
				return nil, fmt.Errorf("%s: HELLO 3: %v", s.program.name, o)
			}
		}
	}
	r.conns[r.current] = c
	return c, nil
}

// runScript executes every line. The error says why the script could not be carried out; differences are in r.diffs.
func (r *run) runScript(s *script) error {
	pending := step{}
	for i, line := range s.lines {
		r.line = i + 1
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		rest, err := pending.parseModifiers(line)
		if err == nil && rest != "" {
			st := pending
			pending = step{}
			st.line, st.cmd = r.line, rest
			err = r.execute(&st)
		}
		if err != nil {
			return fmt.Errorf("%s:%d: %s: %w", s.name, r.line, line, err)
		}
	}
	return nil
}

func (r *run) execute(st *step) error {
	if strings.HasPrefix(st.cmd, "!") {
		word, rest, _ := strings.Cut(st.cmd, " ")
		return r.directive(st, word, strings.TrimSpace(rest))
	}
	if !st.each {
		return r.command(st)
	}
	for _, line := range expand(st.cmd) {
		for _, b := range r.before {
			if err := r.subcommand(b, true); err != nil {
				return err
			}
		}
		one := *st
		one.cmd = line
		if err := r.command(&one); err != nil {
			return err
		}
		for _, a := range r.after {
			if err := r.subcommand(a, false); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *run) subcommand(line string, quiet bool) error {
	st := step{line: r.line}
	rest, err := st.parseModifiers(line)
	if err != nil {
		return err
	}
	st.cmd, st.quiet = rest, st.quiet || quiet
	return r.command(&st)
}

func (r *run) directive(st *step, word, rest string) error {
	switch word {
	case "!server", "!only": // read by loadScript
		return nil
	case "!conn":
		r.current = rest
		_, err := r.conn()
		return err
	case "!close":
		r.closeConn(r.current)
		return nil
	case "!send":
		return r.send(rest)
	case "!recv":
		return r.recvN(st, rest)
	case "!drain":
		return r.drain(st)
	case "!raw", "!rawsend":
		return r.rawBytes(st, word, rest)
	case "!alive":
		return r.alive(st)
	case "!blocked":
		return r.waitInfo("blocked_clients", rest)
	case "!wait-info":
		field, value, _ := strings.Cut(rest, " ")
		return r.waitInfo(field, value)
	case "!config":
		return r.config(st, rest)
	case "!before":
		r.before = appendOrClear(r.before, rest)
		return nil
	case "!after":
		r.after = appendOrClear(r.after, rest)
		return nil
	case "!swap":
		r.vars[0][rest], r.vars[1][rest] = r.vars[1][rest], r.vars[0][rest]
		return nil
	case "!restart":
		return r.restart(rest)
	}
	return fmt.Errorf("unknown directive %s", word)
}

func appendOrClear(list []string, line string) []string {
	if line == "" {
		return nil
	}
	return append(list, line)
}

var reVar = regexp.MustCompile(`\$\{([^}]*)\}`)

// substitute replaces ${...} in a word for one side.
func (r *run) substitute(side int, word string) string {
	if !strings.Contains(word, "${") {
		return word
	}
	return reVar.ReplaceAllStringFunc(word, func(m string) string {
		name := m[2 : len(m)-1]
		if text, count, ok := strings.Cut(name, "*"); ok {
			if n, err := strconv.Atoi(count); err == nil && n >= 0 && n*len(text) <= maxBulkBytes {
				return strings.Repeat(text, n)
			}
		}
		switch {
		case name == "i":
			return strconv.Itoa(r.index)
		case name == "port":
			return strconv.Itoa(r.pair.sides[side].port)
		case name == "addr":
			return r.address(r.current, side)
		case strings.HasPrefix(name, "addr:"):
			return r.address(name[len("addr:"):], side)
		}
		return r.vars[side][name]
	})
}

func (r *run) address(name string, side int) string {
	if c := r.conns[name]; c != nil {
		return c[side].c.LocalAddr().String()
	}
	return "no-such-connection"
}

func (r *run) args(cmd string, side int) ([]string, error) {
	args, err := splitArgs(cmd)
	for i := range args {
		args[i] = r.substitute(side, args[i])
	}
	return args, err
}

func (r *run) send(cmd string) error {
	c, err := r.conn()
	if err != nil {
		return err
	}
	for side, l := range c {
		args, err := r.args(cmd, side)
		if err != nil {
			return err
		}
		_ = l.send(args) // a closed connection shows when receiving
	}
	return nil
}

// command sends a command as often as asked for and compares its replies.
func (r *run) command(st *step) error {
	if st.hasUntil {
		return r.until(st)
	}
	before := len(r.diffs)
	for i := range max(st.repeat, 1) {
		r.index = i
		if err := r.send(st.cmd); err != nil {
			return err
		}
		counted := *st
		counted.quiet = st.quiet || i > 0
		for range max(st.replies, 1) {
			if err := r.compareNext(&counted, st.quiet); err != nil {
				return err
			}
		}
		if len(r.diffs) > before {
			break
		}
	}
	return nil
}

// compareNext receives one reply from both sides. A quiet one is not counted, and compared only when silent is not set.
func (r *run) compareNext(st *step, silent bool) error {
	c, err := r.conn()
	if err != nil {
		return err
	}
	outs := [2]outcome{c[0].recv(), c[1].recv()}
	if !st.quiet {
		r.comparisons++
	}
	if traced {
		fmt.Fprintf(os.Stderr, "%4d %s\n     %v\n", st.line, tail(st.cmd, 200), outs[1])
	}
	if st.capture != "" {
		for side := range outs {
			r.vars[side][st.capture] = outs[side].n.firstLeaf()
		}
	}
	if !silent && !st.same(outs[0], outs[1]) {
		r.report(st, outs)
	}
	if outs[0].fate == "" && outs[1].fate == "" {
		return nil
	}
	r.closeConn(r.current) // the next command starts on a fresh connection on both sides
	if outs[0].fate != outs[1].fate {
		r.silences++
	} else if outs[0].fate == fateSilent {
		return errors.New("neither side replied: the script waits for what never comes")
	}
	for _, s := range r.pair.sides {
		if !s.alive() {
			return fmt.Errorf("%s died:\n%s", s.program.name, tail(s.output.String(), 4000))
		}
	}
	if r.silences >= maxSilences {
		return errTooSilent
	}
	return nil
}

func (r *run) report(st *step, outs [2]outcome) {
	if len(r.diffs) >= maxDiffsShown {
		r.suppressed++
		r.diffs = append(r.diffs, "")
		return
	}
	if st.fields && outs[0].n != nil && outs[1].n != nil {
		missing := missingFields(outs[0].n, outs[1].n)
		r.diffs = append(r.diffs, fmt.Sprintf("line %d: %s\n\tlacks %s", st.line, st.cmd, strings.Join(missing, " ")))
		return
	}
	r.diffs = append(r.diffs, fmt.Sprintf("line %d: %s\n\t%-8s %v\n\t%-8s %v", st.line, tail(st.cmd, 300),
		r.pair.sides[0].program.name, outs[0], r.pair.sides[1].program.name, outs[1]))
}

// until repeats a command, on each side until its reply reads as wanted; a side that never gets there is a difference.
func (r *run) until(st *step) error {
	c, err := r.conn()
	if err != nil {
		return err
	}
	outs := [2]outcome{}
	for side, l := range c {
		args, err := r.args(st.cmd, side)
		if err != nil {
			return err
		}
		deadline := time.Now().Add(replyDeadline)
		for {
			outs[side] = l.do(args...)
			if outs[side].fate != "" || outs[side].n.firstLeaf() == st.until || time.Now().After(deadline) {
				break
			}
			time.Sleep(pollInterval)
		}
	}
	r.comparisons++
	for _, o := range outs {
		if o.n.firstLeaf() != st.until {
			r.report(st, outs)
			break
		}
	}
	return nil
}

func (r *run) recvN(st *step, rest string) error {
	n := 1
	if rest != "" {
		var err error
		if n, err = strconv.Atoi(rest); err != nil {
			return err
		}
	}
	for range n {
		if err := r.compareNext(st, false); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) rawBytes(st *step, word, rest string) error {
	c, err := r.conn()
	if err != nil {
		return err
	}
	for side, l := range c {
		args, err := r.args(rest, side)
		if err != nil {
			return err
		}
		for _, piece := range args { // each argument is a write of its own
			_ = l.write([]byte(piece))
		}
	}
	if word == "!rawsend" {
		return nil
	}
	return r.compareNext(st, false)
}

func (r *run) alive(st *step) error {
	c, err := r.conn()
	if err != nil {
		return err
	}
	for _, l := range c {
		_ = l.write([]byte("PING\r\n"))
	}
	return r.compareNext(st, false)
}

func (r *run) waitInfo(field, value string) error {
	return errors.Join(r.pair.sides[0].waitInfo(field, value), r.pair.sides[1].waitInfo(field, value))
}

func (r *run) config(st *step, rest string) error {
	args, err := splitArgs(rest)
	if err != nil {
		return err
	}
	var outs [2]outcome
	for side, s := range r.pair.sides {
		outs[side] = s.control.do(append([]string{"CONFIG", "SET"}, args...)...)
	}
	r.comparisons++
	if !st.same(outs[0], outs[1]) {
		r.report(st, outs)
	}
	return nil
}

func (r *run) restart(how string) error {
	r.closeAll()
	for _, s := range r.pair.sides {
		if err := s.stop(how); err != nil {
			return err
		}
	}
	for _, s := range r.pair.sides {
		if err := s.start(); err != nil {
			return err
		}
	}
	return nil
}

const drainMark = "end-of-drain"

// drain compares all replies up to the answer of a PING that it sends now: what was sent to the connection before is there
// by then. With unordered the replies are a multiset.
func (r *run) drain(st *step) error {
	c, err := r.conn()
	if err != nil {
		return err
	}
	var lists [2][]outcome
	for side, l := range c {
		_ = l.send([]string{"PING", drainMark})
		for {
			o := l.recv()
			if o.fate != "" {
				r.closeConn(r.current)
				return fmt.Errorf("%s: !drain: %v", r.pair.sides[side].program.name, o)
			}
			if last := o.n.lastLeaf(); last == drainMark {
				break
			}
			lists[side] = append(lists[side], o)
		}
		if st.unordered {
			sort.Slice(lists[side], func(i, j int) bool {
				return string(lists[side][i].raw) < string(lists[side][j].raw)
			})
		}
	}
	for i := range max(len(lists[0]), len(lists[1])) {
		var outs [2]outcome
		for side := range outs {
			outs[side] = outcome{fate: "nothing more"}
			if i < len(lists[side]) {
				outs[side] = lists[side][i]
			}
		}
		r.comparisons++
		if traced {
			fmt.Fprintf(os.Stderr, "%4d !drain\n     %v\n", st.line, outs[1])
		}
		if !st.same(outs[0], outs[1]) {
			r.report(st, outs)
			break // what follows is shifted
		}
	}
	return nil
}
