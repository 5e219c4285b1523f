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
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"holdfast/internal/redis/config"
	"holdfast/internal/redis/sentinel"
)

// Options say what to run.
type Options struct {
	// ConfigFile is the path of sentinel.conf. When empty, the first of Args
	// names it, as on the command line of redis-sentinel.
	ConfigFile string
	// Args are further arguments: "--directive value ...".
	Args []string
	// LogOutput replaces logfile and standard output.
	LogOutput io.Writer
	// Ready, if set, is called once connections are accepted.
	Ready func(addrs []net.Addr)
}

// ExitError is a wish to end with this exit code; the reason is logged already.
type ExitError struct{ Code int }

func (e ExitError) Error() string { return fmt.Sprintf("exit code %d", e.Code) }

// ErrNoConfigFile is the refusal to run without a file to keep state in.
var ErrNoConfigFile = errors.New("Sentinel needs config file on disk to save state. Exiting...") //lint:ignore ST1005 the words of Redis

// Run is a Sentinel until ctx ends or a client says SHUTDOWN; both are a nil
// error. A *config.LoadError or *config.OpenError is a configuration that
// cannot be used; an ExitError asks for an exit code.
func Run(ctx context.Context, opts Options) error {
	args := opts.Args
	if opts.ConfigFile != "" {
		args = append([]string{opts.ConfigFile}, args...)
	}
	base, state, err := load(args)
	if err != nil {
		return err
	}
	logPath := base.LogFile
	if logPath != "" && !filepath.IsAbs(logPath) {
		logPath = filepath.Join(base.Dir, logPath)
	}
	log, err := newLogger(opts.LogOutput, logPath, base.LogLevel, base.LogFormat)
	if err != nil {
		return err
	}
	defer log.close()
	log.warning("oO0OoO0OoO0Oo Redis is starting oO0OoO0OoO0Oo")
	log.warning("Redis version=%s, bits=%d, commit=00000000, modified=0, pid=%d, just started (holdfast)",
		config.Version, strconv.IntSize, os.Getpid())
	if base.File == "" {
		log.warning("%s", ErrNoConfigFile)
		return ErrNoConfigFile
	}
	log.warning("Configuration loaded")
	return run(ctx, opts, base, state, log)
}

func run(ctx context.Context, opts Options, base *config.Config, cfg *sentinel.Config, log *logger) error {
	s := newShell(base, log)
	cfg, err := s.store.restore(cfg)
	if err != nil {
		log.warning("%v", err)
		return err
	}
	if s.dialTLS, s.serveTLS, err = tlsConfigs(base); err != nil {
		log.warning("Failed to configure TLS. Check logs for more info: %v", err)
		return err
	}
	if err := s.listen(); err != nil {
		log.warning("%v", err)
		return err
	}
	port := base.Port
	if base.TLSReplication && base.TLSPort != 0 {
		port = base.TLSPort
	}
	core, err := sentinel.New(time.Now(), cfg, sentinel.Options{
		Rand: newRand(), Port: port, RequirePass: base.RequirePass,
	})
	if err != nil {
		s.closeListeners()
		return err
	}
	s.core = core
	if base.PidFile != "" || base.Daemonize {
		s.writePidFile()
	}
	log.notice("monotonic clock: Go runtime %s", runtime.Version())
	log.notice("Running mode=sentinel, port=%d.", base.Port)
	if opts.Ready != nil {
		var addrs []net.Addr
		for _, l := range s.listeners {
			addrs = append(addrs, l.Addr())
		}
		opts.Ready(addrs)
	}
	return s.serve(ctx)
}

// newRand is seeded from the system: run ids must be unique and delays must differ.
func newRand() *rand.Rand {
	var seed [32]byte
	_, _ = crand.Read(seed[:]) // never fails, by its contract
	return rand.New(rand.NewPCG(binary.LittleEndian.Uint64(seed[:8]), binary.LittleEndian.Uint64(seed[8:16])))
}

func (s *shell) pidPath() string {
	path := s.base.PidFile
	if path == "" {
		path = "/var/run/redis-sentinel.pid"
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(s.base.Dir, path)
	}
	return path
}

func (s *shell) writePidFile() {
	if err := os.WriteFile(s.pidPath(), []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err == nil {
		s.pidWritten = true
	}
}

// load reads the configuration as the command line says, and interprets the
// sentinel lines in the order that Redis gives them.
func load(args []string) (*config.Config, *sentinel.Config, error) {
	base := config.Default()
	base.EnterSentinelMode()
	if err := base.LoadArgs(args); err != nil {
		return nil, nil, err
	}
	cfg := sentinel.NewConfig()
	for phase := 0; phase <= 2; phase++ {
		for _, l := range base.SentinelLines {
			if sentinel.LoadPhase(l.Args) != phase {
				continue
			}
			if err := applyLine(cfg, l.Args); err != nil {
				return nil, nil, &config.LoadError{Line: l.Line, Text: l.Text, Message: err.Error()}
			}
		}
	}
	return base, cfg, nil
}

// applyLine applies one directive; a host name to watch must resolve now.
func applyLine(cfg *sentinel.Config, args []string) error {
	if err := cfg.Apply(args, executable); err != nil {
		return err
	}
	if sentinel.LoadPhase(args) == 1 && net.ParseIP(args[2]) == nil {
		if resolve(args[2]) == "" {
			return sentinel.ErrCannotResolve
		}
	}
	return nil
}

// executable reports whether path is a file that this process may run.
func executable(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
}

const resolveTimeout = 2 * time.Second

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
