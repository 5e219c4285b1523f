package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/redis/bus"
	"holdfast/internal/redis/cluster"
	"holdfast/internal/redis/command"
	"holdfast/internal/redis/config"
	"holdfast/internal/redis/process"
)

// Cluster mode: the core of package cluster decides, what it decides is carried
// out here. Everything about it happens under the engine's lock, as the data
// path routes by what the core says, and an offset that a manual failover hands
// over must be the one at which writes were stopped.
//
//	cluster.go        the loop, and the effects
//	cluster_conf.go   nodes.conf and its copies
//	cmd_cluster.go    CLUSTER

const (
	inputQueue = 1024 // packets that may wait for the loop
	inputBatch = 64   // of which so many are taken under one lock
	noFilter   = -1   // DEBUG DROP-CLUSTER-PACKET-FILTER
)

// clusterState is this server as a node of a cluster; nil without cluster mode.
type clusterState struct {
	core    *cluster.Core
	bus     *bus.Bus
	conf    *nodesFile
	confDue bool // it is going to be made durable
	inbox   inbox
	filter  atomic.Int64 // type of packets that are dropped on arrival

	// awaits: every move of the replication offset matters (core.AwaitsOffset).
	awaits atomic.Bool
	moved  atomic.Bool // something of Host.Data changed

	// Below: under the engine's lock.
	owed        owed
	reply       *cluster.Value // of the command that runs
	pausedUntil time.Time      // a manual failover holds writes back
	holding     bool           // packets of this turn wait for its end
	started     bool           // what nodes.conf says has been carried out
	port        int            // of the bus, as it was opened
	taken       *cluster.Taken // what became of TakeSlots
	tlsServer   *tls.Config
	tlsClient   *tls.Config
}

// owed is a nodes.conf that is to be written, and what goes out behind it. Many
// commands, or packets, of one turn are one write.
type owed struct {
	persist, sync bool
	bus           []cluster.Effect
	pongs         map[cluster.LinkID]int // index in bus of the last one
}

// send keeps a packet. A second PONG takes the place of the first: it says the
// same and what has changed since, and every SETSLOT makes one for every node.
func (o *owed) send(e cluster.Send) {
	if cluster.PacketType(e.Data) == cluster.MsgPong {
		if i, ok := o.pongs[e.Link]; ok {
			o.bus[i] = e
			return
		}
		if o.pongs == nil {
			o.pongs = map[cluster.LinkID]int{}
		}
		o.pongs[e.Link] = len(o.bus)
	}
	o.bus = append(o.bus, e)
}

// openCluster reads nodes.conf, makes the core and opens the bus. The data is
// not loaded yet.
func (s *Server) openCluster() error {
	if !s.cfg.ClusterEnabled {
		return nil
	}
	c := &clusterState{}
	c.inbox.init()
	c.filter.Store(noFilter)
	conf, state, err := openNodesFile(s.fs, s.cfg.Dir, s.cfg.ClusterConfigFile, s.log)
	if err != nil {
		return err
	}
	c.conf = conf
	rng, err := newRand()
	if err != nil {
		return err
	}
	s.cluster = c
	c.port = s.busPort() // CONFIG SET port does not move it
	s.moves = newSlotMoves(s)
	if c.core, err = cluster.New(time.Now(), s.clusterConfig(), cluster.Options{Rand: rng, Host: clusterHost{s}, State: state}); err != nil {
		return err // the state was read before: it is not that
	}
	c.bus = bus.New(bus.Options{
		Handle: func(in cluster.Input) { s.hearBus(c, in) },
		Bad:    func(err error) { s.log.Warning("%s", err) },
		Source: s.cfg.BindSourceAddr,
		ServerTLS: func() *tls.Config {
			s.e.Lock()
			defer s.e.Unlock()
			return c.tlsServer
		},
		ClientTLS: func() *tls.Config {
			s.e.Lock()
			defer s.e.Unlock()
			return c.tlsClient
		},
		DialTimeout: func() time.Duration {
			s.e.Lock()
			defer s.e.Unlock()
			return time.Duration(s.cfg.ClusterNodeTimeout) * time.Millisecond
		},
	})
	s.limitLinks()
	if err := s.clusterTLS(); err != nil {
		return err
	}
	s.e.OnPublish = s.publishOnBus
	s.e.SetView(c.core.View())
	s.followClusterConfig()
	return s.listenOnBus()
}

