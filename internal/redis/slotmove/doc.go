// Package slotmove decides how hash slots move between two masters that both
// are Holdfast: as one stream of snapshot and changes, with one change of owner
// at its end, and so that neither a crash nor a partition leaves anything behind
// that somebody has to mend. It is pure: inputs in, effects out, no clock, no
// socket, no file. The shell is internal/redis/server/slotmove.go; the decision and
// its alternatives are in docs/decisions/2026-11-21-slot-moves.md.
//
// A move is a job. Its target drives it, its source has the last word:
//
//	target                                   source
//	mark IMPORT
//	FEED job slots            ──────────────▶ snapshot of the slots, then every change
//	stage what comes          ◀──────────────
//	                                          close behind: hold writes, send the rest
//	                          ◀────────────── DRAINED
//	mark READY, on disk and at all replicas
//	PREPARED                  ──────────────▶ mark GIVEN, on disk and at all replicas
//	                          ◀────────────── COMMIT
//	claim the slots, mark DONE
//	                          ── cluster bus ▶ drop the keys, mark DONE
//
// GIVEN is the point of no return: before it the source goes on as if nothing
// had been, and what the target has staged is dropped; behind it the source
// serves these slots no more. A target that is READY and hears no COMMIT asks
// who owns the slots now, since only a source knows whether it has given them. It
// is two-phase commit with the source as its coordinator and presumed abort;
// what makes it not block for long is that both ends are replicated: marks are
// records of the journal and of the replication stream, so that whoever is
// promoted goes on where the failed node was.
//
//	mark.go   marks, and the table that they build
//	core.go   inputs, effects, the target's side
//	give.go   the source's side
package slotmove
