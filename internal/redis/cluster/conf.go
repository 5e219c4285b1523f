package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
)

// nodes.conf, one line per node and then one of variables:
//
//	id ip:port@busport[,hostname] flags master|- pingSent pongReceived epoch connected|disconnected [slot|from-to|[slot->-id]|[slot-<-id]]...
//	vars currentEpoch N lastVoteEpoch N
//
// Before the last line there may be one of ours, which Redis skips with a line in
// its log, and does not write again:
//
//	vars slots-since from-to:epoch,slot:epoch...

// ErrCorruptConf is Redis's word on a nodes.conf that it cannot read.
var ErrCorruptConf = errors.New("Unrecoverable error: corrupted cluster config file.") //nolint:staticcheck // Redis's words

// conf is the content of nodes.conf.
type conf struct {
	nodes         []confNode
	currentEpoch  uint64
	lastVoteEpoch uint64
	hasVars       bool // the last line is there
	unknownVars   []string
	since         []confSince
}

type confNode struct {
	id, ip, hostname string
	port, busPort    int
	flags            Flags
	master           string
	pinged, ponged   bool
	configEpoch      uint64
	slots            [][2]int // inclusive ranges
	moving           []confMove
}

// confSince says in which epoch the owners of some slots got them.
type confSince struct {
	from, to int // inclusive
	epoch    uint64
}

type confMove struct {
	slot      int
	importing bool
	other     string
}

var flagNames = []struct {
	flag Flags
	name string
}{
	{FlagMyself, "myself"}, {FlagMaster, "master"}, {FlagReplica, "slave"}, {FlagPFail, "fail?"},
	{FlagFail, "fail"}, {FlagHandshake, "handshake"}, {FlagNoAddr, "noaddr"}, {FlagNoFailover, "nofailover"},
}

// parseConf reads the text of nodes.conf. It accepts what Redis accepts and
// gives ErrCorruptConf, wrapped, where Redis refuses to start.
func parseConf(text []byte) (*conf, error) {
	cf := &conf{}
	myself := 0
	for len(text) > 0 {
		line := text
		if i := bytes.IndexByte(text, '\n'); i >= 0 {
			line, text = text[:i], text[i+1:]
		} else {
			text = nil
		}
		f := strings.Fields(string(line))
		if len(f) == 0 {
			continue
		}
		if strings.EqualFold(f[0], "vars") {
			if err := cf.parseVars(f[1:]); err != nil {
				return nil, err
			}
			continue
		}
		n, err := parseConfNode(f)
		if err != nil {
			return nil, err
		}
		if n.flags.Has(FlagMyself) {
			myself++
		}
		cf.nodes = append(cf.nodes, n)
	}
	if myself != 1 {
		return nil, fmt.Errorf("%w (%d lines say myself)", ErrCorruptConf, myself)
	}
	return cf, nil
}

func (cf *conf) parseVars(f []string) error {
	if len(f)%2 != 0 {
		return fmt.Errorf("%w (vars)", ErrCorruptConf)
	}
	for i := 0; i < len(f); i += 2 {
		if strings.EqualFold(f[i], sinceVar) {
			cf.parseSince(f[i+1])
			continue
		}
		cf.hasVars = true
		n, _ := strconv.ParseUint(f[i+1], 10, 64)
		switch strings.ToLower(f[i]) {
		case "currentepoch":
			cf.currentEpoch = n
		case "lastvoteepoch":
			cf.lastVoteEpoch = n
		default:
			cf.unknownVars = append(cf.unknownVars, f[i])
		}
	}
	return nil
}

func parseConfNode(f []string) (confNode, error) {
	bad := func(what string) (confNode, error) { return confNode{}, fmt.Errorf("%w (%s)", ErrCorruptConf, what) }
	if len(f) < 8 || !validID(f[0]) {
		return bad("node line")
	}
	n := confNode{id: f[0]}
	addr, host, _ := strings.Cut(f[1], ",")
	n.hostname = host
	i := strings.LastIndexByte(addr, ':')
	if i < 0 || i >= ipLen {
		return bad("address " + f[1])
	}
	n.ip = addr[:i]
	port, bus, hasBus := strings.Cut(addr[i+1:], "@")
	n.port = atoi(port)
	n.busPort = n.port + BusPortIncr
	if hasBus {
		n.busPort = atoi(bus)
	}
	var ok bool
	if n.flags, ok = parseFlags(f[2]); !ok {
		return bad("flags " + f[2])
	}
	if f[3][0] != '-' {
		if !validID(f[3]) || f[3] == n.id {
			return bad("master " + f[3])
		}
		n.master = f[3]
	}
	n.pinged, n.ponged = atoi(f[4]) != 0, atoi(f[5]) != 0
	n.configEpoch, _ = strconv.ParseUint(f[6], 10, 64)
	for _, s := range f[8:] {
		if err := n.parseSlot(s); err != nil {
			return confNode{}, err
		}
	}
	return n, nil
}