// limitLinks sets what may wait on a link.
func (s *Server) limitLinks() {
	s.cluster.bus.SetLimit(int64(min(s.cfg.ClusterLinkSendbufLimit, 1<<62)))
}

// clusterTLS builds what links use from now on. On error they go on with what
// they have: a CONFIG SET that is refused must not open the bus to plain links.
func (s *Server) clusterTLS() error {
	c := s.cluster
	if !s.cfg.TLSCluster {
		c.tlsServer, c.tlsClient = nil, nil
		return nil
	}
	accept, err := process.ServerTLS(s.cfg)
	var connect *tls.Config
	if err == nil {
		// Nodes authenticate each other, whatever clients do.
		if accept.ClientCAs != nil {
			accept.ClientAuth = tls.RequireAndVerifyClientCert
		}
		connect, err = process.ClientTLS(s.cfg)
	}
	if err != nil {
		return fmt.Errorf("Failed to configure TLS. Check logs for more info. (%w)", err)
	}
	c.tlsServer, c.tlsClient = accept, connect
	return nil
}

// busPort is where other nodes connect to.
func (s *Server) busPort() int {
	if s.cfg.ClusterPort != 0 {
		return s.cfg.ClusterPort
	}
	port := s.cfg.Port
	if s.cfg.TLSCluster {
		port = s.cfg.TLSPort
	}
	return port + cluster.BusPortIncr
}

func (s *Server) listenOnBus() error {
	port := s.busPort()
	if port > 65535 && s.cfg.ClusterPort == 0 {
		return errors.New("Redis port number too high. Cluster communication port is 10,000 port numbers higher than your Redis port. Your Redis port number must be 55535 or less.")
	}
	if port > 65535 {
		return errors.New("Redis port number too high for cluster mode. The cluster bus port is the port + 10000, or cluster-port, and must be below 65536. Exiting.")
	}
	if len(s.cfg.Bind) == 0 {
		return errors.New("No bind address is configured, but it is required for the Cluster bus.")
	}
	err := process.EachBind(s.cfg, port, s.log, func(network, where string) error {
		ln, err := process.ListenTCP(s.cfg, network, where)
		if err != nil {
			return err
		}
		s.cluster.bus.Serve(ln)
		return nil
	})
	var failed *process.ListenError
	if errors.As(err, &failed) {
		return fmt.Errorf("Failed listening on port %d (cluster), aborting.", port)
	}
	return err
}

// clusterConfig is what the core obeys.
func (s *Server) clusterConfig() cluster.Config {
	c := s.cfg
	ms := func(n int64) time.Duration { return time.Duration(min(n, int64(1)<<40)) * time.Millisecond }
	return cluster.Config{
		Port: c.Port, TLSPort: c.TLSPort, TLSCluster: c.TLSCluster, BusPort: s.cluster.port,
		AnnounceIP: c.ClusterAnnounceIP, AnnounceHostname: c.ClusterAnnounceHostname,
		AnnouncePort: c.ClusterAnnouncePort, AnnounceTLSPort: c.ClusterAnnounceTLSPort, AnnounceBusPort: c.ClusterAnnounceBusPort,
		Preferred:   endpointType(c.ClusterPreferredEndpointType),
		NodeTimeout: ms(c.ClusterNodeTimeout), ReplicaValidityFactor: c.ClusterReplicaValidityFactor,
		MigrationBarrier: c.ClusterMigrationBarrier, AllowReplicaMigration: c.ClusterAllowReplicaMigration,
		RequireFullCoverage: c.ClusterRequireFullCoverage, ReplicaNoFailover: c.ClusterReplicaNoFailover,
		AllowReadsWhenDown: c.ClusterAllowReadsWhenDown, AllowPubsubShardWhenDwn: c.ClusterAllowPubsubWhenDown,
		PingReplicaPeriod: time.Duration(c.ReplPingReplicaPeriod) * time.Second,
		Debug:             c.LogLevel == config.LogDebug,
	}
}

