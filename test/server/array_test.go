package server

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"holdfast/test/proc"
)

// disks makes n directories that stand for disks.
func disks(t *testing.T, n int) []string {
	t.Helper()
	root := t.TempDir()
	var dirs []string
	for i := range n {
		d := filepath.Join(root, "d"+strconv.Itoa(i))
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, d)
	}
	return dirs
}

// onArray are the arguments of a server with an array; chunks and segments are
// small, so that little data makes many stripes.
func onArray(level int, members []string, more ...string) []string {
	args := append([]string{"--save", "", debugOn, "yes", "--journal-segment-size", "256kb", "--array-chunk", "4kb",
		"--array-level", strconv.Itoa(level), "--array-members"}, members...)
	return append(args, more...)
}

type arrayReply struct {
	Status struct {
		State   string
		Members []struct{ Path, State, Reason string }
		AtRisk  int `json:"at_risk"`
	}
	Events []struct{ Kind, Path, Text string }
	Scrub  *struct {
		Ended string
		Error string
		Scrub struct{ Repaired, Lost, Chunks int }
	} `json:"last_scrub_job"`
}

func arrayStatus(t *testing.T, c *proc.Conn) (r arrayReply) {
	t.Helper()
	text := must(t, c, "HOLDFAST.ARRAY", "STATUS")
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return r
}

func waitState(t *testing.T, c *proc.Conn, state string) {
	t.Helper()
	eventually(t, "the array is "+state, func() bool { return info(t, c, "array_state") == state })
}

// scrub runs a scrub to its end and returns how many chunks it repaired and lost.
func scrub(t *testing.T, c *proc.Conn) (repaired, lost int) {
	t.Helper()
	must(t, c, "HOLDFAST.ARRAY", "SCRUB", "RESTART")
	var r arrayReply
	eventually(t, "the scrub is over", func() bool {
		r = arrayStatus(t, c)
		return r.Scrub != nil && r.Scrub.Ended != ""
	})
	if r.Scrub.Error != "" {
		t.Fatal(r.Scrub.Error)
	}
	if r.Scrub.Scrub.Chunks == 0 {
		t.Error("the scrub verified nothing")
	}
	return r.Scrub.Scrub.Repaired, r.Scrub.Scrub.Lost
}

// DESIGN 4.2: the array is made at the first start and found at later ones, and
// journal and checkpoints live on it.
func TestArrayIsMadeThenFoundAtEveryLevel(t *testing.T) {
	t.Parallel()
	for level, width := range map[int]int{0: 2, 1: 2, 4: 3, 5: 4, 6: 4} {
		t.Run("level"+strconv.Itoa(level), func(t *testing.T) {
			t.Parallel()
			members, dir := disks(t, width), t.TempDir()
			args := onArray(level, members)
			s := startIn(t, dir, args...)
			s.waitLog("Array made: RAID-" + strconv.Itoa(level))
			c := s.dial()
			fill(t, c, 300)
			must(t, c, "BGREWRITEAOF")
			s.waitLog("Background checkpoint terminated with success")
			fill(t, c, 200)
			want := digest(t, c)
			if _, err := os.Stat(filepath.Join(dir, "journal")); !os.IsNotExist(err) {
				t.Errorf("there is a journal in dir: %v", err)
			}
			s.Kill()
			s = startIn(t, dir, args...)
			s.waitLog("Array found: RAID-" + strconv.Itoa(level))
			c = s.dial()
			if got := digest(t, c); got != want {
				t.Errorf("digest %s after a kill, before %s", got, want)
			}
			must(t, c, "SET", "k", "v")
			must(t, c, "SAVE")
			if _, err := os.Stat(filepath.Join(dir, "dump.rdb")); err != nil {
				t.Error(err)
			}
			if err := s.Terminate(limit); err != nil {
				t.Fatal(err)
			}
			s = startIn(t, dir, args...)
			c = s.dial()
			wantText(t, c, "v", "GET", "k")
			for field, want := range map[string]string{"array_enabled": "1", "array_level": strconv.Itoa(level), "array_state": "healthy",
				"array_members": strconv.Itoa(width), "array_members_live": strconv.Itoa(width), "array_chunk": "4096", "array_stripes_at_risk": "0"} {
				if got := info(t, c, field); got != want {
					t.Errorf("%s:%s, want %s", field, got, want)
				}
			}
			must(t, c, "DEBUG", "LOADAOF")
		})
	}
}

