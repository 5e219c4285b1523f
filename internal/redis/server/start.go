package server

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"holdfast/internal/redis/cluster"
	"holdfast/internal/redis/process"
)

func pid() int { return os.Getpid() }

// open opens the addresses.
func (s *Server) open() error {
	s.banner()
	s.adjustOpenFiles()
	s.disableHugePages()
	s.registerApply()
	s.registerMaxClients()
	s.e.State.Loading = true
	if err := s.openCluster(); err != nil {
		return err
	}
	if err := s.listen(); err != nil {
		return err
	}
	s.log.Warning("Server initialized")
	return nil
}

// loadLocked loads and opens the stream. Up to its end nothing may reach the
// stream (PUBLISH is allowed while loading), since its recovered end is what the
// history before it is valid up to.
func (s *Server) loadLocked() error {
	s.e.Lock()
	defer s.e.Unlock()
	s.sweepDumps()
	if err := s.loadData(); err != nil {
		return err
	}
	if j := s.persist.journal; j != nil {
		if err := j.Start(); err != nil {
			return fmt.Errorf("the journal cannot be continued: %w", err)
		}
		s.sweepJournal(j)
	}
	s.e.State.Loading = false
	s.e.Stream = s
	if err := s.startReplication(); err != nil {
		return err
	}
	s.startSlotMoves()
	return nil
}

// load brings the data into memory while clients are told -LOADING, and then
// lets them in.
func (s *Server) load() error {
	if err := s.openArray(); err != nil {
		return err
	}
	if err := s.loadLocked(); err != nil {
		return err
	}
	for _, ln := range s.listeners {
		if ln.unix {
			s.log.Notice("The server is now ready to accept connections at %s", ln.where)
		}
	}
	if slices.ContainsFunc(s.listeners, func(ln *listener) bool { return !ln.unix }) {
		s.log.Notice("Ready to accept connections")
	}
	if s.Role() == 'S' {
		process.Notify(s.cfg, s.log, "STATUS=Ready to accept connections in read-only mode. Waiting for MASTER <-> REPLICA sync\nREADY=1")
	} else {
		process.Notify(s.cfg, s.log, "STATUS=Ready to accept connections\nREADY=1")
	}
	if s.ready != nil {
		var addrs []net.Addr
		for _, ln := range s.listeners {
			addrs = append(addrs, ln.ln.Addr())
		}
		s.ready(addrs)
	}
	return nil
}

func (s *Server) banner() {
	s.log.Warning("oO0OoO0OoO0Oo Redis is starting oO0OoO0OoO0Oo")
	s.log.Warning("Redis version=%s, bits=64, commit=00000000, modified=0, pid=%d, just started (holdfast)", Version, pid())
	if s.cfg.File == "" && len(s.args) <= 2 {
		s.log.Warning("Warning: no config file specified, using the default config. In order to specify a config file use %s /path/to/redis.conf", strings.Join(s.args[:min(len(s.args), 2)], " "))
	} else {
		s.log.Warning("Configuration loaded")
	}
	mode := "standalone"
	if s.cfg.ClusterEnabled {
		mode = "cluster"
	}
	s.begun.Store(true)
	process.Announce(s.cfg, s.log, Version, mode)
}

// loopCount is how many loops serve: io-loops, or one up to three processors
// and half of them above.
func (s *Server) loopCount() int {
	if n := s.cfg.IOLoops; n > 0 {
		return n
	}
	if n := runtime.NumCPU(); n > 3 {
		return min(n/2, 8)
	}
	return 1
}

// startLoops serves; the function that it returns ends the loops and waits.
func (s *Server) startLoops() func() {
	var wg sync.WaitGroup
	for i := range s.loopCount() {
		l, err := newLoop(s, i)
		if err != nil {
			s.log.Warning("Failed creating the event loop. Error message: '%s'", err)
			s.exit(1)
			return func() {}
		}
		s.loops = append(s.loops, l)
	}
	first := s.loops[0]
	first.spare = openSpare()
	for _, ln := range s.listeners {
		first.accept[ln.fd] = ln
		if err := first.add(ln.fd, 1 /* EPOLLIN */); err != nil {
			s.log.Warning("Unrecoverable error creating accept handler: %s", err)
			s.exit(1)
		}
	}
	for _, l := range s.loops {
		wg.Add(1)
		go func() {
			defer wg.Done()
			l.run()
		}()
	}
	return func() {
		s.e.Lock()
		for _, l := range s.loops {
			l.quit = true
			l.awake = true
			l.signal()
		}
		s.e.Unlock()
		wg.Wait()
	}
}

// stop ends what Run started, in the reverse order.
func (s *Server) stop() {
	s.closeListeners()
	s.alarm.close()
	s.e.Lock()
	if s.cluster != nil && !s.shutdown.over {
		s.stepCluster(cluster.Shutdown{})
	}
	s.shutdown.over = true
	for nc := range s.handshakes {
		_ = nc.Close()
	}
	for _, c := range s.conns {
		if c.net != nil {
			s.forget(c)
			go c.driver.drop(c)
		}
	}
	s.stopReplication()
	s.migrate.close()
	if j := s.persist.job; j != nil {
		j.cancel("the server stops")
	}
	s.e.Unlock()
	s.gateways.Wait()
	s.closeCluster()
	if s.persist.stream != nil {
		if err := s.persist.stream.Close(); err != nil {
			s.log.Warning("Closing the journal: %s", err)
			s.exitCode = max(s.exitCode, 1)
		}
	}
	if err := s.closeArray(); err != nil {
		s.log.Warning("Closing the disk array: %s", err)
		s.exitCode = max(s.exitCode, 1)
	}
	process.RemoveUnixSocket(s.cfg, s.log)
	if !s.e.State.Loading { // else what stands in the data directory has ended it
		s.log.Warning("Redis is now ready to exit, bye bye...")
	}
}
