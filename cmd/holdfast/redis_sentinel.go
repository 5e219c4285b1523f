package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"holdfast/internal/redis/logline"
	"holdfast/internal/redis/process"
	"holdfast/internal/redis/sentineld"
	"holdfast/internal/redis/server"
)

// redisSentinel is `redis-sentinel sentinel.conf [--directive value ...]`.
func redisSentinel(name string, args []string) int {
	if len(args) == 1 {
		switch args[0] {
		case "-v", "--version":
			fmt.Printf("Redis server v=%s sha=00000000:0 malloc=arena bits=64 build=holdfast\n", server.Version)
			return 0
		case "-h", "--help":
			fmt.Printf("Usage: %[1]s /path/to/sentinel.conf [--directive value ...]\n\nExample:\n       %[1]s /etc/redis/sentinel.conf --port 26380\n", filepath.Base(name))
			return 0
		}
	}
	l, err := sentineld.Load(args)
	if errors.Is(err, sentineld.ErrNoConfigFile) {
		bootLine(logline.Sentinel, err.Error())
		return 1
	}
	if err != nil {
		return configError(err)
	}
	if mayDaemonize(l.Config) {
		return daemonize(l.Config.StdinText)
	}
	if err := os.Chdir(l.Config.Dir); err != nil {
		fmt.Fprintf(os.Stderr, "Can't chdir to '%s': %s\n", l.Config.Dir, err)
		return 1
	}
	// A terminal or a pipe that goes away does not take the Sentinel with it.
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	process.ShowTitle(l.Config, name)
	err = sentineld.Run(ctx, sentineld.Options{Loaded: l})
	var exit sentineld.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.Code
	}
	return 1 // logged
}

// sentinelMode reports whether redis-server was asked to be a Sentinel, and
// returns the arguments without that.
func sentinelMode(args []string) ([]string, bool) {
	i := slices.Index(args, "--sentinel")
	if i < 0 {
		return args, false
	}
	return slices.Delete(slices.Clone(args), i, i+1), true
}
