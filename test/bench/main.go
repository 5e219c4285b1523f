// Command bench acts: it measures Holdfast beside genuine redis-server 7.0, in
// the same run, in alternating pairs, and prints medians as a table with the
// goals.
//
//	go run ./test/bench                          every row, five pairs
//	go run ./test/bench -only 'SET.*always'      the rows that match
//	go run ./test/bench -quick -pairs 1          smaller counts, to see that it works
//
// Load comes from redis-benchmark where that can make it, else from load.go.
// On a shared machine throughput is noisy; processor time per operation, which
// is that of the server process alone, is the figure to trust. A ratio is the
// median of the ratios of the pairs.
//
// Reading order: main.go (rows and table), env.go (servers), speed.go, array.go, size.go
// (memory), persist.go (start-up, checkpoints, full synchronisation), cluster.go
// (what cluster mode costs), idle.go (nodes that only talk to each other), move.go
// (slots that move).
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// goal is what a figure is held against; the zero value is none.
type goal struct {
	atLeast, atMost float64
	absolute        bool // against our value, not against the ratio
}

func (g goal) String() string {
	switch {
	case g.atLeast > 0:
		return fmt.Sprintf(">= %.2f", g.atLeast)
	case g.atMost > 0 && g.absolute:
		return fmt.Sprintf("<= %g abs", g.atMost)
	case g.atMost > 0:
		return fmt.Sprintf("<= %.2f", g.atMost)
	}
	return ""
}

// figure is one measured quantity of a row.
type figure struct {
	Name  string   `json:"name"`
	Unit  string   `json:"unit"`
	Ours  float64  `json:"ours"`
	Redis *float64 `json:"redis,omitempty"` // absent where there is nothing to compare with
	Ratio float64  `json:"ratio,omitempty"`
	Goal  string   `json:"goal,omitempty"`
	Met   bool     `json:"met"` // true without a goal
	Runs  int      `json:"runs"`
}

// samples are the values of one figure, pair by pair.
type samples struct {
	name, unit  string
	goal        goal
	ours, redis []float64
}

func (s *samples) figure() figure {
	f := figure{Name: s.name, Unit: s.unit, Ours: median(s.ours), Goal: s.goal.String(), Met: true, Runs: len(s.ours)}
	if len(s.redis) > 0 {
		m := median(s.redis)
		f.Redis = &m
	}
	var ratios []float64
	for i := range min(len(s.ours), len(s.redis)) {
		if s.redis[i] > 0 {
			ratios = append(ratios, s.ours[i]/s.redis[i])
		}
	}
	f.Ratio = median(ratios)
	held := f.Ratio
	if s.goal.absolute {
		held = f.Ours
	}
	if s.goal.atLeast > 0 {
		f.Met = held >= s.goal.atLeast
	}
	if s.goal.atMost > 0 {
		f.Met = held <= s.goal.atMost
	}
	return f
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// row is a line of the tables.
type row struct {
	name string
	run  func(*env) ([]*samples, error)
}

// result is a row that was run.
type result struct {
	Workload string   `json:"workload"`
	Figures  []figure `json:"figures"`
	Error    string   `json:"error,omitempty"`
}

// report is what -json prints.
type report struct {
	Date    string   `json:"date"`
	Machine machine  `json:"machine"`
	Pairs   int      `json:"pairs"`
	Quick   bool     `json:"quick"`
	Results []result `json:"results"`
}

func main() { os.Exit(run()) }

func run() int {
	only := flag.String("only", "", "run the rows whose name matches this regular expression")
	pairs := flag.Int("pairs", 5, "alternating pairs of each row")
	quick := flag.Bool("quick", false, "smaller counts: the figures are rough")
	asJSON := flag.Bool("json", false, "print JSON")
	list := flag.Bool("list", false, "print the names of the rows")
	idle := flag.Int("idle-nodes", idleMembers, "nodes of a kind in the row \"idle nodes\"")
	binary := flag.String("binary", os.Getenv("HOLDFAST_BENCH_BINARY"), "the holdfast to measure; default: built from here")
	flag.Parse()
	match, err := regexp.Compile(*only)
	if err != nil || *pairs < 1 {
		fmt.Fprintln(os.Stderr, "bench: bad -only or -pairs:", err)
		return 2
	}
	rows := slices.DeleteFunc(slices.Concat(speedRows(), arrayRows(), sizeRows(), persistRows(), clusterRows(), moveRows()), func(r row) bool { return !match.MatchString(r.name) })
	if *list {
		for _, r := range rows {
			fmt.Println(r.name)
		}
		return 0
	}
	e, err := newEnv(*binary, *pairs, *quick)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 2
	}
	defer e.close()
	e.idleNodes = *idle
	rep := report{Date: time.Now().Format("2006-01-02 15:04 MST"), Machine: thisMachine(), Pairs: *pairs, Quick: *quick}
	for i, r := range rows {
		fmt.Fprintf(os.Stderr, "[%d/%d] %s\n", i+1, len(rows), r.name)
		rep.Results = append(rep.Results, e.runRow(r))
	}
	if *asJSON {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(rep)
	} else {
		err = rep.table()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 2
	}
	if slices.ContainsFunc(rep.Results, func(r result) bool { return r.Error != "" }) {
		return 1
	}
	return 0
}

