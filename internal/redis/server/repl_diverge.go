package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"holdfast/internal/journal"
	"holdfast/internal/redis/replication"
	"holdfast/internal/redis/resp"
)

// What a deposed master has and its successor has not is about to be thrown
// away by a full resynchronisation. It is saved first, as the commands of the
// stream, in divergence-<replid>-<offset>.resp in dir: replayed by
// `redis-cli --pipe` by whoever decides that it is wanted.

// maxInfo is the longest INFO that a master may answer, in bytes.
const maxInfo = 1 << 20

// masterFacts asks the master for its ids, from which follows where our history
// and its own part. A master that does not tell is one that we know less about.
func (l *masterLink) masterFacts(nc net.Conn, f linkFacts) (replication.Facts, error) {
	line, err := l.ask(nc, f, "INFO", "replication")
	if err != nil {
		return replication.Facts{}, err
	}
	size, is := strings.CutPrefix(line, "$")
	n, err := strconv.Atoi(size)
	if !is || err != nil || n < 0 {
		return replication.Facts{}, nil
	}
	if n > maxInfo {
		return replication.Facts{}, linkErrorf("The master's INFO is too long: %d bytes", n)
	}
	b := make([]byte, n+2)
	if _, err := io.ReadFull(l.r, b); err != nil {
		return replication.Facts{}, linkErrorf("Failed to read response from the server: %s", errnoText(cause(err)))
	}
	return replication.ParseFacts(string(b[:n])), nil
}

// divergence is a stretch of our stream that only we have.
type divergence struct {
	id       string
	from, to uint64
	streamDB int // database that the stream is at after it
	stream   journal.Stream
	scanFrom uint64 // a position at or before from where a record begins
	aligned  bool   // scanFrom is one
}

// findDivergence looks for what would be lost by taking the offer. The engine's
// lock is held.
func (s *Server) findDivergence(o *replication.Offer) (d divergence, found bool) {
	if s.repl.lost || s.persist.stream == nil {
		return d, false
	}
	from, known := o.Branch(s.repl.shared)
	if !known {
		if o.HasData {
			s.log.Warning("The data of this server, of the history %s up to offset %d, is replaced by that of the unrelated history %s", o.Own.ID, o.OwnEnd, o.ID)
		}
		return d, false
	}
	if from >= o.OwnEnd {
		return d, false
	}
	st := s.persist.stream
	d = divergence{id: o.Own.ID, from: from, to: o.OwnEnd, streamDB: s.e.StreamDB(), stream: st, scanFrom: st.FirstPos()}
	if j := s.persist.journal; j != nil {
		d.aligned = true
		if pos := j.Manifest().CheckpointPos; pos <= from && pos > d.scanFrom {
			d.scanFrom = pos
		}
	}
	return d, true
}

// saveDivergence writes the file. The engine's lock is not held: nothing is
// appended while this server follows a master.
func (s *Server) saveDivergence(d divergence) error {
	if d.from < d.stream.FirstPos() {
		s.log.Warning("Of %d bytes of the replication stream that only this server has, those before offset %d are not kept any more and are lost", d.to-d.from, d.stream.FirstPos())
		d.from = d.stream.FirstPos()
	}
	if !d.aligned {
		d.scanFrom = d.from
	}
	w := &divergenceWriter{d: d, db: -1, written: -1}
	if err := w.scan(); err != nil {
		return fmt.Errorf("reading what only this server has: %w", err)
	}
	if w.commands == 0 {
		return nil // only pings
	}
	name := fmt.Sprintf("divergence-%s-%d.resp", d.id, d.from)
	t, err := newFileTarget(s.fs, s.cfg.Dir, "temp-"+name, name, true)
	if err != nil {
		return err
	}
	w = &divergenceWriter{d: d, db: w.startDB(), written: -1, out: t}
	err = w.scan()
	if err == nil {
		err = t.Finish()
	} else {
		t.Abort(err)
	}
	if err != nil {
		return fmt.Errorf("saving what only this server has in %s: %w", name, err)
	}
	s.log.Warning("The new master's history does not have the last %d commands of this server, %d bytes of the replication stream from offset %d to %d: they are saved in %s",
		w.commands, d.to-d.from, d.from, d.to, name)
	return nil
}

// divergenceWriter reads the stream once to count and find the database, and
// once more to write.
type divergenceWriter struct {
	d        divergence
	db       int  // database at the present place, -1: not known
	before   int  // database at d.from
	selects  bool // a SELECT stands behind d.from
	commands int
	out      *fileTarget
	written  int // database that the file is at
}

// startDB is the database at the beginning of the stretch.
func (w *divergenceWriter) startDB() int {
	if w.before < 0 && !w.selects {
		return w.d.streamDB
	}
	return w.before
}

func (w *divergenceWriter) scan() (err error) {
	f, err := w.d.stream.Follow(w.d.scanFrom)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w.before = w.db
	p := resp.Parser{Trusted: true}
	var buf []byte
	pos := w.d.scanFrom // of buf[0]
	chunk := make([]byte, linkBuffer)
	for pos < w.d.to {
		n, err := f.Read(chunk)
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		buf = append(buf, chunk[:n]...)
		used := 0
		for pos < w.d.to {
			k, err := p.Next(buf[used:])
			if err != nil {
				return err
			}
			if k == 0 {
				break
			}
			if err := w.command(p.Args, buf[used:used+k], pos >= w.d.from); err != nil {
				return err
			}
			used += k
			pos += uint64(k)
		}
		buf = buf[:copy(buf, buf[used:])]
	}
	return nil
}

// command takes one command of the stream; ours says that it is of the stretch.
func (w *divergenceWriter) command(args [][]byte, raw []byte, ours bool) error {
	if len(args) == 0 {
		return nil
	}
	if !ours {
		if isWord(args[0], "select") && len(args) == 2 {
			w.db = number(args[1])
		}
		w.before = w.db
		return nil
	}
	switch {
	case isWord(args[0], "ping"), isWord(args[0], "replconf"):
		return nil
	case isWord(args[0], "select"):
		w.selects = true
		if w.out == nil {
			return nil
		}
		w.written = number(args[1])
	default:
		w.commands++
		if w.out != nil && w.written < 0 && w.db >= 0 {
			// The file has to say where it begins.
			w.written = w.db
			if err := w.write(resp.AppendCommandBytes(nil, [][]byte{[]byte("SELECT"), strconv.AppendInt(nil, int64(w.db), 10)})); err != nil {
				return err
			}
		}
	}
	if w.out == nil {
		return nil
	}
	return w.write(raw)
}

func (w *divergenceWriter) write(b []byte) error {
	_, err := w.out.Write(b)
	return err
}

func isWord(b []byte, word string) bool { return bytes.EqualFold(b, []byte(word)) }

func number(b []byte) int {
	n, ok := resp.ParseInt(b)
	if !ok || n < 0 || n > 1<<30 {
		return -1
	}
	return int(n)
}
