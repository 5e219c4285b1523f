package ops

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"
)

// ClusterResult is what a verb of `cluster` did, and how the cluster is then.
type ClusterResult struct {
	Verb    string              `json:"verb"`
	Verdict Verdict             `json:"verdict"`
	Reason  string              `json:"reason"`
	Plan    []map[string]string `json:"plan,omitempty"`
	Slots   int                 `json:"slots_moved"`
	Keys    int64               `json:"keys_moved"`
	Bytes   int64               `json:"bytes_moved,omitempty"` // by streams
	// PausedMs is the longest that a stream had clients of its slots wait.
	PausedMs int64          `json:"paused_ms_max,omitempty"`
	Way      string         `json:"way,omitempty"` // stream, by key, or both
	TookMs   int64          `json:"took_ms"`
	Replies  []NodeReply    `json:"replies,omitempty"` // of call
	Cluster  *ClusterReport `json:"cluster,omitempty"`
}

// NodeReply is what one node answered to `call`.
type NodeReply struct {
	Addr  string `json:"addr"`
	Reply any    `json:"reply,omitempty"`
	Error string `json:"error,omitempty"`
}

// planTable is a plan as it is shown: what will be done, in order.
type planTable struct {
	title string
	head  []string
	rows  [][]string
}

func (t *planTable) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *planTable) write(w io.Writer) {
	if len(t.rows) == 0 {
		return
	}
	fmt.Fprintln(w, t.title)
	rows := make([][]string, len(t.rows))
	for i, r := range t.rows {
		for _, c := range r {
			rows[i] = append(rows[i], dash(c))
		}
	}
	writeTable(w, t.head, rows)
}

func (t *planTable) objects() []map[string]string {
	out := make([]map[string]string, 0, len(t.rows))
	for _, r := range t.rows {
		m := map[string]string{"plan": t.title}
		for i, h := range t.head {
			if r[i] != "" {
				m[strings.ToLower(h)] = r[i]
			}
		}
		out = append(out, m)
	}
	return out
}

func writeTable(w io.Writer, head []string, rows [][]string) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, strings.Join(head, "\t"))
	for _, r := range rows {
		fmt.Fprintln(tw, strings.Join(r, "\t"))
	}
	_ = tw.Flush() // an error of the terminal has nobody to be told
}

// WriteTable prints one row per node and the problems.
func (r *ClusterReport) WriteTable(w io.Writer) {
	var rows [][]string
	for _, n := range r.Nodes {
		slots, of := strconv.Itoa(n.Slots), strconv.Itoa(n.Replicas)
		if n.Role == "replica" {
			slots, of = "-", "of "+n.Master
		}
		rows = append(rows, []string{n.Addr, short(n.ID), n.Role, n.State, slots, dash(cutRanges(n.Ranges)), strconv.FormatInt(n.Keys, 10), of,
			strconv.FormatUint(n.Epoch, 10), dash(n.Memory)})
	}
	writeTable(w, []string{"ADDRESS", "ID", "ROLE", "STATE", "SLOTS", "RANGES", "KEYS", "REPLICAS", "EPOCH", "MEMORY"}, rows)
	for _, j := range r.Jobs {
		fmt.Fprintf(w, "  %-11s %s\n", "moving", j)
	}
	for _, p := range r.Problems {
		fmt.Fprintf(w, "  %-11s %s\n", p.Kind, p)
	}
}

// Print writes the result: tables for people, or one JSON object.
func (r *ClusterResult) Print(w io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	if r.Replies != nil {
		for _, x := range r.Replies {
			text := x.Error
			if text == "" {
				text = replyText(x.Reply, "")
			}
			if strings.Contains(text, "\n") {
				text = "\n" + text
			}
			fmt.Fprintf(w, "%s: %s\n", x.Addr, strings.TrimRight(text, "\n"))
		}
	} else if r.Cluster != nil {
		r.Cluster.WriteTable(w)
	}
	fmt.Fprintf(w, "%s: %s\n", strings.ToUpper(r.word()), r.Reason)
	return nil
}

// word names the verdict: of a state, or of a deed.
func (r *ClusterResult) word() string {
	switch r.Verb {
	case "check", "info":
		return r.Verdict.String()
	}
	return [...]string{"done", "partly done", "refused"}[r.Verdict]
}

