package lint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"holdfast/internal/redis/config"
)

// holders are the names under which the code holds a configuration.
var holders = map[string]bool{"cfg": true, "Cfg": true, "base": true, "Config": true, "conf": true, "c": true, "o": true}

// specials are the fields of directives that have a parameter function of their own.
var specials = map[string]string{
	"Bind": "bind", "ClientOutputBufferLimits": "client-output-buffer-limit", "Dir": "dir", "LatencyPercentiles": "latency-tracking-info-percentiles",
	"NotifyKeyspaceEvents": "notify-keyspace-events", "OOMScoreAdjValues": "oom-score-adj-values", "ProcTitleTemplate": "proc-title-template",
	"ReplicaOf": "replicaof", "SavePoints": "save",
}

// shownOnly are directives without effect whose value is used all the same: to
// show it, or to word a refusal.
var shownOnly = map[string]bool{"list-compress-depth": true, "enable-module-command": true, "tls-dh-params-file": true, "tls-ciphersuites": true}

// Every directive does what it says, or says why it does nothing here: a field
// of the configuration that no code outside of its package reads has a reason,
// and one that has a reason is not read.
func TestEveryDirectiveHasAnEffectOrAReason(t *testing.T) {
	names := directiveNames(t)
	used := usedFields(t)
	cfg := config.Default()
	_, err := os.Stat(filepath.Join("..", "redis", "bus"))
	hasCluster := err == nil
	fields := optionFields(reflect.TypeOf(config.Options{}))
	if len(fields) < 170 {
		t.Errorf("only %d fields were found", len(fields))
	}
	for _, field := range fields {
		name := names[field]
		p := cfg.Lookup(name)
		switch {
		case p == nil:
			t.Errorf("%s: no directive found for it (%q)", field, name)
		case strings.HasPrefix(name, "cluster-") && !hasCluster: // they come with the bus
		case used[field] && p.NoEffect != "" && !shownOnly[name]:
			t.Errorf("%s is read, and said to have no effect: %s", name, p.NoEffect)
		case !used[field] && p.NoEffect == "":
			t.Errorf("%s has no effect, and does not say why: no code reads %s", name, field)
		}
	}
}

// optionFields are the names of the fields of a struct and of the structs that
// are embedded in it.
func optionFields(s reflect.Type) (names []string) {
	for i := range s.NumField() {
		if f := s.Field(i); f.Anonymous {
			names = append(names, optionFields(f.Type)...)
		} else {
			names = append(names, f.Name)
		}
	}
	return names
}

// directiveNames maps a field to its directive, from rows of the option table
// such as integer(&o.Port, "port", ...).
func directiveNames(t *testing.T) map[string]string {
	t.Helper()
	names := map[string]string{}
	for field, name := range specials {
		names[field] = name
	}
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", "redis", "config", "options.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) < 2 {
			return true
		}
		addr, ok := call.Args[0].(*ast.UnaryExpr)
		if !ok || addr.Op != token.AND {
			return true
		}
		sel, ok := addr.X.(*ast.SelectorExpr)
		lit, isLit := call.Args[1].(*ast.BasicLit)
		if ok && isLit && lit.Kind == token.STRING {
			if name, err := strconv.Unquote(lit.Value); err == nil && names[sel.Sel.Name] == "" {
				names[sel.Sel.Name] = name
			}
		}
		return true
	})
	return names
}

// usedFields are the names that are selected from a configuration somewhere
// outside of the option table.
func usedFields(t *testing.T) map[string]bool {
	t.Helper()
	used := map[string]bool{}
	for _, top := range []string{"internal", "cmd"} {
		err := filepath.WalkDir(filepath.Join("..", "..", top), func(path string, d fs.DirEntry, err error) error {
			name := filepath.ToSlash(path)
			if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
				return err
			}
			inTable := strings.Contains(name, "redis/config/")
			if inTable && !strings.HasSuffix(name, "config/set.go") { // which obeys enable-protected-configs
				return nil
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if sel, ok := n.(*ast.SelectorExpr); ok && holders[lastName(sel.X)] {
					used[sel.Sel.Name] = true
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return used
}

// lastName is the identifier that an expression ends with: cfg of s.cfg.
func lastName(x ast.Expr) string {
	switch x := x.(type) {
	case *ast.Ident:
		return x.Name
	case *ast.SelectorExpr:
		return x.Sel.Name
	}
	return ""
}