func parseFlags(s string) (Flags, bool) {
	var flags Flags
next:
	for _, name := range strings.Split(s, ",") {
		if strings.EqualFold(name, "noflags") {
			continue
		}
		for _, fn := range flagNames {
			if strings.EqualFold(name, fn.name) {
				flags |= fn.flag
				continue next
			}
		}
		return 0, false
	}
	return flags, true
}

func (n *confNode) parseSlot(s string) error {
	if s[0] == '[' {
		body, closed := strings.CutSuffix(s[1:], "]")
		i := strings.IndexByte(body, '-')
		if !closed || i < 0 || len(body) < i+3 {
			return fmt.Errorf("%w (slot %s)", ErrCorruptConf, s)
		}
		m := confMove{slot: atoi(body[:i]), importing: body[i+1] != '>', other: body[i+3:]}
		if m.slot < 0 || m.slot >= Slots || !validID(m.other) {
			return fmt.Errorf("%w (slot %s)", ErrCorruptConf, s)
		}
		n.moving = append(n.moving, m)
		return nil
	}
	from, to, isRange := strings.Cut(s, "-")
	r := [2]int{atoi(from), atoi(from)}
	if isRange {
		r[1] = atoi(to)
	}
	if r[0] < 0 || r[0] >= Slots || r[1] < 0 || r[1] >= Slots {
		return fmt.Errorf("%w (slot %s)", ErrCorruptConf, s)
	}
	n.slots = append(n.slots, r)
	return nil
}

// atoi reads a number as C does: what follows the digits is ignored, and what
// does not begin with one is 0. What does not fit is -1.
func atoi(s string) int {
	i := 0
	if i < len(s) && s[i] == '-' {
		i++
	}
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	if i == 0 || s[:i] == "-" {
		return 0
	}
	n, err := strconv.ParseInt(s[:i], 10, 32)
	if err != nil {
		return -1
	}
	return int(n)
}

func appendFlags(b []byte, flags Flags) []byte {
	n := len(b)
	for _, fn := range flagNames {
		if flags&fn.flag != 0 {
			b = append(append(b, fn.name...), ',')
		}
	}
	if len(b) == n {
		return append(b, "noflags"...)
	}
	return b[:len(b)-1]
}

// A generation file holds a copy of nodes.conf that shows by itself whether it
// is whole:
//
//	holdfast-nodes 1 GENERATION LENGTH CRC32C\n
//	LENGTH bytes of nodes.conf
//
// Several files are written in turn, so that whatever a crash does to one,
// another holds the identity of the node and its last vote.
const generationMagic = "holdfast-nodes 1 "

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrGeneration says that a generation file is torn, corrupt or none.
var ErrGeneration = errors.New("not a whole copy of nodes.conf")

// EncodeGeneration is the content of a generation file.
func EncodeGeneration(generation uint64, nodesConf []byte) []byte {
	b := make([]byte, 0, len(nodesConf)+80)
	b = append(b, generationMagic...)
	b = strconv.AppendUint(b, generation, 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(len(nodesConf)), 10)
	b = append(b, ' ')
	sum := crc32.Update(crc32.Checksum(b[len(generationMagic):], castagnoli), castagnoli, nodesConf)
	b = append(b, fmt.Sprintf("%08x\n", sum)...)
	return append(b, nodesConf...)
}

