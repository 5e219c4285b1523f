package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/raid"
	"holdfast/internal/redis/server"
)

// DiskReport is the verdict of a drill on a disk. Durations are counted from the
// moment of the failure.
type DiskReport struct {
	Drill     string       `json:"drill"`
	Server    string       `json:"server"`
	Disk      string       `json:"disk"`
	Slot      int          `json:"slot"`
	NoticedMs int64        `json:"noticed_after_ms"` // first event of the array about the disk; -1 never
	Events    []raid.Event `json:"events"`
	// Writes of the probe client.
	LongestGapMs int64    `json:"longest_gap_ms"` // between two acknowledged writes, from the failure on
	Refused      int      `json:"refused"`        // writes that got an error, which is no loss
	Acknowledged int      `json:"acknowledged"`
	Lost         int      `json:"lost"`
	Duplicated   int      `json:"duplicated"`
	LostKeys     []string `json:"lost_keys,omitempty"`
	// The array.
	Flipped   int               `json:"bytes_flipped,omitempty"`
	First     *raid.ScrubResult `json:"first_scrub,omitempty"`
	Second    *raid.ScrubResult `json:"second_scrub,omitempty"`
	RebuiltMs int64             `json:"rebuilt_after_ms"` // healthy again; -1 never
	State     string            `json:"state"`            // of the array, at the end

	struck time.Time
}

// Verdict is the exit code: 0 nothing lost and healthy again, 1 something is
// lost, 2 not healthy again.
func (r *DiskReport) Verdict() Verdict {
	switch {
	case r.Lost > 0 || r.Duplicated > 0 || unrepaired(r.First) > 0 || unrepaired(r.Second) > 0:
		return Degraded
	case r.State != "healthy" || r.NoticedMs < 0:
		return Down
	}
	return Healthy
}

// diskDrill is a running drill on a disk of the master's array.
type diskDrill struct {
	o      DrillOptions
	d      *Deployment
	srv    ArrayServer
	r      *DiskReport
	p      *probe
	c      *client
	struck time.Time
}

// LoseDisk takes a member's directory away under a probe client's writes, waits
// until the array has noticed, lets it go on without, and brings it back.
func LoseDisk(ctx context.Context, o DrillOptions) (*DiskReport, error) {
	return diskDrillOf(ctx, o, "lose-disk", (*diskDrill).lose)
}

// CorruptDisk flips bytes in a member's files under a probe client's writes, and
// has the array scrubbed, twice.
func CorruptDisk(ctx context.Context, o DrillOptions) (*DiskReport, error) {
	return diskDrillOf(ctx, o, "corrupt-disk", (*diskDrill).corrupt)
}

func diskDrillOf(ctx context.Context, o DrillOptions, name string, run func(*diskDrill, context.Context) error) (*DiskReport, error) {
	x, err := newDiskDrill(ctx, o, name)
	if err != nil {
		return nil, err
	}
	defer x.c.close()
	ctx, cancel := context.WithTimeout(ctx, o.Before+o.After+o.Limit)
	defer cancel()
	say(o, "filling %s, so that there is something on the disks", x.r.Server)
	if err := x.fill(); err != nil {
		return nil, err
	}
	say(o, "writing to %s for %s", x.r.Server, o.Before)
	x.p.run(ctx)
	err = errors.New("interrupted")
	if sleep(ctx, o.Before) {
		err = run(x, ctx)
	}
	x.p.stop()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	x.writes()
	if err := x.count(ctx); err != nil {
		return nil, err
	}
	return x.r, x.unfill()
}

// newDiskDrill chooses the disk: of the master, in the slot that was asked for.
func newDiskDrill(ctx context.Context, o DrillOptions, name string) (*diskDrill, error) {
	d, err := LoadDeployment(o.Dir)
	if err != nil {
		return nil, err
	}
	if d.ArrayWidth == 0 {
		return nil, fmt.Errorf("the deployment in %s has no disk arrays: start one with `holdfast up --array-level 5 --members 4`", o.Dir)
	}
	st, err := d.healthyFirst(ctx, o)
	if err != nil {
		return nil, err
	}
	x := &diskDrill{o: o, d: d, srv: ArrayServer{Addr: st.Master, Timeout: 10 * time.Second}, p: newProbe(d)}
	x.p.fixed = st.Master
	reply, err := x.srv.Status()
	if err != nil {
		return nil, err
	}
	if o.Disk < 0 || o.Disk >= len(reply.Status.Members) {
		return nil, fmt.Errorf("--disk %d: the array has the members 0 to %d", o.Disk, len(reply.Status.Members)-1)
	}
	if survives(&reply.Status) == 0 {
		return nil, fmt.Errorf("RAID-%d survives the loss of no member: the drill would destroy the data", reply.Status.Level)
	}
	x.r = &DiskReport{Drill: name, Server: st.Master, Slot: o.Disk, Disk: reply.Status.Members[o.Disk].Path, NoticedMs: -1, RebuiltMs: -1}
	if x.c, err = dial(st.Master, 10*time.Second); err != nil {
		return nil, err
	}
	return x, nil
}

