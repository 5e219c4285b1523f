package server

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"holdfast/internal/redis/command"
	"holdfast/internal/redis/resp"
)

// importAOFFile applies one append-only file of Redis: an RDB preamble, if it
// has one, then commands. A truncated end is accepted while
// aof-load-truncated is yes.
func (s *Server) importAOFFile(path string, cl *command.Client) error {
	f, err := s.fs.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<20)
	if head, err := r.Peek(5); err == nil && string(head) == "REDIS" {
		rest, err := s.loadPreamble(r)
		if err != nil {
			return fmt.Errorf("Error reading the RDB preamble of the AOF file %s, AOF loading aborted: %w", path, err)
		}
		r = bufio.NewReaderSize(io.MultiReader(rest, r), 1<<20)
	}
	return s.applyAOF(path, r, cl)
}

// applyAOF executes commands up to the end of r. A MULTI whose EXEC is missing
// is dropped as a whole.
func (s *Server) applyAOF(path string, r io.Reader, cl *command.Client) error {
	p := resp.Parser{Trusted: true}
	var buf []byte
	chunk := make([]byte, 1<<20)
	for {
		n, err := r.Read(chunk)
		buf = append(buf, chunk[:n]...)
		used, perr := s.applyCommands(&p, buf, cl)
		if errors.Is(perr, errStopped) {
			return perr
		}
		if perr != nil {
			return fmt.Errorf("Bad file format reading the append only file %s: make a backup of your AOF file, then use ./redis-check-aof --fix <filename.manifest>: %w", path, perr)
		}
		buf = buf[:copy(buf, buf[used:])]
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if len(buf) > 0 || cl.MultiLen() >= 0 {
		if !s.cfg.AOFLoadTruncated {
			return fmt.Errorf("Unexpected end of file reading the append only file %s. You can: 1) Make a backup of your AOF file, then use ./redis-check-aof --fix <filename.manifest>. 2) Alternatively you can set the 'aof-load-truncated' configuration option to yes and restart the server.", path)
		}
		s.log.Warning("!!! Warning: short read while loading the AOF file %s!!!", path)
		s.log.Warning("AOF loaded anyway because aof-load-truncated is enabled")
		s.e.Release(cl)
		cl.Flags &^= command.FlagMulti
	}
	return nil
}

func (s *Server) applyCommands(p *resp.Parser, buf []byte, cl *command.Client) (used int, err error) {
	for done := 0; ; {
		// Annotations (#TS:...) stand between commands.
		for used < len(buf) && buf[used] == '#' {
			end := indexByte(buf[used:], '\n')
			if end < 0 {
				return used, nil
			}
			used += end + 1
		}
		n, err := p.Next(buf[used:])
		if err != nil || n == 0 {
			return used, err
		}
		if len(p.Args) > 0 {
			if err := s.replayOne(cl, p.Args); err != nil {
				return used, err
			}
		}
		used += n
		if done++; done%256 == 0 {
			if s.yieldNow(); s.stopped() {
				return used, errStopped
			}
		}
	}
}

func indexByte(b []byte, c byte) int {
	for i, x := range b {
		if x == c {
			return i
		}
	}
	return -1
}
