package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/internal/redis/config"
	"holdfast/internal/redis/logline"
	"holdfast/internal/redis/process"
	"holdfast/internal/redis/server"
)

// redisServer is `redis-server [redis.conf] [--directive value ...]`.
func redisServer(name string, args []string) int {
	if len(args) == 1 {
		switch args[0] {
		case "-v", "--version":
			fmt.Printf("Redis server v=%s sha=00000000:0 malloc=arena bits=64 build=holdfast\n", server.Version)
			return 0
		case "-h", "--help":
			serverUsage(os.Stderr, name)
			return 1 // as Redis does
		}
	}
	if rest, is := sentinelMode(args); is {
		return redisSentinel(name, rest)
	}
	cfg := config.Default()
	cfg.HasCommand = server.HasCommand
	if err := cfg.LoadArgs(args); err != nil {
		return configError(err)
	}
	if mayDaemonize(cfg) {
		return daemonize(cfg.StdinText)
	}
	return serve(name, cfg)
}

// bootLine prints a line of the log before there is one.
func bootLine(role byte, text string) {
	line := logline.Append(nil, config.LogFormatLegacy, time.Now(), os.Getpid(), role, config.LogWarning, text)
	_, _ = os.Stdout.Write(line) // nobody else could be told
}

func configError(err error) int {
	var le *config.LoadError
	var open *config.OpenError
	switch {
	case errors.As(err, &le):
		fmt.Fprintf(os.Stderr, "\n%s", le.Error())
	case errors.As(err, &open):
		bootLine(logline.Child, err.Error())
	default:
		fmt.Fprintln(os.Stderr, err)
	}
	return 1
}

// serve runs a data server until it is told to stop. name is how the program was
// called.
func serve(name string, cfg *config.Config) int {
	// The heap is small beside the data, which lies outside of it: collect
	// rarely. GOGC in the environment wins.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	if err := os.Chdir(cfg.Dir); err != nil {
		fmt.Fprintf(os.Stderr, "Can't chdir to '%s': %s\n", cfg.Dir, err)
		return 1
	}
	var srv *server.Server
	log, err := process.NewLogger(process.LogOptions{Config: cfg, Role: func() byte {
		if srv == nil {
			return logline.Child
		}
		return srv.Role()
	}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for _, w := range config.Warnings(cfg) {
		log.Warning("%s", w)
	}
	srv, err = server.New(server.Options{Config: cfg, FS: vfs.Default, Log: log})
	if err != nil {
		log.Warning("%s", err)
		return 1
	}
	process.WritePidFile(cfg, log)
	process.ShowTitle(cfg, name)
	cfg.OnApply("proc-title-template", func(string, string) error {
		process.ShowTitle(cfg, name)
		return nil
	})
	stop := srv.HandleSignals(context.Background())
	defer stop()
	return srv.Run(context.Background())
}

func serverUsage(f *os.File, name string) {
	base := filepath.Base(name)
	fmt.Fprintf(f, `Usage: %[1]s [/path/to/redis.conf] [options] [-]
       %[1]s - (read config from stdin)
       %[1]s -v or --version
       %[1]s -h or --help

Examples:
       %[1]s (run the server with default conf)
       echo 'maxmemory 128mb' | %[1]s -
       %[1]s /etc/redis/6379.conf
       %[1]s --port 7777
       %[1]s --port 7777 --replicaof 127.0.0.1 8888
       %[1]s /etc/myredis.conf --loglevel verbose -
       %[1]s /etc/myredis.conf --loglevel verbose

Sentinel mode:
       %[1]s /etc/sentinel.conf --sentinel
`, base)
}