func (e *env) runRow(r row) (res result) {
	res.Workload = r.name
	all, err := r.run(e)
	e.stopAll()
	if err != nil {
		res.Error = err.Error()
		fmt.Fprintln(os.Stderr, "  failed:", firstLine(res.Error))
		return res
	}
	for _, s := range all {
		res.Figures = append(res.Figures, s.figure())
	}
	return res
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

func (r *report) table() error {
	fmt.Printf("%s; %s, %d cores, %d GiB; Linux %s; %s; %s\n", r.Date, r.Machine.CPU, r.Machine.Cores, r.Machine.MemoryGiB, r.Machine.Kernel, r.Machine.Go, r.Machine.Redis)
	fmt.Printf("%d alternating pairs, medians", r.Pairs)
	if r.Quick {
		fmt.Print("; quick: the figures are rough")
	}
	fmt.Print("\n\n")
	w := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "workload\tfigure\tours\tredis\tunit\tratio\tgoal\t")
	for _, res := range r.Results {
		if res.Error != "" {
			fmt.Fprintf(w, "%s\tnot measured: %s\n", res.Workload, firstLine(res.Error))
		}
		for i, f := range res.Figures {
			name := res.Workload
			if i > 0 {
				name = ""
			}
			verdict := ""
			if f.Goal != "" {
				verdict = "met"
				if !f.Met {
					verdict = "MISSED"
				}
			}
			theirs := "-"
			if f.Redis != nil {
				theirs = number(*f.Redis)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", name, f.Name, number(f.Ours), theirs, f.Unit, ratio(f.Ratio), f.Goal, verdict)
		}
	}
	return w.Flush()
}

func ratio(v float64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", v)
}

func number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v >= 1000:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// machine is what the figures were measured on.
type machine struct {
	CPU       string `json:"cpu"`
	Cores     int    `json:"cores"`
	MemoryGiB int    `json:"memory_gib"`
	Kernel    string `json:"kernel"`
	Go        string `json:"go"`
	Redis     string `json:"redis"`
}

func thisMachine() machine {
	m := machine{CPU: "unknown processor", Cores: runtime.NumCPU(), Go: runtime.Version()}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
				m.CPU = strings.TrimSpace(v)
				break
			}
		}
	}
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		var kb int
		if _, err := fmt.Sscanf(string(b), "MemTotal: %d kB", &kb); err == nil {
			m.MemoryGiB = (kb + 1<<19) >> 20
		}
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(b))
	}
	if b, err := exec.Command("redis-server", "--version").Output(); err == nil {
		if f := strings.Fields(string(b)); len(f) > 2 {
			m.Redis = "redis " + strings.TrimPrefix(f[2], "v=")
		}
	}
	return m
}

// findPrograms says where ours and the genuine ones are.
func findPrograms(binary, tmp string) (ours string, err error) {
	for _, p := range []string{"redis-server", "redis-benchmark"} {
		if _, err := exec.LookPath(p); err != nil {
			return "", fmt.Errorf("%s is needed (Debian packages redis-server and redis-tools): %w", p, err)
		}
	}
	if out, err := exec.Command("redis-server", "--version").Output(); err != nil || !strings.Contains(string(out), " v=7.0.") {
		return "", errors.Join(fmt.Errorf("redis-server is not version 7.0: %s", strings.TrimSpace(string(out))), err)
	}
	if binary != "" {
		return filepath.Abs(binary)
	}
	ours = filepath.Join(tmp, "holdfast")
	if out, err := exec.Command("go", "build", "-o", ours, "holdfast/cmd/holdfast").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./cmd/holdfast: %w\n%s", err, out)
	}
	return ours, nil
}