func endpointType(e config.EndpointType) cluster.EndpointType {
	switch e {
	case config.EndpointHostname:
		return cluster.EndpointHostname
	case config.EndpointUnknown:
		return cluster.EndpointUnknown
	}
	return cluster.EndpointIP
}

// followClusterConfig tells the core of CONFIG SET.
func (s *Server) followClusterConfig() {
	for _, name := range []string{
		"cluster-node-timeout", "cluster-replica-validity-factor", "cluster-migration-barrier", "cluster-allow-replica-migration",
		"cluster-require-full-coverage", "cluster-replica-no-failover", "cluster-allow-reads-when-down", "cluster-allow-pubsubshard-when-down",
		"cluster-announce-ip", "cluster-announce-hostname", "cluster-announce-port", "cluster-announce-tls-port", "cluster-announce-bus-port",
		"cluster-preferred-endpoint-type", "repl-ping-replica-period", "loglevel", "port", "tls-port", "tls-cluster",
	} {
		s.cfg.OnApply(name, func(string, string) error {
			s.stepCluster(cluster.ConfigChanged{Config: s.clusterConfig()})
			return nil
		})
	}
	s.cfg.OnApply("cluster-link-sendbuf-limit", func(string, string) error {
		s.limitLinks()
		return nil
	})
	for _, name := range tlsDirectives {
		s.cfg.OnApply(name, func(string, string) error { return s.clusterTLS() })
	}
}

// startCluster lets the core begin once the data is loaded, and reports whether
// this node is a replica now. The engine's lock is held.
func (s *Server) startCluster() bool {
	if s.cluster == nil {
		return false
	}
	s.carryOut(s.cluster.core.Start(time.Now()))
	s.settleCluster()
	// Keys of slots that were on their way are no sign of anything.
	s.stepCluster(cluster.DataLoaded{Except: s.moves.core.Table().Slots()})
	s.cluster.started = true
	return s.repl.isReplica.Load()
}

// closeCluster ends the bus. The loop has ended, or does not take inputs any more.
func (s *Server) closeCluster() {
	c := s.cluster
	if c == nil || c.bus == nil {
		return
	}
	c.inbox.close()
	c.bus.Close()
	c.conf.close()
}

// hearBus takes an input from the bus.
func (s *Server) hearBus(c *clusterState, in cluster.Input) {
	if p, ok := in.(cluster.Packet); ok {
		if f := c.filter.Load(); f != noFilter && int64(cluster.PacketType(p.Data)) == f {
			s.log.Warning("Dropping packet that matches debug drop filter")
			return
		}
	}
	if c.inbox.put(in) {
		s.drainInbox()
	}
}

// inbox is what came over the bus and is not with the core yet. Whoever puts
// something in while nobody is at it hands everything over, so that a packet is
// read, digested and answered by one thread; what comes meanwhile goes in one
// batch.
type inbox struct {
	mu    sync.Mutex
	room  sync.Cond
	queue []cluster.Input
	// busy: somebody hands over, or the data is not loaded yet.
	busy, closed bool
}

func (b *inbox) init() {
	b.room.L = &b.mu
	b.busy = true
}

// put waits for room, and reports whether the caller has to drain.
func (b *inbox) put(in cluster.Input) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.queue) >= inputQueue && !b.closed {
		b.room.Wait()
	}
	if b.closed {
		return false
	}
	b.queue = append(b.queue, in)
	first := !b.busy
	b.busy = true
	return first
}

// take moves inputs to batch, which is returned; if there are none, whoever
// comes next has to drain.
func (b *inbox) take(batch []cluster.Input) []cluster.Input {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(len(b.queue), inputBatch)
	batch = append(batch, b.queue[:n]...)
	clear(b.queue[:n])
	if b.queue = b.queue[n:]; len(b.queue) == 0 {
		b.queue = nil
	}
	if n == 0 {
		b.busy = false
	} else {
		b.room.Broadcast()
	}
	return batch
}

// close drops what is there and what comes.
func (b *inbox) close() {
	b.mu.Lock()
	b.closed, b.queue = true, nil
	b.room.Broadcast()
	b.mu.Unlock()
}

// openInbox hands over what came while the data was loaded, and lets others do
// it from now on.
func (s *Server) openInbox() { go s.drainInbox() }

