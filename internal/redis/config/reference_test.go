package config

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/reference/redis-conf.md anew from the option table")

func TestReferencePageIsTheOptionTable(t *testing.T) {
	path := filepath.Join("..", "..", "..", "docs", "reference", "redis-conf.md")
	want := referencePage()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the option table says; run: go test ./internal/redis/config -run Reference -update", path)
	}
}

func referencePage() string {
	var b strings.Builder
	b.WriteString(`# redis.conf

<!-- Generated from the option table by: go test ./internal/redis/config -run Reference -update -->

Every directive that ` + "`holdfast redis-server`" + ` knows, as line of a configuration file, as ` + "`--directive value`" + ` on the command
line, and in CONFIG GET, SET and REWRITE. Names, values and defaults are those of Redis 7.0, with one exception: ` + "`appendonly`" + `
is ` + "`yes`" + ` here. A default in the table is what CONFIG GET prints.

Change: *run time* by CONFIG SET; *start* only in the file or on the command line; *protected* by CONFIG SET if
` + "`enable-protected-configs`" + ` allows; *hidden* directives are shown by CONFIG GET under their exact name only.

A directive without effect here is accepted, kept and rewritten; if it is set away from its default, a warning at start-up
says why it changes nothing.

Memory values take a unit: ` + "`k`, `m`, `g`" + ` are powers of 1000, ` + "`kb`, `mb`, `gb`" + ` powers of 1024.

`)
	row := func(p *Param) {
		name := "`" + p.Name + "`"
		if p.Alias != "" {
			name += " (`" + p.Alias + "`)"
		}
		def := ""
		switch {
		case p.Name == "dir":
			def = "the working directory"
		case p.Default != "":
			def = "`" + p.Default + "`"
		}
		doc := p.Doc
		if p.NoEffect != "" {
			doc += ". **No effect here:** " + p.NoEffect
		}
		kind := string(p.Kind)
		if p.Range != "" && p.Kind != KindBool {
			kind += ": " + p.Range
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", name, kind, def, p.change(), doc)
	}
	header := "| Directive | Value | Default | Change | Consequence |\n|---|---|---|---|---|\n"
	b.WriteString("## Directives of Redis\n\n" + header)
	c := Default()
	for _, p := range c.Params() {
		if !p.Is(IsAlias) && !p.Is(Own) {
			row(p)
		}
	}
	b.WriteString("\n## Directives of Holdfast\n\n" + header)
	for _, p := range c.Params() {
		if p.Is(Own) {
			row(p)
		}
	}
	b.WriteString(`
## Lines that are no parameters

| Line | Consequence |
|---|---|
| ` + "`include path`" + ` | reads another file at this place; with ` + "`*`, `?` or `[`" + ` all files that match, and none is no error |
| ` + "`rename-command old new`" + ` | the command answers to the new name only; to none if the new name is ` + "`\"\"`" + ` |
| ` + "`user name rule...`" + ` | defines an ACL user |
| ` + "`loadmodule path argument...`" + ` | **No effect here:** modules of Redis are C libraries and cannot be loaded |
| ` + "`module.parameter value`" + ` | **No effect here:** belongs to a module |
| ` + "`sentinel ...`" + ` | in Sentinel mode only |
| ` + "`list-max-ziplist-entries`, `list-max-ziplist-value`, `lua-replicate-commands`" + ` | accepted and forgotten, as in Redis |
`)
	return b.String()
}

func (p *Param) change() string {
	var words []string
	switch {
	case p.Is(Immutable):
		words = append(words, "start")
	case p.Is(Protected):
		words = append(words, "protected")
	default:
		words = append(words, "run time")
	}
	if p.Is(Hidden) {
		words = append(words, "hidden")
	}
	return strings.Join(words, ", ")
}