// A member that is away at the start: the server starts without it, and gives it
// what it lacks when it is back.
func TestArrayStartsWithoutAMemberAndTakesItBack(t *testing.T) {
	t.Parallel()
	members, dir := disks(t, 4), t.TempDir()
	args := onArray(5, members)
	s := startIn(t, dir, args...)
	c := s.dial()
	fill(t, c, 200)
	want := digest(t, c)
	s.Kill()
	if err := os.Rename(members[2], members[2]+".away"); err != nil {
		t.Fatal(err)
	}
	s = startIn(t, dir, args...)
	c = s.dial()
	if got := digest(t, c); got != want {
		t.Errorf("digest %s without a member, before %s", got, want)
	}
	if got := info(t, c, "array_state"); got != "degraded" {
		t.Errorf("array_state:%s", got)
	}
	fill(t, c, 400)
	want = digest(t, c)
	s.Kill()
	if err := os.RemoveAll(members[2]); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(members[2]+".away", members[2]); err != nil {
		t.Fatal(err)
	}
	s = startIn(t, dir, args...)
	c = s.dial()
	waitState(t, c, "healthy")
	if _, lost := scrub(t, c); lost != 0 {
		t.Errorf("%d chunks lost", lost)
	}
	s.Kill()
	if err := os.RemoveAll(members[0]); err != nil { // it counts again: another one may go
		t.Fatal(err)
	}
	s = startIn(t, dir, args...)
	if got := digest(t, s.dial()); got != want {
		t.Errorf("digest %s with the member that returned and without another, before %s", got, want)
	}
}