// drainInbox hands the core what has come, until there is nothing left. Only
// one goroutine does it at a time.
func (s *Server) drainInbox() {
	var room [4]cluster.Input
	batch := room[:0]
	for {
		if batch = s.cluster.inbox.take(batch[:0]); len(batch) == 0 {
			return
		}
		s.stepAll(batch)
	}
}

// clusterTurn lets the core look at the clock, if it wants to, and at what
// changed here. It returns when it wants to be called next; zero without cluster
// mode.
func (s *Server) clusterTurn() time.Time {
	c := s.cluster
	if c == nil {
		return time.Time{}
	}
	if c.moved.Swap(false) {
		return s.stepAll([]cluster.Input{cluster.DataChanged{}})
	}
	s.e.Lock()
	at := c.core.Deadline()
	s.e.Unlock()
	if time.Now().Before(at) {
		return at
	}
	return s.stepAll([]cluster.Input{cluster.Timer{}})
}

// stepAll hands over a batch and returns when the core wants to be called next.
// What it sends is written behind the lock.
func (s *Server) stepAll(batch []cluster.Input) time.Time {
	s.cluster.bus.Hold()
	s.e.Lock()
	s.e.BeginBatch(time.Now().UnixMicro())
	for i, in := range batch {
		s.stepUnsettled(in)
		batch[i] = nil
	}
	s.settleMoves()
	s.settleCluster()
	deadline := s.cluster.core.Deadline()
	s.e.Unlock()
	s.cluster.bus.Flush()
	s.flushStream()
	return deadline
}

// stepCluster hands one input to the core. The engine's lock is held, and the
// core is not at work.
func (s *Server) stepCluster(in cluster.Input) {
	s.stepUnsettled(in)
	s.settleCluster()
}

// stepUnsettled is stepCluster without the write of nodes.conf that may have
// become due: settleCluster must follow before the lock is released, or, where
// only a reply tells of it, before replies go out (commitPoint does it).
func (s *Server) stepUnsettled(in cluster.Input) {
	c := s.cluster
	if s.shutdown.over {
		return
	}
	before := c.core.Deadline()
	s.carryOut(c.core.Step(time.Now(), in))
	if u := c.pausedUntil; !u.IsZero() && !time.Now().Before(u) {
		s.endManualPause()
	}
	if at := c.core.Deadline(); at.Before(before) {
		s.alarm.sooner(at)
	}
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default: // it has been told
	}
}

// dataMoved tells the core that replication is elsewhere than it was.
func (s *Server) dataMoved() {
	if s.cluster != nil {
		s.cluster.moved.Store(true)
		s.alarm.ring()
	}
}

// offsetMoved is dataMoved for a mere move of the offset, which rarely matters.
func (s *Server) offsetMoved() {
	if s.cluster != nil && s.cluster.awaits.Load() {
		s.cluster.moved.Store(true)
		s.alarm.ring()
	}
}

// carryOut does what the core decided. What others may see of it comes behind
// the write of nodes.conf, which settleCluster does.
func (s *Server) carryOut(effects []cluster.Effect) {
	c := s.cluster
	for _, e := range effects {
		switch e := e.(type) {
		case cluster.Persist:
			c.owed.persist, c.owed.sync = true, c.owed.sync || e.Sync
		case cluster.Send:
			if c.owed.persist {
				c.owed.send(e)
			} else {
				s.carryOutBus(e)
			}
		case cluster.Connect, cluster.CloseLink:
			if c.owed.persist {
				c.owed.bus = append(c.owed.bus, e)
			} else {
				s.carryOutBus(e)
			}
		case cluster.Log:
			s.log.Log(config.LogLevel(e.Level), "%s", e.Text)
		case cluster.Reply:
			c.reply = &e.Value
		case cluster.FollowMaster, cluster.Promote, cluster.EmptyData, cluster.DropSlotKeys:
			s.settleCluster()
			if !s.shutdown.over {
				s.carryOutData(e)
			}
		default:
			s.carryOutData(e)
		}
		if s.shutdown.over {
			return // nothing that rests on what could not be written may happen
		}
	}
	c.awaits.Store(c.core.AwaitsOffset())
	if v := c.core.View(); v != s.e.View() {
		s.e.SetView(v)
		s.slotsMoved()
	}
}

