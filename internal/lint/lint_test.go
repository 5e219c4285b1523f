// Package lint tests the code: which way imports point, and that the documents
// agree with it.
package lint

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// level of a package: it may import only lower levels, and packages below its
// own directory. Longest prefix wins.
var levels = map[string]int{
	"internal/invariant":         0,
	"internal/redis/sds":         1,
	"internal/redis/glob":        1,
	"internal/redis/resp":        2,
	"internal/redis/logline":     3,
	"internal/redis/process":     4,
	"internal/redis/config":      2,
	"internal/redis/listpack":    1,
	"internal/redis/intset":      1,
	"internal/redis/rdb":         2,
	"internal/vfstest":           3,
	"internal/raid/layout":       1,
	"internal/raid/parity":       2,
	"internal/raid/format":       2,
	"internal/raid":              3,
	"internal/journal":           4,
	"internal/redis/replication": 5,
	"internal/redis/sentinel":    5,
	"internal/redis/cluster":     5,
	"internal/redis/slotmove":    6,
	"internal/redis/bus":         6,
	"internal/redis/keyspace":    6,
	"internal/redis/command":     7,
	"internal/sim":               8,
	"internal/redis/server":      8,
	"internal/redis/sentineld":   8,
	"internal/ops":               9,
	"internal/lint":              0,
	"cmd":                        10,
	"test":                       11,
}

// cores decide and do not act: no socket, no file, and, which the reader must
// check, no clock.
var cores = []string{"internal/redis/replication", "internal/redis/sentinel", "internal/redis/cluster", "internal/redis/slotmove", "internal/redis/keyspace", "internal/redis/command"}

var forbiddenInCores = []string{"net", "os/exec", "net/http", "syscall"}

func levelOf(pkg string) (int, bool) {
	for p := pkg; p != "." && p != ""; p = filepath.ToSlash(filepath.Dir(p)) {
		if l, ok := levels[p]; ok {
			return l, true
		}
	}
	return 0, false
}

// TestImportsPointOneWay holds the layers of the design, section 3.
func TestImportsPointOneWay(t *testing.T) {
	eachFile(t, func(pkg, file string, imports []string) {
		own, ok := levelOf(pkg)
		if !ok {
			t.Errorf("%s: package %s has no level; add it to levels", file, pkg)
			return
		}
		for _, imp := range imports {
			dep, inside := strings.CutPrefix(imp, "holdfast/")
			if !inside || strings.HasPrefix(dep+"/", pkg+"/") || strings.HasPrefix(pkg, "test/") || strings.HasSuffix(file, "_test.go") {
				continue
			}
			if l, ok := levelOf(dep); !ok || (l >= own && !strings.HasPrefix(pkg, dep)) {
				t.Errorf("%s: %s (level %d) imports %s (level %d)", file, pkg, own, dep, l)
			}
			if strings.Contains(pkg, "internal/redis/") && strings.Contains(dep, "internal/mongo/") {
				t.Errorf("%s: redis imports mongo", file)
			}
		}
	})
}

// TestCoresNameNoOutsideWorld: protocol cores take everything as input.
func TestCoresNameNoOutsideWorld(t *testing.T) {
	eachFile(t, func(pkg, file string, imports []string) {
		if strings.HasSuffix(file, "_test.go") {
			return
		}
		for _, core := range cores {
			if pkg != core && !strings.HasPrefix(pkg, core+"/") {
				continue
			}
			for _, imp := range imports {
				for _, bad := range forbiddenInCores {
					if imp == bad {
						t.Errorf("%s: the core %s imports %q", file, core, bad)
					}
				}
			}
		}
	})
}

func eachFile(t *testing.T, fn func(pkg, file string, imports []string)) {
	t.Helper()
	root := filepath.Join("..", "..")
	for _, top := range []string{"cmd", "internal", "test"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			var imports []string
			for _, i := range f.Imports {
				s, err := strconv.Unquote(i.Path.Value)
				if err != nil {
					return err
				}
				imports = append(imports, s)
			}
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			fn(filepath.ToSlash(filepath.Dir(rel)), filepath.ToSlash(rel), imports)
			return nil
		})
		if err != nil && top != "test" {
			t.Fatal(err)
		}
	}
}
