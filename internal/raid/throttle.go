package raid

import (
	"context"
	"time"
)

// throttle bounds the bytes per second of background work. It sleeps rather than
// spin, in steps that a foreground request does not notice, and never owes more
// than a second's worth.
type throttle struct {
	rate int64 // bytes per second; <= 0: unlimited
	now  func() time.Time
	free time.Time // when the bytes taken so far are paid for
}

func newThrottle(rate int64, now func() time.Time) *throttle {
	return &throttle{rate: rate, now: now}
}

// owe returns how long to wait before n more bytes may be read.
func (t *throttle) owe(n int64) time.Duration {
	if t.rate <= 0 || n <= 0 {
		return 0
	}
	now := t.now()
	if t.free.Before(now) {
		t.free = now
	}
	// In float: n times a second in ns does not overflow, and no bound is exact.
	t.free = t.free.Add(time.Duration(float64(n) / float64(t.rate) * float64(time.Second)))
	return t.free.Sub(now)
}

// take waits until n more bytes may be read, or ctx is done.
func (t *throttle) take(ctx context.Context, n int64) error {
	wait := t.owe(n)
	if wait <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