// settleCluster writes nodes.conf if that is owed, and lets out what has waited
// for it. The engine's lock is held.
func (s *Server) settleCluster() {
	c := s.cluster
	if c == nil {
		return
	}
	if c.holding {
		c.holding = false
		defer c.bus.Release()
	}
	if !c.owed.persist {
		return
	}
	sync := c.owed.sync
	c.owed.persist, c.owed.sync = false, false
	if err := c.conf.store(c.core.NodesConf(), sync); err != nil {
		s.confFailed(err)
		return
	}
	s.syncConfSoon()
	for i, e := range c.owed.bus {
		s.carryOutBus(e)
		c.owed.bus[i] = nil
	}
	c.owed.bus = c.owed.bus[:0]
	clear(c.owed.pongs)
}

// confFailed ends a node that cannot keep what it knows. The engine's lock is
// held.
func (s *Server) confFailed(err error) {
	s.log.Warning("%s", err)
	s.log.Warning("Fatal: can't update cluster config file.")
	s.shutdown.over = true
	s.exit(1)
}

// confDelay is how long what nobody waits for may not be durable, about: many
// changes of nodes.conf come at once.
const confDelay = time.Second

// syncConfSoon makes nodes.conf durable beside everything else. The engine's
// lock is held.
func (s *Server) syncConfSoon() {
	c := s.cluster
	if c.confDue {
		return
	}
	c.confDue = true
	time.AfterFunc(confDelay, func() {
		s.e.Lock()
		c.confDue = false
		w, over := c.conf.written(), s.shutdown.over
		s.e.Unlock()
		if over {
			return
		}
		err := c.conf.syncSoon(w)
		s.e.Lock()
		defer s.e.Unlock()
		switch {
		case s.shutdown.over:
		case err != nil:
			s.confFailed(err)
		default:
			c.conf.isDurable(w)
		}
	})
}

func (s *Server) carryOutBus(e cluster.Effect) {
	b := s.cluster.bus
	switch e := e.(type) {
	case cluster.Connect:
		b.Connect(e.Link, e.IP, e.Port)
	case cluster.CloseLink:
		b.CloseLink(e.Link)
	case cluster.Send:
		b.Send(e.Link, e.Data)
	}
}

// carryOutData does what concerns data, replication and clients.
func (s *Server) carryOutData(e cluster.Effect) {
	c := s.cluster
	switch e := e.(type) {
	case cluster.FollowMaster:
		port := e.Port
		if e.PlainPort != 0 && !s.cfg.TLSReplication {
			port = e.PlainPort
		}
		// Who is followed at the start is no new decision: if that master has lost
		// its data meanwhile, ours must not go the same way.
		s.becomeReplica(config.ReplicaOf{Host: e.IP, Port: port}, c.started)
	case cluster.Promote:
		s.becomeMaster()
	case cluster.EmptyData:
		s.e.FlushEverything()
	case cluster.DropSlotKeys:
		s.dropSlots(e.Slots)
	case cluster.DropShardChannels:
		s.e.DropShardChannels(e.Slots)
	case cluster.PauseWrites:
		// Stepped behind the pause: the offset that the replica must reach is told
		// already, so that nothing may be written now.
		s.slotsDisturbed("writes are paused for a failover")
		c.pausedUntil = e.Until
		s.e.State.FailoverPause = true
		s.pause(e.Until.UnixMilli(), true)
	case cluster.ResumeWrites:
		s.endManualPause()
	case cluster.Taken:
		c.taken = &e
	case cluster.Deliver:
		s.e.Deliver(e.Channel, e.Message, e.Sharded)
	case cluster.Event:
		s.log.Verbose("Cluster event: %s", describeEvent(e))
	}
}

// endManualPause lets writes go on after a manual failover.
func (s *Server) endManualPause() {
	if s.cluster.pausedUntil.IsZero() {
		return
	}
	s.cluster.pausedUntil = time.Time{}
	s.e.State.FailoverPause = false
	s.unpause()
	poke(s.moves.kick)
}

