package server

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestHumanBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0B", 1023: "1023B", 1024: "1.00K", 916448: "894.97K", 25276514304: "23.54G"} {
		if got := humanBytes(n); got != want {
			t.Errorf("humanBytes(%d) = %s, want %s", n, got, want)
		}
	}
}

func TestAtoi(t *testing.T) {
	for s, want := range map[string]int64{"": 0, "abc": 0, "12": 12, " -3x": -3, "+4": 4, "1-2": 1, "--1": 0} {
		if got := atoi([]byte(s)); got != want {
			t.Errorf("atoi(%q) = %d, want %d", s, got, want)
		}
	}
}

// The graph of one sample is the one that Redis draws.
func TestGraphIsThatOfRedis(t *testing.T) {
	var b strings.Builder
	drawGraph(&b, []int64{20}, []string{"0s"}, 20, 20)
	if want := " \n \n \n_\n \n0\ns\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
	b.Reset()
	drawGraph(&b, []int64{0, 11, 5}, []string{"2m", "1m", "59s"}, 0, 11)
	if want := " # \n | \n |#\n_||\n   \n215\nmm9\n  s\n"; b.String() != want {
		t.Errorf("got\n%s, want\n%s", b.String(), want)
	}
}

func TestReplaceFileFollowsLinksAndLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "conf"), filepath.Join(dir, "link")
	if err := os.WriteFile(file, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(link, []byte("new")); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil || string(b) != "new" {
		t.Errorf("the file holds %q, %v", b, err)
	}
	if st, err := os.Lstat(link); err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is a link no more: %v", err)
	}
	// A directory in the place of the file cannot be replaced.
	if err := replaceFile(dir, []byte("x")); err == nil {
		t.Error("a directory was replaced by a file")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.tmp")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if left, _ := filepath.Glob(dir + ".*.tmp"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestNodeLimit(t *testing.T) {
	for fill, want := range map[int][2]int{-1: {4096, 1 << 30}, -2: {8192, 1 << 30}, -5: {65536, 1 << 30}, -9: {65536, 1 << 30}, 3: {8192, 3}, 0: {8192, 1}} {
		if b, n := nodeLimit(fill); b != want[0] || n != want[1] {
			t.Errorf("nodeLimit(%d) = %d, %d, want %v", fill, b, n, want)
		}
	}
}
