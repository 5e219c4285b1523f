package ops

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What a member said last is told in whole lines, however much there is.
func TestLastWordsAreWholeLines(t *testing.T) {
	m := &Member{Dir: t.TempDir()}
	if got := lastLines(m); got != "" {
		t.Errorf("of nothing: %q", got)
	}
	var log strings.Builder
	for log.Len() < 100_000 {
		log.WriteString("a line of the log\n")
	}
	for name, text := range map[string]string{"log": log.String() + "# Fatal\n", "stderr": ""} {
		if err := os.WriteFile(filepath.Join(m.Dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got := lastLines(m)
	if len(got) > 1000 || !strings.HasPrefix(got, "a line of the log\n") || !strings.HasSuffix(got, "\n# Fatal\n") {
		t.Errorf("%d bytes: %q", len(got), got)
	}
	if err := os.WriteFile(filepath.Join(m.Dir, "stderr"), []byte("panic: x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := lastLines(m); !strings.HasSuffix(got, "# Fatal\npanic: x\n") {
		t.Errorf("without stderr: %q", got)
	}
}