// publishOnBus hands a client's message to the other nodes.
func (s *Server) publishOnBus(channel, message []byte, sharded bool) {
	// As in Redis the packets go out when the turn is over.
	if c := s.cluster; !c.holding {
		c.holding = true
		c.bus.Hold()
	}
	s.stepUnsettled(cluster.Publish{Channel: append([]byte(nil), channel...), Message: append([]byte(nil), message...), Sharded: sharded})
}

// busLinks are the figures of INFO about links: their number and memory.
func (s *Server) busLinks() (n int, bytes int64) {
	if s.cluster == nil {
		return 0, 0
	}
	n, bytes = s.cluster.bus.Links()
	return n, bytes + int64(n)*linkMemory
}

// linkMemory is about what a link takes when nothing waits on it, in bytes: its
// socket, its goroutine, its place in the tables.
const linkMemory = 4 << 10

// killBusLinks closes links of a node (DEBUG CLUSTERLINK KILL).
func (s *Server) killBusLinks(id string, to, from bool) bool {
	c := s.cluster
	out, in, ok := c.core.LinksOf(id)
	if !ok {
		return false
	}
	kill := func(l cluster.LinkID) {
		if l != 0 {
			c.bus.CloseLink(l)
			s.stepCluster(cluster.LinkDown{Link: l, Err: "killed"})
		}
	}
	if to {
		kill(out)
	}
	if from {
		kill(in)
	}
	return true
}

// clusterHost answers what the core asks about this server. The engine's lock
// is held.
type clusterHost struct{ s *Server }

// Data implements cluster.Host.
func (h clusterHost) Data() cluster.Data {
	s := h.s
	d := cluster.Data{Offset: int64(s.streamEnd()), Empty: true}
	if s.repl.isReplica.Load() {
		d.MasterLinkUp = s.repl.linkState == linkConnected
		switch {
		case d.MasterLinkUp && s.repl.link != nil:
			d.MasterSeen = time.Now().Add(-time.Duration(monotonic() - s.repl.link.lastIO.Load()))
		case s.repl.everConnected:
			d.MasterSeen = s.repl.downSince
		}
		if s.repl.lost || s.e.State.Loading && !s.e.State.AsyncLoading {
			d.Offset = 0 // there is nothing yet that another could be offered
		}
	}
	for i := range s.ks.NumDB() {
		if s.ks.DB(i).Len() > 0 {
			d.Empty = false
		}
	}
	return d
}

// CountKeysInSlot implements cluster.Host.
func (h clusterHost) CountKeysInSlot(slot int) int {
	if h.s.e.HidesSlot(slot) {
		return 0 // on its way here, or kept in case it comes back
	}
	return h.s.ks.CountKeysInSlot(slot)
}

// KeysInSlot implements cluster.Host.
func (h clusterHost) KeysInSlot(slot, most int) []string {
	if h.s.e.HidesSlot(slot) {
		return []string{}
	}
	keys := h.s.ks.KeysInSlot(slot, most)
	out := make([]string, len(keys))
	for i, k := range keys {
		out[i] = string(k)
	}
	return out
}

// LinkBuffer implements cluster.Host.
func (h clusterHost) LinkBuffer(id cluster.LinkID) (alloc, used int64) {
	return h.s.cluster.bus.Buffered(id)
}

// --- CLUSTER ---

func (s *Server) clusterCommands() []command.Spec {
	const admin = command.Admin | command.Stale
	const change = admin | command.NoAsyncLoading
	unsteady := []string{"nondeterministic_output"}
	sub := func(name string, arity int, flags command.Flag, tips []string) *command.Spec {
		return &command.Spec{Name: name, Arity: arity, Flags: flags, Tips: tips, Run: s.cmdCluster}
	}
	return []command.Spec{{Name: "cluster", Arity: -2, Sub: []*command.Spec{
		sub("addslots", -3, change, nil),
		sub("addslotsrange", -4, change, nil),
		sub("bumpepoch", 2, change, unsteady),
		sub("count-failure-reports", 3, admin, unsteady),
		sub("countkeysinslot", 3, command.Stale, nil),
		sub("delslots", -3, change, nil),
		sub("delslotsrange", -4, change, nil),
		sub("failover", -2, change, nil),
		sub("flushslots", 2, change, nil),
		sub("forget", 3, change, nil),
		sub("getkeysinslot", 4, command.Stale, unsteady),
		sub("help", 2, command.Loading|command.Stale, nil),
		sub("info", 2, command.Stale, unsteady),
		sub("keyslot", 3, command.Stale, nil),
		sub("links", 2, command.Stale, unsteady),
		sub("meet", -4, change, nil),
		sub("myid", 2, command.Stale, nil),
		sub("nodes", 2, command.Stale, unsteady),
		sub("replicas", 3, admin, unsteady),
		sub("replicate", 3, change, nil),
		sub("reset", -2, admin|command.NoScript, nil),
		sub("saveconfig", 2, change, nil),
		sub("set-config-epoch", 3, change, nil),
		sub("setslot", -4, change, nil),
		sub("shards", 2, command.Stale, unsteady),
		sub("slaves", 3, admin, unsteady),
		sub("slots", 2, command.Stale, unsteady),
	}}}
}

