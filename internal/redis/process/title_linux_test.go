package process

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"unsafe"

	"holdfast/internal/redis/config"
)

// words lays arguments into memory as the kernel does.
func words(mem []byte) (args []string) {
	for len(mem) > 0 {
		n := bytes.IndexByte(mem, 0)
		args = append(args, unsafe.String(&mem[0], n))
		mem = mem[n+1:]
	}
	return args
}

// The title is written where the arguments lay, never beyond; os.Args stays what
// it was.
func TestTitleTakesThePlaceOfTheArguments(t *testing.T) {
	old := os.Args
	defer func() { os.Args, titleArea = old, nil }()
	mem := []byte("/bin/redis-server\x00--port\x00\x007000\x00ENV=1\x00")
	size := bytes.Index(mem, []byte("ENV"))
	os.Args = words(mem[:size])
	OwnArgs()
	cfg := config.Default()
	cfg.Bind, cfg.Port = nil, 7000
	for _, c := range []struct{ template, want string }{
		{"{title} {listen-addr}", "/bin/redis-server *:7000"},
		{"{port}", "7000"},
		{"{title} {title}", "7000"}, // there is no room
		{"{nope}", "7000"},
	} {
		cfg.ProcTitleTemplate = c.template
		ShowTitle(cfg, os.Args[0])
		if got := string(bytes.TrimRight(mem[:size], "\x00")); got != c.want {
			t.Errorf("%s: %q, want %q", c.template, got, c.want)
		}
		if string(mem[size:]) != "ENV=1\x00" || mem[size-1] != 0 {
			t.Fatalf("%s: written beyond the arguments: %q", c.template, mem)
		}
	}
	cfg.SetProcTitle, cfg.ProcTitleTemplate = false, "no"
	ShowTitle(cfg, "x")
	if mem[0] != '7' {
		t.Error("a title although there is to be none")
	}
	if got := strings.Join(os.Args, " "); got != "/bin/redis-server --port  7000" {
		t.Errorf("os.Args has changed: %q", got)
	}
}

// Arguments that do not lie one behind the other are nobody's to write to.
func TestNoTitleWhereArgumentsLieApart(t *testing.T) {
	mem := []byte("a\x00bb\x00c\x00")
	args := words(mem)
	args[1] = strings.Clone(args[1])
	if got := argsArea(args); got != nil {
		t.Errorf("%q", got)
	}
	if argsArea(nil) != nil || argsArea([]string{""}) != nil {
		t.Error("an area of nothing")
	}
}
