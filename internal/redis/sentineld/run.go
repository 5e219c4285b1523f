package sentineld

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"

	"holdfast/internal/redis/config"
	"holdfast/internal/redis/logline"
	"holdfast/internal/redis/process"
	"holdfast/internal/redis/sentinel"

	"golang.org/x/sys/unix"
)

// Options say what to run.
type Options struct {
	// Args are the arguments of redis-sentinel: the path of sentinel.conf, then
	// "--directive value ...".
	Args []string
	// Loaded is what Load made of the arguments; without it Run loads them.
	Loaded *Loaded
	// LogOutput replaces logfile and standard output.
	LogOutput io.Writer
	// Ready, if set, is called once connections are accepted.
	Ready func(addrs []net.Addr)
}

// Loaded is a configuration that was read and not yet put to work.
type Loaded struct {
	// Config has the directives that are not about watching.
	Config *config.Config
	state  *sentinel.Config
}

// ExitError is a wish to end with this exit code; the reason is logged already.
type ExitError struct{ Code int }

func (e ExitError) Error() string { return fmt.Sprintf("exit code %d", e.Code) }

// ErrNoConfigFile is the refusal to run without a file to keep state in.
var ErrNoConfigFile = errors.New("Sentinel needs config file on disk to save state. Exiting...") //lint:ignore ST1005 the words of Redis

// Run is a Sentinel until ctx ends or a client says SHUTDOWN; both are a nil
// error. A *config.LoadError or *config.OpenError is a configuration that
// cannot be used, ErrNoConfigFile none; an ExitError asks for an exit code. A relative logfile, pidfile
// or unixsocket is one of the working directory, which should be Config.Dir.
func Run(ctx context.Context, opts Options) error {
	l := opts.Loaded
	if l == nil {
		var err error
		if l, err = Load(opts.Args); err != nil {
			return err
		}
	}
	base := l.Config
	log, err := process.NewLogger(process.LogOptions{Config: base, Output: opts.LogOutput, Role: func() byte { return logline.Sentinel }})
	if err != nil {
		return err
	}
	log.Warning("oO0OoO0OoO0Oo Redis is starting oO0OoO0OoO0Oo")
	log.Warning("Redis version=%s, bits=%d, commit=00000000, modified=0, pid=%d, just started (holdfast)",
		config.Version, strconv.IntSize, os.Getpid())
	log.Warning("Configuration loaded")
	for _, w := range config.Warnings(base) {
		log.Warning("%s", w)
	}
	return run(ctx, opts, base, l.state, log)
}

func run(ctx context.Context, opts Options, base *config.Config, cfg *sentinel.Config, log *process.Logger) error {
	s := newShell(base, log)
	if base.Port == 0 && base.TLSPort == 0 && base.UnixSocket == "" {
		log.Warning("Configured to not listen anywhere, exiting.")
		return ExitError{1}
	}
	log.Notice("monotonic clock: Go runtime %s", runtime.Version())
	if err := s.configureTLS(); err != nil {
		log.Warning("Failed to configure TLS. Check logs for more info: %v", err)
		return err
	}
	if err := s.listen(); err != nil {
		log.Warning("%v", err)
		return err
	}
	process.Announce(base, log, config.Version, "sentinel")
	if err := s.prepare(cfg); err != nil {
		s.closeListeners()
		return err
	}
	process.WritePidFile(base, log)
	process.Notify(base, log, "STATUS=Ready to accept connections\nREADY=1")
	if opts.Ready != nil {
		var addrs []net.Addr
		for _, l := range s.listeners {
			addrs = append(addrs, l.Addr())
		}
		opts.Ready(addrs)
	}
	return s.serve(ctx)
}

// prepare loads the users and the state, and makes the core. What is wrong
// with them is logged.
func (s *shell) prepare(cfg *sentinel.Config) error {
	base, log := s.base, s.log
	var err error
	if s.users, err = configuredUsers(base); err != nil {
		log.Warning("%v", err)
		if base.ACLFile == "" {
			log.Warning("Critical error while loading ACLs. Exiting.")
		}
		return ExitError{1}
	}
	for _, l := range base.UserLines {
		if u := s.users.byName[l[0]]; u != nil && !u.on {
			log.Notice("The user '%s' is disabled (there is no 'on' modifier in the user description). "+
				"Make sure this is not a configuration error.", l[0])
		}
	}
	base.DescribeUsers = s.users.describe
	if cfg, err = s.store.restore(cfg); err != nil {
		log.Warning("%v", err)
		return err
	}
	port := base.Port
	if base.TLSReplication && base.TLSPort != 0 {
		port = base.TLSPort
	}
	hosts := resolveAll(cfg.HostNames())
	for name, ip := range hosts {
		if ip == "" { // it may have a number later
			log.Warning("Failed to resolve hostname '%s'", name)
		}
	}
	s.core, err = sentinel.New(time.Now(), cfg, sentinel.Options{
		Rand: newRand(), Port: port, RequirePass: base.RequirePass, Hosts: hosts,
	})
	if err != nil {
		log.Warning("%v", err)
	}
	return err
}

// newRand is seeded from the system: run ids must be unique and delays must differ.
func newRand() *rand.Rand {
	var seed [32]byte
	_, _ = crand.Read(seed[:]) // never fails, by its contract
	return rand.New(rand.NewPCG(binary.LittleEndian.Uint64(seed[:8]), binary.LittleEndian.Uint64(seed[8:16])))
}

// Load reads the configuration as the command line says, and interprets the
// sentinel lines in the order that Redis gives them.
func Load(args []string) (*Loaded, error) {
	base := config.Default()
	base.EnterSentinelMode()
	base.CheckUser = checkLine
	base.HasCommand = func(name string) bool { return table[name] != nil }
	if err := base.LoadArgs(args); err != nil {
		return nil, err
	}
	if base.File == "" {
		return nil, ErrNoConfigFile
	}
	cfg := sentinel.NewConfig()
	for phase := 0; phase <= 2; phase++ {
		for _, l := range base.SentinelLines {
			if sentinel.LoadPhase(l.Args) != phase {
				continue
			}
			if err := cfg.Apply(l.Args, executable); err != nil {
				return nil, &config.LoadError{Line: l.Line, Text: l.Text, Message: err.Error()}
			}
		}
	}
	return &Loaded{Config: base, state: cfg}, nil
}

// executable reports whether this process may run path, as access(2) sees it:
// a directory passes, as it does in Redis.
func executable(path string) bool {
	return unix.Access(path, unix.X_OK) == nil
}

const resolveTimeout = 2 * time.Second

// resolveAll resolves host names at the same time; "" is one that failed.
func resolveAll(names []string) map[string]string {
	var mu sync.Mutex
	var wg sync.WaitGroup
	hosts := make(map[string]string, len(names))
	for _, name := range names {
		wg.Add(1)
		go func() {
			defer wg.Done()
			ip := resolve(name)
			mu.Lock()
			defer mu.Unlock()
			hosts[name] = ip
		}()
	}
	wg.Wait()
	return hosts
}

// resolve returns the first address of a host name, IPv4 first, or "".
func resolve(host string) string {
	ctx, cancel := context.WithTimeout(context.Background(), resolveTimeout)
	defer cancel()
	ips, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return ""
	}
	for _, ip := range ips {
		if ip.IP.To4() != nil {
			return ip.IP.String()
		}
	}
	if len(ips) > 0 {
		return ips[0].IP.String()
	}
	return ""
}
