package replication

import (
	"strconv"
	"strings"
)

// ReplyKind is what a master's answer to PSYNC means for the replica.
type ReplyKind uint8

// Kinds of answers.
const (
	ReplyFull     ReplyKind = iota // +FULLRESYNC id offset: a snapshot follows
	ReplyContinue                  // +CONTINUE [id]: the stream follows
	ReplyLater                     // the master cannot now, but will be able to
	ReplyNoPSYNC                   // the master does not know PSYNC: use SYNC
	ReplyBroken                    // +FULLRESYNC without its facts
)

// Reply is a master's answer to PSYNC.
type Reply struct {
	Kind   ReplyKind
	ID     string // of +FULLRESYNC; of +CONTINUE, if it names another history, else ""
	Offset uint64 // of +FULLRESYNC
}

// ParseReply reads the line, without CRLF, that a master answers to PSYNC.
func ParseReply(line string) Reply {
	switch {
	case strings.HasPrefix(line, "+FULLRESYNC"):
		f := strings.Fields(line)
		if len(f) < 3 || !ValidID(f[1]) {
			return Reply{Kind: ReplyBroken}
		}
		n, err := strconv.ParseUint(f[2], 10, 63)
		if err != nil {
			return Reply{Kind: ReplyBroken}
		}
		return Reply{Kind: ReplyFull, ID: f[1], Offset: n}
	case strings.HasPrefix(line, "+CONTINUE"):
		r := Reply{Kind: ReplyContinue}
		if f := strings.Fields(line); len(f) > 1 && ValidID(f[1]) {
			r.ID = f[1]
		}
		return r
	case strings.HasPrefix(line, "-NOMASTERLINK"), strings.HasPrefix(line, "-LOADING"):
		return Reply{Kind: ReplyLater}
	}
	return Reply{Kind: ReplyNoPSYNC}
}

// Preamble says what a master is going to send as snapshot.
type Preamble struct {
	Size int64  // bytes, if Mark is ""
	Mark string // 40 bytes that follow the snapshot's last
}

// ParsePreamble reads the line "$size" or "$EOF:mark", without CRLF.
func ParsePreamble(line string) (p Preamble, ok bool) {
	if mark, is := strings.CutPrefix(line, "$EOF:"); is {
		return Preamble{Mark: mark}, len(mark) == IDLen
	}
	if !strings.HasPrefix(line, "$") {
		return Preamble{}, false
	}
	n, err := strconv.ParseInt(line[1:], 10, 64)
	return Preamble{Size: n}, err == nil && n >= 0
}