// fillKeys of fillSize bytes each are several stripes of the usual chunk.
const (
	fillKeys = 1000
	fillSize = 8 << 10
)

func (x *diskDrill) fillKey(n int) string { return x.p.prefix + "fill:" + strconv.Itoa(n) }

func (x *diskDrill) fill() error {
	rng := rand.NewChaCha8([32]byte{1})
	value := make([]byte, fillSize)
	for n := range fillKeys {
		_, _ = rng.Read(value) // never fails
		if _, err := x.c.do("SET", x.fillKey(n), string(value)); err != nil {
			return fmt.Errorf("filling %s: %w", x.r.Server, err)
		}
	}
	return x.awaitSync()
}

// syncPatience is how long the journal may take to sync, which it does each second
// unless it is told otherwise.
const syncPatience = 10 * time.Second

// awaitSync waits until what was written is on the disks: the array verifies what
// it has sealed, and it seals at a sync.
func (x *diskDrill) awaitSync() error {
	var end int64
	for limit := time.Now().Add(syncPatience); ; time.Sleep(20 * time.Millisecond) {
		info, err := x.c.info("persistence")
		if err != nil {
			return err
		}
		synced, _ := strconv.ParseInt(info["journal_synced_position"], 10, 64) // absent: not synced
		if end == 0 {
			end, _ = strconv.ParseInt(info["journal_position"], 10, 64)
		}
		if synced >= end && end > 0 {
			return nil
		}
		if time.Now().After(limit) {
			return fmt.Errorf("the journal of %s is not synced within %s: is appendfsync set to no?", x.r.Server, syncPatience)
		}
	}
}

// unfill removes what fill wrote.
func (x *diskDrill) unfill() error {
	for n := range fillKeys {
		if _, err := x.c.do("DEL", x.fillKey(n)); err != nil {
			return fmt.Errorf("removing what the drill wrote from %s: %w", x.r.Server, err)
		}
	}
	return nil
}

func (x *diskDrill) strike(format string, args ...any) {
	say(x.o, format, args...)
	x.struck = time.Now()
	x.r.struck = x.struck
	x.p.expectFailure(x.struck)
}

// lose is the drill lose-disk. Files that are open stay readable and writable
// when their directory is renamed, unlike those of a disk that is pulled; what
// fails is the next file that the array makes.
func (x *diskDrill) lose(ctx context.Context) error {
	away := x.r.Disk + ".lost-by-drill"
	x.strike("taking %s away", x.r.Disk)
	if err := os.Rename(x.r.Disk, away); err != nil {
		return err
	}
	if err := os.WriteFile(x.r.Disk, []byte("a drill has put this file in the place of a disk\n"), 0o644); err != nil {
		return errors.Join(err, os.Rename(away, x.r.Disk))
	}
	noticed := x.awaitNotice(ctx)
	if noticed == nil {
		say(x.o, "noticed after %s; writing on without it for %s", ms(x.r.NoticedMs), x.o.After)
		sleep(ctx, x.o.After)
		noticed = x.scrub(ctx, &x.r.First)
	}
	say(x.o, "bringing %s back", x.r.Disk)
	if err := errors.Join(os.Remove(x.r.Disk), os.Rename(away, x.r.Disk)); err != nil {
		return errors.Join(noticed, err)
	}
	if noticed != nil {
		return noticed
	}
	back := time.Now()
	if _, err := x.srv.Rebuild(ctx, x.r.Disk); err != nil {
		return fmt.Errorf("rebuilding: %w", err)
	}
	if err := x.awaitHealthy(ctx); err != nil {
		return err
	}
	x.r.RebuiltMs = time.Since(back).Milliseconds()
	return x.scrub(ctx, &x.r.Second)
}

// awaitNotice waits until the array has an event about the disk. So that it need
// not wait for the next file, it asks for a checkpoint each second.
func (x *diskDrill) awaitNotice(ctx context.Context) error {
	next := x.struck.Add(time.Second)
	for {
		reply, err := x.srv.Status()
		if err != nil {
			return err
		}
		if x.noticed(reply) {
			return nil
		}
		if now := time.Now(); now.After(next) {
			next = now.Add(time.Second)
			_, _ = x.c.do("BGREWRITEAOF") // one may be running
		}
		if !sleep(ctx, 20*time.Millisecond) {
			return errors.New("the array has not noticed")
		}
	}
}

// noticed takes the events over and reports whether one is about the disk.
func (x *diskDrill) noticed(reply *server.ArrayReply) bool {
	x.r.State = reply.Status.State
	x.r.Events = x.r.Events[:0]
	for _, e := range reply.Events {
		if e.Time.Before(x.struck) {
			continue
		}
		x.r.Events = append(x.r.Events, e)
		if x.r.NoticedMs < 0 && (e.Member == x.r.Slot || e.Kind == raid.EventHealed) {
			x.r.NoticedMs = max(e.Time.Sub(x.struck).Milliseconds(), 0)
		}
	}
	return x.r.NoticedMs >= 0
}

