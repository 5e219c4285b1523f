package sentineld

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"holdfast/internal/redis/config"
	"holdfast/internal/redis/process"
	"holdfast/internal/redis/sentinel"
)

// store keeps the state: in sentinel.conf, as Redis does, or, when that
// cannot be written, in two generations beside the data.
//
// A state file is
//
//	holdfast-sentinel-state 1 generation=7 operator=9ae0daaf length=412 crc32c=f3c2a1b0
//	sentinel myid ...
//	...
//
// operator is the checksum of sentinel.conf as it was then; length and crc32c
// are those of what follows the first line. The valid file of the higher
// generation counts; each save overwrites the other one, so that a power cut
// in the middle leaves the previous state.
type store struct {
	base *config.Config
	log  *process.Logger

	generation uint64 // of the newest state file
	operator   uint32 // checksum of sentinel.conf
	warned     bool
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func newStore(base *config.Config, log *process.Logger) *store { return &store{base: base, log: log} }

func (st *store) statePath(gen uint64) string {
	return filepath.Join(st.base.Dir, fmt.Sprintf("sentinel-state.%d", gen%2))
}

// processedOptions are all directives that the state is written as: old lines
// of them that are not used again must go.
var processedOptions = []string{
	"monitor", "down-after-milliseconds", "failover-timeout", "parallel-syncs", "notification-script",
	"client-reconfig-script", "auth-pass", "auth-user", "config-epoch", "leader-epoch", "known-slave",
	"known-replica", "known-sentinel", "rename-command", "master-reboot-down-after-period", "myid",
	"current-epoch", "announce-ip", "announce-port", "sentinel-user", "sentinel-pass",
	"deny-scripts-reconfig", "resolve-hostnames", "announce-hostnames",
}

// save makes cfg durable, in one place or the other. The error is logged.
func (st *store) save(cfg *sentinel.Config) error {
	err := st.saveFile(cfg)
	if err == nil {
		st.log.Notice("Sentinel new configuration saved on disk")
		return nil
	}
	if !st.warned {
		st.warned = true
		st.log.Warning("Sentinel config file %s is not writable: %v. State is kept in %s until it is",
			st.base.File, err, filepath.Join(st.base.Dir, "sentinel-state.*"))
	}
	if serr := st.saveState(cfg); serr != nil {
		err = errors.Join(err, serr)
		st.log.Warning("WARNING: Sentinel was not able to save the new configuration on disk!!!: %v", err)
		return err
	}
	return nil
}

// saveFile rewrites sentinel.conf: a new file, synced, renamed over the old
// one, and the directory synced.
func (st *store) saveFile(cfg *sentinel.Config) error {
	path := st.base.File
	mode := fs.FileMode(0o644)
	old, err := os.ReadFile(path)
	switch {
	case err == nil:
		fi, err := os.Stat(path)
		if err != nil {
			return err
		}
		mode = fi.Mode().Perm()
		if mode&0o222 == 0 { // the operator means it, even where root could
			return fs.ErrPermission
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	st.base.RewriteSentinel = func(line func(option, text string), processed func(option string)) {
		for _, l := range cfg.Lines() {
			if !l.Default || mentions(old, l.Option) {
				line(l.Option, l.Text)
			}
		}
		for _, o := range processedOptions {
			processed("sentinel " + o)
		}
	}
	text := st.base.RewriteText(old)
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // replace what a link points to, not the link
	}
	if err := writeAtomically(path, text, mode); err != nil {
		return err
	}
	return st.dropState()
}

// mentions reports whether a file has a line of an option, "sentinel myid" for
// example.
func mentions(file []byte, option string) bool {
	for line := range strings.Lines(string(file)) {
		args, err := config.SplitArgs(strings.TrimSpace(line))
		if err == nil && len(args) > 1 && strings.EqualFold(args[0]+" "+args[1], option) {
			return true
		}
	}
	return false
}

// dropState removes state files once sentinel.conf has everything: an old
// state must not win over it later.
func (st *store) dropState() error {
	removed := false
	for gen := uint64(0); gen < 2; gen++ {
		err := os.Remove(st.statePath(gen))
		if err == nil {
			removed = true
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if removed {
		return syncDir(st.base.Dir)
	}
	return nil
}

func writeAtomically(path string, text []byte, mode fs.FileMode) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	name := f.Name()
	err = writeAndSync(f, text, mode)
	if err == nil {
		err = os.Rename(name, path)
	}
	if err != nil {
		_ = os.Remove(name) // the first error is the one to report
		return err
	}
	return syncDir(dir)
}

func writeAndSync(f *os.File, text []byte, mode fs.FileMode) error {
	_, err := f.Write(text)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// saveState writes the next generation over the older of the two files.
func (st *store) saveState(cfg *sentinel.Config) error {
	var body bytes.Buffer
	for _, l := range cfg.Lines() {
		if !l.Default {
			body.WriteString(l.Text)
			body.WriteByte('\n')
		}
	}
	gen := st.generation + 1
	head := fmt.Sprintf("holdfast-sentinel-state 1 generation=%d operator=%08x length=%d crc32c=%08x\n",
		gen, st.operator, body.Len(), crc32.Checksum(body.Bytes(), castagnoli))
	if err := writeAtomically(st.statePath(gen), append([]byte(head), body.Bytes()...), 0o600); err != nil {
		return fmt.Errorf("state generation %d: %w", gen, err)
	}
	st.generation = gen
	return nil
}

// parseState reads a state file; ok is false when it is damaged.
func parseState(data []byte) (gen uint64, operator uint32, cfg *sentinel.Config, ok bool) {
	head, body, found := bytes.Cut(data, []byte("\n"))
	if !found {
		return 0, 0, nil, false
	}
	var length int
	var sum uint32
	n, err := fmt.Sscanf(string(head), "holdfast-sentinel-state 1 generation=%d operator=%x length=%d crc32c=%x",
		&gen, &operator, &length, &sum)
	if err != nil || n != 4 || length != len(body) || crc32.Checksum(body, castagnoli) != sum {
		return 0, 0, nil, false
	}
	cfg = sentinel.NewConfig()
	lines := strings.Split(strings.TrimSuffix(string(body), "\n"), "\n")
	for phase := 0; phase <= 2; phase++ {
		for _, l := range lines {
			args, err := config.SplitArgs(l)
			if err != nil || len(args) < 2 {
				return 0, 0, nil, false
			}
			if sentinel.LoadPhase(args[1:]) != phase {
				continue
			}
			if err := cfg.Apply(args[1:], nil); err != nil {
				return 0, 0, nil, false
			}
		}
	}
	return gen, operator, cfg, true
}

// restore merges what state files say into the configuration that was read
// from sentinel.conf. Damaged generations are reported; when both are, the
// start is refused: a forgotten vote would be worse.
func (st *store) restore(file *sentinel.Config) (*sentinel.Config, error) {
	text, err := os.ReadFile(st.base.File)
	if err != nil {
		return nil, &config.OpenError{Path: st.base.File, Err: err}
	}
	st.operator = crc32.Checksum(text, castagnoli)
	var best *sentinel.Config
	var operator uint32
	damaged := 0
	for g := uint64(0); g < 2; g++ {
		data, err := os.ReadFile(st.statePath(g))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the Sentinel state: %w", err)
		}
		gen, op, cfg, ok := parseState(data)
		if !ok {
			damaged++
			st.log.Warning("Sentinel state file %s is damaged and not used", st.statePath(g))
			continue
		}
		if best == nil || gen > st.generation {
			best, operator, st.generation = cfg, op, gen
		}
	}
	if best == nil {
		if damaged > 0 {
			return nil, fmt.Errorf("no generation of the Sentinel state in %s is whole; "+
				"remove sentinel-state.* only if this Sentinel may forget its votes", st.base.Dir)
		}
		return file, nil
	}
	st.log.Notice("Sentinel state restored from %s, generation %s", st.statePath(st.generation),
		strconv.FormatUint(st.generation, 10))
	if operator == st.operator {
		return best, nil
	}
	return mergeState(file, best), nil
}

// mergeState is for a sentinel.conf that the operator has changed since: its
// settings and its choice of masters count, what was learned stays.
func mergeState(file, learned *sentinel.Config) *sentinel.Config {
	out := file.Clone()
	out.MyID = learned.MyID
	out.CurrentEpoch = max(out.CurrentEpoch, learned.CurrentEpoch)
	for i := range out.Masters {
		m := &out.Masters[i]
		l := learned.Master(m.Name)
		if l == nil {
			continue
		}
		m.LeaderEpoch = max(m.LeaderEpoch, l.LeaderEpoch)
		if l.ConfigEpoch >= m.ConfigEpoch {
			m.Host, m.IP, m.Port, m.ConfigEpoch = l.Host, l.IP, l.Port, l.ConfigEpoch
			m.Replicas, m.Sentinels = l.Replicas, l.Sentinels
		}
	}
	return out
}
