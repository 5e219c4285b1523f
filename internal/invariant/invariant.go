// Package invariant is the one place that panics on purpose: a broken
// invariant is a bug of ours, never bad input or a failing disk, and the
// process must not go on with it. The message carries all the numbers, so that
// a crash log is enough to begin with.
package invariant

import "fmt"

// Check panics with the formatted message when ok is false. The arguments are
// evaluated by the caller in any case: keep them cheap on hot paths, or guard
// the call by the condition itself and use Violated.
func Check(ok bool, format string, args ...any) {
	if !ok {
		Violated(format, args...)
	}
}

// Violated panics: the condition that the message names does not hold.
func Violated(format string, args ...any) {
	panic("invariant violated: " + fmt.Sprintf(format, args...) +
		" (this is a bug in holdfast; the data on disk is as the last acknowledged write left it)")
}