// DecodeGeneration gives what EncodeGeneration was given; nodesConf is part of b.
func DecodeGeneration(b []byte) (generation uint64, nodesConf []byte, err error) {
	i := bytes.IndexByte(b, '\n')
	if i < 0 || i > 80 || !bytes.HasPrefix(b, []byte(generationMagic)) {
		return 0, nil, ErrGeneration
	}
	head := string(b[len(generationMagic):i])
	f := strings.Split(head, " ")
	if len(f) != 3 || len(f[2]) != 8 {
		return 0, nil, ErrGeneration
	}
	generation, err1 := strconv.ParseUint(f[0], 10, 64)
	length, err2 := strconv.ParseUint(f[1], 10, 62)
	sum, err3 := strconv.ParseUint(f[2], 16, 32)
	body := b[i+1:]
	if err := errors.Join(err1, err2, err3); err != nil || uint64(len(body)) < length {
		return 0, nil, ErrGeneration
	}
	body = body[:length]
	got := crc32.Update(crc32.Checksum([]byte(head[:len(head)-8]), castagnoli), castagnoli, body)
	if got != uint32(sum) {
		return 0, nil, ErrGeneration
	}
	return generation, body, nil
}

// Origin says which file ChooseState took.
type Origin uint8

// The origins.
const (
	FromNothing    Origin = iota // a new node
	FromNodesConf                // nodes.conf
	FromGeneration               // the newest whole generation file
)

// keepVote is nodesConf with the epochs of a copy of the same node where those
// are higher: a file that was put back, or written over in place and cut off in
// the middle, must not make the node vote again in an epoch.
func keepVote(nodesConf []byte, cf *conf, whole []byte) []byte {
	if whole == nil {
		return nodesConf
	}
	old, err := parseConf(whole)
	if err != nil || old.myself() != cf.myself() || (old.lastVoteEpoch <= cf.lastVoteEpoch && old.currentEpoch <= cf.currentEpoch) {
		return nodesConf
	}
	return fmt.Appendf(bytes.Clone(nodesConf), "\nvars currentEpoch %d lastVoteEpoch %d\n",
		max(old.currentEpoch, cf.currentEpoch), max(old.lastVoteEpoch, cf.lastVoteEpoch))
}

// myself is the id of the node whose file it is.
func (cf *conf) myself() string {
	for i := range cf.nodes {
		if cf.nodes[i].flags.Has(FlagMyself) {
			return cf.nodes[i].id
		}
	}
	return ""
}

// sector is what a power cut, or a kill, leaves whole of a write, in bytes.
const sector = 512

// patchwork reports whether text is made of sectors of several of the versions
// that it was written over with in place, and none of them; it may well parse.
func patchwork(text []byte, versions [][]byte) bool {
	text = bytes.TrimRight(text, "\n")
	for at := 0; at < len(text); at += sector {
		known := false
		for _, v := range versions {
			known = known || sameSector(text, v, at)
		}
		if !known {
			return false
		}
	}
	for _, v := range versions {
		if bytes.Equal(text, bytes.TrimRight(v, "\n")) {
			return false
		}
	}
	return len(text) > 0
}

// sameSector compares the sectors at an offset; what is shorter is followed by
// empty lines.
func sameSector(a, b []byte, at int) bool {
	for i := at; i < at+sector; i++ {
		x, y := byte('\n'), byte('\n')
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if x != y {
			return false
		}
	}
	return true
}

// ChooseState picks the state to start from: a nodes.conf that parses, with the
// epochs of the newest whole generation where they are higher, else that
// generation. A nodes.conf without its last line (vars), which Redis always
// writes, counts as torn while there is a whole generation, and so does one that
// is a patchwork of several. All of them may be nil or empty. The error is
// ErrCorruptConf when there is something, but nothing that can be used: the node
// must not start with a new identity.
func ChooseState(nodesConf []byte, copies ...[]byte) (state []byte, generation uint64, from Origin, err error) {
	var best []byte
	var whole [][]byte
	size := 0
	for _, g := range copies {
		size += len(g)
		n, text, err := DecodeGeneration(g)
		if err != nil {
			continue
		}
		if _, err := parseConf(text); err != nil {
			continue
		}
		whole = append(whole, text)
		if best == nil || n > generation {
			best, generation = text, n
		}
	}
	blank := len(bytes.TrimSpace(nodesConf)) == 0
	if !blank {
		cf, perr := parseConf(nodesConf)
		if perr == nil && (best == nil || cf.hasVars && !patchwork(nodesConf, whole)) {
			return keepVote(nodesConf, cf, best), generation, FromNodesConf, nil
		}
		err = perr
	}
	switch {
	case best != nil:
		return best, generation, FromGeneration, nil
	case !blank:
		return nil, 0, FromNothing, err
	case size > 0:
		return nil, 0, FromNothing, fmt.Errorf("%w (no nodes.conf, and no whole copy of it)", ErrCorruptConf)
	}
	return nil, 0, FromNothing, nil
}