func (x *diskDrill) scrub(ctx context.Context, into **raid.ScrubResult) error {
	reply, err := x.srv.Scrub(ctx, true, -1)
	if err != nil {
		return fmt.Errorf("scrubbing: %w", err)
	}
	x.noticed(reply)
	if reply.Scrub != nil {
		*into = reply.Scrub.Scrub
	}
	return nil
}

func (x *diskDrill) awaitHealthy(ctx context.Context) error {
	for {
		reply, err := x.srv.Status()
		if err != nil {
			return err
		}
		x.noticed(reply)
		if reply.Status.State == "healthy" {
			return nil
		}
		if !sleep(ctx, 50*time.Millisecond) {
			return nil // the report says in which state it stayed
		}
	}
}

// corrupt is the drill corrupt-disk.
func (x *diskDrill) corrupt(ctx context.Context) error {
	files, err := columns(x.r.Disk)
	if err != nil {
		return err
	}
	x.strike("flipping %d bytes in the files of %s", x.o.Flips, x.r.Disk)
	for n := range x.o.Flips {
		flipped, err := flip(files[n%len(files)])
		if err != nil {
			return err
		}
		x.r.Flipped += flipped
	}
	if err := x.scrub(ctx, &x.r.First); err != nil {
		return err
	}
	if err := x.awaitHealthy(ctx); err != nil {
		return err
	}
	if x.r.State == "healthy" {
		x.r.RebuiltMs = time.Since(x.struck).Milliseconds()
	}
	sleep(ctx, x.o.After)
	return x.scrub(ctx, &x.r.Second)
}

// columns are the files of a member that hold data.
func columns(disk string) ([]string, error) {
	var files []string
	err := filepath.WalkDir(filepath.Join(disk, "data"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".col") {
			return err
		}
		if info, err := d.Info(); err == nil && info.Size() > 0 {
			files = append(files, path)
		}
		return nil
	})
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("%s holds no data yet", disk)
	}
	return files, err
}

// flip inverts a byte somewhere in a file, and reports 0 if the array has removed
// it meanwhile.
func flip(path string) (int, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() > 0 {
		at := rand.Int64N(info.Size())
		b := []byte{0}
		if _, err = f.ReadAt(b, at); err == nil {
			b[0] ^= 0xff
			_, err = f.WriteAt(b, at)
		}
	}
	return 1, errors.Join(err, f.Close())
}

// writes counts what became of the probe's writes.
func (x *diskDrill) writes() {
	p := x.p
	p.mu.Lock()
	defer p.mu.Unlock()
	x.r.Acknowledged, x.r.Refused = len(p.acked), p.refused
	last := x.struck
	for _, a := range p.acked {
		if a.at.After(x.struck) {
			x.r.LongestGapMs = max(x.r.LongestGapMs, a.at.Sub(last).Milliseconds())
			last = a.at
		}
	}
}

// count reads back every acknowledged key.
func (x *diskDrill) count(ctx context.Context) error {
	var r DrillReport
	if err := r.count(ctx, x.p); err != nil {
		return err
	}
	x.r.Lost, x.r.Duplicated, x.r.LostKeys = r.Lost, r.Duplicated, r.LostKeys
	return nil
}

// Print writes the report: the figures, then one verdict line.
func (r *DiskReport) Print(w io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	for _, e := range r.Events {
		fmt.Fprintf(w, "  %s  %s\n", ms(max(0, e.Time.Sub(r.struck).Milliseconds())), RaidEventLine(e))
	}
	fmt.Fprintf(w, "noticed after      %s\n", ms(r.NoticedMs))
	if r.Flipped > 0 {
		fmt.Fprintf(w, "bytes flipped      %d\n", r.Flipped)
	}
	for _, s := range []struct {
		name string
		r    *raid.ScrubResult
	}{{"first scrub", r.First}, {"second scrub", r.Second}} {
		if s.r != nil {
			fmt.Fprintf(w, "%-18s %s\n", s.name, scrubWords(s.r))
		}
	}
	fmt.Fprintf(w, "longest gap        %s between two acknowledged writes, %d refused\n", ms(r.LongestGapMs), r.Refused)
	fmt.Fprintf(w, "healthy after      %s\n", ms(r.RebuiltMs))
	fmt.Fprintf(w, "acknowledged       %d\n", r.Acknowledged)
	fmt.Fprintf(w, "lost               %d\n", r.Lost)
	words := map[Verdict]string{Healthy: "PASSED", Degraded: "LOST DATA", Down: "FAILED"}
	fmt.Fprintf(w, "%s: %s of member %d, noticed after %s, %d of %d acknowledged writes lost, the array is %s\n",
		words[r.Verdict()], r.Drill, r.Slot, ms(r.NoticedMs), r.Lost, r.Acknowledged, r.State)
	return nil
}
