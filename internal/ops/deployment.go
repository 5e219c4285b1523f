// Package ops acts: it runs and watches whole deployments. `up` starts one on
// this machine as child processes of the same binary, `status` says how one
// is, and `drill` breaks one on purpose and measures what it costs.
package ops

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Deployment is a set of processes that `up` runs, as it stands in
// deployment.json in its directory.
type Deployment struct {
	Mode   string `json:"mode"` // single, sentinel, cluster
	Dir    string `json:"dir"`  // absolute
	Base   int    `json:"base_port"`
	Master string `json:"master_name,omitempty"`
	UpPid  int    `json:"up_pid"`
	// Every data server's journal lies on an array of this level over so many
	// directories in the server's own; no array if ArrayWidth is 0.
	ArrayLevel int       `json:"array_level,omitempty"`
	ArrayWidth int       `json:"array_members,omitempty"`
	Replicas   int       `json:"replicas,omitempty"` // cluster: of each master
	Members    []*Member `json:"members"`
}

// Member is one process.
type Member struct {
	Name string `json:"name"`
	Kind string `json:"kind"` // server, sentinel
	Port int    `json:"port"`
	Dir  string `json:"dir"`
	Pid  int    `json:"pid"`
}

const (
	kindServer   = "server"
	kindSentinel = "sentinel"
	masterName   = "mymaster"
	deployFile   = "deployment.json"
	// SentinelOffset is how far a Sentinel's port is above BASE.
	SentinelOffset = 20000
)

// Addr is where the member listens.
func (m *Member) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(m.Port)) }

func (m *Member) confPath() string {
	if m.Kind == kindSentinel {
		return filepath.Join(m.Dir, "sentinel.conf")
	}
	return filepath.Join(m.Dir, "redis.conf")
}

func (m *Member) logPath() string { return filepath.Join(m.Dir, "log") }

// disk is the directory that stands for the i-th disk of the member's array.
func (m *Member) disk(i int) string { return filepath.Join(m.Dir, "disk-"+strconv.Itoa(i)) }

// plan lays a new deployment out.
func plan(mode, dir string, base, replicas, sentinels int) *Deployment {
	d := &Deployment{Mode: mode, Dir: dir, Base: base}
	servers := 1
	if mode == "sentinel" {
		servers += replicas
		d.Master = masterName
	}
	for i := range servers {
		port := base + i
		name := "redis-" + strconv.Itoa(port)
		d.Members = append(d.Members, &Member{Name: name, Kind: kindServer, Port: port, Dir: filepath.Join(dir, name)})
	}
	for i := range sentinels {
		port := base + SentinelOffset + i
		name := "sentinel-" + strconv.Itoa(port)
		d.Members = append(d.Members, &Member{Name: name, Kind: kindSentinel, Port: port, Dir: filepath.Join(dir, name)})
	}
	return d
}

// ofKind returns the members of a kind.
func (d *Deployment) ofKind(kind string) (out []*Member) {
	for _, m := range d.Members {
		if m.Kind == kind {
			out = append(out, m)
		}
	}
	return out
}

func (d *Deployment) byPort(port int) *Member {
	for _, m := range d.Members {
		if m.Port == port {
			return m
		}
	}
	return nil
}

// LoadDeployment reads what `up` wrote in dir.
func LoadDeployment(dir string) (*Deployment, error) {
	b, err := os.ReadFile(filepath.Join(dir, deployFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no deployment in %s: start one with `holdfast up --dir %s`", dir, dir)
	}
	if err != nil {
		return nil, err
	}
	d := new(Deployment)
	if err := json.Unmarshal(b, d); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, deployFile), err)
	}
	return d, nil
}

// save writes the deployment's description, at once or not at all.
func (d *Deployment) save() error {
	b, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	return writeFileAtomic(filepath.Join(d.Dir, deployFile), append(b, '\n'))
}

func writeFileAtomic(path string, b []byte) error {
	temp := path + ".tmp"
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// configure writes the configuration files that are not there yet. Those that
// are there say more than we know: Sentinel rewrites them at every failover.
func (d *Deployment) configure() error {
	for i, m := range d.Members {
		if err := os.MkdirAll(m.Dir, 0o755); err != nil {
			return err
		}
		if _, err := os.Stat(m.confPath()); err == nil {
			continue
		}
		text := d.serverConf(m, i > 0 && d.Mode != modeCluster)
		if m.Kind == kindSentinel {
			text = d.sentinelConf(m)
		}
		if err := writeFileAtomic(m.confPath(), []byte(text)); err != nil {
			return err
		}
	}
	return nil
}

func (d *Deployment) serverConf(m *Member, replica bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "port %d\nbind 127.0.0.1\ndir %q\nlogfile \"log\"\nappendonly yes\n", m.Port, m.Dir)
	// Trying out must not wait for further replicas.
	fmt.Fprintf(&b, "repl-diskless-sync-delay 0\n")
	if d.ArrayWidth > 0 {
		fmt.Fprintf(&b, "array-level %d\narray-members", d.ArrayLevel)
		for i := range d.ArrayWidth {
			fmt.Fprintf(&b, " %q", m.disk(i))
		}
		b.WriteByte('\n')
	}
	if d.Mode == modeCluster {
		b.WriteString(clusterConf())
	}
	if replica {
		fmt.Fprintf(&b, "replicaof 127.0.0.1 %d\n", d.Base)
	}
	return b.String()
}

func (d *Deployment) sentinelConf(m *Member) string {
	quorum := len(d.ofKind(kindSentinel))/2 + 1
	var b strings.Builder
	fmt.Fprintf(&b, "port %d\nbind 127.0.0.1\ndir %q\nlogfile \"log\"\n", m.Port, m.Dir)
	fmt.Fprintf(&b, "sentinel monitor %s 127.0.0.1 %d %d\n", masterName, d.Base, quorum)
	fmt.Fprintf(&b, "sentinel down-after-milliseconds %s 1000\n", masterName)
	fmt.Fprintf(&b, "sentinel failover-timeout %s 10000\n", masterName)
	fmt.Fprintf(&b, "sentinel parallel-syncs %s 1\n", masterName)
	return b.String()
}

// arrayWords says what the data of each server lies on.
func (d *Deployment) arrayWords() string {
	if d.ArrayWidth == 0 {
		return "without disk arrays"
	}
	return fmt.Sprintf("with disk arrays of level %d over %d members", d.ArrayLevel, d.ArrayWidth)
}

// portsFree returns an error that names the first port in use and the flag
// that moves it.
func (d *Deployment) portsFree() error {
	for _, m := range d.Members {
		ln, err := net.Listen("tcp", m.Addr())
		if err != nil {
			return fmt.Errorf("port %d, for %s, is in use (%w); choose others with --port BASE (now %d; Sentinels are at BASE + %d)",
				m.Port, m.Name, err, d.Base, SentinelOffset)
		}
		if err := ln.Close(); err != nil {
			return err
		}
	}
	return nil
}