func replyText(v any, indent string) string {
	switch x := v.(type) {
	case nil:
		return "(nil)"
	case []any:
		if len(x) == 0 {
			return "(empty array)"
		}
		var b strings.Builder
		for i, e := range x {
			fmt.Fprintf(&b, "%s%d) %s\n", indent, i+1, strings.TrimLeft(replyText(e, indent+"   "), " "))
		}
		return b.String()
	}
	return fmt.Sprint(v)
}

// say tells what goes on, unless only JSON is wanted.
func (a *clusterAdmin) say(format string, args ...any) {
	if !a.o.JSON {
		fmt.Fprintf(a.o.Out, format+"\n", args...)
	}
}

// errRefused is a plan that nobody agreed to.
type errRefused string

func (e errRefused) Error() string { return string(e) }

// propose shows a plan and asks, until ctx ends. It returns false when the plan
// was only to be shown.
func (a *clusterAdmin) propose(ctx context.Context, plans ...*planTable) (bool, error) {
	rows := 0
	for _, t := range plans {
		if t == nil {
			continue
		}
		rows += len(t.rows)
		a.res.Plan = append(a.res.Plan, t.objects()...)
		if !a.o.JSON {
			t.write(a.o.Out)
		}
	}
	switch {
	case rows == 0:
		return true, nil
	case a.o.DryRun:
		return false, nil
	case a.o.Yes:
		return true, nil
	case a.o.JSON || a.o.In == nil:
		return false, errRefused("nobody can be asked; say --yes to carry the plan out")
	}
	fmt.Fprint(a.o.Out, "Carry this out? (yes or no) ")
	line, typed := a.answer(ctx)
	if !typed || !terminal(a.o.In) {
		fmt.Fprintln(a.o.Out) // nobody's Enter has ended the line
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "yes", "y":
		return true, nil
	}
	switch {
	case ctx.Err() != nil:
		return false, errRefused("interrupted; nothing was changed")
	case !typed:
		return false, errRefused("no answer; say --yes to carry the plan out without being asked")
	}
	return false, errRefused("not agreed to; nothing was changed")
}

// answer is a line from whoever was asked. typed is false when there was none, or
// ctx ended first: the reader is then left behind, it cannot be interrupted.
func (a *clusterAdmin) answer(ctx context.Context) (line string, typed bool) {
	lines := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(a.o.In).ReadString('\n') // what came before an error counts
		lines <- line
	}()
	select {
	case line := <-lines:
		return line, line != ""
	case <-ctx.Done():
		return "", false
	}
}

// counter shows how much of a known number is done: a bar on a terminal, else a
// line every two seconds.
type counter struct {
	bar         *progressbar.ProgressBar
	w           io.Writer
	what, unit  string
	total, done int
	began, told time.Time
}

const tellEvery = 2 * time.Second

func (a *clusterAdmin) newCounter(what, unit string, total int) *counter {
	p := &counter{what: what, unit: unit, total: total, began: time.Now(), told: time.Now(), w: io.Discard}
	if a.o.JSON || total == 0 {
		return p
	}
	if !terminal(a.o.Out) {
		p.w = a.o.Out
		return p
	}
	p.bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(a.o.Out), progressbar.OptionSetDescription(what),
		progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString(unit),
		progressbar.OptionSetPredictTime(true), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(),
		progressbar.OptionSetWidth(30))
	return p
}

// step says that n more are done; note is shown behind the figures.
func (p *counter) step(n int, note string) {
	p.done += n
	if p.bar != nil {
		_ = p.bar.Add(n) // an error of the terminal has nobody to be told
		return
	}
	now := time.Now()
	if now.Sub(p.told) < tellEvery {
		return
	}
	p.told = now
	rate := float64(p.done) / now.Sub(p.began).Seconds()
	left := "?"
	if rate > 0 {
		left = time.Duration(float64(p.total-p.done) / rate * float64(time.Second)).Round(time.Second).String()
	}
	fmt.Fprintf(p.w, "%s: %d of %d %ss, %.0f/s, %s left%s\n", p.what, p.done, p.total, p.unit, rate, left, note)
}

func (p *counter) end() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}
