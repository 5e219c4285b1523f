package ops

import (
	"fmt"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/sys/unix"
)

// Progress shows how far long work is: nothing for the first two seconds; then a
// bar with rate and remaining time on a terminal, and elsewhere a line now and
// then. The zero value shows nothing.
type Progress struct {
	w     *os.File
	label string
	began time.Time
	bar   *progressbar.ProgressBar
	next  time.Time // of the next line
	done  int64     // first figure seen: what an earlier run had done
	seen  bool
	stage string
}

const (
	progressAfter = 2 * time.Second
	progressEvery = 10 * time.Second // between lines that are no bar
)

// NewProgress shows progress on w, which is standard error as a rule.
func NewProgress(w *os.File, label string) *Progress {
	return &Progress{w: w, label: label, began: time.Now()}
}

// At says that done of total bytes are done.
func (p *Progress) At(stage string, done, total int64) {
	if p == nil || p.w == nil || total <= 0 {
		return
	}
	now := time.Now()
	if !p.seen || stage != p.stage {
		p.End()
		p.done, p.seen, p.stage = done, true, stage
		p.began = now
	}
	if now.Sub(p.began) < progressAfter {
		return
	}
	if terminal(p.w) {
		p.draw(done, total)
	} else if now.After(p.next) {
		p.next = now.Add(progressEvery)
		fmt.Fprintln(p.w, p.line(now, done, total))
	}
}

func (p *Progress) draw(done, total int64) {
	if p.bar == nil {
		p.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(p.w), progressbar.OptionShowBytes(true),
			progressbar.OptionSetDescription(p.name()), progressbar.OptionSetPredictTime(true), progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionSetWidth(30), progressbar.OptionClearOnFinish())
	}
	p.bar.ChangeMax64(max(total, done))
	_ = p.bar.Set64(done) // a terminal that cannot be written has nobody to be told
}

func (p *Progress) name() string {
	if p.stage == "" || p.stage == p.label {
		return p.label
	}
	return p.label + ": " + p.stage
}

// line is what is printed where there is no terminal.
func (p *Progress) line(now time.Time, done, total int64) string {
	rate := float64(done-p.done) / now.Sub(p.began).Seconds()
	s := fmt.Sprintf("%s: %s of %s", p.name(), sizeText(done), sizeText(total))
	if rate > 0 {
		eta := time.Duration(float64(total-done) / rate * float64(time.Second)).Round(time.Second)
		s += fmt.Sprintf(", %s/s, %s left", sizeText(int64(rate)), max(eta, 0))
	}
	return s
}

// End removes the bar.
func (p *Progress) End() {
	if p != nil && p.bar != nil {
		_ = p.bar.Clear()
		_ = p.bar.Close()
		p.bar = nil
	}
}

func terminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// sizeText writes a number of bytes for people: 1.5 GiB.
func sizeText(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n), -1
	for f >= 1024 && unit < 4 {
		f /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGTP"[unit])
}