// A member that cannot be written any more is taken out while the server serves;
// it is replaced, and CONFIG REWRITE keeps the new list.
func TestArrayMemberFailsAndIsReplaced(t *testing.T) {
	t.Parallel()
	members, dir := disks(t, 4), t.TempDir()
	conf := filepath.Join(dir, "redis.conf")
	text := "save \"\"\nenable-debug-command yes\narray-level 5\narray-chunk 4kb\narray-members " + strings.Join(members, " ") + "\n"
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	argv := append(serverArgv(), conf)
	s := launch(t, argv, dir, nil)
	if err := s.Ready(limit); err != nil {
		t.Fatal(err)
	}
	c := s.dial()
	fill(t, c, 200)
	if err := os.Rename(members[1], members[1]+".broken"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(members[1], nil, 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, c, "BGREWRITEAOF")
	s.waitLog("Array event member-failed member=1")
	waitState(t, c, "degraded")
	fill(t, c, 100)
	if st := arrayStatus(t, c); st.Status.Members[1].State != "failed" || st.Status.AtRisk == 0 {
		t.Errorf("%+v", st.Status)
	}
	fresh := filepath.Join(t.TempDir(), "fresh")
	must(t, c, "HOLDFAST.ARRAY", "REPLACE", members[1], fresh)
	waitState(t, c, "healthy")
	must(t, c, "CONFIG", "REWRITE")
	rewritten, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	if line := "array-members " + strings.Join([]string{members[0], fresh, members[2], members[3]}, " ") + "\n"; !strings.Contains(string(rewritten), line) {
		t.Errorf("%q is not in:\n%s", line, rewritten)
	}
	want := digest(t, c)
	s.Kill()
	if err := os.RemoveAll(members[3]); err != nil {
		t.Fatal(err)
	}
	s = launch(t, argv, dir, nil)
	if err := s.Ready(limit); err != nil {
		t.Fatal(err)
	}
	if got := digest(t, s.dial()); got != want {
		t.Errorf("digest %s from the new member, before %s", got, want)
	}
}

// A chunk that was damaged is mended by a scrub, and the second scrub finds
// nothing.
func TestArrayScrubMendsDamage(t *testing.T) {
	t.Parallel()
	members := disks(t, 4)
	s := startIn(t, t.TempDir(), onArray(6, members)...)
	c := s.dial()
	fill(t, c, 300)
	must(t, c, "BGREWRITEAOF")
	s.waitLog("Background checkpoint terminated with success")
	damaged := 0
	for _, m := range members[:2] {
		files, err := filepath.Glob(filepath.Join(m, "data", "*.col"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			b, err := os.ReadFile(name)
			if err != nil || len(b) == 0 {
				continue
			}
			f, err := os.OpenFile(name, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt([]byte("damage"), 0); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			damaged++
		}
	}
	if damaged == 0 {
		t.Fatal("nothing to damage")
	}
	if repaired, lost := scrub(t, c); repaired == 0 || lost != 0 {
		t.Errorf("first scrub: %d repaired, %d lost of %d damaged", repaired, lost, damaged)
	}
	if repaired, lost := scrub(t, c); repaired != 0 || lost != 0 {
		t.Errorf("second scrub: %d repaired, %d lost", repaired, lost)
	}
	if info(t, c, "array_healed") == "0" {
		t.Error("array_healed:0")
	}
	want := digest(t, c)
	s.Kill()
	s = startIn(t, s.dir, onArray(6, members)...)
	if got := digest(t, s.dial()); got != want {
		t.Errorf("digest %s, before %s", got, want)
	}
}

// A journal that was in dir before there was an array is taken over.
func TestArrayTakesOverTheJournal(t *testing.T) {
	t.Parallel()
	dir, members := t.TempDir(), disks(t, 2)
	s := startIn(t, dir, "--save", "", debugOn, "yes")
	c := s.dial()
	fill(t, c, 200)
	must(t, c, "BGREWRITEAOF")
	s.waitLog("Background checkpoint terminated with success")
	fill(t, c, 50)
	must(t, c, "SELECT", "3")
	must(t, c, "SET", "in", "3")
	want, id, offset := digest(t, c), info(t, c, "master_replid"), infoInt(t, c, "master_repl_offset")
	s.Kill()
	s = startIn(t, dir, onArray(1, members)...)
	c = s.dial()
	if got := digest(t, c); got != want {
		t.Errorf("digest %s on the array, before %s", got, want)
	}
	// As after every restart, the old id is the second one now.
	if got := info(t, c, "master_replid2"); got != id {
		t.Errorf("master_replid2:%s, the old id is %s", got, id)
	}
	if got := infoInt(t, c, "master_repl_offset"); got < offset {
		t.Errorf("master_repl_offset:%d, before %d", got, offset)
	}
	aside, err := filepath.Glob(filepath.Join(dir, "journal.imported-*"))
	if err != nil || len(aside) != 1 {
		t.Errorf("set aside: %v, %v", aside, err)
	}
	must(t, c, "SET", "later", "v")
	want = digest(t, c)
	s.Kill()
	s = startIn(t, dir, onArray(1, members)...)
	if got := digest(t, s.dial()); got != want {
		t.Errorf("digest %s after a kill, before %s", got, want)
	}
}

// What is in dir without a journal is imported as it is without an array.
func TestArrayImportsADump(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startIn(t, dir, "--appendonly", "no", debugOn, "yes")
	c := s.dial()
	fill(t, c, 100)
	must(t, c, "SAVE")
	want := digest(t, c)
	s.Kill()
	s = startIn(t, dir, onArray(5, disks(t, 3))...)
	if got := digest(t, s.dial()); got != want {
		t.Errorf("digest %s on the array, before %s", got, want)
	}
}

// A start that would serve nothing although there is data is refused.
func TestArrayThatIsNotThereIsNotMadeAnew(t *testing.T) {
	t.Parallel()
	members, dir := disks(t, 3), t.TempDir()
	s := startIn(t, dir, onArray(5, members)...)
	must(t, s.dial(), "SET", "k", "v")
	if err := s.Terminate(limit); err != nil {
		t.Fatal(err)
	}
	refused := func(text string, args ...string) {
		t.Helper()
		s := launch(t, serverArgv(), dir, nil, args...)
		if err := s.WaitExit(limit); err != nil {
			t.Fatal(err)
		}
		if s.ExitCode() != 1 || !strings.Contains(s.Output(), text) {
			t.Errorf("exit code %d, want %q in:\n%s", s.ExitCode(), text, s.Output())
		}
	}
	refused("start with array-level and array-members as before", "--save", "")
	for _, m := range members {
		if err := os.Rename(m, m+".away"); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(m, 0o755); err != nil { // an empty mount point
			t.Fatal(err)
		}
	}
	refused("are the disks mounted?", onArray(5, members)...)
	for _, m := range members[:1] {
		if err := os.Remove(m); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(m+".away", m); err != nil {
			t.Fatal(err)
		}
	}
	refused("bring the missing disks back", onArray(5, members)...)
	for _, m := range members[1:] {
		if err := os.Remove(m); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(m+".away", m); err != nil {
			t.Fatal(err)
		}
	}
	refused("level", onArray(4, members)...)
	s = startIn(t, dir, onArray(5, members)...)
	wantText(t, s.dial(), "v", "GET", "k")
}

// Members that are full fail no member; writes are refused and go on by
// themselves when there is room.
func TestArrayFullDisksFailNoMember(t *testing.T) {
	t.Parallel()
	var members, ballasts []string
	for range 3 {
		dir, ballast := smallDisk(t, "16m", 6<<20)
		members, ballasts = append(members, dir), append(ballasts, ballast)
	}
	dir := t.TempDir()
	args := onArray(5, members, "--appendfsync", "always")
	s := startIn(t, dir, args...)
	n := writeUntilRefused(t, s, 0)
	c := s.dial()
	if got := info(t, c, "array_members_live"); got != "3" {
		t.Errorf("array_members_live:%s", got)
	}
	for _, b := range ballasts {
		if err := os.Remove(b); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "writes are accepted again", func() bool { return do(t, c, "SET", "again", "1").Text() == "OK" })
	wantAll(t, c, 0, n)
	if got := info(t, c, "array_members_live"); got != "3" {
		t.Errorf("array_members_live:%s", got)
	}
	s.Kill()
	s = startIn(t, dir, args...)
	c = s.dial()
	wantAll(t, c, 0, n)
	wantText(t, c, "1", "GET", "again")
}

// A replica's full synchronisation makes a new generation on its array.
func TestReplicaOnAnArray(t *testing.T) {
	t.Parallel()
	master := start(t, debugOn, "yes", "--repl-diskless-sync-delay", "0")
	mc := master.dial()
	fill(t, mc, 300)
	members, dir := disks(t, 4), t.TempDir()
	args := onArray(5, members, "--replicaof", "127.0.0.1", strconv.Itoa(master.port))
	s := startIn(t, dir, args...)
	c := s.dial()
	same := func() bool {
		return info(t, c, "master_link_status") == "up" && info(t, c, "master_repl_offset") == info(t, mc, "master_repl_offset")
	}
	eventually(t, "the replica has everything", same)
	fill(t, mc, 50)
	eventually(t, "the replica has everything", same)
	want := digest(t, mc)
	if got := digest(t, c); got != want {
		t.Fatalf("digest %s, the master's is %s", got, want)
	}
	master.Signal(syscall.SIGSTOP)
	s.Kill()
	s = startIn(t, dir, args...)
	c = s.dial()
	if got := digest(t, c); got != want {
		t.Errorf("digest %s after a kill, without the master, which has %s", got, want)
	}
	master.Signal(syscall.SIGCONT)
	eventually(t, "the link is up", func() bool { return info(t, c, "master_link_status") == "up" })
	if strings.Contains(s.Output(), "Full resync from master") {
		t.Error("the replica had to synchronize as a whole")
	}
}

// A server without an array has the commands and sections of Redis, and no other.
func TestArrayCommandIsThereWithAnArrayOnly(t *testing.T) {
	t.Parallel()
	plain := start(t)
	c := plain.dial()
	if v := do(t, c, "HOLDFAST.ARRAY", "STATUS"); !strings.Contains(v.Str, "unknown command") {
		t.Errorf("%+v", v)
	}
	if text := must(t, c, "INFO", "everything"); strings.Contains(text, "# Array") {
		t.Error("INFO has a section Array")
	}
	wantText(t, c, "# Array\r\narray_enabled:0\r\n", "INFO", "array")
	with := startIn(t, t.TempDir(), onArray(1, disks(t, 2))...)
	d := with.dial()
	if a, b := do(t, c, "COMMAND", "COUNT").Int, do(t, d, "COMMAND", "COUNT").Int; b != a+1 {
		t.Errorf("%d commands without an array, %d with one", a, b)
	}
	if text := must(t, d, "INFO"); !strings.Contains(text, "# Array\r\narray_enabled:1\r\n") {
		t.Errorf("INFO:\n%s", text)
	}
	if v := do(t, d, "HOLDFAST.ARRAY", "REPLACE", "9", "relative"); !strings.Contains(v.Str, "no absolute path") {
		t.Errorf("%+v", v)
	}
}