func (s *Server) cmdCluster(c *command.Ctx) {
	c.NoPropagate()
	if s.cluster == nil {
		c.Err("ERR This instance has cluster support disabled")
		return
	}
	args := make([]string, len(c.Args)-1)
	for i, a := range c.Args[1:] {
		args[i] = string(a)
	}
	s.cluster.reply = nil
	s.stepUnsettled(cluster.Command{Client: c.Client.ID, Args: args, TLS: c.Client.Has(command.FlagTLS)})
	s.settleMoves()
	if v := s.cluster.reply; v != nil {
		writeValue(c, v)
	}
}

func writeValue(c *command.Ctx, v *cluster.Value) {
	switch v.Kind {
	case cluster.Null:
		c.Null()
	case cluster.Status:
		c.Simple(v.Str)
	case cluster.Error:
		c.Err(v.Str)
	case cluster.Int:
		c.Int(v.Int)
	case cluster.Bulk:
		c.BulkStr(v.Str)
	case cluster.Verbatim:
		c.Verbatim("txt", v.Str)
	case cluster.Array, cluster.Map:
		if v.Kind == cluster.Map {
			c.Map(len(v.Elems) / 2)
		} else {
			c.Array(len(v.Elems))
		}
		for i := range v.Elems {
			writeValue(c, &v.Elems[i])
		}
	}
}

// --- DEBUG ---

func debugClusterlink(s *Server, c *command.Ctx) {
	if s.cluster == nil {
		c.Err("ERR Debug option only available for cluster mode enabled setup!")
		return
	}
	if !c.Is(2, "kill") {
		c.ErrSub()
		return
	}
	to, from := c.Is(3, "to") || c.Is(3, "all"), c.Is(3, "from") || c.Is(3, "all")
	if id := string(c.Args[4]); !s.killBusLinks(id, to, from) {
		c.Errf("ERR Unknown node %s", id)
	} else if !to && !from {
		c.Errf("ERR Unknown direction %s", c.Args[3]) // Redis says OK behind it
	} else {
		c.OK()
	}
}

func debugDropPackets(s *Server, c *command.Ctx) {
	n, ok := c.IntArg(2)
	if !ok {
		return
	}
	if s.cluster != nil {
		s.cluster.filter.Store(n)
	}
	c.OK()
}

// eventWords name what happened, for the log.
var eventWords = map[cluster.EventKind]string{
	cluster.EventPFail: "no-answer", cluster.EventFail: "failed", cluster.EventFailCleared: "back", cluster.EventElection: "election",
	cluster.EventVote: "vote", cluster.EventWon: "elected", cluster.EventTakeover: "takeover", cluster.EventNewMaster: "new-master",
	cluster.EventEpochBumped: "epoch", cluster.EventSlotsLost: "slots-lost", cluster.EventManualStart: "manual-failover",
	cluster.EventForgotten: "forgotten", cluster.EventNodeJoined: "joined", cluster.EventElectionLost: "election-lost",
}

func describeEvent(e cluster.Event) string {
	text := eventWords[e.Kind]
	for _, f := range []struct{ name, value string }{{"node", e.Node}, {"other", e.Other}} {
		if f.value != "" {
			text += " " + f.name + "=" + f.value
		}
	}
	if e.Epoch != 0 {
		text += fmt.Sprintf(" epoch=%d", e.Epoch)
	}
	return text
}
