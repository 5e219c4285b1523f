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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := sentineld.Run(ctx, sentineld.Options{Args: args})
	var exit sentineld.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.Code
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
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
