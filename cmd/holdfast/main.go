// Command holdfast is the whole of Holdfast in one binary: the program's name,
// or its first argument, chooses the role.
package main

import (
	"os"
	"path/filepath"
	"strings"

	"holdfast/internal/redis/process"
)

func main() {
	process.OwnArgs()
	os.Exit(run(os.Args))
}

// run chooses the role by the name the binary was called by, so that a symlink
// named like a program that it replaces behaves like it, or by the first
// argument. It returns the exit code.
func run(args []string) int {
	name := strings.TrimSuffix(filepath.Base(args[0]), ".exe")
	if role := roles[name]; role != nil {
		return role(args[0], args[1:])
	}
	if len(args) > 1 {
		if role := roles[args[1]]; role != nil {
			return role(args[0]+" "+args[1], args[2:])
		}
	}
	return verbs(args)
}

// roles take the arguments of the program that they replace.
var roles = map[string]func(name string, args []string) int{
	"redis-server":   redisServer,
	"redis-sentinel": redisSentinel,
}
