package peers

import (
	"context"
	"os/exec"
	"path/filepath"
	"testing"
)

// python finds an interpreter that has redis-py.
func python(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(name, "-c", "import redis.sentinel").Run() == nil {
			return name
		}
	}
	t.Skip("the Python module redis is not installed (Debian package python3-redis)")
	return ""
}

// redis-py finds our master through Sentinels of both programs and works with it.
func TestRedisPy(t *testing.T) {
	name := python(t)
	needGenuine(t, "redis-sentinel")
	t.Parallel()
	d := deploy(t, []kind{ours, ours}, []kind{ours, genuine, ours})
	args := []string{filepath.Join("testdata", "client.py"), d.servers[0].portText()}
	for _, s := range d.sentinels {
		args = append(args, s.portText())
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	} else {
		t.Logf("%s", out)
	}
}
